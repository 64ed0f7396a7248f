"""Fourier modes: contours with waves in angle.

R -> R exp(sum over m of c_m cos(m phi) + s_m sin(m phi)),

phi the angle in the plane where the ellipse is a circle, counter-clockwise from +x. Mode m has amplitude
a_m = sqrt(c_m^2 + s_m^2), and for its part the contour lies farthest in at the angle phi_m = atan2(s_m, c_m) / m. To
first order the exponential is 1 + sum of a_m cos(m (phi - phi_m)), the form of GALFIT (Peng et al. 2010, AJ 139,
2097); like AstroPhot's (Stone et al. 2023, MNRAS 525, 6377) it is positive for any amplitude. GALFIT counts phi from
the major axis; from +x, and by (c_m, s_m), no parameter is undefined where an amplitude is 0 or the galaxy is round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprof.grid import per_pixel
from bayesprof.image import Image
from bayesprof.light import as_tensors
from bayesprof.measurement import Measurement
from bayesprof.models.component import Axis, Default, Parameter, catalogued, number
from bayesprof.models.shape import Place, Shape, ShapeComponent, shape_component

_DEFAULT_SD = 0.05


@dataclass(frozen=True)
class FourierModes(Shape):
    """Waves in angle along the contours.

    Parameters
    ----------
    modes : numbers m >= 1 of waves in a turn: 1 is lopsided, 2 elongated, 3 triangular, 4 boxy or disky.
    fourier : (c_m, s_m) of each, shape ``(..., modes, 2)``. The sum of the amplitudes should stay below 1 / m for
        contours without dents.

    Examples
    --------
    >>> from bayesprof import models
    >>> lopsided = models.FourierModes((1, 3), [[0.1, 0.0], [0.02, -0.03]])
    >>> galaxy = models.Shaped(models.Exponential(30.0, 40.0, 100.0, 5.0), [lopsided])
    """

    modes: tuple[int, ...]
    fourier: Any

    def __post_init__(self) -> None:
        modes = _modes(self.modes)
        fourier = as_tensors(self.fourier)[0]
        if fourier.shape[-2:] != (len(modes), 2):
            raise ValueError(
                f"FourierModes: expected fourier of shape (..., {len(modes)}, 2), a cosine and a sine for each of "
                f"{len(modes)} modes, got shape {tuple(fourier.shape)}"
            )
        object.__setattr__(self, "modes", modes)
        object.__setattr__(self, "fourier", fourier)

    def __call__(self, place: Place) -> Place:
        radius = place.radius
        cos, sin = place.u / radius, place.v / radius
        # cos(m phi) and sin(m phi) by powers of exp(i phi)
        wave: tuple[Tensor, Tensor] = (cos, sin)
        order = 1
        exponent: Tensor | float = 0.0
        for mode, (c, s) in sorted(zip(self.modes, (pair.unbind(-1) for pair in self.fourier.unbind(-2)), strict=True)):
            while order < mode:
                wave = (wave[0] * cos - wave[1] * sin, wave[0] * sin + wave[1] * cos)
                order += 1
            exponent = exponent + per_pixel(c) * wave[0] + per_pixel(s) * wave[1]
        return place.scaled(torch.exp(torch.as_tensor(exponent)))


@catalogued
def fourier_modes(modes: Sequence[int], *, fourier: Any = None) -> ShapeComponent:
    """Waves in angle along the contours, for :func:`models.shaped <bayesprof.models.shaped.shaped>`,
    :class:`FourierModes`.

    `fourier`, of shape (modes, 2), takes a Pyro distribution over it (prior), an array (held), or nothing: then each
    number has the prior Normal(0, 0.05), which is the same for every phase.

    Examples
    --------
    >>> from bayesprof import models
    >>> galaxy = models.shaped(models.sersic(), models.fourier_modes((1, 3)))
    """
    modes = _modes(modes)

    def light(fourier: Any) -> FourierModes:
        return FourierModes(modes, fourier)

    axes = (Axis("mode", modes), Axis("wave", ("cos", "sin"), shared=True))
    parameter = Parameter("", "finite", lambda value: bool(value.isfinite().all()), _default_of(len(modes)), axes)
    return shape_component("fourier_modes", light, {"fourier": parameter}, fourier=fourier)


def _default_of(count: int) -> Any:
    def default(found: Measurement, image: Image) -> Default:
        prior = dist.Normal(number(0.0, image), number(_DEFAULT_SD, image)).expand([count, 2]).to_event(2)
        return Default(prior, torch.zeros(count, 2), f"Normal(0, {_DEFAULT_SD:g}): each of the numbers")

    return default


def _modes(modes: Sequence[int]) -> tuple[int, ...]:
    found = tuple(modes)
    if not found or any(not isinstance(mode, int) or mode < 1 for mode in found) or len(set(found)) < len(found):
        raise ValueError(
            f"fourier_modes: expected different whole numbers of at least 1, got {modes!r}; for example (1, 3)"
        )
    return found
