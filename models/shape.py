"""What a shape is: a map of the plane of a profile that makes its contours something else than ellipses.

A radial profile is a function of the distance from the origin of a plane in which its ellipse is a circle. A shape
moves the points of this plane, or lets only a part of their light through; :class:`bayesprof.models.shaped.Shaped`
applies a chain of them, and then the profile. The first shape acts on the plane itself, each next one on what those
before it made of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayesprof.grid import Ellipse, per_pixel
from bayesprof.light import as_tensors
from bayesprof.models.component import Call, Parameter, checked


class Place(NamedTuple):
    """Points of the plane of a profile.

    `u`, `v`: coordinates, pixels along the major axis of the profile; a circular profile has those of the sky, u along
    x and v along y. `light`: the fraction that is let through. `cos`, `sin`: direction of the major axis.
    """

    u: Tensor
    v: Tensor
    light: Tensor | float
    cos: Tensor
    sin: Tensor

    @property
    def radius_squared(self) -> Tensor:
        return self.u**2 + self.v**2

    @property
    def radius(self) -> Tensor:
        """Distance from the origin, with finite derivatives in it."""
        return torch.sqrt(self.radius_squared + torch.finfo(self.u.dtype).tiny ** 0.5)

    def scaled(self, factor: Tensor) -> Place:
        return self._replace(u=self.u * factor, v=self.v * factor)

    def dimmed(self, fraction: Tensor) -> Place:
        return self._replace(light=self.light * fraction)


class Shape(ABC):
    """A map of the plane of a profile. Subclasses are frozen dataclasses of tensors of one common batch shape."""

    def __post_init__(self) -> None:
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        for name, value in zip(names, as_tensors(*(getattr(self, name) for name in names)), strict=True):
            object.__setattr__(self, name, value)

    @abstractmethod
    def __call__(self, place: Place) -> Place:
        """Where the light at `place` comes from."""


@dataclass(frozen=True)
class ShapeComponent:
    """A shape with a prior, a held value or a default for each of its parameters, for :func:`models.shaped
    <bayesprof.models.shaped.shaped>`; the members are those of :class:`bayesprof.models.component.Component`.
    """

    kind: str
    shape: Callable[..., Shape]
    parameters: Mapping[str, Parameter]
    given: Mapping[str, Any]
    call: Call | None = None


def shape_component(
    kind: str, shape: Callable[..., Shape], parameters: Mapping[str, Parameter], **given: Any
) -> ShapeComponent:
    """A shape of the catalogue, its given parameters checked; None stands for the default prior."""
    return ShapeComponent(kind, shape, parameters, checked(kind, parameters, given))


def place_of(dx: Tensor, dy: Tensor, ellipse: Ellipse) -> Place:
    """Points of the plane of a profile with `ellipse`, at offsets `dx`, `dy` on the sky.

    They are moved by the symmetric inverse root of the shape matrix S, (adj S + q I) / (q + q^2) with q^2 = det S,
    which doesn't turn them: it is smooth at a circle.
    """
    q = torch.sqrt(ellipse.xx * ellipse.yy - ellipse.xy**2)
    norm = 1 / (q + q**2)
    xx, xy, yy = (per_pixel(entry) for entry in ((ellipse.yy + q) * norm, -ellipse.xy * norm, (ellipse.xx + q) * norm))
    cos, sin = _major_axis(ellipse)
    return Place(xx * dx + xy * dy, xy * dx + yy * dy, 1.0, cos, sin)


def plane_place(along: Tensor, across: Tensor, ellipse: Ellipse) -> Place:
    """Points of that plane by their coordinates along the major axis and across it."""
    cos, sin = _major_axis(ellipse)
    return Place(cos * along - sin * across, sin * along + cos * across, 1.0, cos, sin)


def _major_axis(ellipse: Ellipse) -> tuple[Tensor, Tensor]:
    """Cosine and sine of its angle; of a circle that is 0, with derivative 0."""
    along, across = ellipse.xx - ellipse.yy, 2 * ellipse.xy
    round_ = (along == 0) & (across == 0)
    angle = 0.5 * torch.atan2(across, torch.where(round_, 1.0, along))
    return per_pixel(torch.cos(angle)), per_pixel(torch.sin(angle))
