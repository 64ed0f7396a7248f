"""Several priors of one family as one."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch


def together(priors: Sequence[Any]) -> Any:
    """Priors of one family, as one over all of them, with a first axis for them.

    Raises TypeError where they differ in more than their parameters.
    """
    first = priors[0]
    if all(prior is first for prior in priors):
        joint = first.expand((len(priors), *first.batch_shape))
    else:
        joint = stacked(list(priors))
    return joint.to_event(1)


def stacked(priors: list[Any]) -> Any:
    """Priors of one family as one with a batch of them; raises as :func:`together`."""
    first = priors[0]
    if any(type(prior) is not type(first) for prior in priors):
        raise TypeError(
            f"per_image: expected priors of one family, got {sorted({type(prior).__name__ for prior in priors})}; use "
            "one family, or write the component as a function that draws each of them"
        )
    if isinstance(first, dist.Independent):
        inner = stacked([prior.base_dist for prior in priors])
        return inner.to_event(first.reinterpreted_batch_ndims)
    if type(first) in (dist.TransformedDistribution, torch.distributions.TransformedDistribution):
        return dist.TransformedDistribution(stacked([prior.base_dist for prior in priors]), first.transforms)
    takes = inspect.signature(type(first).__init__).parameters.values()
    # an argument with a default may be one of several ways to say the same
    names = [one.name for one in takes if one.name != "self" and (one.default is one.empty or one.name in vars(first))]
    if "scale_tril" in names:
        names = ["loc", "scale_tril"]
    names = [name for name in names if hasattr(first, name)]
    try:
        return type(first)(**{name: torch.stack([getattr(prior, name) for prior in priors]) for name in names})
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"per_image: {type(first).__name__} priors can't be put together ({error}); give one prior over all images"
        ) from error
