"""The images that a scene, or a component of it, is seen in, and rough numbers read off each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from torch import Tensor

from bayesprof.image import Image
from bayesprof.measurement import Measurement, measure, sky_and_noise
from bayesprof.pixel_map import PixelMap, pixel_map
from bayesprof.window import Window

_APERTURE = 2.0  # half-light radii
_SMALLEST_APERTURE = 3.0  # pixels of the first image: a PSF may be wider than the object
_FAINTEST = 3.0  # standard deviations of the light in the aperture: what a flux that can't be seen is put at


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one part of the sky.

    `first`: the image whose pixels geometry is in; `seen`: those that a component is seen in, all of them or some, in
    their order; `names`: of all; `maps`: from the pixels of the first image to those of the others, by name, None where
    they are the same.
    """

    first: Image
    seen: tuple[Image, ...]
    names: tuple[str, ...]
    maps: Mapping[str, PixelMap | None]

    @classmethod
    def of(cls, images: Image | Sequence[Image], maps: Any = None) -> Images:
        """`images`, checked, with the `maps` given by hand, by name.

        Raises
        ------
        TypeError, ValueError
            For anything but images of different names, one dtype and one device, and as
            :func:`bayesprof.pixel_map.pixel_map`.
        """
        several = (images,) if isinstance(images, Image) else images
        if not isinstance(several, Sequence) or not all(isinstance(image, Image) for image in several):
            found = (
                images
                if not isinstance(several, Sequence)
                else next(image for image in several if not isinstance(image, Image))
            )
            raise TypeError(
                f"Scene: expected an Image, or a list of them, got {type(found).__name__}; make one with "
                "bp.Image(data, sigma=...)"
            )
        if not several:
            raise ValueError("Scene: expected at least one Image, got an empty list; give for example [g, r, z]")
        names = tuple(image.name for image in several)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"Scene: expected images of different names, got {twice[0]!r} {names.count(twice[0])} times; give each "
                'its own: Image(..., name="r")'
            )
        first = several[0]
        for image in several[1:]:
            if (image.dtype, image.device) != (first.dtype, first.device):
                raise ValueError(
                    f"Scene: expected images of one dtype on one device, got {first.dtype} on {first.device} of "
                    f"{first.name!r} and {image.dtype} on {image.device} of {image.name!r}; use Image.to"
                )
        if maps is not None and not isinstance(maps, Mapping):
            raise TypeError(
                f"Scene: expected maps as a mapping from names of images to arrays of shape (2, 3), got "
                f"{type(maps).__name__}"
            )
        given = dict(maps or {})
        strange = [name for name in given if name not in names[1:]]
        if strange:
            raise ValueError(
                f"Scene: expected maps to images behind the first, {list(names[1:])}, got one to {strange[0]!r}"
            )
        found_maps = {image.name: pixel_map(first, image, given.get(image.name)) for image in several}
        return cls(first, tuple(several), names, found_maps)

    def only(self, names: Sequence[str]) -> Images:
        """Those of the images that have one of the `names`."""
        return replace(self, seen=tuple(image for image in self.seen if image.name in names))

    @property
    def seen_names(self) -> tuple[str, ...]:
        return tuple(image.name for image in self.seen)

    @property
    def complete(self) -> bool:
        """Whether they are all images of their scene."""
        return len(self.seen) == len(self.names)

    def window_in(self, image: Image, window: Window) -> Window | None:
        """What is seen in `image` of a `window` of the first one; None where it lies outside."""
        to_image = self.maps[image.name]
        if to_image is not None:
            return to_image.window(window, image.shape)
        if window.x0 >= image.shape[1] or window.y0 >= image.shape[0]:
            return None
        return window.within(image.shape)

    def minus(self, models: Mapping[str, Tensor]) -> Images:
        """These images with model images, by name, taken off."""
        seen = tuple(image.minus(models[image.name]) for image in self.seen)
        return replace(self, first=next(image for image in seen if image.name == self.first.name), seen=seen)

    def measured(
        self, found: Measurement | tuple[Measurement, ...] | None = None, window: Window | None = None
    ) -> tuple[Measurement, ...]:
        """What is known of an object in each of the images: its place and shape as `found`, or as measured in the first
        image or in a `window` of it; and the light, the sky and the noise of each image, which a tuple has `found`.

        The light is that of the first image times the ratio of what an ellipse of two half-light radii holds in the
        two; at least three times the noise there.
        """
        if isinstance(found, tuple):
            if len(found) != len(self.seen):
                raise ValueError(
                    f"Scene: expected a component that was measured on {len(self.seen)} images, got one that was on "
                    f"{len(found)}; make it anew"
                )
            return found
        known = found or measure(self.first, window)
        return tuple(known if image is self.first else self._measured_in(image, known, window) for image in self.seen)

    def _measured_in(self, image: Image, known: Measurement, window: Window | None) -> Measurement:
        sky, noise = _sky_and_noise(image, None if window is None else self.window_in(image, window))
        here, _ = _light_within(self.first, known, None, known.sky)
        there, count = _light_within(image, known, self.maps[image.name], sky)
        ratio = known.flux / here if here > 0 else 1.0
        flux = max(there, _FAINTEST * noise * max(count, 1) ** 0.5) * ratio
        return replace(known, flux=flux, sky=sky, noise=noise)


@lru_cache(maxsize=64)
def _sky_and_noise(image: Image, window: Window | None) -> tuple[float, float]:
    rows, columns = (slice(None),) * 2 if window is None else (slice(window.y0, window.y1), slice(window.x0, window.x1))
    data, valid = (plane.cpu().numpy()[rows, columns] for plane in (image.data, image.valid))
    if not valid.any():
        data, valid = image.data.cpu().numpy(), image.valid.cpu().numpy()
    return sky_and_noise(data.astype(float), valid)


def _light_within(image: Image, known: Measurement, to_image: PixelMap | None, sky: float) -> tuple[float, int]:
    """Light above the sky, and number of unmasked pixels, in an ellipse about an object."""
    ny, nx = image.shape
    y, x = np.mgrid[:ny, :nx].astype(float)
    dx, dy = x - known.x, y - known.y
    if to_image is not None:
        (centre_x, right_x, up_x), (centre_y, right_y, up_y) = to_image.at(
            known.x + np.array([0.0, 1.0, 0.0]), known.y + np.array([0.0, 0.0, 1.0])
        )
        inverse = np.linalg.inv([[right_x - centre_x, up_x - centre_x], [right_y - centre_y, up_y - centre_y]])
        dx, dy = np.tensordot(inverse, np.stack([x - centre_x, y - centre_y]), axes=1)
    e1, e2 = known.ellipticity
    size = float(np.hypot(e1, e2))
    q, theta = (1 - size) / (1 + size), 0.5 * np.arctan2(e2, e1)
    along, across = dx * np.cos(theta) + dy * np.sin(theta), dy * np.cos(theta) - dx * np.sin(theta)
    major = max(_APERTURE * known.r_eff, _SMALLEST_APERTURE)
    minor = max(q * major, _SMALLEST_APERTURE)
    inside = ((along / major) ** 2 + (across / minor) ** 2 < 1) & image.valid.cpu().numpy()
    return float((image.data.cpu().numpy()[inside] - sky).sum()), int(inside.sum())
