"""Pyro's kernels, several chains at a time.

Each chain runs Pyro's own code in a greenlet. Where that asks for the potential it is suspended; once all chains have
asked, their potentials are evaluated as one batch. A chain that has finished its transition waits for the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import greenlet
import pyro.infer
import torch
from pyro.infer.mcmc.nuts import _TreeInfo
from torch import Tensor

from bayesprof.inference.kernels import State, Target
from bayesprof.inference.randomness import seeds_from, set_seed

Ask = Callable[[Tensor], tuple[Tensor, Tensor]]


def in_lockstep(
    tasks: list[Callable[[Ask], Any]], evaluate: Callable[[Tensor], tuple[Tensor, Tensor]], idle: Tensor
) -> list[Any]:
    """Results of the `tasks`, whose questions are answered in batches.

    A task calls ``ask(point)`` with a point (D,) and gets the answer of `evaluate` for its row; `idle` (tasks, D)
    fills the rows of those that have finished. Each task has a state of torch's random generator of its own.
    """
    main = greenlet.getcurrent()
    points, answers = idle.clone(), (torch.empty(0), torch.empty(0))
    outside = torch.get_rng_state()
    randomness = [outside] * len(tasks)

    def ask_for(row: int) -> Ask:
        def ask(point: Tensor) -> tuple[Tensor, Tensor]:
            points[row] = point
            randomness[row] = torch.get_rng_state()
            main.switch()
            torch.set_rng_state(randomness[row])
            return answers[0][row], answers[1][row]

        return ask

    results: list[Any] = [None] * len(tasks)
    running = {row: greenlet.greenlet(task, parent=main) for row, task in enumerate(tasks)}
    arguments: dict[int, tuple[Any, ...]] = {row: (ask_for(row),) for row in running}
    try:
        while running:
            for row, task in list(running.items()):
                result = task.switch(*arguments.pop(row, ()))
                if task.dead:
                    results[row] = result
                    del running[row]
            if running:
                answers = evaluate(points)
    finally:
        for task in running.values():
            if not task.dead:  # as the one that an error came from is
                task.throw(greenlet.GreenletExit)
        torch.set_rng_state(outside)
    return results


class PyroKernel(NamedTuple):
    """One of Pyro's gradient kernels on whitened coordinates, with unit mass.

    `kind` : "NUTS" or "HMC"; `max_tree_depth` of NUTS; `turn` of HMC: the length of its trajectories, where a quarter
    turn, pi/2, carries a Gaussian to an independent draw; `jitter` : the fraction by which step sizes vary between
    draws. (It does NUTS no good: on a whitened Gaussian in 7 dimensions 0.3 takes a quarter off the effective draws
    per gradient and a third off those of squares.)
    """

    kind: str
    target_acceptance: float
    max_tree_depth: int = 8
    turn: float = math.pi / 2
    jitter: float = 0.0

    @property
    def name(self) -> str:
        return self.kind

    @property
    def gradients(self) -> float:
        return 6.0 if self.kind == "NUTS" else 3.0

    @property
    def boldness(self) -> float:
        return 10.0  # as in Hoffman & Gelman (2014): long steps are cheap to try

    @property
    def largest_step(self) -> float:
        return math.inf

    def first_step(self, size: int) -> float:
        return 1.2 * size ** (-1 / 4)

    def transition(self, target: Target, state: State, step_size: Tensor, seed: int) -> tuple[State, dict[str, Tensor]]:
        seeds = seeds_from(seed, len(step_size))
        tasks = [
            self._chain(State(*(entry[row] for entry in state)), float(step), seeds[row])
            for row, step in enumerate(step_size)
        ]
        ends = in_lockstep(tasks, target.potential, state.position)
        states, stats = zip(*ends, strict=True)
        joined = {name: torch.stack([torch.as_tensor(entry[name]) for entry in stats]) for name in stats[0]}
        return State(*(torch.stack(entries) for entries in zip(*states, strict=True))), joined

    def _chain(self, state: State, step_size: float, seed: int) -> Callable[[Ask], Any]:
        """One transition of one chain."""

        def run(ask: Ask) -> tuple[State, dict[str, Any]]:
            set_seed(seed)
            step = step_size * (1 + self.jitter * (2 * float(torch.rand(())) - 1))
            asked = 0

            def counted(w: Tensor) -> tuple[Tensor, Tensor]:
                nonlocal asked
                asked += 1
                return ask(w)

            def potential(params: dict[str, Tensor]) -> Tensor:
                w = params["w"]
                value, gradient = counted(w.detach())
                return value + gradient @ (w - w.detach())  # what autograd will find is the gradient

            options: dict[str, Any] = {"step_size": step, "adapt_step_size": False, "adapt_mass_matrix": False}
            kernel: Any
            if self.kind == "NUTS":
                kernel = _NUTS(potential_fn=potential, max_tree_depth=self.max_tree_depth, **options)
            else:
                kernel = _HMC(potential_fn=potential, num_steps=math.ceil(self.turn / step_size - 1e-6), **options)
            kernel.start(state, counted)
            end = kernel.sample({"w": state.position})["w"]
            _, value, gradients = kernel._fetch_from_cache()
            return State(end.detach(), value.detach(), gradients["w"].detach()), {
                "acceptance_rate": kernel._mean_accept_prob,
                "energy": kernel.energy,
                "n_steps": asked,
                "diverging": bool(kernel._divergences),
                **({"tree_depth": math.ceil(math.log2(asked + 1))} if self.kind == "NUTS" else {}),
            }

        return run


class _OneTransition:
    """What is added to Pyro's kernels to make single transitions from a known state, and to know their energies."""

    energy = math.nan

    def start(self: Any, state: State, ask: Ask) -> None:
        self.ask = ask
        vars(self).update(_initial_params={"w": state.position}, _warmup_steps=0)
        self._cache({"w": state.position}, state.potential, {"w": state.gradient})
        self._initialize_adapter()

    def _sample_r(self: Any, name: str) -> Any:
        scaled, unscaled = super()._sample_r(name)  # type: ignore[misc]
        self.energy = float(self._kinetic_energy(unscaled) + self._potential_energy_last)
        return scaled, unscaled


class _NUTS(_OneTransition, pyro.infer.NUTS):
    def _build_basetree(
        self,
        z: dict[str, Tensor],
        r: dict[str, Tensor],
        z_grads: dict[str, Tensor],
        log_slice: Tensor,
        direction: int,
        energy_current: Tensor,
    ) -> _TreeInfo:
        """One leapfrog step, as Pyro makes it but for unit mass and a potential that comes with its gradient: half of
        its time went into autograd and changes of scale.
        """
        step = self.step_size if direction == 1 else -self.step_size
        momentum = r["w"] - 0.5 * step * z_grads["w"]
        position = z["w"] + step * momentum
        value, gradient = self.ask(position)
        momentum = momentum - 0.5 * step * gradient
        energy = (value + 0.5 * momentum.dot(momentum)).nan_to_num(nan=math.inf)
        sliced = energy + log_slice
        end, its_r, its_grads, unscaled = {"w": position}, {"w": momentum}, {"w": gradient}, {("w",): momentum}
        return _TreeInfo(
            end, its_r, unscaled, its_grads, end, its_r, unscaled, its_grads, end, value, its_grads, unscaled, -sliced,
            False, bool(sliced > self._max_sliced_energy), (energy_current - energy).exp().clamp(max=1.0), 1,
        )  # fmt: skip


class _HMC(_OneTransition, pyro.infer.HMC):
    pass
