"""What profiles without a formula have in common whose radial profile differs with the angle.

There are N profiles l_k(R), each the curve of ln I through its values at the knots by
:mod:`bayesprof.models.free_profile`. At an angle phi the light is a blend of them,

    ln I(R, phi) = m(R) + S(R) sum over k of B_k(phi) (l_k(R) - m(R)),    m = mean of the l_k,    sum of the B_k = 1,

in the plane where the ellipse is a circle, with phi counter-clockwise from +x. Profile k belongs to the angle
phi_k = 2 pi k / N; how the B_k go on from there to the next is what tells rays from wedges. As in
:mod:`bayesprof.models.fourier_modes`, angles are those of that plane and from +x, so that nothing is undefined where
the galaxy is round.

S = 1 - (1 - R^2 / R_1^2)^3 within the first knot R_1, and 1 from there on: in the centre, where all profiles meet,
there is one brightness. With `symmetric`, opposite angles share a profile: there are N of them pi / N apart, and 2 phi
is in the place of phi.

The prior of the logarithms is a Gaussian process about an exponential disk with the covariance

    (2^2 + 0.5^2 exp(-2 sin^2((phi - phi') / 2))) M(ln R - ln R'),

M the Matern correlation of order 3/2 with length 2 (:mod:`bayesprof.models.matern`): what all profiles have in common
varies as that of :func:`bayesprof.models.spline`, and what they differ by has a standard deviation of 0.5 and is smooth
in the angle (the periodic covariance, Rasmussen & Williams 2006, equation 4.31, of length 1).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions.transforms import ExpTransform
from torch import Tensor
from torch.distributions.transforms import ReshapeTransform

from bayesprof.image import Image
from bayesprof.light import Surface, as_tensors, ellipse_of
from bayesprof.measurement import Measurement
from bayesprof.models.component import Axis, Component, Default, Derived, Parameter
from bayesprof.models.free_profile import (
    LENGTH,
    SD,
    all_positive,
    checked_brightness,
    cut,
    held_knots,
    knots_parameter,
    log_exponential,
    radial_curves,
    radii_of,
)
from bayesprof.models.galaxy import elliptical
from bayesprof.models.matern import matern_factor
from bayesprof.models.shape import place_of

_SD, _LENGTH = 0.5, 1.0  # of the default prior: how the profiles differ, in ln of brightness; over which angle, radians
_NODES, _LAST = 12, 5.0  # of the sum for the flux: radii between two knots, and the last one, in units of the last knot
_ANGLES = 32  # of that sum, for each profile


class FreeAngles(Surface):
    """Light of a profile given by its brightness at some radii, for several angles: what :class:`Rays
    <bayesprof.models.rays.Rays>` and :class:`Wedges <bayesprof.models.wedges.Wedges>` have in common.

    Parameters
    ----------
    x, y : centre, pixels.
    surface_brightness : at the knots of each profile, image units per pixel, > 0, of shape ``(..., profiles, knots)``,
        two profiles or more.
    knots : radii, pixels, > 0 and ascending, three or more, of shape ``(knots,)``; those along the major axis, where
        there is one. Fixed: nothing is differentiated by them.
    symmetric : whether opposite angles share a profile: half a turn leaves the light as it is.
    q, theta : axis ratio in (0, 1] and angle of the major axis, radians; or
    ellipticity : the vector (e1, e2) of shape (..., 2). Conventions: :mod:`bayesprof.grid`. The angles of the profiles
        are squeezed with the ellipse.

    The attribute `flux` is the total light. What lies beyond the last knot is in it, as far as the cut of
    :mod:`bayesprof.models.free_profile` lets it through.

    Raises
    ------
    ValueError
        For less than two profiles or three knots, or other than one value for each.
    """

    radial_nodes: ClassVar[int] = 40

    def __init__(
        self,
        x: Any,
        y: Any,
        surface_brightness: Any,
        knots: Any,
        *,
        symmetric: bool = False,
        q: Any = None,
        theta: Any = None,
        ellipticity: Any = None,
    ) -> None:
        kind = type(self).__name__
        surface_brightness, knots = checked_brightness(kind, surface_brightness, knots)
        if surface_brightness.ndim < 2 or surface_brightness.shape[-2] < 2:
            raise ValueError(
                f"{kind}: expected surface_brightness of shape (..., profiles, {len(knots)}), two profiles or more, "
                f"got shape {tuple(surface_brightness.shape)}; models.Spline takes a single one"
            )
        x, y, surface_brightness, knots = as_tensors(x, y, surface_brightness, knots)
        knots = knots.detach()
        super().__init__(x, y, knots[len(knots) // 2], ellipse=ellipse_of(kind, q, theta, ellipticity, like=x))
        self.surface_brightness, self.knots, self.symmetric = surface_brightness, knots, symmetric

    @abstractmethod
    def waves(self, cos: Tensor, sin: Tensor, count: int) -> tuple[list[Tensor], Tensor]:
        """The blend of `count` profiles at the angles of `cos` and `sin`: functions ``w`` of the angle and a matrix
        ``M`` (functions, profiles), with ``B_k - 1 / N = sum over j of w_j M_jk``. With `symmetric` these are twice the
        angles.
        """

    def brightness_at(self, dx: Tensor, dy: Tensor) -> Tensor:
        place = place_of(dx, dy, self.ellipse)
        radius = place.radius
        cos, sin = place.u / radius, place.v / radius
        if self.symmetric:
            cos, sin = cos**2 - sin**2, 2 * cos * sin
        return self._brightness(place.radius_squared, cos, sin)

    @property
    def flux(self) -> Tensor:
        radius, weight = _rule(self.knots)
        count = _ANGLES * self.surface_brightness.shape[-2]
        turn = torch.arange(count, dtype=radius.dtype, device=radius.device) * (2 * math.pi / count)
        around = self._brightness(radius[:, None] ** 2, torch.cos(turn)[None], torch.sin(turn)[None]).mean(-1)
        xx, xy, yy = self.ellipse
        return 2 * math.pi * torch.sqrt(xx * yy - xy**2) * (around @ (weight * radius))

    def _brightness(self, radius_squared: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        tiny = torch.finfo(self.surface_brightness.dtype).tiny
        values = torch.log(self.surface_brightness.clamp(min=tiny)) + cut(self.knots**2, self.knots)
        waves, matrix = self.waves(cos, sin, values.shape[-2])
        # the blend of curves is the curve of blended values: of the mean, and of what goes with each wave
        curves = torch.cat([values.mean(-2, keepdim=True), matrix @ values], dim=-2)
        mean, *amplitudes = radial_curves(radius_squared, self.knots, curves).unbind(-3)
        differences = sum(wave * amplitude for wave, amplitude in zip(waves, amplitudes, strict=True))
        fade = 1 - (1 - (radius_squared * self.knots[0] ** -2).clamp(max=1)) ** 3
        return torch.exp(mean + fade * differences - cut(radius_squared, self.knots))


def free_angles(
    kind: str, light: Any, count: int, knots: Any, knot_count: int, symmetric: bool, **given: Any
) -> Component:
    """A component whose light is a `light`, of `count` profiles with `knot_count` knots, or those in `knots`.

    Raises
    ------
    TypeError, ValueError
        For a prior of `knots`, and for less than three of them or two profiles.
    """
    if count < 2:
        raise ValueError(f"{kind}: expected two profiles or more, got {count}; models.spline has a single one")
    knots, knot_count = held_knots(kind, knots, knot_count)
    axes = (Axis("profile", tuple(range(count))), Axis("knot", tuple(range(knot_count))))
    default = _brightness_of(knots, count, knot_count)
    own = {
        "surface_brightness": Parameter("{flux}", "> 0 each", all_positive, default, axes),
        "knots": knots_parameter(knot_count),
    }
    made = partial(light, symmetric=symmetric)
    galaxy = elliptical(kind, made, own, **given, knots=knots)

    def flux(values: Mapping[str, Tensor]) -> Tensor:
        shape = {name: values[name] for name in ("ellipticity", "q", "theta") if name in values}
        total: Tensor = made(0.0, 0.0, values["surface_brightness"], values["knots"], **shape).flux
        return total

    return replace(galaxy, derived={**galaxy.derived, "flux": Derived("{flux}", "total flux", flux)})


def _brightness_of(knots: Any, count: int, knot_count: int) -> Callable[[Measurement, Image], Default]:
    def default(found: Measurement, image: Image) -> Default:
        radii = radii_of(knots, found, knot_count)
        mean = log_exponential(radii, found).expand(count, -1)
        turn = 2 * math.pi / count * torch.arange(count, dtype=torch.float64)
        alike = torch.exp(-2 * (torch.sin(0.5 * (turn[:, None] - turn)) / _LENGTH) ** 2)
        angular = torch.linalg.cholesky(SD**2 + _SD**2 * alike)
        factor = torch.kron(angular, matern_factor(torch.log(radii)[:, None], LENGTH))
        process = dist.MultivariateNormal(mean.flatten().to(image.data), scale_tril=factor.to(image.data))
        apart = ReshapeTransform(torch.Size([count * knot_count]), torch.Size([count, knot_count]))
        formula = (
            f"exp of a process of standard deviation {SD:g} that all profiles share plus one of {_SD:g} by which they "
            f"differ, Matern 3/2 of length {LENGTH:g} in ln R, periodic of length {_LENGTH:g} in the angle, about an "
            "exponential disk of the measured flux and half-light radius"
        )
        return Default(dist.TransformedDistribution(process, [apart, ExpTransform()]), torch.exp(mean), formula)

    return default


def _rule(knots: Tensor) -> tuple[Tensor, Tensor]:
    """Radii and weights of a sum over radius: Gauss-Legendre between the knots, and beyond them to where all light is
    cut off.
    """
    nodes, weights = (torch.from_numpy(part).to(knots) for part in np.polynomial.legendre.leggauss(_NODES))
    beyond = knots[-1] * torch.linspace(1, _LAST, 4, dtype=knots.dtype, device=knots.device)
    edges = torch.cat([torch.zeros_like(knots[:1]), knots[:-1], beyond])
    middle, half = 0.5 * (edges[1:] + edges[:-1]), 0.5 * edges.diff()
    return (middle[:, None] + half[:, None] * nodes).flatten(), (half[:, None] * weights).flatten()
