"""A radial profile of no formula: surface brightness at given radii, and a smooth curve between them.

ln I(R) is a natural cubic spline in ln R through the values at the knots. How it goes on within the first and beyond
the last one, and its prior: :mod:`bayesprof.models.free_profile`. (AstroPhot's spline, Stone et al. 2023, MNRAS 525,
6377, is one in R.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bayesprof.hankel import map_with_a_break
from bayesprof.light import as_tensors
from bayesprof.models.component import Component, Derived, catalogued
from bayesprof.models.free_profile import (
    brightness_parameter,
    checked_brightness,
    cut,
    held_knots,
    knots_parameter,
    radial_curves,
)
from bayesprof.models.galaxy import elliptical
from bayesprof.radial import RadialProfile


class Spline(RadialProfile):
    """Light of an elliptical profile given by its brightness at some radii.

    Parameters
    ----------
    x, y : centre, pixels.
    surface_brightness : at the knots, image units per pixel, > 0, of shape ``(..., knots)``.
    knots : radii along the major axis, pixels, > 0 and ascending, three or more, of shape ``(knots,)``. Fixed: nothing
        is differentiated by them.
    q, theta : axis ratio in (0, 1] and angle of the major axis, radians; or
    ellipticity : the vector (e1, e2) of shape (..., 2). Conventions: :mod:`bayesprof.grid`.

    Nothing is normalised: the total light follows from the values, and is the attribute `flux`. What lies beyond the
    last knot is in it, as far as the cut of :mod:`bayesprof.models.free_profile` lets it through.

    Raises
    ------
    ValueError
        For less than three knots, or other than one value for each.

    Examples
    --------
    >>> from bayesprof import models
    >>> galaxy = models.Spline(30.0, 40.0, [9.0, 4.0, 1.0, 0.1], [1.0, 3.0, 6.0, 12.0], q=0.7, theta=0.3)
    """

    hankel = staticmethod(map_with_a_break)

    def __init__(
        self,
        x: Any,
        y: Any,
        surface_brightness: Any,
        knots: Any,
        *,
        q: Any = None,
        theta: Any = None,
        ellipticity: Any = None,
    ) -> None:
        surface_brightness, knots = checked_brightness("Spline", surface_brightness, knots)
        x, y, surface_brightness, knots = as_tensors(x, y, surface_brightness, knots)
        knots = knots.detach()
        # the nodes of the transform are dense about the last knot: the light ends soon after
        super().__init__(x, y, torch.ones_like(x), knots[-1], q=q, theta=theta, ellipticity=ellipticity)
        self.surface_brightness, self.knots = surface_brightness, knots
        self.flux = self.light_at_unit_brightness()

    @property
    def shape(self) -> tuple[Tensor, ...]:
        tiny = torch.finfo(self.surface_brightness.dtype).tiny
        return torch.log(self.surface_brightness.clamp(min=tiny)).unbind(-1)

    def formula(self, radius: Tensor, *log_values: Tensor) -> Tensor:  # type: ignore[override]
        knots = self.knots.to(radius.dtype) / self.radius.to(radius.dtype)
        values = torch.stack(log_values, dim=-1) + cut(knots**2, knots)
        square = radius**2
        if radius.ndim == 1:  # on the nodes of the transform, along the last axis
            return radial_curves(square[None], knots, values)[..., 0, 0, :] - cut(square, knots)
        return radial_curves(square, knots, values.squeeze(-2)).squeeze(-3) - cut(square, knots)


@catalogued
def spline(
    *,
    x: Any = None,
    y: Any = None,
    surface_brightness: Any = None,
    knots: Any = None,
    count: int = 10,
    ellipticity: Any = None,
    q: Any = None,
    theta: Any = None,
) -> Component:
    """A galaxy with a free radial profile, :class:`Spline`, of `count` knots or of those in `knots`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is the
    default of :mod:`bayesprof.models.galaxy`, and for those of its own

    - `surface_brightness`: its logarithms are a Gaussian process in ln R with the Matern covariance of order 3/2,
      standard deviation 2 and length 2, about an exponential disk of the measured flux and half-light radius,
    - `knots` are held: from 0.1 to 5 measured half-light radii, in equal ratios. They take no prior.

    Giving `q` or `theta` takes the place of `ellipticity`. The total flux is recorded beside the parameters.

    Raises
    ------
    TypeError, ValueError
        For a prior of `knots`, and for less than three of them.

    Examples
    --------
    >>> from bayesprof import models
    >>> galaxy = models.spline(knots=[0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
    """
    knots, count = held_knots("spline", knots, count)
    own = {"surface_brightness": brightness_parameter(knots, count), "knots": knots_parameter(count)}
    given = {
        "x": x, "y": y, "surface_brightness": surface_brightness, "knots": knots, "ellipticity": ellipticity, "q": q,
        "theta": theta,
    }  # fmt: skip
    galaxy = elliptical("spline", Spline, own, **given)
    return replace(galaxy, derived={**galaxy.derived, "flux": _FLUX})


def _flux(values: Mapping[str, Tensor]) -> Tensor:
    shape = {name: values[name] for name in ("ellipticity", "q", "theta") if name in values}
    return Spline(0.0, 0.0, values["surface_brightness"], values["knots"], **shape).flux


_FLUX = Derived("{flux}", "total flux", _flux)
