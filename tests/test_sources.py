"""Many sources as one component: the same model as one by one, with vectors of parameters."""

from __future__ import annotations

import functools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.sparse
import torch

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.inference import Posterior
from bayesprof.inference.sparse_hessian import sparse_hessian
from bayesprof.inference.sparse_matrix import SparseMatrix

PSF = bp.datasets.moffat_stamp(3.0, side=15)
NAMES = ("a", "b", "c", "d")
PLACES = {"a": (20.0, 18.0), "b": (41.0, 25.5), "c": (50.5, 60.2), "d": (15.3, 66.0)}
WINDOWS = {
    "a": bp.Window.around(20, 18, 15),
    "b": bp.Window.around(41, 25, 11),  # of another size, and it overlaps with a
    "c": bp.Window.around(50, 60, 15),
    "d": bp.Window.around(15, 66, 15),
}


def galaxies(**given):
    return {
        name: models.sersic(
            x=dist.Normal(torch.tensor(x).double(), 1.0), y=dist.Normal(torch.tensor(y).double(), 1.0), **given
        )
        for name, (x, y) in PLACES.items()
    }


def truth():
    rng = np.random.default_rng(5)
    return {
        name: {
            "x": x + 0.3,
            "y": y - 0.2,
            "flux": rng.uniform(900, 2500),
            "r_eff": rng.uniform(2.0, 3.5),
            "n": rng.uniform(0.8, 1.8),
            "ellipticity": list(rng.normal(0, 0.15, 2)),
        }
        for name, (x, y) in PLACES.items()
    }


def image_of(psf=PSF, dtype=torch.float64):
    held = {name: models.sersic(**values) for name, values in truth().items()}
    blank = bp.Image(np.zeros((84, 72)), sigma=1.0, psf=psf)
    clean = bp.Scene(blank, sky=models.flat_sky(level=4.0), windows=WINDOWS, **held).predict()
    noise = np.random.default_rng(6).normal(size=(84, 72))
    return bp.Image((clean.numpy() + noise), sigma=1.0, psf=psf).to(dtype=dtype)


@pytest.fixture(scope="module")
def image():
    return image_of()


def both(image, members, windows=WINDOWS, **options):
    """The scenes of them one by one, and as one component."""
    apart = bp.Scene(image, sky=models.flat_sky(), windows=windows, **members, **options)
    within = None if windows is None else {"all": windows}
    return apart, bp.Scene(image, sky=models.flat_sky(), all=models.sources(members), windows=within, **options)


def order(apart: Posterior, joined: Posterior) -> list[int]:
    """Entries of the vector of `apart` in the order of the other's."""
    places = {site.name: list(range(site.place.start, site.place.stop)) for site in apart.sites}
    found = []
    for site in joined.sites:
        owner, _, parameter = site.name.rpartition(".")
        for name in NAMES if owner == "all" else [owner]:
            found += places[f"{name}.{parameter}"]
    return found


def assert_same_model(apart, joined, rtol=1e-9, same_start=True, functions=("value_and_grad", "expansion")):
    one, other = Posterior(apart), Posterior(joined)
    entries = order(one, other)
    assert one.size == other.size == len(set(entries))
    z = one.initial()
    if same_start:
        torch.testing.assert_close(z[entries], other.initial(), rtol=1e-12, atol=1e-12)
    for name in functions:
        expected, found = getattr(one, name)(z), getattr(other, name)(z[entries])
        for value, same in zip(*(x if isinstance(x, tuple) else (x,) for x in (expected, found)), strict=True):
            for axis in range(value.ndim):
                value = value.index_select(axis, torch.tensor(entries))
            torch.testing.assert_close(same, value, rtol=rtol, atol=rtol * float(value.abs().max()))


def test_density_and_its_derivatives_are_those_of_single_components(image):
    assert_same_model(*both(image, galaxies()), functions=("log_density", "value_and_grad", "expansion", "hessian"))


def test_components_of_other_kinds(image):
    for make in (models.point_source, functools.partial(models.multi_gaussian, count=2)):
        given = {name: make(x=dist.Normal(x, 1.0), y=dist.Normal(y, 1.0)) for name, (x, y) in PLACES.items()}
        assert_same_model(*both(image, given))


@pytest.mark.slow
def test_a_psf_with_parameters(image):
    assert_same_model(*both(image, galaxies(), psf=models.moffat_psf()))


@pytest.mark.slow
def test_without_windows_and_without_a_psf():
    # measured on the whole image, most of what is found is too far from its prior to start there
    assert_same_model(*both(image_of(), galaxies(), windows=None), same_start=False)
    assert_same_model(*both(image_of(psf=None), galaxies()), functions=["value_and_grad"])


