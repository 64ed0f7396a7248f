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
from typing import Any, ClassVar, NamedTuple, ParamSpec, TypeVar

import pyro
import pyro.distributions as dist
import torch
from astropy import units
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from bayesprof.image import Image
from bayesprof.images import Images
from bayesprof.light import Light
from bayesprof.measurement import Measurement
from bayesprof.variation import Asked, Axis, Drawn, PerImage, Shared, Variation, Varied
from bayesprof.window import Window

P = ParamSpec("P")
Made = TypeVar("Made")


class Default(NamedTuple):
    """A default prior: the distribution, the value to start from (None: its median), and its formula in words.

    `measured` : whether that value is what the image has, or else a guess.
    """

    prior: Any
    start: Any
    formula: str
    measured: bool = False


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

    @property
    def per_unit(self) -> bool:
        """Whether it is in the unit of the image, as a flux is, and so has a value for each image of a scene."""
        return "{flux}" in self.unit


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
    `parameters`: what it takes; `given`: what the user gave, a Pyro distribution, a value or a
    :class:`bayesprof.variation.Variation` each; `derived`: what
    follows from the parameters and is worth a row in a table; `found`: what is known of its object, None to measure the
    image, or a measurement for each image that sees it; `held`: values of sites that are held, by their names; `call`:
    what made it, None where that isn't all that there is to it.
    """

    kind: str
    light: Callable[..., Any]
    parameters: Mapping[str, Parameter]
    given: Mapping[str, Any]
    derived: Mapping[str, Derived] = field(default_factory=dict)
    found: Measurement | tuple[Measurement, ...] | None = None
    held: Mapping[str, Any] = field(default_factory=dict)
    call: Call | None = field(default=None, repr=False)

    def measured_as(self, found: Measurement | tuple[Measurement, ...]) -> Component:
        """This component about an object that was `found` before: its default priors and starting values come from
        there, and not from what the image or a window of it has in its middle.
        """
        return replace(self, found=found)

    def holding(self, values: Mapping[str, Any]) -> Component:
        """This component with sites held at `values`, by their names in it, as if they had been given as numbers.

        A value out of the range of its parameter, and a name that is no site, are told when it is bound.
        """
        return replace(self, held={**self.held, **values}, call=None)

    def bind(self, image: Image | Images, window: Window | None = None) -> BoundComponent:
        """This component with its default priors from what is known of its object, or from the image, from a `window`
        of it where it has one: a Pyro model function. Of several images, the geometry's come from the first, and what
        is in the unit of the image from each.
        """
        images = image if isinstance(image, Images) else Images.of(image)
        found = images.measured(self.found, window)
        axis = Axis("image", images.seen_names, shared=images.complete)
        varied = {
            name: self._holding(name, self._over(name, parameter, images, found, axis))
            for name, parameter in self.parameters.items()
        }
        sites = [site for one in varied.values() for site in one.sites]
        strange = [site for site in self.held if site not in sites]
        if strange:
            raise ValueError(
                f"{self.kind}: expected parameters to hold, {sites}, got {strange[0]!r}; what is derived from "
                "others is held with them"
            )
        return BoundComponent(self, varied, images)

    def _holding(self, name: str, varied: Varied) -> Varied:
        """A parameter with those of its sites that are held."""
        sites, parameter = dict(varied.sites), self.parameters[name]
        for site, drawn in varied.sites.items():
            if site in self.held:
                value = self.held[site]
                if site == name:  # and not what a curve is made of
                    for one in value if len(drawn.axes) > len(parameter.axes) else [value]:
                        _checked(self.kind, name, one, parameter)
                sites[site] = drawn._replace(source=value, start=None, formula="")
        return varied._replace(sites=sites)

    def _over(
        self, name: str, parameter: Parameter, images: Images, found: tuple[Measurement, ...], axis: Axis
    ) -> Varied:
        # geometry is that of the first image, wherever it is seen
        defaults = tuple(
            parameter.default(one, seen if parameter.per_unit else images.first)
            for one, seen in zip(found, images.seen, strict=True)
        )
        given = self.given.get(name)
        if not isinstance(given, Variation):
            several = parameter.per_unit and (given is None or is_prior(given)) and len(images.seen) > 1
            given = PerImage(given) if several else Shared(given)
        return given.over(
            Asked(
                name,
                parameter.unit,
                parameter.allowed,
                parameter.axes,
                images.seen,
                defaults,
                parameter.per_unit,
                axis,
                lambda value: _checked(self.kind, name, value, parameter),
            )
        )

    def __call__(self) -> Light:
        raise TypeError(
            f"{self.kind}: its default priors come from an image, so it can't be called alone; put it into "
            f"bp.Scene(image, galaxy=models.{self.kind}(...)) or call models.{self.kind}(...).bind(image)()"
        )


@dataclass(frozen=True)
class BoundComponent:
    """A Pyro model function that draws the parameters of a component and returns its light: one, or by image where it
    is seen in several and a parameter has a value for each of them.

    `varied`: how each parameter goes with the `images`.
    """

    component: Component
    varied: Mapping[str, Varied]
    images: Images
    _own_axes: ClassVar[int] = 0  # of what follows from the parameters, beside that of images

    def __call__(self) -> Light | dict[str, Light]:
        image = self.images.first
        drawn = {}
        for name, site in self.sites.items():
            value = pyro.sample(name, site.source) if is_prior(site.source) else site.source
            drawn[name] = torch.as_tensor(value, device=image.device)
            if not drawn[name].is_floating_point() or not is_prior(site.source):
                drawn[name] = drawn[name].to(image.dtype)
        values = {name: one.values(drawn) for name, one in self.varied.items()}
        for name, one in self.varied.items():
            if one.recorded:
                pyro.deterministic(name, values[name], event_dim=1 + len(self.component.parameters[name].axes))
        for name, derived in self.component.derived.items():
            pyro.deterministic(name, self._follows(derived, values))
        if self.shared:
            return self.component.light(**values)
        return {
            name: self.component.light(**{key: self.in_image(name, key, value) for key, value in values.items()})
            for name in self.images.seen_names
        }

    def _follows(self, derived: Derived, values: Mapping[str, Tensor]) -> Tensor:
        """What follows from the values of the parameters."""
        return derived.of(values)

    def in_image(self, image: str, name: str, value: Tensor) -> Tensor:
        """What the values of the parameter `name` over the images are in one of them."""
        if self.varied[name].shared:
            return value
        return value.select(-1 - len(self.component.parameters[name].axes), self.images.seen_names.index(image))

    @property
    def shared(self) -> bool:
        """Whether every parameter has one value for all images."""
        return all(one.shared for one in self.varied.values())

    @property
    def sites(self) -> dict[str, Drawn]:
        """What is drawn or held, by the name of its site."""
        return {name: site for one in self.varied.values() for name, site in one.sites.items()}

    @property
    def sources(self) -> dict[str, Any]:
        """Prior or held value of every site."""
        return {name: site.source for name, site in self.sites.items()}

    @property
    def starts(self) -> dict[str, Any]:
        """Where a fit starts, by site."""
        return {name: site.start for name, site in self.sites.items() if site.start is not None}

    @property
    def recorded(self) -> dict[str, tuple[str, str, tuple[Axis, ...]]]:
        """What follows from the sites and is recorded beside them: its unit, its meaning and its axes, by name."""
        images = (Axis("image", self.images.seen_names, shared=self.images.complete),)
        parameters = self.component.parameters
        found = {
            name: (parameters[name].unit, "curve in wavelength", (*images, *parameters[name].axes))
            for name, one in self.varied.items()
            if one.recorded
        }
        varying = self._derived_by_image()
        return found | {
            name: (one.unit, one.meaning, images if name in varying else ())
            for name, one in self.component.derived.items()
        }

    def _derived_by_image(self) -> set[str]:
        """Names of what follows from a parameter that has a value for each image."""
        if self.shared:
            return set()
        with torch.no_grad(), pyro.poutine.block(), torch.random.fork_rng(devices=[]):
            nodes = pyro.poutine.trace(self).get_trace().nodes
        each = {name: torch.as_tensor(nodes[name]["value"]) for name in self.component.derived}
        return {name for name, value in each.items() if value.ndim > self._own_axes}

    @property
    def units(self) -> dict[str, str]:
        """Unit of every site, "" where it has none."""
        units = {image.unit for image in self.images.seen}
        flux = (units.pop() if len(units) == 1 else None) or "image unit"
        stated = {name: site.unit for name, site in self.sites.items()}
        stated |= {name: unit for name, (unit, *_) in self.recorded.items()}
        return {name: unit.format(flux=flux) for name, unit in stated.items()}

    @property
    def axes(self) -> dict[str, tuple[Axis, ...]]:
        """Axes of what is drawn or recorded and isn't a single number."""
        stated = {name: site.axes for name, site in self.sites.items()}
        stated |= {name: axes for name, (_, _, axes) in self.recorded.items()}
        return {name: axes for name, axes in stated.items() if axes}


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
        For a parameter that is neither a Pyro distribution nor a number or tensor, nor one of
        :mod:`bayesprof.variation`, or out of its range.
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


