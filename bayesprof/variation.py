"""How a parameter of a component goes with the images of a scene.

One value for all images; one for each image, or for each band; or a smooth curve in wavelength. Without a word,
parameters in the unit of the image (fluxes, levels of a sky) have a value for each image, and all others one for all.
Any of these takes the place of a prior or a held value:

>>> import pyro.distributions as dist
>>> from bayesprof import models
>>> wavelength = {"g": 0.47, "r": 0.62, "z": 0.90}
>>> galaxy = models.sersic(n=polynomial(wavelength, order=2), r_eff=per_image(dist.LogNormal(2.0, 0.5)))

A curve is drawn in the space where the prior of the parameter has the whole line as its support: for positive
parameters a polynomial is one of the logarithm, so that it stays positive.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from scipy.interpolate import CubicSpline
from torch import Tensor
from torch.distributions import biject_to

from bayesprof.image import Image

_BEND = 0.5
"""Standard deviation of the coefficients of a curve: of a positive parameter, half of its logarithm over half of the
range of wavelengths."""
_NOTHING = 1e-9  # of a coefficient: rounding


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
        start = start_of(source, default.start, given=self.given is not None)
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
            factors = _zeropoint_factors(asked, [leaders[band] for band in place])

        def values(sites: Mapping[str, Tensor]) -> Tensor:
            value = sites[asked.name]
            at = value.ndim - 1 - len(asked.axes)
            return _scaled(torch.stack([value.select(at, band) for band in place], dim=at), factors, len(asked.axes))

        return Varied({asked.name: drawn}, values)


@dataclass(frozen=True)
class Curve(Variation):
    """A smooth function of wavelength, by coefficients of functions that vanish in the middle.

    `basis`: from wavelengths, shape (images,), to those functions (images, terms); `labels` of the terms and the
    `axis` they lie along.
    """

    kind: str
    wavelengths: Any
    basis: Callable[[np.ndarray], np.ndarray]
    axis: str
    labels: tuple[Any, ...]
    middle: float
    prior: Any = None
    coefficients: Any = None
    scale: float = field(default=_BEND)

    def over(self, asked: Asked) -> Varied:
        wavelengths = np.array([self._of(asked, i) for i in range(len(asked.seen))])
        nearest = int(np.argmin(np.abs(wavelengths - self.middle)))
        default = asked.defaults[nearest]
        like = asked.seen[0]
        basis = torch.as_tensor(self.basis(wavelengths), dtype=like.dtype, device=like.device)
        source = default.prior if self.prior is None else asked.checked(self.prior)
        if not isinstance(source, TorchDistributionMixin):
            raise TypeError(
                f"{self.kind}: expected a prior of the {asked.name} in the middle, got {source!r}; give "
                f"{self.kind}(..., prior=...), or hold {asked.name} with per_image"
            )
        transform = biject_to(source.support)
        factors = _zeropoint_factors(asked, [nearest] * len(asked.seen)) if asked.per_unit else None
        started, coefficients = self._starts(asked, transform, basis, factors, source)
        shape = (len(self.labels), *asked.shape)
        bends = self._bends(shape, like)
        terms = (Axis(f"{asked.name}_{self.axis}", self.labels), *asked.axes)
        middle, bent = f"{asked.name}_middle", f"{asked.name}_coefficients"
        words = f"{default.formula} (at {self.middle:g})" if self.prior is None else ""
        sites = {
            middle: asked.drawn(source, started, words, asked.axes),
            bent: Drawn(
                bends,
                coefficients,
                f"Normal(0, {self.scale:g}) each" if self.coefficients is None else "",
                "",
                terms,
                "finite",
            ),
        }

        def values(drawn: Mapping[str, Tensor]) -> Tensor:
            rest = len(asked.axes)
            centre, coefficients = transform.inv(drawn[middle]), drawn[bent]
            # the axis of terms, behind any batch, goes last for the product and the one of images takes its place
            moved = coefficients.movedim(-1 - rest, -1) @ basis.mT
            curve = transform(centre.unsqueeze(-1 - rest) + moved.movedim(-1, -1 - rest))
            return _scaled(curve, factors, rest)

        return Varied(sites, values, recorded=True)

    def _of(self, asked: Asked, i: int) -> float:
        image = asked.seen[i].name
        if isinstance(self.wavelengths, Mapping):
            if image not in self.wavelengths:
                raise ValueError(
                    f"{self.kind}: expected a wavelength of every image, got none of {image!r}; add it to "
                    f"{list(self.wavelengths)}"
                )
            return float(self.wavelengths[image])
        if len(self.wavelengths) != len(asked.seen):
            raise ValueError(
                f"{self.kind}: expected {len(asked.seen)} wavelengths, of {[one.name for one in asked.seen]}, got "
                f"{len(self.wavelengths)}; give them by name: {{{image!r}: ...}}"
            )
        return float(self.wavelengths[i])

    def _bends(self, shape: tuple[int, ...], like: Image) -> Any:
        if self.coefficients is None:
            zero = torch.zeros(shape, dtype=like.dtype, device=like.device)
            return dist.Normal(zero, torch.full_like(zero, self.scale)).to_event(len(shape))
        given = self.coefficients
        if not isinstance(given, TorchDistributionMixin) or tuple(given.shape()) not in ((), shape):
            raise ValueError(
                f"{self.kind}: expected coefficients as a Pyro distribution of shape {shape}, or of one number for "
                f"each of them, got {given!r}"
            )
        return given if tuple(given.shape()) == shape else given.expand(shape).to_event(len(shape))

    def _starts(
        self, asked: Asked, transform: Any, basis: Tensor, factors: Tensor | None, source: Any
    ) -> tuple[Any, Tensor]:
        """Where a fit starts: the curve nearest to what was measured on each image."""
        starts = [default.start for default in asked.defaults]
        zero = torch.zeros(basis.shape[1], *asked.shape, dtype=basis.dtype, device=basis.device)
        if any(start is None for start in starts):
            return None, zero
        measured = torch.stack([torch.as_tensor(start, dtype=torch.float64) for start in starts]).to(basis)
        if factors is not None:
            measured = measured / _beside(factors, len(asked.axes))
        design = torch.cat([torch.ones_like(basis[:, :1]), basis], dim=1)
        if not bool(transform.codomain.check(measured).all()):
            return None, zero
        free = transform.inv(measured).reshape(len(measured), -1)
        found = torch.linalg.pinv(design) @ free
        found = torch.where(found.abs() < _NOTHING, torch.zeros_like(found), found)
        middle = transform(found[0].reshape(asked.shape))
        start = start_of(source, middle, given=self.prior is not None)
        return start, found[1:].reshape(zero.shape) if start is not None else zero


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


def polynomial(
    wavelengths: Mapping[str, float] | Sequence[float],
    order: int = 1,
    *,
    prior: Any = None,
    coefficients: Any = None,
    scale: float = _BEND,
) -> Variation:
    """A polynomial in wavelength.

    ``u(wavelength) = u_middle + sum over k = 1 .. order of c_k s^k``, with s from -1 to 1 over the wavelengths and u
    the parameter without its bounds: its logarithm where it is positive. Sites ``<parameter>_middle``, its value in the
    middle, and ``<parameter>_coefficients``; the values in the images are recorded as ``<parameter>``. A flux is in the
    unit of the image nearest to the middle, and in the others by their zero points.

    Parameters
    ----------
    wavelengths : mapping from names of images, or in their order; any unit.
    order : >= 1; with one less than the number of images they are free.
    prior : Pyro distribution of the value in the middle, or None for its default.
    coefficients : Pyro distribution of the coefficients c_k, together or of each, or None: Normal(0, `scale`).
    scale : > 0.

    Raises
    ------
    ValueError
        For an order or a scale out of range, or fewer than two wavelengths.

    Examples
    --------
    >>> from bayesprof import models
    >>> galaxy = models.sersic(n=polynomial({"g": 0.47, "r": 0.62, "z": 0.90}, order=2))
    """
    low, high = _range_of("polynomial", wavelengths, scale)
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise ValueError(f"polynomial: expected order as a whole number >= 1, got {order!r}; give a prior for order 0")
    middle, half = 0.5 * (low + high), 0.5 * (high - low)

    def basis(values: np.ndarray) -> np.ndarray:
        return ((values - middle) / half)[:, None] ** np.arange(1, order + 1)

    labels = tuple(range(1, order + 1))
    return Curve("polynomial", wavelengths, basis, "power", labels, middle, prior, coefficients, scale)


def spline(
    wavelengths: Mapping[str, float] | Sequence[float],
    knots: Sequence[float],
    *,
    prior: Any = None,
    coefficients: Any = None,
    scale: float = _BEND,
) -> Variation:
    """A natural cubic spline in wavelength through the values at `knots`, two wavelengths at least.

    As :func:`polynomial`, but that the middle is a knot, the one of the middle, and a coefficient is by how much the
    parameter without its bounds differs at another knot.

    Examples
    --------
    >>> from bayesprof import models
    >>> galaxy = models.sersic(r_eff=spline({"g": 0.47, "r": 0.62, "i": 0.75, "z": 0.90}, knots=[0.47, 0.65, 0.90]))
    """
    _range_of("spline", wavelengths, scale)
    places = np.array(knots, dtype=float).ravel()
    if len(places) < 2 or not np.isfinite(places).all() or not (np.diff(places) > 0).all():
        raise ValueError(f"spline: expected two or more knots, ascending wavelengths, got {knots!r}")
    reference = len(places) // 2
    others = [i for i in range(len(places)) if i != reference]

    def basis(values: np.ndarray) -> np.ndarray:
        if len(places) == 2:  # a line
            return np.asarray((values - places[reference]) / (places[others[0]] - places[reference]))[:, None]
        unit = np.eye(len(places))[:, others]
        return np.asarray(CubicSpline(places, unit, bc_type="natural")(values))

    labels = tuple(float(places[i]) for i in others)
    middle = float(places[reference])
    return Curve("spline", wavelengths, basis, "knot", labels, middle, prior, coefficients, scale)


def start_of(source: Any, start: Any, *, given: bool) -> Any:
    """`start`, where a fit may start there: from a prior, and from a given one where it is within four standard
    deviations of it. What was measured on the image may be another object than the user's prior is about.
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
    return None if bool(((value - mean).abs() > 4 * sd).any()) else start


