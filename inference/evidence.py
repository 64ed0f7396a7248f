"""The evidence: the marginal likelihood of the data under a model, its priors included.

Of a model with ``pyro.factor`` terms or unnormalised densities it is the integral of what the model says, factors
counting to the likelihood; differences between models mean something only where both are normalised alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bayesprof.inference.approximations import approximations
from bayesprof.inference.fit import Fit
from bayesprof.inference.importance import Weighted, systematic
from bayesprof.inference.lm import fitted
from bayesprof.inference.modes import modes_at
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.randomness import seeds_from
from bayesprof.inference.verdict import ESS, k_hat_limit

_METHODS = ("importance", "laplace", "smc")
_ESS_KEPT = 0.5  # effective fraction of the particles that a step in temperature leaves
_CORRELATION = 0.1  # with where they were before a step in temperature, at which particles have moved enough
_MOST_MOVES = 20  # trajectories per step in temperature
_LEAPFROGS = 6  # most leapfrog steps of a trajectory, each a number from 1 to this
_ACCEPTANCE = 0.75  # aimed at by the step size
_FEWEST_ANCESTORS = 20  # first particles that the last descend from, for their shares to tell of an error


@dataclass(frozen=True)
class Evidence:
    """An estimate of the evidence.

    Attributes
    ----------
    log_evidence : float
        Natural logarithm of the integral of prior times likelihood.
    error : float
        Its standard error by Monte Carlo; NaN for the Laplace approximation, whose error isn't random.
    method : str
    message : str
        How far it can be relied on, and what to do where it can't.
    """

    log_evidence: float
    error: float
    method: str
    message: str


def evidence(
    model: Callable[..., Any] | Posterior,
    *args: Any,
    init: Fit | Mapping[str, Any] | None = None,
    method: str = "importance",
    particles: int = 1000,
    seed: int = 0,
    progress: bool = True,
    **kwargs: Any,
) -> Evidence:
    """Evidence of `model`.

    Parameters
    ----------
    model : callable or Posterior
        Any Pyro model with continuous latent sites, or the Posterior of it. `args` and `kwargs` are the model's.
    init : Fit or mapping, optional
        A fit, or values to start :func:`lm` from, besides draws of the prior (``starts="auto"``). "smc" needs none and
        starts from the prior.
    method : str
        "laplace": the Gaussian at the maximum, exact for linear models with Gaussian noise. "importance": that
        corrected by Pareto-smoothed importance sampling, as :func:`laplace` does, to second order where the first isn't
        reliable, and by :func:`rto` where neither is. "smc": particles carried from the prior to the posterior through
        tempered likelihoods (Del Moral, Doucet & Jasra 2006, JRSS B 68, 411), for posteriors with several modes; it
        takes some hundred times longer.
    particles : int
        Particles of "smc", 100 at least; "importance" draws twice as many.
    seed : int
        Same seed, same result.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Evidence

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
    >>> round(evidence(model, method="laplace").log_evidence, 3)
    -9.204
    >>> abs(evidence(model, method="smc", progress=False).log_evidence + 9.204) < 0.3
    True
    """
    if method not in _METHODS:
        raise ValueError(f"evidence: expected method to be one of {list(_METHODS)}, got {method!r}")
    if isinstance(particles, bool) or not isinstance(particles, int) or particles < 100:
        raise ValueError(f"evidence: expected particles >= 100, a whole number, got {particles!r}")
    posterior = model if isinstance(model, Posterior) else Posterior(model, *args, seed=seed, **kwargs)
    if method == "smc":
        return _by_smc(posterior, particles, seed, progress)
    fit = fitted(posterior, init, seed, starts="auto")
    if method == "laplace":
        value = modes_at(posterior, fit).log_evidence
        message = "Exact where the posterior is Gaussian; method='importance' says how far it is."
        return Evidence(value, np.nan, method, message if fit.converged else f"The fit failed: {fit.message}")
    return _by_importance(posterior, fit, 2 * particles, seed, progress)


def _by_importance(posterior: Posterior, fit: Fit, proposals: int, seed: int, progress: bool) -> Evidence:
    """From the first approximation that is to be trusted, else the one of most effective draws."""
    modes = modes_at(posterior, fit)
    tried: list[tuple[Weighted, str]] = []
    for one in approximations(modes, progress=progress):
        weighted = one.draw(proposals, seed)
        if one.failure(weighted):
            continue
        message = f"k-hat {weighted.k_hat:.2f}, {weighted.ess:.0f} effective draws, from {one.name}."
        if weighted.trusted:
            return Evidence(weighted.log_evidence, weighted.error, "importance", message)
        tried.append((weighted, message))
    weighted, message = max(tried, key=lambda one: one[0].ess)
    limit = k_hat_limit(proposals)
    message = f"Not reliable: {message} Expected below {limit:.2f} and at least {ESS}; use method='smc'."
    return Evidence(weighted.log_evidence, weighted.error, "importance", message)


# -- tempered sequential Monte Carlo


class _State(NamedTuple):
    """Particles `z` (N, D), log prior and log likelihood (N,) there, and the gradients (N, D) of both."""

    z: Tensor
    log_prior: Tensor
    log_likelihood: Tensor
    prior_slope: Tensor
    likelihood_slope: Tensor

    def tempered(self, temperature: float) -> tuple[Tensor, Tensor]:
        """Log density of prior times likelihood to the power `temperature`, and its gradient."""
        value = self.log_prior + temperature * self.log_likelihood
        return value, self.prior_slope + temperature * self.likelihood_slope

    def where(self, chosen: Tensor, other: _State) -> _State:
        """These particles where `chosen` (N,), and the `other` ones elsewhere."""
        pairs = zip(self, other, strict=True)
        return _State(*(torch.where(chosen if a.ndim == 1 else chosen[:, None], a, b) for a, b in pairs))


def _by_smc(posterior: Posterior, particles: int, seed: int, progress: bool) -> Evidence:
    """Temperatures rise from 0 to 1 in steps that leave half of the particles effective; after each, systematic
    resampling, then Hamiltonian trajectories until the particles have forgotten where they were.

    The relative variance of the estimate is that of the weights, sum s^2 - 1/N, with s the share of the weight that
    descends from each particle since trajectories last mixed: 1/ESS - 1/N of every step where they always do, and the
    estimate of Chan & Lai (2013, Annals of Statistics 41, 2877) where they can't, as between modes.
    """
    generator = torch.Generator().manual_seed(seed)
    resampling = np.random.default_rng(seed)
    state = _evaluated(posterior, torch.stack([posterior.prior_draw(one) for one in seeds_from(seed, particles)]))
    ancestors = torch.arange(particles, device=state.z.device)
    shares = torch.full_like(state.log_prior, 1 / particles)
    temperature, log_evidence, variance, step, steps, fewest = 0.0, 0.0, 0.0, 1.0, 0, particles
    with tqdm(total=1.0, disable=not progress, desc="SMC", bar_format="{l_bar}{bar}| {elapsed}") as bar:
        while True:
            if not bool(state.log_likelihood.isfinite().any()):
                message = "Failed: no draw of the prior has a finite likelihood; check the model, or narrow the priors."
                return Evidence(np.nan, np.nan, "smc", message)
            rise = _rise(state.log_likelihood, 1.0 - temperature)
            log_weights = rise * state.log_likelihood
            weights = log_weights.softmax(0)
            log_evidence += float(log_weights.logsumexp(0)) - math.log(particles)
            shares = torch.zeros_like(weights).index_add(0, ancestors, weights)
            steps, fewest = steps + 1, min(fewest, len(ancestors.unique()))
            bar.update(rise)
            if rise == 1.0 - temperature:
                break
            temperature += rise
            kept = torch.from_numpy(systematic(weights.cpu().numpy(), particles, resampling)).to(ancestors.device)
            state, ancestors = _State(*(part[kept] for part in state)), ancestors[kept]
            state, step, mixed = _moved(posterior, state, temperature, step, generator)
            if mixed:
                variance += float(shares.square().sum()) - 1 / particles
                ancestors = torch.arange(particles, device=ancestors.device)
    variance += float(shares.square().sum()) - 1 / particles
    message = f"{steps} temperatures, {particles} particles."
    if fewest < _FEWEST_ANCESTORS:
        message = (
            f"Not reliable: {message} At worst they descend from {fewest} of the first, and trajectories didn't mix "
            f"since; take particles={10 * particles}, or reparametrise the model."
        )
    return Evidence(log_evidence, math.sqrt(max(variance, 0.0)), "smc", message)


def _rise(log_likelihood: Tensor, most: float) -> float:
    """Step in temperature, `most` at most, that leaves the weights half of the particles effective."""

    def fraction(rise: float) -> float:
        weights = (rise * log_likelihood).softmax(0)
        return 1 / float(weights.square().sum()) / len(weights)

    if fraction(most) >= _ESS_KEPT:
        return most
    low, high = -60.0, 0.0  # powers of 2, times most
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if fraction(most * 2.0**middle) >= _ESS_KEPT else (low, middle)
    return most * 2.0**low


def _moved(
    posterior: Posterior, state: _State, temperature: float, step: float, generator: torch.Generator
) -> tuple[_State, float, bool]:
    """Particles after Hamiltonian trajectories in coordinates whitened by their covariance; the step size; and
    whether they have forgotten where they were.
    """
    centre = state.z.mean(0)
    covariance = (state.z - centre).T @ (state.z - centre) / len(state.z)
    floor = 1e-10 * covariance.diagonal().clamp(min=1e-30)
    factor = torch.linalg.cholesky(covariance + torch.diag(floor))  # z = centre + factor w
    start = _features(state)
    forgotten = max(_CORRELATION, 3 / math.sqrt(len(state.z)))  # independent ones reach three standard errors
    for _ in range(_MOST_MOVES):
        length = int(torch.randint(1, _LEAPFROGS + 1, (), generator=generator))
        jitter = 0.8 + 0.4 * float(torch.rand((), generator=generator))
        state, acceptance = _trajectory(posterior, state, temperature, factor, jitter * step, length, generator)
        step *= math.exp(0.5 * (acceptance - _ACCEPTANCE))
        if float((start * _features(state)).mean(0).max()) < forgotten:
            return state, step, True
    return state, step, False


def _features(state: _State) -> Tensor:
    """Ranks of the coordinates and of the log likelihood, (N, D + 1), with mean 0 and variance 1."""
    ranks = torch.cat([state.z, state.log_likelihood[:, None]], dim=1).argsort(0).argsort(0).to(state.z)
    return (ranks - ranks.mean(0)) / ranks.std(0, correction=0)


def _trajectory(
    posterior: Posterior,
    state: _State,
    temperature: float,
    factor: Tensor,
    step: float,
    length: int,
    generator: torch.Generator,
) -> tuple[_State, float]:
    """One Hamiltonian trajectory of every particle, accepted or not, and the mean acceptance."""
    momentum = torch.randn(state.z.shape, dtype=state.z.dtype, generator=generator).to(state.z)
    value, slope = state.tempered(temperature)
    energy = 0.5 * momentum.square().sum(-1) - value
    there = state
    for _ in range(length):
        momentum = momentum + 0.5 * step * slope @ factor
        there = _evaluated(posterior, there.z + step * momentum @ factor.T)
        value, slope = there.tempered(temperature)
        momentum = momentum + 0.5 * step * slope @ factor
    change = energy - (0.5 * momentum.square().sum(-1) - value)
    probability = torch.nan_to_num(change, nan=-torch.inf).clamp(max=0.0).exp()
    draw = torch.rand(len(probability), dtype=state.z.dtype, generator=generator).to(state.z)
    return there.where(draw < probability, state), float(probability.mean())


def _evaluated(posterior: Posterior, z: Tensor) -> _State:
    """Where the density isn't finite, the likelihood is 0 and the slopes are."""
    value, gradient = posterior.value_and_grad(z)
    here = z.detach().clone().requires_grad_()
    with torch.enable_grad():
        log_prior = posterior.log_prior(here)
        (prior_slope,) = torch.autograd.grad(log_prior.sum(), here)
    log_prior = log_prior.detach()
    fine = value.isfinite() & log_prior.isfinite() & gradient.isfinite().all(-1) & prior_slope.isfinite().all(-1)
    return _State(
        z,
        torch.where(log_prior.isfinite(), log_prior, -torch.inf),
        torch.where(fine, value - log_prior, -torch.inf),
        torch.where(fine[:, None], prior_slope, 0.0),
        torch.where(fine[:, None], gradient - prior_slope, 0.0),
    )
