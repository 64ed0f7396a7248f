"""Stochastic variational inference with Pyro's SVI and autoguides, its posterior checked by importance sampling.

Pyro's handlers take longer over most models than the density itself. So autoguides are fitted to a Pyro model of one
latent vector, w = A^T (z - m) with m the maximum of the posterior and A A^T the Hessian there, and the ELBO is taken
from the guide's distribution and the captured density: all particles are one batch, and every guide starts at the
Laplace approximation, which is the standard normal distribution of w. A guide of the user's own is fitted to the user's
model as it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import transforms
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import (
    AutoContinuous,
    AutoGuide,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormalizingFlow,
    init_to_value,
)
from pyro.optim import ClippedAdam
from torch import Tensor
from tqdm.auto import tqdm

from bayesprof.inference.fit import Fit
from bayesprof.inference.importance import Weighted, check_draws, importance, importance_result
from bayesprof.inference.lm import fitted
from bayesprof.inference.modes import modes_at
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.randomness import seeded, seeds_from
from bayesprof.inference.sites import Observing
from bayesprof.inference.whitening import Whitened, whitened_at

_GUIDES = ("multivariate_normal", "low_rank", "flow")
_BINS, _BOUND = 8, 6.0  # of the flow's splines, which are the identity beyond so many standard deviations
_DECAY = 0.03  # learning rate at the end, relative to that at the start


def svi(
    model: Callable[..., Any] | Posterior,
    *args: Any,
    init: Fit | Mapping[str, Any] | None = None,
    guide: str | Callable[..., Any] = "multivariate_normal",
    steps: int = 1000,
    particles: int = 8,
    learning_rate: float = 0.01,
    draws: int = 1000,
    proposals: int | None = None,
    seed: int = 0,
    progress: bool = True,
    **kwargs: Any,
) -> az.InferenceData:
    """Fit a guide to the posterior of `model`, and draw from the posterior by importance sampling from it.

    Parameters
    ----------
    model : callable or Posterior
        Any Pyro model with continuous latent sites, or the Posterior of it. `args` and `kwargs` are the model's.
    init : Fit or mapping, optional
        A fit, whose maximum and Hessian the guide starts from; or values to start :func:`lm` from; None starts it
        from the model. A guide of your own starts where you have it start.
    guide : str or callable
        "multivariate_normal": Gaussian with a full covariance. "low_rank": Gaussian with a diagonal plus a low-rank
        covariance in whitened coordinates. "flow": splines of each coordinate and two affine autoregressive
        transforms, for skewed posteriors. Or a Pyro guide of the model's own sites, whose parameters stay in Pyro's
        parameter store.
    steps, particles : int
        Steps of the optimiser, and draws of the guide in each.
    learning_rate : float
        Of ClippedAdam at the start; it falls to 3% of that. In whitened coordinates its unit is standard deviations.
    draws : int
        Draws kept in all, a multiple of 4.
    proposals : int, optional
        Draws of the guide, out of which those are resampled; twice as many, 2,000 at least, where None.
    seed : int
        Same seed, same draws.
    progress : bool
        Show a progress bar.

    Returns
    -------
    arviz.InferenceData
        As :func:`bayesprof.inference.importance.importance_result` lays it out; the ELBO of every step, a lower
        bound of the log evidence, is ``sample_stats["elbo"]``, along the dimension ``step``.

    Raises
    ------
    ValueError, TypeError
        For arguments out of range, for guides without a density on the model's sites, and for models that
        :class:`Posterior` refuses.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> def model():
    ...     mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    ...     pyro.sample("data", dist.Normal(mean, 1.0).expand([4]).to_event(1), obs=torch.tensor([1.0, 2.0, 3.0, 4.0]))
    >>> post = svi(model, steps=50, progress=False)
    >>> post.attrs["verdict"], post.sample_stats["elbo"].sizes["step"]
    ('ok', 50)
    """
    proposals = check_draws("svi", draws, proposals)
    for name, value in (("steps", steps), ("particles", particles)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"svi: expected {name} >= 1, a whole number, got {value!r}")
    if not learning_rate > 0:
        raise ValueError(f"svi: expected learning_rate > 0, got {learning_rate!r}")
    if isinstance(guide, str) and guide not in _GUIDES:
        raise ValueError(f"svi: expected guide to be one of {list(_GUIDES)} or a Pyro guide, got {guide!r}")
    if not isinstance(guide, str) and not callable(guide):
        raise TypeError(f"svi: expected guide to be a name or a Pyro guide (a function), got {type(guide).__name__}")
    posterior = model if isinstance(model, Posterior) else Posterior(model, *args, seed=seed, **kwargs)
    optimizer = ClippedAdam({"lr": learning_rate, "lrd": _DECAY ** (1 / steps), "clip_norm": 10.0})
    attrs: dict[str, Any] = {"method": "SVI", "steps": steps, "particles": particles}
    failure = None
    if isinstance(guide, str):
        fit = fitted(posterior, init, seed)
        whitened = whitened_at(posterior, fit)
        attrs |= {"guide": guide, "fit": fit.message}
        elbo, weighted = _fit_named(whitened, guide, optimizer, steps, particles, proposals, seed, progress)
        failure = modes_at(posterior, fit).unvisited(weighted.z, weighted.log_weights.exp())
    else:
        attrs |= {"guide": getattr(guide, "__name__", type(guide).__name__)}
        elbo, weighted = _fit_own(posterior, guide, optimizer, steps, particles, proposals, seed, progress)
    return importance_result(
        posterior, weighted, draws=draws, seed=seed, attrs=attrs, traces={"elbo": elbo}, failure=failure
    )


def _fit_named(
    whitened: Whitened,
    name: str,
    optimizer: Any,
    steps: int,
    particles: int,
    proposals: int,
    seed: int,
    progress: bool,
) -> tuple[np.ndarray, Weighted]:
    """ELBO of each step, and weighted draws of the guide, in whitened coordinates."""

    volume = whitened.log_volume

    def model() -> None:
        # what a guide needs to know: one vector; its density comes in with the loss
        pyro.sample("w", dist.Normal(torch.zeros_like(whitened.centre), 1.0).to_event(1))

    def loss(model: Callable[[], None], guide: AutoContinuous) -> Tensor:
        """Minus the ELBO, from the guide's distribution and the captured density in place of two traces."""
        pyro.module("guide", guide)  # shows its parameters to the optimiser, as calling it would
        distribution = guide.get_posterior()
        w = distribution.rsample((particles,))
        return (distribution.log_prob(w) - _LogDensity.apply(w, whitened) - volume).mean()

    training, drawing = seeds_from(seed, 2)
    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        with seeded(training):
            guide = _autoguide(model, name, whitened.centre)
            guide()  # makes its parameters
            if name == "low_rank":
                _start_at_unit_covariance(guide)
            whitened.posterior.prepare("value_and_grad", batch=particles, calls=steps)
            elbo = _trained(SVI(model, guide, optimizer, loss), steps, progress)
        with seeded(drawing), torch.no_grad():
            distribution = guide.get_posterior()
            w = distribution.rsample((proposals,))
            log_guide = distribution.log_prob(w)
    z = whitened.unwhiten(w)
    return elbo, importance(whitened.posterior, z, log_guide - volume, progress=progress)


