"""Ways to the maximum other than plain Levenberg-Marquardt, constraints on the way, and the ensemble sampler."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import arviz as az
import emcee
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.optimize
import torch
from test_malformed_inputs import Case, assert_refused
from torch import Tensor

import bayesprof as bp
from bayesprof import models
from bayesprof.inference.constraints import Constrained, Constraint
from bayesprof.inference.ensemble import ensemble
from bayesprof.inference.fit import Fit
from bayesprof.inference.iterate import iterate
from bayesprof.inference.lm import lm
from bayesprof.inference.optimize import optimize
from bayesprof.inference.posterior import Posterior
from bayesprof.rendering import renderer_for

X = torch.from_numpy(np.random.default_rng(11).normal(size=(20, 3)))
Y = X @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def double(*values: float) -> Tensor:
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


def regression():
    beta = pyro.sample("beta", dist.Normal(torch.zeros(3, dtype=torch.float64), 2.0).to_event(1))
    pyro.deterministic("contrast", beta[0] - beta[1])
    pyro.sample("y", dist.Normal(X @ beta, 0.3).to_event(1), obs=Y)


COVARIANCE = np.linalg.inv(X.numpy().T @ X.numpy() / 0.3**2 + np.eye(3) / 2.0**2)
MEAN = COVARIANCE @ (X.numpy().T @ Y.numpy() / 0.3**2)


def banana():
    x = pyro.sample("x", dist.Normal(double(0.0), 3.0))
    y = pyro.sample("y", dist.Normal(double(0.0), 3.0))
    pyro.sample("valley", dist.Normal(torch.stack([3 * (y - x**2), 1 - x]), 1.0).to_event(1), obs=double(0.0, 0.0))


BANANA_START = {"x": -1.5, "y": 2.5}


def narrow_gaussian():
    """Correlation 0.99 and scales 1000 apart, 300 standard deviations from its start."""
    a = pyro.sample("a", dist.Normal(double(0.0), 1e4))
    b = pyro.sample("b", dist.Normal(double(0.0), 1e4))
    covariance = double(1.0, 990.0, 990.0, 1e6).reshape(2, 2)
    pyro.sample("d", dist.MultivariateNormal(torch.stack([a, b]), covariance), obs=double(3.0, 500.0))


NARROW_START = {"a": 40.0, "b": -300.0}


@pytest.fixture(scope="module")
def scene(moffat_psf) -> Posterior:
    light = models.Exponential(9.3, 7.6, 200.0, 2.5, ellipticity=[0.2, 0.1]) + models.FlatSky(1.0)
    blank = bp.Image(np.zeros((16, 20)), sigma=0.5, psf=moffat_psf)
    noise = np.random.default_rng(3).normal(0.0, 0.5, (16, 20))
    image = bp.Image(renderer_for(blank)(light).numpy() + noise, sigma=0.5, psf=moffat_psf)
    return Posterior(bp.Scene(image, sky=models.flat_sky(), galaxy=models.exponential()))


@pytest.fixture(scope="module")
def problems(scene) -> dict[str, tuple[Posterior, dict[str, Any] | None, Fit]]:
    """Posterior, start and Levenberg-Marquardt's fit, by name."""
    starts = {
        "regression": (Posterior(regression), {"beta": [5.0, 5.0, 5.0]}),
        "banana": (Posterior(banana), BANANA_START),
        "narrow gaussian": (Posterior(narrow_gaussian), NARROW_START),
        "scene": (scene, None),
    }
    return {name: (posterior, start, lm(posterior, init=start)) for name, (posterior, start) in starts.items()}


def distance(fit: Fit, reference: Fit) -> float:
    """Distance of two maxima in standard deviations of the second."""
    offset = fit.z - reference.z
    return float(offset @ reference.hessian @ offset) ** 0.5


# -- constraints


