"""The Gaussian PSF.

P(k) = exp(-kappa^2 FWHM^2 / (16 ln 2)),    kappa^2 = k^T S k with S the matrix of its ellipse (:mod:`bayesprof.grid`)
"""

from __future__ import annotations

from typing import Any

from bayesprof.light import as_tensors
from bayesprof.models.component import Component, catalogued
from bayesprof.models.gaussian import Gaussian
from bayesprof.models.psf import FWHM, elliptical_psf
from bayesprof.psf import ProfilePSF


class GaussianPSF(ProfilePSF):
    """A Gaussian PSF.

    Parameters
    ----------
    fwhm : full width at half maximum along the major axis, pixels, > 0.
    q, theta : axis ratio in (0, 1] and angle of the major axis, radians; or
    ellipticity : the vector (e1, e2) of shape (..., 2). Conventions: :mod:`bayesprof.grid`.
    **options : of :class:`bayesprof.psf.PSF`.

    Examples
    --------
    >>> from bayesprof import models
    >>> psf = models.GaussianPSF(3.2, q=0.95, theta=0.3)
    """

    def __init__(self, fwhm: Any, *, q: Any = None, theta: Any = None, ellipticity: Any = None, **options: Any) -> None:
        (fwhm,) = as_tensors(fwhm)
        light = Gaussian(0.0, 0.0, 1.0, 0.5 * fwhm, q=q, theta=theta, ellipticity=ellipticity)
        super().__init__(light, **options)


@catalogued
def gaussian_psf(
    *, fwhm: Any = None, ellipticity: Any = None, q: Any = None, theta: Any = None, **options: Any
) -> Component:
    """A Gaussian PSF with parameters, :class:`GaussianPSF`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is the
    default of :mod:`bayesprof.models.psf`. Giving `q` or `theta` takes the place of `ellipticity`. `options`: of
    :class:`bayesprof.psf.PSF`.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> from bayesprof import models
    >>> image = bp.Image(np.zeros((30, 40)), sigma=1.0)
    >>> scene = bp.Scene(image, psf=models.gaussian_psf(q=1.0, theta=0.0), star=models.point_source())
    """
    given = {"fwhm": fwhm, "ellipticity": ellipticity, "q": q, "theta": theta}
    return elliptical_psf("gaussian_psf", GaussianPSF, FWHM, options, **given)
