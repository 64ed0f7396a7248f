"""Draws of a posterior: every parameter against every other."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, ScalarFormatter

from bayesprof.plots.columns import MOST_COLUMNS, Column, columns_of, gaussian_of
from bayesprof.plots.figure import STYLE, Figure, saved

_PANEL = 1.55  # inches
_LEVELS = tuple(1 - math.exp(-0.5 * sigma**2) for sigma in (1, 2))
_DRAWS, _FIT, _TRUTH = "0.25", "tab:blue", "tab:red"


def corner(
    post: Any,
    *,
    names: Sequence[str] | None = None,
    truths: Mapping[str, Any] | None = None,
    fit: Any = None,
    path: str | PathLike[str] | None = None,
) -> Figure:
    """Corner plot of a posterior, with its medians and 68% intervals.

    Contours hold 39% and 86% of the draws, those of one and two standard deviations of a Gaussian in two
    dimensions. Angles `theta` are shown within a quarter turn of their circular mean.

    Parameters
    ----------
    post : arviz.InferenceData
    names : site names, optional
        What to show; by default every site that isn't constant, with q and theta in place of an ellipticity.
    truths : mapping from site names to values, optional
        Values to mark; sites that aren't shown are passed over.
    fit : Fit, optional
        Draw its Gaussian approximation as well: the contours of one and two standard deviations and the densities.
        Those of q and theta follow linearly from the ellipticity; of other deterministic sites the densities only
        are drawn.
    path : str or path, optional
        File to write the figure to.

    Raises
    ------
    ValueError
        For sites that the posterior doesn't have, for more than 24 columns, and for fewer draws than columns.
    """
    if not hasattr(post, "posterior"):
        raise TypeError(f"corner: expected InferenceData, got {type(post).__name__}; pass what inference.nuts returned")
    columns = columns_of(post, names)
    _check(columns, truths, post)
    scale = np.array([10.0**column.exponent for column in columns])
    draws = np.stack([column.draws for column in columns], axis=-1) / scale
    marks = np.array([_truth(column, truths) for column in columns]) / scale
    gaussian = None
    if fit is not None:
        mean, covariance = gaussian_of(fit, columns)
        gaussian = mean / scale, covariance / np.outer(scale, scale)

    import corner as corner_package  # imports pyplot, which nothing else here needs

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(_PANEL * len(columns) + 1.2,) * 2)
        corner_package.corner(
            draws,
            fig=figure,
            bins=25,
            smooth=1.0,
            levels=_LEVELS,
            range=_ranges(draws, marks, gaussian),
            color=_DRAWS,
            hist_kwargs={"density": True},
            data_kwargs={"alpha": 0.08},
            contour_kwargs={"linewidths": 1.0},
            quiet=True,
        )
        axes = np.array(figure.axes).reshape(len(columns), len(columns))
        _draw_labels(axes, columns)
        _draw_truths(axes, marks)
        if gaussian is not None:
            _draw_gaussian(axes, *gaussian)
        if truths is not None or fit is not None:
            _draw_legend(figure, truths is not None, fit is not None, len(columns))
    return saved(figure, path)


def _check(columns: Sequence[Column], truths: Mapping[str, Any] | None, post: Any) -> None:
    if not 0 < len(columns) <= MOST_COLUMNS:
        raise ValueError(f"corner: expected 1 to {MOST_COLUMNS} columns, got {len(columns)}; choose sites with names=")
    if len(columns[0].draws) <= len(columns):
        raise ValueError(
            f"corner: expected more draws than columns, got {len(columns[0].draws)} draws; take more draws"
        )
    unknown = [name for name in truths or () if name not in post.posterior]
    if unknown:
        raise ValueError(f"corner: the posterior has no site {unknown}, given in truths; it has {list(post.posterior)}")


def _truth(column: Column, truths: Mapping[str, Any] | None) -> float:
    if truths is None or column.site not in truths:
        return math.nan
    return column.near(float(np.asarray(truths[column.site])[column.index]))


def _ranges(draws: np.ndarray, marks: np.ndarray, gaussian: tuple[np.ndarray, np.ndarray] | None) -> list[Any]:
    """Range of each column: all but the outermost draws, the truth and two standard deviations of the fit."""
    edges = [np.quantile(draws, [0.001, 0.999], axis=0), marks[None, :]]
    if gaussian is not None:
        reach = 2 * np.sqrt(np.diagonal(gaussian[1]))
        edges += [np.stack([gaussian[0] - reach, gaussian[0] + reach])]
    low, high = np.nanmin(np.concatenate(edges), axis=0), np.nanmax(np.concatenate(edges), axis=0)
    pad = np.where(high > low, 0.06 * (high - low), 1e-3 * np.maximum(np.abs(high), 1.0))
    return list(zip(low - pad, high + pad, strict=True))


def _draw_labels(axes: np.ndarray, columns: Sequence[Column]) -> None:
    longest = max(len(re.sub(r"[${}^]", "", line)) for column in columns for line in column.label.split("\n"))
    size = min(10.0, 0.95 * _PANEL * 72 / (0.6 * longest))  # a letter is about 0.6 of its size wide
    for i, column in enumerate(columns):
        axes[i, i].set_title(column.interval, fontsize=9.0, pad=4)
        axes[-1, i].set_xlabel(column.label, fontsize=size)
        axes[-1, i].xaxis.set_label_coords(0.5, -0.38)
        inner = FixedLocator(_inner_ticks(*axes[i, i].get_xlim()))
        for row in range(i, len(columns)):
            axes[row, i].xaxis.set_major_locator(inner)
        axes[-1, i].xaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        for panel in axes[i, :i]:
            panel.yaxis.set_major_locator(inner)
        if i > 0:
            axes[i, 0].set_ylabel(column.label, fontsize=size)
            axes[i, 0].yaxis.set_label_coords(-0.42, 0.5)
            axes[i, 0].yaxis.set_major_formatter(ScalarFormatter(useOffset=False))


def _inner_ticks(low: float, high: float) -> list[float]:
    """Up to three round numbers, away from the edges so that the labels of neighbouring panels stay apart."""
    margin = 0.12 * (high - low)
    for count in (3, 4, 5):
        inside = [tick for tick in MaxNLocator(count).tick_values(low, high) if low + margin < tick < high - margin]
        if len(inside) >= 2:
            break
    return inside[:3]


def _draw_truths(axes: np.ndarray, marks: np.ndarray) -> None:
    for i, mark in enumerate(marks):
        if math.isfinite(mark):
            for panel in axes[i:, i]:
                panel.axvline(mark, color=_TRUTH, lw=1.0)
            for panel in axes[i, :i]:
                panel.axhline(mark, color=_TRUTH, lw=1.0)


def _draw_gaussian(axes: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> None:
    angle = np.linspace(0, 2 * np.pi, 181)
    for i in range(len(mean)):
        if covariance[i, i] == 0:  # held: no density
            continue
        _draw_density(axes[i, i], mean[i], math.sqrt(covariance[i, i]))
        for j in range(i):
            block = covariance[np.ix_([j, i], [j, i])]
            if not np.isfinite(block).all():
                continue
            values, vectors = np.linalg.eigh(block)
            circle = (vectors * np.sqrt(values.clip(min=0))) @ np.stack([np.cos(angle), np.sin(angle)])
            for sigma in (1, 2):
                axes[i, j].plot(mean[j] + sigma * circle[0], mean[i] + sigma * circle[1], color=_FIT, lw=1.0)


def _draw_density(axis: Axes, mean: float, std: float) -> None:
    x = np.linspace(*axis.get_xlim(), 201)
    density = np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
    axis.plot(x, density, color=_FIT, lw=1.2)
    axis.set_ylim(0, max(axis.get_ylim()[1], 1.1 * density.max()))


def _draw_legend(figure: Figure, truths: bool, fit: bool, columns: int) -> None:
    shown = [(_DRAWS, "draws", True), (_FIT, "fit and its covariance", fit), (_TRUTH, "true values", truths)]
    lines = [Line2D([], [], color=color, label=label) for color, label, there in shown if there]
    place = {"loc": "upper right"} if columns > 2 else {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
    figure.legend(handles=lines, frameon=False, fontsize=8.0 + 0.6 * columns, **place)
