"""Coordinates in which a posterior is close to a standard normal distribution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayesprof.inference.fit import Fit
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.sparse_matrix import SparseMatrix

DISPERSION = 1.5
"""Standard deviations of the Laplace approximation at which chains and walkers start."""
_TELLING = 2.0  # factor, beyond chance, by which a variance must differ from that of the Hessian to be believed
_MOST = 10_000  # parameters of a sparse Hessian that is written out: 0.8 GB


@dataclass(frozen=True)
class Whitened:
    """A posterior in the coordinates ``w = A^T (z - centre)``: with its Hessian at the centre ``A A^T``, that of w is
    the unit matrix.

    `centre` (D,), `factor` ``A`` (D, D), lower triangular.
    """

    posterior: Posterior
    centre: Tensor
    factor: Tensor

    def unwhiten(self, w: Tensor) -> Tensor:
        """`z` of `w`, both of shape ``(..., D)``."""
        columns = w.reshape(-1, w.shape[-1]).T
        return self.centre + torch.linalg.solve_triangular(self.factor.T, columns, upper=True).T.reshape(w.shape)

    def whiten(self, z: Tensor) -> Tensor:
        """`w` of `z`, both of shape ``(..., D)``."""
        return (z - self.centre) @ self.factor

    @property
    def log_volume(self) -> float:
        """Log determinant of dz/dw."""
        return -float(self.factor.diagonal().log().sum())

    def slope(self, gradient: Tensor) -> Tensor:
        """Gradient in w (..., D) of what has that `gradient` in z."""
        columns = gradient.reshape(-1, gradient.shape[-1]).T
        return torch.linalg.solve_triangular(self.factor, columns, upper=False).T.reshape(gradient.shape)

    def potential(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Minus the log density, shape (chains,), and its gradient, at `w` (chains, D); infinite and 0 where the
        density isn't finite.
        """
        value, gradient = self.posterior.value_and_grad(self.unwhiten(w))
        slope = self.slope(gradient)
        finite = value.isfinite() & slope.isfinite().all(-1)
        return torch.where(finite, -value, torch.inf), torch.where(finite[:, None], -slope, 0.0)

    def learned(self, w: Tensor, *, prior_draws: float, independent: float = 1.0) -> Whitened:
        """The coordinates after seeing the draws `w` (..., D).

        Their mean and covariance, shrunk toward 0 and the unit matrix as if these had been seen in `prior_draws` draws;
        or these coordinates, where those differ from them by less than as many draws can tell, of which the fraction
        `independent` is.
        """
        flat = w.reshape(-1, w.shape[-1])
        count = independent * len(flat)
        if count == 0:
            return self
        weight = count / (count + prior_draws)
        mean = weight * flat.mean(0)
        deviation = flat - mean
        covariance = weight * deviation.T @ deviation / len(flat)
        covariance = covariance + (1 - weight) * torch.eye(len(mean), dtype=w.dtype, device=w.device)
        variances, axes = torch.linalg.eigh(covariance)
        offsets = (axes.T @ mean) ** 2 / variances
        # the largest variance of so many draws of a standard normal distribution (Marchenko & Pastur 1967), shrunk
        telling = _TELLING * (weight * (1 + (len(mean) / count) ** 0.5) ** 2 + 1 - weight)
        if bool(((variances > 1 / telling) & (variances < telling) & (offsets < telling - 1)).all()):
            return self
        precision = (axes / variances) @ axes.T
        return Whitened(self.posterior, self.unwhiten(mean), self.factor @ torch.linalg.cholesky(precision))


def whitened_at(posterior: Posterior, fit: Fit) -> Whitened:
    """The coordinates in which the Laplace approximation is a standard normal distribution.

    Raises ValueError for a sparse Hessian of more parameters than there is room for as a full matrix.
    """
    hessian = fit.hessian
    if isinstance(hessian, SparseMatrix):
        if len(hessian) > _MOST:
            raise ValueError(
                f"expected a fit of {_MOST} parameters at most, whose Hessian has room as a full matrix, got one of "
                f"{len(hessian)}: sample parts of the scene, the others held by scene.freeze(names, fit)"
            )
        hessian = hessian.dense().to(fit.z)
    return Whitened(posterior, fit.z, torch.linalg.cholesky(hessian))
