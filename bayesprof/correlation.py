"""How the noise of neighbouring pixels is correlated: a table of coefficients, and its power spectrum.

The noise of a resampled image is taken as e = sigma w, with sigma the noise of each pixel and w stationary, of variance
1 and autocovariance rho(dy, dx), which is zero beyond a few pixels. Its power spectrum is
P(k) = sum_d rho(d) cos(k.d), of mean 1 over all wavenumbers k, and rho is the correlation of some noise where P >= 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

FLOOR = 0.05
"""Least power, in units of its mean: what an estimate is raised to. Less would stand for a filter that takes all of the
noise at some wavenumber, and tell what light has there from no noise at all."""

_GRID = 96  # wavenumbers along a side, for tables of up to a dozen pixels' reach
_TURNS = 200  # of raising the power and dropping what lies beyond the reach


@dataclass(frozen=True, eq=False)
class NoiseCorrelation:
    """Correlation of the noise of pixels by their distance.

    Parameters
    ----------
    values : array_like, shape (2 reach + 1, 2 reach + 1)
        rho(dy, dx) at [reach + dy, reach + dx]: 1 in the middle, the same at opposite places, and of a power spectrum
        that is positive everywhere. Beyond the table there is no correlation.
    errors : array_like of the same shape, optional
        Standard errors of the values, where they were measured.
    factor : float
        Noise of the blank sky they were measured on, in units of the image's sigma.
    pixels : int
        Number of pixels they were measured on, 0 where they weren't.

    Raises
    ------
    TypeError, ValueError
        For a table that is none, with what is wrong in it.

    Examples
    --------
    >>> noise = NoiseCorrelation([[0.0, 0.1, 0.0], [0.3, 1.0, 0.3], [0.0, 0.1, 0.0]])
    >>> noise
    NoiseCorrelation(reach 1 px, 0.3 along x, 0.1 along y, power 0.2 to 1.8)
    >>> NoiseCorrelation.of_kernel(np.full((1, 2), 0.5)).values
    array([[0. , 0. , 0. ],
           [0.5, 1. , 0.5],
           [0. , 0. , 0. ]])
    """

    values: np.ndarray
    errors: np.ndarray | None = None
    factor: float = 1.0
    pixels: int = 0

    def __post_init__(self) -> None:
        try:
            values = np.array(self.values, dtype=float)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"NoiseCorrelation: expected a table of numbers, got {type(self.values).__name__}; measure one with "
                "bp.noise_correlation(image)"
            ) from error
        if values.ndim != 2 or values.shape[0] != values.shape[1] or len(values) % 2 == 0:
            raise ValueError(
                "NoiseCorrelation: expected a square table of an odd number of pixels a side, distance 0 in its "
                f"middle, got the shape {values.shape}; fill it up with zeros"
            )
        middle = values[len(values) // 2, len(values) // 2]
        if not np.isfinite(values).all() or not np.isclose(middle, 1.0, rtol=1e-9):
            raise ValueError(
                f"NoiseCorrelation: expected finite values with 1 in the middle, got {middle} there; divide the table "
                "by it"
            )
        if not np.allclose(values, values[::-1, ::-1], rtol=0, atol=1e-9):
            raise ValueError(
                "NoiseCorrelation: expected the same values at opposite places, rho(dy, dx) = rho(-dy, -dx), got "
                "others; average the table and itself turned by half a turn"
            )
        values.flags.writeable = False
        object.__setattr__(self, "values", values)
        least = float(self.power.min())
        if least < -1e-9:
            raise ValueError(
                f"NoiseCorrelation: expected a power spectrum of 0 or more, got one down to {least:.3g}: no noise has "
                "this correlation; raise it with bayesprof.correlation.nearest, or measure one with "
                "bp.noise_correlation(image)"
            )

    @classmethod
    def of_kernel(cls, kernel: Any) -> NoiseCorrelation:
        """That of independent pixels after a convolution with `kernel`, an array of shape (h, w)."""
        array = np.array(kernel, dtype=float)
        if array.ndim != 2 or not np.isfinite(array).all() or not array.any():
            raise ValueError(
                f"NoiseCorrelation: expected a kernel of finite numbers over [y, x], got the shape {array.shape}; give "
                "the weights that each pixel takes from its neighbours"
            )
        reach = max(array.shape) - 1
        size = 2 * max(array.shape)
        lags = np.fft.irfft2(np.abs(np.fft.rfft2(array, (size, size))) ** 2, (size, size))
        places = np.arange(-reach, reach + 1)
        table = lags[np.ix_(places, places)]
        table = 0.5 * (table + table[::-1, ::-1]) / table[reach, reach]
        return cls(np.where(np.abs(table) < 1e-12, 0.0, table))

    @property
    def reach(self) -> int:
        """Largest distance, along either axis, at which pixels may be correlated."""
        return len(self.values) // 2

    @cached_property
    def power(self) -> np.ndarray:
        """Power spectrum on a fine grid of wavenumbers, of mean 1."""
        size = max(_GRID, 8 * self.reach)
        return power_spectrum(self.values, (size, size))

    def at(self, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
        """rho at distances of whole pixels, arrays of any one shape."""
        reach = self.reach
        inside = (np.abs(dy) <= reach) & (np.abs(dx) <= reach)
        held = [np.clip(distance, -reach, reach) + reach for distance in (dy, dx)]
        return np.where(inside, self.values[held[0], held[1]], 0.0)

    def __repr__(self) -> str:
        along_x, along_y = (float(self.at(np.array(dy), np.array(dx))) for dy, dx in ((0, 1), (1, 0)))
        power = f"power {abs(self.power.min()):.2g} to {self.power.max():.2g}"
        of = f", measured on {self.pixels} px with a noise of {self.factor:.3g} sigma" if self.pixels else ""
        return f"NoiseCorrelation(reach {self.reach} px, {along_x:.2g} along x, {along_y:.2g} along y, {power}{of})"


def power_spectrum(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Power at the wavenumbers of a grid of `shape` (ny, nx), in the layout of ``numpy.fft.fft2``."""
    reach = len(values) // 2
    places = np.arange(-reach, reach + 1)
    wrapped = np.zeros(shape)
    # a table wider than the grid wraps around it more than once
    np.add.at(wrapped, np.ix_(places % shape[0], places % shape[1]), values)
    return np.fft.fft2(wrapped).real


def nearest(values: np.ndarray, floor: float = FLOOR) -> np.ndarray:
    """A table near `values` (2 reach + 1 a side, symmetric) whose power is at least `floor` times its mean.

    By turns the power is raised to the floor and what that brings beyond the reach dropped; what is missing in the end
    is added as noise of single pixels, which has the same power everywhere.
    """
    reach = len(values) // 2
    size = max(_GRID, 8 * reach)
    places = np.ix_(*[np.arange(-reach, reach + 1)] * 2)
    table = np.array(values, dtype=float)
    for _ in range(_TURNS):
        power = power_spectrum(table, (size, size))
        if power.min() >= floor * table[reach, reach]:
            break
        raised = np.fft.ifft2(np.maximum(power, floor * table[reach, reach])).real[places]
        table = 0.5 * (raised + raised[::-1, ::-1])
    power = power_spectrum(table, (size, size))
    # power.min() + extra = floor * (middle + extra)
    extra = (floor * table[reach, reach] - power.min()) / (1 - floor)
    table[reach, reach] += max(extra, 0.0)
    return table / table[reach, reach]
