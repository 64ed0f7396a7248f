"""Likelihoods with parameters: their densities, their information, their fits and draws, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro import poutine
from test_malformed_inputs import Case, assert_refused

import bayesprof as bp
from bayesprof import inference, likelihoods, models
from bayesprof.contamination import ContaminatedNormal
from bayesprof.correlated_normal import CorrelatedNormal
from bayesprof.decorrelation import TOLERANCE, decorrelation
from bayesprof.inference import Posterior
from bayesprof.inference.information import fisher_terms, pointwise_log_prob

KERNEL = np.array([[0.05, 0.2, 0.1], [0.3, 1.0, 0.25], [0.0, 0.3, 0.1]])
CORRELATION = bp.NoiseCorrelation.of_kernel(KERNEL)
PARAMETERS = {"likelihood.fraction": 0.07, "likelihood.scale": 6.0, "likelihood.factor": 1.3, "likelihood.extra": 0.2}


def double(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def image_of(shape: tuple[int, int] = (18, 23), *, seed: int = 5, noise: str = "white", **options) -> bp.Image:
    """A galaxy on a sky of 2, with a sigma that varies, a tenth of the pixels masked and a masked block among them."""
    draws = np.random.default_rng(seed)
    x = np.arange(shape[1]) * np.ones((shape[0], 1))
    sigma = 0.5 + 0.3 * x / shape[1]
    psf = np.exp(-0.5 * (np.mgrid[-4:5, -4:5] ** 2).sum(0) / 1.7)
    mask = draws.random(shape) < 0.1
    mask[2:6, 14:18] = True
    blank = bp.Image(np.zeros(shape), sigma=sigma, psf=psf)
    light = bp.rendering.renderer_for(blank)(models.Exponential(11.2, 8.7, 120.0, 2.5, ellipticity=[0.2, 0.1])).numpy()
    if noise == "correlated":
        operator = decorrelation(CORRELATION, ~mask)
        torch.manual_seed(seed)
        scatter = operator.draw(()).numpy()
    else:
        scatter = draws.normal(size=shape)
    data = light + 2.0 + sigma * scatter
    if noise == "contaminated":
        data += np.where(draws.random(shape) < 0.05, 8 * sigma * draws.normal(size=shape), 0.0)
    data[mask] = np.nan
    return bp.Image(data, sigma=sigma, psf=psf, mask=mask, **options)


def noise_of(name: str):
    """A likelihood with all that it can fit to be fitted."""
    return {
        "contaminated": likelihoods.contaminated(),
        "contaminated and more noise": likelihoods.contaminated(factor=dist.LogNormal(0.0, 0.2)),
        "extra_noise": likelihoods.extra_noise(extra=dist.HalfNormal(0.3)),
        "extra term": likelihoods.extra_noise(factor=0.7, extra=dist.HalfNormal(0.5)),
        "correlated": likelihoods.correlated(CORRELATION),
        "correlated and factor": likelihoods.correlated(CORRELATION, factor=dist.LogNormal(double(0.0), 0.3)),
    }[name]


NAMES = ("contaminated", "contaminated and more noise", "extra_noise", "correlated", "correlated and factor")
FREEST = ("contaminated and more noise", "extra_noise", "correlated and factor")


def scene_of(name: str, *, image: bp.Image | None = None, **galaxy) -> bp.Scene:
    kind = name.split()[0] if not name.startswith("extra") else "white"
    image = image or image_of(noise=kind)
    held = {"x": 11.2, "y": 8.7, "ellipticity": [0.2, 0.1], **galaxy}
    return bp.Scene(image, likelihood=noise_of(name), sky=models.flat_sky(), galaxy=models.exponential(**held))


def log_density(scene: bp.Scene, values: dict[str, float]) -> float:
    given = {name: double(value) for name, value in values.items()}
    trace = poutine.trace(poutine.condition(scene, data=given)).get_trace()
    assert set(trace.stochastic_nodes) <= set(values)
    trace.compute_log_prob()
    return float(trace.nodes[scene.image.name]["log_prob_sum"])


def covariance_of(image: bp.Image, factor: float = 1.0) -> np.ndarray:
    """Covariance matrix of the unmasked pixels."""
    place = np.argwhere(image.valid.numpy())
    sigma = factor * image.sigma.numpy()[image.valid.numpy()]
    return CORRELATION.at(*np.moveaxis(place[:, None] - place[None], -1, 0)) * np.outer(sigma, sigma)


# -- densities


def test_contaminated_is_the_mixture_of_two_normals():
    image = image_of(noise="contaminated")
    scene = scene_of("contaminated and more noise", image=image)
    values = {"sky.level": 1.9, "galaxy.flux": 110.0, "galaxy.r_eff": 2.2, **PARAMETERS}
    model, data = scene.predict({name: values[name] for name in list(values)[:3]}).numpy(), image.data.numpy()
    sigma = 1.3 * image.sigma.numpy()
    density = 0.93 * scipy.stats.norm.pdf(data, model, sigma)
    density += 0.07 * scipy.stats.norm.pdf(data, model, sigma * math.sqrt(37.0))
    expected = np.log(density)[image.valid.numpy()].sum()
    assert log_density(scene, values) == pytest.approx(expected, rel=1e-10)


def test_extra_noise_adds_in_quadrature():
    image = image_of()
    scene = scene_of("extra_noise", image=image)
    values = {"sky.level": 1.9, "galaxy.flux": 110.0, "galaxy.r_eff": 2.2, **PARAMETERS}
    model = scene.predict({name: values[name] for name in list(values)[:3]}).numpy()
    noise = np.sqrt((1.3 * image.sigma.numpy()) ** 2 + 0.2**2)
    expected = scipy.stats.norm.logpdf(image.data.numpy(), model, noise)[image.valid.numpy()].sum()
    assert log_density(scene, values) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", ["contaminated", "extra_noise"])
def test_without_contamination_or_extra_noise_it_is_gaussian(name):
    image = image_of()
    held = {
        "contaminated": likelihoods.contaminated(fraction=1e-13, scale=3.0),
        "extra_noise": likelihoods.extra_noise(factor=1.0),
    }[name]
    galaxy = models.exponential(x=11.2, y=8.7, flux=100.0, r_eff=2.0, ellipticity=[0.2, 0.1])
    scenes = [bp.Scene(image, likelihood=noise, sky=models.flat_sky(), galaxy=galaxy) for noise in (held, "gaussian")]
    densities = [log_density(scene, {"sky.level": 1.9}) for scene in scenes]
    assert densities[0] == pytest.approx(densities[1], rel=1e-10)


def test_correlated_is_the_dense_multivariate_normal_of_the_unmasked_pixels():
    image = image_of((13, 17), noise="correlated")
    valid = image.valid.numpy()
    whole = decorrelation(CORRELATION, valid, span=16)
    model = scene_of("correlated", image=image).predict({"sky.level": 1.9, "galaxy.flux": 110.0, "galaxy.r_eff": 2.2})
    found = CorrelatedNormal(model, image.sigma, double(1.3), whole)
    covariance = covariance_of(image, 1.3)
    data, mean = image.data.numpy()[valid], model.numpy()[valid]
    expected = scipy.stats.multivariate_normal.logpdf(data, mean, covariance)
    by_pixel = found.log_prob(image.data)[image.valid]
    assert float(by_pixel.sum()) == pytest.approx(expected, rel=1e-10)
    residual = data - mean
    square = residual @ np.linalg.solve(covariance, residual)
    assert float(found.squares(image.data)[image.valid].sum()) == pytest.approx(square, rel=1e-10)
    # each pixel given all the others
    precision = np.linalg.inv(covariance)
    off, spread = (precision @ residual) / np.diag(precision), np.diag(precision) ** -0.5
    expected_alone = scipy.stats.norm.logpdf(off, 0.0, spread)
    np.testing.assert_allclose(found.leave_one_out(image.data).numpy()[valid], expected_alone, rtol=1e-9, atol=1e-10)


def test_neighbours_that_matter_are_enough():
    """The divergence from the dense density, in closed form, is as small as is promised, masks and edges included."""
    image = image_of(noise="correlated")
    valid = image.valid.numpy()
    operator = decorrelation(CORRELATION, valid)
    assert operator.divergence < TOLERANCE
    assert len(operator.before) < 150
    rows = operator(torch.eye(valid.size, dtype=torch.float64).reshape(-1, *valid.shape)).reshape(valid.size, -1)
    whitening = rows.numpy().T[valid.ravel()][:, valid.ravel()]
    matrix = covariance_of(bp.Image(np.zeros(valid.shape), sigma=1.0, mask=~valid))
    product = whitening @ matrix @ whitening.T
    log_scale = np.log(operator.scale.numpy()[valid]).sum()
    divergence = 0.5 * (np.trace(product) - len(matrix)) + log_scale - 0.5 * np.linalg.slogdet(matrix)[1]
    assert 0 < divergence < 3 * TOLERANCE * len(matrix)


def test_masked_pixels_do_not_enter_those_of_others():
    image = image_of(noise="correlated")
    operator = decorrelation(CORRELATION, image.valid.numpy())
    found = CorrelatedNormal(torch.zeros(image.shape).double(), image.sigma, double(1.0), operator)
    other = torch.where(image.mask, 1e6, image.data)
    assert torch.equal(found.log_prob(image.data)[image.valid], found.log_prob(other)[image.valid])


def test_no_pixel_is_correlated_around_the_edges():
    operator = decorrelation(CORRELATION, np.ones((12, 15), dtype=bool))
    torch.manual_seed(0)
    drawn = operator.draw((20_000,)).numpy()
    for one, other in (((5, 0), (5, 14)), ((0, 7), (11, 7)), ((0, 0), (11, 14))):
        assert abs(np.mean(drawn[:, *one] * drawn[:, *other])) < 5 / math.sqrt(20_000)
    assert np.mean(drawn[:, 4, 6] * drawn[:, 4, 7]) == pytest.approx(CORRELATION.values[2, 3], abs=0.05)


def test_draws_have_the_covariance_of_the_density():
    image = image_of(noise="correlated")
    operator = decorrelation(CORRELATION, image.valid.numpy())
    torch.manual_seed(1)
    found = CorrelatedNormal(image.data, image.sigma, double(1.3), operator).sample((4000,))
    residual = (found - image.data)[:, image.valid].numpy()
    expected = covariance_of(image, 1.3)
    scatter = np.sqrt((expected**2 + np.outer(np.diag(expected), np.diag(expected))) / 4000)
    assert np.abs((np.cov(residual.T) - expected) / scatter).max() < 6  # of 130,000 entries
    # and the operator makes them independent
    independent = operator((found - image.data) / image.sigma / 1.3)[:, image.valid].numpy()
    assert np.abs(np.cov(independent.T) - np.eye(len(expected))).max() < 6 * math.sqrt(2 / 4000)


def test_contaminated_normal_draws_what_its_density_says():
    found = ContaminatedNormal(double(1.0), double(0.5), double(0.2), double(4.0))
    torch.manual_seed(2)
    drawn = found.sample((50_000,)).numpy()

    def cdf(x):
        return 0.8 * scipy.stats.norm.cdf(x, 1.0, 0.5) + 0.2 * scipy.stats.norm.cdf(x, 1.0, 4.0)

    assert scipy.stats.kstest(drawn, cdf).pvalue > 1e-3
    assert float(found.variance) == pytest.approx(0.8 * 0.25 + 0.2 * 16.0, rel=1e-12)
    assert float(found.good(double(1.0))) > 0.95
    assert float(found.good(double(9.0))) < 1e-9


# -- information


@pytest.mark.parametrize("name", ["contaminated", "correlated"])
def test_scores_and_bends_are_the_derivatives_of_the_log_probability(name):
    torch.manual_seed(3)
    image = image_of(noise=name)
    operator = decorrelation(CORRELATION, image.valid.numpy())
    value = image.data
    if name == "contaminated":
        parameters = torch.tensor([2.0, 0.1, 0.7, 3.0], dtype=torch.float64)

        def distribution(p):
            return ContaminatedNormal(p[0], p[1].new_tensor(1.0) * p[2], p[1], p[3]).expand(value.shape)

        order = (0, 1, 2, 3)
    else:
        parameters = torch.tensor([2.0, 1.4], dtype=torch.float64)

        def distribution(p):
            return CorrelatedNormal(p[0].expand(value.shape), image.sigma, p[1], operator)

        order = (0, 1)

    def log_prob(p):
        return distribution(p).log_prob(value)

    node = {"fn": distribution(parameters), "value": value, "scale": 3.0, "mask": image.valid}
    terms = fisher_terms(node)
    slopes = torch.func.jacfwd(
        lambda p: torch.stack([t.parameter for t in fisher_terms({**node, "fn": distribution(p)})])
    )
    jacobian = slopes(parameters)
    assert len(terms) == len(order)
    score = 3.0 * image.valid[..., None] * torch.func.jacfwd(log_prob)(parameters)
    found = sum(term.score[..., None] * slope for term, slope in zip(terms, jacobian, strict=True))
    torch.testing.assert_close(found, score, rtol=1e-9, atol=1e-9)
    second = -3.0 * image.valid[..., None, None] * torch.func.jacfwd(torch.func.jacrev(log_prob))(parameters)
    curvature = torch.zeros_like(second)
    for i, term in enumerate(terms):
        for j, bend in enumerate(term.bends):
            outer = jacobian[i][..., :, None] * jacobian[j][..., None, :]
            outer = outer if i == j else outer + outer.mT
            curvature = curvature + bend[..., None, None] * outer
    # the parameters in the terms are linear in those here
    torch.testing.assert_close(curvature, second, rtol=1e-8, atol=1e-8)
    assert all(bool((term.information >= 0).all()) for term in terms)


def test_information_of_correlated_pixels_is_that_of_the_dense_covariance():
    scene = scene_of("correlated", flux=dist.LogNormal(double(4.8), 1.0), r_eff=2.5)
    posterior = Posterior(scene)
    z = posterior.initial({"sky.level": 2.0, "galaxy.flux": 120.0})
    information = posterior.expansion(z)[2].numpy()
    values = posterior.constrain(z)
    valid = scene.image.valid.numpy()
    galaxy = scene.predict(values, components="galaxy").numpy()[valid]
    slopes = np.stack([np.ones(valid.sum()), galaxy])  # in the level, and in the logarithm of the flux
    expected = slopes @ np.linalg.solve(covariance_of(scene.image), slopes.T)
    root = np.sqrt(np.diag(expected))
    # as near as the spectra are, TOLERANCE
    assert np.abs((information - expected) / np.outer(root, root)).max() < 3e-3


def test_information_of_the_mixture_is_no_less_than_its_own():
    found = ContaminatedNormal(double(0.0), double(1.0), double(0.1), double(5.0)).expand([100_000])
    torch.manual_seed(4)
    value = found.sample()
    node = {"fn": found, "value": value, "scale": 1.0, "mask": None}
    for term in fisher_terms(node):
        own = (term.score**2).mean()
        assert float(term.information.mean()) > 0.98 * float(own)
        assert abs(float(term.score.mean())) < 5 * float(own.sqrt()) / math.sqrt(100_000)


# -- the posterior


@pytest.mark.parametrize("name", NAMES)
def test_captured_posterior_is_pyros(name):
    scene = scene_of(name)
    posterior = Posterior(scene)
    generator = torch.Generator().manual_seed(6)
    z = posterior.initial() + 0.05 * torch.randn(3, posterior.size, dtype=torch.float64, generator=generator)
    values, gradients = posterior.value_and_grad(z)
    for point, value, gradient in zip(z, values, gradients, strict=True):

        def direct(u):
            sites = posterior.transformed(u)
            trace = poutine.trace(poutine.condition(scene, data={k: v for k, (v, _) in sites.items()})).get_trace()
            return trace.log_prob_sum() + sum(jacobian for _, jacobian in sites.values())

        here = point.clone().requires_grad_()
        expected = direct(here)
        (slope,) = torch.autograd.grad(expected, here)
        assert value.item() == pytest.approx(expected.item(), rel=1e-10)
        torch.testing.assert_close(gradient, slope, rtol=1e-9, atol=1e-9 * float(slope.abs().max()))


@pytest.mark.parametrize("name", [FREEST[0], *(pytest.param(name, marks=pytest.mark.slow) for name in FREEST[1:])])
def test_hessian_is_exact_and_the_captured_functions_are_the_direct_ones(name):
    posterior = Posterior(scene_of(name))
    z = posterior.initial()
    _, gradient, hessian = posterior.hessian(z)
    expected = -torch.autograd.functional.hessian(posterior.log_density, z)
    root = expected.diagonal().abs().sqrt()
    assert float(((hessian - expected) / torch.outer(root, root)).abs().max()) < 1e-9
    torch.testing.assert_close(gradient, posterior.value_and_grad(z)[1], rtol=1e-9, atol=1e-9)
    for what in ("value_and_grad", "expansion", "hessian"):
        direct = getattr(posterior, what)(z)
        posterior.prepare(what, batch=1, calls=1000)
        for one, other in zip(direct, getattr(posterior, what)(z), strict=True):
            assert torch.equal(one, other)
    assert torch.func.hessian(posterior.log_density)(z).isfinite().all()


@pytest.mark.parametrize("name", ["contaminated", "correlated"])
def test_components_in_windows_have_the_exact_gradient_and_hessian(name):
    """The noise of a window's pixels is shared with those outside of it."""
    held = models.exponential(x=11.2, y=8.7, ellipticity=[0.2, 0.1])
    others = {"one": models.exponential(x=5.0, y=5.0, ellipticity=[0.0, 0.1]), "galaxy": held}
    windows = {"one": bp.Window(1, 1, 10, 12), "galaxy": bp.Window(6, 3, 17, 15)}
    image = image_of(noise=name)
    posterior = Posterior(bp.Scene(image, likelihood=noise_of(name), sky=models.flat_sky(), windows=windows, **others))
    z = posterior.initial()
    _, gradient, hessian = posterior.hessian(z)
    expected = -torch.autograd.functional.hessian(posterior.log_density, z)
    root = expected.diagonal().abs().sqrt()
    assert float(((hessian - expected) / torch.outer(root, root)).abs().max()) < 1e-9
    torch.testing.assert_close(gradient, posterior.value_and_grad(z)[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(posterior.expansion(z)[1], gradient, rtol=1e-9, atol=1e-9)
    assert float(torch.linalg.eigvalsh(posterior.expansion(z)[2]).min()) > -1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["contaminated", "correlated"])
def test_compiled_posterior_is_the_plain_one(name):
    posterior = Posterior(scene_of(name))
    z = torch.stack([posterior.initial()] * 3) + torch.tensor([[0.0], [0.01], [-0.01]])
    plain = posterior.value_and_grad(z)
    posterior.prepare("value_and_grad", batch=3, calls=1, compile=True)
    for one, other in zip(posterior.value_and_grad(z), plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_agrees_with_double(name):
    noise = name.split()[0] if not name.startswith("extra") else "white"
    image = image_of(noise=noise)
    scenes = [scene_of(name, image=kind) for kind in (image, image.to(torch.float32))]
    posteriors = [Posterior(scene) for scene in scenes]
    values, gradients = zip(
        *(posterior.value_and_grad(posteriors[0].initial()) for posterior in posteriors), strict=True
    )
    assert values[1].item() == pytest.approx(values[0].item(), rel=1e-4)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=5e-3, atol=5e-3 * float(gradients[0].abs().max()))


@pytest.mark.parametrize(
    "name",
    ["contaminated", "extra term", "correlated and factor"],
)
@pytest.mark.slow
def test_fit_laplace_and_nuts_agree(name):
    scene = scene_of(name, r_eff=2.5)
    posterior = Posterior(scene)
    fit = inference.lm(posterior)
    assert fit.converged
    slope = posterior.value_and_grad(fit.z)[1]
    assert float(slope @ torch.linalg.solve(fit.hessian, slope)) < 1e-6
    assert fit.chi2 / fit.dof == pytest.approx(1.0, abs=0.35)
    assert fit.params["sky.level"] == pytest.approx(2.0, abs=5 * fit.std["sky.level"])
    by_laplace = inference.laplace(posterior, init=fit, draws=2000, seed=1)
    by_nuts = inference.nuts(posterior, init=fit, draws=300, chains=4, seed=1, progress=False, compile=False)
    assert by_nuts.attrs["verdict"] == "ok"
    for site in posterior.sites:
        one, other = (post.posterior[site.name].values.ravel() for post in (by_laplace, by_nuts))
        assert one.mean() == pytest.approx(other.mean(), abs=0.25 * other.std())
        assert one.std() == pytest.approx(other.std(), rel=0.2)
    assert "image" in by_nuts.log_likelihood
    assert by_nuts.posterior_predictive["image"].shape[-2:] == scene.image.shape


def test_pointwise_likelihood_of_correlated_pixels_is_conditional_on_the_others():
    scene = scene_of("correlated", flux=120.0, r_eff=2.5)
    posterior = Posterior(scene)
    z = posterior.initial({"sky.level": 2.0})
    node = posterior.observed_nodes(z)["image"]
    torch.testing.assert_close(posterior.pointwise(z)["image"], pointwise_log_prob(node), rtol=1e-12, atol=1e-12)
    valid = scene.image.valid.numpy()
    precision = np.linalg.inv(covariance_of(scene.image))
    residual = (scene.image.data - scene.predict({"sky.level": 2.0})).numpy()[valid]
    expected = scipy.stats.norm.logpdf(precision @ residual / np.diag(precision), 0.0, np.diag(precision) ** -0.5)
    np.testing.assert_allclose(posterior.pointwise(z)["image"].numpy()[valid], expected, rtol=0.02, atol=0.02)


def test_sky_of_correlated_noise_is_the_generalised_least_squares_one():
    image = image_of(noise="correlated")
    wide = dist.Normal(double(0.0), 1e4)
    galaxy = models.exponential(x=11.2, y=8.7, flux=120.0, r_eff=2.5, ellipticity=[0.2, 0.1])
    scene = bp.Scene(image, likelihood=noise_of("correlated"), sky=models.flat_sky(level=wide), galaxy=galaxy)
    fit = inference.lm(scene)
    inverse = np.linalg.inv(covariance_of(image))
    data = (image.data - scene.predict({"sky.level": 0.0})).numpy()[image.valid.numpy()]
    assert fit.std["sky.level"] == pytest.approx(inverse.sum() ** -0.5, rel=1e-3)
    assert fit.params["sky.level"] == pytest.approx(
        (inverse @ data).sum() / inverse.sum(), abs=0.01 * fit.std["sky.level"]
    )
    gaussian = inference.lm(bp.Scene(image, sky=models.flat_sky(level=wide), galaxy=galaxy))
    assert fit.std["sky.level"] > 1.5 * gaussian.std["sky.level"]


def test_contamination_is_found_and_forgiven():
    draws = np.random.default_rng(9)
    clean = 3.0 + draws.normal(size=(40, 50))
    bad = draws.random(clean.shape) < 0.03
    data = np.where(bad, clean + draws.exponential(30.0, clean.shape), clean)
    image = bp.Image(data, sigma=1.0)
    sky = models.flat_sky(level=dist.Normal(double(0.0), 100.0))
    fits = [
        inference.lm(bp.Scene(image, likelihood=noise, sky=sky)) for noise in ("gaussian", likelihoods.contaminated())
    ]
    offsets = [(fit.params["sky.level"] - 3.0) / fit.std["sky.level"] for fit in fits]
    assert offsets[0] > 20
    assert abs(offsets[1]) < 4
    robust = fits[1]
    assert robust.params["likelihood.fraction"] == pytest.approx(bad.mean(), abs=4 * robust.std["likelihood.fraction"])
    assert robust.std["sky.level"] == pytest.approx(1 / math.sqrt((~bad).sum()), rel=0.05)


def test_noise_factor_and_extra_noise_are_found():
    draws = np.random.default_rng(10)
    sigma = np.where(np.arange(60) < 30, 0.2, 2.0) * np.ones((50, 1))
    data = draws.normal(0.0, np.hypot(1.4 * sigma, 0.6))
    noise = likelihoods.extra_noise(extra=dist.LogNormal(double(0.0), 1.0))
    fit = inference.lm(bp.Scene(bp.Image(data, sigma=sigma), likelihood=noise, sky=models.flat_sky(level=0.0)))
    for name, truth in (("factor", 1.4), ("extra", 0.6)):
        assert fit.params[f"likelihood.{name}"] == pytest.approx(truth, abs=4 * fit.std[f"likelihood.{name}"])
        assert fit.std[f"likelihood.{name}"] < 0.1


# -- a scene with parameters of the likelihood


def test_parameters_of_the_likelihood_are_sites_like_others():
    scene = scene_of("contaminated and more noise")
    names = poutine.trace(scene).get_trace().stochastic_nodes
    assert names == [
        *("sky.level", "galaxy.flux", "galaxy.r_eff"),
        *("likelihood.fraction", "likelihood.scale", "likelihood.factor"),
    ]
    assert scene.units["likelihood.extra"] == "image unit"
    assert float(scene.initial_values()["likelihood.scale"]) == 10.0
    rows = {row["parameter"]: (row["kind"], row["prior"]) for row in models.describe(scene).table}
    assert rows["likelihood.fraction"] == ("default", "Beta(1, 30): few pixels are outliers")
    assert rows["likelihood.factor"][0] == "given"
    assert rows["likelihood.extra"] == ("held", "= 0")
    fit = inference.lm(scene)
    assert set(fit.params) >= set(names)
    torch.testing.assert_close(scene.predict(fit), scene.predict({name: fit.params[name] for name in names[:3]}))
    with pytest.raises(ValueError, match=r"likelihood\.fractoin"):
        scene.predict({**fit.params, "likelihood.fractoin": 0.1})


def test_sites_of_a_function_of_ones_own_are_the_likelihoods():
    def underestimated(model_image, image):
        factor = pyro.sample("factor", dist.LogNormal(double(0.0), 0.2))
        return dist.Normal(model_image, factor * image.sigma)

    image = image_of()
    scene = bp.Scene(image, likelihood=underestimated, sky=models.flat_sky())
    table = models.describe(scene).table
    assert list(table["parameter"]) == ["sky.level", "likelihood.factor"]
    assert table["prior"][1] == "LogNormal(loc=0, scale=0.2)"
    fit = inference.lm(scene)
    assert scene.predict(fit).shape == image.shape


def test_correlation_is_measured_on_the_image_where_none_is_given():
    draws = np.random.default_rng(11)
    white = draws.normal(size=(62, 72))
    data = sum(KERNEL[i, j] * white[i : i + 60, j : j + 70] for i in range(3) for j in range(3))
    image = bp.Image(data, sigma=float(np.sqrt((KERNEL**2).sum())))
    sky = models.flat_sky(level=dist.Normal(double(0.0), 10.0))
    measured, known = (
        inference.lm(bp.Scene(image, likelihood=noise, sky=sky)).std["sky.level"]
        for noise in (likelihoods.correlated(), likelihoods.correlated(CORRELATION))
    )
    assert measured == pytest.approx(known, rel=0.15)


# -- what is refused

IMAGE = bp.Image(np.zeros((20, 30)), sigma=1.0)
SKY = models.flat_sky(level=0.0)


def refused(likelihood, image: bp.Image = IMAGE):
    return lambda: bp.Scene(image, likelihood=likelihood, sky=SKY)


MALFORMED = [
    Case("not called", refused(likelihoods.contaminated), TypeError, ("function that makes one",), "contaminated()"),
    Case(
        "component", refused(models.point_source(x=1.0, y=1.0, flux=1.0)), TypeError, ("a component",), "bp.likelihoods"
    ),
    Case(
        "no noise",
        refused(likelihoods.correlated(), bp.Image(np.zeros((20, 30)))),
        ValueError,
        ("correlated",),
        "sigma",
    ),
    Case("fraction", lambda: likelihoods.contaminated(fraction=1.0), ValueError, ("fraction in (0, 1)",), "a prior"),
    Case("scale", lambda: likelihoods.contaminated(scale=-1.0), ValueError, ("scale > 0", "-1.0"), "a prior"),
    Case("factor", lambda: likelihoods.extra_noise(factor=0.0), ValueError, ("factor > 0",), "a prior"),
    Case(
        "extra", lambda: likelihoods.extra_noise(extra="a bit"), TypeError, ("extra", "'a bit'"), "a Pyro distribution"
    ),
    Case(
        "table", lambda: likelihoods.correlated(np.eye(3)), TypeError, ("NoiseCorrelation", "ndarray"), "bp.NoiseCorr"
    ),
    Case(
        "few blank pixels",
        refused(likelihoods.correlated(), IMAGE.cutout(8, 8, 15)),
        ValueError,
        ("400", "225"),
        "blank=",
    ),
    Case(
        "no distribution", refused(lambda model, image: model), TypeError, ("Tensor",), "return for example dist.Normal"
    ),
    Case(
        "summed over pixels",
        refused(lambda model, image: dist.Normal(model, 1.0).to_event(2)),
        ValueError,
        ("(20, 30)", "()"),
        "to_event",
    ),
    Case(
        "name of the image",
        refused(likelihoods.contaminated(), bp.Image(np.zeros((20, 30)), sigma=1.0, name="likelihood")),
        ValueError,
        ("'likelihood'",),
        "name=",
    ),
]


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.label)
def test_malformed_likelihood_is_refused_with_a_remedy(case):
    assert_refused(case)
