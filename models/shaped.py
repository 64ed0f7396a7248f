"""Profiles whose contours are not ellipses: any radial profile, seen through a chain of shapes.

The light at an offset d from the centre is

    I(d) = flux / (C q r^2) f(R' / r) T,

with f the profile of scale r, R' the radius that the shapes make of the elliptical one, T the fraction of light that
they let through, and C = integral of f(R') T over the plane divided by that of f, so that `flux` stays the total
light. C is a sum over fixed points, 90 radii times 48 angles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesprof.grid import per_pixel
from bayesprof.light import Profile, Surface, moved
from bayesprof.models.component import Component, catalogued
from bayesprof.models.shape import Place, Shape, ShapeComponent, place_of, plane_place

# Radii of the sum for C, in units of the profile's: exp of these, and the number of angles
_FIRST, _LAST, _STEP = -8.0, 5.5, 0.15
_ANGLES = 48


class Shaped(Surface):
    """Light of a profile whose contours are not ellipses.

    Parameters
    ----------
    profile : Profile
        The radial profile; its `flux` is the total flux with the shapes as well. Its radius keeps its meaning in the
        profile; it isn't the half-light radius of the shaped light, unless the shapes keep areas (a spiral does).
    shapes : sequence of Shape
        Applied from the first to the last (:mod:`bayesprof.models.shape`).

    Examples
    --------
    >>> from bayesprof import models
    >>> bulge = models.Sersic(30.0, 40.0, 100.0, 5.0, 2.5, q=0.7, theta=0.3)
    >>> boxy = models.Shaped(bulge, [models.Boxiness(0.5)])
    """

    def __init__(self, profile: Profile, shapes: Sequence[Shape]) -> None:
        for light, kind in ((profile, Profile), *((shape, Shape) for shape in shapes)):
            if not isinstance(light, kind):
                raise TypeError(
                    f"Shaped: expected a {kind.__name__.lower()}, got {type(light).__name__}; for example "
                    "Shaped(Sersic(...), [Boxiness(0.5)])"
                )
        super().__init__(profile.x, profile.y, profile.radius, ellipse=profile.ellipse)
        self.profile = profile
        # the parameters of a shape may be numbers, and those of the profile in float32
        self.shapes: tuple[Shape, ...] = moved(tuple(shapes), self.radius.dtype, self.radius.device)
        self.flux = profile.flux
        ellipse = profile.ellipse
        q = torch.sqrt(ellipse.xx * ellipse.yy - ellipse.xy**2)
        self.level = profile.flux / (q * profile.radius**2 * self._total())

    def brightness_at(self, dx: Tensor, dy: Tensor) -> Tensor:
        return per_pixel(self.level) * self._light(place_of(dx, dy, self.ellipse))

    def _light(self, place: Place) -> Tensor:
        for shape in self.shapes:
            place = shape(place)
        return self.profile.brightness(place.radius_squared * per_pixel(self.radius**-2)) * place.light

    def _total(self) -> Tensor:
        """``C``, shape ``batch``."""
        along, across, weight = (
            torch.as_tensor(part, dtype=self.radius.dtype, device=self.radius.device) for part in _points()
        )
        radius = per_pixel(self.radius)
        shaped = self._light(plane_place(radius * along, radius * across, self.ellipse))
        plain = self.profile.brightness(along**2 + across**2)
        return (shaped @ weight).squeeze(-1) / (plain @ weight).squeeze(-1)


@catalogued
def shaped(profile: Component, *shapes: ShapeComponent) -> Component:
    """A galaxy whose contours are not ellipses, :class:`Shaped`.

    Parameters
    ----------
    profile : Component
        One with a radial profile: ``models.sersic(...)``, ``models.moffat(...)``.
    *shapes : ShapeComponent
        ``models.boxiness()``, ``models.fourier_modes((1, 3))``, ``models.log_spiral()`` and others, applied in this
        order.

    The sites are those of the profile, then those of each shape; what the profile records beside them is recorded too.

    Raises
    ------
    TypeError
        For anything else.
    ValueError
        For shapes with a parameter of the same name.

    Examples
    --------
    >>> from bayesprof import models
    >>> spiral = models.shaped(models.exponential(), models.log_spiral(), models.fourier_modes((2,)))
    >>> bulge = models.shaped(models.sersic(n=4.0), models.boxiness())
    """
    if not isinstance(profile, Component):
        raise TypeError(
            f"shaped: expected a component first, got {type(profile).__name__}; "
            "for example models.shaped(models.sersic(), models.boxiness())"
        )
    parameters, given = dict(profile.parameters), dict(profile.given)
    for shape in shapes:
        if not isinstance(shape, ShapeComponent):
            raise TypeError(
                f"shaped: expected shapes after the component, got {type(shape).__name__}; "
                "for example models.shaped(models.sersic(), models.boxiness())"
            )
        twice = sorted(set(parameters) & set(shape.parameters))
        if twice:
            raise ValueError(
                f"shaped: expected parameters of different names, got {twice} of {shape.kind} twice; leave one out"
            )
        parameters |= shape.parameters
        given |= shape.given

    def light(**values: Any) -> Shaped:
        made = [
            shape.shape(**{name: values.pop(name) for name in shape.parameters if name in values}) for shape in shapes
        ]
        base = profile.light(**values)
        if not isinstance(base, Profile):
            raise TypeError(
                f"shaped: expected a component with a radial profile, got {profile.kind}; use models.sersic(), or one "
                "of its kind"
            )
        return Shaped(base, made)

    kind = " with ".join([profile.kind, *(shape.kind for shape in shapes)])
    return Component(kind, light, parameters, given, profile.derived)


@lru_cache
def _points() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, along the major axis (1, count) and across it, and weights (count) of the integral over the plane; radii
    in units of the profile's.

    The angles are Gauss-Legendre nodes between the axes, where the contours of some shapes have corners.
    """
    nodes, weights = np.polynomial.legendre.leggauss(_ANGLES // 4)
    angle = 0.25 * math.pi * (1 + nodes + 2 * np.arange(4)[:, None]).ravel()
    radius = np.exp(np.arange(_FIRST, _LAST, _STEP))[:, None]
    weight = radius**2 * np.tile(weights, 4)
    weight[0] /= -math.expm1(-2 * _STEP)  # with what lies within the first radius, as bright as there
    return (radius * np.cos(angle)).reshape(1, -1), (radius * np.sin(angle)).reshape(1, -1), weight.flatten()
