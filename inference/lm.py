"""Levenberg-Marquardt: the maximum of the posterior and its curvature, for any Pyro model.

The gradient is exact. The curvature is the generalised Gauss-Newton matrix: the Fisher information of the observed
sites plus the positive part of minus the Hessian of the log prior.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesprof.inference.climb import NEAR, Climb, climb, is_near
from bayesprof.inference.constraints import Constrained, Constraint, constrained
from bayesprof.inference.fit import FEW, Curvature, Fit, curvature_at, fit_at, start_at
from bayesprof.inference.modes import shares_of
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.randomness import seeds_from
from bayesprof.inference.sparse_fit import SparseTarget, sparse_fit_at, sparse_target
from bayesprof.inference.sparse_matrix import SparseFactor, SparseMatrix
from bayesprof.threads import one_thread

_CLOSE = 3e-5  # decrement at which the exact Hessian is taken
_LAST = 1e-7  # that at which it is the maximum's, to 1e-4, and a step by it leaves about the square
_ROUNDS = 12  # exact Hessians of a curvature kept sparse, until steps by them lead to the maximum
_CLOSING = 0.3  # a decrement, as a fraction of the last, above which steps by one Hessian end
_SHORTER = (1.0, 0.5, 0.25, 0.1, 0.03)  # parts of a step by that Hessian that are tried, until one leads up
_ROUNDING = 1e-12  # of a log density
_FURTHER = 60  # most iterations from a further start
_BELOW = 20.0  # the highest maximum in log density, for another to be of no account
# starts by "auto": at least, of those that end at the highest maximum, and at most
_STARTS, _AGREEING, _MOST_STARTS = 4, 3, 16
_SEARCHED = 32  # parameters up to which draws of the prior lead to other maxima
_SAME = 0.01  # difference in log density of two ends at one maximum
# where the exact Hessian isn't positive: standard deviations that are tried along its axes; the least gain in log
# density for which a climb goes on there, and how often; the fall to all sides that makes it an edge
_ASIDE, _HIGHER, _SADDLES, _FALL = (0.03, 0.1, 0.3, 1.0), 1e-3, 4, 0.01
_EDGE = (
    "Converged: to an edge of the density, as there is one where an ellipse becomes a circle; the curvature is that of "
    "Gauss and Newton."
)


@one_thread()
def lm(
    model: Callable[..., Any] | Posterior,
    *args: Any,
    init: Mapping[str, Any] | Fit | None = None,
    seed: int = 0,
    starts: int | str = 1,
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
    starts : int or "auto"
        Number of starts, the first from `init` and the others from draws of the prior; the best end counts, and what
        else they found is in ``fit.others``. "auto": at least 4, and on until 3 have ended at the highest maximum, 16
        at most; but one beyond 32 parameters, where a draw of the prior is far off in some of them: of a larger scene,
        search component by component, the others held by ``scene.freeze(names, fit)``.
    constraints : sequence of Constraint
        Gaussian constraints on functions of the parameters. They count as data, as an observed site would.
    compile : bool
        Compile what a fit evaluates (:meth:`Posterior.prepare`). That takes longer than a fit, and makes fits twice as
        fast: for the same model on many images (:meth:`Posterior.with_data`).

    Returns
    -------
    Fit
        With ``converged`` False, and the reason in ``message``, when it failed. A maximum with an edge, from which the
        density falls to all sides, is one; its ``hessian_kind`` is "gauss-newton", and its message says so.

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
    check_starts("lm", starts)
    posterior = model if isinstance(model, Posterior) else Posterior(model, *args, seed=seed, **kwargs)
    if compile:
        _compile(posterior)
    first = start_at(posterior, init)
    target = constrained(posterior, constraints, first)
    sparse = sparse_target(posterior, first) if target is posterior else None
    seeds = _further_seeds(posterior, seed, 1, starts)
    if sparse is None:
        found = _at_summit(target, climb(target, first, decrement=_CLOSE))
        return _searched(target, found, seeds, starts == "auto")
    ends = [climb(sparse, point, decrement=NEAR) for point in (first, *map(posterior.prior_draw, seeds))]
    heights = [end.log_density for end in ends]
    found = _at_sparse_summit(sparse, ends[int(np.nanargmax(heights))])
    return _told(found, heights) if seeds else found


def check_starts(method: str, starts: Any) -> None:
    """Raise ValueError for what isn't a number of starts."""
    if starts == "auto" or (isinstance(starts, int) and not isinstance(starts, bool) and starts >= 1):
        return
    raise ValueError(f"{method}: expected starts >= 1, a whole number, or 'auto', got {starts!r}")


def _further_seeds(posterior: Posterior, seed: int, done: int, starts: int | str) -> list[int]:
    """Seeds of the draws of the prior that are left to start from, after as many starts as are `done`."""
    if starts == "auto":
        starts = _MOST_STARTS if posterior.size <= _SEARCHED and done < _STARTS else 1
    return seeds_from(seed, int(starts) - 1)[done - 1 :] if int(starts) > done else []


