"""Forward mode of operations that move, join, add up or transform the elements of arrays: rules that know which axis of
a diagonal block is which (:mod:`bayesprof.inference.blocks`).
"""

from __future__ import annotations

import torch

from bayesprof.inference.block_writer import BlockWriter, Node
from bayesprof.inference.blocks import Block, Tangent, Windows
from bayesprof.inference.separate import axis_put_back
from bayesprof.placing import shared_out
from bayesprof.taking import take

_ATEN = torch.ops.aten


def placed(w: BlockWriter, node: Node) -> Tangent:
    """Arrays put into their windows of an image, whose rows are best left there."""
    arrays, y, x, ny, nx = node.args
    if any(b.axis not in (None, -3) for array in arrays for b in w.tangent.get(array, ())):
        return w.of_any(node)
    shapes = [array.meta["val"].shape[-3:] for array in arrays]
    tangents = []
    for array, (_, height, width), where in zip(
        arrays, shapes, shared_out([count for count, *_ in shapes], y, x), strict=True
    ):
        at = Windows(tuple(where[0]), tuple(where[1]), height, width, ny, nx)
        blocks = []
        for block in w.tangent.get(array, ()):
            if block.axis is None and len(at.y) == 1:
                block = block._replace(active=tuple((entry,) for entry in block.active), axis=-3)
            if block.axis is None:
                blocks.append(block._replace(rows=w.call(node.target, [block.rows], *where, ny, nx)))
            else:
                blocks.append(block._replace(at=at))
        tangents.append(tuple(blocks))
    return w.sum(tangents, node.meta["val"])


def cut(w: BlockWriter, node: Node) -> Tangent:
    return tuple(b._replace(rows=w.call(node.target, b.rows, *node.args[1:])) for b in w.plain(node.args[0]))


def shaped(w: BlockWriter, node: Node) -> Tangent:
    shape = list(node.meta["val"].shape)
    return w.moved(
        node.args[0], lambda rows: w.call(_ATEN.reshape.default, rows, [-1, *shape]), lambda value: value.reshape(shape)
    )


def along(w: BlockWriter, node: Node) -> Tangent:
    """Rule of a view whose second argument is an axis."""
    source, axis, *others = (*node.args, 0)[: max(len(node.args), 2)]
    moved = _behind_rows(axis)
    return w.moved(
        source,
        lambda rows: w.call(node.target, rows, moved, *others, **node.kwargs),
        lambda value: node.target(value, axis, *others, **node.kwargs),
    )


def _behind_rows(axis: int) -> int:
    """The axis of rows that is `axis` of the value: the new one is in front, and axes counted from the end stay."""
    return axis if axis < 0 else axis + 1


def summed_along(w: BlockWriter, node: Node) -> Tangent:
    source, axes, *keeps = (*node.args, [])[: max(len(node.args), 2)]
    keepdim = bool(keeps and keeps[0])
    like = source.meta["val"]
    axes = [axis % like.ndim - like.ndim for axis in axes or range(like.ndim)]
    tangents = []
    for block in w.tangent[source]:
        if block.axis is None:
            tangents.append(block._replace(rows=w.call(node.target, block.rows, axes, keepdim, **node.kwargs)))
        else:
            tangents.append(w.summed(block, like, axes, keepdim))
    return w.sum([(block,) for block in tangents], node.meta["val"])


def summed(w: BlockWriter, node: Node) -> Tangent:
    like = node.args[0].meta["val"]
    axes = list(range(-like.ndim, 0))
    tangents = []
    for block in w.tangent[node.args[0]]:
        if block.axis is not None:
            tangents.append(w.summed(block, like, axes, False))
        elif axes:
            tangents.append(block._replace(rows=w.call(_ATEN.sum.dim_IntList, block.rows, axes)))
        else:
            tangents.append(block)
    return w.sum([(block,) for block in tangents], node.meta["val"])


def transformed(w: BlockWriter, node: Node) -> Tangent:
    """Fourier transforms along some axes."""
    source, axes, *others = node.args
    rank = source.meta["val"].ndim
    axes = [axis % rank for axis in axes]
    along = any(b.axis is not None and b.axis % rank in axes for b in w.tangent[source])
    tangent = w.plain(source) if along else w.tangent[source]
    behind = [axis + 1 for axis in axes]  # torch's own transforms take no negative ones
    return tuple(b._replace(rows=w.call(node.target, b.rows, behind, *others)) for b in tangent)


