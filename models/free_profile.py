"""What profiles without a formula have in common: the logarithm of the brightness is given at a few radii, the knots.

Between them it is a natural cubic spline (zero second derivative at both ends) in

    t = ln sqrt(R^2 + R_1^2),

R_1 the first knot: ln R from there on, and even in R about the centre, so that the profile is smooth and levels off
within the first knot. Beyond the last knot R_K it goes on as a straight line in t, a power law, cut by
exp(-(R / 2 R_K)^4), which makes the total light finite whatever the slope. The cut is at work within the last knot
as well, and the spline makes up for it: at every knot the brightness is the one given there.

The prior of the logarithms is a Gaussian process in ln R about an exponential disk, so that neighbouring knots differ
smoothly (:mod:`bayesprof.models.matern`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions.transforms import ExpTransform
from torch import Tensor

from bayesprof.image import Image
from bayesprof.light import as_tensors
from bayesprof.measurement import R_EFF_OVER_SCALE, Measurement
from bayesprof.models.component import Axis, Default, Parameter, is_prior
from bayesprof.models.matern import matern_factor

_CUT = 2.0  # in units of the last knot
_INNERMOST, _OUTERMOST = 0.1, 5.0  # default knots, in measured half-light radii
SD, LENGTH = 2.0, 2.0  # of the default prior, in ln of brightness and of radius


def radial_curves(radius_squared: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """The splines through `values` (..., curves, knots) at the `knots`, at squared radii of shape ``batch + (rows,
    columns)``; shape ``batch + (curves, rows, columns)``. Nothing is differentiated by the knots.
    """
    first = knots[0] ** 2
    t = 0.5 * torch.log(radius_squared + first)
    curves = natural_splines(t.flatten(-2), 0.5 * torch.log(knots**2 + first), values)
    return curves.unflatten(-1, t.shape[-2:])


def cut(radius_squared: Tensor, knots: Tensor) -> Tensor:
    """Minus the logarithm of the factor that cuts the profile off."""
    return (radius_squared * (1 / (_CUT * knots[-1]) ** 2)) ** 2


def natural_splines(t: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Natural cubic splines in `t` (..., points) through `values` (..., curves, knots) at the ascending `knots`, which
    go on as straight lines; shape ``(..., curves, points)``.

    They are the cubic of the middle interval, and at each knot on the way outwards the cube of the distance from it,
    times a sixth of the jump of the third derivative there: of all points at once, without looking for intervals.

    Examples
    --------
    >>> import torch
    >>> knots = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    >>> torch.allclose(natural_splines(knots, knots, torch.eye(3).to(knots)), torch.eye(3).to(knots))
    True
    """
    middle = (len(knots) - 1) // 2
    position = (t - knots[middle])[..., None, :]
    outwards = torch.ones_like(knots)
    outwards[: middle + 1] = -1.0
    beyond = torch.relu(outwards[:, None] * (t[..., None, :] - knots[:, None]))
    powers = torch.cat([torch.ones_like(position), position, position**2, position**3, beyond**3], dim=-2)
    return (values @ _coefficients(knots, middle)) @ powers


def _coefficients(knots: Tensor, middle: int) -> Tensor:
    """What takes values at the knots to the coefficients of those powers, shape (knots, 4 + knots)."""
    step = knots.diff()
    unit = torch.eye(len(knots), dtype=knots.dtype, device=knots.device)
    bend = _second_derivatives(knots)
    third = bend.diff(dim=0) / step[:, None]
    straight = torch.zeros_like(third[:1])
    jumps = torch.cat([straight, third, straight]).diff(dim=0)
    slope = (unit[middle + 1] - unit[middle]) / step[middle] - step[middle] / 6 * (2 * bend[middle] + bend[middle + 1])
    return torch.cat([torch.stack([unit[middle], slope, bend[middle] / 2, third[middle] / 6]), jumps / 6]).mT


def checked_brightness(kind: str, surface_brightness: Any, knots: Any) -> list[Tensor]:
    """Brightness and knots as tensors.

    Raises
    ------
    ValueError
        For less than three knots, or shapes that don't fit.
    """
    surface_brightness, knots = as_tensors(surface_brightness, knots)
    if knots.ndim != 1 or len(knots) < 3:
        raise ValueError(f"{kind}: expected three knots or more, got knots of shape {tuple(knots.shape)}; add some")
    if surface_brightness.ndim == 0 or surface_brightness.shape[-1] != len(knots):
        raise ValueError(
            f"{kind}: expected surface_brightness of shape (..., {len(knots)}), a value for each knot, got shape "
            f"{tuple(surface_brightness.shape)}"
        )
    return [surface_brightness, knots]


