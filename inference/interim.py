"""Densities of the priors that single galaxies were sampled under, read off their models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from bayesprof.inference.capture import unchecked
from bayesprof.inference.randomness import seeded

_SAME = 1e-6  # of log densities: priors that don't depend on other parameters give the same


def log_interim_density(models: list[Any], own: Mapping[str, Tensor], draws: Mapping[str, Tensor]) -> Tensor:
    """Log density, (draws, galaxies), of the priors that a relation of the sites `own` replaces."""
    columns = []
    priors: dict[int, Any] = {}
    for number, model in enumerate(models):
        here = {name: values[:, number] for name, values in draws.items()}
        if id(model) not in priors:
            priors[id(model)] = _priors(model, list(own), number)
        known = priors[id(model)]
        if known is not None:
            terms = [known[name].log_prob(here[name]) for name in own]
        else:
            terms = [_given_others(model, list(own), here)]
        columns.append(torch.stack([term.reshape(len(term), -1).sum(1) for term in terms]).sum(0))
    found = torch.stack(columns, dim=1)
    if not bool(found.isfinite().all()):
        number = int((~found.isfinite()).any(0).nonzero()[0])
        raise ValueError(
            f"reweight: expected posteriors drawn under the interim models' priors, got draws of galaxy {number} where "
            "its prior has no density; give the models that the posteriors are of"
        )
    return found


def _priors(model: Any, own: list[str], number: int) -> dict[str, Any] | None:
    """The distributions of the sites `own` in a model; None where they depend on what else it draws."""
    traces = []
    for seed in (0, 1):
        with torch.no_grad(), seeded(seed), poutine.block():
            traces.append(poutine.trace(model).get_trace().nodes)
    first, second = traces
    missing = [name for name in own if name not in first or first[name]["is_observed"]]
    if missing:
        drawn = [name for name, node in first.items() if node["type"] == "sample" and not node["is_observed"]]
        raise ValueError(
            f"reweight: expected the interim model of galaxy {number} to draw {missing}, which the relation draws, got "
            f"one that draws {drawn}; give the model that its posterior is of"
        )
    values = {name: first[name]["value"] for name in own}
    same = all(
        torch.allclose(first[name]["fn"].log_prob(value), second[name]["fn"].log_prob(value), rtol=_SAME, atol=_SAME)
        for name, value in values.items()
    )
    return {name: first[name]["fn"] for name in own} if same else None


def _given_others(model: Any, own: list[str], draws: Mapping[str, Tensor]) -> Tensor:
    """Log density of the sites `own` of a model, given all other draws of the same row, (draws,)."""

    def log_density(values: Mapping[str, Tensor]) -> Tensor:
        with poutine.block():
            trace = poutine.trace(poutine.condition(model, data=dict(values))).get_trace()
        nodes: dict[str, Any] = trace.nodes
        return torch.stack([nodes[name]["fn"].log_prob(values[name]).sum() for name in own]).sum()

    with torch.no_grad(), unchecked(), torch.random.fork_rng(devices=[]):
        found: Tensor = torch.func.vmap(log_density, randomness="same")(dict(draws))
    return found
