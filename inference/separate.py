"""Arrays whose elements along an axis never meet: those of a parameter with a value for each of many sources, or for
each image. Their derivatives are diagonal (:mod:`bayesprof.inference.blocks`), and worth keeping so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from bayesprof.inference.blocks import line_along
from bayesprof.taking import put_back, taken

_ATEN = torch.ops.aten
VIEWS = (
    _ATEN.slice.Tensor, _ATEN.select.int, _ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.reshape.default,
    _ATEN.unsqueeze.default, _ATEN.squeeze.dim, _ATEN.squeeze.default, _ATEN.alias.default,
)  # fmt: skip
"""Operations that show an array otherwise."""
_MOVES = (
    *VIEWS, _ATEN.squeeze.dims, _ATEN.expand.default, _ATEN.permute.default, _ATEN.transpose.int, _ATEN.t.default,
)  # fmt: skip
_COPIES = (_ATEN._to_copy.default, _ATEN.clone.default)
VIEWS_BACKWARD = (_ATEN.slice_backward.default, _ATEN.select_backward.default)
"""What puts an array into zeros along an axis, by an index or a slice there."""
_LARGE = 2**20  # elements of an array that is too large to look where they go


def separate(graph: fx.GraphModule, wanted: set[Any], handed_out: set[Any]) -> set[fx.Node]:
    """Views of the first argument of `graph` whose elements along their first axis never meet on the way to the
    `wanted` nodes but in sums: all that is done is done to each by itself, until they are taken out, put into a larger
    array, or `handed_out`.
    """
    first, *nodes = graph.graph.nodes
    axes: dict[Any, int | None] = {}  # of what moves: the axis that elements lie apart along, None once they are joined
    views: set[Any] = {first}
    meeting: set[Any] = set()
    released: set[Any] = set()  # what is made of elements that were taken out, which is followed no further
    for node in nodes:
        moving = [parent for parent in node.all_input_nodes if parent in axes or parent is first]
        if node.op != "call_function" or not moving:
            continue
        value = node.meta.get("val")
        if node.target in VIEWS and node.args[0] in views:
            views.add(node)
            axes[node] = -value.ndim if value.ndim else None
            continue
        if node.target is put_back:  # derivatives by elements that were taken out, and lie apart as these do
            axes[node] = node.args[1]
            continue
        axes[node] = None
        if node.target is taken or any(parent in released for parent in moving):
            released.add(node)
        elif any(axes.get(parent) is not None for parent in moving):
            try:
                axes[node] = _axis_after(node, {parent: axes.get(parent) for parent in moving})
            except _MeetingError:
                meeting.add(node)
    spoiled: set[Any] = set()
    for node in reversed(nodes):
        if axes.get(node) is None:
            spoiled |= {node} & meeting
            continue
        users = [user for user in node.users if user in wanted and not (node in views and user in views)]
        if any(user in spoiled for user in users) or not (users or node in handed_out):
            spoiled.add(node)
    return {node for node in views if axes.get(node) is not None and node not in spoiled}


def axis_put_back(node: Any, axis: int) -> int | None:
    """The axis of what one of `VIEWS_BACKWARD` returns that is an `axis` of its array, both counted from the end; None
    for that along which it is put there.
    """
    shape, along = node.args[1:3]
    along = along % len(shape) - len(shape)
    if node.target is _ATEN.select_backward.default:
        return axis - 1 if along >= axis else axis  # the axis is new
    return None if along == axis else axis


class _MeetingError(Exception):
    """Elements meet."""


def _axis_after(node: Any, axes: dict[Any, int | None]) -> int | None:
    """The axis of what a node returns that elements lie apart along, given that of those arguments that move; None
    where one is picked, where they are joined by a sum, or put among others.
    """
    source, result = next(parent for parent in axes if axes[parent] is not None), node.meta["val"]
    axis = axes[source]
    assert axis is not None
    like = source.meta["val"]
    if not isinstance(result, Tensor):
        raise _MeetingError
    if node.target is _ATEN.sum.default:
        return None
    if node.target in VIEWS_BACKWARD:
        return axis_put_back(node, axis)
    if node.target is _ATEN.sum.dim_IntList:
        summed = [one % like.ndim - like.ndim for one in node.args[1] or range(like.ndim)]
        keeps = len(node.args) > 2 and node.args[2]
        return None if axis in summed else axis if keeps else axis + sum(one > axis for one in summed)
    if node.target is _ATEN.select.int and node.args[1] % like.ndim == axis % like.ndim:
        return None
    if node.target in _MOVES and result.numel() <= _LARGE:
        places = torch.arange(like.shape[axis]).reshape(-1, *[1] * (-axis - 1)).expand(like.shape)
        _, moved = line_along(node.target(places, *node.args[1:], **node.kwargs))
        if moved is None:
            raise _MeetingError
        return moved
    if node.target in _COPIES:
        return axis
    if any(other != axis for other in axes.values()):
        raise _MeetingError
    if node.target in (_ATEN.stack.default, _ATEN.cat.default):
        joined = (*node.args[1:], 0)[0] % result.ndim - result.ndim
        stacked = node.target is _ATEN.stack.default
        if any(part not in axes for part in node.args[0]) or (joined == axis and not stacked):
            raise _MeetingError
        return axis - 1 if stacked and joined >= axis else axis
    elementwise = torch.Tag.pointwise in getattr(node.target, "tags", ())
    if not elementwise or any(parent.meta["val"].shape[axis] != result.shape[axis] for parent in axes):
        raise _MeetingError
    return axis