def test_large_windows_in_two_parts(image):
    rng = np.random.default_rng(3)
    large = bp.Image(rng.normal(4.0, 1.0, (150, 160)), sigma=1.0, psf=PSF)
    windows = {name: bp.Window(0, 0, 150, 150, detail=20) for name in PLACES}
    assert_same_model(*both(large, galaxies(n=1.0), windows=windows), same_start=False)


@pytest.mark.slow
def test_several_images_with_maps(image):
    other = bp.Image(image.data.numpy()[:80, :70], sigma=1.3, psf=PSF, name="other", band="r")
    images = [bp.Image(image.data.numpy(), sigma=1.0, psf=PSF, name="one", band="g"), other]
    maps = {"other": [[1.0, 0.02, -1.0], [-0.02, 1.0, 2.0]]}
    assert_same_model(*both(images, galaxies(), maps=maps))


def test_held_parameters_and_derived_ones(image):
    apart, scene = both(image, galaxies(n=1.0, ellipticity=[0.1, 0.0]))
    assert scene.latent == ("sky.level", "all.x", "all.y", "all.flux", "all.r_eff")
    assert_same_model(apart, scene, functions=["value_and_grad"])


def test_the_fit_is_that_of_single_components_and_has_the_truth(image):
    apart, joined = (inference.lm(scene) for scene in both(image, galaxies()))
    assert joined.converged
    assert joined.log_density == pytest.approx(apart.log_density, abs=1e-4)
    for i, (name, values) in enumerate(truth().items()):
        for parameter, value in values.items():
            offset = (joined.params[f"all.{parameter}"][i] - np.asarray(value)) / joined.std[f"all.{parameter}"][i]
            assert np.abs(offset).max() < 4.5, (name, parameter)
            np.testing.assert_allclose(joined.std[f"all.{parameter}"][i], apart.std[f"{name}.{parameter}"], rtol=1e-3)
        assert joined.std["all.q"][i] == pytest.approx(apart.std[f"{name}.q"], rel=1e-3)


def test_its_graph_is_no_larger_for_more_sources(image):
    sizes = []
    for count in (2, 4):
        members = dict(list(galaxies().items())[:count])
        windows = {name: bp.Window.around(36, 40, 15) for name in members}
        posterior = Posterior(both(image, members, windows)[1])
        posterior.prepare("expansion", batch=1, calls=1000)
        captured = posterior._functions._shared.captured["expansion", 1]
        sizes.append(len(captured.graph.graph.nodes))
    assert sizes[1] < 1.05 * sizes[0]


def test_sources_go_by_their_names(image):
    members = galaxies()
    apart, joined = both(image, members)
    values = {f"all.{key}": [one[key] for one in truth().values()] for key in truth()["a"]} | {"sky.level": 4.0}
    single = {f"{name}.{key}": value for name, one in truth().items() for key, value in one.items()}
    single["sky.level"] = 4.0
    for names in (["b"], ["a", "d"], ["sky"]):
        inside = [name if name == "sky" else f"all.{name}" for name in names]
        torch.testing.assert_close(
            joined.predict(values, components=inside), apart.predict(single, components=names), rtol=1e-12, atol=1e-12
        )
    torch.testing.assert_close(joined.deblended("all.c", values).data, apart.deblended("c", single).data)
    one, other = (bp.photometry(scene, inference.lm(scene)) for scene in both(image, galaxies(n=1.0)))
    assert list(other["name"]) == [f"all.{name}" for name in NAMES]
    for column in ("flux", "fraction", "x", "y", "r_eff", "mean_brightness"):
        np.testing.assert_allclose(other[column], one[column], rtol=1e-4)
        np.testing.assert_allclose(other[f"{column}_error"], one[f"{column}_error"], rtol=1e-2)


def test_results_have_a_dimension_of_sources(image):
    _, scene = both(image, galaxies(n=1.0))
    fit = inference.lm(scene)
    post = inference.laplace(scene, init=fit, draws=100, proposals=200, progress=False)
    assert post.posterior["all.flux"].dims == ("chain", "draw", "all.source")
    assert list(post.posterior.coords["all.source"].values) == list(NAMES)
    assert post.posterior["all.ellipticity"].dims[2] == "all.source"
    text = str(models.describe(scene))
    assert "all.flux" in text
    assert "all.q" in text


