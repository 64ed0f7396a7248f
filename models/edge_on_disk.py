"""A disk seen exactly from its side.

    I(d, z) = flux (|d| / h) K_1(|d| / h) / (pi h) B(z),    F = (1 + (k_d h)^2)^(-3/2) G(k_z z0)

along (d) and across (z) the disk: an exponential disk of scale length h (van der Kruit & Searle 1981, A&A 95, 105)
with the vertical structure B, from isothermal to exponential, of :mod:`bayesprof.models.vertical` (van der Kruit
1988). K_1 is the modified Bessel function. The transform is a product, closed in both directions.

Sizes are those of the disk itself: scale length h and scale height z0, the latter as their ratio ``thickness`` = z0 / h
below 1, so that length and height can't change places. In z0 the light falls by e far from the plane, whatever the
power: the isothermal sheet is sech^2(z / (2 z0)), and its height by other conventions is 2 z0.

Default priors, beside those of :mod:`bayesprof.models.galaxy`:

============  ==============================================================================================
scale_length  LogNormal(ln of measured half-light radius over 1.678, 0.7)
thickness     Beta(2, 8): mean 0.2. Spirals have about 0.14 (Kregel, van der Kruit & de Grijs 2002, MNRAS 334, 646)
sech_power    Uniform(0, 2): from exponential to isothermal
theta         as there, half a turn about the measured angle
============  ==============================================================================================
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import pyro.distributions as dist
import torch
from scipy.special import k1e
from torch import Tensor

from bayesprof.grid import ellipse_from_axis_ratio, per_pixel
from bayesprof.image import Image
from bayesprof.light import Extended, as_tensors
from bayesprof.measurement import R_EFF_OVER_SCALE, Measurement
from bayesprof.models.component import Component, Default, Derived, Parameter, catalogued, component, log_normal, number
from bayesprof.models.galaxy import FLUX, POSITION, R_EFF, THETA, fraction
from bayesprof.models.vertical import vertical_brightness, vertical_transform

_BETWEEN = 2.0  # K_1 is summed as a power series below, and looked up as a polynomial in 1/d beyond
_TERMS = 12


class EdgeOnDisk(Extended):
    """Light of an edge-on disk.

    Parameters
    ----------
    x, y : centre, pixels.
    flux : total light, image units.
    scale_length : h, in the plane, pixels, > 0.
    thickness : scale height over scale length, z0 / h, in (0, 1].
    sech_power : p in [0, 2], 2 for an isothermal sheet, 1 for sech, 0 for an exponential; Imfit's n is 2/p.
    theta : angle of the plane, radians. Conventions: :mod:`bayesprof.grid`.

    Without a PSF the light is integrated over each pixel with 8 nodes a side: to 1e-5 (relative L2) where z0 is 0.3
    pixels and more, and to 2e-3 only where `sech_power` is below 0.1 and the plane a cusp. Give the image a PSF there.

    Examples
    --------
    >>> from bayesprof import models
    >>> disk = models.EdgeOnDisk(30.0, 40.0, 100.0, 8.0, 0.15, 2.0, theta=0.3)
    """

    nodes_per_pixel: ClassVar[int] = 8

    stackable = True

    def __init__(
        self, x: Any, y: Any, flux: Any, scale_length: Any, thickness: Any, sech_power: Any, theta: Any
    ) -> None:
        super().__init__()
        self.x, self.y, self.flux, self.radius, self.thickness, self.sech_power, self.theta = as_tensors(
            x, y, flux, scale_length, thickness, sech_power, theta
        )
        self.ellipse = ellipse_from_axis_ratio(self.thickness, self.theta)

    def transform_at(self, kx: Tensor, ky: Tensor) -> Tensor:
        along, across = turned(kx, ky, self.theta)
        length = per_pixel(self.radius)
        heights = (across * length * per_pixel(self.thickness)) ** 2
        return (1 + (along * length) ** 2) ** -1.5 * vertical_transform(heights, per_pixel(self.sech_power))

    def brightness_at(self, dx: Tensor, dy: Tensor) -> Tensor:
        along, across = turned(dx, dy, self.theta)
        length = per_pixel(self.radius)
        vertical = vertical_brightness(across, length * per_pixel(self.thickness), per_pixel(self.sech_power))
        return per_pixel(self.flux) / (math.pi * length) * times_bessel((along / length) ** 2) * vertical


@catalogued
def edge_on_disk(
    *,
    x: Any = None,
    y: Any = None,
    flux: Any = None,
    scale_length: Any = None,
    thickness: Any = None,
    sech_power: Any = None,
    theta: Any = None,
) -> Component:
    """A disk seen from its side, :class:`EdgeOnDisk`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is the
    default of :mod:`bayesprof.models.edge_on_disk`. Where the disk is thinner than the PSF, hold `sech_power`: the
    image doesn't tell it from the thickness. Recorded beside the parameters: ``scale_height``, pixels.

    Examples
    --------
    >>> from bayesprof import models
    >>> disk = models.edge_on_disk(sech_power=2.0)
    """
    parameters = {**POSITION, **FLUX, **SCALE_LENGTH, **THICKNESS, "sech_power": _SECH_POWER, **THETA}
    return component(
        "edge_on_disk",
        EdgeOnDisk,
        parameters,
        SCALE_HEIGHT,
        x=x,
        y=y,
        flux=flux,
        scale_length=scale_length,
        thickness=thickness,
        sech_power=sech_power,
        theta=theta,
    )


def _scale_length(found: Measurement, image: Image) -> Default:
    return log_normal(
        found.r_eff / R_EFF_OVER_SCALE, 0.7, image, "measured half-light radius over 1.678", measured=True
    )


def _sech_power(found: Measurement, image: Image) -> Default:
    return Default(dist.Uniform(number(0.0, image), number(2.0, image)), 1.0, "Uniform(0, 2)")


SCALE_LENGTH = {"scale_length": R_EFF._replace(default=_scale_length)}
THICKNESS = {
    "thickness": fraction(2, 8, "scale height over scale length")._replace(
        allowed="in (0, 1]", within=lambda ratio: 0 < ratio <= 1
    )
}
SCALE_HEIGHT = {
    "scale_height": Derived("pixel", "scale_length thickness", lambda v: v["scale_length"] * v["thickness"])
}
_SECH_POWER = Parameter("", "in [0, 2]", lambda power: 0 <= power <= 2, _sech_power)


def turned(x: Tensor, y: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates along and across an axis at `theta`."""
    cos, sin = per_pixel(torch.cos(theta)), per_pixel(torch.sin(theta))
    return x * cos + y * sin, y * cos - x * sin


