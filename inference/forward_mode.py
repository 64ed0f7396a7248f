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
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from bayesprof.inference.block_writer import BlockWriter, gathered, overlapping
from bayesprof.inference.blocks import Block, Tangent
from bayesprof.inference.forward_rules import CONSTANT, IN_WINDOWS, LISTS, RULES, Node
from bayesprof.inference.passes import unchanged, vanishing
from bayesprof.inference.separate import VIEWS, separate

_ATEN = torch.ops.aten


class Derivatives(NamedTuple):
    """A graph of values and derivatives: it returns the values, and for each differentiated tensor a list of the rows
    of its blocks; `blocks` are what is known of those, in lists of the same layout, rows being nodes of the graph.
    """

    graph: fx.GraphModule
    blocks: Any


def with_derivatives(
    graph: fx.GraphModule, *keys: str, in_windows: bool = False, diagonal: bool = False
) -> Derivatives:
    """`graph`, which returns a dictionary of tensors and lists of tensors, with those named by `keys` replaced by their
    derivatives along its first argument; of images `in_windows`, where that is how they are made. Diagonal blocks are
    written out, or left as they are where `diagonal`.

    The nodes of `graph` must know their shapes, as captured ones do (and others after :func:`with_shapes`).
    """
    *_, output = graph.graph.nodes
    wanted: set[Node] = set()
    fx.node.map_arg([output.args[0][key] for key in keys], wanted.add)
    handed_out = set(wanted) if diagonal else set()
    for node in reversed(graph.graph.nodes):
        if node in wanted:
            wanted.update(node.all_input_nodes)
    written = _Writer(graph, wanted, handed_out)
    result, blocks = {}, {}
    for key, value in output.args[0].items():
        if key in keys:
            blocks[key] = tree_map(lambda node: written.finished(node, in_windows, diagonal), value)
            result[key] = tree_map(lambda block: block.rows, blocks[key], is_leaf=_is_block)
        else:
            result[key] = fx.node.map_arg(value, written.value.__getitem__)
    written.graph.output(result)
    written.graph.eliminate_dead_code()
    return Derivatives(fx.GraphModule({}, written.graph), blocks)


def along(graph: fx.GraphModule, key: str) -> list[set[int]]:
    """Which entries of its first argument each tensor in a list that `graph` returns as `key` depends on."""
    each = with_derivatives(graph, key).blocks[key]
    return [
        {
            entry
            for block in blocks
            for entry in (block.active if block.axis is None else chain(*block.active))
            if entry is not None
        }
        for blocks in each
    ]


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


def _item(node: Node, i: int, value: Tensor) -> Tensor:
    """Item `i` of what a node would return for a `value`."""
    item: Tensor = node.target(value, *node.args[1:])[i]
    return item


