"""Jacobians of captured graphs, in forward mode, along those directions only that each quantity depends on.

A scene is a sum of components, and a parameter moves one of them. Differentiated along every direction alike, all
components would be followed along all parameters; here each tangent holds the rows of its own parameters, found from
the structure of the graph and not from values. So the cost of a Jacobian is that of one component per parameter, and
inside a component a profile's plane isn't followed along its position.

The derivative is written out as a graph once more: the operations that pictures are made of by rule, any other by
torch.func, one operation at a time.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from bayesprof.inference.capture import unchanged, vanishing

_ATEN = torch.ops.aten
_LARGE = 4096  # elements; tangents of larger arrays are left in blocks rather than copied into one


class Block(NamedTuple):
    """Derivatives along the entries `active` of the vector: an array with a first axis for them."""

    active: tuple[int, ...]
    rows: Any


Tangent = tuple[Block, ...]
"""Blocks without an entry in common; none of them where nothing depends on the vector."""


class Derivatives(NamedTuple):
    """A graph of values and derivatives: it returns the values, and for each differentiated tensor a list of the rows
    of its blocks; `active` are the entries of each block, in lists of the same layout.
    """

    graph: fx.GraphModule
    active: Any


def with_derivatives(graph: fx.GraphModule, *keys: str) -> Derivatives:
    """`graph`, which returns a dictionary of tensors and lists of tensors, with those named by `keys` replaced by their
    derivatives along its first argument.

    The nodes of `graph` must know their shapes, as captured ones do (and others after :func:`with_shapes`).
    """
    *_, output = graph.graph.nodes
    wanted: set[fx.Node] = set()
    fx.node.map_arg([output.args[0][key] for key in keys], wanted.add)
    for node in reversed(graph.graph.nodes):
        if node in wanted:
            wanted.update(node.all_input_nodes)
    written = _Writer(graph, wanted)
    result = {}
    active = {}
    for key, value in output.args[0].items():
        if key in keys:
            tangents = tree_map(lambda node: written.tangent.get(node, ()), value)
            active[key] = tree_map(lambda block: block.active, tangents, is_leaf=_is_block)
            result[key] = tree_map(lambda block: block.rows, tangents, is_leaf=_is_block)
        else:
            result[key] = fx.node.map_arg(value, written.value.__getitem__)
    written.graph.output(result)
    written.graph.eliminate_dead_code()
    return Derivatives(fx.GraphModule({}, written.graph), active)


def _is_block(value: Any) -> bool:
    return isinstance(value, Block)


def with_shapes(graph: fx.GraphModule) -> fx.GraphModule:
    """`graph`, whose placeholders know what they stand for, with that knowledge at every node."""
    known = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
    inputs = [torch.zeros(value.shape, dtype=value.dtype, device=value.device) for value in known]
    with torch.no_grad():
        _Shapes(graph).run(*inputs)
    return graph


class _Shapes(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        n.meta["val"] = super().run_node(n)
        return n.meta["val"]


class _Writer:
    """Copies a graph and writes the tangent of each of the `wanted` nodes beside it."""

    def __init__(self, module: fx.GraphModule, wanted: set[fx.Node]) -> None:
        self.graph = fx.Graph()
        self.value: dict[fx.Node, fx.Node] = {}
        self.tangent: dict[fx.Node, Tangent] = {}
        self.parts: dict[fx.Node, list[Tangent]] = {}
        self.zeros = vanishing(module)
        first, *nodes = module.graph.nodes
        self.value[first] = self.graph.node_copy(first)
        placeholders = [node for node in nodes if node.op == "placeholder"]
        for node in placeholders:
            self.value[node] = self.graph.node_copy(node)
        size = first.meta["val"].shape[0]
        like = {"dtype": first.meta["val"].dtype, "device": first.meta["val"].device}
        unit = self.call(_ATEN.eye.default, size, **like)
        # which entries of the vector each entry of a plain view of it is
        self.entries: dict[fx.Node, Tensor] = {first: torch.arange(size)}
        self.tangent[first] = (Block(tuple(range(size)), unit),)
        for node in nodes:
            if node.op == "call_function":
                same = unchanged(node, self.zeros)
                self.value[node] = self.value[same] if same else self.graph.node_copy(node, self.value.__getitem__)
                if node in wanted:
                    self._differentiate(node)

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        return self.graph.call_function(target, args, kwargs)

    # -- one node

    def _differentiate(self, node: fx.Node) -> None:
        active = [parent for parent in node.all_input_nodes if parent in self.tangent or parent in self.parts]
        if not active or node.target in _CONSTANT:
            return
        if node.target is operator.getitem:
            tangent = self.parts[node.args[0]][node.args[1]]
        elif isinstance(node.meta["val"], list | tuple):
            self.parts[node] = self._of_list(node)
            return
        else:
            value = node.meta["val"]
            if not (value.is_floating_point() or value.is_complex()):
                return
            if node.target in _VIEWS and node.args[0] in self.entries:
                entries = self.entries[node] = node.target(self.entries[node.args[0]], *node.args[1:])
                tangent = self._of_view(node, entries)
            elif node.target in _RULES:
                tangent = _RULES[node.target](self, node)
            else:
                tangent = self._of_any(node)
        if tangent:
            self.tangent[node] = tangent

    def _of_view(self, node: fx.Node, entries: Tensor) -> Tangent:
        """A plain view of the vector: rows of the unit matrix."""
        active = tuple(dict.fromkeys(entries.flatten().tolist()))
        places = {entry: row for row, entry in enumerate(active)}
        hot = torch.zeros(len(active), entries.numel(), dtype=torch.int64)
        for column, entry in enumerate(entries.flatten().tolist()):
            hot[places[entry], column] = 1
        like = node.meta["val"]
        nested = hot.reshape(len(active), *entries.shape).tolist()
        return (Block(active, self.call(_number_array, nested, like.dtype, like.device)),)

    def _of_list(self, node: fx.Node) -> list[Tangent]:
        """An operation that returns several tensors."""
        count = len(node.meta["val"])
        if node.target not in _LISTS:
            ((union, several),) = self._of_any(node)
            items = [(Block(union, self.call(operator.getitem, several, i)),) for i in range(count)]
            return [
                item if value.is_floating_point() or value.is_complex() else ()
                for item, value in zip(items, node.meta["val"], strict=True)
            ]
        result: list[list[Block]] = [[] for _ in range(count)]
        place = _LISTS[node.target]
        args = [*node.args, 0][: place + 1]  # the axis is the last argument, 0 where it's left out
        args[place] += args[place] >= 0
        for block in self.tangent[node.args[0]]:
            several = self.call(node.target, block.rows, *args[1:])
            for i in range(count):
                result[i].append(Block(block.active, self.call(operator.getitem, several, i)))
        return [tuple(blocks) for blocks in result]

    def _of_any(self, node: fx.Node) -> Tangent:
        """Any operation, by torch.func: along all directions that any of its arguments depends on."""
        flat, layout = tree_flatten((node.args, dict(node.kwargs)))
        moved = [i for i, entry in enumerate(flat) if isinstance(entry, fx.Node) and entry in self.tangent]
        union = tuple(dict.fromkeys(entry for i in moved for block in self.tangent[flat[i]] for entry in block.active))
        rows = [self.dense(flat[i], union) for i in moved]
        values = [self.value[entry] if isinstance(entry, fx.Node) else entry for entry in flat]
        args, kwargs = tree_unflatten(values, layout)
        target = _NAMES.get(node.target, node.target)
        return (Block(union, self.call(_directional, target, args, kwargs, moved, rows)),)

    # -- blocks

    def mapped(self, node: fx.Node, change: Callable[[Any], Any]) -> Tangent:
        """The blocks of `node` with their rows changed."""
        return tuple(Block(block.active, change(block.rows)) for block in self.tangent.get(node, ()))

    def aligned(self, node: fx.Node, rank: int) -> Tangent:
        """The blocks of `node`, to broadcast with an array of `rank` axes behind a first axis of their own."""
        shape = node.meta["val"].shape
        if len(shape) == rank:
            return self.tangent.get(node, ())
        inserted = [1] * (rank - len(shape)) + list(shape)
        return self.mapped(node, lambda rows: self.call(_ATEN.reshape.default, rows, [-1, *inserted]))

    def dense(self, node: fx.Node, union: tuple[int, ...]) -> fx.Node:
        """The rows of `node` along all of `union`, zeros where it doesn't depend on an entry."""
        blocks = self.tangent.get(node, ())
        like = node.meta["val"]
        if not blocks:
            options = {"dtype": like.dtype, "device": like.device}
            return self.call(_ATEN.zeros.default, [len(union), *like.shape], **options)
        if len(blocks) == 1 and blocks[0].active == union:
            return blocks[0].rows
        parts = [self._placed(block, union, like) for block in blocks]
        return functools.reduce(lambda first, second: self.call(_ATEN.add.Tensor, first, second), parts)

    def _placed(self, block: Block, union: tuple[int, ...], like: Tensor) -> fx.Node:
        """The rows of `block` at their places in `union`, by a matrix product: for small arrays."""
        hot = [[float(entry == other) for other in block.active] for entry in union]
        matrix = self.call(_number_array, hot, like.dtype, like.device)
        rows = self.call(_ATEN.reshape.default, block.rows, [len(block.active), like.numel()])
        return self.call(_ATEN.reshape.default, self.call(_ATEN.mm.default, matrix, rows), [len(union), *like.shape])

    def sum(self, tangents: Sequence[Tangent], like: Tensor, *, shapes: Sequence[torch.Size] | None = None) -> Tangent:
        """Sum of tangents of an array `like` it; their own `shapes`, where they are other ones, broadcast to its."""
        shape = like.shape
        full = [
            tuple(block if own == shape else Block(block.active, self.expanded(block, shape)) for block in tangent)
            for tangent, own in zip(tangents, shapes or [shape] * len(tangents), strict=True)
        ]
        blocks: list[Block] = []
        for block in (block for tangent in full for block in tangent):
            meeting = [other for other in blocks if set(other.active) & set(block.active)]
            blocks = [other for other in blocks if other not in meeting]
            joined = block
            for other in meeting:
                joined = self._added(other, joined, like)
            blocks.append(joined)
        if shape.numel() <= _LARGE and len(blocks) > 1:
            together = tuple(entry for block in blocks for entry in block.active)
            blocks = [Block(together, self.call(_ATEN.cat.default, [block.rows for block in blocks]))]
        return tuple(blocks)

    def expanded(self, block: Block, shape: Sequence[int]) -> fx.Node:
        return self.call(_ATEN.expand.default, block.rows, [len(block.active), *shape])

    def _added(self, first: Block, second: Block, like: Tensor) -> Block:
        if first.active == second.active:
            return Block(first.active, self.call(_ATEN.add.Tensor, first.rows, second.rows))
        union = tuple(dict.fromkeys((*first.active, *second.active)))
        if like.numel() <= _LARGE:
            placed = [self._placed(block, union, like) for block in (first, second)]
            return Block(union, self.call(_ATEN.add.Tensor, *placed))
        places = [union.index(entry) for entry in second.active]
        return Block(union, self.call(_overlapping, first.rows, second.rows, places))


