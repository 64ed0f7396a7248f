"""What is derived from one run of a model: densities, gradients and curvatures, batched, captured, compiled.

All are functions of the forward graph (:class:`bayesprof.inference.posterior.Posterior`), so posteriors whose forward
graphs differ in their data only share them: a thousand cutouts of one shape need one capture and one compilation.

A function is evaluated in three ways with the same result: directly on the forward graph while calls are few, by a
captured graph of its own after that, and by that graph compiled where it is asked for.
"""

from __future__ import annotations

import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bayesprof.inference.capture import Captured, capture, interpreted

_CALLS_BEFORE_CAPTURE = 24  # a capture takes the time of about this many direct calls
_WORTH_COMPILING = 90.0  # seconds of captured evaluations: a compilation takes 40 and saves a third to two thirds
_SHARED_MODELS = 16  # models whose derived functions are kept


class Functions:
    """Functions of the unconstrained vector `z`, shape ``(size,)`` each, derived from a forward graph.

    ``log_density``, ``log_prior``, ``value_and_grad``, ``expansion``, ``deterministic`` and ``pointwise``; all take a
    batch, shape ``(batch, size)``.
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

    def __call__(self, name: str, z: Tensor) -> Any:
        key = (name, len(z))
        function = self._bound.get(key)
        if function is None:
            shared = self._shared
            shared.calls[key] += 1
            if key not in shared.captured and shared.calls[key] <= _CALLS_BEFORE_CAPTURE:
                with torch.no_grad():
                    return shared.batched(name)(z, *self.forward.constants)
            function = self._bound[key] = shared.bind(key, z, self.forward.constants, compiled=False)
        with torch.inference_mode():
            return function(z)

    def differentiable(self, name: str, z: Tensor) -> Any:
        """The function at `z` of shape ``(..., size)``, for autograd or inside a transform of torch.func."""
        shared = self._shared
        derived = shared.parts[name] if name in shared.parts else _DERIVED[name](shared)
        function: Callable[..., Any] = partial(_swapped, derived, self.forward.constants)
        for _ in z.shape[:-1]:
            function = torch.func.vmap(function)
        return function(z)

    def prepare(self, name: str, example: Tensor, *, calls: int, compile: bool | str) -> None:
        """Get ready for `calls` calls with batches like `example`: capture where that pays, and compile where it does
        (`compile` "auto") or is asked for (True). What others have had compiled is used on the same terms only, so
        that results don't depend on what was run before.
        """
        key, shared = (name, len(example)), self._shared
        if compile is not True and calls <= _CALLS_BEFORE_CAPTURE and key not in shared.captured:
            return
        captured = shared.capture(key, example, self.forward.constants)
        compiled = compile is True or (compile == "auto" and calls * captured.seconds > _WORTH_COMPILING)
        if compiled:
            shared.compile(key, example, captured)
        self._bound[key] = shared.bind(key, example, self.forward.constants, compiled=compiled)


class _Shared:
    """What posteriors of one structure have in common."""

    def __init__(self, forward: Captured, size: int, all_known: bool) -> None:
        self.parts = {key: forward.only(key) for key in _DIFFERENTIATED}
        self.values = {key: forward.only(key, differentiable=False) for key in _VALUES}
        self.size, self.all_known = size, all_known
        self.calls: Counter[tuple[str, int]] = Counter()
        self.captured: dict[tuple[str, int], Captured] = {}
        self.interpreted: dict[tuple[str, int], Callable[..., Any]] = {}
        self.compiled: dict[tuple[str, int], Callable[..., Any]] = {}

    def batched(self, name: str) -> Callable[..., Any]:
        function = _DERIVED[name](self)
        return lambda z, *constants: torch.func.vmap(lambda point: function(point, *constants))(z)

    def capture(self, key: tuple[str, int], example: Tensor, constants: tuple[Tensor, ...]) -> Captured:
        if key not in self.captured:
            self.captured[key] = capture(self.batched(key[0]), torch.zeros_like(example), constants)
        return self.captured[key]

    def compile(self, key: tuple[str, int], example: Tensor, captured: Captured) -> None:
        """Compile the captured graph, or warn where this machine can't."""
        if key in self.compiled:
            return
        try:
            with warnings.catch_warnings(), torch.inference_mode():
                # the few complex operations around the transforms are left to the library
                warnings.filterwarnings("ignore", message="Torchinductor does not support code generation for complex")
                warnings.filterwarnings("ignore", message="`torch.jit")  # torch's own use of it
                compiled = torch.compile(captured.graph)
                compiled(torch.zeros_like(example), *captured.constants)
        except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
            reason = str(error).strip().splitlines()[0]
            warnings.warn(f"torch.compile failed ({reason}); going on without it, more slowly", stacklevel=3)
            return
        self.compiled[key] = compiled

    def bind(
        self, key: tuple[str, int], example: Tensor, constants: tuple[Tensor, ...], *, compiled: bool
    ) -> Callable[[Tensor], Any]:
        """The captured function of one posterior, as it was compiled where that is wanted and was possible."""
        captured = self.capture(key, example, constants).with_inputs(constants)
        run = self.compiled.get(key) if compiled else None
        if run is None:
            if key not in self.interpreted:
                self.interpreted[key] = interpreted(captured, example)
            run = self.interpreted[key]
        return lambda z: run(z, *captured.constants)


