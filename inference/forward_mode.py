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

from bayesprof.inference.blocks import Block, Tangent, carried
from bayesprof.inference.forward_rules import CONSTANT, IN_WINDOWS, LISTS, RULES, VIEWS, Node
from bayesprof.inference.passes import unchanged, vanishing
from bayesprof.placing import placed, seen

_ATEN = torch.ops.aten
_LARGE = 4096  # elements; tangents of larger arrays are left in blocks rather than copied into one


class Derivatives(NamedTuple):
    """A graph of values and derivatives: it returns the values, and for each differentiated tensor a list of the rows
    of its blocks; `active` are the entries of each block, in lists of the same layout, and `at` its windows, None for a
    block of all of the tensor.
    """

    graph: fx.GraphModule
    active: Any
    at: Any


def with_derivatives(graph: fx.GraphModule, *keys: str, in_windows: bool = False) -> Derivatives:
    """`graph`, which returns a dictionary of tensors and lists of tensors, with those named by `keys` replaced by their
    derivatives along its first argument; of images `in_windows`, where that is how they are made.

    The nodes of `graph` must know their shapes, as captured ones do (and others after :func:`with_shapes`).
    """
    *_, output = graph.graph.nodes
    wanted: set[Node] = set()
    fx.node.map_arg([output.args[0][key] for key in keys], wanted.add)
    for node in reversed(graph.graph.nodes):
        if node in wanted:
            wanted.update(node.all_input_nodes)
    written = _Writer(graph, wanted)
    result, active, at = {}, {}, {}
    for key, value in output.args[0].items():
        if key in keys:
            tangents = tree_map(lambda node: written.finished(node, in_windows), value)
            active[key] = tree_map(lambda block: block.active, tangents, is_leaf=_is_block)
            result[key] = tree_map(lambda block: block.rows, tangents, is_leaf=_is_block)
            at[key] = tree_map(lambda block: block.at, tangents, is_leaf=_is_block)
        else:
            result[key] = fx.node.map_arg(value, written.value.__getitem__)
    written.graph.output(result)
    written.graph.eliminate_dead_code()
    return Derivatives(fx.GraphModule({}, written.graph), active, at)


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
        if node.target not in IN_WINDOWS and any(b.at for parent in active for b in self.tangent.get(parent, ())):
            here = dict(self.tangent)
            self.tangent.update({parent: self.whole(parent) for parent in active})
            self._tangent_of(node)
            tangent = self.tangent.get(node, ())
            self.tangent = here | {node: tangent}
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
            several, places = self._ready(block, node.args[0].meta["val"], operations)
            rows = self.call(node.target, several.rows, *args[1:])
            for i, (active, axis) in enumerate(places):
                result[i].append(self._complete(Block(active, self.call(operator.getitem, rows, i), axis)))
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

    # -- blocks

    def mapped(self, node: Node, change: Callable[[Any], Any]) -> Tangent:
        """The blocks of `node` with their rows changed, element by element."""
        return tuple(block._replace(rows=change(block.rows)) for block in self.tangent.get(node, ()))

    def moved(self, node: Node, change: Callable[[Any], Any], operation: Callable[[Tensor], Tensor]) -> Tangent:
        """The blocks of `node` with their rows changed by what is the `operation` on a value: one that moves elements
        about.
        """
        blocks = []
        for block in self.tangent.get(node, ()):
            ready, ((active, axis),) = self._ready(block, node.meta["val"], [operation])
            blocks.append(self._complete(Block(active, change(ready.rows), axis)))
        return tuple(blocks)

    def _ready(
        self, block: Block, like: Tensor, operations: Sequence[Callable[[Tensor], Tensor]]
    ) -> tuple[Block, list[tuple[Any, int | None]]]:
        """A block of an array `like` this one, and its `active` and `axis` after each of the operations; made plain
        where those can't tell.
        """
        if block.axis is not None:
            found = [carried(block, like.shape, operation) for operation in operations]
            if None not in found:
                return block, [place for place in found if place is not None]
            block = self._plain(block, like)
        return block, [(block.active, None)] * len(operations)

    def finished(self, node: Node, in_windows: bool) -> Tangent:
        """The blocks of `node` as they are handed out: with a row for each entry, or in windows."""
        blocks = self.tangent.get(node, ()) if in_windows else self.whole(node)
        return tuple(block if block.at else self._plain(block, node.meta["val"]) for block in blocks)

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
            pieces.append(self.call(placed, rows, [y], [x], block.at.ny, block.at.nx))
        rows = pieces[0] if count == 1 else self.call(_ATEN.cat.default, pieces)
        return self._complete(Block(tuple(row[i] for i in range(count) for row in block.active), rows))

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
        return tuple(self._plain(block, node.meta["val"]) for block in self.tangent.get(node, ()))

    def _plain(self, block: Block, like: Tensor) -> Block:
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
        return self._complete(Block(tuple(entry for row in block.active for entry in row), rows))

    def _complete(self, block: Block) -> Block:
        """A plain block without rows that belong to no entry, and with one row for each entry."""
        if block.axis is not None or (None not in block.active and len(set(block.active)) == len(block.active)):
            return block
        union = tuple(dict.fromkeys(entry for entry in block.active if entry is not None))
        kept = [row for row, entry in enumerate(block.active) if entry is not None]
        places = [union.index(entry) for entry in block.active if entry is not None]
        return Block(union, self.call(_gathered, block.rows, kept, places, len(union)))

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
        return self._complete(Block(tuple(entry for row in block.active for entry in row), rows))

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
        return self.call(_gathered, block.rows, list(range(len(places))), places, len(union))

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
        return Block(union, self.call(_overlapping, first.rows, second.rows, places), *first.kind)


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


def _gathered(rows: Tensor, kept: list[int], places: list[int], count: int) -> Tensor:
    """Those of the rows that are `kept`, added up at their `places` among `count`."""
    result = torch.zeros(count, *rows.shape[1:], dtype=rows.dtype, device=rows.device)
    return result.index_add(0, torch.tensor(places, device=rows.device), rows[kept])


def _overlapping(first: Tensor, second: Tensor, places: list[int]) -> Tensor:
    """Sum of two blocks of rows, the second put at its `places`, of which some lie behind the rows of the first."""
    row_at = {place: row for row, place in enumerate(places)}
    rows = [row + second[row_at[place]] if place in row_at else row for place, row in enumerate(first.unbind(0))]
    return torch.stack([*rows, *(second[row] for row, place in enumerate(places) if place >= len(rows))])


# by name, because the code of a graph can't hold a function among the arguments of another
_FUNCTIONS = {f.__name__: f for f in (_number_array, _directional, _gathered, _overlapping, torch.matmul)}
_NAMES = {function: name for name, function in _FUNCTIONS.items()}
