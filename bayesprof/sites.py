"""The sites of a scene: what it draws, and which values they can have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from bayesprof.image import Image
from bayesprof.values import site_values


class Sites(NamedTuple):
    """What one run of a scene on `image` showed.

    `priors`: the distribution of each latent site, in the order of drawing; `names`: of all sites but the image, those
    that are computed included; `noise`: of those of the likelihood.
    """

    image: Image
    priors: Mapping[str, Any]
    names: tuple[str, ...]
    noise: frozenset[str]

    @property
    def latent(self) -> tuple[str, ...]:
        return tuple(self.priors)

    def needed(self, params: Any, owner: str) -> dict[str, Tensor]:
        """Value of every latent site but those of the likelihood, from what a user gave `owner` as `params`.

        Raises
        ------
        ValueError, TypeError
            For values that are missing, and for names that aren't sites.
        """
        given = site_values(params)
        strange = [name for name in given if name not in self.names]
        if strange and not hasattr(params, "posterior"):
            raise ValueError(f"{owner}: the scene has no parameter {strange}; it has {list(self.names)}")
        wanted = [site for site in self.priors if site not in self.noise]
        missing = [site for site in wanted if site not in given]
        if missing:
            raise ValueError(
                f"{owner}: expected a value for every parameter that isn't held, got none for {missing}; "
                "give params={name: value}, for example fit.params"
            )
        return {site: self._tensor(given[site]) for site in wanted}

    def checked(self, given: Mapping[str, Any], owner: str) -> dict[str, Tensor]:
        """Values of some latent sites, as tensors.

        Raises
        ------
        ValueError
            For values of another shape, and for those outside the support of the site's prior.
        """
        values = {}
        for site, value in given.items():
            prior, values[site] = self.priors[site], self._tensor(value)
            shape = prior.shape()
            if values[site].shape != shape:
                raise ValueError(
                    f"{owner}: expected {site!r} of shape {tuple(shape)}, got {tuple(values[site].shape)}; give a fit "
                    "of this scene"
                )
            if not bool(prior.support.check(values[site]).all()):
                raise ValueError(
                    f"{owner}: expected {site!r} inside the support of its prior, got {values[site].tolist()}; correct "
                    "it, or give the component another prior"
                )
        return values

    def _tensor(self, value: Any) -> Tensor:
        return torch.as_tensor(value, dtype=self.image.dtype, device=self.image.device)


def sites_of(image: Image, components: Any, likelihood: Any) -> Sites:
    """The sites in the traces of what a scene draws for its components, and for its likelihood."""
    nodes, noise = (
        {
            name: node
            for name, node in trace.nodes.items()
            if node["type"] == "sample" and not isinstance(node["fn"], _Subsample)  # which is a plate's
        }
        for trace in (components, likelihood)
    )
    every = {**nodes, **noise}
    priors = {name: node["fn"] for name, node in every.items() if not node["is_observed"]}
    return Sites(image, priors, tuple(every), frozenset(noise))