class _LogDensity(torch.autograd.Function):
    """Log density of z at `w` (particles, D), as autograd wants it."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, whitened: Whitened) -> Tensor:
        potential, slope = whitened.potential(w)
        ctx.save_for_backward(slope)
        return -potential

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return -upstream[:, None] * slope, None


def _autoguide(model: Callable[[], None], name: str, centre: Tensor) -> AutoContinuous:
    start = init_to_value(values={"w": torch.zeros_like(centre)})
    if name == "multivariate_normal":
        return AutoMultivariateNormal(model, init_loc_fn=start, init_scale=1.0)
    if name == "low_rank":
        return AutoLowRankMultivariateNormal(model, init_loc_fn=start)
    return AutoNormalizingFlow(model, lambda size: _flow(size).to(centre))


def _start_at_unit_covariance(guide: Any) -> None:
    """Its covariance is scale^2 (1 + F F^T); a small F, for gradients of exactly F = 0 vanish."""
    with torch.no_grad():
        guide.cov_factor.mul_(0.1)
        guide.scale = torch.ones_like(guide.loc)


def _flow(size: int) -> transforms.ComposeTransformModule:
    """Splines of each coordinate, then two affine autoregressive transforms, which start close to the identity."""
    spline = transforms.Spline(size, count_bins=_BINS, bound=_BOUND)
    parts: list[Any] = [spline]
    if size > 1:
        parts += [transforms.affine_autoregressive(size, hidden_dims=[4 * size, 4 * size]) for _ in range(2)]
    with torch.no_grad():
        for part in parts[1:]:
            part.arn.layers[-1].weight.mul_(0.01)
            part.arn.layers[-1].bias.zero_()
        # widths and heights of equal bins, and slopes of 1 between them
        spline.unnormalized_widths.zero_()
        spline.unnormalized_heights.zero_()
        spline.unnormalized_derivatives.fill_(float(np.log(np.expm1(1.0))))
    return transforms.ComposeTransformModule(parts)


def _fit_own(
    posterior: Posterior,
    guide: Callable[..., Any],
    optimizer: Any,
    steps: int,
    particles: int,
    proposals: int,
    seed: int,
    progress: bool,
) -> tuple[np.ndarray, Weighted]:
    """ELBO of each step, and weighted draws, of a guide of the model's own sites."""

    def model(*args: Any, **kwargs: Any) -> None:
        with Observing(posterior.data):
            posterior.model(*args, **kwargs)

    training, drawing = seeds_from(seed, 2)
    with seeded(training):
        _own_draw(posterior, guide)  # refuses a guide that can't be weighted before it is trained
        loss = Trace_ELBO(num_particles=particles)
        elbo = _trained(SVI(model, guide, optimizer, loss), steps, progress, *posterior.args, **posterior.kwargs)
    with seeded(drawing), torch.no_grad():
        drawn = [_own_draw(posterior, guide) for _ in range(proposals)]
    z, log_guide = (torch.stack(parts) for parts in zip(*drawn, strict=True))
    return elbo, importance(posterior, z, log_guide, progress=progress)


