"""Given images, each times a weight: templates, eigen-images of a sky, an image of the same field at another time.

They are added to the model as they are, on the pixels of the image and without its PSF.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprof.image import Image
from bayesprof.light import Background, as_tensors
from bayesprof.measurement import Measurement
from bayesprof.models.component import Axis, Component, Default, Parameter, catalogued, component

_TIMES = 3.0


class BasisImages(Background):
    """Light of given images, each times a weight.

    Parameters
    ----------
    weights : shape ``(..., images)``, image units per unit of the given images.
    images : shape ``(images, ny, nx)``, on the pixels of the image that is rendered.

    Examples
    --------
    >>> import torch
    >>> from bayesprof import models
    >>> fringes = models.BasisImages([0.3, -0.1], torch.rand(2, 20, 30))
    """

    def __init__(self, weights: Any, images: Any) -> None:
        super().__init__()
        self.weights = as_tensors(weights)[0]
        self.images = torch.as_tensor(images, dtype=self.weights.dtype, device=self.weights.device)
        if self.images.ndim != 3 or self.weights.ndim == 0 or self.weights.shape[-1] != len(self.images):
            raise ValueError(
                "BasisImages: expected images of shape (images, ny, nx) and weights of shape (..., images), got "
                f"{tuple(self.images.shape)} and {tuple(self.weights.shape)}"
            )

    def brightness_at(self, x: Tensor, y: Tensor) -> Tensor:
        shape = (y.shape[-2], x.shape[-1])
        if self.images.shape[-2:] != shape:
            raise ValueError(
                f"BasisImages: expected images of the shape of the image, {shape}, got {tuple(self.images.shape[-2:])};"
                " cut or resample them"
            )
        return torch.tensordot(self.weights, self.images, dims=1)


@catalogued
def basis_images(images: Any, *, weights: Any = None) -> Component:
    """Given images, of shape (images, ny, nx), each times a weight, :class:`BasisImages`.

    `weights` takes a Pyro distribution over (images,) (prior), an array (held), or nothing: then each has the prior
    Normal(0, 3 times the measured flux over the sum of the absolute values of its image).

    Raises
    ------
    ValueError
        For images of another shape, with values that aren't finite, or nothing but 0.

    Examples
    --------
    >>> import numpy as np
    >>> from bayesprof import models
    >>> fringes = models.basis_images(np.random.default_rng(1).normal(size=(2, 20, 30)))
    """
    given = torch.as_tensor(images, dtype=torch.float64)
    if given.ndim != 3 or not len(given):
        raise ValueError(f"basis_images: expected images of shape (images, ny, nx), got shape {tuple(given.shape)}")
    useless = [i for i, one in enumerate(given) if not bool(one.isfinite().all()) or not bool((one != 0).any())]
    if useless:
        raise ValueError(
            f"basis_images: expected finite images that aren't 0 everywhere, got others at {useless}; leave them out, "
            "or set their bad pixels to 0"
        )

    def light(weights: Tensor) -> BasisImages:
        return BasisImages(weights, given)

    axes = (Axis("basis", tuple(range(len(given)))),)
    parameter = Parameter(
        "{flux}", "finite", lambda value: bool(value.isfinite().all()), _default_of(given.abs().sum((-2, -1))), axes
    )
    return component("basis_images", light, {"weights": parameter}, weights=weights)


def _default_of(size: Tensor) -> Callable[[Measurement, Image], Default]:
    def default(found: Measurement, image: Image) -> Default:
        sd = (_TIMES * abs(found.flux) / size).to(image.data)
        words = ", ".join(f"{value:.3g}" for value in sd.tolist())
        formula = f"Normal(0, sd), sd {words}: {_TIMES:g} times the measured flux over the sum of each image"
        return Default(dist.Normal(torch.zeros_like(sd), sd).to_event(1), torch.zeros(len(size)), formula)

    return default
