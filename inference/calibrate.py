"""Simulation-based calibration: whether a method's posteriors mean what they say, for any model.

Parameters drawn from the prior, and data simulated from them, are one draw from the joint distribution; so are the
parameters of a draw from the posterior given those data. The rank of the truth among independent draws from the
posterior is then uniform, for every parameter, whatever the model (Cook, Gelman & Rubin 2006, JCGS 15, 675; Talts
et al. 2018, arXiv:1804.06788). Ranks that aren't show an error in the density, the sampler or the approximation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bayesprof.inference.approximations import approximations
from bayesprof.inference.calibration import JOINT, Calibration
from bayesprof.inference.chains import Options, sample_chains
from bayesprof.inference.checkpoint import Checkpoint
from bayesprof.inference.fit import entry_labels
from bayesprof.inference.importance import resampled
from bayesprof.inference.kernels import SplitHMC
from bayesprof.inference.lm import lm
from bayesprof.inference.modes import modes_at
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.randomness import seeds_from
from bayesprof.inference.tally import Tally
from bayesprof.inference.verdict import k_hat_limit

_METHODS = ("Laplace", "second order", "RTO", "split HMC")
_PROPOSALS = 640  # of a Laplace approximation
_EFFICIENT = 0.6  # effective fraction of them, below which it isn't trusted
_STRAIGHTENED, _STRAIGHT = 320, 0.3  # proposals of randomize-then-optimize, and such a fraction of them
_CHAINS, _WARMUP = 8, 150  # of the sampler, where it isn't trusted
_SAMPLED, _MOST_SAMPLED = 100, 1000  # draws of a chain, extended while fewer are effective in all than are ranked among
_ACCEPTANCE = 0.95  # aimed at: the posteriors that come to it bend, and larger steps diverge
_DIVERGING = 0.01  # of them, above which a fit is flagged
_STARTS = 4  # of a fit of many parameters that didn't converge from the first
_LOST = 8  # standard deviations of the draws' log densities, by which the truth's is above all of them
_BATCH = 64  # draws evaluated together

Outcome = az.InferenceData | Tensor | np.ndarray | tuple[Tensor | np.ndarray, str]
Method = Callable[[Posterior, int], Outcome]
Simulator = Callable[[int], Mapping[str, Tensor]]


def calibrate(
    model: Callable[..., Any] | Posterior,
    *args: Any,
    simulations: int = 128,
    draws: int = 99,
    method: Method | None = None,
    simulate: Simulator | None = None,
    start: str = "model",
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    **kwargs: Any,
) -> Calibration:
    """Check by simulation whether the posteriors of `model` that `method` finds are calibrated.

    Parameters
    ----------
    model : callable or Posterior
        Any Pyro model whose prior and likelihood are all of it, or the Posterior of it. `args` and `kwargs` are the
        model's. The priors of a :class:`bayesprof.Scene` stay those of its own image.
    simulations : int
        Parameters and data drawn, at least 20. Among 128, a width wrong by a third shows in a single parameter;
        among 1,000, by a tenth.
    draws : int
        Nearly independent posterior draws to rank each truth among. More are thinned evenly to as many; a chain
        whose ESS is lower is flagged.
    method : function, optional
        Takes the posterior of one simulation and a seed and returns InferenceData, or unconstrained draws of shape
        (draws, D), independent ones, or (chains, draws, D), or a pair of those and a verdict. By default
        :func:`lm` from several starts and Laplace's approximation, importance-resampled; where k-hat, or effective
        draws fewer than six tenths of the proposals, say that the posterior isn't like that, the one of second order;
        then :func:`rto`, with three tenths; and :func:`split_hmc` where it isn't like that either.
    simulate : function, optional
        Takes a seed and returns a value of every latent and observed site: where the data come from something else
        than the model, to see what that does. By default the model draws both.
    start : "model" or "truth"
        Where the fits of the default method start. "model": without knowing the truth, at the likeliest of 63 draws
        of the prior and the point that the model itself starts from (which a scene measured on its own image, not on
        the simulated one). "truth" is faster, and hides that fits end in the wrong one of several modes.
    seed : int
        Same seed, same ranks.
    progress : bool
        Show a progress bar.
    checkpoint : path, optional
        File that ranks are saved in every few seconds. After a kill, or with a larger number of `simulations`, the
        same call goes on from there.

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError, TypeError
        For arguments out of range, methods that return something else, and models that can't simulate: without
        observed sites, with factors, or with scaled sites; for a checkpoint of another calibration, or of more
        simulations.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> def model():
    ...     mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    ...     pyro.sample("data", dist.Normal(mean, 1.0).expand([4]).to_event(1), obs=torch.zeros(4))
    >>> calibration = calibrate(model, simulations=50, progress=False)
    >>> calibration.verdict
    'ok'
    """
    for name, value, least in (("simulations", simulations, 20), ("draws", draws, 9)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"calibrate: expected {name} >= {least}, a whole number, got {value!r}")
    for name, function in (("method", method), ("simulate", simulate)):
        if function is not None and not callable(function):
            raise TypeError(f"calibrate: expected {name} to be a function, got {type(function).__name__}")
    if start not in ("model", "truth"):
        raise ValueError(f"calibrate: expected start to be 'model' or 'truth', got {start!r}")
    if method is not None and start != "model":
        raise ValueError("calibrate: start is for the default method only; give `method` a start of its own")
    posterior = model if isinstance(model, Posterior) else Posterior(model, *args, seed=seed, **kwargs)
    _check_generative(posterior)
    given, simulate = simulate, simulate or _prior_predictive(posterior)
    prior_seeds = seeds_from(seed + 1, _BATCH - 1)
    starts = torch.stack([posterior.initial(), *(posterior.prior_draw(prior_seed) for prior_seed in prior_seeds)])

    def simulated(simulated_seed: int, fit_seed: int) -> dict[str, Any]:
        """What :meth:`Tally.count` takes of one simulation."""
        values = simulate(simulated_seed)
        replica = posterior.with_data({name: values[name] for name in posterior.observed})
        truth = {site.name: values[site.name] for site in posterior.sites}
        try:
            if method is not None:
                outcome = method(replica, fit_seed)
            else:
                init = truth if start == "truth" else _best_of(starts, replica)
                outcome = _laplace_or_sampled(replica, fit_seed, draws, init)
        except (ArithmeticError, np.linalg.LinAlgError, torch.linalg.LinAlgError) as error:
            return {"ranks": None, "missing": f"{type(error).__name__}: {error}"}
        kept, verdict = _independent(outcome, replica, draws)
        if not bool(kept.isfinite().all()):
            return {"ranks": None, "missing": "draws that aren't finite"}
        densities = torch.cat([replica.log_density(batch) for batch in kept.split(_BATCH)]).cpu().numpy()
        true_density = float(replica.log_density(replica.unconstrain(truth)))
        return {
            "ranks": _ranks(replica, truth, kept, (densities, true_density), fit_seed),
            "flagged": None if verdict == "ok" else verdict,
            "lost": bool(true_density - densities.max() > _LOST * densities.std()),
        }

    identity = {
        "method": "calibrate", "by": _name(method), "simulate": _name(given), "start": start, "seed": seed,
        "draws": draws, "model": posterior.fingerprint,
        "default": None if method is not None
        else [*_METHODS, _PROPOSALS, _EFFICIENT, _STRAIGHTENED, _STRAIGHT, _CHAINS, _WARMUP, _SAMPLED, _ACCEPTANCE,
              _STARTS],
    }  # fmt: skip
    with nullcontext() if checkpoint is None else Checkpoint(checkpoint, identity) as saved:
        tally = Tally(saved)
        if tally.done > simulations:
            raise ValueError(
                f"calibrate: expected simulations >= {tally.done}, as many as '{checkpoint}' holds, got {simulations}"
            )
        seeds = seeds_from(seed, 2 * simulations)
        pairs = list(zip(seeds[::2], seeds[1::2], strict=True))
        bar = tqdm(
            pairs[tally.done :], initial=tally.done, total=simulations, disable=not progress, desc="SBC", unit="fit"
        )
        try:
            for pair in bar:
                tally.count(**simulated(*pair))
        finally:
            tally.save()
    if not tally.ranks:
        raise ValueError(
            f"calibrate: expected draws from the fits, got none from all {simulations}: {dict(tally.missing)}"
        )
    return Calibration(tally.columns(), draws, simulations, dict(tally.flagged), dict(tally.missing), tally.lost)


def _name(function: Callable[..., Any] | None) -> str | None:
    return None if function is None else getattr(function, "__qualname__", type(function).__qualname__)


def _check_generative(posterior: Posterior) -> None:
    if not posterior.observed:
        raise ValueError("calibrate: expected a model with an observed site to simulate, got none")
    if posterior.factors:
        raise ValueError(
            f"calibrate: expected a model that can simulate its data, got one with the factors "
            f"{list(posterior.factors)}; write them as distributions of observed sites, or take them out"
        )
    nodes = posterior.observed_nodes(posterior.prior_draw(0))
    scaled = [name for name, node in nodes.items() if float(node["scale"]) != 1]
    if scaled:
        raise ValueError(
            f"calibrate: expected observed sites that count once, got a scale at {scaled}, whose posterior isn't that "
            "of simulated data; take out poutine.scale, or the subsampling of the plate"
        )


def _prior_predictive(posterior: Posterior) -> Simulator:
    """The model as its own simulator: a draw from the prior, and data given it."""

    def simulate(seed: int) -> dict[str, Tensor]:
        of_prior, of_data = seeds_from(seed, 2)
        return posterior.predictive(posterior.constrain(posterior.prior_draw(of_prior)), of_data)

    return simulate


def _best_of(starts: Tensor, posterior: Posterior) -> dict[str, Tensor]:
    """Values of the latent sites at the start, of (n, D), where the density is highest."""
    return posterior.constrain(starts[posterior.log_density(starts).nan_to_num(-torch.inf).argmax()])


def _laplace_or_sampled(posterior: Posterior, seed: int, draws: int, init: Mapping[str, Tensor]) -> tuple[Tensor, str]:
    """Draws from an approximation that is close to the posterior, else from a sampler; and a verdict on them."""
    fit = lm(posterior, init=init, seed=seed, starts="auto")
    if not fit.converged and fit.starts < _STARTS:
        fit = lm(posterior, init=init, seed=seed, starts=_STARTS)
    modes = modes_at(posterior, fit)
    for one in approximations(modes):
        count, efficient = (_STRAIGHTENED, _STRAIGHT) if one.dear else (_PROPOSALS, _EFFICIENT)
        weighted = one.draw(count, seed)
        # where many draws are lost, a tail may lie beyond all of them, of which k-hat can't tell
        if weighted.k_hat < k_hat_limit(count) and weighted.ess > efficient * count and one.failure(weighted) is None:
            index, _ = resampled(weighted, draws, np.random.default_rng(seed))
            return weighted.z[torch.from_numpy(index).to(posterior.device)], "ok" if fit.converged else fit.message
    # compiled once for all simulations, which repays it where those of one fit wouldn't
    options = Options(
        init=fit, draws=_SAMPLED, warmup=_WARMUP, chains=_CHAINS, seed=seed, progress=False, compile=True,
        checkpoint=None, max_draws=_MOST_SAMPLED, max_seconds=None,
        enough=lambda z: z[..., 0].numel() >= draws and _least_ess(z) >= draws,
    )  # fmt: skip
    post = sample_chains("calibrate", SplitHMC(_ACCEPTANCE), posterior, (), {}, options)
    diverging = float(post["sample_stats"]["diverging"].mean())
    # what the verdict asks of a posterior that is reported is more than ranks among a few draws need
    verdict = "ok" if diverging <= _DIVERGING else f"more than {100 * _DIVERGING:.0f}% of the transitions diverged"
    return _unconstrained(post, posterior), verdict


def _independent(outcome: Any, posterior: Posterior, draws: int) -> tuple[Tensor, str]:
    """As many nearly independent unconstrained draws, shape (draws, D), and the verdict on them."""
    outcome, verdict = outcome if isinstance(outcome, tuple) else (outcome, "ok")
    if isinstance(outcome, az.InferenceData):
        verdict = str(outcome.attrs.get("verdict", verdict))
        outcome = _unconstrained(outcome, posterior)
    z = torch.as_tensor(outcome, dtype=posterior.dtype, device=posterior.device)
    if z.ndim not in (2, 3) or z.shape[-1] != posterior.size:
        raise ValueError(
            f"calibrate: expected a method that returns InferenceData or unconstrained draws of shape "
            f"(draws, {posterior.size}) or (chains, draws, {posterior.size}), got the shape {tuple(z.shape)}"
        )
    flat = z.reshape(-1, posterior.size)
    if len(flat) < draws:
        raise ValueError(
            f"calibrate: expected a method that returns {draws} draws or more, got {len(flat)}; take more, or give a "
            "lower draws= to calibrate"
        )
    if verdict == "ok" and z.ndim == 3 and bool(z.isfinite().all()) and not _least_ess(z) >= draws:
        verdict = f"an ESS below {draws}: the ranks aren't those of independent draws"
    return flat[torch.linspace(0, len(flat) - 1, draws).round().long()], verdict


def _least_ess(z: Tensor) -> float:
    """Smallest ESS of an entry of draws (chains, draws, D)."""
    return min(float(az.ess(z[..., i].cpu().numpy())) for i in range(z.shape[-1]))


def _unconstrained(post: az.InferenceData, posterior: Posterior) -> Tensor:
    """Draws (chains, draws, D) of the latent sites of an InferenceData."""
    parts = []
    for site in posterior.sites:
        value = torch.as_tensor(post["posterior"][site.name].values, dtype=posterior.dtype, device=posterior.device)
        parts.append(site.transform.inv(value).reshape(*value.shape[:2], -1))
    return torch.cat(parts, dim=-1)


def _ranks(
    posterior: Posterior, truth: Mapping[str, Tensor], draws: Tensor, joint: tuple[np.ndarray, float], seed: int
) -> dict[str, int]:
    """Number of draws (draws, D) below the truth, by label; among equals by lot. `joint` : log densities of the draws
    and of the truth.
    """
    lot = np.random.default_rng(seed)
    pairs: dict[str, tuple[np.ndarray, float]] = {}
    for name, values in posterior.constrain(draws).items():
        flat, true = values.reshape(len(draws), -1).cpu().numpy(), truth[name].double().reshape(-1).cpu().numpy()
        pairs.update(zip(entry_labels(name, tuple(truth[name].shape)), zip(flat.T, true, strict=True), strict=True))
    pairs[JOINT] = joint
    return {
        label: int((values < true).sum() + lot.integers((values == true).sum() + 1))
        for label, (values, true) in pairs.items()
    }
