"""The figure behind every plot, and how it is written."""

from __future__ import annotations

from io import BytesIO
from os import PathLike
from typing import Any

import matplotlib.figure

STYLE: Any = {
    "font.size": 9.0,
    "axes.labelsize": 10.0,
    "axes.titlesize": 10.0,
    "figure.titlesize": 10.0,
    "legend.fontsize": 8.5,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "image.origin": "lower",
    "image.interpolation": "nearest",
}
"""Settings of matplotlib under which plots are drawn, over the user's own."""

COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:brown", "tab:pink", "tab:cyan", "tab:olive")
"""Of components, in their order; red is left for what stands out."""
MASKED = "0.62"
"""Grey of masked pixels."""

_DPI = 200
_WIDEST = 3600  # dots; large corner plots get fewer to the inch
_TRIMMED: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.08}


class Figure(matplotlib.figure.Figure):
    """A matplotlib figure that pyplot doesn't know of, so that none is left open, but that notebooks show."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png", **_TRIMMED)
        return buffer.getvalue()


def saved(figure: Figure, path: str | PathLike[str] | None) -> Figure:
    """`figure`, written to `path` where one is given."""
    if path is not None:
        figure.savefig(path, dpi=min(_DPI, _WIDEST / max(figure.get_size_inches())), **_TRIMMED)
    return figure
