"""Functions of one flat vector, captured as graphs of tensor operations.

Running a Pyro model costs milliseconds of Python per call. It is run once, under ``make_fx``, which records the tensor
operations; what remains is a graph that three passes make lean:

1. ``x - x.detach()`` is exactly zero: it, and whatever is only multiplied by it, goes. (:mod:`bayesprof.lookup` and
   others write Taylor terms that way; a graph of values and gradients doesn't need the second-order ones.)
2. Operations that don't depend on the vector are run once, when the graph is bound to its data.
3. What is computed twice is computed once, and what nobody uses is dropped.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyro
import torch
import torch._dynamo  # a second that would otherwise be spent in the first capture
from torch import Tensor, fx
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from bayesprof.inference.passes import (
    compute_once,
    is_random,
    remove_zeros,
    simplify,
    vanishing,
    with_slopes,
    write_apart,
    writes,
    written_into,
)
from bayesprof.threads import one_thread


@dataclass(frozen=True)
class Captured:
    """A captured function of one vector and of tensors that stay the same from call to call.

    `graph` takes the vector and the constants; `recipe` makes the constants from the `inputs` that the function was
    captured with (data, noise, tables), so that the same graph serves other inputs of the same shapes.
    """

    graph: fx.GraphModule
    recipe: fx.GraphModule
    constants: tuple[Tensor, ...]

    def __call__(self, z: Tensor) -> Any:
        return self.graph(z, *self.constants)

    def with_inputs(self, inputs: Sequence[Tensor]) -> Captured:
        """The same function of other inputs."""
        return replace(self, constants=self.recipe(*inputs))

    def only(self, key: str, *, differentiable: bool = True) -> fx.GraphModule:
        """The part of the graph behind one entry of the dictionary that it returns; it takes the same arguments.

        One that isn't to be differentiated does without Taylor terms.
        """
        module = self._part(self._returned[key])
        if not differentiable:
            remove_zeros(module, vanishing(module))
            module.recompile()
        return module

    def several(self, *keys: str, **renamed: str) -> fx.GraphModule:
        """The part of the graph behind some entries of that dictionary, which it returns as one; `renamed` are further
        ones under names of their own.
        """
        names = {key: key for key in keys} | renamed
        return self._part({name: self._returned[key] for name, key in names.items()})

    @property
    def _returned(self) -> Any:
        *_, output = self.graph.graph.nodes
        return output.args[0]

    def _behind(self, wanted: Any) -> set[fx.Node]:
        """The nodes that `wanted` ones are made of, and these."""
        needed: set[fx.Node] = set()
        fx.node.map_arg(wanted, needed.add)
        for node in reversed(self.graph.graph.nodes):
            if node in needed:
                needed.update(node.all_input_nodes)
        return needed

    def _part(self, wanted: Any) -> fx.GraphModule:
        needed = self._behind(wanted)
        part = fx.Graph()
        copied: dict[fx.Node, fx.Node] = {}
        for node in self.graph.graph.nodes:
            if node in needed or node.op == "placeholder":
                copied[node] = part.node_copy(node, copied.__getitem__)
        part.output(fx.node.map_arg(wanted, copied.__getitem__))
        return fx.GraphModule({}, part)

    @property
    def structure(self) -> str:
        """What the graph does, as text: equal for functions that differ in the values of their constants only."""
        return "\n".join([self.graph.code, *(f"{tuple(c.shape)} {c.dtype} {c.device}" for c in self.constants)])

    @cached_property
    def seconds(self) -> float:
        """Rough time of one call, from the size of the graph alone, so that decisions on it don't vary between runs."""
        # measured on one core: 2 microseconds an operation, 0.4 nanoseconds an element
        return 2e-6 * len(self.graph.graph.nodes) + 4e-10 * sum(_elements(self.graph.graph.nodes))

    @cached_property
    def largest(self) -> int:
        """Number of elements of the largest array computed."""
        return max(_elements(self.graph.graph.nodes), default=0)

    def largest_behind(self, key: str) -> int:
        """The same for one entry of the dictionary that it returns; of the whole where there is no such entry."""
        if key not in self._returned:
            return self.largest
        return max(_elements(self._behind(self._returned[key])), default=0)

    def depends(self, key: str) -> bool:
        """Whether an entry of that dictionary is made of the vector, if without a derivative."""
        first = next(iter(self.graph.graph.nodes))
        return first in self._behind(self._returned[key])


def _elements(nodes: Iterable[fx.Node]) -> list[int]:
    """Of the arrays that they compute."""
    values = [node.meta.get("val") for node in nodes if node.op == "call_function"]
    return [value.numel() for value in values if isinstance(value, Tensor)]


