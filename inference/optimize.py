"""Optimisers other than Levenberg-Marquardt: torch's, steepest descent, SciPy's minimisers, differential evolution.

:func:`bayesprof.inference.lm` is faster on every model we know. These are for comparing, for densities whose
derivatives can't be trusted (Nelder-Mead), for bounds, and for several maxima (differential evolution).

All but the last descend in scaled coordinates w = A^T (z - centre), where the curvature at the centre, A A^T, is the
unit matrix. There a gradient is a Newton step and a learning rate is in standard deviations, whatever the units of
the parameters and however strongly they are correlated. Where a round of descent comes to an end the coordinates are
renewed at the best point, and another follows.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from bayesprof.inference.constraints import Constrained, Constraint, constrained
from bayesprof.inference.fit import Fit, judged_at, newton_decrement, positive_curvature, start_at
from bayesprof.inference.posterior import Posterior, Site, seeds_from

_RATE_OF_DISTANCE = 0.1  # largest learning rate, as a fraction of the predicted distance to the maximum
_FRUITLESS_ROUNDS = 4  # without a rise, each at a tenth of the learning rate before, and it is over
_ARMIJO = 1e-4  # least fraction of the expected rise (Nocedal & Wright 2006, section 3.1)
_SHORTEST_STEP = 1e-14
_REFUSED = 1e6  # takes the place, on the scale of log densities, of what isn't finite; finite for interpolations
_AT_BOUND = 1e-3  # nearer than this, in standard deviations, an entry that is pushed outwards is held by its bound
_POPULATION_PER_DIMENSION, _LEAST_POPULATION = 10, 32
_ONE_MODE = 0.5  # spread of the log densities at which a population is on one maximum

_TORCH = {
    name.lower(): getattr(torch.optim, name)
    for name in (
        "Adadelta", "Adagrad", "Adam", "Adamax", "AdamW", "ASGD", "LBFGS", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD",
    )
}  # fmt: skip
# steps in proportion to the gradient, which is a Newton step in scaled coordinates; of the others the learning rate is
# the length
_PROPORTIONAL = {torch.optim.SGD: 0.3, torch.optim.ASGD: 0.3, torch.optim.LBFGS: 1.0, torch.optim.Adadelta: 1.0}
_TORCH_OPTIONS: dict[type, dict[str, Any]] = {
    torch.optim.LBFGS: {"line_search_fn": "strong_wolfe"},
    torch.optim.AdamW: {"weight_decay": 0.0},  # a pull towards the start, in these coordinates
}


class _Minimiser(NamedTuple):
    """What a method of scipy.optimize.minimize takes, and its settings in scaled coordinates."""

    name: str
    takes_bounds: bool
    takes_gradient: bool
    takes_curvature: bool
    options: dict[str, Any]
    steps: str = "maxiter"


_SCIPY = {
    minimiser.name.lower(): minimiser
    for minimiser in (
        _Minimiser("Nelder-Mead", True, False, False, {"xatol": 1e-4, "fatol": 1e-7, "adaptive": True}),
        _Minimiser("Powell", True, False, False, {"xtol": 1e-4, "ftol": 1e-9}),
        _Minimiser("COBYLA", True, False, False, {"tol": 1e-4}),
        _Minimiser("COBYQA", True, False, False, {"final_tr_radius": 1e-4}),
        _Minimiser("CG", False, True, False, {"gtol": 1e-4}),
        _Minimiser("BFGS", False, True, False, {"gtol": 1e-4}),
        _Minimiser("L-BFGS-B", True, True, False, {"gtol": 1e-4, "ftol": 1e-14}),
        _Minimiser("TNC", True, True, False, {"gtol": 1e-4, "ftol": 1e-9, "xtol": 1e-6}, "maxfun"),
        _Minimiser("SLSQP", True, True, False, {"ftol": 1e-9}),
        _Minimiser("Newton-CG", False, True, True, {"xtol": 1e-5}),
        _Minimiser("dogleg", False, True, True, {"gtol": 1e-4}),
        _Minimiser("trust-ncg", False, True, True, {"gtol": 1e-4}),
        _Minimiser("trust-krylov", False, True, True, {"gtol": 1e-4}),
        _Minimiser("trust-exact", False, True, True, {"gtol": 1e-4}),
        # from the barrier that SciPy starts with it ends a tenth of a standard deviation short of a bound
        _Minimiser(
            "trust-constr",
            True,
            True,
            True,
            {
                "gtol": 1e-5,
                "xtol": 1e-8,
                "barrier_tol": 1e-4,
                "initial_barrier_parameter": 1e-5,
                "initial_barrier_tolerance": 1e-5,
            },
        ),
    )
}
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
        able = [minimiser.name for minimiser in _SCIPY.values() if minimiser.takes_bounds]
        raise ValueError(f"optimize: {_label(method)} takes no bounds; these do: {[*able, 'differential-evolution']}")
    posterior = model if isinstance(model, Posterior) else Posterior(model, *args, seed=seed, **kwargs)
    box = _box(posterior, bounds or {})
    z = start_at(posterior, init)
    if bounds:
        z = _inside(posterior, box, z, given=set() if init is None or isinstance(init, Fit) else set(init))
    target = constrained(posterior, constraints, z)
    options = dict(options or {})
    search = _Search(target, box, max_steps, patience, tolerance, learning_rate)
    if method == "differential-evolution":
        z, path = _evolve(posterior, target, z, box, seed, max_steps, options)
        polish = search._replace(max_steps=max(max_steps - len(path), 1))
        end = _descend(polish, z, partial(_scipy_round, _SCIPY["l-bfgs-b"], {}), rated=False)
        end = end._replace(path=path + end.path, ending=f"differential evolution and L-BFGS-B: {end.ending}")
    else:
        end = _descend(search, z, _round_of(method, options), rated=isinstance(method, type))
        end = end._replace(ending=f"{_label(method)}: {end.ending}")
    return judged_at(target, end.z, iterations=len(end.path), ending=end.ending, path=end.path, free=end.free)


# -- rounds of descent in scaled coordinates


class _Box(NamedTuple):
    """Bounds in the unconstrained space, infinite where there are none, and whether there are any."""

    lower: Tensor
    upper: Tensor

    @property
    def any(self) -> bool:
        return bool(self.lower.isfinite().any() | self.upper.isfinite().any())


class _Search(NamedTuple):
    """What is climbed, and for how long."""

    target: Posterior | Constrained
    box: _Box
    max_steps: int
    patience: int
    tolerance: float
    learning_rate: float | None


class _End(NamedTuple):
    """Where a descent left off, why, the log density after every step, and which entries no bound holds."""

    z: Tensor
    ending: str
    path: list[float]
    free: Tensor | None


class _Scaled:
    """Minus the log density above its value at the centre, in the coordinates w = A^T (z - centre).

    A is the Cholesky factor of the curvature at the centre; with bounds the root of its diagonal, under which a box
    stays a box. Keeps the best point that it was evaluated at.
    """

    def __init__(self, search: _Search, centre: Tensor, value: float, curvature: Tensor, steps: int) -> None:
        self.target, self.centre, self.reference, self.steps = search.target, centre, value, steps
        diagonal = curvature.diagonal().clamp(min=1e-30).sqrt()
        factor = torch.diag(diagonal)
        if not search.box.any:
            # the small addition keeps a singular curvature invertible
            unit = torch.eye(len(centre), dtype=centre.dtype, device=centre.device)
            factor = torch.linalg.cholesky(curvature + 1e-10 * torch.diag(diagonal**2) + 1e-30 * unit)
        self.factor = factor
        self.bounds = tuple((edge - centre) * diagonal for edge in search.box) if search.box.any else None
        self.best, self.best_w = 0.0, torch.zeros_like(centre)

    def z(self, w: Tensor) -> Tensor:
        return self.centre + torch.linalg.solve_triangular(self.factor.T, w[:, None], upper=True)[:, 0]

    def value(self, w: Tensor) -> float:
        return self._kept(w, self.target.log_density(self.z(w)))

    def value_and_grad(self, w: Tensor) -> tuple[float, Tensor]:
        value, gradient = self.target.value_and_grad(self.z(w))
        if not bool(value.isfinite() & gradient.isfinite().all()):
            return _REFUSED, torch.zeros_like(w)
        return self._kept(w, value), -torch.linalg.solve_triangular(self.factor, gradient[:, None], upper=False)[:, 0]

    def _kept(self, w: Tensor, value: Tensor) -> float:
        loss = self.reference - float(value)
        if loss < self.best:
            self.best, self.best_w = loss, w.clone()
        return loss if math.isfinite(loss) else _REFUSED

    def curvature(self, w: Tensor) -> Tensor:
        _, _, information, prior = self.target.expansion(self.z(w))
        whole = positive_curvature(information, prior)
        half = torch.linalg.solve_triangular(self.factor, whole, upper=False)
        return torch.linalg.solve_triangular(self.factor, half.T, upper=False)


class _Pace(NamedTuple):
    """How a round goes: `tenth` of the distance to the maximum, the learning rate asked for, by how much both are cut
    after rounds without a rise, and when a round is over.
    """

    tenth: float
    learning_rate: float | None
    cut: float
    patience: int
    tolerance: float


_Round = Callable[[_Scaled, _Pace], list[float]]  # descends from w = 0; the loss after every step


def _descend(search: _Search, z: Tensor, descend: _Round, *, rated: bool) -> _End:
    """Rounds of descent, each in coordinates scaled at the best point so far; `rated` rounds have a learning rate."""
    path: list[float] = []
    fruitless = 0
    while True:
        value, gradient, information, prior = search.target.expansion(z)
        if not bool(value.isfinite() & gradient.isfinite().all()):
            return _End(z, "the log density or its gradient isn't finite there", path, None)
        curvature = positive_curvature(information, prior)
        free = _free(search.box, z, gradient, curvature)
        decrement = newton_decrement(gradient, curvature, free)
        held = "" if free is None or bool(free.all()) else f", {int((~free).sum())} at their bounds"
        if decrement < search.tolerance:
            return _End(z, f"tolerance reached, steps: {len(path)}{held}", path, free)
        if len(path) >= search.max_steps:
            return _End(z, f"all {search.max_steps} steps used{held}", path, free)
        if fruitless >= (_FRUITLESS_ROUNDS if rated else 1):
            return _End(z, f"no further rise, steps: {len(path)}{held}", path, free)
        tenth = _RATE_OF_DISTANCE * math.sqrt(decrement)
        pace = _Pace(tenth, search.learning_rate, 0.1**fruitless, search.patience, search.tolerance)
        scaled = _Scaled(search, z, float(value), curvature, search.max_steps - len(path))
        path += [scaled.reference - loss for loss in descend(scaled, pace)]
        fruitless = fruitless + 1 if -scaled.best < 0.5 * search.tolerance else 0
        z = torch.minimum(torch.maximum(scaled.z(scaled.best_w), search.box.lower), search.box.upper)


def _free(box: _Box, z: Tensor, gradient: Tensor, curvature: Tensor) -> Tensor | None:
    """Which entries aren't held by a bound that the gradient pushes against; None without bounds."""
    if not box.any:
        return None
    near = _AT_BOUND / curvature.diagonal().clamp(min=1e-30).sqrt()
    return ~(((z - box.lower < near) & (gradient < 0)) | ((box.upper - z < near) & (gradient > 0)))


