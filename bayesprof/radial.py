"""Elliptical profiles that are given by their formula alone.

A subclass of :class:`RadialProfile` states its brightness as a function of radius and of some shape parameters. Its
total light and its Fourier transform follow from the values on a few hundred fixed radii (:mod:`bayesprof.hankel`).
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from bayesprof.grid import per_pixel
from bayesprof.hankel import HankelMap
from bayesprof.light import Profile
from bayesprof.lookup import interpolate


class RadialProfile(Profile):
    """An elliptical profile with a formula for its brightness, and no other for its transform.

    A subclass gives three things: `formula`, a pure function of radius (in units of the profile's `radius`) and shape
    parameters, elementwise, the logarithm of a brightness that isn't normalised; `shape`, the values of those
    parameters; and `hankel`, the map whose special radius 1 is that of the formula: its edge, break or ring, or about
    its half-light radius.

    Examples
    --------
    A profile of one's own, (1 + R^4)^(-beta / 4):

    >>> import torch
    >>> from bayesprof.hankel import map_with_a_break
    >>> class FlatTop(RadialProfile):
    ...     hankel = staticmethod(map_with_a_break)
    ...     def __init__(self, x, y, flux, radius, beta, **shape):
    ...         super().__init__(x, y, flux, radius, **shape)
    ...         self.beta = torch.as_tensor(beta, dtype=torch.float64)
    ...     @property
    ...     def shape(self):
    ...         return (self.beta,)
    ...     @staticmethod
    ...     def formula(radius, beta):
    ...         return -beta / 4 * torch.log1p(radius**4)
    >>> round(float(torch.exp(FlatTop(30.0, 40.0, 100.0, 5.0, 4.0, q=0.7).log_light())), 4)
    4.9348
    """

    stackable = True

    @staticmethod
    @abstractmethod
    def formula(radius: Tensor, *shape: Tensor) -> Tensor:
        """Logarithm of the surface brightness at `radius` > 0, in any unit, elementwise; -inf where there is none."""

    @property
    @abstractmethod
    def shape(self) -> tuple[Tensor, ...]:
        """The shape parameters that `formula` takes, each of shape ``batch``."""

    @staticmethod
    @abstractmethod
    def hankel() -> HankelMap:
        """The map to its transform, one of those in :mod:`bayesprof.hankel`."""

    def brightness(self, radius_squared: Tensor) -> Tensor:
        tiny = torch.finfo(radius_squared.dtype).tiny
        log_values = self.formula(torch.sqrt(radius_squared + tiny), *(per_pixel(value) for value in self.shape))
        return torch.exp(log_values - per_pixel(self.log_light()).to(radius_squared.dtype))

    def transform(self, wavenumber_squared: Tensor) -> Tensor:
        hankel = self.hankel().to(wavenumber_squared.device)
        values, _ = self._values(hankel)
        profile = values / (values @ hankel.light)[..., None]
        cubics = hankel.cubics(profile).to(wavenumber_squared.dtype)
        return interpolate(cubics, hankel.mesh.step, hankel.mesh.position(wavenumber_squared))

    def log_light(self) -> Tensor:
        """Logarithm of the total light of the circular profile that `formula` describes, shape ``batch``, float64."""
        hankel = self.hankel().to(self.radius.device)
        values, log_unit = self._values(hankel)
        return log_unit + torch.log(values @ hankel.light)

    def light_at_unit_brightness(self) -> Tensor:
        """Total light of the elliptical profile where `formula` is for image units per pixel, shape ``batch``."""
        xx, xy, yy = self.ellipse
        area = torch.sqrt(xx * yy - xy**2) * self.radius**2
        return area * torch.exp(self.log_light()).to(area.dtype)

    def _values(self, hankel: HankelMap) -> tuple[Tensor, Tensor]:
        """Brightness on the radii of the map, shape ``batch + (nodes,)``, float64, in a unit that keeps it in range,
        and the logarithm of that unit, shape ``batch``, without derivatives.
        """
        log_values = self.formula(hankel.radii, *(value.to(torch.float64)[..., None] for value in self.shape))
        highest = log_values.detach().amax(-1)
        return torch.exp(log_values - highest[..., None]), highest
