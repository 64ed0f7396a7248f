"""The scene: components on an image, and the likelihood of its pixels. A Pyro model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from bayesprof.image import Image
from bayesprof.light import Light
from bayesprof.likelihood import Observation, WithParameters, likelihood_for, observed_pixels
from bayesprof.psf import PSF, as_psf, check_psf
from bayesprof.rendering import renderer_for
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
        Components without a window are rendered over the whole image.
    **components : functions
        Each draws with ``pyro.sample`` and returns light: those of :mod:`bayesprof.models`, or your own. The
        keyword is the name, which goes before the names of the component's sites.

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
        if not isinstance(image, Image):
            raise TypeError(
                f"Scene: expected an Image, got {type(image).__name__}; make one with bp.Image(data, sigma=...)"
            )
        if not components:
            raise ValueError(
                "Scene: expected at least one component, got none; add one as a keyword: galaxy=models.sersic()"
            )
        for name, component in components.items():
            _check_component(name, component, image)
        self.image = image
        self.likelihood = likelihood_for(likelihood, image)
        self.windows = _checked_windows(windows, components, image)
        self.components = {
            name: _bound(component, image, self.windows.get(name)) for name, component in components.items()
        }
        if psf is not None:
            _check_component("psf", psf, image)
        self.psf = None if psf is None else _bound(psf, image)
        drawn = self._checked_psf()
        everywhere = len(self.windows) < len(components)
        self._render = renderer_for(image, drawn) if everywhere else None
        self._render_windows = WindowedRenderer(image, self.windows, drawn)
        self._check_light()

    def __call__(self) -> Tensor:
        """Draw every parameter, observe the image, and return the noiseless model image, shape (ny, nx)."""
        psf = self.draw_psf()
        model_image = self._image_of(self.lights(), psf)
        observation = self._observation(model_image)
        pixels = observation.distribution.mask(self.image.valid).to_event(2)
        pyro.sample(self.image.name, pixels, obs=observation.observed)
        return model_image

    def lights(self) -> dict[str, Light]:
        """The light of every component, its parameters drawn by Pyro."""
        lights = {}
        for name, component in self.components.items():
            with _Prefix(name):
                lights[name] = component()
        return lights

    def predict(self, params: Any = None, *, components: Any = None) -> Tensor:
        """Noiseless model image, shape (ny, nx), image units.

        Parameters
        ----------
        params : mapping from site names to values, or a fit
            Every parameter that isn't held; None where all are.
        components : names, optional
            Render these only.

        Raises
        ------
        ValueError
            For parameters that are missing, or components that the scene doesn't have.
        """
        values = self._values(params)
        names = (
            list(self.components) if components is None else [components] if isinstance(components, str) else components
        )
        unknown = [name for name in names if name not in self.components]
        if unknown:
            raise ValueError(f"predict: the scene has no component {unknown}; it has {list(self.components)}")
        with torch.no_grad():
            with poutine.block(), poutine.trace() as tracer, poutine.condition(data=values):
                psf, lights = self.draw_psf(), self.lights()
            sites = {
                name: node
                for name, node in tracer.trace.nodes.items()
                if node["type"] == "sample" and not isinstance(node["fn"], _Subsample)  # which is a plate's
            }
            strange = [name for name in values if name not in sites and name not in self._noise_sites]
            if strange:
                raise ValueError(f"predict: the scene has no parameter {strange}; it has {list(sites)}")
            missing = [name for name, node in sites.items() if name not in values and not node["is_observed"]]
            if missing:
                raise ValueError(
                    f"predict: expected a value for every parameter that isn't held, got none for {missing}; "
                    "give params={name: value}, for example fit.params"
                )
            return self._image_of({name: lights[name] for name in names}, psf)

    def initial_values(self) -> dict[str, Tensor]:
        """Values measured on the image to start a fit from, by site name; user's own components have none."""
        starts = {}
        for name, component in self.drawn.items():
            sources = getattr(component, "sources", {})
            for parameter, start in getattr(component, "starts", {}).items():
                prior = sources[parameter]
                value = torch.as_tensor(start, dtype=self.image.dtype, device=self.image.device)
                if prior.event_shape == value.shape and bool(prior.support.check(value).all()):
                    starts[f"{name}.{parameter}"] = value
        return starts

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
        elif self._noise_sites:
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

    def _values(self, params: Any) -> dict[str, Tensor]:
        params = getattr(params, "params", params)
        if params is None:
            return {}
        if not isinstance(params, Mapping):
            raise TypeError(
                "predict: expected params as a mapping from site names to values, or a fit, got "
                f"{type(params).__name__}"
            )
        image = self.image
        return {name: torch.as_tensor(value, dtype=image.dtype, device=image.device) for name, value in params.items()}

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

    def _check_light(self) -> None:
        """Run the components once, so that a mistake in one is told here and not deep in a sampler."""
        with torch.no_grad(), pyro.poutine.block(), torch.random.fork_rng(devices=[]):
            for name, light in self.lights().items():
                if not isinstance(light, Light):
                    raise TypeError(
                        f"Scene: component {name!r} returned {type(light).__name__}, expected light; return "
                        "models.Sersic(...) or a "
                        "sum of lights"
                    )
            model_image = self._image_of(self.lights(), self.draw_psf())
            with poutine.trace() as tracer:
                self._observation(model_image)
            nodes = tracer.trace.nodes
            self._noise_sites = {name for name, node in nodes.items() if node["type"] == "sample"}
            if self._noise_sites and self.image.name == "likelihood":
                raise ValueError(
                    "Scene: the image has the name of what its likelihood draws, 'likelihood'; give the Image another "
                    "name="
                )

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


def _checked_windows(windows: Any, components: Mapping[str, Any], image: Image) -> dict[str, Window]:
    if windows is not None and not isinstance(windows, Mapping):
        raise TypeError(
            f"Scene: expected windows as a mapping from names of components to bp.Window, got {type(windows).__name__}"
        )
    for name, window in (windows or {}).items():
        if name not in components:
            raise ValueError(f"Scene: expected windows of components, {list(components)}, got one of {name!r}")
        if not isinstance(window, Window):
            raise TypeError(
                f"Scene: expected the window of {name!r} to be a bp.Window(x0, y0, x1, y1), got {type(window).__name__}"
            )
    inside = {name: window.within(image.shape) for name, window in (windows or {}).items()}
    for name, window in inside.items():
        if not bool(image.valid[window.y0 : window.y1, window.x0 : window.x1].any()):
            raise ValueError(
                f"Scene: expected unmasked pixels in the window of {name!r}, {window} has none; enlarge it"
            )
    return inside


def _check_component(name: str, component: Any, image: Image) -> None:
    if not name or any(mark in name for mark in "./"):
        raise ValueError(f"Scene: expected component names without '.' and '/', got {name!r}; rename it")
    if name == image.name:
        raise ValueError(
            f"Scene: component {name!r} has the name of the image; rename it, or give the Image another name="
        )
    if isinstance(component, Light):
        raise TypeError(
            f"Scene: component {name!r} is a light, expected a function that returns one; use "
            f"models.{type(component).__name__.lower()}"
            "(...) or wrap it: lambda: light"
        )
    if not callable(component):
        raise TypeError(
            f"Scene: expected component {name!r} to be a function that returns light, got {type(component).__name__}; "
            "for example models.sersic()"
        )