# -- what the graph calls beside torch's own operations


def _number_array(nested: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(nested, dtype=dtype, device=device)


def _directional(
    target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], moved: list[int], rows: list[Tensor]
) -> Tensor:
    """Derivatives of an operation along the rows of those of its flattened arguments that move."""
    values, layout = tree_flatten((args, kwargs))
    function = _FUNCTIONS[target] if isinstance(target, str) else target

    def at(*arguments: Tensor) -> Any:
        flat = list(values)
        for place, argument in zip(moved, arguments, strict=True):
            flat[place] = argument
        args, kwargs = tree_unflatten(flat, layout)
        return function(*args, **kwargs)

    point = tuple(values[place] for place in moved)
    return torch.func.vmap(lambda *directions: torch.func.jvp(at, point, directions)[1])(*rows)


def _overlapping(first: Tensor, second: Tensor, places: list[int]) -> Tensor:
    """Sum of two blocks of rows, the second put at its `places`, of which some lie behind the rows of the first."""
    row_at = {place: row for row, place in enumerate(places)}
    rows = [row + second[row_at[place]] if place in row_at else row for place, row in enumerate(first.unbind(0))]
    return torch.stack([*rows, *(second[row] for row, place in enumerate(places) if place >= len(rows))])


# by name, because the code of a graph can't hold a function among the arguments of another
_FUNCTIONS = {f.__name__: f for f in (_number_array, _directional, _overlapping, torch.matmul)}
_NAMES = {function: name for name, function in _FUNCTIONS.items()}