def test_scene_is_the_same_after_a_round_trip_and_with_parameters_held(image, tmp_path):
    _, scene = both(image, galaxies(n=1.0))
    fit = inference.lm(scene)
    frozen = scene.freeze(["all.ellipticity"], fit)
    assert frozen.latent == ("sky.level", "all.x", "all.y", "all.flux", "all.r_eff")
    torch.testing.assert_close(
        frozen.predict({name: fit.params[name] for name in frozen.latent}), scene.predict(fit), rtol=1e-10, atol=1e-10
    )
    for one in (scene, frozen):
        one.save(tmp_path / "scene.h5", overwrite=True)
        again, _ = bp.Scene.load(tmp_path / "scene.h5")
        z = Posterior(one).initial()
        assert float(Posterior(again).log_density(z)) == float(Posterior(one).log_density(z))


def test_added_sources_are_measured_on_what_is_left(image):
    first = bp.Scene(image, sky=models.flat_sky(), a=galaxies()["a"], windows={"a": WINDOWS["a"]})
    fit = inference.lm(first)
    windows = {"b": WINDOWS["b"], "c": WINDOWS["c"]}
    single = first.add(fit=fit, b=models.sersic(), c=models.sersic(), windows=windows).initial_values()
    several = first.add(
        fit=fit, rest=models.sources({"b": models.sersic(), "c": models.sersic()}), windows={"rest": windows}
    ).initial_values()
    for parameter in ("x", "y", "flux", "r_eff", "ellipticity"):
        expected = torch.stack([single[f"b.{parameter}"], single[f"c.{parameter}"]])
        torch.testing.assert_close(several[f"rest.{parameter}"], expected)


def test_detections_together():
    image, _ = bp.datasets.simulated_field((100, 120), galaxies=3, stars=1, seed=29)
    found = bp.detect(image)
    scene = found.scene(component=models.sersic, sky=models.flat_sky(), together="galaxies")
    assert list(scene.components) == ["sky", "galaxies"]
    assert scene.prior_of("galaxies.flux").shape() == (len(found),)
    assert set(scene.windows) == {f"galaxies.object_{label}" for label in found}


@pytest.mark.parametrize(
    ("members", "error", "words"),
    [
        (3, TypeError, "components by name, or a list"),
        ({}, ValueError, "at least one component"),
        ([lambda: None], TypeError, "component of the catalogue"),
        ([models.sersic(), models.moffat()], ValueError, "components of one kind"),
        ({"a.b": models.sersic()}, ValueError, "without '.'"),
        ([models.sersic(), models.sersic(q=0.5, theta=0.1)], ValueError, "made alike"),
        ([models.multi_gaussian(count=2), models.multi_gaussian(count=3)], ValueError, "made alike"),
    ],
)
def test_what_is_no_list_of_alike_components_is_told(members, error, words):
    with pytest.raises(error, match=words):
        models.sources(members)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([models.sersic(n=1.0), models.sersic()], "held for every one, got both"),
        ([models.sersic(n=dist.LogNormal(0.0, 1.0)), models.sersic(n=dist.Gamma(2.0, 1.0))], "one family"),
        ([models.spline(), models.spline()], "take a batch of parameters, which spline doesn't"),
        ([models.bar(), models.bar()], "take a batch of parameters"),
    ],
)
def test_members_that_differ_are_told(image, members, words):
    with pytest.raises((TypeError, ValueError), match=words):
        bp.Scene(image, all=models.sources(members))


@pytest.fixture(scope="module")
def field():
    """Forty faint galaxies on a field so large that few of them meet, and what they were made from."""
    rng = np.random.default_rng(8)
    names = [f"s{i}" for i in range(40)]
    true = {
        "x": rng.uniform(20, 380, 40),
        "y": rng.uniform(20, 380, 40),
        "flux": rng.lognormal(7.5, 0.5, 40),
        "r_eff": rng.lognormal(1.0, 0.2, 40),
    }
    windows = {"all": {name: bp.Window.around(*at, 12) for name, *at in zip(names, true["x"], true["y"], strict=True)}}
    rows = dict(zip(names, zip(*true.values(), strict=True), strict=True))

    def scene(image, make):
        members = {name: make(dict(zip(true, row, strict=True))) for name, row in rows.items()}
        return bp.Scene(image, sky=models.flat_sky(level=3.0), all=models.sources(members), windows=windows)

    blank = bp.Image(np.zeros((400, 400)), sigma=1.0, psf=PSF)
    clean = scene(blank, lambda one: models.exponential(**one, ellipticity=[0.0, 0.0])).predict()
    image = bp.Image(clean.numpy() + rng.normal(size=(400, 400)), sigma=1.0, psf=PSF)

    def free(one):
        at = {key: dist.Normal(torch.tensor(one[key]), 1.0) for key in ("x", "y")}
        return models.exponential(**at, ellipticity=[0.0, 0.0], flux=dist.LogNormal(7.5, 1.0))

    return scene(image, free), true


