"""Randomize-then-optimize: independent draws from posteriors that bend, corrected and checked by importance sampling.

Each draw is the solution of a few equations (:mod:`bayesprof.inference.residual_coordinates`), by Newton's method from
the maximum: a few Jacobians of the model. A posterior that is a thin bent sheet, as when an image of high
signal to noise leaves some combinations of the parameters to the prior, takes a sampler a hundred gradients and more
for each independent draw, and the Laplace approximation misses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import arviz as az

from bayesprof.inference.curved import curves
from bayesprof.inference.fit import Fit
from bayesprof.inference.importance import Weighted, check_draws, importance, importance_result
from bayesprof.inference.lm import fitted
from bayesprof.inference.modes import Modes, modes_at
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.residual_coordinates import straightened
from bayesprof.threads import one_thread

_MOST_ELEMENTS = 2**27  # of the Jacobian, parameters times observed values: 1 GB
_MOST_UNSOLVED = 0.05


@one_thread()
def rto(
    model: Callable[..., Any] | Posterior,
    *args: Any,
    init: Fit | Mapping[str, Any] | None = None,
    draws: int = 1000,
    proposals: int | None = None,
    seed: int = 0,
    progress: bool = True,
    **kwargs: Any,
) -> az.InferenceData:
    """Draw from the posterior of `model` by randomize-then-optimize and importance sampling.

    For posteriors that :func:`laplace` refuses since they bend, of up to some tens of parameters. The verdict is that
    of :func:`laplace`, and here as there a mode that the fit doesn't know (``init=lm(model, starts="auto")``) goes
    unseen.

    Parameters
    ----------
    model : callable or Posterior
        A Pyro model with continuous latent sites, whose priors don't depend on each other, and observed sites that are
        Normal with known standard deviations: a scene with Gaussian noise, for one; or the Posterior of it. `args` and
        `kwargs` are the model's.
    init : Fit or mapping, optional
        A fit, whose maximum is used; or values to start :func:`lm` from; None starts it from the model.
    draws : int
        Draws kept in all, a multiple of 4.
    proposals : int, optional
        Equations solved, out of whose solutions those are resampled; twice as many, 2,000 at least, where None.
    seed : int
        Same seed, same draws.
    progress : bool
        Show progress bars.

    Returns
    -------
    arviz.InferenceData
        That of :func:`laplace`, without ``log_evidence_laplace``. In attrs ``unsolved``, the fraction of the equations
        without a solution.

    Raises
    ------
    ValueError, TypeError
        For arguments out of range, for models that :class:`Posterior` refuses, or of another kind, for which the
        weights may pass although a tail is missing, and for so many parameters and data that their Jacobian has no
        room.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> def model():
    ...     x = pyro.sample("x", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
    ...     pyro.sample("data", dist.Normal(x[0] + x[1] ** 2, 0.01), obs=torch.tensor(0.0, dtype=torch.float64))
    >>> post = rto(model, progress=False)
    >>> post.attrs["verdict"]
    'ok'
    """
    proposals = check_draws("rto", draws, proposals)
    posterior = model if isinstance(model, Posterior) else Posterior(model, *args, seed=seed, **kwargs)
    check_known(posterior)
    fit = fitted(posterior, init, seed)
    found = straight_draws(modes_at(posterior, fit), proposals, seed, progress=progress)
    attrs = {"method": "RTO", "fit": fit.message, "unsolved": unsolved(found)}
    return importance_result(posterior, found, draws=draws, seed=seed, attrs=attrs, failure=failure(found))


def check_known(posterior: Posterior) -> None:
    """Raise ValueError for a posterior that isn't of residuals, or of too many."""
    if not posterior.of_residuals:
        raise ValueError(
            "rto: expected data with Normal errors of known size and independent priors, got a width that is sampled, "
            "another distribution, a pyro.factor, or a prior that depends on other sites; use sample or split_hmc"
        )
    if posterior.size * posterior.observed_count > _MOST_ELEMENTS:
        raise ValueError(
            f"rto: expected parameters times observed values to be {_MOST_ELEMENTS} at most, got {posterior.size} "
            f"times {posterior.observed_count}; use laplace or split_hmc, or hold some of the scene by "
            "scene.freeze(names, fit)"
        )


def straightens(posterior: Posterior) -> bool:
    """Whether this is worth a try before a sampler: of few parameters, whose Jacobian is small."""
    return curves(posterior) and posterior.of_residuals


def straight_draws(modes: Modes, count: int, seed: int, *, progress: bool = False) -> Weighted:
    """`count` draws about the `modes`, weighted towards the posterior; those without a solution have no weight."""
    return importance(modes.posterior, *straightened(modes, count, seed, progress=progress))


def unsolved(found: Weighted) -> float:
    """Fraction of the equations without a solution."""
    return 1 - float(found.log_proposal.isfinite().double().mean())


def failure(found: Weighted) -> str | None:
    """What is to be said where too many are missing: weights can't tell of a part that no draw has reached."""
    if unsolved(found) <= _MOST_UNSOLVED:
        return None
    return (
        f"{100 * unsolved(found):.2g}% of the equations have no solution that Newton's method leads to: the posterior "
        "may have parts that no draw is in; sample instead (inference.split_hmc)"
    )
