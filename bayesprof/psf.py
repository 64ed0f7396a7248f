"""A PSF with parameters: what a scene draws in place of the image's sampled PSF.

A :class:`PSF` is light of unit flux about the origin, given by its Fourier transform. Light made of profiles is one by
way of :class:`ProfilePSF`; the others are in :mod:`bayesprof.models`.

An optical PSF doesn't contain the pixel, and the renderer integrates over it; an effective one, as a sampled PSF is,
already does (`contains_pixel`). Its transform is asked for up to `oversampling` Nyquist frequencies of the pixels, and
what lies beyond the first is folded back as the sampling does it, so that stars keep their exact shape wherever in a
pixel they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from bayesprof.grid import per_pixel
from bayesprof.light import Light, Part, Profile

_SAMPLING = 2  # Nyquist frequencies
_REACH = 24  # pixels


class PSF(Part, ABC):
    """Light of unit flux about the origin, seen by every source of a scene.

    Parameters
    ----------
    oversampling : number of Nyquist frequencies of the pixels up to which the transform is used. 2 are enough for a
        full width at half maximum of 2 pixels and above; rendering costs its square.
    contains_pixel : whether the PSF already contains the integration over a pixel.
    reach : pixels by which the periodic grid of the transform extends beyond the image, at least. The light of the PSF
        further out than that should vary smoothly.

    Raises
    ------
    ValueError, TypeError
        For an `oversampling` or a `reach` that isn't a whole number of at least 1, and for a `contains_pixel` that is
        neither True nor False.
    """

    def __init__(self, *, oversampling: int = _SAMPLING, contains_pixel: bool = False, reach: int = _REACH) -> None:
        super().__init__()
        for name, value in (("oversampling", oversampling), ("reach", reach)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{type(self).__name__}: expected {name} as a whole number >= 1, got {value!r}")
        if not isinstance(contains_pixel, bool):
            raise TypeError(f"{type(self).__name__}: expected contains_pixel True or False, got {contains_pixel!r}")
        self.oversampling = oversampling
        self.contains_pixel = contains_pixel
        self.reach = reach

    @abstractmethod
    def transform_at(self, kx: Tensor, ky: Tensor) -> Tensor:
        """Transform on the plane of wavenumbers `kx` (1, columns), `ky` (rows, 1), radians per pixel: 1 at 0, real or
        complex, shape ``batch + (rows, columns)``.
        """

    @abstractmethod
    def wings_at(self, dx: Tensor, dy: Tensor) -> Tensor | None:
        """Its light per pixel area far from the centre, at offsets `dx`, `dy`, with what varies over less than several
        pixels averaged out; None for a PSF that ends within its `reach`.
        """


class ProfilePSF(PSF):
    """The PSF whose shape is that of a light: the sum of its profiles, in proportion to their fluxes.

    Parameters
    ----------
    light : one or more profiles, all centred on the origin.
    oversampling, contains_pixel, reach : as of :class:`PSF`.

    Raises
    ------
    TypeError
        For light that isn't made of profiles.

    Examples
    --------
    >>> from bayesprof import models
    >>> core, halo = models.Gaussian(0.0, 0.0, 0.9, 1.3), models.Moffat(0.0, 0.0, 0.1, 4.0, 2.0)
    >>> psf = ProfilePSF(core + halo)
    """

    def __init__(
        self, light: Light, *, oversampling: int = _SAMPLING, contains_pixel: bool = False, reach: int = _REACH
    ) -> None:
        super().__init__(oversampling=oversampling, contains_pixel=contains_pixel, reach=reach)
        strange = [part for part in light.parts if not isinstance(part, Profile)]
        if strange or not light.parts:
            found = ", ".join(type(part).__name__ for part in strange) or "no light"
            raise TypeError(f"ProfilePSF: expected light made of profiles, such as models.Moffat, got {found}")
        self.light = light

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """What the light is made of."""
        return tuple(part for part in self.light.parts if isinstance(part, Profile))

    def transform_at(self, kx: Tensor, ky: Tensor) -> Tensor:
        first, *others = self.profiles
        transform = first.transform_at(kx, ky)
        if not others:
            return transform
        total = self._flux()
        transform = per_pixel(first.flux / total) * transform
        for profile in others:
            transform = transform + per_pixel(profile.flux / total) * profile.transform_at(kx, ky)
        return transform

    def wings_at(self, dx: Tensor, dy: Tensor) -> Tensor:
        first, *others = self.profiles
        brightness = first.brightness_at(dx, dy)
        for profile in others:
            brightness = brightness + profile.brightness_at(dx, dy)
        return brightness / per_pixel(self._flux())

    def _flux(self) -> Tensor:
        first, *others = self.profiles
        total = first.flux
        for profile in others:
            total = total + profile.flux
        return total


def as_psf(light: Light) -> PSF:
    """The PSF that `light` is: itself, or a :class:`ProfilePSF` of its profiles.

    Raises
    ------
    TypeError
        For light that isn't made of profiles.
    """
    return light if isinstance(light, PSF) else ProfilePSF(light)


def check_psf(psf: PSF) -> None:
    """Raise ValueError for a PSF that isn't about the origin, or not finite, at the values that it has."""
    for profile in psf.profiles if isinstance(psf, ProfilePSF) else ():
        if bool((profile.x != 0).any()) or bool((profile.y != 0).any()):
            raise ValueError(
                f"psf: expected light centred on (x, y) = (0, 0), got ({profile.x.tolist()}, {profile.y.tolist()}); "
                "hold both at 0"
            )
    zero = torch.zeros(1, 1, dtype=torch.float64)
    total = psf.to(torch.float64, zero.device).transform_at(zero, zero)
    if not bool(((total - 1).abs() < 1e-3).all()):
        raise ValueError(f"psf: expected unit flux, got a total of {total.flatten()[0].item():.6g}; normalise it")
