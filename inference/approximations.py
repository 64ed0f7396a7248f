"""What a posterior is approximated by for independent draws, the cheapest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from bayesprof.inference.curved import Curves, curves, curves_at
from bayesprof.inference.importance import Weighted, importance
from bayesprof.inference.modes import Modes
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.rto import failure, straight_draws, straightens, unsolved

_EFFICIENT, _EFFICIENT_CURVE = 0.3, 0.5


class Approximation(NamedTuple):
    """One of a `posterior`.

    `method` : what a result calls it; `name` : what a sentence does. `draw` : takes a number and a seed, and returns
    that many draws, weighted towards the posterior; `dear` : where each takes several Jacobians. `efficient` : the
    fraction of them that has to be effective for widths: where more are lost, a tail may lie beyond all of them, of
    which k-hat can't tell. `failure` : what is to be said of draws whose weights mean nothing. `facts` : what a result
    tells beside what all tell.
    """

    posterior: Posterior
    method: str
    name: str
    draw: Callable[[int, int], Weighted]
    dear: bool
    efficient: float
    failure: Callable[[Weighted], str | None]
    facts: Callable[[Weighted], dict[str, Any]]


def laplaces(modes: Modes, *, progress: bool = False, compile: bool | str = "auto") -> Iterator[Approximation]:
    """Laplace's, of first and, where the posterior has it, of second order: a draw takes one log density."""
    posterior = modes.posterior

    def evidence(_: Weighted) -> dict[str, Any]:
        return {"log_evidence_laplace": modes.log_evidence}

    def approximation(method: str, name: str, source: Modes | Curves, efficient: float) -> Approximation:
        def draw(count: int, seed: int) -> Weighted:
            return importance(posterior, *source.proposals(count, seed), progress=progress, compile=compile)

        return Approximation(posterior, method, name, draw, False, efficient, lambda _: None, evidence)

    yield approximation("Laplace", "the Laplace approximation", modes, _EFFICIENT)
    if curves(posterior):
        yield approximation("Laplace, second order", "that of second order", curves_at(modes), _EFFICIENT_CURVE)


def straightening(modes: Modes, *, progress: bool = False) -> Approximation | None:
    """Randomize-then-optimize, where the posterior has it and is of few parameters: a draw takes several Jacobians."""
    if not straightens(modes.posterior):
        return None

    def draw(count: int, seed: int) -> Weighted:
        return straight_draws(modes, count, seed, progress=progress)

    def facts(found: Weighted) -> dict[str, Any]:
        return {"unsolved": unsolved(found)}

    return Approximation(modes.posterior, "RTO", "randomize-then-optimize", draw, True, _EFFICIENT, failure, facts)


def approximations(modes: Modes, *, progress: bool = False, compile: bool | str = "auto") -> Iterator[Approximation]:
    """All of them."""
    yield from laplaces(modes, progress=progress, compile=compile)
    dear = straightening(modes, progress=progress)
    if dear is not None:
        yield dear
