"""Comparison of models by their out-of-sample predictions: PSIS-LOO of ArviZ, over all observed sites together."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import arviz as az
import numpy as np


def compare(results: Mapping[str, az.InferenceData]) -> Any:
    """Models ranked by their expected log predictive density, leaving one observed value out at a time.

    As ``arviz.compare`` by PSIS-LOO (Vehtari, Gelman & Gabry 2017, Statistics and Computing 27, 1413), with two
    differences: a model's observed sites, as the images of a scene are, count together, where ArviZ takes one; and the
    efficiency of the draws is that of those that log_likelihood keeps, which in large images are thinned.

    Parameters
    ----------
    results : mapping from a name to InferenceData
        Results of different models of the same data, two at least.

    Returns
    -------
    pandas.DataFrame
        The best first: ``elpd_loo``, ``elpd_diff`` to the best, ``dse`` its standard error, ``weight``, and
        ``warning`` where a value weighs so much that leaving it out can't be told from the draws (k-hat too high).

    Raises
    ------
    ValueError
        For fewer than two results, without log_likelihood, or of different data.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> data = rng.normal(size=50)
    >>> def result(mean):
    ...     draws = mean + 0.1 * rng.normal(size=(4, 250))
    ...     log_likelihood = -0.5 * (data - draws[..., None]) ** 2
    ...     return az.from_dict(posterior={"m": draws}, log_likelihood={"d": log_likelihood}, observed_data={"d": data})
    >>> list(compare({"far": result(1.0), "near": result(0.0)}).index)
    ['near', 'far']
    """
    if len(results) < 2:
        raise ValueError(f"compare: expected two results or more, by name, got {len(results)}")
    for name, result in results.items():
        if "log_likelihood" not in result.groups():
            raise ValueError(f"compare: expected results with a group log_likelihood, {name!r} has {result.groups()}")
    first, *others = results
    for name in others:
        _same_data(first, results[first], name, results[name])
    with warnings.catch_warnings(), np.errstate(over="ignore"):  # as in the tails of importance weights
        # the first is told in the column `warning`, the second is between ArviZ and pandas
        warnings.filterwarnings("ignore", message="Estimated shape parameter of Pareto distribution")
        warnings.filterwarnings("ignore", message="The inplace keyword")
        return az.compare({name: _loo(result) for name, result in results.items()}, ic="loo")


def _loo(result: az.InferenceData) -> az.ELPDData:
    sites = [site.values for site in result["log_likelihood"].data_vars.values()]
    joined = np.concatenate([values.reshape(*values.shape[:2], -1) for values in sites], axis=-1).astype(float)
    kept = joined.shape[0] * joined.shape[1]
    ess = az.ess(result["posterior"], method="mean")
    # entries that never vary, like the zeros of a Cholesky factor, have no ESS
    effective = np.nanmean(np.concatenate([np.ravel(values) for values in ess.data_vars.values()]))
    if "resampled_ess" in result.attrs:
        effective = result.attrs["resampled_ess"]
    return az.loo(az.from_dict(log_likelihood={"all": joined}), pointwise=True, reff=min(1.0, float(effective) / kept))


def _same_data(first: str, one: az.InferenceData, name: str, other: az.InferenceData) -> None:
    here, there = ({key: value.values for key, value in r["observed_data"].data_vars.items()} for r in (one, other))
    if here.keys() != there.keys():
        raise ValueError(
            f"compare: expected results over the same data, got the sites {list(here)} in {first!r} and {list(there)} "
            f"in {name!r}"
        )
    differing = [key for key in here if not np.array_equal(here[key], there[key], equal_nan=True)]
    if differing:
        raise ValueError(
            f"compare: expected results over the same data, {differing} differ between {first!r} and {name!r}; fit "
            "both models to one image and mask"
        )
