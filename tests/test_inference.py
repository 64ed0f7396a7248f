"""Inference on any Pyro model against known answers: density, curvature, fit, sampler, export and verdict."""

from __future__ import annotations

import math
import re
import shutil
import threading
from collections.abc import Callable
from typing import Any

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.reparam import LocScaleReparam
from test_malformed_inputs import Case, assert_refused
from torch import Tensor
from torch.distributions import biject_to
from torch.utils._pytree import tree_leaves

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.inference import Posterior, export
from bayesprof.inference.climb import within
from bayesprof.inference.information import fisher_terms
from bayesprof.rendering import renderer_for

DRAWS = np.random.default_rng(11)
X = torch.from_numpy(DRAWS.normal(size=(20, 3)))
Y = X @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + 0.3 * torch.from_numpy(DRAWS.normal(size=20))
COUNTS = torch.from_numpy(DRAWS.poisson(3.0, 20)).double()
SCHOOLS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], dtype=torch.float64)
SCHOOL_SIGMA = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], dtype=torch.float64)


def double(*values: float) -> Tensor:
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


# -- models


def linear_regression():
    """Normal prior, Normal noise of known size: everything about it is known."""
    beta = pyro.sample("beta", dist.Normal(torch.zeros(3, dtype=torch.float64), 2.0).to_event(1))
    pyro.sample("y", dist.Normal(X @ beta, 0.3).to_event(1), obs=Y)


def noisy_regression():
    with pyro.plate("coefficients", 3):
        beta = pyro.sample("beta", dist.Normal(double(0.0), 2.0))
    sigma = pyro.sample("sigma", dist.HalfCauchy(double(1.0)))
    pyro.deterministic("precision", sigma**-2)
    with pyro.plate("data", 20):
        pyro.sample("y", dist.Normal(X @ beta, sigma), obs=Y)


def eight_schools():
    mu = pyro.sample("mu", dist.Normal(double(0.0), 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(double(5.0)))
    with pyro.plate("schools", 8):
        raw = pyro.sample("raw", dist.Normal(double(0.0), 1.0))
        theta = pyro.deterministic("theta", mu + tau * raw)
        pyro.sample("y", dist.Normal(theta, SCHOOL_SIGMA), obs=SCHOOLS)


def nested_plates():
    outer, inner = pyro.plate("outer", 2, dim=-1), pyro.plate("inner", 4, dim=-2)
    with outer:
        mu = pyro.sample("mu", dist.Normal(double(0.0), 1.0))
    with outer, inner:
        rate = pyro.sample("rate", dist.Gamma(double(2.0), torch.exp(mu)))
        pyro.sample("counts", dist.Poisson(rate), obs=COUNTS[:8].reshape(4, 2))


def robust_regression():
    beta = pyro.sample("beta", dist.Normal(torch.zeros(3, dtype=torch.float64), 2.0).to_event(1))
    df = pyro.sample("df", dist.Gamma(double(2.0), 0.1))
    scale = pyro.sample("scale", dist.LogNormal(double(-1.0), 1.0))
    pyro.sample("y", dist.StudentT(df, X @ beta, scale).to_event(1), obs=Y)


def poisson_regression():
    beta = pyro.sample("beta", dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1))
    pyro.sample("counts", dist.Poisson(torch.exp(X @ beta)).to_event(1), obs=COUNTS)


def logistic_regression():
    beta = pyro.sample("beta", dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1))
    pyro.sample("above", dist.Bernoulli(logits=X @ beta).to_event(1), obs=(Y > 0).double())


def constrained():
    p = pyro.sample("p", dist.Dirichlet(double(1.0, 2.0, 3.0)))
    low = pyro.sample("low", dist.Uniform(double(-2.0), double(3.0)))
    fraction = pyro.sample("fraction", dist.Beta(double(2.0), 3.0))
    factor = pyro.sample("factor", dist.LKJCholesky(3, double(2.0)))
    angle = pyro.sample("angle", dist.VonMises(double(0.3), 4.0))
    shape = pyro.sample("shape", models.Ellipticity(double(0.4)))
    mean = p * low + fraction * torch.sin(angle) + torch.cat([shape, shape[:1]])
    pyro.sample("v", dist.MultivariateNormal(mean, scale_tril=factor), obs=double(0.5, -0.2, 0.9))


def masked_scaled_and_factored():
    mu = pyro.sample("mu", dist.Normal(double(0.0), 3.0))
    sigma = pyro.sample("sigma", dist.LogNormal(double(0.0), 1.0))
    with poutine.scale(scale=0.5):
        pyro.sample("half", dist.Normal(mu, sigma).expand([20]).to_event(1), obs=Y)
    with poutine.mask(mask=Y > 0):
        pyro.sample("positive", dist.Normal(mu, 1.0).expand([20]), obs=Y)
    pyro.sample("inner", dist.Normal(mu, sigma).expand([20]).mask(Y < 1).to_event(1), obs=Y)
    pyro.factor("penalty", -0.1 * mu**4)


def single_precision():
    mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
    with pyro.plate("data", 20):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=Y)


@pytest.fixture(scope="module")
def scene(simulated) -> bp.Scene:
    light = models.Sersic(17.3, 11.8, 400.0, 3.0, 1.5, ellipticity=[0.2, 0.1]) + models.FlatSky(2.0)
    mask = np.zeros((26, 33), dtype=bool)
    mask[3:6, 20:28] = True
    return bp.Scene(simulated(light, mask=mask), sky=models.flat_sky(), galaxy=models.sersic())


MODELS: dict[str, Callable[[], Any]] = {
    model.__name__: model
    for model in (
        linear_regression,
        noisy_regression,
        eight_schools,
        nested_plates,
        robust_regression,
        poisson_regression,
        logistic_regression,
        constrained,
        masked_scaled_and_factored,
        single_precision,
    )
}


def latent_nodes(model: Callable[[], Any]) -> dict[str, Any]:
    nodes = poutine.trace(model).get_trace().nodes
    return {
        name: node
        for name, node in nodes.items()
        if node["type"] == "sample" and not node["is_observed"] and type(node["fn"]).__name__ != "_Subsample"
    }


def pyros_log_density(model: Callable[[], Any], z: Tensor) -> Tensor:
    """Pyro's own log density of the model at unconstrained `z`, plus the log determinant of the Jacobian."""
    values, jacobian, start = {}, torch.zeros((), dtype=torch.float64), 0
    for name, node in latent_nodes(model).items():
        transform = biject_to(node["fn"].support)
        shape = transform.inv(node["value"]).shape
        part = z[start : start + shape.numel()].reshape(shape)
        values[name] = transform(part)
        jacobian = jacobian + transform.log_abs_det_jacobian(part, values[name]).sum()
        start += shape.numel()
    assert start == len(z)
    trace = poutine.trace(poutine.condition(model, data=values)).get_trace()
    return trace.log_prob_sum() + jacobian


