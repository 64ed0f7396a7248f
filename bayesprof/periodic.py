"""The periodic copies that a discrete Fourier transform adds to an image, and how they are taken off again.

A transform of period ``(rows, columns)`` returns the sum of the source and its copies at all multiples of the
period. Over the image the copies are smooth. The nearest are evaluated on a few Chebyshev nodes and interpolated;
the sum over all others is close to the integral of the light beyond them, over the area of one period.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bayesprof.grid import chebyshev_derivative, chebyshev_interpolation, chebyshev_nodes, per_pixel
from bayesprof.light import Extended, Pointlike
from bayesprof.transfer import Moments

# Copies up to two periods away are taken one by one, the first shell of them on more Chebyshev nodes per axis of the
# image than the second: an elongated galaxy is narrow there.
_FIRST_NODES, _SECOND_NODES = 16, 7
_ANGLES = 24  # of the integral over the rest, on half a turn
_RADII = 16
_LOG_REACH = 9.0  # it ends at e^9 times where it starts


@dataclass(frozen=True)
class PeriodicCopies:
    """Where to evaluate a profile, and the maps from the values to the pixels of the image.

    A copy is seen through the PSF like everything else: blurred, which for so smooth a thing is its second-order
    expansion in the width of the PSF.

    `x`, `y`: points (1, first + second + far): the Chebyshev nodes, as seen from the source itself and from each of its
    8 copies in the first shell, coarser ones as seen from the 16 in the second, and then the points of the integral
    over the rest; `moves`: 1 where a point's offset from the source changes with its position, else 0. `weight`: of
    the points of the integral. `to_x` (nx, nodes), `to_y` (ny, nodes): interpolation; `refine`: from the coarser to
    the finer nodes; `blur`: by the PSF, on the finer ones. `middle` of the image, and a
    `quarter_margin` of the period around it: (x, y), pixels.
    """

    x: Tensor
    y: Tensor
    moves: Tensor
    weight: Tensor
    to_x: Tensor
    to_y: Tensor
    refine: Tensor
    blur: Callable[[Tensor], Tensor]
    middle: Tensor
    quarter_margin: Tensor

    def presence(self, source: Extended | Pointlike) -> Tensor:
        """1 for a source in the image, falling smoothly to 0 as its centre leaves it by half of the period's margin.

        Further out one of its copies would enter the image from the other side. Shape ``batch``.
        """
        position = torch.stack(torch.broadcast_tensors(source.x, source.y), dim=-1)
        outside = ((position - self.middle).abs() - self.middle) / self.quarter_margin - 1
        step = outside.clamp(0, 1)
        along_x, along_y = (1 - step * step * (3 - 2 * step)).unbind(-1)
        return along_x * along_y

    def __call__(self, nodes: Tensor) -> Tensor:
        """What to take off a periodic image, shape ``batch + (ny, nx)``, from :meth:`on_nodes`."""
        return self.to_y @ self.blur(nodes) @ self.to_x.mT

    def on_nodes(self, source: Extended, presence: Tensor) -> Tensor:
        """What to take off the periodic image of `source` times its `presence`, before the PSF, on the finer nodes,
        shape ``batch + (nodes, nodes)``.

        The copies; and for a source outside, whose presence is below 1, the rest of its light itself, with a
        minus sign: it is as smooth over the image as a copy.
        """
        dx = self.x - self.moves * per_pixel(source.x)
        dy = self.y - self.moves * per_pixel(source.y)
        values = source.distant_brightness_at(dx, dy).squeeze(-2)
        sizes = (9 * _FIRST_NODES**2, 16 * _SECOND_NODES**2, len(self.weight))
        first, second, rest = values.split(sizes, dim=-1)
        first = first.unflatten(-1, (9, _FIRST_NODES, _FIRST_NODES))
        second = second.unflatten(-1, (16, _SECOND_NODES, _SECOND_NODES)).sum(-3)
        itself = first[..., 0, :, :]
        copies = first[..., 1:, :, :].sum(-3) + self.refine @ second @ self.refine.mT + per_pixel(rest @ self.weight)
        return per_pixel(presence) * copies - per_pixel(1 - presence) * itself


@dataclass(frozen=True)
class FixedBlur:
    """By a PSF whose moments are known beforehand: one `matrix` (nodes^2, nodes^2), rows first."""

    matrix: Tensor

    def __call__(self, nodes: Tensor) -> Tensor:
        return (nodes.reshape(*nodes.shape[:-2], 1, -1) @ self.matrix.mT).reshape(nodes.shape)


@dataclass(frozen=True)
class DrawnBlur:
    """By a PSF with drawn `moments`; `d_x` and `d_y` (nodes, nodes) differentiate along x and y."""

    d_x: Tensor
    d_y: Tensor
    moments: Moments

    def __call__(self, nodes: Tensor) -> Tensor:
        x, y, xx, xy, yy = (per_pixel(m) if isinstance(m, Tensor) else m for m in self.moments)
        in_x, in_y = nodes @ self.d_x.mT, self.d_y @ nodes
        second = xx * (in_x @ self.d_x.mT) + 2 * xy * (self.d_y @ in_x) + yy * (self.d_y @ in_y)
        return nodes - x * in_x - y * in_y + 0.5 * second


def derivatives_on_nodes(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The matrices `d_x` and `d_y` of :class:`DrawnBlur` for an image of `shape` (ny, nx), float64."""
    d_y, d_x = (chebyshev_derivative(-0.5, size - 0.5, _FIRST_NODES) for size in shape)
    return d_x, d_y


