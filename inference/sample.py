"""The method for those who don't want to choose: as much work as the posterior needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import arviz as az

from bayesprof.inference.approximations import Approximation, laplaces, straightening
from bayesprof.inference.chains import WARMUP, check_run
from bayesprof.inference.export import TOGETHER
from bayesprof.inference.fit import Fit
from bayesprof.inference.importance import CHAINS, Spread, Weighted, importance_result, spread
from bayesprof.inference.lm import check_starts, fitted
from bayesprof.inference.modes import Modes, modes_at
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.randomness import seeds_from
from bayesprof.inference.split_hmc import split_hmc
from bayesprof.inference.verdict import ESS
from bayesprof.threads import one_thread

_PROPOSALS = 1.25  # of an approximation, for each draw asked for
_FEWEST_PROPOSALS = 1000
_PLENTY = 0.7  # fraction of them, that is effective for widths where so many are enough
_MORE = 3  # times as many beside them where they aren't
# of randomize-then-optimize, to see whether the others are worth their time, and the effective fraction that says so
_FIRST_PROPOSALS, _PROMISING = 100, 0.2


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
    is close to a Gaussian. Where k-hat or the effective number of draws, of the weights or of a parameter's spread, say
    that it isn't, the same to second order, along curves; then randomize-then-optimize (:func:`rto`), for posteriors
    of residuals, which may bend more; then :func:`split_hmc`, from the same fit, extended until its verdict is "ok" or
    the budget is spent. The second and third are for few parameters. ``attrs["method"]`` tells which it was, and
    ``attrs["choice"]`` why.

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
        choice = f"the fit failed: {fit.message}"
        if fit.converged:
            if compile is True:
                posterior.prepare("pointwise", batch=TOGETHER, calls=1, compile=True)
                posterior.prepare("predicted", batch=posterior.most_together, calls=1, compile=True)
            modes = modes_at(posterior, fit)
            found, choice = _independent(modes, proposals, seed, progress, compile)
            if found is not None:
                attrs = {
                    "method": found.by.method,
                    "choice": choice,
                    "fit": fit.message,
                    **found.by.facts(found.weighted),
                }
                return importance_result(
                    posterior, found.weighted, draws=draws, seed=seed, attrs=attrs, widths=found.widths
                )
    each = draws // chains
    result = split_hmc(
        posterior, init=fit, draws=each, warmup=warmup, chains=chains, seed=seed, progress=progress, compile=compile,
        checkpoint=checkpoint, max_draws=10 * each if max_draws is None else max_draws, max_seconds=max_seconds,
    )  # fmt: skip
    for group in _groups(result):
        group.attrs["choice"] = choice
    return result


def _groups(result: az.InferenceData) -> list[Any]:
    """Whatever of it has attrs."""
    return [result, *(result[name] for name in result.groups())]


class _Found(NamedTuple):
    """Draws `by` an approximation, `weighted` towards the posterior, and how well their `widths` are known."""

    by: Approximation
    weighted: Weighted
    widths: Spread

    @classmethod
    def of(cls, by: Approximation, weighted: Weighted) -> _Found:
        return cls(by, weighted, spread(by.posterior, weighted))

    @property
    def efficient(self) -> bool:
        """Whether these draws are so close to the posterior that more of them may do, where they don't."""
        return self.by.failure(self.weighted) is None and self.widths.ess >= self.by.efficient * len(self.weighted.z)

    @property
    def plenty(self) -> bool:
        """Whether so many are effective that a tail which none of them has met is unlikely."""
        return self.widths.ess >= _PLENTY * len(self.weighted.z)

    @property
    def trusted(self) -> bool:
        return self.efficient and self.weighted.trusted and self.widths.trusted(len(self.weighted.z))

    @property
    def told(self) -> str:
        weighted, widths = self.weighted, self.widths
        return (
            f"{self.by.name} has k-hat {weighted.k_hat:.2f} and {weighted.ess:.0f} effective draws of "
            f"{len(weighted.z)}, {widths.k_hat:.2f} for the spread of {widths.widest} and {widths.ess:.0f} for that of "
            f"{widths.fewest} (wanted: {max(ESS, self.by.efficient * len(weighted.z)):.0f})"
        )

    def extended(self, seed: int) -> _Found:
        """With several times as many draws, with which a k-hat is known better."""
        more = self.by.draw(_MORE * len(self.weighted.z), seed)
        return _Found.of(self.by, self.weighted.joined(more))


def _independent(
    modes: Modes, proposals: int, seed: int, progress: bool, compile: bool | str
) -> tuple[_Found | None, str]:
    """Independent draws from the cheapest approximation that is to be trusted, and what is to be said of all."""
    tried: list[_Found] = []

    def told(*more: str) -> str:
        return "; ".join([*(found.told for found in tried), *more])

    for one in laplaces(modes, progress=progress, compile=compile):
        tried.append(_Found.of(one, one.draw(proposals, seed)))
        if tried[-1].trusted and tried[-1].plenty:
            return tried[-1], told()
    best = max(tried, key=lambda found: found.widths.ess)
    if best.trusted:
        tried.append(best.extended(*seeds_from(seed, 1)))
        if tried[-1].trusted:
            return tried[-1], told()
    dear = straightening(modes, progress=progress)
    if dear is None:
        return None, told()
    first = dear.draw(_FIRST_PROPOSALS, seed)
    if dear.failure(first) or first.ess < _PROMISING * _FIRST_PROPOSALS:
        unpromising = dear.failure(first) or f"{first.ess:.0f} effective draws of {_FIRST_PROPOSALS}"
        return None, told(f"{dear.name}: {unpromising}")
    tried.append(_Found.of(dear, dear.draw(proposals, seed)))
    if tried[-1].efficient and not tried[-1].trusted:  # the same would cost a sampler much more
        tried.append(tried[-1].extended(*seeds_from(seed, 1)))
    return tried[-1] if tried[-1].trusted else None, told()