def _own_draw(posterior: Posterior, guide: Callable[..., Any]) -> tuple[Tensor, Tensor]:
    """`z` of one draw of a guide, and its log density there."""
    trace = poutine.trace(guide).get_trace(*posterior.args, **posterior.kwargs)
    names = {site.name for site in posterior.sites}
    drawn = {name for name in trace.stochastic_nodes if name in names}
    extra = [name for name in trace.stochastic_nodes if name not in names]
    if drawn != names:
        raise ValueError(
            f"svi: expected a guide that draws every latent site of the model, got none of {sorted(names - drawn)}"
        )
    if extra and not isinstance(guide, AutoGuide):
        raise ValueError(
            f"svi: expected a guide of the model's sites {sorted(names)} alone, got {extra} as well, over which its "
            "density would have to be integrated; draw the sites without them, or use an autoguide of Pyro"
        )
    z = posterior.unconstrain({name: trace.nodes[name]["value"] for name in names})
    jacobian = sum(log_jacobian for _, log_jacobian in posterior.transformed(z).values())
    return z, torch.as_tensor(trace.log_prob_sum()).to(z) + jacobian


def _trained(svi: SVI, steps: int, progress: bool, *args: Any, **kwargs: Any) -> np.ndarray:
    """ELBO of each step."""
    elbo = np.empty(steps)
    with tqdm(range(steps), disable=not progress, desc="SVI", unit="step") as bar:
        for step in bar:
            elbo[step] = -svi.step(*args, **kwargs)
            if step % 50 == 49:
                bar.set_postfix_str(f"ELBO {elbo[step - 49 : step + 1].mean():.2f}", refresh=False)
    return elbo
