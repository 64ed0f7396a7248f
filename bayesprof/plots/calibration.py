"""Simulation-based calibration: the ranks of known truths, and the coverage of intervals."""

from __future__ import annotations

import math
from os import PathLike
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from bayesprof.plots.figure import STYLE, Figure, saved

MOST_PARAMETERS = 36
"""Parameters of a calibration plot; beyond, its panels can't be read on a page."""
_PROBABILITY = 0.95  # of the band
_PASSED, _FAILED, _BAND = "tab:blue", "tab:red", "0.85"
_COLOURS = ("tab:green", "tab:blue", "tab:purple")  # of the levels
_WIDTH, _HEIGHT, _COLUMNS = 2.35, 1.75, 4  # of a panel, inches, and most panels side by side


def calibration(calibration: Any, *, path: str | PathLike[str] | None = None) -> Figure:
    """Ranks and coverages of a simulation-based calibration.

    One panel a parameter shows the empirical distribution function of the ranks minus the uniform one, in a band that
    it leaves anywhere with a probability of 5% where the posterior is calibrated. It rises above zero on the left and
    falls below on the right where the posterior is too narrow, the other way round where it is too wide; it stays
    below where truths lie above the posterior. Parameters that fail the verdict, which allows for their number, are
    red. The last panel shows the coverage of central intervals minus their probability, with error bars of two
    binomial standard deviations.

    Parameters
    ----------
    calibration : bayesprof.inference.Calibration
    path : str or path, optional
        File to write the figure to.

    Raises
    ------
    TypeError, ValueError
        For anything else, and for more than 36 parameters.

    Examples
    --------
    >>> import numpy as np
    >>> from bayesprof import plots
    >>> from bayesprof.inference import Calibration
    >>> ranks = {"galaxy.flux": np.random.default_rng(0).integers(0, 100, 128)}
    >>> figure = plots.calibration(Calibration(ranks, draws=99, simulations=128, flagged={}, missing={}))
    """
    if not hasattr(calibration, "ranks"):
        raise TypeError(
            f"calibration: expected a Calibration, got {type(calibration).__name__}; pass what inference.calibrate "
            "returned"
        )
    names = list(calibration.ranks)
    if len(names) > MOST_PARAMETERS:
        raise ValueError(f"calibration: expected at most {MOST_PARAMETERS} parameters, got {len(names)}")
    columns = min(_COLUMNS, max(2, math.ceil(math.sqrt(len(names)))))
    rows = math.ceil(len(names) / columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH * columns + 0.5, _HEIGHT * (rows + 1.15) + 0.9), layout="constrained")
        grid = figure.add_gridspec(2, 1, height_ratios=[rows + 0.25, 1.4])
        upper, lower = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
        panels = upper.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for panel, name in zip(panels.flat, names, strict=False):
            colour = _FAILED if name in calibration.failed else _PASSED
            _draw_ecdf(panel, calibration.ranks[name], calibration.band(_PROBABILITY), colour)
            panel.set_title(_wrapped(name), fontsize=9.0)
        _finish_ecdfs(panels, len(names))
        _draw_coverage(lower.subplots(), calibration)
        figure.suptitle(_headline(calibration))
    return saved(figure, path)


def _draw_ecdf(panel: Axes, ranks: np.ndarray, band: tuple[np.ndarray, np.ndarray], colour: str) -> None:
    """The difference of the ECDF and the uniform distribution function, over its simultaneous band."""
    draws = len(band[0])
    points = np.arange(1, draws + 1) / (draws + 1)
    ecdf = np.cumsum(np.bincount(ranks, minlength=draws + 1))[:-1] / len(ranks)
    # both ends are 0 by definition
    x = np.concatenate([[0.0], points, [1.0]])
    bottom, top = (np.concatenate([[0.0], edge - points, [0.0]]) for edge in band)
    panel.fill_between(x, bottom, top, color=_BAND, lw=0)
    panel.axhline(0.0, color="0.5", lw=0.6)
    panel.plot(x, np.concatenate([[0.0], ecdf - points, [0.0]]), color=colour, lw=1.2)


def _finish_ecdfs(panels: np.ndarray, count: int) -> None:
    """Shared axes: their labels and limits, and none for the places left over."""
    reach = 1.08 * max(abs(limit) for limit in panels.flat[0].get_ylim())
    columns = panels.shape[1]
    for place, panel in enumerate(panels.flat):
        panel.set(xlim=(0, 1), ylim=(-reach, reach), xticks=[0, 0.5, 1])
        panel.set_xticklabels(["0", "0.5", "1"])
        panel.yaxis.set_major_locator(MaxNLocator(4, symmetric=True, steps=[1, 2, 5, 10]))
        if place >= count:
            panel.set_visible(False)
        if count > place >= count - columns:
            panel.tick_params(labelbottom=True)
            panel.set_xlabel("rank of the truth / draws")
        if place % columns == 0:
            panel.set_ylabel("ECDF $-$ uniform")


def _draw_coverage(axis: Axes, calibration: Any) -> None:
    """Coverage minus probability in percentage points, the levels side by side."""
    for i, (level, colour) in enumerate(zip(calibration.coverage_error, _COLOURS, strict=True)):
        excess = [100 * (covered[level] - level) for covered in calibration.coverage.values()]
        x = np.arange(len(excess)) + 0.18 * (i - 1)
        error = 200 * calibration.coverage_error[level]
        axis.errorbar(x, excess, yerr=error, fmt="o", ms=3.5, lw=1.0, color=colour, label=f"{100 * level:g}%")
    axis.axhline(0.0, color="0.5", lw=0.6, zorder=0)
    names = list(calibration.ranks)
    axis.set_xticks(range(len(names)), names)
    axis.tick_params(axis="x", length=0)
    if len(names) > 4:
        for label in axis.get_xticklabels():
            label.set(rotation=30, ha="right", rotation_mode="anchor")
    axis.set_xlim(-0.6, len(names) - 0.4)
    reach = 1.15 * max(abs(limit) for limit in axis.get_ylim())
    axis.set_ylim(-reach, reach)
    axis.set_ylabel("coverage $-$ probability\n[percentage points]")
    axis.legend(title="intervals", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _headline(calibration: Any) -> str:
    failed = sum(calibration.flagged.values()) + sum(calibration.missing.values())
    counts = f"{calibration.simulations} simulations, {calibration.draws} draws each"
    said = "calibrated" if calibration.ok else "not calibrated"
    reasons = [
        f"{count} fits {reason}"
        for count, reason in (
            (failed, "failed by their own verdict"),
            (calibration.lost, "in a mode far below the truth"),
        )
        if count
    ]
    return f"{counts}: {said}" + (f" ({', '.join(reasons)})" if reasons else "")


def _wrapped(name: str) -> str:
    """A long site name on two lines, broken after the component."""
    component, _, parameter = name.rpartition(".")
    return f"{component}.\n{parameter}" if component and len(name) > 18 else name
