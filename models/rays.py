"""A galaxy of no formula whose radial profile differs with the angle: brightness at given radii along several rays.

The weights of :mod:`bayesprof.models.free_angles` are the trigonometric cardinal functions, 1 on one ray and 0 on the
others,

    B_k(phi) = (1 + sum over j of a_j cos(j (phi - phi_k))) / N,    j = 1 ... N / 2,    a_j = 2, but a_(N/2) = 1,

which take ln I through its values on the rays by the longest waves that do. Where neighbours differ by much it swings
beyond them. (AstroPhot's rays, Stone et al. 2023, MNRAS 525, 6377, blend the brightness of the nearest two.)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bayesprof.models.component import Component, catalogued
from bayesprof.models.free_angles import FreeAngles, free_angles


class Rays(FreeAngles):
    """Light of a profile given by its brightness at some radii along several rays, smooth between them.

    Its parameters are those of :class:`bayesprof.models.free_angles.FreeAngles`: `surface_brightness` of shape
    ``(..., rays, knots)``. Where q is 0.3 and above, its image is good to 3e-5 (relative L2) through a PSF, and to 2e-4
    without one.

    Examples
    --------
    >>> from bayesprof import models
    >>> lopsided = [[9.0, 4.0, 1.0, 0.1], [9.0, 3.0, 0.7, 0.1], [8.0, 3.0, 0.8, 0.2]]
    >>> galaxy = models.Rays(30.0, 40.0, lopsided, [1.0, 3.0, 6.0, 12.0], q=0.7, theta=0.3)
    """

    def waves(self, cos: Tensor, sin: Tensor, count: int) -> tuple[list[Tensor], Tensor]:
        at = 2 * math.pi / count * torch.arange(count, dtype=cos.dtype, device=cos.device)
        waves: list[Tensor] = []
        rows = []
        wave = cos, sin
        for order in range(1, count // 2 + 1):
            waves += wave
            factor = (1 if 2 * order == count else 2) / count
            rows += [factor * torch.cos(order * at), factor * torch.sin(order * at)]
            wave = wave[0] * cos - wave[1] * sin, wave[0] * sin + wave[1] * cos
        # of the shortest wave of an even number the sine is 0 on every ray
        even = count % 2 == 0
        return waves[: -1 if even else None], torch.stack(rows[: -1 if even else None])


@catalogued
def rays(
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
    """A galaxy with a free radial profile on each of `count` rays, :class:`Rays`, of `knot_count` knots or of those in
    `knots`. With `symmetric`, opposite rays are the same, and there are twice as many.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is the
    default of :mod:`bayesprof.models.galaxy`, and for those of its own

    - `surface_brightness`, of shape (rays, knots): the Gaussian process of :mod:`bayesprof.models.free_angles`, about
      an exponential disk of the measured flux and half-light radius,
    - `knots` are held: from 0.1 to 5 measured half-light radii, in equal ratios. They take no prior.

    Giving `q` or `theta` takes the place of `ellipticity`. An ellipse is much like two waves in angle, and a shift of
    the centre like one, which the rays have as well: it is the priors that tell them apart. Hold
    ``ellipticity=[0.0, 0.0]`` for rays in the plane of the sky, and `x` and `y` where the centre is known; the
    posterior is nearer to a Gaussian then, and sooner sampled. The total flux is recorded beside the parameters.

    Raises
    ------
    TypeError, ValueError
        For a prior of `knots`, and for less than three of them or two rays.

    Examples
    --------
    >>> from bayesprof import models
    >>> lopsided = models.rays(8, knots=[0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
    >>> barred = models.rays(4, symmetric=True, ellipticity=[0.0, 0.0])
    """
    given = {
        "x": x, "y": y, "surface_brightness": surface_brightness, "ellipticity": ellipticity, "q": q, "theta": theta,
    }  # fmt: skip
    return free_angles("rays", Rays, count, knots, knot_count, symmetric, **given)
