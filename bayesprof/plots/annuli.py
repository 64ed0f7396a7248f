"""Light in elliptical annuli around a component."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from bayesprof.light import Light, Pointlike, Profile

_GROWTH = 1.12  # outer over inner radius of an annulus
_NARROWEST = 0.8  # pixels
_INNERMOST = 0.38  # pixels: the mean distance of the points of a pixel from its centre
_COVERED = 0.25  # annuli with a smaller fraction of their pixels inside the image and unmasked are left out


MEDIAN_OVER_MEAN = math.sqrt(math.pi / 2)
"""Standard deviation of the median of many Gaussian numbers over that of their mean."""


@dataclass(frozen=True)
class Annuli:
    """Elliptical annuli on an image: mean radius (pixels, along the major axis) and flat pixels of each."""

    radius: np.ndarray
    pixels: list[np.ndarray]

    def mean(self, image: np.ndarray) -> np.ndarray:
        """Mean of `image` over the pixels of each annulus."""
        flat = image.ravel()
        return np.array([flat[pixels].mean() for pixels in self.pixels])

    def median(self, image: np.ndarray) -> np.ndarray:
        """Median of `image` over the pixels of each annulus; that of Gaussian pixels has 1.25 times the standard
        deviation of their mean.
        """
        flat = image.ravel()
        return np.array([np.median(flat[pixels]) for pixels in self.pixels])

    def error(self, sigma: np.ndarray) -> np.ndarray:
        """Standard deviation of the mean of independent pixels with standard deviations `sigma`."""
        flat = sigma.ravel() ** 2
        return np.array([math.sqrt(flat[pixels].sum()) / len(pixels) for pixels in self.pixels])

    def scatter(self, image: np.ndarray) -> np.ndarray:
        """Standard deviation of the mean, from the scatter of the pixels; NaN for a single pixel."""
        flat = image.ravel()
        return np.array([flat[p].std(ddof=1) / math.sqrt(len(p)) if len(p) > 1 else math.nan for p in self.pixels])


def centre_and_shape(light: Light, image: np.ndarray) -> tuple[float, float, float, float]:
    """Centre, axis ratio and angle of a component: those of its brightest part.

    A component whose parts have no centre gets the brightest pixel of its model `image`, and a circle.
    """
    parts = [part for part in light.parts if isinstance(part, Profile | Pointlike)]
    if not parts:
        y, x = np.unravel_index(int(np.argmax(image)), image.shape)
        return float(x), float(y), 1.0, 0.0
    part: Any = max(parts, key=lambda part: float(part.flux))
    if isinstance(part, Pointlike):
        return float(part.x), float(part.y), 1.0, 0.0
    shape = np.array(
        [[float(part.ellipse.xx), float(part.ellipse.xy)], [float(part.ellipse.xy), float(part.ellipse.yy)]]
    )
    values, vectors = np.linalg.eigh(shape)  # q^2 and 1
    return float(part.x), float(part.y), math.sqrt(values[0] / values[1]), math.atan2(vectors[1, 1], vectors[0, 1])


def annuli(valid: np.ndarray, x: float, y: float, q: float, theta: float) -> Annuli:
    """Annuli around (`x`, `y`) over the `valid` pixels, each 12% wider than the last and at least 0.8 pixels wide."""
    rows, columns = np.mgrid[: valid.shape[0], : valid.shape[1]]
    dx, dy = columns - x, rows - y
    along, across = dx * math.cos(theta) + dy * math.sin(theta), dy * math.cos(theta) - dx * math.sin(theta)
    radius = np.hypot(along, across / q).ravel()
    edges = [0.0]
    while edges[-1] < radius.max():
        edges.append(max(edges[-1] * _GROWTH, edges[-1] + _NARROWEST))
    radii, pixels = [], []
    for low, high in pairwise(edges):
        inside = np.flatnonzero((radius >= low) & (radius < high) & valid.ravel())
        if len(inside) > _COVERED * math.pi * q * (high**2 - low**2):
            radii.append(max(float(radius[inside].mean()), _INNERMOST))
            pixels.append(inside)
    return Annuli(np.array(radii), pixels)
