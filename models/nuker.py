"""The Nuker profile: two power laws that meet at a break radius.

    I(R) = I_b 2^((beta - gamma) / alpha) (R / r_b)^(-gamma) (1 + (R / r_b)^alpha)^(-(beta - gamma) / alpha)

(Lauer et al. 1995, AJ 110, 2622, equation 3.) It describes the inner arcseconds of early-type galaxies, where beta is
mostly between 1 and 2: the total light of such a profile is infinite, and the image holds only a part of it. So the
profile is given by its surface brightness at the break, and is cut off outside of the image, by exp(-(R / r_cut)^4).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from bayesprof.hankel import map_with_a_break
from bayesprof.image import Image
from bayesprof.light import as_tensors
from bayesprof.measurement import Measurement
from bayesprof.models.component import Component, Default, Parameter, catalogued, log_normal, number
from bayesprof.models.galaxy import affine_beta, elliptical, exponent, size
from bayesprof.radial import RadialProfile

GAMMA_MAX = 1.4
"""Steepest cusp for which the light inside of the innermost radius of the transform's map doesn't matter."""

_CUT = 2.0  # image diagonals: 0.4 per cent less light in the corners, and none that would come back over the edges


class Nuker(RadialProfile):
    """Light of a Nuker profile.

    Parameters
    ----------
    x, y : centre, pixels.
    surface_brightness : at the break radius, image units per pixel.
    r_break : break radius along the major axis, pixels, > 0.
    alpha : sharpness of the break, > 0.
    beta, gamma : slopes outside and inside of the break, ``-d ln I / d ln R``; gamma at most 1.4, where it
        stays beyond.
    r_cut : where the light is cut off, along the major axis, pixels, > 0: best about two diagonals of the image.
    q, theta : axis ratio in (0, 1] and angle of the major axis, radians; or
    ellipticity : the vector (e1, e2) of shape (..., 2). Conventions: :mod:`bayesprof.grid`.

    With beta <= 2 the attribute `flux`, its total light, says more about the cut than about the galaxy.

    Examples
    --------
    >>> from bayesprof import models
    >>> core = models.Nuker(30.0, 40.0, 10.0, 3.0, 2.0, 1.4, 0.2, 300.0, q=0.9, theta=0.3)
    """

    hankel = staticmethod(map_with_a_break)

    def __init__(
        self,
        x: Any,
        y: Any,
        surface_brightness: Any,
        r_break: Any,
        alpha: Any,
        beta: Any,
        gamma: Any,
        r_cut: Any,
        *,
        q: Any = None,
        theta: Any = None,
        ellipticity: Any = None,
    ) -> None:
        x, y, surface_brightness, r_break, alpha, beta, gamma, r_cut = as_tensors(
            x, y, surface_brightness, r_break, alpha, beta, gamma, r_cut
        )
        super().__init__(x, y, surface_brightness, r_break, q=q, theta=theta, ellipticity=ellipticity)
        self.alpha, self.beta, self.gamma = alpha, beta, gamma.clamp(max=GAMMA_MAX)
        self.break_over_cut = r_break / r_cut
        self.flux = surface_brightness * self.light_at_unit_brightness()

    @property
    def shape(self) -> tuple[Tensor, ...]:
        return self.alpha, self.beta, self.gamma, self.break_over_cut

    @staticmethod
    def formula(  # type: ignore[override]
        radius: Tensor, alpha: Tensor, beta: Tensor, gamma: Tensor, break_over_cut: Tensor
    ) -> Tensor:
        log_radius = torch.log(radius)
        bend = softplus(alpha * log_radius, threshold=40.0) - math.log(2)
        return -gamma * log_radius - (beta - gamma) / alpha * bend - (radius * break_over_cut) ** 4


@catalogued
def nuker(
    *,
    x: Any = None,
    y: Any = None,
    surface_brightness: Any = None,
    r_break: Any = None,
    alpha: Any = None,
    beta: Any = None,
    gamma: Any = None,
    r_cut: Any = None,
    ellipticity: Any = None,
    q: Any = None,
    theta: Any = None,
) -> Component:
    """The centre of a galaxy with a Nuker profile, :class:`Nuker`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is the
    default of :mod:`bayesprof.models.galaxy`, and for those of its own

    - `surface_brightness`: LogNormal(ln measured mean surface brightness within the half-light radius, 2),
    - `r_break`: LogNormal(ln a third of the measured half-light radius, 1),
    - `alpha`: LogNormal(ln 2, 0.5),
    - `beta`: LogNormal(ln 1.8, 0.4),
    - `gamma`: 1.4 Beta(1.5, 3.5), which has mean 0.42 and standard deviation 0.26,
    - `r_cut` is held at two diagonals of the image.

    Giving `q` or `theta` takes the place of `ellipticity`.

    Examples
    --------
    >>> from bayesprof import models
    >>> core = models.nuker(alpha=2.0)
    """
    given = {
        "x": x, "y": y, "surface_brightness": surface_brightness, "r_break": r_break, "alpha": alpha, "beta": beta,
        "gamma": gamma, "r_cut": r_cut, "ellipticity": ellipticity, "q": q, "theta": theta,
    }  # fmt: skip
    return elliptical("nuker", Nuker, _OWN, **given)


def _surface_brightness(found: Measurement, image: Image) -> Default:
    mean = 0.5 * found.flux / (math.pi * found.r_eff**2)
    return log_normal(mean, 2.0, image, "measured mean surface brightness within the half-light radius")


def _r_cut(found: Measurement, image: Image) -> Default:
    return Default(number(_CUT * math.hypot(*image.shape), image), None, "held at two diagonals of the image")


_OWN = {
    "surface_brightness": Parameter("{flux}", "finite", math.isfinite, _surface_brightness),
    "r_break": size(1 / 3, "a third of the measured half-light radius"),
    "alpha": exponent(0.1, 50.0, 2.0, 0.5),
    "beta": exponent(0.1, 10.0, 1.8, 0.4),
    "gamma": affine_beta(0.0, GAMMA_MAX, 1.5, 3.5, 0.4),
    "r_cut": Parameter("pixel", "> 0", lambda value: 0 < value < math.inf, _r_cut),
}
