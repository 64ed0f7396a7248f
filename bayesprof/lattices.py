"""Light given by values on a square lattice, rendered exactly: it is a product of functions along x and y.

Between the nodes the light is a cubic B-spline surface,

    I(x, y) = sum over nodes of v_ij B((x - x_j) / h) B((y - y_i) / h),

with B the cubic cardinal B-spline, whose Fourier transform is sinc^4 (Unser 1999, IEEE Signal Processing Magazine 16,
22). So both its transform and its integrals over pixels are two matrix products.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bayesprof.light import Lattice
from bayesprof.transfer import Axis


def lattice_transform(source: Lattice, values: Tensor, x_axis: Axis, y_axis: Axis) -> Tensor:
    """Fourier transform of `source` with `values` on the wavenumbers of two axes, shape ``batch + (rows, columns)``."""
    x, y = source.nodes()
    dtype = values.dtype.to_complex()
    along_x, along_y = _waves(x_axis, x, source.step).to(dtype), _waves(y_axis, y, source.step).to(dtype)
    return along_y.mT @ (values.to(dtype) @ along_x)


def lattice_image(source: Lattice, shape: tuple[int, int]) -> Tensor:
    """Image of `source` integrated over pixels, shape ``batch + shape``."""
    x, y = source.nodes()
    along_x, along_y = (_in_pixels(node, size, source.step) for node, size in zip((x, y), shape[::-1], strict=True))
    return along_y @ source.values @ along_x.mT


def _waves(axis: Axis, nodes: Tensor, step: float) -> Tensor:
    """Transform of a B-spline at each of the nodes, shape ``batch + (nodes, wavenumbers)``."""
    both, weights = (part.reshape(len(part), 1, -1) for part in (axis.both, axis.weights))
    weights = weights * step * torch.sinc(both * (step / (2 * math.pi))) ** 4
    turn = both * nodes.to(torch.float64)[..., None, :, None]
    return torch.complex((weights * torch.cos(turn)).sum(-3), -(weights * torch.sin(turn)).sum(-3))


def _in_pixels(nodes: Tensor, size: int, step: float) -> Tensor:
    """Integral over each of `size` pixels of the B-spline at each of the nodes, shape ``batch + (size, nodes)``."""
    edges = torch.arange(size + 1, dtype=nodes.dtype, device=nodes.device) - 0.5
    place = ((edges[:, None] - nodes[..., None, :]) * (1 / step)).clamp(-2, 2)
    # the B-spline as a sum of one-sided powers, integrated
    integral = sum((-1) ** k * math.comb(4, k) / 24 * (place + (2 - k)).clamp(min=0) ** 4 for k in range(4))
    return step * torch.as_tensor(integral).diff(dim=-2)
