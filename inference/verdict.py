"""Whether a posterior can be trusted: the thresholds, in one place, applied to every result.

Thresholds: rank-normalised R-hat below 1.01 and bulk and tail ESS of at least 400 (Vehtari et al. 2021, Bayesian
Analysis 16, 667), no divergent transitions and E-BFMI of at least 0.3 (Betancourt 2018, arXiv:1701.02434), mean
acceptance within 0.25 of its target.
"""

from __future__ import annotations

from dataclasses import dataclass

import arviz as az
import numpy as np

R_HAT = 1.01
ESS = 400
E_BFMI = 0.3
ACCEPTANCE = 0.25


@dataclass(frozen=True)
class Verdict:
    """`text`: "ok", or every failure with its remedy; `ok`; `r_hat`: the largest; `ess_bulk`, `ess_tail`: the
    smallest.
    """

    text: str
    r_hat: float
    ess_bulk: float
    ess_tail: float

    @property
    def ok(self) -> bool:
        return self.text == "ok"


def judge(idata: az.InferenceData, *, names: list[str], target_acceptance: float | None = None) -> Verdict:
    """Verdict on the draws of the sites `names` in `idata`, with the sample_stats that it has.

    `target_acceptance` : the acceptance rate that step sizes were adapted to.
    """
    posterior = idata["posterior"][names]
    chains, draws = posterior.sizes["chain"], posterior.sizes["draw"]
    failures = []
    if chains * draws < 8 or draws < 4:
        return Verdict(
            f"{chains} chains of {draws} draws are too few to judge; take more draws", np.nan, np.nan, np.nan
        )
    broken = [name for name in names if not np.isfinite(posterior[name].values).all()]
    if broken:
        text = f"draws of {', '.join(broken)} aren't finite; look for a division by zero or a log of zero in the model"
        return Verdict(text, np.nan, np.nan, np.nan)
    still = {name: (posterior[name].std("draw") == 0).values for name in names}
    stuck = [name for name, chains_still in still.items() if chains_still.any()]
    if stuck:
        failures.append(
            f"a chain of {', '.join(stuck)} never moved; the sampler is stuck: start it from a fit "
            "(init=inference.lm(model))"
        )
    if any(chains_still.all() for chains_still in still.values()):
        return Verdict("; ".join(failures), np.nan, np.nan, np.nan)
    r_hat, worst = _extreme(az.rhat(posterior), np.nanmax) if chains > 1 else (np.nan, "")
    ess_bulk, bulk = _extreme(az.ess(posterior, method="bulk"), np.nanmin)
    ess_tail, tail = _extreme(az.ess(posterior, method="tail"), np.nanmin)
    if chains == 1:
        failures.append("R-hat needs two chains or more; take chains=4")
    elif not r_hat < R_HAT:
        failures.append(
            f"R-hat of {worst} is {r_hat:.3f}, not below {R_HAT}: the chains don't agree; take more draws, or look "
            "for several modes"
        )
    for kind, value, where in (("bulk", ess_bulk, bulk), ("tail", ess_tail, tail)):
        if not value >= ESS:
            factor = max(2, int(np.ceil(1.3 * ESS / max(value, 1.0))))
            failures.append(
                f"{kind} ESS of {where} is {value:.0f}, below {ESS}; take {min(factor, 100)} times as many draws"
            )
    failures += _transition_failures(idata, target_acceptance)
    return Verdict("ok" if not failures else "; ".join(failures), r_hat, ess_bulk, ess_tail)


def _transition_failures(idata: az.InferenceData, target_acceptance: float | None) -> list[str]:
    if "sample_stats" not in idata.groups():
        return []
    stats, failures = idata["sample_stats"], []
    if "diverging" in stats and (count := int(stats.diverging.sum())):
        failures.append(
            f"{count} divergent transitions: the posterior bends more sharply than the step size resolves; raise "
            "target_acceptance "
            "towards 0.95, or reparametrise the model"
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
        if abs(rate - target_acceptance) > ACCEPTANCE:
            failures.append(
                f"mean acceptance is {rate:.2f} where {target_acceptance:.2f} was aimed at: the step size didn't "
                "settle; take a longer warmup"
            )
    return failures


def _extreme(values: object, pick: object) -> tuple[float, str]:
    """The extreme of a dataset of diagnostics, and the name of its variable."""
    found = {name: float(pick(array.values)) for name, array in values.items()}  # type: ignore[attr-defined, operator]
    best = pick(list(found.values()))  # type: ignore[operator]
    return float(best), next((name for name, value in found.items() if value == best), "")
