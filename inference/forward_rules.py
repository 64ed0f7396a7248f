"""How single operations of a graph are differentiated in forward mode (:mod:`bayesprof.inference.forward_mode`).

A rule takes the writer of the derivative's graph and a node, and returns the tangent of the node's value. An operation
without a rule is differentiated by torch.func.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, fx

from bayesprof.sparse import PRODUCT, sparse_product

Node = Any
"""A torch.fx.Node. Its arguments may be of two dozen types, of which captured operations take those they do."""

_ATEN = torch.ops.aten


class Block(NamedTuple):
    """Derivatives along the entries `active` of the vector: an array with a first axis for them."""

    active: tuple[int, ...]
    rows: Any


Tangent = tuple[Block, ...]
"""Blocks without an entry in common; none of them where nothing depends on the vector."""


class Writer(Protocol):
    """What a rule may ask for: the nodes written for values, the tangents of their arguments, and more nodes."""

    value: dict[Node, fx.Node]
    tangent: dict[Node, Tangent]
    zeros: set[Node]

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Node: ...
    def mapped(self, node: Node, change: Callable[[Any], Any]) -> Tangent: ...
    def aligned(self, node: Node, rank: int) -> Tangent: ...
    def expanded(self, block: Block, shape: Any) -> Node: ...
    def dense(self, node: Node, union: tuple[int, ...]) -> Node: ...
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
            Block(b.active, w.call(change, b.rows) if change else w.call(_ATEN.mul.Tensor, b.rows, factor))
            for b in second
        )
    shapes = [a.meta["val"].shape if isinstance(a, fx.Node) else shape for a in node.args[:2]]
    return w.sum([first, second], node.meta["val"], shapes=shapes)


def _product(w: Writer, node: Node) -> Tangent:
    shape = node.meta["val"].shape
    tangents = []
    for here, other in (node.args[:2], node.args[1::-1]):
        if isinstance(here, fx.Node) and here in w.tangent and other not in w.zeros:
            factor = w.value[other] if isinstance(other, fx.Node) else other
            tangents.append(
                tuple(Block(b.active, w.call(_ATEN.mul.Tensor, b.rows, factor)) for b in w.aligned(here, len(shape)))
            )
    return w.sum(tangents, node.meta["val"])


def _quotient(w: Writer, node: Node) -> Tangent:
    if node.kwargs:  # a rounding mode
        return w.of_any(node)
    above, below = node.args
    shape = node.meta["val"].shape
    tangents = []
    divisor = w.value[below] if isinstance(below, fx.Node) else below
    if isinstance(above, fx.Node):
        tangents.append(
            tuple(Block(b.active, w.call(_ATEN.div.Tensor, b.rows, divisor)) for b in w.aligned(above, len(shape)))
        )
    if isinstance(below, fx.Node) and below in w.tangent and above not in w.zeros:
        slope = w.call(_ATEN.neg.default, w.call(_ATEN.div.Tensor, w.value[node], divisor))
        tangents.append(
            tuple(Block(b.active, w.call(_ATEN.mul.Tensor, b.rows, slope)) for b in w.aligned(below, len(shape)))
        )
    return w.sum(tangents, node.meta["val"])


def _slope_times(slope: Callable[[Writer, Any, Any, Node], Any]) -> Callable[[Writer, Node], Tangent]:
    """Rule of an elementwise function, given its slope from its argument and its value."""

    def rule(w: Writer, node: Node) -> Tangent:
        source = node.args[0]
        factor = slope(w, w.value[source], w.value[node], node)
        return w.mapped(source, lambda rows: w.call(_ATEN.mul.Tensor, rows, factor))

    return rule


def _linear(w: Writer, node: Node) -> Tangent:
    """An elementwise operation that is linear in its first argument, the others being numbers."""
    return w.mapped(node.args[0], lambda rows: w.call(node.target, rows, *node.args[1:], **node.kwargs))


def _shaped(w: Writer, node: Node) -> Tangent:
    shape = list(node.meta["val"].shape)
    return w.mapped(node.args[0], lambda rows: w.call(_ATEN.reshape.default, rows, [-1, *shape]))


def _broadcast(w: Writer, node: Node) -> Tangent:
    shape = node.meta["val"].shape
    if node.args[0].meta["val"].shape == shape:
        return w.tangent[node.args[0]]
    return tuple(Block(b.active, w.expanded(b, shape)) for b in w.aligned(node.args[0], len(shape)))


def _along(place: int, *, several: bool = False) -> Callable[[Writer, Node], Tangent]:
    """Rule of a linear operation whose argument number `place` is an axis, or a list of them (`several`)."""

    def rule(w: Writer, node: Node) -> Tangent:
        args = list(node.args)
        if len(args) <= place:
            args += [0]
        axes = args[place] if several else [args[place]]
        if several and not axes:
            axes = list(range(node.args[0].meta["val"].ndim))
        # the new axis is in front: axes counted from the end stay
        moved = [axis if axis < 0 else axis + 1 for axis in axes]
        args[place] = moved if several else moved[0]
        return w.mapped(node.args[0], lambda rows: w.call(node.target, rows, *args[1:], **node.kwargs))

    return rule


def _backward_of_a_view(w: Writer, node: Node) -> Tangent:
    """An array put into zeros of the shape given, by a slice or an index along an axis."""
    source, shape, axis, *where = node.args
    moved = axis if axis < 0 else axis + 1
    return tuple(
        Block(b.active, w.call(node.target, b.rows, [len(b.active), *shape], moved, *where)) for b in w.tangent[source]
    )


def _copied(w: Writer, node: Node) -> Tangent:
    shape = node.meta["val"].shape
    return tuple(Block(b.active, w.expanded(b, shape)) for b in w.aligned(node.args[1], len(shape)))


def _permuted(w: Writer, node: Node) -> Tangent:
    source, order = node.args
    rank = source.meta["val"].ndim
    moved = [0, *(axis % rank + 1 for axis in order)]
    return w.mapped(source, lambda rows: w.call(node.target, rows, moved))


def _exchanged(w: Writer, node: Node) -> Tangent:
    source, *axes = node.args
    rank = source.meta["val"].ndim
    moved = [axis % rank + 1 for axis in axes or range(rank)]
    if len(moved) < 2:
        return w.tangent[source]
    return w.mapped(source, lambda rows: w.call(_ATEN.transpose.int, rows, *moved))


def _summed(w: Writer, node: Node) -> Tangent:
    rank = node.args[0].meta["val"].ndim
    axes = list(range(1, rank + 1))
    return w.mapped(node.args[0], lambda rows: w.call(_ATEN.sum.dim_IntList, rows, axes) if axes else rows)


def _multiplied(w: Writer, node: Node) -> Tangent:
    """A matrix product with one factor that doesn't move."""
    first, second = node.args
    if first in w.tangent and second in w.tangent:
        return w.of_any(node)
    if second in w.tangent:
        if second.meta["val"].ndim == 1:  # a matrix times the rows, which are vectors
            turned = w.call(_ATEN.transpose.int, w.value[first], -1, -2)
            return w.mapped(second, lambda rows: w.call(torch.matmul, rows, turned))
        return w.mapped(second, lambda rows: w.call(torch.matmul, w.value[first], rows))
    return w.mapped(first, lambda rows: w.call(torch.matmul, rows, w.value[second]))


