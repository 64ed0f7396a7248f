"""Whether a posterior can be trusted: the thresholds, in one place, applied to every result.

Draws of chains: rank-normalised R-hat below 1.01 and bulk and tail ESS of at least 400 (Vehtari et al. 2021, Bayesian
Analysis 16, 667), no divergent transitions and E-BFMI of at least 0.3 (Betancourt 2018, arXiv:1701.02434), mean
acceptance within 0.25 of its target, and no chain that stays at one point for a tenth of its draws.

Draws of an approximation that are weighted by importance: k-hat below min(1 - 1/log10 S, 0.7) for S proposals (Vehtari
et al. 2024, JMLR 25, 72) and 400 effective draws, by the weights and by the squared distances of every entry from its
mean (:func:`bayesprof.inference.importance.spread`). ArviZ's diagnostics don't apply: resampled draws are independent,
and some are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import arviz as az
import numpy as np
import xarray as xr

R_HAT = 1.01
ESS = 400
E_BFMI = 0.3
ACCEPTANCE = 0.25
K_HAT = 0.7
STILL = 0.1
"""Fraction of a chain's draws that may be one and the same."""
_FEW = 20  # draws in a row that may be the same in a chain however short
_APART = 1.1  # R-hat of chains that are somewhere else, and not only short
_MIXED = 0.1  # effective draws per draw of a chain that, alone, explores what it sees
_ALONE = 50  # effective draws of a chain, below which that another is elsewhere may be chance
_HOPELESS = 20  # times as many draws: beyond, the model wants changing and not the sampler's patience


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a result.

    Attributes
    ----------
    text : str
        "ok", or every failure with its remedy.
    ok : bool
    r_hat, ess_bulk, ess_tail : float
        The largest R-hat and the smallest effective sample sizes of all sites; NaN for draws by importance.
    k_hat, importance_ess : float
        Shape of the tail of the importance weights, and the effective number of the draws kept; NaN for chains.
    """

    text: str
    r_hat: float = np.nan
    ess_bulk: float = np.nan
    ess_tail: float = np.nan
    k_hat: float = np.nan
    importance_ess: float = np.nan

    @property
    def ok(self) -> bool:
        return self.text == "ok"


def k_hat_limit(proposals: int) -> float:
    """Below which k-hat of so many draws says that they can be relied on."""
    return float(min(1 - 1 / np.log10(max(proposals, 2)), K_HAT))


def judge(idata: az.InferenceData, *, names: list[str], target_acceptance: float | None = None) -> Verdict:
    """Verdict on the draws of the sites `names` in `idata`, with the sample_stats and attrs that it has.

    Draws are taken to be by importance where ``attrs`` has a ``k_hat`` (with ``resampled_ess``, ``proposals``, and
    ``spread_k_hat`` and ``spread_ess`` where they are known), and of chains otherwise. `target_acceptance` : the
    acceptance rate that step sizes were adapted to.

    Examples
    --------
    >>> draws = np.random.default_rng(0).normal(size=(4, 500))
    >>> judge(az.from_dict(posterior={"x": draws}), names=["x"]).ok
    True
    >>> judge(az.from_dict(posterior={"x": draws + [[0.0], [0.0], [0.0], [9.0]]}), names=["x"]).r_hat > 1.5
    True
    """
    posterior = idata["posterior"][names]
    chains, draws = posterior.sizes["chain"], posterior.sizes["draw"]
    weighted = "k_hat" in idata.attrs
    if not weighted and (chains * draws < 8 or draws < 4):
        return Verdict(f"{chains} chains of {draws} draws are too few to judge; take more draws")
    broken = [name for name in names if not np.isfinite(posterior[name].values).all()]
    if broken:
        return Verdict(
            f"draws of {', '.join(broken)} aren't finite; look for a division by zero or a log of zero in the model"
        )
    if weighted:
        return _by_importance(idata, posterior)
    return _by_chains(idata, posterior, target_acceptance)


def _by_importance(idata: az.InferenceData, posterior: xr.Dataset) -> Verdict:
    k_hat, ess = float(idata.attrs["k_hat"]), float(idata.attrs["resampled_ess"])
    limit = k_hat_limit(int(idata.attrs["proposals"]))
    failures = []
    if points := [str(name) for name, values in posterior.items() if np.ptp(values.values, axis=(0, 1)).max() == 0]:
        failures.append(
            f"all draws of {', '.join(points)} are the same: the approximation is a point there; use one that has a "
            "width, or sample instead (inference.nuts)"
        )
    if not k_hat < limit:
        failures.append(
            f"k-hat is {k_hat:.2f}, not below {limit:.2f}: the posterior has parts that the approximation hardly "
            "reaches; sample instead (inference.nuts), or reparametrise the model"
        )
    elif not (spread := float(idata.attrs.get("spread_k_hat", -np.inf))) < limit:
        failures.append(
            f"k-hat of the spread of {idata.attrs['spread_widest']} is {spread:.2f}, not below {limit:.2f}: the "
            "approximation hardly reaches its tails, and its standard deviation may be too small; sample instead "
            "(inference.split_hmc)"
        )
    elif not (known := float(idata.attrs.get("spread_ess", np.inf))) >= ESS:
        failures.append(
            f"the spread of {idata.attrs['spread_fewest']} is known as from {known:.0f} independent draws, below "
            f"{ESS}; take more proposals, or sample instead (inference.split_hmc)"
        )
    if not ess >= ESS:
        failures.append(f"the weighted draws are worth {_whole(ess)} independent ones, below {ESS}; {_more(ess)}")
    return Verdict("; ".join(failures) or "ok", k_hat=k_hat, importance_ess=ess)


def _by_chains(idata: az.InferenceData, posterior: xr.Dataset, target_acceptance: float | None) -> Verdict:
    draws, chains = posterior.sizes["draw"], posterior.sizes["chain"]
    runs = {str(name): _longest_still(values.values) for name, values in posterior.items()}
    never = [name for name, longest in runs.items() if (longest == draws).any()]
    most = max(STILL * draws, _FEW)
    halting = [name for name, longest in runs.items() if (longest > most).any() and name not in never]
    failures = []
    if never:
        failures.append(
            f"a chain of {', '.join(never)} never moved; the sampler is stuck: start it from a fit "
            "(init=inference.lm(model))"
        )
    if any((longest == draws).all() for longest in runs.values()):
        return Verdict("; ".join(failures))
    if halting:
        longest = max(runs[name].max() for name in halting)
        failures.append(
            f"a chain of {', '.join(halting)} stayed at one point for {longest} of {draws} draws; the sampler is stuck "
            "where its steps are too long: take a longer warmup, or reparametrise the model"
        )
    with np.errstate(invalid="ignore", divide="ignore"):  # entries that never vary have no R-hat
        r_hat, worst = _extreme(az.rhat(posterior), np.nanmax) if chains > 1 else (np.nan, "")
        ess_bulk, bulk = _extreme(az.ess(posterior, method="bulk"), np.nanmin)
        ess_tail, tail = _extreme(az.ess(posterior, method="tail"), np.nanmin)
    if chains == 1:
        failures.append("R-hat needs two chains or more; take chains=4")
    elif not r_hat < R_HAT:
        apart = not never and r_hat > _APART and _each_chain_mixes(posterior[worst])
        failures.append(
            f"R-hat of {worst} is {r_hat:.3f}, not below {R_HAT}: the chains don't agree; "
            + (
                "each explores one place well, so there are several modes: start from a fit that knows them "
                "(init=inference.lm(model, starts=8)), and chains jump between them, or give priors that choose one"
                if apart
                else "take more draws, or look for several modes (inference.lm(model, starts=8))"
            )
        )
    for kind, value, where in (("bulk", ess_bulk, bulk), ("tail", ess_tail, tail)):
        if not value >= ESS:
            failures.append(f"{kind} ESS of {where} is {_whole(value)}, below {ESS}; {_more(value)}")
    failures += _transition_failures(idata, target_acceptance)
    return Verdict("; ".join(failures) or "ok", r_hat, ess_bulk, ess_tail)


def _transition_failures(idata: az.InferenceData, target_acceptance: float | None) -> list[str]:
    if "sample_stats" not in idata.groups():
        return []
    stats, failures = idata["sample_stats"], []
    if "diverging" in stats and (count := int(stats.diverging.sum())):
        failures.append(
            f"{count} divergent transition{'s' if count > 1 else ''}: the posterior bends more sharply than the step "
            "size resolves; raise target_acceptance towards 0.95, or reparametrise the model"
        )
    if "energy" in stats:
        energies = stats.energy.values
        with np.errstate(invalid="ignore", divide="ignore"):
            bfmi = float(np.min(np.square(np.diff(energies, axis=1)).mean(axis=1) / energies.var(axis=1)))
        if not bfmi >= E_BFMI:
            failures.append(
                f"E-BFMI is {bfmi:.2f}, below {E_BFMI}: heavy tails that momenta don't reach; reparametrise the model"
            )
    if target_acceptance is not None and "acceptance_rate" in stats:
        rate = float(stats.acceptance_rate.mean())
        # written so that a NaN fails
        if not abs(rate - target_acceptance) <= ACCEPTANCE:
            failures.append(
                f"mean acceptance is {rate:.2f} where {target_acceptance:.2f} was aimed at: the step size didn't "
                "settle; take a longer warmup"
            )
    return failures


def _whole(value: float) -> str:
    """A number rounded down, so that what is below a limit doesn't look as if it were at it."""
    return f"{np.floor(value):.0f}"


