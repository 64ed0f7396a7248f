"""What every component of this catalogue is: a light, and a prior, a held value or a default for each of its
parameters.

:class:`Component` is the unbound form that ``models.sersic(...)`` returns. Bound to an image, where it finds its
default priors, it is a Pyro model function that draws its parameters and returns light. A user's own component
needs none of this: any function that draws with ``pyro.sample`` and returns light will do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import pyro
import pyro.distributions as dist
import torch
from astropy import units
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from bayesprof.image import Image
from bayesprof.light import Light
from bayesprof.measurement import Measurement, measure
from bayesprof.window import Window

P = ParamSpec("P")
Made = TypeVar("Made")


class Default(NamedTuple):
    """A default prior: the distribution, the value to start from (None: its median), and its formula in words."""

    prior: Any
    start: Any
    formula: str


class Axis(NamedTuple):
    """An axis of a parameter that isn't a single number: its name as a dimension and the labels along it. `shared`:
    it means the same in every component, and isn't named after one.
    """

    name: str
    labels: tuple[Any, ...]
    shared: bool = False


class Parameter(NamedTuple):
    """A parameter of a component.

    `unit` may hold ``{flux}``, for the unit of the image. `allowed` says what held values are taken, and `within`
    tells whether a value is one: a float, or a tensor where the parameter has `axes`. `default` gives the default
    prior from what was measured on the image.
    """

    unit: str
    allowed: str
    within: Callable[[Any], bool]
    default: Callable[[Measurement, Image], Default]
    axes: tuple[Axis, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(axis.labels) for axis in self.axes)


class Call(NamedTuple):
    """The call of a function of the catalogue that made a component: a scene is saved as its calls."""

    function: str
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]


def catalogued(make: Callable[P, Made]) -> Callable[P, Made]:
    """`make`, a function of the catalogue, whose components remember the call that made them."""

    @wraps(make)
    def made(*arguments: P.args, **keywords: P.kwargs) -> Made:
        given = {name: value for name, value in keywords.items() if value is not None}
        result: Any = make(*arguments, **keywords)
        remembered: Made = replace(result, call=Call(make.__name__, arguments, given))
        return remembered

    return made


class Derived(NamedTuple):
    """A number that follows from the parameters of a component, recorded beside them as a deterministic site.

    `unit` as that of a :class:`Parameter`. `meaning` says in words what it is. `of` computes it from the values of
    the parameters, by name, for any batch shape.
    """

    unit: str
    meaning: str
    of: Callable[[Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Component:
    """A component of the catalogue before it knows its image.

    `kind`: its name in the catalogue; `light`: the light of given parameters, by keyword, or the PSF or the likelihood;
    `parameters`: what it takes; `given`: what the user gave, a Pyro distribution or a value each; `derived`: what
    follows from the parameters and is worth a row in a table; `found`: what is known of its object, None to measure the
    image; `call`: what made it, None where that isn't all that there is to it.
    """

    kind: str
    light: Callable[..., Any]
    parameters: Mapping[str, Parameter]
    given: Mapping[str, Any]
    derived: Mapping[str, Derived] = field(default_factory=dict)
    found: Measurement | None = None
    call: Call | None = field(default=None, repr=False)

    def measured_as(self, found: Measurement) -> Component:
        """This component about an object that was `found` before: its default priors and starting values come from
        there, and not from what the image or a window of it has in its middle.
        """
        return replace(self, found=found)

    def holding(self, values: Mapping[str, Any]) -> Component:
        """This component with parameters held at `values`, as if they had been given.

        Raises ValueError for names that it doesn't have, and values out of their range.
        """
        for name in values:
            if name not in self.parameters:
                raise ValueError(
                    f"{self.kind}: expected parameters to hold, {list(self.parameters)}, got {name!r}; what is derived "
                    "from others is held with them"
                )
        return replace(self, given={**self.given, **checked(self.kind, self.parameters, values)}, call=None)

    def bind(self, image: Image, window: Window | None = None) -> BoundComponent:
        """This component with its default priors from what is known of its object, or from `image`, from a `window`
        of it where it has one: a Pyro model function.
        """
        found = self.found or measure(image, window)
        defaults = {name: parameter.default(found, image) for name, parameter in self.parameters.items()}
        sources = {name: self.given.get(name, default.prior) for name, default in defaults.items()}
        starts = {
            name: defaults[name].start
            for name, source in sources.items()
            if is_prior(source)
            and defaults[name].start is not None
            and (name not in self.given or _plausible(source, defaults[name].start))
        }
        formulas = {name: default.formula for name, default in defaults.items() if name not in self.given}
        return BoundComponent(self, sources, starts, formulas, image)

    def __call__(self) -> Light:
        raise TypeError(
            f"{self.kind}: its default priors come from an image, so it can't be called alone; put it into "
            f"bp.Scene(image, galaxy=models.{self.kind}(...)) or call models.{self.kind}(...).bind(image)()"
        )


@dataclass(frozen=True)
class BoundComponent:
    """A Pyro model function that draws the parameters of a component and returns its light.

    `sources`: prior or held value of each parameter; `starts`: where a fit starts, by parameter; `formulas`: the
    default priors among the sources, in words.
    """

    component: Component
    sources: Mapping[str, Any]
    starts: Mapping[str, Any]
    formulas: Mapping[str, str]
    image: Image

    def __call__(self) -> Light:
        values = {}
        for name, source in self.sources.items():
            value = pyro.sample(name, source) if is_prior(source) else source
            values[name] = torch.as_tensor(value, device=self.image.device)
            if not values[name].is_floating_point() or not is_prior(source):
                values[name] = values[name].to(self.image.dtype)
        for name, derived in self.component.derived.items():
            pyro.deterministic(name, derived.of(values))
        return self.component.light(**values)

    @property
    def units(self) -> dict[str, str]:
        """Unit of every site, "" where it has none."""
        flux = self.image.unit or "image unit"
        stated = {name: parameter.unit for name, parameter in self.component.parameters.items()}
        stated |= {name: derived.unit for name, derived in self.component.derived.items()}
        return {name: unit.format(flux=flux) for name, unit in stated.items()}

    @property
    def axes(self) -> dict[str, tuple[Axis, ...]]:
        """Axes of the parameters that are drawn and aren't single numbers."""
        parameters = self.component.parameters
        return {name: parameters[name].axes for name, source in self.sources.items() if parameters[name].axes}