def held_knots(kind: str, knots: Any, count: int) -> tuple[Any, int]:
    """`knots` as they were given, and how many they are.

    Raises
    ------
    TypeError, ValueError
        For a prior, and for less than three.
    """
    if is_prior(knots):
        raise TypeError(f"{kind}: knots are held, got a prior; give radii, or leave them out")
    if knots is not None:
        count = int(np.size(getattr(knots, "value", knots)))
    if count < 3:
        raise ValueError(f"{kind}: expected three knots or more, got {count}; add some")
    return knots, count


def knots_parameter(count: int) -> Parameter:
    """Radii of the knots; by default held between multiples of the measured half-light radius."""

    def default(found: Measurement, image: Image) -> Default:
        radii = default_knots(found, count)
        held = torch.tensor(radii, dtype=image.dtype, device=image.device)
        return Default(held, None, f"held, from {radii[0]:.3g} to {radii[-1]:.3g} in equal ratios")

    return Parameter("pixel", "> 0 and ascending", _ascending, default, (Axis("knot", tuple(range(count))),))


def default_knots(found: Measurement, count: int) -> list[float]:
    """Radii in equal ratios, pixels."""
    radii: list[float] = (found.r_eff * np.geomspace(_INNERMOST, _OUTERMOST, count)).tolist()
    return radii


def radii_of(knots: Any, found: Measurement, count: int) -> Tensor:
    """The `knots` that were given, or the default ones; float64."""
    given = default_knots(found, count) if knots is None else getattr(knots, "value", knots)
    return torch.as_tensor(given, dtype=torch.float64, device="cpu")


def brightness_parameter(knots: Any, count: int) -> Parameter:
    """Surface brightness at each knot."""
    axes = (Axis("knot", tuple(range(count))),)
    return Parameter("{flux}", "> 0 each", all_positive, _brightness_of(knots, count), axes)


def _brightness_of(knots: Any, count: int) -> Callable[[Measurement, Image], Default]:
    def default(found: Measurement, image: Image) -> Default:
        radii = radii_of(knots, found, count)
        mean = log_exponential(radii, found)
        factor = SD * matern_factor(torch.log(radii)[:, None], LENGTH)
        prior = dist.MultivariateNormal(mean.to(image.data), scale_tril=factor.to(image.data))
        formula = (
            f"exp of a Matern 3/2 process in ln R, standard deviation {SD:g} and length {LENGTH:g}, about an "
            "exponential disk of the measured flux and half-light radius"
        )
        return Default(dist.TransformedDistribution(prior, [ExpTransform()]), torch.exp(mean), formula)

    return default


def log_exponential(radii: Tensor, found: Measurement) -> Tensor:
    """Logarithm of the surface brightness of an exponential disk as large and bright as what was measured."""
    size = math.hypot(*found.ellipticity)
    length = found.r_eff / R_EFF_OVER_SCALE
    peak = found.flux / (2 * math.pi * length**2 * (1 - size) / (1 + size))
    return math.log(peak) - radii / length


def _second_derivatives(knots: Tensor) -> Tensor:
    """Of the cardinal splines at the knots, shape (knots, knots): those of spline j in column j."""
    step = knots.diff()
    unit = torch.eye(len(knots), dtype=knots.dtype, device=knots.device)
    slopes = (unit[1:] - unit[:-1]) / step[:, None]
    bands = torch.diag(2 * (step[1:] + step[:-1])) + torch.diag(step[1:-1], 1) + torch.diag(step[1:-1], -1)
    inner = torch.linalg.solve(bands, 6 * slopes.diff(dim=0))
    ends = torch.zeros_like(inner[:1])
    return torch.cat([ends, inner, ends])


def _ascending(knots: Tensor) -> bool:
    radii = knots.tolist()
    return all(0 < low < high < math.inf for low, high in pairwise(radii))


def all_positive(values: Tensor) -> bool:
    """Whether all values are finite and above 0."""
    return bool(((values > 0) & values.isfinite()).all())