def test_sparse_curvatures_are_the_full_ones(field):
    posterior = Posterior(field[0])
    z = posterior.initial()
    full, sparse = posterior.expansion(z), posterior.sparse_expansion(z)
    for one, other in zip(full, sparse, strict=True):
        other = torch.from_numpy(other.toarray()) if hasattr(other, "toarray") else other
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-12 * float(one.abs().max()))
    assert sparse[2].nnz < 0.1 * posterior.size**2


def test_a_sparse_fit_ends_where_the_full_one_does(field, monkeypatch, tmp_path):
    scene, true = field
    posterior = Posterior(scene)
    full = inference.lm(posterior)
    monkeypatch.setattr("bayesprof.inference.sparse_fit._MANY", 100)
    found = inference.lm(posterior)
    assert found.converged
    assert "sparse" in found.message
    assert found.hessian_kind == "exact"
    assert found.log_density == pytest.approx(full.log_density, abs=1e-6)
    torch.testing.assert_close(found.chi2, full.chi2, rtol=1e-6, atol=0)
    assert found.labels == full.labels
    # errors of the exact Hessian, which isn't the Gauss-Newton one
    *_, hessian = posterior.hessian(found.z)
    _, _, information, prior = posterior.expansion(found.z)
    scale = hessian.diagonal().rsqrt()
    missed = torch.outer(scale, scale) * (hessian - information - prior)
    assert missed.abs().max() > 0.015
    assert (torch.outer(scale, scale) * (found.hessian.dense() - hessian)).abs().max() < 1e-4
    inverse = torch.linalg.inv(found.hessian.dense())
    slopes = torch.cat([posterior.summary(found.z).slopes[site.name] for site in posterior.sites], dim=1)
    covariance = (slopes.T @ inverse @ slopes).numpy()
    kept = found.covariance.toarray()
    scale = np.sqrt(np.outer(covariance.diagonal(), covariance.diagonal()))
    assert np.abs((kept - covariance) / scale)[kept != 0].max() < 1e-5
    for name, values in true.items():
        expected = np.sqrt(covariance.diagonal())[[found.labels.index(f"all.{name}[{i}]") for i in range(40)]]
        np.testing.assert_allclose(found.std[f"all.{name}"], expected, rtol=1e-5)
        assert np.abs((found.params[f"all.{name}"] - values) / found.std[f"all.{name}"]).max() < 4.5
    table, expected = bp.photometry(scene, found), bp.photometry(scene, full)
    for column in ("flux", "flux_error", "x_error", "r_eff", "mean_brightness_error"):
        np.testing.assert_allclose(table[column], expected[column], rtol=2e-3)
    post = inference.laplace(posterior, init=found, draws=400, progress=False)
    np.testing.assert_allclose(
        post.posterior["all.x"].mean(("chain", "draw")), found.params["all.x"], atol=np.max(found.std["all.x"])
    )
    scene.save(tmp_path / "scene.h5", fit=found)
    _, again = bp.Scene.load(tmp_path / "scene.h5")
    assert again.params["all.x"].tolist() == found.params["all.x"].tolist()
    assert abs(again.hessian.entries - found.hessian.entries).max() == 0
    assert abs(again.covariance - found.covariance).max() == 0
    monkeypatch.setattr("bayesprof.inference.whitening._MOST", 100)
    with pytest.raises(ValueError, match="freeze"):
        inference.laplace(posterior, init=found, progress=False)


def test_a_scene_whose_sources_all_meet_keeps_full_matrices(image, monkeypatch):
    monkeypatch.setattr("bayesprof.inference.sparse_fit._MANY", 10)
    assert "sparse" not in inference.lm(both(image, galaxies(n=1.0))[1]).message


def far_from_its_data(means, sites):
    """A model of one observed site for each of `means`, functions of the values of `sites`, and its sparse Hessian
    beside the exact one at a point away from the data.
    """

    def model():
        drawn = {name: pyro.sample(name, law) for name, law in sites.items()}
        for i, mean in enumerate(means):
            pyro.sample(f"data{i}", dist.Normal(mean(drawn), 0.5).to_event(1), obs=torch.arange(2.0, 5.0).double())

    posterior = Posterior(model)
    z = torch.linspace(-0.4, 0.7, posterior.size, dtype=torch.float64)
    _, gradient, *both = posterior.sparse_expansion(z)
    *_, hessian = posterior.hessian(z)
    return sparse_hessian(posterior, z, gradient, *map(SparseMatrix, both)), hessian


