"""Randomize-then-optimize on posteriors that bend, against what is known of them by quadrature."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from posteriors import component_scene

from bayesprof import inference
from bayesprof.inference import Posterior, lm
from bayesprof.inference.importance import importance
from bayesprof.inference.modes import modes_at
from bayesprof.inference.normal_scores import normal_scores
from bayesprof.inference.residual_coordinates import residual_coordinates, straightened
from bayesprof.inference.rto import straightens

NOISE = 0.003


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


class Banana(NamedTuple):
    """``x + y^2`` is measured to be `data`; `y` has the prior Normal(`middle`, 1), x the standard one."""

    data: float
    middle: float = 0.0

    def __call__(self) -> None:
        x = pyro.sample("x", dist.Normal(double(0.0), 1.0))
        y = pyro.sample("y", dist.Normal(double(self.middle), 1.0))
        pyro.sample("data", dist.Normal(x + y**2, NOISE), obs=double(self.data))

    def density(self, y: np.ndarray) -> np.ndarray:
        """Of y and the data, x being integrated over."""
        of_data = scipy.stats.norm(y**2, math.hypot(1.0, NOISE)).pdf(self.data)
        return scipy.stats.norm(self.middle, 1.0).pdf(y) * of_data

    def expectation(self, function) -> float:
        y = np.linspace(-8, 8, 20001)
        return float((function(y) * self.density(y)).sum() / self.density(y).sum())

    @property
    def log_evidence(self) -> float:
        y = np.linspace(-8, 8, 20001)
        return math.log(self.density(y).sum() * (y[1] - y[0]))


@pytest.fixture(scope="module")
def banana() -> Posterior:
    return Posterior(Banana(0.0))


@pytest.fixture(scope="module")
def core_sersic() -> Posterior:
    """An image simulated from draw 7 of the prior."""
    posterior = Posterior(component_scene("core_sersic", "gaussian"), seed=1)
    values = posterior.predictive(posterior.constrain(posterior.prior_draw(7)), 6)
    return posterior.with_data({name: values[name] for name in posterior.observed})


# -- the method


def test_draws_follow_a_bent_posterior_that_laplace_refuses(banana):
    model = banana.model
    assert "k-hat" in inference.laplace(banana, progress=False).attrs["verdict"]
    post = inference.rto(banana, draws=4000, seed=2, progress=False)
    assert post.attrs["verdict"] == "ok"
    assert (post.attrs["method"], post.attrs["unsolved"]) == ("RTO", 0.0)
    assert post.attrs["importance_ess"] > 0.7 * post.attrs["proposals"]
    ess = post.attrs["resampled_ess"]
    y = post.posterior["y"].values.ravel()
    x = post.posterior["x"].values.ravel()
    for values, function in ((y, lambda y: y), (y**2, lambda y: y**2), (x, lambda y: -(y**2)), (x**2, lambda y: y**4)):
        assert abs(values.mean() - model.expectation(function)) < 4 * values.std() / math.sqrt(ess) + NOISE
    grid = np.linspace(-8, 8, 20001)
    cumulative = np.cumsum(model.density(grid)) / model.density(grid).sum()
    assert scipy.stats.kstest(y, lambda at: np.interp(at, grid, cumulative)).pvalue > 1e-4
    assert np.abs(x + y**2).max() < 6 * NOISE
    assert post.attrs["log_evidence"] == pytest.approx(model.log_evidence, abs=4 * post.attrs["log_evidence_error"])


def test_modes_have_their_shares_of_the_draws():
    model = Banana(2.0, 0.15)
    posterior = Posterior(model)
    fit = lm(posterior, init={"x": 0.5, "y": 1.2}, starts=8)
    assert len(fit.others) == 1
    post = inference.rto(posterior, init=fit, draws=2000, seed=1, progress=False)
    y = post.posterior["y"].values
    share = model.expectation(lambda y: (y > 0).astype(float))
    assert 0.55 < share < 0.8
    assert (y > 0).mean() == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / post.attrs["resampled_ess"]))
    assert post.attrs["log_evidence"] == pytest.approx(model.log_evidence, abs=4 * post.attrs["log_evidence_error"])


def test_sample_turns_to_it_where_laplace_is_refused(core_sersic):
    post = inference.sample(core_sersic, draws=800, seed=1, progress=False)
    assert post.attrs["method"] == "RTO"
    assert post.attrs["verdict"] == "ok"
    assert "the Laplace approximation has k-hat" in post.attrs["choice"]
    assert "randomize-then-optimize has k-hat" in post.posterior.attrs["choice"]
    assert post.attrs["log_evidence_error"] < 0.05


def test_same_seed_gives_the_same_draws_and_another_others(banana):
    fit = lm(banana)
    first, again, other = (
        inference.rto(banana, init=fit, draws=100, seed=seed, progress=False).posterior["y"].values
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.isclose(first, other).any()


def of_another_distribution() -> None:
    x = pyro.sample("x", dist.Normal(double(0.0), 1.0))
    pyro.sample("data", dist.Laplace(x, 1.0), obs=double(0.3))


def with_a_sampled_width() -> None:
    width = pyro.sample("width", dist.LogNormal(double(0.0), 1.0))
    pyro.sample("data", dist.Normal(double(0.0), width), obs=double(0.3))


def with_a_conditional_prior() -> None:
    v = pyro.sample("v", dist.Normal(double(0.0), 3.0))
    x = pyro.sample("x", dist.Normal(double(0.0), torch.exp(v / 2)))
    pyro.sample("data", dist.Normal(x, 1.0), obs=double(0.3))


@pytest.mark.parametrize("model", [of_another_distribution, with_a_sampled_width, with_a_conditional_prior])
def test_posterior_that_is_not_of_residuals_is_refused_and_sampled_otherwise(model):
    with pytest.raises(ValueError, match="rto: expected data with Normal errors of known size and independent priors"):
        inference.rto(model, progress=False)
    assert not straightens(Posterior(model))


# -- the coordinates


@pytest.mark.parametrize("name", ["banana", "core_sersic"])
def test_slopes_of_the_coordinates_are_their_derivatives(name, request):
    posterior = request.getfixturevalue(name)
    fit = lm(posterior)
    at = residual_coordinates(modes_at(posterior, fit).each[0])
    w, slope = at.at(fit.z[None])
    assert float(w.abs().max()) < 0.5
    torch.testing.assert_close(slope[0], at.factor.T, rtol=1e-9, atol=1e-9 * float(at.factor.abs().max()))
    step = 1e-5 * torch.linalg.inv(at.factor).T  # columns, a hundred-thousandth of a standard deviation each
    point = fit.z + step @ torch.linspace(-5e4, 5e4, posterior.size, dtype=torch.float64)
    ahead, behind = (at.at(point + sign * step.T)[0] for sign in (1, -1))
    _, slope = at.at(point[None])
    torch.testing.assert_close((slope[0] @ step).T, 0.5 * (ahead - behind), rtol=1e-4, atol=1e-9)


def test_solutions_solve_their_equations(core_sersic):
    at = residual_coordinates(modes_at(core_sersic, lm(core_sersic)).each[0])
    targets = torch.randn(100, core_sersic.size, dtype=torch.float64)
    solved = at.points(targets)
    assert solved.found.float().mean() > 0.98
    w, slope = at.at(solved.z[solved.found])
    torch.testing.assert_close(w, targets[solved.found], rtol=0, atol=1.5e-3)
    torch.testing.assert_close(torch.linalg.slogdet(slope)[1], solved.volume[solved.found], rtol=1e-9, atol=1e-9)


def test_linear_model_is_solved_in_a_step_and_its_weights_are_those_of_the_student_t():
    def model():
        beta = pyro.sample("beta", dist.Normal(double(0.0, 1.0), 2.0).to_event(1))
        pyro.sample("data", dist.Normal(beta.sum() + beta, 0.5).to_event(1), obs=double(0.7, -0.2))

    posterior = Posterior(model)
    modes = modes_at(posterior, lm(posterior))
    z, log_proposal = straightened(modes, 200, 3)
    by_laplace, log_laplace = modes.proposals(200, 3)
    torch.testing.assert_close(z, by_laplace, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(log_proposal, log_laplace, rtol=1e-3, atol=1e-3)
    assert importance(posterior, z, log_proposal).ess > 160


@pytest.mark.parametrize(
    ("prior", "law"),
    [
        (dist.Normal(double(2.0), 3.0), scipy.stats.norm(2.0, 3.0)),
        (dist.LogNormal(double(1.0), 0.5), scipy.stats.lognorm(0.5, scale=math.e)),
        (dist.Uniform(double(-1.0), 3.0), scipy.stats.uniform(-1.0, 4.0)),
        (dist.Beta(double(2.0), 5.0), scipy.stats.beta(2.0, 5.0)),
    ],
)
def test_normal_scores_are_those_of_the_prior(prior, law):
    def model():
        x = pyro.sample("x", prior)
        pyro.sample("data", dist.Normal(x, 0.1), obs=double(0.5))

    posterior = Posterior(model)
    centre = posterior.unconstrain({"x": 0.5})
    scores = normal_scores(posterior, centre, double(0.1)[None])
    x = law.ppf(np.linspace(0.001, 0.999, 200))
    z = torch.stack([posterior.unconstrain({"x": value}) for value in x])
    value, slope = scores.at(z)
    np.testing.assert_allclose(value[:, 0], scipy.stats.norm.ppf(law.cdf(x)), atol=0.02)
    step = 1e-6
    difference = (scores.at(z + step)[0] - scores.at(z - step)[0]) / (2 * step)
    torch.testing.assert_close(slope, difference, rtol=1e-4, atol=1e-6)
    assert bool((slope > 0).all())
