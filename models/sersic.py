"""The Sersic profile.

    I(R) = flux b^(2n) / (2 pi n q r_eff^2 Gamma(2n)) exp(-b (R / r_eff)^(1/n)),    gamma(2n, b) = Gamma(2n) / 2

(Sersic 1963; Graham & Driver 2005, PASA 22, 118, equations 1 to 4.) Its Fourier transform has no elementary form. As a
Mellin-Barnes integral (the Mellin transform of the profile and the Hankel transform of a power, Parseval) it is

    F(kappa) = 1 / (2 pi Gamma(2n)) * integral d tau  Gamma(s) Gamma(2n (1 - s)) / Gamma(1 - s) z^(-2s),
    s = 1/2 + i tau,    z = kappa r_eff / (2 b^n)

whose integrand falls exponentially in |tau|, so that the trapezoid rule converges exponentially as well.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.special import gammaincinv, loggamma
from torch import Tensor

from bayesprof.grid import per_pixel
from bayesprof.image import Image
from bayesprof.light import Profile, as_tensors
from bayesprof.lookup import Table, look_up, tabulate
from bayesprof.measurement import Measurement
from bayesprof.models.component import Component, Default, Parameter, catalogued, scaled_beta
from bayesprof.models.galaxy import galaxy

N_RANGE = (0.25, 10.0)
"""Sersic indices for which the transform is tabulated; outside, the profile is that of the nearer end."""

# The table runs in t = ln(1 + (kappa / KAPPA_0)^2): quadratic near 0, where F = 1 - <R^2> kappa^2 / 4,
# logarithmic beyond. <R^2> is 2,200 r_eff^2 at n = 10. KAPPA_MAX is reached by r_eff = 22,000 pixels at the Nyquist
# frequency.
_KAPPA_0 = 1e-3
_KAPPA_MAX = 1e5
_INTERVALS = 512
_DEGREE = 27

_ROW = 32  # points of the trapezoid rule that are summed by one matrix product


class Sersic(Profile):
    """Light of a Sersic profile.

    Parameters
    ----------
    x, y : centre, pixels.
    flux : total light, image units.
    r_eff : half-light radius along the major axis, pixels, > 0.
    n : Sersic index in [0.25, 10]; beyond, the profile stays that of the nearer end.
    q, theta : axis ratio in (0, 1] and angle of the major axis, radians; or
    ellipticity : the vector (e1, e2) of shape (..., 2). Conventions: :mod:`bayesprof.grid`.

    The transform is looked up with an error below 5e-7 for every n and wavenumber.

    Examples
    --------
    >>> from bayesprof import models
    >>> galaxy = models.Sersic(30.0, 40.0, 100.0, 5.0, 2.5, q=0.7, theta=0.3)
    """

    stackable = True
    smooth = True

    def __init__(
        self,
        x: Any,
        y: Any,
        flux: Any,
        r_eff: Any,
        n: Any,
        *,
        q: Any = None,
        theta: Any = None,
        ellipticity: Any = None,
    ) -> None:
        x, y, flux, r_eff, n = as_tensors(x, y, flux, r_eff, n)
        super().__init__(x, y, flux, r_eff, q=q, theta=theta, ellipticity=ellipticity)
        self.n = n

    def transform(self, wavenumber_squared: Tensor) -> Tensor:
        table = sersic_table().to(wavenumber_squared.device)
        # not log1p: the table asks for an absolute accuracy, and log takes two thirds of the time
        return look_up(table, torch.log(1 + wavenumber_squared * (1 / _KAPPA_0**2)), torch.log(self.n))

    def brightness(self, radius_squared: Tensor) -> Tensor:
        n = self.n.clamp(*N_RANGE)
        b = sersic_b(n)
        log_norm = 2 * n * torch.log(b) - torch.lgamma(2 * n) - torch.log(2 * math.pi * n)
        # the guard keeps the derivative of R^(1/n) finite in the very centre
        tiny = torch.finfo(radius_squared.dtype).tiny
        exponent = per_pixel(b) * torch.exp(torch.log(radius_squared + tiny) * per_pixel(0.5 / n))
        return torch.exp(per_pixel(log_norm) - exponent)


@catalogued
def sersic(
    *,
    x: Any = None,
    y: Any = None,
    flux: Any = None,
    r_eff: Any = None,
    n: Any = None,
    ellipticity: Any = None,
    q: Any = None,
    theta: Any = None,
) -> Component:
    """A galaxy with a Sersic profile, :class:`Sersic`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is the
    default of :mod:`bayesprof.models.galaxy`, and for `n` it is 0.3 + 7.7 Beta(1.2, 2.4), which has mean 2.9 and
    standard deviation 1.7. Giving `q` or `theta` takes the place of `ellipticity`.

    Examples
    --------
    >>> from bayesprof import models
    >>> import pyro.distributions as dist
    >>> galaxy = models.sersic(n=dist.LogNormal(0.7, 0.4), x=30.0)
    """
    given = {"x": x, "y": y, "flux": flux, "r_eff": r_eff, "n": n, "ellipticity": ellipticity, "q": q, "theta": theta}
    return galaxy("sersic", Sersic, {"n": INDEX}, **given)


def _default_n(found: Measurement, image: Image) -> Default:
    return scaled_beta(0.3, 8.0, 1.2, 2.4, 1.5, image)


INDEX = Parameter("", f"in [{N_RANGE[0]}, {N_RANGE[1]}]", lambda n: N_RANGE[0] <= n <= N_RANGE[1], _default_n)


def sersic_b(n: Tensor) -> Tensor:
    """``b(n)`` with ``gamma(2n, b) = Gamma(2n) / 2``, to 1e-12 relative, for n in [0.25, 10]."""
    coefficients, low, high = _b_series()
    x = (2 * torch.log(n) - low - high) / (high - low)
    degrees = torch.arange(len(coefficients), dtype=n.dtype, device=n.device)
    polynomials = torch.cos(degrees * torch.arccos(x)[..., None])
    return n * (polynomials @ torch.as_tensor(coefficients, dtype=n.dtype, device=n.device))


def sersic_transform(kappa: np.ndarray, n: float) -> np.ndarray:
    """``F``: Fourier transform of the circular Sersic profile with unit flux and r_eff, to 1e-10.

    `kappa` : wavenumber times r_eff, shape (m,), > 0. The Mellin-Barnes integral of the module's docstring, with the
    trapezoid rule of step 0.03 over ``|tau| <= 45 / (pi n) + 10``.
    """
    limit = 45 / (math.pi * n) + 10
    step = limit / math.ceil(limit / 0.03)
    # tau = (row * _ROW + column) step: the powers of z factor, and the sum over tau is a matrix product
    rows = math.ceil((limit / step + 1) / _ROW)
    tau = step * np.arange(rows * _ROW).reshape(rows, _ROW)
    s = 0.5 + 1j * tau
    weight = np.exp(loggamma(s) + loggamma(2 * n * (1 - s)) - loggamma(1 - s) - loggamma(2 * n)) * (step / math.pi)
    weight[0, 0] *= 0.5  # the other half of the integral is the complex conjugate
    log_z = np.log(kappa) - math.log(2) - n * math.log(gammaincinv(2 * n, 0.5))
    by_row, by_column = (np.exp(np.multiply.outer(-2j * log_z, part)) for part in (tau[:, 0], tau[0]))
    return np.exp(-log_z) * np.einsum("kr,kr->k", by_row, by_column @ weight.T).real


@lru_cache
def sersic_table() -> Table:
    """The transform tabulated in ``ln(1 + (kappa / 0.001)^2)`` and ``ln n``."""

    def transform(t: np.ndarray, log_n: float) -> np.ndarray:
        kappa = _KAPPA_0 * np.sqrt(np.expm1(t[1:]))
        return np.concatenate([[1.0], sersic_transform(kappa, math.exp(log_n))])

    return tabulate(
        transform,
        t_max=math.log1p((_KAPPA_MAX / _KAPPA_0) ** 2),
        intervals=_INTERVALS,
        p_low=math.log(N_RANGE[0]),
        p_high=math.log(N_RANGE[1]),
        degree=_DEGREE,
    )


@lru_cache
def _b_series() -> tuple[list[float], float, float]:
    """Chebyshev series of ``b(n) / n`` in ``ln n``, on an interval a little wider than that of n."""
    low, high = math.log(0.9 * N_RANGE[0]), math.log(1.1 * N_RANGE[1])
    series = np.polynomial.Chebyshev.interpolate(
        lambda log_n: gammaincinv(2 * np.exp(log_n), 0.5) / np.exp(log_n), 23, domain=[low, high]
    )
    return [float(value) for value in series.coef], low, high
