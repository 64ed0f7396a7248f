"""Optimisers other than Levenberg-Marquardt: torch's, steepest descent, SciPy's minimisers, differential evolution.

:func:`bayesprof.inference.lm` is faster on every model we know. These are for comparing, for densities whose
derivatives can't be trusted (Nelder-Mead), for bounds, and for several maxima (differential evolution).

All but the last descend in scaled coordinates (:mod:`bayesprof.inference.descent`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from bayesprof.inference.bounds import Box, box_of, moved_inside
from bayesprof.inference.constraints import Constrained, Constraint, constrained
from bayesprof.inference.descent import (
    SCIPY,
    TORCH,
    Minimiser,
    Round,
    Search,
    descend,
    scipy_round,
    steepest_round,
    torch_round,
)
from bayesprof.inference.fit import Fit, judged_at, start_at
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.randomness import seeds_from

_POPULATION_PER_DIMENSION, _LEAST_POPULATION = 10, 32
_ONE_MODE = 0.5  # spread of the log densities at which a population is on one maximum

_OTHERS = ("gradient-descent", "differential-evolution")


def optimize(
    model: Callable[..., Any] | Posterior,
    *args: Any,
    init: Mapping[str, Any] | Fit | None = None,
    method: str | type[torch.optim.Optimizer] = "nadam",
    seed: int = 0,
    max_steps: int = 2000,
    patience: int = 20,
    tolerance: float = 1e-6,
    learning_rate: float | None = None,
    bounds: Mapping[str, tuple[Any, Any]] | None = None,
    options: Mapping[str, Any] | None = None,
    constraints: Sequence[Constraint] = (),
    **kwargs: Any,
) -> Fit:
    """Fit `model` with an optimiser of your choice.

    Parameters
    ----------
    model, init, constraints
        As for :func:`lm`. `args` and `kwargs` are the model's.
    method : str or class
        A class of ``torch.optim``, or its name ("nadam", "adam", "lbfgs", "sgd"...); "gradient-descent", steepest
        descent with steps after Barzilai & Borwein (1988, IMA J. Numer. Anal. 8, 141) shortened until the rise is
        enough (Armijo); a method of ``scipy.optimize.minimize`` ("L-BFGS-B", "Nelder-Mead", "trust-constr"...);
        or "differential-evolution" (Storn & Price 1997), whose first population are draws of the prior, evaluated in
        batches, and which L-BFGS-B takes to the top of the maximum that it ends on. Case doesn't matter.
    seed : int
        Seed of differential evolution; the other methods draw nothing.
    max_steps : int
        Largest number of steps, over all rounds: generations of differential evolution, up to twenty iterations each
        of torch's LBFGS.
    patience : int
        Steps without a rise of half the `tolerance` before a round ends; for torch's optimisers and gradient descent.
    tolerance : float
        It is over when the Newton decrement, the squared distance to the maximum in standard deviations, is below.
    learning_rate : float, optional
        For torch's optimisers, in standard deviations: the longest step; a tenth of the distance to the maximum that
        the curvature predicts is never exceeded, and is the default. For those whose steps are in proportion to the
        gradient (SGD, ASGD, LBFGS, Adadelta), their fraction of a Newton step.
    bounds : mapping from site names to (lower, upper), optional
        In the space of the site's values; None for an open side. For SciPy's methods with bounds and differential
        evolution.
    options : mapping, optional
        Further options of the optimiser's constructor, of ``minimize``, or of ``differential_evolution``.

    Returns
    -------
    Fit
        As of :func:`lm`. Whether it converged is judged by the exact Hessian at its end, not by the optimiser: within a
        hundredth of a standard deviation of the maximum, or of the maximum within the bounds. Standard deviations are
        those of the posterior without bounds. ``path`` is the log density after every step.

    Raises
    ------
    ValueError, TypeError
        For methods that don't exist or don't take what they are given, and as :func:`lm`.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> def model():
    ...     mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    ...     pyro.sample("data", dist.Normal(mean, 1.0).expand([4]).to_event(1), obs=torch.tensor([1.0, 2.0, 3.0, 4.0]))
    >>> round(optimize(model, method="adam").params["mean"], 2)
    2.49
    >>> round(optimize(model, method="L-BFGS-B", bounds={"mean": (None, 2.0)}).params["mean"], 2)
    2.0
    """
    _check_numbers(max_steps=max_steps, patience=patience)
    if not (isinstance(tolerance, int | float) and 0 < tolerance < math.inf):
        raise ValueError(f"optimize: expected tolerance > 0, got {tolerance!r}")
    if learning_rate is not None and not (isinstance(learning_rate, int | float) and 0 < learning_rate < math.inf):
        raise ValueError(f"optimize: expected learning_rate > 0 or None, got {learning_rate!r}")
    method = _resolved(method)
    if bounds and not (method == "differential-evolution" or getattr(method, "takes_bounds", False)):
        able = [minimiser.name for minimiser in SCIPY.values() if minimiser.takes_bounds]
        raise ValueError(f"optimize: {_label(method)} takes no bounds; these do: {[*able, 'differential-evolution']}")
    posterior = model if isinstance(model, Posterior) else Posterior(model, *args, seed=seed, **kwargs)
    box = box_of(posterior, bounds or {})
    z = start_at(posterior, init)
    if bounds:
        z = moved_inside(posterior, box, z, given=set() if init is None or isinstance(init, Fit) else set(init))
    target = constrained(posterior, constraints, z)
    options = dict(options or {})
    search = Search(target, box, max_steps, patience, tolerance, learning_rate)
    if method == "differential-evolution":
        z, path = _evolve(posterior, target, z, box, seed, max_steps, options)
        polish = search._replace(max_steps=max(max_steps - len(path), 1))
        end = descend(polish, z, partial(scipy_round, SCIPY["l-bfgs-b"], {}), rated=False)
        end = end._replace(path=path + end.path, ending=f"differential evolution and L-BFGS-B: {end.ending}")
    else:
        end = descend(search, z, _round_of(method, options), rated=isinstance(method, type))
        end = end._replace(ending=f"{_label(method)}: {end.ending}")
    return judged_at(target, end.z, iterations=len(end.path), ending=end.ending, path=end.path, free=end.free)


# -- differential evolution


def _evolve(
    posterior: Posterior,
    target: Posterior | Constrained,
    z: Tensor,
    box: Box,
    seed: int,
    max_steps: int,
    options: dict[str, Any],
) -> tuple[Tensor, list[float]]:
    """The best point of a population that has evolved onto one maximum, and its log density after every generation."""
    size = max(_LEAST_POPULATION, _POPULATION_PER_DIMENSION * posterior.size)
    population = torch.stack([z, *(posterior.prior_draw(other) for other in seeds_from(seed, size - 1))])
    lowest, highest = population.amin(0), population.amax(0)
    # where no bound is given, the range of the prior's draws and half of it on either side
    margin = 0.5 * (highest - lowest)
    lower = torch.where(box.lower.isfinite(), box.lower, lowest - margin)
    upper = torch.where(box.upper.isfinite(), box.upper, highest + margin)
    population = torch.minimum(torch.maximum(population, lower), upper)
    path: list[float] = []

    def loss(columns: np.ndarray) -> np.ndarray:
        value = target.log_density(torch.as_tensor(columns.T, dtype=z.dtype, device=z.device))
        return torch.where(value.isfinite(), -value, torch.full_like(value, 1e100)).cpu().numpy()

    def keep(intermediate_result: scipy.optimize.OptimizeResult) -> None:
        path.append(-float(intermediate_result.fun))

    settings = {"maxiter": max_steps, "tol": 0.0, "atol": _ONE_MODE, "seed": np.random.default_rng(seed), **options}
    result = scipy.optimize.differential_evolution(
        loss,
        scipy.optimize.Bounds(lower.cpu().numpy(), upper.cpu().numpy()),
        init=population.cpu().numpy(),
        vectorized=True,
        updating="deferred",
        polish=False,
        callback=keep,
        **settings,
    )
    end = torch.as_tensor(result.x, dtype=z.dtype, device=z.device)
    return torch.minimum(torch.maximum(end, box.lower), box.upper), path


# -- arguments


def _check_numbers(**numbers: int) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"optimize: expected {name} >= 1, a whole number, got {value!r}")


def _resolved(method: Any) -> Any:
    """A torch optimiser, a minimiser of SciPy, or one of the other names."""
    if inspect.isclass(method) and issubclass(method, torch.optim.Optimizer):
        return method
    name = method.lower() if isinstance(method, str) else None
    if name in _OTHERS:
        return name
    if name in TORCH or name in SCIPY:
        return TORCH.get(name) or SCIPY[name]
    known = [*TORCH, *(minimiser.name for minimiser in SCIPY.values()), *_OTHERS]
    raise ValueError(f"optimize: expected a method of {known}, or a class of torch.optim, got {method!r}")


def _label(method: Any) -> str:
    return str(method if isinstance(method, str) else getattr(method, "name", None) or method.__name__)


def _round_of(method: Any, options: Mapping[str, Any]) -> Round:
    if method == "gradient-descent":
        if options:
            raise ValueError(f"optimize: gradient-descent takes no options, got {list(options)}")
        return steepest_round
    return partial(scipy_round if isinstance(method, Minimiser) else torch_round, method, options)
