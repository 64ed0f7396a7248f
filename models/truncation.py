"""Truncations: discs that end, and rings.

T_outer = (1 - tanh((R - r) / w)) / 2,    T_inner = (1 + tanh((R - r) / w)) / 2,

the fraction of the profile's light that is left at radius R: a half at the radius r, and from 0.88 to 0.12 over a range
of 2 w about it. (Peng et al. 2010, AJ 139, 2097, have the hyperbolic tangent in other constants: of their break radius,
with 0.99 of the light left, and softening length, to where 0.01 is left, r_break = r - 2.3 w and Delta r_soft = 4.6 w.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from bayesprof.grid import per_pixel
from bayesprof.models.component import catalogued
from bayesprof.models.galaxy import multiple_of_r_eff
from bayesprof.models.shape import Place, Shape, ShapeComponent, shape_component


@dataclass(frozen=True)
class OuterTruncation(Shape):
    """A profile that ends.

    Parameters
    ----------
    r_out : where half of the profile's light is left, pixels along the major axis, > 0.
    width_out : over which it ends, pixels, > 0. Keep it above a tenth of `r_out` and a pixel over the axis ratio: the
        light is sampled no finer.

    Examples
    --------
    >>> from bayesprof import models
    >>> disk = models.Shaped(models.Exponential(30.0, 40.0, 100.0, 5.0), [models.OuterTruncation(15.0, 3.0)])
    """

    r_out: Any
    width_out: Any

    def __call__(self, place: Place) -> Place:
        return place.dimmed(torch.sigmoid((per_pixel(self.r_out) - place.radius) * per_pixel(2 / self.width_out)))


@dataclass(frozen=True)
class InnerTruncation(Shape):
    """A profile that begins away from the centre: a ring.

    Parameters
    ----------
    r_in : where half of the profile's light is left, pixels along the major axis, > 0.
    width_in : over which it begins, pixels, > 0. Keep it above a tenth of `r_in` and a pixel over the axis ratio: the
        light is sampled no finer.

    Examples
    --------
    >>> from bayesprof import models
    >>> ring = models.Shaped(models.Exponential(30.0, 40.0, 100.0, 5.0), [models.InnerTruncation(8.0, 2.0)])
    """

    r_in: Any
    width_in: Any

    def __call__(self, place: Place) -> Place:
        return place.dimmed(torch.sigmoid((place.radius - per_pixel(self.r_in)) * per_pixel(2 / self.width_in)))


@catalogued
def outer_truncation(*, r_out: Any = None, width_out: Any = None) -> ShapeComponent:
    """An end for a profile, for :func:`models.shaped <bayesprof.models.shaped.shaped>`, :class:`OuterTruncation`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is
    LogNormal(ln of a multiple of the measured half-light radius, 0.5), 2.5 for `r_out` and 0.5 for `width_out`.

    Examples
    --------
    >>> from bayesprof import models
    >>> disk = models.shaped(models.exponential(), models.outer_truncation(width_out=2.0))
    """
    parameters = {"r_out": multiple_of_r_eff(2.5), "width_out": multiple_of_r_eff(0.5)}
    return shape_component("outer_truncation", OuterTruncation, parameters, r_out=r_out, width_out=width_out)


@catalogued
def inner_truncation(*, r_in: Any = None, width_in: Any = None) -> ShapeComponent:
    """A beginning away from the centre, for :func:`models.shaped <bayesprof.models.shaped.shaped>`,
    :class:`InnerTruncation`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is
    LogNormal(ln of a multiple of the measured half-light radius, 0.5), 0.5 for `r_in` and 0.2 for `width_in`.

    Examples
    --------
    >>> from bayesprof import models
    >>> ring = models.shaped(models.exponential(), models.inner_truncation(r_in=8.0))
    """
    parameters = {"r_in": multiple_of_r_eff(0.5), "width_in": multiple_of_r_eff(0.2)}
    return shape_component("inner_truncation", InnerTruncation, parameters, r_in=r_in, width_in=width_in)
