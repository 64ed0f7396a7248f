"""Independent Normal pixels whose noise is that of the image but for a factor and a term to be found.

noise^2 = factor^2 sigma^2 + extra^2
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprof.image import Image
from bayesprof.likelihood import Observation
from bayesprof.measurement import Measurement
from bayesprof.models.component import Component, Default, Parameter, catalogued, component, log_normal, number


class ExtraNoise(NamedTuple):
    """The likelihood at one draw of its parameters."""

    factor: Tensor
    extra: Tensor

    def __call__(self, model_image: Tensor, image: Image) -> Observation:
        return Observation(dist.Normal(model_image, noise(image, self.factor, self.extra)), image.data)


@catalogued
def extra_noise(factor: Any = None, extra: Any = None) -> Component:
    """The Gaussian likelihood with a noise of sqrt(factor^2 sigma^2 + extra^2), sigma that of the image.

    Each parameter takes a Pyro distribution (prior), a number (held), or nothing: then the prior of `factor` is
    LogNormal(0, 0.3) and `extra` is held at 0. Where sigma is the same in all pixels the two can't be told apart: hold
    one.

    Parameters
    ----------
    factor : > 0; 1 for the noise of the image as it stands.
    extra : >= 0, image units; 0 for none.

    Examples
    --------
    >>> import numpy as np, pyro.distributions as dist, bayesprof as bp
    >>> from bayesprof import models
    >>> image = bp.Image(np.zeros((30, 40)), sigma=1.0)
    >>> noise = bp.likelihoods.extra_noise(factor=1.0, extra=dist.HalfNormal(2.0))
    >>> scene = bp.Scene(image, likelihood=noise, sky=models.flat_sky())
    >>> models.describe(noise, image)
    extra_noise: 1 parameter to fit, 1 held
    parameter  kind        prior        support start    unit
    --------- ----- ------------------- ------- ----- ----------
    factor    held  = 1                 > 0
    extra     given HalfNormal(scale=2) >= 0          image unit
    """
    return component("extra_noise", ExtraNoise, {"factor": FACTOR, "extra": EXTRA}, factor=factor, extra=extra)


def noise(image: Image, factor: Tensor, extra: Tensor) -> Tensor:
    """Standard deviation of the pixels, shape (ny, nx); that of the image in masked ones."""
    assert image.sigma is not None  # likelihood_for sees to it
    return torch.sqrt((factor * image.sigma) ** 2 + extra**2)


def _default_factor(found: Measurement, image: Image) -> Default:
    return log_normal(1.0, 0.3, image, "the noise of the image is about right")


def no_factor(found: Measurement, image: Image) -> Default:
    return Default(number(1.0, image), None, "= 1")


def _no_extra(found: Measurement, image: Image) -> Default:
    return Default(number(0.0, image), None, "= 0")


FACTOR = Parameter("", "> 0", lambda factor: 0 < factor < math.inf, _default_factor)
EXTRA = Parameter("{flux}", ">= 0", lambda extra: 0 <= extra < math.inf, _no_extra)
