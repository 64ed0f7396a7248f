"""Functions of one flat vector, captured as graphs of tensor operations.

Running a Pyro model costs milliseconds of Python per call. It is run once, under ``make_fx``, which records the tensor
operations; what remains is a graph that three passes make lean:

1. ``x - x.detach()`` is exactly zero: it, and whatever is only multiplied by it, goes. (:mod:`bayesprof.lookup` and
others write Taylor
   terms that way; a graph of values and gradients doesn't need the second-order ones.)
2. Operations that don't depend on the vector are run once, at capture.
3. What is computed twice is computed once, and what nobody uses is dropped.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, fx
from torch._functorch.compile_utils import fx_graph_cse
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

_ATEN = torch.ops.aten
_SAME_VALUE = (_ATEN.detach.default, _ATEN.alias.default, _ATEN.view_as.default)
_ZERO_THROUGH = (
    _ATEN.mul.Tensor, _ATEN.mul.Scalar, _ATEN.neg.default, _ATEN.div.Scalar, _ATEN.sum.default, _ATEN.sum.dim_IntList,
    _ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.expand.default, _ATEN.unsqueeze.default, _ATEN.squeeze.dim,
    _ATEN.squeeze.dims, _ATEN.permute.default, _ATEN.transpose.int, _ATEN.t.default, _ATEN.detach.default,
    _ATEN.alias.default, _ATEN.clone.default, _ATEN._to_copy.default, _ATEN.select.int, _ATEN.slice.Tensor,
)  # fmt: skip
_IDENTITIES = ((_ATEN.add.Tensor, (0.0,)), (_ATEN.mul.Tensor, (1,)), (_ATEN.sub.Tensor, (0.0,)))


class Captured:
    """A captured function of one vector: call it as the function it was made from.

    `graph` is the graph module; its first input is the vector and the others are the tensors (data, noise, tables)
    it reads, kept in `constants`.
    """

    def __init__(self, graph: fx.GraphModule, constants: list[Tensor]) -> None:
        self.graph = graph
        self.constants = constants

    def __call__(self, z: Tensor) -> Any:
        return self.graph(z, *self.constants)

    def only(self, key: str) -> Captured:
        """The part of the graph behind one entry of the dictionary that it returns."""
        graph = copy.deepcopy(self.graph)
        output = next(node for node in graph.graph.nodes if node.op == "output")
        output.args = (output.args[0][key],)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        return Captured(graph, self.constants)


def capture(function: Callable[[Tensor], Any], example: Tensor, *, differentiable: bool = False) -> Captured:
    """`function` of a tensor like `example`, returning tensors, as a graph.

    The function must do the same operations whatever the values: Python branches on values are frozen as `example`
    takes them. A graph that is to be differentiated later keeps its Taylor terms (`differentiable`).
    """
    # a first call may come from inside torch.func.grad or vmap, whose levels would otherwise be recorded as
    # constants One FakeTensorMode for the metadata of all nodes: without it make_fx makes one for each, half of the
    # time of a capture.
    metadata = TracingContext(FakeTensorMode(allow_fallback_kernels=True))
    with unchecked(), temporarily_clear_interpreter_stack(), tracing(metadata), _branches_named():
        # a plain function of one argument: make_fx counts those of whatever a wrapper says it wraps
        graph = make_fx(lambda z: function(z))(example.detach().clone())
    if not differentiable:
        _remove_zeros(graph)
    graph = fx.GraphModule(graph, fx_graph_cse(graph.graph))
    return _run_constants_once(graph)


@contextmanager
def _branches_named() -> Iterator[None]:
    """Turns the failure of a capture at a branch on values into advice."""
    try:
        yield
    except RuntimeError as error:
        if "value out of a tracing tensor" not in str(error):
            raise
        raise ValueError(
            "expected a model that does the same operations whatever the values; this one reads a number out of a "
            "tensor "
            "(a branch like `if x > 0`, float(x) or x.item()); write the branch as torch.where"
        ) from error


@contextmanager
def unchecked() -> Iterator[None]:
    """Pyro and torch distributions without their checks of arguments and values, which read numbers out of tensors.

    Switching validation off isn't enough: a distribution that was expanded before keeps the setting it was made with.
    """
    check = torch.distributions.Distribution._validate_sample
    with pyro.validation_enabled(False):
        torch.distributions.Distribution._validate_sample = lambda self, value: None  # type: ignore[method-assign]
        try:
            yield
        finally:
            torch.distributions.Distribution._validate_sample = check  # type: ignore[method-assign]


def _remove_zeros(graph: fx.GraphModule) -> None:
    """Drop sums with, and products by, differences of a tensor and its own detached copy."""
    zeros: set[Any] = set()
    for node in graph.graph.nodes:
        if node.op != "call_function":
            continue
        target, args = node.target, node.args
        plain = not node.kwargs  # no alpha= of add and sub
        if _vanishes(node, zeros):
            zeros.add(node)
        elif (plain and (target, args[1:]) in _IDENTITIES) or (
            plain and target in (_ATEN.add.Tensor, _ATEN.sub.Tensor) and args[1] in zeros
        ):
            _replace(node, args[0])
        elif plain and target == _ATEN.add.Tensor and args[0] in zeros:
            _replace(node, args[1])
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


def _replace(node: fx.Node, survivor: Any) -> None:
    """Put `survivor` in the place of `node` where shape and dtype are the same."""
    here, there = node.meta.get("val"), survivor.meta.get("val") if isinstance(survivor, fx.Node) else None
    if (
        isinstance(here, Tensor)
        and isinstance(there, Tensor)
        and (here.shape, here.dtype) == (there.shape, there.dtype)
    ):
        node.replace_all_uses_with(survivor)


def _run_constants_once(graph: fx.GraphModule) -> Captured:
    """Split off all that doesn't depend on the first input; its results become inputs."""
    varying: set[fx.Node] = set()
    known: dict[fx.Node, Any] = {}
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    varying.add(placeholders[0])

    def materialise(argument: Any) -> Any:
        return fx.node.map_arg(argument, lambda node: known[node])

    for node in graph.graph.nodes:
        if node.op == "get_attr":
            known[node] = _attribute(graph, str(node.target))
        elif node.op == "call_function":
            if any(
                parent in varying for parent in node.all_input_nodes
            ) or torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
                varying.add(node)
            else:
                known[node] = node.target(*materialise(node.args), **materialise(node.kwargs))

    constants: list[Tensor] = []
    taken: dict[int, fx.Node] = {}
    for node in list(graph.graph.nodes):
        if node not in known or not any(user in varying or user.op == "output" for user in node.users):
            continue
        value = known[node]
        if not isinstance(value, Tensor):
            continue
        if id(value) not in taken:
            with graph.graph.inserting_after(placeholders[-1]):
                placeholders.append(graph.graph.placeholder(f"constant_{len(constants)}"))
            placeholders[-1].meta["val"] = value
            taken[id(value)] = placeholders[-1]
            constants.append(value.detach())
        node.replace_all_uses_with(taken[id(value)])
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()
    return Captured(graph, constants)


def _attribute(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module