def _torch_round(
    optimiser: type[torch.optim.Optimizer], options: Mapping[str, Any], scaled: _Scaled, pace: _Pace
) -> list[float]:
    """Steps of a torch optimiser, until `patience` of them in a row brought no rise."""
    w = torch.zeros_like(scaled.centre).requires_grad_()
    rate = min(pace.tenth, pace.learning_rate or math.inf)
    for kind, fraction in _PROPORTIONAL.items():
        if issubclass(optimiser, kind):
            rate = pace.learning_rate or fraction
    defaults = next((settings for kind, settings in _TORCH_OPTIONS.items() if issubclass(optimiser, kind)), {})
    stepper = optimiser([w], **{"lr": rate * pace.cut, **defaults, **options})
    path: list[float] = []
    slope = math.inf

    def closure() -> float:
        nonlocal slope
        loss, gradient = scaled.value_and_grad(w.detach())
        slope = float(gradient @ gradient)
        w.grad = gradient
        return loss

    waited = 0
    while waited < pace.patience and len(path) < scaled.steps:
        before = scaled.best
        # the loss where the step set out from
        path.append(float(stepper.step(closure)))
        waited = waited + 1 if before - scaled.best < 0.5 * pace.tolerance else 0
        if 0 < slope < 0.1 * pace.tolerance:
            break
    return path


