"""The background of an image that is taken off before its objects are found and measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.stats import sigma_clipped_stats
from scipy import ndimage

from bayesprof import checking
from bayesprof.image import Image
from bayesprof.measurement import measure

_WINGS = 5  # pixels around the segments that the background is not measured in
_SKY_LEFT = 0.05  # part of the unmasked pixels that must be left to measure it


def checked_image(image: Any, owner: str) -> None:
    """Raise for anything but an image with noise."""
    if not isinstance(image, Image):
        raise TypeError(
            f"{owner}: expected an Image, got {type(image).__name__}; make one with bp.Image(data, sigma=...)"
        )
    if image.sigma is None:
        raise ValueError(
            f"{owner}: expected an image with noise, image {image.name!r} has none; give it sigma=, variance=, "
            "ivar= or gain="
        )


def measured_background(image: Image, segments: np.ndarray | None, given: Any, box: Any, owner: str) -> np.ndarray:
    """Background [ny, nx]: as `given`, or the clipped median of the pixels off the segments, in boxes of side `box`
    or of the whole image; where there are no segments yet, or hardly a pixel off them, that of the image's border.
    """
    ny, nx = image.shape
    if given is not None:
        return _given_background(given, image, owner)
    valid = image.valid.cpu().numpy()
    data = image.data.cpu().numpy().astype(float)
    sky = valid if segments is None else valid & ~ndimage.binary_dilation(segments != 0, iterations=_WINGS)
    if box is not None:
        if isinstance(box, bool) or not isinstance(box, int | np.integer) or not 1 < box <= min(ny, nx):
            raise ValueError(
                f"{owner}: expected box as a whole number of pixels from 2 to {min(ny, nx)}, the image's shorter side, "
                f"got {box!r}"
            )
        from photutils.background import Background2D

        return np.array(Background2D(data, int(box), mask=~sky, exclude_percentile=90.0).background)
    if segments is None or sky.sum() < _SKY_LEFT * valid.sum():
        level = measure(image).sky
    else:
        level = float(sigma_clipped_stats(data[sky], sigma=3.0)[1])
    return np.full(image.shape, level)


def _given_background(given: Any, image: Image, owner: str) -> np.ndarray:
    array, _, unit = checking.as_array(given, "background", owner)
    if unit is not None:
        array = array * checking.unit_factor(unit, image.unit, "background", owner)
    if array.shape not in ((), image.shape):
        raise ValueError(
            f"{owner}: expected background as a number or an array of the image's shape {image.shape}, got shape "
            f"{array.shape}"
        )
    background = np.array(np.broadcast_to(array, image.shape), dtype=float)
    if not np.isfinite(background[image.valid.cpu().numpy()]).all():
        raise ValueError(f"{owner}: expected a finite background in every unmasked pixel; mask the others in the image")
    return np.nan_to_num(background, posinf=0.0, neginf=0.0)
