"""Profiles that have a half-light radius and nothing else to give them shape."""

from __future__ import annotations

from typing import Any

from bayesprof.light import Profile


class HalfLightProfile(Profile):
    """An elliptical profile in units of its half-light radius `r_eff` (pixels, > 0, along the major axis); the other
    parameters are those of :class:`bayesprof.light.Profile`.
    """

    stackable = True
    smooth = True

    def __init__(
        self, x: Any, y: Any, flux: Any, r_eff: Any, *, q: Any = None, theta: Any = None, ellipticity: Any = None
    ) -> None:
        super().__init__(x, y, flux, r_eff, q=q, theta=theta, ellipticity=ellipticity)
