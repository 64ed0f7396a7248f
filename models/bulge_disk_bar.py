"""A bulge, a disk and a bar about one centre: a Sersic profile, an exponential one, and a flat Sersic profile for the
bar.

Fractions are nested, so that the parts always add up to the total flux: the bulge's of all, then the bar's of what
the bulge leaves. Sizes are nested as well: the bar's as a fraction of the disk's, the bulge's as a fraction of the
bar's. Ordered like this, the three parts can't change places.

Default priors, beside those of :mod:`bayesprof.models.galaxy` and :mod:`bayesprof.models.bulge_disk`:

==================  ===========================================================================================
bulge_to_total      Beta(1, 3): mean 1/4
bar_to_bar_disk     Beta(1.5, 6): mean 0.2
bar_to_disk_size    Beta(4, 6): mean 0.4
bulge_to_bar_size   Beta(2, 4): mean 1/3
bar_n               0.3 + 1.2 Beta(2, 3): mean 0.78. Bars are flatter than disks (Gadotti 2008, MNRAS 384, 420)
bar_ellipticity     isotropic as that of a galaxy, with 0.6 in the place of 0.4: median axis ratio 0.27
==================  ===========================================================================================
"""

from __future__ import annotations

from typing import Any

from bayesprof.image import Image
from bayesprof.light import Light
from bayesprof.measurement import Measurement
from bayesprof.models.bulge_disk import BULGE_N, BULGE_SHAPE_SCALE, DISK_R_EFF
from bayesprof.models.component import Component, Default, Derived, catalogued, component, scaled_beta
from bayesprof.models.exponential import Exponential
from bayesprof.models.galaxy import FLUX, POSITION, fraction, shape, size_ratio
from bayesprof.models.sersic import Sersic

_BAR_SHAPE_SCALE = 0.6


