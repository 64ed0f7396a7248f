"""Images of different objects as one batch, and their renderer.

A stamp smaller than the largest is padded, behind its last row and column, with masked pixels: pixel (0, 0) stays where
it is, and what is rendered in the padding counts for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bayesprof.image import Image
from bayesprof.periodic import DrawnBlur, derivatives_on_nodes, periodic_copies
from bayesprof.rendering import Convolution, Renderer, convolution_period, optics_of, renderer_for
from bayesprof.transfer import Axis, Moments, followed_apart, psf_moments


class Stamps:
    """Cutouts around G objects, each with its own noise, mask and PSF, as a batch of one shape.

    Likelihoods take it in the place of an :class:`Image`: `data`, `sigma`, `mask` and `valid` have the shape
    (G, ny, nx), `gain` and `subtracted_sky` (G, 1, 1); `shape` is (ny, nx), that of the largest.

    Raises
    ------
    TypeError, ValueError
        For anything but images of one dtype on one device, all of them with a PSF that is sampled alike, or all
        without, and all with noise, or all without.
    """

    def __init__(self, images: Sequence[Image]) -> None:
        self.images = images = _checked(images)
        first = images[0]
        self.dtype, self.device, self.name = first.dtype, first.device, "image"
        self.shape = (max(image.shape[0] for image in images), max(image.shape[1] for image in images))
        self.data = torch.stack([self._padded(image.data, 0.0) for image in images])
        self.mask = torch.stack([self._padded(image.mask, True) for image in images])
        self.valid = ~self.mask
        sigmas = [self._padded(image.sigma, 1.0) for image in images if image.sigma is not None]
        self.sigma = torch.stack(sigmas) if sigmas else None
        gains = [1.0 if image.gain is None else image.gain for image in images]
        self.gain, self.subtracted_sky = (
            torch.tensor(values, dtype=self.dtype, device=self.device)[:, None, None]
            for values in (gains, [image.subtracted_sky for image in images])
        )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def names(self) -> list[Any]:
        """Names of the images, where they are all different, or their numbers."""
        names: list[Any] = [image.name for image in self.images]
        return names if len(set(names)) == len(names) else list(range(len(names)))

    @cached_property
    def renderer(self) -> Renderer:
        """Renders light with a batch of G parameters onto the stamps, each through its own PSF."""
        first = self.images[0]
        if all(_same_psf(first, image) for image in self.images):
            return renderer_for(first, shape=self.shape)
        convolution = _convolution(self.images, self.shape)
        return Renderer(self.shape, self.dtype, self.device, convolution, None)

    def _padded(self, plane: Tensor, filling: float) -> Tensor:
        whole = torch.full(self.shape, filling, dtype=plane.dtype, device=plane.device)
        whole[: plane.shape[0], : plane.shape[1]] = plane
        return whole


def _checked(images: Any) -> tuple[Image, ...]:
    if isinstance(images, Image) or not isinstance(images, Sequence):
        raise TypeError(
            f"Population: expected a list of images, one around each galaxy, got {type(images).__name__}; cut them out "
            "with image.cutout(x, y, size)"
        )
    if not images:
        raise ValueError("Population: expected at least one image, got an empty list; give one around each galaxy")
    for number, image in enumerate(images):
        if not isinstance(image, Image):
            raise TypeError(
                f"Population: expected a list of images, got {type(image).__name__} as number {number}; make it with "
                "bp.Image(data, sigma=...)"
            )
        first = images[0]
        for what, one, other in (
            ("dtype", first.dtype, image.dtype),
            ("device", first.device, image.device),
            ("psf_oversampling", first.psf_oversampling, image.psf_oversampling),
        ):
            if one != other:
                raise ValueError(
                    f"Population: expected images of one {what}, got {one} in image 0 and {other} in image {number}; "
                    "fit those apart, or bring them to one"
                )
        if image.psf_field is not None:
            raise ValueError(
                f"Population: expected a PSF of its own for each image, got one that varies over image {number}; give "
                "each cutout that at its centre: Image(..., psf=cutout.psf)"
            )
        for what in ("psf", "sigma"):
            if (getattr(first, what) is None) != (getattr(image, what) is None):
                has, lacks = (number, 0) if getattr(first, what) is None else (0, number)
                raise ValueError(
                    f"Population: expected {what} of all images, or of none, got it of image {has} and not of image "
                    f"{lacks}; give that one its own"
                )
    return tuple(images)


def _same_psf(one: Image, other: Image) -> bool:
    if one.psf is None or other.psf is None or one.psf is other.psf:
        return one.psf is other.psf
    same = one.psf_contains_pixel == other.psf_contains_pixel and one.psf.shape == other.psf.shape
    return same and torch.equal(one.psf, other.psf)


def _convolution(images: Sequence[Image], shape: tuple[int, int]) -> Convolution:
    """As that of one image, with a batch of transfers, of moments and of weights of aliases."""
    first = images[0]
    step = first.psf_oversampling
    stamps = [image.psf.to(device="cpu", dtype=torch.float64) for image in images if image.psf is not None]
    reach_y, reach_x = (max(math.ceil(psf.shape[axis] / (2 * step)) + 1 for psf in stamps) for axis in (0, 1))
    period = convolution_period(shape, reach_y, reach_x)
    seen = [optics_of(image, psf, period) for image, psf in zip(images, stamps, strict=True)]
    transfer = torch.stack([one.transfer for one in seen])
    x_axis, x_aliased = followed_apart(_joined([one.x_axis for one in seen]), transfer[..., :1, :].abs())
    y_axis, y_aliased = followed_apart(_joined([one.y_axis for one in seen]), transfer[..., :, :1].abs())
    moments = [
        psf_moments(psf, step, contains_pixel=image.psf_contains_pixel)
        for image, psf in zip(images, stamps, strict=True)
    ]
    kind: dict[str, Any] = {"dtype": first.dtype, "device": first.device}
    each = Moments(*(torch.tensor(values, **kind) for values in zip(*moments, strict=True)))
    d_x, d_y = (matrix.to(**kind) for matrix in derivatives_on_nodes(shape))
    copies = periodic_copies(shape, period, Moments(0.0, 0.0, 0.0, 0.0, 0.0), **kind)
    return Convolution(
        shape=shape,
        period=period,
        oversampling=step,
        x_axis=x_axis,
        y_axis=y_axis,
        transfer=transfer,
        copies=replace(copies, blur=DrawnBlur(d_x, d_y, each)),
        x_aliased=x_aliased,
        y_aliased=y_aliased,
    )


def _joined(axes: Sequence[Axis]) -> Axis:
    """One axis for all, whose weights have a batch: an alias that one of them has no use for weighs nothing there."""
    fullest = max(axes, key=lambda axis: len(axis.both))
    nothing = torch.zeros_like(fullest.weights)
    weights = [nothing.index_add(0, torch.arange(len(axis.both)), axis.weights.cpu()) for axis in axes]
    return fullest._replace(weights=torch.stack(weights).to(fullest.weights))
