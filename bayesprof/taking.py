"""Taking some of the elements along an axis, in any order, and putting them back.

Operations of torch of their own, so that a graph of them says which elements they are: derivatives then go along the
parameters of those alone. An `axis` is counted from the end, ``-1`` the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("bayesprof::take", mutates_args=())
def take(array: Tensor, axis: int, places: Sequence[int]) -> Tensor:
    """The elements of `array` at `places` along an axis, which it has as many of afterwards."""
    return array.index_select(axis, torch.tensor(places, device=array.device))


@torch.library.custom_op("bayesprof::put", mutates_args=())
def put(array: Tensor, axis: int, places: Sequence[int], size: int) -> Tensor:
    """Zeros with `size` elements along an axis, and those of `array` added at `places` of it."""
    shape = list(array.shape)
    shape[axis] = size
    return array.new_zeros(shape).index_add(axis, torch.tensor(places, device=array.device), array)


@take.register_fake
def _(array: Tensor, axis: int, places: Sequence[int]) -> Tensor:
    shape = list(array.shape)
    shape[axis] = len(places)
    return array.new_empty(shape)


@put.register_fake
def _(array: Tensor, axis: int, places: Sequence[int], size: int) -> Tensor:
    shape = list(array.shape)
    shape[axis] = size
    return array.new_empty(shape)


class Whole(tuple[int, ...]):
    """Places as one argument, which transforms of torch.func don't look into."""


class _Take(torch.autograd.Function):
    """:func:`take`, with derivatives."""

    generate_vmap_rule = True

    @staticmethod
    def forward(array: Tensor, axis: int, places: Sequence[int]) -> Tensor:
        return take(array, axis, list(places))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        array, ctx.axis, ctx.places = inputs
        ctx.size = array.shape[ctx.axis]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _Put.apply(gradient, ctx.axis, ctx.places, ctx.size), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *others: Any) -> Any:
        return _Take.apply(tangent, ctx.axis, ctx.places)


class _Put(torch.autograd.Function):
    """:func:`put`, with derivatives."""

    generate_vmap_rule = True

    @staticmethod
    def forward(array: Tensor, axis: int, places: Sequence[int], size: int) -> Tensor:
        return put(array, axis, list(places), size)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, ctx.axis, ctx.places, ctx.size = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _Take.apply(gradient, ctx.axis, ctx.places), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *others: Any) -> Any:
        return _Put.apply(tangent, ctx.axis, ctx.places, ctx.size)


def taken(array: Tensor, axis: int, places: Sequence[int]) -> Tensor:
    """:func:`take`, with derivatives of any order and in any transform of torch.func."""
    result: Tensor = _Take.apply(array, axis, Whole(places))
    return result


def put_back(array: Tensor, axis: int, places: Sequence[int], size: int) -> Tensor:
    """:func:`put`, with derivatives likewise."""
    result: Tensor = _Put.apply(array, axis, Whole(places), size)
    return result


DIFFERENTIABLE = {torch.ops.bayesprof.take.default: taken, torch.ops.bayesprof.put.default: put_back}
"""What takes the place of an operation in a graph that is to be differentiated."""


@take.register_vmap
def _(info: Any, in_dims: Any, array: Tensor, *where: Any) -> tuple[Tensor, int]:
    return take(array.movedim(in_dims[0], 0), *where), 0


@put.register_vmap
def _(info: Any, in_dims: Any, array: Tensor, *where: Any) -> tuple[Tensor, int]:
    return put(array.movedim(in_dims[0], 0), *where), 0