class BulgeDiskBar(Light):
    """Light of a Sersic bulge, an exponential disk and a bar with a Sersic profile.

    Parameters
    ----------
    x, y : centre of all, pixels.
    flux : total light, image units.
    bulge_to_total : light of the bulge over all, in [0, 1].
    bar_to_bar_disk : light of the bar over that of bar and disk, in [0, 1].
    disk_r_eff : half-light radius of the disk along its major axis, pixels, > 0.
    bar_to_disk_size : half-light radius of the bar over that of the disk, in (0, 1].
    bulge_to_bar_size : half-light radius of the bulge over that of the bar, in (0, 1].
    bulge_n, bar_n : Sersic indices in [0.25, 10]; 0.5 to 1 for a bar.
    bulge_q, bulge_theta, disk_q, disk_theta, bar_q, bar_theta : axis ratios in (0, 1] and angles of the major axes,
        radians; or
    bulge_ellipticity, disk_ellipticity, bar_ellipticity : vectors (e1, e2) of shape (..., 2). Conventions:
        :mod:`bayesprof.grid`.

    Examples
    --------
    >>> from bayesprof import models
    >>> galaxy = models.BulgeDiskBar(30.0, 40.0, 100.0, 0.2, 0.3, 9.0, 0.4, 0.3, 3.0, 0.6, bar_q=0.3, bar_theta=1.2)
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        flux: Any,
        bulge_to_total: Any,
        bar_to_bar_disk: Any,
        disk_r_eff: Any,
        bar_to_disk_size: Any,
        bulge_to_bar_size: Any,
        bulge_n: Any,
        bar_n: Any,
        *,
        bulge_q: Any = None,
        bulge_theta: Any = None,
        bulge_ellipticity: Any = None,
        disk_q: Any = None,
        disk_theta: Any = None,
        disk_ellipticity: Any = None,
        bar_q: Any = None,
        bar_theta: Any = None,
        bar_ellipticity: Any = None,
    ) -> None:
        rest, bar_r_eff = flux * (1 - bulge_to_total), disk_r_eff * bar_to_disk_size
        bulge = Sersic(
            x,
            y,
            flux * bulge_to_total,
            bar_r_eff * bulge_to_bar_size,
            bulge_n,
            q=bulge_q,
            theta=bulge_theta,
            ellipticity=bulge_ellipticity,
        )
        bar = Sersic(
            x, y, rest * bar_to_bar_disk, bar_r_eff, bar_n, q=bar_q, theta=bar_theta, ellipticity=bar_ellipticity
        )
        disk = Exponential(
            x, y, rest * (1 - bar_to_bar_disk), disk_r_eff, q=disk_q, theta=disk_theta, ellipticity=disk_ellipticity
        )
        super().__init__((bulge, bar, disk))


@catalogued
def bulge_disk_bar(
    *,
    x: Any = None,
    y: Any = None,
    flux: Any = None,
    bulge_to_total: Any = None,
    bar_to_bar_disk: Any = None,
    disk_r_eff: Any = None,
    bar_to_disk_size: Any = None,
    bulge_to_bar_size: Any = None,
    bulge_n: Any = None,
    bar_n: Any = None,
    bulge_ellipticity: Any = None,
    bulge_q: Any = None,
    bulge_theta: Any = None,
    disk_ellipticity: Any = None,
    disk_q: Any = None,
    disk_theta: Any = None,
    bar_ellipticity: Any = None,
    bar_q: Any = None,
    bar_theta: Any = None,
) -> Component:
    """A barred galaxy, :class:`BulgeDiskBar`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is the
    default of :mod:`bayesprof.models.bulge_disk_bar`. Giving ``bar_q`` or ``bar_theta`` takes the place of
    ``bar_ellipticity``, and so for bulge and disk.

    Recorded beside the parameters: flux and half-light radius of every part (``bulge_flux``, ``bar_r_eff``),
    ``bar_to_total``, and q and theta of all three.

    Examples
    --------
    >>> from bayesprof import models
    >>> galaxy = models.bulge_disk_bar(bulge_n=4.0, bar_n=0.5)
    """
    given = {
        "x": x, "y": y, "flux": flux, "bulge_to_total": bulge_to_total, "bar_to_bar_disk": bar_to_bar_disk,
        "disk_r_eff": disk_r_eff, "bar_to_disk_size": bar_to_disk_size, "bulge_to_bar_size": bulge_to_bar_size,
        "bulge_n": bulge_n, "bar_n": bar_n,
        "bulge_ellipticity": bulge_ellipticity, "bulge_q": bulge_q, "bulge_theta": bulge_theta,
        "disk_ellipticity": disk_ellipticity, "disk_q": disk_q, "disk_theta": disk_theta,
        "bar_ellipticity": bar_ellipticity, "bar_q": bar_q, "bar_theta": bar_theta,
    }  # fmt: skip
    kept = {name: value for name, value in given.items() if value is not None}
    bulge, of_bulge = shape("bulge_disk_bar", kept, "bulge_", BULGE_SHAPE_SCALE)
    disk, of_disk = shape("bulge_disk_bar", kept, "disk_")
    bar, of_bar = shape("bulge_disk_bar", kept, "bar_", _BAR_SHAPE_SCALE)
    parameters = {
        **POSITION,
        **FLUX,
        "bulge_to_total": fraction(1, 3, "the bulge's part of the light"),
        "bar_to_bar_disk": fraction(1.5, 6, "the bar's part of the light that isn't the bulge's"),
        "disk_r_eff": DISK_R_EFF,
        "bar_to_disk_size": size_ratio(4, 6, "bar", "disk"),
        "bulge_to_bar_size": size_ratio(2, 4, "bulge", "bar"),
        "bulge_n": BULGE_N,
        "bar_n": BULGE_N._replace(default=_bar_n),
        **bulge,
        **disk,
        **bar,
    }
    return component("bulge_disk_bar", BulgeDiskBar, parameters, {**_DERIVED, **of_bulge, **of_disk, **of_bar}, **kept)


def _bar_n(found: Measurement, image: Image) -> Default:
    return scaled_beta(0.3, 1.5, 2, 3, 0.7, image)


_DERIVED = {
    "bulge_flux": Derived("{flux}", "flux bulge_to_total", lambda v: v["flux"] * v["bulge_to_total"]),
    "bar_flux": Derived(
        "{flux}",
        "flux (1 - bulge_to_total) bar_to_bar_disk",
        lambda v: v["flux"] * (1 - v["bulge_to_total"]) * v["bar_to_bar_disk"],
    ),
    "disk_flux": Derived(
        "{flux}",
        "flux (1 - bulge_to_total) (1 - bar_to_bar_disk)",
        lambda v: v["flux"] * (1 - v["bulge_to_total"]) * (1 - v["bar_to_bar_disk"]),
    ),
    "bar_to_total": Derived(
        "", "(1 - bulge_to_total) bar_to_bar_disk", lambda v: (1 - v["bulge_to_total"]) * v["bar_to_bar_disk"]
    ),
    "bar_r_eff": Derived("pixel", "disk_r_eff bar_to_disk_size", lambda v: v["disk_r_eff"] * v["bar_to_disk_size"]),
    "bulge_r_eff": Derived(
        "pixel",
        "disk_r_eff bar_to_disk_size bulge_to_bar_size",
        lambda v: v["disk_r_eff"] * v["bar_to_disk_size"] * v["bulge_to_bar_size"],
    ),
}
