"""The verdict names what is wrong with a posterior, with its remedy, and passes what is right."""

from __future__ import annotations

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from bayesprof import inference
from bayesprof.inference.verdict import ESS, Verdict, judge, k_hat_limit


def normal(chains: int = 4, draws: int = 500, seed: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(chains, draws))


def of_chains(values: np.ndarray, **stats: np.ndarray) -> Verdict:
    """Verdict on draws of one site, shape (chains, draws, ...), from a sampler that aimed at an acceptance of 0.7."""
    return judge(az.from_dict(posterior={"x": values}, sample_stats=stats or None), names=["x"], target_acceptance=0.7)


def by_importance(values: np.ndarray, *, k_hat: float, ess: float, proposals: int = 2000, **spread: float) -> Verdict:
    attrs = {"k_hat": k_hat, "resampled_ess": ess, "proposals": proposals}
    attrs |= {**spread, "spread_widest": "galaxy.r_eff", "spread_fewest": "galaxy.n"}
    return judge(az.from_dict(posterior={"x": values}, attrs=attrs), names=["x"])


def walk(seed: int = 1) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).normal(size=(4, 500)), axis=1)


# -- chains


def test_independent_draws_with_calm_statistics_are_ok():
    verdict = of_chains(
        normal(), diverging=np.zeros((4, 500), bool), energy=normal(), acceptance_rate=np.full((4, 500), 0.75)
    )
    assert verdict.text == "ok"
    assert verdict.ok
    assert verdict.r_hat < 1.01
    assert min(verdict.ess_bulk, verdict.ess_tail) > ESS
    assert np.isnan(verdict.k_hat)


def test_vector_sites_with_constant_entries_are_ok():
    """As a Cholesky factor of a correlation matrix has them."""
    values = np.stack([np.ones((4, 500)), np.zeros((4, 500)), normal(), normal(seed=7)], axis=-1)
    assert of_chains(values).ok


def test_repeated_draws_of_a_sampler_that_rejects_are_ok():
    generator = np.random.default_rng(0)
    rejected = generator.random((4, 3000)) < 0.4
    last_moved = np.maximum.accumulate(np.where(rejected, 0, np.arange(3000)), axis=1)
    assert of_chains(np.take_along_axis(normal(4, 3000), last_moved, axis=1)).ok


def half_stuck() -> np.ndarray:
    """One chain of four stays where it is for a fifth of its draws."""
    values = normal(4, 2000)
    values[2, 900:1300] = values[2, 900]
    return values


@pytest.mark.parametrize(
    ("values", "stats", "words"),
    [
        pytest.param(
            normal() + np.array([[0.0], [0.0], [0.0], [8.0]]),
            {},
            ("R-hat of x", "several modes", "init=inference.lm(model, starts=8)"),
            id="chains in different modes",
        ),
        pytest.param(walk(), {}, ("R-hat of x", "take more draws", "ESS of x"), id="chains that wander"),
        pytest.param(
            np.concatenate([normal(3), np.full((1, 500), 0.1)]), {}, ("never moved", "init="), id="one stuck chain"
        ),
        pytest.param(np.full((4, 500), 1.0), {}, ("never moved", "init="), id="all chains stuck"),
        pytest.param(
            half_stuck(), {}, ("stayed at one point for 400 of 2000", "longer warmup"), id="chain stuck for a while"
        ),
        pytest.param(normal(4, 60), {}, ("bulk ESS of x", "times as many draws"), id="few draws"),
        pytest.param(normal(1), {}, ("R-hat needs two chains", "chains=4"), id="one chain"),
        pytest.param(normal(2, 3), {}, ("too few", "more draws"), id="hardly any draws"),
        pytest.param(
            normal(),
            {"diverging": np.eye(4, 500, dtype=bool)},
            ("4 divergent", "target_acceptance", "reparametrise"),
            id="divergent transitions",
        ),
        pytest.param(normal(), {"energy": walk()}, ("E-BFMI", "reparametrise"), id="low E-BFMI"),
        pytest.param(normal(), {"energy": np.full((4, 500), np.nan)}, ("E-BFMI",), id="energies that are NaN"),
        pytest.param(
            normal(),
            {"acceptance_rate": np.full((4, 500), 0.2)},
            ("acceptance is 0.20", "0.70", "longer warmup"),
            id="acceptance off its target",
        ),
        pytest.param(
            np.where(np.arange(500) == 7, np.nan, normal()), {}, ("x aren't finite", "division by zero"), id="NaN"
        ),
        pytest.param(np.where(np.arange(500) == 7, np.inf, normal()), {}, ("x aren't finite",), id="infinity"),
    ],
)
def test_failure_of_chains_is_named_with_its_remedy(values, stats, words):
    verdict = of_chains(values, **stats)
    assert not verdict.ok
    for word in words:
        assert word in verdict.text


def test_modes_are_told_from_chains_that_only_wander():
    assert "each explores one place well" not in of_chains(walk()).text


@pytest.mark.parametrize("diagnostic", ["r_hat", "ess_bulk", "ess_tail"])
def test_diagnostics_are_the_worst_that_arviz_finds(diagnostic):
    values = np.stack([normal(), walk(), normal(seed=3)], axis=-1)
    found = getattr(of_chains(values), diagnostic)
    data = az.convert_to_dataset({"x": values})
    by_arviz = {
        "r_hat": lambda: az.rhat(data)["x"].max(),
        "ess_bulk": lambda: az.ess(data, method="bulk")["x"].min(),
        "ess_tail": lambda: az.ess(data, method="tail")["x"].min(),
    }
    assert found == pytest.approx(float(by_arviz[diagnostic]()), rel=1e-12)


# -- draws by importance


