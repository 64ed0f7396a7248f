"""Runs of Markov chains: warm-up, draws, extension, interruption, checkpoints, export. The same for every kernel.

Everything random is derived from the seed and the number of the transition, and all that a transition needs is in the
state: a run that was stopped goes on to the draws it would have had.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import torch
from pyro.ops.dual_averaging import DualAveraging
from torch import Tensor
from tqdm.auto import tqdm

from bayesprof.inference.checkpoint import Checkpoint
from bayesprof.inference.export import quick_verdict, to_inference_data
from bayesprof.inference.fit import Fit
from bayesprof.inference.kernels import Kernel, State
from bayesprof.inference.lm import fitted
from bayesprof.inference.modes import Modes, modes_at, restored_modes
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.randomness import seeds_from
from bayesprof.threads import one_thread

WARMUP = 100
_LEARNING = ((0.1, 0.2), (0.2, 0.4), (0.4, 0.8))  # the parts of warm-up whose draws refine the mass matrix
_PRIOR_DRAWS_PER_DIMENSION = 3  # what the Hessian, or the matrix before, counts for in it
_BLOCK = 20  # transitions between looks at the clock


@dataclass(frozen=True, kw_only=True)
class Options:
    """How long and how to run; see :func:`bayesprof.inference.nuts`."""

    init: Fit | Mapping[str, Any] | None
    draws: int
    warmup: int | None
    chains: int
    seed: int
    progress: bool
    compile: bool | str
    checkpoint: str | Path | None
    max_draws: int | None
    max_seconds: float | None
    enough: Callable[[Tensor], bool] | None = None
    """Whether draws (chains, draws, D) needn't be extended; by the verdict where None."""


def sample_chains(
    method: str,
    kernel: Kernel,
    model: Callable[..., Any] | Posterior,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: Options,
) -> az.InferenceData:
    """Run `kernel` on the posterior of `model`; `method` is the name of the public function, for errors."""
    _check(method, kernel, options)
    posterior = model if isinstance(model, Posterior) else Posterior(model, *args, seed=options.seed, **kwargs)
    with one_thread():
        if options.checkpoint is None:
            return _Run(kernel, posterior, options, None).result()
        with Checkpoint(options.checkpoint, _identity(kernel, posterior, options)) as checkpoint:
            return _Run(kernel, posterior, options, checkpoint).result()


@dataclass(frozen=True)
class _Point:
    """Where a run is after `step` transitions: all that the next one depends on.

    `labels` (chains,) : the mode in whose coordinates each chain is; `adaptation` : the numbers of the dual averaging
    of step sizes; `goal` : transitions to be made in all.
    """

    step: int
    goal: int
    state: State
    labels: Tensor
    step_size: Tensor
    adaptation: dict[str, Any]
    modes: Modes


