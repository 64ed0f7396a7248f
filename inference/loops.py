"""A captured graph as loops over arrays, with as few passes over memory as its structure allows.

Run operation by operation, a graph reads and writes an array for each. Here operations on single elements that run over
the same elements share one loop: what one makes the next takes from a register. Changes of shape cost nothing, sums and
look-ups join the loop of what they sum or are looked up by. What isn't made of such operations (Fourier transforms,
products of matrices) stays the library's, between stages of loops.

Each item has a stage, which comes after the library's operations that it waits for; a level within that, after the
loops that it waits for; and a shape that it runs over. Items that agree in all three are one loop.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_flatten

from bayesprof.inference.loop_expressions import CASTS, OPERATIONS, PARTS, known
from bayesprof.inference.loop_operations import SPECIAL
from bayesprof.inference.loop_parts import (
    LAST,
    Buffer,
    External,
    Item,
    Made,
    Shape,
    UnsupportedError,
    View,
    layout,
    ready,
    runs,
    squeezed,
)

_ATEN = torch.ops.aten
_VIEWS = (
    _ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.reshape.default, _ATEN.expand.default,
    _ATEN.unsqueeze.default, _ATEN.squeeze.default, _ATEN.squeeze.dim, _ATEN.squeeze.dims, _ATEN.permute.default,
    _ATEN.transpose.int, _ATEN.t.default, _ATEN.slice.Tensor, _ATEN.select.int, _ATEN.split.Tensor,
    _ATEN.split_with_sizes.default, _ATEN.unbind.int, _ATEN.detach.default, _ATEN.alias.default,
    _ATEN.view_as_real.default, _ATEN.diagonal.default,
)  # fmt: skip
_SPLITS = (_ATEN.split.Tensor, _ATEN.split_with_sizes.default, _ATEN.unbind.int)
_RESHAPES = (_ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.reshape.default)
_CHEAP = (
    _ATEN.add.Tensor, _ATEN.sub.Tensor, _ATEN.mul.Tensor, _ATEN.mul.Scalar, _ATEN.add.Scalar, _ATEN.neg.default,
    _ATEN.complex.default, _ATEN._conj.default, _ATEN.clone.default, *PARTS,
)  # fmt: skip
_SMALL = 1024  # elements of an array that isn't worth a second thought


class Plan:
    """The loops and the library's operations of a graph, in the order in which they run."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self._delays: dict[Any, int] = {}
        self._write(graph)
        # once more, each node as late as those who need it allow: then it shares their loops
        self._delays = self._latest(graph)
        self._write(graph)

    def _write(self, graph: fx.GraphModule) -> None:
        self.items: list[Item] = []
        self.externals: list[External] = []
        self.buffers: list[Buffer] = []
        self.arguments: list[Buffer] = []
        self._stored: dict[int, Buffer] = {}  # by id of the item that is kept in memory
        self._repeated: dict[Any, Item] = {}
        self._worth: dict[int, bool] = {}
        self.values: dict[Any, Any] = {}
        for node in graph.graph.nodes:
            self._delay = self._delays.get(node, 0)
            if node.op == "placeholder":
                value = node.meta["val"]
                buffer = Buffer(value.numel(), value.dtype, argument=len(self.arguments))
                self.arguments.append(buffer)
                self.values[node] = View(buffer, layout(value.shape, value.dtype))
            elif node.op == "call_function":
                self.values[node] = self._planned(node)
            elif node.op == "output":
                outputs, self.outputs_layout = tree_flatten(node.args[0])
                self._delay = 0
                self.outputs = [self._kept(self.values[output], LAST, LAST) for output in outputs]
            else:
                raise UnsupportedError(f"{node.op} {node.target}")

    def _latest(self, graph: fx.GraphModule) -> dict[Any, int]:
        """Last stage in which each node can be made without its users having to wait."""
        latest: dict[Any, int] = {}
        for node in reversed(graph.graph.nodes):
            if node.op != "call_function":
                continue
            value = self.values[node]
            users = [user for user in node.users if user.op == "call_function"]
            own = value.source.stage if isinstance(value, View) and not isinstance(value.source, Buffer) else 0
            external = isinstance(value, View) and isinstance(value.source, External)
            # outputs have no time of their own: with the last of the others
            latest[node] = own if external or not users else min(latest[user] for user in users)
        return latest

    def buffer(self, source: Item | Made | External | Buffer) -> Buffer | External:
        """The array that holds what `source` makes."""
        if isinstance(source, Item):
            return self._stored[id(source)]
        return source.buffer if isinstance(source, Made) else source

    # -- what a node becomes

    def _planned(self, node: Any) -> Any:
        target, args, kwargs = node.target, node.args, dict(node.kwargs)
        if target is operator.getitem:
            whole = self.values[args[0]]
            if isinstance(whole, list):
                return whole[args[1]]
            return self._external(node)
        if target in _VIEWS:
            return self._viewed(node)
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.layout == torch.strided:
            planned = None
            if target in OPERATIONS:
                planned = self._pointwise(target, args, kwargs, value)
            elif target in SPECIAL:
                planned = SPECIAL[target](self, node, value)
            if planned is not None:
                return planned
        return self._external(node)

    def _viewed(self, node: Any) -> Any:
        of, *args = node.args
        if node.target == _ATEN.select.int and of.target == _ATEN.view_as_real.default:
            axis, place = args
            if axis % of.meta["val"].ndim == of.meta["val"].ndim - 1:
                whole = self.values[of.args[0]]
                if isinstance(whole.source, Item):
                    return self.point(PARTS[0], [whole, place], {}, node.meta["val"])
        view = self.values[of]
        target = _ATEN.view.default if node.target in _RESHAPES else node.target
        if target in _SPLITS:
            found = target(view.tensor, *args, **node.kwargs)
            return [view.changed(_taken, target, args, i) for i in range(len(found))]
        try:
            return view.changed(target, *args, **node.kwargs)
        except RuntimeError:
            if node.target not in _RESHAPES:
                raise
        copied = self.point(CASTS[1], [view], {}, view.tensor)
        return copied.changed(target, *args, **node.kwargs)

    def _pointwise(self, target: Any, args: Any, kwargs: dict[str, Any], value: Tensor) -> View | None:
        operands = [self.values[arg] if isinstance(arg, fx.Node) else arg for arg in args]
        if not all(isinstance(operand, View | int | float | complex | None) for operand in operands):
            return None
        if target in CASTS:
            kwargs = {}
        dtypes = [operand.tensor.dtype if isinstance(operand, View) else None for operand in operands]
        if any(isinstance(number, fx.Node) for number in kwargs.values()) or value.numel() == 0:
            return None
        if not known(target, dtypes, value.dtype, kwargs):
            return None
        return self.point(target, operands, kwargs, value)

    def point(self, target: Any, operands: list[Any], kwargs: dict[str, Any], value: Tensor) -> View:
        """What `target` makes of each element of `operands`, in the shape and type of `value`."""
        item = self.item("point", target, operands, value.shape, value.dtype, kwargs=kwargs)
        return View(item, layout(value.shape, value.dtype))

    def item(
        self,
        kind: str,
        target: Any,
        operands: list[Any],
        shape: Sequence[int],
        dtype: torch.dtype,
        *,
        alone: bool = False,
        apart: View | None = None,
        after: Sequence[Item] = (),
        **more: Any,
    ) -> Item:
        """An item over `shape`, in the loop of its operands where it can be, but of the one that is kept `apart`;
        `after` others that it has to follow.
        """
        shape = tuple(shape)
        views = [operand for operand in operands if isinstance(operand, View)]
        stage = max([self._delay, *(ready(view.source) for view in views), *(other.stage for other in after)])
        joined = [view for view in views if self._joins(view, shape, stage) and view is not apart and not alone]
        highest = max(joined, key=lambda view: view.source.level, default=None)
        loop = self._favourite(views, shape) if highest is None else highest.source.loop
        level = max([0, *(other.level + 1 for other in after if other.stage == stage)])
        for view in views:
            shares = any(view is other for other in joined) and view.source.loop == loop
            level = max(level, view.source.level if shares else self._after(view, stage, again=view is not apart))
        item = Item(
            kind, target, shape, dtype, stage, level, loop, [], operands, alone=len(self.items) + 1 if alone else 0,
            dtypes=[operand.tensor.dtype if isinstance(operand, View) else None for operand in operands], **more,
        )  # fmt: skip
        item.operands = [
            self._taken_in(operand, item, again=operand is not apart) if isinstance(operand, View) else operand
            for operand in operands
        ]
        self.items.append(item)
        return item

    def _taken_in(self, view: View, item: Item, *, again: bool) -> Item | View:
        """How an item comes by an operand: from its own loop, by doing once more what made it, or from memory."""
        source = view.source
        if again and isinstance(source, Item) and self._joins(view, item.shape, item.stage) and source.key == item.key:
            return source
        if not (again and self._worth_repeating(view)):
            return self._kept(view, item.stage, item.level)
        view = view.expanded(item.shape)
        layouts = (tuple(view.tensor.shape), view.tensor.stride(), view.tensor.storage_offset())
        known = (item.key, id(source), layouts)
        if known not in self._repeated:
            copy = Item(
                "point", source.target, item.shape, source.dtype, item.stage, item.level, item.loop, [], [],
                source.dtypes, source.kwargs, alone=item.alone,
            )  # fmt: skip
            for operand in source.given:
                if isinstance(operand, View):
                    operand = operand.expanded(source.shape)
                    for target, args, kwargs in view.changes:
                        operand = operand.changed(target, *args, **kwargs)
                copy.given.append(operand)
            copy.operands = [
                self._taken_in(operand, item, again=True) if isinstance(operand, View) else operand
                for operand in copy.given
            ]
            self.items.append(copy)
            self._repeated[known] = copy
        return self._repeated[known]

    def _worth_repeating(self, view: View) -> bool:
        """Whether what made `view` is so little that to do it once more costs less than to write and read its array."""
        source = view.source
        if not isinstance(source, Item) or source.kind != "point" or math.prod(source.shape) < _SMALL:
            return False
        if id(source) not in self._worth:
            self._worth[id(source)] = self._reads(source) <= (2 if source.dtype.is_complex else 1)
        return self._worth[id(source)] and self._follows(view)

    def _reads(self, item: Item) -> int:
        """Large arrays that an item reads if it is repeated, complex ones counted twice; many for what isn't cheap."""
        if item.target not in _CHEAP:
            return LAST
        reads = 0
        for operand in item.given:
            if isinstance(operand, View) and math.prod(squeezed(_moved(operand.tensor))) * 4 > math.prod(item.shape):
                again = self._worth_repeating(operand)
                reads += self._reads(operand.source) if again else 2 if operand.tensor.dtype.is_complex else 1
        return reads

    def _follows(self, view: View) -> bool:
        """Whether the changes of shape can be made to the operands of what made `view`."""
        source = view.source
        try:
            for operand in source.given:
                if isinstance(operand, View):
                    operand = operand.expanded(source.shape)
                    for target, args, kwargs in view.changes:
                        operand = operand.changed(target, *args, **kwargs)
        except RuntimeError:
            return False
        return view.tensor.dtype == source.dtype

    def _after(self, view: View, stage: int, *, again: bool = True) -> int:
        """First level of a `stage` in which `view` can be read, or what made it be repeated."""
        source = view.source
        if not isinstance(source, Item | Made) or source.stage < stage:
            return 0
        if again and isinstance(source, Item) and self._worth_repeating(view):
            return max([0, *(self._after(operand, stage) for operand in source.given if isinstance(operand, View))])
        return source.level + 1

    def _favourite(self, views: Sequence[View], shape: Shape) -> Shape:
        """The shape that a loop over `shape` runs over: that of a loop that makes one of its operands, where that
        divides it more finely.
        """
        count = math.prod(shape)
        for view in views:
            source = view.source
            if isinstance(source, Item) and view.whole and view.tensor.numel() == count and runs(shape, source.loop):
                return source.loop
        return squeezed(shape)

    def _joins(self, view: View, shape: Shape, stage: int) -> bool:
        source = view.source
        return (
            isinstance(source, Item)
            and (source.kind, source.stage, source.alone) == ("point", stage, 0)
            and view.whole
            and view.tensor.numel() == math.prod(shape)
            and runs(shape, source.loop) is not None
        )

    def _kept(self, view: View, stage: int, level: int) -> View:
        """`view`, whose array is in memory when it's read at that time."""
        source = view.source
        if isinstance(source, Item) and id(source) not in self._stored:
            buffer = self._new(math.prod(source.shape), source.dtype)
            buffer.used(source.stage, source.level)
            self._stored[id(source)] = buffer
        if not isinstance(source, External):
            buffer = self.buffer(source)  # type: ignore[assignment]
            buffer.used(stage, level)
        return view

    def stored(self, item: Item) -> Buffer | None:
        """The array that keeps what an item makes, where something outside its loop needs it."""
        return self._stored.get(id(item))

    def _new(self, numel: int, dtype: torch.dtype) -> Buffer:
        self.buffers.append(Buffer(numel, dtype))
        return self.buffers[-1]

    def store(self, made: Made, operand: Any, part: Tensor, *, after: Sequence[Item] = ()) -> Item:
        """Puts `operand`, a view or a number, into the `part` of an array."""
        if isinstance(operand, View):
            operand = operand.expanded(part.shape)
        item = self.item("store", None, [operand], part.shape, part.dtype, after=after, out=View(made, part))
        self.written(made, item)
        return item

    def written(self, made: Made, item: Item) -> None:
        """Takes note that `item` writes into an array."""
        made.buffer.used(item.stage, item.level)
        if (item.stage, item.level) > (made.stage, made.level):
            made.stage, made.level = item.stage, item.level

    def made(self, value: Tensor) -> tuple[Made, Tensor]:
        """A new array in the shape and type of `value`, and its layout."""
        return Made(self._new(value.numel(), value.dtype), 0, 0), layout(value.shape, value.dtype)

    def _external(self, node: Any) -> Any:
        views: list[View] = []

        def kept(argument: Any) -> Any:
            if not isinstance(argument, fx.Node):
                return argument
            value = self.values[argument]
            for view in value if isinstance(value, list) else [value]:
                views.append(view)
            return value

        if getattr(node.target, "_schema", None) is not None and node.target._schema.is_mutable:
            raise UnsupportedError(f"{node.target} writes into its argument")
        args: Any = fx.node.map_arg(node.args, kept)
        kwargs: Any = fx.node.map_arg(dict(node.kwargs), kept)
        value = node.meta.get("val")
        # several results, which getitem takes apart, have no layout
        made = layout(value.shape, value.dtype) if isinstance(value, Tensor) else layout((), torch.float64)
        if node.target == _ATEN._fft_c2c.default and len(args[1]) == 1:
            # along another axis than the last it works on a transposed copy, and returns one: both are spared here
            axis = args[1][0]
            made = layout(made.transpose(axis, -1).shape, made.dtype).transpose(axis, -1)
            args = (self._laid_out(views[0], made), *args[1:])
            views = [args[0]]
        stages = [
            source.stage if isinstance(source, Item | Made | External) else 0
            for source in (view.source for view in views)
        ]
        external = External(node.target, args, kwargs, max([0, *stages]), views, made)
        for view in views:
            self._kept(view, external.stage, LAST)
        self.externals.append(external)
        return View(external, made)

    def _laid_out(self, view: View, as_: Tensor) -> View:
        """`view` in an array with the layout of another tensor; as it is where its array has another use."""
        if not isinstance(view.source, Item) or not view.whole:
            return view
        made = Made(self._new(as_.numel(), as_.dtype), 0, 0)
        self.store(made, view, as_)
        return View(made, as_)


def _taken(tensor: Tensor, target: Any, args: Any, which: int) -> Tensor:
    """One of several parts."""
    found: Tensor = target(tensor, *args)[which]
    return found


def _moved(tensor: Tensor) -> Shape:
    """Sizes along the axes along which a tensor isn't the same."""
    return tuple(size if stride else 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
