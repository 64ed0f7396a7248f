"""Windows of an image: putting arrays there, and cutting them out.

Both are operations of torch of their own, so that a graph of them is as small for a thousand windows as for one, and
says where each window lies. ``y`` and ``x`` are the rows and columns of their first pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from bayesprof.taking import Whole


@torch.library.custom_op("bayesprof::place", mutates_args=())
def place(arrays: Sequence[Tensor], y: Sequence[int], x: Sequence[int], ny: int, nx: int) -> Tensor:
    """Sum of all windows of several `arrays`, each of a shape ``batch + (windows, height, width)`` of its own, at their
    places on an image of (ny, nx), zero elsewhere; shape ``batch + (ny, nx)``. Windows lie inside the image.
    """
    batch = torch.broadcast_shapes(*(array.shape[:-3] for array in arrays))
    image = arrays[0].new_zeros(*batch, ny, nx)
    windows = [window for array in arrays for window in array.unbind(-3)]
    for window, top, left in zip(windows, y, x, strict=True):
        height, width = window.shape[-2:]
        image[..., top : top + height, left : left + width] += window
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
def _(arrays: Sequence[Tensor], y: Sequence[int], x: Sequence[int], ny: int, nx: int) -> Tensor:
    return arrays[0].new_empty(*torch.broadcast_shapes(*(array.shape[:-3] for array in arrays)), ny, nx)


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
    def forward(y: Sequence[int], x: Sequence[int], ny: int, nx: int, *arrays: Tensor) -> Tensor:
        return place(arrays, list(y), list(x), ny, nx)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.y, ctx.x, *ctx.shape = inputs[:4]
        ctx.windows = [array.shape[-3:] for array in inputs[4:]]
        ctx.save_for_forward(*inputs[4:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        parts = shared_out([count for count, *_ in ctx.windows], ctx.y, ctx.x)
        sizes = [(height, width) for _, height, width in ctx.windows]
        arrays = (seen(gradient, *part, *size) for part, size in zip(parts, sizes, strict=True))
        return None, None, None, None, *arrays

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        given = zip(tangents[4:], ctx.saved_tensors, strict=True)
        return _Place.apply(ctx.y, ctx.x, *ctx.shape, *(array * 0 if one is None else one for one, array in given))


class _Cut(torch.autograd.Function):
    """:func:`cut`, with derivatives."""

    generate_vmap_rule = True

    @staticmethod
    def forward(image: Tensor, y: Sequence[int], x: Sequence[int], height: int, width: int) -> Tensor:
        return cut(image, list(y), list(x), height, width)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        image, *ctx.where = inputs
        ctx.shape = image.shape[-2:]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _Place.apply(*ctx.where[:2], *ctx.shape, gradient), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *others: Any) -> Any:
        return _Cut.apply(tangent, *ctx.where)


def placed(arrays: Sequence[Tensor], y: Sequence[int], x: Sequence[int], ny: int, nx: int) -> Tensor:
    """:func:`place`, with derivatives of any order and in any transform of torch.func."""
    image: Tensor = _Place.apply(Whole(y), Whole(x), ny, nx, *arrays)
    return image


def shared_out(counts: Sequence[int], y: Sequence[int], x: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """`y` and `x` of the windows of each array, which has so many."""
    ends = list(accumulate(counts))
    return [(list(y[end - count : end]), list(x[end - count : end])) for count, end in zip(counts, ends, strict=True)]


def seen(image: Tensor, y: Sequence[int], x: Sequence[int], height: int, width: int) -> Tensor:
    """:func:`cut`, with derivatives likewise."""
    arrays: Tensor = _Cut.apply(image, Whole(y), Whole(x), height, width)
    return arrays


DIFFERENTIABLE = {torch.ops.bayesprof.place.default: placed, torch.ops.bayesprof.cut.default: seen}
"""What takes the place of an operation in a graph that is to be differentiated."""


@place.register_vmap
def _(info: Any, in_dims: Any, arrays: Sequence[Tensor], *where: Any) -> tuple[Tensor, int]:
    moved = [
        array.unsqueeze(0) if dim is None else array.movedim(dim, 0)
        for array, dim in zip(arrays, in_dims[0], strict=True)
    ]
    return place(moved, *where), 0


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
