"""The scene: components on an image, and the likelihood of its pixels. A Pyro model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module  # of what needs h5py, on first use
from os import PathLike
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from bayesprof.group import within
from bayesprof.image import Image
from bayesprof.light import Light
from bayesprof.likelihood import Observation, WithParameters, likelihood_for, observed_pixels
from bayesprof.measurement import measure
from bayesprof.psf import PSF, as_psf, check_psf
from bayesprof.recipe import Recipe, checked_windows, named_lights, recipe_of
from bayesprof.rendering import renderer_for
from bayesprof.sites import Sites, sites_of
from bayesprof.values import site_values
from bayesprof.window import Window
from bayesprof.windows import WindowedRenderer


class Scene:
    """Components on an image: a Pyro model with latent sites ``component.parameter`` and the image as its observed
    site.

    Parameters
    ----------
    image : Image
        The image; its name is that of the observed site.
    likelihood : "gaussian", "poisson", "student_t", one of :mod:`bayesprof.likelihoods`, or a function
        How pixels scatter about the model (see :mod:`bayesprof.likelihood`). A function takes the model image,
        shape (ny, nx), and `image`, and returns a Pyro distribution over the pixels, of batch shape (ny, nx).
        Masked pixels are left out by the scene. Sites that it draws are ``likelihood.parameter``.
    psf : function, optional
        A PSF with parameters of its own, fitted with the components and used in place of that of the image: one of
        :mod:`bayesprof.models` whose names end in ``_psf``, or your own function that draws with ``pyro.sample`` and
        returns a PSF (:mod:`bayesprof.psf`) or light made of profiles centred on (0, 0). Its sites are
        ``psf.parameter``.
    windows : mapping from names of components to Window, optional
        The pixels in which a component has light, at least: each window is enlarged to one of a few squares, beyond
        which the component is left out, and costs nothing. Its default priors are measured in the window itself.
        Components without a window are rendered over the whole image. A window of a group is one for each of its parts
        that have none of their own.
    **components : functions, or groups of them
        Each draws with ``pyro.sample`` and returns light: those of :mod:`bayesprof.models`, or your own. The
        keyword is the name, which goes before the names of the component's sites. One that draws several parts, which
        share parameters, may return their lights by name, ``{"bulge": ..., "disk": ...}``: "galaxy.bulge" is a light
        of its own then, in pictures and tables. Names of components are grouped by :class:`bayesprof.Group`.

    A scene doesn't change: :meth:`add`, :meth:`without`, :meth:`freeze`, :meth:`free`, :meth:`started_from` and
    :meth:`with_windows` return others.

    Raises
    ------
    TypeError, ValueError
        For anything else, with the remedy.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> from bayesprof import models
    >>> image = bp.Image(np.zeros((30, 40)), sigma=1.0)
    >>> galaxy = models.sersic(x=20.0, y=14.0, flux=100.0, r_eff=3.0, n=1.0, ellipticity=[0.2, 0.1])
    >>> scene = bp.Scene(image, sky=models.flat_sky(level=2.0), galaxy=galaxy)
    >>> scene.predict().shape
    torch.Size([30, 40])

    A PSF fitted together with the galaxy, from the stars around it:

    >>> star = models.point_source(x=8.0, y=21.0)
    >>> joint = bp.Scene(image, psf=models.moffat_psf(beta=3.0), sky=models.flat_sky(), star=star, galaxy=galaxy)
    """

    def __init__(
        self,
        image: Image,
        *,
        likelihood: Any = "gaussian",
        psf: Callable[[], Light] | None = None,
        windows: Mapping[str, Window] | None = None,
        **components: Callable[[], Light],
    ) -> None:
        self._bind(recipe_of(image, likelihood, psf, windows, components))

    @classmethod
    def of(cls, recipe: Recipe) -> Scene:
        """The scene of a recipe, as :attr:`recipe` has it."""
        scene = cls.__new__(cls)
        scene._bind(recipe)
        return scene

    def _bind(self, recipe: Recipe) -> None:
        """Bind what was given to its image, and check it by one run."""
        self.recipe = recipe
        self.image = image = recipe.image
        self.likelihood = likelihood_for(recipe.part("likelihood"), image)
        self.components = {name: _bound(recipe.part(name), image, recipe.window_of(name)) for name in recipe.components}
        self.psf = None if recipe.psf is None else _bound(recipe.part("psf"), image)
        drawn = self._checked_psf()
        with torch.no_grad(), poutine.block(), torch.random.fork_rng(devices=[]):
            names = list(self.lights())
        self.light_names = tuple(names)
        found = {name: recipe.window_of(name) for name in names}
        self.windows: dict[str, Window] = {name: window for name, window in found.items() if window is not None}
        for name in recipe.windows:
            if not any(within(one, name) for one in names):
                raise ValueError(f"Scene: expected windows of components, {names}, got one of {name!r}")
        everywhere = len(self.windows) < len(names)
        self._render = renderer_for(image, drawn) if everywhere else None
        self._render_windows = WindowedRenderer(image, self.windows, drawn)
        self._sites = self._checked_sites()
        self.latent = self._sites.latent

    def __call__(self) -> Tensor:
        """Draw every parameter, observe the image, and return the noiseless model image, shape (ny, nx)."""
        psf = self.draw_psf()
        model_image = self._image_of(self.lights(), psf)
        observation = self._observation(model_image)
        pixels = observation.distribution.mask(self.image.valid).to_event(2)
        pyro.sample(self.image.name, pixels, obs=observation.observed)
        return model_image

    def prior_of(self, site: str) -> Any:
        """The distribution that a latent site is drawn from; that of one draw, where it depends on others."""
        return self._sites.priors[site]

    def lights(self) -> dict[str, Light]:
        """The light of every component, or of every part of one, its parameters drawn by Pyro."""
        lights = {}
        for name, component in self.components.items():
            with _Prefix(name):
                lights.update(named_lights(name, component()))
        return lights

    def predict(self, params: Any = None, *, components: Any = None) -> Tensor:
        """Noiseless model image, shape (ny, nx), image units.

        Parameters
        ----------
        params : mapping from site names to values, a fit, or InferenceData, whose medians are taken
            Every parameter that isn't held; None where all are.
        components : name or names of components, groups or parts, optional
            Render these only.

        Raises
        ------
        ValueError
            For parameters that are missing, or components that the scene doesn't have.
        """
        values = self._sites.needed(params, "predict")
        wanted = None if components is None else [components] if isinstance(components, str) else list(components)
        with torch.no_grad():
            with poutine.block(), poutine.condition(data=values):
                psf, lights = self.draw_psf(), self.lights()
            for name in wanted or ():
                if not any(within(light, name) for light in lights):
                    raise ValueError(f"predict: the scene has no component {name!r}; it has {list(lights)}")
            shown = {
                name: light
                for name, light in lights.items()
                if wanted is None or any(within(name, one) for one in wanted)
            }
            return self._image_of(shown, psf)

    def deblended(self, components: Any, params: Any) -> Image:
        """The image that would be seen of some components alone: data minus the model of all others.

        Parameters
        ----------
        components : name or names of components, groups or parts
        params : as for :meth:`predict`

        Returns
        -------
        Image
            With the noise, mask, PSF and WCS of the scene's.

        Raises
        ------
        ValueError
            As :meth:`predict`.

        Examples
        --------
        >>> import numpy as np, bayesprof as bp
        >>> from bayesprof import models
        >>> galaxy = models.exponential(x=14.0, y=9.0, flux=500.0, r_eff=3.0, q=0.8, theta=0.4)
        >>> scene = bp.Scene(bp.Image(np.full((20, 30), 7.0), sigma=1.0), sky=models.flat_sky(), galaxy=galaxy)
        >>> float(scene.deblended("galaxy", {"sky.level": 5.0}).data[0, 0])
        2.0
        """
        others = self.predict(params) - self.predict(params, components=components)
        return self.image.minus(others)

    def initial_values(self) -> dict[str, Tensor]:
        """Values to start a fit from, by site name: those of :meth:`started_from`, and for others what was measured on
        the image. A component of one's own has none of the latter.
        """
        starts: dict[str, Tensor] = {}
        for name, component in self.drawn.items():
            sources = getattr(component, "sources", {})
            for parameter, start in getattr(component, "starts", {}).items():
                prior = sources[parameter]
                value = torch.as_tensor(start, dtype=self.image.dtype, device=self.image.device)
                if prior.event_shape == value.shape and bool(prior.support.check(value).all()):
                    starts[f"{name}.{parameter}"] = value
        return {**starts, **{site: value for site, value in self.recipe.starts.items() if site in self.latent}}

    def add(
        self, *, fit: Any = None, windows: Mapping[str, Window] | None = None, **components: Callable[[], Light]
    ) -> Scene:
        """This scene with more components.

        Parameters
        ----------
        fit : Fit, mapping or InferenceData, optional
            Values of this scene's parameters, and of others perhaps, from which the next fit starts
            (:meth:`started_from`). The default priors of the new components are measured on what this scene's model
            leaves over of the image.
        windows : mapping from names to Window, optional
            Of the new components.
        **components : functions, or groups of them
            A group may have the name of one that the scene has: its components are added to that.

        Raises
        ------
        ValueError, TypeError
            For a name that the scene has already, and as :class:`Scene`.

        Examples
        --------
        >>> import numpy as np, bayesprof as bp
        >>> from bayesprof import inference, models
        >>> scene = bp.Scene(bp.Image(np.ones((20, 30)), sigma=1.0), sky=models.flat_sky())
        >>> fit = inference.lm(scene)
        >>> more = scene.add(fit=fit, galaxy=models.exponential())
        >>> list(more.components), round(float(more.initial_values()["sky.level"]), 3)
        (['sky', 'galaxy'], 1.0)
        """
        if not components:
            raise ValueError("add: expected a component to add, got none; add one as a keyword: star=models.sersic()")
        recipe = self.recipe.with_components(components, checked_windows(windows, self.image))
        if fit is not None:
            left = self.image.minus(self.predict({s: v for s, v in site_values(fit).items() if s in self._sites.names}))
            for name in [name for name in recipe.components if name not in self.components]:
                component = recipe.components[name]
                if hasattr(component, "measured_as") and component.found is None:
                    measured = component.measured_as(measure(left, recipe.window_of(name)))
                    recipe = replace(recipe, components={**recipe.components, name: measured})
        scene = Scene.of(recipe)
        return scene if fit is None else scene.started_from(fit)

    def without(self, *names: str) -> Scene:
        """This scene without some components or groups.

        Raises ValueError for names that it doesn't have, and where nothing would be left.

        Examples
        --------
        >>> import numpy as np, bayesprof as bp
        >>> from bayesprof import models
        >>> image = bp.Image(np.ones((20, 30)), sigma=1.0)
        >>> scene = bp.Scene(image, sky=models.flat_sky(), one=models.exponential(), two=models.exponential())
        >>> list(scene.without("one").components)
        ['sky', 'two']
        """
        return Scene.of(self.recipe.without(names))

    def started_from(self, fit: Any) -> Scene:
        """This scene with other starting values, which every method of inference takes when it is given no ``init``.

        `fit` : Fit, InferenceData, or mapping from site names to values. A fit may be that of a larger scene or of a
        smaller one: the sites that they share are taken.

        Raises ValueError for values that the sites can't have, and for a mapping with names that aren't sites.
        """
        strange = [name for name in fit if name not in self._sites.names] if isinstance(fit, Mapping) else []
        if strange and not hasattr(fit, "posterior"):  # InferenceData are mappings too
            raise ValueError(f"started_from: the scene has no parameter {strange}; it has {list(self.latent)}")
        given = {site: value for site, value in site_values(fit).items() if site in self.latent}
        starts = {**self.recipe.starts, **self._sites.checked(given, "started_from")}
        return Scene.of(replace(self.recipe, starts=starts))

    def freeze(self, names: str | Sequence[str], fit: Any) -> Scene:
        """This scene with parameters held: they are numbers from here on, no sites, and nothing that is fitted.

        The uncertainties of the others are then those at the held values: too small where these were uncertain.

        Parameters
        ----------
        names : of components ("galaxy"), of groups, or of single parameters ("galaxy.n"); "psf" and "likelihood" too
        fit : Fit, InferenceData, or mapping from site names to values
            Where they are held.

        Raises
        ------
        ValueError
            For names without parameters that are drawn, for those without a value in `fit`, and for values that they
            can't have.

        Examples
        --------
        >>> import numpy as np, bayesprof as bp
        >>> from bayesprof import inference, models
        >>> scene = bp.Scene(bp.Image(np.ones((20, 30)), sigma=1.0), sky=models.flat_sky(), galaxy=models.exponential())
        >>> scene.freeze(["galaxy.x", "galaxy.y"], {"galaxy.x": 14.0, "galaxy.y": 9.0}).latent
        ('sky.level', 'galaxy.flux', 'galaxy.r_eff', 'galaxy.ellipticity')
        """
        wanted = [names] if isinstance(names, str) else list(names)
        for name in wanted:
            if not any(within(site, name) for site in self.latent):
                raise ValueError(
                    f"freeze: expected names of components or of parameters that are drawn, got {name!r}; there are "
                    f"{list(self.latent)}"
                )
        values = site_values(fit)
        chosen = [site for site in self.latent if any(within(site, name) for name in wanted)]
        missing = [site for site in chosen if site not in values]
        if missing:
            raise ValueError(f"freeze: expected a value for {missing} in fit, got none; give a fit of this scene")
        checked = self._sites.checked({site: values[site] for site in chosen}, "freeze")
        return Scene.of(self.recipe.holding(checked))

    def free(self, names: str | Sequence[str] | None = None) -> Scene:
        """This scene with parameters free that :meth:`freeze` held, all by default; they start from where they were.

        Raises ValueError for names of which nothing is held.
        """
        return Scene.of(self.recipe.freeing([names] if isinstance(names, str) else names))

    def with_windows(self, windows: Mapping[str, Window] | None) -> Scene:
        """This scene with other windows in the place of those it has, none where None; see
        :func:`bayesprof.bright_windows`.
        """
        return Scene.of(replace(self.recipe, windows=checked_windows(windows, self.image)))

    def save(self, path: str | PathLike[str], *, fit: Any = None, overwrite: bool = False) -> None:
        """Write this scene, and its fit where one is given, to one HDF5 file, for :meth:`load` on any machine.

        Parameters
        ----------
        path : str or path
        fit : Fit, optional
        overwrite : bool
            Replace a scene in that file, once the new one is complete.

        Raises
        ------
        FileExistsError
            For a file that exists, without `overwrite`, and for one that isn't a scene.
        TypeError
            For a `fit` that is none.

        Notes
        -----
        Image, windows, held and starting values are written as they are, the components of the catalogue by the calls
        that made them, distributions of Pyro by name and parameters. Functions of your own can't be: they are given
        again when the scene is loaded.

        Examples
        --------
        >>> import tempfile, numpy as np, bayesprof as bp
        >>> from bayesprof import inference, models
        >>> scene = bp.Scene(bp.Image(np.ones((20, 30)), sigma=1.0), sky=models.flat_sky())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     scene.save(f"{folder}/scene.h5", fit=inference.lm(scene))
        ...     again, fit = bp.Scene.load(f"{folder}/scene.h5")
        >>> list(again.components), round(fit.params["sky.level"], 3)
        (['sky'], 1.0)
        """
        import_module("bayesprof.scene_file").save_scene(self, path, fit=fit, overwrite=overwrite)

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        *,
        components: Mapping[str, Any] | None = None,
        psf: Any = None,
        likelihood: Any = None,
    ) -> tuple[Scene, Any]:
        """The scene that :meth:`save` wrote, and its fit or None.

        `components`, `psf` and `likelihood` : functions of your own that it was saved with, components by name.

        Raises
        ------
        FileNotFoundError, ValueError
            For a file that isn't there, is damaged or is no scene; and where functions of your own are missing, by
            their names.

        Warns
        -----
        UserWarning
            Where another version of bayesprof, torch or Pyro saved it.
        """
        loaded: tuple[Scene, Any] = import_module("bayesprof.scene_file").load_scene(
            path, components=components, psf=psf, likelihood=likelihood
        )
        return loaded

    @property
    def units(self) -> dict[str, str]:
        """Unit of every site whose component states one."""
        return {
            f"{name}.{parameter}": unit
            for name, component in self.drawn.items()
            for parameter, unit in getattr(component, "units", {}).items()
        }

    @property
    def dims(self) -> dict[str, list[str]]:
        """Names of the dimensions of sites that are not scalars, for ArviZ."""
        named = {site: [name for name, _ in axes] for site, axes in self._axes.items()}
        return {**named, self.image.name: ["y", "x"]}

    @property
    def coords(self) -> dict[str, list[Any]]:
        """Labels along those dimensions."""
        ny, nx = self.image.shape
        labels = {name: labels for axes in self._axes.values() for name, labels in axes}
        return {**labels, "y": list(range(ny)), "x": list(range(nx))}

    @property
    def _axes(self) -> dict[str, list[tuple[str, list[Any]]]]:
        """Name and labels of each axis of the sites that aren't scalars."""
        return {
            f"{name}.{parameter}": [
                (axis.name if axis.shared else f"{name}.{axis.name}", list(axis.labels)) for axis in axes
            ]
            for name, component in self.drawn.items()
            for parameter, axes in getattr(component, "axes", {}).items()
        }

    def constant_data(self) -> dict[str, Tensor]:
        """What a result records beside the data: sigma, mask and PSF, where the image has them; not the PSF of the
        image where the scene draws its own.
        """
        psf = self.image.psf if self.psf is None else None
        constants = {"sigma": self.image.sigma, "mask": self.image.mask, "psf": psf}
        return {f"{self.image.name}_{what}": value for what, value in constants.items() if value is not None}

    def __repr__(self) -> str:
        psf = "" if self.psf is None else "PSF with parameters, "
        return f"Scene({self.image!r}, {psf}components: {', '.join(self.components)})"

    @property
    def drawn(self) -> dict[str, Any]:
        """All that draws parameters, by the name that goes before them, in the order of drawing."""
        psf = {} if self.psf is None else {"psf": self.psf}
        noise = {}
        if isinstance(self.likelihood, WithParameters):
            noise = {"likelihood": self.likelihood.parameters}
        elif self._sites.noise:
            own = functools.partial(self.likelihood, self.image.data, self.image)
            noise = {"likelihood": functools.update_wrapper(own, self.likelihood)}
        return {**psf, **self.components, **noise}

    def draw_psf(self) -> PSF | None:
        """The PSF that the scene has in place of the image's, its parameters drawn by Pyro."""
        if self.psf is None:
            return None
        with _Prefix("psf"):
            return as_psf(self.psf())

    def _image_of(self, lights: Mapping[str, Light], psf: PSF | None) -> Tensor:
        """Noiseless image of `lights`, by component."""
        image = self._render_windows(lights, psf)
        everywhere = [light for name, light in lights.items() if name not in self.windows]
        if self._render is not None and everywhere:
            image = image + self._render(_joined(everywhere), psf)
        if isinstance(image, Tensor):
            return image
        return torch.zeros(self.image.shape, dtype=self.image.dtype, device=self.image.device)

    def _checked_psf(self) -> PSF | None:
        """The PSF at one draw of its parameters, once it has been found to be one."""
        if self.psf is None:
            return None
        with torch.no_grad(), pyro.poutine.block(), torch.random.fork_rng(devices=[]):
            with _Prefix("psf"):
                light = self.psf()
            if not isinstance(light, Light):
                raise TypeError(
                    f"Scene: psf returned {type(light).__name__}, expected a PSF or light made of profiles; return "
                    "models.MoffatPSF(...) or models.Moffat(0.0, 0.0, 1.0, ...)"
                )
            psf = as_psf(light)
            check_psf(psf)
            return psf

    def _checked_sites(self) -> Sites:
        """All that is drawn, by one run, so that a mistake in a component is told here and not deep in a sampler."""
        with torch.no_grad(), poutine.block(), torch.random.fork_rng(devices=[]):
            with poutine.trace() as tracer:
                psf = self.draw_psf()
                model_image = self._image_of(self.lights(), psf)
            with poutine.trace() as noise:
                self._observation(model_image)
        sites = sites_of(self.image, tracer.trace, noise.trace)
        if sites.noise and self.image.name == "likelihood":
            raise ValueError(
                "Scene: the image has the name of what its likelihood draws, 'likelihood'; give the Image another name="
            )
        return sites

    def _observation(self, model_image: Tensor) -> Observation:
        """The pixels about `model_image`, the parameters of the likelihood drawn by Pyro."""
        with _Prefix("likelihood"):
            return observed_pixels(self.likelihood, model_image, self.image)


class _Prefix(Messenger):
    """Puts ``name.`` before the name of every site inside.

    Pyro's own scope uses "/", which netCDF files and ArviZ read as a group.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def _pyro_sample(self, msg: Any) -> None:
        msg["name"] = f"{self.name}.{msg['name']}"


def _joined(lights: Any) -> Light:
    return Light(tuple(part for light in lights for part in light.parts))


def _bound(component: Any, image: Image, window: Window | None = None) -> Callable[[], Light]:
    if not hasattr(component, "bind"):
        bound: Callable[[], Light] = component
    else:
        bound = component.bind(image) if window is None else component.bind(image, window)
    return bound
