"""Fluxes and sky levels solved for, all at once, at given values of everything else.

The model image is linear in them: m = m_0 + A a. At given positions, sizes and shapes their best values are those of
one linear least-squares problem, whatever they start from (variable projection: Golub & Pereyra 1973, SIAM J. Numer.
Anal. 10, 413).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import lsq_linear
from torch import Tensor

from bayesprof.estimate import point_estimate, starting_values
from bayesprof.group import within
from bayesprof.scene import Scene
from bayesprof.values import site_values

_NAMES = ("flux", "level")  # of linear parameters of components that state no units
_LEAST = 1e-3  # of its given value, which a parameter that must be positive keeps: 0 is infinitely far in its logarithm
_LINEAR = 1e-6  # relative deviation from linearity that is rounding
_UNKNOWN = 1e-13  # an eigenvalue, relative to the largest, that is rounding


def linear_start(
    scene: Scene, values: Any = None, *, sites: Sequence[str] | None = None, priors: str = "gaussian"
) -> dict[str, Tensor]:
    """Starting values of a scene whose linear parameters are the best ones at given values of all others.

    Fluxes of a catalogue are off most where objects overlap, each because those of its neighbours are. LM finds its way
    from poor fluxes as a rule, in as few steps; these values are for methods that don't, and for a look at the residual
    before the first fit.

    Parameters
    ----------
    scene : Scene
    values : Fit, mapping from site names to values, or InferenceData, optional
        Where to hold the other parameters; where a fit would start when left out.
    sites : names of the linear parameters, optional
        Of components. By default those in the unit of the image, and those called flux or level, as far as the model
        image is linear in them.
    priors : "gaussian" or "flat"
        What becomes of their priors. "gaussian": each is replaced by the Gaussian of its mean and standard deviation;
        for Normal priors the result is the maximum of the posterior given the other parameters, exactly. "flat": they
        are left out, but for their supports. A prior without a finite standard deviation is flat in any case.

    Returns
    -------
    dict
        Value of every site but those of the likelihood, for ``init=``.

    Notes
    -----
    Pixels count as Gaussian with the sigma of the image, whatever the scene's likelihood. Values stay inside the
    supports of their priors; one that must be positive is at least a thousandth of what it was. All model images of
    single parameters are held in memory at once: 8 bytes for each pixel and parameter.

    Raises
    ------
    ValueError
        For an image without noise, for parameters that the model image isn't linear in, and for none.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> from bayesprof import inference, models
    >>> galaxy = models.exponential(x=20.0, y=14.0, flux=500.0, r_eff=3.0, q=0.8, theta=0.4)
    >>> truth = bp.Scene(bp.Image(np.zeros((30, 40)), sigma=1.0), sky=models.flat_sky(level=2.0), galaxy=galaxy)
    >>> image = bp.Image(truth.predict(), sigma=1.0)
    >>> galaxy = models.exponential(x=20.0, y=14.0, r_eff=3.0, q=0.8, theta=0.4)
    >>> scene = bp.Scene(image, sky=models.flat_sky(), galaxy=galaxy)
    >>> start = inference.linear_start(scene, {"sky.level": 7.0, "galaxy.flux": 1.0}, priors="flat")
    >>> {site: round(float(value), 3) for site, value in start.items()}
    {'sky.level': 2.0, 'galaxy.flux': 500.0}
    """
    if priors not in ("gaussian", "flat"):
        raise ValueError(f"linear_start: expected priors to be 'gaussian' or 'flat', got {priors!r}")
    for image in scene.images.values():
        if image.sigma is None:
            raise ValueError(
                f"linear_start: expected an image with noise, {image.name!r} has none; give the Image sigma="
            )
    at = point_estimate(scene, starting_values(scene) if values is None else site_values(values))
    chosen = _chosen(scene, sites)
    sigma, data = (
        _pixels(scene, {name: getattr(image, plane) for name, image in scene.images.items()})
        for plane in ("sigma", "data")
    )
    blocks = {
        site: np.stack([_column(scene, at, site, index) for index in np.ndindex(*at[site].shape)], axis=1)
        for site in chosen
    }
    if sites is None:
        chosen = [site for site in chosen if _is_linear(scene, at, {site: blocks[site]})]
    blocks = {site: blocks[site] for site in chosen}
    if not blocks or not _is_linear(scene, at, blocks):
        raise ValueError(
            f"linear_start: expected parameters that the model image is linear in, got {chosen}; name others: sites="
        )
    entries = [(site, index) for site in chosen for index in np.ndindex(*at[site].shape)]
    columns = np.concatenate(list(blocks.values()), axis=1) / sigma[:, None]
    now = np.array([float(at[site][index]) for site, index in entries])
    left = (data - _model(scene, at)) / sigma
    normal, right = columns.T @ columns, columns.T @ (left + columns @ now)
    if priors == "gaussian":
        mean, precision = _moments(scene, chosen)
        normal, right = normal + np.diag(precision), right + precision * mean
    best = _solved(normal, right, *_bounds(scene, at, chosen))
    found = dict(at)
    for site in chosen:
        mine = [value for (name, _), value in zip(entries, best, strict=True) if name == site]
        found[site] = torch.as_tensor(np.array(mine), dtype=at[site].dtype, device=at[site].device).reshape(
            at[site].shape
        )
    return found


def _pixels(scene: Scene, planes: Mapping[str, Tensor]) -> np.ndarray:
    """Values in the unmasked pixels of all images, one image after the other, of a plane for each."""
    valid = {name: image.valid.cpu().numpy() for name, image in scene.images.items()}
    return np.concatenate([planes[name].cpu().numpy()[valid[name]] for name in scene.images])


def _model(scene: Scene, at: Mapping[str, Tensor], components: list[str] | None = None) -> np.ndarray:
    """The model in those pixels."""
    models = scene.predict(at, components=components)
    return _pixels(scene, models if len(scene.images) > 1 else {scene.image.name: models})


def _chosen(scene: Scene, sites: Sequence[str] | None) -> list[str]:
    """The linear parameters, in the order of the scene."""
    of_components = [site for site in scene.latent if any(within(site, name) for name in scene.components)]
    for site in sites or ():
        if site not in of_components:
            raise ValueError(f"linear_start: expected sites of components, got {site!r}; there are {of_components}")
    if sites is not None:
        chosen = [site for site in of_components if site in sites]
    else:
        units = {image.unit or "image unit" for image in scene.images.values()} | {"image unit"}
        named = {site for site in of_components if site.rpartition(".")[2] in _NAMES}
        chosen = [site for site in of_components if site in named or scene.units.get(site) in units]
    if not chosen:
        raise ValueError(
            "linear_start: expected linear parameters, the scene has none that are drawn; name them: sites="
        )
    return chosen


def _column(scene: Scene, at: Mapping[str, Tensor], site: str, index: tuple[int, ...]) -> np.ndarray:
    """Derivative of the model image along an entry of a linear parameter."""
    component = _components_of(scene, [site])
    step = 0.5 * max(abs(float(at[site][index])), 1.0)
    moved = at[site].clone()
    moved[index] = moved[index] + step
    there, here = (_model(scene, {**at, site: value}, component) for value in (moved, at[site]))
    return (there - here) / step


def _components_of(scene: Scene, sites: Sequence[str]) -> list[str]:
    """The components that draw some sites."""
    return [name for name in scene.components if any(within(site, name) for site in sites)]


def _is_linear(scene: Scene, at: Mapping[str, Tensor], blocks: Mapping[str, np.ndarray]) -> bool:
    """Whether the model image, all entries of some parameters moved at once, is what their columns say."""
    moves = {site: 0.3 * at[site].abs().clamp(min=1.0) for site in blocks}
    components = _components_of(scene, list(blocks))
    there = _model(scene, {**at, **{site: at[site] + move for site, move in moves.items()}}, components)
    change = there - _model(scene, at, components)
    expected = np.zeros_like(change)
    for site, columns in blocks.items():
        expected = expected + columns @ moves[site].reshape(-1).cpu().numpy()
    tolerance = _LINEAR if scene.image.dtype == torch.float64 else math.sqrt(_LINEAR)
    return bool(np.abs(expected - change).max() <= tolerance * max(np.abs(change).max(), np.abs(expected).max()))


def _moments(scene: Scene, chosen: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and inverse variance of the priors, entry by entry; 0 where there is no finite variance."""
    means, precisions = [], []
    for site in chosen:
        prior = scene.prior_of(site)
        shape = prior.shape()
        try:
            mean, variance = (torch.as_tensor(moment).expand(shape) for moment in (prior.mean, prior.variance))
        except NotImplementedError:
            mean, variance = torch.zeros(shape), torch.full(shape, math.inf)
        known = variance.isfinite() & (variance > 0) & mean.isfinite()
        means.append(torch.where(known, mean, 0.0).reshape(-1).cpu().numpy())
        precisions.append(torch.where(known, 1 / variance, 0.0).reshape(-1).cpu().numpy())
    return np.concatenate(means).astype(float), np.concatenate(precisions).astype(float)


