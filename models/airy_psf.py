"""The PSF of a circular telescope limited by diffraction, with a central obscuration.

Its transform is the overlap of the aperture with itself, moved by d = k (lambda/D) / pi in units of its radius:

P(k) = (L(1, 1, d) - 2 L(1, o, d) + L(o, o, d)) / (pi (1 - o^2)),

with o the ratio of the obscuration's diameter to that of the aperture and L the area that two discs at distance d
share (O'Neill 1956, JOSA 46, 285). It ends at d = 2, k = 2 pi / (lambda/D).

There and at d = 1 - o, 1 + o and 2 o, where two edges touch, an area begins as a power of 3/2: the first derivatives of
P are continuous, the second ones infinite. With round numbers (lambda/D = 2 or 2.1 and o = 1/4) a wavenumber of the
image's transform is such a one. Differences then approach the derivatives as the root of their step only: with one of
1e-5, that in o is off by 3e-5 of itself.

The rings fall as r^-3; on average, from the slope of P at 0, as (lambda/D) / (pi^3 (1 - o) r^3).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprof.grid import per_pixel
from bayesprof.image import Image
from bayesprof.light import as_tensors
from bayesprof.measurement import Measurement
from bayesprof.models.component import Component, Default, Parameter, catalogued, component, log_normal, number
from bayesprof.models.psf import check_options
from bayesprof.psf import PSF
from bayesprof.seeing import seeing

FWHM_IN_LAMBDA_OVER_D = 1.029
"""Full width at half maximum of the Airy disc without an obscuration, over lambda/D."""
REACH = 48
"""Pixels beyond which the rings are averaged over."""
_SMALLEST = 1e-4  # obscuration that counts as none: its area is 1e-8


class AiryPSF(PSF):
    """An Airy PSF.

    Parameters
    ----------
    lambda_over_d : wavelength over the diameter of the aperture, pixels, > 0. With 1 and above, `oversampling` 2 holds
        the whole transform.
    obscuration : diameter of the central obscuration over that of the aperture, in [0, 1).
    **options : of :class:`bayesprof.psf.PSF`, with a `reach` of 48 pixels: the rings beyond it are averaged over.

    Examples
    --------
    >>> from bayesprof import models
    >>> psf = models.AiryPSF(1.9, 0.33)
    """

    def __init__(self, lambda_over_d: Any, obscuration: Any = 0.0, **options: Any) -> None:
        super().__init__(**{"reach": REACH, **options})
        self.lambda_over_d, self.obscuration = as_tensors(lambda_over_d, obscuration)

    def transform_at(self, kx: Tensor, ky: Tensor) -> Tensor:
        distance = torch.sqrt(kx**2 + ky**2) * per_pixel(self.lambda_over_d / math.pi)
        inner = per_pixel(self.obscuration.clamp(_SMALLEST, 1 - _SMALLEST))
        area = _overlap(distance) - 2 * _overlap_of_unequal(inner, distance) + inner**2 * _overlap(distance / inner)
        return area / (math.pi * (1 - inner**2))

    def wings_at(self, dx: Tensor, dy: Tensor) -> Tensor:
        amount = self.lambda_over_d / (math.pi**3 * (1 - self.obscuration.clamp(_SMALLEST, 1 - _SMALLEST)))
        return per_pixel(amount) * (dx**2 + dy**2) ** -1.5


def _overlap(distance: Tensor) -> Tensor:
    """Area that two unit discs share."""
    half = (0.5 * distance).clamp(max=1 - _margin(distance))
    return torch.where(distance < 2, 2 * torch.acos(half) - 2 * half * torch.sqrt(1 - half**2), 0.0)


def _overlap_of_unequal(inner: Tensor, distance: Tensor) -> Tensor:
    """Area that a unit disc shares with one of radius `inner` < 1."""
    margin = inner * _margin(distance)
    # between touching from inside and from outside; elsewhere the formula has no derivatives, and isn't used
    d = torch.minimum(torch.maximum(distance, 1 - inner + margin), 1 + inner - margin)
    to_inner, to_unit = (d**2 + inner**2 - 1) / (2 * d * inner), (d**2 + 1 - inner**2) / (2 * d)
    kite = torch.sqrt((1 + inner - d) * (d + inner - 1) * (d - inner + 1) * (d + inner + 1))
    lens = inner**2 * torch.acos(to_inner) + torch.acos(to_unit) - 0.5 * kite
    return torch.where(distance <= 1 - inner, math.pi * inner**2, torch.where(distance < 1 + inner, lens, 0.0))


def _margin(like: Tensor) -> float:
    """How far to stay from where two circles touch, relative to the smaller; there the slopes of the parts of the area
    are infinite, though their sum is 0.
    """
    return 1e-7 if like.dtype == torch.float64 else 1e-5


@catalogued
def airy_psf(*, lambda_over_d: Any = None, obscuration: Any = None, **options: Any) -> Component:
    """An Airy PSF with parameters, :class:`AiryPSF`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then the prior of
    `lambda_over_d` is LogNormal(ln w, 0.3) with w the width of the PSF as in :mod:`bayesprof.models.psf`, over 1.029;
    and that of `obscuration` is Uniform(0, 0.6). `options`: of :class:`bayesprof.psf.PSF`.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> from bayesprof import models
    >>> image = bp.Image(np.zeros((30, 40)), sigma=1.0)
    >>> scene = bp.Scene(image, psf=models.airy_psf(obscuration=0.33), star=models.point_source())
    """
    check_options("airy_psf", options)
    parameters = {"lambda_over_d": LAMBDA_OVER_D, "obscuration": OBSCURATION}
    given = {"lambda_over_d": lambda_over_d, "obscuration": obscuration}
    return component("airy_psf", partial(AiryPSF, **options), parameters, **given)


def _lambda_over_d(found: Measurement, image: Image) -> Default:
    width = seeing(image)
    source = f"{FWHM_IN_LAMBDA_OVER_D} lambda/D is the width of {width.source or 'an image without stars'}"
    sd, measured = (0.3, True) if width.source else (0.5, False)
    return log_normal(width.fwhm / FWHM_IN_LAMBDA_OVER_D, sd, image, source, measured=measured)


def _obscuration(found: Measurement, image: Image) -> Default:
    return Default(dist.Uniform(number(0.0, image), number(0.6, image)), 0.2, "Uniform(0, 0.6)")


LAMBDA_OVER_D = Parameter("pixel", "> 0", lambda width: 0 < width < math.inf, _lambda_over_d)
OBSCURATION = Parameter("", "in [0, 1)", lambda ratio: 0 <= ratio < 1, _obscuration)
