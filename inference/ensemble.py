"""The affine-invariant ensemble sampler, on emcee (Foreman-Mackey et al. 2013, PASP 125, 306).

It needs no gradients, so it serves where these are wrong or the density has corners. Where they are right,
:func:`bayesprof.inference.nuts` takes far fewer evaluations for a draw that counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import arviz as az
import emcee
import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bayesprof.inference.export import to_inference_data
from bayesprof.inference.fit import Fit
from bayesprof.inference.lm import fitted
from bayesprof.inference.modes import modes_at
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.randomness import seeds_from
from bayesprof.inference.whitening import DISPERSION
from bayesprof.threads import one_thread

_LEAST_WALKERS = 32
_HALVINGS = 100  # until a walker of a fit whose curvature is all but singular is back
# the second reaches other modes, as ter Braak (2006) advises; emcee's own default makes a third of the effective draws
# per evaluation, on a Gaussian in 7 dimensions and on a banana in 2
_MOVES = ((emcee.moves.DEMove(), 0.9), (emcee.moves.DEMove(gamma0=1.0), 0.1))


def ensemble(
    model: Callable[..., Any] | Posterior,
    *args: Any,
    init: Fit | Mapping[str, Any] | None = None,
    walkers: int | None = None,
    draws: int = 1000,
    warmup: int = 300,
    chains: int = 4,
    thin: int | None = None,
    moves: Any = None,
    seed: int = 0,
    progress: bool = True,
    **kwargs: Any,
) -> az.InferenceData:
    """Sample the posterior of `model` with ensembles of walkers.

    The walkers of one ensemble propose from each other's positions, so they aren't independent chains, and an R-hat
    between them would miss an ensemble that is lost as a whole. Here a chain of the result is an ensemble, and
    several run independently of each other. Along a chain stand all draws of its first walker, then all of the
    second...: its autocorrelation is the mean of the walkers', the one that emcee recommends, and R-hat and ESS mean
    what they do for any sampler. ``sample_stats`` has the walker and the step of every draw.

    Parameters
    ----------
    model : callable or Posterior
        Any Pyro model with continuous latent sites, or the Posterior of it. `args` and `kwargs` are the model's.
    init : Fit or mapping, optional
        A fit, around which the walkers start 1.5 standard deviations wide, by its Hessian; or values to start
        :func:`lm` from; None starts it from the model.
    walkers : int, optional
        Walkers of an ensemble, even and at least twice the number of parameters; by default 32, or four times that
        number where this is more.
    draws, warmup : int
        Steps of every walker that are kept, and those before them that aren't.
    chains : int
        Number of ensembles.
    thin : int, optional
        Keep every thin-th of the `draws` steps. By default half the autocorrelation time, which loses next to nothing.
    moves : emcee moves, optional
        By default differential evolution moves (ter Braak 2006, Stat. Comput. 16, 239), a tenth of them by the whole
        difference of two walkers; ``emcee.moves.StretchMove()`` is emcee's own default. Leave ``DESnookerMove`` alone:
        up to emcee 3.1.6 it draws from another density (standard deviations 5% too small in 7 dimensions).
    seed : int
        Same seed, same draws.
    progress : bool
        Show a progress bar.

    Returns
    -------
    arviz.InferenceData
        As :func:`bayesprof.inference.export.to_inference_data` lays it out; the verdict is in ``attrs["verdict"]``,
        the longest of the parameters' autocorrelation times, in steps, in ``attrs["autocorrelation_time"]``, and
        the thinning in ``attrs["thin"]``. ``acceptance_rate`` is that of the draw's walker, over all its steps.

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
    >>> post = ensemble(model, draws=200, warmup=50, progress=False)
    >>> post.attrs["verdict"]
    'ok'
    """
    for name, value, least in (("draws", draws, 4), ("warmup", warmup, 0), ("chains", chains, 1), ("thin", thin, 1)):
        if not (name == "thin" and value is None) and (
            isinstance(value, bool) or not isinstance(value, int) or value < least
        ):
            raise ValueError(f"ensemble: expected {name} >= {least}, a whole number, got {value!r}")
    posterior = model if isinstance(model, Posterior) else Posterior(model, *args, seed=seed, **kwargs)
    walkers = max(_LEAST_WALKERS, 4 * posterior.size) if walkers is None else walkers
    if isinstance(walkers, bool) or not isinstance(walkers, int) or walkers % 2 or walkers < 2 * posterior.size + 2:
        raise ValueError(
            f"ensemble: expected an even number of walkers >= {2 * posterior.size + 2}, more than twice the number of "
            f"parameters, got {walkers!r}"
        )
    fit = fitted(posterior, init, seed)
    modes = modes_at(posterior, fit)
    whitened = modes.each[0]

    def unwhitened(w: np.ndarray) -> Tensor:
        return whitened.unwhiten(torch.as_tensor(w, dtype=posterior.dtype, device=posterior.device))

    def log_density(w: np.ndarray) -> np.ndarray:
        value = posterior.log_density(unwhitened(w))
        return torch.where(value.isfinite(), value, -torch.inf).cpu().numpy()

    runs = []
    total = chains * (warmup + draws)
    with one_thread(), tqdm(total=total, disable=not progress, desc="Ensembles", unit="step") as bar:
        for chain_seed in seeds_from(seed, chains):
            sampler = emcee.EnsembleSampler(
                walkers, posterior.size, log_density, vectorize=True, moves=_MOVES if moves is None else moves
            )
            # emcee draws from a generator of its own, never from numpy's global one
            random = np.random.RandomState(chain_seed)
            sampler.random_state = random.get_state()
            start = _dispersed(random, (walkers, posterior.size), log_density)
            for _ in sampler.sample(start, iterations=warmup + draws):
                bar.update()
            runs.append(sampler)
    kept = [sampler.get_chain(discard=warmup) for sampler in runs]  # (draws, walkers, D) each
    with np.errstate(invalid="ignore"):  # of a walker that never moved it's a NaN, and so is that of all
        time = float(np.max([emcee.autocorr.integrated_time(chain, tol=0) for chain in kept]))
    if thin is None:
        thin = max(1, int(time / 2)) if np.isfinite(time) else 1
    positions = np.stack([_by_walker(chain[::thin]) for chain in kept])
    steps = len(kept[0][::thin])
    stats = {
        "lp": np.stack([_by_walker(sampler.get_log_prob(discard=warmup)[::thin]) for sampler in runs]),
        "acceptance_rate": np.stack([np.repeat(sampler.acceptance_fraction, steps) for sampler in runs]),
        "walker": np.tile(np.repeat(np.arange(walkers), steps), (chains, 1)),
        "step": np.tile(np.arange(0, draws, thin), (chains, walkers)),
    }
    attrs = {
        "method": "ensemble",
        "inference_sampler": f"emcee {emcee.__version__}",
        "walkers": walkers,
        "warmup": warmup,
        "thin": thin,
        "autocorrelation_time": time,
        "fit": fit.message,
    }
    z = unwhitened(positions)
    return to_inference_data(posterior, z, sample_stats=stats, seed=seed, attrs=attrs, failure=modes.unvisited(z))


def _by_walker(values: np.ndarray) -> np.ndarray:
    """(steps, walkers, ...) as (walkers x steps, ...): one walker after the other."""
    return np.swapaxes(values, 0, 1).reshape(-1, *values.shape[2:])


def _dispersed(
    random: np.random.RandomState, shape: tuple[int, int], log_density: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Starts around the centre of whitened coordinates, drawn nearer where the density is far below a Gaussian's."""
    start = DISPERSION * random.standard_normal(shape)
    lowest = log_density(np.zeros((1, shape[1])))[0] - 5 * shape[1] - 50
    for _ in range(_HALVINGS):
        lost = ~(log_density(start) > lowest)
        if not lost.any():
            return start
        start[lost] *= 0.5
    raise ValueError(
        "ensemble: expected a finite log density around the fit to start from, found none; start from another "
        "(init=inference.lm(model, init=...))"
    )
