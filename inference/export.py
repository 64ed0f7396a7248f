"""Draws to ArviZ: the one place that knows how an InferenceData is laid out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import arviz as az
import numpy as np
import torch
from torch import Tensor

from bayesprof.inference.information import counted
from bayesprof.inference.posterior import PREDICTIVE_DRAWS, Posterior
from bayesprof.inference.verdict import Verdict, judge

TOGETHER = 32  # draws whose pointwise values are held at once
POINTWISE_VALUES = 5_000_000
"""Values of log_likelihood kept per observed site; draws are thinned evenly to stay below."""


def to_inference_data(
    posterior: Posterior,
    draws: Tensor,
    *,
    sample_stats: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    target_acceptance: float | None = None,
    attrs: Mapping[str, Any] | None = None,
    traces: Mapping[str, np.ndarray] | None = None,
    failure: str | None = None,
) -> az.InferenceData:
    """InferenceData of draws in the unconstrained space, with its verdict.

    Parameters
    ----------
    posterior : Posterior
    draws : Tensor, shape (chains, draws, D)
    sample_stats : mapping from names to arrays of shape (chains, draws)
    seed : seed of the predictive draws
    target_acceptance : the acceptance rate aimed at, for the verdict
    attrs : attributes of the posterior group and of the whole; with a ``k_hat`` the verdict is on draws by importance
    failure : what is wrong with the run beside what its draws tell, for the verdict
    traces : records of the run itself, one value per step, kept in sample_stats along a dimension ``step``

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
    prior, prior_predictive = _apart(posterior, posterior.prior_predictive, (1, -1))
    predicted = posterior.predict(keep.reshape(-1, posterior.size), seed=seed)
    posterior_predictive = _observed(posterior, predicted, keep.shape[:2])
    log_likelihood, unmasked = _pointwise(posterior, draws, nodes)
    for name, index in unmasked.items():
        coords[f"{name}_unmasked"] = index
    constants: dict[str, Tensor] = model.constant_data() if hasattr(model, "constant_data") else {}
    with warnings.catch_warnings():
        # thinned groups of many chains are short
        warnings.filterwarnings("ignore", message="More chains")
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
                    log_likelihood=log_likelihood,
                    coords=coords,
                    dims={k: v for k, v in pointwise.items() if v is not None},
                )
            )
    for name, unit in getattr(model, "units", {}).items():
        for group in ("posterior", "prior"):
            if name in idata[group]:
                idata[group][name].attrs["units"] = unit
    for name, trace in (traces or {}).items():
        idata["sample_stats"][name] = ("step", trace)
    idata.attrs.update(attrs or {})
    verdict = judge(idata, names=latent, target_acceptance=target_acceptance)
    doubts = model.doubts(idata) if hasattr(model, "doubts") else None
    failures = [*filter(None, (failure, doubts)), *([] if verdict.ok else [verdict.text])]
    facts = {
        "verdict": "; ".join(failures) or verdict.text,
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


def quick_verdict(
    posterior: Posterior, draws: Tensor, stats: Mapping[str, np.ndarray], target_acceptance: float
) -> Verdict:
    """The verdict that :func:`to_inference_data` would come to, without the rest of it."""
    values = {name: _numpy(value) for name, value in posterior.constrain(draws).items()}
    idata = az.from_dict(posterior=values, sample_stats=dict(stats))
    return judge(idata, names=list(values), target_acceptance=target_acceptance)


def _numpy(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()


def _thinned(draws: Tensor, most: int) -> Tensor:
    """Evenly spaced draws of every chain, at most about `most` over all."""
    chains, count, _ = draws.shape
    per_chain = max(1, min(count, most // chains))
    return draws[:, torch.linspace(0, count - 1, per_chain).round().long()]


def _apart(
    posterior: Posterior, simulated: Mapping[str, Tensor], shape: tuple[int, ...]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Latent and deterministic sites, and observed ones, with `shape` in place of the first axis."""
    arrays = {name: _numpy(value).reshape(shape + tuple(value.shape[1:])) for name, value in simulated.items()}
    predictive = _observed(posterior, simulated, shape)
    return {name: array for name, array in arrays.items() if name not in predictive}, predictive


def _observed(posterior: Posterior, simulated: Mapping[str, Tensor], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Observed sites, with `shape` in place of the first axis."""
    return {
        name: _numpy(simulated[name]).reshape(shape + tuple(simulated[name].shape[1:])).astype(np.float32)
        for name in posterior.observed
    }


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
    for z in keep.reshape(-1, posterior.size).split(TOGETHER):
        for name, value in posterior.pointwise(z).items():
            rows[name].append(_numpy(value)[(slice(None), *_where(counts[name]))].astype(np.float32))
    stacked = {name: np.concatenate(row) for name, row in rows.items()}
    stacked = {name: row.reshape(*keep.shape[:2], *row.shape[1:]) for name, row in stacked.items()}
    return stacked, {name: np.flatnonzero(count) for name, count in counts.items() if not count.all()}


def _where(count: np.ndarray) -> tuple[Any, ...]:
    """Index that keeps what counts, along one axis; all of it, as it is, where everything counts."""
    return () if count.all() else (count,)
