"""Levenberg-Marquardt: the maximum of the posterior and its curvature, for any Pyro model.

The gradient is exact. The curvature is the generalised Gauss-Newton matrix: the Fisher information of the observed
sites plus the positive part of minus the Hessian of the log prior. Damping follows the gain ratio (Marquardt 1963;
Nielsen 1999, IMM-REP-1999-05).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bayesprof.inference.fit import Fit, moments_at
from bayesprof.inference.information import chi_square, degrees_of_freedom
from bayesprof.inference.posterior import Posterior, seeds_from

_MAX_ITERATIONS = 200
_DECREMENT = 1e-8  # converged when g^T H^-1 g, twice the expected gain in log density, falls below
_STALLED = 1e-4  # the decrement at which rounding may stop a fit that has converged for all purposes
_NEAR, _SLOW = (
    1.0,
    0.1,
)  # below this decrement, and when it falls by less than this factor, the exact Hessian takes over
_SINGULAR = 1e-13  # smallest eigenvalue of a curvature whose diagonal is 1, above rounding
_DIFFERENCE = 1e-3  # step of the Hessian's differences, in standard deviations


def lm(
    model: Callable[..., Any] | Posterior,
    *args: Any,
    init: Mapping[str, Any] | Fit | None = None,
    seed: int = 0,
    starts: int = 1,
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
        Number of starts, the first from `init` and the others from draws of the prior; the best end counts.

    Returns
    -------
    Fit
        With ``converged`` False, and the reason in ``message``, when it failed.

    Raises
    ------
    ValueError, TypeError
        For starting values outside the priors or of unknown sites, and for models that :class:`Posterior` refuses.

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
    values = init.params if isinstance(init, Fit) else init
    latent = {site.name for site in posterior.sites}
    if isinstance(init, Fit):
        values = {name: value for name, value in init.params.items() if name in latent}
    points = [posterior.initial(values)]
    points += [posterior.prior_draw(other) for other in seeds_from(seed, starts - 1)]
    fits = [_climb(posterior, point) for point in points]
    best = max(fits, key=lambda fit: (fit[2] > float("-inf"), fit[2]))
    found = _finish(posterior, *best)
    if starts > 1:
        ends = ", ".join(f"{fit[2]:.2f}" for fit in sorted(fits, key=lambda fit: -fit[2]))
        return replace(found, message=f"{found.message} Best of {starts} starts, which ended at log densities {ends}.")
    return found


def _climb(posterior: Posterior, z: Tensor) -> tuple[Tensor, bool, float, int, str]:
    """Climb from `z`; returns the end, whether it converged, its log density, the iterations used, and how it ended."""
    value, gradient, information, prior = posterior.expansion(z)
    if not bool(value.isfinite()):
        return (
            z,
            False,
            float("-inf"),
            0,
            "The log density at the start isn't finite; give other starting values (init=).",
        )
    damping, growth = 1e-3, 2.0
    previous = float("inf")
    exact: Tensor | None = None
    for iteration in range(1, _MAX_ITERATIONS + 1):
        curvature = _curvature(information, prior) if exact is None else exact
        scale = curvature.diagonal().clamp(min=1e-12)
        step, decrement = _solve(curvature, gradient, scale, 0.0)
        if decrement < _DECREMENT:
            # the step that shows it is known: it makes the end exact
            return z + step, True, float(value), iteration, f"Converged: Newton decrement {decrement:.1e}."
        if _SLOW * previous < decrement < _NEAR:
            # close to the maximum, but closing in slowly: the data scatter otherwise than the likelihood says
            exact = _exact_hessian(posterior, z, curvature)
            curvature = curvature if exact is None else exact
            scale = curvature.diagonal().clamp(min=1e-12)
        previous = decrement
        while True:
            step, _ = _solve(curvature, gradient, scale, damping)
            expected = float(gradient @ step - 0.5 * step @ curvature @ step)
            trial = posterior.expansion(z + step)
            gain = float(trial[0] - value)
            ratio = gain / expected if expected > 0 else -1.0
            if ratio > 1e-4 and bool(trial[1].isfinite().all()):
                break
            damping, growth = max(damping, 1e-6) * growth, 2 * growth
            if damping > 1e12:
                if decrement < _STALLED:
                    return z, True, float(value), iteration, f"Converged to rounding: Newton decrement {decrement:.1e}."
                return (
                    z,
                    False,
                    float(value),
                    iteration,
                    f"Stopped: no step raises the log density, at Newton decrement {decrement:.1e}. The model may be "
                    "discontinuous or "
                    "its derivatives wrong there; try other starting values (init=) or starts=4.",
                )
        z = z + step
        value, gradient, information, prior = trial
        damping, growth = damping * max(1 / 3, 1 - (2 * ratio - 1) ** 3), 2.0
    return (
        z,
        False,
        float(value),
        _MAX_ITERATIONS,
        f"Stopped after {_MAX_ITERATIONS} iterations at Newton decrement {decrement:.1e}. Parameters may be "
        "degenerate: hold one, or give "
        "it a narrower prior; or go on from here with init=fit.",
    )


def _solve(curvature: Tensor, gradient: Tensor, scale: Tensor, damping: float) -> tuple[Tensor, float]:
    """Step of the damped system, in units where its diagonal is 1, and the decrement g^T step."""
    root = scale.sqrt()
    system = curvature / torch.outer(root, root)
    system = system + damping * torch.eye(len(root), dtype=system.dtype, device=system.device)
    factor, failed = torch.linalg.cholesky_ex(system)
    right = (gradient / root)[:, None]
    solution = torch.linalg.lstsq(system, right).solution if bool(failed) else torch.cholesky_solve(right, factor)
    step = solution[:, 0] / root
    return step, float(gradient @ step)


def _curvature(information: Tensor, prior: Tensor) -> Tensor:
    """Information plus prior; where that isn't positive, its eigenvalues, in units where its diagonal is 1, by "
    "their size."""
    total = information + prior
    total = torch.nan_to_num(0.5 * (total + total.T))
    root = total.diagonal().abs().clamp(min=1e-30).sqrt()
    values, vectors = torch.linalg.eigh(total / torch.outer(root, root))
    if bool(values.min() > 0):
        return total
    return ((vectors * values.abs()) @ vectors.T) * torch.outer(root, root)


