"""Descent by optimisers of torch and SciPy, and by steepest descent, in scaled coordinates.

In w = A^T (z - centre), where the curvature at the centre, A A^T, is the unit matrix, a gradient is a Newton step and a
learning rate is in standard deviations, whatever the units of the parameters and however strongly they are correlated.
Where a round of descent comes to an end the coordinates are renewed at the best point, and another follows.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from bayesprof.inference.bounds import Box, free_entries
from bayesprof.inference.constraints import Constrained
from bayesprof.inference.fit import newton_decrement, positive_curvature
from bayesprof.inference.posterior import Posterior

_RATE_OF_DISTANCE = 0.1  # largest learning rate, as a fraction of the predicted distance to the maximum
_FRUITLESS_ROUNDS = 4  # without a rise, each at a tenth of the learning rate before, and it is over
_ARMIJO = 1e-4  # least fraction of the expected rise (Nocedal & Wright 2006, section 3.1)
_SHORTEST_STEP = 1e-14
_REFUSED = 1e6  # takes the place, on the scale of log densities, of what isn't finite; finite for interpolations

TORCH = {
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


class Minimiser(NamedTuple):
    """What a method of scipy.optimize.minimize takes, and its settings in scaled coordinates."""

    name: str
    takes_bounds: bool
    takes_gradient: bool
    takes_curvature: bool
    options: dict[str, Any]
    steps: str = "maxiter"


SCIPY = {
    minimiser.name.lower(): minimiser
    for minimiser in (
        Minimiser("Nelder-Mead", True, False, False, {"xatol": 1e-4, "fatol": 1e-7, "adaptive": True}),
        Minimiser("Powell", True, False, False, {"xtol": 1e-4, "ftol": 1e-9}),
        Minimiser("COBYLA", True, False, False, {"tol": 1e-4}),
        Minimiser("COBYQA", True, False, False, {"final_tr_radius": 1e-4}),
        Minimiser("CG", False, True, False, {"gtol": 1e-4}),
        Minimiser("BFGS", False, True, False, {"gtol": 1e-4}),
        Minimiser("L-BFGS-B", True, True, False, {"gtol": 1e-4, "ftol": 1e-14}),
        Minimiser("TNC", True, True, False, {"gtol": 1e-4, "ftol": 1e-9, "xtol": 1e-6}, "maxfun"),
        Minimiser("SLSQP", True, True, False, {"ftol": 1e-9}),
        Minimiser("Newton-CG", False, True, True, {"xtol": 1e-5}),
        Minimiser("dogleg", False, True, True, {"gtol": 1e-4}),
        Minimiser("trust-ncg", False, True, True, {"gtol": 1e-4}),
        Minimiser("trust-krylov", False, True, True, {"gtol": 1e-4}),
        Minimiser("trust-exact", False, True, True, {"gtol": 1e-4}),
        # from the barrier that SciPy starts with it ends a tenth of a standard deviation short of a bound
        Minimiser(
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


class Search(NamedTuple):
    """What is climbed, and for how long."""

    target: Posterior | Constrained
    box: Box
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

    def __init__(self, search: Search, centre: Tensor, value: float, curvature: Tensor, steps: int) -> None:
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


Round = Callable[[_Scaled, _Pace], list[float]]  # descends from w = 0; the loss after every step


def descend(search: Search, z: Tensor, run: Round, *, rated: bool) -> _End:
    """Rounds of descent, each in coordinates scaled at the best point so far; `rated` rounds have a learning rate."""
    path: list[float] = []
    fruitless = 0
    while True:
        value, gradient, information, prior = search.target.expansion(z)
        if not bool(value.isfinite() & gradient.isfinite().all()):
            return _End(z, "the log density or its gradient isn't finite there", path, None)
        curvature = positive_curvature(information, prior)
        free = free_entries(search.box, z, gradient, curvature)
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
        path += [scaled.reference - loss for loss in run(scaled, pace)]
        fruitless = fruitless + 1 if -scaled.best < 0.5 * search.tolerance else 0
        z = torch.minimum(torch.maximum(scaled.z(scaled.best_w), search.box.lower), search.box.upper)


def torch_round(
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


def steepest_round(scaled: _Scaled, pace: _Pace) -> list[float]:
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


def scipy_round(minimiser: Minimiser, options: Mapping[str, Any], scaled: _Scaled, _: _Pace) -> list[float]:
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
