"""Passes over captured graphs: what is known of a node, and what makes a graph lean."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from bayesprof import placing, taking
from bayesprof.sparse import PRODUCT, sparse_product

_ATEN = torch.ops.aten
_SAME_VALUE = (_ATEN.detach.default, _ATEN.alias.default, _ATEN.view_as.default)
_ZERO_THROUGH = (
    _ATEN.mul.Tensor, _ATEN.mul.Scalar, _ATEN.neg.default, _ATEN.div.Scalar, _ATEN.sum.default, _ATEN.sum.dim_IntList,
    _ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.expand.default, _ATEN.unsqueeze.default, _ATEN.squeeze.dim,
    _ATEN.squeeze.dims, _ATEN.permute.default, _ATEN.transpose.int, _ATEN.t.default, _ATEN.detach.default,
    _ATEN.alias.default, _ATEN.clone.default, _ATEN._to_copy.default, _ATEN.select.int, _ATEN.slice.Tensor,
    _ATEN.split.Tensor, operator.getitem, _ATEN.gather.default,
)  # fmt: skip
_FILLED = {
    _ATEN.zeros_like.default: 0.0, _ATEN.ones_like.default: 1.0, _ATEN.full_like.default: None,
    _ATEN.new_zeros.default: 0.0, _ATEN.new_ones.default: 1.0,
}  # fmt: skip
_RESHAPED = (
    _ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.reshape.default, _ATEN.unsqueeze.default,
    _ATEN.squeeze.dim, _ATEN.squeeze.dims, _ATEN.squeeze.default, _ATEN.expand.default, _ATEN.sum.dim_IntList,
)  # fmt: skip
_SMALL = 4096  # elements of an array whose strides don't matter
_IDENTITIES = (
    (_ATEN.add.Tensor, (0.0,)), (_ATEN.sub.Tensor, (0.0,)), (_ATEN.mul.Tensor, (1,)), (_ATEN.pow.Tensor_Scalar, (1.0,)),
)  # fmt: skip


def vanishing(graph: fx.GraphModule) -> set[fx.Node]:
    """Nodes that are exactly zero: differences of a tensor and its own detached copy, and products by them. Their
    derivatives aren't.
    """
    zeros: set[Any] = set()
    for node in graph.graph.nodes:
        if node.op == "call_function" and _vanishes(node, zeros):
            zeros.add(node)
    return zeros


def remove_zeros(graph: fx.GraphModule, zeros: set[fx.Node]) -> None:
    """Drop sums with `zeros`, and additions of 0 and products by 1."""
    for node in graph.graph.nodes:
        if node.op != "call_function" or node in zeros:
            continue
        survivor = unchanged(node, zeros)
        if survivor is not None:
            node.replace_all_uses_with(survivor)
    graph.graph.eliminate_dead_code()


def _vanishes(node: fx.Node, zeros: set[Any]) -> bool:
    """Whether `node` is exactly zero, given those before it that are."""
    target, args = node.target, node.args
    if target == _ATEN.sub.Tensor and not node.kwargs and isinstance(args[0], fx.Node):
        return _undetached(args[0]) is _undetached(args[1])
    if target == _ATEN.add.Tensor:
        return all(argument in zeros for argument in args)
    if target == _ATEN.div.Tensor:
        return args[0] in zeros
    return target in _ZERO_THROUGH and any(argument in zeros for argument in node.all_input_nodes)


def _undetached(node: Any) -> Any:
    while isinstance(node, fx.Node) and node.target in _SAME_VALUE:
        node = node.args[0]
    return node


def unchanged(node: fx.Node, zeros: set[fx.Node]) -> fx.Node | None:
    """The argument that an operation returns as it stands: in sums with `zeros` or 0, products by 1, first powers."""
    target, args = node.target, node.args
    if node.kwargs:  # alpha= of add and sub
        return None
    if (target, args[1:]) in _IDENTITIES or (target in (_ATEN.add.Tensor, _ATEN.sub.Tensor) and args[1] in zeros):
        survivor = args[0]
    elif target == _ATEN.add.Tensor and args[0] in zeros:
        survivor = args[1]
    else:
        return None
    if not isinstance(survivor, fx.Node):
        return None
    here, there = node.meta.get("val"), survivor.meta.get("val")
    if not (isinstance(here, Tensor) and isinstance(there, Tensor)):
        return None
    return survivor if (here.shape, here.dtype) == (there.shape, there.dtype) else None


def simplify(graph: fx.GraphModule) -> None:
    """Constants that only take their shape from a tensor lose their dependence on it; sums over single elements and
    chains of changes of shape become one change of shape.
    """
    written = written_into(graph)
    for node in list(graph.graph.nodes):
        here = node.meta.get("val")
        if node.op != "call_function" or not isinstance(here, Tensor) or node in written:
            continue
        if node.target in _FILLED:
            value = _FILLED[node.target]
            value = node.args[1] if value is None else value
            with graph.graph.inserting_before(node):
                shape = list(here.shape)
                options: dict[str, Any] = {"dtype": here.dtype, "device": here.device}
                constant = graph.graph.call_function(_ATEN.full.default, (shape, value), options)
            constant.meta["val"] = here
            node.replace_all_uses_with(constant)
            continue
        if node.target not in _RESHAPED or here.numel() > _SMALL:
            continue
        source = node.args[0]
        there = source.meta.get("val")
        if not isinstance(there, Tensor) or there.numel() != here.numel() or there.dtype != here.dtype:
            continue
        while source.target in _RESHAPED and source.args[0].meta["val"].numel() == here.numel():
            source = source.args[0]
        if source.meta["val"].shape == here.shape:
            node.replace_all_uses_with(source)
        else:
            node.target, node.args, node.kwargs = _ATEN.reshape.default, (source, list(here.shape)), {}
    graph.graph.eliminate_dead_code()


_WITH_SLOPES = {**placing.DIFFERENTIABLE, **taking.DIFFERENTIABLE, PRODUCT: sparse_product}


def with_slopes(graph: fx.GraphModule) -> None:
    """Put operations that torch.func differentiates in the place of those that it doesn't."""
    for node in graph.graph.nodes:
        node.target = _WITH_SLOPES.get(node.target, node.target)


