"""The de Vaucouleurs profile: a Sersic profile with n = 4 (de Vaucouleurs 1948)."""

from __future__ import annotations

from typing import Any

from bayesprof.models.component import Component, catalogued
from bayesprof.models.galaxy import galaxy
from bayesprof.models.sersic import Sersic


class DeVaucouleurs(Sersic):
    """Light of a de Vaucouleurs profile.

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
    >>> spheroid = models.DeVaucouleurs(30.0, 40.0, 100.0, 5.0, q=0.9)
    """

    def __init__(
        self, x: Any, y: Any, flux: Any, r_eff: Any, *, q: Any = None, theta: Any = None, ellipticity: Any = None
    ) -> None:
        super().__init__(x, y, flux, r_eff, 4.0, q=q, theta=theta, ellipticity=ellipticity)


@catalogued
def de_vaucouleurs(
    *,
    x: Any = None,
    y: Any = None,
    flux: Any = None,
    r_eff: Any = None,
    ellipticity: Any = None,
    q: Any = None,
    theta: Any = None,
) -> Component:
    """A spheroid with a de Vaucouleurs profile, :class:`DeVaucouleurs`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is the
    default of :mod:`bayesprof.models.galaxy`. Giving `q` or `theta` takes the place of `ellipticity`.

    Examples
    --------
    >>> from bayesprof import models
    >>> spheroid = models.de_vaucouleurs(r_eff=6.0)
    """
    given = {"x": x, "y": y, "flux": flux, "r_eff": r_eff, "ellipticity": ellipticity, "q": q, "theta": theta}
    return galaxy("de_vaucouleurs", DeVaucouleurs, {}, **given)
