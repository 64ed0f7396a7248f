"""The PSF of two concentric Moffat profiles: a core, and the wings that one profile seldom has.

P = (1 - wing_fraction) core + wing_fraction wings,    FWHM of the wings = wing_ratio FWHM of the core

(Racine 1996, PASP 108, 699, for the need of the second.) Both have one shape.
"""

from __future__ import annotations

from typing import Any

from bayesprof.image import Image
from bayesprof.light import as_tensors
from bayesprof.measurement import Measurement
from bayesprof.models.component import Component, Default, Parameter, catalogued, scaled_beta
from bayesprof.models.moffat import BETA
from bayesprof.models.moffat_psf import moffat_light
from bayesprof.models.psf import FWHM, elliptical_psf
from bayesprof.psf import ProfilePSF


class DoubleMoffatPSF(ProfilePSF):
    """A PSF of two Moffat profiles.

    Parameters
    ----------
    fwhm : full width at half maximum of the core along the major axis, pixels, > 0.
    beta : exponent of the core, in [1.2, 30]; beyond, the profile stays that of the nearer end.
    wing_fraction : of the light in the wings, in [0, 1].
    wing_ratio : width of the wings over that of the core, > 0.
    wing_beta : exponent of the wings, in the same range.
    q, theta : axis ratio in (0, 1] and angle of the major axis, radians; or
    ellipticity : the vector (e1, e2) of shape (..., 2). Conventions: :mod:`bayesprof.grid`.
    **options : of :class:`bayesprof.psf.PSF`.

    Examples
    --------
    >>> from bayesprof import models
    >>> psf = models.DoubleMoffatPSF(3.0, 4.0, 0.2, 2.5, 2.2, q=0.95, theta=0.3)
    """

    def __init__(
        self,
        fwhm: Any,
        beta: Any,
        wing_fraction: Any,
        wing_ratio: Any,
        wing_beta: Any,
        *,
        q: Any = None,
        theta: Any = None,
        ellipticity: Any = None,
        **options: Any,
    ) -> None:
        fwhm, beta, wing_fraction, wing_ratio, wing_beta = as_tensors(fwhm, beta, wing_fraction, wing_ratio, wing_beta)
        shape = {"q": q, "theta": theta, "ellipticity": ellipticity}
        core = moffat_light(1 - wing_fraction, fwhm, beta, **shape)
        wings = moffat_light(wing_fraction, wing_ratio * fwhm, wing_beta, **shape)
        super().__init__(core + wings, **options)


@catalogued
def double_moffat_psf(
    *,
    fwhm: Any = None,
    beta: Any = None,
    wing_fraction: Any = None,
    wing_ratio: Any = None,
    wing_beta: Any = None,
    ellipticity: Any = None,
    q: Any = None,
    theta: Any = None,
    **options: Any,
) -> Component:
    """A PSF of two Moffat profiles with parameters, :class:`DoubleMoffatPSF`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is the
    default of :mod:`bayesprof.models.psf`; for `beta` and `wing_beta` it is that of :func:`bayesprof.models.moffat`,
    for `wing_fraction` Beta(1, 4), and for `wing_ratio` 1 + 5 Beta(1.5, 3.5), above 1 so that core and wings can't
    swap. Giving `q` or `theta` takes the place of `ellipticity`. `options`: of :class:`bayesprof.psf.PSF`.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> from bayesprof import models
    >>> image = bp.Image(np.zeros((30, 40)), sigma=1.0)
    >>> scene = bp.Scene(image, psf=models.double_moffat_psf(wing_beta=2.0), star=models.point_source())
    """
    given = {
        "fwhm": fwhm, "beta": beta, "wing_fraction": wing_fraction, "wing_ratio": wing_ratio, "wing_beta": wing_beta,
        "ellipticity": ellipticity, "q": q, "theta": theta,
    }  # fmt: skip
    parameters = {
        **FWHM,
        "beta": BETA,
        "wing_fraction": Parameter("", "in [0, 1]", lambda fraction: 0 <= fraction <= 1, _wing_fraction),
        "wing_ratio": Parameter("", "> 0", lambda ratio: 0 < ratio < float("inf"), _wing_ratio),
        "wing_beta": BETA,
    }
    return elliptical_psf("double_moffat_psf", DoubleMoffatPSF, parameters, options, **given)


def _wing_fraction(found: Measurement, image: Image) -> Default:
    return scaled_beta(0.0, 1.0, 1.0, 4.0, 0.15, image)


def _wing_ratio(found: Measurement, image: Image) -> Default:
    return scaled_beta(1.0, 6.0, 1.5, 3.5, 2.2, image)