def curve(a, b):
    """Three values that depend on two numbers, bent in both."""
    return torch.stack([(2 * a).exp(), a * b, b**2])


NORMAL = dist.Normal(torch.zeros(6, dtype=torch.float64), 1.0)


@pytest.mark.parametrize(
    ("sites", "means"),
    [
        ({"a": NORMAL, "b": NORMAL}, [lambda at, i=i: curve(at["a"][i], at["b"][i]) for i in range(6)]),
        (
            {f"{name}{i}": dist.Normal(torch.zeros((), dtype=torch.float64), 1.0) for name in "ab" for i in range(6)},
            [lambda at, i=i: curve(at[f"a{i}"], at[f"b{i}"]) for i in range(6)],
        ),
        (
            {"a": NORMAL, "b": NORMAL, "level": dist.Normal(torch.zeros((), dtype=torch.float64), 1.0)},
            [lambda at, i=i: curve(at["a"][i], at["b"][i]) * at["level"] for i in range(6)],
        ),
    ],
    ids=["vectors", "scalars", "with one that all depend on"],
)
def test_a_hessian_by_differences_is_the_exact_one(sites, means):
    found, exact = far_from_its_data(means, sites)
    torch.testing.assert_close(found.dense(), exact, rtol=0, atol=1e-4 * float(exact.abs().max()))


def test_a_hessian_that_sources_are_not_enough_for_is_not_known():
    found, _ = far_from_its_data([lambda at, i=i: curve(at["a"][i], at["a"][i + 1]) for i in range(5)], {"a": NORMAL})
    assert found is None


def test_an_indefinite_part_of_a_sparse_matrix_is_made_positive_and_the_rest_left_alone():
    rng = np.random.default_rng(3)
    blocks = [rng.normal(size=(4, 4)) for _ in range(20)]
    blocks = [block @ block.T + np.eye(4) for block in blocks]
    blocks[7] = np.eye(4)
    blocks[7][0, 1] = blocks[7][1, 0] = 2.0  # eigenvalues 3 and -1
    matrix = scipy.sparse.block_diag(blocks, format="csc").tolil()
    matrix[79, :] = matrix[:, 79] = 0.01  # meets all
    matrix[79, 79] = 5.0
    matrix = SparseMatrix(scipy.sparse.csc_array(matrix))
    assert matrix.factor() is None
    positive = matrix.positive()
    assert positive.factor() is not None
    changed = np.abs(positive.entries - matrix.entries).toarray() > 0
    assert set(np.flatnonzero(changed.any(0))) <= {28, 29, 30, 31, 79}
    inside = slice(28, 32)
    found = np.linalg.eigvalsh(positive.entries[inside, inside].toarray())
    np.testing.assert_allclose(found, [1, 1, 1, 3], rtol=1e-3)
    assert positive.positive() is positive


def test_a_sparse_fit_leaves_a_saddle(monkeypatch):
    """Where data of 1 are squares of numbers close to 0, the Gauss-Newton curvature sees next to nothing."""
    monkeypatch.setattr("bayesprof.inference.sparse_fit._MANY", 3)
    monkeypatch.setattr("bayesprof.inference.sparse_fit._SPARSE", 2.0)

    def model():
        x = pyro.sample("x", dist.Normal(0.0, torch.full((12,), 10.0, dtype=torch.float64)).to_event(1))
        pyro.sample("data", dist.Normal(x**2, 0.1).to_event(1), obs=torch.ones(12).double())

    fit = inference.lm(model, init={"x": torch.full((12,), 1e-3, dtype=torch.float64)})
    assert fit.converged
    assert fit.hessian_kind == "exact"
    np.testing.assert_allclose(fit.params["x"], 1.0, atol=1e-3)


def test_a_sparse_fit_that_nothing_determines_is_told(monkeypatch):
    """Of two parameters the data see the sum, and priors say next to nothing."""
    monkeypatch.setattr("bayesprof.inference.sparse_fit._MANY", 3)
    monkeypatch.setattr("bayesprof.inference.sparse_fit._SPARSE", 2.0)

    def model():
        wide = torch.full((4,), 1e9, dtype=torch.float64)
        x, y = (pyro.sample(name, dist.Normal(0.0, wide).to_event(1)) for name in "xy")
        pyro.sample("data", dist.Normal(x + y, 1.0).to_event(1), obs=torch.ones(4).double())

    fit = inference.lm(model)
    assert not fit.converged
    assert "singular" in fit.message