def _checked(kind: str, name: str, value: Any, parameter: Parameter) -> Any:
    if isinstance(value, Variation):
        return value
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


def log_normal(
    median: float, log_sd: float, image: Image, quantity: str, digits: str = ".4g", *, measured: bool = False
) -> Default:
    """Default log-normal prior about a `median`."""
    prior = dist.LogNormal(torch.log(number(median, image)), number(log_sd, image))
    return Default(prior, median, f"LogNormal(ln {median:{digits}}, {log_sd:g}): {quantity}", measured)


def normal(mean: float, sd: float, image: Image, quantity: str, *, measured: bool = False) -> Default:
    """Default normal prior about a `mean`."""
    prior = dist.Normal(number(mean, image), number(sd, image))
    return Default(prior, mean, f"Normal({mean:.5g}, {sd:.3g}): {quantity}", measured)


def beta(a: float, b: float, image: Image, quantity: str) -> Default:
    """Default Beta prior of a fraction, to be started at its mean."""
    return Default(dist.Beta(number(a, image), number(b, image)), a / (a + b), f"Beta({a:g}, {b:g}): {quantity}")


def scaled_beta(low: float, high: float, a: float, b: float, start: float, image: Image) -> Default:
    """Default Beta prior on the interval from `low` to `high`."""
    prior = dist.AffineBeta(number(a, image), number(b, image), number(low, image), number(high - low, image))
    return Default(prior, start, f"{low:g} + {high - low:g} Beta({a:g}, {b:g})")