def together(priors: Sequence[Any]) -> Any:
    """Priors of one family, as one over all of them, with a first axis for them.

    Raises TypeError where they differ in more than their parameters.
    """
    first = priors[0]
    if all(prior is first for prior in priors):
        joint = first.expand((len(priors), *first.batch_shape))
    else:
        joint = _stacked(list(priors))
    return joint.to_event(1)


def _stacked(priors: list[Any]) -> Any:
    first = priors[0]
    if any(type(prior) is not type(first) for prior in priors):
        raise TypeError(
            f"per_image: expected priors of one family, got {sorted({type(prior).__name__ for prior in priors})}; use "
            "one family, or write the component as a function that draws each of them"
        )
    if isinstance(first, dist.Independent):
        inner = _stacked([prior.base_dist for prior in priors])
        return inner.to_event(first.reinterpreted_batch_ndims)
    if type(first) in (dist.TransformedDistribution, torch.distributions.TransformedDistribution):
        return dist.TransformedDistribution(_stacked([prior.base_dist for prior in priors]), first.transforms)
    takes = inspect.signature(type(first).__init__).parameters.values()
    # an argument with a default may be one of several ways to say the same
    names = [one.name for one in takes if one.name != "self" and (one.default is one.empty or one.name in vars(first))]
    if "scale_tril" in names:
        names = ["loc", "scale_tril"]
    names = [name for name in names if hasattr(first, name)]
    try:
        return type(first)(**{name: torch.stack([getattr(prior, name) for prior in priors]) for name in names})
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"per_image: {type(first).__name__} priors can't be put together ({error}); give one prior over all images"
        ) from error


