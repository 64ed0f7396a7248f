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
from bayesprof.lookup import Cubics, interpolate


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
        shape = torch.broadcast_tensors(*self.shape) if self.shape else ()
        at = (
            torch.stack([one.detach() for one in shape], dim=-1).to(torch.float64)
            if shape
            else torch.empty(0, dtype=torch.float64, device=wavenumber_squared.device)
        )
        profile, curvatures = self._derivatives(hankel, at)
        # value and slopes by one product: what costs is to read the matrix
        value, *first = hankel.cubics(profile).to(wavenumber_squared.dtype).unbind(-3)
        second = [[*hankel.cubics(rows).to(wavenumber_squared.dtype).unbind(-3)] for rows in curvatures]
        return interpolate(
            Cubics(value, first, second), hankel.mesh.step, hankel.mesh.position(wavenumber_squared), shape
        )

    def log_light(self) -> Tensor:
        """Logarithm of the total light of the circular profile that `formula` describes, shape ``batch``, float64."""
        hankel = self.hankel().to(self.radius.device)
        log_values = self.formula(hankel.radii, *(value.to(torch.float64)[..., None] for value in self.shape))
        highest = _highest(log_values)
        return highest[..., 0] + torch.log((torch.exp(log_values - highest) * hankel.light).sum(-1))

    def light_at_unit_brightness(self) -> Tensor:
        """Total light of the elliptical profile where `formula` is for image units per pixel, shape ``batch``."""
        xx, xy, yy = self.ellipse
        area = torch.sqrt(xx * yy - xy**2) * self.radius**2
        return area * torch.exp(self.log_light()).to(area.dtype)

    def _derivatives(self, hankel: HankelMap, at: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The profile of unit light on the radii of the map, and its derivatives, for shape parameters `at` of shape
        ``batch + (parameters,)`` and type float64.

        The first tensor has shape ``batch + (1 + parameters, nodes)``: value and slopes. The others are the derivatives
        of each of the slopes in the parameters up to its own.
        """
        # each radius has parameters of its own, so that one reverse pass gives the derivatives on all radii
        spread = at[..., None].expand(*at.shape, len(hankel.radii))
        highest = _highest(self.formula(hankel.radii, *spread.unbind(-2)))

        def value_of(spread: Tensor) -> Tensor:
            return torch.exp(self.formula(hankel.radii, *spread.unbind(-2)) - highest)

        def slopes_of(spread: Tensor) -> Tensor:
            values, pull = torch.func.vjp(value_of, spread)[:2]
            (slopes,) = pull(torch.ones_like(values))
            return slopes

        def total(values: Tensor) -> Tensor:
            return (values @ hankel.light)[..., None]

        f = value_of(spread)
        norm = 1 / total(f)
        f, norm = (f * norm)[..., None, :], norm[..., None, :]
        slopes, pull = torch.func.vjp(slopes_of, spread)[:2]
        # d(f / S) = (df - f dS / S) / S, and once more
        slopes = norm * slopes
        in_light = total(slopes)
        first = slopes - f * in_light
        curvatures = []
        for i in range(at.shape[-1]):
            (rows,) = pull(torch.ones_like(slopes) * _unit(i, at)[:, None])
            rows = norm * rows
            one, by_one = first[..., i : i + 1, :], in_light[..., i : i + 1, :]
            curvatures.append((rows - f * total(rows) - one * in_light - first * by_one)[..., : i + 1, :])
        return torch.cat([f, first], dim=-2), curvatures


def _highest(log_values: Tensor) -> Tensor:
    """The largest on all radii, shape ``batch + (1,)``, without derivatives: what keeps exponentials in range."""
    return log_values.detach().amax(-1, keepdim=True)


def _unit(i: int, like: Tensor) -> Tensor:
    """Unit vector along parameter `i`."""
    return (torch.arange(like.shape[-1], device=like.device) == i).to(like.dtype)