def times_bessel(square: Tensor) -> Tensor:
    """``d K_1(d)`` of ``d^2`` >= 0, to 1e-12; 1 at 0.

    Below 2 the power series (Abramowitz & Stegun 9.6.11); beyond, exp(-d) sqrt(d) times a polynomial in 1/d.
    """
    near, far = square.clamp(max=_BETWEEN**2), torch.sqrt(square.clamp(min=_BETWEEN**2))
    quarter = 0.25 * near
    logarithm = torch.log(quarter + torch.finfo(square.dtype).tiny)
    log_part, plain_part = (_horner(series, quarter) for series in _near_zero())
    inside = 1 + quarter * (logarithm * log_part - plain_part)
    outside = torch.exp(-far) * torch.sqrt(far) * _horner(_far_out(), 1 / far)
    return torch.where(square < _BETWEEN**2, inside, outside)


def _horner(coefficients: list[float], x: Tensor) -> Tensor:
    total = torch.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * x + coefficient
    return total


@lru_cache
def _near_zero() -> tuple[list[float], list[float]]:
    """Power series in d^2/4 of what multiplies ln(d^2/4), and of the rest."""
    terms = [1 / (math.factorial(k) * math.factorial(k + 1)) for k in range(_TERMS)]
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, _TERMS + 1))])
    # psi(k + 1) + psi(k + 2) = H_k + H_(k+1) - 2 gamma
    return terms, [float(t * (harmonic[k] + harmonic[k + 1] - 2 * np.euler_gamma)) for k, t in enumerate(terms)]


@lru_cache
def _far_out() -> list[float]:
    """Polynomial in 1/d of exp(d) sqrt(d) K_1(d), for d >= 2."""
    domain = [0.0, 1 / _BETWEEN]
    nodes = 0.5 * domain[1] * (1 - np.cos(np.pi * (np.arange(20) + 0.5) / 20))
    series = np.polynomial.Chebyshev.fit(nodes, np.sqrt(1 / nodes) * k1e(1 / nodes), 19, domain=domain)
    return [float(value) for value in series.convert(kind=np.polynomial.Polynomial).coef]
