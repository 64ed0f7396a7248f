"""The stretch of images whose light spans decades: linear about the sky, logarithmic far above it."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import FuncNorm


def asinh_stretch(centre: float, width: float, low: float, high: float) -> tuple[FuncNorm, list[float]]:
    """A norm from `low` to `high` that is linear within `width` of `centre`, and round numbers for its colour bar,
    evenly spread along it.
    """

    def forward(value: Any) -> Any:
        return np.arcsinh((value - centre) / width)

    def inverse(value: Any) -> Any:
        return centre + width * np.sinh(value)

    marks = inverse(np.linspace(forward(low), forward(high), 8))
    steps = 10.0 ** np.floor(np.log10(np.minimum(np.diff(marks)[:-1], np.diff(marks)[1:])))
    ticks = [float(np.round(mark / step) * step) for mark, step in zip(marks[1:-1], steps, strict=True)]
    return FuncNorm((forward, inverse), low, high), ticks
