"""One set of values for the parameters of a scene, from whatever a method returned, and the light that goes with it.

Plots and files show the model at one point. For a fit that is its maximum; for draws it is the median of every
latent site.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor

from bayesprof.light import Background, Light
from bayesprof.scene import Scene


def point_estimate(scene: Scene, params: Any) -> dict[str, Tensor]:
    """Value of every latent site of `scene`, by name.

    Parameters
    ----------
    scene : Scene
    params : Fit, mapping from site names to values, arviz.InferenceData, or None
        Values of deterministic sites are left out: they follow from the latent ones. Draws give the median of each
        site. None is for a scene whose every parameter is held.

    Raises
    ------
    ValueError, TypeError
        For a latent site without a value, or anything that holds no values.
    """
    values = getattr(params, "params", params)
    if hasattr(values, "posterior"):
        values = {name: _median(name, draws.values) for name, draws in values.posterior.data_vars.items()}
    if values is not None and not isinstance(values, Mapping):
        raise TypeError(
            "expected params as a Fit, a mapping from site names to values, or InferenceData, got "
            f"{type(params).__name__}; pass what inference.lm or inference.nuts returned"
        )
    latent = _latent_sites(scene)
    missing = [name for name in latent if name not in (values or {})]
    if missing:
        raise ValueError(
            f"expected a value for every parameter that isn't held, got none for {missing}; give them in params"
        )
    image = scene.image
    return {name: torch.as_tensor((values or {})[name], dtype=image.dtype, device=image.device) for name in latent}


def lights_at(scene: Scene, values: Mapping[str, Tensor], image: str | None = None) -> dict[str, Light]:
    """The light of every component of `scene` at `values` of its latent sites, as its first `image` sees it, or the one
    of that name.
    """
    return scene.lights_in(scene.image.name if image is None else image, values)


def is_sky(light: Light) -> bool:
    """Whether a component's light is background only."""
    return all(isinstance(part, Background) for part in light.parts)


def degrees_of_freedom(scene: Scene, values: Mapping[str, Tensor]) -> int:
    """Number of unmasked pixels, of all images, minus the number of parameters."""
    pixels = sum(image.n_valid for image in scene.images.values())
    return pixels - sum(value.numel() for value in values.values())


def _latent_sites(scene: Scene) -> list[str]:
    with torch.no_grad(), torch.random.fork_rng(devices=[]), pyro.poutine.block():
        trace = poutine.trace(lambda: (scene.draw_psfs(), scene.lights(), scene.draw_offsets())).get_trace()
        return list(trace.stochastic_nodes)


def is_angle(name: str) -> bool:
    """Whether the site `name` is an angle with the period pi, by its name: ``theta``, or ``bulge_theta`` of a part."""
    parameter = name.rsplit(".", 1)[-1]
    return parameter == "theta" or parameter.endswith("_theta")


def near_circular_mean(theta: np.ndarray) -> np.ndarray:
    """Angles of period pi, each moved by half turns to within a quarter turn of their circular mean."""
    mean = 0.5 * np.angle(np.exp(2j * theta).mean())
    return mean + np.remainder(theta - mean + 0.5 * math.pi, math.pi) - 0.5 * math.pi


def _median(name: str, draws: np.ndarray) -> np.ndarray:
    """Median over chains and draws, the first two axes."""
    return np.median(near_circular_mean(draws) if is_angle(name) else draws, axis=(0, 1))
