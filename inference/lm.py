"""Levenberg-Marquardt: the maximum of the posterior and its curvature, for any Pyro model.

The gradient is exact. The curvature is the generalised Gauss-Newton matrix: the Fisher information of the observed
sites plus the positive part of minus the Hessian of the log prior. Damping follows the gain ratio (Marquardt 1963;
Nielsen 1999, IMM-REP-1999-05).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayesprof.inference.arrow import Arrow, Layout
from bayesprof.inference.constraints import Constrained, Constraint, constrained
from bayesprof.inference.fit import (
    FEW,
    Density,
    Fit,
    curvature_at,
    exact_hessian,
    fit_at,
    positive_curvature,
    start_at,
)
from bayesprof.inference.modes import modes_at
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.randomness import seeds_from
from bayesprof.inference.sparse_fit import SparseTarget, sparse_fit_at, sparse_target
from bayesprof.inference.sparse_matrix import SparseFactor, SparseMatrix
from bayesprof.threads import one_thread

_MAX_ITERATIONS = 200
_DECREMENT = 1e-8  # converged when g^T H^-1 g, twice the expected gain in log density, falls below
_CLOSE = 3e-5  # that at which the exact Hessian is taken
_LAST = 1e-7  # that at which it is the maximum's, to 1e-4, and a step by it leaves about the square
_ROUNDS = 12  # exact Hessians of a curvature kept sparse, until steps by them lead to the maximum
_CLOSING = 0.3  # a decrement, as a fraction of the last, above which steps by one Hessian end
_SHORTER = (1.0, 0.5, 0.25, 0.1, 0.03)  # parts of a step by that Hessian that are tried, until one leads up
_ROUNDING = 1e-12  # of a log density
_STALLED = 1e-4  # the decrement at which rounding may stop a fit that has converged for all purposes
# below this decrement steps aren't damped, and when it falls by less than this factor, the exact Hessian takes over
_NEAR, _SLOW = 1.0, 0.1
_LONGEST = 2.0  # step along an entry of z, in standard deviations of the prior where it is narrowest
_REFUSED = 5  # steps refused in one iteration, after which the exact Hessian is tried
_LEAST_GAIN = 1e-4  # in log density, relative to what the step promised
_UNKNOWN = 1e-13  # an eigenvalue, relative to the largest, that is rounding
_FURTHER = 60  # most iterations from a further start
_BELOW = 20.0  # the best end in log density, for another maximum to be of no account
_STARTS, _SEARCHED = 4, 24  # starts, and the parameters up to which draws of the prior lead to other maxima


class Climb(NamedTuple):
    """Where a climb ended, whether at a stationary point, and how; and the Gauss-Newton curvature a negligible step
    before, where it converged.
    """

    z: Tensor
    converged: bool
    log_density: float
    iterations: int
    message: str
    gauss_newton: Any = None


@one_thread()
def lm(
    model: Callable[..., Any] | Posterior,
    *args: Any,
    init: Mapping[str, Any] | Fit | None = None,
    seed: int = 0,
    starts: int = 1,
    constraints: Sequence[Constraint] = (),
    compile: bool = False,
    **kwargs: Any,
) -> Fit:
    """Fit `model`: the maximum of its posterior, and the Hessian there.

    Parameters
    ----------
    model : callable or Posterior
        Any Pyro model with continuous latent sites, a :class:`bayesprof.Scene` for one, or the Posterior of it
        (which keeps what it has captured, so that further fits start at once). `args` and `kwargs` are the model's.
    init : mapping or Fit, optional
        Values to start from, by site name; sites left out start from the model's ``initial_values()``, which a
        scene reads off its image, or else from the median of their prior.
    seed : int
        Seed of the further starts.
    starts : int
        Number of starts, the first from `init` and the others from draws of the prior; the best end counts, and what
        else they found is in ``fit.others``.
    constraints : sequence of Constraint
        Gaussian constraints on functions of the parameters. They count as data, as an observed site would.
    compile : bool
        Compile what a fit evaluates (:meth:`Posterior.prepare`). That takes longer than a fit, and makes fits twice as
        fast: for the same model on many images (:meth:`Posterior.with_data`).

    Returns
    -------
    Fit
        With ``converged`` False, and the reason in ``message``, when it failed.

    Raises
    ------
    ValueError, TypeError
        For starting values outside the priors or of unknown sites, for constraints on functions that aren't of the
        parameters, and for models that :class:`Posterior` refuses.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> def model():
    ...     mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    ...     pyro.sample("data", dist.Normal(mean, 1.0).expand([4]).to_event(1), obs=torch.tensor([1.0, 2.0, 3.0, 4.0]))
    >>> fit = lm(model)
    >>> round(fit.params["mean"], 3), round(fit.std["mean"], 3)
    (2.494, 0.499)
    """
    if isinstance(starts, bool) or not isinstance(starts, int) or starts < 1:
        raise ValueError(f"lm: expected starts >= 1, a whole number, got {starts!r}")
    posterior = model if isinstance(model, Posterior) else Posterior(model, *args, seed=seed, **kwargs)
    if compile:
        _compile(posterior)
    points = [start_at(posterior, init)]
    points += [posterior.prior_draw(other) for other in seeds_from(seed, starts - 1)]
    target = constrained(posterior, constraints, points[0])
    sparse = sparse_target(posterior, points[0]) if target is posterior else None
    climbs: list[Climb] = []
    for point in points:
        most = _FURTHER if climbs else _MAX_ITERATIONS
        climbs.append(
            climb(target, point, decrement=_CLOSE, max_iterations=most, known=climbs)
            if sparse is None
            else climb(sparse, point, decrement=_NEAR)
        )
    best = max(climbs, key=lambda end: (end.log_density > float("-inf"), end.log_density))
    found = _at_summit(target, best) if sparse is None else _at_sparse_summit(sparse, best)
    if starts == 1:
        return found
    if sparse is None:
        found = replace(found, others=_other_maxima(target, found, climbs))
    ends = ", ".join(f"{end.log_density:.2f}" for end in sorted(climbs, key=lambda end: -end.log_density))
    message = f"{found.message} Best of {starts} starts, which ended at log densities {ends}."
    if found.others:
        elsewhere = float(modes_at(posterior, found).shares[1:].sum())
        message += f" About {100 * elsewhere:.2g}% of the probability are at other maxima than the most probable one."
    return replace(found, message=message)


def starts_for(posterior: Posterior) -> int:
    """Starts that a search for several maxima is worth: 4, or 1 where there are so many parameters that a draw of the
    prior is far off in some of them.
    """
    return _STARTS if posterior.size <= _SEARCHED else 1


def _other_maxima(target: Posterior | Constrained, best: Fit, climbs: Sequence[Climb]) -> tuple[Fit, ...]:
    """The maxima that climbs ended at, but for the `best`, as far as they may hold any of the probability."""
    found = [best]
    for end in sorted(climbs, key=lambda end: -end.log_density):
        if not end.converged or end.log_density < best.log_density - _BELOW:
            continue
        if any(_is_near(end.z, fit.z, fit.hessian) for fit in found):
            continue
        fit = _at_summit(target, end)
        if fit.converged and not any(_is_near(fit.z, other.z, other.hessian) for other in found):
            found.append(fit)
    return tuple(found[1:])


def _is_near(z: Tensor, maximum: Tensor, curvature: Tensor) -> bool:
    """Whether `z` is within a standard deviation of a maximum, (D,) both."""
    offset = z - maximum
    return float(offset @ (curvature @ offset)) < 1


def _compile(posterior: Posterior) -> None:
    """Compile the functions that a fit evaluates."""
    posterior.prepare("expansion", batch=1, calls=1, compile=True)
    posterior.prepare("log_density", batch=1, calls=1, compile=True)
    posterior.prepare("summary", batch=1, calls=1, compile=True)
    if posterior.size > FEW:
        posterior.prepare("hessian", batch=1, calls=1, compile=True)
    else:
        posterior.prepare("value_and_grad", batch=2 * posterior.size, calls=1, compile=True)


def fitted(
    posterior: Posterior,
    init: Fit | Mapping[str, Any] | None,
    seed: int,
    *,
    starts: int = 1,
    compile: bool = False,
) -> Fit:
    """`init` where it is a fit of this posterior, else the fit from there; what every other method sets out from."""
    if not isinstance(init, Fit):
        return lm(posterior, init=init, seed=seed, starts=starts, compile=compile)
    if len(init.z) != posterior.size:
        raise ValueError(
            f"init: expected a fit of this model, whose posterior has {posterior.size} dimensions, got one of "
            f"{len(init.z)}; fit it with inference.lm"
        )
    return init


def _at_summit(target: Posterior | Constrained, near: Climb) -> Fit:
    """The fit at the maximum that a climb has come close to: a step by the exact Hessian, whose differences are taken
    in any case, from there; or, where that isn't enough, the rest of the climb.
    """
    found = curvature_at(target, near.z, near.gauss_newton)
    if near.converged and found.decrement < _LAST:
        end = _stepped(near, found.step, found.decrement, found.log_density)
    elif near.converged:
        rest = climb(target, near.z)
        return fit_at(target, **rest._replace(iterations=near.iterations + rest.iterations)._asdict())
    else:
        end = near
    return fit_at(target, **end._asdict(), curvature=found)


def _at_sparse_summit(target: SparseTarget, near: Climb) -> Fit:
    """As :func:`_at_summit`, of a curvature kept sparse, whose exact form costs as much as several steps: it is made
    early, and steps by it go on with a gradient each. Where it isn't known, or leads nowhere, the rest of the climb.
    """
    if not near.converged:
        return sparse_fit_at(target, **near._asdict())
    end, hessian = near, None
    for _ in range(_ROUNDS):
        value, gradient, hessian = target.hessian(end.z)
        positive = None if hessian is None else hessian.positive()
        factor = None if positive is None else positive.factor()
        if factor is None:
            break
        before = end.iterations
        end, ended = _by_one_hessian(target, factor, end, value, gradient)
        moved = end.iterations > before
        if ended:
            exact = target.hessian(end.z)[2] if moved else hessian
            return sparse_fit_at(target, **end._asdict(), hessian=exact)
        if not moved:
            break
    rest = climb(target, end.z)
    rest = rest._replace(iterations=end.iterations + rest.iterations)
    return sparse_fit_at(target, **rest._asdict(), hessian=None if hessian is None else target.hessian(rest.z)[2])


def _by_one_hessian(
    target: SparseTarget, factor: SparseFactor, end: Climb, value: Tensor, gradient: Tensor
) -> tuple[Climb, bool]:
    """Steps by one Hessian, given its `factor`, from `end`, where the log density has that `value` and `gradient`, as
    long as they close in and needn't be shortened; and whether they ended at the maximum.
    """
    previous, part = math.inf, 1.0
    while True:
        step = factor.solve(gradient)
        found = float(gradient @ step)
        if found < _LAST:
            return _stepped(end, step, found, float(value)), True
        if part < 1 or not found < _CLOSING * previous:
            return end, False
        for part in _SHORTER:
            reached, slope = target.value_and_grad(end.z + part * step)
            if bool(reached - value > -_ROUNDING * abs(value)):
                break
        else:
            return end, False
        end = end._replace(z=end.z + part * step, iterations=end.iterations + 1)
        value, gradient, previous = reached, slope, found


def _stepped(near: Climb, step: Tensor, decrement: float, log_density: float) -> Climb:
    """The end of a climb after the last step, from where the log density is the one given."""
    return near._replace(
        z=near.z + step,
        log_density=log_density + 0.5 * decrement,
        message=f"Converged: Newton decrement {decrement:.1e} before the last step.",
    )


def climb(
    target: Density,
    z: Tensor,
    *,
    max_iterations: int = _MAX_ITERATIONS,
    decrement: float = _DECREMENT,
    known: Sequence[Climb] = (),
) -> Climb:
    """Climb `target` from `z` of shape (D,), in at most `max_iterations` damped Newton steps, until the Newton
    `decrement` is below the one given, or it comes near a `known` end.
    """
    value, gradient, information, prior = target.expansion(z)
    if not bool(value.isfinite()):
        message = "The log density at the start isn't finite; give other starting values (init=)."
        return Climb(z, False, float("-inf"), 0, message)
    layout = target.layout if isinstance(target, Posterior) else None
    damping, growth = 1e-3, 2.0
    previous = float("inf")
    exact: Any = None
    bent = False  # whether the last step was by an exact Hessian, far from the maximum
    sharpest = torch.zeros_like(z)  # the largest curvature that the log prior has shown along each entry of z
    for iteration in range(1, max_iterations + 1):
        curvature = positive_curvature(information, prior, layout) if exact is None else exact
        scale = curvature.diagonal().clamp(min=1e-12)
        step, found = _solve(curvature, gradient, scale, 0.0, layout)
        if found < decrement:
            # the step that shows it is known: it makes the end exact
            message = f"Converged: Newton decrement {found:.1e}."
            gauss_newton = positive_curvature(information, prior, layout)
            return Climb(z + step, True, float(value), iteration, message, gauss_newton)
        if _SLOW * previous < found < _NEAR:
            # close to the maximum, but closing in slowly: the data scatter otherwise than the likelihood says
            exact = exact_hessian(target, z, curvature)
            curvature = curvature if exact is None else exact
            scale = curvature.diagonal().clamp(min=1e-12)
        previous = found
        if found < _NEAR:
            damping = 0.0
        sharpest = torch.maximum(sharpest, prior.diagonal().nan_to_num(0.0))
        refused = 0
        while True:
            if refused == (0 if bent else _REFUSED) and found >= _NEAR:
                # near a bound most of the curvature is that of the map to it, which Gauss-Newton leaves out
                bending = exact_hessian(target, z, curvature)
                bent = bending is not None
                if bending is not None:
                    curvature, damping, growth = bending, 0.0, 2.0
                    scale = curvature.diagonal().clamp(min=1e-12)
            step = within(_LONGEST / sharpest.sqrt(), curvature, gradient, scale, damping, layout)
            expected = float(gradient @ step - 0.5 * step @ (curvature @ step))

            def ratio_to(reached: Tensor, start: Tensor = value, expected: float = expected) -> float:
                return float(reached - start) / expected if expected > 0 else -1.0

            # where one step was refused the next may be: its value alone costs a tenth
            if not refused or ratio_to(target.log_density(z + step)) > _LEAST_GAIN:
                trial = target.expansion(z + step)
                ratio = ratio_to(trial[0])
                if ratio > _LEAST_GAIN and bool(trial[1].isfinite().all()):
                    break
            refused += 1
            damping, growth = max(damping, 1e-6) * growth, 2 * growth
            if damping > 1e12:
                if found < _STALLED:
                    message = f"Converged to rounding: Newton decrement {found:.1e}."
                    return Climb(z, True, float(value), iteration, message)
                message = (
                    f"Stopped: no step raises the log density, at Newton decrement {found:.1e}. The model may be "
                    "discontinuous or its derivatives wrong there; try other starting values (init=) or starts=4."
                )
                return Climb(z, False, float(value), iteration, message)
        z = z + step
        value, gradient, information, prior = trial
        for end in known:
            if end.gauss_newton is not None and _is_near(z, end.z, end.gauss_newton):
                return Climb(z, False, end.log_density, iteration, "Came to where another start had led.")
        damping, growth = damping * max(1 / 3, 1 - (2 * ratio - 1) ** 3), 2.0
    message = (
        f"Stopped after {max_iterations} iterations at Newton decrement {found:.1e}. Parameters may be degenerate: "
        "hold one, or give it a narrower prior; or go on from here with init=fit."
    )
    return Climb(z, False, float(value), max_iterations, message)


def within(
    longest: Tensor,
    curvature: Tensor | SparseMatrix,
    gradient: Tensor,
    scale: Tensor,
    damping: float,
    layout: Layout | None,
) -> Tensor:
    """Step of the damped system of which no entry is longer than `longest` (D,): those that would be are as long as
    that, and the others are solved for given them; in a sparse matrix they stay as they are. In an arrow, the whole
    step is shortened.
    """
    step, _ = _solve(curvature, gradient, scale, damping, layout)
    if isinstance(curvature, SparseMatrix):
        return torch.minimum(torch.maximum(step, -longest), longest)
    if layout is not None:
        return step * min(1.0, float((longest / step.abs().clamp(min=1e-30)).min()))
    held = torch.zeros_like(step, dtype=torch.bool)
    while bool((beyond := (step.abs() > longest) & ~held).any()):
        held |= beyond
        step = torch.where(beyond, longest.copysign(step), step)
        free = ~held
        pull = gradient[free] - curvature[free][:, held] @ step[held]
        if not bool(free.any()):
            break
        step[free] = _solve(curvature[free][:, free], pull, scale[free], damping)[0]
    return step


def _solve(
    curvature: Tensor | SparseMatrix, gradient: Tensor, scale: Tensor, damping: float, layout: Layout | None = None
) -> tuple[Tensor, float]:
    """Step of the damped system, in units where its diagonal is 1, and the decrement g^T step. `layout` : of the arrow
    that `curvature` is, where it is one.
    """
    if isinstance(curvature, SparseMatrix):
        factor = curvature.factor(damping) or curvature.factor(damping + _UNKNOWN)
        step = gradient / scale if factor is None else factor.solve(gradient)
        return step, float(gradient @ step)
    root = scale.sqrt()
    arrow = None if layout is None else Arrow.from_dense(layout, curvature).scaled(1 / root, ridge=damping).factor()
    if arrow is not None:
        step = arrow.solve(gradient / root) / root
        return step, float(gradient @ step)
    system = curvature / torch.outer(root, root)
    system = system + damping * torch.eye(len(root), dtype=system.dtype, device=system.device)
    factor, failed = torch.linalg.cholesky_ex(system)
    right = gradient / root
    if bool(failed):  # singular to rounding: the directions that it knows nothing of are left alone
        values, vectors = torch.linalg.eigh(system)
        known = values > _UNKNOWN * values.max()
        solution = vectors @ torch.where(known, (vectors.T @ right) / values, 0.0)
    else:
        solution = torch.cholesky_solve(right[:, None], factor)[:, 0]
    step = solution / root
    return step, float(gradient @ step)