def backward_of_a_view(w: BlockWriter, node: Node) -> Tangent:
    """An array put into zeros of the shape given, by a slice or an index along an axis."""
    source, shape, axis, *where = node.args
    moved = _behind_rows(axis)
    blocks = []
    for block in w.tangent[source]:
        own = None if block.axis is None else axis_put_back(node, block.axis)
        block = w.written_out(block, source.meta["val"]) if own is None else block
        rows = w.call(node.target, block.rows, [len(block.active), *shape], moved, *where)
        blocks.append(block._replace(rows=rows, axis=own))
    return tuple(blocks)


def taken(w: BlockWriter, node: Node) -> Tangent:
    """Some elements along an axis, which is counted from the end and so that of rows, too."""
    source, *where = node.args
    return w.moved(source, lambda rows: w.call(node.target, rows, *where), lambda value: take(value, *where))


def put_back(w: BlockWriter, node: Node) -> Tangent:
    """Elements put at their places along an axis of zeros."""
    source, axis, places, size = node.args
    blocks = []
    for block in w.tangent[source]:
        if block.axis is not None and (block.axis != axis or len(set(places)) < len(places)):
            block = w.written_out(block, source.meta["val"])
        active = block.active
        if block.axis is not None:
            place_of = {place: i for i, place in enumerate(places)}
            active = tuple(
                tuple(row[place_of[i]] if i in place_of else None for i in range(size)) for row in block.active
            )
        blocks.append(block._replace(active=active, rows=w.call(node.target, block.rows, axis, places, size)))
    return tuple(blocks)


def permuted(w: BlockWriter, node: Node) -> Tangent:
    source, order = node.args
    rank = source.meta["val"].ndim
    moved = [0, *(axis % rank + 1 for axis in order)]
    return w.moved(source, lambda rows: w.call(node.target, rows, moved), lambda value: value.permute(order))


def exchanged(w: BlockWriter, node: Node) -> Tangent:
    source, *axes = node.args
    rank = source.meta["val"].ndim
    moved = [axis % rank + 1 for axis in axes or range(rank)]
    if len(moved) < 2:
        return w.tangent[source]
    return w.moved(
        source,
        lambda rows: w.call(_ATEN.transpose.int, rows, *moved),
        lambda value: value.transpose(moved[0] - 1, moved[1] - 1),
    )


def multiplied(w: BlockWriter, node: Node) -> Tangent:
    """A matrix product with one factor that doesn't move."""
    first, second = node.args
    if first in w.tangent and second in w.tangent:
        return w.of_any(node)
    if second in w.tangent:
        if second.meta["val"].ndim == 1:  # a matrix times the rows, which are vectors
            turned = w.call(_ATEN.transpose.int, w.value[first], -1, -2)
            return tuple(b._replace(rows=w.call(torch.matmul, b.rows, turned)) for b in w.plain(second))
        tangent = w.plain(second) if any(b.axis == -2 for b in w.tangent[second]) else w.tangent[second]
        return tuple(b._replace(rows=w.call(torch.matmul, w.value[first], b.rows)) for b in tangent)
    tangent = w.plain(first) if any(b.axis == -1 for b in w.tangent[first]) else w.tangent[first]
    lost = second.meta["val"].ndim == 1  # the last axis
    return tuple(
        Block(b.active, w.call(torch.matmul, b.rows, w.value[second]), b.axis + lost if b.axis is not None else None)
        for b in tangent
    )


def dotted(w: BlockWriter, node: Node) -> Tangent:
    tangents = []
    for here, other in (node.args, node.args[::-1]):
        if here in w.tangent:
            along = [b._replace(rows=w.call(torch.matmul, b.rows, w.value[other])) for b in w.plain(here)]
            tangents.append(tuple(along))
    return w.sum(tangents, node.meta["val"])


def _of_each_row(w: BlockWriter, array: Node, block: Block) -> Node:
    """`array`, which doesn't move, for each of the rows of `block`."""
    return w.call(_ATEN.expand.default, w.value[array], [len(block.active), *array.meta["val"].shape])


