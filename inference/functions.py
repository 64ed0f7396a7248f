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
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from bayesprof.inference.capture import Captured, capture, interpreted
from bayesprof.inference.forward_mode import with_derivatives, with_shapes
from bayesprof.inference.real_pairs import in_real_arithmetic

_CALLS_BEFORE_CAPTURE = 64  # a capture takes the time that about this many calls lose by being direct
_WORTH_COMPILING = 150.0  # seconds of captured evaluations: a compilation takes 40 and saves up to two fifths
_SHARED_MODELS = 16  # models whose derived functions are kept


class Functions:
    """Functions of the unconstrained vector `z`, shape ``(size,)`` each, derived from a forward graph.

    ``log_density``, ``log_prior``, ``value_and_grad``, ``expansion``, ``deterministic``, ``summary`` and ``pointwise``;
    all take a batch, shape ``(batch, size)``.
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
        derived = shared.part(name, differentiable=True) if name in _DIFFERENTIATED else shared.function(name)
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


class Summary(NamedTuple):
    """`values` of the latent and the deterministic sites, their `slopes` along z, with an axis of length D in front of
    their own, and `chi_square` of the observed sites that have one; by name.
    """

    values: dict[str, Tensor]
    slopes: dict[str, Tensor]
    chi_square: dict[str, Tensor]


class _Shared:
    """What posteriors of one structure have in common."""

    def __init__(self, forward: Captured, size: int, all_known: bool) -> None:
        self.forward, self.size, self.all_known = forward, size, all_known
        self.parts: dict[tuple[str, bool], fx.GraphModule] = {}
        self.functions: dict[str, Callable[..., Any]] = {}
        self.calls: Counter[tuple[str, int]] = Counter()
        self.captured: dict[tuple[str, int], Captured] = {}
        self.interpreted: dict[tuple[str, int], Callable[..., Any]] = {}
        self.compiled: dict[tuple[str, int], Callable[..., Any]] = {}

    def part(self, name: str, *, differentiable: bool) -> fx.GraphModule:
        """One of the values that the forward graph returns, as a function of its own."""
        key = (name, differentiable)
        if key not in self.parts:
            self.parts[key] = self.forward.only(name, differentiable=differentiable)
        return self.parts[key]

    def function(self, name: str) -> Callable[..., Any]:
        """One of the functions, of a single point and the constants."""
        if name not in self.functions:
            self.functions[name] = _DERIVED[name](self)
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
            with warnings.catch_warnings(), torch.inference_mode():
                # what is left of complex operations, around the transforms, is the library's
                warnings.filterwarnings("ignore", message="Torchinductor does not support code generation for complex")
                warnings.filterwarnings("ignore", message="`torch.jit")  # torch's own use of it
                compiled = torch.compile(in_real_arithmetic(captured.graph))
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
    return torch.func.grad_and_value(shared.part("log_density", differentiable=True))


def _expansion(shared: _Shared) -> Callable[..., Any]:
    """Log density, gradient, Fisher information and minus the Hessian of the log prior.

    The score of the observed distributions in their parameters is known where their information is, so one Jacobian
    gives the information and the gradient.
    """
    size, forward = shared.size, shared.forward
    first = with_derivatives(
        forward.several("log_density", "weights", "scores", "parameters", "log_prior"), "parameters", "log_prior"
    )
    slope = with_derivatives(forward.several("log_prior"), "log_prior")
    second = with_derivatives(with_shapes(slope.graph), "log_prior")

    def expansion(z: Tensor, *constants: Tensor) -> Any:
        at = first.graph(z, *constants)
        gradient, prior, information = torch.zeros_like(z), *torch.zeros(2, size, size, dtype=z.dtype, device=z.device)
        curved = second.graph(z, *constants)["log_prior"]
        for rows, active, curves, others in zip(
            at["log_prior"], first.active["log_prior"], curved, second.active["log_prior"], strict=True
        ):
            place = _placement(active, size, like=z)
            gradient = gradient + rows.to(z.dtype) @ place
            for curve, other in zip(curves, others, strict=True):
                prior = prior - _placement(other, size, like=z).mT @ curve.to(z.dtype) @ place
        for blocks, active, weight, score in zip(
            at["parameters"], first.active["parameters"], at["weights"], at["scores"], strict=True
        ):
            if blocks:
                kind = torch.promote_types(torch.promote_types(blocks[0].dtype, weight.dtype), score.dtype)
                rows = torch.cat([block.reshape(len(block), -1) for block in blocks]).to(kind)
                place = _placement(sum(active, ()), size, like=z)
                # images may be float32, and are summed as they are; z never is
                squared, slope = (rows * weight.reshape(-1)) @ rows.mT, rows @ score.reshape(-1).to(kind)
                information = information + place.mT @ squared.to(z.dtype) @ place
                gradient = gradient + slope.to(z.dtype) @ place
        if not shared.all_known:
            unknown = partial(_swapped, shared.part("log_unknown", differentiable=True), constants)
            gradient = gradient + torch.func.grad(unknown)(z)
            information = information - torch.func.hessian(unknown)(z)
        return at["log_density"], gradient, information, prior

    return expansion


def _summary(shared: _Shared) -> Callable[..., Summary]:
    size = shared.size
    derived = with_derivatives(shared.forward.several("chi_square", values="sites", slopes="sites"), "slopes")

    def summary(z: Tensor, *constants: Tensor) -> Summary:
        at = derived.graph(z, *constants)
        slopes = {}
        for name, value in at["values"].items():
            dense = torch.zeros(size, value.numel(), dtype=z.dtype, device=z.device)
            for rows, active in zip(at["slopes"][name], derived.active["slopes"][name], strict=True):
                dense = dense + _placement(active, size, like=z).mT @ rows.reshape(len(active), -1).to(z.dtype)
            slopes[name] = dense.reshape(size, *value.shape)
        return Summary(at["values"], slopes, at["chi_square"])

    return summary


def _placement(entries: tuple[int, ...], size: int, *, like: Tensor) -> Tensor:
    """Matrix, one row for each of the `entries`, that puts them at their places among `size`."""
    rows = [[float(place == entry) for place in range(size)] for entry in entries]
    return torch.tensor(rows, dtype=like.dtype, device=like.device)


def _swapped(part: Callable[..., Any], constants: tuple[Tensor, ...], z: Tensor) -> Any:
    return part(z, *constants)


def _part(key: str) -> Callable[[_Shared], Callable[..., Any]]:
    return lambda shared: shared.part(key, differentiable=False)


_DIFFERENTIATED = ("log_density", "log_prior")  # and what others may differentiate further
_DERIVED = {
    "log_density": _part("log_density"),
    "log_prior": _part("log_prior"),
    "deterministic": _part("deterministic"),
    "pointwise": _part("pointwise"),
    "value_and_grad": _value_and_grad,
    "expansion": _expansion,
    "summary": _summary,
}
