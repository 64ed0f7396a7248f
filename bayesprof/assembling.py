"""A recipe bound to its images: what a scene draws, the model images it renders, and what is known of its sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from bayesprof.group import wholes, within
from bayesprof.images import Images
from bayesprof.light import Light
from bayesprof.mapped import Offset
from bayesprof.naming import Prefix, units_of
from bayesprof.psf import PSF
from bayesprof.recipe import Recipe
from bayesprof.returned import check_offsets, named_lights
from bayesprof.sites import Sites, sites_of
from bayesprof.threads import one_thread
from bayesprof.view import View
from bayesprof.window import Window

Lights = Mapping[str, Mapping[str, Light]]
"""Light by name of a component, or of a part of one, and by image that sees it."""


class Assembly:
    """The components of a `recipe` on its images, checked by one run.

    `seen_in`: names of the images that see a light, by its name; `windows`: of each light that has one.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.images = recipe, recipe.images
        self.components = {
            name: _bound(recipe.part(name), recipe.seen_in(name), recipe.windows_for(name))
            for name in recipe.components
        }
        self.alignment = None
        if recipe.alignment is not None:
            self.alignment = _bound(recipe.part("alignment"), self.images.only(self.images.names[1:]))
        with torch.no_grad(), poutine.block(), torch.random.fork_rng(devices=[]):
            lights = self.draw_lights()
        self.seen_in = {name: tuple(seen) for name, seen in lights.items()}
        found = {name: recipe.window_of(name) for name in lights}
        self.windows: dict[str, Window] = {name: window for name, window in found.items() if window is not None}
        seen = {whole for light in lights for whole in wholes(light)}
        for name in recipe.windows:
            if name not in seen:
                raise ValueError(f"Scene: expected windows of components, {list(lights)}, got one of {name!r}")
        self.views = {name: self._view(name) for name in self.images.names}
        self.sites = self._checked_sites()

    def _view(self, name: str) -> View:
        """The image of a `name`, as the scene sees it."""
        recipe = self.recipe
        image = next(image for image in self.images.seen if image.name == name)
        here = {light for light, seen in self.seen_in.items() if name in seen}
        windows = {
            light: self.images.window_in(image, window) for light, window in self.windows.items() if light in here
        }
        psf, likelihood = (recipe.prefix(what, name) for what in ("psf", "likelihood"))
        return View(
            image,
            self.images.maps[name],
            likelihood=recipe.part(likelihood),
            psf=_bound(recipe.part(psf), Images.of(image)) if name in recipe.psfs else None,
            windows=windows,
            everywhere=len(windows) < len(here),
            prefixes=(psf, likelihood),
        )

    def draw_lights(self) -> dict[str, dict[str, Light]]:
        """The light of every component, or of every part of one, in each image that sees it, drawn by Pyro."""
        lights = {}
        for name, component in self.components.items():
            with Prefix(name):
                drawn = component()
            lights.update(named_lights(name, drawn, self.images.names, self.recipe.seen_in(name).seen_names))
        return lights

    def draw_psfs(self) -> dict[str, PSF | None]:
        """The PSF that the scene has in place of that of each image, its parameters drawn by Pyro."""
        return {name: view.draw_psf() for name, view in self.views.items()}

    def draw_offsets(self) -> dict[str, Offset]:
        """By how much images are shifted against their maps, drawn by Pyro."""
        if self.alignment is None:
            return {}
        with Prefix("alignment"):
            found = self.alignment()
        return dict(found) if isinstance(found, Mapping) else dict.fromkeys(self.images.names[1:], found)

    def images_of(
        self,
        lights: Lights,
        psfs: Mapping[str, PSF | None],
        offsets: Mapping[str, Offset],
        names: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Noiseless images, of all or of some `names`, of `lights`."""
        found = {}
        for name in names or self.images.names:
            seen = {light: by_image[name] for light, by_image in lights.items() if name in by_image}
            found[name] = self.views[name].image_of(seen, psfs[name], offsets.get(name))
        return found

    def predicted(self, params: Any, components: Any, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Noiseless images at given values, as :meth:`bayesprof.Scene.predict`, by name."""
        values = self.sites.needed(params, "predict")
        wanted = None if components is None else [components] if isinstance(components, str) else list(components)
        with torch.no_grad(), one_thread():
            with poutine.block(), poutine.condition(data=values):
                psfs, lights, offsets = self.draw_psfs(), self.draw_lights(), self.draw_offsets()
            for name in wanted or ():
                if not any(within(light, name) for light in lights):
                    raise ValueError(f"predict: the scene has no component {name!r}; it has {list(lights)}")
            shown = {
                name: light
                for name, light in lights.items()
                if wanted is None or any(within(name, one) for one in wanted)
            }
            return self.images_of(shown, psfs, offsets, names)

    def initial_values(self) -> dict[str, Tensor]:
        """Values to start a fit from, as :meth:`bayesprof.Scene.initial_values`."""
        like = self.images.first
        starts: dict[str, Tensor] = {}
        for name, component in self.drawn.items():
            sources = getattr(component, "sources", {})
            for parameter, start in getattr(component, "starts", {}).items():
                prior = sources[parameter]
                value = torch.as_tensor(start, dtype=like.dtype, device=like.device)
                if prior.event_shape == value.shape and bool(prior.support.check(value).all()):
                    starts[f"{name}.{parameter}"] = value
        return {**starts, **{site: value for site, value in self.recipe.starts.items() if site in self.sites.priors}}

    @property
    def drawn(self) -> dict[str, Any]:
        """All that draws parameters, by the name that goes before them, in the order of drawing."""
        psfs = {view.psf_prefix: view.psf for view in self.views.values() if view.psf is not None}
        alignment = {} if self.alignment is None else {"alignment": self.alignment}
        noise = {name: one for view in self.views.values() for name, one in view.drawn_noise(self.sites.noise).items()}
        return {**psfs, **self.components, **alignment, **noise}

    @property
    def units(self) -> dict[str, str]:
        """Unit of every site whose component states one."""
        return units_of(self.drawn)

    @property
    def axes(self) -> dict[str, list[tuple[str, list[Any]]]]:
        """Name and labels of each axis of the sites that aren't scalars, and of the images."""
        of_sites = {
            f"{name}.{parameter}": [
                (axis.name if axis.shared else f"{name}.{axis.name}", list(axis.labels)) for axis in axes
            ]
            for name, component in self.drawn.items()
            for parameter, axes in getattr(component, "axes", {}).items()
        }
        several = len(self.images.names) > 1
        of_images = {
            image.name: [
                (f"{image.name}_{axis}" if several else axis, list(range(size)))
                for axis, size in zip("yx", image.shape, strict=True)
            ]
            for image in self.images.seen
        }
        return {**of_sites, **of_images}

    def _checked_sites(self) -> Sites:
        """All that is drawn, by one run, so that a mistake in a component is told here and not deep in a sampler."""
        with torch.no_grad(), one_thread(), poutine.block(), torch.random.fork_rng(devices=[]):
            with poutine.trace() as tracer:
                psfs, lights, offsets = self.draw_psfs(), self.draw_lights(), self.draw_offsets()
            check_offsets(offsets, self.images.names[1:])
            models = self.images_of(lights, psfs, offsets)
            with poutine.trace() as noise:
                for name, view in self.views.items():
                    view.observation(models[name])
        sites = sites_of(self.images.first, tracer.trace, noise.trace)
        for view in self.views.values():
            if view.likelihood_prefix in self.images.names and view.drawn_noise(sites.noise):
                raise ValueError(
                    f"Scene: the image has the name of what its likelihood draws, {view.likelihood_prefix!r}; give the "
                    "Image another name="
                )
        return sites


def _bound(component: Any, images: Images, window: Any = None) -> Callable[[], Any]:
    if not hasattr(component, "bind"):
        bound: Callable[[], Any] = component
    else:
        # one image is handed over as it is, so that a component of one's own needs to know no more
        image = images if len(images.names) > 1 else images.first
        bound = component.bind(image) if window is None else component.bind(image, window)
    return bound
