"""Images as they are, before anything is fitted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from os import PathLike

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patheffects import withStroke

from bayesprof.detections import Detections
from bayesprof.image import Image
from bayesprof.plots.figure import MASKED, STYLE, Figure, saved
from bayesprof.plots.stretch import image_stretch

_COLUMNS = 3
_CROWDED = 16  # objects, beyond which their labels are printed smaller
_OUTLINE, _OTHERS = "deepskyblue", "0.75"


def image(
    shown: Image | Detections | Sequence[Image],
    *,
    path: str | PathLike[str] | None = None,
) -> Figure:
    """One or several images, a panel each, in an asinh stretch about the median that is linear within three times the
    noise. Masked pixels are grey.

    Parameters
    ----------
    shown : Image, sequence of Images, or Detections
        Of Detections, the image with the segment of each object outlined: the selected ones in blue with their labels,
        the others in grey.
    path : str or path, optional
        File to write the figure to.

    Raises
    ------
    TypeError
        For anything else.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> figure = bp.plots.image(bp.Image(np.random.default_rng(0).normal(size=(40, 60)), sigma=1.0))
    """
    found = shown if isinstance(shown, Detections) else None
    if isinstance(shown, Detections | Image):
        several = [shown.image if isinstance(shown, Detections) else shown]
    else:
        several = list(shown) if isinstance(shown, Iterable) else []
    if not several or not all(isinstance(each, Image) for each in several):
        raise TypeError(
            f"image: expected an Image, several of them, or Detections, got {type(shown).__name__}; make an Image of "
            "an array with bp.Image(data)"
        )
    columns = min(len(several), _COLUMNS)
    rows = math.ceil(len(several) / columns)
    ny, nx = several[0].shape
    width = 5.6 if columns == 1 else 3.6 if columns == 2 else 3.0  # inches
    with matplotlib.rc_context(STYLE):
        size = (columns * (width + 1.0), rows * (min(max(width * ny / nx, 1.6), 9.0) + 0.7))
        figure = Figure(figsize=size, layout="compressed")
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat[len(several) :]:
            axis.remove()
        for axis, each in zip(axes.flat, several, strict=False):
            _draw(figure, axis, each)
            if found is not None:
                _outline(axis, found)
    return saved(figure, path)


def _draw(figure: Figure, axis: Axes, image: Image) -> None:
    mask = image.mask.cpu().numpy()
    data = np.ma.array(image.data.cpu().numpy(), mask=mask)
    norm, ticks = image_stretch(data, None if image.sigma is None else image.sigma.cpu().numpy())
    panel = axis.imshow(data, norm=norm, cmap=matplotlib.colormaps["magma"].with_extremes(bad=MASKED))
    bar = figure.colorbar(panel, cax=axis.inset_axes((1.02, 0.0, 0.04, 1.0)), extend="both", extendfrac=0.03)
    bar.ax.set_yticks(ticks, [f"{tick:.6g}" for tick in ticks])
    bar.minorticks_off()
    bar.set_label(f"[{image.unit or 'image unit'} / pixel]")
    axis.set(xlabel="x [pixel]", ylabel="y [pixel]")
    band = "" if image.band in (None, image.name) else f", band {image.band}"
    axis.set_title(f"{image.name}{band}" + (" (grey: masked)" if mask.any() else ""))


def _outline(axis: Axes, found: Detections) -> None:
    """Draw the borders of the segments, and the labels of those that are selected."""
    labels = np.pad(found.segmentation, 1)
    edges, sides = [], []
    for along, one, other in (
        ((0, 1), labels[1:-1, 1:], labels[1:-1, :-1]),  # upright edges, between pixels in a row
        ((1, 0), labels[1:, 1:-1], labels[:-1, 1:-1]),
    ):
        start = np.argwhere(one != other)[:, ::-1] - 0.5  # (x, y)
        edges.append(np.stack([start, start + along], axis=1))
        sides.append(np.stack([one, other])[:, one != other])
    selected = np.isin(np.concatenate(sides, axis=1), found.labels).any(axis=0)
    for these, colour in ((~selected, _OTHERS), (selected, _OUTLINE)):
        axis.add_collection(LineCollection(list(np.concatenate(edges)[these]), colors=colour, linewidths=0.8))
    for row in found.catalogue:
        axis.annotate(
            str(row["label"]),
            (row["x"], row["y"]),
            color="white",
            fontsize=6.0 if len(found) > _CROWDED else 8.0,
            ha="center",
            va="center",
            path_effects=[withStroke(linewidth=1.8, foreground="black")],
            annotation_clip=True,
        )