def gathered(w: BlockWriter, node: Node) -> Tangent:
    source, axis, index = node.args
    return tuple(
        b._replace(rows=w.call(node.target, b.rows, _behind_rows(axis), _of_each_row(w, index, b)))
        for b in _across(w, source, axis)
    )


def scattered(w: BlockWriter, node: Node) -> Tangent:
    """What is added at the places of an index to an array that doesn't move."""
    into, axis, index, source = node.args
    if into in w.tangent:
        return w.of_any(node)
    moved = _behind_rows(axis)
    like = into.meta["val"]
    blocks = []
    for b in _across(w, source, axis):
        zeros = w.call(_ATEN.zeros.default, [len(b.active), *like.shape], dtype=like.dtype, device=like.device)
        rows = w.call(node.target, zeros, moved, _of_each_row(w, index, b), b.rows)
        blocks.append(b._replace(rows=rows))
    return tuple(blocks)


def _across(w: BlockWriter, node: Node, axis: int) -> Tangent:
    """The blocks of `node`, plain ones where elements along `axis` have entries of their own."""
    rank = node.meta["val"].ndim
    along = any(b.axis is not None and b.axis % rank == axis % rank for b in w.tangent[node])
    return w.plain(node) if along else w.tangent[node]


def concatenated(w: BlockWriter, node: Node) -> Tangent:
    """Rule of cat."""
    rank = node.meta["val"].ndim
    return _side_by_side(w, node, _axis_of(node) % rank - rank)


def _axis_of(node: Node) -> int:
    """The axis that cat or stack was given."""
    axis: int = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    return axis


def stacked(w: BlockWriter, node: Node) -> Tangent:
    """Rule of stack. Numbers that depend on entries of their own make a diagonal block."""
    parts, rank = node.args[0], node.meta["val"].ndim
    if rank > 1:
        return _side_by_side(w, node, _axis_of(node) % rank - rank)
    own = [tuple(entry for block in w.tangent.get(part, ()) for entry in block.active) for part in parts]
    most = max(map(len, own))
    if most == len({entry for entries in own for entry in entries}):
        return _side_by_side(w, node, -1)
    rows = []
    for part, entries in zip(parts, own, strict=True):
        missing = tuple(range(-1, len(entries) - most - 1, -1))  # no entries of the vector: rows of zeros
        rows.append(w.rows_along(part, w.tangent.get(part, ()), entries + missing))
    active = zip(*(entries + (None,) * (most - len(entries)) for entries in own), strict=True)
    return (Block(tuple(active), w.call(node.target, rows, 1), -1),)


def _side_by_side(w: BlockWriter, node: Node, axis: int) -> Tangent:
    """Rule of cat and stack along `axis` of the result, counted from its end: rows along all that any part moves along,
    of the parts one behind the other.
    """
    parts = node.args[0]
    tangents = [w.tangent.get(part, ()) for part in parts]
    axes = {block.axis for tangent in tangents for block in tangent}
    stacked = node.target == _ATEN.stack.default
    if axes != {None} and (len(axes) > 1 or (not stacked and axis in axes)):
        tangents = [w.plain(part) for part in parts]
        axes = {None}
    (old,) = axes
    new = old - 1 if stacked and old is not None and axis >= old else old
    layouts = {tuple(block.active for block in tangent) for tangent in tangents}
    if len(layouts) == 1:  # as of pieces of one array
        return tuple(
            Block(same[0].active, w.call(node.target, [b.rows for b in same], axis), new)
            for same in zip(*tangents, strict=True)
        )
    union = tuple(dict.fromkeys(e for tangent in tangents for b in tangent for e in b.active))
    rows = [w.rows_along(part, tangent, union) for part, tangent in zip(parts, tangents, strict=True)]
    return (Block(union, w.call(node.target, rows, axis), new),)


def in_pairs(w: BlockWriter, node: Node) -> Tangent:
    """Complex numbers as pairs of real ones."""
    return w.moved(
        node.args[0],
        lambda rows: w.call(node.target, rows),
        lambda value: value[..., None].expand(*value.shape, 2),
    )
