"""Operations of captured graphs that are no single value for each element: sums, look-ups, arrays put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from bayesprof.inference.loop_parts import View, layout

if TYPE_CHECKING:
    from bayesprof.inference.loops import Plan

_ATEN = torch.ops.aten


def _summed(plan: Plan, node: Any, value: Tensor) -> View | None:
    view = plan.values[node.args[0]]
    ndim = view.tensor.ndim
    axes = node.args[1] if len(node.args) > 1 and node.args[1] else list(range(ndim))
    return _total(plan, view, tuple(sorted(axis % ndim for axis in axes)) if ndim else (), value, node.kwargs)


def _total(plan: Plan, view: View, axes: tuple[int, ...], value: Tensor, kwargs: Any = None) -> View | None:
    if kwargs or value.dtype != view.tensor.dtype or not (value.is_floating_point() or value.is_complex()):
        return None
    if view.tensor.numel() == 0:
        return None
    made, whole = plan.made(value)
    shape = view.tensor.shape
    # the layout of the result with the summed axes in place, and no step along them
    kept = [size for axis, size in enumerate(shape) if axis not in axes]
    place = whole.view(kept)
    for axis in axes:
        place = place.unsqueeze(axis)
    out = View(made, place.expand(shape))
    item = plan.item("sum", None, [view], shape, value.dtype, out=out)
    plan.written(made, item)
    return View(made, whole)


def _dotted(plan: Plan, node: Any, value: Tensor) -> View | None:
    first, second = (plan.values[arg] for arg in node.args)
    if value.dtype.is_complex or first.tensor.dtype != second.tensor.dtype:
        return None
    product = plan.point(_ATEN.mul.Tensor, [first, second], {}, first.tensor)
    return _total(plan, product, (0,), value)


def _joined(plan: Plan, node: Any, value: Tensor) -> View | None:
    parts = [plan.values[part] for part in node.args[0]]
    axis = (node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) % max(value.ndim, 1)
    if any(not isinstance(part, View) or part.tensor.dtype != value.dtype for part in parts):
        return None
    if node.target == _ATEN.stack.default:
        parts = [part.changed(_ATEN.unsqueeze.default, axis) for part in parts]
    parts = [part for part in parts if part.tensor.numel()]
    made, whole = plan.made(value)
    start = 0
    for part in parts:
        size = part.tensor.shape[axis]
        plan.store(made, part, whole.narrow(axis, start, size))
        start += size
    return View(made, whole)


def _put(plan: Plan, node: Any, value: Tensor) -> View | None:
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
        around = plan.values[around]
    names = ("start", "end", "step")
    options = dict(zip(names, rest, strict=False)) | kwargs
    view, axis = plan.values[part], axis % value.ndim
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
    made, whole = plan.made(value)
    plan.store(made, view, whole.narrow(axis, start, end - start))
    for low, high in ((0, start), (end, size)):
        if high > low:
            outside = around.changed(_ATEN.slice.Tensor, axis, low, high) if around else 0
            plan.store(made, outside, whole.narrow(axis, low, high - low))
    return View(made, whole)


def _looked_up(plan: Plan, node: Any, value: Tensor) -> View | None:
    if node.target == _ATEN.gather.default:
        table, axis, index = plan.values[node.args[0]], node.args[1], plan.values[node.args[2]]
        axis %= max(table.tensor.ndim, 1)
        if table.tensor.ndim == 0:
            return None
        narrowed = table.tensor
        for other, size in enumerate(index.tensor.shape):
            if other != axis:
                narrowed = narrowed.narrow(other, 0, size)
        wrap = 0
    else:
        table, indices = plan.values[node.args[0]], node.args[1]
        found = [(place, plan.values[index]) for place, index in enumerate(indices) if index is not None]
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
    item = plan.item(
        "point", "look up", [index, rows], value.shape, value.dtype, apart=rows,
        kwargs={"stride": narrowed.stride(axis), "wrap": wrap},
    )  # fmt: skip
    return View(item, layout(value.shape, value.dtype))


def _scattered(plan: Plan, node: Any, value: Tensor) -> View | None:
    start, axis, index, part = (plan.values[arg] if isinstance(arg, fx.Node) else arg for arg in node.args[:4])
    if node.kwargs or value.dtype.is_complex or part.tensor.dtype != value.dtype or value.ndim == 0:
        return None
    axis %= value.ndim
    if node.target == _ATEN.index_add.default:
        index = _along(index, axis, part.tensor.shape)
    else:
        for other, size in enumerate(index.tensor.shape):
            part = part.changed(_ATEN.slice.Tensor, other, 0, size)
    made, whole = plan.made(value)
    copied = plan.store(made, start, whole)
    place = whole
    for other, size in enumerate(index.tensor.shape):
        place = place.narrow(other, 0, 1 if other == axis else size)
    out = View(made, place.expand(index.tensor.shape))
    item = plan.item(
        "scatter", None, [part, index], index.tensor.shape, value.dtype, alone=True, after=[copied], out=out,
        kwargs={"stride": whole.stride(axis)},
    )  # fmt: skip
    plan.written(made, item)
    return View(made, whole)


def _along(index: View, axis: int, shape: Sequence[int]) -> View:
    """A one-dimensional index, laid along one axis of an array of `shape`."""
    return index.changed(_ATEN.view.default, [-1 if i == axis else 1 for i in range(len(shape))]).expanded(shape)


SPECIAL: dict[Any, Callable[[Any, Any, Tensor], View | None]] = {
    _ATEN.sum.default: _summed,
    _ATEN.sum.dim_IntList: _summed,
    _ATEN.dot.default: _dotted,
    _ATEN.cat.default: _joined,
    _ATEN.stack.default: _joined,
    _ATEN.slice_backward.default: _put,
    _ATEN.select_backward.default: _put,
    _ATEN.slice_scatter.default: _put,
    _ATEN.select_scatter.default: _put,
    _ATEN.gather.default: _looked_up,
    _ATEN.index.Tensor: _looked_up,
    _ATEN.index_add.default: _scattered,
    _ATEN.scatter_add.default: _scattered,
}
"""What makes the items of each of these operations, or None where it can't be done in loops."""
