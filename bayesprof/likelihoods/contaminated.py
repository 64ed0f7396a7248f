"""Pixels some of which are outliers: light that is neither in the model nor under the mask.

p(d) = (1 - fraction) Normal(d; model, sigma) + fraction Normal(d; model, sigma sqrt(1 + scale^2))

(Hogg, Bovy & Lang 2010, arXiv:1008.4686, section 3).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayesprof.contamination import ContaminatedNormal
from bayesprof.image import Image
from bayesprof.likelihood import Observation
from bayesprof.likelihoods.extra_noise import EXTRA, FACTOR, no_factor, noise
from bayesprof.measurement import Measurement
from bayesprof.models.component import Component, Default, Parameter, beta, catalogued, component, log_normal


class Contaminated(NamedTuple):
    """The likelihood at one draw of its parameters."""

    fraction: Tensor
    scale: Tensor
    factor: Tensor
    extra: Tensor

    def __call__(self, model_image: Tensor, image: Image) -> Observation:
        good = noise(image, self.factor, self.extra)
        bad = good * torch.sqrt(1 + self.scale**2)
        return Observation(ContaminatedNormal(model_image, good, self.fraction, bad), image.data)


@catalogued
def contaminated(fraction: Any = None, scale: Any = None, factor: Any = None, extra: Any = None) -> Component:
    """A likelihood that forgives outliers: unmasked stars, cosmic rays, bad pixels.

    A pixel is good with the noise of the image, or with a probability of `fraction` an outlier whose scatter has a
    second part, `scale` times as large as the noise. Unlike "student_t" it leaves the good pixels Gaussian, and finds
    out how many aren't. Outliers are taken one by one: the pixels of an unmasked galaxy, all on one side of the model,
    are still better masked or modelled.

    Each parameter takes a Pyro distribution (prior), a number (held), or nothing: then the prior of `fraction` is
    Beta(1, 30), of mean 0.03, and that of `scale` LogNormal(ln 10, 1); `factor` is held at 1 and `extra` at 0.

    Parameters
    ----------
    fraction : fraction of outliers, in (0, 1).
    scale : > 0, in units of the noise.
    factor, extra : change the noise, as those of :func:`extra_noise`.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> from bayesprof import inference, models
    >>> data = np.random.default_rng(0).normal(3.0, 1.0, (30, 40))
    >>> data[::7, ::5] += 40.0
    >>> image = bp.Image(data, sigma=1.0)
    >>> fit = inference.lm(bp.Scene(image, likelihood=bp.likelihoods.contaminated(), sky=models.flat_sky()))
    >>> round(fit.params["sky.level"], 1), round(fit.params["likelihood.fraction"], 2)
    (3.0, 0.04)
    """
    given = {"fraction": fraction, "scale": scale, "factor": factor, "extra": extra}
    parameters = {"fraction": _FRACTION, "scale": _SCALE, "factor": FACTOR._replace(default=no_factor), "extra": EXTRA}
    return component("contaminated", Contaminated, parameters, **given)


def _default_fraction(found: Measurement, image: Image) -> Default:
    return beta(1.0, 30.0, image, "few pixels are outliers")


def _default_scale(found: Measurement, image: Image) -> Default:
    return log_normal(10.0, 1.0, image, "ten times the noise of a good pixel")


_FRACTION = Parameter("", "in (0, 1)", lambda fraction: 0 < fraction < 1, _default_fraction)
_SCALE = Parameter("", "> 0", lambda scale: 0 < scale < math.inf, _default_scale)
