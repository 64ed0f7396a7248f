"""The sites of a Pyro model, as its traces show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor
from torch.distributions import biject_to

from bayesprof.inference.information import unwrapped


class Site(NamedTuple):
    """A latent site: its name, the shape and support of its values, their transform from the unconstrained space,
    and where it stands in z.
    """

    name: str
    shape: torch.Size
    support: Any
    transform: Any
    unconstrained_shape: torch.Size
    place: slice


def latent_sites(traces: list[Any]) -> tuple[Site, ...]:
    first, second = (trace.nodes for trace in traces)
    sites, start = [], 0
    for name, node in first.items():
        if node["type"] != "sample" or node["is_observed"] or isinstance(node["fn"], _Subsample):
            continue
        support = node["fn"].support
        if support.is_discrete:
            raise ValueError(
                f"{name}: expected continuous latent sites, got the discrete {type(node['fn']).__name__}; sum it out "
                "of the model, "
                "or make it continuous"
            )
        transform = biject_to(support)
        value = node["value"]
        unconstrained = transform.inv(value)
        there = biject_to(second[name]["fn"].support)(unconstrained) if name in second else None
        if there is None or there.shape != value.shape or not torch.allclose(there, value, rtol=1e-4, atol=1e-6):
            raise ValueError(
                f"{name}: expected a site that is always there, with a fixed support; it changes with the values of "
                "other sites. "
                "Draw it on a fixed support and scale it: u = pyro.sample('u', Uniform(0, 1)), then pyro.deterministic"
            )
        length = unconstrained.numel()
        sites.append(Site(name, value.shape, support, transform, unconstrained.shape, slice(start, start + length)))
        start += length
    if not sites:
        raise ValueError(
            "expected a model with at least one latent site, got none: every parameter is held or observed"
        )
    return tuple(sites)


def own_data(observed: tuple[str, ...], traces: list[Any]) -> dict[str, Tensor]:
    """Values of the observed sites that are the same in both traces."""
    first, second = (trace.nodes for trace in traces)
    return {
        name: first[name]["value"].detach()
        for name in observed
        if isinstance(first[name]["value"], Tensor)
        and name in second
        and torch.equal(first[name]["value"], second[name]["value"])
    }


def is_deterministic(node: Any) -> bool:
    """Whether a site was computed: by ``pyro.deterministic``, or put in the place of another by a reparametrisation."""
    if node["type"] != "sample" or not node["is_observed"]:
        return False
    base, mask = unwrapped(node["fn"])
    return bool(node["infer"].get("_deterministic")) or (isinstance(base, dist.Delta) and mask is False)


class Observing(Messenger):
    """Observes `data`, by site, in place of what the model says."""

    def __init__(self, data: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.data = data

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.data:
            msg["value"] = self.data[msg["name"]]