# -- rules


def _sum_of(w: _Writer, node: fx.Node) -> Tangent:
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


def _product(w: _Writer, node: fx.Node) -> Tangent:
    shape = node.meta["val"].shape
    tangents = []
    for here, other in (node.args[:2], node.args[1::-1]):
        if isinstance(here, fx.Node) and here in w.tangent and other not in w.zeros:
            factor = w.value[other] if isinstance(other, fx.Node) else other
            tangents.append(
                tuple(Block(b.active, w.call(_ATEN.mul.Tensor, b.rows, factor)) for b in w.aligned(here, len(shape)))
            )
    return w.sum(tangents, node.meta["val"])


def _quotient(w: _Writer, node: fx.Node) -> Tangent:
    if node.kwargs:  # a rounding mode
        return w._of_any(node)
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


def _slope_times(slope: Callable[[_Writer, Any, Any, fx.Node], Any]) -> Callable[[_Writer, fx.Node], Tangent]:
    """Rule of an elementwise function, given its slope from its argument and its value."""

    def rule(w: _Writer, node: fx.Node) -> Tangent:
        source = node.args[0]
        factor = slope(w, w.value[source], w.value[node], node)
        return w.mapped(source, lambda rows: w.call(_ATEN.mul.Tensor, rows, factor))

    return rule


