"""Fits of thousands of sources in windows, whose curvature is kept sparse."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from bayesprof.inference.fit import NO_MAXIMUM, SINGULAR, Fit, entry_labels, with_doubts
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.sparse_hessian import sparse_hessian
from bayesprof.inference.sparse_matrix import SparseMatrix
from bayesprof.values import ANY_ANGLE, is_angle

_MANY = 1000  # parameters, from which on a sparse curvature is looked for
_SPARSE = 0.1  # of the entries of a matrix, above which it isn't


class SparseTarget:
    """A log density with sparse curvatures, for :func:`bayesprof.inference.lm.climb`."""

    def __init__(self, posterior: Posterior) -> None:
        self.posterior = posterior
        self._last: tuple[Tensor, Any] | None = None

    def log_density(self, z: Tensor) -> Tensor:
        return self.posterior.log_density(z)

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.posterior.value_and_grad(z)

    def expansion(self, z: Tensor) -> Any:
        if self._last is None or not torch.equal(self._last[0], z):
            value, gradient, information, prior = self.posterior.sparse_expansion(z)
            self._last = z, (value, gradient, SparseMatrix(information), SparseMatrix(prior))
        return self._last[1]

    def hessian(self, z: Tensor) -> Any:
        """As :meth:`Posterior.hessian`; None in its place where differences don't find it."""
        value, gradient, information, prior = self.expansion(z)
        return value, gradient, sparse_hessian(self.posterior, z, gradient, information, prior)


def sparse_target(posterior: Posterior, z: Tensor) -> SparseTarget | None:
    """`posterior` with sparse curvatures, where they are worth it: of many parameters most of which don't meet."""
    if posterior.size < _MANY or posterior.plate is not None or not posterior.all_known:
        return None
    target = SparseTarget(posterior)
    _, _, information, prior = target.expansion(z)
    return target if (information + prior).entries.nnz < _SPARSE * posterior.size**2 else None


def sparse_fit_at(
    target: SparseTarget,
    *,
    z: Tensor,
    log_density: float,
    converged: bool,
    iterations: int,
    message: str,
    gauss_newton: SparseMatrix | None = None,
    hessian: SparseMatrix | None = None,
) -> Fit:
    """The fit that ended at `z`. `gauss_newton` and the exact `hessian` : those there, where they are known."""
    posterior = target.posterior
    if gauss_newton is None:
        _, _, information, prior = target.expansion(z)
        gauss_newton = (information + prior).finite()
    curvature = gauss_newton if hessian is None else hessian
    factor = curvature.factor()
    if factor is None:
        singular = gauss_newton.factor() is None
        if singular:
            ridge = scipy.sparse.diags_array(1e-10 * gauss_newton.diagonal().abs().clamp(min=1e-30).numpy())
            gauss_newton = gauss_newton + SparseMatrix(ridge.tocsc())
        if converged:
            message = f"{SINGULAR if singular else NO_MAXIMUM} ({message})"
        converged, hessian, curvature = False, None, gauss_newton
        factor = curvature.factor(ridge=1e-8 if singular else 0.0)
    values, slopes, chi_square = posterior.sparse_summary(z)
    # entries of z that meet in an entry of a site, which its error depends on
    together = sum(abs(slope).T @ abs(slope) for slope in slopes.values())
    latent = [site.name for site in posterior.sites]
    own = scipy.sparse.vstack([slopes[name] for name in latent], format="csc")
    meeting = (together + abs(curvature.entries)).tocsc()
    nan = scipy.sparse.csc_array((np.full(meeting.nnz, np.nan), meeting.indices, meeting.indptr), shape=meeting.shape)
    covariance = nan if factor is None else factor.inverse_within(meeting)
    params: dict[str, float | np.ndarray] = {}
    stds: dict[str, float | np.ndarray] = {}
    for name, value in values.items():
        std = np.sqrt((slopes[name] @ covariance).multiply(slopes[name]).sum(axis=1)).reshape(tuple(value.shape))
        std = np.minimum(std, ANY_ANGLE) if is_angle(name) and name not in latent else std
        params[name] = value.item() if value.ndim == 0 else value.cpu().numpy()
        stds[name] = float(std) if value.ndim == 0 else std
    message = f"{message} Its curvature is sparse{'' if hessian is not None else ', the Gauss-Newton one'}."
    chi2 = [float(value) for value in chi_square.values()]
    known = len(chi2) == len(posterior.observed)
    return Fit(
        params=params,
        std=stds,
        covariance=(own @ covariance @ own.T).tocsc(),
        labels=[label for name in latent for label in entry_labels(name, tuple(values[name].shape))],
        chi2=sum(chi2) if known and chi2 else None,
        dof=posterior.observed_count - posterior.size,
        converged=converged,
        message=with_doubts(posterior, params, message),
        iterations=iterations,
        log_density=log_density,
        z=z,
        hessian=curvature,
        hessian_kind="gauss-newton" if hessian is None else "exact",
        curvature_ratio=(float("nan"), float("nan")),
    )
