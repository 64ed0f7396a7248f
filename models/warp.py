"""Warps: ellipses whose axis ratio and angle change with radius.

At radius R of the plane of the profile the contours get a further ellipticity e(R) = w / sqrt(1 + |w|^2), with w(R) a
cubic spline in ln R through the values at the knots, level at the first knot and at the last and constant beyond. The
ellipse keeps the area of the circle that it was,

(u, v) -> 1 / sqrt(1 - |e|^2) [[1 - e1, -e2], [-e2, 1 + e1]] (u, v),

which is smooth where e = 0. On a round profile the ellipticity at each radius is e itself, of axis ratio
(1 - |e|) / (1 + |e|) and angle atan2(e2, e1) / 2, and R' is the geometric mean of the semi-axes. AstroPhot's warp
(Stone et al. 2023, MNRAS 525, 6377) has splines through axis ratios and angles in place of w.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from scipy.interpolate import CubicSpline

from bayesprof.grid import per_pixel
from bayesprof.image import Image
from bayesprof.light import as_tensors
from bayesprof.measurement import Measurement
from bayesprof.models.component import Axis, Default, Parameter, catalogued, number
from bayesprof.models.shape import Place, Shape, ShapeComponent, shape_component

_DEFAULT_SD = 0.1


@dataclass(frozen=True)
class Warp(Shape):
    """Ellipses that change with radius.

    Parameters
    ----------
    knots : radii, pixels along the major axis, > 0, at least two of them, ascending.
    warp : w at each of them, shape ``(..., knots, 2)``.

    Contours of neighbouring radii that cross, from steps in w near 1 between close knots, are not refused: the light
    there is that of the formula.

    Examples
    --------
    >>> from bayesprof import models
    >>> disk = models.Exponential(30.0, 40.0, 100.0, 8.0)
    >>> warped = models.Shaped(disk, [models.Warp((4.0, 20.0), [[0.3, 0.0], [0.1, 0.2]])])
    """

    knots: tuple[float, ...]
    warp: Any

    def __post_init__(self) -> None:
        knots = _knots(self.knots)
        warp = as_tensors(self.warp)[0]
        if warp.shape[-2:] != (len(knots), 2):
            raise ValueError(
                f"Warp: expected warp of shape (..., {len(knots)}, 2), a vector for each of {len(knots)} knots, got "
                f"shape {tuple(warp.shape)}"
            )
        object.__setattr__(self, "knots", knots)
        object.__setattr__(self, "warp", warp)

    def __call__(self, place: Place) -> Place:
        first, last = (float(np.log(self.knots[end])) for end in (0, -1))
        log_radius = torch.log(place.radius).clamp(first, last)
        powers = torch.as_tensor(_truncated_powers(self.knots), dtype=log_radius.dtype, device=log_radius.device)
        weights = powers @ self.warp  # batch + (knots + 1, 2)
        within = (log_radius - first)[..., None, :, :]
        w = per_pixel(weights[..., 0, :]) + within**2 * per_pixel(weights[..., 1, :])
        for i, knot in enumerate(np.log(self.knots[:-1])):
            beyond = (log_radius - float(knot)).clamp(min=0)[..., None, :, :]
            w = w + beyond**3 * per_pixel(weights[..., 2 + i, :])
        w1, w2 = w.unbind(-3)
        # 1 / sqrt(1 - |e|^2) is sqrt(1 + |w|^2), and times e it is w
        norm = torch.sqrt(1 + w1**2 + w2**2)
        return place._replace(
            u=(norm - w1) * place.u - w2 * place.v,
            v=(norm + w1) * place.v - w2 * place.u,
        )


@catalogued
def warp(knots: Sequence[float], *, warp: Any = None) -> ShapeComponent:
    """Ellipses that change with radius, for :func:`models.shaped <bayesprof.models.shaped.shaped>`, :class:`Warp`.

    `knots` are radii in pixels. `warp`, of shape (knots, 2), takes a Pyro distribution over it (prior), an array
    (held), or nothing: then each number has the prior Normal(0, 0.1). On a profile with ellipticity [0, 0] it gives
    axis ratio and angle at each radius by itself; otherwise what they differ by from the profile's.

    Examples
    --------
    >>> from bayesprof import models
    >>> galaxy = models.shaped(models.sersic(), models.warp((3.0, 10.0, 30.0)))
    """
    radii = _knots(knots)

    def light(warp: Any) -> Warp:
        return Warp(radii, warp)

    axes = (Axis("radius", radii), Axis("ellipticity_component", ("e1", "e2"), shared=True))
    parameter = Parameter("", "finite", lambda value: bool(value.isfinite().all()), _default_of(len(radii)), axes)
    return shape_component("warp", light, {"warp": parameter}, warp=warp)


def _default_of(count: int) -> Any:
    def default(found: Measurement, image: Image) -> Default:
        prior = dist.Normal(number(0.0, image), number(_DEFAULT_SD, image)).expand([count, 2]).to_event(2)
        return Default(prior, torch.zeros(count, 2), f"Normal(0, {_DEFAULT_SD:g}): each of the numbers")

    return default


def _knots(knots: Sequence[float]) -> tuple[float, ...]:
    found = tuple(float(knot) for knot in knots)
    if len(found) < 2 or found[0] <= 0 or any(high <= low for low, high in pairwise(found)):
        raise ValueError(f"warp: expected at least two radii, positive and ascending, got {knots!r}")
    return found


@lru_cache
def _truncated_powers(knots: tuple[float, ...]) -> np.ndarray:
    """Matrix from values at the knots to the coefficients of the spline

    w_0 + c (t - t_0)^2 + sum over knots but the last of c_i (t - t_i)_+^3,    t = ln R,

    shape (knots + 1, knots), in that order.
    """
    t = np.log(knots)
    unit = np.eye(len(t))
    cubic, square, *_ = CubicSpline(t, unit, bc_type="clamped").c
    return np.concatenate([unit[:1], square[:1], cubic[:1], np.diff(cubic, axis=0)])
