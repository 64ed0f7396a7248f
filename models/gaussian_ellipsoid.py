"""A triaxial Gaussian, seen from any direction.

The density is a Gaussian with standard deviations a >= b >= c along the axes of an ellipsoid. Seen along a line of
sight it is an elliptical Gaussian, exactly: its covariance on the sky is the upper left 2x2 block of

    R D R^T,    R = R_z(theta) R_x(i) R_z(azimuth),    D = diag(a^2, b^2, c^2),

in a frame with x and y on the sky and z along the line of sight (Euler's angles). The inclination i is the angle
between the short axis and the line of sight, theta that of the line of nodes on the sky, where the ellipsoid's a-b
plane crosses it, and azimuth that of the long axis in the a-b plane, from the line of nodes.

========================  ===========================================================================================
sigma                     LogNormal(ln measured half-light radius over sqrt(2 ln 2), 1)
b_to_a, c_to_b            Beta(2, 1) each: round or flat, and never a needle
cos_inclination           Uniform(0, 1)
azimuth                   Uniform(-pi/2, pi/2)
========================  ===========================================================================================

x, y, flux and theta as in :mod:`bayesprof.models.galaxy`. With these three angles all orientations are equally likely.
cos_inclination below 0 would be the mirror image of azimuth below 0, along the line of sight: the same picture.

One image fixes three numbers of the six that give the ellipsoid its size, shape and orientation: a size, an axis
ratio and an angle. All ellipsoids with that projection are equally likely given the image, and the posterior in those
six is their prior on a three-dimensional surface. Give priors or held values where something is known, or share the
ratios among many galaxies. With b_to_a of 1 the azimuth means nothing, with cos_inclination of 1 only its sum with
theta does, and with both ratios 1 no angle does.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprof.grid import Ellipse
from bayesprof.image import Image
from bayesprof.light import Profile, as_tensors
from bayesprof.measurement import Measurement
from bayesprof.models.component import Component, Default, Parameter, catalogued, component, number
from bayesprof.models.galaxy import FLUX, POSITION, THETA, fraction, size
from bayesprof.models.inclined_disk import COS_INCLINATION

_HALF_LIGHT = math.sqrt(2 * math.log(2))  # half-light radius of a Gaussian over its standard deviation
_THINNEST = 1e-3  # ratios below it are taken as it: the light would be a line


class GaussianEllipsoid(Profile):
    """Light of a triaxial Gaussian.

    Parameters
    ----------
    x, y : centre, pixels.
    flux : total light, image units.
    sigma : standard deviation along the longest axis, pixels, > 0.
    b_to_a, c_to_b : standard deviation along the middle axis over that along the longest, and of the shortest over the
        middle one, in (0, 1]; below 0.001 they are taken as that.
    theta : angle of the line of nodes, radians, counter-clockwise from +x.
    cos_inclination : cosine of the angle between the shortest axis and the line of sight, in [0, 1].
    azimuth : angle of the longest axis from the line of nodes, radians.

    Examples
    --------
    >>> from bayesprof import models
    >>> galaxy = models.GaussianEllipsoid(30.0, 40.0, 100.0, 5.0, 0.8, 0.6, 0.3, 0.5, 1.0)
    """

    stackable = True

    def __init__(
        self,
        x: Any,
        y: Any,
        flux: Any,
        sigma: Any,
        b_to_a: Any,
        c_to_b: Any,
        theta: Any,
        cos_inclination: Any,
        azimuth: Any,
    ) -> None:
        x, y, flux, sigma, b_to_a, c_to_b, theta, cos_inclination, azimuth = as_tensors(
            x, y, flux, sigma, b_to_a, c_to_b, theta, cos_inclination, azimuth
        )
        super().__init__(x, y, flux, sigma)
        # in units of the longest axis, not of the projected one, whose derivatives are infinite where it is round
        self.ellipse = _projected(
            b_to_a.clamp(_THINNEST, 1), c_to_b.clamp(_THINNEST, 1), theta, cos_inclination.clamp(0, 1), azimuth
        )

    def transform(self, wavenumber_squared: Tensor) -> Tensor:
        return torch.exp(-0.5 * wavenumber_squared)

    def brightness(self, radius_squared: Tensor) -> Tensor:
        return torch.exp(-0.5 * radius_squared) / (2 * math.pi)


@catalogued
def gaussian_ellipsoid(
    *,
    x: Any = None,
    y: Any = None,
    flux: Any = None,
    sigma: Any = None,
    b_to_a: Any = None,
    c_to_b: Any = None,
    theta: Any = None,
    cos_inclination: Any = None,
    azimuth: Any = None,
) -> Component:
    """A triaxial Gaussian, :class:`GaussianEllipsoid`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is the
    default of :mod:`bayesprof.models.gaussian_ellipsoid`, where it is also said what one image can't tell.

    Examples
    --------
    >>> from bayesprof import models
    >>> oblate = models.gaussian_ellipsoid(b_to_a=1.0, azimuth=0.0)
    """
    return component(
        "gaussian_ellipsoid",
        GaussianEllipsoid,
        {**POSITION, **FLUX, **_OWN},
        x=x,
        y=y,
        flux=flux,
        sigma=sigma,
        b_to_a=b_to_a,
        c_to_b=c_to_b,
        theta=theta,
        cos_inclination=cos_inclination,
        azimuth=azimuth,
    )


def _projected(b_to_a: Tensor, c_to_b: Tensor, theta: Tensor, cosine: Tensor, azimuth: Tensor) -> Ellipse:
    """Covariance on the sky, in units of that along the longest axis."""
    b, c = b_to_a**2, (b_to_a * c_to_b) ** 2
    # in the a-b plane along the line of nodes and across it, and then across it on the sky
    cos, sin = torch.cos(azimuth), torch.sin(azimuth)
    along = cos**2 + b * sin**2
    across = cosine**2 * (sin**2 + b * cos**2) + (1 - cosine**2) * c
    mixed = cosine * (1 - b) * sin * cos
    cos, sin = torch.cos(theta), torch.sin(theta)
    return Ellipse(
        cos**2 * along - 2 * cos * sin * mixed + sin**2 * across,
        cos * sin * (along - across) + (cos**2 - sin**2) * mixed,
        sin**2 * along + 2 * cos * sin * mixed + cos**2 * across,
    )


def _azimuth(found: Measurement, image: Image) -> Default:
    low, high = -math.pi / 2, math.pi / 2
    prior = dist.Uniform(number(low, image), number(high, image))
    return Default(prior, 0.2, f"Uniform({low:.3f}, {high:.3f}): any orientation")


def _ratio(meaning: str) -> Parameter:
    return fraction(2.0, 1.0, meaning)._replace(allowed="in (0, 1]", within=lambda value: 0 < value <= 1)


_OWN = {
    "sigma": size(1 / _HALF_LIGHT, "measured half-light radius over sqrt(2 ln 2)"),
    "b_to_a": _ratio("middle axis over the longest"),
    "c_to_b": _ratio("shortest axis over the middle one"),
    **THETA,
    "cos_inclination": COS_INCLINATION,
    "azimuth": Parameter("rad", "finite", math.isfinite, _azimuth),
}
