"""The result of a fit to the maximum of the posterior, whatever method climbed there, and the curvature it reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy.sparse
import torch
from astropy.table import Table
from torch import Tensor

from bayesprof.inference.arrow import Arrow, Layout
from bayesprof.inference.constraints import Constrained
from bayesprof.inference.derived import Summary
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.sparse_matrix import SparseMatrix
from bayesprof.values import ANY_ANGLE, is_angle

_SINGULAR = 1e-13  # smallest eigenvalue of a curvature whose diagonal is 1, above rounding
_DIFFERENCE = 1e-3  # step of the Hessian's differences, in standard deviations
FEW = 12  # parameters, up to which two gradients for each cost less than the Hessian's graph does once
SINGULAR = (
    "Failed: the curvature is singular, the data and the priors don't determine every parameter; hold one, or give it "
    "a narrower prior."
)
NO_MAXIMUM = (
    "Failed: the exact Hessian isn't positive definite, this is a saddle or a flat direction and no maximum; try other "
    "starting values (init=), or starts=4 with lm."
)
_AT_MAXIMUM = 1e-4  # Newton decrement of an end within a hundredth of a standard deviation of the maximum


class Density(Protocol):
    """What is climbed: a log density of a vector, as a :class:`Posterior` is one."""

    def log_density(self, z: Tensor) -> Tensor:
        """Log density."""

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log density and its gradient."""

    def expansion(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log density, gradient, information of the data, and minus the Hessian of the log prior."""

    def hessian(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log density, gradient, and minus the Hessian."""


@dataclass(frozen=True)
class Fit:
    """A maximum of the posterior, with its curvature.

    The maximum is that of the density in the unconstrained space, where the parameters run over the whole line.

    Gaussian constraints (:class:`Constraint`) count as data in all that follows.

    Attributes
    ----------
    params, std : dict
        Value and standard deviation (float or array) of every latent and deterministic site; of an angle that follows
        from an ellipticity, at most that of an angle of which nothing is known, pi / sqrt(12).
    covariance : ndarray, shape (D, D), or scipy.sparse.csc_array
        Covariance of the latent sites, entries in the order of `labels`: the inverse Hessian, carried over linearly. Of
        thousands of sources in windows, whose matrix is sparse, the entries of each source and of those around it.
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
    hessian : Tensor, shape (D, D), or SparseMatrix
        Minus the Hessian of the log density there, positive definite.
    hessian_kind : str
        "exact", or "gauss-newton" where the exact one isn't positive definite, or isn't known, of
        thousands of parameters.
    curvature_ratio : tuple of float
        Smallest and largest eigenvalue of the exact Hessian relative to the Gauss-Newton one; (1, 1) for a linear
        model; NaN where it is too large.
    path : ndarray or None
        Log density after each step of an optimiser or each cycle of :func:`iterate`; None where a method keeps none.
    others : tuple of Fit
        Other maxima that several starts of :func:`lm` led to, the highest first. Samplers that start from the fit go to
        them as well.
    starts : int
        Points that it was climbed from.
    """

    params: dict[str, float | np.ndarray]
    std: dict[str, float | np.ndarray]
    covariance: Any
    labels: list[str]
    chi2: float | None
    dof: int
    converged: bool
    message: str
    iterations: int
    log_density: float
    z: Tensor = field(repr=False)
    hessian: Any = field(repr=False)
    hessian_kind: str
    curvature_ratio: tuple[float, float]
    path: np.ndarray | None = field(default=None, repr=False)
    others: tuple[Fit, ...] = field(default=(), repr=False)
    starts: int = 1

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
        table = self.table()
        rounded = [_rounded(value, std) for value, std in zip(table["value"], table["std"], strict=True)]
        table["value"] = [value for value, _ in rounded]
        table["std"] = [std for _, std in rounded]
        lines = table.pformat(max_lines=-1, max_width=-1, align=["<", ">", ">"]) if self.params else []
        return f"Fit: {self.message}\n{chi2}dof {self.dof}, {self.iterations} iterations\n" + "\n".join(lines)


def entry_labels(name: str, shape: tuple[int, ...]) -> list[str]:
    """Labels of the scalars in a site: its name, with the index in brackets where there is one."""
    return [name + ("[" + ",".join(map(str, index)) + "]" if index else "") for index in np.ndindex(*shape)]


def moments_at(
    summary: Summary, latent: Sequence[str], hessian: Tensor
) -> tuple[dict[str, float | np.ndarray], dict[str, float | np.ndarray], np.ndarray, list[str]]:
    """Values and standard deviations of all sites, and covariance and labels of the `latent` ones, from the `hessian`
    where the summary was made.
    """
    factor = torch.linalg.inv(torch.linalg.cholesky(hessian))  # hessian^-1 = factor^T factor
    params: dict[str, float | np.ndarray] = {}
    stds: dict[str, float | np.ndarray] = {}
    labels: list[str] = []
    for name, value in summary.values.items():
        entries = (factor @ summary.slopes[name].reshape(len(hessian), -1)).norm(dim=0).reshape(value.shape)
        if is_angle(name) and name not in latent:
            entries = entries.clamp(max=ANY_ANGLE)
        params[name] = value.item() if value.ndim == 0 else value.cpu().numpy()
        stds[name] = entries.item() if value.ndim == 0 else entries.cpu().numpy()
        if name in latent:
            labels += entry_labels(name, tuple(value.shape))
    along = factor @ torch.cat([summary.slopes[name].reshape(len(hessian), -1) for name in latent], dim=1)
    return params, stds, (along.T @ along).cpu().numpy(), labels


def with_doubts(posterior: Posterior, params: Mapping[str, Any], message: str) -> str:
    """A fit's message, and what its model says against its values (``model.doubts``)."""
    doubts = posterior.model.doubts(params) if hasattr(posterior.model, "doubts") else None
    return message if doubts is None else f"{message} But {doubts}."


def start_at(posterior: Posterior, init: Mapping[str, Any] | Fit | None) -> Tensor:
    """`z` to start from, shape (D,): a fit's values, or those of :meth:`Posterior.initial`."""
    if isinstance(init, Fit):
        latent = {site.name for site in posterior.sites}
        init = {name: value for name, value in init.params.items() if name in latent}
    return posterior.initial(init)


class Curvature(NamedTuple):
    """Curvature of a log density about a point, and where its maximum is from there.

    gauss_newton, factor : Tensor, shape (D, D)
        The Gauss-Newton matrix and its Cholesky factor, whose inverse whitens; with a floor under its eigenvalues where
        it is `singular`.
    relative : Tensor, shape (D, D)
        Minus the exact Hessian in the coordinates where the Gauss-Newton matrix is the unit matrix.
    exact : bool
        Whether that is positive definite.
    step : Tensor, shape (D,)
        Newton step to the maximum, and its `decrement` g^T H^-1 g; 0 and infinity where the Hessian isn't definite.
    log_density : float
        At the point itself.
    edge : bool
        Whether it is known for a maximum without a Hessian, from which the density falls to all sides.
    """

    gauss_newton: Tensor
    factor: Tensor
    singular: bool
    relative: Tensor
    exact: bool
    step: Tensor
    decrement: float
    log_density: float
    edge: bool = False


def curvature_at(target: Density, z: Tensor, gauss_newton: Tensor | None = None) -> Curvature:
    """The curvature at `z` (D,). `gauss_newton` : that of :meth:`Posterior.expansion` there, where it is known."""
    if gauss_newton is None:
        _, _, information, prior = target.expansion(z)
        gauss_newton = positive_curvature(information, prior)
    unit = torch.eye(len(z), dtype=z.dtype, device=z.device)
    root = gauss_newton.diagonal().clamp(min=1e-30).sqrt()
    normalised = gauss_newton / torch.outer(root, root)
    singular = bool(torch.linalg.eigvalsh(normalised).min() < _SINGULAR)
    if singular:
        # a floor under its eigenvalues, so that there is a matrix to report at all
        gauss_newton = (normalised + _SINGULAR * unit) * torch.outer(root, root)
    factor = torch.linalg.cholesky(gauss_newton)
    relative, gradient, log_density = _whitened_hessian(target, z, factor)
    exact = bool(_eigenvalues(relative).min() > 1e-6) and not singular
    step, decrement = torch.zeros_like(z), math.inf
    if exact:
        w = torch.linalg.solve(relative, gradient)
        step = torch.linalg.solve_triangular(factor.T, w[:, None], upper=True)[:, 0]
        decrement = float(gradient @ w)
    return Curvature(gauss_newton, factor, singular, relative, exact, step, decrement, log_density)


def fit_at(
    target: Posterior | Constrained,
    z: Tensor,
    *,
    log_density: float,
    converged: bool,
    iterations: int,
    message: str,
    free: Tensor | None = None,
    gauss_newton: Tensor | None = None,
    curvature: Curvature | None = None,
) -> Fit:
    """The fit that ended at `z`, with the exact Hessian there where it is positive definite. `gauss_newton` and
    `curvature` : those at `z`, where they are known.

    An end that `converged` is refused as a maximum where the curvature is singular or the exact Hessian isn't positive
    definite. `free` (D,) is False for entries held by a bound, whose rows and columns are left out of that judgement.
    """
    posterior = target.posterior if isinstance(target, Constrained) else target
    curvature = curvature or curvature_at(target, z, gauss_newton)
    gauss_newton, factor, singular, relative, exact, *_ = curvature
    eigenvalues = _eigenvalues(relative)
    hessian = factor @ relative @ factor.T if exact else gauss_newton
    maximum = exact or curvature.edge
    if free is not None and not exact and bool(relative.isfinite().all()) and not singular:
        inside = (factor @ relative @ factor.T)[free][:, free]
        maximum = bool(torch.linalg.cholesky_ex(inside).info == 0)
    if converged and singular:
        message = f"{SINGULAR} ({message})"
    elif converged and not maximum:
        message = f"{NO_MAXIMUM} ({message})"
    hessian = 0.5 * (hessian + hessian.T)
    summary = posterior.summary(z)
    chi2 = [float(value) for value in summary.chi_square.values()]
    known = len(chi2) == len(posterior.observed)
    dof = posterior.observed_count - posterior.size
    if isinstance(target, Constrained):
        chi2.append(target.chi_square(z))
        dof += target.count
    params, std, covariance, labels = moments_at(summary, [site.name for site in posterior.sites], hessian)
    return Fit(
        params=params,
        std=std,
        covariance=covariance,
        labels=labels,
        chi2=sum(chi2) if known and chi2 else None,
        dof=dof,
        converged=converged and maximum,
        message=with_doubts(posterior, params, message),
        iterations=iterations,
        log_density=log_density,
        z=z,
        hessian=hessian,
        hessian_kind="exact" if exact else "gauss-newton",
        curvature_ratio=(float(eigenvalues.min()), float(eigenvalues.max())),
    )


def judged_at(
    target: Posterior | Constrained,
    z: Tensor,
    *,
    iterations: int,
    ending: str,
    path: list[float],
    free: Tensor | None = None,
) -> Fit:
    """The fit of a method that left off at `z` for the reason in `ending`; whether it converged is read off `z` alone.

    It did where the Newton decrement g^T H^-1 g, the squared distance to the maximum in standard deviations, is below
    1e-4. Entries that aren't `free` are left out of it.
    """
    value, gradient = target.value_and_grad(z)
    finite = bool(value.isfinite() & gradient.isfinite().all())
    message = f"The log density isn't finite where it ended ({ending}); give other starting values (init=)."
    fit = fit_at(
        target,
        z,
        log_density=float(value),
        converged=finite,
        iterations=iterations,
        message=ending if finite else message,
        free=free,
    )
    if not finite:
        return replace(fit, path=np.array(path))
    decrement = newton_decrement(gradient, fit.hessian, free)
    distance = f"{math.sqrt(max(decrement, 0.0)):.1g} standard deviations from the maximum"
    if decrement >= _AT_MAXIMUM:
        advice = "go on from here with lm(model, init=fit), or with other settings"
        fit = replace(fit, converged=False, message=f"Stopped {distance}: {ending}; {advice}.")
    elif fit.converged:
        fit = replace(fit, message=f"Converged: {distance} ({ending}).")
    return replace(fit, path=np.array(path))


def newton_decrement(gradient: Tensor, hessian: Tensor, free: Tensor | None = None) -> float:
    """g^T H^-1 g over the entries that are `free` (all by default), for a positive definite H."""
    if free is not None:
        gradient, hessian = gradient[free], hessian[free][:, free]
    root = hessian.diagonal().clamp(min=1e-30).sqrt()
    scaled = gradient / root
    return float(scaled @ torch.linalg.solve(hessian / torch.outer(root, root), scaled))


def positive_curvature(information: Any, prior: Any, layout: Layout | None = None) -> Any:
    """Information plus prior; where that isn't positive, its eigenvalues, in units where its diagonal is 1, by their
    size. `layout` : of the arrow that they are, where they are one. Of sparse matrices, of which there are no
    eigenvalues, the prior's diagonal by its size in the place of all of it.
    """
    if isinstance(information, SparseMatrix):
        both = (information + prior).finite()
        if both.factor() is not None:
            return both
        entries = scipy.sparse.diags_array(np.abs(prior.finite().entries.diagonal()))
        return information.finite() + SparseMatrix(entries.tocsc())
    total = information + prior
    total = torch.nan_to_num(0.5 * (total + total.T))
    if layout is not None:
        arrow = Arrow.from_dense(layout, total)  # and an arrow again, which the eigenvectors of all would not make
        return total if arrow.factor() is not None else arrow.absolute().dense()
    if bool(torch.linalg.cholesky_ex(total).info == 0):
        return total
    root = total.diagonal().abs().clamp(min=1e-30).sqrt()
    values, vectors = torch.linalg.eigh(total / torch.outer(root, root))
    if bool(values.min() > 0):  # but for rounding, which its units can decide
        return total
    return ((vectors * values.abs()) @ vectors.T) * torch.outer(root, root)


def exact_hessian(target: Density, z: Tensor, gauss_newton: Any) -> Any:
    """Minus the Hessian of the log density at `z`; None where it isn't positive definite, or isn't worth its cost."""
    if isinstance(gauss_newton, SparseMatrix):
        return None
    factor, failed = torch.linalg.cholesky_ex(gauss_newton)
    if bool(failed):
        return None
    relative, *_ = _whitened_hessian(target, z, factor)
    return factor @ relative @ factor.T if bool(_eigenvalues(relative).min() > 1e-6) else None


def _eigenvalues(relative: Tensor) -> Tensor:
    """Eigenvalues of a whitened Hessian; 0 where it isn't finite."""
    return torch.linalg.eigvalsh(relative) if bool(relative.isfinite().all()) else relative.new_zeros(1)


def _whitened_hessian(target: Density, z: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, float]:
    """Minus the Hessian of the log density and its gradient, in coordinates where the Gauss-Newton matrix, factor
    factor^T, is the unit matrix; and the log density.

    Of many parameters it is that of :meth:`Posterior.hessian`, whose graph takes a second to write for each galaxy. Of
    few, central differences of the gradient, with steps of a thousandth of a standard deviation: relative error 1e-6
    for a nearly Gaussian posterior, and a sixth of a millionth of the fourth derivative in general. Gradient and log
    density are then means over all points, less what the curvature adds: off by half a millionth of the third
    derivative.
    """
    directions = torch.linalg.solve_triangular(factor.T, torch.eye(len(z), dtype=z.dtype, device=z.device), upper=True)
    if len(z) > FEW:
        value, gradient, curvature = target.hessian(z)
        hessian, log_density = directions.T @ curvature @ directions, float(value)
    else:
        steps = _DIFFERENCE * directions.T
        values, gradients = target.value_and_grad(z + torch.cat([steps, -steps]))
        ahead, behind = gradients.split(len(z))
        hessian, gradient = (behind - ahead) @ directions / (2 * _DIFFERENCE), gradients.mean(0)
        log_density = float(values.mean() + 0.5 * _DIFFERENCE**2 * hessian.diagonal().mean())
    return 0.5 * (hessian + hessian.T), gradient @ directions, log_density


def _rounded(value: float, std: float) -> tuple[str, str]:
    """A value and its standard deviation to two digits of the latter; to six of the value where that has none."""
    if not (math.isfinite(std) and std > 0 and math.isfinite(value)):
        return f"{value:.6g}", f"{std:.2g}"
    decimals = max(1 - math.floor(math.log10(std)), 0)
    if decimals > 12:  # the digits of a float are at an end
        return f"{value:.12g}", f"{std:.1e}"
    return f"{value:.{decimals}f}", f"{std:.{decimals}f}"