def component(
    kind: str,
    light: Callable[..., Any],
    parameters: Mapping[str, Parameter],
    derived: Mapping[str, Derived] | None = None,
    **given: Any,
) -> Component:
    """A component of the catalogue, its given parameters checked.

    Raises
    ------
    TypeError, ValueError
        For a parameter that is neither a Pyro distribution nor a number or tensor, or out of its range.
    """
    return Component(kind, light, parameters, checked(kind, parameters, given), derived or {})


def checked(kind: str, parameters: Mapping[str, Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given for `parameters`, without None, each a Pyro distribution or a value in its range; raises as
    :func:`component`.
    """
    return {name: _checked(kind, name, value, parameters[name]) for name, value in given.items() if value is not None}


def is_prior(source: Any) -> bool:
    """Whether `source` is a Pyro distribution."""
    return isinstance(source, TorchDistributionMixin)


def _plausible(prior: Any, start: Any) -> bool:
    """Whether a value measured on the image is within four standard deviations of the user's own prior: that of a star
    away from the main object is about the star, and a fit should start there.
    """
    try:
        mean, sd = prior.mean, prior.stddev
    except NotImplementedError:
        return True
    return not bool(((torch.as_tensor(start, dtype=mean.dtype, device=mean.device) - mean).abs() > 4 * sd).any())


def _checked(kind: str, name: str, value: Any, parameter: Parameter) -> Any:
    shape = parameter.shape
    what = "one number" if shape == () else f"an array over {', '.join(axis.name for axis in parameter.axes)}"
    what = "the vector (e1, e2)" if name.endswith("ellipticity") else what
    remedy = (
        f"{kind}: {name} takes a Pyro distribution (a prior), a number or tensor (held), or nothing (its default prior)"
    )
    if isinstance(value, torch.distributions.Distribution) and not is_prior(value):
        raise TypeError(
            f"{remedy}; got torch.distributions.{type(value).__name__}: use pyro.distributions.{type(value).__name__}"
        )
    if is_prior(value):
        if value.shape() != shape:
            raise ValueError(f"{kind}: expected a prior of {name} over {what}, got one of shape {tuple(value.shape())}")
        return value
    if isinstance(value, units.Quantity):
        value = _in_unit(kind, name, value, parameter)
    if isinstance(value, bool | str):
        raise TypeError(f"{remedy}; got {value!r}")
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{remedy}; got {type(value).__name__}") from error
    if tensor.shape != shape:
        raise ValueError(f"{kind}: expected {name} to be {what}, of shape {shape}, got shape {tuple(tensor.shape)}")
    if not parameter.within(tensor if shape else float(tensor)):
        raise ValueError(
            f"{kind}: expected {name} {parameter.allowed}, got {value!r}; correct the value or give a prior"
        )
    return value if isinstance(value, Tensor) else tensor


def _in_unit(kind: str, name: str, value: units.Quantity, parameter: Parameter) -> Any:
    unit = units.Unit("pix" if parameter.unit == "pixel" else parameter.unit if parameter.unit == "rad" else "")
    if not value.unit.is_equivalent(unit):
        wanted = f"in {parameter.unit}" if parameter.unit in ("pixel", "rad") else "with no unit"
        raise ValueError(f"{kind}: expected {name} {wanted}, got '{value.unit}'; convert it")
    return value.to_value(unit)


def number(value: float, image: Image) -> Tensor:
    """`value` as a tensor on the dtype and device of `image`, for the parameters of default priors."""
    return torch.tensor(value, dtype=image.dtype, device=image.device)


def log_normal(median: float, log_sd: float, image: Image, quantity: str, digits: str = ".4g") -> Default:
    """Default log-normal prior about a measured `median`."""
    prior = dist.LogNormal(torch.log(number(median, image)), number(log_sd, image))
    return Default(prior, median, f"LogNormal(ln {median:{digits}}, {log_sd:g}): {quantity}")


def normal(mean: float, sd: float, image: Image, quantity: str) -> Default:
    """Default normal prior about a measured `mean`."""
    return Default(
        dist.Normal(number(mean, image), number(sd, image)), mean, f"Normal({mean:.5g}, {sd:.3g}): {quantity}"
    )


def beta(a: float, b: float, image: Image, quantity: str) -> Default:
    """Default Beta prior of a fraction, to be started at its mean."""
    return Default(dist.Beta(number(a, image), number(b, image)), a / (a + b), f"Beta({a:g}, {b:g}): {quantity}")


def scaled_beta(low: float, high: float, a: float, b: float, start: float, image: Image) -> Default:
    """Default Beta prior on the interval from `low` to `high`."""
    prior = dist.AffineBeta(number(a, image), number(b, image), number(low, image), number(high - low, image))
    return Default(prior, start, f"{low:g} + {high - low:g} Beta({a:g}, {b:g})")
