"""The PSF of a circular telescope whose wavefront has errors, given by Zernike polynomials.

The light on the detector is the squared modulus of the transform of the pupil, W exp(2 pi i sum of a_j Z_j), with W 1
within the aperture and outside of the central obscuration; it is turned as GalSim's OpticalPSF is. The a_j are in
waves, and the Z_j are those of Noll (1976, JOSA 66, 207) on the whole disc, of unit variance there, obscured or not. So
a_4 is the defocus, a_5 and a_6 the astigmatism, a_7 and a_8 the coma, a_9 and a_10 the trefoil and a_11 the spherical
aberration.

The transform of the PSF is the overlap of the pupil with itself, moved. It is found on a grid, as what the aberrations
change, and added to the overlap without aberrations, which is known exactly (:mod:`bayesprof.models.airy_psf`, with a
word on its derivatives in lambda/D and the obscuration): so most of what the edges of a sampled pupil do wrong cancels.

The tilt that an aberration brings with it is taken off, so that the PSF has its centroid on the origin; coma would
else move every source. A pupil turned by half a turn and conjugated has the same PSF: where all aberrations with even
azimuthal order (defocus, astigmatism, spherical) change their sign, the image stays the same. The prior should tell the
sign of one of them, else the posterior has two peaks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprof.grid import per_pixel
from bayesprof.image import Image
from bayesprof.light import as_tensors
from bayesprof.measurement import Measurement
from bayesprof.models.airy_psf import LAMBDA_OVER_D, OBSCURATION, REACH, AiryPSF
from bayesprof.models.component import Axis, Component, Default, Parameter, catalogued, component, number
from bayesprof.models.psf import check_options
from bayesprof.psf import PSF

NOLL = tuple(range(4, 12))
_SAMPLES = 192  # of the pupil, along a side
_ACROSS = _SAMPLES - 2  # of them across its diameter
_PERIOD = 2 * _SAMPLES + 1  # room for the overlap; odd, for no frequency is without its negative then
_SCATTER = 0.05  # waves; of each coefficient


class Zernike(NamedTuple):
    """A Zernike polynomial: its radial order `n` and azimuthal order `m`, the latter negative for that of the sine."""

    n: int
    m: int


class ZernikePSF(PSF):
    """A PSF with aberrations.

    Parameters
    ----------
    lambda_over_d : wavelength over the diameter of the aperture, pixels, > 0. With 1 and above, `oversampling` 2 holds
        the whole transform.
    obscuration : diameter of the central obscuration over that of the aperture, in [0, 1).
    aberrations : coefficients of the polynomials, waves, shape (..., count). The grid of the pupil costs 1e-4 of the
        image where the root of their summed squares is 0.2 waves, and grows with its square.
    noll : Noll's indices of the polynomials, each >= 4.
    **options : of :class:`bayesprof.psf.PSF`, with a `reach` of 48 pixels: the rings beyond it are averaged over.

    Raises
    ------
    ValueError
        For indices that aren't, and coefficients that don't belong to them.

    Examples
    --------
    >>> from bayesprof import models
    >>> psf = models.ZernikePSF(1.9, 0.33, [0.05, 0.03], noll=(4, 7))
    """

    def __init__(
        self, lambda_over_d: Any, obscuration: Any, aberrations: Any, *, noll: Sequence[int] = NOLL, **options: Any
    ) -> None:
        super().__init__(**{"reach": REACH, **options})
        self.lambda_over_d, self.obscuration, self.aberrations = as_tensors(lambda_over_d, obscuration, aberrations)
        self.noll = tuple(noll)
        if not self.noll or len(set(self.noll)) < len(self.noll) or not all(_is_index(j) for j in self.noll):
            raise ValueError(
                f"ZernikePSF: expected noll as different whole numbers >= 4, got {self.noll}; 1 to 3 change no shape"
            )
        if self.aberrations.ndim == 0 or self.aberrations.shape[-1] != len(self.noll):
            raise ValueError(
                f"ZernikePSF: expected {len(self.noll)} aberrations along the last axis, one for each of noll, got "
                f"shape {tuple(self.aberrations.shape)}"
            )
        self.perfect = AiryPSF(self.lambda_over_d, self.obscuration)

    def transform_at(self, kx: Tensor, ky: Tensor) -> Tensor:
        window = _window(self.obscuration, like=kx)
        phase = 2 * math.pi * torch.tensordot(self.aberrations, self._polynomials(like=kx), dims=1)
        pupil = torch.complex(window * torch.cos(phase), -window * torch.sin(phase))
        area = window.sum((-1, -2), keepdim=True)
        change = _intensity(pupil, area) - _intensity(window, area)
        # the samples of the intensity, in units of lambda/D
        place = torch.fft.fftfreq(_PERIOD, 1 / _ACROSS, dtype=kx.dtype, device=kx.device)
        step = per_pixel(self.lambda_over_d)
        along_x, along_y = step * place[:, None] * kx, step * ky * place
        by_column, by_row = (torch.complex(torch.cos(turn), -torch.sin(turn)) for turn in (along_x, along_y))
        overlap = by_row @ change.to(by_row.dtype) @ by_column
        # the grid repeats the transform beyond its end
        inside = (kx**2 + ky**2) * step**2 < (2 * math.pi) ** 2
        return torch.where(inside, overlap, 0.0) + self.perfect.transform_at(kx, ky)

    def wings_at(self, dx: Tensor, dy: Tensor) -> Tensor:
        """Those of the PSF without aberrations: they come from the edges of the pupil."""
        return self.perfect.wings_at(dx, dy)

    def _polynomials(self, like: Tensor) -> Tensor:
        """The polynomials without their tilt, shape ``batch + (count, samples, samples)``."""
        x, y = _pupil_grid(like)
        square = self.obscuration**2
        planes = []
        for j in self.noll:
            order = noll_order(j)
            plane = _polynomial(order, x, y)
            if abs(order.m) == 1:
                # the mean slope over the pupil, by Gauss' theorem from its two edges
                slope = math.sqrt(2 * (order.n + 1)) * (1 - square * _reduced(order, square)) / (1 - square)
                plane = plane - per_pixel(slope) * (x if order.m > 0 else y)
            planes.append(plane)
        return torch.stack(torch.broadcast_tensors(*planes), dim=-3)


def noll_order(j: int) -> Zernike:
    """The polynomial with Noll's index `j` >= 1: even ones go with the cosine, odd ones with the sine.

    >>> [tuple(noll_order(j)) for j in (4, 5, 6, 7, 8, 11)]
    [(2, 0), (2, -2), (2, 2), (3, -1), (3, 1), (4, 0)]
    """
    n, before = 0, 0  # polynomials of lower radial orders
    while before + n + 1 < j:
        before += n + 1
        n += 1
    rank = j - before - 1
    m = 2 * ((rank + 1) // 2) if n % 2 == 0 else 2 * (rank // 2) + 1
    return Zernike(n, m if j % 2 == 0 else -m)


def _is_index(j: Any) -> bool:
    return isinstance(j, int) and not isinstance(j, bool) and j >= 4


def _reduced(order: Zernike, square: Tensor) -> Tensor:
    """The radial polynomial over r^|m|, at squared radii; 1 at radius 1."""
    n, half = order.n, (order.n - abs(order.m)) // 2
    factors = [(-1) ** s * math.comb(n - s, s) * math.comb(n - 2 * s, half - s) for s in range(half + 1)]
    value = torch.zeros_like(square)
    for factor in factors:
        value = value * square + factor
    return value


def _polynomial(order: Zernike, x: Tensor, y: Tensor) -> Tensor:
    """The polynomial on the plane of `x` and `y`, in units of the pupil's radius."""
    radial, m = _reduced(order, x**2 + y**2), abs(order.m)
    if m == 0:
        return math.sqrt(order.n + 1) * radial
    turned = torch.complex(*torch.broadcast_tensors(x, y)) ** m  # r^m times the cosine and the sine of m angles
    return math.sqrt(2 * (order.n + 1)) * radial * (turned.real if order.m > 0 else turned.imag)


