"""Light as another image of a scene sees it.

Near its centre the map between two images (:mod:`bayesprof.pixel_map`) is affine, ``d' = A d``. A source keeps its
flux; its transform becomes ``F(A^T k)``, its surface brightness ``I(A^-1 d') / |det A|``, and an elliptical profile
stays one, with the shape matrix ``A S A^T``. Nothing is resampled, and rendering stays as exact as in the first image.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from torch import Tensor

from bayesprof.grid import Ellipse, per_pixel
from bayesprof.light import Background, Extended, Lattice, Light, Part, Pointlike, Profile, Surface
from bayesprof.members import Member
from bayesprof.pixel_map import Near, PixelMap

Offset = tuple[Any, Any]
"""By how much an image is shifted against what its WCS says: along x and y, its own pixels."""


def seen_through(light: Light, to_image: PixelMap | None, offset: Offset | None = None) -> Light:
    """`light`, in the pixels of a scene's first image, in the pixels of another one, moved by an `offset` there.

    A :class:`bayesprof.light.Background` stays what it is: a function of the pixels of the image that it is in.

    Raises
    ------
    TypeError
        For a light of a kind that no map is known for.
    ValueError
        For a lattice of values in an image whose pixels are turned, skewed or of another shape.
    """
    if to_image is None and offset is None:
        return light
    return Light(tuple(_part_seen(part, to_image, offset) for part in light.parts))


def _part_seen(part: Any, to_image: PixelMap | None, offset: Offset | None) -> Part:
    if isinstance(part, Background):
        return part
    if isinstance(part, Member):
        key = (id(to_image), id(offset))
        return part.changed(key, lambda whole: _part_seen(whole, to_image, offset), keeping=(to_image, offset))
    if not isinstance(part, Pointlike | Extended | Surface | Lattice):
        raise TypeError(
            f"Scene: expected light that has a place in every image, got {type(part).__name__}, for which no map from "
            "one image to another is known; return Pointlike, Extended, Surface or Lattice light"
        )
    if to_image is None:
        return _moved_to(part, part.x, part.y, offset)
    near = to_image.near(part.x, part.y)
    if isinstance(part, Profile):
        result: Any = copy(part)
        result.ellipse = _ellipse_seen(part.ellipse, near)
    elif isinstance(part, Lattice):
        result = _lattice_seen(part, near)
    elif isinstance(part, Extended):
        result = MappedExtended(part, near)
    elif isinstance(part, Surface):
        result = MappedSurface(part, near)
    else:
        result = part
    return _moved_to(result, near.x, near.y, offset)


def _moved_to(part: Any, x: Tensor, y: Tensor, offset: Offset | None) -> Part:
    result: Any = copy(part)
    result.x, result.y = (x, y) if offset is None else (x + offset[0], y + offset[1])
    found: Part = result
    return found


def _ellipse_seen(ellipse: Ellipse, near: Near) -> Ellipse:
    """``A S A^T``."""
    a, b, c, d = near.x_along_x, near.x_along_y, near.y_along_x, near.y_along_y
    xx, xy, yy = ellipse
    return Ellipse(
        a * a * xx + 2 * a * b * xy + b * b * yy,
        a * c * xx + (a * d + b * c) * xy + b * d * yy,
        c * c * xx + 2 * c * d * xy + d * d * yy,
    )


def _lattice_seen(lattice: Lattice, near: Near) -> Lattice:
    """A lattice keeps its exact transform where the map is a change of scale; mirrored, its rows or columns turn."""
    along = torch.stack([near.x_along_x, near.y_along_y]).detach()
    across = torch.stack([near.x_along_y, near.y_along_x]).detach()
    reach = 0.5 * lattice.step * max(lattice.values.shape[-2:])
    size = along.abs()
    if float(across.abs().max()) * reach > _LATTICE_TOLERANCE or float(size.diff(dim=0).abs().max()) * reach > (
        _LATTICE_TOLERANCE
    ):
        raise ValueError(
            "Scene: expected images whose pixels lie along the same axes for a lattice of values, got one that is "
            "turned or stretched against the first; use another component, or resample that image"
        )
    values = lattice.values / near.area[..., None, None]
    flipped = [axis for axis, sign in ((-1, along[0]), (-2, along[1])) if float(sign.mean()) < 0]
    result = copy(lattice)
    result.values = values.flip(flipped) if flipped else values
    result.step = lattice.step * float(size.mean())
    return result


_LATTICE_TOLERANCE = 1e-2  # pixels, at the edge of the lattice


class MappedExtended(Extended):
    """A `source` near whose centre the map to an image is `near`."""

    def __init__(self, source: Extended, near: Near) -> None:
        super().__init__()
        self.source, self.near = source, near
        self.x, self.y, self.flux, self.radius = near.x, near.y, source.flux, source.radius
        self.ellipse = _ellipse_seen(source.ellipse, near)
        self.stackable, self.nodes_per_pixel = source.stackable, source.nodes_per_pixel  # type: ignore[misc]
        self.radial_nodes, self.smooth = source.radial_nodes, source.smooth  # type: ignore[misc]

    def transform_at(self, kx: Tensor, ky: Tensor) -> Tensor:
        a, b, c, d = (per_pixel(value) for value in self.near[2:])
        return self.source.transform_at(a * kx + c * ky, b * kx + d * ky)

    def brightness_at(self, dx: Tensor, dy: Tensor) -> Tensor:
        return _brightness_seen(self.source.brightness_at, self.near, dx, dy)

    def distant_brightness_at(self, dx: Tensor, dy: Tensor) -> Tensor:
        return _brightness_seen(self.source.distant_brightness_at, self.near, dx, dy)


class MappedSurface(Surface):
    """A `surface` near whose centre the map to an image is `near`."""

    def __init__(self, surface: Surface, near: Near) -> None:
        super().__init__(near.x, near.y, surface.radius, ellipse=_ellipse_seen(surface.ellipse, near))
        self.source, self.near = surface, near
        self.nodes_per_pixel, self.radial_nodes = surface.nodes_per_pixel, surface.radial_nodes  # type: ignore[misc]

    def brightness_at(self, dx: Tensor, dy: Tensor) -> Tensor:
        return _brightness_seen(self.source.brightness_at, self.near, dx, dy)


def _brightness_seen(brightness: Callable[[Tensor, Tensor], Tensor], near: Near, dx: Tensor, dy: Tensor) -> Tensor:
    a, b, c, d = (per_pixel(value) for value in near[2:])
    scale = 1 / (a * d - b * c)
    return brightness(scale * (d * dx - b * dy), scale * (a * dy - c * dx)) * scale.abs()