class _Run:
    """A run of chains.

    A transition changes it by one assignment, to `here`: an interruption at any moment leaves it at a whole one.
    `entries` are the records of the transitions up to there, each a mapping to arrays of shape (chains, ...).
    """

    def __init__(self, kernel: Kernel, posterior: Posterior, options: Options, checkpoint: Checkpoint | None) -> None:
        self.kernel, self.posterior, self.options, self.checkpoint = kernel, posterior, options, checkpoint
        self.warmup = _warmup(options)
        self.began = time.monotonic()
        self.entries: list[dict[str, np.ndarray]] = []
        calls = int(kernel.gradients * (options.draws + self.warmup))
        posterior.prepare("value_and_grad", batch=options.chains, calls=calls, compile=options.compile)
        saved = None if checkpoint is None else checkpoint.load()
        self.here = self._start() if saved is None else self._restored(*saved)

    def _start(self) -> _Point:
        options, posterior = self.options, self.posterior
        fit = fitted(posterior, options.init, options.seed)
        self.message = fit.message
        modes = modes_at(posterior, fit)
        state, labels = modes.dispersed(options.chains, options.seed)
        first = torch.full((options.chains,), self.kernel.first_step(posterior.size), dtype=torch.float64)
        return _Point(
            step=0,
            goal=self.warmup + options.draws,
            state=state,
            labels=labels,
            step_size=first,
            adaptation=vars(DualAveraging(prox_center=torch.log(self.kernel.boldness * first))),
            modes=modes,
        )

    # -- running

    def result(self) -> az.InferenceData:
        """Run to the end, or until interrupted, and return the draws."""
        complete = True
        bar = tqdm(
            total=self.here.goal,
            initial=self.here.step,
            disable=not self.options.progress,
            desc=self.kernel.name,
            unit="draw",
        )
        try:
            self._run(bar)
        except KeyboardInterrupt:
            if self.here.step < self.warmup + _FEWEST_DRAWS:
                raise
            complete = False
        finally:
            bar.close()
            self._save()
        return self._exported(complete)

    def _run(self, bar: Any) -> None:
        while True:
            while self.here.step < self.here.goal:
                for _ in range(min(_BLOCK, self.here.goal - self.here.step)):
                    self._advance()
                    bar.update()
                bar.set_postfix(self._outlook(), refresh=False)
                if self.checkpoint is not None and self.checkpoint.due():
                    self._save()
            goal = self._extended()
            if goal <= self.here.goal:
                return
            bar.total = goal
            self.here = replace(self.here, goal=goal)

    def _advance(self) -> None:
        """One transition of all chains."""
        here = self.here
        seed = int(np.random.SeedSequence([self.options.seed, here.step]).generate_state(1)[0])
        moved, stats = self.kernel.transition(here.modes.at(here.labels), here.state, here.step_size, seed)
        state, labels = here.modes.jumped(moved, here.labels, seeds_from(seed, 1)[0])
        entry = {name: value.cpu().numpy() for name, value in stats.items()}
        entry |= {"lp": here.modes.log_density(state, labels).cpu().numpy(), "step_size": here.step_size.numpy()}
        entry |= {"position": state.position.cpu().numpy(), "mode": labels.numpy()}
        del self.entries[here.step :]
        self.entries.append(entry)
        there = replace(here, step=here.step + 1, state=state, labels=labels)
        self.here = there if here.step >= self.warmup else self._adapted(there, stats["acceptance_rate"])

    def _adapted(self, here: _Point, acceptance: Tensor) -> _Point:
        adaptation = _dual_averaging(here.adaptation)
        missing = self.kernel.target_acceptance - acceptance.to(torch.float64).cpu()
        at_most = here.step_size >= self.kernel.largest_step  # where a longer step would change nothing
        adaptation.step(torch.where(at_most, missing.clamp(min=0.0), missing))
        now, averaged = adaptation.get_state()
        step_size = torch.exp(averaged if here.step == self.warmup else now)
        here = replace(here, step_size=step_size, adaptation=vars(adaptation))
        part = next((part for part in _LEARNING if here.step == int(part[1] * self.warmup)), None)
        if part is None:
            return here
        first, last = (int(end * self.warmup) for end in part)
        seen, labels = (
            torch.as_tensor(np.stack([entry[name] for entry in self.entries[first:last]], axis=1))
            for name in ("position", "mode")
        )
        learned = here.modes.learned(
            seen.to(here.state.position), labels, prior_draws=_PRIOR_DRAWS_PER_DIMENSION * self.posterior.size
        )
        if learned is here.modes:
            return here
        return replace(here, modes=learned, state=here.modes.moved_to(learned, here.state, here.labels))

    def _extended(self) -> int:
        """The number of transitions to make in all, now that as many as meant are made."""
        options, goal = self.options, self.here.goal
        most = options.max_draws
        if most is None and options.max_seconds is None:
            return max(goal, self.warmup + options.draws)
        if goal < self.warmup + options.draws:
            return self.warmup + options.draws
        if options.max_seconds is not None and time.monotonic() - self.began > options.max_seconds:
            return goal
        draws, stats = self._drawn()
        verdict = options.enough or (
            lambda draws: quick_verdict(self.posterior, draws, stats, self.kernel.target_acceptance).ok
        )
        if verdict(draws):
            return goal
        more = goal + options.draws
        return more if most is None else min(more, self.warmup + most)

    # -- what has been drawn

    def _drawn(self) -> tuple[Tensor, dict[str, np.ndarray]]:
        """Draws in the unconstrained space, (chains, draws, D), and statistics, (chains, draws)."""
        stats = _stacked(self.entries[self.warmup : self.here.step])
        position = torch.as_tensor(stats.pop("position")).to(self.here.state.position)
        draws = self.here.modes.unwhiten(position, torch.as_tensor(stats["mode"]))
        if len(self.here.modes.each) == 1:
            del stats["mode"]
        whole = {name: value.astype(int) for name, value in stats.items() if name in _WHOLE}
        return draws, {**stats, **whole}

    def _exported(self, complete: bool) -> az.InferenceData:
        draws, stats = self._drawn()
        incomplete = f"incomplete: interrupted after {draws.shape[1]} of {self.options.draws} draws a chain"
        attrs = {
            "method": self.kernel.name,
            "warmup": self.warmup,
            "fit": self.message,
            "complete": int(complete),
            "sampling_time": time.monotonic() - self.began,
        }
        return to_inference_data(
            self.posterior,
            draws,
            sample_stats=stats,
            seed=self.options.seed,
            target_acceptance=self.kernel.target_acceptance,
            attrs=attrs,
            failure=None if complete else incomplete,
        )

    def _outlook(self) -> dict[str, str]:
        if self.here.step <= self.warmup:
            return {"warming": "up"}
        rates = [entry["acceptance_rate"].mean() for entry in self.entries[-_BLOCK:]]
        return {"acceptance": f"{np.mean(rates):.2f}"}

    # -- checkpoints

    def _save(self) -> None:
        here = self.here
        if self.checkpoint is None or here.step == 0:
            return
        state = {
            "step": here.step,
            "goal": here.goal,
            "message": self.message,
            "centres": torch.stack([one.centre for one in here.modes.each]).cpu().numpy(),
            "factors": torch.stack([one.factor for one in here.modes.each]).cpu().numpy(),
            "log_evidences": here.modes.log_evidences.cpu().numpy(),
            "labels": here.labels.numpy(),
            "step_size": here.step_size.numpy(),
            "adaptation": {
                name: value.numpy() if isinstance(value, Tensor) else value for name, value in here.adaptation.items()
            },
            **{name: value.cpu().numpy() for name, value in here.state._asdict().items()},
        }
        self.checkpoint.save(state, _stacked(self.entries[: here.step]))

    def _restored(self, state: dict[str, Any], draws: dict[str, np.ndarray]) -> _Point:
        def tensor(value: np.ndarray) -> Tensor:
            return torch.as_tensor(value).clone()  # aligned as torch's own memory: sums round alike

        device = self.posterior.device
        self.message = state["message"]
        self.entries = [{name: values[:, i] for name, values in draws.items()} for i in range(state["step"])]
        return _Point(
            step=state["step"],
            goal=max(state["goal"], self.warmup + self.options.draws),
            state=State(*(tensor(state[name]).to(device) for name in State._fields)),
            step_size=tensor(state["step_size"]),
            adaptation={
                name: tensor(value) if isinstance(value, np.ndarray) else value
                for name, value in state["adaptation"].items()
            },
            labels=tensor(state["labels"]),
            modes=restored_modes(
                self.posterior, *(tensor(state[name]).to(device) for name in ("centres", "factors", "log_evidences"))
            ),
        )