def constrained_regression() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the regression with beta_0 + beta_2 = 4.0 +- 0.05."""
    row = np.array([1.0, 0.0, 1.0])
    covariance = np.linalg.inv(np.linalg.inv(COVARIANCE) + np.outer(row, row) / 0.05**2)
    return covariance @ (np.linalg.inv(COVARIANCE) @ MEAN + row * 4.0 / 0.05**2), covariance


def test_constrained_linear_model_is_its_exact_posterior():
    mean, covariance = constrained_regression()
    sum_is_four = Constraint(lambda values: values["beta"][0] + values["beta"][2], 4.0, 0.05)
    fit = lm(regression, constraints=[sum_is_four])
    assert fit.converged
    assert fit.hessian_kind == "exact"
    np.testing.assert_array_less(np.abs(fit.params["beta"] - mean), 1e-4 * np.sqrt(np.diag(covariance)))
    np.testing.assert_allclose(fit.covariance, covariance, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(fit.std["beta"], np.sqrt(np.diag(covariance)), rtol=1e-6)
    contrast = np.array([1.0, -1.0, 0.0])
    assert fit.std["contrast"] == pytest.approx(np.sqrt(contrast @ covariance @ contrast), rel=1e-6)


def constrained_function(values: Any) -> Tensor:
    beta = values["beta"]
    return torch.stack([values["contrast"] * beta[2], torch.exp(0.3 * beta[0])])


def observed_regression():
    beta = pyro.sample("beta", dist.Normal(torch.zeros(3, dtype=torch.float64), 2.0).to_event(1))
    contrast = pyro.deterministic("contrast", beta[0] - beta[1])
    pyro.sample("y", dist.Normal(X @ beta, 0.3).to_event(1), obs=Y)
    function = constrained_function({"beta": beta, "contrast": contrast})
    pyro.sample("known", dist.Normal(function, double(0.1, 0.02)).to_event(1), obs=double(2.0, 1.5))


KNOWN = Constraint(constrained_function, mean=[2.0, 1.5], sigma=double(0.1, 0.02))


def test_constraint_is_an_observed_site_in_every_respect():
    """Value, gradient and curvature, in batches as well, and all of the fit, of a nonlinear function of two sites."""
    reference = Posterior(observed_regression)
    plain = Posterior(regression)
    z = 0.5 * torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    target = Constrained(plain, [KNOWN], z[0])
    for found, expected in (
        (target.log_density(z), reference.log_density(z)),
        (target.value_and_grad(z)[0], reference.value_and_grad(z)[0]),
        (target.value_and_grad(z)[1], reference.value_and_grad(z)[1]),
        *zip(target.expansion(z[1]), reference.expansion(z[1]), strict=True),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    fit, expected = lm(plain, constraints=[KNOWN]), lm(reference)
    assert fit.converged
    assert expected.converged
    assert distance(fit, expected) < 1e-4
    assert fit.dof == expected.dof == 19
    assert fit.chi2 == pytest.approx(expected.chi2, rel=1e-6)
    assert fit.log_density == pytest.approx(expected.log_density, abs=1e-6)
    np.testing.assert_allclose(fit.covariance, expected.covariance, rtol=1e-5, atol=1e-9)
    assert fit.std["contrast"] == pytest.approx(expected.std["contrast"], rel=1e-5)


def test_two_constraints_are_one_of_both():
    parts = [
        Constraint(lambda values: constrained_function(values)[0], 2.0, 0.1),
        Constraint(lambda values: constrained_function(values)[1], 1.5, 0.02),
    ]
    both, one = lm(regression, constraints=parts), lm(regression, constraints=[KNOWN])
    assert distance(both, one) < 1e-4
    np.testing.assert_allclose(both.covariance, one.covariance, rtol=1e-6, atol=1e-9)


def test_constraint_on_a_site_of_a_scene_holds_it(scene):
    free = lm(scene)
    held = lm(scene, constraints=[Constraint(lambda values: values["galaxy.r_eff"] * values["galaxy.q"], 1.2, 0.001)])
    assert free.params["galaxy.r_eff"] * free.params["galaxy.q"] > 1.3
    assert held.converged
    assert held.params["galaxy.r_eff"] * held.params["galaxy.q"] == pytest.approx(1.2, abs=0.003)
    assert held.dof == free.dof + 1


def test_without_constraints_the_posterior_itself_is_climbed(monkeypatch):
    def refuse(*_):
        raise AssertionError("a constrained density was made")

    monkeypatch.setattr("bayesprof.inference.constraints.Constrained", refuse)
    assert lm(regression).converged
    with pytest.raises(AssertionError):
        lm(regression, constraints=[KNOWN])


@pytest.mark.parametrize("method", ["nadam", "L-BFGS-B", "differential-evolution"])
def test_optimisers_obey_constraints(method):
    posterior = Posterior(regression)
    reference = lm(posterior, constraints=[KNOWN])
    assert distance(optimize(posterior, method=method, constraints=[KNOWN]), reference) < 0.01
    assert distance(reference, lm(posterior)) > 1


# -- optimisers

EVERY = [
    "nadam", "adam", "adamw", "radam", "adamax", "adagrad", "rmsprop", "rprop", "sgd", "asgd", "lbfgs",
    "gradient-descent", "Nelder-Mead", "Powell", "COBYLA", "COBYQA", "CG", "BFGS", "L-BFGS-B", "TNC",
    "SLSQP", "Newton-CG", "dogleg", "trust-ncg", "trust-krylov", "trust-exact", "trust-constr",
    "differential-evolution",
]  # fmt: skip
# adadelta is left out: it takes thousands of steps by design, and says so
CURVED = [
    "nadam", "adam", "rmsprop", "sgd", "lbfgs", "gradient-descent", "Nelder-Mead", "Powell", "COBYQA", "CG", "BFGS",
    "L-BFGS-B", "TNC", "SLSQP", "Newton-CG", "dogleg", "trust-krylov", "trust-constr", "differential-evolution",
]  # fmt: skip
OF_IMAGES = [
    "nadam", "sgd", "lbfgs", "gradient-descent", "COBYQA", "BFGS", "L-BFGS-B", "SLSQP", "Newton-CG", "trust-exact",
    "differential-evolution",
]  # fmt: skip


@pytest.mark.parametrize(
    ("problem", "method"),
    [
        *(("narrow gaussian", method) for method in EVERY),
        *(("banana", method) for method in CURVED),
        *(("scene", method) for method in OF_IMAGES),
    ],
)
def test_optimiser_ends_where_levenberg_marquardt_does(problem, method, problems):
    posterior, start, reference = problems[problem]
    fit = optimize(posterior, init=start, method=method)
    assert fit.converged, fit.message
    assert distance(fit, reference) < 0.01
    np.testing.assert_allclose(fit.covariance, reference.covariance, rtol=0.02, atol=1e-3 * reference.covariance.max())
    assert fit.chi2 == (None if reference.chi2 is None else pytest.approx(reference.chi2, abs=0.05))
    assert fit.path[-1] <= fit.log_density + 1e-6
    assert len(fit.path) == fit.iterations


@pytest.mark.parametrize("method", ["nadam", "gradient-descent", "L-BFGS-B", "Nelder-Mead", "differential-evolution"])
def test_optimiser_finds_the_exact_posterior_of_a_linear_model(method):
    fit = optimize(regression, init={"beta": [5.0, 5.0, 5.0]}, method=method)
    deviations = np.sqrt(COVARIANCE.diagonal())
    np.testing.assert_array_less(np.abs(fit.params["beta"] - MEAN), 0.01 * deviations)
    np.testing.assert_allclose(fit.covariance, COVARIANCE, rtol=1e-5, atol=1e-9)


def test_problems_start_far_from_their_maxima(problems):
    """Otherwise the agreement above says nothing."""
    for posterior, start, reference in problems.values():
        offset = posterior.initial(start) - reference.z
        assert float(offset @ reference.hessian @ offset) > 10**2


def test_class_of_an_optimiser_with_its_options_is_a_method():
    class Halved(torch.optim.SGD):
        """Stochastic gradient descent by another name."""

    fit = optimize(regression, method=Halved, learning_rate=0.1, options={"momentum": 0.5})
    assert fit.converged
    assert "Halved" in fit.message
    np.testing.assert_allclose(fit.params["beta"], MEAN, atol=0.01 * np.sqrt(COVARIANCE.diagonal().min()))


@pytest.mark.parametrize("patience", [3, 11])
@pytest.mark.parametrize("method", ["nadam", "sgd", "rprop"])
def test_rounds_without_a_rise_are_as_long_as_patience(method, patience, monkeypatch):
    """Gradients of the wrong sign lead downhill: four rounds, at ever smaller rates, and no step more."""
    posterior = Posterior(banana)
    value_and_grad, expansion = posterior.value_and_grad, posterior.expansion

    def reversed_gradient(z: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = value_and_grad(z)
        return value, -gradient

    monkeypatch.setattr(posterior, "value_and_grad", reversed_gradient)
    fit = optimize(posterior, init=BANANA_START, method=method, patience=patience)
    start = posterior.initial(BANANA_START)
    assert "no further rise" in fit.message
    assert not fit.converged
    assert fit.iterations == 4 * patience
    assert torch.equal(fit.z, start)
    assert fit.log_density == pytest.approx(float(expansion(start)[0]))


def test_learning_rate_is_the_longest_first_step():
    starts = {}
    for rate in (0.01, 0.05):
        fit = optimize(regression, init={"beta": MEAN + 3.0}, method="adam", learning_rate=rate, max_steps=2)
        whitened = torch.linalg.cholesky(fit.hessian).T @ (fit.z - torch.as_tensor(MEAN + 3.0))
        starts[rate] = whitened.abs().max().item()
    assert starts[0.01] == pytest.approx(0.01, rel=0.05)
    assert starts[0.05] == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize("method", ["adam", "gradient-descent", "Nelder-Mead", "BFGS", "trust-exact"])
def test_steps_are_not_exceeded_and_too_few_are_admitted(method):
    posterior = Posterior(banana)
    fit = optimize(posterior, init={"x": 0.3, "y": -1.5}, method=method, max_steps=3)
    assert not fit.converged
    assert "all 3 steps used" in fit.message
    assert "lm(model, init=fit)" in fit.message
    assert fit.iterations == len(fit.path) == 3
    stated = float(re.search(r"Stopped ([\d.e+-]+) standard", fit.message).group(1))
    gradient = posterior.value_and_grad(fit.z)[1]
    assert stated == pytest.approx(float(gradient @ torch.linalg.solve(fit.hessian, gradient)) ** 0.5, rel=0.5)


def test_optimiser_that_stops_on_a_saddle_has_not_converged():
    def saddle():
        x = pyro.sample("x", dist.Normal(double(0.0), 1.0))
        pyro.factor("bump", 2 * x**2 - 0.5 * x**4)

    for method in ("adam", "BFGS"):
        fit = optimize(saddle, init={"x": 0.0}, method=method)
        assert not fit.converged
        assert "saddle" in fit.message


def test_start_without_a_density_says_so():
    def undefined():
        x = pyro.sample("x", dist.Normal(double(0.0), 1.0))
        pyro.factor("wall", torch.where(x > 1.0, x, -torch.inf))

    for fit in (optimize(undefined, init={"x": 0.0}), iterate(undefined, init={"x": 0.0})):
        assert not fit.converged
        assert "give other starting values" in fit.message


def test_steps_into_undefined_ground_are_taken_back():
    """The density ends half a standard deviation beyond the maximum, and the start is 40 away on the other side."""

    def half_defined():
        x = pyro.sample("x", dist.Normal(double(0.0), 10.0))
        inside = x < 2.0
        depth = torch.where(inside, 2.0 - x, 1.0)
        pyro.factor("wall", torch.where(inside, 2 * torch.log(depth) - 2 * depth, -torch.inf))

    reference = lm(half_defined, init={"x": -20.0})
    assert reference.converged
    posterior = Posterior(half_defined)
    for method in ("nadam", "sgd", "lbfgs", "gradient-descent", "L-BFGS-B", "Nelder-Mead", "SLSQP", "trust-exact"):
        fit = optimize(posterior, init={"x": -20.0}, method=method)
        assert fit.converged, f"{method}: {fit.message}"
        assert distance(fit, reference) < 0.01


@pytest.mark.parametrize("method", ["nadam", "differential-evolution"])
def test_same_seed_same_fit(method):
    """To rounding: what is evaluated often is captured at some call, and rounds differently from then on."""
    posterior = Posterior(banana)
    one, two = (optimize(posterior, init=BANANA_START, method=method, seed=4) for _ in range(2))
    assert distance(one, two) < 1e-6
    np.testing.assert_allclose(one.path, two.path, rtol=1e-6, atol=1e-6)


def test_another_seed_is_another_evolution():
    one, two = (optimize(banana, method="differential-evolution", seed=seed) for seed in (4, 5))
    assert not np.array_equal(one.path[:3], two.path[:3])
    assert distance(one, two) < 0.01


def test_differential_evolution_finds_the_higher_of_two_maxima():
    def two_maxima():
        x = pyro.sample("x", dist.Normal(double(0.0), 5.0))
        low, high = (dist.Normal(double(at), 0.3).log_prob(x) for at in (-4.0, 4.0))
        pyro.factor("peaks", torch.logaddexp(low, high + 1.0))

    assert optimize(two_maxima, init={"x": -4.0}, method="L-BFGS-B").params["x"] == pytest.approx(-4.0, abs=0.1)
    fit = optimize(two_maxima, init={"x": -4.0}, method="differential-evolution")
    assert fit.converged
    assert fit.params["x"] == pytest.approx(4.0, abs=0.1)


# -- bounds

BOUNDED = ["L-BFGS-B", "TNC", "SLSQP", "Nelder-Mead", "Powell", "COBYQA", "trust-constr", "differential-evolution"]


def positive_pair():
    """Mode of log(a), log(b) known in closed form: correlated through their sum."""
    a = pyro.sample("a", dist.LogNormal(double(0.0), 1.0))
    b = pyro.sample("b", dist.LogNormal(double(0.0), 1.0))
    pyro.sample("total", dist.Normal(a + b, 0.5), obs=double(4.0))


@pytest.mark.parametrize("method", BOUNDED)
def test_bounds_are_respected_and_the_best_point_within_them_found(method):
    """With b at its bound of 1.2, the best a is the root of its own gradient."""
    posterior = Posterior(positive_pair)
    assert lm(posterior).params["b"] > 1.5
    fit = optimize(posterior, method=method, init={"a": 1.0, "b": 0.9}, bounds={"b": (0.5, 1.2)})
    assert fit.converged, fit.message
    assert 0.5 <= fit.params["b"] <= 1.2 + 1e-12
    assert fit.params["b"] == pytest.approx(1.2, abs=1e-3)
    assert "1 at their bounds" in fit.message

    def slope(log_a: float) -> float:
        a = np.exp(log_a)
        return -log_a - a * (a + 1.2 - 4.0) / 0.25

    expected = np.exp(scipy.optimize.brentq(slope, 0.0, 2.0))
    assert fit.params["a"] == pytest.approx(expected, abs=0.01 * fit.std["a"] + 1e-3)


@pytest.mark.parametrize("method", ["L-BFGS-B", "TNC", "SLSQP", "COBYQA", "trust-constr", "differential-evolution"])
def test_bounds_that_do_not_matter_change_nothing(method, problems):
    posterior, _, reference = problems["scene"]
    bounds = {"galaxy.r_eff": (1.0, 6.0), "galaxy.flux": (50.0, None), "sky.level": (None, 3.0)}
    fit = optimize(posterior, method=method, bounds=bounds)
    assert fit.converged, fit.message
    assert distance(fit, reference) < 0.01


def test_bounds_hold_during_the_search_on_a_decreasing_transform():
    """A support below a number is reached by a falling transform; bounds at its edge are no bounds."""

    def below():
        x = pyro.sample("x", dist.TransformedDistribution(
            dist.LogNormal(double(0.0), 1.0), dist.transforms.AffineTransform(5.0, -1.0)))  # fmt: skip
        pyro.sample("d", dist.Normal(x, 0.1), obs=double(4.5))

    fit = optimize(below, method="L-BFGS-B", init={"x": 1.0}, bounds={"x": (0.0, 3.0)})
    assert fit.params["x"] == pytest.approx(3.0, abs=1e-9)
    fit = optimize(below, method="L-BFGS-B", init={"x": 1.0}, bounds={"x": (0.0, 5.0)})
    assert fit.params["x"] == pytest.approx(lm(below).params["x"], abs=0.01 * fit.std["x"])


def test_default_start_is_moved_within_the_bounds():
    fit = optimize(positive_pair, method="L-BFGS-B", bounds={"a": (5.0, 6.0)})
    assert fit.params["a"] == pytest.approx(5.0, abs=1e-9)


# -- turns

TURNS: list[dict[str, Any]] = [
    {},
    {"order": "random"},
    {"by": "chunks", "chunk_size": 2},
    {"by": "chunks", "chunk_size": 1, "order": "random", "seed": 3},
    {"by": "chunks"},
]


@pytest.mark.parametrize(
    ("problem", "turns"),
    [
        *((problem, turns) for problem in ("regression", "banana") for turns in TURNS),
        *(("scene", turns) for turns in ({}, {"order": "random"})),
    ],
    ids=str,
)
def test_turns_end_where_a_fit_of_all_does(problem, turns, problems):
    posterior, start, reference = problems[problem]
    fit = iterate(posterior, init=start, max_cycles=1000, **turns)
    assert fit.converged, fit.message
    assert distance(fit, reference) < 0.01
    np.testing.assert_allclose(fit.covariance, reference.covariance, rtol=0.02, atol=1e-3 * reference.covariance.max())
    assert (np.diff(fit.path) > -1e-9).all()
    assert len(fit.path) == fit.iterations


def test_a_turn_moves_its_component_alone(scene, monkeypatch):
    seen: list[set[int]] = []
    module = sys.modules["bayesprof.inference.iterate"]
    climb = module.climb

    def watched(block: Any, part: Tensor, **options: Any) -> Any:
        end = climb(block, part, **options)
        moved = block.within(end.z) - block.z
        seen.append({int(entry) for entry in moved.nonzero()})
        return end

    monkeypatch.setattr(module, "climb", watched)
    iterate(scene, max_cycles=1)
    places = {site.name: set(range(scene.size)[site.place]) for site in scene.sites}
    sky = places.pop("sky.level")
    assert seen == [sky, set().union(*places.values())]


def test_cycles_are_not_exceeded_and_too_few_are_admitted():
    fit = iterate(banana, init=BANANA_START, max_cycles=2)
    assert not fit.converged
    assert fit.iterations == 2
    assert "still rising after 2 cycles" in fit.message


def test_turns_obey_constraints():
    reference = lm(regression, constraints=[KNOWN])
    fit = iterate(regression, by="chunks", chunk_size=1, constraints=[KNOWN])
    assert fit.converged
    assert distance(fit, reference) < 0.01


def test_same_seed_same_turns():
    one, two = (iterate(regression, by="chunks", chunk_size=2, order="random", seed=5) for _ in range(2))
    other = iterate(regression, by="chunks", chunk_size=2, order="random", seed=6)
    np.testing.assert_allclose(one.path, two.path, rtol=1e-9)
    assert abs(one.path[0] - other.path[0]) > 1e-3


# -- the ensemble sampler


@pytest.fixture(scope="module")
def regression_draws() -> az.InferenceData:
    return ensemble(regression, draws=500, warmup=100, seed=2, progress=False)


def test_ensemble_draws_the_exact_posterior(regression_draws):
    assert regression_draws.attrs["verdict"] == "ok"
    draws = regression_draws.posterior["beta"].values
    deviations = np.sqrt(COVARIANCE.diagonal())
    error = az.mcse(regression_draws, var_names="beta")["beta"].values
    assert (error < 0.05 * deviations).all()
    np.testing.assert_array_less(np.abs(draws.mean((0, 1)) - MEAN), 4 * error)
    flat = draws.reshape(-1, 3)
    np.testing.assert_allclose(flat.std(0), deviations, rtol=0.04)
    np.testing.assert_allclose(np.corrcoef(flat.T), COVARIANCE / np.outer(deviations, deviations), atol=0.05)


def test_errors_of_ensemble_means_are_as_large_as_stated():
    """Over 8 independent ensembles, the means scatter by the Monte Carlo standard error that ArviZ states for one.

    The ratio of the two has a relative error of 1 / sqrt(2 x 7 x 3), 15%; draws taken for independent of the walker's
    draws before would make it 3.
    """

    def gaussian():
        covariance = double(1.0, 0.9, 0.0, 0.9, 1.0, 0.0, 0.0, 0.0, 1.0).reshape(3, 3)
        pyro.sample("beta", dist.MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance))

    posterior = Posterior(gaussian)
    fit = lm(posterior)
    run = ensemble(posterior, init=fit, draws=300, warmup=60, chains=8, thin=3, progress=False)
    means = run.posterior["beta"].mean("draw").values
    stated = [az.mcse(run.posterior[["beta"]].isel(chain=[chain]))["beta"].values for chain in range(8)]
    ratio = np.sqrt((means.var(0, ddof=1) / np.square(stated).mean(0)).mean())
    assert ratio == pytest.approx(1.0, abs=0.45)


@pytest.mark.slow
def test_ensemble_follows_a_curved_valley():
    axis = np.linspace(-12, 12, 1201)
    x, y = np.meshgrid(axis, axis)
    weight = np.exp(-0.5 * (x**2 + y**2) / 9 - 0.5 * 9 * (y - x**2) ** 2 - 0.5 * (1 - x) ** 2)
    weight /= weight.sum()
    post = ensemble(banana, init=BANANA_START, draws=400, warmup=120, progress=False)
    assert post.attrs["verdict"] == "ok"
    for name, grid in (("x", x), ("y", y)):
        mean = (weight * grid).sum()
        deviation = np.sqrt((weight * (grid - mean) ** 2).sum())
        error = float(az.mcse(post, var_names=name)[name])
        assert float(post.posterior[name].mean()) == pytest.approx(mean, abs=4 * error)
        assert float(post.posterior[name].std()) == pytest.approx(deviation, rel=0.05)


def test_a_chain_holds_its_walkers_one_after_the_other(regression_draws):
    stats = regression_draws.sample_stats
    walkers, thin = regression_draws.attrs["walkers"], regression_draws.attrs["thin"]
    steps = len(range(0, 500, thin))
    assert stats.sizes["draw"] == walkers * steps
    assert np.array_equal(stats.walker[0].values, np.repeat(np.arange(walkers), steps))
    assert np.array_equal(stats.step[1, :steps].values, np.arange(0, 500, thin))
    assert regression_draws.attrs["autocorrelation_time"] >= 2 * thin
    posterior = Posterior(regression)
    for draw in (0, 700, -1):
        z = posterior.unconstrain({"beta": regression_draws.posterior["beta"][1, draw].values})
        assert float(stats.lp[1, draw]) == pytest.approx(float(posterior.log_density(z)), abs=1e-8)
    moved = np.diff(stats.lp.values.reshape(4, walkers, steps), axis=-1) != 0
    assert moved.mean() >= stats.acceptance_rate.values.mean() - 0.02


def test_same_seed_same_ensemble_and_another_seed_another():
    posterior = Posterior(banana)
    fit = lm(posterior)

    def run(seed: int) -> np.ndarray:
        post = ensemble(posterior, init=fit, draws=12, warmup=5, seed=seed, thin=1, progress=False)
        return post.posterior["x"].values

    np.random.seed(1)  # noqa: NPY002 (what emcee must not draw from)
    one = run(3)
    np.random.seed(2)  # noqa: NPY002
    assert np.array_equal(one, run(3))
    assert not np.array_equal(one, run(4))


def two_islands():
    x = pyro.sample("x", dist.Normal(double(0.0), 5.0))
    left, right = (dist.Normal(double(at), 0.2).log_prob(x) for at in (-3.0, 3.0))
    pyro.factor("islands", torch.logaddexp(left, right))


def test_ensembles_that_disagree_are_not_ok():
    """Started around one island out of two, some ensembles have walkers on the other that never meet."""
    fit = lm(two_islands, init={"x": 3.0})
    wide = replace(fit, z=torch.zeros_like(fit.z), hessian=fit.hessian / 200)
    stretch = emcee.moves.StretchMove()
    post = ensemble(two_islands, init=wide, draws=150, warmup=30, moves=stretch, progress=False)
    assert post.attrs["verdict"] != "ok"
    assert "ESS of x" in post.attrs["verdict"]


def test_moves_by_whole_differences_reach_the_other_island():
    fit = lm(two_islands, init={"x": 3.0})
    wide = replace(fit, z=torch.zeros_like(fit.z), hessian=fit.hessian / 200)
    x = ensemble(two_islands, init=wide, draws=250, warmup=100, progress=False).posterior["x"].values
    assert (x > 0).mean() == pytest.approx(0.5, abs=0.1)


def test_walkers_of_a_singular_fit_come_back_or_are_given_up():
    fit = lm(banana)
    lost = replace(fit, hessian=1e-30 * fit.hessian)
    assert ensemble(banana, init=lost, draws=20, warmup=100, chains=2, progress=False).posterior["x"].std() < 10
    with pytest.raises(ValueError, match="around the fit"):
        ensemble(banana, init=replace(fit, z=fit.z * torch.nan), draws=20, progress=False)


# -- arguments

REFUSED = [
    Case("function", lambda: Constraint(3.0, 1.0, 1.0), TypeError, ("function", "float"), "lambda values"),
    Case("sigma", lambda: Constraint(abs, 1.0, 0.0), ValueError, ("sigma > 0",), "standard deviation"),
    Case("mean", lambda: Constraint(abs, np.nan, 1.0), ValueError, ("mean", "nan"), "finite"),
    Case("mean of text", lambda: Constraint(abs, "big", 1.0), TypeError, ("mean", "str"), "number"),
    Case(
        "one constraint, no list",
        lambda: lm(regression, constraints=KNOWN),
        TypeError,
        ("list of Constraint",),
        "constraints=[...]",
    ),
    Case(
        "a pair for a constraint",
        lambda: lm(regression, constraints=[(abs, 1.0)]),
        TypeError,
        ("constraints[0]", "tuple"),
        "Constraint(function, mean, sigma)",
    ),
    Case(
        "unknown site",
        lambda: lm(regression, constraints=[KNOWN, Constraint(lambda values: values["gamma"], 1.0, 1.0)]),
        ValueError,
        ("constraints[1]", "'gamma'"),
        "'beta', 'contrast'",
    ),
    Case(
        "number",
        lambda: lm(regression, constraints=[Constraint(lambda values: values["contrast"].item(), 1.0, 1.0)]),
        TypeError,
        ("constraints[0]", "float"),
        "torch operations",
    ),
    Case(
        "constant",
        lambda: lm(regression, constraints=[Constraint(lambda values: double(3.0), 1.0, 1.0)]),
        TypeError,
        ("a constant",),
        "torch operations",
    ),
    Case(
        "mean of another shape",
        lambda: lm(regression, constraints=[Constraint(lambda values: values["beta"], [1.0, 2.0], 1.0)]),
        ValueError,
        ("mean", "(3,)", "(2,)"),
        "or a number",
    ),
    Case(
        "undefined at the start",
        lambda: lm(
            regression,
            init={"beta": [-1.0, 0.0, 0.0]},
            constraints=[Constraint(lambda values: values["beta"][0].log(), 1.0, 1.0)],
        ),
        ValueError,
        ("finite value at the start",),
        "init=",
    ),
    Case("method", lambda: optimize(regression, method="nadia"), ValueError, ("'nadia'",), "Nelder-Mead"),
    Case("no optimiser", lambda: optimize(regression, method=dict), ValueError, ("dict",), "torch.optim"),
    Case("steps", lambda: optimize(regression, max_steps=0), ValueError, ("max_steps >= 1",), "got 0"),
    Case("patience", lambda: optimize(regression, patience=1.5), ValueError, ("patience >= 1",), "got 1.5"),
    Case("tolerance", lambda: optimize(regression, tolerance=0.0), ValueError, ("tolerance > 0",), "got 0.0"),
    Case("rate", lambda: optimize(regression, learning_rate=-1.0), ValueError, ("learning_rate > 0",), "got -1.0"),
    Case(
        "options without use",
        lambda: optimize(regression, method="gradient-descent", options={"speed": 1}),
        ValueError,
        ("gradient-descent", "speed"),
        "no options",
    ),
    Case(
        "bounds without use",
        lambda: optimize(regression, method="adam", bounds={"beta": (0, 1)}),
        ValueError,
        ("Adam takes no bounds",),
        "L-BFGS-B",
    ),
    Case(
        "bounds of no site",
        lambda: optimize(regression, method="TNC", bounds={"gamma": (0, 1)}),
        ValueError,
        ("'gamma'",),
        "beta",
    ),
    Case(
        "no pair",
        lambda: optimize(regression, method="TNC", bounds={"beta": 3.0}),
        ValueError,
        ("'beta'", "3.0"),
        "(lower, upper)",
    ),
    Case(
        "bounds upside down",
        lambda: optimize(regression, method="TNC", bounds={"beta": (1.0, -1.0)}),
        ValueError,
        ("'beta'",),
        "lower < upper",
    ),
    Case(
        "bounds of another shape",
        lambda: optimize(regression, method="TNC", bounds={"beta": ([0.0, 0.0], None)}),
        ValueError,
        ("'beta'", "(2,)"),
        "(3,)",
    ),
    Case(
        "bounds beyond the support",
        lambda: optimize(positive_pair, method="TNC", bounds={"a": (-2.0, -1.0)}),
        ValueError,
        ("'a'", "-2.0"),
        "inside the support",
    ),
    Case(
        "start beyond the bounds",
        lambda: optimize(positive_pair, method="TNC", init={"a": 3.0}, bounds={"a": (1.0, 2.0)}),
        ValueError,
        ("'a'", "3.0"),
        "within its bounds",
    ),
    Case("turns", lambda: iterate(regression, by="site"), ValueError, ("'site'",), "'component' or 'chunks'"),
    Case("order", lambda: iterate(regression, order="any"), ValueError, ("'any'",), "'sequential' or 'random'"),
    Case(
        "chunks of components", lambda: iterate(regression, chunk_size=2), ValueError, ("chunk_size=2",), "by='chunks'"
    ),
    Case(
        "chunk size",
        lambda: iterate(regression, by="chunks", chunk_size=0),
        ValueError,
        ("chunk_size >= 1",),
        "got 0",
    ),
    Case("cycles", lambda: iterate(regression, max_cycles=0), ValueError, ("max_cycles >= 1",), "got 0"),
    Case("rise", lambda: iterate(regression, tolerance=-1.0), ValueError, ("tolerance > 0",), "got -1.0"),
    Case("walkers", lambda: ensemble(regression, walkers=6), ValueError, ("walkers >= 8", "got 6"), "twice the number"),
    Case("odd walkers", lambda: ensemble(regression, walkers=33), ValueError, ("got 33",), "even"),
    Case("draws", lambda: ensemble(regression, draws=0), ValueError, ("draws >= 4",), "got 0"),
    Case("thin", lambda: ensemble(regression, thin=0), ValueError, ("thin >= 1",), "got 0"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.label)
def test_arguments_that_make_no_sense_are_refused_with_a_remedy(case: Case):
    assert_refused(case)


def test_bounds_on_entries_that_are_tied_together_are_refused():
    def mixture():
        pyro.sample("p", dist.Dirichlet(double(1.0, 2.0, 3.0)))

    with pytest.raises(ValueError, match="ties them together"):
        optimize(mixture, method="L-BFGS-B", bounds={"p": (0.1, 0.5)})


FUNCTIONS: dict[str, Callable[[], Any]] = {
    "optimize": lambda: optimize(bound_to, 2.0, width=0.5),
    "iterate": lambda: iterate(bound_to, 2.0, width=0.5),
}


def bound_to(data: float, *, width: float):
    x = pyro.sample("x", dist.Normal(double(0.0), 1e3))
    pyro.sample("d", dist.Normal(x, width), obs=double(data))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_reach_the_model(name):
    fit = FUNCTIONS[name]()
    assert fit.params["x"] == pytest.approx(2.0, abs=0.005)
    assert fit.std["x"] == pytest.approx(0.5, rel=1e-5)
