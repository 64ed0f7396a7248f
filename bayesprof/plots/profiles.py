"""The profile of each component, from the image with all others taken off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from os import PathLike
from typing import Any

import matplotlib
import numpy as np
import torch

from bayesprof.estimate import is_sky, lights_at, point_estimate
from bayesprof.group import within
from bayesprof.light import Extended, Light, Surface
from bayesprof.plots.annuli import MEDIAN_OVER_MEAN, annuli, centre_and_shape
from bayesprof.plots.brightness import brightness_of, draw_points, set_round_ticks
from bayesprof.plots.figure import COLOURS, STYLE, Figure, saved
from bayesprof.scene import Scene
from bayesprof.view import View

_PANEL = (3.1, 2.6)  # inches
_COLUMNS = 4
_WIDE = 300.0  # range of radii in a panel, beyond which ticks at 1, 2 and 5 would run into each other
_MAGNITUDES = 8.5  # below the brightest, at which a panel ends at the latest


def profiles(
    scene: Scene,
    params: Any,
    *,
    components: str | Sequence[str] | None = None,
    image: str | None = None,
    path: str | PathLike[str] | None = None,
) -> Figure:
    """Light profile and radial median profile of each component, a panel each.

    Points are the median of the deblended image, data minus the model of all other components, in elliptical annuli of
    the component's centre, axis ratio and angle; error bars are the standard deviation of that median, and a triangle
    marks the median plus two of them where it isn't above one. The line is the component's model, its median in the
    same annuli; dashed, its surface brightness along the major axis before the PSF. Annuli end at the component's
    window. Brightness is in mag/arcsec^2 where the image has a zero point and a pixel scale, else in image units per
    pixel.

    Parameters
    ----------
    scene : Scene
    params : Fit, mapping from site names to values, arviz.InferenceData, or None
        Where to take the model (see :func:`bayesprof.estimate.point_estimate`).
    components : name or names of components, groups or parts, optional
        All that aren't a sky by default.
    image : str, optional
        Name of the image, of a scene of several; the first where left out.
    path : str or path, optional
        File to write the figure to.

    Raises
    ------
    ValueError
        For a component or an image that the scene doesn't have, and for no component.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> from bayesprof import models, plots
    >>> galaxy = models.exponential(x=14.0, y=9.0, flux=500.0, r_eff=3.0, q=0.8, theta=0.4)
    >>> scene = bp.Scene(bp.Image(np.ones((20, 30)), sigma=0.1), sky=models.flat_sky(level=1.0), galaxy=galaxy)
    >>> figure = plots.profiles(scene, None)
    """
    values = point_estimate(scene, params)
    seen = scene.image_named(image, "profiles")
    lights = lights_at(scene, values, seen.name)
    names = _chosen(lights, components)
    model = scene.predict(values, image=seen.name)
    brightness, unit = brightness_of(seen)
    columns = min(len(names), _COLUMNS)
    rows = math.ceil(len(names) / columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(_PANEL[0] * columns + 0.6, _PANEL[1] * rows + 0.5), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat[len(names) :]:
            axis.remove()
        for axis, name, colour in zip(axes.flat, names, cycle(COLOURS), strict=False):
            own = scene.predict(values, components=name, image=seen.name)
            x, y, q, theta = centre_and_shape(lights[name], own.cpu().numpy())
            rings = annuli(_inside(scene.views[seen.name], name), x, y, q, theta)
            data = (seen.data - (model - own)).cpu().numpy()
            if seen.sigma is None:
                error = MEDIAN_OVER_MEAN * rings.scatter(data)
            else:
                error = MEDIAN_OVER_MEAN * rings.error(seen.sigma.cpu().numpy())
            median, curve = rings.median(data), rings.median(own.cpu().numpy())
            draw_points(axis, rings.radius, median, error, brightness, "deblended data", "median")
            axis.plot(rings.radius, brightness(curve), color=colour, lw=1.5, label="model")
            _draw_light(axis, lights[name], rings.radius, (x, y, theta), brightness, colour)
            axis.set_xscale("log")
            first, last = axis.get_xlim()
            set_round_ticks(axis.xaxis, few=last / first > _WIDE)
            axis.tick_params(which="both", right=True, top=True)
            top = max(float(np.nanmax(curve, initial=0.0)), float(np.nanmax(median, initial=0.0)))
            if top > 0:
                faint = max(0.3 * float(np.nanmin(error)), top * 10 ** (-0.4 * _MAGNITUDES))
                axis.set_ylim(*brightness(np.array([min(faint, 0.5 * top), 2.0 * top])))
            if not unit.startswith("mag"):
                axis.set_yscale("log")
            axis.set_title(name)
        axes.flat[0].legend(frameon=False, loc="lower left")
        figure.supxlabel("radius along the major axis [pixel]", fontsize=STYLE["axes.labelsize"])
        figure.supylabel(f"surface brightness [{unit}]", fontsize=STYLE["axes.labelsize"])
    return saved(figure, path)


def _chosen(lights: dict[str, Light], components: str | Sequence[str] | None) -> list[str]:
    wanted = [components] if isinstance(components, str) else components
    for name in wanted or ():
        if not any(within(light, name) for light in lights):
            raise ValueError(f"profiles: the scene has no component {name!r}; it has {list(lights)}")
    if wanted is None:
        names = [name for name, light in lights.items() if not is_sky(light)]
    else:
        names = [light for light in lights if any(within(light, name) for name in wanted)]
    if not names:
        raise ValueError("profiles: expected a component that isn't a sky, the scene has none; name one in components=")
    return names


def _inside(view: View, name: str) -> np.ndarray:
    """Unmasked pixels, those in the window of a component where it has one."""
    valid = view.image.valid.cpu().numpy()
    window = view.windows.get(name)
    if window is None:
        return valid
    inside = np.zeros_like(valid)
    inside[window.y0 : window.y1, window.x0 : window.x1] = True
    return valid & inside


def _draw_light(
    axis: Any, light: Light, radius: np.ndarray, centre: tuple[float, float, float], brightness: Any, colour: str
) -> None:
    """Surface brightness along the major axis, before the PSF, of the parts that have one."""
    x, y, theta = centre
    along = np.geomspace(0.3 * radius.min(), radius.max(), 200)
    total = np.zeros_like(along)
    with torch.no_grad():
        for part in light.parts:
            if isinstance(part, Extended | Surface):
                places = [x + along * math.cos(theta) - float(part.x), y + along * math.sin(theta) - float(part.y)]
                dx, dy = (torch.as_tensor(place, dtype=part.x.dtype, device=part.x.device)[None] for place in places)
                total = total + part.brightness_at(dx, dy).cpu().numpy().ravel()
    if (total > 0).any():
        axis.plot(along, brightness(total), color=colour, lw=1.0, ls="--", label="before the PSF")
