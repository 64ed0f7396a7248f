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
    ticks = [float(np.round(mark / step) * step) + 0.0 for mark, step in zip(marks[1:-1], steps, strict=True)]
    # + 0.0: a zero without a sign
    return FuncNorm((forward, inverse), low, high), ticks


def image_stretch(
    data: np.ma.MaskedArray, sigma: np.ndarray | None, model: np.ndarray | None = None
) -> tuple[FuncNorm, list[float]]:
    """The norm of an image, about the median of its unmasked pixels and linear within three times their noise, that it
    shares with its `model`; and round numbers for its colour bar.
    """
    pixels = data.compressed()
    centre = float(np.median(pixels))
    spread = 1.4826 * np.abs(pixels - centre) if sigma is None else sigma[~np.ma.getmaskarray(data)]
    width = 3 * float(np.median(spread)) or 1.0  # 1.4826: scaled to the standard deviation of a Gaussian
    # a galaxy that fills the frame is fainter than the median in half of it
    faint = float(np.percentile(pixels if model is None else model, 1)) - width / 3
    low = max(float(pixels.min()), min(centre - width, faint))
    brightest = float(np.percentile(pixels, 99.95))
    high = max(brightest, centre + width, brightest if model is None else float(model.max()))
    return asinh_stretch(centre, width, low, high)
