"""Pareto-smoothed importance sampling: what draws from an approximation say about the posterior, and whether to
believe them.

The largest weights are replaced by quantiles of a generalised Pareto distribution fitted to them, whose shape k-hat
says how far the approximation can be trusted (Vehtari, Simpson, Gelman, Yao & Gabry 2024, JMLR 25, 72). What holds of
the weights alone needn't hold of an expectation under them: a standard deviation depends on weights times squared
distances, whose tail is heavier. So that tail is fitted as well (:func:`spread`). Weights know only where the
approximation has drawn: k-hat can't tell of a mode that no draw has reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import arviz as az
import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bayesprof.inference.export import to_inference_data
from bayesprof.inference.fit import entry_labels
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.verdict import ESS, k_hat_limit

CHAINS = 4
"""Chains that independent draws are laid out in, for ArviZ to have some to compare."""
_TOGETHER = 64  # draws between two moves of the progress bar
_GIVEN = ("z", "log_density", "log_proposal")
_EQUAL = 1e-6  # log weights within this range of each other differ by rounding, and have no tail to fit


class Weighted(NamedTuple):
    """Draws from an approximation, weighted towards the posterior.

    z : Tensor, shape (S, D)
    log_density : Tensor, shape (S,)
        Log of the unnormalised posterior density.
    log_weights : Tensor, shape (S,)
        Pareto-smoothed; their exponentials sum to 1. Minus infinity where the density isn't finite.
    k_hat : float
        Shape of the Pareto distribution of the largest weights; 0 where all are equal, infinite where too few draws
        have a density.
    ess : float
        Effective number of independent draws, 1 / sum of the squared weights (Kong 1992).
    log_evidence, error : float
        Log of the mean smoothed weight, which estimates the marginal likelihood, and its standard error.
    log_proposal : Tensor, shape (S,)
        Log density of the approximation; infinite for a draw without a weight.
    """

    z: Tensor
    log_density: Tensor
    log_weights: Tensor
    k_hat: float
    ess: float
    log_evidence: float
    error: float
    log_proposal: Tensor

    @property
    def trusted(self) -> bool:
        """Whether the weights' k-hat and the effective number of draws are what the verdict asks for."""
        return self.k_hat < k_hat_limit(len(self.z)) and self.ess >= ESS

    def joined(self, other: Weighted) -> Weighted:
        """With further draws from the same approximation."""
        return weigh(*(torch.cat([getattr(one, name) for one in (self, other)]) for name in _GIVEN))


