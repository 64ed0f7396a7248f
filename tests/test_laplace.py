"""The Laplace approximation, its importance weights and their resampling, against what is known exactly."""

from __future__ import annotations

import math

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch

from bayesprof.inference import Posterior, lm
from bayesprof.inference.importance import Weighted, importance, importance_result, resampled, spread, weigh
from bayesprof.inference.laplace import laplace
from bayesprof.inference.modes import modes_at

GENERATOR = np.random.default_rng(4)
X = torch.from_numpy(GENERATOR.normal(size=(20, 3)))
Y = X @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + 0.3 * torch.from_numpy(GENERATOR.normal(size=20))


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


def linear_regression() -> None:
    beta = pyro.sample("beta", dist.Normal(torch.zeros(3, dtype=torch.float64), 2.0).to_event(1))
    pyro.sample("y", dist.Normal(X @ beta, 0.3).to_event(1), obs=Y)


def beta_and_gamma() -> None:
    """Conjugate and skewed: Beta(9, 6) and Gamma(2 + 7, 0.5 + 3)."""
    p = pyro.sample("p", dist.Beta(double(2.0), 3.0))
    pyro.sample("heads", dist.Bernoulli(p).expand([10]).to_event(1), obs=(torch.arange(10) < 7).double())
    rate = pyro.sample("rate", dist.Gamma(double(2.0), 0.5))
    pyro.sample("counts", dist.Poisson(rate).expand([3]).to_event(1), obs=torch.tensor([1.0, 4.0, 2.0]).double())


def funnel() -> None:
    v = pyro.sample("v", dist.Normal(double(0.0), 3.0))
    pyro.sample("x", dist.Normal(double(0.0), torch.exp(v / 2)))


POSTERIOR = {"p": scipy.stats.beta(9, 6), "rate": scipy.stats.gamma(9, scale=1 / 3.5)}
# of the Bernoulli trials, and of the counts (negative multinomial)
LOG_EVIDENCE = (
    math.lgamma(5) + math.lgamma(9) + math.lgamma(6) - math.lgamma(15) - math.lgamma(2) - math.lgamma(3)
) + (2 * math.log(0.5) - math.lgamma(2) + math.lgamma(9) - 9 * math.log(3.5) - math.log(math.factorial(4) * 2))


# -- the result


def test_draws_follow_a_skewed_conjugate_posterior():
    post = laplace(beta_and_gamma, draws=4000, seed=1, progress=False)
    assert post.attrs["verdict"] == "ok"
    ess = post.attrs["resampled_ess"]
    assert ess > 3000
    for name, law in POSTERIOR.items():
        draws = post.posterior[name].values.ravel()
        assert abs(draws.mean() - law.mean()) < 4 * law.std() / math.sqrt(ess)
        assert draws.std() == pytest.approx(law.std(), rel=0.06)
        assert scipy.stats.kstest(draws, law.cdf).pvalue > 1e-4


def test_evidence_by_weights_is_exact_within_its_error_where_laplaces_is_not():
    post = laplace(beta_and_gamma, draws=4000, seed=1, progress=False)
    assert post.attrs["log_evidence"] == pytest.approx(LOG_EVIDENCE, abs=4 * post.attrs["log_evidence_error"])
    assert post.attrs["log_evidence_error"] < 0.01
    assert abs(post.attrs["log_evidence_laplace"] - LOG_EVIDENCE) > 4 * post.attrs["log_evidence_error"]


def test_laplaces_evidence_of_a_linear_model_is_exact():
    covariance = 0.09 * np.eye(20) + 4 * (X @ X.T).numpy()
    exact = scipy.stats.multivariate_normal(np.zeros(20), covariance).logpdf(Y.numpy())
    post = laplace(linear_regression, progress=False)
    assert post.attrs["log_evidence_laplace"] == pytest.approx(exact, abs=1e-6)
    assert post.attrs["log_evidence"] == pytest.approx(exact, abs=4 * post.attrs["log_evidence_error"])


def test_result_has_its_statistics_and_independent_chains():
    posterior = Posterior(beta_and_gamma)
    post = laplace(posterior, draws=800, proposals=3000, seed=3, progress=False)
    assert dict(post.posterior.sizes) == {"chain": 4, "draw": 200}
    assert set(post.sample_stats.data_vars) == {"lp", "proposal", "log_weight"}
    z = torch.stack(
        [posterior.unconstrain({name: post.posterior[name].values[0, i] for name in POSTERIOR}) for i in range(20)]
    )
    np.testing.assert_allclose(post.sample_stats["lp"].values[0, :20], posterior.log_density(z), rtol=1e-9)
    chosen = post.sample_stats["proposal"].values
    assert chosen.min() >= 0
    assert chosen.max() < post.attrs["proposals"] == 3000
    same = chosen[0, 0] == chosen
    assert np.ptp(post.posterior["p"].values[same]) == 0
    assert len(np.unique(chosen)) > 0.9 * chosen.size
    assert float(az.rhat(post.posterior)["p"]) < 1.02


