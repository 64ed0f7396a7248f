"""Surfaces through a PSF: the Fourier transform of light given by its surface brightness alone.

A smooth function ``W`` of the distance from the centre, 1 inside and 0 outside, splits the light ``I`` in two. What
lies outside, ``I (1 - W)``, varies slowly and is sampled once per pixel: for a smooth function the trapezoid rule
converges faster than any power of the step. What lies inside is summed on rings whose radii are logarithmic near the
centre, where ``I`` may have a cusp, and evenly spaced farther out,

    r = a ln(1 + exp(t)),    t uniform,

by the trapezoid rule again, in ``t`` and in the angle. Both grids are attached to the centre of the source, so that
its position enters through the phases of the transform alone. Points of the rings are brought to the wavenumbers by
the expansion of a plane wave in Chebyshev polynomials (Jacobi and Anger; Abramowitz & Stegun 1964, 9.1.44 and 9.1.45),

    exp(-i k x) = sum over a of c_a(k) T_a(x / b),    c_a = (2 - delta_a0) (-i)^a J_a(k b),    |x| <= b,

which ends soon after ``a = k b``: the light becomes a small matrix of moments, and two matrix products make the plane.

The light reaches as far beyond the image as the PSF brings it in, falls smoothly to 0 there, and no copy of it comes
back over the edge of the transform.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import erfc, jv
from torch import Tensor

from bayesprof.field_transfer import FieldTransfer
from bayesprof.grid import fast_length, per_pixel
from bayesprof.lattices import lattice_transform
from bayesprof.light import Lattice, Surface
from bayesprof.psf import PSF
from bayesprof.transfer import Axis, Optics, to_pixels

_EDGE, _WIDTH, _REACH = 7.0, 1.9, 13  # W = erfc((r - edge) / width) / 2, and its rings end at `reach`; pixels
_SPACING, _LOG_SPACING = 0.7, 0.25  # of the rings: in pixels far out, in ln r near the centre
_CENTRE = 1e-4  # pixels; within the first ring the light is taken as constant
_SPLIT = 1.5  # pixels; rings within it make a matrix of their own, as their expansion ends sooner
_ANGULAR = 56  # harmonics of the light itself along a ring
_PASSED = 1e-6  # wavenumbers where the PSF's transfer is below it don't count
_TAPER = 8  # pixels over which the light falls to 0 beyond the image and the PSF's reach


class Disc(NamedTuple):
    """Rings of points about a centre: offsets `x`, `y` and `weight`, shape (points,), pixels; and the Chebyshev
    polynomials of the offsets in units of `radius`, shape (degrees, points).
    """

    x: Tensor
    y: Tensor
    weight: Tensor
    along_x: Tensor
    along_y: Tensor


class Waves(NamedTuple):
    """Coefficients ``c_a`` of the plane waves of an :class:`Axis`, with the weights of its aliases.

    `angle` is the wavenumber, whose product with the position of the centre is the phase; shape (aliases, degrees,
    wavenumbers) and (aliases, 1, wavenumbers).
    """

    coefficients: Tensor
    angle: Tensor

    def about(self, position: Tensor) -> Tensor:
        """``exp(-i k position) c_a(k)``, shape ``batch + (degrees, wavenumbers)``."""
        turn = self.angle * position.to(torch.float64)[..., None, None, None]
        phase = torch.complex(torch.cos(turn), -torch.sin(turn))
        return (phase * self.coefficients).sum(-3)


@dataclass(frozen=True)
class SurfaceConvolution:
    """Renders surfaces and lattices through a PSF.

    `shape`: of the image; `period`: of the transform, pixels; `oversampling` and `optics`: of the PSF, on the
    wavenumbers of that transform; `field`: the same at each position, where the PSF varies over the image. `discs`:
    the rings, inner ones first, with the plane waves of each along x and y. `window`: ``1 - W`` at whole offsets from
    the centre, up to `_REACH` each way.
    """

    shape: tuple[int, int]
    period: tuple[int, int]
    oversampling: int
    optics: Optics
    discs: tuple[Disc, ...]
    x_waves: tuple[Waves, ...]
    y_waves: tuple[Waves, ...]
    window: Tensor
    field: FieldTransfer | None = None

    def __call__(self, sources: list[Surface | Lattice]) -> Tensor:
        """Image of `sources`, shape ``batch + (ny, nx)``."""
        spectrum: Tensor | float = 0.0
        for source in sources:
            waves = self._lattice(source) if isinstance(source, Lattice) else self._spectrum(source)
            spectrum = spectrum + (waves if self.field is None else waves * self.field.at(source.x, source.y))
        if self.field is None:
            spectrum = spectrum * self.optics.transfer
        return to_pixels(torch.as_tensor(spectrum), self.shape, self.period, self.oversampling)

    def through(self, psf: PSF) -> SurfaceConvolution:
        """The same through a PSF with parameters, where `optics` hold the integration over a pixel."""
        kx, ky = (axis.k.to(self.window.dtype) for axis in (self.optics.x_axis, self.optics.y_axis))
        return replace(self, optics=self.optics._replace(transfer=self.optics.transfer * psf.transform_at(kx, ky)))

    def _lattice(self, source: Lattice) -> Tensor:
        """Transform of a lattice, its nodes beyond the PSF's reach left out."""
        x, y = source.nodes()
        seen = self._taper(y, axis=0)[..., :, None] * self._taper(x, axis=1)[..., None, :]
        return lattice_transform(source, source.values * seen, self.optics.x_axis, self.optics.y_axis)

    def _spectrum(self, source: Surface) -> Tensor:
        """Transform of the light of `source` that the image sees."""
        dtype = self.optics.transfer.dtype
        x, y = torch.broadcast_tensors(source.x, source.y)
        x, y = x[..., None], y[..., None]
        column, row = self._pixels(x, axis=1), self._pixels(y, axis=0)
        fine = [(disc.x, disc.y) for disc in self.discs]
        whole_x, whole_y = torch.broadcast_tensors(column[..., None, :], row[..., :, None])
        # the brightness has no use, and perhaps no derivative, in the very centre; the window is 0 there
        centre = (whole_x == 0) & (whole_y == 0)
        dx = torch.cat(
            [
                *(part.expand(*x.shape[:-1], -1) for part, _ in fine),
                torch.where(centre, 0.5, whole_x).flatten(-2),
            ],
            -1,
        )
        dy = torch.cat([*(part.expand(*y.shape[:-1], -1) for _, part in fine), whole_y.flatten(-2)], -1)
        values = source.brightness_at(dx[..., None, :], dy[..., None, :]).squeeze(-2)
        *inside, outside = values.split([*(len(part) for part, _ in fine), whole_x.shape[-2] * whole_x.shape[-1]], -1)

        total = self._outside(outside.unflatten(-1, whole_x.shape[-2:]), column, row, x, y)
        for disc, value, x_waves, y_waves in zip(self.discs, inside, self.x_waves, self.y_waves, strict=True):
            seen = self._taper(disc.x + x, axis=1) * self._taper(disc.y + y, axis=0)
            light = value * seen * disc.weight
            moments = (disc.along_y * light[..., None, :]) @ disc.along_x.mT
            along_x, along_y = x_waves.about(x[..., 0]).to(dtype), y_waves.about(y[..., 0]).to(dtype)
            total = total + along_y.mT @ (moments.to(dtype) @ along_x)
        return total

    def _outside(self, values: Tensor, column: Tensor, row: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Transform of the light sampled once per pixel, at whole offsets `column` and `row` from the centre."""
        reach = _REACH
        at_x, at_y = ((offset.to(torch.int64)).clamp(-reach, reach) + reach for offset in (column, row))
        window = self.window[at_y[..., :, None], at_x[..., None, :]]
        # the samples move with the centre, and so does the light that falls off beyond the image
        seen_x, seen_y = self._taper(column + x, axis=1), self._taper(row + y, axis=0)
        samples = values * window * (seen_y[..., :, None] * seen_x[..., None, :])
        plane = torch.fft.rfft2(samples)
        first_x, first_y = column[..., :1] + x, row[..., :1] + y  # positions of the first sample
        phase_x, phase_y = (
            axis.phase(per_pixel(first[..., 0])).to(plane.dtype)
            for axis, first in ((self.optics.x_axis, first_x), (self.optics.y_axis, first_y))
        )
        return self._widened(plane) * (phase_y * phase_x)

    def _widened(self, plane: Tensor) -> Tensor:
        """`plane` among the wavenumbers of an oversampled PSF, 0 beyond the Nyquist frequency."""
        if self.oversampling == 1:
            return plane
        rows, columns = self.optics.transfer.shape
        half = (plane.shape[-2] + 1) // 2
        gap = plane.new_zeros(*plane.shape[:-2], rows - plane.shape[-2], plane.shape[-1])
        tall = torch.cat([plane[..., :half, :], gap, plane[..., half:, :]], -2)
        return torch.cat([tall, tall.new_zeros(*tall.shape[:-1], columns - tall.shape[-1])], -1)

    def _pixels(self, position: Tensor, *, axis: int) -> Tensor:
        """Offsets of the samples along an axis from a centre at `position`: whole numbers, one per pixel of the
        period.
        """
        pixel = torch.arange(self.period[axis], dtype=position.dtype, device=position.device)
        first = (self.period[axis] - self.shape[axis]) // 2
        return pixel - first - torch.round(position.detach())

    def _taper(self, position: Tensor, *, axis: int) -> Tensor:
        """1 in the image and as far beyond it as the PSF reaches, falling to 0 within the period."""
        middle, half = 0.5 * (self.shape[axis] - 1), 0.5 * (self.period[axis] - 1)
        step = ((half - 0.5 - (position - middle).abs()) * (1 / _TAPER)).clamp(0, 1)
        return step * step * (3 - 2 * step)


def surface_period(shape: tuple[int, int], reach_y: int, reach_x: int) -> tuple[int, int]:
    """Period, in pixels, of the transform of an image of `shape` through a PSF that reaches so many pixels: the image,
    and the reach and the taper on both sides.
    """
    ny, nx = shape
    margin_y, margin_x = (reach + _TAPER + 1 for reach in (reach_y, reach_x))
    return fast_length(ny + 2 * margin_y, odd=True), fast_length(nx + 2 * margin_x, odd=False)


def surface_convolution(
    shape: tuple[int, int], period: tuple[int, int], oversampling: int, optics: Optics, *, dtype: torch.dtype
) -> SurfaceConvolution:
    """What renders surfaces on an image of `shape`, through `optics` on the wavenumbers of a transform of `period`."""
    device = optics.transfer.device
    passed = optics.transfer.abs() > _PASSED
    limit = max(
        float((axis.k.abs().flatten() * passed.any(dim=other)).max())
        for axis, other in ((optics.x_axis, 0), (optics.y_axis, 1))
    )
    limit = math.ceil(4 * max(limit, 1.0)) / 4  # rounded, so that images share the rings
    radii = (_SPLIT, _REACH)
    discs = tuple(Disc(*(part.to(dtype=dtype, device=device) for part in disc)) for disc in _discs(limit))
    x_waves, y_waves = (
        tuple(_waves(axis, radius, len(disc.along_x)) for radius, disc in zip(radii, discs, strict=True))
        for axis in (optics.x_axis, optics.y_axis)
    )
    whole = np.arange(-_REACH, _REACH + 1)
    window = torch.from_numpy(1 - _weight(np.hypot(whole[:, None], whole[None, :])))
    return SurfaceConvolution(
        shape, period, oversampling, optics, discs, x_waves, y_waves, window.to(dtype=dtype, device=device)
    )


def _weight(radius: np.ndarray) -> np.ndarray:
    """``W``."""
    return np.where(radius < _REACH, 0.5 * erfc((radius - _EDGE) / _WIDTH), 0.0)


def _waves(axis: Axis, radius: float, degrees: int) -> Waves:
    degree = np.arange(degrees)[None, :, None]
    k = axis.both.reshape(len(axis.both), 1, -1).cpu()
    bessel = jv(degree, k.numpy() * radius)
    coefficients = np.where(degree == 0, 1, 2) * (-1j) ** degree * bessel
    weights = axis.weights.reshape(len(axis.weights), 1, -1)
    return Waves(
        torch.from_numpy(coefficients).to(k.dtype.to_complex()).to(weights.device) * weights, k.to(weights.device)
    )


@lru_cache
def _discs(limit: float) -> tuple[Disc, ...]:
    """The rings for wavenumbers up to `limit` along each axis; float64."""
    scale = _SPACING / _LOG_SPACING
    t = np.arange(math.log(math.expm1(_CENTRE / scale)), _REACH / scale + 1, _LOG_SPACING)
    radius = scale * np.logaddexp(0, t)
    measure = _LOG_SPACING * radius * scale / (1 + np.exp(-t)) * _weight(radius)
    # rings nearer to the centre, with the brightness of the first: a geometric series
    measure[0] /= -math.expm1(-2 * _LOG_SPACING)
    discs = []
    for low, high in ((0.0, _SPLIT), (_SPLIT, _REACH)):
        points = []
        for r, weight in zip(radius, measure, strict=True):
            if low <= r < high:
                count = 2 * math.ceil(0.5 * (limit * r + _ANGULAR))
                angle = 2 * math.pi * (np.arange(count) + 0.5) / count
                points.append((r * np.cos(angle), r * np.sin(angle), np.full(count, 2 * math.pi / count * weight)))
        x, y, weight = (np.concatenate(part) for part in zip(*points, strict=True))
        degree = np.arange(math.ceil(limit * high) + 12)[:, None]
        along_x, along_y = (np.cos(degree * np.arccos(part / high)) for part in (x, y))
        discs.append(Disc(*(torch.from_numpy(part) for part in (x, y, weight, along_x, along_y))))
    return tuple(discs)
