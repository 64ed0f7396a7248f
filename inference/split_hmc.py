"""Split Hamiltonian Monte Carlo: many chains in one batch, the Gaussian part of the posterior followed exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import arviz as az

from bayesprof.inference.chains import Options, sample_chains
from bayesprof.inference.fit import Fit
from bayesprof.inference.kernels import SplitHMC
from bayesprof.inference.posterior import Posterior


def split_hmc(
    model: Callable[..., Any] | Posterior,
    *args: Any,
    init: Fit | Mapping[str, Any] | None = None,
    draws: int = 1000,
    warmup: int | None = None,
    chains: int = 8,
    seed: int = 0,
    progress: bool = True,
    target_acceptance: float = 0.9,
    compile: bool | str = "auto",
    checkpoint: str | Path | None = None,
    max_draws: int | None = None,
    max_seconds: float | None = None,
    **kwargs: Any,
) -> az.InferenceData:
    """Sample the posterior of `model` with split HMC (Shahbaba et al. 2014).

    In coordinates whitened by the Hessian, the Gaussian part of the posterior is followed exactly and only the
    remainder by steps. Where the remainder is small, as for most bright galaxies, one gradient makes a nearly
    independent draw; where it is large, steps shrink until acceptance is as aimed at, and it is no worse than HMC.
    Trajectories are a quarter turn, varied by 10%. Chains are evaluated as one batch: more of them cost less each.

    Parameters, result and errors are those of :func:`nuts`; `chains` is 8 by default.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> def model():
    ...     mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    ...     pyro.sample("data", dist.Normal(mean, 1.0).expand([4]).to_event(1), obs=torch.tensor([1.0, 2.0, 3.0, 4.0]))
    >>> post = split_hmc(model, draws=200, progress=False)
    >>> post.attrs["verdict"]
    'ok'
    """
    options = Options(
        init=init, draws=draws, warmup=warmup, chains=chains, seed=seed, progress=progress, compile=compile,
        checkpoint=checkpoint, max_draws=max_draws, max_seconds=max_seconds,
    )  # fmt: skip
    return sample_chains("split_hmc", SplitHMC(target_acceptance), model, args, kwargs, options)