def _searched(target: Posterior | Constrained, first: Fit, seeds: Sequence[int], agreeing: bool) -> Fit:
    """The best of a fit and of those from draws of the prior, with the other maxima, as far as they may hold any of the
    probability. `agreeing` : whether to end once enough have ended at the highest.
    """
    if not seeds:
        return first
    posterior = target.posterior if isinstance(target, Constrained) else target
    found, heights = [replace(first, others=()), *first.others], [first.log_density]
    for seed in seeds:
        known = [fit for fit in found if fit.converged]
        highest = max((fit.log_density for fit in known), default=-math.inf)
        end = climb(target, posterior.prior_draw(seed), decrement=_CLOSE, max_iterations=_FURTHER, known=known)
        if not end.converged and end.log_density > highest + _SAME and known:
            end = _on_from(end, climb(target, end.z, decrement=_CLOSE, known=known))
        heights.append(end.log_density)
        if not known or (end.converged and end.log_density > highest - _BELOW):
            fit = _at_summit(target, end)
            heights[-1] = fit.log_density
            if not any(is_near(fit.z, other) for other in known):
                found.append(fit)
        at_highest = sum(height > max(heights) - _SAME for height in heights)
        if agreeing and len(heights) >= _STARTS and at_highest >= _AGREEING:
            break
    best = max(found, key=lambda fit: (fit.converged, fit.log_density))
    others = [fit for fit in found if fit is not best and fit.converged and fit.log_density > best.log_density - _BELOW]
    others.sort(key=lambda fit: -fit.log_density)
    if best.converged and max(heights) > best.log_density + _SAME:
        message = f"Failed: a start ended higher, at no maximum; go on with more of them (starts=16). ({best.message})"
        best = replace(best, converged=False, message=message)
    return _told(replace(best, others=tuple(others), starts=first.starts), heights)


def _told(found: Fit, heights: Sequence[float]) -> Fit:
    """A fit whose message tells the log densities at which all starts have ended."""
    told = ", ".join(f"{height:.2f}" for height in sorted(heights, reverse=True))
    message = f"{found.message} Best of {len(heights)} starts, which ended at log densities {told}."
    if found.others:
        elsewhere = 1 - float(shares_of((found, *found.others)).max())
        message += f" About {100 * elsewhere:.2g}% of the probability are at other maxima than the most probable one."
    return replace(found, message=message, starts=found.starts + len(heights) - 1)


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
    starts: int | str = 1,
    compile: bool = False,
) -> Fit:
    """The fit that every other method sets out from: `init`, where it is one of this posterior, else the fit from
    there; and what further `starts` find.
    """
    if not isinstance(init, Fit):
        return lm(posterior, init=init, seed=seed, starts=starts, compile=compile)
    if len(init.z) != posterior.size:
        raise ValueError(
            f"init: expected a fit of this model, whose posterior has {posterior.size} dimensions, got one of "
            f"{len(init.z)}; fit it with inference.lm"
        )
    seeds = [] if isinstance(init.hessian, SparseMatrix) else _further_seeds(posterior, seed, init.starts, starts)
    return _searched(posterior, init, seeds, starts == "auto")


def _at_summit(target: Posterior | Constrained, near: Climb, saddles: int = _SADDLES) -> Fit:
    """The fit at the maximum that a climb has come close to: a step by the exact Hessian, whose differences are taken
    in any case, from there; or, where that isn't enough, the rest of the climb, past as many `saddles` at most.
    """
    found = curvature_at(target, near.z, near.gauss_newton)
    if near.converged and found.decrement < _LAST:
        end = _stepped(near, found.step, found.decrement, found.log_density)
        return fit_at(target, **end._asdict(), curvature=found)
    end = near
    if near.converged:
        end = _on_from(near, climb(target, near.z))
        found = curvature_at(target, end.z, end.gauss_newton)
    if not found.exact and not found.singular and math.isfinite(end.log_density):
        higher, edge = _beside(target, end, found)
        if higher is not None and end.converged and saddles:
            return _at_summit(target, _on_from(end, climb(target, higher, decrement=_CLOSE)), saddles - 1)
        if edge:
            found = found._replace(edge=True)
            end = end._replace(converged=True, message=_EDGE)
    return fit_at(target, **end._asdict(), curvature=found)


def _on_from(first: Climb, second: Climb) -> Climb:
    """The second climb as the end of both."""
    return second._replace(iterations=first.iterations + second.iterations)


def _beside(target: Posterior | Constrained, end: Climb, found: Curvature) -> tuple[Tensor | None, bool]:
    """Along the axes of an exact Hessian that isn't positive: the highest point, where it is higher than the end of a
    climb, and whether the density falls to all sides, so that this is a maximum with an edge.
    """
    _, vectors = torch.linalg.eigh(found.relative.nan_to_num(0.0))
    directions = torch.linalg.solve_triangular(found.factor.T, vectors, upper=True).T
    lengths = end.z.new_tensor(_ASIDE)[:, None, None]
    points = torch.stack([end.z + lengths * directions, end.z - lengths * directions])  # (2, lengths, directions, D)
    gains = target.log_density(points.flatten(0, -2)).reshape(points.shape[:-1]) - end.log_density
    gains = gains.nan_to_num(-math.inf)
    if bool(gains.max() > _HIGHER):
        return points.flatten(0, -2)[gains.argmax()], False
    return None, bool((gains[:, -1] < -_FALL).all())


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
