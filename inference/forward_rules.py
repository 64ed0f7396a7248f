"""How single operations of a graph are differentiated in forward mode (:mod:`bayesprof.inference.forward_mode`).

A rule takes the writer of the derivative's graph and a node, and returns the tangent of the node's value. An operation
without a rule is differentiated by torch.func.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, fx

from bayesprof.inference.blocks import Block, Tangent, Windows
from bayesprof.placing import placed, seen
from bayesprof.sparse import PRODUCT, sparse_product

Node = Any
"""A torch.fx.Node. Its arguments may be of two dozen types, of which captured operations take those they do."""

_ATEN = torch.ops.aten


class Writer(Protocol):
    """What a rule may ask for: the nodes written for values, the tangents of their arguments, and more nodes."""

    value: dict[Node, fx.Node]
    tangent: dict[Node, Tangent]
    zeros: set[Node]

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Node: ...
    def mapped(self, node: Node, change: Callable[[Any], Any]) -> Tangent: ...
    def moved(self, node: Node, change: Callable[[Any], Any], operation: Callable[[Tensor], Tensor]) -> Tangent: ...
    def plain(self, node: Node) -> Tangent: ...
    def aligned(self, node: Node, rank: int) -> Tangent: ...
    def expanded(self, block: Block, shape: Any) -> Node: ...
    def seen(self, block: Block, like: Tensor, value: Any) -> Any: ...
    def summed(self, block: Block, like: Tensor, axes: list[int], keepdim: bool) -> Block: ...
    def rows_along(self, node: Node, tangent: Tangent, union: tuple[Any, ...]) -> Node: ...
    def sum(self, tangents: Any, like: Tensor, *, shapes: Any = None) -> Tangent: ...
    def of_any(self, node: Node) -> Tangent: ...


def _sum_of(w: Writer, node: Node) -> Tangent:
    sign = -1 if node.target == _ATEN.sub.Tensor else 1
    factor = sign * node.kwargs.get("alpha", 1)
    shape = node.meta["val"].shape
    first, second = (w.aligned(a, len(shape)) if isinstance(a, fx.Node) else () for a in node.args[:2])
    if factor != 1:
        change = _ATEN.neg.default if factor == -1 else None
        second = tuple(
            b._replace(rows=w.call(change, b.rows) if change else w.call(_ATEN.mul.Tensor, b.rows, factor))
            for b in second
        )
    shapes = [a.meta["val"].shape if isinstance(a, fx.Node) else shape for a in node.args[:2]]
    return w.sum([first, second], node.meta["val"], shapes=shapes)


def _product(w: Writer, node: Node) -> Tangent:
    shape = node.meta["val"].shape
    tangents = []
    for here, other in (node.args[:2], node.args[1::-1]):
        if isinstance(here, fx.Node) and here in w.tangent and other not in w.zeros:
            tangents.append(
                tuple(
                    b._replace(rows=w.call(_ATEN.mul.Tensor, b.rows, _seen(w, b, other)))
                    for b in w.aligned(here, len(shape))
                )
            )
    return w.sum(tangents, node.meta["val"])


def _quotient(w: Writer, node: Node) -> Tangent:
    if node.kwargs:  # a rounding mode
        return w.of_any(node)
    above, below = node.args
    shape = node.meta["val"].shape
    tangents = []
    if isinstance(above, fx.Node):
        tangents.append(
            tuple(
                b._replace(rows=w.call(_ATEN.div.Tensor, b.rows, _seen(w, b, below)))
                for b in w.aligned(above, len(shape))
            )
        )
    if isinstance(below, fx.Node) and below in w.tangent and above not in w.zeros:
        slope = w.call(_ATEN.neg.default, w.call(_ATEN.div.Tensor, w.value[node], w.value[below]))
        tangents.append(
            tuple(
                b._replace(rows=w.call(_ATEN.mul.Tensor, b.rows, w.seen(b, node.meta["val"], slope)))
                for b in w.aligned(below, len(shape))
            )
        )
    return w.sum(tangents, node.meta["val"])


def _seen(w: Writer, block: Block, factor: Any) -> Any:
    """The value of a factor, a node or a number, as the rows of a block need it."""
    return w.seen(block, factor.meta["val"], w.value[factor]) if isinstance(factor, fx.Node) else factor


def _placed(w: Writer, node: Node) -> Tangent:
    """Arrays put into their windows of an image, whose rows are best left there."""
    arrays, y, x, ny, nx = node.args
    if any(b.axis not in (None, -3) for b in w.tangent[arrays]):
        return w.of_any(node)
    height, width = arrays.meta["val"].shape[-2:]
    at = Windows(tuple(y), tuple(x), height, width, ny, nx)
    blocks = []
    for block in w.tangent[arrays]:
        if block.axis is None and len(y) == 1:
            block = block._replace(active=tuple((entry,) for entry in block.active), axis=-3)
        if block.axis is None:
            blocks.append(block._replace(rows=w.call(node.target, block.rows, y, x, ny, nx)))
        else:
            blocks.append(block._replace(at=at))
    return tuple(blocks)


def _cut(w: Writer, node: Node) -> Tangent:
    return tuple(b._replace(rows=w.call(node.target, b.rows, *node.args[1:])) for b in w.plain(node.args[0]))


def _slope_times(slope: Callable[[Writer, Any, Any, Node], Any]) -> Callable[[Writer, Node], Tangent]:
    """Rule of an elementwise function, given its slope from its argument and its value."""

    def rule(w: Writer, node: Node) -> Tangent:
        source = node.args[0]
        factor = slope(w, w.value[source], w.value[node], node)
        return tuple(
            b._replace(rows=w.call(_ATEN.mul.Tensor, b.rows, w.seen(b, source.meta["val"], factor)))
            for b in w.tangent.get(source, ())
        )

    return rule


def _linear(w: Writer, node: Node) -> Tangent:
    """An elementwise operation that is linear in its first argument, the others being numbers."""
    return w.mapped(node.args[0], lambda rows: w.call(node.target, rows, *node.args[1:], **node.kwargs))


def _shaped(w: Writer, node: Node) -> Tangent:
    shape = list(node.meta["val"].shape)
    return w.moved(
        node.args[0], lambda rows: w.call(_ATEN.reshape.default, rows, [-1, *shape]), lambda value: value.reshape(shape)
    )


def _broadcast(w: Writer, node: Node) -> Tangent:
    shape = node.meta["val"].shape
    if node.args[0].meta["val"].shape == shape:
        return w.tangent[node.args[0]]
    return w.sum([w.aligned(node.args[0], len(shape))], node.meta["val"], shapes=[node.args[0].meta["val"].shape])


def _along(w: Writer, node: Node) -> Tangent:
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


def _summed_along(w: Writer, node: Node) -> Tangent:
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


def _summed(w: Writer, node: Node) -> Tangent:
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


def _transformed(w: Writer, node: Node) -> Tangent:
    """Fourier transforms along some axes."""
    source, axes, *others = node.args
    rank = source.meta["val"].ndim
    axes = [axis % rank for axis in axes]
    along = any(b.axis is not None and b.axis % rank in axes for b in w.tangent[source])
    tangent = w.plain(source) if along else w.tangent[source]
    behind = [axis + 1 for axis in axes]  # torch's own transforms take no negative ones
    return tuple(b._replace(rows=w.call(node.target, b.rows, behind, *others)) for b in tangent)


def _backward_of_a_view(w: Writer, node: Node) -> Tangent:
    """An array put into zeros of the shape given, by a slice or an index along an axis."""
    source, shape, axis, *where = node.args
    moved = _behind_rows(axis)
    return tuple(
        b._replace(rows=w.call(node.target, b.rows, [len(b.active), *shape], moved, *where)) for b in w.plain(source)
    )


def _copied(w: Writer, node: Node) -> Tangent:
    shape = node.meta["val"].shape
    return tuple(b._replace(rows=w.expanded(b, shape)) for b in w.aligned(node.args[1], len(shape)))


def _permuted(w: Writer, node: Node) -> Tangent:
    source, order = node.args
    rank = source.meta["val"].ndim
    moved = [0, *(axis % rank + 1 for axis in order)]
    return w.moved(source, lambda rows: w.call(node.target, rows, moved), lambda value: value.permute(order))


def _exchanged(w: Writer, node: Node) -> Tangent:
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


def _multiplied(w: Writer, node: Node) -> Tangent:
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


def _dotted(w: Writer, node: Node) -> Tangent:
    tangents = []
    for here, other in (node.args, node.args[::-1]):
        if here in w.tangent:
            along = [b._replace(rows=w.call(torch.matmul, b.rows, w.value[other])) for b in w.plain(here)]
            tangents.append(tuple(along))
    return w.sum(tangents, node.meta["val"])


def _of_each_row(w: Writer, array: Node, block: Block) -> Node:
    """`array`, which doesn't move, for each of the rows of `block`."""
    return w.call(_ATEN.expand.default, w.value[array], [len(block.active), *array.meta["val"].shape])


