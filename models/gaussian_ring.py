"""A ring whose brightness is a Gaussian in radius.

I(R) ~ exp(-(R - r_ring)^2 / (2 width^2))
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from bayesprof.hankel import map_with_a_ring
from bayesprof.light import as_tensors
from bayesprof.models.component import Component, catalogued
from bayesprof.models.galaxy import FLUX, elliptical, size
from bayesprof.radial import RadialProfile

WIDTH_RANGE = (0.005, 2.0)
"""Widths over ring radii that are taken; outside, the profile is that of the nearer end."""


class GaussianRing(RadialProfile):
    """Light of a ring, elliptical like any other profile: as wide along the major axis as it says, thinner by `q` along
    the minor one.

    Parameters
    ----------
    x, y : centre, pixels.
    flux : total light, image units.
    r_ring : radius of the ring along the major axis, pixels, > 0.
    width : standard deviation in radius, along the major axis, pixels, > 0; from 0.005 to 2 ring radii, and beyond
        that of the nearer end.
    q, theta : axis ratio in (0, 1] and angle of the major axis, radians; or
    ellipticity : the vector (e1, e2) of shape (..., 2). Conventions: :mod:`bayesprof.grid`.

    Without a PSF the integral over a pixel has 3x3 points. Along the minor axis the ring is `q` times its width, and
    the image is good to 3e-5 (relative L2) where that is 0.6 pixels, 2e-4 where it is 0.4 and 2e-3 where it is 0.3;
    thinner ones need finer pixels, or a PSF.

    Examples
    --------
    >>> from bayesprof import models
    >>> ring = models.GaussianRing(30.0, 40.0, 100.0, 12.0, 1.5, q=0.6, theta=0.3)
    """

    hankel = staticmethod(map_with_a_ring)
    nodes_per_pixel: ClassVar[int] = 3

    def __init__(
        self,
        x: Any,
        y: Any,
        flux: Any,
        r_ring: Any,
        width: Any,
        *,
        q: Any = None,
        theta: Any = None,
        ellipticity: Any = None,
    ) -> None:
        x, y, flux, r_ring, width = as_tensors(x, y, flux, r_ring, width)
        super().__init__(x, y, flux, r_ring, q=q, theta=theta, ellipticity=ellipticity)
        self.relative_width = (width / r_ring).clamp(*WIDTH_RANGE)

    @property
    def shape(self) -> tuple[Tensor, ...]:
        return (self.relative_width,)

    @staticmethod
    def formula(radius: Tensor, width: Tensor) -> Tensor:  # type: ignore[override]
        return -0.5 * ((radius - 1) / width) ** 2


@catalogued
def gaussian_ring(
    *,
    x: Any = None,
    y: Any = None,
    flux: Any = None,
    r_ring: Any = None,
    width: Any = None,
    ellipticity: Any = None,
    q: Any = None,
    theta: Any = None,
) -> Component:
    """A ring, :class:`GaussianRing`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is the
    default of :mod:`bayesprof.models.galaxy`, and LogNormal(ln measured half-light radius, 1) for `r_ring`,
    LogNormal(ln a fifth of it, 1) for `width`. Giving `q` or `theta` takes the place of `ellipticity`.

    Examples
    --------
    >>> from bayesprof import models
    >>> ring = models.gaussian_ring(q=0.5)
    """
    given = {
        "x": x, "y": y, "flux": flux, "r_ring": r_ring, "width": width,
        "ellipticity": ellipticity, "q": q, "theta": theta,
    }  # fmt: skip
    return elliptical("gaussian_ring", GaussianRing, {**FLUX, **_OWN}, **given)


_OWN = {
    "r_ring": size(1.0, "measured half-light radius"),
    "width": size(0.2, "a fifth of the measured half-light radius"),
}