def _dotted(w: Writer, node: Node) -> Tangent:
    tangents = []
    for here, other in (node.args, node.args[::-1]):
        if here in w.tangent:
            along = [Block(b.active, w.call(torch.matmul, b.rows, w.value[other])) for b in w.tangent[here]]
            tangents.append(tuple(along))
    return w.sum(tangents, node.meta["val"])


def _x_log_y(w: Writer, node: Node) -> Tangent:
    x, y = node.args
    if not isinstance(x, fx.Node) or x in w.tangent:
        return w.of_any(node)
    slope = w.call(_ATEN.div.Tensor, w.value[x], w.value[y])
    shape = node.meta["val"].shape
    blocks = [Block(b.active, w.call(_ATEN.mul.Tensor, b.rows, slope)) for b in w.aligned(y, len(shape))]
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
        blocks = [Block(b.active, w.call(_ATEN.mul.Tensor, b.rows, factor)) for b in w.aligned(part, rank)]
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


def _joined(place: int) -> Callable[[Writer, Node], Tangent]:
    """Rule of cat and stack."""

    def rule(w: Writer, node: Node) -> Tangent:
        parts = node.args[0]
        axis = node.args[place] if len(node.args) > place else node.kwargs.get("dim", 0)
        moved = axis if axis < 0 else axis + 1
        blocks = [w.tangent.get(part, ()) for part in parts]
        if len({tuple(b.active for b in several) for several in blocks}) == 1:  # as of pieces of one array
            return tuple(
                Block(same[0].active, w.call(node.target, [b.rows for b in same], moved))
                for same in zip(*blocks, strict=True)
            )
        union = tuple(dict.fromkeys(e for several in blocks for b in several for e in b.active))
        rows = [w.dense(part, union) for part in parts]
        return (Block(union, w.call(node.target, rows, moved)),)

    return rule


