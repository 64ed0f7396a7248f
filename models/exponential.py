"""The exponential disk: a Sersic profile with n = 1, whose transform is elementary.

I(R) = flux / (2 pi q h^2) exp(-R / h),    F(kappa) = (1 + kappa^2 h^2)^(-3/2),    r_eff = 1.6783469900166605 h
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bayesprof.measurement import R_EFF_OVER_SCALE
from bayesprof.models.component import Component, catalogued
from bayesprof.models.galaxy import galaxy
from bayesprof.models.half_light import HalfLightProfile


class Exponential(HalfLightProfile):
    """Light of an exponential profile.

    Parameters
    ----------
    x, y : centre, pixels.
    flux : total light, image units.
    r_eff : half-light radius along the major axis, pixels, > 0.
    q, theta : axis ratio in (0, 1] and angle of the major axis, radians; or
    ellipticity : the vector (e1, e2) of shape (..., 2). Conventions: :mod:`bayesprof.grid`.

    Examples
    --------
    >>> from bayesprof import models
    >>> disk = models.Exponential(30.0, 40.0, 100.0, 5.0, q=0.4, theta=1.0)
    """

    def transform(self, wavenumber_squared: Tensor) -> Tensor:
        return (1 + wavenumber_squared / R_EFF_OVER_SCALE**2) ** -1.5

    def brightness(self, radius_squared: Tensor) -> Tensor:
        tiny = torch.finfo(radius_squared.dtype).tiny
        norm = R_EFF_OVER_SCALE**2 / (2 * math.pi)
        return norm * torch.exp(-R_EFF_OVER_SCALE * torch.sqrt(radius_squared + tiny))


@catalogued
def exponential(
    *,
    x: Any = None,
    y: Any = None,
    flux: Any = None,
    r_eff: Any = None,
    ellipticity: Any = None,
    q: Any = None,
    theta: Any = None,
) -> Component:
    """A disk with an exponential profile, :class:`Exponential`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is the
    default of :mod:`bayesprof.models.galaxy`. Giving `q` or `theta` takes the place of `ellipticity`.

    Examples
    --------
    >>> from bayesprof import models
    >>> disk = models.exponential(q=0.5)
    """
    given = {"x": x, "y": y, "flux": flux, "r_eff": r_eff, "ellipticity": ellipticity, "q": q, "theta": theta}
    return galaxy("exponential", Exponential, {}, **given)
