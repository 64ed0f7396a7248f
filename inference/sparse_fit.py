"""Fits of thousands of sources in windows, whose curvature is kept sparse."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from torch import Tensor

from bayesprof.inference.fit import Fit, entry_labels
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.sparse_matrix import SparseMatrix

_MANY = 1000  # parameters, from which on a sparse curvature is looked for
_SPARSE = 0.1  # of the entries of a matrix, above which it isn't


class SparseTarget:
    """A log density with sparse curvatures, for :func:`bayesprof.inference.lm.climb`."""

    def __init__(self, posterior: Posterior) -> None:
        self.posterior = posterior

    def log_density(self, z: Tensor) -> Tensor:
        return self.posterior.log_density(z)

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.posterior.value_and_grad(z)

    def expansion(self, z: Tensor) -> Any:
        value, gradient, information, prior = self.posterior.sparse_expansion(z)
        return value, gradient, SparseMatrix(information), SparseMatrix(prior)

    def hessian(self, z: Tensor) -> Any:
        raise NotImplementedError(f"the exact Hessian of {len(z)} parameters")


def keeps_sparse(posterior: Posterior, z: Tensor) -> bool:
    """Whether curvatures of `posterior` are worth keeping sparse: of many parameters most of which don't meet."""
    if posterior.size < _MANY or posterior.plate is not None or not posterior.all_known:
        return False
    _, _, information, prior = posterior.sparse_expansion(z)
    return (information + prior).nnz < _SPARSE * posterior.size**2


def sparse_fit_at(
    target: SparseTarget,
    *,
    z: Tensor,
    log_density: float,
    converged: bool,
    iterations: int,
    message: str,
    gauss_newton: SparseMatrix | None,
) -> Fit:
    """The fit that ended at `z`. Its errors are those of the Gauss-Newton curvature."""
    posterior = target.posterior
    if gauss_newton is None:
        _, _, information, prior = target.expansion(z)
        gauss_newton = (information + prior).finite()
    factor = gauss_newton.factor()
    if factor is None:
        converged = False
        message = (
            "Failed: the curvature is singular, the data and the priors don't determine every parameter; hold one, or "
            f"give it a narrower prior. ({message})"
        )
        ridge = scipy.sparse.diags_array(1e-10 * gauss_newton.diagonal().abs().clamp(min=1e-30).numpy())
        gauss_newton = gauss_newton + SparseMatrix(ridge.tocsc())
        factor = gauss_newton.factor(ridge=1e-8)
    values, slopes, chi_square = posterior.sparse_summary(z)
    # entries of z that meet in an entry of a site, which its error depends on
    together = sum(abs(slope).T @ abs(slope) for slope in slopes.values())
    latent = [site.name for site in posterior.sites]
    own = scipy.sparse.vstack([slopes[name] for name in latent], format="csc")
    meeting = (together + abs(gauss_newton.entries)).tocsc()
    nan = scipy.sparse.csc_array((np.full(meeting.nnz, np.nan), meeting.indices, meeting.indptr), shape=meeting.shape)
    covariance = nan if factor is None else factor.inverse_within(meeting)
    params: dict[str, float | np.ndarray] = {}
    stds: dict[str, float | np.ndarray] = {}
    for name, value in values.items():
        std = np.sqrt((slopes[name] @ covariance).multiply(slopes[name]).sum(axis=1)).reshape(tuple(value.shape))
        params[name] = value.item() if value.ndim == 0 else value.cpu().numpy()
        stds[name] = float(std) if value.ndim == 0 else std
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
        message=f"{message} Errors are those of the Gauss-Newton curvature, sparse for {posterior.size} parameters.",
        iterations=iterations,
        log_density=log_density,
        z=z,
        hessian=gauss_newton,
        hessian_kind="gauss-newton",
        curvature_ratio=(float("nan"), float("nan")),
    )
