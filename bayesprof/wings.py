"""The periodic copies of a PSF's own light, and how they are taken off an image.

The copies of a galaxy seen through a PSF are those of the galaxy, blurred (:mod:`bayesprof.periodic`), and, where the
PSF has wings that fall as slowly as the galaxy or a point source has no light but the PSF's, those of the PSF: far out,
the convolution of two profiles tends to their sum, each times the flux of the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayesprof.grid import chebyshev_interpolation, chebyshev_nodes
from bayesprof.periodic import integral_outside, nodes_seen_from
from bayesprof.psf import PSF

# As in bayesprof.periodic, but coarser: wings are a small part of the light.
_FIRST_NODES, _SECOND_NODES = 8, 4


@dataclass(frozen=True)
class WingCopies:
    """Where to evaluate the wings of a PSF, and the maps from the values to the pixels of the image.

    `x`, `y`: points (1, first + second), the Chebyshev nodes as seen from the 8 copies in the first shell and the
    16 in the second; `far_x`, `far_y`, `weight`: of the integral over the rest. `to_x`, `to_y`, `refine`: as of
    :class:`bayesprof.periodic.PeriodicCopies`.
    """

    x: Tensor
    y: Tensor
    far_x: Tensor
    far_y: Tensor
    weight: Tensor
    to_x: Tensor
    to_y: Tensor
    refine: Tensor

    def __call__(self, psf: PSF, x: Tensor, y: Tensor, flux: Tensor) -> Tensor | None:
        """What to take off the periodic image of sources at `x`, `y` with `flux`, each of shape ``batch + (sources,)``.

        Shape ``batch + (ny, nx)``; None for a PSF without wings.
        """
        values = psf.wings_at(self.x - x[..., None], self.y - y[..., None])
        rest = psf.wings_at(self.far_x, self.far_y)
        if values is None or rest is None:
            return None
        total = (flux[..., None, :] @ values).squeeze(-2)
        first, second = total.split((8 * _FIRST_NODES**2, 16 * _SECOND_NODES**2), dim=-1)
        first = first.unflatten(-1, (8, _FIRST_NODES, _FIRST_NODES)).sum(-3)
        second = second.unflatten(-1, (16, _SECOND_NODES, _SECOND_NODES)).sum(-3)
        spread = flux.sum(-1) * (rest @ self.weight).squeeze(-1)
        return self.to_y @ (first + self.refine @ second @ self.refine.mT + spread[..., None, None]) @ self.to_x.mT


def wing_copies(
    shape: tuple[int, int], period: tuple[int, int], *, dtype: torch.dtype, device: torch.device
) -> WingCopies:
    """The copies that a transform of `period` (rows, columns) lays over an image of `shape` (ny, nx)."""
    (ny, nx), (rows, columns) = shape, period
    around = [(a, b) for a in range(-2, 3) for b in range(-2, 3)]
    shells = [[place for place in around if max(map(abs, place)) == distance] for distance in (1, 2)]
    parts = [
        nodes_seen_from(shape, period, *shell) for shell in zip(shells, (_FIRST_NODES, _SECOND_NODES), strict=True)
    ]
    x, y = (torch.cat(axis)[None] for axis in zip(*parts, strict=True))
    far_x, far_y, weight = integral_outside(2.5 * columns, 2.5 * rows)
    tensors = {
        "x": x,
        "y": y,
        "far_x": far_x[None],
        "far_y": far_y[None],
        "weight": weight / (rows * columns),
        "to_x": chebyshev_interpolation(-0.5, nx - 0.5, _FIRST_NODES, torch.arange(nx, dtype=torch.float64)),
        "to_y": chebyshev_interpolation(-0.5, ny - 0.5, _FIRST_NODES, torch.arange(ny, dtype=torch.float64)),
        "refine": chebyshev_interpolation(-1.0, 1.0, _SECOND_NODES, chebyshev_nodes(-1.0, 1.0, _FIRST_NODES)),
    }
    return WingCopies(**{name: tensor.to(dtype=dtype, device=device) for name, tensor in tensors.items()})
