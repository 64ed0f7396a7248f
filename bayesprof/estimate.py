"""One set of values for the parameters of a scene, from whatever a method returned, and the light that goes with it.

Plots and files show the model at one point. For a fit that is its maximum; for draws it is the median of every
latent site.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from bayesprof.light import Background, Light
from bayesprof.scene import Scene
from bayesprof.values import site_values

_PRIOR_DRAWS = 51


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
    values = site_values(params)
    latent = [site for site in scene.latent if site not in scene.noise_sites]
    missing = [name for name in latent if name not in values]
    if missing:
        raise ValueError(
            f"expected a value for every parameter that isn't held, got none for {missing}; give them in params"
        )
    image = scene.image
    return {name: torch.as_tensor(values[name], dtype=image.dtype, device=image.device) for name in latent}


def starting_values(scene: Scene) -> dict[str, Tensor]:
    """Where a fit of `scene` starts: its ``initial_values()``, and the median of the prior of what has none."""
    values = scene.initial_values()
    missing = [site for site in scene.latent if site not in values]
    if not missing:
        return values
    with torch.no_grad(), poutine.block(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        traces = [poutine.trace(lambda: _draw(scene)).get_trace() for _ in range(_PRIOR_DRAWS)]
    drawn: dict[str, list[Any]] = {
        site: [trace.nodes[site]["value"] for trace in traces] for site in missing if site in traces[0].nodes
    }
    return {**values, **{site: torch.stack(some).median(dim=0).values for site, some in drawn.items()}}


def _draw(scene: Scene) -> None:
    """Draw all that model images depend on."""
    scene.draw_psfs()
    scene.lights()
    scene.draw_offsets()


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