def _pupil_grid(like: Tensor) -> tuple[Tensor, Tensor]:
    """`x` (1, samples) and `y` (samples, 1) of the pupil's samples, in units of its radius."""
    place = (2 * torch.arange(_SAMPLES, dtype=like.dtype, device=like.device) + 1 - _SAMPLES) / _ACROSS
    return place[None, :], place[:, None]


def _window(obscuration: Tensor, like: Tensor) -> Tensor:
    """Fraction of each sample's square that is open."""
    return _covered(torch.ones_like(obscuration), like) - _covered(obscuration, like)


def _covered(radius: Tensor, like: Tensor) -> Tensor:
    """Fraction of each sample's square within a circle: that on one side of a straight edge, at the distance and in the
    direction of the circle's.
    """
    x, y = _pupil_grid(like)
    distance = torch.sqrt(x**2 + y**2)
    inside = 0.5 * _ACROSS * (per_pixel(radius) - distance)
    wide, narrow = ((offset.abs() / distance).clamp(min=1e-2) for offset in (x, y))
    ends = ((wide + narrow, 1.0), (wide - narrow, -1.0), (narrow - wide, -1.0), (-wide - narrow, 1.0))
    squares = sum(sign * (inside + 0.5 * end).clamp(min=0) ** 2 for end, sign in ends)
    return torch.as_tensor(squares) / (2 * wide * narrow)


