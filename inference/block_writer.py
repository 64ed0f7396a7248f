"""What blocks of derivatives are made into others with, as operations of a graph that is being written."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from bayesprof.inference.blocks import Block, Tangent, carried
from bayesprof.placing import placed, seen

Node = Any
"""A torch.fx.Node. Its arguments may be of two dozen types, of which captured operations take those they do."""

_ATEN = torch.ops.aten
_LARGE = 4096  # elements; tangents of larger arrays are left in blocks rather than copied into one


class BlockWriter(ABC):
    """Writes a `graph` of derivatives: by node of the graph that is differentiated, the nodes written for its `value`
    and the `tangent` of that. `zeros` are nodes that vanish, though their derivatives don't.
    """

    zeros: set[Node]

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.value: dict[Node, fx.Node] = {}
        self.tangent: dict[Node, Tangent] = {}

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
        return self.graph.call_function(target, args, kwargs)

    @abstractmethod
    def of_any(self, node: Node) -> Tangent:
        """The tangent of any operation, without a rule."""

    def mapped(self, node: Node, change: Callable[[Any], Any]) -> Tangent:
        """The blocks of `node` with their rows changed, element by element."""
        return tuple(block._replace(rows=change(block.rows)) for block in self.tangent.get(node, ()))

    def moved(self, node: Node, change: Callable[[Any], Any], operation: Callable[[Tensor], Tensor]) -> Tangent:
        """The blocks of `node` with their rows changed by what is the `operation` on a value: one that moves elements
        about.
        """
        blocks = []
        for block in self.tangent.get(node, ()):
            ready, ((active, axis),) = self.ready(block, node.meta["val"], [operation])
            blocks.append(self.complete(Block(active, change(ready.rows), axis)))
        return tuple(blocks)

    def ready(
        self, block: Block, like: Tensor, operations: Sequence[Callable[[Tensor], Tensor]]
    ) -> tuple[Block, list[tuple[Any, int | None]]]:
        """A block of an array `like` this one, and its `active` and `axis` after each of the operations; made plain
        where those can't tell.
        """
        if block.axis is not None:
            found = [carried(block, like.shape, operation) for operation in operations]
            if None not in found:
                return block, [place for place in found if place is not None]
            block = self.written_out(block, like)
        return block, [(block.active, None)] * len(operations)

    def finished(self, node: Node, in_windows: bool, diagonal: bool) -> Tangent:
        """The blocks of `node` as they are handed out: with a row for each entry, or in windows, or diagonal."""
        blocks = self.tangent.get(node, ()) if in_windows else self.whole(node)
        return tuple(block if block.at or diagonal else self.written_out(block, node.meta["val"]) for block in blocks)

    def whole(self, node: Node) -> Tangent:
        """The blocks of `node`, those in windows written out."""
        return tuple(self._whole(block) for block in self.tangent.get(node, ()))

    def _whole(self, block: Block) -> Block:
        if block.at is None:
            return block
        count = len(block.at.y)
        pieces = []
        for i, (y, x) in enumerate(zip(block.at.y, block.at.x, strict=True)):
            rows = self.call(_ATEN.slice.Tensor, block.rows, 1, i, i + 1)
            pieces.append(self.call(placed, [rows], [y], [x], block.at.ny, block.at.nx))
        rows = pieces[0] if count == 1 else self.call(_ATEN.cat.default, pieces)
        return self.complete(Block(tuple(row[i] for i in range(count) for row in block.active), rows))

    def seen(self, block: Block, like: Tensor, value: Any) -> Any:
        """A number or a `value` of the shape of an array `like` this one, as the rows of a block of it need it."""
        if block.at is None or not isinstance(value, fx.Node) or like.numel() == 1:
            return value
        y, x, height, width, ny, nx = block.at
        if like.shape != (ny, nx):
            value = self.call(_ATEN.expand.default, value, [ny, nx])
        return self.call(seen, value, list(y), list(x), height, width)

    def plain(self, node: Node) -> Tangent:
        """The blocks of `node`, diagonal ones written out."""
        return tuple(self.written_out(block, node.meta["val"]) for block in self.tangent.get(node, ()))

    def written_out(self, block: Block, like: Tensor) -> Block:
        """A block of an array `like` this one, with a row for each entry."""
        if block.axis is None:
            return block
        count = like.shape[block.axis]
        unit = self.call(_ATEN.eye.default, count, dtype=like.dtype, device=like.device)
        unit = self.call(
            _ATEN.reshape.default, unit, [count, *[1] * (like.ndim + block.axis), count, *[1] * (-block.axis - 1)]
        )
        rows = self.call(_ATEN.mul.Tensor, self.call(_ATEN.unsqueeze.default, block.rows, 1), unit)
        rows = self.call(_ATEN.reshape.default, rows, [len(block.active) * count, *like.shape])
        return self.complete(Block(tuple(entry for row in block.active for entry in row), rows))

    def complete(self, block: Block) -> Block:
        """A plain block without rows that belong to no entry, and with one row for each entry."""
        if block.axis is not None or (None not in block.active and len(set(block.active)) == len(block.active)):
            return block
        union = tuple(dict.fromkeys(entry for entry in block.active if entry is not None))
        kept = [row for row, entry in enumerate(block.active) if entry is not None]
        places = [union.index(entry) for entry in block.active if entry is not None]
        return Block(union, self.call(gathered, block.rows, kept, places, len(union)))

    def summed(self, block: Block, like: Tensor, axes: list[int], keepdim: bool) -> Block:
        """A diagonal block of an array `like` this one, summed along some axes, counted from its end."""
        assert block.axis is not None
        others = [axis for axis in axes if axis != block.axis]
        rows = self.call(_ATEN.sum.dim_IntList, block.rows, others, True) if others else block.rows
        shape = [1 if axis in axes else size for axis, size in zip(range(-like.ndim, 0), like.shape, strict=True)]
        kept = [size for axis, size in zip(range(-like.ndim, 0), shape, strict=True) if keepdim or axis not in axes]
        if block.axis not in axes:
            shape[block.axis] = like.shape[block.axis]
            behind = 0 if keepdim else sum(axis > block.axis for axis in axes)
            return Block(block.active, self.call(_ATEN.reshape.default, rows, [-1, *kept]), block.axis + behind)
        first = like.ndim + 1 + block.axis
        order = [0, first, *(place for place in range(1, like.ndim + 1) if place != first)]
        rows = self.call(_ATEN.reshape.default, self.call(_ATEN.permute.default, rows, order), [-1, *kept])
        return self.complete(Block(tuple(entry for row in block.active for entry in row), rows))

    def aligned(self, node: Node, rank: int) -> Tangent:
        """The blocks of `node`, to broadcast with an array of `rank` axes behind a first axis of their own."""
        shape = node.meta["val"].shape
        if len(shape) == rank:
            return self.tangent.get(node, ())
        inserted = [1] * (rank - len(shape)) + list(shape)
        return self.mapped(node, lambda rows: self.call(_ATEN.reshape.default, rows, [-1, *inserted]))

    def rows_along(self, node: Node, tangent: Tangent, union: tuple[Any, ...]) -> Node:
        """The rows of a `tangent` of `node`, whose blocks are of one kind, along all of `union`: zeros where it doesn't
        depend on an entry.
        """
        like = node.meta["val"]
        if not tangent:
            options = {"dtype": like.dtype, "device": like.device}
            return self.call(_ATEN.zeros.default, [len(union), *like.shape], **options)
        if len(tangent) == 1 and tangent[0].active == union:
            return tangent[0].rows
        parts = [self._placed(block, union) for block in tangent]
        return functools.reduce(lambda first, second: self.call(_ATEN.add.Tensor, first, second), parts)

    def _placed(self, block: Block, union: tuple[Any, ...]) -> Node:
        """The rows of `block` at their places in `union`, zeros elsewhere."""
        places = [union.index(entry) for entry in block.active]
        return self.call(gathered, block.rows, list(range(len(places))), places, len(union))

    def sum(self, tangents: Sequence[Tangent], like: Tensor, *, shapes: Sequence[torch.Size] | None = None) -> Tangent:
        """Sum of tangents of an array `like` it; their own `shapes`, where they are other ones, broadcast to its."""
        shape = like.shape
        full = [
            tuple(block if own == shape else self._expanded(block, shape) for block in tangent)
            for tangent, own in zip(tangents, shapes or [shape] * len(tangents), strict=True)
        ]
        blocks: list[Block] = []
        for block in (block for tangent in full for block in tangent):
            meeting = [other for other in blocks if other.kind == block.kind and set(other.active) & set(block.active)]
            blocks = [other for other in blocks if other not in meeting]
            joined = block
            for other in meeting:
                joined = self._added(other, joined, like)
            blocks.append(joined)
        if shape.numel() <= _LARGE and len(blocks) > 1:
            blocks = [
                self._together([b for b in blocks if b.kind == kind]) for kind in dict.fromkeys(b.kind for b in blocks)
            ]
        return tuple(blocks)

    def _together(self, blocks: list[Block]) -> Block:
        if len(blocks) == 1:
            return blocks[0]
        active = tuple(entry for block in blocks for entry in block.active)
        return Block(active, self.call(_ATEN.cat.default, [block.rows for block in blocks]), *blocks[0].kind)

    def _expanded(self, block: Block, shape: Sequence[int]) -> Block:
        block = self._whole(block)
        return block._replace(rows=self.expanded(block, shape))

    def expanded(self, block: Block, shape: Sequence[int]) -> Node:
        return self.call(_ATEN.expand.default, block.rows, [len(block.active), *shape])

    def _added(self, first: Block, second: Block, like: Tensor) -> Block:
        if first.active == second.active:
            return first._replace(rows=self.call(_ATEN.add.Tensor, first.rows, second.rows))
        union = tuple(dict.fromkeys((*first.active, *second.active)))
        if like.numel() <= _LARGE:
            placed = [self._placed(block, union) for block in (first, second)]
            return Block(union, self.call(_ATEN.add.Tensor, *placed), *first.kind)
        places = [union.index(entry) for entry in second.active]
        return Block(union, self.call(overlapping, first.rows, second.rows, places), *first.kind)


def gathered(rows: Tensor, kept: list[int], places: list[int], count: int) -> Tensor:
    """Those of the rows that are `kept`, added up at their `places` among `count`."""
    result = torch.zeros(count, *rows.shape[1:], dtype=rows.dtype, device=rows.device)
    return result.index_add(0, torch.tensor(places, device=rows.device), rows[kept])


def overlapping(first: Tensor, second: Tensor, places: list[int]) -> Tensor:
    """Sum of two blocks of rows, the second put at its `places`, of which some lie behind the rows of the first."""
    row_at = {place: row for row, place in enumerate(places)}
    rows = [row + second[row_at[place]] if place in row_at else row for place, row in enumerate(first.unbind(0))]
    return torch.stack([*rows, *(second[row] for row, place in enumerate(places) if place >= len(rows))])
