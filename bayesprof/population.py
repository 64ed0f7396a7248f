"""Many galaxies at once, their parameters drawn from one population: a hierarchical Pyro model of their pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from typing import Any, cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from bayesprof.centring import PartlyCentred
from bayesprof.group import check_name, flattened
from bayesprof.image import Image
from bayesprof.joint_prior import stacked
from bayesprof.light import Light
from bayesprof.likelihood import likelihood_for, observed_pixels
from bayesprof.naming import Prefix, units_of
from bayesprof.scene import Scene
from bayesprof.stamps import Stamps
from bayesprof.threads import one_thread
from bayesprof.values import site_values
from bayesprof.variation import of_several

PLATE = "galaxy"
"""Name of the plate, and of the dimension of a result, that galaxies lie along."""

Relation = Callable[[Any], Any]


class Population:
    """Galaxies with the same components, each in an image of its own, and a relation that their parameters are drawn
    from: a Pyro model of all pixels, with hyper-parameters.

    Parameters
    ----------
    images : sequence of Image
        One around each galaxy, with its own noise, mask and PSF. They may have different shapes: the smaller ones are
        padded with masked pixels, and cost what the largest costs.
    relation : function, optional
        A Pyro model of the population. It takes a plate over the galaxies, draws hyper-parameters outside of it, and
        inside of it parameters of components, by the names of their sites ("galaxy.r_eff"), in the place of the priors
        that these have otherwise; it may draw others there, too. All other parameters keep the priors of their
        components, which are those that each galaxy alone would have. Without a relation galaxies have nothing in
        common.
    likelihood : "gaussian", "poisson", "student_t", or a function
        As of :class:`bayesprof.Scene`; a function gets the images of all, (galaxies, ny, nx), and a
        :class:`bayesprof.stamps.Stamps` in the place of the image.
    **components : functions, or groups of them
        As of a Scene of each image. Components of your own are called in the plate, so that what they draw is a batch
        of one value a galaxy.

    Attributes
    ----------
    latent : tuple of str
        Sites that have a value for each galaxy.
    hyper : tuple of str
        Those that have one for all.

    Raises
    ------
    TypeError, ValueError
        For anything else, with the remedy.

    Examples
    --------
    >>> import numpy as np, pyro, pyro.distributions as dist, bayesprof as bp
    >>> from bayesprof import models
    >>> def sizes(galaxies):
    ...     typical = pyro.sample("typical", dist.LogNormal(1.0, 0.5))
    ...     scatter = pyro.sample("scatter", dist.HalfNormal(0.5))
    ...     with galaxies:
    ...         pyro.sample("galaxy.r_eff", dist.LogNormal(typical.log(), scatter))
    >>> images = [bp.Image(np.ones((20, 20)), sigma=1.0) for _ in range(3)]
    >>> population = bp.Population(images, sizes, sky=models.flat_sky(), galaxy=models.exponential())
    >>> population.hyper
    ('typical', 'scatter')
    >>> population.predict(population.initial_values()).shape
    torch.Size([3, 20, 20])
    """

    def __init__(
        self,
        images: Sequence[Image],
        relation: Relation | None = None,
        *,
        likelihood: Any = "gaussian",
        **components: Any,
    ) -> None:
        self.stamps = Stamps(images)
        if relation is not None and not callable(relation):
            raise TypeError(
                f"Population: expected a relation that is a function of a plate, got {type(relation).__name__}; write "
                "def relation(galaxies): ..."
            )
        if not components:
            raise ValueError("Population: expected at least one component, got none; add one: galaxy=models.sersic()")
        for name in components:
            check_name(name, "Population")
        self.relation, self.likelihood, self.given = relation, likelihood, components
        for image in self.stamps.images:
            self._likelihood = likelihood_for(likelihood, image)
        if hasattr(likelihood, "bind"):
            raise TypeError(
                f"Population: expected a likelihood without parameters of its own, got {likelihood.kind}; write a "
                "function (model_images, stamps) that draws them and returns a distribution"
            )
        self.components = {name: self._bound(one) for name, one in flattened(components).items()}
        self._check()

    def __len__(self) -> int:
        return len(self.stamps)

    def __call__(self) -> Tensor:
        """Draw hyper-parameters and parameters, observe the images, and return the noiseless ones, shape (galaxies, ny,
        nx).
        """
        galaxies = pyro.plate(PLATE, len(self), dim=-1)
        given = self._related(galaxies)
        with galaxies:
            models = self._rendered(given)
            observation = observed_pixels(self._likelihood, models, cast(Image, self.stamps))
            pixels = observation.distribution.mask(self.stamps.valid).to_event(2)
            pyro.sample(self.stamps.name, pixels, obs=observation.observed)
        return models

    @cached_property
    def scenes(self) -> tuple[Scene, ...]:
        """A scene of each galaxy alone, without the relation."""
        return tuple(Scene(image, likelihood=self.likelihood, **self.given) for image in self.stamps.images)

    def predict(self, params: Any) -> Tensor:
        """Noiseless images, shape (galaxies, ny, nx), at values of the parameters of components, by site, as
        ``fit.params`` has them.

        Raises ValueError for values that are missing.
        """
        missing = [name for name in self._own if name not in params]
        if missing:
            raise ValueError(f"predict: expected a value of every parameter of a component, got none for {missing}")
        values = {
            name: torch.as_tensor(params[name], dtype=self.stamps.dtype, device=self.stamps.device)
            for name in self._own
        }
        with torch.no_grad(), one_thread(), poutine.block(), pyro.plate(PLATE, len(self), dim=-1):
            return self._rendered(values)

    def initial_values(self) -> dict[str, Tensor]:
        """Values of the parameters of components to start a fit from: what was measured on each image."""
        return {
            f"{name}.{parameter}": torch.as_tensor(start, dtype=self.stamps.dtype, device=self.stamps.device)
            for name, component in self.components.items()
            for parameter, start in getattr(component, "starts", {}).items()
        }

    def starting_from(self, values: Any) -> dict[str, Tensor]:
        """What to give a method of inference as ``init`` in order to start it from `values` of hyper-parameters and
        parameters: a fit, a mapping from sites, or InferenceData, whose medians are taken, as
        :func:`bayesprof.inference.reweight` returns it.

        Raises ValueError where one of the parameters is missing.
        """
        given = site_values(values)
        relation = self.relation
        if isinstance(relation, PartlyCentred):
            given |= relation.values_of(given, pyro.plate(PLATE, len(self), dim=-1))
        missing = [name for name in (*self.hyper, *self.latent) if name not in given]
        if missing:
            raise ValueError(f"starting_from: expected a value of every parameter, got none of {missing}; add them")
        return {
            name: torch.as_tensor(given[name], dtype=torch.float64, device=self.stamps.device)
            for name in (*self.hyper, *self.latent)
        }

    @property
    def units(self) -> dict[str, str]:
        """Unit of every site whose component states one."""
        return units_of(self.components)

    @property
    def dims(self) -> dict[str, list[str]]:
        """Names of the dimensions of sites that have a value for each galaxy, and of the images."""
        axes = {
            f"{name}.{parameter}": [axis.name if axis.shared else f"{name}.{axis.name}" for axis in axes]
            for name, component in self.components.items()
            for parameter, axes in getattr(component, "axes", {}).items()
        }
        found = {name: [PLATE, *axes.get(name, [])] for name in self._in_plate}
        return found | {self.stamps.name: [PLATE, "y", "x"]}

    @property
    def coords(self) -> dict[str, list[Any]]:
        """Labels along those dimensions: galaxies by the names of their images, where these differ."""
        labels: dict[str, list[Any]] = {
            (axis.name if axis.shared else f"{name}.{axis.name}"): list(axis.labels)
            for name, component in self.components.items()
            for axes in getattr(component, "axes", {}).values()
            for axis in axes
        }
        ny, nx = self.stamps.shape
        return labels | {PLATE: self.stamps.names, "y": list(range(ny)), "x": list(range(nx))}

    def constant_data(self) -> dict[str, Tensor]:
        """What a result records beside the data: sigma and mask of each image."""
        planes = {"sigma": self.stamps.sigma, "mask": self.stamps.mask}
        return {f"{self.stamps.name}_{what}": plane for what, plane in planes.items() if plane is not None}

    def __repr__(self) -> str:
        ny, nx = self.stamps.shape
        hyper = ", ".join(self.hyper) or "none"
        names = ", ".join(self.components)
        return f"Population({len(self)} images of {ny}x{nx} px, components: {names}; hyper-parameters: {hyper})"

    def _related(self, galaxies: Any) -> dict[str, Tensor]:
        """What the relation draws, or computes, in the plate, by site."""
        if self.relation is None:
            return {}
        with poutine.trace() as tracer:
            self.relation(galaxies)
        nodes: dict[str, Any] = tracer.trace.nodes
        return {name: node["value"] for name, node in nodes.items() if in_plate(node)}

    def _rendered(self, given: Mapping[str, Tensor]) -> Tensor:
        lights = []
        for name, component in self.components.items():
            with ExitStack() as handlers:
                handlers.enter_context(poutine.block(hide=list(given)))
                handlers.enter_context(poutine.condition(data=dict(given)))
                handlers.enter_context(Prefix(name))
                handlers.enter_context(_Batched())
                lights += _lights(name, component())
        return self.stamps.renderer(Light(tuple(part for light in lights for part in light.parts))).expand(
            self.stamps.data.shape
        )

    def _bound(self, component: Any) -> Callable[[], Any]:
        """A component bound to every image: its priors and starting values a batch of theirs."""
        if not hasattr(component, "bind"):
            return cast(Callable[[], Any], component)
        bound = [component.bind(image) for image in self.stamps.images]
        varied = of_several([one.varied for one in bound], lambda _, drawn: _batch(drawn))
        together: Callable[[], Any] = replace(bound[0], varied=varied)
        return together

    def _check(self) -> None:
        """Runs that tell a mistake here; which sites there are."""
        with torch.no_grad(), one_thread(), poutine.block(), torch.random.fork_rng(devices=[]):
            with poutine.trace() as alone, pyro.plate(PLATE, len(self), dim=-1):
                self._rendered({})
            self._own = tuple(name for name, node in alone.trace.nodes.items() if _is_latent(node))
            if self.relation is not None:
                with poutine.trace() as tracer:
                    self.relation(pyro.plate(PLATE, len(self), dim=-1))
                self._check_relation(tracer.trace.nodes)
            nodes: dict[str, Any] = poutine.trace(self).get_trace().nodes
        drawn = [name for name, node in nodes.items() if _is_latent(node)]
        self._in_plate = tuple(name for name, node in nodes.items() if in_plate(node) and name != self.stamps.name)
        self.latent = tuple(name for name in drawn if name in self._in_plate)
        self.hyper = tuple(name for name in drawn if name not in self._in_plate)
        for name in self._in_plate:
            shape = tuple(nodes[name]["value"].shape)
            if shape[:1] != (len(self),):
                raise ValueError(
                    f"Population: expected {name!r} to be drawn with one value for each of the {len(self)} galaxies, "
                    f"got shape {shape}; make what belongs to one galaxy its distribution's event: .to_event(1)"
                )

    def _check_relation(self, nodes: Mapping[str, Any]) -> None:
        outside = [name for name in self._own if name in nodes and not in_plate(nodes[name])]
        if outside:
            raise ValueError(
                f"Population: expected the relation to draw {outside} inside of the plate that it is given, a value "
                "for each galaxy, got one for all; write: with galaxies: pyro.sample(...)"
            )
        if not any(name in nodes for name in self._own):
            drawn = [name for name, node in nodes.items() if node["type"] == "sample" and name != PLATE]
            raise ValueError(
                f"Population: expected a relation that draws parameters of components, some of {list(self._own)}, "
                f"inside of its plate, got one that draws {drawn}; use their names"
            )


class _Batched(Messenger):
    """Marks what is computed from a batch of values as a batch, which a plate would repeat otherwise."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["infer"].get("_deterministic") and msg["value"].ndim:
            msg["fn"] = dist.Delta(msg["value"], event_dim=msg["value"].ndim - 1).mask(False)