def _gathered(w: Writer, node: Node) -> Tangent:
    source, axis, index = node.args
    return tuple(
        b._replace(rows=w.call(node.target, b.rows, _behind_rows(axis), _of_each_row(w, index, b)))
        for b in _across(w, source, axis)
    )


def _scattered(w: Writer, node: Node) -> Tangent:
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


def _across(w: Writer, node: Node, axis: int) -> Tangent:
    """The blocks of `node`, plain ones where elements along `axis` have entries of their own."""
    rank = node.meta["val"].ndim
    along = any(b.axis is not None and b.axis % rank == axis % rank for b in w.tangent[node])
    return w.plain(node) if along else w.tangent[node]


def _x_log_y(w: Writer, node: Node) -> Tangent:
    x, y = node.args
    if not isinstance(x, fx.Node) or x in w.tangent:
        return w.of_any(node)
    slope = w.call(_ATEN.div.Tensor, w.value[x], w.value[y])
    shape = node.meta["val"].shape
    blocks = [b._replace(rows=w.call(_ATEN.mul.Tensor, b.rows, slope)) for b in w.aligned(y, len(shape))]
    return w.sum([tuple(blocks)], node.meta["val"])


def _arc_tangent(w: Writer, node: Node) -> Tangent:
    y, x = node.args
    if y not in w.tangent or x not in w.tangent:
        return w.of_any(node)
    square = w.call(_ATEN.add.Tensor, *(w.call(_ATEN.mul.Tensor, w.value[v], w.value[v]) for v in (x, y)))
    rank = len(node.meta["val"].shape)
    tangents = []
    for part, slope in ((y, w.value[x]), (x, w.call(_ATEN.neg.default, w.value[y]))):
        factor = w.call(_ATEN.div.Tensor, slope, square)
        blocks = [b._replace(rows=w.call(_ATEN.mul.Tensor, b.rows, factor)) for b in w.aligned(part, rank)]
        tangents.append(tuple(blocks))
    return w.sum(tangents, node.meta["val"])