def _bounds(scene: Scene, at: Mapping[str, Tensor], chosen: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """What the supports of the priors leave, entry by entry."""
    lows, highs = [], []
    for site in chosen:
        support = scene.prior_of(site).support
        while hasattr(support, "base_constraint"):
            support = support.base_constraint
        value = at[site].cpu().numpy().astype(float)
        low, high = (
            np.broadcast_to(np.asarray(torch.as_tensor(getattr(support, bound, edge)), dtype=float), value.shape)
            for bound, edge in (("lower_bound", -math.inf), ("upper_bound", math.inf))
        )
        # never on the edge itself: there it has no unconstrained value
        with np.errstate(invalid="ignore"):  # an edge at infinity stays there
            lows.append(np.where(np.isfinite(low), low + _LEAST * np.abs(value - low), low).ravel())
            highs.append(np.where(np.isfinite(high), high - _LEAST * np.abs(high - value), high).ravel())
    return np.concatenate(lows), np.concatenate(highs)


def _solved(normal: np.ndarray, right: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Minimum of a' N a / 2 - r' a within bounds, by the root of N in units where its diagonal is 1."""
    scale = np.sqrt(np.maximum(np.diag(normal), np.finfo(float).tiny))
    values, vectors = np.linalg.eigh(normal / np.outer(scale, scale))
    known = values > _UNKNOWN * values.max()
    root = np.sqrt(values[known])
    rows = root[:, None] * vectors[:, known].T
    found = lsq_linear(rows, vectors[:, known].T @ (right / scale) / root, bounds=(low * scale, high * scale))
    return np.asarray(found.x / scale)
