"""The No-U-Turn sampler, on Pyro's kernel, in coordinates whitened by the Hessian.

With the Hessian H = A A^T at the maximum m, the sampler moves in w = A^T (z - m), where an almost Gaussian
posterior is a unit Gaussian and the unit mass matrix is the right one (Neal 2011, Handbook of MCMC, section 5.4.1).
Warm-up only adapts the step size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import arviz as az
import numpy as np
import pyro.infer
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bayesprof.inference.export import to_inference_data
from bayesprof.inference.fit import Fit
from bayesprof.inference.lm import lm
from bayesprof.inference.posterior import Posterior, seeded, seeds_from

_WARMUP = 100
_DISPERSION = 1.5  # chains start at this many standard deviations of the Laplace approximation
_JITTER = 0.3  # step sizes vary by this fraction
_MAX_TREE_DEPTH = 8  # 255 steps; a posterior that needs more in whitened coordinates wants another parametrisation
_GRADIENTS_PER_DRAW = 4  # of an almost Gaussian posterior, to guess the work to come
_WORTH_COMPILING = 40.0  # seconds of that work


def nuts(
    model: Callable[..., Any] | Posterior,
    *args: Any,
    init: Fit | Mapping[str, Any] | None = None,
    draws: int = 1000,
    warmup: int | None = None,
    chains: int = 4,
    seed: int = 0,
    progress: bool = True,
    target_acceptance: float = 0.7,
    compile: bool | str = "auto",
    **kwargs: Any,
) -> az.InferenceData:
    """Sample the posterior of `model` with NUTS (Hoffman & Gelman 2014), its mass matrix from the Hessian.

    Parameters
    ----------
    model : callable or Posterior
        Any Pyro model with continuous latent sites, or the Posterior of it. `args` and `kwargs` are the model's.
    init : Fit or mapping, optional
        A fit, whose Hessian is used; or values to start :func:`lm` from; None starts it from the model.
    draws, warmup : int
        Draws kept, and draws of warm-up before them (100 by default: it adapts the step size only), per chain.
    chains : int
        Number of chains, started 1.5 standard deviations around the maximum.
    seed : int
        Same seed, same draws.
    progress : bool
        Show a progress bar.
    target_acceptance : float
        Acceptance rate that warm-up adapts the step size to, between 0 and 1. In whitened coordinates 0.7 gives
        more effective draws per gradient than the usual 0.8, whose smaller steps cost a further doubling of most
        trajectories.
    compile : "auto" or bool
        Compile the gradient with torch.compile; "auto": where the work repays it.

    Returns
    -------
    arviz.InferenceData
        As :func:`bayesprof.inference.export.to_inference_data` lays it out; the verdict is in ``attrs["verdict"]``.

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
    >>> post = nuts(model, draws=400, chains=4, progress=False)
    >>> post.attrs["verdict"]
    'ok'
    """
    warmup = _WARMUP if warmup is None else warmup
    for name, value, least in (("draws", draws, 1), ("warmup", warmup, 20), ("chains", chains, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"nuts: expected {name} >= {least}, a whole number, got {value!r}")
    if not 0 < target_acceptance < 1:
        raise ValueError(f"nuts: expected target_acceptance between 0 and 1, got {target_acceptance!r}")
    if compile not in (True, False, "auto"):
        raise ValueError(f"nuts: expected compile to be True, False or 'auto', got {compile!r}")
    posterior = model if isinstance(model, Posterior) else Posterior(model, *args, seed=seed, **kwargs)
    fit = init if isinstance(init, Fit) else lm(posterior, init=init, seed=seed)
    whitened = Whitened(posterior, fit.z, torch.linalg.cholesky(fit.hessian))
    expected = _GRADIENTS_PER_DRAW * chains * (draws + warmup) * posterior.gradient_seconds()
    if compile is True or (compile == "auto" and expected > _WORTH_COMPILING):
        posterior.compile()

    seeds = seeds_from(seed, chains)
    with tqdm(total=chains * (warmup + draws), disable=not progress, desc="NUTS", unit="draw") as bar:
        sampled = [_run_chain(whitened, draws, warmup, chain_seed, target_acceptance, bar) for chain_seed in seeds]
    z = whitened.unwhiten(torch.stack([w for w, _ in sampled]))
    stats = {name: np.stack([chain[name] for _, chain in sampled]) for name in sampled[0][1]}
    attrs = {"method": "NUTS", "warmup": warmup, "fit": fit.message}
    return to_inference_data(
        posterior, z, sample_stats=stats, seed=seed, target_acceptance=target_acceptance, attrs=attrs
    )


@dataclass
class Whitened:
    """A posterior in the coordinates ``w = A^T (z - centre)``, where its Hessian at the centre, ``A A^T``, is the
    unit matrix.
    """

    posterior: Posterior
    centre: Tensor
    factor: Tensor
    evaluations: int = 0

    def unwhiten(self, w: Tensor) -> Tensor:
        """`z` of `w`, both of shape ``(..., D)``."""
        return self.centre + self._directions(w)

    def potential(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Minus the log density and its gradient with respect to `w` (D,), infinite where the density isn't finite."""
        self.evaluations += 1
        value, gradient = self.posterior.value_and_grad(self.unwhiten(w))
        if not bool(value.isfinite() & gradient.isfinite().all()):
            return torch.full_like(value, torch.inf), torch.zeros_like(w)
        return -value, -torch.linalg.solve_triangular(self.factor, gradient[:, None], upper=False)[:, 0]

    def _directions(self, w: Tensor) -> Tensor:
        columns = w.reshape(-1, w.shape[-1]).T
        return torch.linalg.solve_triangular(self.factor.T, columns, upper=True).T.reshape(w.shape)


