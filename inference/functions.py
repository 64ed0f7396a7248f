"""What is derived from one run of a model: densities, gradients and curvatures, batched, captured, compiled.

All are functions of the forward graph (:class:`bayesprof.inference.posterior.Posterior`), so posteriors whose forward
graphs differ in their data only share them: a thousand cutouts of one shape need one capture and one compilation.

A function is evaluated in three ways with the same result: directly on the forward graph while calls are few, by a
captured graph of its own after that, and by that graph compiled where it is asked for.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, fx
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.exc import InductorError
from torch.utils._pytree import tree_flatten, tree_map

from bayesprof.inference.capture import Captured, capture, interpreted, without_writes
from bayesprof.inference.derived import DERIVED, DIFFERENTIATED, prior_curvature, swapped
from bayesprof.inference.native import Compiled, CompilerError
from bayesprof.inference.real_pairs import in_real_arithmetic
from bayesprof.inference.threads import side_by_side
from bayesprof.threads import one_thread

_CALLS_BEFORE_CAPTURE = 64  # a capture takes the time that about this many calls lose by being direct
_COMPILE_NODE = 6e-3  # seconds that a compilation takes for each operation of a graph
_COMPILE_BY_TORCH = 75.0  # seconds, on a GPU
_WORTH_COMPILING = 2.0  # times that, of captured evaluations: it saves a half of them, or more
# points evaluated in one batch: until their arrays leave the cache of a core, which costs a third
_MOST_TOGETHER, _ELEMENTS_TOGETHER = 256, 100_000
_MOST_ON_A_GPU, _ELEMENTS_ON_A_GPU = 4096, 2**28
_WORTH_A_THREAD = 2**16  # elements of the largest array, from which on two threads' batches cost less than one
_SHARED_MODELS = 16  # models whose derived functions are kept


_AGREEMENT = 2**26  # times the rounding of one operation: by how much what is compiled may differ
_Binding = Callable[[tuple[Tensor, ...]], Callable[[Tensor], Any]]  # constants to a function


class Functions:
    """Functions of the unconstrained vector `z`, shape ``(size,)`` each, derived from a forward graph.

    Those of :mod:`bayesprof.inference.derived`; all take a batch, shape ``(batch, size)``.
    """

    def __init__(self, forward: Captured, size: int, *, all_known: bool) -> None:
        self.forward = forward
        self.size = size
        self._shared = _shared_by(forward, size, all_known)
        self._bound: dict[tuple[str, int], Callable[[Tensor], Any]] = {}

    def with_data(self, forward: Captured) -> Functions:
        """The same functions over other data, given the forward graph over them."""
        other = object.__new__(Functions)
        other.forward, other.size, other._shared, other._bound = forward, self.size, self._shared, {}
        return other

    def __call__(self, name: str, batches: Sequence[Tensor]) -> list[Any]:
        """The function at each of `batches`, which have one size."""
        key = (name, len(batches[0]))
        function = self._bound.get(key)
        if function is None:
            shared = self._shared
            shared.calls[key] += len(batches)
            if key not in shared.captured and shared.calls[key] <= _CALLS_BEFORE_CAPTURE:
                with torch.no_grad(), one_thread():
                    return [shared.batched(name)(z, *self.forward.constants) for z in batches]
            function = self._bound[key] = shared.bind(key, batches[0], self.forward.constants, compiled=False)
        if len(batches) > 1 and batches[0].device.type == "cpu":
            return side_by_side(function, batches)
        with one_thread():
            return [function(z) for z in batches]

    def together(self, name: str, count: int) -> int:
        """Number of points in each of the batches that `count` points are cut into."""
        largest = self._shared.largest(name)
        if not _on_cpu(*self.forward.constants):
            return max(1, min(count, _MOST_ON_A_GPU, _ELEMENTS_ON_A_GPU // largest))
        limit = max(1, min(count, _MOST_TOGETHER, _ELEMENTS_TOGETHER // largest))
        if count >= 8 * limit or (limit == count and count * largest < _WORTH_A_THREAD):
            return limit

        def cost(size: int) -> float:  # of pairs of batches, in points, a call costing about half a point
            return math.ceil(math.ceil(count / size) / 2) * (size + 0.5)

        return min(range(1, limit + 1), key=lambda size: (cost(size), -size))

    def patterns(self, name: str) -> Any:
        """Where the values of the sparse matrices go that a function returns, once it has been called."""
        return self._shared.patterns[name]

    def differentiable(self, name: str, z: Tensor) -> Any:
        """The function at `z` of shape ``(..., size)``, for autograd or inside a transform of torch.func."""
        shared = self._shared
        derived = shared.part(name, differentiable=True) if name in DIFFERENTIATED else shared.function(name)
        function: Callable[..., Any] = partial(swapped, derived, self.forward.constants)
        for _ in z.shape[:-1]:
            function = torch.func.vmap(function)
        return function(z)

    def prepare(self, name: str, example: Tensor, *, calls: int, compile: bool | str) -> None:
        """Get ready for `calls` calls with points like `example`: capture where that pays, and compile where it does
        (`compile` "auto") or is asked for (True). What others have had compiled is used on the same terms only, so
        that results don't depend on what was run before.
        """
        size, shared = self.together(name, len(example)), self._shared
        key = (name, size)
        calls *= math.ceil(len(example) / size)
        if compile is not True and calls <= _CALLS_BEFORE_CAPTURE and key not in shared.captured:
            self._bound.pop(key, None)
            return
        constants = self.forward.constants
        captured = shared.capture(key, example[:size], constants)
        cost = _COMPILE_NODE * len(captured.graph.graph.nodes) if _on_cpu(example, *constants) else _COMPILE_BY_TORCH
        wanted = compile is True or (compile == "auto" and calls * captured.seconds > _WORTH_COMPILING * cost)
        if wanted:
            shared.compile(key, example[:size], captured)
        self._bound[key] = shared.bind(key, example[:size], constants, compiled=wanted)


class _Shared:
    """What posteriors of one structure have in common."""

    def __init__(self, forward: Captured, size: int, all_known: bool) -> None:
        self.forward, self.size, self.all_known = forward, size, all_known
        self.patterns: dict[str, Any] = {}
        self.parts: dict[tuple[str, bool], fx.GraphModule] = {}
        self.functions: dict[str, Callable[..., Any]] = {}
        self.sizes: dict[str, int] = {}
        self.calls: Counter[tuple[str, int]] = Counter()
        self.captured: dict[tuple[str, int], Captured] = {}
        self.interpreted: dict[tuple[str, int], Callable[..., Any]] = {}
        self.compiled: dict[tuple[str, int], _Binding] = {}

    def part(self, name: str, *, differentiable: bool) -> fx.GraphModule:
        """One of the values that the forward graph returns, as a function of its own."""
        key = (name, differentiable)
        if key not in self.parts:
            self.parts[key] = self.forward.only(name, differentiable=differentiable)
        return self.parts[key]

    @cached_property
    def prior_curvature(self) -> Callable[..., tuple[Tensor, Tensor]]:
        return prior_curvature(self)

    def largest(self, name: str) -> int:
        """Number of elements of the largest array behind one of the functions."""
        if name not in self.sizes:
            self.sizes[name] = max(self.forward.largest_behind(name), 1)
        return self.sizes[name]

    def function(self, name: str) -> Callable[..., Any]:
        """One of the functions, of a single point and the constants."""
        if name not in self.functions:
            self.functions[name] = DERIVED[name](self)
        return self.functions[name]

    def batched(self, name: str) -> Callable[..., Any]:
        function = self.function(name)

        def over_batch(z: Tensor, *constants: Tensor) -> Any:
            if len(z) == 1:  # without vmap, which costs as much as many an operation
                return tree_map(lambda value: value[None], function(z[0], *constants))
            return torch.func.vmap(lambda point: function(point, *constants))(z)

        return over_batch

    def capture(self, key: tuple[str, int], example: Tensor, constants: tuple[Tensor, ...]) -> Captured:
        if key not in self.captured:
            self.captured[key] = capture(self.batched(key[0]), torch.zeros_like(example), constants)
        return self.captured[key]

    def compile(self, key: tuple[str, int], example: Tensor, captured: Captured) -> None:
        """Compile the captured graph, or warn where this machine can't."""
        if key in self.compiled:
            return
        try:
            make = _as_loops if _on_cpu(example, *captured.constants) else _by_torch
            self.compiled[key] = make(captured, example)
        except (CompilerError, TorchDynamoException, InductorError) as error:
            reason = str(error).strip().splitlines()[0]
            warnings.warn(f"compilation failed ({reason}); going on without it, more slowly", stacklevel=3)

    def bind(
        self, key: tuple[str, int], example: Tensor, constants: tuple[Tensor, ...], *, compiled: bool
    ) -> Callable[[Tensor], Any]:
        """The captured function of one posterior, as it was compiled where that is wanted and was possible."""
        captured = self.capture(key, example, constants).with_inputs(constants)
        if compiled and key in self.compiled:
            run = self.compiled[key](captured.constants)
        else:
            if key not in self.interpreted:
                self.interpreted[key] = interpreted(captured, example)
            run = partial(swapped, self.interpreted[key], captured.constants)

        def function(z: Tensor) -> Any:
            with torch.inference_mode():
                return run(z)

        return function


