"""Scenes made from scenes: components added, removed, held and freed; groups, and parts that share parameters."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from test_malformed_inputs import Case, assert_refused

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.estimate import lights_at
from bayesprof.rendering import renderer_for

GALAXY = {"x": 13.2, "y": 11.8, "flux": 900.0, "r_eff": 2.6, "q": 0.7, "theta": 0.4}
STAR = {"x": 24.6, "y": 16.1, "flux": 500.0}


@pytest.fixture(scope="module")
def image(simulated) -> bp.Image:
    return simulated(models.Exponential(**GALAXY) + models.PointSource(**STAR) + models.FlatSky(2.0))


@pytest.fixture(scope="module")
def galaxy_alone(image) -> bp.Scene:
    return bp.Scene(image, sky=models.flat_sky(), galaxy=models.exponential(x=near(13.0), y=near(12.0)))


@pytest.fixture(scope="module")
def first(galaxy_alone) -> inference.Fit:
    return inference.lm(galaxy_alone)


def near(value: float) -> dist.Normal:
    return dist.Normal(torch.tensor(value, dtype=torch.float64), 2.0)


def star() -> object:
    return models.point_source(x=near(24.0), y=near(16.0), flux=dist.LogNormal(6.0, 1.0))


def own_star() -> models.PointSource:
    x, y = pyro.sample("x", near(24.0)), pyro.sample("y", near(16.0))
    flux = pyro.sample("flux", dist.LogNormal(6.0, 1.0))
    pyro.deterministic("magnitude", 25 - 2.5 * torch.log10(flux))
    return models.PointSource(x, y, flux)


def latent(scene) -> list[str]:
    return poutine.trace(scene).get_trace().stochastic_nodes


# -- more components and fewer


@pytest.mark.parametrize("added", [star(), own_star], ids=["catalogue", "own function"])
def test_fit_of_an_added_component_ends_where_that_of_the_whole_scene_does(galaxy_alone, first, added, image):
    more = galaxy_alone.add(fit=first, star=added)
    assert more.latent == (*galaxy_alone.latent, "star.x", "star.y", "star.flux") == tuple(latent(more))
    start = more.initial_values()
    for site in galaxy_alone.latent:
        assert torch.allclose(start[site], torch.as_tensor(first.params[site], dtype=torch.float64), rtol=1e-12)
    components = {"galaxy": models.exponential(x=near(13.0), y=near(12.0)), "star": added}
    whole = inference.lm(bp.Scene(image, sky=models.flat_sky(), **components))
    fit = inference.lm(more)
    assert fit.converged
    assert whole.converged
    assert fit.log_density == pytest.approx(whole.log_density, abs=1e-6)
    for site in more.latent:
        assert np.allclose(fit.params[site], whole.params[site], atol=1e-4 * np.max(whole.std[site])), site


def test_fit_of_a_smaller_scene_starts_a_larger_one(galaxy_alone, first, image):
    more = galaxy_alone.add(star=star())
    posterior = inference.Posterior(more)
    started = posterior.constrain(posterior.initial({site: first.params[site] for site in galaxy_alone.latent}))
    assert float(started["galaxy.flux"]) == pytest.approx(first.params["galaxy.flux"])
    fit = inference.lm(posterior, init=first)
    assert fit.log_density == pytest.approx(inference.lm(posterior).log_density, abs=1e-6)


def test_added_component_is_measured_on_what_is_left_over(galaxy_alone, first):
    window = bp.Window.around(24.6, 16.1, 6)
    more = galaxy_alone.add(fit=first, windows={"star": window}, star=models.point_source())
    plain = galaxy_alone.add(windows={"star": window}, star=models.point_source())
    found = more.initial_values()
    assert float(found["star.x"]) == pytest.approx(STAR["x"], abs=0.5)
    assert float(found["star.y"]) == pytest.approx(STAR["y"], abs=0.5)
    # and not with the galaxy's wing in it
    assert not torch.equal(found["star.flux"], plain.initial_values()["star.flux"])
    assert float(found["star.flux"]) == pytest.approx(STAR["flux"], rel=0.5)


def test_without_is_the_scene_that_never_had_it(galaxy_alone, first):
    more = galaxy_alone.add(fit=first, windows={"star": bp.Window(18, 10, 31, 23)}, star=star())
    less = more.without("star")
    assert less.latent == galaxy_alone.latent
    assert less.windows == {}
    assert torch.equal(less.predict(first), galaxy_alone.predict(first))
    assert set(less.initial_values()) >= {"galaxy.flux"}
    assert float(less.initial_values()["galaxy.flux"]) == pytest.approx(first.params["galaxy.flux"])


def test_fit_of_a_larger_scene_goes_along_when_a_component_is_replaced(galaxy_alone, first, image):
    replaced = galaxy_alone.without("galaxy").add(fit=first, disk=models.exponential())
    start = replaced.initial_values()
    assert float(start["sky.level"]) == pytest.approx(first.params["sky.level"])
    # measured on the image without the sky alone
    plain = bp.Scene(image, sky=models.flat_sky(), disk=models.exponential()).initial_values()
    assert float(start["disk.flux"]) == pytest.approx(float(plain["disk.flux"]), rel=0.1)
    taken = galaxy_alone.add(star=star()).without("star").started_from(inference.lm(galaxy_alone))
    assert float(taken.initial_values()["galaxy.flux"]) == pytest.approx(first.params["galaxy.flux"])


def test_scenes_do_not_change_with_what_is_made_of_them(galaxy_alone, first):
    before = inference.Posterior(galaxy_alone).fingerprint
    galaxy_alone.add(fit=first, star=star()).without("galaxy")
    galaxy_alone.freeze("galaxy", first).free()
    assert inference.Posterior(galaxy_alone).fingerprint == before


def test_draws_start_a_scene_from_their_medians(galaxy_alone, first):
    draws = np.array([[3.0, 1.0, 8.0]])
    import arviz as az

    post = az.from_dict(posterior={"sky.level": draws, "elsewhere.n": draws})
    assert float(galaxy_alone.started_from(post).initial_values()["sky.level"]) == 3.0


# -- held parameters


def test_covariance_of_the_others_is_the_conditional_block(galaxy_alone, first):
    names = ["galaxy.x", "galaxy.r_eff"]
    frozen = galaxy_alone.freeze(names, first)
    assert frozen.latent == tuple(site for site in galaxy_alone.latent if site not in names)
    fit = inference.lm(frozen)
    # Gaussian: the covariance given some entries is the inverse of the other rows and columns of the precision
    entries = [i for i, label in enumerate(first.labels) if label.split("[")[0] not in names]
    conditional = np.linalg.inv(np.linalg.inv(first.covariance)[np.ix_(entries, entries)])
    assert [first.labels[i] for i in entries] == fit.labels
    scale = np.sqrt(np.outer(np.diag(conditional), np.diag(conditional)))
    assert np.abs((fit.covariance - conditional) / scale).max() < 1e-5
    for site in frozen.latent:
        assert np.allclose(fit.params[site], first.params[site], atol=1e-5 * np.max(first.std[site])), site


@pytest.mark.parametrize("component", [star(), own_star], ids=["catalogue", "own function"])
def test_frozen_component_is_no_site_and_has_its_light(image, component):
    scene = bp.Scene(image, sky=models.flat_sky(), star=component)
    values = {f"star.{name}": value for name, value in STAR.items()}
    frozen = scene.freeze("star", values)
    nodes = poutine.trace(frozen).get_trace().nodes
    assert frozen.latent == ("sky.level",)
    assert not {"star.x", "star.y", "star.flux"} & set(nodes)
    assert torch.equal(frozen.predict({"sky.level": 2.0}), scene.predict({"sky.level": 2.0, **values}))
    assert inference.Posterior(frozen).size == 1
    if component is own_star:
        assert float(nodes["star.magnitude"]["value"]) == pytest.approx(25 - 2.5 * np.log10(500.0))
    table = models.describe(frozen).table
    assert list(table["kind"][table["parameter"] == "star.flux"]) == ["held"]


def test_log_density_of_a_frozen_scene_lacks_the_priors_of_what_is_held(image):
    scene = bp.Scene(image, sky=models.flat_sky(), star=own_star)
    values = {"star.x": 24.6, "star.y": 16.1, "star.flux": 500.0}
    frozen = scene.freeze(["star.x", "star.flux"], values)
    at = {name: torch.tensor(value, dtype=torch.float64) for name, value in {"sky.level": 2.0, **values}.items()}
    whole, part = (
        float(poutine.trace(poutine.condition(s, data={n: at[n] for n in s.latent})).get_trace().log_prob_sum())
        for s in (scene, frozen)
    )
    priors = near(24.0).log_prob(at["star.x"]) + dist.LogNormal(6.0, 1.0).log_prob(at["star.flux"])
    assert whole - part == pytest.approx(float(priors), rel=1e-9)


def test_free_undoes_freeze_and_starts_from_there(galaxy_alone, first):
    values = {**first.params, "galaxy.flux": 700.0}
    frozen = galaxy_alone.freeze("galaxy", values)
    assert frozen.latent == ("sky.level",)
    part = frozen.free("galaxy.flux")
    assert part.latent == ("sky.level", "galaxy.flux")
    assert float(part.initial_values()["galaxy.flux"]) == 700.0
    freed = part.free()
    assert freed.latent == galaxy_alone.latent
    assert inference.lm(freed).log_density == pytest.approx(first.log_density, abs=1e-6)


def test_parameters_of_psf_and_likelihood_are_frozen_too(image):
    scene = bp.Scene(
        image,
        psf=models.moffat_psf(beta=3.0),
        likelihood=bp.likelihoods.extra_noise(),
        sky=models.flat_sky(),
        star=models.point_source(),
    )
    values = {"psf.fwhm": 3.0, "psf.ellipticity": [0.0, 0.0], "likelihood.factor": 1.2}
    assert set(values) <= set(scene.latent)
    frozen = scene.freeze(["psf", "likelihood.factor"], values)
    assert set(frozen.latent) == set(scene.latent) - set(values)
    rest = {"sky.level": 2.0, **{f"star.{name}": value for name, value in STAR.items()}}
    psf = {name: value for name, value in values.items() if name.startswith("psf")}
    assert torch.equal(frozen.predict(rest), scene.predict({**rest, **psf}))


def test_sites_in_a_plate_are_held(image):
    def pair():
        with pyro.plate("members", 2):
            flux = pyro.sample("flux", dist.LogNormal(5.0, 1.0))
        return sum(models.PointSource(12.0 + 4 * i, 12.0, flux[i]) for i in range(2))

    scene = bp.Scene(image, sky=models.flat_sky(), pair=pair)
    frozen = scene.freeze("pair", {"pair.flux": [10.0, 20.0]})
    assert frozen.latent == ("sky.level",)
    expected = scene.predict({"sky.level": 1.0, "pair.flux": [10.0, 20.0]})
    assert torch.equal(frozen.predict({"sky.level": 1.0}), expected)


# -- groups and parts


def nested(**windows) -> dict:
    inner = bp.Group(core=models.point_source(), disk=models.exponential())
    return {"sky": models.flat_sky(), "galaxy": bp.Group(bulge=models.de_vaucouleurs(), outer=inner), **windows}


def test_sites_of_nested_groups_have_whole_names(image):
    scene = bp.Scene(image, **nested())
    assert list(scene.components) == ["sky", "galaxy.bulge", "galaxy.outer.core", "galaxy.outer.disk"]
    assert "galaxy.outer.core.flux" in scene.latent
    assert scene.units["galaxy.bulge.r_eff"] == "pixel"
    plain = bp.Scene(image, sky=models.flat_sky(), b=models.de_vaucouleurs(), c=models.point_source())
    assert float(scene.initial_values()["galaxy.bulge.flux"]) == float(plain.initial_values()["b.flux"])


def test_group_is_the_sum_of_its_components(image):
    scene = bp.Scene(image, **nested())
    values = inference.Posterior(scene).constrain(inference.Posterior(scene).initial())
    parts = [scene.predict(values, components=f"galaxy.{name}") for name in ("bulge", "outer.core", "outer.disk")]
    torch.testing.assert_close(scene.predict(values, components="galaxy"), sum(parts), rtol=1e-11, atol=1e-11)
    assert torch.equal(scene.predict(values, components=["sky", "galaxy"]), scene.predict(values))


def test_window_of_a_group_is_one_for_each_of_its_components_without_their_own(image):
    whole, core = bp.Window(2, 2, 26, 24), bp.Window(8, 8, 18, 17)
    scene = bp.Scene(image, windows={"galaxy": whole, "galaxy.outer.core": core}, **nested())
    assert scene.windows == {"galaxy.bulge": whole, "galaxy.outer.core": core, "galaxy.outer.disk": whole}


def test_groups_are_frozen_removed_and_added_to_as_components_are(image):
    scene = bp.Scene(image, **nested())
    values = inference.Posterior(scene).constrain(inference.Posterior(scene).initial())
    assert scene.freeze("galaxy.outer", values).latent == tuple(s for s in scene.latent if "outer" not in s)
    less = scene.without("galaxy.outer")
    assert list(less.components) == ["sky", "galaxy.bulge"]
    more = less.add(galaxy=bp.Group(bar=models.exponential()))
    assert list(more.components) == ["sky", "galaxy.bulge", "galaxy.bar"]
    assert list(scene.without("galaxy").components) == ["sky"]


def tied():
    """A bulge and a disk about one centre, the disk twice as flat as the bulge."""
    x, y = pyro.sample("x", near(13.0)), pyro.sample("y", near(12.0))
    flux = pyro.sample("flux", dist.LogNormal(6.8, 1.0))
    b_t = pyro.sample("bulge_to_total", dist.Beta(2.0, 4.0))
    r_disk = pyro.sample("disk_r_eff", dist.LogNormal(1.0, 0.4))
    return {
        "bulge": models.DeVaucouleurs(x, y, flux * b_t, 0.3 * r_disk),
        "disk": models.Exponential(x, y, flux * (1 - b_t), r_disk, q=0.7, theta=0.4),
    }


TIED = {"x": 13.2, "y": 11.8, "flux": 900.0, "bulge_to_total": 0.25, "disk_r_eff": 2.6}


def test_parts_of_one_function_are_lights_of_their_own(image):
    scene = bp.Scene(image, sky=models.flat_sky(), galaxy=tied)
    assert scene.latent == ("sky.level", *(f"galaxy.{name}" for name in TIED))
    values = {"sky.level": torch.tensor(2.0), **{f"galaxy.{k}": torch.tensor(v) for k, v in TIED.items()}}
    assert list(lights_at(scene, values)) == ["sky", "galaxy.bulge", "galaxy.disk"]
    bulge = scene.predict(values, components="galaxy.bulge")
    expected = renderer_for(image)(models.DeVaucouleurs(13.2, 11.8, 225.0, 0.78))
    torch.testing.assert_close(bulge, expected, rtol=1e-5, atol=1e-5)
    both = scene.predict(values, components="galaxy")
    torch.testing.assert_close(both, bulge + scene.predict(values, components="galaxy.disk"), rtol=1e-9, atol=1e-9)
    fit = inference.lm(scene)
    assert fit.converged
    windowed = scene.with_windows({"galaxy.bulge": bp.Window(5, 4, 22, 20)})
    assert list(windowed.windows) == ["galaxy.bulge"]


def test_deblended_image_is_the_data_minus_all_others(image):
    scene = bp.Scene(image, sky=models.flat_sky(), galaxy=models.exponential(), star=star())
    values = {"sky.level": 2.0, **{f"star.{k}": v for k, v in STAR.items()}}
    values |= {f"galaxy.{k}": v for k, v in GALAXY.items() if k not in ("q", "theta")}
    values["galaxy.ellipticity"] = [0.3 / 1.7 * np.cos(0.8), 0.3 / 1.7 * np.sin(0.8)]
    alone = scene.deblended("galaxy", values)
    others = renderer_for(image)(models.PointSource(**STAR) + models.FlatSky(2.0))
    torch.testing.assert_close(alone.data, image.data - others, rtol=1e-9, atol=1e-9)
    assert alone.psf is image.psf
    model = renderer_for(image)(models.Exponential(**GALAXY))
    pulls = (alone.data - model) / 0.5
    assert float(pulls.std()) == pytest.approx(1.0, abs=0.08)


# -- what is refused


def small(**components) -> bp.Scene:
    return bp.Scene(bp.Image(np.zeros((20, 30)), sigma=1.0), **(components or {"sky": models.flat_sky()}))


AT = {"sky.level": 1.0}
MALFORMED = [
    Case("name twice", lambda: small().add(sky=models.flat_sky()), ValueError, ("'sky'",), "scene.without('sky')"),
    Case("part of a name", lambda: small().add(sky=bp.Group(a=own_star)), ValueError, ("'sky.a'",), "rename"),
    Case("nothing added", lambda: small().add(), ValueError, ("add", "none"), "as a keyword"),
    Case("add without a value", lambda: small().add(fit={}, a=models.sersic()), ValueError, ("sky.level",), "params="),
    Case("window of nothing", lambda: small().with_windows({"a": bp.Window(0, 0, 9, 9)}), ValueError, ("'a'",), "sky"),
    Case("without unknown", lambda: small().without("disk"), ValueError, ("'disk'",), "it has ['sky']"),
    Case("nothing left", lambda: small().without("sky"), ValueError, ("at least one component",), "keep one"),
    Case("freeze unknown", lambda: small().freeze("disk", AT), ValueError, ("'disk'",), "sky.level"),
    Case("freeze without value", lambda: small().freeze("sky", {}), ValueError, ("sky.level",), "a fit of this scene"),
    Case(
        "freeze what is derived",
        lambda: small(a=models.exponential()).freeze("a.q", {"a.q": 0.5}),
        ValueError,
        ("'a.q'", "drawn"),
        "a.ellipticity",
    ),
    Case(
        "freeze outside",
        lambda: small(a=models.exponential()).freeze("a.flux", {"a.flux": -1.0}),
        ValueError,
        ("'a.flux'", "support", "-1"),
        "correct",
    ),
    Case("freeze shape", lambda: small().freeze("sky", {"sky.level": [1.0, 2.0]}), ValueError, ("(2,)",), "a fit of"),
    Case("free what is free", lambda: small().free("sky"), ValueError, ("'sky'",), "held are []"),
    Case("start from a list", lambda: small().started_from([1.0]), TypeError, ("mapping", "list"), "inference.lm"),
    Case("start misspelt", lambda: small().started_from({"sky.lvl": 1.0}), ValueError, ("'sky.lvl'",), "sky.level"),
    Case("empty group", lambda: bp.Group(), ValueError, ("at least one component",), "bulge=models.sersic()"),
    Case("slash in a group", lambda: bp.Group(**{"a/b": own_star}), ValueError, ("'a/b'",), "rename"),
    Case("light in a group", lambda: small(g=bp.Group(a=models.FlatSky(1.0))), TypeError, ("'g.a'",), "lambda: light"),
    Case("no parts", lambda: small(g=dict), ValueError, ("'g'", "no lights"), "leave it out"),
    Case("part no light", lambda: small(g=lambda: {"a": 1.0}), TypeError, ("'g.a'", "float"), "models.Sersic"),
]


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.label)
def test_malformed_change_is_refused_with_a_remedy(case):
    assert_refused(case)
