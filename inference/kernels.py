"""Markov kernels on whitened coordinates, all chains at once.

A kernel is a function of the state of the chains, their step sizes and a seed, and keeps nothing: a run can be stopped
and taken up between any two transitions.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

DIVERGENCE = 1000.0
"""Energy error from which a trajectory counts as divergent, as in Stan and Pyro."""


class State(NamedTuple):
    """Where the chains are: `position` (chains, D) in whitened coordinates, `potential` (chains,), `gradient`
    (chains, D).
    """

    position: Tensor
    potential: Tensor
    gradient: Tensor


class Target(Protocol):
    """What chains move in: a posterior in whitened coordinates."""

    def potential(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Minus the log density, shape (chains,), and its gradient, at `w` (chains, D); infinite and 0 where the
        density isn't finite.
        """
        ...


class Kernel(Protocol):
    """`name` of the method; `target_acceptance` that step sizes are adapted to, starting from `first_step`, drawn
    toward `boldness` times that, and no longer than `largest_step`; `gradients` expected per draw.
    """

    @property
    def name(self) -> str: ...
    @property
    def target_acceptance(self) -> float: ...
    @property
    def gradients(self) -> float: ...
    @property
    def largest_step(self) -> float: ...
    @property
    def boldness(self) -> float: ...
    def first_step(self, size: int) -> float: ...
    def transition(self, target: Target, state: State, step_size: Tensor, seed: int) -> tuple[State, dict[str, Tensor]]:
        """The next state, and statistics of shape (chains,): acceptance_rate, energy, n_steps, diverging."""
        ...


class SplitHMC(NamedTuple):
    """Hamiltonian Monte Carlo that follows the Gaussian part of the potential exactly (Shahbaba, Lan, Johnson & Neal
    2014, Statistics and Computing 24, 339).

    In whitened coordinates the potential is ``|w|^2 / 2`` and a remainder, which is small where the posterior is close
    to the Gaussian of its Hessian. Positions and momenta turn by an angle, which is exact for the first, between half
    steps of the remainder's gradient. A quarter turn makes a draw independent of the one before; where the remainder
    allows it, that takes one gradient. Where it doesn't, the turn is made in several steps.

    `turn` : radians in a draw; `jitter` : the fraction by which it varies between draws.
    """

    target_acceptance: float = 0.9
    turn: float = math.pi / 2
    jitter: float = 0.1
    gradients: float = 1.5
    boldness: float = 1.0
    name: str = "split HMC"

    @property
    def largest_step(self) -> float:
        return self.turn

    def first_step(self, size: int) -> float:
        return self.turn

    def transition(self, target: Target, state: State, step_size: Tensor, seed: int) -> tuple[State, dict[str, Tensor]]:
        draw = _Random(seed, state.position)
        momentum = draw.normal()
        steps = math.ceil(self.turn / float(step_size.median()) - 1e-6)
        stretch = 1 + self.jitter * (2 * draw.fraction() - 1)
        angle = stretch * step_size.clamp(max=self.turn / steps)[:, None]
        cos, sin = torch.cos(angle), torch.sin(angle)
        w, potential, gradient = state
        r = momentum
        for _ in range(steps):
            r = r - 0.5 * angle * (gradient - w)
            w, r = cos * w + sin * r, cos * r - sin * w
            potential, gradient = target.potential(w)
            r = r - 0.5 * angle * (gradient - w)
        return _metropolis(state, State(w, potential, gradient), momentum, r, draw, steps)


class MALA(NamedTuple):
    """Metropolis-adjusted Langevin algorithm: one leapfrog step a draw (Roberts & Rosenthal 1998, JRSS B 60, 255)."""

    target_acceptance: float = 0.574
    gradients: float = 1.0
    boldness: float = 1.0
    name: str = "MALA"
    largest_step: float = math.inf

    def first_step(self, size: int) -> float:
        return 1.65 * size ** (-1 / 6)

    def transition(self, target: Target, state: State, step_size: Tensor, seed: int) -> tuple[State, dict[str, Tensor]]:
        draw = _Random(seed, state.position)
        momentum = draw.normal()
        step = step_size[:, None]
        r = momentum - 0.5 * step * state.gradient
        w = state.position + step * r
        potential, gradient = target.potential(w)
        r = r - 0.5 * step * gradient
        return _metropolis(state, State(w, potential, gradient), momentum, r, draw, 1)


class _Random:
    """Random numbers of one transition, the same on every device."""

    def __init__(self, seed: int, like: Tensor) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.like = like

    def normal(self) -> Tensor:
        return torch.randn(self.like.shape, generator=self.generator, dtype=torch.float64).to(self.like)

    def uniform(self) -> Tensor:
        return torch.rand(len(self.like), generator=self.generator, dtype=torch.float64).to(self.like)

    def fraction(self) -> float:
        return float(torch.rand((), generator=self.generator, dtype=torch.float64))


def _metropolis(
    here: State, there: State, momentum_here: Tensor, momentum_there: Tensor, draw: _Random, steps: int
) -> tuple[State, dict[str, Tensor]]:
    """Accept or reject the end of a trajectory, chain by chain."""
    energy = here.potential + 0.5 * (momentum_here**2).sum(-1)
    error = there.potential + 0.5 * (momentum_there**2).sum(-1) - energy
    error = error.nan_to_num(nan=torch.inf)
    acceptance = torch.exp(-error.clamp(min=0.0))
    accepted = draw.uniform() < acceptance
    chosen = State(
        torch.where(accepted[:, None], there.position, here.position),
        torch.where(accepted, there.potential, here.potential),
        torch.where(accepted[:, None], there.gradient, here.gradient),
    )
    return chosen, {
        "acceptance_rate": acceptance,
        "energy": energy,
        "n_steps": torch.full_like(energy, steps),
        "diverging": error > DIVERGENCE,
    }
