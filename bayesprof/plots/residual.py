"""Data, model and residual, side by side."""

from __future__ import annotations

from os import PathLike
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage

from bayesprof.estimate import degrees_of_freedom, point_estimate
from bayesprof.plots.figure import MASKED, STYLE, Figure, saved
from bayesprof.plots.stretch import image_stretch
from bayesprof.scene import Scene

_CLIP = 5.0  # the residual map ends at this many standard deviations
_PANEL = 2.9  # width of a panel, inches


def residual(scene: Scene, params: Any, *, path: str | PathLike[str] | None = None) -> Figure:
    """Data, model and residual of a scene, side by side (one above the other where the image is long).

    Data and model share one stretch, asinh about the median of the data. The residual is (data - model) / sigma,
    clipped at 5, or data - model where the image has no noise. Masked pixels are grey. The title gives the
    chi-squared of the unmasked pixels and the degrees of freedom, their number minus that of the parameters.

    Parameters
    ----------
    scene : Scene
    params : Fit, mapping from site names to values, arviz.InferenceData, or None
        Where to show the model (see :func:`bayesprof.estimate.point_estimate`); for draws, at the median of the
        latent sites.
    path : str or path, optional
        File to write the figure to.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> from bayesprof import models, plots
    >>> scene = bp.Scene(bp.Image(np.ones((20, 30)), sigma=0.1), sky=models.flat_sky())
    >>> figure = plots.residual(scene, {"sky.level": 1.0})
    """
    values = point_estimate(scene, params)
    image = scene.image
    model = scene.predict(values).cpu().numpy()
    mask = image.mask.cpu().numpy()
    data = np.ma.array(image.data.cpu().numpy(), mask=mask)
    sigma = None if image.sigma is None else image.sigma.cpu().numpy()
    left = data - model if sigma is None else (data - model) / sigma
    unit = image.unit or "image unit"
    norm, ticks = image_stretch(data, sigma, model)
    limit = _CLIP if sigma is not None else float(np.percentile(np.abs(left.compressed()), 99.5)) or 1.0

    with matplotlib.rc_context(STYLE):
        figure, axes, width = _panels(image.shape)
        grey = " (grey: masked)" if mask.any() else ""
        light = matplotlib.colormaps["magma"].with_extremes(bad=MASKED)
        both_ways = matplotlib.colormaps["RdBu_r"].with_extremes(bad=MASKED)
        shown = [
            axes[0].imshow(data, norm=norm, cmap=light),
            axes[1].imshow(model, norm=norm, cmap=light),
            axes[2].imshow(left, norm=Normalize(-limit, limit), cmap=both_ways),
        ]
        bar = _bar(figure, shown[1], axes[1], width)
        bar.ax.set_yticks(ticks, [f"{tick:.6g}" for tick in ticks])
        bar.minorticks_off()
        bar.set_label(f"data and model\n[{unit} / pixel]")
        bar = _bar(figure, shown[2], axes[2], width)
        bar.set_label(f"data - model\n[{unit} / pixel]" if sigma is None else "residual / sigma")
        for axis, title in zip(axes, (f"data{grey}", "model", "residual"), strict=True):
            axis.set_title(title)
        figure.suptitle(_title(scene, left, sigma is not None, degrees_of_freedom(scene, values)))
    return saved(figure, path)


def _panels(shape: tuple[int, int]) -> tuple[Figure, list[Axes], float]:
    """A figure with three panels for images of `shape`, in a row, or in a column where the image is long; and the width
    of a colour bar, in panels.
    """
    ny, nx = shape
    column = nx > 2 * ny
    height = min(max(_PANEL * ny / nx, 1.6), 6.0) if not column else 2.2 * _PANEL * ny / nx
    size = (2.2 * _PANEL + 1.6, 3 * (height + 0.5) + 0.6) if column else (3 * _PANEL + 2.0, height + 1.1)
    figure = Figure(figsize=size, layout="compressed")
    grid = figure.subplots(3, 1, sharex=True) if column else figure.subplots(1, 3, sharey=True)
    axes = list(grid)
    for axis in axes if not column else axes[-1:]:
        axis.set_xlabel("x [pixel]")
    for axis in axes if column else axes[:1]:
        axis.set_ylabel("y [pixel]")
    return figure, axes, 0.02 if column else 0.045


def _bar(figure: Figure, shown: AxesImage, axis: Axes, width: float) -> Colorbar:
    """A colour bar as high as the panel `axis`, on its right."""
    place = axis.inset_axes((1 + 0.5 * width, 0.0, width, 1.0))
    return figure.colorbar(shown, cax=place, extend="both", extendfrac=0.03)


def _title(scene: Scene, left: np.ma.MaskedArray, has_noise: bool, dof: int) -> str:
    name = scene.image.name if scene.image.band is None else f"{scene.image.name}, band {scene.image.band}"
    if not has_noise:
        return name
    chi2 = float((left.compressed() ** 2).sum())
    ratio = f" = {chi2 / dof:.3f}" if dof > 0 else ""
    return rf"{name}: $\chi^2$ / dof = {chi2:.1f} / {dof}{ratio}"
