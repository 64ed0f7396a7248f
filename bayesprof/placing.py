"""Windows of an image: putting arrays there, and cutting them out.

Both are operations of torch of their own, so that a graph of them is as small for a thousand windows as for one, and
says where each window lies. ``y`` and ``x`` are the rows and columns of their first pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("bayesprof::place", mutates_args=())
def place(arrays: Tensor, y: Sequence[int], x: Sequence[int], ny: int, nx: int) -> Tensor:
    """Sum of `arrays`, shape ``batch + (windows, height, width)``, each at its place on an image of (ny, nx), zero
    elsewhere; shape ``batch + (ny, nx)``. Windows lie inside the image.
    """
    height, width = arrays.shape[-2:]
    image = arrays.new_zeros(*arrays.shape[:-3], ny, nx)
    for array, top, left in zip(arrays.unbind(-3), y, x, strict=True):
        image[..., top : top + height, left : left + width] += array
    return image


@torch.library.custom_op("bayesprof::cut", mutates_args=())
def cut(image: Tensor, y: Sequence[int], x: Sequence[int], height: int, width: int) -> Tensor:
    """What is seen of `image`, shape ``batch + (ny, nx)``, through each window of (height, width); shape
    ``batch + (windows, height, width)``.
    """
    seen = [image[..., top : top + height, left : left + width] for top, left in zip(y, x, strict=True)]
    return torch.stack(seen, dim=-3)


@torch.library.custom_op("bayesprof::overlaps", mutates_args=())
def overlaps(
    rows: Tensor,
    others: Tensor,
    y: Sequence[int],
    x: Sequence[int],
    other_y: Sequence[int],
    other_x: Sequence[int],
    pairs: Sequence[int],
) -> Tensor:
    """Inner products over the pixels that windows share, shape ``batch + (pairs, rows, others)``.

    `rows` of shape ``batch + (rows, windows, height, width)``, `others` accordingly; `pairs`: of windows that overlap,
    the first of each pair among `rows`, one behind the other.
    """
    (height, width), (other_height, other_width) = rows.shape[-2:], others.shape[-2:]
    products = []
    for i, j in zip(pairs[::2], pairs[1::2], strict=True):
        top, left = max(y[i], other_y[j]), max(x[i], other_x[j])
        bottom, right = min(y[i] + height, other_y[j] + other_height), min(x[i] + width, other_x[j] + other_width)
        one = rows[..., i, top - y[i] : bottom - y[i], left - x[i] : right - x[i]]
        other = others[..., j, top - other_y[j] : bottom - other_y[j], left - other_x[j] : right - other_x[j]]
        products.append(one.flatten(-2) @ other.flatten(-2).mT)
    batch = torch.broadcast_shapes(rows.shape[:-4], others.shape[:-4])
    if not products:
        return rows.new_zeros(*batch, 0, rows.shape[-4], others.shape[-4])
    return torch.stack(products, dim=-3)


@place.register_fake
def _(arrays: Tensor, y: Sequence[int], x: Sequence[int], ny: int, nx: int) -> Tensor:
    return arrays.new_empty(*arrays.shape[:-3], ny, nx)


@cut.register_fake
def _(image: Tensor, y: Sequence[int], x: Sequence[int], height: int, width: int) -> Tensor:
    return image.new_empty(*image.shape[:-2], len(y), height, width)


@overlaps.register_fake
def _(
    rows: Tensor,
    others: Tensor,
    y: Sequence[int],
    x: Sequence[int],
    other_y: Sequence[int],
    other_x: Sequence[int],
    pairs: Sequence[int],
) -> Tensor:
    batch = torch.broadcast_shapes(rows.shape[:-4], others.shape[:-4])
    return rows.new_empty(*batch, len(pairs) // 2, rows.shape[-4], others.shape[-4])


class _Place(torch.autograd.Function):
    """:func:`place`, with derivatives."""

    generate_vmap_rule = True

    @staticmethod
    def forward(arrays: Tensor, y: Sequence[int], x: Sequence[int], ny: int, nx: int) -> Tensor:
        return place(arrays, y, x, ny, nx)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        arrays, ctx.y, ctx.x, *_ = inputs
        ctx.window = arrays.shape[-2:]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _Cut.apply(gradient, ctx.y, ctx.x, *ctx.window), None, None, None, None


class _Cut(torch.autograd.Function):
    """:func:`cut`, with derivatives."""

    generate_vmap_rule = True

    @staticmethod
    def forward(image: Tensor, y: Sequence[int], x: Sequence[int], height: int, width: int) -> Tensor:
        return cut(image, y, x, height, width)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        image, ctx.y, ctx.x, *_ = inputs
        ctx.shape = image.shape[-2:]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _Place.apply(gradient, ctx.y, ctx.x, *ctx.shape), None, None, None, None


def placed(arrays: Tensor, y: Sequence[int], x: Sequence[int], ny: int, nx: int) -> Tensor:
    """:func:`place`, with derivatives of any order and in any transform of torch.func."""
    image: Tensor = _Place.apply(arrays, y, x, ny, nx)
    return image


def seen(image: Tensor, y: Sequence[int], x: Sequence[int], height: int, width: int) -> Tensor:
    """:func:`cut`, with derivatives likewise."""
    arrays: Tensor = _Cut.apply(image, y, x, height, width)
    return arrays


DIFFERENTIABLE = {torch.ops.bayesprof.place.default: placed, torch.ops.bayesprof.cut.default: seen}
"""What takes the place of an operation in a graph that is to be differentiated."""


@place.register_vmap
def _(info: Any, in_dims: Any, arrays: Tensor, *where: Any) -> tuple[Tensor, int]:
    return place(arrays.movedim(in_dims[0], 0), *where), 0


@cut.register_vmap
def _(info: Any, in_dims: Any, image: Tensor, *where: Any) -> tuple[Tensor, int]:
    return cut(image.movedim(in_dims[0], 0), *where), 0


@overlaps.register_vmap
def _(info: Any, in_dims: Any, rows: Tensor, others: Tensor, *where: Any) -> tuple[Tensor, int]:
    first, second = (
        value.unsqueeze(0) if dim is None else value.movedim(dim, 0)
        for value, dim in ((rows, in_dims[0]), (others, in_dims[1]))
    )
    return overlaps(first, second, *where), 0
