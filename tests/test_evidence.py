"""The evidence against integrals that are known, and the comparison of models by what they predict."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch

import bayesprof as bp
from bayesprof import models
from bayesprof.inference import Posterior, lm
from bayesprof.inference.compare import compare
from bayesprof.inference.evidence import evidence
from bayesprof.inference.laplace import laplace

GENERATOR = np.random.default_rng(4)
X = torch.from_numpy(GENERATOR.normal(size=(20, 3)))
Y = X @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + 0.3 * torch.from_numpy(GENERATOR.normal(size=20))
COVARIANCE = 0.09 * np.eye(20) + 4 * (X @ X.T).numpy()


def double(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def linear_regression() -> None:
    beta = pyro.sample("beta", dist.Normal(torch.zeros(3, dtype=torch.float64), 2.0).to_event(1))
    pyro.sample("y", dist.Normal(X @ beta, 0.3).to_event(1), obs=Y)


def beta_binomial() -> None:
    p = pyro.sample("p", dist.Beta(double(1.0), 1.0))
    pyro.sample("heads", dist.Bernoulli(p).expand([10]).to_event(1), obs=(torch.arange(10) < 9).double())


def two_islands() -> None:
    """In two dimensions, a prior of width 3, and likelihoods of 30% and 70% at (3, 3) and (-2, -2)."""
    x = pyro.sample("x", dist.Normal(torch.zeros(2, dtype=torch.float64), 3.0).to_event(1))
    terms = [
        math.log(share / (2 * math.pi * width**2)) - 0.5 * ((x - at) / width).square().sum(-1)
        for share, at, width in ((0.3, 3.0, 0.3), (0.7, -2.0, 0.5))
    ]
    pyro.factor("islands", torch.logaddexp(*terms))


REGRESSION = scipy.stats.multivariate_normal(np.zeros(20), COVARIANCE).logpdf(Y.numpy())
HEADS = math.lgamma(10) + math.lgamma(2) - math.lgamma(12)
ISLANDS = math.log(
    0.3 * scipy.stats.norm(0, math.hypot(3, 0.3)).pdf(3) ** 2
    + 0.7 * scipy.stats.norm(0, math.hypot(3, 0.5)).pdf(-2) ** 2
)


@pytest.mark.parametrize("method", ["laplace", "importance", "smc"])
def test_evidence_of_a_linear_regression_is_exact(method):
    found = evidence(linear_regression, method=method, particles=400, progress=False)
    tolerance = 1e-6 if method == "laplace" else 4 * found.error
    assert found.log_evidence == pytest.approx(REGRESSION, abs=tolerance)
    assert found.method == method
    assert math.isnan(found.error) == (method == "laplace")
    assert not found.message.startswith(("Not reliable", "Failed"))


@pytest.mark.parametrize("method", ["importance", "smc"])
def test_evidence_of_a_conjugate_model_is_exact_within_its_error(method):
    found = evidence(beta_binomial, method=method, particles=400, progress=False)
    assert found.log_evidence == pytest.approx(HEADS, abs=4 * found.error)
    assert found.error < 0.15


def test_both_of_two_modes_count():
    posterior = Posterior(two_islands)
    by_laplace = evidence(posterior, init={"x": [3.0, 3.0]}, method="laplace")
    by_smc = evidence(posterior, method="smc", particles=500, progress=False)
    assert by_smc.log_evidence == pytest.approx(ISLANDS, abs=4 * by_smc.error)
    assert by_smc.error < 0.15
    # the one it starts from alone has a fifth of it
    assert by_laplace.log_evidence == pytest.approx(ISLANDS, abs=0.1)


def test_error_of_smc_is_its_scatter():
    posterior = Posterior(beta_binomial)
    runs = [evidence(posterior, method="smc", particles=100, seed=seed, progress=False) for seed in range(20)]
    scatter = np.std([run.log_evidence for run in runs], ddof=1)
    # the standard deviation of 20 normal numbers is known to 16%
    assert scatter / np.mean([run.error for run in runs]) == pytest.approx(1.0, abs=0.5)
    offsets = [(run.log_evidence - HEADS) / run.error for run in runs]
    assert abs(np.mean(offsets)) < 4 / math.sqrt(20)


def test_same_seed_gives_the_same_evidence():
    posterior = Posterior(beta_binomial)
    first, again, other = (
        evidence(posterior, method="smc", particles=100, seed=seed, progress=False).log_evidence for seed in (1, 1, 2)
    )
    assert first == again != other


def test_evidence_where_the_approximation_fails_says_so():
    def funnel() -> None:
        v = pyro.sample("v", dist.Normal(double(0.0), 3.0))
        pyro.sample("x", dist.Normal(double(0.0), torch.exp(v / 2)))

    found = evidence(funnel, method="importance", progress=False)
    assert found.message.startswith("Not reliable")
    assert "smc" in found.message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "nested"}, ("method", "smc", "'nested'")),
        ({"method": "smc", "particles": 10}, ("particles >= 100", "10")),
        ({"particles": 1e3}, ("particles >= 100", "1000.0")),
    ],
)
def test_arguments_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match="evidence: expected") as caught:
        evidence(linear_regression, **options)
    for word in words:
        assert word in str(caught.value)


# -- comparison by prediction


@pytest.fixture(scope="module")
def scenes(simulated):
    """One source and two, fitted to an image of two."""
    light = (
        models.FlatSky(2.0)
        + models.Exponential(12.0, 11.0, 400.0, 2.5, ellipticity=[0.1, 0.2])
        + models.Exponential(22.0, 14.0, 200.0, 3.0)
    )
    image = simulated(light)
    galaxy = models.exponential(x=12.0, y=11.0, ellipticity=[0.1, 0.2])
    one = bp.Scene(image, sky=models.flat_sky(), galaxy=galaxy)
    two = bp.Scene(
        image,
        sky=models.flat_sky(),
        galaxy=galaxy,
        neighbour=models.exponential(x=22.0, y=14.0, ellipticity=[0.0, 0.0]),
    )
    return {"one": one, "two": two}


@pytest.fixture(scope="module")
def fitted(scenes):
    return {name: laplace(scene, draws=1000, progress=False) for name, scene in scenes.items()}


def test_loo_and_evidence_choose_the_components_that_made_the_image(scenes, fitted):
    assert fitted["two"].attrs["verdict"] == "ok"
    table = compare(fitted)
    assert list(table.index) == ["two", "one"]
    assert table.loc["one", "elpd_diff"] > 4 * table.loc["one", "dse"]
    assert not table.loc["two", "warning"]
    assert fitted["two"].attrs["log_evidence"] > fitted["one"].attrs["log_evidence"] + 10


def test_compare_agrees_with_arviz_where_there_is_one_site(fitted):
    ours = compare(fitted)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Estimated shape parameter")
        warnings.filterwarnings("ignore", message="The inplace keyword")
        theirs = az.compare(fitted, ic="loo")
    np.testing.assert_allclose(ours["elpd_loo"], theirs.loc[ours.index, "elpd_loo"], atol=0.05)
    np.testing.assert_allclose(ours["elpd_diff"], theirs.loc[ours.index, "elpd_diff"], atol=0.05)


def split(result: az.InferenceData) -> az.InferenceData:
    """The same result with the data in two observed sites."""
    pointwise = result.log_likelihood["y"].values
    data = result.observed_data["y"].values
    return az.from_dict(
        posterior={"beta": result.posterior["beta"].values},
        log_likelihood={"a": pointwise[..., :7], "b": pointwise[..., 7:]},
        observed_data={"a": data[:7], "b": data[7:]},
        attrs={"resampled_ess": result.attrs["resampled_ess"]},
    )


@pytest.fixture(scope="module")
def regressions():
    def without_slopes() -> None:
        offset = pyro.sample("beta", dist.Normal(double(0.0), 2.0))
        with pyro.plate("data", 20):
            pyro.sample("y", dist.Normal(offset, 2.0), obs=Y)

    def with_slopes() -> None:
        beta = pyro.sample("beta", dist.Normal(torch.zeros(3, dtype=torch.float64), 2.0).to_event(1))
        with pyro.plate("data", 20):
            pyro.sample("y", dist.Normal(X @ beta, 0.3), obs=Y)

    return {
        name: laplace(model, progress=False) for name, model in (("with", with_slopes), ("without", without_slopes))
    }


def test_observed_sites_count_together(regressions):
    whole = compare(regressions)
    parts = compare({name: split(result) for name, result in regressions.items()})
    assert list(whole.index) == ["with", "without"]
    np.testing.assert_allclose(parts["elpd_loo"], whole["elpd_loo"], rtol=1e-9)


def test_loo_of_a_linear_model_is_that_of_its_exact_predictions(regressions):
    """Leaving one value out of a Gaussian process with the covariance of the data (Rasmussen & Williams, eq. 5.12)."""
    precision = np.linalg.inv(COVARIANCE)
    variance = 1 / np.diag(precision)
    mean = Y.numpy() - precision @ Y.numpy() * variance
    exact = scipy.stats.norm(mean, np.sqrt(variance)).logpdf(Y.numpy()).sum()
    assert compare(regressions).loc["with", "elpd_loo"] == pytest.approx(exact, abs=0.3)


def test_results_that_cannot_be_compared_are_refused(regressions):
    one, other = regressions.values()
    with pytest.raises(ValueError, match="two results or more"):
        compare({"one": one})
    with pytest.raises(ValueError, match="log_likelihood"):
        compare({"one": one, "other": az.from_dict(posterior={"x": np.zeros((2, 5))})})
    with pytest.raises(ValueError, match="same data, got the sites"):
        compare({"one": one, "other": split(other)})
    changed = other.copy()
    changed.observed_data["y"].values[3] += 1
    with pytest.raises(ValueError, match=r"'y'.*differ"):
        compare({"one": one, "other": changed})


def test_fit_that_failed_is_told_with_laplaces_evidence():
    def squared() -> None:
        a = pyro.sample("a", dist.Normal(double(0.0), 10.0))
        with pyro.plate("data", 3):
            pyro.sample("d", dist.Normal(a**2, 1.0), obs=torch.tensor([4.0, 4.2, 3.9], dtype=torch.float64))

    posterior = Posterior(squared)
    fit = replace(lm(posterior, init={"a": 0.3}), converged=False, message="Stopped.")
    # other starts find a maximum
    searched = replace(fit, starts=4)
    assert "The fit failed" in evidence(posterior, init=searched, method="laplace").message
    assert "The fit failed" not in evidence(posterior, init=fit, method="laplace").message
