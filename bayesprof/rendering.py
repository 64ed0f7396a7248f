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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bayesprof.field_transfer import FieldTransfer, field_transfer
from bayesprof.grid import fast_length, per_pixel
from bayesprof.image import Image
from bayesprof.lattices import lattice_image
from bayesprof.light import Background, Extended, Lattice, Light, Part, Pointlike, Surface, stacked
from bayesprof.members import Batch, Member
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

_STACKED = 2**18  # wavenumbers of sources of one kind that are taken together
_PADDING = 1.5  # size of the periodic grid relative to the image


@dataclass(frozen=True)
class Convolution:
    """Renders sources through a PSF.

    `shape`: of the image, (ny, nx); `period`: of the transform, pixels, (rows, columns); `oversampling`: how many
    times the wavenumbers of `x_axis` and `y_axis` reach beyond the Nyquist frequency, with aliases behind them that
    belong to `x_aliased` and `y_aliased`; `transfer`: transform of the PSF, real or complex, shape
    ``batch + (rows, columns)`` of that grid; `field`: the same at each position, where the PSF varies over the image;
    `compact`: whether what it renders ends within the margin of the period, so that there are no copies to take off.
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
    compact: bool = False

    def __call__(self, sources: list[Extended | Pointlike | Member]) -> Tensor:
        """Image of `sources`, shape ``batch + (ny, nx)``."""
        spectrum: Any = 0.0
        nodes = None
        for indices, source in together(sources, most=self.most_together):
            waves, copies = self._waves(source)
            if len(indices) > 1:
                waves, copies = waves.sum(-3), None if copies is None else copies.sum(-3)
            spectrum = spectrum + waves
            nodes = copies if nodes is None else nodes if copies is None else nodes + copies
        return self._image(spectrum, nodes)

    def apart(self, sources: list[Extended | Pointlike | Member]) -> list[tuple[list[int], Tensor]]:
        """Image of each of the `sources`, which have no batch shape: those of one kind together, which ones they are
        and their images, shape (number, ny, nx).
        """
        images = []
        for indices, source in together(sources, most=self.most_together):
            image = self.image_of(source)
            images.append((indices, image if len(indices) > 1 else image[None]))
        return images

    def image_of(self, source: Extended | Pointlike) -> Tensor:
        """Image of one source, shape ``batch + (ny, nx)``."""
        return self._image(*self._waves(source))

    @property
    def most_together(self) -> int:
        """Sources of one kind that are best rendered at once."""
        return _STACKED // self.transfer.numel()

    def _image(self, spectrum: Tensor, copies: Tensor | None) -> Tensor:
        """Image of a sum of :meth:`_waves`."""
        if self.field is None:
            spectrum = self._folded(spectrum) * self.transfer
        image = to_pixels(spectrum, self.shape, self.period, self.oversampling)
        return image if copies is None else image - self.copies(copies)

    def _waves(self, source: Extended | Pointlike) -> tuple[Tensor, Tensor | None]:
        """Transform of a source, through the PSF where that varies; and what its periodic copies take off."""
        dtype = self.transfer.dtype.to_complex()
        kx, ky = (axis.k.to(dtype.to_real()) for axis in (self.x_axis, self.y_axis))
        # one-dimensional, so float64 costs nothing and keeps float32 images exact
        along_x, along_y = (
            axis.phase(per_pixel(position)).to(dtype)
            for axis, position in ((self.x_axis, source.x), (self.y_axis, source.y))
        )
        presence = self.copies.presence(source)
        amplitude: Tensor = per_pixel(presence * source.flux)
        copies = None
        if isinstance(source, Extended):
            waves = (along_y * along_x) * (amplitude * source.transform_at(kx, ky))
            copies = None if self.compact else self.copies.on_nodes(source, presence)
        else:
            waves = (along_y * amplitude) * along_x
        return (waves if self.field is None else self._folded(waves) * self.field.at(source.x, source.y)), copies

    def _folded(self, spectrum: Tensor) -> Tensor:
        return fold(fold(spectrum, self.x_aliased, -1), self.y_aliased, -2)


def together(sources: Sequence[Extended | Pointlike | Member], *, most: int) -> Iterator[tuple[list[int], Any]]:
    """The `sources`, those of one kind stacked where their parameters are single numbers or they are members of one
    batch, at most so many; and which ones they are.
    """
    kinds: dict[type | Batch, list[int]] = {}
    for i, source in enumerate(sources):
        kinds.setdefault(source.batch if isinstance(source, Member) else type(source), []).append(i)
    for kind, alike in kinds.items():
        for start in range(0, len(alike), max(most, 1)):
            some = alike[start : start + max(most, 1)]
            ones: list[Any] = [sources[i] for i in some]
            if len(some) == 1:
                yield some, ones[0].alone if isinstance(kind, Batch) else ones[0]
            elif isinstance(kind, Batch):
                yield some, kind.taken(ones)
            else:
                stack = stacked(ones) if ones[0].stackable else None
                yield from [([i], sources[i]) for i in some] if stack is None else [(some, stack)]


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

    def __call__(self, sources: list[Extended | Pointlike | Member], psf: PSF) -> Tensor:
        """Image of `sources`, shape ``batch + (ny, nx)``."""
        convolution = self._drawn(psf)
        image = convolution(sources)
        points = [self._points(*some) for some in together(sources, most=convolution.most_together)]
        batch = torch.broadcast_shapes(*(point.shape[:-2] for point in points))
        x, y, flux = torch.cat([point.expand(*batch, *point.shape[-2:]) for point in points], dim=-2).unbind(-1)
        copies = self.wings(psf, x, y, flux)
        return image if copies is None else image - copies

    def apart(self, sources: list[Extended | Pointlike | Member], psf: PSF) -> list[tuple[list[int], Tensor]]:
        """As :meth:`Convolution.apart`."""
        convolution = self._drawn(psf)
        images = []
        for indices, source in together(sources, most=convolution.most_together):
            image = convolution.image_of(source)
            x, y, flux = self._points(indices, source)[..., None, :].unbind(-1)
            copies = self.wings(psf, x, y, flux)
            image = image if len(indices) > 1 else image[None]
            images.append((indices, image if copies is None else image - copies))
        return images

    def _points(self, indices: list[int], source: Extended | Pointlike) -> Tensor:
        """x, y and flux, shape ``batch + (number, 3)``, of one source or of several stacked ones, as the wings of the
        PSF need them.
        """
        point = source.x, source.y, self.through_pixel.copies.presence(source) * source.flux
        found = torch.stack(torch.broadcast_tensors(*point), dim=-1)
        return found if len(indices) > 1 else found[..., None, :]

    def _drawn(self, psf: PSF) -> Convolution:
        """The convolution with a PSF."""
        pixel = self.through_pixel
        kx, ky = (axis.k.to(self.d_x.dtype) for axis in (pixel.x_axis, pixel.y_axis))
        moments = moments_within(psf.transform_at, 0.5 * min(pixel.period), like=self.d_x)
        if not psf.contains_pixel:
            moments = moments._replace(xx=moments.xx + 1 / 12, yy=moments.yy + 1 / 12)
        return replace(
            pixel,
            transfer=pixel.transfer * psf.transform_at(kx, ky),
            copies=replace(pixel.copies, blur=DrawnBlur(self.d_x, self.d_y, moments)),
        )


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
        parts = self._parts(light)
        sources: list[Any] = [part for part in parts if isinstance(part, Extended | Pointlike | Member)]
        surfaces = [part for part in parts if isinstance(part, Surface | Lattice)]
        ny, nx = self.shape
        x = torch.arange(nx, dtype=self.dtype, device=self.device)[None, :]
        y = torch.arange(ny, dtype=self.dtype, device=self.device)[:, None]
        image = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        if sources and isinstance(self.convolution, ModelConvolution):
            image = image + self.convolution(sources, self._checked(psf))
        elif sources and isinstance(self.convolution, Convolution):
            image = image + self.convolution(sources)
        for source in sources if self.convolution is None else ():
            image = image + self._integrated(source)
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

    def apart(self, parts: Sequence[Part], psf: PSF | None = None) -> list[tuple[list[int], Tensor]]:
        """Image of each of the `parts`, which have no batch shape and aren't backgrounds: those of one kind together,
        which ones they are and their images, shape (number, ny, nx).
        """
        parts = self._parts(Light(tuple(parts)))
        places = [i for i, part in enumerate(parts) if isinstance(part, Extended | Pointlike | Member)]
        sources: list[Any] = [parts[i] for i in places]
        if sources and isinstance(self.convolution, ModelConvolution):
            images = self.convolution.apart(sources, self._checked(psf))
        elif sources and isinstance(self.convolution, Convolution):
            images = self.convolution.apart(sources)
        else:
            images = [([i], self._integrated(source)[None]) for i, source in enumerate(sources)]
        images = [([places[i] for i in indices], image) for indices, image in images]
        others = [i for i in range(len(parts)) if i not in places]
        return images + [([i], self(parts[i], psf)[None]) for i in others]

    def _parts(self, light: Light) -> list[Part]:
        if any(isinstance(part, PSF) for part in light.parts):
            raise ValueError("a PSF is not a source; give it as Scene(image, psf=models.moffat_psf(), ...)")
        parts = [part.to(self.dtype, self.device) for part in light.parts if isinstance(part, Part)]
        return [part.alone if isinstance(part, Member) and not self._several(part) else part for part in parts]

    def _several(self, member: Member) -> bool:
        """Whether members of a batch are rendered together."""
        return self.convolution is not None and isinstance(member.batch.whole, Extended | Pointlike)

    def _checked(self, psf: PSF | None) -> PSF:
        if psf is None:
            raise ValueError("this renderer was made for a PSF with parameters, and got none; give it psf=")
        return psf.to(self.dtype, self.device)

    def _integrated(self, source: Extended | Pointlike) -> Tensor:
        if isinstance(source, Pointlike):
            raise ValueError("a point source has no image without a PSF; give the Image or the Scene a psf=")
        return integrate_over_pixels(source, self.shape)


def renderer_for(image: Image, psf: PSF | None = None, *, shape: tuple[int, int] | None = None) -> Renderer:
    """The renderer of `image`: its pixels, its PSF, its dtype and device.

    `psf`: one with parameters, in place of that of the image. Its kind, `oversampling`, `contains_pixel` and `reach`
    count; the values of its parameters don't. `shape`: of a window (height, width) rendered in place of the whole.

    Raises ValueError for a window of an image whose PSF varies.
    """
    convolution: Convolution | ModelConvolution | None = None
    surfaces = None
    if shape is not None and image.psf_field is not None and psf is None:
        raise ValueError(
            f"windows: image {image.name!r} has a PSF that varies over it, which is known for the whole image only; "
            "leave out windows, or give the Image one PSF"
        )
    shape = shape or image.shape
    if psf is not None:
        convolution, surfaces = _model_convolution(image, psf, shape), _model_surfaces(image, psf, shape)
    elif image.psf is not None:
        stamp = image.psf.to(device="cpu", dtype=torch.float64)
        convolution, surfaces = convolution_of(image, shape), _surfaces(image, stamp, shape)
    return Renderer(shape, image.dtype, image.device, convolution, surfaces)


def convolution_of(image: Image, shape: tuple[int, int]) -> Convolution:
    """That of a window of an image with a PSF."""
    assert image.psf is not None
    psf, step = image.psf.to(device="cpu", dtype=torch.float64), image.psf_oversampling
    reach_y, reach_x = (math.ceil(size / (2 * step)) + 1 for size in psf.shape)
    period = convolution_period(shape, reach_y, reach_x)
    x_axis, y_axis, transfer = optics_of(image, psf, period)
    x_axis, x_aliased = followed_apart(x_axis, transfer[:1].abs())
    y_axis, y_aliased = followed_apart(y_axis, transfer[:, :1].abs())
    # where the PSF varies, those of the middle of the image; the copies are a few thousandths of the light
    moments = psf_moments(psf, step, contains_pixel=image.psf_contains_pixel)
    return Convolution(
        shape=shape,
        period=period,
        oversampling=step,
        x_axis=x_axis,
        y_axis=y_axis,
        transfer=transfer,
        copies=periodic_copies(shape, period, moments, dtype=image.dtype, device=image.device),
        x_aliased=x_aliased,
        y_aliased=y_aliased,
        field=_field(image, period),
    )


def _model_convolution(image: Image, psf: PSF, shape: tuple[int, int]) -> ModelConvolution:
    period = convolution_period(shape, psf.reach, psf.reach)
    x_axis, y_axis, transfer = _pixel_optics(image, psf, period)
    at_origin = Moments(0.0, 0.0, 0.0, 0.0, 0.0)
    dtype, device = image.dtype, image.device
    through_pixel = Convolution(
        shape=shape,
        period=period,
        oversampling=psf.oversampling,
        x_axis=x_axis,
        y_axis=y_axis,
        transfer=transfer.real,
        copies=periodic_copies(shape, period, at_origin, dtype=dtype, device=device),
        x_aliased=Places(),
        y_aliased=Places(),
    )
    d_x, d_y = (matrix.to(dtype=dtype, device=device) for matrix in derivatives_on_nodes(shape))
    return ModelConvolution(through_pixel, d_x, d_y, wing_copies(shape, period, dtype=dtype, device=device))


def convolution_period(shape: tuple[int, int], reach_y: int, reach_x: int) -> tuple[int, int]:
    """Size (rows, columns) of the periodic grid for an image of `shape` and a PSF that reaches so many pixels."""
    ny, nx = shape
    return (
        fast_length(max(math.ceil(_PADDING * ny), ny + reach_y), odd=True),
        fast_length(max(math.ceil(_PADDING * nx), nx + reach_x), odd=False),
    )


def _surfaces(image: Image, psf: Tensor, shape: tuple[int, int]) -> SurfaceConvolution:
    step, field = image.psf_oversampling, image.psf_field
    # where the PSF varies, room for its widest and rings for its sharpest
    stamps = psf[None] if field is None else torch.from_numpy(field.stamps_over(image.shape))
    reach_y, reach_x = (math.ceil(max(psf_reach(stamp.sum(1 - axis)) for stamp in stamps) / step) for axis in (0, 1))
    period = surface_period(shape, reach_y, reach_x)
    seen = optics_of(image, psf, period)
    if field is None:
        return surface_convolution(shape, period, step, seen, dtype=image.dtype)
    transforms = (optics(stamp, period, step, contains_pixel=image.psf_contains_pixel).transfer for stamp in stamps)
    most = torch.stack([transform.abs() for transform in transforms]).amax(0).to(seen.transfer)
    convolution = surface_convolution(shape, period, step, seen._replace(transfer=most), dtype=image.dtype)
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


def _model_surfaces(image: Image, psf: PSF, shape: tuple[int, int]) -> SurfaceConvolution:
    period = surface_period(shape, psf.reach, psf.reach)
    through_pixel = _pixel_optics(image, psf, period)
    return surface_convolution(shape, period, psf.oversampling, through_pixel, dtype=image.dtype)


def optics_of(image: Image, psf: Tensor, period: tuple[int, int]) -> Optics:
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
