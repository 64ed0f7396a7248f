"""Variational inference: guides of ours and of the user's, their ELBO, and the weights that check them."""

from __future__ import annotations

import math
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoDiagonalNormal

from bayesprof.inference import Posterior, lm
from bayesprof.inference.svi import svi

GENERATOR = np.random.default_rng(4)
X = torch.from_numpy(GENERATOR.normal(size=(20, 3)))
Y = X @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + 0.3 * torch.from_numpy(GENERATOR.normal(size=20))
COVARIANCE = np.linalg.inv((X.T @ X).numpy() / 0.09 + np.eye(3) / 4)
MEAN = COVARIANCE @ (X.T @ Y).numpy() / 0.09
LOG_EVIDENCE = scipy.stats.multivariate_normal(np.zeros(20), 0.09 * np.eye(20) + 4 * (X @ X.T).numpy()).logpdf(Y)


def double(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def linear_regression() -> None:
    beta = pyro.sample("beta", dist.Normal(torch.zeros(3, dtype=torch.float64), 2.0).to_event(1))
    pyro.sample("y", dist.Normal(X @ beta, 0.3).to_event(1), obs=Y)


def rate_of_counts() -> None:
    """Gamma(2, 0.5) prior and three counts: the posterior is Gamma(3, 1.5), skewed."""
    rate = pyro.sample("rate", dist.Gamma(double(2.0), 0.5))
    pyro.sample("count", dist.Poisson(rate), obs=double(1.0))


RATE = scipy.stats.gamma(3, scale=1 / 1.5)


def assert_regression(post, *, verdict: str = "^ok$") -> None:
    """Means within 4 standard errors, standard deviations within 10% (their error is 3%)."""
    assert re.match(verdict, post.attrs["verdict"])
    draws = post.posterior["beta"].values.reshape(-1, 3)
    sd = np.sqrt(np.diag(COVARIANCE))
    assert (np.abs(draws.mean(0) - MEAN) < 4 * sd / math.sqrt(post.attrs["resampled_ess"])).all()
    np.testing.assert_allclose(draws.std(0), sd, rtol=0.1)


@pytest.mark.parametrize("guide", ["multivariate_normal", "low_rank", "flow"])
def test_guide_keeps_a_gaussian_posterior_that_it_starts_at(guide):
    post = svi(linear_regression, guide=guide, steps=60, progress=False)
    assert_regression(post)
    assert post.attrs["k_hat"] < 0.5
    assert post.attrs["log_evidence"] == pytest.approx(
        LOG_EVIDENCE, abs=max(4 * post.attrs["log_evidence_error"], 0.01)
    )


def test_elbo_is_a_lower_bound_that_training_raises():
    """Of a skewed posterior, whose Laplace approximation is off by more than the optimiser leaves."""
    posterior = Posterior(rate_of_counts)
    exact = 2 * math.log(0.5) + math.lgamma(3) - 3 * math.log(1.5)
    elbo = svi(posterior, steps=400, particles=32, learning_rate=0.03, progress=False).sample_stats["elbo"].values
    assert elbo.shape == (400,)
    first, last = elbo[:5].mean(), elbo[-100:].mean()
    error = elbo[-100:].std() / 10
    assert last < exact + 4 * error
    assert exact - last < 0.5 * (exact - first)


def test_flow_bends_to_a_skewed_posterior_better_than_a_gaussian():
    posterior = Posterior(rate_of_counts)
    fit = lm(posterior)
    options = {"init": fit, "steps": 400, "learning_rate": 0.03, "progress": False}
    gaussian, flow = (svi(posterior, guide=guide, **options) for guide in ("multivariate_normal", "flow"))
    assert flow.attrs["importance_ess"] > gaussian.attrs["importance_ess"]
    assert flow.attrs["verdict"] == "ok"
    draws = flow.posterior["rate"].values.ravel()
    assert abs(draws.mean() - RATE.mean()) < 4 * RATE.std() / math.sqrt(flow.attrs["resampled_ess"])
    assert scipy.stats.kstest(draws, RATE.cdf).pvalue > 1e-4


def test_same_seed_gives_the_same_draws_and_leaves_the_random_state_and_pyros_parameters_alone():
    posterior = Posterior(linear_regression)
    fit = lm(posterior)
    pyro.param("theirs", torch.ones(2))
    state = torch.get_rng_state()
    runs = [
        svi(posterior, init=fit, guide="flow", steps=10, draws=100, seed=seed, progress=False) for seed in (1, 1, 2)
    ]
    first, again, other = (run.posterior["beta"].values for run in runs)
    np.testing.assert_array_equal(first, again)
    assert not np.isclose(first, other).any()
    assert torch.equal(torch.get_rng_state(), state)
    assert set(pyro.get_param_store().keys()) == {"theirs"}


def test_elbo_survives_netcdf(tmp_path):
    import arviz as az

    post = svi(linear_regression, steps=10, draws=100, progress=False)
    post.to_netcdf(tmp_path / "post.nc")
    again = az.from_netcdf(tmp_path / "post.nc")
    np.testing.assert_array_equal(again.sample_stats["elbo"], post.sample_stats["elbo"])
    assert again.attrs["k_hat"] == post.attrs["k_hat"]


# -- a guide of the user's own


def narrow_guide() -> None:
    loc = pyro.param("loc", lambda: torch.from_numpy(MEAN))
    scale = pyro.param("scale", lambda: torch.full((3,), 0.05).double(), constraint=constraints.positive)
    pyro.sample("beta", dist.Normal(loc, scale).to_event(1))


def test_own_guide_is_trained_and_weighted():
    post = svi(linear_regression, guide=narrow_guide, steps=150, particles=2, learning_rate=0.02, progress=False)
    # a guide without correlations is narrower than a correlated posterior: the weights' tail is in its widths
    assert_regression(post, verdict=".*spread of beta")
    elbo = post.sample_stats["elbo"].values
    assert elbo[-20:].mean() > elbo[:20].mean()
    assert elbo[-20:].mean() < LOG_EVIDENCE + 1
    # of a Gaussian, the best independent one has the conditional standard deviations
    conditional = 1 / np.sqrt(np.diag(np.linalg.inv(COVARIANCE)))
    np.testing.assert_allclose(pyro.param("scale").detach(), conditional, rtol=0.3)
    assert post.attrs["guide"] == "narrow_guide"


def test_density_of_an_own_guide_counts_the_transform_of_a_constrained_site():
    """The guide is the posterior itself, so all weights are one, and the evidence exact."""

    def exact_guide() -> None:
        concentration = pyro.param("concentration", double(3.0), constraint=constraints.positive)
        pyro.sample("rate", dist.Gamma(concentration, 1.5))

    post = svi(rate_of_counts, guide=exact_guide, steps=1, learning_rate=1e-9, progress=False)
    assert post.attrs["importance_ess"] == pytest.approx(2000, rel=1e-6)
    assert post.attrs["log_evidence"] == pytest.approx(2 * math.log(0.5) + math.lgamma(3) - 3 * math.log(1.5), abs=1e-6)


def test_autoguide_of_pyro_over_the_users_model_is_a_guide():
    post = svi(
        rate_of_counts, guide=AutoDiagonalNormal(rate_of_counts, init_scale=0.5), steps=300, learning_rate=0.02,
        particles=2, progress=False,
    )  # fmt: skip
    draws = post.posterior["rate"].values
    ess = post.attrs["resampled_ess"]
    assert ess > 200
    assert abs(draws.mean() - RATE.mean()) < 4 * RATE.std() / math.sqrt(ess)


def test_guide_that_is_a_point_fails():
    def point() -> None:
        pyro.sample("rate", dist.Delta(pyro.param("at", double(1.5), constraint=constraints.positive)))

    post = svi(rate_of_counts, guide=point, steps=5, progress=False)
    assert "are the same" in post.attrs["verdict"]


def test_guide_far_from_the_posterior_fails_by_k_hat():
    def far() -> None:
        pyro.sample("beta", dist.Normal(pyro.param("far", torch.from_numpy(MEAN) + 0.3), 0.05).to_event(1))

    post = svi(linear_regression, guide=far, steps=1, learning_rate=1e-6, progress=False)
    assert "k-hat" in post.attrs["verdict"]


# -- what is refused


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"guide": "normal"}, ValueError, ("guide", "multivariate_normal", "'normal'")),
        ({"guide": 3}, TypeError, ("guide", "int")),
        ({"steps": 0}, ValueError, ("steps >= 1", "0")),
        ({"particles": 1.5}, ValueError, ("particles >= 1", "1.5")),
        ({"learning_rate": -1.0}, ValueError, ("learning_rate > 0", "-1.0")),
        ({"draws": 3}, ValueError, ("multiple of 4", "3")),
    ],
)
def test_arguments_out_of_range_are_refused(options, error, words):
    with pytest.raises(error, match="svi: expected") as caught:
        svi(linear_regression, **options)
    for word in words:
        assert word in str(caught.value)


def test_guide_without_a_site_is_refused():
    with pytest.raises(ValueError, match=r"every latent site of the model, got none of \['beta'\]"):
        svi(linear_regression, guide=lambda: None, steps=1, progress=False)


def test_guide_with_randomness_of_its_own_is_refused():
    def hierarchical() -> None:
        shift = pyro.sample("shift", dist.Normal(double(0.0), 1.0), infer={"is_auxiliary": True})
        pyro.sample("beta", dist.Normal(torch.from_numpy(MEAN) + shift, 0.1).to_event(1))

    with pytest.raises(ValueError, match="got \\['shift'\\] as well"):
        svi(linear_regression, guide=hierarchical, steps=1, progress=False)