def _arc_cosine(w: Writer, x: Any, value: Any, node: Node) -> Any:
    cosine = w.call(_ATEN.rsub.Scalar, w.call(_ATEN.mul.Tensor, x, x), 1)
    return w.call(_ATEN.neg.default, w.call(_ATEN.rsqrt.default, cosine))


def _clamped(w: Writer, x: Any, value: Any, node: Node) -> Any:
    low, high = (*node.args[1:], None, None)[:2]
    low, high = node.kwargs.get("min", low), node.kwargs.get("max", high)
    inside = [
        w.call(test, x, limit) for test, limit in ((_ATEN.ge.Scalar, low), (_ATEN.le.Scalar, high)) if limit is not None
    ]
    return inside[0] if len(inside) == 1 else w.call(_ATEN.logical_and.default, *inside)


def _concatenated(w: Writer, node: Node) -> Tangent:
    """Rule of cat."""
    rank = node.meta["val"].ndim
    return _side_by_side(w, node, _axis_of(node) % rank - rank)


def _axis_of(node: Node) -> int:
    """The axis that cat or stack was given."""
    axis: int = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    return axis


def _stacked(w: Writer, node: Node) -> Tangent:
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


def _side_by_side(w: Writer, node: Node, axis: int) -> Tangent:
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


def _complex(w: Writer, node: Node) -> Tangent:
    real, imag = node.args
    pairs = [[(b.active, b.axis) for b in w.tangent.get(part, ())] for part in node.args]
    if pairs[0] != pairs[1]:
        return w.of_any(node)
    return tuple(
        a._replace(rows=w.call(node.target, a.rows, b.rows))
        for a, b in zip(w.tangent[real], w.tangent[imag], strict=True)
    )


