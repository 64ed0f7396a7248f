"""The windows of a scene, over its image."""

from __future__ import annotations

from itertools import cycle
from os import PathLike

import matplotlib
import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from bayesprof.plots.figure import COLOURS, MASKED, STYLE, Figure, saved
from bayesprof.plots.stretch import image_stretch
from bayesprof.scene import Scene

_WIDTH = 6.4  # inches
_LOW = 0.15  # of the image's height: windows that are lower have their names above them
_CROWDED = 16  # windows, beyond which their names are printed smaller


def windows(scene: Scene, *, image: str | None = None, path: str | PathLike[str] | None = None) -> Figure:
    """The image of a scene with the window of each component drawn over it, with its name.

    The image has an asinh stretch about its median; masked pixels are grey. The title names components that have no
    window, and are rendered everywhere.

    Parameters
    ----------
    scene : Scene
    image : str, optional
        Name of the image, of a scene of several; the first where left out. Windows are drawn as they are in its pixels.
    path : str or path, optional
        File to write the figure to.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> from bayesprof import models, plots
    >>> image = bp.Image(np.random.default_rng(0).normal(size=(40, 60)), sigma=1.0)
    >>> scene = bp.Scene(image, galaxy=models.exponential(), windows={"galaxy": bp.Window.around(30, 20, 12)})
    >>> figure = plots.windows(scene)
    """
    seen = scene.image_named(image, "windows")
    found = {name: window for name, window in scene.views[seen.name].windows.items() if window is not None}
    mask = seen.mask.cpu().numpy()
    data = np.ma.array(seen.data.cpu().numpy(), mask=mask)
    norm, _ = image_stretch(data, None if seen.sigma is None else seen.sigma.cpu().numpy())
    ny, nx = seen.shape
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, min(max(_WIDTH * ny / nx, 2.0), 9.0)), layout="compressed")
        axis = figure.subplots()
        axis.imshow(data, norm=norm, cmap=matplotlib.colormaps["gray_r"].with_extremes(bad=MASKED))
        outline = [withStroke(linewidth=2.0, foreground="white")]
        for (name, window), colour in zip(found.items(), cycle(COLOURS), strict=False):
            height, width = window.shape
            corner = (window.x0 - 0.5, window.y0 - 0.5)
            axis.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, lw=1.2))
            above = height < _LOW * ny and window.y1 < 0.95 * ny  # inside it would cover the object
            axis.text(
                window.x0 if above else window.x0 + 0.01 * nx,
                window.y1 if above else window.y1 - 0.5 - 0.01 * ny,
                name,
                color=colour,
                fontsize=6.0 if len(found) > _CROWDED else 8.0,
                va="bottom" if above else "top",
                path_effects=outline,
                clip_on=True,
            )
        axis.set(xlabel="x [pixel]", ylabel="y [pixel]", xlim=(-0.5, nx - 0.5), ylim=(-0.5, ny - 0.5))
        everywhere = [name for name, by in scene.seen_in.items() if seen.name in by and name not in scene.windows]
        grey = " (grey: masked)" if mask.any() else ""
        axis.set_title(f"{seen.name}{grey}" + (f"; everywhere: {', '.join(everywhere)}" if everywhere else ""))
    return saved(figure, path)
