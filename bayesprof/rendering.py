"""From light to the pixels of an image.

With a PSF an image is rendered in Fourier space, where both the profile and the convolution are exact:

    image = irfft2( sum over sources of F(k) exp(-i k . x0), times P(k) )

with F the transform of the source and P that of the PSF (:mod:`bayesprof.transfer`). The transform lives on a grid
larger than the image, and the periodic copies of each profile are subtracted (:mod:`bayesprof.periodic`). With an
oversampled PSF the wavenumbers reach beyond the Nyquist frequency of the pixels and are folded back. The PSF may have
parameters (:mod:`bayesprof.psf`): then P is computed anew for each of their values. A sampled PSF may vary over the
image (:mod:`bayesprof.psf_field`): then each source is multiplied by the P at its own centre, and the periodic copies,
which are smooth, are blurred as by the PSF at the middle of the image.

Light without a Fourier transform of its own is brought there from real space (:mod:`bayesprof.surfaces`), on a
transform whose margin is as wide as the PSF reaches.

Without a PSF the light is integrated over each pixel in real space (:mod:`bayesprof.pixels`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bayesprof.field_transfer import FieldTransfer, field_transfer
from bayesprof.grid import fast_length, per_pixel
from bayesprof.image import Image
from bayesprof.lattices import lattice_image
from bayesprof.light import Background, Extended, Lattice, Light, Part, Pointlike, Surface
from bayesprof.periodic import DrawnBlur, PeriodicCopies, derivatives_on_nodes, periodic_copies
from bayesprof.pixels import integrate_over_pixels
from bayesprof.psf import PSF
from bayesprof.surfaces import SurfaceConvolution, surface_convolution, surface_period
from bayesprof.transfer import (
    Axis,
    Moments,
    Optics,
    Places,
    fold,
    followed_apart,
    moments_within,
    optics,
    pixel_transform,
    psf_moments,
    psf_reach,
    to_pixels,
    wavenumbers,
)
from bayesprof.wings import WingCopies, wing_copies

_PADDING = 1.5  # size of the periodic grid relative to the image


@dataclass(frozen=True)
class Convolution:
    """Renders sources through a PSF.

    `shape`: of the image, (ny, nx); `period`: of the transform, pixels, (rows, columns); `oversampling`: how many
    times the wavenumbers of `x_axis` and `y_axis` reach beyond the Nyquist frequency, with aliases behind them that
    belong to `x_aliased` and `y_aliased`; `transfer`: transform of the PSF, real or complex, shape
    ``batch + (rows, columns)`` of that grid; `field`: the same at each position, where the PSF varies over the image.
    """

    shape: tuple[int, int]
    period: tuple[int, int]
    oversampling: int
    x_axis: Axis
    y_axis: Axis
    transfer: Tensor
    copies: PeriodicCopies
    x_aliased: Places
    y_aliased: Places
    field: FieldTransfer | None = None

    def __call__(self, sources: list[Extended | Pointlike]) -> Tensor:
        """Image of `sources`, shape ``batch + (ny, nx)``."""
        dtype = self.transfer.dtype.to_complex()
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
            if isinstance(source, Extended):
                waves = (along_y * along_x) * (amplitude * source.transform_at(kx, ky))
            else:
                waves = (along_y * amplitude) * along_x
            spectrum = spectrum + (
                waves if self.field is None else self._folded(waves) * self.field.at(source.x, source.y)
            )
            if isinstance(source, Extended):
                copies = copies + self.copies(source, presence)
        spectrum = torch.as_tensor(spectrum)
        if self.field is None:
            spectrum = self._folded(spectrum) * self.transfer
        return to_pixels(spectrum, self.shape, self.period, self.oversampling) - copies

    def _folded(self, spectrum: Tensor) -> Tensor:
        return fold(fold(spectrum, self.x_aliased, -1), self.y_aliased, -2)


@dataclass(frozen=True)
class ModelConvolution:
    """Renders sources through a PSF with parameters.

    `through_pixel`: the convolution without it, with the integration over a pixel where the PSF doesn't contain one;
    `d_x`, `d_y`: as of :class:`bayesprof.periodic.DrawnBlur`; `wings`: the periodic copies of the PSF's own light.
    """

    through_pixel: Convolution
    d_x: Tensor
    d_y: Tensor
    wings: WingCopies

    def __call__(self, sources: list[Extended | Pointlike], psf: PSF) -> Tensor:
        """Image of `sources`, shape ``batch + (ny, nx)``."""
        pixel = self.through_pixel
        kx, ky = (axis.k.to(self.d_x.dtype) for axis in (pixel.x_axis, pixel.y_axis))
        moments = moments_within(psf.transform_at, 0.5 * min(pixel.period), like=self.d_x)
        if not psf.contains_pixel:
            moments = moments._replace(xx=moments.xx + 1 / 12, yy=moments.yy + 1 / 12)
        convolution = replace(
            pixel,
            transfer=pixel.transfer * psf.transform_at(kx, ky),
            copies=replace(pixel.copies, blur=DrawnBlur(self.d_x, self.d_y, moments)),
        )
        image = convolution(sources)
        x, y, flux = (
            torch.stack(torch.broadcast_tensors(*values), dim=-1)
            for values in zip(
                *((source.x, source.y, pixel.copies.presence(source) * source.flux) for source in sources), strict=True
            )
        )
        copies = self.wings(psf, x, y, flux)
        return image if copies is None else image - copies


@dataclass(frozen=True)
class Renderer:
    """Renders light onto the pixels of one image; `convolution` and `surfaces` are None for an image without a PSF."""

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device
    convolution: Convolution | ModelConvolution | None
    surfaces: SurfaceConvolution | None

    def __call__(self, light: Light, psf: PSF | None = None) -> Tensor:
        """Image of `light`, shape ``batch + (ny, nx)``, in image units per pixel.

        `psf`: the PSF where it has parameters, of the kind that the renderer was made for.

        Raises ValueError for a point source without a PSF, and for a PSF among the sources.
        """
        if any(isinstance(part, PSF) for part in light.parts):
            raise ValueError("a PSF is not a source; give it as Scene(image, psf=models.moffat_psf(), ...)")
        parts = [part.to(self.dtype, self.device) for part in light.parts if isinstance(part, Part)]
        sources = [part for part in parts if isinstance(part, Extended | Pointlike)]
        surfaces = [part for part in parts if isinstance(part, Surface | Lattice)]
        ny, nx = self.shape
        x = torch.arange(nx, dtype=self.dtype, device=self.device)[None, :]
        y = torch.arange(ny, dtype=self.dtype, device=self.device)[:, None]
        image = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        if sources and isinstance(self.convolution, ModelConvolution):
            if psf is None:
                raise ValueError("this renderer was made for a PSF with parameters, and got none; give it psf=")
            image = image + self.convolution(sources, psf.to(self.dtype, self.device))
        elif sources and isinstance(self.convolution, Convolution):
            image = image + self.convolution(sources)
        elif sources:
            for source in sources:
                if isinstance(source, Pointlike):
                    raise ValueError("a point source has no image without a PSF; give the Image or the Scene a psf=")
                image = image + integrate_over_pixels(source, self.shape)
        if surfaces and self.surfaces is not None:
            seeing = self.surfaces if psf is None else self.surfaces.through(psf)
            image = image + seeing(surfaces)
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


def renderer_for(image: Image, psf: PSF | None = None) -> Renderer:
    """The renderer of `image`: its pixels, its PSF, its dtype and device.

    `psf`: one with parameters, in place of that of the image. Its kind, `oversampling`, `contains_pixel` and `reach`
    count; the values of its parameters don't.
    """
    convolution: Convolution | ModelConvolution | None = None
    surfaces = None
    if psf is not None:
        convolution, surfaces = _model_convolution(image, psf), _model_surfaces(image, psf)
    elif image.psf is not None:
        stamp = image.psf.to(device="cpu", dtype=torch.float64)
        convolution, surfaces = _convolution(image, stamp), _surfaces(image, stamp)
    return Renderer(image.shape, image.dtype, image.device, convolution, surfaces)


def _convolution(image: Image, psf: Tensor) -> Convolution:
    step = image.psf_oversampling
    reach_y, reach_x = (math.ceil(size / (2 * step)) + 1 for size in psf.shape)
    period = _period(image.shape, reach_y, reach_x)
    x_axis, y_axis, transfer = _optics(image, psf, period)
    x_axis, x_aliased = followed_apart(x_axis, transfer[:1].abs())
    y_axis, y_aliased = followed_apart(y_axis, transfer[:, :1].abs())
    # where the PSF varies, those of the middle of the image; the copies are a few thousandths of the light
    moments = psf_moments(psf, step, contains_pixel=image.psf_contains_pixel)
    return Convolution(
        shape=image.shape,
        period=period,
        oversampling=step,
        x_axis=x_axis,
        y_axis=y_axis,
        transfer=transfer,
        copies=periodic_copies(image.shape, period, moments, dtype=image.dtype, device=image.device),
        x_aliased=x_aliased,
        y_aliased=y_aliased,
        field=_field(image, period),
    )


def _model_convolution(image: Image, psf: PSF) -> ModelConvolution:
    period = _period(image.shape, psf.reach, psf.reach)
    x_axis, y_axis, transfer = _pixel_optics(image, psf, period)
    at_origin = Moments(0.0, 0.0, 0.0, 0.0, 0.0)
    dtype, device = image.dtype, image.device
    through_pixel = Convolution(
        shape=image.shape,
        period=period,
        oversampling=psf.oversampling,
        x_axis=x_axis,
        y_axis=y_axis,
        transfer=transfer.real,
        copies=periodic_copies(image.shape, period, at_origin, dtype=dtype, device=device),
        x_aliased=Places(),
        y_aliased=Places(),
    )
    d_x, d_y = (matrix.to(dtype=dtype, device=device) for matrix in derivatives_on_nodes(image.shape))
    return ModelConvolution(through_pixel, d_x, d_y, wing_copies(image.shape, period, dtype=dtype, device=device))


def _period(shape: tuple[int, int], reach_y: int, reach_x: int) -> tuple[int, int]:
    """Size (rows, columns) of the periodic grid for an image of `shape` and a PSF that reaches so many pixels."""
    ny, nx = shape
    return (
        fast_length(max(math.ceil(_PADDING * ny), ny + reach_y), odd=True),
        fast_length(max(math.ceil(_PADDING * nx), nx + reach_x), odd=False),
    )


def _surfaces(image: Image, psf: Tensor) -> SurfaceConvolution:
    step, field = image.psf_oversampling, image.psf_field
    # where the PSF varies, room for its widest and rings for its sharpest
    stamps = psf[None] if field is None else torch.from_numpy(field.stamps_over(image.shape))
    reach_y, reach_x = (math.ceil(max(psf_reach(stamp.sum(1 - axis)) for stamp in stamps) / step) for axis in (0, 1))
    period = surface_period(image.shape, reach_y, reach_x)
    seen = _optics(image, psf, period)
    if field is None:
        return surface_convolution(image.shape, period, step, seen, dtype=image.dtype)
    transforms = (optics(stamp, period, step, contains_pixel=image.psf_contains_pixel).transfer for stamp in stamps)
    most = torch.stack([transform.abs() for transform in transforms]).amax(0).to(seen.transfer)
    convolution = surface_convolution(image.shape, period, step, seen._replace(transfer=most), dtype=image.dtype)
    return replace(convolution, optics=seen, field=_field(image, period))


def _field(image: Image, period: tuple[int, int]) -> FieldTransfer | None:
    """The PSF at each position, on the wavenumbers of a transform of `period`, where it varies over `image`."""
    if image.psf_field is None:
        return None
    return field_transfer(
        image.psf_field,
        image.shape,
        period,
        contains_pixel=image.psf_contains_pixel,
        dtype=image.dtype,
        device=image.device,
    )


def _model_surfaces(image: Image, psf: PSF) -> SurfaceConvolution:
    period = surface_period(image.shape, psf.reach, psf.reach)
    through_pixel = _pixel_optics(image, psf, period)
    return surface_convolution(image.shape, period, psf.oversampling, through_pixel, dtype=image.dtype)


def _optics(image: Image, psf: Tensor, period: tuple[int, int]) -> Optics:
    """The PSF on the wavenumbers of a transform of `period`, on the dtype and device of `image`; axes in float64."""
    found = optics(psf, period, image.psf_oversampling, contains_pixel=image.psf_contains_pixel)
    transfer = found.transfer.to(dtype=image.dtype.to_complex(), device=image.device)
    return Optics(found.x_axis.to(image.device), found.y_axis.to(image.device), transfer)


def _pixel_optics(image: Image, psf: PSF, period: tuple[int, int]) -> Optics:
    """What a PSF with parameters leaves to be constant: the integration over a pixel, where it doesn't contain one."""
    kx, ky = wavenumbers(period, psf.oversampling)
    transfer = torch.ones(len(ky), kx.shape[-1], dtype=torch.float64)
    if not psf.contains_pixel:
        transfer = pixel_transform(kx) * pixel_transform(ky)
    x_axis, y_axis = (Axis(k, k[None], torch.ones_like(k)[None]).to(image.device) for k in (kx, ky))
    return Optics(x_axis, y_axis, transfer.to(dtype=image.dtype.to_complex(), device=image.device))