def periodic_copies(
    shape: tuple[int, int], period: tuple[int, int], moments: Moments, *, dtype: torch.dtype, device: torch.device
) -> PeriodicCopies:
    """The copies that a transform of `period` (rows, columns) lays over an image of `shape` (ny, nx), through a PSF of
    these `moments`.
    """
    (ny, nx), (rows, columns) = shape, period
    around = [(a, b) for a in range(-2, 3) for b in range(-2, 3)]
    first = [(0, 0)] + [place for place in around if max(map(abs, place)) == 1]
    second = [place for place in around if max(map(abs, place)) == 2]
    parts = [nodes_seen_from(shape, period, *part) for part in ((first, _FIRST_NODES), (second, _SECOND_NODES))]
    near_x, near_y = (torch.cat(axis) for axis in zip(*parts, strict=True))
    far_x, far_y, far_weight = integral_outside(2.5 * columns, 2.5 * rows)
    sides = torch.tensor([nx, ny], dtype=torch.float64)
    tensors = {
        "middle": 0.5 * (sides - 1),
        "quarter_margin": 0.25 * (torch.tensor([columns, rows], dtype=torch.float64) - sides),
        "x": torch.cat([near_x, far_x])[None],
        "y": torch.cat([near_y, far_y])[None],
        "moves": torch.cat([torch.ones_like(near_x), torch.zeros_like(far_x)]),
        "weight": far_weight / (rows * columns),
        "to_x": chebyshev_interpolation(-0.5, nx - 0.5, _FIRST_NODES, torch.arange(nx, dtype=torch.float64)),
        "to_y": chebyshev_interpolation(-0.5, ny - 0.5, _FIRST_NODES, torch.arange(ny, dtype=torch.float64)),
        "refine": chebyshev_interpolation(-1.0, 1.0, _SECOND_NODES, chebyshev_nodes(-1.0, 1.0, _FIRST_NODES)),
    }
    blur = FixedBlur(_blur(shape, moments).to(dtype=dtype, device=device))
    return PeriodicCopies(
        blur=blur, **{name: tensor.to(dtype=dtype, device=device) for name, tensor in tensors.items()}
    )


def _blur(shape: tuple[int, int], moments: Moments) -> Tensor:
    """I - mean . grad + half of moments : grad grad, on the finer nodes, rows first."""
    unit = torch.eye(_FIRST_NODES, dtype=torch.float64)
    along_x, along_y = derivatives_on_nodes(shape)
    d_x, d_y = torch.kron(unit, along_x), torch.kron(along_y, unit)
    first = moments.x * d_x + moments.y * d_y
    second = moments.xx * d_x @ d_x + 2 * moments.xy * d_x @ d_y + moments.yy * d_y @ d_y
    return torch.eye(_FIRST_NODES**2, dtype=torch.float64) - first + 0.5 * second


def nodes_seen_from(
    shape: tuple[int, int], period: tuple[int, int], places: list[tuple[int, int]], count: int
) -> tuple[Tensor, Tensor]:
    """x and y of `count` Chebyshev nodes per axis, shifted by each of the `places` (rows, columns, in periods)."""
    (ny, nx), (rows, columns) = shape, period
    y, x = torch.meshgrid(chebyshev_nodes(-0.5, ny - 0.5, count), chebyshev_nodes(-0.5, nx - 0.5, count), indexing="ij")
    shift = torch.tensor(places, dtype=torch.float64)
    return (x.reshape(1, -1) + columns * shift[:, 1:]).flatten(), (y.reshape(1, -1) + rows * shift[:, :1]).flatten()


def integral_outside(half_width: float, half_height: float) -> tuple[Tensor, Tensor, Tensor]:
    """Points and weights that integrate a function, even in (x, y), over the plane outside a rectangle about the
    origin.
    """
    angle = math.pi * (torch.arange(_ANGLES, dtype=torch.float64) + 0.5) / _ANGLES
    cos, sin = torch.cos(angle), torch.sin(angle)
    edge = torch.minimum(half_width / cos.abs(), half_height / sin)
    nodes, weights = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(_RADII))
    radius = edge[:, None] * torch.exp(0.5 * _LOG_REACH * (1 + nodes))
    weight = 2 * math.pi / _ANGLES * 0.5 * _LOG_REACH * weights * radius**2
    return (radius * cos[:, None]).flatten(), (radius * sin[:, None]).flatten(), weight.flatten()
