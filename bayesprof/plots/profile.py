"""Surface brightness against radius."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import cycle
from os import PathLike
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer

from bayesprof.estimate import is_sky, lights_at, point_estimate
from bayesprof.image import Image
from bayesprof.light import Light
from bayesprof.plots.annuli import annuli, centre_and_shape
from bayesprof.plots.brightness import brightness_of, draw_points, set_round_ticks
from bayesprof.plots.figure import COLOURS, STYLE, Figure, saved
from bayesprof.scene import Scene


def profile(
    scene: Scene,
    params: Any,
    *,
    component: str | None = None,
    image: str | None = None,
    path: str | PathLike[str] | None = None,
) -> Figure:
    """Light profile of a component: surface brightness in elliptical annuli, of data, model and each component.

    The annuli have the centre, axis ratio and angle of the component's brightest part; without one, they are
    circles around the brightest pixel of its model image. Data and models are means over the same unmasked pixels,
    sky components of the model subtracted. Error bars are the standard deviation of that mean (from the scatter
    within the annulus where the image has no noise); where the mean isn't above it, a triangle marks the mean plus
    two of them. Below: data minus model, in those errors. Brightness is in mag/arcsec^2 where the image has a zero
    point and a pixel scale, else in image units per pixel.

    Parameters
    ----------
    scene : Scene
    params : Fit, mapping from site names to values, arviz.InferenceData, or None
        Where to show the model (see :func:`bayesprof.estimate.point_estimate`).
    component : str, optional
        Name of the component; by default the first that isn't a sky.
    image : str, optional
        Name of the image, of a scene of several; the first where left out.
    path : str or path, optional
        File to write the figure to.

    Raises
    ------
    ValueError
        For a component or an image that the scene doesn't have, or a component whose surroundings are masked.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> from bayesprof import models, plots
    >>> galaxy = models.exponential(x=14.0, y=9.0, flux=500.0, r_eff=3.0, q=0.8, theta=0.4)
    >>> scene = bp.Scene(bp.Image(np.ones((20, 30)), sigma=0.1), sky=models.flat_sky(level=1.0), galaxy=galaxy)
    >>> figure = plots.profile(scene, None)
    """
    values = point_estimate(scene, params)
    seen = scene.image_named(image, "profile")
    lights = lights_at(scene, values, seen.name)
    name = _chosen(component, lights)
    images = {each: scene.predict(values, components=each, image=seen.name).cpu().numpy() for each in lights}
    sources = {each: image for each, image in images.items() if each == name or not is_sky(lights[each])}
    sky = sum((image for each, image in images.items() if each not in sources), np.zeros(seen.shape))

    x, y, q, theta = centre_and_shape(lights[name], images[name])
    rings = annuli(seen.valid.cpu().numpy(), x, y, q, theta)
    if len(rings.radius) < 2:
        raise ValueError(f"profile: expected unmasked pixels around {name!r}, got too few; choose another component=")
    data = seen.data.cpu().numpy() - sky
    mean, total = rings.mean(data), rings.mean(scene.predict(values, image=seen.name).cpu().numpy() - sky)
    sigma = seen.sigma
    error = rings.scatter(data) if sigma is None else rings.error(sigma.cpu().numpy())
    curves = {each: rings.mean(image) for each, image in sources.items()}

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 5.4), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        brightness, unit = brightness_of(seen)
        draw_points(top, rings.radius, mean, error, brightness, "data - sky" if len(sources) < len(images) else "data")
        if len(curves) > 1:
            top.plot(rings.radius, brightness(total), color="k", lw=1.5, label="model")
        for (each, curve), colour in zip(curves.items(), cycle(COLOURS), strict=False):
            top.plot(
                rings.radius, brightness(curve), color=colour, lw=1.5, ls="-" if each == name else "--", label=each
            )
        _draw_deviations(bottom, rings.radius, (mean - total) / error)
        _finish(top, bottom, seen, f"surface brightness\n[{unit}]")
        floor = np.nanmin(np.where(mean > error, mean - error, error))
        top.set_ylim(*brightness(np.array([0.7 * floor, 1.5 * max(mean.max(), total.max(), floor)])))
        shape = f", q = {q:.3f}, theta = {theta % math.pi:.3f} rad" if q < 1 else ", circles"
        top.set_title(f"{name}: centre ({x:.2f}, {y:.2f}) pixel{shape}", pad=8)
    return saved(figure, path)


def _chosen(component: str | None, lights: Mapping[str, Light]) -> str:
    """The component asked for, or the first that isn't a sky, or the first."""
    if component is None:
        return next((name for name, light in lights.items() if not is_sky(light)), next(iter(lights)))
    if component not in lights:
        raise ValueError(f"profile: the scene has no component {component!r}; it has {list(lights)}")
    return component


def _draw_deviations(axis: Axes, radius: np.ndarray, deviation: np.ndarray) -> None:
    """Data minus model in units of its error, up to 8 of them."""
    axis.errorbar(radius, deviation, 1.0, fmt="o", color="k", ms=3, lw=0.8)
    axis.axhline(0, color="0.5", lw=0.8)
    reach = min(max(3.0, 1.1 * float(np.nanmax(np.abs(deviation)))), 8.0)
    axis.set_ylim(-reach, reach)
    axis.set_ylabel("(data - model)\n/ error")


def _finish(top: Axes, bottom: Axes, image: Image, label: str) -> None:
    """Scales, labels and legend."""
    for axis in (top, bottom):
        axis.set_xscale("log")
        set_round_ticks(axis.xaxis)
        axis.tick_params(which="both", right=True)
    bottom.tick_params(which="both", top=True)
    if image.zeropoint is None or image.pixel_scale is None:
        top.set_yscale("log")
    top.set_ylabel(label)
    bottom.set_xlabel("radius along the major axis [pixel]")
    if image.pixel_scale is not None:
        scale = image.pixel_scale
        there_and_back = (lambda r: np.multiply(r, scale), lambda r: np.divide(r, scale))
        arcsec = top.secondary_xaxis("top", functions=there_and_back)
        set_round_ticks(arcsec.xaxis)
        arcsec.set_xlabel("radius along the major axis [arcsec]")
    handles, labels = top.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: not isinstance(handles[i], ErrorbarContainer))  # data first
    top.legend([handles[i] for i in order], [labels[i] for i in order], frameon=False)
