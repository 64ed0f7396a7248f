"""The correlation of an image's noise, measured on its blank sky."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy import ndimage

from bayesprof import checking
from bayesprof.correlation import NoiseCorrelation, nearest
from bayesprof.image import Image

_FARTHEST = 6  # largest reach, pixels
_SIGNIFICANT = 3.0  # standard deviations by which the correlations at a distance differ from none
_LEAST = 400  # pixels, whose correlations are known to 0.05
_SMOOTHING = 2.5  # pixels, of the detection of what isn't blank
_DETECTED = 3.5  # in units of the noise of the smoothed image
_MARGIN = 6  # pixels around what was detected
_SKY_TERMS = 3  # of the plane that is taken off


def noise_correlation(
    image: Image, *, blank: Any = None, model: Any = None, reach: int | None = None
) -> NoiseCorrelation:
    """Correlation of the noise of `image` from its blank sky, in units of its sigma.

    The autocovariance of (data - sky) / sigma at each distance is the mean product of the pairs of blank pixels at that
    distance, whatever their number; the sky is a plane through the blank pixels, and what its fit takes from the
    covariance is put back. The table ends where the correlations are no more than their errors, and is changed as
    little as makes it a correlation (:func:`bayesprof.correlation.nearest`).

    Parameters
    ----------
    image : Image
        With sigma.
    blank : array_like of bool, shape (ny, nx), optional
        True in blank pixels; masked ones don't count. By default those six pixels and more away from what stands out
        of the smoothed image, which leaves faint wings of galaxies in: then the correlation seems to reach farther and
        error bars come out large. Give `model` for that, or `blank`.
    model : array_like, shape (ny, nx), optional
        Taken off the data before, ``scene.predict(fit)`` of a first fit, for one.
    reach : int, optional
        Distance along either axis beyond which there is no correlation, 0 to 6 pixels; found from the data by default.

    Returns
    -------
    NoiseCorrelation

    Raises
    ------
    TypeError, ValueError
        For arguments of another shape, an image without sigma, and fewer than 400 blank pixels.

    Warns
    -----
    UserWarning
        Where the correlation doesn't end within 6 pixels: light is left in the sky.

    Examples
    --------
    >>> import bayesprof as bp
    >>> white = np.random.default_rng(1).normal(size=(102, 112))
    >>> resampled = 0.5 * (white[:, 1:] + white[:, :-1])
    >>> noise = bp.noise_correlation(bp.Image(resampled, sigma=0.7))
    >>> noise.reach, noise.values[1].round(1)
    (1, array([0.5, 1. , 0.5]))
    """
    if not isinstance(image, Image):
        raise TypeError(f"noise_correlation: expected an Image, got {type(image).__name__}")
    if image.sigma is None:
        raise ValueError(
            f"noise_correlation: expected an image with noise, {image.name!r} has none; give the Image sigma, "
            "variance, ivar, or gain with read_noise"
        )
    if reach is not None and (isinstance(reach, bool) or not isinstance(reach, int) or not 0 <= reach <= _FARTHEST):
        raise ValueError(f"noise_correlation: expected reach from 0 to {_FARTHEST} pixels, got {reach!r}")
    sigma, valid = image.sigma.cpu().numpy().astype(float), image.valid.cpu().numpy()
    data = image.data.cpu().numpy().astype(float)
    if model is not None:
        light = np.asarray(model, dtype=float)
        checking.check_shape(light.shape, image.shape, "model", "noise_correlation")
        data = data - light
    if blank is None:
        sky = valid & ~_occupied(data / sigma, valid)
    else:
        checking.check_shape(np.shape(blank), image.shape, "blank", "noise_correlation")
        sky = valid & np.asarray(blank, dtype=bool)
    count = int(sky.sum())
    if count < _LEAST:
        raise ValueError(
            f"noise_correlation: expected {_LEAST} blank pixels or more, got {count} in {image.name!r}; say where they "
            "are with blank=, take the galaxy off with model=, or measure on a larger cutout and give what it finds"
        )
    noise = np.where(sky, (data - _plane(data, sigma, sky)) / sigma, 0.0)
    covariance, pairs = _autocovariance(noise, sky)
    return _correlation(covariance, pairs, count, reach)


def _occupied(data: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Pixels in and around what stands out of the noise, at the scale of the smoothing."""
    found = np.zeros_like(valid)
    for _ in range(3):
        free = valid & ~found
        weight = ndimage.gaussian_filter(free.astype(float), _SMOOTHING)
        level = np.median(data[free]) if free.any() else 0.0
        smooth = ndimage.gaussian_filter(np.where(valid, data - level, 0.0), _SMOOTHING)
        smooth = smooth / np.maximum(ndimage.gaussian_filter(valid.astype(float), _SMOOTHING), 0.2)
        calm = free & (weight > 0.5)
        if not calm.any():
            return ~valid | found
        middle = np.median(smooth[calm])
        spread = 1.4826 * np.median(np.abs(smooth[calm] - middle))  # the standard deviation of a Gaussian
        found = ndimage.binary_dilation(valid & (smooth - middle > _DETECTED * spread), iterations=_MARGIN)
    return found