def importance(
    posterior: Posterior, z: Tensor, log_proposal: Tensor, *, progress: bool = False, compile: bool | str = "auto"
) -> Weighted:
    """Weights of independent draws `z` (S, D) of an approximation, whose log density there is `log_proposal` (S,).
    `compile` is that of :meth:`Posterior.prepare`.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> def model():
    ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    ...     pyro.sample("data", dist.Normal(mean, 1.0), obs=torch.tensor(2.0))
    >>> wide = dist.Normal(torch.tensor(1.0, dtype=torch.float64), 1.0)
    >>> z = wide.sample((1000, 1))
    >>> weighted = importance(Posterior(model), z, wide.log_prob(z[:, 0]))
    >>> weighted.k_hat < 0.5, weighted.ess > 800
    (True, True)
    """
    posterior.prepare("log_density", batch=_TOGETHER, calls=-(-len(z) // _TOGETHER), compile=compile)
    parts = []
    with tqdm(total=len(z), disable=not progress, desc="weights", unit="draw") as bar:
        for batch in z.split(_TOGETHER):
            parts.append(posterior.log_density(batch))
            bar.update(len(batch))
    return weigh(z, torch.cat(parts), log_proposal)


def weigh(z: Tensor, log_density: Tensor, log_proposal: Tensor) -> Weighted:
    """As :func:`importance`, for a posterior density (S,) that is known already."""
    ratio = (log_density - log_proposal).double()
    raw = torch.where(ratio.isfinite(), ratio, -torch.inf).cpu().numpy()
    count = len(raw)
    if not np.isfinite(raw).any():
        return Weighted(
            z, log_density, torch.full_like(ratio, -np.log(count)), np.inf, 0.0, -np.inf, np.nan, log_proposal
        )
    if np.ptp(raw) < _EQUAL:
        smoothed, k_hat = raw, 0.0
    else:
        with np.errstate(over="ignore"):  # in the fit of a tail with a few huge weights, where infinity is right
            smoothed, k_hat = az.psislw(raw.copy(), normalize=False)
    log_sum = float(np.logaddexp.reduce(smoothed))
    log_weights = smoothed - log_sum
    ess = float(1 / np.exp(2 * log_weights).sum())
    error = float(np.sqrt(max(1 / ess - 1 / count, 0.0)))
    normalised = torch.from_numpy(log_weights).to(ratio)
    return Weighted(z, log_density, normalised, float(k_hat), ess, log_sum - float(np.log(count)), error, log_proposal)


class Spread(NamedTuple):
    """How far the widths of a posterior can be trusted, by the squared distances of its entries from their means.

    k_hat : float
        Largest k-hat of the weights times those squares, and the entry `widest` that it is of; of an entry as it is, or
        of its transform to the real line, whichever is smaller: a log-normal parameter's squares have a tail of their
        own, as has the logarithm of one whose posterior ends at 0, however they were drawn.
    ess : float
        Smallest effective number of draws of their mean, of entries as they are, and the entry `fewest` that it is of.
    """

    k_hat: float
    widest: str
    ess: float
    fewest: str

    def trusted(self, proposals: int) -> bool:
        """Whether they are what the verdict asks for, of so many proposals."""
        return self.k_hat < k_hat_limit(proposals) and self.ess >= ESS


def spread(posterior: Posterior, weighted: Weighted) -> Spread:
    """How well weighted draws know the standard deviations of all entries of latent sites.

    With weights w that sum to 1, squares h and their mean V, the effective number of draws is
    sum w (h - V)^2 / sum w^2 (h - V)^2.
    """
    finite = weighted.log_weights.isfinite()
    z, log_weights = weighted.z[finite], weighted.log_weights[finite].cpu().numpy()
    weights = np.exp(log_weights)[:, None]
    k_hats, sizes = [(-np.inf, "")], [(np.inf, "")]
    values = posterior.constrain(z)
    for site in posterior.sites:
        squares = _squares(values[site.name], weights)
        offsets = squares - (weights * squares).sum(0)
        with np.errstate(invalid="ignore"):
            effective = (weights * offsets**2).sum(0) / (weights**2 * offsets**2).sum(0)
        on_the_line = _squares(z[:, site.place], weights)
        for index, label in enumerate(entry_labels(site.name, tuple(site.shape))):
            square = squares[:, index]
            if np.ptp(square) == 0:
                continue
            sizes.append((float(np.nan_to_num(effective[index], nan=0.0)), label))
            k_hat = _k_hat(log_weights, square)
            if site.shape == site.unconstrained_shape:
                k_hat = min(k_hat, _k_hat(log_weights, on_the_line[:, index]))
            k_hats.append((k_hat, label))
    return Spread(*max(k_hats), *min(sizes))


def _k_hat(log_weights: np.ndarray, squares: np.ndarray) -> float:
    """Of weights times `squares` (S,)."""
    with np.errstate(all="ignore"):  # tails with a few huge values
        _, k_hat = az.psislw(log_weights + np.log(squares.clip(min=1e-300)), normalize=False)
    return float(np.nan_to_num(k_hat, nan=np.inf))


def _squares(values: Tensor, weights: np.ndarray) -> np.ndarray:
    """Squared distances of the entries of `values` (S, ...) from their weighted means, (S, entries)."""
    entries = values.reshape(len(values), -1).cpu().numpy()
    return np.asarray((entries - (weights * entries).sum(0)) ** 2)


def resampled(weighted: Weighted, draws: int, generator: np.random.Generator) -> tuple[np.ndarray, float]:
    """Indices of `draws` unweighted draws, in random order, and how many independent ones they are worth.

    Systematic resampling (Kitagawa 1996, JCGS 5, 1) of the draws in random order: one of weight w is taken
    floor(draws w) or ceil(draws w) times, so none comes twice that doesn't carry more than 1/draws of the weight. With
    f the fractional part of draws w, it adds sum f (1 - f) / draws^2 to the relative variance 1/ESS of the weights.
    """
    weights = np.exp(weighted.log_weights.cpu().numpy())
    taken = generator.permutation(systematic(weights, draws, generator))
    fraction = (draws * weights) % 1.0
    variance = np.square(weights).sum() + (fraction * (1 - fraction)).sum() / draws**2
    return taken, 0.0 if weighted.ess == 0 else float(1 / variance)


def systematic(weights: np.ndarray, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Indices of `draws` systematic draws from `weights` (S,), which needn't sum to 1."""
    order = generator.permutation(len(weights))
    edges = np.cumsum(weights[order])
    points = (np.arange(draws) + generator.random()) / draws * edges[-1]
    return order[np.searchsorted(edges, points, side="right").clip(max=len(order) - 1)]


def check_draws(method: str, draws: Any, proposals: Any) -> int:
    """Number of proposals for `draws` draws: `proposals`, or twice as many where None, and 2,000 at least."""
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < CHAINS or draws % CHAINS:
        raise ValueError(
            f"{method}: expected draws, their number in all, to be a multiple of {CHAINS} (they are laid out in "
            f"{CHAINS} chains), got {draws!r}"
        )
    if proposals is None:
        return max(2 * draws, 2000)
    if isinstance(proposals, bool) or not isinstance(proposals, int) or proposals < max(draws, 100):
        raise ValueError(
            f"{method}: expected proposals to be a whole number, 100 or more and no fewer than the {draws} draws taken "
            f"from them, got {proposals!r}"
        )
    return proposals


def importance_result(
    posterior: Posterior,
    weighted: Weighted,
    *,
    draws: int,
    seed: int,
    attrs: Mapping[str, Any],
    widths: Spread | None = None,
    traces: Mapping[str, np.ndarray] | None = None,
    failure: str | None = None,
) -> az.InferenceData:
    """InferenceData of `draws` draws resampled from weighted ones, laid out in 4 chains. `widths` : their
    :func:`spread`, where it is known already; `failure` : as of :func:`to_inference_data`.

    Its sample_stats: the log density (lp), the index of the proposal that each draw is (proposal), and that proposal's
    smoothed log weight, 0 for the average one (log_weight). Draws that are the same proposal make the effective sample
    sizes that ArviZ computes too large. Honest ones are in attrs: ``importance_ess`` of the weights and
    ``resampled_ess`` of the draws kept, beside ``k_hat``, ``proposals``, ``log_evidence`` and ``log_evidence_error``;
    of the :func:`spread`, ``spread_k_hat`` and ``spread_ess``, and ``spread_widest`` and ``spread_fewest`` that they
    are of.
    """
    widths = widths or spread(posterior, weighted)
    index, resampled_ess = resampled(weighted, draws, np.random.default_rng(seed))
    index = index.reshape(CHAINS, -1)
    z, log_density, log_weights = (
        value[torch.from_numpy(index).to(value.device)]
        for value in (weighted.z, weighted.log_density, weighted.log_weights)
    )
    stats = {
        "lp": log_density.cpu().numpy(),
        "proposal": index,
        "log_weight": log_weights.cpu().numpy() + np.log(len(weighted.z)),
    }
    facts = {
        "k_hat": weighted.k_hat,
        **{f"spread_{name}": value for name, value in widths._asdict().items()},
        "importance_ess": weighted.ess,
        "resampled_ess": resampled_ess,
        "proposals": len(weighted.z),
        "log_evidence": weighted.log_evidence,
        "log_evidence_error": weighted.error,
    }
    return to_inference_data(
        posterior, z, sample_stats=stats, seed=seed, attrs={**facts, **attrs}, traces=traces, failure=failure
    )
