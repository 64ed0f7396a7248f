"""Damped Newton steps up a log density: by the Gauss-Newton curvature, or the exact one where that leads up slowly.

Damping follows the gain ratio (Marquardt 1963; Nielsen 1999, IMM-REP-1999-05).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayesprof.inference.arrow import Arrow, Layout
from bayesprof.inference.fit import Density, Fit, exact_hessian, positive_curvature
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.sparse_matrix import SparseMatrix

MAX_ITERATIONS = 200
NEAR = 1.0  # decrement below which steps aren't damped
_DECREMENT = 1e-8  # converged when g^T H^-1 g, twice the expected gain in log density, falls below
_SLOW = 0.1  # where it is near and falls by less than this factor, the exact Hessian takes over
_STALLED = 1e-4  # the decrement at which rounding may stop a fit that has converged for all purposes
_LONGEST = 2.0  # step along an entry of z, in standard deviations of the prior where it is narrowest
_REFUSED = 5  # steps refused in one iteration, after which the exact Hessian is tried
_LEAST_GAIN = 1e-4  # in log density, relative to what the step promised
_REACH, _ON_IT = 10.0, 0.1  # standard deviations from a known maximum, and how far from its paraboloid, to end there
_UNKNOWN = 1e-13  # an eigenvalue, relative to the largest, that is rounding


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


def climb(
    target: Density,
    z: Tensor,
    *,
    max_iterations: int = MAX_ITERATIONS,
    decrement: float = _DECREMENT,
    known: Sequence[Fit] = (),
) -> Climb:
    """Climb `target` from `z` of shape (D,), in at most `max_iterations` damped Newton steps, until the Newton
    `decrement` is below the one given, or it will end at a `known` maximum.
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
        if _SLOW * previous < found < NEAR:
            # close to the maximum, but closing in slowly: the data scatter otherwise than the likelihood says
            exact = exact_hessian(target, z, curvature)
            curvature = curvature if exact is None else exact
            scale = curvature.diagonal().clamp(min=1e-12)
        previous = found
        if found < NEAR:
            damping = 0.0
        sharpest = torch.maximum(sharpest, prior.diagonal().nan_to_num(0.0))
        refused = 0
        while True:
            if refused == (0 if bent else _REFUSED) and found >= NEAR:
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
        for fit in known:
            if _leads_to(z, float(value), fit):
                return Climb(z, False, fit.log_density, iteration, "Came to where another start had led.")
        damping, growth = damping * max(1 / 3, 1 - (2 * ratio - 1) ** 3), 2.0
    message = (
        f"Stopped after {max_iterations} iterations at Newton decrement {found:.1e}. Parameters may be degenerate: "
        "hold one, or give it a narrower prior; or go on from here with init=fit."
    )
    return Climb(z, False, float(value), max_iterations, message)


def is_near(z: Tensor, fit: Fit) -> bool:
    """Whether `z` (D,) is within a standard deviation of a maximum."""
    offset = z - fit.z
    return float(offset @ (fit.hessian @ offset)) < 1


def _leads_to(z: Tensor, value: float, fit: Fit) -> bool:
    """Whether a climb that came to a log density of `value` at `z` (D,) will end at that maximum: `z` is near, or lies
    on its paraboloid.
    """
    offset = z - fit.z
    square = float(offset @ (fit.hessian @ offset))
    return square < 1 or (square < _REACH**2 and abs(fit.log_density - value - 0.5 * square) < _ON_IT * square)


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
