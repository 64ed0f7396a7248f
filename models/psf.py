"""The parameters that PSF models have in common, with their default priors.

======================  ==============================================================================================
fwhm                    LogNormal(ln w, 0.3), w the full width at half maximum of the image's sampled PSF, or of the
                        narrowest bright peaks on the image; LogNormal(ln 3, 0.5) for an image with neither
ellipticity (e1, e2)    isotropic: e = w / sqrt(1 + |w|^2) with w two independent Normal(0, 0.1); median axis ratio 0.79
q (in its place)        Uniform(0.5, 1)
theta (in its place)    Uniform(-pi/2, pi/2)
======================  ==============================================================================================

A PSF has unit flux and is centred on the origin by construction. Each model takes, beside its parameters, the options
of :class:`bayesprof.psf.PSF`: `oversampling`, `contains_pixel` and `reach`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import pyro.distributions as dist

from bayesprof.image import Image
from bayesprof.measurement import Measurement
from bayesprof.models.component import Component, Default, Parameter, component, log_normal, number
from bayesprof.models.galaxy import shape
from bayesprof.seeing import seeing

_SHAPE_SCALE = 0.1
_OPTIONS = ("oversampling", "contains_pixel", "reach")


def _fwhm(found: Measurement, image: Image) -> Default:
    width = seeing(image)
    if not width.source:
        return log_normal(width.fwhm, 0.5, image, "the image has neither a PSF nor a bright star")
    return log_normal(width.fwhm, 0.3, image, f"full width at half maximum of {width.source}", measured=True)


def _q(found: Measurement, image: Image) -> Default:
    return Default(dist.Uniform(number(0.5, image), number(1.0, image)), 0.9, "Uniform(0.5, 1)")


def _theta(found: Measurement, image: Image) -> Default:
    low, high = -math.pi / 2, math.pi / 2
    return Default(dist.Uniform(number(low, image), number(high, image)), 0.0, f"Uniform({low:.3f}, {high:.3f})")


FWHM = {"fwhm": Parameter("pixel", "> 0", lambda width: 0 < width < math.inf, _fwhm)}
_AXIS_RATIO_AND_ANGLE = {
    "q": Parameter("", "in (0, 1]", lambda q: 0 < q <= 1, _q),
    "theta": Parameter("rad", "finite", math.isfinite, _theta),
}


def elliptical_psf(
    kind: str, light: Any, parameters: Mapping[str, Parameter], options: Mapping[str, Any], **given: Any
) -> Component:
    """A PSF with `parameters` of its own and a shape, and the `options` of its class.

    Raises
    ------
    TypeError, ValueError
        For other options, for an ellipticity beside q or theta, and as :func:`bayesprof.models.component.component`.
    """
    check_options(kind, options)
    kept = {name: value for name, value in given.items() if value is not None}
    ellipse, derived = shape(kind, kept, scale=_SHAPE_SCALE, measured=False, by_angle=_AXIS_RATIO_AND_ANGLE)
    return component(kind, partial(light, **options), {**parameters, **ellipse}, derived, **kept)


def check_options(kind: str, options: Mapping[str, Any]) -> None:
    """Raise TypeError for options that :class:`bayesprof.psf.PSF` doesn't have."""
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        raise TypeError(
            f"{kind}() got an unexpected keyword argument {unknown[0]!r}; beside its parameters it takes "
            f"{', '.join(_OPTIONS)}"
        )
