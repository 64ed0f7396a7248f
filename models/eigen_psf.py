"""The PSF as a mean stamp and a few others with free coefficients.

PSF = (mean + sum of c_j basis_j) / (its sum)

The stamps may come from a principal-component analysis of stars, or of a telescope's models (Jee et al. 2007, PASP 119,
1403).
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


class EigenPSF(PSF):
    """A PSF that is linear in its parameters, but for the normalisation.

    Parameters
    ----------
    coefficients : shape (..., count).
    mean : shape (h, w); its origin is its geometric centre, and its sum isn't 0.
    basis : shape (count, h, w), about the same origin.
    oversampling : pixels of the stamps per image pixel along a side. At a full width at half maximum below about 4
        pixels, stamps sampled at the image's own pixels make stars wrong by 1e-3 and more.
    contains_pixel : as of :class:`bayesprof.psf.PSF`; True, as stamps of stars do.
    **options : the others of :class:`bayesprof.psf.PSF`; `reach` is half of the stamps' size.

    Raises
    ------
    ValueError
        For arrays whose shapes don't belong together.

    Examples
    --------
    >>> import numpy as np
    >>> from bayesprof import models
    >>> y, x = np.mgrid[-8:9, -8:9] / 2
    >>> mean = np.exp(-0.5 * (x**2 + y**2) / 1.5**2)
    >>> wider = mean * (x**2 + y**2 - 4.5)
    >>> psf = models.EigenPSF([0.1], mean, [wider], oversampling=2)
    """

    def __init__(
        self,
        coefficients: Any,
        mean: Any,
        basis: Any,
        *,
        oversampling: int = 1,
        contains_pixel: bool = True,
        **options: Any,
    ) -> None:
        basis = np.asarray(basis) if isinstance(basis, list | tuple) else basis
        self.coefficients, self.mean, self.basis = as_tensors(coefficients, mean, basis)
        if self.mean.ndim != 2 or self.basis.ndim != 3 or self.basis.shape[1:] != self.mean.shape:
            raise ValueError(
                f"EigenPSF: expected a mean of shape (h, w) and a basis of shape (count, h, w), got shapes "
                f"{tuple(self.mean.shape)} and {tuple(self.basis.shape)}"
            )
        if self.coefficients.ndim == 0 or self.coefficients.shape[-1] != len(self.basis):
            raise ValueError(
                f"EigenPSF: expected {len(self.basis)} coefficients along the last axis, one for each stamp of the "
                f"basis, got shape {tuple(self.coefficients.shape)}"
            )
        reach = math.ceil(max(self.mean.shape) / (2 * oversampling)) + 1
        super().__init__(**{"reach": reach, **options}, oversampling=oversampling, contains_pixel=contains_pixel)

    def transform_at(self, kx: Tensor, ky: Tensor) -> Tensor:
        mean, basis = (psf_transform(stamp, kx, ky, self.oversampling) for stamp in (self.mean, self.basis))
        total = self.mean.sum() + self.coefficients @ self.basis.sum((-1, -2))
        return (mean + torch.tensordot(self.coefficients.to(basis.dtype), basis, dims=1)) / per_pixel(total)

    def wings_at(self, dx: Tensor, dy: Tensor) -> None:
        """None: it ends with its stamps."""


@catalogued
def eigen_psf(mean: Any, basis: Any, *, coefficients: Any = None, **options: Any) -> Component:
    """A PSF of stamps with free coefficients, :class:`EigenPSF`.

    `coefficients` takes a Pyro distribution over as many numbers as the basis has stamps (prior), an array (held), or
    nothing: then their priors are Normal(0, 1): scale the stamps so that a coefficient of 1 is typical. `options`:
    `oversampling`, `contains_pixel` and `reach`, of :class:`EigenPSF`.

    Raises
    ------
    ValueError, TypeError
        For arrays that aren't finite, and as :class:`EigenPSF`.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> from bayesprof import models
    >>> y, x = np.mgrid[-8:9, -8:9] / 2
    >>> mean = np.exp(-0.5 * (x**2 + y**2) / 1.5**2)
    >>> basis = [0.1 * mean * (x**2 - y**2), 0.1 * mean * x * y]
    >>> image = bp.Image(np.zeros((30, 40)), sigma=1.0)
    >>> scene = bp.Scene(image, psf=models.eigen_psf(mean, basis, oversampling=2), star=models.point_source())
    """
    stamps = {"mean": np.array(mean, dtype=float), "basis": np.array(basis, dtype=float)}
    for name, array in stamps.items():
        if not np.isfinite(array).all():
            raise ValueError(
                f"eigen_psf: expected a finite {name}, got {int((~np.isfinite(array)).sum())} other values"
            )
    scale = stamps["mean"].sum()
    if scale <= 0:
        raise ValueError(f"eigen_psf: expected a mean with a positive sum, got {scale:.6g}; subtract its background")
    centre, others = (torch.from_numpy(array / scale) for array in stamps.values())
    light: Callable[..., PSF] = partial(EigenPSF, mean=centre, basis=others, **options)
    count = len(others)
    light(torch.zeros(count, dtype=torch.float64))  # its checks

    def default(found: Measurement, image: Image) -> Default:
        each = dist.Normal(number(0.0, image), number(1.0, image))
        return Default(each.expand((count,)).to_event(1), torch.zeros(count), "Normal(0, 1) each")

    axes = (Axis("coefficient", tuple(range(count))),)
    parameter = Parameter("", "finite", lambda values: bool(values.isfinite().all()), default, axes)
    return component("eigen_psf", light, {"coefficients": parameter}, coefficients=coefficients)