def _steepest_round(scaled: _Scaled, pace: _Pace) -> list[float]:
    """Steps against the gradient, each as long as the curvature along the last one suggests and shortened until it
    brings a rise.
    """
    w = torch.zeros_like(scaled.centre)
    loss, gradient = scaled.value_and_grad(w)
    path: list[float] = []
    length, waited = 1.0, 0
    while waited < pace.patience and len(path) < scaled.steps:
        slope = float(gradient @ gradient)
        if slope < 0.1 * pace.tolerance:
            break
        while True:
            trial_loss, trial_gradient = scaled.value_and_grad(w - length * gradient)
            if trial_loss <= loss - _ARMIJO * length * slope:
                break
            length *= 0.5
            if length < _SHORTEST_STEP:
                return path
        bend = float(-gradient @ (trial_gradient - gradient)) * length
        waited = waited + 1 if loss - trial_loss < 0.5 * pace.tolerance else 0
        w, length = w - length * gradient, length**2 * slope / bend if bend > 0 else 2 * length
        loss, gradient = trial_loss, trial_gradient
        path.append(loss)
    return path


def _scipy_round(minimiser: _Minimiser, options: Mapping[str, Any], scaled: _Scaled, _: _Pace) -> list[float]:
    """One run of scipy.optimize.minimize, which ends by its own rules."""
    path: list[float] = []

    def loss(w: np.ndarray) -> Any:
        point = torch.as_tensor(w).to(scaled.centre)
        if not minimiser.takes_gradient:
            return scaled.value(point)
        value, gradient = scaled.value_and_grad(point)
        return value, gradient.cpu().numpy()

    def curvature(w: np.ndarray) -> np.ndarray:
        return scaled.curvature(torch.as_tensor(w).to(scaled.centre)).cpu().numpy()

    bounds = scaled.bounds and scipy.optimize.Bounds(*(edge.cpu().numpy() for edge in scaled.bounds))
    with warnings.catch_warnings():
        # a trial outside the bounds, which SLSQP clips, and divisions by steps of no length
        warnings.simplefilter("ignore", RuntimeWarning)
        scipy.optimize.minimize(
            loss,
            np.zeros(len(scaled.centre)),
            method=minimiser.name,
            jac=minimiser.takes_gradient or None,
            hess=curvature if minimiser.takes_curvature else None,
            bounds=bounds,
            callback=lambda *_: path.append(scaled.best),
            options={minimiser.steps: scaled.steps, **minimiser.options, **options},
        )
    return path or [scaled.best]


