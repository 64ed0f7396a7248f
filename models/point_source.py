"""A point source: the PSF itself, at a position, with a flux."""

from __future__ import annotations

from typing import Any

from bayesprof.light import Pointlike
from bayesprof.models.component import Component, catalogued, component
from bayesprof.models.galaxy import FLUX, POSITION


class PointSource(Pointlike):
    """Light of a point source. The image must have a PSF.

    Parameters
    ----------
    x, y : position, pixels (conventions: :mod:`bayesprof.grid`).
    flux : total light, image units.

    Examples
    --------
    >>> from bayesprof import models
    >>> star = models.PointSource(30.0, 40.0, 100.0)
    """


@catalogued
def point_source(*, x: Any = None, y: Any = None, flux: Any = None) -> Component:
    """A star or a nucleus, :class:`PointSource`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is the
    default of :mod:`bayesprof.models.galaxy`.

    Examples
    --------
    >>> from bayesprof import models
    >>> star = models.point_source(x=12.0, y=30.5)
    """
    return component("point_source", PointSource, {**POSITION, **FLUX}, x=x, y=y, flux=flux)
