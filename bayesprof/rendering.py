"""From light to the pixels of an image.

With a PSF an image is rendered in Fourier space, where both the profile and the convolution are exact:

    image = irfft2( sum over sources of F(k) exp(-i k . x0), times P(k) )

with F the transform of the source and P that of the PSF. The transform lives on a grid larger than the image, and the nearest
periodic copies of each profile, smooth over the image, are subtracted. With an oversampled PSF
the wavenumbers reach beyond the Nyquist frequency of the pixels and are folded back.

Without a PSF the light is integrated over each pixel in real space (:mod:`bayesprof.pixels`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bayesprof.grid import fast_odd_length, per_pixel
from bayesprof.image import Image
from bayesprof.light import Background, Light, Part, Pointlike, Profile
from bayesprof.periodic import PeriodicCopies, periodic_copies
from bayesprof.pixels import integrate_over_pixels

_PADDING = 1.5  # size of the periodic grid relative to the image


class Axis(NamedTuple):
    """Wavenumbers along one axis, radians per pixel, float64, shaped to broadcast over the plane of both.

    A source at ``x`` has the phase ``weight exp(-i k x) + weight_alias exp(-i k_alias x)`` (see :func:`_alias_weights`).
    """

    k: Tensor
    k_alias: Tensor
    weight: Tensor
    weight_alias: Tensor


@dataclass(frozen=True)
class Renderer:
    """Renders light onto the pixels of one image.

    `x_axis`, `y_axis`: wavenumbers; `transfer_real`, `transfer_imag`: the transform of the PSF on them, shape (rows, columns);
    `oversampling`: how many times they reach beyond the Nyquist frequency. None, and 1, without a PSF.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device
    oversampling: int = 1
    period: tuple[int, int] | None = None
    x_axis: Axis | None = None
    y_axis: Axis | None = None
    transfer_real: Tensor | None = None
    transfer_imag: Tensor | None = None
    copies: PeriodicCopies | None = None

    def __call__(self, light: Light) -> Tensor:
        """Image of `light`, shape ``batch + (ny, nx)``, in image units per pixel."""
        parts = [part.to(self.dtype, self.device) for part in light.parts if isinstance(part, Part)]
        sources = [part for part in parts if isinstance(part, Profile | Pointlike)]
        backgrounds = [part for part in parts if isinstance(part, Background)]
        x, y = self.pixel_positions()
        image = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        if sources and self.x_axis is not None:
            image = image + self._convolved(sources)
        elif sources:
            for source in sources:
                if isinstance(source, Pointlike):
                    raise ValueError("a point source has no image without a PSF; give the image a psf")
                image = image + integrate_over_pixels(source, self.shape)
        for background in backgrounds:
            image = image + background.brightness_at(x, y)
        return image

    def pixel_positions(self) -> tuple[Tensor, Tensor]:
        """Pixel centres `x` of shape (1, nx) and `y` of shape (ny, 1)."""
        ny, nx = self.shape
        x = torch.arange(nx, dtype=self.dtype, device=self.device)[None, :]
        y = torch.arange(ny, dtype=self.dtype, device=self.device)[:, None]
        return x, y

    def _convolved(self, sources: list[Profile | Pointlike]) -> Tensor:
        assert self.x_axis is not None and self.y_axis is not None and self.copies is not None
        kx, ky = self.x_axis.k.to(self.dtype), self.y_axis.k.to(self.dtype)
        real: Tensor | float = 0.0
        imag: Tensor | float = 0.0
        copies: Tensor | float = 0.0
        for source in sources:
            # phases are outer products; one-dimensional, so float64 costs nothing and keeps float32 images exact
            cos_x, sin_x = self._shift(self.x_axis, source.x)
            cos_y, sin_y = self._shift(self.y_axis, source.y)
            if isinstance(source, Profile):
                amplitude = source.transform_at(kx, ky)
                copies = copies + self.copies(source)
            else:
                amplitude = per_pixel(source.flux)
            real = real + amplitude * (cos_x * cos_y - sin_x * sin_y)
            imag = imag - amplitude * (sin_x * cos_y + cos_x * sin_y)
        return self._to_pixels(real, imag) - copies

    def _shift(self, axis: Axis, position: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of the phase that moves a source to `position` along one axis."""
        position = per_pixel(position.to(torch.float64))
        phase, alias = axis.k * position, axis.k_alias * position
        cos = axis.weight * torch.cos(phase) + axis.weight_alias * torch.cos(alias)
        sin = axis.weight * torch.sin(phase) + axis.weight_alias * torch.sin(alias)
        return cos.to(self.dtype), sin.to(self.dtype)

    def _to_pixels(self, real: Tensor | float, imag: Tensor | float) -> Tensor:
        """Multiply by the PSF's transform, fold, transform back and cut out the image."""
        assert self.transfer_real is not None and self.transfer_imag is not None and self.period is not None
        plane = torch.complex(
            real * self.transfer_real - imag * self.transfer_imag,
            real * self.transfer_imag + imag * self.transfer_real,
        )
        rows, columns = self.period
        ny, nx = self.shape
        step = self.oversampling
        # rows: sampling every `step`-th point adds the aliased wavenumbers; columns: transform, then take every `step`-th
        folded = plane.unflatten(-2, (step, rows)).sum(-3) * step
        by_row = torch.fft.ifft(folded, dim=-2)[..., :ny, :]
        return torch.fft.irfft(by_row, n=columns * step, dim=-1)[..., : nx * step : step]


def renderer_for(image: Image) -> Renderer:
    """The renderer of `image`: its pixels, its PSF, its dtype and device."""
    if image.psf is None:
        return Renderer(image.shape, image.dtype, image.device)
    step = image.psf_oversampling
    half = [math.ceil(size / (2 * step)) + 1 for size in image.psf.shape]
    rows, columns = (
        fast_odd_length(max(math.ceil(_PADDING * size), size + reach))
        for size, reach in zip(image.shape, half, strict=True)
    )
    ky = 2 * math.pi * step * torch.fft.fftfreq(rows * step, dtype=torch.float64)[:, None]
    kx = 2 * math.pi * step * torch.fft.rfftfreq(columns * step, dtype=torch.float64)[None, :]
    transfer = psf_transform(image.psf.to(device="cpu", dtype=torch.float64), kx, ky, step)
    x_axis, y_axis = _axis(kx, transfer[:1].abs(), image), _axis(ky, transfer[:, :1].abs(), image)
    if not image.psf_contains_pixel:
        transfer = transfer * _pixel(kx) * _pixel(ky)
    return Renderer(
        image.shape,
        image.dtype,
        image.device,
        oversampling=step,
        period=(rows, columns),
        x_axis=Axis(*(tensor.to(image.device) for tensor in x_axis)),
        y_axis=Axis(*(tensor.to(image.device) for tensor in y_axis)),
        transfer_real=transfer.real.to(dtype=image.dtype, device=image.device),
        transfer_imag=transfer.imag.to(dtype=image.dtype, device=image.device),
        copies=periodic_copies(image.shape, (rows, columns), dtype=image.dtype, device=image.device),
    )


def _pixel(k: Tensor) -> Tensor:
    """Transform of a square pixel, along one axis."""
    return torch.sinc(k / (2 * math.pi))


def _axis(k: Tensor, transfer: Tensor, image: Image) -> Axis:
    k_alias = k - 2 * math.pi * torch.sign(k)
    ratio = _alias_ratio(k, transfer, image.psf_contains_pixel) if image.psf_oversampling == 1 else torch.zeros_like(k)
    weight, weight_alias = 1 / (1 + ratio), ratio / (1 + ratio)
    if not image.psf_contains_pixel:
        weight_alias = weight_alias * _pixel(k_alias) / _pixel(k)
    return Axis(k, k_alias, weight, weight_alias)


def _alias_ratio(k: Tensor, transfer: Tensor, contains_pixel: bool) -> Tensor:
    """How much of the PSF's sampled transform at `k` comes from beyond the Nyquist frequency, over what comes from `k`.

    The samples of a PSF hold the sum of both. Shifted by a fraction of a pixel, they move with different phases: taken as one,
    compact sources are off by a few 1e-4 at a FWHM of 3.5 pixels. Near the Nyquist frequency the transform of a PSF falls nearly
    exponentially, but for the factor of the pixel; that law is fitted to `transfer`, its modulus along the axis, and extrapolated.
    Where the transform doesn't fall like that (noise, diffraction cut-off) the ratio is 0.
    """
    magnitude, distance = transfer.flatten(), k.abs().flatten()
    alias = 2 * math.pi - distance
    pixel, pixel_alias = (_pixel(value) if contains_pixel else torch.ones_like(value) for value in (distance, alias))
    band = (distance > 0.6 * math.pi) & (distance < math.pi)
    ratio = torch.zeros_like(distance)
    for _ in range(8):
        log_optics = torch.log(magnitude[band] / ((1 + ratio[band]) * pixel[band]))
        design = torch.stack([torch.ones_like(distance[band]), distance[band]], dim=-1)
        slope = torch.linalg.lstsq(design, log_optics[:, None]).solution[1]
        ratio = torch.exp(slope * (alias - distance)) * pixel_alias / pixel
    residual = log_optics - design @ torch.linalg.lstsq(design, log_optics[:, None]).solution[:, 0]
    falls_exponentially = slope < -1 and residual.abs().max() < 0.3
    return ratio.reshape(k.shape) if falls_exponentially else torch.zeros_like(k)


def psf_transform(psf: Tensor, kx: Tensor, ky: Tensor, oversampling: int) -> Tensor:
    """Transform of a PSF sampled every 1/`oversampling` pixel, about the geometric centre of its array.

    `kx` (1, columns), `ky` (rows, 1): radians per pixel. A sum over the array's rows and columns as two matrix products.
    """
    y, x = ((torch.arange(size, dtype=torch.float64) - 0.5 * (size - 1)) / oversampling for size in psf.shape)
    by_row = torch.exp(-1j * ky * y[None, :])
    by_column = torch.exp(-1j * x[:, None] * kx)
    return by_row @ psf.to(torch.complex128) @ by_column
