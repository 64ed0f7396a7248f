"""Axes of surface brightness against radius."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, NullFormatter

from bayesprof.image import Image


def brightness_of(image: Image) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """Conversion of image units per pixel to surface brightness, NaN where there is no light, and its unit."""
    if image.zeropoint is None or image.pixel_scale is None:
        return lambda light: np.where(light > 0, light, math.nan), f"{image.unit or 'image unit'} / pixel"
    zeropoint, area = image.zeropoint, image.pixel_scale**2
    return lambda light: zeropoint - 2.5 * np.log10(np.where(light > 0, light, math.nan) / area), "mag / arcsec$^2$"


def draw_points(
    axis: Axes,
    radius: np.ndarray,
    mean: np.ndarray,
    error: np.ndarray,
    brightness: Callable[[np.ndarray], np.ndarray],
    label: str,
    statistic: str = "mean",
) -> None:
    """Points with error bars, and limits where the light isn't above its error; `mean` is their `statistic`."""
    seen = mean > error
    point = brightness(mean[seen])
    bars = np.abs(np.stack([brightness((mean - error)[seen]), brightness((mean + error)[seen])]) - point)
    bars = bars if brightness(np.array(2.0)) > brightness(np.array(1.0)) else bars[::-1]
    axis.errorbar(radius[seen], point, bars, fmt="o", color="k", ms=3.5, lw=0.8, label=label)
    unseen = ~seen & (mean + 2 * error > 0)
    if unseen.any():
        limit = brightness((mean + 2 * error)[unseen])
        axis.plot(radius[unseen], limit, "v", color="k", mfc="none", ms=4, label=f"{statistic} + 2 errors")


def set_round_ticks(axis: Axis, *, few: bool = False) -> None:
    """Ticks at 1, 2 and 5 times powers of ten, or at those alone where `few`, written out."""
    axis.set_major_locator(LogLocator(subs=(1.0,) if few else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())
