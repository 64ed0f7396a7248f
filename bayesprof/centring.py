"""Partly centred parameters of a population: a change of variables that keeps samplers out of funnels.

What a galaxy's parameter is, given the population, is ``theta = mu + sigma eta``. Where the data say much of theta,
theta itself is the variable to sample in (centred), and where they say little, eta is (not centred): otherwise the
width of what is sampled depends on sigma, which is the neck of a funnel, and the maximum lies at sigma = 0 or at
infinity. In between,

    theta = mu + sigma^(1 - c) (phi - c mu),    phi ~ Normal(c mu, sigma^c)

(Papaspiliopoulos, Roberts & Skold 2007, Stat. Sci. 22, 59; Gorinova, Moore & Hoffman 2020, ICML, arXiv:1906.03028).
With an error s of the galaxy alone, ``c = sigma^2 / (sigma^2 + s^2)`` gives, for Gaussian theta, the joint density the
slope in log sigma that the marginal one has: its maximum is that of the marginal posterior.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam, TransformReparam
from torch import Tensor

from bayesprof.values import site_values

_BASE = "_base"  # what Pyro calls the variable that a TransformedDistribution transforms


class PartlyCentred:
    """A relation whose parameters are drawn partly centred, by Pyro's own reparametrisations.

    Parameters
    ----------
    relation : function
        As of :class:`bayesprof.Population`.
    centring : mapping from sites that it draws in its plate to arrays of shape (galaxies,), or numbers
        In [0, 1]: 1 is centred, as the relation is written, 0 not at all. Their distributions have to be Normal or
        LogNormal, or transformed from a distribution with loc and scale.

    Raises
    ------
    ValueError
        For numbers outside [0, 1], and, when it is run, for sites that the relation doesn't draw.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> def sizes(galaxies):
    ...     scatter = pyro.sample("scatter", dist.HalfNormal(0.5))
    ...     with galaxies:
    ...         pyro.sample("galaxy.r_eff", dist.LogNormal(1.0, scatter))
    >>> relation = PartlyCentred(sizes, {"galaxy.r_eff": torch.tensor([0.9, 0.2])})
    >>> trace = poutine.trace(relation).get_trace(pyro.plate("galaxy", 2))
    >>> [name for name, node in trace.nodes.items() if node["type"] == "sample" and not node["is_observed"]]
    ['scatter', 'galaxy.r_eff_base_decentered']
    """

    def __init__(self, relation: Callable[[Any], Any], centring: Mapping[str, Any]) -> None:
        self.relation = relation
        self.centring = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in centring.items()}
        for name, value in self.centring.items():
            if not bool(((value >= 0) & (value <= 1)).all()):
                raise ValueError(
                    f"PartlyCentred: expected the centring of {name!r} in [0, 1], got {value.tolist()}; give "
                    "scatter**2 / (scatter**2 + error**2)"
                )

    def __call__(self, galaxies: Any) -> Any:
        found: set[str] = set()
        result = poutine.reparam(self.relation, config=lambda site: self._reparametrised(site, found))(galaxies)
        self._check(found)
        return result

    def values_of(self, values: Any, galaxies: Any) -> dict[str, Tensor]:
        """Values of the sites that are drawn, from those of the `relation` as it is written."""
        found: set[str] = set()
        given = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in site_values(values).items()}
        config = poutine.reparam(config=lambda site: self._reparametrised(site, found))
        with torch.no_grad(), poutine.block(), poutine.trace() as tracer, config, poutine.condition(data=given):
            self.relation(galaxies)
        self._check(found)
        nodes: dict[str, Any] = tracer.trace.nodes
        return {name: node["value"] for name, node in nodes.items() if node["type"] == "sample"}

    def _reparametrised(self, site: Any, found: set[str]) -> Any:
        name = site["name"]
        base = name.removesuffix(_BASE)
        if base not in self.centring:
            return None
        found.add(base)
        fn = site["fn"]
        while isinstance(fn, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
            fn = fn.base_dist
        if isinstance(fn, torch.distributions.TransformedDistribution):
            return TransformReparam()
        if not hasattr(fn, "loc") or not hasattr(fn, "scale"):
            raise ValueError(
                f"PartlyCentred: expected {base!r} to be drawn from a distribution with loc and scale, as Normal and "
                f"LogNormal are, got {type(fn).__name__}; leave it out"
            )
        # expanded by the number of axes that an event of the site has
        value = self.centring[base].to(fn.loc)
        return LocScaleReparam(value.reshape(value.shape + (1,) * len(site["fn"].event_shape)))

    def _check(self, found: set[str]) -> None:
        missing = [name for name in self.centring if name not in found]
        if missing:
            raise ValueError(
                f"PartlyCentred: expected sites that the relation draws, got {missing}, which it doesn't; correct the "
                "names"
            )