def _finish(posterior: Posterior, z: Tensor, converged: bool, value: float, iterations: int, message: str) -> Fit:
    _, _, information, prior = posterior.expansion(z)
    gauss_newton = _curvature(information, prior)
    root = gauss_newton.diagonal().clamp(min=1e-30).sqrt()
    normalised = gauss_newton / torch.outer(root, root)
    singular = bool(torch.linalg.eigvalsh(normalised).min() < _SINGULAR)
    if singular:
        # a floor under its eigenvalues, so that there is a matrix to report at all
        normalised = normalised + _SINGULAR * torch.eye(posterior.size, dtype=z.dtype, device=z.device)
        gauss_newton = normalised * torch.outer(root, root)
    factor = torch.linalg.cholesky(gauss_newton)
    relative = _whitened_hessian(posterior, z, factor)
    eigenvalues = torch.linalg.eigvalsh(relative) if bool(relative.isfinite().all()) else torch.zeros(1, dtype=z.dtype)
    exact = bool(eigenvalues.min() > 1e-6) and not singular
    hessian = factor @ relative @ factor.T if exact else gauss_newton
    if converged and singular:
        message = (
            "Failed: the curvature is singular, the data and the priors don't determine every parameter; hold one, or "
            f"give it a narrower prior. ({message})"
        )
    elif converged and not exact:
        message = (
            "Failed: the exact Hessian isn't positive definite, this is a saddle or a flat direction and no maximum; "
            "try "
            f"starts=4 or other starting values. ({message})"
        )
    converged = converged and exact
    nodes = posterior.observed_nodes(z)
    chi2 = [chi_square(node) for node in nodes.values()]
    params, std, covariance, labels = moments_at(posterior, z, 0.5 * (hessian + hessian.T))
    return Fit(
        params=params,
        std=std,
        covariance=covariance,
        labels=labels,
        chi2=None if not chi2 or None in chi2 else sum(part for part in chi2 if part is not None),
        dof=sum(degrees_of_freedom(node) for node in nodes.values()) - posterior.size,
        converged=converged,
        message=message,
        iterations=iterations,
        log_density=value,
        z=z,
        hessian=0.5 * (hessian + hessian.T),
        hessian_kind="exact" if exact else "gauss-newton",
        curvature_ratio=(float(eigenvalues.min()), float(eigenvalues.max())),
    )


def _exact_hessian(posterior: Posterior, z: Tensor, gauss_newton: Tensor) -> Tensor | None:
    """Minus the Hessian of the log density at `z`; None where it isn't positive definite."""
    factor, failed = torch.linalg.cholesky_ex(gauss_newton)
    if bool(failed):
        return None
    relative = _whitened_hessian(posterior, z, factor)
    definite = bool(relative.isfinite().all()) and bool(torch.linalg.eigvalsh(relative).min() > 1e-6)
    return factor @ relative @ factor.T if definite else None


def _whitened_hessian(posterior: Posterior, z: Tensor, factor: Tensor) -> Tensor:
    """Minus the Hessian of the log density in coordinates where the Gauss-Newton matrix, factor factor^T, is the
    unit matrix.

    Central differences of the exact gradient, with steps of a thousandth of a standard deviation: relative error 1e-6
    for a nearly Gaussian posterior, and a sixth of a millionth of the fourth derivative in general.
    """
    directions = torch.linalg.solve_triangular(factor.T, torch.eye(len(z), dtype=z.dtype, device=z.device), upper=True)
    columns = []
    for direction in directions.T:
        _, ahead = posterior.value_and_grad(z + _DIFFERENCE * direction)
        _, behind = posterior.value_and_grad(z - _DIFFERENCE * direction)
        columns.append(directions.T @ (behind - ahead) / (2 * _DIFFERENCE))
    hessian = torch.stack(columns)
    return 0.5 * (hessian + hessian.T)
