"""The broken exponential: a disk whose scale length changes at a radius.

    I(R) ~ exp(-R / h_inner) (1 + exp(alpha (R - r_break)))^((1 / alpha) (1 / h_inner - 1 / h_outer))

(Erwin et al. 2008, AJ 135, 20, equations 5 and 6.)
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.nn.functional import softplus

from bayesprof.hankel import map_with_a_break
from bayesprof.image import Image
from bayesprof.light import as_tensors
from bayesprof.measurement import Measurement
from bayesprof.models.component import Component, Default, Parameter, catalogued, log_normal
from bayesprof.models.galaxy import FLUX, elliptical, size
from bayesprof.radial import RadialProfile


class BrokenExponential(RadialProfile):
    """Light of a broken exponential disk.

    Parameters
    ----------
    x, y : centre, pixels.
    flux : total light, image units.
    h_inner, h_outer : scale lengths inside and outside of the break, along the major axis, pixels, > 0.
    r_break : radius of the break along the major axis, pixels, > 0.
    alpha : sharpness of the break, inverse pixels, > 0: it is about 2 / alpha wide on either side.
    q, theta : axis ratio in (0, 1] and angle of the major axis, radians; or
    ellipticity : the vector (e1, e2) of shape (..., 2). Conventions: :mod:`bayesprof.grid`.

    Examples
    --------
    >>> from bayesprof import models
    >>> disk = models.BrokenExponential(30.0, 40.0, 100.0, 8.0, 3.0, 15.0, 1.0, q=0.4, theta=0.3)
    """

    hankel = staticmethod(map_with_a_break)

    def __init__(
        self,
        x: Any,
        y: Any,
        flux: Any,
        h_inner: Any,
        h_outer: Any,
        r_break: Any,
        alpha: Any,
        *,
        q: Any = None,
        theta: Any = None,
        ellipticity: Any = None,
    ) -> None:
        x, y, flux, h_inner, h_outer, r_break, alpha = as_tensors(x, y, flux, h_inner, h_outer, r_break, alpha)
        super().__init__(x, y, flux, r_break, q=q, theta=theta, ellipticity=ellipticity)
        self.inner, self.outer, self.sharpness = r_break / h_inner, r_break / h_outer, alpha * r_break

    @property
    def shape(self) -> tuple[Tensor, ...]:
        return self.inner, self.outer, self.sharpness

    @staticmethod
    def formula(  # type: ignore[override]
        radius: Tensor, inner: Tensor, outer: Tensor, sharpness: Tensor
    ) -> Tensor:
        beyond = softplus(sharpness * (radius - 1), threshold=40.0) / sharpness
        return (inner - outer) * beyond - inner * radius


@catalogued
def broken_exponential(
    *,
    x: Any = None,
    y: Any = None,
    flux: Any = None,
    h_inner: Any = None,
    h_outer: Any = None,
    r_break: Any = None,
    alpha: Any = None,
    ellipticity: Any = None,
    q: Any = None,
    theta: Any = None,
) -> Component:
    """A disk with a broken exponential profile, :class:`BrokenExponential`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is the
    default of :mod:`bayesprof.models.galaxy`, and for those of its own

    - `h_inner`: LogNormal(ln 0.7 measured half-light radii, 1),
    - `h_outer`: LogNormal(ln 0.4 measured half-light radii, 1),
    - `r_break`: LogNormal(ln 1.5 measured half-light radii, 1),
    - `alpha`: LogNormal(ln(5 / measured half-light radius), 1).

    Giving `q` or `theta` takes the place of `ellipticity`.

    Examples
    --------
    >>> from bayesprof import models
    >>> disk = models.broken_exponential(alpha=2.0)
    """
    given = {
        "x": x, "y": y, "flux": flux, "h_inner": h_inner, "h_outer": h_outer, "r_break": r_break, "alpha": alpha,
        "ellipticity": ellipticity, "q": q, "theta": theta,
    }  # fmt: skip
    return elliptical("broken_exponential", BrokenExponential, {**FLUX, **_OWN}, **given)


def _sharpness(found: Measurement, image: Image) -> Default:
    return log_normal(5 / found.r_eff, 1.0, image, "a break about as wide as the measured half-light radius")


_OWN = {
    "h_inner": size(0.7, "0.7 measured half-light radii"),
    "h_outer": size(0.4, "0.4 measured half-light radii"),
    "r_break": size(1.5, "1.5 measured half-light radii"),
    "alpha": Parameter("1 / pixel", "> 0", lambda alpha: 0 < alpha < math.inf, _sharpness),
}
