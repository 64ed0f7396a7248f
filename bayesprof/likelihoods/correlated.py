"""Pixels whose noise is correlated, as that of resampled images is.

The covariance is factor^2 diag(sigma) C diag(sigma), C a fixed correlation of neighbours
(:mod:`bayesprof.correlation`), restricted to the unmasked pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from bayesprof.blank_sky import noise_correlation
from bayesprof.correlated_normal import CorrelatedNormal
from bayesprof.correlation import NoiseCorrelation
from bayesprof.decorrelation import Decorrelation, decorrelation
from bayesprof.image import Image
from bayesprof.likelihood import Likelihood, Observation
from bayesprof.likelihoods.extra_noise import FACTOR, no_factor
from bayesprof.models.component import BoundComponent, Call, catalogued, checked, component

_PARAMETERS = {"factor": FACTOR._replace(default=no_factor)}


@catalogued
def correlated(correlation: NoiseCorrelation | None = None, factor: Any = None) -> CorrelatedNoise:
    """The Gaussian likelihood of noise that neighbouring pixels share.

    Parameters
    ----------
    correlation : NoiseCorrelation, optional
        Correlation of the noise; it is held. By default :func:`bayesprof.noise_correlation` measures it on the blank
        sky of the image.
    factor : > 0
        Changes the noise of the image: a Pyro distribution (prior), a number (held), or nothing (held at 1).

    Notes
    -----
    The likelihood is that of all unmasked pixels together, without wrap-around, to a divergence of 1e-5 nats a pixel
    (:mod:`bayesprof.decorrelation`). A likelihood and its gradient take two products more by a sparse matrix: 2 ms
    each for 121x121 pixels. In ``log_likelihood`` of a result each pixel's is that given all others, which LOO asks
    for, and they don't add up to the likelihood.

    Raises
    ------
    TypeError
        For a correlation that is none.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> from bayesprof import inference, models
    >>> white = np.random.default_rng(0).normal(size=(51, 61))
    >>> image = bp.Image(0.5 * (white[1:, 1:] + white[1:, :-1] + white[:-1, 1:] + white[:-1, :-1]), sigma=1.0)
    >>> for noise in ("gaussian", bp.likelihoods.correlated()):
    ...     fit = inference.lm(bp.Scene(image, likelihood=noise, sky=models.flat_sky()))
    ...     print(round(fit.std["sky.level"], 3))
    0.018
    0.035
    """
    if correlation is not None and not isinstance(correlation, NoiseCorrelation):
        raise TypeError(
            f"correlated: expected a NoiseCorrelation, got {type(correlation).__name__}; measure one with "
            "bp.noise_correlation(image), or make one of a table with bp.NoiseCorrelation(values)"
        )
    return CorrelatedNoise(correlation, checked("correlated", _PARAMETERS, {"factor": factor}))


@dataclass(frozen=True)
class CorrelatedNoise:
    """What :func:`correlated` returns: the likelihood before it knows its image."""

    correlation: NoiseCorrelation | None
    given: Mapping[str, Any]
    call: Call | None = None
    kind = "correlated"

    def holding(self, values: Mapping[str, Any]) -> CorrelatedNoise:
        """This likelihood with its factor held."""
        return replace(self, given={**self.given, **checked(self.kind, _PARAMETERS, values)}, call=None)

    def bind(self, image: Image) -> BoundComponent:
        """This likelihood for the pixels of `image`: a Pyro model function that draws its parameters."""
        correlation = noise_correlation(image) if self.correlation is None else self.correlation
        operator = decorrelation(correlation, image.valid.cpu().numpy(), dtype=image.dtype, device=image.device)
        return component(self.kind, partial(_likelihood, operator), _PARAMETERS, **self.given).bind(image)


def _likelihood(operator: Decorrelation, factor: Tensor) -> Likelihood:
    def likelihood(model_image: Tensor, image: Image) -> Observation:
        assert image.sigma is not None  # likelihood_for sees to it
        return Observation(CorrelatedNormal(model_image, image.sigma, factor, operator), image.data)

    return likelihood