def test_good_weights_are_ok_whatever_the_duplicates_look_like():
    verdict = by_importance(normal(4, 250), k_hat=0.3, ess=640.0)
    assert verdict.text == "ok"
    assert (verdict.k_hat, verdict.importance_ess) == (0.3, 640.0)
    assert np.isnan(verdict.r_hat)


def test_weighted_vector_sites_with_constant_entries_are_ok():
    values = np.stack([np.ones((4, 250)), normal(4, 250)], axis=-1)
    assert by_importance(values, k_hat=0.3, ess=640.0, spread_k_hat=0.5, spread_ess=700.0).ok


@pytest.mark.parametrize(
    ("values", "facts", "words"),
    [
        pytest.param(normal(), {"k_hat": 0.9, "ess": 900.0}, ("k-hat is 0.90", "0.70", "nuts"), id="k-hat"),
        pytest.param(normal(), {"k_hat": np.inf, "ess": 900.0}, ("k-hat is inf",), id="no tail to fit"),
        pytest.param(normal(), {"k_hat": np.nan, "ess": 900.0}, ("k-hat is nan",), id="k-hat that is NaN"),
        pytest.param(normal(), {"k_hat": 0.6, "ess": 900.0, "proposals": 200}, ("0.57",), id="k-hat of few draws"),
        pytest.param(
            normal(),
            {"k_hat": 0.3, "ess": 900.0, "spread_k_hat": 0.8},
            ("spread of galaxy.r_eff is 0.80", "0.70", "split_hmc"),
            id="k-hat of the spread",
        ),
        pytest.param(
            normal(),
            {"k_hat": 0.3, "ess": 900.0, "spread_k_hat": 0.3, "spread_ess": 210.0},
            ("spread of galaxy.n", "from 210 independent draws", "below 400", "split_hmc"),
            id="few draws for the spread",
        ),
        pytest.param(normal(), {"k_hat": 0.3, "ess": 130.0}, ("worth 130", "4 times as many draws"), id="few"),
        pytest.param(np.full((4, 250), 2.0), {"k_hat": 0.0, "ess": 900.0}, ("are the same", "nuts"), id="a point"),
        pytest.param(
            np.where(np.arange(500) == 7, np.nan, normal()), {"k_hat": 0.1, "ess": 900.0}, ("finite",), id="NaN"
        ),
    ],
)
def test_failure_of_weights_is_named_with_its_remedy(values, facts, words):
    verdict = by_importance(values, **facts)
    assert not verdict.ok
    for word in words:
        assert word in verdict.text


def test_threshold_of_k_hat_is_that_of_vehtari_et_al():
    """Their section 3.2.4: 0.5 for 100 draws, 0.67 for 1,000, and 0.7 from 2,200 on."""
    assert k_hat_limit(100) == pytest.approx(0.5)
    assert k_hat_limit(1000) == pytest.approx(2 / 3)
    assert k_hat_limit(2000) < 0.7
    assert k_hat_limit(2200) == k_hat_limit(10**6) == 0.7


# -- samplers on what they can't sample


def funnel() -> None:
    """Neal (2003, Annals of Statistics 31, 705), in two dimensions."""
    v = pyro.sample("v", dist.Normal(torch.tensor(0.0, dtype=torch.float64), 3.0))
    pyro.sample("x", dist.Normal(torch.tensor(0.0, dtype=torch.float64), torch.exp(v / 2)))


def two_islands() -> None:
    x = pyro.sample("x", dist.Normal(torch.tensor(0.0, dtype=torch.float64), 10.0))
    near, far = -0.5 * ((x + 5) / 0.3) ** 2, -0.5 * ((x - 5) / 0.3) ** 2
    pyro.factor("islands", torch.logaddexp(near, far))


@pytest.mark.parametrize(
    ("method", "draws"),
    [pytest.param(inference.nuts, 200, marks=pytest.mark.slow), (inference.mala, 400)],
    ids=["nuts", "mala"],
)
def test_sampled_funnel_fails_by_divergences_and_ess_with_a_remedy(method, draws):
    post = method(funnel, draws=draws, chains=4, seed=1, progress=False)
    verdict = judge(post, names=["v", "x"])
    assert verdict.text == post.attrs["verdict"]
    for words in ("divergent transitions", "ESS of", "reparametrise the model"):
        assert words in verdict.text


def test_short_chains_that_havent_met_yet_are_asked_for_more_draws_first():
    # four chains of 20 draws that start apart: no sign of modes, which need chains that know where they are
    random = np.random.default_rng(3)
    draws = random.normal(size=(4, 20)) + np.array([-0.8, -0.3, 0.3, 0.8])[:, None]
    verdict = judge(az.from_dict(posterior={"x": draws}), names=["x"])
    assert verdict.r_hat > 1.1
    assert "take more draws, or look for several modes" in verdict.text


def test_effective_draws_just_below_the_limit_arent_rounded_up_to_it():
    post = az.from_dict(posterior={"x": np.random.default_rng(0).normal(size=(4, 100))})
    post.attrs.update(k_hat=0.1, resampled_ess=399.8, proposals=1000)
    assert "are worth 399 independent ones, below 400" in judge(post, names=["x"]).text


def test_islands_sampled_by_nuts_from_both_fail_as_several_modes():
    posterior = inference.Posterior(two_islands)
    each = [
        inference.nuts(posterior, init={"x": start}, draws=200, chains=2, seed=2, progress=False) for start in (-5, 5)
    ]
    assert all(abs(post.posterior["x"].values).min() > 3 for post in each)
    joined = az.from_dict(posterior={"x": np.concatenate([post.posterior["x"].values for post in each])})
    verdict = judge(joined, names=["x"])
    assert "several modes" in verdict.text
    assert verdict.r_hat > 1.5
