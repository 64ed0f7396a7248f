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
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_flatten

from bayesprof.inference.loop_expressions import CASTS, OPERATIONS, PARTS, known

Shape = tuple[int, ...]
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
LAST = 10**6
"""Level of the library's operations, which end a stage."""


@dataclass(eq=False)
class Buffer:
    """A contiguous array: argument number `argument` of the graph, what the library's operation `made_by` returns, or
    else memory used from time `first` to `last` (stage and level).
    """

    numel: int
    dtype: torch.dtype
    argument: int | None = None
    made_by: External | None = None
    first: tuple[int, int] = (LAST, LAST)
    last: tuple[int, int] = (-1, -1)

    @property
    def bytes(self) -> int:
        return self.numel * self.dtype.itemsize

    def used(self, stage: int, level: int) -> None:
        self.first, self.last = min(self.first, (stage, level)), max(self.last, (stage, level))


@dataclass(eq=False)
class Item:
    """What is done for each element of `shape` in one loop.

    `kind`: "point" makes a value by the operation `target`; "store" puts one into the array `out`; "sum" adds it up
    over the axes along which `out` doesn't move; "scatter" adds it at the place in `out` that the last operand says.
    `operands`: other items of the same loop, views to read, numbers; those of a look-up are the index and the view.
    """

    kind: str
    target: Any
    shape: Shape
    dtype: torch.dtype
    stage: int
    level: int
    loop: Shape
    operands: list[Any]
    given: list[Any]  # the operands as views
    dtypes: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    out: View | None = None
    alone: int = 0  # items that share a loop have the same; 0 for all but those that can't share theirs

    @property
    def key(self) -> tuple[int, int, Shape, int]:
        return self.stage, self.level, self.loop, self.alone


@dataclass(eq=False)
class Made:
    """An array that several items write: ready after `stage` and `level`."""

    buffer: Buffer
    stage: int
    level: int


@dataclass(eq=False)
class External:
    """An operation of the library, run at the end of its stage on views and earlier results."""

    target: Any
    args: Any
    kwargs: Any
    stage: int
    views: list[View]
    result: Tensor  # its layout


class View(NamedTuple):
    """A tensor's layout (`tensor`, without data) in the contiguous array that `source` makes or is, and the `changes`
    of shape that led there.
    """

    source: Item | Made | External | Buffer
    tensor: Tensor
    changes: tuple[tuple[Any, Any, Any], ...] = ()

    def changed(self, target: Any, *args: Any, **kwargs: Any) -> View:
        return View(self.source, target(self.tensor, *args, **kwargs), (*self.changes, (target, args, kwargs)))

    def expanded(self, shape: Sequence[int]) -> View:
        same = tuple(self.tensor.shape) == tuple(shape)
        return self if same else self.changed(_ATEN.expand.default, list(shape))

    @property
    def whole(self) -> bool:
        """Whether it is all that the source makes, in the same order."""
        return self.tensor.is_contiguous() and self.tensor.storage_offset() == 0 and self._numel == self.tensor.numel()

    @property
    def _numel(self) -> int:
        source = self.source
        if isinstance(source, Item):
            return math.prod(source.shape) if source.dtype == self.tensor.dtype else -1
        buffer = source.buffer if isinstance(source, Made) else source
        return buffer.numel if isinstance(buffer, Buffer) and buffer.dtype == self.tensor.dtype else -1


class UnsupportedError(Exception):
    """A graph that can't be written as loops."""


