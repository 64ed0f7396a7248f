"""A sky between levels on a coarse grid.

sky(x, y) = sum over nodes of level[j, i] max(0, 1 - |y / h_y - j|) max(0, 1 - |x / h_x - i|),

with the nodes at x = i h_x and y = j h_y: the corner nodes are the centres of the image's corner pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprof.image import Image
from bayesprof.light import Background, as_tensors
from bayesprof.measurement import Measurement
from bayesprof.models.component import Axis, Component, Default, Parameter, catalogued, component, number

_FEWEST = 2  # nodes along an axis


class BilinearSky(Background):
    """Light of a sky between `levels` on a coarse grid, shape (..., rows, columns), image units per pixel.

    There are at least 2 rows and 2 columns, evenly spaced from the first to the last pixel of the image.

    Raises
    ------
    ValueError
        For levels of another shape.

    Examples
    --------
    >>> from bayesprof import models
    >>> sky = models.BilinearSky([[3.0, 3.1, 3.3], [2.9, 3.0, 3.2]])
    """

    def __init__(self, levels: Any) -> None:
        super().__init__()
        (self.levels,) = as_tensors(levels)
        if self.levels.ndim < 2 or min(self.levels.shape[-2:]) < _FEWEST:
            raise ValueError(
                f"BilinearSky: expected levels of shape (..., rows, columns), {_FEWEST} at least of each, got shape "
                f"{tuple(self.levels.shape)}; FlatSky has one level"
            )

    def brightness_at(self, x: Tensor, y: Tensor) -> Tensor:
        rows, columns = self.levels.shape[-2:]
        return _hats(y.squeeze(-1), rows) @ self.levels @ _hats(x.squeeze(-2), columns).mT


def _hats(pixels: Tensor, count: int) -> Tensor:
    """Weights of `count` nodes, along the last axis, at each of the image's `pixels` along one side."""
    position = pixels * ((count - 1) / (pixels.shape[-1] - 1))
    nodes = torch.arange(count, dtype=pixels.dtype, device=pixels.device)
    return (1 - (position[..., None] - nodes).abs()).clamp(min=0)


@catalogued
def bilinear_sky(*, nodes: Sequence[int] = (3, 3), levels: Any = None) -> Component:
    """A sky between levels on a coarse grid, :class:`BilinearSky`.

    `nodes`: rows and columns of the grid, 2 at least of each. `levels` takes a Pyro distribution over an array of that
    shape (prior), an array (held), or nothing: then each level's prior is Normal(clipped median of the image's border,
    3 times the noise of a pixel).

    Raises
    ------
    ValueError, TypeError
        For `nodes` that aren't two whole numbers, and for levels of another shape.

    Examples
    --------
    >>> from bayesprof import models
    >>> sky = models.bilinear_sky(nodes=(2, 4))
    """
    counts = tuple(nodes) if isinstance(nodes, Sequence) else (nodes,)
    if len(counts) != 2 or not all(isinstance(count, int) and count >= _FEWEST for count in counts):
        raise ValueError(
            f"bilinear_sky: expected nodes as (rows, columns), whole numbers >= {_FEWEST}, got {nodes!r}; for example "
            "nodes=(3, 3)"
        )
    axes = tuple(Axis(name, tuple(range(count))) for name, count in zip(("row", "column"), counts, strict=True))

    def default(found: Measurement, image: Image) -> Default:
        mean, sd = number(found.sky, image), number(3 * found.noise, image)
        return Default(
            dist.Normal(mean, sd).expand(counts).to_event(2),
            torch.full(counts, found.sky),
            f"Normal({found.sky:.5g}, {3 * found.noise:.3g}) each: clipped median of the image's border, and three "
            "times the pixel noise",
            measured=True,
        )

    levels_of = Parameter("{flux}", "finite", lambda values: bool(values.isfinite().all()), default, axes)
    return component("bilinear_sky", BilinearSky, {"levels": levels_of}, levels=levels)
