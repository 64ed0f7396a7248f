"""The multi-Gaussian expansion: a sum of Gaussians about one centre, of one shape.

    I(R) = sum_j flux_j / (2 pi q sigma_j^2) exp(-R^2 / (2 sigma_j^2))

(Emsellem, Monnet & Bacon 1994, A&A 285, 723; Cappellari 2002, MNRAS 333, 400, equation 1.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprof.grid import per_pixel
from bayesprof.image import Image
from bayesprof.light import Profile, as_tensors
from bayesprof.lookup import cubics_through, interpolate
from bayesprof.measurement import Measurement
from bayesprof.models.component import Axis, Component, Default, Parameter, catalogued, number
from bayesprof.models.galaxy import elliptical

# The transform is tabulated in t = ln(1 + (kappa / kappa_0)^2) / 2, with kappa_0 in units of 1 / the largest sigma,
# as far as a Gaussian 50,000 times narrower reaches; the cubics are good to step^4 / 22, 2e-8 of the flux.
_KAPPA_0, _STEP, _NODES = 0.5, 0.025, 561

# Default widths, in measured half-light radii: from the first to the last in equal ratios.
_NARROWEST, _WIDEST = 0.15, 4.0


class MultiGaussian(Profile):
    """Light of several Gaussians with one centre and one shape.

    Parameters
    ----------
    x, y : centre, pixels.
    fluxes : total light of each, image units, of shape ``(..., Gaussians)``, >= 0 and not all of them 0.
    sigmas : standard deviation of each along the major axis, pixels, > 0, of shape ``(..., Gaussians)``.
    q, theta : axis ratio in (0, 1] and angle of the major axis, radians; or
    ellipticity : the vector (e1, e2) of shape (..., 2). Conventions: :mod:`bayesprof.grid`.

    Raises
    ------
    ValueError
        Where `fluxes` and `sigmas` aren't as many.

    Examples
    --------
    >>> from bayesprof import models
    >>> galaxy = models.MultiGaussian(30.0, 40.0, [50.0, 30.0, 20.0], [1.0, 2.5, 6.0], q=0.7, theta=0.3)
    """

    stackable = True
    smooth = True

    def __init__(
        self,
        x: Any,
        y: Any,
        fluxes: Any,
        sigmas: Any,
        *,
        q: Any = None,
        theta: Any = None,
        ellipticity: Any = None,
    ) -> None:
        x, y, fluxes, sigmas = as_tensors(x, y, fluxes, sigmas)
        if fluxes.ndim == 0 or sigmas.ndim == 0 or fluxes.shape[-1] != sigmas.shape[-1]:
            raise ValueError(
                "MultiGaussian: expected fluxes and sigmas of as many Gaussians, got shapes "
                f"{tuple(fluxes.shape)} and {tuple(sigmas.shape)}; give one of each for every Gaussian"
            )
        super().__init__(x, y, fluxes.sum(-1), torch.ones_like(x), q=q, theta=theta, ellipticity=ellipticity)
        self.fluxes, self.sigmas = fluxes, sigmas

    def transform(self, wavenumber_squared: Tensor) -> Tensor:
        # on nodes in units of the widest Gaussian, whose number doesn't grow with that of the planes
        sigmas, fluxes = self.sigmas.to(torch.float64), self.fluxes.to(torch.float64)
        widest = sigmas.detach().amax(-1)
        fractions = (fluxes / fluxes.sum(-1)[..., None])[..., None]
        rates = -0.5 * _KAPPA_0**2 * ((sigmas / widest[..., None]) ** 2)[..., None]
        growth = torch.exp(2 * _STEP * torch.arange(_NODES, dtype=torch.float64, device=sigmas.device))
        terms = fractions * torch.exp(rates * (growth - 1))
        slopes = (terms * rates).sum(-2) * (2 * growth)
        cubics = cubics_through(terms.sum(-2), slopes, _STEP).to(wavenumber_squared.dtype)
        square = wavenumber_squared * per_pixel((widest / _KAPPA_0) ** 2).to(wavenumber_squared.dtype)
        return interpolate(cubics, _STEP, 0.5 * torch.log1p(square))

    def brightness(self, radius_squared: Tensor) -> Tensor:
        variances = self.sigmas**2
        peaks = self.fluxes / (2 * math.pi * variances * self.flux[..., None])
        terms = zip(peaks.unbind(-1), (-0.5 / variances).unbind(-1), strict=True)
        return _sum(per_pixel(one) * torch.exp(radius_squared * per_pixel(rate)) for one, rate in terms)


@catalogued
def multi_gaussian(
    *,
    x: Any = None,
    y: Any = None,
    fluxes: Any = None,
    sigmas: Any = None,
    count: int = 6,
    ellipticity: Any = None,
    q: Any = None,
    theta: Any = None,
) -> Component:
    """A galaxy as a multi-Gaussian expansion, :class:`MultiGaussian`, of `count` Gaussians.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is the
    default of :mod:`bayesprof.models.galaxy`, and for those of its own

    - `fluxes`: each LogNormal(ln measured flux / count, 2),
    - `sigmas` are held: from 0.15 to 4 measured half-light radii, in equal ratios.

    Giving `q` or `theta` takes the place of `ellipticity`.

    Raises
    ------
    ValueError
        For a `count` below 1.

    Examples
    --------
    >>> from bayesprof import models
    >>> galaxy = models.multi_gaussian(sigmas=[0.5, 1.2, 3.0, 7.0], count=4)
    """
    if count < 1:
        raise ValueError(f"multi_gaussian: expected count to be 1 or more, got {count}; say how many Gaussians")
    axes = (Axis("gaussian", tuple(range(count))),)
    own = {
        "fluxes": Parameter("{flux}", "> 0 each", _all_positive, _fluxes(count), axes),
        "sigmas": Parameter("pixel", "> 0 each", _all_positive, _sigmas(count), axes),
    }
    given = {
        "x": x, "y": y, "fluxes": fluxes, "sigmas": sigmas, "ellipticity": ellipticity, "q": q, "theta": theta,
    }  # fmt: skip
    return elliptical("multi_gaussian", MultiGaussian, own, **given)


def _sum(terms: Any) -> Tensor:
    first, *others = terms
    for term in others:
        first = first + term
    return first


def _all_positive(values: Tensor) -> bool:
    return bool(((values > 0) & values.isfinite()).all())


def _fluxes(count: int) -> Any:
    def default(found: Measurement, image: Image) -> Default:
        median = found.flux / count
        prior = dist.LogNormal(torch.log(number(median, image)).expand(count), number(2.0, image)).to_event(1)
        formula = f"LogNormal(ln {median:.4g}, 2) each: measured flux over the number of Gaussians"
        return Default(prior, torch.full((count,), median), formula)

    return default


def _sigmas(count: int) -> Any:
    def default(found: Measurement, image: Image) -> Default:
        widths: Sequence[float] = (found.r_eff * np.geomspace(_NARROWEST, _WIDEST, count)).tolist()
        held = torch.tensor(widths, dtype=image.dtype, device=image.device)
        return Default(held, None, f"held, from {widths[0]:.3g} to {widths[-1]:.3g} in equal ratios")

    return default
