"""From light to the pixels of an image.

With a PSF an image is rendered in Fourier space, where both the profile and the convolution are exact:

    image = irfft2( sum over sources of F(k) exp(-i k . x0), times P(k) )

with F the transform of the source and P that of the PSF (:mod:`bayesprof.transfer`). The transform lives on a grid
larger than the image, and the periodic copies of each profile are subtracted (:mod:`bayesprof.periodic`). With an
oversampled PSF the wavenumbers reach beyond the Nyquist frequency of the pixels and are folded back.

Light without a Fourier transform of its own is brought there from real space (:mod:`bayesprof.surfaces`), on a
transform whose margin is as wide as the PSF reaches.

Without a PSF the light is integrated over each pixel in real space (:mod:`bayesprof.pixels`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesprof.grid import fast_length, per_pixel
from bayesprof.image import Image
from bayesprof.lattices import lattice_image
from bayesprof.light import Background, Lattice, Light, Part, Pointlike, Profile, Surface
from bayesprof.periodic import PeriodicCopies, periodic_copies
from bayesprof.pixels import integrate_over_pixels
from bayesprof.surfaces import SurfaceConvolution, surface_convolution, surface_period
from bayesprof.transfer import Axis, Optics, optics, psf_moments, to_pixels

_PADDING = 1.5  # size of the periodic grid relative to the image


@dataclass(frozen=True)
class Convolution:
    """Renders sources through a PSF.

    `shape`: of the image, (ny, nx); `period`: of the transform, pixels, (rows, columns); `oversampling`: how many
    times the wavenumbers of `x_axis` and `y_axis` reach beyond the Nyquist frequency; `transfer`: transform of the PSF
    on them, complex, shape (rows, columns) of that grid.
    """

    shape: tuple[int, int]
    period: tuple[int, int]
    oversampling: int
    x_axis: Axis
    y_axis: Axis
    transfer: Tensor
    copies: PeriodicCopies

    def __call__(self, sources: list[Profile | Pointlike]) -> Tensor:
        """Image of `sources`, shape ``batch + (ny, nx)``."""
        dtype = self.transfer.dtype
        kx, ky = (axis.k.to(dtype.to_real()) for axis in (self.x_axis, self.y_axis))
        spectrum: Tensor | float = 0.0
        copies: Tensor | float = 0.0
        for source in sources:
            # one-dimensional, so float64 costs nothing and keeps float32 images exact
            along_x, along_y = (
                axis.phase(per_pixel(position)).to(dtype)
                for axis, position in ((self.x_axis, source.x), (self.y_axis, source.y))
            )
            presence = self.copies.presence(source)
            amplitude: Tensor = per_pixel(presence * source.flux)
            if isinstance(source, Profile):
                spectrum = spectrum + (along_y * along_x) * (amplitude * source.transform_at(kx, ky))
                copies = copies + self.copies(source, presence)
            else:
                spectrum = spectrum + (along_y * amplitude) * along_x
        return to_pixels(spectrum * self.transfer, self.shape, self.period, self.oversampling) - copies


@dataclass(frozen=True)
class Renderer:
    """Renders light onto the pixels of one image; `convolution` and `surfaces` are None for an image without a PSF."""

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device
    convolution: Convolution | None
    surfaces: SurfaceConvolution | None

    def __call__(self, light: Light) -> Tensor:
        """Image of `light`, shape ``batch + (ny, nx)``, in image units per pixel.

        Raises ValueError for a point source without a PSF.
        """
        parts = [part.to(self.dtype, self.device) for part in light.parts if isinstance(part, Part)]
        sources = [part for part in parts if isinstance(part, Profile | Pointlike)]
        surfaces = [part for part in parts if isinstance(part, Surface | Lattice)]
        ny, nx = self.shape
        x = torch.arange(nx, dtype=self.dtype, device=self.device)[None, :]
        y = torch.arange(ny, dtype=self.dtype, device=self.device)[:, None]
        image = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        if sources and self.convolution is not None:
            image = image + self.convolution(sources)
        elif sources:
            for source in sources:
                if isinstance(source, Pointlike):
                    raise ValueError("a point source has no image without a PSF; give the Image a psf=")
                image = image + integrate_over_pixels(source, self.shape)
        if surfaces and self.surfaces is not None:
            image = image + self.surfaces(surfaces)
        elif surfaces:
            for surface in surfaces:
                if isinstance(surface, Lattice):
                    image = image + lattice_image(surface, self.shape)
                else:
                    image = image + integrate_over_pixels(surface, self.shape)
        for part in parts:
            if isinstance(part, Background):
                image = image + part.brightness_at(x, y)
        return image


def renderer_for(image: Image) -> Renderer:
    """The renderer of `image`: its pixels, its PSF, its dtype and device."""
    if image.psf is None:
        return Renderer(image.shape, image.dtype, image.device, None, None)
    psf = image.psf.to(device="cpu", dtype=torch.float64)
    return Renderer(image.shape, image.dtype, image.device, _convolution(image, psf), _surfaces(image, psf))


def _convolution(image: Image, psf: Tensor) -> Convolution:
    step = image.psf_oversampling
    reach = [math.ceil(size / (2 * step)) + 1 for size in psf.shape]
    ny, nx = image.shape
    period = (
        fast_length(max(math.ceil(_PADDING * ny), ny + reach[0]), odd=True),
        fast_length(max(math.ceil(_PADDING * nx), nx + reach[1]), odd=False),
    )
    x_axis, y_axis, transfer = _optics(image, psf, period)
    moments = psf_moments(psf, step, contains_pixel=image.psf_contains_pixel)
    return Convolution(
        shape=image.shape,
        period=period,
        oversampling=step,
        x_axis=x_axis,
        y_axis=y_axis,
        transfer=transfer,
        copies=periodic_copies(image.shape, period, moments, dtype=image.dtype, device=image.device),
    )


def _surfaces(image: Image, psf: Tensor) -> SurfaceConvolution:
    step = image.psf_oversampling
    period = surface_period(image.shape, psf, step)
    return surface_convolution(image.shape, period, step, _optics(image, psf, period), dtype=image.dtype)


def _optics(image: Image, psf: Tensor, period: tuple[int, int]) -> Optics:
    """The PSF on the wavenumbers of a transform of `period`, on the dtype and device of `image`; axes in float64."""
    found = optics(psf, period, image.psf_oversampling, contains_pixel=image.psf_contains_pixel)
    x_axis, y_axis = (Axis(*(tensor.to(image.device) for tensor in axis)) for axis in (found.x_axis, found.y_axis))
    return Optics(x_axis, y_axis, found.transfer.to(dtype=image.dtype.to_complex(), device=image.device))
