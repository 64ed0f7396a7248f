"""The method for those who don't want to choose: as much work as the posterior needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import arviz as az

from bayesprof.inference.chains import WARMUP, check_run
from bayesprof.inference.export import TOGETHER
from bayesprof.inference.fit import Fit
from bayesprof.inference.importance import CHAINS, Spread, importance, importance_result, spread
from bayesprof.inference.lm import check_starts, fitted
from bayesprof.inference.modes import Modes, modes_at
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.randomness import seeds_from
from bayesprof.inference.rto import Straight, straight_draws, straightens
from bayesprof.inference.split_hmc import split_hmc
from bayesprof.threads import one_thread

_PROPOSALS = 1.25  # of the Laplace approximation, for each draw asked for
_FEWEST_PROPOSALS = 1000
# of randomize-then-optimize, to see whether the others are worth their time, and the effective fraction that says so
_FIRST_PROPOSALS, _PROMISING = 100, 0.2
_MORE = 3  # times as many beside those, where they alone aren't trusted


def sample(
    model: Callable[..., Any] | Posterior,
    *args: Any,
    init: Fit | Mapping[str, Any] | None = None,
    draws: int = 1000,
    warmup: int | None = None,
    chains: int = 8,
    starts: int | str = "auto",
    seed: int = 0,
    progress: bool = True,
    compile: bool | str = "auto",
    checkpoint: str | Path | None = None,
    max_draws: int | None = None,
    max_seconds: float | None = None,
    **kwargs: Any,
) -> az.InferenceData:
    """Sample the posterior of `model` by the cheapest method that its diagnostics allow.

    First the Laplace approximation with importance sampling, as in :func:`laplace`: a second's work where the posterior
    is close to a Gaussian. Where k-hat, of the weights or of a parameter's spread, or the effective number of draws
    say that it isn't, randomize-then-optimize (:func:`rto`), with the same tests, for posteriors of residuals and few
    parameters, which may bend; then :func:`split_hmc`, from the same fit, extended until its verdict is "ok" or the
    budget is spent. ``attrs["method"]`` tells which it was, and ``attrs["choice"]`` why.

    Parameters
    ----------
    model : callable or Posterior
        Any Pyro model with continuous latent sites, or the Posterior of it. `args` and `kwargs` are the model's.
    init : Fit or mapping, optional
        A fit, whose maximum and Hessian are used; or values to start :func:`lm` from; None starts it from the model.
    draws : int
        Draws in all, a multiple of 4 and of `chains`.
    warmup, chains : int
        Warm-up and chains of the sampler, where it comes to that.
    starts : int or "auto"
        Starts of the fit, as in :func:`lm`, that of `init` among them. Both methods go to all maxima that they lead to;
        another goes unseen.
    seed : int
        Same seed, same draws, on any number of cores.
    progress : bool
        Show progress bars.
    compile, checkpoint :
        As in :func:`nuts`; the checkpoint is of the sampler.
    max_draws : int, optional
        Most draws per chain of the sampler; ten times ``draws / chains`` where None.
    max_seconds : float, optional
        Time after which the sampler isn't extended any more.

    Returns
    -------
    arviz.InferenceData
        That of :func:`laplace`, of :func:`rto` or of :func:`split_hmc`.

    Raises
    ------
    ValueError, TypeError
        For arguments out of range, and for models that :class:`Posterior` refuses.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> def model():
    ...     mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    ...     pyro.sample("data", dist.Normal(mean, 1.0).expand([4]).to_event(1), obs=torch.tensor([1.0, 2.0, 3.0, 4.0]))
    >>> post = sample(model, progress=False)
    >>> post.attrs["verdict"], post.attrs["method"]
    ('ok', 'Laplace')
    """
    check_run(
        "sample", draws=draws, chains=chains, seed=seed, compile=compile, max_seconds=max_seconds,
        warmup=WARMUP if warmup is None else warmup,
    )  # fmt: skip
    check_starts("sample", starts)
    if draws % CHAINS or draws % chains:
        raise ValueError(
            f"sample: expected draws, their number in all, to be a multiple of {CHAINS} and of chains={chains}, got "
            f"{draws}"
        )
    posterior = model if isinstance(model, Posterior) else Posterior(model, *args, seed=seed, **kwargs)
    proposals = max(_FEWEST_PROPOSALS, math.ceil(_PROPOSALS * draws))
    with one_thread():
        fit = fitted(posterior, init, seed, starts=starts, compile=compile is True)
        refused = f"the fit failed: {fit.message}"
        if fit.converged:
            modes = modes_at(posterior, fit)
            proposed = modes.proposals(proposals, seed)
            if compile is True:
                posterior.prepare("pointwise", batch=TOGETHER, calls=1, compile=True)
                posterior.prepare("predicted", batch=posterior.most_together, calls=1, compile=True)
            weighted = importance(posterior, *proposed, progress=progress, compile=compile)
            widths = spread(posterior, weighted)
            found = (
                f"the Laplace approximation has k-hat {weighted.k_hat:.2f} and {weighted.ess:.0f} effective draws, "
                f"{widths.k_hat:.2f} for the spread of {widths.widest} and {widths.ess:.0f} for that of {widths.fewest}"
            )
            if weighted.trusted and widths.trusted(proposals):
                attrs = {
                    "method": "Laplace",
                    "choice": found,
                    "fit": fit.message,
                    "log_evidence_laplace": modes.log_evidence,
                }
                return importance_result(posterior, weighted, draws=draws, seed=seed, attrs=attrs, widths=widths)
            refused = found
            if straightens(posterior):
                result, told = _straightened(modes, draws, proposals, seed, progress)
                refused = f"{found}; {told}"
                if result is not None:
                    for group in _groups(result):
                        group.attrs.update({"choice": refused, "fit": fit.message})
                    return result
    each = draws // chains
    result = split_hmc(
        posterior, init=fit, draws=each, warmup=warmup, chains=chains, seed=seed, progress=progress, compile=compile,
        checkpoint=checkpoint, max_draws=10 * each if max_draws is None else max_draws, max_seconds=max_seconds,
    )  # fmt: skip
    for group in _groups(result):
        group.attrs["choice"] = refused
    return result


def _groups(result: az.InferenceData) -> list[Any]:
    """Whatever of it has attrs."""
    return [result, *(result[name] for name in result.groups())]


def _straightened(
    modes: Modes, draws: int, proposals: int, seed: int, progress: bool
) -> tuple[az.InferenceData | None, str]:
    """The result of randomize-then-optimize, None where it isn't to be trusted, and what is to be said of it."""
    first = straight_draws(modes, _FIRST_PROPOSALS, seed)
    if first.failure or first.weighted.ess < _PROMISING * _FIRST_PROPOSALS:
        return None, (
            f"randomize-then-optimize has {first.weighted.ess:.0f} effective draws of {_FIRST_PROPOSALS}, and "
            f"{100 * first.unsolved:.2g}% of its equations no solution"
        )
    found = straight_draws(modes, proposals, seed, progress=progress)
    widths = spread(modes.posterior, found.weighted)
    if not _trusted(found, widths):  # the same costs a sampler much more
        more = straight_draws(modes, _MORE * proposals, *seeds_from(seed, 1), progress=progress)
        found = found.joined(more)
        widths = spread(modes.posterior, found.weighted)
    weighted = found.weighted
    told = (
        f"randomize-then-optimize has k-hat {weighted.k_hat:.2f} and {weighted.ess:.0f} effective draws, "
        f"{widths.k_hat:.2f} for the spread of {widths.widest} and {widths.ess:.0f} for that of {widths.fewest}"
    )
    if not _trusted(found, widths):
        return None, told
    attrs = {"method": "RTO", "unsolved": found.unsolved}
    return importance_result(modes.posterior, weighted, draws=draws, seed=seed, attrs=attrs, widths=widths), told


def _trusted(found: Straight, widths: Spread) -> bool:
    return found.failure is None and found.weighted.trusted and widths.trusted(len(found.log_proposal))
