"""The Spergel profile, whose Fourier transform is a power.

    I(R) = flux / (2 pi q r_0^2 2^nu Gamma(nu + 1)) (R / r_0)^nu K_nu(R / r_0)
    F(kappa) = (1 + kappa^2 r_0^2)^(-1 - nu)

with K the modified Bessel function of the second kind and r_0 = r_eff / c(nu) (Spergel 2010, ApJS 191, 58, equations 2
and 4). It is the exponential disk at nu = 1/2 and close to the de Vaucouleurs profile at nu = -0.6.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import gammaln, kve
from torch import Tensor

from bayesprof.grid import per_pixel
from bayesprof.light import Profile, as_tensors
from bayesprof.lookup import Table, look_up, tabulate
from bayesprof.models.component import Component, catalogued
from bayesprof.models.galaxy import affine_beta, galaxy

NU_RANGE = (-0.7, 4.0)
"""Indices for which the brightness is tabulated; outside, the profile is that of the nearer end."""

# Brightness is tabulated as a logarithm, in t = ln(1 + (R / (1e-6 r_0))^2): within 1e-6 r_0 it is taken as flat.
_R_0 = 1e-6
_R_MAX = 700.0  # exp(-R) underflows beyond, in units of r_0
_INTERVALS = 1024
_DEGREE = 63


class Spergel(Profile):
    """Light of a Spergel profile.

    Parameters
    ----------
    x, y : centre, pixels.
    flux : total light, image units.
    r_eff : half-light radius along the major axis, pixels, > 0.
    nu : index in [-0.7, 4]; beyond, the profile stays that of the nearer end. The smaller, the steeper in the centre.
    q, theta : axis ratio in (0, 1] and angle of the major axis, radians; or
    ellipticity : the vector (e1, e2) of shape (..., 2). Conventions: :mod:`bayesprof.grid`.

    Examples
    --------
    >>> from bayesprof import models
    >>> galaxy = models.Spergel(30.0, 40.0, 100.0, 5.0, -0.3, q=0.7, theta=0.3)
    """

    stackable = True
    smooth = True

    def __init__(
        self,
        x: Any,
        y: Any,
        flux: Any,
        r_eff: Any,
        nu: Any,
        *,
        q: Any = None,
        theta: Any = None,
        ellipticity: Any = None,
    ) -> None:
        x, y, flux, r_eff, nu = as_tensors(x, y, flux, r_eff, nu)
        super().__init__(x, y, flux, r_eff, q=q, theta=theta, ellipticity=ellipticity)
        self.nu = nu.clamp(*NU_RANGE)

    def transform(self, wavenumber_squared: Tensor) -> Tensor:
        power = torch.log1p(wavenumber_squared * per_pixel(half_light_radius(self.nu) ** -2))
        return torch.exp(-per_pixel(1 + self.nu) * power)

    def brightness(self, radius_squared: Tensor) -> Tensor:
        scale = half_light_radius(self.nu) ** 2
        table = brightness_table().to(radius_squared.device)
        t = torch.log1p(radius_squared * per_pixel(scale * (1 / _R_0**2)))
        # beyond the table, where it is exp(-700), it falls on
        beyond = (t - table.t_max).clamp(min=0)
        return per_pixel(scale) * torch.exp(look_up(table, t, self.nu) - _R_MAX * beyond)


@catalogued
def spergel(
    *,
    x: Any = None,
    y: Any = None,
    flux: Any = None,
    r_eff: Any = None,
    nu: Any = None,
    ellipticity: Any = None,
    q: Any = None,
    theta: Any = None,
) -> Component:
    """A galaxy with a Spergel profile, :class:`Spergel`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is the
    default of :mod:`bayesprof.models.galaxy`, and for `nu` it is -0.7 + 4.7 Beta(1.2, 3.6), which has mean 0.5 and
    standard deviation 0.8. Giving `q` or `theta` takes the place of `ellipticity`.

    Examples
    --------
    >>> from bayesprof import models
    >>> galaxy = models.spergel(nu=0.5)
    """
    given = {"x": x, "y": y, "flux": flux, "r_eff": r_eff, "nu": nu, "ellipticity": ellipticity, "q": q, "theta": theta}
    return galaxy("spergel", Spergel, {"nu": affine_beta(*NU_RANGE, 1.2, 3.6, 0.3)}, **given)


def half_light_radius(nu: Tensor) -> Tensor:
    """``c(nu)``: half-light radius over r_0, to 1e-10 relative, for nu in [-0.7, 4]."""
    coefficients, low, high = _half_light_series()
    x = (2 * torch.log1p(nu) - low - high) / (high - low)
    degrees = torch.arange(len(coefficients), dtype=nu.dtype, device=nu.device)
    polynomials = torch.cos(degrees * torch.arccos(x)[..., None])
    return torch.exp(polynomials @ torch.as_tensor(coefficients, dtype=nu.dtype, device=nu.device))


def log_brightness(radius: np.ndarray, nu: float) -> np.ndarray:
    """Logarithm of the brightness of the circular profile with unit flux and r_0."""
    bessel = np.log(kve(nu, radius)) - radius
    return nu * np.log(radius) + bessel - math.log(2 * math.pi) - nu * math.log(2) - gammaln(1 + nu)


def light_within(radius: float, nu: float) -> float:
    """Fraction of the light within `radius` of the circular profile with unit r_0."""
    order = 1 + nu
    return 1 - 2 * math.exp(order * math.log(radius / 2) - gammaln(order)) * kve(order, radius) * math.exp(-radius)


@lru_cache
def brightness_table() -> Table:
    """Logarithm of the brightness, tabulated in ``ln(1 + (R / 1e-6 r_0)^2)`` and ``nu``."""

    def function(t: np.ndarray, nu: float) -> np.ndarray:
        return log_brightness(_R_0 * np.sqrt(1 + np.expm1(t)), nu)

    return tabulate(
        function,
        t_max=math.log1p((_R_MAX / _R_0) ** 2),
        intervals=_INTERVALS,
        p_low=NU_RANGE[0],
        p_high=NU_RANGE[1],
        degree=_DEGREE,
    )


@lru_cache
def _half_light_series() -> tuple[list[float], float, float]:
    """Chebyshev series of ``ln c`` in ``ln(1 + nu)``, on an interval a little wider than that of nu."""
    low, high = math.log(0.9 * (1 + NU_RANGE[0])), math.log(1.1 * (1 + NU_RANGE[1]))

    def log_c(log_order: np.ndarray) -> np.ndarray:
        return np.array(
            [math.log(brentq(lambda c, nu=nu: light_within(c, nu) - 0.5, 1e-4, 10.0, xtol=1e-15))
             for nu in np.expm1(log_order)]
        )  # fmt: skip

    series = np.polynomial.Chebyshev.interpolate(log_c, 31, domain=[low, high])
    return [float(value) for value in series.coef], low, high