def test_same_seed_gives_the_same_draws_and_another_others():
    posterior = Posterior(linear_regression)
    fit = lm(posterior)
    first, again, other = (
        laplace(posterior, init=fit, draws=100, seed=seed, progress=False).posterior["beta"].values
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.isclose(first, other).any()


def test_funnel_fails_with_a_remedy():
    post = laplace(funnel, progress=False)
    assert post.attrs["k_hat"] > 0.7
    assert "k-hat" in post.attrs["verdict"]
    assert "nuts" in post.attrs["verdict"]


def test_weights_without_any_finite_density_fail_with_a_verdict():
    posterior = Posterior(funnel)
    z = torch.randn(2000, 2, dtype=torch.float64)
    nowhere = torch.full((2000,), torch.nan, dtype=torch.float64)
    post = importance_result(posterior, weigh(z, nowhere, torch.zeros_like(nowhere)), draws=400, seed=0, attrs={})
    assert post.attrs["k_hat"] == math.inf
    assert post.attrs["log_evidence"] == -math.inf
    assert "k-hat is inf" in post.attrs["verdict"]
    assert "worth 0 independent ones" in post.attrs["verdict"]


# -- the proposal


def test_proposal_density_is_that_of_a_multivariate_student_t():
    posterior = Posterior(linear_regression)
    fit = lm(posterior)
    z, log_density = modes_at(posterior, fit).proposals(50, seed=2)
    law = scipy.stats.multivariate_t(fit.z.numpy(), np.linalg.inv(fit.hessian.numpy()), df=10)
    np.testing.assert_allclose(log_density, law.logpdf(z.numpy()), rtol=1e-8)


def test_proposals_have_the_spread_of_a_student_t():
    posterior = Posterior(linear_regression)
    fit = lm(posterior)
    z, _ = modes_at(posterior, fit).proposals(40_000, seed=2)
    expected = 10 / 8 * torch.linalg.inv(fit.hessian)
    # errors of a covariance of so many draws: about a hundredth of its scale
    scale = expected.diagonal().sqrt()
    torch.testing.assert_close(torch.cov(z.T) / scale.outer(scale), expected / scale.outer(scale), rtol=0, atol=0.05)


# -- the weights


def weights_of(log_weights: np.ndarray):
    zero = torch.zeros(len(log_weights), 1, dtype=torch.float64)
    return weigh(zero, torch.from_numpy(log_weights), torch.zeros(len(log_weights), dtype=torch.float64))


def test_k_hat_finds_the_tail_of_pareto_weights():
    """Weights u^-k have a tail of shape k."""
    uniform = np.random.default_rng(0).uniform(size=100_000)
    for shape in (0.3, 0.6, 0.9):
        assert weights_of(-shape * np.log(uniform)).k_hat == pytest.approx(shape, abs=0.06)


def tails(df: float) -> Posterior:
    return Posterior(lambda: pyro.sample("x", dist.StudentT(double(df), double(0.0, 0.0, 0.0), 1.0).to_event(1)))


def of_a_normal(df: float, size: int = 20_000) -> Weighted:
    """Weights of a Student t with draws of a normal distribution that is half as wide again."""
    z = 1.5 * torch.randn(size, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    proposal = dist.Normal(double(0.0), 1.5).log_prob(z).sum(-1)
    return importance(tails(df), z, proposal)


def test_spread_has_the_tail_of_a_variance():
    """Draws of size u^-a with weights u^-k: the squared distances weigh u^-(k + 2a), a tail of that shape."""
    generator = np.random.default_rng(1)
    uniform, sign = (
        torch.from_numpy(generator.uniform(size=400_000)),
        torch.from_numpy(generator.choice([-1, 1], 400_000)),
    )
    posterior = Posterior(lambda: pyro.sample("x", dist.Normal(double(0.0), 1.0)))
    z = (sign * uniform**-0.2)[:, None]
    weighted = weigh(z, -0.2 * uniform.log(), torch.zeros_like(uniform))
    assert weighted.k_hat == pytest.approx(0.2, abs=0.1)  # a shape is estimated with a small bias, shrunk toward 1/2
    found = spread(posterior, weighted)
    assert found.widest == found.fewest == "x"
    assert found.k_hat == pytest.approx(0.6, abs=0.1)


def test_spread_of_draws_from_a_normal_posterior_itself_is_known_as_from_all_of_them():
    posterior = Posterior(lambda: pyro.sample("x", dist.Normal(double(1.0, 2.0), 1.0).to_event(1)))
    z = double(1.0, 2.0) + torch.randn(3000, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = spread(posterior, weigh(z, torch.zeros(3000).double(), torch.zeros(3000).double()))
    assert found.ess == pytest.approx(3000)
    assert found.k_hat < 0.3


def test_spread_of_exact_draws_is_trusted_whatever_tail_a_parameter_has_of_its_own():
    """The squares of a log-normal parameter have a heavy tail, as has the logarithm of a uniform one at its end."""

    def model() -> None:
        pyro.sample("wide", dist.LogNormal(double(0.0), 1.5))
        pyro.sample("share", dist.Beta(double(0.2), 1.0))

    posterior = Posterior(model)
    z = torch.stack([posterior.prior_draw(seed) for seed in range(3000)])
    weighted = weigh(z, torch.zeros(3000).double(), torch.zeros(3000).double())
    _, tail = az.psislw(2 * z[:, 0].numpy(), normalize=False)
    assert tail > 0.7
    assert spread(posterior, weighted).k_hat < 0.5


def test_spread_names_the_entry_whose_width_is_in_doubt():
    def one_heavy_tail() -> None:
        pyro.sample("light", dist.Normal(double(0.0, 0.0), 1.0).to_event(1))
        pyro.sample("heavy", dist.StudentT(double(2.5), double(0.0, 0.0), 1.0).to_event(1))

    posterior = Posterior(one_heavy_tail)
    z = 1.3 * torch.randn(4000, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    found = spread(posterior, importance(posterior, z, dist.Normal(double(0.0), 1.3).log_prob(z).sum(-1)))
    assert found.widest.startswith("heavy[")
    assert found.fewest.startswith("heavy[")


def test_light_tails_have_a_trusted_spread_and_heavy_ones_not():
    normal, heavy = of_a_normal(200.0), of_a_normal(4.0)
    assert spread(tails(200.0), normal).trusted(20_000)
    assert not spread(tails(4.0), heavy).trusted(20_000)


def test_equal_weights_are_the_best_there_are():
    weighted = weights_of(np.full(1000, -3.0) + 1e-12 * np.random.default_rng(0).normal(size=1000))
    assert weighted.k_hat == 0
    assert weighted.ess == pytest.approx(1000)
    assert weighted.log_evidence == pytest.approx(-3.0)
    assert weighted.error == pytest.approx(0.0, abs=1e-6)


def test_draws_without_density_have_no_weight():
    log_weights = np.random.default_rng(0).normal(0, 0.1, 1000)
    log_weights[::2] = np.nan
    log_weights[1::10] = -np.inf
    weighted = weights_of(log_weights)
    weights = weighted.log_weights.exp().numpy()
    assert weights[~np.isfinite(log_weights)].max() == 0
    assert weights.sum() == pytest.approx(1.0)
    assert weighted.ess == pytest.approx(400, rel=0.05)
    # 40% of the draws with a mean weight of exp(0.1^2 / 2)
    assert weighted.log_evidence == pytest.approx(math.log(0.4) + 0.005, abs=0.03)


def test_error_of_the_evidence_is_its_scatter():
    posterior = Posterior(beta_and_gamma)
    modes = modes_at(posterior, lm(posterior))
    runs = [importance(posterior, *modes.proposals(1000, seed)) for seed in range(40)]
    scatter = np.std([run.log_evidence for run in runs])
    # the standard deviation of 40 normal numbers is known to 11%
    assert scatter == pytest.approx(np.mean([run.error for run in runs]), rel=0.4)


# -- resampling


def test_resampling_takes_each_draw_as_often_as_its_weight_says():
    weighted = weights_of(np.random.default_rng(1).normal(size=50))
    weights = weighted.log_weights.exp().numpy()
    index, _ = resampled(weighted, 400, np.random.default_rng(2))
    counts = np.bincount(index, minlength=50)
    assert (np.abs(counts - 400 * weights) < 1).all()


def test_no_draw_comes_twice_where_none_has_to():
    weighted = weights_of(0.1 * np.random.default_rng(1).normal(size=2000))
    index, _ = resampled(weighted, 1000, np.random.default_rng(2))
    assert len(np.unique(index)) == 1000


@pytest.mark.parametrize(("spread", "draws"), [(0.0, 500), (1.0, 500), (1.0, 2000), (1.5, 200)])
def test_resampled_ess_is_the_scatter_of_a_mean(spread, draws):
    """Of draws from N(-spread/2, 1), weighted towards N(spread/2, 1) or so: any weights that depend on the draw."""
    generator = np.random.default_rng(8)
    means, sizes, variances = [], [], []
    for _ in range(400):
        x = generator.normal(size=1000)
        # weights that know nothing of x, for which 1 / ESS is the variance exactly
        weighted = weights_of(spread * generator.normal(size=1000))
        index, ess = resampled(weighted, draws, generator)
        means.append(x[index].mean())
        variances.append(1 / ess)
        sizes.append(ess)
    # the variance of 400 normal numbers is known to 7%
    assert np.var(means) == pytest.approx(np.mean(variances), rel=0.25)
    assert max(sizes) <= draws * 1.001


# -- what is refused


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"draws": 10}, ("draws", "multiple of 4", "10")),
        ({"draws": 0}, ("draws", "multiple of 4")),
        ({"draws": 4.0}, ("draws", "4.0")),
        ({"proposals": 100, "draws": 400}, ("proposals", "400", "100")),
        ({"proposals": True}, ("proposals", "True")),
    ],
)
def test_arguments_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match="laplace: expected") as caught:
        laplace(linear_regression, **options)
    for word in words:
        assert word in str(caught.value)


def test_fit_of_another_model_is_refused():
    with pytest.raises(ValueError, match="init: expected a fit of this model, whose posterior has 2 dimensions"):
        laplace(beta_and_gamma, init=lm(linear_regression))
