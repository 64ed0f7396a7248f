"""The Moffat PSF.

The Moffat profile (:mod:`bayesprof.models.moffat`) by its full width at half maximum:

FWHM = 2 alpha sqrt(2^(1/beta) - 1),    r_eff = alpha sqrt(2^(1 / (beta - 1)) - 1)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bayesprof.light import as_tensors
from bayesprof.models.component import Component, catalogued
from bayesprof.models.moffat import BETA, BETA_RANGE, Moffat
from bayesprof.models.psf import FWHM, elliptical_psf
from bayesprof.psf import ProfilePSF


class MoffatPSF(ProfilePSF):
    """A Moffat PSF.

    Parameters
    ----------
    fwhm : full width at half maximum along the major axis, pixels, > 0.
    beta : exponent in [1.2, 30]; beyond, the profile stays that of the nearer end.
    q, theta : axis ratio in (0, 1] and angle of the major axis, radians; or
    ellipticity : the vector (e1, e2) of shape (..., 2). Conventions: :mod:`bayesprof.grid`.
    **options : of :class:`bayesprof.psf.PSF`.

    Examples
    --------
    >>> from bayesprof import models
    >>> psf = models.MoffatPSF(3.2, 2.5, ellipticity=[0.03, -0.01])
    """

    def __init__(
        self, fwhm: Any, beta: Any, *, q: Any = None, theta: Any = None, ellipticity: Any = None, **options: Any
    ) -> None:
        super().__init__(moffat_light(1.0, fwhm, beta, q=q, theta=theta, ellipticity=ellipticity), **options)


def moffat_light(flux: Any, fwhm: Any, beta: Any, **shape: Any) -> Moffat:
    """A Moffat profile about the origin by its full width at half maximum."""
    flux, fwhm, beta = as_tensors(flux, fwhm, beta)
    return Moffat(0.0, 0.0, flux, fwhm * half_light_in_fwhm(beta), beta, **shape)


def half_light_in_fwhm(beta: Tensor) -> Tensor:
    """Half-light radius of a Moffat profile of full width 1 at half maximum, `beta` held to its range.

    >>> round(half_light_in_fwhm(torch.tensor(3.0)).item(), 4)
    0.6312
    """
    held = beta.clamp(*BETA_RANGE)
    return 0.5 * torch.sqrt(torch.expm1(math.log(2) / (held - 1)) / torch.expm1(math.log(2) / held))


@catalogued
def moffat_psf(
    *, fwhm: Any = None, beta: Any = None, ellipticity: Any = None, q: Any = None, theta: Any = None, **options: Any
) -> Component:
    """A Moffat PSF with parameters, :class:`MoffatPSF`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is the
    default of :mod:`bayesprof.models.psf`, and for `beta` it is that of :func:`bayesprof.models.moffat`. Giving `q` or
    `theta` takes the place of `ellipticity`. `options`: of :class:`bayesprof.psf.PSF`.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp, pyro.distributions as dist
    >>> from bayesprof import models
    >>> image = bp.Image(np.zeros((30, 40)), sigma=1.0)
    >>> scene = bp.Scene(image, psf=models.moffat_psf(fwhm=dist.LogNormal(1.1, 0.1)), star=models.point_source())
    """
    given = {"fwhm": fwhm, "beta": beta, "ellipticity": ellipticity, "q": q, "theta": theta}
    return elliptical_psf("moffat_psf", MoffatPSF, {**FWHM, "beta": BETA}, options, **given)
