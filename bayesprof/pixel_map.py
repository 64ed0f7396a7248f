"""Maps from the pixels of a scene's first image to those of another.

A map is a polynomial in x and y. One given by hand is affine. That between two world coordinate systems is fitted to
them over the first image, distortions (SIP) included, in the lowest degree that is within 1e-5 pixels of them; so
the position of a source is exact wherever it moves in a fit. Its shape needs the map near it only: there it is affine,
with the derivatives of the polynomial at its centre, and an affine map takes ellipses to ellipses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from astropy.wcs import NoConvergence
from astropy.wcs.utils import wcs_to_celestial_frame
from torch import Tensor

from bayesprof.image import Image
from bayesprof.window import Window

_EXACT = 1e-5  # pixels; a polynomial of higher degree isn't tried
_NO_DIFFERENCE = 1e-7  # pixels; images this close are on the same pixels
_DEGREES = range(1, 8)
_WORST = 1e-2  # pixels; beyond, the highest degree doesn't do
_MARGIN = 0.05  # of the image on either side, in the fit: sources may lie beyond its edge
_WCS_TOLERANCE = 1e-9  # pixels, of the iteration that inverts distortions


class Near(NamedTuple):
    """A map near a point: where that comes to lie, and the derivatives of its `x` along x and y, and of its `y`."""

    x: Tensor
    y: Tensor
    x_along_x: Tensor
    x_along_y: Tensor
    y_along_x: Tensor
    y_along_y: Tensor

    @property
    def area(self) -> Tensor:
        """Area of a pixel of the first image, in pixels of this one."""
        return (self.x_along_x * self.y_along_y - self.x_along_y * self.y_along_x).abs()


@dataclass(frozen=True)
class PixelMap:
    """From pixels of the first image to those of another.

    ``x' = sum over i, j of to_x[j, i] u^i v^j`` with ``u = (x - centre x) / size``, ``v`` likewise; `to_y` for y'.
    Coefficients have shape (degree + 1, degree + 1).
    """

    to_x: Tensor
    to_y: Tensor
    centre: tuple[float, float]
    size: float

    @property
    def degree(self) -> int:
        return len(self.to_x) - 1

    def near(self, x: Tensor, y: Tensor) -> Near:
        """The map near (`x`, `y`), each of shape ``batch``."""
        x, y = torch.broadcast_tensors(x, y)
        to_x, to_y = (table.to(dtype=x.dtype, device=x.device) for table in (self.to_x, self.to_y))
        dx, dy = x - self.centre[0], y - self.centre[1]
        if self.degree == 1:
            slopes = [table / self.size for table in (to_x[0, 1], to_x[1, 0], to_y[0, 1], to_y[1, 0])]
            a, b, c, d = slopes
            return Near(to_x[0, 0] + a * dx + b * dy, to_y[0, 0] + c * dx + d * dy, a, b, c, d)
        u, v = dx / self.size, dy / self.size
        (in_u, by_u), (in_v, by_v) = _powers(u, self.degree), _powers(v, self.degree)
        step = 1 / self.size
        return Near(
            _product(in_v, to_x, in_u),
            _product(in_v, to_y, in_u),
            step * _product(in_v, to_x, by_u),
            step * _product(by_v, to_x, in_u),
            step * _product(in_v, to_y, by_u),
            step * _product(by_v, to_y, in_u),
        )

    def at(self, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Positions of points, as arrays."""
        x, y = (torch.as_tensor(np.asarray(value, dtype=float)) for value in (x, y))
        found = self.near(x, y)
        return found.x.numpy(), found.y.numpy()

    def window(self, window: Window, shape: tuple[int, int]) -> Window | None:
        """The smallest window of an image of `shape` that holds all of `window`; None where it lies outside."""
        edge_x = np.array([window.x0 - 0.5, window.x1 - 0.5, window.x0 - 0.5, window.x1 - 0.5])
        edge_y = np.array([window.y0 - 0.5, window.y0 - 0.5, window.y1 - 0.5, window.y1 - 0.5])
        x, y = self.at(edge_x, edge_y)
        low_x, low_y = (int(np.floor(value.min() + 0.5)) for value in (x, y))
        high_x, high_y = (int(np.ceil(value.max() + 0.5)) for value in (x, y))
        if high_x <= 0 or high_y <= 0 or low_x >= shape[1] or low_y >= shape[0]:
            return None
        detail = None
        if window.detail is not None:
            # as much of a small source as there, and of the structure of a few pixels of the coarser of the two
            detail = window.detail * max((high_x - low_x) / window.shape[1], (high_y - low_y) / window.shape[0], 1.0)
        return Window(low_x, low_y, max(high_x, low_x + 1), max(high_y, low_y + 1), detail).within(shape)


def affine_map(matrix: Any, *, name: str = "the image") -> PixelMap:
    """The map ``(x', y') = matrix (x, y, 1)`` with a `matrix` of shape (2, 3).

    Raises
    ------
    ValueError, TypeError
        For a matrix of another shape, with values that aren't finite, or that maps all pixels onto a line.

    Examples
    --------
    >>> near = affine_map([[0.5, 0.0, 3.0], [0.0, 0.5, 1.0]]).near(torch.tensor(10.0), torch.tensor(20.0))
    >>> float(near.x), float(near.y), float(near.area)
    (8.0, 11.0, 0.25)
    """
    try:
        values = np.asarray(matrix, dtype=float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"maps: expected that of {name} as an array of shape (2, 3), got {matrix!r}") from error
    if values.shape != (2, 3) or not np.isfinite(values).all():
        raise ValueError(
            f"maps: expected that of {name} as finite numbers of shape (2, 3), which take (x, y, 1) in the first image "
            f"to (x, y) in this one, got shape {values.shape}"
        )
    if abs(np.linalg.det(values[:, :2])) < 1e-12:
        raise ValueError(f"maps: expected that of {name} to keep an area, got {values.tolist()}; correct it")
    tables = [torch.tensor([[c, a], [b, 0.0]], dtype=torch.float64) for a, b, c in values]
    return PixelMap(tables[0], tables[1], (0.0, 0.0), 1.0)


