"""How single operations of a graph are differentiated in forward mode (:mod:`bayesprof.inference.forward_mode`).

A rule takes the writer of the derivative's graph and a node, and returns the tangent of the node's value. An operation
without a rule is differentiated by torch.func.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from bayesprof.inference import moving_rules as moving
from bayesprof.inference.block_writer import BlockWriter, Node
from bayesprof.inference.blocks import Block, Tangent
from bayesprof.placing import placed, seen
from bayesprof.sparse import PRODUCT, sparse_product
from bayesprof.taking import put_back, taken

_ATEN = torch.ops.aten


def _sum_of(w: BlockWriter, node: Node) -> Tangent:
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


def _product(w: BlockWriter, node: Node) -> Tangent:
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


def _quotient(w: BlockWriter, node: Node) -> Tangent:
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


def _seen(w: BlockWriter, block: Block, factor: Any) -> Any:
    """The value of a factor, a node or a number, as the rows of a block need it."""
    return w.seen(block, factor.meta["val"], w.value[factor]) if isinstance(factor, fx.Node) else factor


def _slope_times(slope: Callable[[BlockWriter, Any, Any, Node], Any]) -> Callable[[BlockWriter, Node], Tangent]:
    """Rule of an elementwise function, given its slope from its argument and its value."""

    def rule(w: BlockWriter, node: Node) -> Tangent:
        source = node.args[0]
        factor = slope(w, w.value[source], w.value[node], node)
        return tuple(
            b._replace(rows=w.call(_ATEN.mul.Tensor, b.rows, w.seen(b, source.meta["val"], factor)))
            for b in w.tangent.get(source, ())
        )

    return rule


def _linear(w: BlockWriter, node: Node) -> Tangent:
    """An elementwise operation that is linear in its first argument, the others being numbers."""
    return w.mapped(node.args[0], lambda rows: w.call(node.target, rows, *node.args[1:], **node.kwargs))


def _broadcast(w: BlockWriter, node: Node) -> Tangent:
    shape = node.meta["val"].shape
    if node.args[0].meta["val"].shape == shape:
        return w.tangent[node.args[0]]
    return w.sum([w.aligned(node.args[0], len(shape))], node.meta["val"], shapes=[node.args[0].meta["val"].shape])


def _copied(w: BlockWriter, node: Node) -> Tangent:
    shape = node.meta["val"].shape
    return tuple(b._replace(rows=w.expanded(b, shape)) for b in w.aligned(node.args[1], len(shape)))


def _x_log_y(w: BlockWriter, node: Node) -> Tangent:
    x, y = node.args
    if not isinstance(x, fx.Node) or x in w.tangent:
        return w.of_any(node)
    slope = w.call(_ATEN.div.Tensor, w.value[x], w.value[y])
    shape = node.meta["val"].shape
    blocks = [b._replace(rows=w.call(_ATEN.mul.Tensor, b.rows, slope)) for b in w.aligned(y, len(shape))]
    return w.sum([tuple(blocks)], node.meta["val"])


def _arc_tangent(w: BlockWriter, node: Node) -> Tangent:
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


def _arc_cosine(w: BlockWriter, x: Any, value: Any, node: Node) -> Any:
    cosine = w.call(_ATEN.rsub.Scalar, w.call(_ATEN.mul.Tensor, x, x), 1)
    return w.call(_ATEN.neg.default, w.call(_ATEN.rsqrt.default, cosine))


def _clamped(w: BlockWriter, x: Any, value: Any, node: Node) -> Any:
    low, high = (*node.args[1:], None, None)[:2]
    low, high = node.kwargs.get("min", low), node.kwargs.get("max", high)
    inside = [
        w.call(test, x, limit) for test, limit in ((_ATEN.ge.Scalar, low), (_ATEN.le.Scalar, high)) if limit is not None
    ]
    return inside[0] if len(inside) == 1 else w.call(_ATEN.logical_and.default, *inside)


def _complex(w: BlockWriter, node: Node) -> Tangent:
    real, imag = node.args
    pairs = [[(b.active, b.axis) for b in w.tangent.get(part, ())] for part in node.args]
    if pairs[0] != pairs[1]:
        return w.of_any(node)
    return tuple(
        a._replace(rows=w.call(node.target, a.rows, b.rows))
        for a, b in zip(w.tangent[real], w.tangent[imag], strict=True)
    )


def _chosen(w: BlockWriter, node: Node) -> Tangent:
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


def _sparse(w: BlockWriter, node: Node) -> Tangent:
    matrix = [w.value[part] for part in node.args[1:]]
    return tuple(b._replace(rows=w.call(sparse_product, b.rows, *matrix)) for b in w.plain(node.args[0]))


def _same(w: BlockWriter, node: Node) -> Tangent:
    return w.tangent[node.args[0]]


def _size(w: BlockWriter, node: Node) -> Tangent:
    if node.args[0].meta["val"].is_complex():
        return w.of_any(node)
    sign = w.call(_ATEN.sign.default, w.value[node.args[0]])
    return w.mapped(node.args[0], lambda rows: w.call(_ATEN.mul.Tensor, rows, sign))


def _phase(w: BlockWriter, node: Node) -> Tangent:
    return w.of_any(node) if node.args[0].meta["val"].is_complex() else ()


def _power(w: BlockWriter, x: Any, value: Any, node: Node) -> Any:
    exponent = node.args[1]
    if exponent == 2:
        return w.call(_ATEN.mul.Tensor, x, 2)
    if exponent == 0:
        return 0  # also at 0, where its formula is 0 times infinity
    return w.call(_ATEN.mul.Tensor, w.call(_ATEN.pow.Tensor_Scalar, x, exponent - 1), exponent)


def _softplus(w: BlockWriter, x: Any, value: Any, node: Node) -> Any:
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
LISTS = {_ATEN.unbind.int: 1, _ATEN.split.Tensor: 2, _ATEN.split_with_sizes.default: 2}
RULES: dict[Any, Callable[[BlockWriter, Node], Tangent]] = {
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
    _ATEN.view.default: moving.shaped,
    _ATEN._unsafe_view.default: moving.shaped,
    _ATEN.reshape.default: moving.shaped,
    _ATEN.squeeze.default: moving.shaped,
    _ATEN.expand.default: _broadcast,
    _ATEN.copy.default: _copied,
    _ATEN.unsqueeze.default: moving.along,
    _ATEN.squeeze.dim: moving.along,
    _ATEN.select.int: moving.along,
    _ATEN.slice.Tensor: moving.along,
    _ATEN.sum.dim_IntList: moving.summed_along,
    _ATEN.sum.default: moving.summed,
    _ATEN._fft_c2c.default: moving.transformed,
    _ATEN._fft_c2r.default: moving.transformed,
    _ATEN._fft_r2c.default: moving.transformed,
    _ATEN.permute.default: moving.permuted,
    _ATEN.transpose.int: moving.exchanged,
    _ATEN.t.default: moving.exchanged,
    _ATEN.mm.default: moving.multiplied,
    _ATEN.mv.default: moving.multiplied,
    _ATEN.bmm.default: moving.multiplied,
    _ATEN.dot.default: moving.dotted,
    _ATEN.gather.default: moving.gathered,
    _ATEN.scatter_add.default: moving.scattered,
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
    _ATEN.view_as_real.default: moving.in_pairs,
    _ATEN.slice_backward.default: moving.backward_of_a_view,
    _ATEN.select_backward.default: moving.backward_of_a_view,
    _ATEN.lgamma.default: _slope_times(lambda w, x, y, node: w.call(_ATEN.digamma.default, x)),
    _ATEN.cat.default: moving.concatenated,
    _ATEN.stack.default: moving.stacked,
    _ATEN.complex.default: _complex,
    _ATEN.where.self: _chosen,
    placed: moving.placed,
    seen: moving.cut,
    taken: moving.taken,
    put_back: moving.put_back,
    sparse_product: _sparse,
    PRODUCT: _sparse,
}
