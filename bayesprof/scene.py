"""The scene: components on one or several images, and the likelihood of their pixels. A Pyro model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module  # of what needs h5py, on first use
from os import PathLike
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from bayesprof import life_cycle
from bayesprof.assembling import Assembly
from bayesprof.image import Image
from bayesprof.light import Light
from bayesprof.mapped import Offset
from bayesprof.members import on_their_own
from bayesprof.psf import PSF
from bayesprof.recipe import Recipe, checked_windows, recipe_of
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
        Components without a window are rendered over the whole image. A window of a group is one for each of its parts
        that have none of their own; those of its parts, or of the members of :func:`bayesprof.models.sources`, may be
        a mapping: ``{"galaxies": {"a": Window(...)}}``. Windows are in pixels of the first image.
    maps : mapping from names of images to arrays of shape (2, 3), optional
        For images without a WCS, or in place of it: ``(x, y) in that image = array @ (x, y, 1) in the first``.
    alignment : function, optional
        By how much the images behind the first are shifted against their maps: ``models.alignment()``, or your own
        function that returns (dx, dy), in pixels of each image, by name. Its sites are ``alignment.parameter``.
    **components : functions, or groups of them
        Each draws with ``pyro.sample`` and returns light: those of :mod:`bayesprof.models`, or your own. The
        keyword is the name, which goes before the names of the component's sites. A function may return a mapping from
        names of images to lights, for those that see it differently, or see it at all (see
        :func:`bayesprof.only_in`). One that draws several parts, which share parameters, may return their lights by
        name, ``{"bulge": ..., "disk": ...}``: "galaxy.bulge" is a light of its own then, in pictures and tables. Names
        of components are grouped by :class:`bayesprof.Group`. Lights are in pixels of the first image but for
        backgrounds, which are in those of each.

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
        self._assemble(recipe_of(image, maps, likelihood, psf, alignment, windows, components))

    @classmethod
    def of(cls, recipe: Recipe) -> Scene:
        """The scene of a recipe, as :attr:`recipe` has it."""
        scene = cls.__new__(cls)
        scene._assemble(recipe)
        return scene

    def _assemble(self, recipe: Recipe) -> None:
        """Bind what was given to its images, and check it by one run."""
        self.recipe = recipe
        self._assembly = assembly = Assembly(recipe)
        self.components, self.views = assembly.components, assembly.views
        self.seen_in, self.windows = assembly.seen_in, assembly.windows
        self.light_names = tuple(assembly.seen_in)
        self.latent, self.noise_sites = assembly.sites.latent, assembly.sites.noise

    @property
    def images(self) -> dict[str, Image]:
        """The images, by name."""
        return {image.name: image for image in self.recipe.images.seen}

    @property
    def image(self) -> Image:
        """The first image, in whose pixels geometry is."""
        return self.recipe.images.first

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
        models = self._assembly.images_of(self._assembly.draw_lights(), psfs, self.draw_offsets())
        for name, view in self.views.items():
            view.observe(models[name])
        return self._alone(models)

    def prior_of(self, site: str) -> Any:
        """The distribution that a latent site is drawn from; that of one draw, where it depends on others."""
        return self._assembly.sites.priors[site]

    def lights(self) -> dict[str, Any]:
        """The light of every component, or of every part of one, its parameters drawn by Pyro, in pixels of the first
        image; where a scene has several images, each by the names of those that see it.
        """
        return {
            name: self._alone({image: on_their_own(light) for image, light in lights.items()})
            for name, lights in self._assembly.draw_lights().items()
        }

    def draw_psfs(self) -> dict[str, PSF | None]:
        """The PSF that the scene has in place of that of each image, its parameters drawn by Pyro."""
        return self._assembly.draw_psfs()

    def draw_offsets(self) -> dict[str, Offset]:
        """By how much images are shifted against their maps, drawn by Pyro."""
        return self._assembly.draw_offsets()

    def lights_in(self, image: str, params: Any = None) -> dict[str, Light]:
        """The light of every component, or of every part of one, that an image sees, in the pixels of that image, at
        `params` as of :meth:`predict`.
        """
        values = self._assembly.sites.needed(params, "lights_in")
        with torch.no_grad(), poutine.block(), poutine.condition(data=values):
            lights, offsets = self._assembly.draw_lights(), self.draw_offsets()
        seen = {name: by_image[image] for name, by_image in lights.items() if image in by_image}
        found = self.views[image].lights(seen, offsets.get(image))
        return {name: on_their_own(light) for name, light in found.items()}

    def doubts(self, params: Any = None) -> str | None:
        """What makes the image at `params`, as of :meth:`predict`, less exact than it is meant to be, and the remedy:
        windows whose detail is too little for a galaxy as flat as there. None where nothing does.
        """
        short: dict[str, tuple[float, float]] = {}
        for image, view in self.views.items():
            if not view.in_full_detail:
                short |= view.short_of_detail(self.lights_in(image, params))
        if not short:
            return None
        found = "; ".join(f"{name} has detail={has:.3g} and needs {needs:.3g}" for name, (has, needs) in short.items())
        return (
            f"windows have too little detail for galaxies this flat, whose images are off by more than 1e-4: {found}; "
            "fit again with that (scene.with_windows)"
        )

    def predict(self, params: Any = None, *, components: Any = None, image: str | None = None) -> Any:
        """Noiseless model image, shape (ny, nx), image units; of several images, a mapping from their names.

        Parameters
        ----------
        params : mapping from site names to values, a fit, or InferenceData, whose medians are taken
            Every parameter that isn't held; None where all are.
        components : name or names of components, groups or parts, optional
            Render these only.
        image : name, optional
            Of this image only.

        Raises
        ------
        ValueError
            For parameters that are missing, or components or an image that the scene doesn't have.
        """
        self.image_named(image, "predict")
        models = self._assembly.predicted(params, components, None if image is None else [image])
        return self._alone(models) if image is None else models[image]

    def deblended(self, components: Any, params: Any, *, image: str | None = None) -> Any:
        """The image that would be seen of some components alone: data minus the model of all others.

        Parameters
        ----------
        components : name or names of components, groups or parts
        params, image : as for :meth:`predict`

        Returns
        -------
        Image
            With the noise, mask, PSF and WCS of the scene's; of several images, a mapping from their names.

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
        self.image_named(image, "deblended")
        names = list(self.images) if image is None else [image]
        whole, own = (self._assembly.predicted(params, some, names) for some in (None, components))
        found = {name: self.images[name].minus(whole[name] - own[name]) for name in names}
        return self._alone(found) if image is None else found[image]

    def initial_values(self) -> dict[str, Tensor]:
        """Values to start a fit from, by site name: those of :meth:`started_from`, and for others what was measured on
        the images. A component of one's own has none of the latter.
        """
        return self._assembly.initial_values()

    def add(self, *, fit: Any = None, windows: Mapping[str, Window] | None = None, **components: Any) -> Scene:
        """This scene with more components.

        Parameters
        ----------
        fit : Fit, mapping or InferenceData, optional
            Values of this scene's parameters, and of others perhaps, from which the next fit starts
            (:meth:`started_from`). The default priors of the new components are measured on what this scene's model
            leaves over of the images.
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
        scene = Scene.of(life_cycle.with_added(self._assembly, components, windows, fit))
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
        return Scene.of(life_cycle.started(self._assembly, fit))

    def freeze(self, names: str | Sequence[str], fit: Any) -> Scene:
        """This scene with parameters held: they are numbers from here on, no sites, and nothing that is fitted.

        The uncertainties of the others are then those at the held values: too small where these were uncertain.

        Parameters
        ----------
        names : of components ("galaxy"), of groups, or of single parameters ("galaxy.n")
            "psf", "likelihood" and "alignment" too; of several images, "psf" is that of all and "psf_<image>" of one.
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
        return Scene.of(life_cycle.frozen(self._assembly, names, fit))

    def free(self, names: str | Sequence[str] | None = None) -> Scene:
        """This scene with parameters free that :meth:`freeze` held, all by default; they start from where they were.

        Raises ValueError for names of which nothing is held.
        """
        return Scene.of(self.recipe.freeing(names))

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
        Images, windows, held and starting values are written as they are, the components of the catalogue by the calls
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
        alignment: Any = None,
    ) -> tuple[Scene, Any]:
        """The scene that :meth:`save` wrote, and its fit or None.

        `components`, `psf`, `likelihood` and `alignment` : functions of your own that it was saved with, components by
        name; of several images, a PSF or likelihood for each, by name, or one for all that need it.

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
            path, components=components, psf=psf, likelihood=likelihood, alignment=alignment
        )
        return loaded

    @property
    def units(self) -> dict[str, str]:
        """Unit of every site whose component states one."""
        return self._assembly.units

    @property
    def dims(self) -> dict[str, list[str]]:
        """Names of the dimensions of sites that are not scalars, for ArviZ."""
        return {site: [name for name, _ in axes] for site, axes in self._assembly.axes.items()}

    @property
    def coords(self) -> dict[str, list[Any]]:
        """Labels along those dimensions."""
        return {name: labels for axes in self._assembly.axes.values() for name, labels in axes}

    def constant_data(self) -> dict[str, Tensor]:
        """What a result records beside the data: sigma, mask and PSF of each image, where it has them; not the PSF of
        the image where the scene draws its own.
        """
        return {name: value for view in self.views.values() for name, value in view.constant_data().items()}

    def __repr__(self) -> str:
        images = ", ".join(map(repr, self.images.values()))
        images = images if len(self.images) == 1 else f"[{images}]"
        psf = "PSF with parameters, " if self.recipe.psfs else ""
        return f"Scene({images}, {psf}components: {', '.join(self.components)})"

    @property
    def drawn(self) -> dict[str, Any]:
        """All that draws parameters, by the name that goes before them, in the order of drawing."""
        return self._assembly.drawn

    def _alone(self, by_image: Mapping[str, Any]) -> Any:
        """What there is for each image; of a scene of one image, for that one."""
        return by_image if len(self.images) > 1 else by_image[self.image.name]
