"""A bulge and a disk about one centre: a Sersic profile and an exponential one.

The parameters are those that an image tells apart best and that can't change places: the total flux, the part of it in
the bulge, the size of the disk, and that of the bulge as a fraction of it. A bulge as large as the disk is the
end of the range, so that bulge and disk never swap names in the middle of a chain.

Default priors, beside those of :mod:`bayesprof.models.galaxy`:

==================  =============================================================================================
bulge_to_total      Beta(1, 2): mean 1/3
disk_r_eff          LogNormal(ln measured half-light radius, 0.7)
bulge_to_disk_size  Beta(1.5, 4.5): mean 0.25. Spirals have about 0.13 (their bulges' r_eff is 0.22 +- 0.09 scale
                    lengths: MacArthur, Courteau & Holtzman 2003, ApJ 582, 689), lenticulars more
bulge_n             0.5 + 7.5 Beta(2, 3): mean 3.5
bulge_ellipticity   isotropic as that of a galaxy, with 0.15 in the place of 0.4: median axis ratio 0.70
disk_ellipticity    that of a galaxy: median axis ratio 0.40
==================  =============================================================================================
"""

from __future__ import annotations

from typing import Any

from bayesprof.image import Image
from bayesprof.light import Light
from bayesprof.measurement import Measurement
from bayesprof.models.component import (
    Component,
    Default,
    Derived,
    Parameter,
    catalogued,
    component,
    log_normal,
    scaled_beta,
)
from bayesprof.models.exponential import Exponential
from bayesprof.models.galaxy import FLUX, POSITION, R_EFF, fraction, shape, size_ratio
from bayesprof.models.sersic import N_RANGE, Sersic

BULGE_SHAPE_SCALE = 0.15


class BulgeDisk(Light):
    """Light of a Sersic bulge and an exponential disk.

    Parameters
    ----------
    x, y : centre of both, pixels.
    flux : total light of both, image units.
    bulge_to_total : light of the bulge over that of both, in [0, 1].
    disk_r_eff : half-light radius of the disk along its major axis, pixels, > 0.
    bulge_to_disk_size : half-light radius of the bulge over that of the disk, in (0, 1].
    bulge_n : Sersic index of the bulge in [0.25, 10]; 4 is de Vaucouleurs's.
    bulge_q, bulge_theta, disk_q, disk_theta : axis ratios in (0, 1] and angles of the major axes, radians; or
    bulge_ellipticity, disk_ellipticity : vectors (e1, e2) of shape (..., 2). Conventions: :mod:`bayesprof.grid`.

    Examples
    --------
    >>> from bayesprof import models
    >>> galaxy = models.BulgeDisk(30.0, 40.0, 100.0, 0.3, 8.0, 0.2, 4.0, disk_q=0.5, disk_theta=0.3)
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        flux: Any,
        bulge_to_total: Any,
        disk_r_eff: Any,
        bulge_to_disk_size: Any,
        bulge_n: Any,
        *,
        bulge_q: Any = None,
        bulge_theta: Any = None,
        bulge_ellipticity: Any = None,
        disk_q: Any = None,
        disk_theta: Any = None,
        disk_ellipticity: Any = None,
    ) -> None:
        bulge = Sersic(
            x,
            y,
            flux * bulge_to_total,
            disk_r_eff * bulge_to_disk_size,
            bulge_n,
            q=bulge_q,
            theta=bulge_theta,
            ellipticity=bulge_ellipticity,
        )
        disk = Exponential(
            x, y, flux * (1 - bulge_to_total), disk_r_eff, q=disk_q, theta=disk_theta, ellipticity=disk_ellipticity
        )
        super().__init__((bulge, disk))


@catalogued
def bulge_disk(
    *,
    x: Any = None,
    y: Any = None,
    flux: Any = None,
    bulge_to_total: Any = None,
    disk_r_eff: Any = None,
    bulge_to_disk_size: Any = None,
    bulge_n: Any = None,
    bulge_ellipticity: Any = None,
    bulge_q: Any = None,
    bulge_theta: Any = None,
    disk_ellipticity: Any = None,
    disk_q: Any = None,
    disk_theta: Any = None,
) -> Component:
    """A galaxy of a bulge and a disk, :class:`BulgeDisk`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is the
    default of :mod:`bayesprof.models.bulge_disk`. Giving ``bulge_q`` or ``bulge_theta`` takes the place of
    ``bulge_ellipticity``, and so for the disk. ``bulge_n=4.0`` holds the bulge at a de Vaucouleurs profile.

    Recorded beside the parameters: ``bulge_flux``, ``disk_flux``, ``bulge_r_eff``, and q and theta of both parts.

    Examples
    --------
    >>> from bayesprof import models
    >>> import pyro.distributions as dist
    >>> galaxy = models.bulge_disk(bulge_n=4.0, bulge_to_total=dist.Beta(2.0, 2.0))
    """
    given = {
        "x": x, "y": y, "flux": flux, "bulge_to_total": bulge_to_total, "disk_r_eff": disk_r_eff,
        "bulge_to_disk_size": bulge_to_disk_size, "bulge_n": bulge_n,
        "bulge_ellipticity": bulge_ellipticity, "bulge_q": bulge_q, "bulge_theta": bulge_theta,
        "disk_ellipticity": disk_ellipticity, "disk_q": disk_q, "disk_theta": disk_theta,
    }  # fmt: skip
    kept = {name: value for name, value in given.items() if value is not None}
    bulge, of_bulge = shape("bulge_disk", kept, "bulge_", BULGE_SHAPE_SCALE)
    disk, of_disk = shape("bulge_disk", kept, "disk_")
    parameters = {
        **POSITION,
        **FLUX,
        "bulge_to_total": fraction(1, 2, "the bulge's part of the light"),
        "disk_r_eff": DISK_R_EFF,
        "bulge_to_disk_size": size_ratio(1.5, 4.5, "bulge", "disk"),
        "bulge_n": BULGE_N,
        **bulge,
        **disk,
    }
    return component("bulge_disk", BulgeDisk, parameters, {**_DERIVED, **of_bulge, **of_disk}, **kept)


def _disk_r_eff(found: Measurement, image: Image) -> Default:
    return log_normal(found.r_eff, 0.7, image, "measured half-light radius", measured=True)


def _bulge_n(found: Measurement, image: Image) -> Default:
    return scaled_beta(0.5, 8.0, 2, 3, 2.5, image)


DISK_R_EFF = R_EFF._replace(default=_disk_r_eff)
BULGE_N = Parameter("", f"in [{N_RANGE[0]}, {N_RANGE[1]}]", lambda n: N_RANGE[0] <= n <= N_RANGE[1], _bulge_n)
_DERIVED = {
    "bulge_flux": Derived("{flux}", "flux bulge_to_total", lambda v: v["flux"] * v["bulge_to_total"]),
    "disk_flux": Derived("{flux}", "flux (1 - bulge_to_total)", lambda v: v["flux"] * (1 - v["bulge_to_total"])),
    "bulge_r_eff": Derived(
        "pixel", "disk_r_eff bulge_to_disk_size", lambda v: v["disk_r_eff"] * v["bulge_to_disk_size"]
    ),
}
