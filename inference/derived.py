"""The functions that a forward graph gives: each made from parts of it, of one point and the constants."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, fx

from bayesprof.inference.blocks import with_block
from bayesprof.inference.capture import Captured, capture
from bayesprof.inference.forward_mode import Derivatives, with_derivatives, with_shapes
from bayesprof.inference.jacobian import Jacobian
from bayesprof.inference.places import Pairs, Pattern, Places


class Parts(Protocol):
    """What is known of a model: its `forward` graph of `size` arguments, whether the information of all that it
    observes is known, its :func:`prior_curvature`, and the `patterns` of sparse matrices, by the function that makes
    them, once it has been written.
    """

    forward: Captured
    size: int
    all_known: bool
    patterns: dict[str, Any]

    @property
    def prior_curvature(self) -> Callable[..., tuple[Tensor, Tensor]]: ...

    def part(self, name: str, *, differentiable: bool) -> fx.GraphModule:
        """One of the values that the forward graph returns, as a function of its own."""


class Summary(NamedTuple):
    """`values` of the latent and the deterministic sites, their `slopes` along z, with an axis of length D in front of
    their own, and `chi_square` of the observed sites that have one; by name.
    """

    values: dict[str, Tensor]
    slopes: dict[str, Tensor]
    chi_square: dict[str, Tensor]


def _value_and_grad(of: Parts) -> Callable[..., Any]:
    return torch.func.grad_and_value(of.part("log_density", differentiable=True))


def _expansion(of: Parts) -> Callable[..., Any]:
    """Log density, gradient, Fisher information and minus the Hessian of the log prior.

    The score of the observed distributions in their parameters is known where their information is, so one Jacobian
    gives the information and the gradient.
    """
    size = of.size
    parts = of.forward.several("log_density", "weights", "scores", "parameters")
    first = with_derivatives(parts, "parameters", in_windows=True)
    prior_curvature = of.prior_curvature

    def expansion(z: Tensor, *constants: Tensor) -> Any:
        at = first.graph(z, *constants)
        gradient, prior = prior_curvature(z, *constants)
        information = torch.zeros(size, size, dtype=z.dtype, device=z.device)
        jacobians = _jacobians(at["parameters"], first)
        for jacobian, weight, score in zip(jacobians, at["weights"], at["scores"], strict=True):
            if jacobian is not None:
                information = information + jacobian.squared(jacobian, weight, like=z)
                gradient = gradient + jacobian.times(score, like=z)
        if not of.all_known:
            unknown = partial(swapped, of.part("log_unknown", differentiable=True), constants)
            gradient = gradient + torch.func.grad(unknown)(z)
            information = information - torch.func.hessian(unknown)(z)
        return at["log_density"], gradient, information, prior

    return expansion


def _sparse_expansion(of: Parts) -> Callable[..., Any]:
    """As :func:`_expansion`, of all known sites, with the values of the blocks of the two matrices that aren't zero in
    place of these; where they go is noted in the `patterns`.
    """
    parts = of.forward.several("log_density", "weights", "scores", "parameters")
    first = with_derivatives(parts, "parameters", in_windows=True)
    prior = PriorSlopes(of)

    def expansion(z: Tensor, *constants: Tensor) -> Any:
        at = first.graph(z, *constants)
        slopes, curves = prior.slopes(z, constants), prior.curves(z, constants)
        gradient = prior.along(slopes, like=z)
        blocks: list[Tensor] = []
        places: list[Any] = []
        jacobians = _jacobians(at["parameters"], first)
        for jacobian, weight, score in zip(jacobians, at["weights"], at["scores"], strict=True):
            if jacobian is not None:
                along, values = jacobian.products(jacobian, weight)
                blocks, places = blocks + values, places + list(along)
                gradient = gradient + jacobian.times(score, like=z)
        if "sparse_expansion" not in of.patterns:
            of.patterns["sparse_expansion"] = Pattern(places, of.size), Pattern(prior.pairs, of.size)
        information, curvature = (
            torch.cat([torch.zeros_like(z[:0]), *(value.reshape(-1).to(z.dtype) for value in some)])
            for some in (blocks, curves)
        )
        return at["log_density"], gradient, information, -curvature

    return expansion


def _hessian(of: Parts) -> Callable[..., Any]:
    """Log density, gradient and minus its Hessian, exact.

    Of an observed site it has two parts: J^T B J, with J the Jacobian of the distribution's parameters and B minus the
    second derivatives of the log probability in them; and the second derivatives of the parameters times the score.
    Those are the derivatives of a gradient, that of the parameters times a score that is held. Held, it takes no
    component into another's derivatives, so that all of them cost little more than a few gradients.
    """
    parts = of.forward.several("log_density", "bends", "scores", "parameters")
    first = with_derivatives(parts, "parameters", in_windows=True)
    prior_curvature, pulled = of.prior_curvature, _pulled(of)

    def hessian(z: Tensor, *constants: Tensor) -> Any:
        at = first.graph(z, *constants)
        gradient, curvature = prior_curvature(z, *constants)
        jacobians = _jacobians(at["parameters"], first)
        for jacobian, score in zip(jacobians, at["scores"], strict=True):
            if jacobian is not None:
                gradient = gradient + jacobian.times(score, like=z)
        for i, bends in enumerate(at["bends"]):
            one, others = jacobians[i], jacobians[: i + 1][-len(bends) :]
            for other, bend in zip(others, bends, strict=True):
                if one is not None and other is not None:
                    term = one.squared(other, bend, like=z)
                    curvature = curvature + (term if other is one else term + term.mT)
        curvature = curvature - pulled(z, at["scores"], constants)
        if not of.all_known:
            unknown = partial(swapped, of.part("log_unknown", differentiable=True), constants)
            gradient = gradient + torch.func.grad(unknown)(z)
            curvature = curvature - torch.func.hessian(unknown)(z)
        return at["log_density"], gradient, 0.5 * (curvature + curvature.mT)

    return hessian


def _jacobians(rows: list[list[Tensor]], found: Derivatives) -> list[Jacobian | None]:
    """The Jacobian of each parameter of the observed distributions; None for those that don't depend on z."""
    each = zip(rows, found.blocks["parameters"], strict=True)
    return [Jacobian(several, blocks) if blocks else None for several, blocks in each]


