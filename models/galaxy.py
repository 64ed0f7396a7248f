"""The parameters that galaxies have in common, with their default priors.

======================  ==============================================================================================
x, y                    Normal(measured position, max(1 pixel, half the measured half-light radius))
flux                    LogNormal(ln measured flux, 2)
r_eff                   LogNormal(ln measured half-light radius, 1)
ellipticity (e1, e2)    isotropic: e = w / sqrt(1 + |w|^2) with w two independent Normal(0, 0.4); median axis ratio 0.40
q (in its place)        Uniform(0.05, 1)
theta (in its place)    Uniform(measured angle - pi/2, measured angle + pi/2)
======================  ==============================================================================================

"Measured" is what :func:`bayesprof.measurement.measure` finds on the image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch

from bayesprof.grid import axis_ratio_and_angle
from bayesprof.image import Image
from bayesprof.measurement import Measurement
from bayesprof.models.component import (
    Axis,
    Component,
    Default,
    Derived,
    Parameter,
    beta,
    component,
    log_normal,
    normal,
    number,
    scaled_beta,
)
from bayesprof.models.ellipticity import Ellipticity

_SHAPE_SCALE = 0.4


def _positive(value: float) -> bool:
    return 0 < value < math.inf


def _position(axis: str) -> Parameter:
    def default(found: Measurement, image: Image) -> Default:
        return normal(getattr(found, axis), max(1.0, 0.5 * found.r_eff), image, f"measured {axis}", measured=True)

    return Parameter("pixel", "finite", math.isfinite, default)


def _flux(found: Measurement, image: Image) -> Default:
    return log_normal(found.flux, 2.0, image, "measured flux", measured=True)


def _r_eff(found: Measurement, image: Image) -> Default:
    return log_normal(found.r_eff, 1.0, image, "measured half-light radius", measured=True)


def _q(found: Measurement, image: Image) -> Default:
    size = math.hypot(*found.ellipticity)
    start = min(max((1 - size) / (1 + size), 0.1), 0.95)
    return Default(dist.Uniform(number(0.05, image), number(1.0, image)), start, "Uniform(0.05, 1)", measured=True)


def _theta(found: Measurement, image: Image) -> Default:
    angle = 0.5 * math.atan2(found.ellipticity[1], found.ellipticity[0])
    low, high = angle - math.pi / 2, angle + math.pi / 2
    prior = dist.Uniform(number(low, image), number(high, image))
    return Default(prior, angle, f"Uniform({low:.3f}, {high:.3f}): half a turn about the measured angle", measured=True)


POSITION = {"x": _position("x"), "y": _position("y")}
FLUX = {"flux": Parameter("{flux}", "finite", math.isfinite, _flux)}
SIZE = {"r_eff": Parameter("pixel", "> 0", _positive, _r_eff)}
R_EFF = SIZE["r_eff"]
_COMPONENTS = Axis("ellipticity_component", ("e1", "e2"), shared=True)
_AXIS_RATIO_AND_ANGLE = {
    "q": Parameter("", "in (0, 1]", lambda q: 0 < q <= 1, _q),
    "theta": Parameter("rad", "finite", math.isfinite, _theta),
}
THETA = {"theta": _AXIS_RATIO_AND_ANGLE["theta"]}


def size(factor: float, quantity: str, log_sd: float = 1.0) -> Parameter:
    """A radius whose default prior is log-normal about `factor` times the measured half-light radius."""

    def default(found: Measurement, image: Image) -> Default:
        return log_normal(factor * found.r_eff, log_sd, image, quantity)

    return Parameter("pixel", "> 0", _positive, default)


def multiple_of_r_eff(factor: float) -> Parameter:
    """A length of a shape, whose default prior is narrower."""
    return size(factor, f"{factor:g} times the measured half-light radius", 0.5)


def exponent(low: float, high: float, median: float, log_sd: float, *, unit: str = "") -> Parameter:
    """A number between `low` and `high` whose default prior is log-normal about `median`."""

    def default(found: Measurement, image: Image) -> Default:
        return log_normal(median, log_sd, image, "the same for every image")

    return Parameter(unit, f"in [{low:g}, {high:g}]", lambda value: low <= value <= high, default)


def affine_beta(low: float, high: float, a: float, b: float, start: float) -> Parameter:
    """A number between `low` and `high` whose default prior is ``low + (high - low) Beta(a, b)``."""

    def default(found: Measurement, image: Image) -> Default:
        return scaled_beta(low, high, a, b, start, image)

    return Parameter("", f"in [{low:g}, {high:g}]", lambda value: low <= value <= high, default)


def elliptical(kind: str, light: Any, own: Mapping[str, Parameter], **given: Any) -> Component:
    """A component with a position, a shape and parameters of its own."""
    kept = {name: value for name, value in given.items() if value is not None}
    parameters, derived = shape(kind, kept)
    return component(kind, light, {**POSITION, **own, **parameters}, derived, **kept)


def galaxy(kind: str, light: Any, extra: Mapping[str, Parameter], **given: Any) -> Component:
    """A component with the common parameters of galaxies and `extra` ones of its own."""
    return elliptical(kind, light, {**FLUX, **SIZE, **extra}, **given)


def shape(
    kind: str,
    given: Mapping[str, Any],
    part: str = "",
    scale: float = _SHAPE_SCALE,
    *,
    measured: bool = True,
    by_angle: Mapping[str, Parameter] | None = None,
) -> tuple[dict[str, Parameter], dict[str, Derived]]:
    """Parameters of the shape of a galaxy or of a `part` of one, and what follows from them: the ellipticity, from
    which q and theta follow; or q and theta in its place, where `given` has one of them.

    `part` : what goes before the names, as "bulge_". `scale` : that of the default prior of the ellipticity.
    `measured` : whether it starts from the ellipticity measured on the image, or from a circle. `by_angle` : what q and
    theta are in its place; those of a galaxy where None.
    """
    vector, q, theta = (part + name for name in ("ellipticity", "q", "theta"))
    if q in given or theta in given:
        if vector in given:
            raise ValueError(f"{kind}: expected either {vector} or {q} and {theta}, got both; leave one of them out")
        return {part + name: parameter for name, parameter in (by_angle or _AXIS_RATIO_AND_ANGLE).items()}, {}
    derived = {
        q: Derived("", f"axis ratio, from {vector}", lambda values: axis_ratio_and_angle(values[vector])[0]),
        theta: Derived(
            "rad", f"angle of the major axis, from {vector}", lambda values: axis_ratio_and_angle(values[vector])[1]
        ),
    }
    return {vector: _ellipticity(scale, measured)}, derived


def fraction(a: float, b: float, meaning: str) -> Parameter:
    """A number between 0 and 1, as that of a part's light or size in that of another; default prior Beta(`a`, `b`)."""
    return Parameter("", "in [0, 1]", lambda value: 0 <= value <= 1, lambda found, image: beta(a, b, image, meaning))


def size_ratio(a: float, b: float, inner: str, outer: str) -> Parameter:
    """Half-light radius of the `inner` part over that of the `outer` one, below 1 so that the two keep their order."""
    ratio = fraction(a, b, f"half-light radius of the {inner} over that of the {outer}")
    return ratio._replace(allowed="in (0, 1]", within=lambda value: 0 < value <= 1)


def _ellipticity(scale: float, measured: bool) -> Parameter:
    def default(found: Measurement, image: Image) -> Default:
        return Default(
            Ellipticity(number(scale, image)),
            torch.tensor(found.ellipticity if measured else (0.0, 0.0)),
            f"isotropic, e = w/sqrt(1 + |w|^2) with w two independent Normal(0, {scale})",
            measured=measured,
        )

    return Parameter("", "shorter than 1", lambda vector: bool(vector.norm() < 1), default, (_COMPONENTS,))