def _more(ess: float) -> str:
    """What to do about too small an effective sample size."""
    factor = max(2, int(np.ceil(1.3 * ESS / max(ess, 1.0))))
    advice = f"take {min(factor, 100)} times as many draws"
    return advice if factor <= _HOPELESS else f"reparametrise the model, or {advice} at least"


def _longest_still(values: np.ndarray) -> np.ndarray:
    """Most draws in a row that are the same, by chain and entry, of the `values` (chains, draws, ...) of a site.

    Entries that are one number throughout, like the zeros of a Cholesky factor, aren't counted beside others that vary.
    """
    values = values.reshape(*values.shape[:2], -1)
    varying = np.ptp(values, axis=(0, 1)) > 0
    values = values[..., varying] if varying.any() else values
    run = longest = np.ones((values.shape[0], values.shape[2]), dtype=int)
    for draw in range(1, values.shape[1]):
        run = np.where(values[:, draw] == values[:, draw - 1], run + 1, 1)
        longest = np.maximum(longest, run)
    return longest


def _each_chain_mixes(values: xr.DataArray) -> bool:
    """Whether every chain, alone, has a tenth as many effective draws as draws, and enough to know where it is."""
    each = [
        np.nanmin(az.ess(values.isel(chain=[chain]), method="bulk")[values.name].values)
        for chain in range(values.sizes["chain"])
    ]
    return bool(min(each) >= max(_MIXED * values.sizes["draw"], _ALONE))


def _extreme(values: xr.Dataset, pick: Callable[..., Any]) -> tuple[float, str]:
    """The extreme of a dataset of diagnostics, and the name of its variable."""
    found = {str(name): float(pick(array.values)) for name, array in values.items()}
    best = pick(list(found.values()))
    return float(best), next((name for name, value in found.items() if value == best), "")