def _linear(w: _Writer, node: fx.Node) -> Tangent:
    """An elementwise operation that is linear in its first argument, the others being numbers."""
    return w.mapped(node.args[0], lambda rows: w.call(node.target, rows, *node.args[1:], **node.kwargs))


def _shaped(w: _Writer, node: fx.Node) -> Tangent:
    shape = list(node.meta["val"].shape)
    return w.mapped(node.args[0], lambda rows: w.call(_ATEN.reshape.default, rows, [-1, *shape]))


def _broadcast(w: _Writer, node: fx.Node) -> Tangent:
    shape = node.meta["val"].shape
    if node.args[0].meta["val"].shape == shape:
        return w.tangent[node.args[0]]
    return tuple(Block(b.active, w.expanded(b, shape)) for b in w.aligned(node.args[0], len(shape)))


def _along(place: int, *, several: bool = False) -> Callable[[_Writer, fx.Node], Tangent]:
    """Rule of a linear operation whose argument number `place` is an axis, or a list of them (`several`)."""

    def rule(w: _Writer, node: fx.Node) -> Tangent:
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


def _copied(w: _Writer, node: fx.Node) -> Tangent:
    shape = node.meta["val"].shape
    return tuple(Block(b.active, w.expanded(b, shape)) for b in w.aligned(node.args[1], len(shape)))


def _permuted(w: _Writer, node: fx.Node) -> Tangent:
    source, order = node.args
    rank = source.meta["val"].ndim
    moved = [0, *(axis % rank + 1 for axis in order)]
    return w.mapped(source, lambda rows: w.call(node.target, rows, moved))


def _exchanged(w: _Writer, node: fx.Node) -> Tangent:
    source, *axes = node.args
    rank = source.meta["val"].ndim
    moved = [axis % rank + 1 for axis in axes or range(rank)]
    if len(moved) < 2:
        return w.tangent[source]
    return w.mapped(source, lambda rows: w.call(_ATEN.transpose.int, rows, *moved))


def _summed(w: _Writer, node: fx.Node) -> Tangent:
    rank = node.args[0].meta["val"].ndim
    axes = list(range(1, rank + 1))
    return w.mapped(node.args[0], lambda rows: w.call(_ATEN.sum.dim_IntList, rows, axes) if axes else rows)


def _multiplied(w: _Writer, node: fx.Node) -> Tangent:
    """A matrix product with one factor that doesn't move."""
    first, second = node.args
    if first in w.tangent and second in w.tangent:
        return w._of_any(node)
    if second in w.tangent:
        if second.meta["val"].ndim == 1:  # a matrix times the rows, which are vectors
            turned = w.call(_ATEN.transpose.int, w.value[first], -1, -2)
            return w.mapped(second, lambda rows: w.call(torch.matmul, rows, turned))
        return w.mapped(second, lambda rows: w.call(torch.matmul, w.value[first], rows))
    return w.mapped(first, lambda rows: w.call(torch.matmul, rows, w.value[second]))


def _dotted(w: _Writer, node: fx.Node) -> Tangent:
    tangents = []
    for here, other in (node.args, node.args[::-1]):
        if here in w.tangent:
            factor = w.value[other]
            tangents.append(w.mapped(here, lambda rows, factor=factor: w.call(torch.matmul, rows, factor)))
    return w.sum(tangents, node.meta["val"])


def _x_log_y(w: _Writer, node: fx.Node) -> Tangent:
    x, y = node.args
    if not isinstance(x, fx.Node) or x in w.tangent:
        return w._of_any(node)
    slope = w.call(_ATEN.div.Tensor, w.value[x], w.value[y])
    shape = node.meta["val"].shape
    blocks = [Block(b.active, w.call(_ATEN.mul.Tensor, b.rows, slope)) for b in w.aligned(y, len(shape))]
    return w.sum([tuple(blocks)], node.meta["val"])