def _jacobian(of: Parts) -> Callable[..., Any]:
    """Those parameters of the observed distributions that depend on z, their derivatives and their Fisher information;
    shapes (N,), (D, N), (N,).
    """
    found = with_derivatives(of.forward.several("weights", values="parameters", slopes="parameters"), "slopes")

    def jacobian(z: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        at = found.graph(z, *constants)
        values, slopes, weights = [z[:0]], [z.new_zeros(of.size, 0)], [z[:0]]
        for value, rows, blocks, weight in zip(
            at["values"], at["slopes"], found.blocks["slopes"], at["weights"], strict=True
        ):
            if blocks:
                dense = torch.zeros(of.size, *value.shape, dtype=z.dtype, device=z.device)
                for some, block in zip(rows, blocks, strict=True):
                    dense = with_block(dense, block, some.to(z.dtype))
                values.append(value.reshape(-1).to(z.dtype))
                slopes.append(dense.reshape(of.size, -1))
                weights.append(weight.reshape(-1).to(z.dtype))
        return torch.cat(values), torch.cat(slopes, 1), torch.cat(weights)

    return jacobian


class PriorSlopes:
    """Derivatives of the terms of the log prior: the first `along` all entries of z, and the blocks of second ones, at
    the `pairs` of entries that they are of.
    """

    def __init__(self, of: Parts) -> None:
        self._slope = with_derivatives(of.forward.several("prior_terms"), "prior_terms")
        self._curved = with_derivatives(with_shapes(self._slope.graph), "prior_terms", diagonal=True)
        actives = [block.active for block in _joined(self._slope.blocks["prior_terms"])]
        self.along = Places([(active,) for active in actives], of.size, axes=1)
        self.pairs = [
            (block.active, active)
            if block.axis is None
            else Pairs(tuple(chain(*block.active)), active * len(block.active))
            for active, blocks in zip(actives, _joined(self._curved.blocks["prior_terms"]), strict=True)
            for block in blocks
        ]

    def slopes(self, z: Tensor, constants: tuple[Tensor, ...]) -> list[Tensor]:
        return _joined(self._slope.graph(z, *constants)["prior_terms"])

    def curves(self, z: Tensor, constants: tuple[Tensor, ...]) -> list[Tensor]:
        return _joined(_joined(self._curved.graph(z, *constants)["prior_terms"]))


def prior_curvature(of: Parts) -> Callable[..., tuple[Tensor, Tensor]]:
    """Gradient of the log prior, and minus its Hessian."""
    prior = PriorSlopes(of)
    across = Places(prior.pairs, of.size, axes=2)

    def gradient_and_curvature(z: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
        slopes, curves = prior.slopes(z, constants), prior.curves(z, constants)
        return prior.along(slopes, like=z), -across(curves, like=z)

    return gradient_and_curvature


def _joined(lists: list[list[Any]]) -> list[Any]:
    return [one for several in lists for one in several]


def _pulled(of: Parts) -> Callable[[Tensor, list[Tensor], tuple[Tensor, ...]], Tensor]:
    """Second derivatives of the parameters of the observed distributions, times scores and summed; shape (D, D)."""
    parameters = of.forward.several("parameters")
    *_, output = parameters.graph.nodes
    shapes = [node.meta["val"] for node in output.args[0]["parameters"]]
    count = len(shapes)

    def pull(z: Tensor, *inputs: Tensor) -> dict[str, Tensor]:
        def total(point: Tensor) -> Tensor:
            values = parameters(point, *inputs[count:])["parameters"]
            products = [(value * score).sum().to(z.dtype) for value, score in zip(values, inputs[:count], strict=True)]
            return torch.stack([torch.zeros_like(z).sum(), *products]).sum()

        return {"pull": torch.func.grad(total)(z)}

    held = [torch.zeros(value.shape, dtype=value.dtype, device=value.device) for value in shapes]
    example = torch.zeros(of.size, dtype=torch.float64, device=held[0].device if held else None)
    captured = capture(pull, example, (*held, *of.forward.constants), differentiable=True)
    derivatives: Derivatives = with_derivatives(captured.graph, "pull")
    every = tuple(range(of.size))
    places = Places([(block.active, every) for block in derivatives.blocks["pull"]], of.size, axes=2)

    def second(z: Tensor, scores: list[Tensor], constants: tuple[Tensor, ...]) -> Tensor:
        return places(derivatives.graph(z, *captured.recipe(*scores, *constants))["pull"], like=z)

    return second


def _summary(of: Parts) -> Callable[..., Any]:
    """What a :class:`Summary` is made of: a graph returns no class of ours."""
    size = of.size
    derived = with_derivatives(
        of.forward.several("chi_square", values="sites", slopes="sites"), "slopes", diagonal=True
    )

    def summary(z: Tensor, *constants: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        at = derived.graph(z, *constants)
        slopes = {}
        for name, value in at["values"].items():
            dense = torch.zeros(size, *value.shape, dtype=z.dtype, device=z.device)
            for rows, block in zip(at["slopes"][name], derived.blocks["slopes"][name], strict=True):
                dense = with_block(dense, block, rows.to(z.dtype))
            slopes[name] = dense
        return at["values"], slopes, at["chi_square"]

    return summary


def _sparse_summary(of: Parts) -> Callable[..., Any]:
    """As :func:`_summary`, with the rows of the blocks of the slopes; these are noted in the `patterns`."""
    derived = with_derivatives(
        of.forward.several("chi_square", values="sites", slopes="sites"), "slopes", diagonal=True
    )
    of.patterns["sparse_summary"] = derived.blocks["slopes"]

    def summary(z: Tensor, *constants: Tensor) -> Any:
        at = derived.graph(z, *constants)
        return at["values"], {name: list(rows) for name, rows in at["slopes"].items()}, at["chi_square"]

    return summary


def swapped(part: Callable[..., Any], constants: tuple[Tensor, ...], z: Tensor) -> Any:
    return part(z, *constants)


def _part(key: str) -> Callable[[Parts], Callable[..., Any]]:
    return lambda of: of.part(key, differentiable=False)


DIFFERENTIATED = ("log_density", "log_prior")  # and what others may differentiate further
DERIVED = {
    "log_density": _part("log_density"),
    "log_prior": _part("log_prior"),
    "deterministic": _part("deterministic"),
    "pointwise": _part("pointwise"),
    "predicted": _part("predicted"),
    "value_and_grad": _value_and_grad,
    "expansion": _expansion,
    "sparse_expansion": _sparse_expansion,
    "jacobian": _jacobian,
    "hessian": _hessian,
    "summary": _summary,
    "sparse_summary": _sparse_summary,
}
