"""How a parameter of a component goes with the images of a scene.

One value for all images; one for each image, or for each band; or a smooth curve in wavelength. Without a word,
parameters in the unit of the image (fluxes, levels of a sky) have a value for each image, and all others one for all.
Any of these takes the place of a prior or a held value:

>>> import pyro.distributions as dist
>>> from bayesprof import models
>>> from bayesprof.curves import polynomial
>>> wavelength = {"g": 0.47, "r": 0.62, "z": 0.90}
>>> galaxy = models.sersic(n=polynomial(wavelength, order=2), r_eff=per_image(dist.LogNormal(2.0, 0.5)))
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from bayesprof.image import Image
from bayesprof.joint_prior import together

# standard deviations of a user's prior within which a fit starts from what was measured, or else from the default
_MEASURED_WITHIN, _GUESSED_WITHIN = 4.0, 1.0


class Axis(NamedTuple):
    """An axis of a parameter that isn't a single number: its name as a dimension and the labels along it. `shared`:
    it means the same in every component, and isn't named after one.
    """

    name: str
    labels: tuple[Any, ...]
    shared: bool = False


class Drawn(NamedTuple):
    """A site of a component, or a held value: where it comes from, and what is said of it. `formula`: of a default
    prior, in words; `allowed`: what held values are taken.
    """

    source: Any
    start: Any
    formula: str
    unit: str
    axes: tuple[Axis, ...]
    allowed: str


class Asked(NamedTuple):
    """A parameter, and the images it goes with.

    `defaults`: prior, start and formula in each image; `per_unit`: whether it is in the unit of the image; `images`:
    its axis over images; `checked`: a prior or value of the parameter in one image, as the component takes it.
    """

    name: str
    unit: str
    allowed: str
    axes: tuple[Axis, ...]
    seen: tuple[Image, ...]
    defaults: tuple[Any, ...]
    per_unit: bool
    images: Axis
    checked: Callable[[Any], Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(axis.labels) for axis in self.axes)

    def drawn(self, source: Any, start: Any, formula: str, axes: tuple[Axis, ...]) -> Drawn:
        return Drawn(source, start, formula, self.unit, axes, self.allowed)


class Varied(NamedTuple):
    """A parameter over the images: what is drawn for it, by site, and the function from what was drawn to its values.
    They have an axis for images before those of the parameter, where it is not `shared`; and are `recorded` where none
    of the sites says them.
    """

    sites: Mapping[str, Drawn]
    values: Callable[[Mapping[str, Tensor]], Tensor]
    shared: bool = False
    recorded: bool = False


def of_several(
    each: Sequence[Mapping[str, Varied]], join: Callable[[str, list[Drawn | None]], Drawn]
) -> dict[str, Varied]:
    """The parameters of several components of one kind as those of one: each site is what `join` makes of its name and
    of that site of all of them, None of those that have none.
    """
    return {
        name: one._replace(
            sites={site: join(site, [other[name].sites.get(site) for other in each]) for site in one.sites}
        )
        for name, one in each[0].items()
    }


class Variation(ABC):
    """How a parameter goes with the images of a scene."""

    @abstractmethod
    def over(self, asked: Asked) -> Varied:
        """The parameter that is `asked` for, over its images."""


@dataclass(frozen=True)
class Shared(Variation):
    """One value for all images."""

    given: Any = None

    def over(self, asked: Asked) -> Varied:
        default = asked.defaults[0]
        source = default.prior if self.given is None else asked.checked(self.given)
        start = start_of(source, default.start, given=self.given is not None, measured=default.measured)
        drawn = asked.drawn(source, start, default.formula if self.given is None else "", asked.axes)
        return Varied({asked.name: drawn}, lambda sites: sites[asked.name], shared=True)


@dataclass(frozen=True)
class PerImage(Variation):
    """A value for each image."""

    given: Any = None

    def over(self, asked: Asked) -> Varied:
        drawn = _each(asked, self.given, asked.defaults, asked.images, "per_image")
        return Varied({asked.name: drawn}, lambda sites: sites[asked.name])


@dataclass(frozen=True)
class PerBand(Variation):
    """A value for each band, the images of one band tied by their zero points."""

    given: Any = None

    def over(self, asked: Asked) -> Varied:
        without = [image.name for image in asked.seen if image.band is None]
        if without:
            raise ValueError(
                f"per_band: expected images with a band, got {without[0]!r} without; give Image(band='r'), or use "
                "per_image"
            )
        bands = tuple(dict.fromkeys(str(image.band) for image in asked.seen))
        place = [bands.index(str(image.band)) for image in asked.seen]
        leaders = [place.index(band) for band in range(len(bands))]
        axis = Axis("band", bands, asked.images.shared)
        drawn = _each(asked, self.given, [asked.defaults[leader] for leader in leaders], axis, "per_band")
        factors = None
        if asked.per_unit and len(bands) < len(asked.seen):
            factors = zeropoint_factors(asked, [leaders[band] for band in place])

        def values(sites: Mapping[str, Tensor]) -> Tensor:
            value = sites[asked.name]
            at = value.ndim - 1 - len(asked.axes)
            return scaled(torch.stack([value.select(at, band) for band in place], dim=at), factors, len(asked.axes))

        return Varied({asked.name: drawn}, values)


def shared(prior: Any = None) -> Variation:
    """One value for all images, of a parameter that would have one for each: in the unit of each image.

    `prior`: a Pyro distribution, a held value, or None for the default prior in the first image.

    Examples
    --------
    >>> from bayesprof import models
    >>> star = models.point_source(flux=shared())
    """
    return Shared(prior)


def per_image(prior: Any = None) -> Variation:
    """A value for each image.

    Its site has a first dimension ``image``, with the images' names as its coordinates.

    Parameters
    ----------
    prior : optional
        A Pyro distribution of the parameter, for each of the images; or of all of them together, with their number as
        its first axis; a mapping from names of images to distributions of one family, or to held values; an array of
        held values; or None: then each has its default prior, in the unit of the image from what is seen there.

    Examples
    --------
    >>> import pyro.distributions as dist
    >>> from bayesprof import models
    >>> galaxy = models.sersic(flux=per_image({"g": dist.LogNormal(4, 1), "r": dist.LogNormal(5, 1)}), n=per_image())
    """
    return PerImage(prior)


def per_band(prior: Any = None) -> Variation:
    """A value for each band (:attr:`bayesprof.Image.band`): what epochs of one band have in common.

    Its site has a first dimension ``band``. A flux is that in the first image of the band; the others have it in their
    own units, by their zero points. `prior` as of :func:`per_image`, by band. A sky's level is per pixel and goes
    with the sky of its night: leave it per image.

    Examples
    --------
    >>> from bayesprof import models
    >>> galaxy = models.exponential(flux=per_band())
    """
    return PerBand(prior)


def start_of(source: Any, start: Any, *, given: bool, measured: bool) -> Any:
    """`start`, where a fit may start there: from a prior, and from a given one where it is within four standard
    deviations of it, or one if it wasn't `measured`. What was measured on the image may be another object than the
    user's prior is about; and of the rest that prior knows more than the default.
    """
    if not isinstance(source, TorchDistributionMixin) or start is None:
        return None
    if not given:
        return start
    try:
        mean, sd = source.mean, source.stddev
    except NotImplementedError:
        return start
    value = torch.as_tensor(start, dtype=mean.dtype, device=mean.device)
    furthest = _MEASURED_WITHIN if measured else _GUESSED_WITHIN
    return None if bool(((value - mean).abs() > furthest * sd).any()) else start


def _each(asked: Asked, given: Any, defaults: Sequence[Any], axis: Axis, kind: str) -> Drawn:
    """What is drawn for a value for each label along `axis`."""
    axes, shape = (axis, *asked.axes), (len(axis.labels), *asked.shape)
    starts = [default.start for default in defaults]
    start, measured = None, all(default.measured for default in defaults)
    if all(one is not None for one in starts):
        start = torch.stack([torch.as_tensor(one, dtype=torch.float64) for one in starts])
    if given is None:
        priors = [default.prior for default in defaults]
        if not all(isinstance(prior, TorchDistributionMixin) for prior in priors):
            return asked.drawn(priors[0], None, defaults[0].formula, asked.axes)  # held by default, as one for all
        return asked.drawn(together(priors), start, _formula(axis, defaults), axes)
    if isinstance(given, Mapping):
        wrong = [label for label in axis.labels if label not in given] or [
            name for name in given if name not in axis.labels
        ]
        if wrong:
            raise ValueError(
                f"{kind}: expected {asked.name} for {list(axis.labels)}, got {list(given)}; add or correct {wrong[0]!r}"
            )
        each = [asked.checked(given[label]) for label in axis.labels]
        priors = [one for one in each if isinstance(one, TorchDistributionMixin)]
        if priors and len(priors) < len(each):
            raise TypeError(
                f"{kind}: expected {asked.name} as priors or as held values for all of {list(axis.labels)}, got both; "
                "hold a value with a narrow prior, or write the component as a function"
            )
        if not priors:
            return asked.drawn(torch.stack([torch.as_tensor(one, dtype=torch.float64) for one in each]), None, "", axes)
        source = together(priors)
        return asked.drawn(source, start_of(source, start, given=True, measured=measured), "", axes)
    if isinstance(given, TorchDistributionMixin):
        source = given if tuple(given.shape()) == shape else together([asked.checked(given)] * len(axis.labels))
        return asked.drawn(source, start_of(source, start, given=True, measured=measured), "", axes)
    values = torch.as_tensor(given, dtype=torch.float64) if not isinstance(given, Tensor) else given
    if tuple(values.shape) == asked.shape:
        values = values.expand(shape)
    if tuple(values.shape) != shape:
        raise ValueError(
            f"{kind}: expected {asked.name} of shape {shape}, a value for each of {list(axis.labels)}, got shape "
            f"{tuple(values.shape)}"
        )
    for value in values:
        asked.checked(value)
    return asked.drawn(values, None, "", axes)


def _formula(axis: Axis, defaults: Sequence[Any]) -> str:
    words = [default.formula for default in defaults]
    if len(set(words)) == 1:
        return f"{words[0]}, each"
    priors, meanings = zip(*(one.partition(": ")[::2] for one in words), strict=True)
    if len(set(meanings)) > 1:
        return "; ".join(f"{label}: {one}" for label, one in zip(axis.labels, words, strict=True))
    each = ", ".join(f"{prior} of {label}" for prior, label in zip(priors, axis.labels, strict=True))
    return f"{each}: {meanings[0]}"


def zeropoint_factors(asked: Asked, references: Sequence[int]) -> Tensor:
    """By what a flux is multiplied from the unit of one image to that of another, shape (images,)."""
    without = [image.name for image in asked.seen if image.zeropoint is None]
    if without:
        raise ValueError(
            f"{asked.name}: expected zero points to tie the images by, got none of {without[0]!r}; give "
            "Image(zeropoint=...), or leave it per image"
        )
    zero = [float(image.zeropoint) for image in asked.seen if image.zeropoint is not None]
    like = asked.seen[0]
    ratios = [10 ** (0.4 * (own - zero[reference])) for own, reference in zip(zero, references, strict=True)]
    return torch.tensor(ratios, dtype=like.dtype, device=like.device)


def scaled(values: Tensor, factors: Tensor | None, axes: int) -> Tensor:
    return values if factors is None else values * beside(factors, axes)


def beside(factors: Tensor, axes: int) -> Tensor:
    """Factors of the images, to be multiplied with values that have so many axes behind that of the images."""
    return factors.reshape(-1, *[1] * axes)