def _arc_tangent(w: _Writer, node: fx.Node) -> Tangent:
    y, x = node.args
    if y not in w.tangent or x not in w.tangent:
        return w._of_any(node)
    square = w.call(_ATEN.add.Tensor, *(w.call(_ATEN.mul.Tensor, w.value[v], w.value[v]) for v in (x, y)))
    rank = len(node.meta["val"].shape)
    tangents = []
    for part, slope in ((y, w.value[x]), (x, w.call(_ATEN.neg.default, w.value[y]))):
        factor = w.call(_ATEN.div.Tensor, slope, square)
        blocks = [Block(b.active, w.call(_ATEN.mul.Tensor, b.rows, factor)) for b in w.aligned(part, rank)]
        tangents.append(tuple(blocks))
    return w.sum(tangents, node.meta["val"])


def _arc_cosine(w: _Writer, x: Any, value: Any, node: fx.Node) -> Any:
    cosine = w.call(_ATEN.rsub.Scalar, w.call(_ATEN.mul.Tensor, x, x), 1)
    return w.call(_ATEN.neg.default, w.call(_ATEN.rsqrt.default, cosine))


def _clamped(w: _Writer, x: Any, value: Any, node: fx.Node) -> Any:
    low, high = (*node.args[1:], None, None)[:2]
    low, high = node.kwargs.get("min", low), node.kwargs.get("max", high)
    inside = [
        w.call(test, x, limit) for test, limit in ((_ATEN.ge.Scalar, low), (_ATEN.le.Scalar, high)) if limit is not None
    ]
    return inside[0] if len(inside) == 1 else w.call(_ATEN.logical_and.default, *inside)


def _joined(place: int) -> Callable[[_Writer, fx.Node], Tangent]:
    """Rule of cat and stack."""

    def rule(w: _Writer, node: fx.Node) -> Tangent:
        parts = node.args[0]
        axis = node.args[place] if len(node.args) > place else node.kwargs.get("dim", 0)
        union = tuple(dict.fromkeys(e for part in parts for b in w.tangent.get(part, ()) for e in b.active))
        rows = [w.dense(part, union) for part in parts]
        return (Block(union, w.call(node.target, rows, axis if axis < 0 else axis + 1)),)

    return rule


def _complex(w: _Writer, node: fx.Node) -> Tangent:
    real, imag = node.args
    pairs = [[b.active for b in w.tangent.get(part, ())] for part in node.args]
    if pairs[0] != pairs[1]:
        return w._of_any(node)
    return tuple(
        Block(a.active, w.call(node.target, a.rows, b.rows))
        for a, b in zip(w.tangent[real], w.tangent[imag], strict=True)
    )


def _chosen(w: _Writer, node: fx.Node) -> Tangent:
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


def _same(w: _Writer, node: fx.Node) -> Tangent:
    return w.tangent[node.args[0]]


def _power(w: _Writer, x: Any, value: Any, node: fx.Node) -> Any:
    exponent = node.args[1]
    if exponent == 2:
        return w.call(_ATEN.mul.Tensor, x, 2)
    return w.call(_ATEN.mul.Tensor, w.call(_ATEN.pow.Tensor_Scalar, x, exponent - 1), exponent)


def _softplus(w: _Writer, x: Any, value: Any, node: fx.Node) -> Any:
    sharpness = (*node.args[1:], 1)[0]
    return w.call(_ATEN.sigmoid.default, x if sharpness == 1 else w.call(_ATEN.mul.Tensor, x, sharpness))


_CONSTANT = (_ATEN.detach.default, _ATEN.sign.default, _ATEN.floor.default, _ATEN.round.default)
_VIEWS = (
    _ATEN.slice.Tensor, _ATEN.select.int, _ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.reshape.default,
    _ATEN.unsqueeze.default, _ATEN.squeeze.dim, _ATEN.squeeze.default, _ATEN.alias.default,
)  # fmt: skip
_LISTS = {_ATEN.unbind.int: 1, _ATEN.split.Tensor: 2, _ATEN.split_with_sizes.default: 2}
_RULES: dict[Any, Callable[[_Writer, fx.Node], Tangent]] = {
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
    _ATEN.abs.default: _slope_times(lambda w, x, y, node: w.call(_ATEN.sign.default, x)),
    _ATEN.lgamma.default: _slope_times(lambda w, x, y, node: w.call(_ATEN.digamma.default, x)),
    _ATEN.cat.default: _joined(1),
    _ATEN.stack.default: _joined(1),
    _ATEN.complex.default: _complex,
    _ATEN.where.self: _chosen,
}
