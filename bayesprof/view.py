"""One image of a scene: how light is seen in it, and how its pixels scatter about that."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from bayesprof.group import within
from bayesprof.image import Image
from bayesprof.light import Light
from bayesprof.likelihood import Likelihood, Observation, WithParameters, likelihood_for, observed_pixels
from bayesprof.mapped import Offset, seen_through
from bayesprof.naming import Prefix
from bayesprof.pixel_map import PixelMap
from bayesprof.psf import PSF, as_psf, check_psf
from bayesprof.rendering import renderer_for
from bayesprof.window import Window
from bayesprof.windows import WindowedRenderer


class View:
    """An `image` as a scene sees it.

    Parameters
    ----------
    image : Image
    to_image : PixelMap or None
        From the pixels of the scene's first image to those of this one; None where they are the same.
    likelihood, psf :
        As those of :class:`bayesprof.Scene`, of this image.
    windows : mapping from names of components to Window or None
        In pixels of this image; None for one that lies outside, whose component isn't seen.
    everywhere : bool
        Whether there are components without a window.
    prefixes : tuple of str
        What goes before the names of the sites of its PSF and of its likelihood.
    """

    def __init__(
        self,
        image: Image,
        to_image: PixelMap | None,
        *,
        likelihood: Any,
        psf: Callable[[], Light] | None,
        windows: Mapping[str, Window | None],
        everywhere: bool,
        prefixes: tuple[str, str] = ("psf", "likelihood"),
    ) -> None:
        self.image, self.to_image = image, to_image
        self.likelihood: Likelihood = likelihood_for(likelihood, image)
        self.windows = dict(windows)
        self.psf = psf
        self.psf_prefix, self.likelihood_prefix = prefixes
        drawn = self._checked_psf()
        self._render = renderer_for(image, drawn) if everywhere else None
        inside = {name: window for name, window in windows.items() if window is not None}
        self._render_windows = WindowedRenderer(image, inside, drawn)

    @property
    def in_full_detail(self) -> bool:
        """Whether no window has less than full detail."""
        return self._render_windows.full

    def short_of_detail(self, lights: Mapping[str, Light]) -> dict[str, tuple[float, float]]:
        """What :meth:`WindowedRenderer.short_of_detail` finds of `lights` in the pixels of this image."""
        return self._render_windows.short_of_detail(lights)

    def draw_psf(self) -> PSF | None:
        """The PSF in place of the image's, its parameters drawn by Pyro."""
        if self.psf is None:
            return None
        with Prefix(self.psf_prefix):
            return as_psf(self.psf())

    def lights(self, lights: Mapping[str, Light], offset: Offset | None = None) -> dict[str, Light]:
        """Lights, by component, in the pixels of this image."""
        return {name: seen_through(light, self.to_image, offset) for name, light in lights.items()}

    def image_of(self, lights: Mapping[str, Light], psf: PSF | None, offset: Offset | None = None) -> Tensor:
        """Noiseless image of `lights`, by component, which are in the pixels of the first image; shape (ny, nx)."""
        seen = self.lights(lights, offset)
        image = self._render_windows(seen, psf)
        everywhere = [light for name, light in seen.items() if name not in self.windows]
        if self._render is not None and everywhere:
            image = image + self._render(_joined(everywhere), psf)
        if isinstance(image, Tensor):
            return image
        return torch.zeros(self.image.shape, dtype=self.image.dtype, device=self.image.device)

    def observe(self, model_image: Tensor) -> None:
        """Observe the image about its model, the parameters of the likelihood drawn by Pyro."""
        observation = self.observation(model_image)
        pixels = observation.distribution.mask(self.image.valid).to_event(2)
        pyro.sample(self.image.name, pixels, obs=observation.observed)

    def observation(self, model_image: Tensor) -> Observation:
        """The pixels about `model_image`, the parameters of the likelihood drawn by Pyro."""
        with Prefix(self.likelihood_prefix):
            return observed_pixels(self.likelihood, model_image, self.image)

    def drawn_noise(self, sites: Iterable[str]) -> dict[str, Any]:
        """The function that draws the parameters of the likelihood, where it has any among the `sites` of likelihoods,
        by what goes before them.
        """
        if isinstance(self.likelihood, WithParameters):
            return {self.likelihood_prefix: self.likelihood.parameters}
        if any(within(site, self.likelihood_prefix) for site in sites):
            own = functools.partial(self.likelihood, self.image.data, self.image)
            return {self.likelihood_prefix: functools.update_wrapper(own, self.likelihood)}
        return {}

    def constant_data(self) -> dict[str, Tensor]:
        """Sigma, mask and PSF, where the image has them; not its PSF where the scene draws one in its place."""
        psf = self.image.psf if self.psf is None else None
        constants = {"sigma": self.image.sigma, "mask": self.image.mask, "psf": psf}
        return {f"{self.image.name}_{what}": value for what, value in constants.items() if value is not None}

    def _checked_psf(self) -> PSF | None:
        """The PSF at one draw of its parameters, once it has been found to be one."""
        if self.psf is None:
            return None
        with torch.no_grad(), pyro.poutine.block(), torch.random.fork_rng(devices=[]):
            with Prefix(self.psf_prefix):
                light = self.psf()
            if not isinstance(light, Light):
                raise TypeError(
                    f"Scene: psf returned {type(light).__name__}, expected a PSF or light made of profiles; return "
                    "models.MoffatPSF(...) or models.Moffat(0.0, 0.0, 1.0, ...)"
                )
            psf = as_psf(light)
            check_psf(psf)
            return psf


def _joined(lights: Any) -> Light:
    return Light(tuple(part for light in lights for part in light.parts))