class _Writer(BlockWriter):
    """Copies a graph and writes the tangent of each of the `wanted` nodes beside it; those of nodes that are
    `handed_out` may be diagonal.
    """

    def __init__(self, module: fx.GraphModule, wanted: set[Node], handed_out: set[Node]) -> None:
        super().__init__()
        self.parts: dict[Node, list[Tangent]] = {}
        self.zeros = vanishing(module)
        self.apart = separate(module, wanted, handed_out)
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

    def _differentiate(self, node: Node) -> None:
        active = [parent for parent in node.all_input_nodes if parent in self.tangent or parent in self.parts]
        if not active or node.target in CONSTANT:
            return
        if node.target not in IN_WINDOWS and any(b.at for parent in active for b in self.tangent.get(parent, ())):
            in_windows = {parent: self.tangent[parent] for parent in active if parent in self.tangent}
            self.tangent.update({parent: self.whole(parent) for parent in in_windows})
            self._tangent_of(node)
            self.tangent.update(in_windows)
        else:
            self._tangent_of(node)

    def _tangent_of(self, node: Node) -> None:
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
        return tuple(b._replace(rows=self.call(_ATEN._to_copy.default, b.rows, dtype=kind)) for b in tangent)

    def _of_view(self, node: Node, entries: Tensor) -> Tangent:
        """A plain view of the vector: rows of the unit matrix; or its diagonal alone, where its elements go separate
        ways, as those of a parameter with a value for each image or for each of many sources do.
        """
        like = node.meta["val"]
        if node in self.apart and entries.unique().numel() == entries.numel():
            inner = entries[0].numel()  # elements that stay together, each with a row of its own
            unit = self.call(_ATEN.eye.default, inner, dtype=like.dtype, device=like.device)
            unit = self.call(_ATEN.reshape.default, unit, [inner, 1, *like.shape[1:]])
            rows = self.call(_ATEN.expand.default, unit, [inner, *like.shape])
            return (Block(tuple(map(tuple, entries.reshape(-1, inner).T.tolist())), rows, -like.ndim),)
        active = tuple(dict.fromkeys(entries.flatten().tolist()))
        if len(active) == entries.numel():
            unit = self.call(_ATEN.eye.default, len(active), dtype=like.dtype, device=like.device)
            return (Block(active, self.call(_ATEN.reshape.default, unit, [len(active), *like.shape])),)
        places = {entry: row for row, entry in enumerate(active)}
        hot = torch.zeros(len(active), entries.numel(), dtype=torch.int64)
        for column, entry in enumerate(entries.flatten().tolist()):
            hot[places[entry], column] = 1
        nested = hot.reshape(len(active), *entries.shape).tolist()
        return (Block(active, self.call(_number_array, nested, like.dtype, like.device)),)

    def _of_list(self, node: Node) -> list[Tangent]:
        """An operation that returns several tensors."""
        count = len(node.meta["val"])
        if node.target not in LISTS:
            ((union, several, *_),) = self.of_any(node)
            items = [(Block(union, self.call(operator.getitem, several, i)),) for i in range(count)]
            return [
                item if value.is_floating_point() or value.is_complex() else ()
                for item, value in zip(items, node.meta["val"], strict=True)
            ]
        place = LISTS[node.target]
        args = [*node.args, 0][: place + 1]  # the axis is the last argument, 0 where it's left out
        args[place] += args[place] >= 0
        operations = [functools.partial(_item, node, i) for i in range(count)]
        result: list[list[Block]] = [[] for _ in range(count)]
        for block in self.tangent[node.args[0]]:
            several, places = self.ready(block, node.args[0].meta["val"], operations)
            rows = self.call(node.target, several.rows, *args[1:])
            for i, (active, axis) in enumerate(places):
                result[i].append(self.complete(Block(active, self.call(operator.getitem, rows, i), axis)))
        return [tuple(blocks) for blocks in result]

    def of_any(self, node: Node) -> Tangent:
        """Any operation, by torch.func: along all directions that any of its arguments depends on."""
        flat, layout = tree_flatten((node.args, dict(node.kwargs)))
        moved = [i for i, entry in enumerate(flat) if isinstance(entry, fx.Node) and entry in self.tangent]
        tangents = [self.plain(flat[i]) for i in moved]
        union = tuple(dict.fromkeys(entry for tangent in tangents for block in tangent for entry in block.active))
        rows = [self.rows_along(flat[i], tangent, union) for i, tangent in zip(moved, tangents, strict=True)]
        values = [self.value[entry] if isinstance(entry, fx.Node) else entry for entry in flat]
        args, kwargs = tree_unflatten(values, layout)
        target = _NAMES.get(node.target, node.target)
        return (Block(union, self.call(_directional, target, args, kwargs, moved, rows)),)


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


# by name, because the code of a graph can't hold a function among the arguments of another
_FUNCTIONS = {f.__name__: f for f in (_number_array, _directional, gathered, overlapping, torch.matmul)}
_NAMES = {function: name for name, function in _FUNCTIONS.items()}
