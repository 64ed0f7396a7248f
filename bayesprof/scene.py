"""The scene: components on an image, and the likelihood of its pixels. A Pyro model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from bayesprof.assembling import (
    bound,
    bound_alignment,
    by_image,
    check_component,
    check_lights,
    check_offsets,
    checked_windows,
    seen_in,
)
from bayesprof.image import Image
from bayesprof.images import Images
from bayesprof.light import Light
from bayesprof.mapped import Offset
from bayesprof.naming import Prefix
from bayesprof.psf import PSF
from bayesprof.view import View
from bayesprof.window import Window


class Scene:
    """Components on one or several images: a Pyro model with latent sites ``component.parameter`` and each image as an
    observed site.

    Parameters
    ----------
    image : Image, or a sequence of them
        The image; its name is that of the observed site. Several show the same part of the sky: bands, epochs, or
        instruments, each with its own pixels, PSF, depth and unit. Geometry is in pixels of the first; the others are
        reached through their WCS, or through `maps`.
    likelihood : "gaussian", "poisson", "student_t", one of :mod:`bayesprof.likelihoods`, or a function
        How pixels scatter about the model (see :mod:`bayesprof.likelihood`). A function takes the model image,
        shape (ny, nx), and `image`, and returns a Pyro distribution over the pixels, of batch shape (ny, nx).
        Masked pixels are left out by the scene. Sites that it draws are ``likelihood.parameter``. Of several images, it
        is that of each, with parameters of its own, ``likelihood_<image>.parameter``; or a mapping from names of images
        to likelihoods, Gaussian where left out.
    psf : function, optional
        A PSF with parameters of its own, fitted with the components and used in place of that of the image: one of
        :mod:`bayesprof.models` whose names end in ``_psf``, or your own function that draws with ``pyro.sample`` and
        returns a PSF (:mod:`bayesprof.psf`) or light made of profiles centred on (0, 0). Its sites are
        ``psf.parameter``. Of several images, each has one, ``psf_<image>.parameter``; or those in a mapping from names
        of images to PSFs, the others keeping their own.
    windows : mapping from names of components to Window, optional
        The pixels in which a component has light, at least: each window is enlarged to one of a few squares, beyond
        which the component is left out, and costs nothing. Its default priors are measured in the window itself.
        Components without a window are rendered over the whole image. Windows are in pixels of the first image.
    maps : mapping from names of images to arrays of shape (2, 3), optional
        For images without a WCS, or in place of it: ``(x, y) in that image = array @ (x, y, 1) in the first``.
    alignment : function, optional
        By how much the images behind the first are shifted against their maps: ``models.alignment()``, or your own
        function that returns (dx, dy), in pixels of each image, by name. Its sites are ``alignment.parameter``.
    **components : functions
        Each draws with ``pyro.sample`` and returns light: those of :mod:`bayesprof.models`, or your own. The
        keyword is the name, which goes before the names of the component's sites. A function may return a mapping from
        names of images to lights, for those that see it differently, or see it at all (see
        :func:`bayesprof.only_in`). Lights are in pixels of the first image but for backgrounds, which are in those of
        each.

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

    Two bands, with a flux and a sky for each and one shape:

    >>> g, r = (bp.Image(np.zeros((30, 40)), sigma=1.0, name=name) for name in "gr")
    >>> bands = bp.Scene([g, r], sky=models.flat_sky(), galaxy=models.sersic())
    >>> bands.dims["galaxy.flux"]
    ['image']
    """

    def __init__(
        self,
        image: Image | Sequence[Image],
        *,
        likelihood: Any = "gaussian",
        psf: Any = None,
        windows: Mapping[str, Window] | None = None,
        maps: Mapping[str, Any] | None = None,
        alignment: Callable[[], Any] | None = None,
        **components: Any,
    ) -> None:
        self._images = Images.of(image, maps)
        if not components:
            raise ValueError(
                "Scene: expected at least one component, got none; add one as a keyword: galaxy=models.sersic()"
            )
        self.windows = checked_windows(windows, components, self.image)
        self.components: dict[str, Callable[[], Any]] = {}
        self.seen_in: dict[str, tuple[str, ...]] = {}
        for name, component in components.items():
            seen, inner = seen_in(name, component, self._images)
            check_component(name, inner, self._images)
            self.seen_in[name] = seen
            self.components[name] = bound(inner, self._images.only(seen), self.windows.get(name))
        self.alignment = bound_alignment(alignment, self._images)
        self.views = self._viewed(likelihood, psf)
        self._check_names()
        self._check_light()

    def _viewed(self, likelihood: Any, psf: Any) -> dict[str, View]:
        """Each of the images, by name, as the scene sees it."""
        several = len(self.images) > 1
        likelihoods = by_image("likelihood", likelihood, self.images, several)
        psfs = by_image("psf", psf, self.images, several)
        views = {}
        for name, image in self.images.items():
            own = psfs.get(name)
            if own is not None:
                check_component("psf", own, self._images)
            here = [component for component, seen in self.seen_in.items() if name in seen]
            windows = {
                component: self._images.window_in(image, window)
                for component, window in self.windows.items()
                if component in here
            }
            views[name] = View(
                image,
                self._images.maps[name],
                likelihood=likelihoods.get(name, "gaussian"),
                psf=None if own is None else bound(own, self._images.of(image)),
                windows=windows,
                everywhere=len(windows) < len(here),
                label=f"_{name}" if several else "",
            )
        return views

    @property
    def images(self) -> dict[str, Image]:
        """The images, by name."""
        return {image.name: image for image in self._images.seen}

    @property
    def image(self) -> Image:
        """The first image, in whose pixels geometry is."""
        return self._images.first

    def image_named(self, name: str | None, asking: str) -> Image:
        """The image of that `name`, the first where it is None; raises ValueError, for whoever is `asking`, where the
        scene has none.
        """
        if name is not None and name not in self.images:
            raise ValueError(f"{asking}: the scene has no image {name!r}; it has {list(self.images)}")
        return self.image if name is None else self.images[name]

    def __call__(self) -> Any:
        """Draw every parameter, observe the images, and return the noiseless model image, shape (ny, nx); of several
        images, by name.
        """
        psfs = self.draw_psfs()
        models = self._images_of(self._drawn_lights(), psfs, self.draw_offsets())
        for name, view in self.views.items():
            view.observe(models[name])
        return self._alone(models)

    def lights(self) -> dict[str, Any]:
        """The light of every component, its parameters drawn by Pyro, in pixels of the first image; where a scene has
        several images, each by the names of those that see it.
        """
        return {name: self._alone(lights) for name, lights in self._drawn_lights().items()}

    def _drawn_lights(self) -> dict[str, dict[str, Light]]:
        """The light of every component in each image that sees it, drawn by Pyro."""
        lights = {}
        for name, component in self.components.items():
            with Prefix(name):
                drawn = component()
            lights[name] = drawn if isinstance(drawn, dict) else dict.fromkeys(self.seen_in[name], drawn)
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
        return dict(found) if isinstance(found, Mapping) else dict.fromkeys(self._images.names[1:], found)

    def _alone(self, by_image: dict[str, Any]) -> Any:
        """What there is for each image; of a scene of one image, for that one."""
        return by_image if len(self.images) > 1 else by_image[self.image.name]

    def predict(self, params: Any = None, *, components: Any = None, image: str | None = None) -> Any:
        """Noiseless model image, shape (ny, nx), image units; of several images, a mapping from their names.

        Parameters
        ----------
        params : mapping from site names to values, or a fit
            Every parameter that isn't held; None where all are.
        components : names, optional
            Render these only.
        image : name, optional
            Of this image only.

        Raises
        ------
        ValueError
            For parameters that are missing, or components or an image that the scene doesn't have.
        """
        values = self._values(params)
        names = (
            list(self.components) if components is None else [components] if isinstance(components, str) else components
        )
        unknown = [name for name in names if name not in self.components]
        if unknown:
            raise ValueError(f"predict: the scene has no component {unknown}; it has {list(self.components)}")
        self.image_named(image, "predict")
        with torch.no_grad():
            with poutine.block(), poutine.trace() as tracer, poutine.condition(data=values):
                psfs, lights, offsets = self.draw_psfs(), self._drawn_lights(), self.draw_offsets()
            sites = {
                name: node
                for name, node in tracer.trace.nodes.items()
                if node["type"] == "sample" and not isinstance(node["fn"], _Subsample)  # which is a plate's
            }
            noise = {name for view in self.views.values() for name in view.noise_sites}
            strange = [name for name in values if name not in sites and name not in noise]
            if strange:
                raise ValueError(f"predict: the scene has no parameter {strange}; it has {list(sites)}")
            missing = [name for name, node in sites.items() if name not in values and not node["is_observed"]]
            if missing:
                raise ValueError(
                    f"predict: expected a value for every parameter that isn't held, got none for {missing}; "
                    "give params={name: value}, for example fit.params"
                )
            chosen = {name: lights[name] for name in names}
            if image is not None:
                return self._images_of(chosen, psfs, offsets, [image])[image]
            return self._alone(self._images_of(chosen, psfs, offsets))

    def lights_in(self, image: str, params: Any = None) -> dict[str, Light]:
        """The light of every component that an image sees, in the pixels of that image, at `params` as of
        :meth:`predict`.
        """
        values = self._values(params)
        with torch.no_grad(), poutine.block(), poutine.condition(data=values):
            lights, offsets = self._drawn_lights(), self.draw_offsets()
        seen = {name: by_image[image] for name, by_image in lights.items() if image in by_image}
        return self.views[image].lights(seen, offsets.get(image))

    def initial_values(self) -> dict[str, Tensor]:
        """Values measured on the images to start a fit from, by site name; user's own components have none."""
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
        return {**named, **{name: [axis for axis, _ in self._pixels(name)] for name in self.images}}

    @property
    def coords(self) -> dict[str, list[Any]]:
        """Labels along those dimensions."""
        labels = {name: labels for axes in self._axes.values() for name, labels in axes}
        return labels | {axis: list(range(size)) for name in self.images for axis, size in self._pixels(name)}

    def _pixels(self, name: str) -> list[tuple[str, int]]:
        """Name and length of each axis of an image: y and x, or those of this image among several."""
        label = f"{name}_" if len(self.images) > 1 else ""
        return [(f"{label}{axis}", size) for axis, size in zip("yx", self.images[name].shape, strict=True)]

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
        """What a result records beside the data: sigma, mask and PSF of each image, where it has them; not the PSF of
        the image where the scene draws its own.
        """
        return {name: value for view in self.views.values() for name, value in view.constant_data().items()}

    def __repr__(self) -> str:
        images = ", ".join(map(repr, self.images.values()))
        images = images if len(self.images) == 1 else f"[{images}]"
        psf = "PSF with parameters, " if any(view.psf for view in self.views.values()) else ""
        return f"Scene({images}, {psf}components: {', '.join(self.components)})"

    @property
    def drawn(self) -> dict[str, Any]:
        """All that draws parameters, by the name that goes before them, in the order of drawing."""
        psfs = {view.psf_prefix: view.psf for view in self.views.values() if view.psf is not None}
        alignment = {} if self.alignment is None else {"alignment": self.alignment}
        noise = {name: one for view in self.views.values() for name, one in view.drawn_noise.items()}
        return {**psfs, **self.components, **alignment, **noise}

    def _images_of(
        self,
        lights: Mapping[str, Mapping[str, Light]],
        psfs: Mapping[str, PSF | None],
        offsets: Mapping[str, Offset],
        names: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Noiseless images, of all or of some `names`, of `lights` by component and image."""
        found = {}
        for name in names or self.images:
            seen = {component: by_image[name] for component, by_image in lights.items() if name in by_image}
            found[name] = self.views[name].image_of(seen, psfs[name], offsets.get(name))
        return found

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

    def _check_light(self) -> None:
        """Run the components once, so that a mistake in one is told here and not deep in a sampler."""
        with torch.no_grad(), pyro.poutine.block(), torch.random.fork_rng(devices=[]):
            for name, component in self.components.items():
                with Prefix(name):
                    light = component()
                check_lights(name, light, self.seen_in[name])
            lights, offsets = self._drawn_lights(), self.draw_offsets()
            check_offsets(offsets, self._images.names[1:])
            models = self._images_of(lights, self.draw_psfs(), offsets)
            for name, view in self.views.items():
                view.find_noise_sites(models[name])
                if view.noise_sites and view.likelihood_prefix in self.images:
                    raise ValueError(
                        f"Scene: the image has the name of what its likelihood draws, {view.likelihood_prefix!r}; give "
                        "the Image another name="
                    )

    def _check_names(self) -> None:
        """Raise where a component has the name of what else draws parameters."""
        others = {"alignment"} if self.alignment is not None else set()
        for view in self.views.values():
            others |= {view.psf_prefix} if view.psf is not None else set()
        taken = [name for name in self.components if name in others]
        if taken:
            raise ValueError(
                f"Scene: component {taken[0]!r} has the name of what the scene draws beside its components; rename it"
            )
