"""Runs of Markov chains: warm-up, draws, extension, interruption, checkpoints, export. The same for every kernel.

Everything random is derived from the seed and the number of the transition, and all that a transition needs is in the
state: a run that was stopped goes on to the draws it would have had.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
from bayesprof.inference.lm import lm
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.threads import one_thread
from bayesprof.inference.whitening import Whitened

WARMUP = 100
_DISPERSION = 1.5  # chains start at this many standard deviations of the Laplace approximation
_LEARN_FROM, _LEARN_AT = 0.2, 0.6  # the part of warm-up whose draws refine the mass matrix
_PRIOR_DRAWS_PER_DIMENSION = 10  # what the Hessian counts for in it
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
        run = _Run(kernel, posterior, options)
        try:
            complete = run.go()
        finally:
            run.close()
    return run.result(complete)


@dataclass
class _Run:
    kernel: Kernel
    posterior: Posterior
    options: Options
    step: int = 0  # transitions made
    recorded: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        options = self.options
        self.warmup = WARMUP if options.warmup is None else options.warmup
        self.began = time.monotonic()
        self.checkpoint = None
        saved = None
        if options.checkpoint is not None:
            self.checkpoint = Checkpoint(options.checkpoint, self._identity())
            saved = self.checkpoint.load()
        chains = options.chains
        calls = int(self.kernel.gradients * (options.draws + self.warmup))
        self.posterior.prepare("value_and_grad", batch=chains, calls=calls, compile=options.compile)
        if saved is not None:
            self._restore(*saved)
            return
        fit = (
            options.init if isinstance(options.init, Fit) else lm(self.posterior, init=options.init, seed=options.seed)
        )
        self.message = fit.message
        self.whitened = Whitened(self.posterior, fit.z, torch.linalg.cholesky(fit.hessian))
        self.state = _dispersed(self.whitened, chains, options.seed)
        self.adaptation = _adaptation(torch.full((chains,), self.kernel.first_step(self.posterior.size)))
        self.step_size = torch.exp(self.adaptation.prox_center)

    # -- running

    def go(self) -> bool:
        """Warm up and draw; False where the run was interrupted."""
        options = self.options
        goal = self.warmup + options.draws
        bar = tqdm(total=goal, initial=self.step, disable=not options.progress, desc=self.kernel.name, unit="draw")
        try:
            while True:
                while self.step < goal:
                    for _ in range(min(_BLOCK, goal - self.step)):
                        self._advance()
                        bar.update()
                    bar.set_postfix(self._outlook(), refresh=False)
                    self._save_when_due()
                goal = self._extended(goal)
                if self.step >= goal:
                    return True
                bar.total = goal
        except KeyboardInterrupt:
            if self._drawn() < 4:
                raise
            return False
        finally:
            bar.close()
            self._save()

    def _advance(self) -> None:
        """One transition of all chains. Nothing is changed before the transition is whole."""
        warming = self.step < self.warmup
        seed = int(np.random.SeedSequence([self.options.seed, self.step]).generate_state(1)[0])
        state, stats = self.kernel.transition(self.whitened, self.state, self.step_size, seed)
        entry = {name: value.cpu().numpy() for name, value in stats.items()}
        entry |= {"lp": -state.potential.cpu().numpy(), "step_size": self.step_size.cpu().numpy().copy()}
        entry["position"] = state.position.cpu().numpy()
        self.state = state
        for name, value in entry.items():
            self.recorded.setdefault(name, []).append(value)
        self.step += 1
        if warming:
            self._adapt(stats["acceptance_rate"])

    def _adapt(self, acceptance: Tensor) -> None:
        missing = self.kernel.target_acceptance - acceptance.to(torch.float64).cpu()
        at_most = self.step_size >= self.kernel.largest_step  # where a longer step would change nothing
        self.adaptation.step(torch.where(at_most, missing.clamp(min=0.0), missing))
        now, averaged = self.adaptation.get_state()
        self.step_size = torch.exp(averaged if self.step == self.warmup else now)
        first, last = int(_LEARN_FROM * self.warmup), int(_LEARN_AT * self.warmup)
        if self.step == last and last - first >= 10:
            seen = torch.as_tensor(np.stack(self.recorded["position"][first:last], axis=1)).to(self.state.position)
            learned = self.whitened.learned(seen, prior_draws=_PRIOR_DRAWS_PER_DIMENSION * self.posterior.size)
            position = learned.whiten(self.whitened.unwhiten(self.state.position))
            self.whitened, self.state = learned, State(position, *learned.potential(position))
        if self.step == self.warmup:
            self.recorded = {}

    def _extended(self, goal: int) -> int:
        """The number of transitions to make in all, now that `goal` are made."""
        options = self.options
        most = options.max_draws
        if most is None and options.max_seconds is None:
            return goal
        if options.max_seconds is not None and time.monotonic() - self.began > options.max_seconds:
            return goal
        if quick_verdict(self.posterior, self._z(), self._stats(), self.kernel.target_acceptance).ok:
            return goal
        more = goal + options.draws
        return more if most is None else min(more, self.warmup + most)

    # -- what has been drawn

    def _drawn(self) -> int:
        return max(0, self.step - self.warmup)

    def _arrays(self) -> dict[str, np.ndarray]:
        return {name: np.stack(values, axis=1) for name, values in self.recorded.items()}

    def _z(self) -> Tensor:
        position = torch.as_tensor(self._arrays()["position"]).to(self.state.position)
        return self.whitened.unwhiten(position)

    def _stats(self) -> dict[str, np.ndarray]:
        stats = self._arrays()
        del stats["position"]
        return {name: value.astype(int) if name in _WHOLE else value for name, value in stats.items()}

    def result(self, complete: bool) -> az.InferenceData:
        incomplete = f"incomplete, interrupted after {self._drawn()} of {self.options.draws} draws: take it up again"
        attrs = {
            "method": self.kernel.name,
            "warmup": self.warmup,
            "fit": self.message,
            "complete": int(complete),
            "sampling_time": time.monotonic() - self.began,
        }
        return to_inference_data(
            self.posterior,
            self._z(),
            sample_stats=self._stats(),
            seed=self.options.seed,
            target_acceptance=self.kernel.target_acceptance,
            attrs=attrs,
            failure=None if complete else incomplete,
        )

    def _outlook(self) -> dict[str, str]:
        rates = self.recorded.get("acceptance_rate", [])
        return {"acceptance": f"{np.mean(rates):.2f}"} if rates and self.step > self.warmup else {"warming": "up"}

    # -- checkpoints

    def _identity(self) -> dict[str, Any]:
        options, posterior = self.options, self.posterior
        kernel = self.kernel._asdict()  # type: ignore[attr-defined]
        return {
            "kernel": {"name": self.kernel.name, **kernel},
            "seed": options.seed,
            "chains": options.chains,
            "warmup": self.warmup,
            "sites": [site.name for site in posterior.sites],
            "data": posterior.fingerprint,
        }

    def _save_when_due(self) -> None:
        if self.checkpoint is not None and self.checkpoint.due():
            self._save()

    def _save(self) -> None:
        if self.checkpoint is None or self.step == 0:
            return
        adaptation = self.adaptation
        state = {
            "step": self.step,
            "message": self.message,
            "centre": self.whitened.centre.cpu().numpy(),
            "factor": self.whitened.factor.cpu().numpy(),
            "step_size": self.step_size.numpy(),
            "adaptation": {name: _as_array(value) for name, value in vars(adaptation).items()},
            **{name: value.cpu().numpy() for name, value in self.state._asdict().items()},
        }
        self.checkpoint.save(state, self._arrays())

    def _restore(self, state: dict[str, Any], draws: dict[str, np.ndarray]) -> None:
        device = self.posterior.device

        def tensor(name: str) -> Tensor:
            return torch.as_tensor(state[name], device=device)

        self.step, self.message = state["step"], state["message"]
        self.whitened = Whitened(self.posterior, tensor("centre"), tensor("factor"))
        self.state = State(*(tensor(name) for name in State._fields))
        self.step_size = torch.as_tensor(state["step_size"])
        self.adaptation = DualAveraging()
        for name, value in state["adaptation"].items():
            setattr(self.adaptation, name, torch.as_tensor(value) if isinstance(value, np.ndarray) else value)
        self.recorded = {name: list(np.moveaxis(values, 1, 0)) for name, values in draws.items()}

    def close(self) -> None:
        if self.checkpoint is not None:
            self.checkpoint.close()


_WHOLE = ("n_steps", "tree_depth")


def _as_array(value: Any) -> Any:
    return value.numpy() if isinstance(value, Tensor) else value


def _adaptation(first: Tensor) -> DualAveraging:
    """Dual averaging of the logarithms of step sizes, one per chain, about `first` (Hoffman & Gelman 2014)."""
    return DualAveraging(prox_center=torch.log(first.to(torch.float64)))


def _dispersed(whitened: Whitened, chains: int, seed: int) -> State:
    """Starts around the centre, drawn nearer where the density isn't finite or far below that of a Gaussian."""
    generator = torch.Generator().manual_seed(seed)
    size = len(whitened.centre)
    position = _DISPERSION * torch.randn(chains, size, generator=generator, dtype=torch.float64).to(whitened.centre)
    for _ in range(12):
        potential, gradient = whitened.potential(position)
        lowest, _ = whitened.potential(torch.zeros_like(position))
        far = ~(potential < lowest + 5 * size + 50)
        if not bool(far.any()):
            break
        position = torch.where(far[:, None], 0.5 * position, position)
    return State(position, potential, gradient)


def _check(method: str, kernel: Kernel, options: Options) -> None:
    check_run(
        method, draws=options.draws, chains=options.chains, seed=options.seed, compile=options.compile,
        max_seconds=options.max_seconds, warmup=WARMUP if options.warmup is None else options.warmup,
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
