"""A bar: a Sersic profile of low index with boxy contours and an end.

Bars are flat along their major axis and fall off steeply where they end, with contours nearer to rectangles than to
ellipses (Athanassoula et al. 1990, MNRAS 245, 130; Gadotti 2008, MNRAS 384, 420, fits generalised ellipses with Sersic
profiles of low n). The truncation acts along the boxy contours.

========================  ===========================================================================================
n                         LogNormal(ln 0.7, 0.3)
boxiness                  0 + 2 Beta(2, 3): boxy, never disky; mean 0.8, standard deviation 0.4
r_out                     LogNormal(ln(2 measured half-light radii), 0.5)
width_out                 LogNormal(ln(0.3 measured half-light radius), 0.5)
========================  ===========================================================================================

The others as in :mod:`bayesprof.models.galaxy`.
"""

from __future__ import annotations

from typing import Any

from bayesprof.models.boxiness import RANGE, Boxiness
from bayesprof.models.component import Component, catalogued
from bayesprof.models.galaxy import affine_beta, exponent, galaxy, size
from bayesprof.models.sersic import N_RANGE, Sersic
from bayesprof.models.shaped import Shaped
from bayesprof.models.truncation import OuterTruncation


@catalogued
def bar(
    *,
    x: Any = None,
    y: Any = None,
    flux: Any = None,
    r_eff: Any = None,
    n: Any = None,
    boxiness: Any = None,
    r_out: Any = None,
    width_out: Any = None,
    ellipticity: Any = None,
    q: Any = None,
    theta: Any = None,
) -> Component:
    """A bar, :class:`Shaped <bayesprof.models.shaped.Shaped>`: a :class:`Sersic <bayesprof.models.sersic.Sersic>`
    profile with :class:`Boxiness <bayesprof.models.boxiness.Boxiness>` and :class:`OuterTruncation
    <bayesprof.models.truncation.OuterTruncation>`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is the
    default of :mod:`bayesprof.models.bar`. Giving `q` or `theta` takes the place of `ellipticity`. `flux` is that of
    the bar as it is; `r_eff` and `n` are those of the profile before it is cut off. Of a profile that has ended within
    `r_out` the image says little about the truncation, and its posterior is its prior.

    The default priors are measured on the whole of an image's object. In a galaxy with a disk, tie the bar to it: by
    priors of `r_eff` and `r_out`, or as :func:`bulge_disk_bar <bayesprof.models.bulge_disk_bar.bulge_disk_bar>` does.

    Through a PSF of FWHM 3 pixels the image of a bar with a half-light radius of 5 pixels, an end 1.5 pixels wide and
    an axis ratio of 0.35 is exact to 1e-5; with one of 0.2, to 2e-4.

    Examples
    --------
    >>> from bayesprof import models
    >>> import pyro.distributions as dist
    >>> bar = models.bar(r_eff=dist.LogNormal(1.5, 0.3), n=0.5)
    """
    given = {
        "x": x, "y": y, "flux": flux, "r_eff": r_eff, "n": n, "boxiness": boxiness, "r_out": r_out,
        "width_out": width_out, "ellipticity": ellipticity, "q": q, "theta": theta,
    }  # fmt: skip
    return galaxy("bar", _light, _OWN, **given)


def _light(*, boxiness: Any, r_out: Any, width_out: Any, **profile: Any) -> Shaped:
    return Shaped(Sersic(**profile), [Boxiness(boxiness), OuterTruncation(r_out, width_out)])


_OWN = {
    "n": exponent(*N_RANGE, 0.7, 0.3),
    "boxiness": affine_beta(0.0, 2.0, 2.0, 3.0, 0.6)._replace(
        allowed=f"in [{RANGE[0]:g}, {RANGE[1]:g}]", within=lambda value: RANGE[0] <= value <= RANGE[1]
    ),
    "r_out": size(2.0, "2 measured half-light radii", 0.5),
    "width_out": size(0.3, "0.3 measured half-light radius", 0.5),
}
