"""How the pixels of an image scatter about its model: the observed site of a scene.

A likelihood is a function ``(model_image, image) -> Observation``. The three here are chosen by name in
:class:`bayesprof.Scene`; those with parameters are in :mod:`bayesprof.likelihoods`; a user's own may draw with
``pyro.sample``, and may return a Pyro distribution over the pixels, for ``image.data`` as it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprof.image import Image

STUDENT_T_DF = 5.0
"""Degrees of freedom of the Student-t likelihood: as in pysersic, tails that forgive an unmasked pixel in a hundred."""


class Observation(NamedTuple):
    """A distribution of batch shape ``(ny, nx)`` and the values observed from it."""

    distribution: Any
    observed: Tensor


Likelihood = Callable[[Tensor, Image], Any]


@dataclass(frozen=True)
class WithParameters:
    """A likelihood with parameters of its own; `parameters` is a Pyro model function that draws them and returns the
    likelihood that they make.
    """

    parameters: Callable[[], Likelihood]

    def __call__(self, model_image: Tensor, image: Image) -> Any:
        return self.parameters()(model_image, image)


def gaussian(model_image: Tensor, image: Image) -> Observation:
    """Independent Normal pixels with the standard deviation `image.sigma`."""
    return Observation(dist.Normal(model_image, _sigma(image), validate_args=False), image.data)


def student_t(model_image: Tensor, image: Image) -> Observation:
    """Independent Student-t pixels with 5 degrees of freedom and the scale `image.sigma`."""
    df = torch.full_like(image.data, STUDENT_T_DF)
    return Observation(dist.StudentT(df, model_image, _sigma(image), validate_args=False), image.data)


def poisson(model_image: Tensor, image: Image) -> Observation:
    """Poisson counts: (data + subtracted_sky) times gain, about (model + subtracted_sky) times gain.

    `gain` (electrons per image unit) is 1 where the image has none: its data are counts then. Read noise isn't part
    of it. A model that falls to zero or below in a pixel gets a rate of 1e-10 counts there.
    """
    gain = 1.0 if image.gain is None else image.gain
    rate = ((model_image + image.subtracted_sky) * gain).clamp(min=1e-10)
    return Observation(dist.Poisson(rate, validate_args=False), counts(image))


def _sigma(image: Image) -> Tensor:
    assert image.sigma is not None  # likelihood_for sees to it
    return image.sigma


def counts(image: Image) -> Tensor:
    """Counts behind the data, for the Poisson likelihood; 0 in masked pixels."""
    gain = 1.0 if image.gain is None else image.gain
    return torch.where(image.mask, torch.zeros_like(image.data), (image.data + image.subtracted_sky) * gain)


def likelihood_for(choice: Any, image: Image) -> Likelihood:
    """The likelihood that `choice` names, or `choice` itself where it is a function, or bound to `image` where it has
    parameters to be bound; checked against `image`.

    Raises
    ------
    ValueError, TypeError
        For an unknown name, and for an image without what the likelihood needs.
    """
    named = {"gaussian": gaussian, "poisson": poisson, "student_t": student_t}
    expected = f"Scene: expected likelihood to be one of {', '.join(named)}, one of bp.likelihoods, or a function"
    if hasattr(choice, "bind"):
        _check_sigma(choice.kind, image)
        return _checked(WithParameters(choice.bind(image)), expected)
    if callable(choice):
        if getattr(choice, "__module__", "").startswith("bayesprof.likelihoods."):
            raise TypeError(f"{expected}, got the function that makes one; call it: {choice.__name__}()")
        return choice
    if not isinstance(choice, str):
        raise TypeError(f"{expected} (model_image, image) -> distribution, got {type(choice).__name__}")
    if choice not in named:
        raise ValueError(f"{expected}, got {choice!r}")
    if choice != "poisson":
        _check_sigma(choice, image)
    else:
        observed = counts(image)
        if (observed < 0).any():
            first = tuple(int(i) for i in (observed < 0).nonzero()[0])
            raise ValueError(
                f"Scene: the poisson likelihood needs counts >= 0, got {int((observed < 0).sum())} negative unmasked "
                "pixels in image "
                f"{image.name!r}, the first at [y, x] = {list(first)}; give the Image subtracted_sky=, or choose "
                "another likelihood"
            )
    return named[choice]


def observed_pixels(likelihood: Likelihood, model_image: Tensor, image: Image) -> Observation:
    """What `likelihood` makes of a model image, checked.

    Raises TypeError and ValueError where that is no distribution over the pixels.
    """
    found = likelihood(model_image, image)
    observation = found if isinstance(found, Observation) else Observation(found, image.data)
    if not isinstance(observation.distribution, dist.torch_distribution.TorchDistributionMixin):
        raise TypeError(
            f"Scene: expected a likelihood that returns a Pyro distribution over the pixels, got one that returned "
            f"{type(observation.distribution).__name__}; return for example dist.Normal(model_image, image.sigma)"
        )
    shape = tuple(observation.distribution.batch_shape)
    if shape[-2:] != image.shape:
        raise ValueError(
            f"Scene: expected a likelihood that returns a distribution over pixels, of batch shape {image.shape}, got "
            f"one of batch shape {shape}; don't sum over the pixels with to_event, the scene does"
        )
    return observation


def _checked(likelihood: WithParameters, expected: str) -> WithParameters:
    with torch.no_grad(), pyro.poutine.block(), torch.random.fork_rng(devices=[]):
        drawn = likelihood.parameters()
    if not callable(drawn):
        raise TypeError(f"{expected}, got a component, which makes {type(drawn).__name__}")
    return likelihood


def _check_sigma(name: str, image: Image) -> None:
    if image.sigma is None:
        raise ValueError(
            f"Scene: the {name} likelihood needs the noise of image {image.name!r}, which has none; give the Image "
            "one of sigma, variance, ivar, or gain with read_noise"
        )
