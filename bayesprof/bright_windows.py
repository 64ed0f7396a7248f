"""Windows out to where the light of a component is lost in the noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pyro import poutine
from scipy import ndimage

from bayesprof.checking import check_number
from bayesprof.estimate import is_sky, lights_at, point_estimate, starting_values
from bayesprof.image import Image
from bayesprof.measurement import measure
from bayesprof.pixel_map import PixelMap
from bayesprof.rendering import renderer_for
from bayesprof.scene import Scene
from bayesprof.splitting import flattest, with_detail
from bayesprof.window import Window

_FAINTEST = 8.0  # pixels around the peak of light that is nowhere above the limit: the smallest square rendered has 16


def bright_windows(scene: Scene, params: Any = None, *, reach: float = 0.03) -> dict[str, Window]:
    """Window of each component of a scene, out to where its surface brightness falls below `reach` times the noise.

    Each is the smallest rectangle that holds all such pixels of the component's own model image, PSF included, which is
    rendered over the whole image once; of several images, those of each, in pixels of the first. Skies have none, nor
    has what is as bright in another image beyond the edge of the first. :meth:`bayesprof.Scene.with_windows` puts them
    into the scene: its components are then measured, and rendered, in there. Large ones have the `detail` that the
    axis ratio of their component asks for, and half as much again.

    For objects of a segmentation map see :meth:`bayesprof.Detections.windows`, which needs no scene.

    Parameters
    ----------
    scene : Scene
    params : Fit, mapping from site names to values, InferenceData, or None
        Where to take the light. None: where a fit would start, the scene's ``initial_values()`` and the median of the
        prior of what has none.
    reach : float
        In units of the noise of each pixel: sigma of the image, or the scatter of neighbouring pixels where it has
        none. What a component has beyond is left out: with 0.03 over 10,000 pixels, three standard deviations of their
        sum at most.

    Raises
    ------
    ValueError, TypeError
        For a parameter without a value, and a `reach` that isn't above 0.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> from bayesprof import models
    >>> y, x = np.mgrid[:60, :80]
    >>> blobs = sum(50 * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / 18) for x0, y0 in [(20, 31), (56, 24)])
    >>> image = bp.Image(blobs, sigma=1.0)
    >>> galaxy = models.gaussian(x=20.0, y=31.0, flux=2800.0, r_eff=3.5, q=1.0, theta=0.0)
    >>> scene = bp.Scene(image, sky=models.flat_sky(), one=galaxy)
    >>> windows = bp.bright_windows(scene)
    >>> windows
    {'one': Window(x0=9, y0=20, x1=32, y1=43)}
    >>> scene = scene.with_windows(windows)
    """
    reach = check_number(reach, "reach", "bright_windows")
    if reach <= 0:
        raise ValueError(f"bright_windows: expected reach > 0, in units of the noise of a pixel, got {reach:g}")
    values = point_estimate(scene, starting_values(scene) if params is None else params)
    with torch.no_grad(), poutine.block(), poutine.condition(data=dict(values)):
        psfs = scene.draw_psfs()
    bright: dict[str, dict[str, np.ndarray]] = {}
    peaks: dict[str, tuple[float, float]] = {}
    ratios: dict[str, float | None] = {}
    for image in scene.images.values():
        psf, limit = psfs[image.name], reach * _noise(image)
        lights = lights_at(scene, values, image.name)
        with torch.no_grad():
            render = renderer_for(image, psf)
            images = {name: render(one, psf).cpu().numpy() for name, one in lights.items() if not is_sky(one)}
        for name, light in images.items():
            bright.setdefault(name, {})[image.name] = light > limit
            if image is scene.image:
                y, x = np.unravel_index(int(np.argmax(light)), light.shape)
                peaks[name], ratios[name] = (float(x), float(y)), flattest(lights[name])
    found = {name: _window(scene, by_image, peaks.get(name)) for name, by_image in bright.items()}
    return {name: with_detail(window, ratios.get(name)) for name, window in found.items() if window is not None}


def _window(scene: Scene, bright: Mapping[str, np.ndarray], peak: tuple[float, float] | None) -> Window | None:
    """The window that holds the bright pixels of every image; None where the first image has no such window.

    `peak`: of the light in the first image, which has a small window where it is bright in none of them.
    """
    images, shape = scene.recipe.images, scene.image.shape
    inside = np.zeros(shape, dtype=bool)
    for name, pixels in bright.items():
        inside |= _on_first(images.maps[name], pixels, shape)
    if inside.any():
        window = Window.where_bright(inside, 0.5)
    elif peak is not None and not any(pixels.any() for pixels in bright.values()):
        window = Window.around(*peak, _FAINTEST).within(shape)
    else:
        return None
    for name, pixels in bright.items():
        if pixels.any() and name != scene.image.name:
            needed, seen = Window.where_bright(pixels, 0.5), images.window_in(scene.images[name], window)
            if seen is None or not seen.holds(needed):
                return None
    return window


def _on_first(to_image: PixelMap | None, pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pixels of the first image, of `shape`, on or beside which one of the `pixels` of another lies."""
    found = np.zeros(shape, dtype=bool)
    if to_image is None:
        ny, nx = min(shape[0], pixels.shape[0]), min(shape[1], pixels.shape[1])
        found[:ny, :nx] = pixels[:ny, :nx]
        return found
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    there_x, there_y = to_image.at(x, y)
    near = to_image.near(*(torch.tensor(0.5 * (size - 1)).double() for size in shape[::-1]))
    # to the corner of a pixel of the first image, and half a pixel for the rounding
    reach = math.ceil(0.5 * max(float(slope.abs()) for slope in near[2:]) * math.sqrt(2.0) + 0.5)
    wide = ndimage.maximum_filter(np.pad(pixels, reach), size=2 * reach + 1)
    ny, nx = wide.shape
    column, row = np.rint(there_x).astype(int) + reach, np.rint(there_y).astype(int) + reach
    seen = (row >= 0) & (row < ny) & (column >= 0) & (column < nx)
    found[seen] = wide[row[seen], column[seen]]
    return found


def _noise(image: Image) -> np.ndarray:
    """Noise of each pixel; the median one in masked pixels."""
    if image.sigma is None:
        return np.full(image.shape, measure(image).noise)
    sigma = image.sigma.cpu().numpy()
    valid = image.valid.cpu().numpy()
    return np.where(valid, sigma, np.median(sigma[valid]))
