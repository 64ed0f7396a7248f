"""What loops are made of: arrays, views of them, and what is done for each of their elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

Shape = tuple[int, ...]
_ATEN = torch.ops.aten
LAST = 10**6
"""Level of the library's operations, which end a stage."""


@dataclass(eq=False)
class Buffer:
    """A contiguous array: argument number `argument` of the graph, or else memory used from time `first` to `last`
    (stage and level).
    """

    numel: int
    dtype: torch.dtype
    argument: int | None = None
    first: tuple[int, int] = (LAST, LAST)
    last: tuple[int, int] = (-1, -1)

    @property
    def bytes(self) -> int:
        return self.numel * self.dtype.itemsize

    def used(self, stage: int, level: int) -> None:
        self.first, self.last = min(self.first, (stage, level)), max(self.last, (stage, level))


@dataclass(eq=False)
class Item:
    """What is done for each element of `shape` in one loop.

    `kind`: "point" makes a value by the operation `target`; "store" puts one into the array `out`; "sum" adds it up
    over the axes along which `out` doesn't move; "scatter" adds it at the place in `out` that the last operand says.
    `operands`: other items of the same loop, views to read, numbers; those of a look-up are the index and the view.
    """

    kind: str
    target: Any
    shape: Shape
    dtype: torch.dtype
    stage: int
    level: int
    loop: Shape
    operands: list[Any]
    given: list[Any]  # the operands as views
    dtypes: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    out: View | None = None
    alone: int = 0  # items that share a loop have the same; 0 for all but those that can't share theirs

    @property
    def key(self) -> tuple[int, int, Shape, int]:
        return self.stage, self.level, self.loop, self.alone


@dataclass(eq=False)
class Made:
    """An array that several items write: ready after `stage` and `level`."""

    buffer: Buffer
    stage: int
    level: int


@dataclass(eq=False)
class External:
    """An operation of the library, run at the end of its stage on views and earlier results."""

    target: Any
    args: Any
    kwargs: Any
    stage: int
    views: list[View]
    result: Tensor  # its layout


class View(NamedTuple):
    """A tensor's layout (`tensor`, without data) in the contiguous array that `source` makes or is, and the `changes`
    of shape that led there.
    """

    source: Any  # an Item, Made, External or Buffer
    tensor: Tensor
    changes: tuple[tuple[Any, Any, Any], ...] = ()

    def changed(self, target: Any, *args: Any, **kwargs: Any) -> View:
        return View(self.source, target(self.tensor, *args, **kwargs), (*self.changes, (target, args, kwargs)))

    def expanded(self, shape: Sequence[int]) -> View:
        same = tuple(self.tensor.shape) == tuple(shape)
        return self if same else self.changed(_ATEN.expand.default, list(shape))

    @property
    def whole(self) -> bool:
        """Whether it is all that the source makes, in the same order."""
        return self.tensor.is_contiguous() and self.tensor.storage_offset() == 0 and self._numel == self.tensor.numel()

    @property
    def _numel(self) -> int:
        source = self.source
        if isinstance(source, Item):
            return math.prod(source.shape) if source.dtype == self.tensor.dtype else -1
        buffer = source.buffer if isinstance(source, Made) else source
        return buffer.numel if isinstance(buffer, Buffer) and buffer.dtype == self.tensor.dtype else -1


class UnsupportedError(Exception):
    """A graph that can't be written as loops."""


def layout(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def squeezed(shape: Sequence[int]) -> Shape:
    return tuple(size for size in shape if size != 1)


def runs(shape: Sequence[int], finer: Shape) -> list[list[int]] | None:
    """For each axis of `shape` longer than 1, the consecutive axes of `finer` that make it up; None where none do."""
    found, place = [], 0
    for size in squeezed(shape):
        run: list[int] = []
        product = 1
        while product < size and place < len(finer):
            product *= finer[place]
            run.append(place)
            place += 1
        if product != size:
            return None
        found.append(run)
    return found if place == len(finer) else None


def strides_along(strides: Sequence[int], shape: Sequence[int], loop: Shape) -> list[int]:
    """Strides along the axes of a `loop` over `shape`, from those along the axes of `shape`."""
    found = [0] * len(loop)
    of_runs = runs(shape, loop)
    assert of_runs is not None
    long = [stride for stride, size in zip(strides, shape, strict=True) if size != 1]
    for stride, run in zip(long, of_runs, strict=True):
        for axis in reversed(run):
            found[axis] = stride
            stride *= loop[axis]
    return found


def ready(source: Any) -> int:
    """First stage in which what `source` makes can be read."""
    if isinstance(source, External):
        return source.stage + 1
    return source.stage if isinstance(source, Item | Made) else 0
