"""Boxy and disky contours: generalised ellipses.

R = (|u|^c + |v|^c)^(1/c),    c = 2 + C0,

with u along the major axis and v across it, in the plane where the ellipse is a circle (Athanassoula et al. 1990,
MNRAS 245, 130; C0 as in GALFIT, Peng et al. 2010, AJ 139, 2097). C0 > 0 is boxy, C0 < 0 disky.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayesprof.grid import per_pixel
from bayesprof.image import Image
from bayesprof.measurement import Measurement
from bayesprof.models.component import Default, Parameter, catalogued, scaled_beta
from bayesprof.models.shape import Place, Shape, ShapeComponent, shape_component

RANGE = (-1.0, 4.0)
"""Values of C0 that are taken: from a rhombus to nearly a rectangle; outside, the shape is that of the nearer end."""


@dataclass(frozen=True)
class Boxiness(Shape):
    """Generalised ellipses.

    Parameters
    ----------
    boxiness : C0 in [-1, 4]; 0 is an ellipse. Contours of C0 < 0 have corners, and those far below are rendered less
        accurately: see the tests of this module.

    The contours are aligned with the major axis; of a circular profile, with the axes of the image.

    Examples
    --------
    >>> from bayesprof import models
    >>> boxy = models.Shaped(models.Sersic(30.0, 40.0, 100.0, 5.0, 2.5), [models.Boxiness(0.5)])
    """

    boxiness: Any

    def __call__(self, place: Place) -> Place:
        power = per_pixel(2 + self.boxiness.clamp(*RANGE))
        along = place.cos * place.u + place.sin * place.v
        across = place.cos * place.v - place.sin * place.u
        # in logarithms of fractions of the radius, which neither overflow nor lose their derivatives on the axes
        log_square = torch.log(place.radius_squared + torch.finfo(along.dtype).tiny)
        total = _powers(along, log_square, power) + _powers(across, log_square, power)
        return place.scaled(torch.exp(torch.log(total) / power))


@catalogued
def boxiness(*, boxiness: Any = None) -> ShapeComponent:
    """Boxy or disky contours for :func:`models.shaped <bayesprof.models.shaped.shaped>`, :class:`Boxiness`.

    `boxiness` takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is
    -1 + 3 Beta(4, 8), which has mean 0 and standard deviation 0.39.

    Examples
    --------
    >>> from bayesprof import models
    >>> bulge = models.shaped(models.sersic(), models.boxiness())
    """
    return shape_component("boxiness", Boxiness, {"boxiness": _BOXINESS}, boxiness=boxiness)


def _default(found: Measurement, image: Image) -> Default:
    return scaled_beta(-1.0, 2.0, 4.0, 8.0, 0.0, image)


_BOXINESS = Parameter("", f"in [{RANGE[0]:g}, {RANGE[1]:g}]", lambda value: RANGE[0] <= value <= RANGE[1], _default)


def _powers(coordinate: Tensor, log_square: Tensor, power: Tensor) -> Tensor:
    """``|coordinate / radius|^power``."""
    floor = torch.finfo(coordinate.dtype).eps ** 4  # of the squared fraction
    log_fraction = torch.log(coordinate**2 * torch.exp(-log_square) + floor)
    return torch.exp(0.5 * power * log_fraction)
