"""A star that moves from epoch to epoch, and may vary.

x(t) = x + motion_x (t - t_0),    y(t) = y + motion_y (t - t_0)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist

from bayesprof.image import Image
from bayesprof.measurement import Measurement
from bayesprof.models.component import Component, Default, Parameter, catalogued, component, number
from bayesprof.models.galaxy import FLUX, POSITION
from bayesprof.models.point_source import PointSource
from bayesprof.variation import per_image

_USUAL = 1.0  # pixels per year


@catalogued
def moving_star(
    epochs: Mapping[str, Any],
    *,
    reference: Any = None,
    x: Any = None,
    y: Any = None,
    flux: Any = None,
    motion_x: Any = None,
    motion_y: Any = None,
) -> Component:
    """A star with a proper motion, seen at several epochs, :class:`PointSource`.

    Parameters
    ----------
    epochs : mapping from names of the images that see it to times, in years or as astropy Times.
    reference : the time that `x` and `y` are for; the mean of the epochs where left out.
    x, y, flux : as of :func:`bayesprof.models.point_source`. A flux is per image, and may vary.
    motion_x, motion_y : pixels of the scene's first image per year. Default priors: Normal(0, 1 pixel per year).

    Raises
    ------
    TypeError, ValueError
        For epochs that aren't a mapping to finite times, and as other components.

    Examples
    --------
    >>> from bayesprof import models
    >>> star = models.moving_star({"first": 2015.2, "second": 2019.9}, flux=100.0)
    """
    if not isinstance(epochs, Mapping) or not epochs:
        raise TypeError(
            "moving_star: expected epochs as a mapping from names of images to times, for example "
            f'{{"first": 2015.2, "second": 2019.9}}, got {epochs!r}'
        )
    years = {name: _year(time) for name, time in epochs.items()}
    zero = sum(years.values()) / len(years) if reference is None else _year(reference)
    elapsed = per_image({name: year - zero for name, year in years.items()})
    parameters = {**POSITION, **FLUX, "motion_x": _MOTION, "motion_y": _MOTION, "elapsed": _ELAPSED}
    return component(
        "moving_star",
        _moved,
        parameters,
        x=x,
        y=y,
        flux=flux,
        motion_x=motion_x,
        motion_y=motion_y,
        elapsed=elapsed,
    )


def _moved(x: Any, y: Any, flux: Any, motion_x: Any, motion_y: Any, elapsed: Any) -> PointSource:
    return PointSource(x + motion_x * elapsed, y + motion_y * elapsed, flux)


def _year(time: Any) -> float:
    year = getattr(time, "jyear", time)  # of an astropy Time
    if isinstance(year, bool) or not isinstance(year, int | float) or not math.isfinite(year):
        raise ValueError(f"moving_star: expected times in years, or astropy Times, got {time!r}")
    return float(year)


def _motion(found: Measurement, image: Image) -> Default:
    prior = dist.Normal(number(0.0, image), number(_USUAL, image))
    return Default(prior, 0.0, f"Normal(0, {_USUAL:g}): a pixel per year")


def _elapsed(found: Measurement, image: Image) -> Default:
    return Default(number(0.0, image), None, "= 0")


_MOTION = Parameter("pixel / yr", "finite", math.isfinite, _motion)
_ELAPSED = Parameter("yr", "finite", math.isfinite, _elapsed)
