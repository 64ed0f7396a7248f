"""Populations: many galaxies in a plate, from their pixels and from posteriors of each alone."""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.inference.arrow import Arrow, Layout
from bayesprof.inference.climb import climb
from bayesprof.inference.verdict import K_HAT, k_hat_limit
from bayesprof.rendering import renderer_for


def double(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(value, dtype=torch.float64) for value in values]


def moffat(squared_width: float) -> np.ndarray:
    y, x = np.mgrid[-6:7, -7:8]
    return (1 + (x**2 + y**2) / squared_width) ** -2.8


def sizes(galaxies: Any) -> None:
    """A size-luminosity relation."""
    intercept = pyro.sample("intercept", dist.Normal(*double(0.9, 0.5)))
    slope = pyro.sample("slope", dist.Normal(*double(0.0, 1.0)))
    scatter = pyro.sample("scatter", dist.LogNormal(*double(-1.5, 0.7)))
    with galaxies:
        flux = pyro.sample("galaxy.flux", dist.LogNormal(*double(6.5, 1.0)))
        pyro.sample("galaxy.r_eff", dist.LogNormal(intercept + slope * (flux.log() - 6.5), scatter))


def images(count: int, *, alike: bool, seed: int = 5) -> list[bp.Image]:
    """Galaxies on a relation, each in an image with masked pixels; of one shape, noise and PSF where `alike`."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        shape = (17, 20) if alike else (17 - 2 * (number % 2), 20 - number % 3)
        sigma = 1.0 if alike else 0.7 + 0.2 * (number % 4) + np.zeros(shape)
        psf = moffat(3.4 if alike else 2.6 + 0.5 * (number % 3))
        log_flux = rng.normal(6.5, 0.5)
        r_eff = math.exp(0.9 + 0.4 * (log_flux - 6.5) + 0.2 * rng.normal())
        light = models.Exponential(9.6, 8.2, math.exp(log_flux), r_eff, q=0.8, theta=0.6)
        clean = renderer_for(bp.Image(np.zeros(shape), psf=psf))(light).numpy()
        mask = rng.random(shape) < 0.03
        data = clean + sigma * rng.normal(size=shape)
        found.append(bp.Image(data, sigma=sigma, psf=psf, mask=mask, name=f"g{number}"))
    return found


def population(stamps: list[bp.Image], relation: Any = sizes) -> bp.Population:
    return bp.Population(stamps, relation, sky=models.flat_sky(), galaxy=models.exponential())


@cache
def small() -> bp.Population:
    return population(images(5, alike=False))


@cache
def small_posterior() -> inference.Posterior:
    return inference.Posterior(small())


def test_each_galaxy_is_rendered_and_weighed_as_in_a_scene_of_its_own():
    # different shapes, noise, masks and PSFs; the periods of the transforms differ, and so do what the periodic copies
    # leave (1e-4 at most)
    model = small()
    values = model.initial_values()
    together = model.predict(values)
    pixels = pyro.poutine.trace(pyro.condition(model, {**values, "intercept": double(0.9)[0]})).get_trace()
    pixels.compute_log_prob()
    for number, scene in enumerate(model.scenes):
        own = {name: value[number] for name, value in values.items()}
        ny, nx = scene.image.shape
        alone = scene.predict(own)
        assert float((together[number, :ny, :nx] - alone).norm() / alone.norm()) < 1e-4
        trace = pyro.poutine.trace(pyro.condition(scene, own)).get_trace()
        trace.compute_log_prob()
        name = scene.image.name
        expected = float(trace.nodes[name]["log_prob"].sum())
        assert float(pixels.nodes["image"]["log_prob"][number]) == pytest.approx(expected, abs=0.1)  # 1e-4 of the light
        # what the relation doesn't draw keeps the priors that the galaxy alone has
        for site in ("galaxy.x", "sky.level", "galaxy.ellipticity"):
            assert float(pixels.nodes[site]["log_prob"][number]) == pytest.approx(
                float(trace.nodes[site]["log_prob"]), rel=1e-12
            ), site


def test_images_of_one_shape_and_several_psfs_agree_to_rounding_of_the_copies():
    stamps = images(3, alike=True)
    others = [
        bp.Image(one.raw, sigma=1.0, psf=moffat(width)) for one, width in zip(stamps, (2.2, 3.4, 5.0), strict=True)
    ]
    model = population(others, None)
    values = model.initial_values()
    for number, image in enumerate(model.predict(values)):
        alone = model.scenes[number].predict({name: value[number] for name, value in values.items()})
        # aliases that matter to the narrowest PSF are followed for all
        assert float((image - alone).norm() / alone.norm()) < 3e-5, number


def test_a_relation_takes_the_place_of_priors_and_names_dimensions():
    model = small()
    assert model.hyper == ("intercept", "slope", "scatter")
    assert set(model.latent) == {
        "galaxy.flux", "galaxy.r_eff", "galaxy.x", "galaxy.y", "galaxy.ellipticity", "sky.level"
    }  # fmt: skip
    trace = pyro.poutine.trace(model).get_trace()
    r_eff, flux = (trace.nodes[f"galaxy.{name}"]["value"] for name in ("r_eff", "flux"))
    intercept, slope, scatter = (trace.nodes[name]["value"] for name in model.hyper)
    expected = dist.LogNormal(intercept + slope * (flux.log() - 6.5), scatter).log_prob(r_eff)
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["galaxy.r_eff"]["log_prob"], expected)
    assert model.dims["galaxy.ellipticity"] == ["galaxy", "ellipticity_component"]
    assert model.coords["galaxy"] == ["g0", "g1", "g2", "g3", "g4"]


def test_curvatures_of_a_plate_are_those_of_the_same_model_without_one():
    with_plate = small_posterior()
    assert with_plate.plate is not None
    assert with_plate.plate.size == 5
    without = inference.Posterior(small())
    without.plate = None
    z = with_plate.initial() + 0.1 * torch.randn(with_plate.size, dtype=torch.float64)
    for name in ("expansion", "hessian"):
        for one, other in zip(getattr(with_plate, name)(z), getattr(without, name)(z), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * float(other.abs().max()))
    here, there = with_plate.summary(z), without.summary(z)
    for site, slope in there.slopes.items():
        torch.testing.assert_close(here.slopes[site], slope, rtol=1e-9, atol=1e-9)
    ends = [climb(target, z) for target in (with_plate, without)]
    assert all(end.converged for end in ends)
    torch.testing.assert_close(ends[0].z, ends[1].z, rtol=0, atol=1e-3)


def test_arrows_are_solved_as_dense_matrices_are():
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(23, generator=generator)
    layout = Layout(order[:20].reshape(5, 4), order[20:])
    directions = layout.directions(like=torch.zeros(1, dtype=torch.float64))
    full = torch.randn(23, 23, generator=generator, dtype=torch.float64)
    arrow = Arrow.from_dense(layout, full @ full.T)
    dense = arrow.dense() + 9 * torch.eye(23, dtype=torch.float64)
    arrow = Arrow.from_dense(layout, dense)
    torch.testing.assert_close(Arrow.from_products(layout, directions @ dense).dense(), dense)
    vector = torch.randn(23, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(arrow @ vector, dense @ vector)
    factor = arrow.factor()
    assert factor is not None
    torch.testing.assert_close(factor.solve(vector), torch.linalg.solve(dense, vector))
    torch.testing.assert_close(arrow.diagonal(), dense.diagonal())
    indefinite = arrow.scaled(torch.ones(23, dtype=torch.float64), ridge=-30.0)
    assert indefinite.factor() is None
    assert float(torch.linalg.eigvalsh(indefinite.absolute().dense()).min()) > 0


def test_members_of_a_plate_that_depend_on_each_other_are_told():
    def coupled():
        with pyro.plate("members", 16):
            x = pyro.sample("x", dist.Normal(*double(0.0, 1.0)))
            pyro.sample("data", dist.Normal(x + x.roll(1), 1.0), obs=torch.zeros(16, dtype=torch.float64))

    with pytest.raises(ValueError, match=r"expected the members of a plate to be independent.*to_event\(1\)"):
        inference.lm(coupled)


def test_partly_centred_relations_are_the_same_population():
    centring = torch.tensor([0.0, 0.3, 0.5, 0.9, 1.0], dtype=torch.float64)
    relation = bp.PartlyCentred(sizes, {"galaxy.r_eff": centring})
    stamps = list(small().stamps.images)
    model = population(stamps, relation)
    assert "galaxy.r_eff_base_decentered" in model.latent
    values = {**small().initial_values(), "intercept": 0.8, "slope": 0.3, "scatter": 0.25}
    changed, plain = inference.Posterior(model), small_posterior()
    # densities differ by the Jacobian, sigma^(1 - c) a galaxy, whatever the values
    ratios = []
    for scatter in (0.25, 0.4):
        for slope in (0.3, -0.2):
            here = {**values, "scatter": scatter, "slope": slope}
            there = changed.unconstrain(model.starting_from(here))
            own = plain.unconstrain({site.name: here[site.name] for site in plain.sites})
            found = changed.log_density(there) - plain.log_density(own)
            ratios.append(float(found - (1 - centring).sum() * math.log(scatter)))
            recorded = changed.describe(there)["galaxy.r_eff"]
            torch.testing.assert_close(recorded, torch.as_tensor(here["galaxy.r_eff"]))
    np.testing.assert_allclose(ratios, 0.0, atol=1e-8)


def normal_normal(errors: np.ndarray, observed: np.ndarray, draws: int, *, wide: float = 5.0) -> list[dict[str, Any]]:
    """Draws of each galaxy's value under the interim prior Normal(0, wide)."""
    rng = np.random.default_rng(8)
    variance = 1 / (1 / errors**2 + 1 / wide**2)
    mean = variance * observed / errors**2
    return [{"value": rng.normal(m, math.sqrt(v), draws)} for m, v in zip(mean, variance, strict=True)]


