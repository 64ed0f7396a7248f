"""A window: a rectangle of pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from bayesprof.checking import check_number


@dataclass(frozen=True)
class Window:
    """The pixels [y0:y1, x0:x1] of an image.

    `detail`: distance from a source, pixels, > 0, within which smooth profiles (Sersic, exponential, Gaussian, Moffat,
    Spergel) are rendered with structure of every size; beyond it with that of more than a few pixels only, which for
    a source of axis ratio q is all that it has from about 10 / q on (:mod:`bayesprof.splitting`). A large window takes
    several times less work so. By default structure of every size everywhere.

    Raises
    ------
    TypeError, ValueError
        For bounds that aren't whole numbers, or in the wrong order, and for a `detail` that isn't positive.

    Examples
    --------
    >>> Window(10, 20, 50, 44).shape
    (24, 40)
    """

    x0: int
    y0: int
    x1: int
    y1: int
    detail: float | None = None

    def __post_init__(self) -> None:
        bounds = (self.x0, self.y0, self.x1, self.y1)
        if any(isinstance(bound, bool) or not isinstance(bound, int | np.integer) for bound in bounds):
            raise TypeError(f"Window: expected whole numbers of pixels x0, y0, x1, y1, got {bounds}; round them")
        if self.x0 >= self.x1 or self.y0 >= self.y1:
            raise ValueError(
                f"Window: expected x0 < x1 and y0 < y1, got x {self.x0} to {self.x1}, y {self.y0} to {self.y1}"
            )
        if self.detail is not None and not 0 < check_number(self.detail, "detail", "Window") < math.inf:
            raise ValueError(
                f"Window: expected detail > 0, a distance in pixels, got {self.detail!r}; leave it out for full detail"
            )

    def __repr__(self) -> str:
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return f"Window({', '.join(f'{name}={value!r}' for name, value in values if value is not None)})"

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.y1 - self.y0, self.x1 - self.x0

    @classmethod
    def around(cls, x: float, y: float, radius: float | tuple[float, float], *, detail: float | None = None) -> Window:
        """All pixels whose centres are no farther than `radius` (or: along x, along y) from (`x`, `y`) along each axis.

        Examples
        --------
        >>> Window.around(20.3, 30.0, 5)
        Window(x0=16, y0=25, x1=26, y1=36)
        """
        along_x, along_y = radius if isinstance(radius, tuple) else (radius, radius)
        x0, y0 = int(np.ceil(x - along_x)), int(np.ceil(y - along_y))
        x1, y1 = max(int(np.floor(x + along_x)), x0) + 1, max(int(np.floor(y + along_y)), y0) + 1
        return cls(x0, y0, x1, y1, detail)

    @classmethod
    def where_bright(cls, brightness: Any, limit: Any) -> Window:
        """The smallest window that holds every pixel of an image of light, array [ny, nx], that is brighter than
        `limit`, a number or an array of the same shape.

        Raises ValueError where none is.

        Examples
        --------
        >>> y, x = np.mgrid[:40, :50]
        >>> Window.where_bright(np.exp(-np.hypot(x - 20, y - 15) / 2), 0.1)  # out to 2 ln 10 = 4.6 pixels
        Window(x0=16, y0=11, x1=25, y1=20)
        """
        bright = np.asarray(brightness) > np.asarray(limit)
        if bright.ndim != 2 or not bright.any():
            raise ValueError(
                f"Window: expected an image [y, x] with light above the limit, got the shape {bright.shape} with "
                f"{int(bright.sum())} pixels above it; lower the limit"
            )
        rows, columns = (np.flatnonzero(bright.any(axis)) for axis in (1, 0))
        return cls(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)

    def holds(self, other: Window) -> bool:
        """Whether all of another window is in this one."""
        return self.x0 <= other.x0 and self.y0 <= other.y0 and self.x1 >= other.x1 and self.y1 >= other.y1

    def within(self, shape: tuple[int, int]) -> Window:
        """Its part on an image of `shape` (ny, nx).

        Raises ValueError where there is none.
        """
        ny, nx = shape
        if self.x1 <= 0 or self.y1 <= 0 or self.x0 >= nx or self.y0 >= ny:
            raise ValueError(
                f"Window: expected one that overlaps the image of {ny}x{nx} px [y, x], got {self}; move it"
            )
        return Window(max(self.x0, 0), max(self.y0, 0), min(self.x1, nx), min(self.y1, ny), self.detail)
