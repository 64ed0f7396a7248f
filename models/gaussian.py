"""The Gaussian profile.

I(R) = flux / (2 pi q sigma^2) exp(-R^2 / (2 sigma^2)),    F(kappa) = exp(-kappa^2 sigma^2 / 2),
r_eff = sqrt(2 ln 2) sigma = FWHM / 2
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bayesprof.models.component import Component, catalogued
from bayesprof.models.galaxy import galaxy
from bayesprof.models.half_light import HalfLightProfile


class Gaussian(HalfLightProfile):
    """Light of a Gaussian profile.

    Parameters
    ----------
    x, y : centre, pixels.
    flux : total light, image units.
    r_eff : half-light radius along the major axis, pixels, > 0; half of the full width at half maximum.
    q, theta : axis ratio in (0, 1] and angle of the major axis, radians; or
    ellipticity : the vector (e1, e2) of shape (..., 2). Conventions: :mod:`bayesprof.grid`.

    Examples
    --------
    >>> from bayesprof import models
    >>> blob = models.Gaussian(30.0, 40.0, 100.0, 5.0, q=0.4, theta=1.0)
    """

    def transform(self, wavenumber_squared: Tensor) -> Tensor:
        return torch.exp(wavenumber_squared * (-0.25 / math.log(2)))

    def brightness(self, radius_squared: Tensor) -> Tensor:
        return math.log(2) / math.pi * torch.exp(-math.log(2) * radius_squared)


@catalogued
def gaussian(
    *,
    x: Any = None,
    y: Any = None,
    flux: Any = None,
    r_eff: Any = None,
    ellipticity: Any = None,
    q: Any = None,
    theta: Any = None,
) -> Component:
    """A source with a Gaussian profile, :class:`Gaussian`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is the
    default of :mod:`bayesprof.models.galaxy`. Giving `q` or `theta` takes the place of `ellipticity`.

    Examples
    --------
    >>> from bayesprof import models
    >>> blob = models.gaussian(q=0.5)
    """
    given = {"x": x, "y": y, "flux": flux, "r_eff": r_eff, "ellipticity": ellipticity, "q": q, "theta": theta}
    return galaxy("gaussian", Gaussian, {}, **given)
