"""By how much images are shifted against what their world coordinates say.

The astrometry of two images agrees to some tenths of a pixel at best, and a difference of a hundredth shows in the
residuals of a bright star. An offset for each image behind the first takes it up.
"""

from __future__ import annotations

import math
from typing import Any

from bayesprof.image import Image
from bayesprof.measurement import Measurement
from bayesprof.models.component import Component, Default, Parameter, catalogued, component, is_prior, normal
from bayesprof.variation import per_image

_USUAL = 0.5  # pixels


@catalogued
def alignment(*, dx: Any = None, dy: Any = None) -> Component:
    """Offsets of the images of a scene behind the first, for ``Scene([...], alignment=models.alignment())``.

    `dx` and `dy`, pixels of each image, are added to where its WCS or its map puts a source. Each takes a Pyro
    distribution (the prior in each image), a :func:`bayesprof.per_image` of them, held values, or nothing: then its
    prior is Normal(0, 0.5 pixel) in each image. Sites ``alignment.dx`` and ``alignment.dy``, with a dimension
    ``alignment.image``.

    Examples
    --------
    >>> import pyro.distributions as dist
    >>> from bayesprof import models
    >>> offsets = models.alignment(dx=dist.Normal(0.0, 0.1), dy=dist.Normal(0.0, 0.1))
    """
    dx, dy = (per_image(value) if value is None or is_prior(value) else value for value in (dx, dy))
    return component("alignment", _offset, {"dx": _OFFSET, "dy": _OFFSET}, dx=dx, dy=dy)


def _offset(dx: Any, dy: Any) -> tuple[Any, Any]:
    return dx, dy


def _default(found: Measurement, image: Image) -> Default:
    return normal(0.0, _USUAL, image, "astrometry that is good to half a pixel")


_OFFSET = Parameter("pixel", "finite", math.isfinite, _default)
