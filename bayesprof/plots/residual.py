"""Data, model and residual, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage

from bayesprof.estimate import degrees_of_freedom, point_estimate
from bayesprof.image import Image
from bayesprof.plots.figure import MASKED, STYLE, Figure, saved
from bayesprof.plots.stretch import image_stretch
from bayesprof.scene import Scene

_CLIP = 5.0  # the residual map ends at this many standard deviations
_PANEL = 2.9  # width of a panel, inches


def residual(scene: Scene, params: Any, *, image: str | None = None, path: str | PathLike[str] | None = None) -> Figure:
    """Data, model and residual of a scene, side by side (one above the other where the image is long); of a scene of
    several images, a row (or column) for each.

    Data and model share one stretch, asinh about the median of the data. The residual is (data - model) / sigma,
    clipped at 5, or data - model where the image has no noise. Masked pixels are grey. The title gives the
    chi-squared of the unmasked pixels and the degrees of freedom, their number minus that of the parameters; of several
    images, it gives that of all, and each its chi-squared per unmasked pixel.

    Parameters
    ----------
    scene : Scene
    params : Fit, mapping from site names to values, arviz.InferenceData, or None
        Where to show the model (see :func:`bayesprof.estimate.point_estimate`); for draws, at the median of the
        latent sites.
    image : str, optional
        Name of the only image to show, of a scene of several.
    path : str or path, optional
        File to write the figure to.

    Raises
    ------
    ValueError
        For an image that the scene doesn't have.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> from bayesprof import models, plots
    >>> scene = bp.Scene(bp.Image(np.ones((20, 30)), sigma=0.1), sky=models.flat_sky())
    >>> figure = plots.residual(scene, {"sky.level": 1.0})
    """
    values = point_estimate(scene, params)
    chosen = list(scene.images) if image is None else [scene.image_named(image, "residual").name]
    shown = [_Row.of(scene.images[name], scene.predict(values, image=name).cpu().numpy()) for name in chosen]
    with matplotlib.rc_context(STYLE):
        figure, axes, width = _panels([row.image.shape for row in shown])
        for row, three in zip(shown, axes, strict=True):
            _draw(figure, row, three, width, beside=scene.image if len(shown) == len(scene.images) > 1 else None)
        figure.suptitle(_title(scene, shown, degrees_of_freedom(scene, values)))
    return saved(figure, path)


class _Row(NamedTuple):
    """What is shown of an image; `left` over: data - model, over `sigma` where the image has noise."""

    image: Image
    data: np.ma.MaskedArray
    model: np.ndarray
    left: np.ma.MaskedArray
    sigma: np.ndarray | None

    @classmethod
    def of(cls, image: Image, model: np.ndarray) -> _Row:
        data = np.ma.array(image.data.cpu().numpy(), mask=image.mask.cpu().numpy())
        sigma = None if image.sigma is None else image.sigma.cpu().numpy()
        return cls(image, data, model, data - model if sigma is None else (data - model) / sigma, sigma)

    @property
    def chi2(self) -> float:
        return float((self.left.compressed() ** 2).sum())


def _draw(figure: Figure, row: _Row, axes: Sequence[Axes], width: float, *, beside: Image | None) -> None:
    """Draw a row of panels; `beside`: the first of several images."""
    unit = row.image.unit or "image unit"
    norm, ticks = image_stretch(row.data, row.sigma, row.model)
    limit = _CLIP if row.sigma is not None else float(np.percentile(np.abs(row.left.compressed()), 99.5)) or 1.0
    grey = " (grey: masked)" if row.data.mask.any() else ""
    light = matplotlib.colormaps["magma"].with_extremes(bad=MASKED)
    both_ways = matplotlib.colormaps["RdBu_r"].with_extremes(bad=MASKED)
    shown = [
        axes[0].imshow(row.data, norm=norm, cmap=light),
        axes[1].imshow(row.model, norm=norm, cmap=light),
        axes[2].imshow(row.left, norm=Normalize(-limit, limit), cmap=both_ways),
    ]
    bar = _bar(figure, shown[1], axes[1], width)
    bar.ax.set_yticks(ticks, [f"{tick:.6g}" for tick in ticks])
    bar.minorticks_off()
    bar.set_label(f"data and model\n[{unit} / pixel]")
    bar = _bar(figure, shown[2], axes[2], width)
    bar.set_label(f"data - model\n[{unit} / pixel]" if row.sigma is None else "residual / sigma")
    titles = [f"data{grey}", "model", "residual"]
    if beside is not None:
        of_each = "" if row.sigma is None else rf": $\chi^2$ / pixel = {row.chi2 / row.image.n_valid:.3f}"
        titles = [f"{_name(row.image)}{grey}", "model", f"residual{of_each}"]
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title)


def _panels(shapes: Sequence[tuple[int, int]]) -> tuple[Figure, list[list[Axes]], float]:
    """A figure with three panels for each image of `shapes`, in a row, or in a column where the first is long; and the
    width of a colour bar, in panels.
    """
    ny, nx = shapes[0]
    column = nx > 2 * ny
    height = min(max(_PANEL * ny / nx, 1.6), 6.0) if not column else 2.2 * _PANEL * ny / nx
    count, alone = len(shapes), len(shapes) == 1
    if column:
        size = (count * (2.2 * _PANEL + 1.6), 3 * (height + 0.5) + 0.6)
    else:
        size = (3 * _PANEL + 2.0, count * (height + (0.0 if alone else 0.5)) + 1.1)
    figure = Figure(figsize=size, layout="compressed")
    if column:
        grid = figure.subplots(3, count, sharex="col", squeeze=False).T
    else:
        grid = figure.subplots(count, 3, sharey="row", squeeze=False)
    axes = [list(three) for three in grid]
    for three in axes:
        for axis in three if not column else three[-1:]:
            axis.set_xlabel("x [pixel]")
        for axis in three if column else three[:1]:
            axis.set_ylabel("y [pixel]")
    return figure, axes, 0.02 if column else 0.045


def _bar(figure: Figure, shown: AxesImage, axis: Axes, width: float) -> Colorbar:
    """A colour bar as high as the panel `axis`, on its right."""
    place = axis.inset_axes((1 + 0.5 * width, 0.0, width, 1.0))
    return figure.colorbar(shown, cax=place, extend="both", extendfrac=0.03)


def _name(image: Image) -> str:
    return image.name if image.band in (None, image.name) else f"{image.name}, band {image.band}"


def _title(scene: Scene, shown: Sequence[_Row], dof: int) -> str:
    name = ", ".join(_name(row.image) if len(shown) == 1 else row.image.name for row in shown)
    if any(row.sigma is None for row in shown) or len(shown) < len(scene.images):
        return name
    chi2 = sum(row.chi2 for row in shown)
    ratio = f" = {chi2 / dof:.3f}" if dof > 0 else ""
    return rf"{name}: $\chi^2$ / dof = {chi2:.1f} / {dof}{ratio}"
