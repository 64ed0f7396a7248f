"""A population from posteriors of single galaxies, by importance.

Draws of a galaxy alone, under an interim prior pi, say of a population with hyper-parameters h (Hogg, Myers & Bovy
2010, ApJ 725, 2166)

    p(data | h)  ~  product over galaxies of  mean over draws of  p(theta | h) / pi(theta)

up to a constant: no pixel is looked at again. As a Pyro model that is a prior of h and a factor, and any sampler takes
it. What it can't know are parameters that no draw has: where the population puts a galaxy outside of its draws, few of
them carry all the weight. The mean is then off, which two numbers tell: k-hat of each galaxy's weights, and the error
of the log likelihood, from which it follows how far the hyper-parameters' posterior may have moved (compare Talbot &
Golomb 2023, MNRAS 526, 3495).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import arviz as az
import numpy as np
import pyro
import torch
import xarray as xr
from pyro import poutine
from torch import Tensor

from bayesprof.inference.capture import capture, unchecked
from bayesprof.inference.interim import log_interim_density
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.randomness import seeded
from bayesprof.inference.sample import sample
from bayesprof.inference.sites import is_deterministic
from bayesprof.inference.verdict import K_HAT, k_hat_limit
from bayesprof.population import PLATE, in_plate

LARGEST_ERROR = 0.3
"""Error of the log likelihood between two draws of hyper-parameters, above which the verdict fails. It moves their
posterior by about as many of its standard deviations."""
_RELIED_ON = 100 * math.ceil(10 ** (1 / (1 - K_HAT)) / 100)  # draws, from which on the limit of k-hat is its largest
_FACTOR = "galaxies"
_EQUAL = 1e-6  # log weights within this range of each other differ by rounding


def reweight(
    relation: Callable[[Any], Any],
    posteriors: Sequence[az.InferenceData | Mapping[str, Any]],
    interim: Callable[[], Any] | Sequence[Callable[[], Any]],
    *,
    draws: int = 1000,
    most: int = 1000,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> az.InferenceData:
    """Hyper-parameters of a population, and its galaxies' parameters, from posteriors of single galaxies.

    Parameters
    ----------
    relation : function
        The population, as of :class:`bayesprof.Population`: a Pyro model that takes a plate over galaxies, draws
        hyper-parameters outside of it and parameters inside, by the names that they have in the posteriors.
    posteriors : sequence of InferenceData, or of mappings from sites to arrays of draws
        One for each galaxy; arrays have a first axis for draws. Weighted draws have to be resampled.
    interim : model, or a sequence of models
        Of which each posterior is, a :class:`bayesprof.Scene` for one; or the one model of all, where these differ in
        their data only. The densities of the priors that the relation replaces are read off it.
    draws : int
        Draws of the hyper-parameters in all.
    most : int
        Draws of a galaxy that are used, evenly thinned where there are more.
    seed, progress, **options :
        Of :func:`sample`, which draws the hyper-parameters.

    Returns
    -------
    arviz.InferenceData
        As of :func:`sample`. In ``posterior`` hyper-parameters, and parameters of galaxies along a dimension
        ``galaxy``, reweighted: each draw has taken one of the galaxy's own, by its weights. In ``sample_stats``, by
        galaxy: ``galaxy_ess``, the median effective number of draws under a draw of hyper-parameters, and
        ``galaxy_k_hat``, of the weights averaged over those. In attrs ``log_likelihood_error`` and
        ``reweighted_draws``, the number of draws used. The verdict fails where these don't hold: that error above 0.3,
        or k-hat above its limit.

    Raises
    ------
    TypeError, ValueError
        For a relation without hyper-parameters or without parameters in its plate, and for parameters that the
        posteriors or the interim models don't have.

    Examples
    --------
    >>> import numpy as np, pyro, pyro.distributions as dist
    >>> def alone():
    ...     pyro.sample("mass", dist.Normal(0.0, 10.0))
    >>> def masses(galaxies):
    ...     mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    ...     with galaxies:
    ...         pyro.sample("mass", dist.Normal(mean, 1.0))
    >>> rng = np.random.default_rng(0)
    >>> posteriors = [{"mass": rng.normal(3.0 + x, 0.5, 500)} for x in rng.normal(0.0, 1.0, 30)]
    >>> found = reweight(masses, posteriors, alone, progress=False)
    >>> found.attrs["verdict"], found.posterior["mass"].dims
    ('ok', ('chain', 'draw', 'galaxy'))
    """
    if isinstance(most, bool) or not isinstance(most, int) or most < 10:
        raise ValueError(f"reweight: expected most >= 10, a whole number, got {most!r}")
    galaxies = _Galaxies.of(relation, posteriors, interim, most)
    posterior = Posterior(galaxies.marginal, seed=seed)
    result = sample(posterior, draws=draws, seed=seed, progress=progress, **options)
    return galaxies.shared_out(result, seed)


@dataclass(frozen=True)
class _Galaxies:
    """Draws of every galaxy, (draws, galaxies) + shape by site, `log_interim` (draws, galaxies) the density that the
    relation replaces, `worth` (galaxies,) how many independent draws they are; `own` : the sites in the relation's
    plate; `hyper` : those outside.
    """

    relation: Callable[[Any], Any]
    draws: Mapping[str, Tensor]
    log_interim: Tensor
    worth: np.ndarray
    own: tuple[str, ...]
    hyper: tuple[str, ...]
    names: list[Any]
    dims: Mapping[str, list[str]]

    @classmethod
    def of(cls, relation: Any, posteriors: Any, interim: Any, most: int) -> _Galaxies:
        if not callable(relation):
            raise TypeError(
                f"reweight: expected a relation that is a function of a plate, got {type(relation).__name__}; write "
                "def relation(galaxies): ..."
            )
        if not isinstance(posteriors, Sequence) or len(posteriors) < 2:
            raise ValueError(
                "reweight: expected posteriors of two galaxies or more, in a list, got "
                f"{len(posteriors) if isinstance(posteriors, Sequence) else type(posteriors).__name__}; sample each "
                "galaxy alone first"
            )
        count = len(posteriors)
        models = list(interim) if isinstance(interim, Sequence) else [interim] * count
        if len(models) != count:
            raise ValueError(
                f"reweight: expected an interim model for each of the {count} posteriors, or one for all, got "
                f"{len(models)}; give population.scenes"
            )
        own, hyper = _sites_of(relation, count)
        tables = [_draws_of(one, number, own) for number, one in enumerate(posteriors)]
        fewest = min(most, *(len(table[own[0]]) for table in tables))
        kept = [name for name in tables[0] if all(name in table for table in tables)]
        draws = {}
        for name in kept:
            each = [_thinned(table[name], fewest) for table in tables]
            if len({one.shape for one in each}) > 1:
                raise ValueError(
                    f"reweight: expected {name!r} to have one shape in all posteriors, got "
                    f"{sorted({tuple(one.shape[1:]) for one in each})}"
                )
            draws[name] = torch.stack(each, dim=1)
        log_interim = log_interim_density(models, {name: draws[name] for name in own}, draws)
        worth = np.array([min(fewest, _worth(one, own)) for one in posteriors], dtype=float)
        names = [getattr(getattr(model, "image", None), "name", None) for model in models]
        known = None not in names and len(set(names)) == count
        dims = dict(getattr(models[0], "dims", {}))
        return cls(relation, draws, log_interim, worth, own, hyper, names if known else list(range(count)), dims)

    @property
    def plate(self) -> Any:
        return pyro.plate(PLATE, self.log_interim.shape[1], dim=-1)

    def marginal(self) -> None:
        """The Pyro model of the hyper-parameters: the relation's, and the factor of all galaxies."""
        first = {name: self.draws[name][0] for name in self.own}
        hidden = poutine.block(hide_fn=lambda site: site["name"] == PLATE or in_plate(site))
        with hidden, poutine.trace() as tracer, poutine.condition(data=first):
            self.relation(self.plate)
        nodes: dict[str, Any] = tracer.trace.nodes
        hyper = {name: nodes[name]["value"] for name in self.hyper}
        mean = self.log_weights(hyper).logsumexp(0) - math.log(len(self.log_interim))
        pyro.factor(_FACTOR, mean.sum())

    def log_weights(self, hyper: Mapping[str, Tensor]) -> Tensor:
        """Log of the population's density over the interim one, at all draws, (draws, galaxies)."""

        def log_density(values: Mapping[str, Tensor]) -> Tensor:
            with poutine.block():
                conditioned = poutine.condition(self.relation, data={**hyper, **values})
                trace = poutine.trace(conditioned).get_trace(self.plate)
            trace.compute_log_prob()
            inside = [node for node in trace.nodes.values() if in_plate(node) and not is_deterministic(node)]
            total: Tensor = sum(node["log_prob"] for node in inside)  # type: ignore[assignment]
            return total

        with unchecked():
            own: dict[str, Tensor] = {name: self.draws[name] for name in self.own}
            found: Tensor = torch.func.vmap(log_density)(own)
        return found - self.log_interim

    def shared_out(self, result: Any, seed: int) -> az.InferenceData:
        """`result` with the parameters of the galaxies under each of its draws, and with what is to be said of them."""
        chains, each = result.posterior.sizes["chain"], result.posterior.sizes["draw"]
        hyper = {
            name: torch.as_tensor(result.posterior[name].values).flatten(0, 1).to(self.log_interim)
            for name in self.hyper
        }
        weigh = self._captured(hyper)
        mean, square = torch.zeros_like(self.log_interim), torch.zeros_like(self.log_interim)
        sizes, chosen = [], []
        with seeded(seed), torch.no_grad():
            for number in range(chains * each):
                weights = weigh(number).softmax(0)
                mean, square = mean + weights, square + weights**2
                sizes.append(1 / weights.square().sum(0))
                reached = weights.cumsum(0) < torch.rand(len(self.worth)).to(weights)
                chosen.append(reached.sum(0).clamp(max=len(weights) - 1))
        total = chains * each
        mean, square = (mean / total).cpu(), (square / total).cpu()
        thinner = torch.as_tensor(len(mean) / self.worth)
        error = float(((square - mean**2).clamp(min=0.0).sum(0) * thinner).sum().sqrt())
        ess = (torch.stack(sizes).median(0).values.cpu() / thinner).numpy()
        k_hat = np.array([_k_hat(weights) for weights in mean.T.numpy()])
        index, members = torch.stack(chosen), torch.arange(len(ess))
        groups = {
            name: values[index, members].reshape(chains, each, *values.shape[1:]).cpu().numpy()
            for name, values in self.draws.items()
        }
        return self._described(result, groups, ess=ess, k_hat=k_hat, error=error)

    def _captured(self, hyper: Mapping[str, Tensor]) -> Callable[[int], Tensor]:
        """:meth:`log_weights` at each of many values of the hyper-parameters, by a graph."""
        shapes = {name: values.shape[1:] for name, values in hyper.items()}
        flat = torch.cat([values.reshape(len(values), -1) for values in hyper.values()], dim=1)

        def weights(vector: Tensor) -> Tensor:
            parts = vector.split([shape.numel() for shape in shapes.values()])
            values = {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
            return self.log_weights(values)

        captured = capture(weights, flat[0])
        return lambda number: captured(flat[number])

    def _described(
        self,
        result: az.InferenceData,
        groups: dict[str, np.ndarray],
        *,
        ess: np.ndarray,
        k_hat: np.ndarray,
        error: float,
    ) -> az.InferenceData:
        for name, values in groups.items():
            inner = self.dims.get(name, [f"{name}_dim_{i}" for i in range(values.ndim - 3)])
            result["posterior"][name] = xr.DataArray(
                values, dims=("chain", "draw", PLATE, *inner), coords={PLATE: self.names}
            )
        for name, by_galaxy in (("galaxy_ess", ess), ("galaxy_k_hat", k_hat)):
            result["sample_stats"][name] = xr.DataArray(by_galaxy, dims=(PLATE,), coords={PLATE: self.names})
        used = len(self.log_interim)
        failures = [result.attrs["verdict"]] if result.attrs["verdict"] != "ok" else []
        limit = k_hat_limit(used)
        bad = [str(name) for name, one in zip(self.names, k_hat, strict=True) if not one < limit]
        if bad:
            shown = ", ".join(bad[:5]) + (", ..." if len(bad) > 5 else "")
            remedy = "take an interim prior that covers it, or sample jointly (bp.Population)"
            if all(one < K_HAT for one in k_hat):
                remedy = (
                    f"take more draws of each galaxy ({_RELIED_ON} allow {K_HAT}), or sample jointly (bp.Population)"
                )
            failures.append(
                f"k-hat of the draws of {len(bad)} of {len(k_hat)} galaxies ({shown}) isn't below {limit:.2f}: the "
                f"population puts them where their posteriors have hardly a draw; {remedy}"
            )
        if not error < LARGEST_ERROR:
            failures.append(
                f"the log likelihood of the hyper-parameters is known to {error:.2f}, not below {LARGEST_ERROR}, which "
                f"may move them by as many standard deviations; take {max(2, math.ceil((error / 0.2) ** 2))} times as "
                "many draws of each galaxy, or sample jointly (bp.Population)"
            )
        facts = {
            "verdict": "; ".join(failures) or "ok",
            "log_likelihood_error": error,
            "reweighted_draws": used,
        }
        groups_of: list[Any] = [result, *(result[name] for name in result.groups())]
        for group in groups_of:
            group.attrs.update(facts)
        return result


def _sites_of(relation: Callable[[Any], Any], count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Latent sites of the relation inside of its plate, and outside."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]), poutine.block():
        nodes = poutine.trace(relation).get_trace(pyro.plate(PLATE, count, dim=-1)).nodes
    drawn = [
        name for name, node in nodes.items() if node["type"] == "sample" and not node["is_observed"] and name != PLATE
    ]
    own = tuple(name for name in drawn if in_plate(nodes[name]))
    hyper = tuple(name for name in drawn if name not in own)
    if not own or not hyper:
        what = "parameters inside of its plate" if not own else "hyper-parameters outside of its plate"
        raise ValueError(
            f"reweight: expected a relation that draws {what}, got one that draws {drawn or 'nothing'}; write "
            "h = pyro.sample('h', ...), and then, with galaxies: pyro.sample('galaxy.r_eff', ...)"
        )
    return own, hyper


def _draws_of(posterior: Any, number: int, own: Sequence[str]) -> dict[str, Tensor]:
    """Draws of all sites of a galaxy, along a first axis."""
    if hasattr(posterior, "posterior"):
        arrays = {
            str(name): values.values.reshape(-1, *values.shape[2:])
            for name, values in posterior.posterior.data_vars.items()
        }
    elif isinstance(posterior, Mapping):
        arrays = {name: np.asarray(values) for name, values in posterior.items()}
    else:
        raise TypeError(
            f"reweight: expected posteriors as InferenceData or as mappings from sites to draws, got "
            f"{type(posterior).__name__} as number {number}; pass what inference.sample returned"
        )
    missing = [name for name in own if name not in arrays]
    if missing:
        raise ValueError(
            f"reweight: expected draws of {missing}, which the relation draws for each galaxy, in posterior {number}, "
            f"got {list(arrays)}; write the relation in the sites of the scene, or sample jointly (bp.Population)"
        )
    return {name: torch.as_tensor(np.array(values, dtype=np.float64)) for name, values in arrays.items()}


def _thinned(values: Tensor, most: int) -> Tensor:
    return values[torch.linspace(0, len(values) - 1, most).round().long()]


def _worth(posterior: Any, own: Sequence[str]) -> float:
    """How many independent draws a posterior has."""
    if not hasattr(posterior, "posterior"):
        return math.inf
    if "resampled_ess" in posterior.attrs:
        return float(posterior.attrs["resampled_ess"])
    with np.errstate(invalid="ignore", divide="ignore"):
        sizes = az.ess(posterior.posterior[list(own)], method="bulk")
    return max(float(min(np.nanmin(sizes[name].values) for name in own)), 1.0)


def _k_hat(weights: np.ndarray) -> float:
    """Shape of the tail of a galaxy's weights; 0 where all are equal."""
    with np.errstate(divide="ignore"):
        logs = np.log(weights)
    if np.ptp(logs) < _EQUAL:
        return 0.0
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, k_hat = az.psislw(np.where(np.isfinite(logs), logs, -700.0), normalize=False)
    return float(np.nan_to_num(k_hat, nan=np.inf))
