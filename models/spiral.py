"""Spiral arms: a plane that turns with radius.

Shapes and angles of what follows in the chain are turned counter-clockwise by psi(R), in the plane where the ellipse
of the profile is a circle: seen as a disc, that ellipse is its inclination. Alone, a spiral leaves the circles of the
plane what they are; arms come from an elongation that is turned, such as Fourier mode 2 after the spiral, or 1 or 3 for
other numbers of arms. A turn that depends on the radius alone keeps areas, and so the flux and the half-light radius of
what it turns.

- :class:`LogSpiral`: psi = winding ln(1 + R^2 / r_bar^2) / 2: no turn in the bar, and far outside an arm of constant
  pitch angle arccot(winding).
- :class:`PowerSpiral`: the "alpha-tanh" rotation of GALFIT (Peng et al. 2010, AJ 139, 2097, appendix A),
  psi = psi_out T(R) ((R / r_out + 1) / 2)^alpha,    T = (tanh(B (R / r_out - 1) + 2) + 1) / 2,
  B = (2 - artanh(0.46 / (|psi_out| + 0.23) - 1.00001)) r_out / (r_out - r_in).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayesprof.grid import per_pixel
from bayesprof.image import Image
from bayesprof.measurement import Measurement
from bayesprof.models.component import Default, Parameter, catalogued, normal, scaled_beta
from bayesprof.models.galaxy import multiple_of_r_eff
from bayesprof.models.shape import Place, Shape, ShapeComponent, shape_component

_C = 0.23  # radians, GALFIT's definition of where a bar ends


@dataclass(frozen=True)
class LogSpiral(Shape):
    """Logarithmic spiral around a bar.

    Parameters
    ----------
    winding : turn per factor e of radius, radians: the cotangent of the pitch angle, 2.7 for 20 degrees. Positive arms
        turn counter-clockwise outwards.
    r_bar : radius within which the turn ceases, pixels along the major axis, > 0.

    Examples
    --------
    >>> from bayesprof import models
    >>> disk = models.Exponential(30.0, 40.0, 100.0, 8.0, q=0.7, theta=0.3)
    >>> arms = models.Shaped(disk, [models.LogSpiral(2.7, 4.0), models.FourierModes((2,), [[0.3, 0.0]])])
    """

    winding: Any
    r_bar: Any

    def __call__(self, place: Place) -> Place:
        turn = per_pixel(0.5 * self.winding) * torch.log1p(place.radius_squared * per_pixel(self.r_bar**-2))
        return _turned(place, turn)


@dataclass(frozen=True)
class PowerSpiral(Shape):
    """Spiral whose turn goes as a power of the radius, as GALFIT's.

    Parameters
    ----------
    rotation : psi_out, the turn at `r_out`, radians; positive is counter-clockwise.
    r_out : outer radius of the spiral, pixels along the major axis, > 0.
    bar : r_in / r_out, in [0, 0.95]: the radius of the bar; beyond, that of the nearer end.
    alpha : power of the turn outside `r_out`.

    Examples
    --------
    >>> from bayesprof import models
    >>> disk = models.Exponential(30.0, 40.0, 100.0, 8.0, q=0.7, theta=0.3)
    >>> arms = models.Shaped(disk, [models.PowerSpiral(3.0, 20.0, 0.2, 0.5), models.FourierModes((2,), [[0.3, 0.0]])])
    """

    rotation: Any
    r_out: Any
    bar: Any
    alpha: Any

    def __call__(self, place: Place) -> Place:
        ending = 2 * _C / (self.rotation.abs() + _C) - 1.00001
        # artanh by logarithms: TorchScript's interpreter, which runs captured graphs, can't trace its derivative
        bend = 0.5 * (torch.log1p(ending) - torch.log1p(-ending))
        slope = (2 - bend) / (1 - self.bar.clamp(0, _LONGEST))
        radius = place.radius * per_pixel(1 / self.r_out)
        ramp = 0.5 * (torch.tanh(per_pixel(slope) * (radius - 1) + 2) + 1)
        power = torch.exp(per_pixel(self.alpha) * torch.log(0.5 * (radius + 1)))
        return _turned(place, per_pixel(self.rotation) * ramp * power)


@catalogued
def log_spiral(*, winding: Any = None, r_bar: Any = None) -> ShapeComponent:
    """Logarithmic spiral for :func:`models.shaped <bayesprof.models.shaped.shaped>`, :class:`LogSpiral`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is
    Normal(0, 2) for `winding`, and LogNormal(ln(0.5 measured half-light radius), 0.5) for `r_bar`. Arms of the two
    senses are two modes of a posterior; where the sense can be seen, say it: ``winding=dist.LogNormal(0.7, 0.5)``.

    Examples
    --------
    >>> from bayesprof import models
    >>> arms = models.shaped(models.exponential(), models.log_spiral(), models.fourier_modes((2,)))
    """
    parameters = {"winding": _WINDING, "r_bar": multiple_of_r_eff(0.5)}
    return shape_component("log_spiral", LogSpiral, parameters, winding=winding, r_bar=r_bar)


@catalogued
def power_spiral(*, rotation: Any = None, r_out: Any = None, bar: Any = None, alpha: Any = None) -> ShapeComponent:
    """GALFIT's power-law spiral for :func:`models.shaped <bayesprof.models.shaped.shaped>`, :class:`PowerSpiral`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is
    Normal(0, 3) for `rotation`, LogNormal(ln(2 measured half-light radii), 0.5) for `r_out`, 0 + 0.95 Beta(1.5, 3) for
    `bar` and Normal(0.5, 0.5) for `alpha`. What is said of the sense of :func:`log_spiral` holds here.

    Examples
    --------
    >>> from bayesprof import models
    >>> arms = models.shaped(models.exponential(), models.power_spiral(bar=0.2), models.fourier_modes((2,)))
    """
    parameters = {"rotation": _ROTATION, "r_out": multiple_of_r_eff(2.0), "bar": _BAR, "alpha": _ALPHA}
    return shape_component(
        "power_spiral", PowerSpiral, parameters, rotation=rotation, r_out=r_out, bar=bar, alpha=alpha
    )


_LONGEST = 0.95


def _started(default: Default, start: float) -> Default:
    return default._replace(start=start)


def _winding(found: Measurement, image: Image) -> Default:
    return _started(normal(0.0, 2.0, image, "either sense"), 1.0)


def _rotation(found: Measurement, image: Image) -> Default:
    return _started(normal(0.0, 3.0, image, "either sense"), 1.5)


def _alpha(found: Measurement, image: Image) -> Default:
    return normal(0.5, 0.5, image, "power of the turn")


def _bar(found: Measurement, image: Image) -> Default:
    return scaled_beta(0.0, _LONGEST, 1.5, 3.0, 0.3, image)


_WINDING = Parameter("rad", "finite", math.isfinite, _winding)
_ROTATION = Parameter("rad", "finite", math.isfinite, _rotation)
_ALPHA = Parameter("", "finite", math.isfinite, _alpha)
_BAR = Parameter("", f"in [0, {_LONGEST:g}]", lambda value: 0 <= value <= _LONGEST, _bar)


def _turned(place: Place, turn: Tensor) -> Place:
    """The light of `place` turned counter-clockwise: looked for at an angle that much smaller."""
    cos, sin = torch.cos(turn), torch.sin(turn)
    return place._replace(u=cos * place.u + sin * place.v, v=cos * place.v - sin * place.u)
