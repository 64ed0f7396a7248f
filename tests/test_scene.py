"""A scene is a Pyro model of an image: its sites, its likelihood, its predictions, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, Predictive
from test_malformed_inputs import Case, assert_refused

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.likelihood import Observation
from bayesprof.rendering import renderer_for

TRUTH = {"x": 17.3, "y": 11.8, "flux": 400.0, "r_eff": 3.0, "n": 1.5}
ELLIPTICITY = [0.2, 0.1]


@pytest.fixture(scope="module")
def image(simulated) -> bp.Image:
    return simulated(models.Sersic(**TRUTH, ellipticity=ELLIPTICITY) + models.FlatSky(2.0))


@pytest.fixture
def scene(image) -> bp.Scene:
    return bp.Scene(image, sky=models.flat_sky(), galaxy=models.sersic())


def truth_by_site() -> dict[str, torch.Tensor]:
    values = {f"galaxy.{name}": torch.tensor(value, dtype=torch.float64) for name, value in TRUTH.items()}
    values["galaxy.ellipticity"] = torch.tensor(ELLIPTICITY, dtype=torch.float64)
    return {**values, "sky.level": torch.tensor(2.0, dtype=torch.float64)}


def bulge_and_disk() -> bp.light.Light:
    x, y = pyro.sample("x", dist.Normal(17.0, 1.0)), pyro.sample("y", dist.Normal(12.0, 1.0))
    flux = pyro.sample("flux", dist.LogNormal(6.0, 1.0))
    b_t = pyro.sample("bulge_to_total", dist.Beta(1.0, 2.0))
    r_b = pyro.sample("r_bulge", dist.LogNormal(0.0, 0.3))
    r_d = pyro.deterministic("r_disk", 3 * r_b)
    return models.Sersic(x, y, flux * b_t, r_b, 4.0) + models.Sersic(x, y, flux * (1 - b_t), r_d, 1.0, q=0.6, theta=0.4)


def observed_log_density(scene: bp.Scene, values: dict[str, torch.Tensor]) -> float:
    trace = poutine.trace(poutine.condition(scene, data=values)).get_trace()
    trace.compute_log_prob()
    return float(trace.nodes[scene.image.name]["log_prob_sum"])


# -- a Pyro model


def test_sites_are_named_component_dot_parameter_and_the_image_is_observed(scene):
    trace = poutine.trace(scene).get_trace()
    latent = ["x", "y", "flux", "r_eff", "n", "ellipticity"]
    assert trace.stochastic_nodes == ["sky.level", *(f"galaxy.{name}" for name in latent)]
    assert trace.observation_nodes == ["galaxy.q", "galaxy.theta", "image"]
    assert torch.equal(trace.nodes["image"]["value"], scene.image.data)
    assert trace.nodes["image"]["fn"].event_shape == (26, 33)
    assert not any("/" in name for name in trace.nodes)


def test_observed_site_has_the_name_of_the_image(image):
    named = bp.Image(image.data, sigma=0.5, psf=image.psf, name="r_band")
    assert "r_band" in poutine.trace(bp.Scene(named, galaxy=models.sersic())).get_trace().nodes


def test_conditioned_scene_renders_the_conditioned_light(scene):
    model_image = poutine.condition(scene, data=truth_by_site())()
    expected = renderer_for(scene.image)(models.Sersic(**TRUTH, ellipticity=ELLIPTICITY) + models.FlatSky(2.0))
    torch.testing.assert_close(model_image, expected, rtol=1e-12, atol=1e-12)


def test_q_and_theta_are_deterministic_sites_of_the_ellipticity(scene):
    nodes = poutine.trace(poutine.condition(scene, data=truth_by_site())).get_trace().nodes
    size = math.hypot(*ELLIPTICITY)
    assert float(nodes["galaxy.q"]["value"]) == pytest.approx((1 - size) / (1 + size), rel=1e-12)
    assert float(nodes["galaxy.theta"]["value"]) == pytest.approx(0.5 * math.atan2(0.1, 0.2), rel=1e-12)
    assert nodes["galaxy.q"]["infer"]["_deterministic"]
    assert nodes["galaxy.theta"]["infer"]["_deterministic"]


def test_log_density_of_the_trace_is_prior_plus_likelihood(scene):
    trace = poutine.trace(scene).get_trace()
    prior = trace.log_prob_sum(lambda name, site: name != "image")
    values = {name: trace.nodes[name]["value"] for name in trace.stochastic_nodes}
    assert float(trace.log_prob_sum()) == pytest.approx(float(prior) + observed_log_density(scene, values), rel=1e-12)


def test_predictive_draws_the_prior(scene):
    draws = Predictive(poutine.uncondition(scene), num_samples=6)()
    assert draws["image"].shape == (6, 26, 33)
    assert draws["galaxy.ellipticity"].reshape(6, 2).shape == (6, 2)
    assert not torch.equal(draws["image"][0], draws["image"][1])


def test_predictive_draws_the_posterior_predictive_of_given_samples(scene):
    samples = {name: torch.stack([value] * 40) for name, value in truth_by_site().items()}
    draws = Predictive(poutine.uncondition(scene), posterior_samples=samples)()["image"]
    expected = scene.predict(truth_by_site())
    deviation = (draws - expected) / scene.image.sigma
    assert float(deviation.mean()) == pytest.approx(0.0, abs=5 / math.sqrt(deviation.numel()))
    assert float(deviation.std()) == pytest.approx(1.0, abs=5 / math.sqrt(2 * deviation.numel()))


def test_scene_itself_keeps_observing_its_data_under_predictive(scene):
    draws = Predictive(scene, num_samples=2, return_sites=["image"])()
    assert torch.equal(draws["image"][1], scene.image.data)


def test_pyros_own_nuts_runs_on_a_scene(image):
    scene = bp.Scene(image, sky=models.flat_sky(level=2.0), galaxy=models.exponential(x=17.3, y=11.8))
    chain = MCMC(NUTS(scene, max_tree_depth=3), num_samples=3, warmup_steps=3, disable_progbar=True)
    chain.run()
    samples = chain.get_samples()
    assert set(samples) == {"galaxy.flux", "galaxy.r_eff", "galaxy.ellipticity"}
    assert samples["galaxy.ellipticity"].shape == (3, 2)
    assert all(bool(value.isfinite().all()) for value in samples.values())
    assert bool((samples["galaxy.ellipticity"].norm(dim=-1) < 1).all())


def test_gradient_of_the_log_density_is_finite_in_every_site(scene):
    values = {name: value.requires_grad_() for name, value in truth_by_site().items()}
    poutine.trace(poutine.condition(scene, data=values)).get_trace().log_prob_sum().backward()
    for name, value in values.items():
        assert bool(value.grad.isfinite().all()), name
        assert bool((value.grad != 0).any()), name


# -- users' own components


def test_a_function_that_draws_and_returns_light_is_a_component(image):
    scene = bp.Scene(image, sky=models.flat_sky(), galaxy=bulge_and_disk)
    trace = poutine.trace(scene).get_trace()
    assert trace.stochastic_nodes == [
        "sky.level",
        "galaxy.x",
        "galaxy.y",
        "galaxy.flux",
        "galaxy.bulge_to_total",
        "galaxy.r_bulge",
    ]
    values = {"x": 17.3, "y": 11.8, "flux": 300.0, "bulge_to_total": 0.25, "r_bulge": 0.9}
    params = {"sky.level": 1.0, **{f"galaxy.{name}": value for name, value in values.items()}}
    parts = models.Sersic(17.3, 11.8, 75.0, 0.9, 4.0) + models.Sersic(17.3, 11.8, 225.0, 2.7, 1.0, q=0.6, theta=0.4)
    expected = renderer_for(image)(parts + models.FlatSky(1.0))
    torch.testing.assert_close(scene.predict(params), expected, rtol=1e-11, atol=1e-11)


def test_the_same_function_serves_two_components(image):
    scene = bp.Scene(image, one=bulge_and_disk, two=bulge_and_disk)
    names = poutine.trace(scene).get_trace().stochastic_nodes
    assert len(names) == len(set(names)) == 10
    assert {name.split(".")[0] for name in names} == {"one", "two"}


def test_parameters_can_be_shared_through_a_closure(image):
    def pair():
        x = pyro.sample("x", dist.Normal(17.0, 1.0))
        with pyro.plate("members", 2):
            flux = pyro.sample("flux", dist.LogNormal(5.0, 1.0))
        return sum(models.PointSource(x + 4 * i, 12.0, flux[i]) for i in range(2))

    scene = bp.Scene(image, pair=pair)
    nodes = poutine.trace(scene).get_trace().nodes
    assert nodes["pair.flux"]["value"].shape == (2,)
    assert scene.predict({"pair.x": 15.0, "pair.flux": [10.0, 20.0]}).sum() == pytest.approx(30.0, rel=0.05)


# -- predict


def test_predict_takes_mappings_fits_and_held_values(image):
    held = models.Sersic(**TRUTH, ellipticity=ELLIPTICITY) + models.FlatSky(2.0)
    expected = renderer_for(image)(held)
    galaxy = models.sersic(**TRUTH, ellipticity=ELLIPTICITY)
    held = bp.Scene(image, sky=models.flat_sky(level=2.0), galaxy=galaxy).predict()
    # two renderers: the rounding of the library's kernels may differ with the alignment of their tensors
    torch.testing.assert_close(held, expected, rtol=1e-13, atol=0)
    scene = bp.Scene(image, sky=models.flat_sky(), galaxy=galaxy)
    torch.testing.assert_close(scene.predict({"sky.level": 2.0}), expected)
    fit = inference.lm(scene)
    assert fit.params["sky.level"] == pytest.approx(2.0, abs=5 * fit.std["sky.level"])
    torch.testing.assert_close(scene.predict(fit), scene.predict(fit.params))
    torch.testing.assert_close(scene.predict(fit), expected - 2.0 + fit.params["sky.level"])


def test_predict_of_components_adds_up(scene):
    values = truth_by_site()
    galaxy, sky = scene.predict(values, components="galaxy"), scene.predict(values, components=["sky"])
    torch.testing.assert_close(galaxy + sky, scene.predict(values), rtol=1e-12, atol=1e-12)
    assert torch.equal(sky, torch.full((26, 33), 2.0, dtype=torch.float64))


def test_predict_does_not_draw_and_does_not_record(scene):
    values = truth_by_site()
    with poutine.trace() as outer:
        first = scene.predict(values)
    assert torch.equal(first, scene.predict(values))
    assert not first.requires_grad
    assert [name for name, node in outer.trace.nodes.items() if node["type"] == "sample"] == []


# -- likelihoods against scipy


@pytest.fixture(scope="module")
def counts_image(moffat_psf) -> bp.Image:
    """Counts minus a sky of 30, in units of 1/2.5 electron, a tenth of the pixels masked with NaN in some."""
    draws = np.random.default_rng(8)
    data = draws.poisson(2.5 * 34.0, (26, 33)) / 2.5 - 30.0
    mask = draws.random((26, 33)) < 0.1
    data[mask & (draws.random((26, 33)) < 0.5)] = np.nan
    return bp.Image(data, gain=2.5, read_noise=3.0, subtracted_sky=30.0, mask=mask, psf=moffat_psf)


LOG_DENSITIES = {
    "gaussian": lambda image, model, data, sigma: scipy.stats.norm.logpdf(data, model, sigma),
    "student_t": lambda image, model, data, sigma: scipy.stats.t.logpdf(data, 5.0, model, sigma),
    "poisson": lambda image, model, data, sigma: scipy.stats.poisson.logpmf(
        np.round((data + 30.0) * 2.5), (model + 30.0) * 2.5
    ),
}


@pytest.mark.parametrize("likelihood", LOG_DENSITIES)
def test_likelihood_agrees_with_scipy_over_the_unmasked_pixels(likelihood, counts_image):
    scene = bp.Scene(counts_image, likelihood=likelihood, sky=models.flat_sky(), galaxy=models.sersic())
    values = truth_by_site()
    model, sigma = scene.predict(values).numpy(), counts_image.sigma.numpy()
    expected = LOG_DENSITIES[likelihood](counts_image, model, counts_image.data.numpy(), sigma)
    assert observed_log_density(scene, values) == pytest.approx(expected[counts_image.valid.numpy()].sum(), rel=1e-10)


def test_poisson_without_gain_takes_the_data_as_counts(moffat_psf):
    data = np.random.default_rng(4).poisson(7.0, (26, 33)).astype(float)
    scene = bp.Scene(bp.Image(data, psf=moffat_psf), likelihood="poisson", sky=models.flat_sky())
    expected = scipy.stats.poisson.logpmf(data, 6.5).sum()
    assert observed_log_density(scene, {"sky.level": torch.tensor(6.5)}) == pytest.approx(expected, rel=1e-10)


def test_poisson_survives_a_model_below_zero(moffat_psf):
    scene = bp.Scene(bp.Image(np.ones((26, 33)), psf=moffat_psf), likelihood="poisson", sky=models.flat_sky())
    level = torch.tensor(-3.0, dtype=torch.float64, requires_grad=True)
    trace = poutine.trace(poutine.condition(scene, data={"sky.level": level})).get_trace()
    log_density = trace.log_prob_sum()
    log_density.backward()
    assert math.isfinite(log_density.item())
    assert math.isfinite(level.grad.item())


@pytest.mark.parametrize("bare", [True, False], ids=["distribution", "observation"])
def test_likelihood_may_be_a_function(bare, image):
    def laplace(model_image, image):
        found = dist.Laplace(model_image, image.sigma)
        return found if bare else Observation(found, image.data + 1.0)

    scene = bp.Scene(image, likelihood=laplace, sky=models.flat_sky(), galaxy=models.sersic())
    values = truth_by_site()
    data = image.data.numpy() + (0.0 if bare else 1.0)
    expected = scipy.stats.laplace.logpdf(data, scene.predict(values).numpy(), 0.5).sum()
    assert observed_log_density(scene, values) == pytest.approx(expected, rel=1e-10)


def test_likelihood_function_may_draw_its_own_parameters(image):
    def underestimated(model_image, image):
        factor = pyro.sample("noise_factor", dist.LogNormal(0.0, 0.2))
        return dist.Normal(model_image, factor * image.sigma)

    scene = bp.Scene(image, likelihood=underestimated, sky=models.flat_sky(), galaxy=models.sersic())
    assert "likelihood.noise_factor" in poutine.trace(scene).get_trace().stochastic_nodes
    values = {**truth_by_site(), "likelihood.noise_factor": torch.tensor(1.3, dtype=torch.float64)}
    expected = scipy.stats.norm.logpdf(image.data, scene.predict(truth_by_site()), 0.65).sum()
    assert observed_log_density(scene, values) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("likelihood", ["gaussian", "student_t", "poisson"])
def test_masked_pixels_change_nothing(likelihood, counts_image):
    data = counts_image.raw.copy()
    mask = counts_image.mask.numpy()
    found = []
    for filling in (np.nan, 1e9, -1e9):
        data[mask] = filling
        image = bp.Image(data, gain=2.5, read_noise=3.0, subtracted_sky=30.0, mask=mask, psf=counts_image.psf)
        scene = bp.Scene(
            image,
            likelihood=likelihood,
            sky=models.flat_sky(level=dist.Normal(0.0, 1.0)),
            galaxy=models.sersic(
                x=17.3, y=11.8, ellipticity=ELLIPTICITY, r_eff=3.0, n=1.5, flux=dist.LogNormal(6.0, 1.0)
            ),
        )
        values = {name: truth_by_site()[name].requires_grad_() for name in ("sky.level", "galaxy.flux")}
        trace = poutine.trace(poutine.condition(scene, data=values)).get_trace()
        log_density = trace.log_prob_sum()
        log_density.backward()
        found.append([log_density.item(), *(value.grad.item() for value in values.values())])
    assert all(math.isfinite(value) for value in found[0])
    assert found[1] == pytest.approx(found[0], rel=1e-12)  # blocks of memory decide in which order pixels are summed
    assert found[2] == pytest.approx(found[0], rel=1e-12)


def test_default_priors_ignore_masked_pixels(counts_image):
    data = counts_image.raw.copy()
    mask = counts_image.mask.numpy()
    starts = []
    for filling in (np.nan, 1e7):
        data[mask] = filling
        image = bp.Image(data, gain=2.5, read_noise=3.0, subtracted_sky=30.0, mask=mask, psf=counts_image.psf)
        starts.append(bp.Scene(image, sky=models.plane_sky(), galaxy=models.sersic()).initial_values())
    assert starts[0].keys() == starts[1].keys()
    for name, value in starts[0].items():
        torch.testing.assert_close(value, starts[1][name], rtol=1e-12, atol=1e-12)


# -- dtype


def test_float32_scene_agrees_with_float64(image):
    single = image.to(torch.float32)
    scenes = [bp.Scene(kind, sky=models.flat_sky(), galaxy=models.sersic()) for kind in (image, single)]
    values = [
        {name: value.to(kind.dtype).requires_grad_() for name, value in truth_by_site().items()}
        for kind in (image, single)
    ]
    traces = [poutine.trace(poutine.condition(s, data=v)).get_trace() for s, v in zip(scenes, values, strict=True)]
    for trace in traces:
        trace.log_prob_sum().backward()
    nodes = [trace.nodes["image"]["fn"].base_dist.base_dist.loc for trace in traces]
    assert nodes[1].dtype == torch.float32
    error = (nodes[1].double() - nodes[0]).norm() / nodes[0].norm()
    assert error.item() < 1e-5
    single_sum, double_sum = (trace.log_prob_sum().item() for trace in reversed(traces))
    assert single_sum == pytest.approx(double_sum, rel=1e-4)
    for name, value in values[0].items():
        torch.testing.assert_close(values[1][name].grad.double(), value.grad, rtol=2e-3, atol=2e-2)


def test_float32_scene_with_mixed_priors_keeps_its_dtype(image):
    scene = bp.Scene(
        image.to(torch.float32),
        sky=models.flat_sky(level=2),
        galaxy=models.sersic(n=dist.LogNormal(0.7, 0.4), x=dist.Normal(torch.tensor(17.0, dtype=torch.float64), 1.0)),
    )
    assert poutine.trace(scene).get_trace().nodes["_RETURN"]["value"].dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_scene_on_cuda_agrees_with_cpu(image):
    scenes = [
        bp.Scene(kind, sky=models.flat_sky(), galaxy=models.sersic()) for kind in (image, image.to(device="cuda"))
    ]
    images = [scene.predict(truth_by_site()).cpu() for scene in scenes]
    torch.testing.assert_close(images[1], images[0], rtol=1e-9, atol=1e-9)


# -- what is refused


def blank(**options) -> bp.Image:
    return bp.Image(np.zeros((20, 30)), **{"sigma": 1.0, **options})


SKY = models.flat_sky(level=0.0)


def scene_of(*args, **components):
    return lambda: bp.Scene(*(args or (blank(),)), **components)


MALFORMED = [
    Case("array as image", scene_of(np.zeros((20, 30)), sky=SKY), TypeError, ("Image", "ndarray"), "bp.Image(data"),
    Case("no components", scene_of(), ValueError, ("at least one component",), "galaxy=models.sersic()"),
    Case("dotted name", scene_of(**{"a.b": SKY}), ValueError, ("'a.b'",), "rename"),
    Case("slashed name", scene_of(**{"a/b": SKY}), ValueError, ("'a/b'",), "rename"),
    Case(
        "name of the image", scene_of(blank(name="sky"), sky=SKY), ValueError, ("'sky'", "name of the image"), "name="
    ),
    Case("light", scene_of(sky=models.FlatSky(1.0)), TypeError, ("'sky'", "is a light"), "lambda: light"),
    Case("number", scene_of(sky=3.0), TypeError, ("'sky'", "float"), "models.sersic()"),
    Case("no light", scene_of(sky=lambda: 3.0), TypeError, ("'sky'", "returned float"), "return models.Sersic"),
    Case("nothing returned", scene_of(sky=lambda: None), TypeError, ("'sky'", "NoneType"), "return models.Sersic"),
    Case("no noise", scene_of(blank(sigma=None), sky=SKY), ValueError, ("gaussian", "noise"), "read_noise"),
    Case(
        "no noise for student_t",
        scene_of(blank(sigma=None), likelihood="student_t", sky=SKY),
        ValueError,
        ("student_t",),
        "sigma",
    ),
    Case("likelihood unknown", scene_of(likelihood="cash", sky=SKY), ValueError, ("'cash'", "poisson"), "a function"),
    Case("likelihood number", scene_of(likelihood=3, sky=SKY), TypeError, ("likelihood", "int"), "a function"),
    Case(
        "negative counts",
        scene_of(bp.Image(np.where(np.eye(20, 30) > 0, -1.0, 2.0)), likelihood="poisson", sky=SKY),
        ValueError,
        ("20 negative", "[0, 0]"),
        "subtracted_sky=",
    ),
    Case("star without PSF", scene_of(star=models.point_source()), ValueError, ("point source", "PSF"), "psf"),
    Case(
        "missing value",
        lambda: bp.Scene(blank(), sky=models.flat_sky()).predict(),
        ValueError,
        ("sky.level",),
        "params=",
    ),
    Case(
        "unknown component",
        lambda: bp.Scene(blank(), sky=SKY).predict(components=["disk"]),
        ValueError,
        ("disk", "sky"),
        "it has",
    ),
    Case("params list", lambda: bp.Scene(blank(), sky=SKY).predict([1.0]), TypeError, ("mapping", "list"), "a fit"),
    Case(
        "unknown parameter",
        lambda: bp.Scene(blank(), sky=models.flat_sky()).predict({"sky.level": 0.0, "sky.n": 1.0}),
        ValueError,
        ("sky.n",),
        "it has",
    ),
]


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.label)
def test_malformed_scene_is_refused_with_a_remedy(case):
    assert_refused(case)