def _on_cpu(*tensors: Tensor) -> bool:
    return all(tensor.device.type == "cpu" for tensor in tensors)


def _as_loops(captured: Captured, example: Tensor) -> _Binding:
    """Compiled to machine code, which has to give what the graph gives: compilers have faults as well."""
    compiled = Compiled(without_writes(captured, example))
    generator = torch.Generator().manual_seed(0)
    point = 0.1 * torch.randn(example.shape, dtype=example.dtype, generator=generator)
    with torch.inference_mode():
        wanted, found = (tree_flatten(run(point))[0] for run in (captured, compiled.bind(captured.constants)))
    for one, other in zip(found, wanted, strict=True):
        bound = _AGREEMENT * torch.finfo(other.dtype).eps * other.abs().nan_to_num(0.0, 0.0, 0.0).max()
        if not torch.allclose(one, other, rtol=0.0, atol=float(bound), equal_nan=True):
            raise CompilerError("what was compiled doesn't give what its graph gives, a fault of the compiler's")
    return compiled.bind


def _by_torch(captured: Captured, example: Tensor) -> _Binding:
    with warnings.catch_warnings(), torch.inference_mode():
        # what is left of complex operations, around the transforms, is the library's
        warnings.filterwarnings("ignore", message="Torchinductor does not support code generation for complex")
        warnings.filterwarnings("ignore", message="`torch.jit")  # torch's own use of it
        compiled = torch.compile(in_real_arithmetic(captured.graph))
        compiled(torch.zeros_like(example), *captured.constants)
    return lambda constants: partial(swapped, compiled, constants)


_models: OrderedDict[Any, _Shared] = OrderedDict()


def _shared_by(forward: Captured, size: int, all_known: bool) -> _Shared:
    key = (forward.structure, size, all_known)
    if key not in _models:
        _models[key] = _Shared(forward, size, all_known)
    _models.move_to_end(key)
    while len(_models) > _SHARED_MODELS:
        _models.popitem(last=False)
    return _models[key]
