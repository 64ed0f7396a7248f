"""Fisher information of the distributions of observed sites, and what else is read off an observed site."""

from __future__ import annotations

from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor


def unwrapped(distribution: Any) -> tuple[Any, Tensor | bool]:
    """The distribution inside Independent, Masked and Expanded wrappers, and the mask (True: counts) that they
    apply.
    """
    mask: Tensor | bool = True
    while True:
        if isinstance(distribution, dist.MaskedDistribution):
            mask = distribution._mask if mask is True else mask & distribution._mask
            distribution = distribution.base_dist
        elif isinstance(distribution, dist.Independent | dist.ExpandedDistribution):
            distribution = distribution.base_dist
        else:
            return distribution, mask


class FisherTerm(NamedTuple):
    """A parameter of an observed distribution, its Fisher information, its score, the derivative of the log
    probability, and its bends, minus the second derivatives in the parameters of the terms before it and in itself;
    elementwise, of the shape of the observed value.
    """

    parameter: Tensor
    information: Tensor
    score: Tensor
    bends: tuple[Tensor, ...]


def fisher_terms(node: Any) -> list[FisherTerm] | None:
    """The terms of an observed site of a Pyro trace; None where its information isn't known.

    Normal: 1/sigma^2 in loc, 2/sigma^2 in scale. Poisson: 1/rate. Student-t (Lange, Little & Taylor 1989, JASA 84,
    881): 2 nu/((nu + 3) sigma^2) in scale, and in loc, in place of its expectation (nu + 1)/((nu + 3) sigma^2), the
    weight of iteratively reweighted least squares, (nu + 1)/(nu sigma^2 + residual^2): far from the maximum, where
    the score of most data has saturated, the expectation makes ten times as many steps. A distribution of another kind
    brings its own with a method ``fisher_terms(value)``: a list of tuples like :class:`FisherTerm`, as
    :class:`bayesprof.contamination.ContaminatedNormal` has. The scale and mask of the site and of its wrappers are part
    of the weights.
    """
    base, mask = unwrapped(node["fn"])
    value = node["value"]
    if isinstance(base, dist.Normal):
        scale = base.scale.detach()
        precision, residual = scale**-2, (value - base.loc.detach()) / scale
        terms = [
            (base.loc, precision, residual / scale, [precision]),
            (
                base.scale,
                2 * precision,
                (residual**2 - 1) / scale,
                [2 * residual * precision, (3 * residual**2 - 1) * precision],
            ),
        ]
    elif isinstance(base, dist.Poisson):
        rate = base.rate.detach()
        terms = [(base.rate, 1 / rate, value / rate - 1, [value / rate**2])]
    elif isinstance(base, dist.StudentT):
        df, scale = base.df.detach(), base.scale.detach()
        precision, residual = scale**-2, (value - base.loc.detach()) / scale
        weight = (df + 1) / (df + residual**2)
        bend = weight * (df - residual**2) / (df + residual**2)  # derivative of weight * residual in the residual
        terms = [
            (base.loc, weight * precision, weight * residual / scale, [bend * precision]),
            (
                base.scale,
                2 * df / (df + 3) * precision,
                (weight * residual**2 - 1) / scale,
                [residual * (bend + weight) * precision, (residual**2 * (bend + 2 * weight) - 1) * precision],
            ),
        ]
    elif hasattr(base, "fisher_terms"):
        terms = base.fisher_terms(value)
    else:
        return None
    shape = value.shape
    counts = _weight(node, mask, shape, terms[0][0])

    def counted_in(values: Tensor) -> Tensor:
        return (values * counts).expand(shape)

    return [
        FisherTerm(parameter.expand(shape), counted_in(information), counted_in(score), tuple(map(counted_in, bends)))
        for parameter, information, score, bends in terms
    ]


def same_family(here: Any, there: Any) -> bool:
    """Whether an observed site at two points of the parameter space differs in nothing but what `fisher_terms` covers.

    A Student-t whose degrees of freedom are sampled isn't covered; a distribution with terms of its own says by their
    names, in ``held``, which of its parameters aren't.
    """
    first, second = unwrapped(here["fn"])[0], unwrapped(there["fn"])[0]
    held = ("df",) if isinstance(first, dist.StudentT) else getattr(first, "held", ())
    return all(bool((getattr(first, name) == getattr(second, name)).all()) for name in held)


def parameters_of(node: Any) -> list[Tensor] | None:
    """What an observed site's values are drawn from, each of their shape, in the order in which a distribution of its
    :func:`family_of` takes them; None where that isn't one of few.
    """
    family = family_of(node)
    if family is None:
        return None
    base, _ = unwrapped(node["fn"])
    return [getattr(base, name).expand(node["value"].shape) for name in _DRAWN_FROM[family]]


def family_of(node: Any) -> Any:
    """The kind of distribution of an observed site, where its parameters say all there is; None for others."""
    kind = type(unwrapped(node["fn"])[0])
    return kind if kind in _DRAWN_FROM else None


_DRAWN_FROM = {dist.Normal: ("loc", "scale"), dist.Poisson: ("rate",), dist.StudentT: ("df", "loc", "scale")}


def pointwise_log_prob(node: Any) -> Tensor:
    """Log probability of every element of an observed site, without its scale; 0 where it is masked. Where elements
    aren't independent it is that given all others, which a distribution gives with a method ``leave_one_out(value)``.
    """
    base, mask = unwrapped(node["fn"])
    value = node["value"]
    log_prob = base.leave_one_out(value) if hasattr(base, "leave_one_out") else base.log_prob(value)
    for masks in (mask, node["mask"]):
        if isinstance(masks, Tensor):
            log_prob = torch.where(masks, log_prob, torch.zeros_like(log_prob))
    return log_prob


def counted(node: Any) -> Tensor:
    """True where an element of an observed site counts, shape of its pointwise log probability."""
    base, mask = unwrapped(node["fn"])
    shape = torch.broadcast_shapes(base.batch_shape, node["value"].shape[: node["value"].ndim - len(base.event_shape)])
    result = torch.ones(shape, dtype=torch.bool, device=node["value"].device)
    for masks in (mask, node["mask"]):
        if isinstance(masks, Tensor):
            result = result & masks
        elif masks is False:
            result = torch.zeros_like(result)
    return result


def degrees_of_freedom(node: Any) -> int:
    """Number of observed values that count."""
    base, _ = unwrapped(node["fn"])
    return int(counted(node).sum()) * base.event_shape.numel()


def chi_square(node: Any) -> Tensor | None:
    """Sum of ((value - loc) / scale)^2 over what counts: Normal and Student-t; (value - rate)^2 / rate: Poisson; what
    a method ``squares(value)`` of the distribution gives; None for others.
    """
    base, _ = unwrapped(node["fn"])
    if isinstance(base, dist.Normal | dist.StudentT):
        squares = ((node["value"] - base.loc) / base.scale) ** 2
    elif isinstance(base, dist.Poisson):
        squares = (node["value"] - base.rate) ** 2 / base.rate
    elif hasattr(base, "squares"):
        squares = base.squares(node["value"])
    else:
        return None
    return torch.where(counted(node), squares, torch.zeros_like(squares)).sum()


def _weight(node: Any, mask: Tensor | bool, shape: torch.Size, like: Tensor) -> Tensor:
    weight = torch.ones(shape, dtype=like.dtype, device=like.device)
    for masks in (mask, node["mask"]):
        if isinstance(masks, Tensor):
            weight = weight * masks.to(like.dtype)
        elif masks is False:
            weight = torch.zeros_like(weight)
    return weight * node["scale"]