def _chosen(w: Writer, node: Node) -> Tangent:
    condition, first, second = node.args
    shape = node.meta["val"].shape
    tangents, shapes = [], []
    for part, keep in ((first, True), (second, False)):
        if isinstance(part, fx.Node) and part in w.tangent:
            where = w.value[condition] if keep else w.call(_ATEN.logical_not.default, w.value[condition])
            tangents.append(
                tuple(
                    b._replace(rows=w.call(_ATEN.where.ScalarOther, where, b.rows, 0.0))
                    for b in w.aligned(part, len(shape))
                )
            )
            shapes.append(torch.broadcast_shapes(condition.meta["val"].shape, part.meta["val"].shape))
    return w.sum(tangents, node.meta["val"], shapes=shapes)


def _sparse(w: Writer, node: Node) -> Tangent:
    matrix = [w.value[part] for part in node.args[1:]]
    return tuple(b._replace(rows=w.call(sparse_product, b.rows, *matrix)) for b in w.plain(node.args[0]))


def _same(w: Writer, node: Node) -> Tangent:
    return w.tangent[node.args[0]]


def _in_pairs(w: Writer, node: Node) -> Tangent:
    """Complex numbers as pairs of real ones."""
    return w.moved(
        node.args[0],
        lambda rows: w.call(node.target, rows),
        lambda value: value[..., None].expand(*value.shape, 2),
    )


def _size(w: Writer, node: Node) -> Tangent:
    if node.args[0].meta["val"].is_complex():
        return w.of_any(node)
    sign = w.call(_ATEN.sign.default, w.value[node.args[0]])
    return w.mapped(node.args[0], lambda rows: w.call(_ATEN.mul.Tensor, rows, sign))


def _phase(w: Writer, node: Node) -> Tangent:
    return w.of_any(node) if node.args[0].meta["val"].is_complex() else ()


def _power(w: Writer, x: Any, value: Any, node: Node) -> Any:
    exponent = node.args[1]
    if exponent == 2:
        return w.call(_ATEN.mul.Tensor, x, 2)
    if exponent == 0:
        return 0  # also at 0, where its formula is 0 times infinity
    return w.call(_ATEN.mul.Tensor, w.call(_ATEN.pow.Tensor_Scalar, x, exponent - 1), exponent)


def _softplus(w: Writer, x: Any, value: Any, node: Node) -> Any:
    sharpness = (*node.args[1:], 1)[0]
    return w.call(_ATEN.sigmoid.default, x if sharpness == 1 else w.call(_ATEN.mul.Tensor, x, sharpness))