def interim() -> None:
    pyro.sample("value", dist.Normal(*double(0.0, 5.0)))


def population_of_values(galaxies: Any) -> None:
    mean = pyro.sample("mean", dist.Normal(*double(0.0, 3.0)))
    scatter = pyro.sample("scatter", dist.LogNormal(*double(0.0, 1.0)))
    with galaxies:
        pyro.sample("value", dist.Normal(mean, scatter))


def test_reweighted_hyper_parameters_and_galaxies_are_the_exact_ones():
    # Normal values with Normal errors: the marginal likelihood is known, and integrated on a grid
    rng = np.random.default_rng(2)
    errors = rng.uniform(0.3, 1.5, 60)
    observed = rng.normal(1.0, 0.8, 60) + errors * rng.normal(size=60)
    found = inference.reweight(
        population_of_values, normal_normal(errors, observed, 1000), interim, draws=2000, progress=False
    )
    assert found.attrs["verdict"] == "ok"
    assert found.attrs["log_likelihood_error"] < 0.2
    mean, scatter = np.meshgrid(np.linspace(0.2, 1.8, 161), np.exp(np.linspace(-2.0, 0.8, 161)), indexing="ij")
    total = errors**2 + scatter[..., None] ** 2
    log_density = -0.5 * (np.log(total) + (observed - mean[..., None]) ** 2 / total).sum(-1)
    log_density += -0.5 * (mean / 3) ** 2 - 0.5 * np.log(scatter) ** 2  # in ln scatter, as the grid is
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    for name, grid in (("mean", mean), ("scatter", scatter)):
        exact = (weight * grid).sum()
        sd = math.sqrt((weight * (grid - exact) ** 2).sum())
        draws = found.posterior[name].values
        # the stated error moves the mean by as many standard deviations; beside it the draws' own, 1/sqrt(1000)
        assert abs(draws.mean() - exact) < 3 * sd * math.hypot(found.attrs["log_likelihood_error"], 0.035), name
        assert draws.std() / sd == pytest.approx(1, abs=0.12), name
    # shrinkage: each galaxy's mean under the population, exact by the same grid
    v = 1 / (1 / errors**2 + 1 / scatter[..., None] ** 2)
    exact = (weight[..., None] * v * (observed / errors**2 + mean[..., None] / scatter[..., None] ** 2)).sum((0, 1))
    apart = found.posterior["value"].mean(("chain", "draw")).values - exact
    assert np.abs(apart).max() < 0.2
    assert np.sqrt(np.mean(apart**2)) < 0.06
    # and against the interim means, from which they have moved
    assert np.abs(exact - observed).max() > 0.5


