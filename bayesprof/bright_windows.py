"""Windows out to where the light of a component is lost in the noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pyro import poutine

from bayesprof.checking import check_number
from bayesprof.estimate import is_sky, point_estimate, starting_values
from bayesprof.image import Image
from bayesprof.measurement import measure
from bayesprof.rendering import renderer_for
from bayesprof.scene import Scene
from bayesprof.window import Window

_FAINTEST = 8.0  # pixels around the peak of light that is nowhere above the limit: the smallest square rendered has 16


def bright_windows(scene: Scene, params: Any = None, *, reach: float = 0.03) -> dict[str, Window]:
    """Window of each component of a scene, out to where its surface brightness falls below `reach` times the noise.

    Each is the smallest rectangle that holds all such pixels of the component's own model image, PSF included, which is
    rendered over the whole image once. Skies have none. :meth:`bayesprof.Scene.with_windows` puts them into the scene:
    its components are then measured, and rendered, in there.

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
        psf, lights = scene.draw_psf(), scene.lights()
        render = renderer_for(scene.image, psf)
        images = {name: render(light, psf).cpu().numpy() for name, light in lights.items() if not is_sky(light)}
    limit = reach * _noise(scene.image)
    return {name: _window(image, limit) for name, image in images.items()}


def _window(image: np.ndarray, limit: np.ndarray) -> Window:
    if (image > limit).any():
        return Window.where_bright(image, limit)
    y, x = np.unravel_index(int(np.argmax(image)), image.shape)
    return Window.around(float(x), float(y), _FAINTEST).within(image.shape)


def _noise(image: Image) -> np.ndarray:
    """Noise of each pixel; the median one in masked pixels."""
    if image.sigma is None:
        return np.full(image.shape, measure(image).noise)
    sigma = image.sigma.cpu().numpy()
    valid = image.valid.cpu().numpy()
    return np.where(valid, sigma, np.median(sigma[valid]))
