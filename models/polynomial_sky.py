"""A sky that is a polynomial of the position.

sky(x, y) = sum over i + j <= degree of c_ij P_i(u) P_j(v),    u = 2 x / (nx - 1) - 1,    v = 2 y / (ny - 1) - 1,

with P the Legendre polynomials: those of one degree span the same skies as the powers of x and y, but their
coefficients are nearly uncorrelated in a fit. Degree 1 is :class:`~bayesprof.models.plane_sky.PlaneSky`.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprof.image import Image
from bayesprof.light import Background, as_tensors
from bayesprof.measurement import Measurement
from bayesprof.models.component import Axis, Component, Default, Parameter, catalogued, component, number


class PolynomialSky(Background):
    """Light of a polynomial sky.

    Parameters
    ----------
    coefficients : shape (..., terms), image units per pixel, in the order of :func:`terms_of`: (degree + 1)
        (degree + 2) / 2 of them. The first is the mean level.

    Raises
    ------
    ValueError
        For a number of coefficients that no degree has.

    Examples
    --------
    >>> from bayesprof import models
    >>> sky = models.PolynomialSky([3.0, 0.2, -0.1, 0.0, 0.0, 0.05])
    """

    def __init__(self, coefficients: Any) -> None:
        super().__init__()
        (self.coefficients,) = as_tensors(coefficients)
        count = self.coefficients.shape[-1] if self.coefficients.ndim else 0
        self.degree = (math.isqrt(8 * count + 1) - 3) // 2
        if self.degree < 0 or len(terms_of(self.degree)) != count:
            raise ValueError(
                f"PolynomialSky: expected (degree + 1) (degree + 2) / 2 coefficients: 1, 3, 6, 10, ..., along the last "
                f"axis, got shape {tuple(self.coefficients.shape)}"
            )

    def brightness_at(self, x: Tensor, y: Tensor) -> Tensor:
        along_x, along_y = (
            _legendre(2 * pixels / (pixels.shape[-1] - 1) - 1, self.degree) for pixels in (x.squeeze(-2), y.squeeze(-1))
        )
        terms = torch.stack([along_y[j][:, None] * along_x[i] for i, j in terms_of(self.degree)])
        return torch.tensordot(self.coefficients, terms, dims=1)


def terms_of(degree: int) -> list[tuple[int, int]]:
    """(i, j) of the terms P_i(u) P_j(v) up to `degree`: by total degree, and then falling in i.

    >>> terms_of(2)
    [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]
    """
    return [(total - j, j) for total in range(degree + 1) for j in range(total + 1)]


def _legendre(u: Tensor, degree: int) -> list[Tensor]:
    """Legendre polynomials up to `degree`, by their recurrence."""
    found = [torch.ones_like(u), u]
    for n in range(1, degree):
        found.append(((2 * n + 1) * u * found[n] - n * found[n - 1]) / (n + 1))
    return found[: degree + 1]


@catalogued
def polynomial_sky(*, degree: int = 2, coefficients: Any = None) -> Component:
    """A polynomial sky, :class:`PolynomialSky`.

    `degree`: a whole number >= 0. `coefficients` takes a Pyro distribution over its (degree + 1) (degree + 2) / 2
    numbers (prior), an array of them (held), or nothing: then their priors are Normal(m, 3 times the noise of a pixel),
    with m the clipped median of the image's border for the first, the mean level, and 0 for the others.

    Raises
    ------
    ValueError, TypeError
        For a `degree` that isn't a whole number >= 0, and for coefficients of another shape.

    Examples
    --------
    >>> from bayesprof import models
    >>> sky = models.polynomial_sky(degree=3)
    """
    if isinstance(degree, bool) or not isinstance(degree, int) or degree < 0:
        raise ValueError(
            f"polynomial_sky: expected degree as a whole number >= 0, got {degree!r}; for example degree=2"
        )
    labels = tuple(f"x{i}y{j}" for i, j in terms_of(degree))

    def default(found: Measurement, image: Image) -> Default:
        mean = torch.zeros(len(labels), dtype=image.dtype, device=image.device)
        mean[0] = found.sky
        sd = number(3 * found.noise, image)
        return Default(
            dist.Normal(mean, sd.expand(len(labels))).to_event(1),
            mean,
            f"Normal({found.sky:.5g}, {3 * found.noise:.3g}): clipped median of the image's border, and three times "
            "the pixel noise; the others about 0",
            measured=True,
        )

    allowed = Parameter(
        "{flux}", "finite", lambda values: bool(values.isfinite().all()), default, (Axis("term", labels),)
    )
    return component("polynomial_sky", PolynomialSky, {"coefficients": allowed}, coefficients=coefficients)