def test_reweighting_tells_where_it_cannot_be_trusted():
    # few draws of each, and one galaxy whose draws lie far from the population's
    rng = np.random.default_rng(3)
    errors = np.full(40, 0.8)
    observed = rng.normal(0.0, 0.2, 40)
    observed[7] = 6.0
    posteriors = normal_normal(errors, observed, 60)

    def narrow(galaxies: Any) -> None:
        mean = pyro.sample("mean", dist.Normal(*double(0.0, 1.0)))
        with galaxies:
            pyro.sample("value", dist.Normal(mean, 0.2))

    found = inference.reweight(narrow, posteriors, interim, progress=False)
    assert found.attrs["log_likelihood_error"] > 0.3
    assert "more draws of each galaxy" in found.attrs["verdict"] or "times as many draws" in found.attrs["verdict"]
    assert "k-hat of the draws of" in found.attrs["verdict"]
    assert int(found.sample_stats["galaxy_ess"].values.argmin()) == 7


def test_a_k_hat_that_more_draws_would_allow_asks_for_them():
    errors, observed = np.full(40, 0.8), np.random.default_rng(5).normal(0.0, 0.2, 40)

    def masses(galaxies: Any) -> None:
        mean = pyro.sample("mean", dist.Normal(*double(0.0, 1.0)))
        with galaxies:
            pyro.sample("value", dist.Normal(mean, 0.4))

    found = inference.reweight(masses, normal_normal(errors, observed, 30), interim, progress=False)
    k_hat = found.sample_stats["galaxy_k_hat"].values
    assert k_hat_limit(30) < k_hat.max() < K_HAT
    assert k_hat_limit(2200) == K_HAT
    assert "take more draws of each galaxy (2200 allow 0.7)" in found.attrs["verdict"]
    assert "take an interim prior" not in found.attrs["verdict"]