# -- differential evolution


def _evolve(
    posterior: Posterior,
    target: Posterior | Constrained,
    z: Tensor,
    box: _Box,
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
    if name in _TORCH or name in _SCIPY:
        return _TORCH.get(name) or _SCIPY[name]
    known = [*_TORCH, *(minimiser.name for minimiser in _SCIPY.values()), *_OTHERS]
    raise ValueError(f"optimize: expected a method of {known}, or a class of torch.optim, got {method!r}")


def _label(method: Any) -> str:
    return str(method if isinstance(method, str) else getattr(method, "name", None) or method.__name__)


def _round_of(method: Any, options: Mapping[str, Any]) -> _Round:
    if method == "gradient-descent":
        if options:
            raise ValueError(f"optimize: gradient-descent takes no options, got {list(options)}")
        return _steepest_round
    return partial(_scipy_round if isinstance(method, _Minimiser) else _torch_round, method, options)


def _box(posterior: Posterior, bounds: Mapping[str, tuple[Any, Any]]) -> _Box:
    """Bounds on values as bounds in the unconstrained space, where the transforms of sites are monotone."""
    lower = torch.full((posterior.size,), -torch.inf, dtype=posterior.dtype, device=posterior.device)
    upper = torch.full_like(lower, torch.inf)
    sites = {site.name: site for site in posterior.sites}
    for name, pair in bounds.items():
        if name not in sites:
            raise ValueError(f"bounds: the model has no latent site {name!r}; it has {list(sites)}")
        site = sites[name]
        transform = site.transform
        while isinstance(transform, torch.distributions.transforms.IndependentTransform):
            transform = transform.base_transform
        if transform.codomain.event_dim > 0:
            raise ValueError(
                f"bounds: expected a site whose entries are free of each other, got {name!r}; its support ties them "
                "together. Bound it with a prior instead"
            )
        low, high = _edges(name, pair, site, lower)
        # a bound at the edge of the support or beyond is no bound
        support = getattr(site.support, "base_constraint", site.support)
        bottom, top = getattr(support, "lower_bound", -torch.inf), getattr(support, "upper_bound", torch.inf)
        if bool((high <= bottom).any() or (low >= top).any()):
            raise ValueError(f"bounds: expected values inside the support of {name!r}, {support}, got {pair!r}")
        middle = torch.zeros_like(low)
        rising = transform(middle + 1) > transform(middle)
        at_low = torch.where(low > bottom, transform.inv(low), torch.where(rising, -torch.inf, torch.inf))
        at_high = torch.where(high < top, transform.inv(high), torch.where(rising, torch.inf, -torch.inf))
        lower[site.place] = torch.minimum(at_low, at_high).reshape(-1)
        upper[site.place] = torch.maximum(at_low, at_high).reshape(-1)
    return _Box(lower, upper)


def _edges(name: str, pair: Any, site: Site, like: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of a site's entries."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(f"bounds: expected {name!r}: (lower, upper), with None for an open side, got {pair!r}")
    low, high = (
        torch.as_tensor(open_side if edge is None else edge, dtype=like.dtype, device=like.device)
        for edge, open_side in zip(pair, (-math.inf, math.inf), strict=True)
    )
    for edge in (low, high):
        if edge.ndim and edge.shape != site.shape:
            raise ValueError(
                f"bounds: expected numbers or shape {tuple(site.shape)} for {name!r}, got {tuple(edge.shape)}"
            )
    if not bool((low < high).all()):
        raise ValueError(f"bounds: expected lower < upper for {name!r}, got {pair!r}")
    return low.expand(site.shape), high.expand(site.shape)


def _inside(posterior: Posterior, box: _Box, z: Tensor, *, given: set[str]) -> Tensor:
    """`z` within the box: starting values that were `given` must be, others are moved there."""
    inside = torch.minimum(torch.maximum(z, box.lower), box.upper)
    for site in posterior.sites:
        if site.name in given and not torch.equal(inside[site.place], z[site.place]):
            value = posterior.constrain(z)[site.name].tolist()
            raise ValueError(f"init: expected {site.name!r} within its bounds, got {value}")
    return inside
