"""A sky of one level over the whole image."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from bayesprof.grid import per_pixel
from bayesprof.image import Image
from bayesprof.light import Background, as_tensors
from bayesprof.measurement import Measurement
from bayesprof.models.component import Component, Default, Parameter, catalogued, component, normal


class FlatSky(Background):
    """Light of a flat sky: `level`, image units per pixel.

    Examples
    --------
    >>> from bayesprof import models
    >>> sky = models.FlatSky(3.0)
    """

    def __init__(self, level: Any) -> None:
        super().__init__()
        (self.level,) = as_tensors(level)

    def brightness_at(self, x: Tensor, y: Tensor) -> Tensor:
        return per_pixel(self.level).expand(*self.level.shape, y.shape[-2], x.shape[-1])


def _level(found: Measurement, image: Image) -> Default:
    source = "clipped median of the image's border, and three times the pixel noise"
    return normal(found.sky, 3 * found.noise, image, source, measured=True)


LEVEL = {"level": Parameter("{flux}", "finite", math.isfinite, _level)}


@catalogued
def flat_sky(*, level: Any = None) -> Component:
    """A flat sky, :class:`FlatSky`.

    `level` takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is
    Normal(clipped median of the image's border, 3 times the noise of a pixel).

    Examples
    --------
    >>> from bayesprof import models
    >>> sky = models.flat_sky()
    """
    return component("flat_sky", FlatSky, LEVEL, level=level)
