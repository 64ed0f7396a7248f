"""Rough numbers read off an image: where its object is, how bright, how large, and the sky around it.

They set the default priors and the starting points of a fit; nothing else depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy import ndimage

from bayesprof.image import Image
from bayesprof.window import Window

R_EFF_OVER_SCALE = 1.6783469900166605
"""Half-light radius of an exponential disk over its scale length: the solution of (1 + b) exp(-b) = 1/2."""

_SMOOTHING = 1.5  # pixels, standard deviation of the smoothing before detection
_THRESHOLD = 3.0  # detection limit, in units of the noise of the smoothed image
_LIGHT_OUTSIDE = 1.2  # total light over the light above the detection limit


@dataclass(frozen=True)
class Measurement:
    """`x`, `y` (pixels), `flux` (image units, > 0), `r_eff` (pixels, along the major axis) and `ellipticity` (e1,
    e2) of the object nearest to the middle of the image among the bright ones; `sky` level and `noise` per pixel
    (image units).
    """

    x: float
    y: float
    flux: float
    r_eff: float
    ellipticity: tuple[float, float]
    sky: float
    noise: float


@lru_cache(maxsize=64)
def measure(image: Image, window: Window | None = None) -> Measurement:
    """Measure the main object of `image`, or of a `window` of it.

    The sky is the clipped median of the unmasked pixels along the image's border. The object is the
    connected region, above three times the noise of the smoothed image, around the brightest pixel under a
    Gaussian window on the middle of the image; its second moments give the ellipticity and its light the rest.
    An image without such a region gives its middle, a tenth of its side, and the light that would just be detected.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> y, x = np.mgrid[:41, :51]
    >>> blob = 100 * np.exp(-((x - 20) ** 2 + (y - 22) ** 2) / 18.0)
    >>> found = measure(bp.Image(blob, sigma=1.0))
    >>> round(found.x), round(found.y)
    (20, 22)
    """
    data, valid = image.data.cpu().numpy().astype(float), image.valid.cpu().numpy()
    if window is not None:
        found = _measured(*(plane[window.y0 : window.y1, window.x0 : window.x1] for plane in (data, valid)))
        return replace(found, x=found.x + window.x0, y=found.y + window.y0)
    return _measured(data, valid)


def _measured(data: np.ndarray, valid: np.ndarray) -> Measurement:
    sky, noise = sky_and_noise(data, valid)
    excess = np.where(valid, data - sky, 0.0)
    coverage = ndimage.gaussian_filter(valid.astype(float), _SMOOTHING)
    smooth = np.where(coverage > 0.2, ndimage.gaussian_filter(excess, _SMOOTHING) / np.maximum(coverage, 0.2), 0.0)
    ny, nx = data.shape
    y, x = np.mgrid[:ny, :nx].astype(float)
    window = np.exp(-0.5 * (((x - (nx - 1) / 2) / (nx / 4)) ** 2 + ((y - (ny - 1) / 2) / (ny / 4)) ** 2))
    peak = np.unravel_index(np.argmax(smooth * window), smooth.shape)
    # white noise smoothed by a Gaussian of standard deviation s has noise / (2 sqrt(pi) s)
    limit = _THRESHOLD * noise / (2 * np.sqrt(np.pi) * _SMOOTHING)
    if smooth[peak] <= limit:
        size = max(1.0, 0.1 * min(ny, nx))
        return Measurement((nx - 1) / 2, (ny - 1) / 2, limit * np.pi * size**2, size, (0.0, 0.0), sky, noise)
    regions, _ = ndimage.label(smooth > limit)
    weight = np.where(regions == regions[peak], np.maximum(smooth, 0.0), 0.0)
    total = weight.sum()
    x0, y0 = (weight * x).sum() / total, (weight * y).sum() / total
    xx = (weight * (x - x0) ** 2).sum() / total + 1 / 12
    yy = (weight * (y - y0) ** 2).sum() / total + 1 / 12
    xy = (weight * (x - x0) * (y - y0)).sum() / total
    size = xx + yy + 2 * np.sqrt(max(xx * yy - xy**2, 1e-12))
    e1, e2 = (xx - yy) / size, 2 * xy / size
    return Measurement(
        float(x[peak] if abs(x0 - x[peak]) > 3 else x0),
        float(y[peak] if abs(y0 - y[peak]) > 3 else y0),
        float(_LIGHT_OUTSIDE * total),
        half_light_radius(weight, x - x[peak], y - y[peak], e1, e2),
        (float(e1), float(e2)),
        sky,
        noise,
    )


def half_light_radius(weight: np.ndarray, dx: np.ndarray, dy: np.ndarray, e1: float, e2: float) -> float:
    """Elliptical radius, along the major axis, that holds half of `weight` at the offsets `dx`, `dy`; 0.5 at least."""
    e = float(np.hypot(e1, e2))
    q, theta = (1 - e) / (1 + e), 0.5 * np.arctan2(e2, e1)
    along, across = dx * np.cos(theta) + dy * np.sin(theta), -dx * np.sin(theta) + dy * np.cos(theta)
    radius = np.hypot(along, across / q).ravel()
    order = np.argsort(radius)
    light = np.cumsum(weight.ravel()[order])
    return max(0.5, float(radius[order][np.searchsorted(light, 0.5 * light[-1])]))


def sky_and_noise(data: np.ndarray, valid: np.ndarray) -> tuple[float, float]:
    """Clipped median of the border's pixels, and the noise of a pixel from differences of neighbours."""
    ny, nx = data.shape
    border = np.ones_like(valid)
    depth_y, depth_x = max(1, ny // 10), max(1, nx // 10)
    border[depth_y : ny - depth_y, depth_x : nx - depth_x] = False
    values = data[border & valid] if (border & valid).any() else data[valid]
    pairs = valid[:, 1:] & valid[:, :-1]
    steps = (data[:, 1:] - data[:, :-1])[pairs] if pairs.any() else values - np.median(values)
    # 1.4826: standard deviation of a Gaussian over its median absolute deviation
    noise = 1.4826 * float(np.median(np.abs(steps))) / np.sqrt(2)
    noise = noise if noise > 0 else float(np.std(data[valid])) or 1.0
    for _ in range(5):
        kept = values[np.abs(values - np.median(values)) < 3 * max(np.std(values), 1e-300)]
        if kept.size in (0, values.size):
            break
        values = kept
    return float(np.median(values)), noise