def _complex(w: Writer, node: Node) -> Tangent:
    real, imag = node.args
    pairs = [[b.active for b in w.tangent.get(part, ())] for part in node.args]
    if pairs[0] != pairs[1]:
        return w.of_any(node)
    return tuple(
        Block(a.active, w.call(node.target, a.rows, b.rows))
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
                    Block(b.active, w.call(_ATEN.where.ScalarOther, where, b.rows, 0.0))
                    for b in w.aligned(part, len(shape))
                )
            )
            shapes.append(torch.broadcast_shapes(condition.meta["val"].shape, part.meta["val"].shape))
    return w.sum(tangents, node.meta["val"], shapes=shapes)


def _sparse(w: Writer, node: Node) -> Tangent:
    matrix = [w.value[part] for part in node.args[1:]]
    return w.mapped(node.args[0], lambda rows: w.call(sparse_product, rows, *matrix))


def _same(w: Writer, node: Node) -> Tangent:
    return w.tangent[node.args[0]]


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
    _ATEN.unsqueeze.default: _along(1),
    _ATEN.squeeze.dim: _along(1),
    _ATEN.select.int: _along(1),
    _ATEN.slice.Tensor: _along(1),
    _ATEN.sum.dim_IntList: _along(1, several=True),
    _ATEN.sum.default: _summed,
    _ATEN._fft_c2c.default: _along(1, several=True),
    _ATEN._fft_c2r.default: _along(1, several=True),
    _ATEN._fft_r2c.default: _along(1, several=True),
    _ATEN.permute.default: _permuted,
    _ATEN.transpose.int: _exchanged,
    _ATEN.t.default: _exchanged,
    _ATEN.mm.default: _multiplied,
    _ATEN.mv.default: _multiplied,
    _ATEN.bmm.default: _multiplied,
    _ATEN.dot.default: _dotted,
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
    _ATEN.view_as_real.default: _linear,
    _ATEN.slice_backward.default: _backward_of_a_view,
    _ATEN.select_backward.default: _backward_of_a_view,
    _ATEN.lgamma.default: _slope_times(lambda w, x, y, node: w.call(_ATEN.digamma.default, x)),
    _ATEN.cat.default: _joined(1),
    _ATEN.stack.default: _joined(1),
    _ATEN.complex.default: _complex,
    _ATEN.where.self: _chosen,
    sparse_product: _sparse,
    PRODUCT: _sparse,
}