def test_a_given_prior_may_hold_what_was_measured_on_some_of_the_images_only():
    # noise: on one of the four, something is measured far from where the prior says
    rng = np.random.default_rng(0)
    stamps = [bp.Image(rng.normal(size=(25, 25)), sigma=1.5, psf=moffat(3.4)) for _ in range(4)]
    galaxy = models.exponential(x=dist.Normal(*double(12.0, 0.5)))
    known = ["galaxy.x" in bp.Scene(one, galaxy=galaxy).initial_values() for one in stamps]
    assert any(known)
    assert not all(known)
    values = inference.Posterior(bp.Population(stamps, galaxy=galaxy)).initial()
    assert bool(values.isfinite().all())


def test_interim_priors_are_read_off_the_models():
    # one that depends on other parameters, and one that differs from galaxy to galaxy: the result is that of flat ones
    rng = np.random.default_rng(4)
    observed = rng.normal(1.0, 1.0, 20)
    draws = rng.normal(observed, 0.3, (800, 20))
    tilt = np.linspace(-0.5, 0.5, 20)

    def tilted(number: int) -> Any:
        def model() -> None:
            other = pyro.sample("other", dist.Normal(*double(0.0, 1.0)))
            pyro.sample("value", dist.Normal(other + tilt[number], 4.0))

        return model

    other = rng.normal(0.0, 1.0, (800, 20))
    weights = np.exp(-0.5 * ((draws - other - tilt) / 4) ** 2)
    chosen = np.stack([rng.choice(800, 800, p=w / w.sum()) for w in weights.T], axis=1)
    columns = np.arange(20)
    tilted_draws = [
        {"value": draws[chosen[:, g], g], "other": other[chosen[:, g], g]} for g in columns
    ]  # fmt: skip
    found = [
        inference.reweight(population_of_values, posteriors, interims, progress=False)
        for posteriors, interims in (
            ([{"value": draws[:, g]} for g in columns], lambda: pyro.sample("value", dist.Normal(*double(0.0, 1e3)))),
            (tilted_draws, [tilted(g) for g in columns]),
        )
    ]
    for name in ("mean", "scatter"):
        plain, read = (one.posterior[name].values for one in found)
        assert abs(plain.mean() - read.mean()) < 0.15 * plain.std(), name


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda one: bp.Population(one, sizes, galaxy=models.exponential()), TypeError, ("list of images", "cutout(")),
        (lambda one: bp.Population([], sizes, galaxy=models.exponential()), ValueError, ("empty list", "give one")),
        (lambda one: bp.Population([one, 3], sizes, galaxy=models.exponential()), TypeError, ("number 1", "bp.Image(")),
        (lambda one: bp.Population([one], "line", galaxy=models.exponential()), TypeError, ("str", "def relation")),
        (lambda one: bp.Population([one], sizes), ValueError, ("at least one component", "add one")),
        (
            lambda one: bp.Population([one, bp.Image(np.ones((9, 9)), sigma=1.0)], galaxy=models.exponential()),
            ValueError, ("psf of all images", "not of image 1"),
        ),
        (
            lambda one: bp.Population([one, one.to(torch.float32)], galaxy=models.exponential()),
            ValueError, ("one dtype", "image 1"),
        ),
        (
            lambda one: bp.Population(
                [one, one], lambda g: pyro.sample("m", dist.Normal(0.0, 1.0)), galaxy=models.exponential()
            ),
            ValueError, ("draws parameters of components", "galaxy.r_eff"),
        ),
        (
            lambda one: bp.Population(
                [one, one], lambda g: pyro.sample("galaxy.flux", dist.LogNormal(0.0, 1.0)), galaxy=models.exponential()
            ),
            ValueError, ("inside of the plate", "with galaxies:"),
        ),
        (lambda one: bp.PartlyCentred(sizes, {"galaxy.r_eff": 1.5}), ValueError, ("[0, 1]", "scatter**2")),
        (
            lambda one: bp.PartlyCentred(sizes, {"galaxy.n": 0.5})(pyro.plate("galaxy", 2)),
            ValueError, ("['galaxy.n']", "correct the names"),
        ),
        (lambda one: small().starting_from({"intercept": 1.0}), ValueError, ("every parameter", "slope")),
        (
            lambda one: inference.reweight(sizes, [{"galaxy.flux": np.ones(9)}] * 2, interim),
            ValueError, ("['galaxy.r_eff']", "posterior 0", "bp.Population"),
        ),
        (
            lambda one: inference.reweight(population_of_values, [{"value": np.zeros(50)}], interim),
            ValueError, ("two galaxies", "got 1"),
        ),
        (
            lambda one: inference.reweight(population_of_values, [{"value": np.zeros(50)}] * 3, [interim] * 2),
            ValueError, ("each of the 3 posteriors", "got 2"),
        ),
        (
            lambda one: inference.reweight(
                population_of_values, [{"value": np.zeros(50)}] * 3, lambda: pyro.sample("x", dist.Normal(0.0, 1.0))
            ),
            ValueError, ("galaxy 0 to draw ['value']", "['x']"),
        ),
        (
            lambda one: inference.reweight(interim_plate, [{"value": np.zeros(50)}] * 3, interim),
            ValueError, ("hyper-parameters outside", "pyro.sample('h', ...)"),
        ),
    ],
)  # fmt: skip
def test_malformed_populations_are_refused_with_the_remedy(call, error, says):
    one = bp.Image(np.ones((15, 16)), sigma=1.0, psf=moffat(3.0))
    with pytest.raises(error) as caught:
        call(one)
    for words in says:
        assert words in str(caught.value), str(caught.value)


