"""The PSF as a stamp of free pixels.

PSF = mean exp(scatter L_y z L_x^T) / (its sum),    L L^T = exp(-(distance)^2 / (2 smoothness^2)) along each axis,

with the `deviations` z independent standard normal numbers: a Gaussian process in the logarithm of the stamp, so that
it is positive and smooth. What it says of the centre isn't used: the stamp is moved so that its centroid is the origin,
where it would otherwise be degenerate with the positions of the stars.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprof.grid import per_pixel
from bayesprof.image import Image
from bayesprof.light import as_tensors
from bayesprof.measurement import Measurement
from bayesprof.models.component import Axis, Component, Default, Parameter, catalogued, component, number
from bayesprof.psf import PSF
from bayesprof.transfer import psf_transform

_JITTER = 1e-6  # of a variance of 1; without it, the covariance of a smooth process is singular to rounding


class PixelPSF(PSF):
    """A PSF of free pixels.

    Parameters
    ----------
    deviations : shape (..., h, w), in units of the prior's standard deviation, uncorrelated.
    mean : shape (h, w), > 0: the stamp where all deviations are 0.
    scatter : standard deviation of the logarithm of a pixel, > 0.
    smoothness : distance over which deviations are alike, image pixels, > 0.
    oversampling : pixels of the stamp per image pixel along a side. At a full width at half maximum below about 4
        pixels, stamps sampled at the image's own pixels make stars wrong by 1e-3 and more.
    contains_pixel : as of :class:`bayesprof.psf.PSF`; True, as stamps of stars do.
    **options : the others of :class:`bayesprof.psf.PSF`; `reach` is half of the stamp's size.

    Raises
    ------
    ValueError
        For arrays of other shapes, and a mean, scatter or smoothness that isn't positive.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from bayesprof import models
    >>> y, x = np.mgrid[-5:6, -5:6]
    >>> psf = models.PixelPSF(np.zeros((11, 11)), (1 + (x**2 + y**2) / 4.0) ** -2.5)
    >>> bool(torch.isclose(psf.stamp.sum(), torch.tensor(1.0, dtype=torch.float64)))
    True
    """

    def __init__(
        self,
        deviations: Any,
        mean: Any,
        *,
        scatter: float = 0.3,
        smoothness: float = 1.0,
        oversampling: int = 1,
        contains_pixel: bool = True,
        **options: Any,
    ) -> None:
        self.deviations, self.mean = as_tensors(deviations, mean)
        if self.mean.ndim != 2 or self.deviations.shape[-2:] != self.mean.shape:
            raise ValueError(
                f"PixelPSF: expected a mean of shape (h, w) and deviations of shape (..., h, w), got shapes "
                f"{tuple(self.mean.shape)} and {tuple(self.deviations.shape)}"
            )
        for name, value in (("scatter", scatter), ("smoothness", smoothness)):
            if not 0 < value < math.inf:
                raise ValueError(f"PixelPSF: expected {name} > 0, got {value!r}")
        reach = math.ceil(max(self.mean.shape) / (2 * oversampling)) + 1
        super().__init__(**{"reach": reach, **options}, oversampling=oversampling, contains_pixel=contains_pixel)
        self.scatter = scatter
        self.along_y, self.along_x = (
            torch.from_numpy(_factor(size, smoothness * oversampling)).to(self.mean) for size in self.mean.shape
        )

    @property
    def stamp(self) -> Tensor:
        """The pixels, sum 1, shape (..., h, w), before they are centred."""
        log = torch.log(self.mean) + self.scatter * (self.along_y @ self.deviations @ self.along_x.mT)
        return torch.softmax(log.flatten(-2), dim=-1).unflatten(-1, self.mean.shape)

    def transform_at(self, kx: Tensor, ky: Tensor) -> Tensor:
        stamp = self.stamp
        y, x = (
            (torch.arange(size, dtype=stamp.dtype, device=stamp.device) - 0.5 * (size - 1)) / self.oversampling
            for size in self.mean.shape
        )
        angle = kx * per_pixel(stamp.sum(-2) @ x) + ky * per_pixel(stamp.sum(-1) @ y)
        return psf_transform(stamp, kx, ky, self.oversampling) * torch.complex(torch.cos(angle), torch.sin(angle))

    def wings_at(self, dx: Tensor, dy: Tensor) -> None:
        """None: it ends with its stamp."""


def _factor(size: int, length: float) -> np.ndarray:
    """Lower triangular factor of a Gaussian covariance along one axis."""
    place = np.arange(size)
    covariance = np.exp(-0.5 * ((place[:, None] - place) / length) ** 2)
    return np.linalg.cholesky(covariance + _JITTER * np.eye(size))


@catalogued
def pixel_psf(mean: Any, *, deviations: Any = None, **options: Any) -> Component:
    """A PSF of free pixels, :class:`PixelPSF`.

    `mean` is a rough guess at the PSF, which also sets the size of the stamp: the sampled PSF of another image, or a
    star. `deviations` takes a Pyro distribution over an array of that shape (prior), an array (held), or nothing: then
    their priors are Normal(0, 1). `options`: `scatter`, `smoothness`, `oversampling`, `contains_pixel` and `reach`, of
    :class:`PixelPSF`.

    Raises
    ------
    ValueError
        For a mean that isn't positive everywhere, and as :class:`PixelPSF`.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> from bayesprof import models
    >>> y, x = np.mgrid[-4:5, -4:5]
    >>> guess = np.exp(-0.5 * (x**2 + y**2) / 1.7**2) + 1e-4
    >>> image = bp.Image(np.zeros((30, 40)), sigma=1.0)
    >>> scene = bp.Scene(image, psf=models.pixel_psf(guess, scatter=0.5), star=models.point_source())
    """
    stamp = np.array(mean, dtype=float)
    if not (np.isfinite(stamp).all() and (stamp > 0).all()):
        bad = int((~(stamp > 0) | ~np.isfinite(stamp)).sum())
        raise ValueError(
            f"pixel_psf: expected a mean that is positive and finite, got {bad} other pixels; raise them, for example "
            "np.maximum(mean, 1e-4 * mean.max())"
        )
    light: Callable[..., PSF] = partial(PixelPSF, mean=torch.from_numpy(stamp / stamp.sum()), **options)
    light(torch.zeros(stamp.shape, dtype=torch.float64))  # its checks

    def default(found: Measurement, image: Image) -> Default:
        each = dist.Normal(number(0.0, image), number(1.0, image))
        return Default(each.expand(stamp.shape).to_event(2), torch.zeros(stamp.shape), "Normal(0, 1) each")

    axes = tuple(Axis(name, tuple(range(size))) for name, size in zip(("row", "column"), stamp.shape, strict=True))
    parameter = Parameter("", "finite", lambda values: bool(values.isfinite().all()), default, axes)
    return component("pixel_psf", light, {"deviations": parameter}, deviations=deviations)