_WHOLE = ("n_steps", "tree_depth", "mode")
_FEWEST_DRAWS = 4  # that an interrupted run returns


def _stacked(entries: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Records of transitions as arrays of shape (chains, transitions, ...)."""
    return {name: np.stack([entry[name] for entry in entries], axis=1) for name in entries[0]}


def _identity(kernel: Kernel, posterior: Posterior, options: Options) -> dict[str, Any]:
    """What makes a run the one that it is, beside its length."""
    return {
        "method": kernel.name,
        "kernel": {name: getattr(kernel, name) for name in kernel._fields},  # type: ignore[attr-defined]
        "seed": options.seed,
        "chains": options.chains,
        "warmup": _warmup(options),
        "sites": [site.name for site in posterior.sites],
        "data": posterior.fingerprint,
    }


def _warmup(options: Options) -> int:
    return WARMUP if options.warmup is None else options.warmup


def _dual_averaging(numbers: Mapping[str, Any]) -> DualAveraging:
    """Dual averaging of the logarithms of step sizes, one per chain (Hoffman & Gelman 2014), as it was left."""
    adaptation = DualAveraging()
    vars(adaptation).update(numbers)
    return adaptation


def _check(method: str, kernel: Kernel, options: Options) -> None:
    check_run(
        method, draws=options.draws, chains=options.chains, seed=options.seed, compile=options.compile,
        max_seconds=options.max_seconds, warmup=_warmup(options),
        max_draws=options.max_draws,
    )  # fmt: skip
    if not 0 < kernel.target_acceptance < 1:
        raise ValueError(f"{method}: expected target_acceptance between 0 and 1, got {kernel.target_acceptance!r}")


def check_run(
    method: str,
    *,
    draws: int,
    chains: int,
    seed: int,
    compile: bool | str,
    max_seconds: float | None,
    warmup: int = WARMUP,
    max_draws: int | None = None,
) -> None:
    """Raise ValueError for arguments of `method` that are out of range."""
    for name, value, least in (
        ("draws", draws, 1),
        ("warmup", warmup, 20),
        ("chains", chains, 1),
        ("seed", seed, 0),
        ("max_draws", draws if max_draws is None else max_draws, draws),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{method}: expected {name} >= {least}, a whole number, got {value!r}")
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"{method}: expected max_seconds > 0, got {max_seconds!r}")
    if compile not in (True, False, "auto"):
        raise ValueError(f"{method}: expected compile to be True, False or 'auto', got {compile!r}")
