"""Many sources of one kind as one component, whose parameters are vectors.

What a scene of single components costs before its first value grows with their number: each is drawn, differentiated
and compiled by itself. As one they are a few operations on vectors, for ten sources or for thousands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from pyro import poutine
from torch import Tensor

from bayesprof import joint_prior
from bayesprof.group import check_name
from bayesprof.image import Image
from bayesprof.images import Images
from bayesprof.members import apart
from bayesprof.models.component import (
    BoundComponent,
    Call,
    Component,
    Derived,
    catalogued,
    is_prior,
)
from bayesprof.variation import Axis, Drawn, of_several
from bayesprof.window import Window

AXIS = "source"
"""Name of the dimension that sources lie along."""


@dataclass(frozen=True)
class Sources:
    """Components of one kind, by name, drawn as one; `held` as of a
    :class:`Component <bayesprof.models.component.Component>`.
    """

    members: Mapping[str, Component]
    held: Mapping[str, Any] = field(default_factory=dict)
    call: Call | None = field(default=None, repr=False)
    found: None = None

    @property
    def kind(self) -> str:
        return next(iter(self.members.values())).kind

    def holding(self, values: Mapping[str, Any]) -> Sources:
        """These with sites held at `values`: vectors, with a first axis for the sources."""
        return replace(self, held={**self.held, **values}, call=None)

    def of(self, members: Mapping[str, Component]) -> Sources:
        """These with other components in the place of theirs."""
        call = None if self.call is None else self.call._replace(arguments=(dict(members),), keywords={})
        return replace(self, members=members, call=call)

    def bind(self, image: Image | Images, window: Window | Mapping[str, Window] | None = None) -> BoundSources:
        """These with their default priors, each from what is known of its object or from a window of its own, of those
        by name, or the one given: a Pyro model function.
        """
        windows = window if isinstance(window, Mapping) else dict.fromkeys(self.members, window)
        bound = [one.bind(image, windows.get(name)) for name, one in self.members.items()]
        first = bound[0]
        axis = Axis(AXIS, tuple(self.members))
        strange = [site for site in self.held if site not in first.sites]
        if strange:
            raise ValueError(f"sources: expected parameters to hold, {list(first.sites)}, got {strange[0]!r}")
        varied = of_several([one.varied for one in bound], lambda site, drawn: self._joined(site, drawn, axis))
        together = BoundSources(first.component, varied, first.images, axis)
        with torch.no_grad(), poutine.block(), torch.random.fork_rng(devices=[]):
            try:
                together()
            except (ValueError, RuntimeError) as error:
                raise TypeError(
                    f"sources: expected components that take a batch of parameters, which {self.kind} doesn't "
                    f"({error}); put them into the scene one by one"
                ) from error
        return together

    def _joined(self, site: str, drawn: list[Drawn | None], axis: Axis) -> Drawn:
        """One site of all sources."""
        several: list[Drawn] = [one for one in drawn if one is not None]
        first, axes = several[0], (axis, *several[0].axes)
        free = {is_prior(one.source) for one in several}
        if len(several) < len(drawn) or len(free) > 1:
            raise ValueError(
                f"sources: expected {site} to be drawn for every source or held for every one, got both; put those "
                "that differ into the scene by themselves, or into other sources()"
            )
        if site in self.held:
            return first._replace(source=self.held[site], start=None, formula="", axes=axes)
        if free == {False}:
            values = torch.stack([torch.as_tensor(one.source, dtype=torch.float64) for one in several])
            return first._replace(source=values, axes=axes)
        formulas = [one.formula for one in several]
        formula = formulas[0] if len(set(formulas)) == 1 else f"{formulas[0]} of {axis.labels[0]}, ..."
        return first._replace(
            source=joint_prior.together([one.source for one in several]),
            start=_start(several),
            formula=formula,
            axes=axes,
        )

    def __call__(self) -> Any:
        raise TypeError(
            "sources: their default priors come from an image, so they can't be called alone; put them into "
            "bp.Scene(image, galaxies=models.sources(...))"
        )


@dataclass(frozen=True)
class BoundSources(BoundComponent):
    """A Pyro model function that draws the parameters of all sources along an `axis`, and returns the light of each by
    its name.
    """

    axis: Axis
    _own_axes: ClassVar[int] = 1

    def _follows(self, derived: Derived, values: Mapping[str, Tensor]) -> Tensor:
        found: Tensor = torch.func.vmap(derived.of)(dict(values))
        return found

    def __call__(self) -> Any:
        drawn: Any = super().__call__()
        if self.shared:
            return self._by_name(drawn)
        return {image: self._by_name(light) for image, light in drawn.items()}

    def _by_name(self, light: Any) -> dict[str, Any]:
        names = self.axis.labels
        return dict(zip(names, apart(sum(_lights_of(light)), len(names)), strict=True))

    @property
    def recorded(self) -> dict[str, tuple[str, str, tuple[Axis, ...]]]:
        return {name: (unit, meaning, (self.axis, *axes)) for name, (unit, meaning, axes) in super().recorded.items()}


def _lights_of(returned: Any) -> list[Any]:
    """The lights that a component returned: one, or several by name."""
    if not isinstance(returned, Mapping):
        return [returned]
    return [light for one in returned.values() for light in _lights_of(one)]


def _start(drawn: Sequence[Drawn]) -> Tensor | None:
    """Where fits start, those without a start of their own from the mean of their prior; None where no source has one
    or means aren't known.
    """
    if all(one.start is None for one in drawn):
        return None
    try:
        starts = [one.source.mean if one.start is None else one.start for one in drawn]
    except NotImplementedError:
        return None
    return torch.stack([torch.as_tensor(start, dtype=torch.float64) for start in starts])


@catalogued
def sources(members: Mapping[str, Component] | Sequence[Component]) -> Sources:
    """Many sources of one kind as one component: sites with a value for each, along a dimension ``source``.

    Priors, starting values, windows and what a scene tells of each source are those that it would have by itself; a
    galaxy "a" of a component ``galaxies`` is "galaxies.a" where a scene takes names of components (windows,
    ``predict``, ``deblended``, photometry). Only sites belong to all of them: "galaxies.flux" is a vector. Their graph
    doesn't grow with their number, so this is the way to fit more than a few dozen: 300 sources are ready in seconds
    and not in minutes. Give each a window; without one it is rendered over the whole image.

    Parameters
    ----------
    members : mapping from names to components, or sequence of them
        Components of this catalogue of one kind whose parameters are given alike: each drawn from a prior of one family
        for all, or held for all. Those of a sequence are named by their number, from "0". Of kinds that render batches:
        sersic, exponential, de_vaucouleurs, gaussian, moffat, spergel, multi_gaussian, edge_on_disk, inclined_disk,
        point_source and the radial profiles.

    Raises
    ------
    TypeError, ValueError
        For no members, members of several kinds, and parameters given in different ways.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> from bayesprof import models
    >>> image = bp.Image(np.ones((40, 60)), sigma=1.0, psf=bp.datasets.moffat_stamp(3.0, side=11))
    >>> windows = {"stars.a": bp.Window(5, 5, 29, 29), "stars.b": bp.Window(30, 8, 54, 32)}
    >>> stars = models.sources({"a": models.point_source(), "b": models.point_source()})
    >>> scene = bp.Scene(image, stars=stars, sky=models.flat_sky(), windows=windows)
    >>> {name: tuple(scene.prior_of(name).shape()) for name in scene.latent}
    {'stars.x': (2,), 'stars.y': (2,), 'stars.flux': (2,), 'sky.level': ()}
    """
    if not isinstance(members, Mapping | Sequence) or isinstance(members, str):
        raise TypeError(
            f"sources: expected components by name, or a list of them, got {type(members).__name__}; for example "
            "models.sources([models.sersic() for _ in range(100)])"
        )
    named = dict(members) if isinstance(members, Mapping) else {str(i): one for i, one in enumerate(members)}
    if not named:
        raise ValueError("sources: expected at least one component, got none")
    for name, one in named.items():
        check_name(name, "sources")
        if not isinstance(one, Component):
            raise TypeError(
                f"sources: expected {name!r} to be a component of the catalogue, got {type(one).__name__}; a function "
                "of your own can draw vectors itself, and return a light with a batch of parameters"
            )
    kinds = sorted({one.kind for one in named.values()})
    if len(kinds) > 1:
        raise ValueError(
            f"sources: expected components of one kind, got {', '.join(kinds)}; make one of each: "
            "galaxies=models.sources(...), stars=models.sources(...)"
        )
    first, *others = named
    for name in others:
        if not _alike(named[first], named[name]):
            raise ValueError(
                f"sources: expected members that are made alike, got {name!r} with other options or parameters than "
                f"{first!r} (ellipticity of one, q and theta of the other?); put those that differ into other sources()"
            )
    return Sources(named)


def _alike(one: Component, other: Component) -> bool:
    """Whether two components of one kind differ in nothing but what is given for their parameters."""
    shapes = [[(name, parameter.shape) for name, parameter in each.parameters.items()] for each in (one, other)]
    if shapes[0] != shapes[1]:
        return False
    if one.light is other.light:
        return True
    calls = [component.call for component in (one, other)]
    options = [
        None if call is None else (call.arguments, {k: v for k, v in call.keywords.items() if k not in one.parameters})
        for call in calls
    ]
    return None not in options and repr(options[0]) == repr(options[1])
