"""Light integrated over square pixels, in real space.

Away from its centre a profile is smooth on the scale of a pixel, and a Gauss-Legendre rule per pixel is enough. In
a block of pixels around the centre, where it may have a cusp, the divergence theorem turns the integral over a
pixel into one over its edges. With p the offset from the centre,

    A(p) = p g(p),    g(p) = integral_0^1 I(s p) s ds    has    div A = I,

so that the light in a pixel is the flux of A out of it. ``g`` is smoother than ``I``; along an edge that passes
close to the centre the nodes are crowded there by a sinh map. The result is smooth as the centre crosses the edge
of a pixel.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from bayesprof.grid import Ellipse, elliptical_radius_squared, per_pixel
from bayesprof.light import Extended, Surface

_REACH = 4  # the block around the centre holds 2 * reach + 1 pixels a side
_EDGE_NODES = 8
_RADIAL_POWER = 2  # s ~ u^2 resolves the cusp
_CLOSEST = 1e-6  # pixels; nearer to an edge than this, the centre counts as so far from it


def integrate_over_pixels(source: Extended | Surface, shape: tuple[int, int]) -> Tensor:
    """Image of `source`, each pixel the integral of its surface brightness over the pixel.

    Shape ``batch + shape``, image units per pixel. Relative error (L2) below 2e-5 for Sersic profiles with n up to 6,
    q of 0.3 and above and r_eff of 0.5 pixels and above. Below 2e-4 for surfaces whose contours aren't ellipses, and
    below 3e-4 for boxy ones, and slightly disky ones, with n of 4.
    """
    ny, nx = shape
    pixel_x = torch.arange(nx, dtype=source.x.dtype, device=source.x.device)
    pixel_y = torch.arange(ny, dtype=source.x.dtype, device=source.x.device)
    column, row = torch.round(source.x.detach())[..., None], torch.round(source.y.detach())[..., None]
    block = torch.arange(-_REACH, _REACH + 1, dtype=source.x.dtype, device=source.x.device)

    smooth = _gauss_legendre_per_pixel(source, pixel_x, pixel_y)
    centre = _light_by_divergence(source, column + block, row + block)
    in_block = ((pixel_y - row).abs() <= _REACH)[..., :, None] & ((pixel_x - column).abs() <= _REACH)[..., None, :]
    place_x = (pixel_x[:, None] == (column + block)[..., None, :]).to(smooth.dtype)
    place_y = (pixel_y[:, None] == (row + block)[..., None, :]).to(smooth.dtype)
    return torch.where(in_block, place_y @ centre @ place_x.mT, smooth)


def _gauss_legendre_per_pixel(source: Extended | Surface, pixel_x: Tensor, pixel_y: Tensor) -> Tensor:
    count = source.nodes_per_pixel
    nodes, weights = _rule(count, source.x)
    dx = (pixel_x[:, None] + 0.5 * nodes).flatten() - source.x[..., None]
    dy = (pixel_y[:, None] + 0.5 * nodes).flatten() - source.y[..., None]
    values = source.brightness_at(dx[..., None, :], dy[..., :, None])
    by_column = values.unflatten(-1, (-1, count)) @ (0.5 * weights)
    return (by_column.mT.unflatten(-1, (-1, count)) @ (0.5 * weights)).mT


def _light_by_divergence(source: Extended | Surface, pixel_x: Tensor, pixel_y: Tensor) -> Tensor:
    """Light in each pixel of a block of neighbouring `pixel_x` and `pixel_y`."""
    xx, xy, yy = source.ellipse
    thickness = torch.sqrt(xx * yy - xy**2)
    x = torch.cat([pixel_x - 0.5, pixel_x[..., -1:] + 0.5], dim=-1) - source.x[..., None]
    y = torch.cat([pixel_y - 0.5, pixel_y[..., -1:] + 0.5], dim=-1) - source.y[..., None]

    # on the line y = Y the elliptical radius has its minimum at x = (xy / yy) Y, and doubles its square over |Y|
    # thickness / yy
    along, weight, level = _edge_rule(y, x, xy / yy, thickness / yy)
    upward = (level * weight * _inner_integral(source, along, level)).sum(-1)
    along, weight, level = _edge_rule(x, y, xy / xx, thickness / xx)
    rightward = (level * weight * _inner_integral(source, level, along)).sum(-1)
    return upward.diff(dim=-2) + rightward.diff(dim=-2).mT


def _edge_rule(level: Tensor, ends: Tensor, shift: Tensor, width: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Positions and weights along the edges on the lines at `level` between consecutive `ends`.

    Shapes ``batch + (lines, edges, nodes)``; the level comes back in that shape as well.
    """
    nodes, weights = _rule(_EDGE_NODES, level)
    level = level[..., :, None]
    centre = level * per_pixel(shift)
    scale = torch.sqrt((level * per_pixel(width)) ** 2 + _CLOSEST**2)
    v = torch.asinh((ends[..., None, :] - centre) / scale)
    middle, half = 0.5 * (v[..., 1:] + v[..., :-1]), 0.5 * v.diff(dim=-1)
    v = middle[..., None] + half[..., None] * nodes
    along = centre[..., None] + scale[..., None] * torch.sinh(v)
    return along, scale[..., None] * torch.cosh(v) * half[..., None] * weights, level[..., None].expand(along.shape)


def _inner_integral(source: Extended | Surface, dx: Tensor, dy: Tensor) -> Tensor:
    """``g`` at offsets of shape ``batch + (lines, edges, nodes)``."""
    nodes, weights = _rule(source.radial_nodes, dx)
    u = 0.5 * (1 + nodes)
    # half of the nodes lie within about the profile's own radius, however far the edge is
    ellipse, radius = Ellipse(*(entry[..., None] for entry in source.ellipse)), 3 * source.radius[..., None]
    in_radii = 1 + elliptical_radius_squared(dx, dy, ellipse, radius)
    crowding = in_radii.flatten(-3)[..., None] ** (0.5 / _RADIAL_POWER)
    below = u + crowding * (1 - u)
    s = (u / below) ** _RADIAL_POWER
    weight = 0.5 * weights * _RADIAL_POWER * s**2 * crowding / (u * below)
    values = source.brightness_at(dx.flatten(-3)[..., None] * s, dy.flatten(-3)[..., None] * s)
    return (values * weight).sum(-1).unflatten(-1, dx.shape[-3:])


@lru_cache
def _legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(count)


def _rule(count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on [-1, 1]."""
    nodes, weights = _legendre(count)
    return (
        torch.as_tensor(nodes, dtype=like.dtype, device=like.device),
        torch.as_tensor(weights, dtype=like.dtype, device=like.device),
    )
