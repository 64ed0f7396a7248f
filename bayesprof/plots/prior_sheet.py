"""Images that the prior holds possible, side by side."""

from __future__ import annotations

import math
from os import PathLike

import matplotlib
import numpy as np
import torch
from pyro import poutine

from bayesprof.measurement import measure
from bayesprof.plots.figure import STYLE, Figure, saved
from bayesprof.plots.stretch import asinh_stretch
from bayesprof.scene import Scene

MOST_IMAGES = 100
"""Images of a sheet; beyond, they can't be told apart on a page."""
_PANEL = 1.5  # width, inches
_SATURATED = 99.8  # percentile of all pixels where the colour scale ends


def prior_sheet(
    scene: Scene, count: int = 16, *, image: str | None = None, seed: int = 0, path: str | PathLike[str] | None = None
) -> Figure:
    """Noiseless images of `scene` with parameters drawn from its prior.

    All share one stretch: asinh about the median of their pixels, linear within three times the noise of a pixel,
    which is read off the image; the brightest 0.2% of the pixels are saturated. What looks like no galaxy in it, the
    prior should not hold possible.

    Parameters
    ----------
    scene : Scene
    count : int
        Number of images, 1 to 100.
    image : str, optional
        Name of the image, of a scene of several; the first where left out.
    seed : int
        Of the draws; those of other callers don't change by it.
    path : str or path, optional
        File to write the figure to.

    Raises
    ------
    TypeError, ValueError
        For anything but a scene, for a count out of its range, and for an image that the scene doesn't have.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> from bayesprof import models, plots
    >>> scene = bp.Scene(bp.Image(np.zeros((20, 30)), sigma=0.1), galaxy=models.exponential())
    >>> figure = plots.prior_sheet(scene, count=6)
    """
    if not isinstance(scene, Scene):
        raise TypeError(
            f"prior_sheet: expected a Scene, got {type(scene).__name__}; put the component into "
            "bp.Scene(image, galaxy=...)"
        )
    if not 1 <= count <= MOST_IMAGES:
        raise ValueError(f"prior_sheet: expected a count of 1 to {MOST_IMAGES} images, got {count}; choose another")
    shown_in = scene.image_named(image, "prior_sheet")
    images = _drawn(scene, count, shown_in.name, seed)
    centre, width = float(np.median(images)), 3 * measure(shown_in).noise
    high = max(float(np.percentile(images, _SATURATED)), centre + width)
    norm, ticks = asinh_stretch(centre, width, centre - width, high)
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    ny, nx = shown_in.shape
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(columns * _PANEL + 1.0, rows * _PANEL * ny / nx + 0.4), layout="compressed")
        axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
        for empty in axes[count:]:
            empty.remove()
        for axis, image in zip(axes, images, strict=False):
            shown = axis.imshow(image, norm=norm, cmap="magma")
            axis.set(xticks=[], yticks=[])
        bar = figure.colorbar(shown, ax=axes[:count], extend="both", extendfrac=0.02, fraction=0.04, pad=0.02)
        bar.ax.set_yticks(ticks, [f"{tick:.6g}" for tick in ticks])
        bar.minorticks_off()
        bar.set_label(f"[{shown_in.unit or 'image unit'} / pixel]")
        figure.suptitle(f"{count} draws from the prior of {', '.join(scene.components)}")
    return saved(figure, path)


def _drawn(scene: Scene, count: int, image: str, seed: int) -> np.ndarray:
    """Images [count, ny, nx] at draws from the prior."""
    images = []
    with torch.random.fork_rng(devices=[]), torch.no_grad(), poutine.block():
        torch.manual_seed(seed)
        for _ in range(count):
            nodes = poutine.trace(lambda: (scene.lights(), scene.draw_offsets())).get_trace()
            values = {name: nodes.nodes[name]["value"] for name in nodes.stochastic_nodes}
            images.append(scene.predict(values or None, image=image).cpu().numpy())
    return np.stack(images)