def pixel_map(first: Image, other: Image, given: Any = None) -> PixelMap | None:
    """The map from the pixels of `first` to those of `other`: the one `given`, that of their WCS, or None where both
    have the same pixels.

    Raises
    ------
    ValueError
        For images of different shapes of which one has no WCS, for a WCS that can't be inverted over the first image,
        and as :func:`affine_map`.
    """
    if given is not None:
        return affine_map(given, name=f"image {other.name!r}")
    if other is first:
        return None
    if first.wcs is None or other.wcs is None:
        without = [image.name for image in (first, other) if image.wcs is None]
        if first.shape == other.shape and len(without) == 2:
            return None
        raise ValueError(
            f"Scene: expected a WCS of every image, or none and the same shape, got no WCS of {without} and shapes "
            f"{first.shape} and {other.shape} of {first.name!r} and {other.name!r}; give Image(wcs=...), or "
            f"Scene(maps={{{other.name!r}: [[1, 0, dx], [0, 1, dy]]}})"
        )
    return _fitted(first, other)


def _fitted(first: Image, other: Image) -> PixelMap | None:
    ny, nx = first.shape
    centre, size = (0.5 * (nx - 1), 0.5 * (ny - 1)), 0.5 * max(nx, ny)
    points = [_grid(count, nx, ny, size) for count in (2 * max(_DEGREES) + 1, 2 * max(_DEGREES) + 4)]
    there = [_through_the_sky(first, other, centre[0] + size * u, centre[1] + size * v) for u, v in points]
    (u, v), (x, y) = points[0], there[0]
    if max(np.abs(x - centre[0] - size * u).max(), np.abs(y - centre[1] - size * v).max()) < _NO_DIFFERENCE:
        return None
    for degree in _DEGREES:
        powers = [(j, i) for j in range(degree + 1) for i in range(degree + 1 - j)]
        design, checked = (np.stack([a**i * b**j for j, i in powers], axis=-1) for a, b in points)
        solution = np.linalg.lstsq(design, np.stack([x, y], axis=-1), rcond=None)[0]
        error = np.abs(checked @ solution - np.stack(there[1], axis=-1)).max()
        if error < _EXACT:
            break
    if error > _WORST:
        raise ValueError(
            f"Scene: expected the pixels of {other.name!r} as a smooth function of those of {first.name!r}, got one "
            f"that a polynomial of degree {degree} misses by {error:.2g} pixels; cut the images to the part in common "
            "(Image.cutout), or give Scene(maps=...)"
        )
    tables = torch.zeros(2, degree + 1, degree + 1, dtype=torch.float64)
    for (j, i), row in zip(powers, solution, strict=True):
        tables[:, j, i] = torch.from_numpy(row)
    return PixelMap(tables[0], tables[1], centre, size)


def _grid(count: int, nx: int, ny: int, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Chebyshev nodes over an image and its margin, in units of `size` from its centre."""
    nodes = np.cos(np.pi * (np.arange(count) + 0.5) / count) * (1 + 2 * _MARGIN)
    u, v = np.meshgrid(nodes * 0.5 * nx / size, nodes * 0.5 * ny / size)
    return u.ravel(), v.ravel()


def _through_the_sky(first: Image, other: Image, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    assert first.wcs is not None
    assert other.wcs is not None
    sky = first.wcs.pixel_to_world(x, y).transform_to(wcs_to_celestial_frame(other.wcs))
    axes = np.empty((len(x), 2))
    axes[:, other.wcs.wcs.lng] = sky.spherical.lon.deg
    axes[:, other.wcs.wcs.lat] = sky.spherical.lat.deg
    try:
        found = other.wcs.all_world2pix(axes, 0, tolerance=_WCS_TOLERANCE, maxiter=100)
    except NoConvergence as error:
        raise ValueError(
            f"Scene: expected the WCS of {other.name!r} to be invertible over {first.name!r}, got none of its "
            "distortions inverted there; cut the images to the part in common (Image.cutout), or give Scene(maps=...)"
        ) from error
    if not np.isfinite(found).all():
        raise ValueError(
            f"Scene: expected {first.name!r} and {other.name!r} to show the same part of the sky, got positions "
            f"in {first.name!r} that {other.name!r} can't see; check their WCS"
        )
    return found[:, 0], found[:, 1]


def _powers(u: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """Powers of `u` up to a degree, along a last axis, and their derivatives."""
    powers = [torch.ones_like(u), u]
    for _ in range(degree - 1):
        powers.append(powers[-1] * u)
    slopes = [torch.zeros_like(u), *(k * power for k, power in enumerate(powers[:-1], 1))]
    return torch.stack(powers, dim=-1), torch.stack(slopes, dim=-1)


def _product(rows: Tensor, table: Tensor, columns: Tensor) -> Tensor:
    return (rows * (columns @ table.mT)).sum(-1)
