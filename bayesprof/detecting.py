"""The objects of an image: what rises above the sky, as seen through the PSF."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy import signal

from bayesprof import checking
from bayesprof.background import checked_image, measured_background
from bayesprof.blends import taken_apart
from bayesprof.catalogue import kernel_of
from bayesprof.detections import Detections
from bayesprof.image import Image

_EDGE = 0.4  # times the threshold, down to which the segment of an object reaches
_PASSES = 3  # over the background, each without the objects of the one before
_FEWEST = 200  # pixels from which the scatter of the sky is told
_SCATTER = 1.5  # times the noise that the smoothed sky may scatter by


def detect(
    image: Image,
    *,
    threshold: float = 5.0,
    min_area: int = 5,
    contrast: float | None = 0.001,
    background: Any = None,
    box: int | None = None,
) -> Detections:
    """Find the objects of `image`.

    The background is taken off, and the image is smoothed with its own PSF (a Gaussian of standard deviation 1.5
    pixels where it has none), each pixel weighted by 1 / sigma^2: the filter in which a star stands out most. An
    object is a peak that rises by the threshold above the sky, or above its saddle to a brighter peak. Its segment goes
    down to 0.4 times the threshold, or to its neighbour's, so that the outskirts of a large galaxy don't break up.

    Parameters
    ----------
    image : Image
        With noise. Masked pixels belong to no object, and are left out of the smoothing.
    threshold : float
        In units of the noise of the smoothed image, which follows from the image's sigma. Noise that is correlated
        between pixels needs a higher one.
    min_area : int
        Pixels above the threshold that an object must have.
    contrast : float or None
        Light above the saddle that a peak beside a brighter one must have to be an object of its own, as a part of the
        light of both. None leaves touching objects together. Bright knots and arms of a spiral count as peaks too; a
        higher contrast keeps them in it, a lower one finds fainter neighbours. Objects without a saddle between them,
        as two stars within the width of the smoothed PSF, stay one.
    background : number or array_like [ny, nx], optional
        Image units per pixel; measured outside the objects when left out.
    box : int, optional
        Side, pixels, of the boxes in which the background is measured, where it varies over the image: several times
        that of the largest object. One value for the whole image when left out.

    Returns
    -------
    Detections

    Raises
    ------
    TypeError, ValueError
        For an image without noise, options out of their range, and an image in which nothing is found.

    Warns
    -----
    UserWarning
        Where the sky scatters by 1.5 times its noise or more, with the threshold that allows for it.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> y, x = np.mgrid[:60, :80]
    >>> blobs = sum(50 * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / 18) for x0, y0 in [(20, 31), (56, 24)])
    >>> noise = np.random.default_rng(0).normal(size=blobs.shape)
    >>> found = bp.detect(bp.Image(blobs + noise, sigma=1.0))
    >>> found
    Detections(2 objects on 60x80 px [y, x], S/N 150 to 155)
    >>> found.catalogue["x"].round().tolist()
    [56.0, 20.0]
    """
    checked_image(image, "detect")
    threshold = _checked_number(threshold, "threshold", "> 0", lambda value: value > 0)
    if contrast is not None:
        contrast = _checked_number(contrast, "contrast", "in [0, 1]", lambda value: 0 <= value <= 1)
    if isinstance(min_area, bool) or not isinstance(min_area, int | np.integer) or min_area < 1:
        raise ValueError(f"detect: expected min_area to be a whole number of pixels from 1, got {min_area!r}")

    sky = measured_background(image, None, background, box, "detect")
    passes = 1 if background is not None else _PASSES
    for left in reversed(range(passes)):
        light, noise = _smoothed(image, sky)
        segments = _segments(light / noise, image, threshold, int(min_area))
        if left and segments is not None:
            sky = measured_background(image, segments, background, box, "detect")
    if segments is None:
        highest = float((light / noise)[image.valid.cpu().numpy()].max())
        raise ValueError(
            f"detect: found nothing in image {image.name!r}: expected {min_area} connected pixels above {threshold:g} "
            f"times the noise of the smoothed image, its highest pixel is at {highest:.3g}; lower threshold or min_area"
        )
    _warn_of_scatter(light / noise, image, threshold)
    if contrast is not None:
        segments = taken_apart(segments, light, noise, contrast=contrast, rise=threshold, min_area=int(min_area))
    return Detections.from_segmentation(image, segments, background=sky)


def _smoothed(image: Image, background: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The image above the background, smoothed by the weights of the best filter for a star, and its noise."""
    assert image.sigma is not None
    data, sigma = (plane.cpu().numpy().astype(float) for plane in (image.data, image.sigma))
    weight = np.where(image.valid.cpu().numpy(), np.median(sigma) ** 2 / sigma**2, 0.0)
    kernel = kernel_of(image)

    def correlated(plane: np.ndarray, by: np.ndarray) -> np.ndarray:
        smooth: np.ndarray = signal.oaconvolve(plane, by[::-1, ::-1], mode="same")
        return smooth

    # the floor: where hardly a pixel is seen, roundings of the transforms are not information
    seen = np.maximum(correlated(weight, kernel**2), 1e-3 * (kernel**2).sum())
    light = correlated(weight * (data - background), kernel) / seen
    return light, float(np.median(sigma)) / np.sqrt(seen)


def _segments(significance: np.ndarray, image: Image, threshold: float, min_area: int) -> np.ndarray | None:
    """Map of the connected pixels above the edge that have enough of them above the threshold, None without any."""
    from photutils.segmentation import detect_sources
    from photutils.utils.exceptions import NoDetectionsWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoDetectionsWarning)
        found = detect_sources(significance, _EDGE * threshold, min_area, mask=~image.valid.cpu().numpy())
    if found is None:
        return None
    segments = np.asarray(found.data)
    above = np.bincount(segments[significance > threshold], minlength=segments.max() + 1)
    kept = above >= min_area
    kept[0] = False
    return np.where(kept[segments], segments, 0) if kept.any() else None


def _warn_of_scatter(significance: np.ndarray, image: Image, threshold: float) -> None:
    # below the sky there are no objects
    below = significance[(significance < 0) & image.valid.cpu().numpy()]
    if below.size < _FEWEST:
        return
    # 1.4826: standard deviation of a Gaussian over its median absolute deviation
    scatter = 1.4826 * float(np.median(-below))
    if scatter > _SCATTER:
        warnings.warn(
            f"detect: the smoothed sky of image {image.name!r} scatters by {scatter:.2g} times its noise (correlated "
            f"noise, a sigma too small, or a background that isn't flat), so that some of the objects may be noise; "
            f"with threshold={threshold * scatter:.3g} it would be allowed for",
            stacklevel=3,
        )


def _checked_number(value: Any, name: str, range_: str, allowed: Any) -> float:
    number = checking.check_number(value, name, "detect")
    if not allowed(number):
        raise ValueError(f"detect: expected {name} {range_}, got {value!r}")
    return number
