"""The width of the PSF, roughly, from an image's sampled PSF or from the stars on it.

It sets the default priors of PSF models; nothing else depends on it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from bayesprof.image import Image
from bayesprof.measurement import measure

_BRIGHT = 20.0  # peak of a star that counts, in units of the noise of a pixel
_HALF_SIDE = 9  # pixels, of the stamp around a star
_FINER = 5  # times, for the area above half of the peak
_UNKNOWN = 3.0  # pixels, for an image without stars


class Seeing(NamedTuple):
    """`fwhm`: full width at half maximum, pixels; `source`: what it was measured on, in words, "" if on nothing."""

    fwhm: float
    source: str


@lru_cache(maxsize=8)
def seeing(image: Image) -> Seeing:
    """Width of the PSF on `image`.

    That of the circle with the area above half of the peak: of the image's sampled PSF, or else the lower quartile over
    the peaks that are 20 times above the noise of a pixel, as stars are the narrowest of them.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> y, x = np.mgrid[:41, :51]
    >>> star = 100 * np.exp(-4 * np.log(2) * ((x - 20.3) ** 2 + (y - 22.1) ** 2) / 3.5**2)
    >>> abs(seeing(bp.Image(star, sigma=1.0)).fwhm - 3.5) < 0.1
    True
    """
    if image.psf is not None:
        stamp = image.psf.cpu().numpy().astype(float)
        peak = np.unravel_index(np.argmax(stamp), stamp.shape)
        return Seeing(_width(stamp, (int(peak[0]), int(peak[1]))) / image.psf_oversampling, "the image's PSF")
    found = measure(image)
    excess = np.where(image.valid.cpu().numpy(), image.data.cpu().numpy().astype(float) - found.sky, 0.0)
    smooth = ndimage.gaussian_filter(excess, 1.0)
    peaks = (smooth == ndimage.maximum_filter(smooth, 7)) & (excess > _BRIGHT * found.noise)
    widths = []
    for y, x in np.argwhere(peaks):
        rows, columns = (slice(max(centre - _HALF_SIDE, 0), centre + _HALF_SIDE + 1) for centre in (y, x))
        widths.append(_width(excess[rows, columns], (int(y) - rows.start, int(x) - columns.start)))
    if not widths:
        return Seeing(_UNKNOWN, "")
    return Seeing(float(np.quantile(widths, 0.25)), "the narrowest bright peaks")


def _width(stamp: np.ndarray, peak: tuple[int, int]) -> float:
    """Diameter of the circle with the area above half of the maximum near `peak`, in pixels of the stamp."""
    fine = ndimage.zoom(stamp, _FINER, order=3, grid_mode=True, mode="nearest")
    y, x = (_FINER * place + _FINER // 2 for place in peak)
    top = fine[max(y - _FINER, 0) : y + _FINER + 1, max(x - _FINER, 0) : x + _FINER + 1].max()
    regions, _ = ndimage.label(fine > 0.5 * top)
    area = int((regions == regions[y, x]).sum())
    return max(1.0, 2 * float(np.sqrt(area / np.pi)) / _FINER)