def _plane(data: np.ndarray, sigma: np.ndarray, sky: np.ndarray) -> np.ndarray:
    """Plane through the sky by least squares, without the outliers of a first one."""
    ny, nx = data.shape
    y, x = np.mgrid[:ny, :nx]
    terms = np.stack([np.ones(data.shape), x / nx - 0.5, y / ny - 0.5])
    kept = sky
    for _ in range(2):
        weighted = (terms / sigma)[:, kept]
        plane = np.tensordot(np.linalg.lstsq(weighted.T, (data / sigma)[kept], rcond=None)[0], terms, 1)
        residual = (data - plane) / sigma
        kept = sky & (np.abs(residual) < 5 * np.std(residual[kept]))
    return plane


def _autocovariance(noise: np.ndarray, sky: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean product of the pairs of sky pixels at each distance up to the farthest, and the numbers of pairs."""
    counts = sky.astype(float)
    from scipy import signal  # half a second that nothing else needs

    sums, pairs = (signal.fftconvolve(plane, plane[::-1, ::-1], mode="full") for plane in (noise, counts))
    ny, nx = noise.shape
    near = (slice(ny - 1 - _FARTHEST, ny + _FARTHEST), slice(nx - 1 - _FARTHEST, nx + _FARTHEST))
    pairs = np.round(pairs[near])
    covariance = np.where(pairs > 0, sums[near] / np.maximum(pairs, 1), 0.0)
    return 0.5 * (covariance + covariance[::-1, ::-1]), pairs


def _correlation(covariance: np.ndarray, pairs: np.ndarray, count: int, reach: int | None) -> NoiseCorrelation:
    middle = _FARTHEST
    dy, dx = np.mgrid[-middle : middle + 1, -middle : middle + 1]
    distance = np.maximum(np.abs(dy), np.abs(dx))
    # of independent pairs of noise with this autocovariance (Bartlett 1946, JRSS Suppl. 8, 27)
    errors = np.sqrt((covariance**2).sum() / np.maximum(pairs, 1))
    found = reach
    if found is None:
        # opposite places of a ring hold the same number; neighbouring ones are correlated as the pixels are
        related = np.sqrt((covariance**2).sum()) / covariance[middle, middle]
        found = 0
        while found < middle:
            ring = distance == found + 1
            over = ((covariance / errors)[ring] ** 2 - 1).sum() / 2
            if over < _SIGNIFICANT * related * np.sqrt(ring.sum()):
                break
            found += 1
        if found == middle:
            warnings.warn(
                f"noise_correlation: correlations don't end within {middle} pixels, where those of resampling do; "
                "light of objects is left in the sky: give model= (a first fit's image), blank= or reach=",
                stacklevel=3,
            )
    inner = np.s_[middle - found : middle + found + 1, middle - found : middle + found + 1]
    table = covariance[inner].copy()
    # the plane takes _SKY_TERMS / count of the power at long waves from every distance
    lost = table.sum() * _SKY_TERMS / (count - _SKY_TERMS * table.size)
    table += lost
    variance = table[found, found]
    return NoiseCorrelation(
        nearest(table / variance), errors[inner] / variance, factor=float(np.sqrt(variance)), pixels=count
    )
