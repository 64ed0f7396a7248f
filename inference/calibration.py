"""What simulation-based calibration found: ranks of known truths, and what they say about a method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from astropy.table import Table

from bayesprof.inference.ranks import Uniformity, coverage, ecdf_band, uniformity

LEVELS = (0.5, 0.683, 0.954)
"""Probabilities of the central intervals whose coverage is counted."""
FALSE_ALARM = 0.01
"""Probability that a correct posterior fails, over all its parameters and tests (Bonferroni)."""
FLAGGED = 0.1
"""Fraction of fits that may fail by their own verdict before the calibration fails."""
JOINT = "log density"
"""Label of the log posterior density, ranked beside the parameters: it feels all widths at once, and a posterior that
ignores the data, which no parameter's rank does (Modrak et al. 2023, arXiv:2211.02383)."""


@dataclass(frozen=True)
class Calibration:
    """Ranks of known truths among posterior draws, and what they say about a method.

    Attributes
    ----------
    ranks : dict
        Number of draws below the truth, by label, one for each simulation that gave draws: integers from 0 to
        `draws`. The labels are the scalars of the latent sites, and "log density" for the posterior density itself.
    draws : int
        Posterior draws that each truth was ranked among.
    simulations : int
        Number of simulations, those that gave no draws included.
    flagged : dict
        How often, by reason, a fit failed by its own verdict. Its ranks count all the same.
    missing : dict
        How often, by reason, a fit gave no draws to rank.
    lost : int
        Fits that missed where the truth is: its log density lies above those of all draws by 8 of their standard
        deviations, which draws from the posterior, of which the truth is one, never do. Ranks alone hardly show a few
        of them.
    """

    ranks: dict[str, np.ndarray]
    draws: int
    simulations: int
    flagged: dict[str, int]
    missing: dict[str, int]
    lost: int = 0

    @property
    def coverage(self) -> dict[str, dict[float, float]]:
        """Fraction of truths inside the central interval of each of LEVELS, by label."""
        return {
            name: {level: coverage(ranks, self.draws, level) for level in LEVELS} for name, ranks in self.ranks.items()
        }

    @property
    def coverage_error(self) -> dict[float, float]:
        """Binomial standard deviation of the coverages of a calibrated posterior, by level."""
        return {level: (level * (1 - level) / self._ranked) ** 0.5 for level in LEVELS}

    def band(self, probability: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """What :func:`ecdf_band` gives for these ranks."""
        return ecdf_band(self._ranked, self.draws, probability)

    @cached_property
    def tests(self) -> dict[str, Uniformity]:
        """Tests of uniform ranks, by label."""
        return {name: uniformity(ranks, self.draws) for name, ranks in self.ranks.items()}

    @property
    def failed(self) -> dict[str, str]:
        """What the tests found, by label, of the parameters that failed one."""
        limit = FALSE_ALARM / (3 * len(self.tests))
        return {name: _found(name, test, limit) for name, test in self.tests.items() if test.p < limit}

    @property
    def verdict(self) -> str:
        """The word "ok", or what failed, parameter by parameter, and what to look for."""
        failures = list(self.failed.values())
        if failures:
            failures[-1] += (
                "; look for a term missing in the density, noise of the wrong size in the likelihood, or a sampler "
                "or an approximation that doesn't cover the posterior"
            )
        flagged, missing = sum(self.flagged.values()), sum(self.missing.values())
        if flagged > FLAGGED * self.simulations:
            failures.append(
                f"{flagged} of {self.simulations} fits failed by their own verdict, most often: "
                f"{_commonest(self.flagged)}"
            )
        if missing:
            failures.append(
                f"{missing} of {self.simulations} fits gave no draws, which hides their ranks, most often: "
                f"{_commonest(self.missing)}"
            )
        if self.lost:
            failures.append(
                f"{self.lost} of {self.simulations} fits ended in a mode far below the truth; start them from several "
                "points (inference.lm(model, starts=8)), or give priors that choose one mode"
            )
        return "; ".join(failures) or "ok"

    @property
    def ok(self) -> bool:
        return self.verdict == "ok"

    def table(self) -> Table:
        """One row a parameter: coverages in percent, offset and spread of the truths, and the smallest of the three
        p-values.
        """
        rows = [
            (name, *(100 * covered[level] for level in LEVELS), test.offset, test.spread, test.p)
            for (name, covered), test in zip(self.coverage.items(), self.tests.values(), strict=True)
        ]
        levels = [f"{100 * level:g}%" for level in LEVELS]
        table = Table(rows=rows, names=("parameter", *levels, "offset", "spread", "p"))
        for column in levels:
            table[column].format = ".1f"
        for column in ("offset", "spread"):
            table[column].format = ".3f"
        table["p"].format = ".2g"
        return table

    @property
    def _ranked(self) -> int:
        return len(next(iter(self.ranks.values())))

    def __repr__(self) -> str:
        counts = f"{self.simulations} simulations, {self.draws} draws each"
        failed = (
            f"{sum(self.flagged.values())} flagged by their own verdict, {sum(self.missing.values())} without draws, "
            f"{self.lost} in a mode far below the truth"
        )
        errors = ", ".join(f"{100 * error:.1f}" for error in self.coverage_error.values())
        rows = "\n".join(self.table().pformat(show_dtype=False, max_lines=-1, max_width=-1))
        return f"Calibration: {self.verdict}\n{counts}; {failed}; errors of the coverages {errors}\n{rows}"


def _found(name: str, test: Uniformity, limit: float) -> str:
    """What the tests of a parameter found at the significance `limit`."""
    found = []
    if test.p_offset < limit:
        size = f"by {abs(test.offset):.2f} posterior standard deviations (p = {test.p_offset:.1g})"
        if name == JOINT:
            way = "wide: the truths lie nearer to" if test.offset > 0 else "narrow, or off: the truths lie farther from"
            return f"the posterior of all parameters is too {way} its maximum than its draws ({name}, {size})"
        found.append(f"biased {'low' if test.offset > 0 else 'high'}, {size}")
    if test.p_spread < limit:
        way = "narrow" if test.spread > 1 else "wide"
        found.append(f"too {way}: the truths scatter {test.spread:.2f} times as far (p = {test.p_spread:.1g})")
    if not found and test.p_shape < limit:
        found.append(f"of the wrong shape: its ranks aren't uniform (p = {test.p_shape:.1g})")
    return f"{name} is {' and '.join(found)}"


def _commonest(reasons: Mapping[str, int]) -> str:
    return max(reasons, key=lambda reason: reasons[reason])
