"""Conventions, and the geometry that every other module takes from here.

Conventions
-----------
Arrays are ``[y, x]`` (rows first) and have shape ``(ny, nx)``.
Positions are ``(x, y)`` in pixels; the centre of the first pixel is ``(0, 0)``, so pixel ``[j, i]``
covers ``i - 1/2 < x < i + 1/2`` and ``j - 1/2 < y < j + 1/2``.
``theta`` is the angle from +x to the major axis, counter-clockwise, in radians, with period pi.
``q`` is the axis ratio, minor over major, in (0, 1].
``r_eff`` is the half-light radius along the major axis, in pixels.
``ellipticity`` is the vector ``(e1, e2) = |e| (cos 2 theta, sin 2 theta)`` with ``|e| = (1 - q)/(1 + q) < 1``.
``flux`` is the total light of a component, in the units of the image.
``mask`` is True where a pixel is ignored.

An ellipse is handed around as three numbers ``(xx, xy, yy)``: the symmetric matrix ``S`` for which the
points at elliptical radius ``R`` obey ``d^T S^-1 d = R^2``, with ``d`` the offset from the centre and ``R``
measured along the major axis. ``S`` has eigenvalues 1 and ``q^2``.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.polynomial.chebyshev import chebder, chebval, chebvander
from torch import Tensor


class Ellipse(NamedTuple):
    """The shape matrix of an ellipse with unit semi-major axis (see the conventions above)."""

    xx: Tensor
    xy: Tensor
    yy: Tensor


def ellipse_from_axis_ratio(q: Tensor, theta: Tensor) -> Ellipse:
    """Ellipse of axis ratio `q` (0 < q <= 1) with its major axis at `theta` (radians)."""
    cos, sin = torch.cos(theta), torch.sin(theta)
    return Ellipse(cos**2 + q**2 * sin**2, (1 - q**2) * cos * sin, sin**2 + q**2 * cos**2)


def ellipse_from_ellipticity(e1: Tensor, e2: Tensor) -> Ellipse:
    """Ellipse of ellipticity vector `(e1, e2)`, with ``e1^2 + e2^2 < 1``.

    Unlike the way through `q` and `theta` it has finite derivatives everywhere, a circle included.
    """
    size = ellipticity_size(e1, e2)
    square = e1**2 + e2**2
    norm = 1 / (1 + size) ** 2
    return Ellipse((1 + square + 2 * e1) * norm, 2 * e2 * norm, (1 + square - 2 * e1) * norm)


def ellipticity_size(e1: Tensor, e2: Tensor) -> Tensor:
    """``|e|``, with derivative 0 instead of NaN at a circle."""
    tiny = torch.finfo(e1.dtype).tiny ** 0.5
    return torch.sqrt(e1**2 + e2**2 + tiny)


def axis_ratio_and_angle(ellipticity: Tensor) -> tuple[Tensor, Tensor]:
    """`q` and `theta` (in [0, pi)) of ellipticity vectors of shape ``(..., 2)``."""
    e1, e2 = ellipticity[..., 0], ellipticity[..., 1]
    size = ellipticity_size(e1, e2)
    return (1 - size) / (1 + size), torch.remainder(0.5 * torch.atan2(e2, e1), math.pi)


def ellipticity_from_axis_ratio(q: Tensor, theta: Tensor) -> Tensor:
    """Ellipticity vectors of shape ``(..., 2)`` for axis ratio `q` and angle `theta` (radians)."""
    size = (1 - q) / (1 + q)
    return torch.stack([size * torch.cos(2 * theta), size * torch.sin(2 * theta)], dim=-1)


def elliptical_radius_squared(dx: Tensor, dy: Tensor, ellipse: Ellipse, radius: Tensor) -> Tensor:
    """``R^2`` at offsets `dx`, `dy` from the centre, in units of `radius` squared. Ellipse and radius of shape
    ``batch``, offsets of a shape that broadcasts with ``batch + (1, 1)``.
    """
    norm = 1 / ((ellipse.xx * ellipse.yy - ellipse.xy**2) * radius**2)
    xx, xy, yy = (per_pixel(entry) for entry in (ellipse.yy * norm, -2 * ellipse.xy * norm, ellipse.xx * norm))
    return xx * dx**2 + dy * (xy * dx + yy * dy)


def wavenumber_squared(kx: Tensor, ky: Tensor, ellipse: Ellipse, radius: Tensor) -> Tensor:
    """``radius^2 k^T S k``: the squared wavenumber in the frame where the ellipse is the unit circle, on the plane of
    `kx` (1, columns) and `ky` (rows, 1).
    """
    square = radius**2
    xx, xy, yy = (per_pixel(entry) for entry in (ellipse.xx * square, 2 * ellipse.xy * square, ellipse.yy * square))
    return xx * kx**2 + ky * (xy * kx + yy * ky)


def per_pixel(value: Tensor) -> Tensor:
    """`value` with two axes of length 1 appended, to broadcast a batch of parameters over an image."""
    return value[..., None, None]


@lru_cache
def fast_length(at_least: int, *, odd: bool) -> int:
    """Smallest length of fast Fourier transforms that is not below `at_least`: even, a product of 2, 3 and 5; or `odd`,
    a product of 3 to 13.

    An odd length has no Nyquist frequency, which a complex transform would need to hold twice, once for each sign. Of a
    real transform that frequency comes out right by itself.
    """
    length = at_least | 1 if odd else at_least + at_least % 2
    while True:
        rest = length
        for factor in (3, 5, 7, 11, 13) if odd else (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 2


def chebyshev_nodes(low: float, high: float, count: int) -> Tensor:
    """`count` Chebyshev nodes of the first kind on [`low`, `high`], float64, ascending."""
    angle = math.pi * (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return 0.5 * (low + high) - 0.5 * (high - low) * torch.cos(angle)


def chebyshev_interpolation(low: float, high: float, count: int, points: Tensor) -> Tensor:
    """Matrix ``[points, nodes]`` that takes values at `chebyshev_nodes` to values at `points`."""

    def basis(x: Tensor) -> Tensor:
        angle = torch.arccos(((2 * x - low - high) / (high - low)).clamp(-1, 1))
        return torch.cos(angle[:, None] * torch.arange(count, dtype=torch.float64))

    return torch.linalg.solve(basis(chebyshev_nodes(low, high, count)).T, basis(points).T).T


def chebyshev_derivative(low: float, high: float, count: int) -> Tensor:
    """Matrix ``[nodes, nodes]`` that takes values at `chebyshev_nodes` to derivatives there."""
    nodes = 2 * (chebyshev_nodes(low, high, count).numpy() - low) / (high - low) - 1
    slopes = np.stack([chebval(nodes, chebder(one)) for one in np.eye(count)], axis=1)
    derivative = np.linalg.solve(chebvander(nodes, count - 1).T, slopes.T).T
    return torch.from_numpy(np.ascontiguousarray(2 / (high - low) * derivative))