def in_plate(node: Any) -> bool:
    """Whether a site of a trace lies in the plate over galaxies."""
    if node["type"] != "sample" or isinstance(node["fn"], _Subsample):
        return False
    return any(frame.name == PLATE for frame in node["cond_indep_stack"])


def _is_latent(node: Any) -> bool:
    return node["type"] == "sample" and not node["is_observed"] and not isinstance(node["fn"], _Subsample)


def _lights(name: str, returned: Any) -> list[Light]:
    lights = list(returned.values()) if isinstance(returned, Mapping) else [returned]
    for light in lights:
        if not isinstance(light, Light):
            raise TypeError(
                f"Population: component {name!r} returned {type(light).__name__}, expected light; return "
                "models.Sersic(...) or a sum of lights"
            )
    return lights


def _batch(drawn: list[Any]) -> Any:
    """One parameter of several galaxies: a batch of its priors, where each has its own."""
    sources = [one.source for one in drawn]
    source = sources[0]
    if hasattr(source, "log_prob") and any(other is not source for other in sources):
        source = stacked(sources)
    starts = [one.start for one in drawn]
    if any(start is None for start in starts):  # a given prior doesn't hold what was measured: all from its median
        return drawn[0]._replace(source=source, start=None)
    return drawn[0]._replace(source=source, start=torch.stack([torch.as_tensor(start) for start in starts]))
