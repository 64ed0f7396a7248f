"""Tables of a scene's components: their numbers against NumPy, from draws and from a fit; and what is written."""

from __future__ import annotations

import math

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from test_malformed_inputs import Case, assert_refused

import bayesprof as bp
from bayesprof import inference, models, storage
from bayesprof.rendering import renderer_for

ZEROPOINT, SCALE = 25.0, 0.2
DISK = {"x": 18.2, "y": 12.4, "flux": 900.0, "r_eff": 4.0, "q": 0.6, "theta": 0.7}
BULGE = {"x": 18.2, "y": 12.4, "flux": 300.0, "r_eff": 1.5}


def field_wcs() -> WCS:
    """North 30 degrees off the y axis, a pixel's width from the end of the circle of right ascension."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [0.0, 40.0], [19.0, 13.0]
    turn, step = math.radians(30.0), SCALE / 3600
    wcs.wcs.cd = step * np.array([[-math.cos(turn), math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return wcs


@pytest.fixture(scope="module")
def image(moffat_psf) -> bp.Image:
    options = {"sigma": 0.5, "psf": moffat_psf, "wcs": field_wcs(), "zeropoint": ZEROPOINT, "band": "r"}
    truth = renderer_for(bp.Image(np.zeros((28, 36)), **options))(
        models.Exponential(**DISK) + models.DeVaucouleurs(**BULGE) + models.PointSource(30.0, 6.0, 200.0)
    )
    mask = np.zeros((28, 36), dtype=bool)
    mask[3, 4] = True
    data = truth.numpy() + np.random.default_rng(1).normal(0.0, 0.5, (28, 36))
    return bp.Image(data, mask=mask, **options)


def galaxy():
    x, y = (pyro.sample(name, dist.Normal(torch.tensor(BULGE[name], dtype=torch.float64), 1.0)) for name in "xy")
    flux = pyro.sample("flux", dist.LogNormal(7.0, 1.0))
    b_t = pyro.sample("bulge_to_total", dist.Beta(2.0, 4.0))
    r_disk = pyro.sample("disk_r_eff", dist.LogNormal(1.4, 0.4))
    r_bulge = pyro.deterministic("bulge.r_eff", 0.375 * r_disk)
    return {
        "bulge": models.DeVaucouleurs(x, y, flux * b_t, r_bulge),
        "disk": models.Exponential(x, y, flux * (1 - b_t), r_disk, q=0.6, theta=0.7),
    }


@pytest.fixture(scope="module")
def scene(image) -> bp.Scene:
    star = models.point_source(x=30.0, flux=dist.LogNormal(5.3, 1.0))
    return bp.Scene(image, sky=models.flat_sky(level=0.0), galaxy=galaxy, star=star)


@pytest.fixture(scope="module")
def fit(scene) -> inference.Fit:
    found = inference.lm(scene)
    assert found.converged
    return found


def gaussian_draws(fit, chains: int, draws: int, shrink: float = 1.0) -> az.InferenceData:
    mean = np.array([fit.params[label] for label in fit.labels])
    values = np.random.default_rng(3).multivariate_normal(mean, shrink**2 * fit.covariance, (chains, draws))
    return az.from_dict(posterior={label: values[..., i] for i, label in enumerate(fit.labels)})


@pytest.fixture(scope="module")
def post(fit) -> az.InferenceData:
    return gaussian_draws(fit, 2, 700)


def row(table: Table, name: str) -> Table.Row:
    return table[list(table["name"]).index(name)]


def test_quantities_of_draws_are_those_of_numpy(scene, post):
    table = bp.photometry(scene, post)
    assert list(table["name"]) == ["galaxy", "galaxy.bulge", "galaxy.disk", "star"]
    draws = {name: values.values.ravel() for name, values in post.posterior.data_vars.items()}
    flux, b_t, r_disk = (draws[f"galaxy.{name}"] for name in ("flux", "bulge_to_total", "disk_r_eff"))
    expected = {
        ("galaxy", "flux"): flux,
        ("galaxy", "magnitude"): ZEROPOINT - 2.5 * np.log10(flux),
        ("galaxy.bulge", "magnitude"): ZEROPOINT - 2.5 * np.log10(flux * b_t),
        ("galaxy.bulge", "fraction"): b_t,
        ("galaxy.disk", "fraction"): 1 - b_t,
        ("galaxy.bulge", "r_eff_arcsec"): 0.375 * r_disk * SCALE,
        ("galaxy.bulge", "mean_mu"): ZEROPOINT
        - 2.5 * np.log10(0.5 * flux * b_t / (math.pi * (0.375 * r_disk * SCALE) ** 2)),
        ("star", "y"): draws["star.y"],
    }
    for (name, quantity), values in expected.items():
        found = row(table, name)
        assert found[quantity] == pytest.approx(np.median(values), rel=1e-9), (name, quantity)
        assert found[f"{quantity}_error"] == pytest.approx(values.std(ddof=1), rel=1e-6), (name, quantity)
        assert found[f"{quantity}_low"] == pytest.approx(np.quantile(values, 0.16), rel=1e-9)
        assert found[f"{quantity}_high"] == pytest.approx(np.quantile(values, 0.84), rel=1e-9)
    assert row(table, "star")["x"] == 30.0  # held
    assert row(table, "star")["x_error"] == 0.0
    assert np.isnan(row(table, "star")["mean_mu"])  # a point has no size
    assert row(table, "galaxy")["fraction"] == row(table, "star")["fraction"] == 1.0
    assert table["mean_mu"].unit == "mag / arcsec2"
    assert table.meta["zeropoint"] == ZEROPOINT


def test_sky_positions_of_draws_are_those_of_the_wcs(scene, post, image):
    found = row(bp.photometry(scene, post), "galaxy")
    x, y = (post.posterior[f"galaxy.{name}"].values.ravel() for name in "xy")
    sky = image.wcs.pixel_to_world(x, y)
    # right ascension passes 360 degrees within the draws
    ra = np.where(sky.ra.deg > 180, sky.ra.deg - 360, sky.ra.deg)
    assert ra.min() < 0 < ra.max()
    assert found["ra"] == pytest.approx(np.median(ra), abs=1e-9)
    assert found["dec"] == pytest.approx(np.median(sky.dec.deg), abs=1e-9)
    assert found["ra_error"] == pytest.approx(ra.std(ddof=1) * 3600 * math.cos(math.radians(40.0)), rel=1e-4)
    assert found["dec_error"] == pytest.approx(sky.dec.deg.std(ddof=1) * 3600, rel=1e-6)


def test_errors_of_a_fit_are_the_scatter_of_narrow_draws_from_its_gaussian(scene, fit):
    """Narrow, so that the quantities are linear over them: a hundredth of the errors."""
    table = bp.photometry(scene, fit)
    drawn = bp.photometry(scene, gaussian_draws(fit, 4, 2000, shrink=0.01))
    errors = [name for name in table.colnames if name.endswith("_error")]
    assert len(errors) == 11
    for name in errors:
        quantity = name.removesuffix("_error")
        for expected, found in zip(drawn, table, strict=True):
            if np.isnan(expected[quantity]):
                assert np.isnan(found[quantity])
                continue
            assert found[name] == pytest.approx(100 * expected[name], rel=0.04, abs=1e-9), (found["name"], name)
            assert found[quantity] == pytest.approx(expected[quantity], abs=0.05 * found[name] + 1e-9)


def test_fit_recovers_what_was_simulated(scene, fit):
    table = bp.photometry(scene, fit)
    bulge, whole = row(table, "galaxy.bulge"), row(table, "galaxy")
    assert abs(bulge["fraction"] - 0.25) < 4 * bulge["fraction_error"]
    assert abs(whole["magnitude"] - (ZEROPOINT - 2.5 * math.log10(1200.0))) < 4 * whole["magnitude_error"]
    truth = SkyCoord(field_wcs().pixel_to_world(18.2, 12.4))
    found = SkyCoord(whole["ra"], whole["dec"], unit="deg")
    assert truth.separation(found).arcsec < 4 * math.hypot(whole["ra_error"], whole["dec_error"])


def test_components_of_the_catalogue_have_their_sizes_held_or_not(image):
    scene = bp.Scene(image, sky=models.flat_sky(), galaxy=models.exponential(r_eff=4.0, q=0.6, theta=0.7))
    fit = inference.lm(scene)
    flux = fit.params["galaxy.flux"]
    found = bp.photometry(scene, fit)[0]
    assert found["r_eff_arcsec"] == pytest.approx(0.8)
    expected = ZEROPOINT - 2.5 * math.log10(0.5 * flux / (math.pi * 0.6 * 0.8**2))
    assert found["mean_mu"] == pytest.approx(expected, rel=1e-9)
    assert found["mean_mu_error"] == pytest.approx(2.5 / math.log(10) * fit.std["galaxy.flux"] / flux, rel=1e-6)
    frozen = scene.freeze("galaxy", fit)
    assert bp.photometry(frozen, inference.lm(frozen))[0]["mean_mu"] == pytest.approx(expected, rel=1e-9)


def test_frozen_component_of_ones_own_keeps_its_size(image):
    def disk():
        r_eff = pyro.sample("r_eff", dist.LogNormal(1.4, 0.4))
        return models.Exponential(18.2, 12.4, pyro.sample("flux", dist.LogNormal(7.0, 1.0)), r_eff)

    scene = bp.Scene(image, sky=models.flat_sky(), disk=disk).freeze("disk.r_eff", {"disk.r_eff": 3.0})
    assert bp.photometry(scene, inference.lm(scene))[0]["r_eff"] == 3.0


def test_image_without_calibration_has_fewer_columns(moffat_psf):
    image = bp.Image(np.random.default_rng(0).normal(5.0, 1.0, (20, 24)), sigma=1.0, psf=moffat_psf)
    scene = bp.Scene(image, sky=models.flat_sky(level=0.0), star=models.point_source(x=12.0, y=9.0))
    assert {"magnitude", "ra", "r_eff_arcsec"}.isdisjoint(bp.photometry(scene, inference.lm(scene)).colnames)


def test_lattice_has_the_flux_of_its_values(image):
    debris = models.freeform((3, 4), 4.0, x=18.0, y=12.0)
    scene = bp.Scene(image, sky=models.flat_sky(), debris=debris)
    fit = inference.lm(scene)
    expected = 16.0 * np.asarray(fit.params["debris.values"]).sum()
    found = bp.photometry(scene, fit)[0]
    assert found["flux"] == pytest.approx(expected, rel=1e-9)
    ones = np.array([label.startswith("debris.values") for label in fit.labels], dtype=float)
    assert found["flux_error"] == pytest.approx(16.0 * math.sqrt(ones @ fit.covariance @ ones), rel=1e-9)


# -- written


@pytest.mark.parametrize("ending", ["ecsv", "fits"])
def test_table_is_read_back_as_it_was_written(ending, scene, fit, tmp_path):
    table = bp.photometry(scene, fit)
    path = tmp_path / f"photometry.{ending}"
    storage.write_table(table, path)
    read = Table.read(path)
    assert list(read["name"]) == list(table["name"])
    for name in table.colnames[1:]:
        assert np.array_equal(np.ma.filled(read[name], np.nan), table[name], equal_nan=True), name
        assert read[name].unit == table[name].unit, name
    meta = {key.lower(): value for key, value in read.meta.items()}
    assert meta["zeropoint"] == ZEROPOINT
    assert meta["verdict"] == fit.message
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_failed_write_leaves_the_file_that_was_there(scene, fit, tmp_path, monkeypatch):
    table = bp.photometry(scene, fit)
    path = tmp_path / "photometry.ecsv"
    storage.write_table(table, path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        storage.write_table(table, path)

    def full(self, partial, **options):
        partial.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Table, "write", full)
    with pytest.raises(OSError, match="No space left"):
        storage.write_table(table, path, overwrite=True)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_deblended_images_are_written_with_their_wcs(scene, fit, image, tmp_path):
    path = tmp_path / "deblended.fits"
    storage.deblended_fits(scene, fit, path)
    with fits.open(path) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "GALAXY.BULGE", "GALAXY.DISK", "STAR", "SIGMA"]
        bulge = hdus["GALAXY.BULGE"]
        assert bulge.header["COMPNAME"] == "galaxy.bulge"
        assert bulge.header["MAGZERO"] == ZEROPOINT
        others = scene.predict(fit, components=["galaxy.disk", "star", "sky"])
        expected = np.where(image.mask, np.nan, image.data - others)
        assert np.allclose(bulge.data, expected, rtol=1e-12, atol=1e-11, equal_nan=True)
        here, there = (wcs.pixel_to_world(3.0, 20.0) for wcs in (WCS(bulge.header), image.wcs))
        assert here.separation(there).arcsec < 1e-6
    storage.deblended_fits(scene, fit, path, components="galaxy", overwrite=True)
    with fits.open(path) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "GALAXY", "SIGMA"]


def sky_alone() -> bp.Scene:
    return bp.Scene(bp.Image(np.zeros((20, 30)), sigma=1.0), sky=models.flat_sky())


MALFORMED = [
    Case("values", lambda: bp.photometry(sky_alone(), {"sky.level": 1.0}), TypeError, ("uncertainties", "dict"), "lm"),
    Case(
        "sky alone",
        lambda: bp.photometry(sky_alone(), inference.lm(sky_alone())),
        ValueError,
        ("isn't a sky",),
        "has none",
    ),
    Case("ending", lambda: storage.write_table(Table(), "table.csv"), ValueError, ("table.csv",), "rename"),
    Case(
        "nothing to deblend",
        lambda: storage.deblended_fits(sky_alone(), {"sky.level": 1.0}, "no.fits"),
        ValueError,
        ("isn't a sky",),
        "components=",
    ),
]


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.label)
def test_malformed_request_is_refused_with_a_remedy(case):
    assert_refused(case)