class _Potential(torch.autograd.Function):
    """The potential as Pyro's kernels want it: a function that autograd differentiates."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, whitened: Whitened) -> Tensor:
        value, gradient = whitened.potential(w)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return upstream * ctx.saved_tensors[0], None


class _Kernel(pyro.infer.NUTS):
    """Pyro's kernel, which also keeps the energy at the start of each trajectory, and varies the step size from one
    to the next.

    Whitened, an almost Gaussian posterior turns all its coordinates at one rate, and trajectories of one length
    carry each draw to about the same distance from the centre on the other side: means converge fast and variances
    hardly.
    """

    _factor = 1.0

    @property
    def step_size(self) -> float:
        return self._factor * self._adapter.step_size

    def _sample_r(self, name: str) -> Any:
        if name.startswith("r_t="):  # a trajectory, not the search for a first step size
            self._factor = 1 + _JITTER * (2 * float(torch.rand(())) - 1)
        scaled, unscaled = super()._sample_r(name)
        self.energy = float(self._kinetic_energy(unscaled) + self._potential_energy_last)
        return scaled, unscaled


def _run_chain(
    whitened: Whitened, draws: int, warmup: int, seed: int, target_acceptance: float, bar: Any
) -> tuple[Tensor, dict[str, np.ndarray]]:
    """Draws of one chain in whitened coordinates, (draws, D), and the statistics of each."""
    with seeded(seed):
        start = _dispersed_start(whitened)
        kernel = _Kernel(
            potential_fn=lambda params: _Potential.apply(params["w"], whitened),
            adapt_mass_matrix=False,
            target_accept_prob=target_acceptance,
            max_tree_depth=_MAX_TREE_DEPTH,
        )
        kernel.initial_params = {"w": start}
        kernel.setup(warmup)
        params = kernel.initial_params
        positions = torch.empty(draws, start.shape[0], dtype=start.dtype, device=start.device)
        names = ("lp", "energy", "acceptance_rate", "step_size", "tree_depth", "n_steps")
        stats: dict[str, np.ndarray] = {name: np.empty(draws) for name in names}
        for step in range(-warmup, draws):
            before, accepted = whitened.evaluations, kernel._mean_accept_prob
            params = kernel.sample(params)
            if step >= 0:
                n_steps = whitened.evaluations - before
                positions[step] = params["w"]
                _, potential, _ = kernel._fetch_from_cache()
                stats["lp"][step] = -float(potential)
                stats["energy"][step] = kernel.energy
                # Pyro keeps the running mean only; it starts anew after warm-up
                mean = kernel._mean_accept_prob
                stats["acceptance_rate"][step] = mean + step * (mean - accepted) if step else mean
                stats["step_size"][step] = kernel.step_size
                stats["tree_depth"][step] = int(np.ceil(np.log2(n_steps + 1)))
                stats["n_steps"][step] = n_steps
            bar.update()
        diverging = np.zeros(draws, dtype=bool)
        diverging[kernel._divergences] = True
    whole = {name: stats[name].astype(int) for name in ("tree_depth", "n_steps")}
    return positions, {**stats, **whole, "diverging": diverging}


def _dispersed_start(whitened: Whitened) -> Tensor:
    """A start around the centre, drawn nearer where the density isn't finite or far below that of a Gaussian."""
    direction = _DISPERSION * torch.randn_like(whitened.centre)
    centre, _ = whitened.potential(torch.zeros_like(direction))
    for _ in range(10):
        value, _ = whitened.potential(direction)
        if value < centre + 5 * len(direction) + 50:
            return direction
        direction = 0.5 * direction
    return torch.zeros_like(direction)
