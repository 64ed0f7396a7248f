"""The result of a fit to the maximum of the posterior."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from astropy.table import Table
from torch import Tensor

from bayesprof.inference.posterior import Posterior


@dataclass(frozen=True)
class Fit:
    """A maximum of the posterior, with its curvature.

    The maximum is that of the density in the unconstrained space, where the parameters run over the whole line.

    Attributes
    ----------
    params, std : dict
        Value and standard deviation (float or array) of every latent and deterministic site.
    covariance : ndarray, shape (D, D)
        Covariance of the latent sites, entries in the order of `labels`: the inverse Hessian, carried over linearly.
    labels : list of str
        Name of each entry: the site's, with [i] for the entries of a vector.
    chi2 : float or None
        Sum of the squared residuals in units of the noise, over unmasked values; None where an observed site has none.
    dof : int
        Number of unmasked observed values minus D.
    converged : bool
    message : str
        How the fit ended, and what to do if it failed.
    iterations : int
    log_density : float
        Log posterior density in the unconstrained space.
    z : Tensor, shape (D,)
        The maximum in the unconstrained space.
    hessian : Tensor, shape (D, D)
        Minus the Hessian of the log density there, positive definite.
    hessian_kind : str
        "exact", or "gauss-newton" where the exact one isn't positive definite.
    curvature_ratio : tuple of float
        Smallest and largest eigenvalue of the exact Hessian relative to the Gauss-Newton one; (1, 1) for a linear
        model.
    """

    params: dict[str, float | np.ndarray]
    std: dict[str, float | np.ndarray]
    covariance: np.ndarray
    labels: list[str]
    chi2: float | None
    dof: int
    converged: bool
    message: str
    iterations: int
    log_density: float
    z: Tensor = field(repr=False)
    hessian: Tensor = field(repr=False)
    hessian_kind: str
    curvature_ratio: tuple[float, float]

    def table(self) -> Table:
        """Parameters as an astropy table with columns parameter, value and std, one row per scalar."""
        rows = []
        for name, value in self.params.items():
            for label, entry, std in zip(
                entry_labels(name, np.shape(value)), np.ravel(value), np.ravel(self.std[name]), strict=True
            ):
                rows.append((label, float(entry), float(std)))
        return Table(rows=rows, names=("parameter", "value", "std"))

    def __repr__(self) -> str:
        chi2 = "" if self.chi2 is None else f"chi2 {self.chi2:.2f}, "
        lines = self.table().pformat(show_dtype=False) if self.params else []
        return f"Fit: {self.message}\n{chi2}dof {self.dof}, {self.iterations} iterations\n" + "\n".join(lines)


def entry_labels(name: str, shape: tuple[int, ...]) -> list[str]:
    """Labels of the scalars in a site: its name, with the index in brackets where there is one."""
    return [name + ("[" + ",".join(map(str, index)) + "]" if index else "") for index in np.ndindex(*shape)]


def moments_at(
    posterior: Posterior, z: Tensor, hessian: Tensor
) -> tuple[dict[str, float | np.ndarray], dict[str, float | np.ndarray], np.ndarray, list[str]]:
    """Values and standard deviations of all sites, and covariance and labels of the latent ones, from `hessian` at
    `z`.
    """
    factor = torch.linalg.inv(torch.linalg.cholesky(hessian))  # hessian^-1 = factor^T factor

    def flat(z: Tensor) -> Tensor:
        return torch.cat([value.reshape(-1) for value in posterior.describe(z).values()])

    jacobian = torch.func.jacfwd(flat)(z)
    std = (factor @ jacobian.T).norm(dim=0)
    values = posterior.describe(z)
    params: dict[str, float | np.ndarray] = {}
    stds: dict[str, float | np.ndarray] = {}
    labels: list[str] = []
    start = 0
    for name, value in values.items():
        entries = std[start : start + value.numel()].reshape(value.shape)
        start += value.numel()
        params[name] = value.item() if value.ndim == 0 else value.cpu().numpy()
        stds[name] = entries.item() if value.ndim == 0 else entries.cpu().numpy()
        if name not in posterior.deterministic:
            labels += entry_labels(name, tuple(value.shape))
    latent = factor @ jacobian[: len(labels)].T
    return params, stds, (latent.T @ latent).cpu().numpy(), labels
