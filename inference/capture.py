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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
import torch._dynamo  # a second that would otherwise be spent in the first capture
from torch import Tensor, fx
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

_ATEN = torch.ops.aten
_SAME_VALUE = (_ATEN.detach.default, _ATEN.alias.default, _ATEN.view_as.default)
_ZERO_THROUGH = (
    _ATEN.mul.Tensor, _ATEN.mul.Scalar, _ATEN.neg.default, _ATEN.div.Scalar, _ATEN.sum.default, _ATEN.sum.dim_IntList,
    _ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.expand.default, _ATEN.unsqueeze.default, _ATEN.squeeze.dim,
    _ATEN.squeeze.dims, _ATEN.permute.default, _ATEN.transpose.int, _ATEN.t.default, _ATEN.detach.default,
    _ATEN.alias.default, _ATEN.clone.default, _ATEN._to_copy.default, _ATEN.select.int, _ATEN.slice.Tensor,
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
            _remove_zeros(module, vanishing(module))
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

    def _part(self, wanted: Any) -> fx.GraphModule:
        needed: set[fx.Node] = set()
        fx.node.map_arg(wanted, needed.add)
        for node in reversed(self.graph.graph.nodes):
            if node in needed:
                needed.update(node.all_input_nodes)
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

    @property
    def seconds(self) -> float:
        """Rough time of one call, from the size of the graph alone, so that decisions on it don't vary between runs."""
        # measured on one core: 2 microseconds an operation, 0.4 nanoseconds an element
        return 2e-6 * len(self.graph.graph.nodes) + 4e-10 * sum(self._elements)

    @property
    def largest(self) -> int:
        """Number of elements of the largest array."""
        return max(self._elements, default=0)

    @property
    def _elements(self) -> list[int]:
        values = [node.meta.get("val") for node in self.graph.graph.nodes]
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
    with unchecked(), temporarily_clear_interpreter_stack(), _without_traces(), _known_by_shape(), _branches_named():
        # a plain function: make_fx counts the arguments of whatever a wrapper says it wraps
        point = example.detach().clone()
        graph = make_fx(lambda z, *inputs: function(z, *inputs))(point, *inputs)
        if differentiable and any(_writes(node) for node in graph.graph.nodes):
            graph = make_fx(torch.func.functionalize(graph))(point, *inputs)
    _remove_zeros(graph, set() if differentiable else vanishing(graph))
    _simplify(graph)
    _compute_once(graph)
    return _constants_apart(graph, inputs)


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


def vanishing(graph: fx.GraphModule) -> set[fx.Node]:
    """Nodes that are exactly zero: differences of a tensor and its own detached copy, and products by them. Their
    derivatives aren't.
    """
    zeros: set[Any] = set()
    for node in graph.graph.nodes:
        if node.op == "call_function" and _vanishes(node, zeros):
            zeros.add(node)
    return zeros


def _remove_zeros(graph: fx.GraphModule, zeros: set[fx.Node]) -> None:
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


def _simplify(graph: fx.GraphModule) -> None:
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


def _compute_once(graph: fx.GraphModule) -> None:
    """Put the first of equal operations in the place of the others."""
    seen: dict[Any, fx.Node] = {}
    written = written_into(graph)
    for node in graph.graph.nodes:
        if node.op != "call_function" or _is_random(node) or node in written:
            continue
        try:
            key = (node.target, node.args, tuple(sorted(node.kwargs.items())))
            first = seen.setdefault(key, node)
        except TypeError:  # arguments that are lists come as immutable ones, others can't be compared
            continue
        if first is not node:
            node.replace_all_uses_with(first)
    graph.graph.eliminate_dead_code()


def _writes(node: fx.Node) -> bool:
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


def _is_random(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _constants_apart(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Captured:
    """Split off all that doesn't depend on the first argument: the recipe, whose results become constants."""
    first = next(node for node in graph.graph.nodes if node.op == "placeholder")
    varying = {first, *written_into(graph)}
    recipe = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in graph.graph.nodes:
        if node.op == "output":
            continue
        if node in varying or _is_random(node) or any(parent in varying for parent in node.all_input_nodes):
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