def layout(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def squeezed(shape: Sequence[int]) -> Shape:
    return tuple(size for size in shape if size != 1)


def runs(shape: Sequence[int], finer: Shape) -> list[list[int]] | None:
    """For each axis of `shape` longer than 1, the consecutive axes of `finer` that make it up; None where none do."""
    found, place = [], 0
    for size in squeezed(shape):
        run: list[int] = []
        product = 1
        while product < size and place < len(finer):
            product *= finer[place]
            run.append(place)
            place += 1
        if product != size:
            return None
        found.append(run)
    return found if place == len(finer) else None


def strides_along(strides: Sequence[int], shape: Sequence[int], loop: Shape) -> list[int]:
    """Strides along the axes of a `loop` over `shape`, from those along the axes of `shape`."""
    found = [0] * len(loop)
    of_runs = runs(shape, loop)
    assert of_runs is not None
    long = [stride for stride, size in zip(strides, shape, strict=True) if size != 1]
    for stride, run in zip(long, of_runs, strict=True):
        for axis in reversed(run):
            found[axis] = stride
            stride *= loop[axis]
    return found


class Plan:
    """The loops and the library's operations of a graph, in the order in which they run."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self._delays: dict[fx.Node, int] = {}
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
        self._of: dict[fx.Node, Any] = {}
        for node in graph.graph.nodes:
            self._delay = self._delays.get(node, 0)
            if node.op == "placeholder":
                value = node.meta["val"]
                buffer = Buffer(value.numel(), value.dtype, argument=len(self.arguments))
                self.arguments.append(buffer)
                self._of[node] = View(buffer, layout(value.shape, value.dtype))
            elif node.op == "call_function":
                self._of[node] = self._planned(node)
            elif node.op == "output":
                outputs, self.outputs_layout = tree_flatten(node.args[0])
                self._delay = 0
                self.outputs = [self._kept(self._of[output], LAST, LAST) for output in outputs]
            else:
                raise UnsupportedError(f"{node.op} {node.target}")

    def _latest(self, graph: fx.GraphModule) -> dict[fx.Node, int]:
        """Last stage in which each node can be made without its users having to wait."""
        latest: dict[fx.Node, int] = {}
        for node in reversed(graph.graph.nodes):
            if node.op != "call_function":
                continue
            value = self._of[node]
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

    def _planned(self, node: fx.Node) -> Any:
        target, args, kwargs = node.target, node.args, dict(node.kwargs)
        if target is operator.getitem:
            whole = self._of[args[0]]
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
            elif target in _SPECIAL:
                planned = _SPECIAL[target](self, node, value)
            if planned is not None:
                return planned
        return self._external(node)

    def _viewed(self, node: fx.Node) -> Any:
        of, *args = node.args
        if node.target == _ATEN.select.int and of.target == _ATEN.view_as_real.default:
            axis, place = args
            if axis % of.meta["val"].ndim == of.meta["val"].ndim - 1:
                whole = self._of[of.args[0]]
                if isinstance(whole.source, Item):
                    return self._point(PARTS[0], [whole, place], {}, node.meta["val"])
        view = self._of[of]
        target = _ATEN.view.default if node.target in _RESHAPES else node.target
        if target in _SPLITS:
            found = target(view.tensor, *args, **node.kwargs)
            return [view.changed(_taken, target, args, i) for i in range(len(found))]
        try:
            return view.changed(target, *args, **node.kwargs)
        except RuntimeError:
            if node.target not in _RESHAPES:
                raise
        copied = self._point(CASTS[1], [view], {}, view.tensor)
        return copied.changed(target, *args, **node.kwargs)

    def _pointwise(self, target: Any, args: Any, kwargs: dict[str, Any], value: Tensor) -> View | None:
        operands = [self._of[arg] if isinstance(arg, fx.Node) else arg for arg in args]
        if not all(isinstance(operand, View | int | float | complex | None) for operand in operands):
            return None
        if target in CASTS:
            kwargs = {}
        dtypes = [operand.tensor.dtype if isinstance(operand, View) else None for operand in operands]
        if any(isinstance(number, fx.Node) for number in kwargs.values()) or value.numel() == 0:
            return None
        if not known(target, dtypes, value.dtype, kwargs):
            return None
        return self._point(target, operands, kwargs, value)

    def _point(self, target: Any, operands: list[Any], kwargs: dict[str, Any], value: Tensor) -> View:
        item = self._item("point", target, operands, value.shape, value.dtype, kwargs=kwargs)
        return View(item, layout(value.shape, value.dtype))

    def _item(
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
        stage = max([self._delay, *(_ready(view.source) for view in views), *(other.stage for other in after)])
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
        assert isinstance(source, Item)
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
        if again and self._worth_repeating(view):
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

    def _store(self, made: Made, operand: Any, part: Tensor, *, after: Sequence[Item] = ()) -> Item:
        """Puts `operand`, a view or a number, into the `part` of an array."""
        if isinstance(operand, View):
            operand = operand.expanded(part.shape)
        item = self._item("store", None, [operand], part.shape, part.dtype, after=after, out=View(made, part))
        self._written(made, item)
        return item

    def _written(self, made: Made, item: Item) -> None:
        made.buffer.used(item.stage, item.level)
        if (item.stage, item.level) > (made.stage, made.level):
            made.stage, made.level = item.stage, item.level

    def _made(self, value: Tensor) -> tuple[Made, Tensor]:
        return Made(self._new(value.numel(), value.dtype), 0, 0), layout(value.shape, value.dtype)

    def _external(self, node: fx.Node) -> Any:
        views: list[View] = []

        def kept(argument: Any) -> Any:
            if not isinstance(argument, fx.Node):
                return argument
            value = self._of[argument]
            for view in value if isinstance(value, list) else [value]:
                views.append(view)
            return value

        if getattr(node.target, "_schema", None) is not None and node.target._schema.is_mutable:
            raise UnsupportedError(f"{node.target} writes into its argument")
        args, kwargs = fx.node.map_arg(node.args, kept), fx.node.map_arg(dict(node.kwargs), kept)
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
        self._store(made, view, as_)
        return View(made, as_)

    # -- operations that are no single value for each element

    def _summed(self, node: fx.Node, value: Tensor) -> View | None:
        view = self._of[node.args[0]]
        ndim = view.tensor.ndim
        axes = node.args[1] if len(node.args) > 1 and node.args[1] else list(range(ndim))
        return self._total(view, tuple(sorted(axis % ndim for axis in axes)) if ndim else (), value, node.kwargs)

    def _total(self, view: View, axes: tuple[int, ...], value: Tensor, kwargs: Any = None) -> View | None:
        if kwargs or value.dtype != view.tensor.dtype or not (value.is_floating_point() or value.is_complex()):
            return None
        if view.tensor.numel() == 0:
            return None
        made, whole = self._made(value)
        shape = view.tensor.shape
        # the layout of the result with the summed axes in place, and no step along them
        kept = [size for axis, size in enumerate(shape) if axis not in axes]
        place = whole.view(kept)
        for axis in axes:
            place = place.unsqueeze(axis)
        out = View(made, place.expand(shape))
        item = self._item("sum", None, [view], shape, value.dtype, out=out)
        self._written(made, item)
        return View(made, whole)

    def _dotted(self, node: fx.Node, value: Tensor) -> View | None:
        first, second = (self._of[arg] for arg in node.args)
        if value.dtype.is_complex or first.tensor.dtype != second.tensor.dtype:
            return None
        product = self._point(_ATEN.mul.Tensor, [first, second], {}, first.tensor)
        return self._total(product, (0,), value)

    def _joined(self, node: fx.Node, value: Tensor) -> View | None:
        parts = [self._of[part] for part in node.args[0]]
        axis = (node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) % max(value.ndim, 1)
        if any(not isinstance(part, View) or part.tensor.dtype != value.dtype for part in parts):
            return None
        if node.target == _ATEN.stack.default:
            parts = [part.changed(_ATEN.unsqueeze.default, axis) for part in parts]
        parts = [part for part in parts if part.tensor.numel()]
        made, whole = self._made(value)
        start = 0
        for part in parts:
            size = part.tensor.shape[axis]
            self._store(made, part, whole.narrow(axis, start, size))
            start += size
        return View(made, whole)

    def _put(self, node: fx.Node, value: Tensor) -> View | None:
        """Backward of slices and selections, and their replacement inside another array: one part is given, what is
        around it is 0 or the other array.
        """
        target, kwargs = node.target, dict(node.kwargs)
        if target in (_ATEN.slice_backward.default, _ATEN.select_backward.default):
            part, _, axis, *rest = node.args
            around: Any = 0
        else:
            around, part, *rest = node.args
            axis = rest.pop(0) if rest else kwargs.pop("dim", 0)
            around = self._of[around]
        names = ("start", "end", "step")
        options = dict(zip(names, rest, strict=False)) | kwargs
        view, axis = self._of[part], axis % value.ndim
        size = value.shape[axis]
        if target in (_ATEN.select_backward.default, _ATEN.select_scatter.default):
            start = options.get("start", options.get("index")) % size
            end, step = start + 1, 1
            view = view.changed(_ATEN.unsqueeze.default, axis)
        else:
            start, end, step = (options.get(name, default) for name, default in zip(names, (0, size, 1), strict=True))
            start, end = (min(max(edge + size if edge < 0 else edge, 0), size) for edge in (start or 0, min(end, size)))
        if step != 1 or view.tensor.dtype != value.dtype:
            return None
        made, whole = self._made(value)
        self._store(made, view, whole.narrow(axis, start, end - start))
        for low, high in ((0, start), (end, size)):
            if high > low:
                outside = around.changed(_ATEN.slice.Tensor, axis, low, high) if around else 0
                self._store(made, outside, whole.narrow(axis, low, high - low))
        return View(made, whole)

    def _looked_up(self, node: fx.Node, value: Tensor) -> View | None:
        if node.target == _ATEN.gather.default:
            table, axis, index = self._of[node.args[0]], node.args[1], self._of[node.args[2]]
            axis %= max(table.tensor.ndim, 1)
            if table.tensor.ndim == 0:
                return None
            narrowed = table.tensor
            for other, size in enumerate(index.tensor.shape):
                if other != axis:
                    narrowed = narrowed.narrow(other, 0, size)
            wrap = 0
        else:
            table, indices = self._of[node.args[0]], node.args[1]
            found = [(place, self._of[index]) for place, index in enumerate(indices) if index is not None]
            if len(found) != 1 or found[0][1].tensor.ndim != 1 or found[0][1].tensor.dtype != torch.int64:
                return None
            (axis, index), narrowed = found[0], table.tensor
            wrap = narrowed.shape[axis]
            index = _along(index, axis, value.shape)
        if not isinstance(value, Tensor) or value.dtype != table.tensor.dtype or value.numel() == 0:
            return None
        # a step along the axis is the index's to make
        spread = narrowed.narrow(axis, 0, 1).expand(value.shape)
        rows = View(table.source, spread)
        item = self._item(
            "point", "look up", [index, rows], value.shape, value.dtype, apart=rows,
            kwargs={"stride": narrowed.stride(axis), "wrap": wrap},
        )  # fmt: skip
        return View(item, layout(value.shape, value.dtype))

    def _scattered(self, node: fx.Node, value: Tensor) -> View | None:
        start, axis, index, part = (self._of[arg] if isinstance(arg, fx.Node) else arg for arg in node.args[:4])
        if node.kwargs or value.dtype.is_complex or part.tensor.dtype != value.dtype or value.ndim == 0:
            return None
        axis %= value.ndim
        if node.target == _ATEN.index_add.default:
            index = _along(index, axis, part.tensor.shape)
        else:
            for other, size in enumerate(index.tensor.shape):
                part = part.changed(_ATEN.slice.Tensor, other, 0, size)
        made, whole = self._made(value)
        copied = self._store(made, start, whole)
        place = whole
        for other, size in enumerate(index.tensor.shape):
            place = place.narrow(other, 0, 1 if other == axis else size)
        out = View(made, place.expand(index.tensor.shape))
        item = self._item(
            "scatter", None, [part, index], index.tensor.shape, value.dtype, alone=True, after=[copied], out=out,
            kwargs={"stride": whole.stride(axis)},
        )  # fmt: skip
        self._written(made, item)
        return View(made, whole)


def _ready(source: Any) -> int:
    """First stage in which what `source` makes can be read."""
    if isinstance(source, External):
        return source.stage + 1
    return source.stage if isinstance(source, Item | Made) else 0


def _along(index: View, axis: int, shape: Sequence[int]) -> View:
    """A one-dimensional index, laid along one axis of an array of `shape`."""
    return index.changed(_ATEN.view.default, [-1 if i == axis else 1 for i in range(len(shape))]).expanded(shape)


def _taken(tensor: Tensor, target: Any, args: Any, which: int) -> Tensor:
    """One of several parts."""
    found: Tensor = target(tensor, *args)[which]
    return found


def _moved(tensor: Tensor) -> Shape:
    """Sizes along the axes along which a tensor isn't the same."""
    return tuple(size if stride else 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


_SPECIAL = {
    _ATEN.sum.default: Plan._summed,
    _ATEN.sum.dim_IntList: Plan._summed,
    _ATEN.dot.default: Plan._dotted,
    _ATEN.cat.default: Plan._joined,
    _ATEN.stack.default: Plan._joined,
    _ATEN.slice_backward.default: Plan._put,
    _ATEN.select_backward.default: Plan._put,
    _ATEN.slice_scatter.default: Plan._put,
    _ATEN.select_scatter.default: Plan._put,
    _ATEN.gather.default: Plan._looked_up,
    _ATEN.index.Tensor: Plan._looked_up,
    _ATEN.index_add.default: Plan._scattered,
    _ATEN.scatter_add.default: Plan._scattered,
}