_models: OrderedDict[Any, _Shared] = OrderedDict()


def _shared_by(forward: Captured, size: int, all_known: bool) -> _Shared:
    key = (forward.structure, size, all_known)
    if key not in _models:
        _models[key] = _Shared(forward, size, all_known)
    _models.move_to_end(key)
    while len(_models) > _SHARED_MODELS:
        _models.popitem(last=False)
    return _models[key]


# -- the functions, each made from parts of the forward graph


def _value_and_grad(shared: _Shared) -> Callable[..., Any]:
    return torch.func.grad_and_value(shared.parts["log_density"])


def _expansion(shared: _Shared) -> Callable[..., Any]:
    """Log density, gradient, Fisher information and minus the Hessian of the log prior.

    The score of the observed distributions in their parameters is known where their information is, so one Jacobian
    gives the information and the gradient.
    """
    size = shared.size

    def expansion(z: Tensor, *constants: Tensor) -> Any:
        at = {key: partial(_swapped, part, constants) for key, part in (shared.values | shared.parts).items()}
        directions = torch.eye(size, dtype=z.dtype, device=z.device)
        information = torch.zeros_like(directions)
        gradient = torch.func.grad(at["log_prior"])(z)
        parameters = at["parameters"](z)
        if parameters:
            jacobians = torch.func.vmap(lambda v: torch.func.jvp(at["parameters"], (z,), (v,))[1])(directions)
            for jacobian, weight, score in zip(jacobians, at["weights"](z), at["scores"](z), strict=True):
                rows = jacobian.reshape(size, -1)
                information = information + (rows * weight.reshape(-1)) @ rows.T
                gradient = gradient + rows @ score.reshape(-1)
        if not shared.all_known:
            gradient = gradient + torch.func.grad(at["log_unknown"])(z)
            information = information - torch.func.hessian(at["log_unknown"])(z)
        return at["log_density"](z), gradient, information, -torch.func.hessian(at["log_prior"])(z)

    return expansion


def _swapped(part: Callable[..., Any], constants: tuple[Tensor, ...], z: Tensor) -> Any:
    return part(z, *constants)


def _part(key: str) -> Callable[[_Shared], Callable[..., Any]]:
    return lambda shared: shared.values[key]


_DIFFERENTIATED = ("log_density", "log_prior", "log_unknown", "parameters")
_VALUES = ("log_density", "log_prior", "weights", "scores", "deterministic", "pointwise")
_DERIVED = {
    "log_density": _part("log_density"),
    "log_prior": _part("log_prior"),
    "deterministic": _part("deterministic"),
    "pointwise": _part("pointwise"),
    "value_and_grad": _value_and_grad,
    "expansion": _expansion,
}
