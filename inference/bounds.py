"""Bounds on parameters, for optimisers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayesprof.inference.posterior import Posterior
from bayesprof.inference.sites import Site

_AT_BOUND = 1e-3  # nearer than this, in standard deviations, an entry that is pushed outwards is held by its bound


class Box(NamedTuple):
    """Bounds in the unconstrained space, infinite where there are none, and whether there are any."""

    lower: Tensor
    upper: Tensor

    @property
    def any(self) -> bool:
        return bool(self.lower.isfinite().any() | self.upper.isfinite().any())


def free_entries(box: Box, z: Tensor, gradient: Tensor, curvature: Tensor) -> Tensor | None:
    """Which entries aren't held by a bound that the gradient pushes against; None without bounds."""
    if not box.any:
        return None
    near = _AT_BOUND / curvature.diagonal().clamp(min=1e-30).sqrt()
    return ~(((z - box.lower < near) & (gradient < 0)) | ((box.upper - z < near) & (gradient > 0)))


def box_of(posterior: Posterior, bounds: Mapping[str, tuple[Any, Any]]) -> Box:
    """Bounds on values as bounds in the unconstrained space, where the transforms of sites are monotone."""
    lower = torch.full((posterior.size,), -torch.inf, dtype=posterior.dtype, device=posterior.device)
    upper = torch.full_like(lower, torch.inf)
    sites = {site.name: site for site in posterior.sites}
    for name, pair in bounds.items():
        if name not in sites:
            raise ValueError(f"bounds: the model has no latent site {name!r}; it has {list(sites)}")
        site = sites[name]
        transform = site.transform
        while isinstance(transform, torch.distributions.transforms.IndependentTransform):
            transform = transform.base_transform
        if transform.codomain.event_dim > 0:
            raise ValueError(
                f"bounds: expected a site whose entries are free of each other, got {name!r}; its support ties them "
                "together. Bound it with a prior instead"
            )
        low, high = _edges(name, pair, site, lower)
        # a bound at the edge of the support or beyond is no bound
        support = getattr(site.support, "base_constraint", site.support)
        bottom, top = getattr(support, "lower_bound", -torch.inf), getattr(support, "upper_bound", torch.inf)
        if bool((high <= bottom).any() or (low >= top).any()):
            raise ValueError(f"bounds: expected values inside the support of {name!r}, {support}, got {pair!r}")
        middle = torch.zeros_like(low)
        rising = transform(middle + 1) > transform(middle)
        at_low = torch.where(low > bottom, transform.inv(low), torch.where(rising, -torch.inf, torch.inf))
        at_high = torch.where(high < top, transform.inv(high), torch.where(rising, torch.inf, -torch.inf))
        lower[site.place] = torch.minimum(at_low, at_high).reshape(-1)
        upper[site.place] = torch.maximum(at_low, at_high).reshape(-1)
    return Box(lower, upper)


def _edges(name: str, pair: Any, site: Site, like: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of a site's entries."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(f"bounds: expected {name!r}: (lower, upper), with None for an open side, got {pair!r}")
    low, high = (
        torch.as_tensor(open_side if edge is None else edge, dtype=like.dtype, device=like.device)
        for edge, open_side in zip(pair, (-math.inf, math.inf), strict=True)
    )
    for edge in (low, high):
        if edge.ndim and edge.shape != site.shape:
            raise ValueError(
                f"bounds: expected numbers or shape {tuple(site.shape)} for {name!r}, got {tuple(edge.shape)}"
            )
    if not bool((low < high).all()):
        raise ValueError(f"bounds: expected lower < upper for {name!r}, got {pair!r}")
    return low.expand(site.shape), high.expand(site.shape)


def moved_inside(posterior: Posterior, box: Box, z: Tensor, *, given: set[str]) -> Tensor:
    """`z` within the box: starting values that were `given` must be, others are moved there."""
    inside = torch.minimum(torch.maximum(z, box.lower), box.upper)
    for site in posterior.sites:
        if site.name in given and not torch.equal(inside[site.place], z[site.place]):
            value = posterior.constrain(z)[site.name].tolist()
            raise ValueError(f"init: expected {site.name!r} within its bounds, got {value}")
    return inside
