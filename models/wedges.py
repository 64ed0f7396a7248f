"""A galaxy of no formula cut into wedges, each with a radial profile of its own.

The weights of :mod:`bayesprof.models.free_angles` are 1 in one wedge and 0 in the others, but for edges that are
smoothed by a Gaussian of 0.1 radians in the angle,

    B_k(phi) = (erf((phi - phi_k + h) / s) - erf((phi - phi_k - h) / s)) / 2,    s = 0.1 sqrt(2),

with h half of a wedge's width, pi / N, and phi - phi_k between -pi and pi: a change goes from 10 to 90 per cent within
15 degrees. This is a simplification. AstroPhot's wedges (Stone et al. 2023, MNRAS 525, 6377) have sharp edges; the
image of these depends on how finely the pixels are divided, and none here would be exact.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bayesprof.models.component import Component, catalogued
from bayesprof.models.free_angles import FreeAngles, free_angles

_EDGE = 0.1  # radians


class Wedges(FreeAngles):
    """Light of a profile given by its brightness at some radii in each of several wedges, with smoothed edges.

    Its parameters are those of :class:`bayesprof.models.free_angles.FreeAngles`: `surface_brightness` of shape
    ``(..., wedges, knots)``; wedge k is centred on phi_k. In the middle of one of 8 wedges, all but 1e-4 of ln I is its
    own; of 12, all but 1e-2.

    The thinner the ellipse, the sharper the edges on the sky: the image through a PSF is good to 1e-4 (relative L2)
    where q is 0.45 and above, and to 1e-3 where it is 0.3. Without a PSF it is good to 1e-3 where q is 0.6 and above.

    Examples
    --------
    >>> from bayesprof import models
    >>> halves = [[9.0, 4.0, 1.0, 0.1], [9.0, 2.0, 0.4, 0.1]]
    >>> galaxy = models.Wedges(30.0, 40.0, halves, [1.0, 3.0, 6.0, 12.0], q=0.7, theta=0.3)
    """

    def waves(self, cos: Tensor, sin: Tensor, count: int) -> tuple[list[Tensor], Tensor]:
        phi = torch.atan2(sin, cos)
        per_edge = 1 / (math.sqrt(2) * _EDGE * (2 if self.symmetric else 1))
        waves = []
        for k in range(count):
            edge = math.remainder((2 * k - 1) * math.pi / count, 2 * math.pi)  # that before wedge k
            away = phi - edge
            # without its even rise the step of an edge is the same a turn away
            away = torch.where(away > math.pi, away - 2 * math.pi, away)
            away = torch.where(away < -math.pi, away + 2 * math.pi, away)
            waves.append(torch.erf(away * per_edge) - away * (1 / math.pi))
        unit = torch.eye(count, dtype=cos.dtype, device=cos.device)
        return waves, 0.5 * (unit - unit.roll(1, 0))


@catalogued
def wedges(
    count: int = 6,
    *,
    x: Any = None,
    y: Any = None,
    surface_brightness: Any = None,
    knots: Any = None,
    knot_count: int = 8,
    symmetric: bool = False,
    ellipticity: Any = None,
    q: Any = None,
    theta: Any = None,
) -> Component:
    """A galaxy with a free radial profile in each of `count` wedges, :class:`Wedges`, of `knot_count` knots or of those
    in `knots`. With `symmetric`, opposite wedges are the same, and there are twice as many.

    Parameters and default priors are those of :func:`bayesprof.models.rays`, with wedges in place of rays.

    Raises
    ------
    TypeError, ValueError
        For a prior of `knots`, and for less than three of them or two wedges.

    Examples
    --------
    >>> from bayesprof import models
    >>> lopsided = models.wedges(4, knots=[0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
    """
    given = {
        "x": x, "y": y, "surface_brightness": surface_brightness, "ellipticity": ellipticity, "q": q, "theta": theta,
    }  # fmt: skip
    return free_angles("wedges", Wedges, count, knots, knot_count, symmetric, **given)
