"""Values of sites, by name, from whatever a method returned: a fit has them, draws give the median of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def site_values(params: Any) -> dict[str, Any]:
    """Value of each site, by name; empty for None.

    Parameters
    ----------
    params : Fit, mapping from site names to values, arviz.InferenceData, or None
        Draws give the median of each site, of angles about their circular mean.

    Raises
    ------
    TypeError
        For anything that holds no values.

    Examples
    --------
    >>> site_values({"sky.level": 2.0})
    {'sky.level': 2.0}
    """
    values = getattr(params, "params", params)
    if hasattr(values, "posterior"):
        return {str(name): _median(str(name), draws.values) for name, draws in values.posterior.data_vars.items()}
    if values is not None and not isinstance(values, Mapping):
        raise TypeError(
            "expected params as a fit, a mapping from site names to values, or InferenceData, got "
            f"{type(params).__name__}; pass what inference.lm or inference.nuts returned"
        )
    return dict(values or {})


ANY_ANGLE = math.pi / math.sqrt(12)
"""Standard deviation of an angle of period pi of which nothing is known."""


def is_angle(name: str) -> bool:
    """Whether the site `name` is an angle with the period pi, by its name: ``theta`` of a component, as "galaxy.theta",
    or ``bulge_theta`` of a part of one.
    """
    _, of_component, parameter = name.rpartition(".")
    return bool(of_component) and (parameter == "theta" or parameter.endswith("_theta"))


def near_circular_mean(theta: np.ndarray) -> np.ndarray:
    """Angles of period pi, each moved by half turns to within a quarter turn of their circular mean."""
    mean = 0.5 * np.angle(np.exp(2j * theta).mean())
    return mean + np.remainder(theta - mean + 0.5 * math.pi, math.pi) - 0.5 * math.pi


def _median(name: str, draws: np.ndarray) -> np.ndarray:
    """Median over chains and draws, the first two axes."""
    return np.median(near_circular_mean(draws) if is_angle(name) else draws, axis=(0, 1))