def capture(
    function: Callable[..., Any], example: Tensor, inputs: Sequence[Tensor] = (), *, differentiable: bool = False
) -> Captured:
    """`function` of a tensor like `example` and of the `inputs`, returning tensors, as a graph.

    The function must do the same operations whatever the values: Python branches on values are frozen as `example`
    takes them. A graph that is to be differentiated later keeps its Taylor terms, and doesn't write into tensors
    (`differentiable`).
    """
    # A first call may come from inside torch.func.grad or vmap, whose levels would otherwise be recorded as constants.
    with (
        unchecked(), one_thread(), temporarily_clear_interpreter_stack(), _without_traces(), _known_by_shape(),
        _branches_named(),
    ):  # fmt: skip
        # a plain function: make_fx counts the arguments of whatever a wrapper says it wraps
        point = example.detach().clone()
        graph = make_fx(lambda z, *inputs: function(z, *inputs))(point, *inputs)
        _make_lean(graph, differentiable)
        if differentiable and _written(graph):
            graph = make_fx(torch.func.functionalize(graph))(point, *inputs)
            _make_lean(graph, differentiable)
    return _constants_apart(graph, inputs)


def without_writes(captured: Captured, example: Tensor) -> fx.GraphModule:
    """The graph of `captured`, in which no operation writes into a tensor that another made."""
    graph = captured.graph
    if not any(writes(node) for node in graph.graph.nodes):
        return graph
    with unchecked(), _without_traces(), _known_by_shape():
        functional: fx.GraphModule = make_fx(torch.func.functionalize(graph))(
            example.detach().clone(), *captured.constants
        )
    return functional


def _make_lean(graph: fx.GraphModule, differentiable: bool) -> None:
    write_apart(graph)
    remove_zeros(graph, set() if differentiable else vanishing(graph))
    if differentiable:
        with_slopes(graph)
    simplify(graph)
    compute_once(graph)


def interpreted(captured: Captured, example: Tensor) -> Callable[..., Any]:
    """The graph of `captured` run by TorchScript's interpreter: the same operations, with the same results, at a third
    of what each costs from Python.

    TorchScript is deprecated, and asked for nothing but that. Where it's gone, the graph itself does the same.
    """
    found, layout = tree_flatten(captured.graph(example, *captured.constants))
    if not hasattr(torch.jit, "trace") or not found or not all(isinstance(value, Tensor) for value in found):
        return captured.graph.forward

    def flat(*inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(tree_flatten(captured.graph.forward(*inputs))[0])

    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch.jit")
        warnings.filterwarnings("ignore", message="`torch.jit")
        traced = torch.jit.trace(flat, (example, *captured.constants), check_trace=False)

    def run(*inputs: Tensor) -> Any:
        with torch.jit.optimized_execution(False):
            return tree_unflatten(traced(*inputs), layout)

    return run


@contextmanager
def _without_traces() -> Iterator[None]:
    """No Python traceback for every node: a quarter of the time of a capture."""
    before = getattr(fx.config, "do_not_emit_stack_traces", False)  # newer than the oldest torch we take
    fx.config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        fx.config.do_not_emit_stack_traces = before


@contextmanager
def _known_by_shape() -> Iterator[None]:
    """What a node knows of its value is shape, dtype and device alone, held by an array of one element: the
    FakeTensors that make_fx makes take a third of the time of a capture.
    """
    own = proxy_tensor.extract_val

    def known(value: Any, include_real: bool = False) -> Any:
        if type(value) is Tensor and value.layout == torch.strided:
            return torch.empty((), dtype=value.dtype, device=value.device).expand(value.shape)
        return own(value, include_real)

    proxy_tensor.extract_val = known  # type: ignore[assignment]
    try:
        yield
    finally:
        proxy_tensor.extract_val = own


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


def _written(graph: fx.GraphModule) -> set[fx.Node]:
    """Tensors that are written into, where what is written depends on the first argument."""
    varying: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if (node.op == "placeholder" and not varying) or any(parent in varying for parent in node.all_input_nodes):
            varying.add(node)
    return written_into(graph) if any(writes(node) for node in varying) else set()


def _constants_apart(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Captured:
    """Split off all that doesn't depend on the first argument: the recipe, whose results become constants."""
    first = next(node for node in graph.graph.nodes if node.op == "placeholder")
    varying = {first, *_written(graph)}
    recipe = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in graph.graph.nodes:
        if node.op == "output":
            continue
        if node in varying or is_random(node) or any(parent in varying for parent in node.all_input_nodes):
            varying.add(node)
        else:
            copied[node] = recipe.node_copy(node, copied.__getitem__)
    boundary = [
        node
        for node in copied
        if isinstance(node.meta.get("val"), Tensor) or node.op in ("get_attr", "placeholder")
        if any(user in varying or user.op == "output" for user in node.users)
    ]
    recipe.output(tuple(copied[node] for node in boundary))
    prepared = fx.GraphModule(graph, recipe)
    prepared.graph.eliminate_dead_code()
    prepared.recompile()
    constants = tuple(value.detach() for value in prepared(*inputs))

    last = first
    for i, (node, value) in enumerate(zip(boundary, constants, strict=True)):
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"constant_{i}")
        last.meta["val"] = value
        node.replace_all_uses_with(last)
    for node in reversed(list(copied)):
        if not node.users:
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    lean = fx.GraphModule({}, graph.graph)
    return Captured(lean, prepared, constants)
