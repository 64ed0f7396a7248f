"""Light of no formula: a lattice of values, with a smooth surface between them and a prior that prefers smooth ones.

For tidal debris, clumps and whatever else a profile leaves over. The prior of the values is a Gaussian process with the
Matern covariance of order 3/2 (:mod:`bayesprof.models.matern`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.transforms import ReshapeTransform

from bayesprof.image import Image
from bayesprof.light import Lattice, as_tensors
from bayesprof.measurement import Measurement
from bayesprof.models.component import Axis, Component, Default, Parameter, catalogued, component, number
from bayesprof.models.matern import matern_factor

_LENGTH = 2.0  # of the default prior's covariance, in steps of the lattice


class Freeform(Lattice):
    """Light given by values on a square lattice.

    Parameters
    ----------
    values : shape ``(..., rows, columns)``, image units per pixel. The light is a cubic B-spline surface with these
        coefficients: constant values give that constant, and a single one a bump of 2/3 of it. It falls to 0 within
        two steps beyond the outermost nodes. The total flux is step^2 times the sum of the values.
    x, y : centre of the lattice, pixels.
    step : distance of neighbouring nodes, pixels, > 0; held.

    The image is exact for every step; below the width of the PSF the values are hardly constrained by data.

    Examples
    --------
    >>> import torch
    >>> from bayesprof import models
    >>> blob = models.Freeform(torch.ones(4, 6), 30.0, 40.0, 3.0)
    """

    def __init__(self, values: Any, x: Any, y: Any, step: float) -> None:
        values, x, y = as_tensors(values, x, y)
        if values.ndim < 2:
            raise ValueError(f"Freeform: expected values of shape (..., rows, columns), got {tuple(values.shape)}")
        if not 0 < step < math.inf:
            raise ValueError(f"Freeform: expected a step > 0, got {step!r}; give it in pixels")
        super().__init__(values, x, y, step)


@catalogued
def freeform(shape: tuple[int, int], step: float, *, x: float, y: float, values: Any = None) -> Component:
    """A lattice of values, :class:`Freeform`, of `shape` (rows, columns) and `step` pixels, centred at `x`, `y`.

    `values`, of that shape, takes a Pyro distribution over it (prior), an array (held), or nothing: then its prior is
    the Gaussian process of :mod:`bayesprof.models.freeform` about 0, whose standard deviation is the measured flux
    over pi times the square of the measured half-light radius, and whose length is two steps.

    Raises
    ------
    ValueError
        For a shape without nodes, or a step that isn't positive.

    Examples
    --------
    >>> from bayesprof import models
    >>> debris = models.freeform((8, 10), 3.0, x=20.0, y=15.0)
    """
    rows, columns = shape
    if rows < 1 or columns < 1:
        raise ValueError(f"freeform: expected at least one row and one column of nodes, got shape {shape!r}")
    if not 0 < step < math.inf:
        raise ValueError(f"freeform: expected a step > 0, got {step!r}; give it in pixels")

    def light(values: Tensor) -> Freeform:
        return Freeform(values, x, y, step)

    axes = (Axis("row", tuple(range(rows))), Axis("column", tuple(range(columns))))
    parameter = Parameter(
        "{flux}", "finite", lambda value: bool(value.isfinite().all()), _default_of(rows, columns, step), axes
    )
    return component("freeform", light, {"values": parameter}, values=values)


def _default_of(rows: int, columns: int, step: float) -> Callable[[Measurement, Image], Default]:
    def default(found: Measurement, image: Image) -> Default:
        sd, length = abs(found.flux) / (math.pi * found.r_eff**2), _LENGTH * step
        place = torch.cartesian_prod(*(torch.arange(size, dtype=torch.float64) for size in (rows, columns)))
        prior = dist.MultivariateNormal(
            torch.zeros(rows * columns, dtype=image.dtype, device=image.device),
            scale_tril=number(sd, image) * matern_factor(place, length / step).to(image.data),
        )
        rows_apart = ReshapeTransform(torch.Size([rows * columns]), torch.Size([rows, columns]))
        reshaped = dist.TransformedDistribution(prior, [rows_apart])
        formula = f"Matern 3/2 process, standard deviation {sd:.4g} and length {length:g} pixels, about 0"
        return Default(reshaped, torch.zeros(rows, columns), formula)

    return default
