"""What a corner plot shows: one column of draws per scalar, and the covariance of a fit in the same columns."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bayesprof.grid import axis_ratio_and_angle
from bayesprof.values import is_angle, near_circular_mean

MOST_COLUMNS = 24
"""Columns of a corner plot; beyond, its panels can't be read on a page."""


@dataclass(frozen=True)
class Column:
    """One scalar of a posterior: its site, its index in the site, its draws (flat), its unit, and what to call the
    index: labels along the site's dimensions, as names of images.
    """

    site: str
    index: tuple[int, ...]
    draws: np.ndarray
    unit: str
    labels: tuple[str, ...] = ()

    @property
    def entry(self) -> str:
        """Name of the scalar, as in :attr:`bayesprof.inference.Fit.labels`."""
        return self.site + ("[" + ",".join(map(str, self.index)) + "]" if self.index else "")

    @property
    def exponent(self) -> int:
        """Power of ten to divide by so that tick labels stay short; 0 for values from a thousandth to 100,000."""
        size = float(np.median(np.abs(self.draws)))
        return 0 if size == 0 or 1e-3 <= size < 1e5 else math.floor(math.log10(size))

    @property
    def label(self) -> str:
        """Name and, on a second line, unit."""
        power = rf"$10^{{{self.exponent}}}$" if self.exponent else ""
        unit = " ".join(part for part in (power, self.unit) if part)
        name = f"{self.site}[{','.join(self.labels)}]" if self.labels else self.entry
        return f"{name}\n[{unit}]" if unit else name

    @property
    def interval(self) -> str:
        """Median and 68% interval, in the unit of the label, to two digits of the interval."""
        low, median, high = np.quantile(self.draws, [0.16, 0.5, 0.84]) / 10.0**self.exponent
        smallest = min(high - median, median - low)
        digits = max(0, 1 - math.floor(math.log10(smallest))) if smallest > 0 else 3
        return rf"${median:.{digits}f}^{{+{high - median:.{digits}f}}}_{{-{median - low:.{digits}f}}}$"

    def near(self, value: float) -> float:
        """`value`, for an angle moved by half turns to the draws."""
        if not is_angle(self.site):
            return value
        return value + math.pi * round((float(np.median(self.draws)) - value) / math.pi)


def _labels(site: Any, index: tuple[int, ...]) -> tuple[str, ...]:
    """Labels of an entry along the dimensions of its site; its index along those that are only counted."""
    along = [site.coords[dim].values for dim in site.dims[2:]]
    return tuple(str(i if values.dtype.kind in "iu" else values[i]) for i, values in zip(index, along, strict=True))


def columns_of(post: Any, names: Sequence[str] | None) -> list[Column]:
    """Columns of the sites `names` of an InferenceData, by default of :func:`default_names`."""
    sites = post.posterior.data_vars
    unknown = [name for name in names or () if name not in sites]
    if unknown:
        raise ValueError(f"corner: the posterior has no site {unknown}; choose names among {list(sites)}")
    columns = []
    for name in default_names(post) if names is None else names:
        draws = sites[name].values
        draws = near_circular_mean(draws) if is_angle(name) else draws
        unit = sites[name].attrs.get("units", "")
        columns += [
            Column(name, index, draws[(slice(None), slice(None), *index)].ravel(), unit, _labels(sites[name], index))
            for index in np.ndindex(*draws.shape[2:])
        ]
    return columns


def gaussian_of(fit: Any, columns: Sequence[Column]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of `columns` in the Gaussian approximation of a Fit.

    Axis ratio and angle follow linearly from the ellipticity. Of any other deterministic site only the variance is
    known, and the rest of its row is NaN.
    """
    entries = [column.entry for column in columns]
    rows = np.zeros((len(columns), len(fit.labels)))
    for row, column in zip(rows, columns, strict=True):
        if column.entry in fit.labels:
            row[fit.labels.index(column.entry)] = 1.0
        else:
            row[:] = _shape_derivatives(fit, column)
    covariance = rows @ fit.covariance @ rows.T
    mean = np.array([float(np.asarray(fit.params[column.site])[column.index]) for column in columns])
    variance = np.array([float(np.asarray(fit.std[column.site])[column.index]) ** 2 for column in columns])
    covariance[np.diag_indices(len(entries))] = variance
    return np.array([column.near(value) for column, value in zip(columns, mean, strict=True)]), covariance


def _shape_derivatives(fit: Any, column: Column) -> np.ndarray:
    """Derivatives of the `q` or `theta` of a component, or of a part of one, with respect to the latent entries; NaN
    for any other site.
    """
    quantity = re.search(r"(?<![^._])(q|theta)$", column.site)
    vector = column.site[: quantity.start()] + "ellipticity" if quantity else ""
    entries = [f"{vector}[{i}]" for i in (0, 1)]
    if quantity is None or not set(entries) <= set(fit.labels):
        return np.full(len(fit.labels), np.nan)
    ellipticity = torch.as_tensor(fit.params[vector], dtype=torch.float64)
    by_entry = torch.func.jacrev(axis_ratio_and_angle)(ellipticity)[("q", "theta").index(quantity[0])]
    row = np.zeros(len(fit.labels))
    row[[fit.labels.index(entry) for entry in entries]] = by_entry.numpy()
    return row


def default_names(post: Any) -> list[str]:
    """Sites of a posterior, without those of one value only, and with q and theta in the place of an ellipticity."""
    draws = post.posterior.data_vars
    sites = [str(name) for name in draws if float(draws[name].max()) > float(draws[name].min())] or list(draws)
    names: list[str] = []
    for site in sites:
        # "galaxy.ellipticity", or "galaxy.bulge_ellipticity" of a part
        before = site.removesuffix("ellipticity")
        shape = [f"{before}q", f"{before}theta"]
        replaced = before != site and set(shape) <= set(sites)
        names += [name for name in (shape if replaced else [site]) if name not in names]
    return names
