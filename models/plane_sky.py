"""A sky that rises linearly across the image.

sky(x, y) = level + slope_x (x - x_c) + slope_y (y - y_c),    (x_c, y_c) the middle of the image
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from bayesprof.grid import per_pixel
from bayesprof.image import Image
from bayesprof.light import Background, as_tensors
from bayesprof.measurement import Measurement
from bayesprof.models.component import Component, Default, Parameter, catalogued, component, normal
from bayesprof.models.flat_sky import LEVEL


class PlaneSky(Background):
    """Light of a sky with a gradient.

    Parameters
    ----------
    level : level in the middle of the image, image units per pixel.
    slope_x, slope_y : its rise per pixel along x and y.

    Examples
    --------
    >>> from bayesprof import models
    >>> sky = models.PlaneSky(3.0, 0.01, -0.02)
    """

    def __init__(self, level: Any, slope_x: Any, slope_y: Any) -> None:
        super().__init__()
        self.level, self.slope_x, self.slope_y = as_tensors(level, slope_x, slope_y)

    def brightness_at(self, x: Tensor, y: Tensor) -> Tensor:
        dx, dy = x - 0.5 * (x.shape[-1] - 1), y - 0.5 * (y.shape[-2] - 1)
        return per_pixel(self.level) + per_pixel(self.slope_x) * dx + per_pixel(self.slope_y) * dy


def _slope(axis: int) -> Parameter:
    def default(found: Measurement, image: Image) -> Default:
        return normal(0.0, 3 * found.noise / image.shape[axis], image, "three times the pixel noise across the image")

    return Parameter("{flux}/pixel", "finite", math.isfinite, default)


@catalogued
def plane_sky(*, level: Any = None, slope_x: Any = None, slope_y: Any = None) -> Component:
    """A sky with a gradient, :class:`PlaneSky`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing. Then the prior of
    `level` is that of :func:`flat_sky`, and each slope's is Normal(0, 3 times the noise of a pixel, over the length
    of the image).

    Examples
    --------
    >>> from bayesprof import models
    >>> sky = models.plane_sky(slope_y=0.0)
    """
    parameters = {**LEVEL, "slope_x": _slope(1), "slope_y": _slope(0)}
    return component("plane_sky", PlaneSky, parameters, level=level, slope_x=slope_x, slope_y=slope_y)