def points(size: int, count: int, spread: float = 0.5) -> Tensor:
    return spread * torch.randn(count, size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


# -- the posterior


@pytest.mark.parametrize("name", [*MODELS, "scene"])
def test_log_density_and_gradient_agree_with_pyro_and_autograd(name, scene):
    model = scene if name == "scene" else MODELS[name]
    posterior = Posterior(model)
    centre = posterior.initial() if name == "scene" else torch.zeros(posterior.size, dtype=torch.float64)
    for z in centre + points(posterior.size, 3, 0.05 if name == "scene" else 0.5):
        here = z.clone().requires_grad_()
        expected = pyros_log_density(model, here)
        (slope,) = torch.autograd.grad(expected, here)
        tight = 1e-6 if name == "single_precision" else 1e-10
        value, gradient = posterior.value_and_grad(z)
        assert value.item() == pytest.approx(expected.item(), rel=tight)
        assert posterior.log_density(z).item() == pytest.approx(expected.item(), rel=tight)
        torch.testing.assert_close(gradient, slope, rtol=tight, atol=tight * float(slope.abs().max()))


@pytest.mark.parametrize("name", ["eight_schools", "constrained"])
def test_batches_and_vmap_agree_with_a_loop(name):
    posterior = Posterior(MODELS[name])
    z = points(posterior.size, 6).reshape(2, 3, posterior.size)
    value, gradient = posterior.value_and_grad(z)
    assert value.shape == posterior.log_density(z).shape == (2, 3)
    assert gradient.shape == z.shape
    by_vmap = torch.func.vmap(posterior.log_density)(z[0])
    described = posterior.describe(z)
    for i in range(2):
        for j in range(3):
            one, slope = posterior.value_and_grad(z[i, j])
            torch.testing.assert_close(value[i, j], one, rtol=1e-12, atol=0)
            torch.testing.assert_close(gradient[i, j], slope, rtol=1e-10, atol=1e-10)
            for site, values in posterior.describe(z[i, j]).items():
                torch.testing.assert_close(described[site][i, j], values, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(by_vmap, value[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["log_density", "value_and_grad", "expansion"])
def test_captured_functions_are_the_direct_ones_to_the_last_bit(name, scene):
    """What was called how often before must not show in anybody's draws."""
    posterior = Posterior(scene)
    z = posterior.initial() + points(posterior.size, 4, 0.01)
    functions = posterior._functions
    shared = functions._shared
    shared.calls.clear()
    shared.captured.clear()
    functions._bound.clear()
    batches = z.split(functions.together(name, 4))
    direct = functions(name, batches)
    assert not shared.captured
    posterior.prepare(name, batch=4, calls=1000)
    assert shared.captured
    for one, other in zip(tree_leaves(direct), tree_leaves(functions(name, batches)), strict=True):
        assert torch.equal(one, other)


def test_batches_of_a_large_image_are_shared_out_among_threads(scene, monkeypatch):
    monkeypatch.setattr("bayesprof.inference.functions._WORTH_A_THREAD", 0)
    posterior = Posterior(scene)
    z = posterior.initial() + points(posterior.size, 8, 0.01)
    functions = posterior._functions
    posterior.prepare("value_and_grad", batch=8, calls=1000)
    size = functions.together("value_and_grad", 8)
    assert size < 8
    function = functions._bound[("value_and_grad", size)]
    names = []

    def named(batch):
        names.append(threading.current_thread().name)
        return function(batch)

    functions._bound[("value_and_grad", size)] = named
    threads = torch.get_num_threads()
    value, gradient = posterior.value_and_grad(z)
    assert torch.get_num_threads() == threads
    assert len(names) == 8 // size
    assert all(name.startswith("bayesprof") for name in names)
    for i, batch in enumerate(z.split(size)):
        slope, density = function(batch)
        assert torch.equal(value[i * size : (i + 1) * size], density)
        assert torch.equal(gradient[i * size : (i + 1) * size], slope)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_functions_are_the_plain_ones():
    posterior = Posterior(noisy_regression)
    z = points(posterior.size, 3, 0.3)
    plain = [torch.stack(values) for values in zip(*(posterior.value_and_grad(point) for point in z), strict=True)]
    posterior.prepare("value_and_grad", batch=3, calls=1, compile=True)
    assert ("value_and_grad", 3) in posterior._functions._shared.compiled
    for one, other in zip(posterior.value_and_grad(z), plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_other_data_share_the_graphs_and_change_the_density(scene):
    posterior = Posterior(scene)
    name = posterior.observed[0]
    z = posterior.initial()
    posterior.prepare("value_and_grad", batch=1, calls=1000)
    other = posterior.with_data({name: posterior.data[name] + 0.5})
    assert other._functions._shared is posterior._functions._shared
    node = other.observed_nodes(z)[name]
    assert torch.equal(node["value"], posterior.data[name] + 0.5)
    expected = posterior.log_prior(z) + node["fn"].log_prob(node["value"])
    torch.testing.assert_close(other.log_density(z), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(other.value_and_grad(z)[0], expected, rtol=1e-12, atol=0)
    assert other.fingerprint != posterior.fingerprint
    with pytest.raises(ValueError, match="shape"):
        posterior.with_data({name: torch.zeros(2, 2)})
    with pytest.raises(ValueError, match="observed sites"):
        posterior.with_data({"nobody": torch.zeros(2, 2)})


def test_scenes_of_one_shape_share_their_graphs(simulated):
    light = models.Exponential(17.3, 11.8, 600.0, 3.0, ellipticity=[0.2, 0.1]) + models.FlatSky(2.0)
    brighter = models.Exponential(15.1, 12.2, 900.0, 2.5, ellipticity=[0.0, -0.2]) + models.FlatSky(1.0)
    one, other = (
        Posterior(bp.Scene(simulated(what), sky=models.flat_sky(), galaxy=models.exponential()))
        for what in (light, brighter)
    )
    assert one._functions._shared is other._functions._shared


def test_first_call_may_come_from_inside_vmap_and_grad():
    z = points(3, 4)
    inside = torch.func.vmap(torch.func.grad(Posterior(linear_regression).log_density))(z)
    torch.testing.assert_close(inside, Posterior(linear_regression).value_and_grad(z)[1], rtol=1e-10, atol=1e-10)


def test_log_density_of_a_scene_can_be_differentiated_by_the_caller(scene):
    posterior = Posterior(scene)
    z = posterior.initial()
    expected = posterior.value_and_grad(z)[1]
    torch.testing.assert_close(torch.func.grad(posterior.log_density)(z), expected, rtol=1e-9, atol=1e-9)


def test_log_density_can_be_differentiated_twice():
    posterior = Posterior(poisson_regression)
    z = points(3, 1)[0]
    hessian = torch.func.hessian(posterior.log_density)(z)
    expected = torch.autograd.functional.hessian(lambda v: pyros_log_density(poisson_regression, v), z)
    torch.testing.assert_close(hessian, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [*MODELS, "scene"])
def test_unconstrain_undoes_constrain(name, scene):
    posterior = Posterior(scene if name == "scene" else MODELS[name])
    for z in points(posterior.size, 5, 1.0):
        values = posterior.constrain(z)
        for site in posterior.sites:
            assert values[site.name].shape == site.shape
            assert bool(site.transform.codomain.check(values[site.name]).all())
        torch.testing.assert_close(posterior.unconstrain(values), z, rtol=1e-7, atol=1e-7)


def test_sites_are_listed_in_order_of_execution_with_their_kinds():
    posterior = Posterior(masked_scaled_and_factored)
    assert [site.name for site in posterior.sites] == ["mu", "sigma"]
    assert posterior.observed == ("half", "positive", "inner")
    assert posterior.factors == ("penalty",)
    assert Posterior(eight_schools).deterministic == ("theta",)
    assert Posterior(constrained).size == 2 + 1 + 1 + 3 + 1 + 2


def test_deterministic_sites_follow_the_latent_ones():
    posterior = Posterior(eight_schools)
    z = points(posterior.size, 3)
    described = posterior.describe(z)
    expected = described["mu"][:, None] + described["tau"][:, None] * described["raw"]
    torch.testing.assert_close(described["theta"], expected, rtol=1e-12, atol=0)


def test_arguments_reach_the_model():
    def model(data, *, scale):
        mu = pyro.sample("mu", dist.Normal(double(0.0), 1.0))
        pyro.sample("d", dist.Normal(mu, scale).expand([2]).to_event(1), obs=data)

    posterior = Posterior(model, double(1.0, 2.0), scale=3.0)
    expected = scipy.stats.norm.logpdf([0.2, 1.0, 2.0], [0.0, 0.2, 0.2], [1.0, 3.0, 3.0]).sum()
    assert posterior.log_density(torch.tensor([0.2], dtype=torch.float64)).item() == pytest.approx(expected, rel=1e-12)


def test_pointwise_log_probabilities_sum_to_the_likelihood():
    posterior = Posterior(masked_scaled_and_factored)
    z = points(posterior.size, 1)[0]
    mu, sigma = (float(value) for value in posterior.constrain(z).values())
    found = posterior.pointwise(z)
    data = Y.numpy()
    by_hand = {
        "half": scipy.stats.norm.logpdf(data, mu, sigma),
        "positive": np.where(data > 0, scipy.stats.norm.logpdf(data, mu, 1.0), 0.0),
        "inner": np.where(data < 1, scipy.stats.norm.logpdf(data, mu, sigma), 0.0),
    }
    for name, expected in by_hand.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-10, atol=1e-12)


def test_building_and_evaluating_leave_the_random_state_alone():
    torch.manual_seed(3)
    expected = torch.randn(3)
    torch.manual_seed(3)
    Posterior(eight_schools).initial()
    inference.lm(linear_regression)
    assert torch.equal(torch.randn(3), expected)


def discrete():
    pyro.sample("kind", dist.Bernoulli(0.3))


def dynamic_support():
    top = pyro.sample("top", dist.LogNormal(0.0, 1.0))
    pyro.sample("below", dist.Uniform(torch.zeros(()), top))


def sometimes():
    if pyro.sample("a", dist.Normal(0.0, 1.0)) > 0:
        pyro.sample("b", dist.Normal(0.0, 1.0))


def nothing_latent():
    pyro.sample("d", dist.Normal(0.0, 1.0), obs=torch.tensor(1.0))


REFUSED = [
    Case("discrete", lambda: Posterior(discrete), ValueError, ("kind", "discrete Bernoulli"), "sum it out"),
    Case("dynamic support", lambda: Posterior(dynamic_support), ValueError, ("below", "fixed support"), "scale it"),
    Case(
        "nothing latent",
        lambda: Posterior(nothing_latent),
        ValueError,
        ("at least one latent site",),
        "held or observed",
    ),
    Case("no model", lambda: Posterior(3), TypeError, ("Pyro model", "int"), "a function"),
    Case(
        "missing value",
        lambda: Posterior(eight_schools).unconstrain({"mu": 0.0}),
        ValueError,
        ("tau", "raw"),
        "every latent site",
    ),
    Case(
        "value of a wrong shape",
        lambda: Posterior(linear_regression).unconstrain({"beta": [1.0, 2.0]}),
        ValueError,
        ("beta", "(2,)"),
        "(3,)",
    ),
    Case(
        "value outside its support",
        lambda: inference.lm(noisy_regression, init={"sigma": -1.0}),
        ValueError,
        ("sigma", "-1.0"),
        "inside the support",
    ),
    Case(
        "start of no site", lambda: inference.lm(linear_regression, init={"gamma": 1.0}), ValueError, ("gamma",), "beta"
    ),
    Case("no starts", lambda: inference.lm(linear_regression, starts=0), ValueError, ("starts >= 1",), "got 0"),
    Case("no draws", lambda: inference.nuts(linear_regression, draws=0), ValueError, ("draws >= 1",), "got 0"),
    Case("short warmup", lambda: inference.nuts(linear_regression, warmup=3), ValueError, ("warmup >= 20",), "got 3"),
    Case("chains", lambda: inference.nuts(linear_regression, chains=1.5), ValueError, ("chains >= 1",), "got 1.5"),
    Case(
        "acceptance",
        lambda: inference.nuts(linear_regression, target_acceptance=1.0),
        ValueError,
        ("target_acceptance",),
        "between 0 and 1",
    ),
    Case(
        "compile", lambda: inference.nuts(linear_regression, compile="yes"), ValueError, ("compile", "'yes'"), "'auto'"
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.label)
def test_what_cannot_be_inferred_is_refused_with_a_remedy(case):
    assert_refused(case)


def test_branch_on_a_drawn_value_is_refused():
    refused = []
    for seed in range(4):
        with pytest.raises(ValueError, match=r"expected|branch") as caught:
            Posterior(sometimes, seed=seed).log_density(torch.zeros(1, dtype=torch.float64))
        refused.append(str(caught.value))
    assert any("b: expected a site that is always there" in message for message in refused)


# -- curvature


def exact_hessian(model: Callable[[], Any], z: Tensor) -> Tensor:
    return -torch.autograd.functional.hessian(lambda v: pyros_log_density(model, v), z)


@pytest.mark.parametrize(
    "model", [linear_regression, poisson_regression, logistic_regression], ids=lambda m: m.__name__
)
def test_information_and_prior_add_up_to_the_exact_hessian(model):
    """Where the model is linear in the natural parameters, the Fisher information is the Hessian."""
    posterior = Posterior(model)
    z = points(3, 1)[0]
    value, gradient, information, prior = posterior.expansion(z)
    torch.testing.assert_close(information + prior, exact_hessian(model, z), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(posterior.value_and_grad(z)[1], gradient, rtol=1e-12, atol=1e-12)
    assert value.item() == pytest.approx(posterior.log_density(z).item(), rel=1e-12)


def test_unknown_distributions_and_factors_contribute_their_exact_hessian():
    posterior = Posterior(masked_scaled_and_factored)
    z = points(2, 1)[0]
    information = posterior.expansion(z)[2]
    mu, sigma = (float(value) for value in posterior.constrain(z).values())
    inner, positive = int((Y < 1).sum()), int((Y > 0).sum())
    in_mu = (0.5 * 20 + inner) / sigma**2 + positive + 1.2 * mu**2
    in_log_sigma = 2 * (0.5 * 20 + inner)
    torch.testing.assert_close(information, torch.diag(double(in_mu, in_log_sigma)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("distribution", "indices"),
    [
        (lambda p: dist.Normal(p[0], p[1]), (0, 1)),
        (lambda p: dist.Poisson(p[1]), (1,)),
        (lambda p: dist.StudentT(double(4.0), double(0.7), p[1]), (1,)),
    ],
    ids=["Normal", "Poisson", "StudentT scale"],
)
def test_fisher_information_is_the_mean_square_of_the_score(distribution, indices):
    parameters = double(0.7, 2.3)
    draws = 200_000
    value = distribution(parameters).expand([draws]).sample()

    def log_prob(p: Tensor) -> Tensor:
        return distribution(p).expand([draws]).log_prob(value)

    score = torch.func.jacfwd(log_prob)(parameters)[:, list(indices)]
    node = {"fn": distribution(parameters).expand([draws]), "value": value, "scale": 1.0, "mask": None}
    terms = fisher_terms(node)[-len(indices) :]
    for i, (_, information, its_score, _) in enumerate(terms):
        torch.testing.assert_close(its_score, score[:, i], rtol=1e-12, atol=1e-12)
        spread = (score[:, i] ** 2).std() / math.sqrt(draws)
        assert information[0].item() == pytest.approx((score[:, i] ** 2).mean().item(), abs=5 * spread.item())


@pytest.mark.parametrize(
    "distribution",
    [
        lambda p: dist.Normal(p[0], p[1]),
        lambda p: dist.Poisson(p[1]),
        lambda p: dist.StudentT(double(4.0), p[0], p[1]),
    ],
    ids=["Normal", "Poisson", "StudentT"],
)
def test_bends_are_minus_the_second_derivatives(distribution):
    parameters = double(0.7, 2.3)
    value = distribution(parameters).expand([50]).sample()
    second = -torch.func.jacfwd(torch.func.jacfwd(lambda p: distribution(p).expand([50]).log_prob(value)))(parameters)
    node = {"fn": distribution(parameters).expand([50]), "value": value, "scale": 3.0, "mask": value > value.min()}
    terms = fisher_terms(node)
    indices = (0, 1)[-len(terms) :]
    for i, term in zip(indices, terms, strict=True):
        for j, bend in zip(indices, term.bends, strict=False):
            torch.testing.assert_close(bend, 3.0 * second[:, i, j] * node["mask"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_hessian_is_the_derivative_of_the_gradient(name):
    model = MODELS[name]
    posterior = Posterior(model)
    for z in points(posterior.size, 2, 0.3):
        value, gradient, hessian = posterior.hessian(z)
        density, slope = posterior.value_and_grad(z)
        torch.testing.assert_close(value, density, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, slope, rtol=1e-9, atol=1e-9)
        expected = exact_hessian(model, z)
        torch.testing.assert_close(hessian, expected, rtol=1e-7, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("likelihood", "captured"),
    [
        ("gaussian", False),
        pytest.param("poisson", False, marks=pytest.mark.slow),
        pytest.param("student_t", True, marks=pytest.mark.slow),
    ],
)
def test_hessian_of_a_scene_is_exact_and_the_captured_one_the_same(simulated, likelihood, captured):
    light = models.Sersic(17.3, 11.8, 9000.0, 3.0, 1.5, ellipticity=[0.2, 0.1]) + models.FlatSky(20.0)
    galaxies = {"galaxy": models.sersic(), "other": models.exponential(x=dist.Normal(24.0, 2.0))}
    image = simulated(light)
    image = bp.Image(image.data.clamp(min=0.0).round().numpy(), sigma=image.sigma.numpy(), psf=image.psf.numpy())
    scene = bp.Scene(image, likelihood=likelihood, sky=models.flat_sky(), **galaxies)
    posterior = Posterior(scene)
    z = posterior.initial()
    value, gradient, hessian = posterior.hessian(z)
    expected = -torch.autograd.functional.hessian(posterior.log_density, z)
    root = expected.diagonal().abs().sqrt()
    assert float(((hessian - expected) / torch.outer(root, root)).abs().max()) < 1e-10
    torch.testing.assert_close(gradient, posterior.value_and_grad(z)[1], rtol=1e-9, atol=1e-9)
    if captured:  # ten seconds, which say the same of every likelihood
        posterior.prepare("hessian", batch=1, calls=1000)
        for one, other in zip((value, gradient, hessian), posterior.hessian(z), strict=True):
            assert torch.equal(one, other)


def test_information_is_positive_semidefinite_far_from_the_maximum(scene):
    posterior = Posterior(scene)
    for z in posterior.initial() + points(posterior.size, 3, 1.0):
        _, gradient, information, prior = posterior.expansion(z)
        assert bool(gradient.isfinite().all())
        assert bool(prior.isfinite().all())
        values = torch.linalg.eigvalsh(information)
        assert values.min() > -1e-9 * values.max()


# -- the fit


def regression_posterior() -> tuple[np.ndarray, np.ndarray]:
    x, y = X.numpy(), Y.numpy()
    covariance = np.linalg.inv(x.T @ x / 0.3**2 + np.eye(3) / 2.0**2)
    return covariance @ (x.T @ y / 0.3**2), covariance


def test_a_step_beyond_its_limit_is_cut_and_the_other_entries_are_solved_for_given_it():
    random = torch.Generator().manual_seed(1)
    root = torch.randn(5, 5, generator=random, dtype=torch.float64)
    curvature, gradient = root @ root.T + torch.eye(5, dtype=torch.float64), torch.randn(5, generator=random).double()
    free = torch.linalg.solve(curvature, gradient)
    longest = torch.full((5,), torch.inf, dtype=torch.float64)
    longest[2] = 0.1 * free[2].abs()
    step = within(longest, curvature, gradient, curvature.diagonal(), 0.0, None)
    assert float(step[2]) == pytest.approx(0.1 * float(free[2]), rel=1e-12)
    slope = gradient - curvature @ step  # of the quadratic, which is highest there but for the entry that is held
    others = torch.tensor([0, 1, 3, 4])
    torch.testing.assert_close(slope[others], torch.zeros(4, dtype=torch.float64), atol=1e-12, rtol=0.0)
    torch.testing.assert_close(within(longest * torch.inf, curvature, gradient, curvature.diagonal(), 0.0, None), free)


def test_a_parameter_that_runs_away_doesnt_hold_up_the_others():
    # an index that saturates at both ends, far from its truth, beside ten amplitudes with nothing to do with it
    grid = torch.linspace(0.0, 3.0, 60, dtype=torch.float64)

    def curve(index: Tensor) -> Tensor:
        return 300.0 * torch.exp(-grid * index)

    def model() -> None:
        index = pyro.sample("index", dist.Uniform(*torch.tensor([0.3, 8.0], dtype=torch.float64)))
        amplitudes = pyro.sample("amplitudes", dist.Normal(torch.zeros(10).double(), 1e3).to_event(1))
        pyro.sample("curve", dist.Normal(curve(index), 1.0).to_event(1), obs=curve(torch.tensor(6.0).double()))
        pyro.sample("data", dist.Normal(amplitudes, 1.0).to_event(1), obs=100.0 * torch.arange(10).double())

    fit = inference.lm(model, init={"index": torch.tensor(0.31, dtype=torch.float64)})
    assert fit.converged
    assert fit.iterations <= 12
    assert fit.params["index"] == pytest.approx(6.0, abs=0.1)


def test_fit_of_a_linear_model_is_its_exact_posterior():
    fit = inference.lm(linear_regression)
    mean, covariance = regression_posterior()
    assert fit.converged
    assert fit.labels == ["beta[0]", "beta[1]", "beta[2]"]
    assert fit.dof == 17
    assert fit.hessian_kind == "exact"
    assert fit.curvature_ratio == pytest.approx((1.0, 1.0), abs=1e-5)
    # a fit has converged at a Newton decrement of 1e-8, which is 1e-4 standard deviations from the maximum
    np.testing.assert_array_less(np.abs(fit.params["beta"] - mean), 1e-4 * np.sqrt(np.diag(covariance)))
    np.testing.assert_allclose(fit.covariance, covariance, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(fit.std["beta"], np.sqrt(np.diag(covariance)), rtol=1e-6)
    residual = (Y.numpy() - X.numpy() @ mean) / 0.3
    assert fit.chi2 == pytest.approx((residual**2).sum(), rel=1e-6)
    assert list(fit.table()["parameter"]) == fit.labels
    value, std = fit.params["beta"][1], fit.std["beta"][1]
    assert 0.01 < std < 0.1  # two digits of it are three decimals
    assert re.search(rf"beta\[1\] +{value:.3f} +{std:.3f}", repr(fit))


def test_fit_in_single_precision_reaches_the_mean():
    fit = inference.lm(single_precision)
    assert fit.converged
    assert fit.params["mu"] == pytest.approx(float(Y.mean()) * 20 / (20 + 1 / 9), rel=1e-5)
    assert fit.std["mu"] == pytest.approx((20 + 1 / 9) ** -0.5, rel=1e-3)


def test_fit_of_a_conjugate_model_is_the_known_mode_and_curvature():
    """Gamma prior, Poisson counts: in the log of the rate the mode is at shape / rate, with curvature shape."""

    def model():
        rate = pyro.sample("rate", dist.Gamma(double(2.0), 0.5))
        pyro.sample("counts", dist.Poisson(rate).expand([20]).to_event(1), obs=COUNTS)

    fit = inference.lm(model)
    shape = 2.0 + float(COUNTS.sum())
    assert fit.params["rate"] == pytest.approx(shape / 20.5, abs=1e-4 * math.sqrt(shape) / 20.5)
    assert fit.std["rate"] == pytest.approx(math.sqrt(shape) / 20.5, rel=1e-4)


def rosenbrock():
    x = pyro.sample("x", dist.Normal(double(0.0), 1e3))
    y = pyro.sample("y", dist.Normal(double(0.0), 1e3))
    pyro.sample("valley", dist.Normal(torch.stack([10 * (y - x**2), 1 - x]), 1.0).to_event(1), obs=double(0.0, 0.0))


@pytest.mark.parametrize("start", [(-1.2, 1.0), (5.0, -20.0), (-60.0, 300.0)])
def test_fit_follows_a_curved_valley_to_its_end(start):
    fit = inference.lm(rosenbrock, init={"x": start[0], "y": start[1]})
    assert fit.converged
    assert (fit.params["x"], fit.params["y"]) == pytest.approx((1.0, 1.0), abs=1e-3)
    expected = torch.linalg.inv(exact_hessian(rosenbrock, fit.z)).numpy()
    # the fourth derivative along this valley, 2,400 in units of its width, leaves 2e-4 in the fit's finite differences
    np.testing.assert_allclose(fit.covariance, expected, rtol=1e-3)


@pytest.mark.parametrize("model", [noisy_regression, robust_regression, eight_schools], ids=lambda m: m.__name__)
def test_fit_ends_at_a_maximum_with_the_exact_hessian(model):
    fit = inference.lm(model)
    assert fit.converged
    here = fit.z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(pyros_log_density(model, here), here)
    hessian = exact_hessian(model, fit.z)
    assert float(slope @ torch.linalg.solve(hessian, slope)) < 1e-6
    torch.testing.assert_close(fit.hessian, hessian, rtol=1e-4, atol=1e-4 * float(hessian.diagonal().max()))


def test_deviations_of_deterministic_sites_follow_the_delta_method():
    fit = inference.lm(noisy_regression)
    assert fit.params["precision"] == pytest.approx(fit.params["sigma"] ** -2, rel=1e-10)
    assert fit.std["precision"] == pytest.approx(2 * fit.params["sigma"] ** -3 * fit.std["sigma"], rel=1e-6)
    assert fit.labels == ["beta[0]", "beta[1]", "beta[2]", "sigma"]
    assert fit.covariance.shape == (4, 4)


def test_bad_start_says_so_instead_of_pretending():
    def model():
        a = pyro.sample("a", dist.Normal(double(0.0), 1e3))
        pyro.sample("d", dist.Normal(torch.exp(a**2), 1.0).expand([3]).to_event(1), obs=double(1.0, 2.0, 0.3))

    fit = inference.lm(model, init={"a": 100.0})
    assert not fit.converged
    assert "isn't finite" in fit.message
    assert "init=" in fit.message


@pytest.mark.parametrize("flat", [True, False], ids=["flat priors", "wide priors"])
def test_parameters_that_nothing_determines_fail_with_a_message(flat):
    def model():
        with poutine.mask(mask=not flat):
            a, b = (pyro.sample(name, dist.Normal(double(0.0), 1e9)) for name in "ab")
        pyro.sample("d", dist.Normal(a + b, 1.0).expand([3]).to_event(1), obs=double(1.0, 2.0, 0.3))

    fit = inference.lm(model)
    assert not fit.converged
    assert "singular" in fit.message
    assert not fit.message.startswith("Converged")


def test_a_fit_leads_past_a_saddle():
    def model():
        a = pyro.sample("a", dist.Normal(double(0.0), 10.0))
        pyro.sample("d", dist.Normal(a**2, 1.0).expand([3]).to_event(1), obs=double(4.0, 4.2, 3.9))

    for start in (0.0, 0.3):
        fit = inference.lm(model, init={"a": start})
        assert fit.converged
        assert fit.hessian_kind == "exact"
        assert abs(fit.params["a"]) == pytest.approx(math.sqrt(4.033), abs=0.01)


def test_the_angle_of_a_round_galaxy_has_the_error_of_any_angle_and_a_theta_that_is_no_angle_its_own():
    light = models.Sersic(11.3, 9.6, 300.0, 3.0, 1.0, ellipticity=[0.0, 0.0])
    psf = np.exp(-0.5 * (np.mgrid[-6:7, -6:7] ** 2).sum(0) / 1.2**2)
    blank = bp.Image(np.zeros((20, 24)), sigma=1.0, psf=psf)
    galaxy = models.exponential(x=11.3, y=9.6)
    image = bp.Image(renderer_for(blank)(light).numpy(), sigma=1.0, psf=psf)
    fit = inference.lm(bp.Scene(image, galaxy=galaxy))
    assert fit.converged
    np.testing.assert_allclose(fit.params["galaxy.ellipticity"], 0.0, atol=0.02)
    assert fit.std["galaxy.theta"] == pytest.approx(math.pi / math.sqrt(12))
    schools = inference.lm(eight_schools, init={"tau": 5.0})
    assert (schools.std["theta"] > 1.0).all()


def test_a_start_that_ended_higher_at_no_maximum_is_told():
    def model():
        prior = dist.Normal(double(0.0), 5.0)
        x = pyro.sample("x", prior)
        unbounded = 5 * torch.log1p(x.clamp(min=0.0)) - 4.5
        pyro.factor("rest", torch.where(x < 0, -0.5 * (x + 3) ** 2, unbounded) - prior.log_prob(x))

    alone = inference.lm(model, init={"x": -3.0})
    assert alone.converged
    fit = inference.lm(model, init={"x": -3.0}, starts=6)
    assert fit.params["x"] == pytest.approx(-3.0)
    assert not fit.converged
    assert "a start ended higher" in fit.message


def test_a_maximum_with_an_edge_is_one_and_its_message_says_so():
    """As a size along the major axis makes the density of a round galaxy's ellipticity."""

    def model():
        e = pyro.sample("e", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
        size = pyro.sample("size", dist.Normal(double(0.0), 1.0))
        length = (e.square().sum() + 1e-24).sqrt()
        pyro.sample("size_seen", dist.Normal(size - length, 0.1), obs=double(1.0))
        pyro.sample("e_seen", dist.Normal(e, 0.3).to_event(1), obs=torch.full((2,), 1e-6, dtype=torch.float64))

    fit = inference.lm(model, starts=4)
    assert fit.converged
    assert fit.hessian_kind == "gauss-newton"
    assert "edge" in fit.message
    np.testing.assert_allclose(fit.params["e"], 0.0, atol=1e-3)
    assert fit.params["size"] == pytest.approx(1.0, abs=0.01)
    post = inference.sample(model, init=fit, progress=False)
    # by quadrature over the length of e, given which the size is Normal
    r = np.linspace(0.0, 3.0, 3001)
    weight = r * np.exp(-0.5 * r**2 * (1 + 0.3**-2) - 0.5 * (1 + r) ** 2 / (1 + 0.1**2))
    weight /= weight.sum()
    assert post.attrs["verdict"] == "ok"
    assert float(post.posterior["e"].std()) == pytest.approx(math.sqrt(0.5 * weight @ r**2), rel=0.08)
    assert float(post.posterior["size"].mean()) == pytest.approx(weight @ (1 + r) / (1 + 0.1**2), abs=0.04)


@pytest.mark.parametrize(("truth", "error"), [(-0.5, 0.01), (-0.1, 0.01), (-2.0, 0.01), (1.5, 0.01)])
def test_fit_reaches_a_bound_that_the_data_lie_beyond(truth, error):
    """A fraction that the data want below 0 or above 1. There the curvature is that of the map to (0, 1)."""
    t = torch.linspace(0, 1, 200, dtype=torch.float64)
    data = 3 * torch.exp(-truth * t) / (1 + (t / 0.4) ** 2)

    def model():
        slope = pyro.sample("slope", dist.Beta(double(1.5), double(3.5)))
        height, width = (pyro.sample(name, dist.LogNormal(double(0.0), 1.0)) for name in ("height", "width"))
        curve = height * torch.exp(-slope * t) / (1 + (t / width) ** 2)
        pyro.sample("data", dist.Normal(curve, error).to_event(1), obs=data)

    fit = inference.lm(model)
    assert fit.converged
    here = fit.z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(pyros_log_density(model, here), here)
    assert float(slope @ torch.linalg.solve(exact_hessian(model, fit.z), slope)) < 1e-6
    assert abs(fit.params["slope"] - (0.0 if truth < 0 else 1.0)) < 0.01


def two_hills():
    x = pyro.sample("x", dist.Normal(double(0.0), 4.0))
    lower, higher = -0.5 * ((x + 4) / 0.5) ** 2, 3 - 0.5 * ((x - 3) / 0.5) ** 2
    pyro.factor("hills", torch.logaddexp(lower, higher))


def test_several_starts_find_the_higher_of_two_maxima():
    one = inference.lm(two_hills, init={"x": -4.0})
    best = inference.lm(two_hills, init={"x": -4.0}, starts=6, seed=1)
    assert one.converged
    assert one.params["x"] == pytest.approx(-4.0, abs=0.1)
    assert best.params["x"] == pytest.approx(3.0, abs=0.1)
    assert best.log_density > one.log_density + 2
    assert "Best of 6 starts" in best.message


def test_fit_goes_on_from_a_fit():
    posterior = Posterior(noisy_regression)
    first = inference.lm(posterior)
    again = inference.lm(posterior, init=first)
    assert again.converged
    assert again.iterations == 1
    torch.testing.assert_close(again.z, first.z, rtol=1e-6, atol=1e-8)


# -- the sampler

CORRELATION = torch.from_numpy(np.tril(DRAWS.normal(size=(5, 5)), -1) * 0.8 + np.diag([0.1, 1.0, 3.0, 0.5, 20.0]))
CENTRE = double(1.0, -2.0, 0.0, 30.0, 5.0)


def correlated_gaussian():
    pyro.sample("x", dist.MultivariateNormal(CENTRE, scale_tril=CORRELATION))


def beta_and_gamma():
    p = pyro.sample("p", dist.Beta(double(2.0), 3.0))
    pyro.sample("heads", dist.Binomial(10, p), obs=double(7.0))
    rate = pyro.sample("rate", dist.Gamma(double(2.0), 0.5))
    pyro.sample("counts", dist.Poisson(rate).expand([4]).to_event(1), obs=COUNTS[:4])


def assert_moments(idata: az.InferenceData, name: str, mean: np.ndarray, sd: np.ndarray) -> None:
    """Means within 4 Monte Carlo standard errors, standard deviations within 4 of theirs."""
    draws = idata.posterior[name]
    mcse = np.atleast_1d(az.mcse(draws, method="mean")[name])
    mcse_sd = np.atleast_1d(az.mcse(draws, method="sd")[name])
    found, spread = np.atleast_1d(draws.mean(["chain", "draw"])), np.atleast_1d(draws.std(["chain", "draw"]))
    assert (np.abs(found - mean) < 4 * mcse).all()
    assert (np.abs(spread - sd) < 4 * mcse_sd).all()
    assert (mcse < 0.1 * sd).all()


@pytest.mark.slow  # test_samplers.py has it at a smaller setting
def test_nuts_draws_a_correlated_gaussian():
    idata = inference.nuts(correlated_gaussian, draws=500, chains=4, seed=2, progress=False)
    covariance = (CORRELATION @ CORRELATION.T).numpy()
    assert_moments(idata, "x", CENTRE.numpy(), np.sqrt(np.diag(covariance)))
    found = np.corrcoef(idata.posterior["x"].values.reshape(-1, 5).T)
    scale = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(found, covariance / np.outer(scale, scale), atol=0.1)
    assert idata.attrs["verdict"] == "ok"


def test_nuts_draws_conjugate_posteriors_and_is_reproducible():
    posterior = Posterior(beta_and_gamma)
    idata = inference.nuts(posterior, draws=500, chains=4, seed=2, progress=False)
    p = scipy.stats.beta(9.0, 6.0)
    rate = scipy.stats.gamma(2.0 + float(COUNTS[:4].sum()), scale=1 / 4.5)
    assert_moments(idata, "p", p.mean(), p.std())
    assert_moments(idata, "rate", rate.mean(), rate.std())
    for name, law in (("p", p), ("rate", rate)):
        thinned = idata.posterior[name].values[:, ::4].ravel()
        assert scipy.stats.kstest(thinned, law.cdf).pvalue > 1e-4

    short = [
        inference.nuts(posterior, draws=20, warmup=20, chains=2, seed=seed, progress=False).posterior["p"].values
        for seed in (3, 3, 4)
    ]
    assert np.array_equal(short[0], short[1])
    assert not np.isclose(short[0], short[2]).any()
    assert not np.isclose(short[0][0], short[0][1]).any()


@pytest.fixture(scope="module")
def scene_draws(simulated) -> az.InferenceData:
    light = models.Exponential(17.3, 11.8, 600.0, 3.0, ellipticity=[0.2, 0.1]) + models.FlatSky(2.0)
    mask = np.zeros((26, 33), dtype=bool)
    mask[3:6, 20:28] = True
    scene = bp.Scene(simulated(light, mask=mask), sky=models.flat_sky(), galaxy=models.exponential(x=17.3, y=11.8))
    return inference.nuts(scene, draws=300, warmup=50, chains=2, seed=1, progress=False)


def test_result_has_every_group_with_named_dimensions(scene_draws):
    assert set(scene_draws.groups()) == {
        "posterior",
        "sample_stats",
        "log_likelihood",
        "prior",
        "prior_predictive",
        "posterior_predictive",
        "observed_data",
        "constant_data",
    }
    posterior = scene_draws.posterior
    assert set(posterior.data_vars) == {
        "sky.level",
        "galaxy.flux",
        "galaxy.r_eff",
        "galaxy.ellipticity",
        "galaxy.q",
        "galaxy.theta",
    }
    assert posterior["galaxy.ellipticity"].dims == ("chain", "draw", "ellipticity_component")
    assert list(posterior["ellipticity_component"].values) == ["e1", "e2"]
    assert dict(posterior.sizes) == {"chain": 2, "draw": 300, "ellipticity_component": 2}
    assert posterior["galaxy.r_eff"].attrs["units"] == "pixel"
    assert set(scene_draws.sample_stats.data_vars) == {
        "lp",
        "energy",
        "acceptance_rate",
        "step_size",
        "tree_depth",
        "n_steps",
        "diverging",
    }
    assert scene_draws.observed_data["image"].dims == ("y", "x")
    assert scene_draws.posterior_predictive["image"].dims == ("chain", "draw", "y", "x")
    assert scene_draws.prior_predictive["image"].shape[-2:] == (26, 33)
    assert set(scene_draws.prior.data_vars) == set(posterior.data_vars)
    assert {"image_sigma", "image_mask", "image_psf"} == set(scene_draws.constant_data.data_vars)
    assert scene_draws.log_likelihood["image"].shape == (2, 300, 26 * 33 - 24)
    assert isinstance(scene_draws.attrs["verdict"], str)


def test_the_pointwise_likelihood_of_a_large_image_is_thinned_in_silence(monkeypatch):
    # three draws of each of four chains are kept, fewer than the chains
    monkeypatch.setattr(export, "POINTWISE_VALUES", 3 * 4 * len(Y))
    draws = 0.1 * torch.randn(4, 9, 3, dtype=torch.float64)
    result = export.to_inference_data(inference.Posterior(linear_regression), draws)
    assert result.log_likelihood.sizes["draw"] == 3


def test_log_posterior_in_the_result_is_that_of_the_draws(scene_draws):
    q = scene_draws.posterior["galaxy.q"].values
    e = scene_draws.posterior["galaxy.ellipticity"].values
    size = np.hypot(e[..., 0], e[..., 1])
    np.testing.assert_allclose(q, (1 - size) / (1 + size), rtol=1e-10)
    likelihood = scene_draws.log_likelihood["image"].sum("image_unmasked").values
    assert np.corrcoef(scene_draws.sample_stats["lp"].values.ravel(), likelihood.ravel())[0, 1] > 0.9


def test_result_survives_netcdf_and_serves_arviz(scene_draws, tmp_path):
    scene_draws.to_netcdf(tmp_path / "draws.nc")
    again = az.from_netcdf(tmp_path / "draws.nc")
    assert set(again.groups()) == set(scene_draws.groups())
    assert again.attrs["verdict"] == scene_draws.attrs["verdict"]
    for name, values in scene_draws.posterior.data_vars.items():
        np.testing.assert_array_equal(again.posterior[name], values)
    summary = az.summary(again, var_names=["galaxy.flux", "galaxy.ellipticity"])
    assert list(summary.index) == ["galaxy.flux", "galaxy.ellipticity[e1]", "galaxy.ellipticity[e2]"]
    loo = az.loo(again)
    assert loo.n_data_points == 26 * 33 - 24
    assert math.isfinite(loo.elpd_loo)


def test_models_that_are_no_scenes_are_exported_too(tmp_path):
    idata = inference.nuts(eight_schools, draws=30, warmup=20, chains=2, progress=False)
    assert idata.posterior["theta"].shape == (2, 30, 8)
    assert "constant_data" not in idata.groups()
    assert idata.observed_data["y"].shape == (8,)
    idata.to_netcdf(tmp_path / "schools.nc")


# -- the verdict


def judged(values: np.ndarray, **stats: np.ndarray) -> inference.Verdict:
    """Verdict on draws of one site, shape (chains, draws)."""
    return inference.judge(
        az.from_dict(posterior={"x": values}, sample_stats=stats or None), names=["x"], target_acceptance=0.7
    )


def independent(chains: int = 4, draws: int = 500) -> np.ndarray:
    return np.random.default_rng(6).normal(size=(chains, draws))


def test_independent_draws_are_ok():
    calm = np.zeros((4, 500), dtype=bool)
    verdict = judged(independent(), diverging=calm, energy=independent(), acceptance_rate=np.full((4, 500), 0.75))
    assert verdict.ok
    assert verdict.text == "ok"
    assert verdict.r_hat < 1.01
    assert min(verdict.ess_bulk, verdict.ess_tail) > 400


def drift() -> np.ndarray:
    return np.cumsum(np.random.default_rng(1).normal(size=(4, 500)), axis=1)


@pytest.mark.parametrize(
    ("values", "stats", "words"),
    [
        (independent() + np.array([[0.0], [0.0], [0.0], [8.0]]), {}, ("R-hat of x", "don't agree", "several modes")),
        (np.concatenate([independent(3), np.full((1, 500), 2.0)]), {}, ("R-hat of x", "more draws")),
        (np.full((4, 500), 1.0), {}, ("never moved", "stuck", "init=")),
        (drift(), {}, ("bulk ESS of x", "tail ESS", "times as many draws")),
        (independent(4, 60), {}, ("below 400",)),
        (independent(1), {}, ("R-hat needs two chains", "chains=4")),
        (independent(2, 3), {}, ("too few",)),
        (independent(), {"diverging": np.eye(4, 500, dtype=bool)}, ("4 divergent", "target_acceptance")),
        (independent(), {"energy": drift()}, ("E-BFMI", "reparametrise")),
        (independent(), {"acceptance_rate": np.full((4, 500), 0.2)}, ("acceptance is 0.20", "0.70", "warmup")),
        (np.where(np.arange(500) == 7, np.nan, independent()), {}, ()),
    ],
    ids=[
        "modes",
        "stuck chain",
        "stuck",
        "drift",
        "few",
        "one chain",
        "too few",
        "divergent",
        "energy",
        "acceptance",
        "NaN",
    ],
)
def test_failure_is_named_with_its_remedy(values, stats, words):
    verdict = judged(values, **stats)
    assert not verdict.ok
    for word in words:
        assert word in verdict.text


def test_one_stuck_chain_is_named():
    verdict = judged(np.concatenate([independent(3), np.full((1, 500), 0.1)]))
    assert "stuck" in verdict.text


def funnel():
    v = pyro.sample("v", dist.Normal(double(0.0), 3.0))
    pyro.sample("x", dist.Normal(double(0.0), torch.exp(v / 2)))


@pytest.mark.parametrize("model", [funnel, two_hills], ids=lambda model: model.__name__)
def test_sampling_what_cannot_be_sampled_is_not_ok(model):
    idata = inference.nuts(model, draws=60, warmup=20, chains=2, seed=1, progress=False)
    assert idata.attrs["verdict"] != "ok"
    assert any(word in idata.attrs["verdict"] for word in ("divergent", "R-hat", "ESS", "E-BFMI"))


def test_reparametrised_models_are_ordinary_models():
    """Pyro's own cure for a funnel goes through, and the site that it replaces counts as computed, not as data."""
    with_noise = poutine.reparam(
        lambda: pyro.sample("x", dist.Normal(pyro.sample("m", dist.Normal(double(0.0), 1.0)), 2.0)),
        config={"x": LocScaleReparam(0.0)},
    )
    posterior = Posterior(with_noise)
    assert [site.name for site in posterior.sites] == ["m", "x_decentered"]
    assert posterior.deterministic == ("x",)
    assert posterior.observed == ()


def test_support_constraints_of_pyro_have_a_bijection_and_a_transform_here():
    """Both registries: ours uses the bijection, Pyro's own samplers and guides the transform."""
    from torch.distributions import transform_to

    support = models.Ellipticity(0.4).support
    w = torch.randn(4, 2)
    for registry in (biject_to, transform_to):
        assert bool(support.check(registry(support)(w)).all())
    assert isinstance(support, constraints.Constraint)


def test_float32_images_are_fitted_like_float64_ones(simulated):
    """To a hundredth of a standard deviation; those to 2%, as the Hessian's differences are of float32 gradients."""
    light = models.Sersic(17.3, 11.8, 500.0, 3.0, 1.7, ellipticity=[0.2, 0.1]) + models.FlatSky(2.5)
    image = simulated(light)
    fits = [
        inference.lm(bp.Scene(image.to(dtype), galaxy=models.sersic(), sky=models.flat_sky()))
        for dtype in (torch.float64, torch.float32)
    ]
    assert fits[1].converged
    for name, value in fits[0].params.items():
        np.testing.assert_array_less(np.abs(fits[1].params[name] - value), 0.01 * np.asarray(fits[0].std[name]))
        np.testing.assert_allclose(fits[1].std[name], fits[0].std[name], rtol=0.02)
    single = inference.Posterior(bp.Scene(image.to(torch.float32), galaxy=models.sersic(), sky=models.flat_sky()))
    post = inference.sample(single, init=fits[1], draws=800, progress=False)
    assert post.attrs["verdict"] == "ok"


@pytest.mark.parametrize("family", ["normal", "poisson", "student_t", "pairs"])
def test_predicted_values_scatter_as_the_model_says(family):
    x = torch.linspace(0.0, 1.0, 40, dtype=torch.float64)

    def model():
        level = pyro.sample("level", dist.LogNormal(torch.tensor(3.0, dtype=torch.float64), 0.1))
        rate = level * (1 + x)
        scale = torch.full_like(rate, 2.0)
        values = {
            "normal": lambda: dist.Normal(rate, scale),
            "poisson": lambda: dist.Poisson(rate),
            "student_t": lambda: dist.StudentT(6.0, rate, scale),
            "pairs": lambda: dist.MultivariateNormal(torch.stack([rate, rate], -1), 4 * torch.eye(2).double()),
        }[family]()
        observed = torch.ones(values.batch_shape + values.event_shape, dtype=torch.float64)
        pyro.sample("data", values.to_event(1), obs=observed)

    posterior = inference.Posterior(model)
    z = torch.log(torch.tensor([[20.0], [30.0]], dtype=torch.float64)).expand(2, 1).repeat(500, 1)
    drawn = posterior.predict(z, seed=4)["data"]
    assert torch.equal(drawn, posterior.predict(z, seed=4)["data"])
    assert not torch.equal(drawn, posterior.predict(z, seed=5)["data"])
    expected = torch.tensor([20.0, 30.0], dtype=torch.float64)[:, None] * (1 + x)
    variance = {"poisson": expected, "student_t": torch.full_like(expected, 4 * 6 / 4)}.get(family, 4.0 + 0 * expected)
    drawn = drawn.reshape(500, 2, 40, -1)[..., 0]
    assert torch.allclose(drawn.mean(0), expected, atol=6 * float(variance.max().sqrt()) / 500**0.5)
    assert float((drawn.var(0) / variance).mean()) == pytest.approx(1.0, abs=0.05)
