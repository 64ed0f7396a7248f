"""The vertical structure of a disk, from isothermal to exponential.

    B(z) = c sech^p(z / (p z0)),    c = Gamma(1 + p) / (2^(1 + p) z0 Gamma(1 + p/2)^2) (for unit light),    0 <= p <= 2

(van der Kruit 1988, A&A 192, 117, with p = 2/n.) It is the isothermal sheet at p = 2, sech^2(z / (2 z0)), and the
exponential at p = 0; for every p it falls as exp(-|z| / z0) far from the plane. Its Fourier transform is closed: with
a = p/2 and u = k z0,

    G(u) = |Gamma(1 + a + i a u) / Gamma(1 + a)|^2 / (1 + u^2)

which is pi u / sinh(pi u) at p = 2 and 1 / (1 + u^2) at p = 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_SHIFT = 6  # Stirling's series is used for arguments larger by so much, where three terms of it are good to 1e-9
_LEAST_POWER = 1e-6  # in p, of whose reciprocal there is a derivative
_SMALL = 0.01  # squared tangent below which its angle is taken from the series


def vertical_transform(u_squared: Tensor, power: Tensor) -> Tensor:
    """``G`` at squared wavenumbers across the plane, in units of 1 / z0^2, for `power` p in [0, 2]; shapes broadcast.

    Relative error below 1e-8 in float64. A function of the squared wavenumber, with finite derivatives of any order
    at 0.
    """
    a = 0.5 * power
    at_zero = _log_gamma_squared(1 + a, torch.zeros_like(a))
    return torch.exp(_log_gamma_squared(1 + a, a**2 * u_squared) - at_zero) / (1 + u_squared)


def vertical_brightness(z: Tensor, scale_height: Tensor, power: Tensor) -> Tensor:
    """``B`` at heights `z`, for `scale_height` z0 (> 0) and `power` p in [0, 2]; shapes broadcast. The integral over z
    is 1.
    """
    power = power.clamp(min=_LEAST_POWER)
    heights = z.abs() / scale_height
    log_norm = torch.lgamma(1 + power) - 2 * torch.lgamma(1 + 0.5 * power)
    rounding = power * torch.log1p(torch.exp(-2 * heights / power))
    return torch.exp(log_norm - heights - rounding) / (2 * scale_height)


def _log_gamma_squared(x: Tensor, y_squared: Tensor) -> Tensor:
    """``ln |Gamma(x + i y)|^2`` for 1 <= x <= 2, up to a constant; a function of y^2.

    Stirling's series (Abramowitz & Stegun 6.1.40) at x + 6, and the recurrence down from there.
    """
    first = (x**2 + y_squared) * ((x + 1) ** 2 + y_squared) * ((x + 2) ** 2 + y_squared)
    second = ((x + 3) ** 2 + y_squared) * ((x + 4) ** 2 + y_squared) * ((x + 5) ** 2 + y_squared)
    real = x + _SHIFT
    square = real**2 + y_squared
    inverse = 1 / square
    # real parts of 1/w, 1/w^3 and 1/w^5
    one = real * inverse
    three = real * (real**2 - 3 * y_squared) * inverse**3
    five = real * (real**4 - 10 * real**2 * y_squared + 5 * y_squared**2) * inverse**5
    series = one / 12 - three / 360 + five / 1260
    stirling = (real - 0.5) * torch.log(square) - 2 * real * _times_angle(y_squared / real**2) - 2 * real + 2 * series
    return stirling - torch.log(first) - torch.log(second)


def _times_angle(square: Tensor) -> Tensor:
    """``t atan(t)`` of ``t^2``, with finite derivatives at 0."""
    small = square.clamp(max=_SMALL)
    series = small * (1 - small * (1 / 3 - small * (1 / 5 - small * (1 / 7 - small * (1 / 9 - small / 11)))))
    tangent = torch.sqrt(square.clamp(min=_SMALL))
    return torch.where(square < _SMALL, series, tangent * torch.atan(tangent))


def isothermal_transform(u_squared: Tensor) -> Tensor:
    """``G`` at p = 2, pi u / sinh(pi u), of ``u^2``."""
    square = math.pi**2 * u_squared
    small = square.clamp(max=_SMALL)
    series = 1 / (1 + small / 6 * (1 + small / 20 * (1 + small / 42)))
    w = torch.sqrt(square.clamp(min=_SMALL))
    # w / sinh(w) without the overflow of sinh
    return torch.where(square < _SMALL, series, 2 * w * torch.exp(-w) / (-torch.expm1(-2 * w)))
