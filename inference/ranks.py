"""Ranks of truths among posterior draws: whether they are uniform, and what intervals cover."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.stats import binom, chi2, norm, poisson


class Uniformity(NamedTuple):
    """What the ranks of one parameter say.

    `offset`, `offset_error`: mean normal score of the truths, in posterior standard deviations (0 where calibrated;
    above it the posterior lies too low); `spread`: their standard deviation (1; above it the posterior is too
    narrow). `p_offset`, `p_spread`, and `p_shape` of the ECDF against simultaneous bands, are the probabilities of
    as much from a calibrated posterior.
    """

    offset: float
    offset_error: float
    spread: float
    p_offset: float
    p_spread: float
    p_shape: float

    @property
    def p(self) -> float:
        """The smallest of the three."""
        return min(self.p_offset, self.p_spread, self.p_shape)


def coverage(ranks: np.ndarray, draws: int, level: float) -> float:
    """Fraction of truths inside the central interval of probability `level`.

    Each rank stands for its share [rank, rank + 1] / (draws + 1) of the probability, which may lie inside in part, so
    that the expected value is `level` for any number of draws.

    Examples
    --------
    >>> round(coverage(np.arange(10), 9, 0.683), 12)
    0.683
    """
    low, high = 0.5 - level / 2, 0.5 + level / 2
    edges = np.stack([ranks, ranks + 1]) / (draws + 1)
    inside = np.clip(np.minimum(edges[1], high) - np.maximum(edges[0], low), 0.0, None)
    return float(inside.mean() * (draws + 1))


def uniformity(ranks: np.ndarray, draws: int) -> Uniformity:
    """Tests of the ranks, from 0 to `draws`, of one parameter for an offset, a spread or a shape unlike the uniform's.

    The first two are tests of normal scores, which for an almost Gaussian posterior have more power than any test of
    shape; the third is that of Sailynoja, Burkner & Vehtari (2022, Statistics and Computing 32, 32).

    Examples
    --------
    >>> test = uniformity(np.arange(100).repeat(5), 99)
    >>> abs(test.offset) < 1e-9, round(test.spread, 6), test.p_shape > 0.99
    (True, 1.0, True)
    """
    count = len(ranks)
    all_scores = norm.ppf((np.arange(draws + 1) + 0.5) / (draws + 1))
    # those of uniform ranks fall short of a normal distribution's by the tails beyond the outermost draws
    variance, kurtosis = float((all_scores**2).mean()), float((all_scores**4).mean() / (all_scores**2).mean() ** 2)
    scores = all_scores[ranks]
    offset, error = float(scores.mean()), (variance / count) ** 0.5
    square = float(scores.var()) / variance
    freedom = 2 * (count - 1) / (kurtosis - 1)  # of the chi-square that has the variance of their sample variance
    p_spread = 2 * min(chi2.cdf(freedom * square, freedom), chi2.sf(freedom * square, freedom))
    below = np.cumsum(np.bincount(ranks, minlength=draws + 1))[:-1]
    cdf = _cdf(draws)
    tail = float(np.minimum(binom.cdf(below, count, cdf), binom.sf(below - 1, count, cdf)).min())
    # a band just inside of the outermost point of the ECDF
    p_shape = 1 - _probability_inside(*_pointwise_band(tail * (1 + 1e-9), count, draws), count, draws)
    return Uniformity(
        offset,
        error,
        square**0.5,
        float(2 * norm.sf(abs(offset) / error)),
        float(min(p_spread, 1)),
        max(p_shape, 1e-14),
    )


@lru_cache
def ecdf_band(count: int, draws: int, probability: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Simultaneous band of the ECDF of `count` uniform ranks: lower and upper edge at the ranks 0 to ``draws - 1``.

    The whole ECDF stays inside with at least `probability` (Sailynoja, Burkner & Vehtari 2022, section 3.2): the band
    of one pointwise probability, found by bisection.
    """
    low, high = 0.0, 0.5 * (1 - probability)
    for _ in range(25):
        tail = 0.5 * (low + high)
        inside = _probability_inside(*_pointwise_band(tail, count, draws), count, draws)
        low, high = (tail, high) if inside >= probability else (low, tail)
    lower, upper = _pointwise_band(low, count, draws) if low else (np.zeros(draws), np.full(draws, count))
    return lower / count, upper / count


def _cdf(draws: int) -> np.ndarray:
    """Distribution function of uniform ranks at 0 to ``draws - 1``."""
    return np.arange(1, draws + 1) / (draws + 1)


def _pointwise_band(tail: float, count: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest number of ranks, of `count`, up to each whose binomial tails both exceed `tail`."""
    cdf = _cdf(draws)
    return binom.ppf(tail, count, cdf).astype(int), binom.isf(tail, count, cdf).astype(int)


def _probability_inside(lower: np.ndarray, upper: np.ndarray, count: int, draws: int) -> float:
    """Probability that the cumulative counts of `count` uniform ranks stay within `lower` and `upper` everywhere.

    Exact: the numbers at each rank are those of independent Poisson variates given their sum (Moscovich & Nadler 2017,
    Statistics and Probability Letters 123, 177), so one kernel leads from each cumulative count to the next.
    """
    kernel = poisson.pmf(np.arange(count + 1), count / (draws + 1))
    step = np.trim_zeros(np.where(kernel > 1e-30, kernel, 0.0), "b")
    inside = np.zeros(count + 1)
    inside[0] = 1.0
    for low, high in zip(lower, upper, strict=True):
        inside = np.convolve(inside, step)[: count + 1]
        inside[:low] = inside[high + 1 :] = 0.0
    return float(inside @ kernel[::-1] / poisson.pmf(count, count))
