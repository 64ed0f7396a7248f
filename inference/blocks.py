"""Blocks of derivatives, and how their entries lie after an operation has moved the elements of an array about.

A block holds the derivatives of an array along some entries of the vector, one row for each. In a *diagonal* block the
elements along one axis of the array have entries of their own: element i of a stack of galaxies moves with the
parameters of galaxy i alone. One row then serves all galaxies, row r being the derivative of element i along entry
``active[r][i]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Windows(NamedTuple):
    """Windows of one size on an image of (ny, nx): the rows `y` and columns `x` of their first pixels."""

    y: tuple[int, ...]
    x: tuple[int, ...]
    height: int
    width: int
    ny: int
    nx: int


class Block(NamedTuple):
    """Derivatives along the entries `active` of the vector: `rows`, an array with a first axis for them.

    Of a diagonal block, `axis` is that of the elements, counted from the end, and `active` has for each row the entry
    of each element along it, None where it has none. One of an image may be given in windows alone, and be zero
    elsewhere: rows have the shape (rows, windows, height, width) then, and `at` says where those windows lie.
    """

    active: tuple[Any, ...]
    rows: Any
    axis: int | None = None
    at: Windows | None = None

    @property
    def kind(self) -> tuple[int | None, Windows | None]:
        """What blocks have in common whose rows can be added."""
        return self.axis, self.at


Tangent = tuple[Block, ...]
"""Blocks; none of them where nothing depends on the vector."""


def carried(block: Block, shape: Sequence[int], operation: Callable[[Tensor], Tensor]) -> tuple[Any, int | None] | None:
    """`active` and `axis` of a diagonal block of an array of `shape` after an `operation` that moves elements about,
    or leaves out or joins some with equal entries; None where they no longer lie along one axis.
    """
    assert block.axis is not None
    # elements with equal entries are one place: those of a galaxy stay together where axes were joined
    columns = list(zip(*block.active, strict=True))
    first = {column: place for place, column in reversed(list(enumerate(columns)))}
    places = torch.tensor([first[column] for column in columns])
    places = places.reshape(-1, *[1] * (-block.axis - 1)).expand(*shape)
    line, axis = line_along(operation(places))
    if axis is None:
        return (tuple(row[line[0]] for row in block.active), None) if line else None
    return tuple(tuple(row[place] for place in line) for row in block.active), axis


def line_along(places: Tensor) -> tuple[list[int], int | None]:
    """The only axis of an array that its entries vary along, counted from the end, and the entries there; one entry and
    None where all are the same, none and None where they vary along several.
    """
    varying = [axis for axis in range(-places.ndim, 0) if _varies(places, axis)]
    if len(varying) > 1 or places.numel() == 0:
        return [], None
    if not varying:
        return [int(places.flatten()[0])], None
    (axis,) = varying
    return places[tuple(slice(None) if other == axis else 0 for other in range(-places.ndim, 0))].tolist(), axis


def _varies(places: Tensor, axis: int) -> bool:
    if places.shape[axis] == 1 or places.stride(axis) == 0:
        return False
    return bool((places != places.narrow(axis, 0, 1)).any())


def with_block(dense: Tensor, block: Block, rows: Tensor) -> Tensor:
    """Derivatives of an array along all entries of the vector, shape (D, ...), with the `rows` of a block added."""
    if block.axis is None:
        where = torch.tensor(block.active, device=rows.device)
        return dense.index_put((where,), rows.reshape(len(where), *dense.shape[1:]), accumulate=True)
    entries, elements, known = places_of(block, rows)
    flat = dense.reshape(len(dense), -1).index_put((entries, elements), rows[known], accumulate=True)
    return flat.reshape(dense.shape)


def places_of(block: Block, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of those of the `rows` of a block that are `known` to belong to an entry of the vector: that entry, and the
    element of the flattened array that they are the derivative of.
    """
    active = block.active if block.axis is not None else [[entry] for entry in block.active]
    entries = torch.tensor([[-1 if entry is None else entry for entry in row] for row in active], device=rows.device)
    axis = -1 if block.axis is None else block.axis
    inner = [1] * (rows.ndim - 1 + axis)
    entries = entries.reshape(len(entries), *inner, -1, *[1] * (-axis - 1)) if rows.ndim > 1 else entries[:, 0]
    entries = entries.expand(rows.shape)
    known = entries >= 0
    elements = torch.arange(rows[0].numel(), device=rows.device).reshape(rows.shape[1:]).expand(rows.shape)
    return entries[known], elements[known], known
