"""The life of a scene of several images: components added and taken out, parameters held, saved and loaded; windows,
tables and starting values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from astropy.io import fits
from astropy.time import Time
from test_malformed_inputs import Case, assert_refused

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.encoding import decoded, encoded
from bayesprof.rendering import renderer_for
from bayesprof.storage import deblended_fits, model_fits

MAPS = {"r": [[0.7, 0.1, 1.0], [-0.1, 0.7, 4.0]]}
GALAXY = {"x": 13.2, "y": 11.8, "r_eff": 2.6, "q": 0.7, "theta": 0.4}
STAR = {"x": 24.6, "y": 16.1}
TRUTH = {"sky.level": [2.0, 3.0], "galaxy.flux": [900.0, 1500.0], "star.flux": [300.0, 700.0]}
WAVELENGTH = {"g": 0.47, "r": 0.62}


def near(value: float) -> Any:
    return dist.Normal(value, 2.0)


def star(**given: Any) -> Any:
    return models.point_source(**{"x": near(STAR["x"]), "y": near(STAR["y"]), **given})


def fingerprint(scene: bp.Scene) -> str:
    return inference.Posterior(scene).fingerprint


@pytest.fixture(scope="module")
def images(moffat_psf) -> list[bp.Image]:
    """A galaxy and a star in two bands, the second on coarser, turned pixels."""
    shapes, sigmas = {"g": (26, 33), "r": (24, 30)}, {"g": 0.5, "r": 0.4}
    blank = [
        bp.Image(np.zeros(shape), sigma=sigmas[name], psf=moffat_psf, name=name, zeropoint=25.0, band=name)
        for name, shape in shapes.items()
    ]
    truth = bp.Scene(
        blank,
        maps=MAPS,
        sky=models.flat_sky(),
        galaxy=models.exponential(**GALAXY),
        star=models.point_source(**STAR),
    )
    rng = np.random.default_rng(5)
    facts = {"psf": moffat_psf, "zeropoint": 25.0}
    return [
        bp.Image(
            truth.predict(TRUTH, image=name).numpy() + rng.normal(0.0, sigmas[name], shapes[name]),
            sigma=sigmas[name],
            name=name,
            band=name,
            **facts,
        )
        for name in shapes
    ]


@pytest.fixture(scope="module")
def galaxy_alone(images) -> bp.Scene:
    return bp.Scene(images, maps=MAPS, sky=models.flat_sky(), galaxy=models.exponential())


@pytest.fixture(scope="module")
def first(galaxy_alone) -> Any:
    return inference.lm(galaxy_alone)


@pytest.fixture(scope="module")
def whole(images) -> bp.Scene:
    return bp.Scene(images, maps=MAPS, sky=models.flat_sky(), galaxy=models.exponential(), star=star())


@pytest.fixture(scope="module")
def fitted(whole) -> Any:
    return inference.lm(whole)


# -- components


def test_fit_with_an_added_component_starts_from_the_first_and_ends_where_the_whole_one_does(
    galaxy_alone, first, whole, fitted
):
    more = galaxy_alone.add(fit=first, star=star())
    assert more.latent == whole.latent
    starts = more.initial_values()
    for site in galaxy_alone.latent:
        assert np.array_equal(starts[site], first.params[site]), site
    fit = inference.lm(more)
    assert fit.converged
    for site in ("galaxy.flux", "galaxy.r_eff", "star.flux", "sky.level"):
        np.testing.assert_allclose(fit.params[site], fitted.params[site], atol=0.02 * np.max(fitted.std[site]))


def test_added_component_is_measured_on_what_is_left_over_in_every_image(galaxy_alone, first):
    window = bp.Window.around(STAR["x"], STAR["y"], 6)
    found = galaxy_alone.add(fit=first, windows={"star": window}, star=models.point_source()).initial_values()
    assert float(found["star.x"]) == pytest.approx(STAR["x"], abs=0.5)
    np.testing.assert_allclose(found["star.flux"], TRUTH["star.flux"], rtol=0.5)
    left = galaxy_alone.add(fit=first, glow=bp.only_in(models.flat_sky(), "r"))
    # what the sky of the fit, which took up the star, has left; and not the sky itself
    expected = TRUTH["sky.level"][1] - float(first.params["sky.level"][1])
    assert float(left.initial_values()["glow.level"]) == pytest.approx(expected, abs=0.3)


def test_component_taken_out_is_gone_from_every_image(galaxy_alone, first, whole):
    less = whole.without("star")
    assert less.latent == galaxy_alone.latent
    for name, image in less.predict(first).items():
        assert torch.equal(image, galaxy_alone.predict(first, image=name))
    assert fingerprint(less) == fingerprint(galaxy_alone)


def test_deblended_images_are_the_data_minus_the_others_of_each(whole, fitted):
    found = whole.deblended("galaxy", fitted)
    for name, image in whole.images.items():
        others = whole.predict(fitted, components=["sky", "star"], image=name)
        torch.testing.assert_close(found[name].data, image.data - others, rtol=0, atol=1e-9)
        assert torch.equal(whole.deblended("galaxy", fitted, image=name).data, found[name].data)


def test_parts_and_groups_are_seen_in_every_image(images):
    def pair() -> dict[str, Any]:
        flux = pyro.sample("flux", dist.LogNormal(6.0, 1.0))
        bulge = {name: models.Exponential(13.0, 12.0, share * flux, 2.0) for name, share in (("g", 0.1), ("r", 0.4))}
        return {"bulge": bulge, "disk": models.Exponential(13.0, 12.0, 0.5 * flux, 4.0)}

    group = bp.Group(core=bp.only_in(models.point_source(x=24.0, y=16.0), "r"), halo=models.exponential())
    scene = bp.Scene(images, maps=MAPS, sky=models.flat_sky(level=0.0), pair=pair, group=group)
    assert scene.light_names == ("sky", "pair.bulge", "pair.disk", "group.core", "group.halo")
    assert scene.seen_in["group.core"] == ("r",)
    values = {"pair.flux": 100.0, "group.core.flux": 9.0, "group.halo.flux": [5.0, 6.0]}
    values |= {f"group.halo.{k}": v for k, v in {"x": 20.0, "y": 12.0, "r_eff": 2.0, "ellipticity": [0.0, 0.0]}.items()}
    bulge = scene.predict(values, components="pair.bulge")
    expected = renderer_for(images[0])(models.Exponential(13.0, 12.0, 10.0, 2.0))
    torch.testing.assert_close(bulge["g"], expected, rtol=1e-5, atol=1e-6)
    assert float(bulge["r"].sum()) == pytest.approx(40.0, rel=0.05)
    assert float(scene.predict(values, components="group.core", image="g").abs().max()) == 0.0


def test_images_by_part_are_as_good_as_parts_by_image(images):
    def by_image() -> dict[str, Any]:
        return {name: {"bulge": models.Exponential(13.0, 12.0, f, 2.0)} for name, f in (("g", 10.0), ("r", 40.0))}

    scene = bp.Scene(images, maps=MAPS, sky=models.flat_sky(), pair=by_image)
    assert scene.seen_in["pair.bulge"] == ("g", "r")


# -- held parameters


def test_frozen_parameters_are_held_in_every_image(whole, fitted):
    frozen = whole.freeze(["galaxy", "star.flux"], fitted)
    assert frozen.latent == ("sky.level", "star.x", "star.y")
    for name, image in frozen.predict({site: fitted.params[site] for site in frozen.latent}).items():
        torch.testing.assert_close(image, whole.predict(fitted, image=name), rtol=1e-12, atol=1e-9)
    part = inference.lm(frozen)
    kept = [i for i, label in enumerate(fitted.labels) if label.split("[")[0] in frozen.latent]
    conditional = np.linalg.inv(np.linalg.inv(fitted.covariance)[np.ix_(kept, kept)])
    scale = np.sqrt(np.outer(np.diag(conditional), np.diag(conditional)))
    assert np.abs((part.covariance - conditional) / scale).max() < 1e-4
    assert frozen.free().latent == whole.latent
    assert frozen.free("star").latent == ("sky.level", "star.x", "star.y", "star.flux")


VARIED = {
    "per image": ("r_eff", lambda: bp.per_image(dist.LogNormal(1.0, 0.3)), {"r_eff": [2.0, 3.0]}),
    "per band": ("flux", bp.per_band, {"flux": [500.0, 700.0]}),
    "shared": ("flux", lambda: bp.shared(dist.LogNormal(6.0, 1.0)), {"flux": 500.0}),
    "polynomial": (
        "r_eff",
        lambda: bp.polynomial(WAVELENGTH, order=1),
        {"r_eff_middle": 2.5, "r_eff_coefficients": [0.2]},
    ),
    "spline": (
        "flux",
        lambda: bp.spline(WAVELENGTH, knots=[0.45, 0.55, 0.7], prior=dist.LogNormal(6.0, 1.0)),
        {"flux_middle": 600.0, "flux_coefficients": [0.1, -0.2]},
    ),
}


OFTEN = ("per image", "polynomial")


@pytest.mark.parametrize(
    "kind", [kind if kind in OFTEN else pytest.param(kind, marks=pytest.mark.slow) for kind in VARIED]
)
def test_parameters_that_vary_are_held_as_they_are_drawn_and_are_saved(kind, images, tmp_path):
    name, variation, values = VARIED[kind]
    galaxy = models.exponential(**{**GALAXY, "flux": bp.per_image([900.0, 1500.0]), name: variation()})
    scene = bp.Scene(images, maps=MAPS, sky=models.flat_sky(), galaxy=galaxy)
    held = {f"galaxy.{site}": value for site, value in values.items()}
    assert set(scene.latent) == {"sky.level", *held}
    frozen = scene.freeze("galaxy", held)
    assert frozen.latent == ("sky.level",)
    sky = {"sky.level": [1.0, 2.0]}
    for image, model in frozen.predict(sky).items():
        assert torch.equal(model, scene.predict({**sky, **held}, image=image))
    scene.save(tmp_path / "scene.h5")
    frozen.save(tmp_path / "frozen.h5")
    assert fingerprint(bp.Scene.load(tmp_path / "scene.h5")[0]) == fingerprint(scene)
    other, _ = bp.Scene.load(tmp_path / "frozen.h5")
    assert fingerprint(other) == fingerprint(frozen)
    assert fingerprint(other.free()) == fingerprint(frozen.free())


def test_one_part_of_a_curve_may_be_held(images):
    galaxy = models.exponential(**{**GALAXY, "r_eff": bp.polynomial(WAVELENGTH, order=1)})
    scene = bp.Scene(images, maps=MAPS, sky=models.flat_sky(), galaxy=galaxy)
    frozen = scene.freeze("galaxy.r_eff_coefficients", {"galaxy.r_eff_coefficients": [0.2]})
    assert "galaxy.r_eff_middle" in frozen.latent
    assert "galaxy.r_eff_coefficients" not in frozen.latent
    row = models.describe(frozen).table
    assert list(row["kind"][row["parameter"] == "galaxy.r_eff_coefficients"]) == ["held"]


def test_psfs_likelihoods_and_alignment_are_frozen_of_one_image_or_of_all(images):
    scene = bp.Scene(
        images,
        maps=MAPS,
        psf=models.moffat_psf(beta=3.0, q=1.0, theta=0.0),
        likelihood={"r": bp.likelihoods.extra_noise()},
        alignment=models.alignment(),
        sky=models.flat_sky(),
        star=star(),
    )
    values = {"psf_g.fwhm": 3.0, "psf_r.fwhm": 2.5, "likelihood_r.factor": 1.2, "likelihood_r.term": 0.1}
    values |= {"alignment.dx": [0.1], "alignment.dy": [-0.2]}
    values = {site: value for site, value in values.items() if site in scene.latent}
    every = scene.freeze(["psf", "likelihood", "alignment"], values)
    assert every.latent == ("sky.level", "star.x", "star.y", "star.flux")
    one = scene.freeze("psf_r", values)
    assert set(scene.latent) - set(one.latent) == {"psf_r.fwhm"}
    rest = {"sky.level": [2.0, 3.0], "star.flux": [300.0, 700.0], **{f"star.{k}": v for k, v in STAR.items()}}
    drawn = {site: value for site, value in values.items() if not site.startswith("likelihood")}
    for name, model in every.predict(rest).items():
        assert torch.equal(model, scene.predict({**rest, **drawn}, image=name))
    assert every.free("psf").latent[:2] == ("psf_g.fwhm", "psf_r.fwhm")


# -- files


def everything(images: list[bp.Image], **own: Any) -> bp.Scene:
    """All that a scene of several images can be made of."""
    return bp.Scene(
        images,
        maps=MAPS,
        psf=own.get("psf", {"r": models.gaussian_psf(q=1.0, theta=0.0)}),
        likelihood=own.get("likelihood", {"g": "student_t", "r": bp.likelihoods.extra_noise()}),
        alignment=own.get("alignment", models.alignment(dx=dist.Normal(0.0, 0.1))),
        windows={"galaxy": bp.Window(2, 2, 26, 24)},
        sky=models.flat_sky(),
        galaxy=models.exponential(r_eff=bp.polynomial(WAVELENGTH, order=1), flux=bp.per_band()),
        mover=models.moving_star({"g": 2015.0, "r": Time(2019.5, format="jyear")}, x=24.0, y=16.0),
        glow=bp.only_in(own.get("glow", models.plane_sky()), "r"),
    )


def test_scene_and_fit_are_the_same_after_a_round_trip(whole, fitted, tmp_path):
    scene = whole.freeze("galaxy.r_eff", fitted).started_from(fitted)
    fit = inference.lm(scene)
    scene.save(tmp_path / "scene.h5", fit=fit)
    other, found = bp.Scene.load(tmp_path / "scene.h5")
    assert fingerprint(other) == fingerprint(scene)
    assert list(other.images) == ["g", "r"]
    assert found.params.keys() == fit.params.keys()
    assert all(np.array_equal(found.params[site], fit.params[site]) for site in fit.params)
    starts, expected = other.initial_values(), scene.initial_values()
    assert starts.keys() == expected.keys()
    assert all(torch.equal(starts[site], expected[site]) for site in expected)
    resumed = inference.lm(other, init=found)
    assert resumed.iterations <= 2


def test_whatever_a_scene_of_several_images_is_made_of_is_saved(images, tmp_path):
    scene = everything(images)
    scene.save(tmp_path / "scene.h5")
    other, _ = bp.Scene.load(tmp_path / "scene.h5")
    assert fingerprint(other) == fingerprint(scene)
    assert other.seen_in == scene.seen_in
    assert other.windows == scene.windows
    assert other.dims == scene.dims
    assert other.coords == scene.coords


def test_scene_with_added_component_is_saved(galaxy_alone, first, tmp_path):
    scene = galaxy_alone.add(fit=first, star=models.point_source())
    scene.save(tmp_path / "scene.h5")
    assert fingerprint(bp.Scene.load(tmp_path / "scene.h5")[0]) == fingerprint(scene)


def test_maps_between_distorted_images_are_the_same_to_the_last_bit(moffat_psf, tmp_path):
    from test_many_images import sky_map

    shapes = {"g": (26, 33), "z": (24, 30)}
    images = [
        bp.Image(
            np.zeros(shape),
            sigma=1.0,
            psf=moffat_psf,
            name=name,
            wcs=sky_map(shape, 0.25, 0.3 * (name == "z"), distorted=name == "z"),
        )
        for name, shape in shapes.items()
    ]
    scene = bp.Scene(images, galaxy=models.exponential())
    scene.save(tmp_path / "scene.h5")
    other, _ = bp.Scene.load(tmp_path / "scene.h5")
    here, there = (one.recipe.images.maps["z"] for one in (scene, other))
    assert there.degree > 1
    assert torch.equal(here.to_x, there.to_x)
    assert torch.equal(here.to_y, there.to_y)
    assert fingerprint(other) == fingerprint(scene)


def own_psf() -> Any:
    return models.GaussianPSF(pyro.sample("fwhm", dist.LogNormal(1.0, 0.1)))


def own_noise(model_image: Any, image: bp.Image) -> Any:
    return dist.Laplace(model_image, image.sigma)


def own_offsets() -> Any:
    return pyro.sample("dx", dist.Normal(0.0, 0.1)), torch.tensor(0.0)


def own_glow() -> Any:
    return models.FlatSky(pyro.sample("level", dist.Normal(0.0, 1.0)))


def test_own_functions_are_given_again_by_image(images, tmp_path):
    own = {"psf": {"r": own_psf}, "likelihood": own_noise, "alignment": own_offsets, "glow": own_glow}
    scene = everything(images, **own)
    path = tmp_path / "scene.h5"
    scene.save(path)
    with pytest.raises(ValueError, match="can't hold") as caught:
        bp.Scene.load(path)
    assert (
        "components={'glow': own_glow}, psf={'r': own_psf}, likelihood={'g': own_noise, 'r': own_noise}, "
        "alignment=own_offsets)" in str(caught.value)
    )
    given = {"components": {"glow": own_glow}, "alignment": own_offsets, "likelihood": own_noise}
    for psf in (own_psf, {"r": own_psf}):
        other, _ = bp.Scene.load(path, psf=psf, **given)
        assert fingerprint(other) == fingerprint(scene)
        assert other.seen_in["glow"] == ("r",)
    with pytest.raises(ValueError, match="has no psf_g"):
        bp.Scene.load(path, psf={"g": own_psf}, **given)


def test_times_are_the_same_after_a_round_trip():
    time = Time("2019-07-02T03:04:05.678901", scale="tdb")
    other = decoded(encoded(time))
    assert (other.jd1, other.jd2, other.scale, other.format) == (time.jd1, time.jd2, "tdb", "isot")
    assert other.jyear == time.jyear


# -- windows, tables, starting values


def test_bright_windows_hold_what_is_bright_in_any_image(whole, fitted):
    reach = 0.5
    windows = bp.bright_windows(whole, fitted, reach=reach)
    assert set(windows) == {"galaxy", "star"}
    windowed = whole.with_windows(windows)
    for name, image in whole.images.items():
        lost = (whole.predict(fitted, image=name) - windowed.predict(fitted, image=name)).abs() / image.sigma
        assert float(lost.max()) < reach + 0.01, name  # and the renderer's own error
    # deeper in the second image, it is larger than by the first alone
    first = bp.Scene(whole.image, sky=models.flat_sky(), galaxy=models.exponential(), star=star())
    alone = bp.bright_windows(first, {**fitted.params, **{k: v[0] for k, v in TRUTH.items()}}, reach=reach)
    assert windows["galaxy"].holds(alone["galaxy"])
    assert windows["galaxy"] != alone["galaxy"]


def test_component_that_is_bright_beyond_the_first_image_has_no_window(moffat_psf):
    images = [bp.Image(np.zeros((26, 33)), sigma=1.0, psf=moffat_psf, name=name) for name in "gr"]
    star = models.point_source(x=1.0, y=12.0)
    scene = bp.Scene(images, maps={"r": [[1, 0, 8], [0, 1, 0]]}, star=star)
    assert bp.bright_windows(scene, {"star.flux": [100.0, 1000.0]}) == {}
    assert set(bp.bright_windows(scene, {"star.flux": [100.0, 0.001]})) == {"star"}


def test_photometry_is_that_of_the_image_that_is_named(whole, fitted):
    for i, name in enumerate("gr"):
        table = bp.photometry(whole, fitted, image=name)
        assert list(table["name"]) == ["galaxy", "star"]
        np.testing.assert_allclose(table["flux"][0], fitted.params["galaxy.flux"][i])
        np.testing.assert_allclose(table["flux_error"][0], fitted.std["galaxy.flux"][i], rtol=1e-5)
        np.testing.assert_allclose(table["magnitude"][0], 25.0 - 2.5 * np.log10(fitted.params["galaxy.flux"][i]))
        np.testing.assert_allclose(table["r_eff"][0], fitted.params["galaxy.r_eff"])
        assert table.meta["band"] == name
    with pytest.raises(ValueError, match="no image 'z'"):
        bp.photometry(whole, fitted, image="z")


def test_photometry_takes_the_size_of_each_image(images):
    galaxy = models.exponential(r_eff=bp.polynomial(WAVELENGTH, order=1), ellipticity=bp.per_image())
    scene = bp.Scene(images, maps=MAPS, sky=models.flat_sky(), galaxy=galaxy, star=models.point_source(**STAR))
    fit = inference.lm(scene)
    post = inference.laplace(scene, init=fit, draws=200, proposals=400)
    middle, bend = float(fit.params["galaxy.r_eff_middle"]), float(np.ravel(fit.params["galaxy.r_eff_coefficients"])[0])
    for sign, name in ((-1, "g"), (1, "r")):
        size = bp.photometry(scene, fit, image=name)["r_eff"][0]
        assert size == pytest.approx(middle * np.exp(sign * bend), rel=1e-6)
        draws = post.posterior["galaxy.r_eff"].sel(image=name)
        assert bp.photometry(scene, post, image=name)["r_eff"][0] == pytest.approx(float(draws.median()), rel=1e-9)


def test_linear_start_solves_the_fluxes_of_all_images_at_once(whole):
    values = {f"galaxy.{k}": v for k, v in GALAXY.items() if k not in ("q", "theta")}
    values["galaxy.ellipticity"] = [0.3 / 1.7 * np.cos(0.8), 0.3 / 1.7 * np.sin(0.8)]
    values |= {f"star.{k}": v for k, v in STAR.items()}
    values |= {"sky.level": [0.0, 0.0], "galaxy.flux": [1.0, 1.0], "star.flux": [1.0, 1.0]}
    found = inference.linear_start(whole, values, priors="flat")
    np.testing.assert_allclose(found["galaxy.flux"], TRUTH["galaxy.flux"], rtol=0.05)
    np.testing.assert_allclose(found["star.flux"], TRUTH["star.flux"], rtol=0.05)
    np.testing.assert_allclose(found["sky.level"], TRUTH["sky.level"], atol=0.1)


def test_files_of_lights_have_those_of_every_image(whole, fitted, tmp_path):
    scene = whole.add(glow=bp.only_in(models.plane_sky(level=0.0, slope_x=0.0, slope_y=0.0), "r"))
    model_fits(scene, fitted, tmp_path / "model.fits")
    deblended_fits(scene, fitted, tmp_path / "alone.fits")
    with fits.open(tmp_path / "model.fits") as hdus:
        names = [(hdu.name, hdu.ver) for hdu in hdus]
        lights = ["MODEL", "RESIDUAL", "SKY", "GALAXY", "STAR"]
        assert names == [*((name, 1) for name in lights), *((name, 2) for name in [*lights, "GLOW"])]
    with fits.open(tmp_path / "alone.fits") as hdus:
        assert [hdu.name for hdu in hdus[1:]] == ["GALAXY", "STAR", "SIGMA"] * 2
        np.testing.assert_allclose(hdus["GALAXY", 2].data, scene.deblended("galaxy", fitted, image="r").data)


def test_pictures_of_windows_and_profiles_take_the_name_of_an_image(whole, fitted):
    windowed = whole.with_windows(bp.bright_windows(whole, fitted, reach=0.5))
    shown = bp.plots.windows(windowed, image="r").axes[0]
    assert shown.images[0].get_array().shape == whole.images["r"].shape
    assert len(shown.patches) == 2
    figure = bp.plots.profiles(windowed, fitted, image="r")
    assert [axis.get_title() for axis in figure.axes] == ["galaxy", "star"]


# -- what is refused


def small(**options: Any) -> bp.Scene:
    images = [bp.Image(np.zeros((20, 30)), sigma=1.0, name=name, psf=np.ones((3, 3))) for name in "gr"]
    return bp.Scene(images, **{"sky": models.flat_sky(), **options})


REFUSED = [
    Case("shape", lambda: small().freeze("sky", {"sky.level": 1.0}), ValueError, ("(2,)", "()"), "a fit of"),
    Case(
        "range of one image",
        lambda: small(a=models.exponential(r_eff=bp.per_image(near(3.0)))).freeze("a.r_eff", {"a.r_eff": [1.0, -1.0]}),
        ValueError,
        ("r_eff", "-1"),
        "correct",
    ),
    Case("freeze no psf", lambda: small().freeze("psf", {}), ValueError, ("'psf'",), "sky.level"),
    Case("add what stands beside", lambda: small().add(psf_g=star()), ValueError, ("'psf_g'",), "rename"),
    Case("add an alignment", lambda: small().add(alignment=star()), ValueError, ("'alignment'",), "rename"),
    Case("add an image's name", lambda: small().add(r=star()), ValueError, ("'r'", "name of the image"), "rename"),
    Case("add for no image", lambda: small().add(a=bp.only_in(star(), "z")), ValueError, ("'z'",), "['g', 'r']"),
    Case(
        "images and parts",
        lambda: small(a=lambda: {"g": models.FlatSky(1.0), "bulge": models.FlatSky(1.0)}),
        ValueError,
        ("'bulge'",),
        "name parts otherwise",
    ),
    Case(
        "deblended of no image", lambda: small().deblended("sky", None, image="z"), ValueError, ("'z'",), "['g', 'r']"
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.label)
def test_what_is_not_possible_is_refused_with_the_remedy(case):
    assert_refused(case)