def compute_once(graph: fx.GraphModule) -> None:
    """Put the first of equal operations in the place of the others."""
    seen: dict[Any, fx.Node] = {}
    written = written_into(graph)
    for node in graph.graph.nodes:
        if node.op != "call_function" or is_random(node) or node in written:
            continue
        try:
            key = (node.target, node.args, tuple(sorted(node.kwargs.items())))
            first = seen.setdefault(key, node)
        except TypeError:  # arguments that are lists come as immutable ones, others can't be compared
            continue
        if first is not node:
            node.replace_all_uses_with(first)
    graph.graph.eliminate_dead_code()


def write_apart(graph: fx.GraphModule) -> None:
    """Let operations that write into a fresh array, which nobody else sees, return a new one instead."""
    for node in graph.graph.nodes:
        if not writes(node) or not isinstance(node.args[0], fx.Node):
            continue
        source, name = node.args[0], node.target._schema.name.removeprefix("aten::")
        plain = getattr(_ATEN, name.removesuffix("_"), None) if name.endswith("_") else None
        fresh = source.op == "call_function" and len(source.users) == 1 and not _is_view(source)
        if plain is not None and fresh and hasattr(plain, node.target._overloadname):
            node.target = getattr(plain, node.target._overloadname)


def _is_view(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is None or any(value.alias_info is not None for value in schema.returns)


def writes(node: fx.Node) -> bool:
    """Whether an operation writes into one of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def written_into(graph: fx.GraphModule) -> set[fx.Node]:
    """Tensors that are written into, themselves or through a view of them."""
    written: set[fx.Node] = set()
    for node in reversed(graph.graph.nodes):
        for user in node.users:
            schema = getattr(user.target, "_schema", None)
            if schema is not None and user.args[0] is node:
                is_view = any(value.alias_info is not None for value in schema.returns)
                if schema.is_mutable or (is_view and user in written):
                    written.add(node)
    return written


def is_random(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