# operations that leave the blocks of an image in their windows
IN_WINDOWS = (
    placed, _ATEN.expand.default,
    _ATEN.add.Tensor, _ATEN.sub.Tensor, _ATEN.mul.Tensor, _ATEN.div.Tensor, _ATEN.neg.default,
    _ATEN.mul.Scalar, _ATEN.div.Scalar, _ATEN.add.Scalar, _ATEN.sub.Scalar, _ATEN.rsub.Scalar, _ATEN._to_copy.default,
    _ATEN.clone.default, _ATEN.alias.default, _ATEN.clamp.default, _ATEN.sqrt.default, _ATEN.pow.Tensor_Scalar,
    _ATEN.exp.default, _ATEN.log.default, _ATEN.reciprocal.default, _ATEN.softplus.default,
)  # fmt: skip
CONSTANT = (_ATEN.detach.default, _ATEN.sign.default, _ATEN.floor.default, _ATEN.round.default)
VIEWS = (
    _ATEN.slice.Tensor, _ATEN.select.int, _ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.reshape.default,
    _ATEN.unsqueeze.default, _ATEN.squeeze.dim, _ATEN.squeeze.default, _ATEN.alias.default,
)  # fmt: skip
LISTS = {_ATEN.unbind.int: 1, _ATEN.split.Tensor: 2, _ATEN.split_with_sizes.default: 2}
RULES: dict[Any, Callable[[Writer, Node], Tangent]] = {
    _ATEN.add.Tensor: _sum_of,
    _ATEN.sub.Tensor: _sum_of,
    _ATEN.mul.Tensor: _product,
    _ATEN.div.Tensor: _quotient,
    _ATEN.neg.default: _linear,
    _ATEN.mul.Scalar: _linear,
    _ATEN.div.Scalar: _linear,
    _ATEN._to_copy.default: _linear,
    _ATEN.clone.default: _same,
    _ATEN.alias.default: _same,
    _ATEN.add.Scalar: _same,
    _ATEN.sub.Scalar: _same,
    _ATEN.rsub.Scalar: lambda w, node: w.mapped(node.args[0], lambda rows: w.call(_ATEN.neg.default, rows)),
    _ATEN.exp.default: _slope_times(lambda w, x, y, node: y),
    _ATEN.log.default: _slope_times(lambda w, x, y, node: w.call(_ATEN.reciprocal.default, x)),
    _ATEN.log1p.default: _slope_times(
        lambda w, x, y, node: w.call(_ATEN.reciprocal.default, w.call(_ATEN.add.Tensor, x, 1))
    ),
    _ATEN.sin.default: _slope_times(lambda w, x, y, node: w.call(_ATEN.cos.default, x)),
    _ATEN.cos.default: _slope_times(lambda w, x, y, node: w.call(_ATEN.neg.default, w.call(_ATEN.sin.default, x))),
    _ATEN.sqrt.default: _slope_times(
        lambda w, x, y, node: w.call(_ATEN.div.Tensor, w.call(_ATEN.reciprocal.default, y), 2)
    ),
    _ATEN.reciprocal.default: _slope_times(
        lambda w, x, y, node: w.call(_ATEN.neg.default, w.call(_ATEN.mul.Tensor, y, y))
    ),
    _ATEN.pow.Tensor_Scalar: _slope_times(_power),
    _ATEN.view.default: _shaped,
    _ATEN._unsafe_view.default: _shaped,
    _ATEN.reshape.default: _shaped,
    _ATEN.squeeze.default: _shaped,
    _ATEN.expand.default: _broadcast,
    _ATEN.copy.default: _copied,
    _ATEN.unsqueeze.default: _along,
    _ATEN.squeeze.dim: _along,
    _ATEN.select.int: _along,
    _ATEN.slice.Tensor: _along,
    _ATEN.sum.dim_IntList: _summed_along,
    _ATEN.sum.default: _summed,
    _ATEN._fft_c2c.default: _transformed,
    _ATEN._fft_c2r.default: _transformed,
    _ATEN._fft_r2c.default: _transformed,
    _ATEN.permute.default: _permuted,
    _ATEN.transpose.int: _exchanged,
    _ATEN.t.default: _exchanged,
    _ATEN.mm.default: _multiplied,
    _ATEN.mv.default: _multiplied,
    _ATEN.bmm.default: _multiplied,
    _ATEN.dot.default: _dotted,
    _ATEN.gather.default: _gathered,
    _ATEN.scatter_add.default: _scattered,
    _ATEN.xlogy.Tensor: _x_log_y,
    _ATEN.atan2.default: _arc_tangent,
    _ATEN.remainder.Scalar: _same,
    _ATEN.acos.default: _slope_times(_arc_cosine),
    _ATEN.clamp.default: _slope_times(_clamped),
    _ATEN.sigmoid.default: _slope_times(
        lambda w, x, y, node: w.call(_ATEN.mul.Tensor, y, w.call(_ATEN.rsub.Scalar, y, 1))
    ),
    _ATEN.softplus.default: _slope_times(_softplus),
    _ATEN.abs.default: _size,
    _ATEN.sgn.default: _phase,
    _ATEN.rsqrt.default: _slope_times(
        lambda w, x, y, node: w.call(_ATEN.mul.Tensor, w.call(_ATEN.pow.Tensor_Scalar, y, 3), -0.5)
    ),
    _ATEN.digamma.default: _slope_times(lambda w, x, y, node: w.call(_ATEN.polygamma.default, 1, x)),
    _ATEN._conj.default: _linear,
    _ATEN.view_as_real.default: _in_pairs,
    _ATEN.slice_backward.default: _backward_of_a_view,
    _ATEN.select_backward.default: _backward_of_a_view,
    _ATEN.lgamma.default: _slope_times(lambda w, x, y, node: w.call(_ATEN.digamma.default, x)),
    _ATEN.cat.default: _concatenated,
    _ATEN.stack.default: _stacked,
    _ATEN.complex.default: _complex,
    _ATEN.where.self: _chosen,
    placed: _placed,
    seen: _cut,
    sparse_product: _sparse,
    PRODUCT: _sparse,
}
