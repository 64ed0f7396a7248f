"""The modified Ferrer profile: nearly flat inside, with an end.

    I(R) = I_0 (1 - (R / r_out)^(2 - beta))^alpha

and 0 beyond r_out (Peng et al. 2010, AJ 139, 2097, section 3.1.4; Laurikainen et al. 2005, MNRAS 362, 1319). It
describes bars and lenses.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bayesprof.hankel import map_with_an_edge
from bayesprof.light import as_tensors
from bayesprof.models.component import Component, catalogued
from bayesprof.models.galaxy import FLUX, affine_beta, elliptical, exponent, size
from bayesprof.radial import RadialProfile

BETA_RANGE = (-2.0, 1.9)
"""Exponents of the centre that are taken; outside, the profile is that of the nearer end."""


class Ferrer(RadialProfile):
    """Light of a modified Ferrer profile.

    Parameters
    ----------
    x, y : centre, pixels.
    flux : total light, image units.
    r_out : radius at which the light ends, along the major axis, pixels, > 0.
    alpha : how it ends, > 0: abruptly for small values.
    beta : slope of the centre, in [-2, 1.9]; 0 for a flat one. Beyond, the profile stays that of the nearer end.
    q, theta : axis ratio in (0, 1] and angle of the major axis, radians; or
    ellipticity : the vector (e1, e2) of shape (..., 2). Conventions: :mod:`bayesprof.grid`.

    Without a PSF the integral over a pixel has 2x2 points, too few for the edge: with r_out of 9 pixels and q of 0.6
    the image is good to 2e-4 (relative L2) where alpha is 2, 3e-3 where it is 1 and 1e-2 where it is 0.5. More exact
    ones need finer pixels, or a PSF.

    Examples
    --------
    >>> from bayesprof import models
    >>> bar = models.Ferrer(30.0, 40.0, 100.0, 12.0, 1.5, 0.2, q=0.3, theta=0.3)
    """

    hankel = staticmethod(map_with_an_edge)

    def __init__(
        self,
        x: Any,
        y: Any,
        flux: Any,
        r_out: Any,
        alpha: Any,
        beta: Any,
        *,
        q: Any = None,
        theta: Any = None,
        ellipticity: Any = None,
    ) -> None:
        x, y, flux, r_out, alpha, beta = as_tensors(x, y, flux, r_out, alpha, beta)
        super().__init__(x, y, flux, r_out, q=q, theta=theta, ellipticity=ellipticity)
        self.alpha, self.beta = alpha, beta.clamp(*BETA_RANGE)

    @property
    def shape(self) -> tuple[Tensor, ...]:
        return self.alpha, self.beta

    @staticmethod
    def formula(radius: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:  # type: ignore[override]
        inside = radius < 1
        from_edge = -torch.expm1((2 - beta) * torch.log(torch.where(inside, radius, 0.5)))
        return torch.where(inside, alpha * torch.log(from_edge), -math.inf)


@catalogued
def ferrer(
    *,
    x: Any = None,
    y: Any = None,
    flux: Any = None,
    r_out: Any = None,
    alpha: Any = None,
    beta: Any = None,
    ellipticity: Any = None,
    q: Any = None,
    theta: Any = None,
) -> Component:
    """A bar or a lens with a modified Ferrer profile, :class:`Ferrer`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is the
    default of :mod:`bayesprof.models.galaxy`, and LogNormal(ln 2.5 measured half-light radii, 1) for `r_out`,
    LogNormal(ln 1.5, 0.5) for `alpha`, -2 + 3.9 Beta(4, 3) for `beta`, which has mean 0.23 and standard deviation
    0.68. Giving `q` or `theta` takes the place of `ellipticity`.

    Examples
    --------
    >>> from bayesprof import models
    >>> bar = models.ferrer(beta=0.0)
    """
    given = {
        "x": x, "y": y, "flux": flux, "r_out": r_out, "alpha": alpha, "beta": beta,
        "ellipticity": ellipticity, "q": q, "theta": theta,
    }  # fmt: skip
    return elliptical("ferrer", Ferrer, {**FLUX, **_OWN}, **given)


_OWN = {
    "r_out": size(2.5, "2.5 measured half-light radii"),
    "alpha": exponent(0.05, 20.0, 1.5, 0.5),
    "beta": affine_beta(*BETA_RANGE, 4.0, 3.0, 0.2),
}
