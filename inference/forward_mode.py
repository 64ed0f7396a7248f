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

from bayesprof.inference.forward_rules import CONSTANT, LISTS, RULES, VIEWS, Block, Node, Tangent
from bayesprof.inference.passes import unchanged, vanishing

_ATEN = torch.ops.aten
_LARGE = 4096  # elements; tangents of larger arrays are left in blocks rather than copied into one


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
    wanted: set[Node] = set()
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
    first, *constants = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
    with torch.no_grad():
        _Shapes(graph).run(torch.zeros(first.shape, dtype=first.dtype, device=first.device), *constants)
    return graph


class _Shapes(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        n.meta["val"] = super().run_node(n)
        return n.meta["val"]


class _Writer:
    """Copies a graph and writes the tangent of each of the `wanted` nodes beside it."""

    def __init__(self, module: fx.GraphModule, wanted: set[Node]) -> None:
        self.graph = fx.Graph()
        self.value: dict[Node, fx.Node] = {}
        self.tangent: dict[Node, Tangent] = {}
        self.parts: dict[Node, list[Tangent]] = {}
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
        self.entries: dict[Node, Tensor] = {first: torch.arange(size)}
        self.tangent[first] = (Block(tuple(range(size)), unit),)
        for node in nodes:
            if node.op == "call_function":
                same = unchanged(node, self.zeros)
                self.value[node] = self.value[same] if same else self.graph.node_copy(node, self.value.__getitem__)
                if node in wanted:
                    self._differentiate(node)

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
        return self.graph.call_function(target, args, kwargs)

    # -- one node

    def _differentiate(self, node: Node) -> None:
        active = [parent for parent in node.all_input_nodes if parent in self.tangent or parent in self.parts]
        if not active or node.target in CONSTANT:
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
            if node.target in VIEWS and node.args[0] in self.entries:
                entries = self.entries[node] = node.target(self.entries[node.args[0]], *node.args[1:])
                tangent = self._of_view(node, entries)
            elif node.target in RULES:
                tangent = RULES[node.target](self, node)
            else:
                tangent = self.of_any(node)
            tangent = self._in_precision_of(node, tangent)
        if tangent:
            self.tangent[node] = tangent

    def _in_precision_of(self, node: Node, tangent: Tangent) -> Tangent:
        """Rows in the precision of their value where the arguments mix several: a single number doesn't raise that of
        an array, but its rows, which are an array, do.
        """
        kind = node.meta["val"].dtype
        others = [parent.meta["val"] for parent in node.all_input_nodes]
        kinds = [value.dtype for value in others if isinstance(value, Tensor)]
        if all(other.to_real() == kind.to_real() for other in kinds if other.is_floating_point or other.is_complex):
            return tangent
        return tuple(Block(b.active, self.call(_ATEN._to_copy.default, b.rows, dtype=kind)) for b in tangent)

    def _of_view(self, node: Node, entries: Tensor) -> Tangent:
        """A plain view of the vector: rows of the unit matrix."""
        active = tuple(dict.fromkeys(entries.flatten().tolist()))
        places = {entry: row for row, entry in enumerate(active)}
        hot = torch.zeros(len(active), entries.numel(), dtype=torch.int64)
        for column, entry in enumerate(entries.flatten().tolist()):
            hot[places[entry], column] = 1
        like = node.meta["val"]
        nested = hot.reshape(len(active), *entries.shape).tolist()
        return (Block(active, self.call(_number_array, nested, like.dtype, like.device)),)

    def _of_list(self, node: Node) -> list[Tangent]:
        """An operation that returns several tensors."""
        count = len(node.meta["val"])
        if node.target not in LISTS:
            ((union, several),) = self.of_any(node)
            items = [(Block(union, self.call(operator.getitem, several, i)),) for i in range(count)]
            return [
                item if value.is_floating_point() or value.is_complex() else ()
                for item, value in zip(items, node.meta["val"], strict=True)
            ]
        result: list[list[Block]] = [[] for _ in range(count)]
        place = LISTS[node.target]
        args = [*node.args, 0][: place + 1]  # the axis is the last argument, 0 where it's left out
        args[place] += args[place] >= 0
        for block in self.tangent[node.args[0]]:
            several = self.call(node.target, block.rows, *args[1:])
            for i in range(count):
                result[i].append(Block(block.active, self.call(operator.getitem, several, i)))
        return [tuple(blocks) for blocks in result]

    def of_any(self, node: Node) -> Tangent:
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

    def mapped(self, node: Node, change: Callable[[Any], Any]) -> Tangent:
        """The blocks of `node` with their rows changed."""
        return tuple(Block(block.active, change(block.rows)) for block in self.tangent.get(node, ()))

    def aligned(self, node: Node, rank: int) -> Tangent:
        """The blocks of `node`, to broadcast with an array of `rank` axes behind a first axis of their own."""
        shape = node.meta["val"].shape
        if len(shape) == rank:
            return self.tangent.get(node, ())
        inserted = [1] * (rank - len(shape)) + list(shape)
        return self.mapped(node, lambda rows: self.call(_ATEN.reshape.default, rows, [-1, *inserted]))

    def dense(self, node: Node, union: tuple[int, ...]) -> Node:
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

    def _placed(self, block: Block, union: tuple[int, ...], like: Tensor) -> Node:
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

    def expanded(self, block: Block, shape: Sequence[int]) -> Node:
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
