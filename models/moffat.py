"""The Moffat profile.

I(R) = flux (beta - 1) / (pi q alpha^2) (1 + R^2 / alpha^2)^(-beta),    r_eff = alpha sqrt(2^(1 / (beta - 1)) - 1)

(Moffat 1969, A&A 3, 455.) Its Fourier transform, with nu = beta - 1 and z = kappa alpha, is

F(kappa) = 2 (z / 2)^nu K_nu(z) / Gamma(nu)

with K the modified Bessel function of the second kind (Trujillo et al. 2001, MNRAS 328, 977, for the profile).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.special import gammaln, kve
from torch import Tensor

from bayesprof.grid import per_pixel
from bayesprof.image import Image
from bayesprof.light import Profile, as_tensors
from bayesprof.lookup import Table, look_up, tabulate
from bayesprof.measurement import Measurement
from bayesprof.models.component import Component, Default, Parameter, catalogued, scaled_beta
from bayesprof.models.galaxy import galaxy

BETA_RANGE = (1.2, 30.0)
"""Exponents for which the transform is tabulated; outside, the profile is that of the nearer end."""

# The table runs in t = ln(1 + (kappa / KAPPA_0)^2), with kappa in units of 1 / r_eff, and in ln(beta - 1).
_KAPPA_0 = 1e-4
_KAPPA_MAX = 1e5
_INTERVALS = 512
_DEGREE = 27


class Moffat(Profile):
    """Light of a Moffat profile.

    Parameters
    ----------
    x, y : centre, pixels.
    flux : total light, image units.
    r_eff : half-light radius along the major axis, pixels, > 0.
    beta : exponent in [1.2, 30]; beyond, the profile stays that of the nearer end. The total light of a profile with
        beta <= 1 is infinite.
    q, theta : axis ratio in (0, 1] and angle of the major axis, radians; or
    ellipticity : the vector (e1, e2) of shape (..., 2). Conventions: :mod:`bayesprof.grid`.

    The full width at half maximum is ``2 alpha sqrt(2^(1/beta) - 1)``, alpha as in the module's docstring.

    Examples
    --------
    >>> from bayesprof import models
    >>> star = models.Moffat(30.0, 40.0, 100.0, 2.0, 2.5, q=0.9, theta=0.3)
    """

    stackable = True
    smooth = True

    def __init__(
        self,
        x: Any,
        y: Any,
        flux: Any,
        r_eff: Any,
        beta: Any,
        *,
        q: Any = None,
        theta: Any = None,
        ellipticity: Any = None,
    ) -> None:
        x, y, flux, r_eff, beta = as_tensors(x, y, flux, r_eff, beta)
        super().__init__(x, y, flux, r_eff, q=q, theta=theta, ellipticity=ellipticity)
        self.beta = beta

    def transform(self, wavenumber_squared: Tensor) -> Tensor:
        table = moffat_table().to(wavenumber_squared.device)
        log_nu = torch.log(self.beta.clamp(*BETA_RANGE) - 1)
        return look_up(table, torch.log(1 + wavenumber_squared * (1 / _KAPPA_0**2)), log_nu)

    def brightness(self, radius_squared: Tensor) -> Tensor:
        beta = self.beta.clamp(*BETA_RANGE)
        in_alpha = torch.expm1(math.log(2) / (beta - 1))  # r_eff^2 / alpha^2
        norm = (beta - 1) * in_alpha / math.pi
        return per_pixel(norm) * torch.exp(-per_pixel(beta) * torch.log1p(radius_squared * per_pixel(in_alpha)))


@catalogued
def moffat(
    *,
    x: Any = None,
    y: Any = None,
    flux: Any = None,
    r_eff: Any = None,
    beta: Any = None,
    ellipticity: Any = None,
    q: Any = None,
    theta: Any = None,
) -> Component:
    """A source with a Moffat profile, :class:`Moffat`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is the
    default of :mod:`bayesprof.models.galaxy`, and for `beta` it is 1.2 + 8.8 Beta(1.5, 3.5), which has mean 3.8 and
    standard deviation 1.6. Giving `q` or `theta` takes the place of `ellipticity`.

    Examples
    --------
    >>> from bayesprof import models
    >>> import pyro.distributions as dist
    >>> star = models.moffat(beta=dist.LogNormal(1.0, 0.2), x=30.0)
    """
    given = {
        "x": x, "y": y, "flux": flux, "r_eff": r_eff, "beta": beta, "ellipticity": ellipticity, "q": q, "theta": theta,
    }  # fmt: skip
    return galaxy("moffat", Moffat, {"beta": BETA}, **given)


def _default_beta(found: Measurement, image: Image) -> Default:
    return scaled_beta(1.2, 10.0, 1.5, 3.5, 3.0, image)


BETA = Parameter(
    "",
    f"in [{BETA_RANGE[0]}, {BETA_RANGE[1]:g}]",
    lambda beta: BETA_RANGE[0] <= beta <= BETA_RANGE[1],
    _default_beta,
)


def moffat_transform(kappa: np.ndarray, beta: float) -> np.ndarray:
    """``F``: Fourier transform of the circular Moffat profile with unit flux and r_eff.

    `kappa` : wavenumber times r_eff, > 0. The Bessel function is scaled by exp(z), and the factors are joined as
    logarithms, so that none of them overflows.
    """
    nu = beta - 1
    z = kappa / math.sqrt(math.expm1(math.log(2) / nu))
    with np.errstate(divide="ignore"):  # K_nu underflows to 0 where F does
        log_bessel = np.log(kve(nu, z)) - z
    return np.exp(math.log(2) + nu * np.log(z / 2) + log_bessel - gammaln(nu))


@lru_cache
def moffat_table() -> Table:
    """The transform tabulated in ``ln(1 + (kappa / 0.0001)^2)`` and ``ln(beta - 1)``."""

    def transform(t: np.ndarray, log_nu: float) -> np.ndarray:
        kappa = _KAPPA_0 * np.sqrt(np.expm1(t[1:]))
        return np.concatenate([[1.0], moffat_transform(kappa, 1 + math.exp(log_nu))])

    return tabulate(
        transform,
        t_max=math.log1p((_KAPPA_MAX / _KAPPA_0) ** 2),
        intervals=_INTERVALS,
        p_low=math.log(BETA_RANGE[0] - 1),
        p_high=math.log(BETA_RANGE[1] - 1),
        degree=_DEGREE,
    )
