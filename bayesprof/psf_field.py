"""A sampled PSF that varies over the image: stamps times a polynomial of the position.

PSF(x, y) = sum over s of u^a v^b stamp_s, over its sum,    u = (x - x_0) / scale_x,    v = (y - y_0) / scale_y

The terms u^a v^b with a + b <= degree are in PsfEx's order (Bertin 2011, ADASS XX, 435): 1, u, u^2, ..., v, u v, ...,
v^2, .... Each source is convolved with the PSF at its own centre, wherever its light is.
"""

from __future__ import annotations

from copy import copy
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from bayesprof.checking import as_array, check_number

Values = TypeVar("Values", np.ndarray, Tensor)


class PSFField:
    """A PSF that varies over the image, immutable.

    Parameters
    ----------
    stamps : array_like [count, h, w], one for each term of the polynomial: (degree + 1) (degree + 2) / 2. Their origin
        is the geometric centre of the array, as that of every sampled PSF; the PSF need not sum to 1.
    degree : of the polynomial, a whole number >= 0.
    offset : (x_0, y_0), pixels of the image.
    scale : (scale_x, scale_y), pixels, > 0.
    oversampling : pixels of the stamps per image pixel along a side.

    Attributes
    ----------
    stamps : ndarray, float64, read-only.
    degree, offset, scale, oversampling : as given.

    Raises
    ------
    ValueError, TypeError
        For stamps that aren't finite or whose number doesn't belong to the degree, and numbers out of their range.

    Examples
    --------
    A PSF that widens along x:

    >>> import numpy as np, bayesprof as bp
    >>> y, x = np.mgrid[-8:9, -8:9]
    >>> mean = np.exp(-0.5 * (x**2 + y**2) / 1.7**2)
    >>> wider = 0.1 * mean * (x**2 + y**2 - 2 * 1.7**2)
    >>> field = bp.PSFField([mean, wider, 0 * mean], 1, offset=(50.0, 40.0), scale=(50.0, 40.0))
    >>> image = bp.Image(np.zeros((80, 100)), sigma=1.0, psf=field)
    >>> bool(field.stamp_at(0, 40).max() > field.stamp_at(99, 40).max())
    True
    """

    stamps: np.ndarray
    degree: int
    offset: tuple[float, float]
    scale: tuple[float, float]
    oversampling: int

    def __init__(
        self,
        stamps: Any,
        degree: int,
        *,
        offset: tuple[float, float],
        scale: tuple[float, float],
        oversampling: int = 1,
    ) -> None:
        owner = "PSFField"
        array, hidden, _ = as_array(stamps, "stamps", owner)
        for name, value, least in (("degree", degree, 0), ("oversampling", oversampling, 1)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"{owner}: expected {name} as a whole number >= {least}, got {value!r}; correct it")
        count = (degree + 1) * (degree + 2) // 2
        if array.ndim != 3 or len(array) != count:
            raise ValueError(
                f"{owner}: expected stamps of shape (count, h, w) with {count} for a polynomial of degree {degree}, "
                f"got shape {array.shape}; give one stamp for each of its terms"
            )
        bad = ~np.isfinite(array) if hidden is None else ~np.isfinite(array) | hidden
        if bad.any():
            raise ValueError(f"{owner}: expected finite stamps, got {int(bad.sum())} bad pixels; replace them")
        for name, pair in (("offset", offset), ("scale", scale)):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise TypeError(f"{owner}: expected {name} as two numbers, (x, y), got {pair!r}")
        numbers = {
            name: (check_number(pair[0], f"{name} in x", owner), check_number(pair[1], f"{name} in y", owner))
            for name, pair in (("offset", offset), ("scale", scale))
        }
        if min(numbers["scale"]) <= 0:
            raise ValueError(f"{owner}: expected scale > 0, got {numbers['scale']}; correct it")
        fixed = np.array(array, dtype=np.float64)
        fixed.flags.writeable = False
        self.__dict__.update(numbers, stamps=fixed, degree=int(degree), oversampling=int(oversampling))

    def stamp_at(self, x: float, y: float) -> np.ndarray:
        """The PSF at a position, shape (h, w), sum 1."""
        u, v = (np.array((p - o) / s) for p, o, s in zip((x, y), self.offset, self.scale, strict=True))
        psf = np.tensordot(np.stack(polynomial_terms(u, v, self.degree)), self.stamps, 1)
        return np.asarray(psf / psf.sum())

    def stamps_over(self, shape: tuple[int, int]) -> np.ndarray:
        """The PSF at 2 degree + 1 places along each side of an image of `shape`, its edges included; shape
        (places, h, w), the sum of each as it is.
        """
        ny, nx = shape
        places = np.linspace(0.0, 1.0, 2 * self.degree + 1)
        u, v = (
            ((size - 1) * places - offset) / scale
            for size, offset, scale in zip((nx, ny), self.offset, self.scale, strict=True)
        )
        columns, rows = np.meshgrid(u, v)
        terms = polynomial_terms(columns.ravel(), rows.ravel(), self.degree)
        return np.tensordot(np.stack(terms, -1), self.stamps, 1)

    def seen_from(self, x: float, y: float) -> PSFField:
        """The same PSF in the pixels of an image whose first pixel is at (`x`, `y`) of this one's: of a cutout."""
        moved = copy(self)
        moved.__dict__["offset"] = (self.offset[0] - x, self.offset[1] - y)
        return moved

    def __setattr__(self, key: str, value: Any) -> None:
        raise AttributeError(f"PSFField is immutable: cannot set {key}; make a new one instead")

    def __repr__(self) -> str:
        count, rows, columns = self.stamps.shape
        times = "" if self.oversampling == 1 else f", oversampled {self.oversampling} times"
        return f"PSFField({count} stamps of {rows}x{columns} px [y, x]{times}, degree {self.degree})"


def polynomial_terms(u: Values, v: Values, degree: int) -> list[Values]:
    """``u^a v^b`` with ``a + b <= degree``, in the order of the stamps."""
    return [u**a * v**b for b in range(degree + 1) for a in range(degree + 1 - b)]
