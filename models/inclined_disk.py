"""An exponential disk of finite thickness seen at any inclination i.

    rho(R, z) = flux exp(-R / h) / (2 pi h^2) sech^2(z / (2 z0)) / (4 z0)

(van der Kruit & Searle 1981, A&A 95, 105.) Projected on the sky its Fourier transform stays closed: the section of the
transform of rho through the origin,

    F = (1 + h^2 (k_d^2 + k_z^2 cos^2 i))^(-3/2) w / sinh(w),    w = pi z0 k_z sin i

with k_d along the major axis and k_z across it (as GalSim's InclinedExponential, whose scale height is 2 z0). The
surface brightness is the integral of rho along the line of sight.

Sizes are those of the disk seen face-on: scale length h and ``thickness`` = z0 / h. Default priors, beside those of
:mod:`bayesprof.models.galaxy`: scale_length and thickness as in :mod:`bayesprof.models.edge_on_disk`, and
cos_inclination Uniform(0, 1), which is any orientation in space alike.

An image gives the axis ratio of the disk; cos_inclination and thickness are told apart by its shape far from the centre
only. Of a disk nearly face-on neither the angle nor the thickness is determined, and their priors come back.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprof.grid import ellipse_from_axis_ratio, per_pixel
from bayesprof.image import Image
from bayesprof.light import Extended, as_tensors
from bayesprof.measurement import Measurement
from bayesprof.models.component import Component, Default, Derived, Parameter, catalogued, component, number
from bayesprof.models.edge_on_disk import SCALE_HEIGHT, SCALE_LENGTH, THICKNESS, turned
from bayesprof.models.galaxy import FLUX, POSITION, THETA
from bayesprof.models.vertical import isothermal_transform

_LINE_OF_SIGHT, _DISTANT = 24, 12  # nodes of each of the three parts of the line of sight
_COSINES = (1e-4, 1 - 1e-6)  # inclinations of the line of sight; beyond, it would have a limit to take
_E_FOLDS = 25.0  # over which the brightness is followed away from its peak


class InclinedDisk(Extended):
    """Light of an inclined disk.

    Parameters
    ----------
    x, y : centre, pixels.
    flux : total light, image units.
    scale_length : h, in the plane, pixels, > 0.
    thickness : scale height over scale length, z0 / h, in (0, 1].
    cos_inclination : cosine of the inclination, in [0, 1]; 1 is face-on.
    theta : angle of the major axis, radians. Conventions: :mod:`bayesprof.grid`.

    Examples
    --------
    >>> from bayesprof import models
    >>> disk = models.InclinedDisk(30.0, 40.0, 100.0, 8.0, 0.15, 0.3, theta=0.3)
    """

    nodes_per_pixel: ClassVar[int] = 3

    stackable = True

    def __init__(
        self, x: Any, y: Any, flux: Any, scale_length: Any, thickness: Any, cos_inclination: Any, theta: Any
    ) -> None:
        super().__init__()
        self.x, self.y, self.flux, self.radius, self.thickness, self.cos_inclination, self.theta = as_tensors(
            x, y, flux, scale_length, thickness, cos_inclination, theta
        )
        cosine_squared = self.cos_inclination**2
        apparent = torch.sqrt(cosine_squared + self.thickness**2 * (1 - cosine_squared))
        self.ellipse = ellipse_from_axis_ratio(apparent, self.theta)

    def transform_at(self, kx: Tensor, ky: Tensor) -> Tensor:
        along, across = turned(kx, ky, self.theta)
        length_squared, cosine_squared = per_pixel(self.radius**2), per_pixel(self.cos_inclination**2)
        heights = across**2 * length_squared * per_pixel(self.thickness**2) * (1 - cosine_squared)
        in_plane = 1 + length_squared * (along**2 + across**2 * cosine_squared)
        return in_plane**-1.5 * isothermal_transform(heights)

    def brightness_at(self, dx: Tensor, dy: Tensor) -> Tensor:
        return self._along_line_of_sight(dx, dy, _LINE_OF_SIGHT)

    def distant_brightness_at(self, dx: Tensor, dy: Tensor) -> Tensor:
        return self._along_line_of_sight(dx, dy, _DISTANT)

    def _along_line_of_sight(self, dx: Tensor, dy: Tensor, count: int) -> Tensor:
        """Integral of rho with `count` nodes in each of three parts.

        rho falls along the line on both sides of where it meets the plane of the disk, and of where it is nearest to
        the axis of rotation; in logarithm it is nearly straight between and beyond these two points. Nodes crowd at
        both, doubly exponentially.
        """
        along, across = turned(dx, dy, self.theta)
        length = per_pixel(self.radius)
        height = length * per_pixel(self.thickness)
        cos = per_pixel(self.cos_inclination.clamp(*_COSINES))
        sin = torch.sqrt(1 - cos**2)
        fall_in_plane, fall_across = sin / length, cos / height  # per pixel along the line
        nearest, crossing = across * cos / sin, -across * sin / cos
        apart = (nearest - crossing).abs()
        # from the brighter of the two points, and no farther than there is light
        start = torch.where(fall_in_plane > fall_across, nearest, crossing)
        other = torch.where(fall_in_plane > fall_across, crossing, nearest)
        slower = (fall_in_plane - fall_across).abs()
        between = apart.minimum(_E_FOLDS / (slower + _E_FOLDS / (apart + length)))
        direction = torch.where(other > start, 1.0, -1.0).to(start.dtype)
        end = start + direction * between
        beyond = 1 / (fall_in_plane + fall_across)

        # in units of the scale length and height; all that can be is done before there are nodes
        aside = ((along / length) ** 2 + torch.finfo(along.dtype).tiny)[..., None]
        in_plane, inward = (across * cos / length)[..., None], (sin / length)[..., None]
        above, upward = (across * sin / height)[..., None], (cos / height)[..., None]

        def density(s: Tensor) -> Tensor:
            heights = (above + s * upward).abs()
            radius = torch.sqrt(aside + (in_plane - s * inward) ** 2)
            return torch.exp(-radius - heights) / (1 + torch.exp(-heights)) ** 2

        inner, outer = _double_exponential(count)
        inside, inside_weight, outside, outside_weight = (
            torch.as_tensor(array, dtype=start.dtype, device=start.device) for array in (*inner, *outer)
        )
        step = (direction * between)[..., None]
        total = between * (density(start[..., None] + step * inside) @ inside_weight)
        reach = (direction * beyond)[..., None]
        total = total + beyond * (density(start[..., None] - reach * outside) @ outside_weight)
        total = total + beyond * (density(end[..., None] + reach * outside) @ outside_weight)
        return per_pixel(self.flux) / (2 * math.pi * length**2 * height) * total


@catalogued
def inclined_disk(
    *,
    x: Any = None,
    y: Any = None,
    flux: Any = None,
    scale_length: Any = None,
    thickness: Any = None,
    cos_inclination: Any = None,
    theta: Any = None,
) -> Component:
    """An exponential disk of finite thickness at an inclination, :class:`InclinedDisk`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is the
    default of :mod:`bayesprof.models.inclined_disk`. Recorded beside the parameters: ``inclination``, rad, and
    ``scale_height``, pixels.

    Examples
    --------
    >>> from bayesprof import models
    >>> disk = models.inclined_disk(thickness=0.14)
    """
    parameters = {**POSITION, **FLUX, **SCALE_LENGTH, **THICKNESS, "cos_inclination": COS_INCLINATION, **THETA}
    return component(
        "inclined_disk",
        InclinedDisk,
        parameters,
        {"inclination": _INCLINATION, **SCALE_HEIGHT},
        x=x,
        y=y,
        flux=flux,
        scale_length=scale_length,
        thickness=thickness,
        cos_inclination=cos_inclination,
        theta=theta,
    )


def _cos_inclination(found: Measurement, image: Image) -> Default:
    size = math.hypot(*found.ellipticity)
    start = min(max((1 - size) / (1 + size), 0.1), 0.95)
    return Default(dist.Uniform(number(0.0, image), number(1.0, image)), start, "Uniform(0, 1): any orientation")


def _inclination(cosine: Tensor) -> Tensor:
    # at 1 the derivative is infinite
    return torch.arccos(cosine.clamp(max=1 - torch.finfo(cosine.dtype).eps))


COS_INCLINATION = Parameter("", "in [0, 1]", lambda cosine: 0 <= cosine <= 1, _cos_inclination)
_INCLINATION = Derived("rad", "arccos(cos_inclination)", lambda v: _inclination(v["cos_inclination"]))


@lru_cache
def _double_exponential(count: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Nodes and weights on (0, 1) for functions that are steep at the ends, and on (0, infinity) for those that fall
    like exp(-s) (Takahasi & Mori 1974, Publ. RIMS 9, 721).
    """
    t = 2.6 * (2 * (np.arange(count) + 0.5) / count - 1)
    step = t[1] - t[0]
    bend = np.exp(np.pi * np.sinh(t))
    inner = bend / (1 + bend), step * np.pi * np.cosh(t) * bend / (1 + bend) ** 2
    t = np.linspace(-2.9, 3.6, count)
    nodes = np.exp(t - np.exp(-t))
    outer = nodes, (t[1] - t[0]) * nodes * (1 + np.exp(-t))
    return inner, outer
