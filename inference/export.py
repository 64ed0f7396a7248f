"""Draws to ArviZ: the one place that knows how an InferenceData is laid out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import arviz as az
import numpy as np
import torch
from torch import Tensor

from bayesprof.inference.information import counted
from bayesprof.inference.posterior import Posterior, seeds_from
from bayesprof.inference.verdict import judge

PREDICTIVE_DRAWS = 100
"""Draws kept, over all chains, in prior, prior_predictive and posterior_predictive."""
POINTWISE_VALUES = 10_000_000
"""Values of log_likelihood kept per observed site; draws are thinned evenly to stay below."""


def to_inference_data(
    posterior: Posterior,
    draws: Tensor,
    *,
    sample_stats: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    target_acceptance: float | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> az.InferenceData:
    """InferenceData of draws in the unconstrained space, with its verdict.

    Parameters
    ----------
    posterior : Posterior
    draws : Tensor, shape (chains, draws, D)
    sample_stats : mapping from names to arrays of shape (chains, draws)
    seed : seed of the predictive draws
    target_acceptance : the acceptance rate aimed at, for the verdict
    attrs : attributes of the posterior group and of the whole

    Returns
    -------
    arviz.InferenceData
        Groups posterior, sample_stats, log_likelihood, prior, prior_predictive, posterior_predictive, observed_data
        and constant_data. In log_likelihood the unmasked values of an observed site with a mask lie along one
        dimension, ``<site>_unmasked``, whose coordinate is their index in the flattened site. ``attrs["verdict"]``
        is "ok", or says what failed and what to do.
    """
    model = posterior.model
    dims = dict(getattr(model, "dims", {}))
    coords = dict(getattr(model, "coords", {}))
    described = {name: _numpy(value) for name, value in posterior.describe(draws).items()}
    nodes = posterior.observed_nodes(draws[0, 0])
    latent = [site.name for site in posterior.sites]

    keep = _thinned(draws, PREDICTIVE_DRAWS)
    seeds = seeds_from(seed, 2 * keep.shape[0] * keep.shape[1])
    prior, prior_predictive = _predict(posterior, None, seeds[:PREDICTIVE_DRAWS], (1, -1))
    _, posterior_predictive = _predict(posterior, keep, seeds[-keep.shape[0] * keep.shape[1] :], keep.shape[:2])
    log_likelihood, unmasked = _pointwise(posterior, draws, nodes)
    for name, index in unmasked.items():
        coords[f"{name}_unmasked"] = index
    constants: dict[str, Tensor] = model.constant_data() if hasattr(model, "constant_data") else {}
    idata = az.from_dict(
        posterior=described,
        sample_stats=None if sample_stats is None else dict(sample_stats),
        prior=prior,
        prior_predictive=prior_predictive,
        posterior_predictive=posterior_predictive,
        observed_data={name: _numpy(node["value"]) for name, node in nodes.items()},
        constant_data={name: _numpy(value) for name, value in constants.items()} or None,
        coords=coords,
        dims=dims,
    )
    if log_likelihood:
        pointwise = {name: [f"{name}_unmasked"] if name in unmasked else dims.get(name) for name in log_likelihood}
        idata.extend(
            az.from_dict(
                log_likelihood=log_likelihood, coords=coords, dims={k: v for k, v in pointwise.items() if v is not None}
            )
        )
    for name, unit in getattr(model, "units", {}).items():
        for group in ("posterior", "prior"):
            if name in idata[group]:
                idata[group][name].attrs["units"] = unit
    verdict = judge(idata, names=latent, target_acceptance=target_acceptance)
    facts = {
        "verdict": verdict.text,
        "inference_library": "bayesprof",
        "inference_library_version": version("bayesprof"),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        **(attrs or {}),
    }
    idata.attrs.update(facts)
    for group in idata.groups():
        idata[group].attrs.update(facts)
    return idata


def _numpy(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()


def _thinned(draws: Tensor, most: int) -> Tensor:
    """Evenly spaced draws of every chain, at most about `most` over all."""
    chains, count, _ = draws.shape
    per_chain = max(1, min(count, most // chains))
    return draws[:, torch.linspace(0, count - 1, per_chain).round().long()]


def _predict(
    posterior: Posterior, draws: Tensor | None, seeds: list[int], shape: tuple[int, ...]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Latent (and deterministic) and observed sites for each of `draws`, or from the prior."""
    flat = [None] * len(seeds) if draws is None else list(draws.reshape(-1, posterior.size))
    values = [
        posterior.predictive(None if z is None else posterior.constrain(z), seed)
        for z, seed in zip(flat, seeds, strict=True)
    ]
    kept = [site.name for site in posterior.sites] + list(posterior.deterministic)
    stacked = {
        name: np.stack([_numpy(value[name]) for value in values]).reshape(shape + tuple(values[0][name].shape))
        for name in [*kept, *posterior.observed]
    }
    observed = {name: stacked.pop(name).astype(np.float32) for name in posterior.observed}
    return stacked, observed


def _pointwise(
    posterior: Posterior, draws: Tensor, nodes: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Log likelihoods of unmasked values, (chains, draws) + their shape, and for masked sites the indices of those
    values.
    """
    if not nodes:
        return {}, {}
    counts = {name: _numpy(counted(node)) for name, node in nodes.items()}
    largest = max(int(count.sum()) for count in counts.values())
    chains = draws.shape[0]
    keep = _thinned(draws, max(chains, POINTWISE_VALUES // max(largest, 1)))
    rows: dict[str, list[np.ndarray]] = {name: [] for name in nodes}
    with torch.no_grad():
        for z in keep.reshape(-1, posterior.size):
            for name, value in posterior.pointwise(z).items():
                array = _numpy(value)
                rows[name].append((array if counts[name].all() else array[counts[name]]).astype(np.float32))
    stacked = {name: np.stack(row).reshape(keep.shape[:2] + row[0].shape) for name, row in rows.items()}
    return stacked, {name: np.flatnonzero(count) for name, count in counts.items() if not count.all()}
