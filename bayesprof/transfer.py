"""The PSF in Fourier space: wavenumbers, the transform of its samples, and what the sampling hides.

With an oversampled PSF the wavenumbers reach beyond the Nyquist frequency of the pixels. With one sampled at the
pixels, the samples hold the sum of what comes from below and from above the Nyquist frequency; the two are told
apart by how the transform falls (:func:`alias_ratio`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_FALLS = -1.0  # slope of the logarithm of the transform near the Nyquist frequency below which it counts as falling
_UNSEEN = 1e-4  # of a PSF's light may lie farther out than its reach is taken to be
# of the transform at 0: where no alias is above the first, none is followed, and else those above the second
_MATTERS, _FOLLOWED = 5e-4, 2e-4
_SMOOTH = 0.3  # largest deviation from a straight line, in that logarithm


class Axis(NamedTuple):
    """Wavenumbers along one axis, radians per pixel, float64, shaped to broadcast over the plane of both. The weights
    may have a batch.

    A source at ``x`` has the phase ``sum of weights exp(-i both x)``: with the wavenumber itself, and with its alias
    where the two are told apart, stacked along a first axis.
    """

    k: Tensor
    both: Tensor
    weights: Tensor

    def to(self, device: torch.device) -> Axis:
        return Axis(*(tensor.to(device) for tensor in self))

    def phase(self, position: Tensor) -> Tensor:
        """Factor of the transform of a source at `position`, shape ``batch + (1, 1)``; complex128."""
        angle = self.both * position.to(torch.float64)[..., None, :, :]
        return torch.complex((self.weights * torch.cos(angle)).sum(-3), -(self.weights * torch.sin(angle)).sum(-3))


class Optics(NamedTuple):
    """A PSF on the wavenumbers of one transform: `x_axis`, `y_axis`, and `transfer`, its own transform there, complex,
    of shape (rows, columns).
    """

    x_axis: Axis
    y_axis: Axis
    transfer: Tensor


def optics(psf: Tensor, period: tuple[int, int], oversampling: int, *, contains_pixel: bool) -> Optics:
    """A PSF, sampled every 1/`oversampling` pixel, for a transform of `period` pixels; float64."""
    kx, ky = wavenumbers(period, oversampling)
    transfer = psf_transform(psf, kx, ky, oversampling)
    x_axis, y_axis = (
        axis_of(k, modulus, oversampling=oversampling, contains_pixel=contains_pixel)
        for k, modulus in ((kx, transfer[:1].abs()), (ky, transfer[:, :1].abs()))
    )
    if not contains_pixel:
        transfer = transfer * pixel_transform(kx) * pixel_transform(ky)
    return Optics(x_axis, y_axis, transfer)


def to_pixels(plane: Tensor, shape: tuple[int, int], period: tuple[int, int], oversampling: int) -> Tensor:
    """Image of `shape` (ny, nx) from a transform of `period`: fold, transform back and cut out the image.

    Of a `plane` with fewer rows and columns, those of the lowest wavenumbers, all others are zero.
    """
    rows, columns = period
    ny, nx = shape
    if plane.shape[-2] < rows * oversampling:
        most = (plane.shape[-2] + 1) // 2
        rest = plane.new_zeros(*plane.shape[:-2], rows * oversampling - plane.shape[-2], plane.shape[-1])
        plane = torch.cat([plane[..., :most, :], rest, plane[..., most:, :]], dim=-2)
    # rows: taking every `oversampling`-th point adds the aliased wavenumbers; columns: transform, then take every one
    folded = plane.unflatten(-2, (oversampling, rows)).sum(-3) * oversampling if oversampling > 1 else plane
    by_row = torch.fft.ifft(folded, dim=-2)[..., :ny, :]
    if by_row.shape[-1] < columns * oversampling // 2 + 1:
        rest = by_row.new_zeros(*by_row.shape[:-1], columns * oversampling // 2 + 1 - by_row.shape[-1])
        by_row = torch.cat([by_row, rest], dim=-1)
    return torch.fft.irfft(by_row, n=columns * oversampling, dim=-1)[..., : nx * oversampling : oversampling]


def wavenumbers(period: tuple[int, int], oversampling: int) -> tuple[Tensor, Tensor]:
    """`kx` (1, columns) and `ky` (rows, 1) of a real transform with `period` pixels, up to `oversampling` Nyquist
    frequencies.
    """
    rows, columns = (size * oversampling for size in period)
    kx = 2 * math.pi * oversampling * torch.fft.rfftfreq(columns, dtype=torch.float64)
    ky = 2 * math.pi * oversampling * torch.fft.fftfreq(rows, dtype=torch.float64)
    return kx[None, :], ky[:, None]


def psf_transform(psf: Tensor, kx: Tensor, ky: Tensor, oversampling: int) -> Tensor:
    """Transform of a PSF, shape ``batch + (h, w)``, sampled every 1/`oversampling` pixel, about the geometric centre of
    its array.

    A sum over the array's rows and columns, as two matrix products; shape ``batch + (rows, columns)``, complex.
    """
    y, x = (
        (torch.arange(size, dtype=kx.dtype, device=kx.device) - 0.5 * (size - 1)) / oversampling
        for size in psf.shape[-2:]
    )
    by_row = torch.exp(-1j * ky * y[None, :])
    by_column = torch.exp(-1j * x[:, None] * kx)
    return by_row @ psf.to(by_row.dtype) @ by_column


def psf_reach(profile: Tensor) -> int:
    """Samples from the middle of a PSF summed along one axis within which all but `_UNSEEN` of its light lies."""
    light = profile.abs().cpu()
    middle = (len(light) - 1) // 2
    outwards = torch.zeros(middle + 2, dtype=light.dtype)
    for side in (light[middle:], light[: middle + 1].flip(0)):
        outwards[: len(side)] = torch.maximum(outwards[: len(side)], side)
    beyond = 2 * outwards.flip(0).cumsum(0).flip(0)
    return int((beyond > _UNSEEN * light.sum()).sum())


class Moments(NamedTuple):
    """Mean and second moments of a PSF about the origin, pixels; tensors of shape ``batch`` where it is drawn."""

    x: float | Tensor
    y: float | Tensor
    xx: float | Tensor
    xy: float | Tensor
    yy: float | Tensor


def psf_moments(psf: Tensor, oversampling: int, *, contains_pixel: bool) -> Moments:
    """Moments of a PSF sampled every 1/`oversampling` pixel about the centre of its array, and of the pixel where it
    doesn't contain one.
    """
    y, x = ((torch.arange(size, dtype=torch.float64) - 0.5 * (size - 1)) / oversampling for size in psf.shape)
    pixel = 0.0 if contains_pixel else 1 / 12
    along_x, along_y = psf.sum(0), psf.sum(1)
    return Moments(
        float(along_x @ x),
        float(along_y @ y),
        float(along_x @ x**2) + pixel,
        float(y @ psf @ x),
        float(along_y @ y**2) + pixel,
    )


def moments_within(transform: Callable[[Tensor, Tensor], Tensor], radius: float, like: Tensor) -> Moments:
    """Moments of a PSF's light within about `radius` pixels, from its `transform` of (kx, ky) at wavenumbers of 1 over
    that radius; tensors on the dtype and device of `like`.

    The second moments of a PSF with heavy wings, such as those of an aperture or of a Moffat profile with beta <= 2,
    are infinite; of others they are the limit of a large radius.
    """
    step = 1 / radius
    k = torch.tensor([0.0, step], dtype=like.dtype, device=like.device)
    values = transform(k[None, :], k[:, None])
    along_x, along_y, along_both = values[..., 0, 1], values[..., 1, 0], values[..., 1, 1]
    xx, yy, both = (2 / step**2 * (1 - value.real) for value in (along_x, along_y, along_both))
    if not values.is_complex():
        return Moments(0.0, 0.0, xx, 0.5 * (both - xx - yy), yy)
    return Moments(-along_x.imag / step, -along_y.imag / step, xx, 0.5 * (both - xx - yy), yy)


def pixel_transform(k: Tensor) -> Tensor:
    """Transform of a square pixel, along one axis."""
    return torch.sinc(k / (2 * math.pi))


def axis_of(k: Tensor, modulus: Tensor, *, oversampling: int, contains_pixel: bool) -> Axis:
    """Axis of wavenumbers `k` for a PSF whose transform has `modulus` along it."""
    k_alias = k - 2 * math.pi * torch.sign(k)
    ratio = alias_ratio(k, modulus, contains_pixel=contains_pixel) if oversampling == 1 else torch.zeros_like(k)
    if not bool((ratio > 0).any()):
        return Axis(k, k[None], torch.ones_like(k)[None])
    weight, weight_alias = 1 / (1 + ratio), ratio / (1 + ratio)
    if not contains_pixel:
        weight_alias = weight_alias * pixel_transform(k_alias) / pixel_transform(k)
    return Axis(k, torch.stack([k, k_alias]), torch.stack([weight, weight_alias]))


class Places(NamedTuple):
    """Those from `start` on, before `stop`."""

    start: int = 0
    stop: int = 0


def followed_apart(axis: Axis, modulus: Tensor) -> tuple[Axis, Places]:
    """`axis` with the aliases that matter appended, as wavenumbers of their own, and the places of those whose aliases
    they are; `modulus` is that of the PSF's transform along the axis. Both may have a batch, of PSFs: an alias that
    matters to one of them is followed for all.

    An extended source has another transform at an alias than at the wavenumber itself. Taken as equal, it costs up to
    1e-4 of compact sources at a FWHM of 3.5 pixels, where no alias is followed, 3e-4 at 3 and 1.4e-3 at 2.5.
    """
    if len(axis.both) == 1:
        return axis, Places()
    dim = -1 if axis.k.shape[-1] > 1 else -2
    own, of_aliases = axis.weights.unbind(-3)
    content = (of_aliases.abs() * modulus).reshape(-1, axis.k.numel()).amax(0)
    if float(content.max()) < _MATTERS:
        return axis, Places()
    matter = (content > _FOLLOWED).nonzero()
    start, stop = int(matter.min()), int(matter.max()) + 1
    aliases, weights = (values.narrow(dim, start, stop - start) for values in (axis.both[1], of_aliases))
    rest = of_aliases.clone()
    rest.narrow(dim, start, stop - start).zero_()
    k = torch.cat([axis.k, aliases], dim)
    both = torch.stack([k, torch.cat([axis.both[1], torch.zeros_like(aliases)], dim)])
    shares = torch.stack([torch.cat([own, weights], dim), torch.cat([rest, torch.zeros_like(weights)], dim)], -3)
    return Axis(k, both, shares), Places(start, stop)


def fold(plane: Tensor, places: Places, dim: int) -> Tensor:
    """`plane` with the aliases at its end along `dim` added to the `places` that they are aliases of."""
    count = places.stop - places.start
    if count == 0:
        return plane
    size = plane.shape[dim] - count
    met = plane.narrow(dim, places.start, count) + plane.narrow(dim, size, count)
    before, after = plane.narrow(dim, 0, places.start), plane.narrow(dim, places.stop, size - places.stop)
    return torch.cat([part for part in (before, met, after) if part.shape[dim]], dim)


def alias_ratio(k: Tensor, modulus: Tensor, *, contains_pixel: bool) -> Tensor:
    """How much of the transform of a PSF's samples at `k` comes from beyond the Nyquist frequency, over what comes
    from `k`.

    Shifted by a fraction of a pixel the two move with different phases; taken as one, compact sources are off by a
    few 1e-4 at a FWHM of 3.5 pixels. Near the Nyquist frequency the transform of a PSF falls nearly exponentially,
    but for the factor of the pixel; that law is fitted to `modulus` and extrapolated. Where the transform doesn't
    fall like that (noise, a diffraction cut-off) the ratio is 0.
    """
    distance = k.abs().flatten()
    alias = 2 * math.pi - distance
    pixel, pixel_alias = (
        pixel_transform(value) if contains_pixel else torch.ones_like(value) for value in (distance, alias)
    )
    band = (distance > 0.6 * math.pi) & (distance < math.pi)
    # a line by sums: torch.linalg.lstsq rounds differently from process to process
    offset = distance[band] - distance[band].mean()
    ratio = torch.zeros_like(distance)
    for _ in range(8):
        log_optics = torch.log(modulus.flatten()[band] / ((1 + ratio[band]) * pixel[band]))
        slope = (offset * log_optics).sum() / (offset**2).sum()
        ratio = torch.exp(slope * (alias - distance)) * pixel_alias / pixel
    falls = slope < _FALLS and (log_optics - log_optics.mean() - slope * offset).abs().max() < _SMOOTH
    return ratio.reshape(k.shape) if falls else torch.zeros_like(k)