def _each(asked: Asked, given: Any, defaults: Sequence[Any], axis: Axis, kind: str) -> Drawn:
    """What is drawn for a value for each label along `axis`."""
    axes, shape = (axis, *asked.axes), (len(axis.labels), *asked.shape)
    starts = [default.start for default in defaults]
    start = None
    if all(one is not None for one in starts):
        start = torch.stack([torch.as_tensor(one, dtype=torch.float64) for one in starts])
    if given is None:
        priors = [default.prior for default in defaults]
        if not all(isinstance(prior, TorchDistributionMixin) for prior in priors):
            return asked.drawn(priors[0], None, defaults[0].formula, asked.axes)  # held by default, as one for all
        return asked.drawn(together(priors), start_of(priors[0], start, given=False), _formula(axis, defaults), axes)
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
        return asked.drawn(source, start_of(source, start, given=True), "", axes)
    if isinstance(given, TorchDistributionMixin):
        source = given if tuple(given.shape()) == shape else together([asked.checked(given)] * len(axis.labels))
        return asked.drawn(source, start_of(source, start, given=True), "", axes)
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


def _zeropoint_factors(asked: Asked, references: Sequence[int]) -> Tensor:
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


def _scaled(values: Tensor, factors: Tensor | None, axes: int) -> Tensor:
    return values if factors is None else values * _beside(factors, axes)


def _beside(factors: Tensor, axes: int) -> Tensor:
    """Factors of the images, to be multiplied with values that have so many axes behind that of the images."""
    return factors.reshape(-1, *[1] * axes)


def _range_of(kind: str, wavelengths: Any, scale: float) -> tuple[float, float]:
    try:
        values = [float(value) for value in (wavelengths.values() if isinstance(wavelengths, Mapping) else wavelengths)]
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{kind}: expected wavelengths as a mapping from names of images, or a list, got {wavelengths!r}"
        ) from error
    if len(set(values)) < 2 or not np.isfinite(values).all():
        raise ValueError(f"{kind}: expected two or more different wavelengths, got {values}; use a prior alone")
    if not scale > 0:
        raise ValueError(f"{kind}: expected scale > 0, got {scale!r}")
    return min(values), max(values)