def _intensity(pupil: Tensor, area: Tensor) -> Tensor:
    """Light on the detector from a pupil's samples, of sum 1 but for the partly open samples at its edges."""
    field = torch.fft.fft2(pupil, s=(_PERIOD, _PERIOD))
    # not over its own sum: the overlap of a sampled edge with itself, at no displacement, is off by a whole order more
    return (field.real**2 + field.imag**2) / (_PERIOD**2 * area)


@catalogued
def zernike_psf(
    *,
    lambda_over_d: Any = None,
    obscuration: Any = None,
    aberrations: Any = None,
    noll: Sequence[int] = NOLL,
    **options: Any,
) -> Component:
    """A PSF with aberrations, :class:`ZernikePSF`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then `lambda_over_d` and
    `obscuration` have the priors of :func:`bayesprof.models.airy_psf`, and the `aberrations` are Normal(0, 0.05) waves
    each. `noll`: their indices, 4 to 11 when left out. `options`: of :class:`bayesprof.psf.PSF`.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> from bayesprof import models
    >>> image = bp.Image(np.zeros((30, 40)), sigma=1.0)
    >>> psf = models.zernike_psf(lambda_over_d=1.9, obscuration=0.33, noll=(5, 6, 7, 8))
    >>> scene = bp.Scene(image, psf=psf, star=models.point_source())
    """
    check_options("zernike_psf", options)
    light: Callable[..., PSF] = partial(ZernikePSF, noll=tuple(noll), **options)
    count = len(tuple(noll))
    light(1.0, 0.0, torch.zeros(count, dtype=torch.float64))  # its checks

    def default(found: Measurement, image: Image) -> Default:
        each = dist.Normal(number(0.0, image), number(_SCATTER, image))
        # at 0 the slopes along those of even order are 0, and a fit wouldn't leave it
        start = torch.full((count,), 0.4 * _SCATTER)
        return Default(each.expand((count,)).to_event(1), start, f"Normal(0, {_SCATTER}) each")

    axes = (Axis("noll", tuple(noll)),)
    parameters = {
        "lambda_over_d": LAMBDA_OVER_D,
        "obscuration": OBSCURATION,
        "aberrations": Parameter("wave", "finite", lambda values: bool(values.isfinite().all()), default, axes),
    }
    given = {"lambda_over_d": lambda_over_d, "obscuration": obscuration, "aberrations": aberrations}
    return component("zernike_psf", light, parameters, **given)