def interim_plate(galaxies: Any) -> None:
    with galaxies:
        pyro.sample("value", dist.Normal(*double(0.0, 1.0)))


@pytest.mark.slow
def test_the_code_of_the_guide_runs(monkeypatch, capsys):
    guide = Path(__file__).resolve().parents[1] / "docs" / "populations.md"
    blocks = re.findall(r"```python\n(.*?)```", guide.read_text(), flags=re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"populations.md, block {number}", "exec"), names)
    assert "Population(8 images of 17x19 px" in capsys.readouterr().out
    assert names["fit"].converged
    for found, sd in (
        (names["fit"].params["slope"], names["fit"].std["slope"]),
        (float(names["cheap"].posterior["slope"].mean()), float(names["cheap"].posterior["slope"].std())),
    ):
        assert abs(found - 0.4) < 4 * sd


@pytest.mark.slow
def test_joint_and_reweighted_populations_agree_on_a_relation_and_on_each_galaxy():
    model = population(images(16, alike=True))
    posteriors = []
    for scene in model.scenes:
        posteriors.append(inference.sample(scene, draws=2000, progress=False))
    cheap = inference.reweight(sizes, posteriors, model.scenes, draws=2000, progress=False)
    assert cheap.attrs["verdict"] == "ok"
    scatter = float(cheap.posterior["scatter"].median())
    error = np.log(cheap.posterior["galaxy.r_eff"]).std(("chain", "draw")).values
    joint_model = population(
        list(model.stamps.images),
        bp.PartlyCentred(sizes, {"galaxy.r_eff": torch.as_tensor(scatter**2 / (scatter**2 + error**2))}),
    )
    posterior = inference.Posterior(joint_model)
    fit = inference.lm(posterior, init=joint_model.starting_from(cheap))
    assert fit.converged, fit.message
    joint = inference.split_hmc(posterior, init=fit, draws=1000, chains=4, progress=False)
    assert joint.posterior["galaxy.r_eff"].dims == ("chain", "draw", "galaxy")
    assert list(joint.posterior["galaxy"].values) == [f"g{number}" for number in range(16)]
    for name in ("intercept", "slope", "scatter"):
        one, other = (found.posterior[name].values for found in (cheap, joint))
        assert abs(one.mean() - other.mean()) < 0.25 * other.std(), name
        assert one.std() / other.std() == pytest.approx(1, abs=0.2), name
    one, other = (found.posterior["galaxy.r_eff"] for found in (cheap, joint))
    apart = (one.mean(("chain", "draw")) - other.mean(("chain", "draw"))) / other.std(("chain", "draw"))
    assert float(abs(apart).max()) < 0.4
