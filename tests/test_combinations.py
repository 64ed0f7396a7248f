"""Galaxies of several parts: that they are the sum of their parts, what they record, and fits of them."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from astropy.io import fits
from pyro import poutine
from test_malformed_inputs import Case, assert_refused

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.models.exponential import R_EFF_OVER_SCALE
from bayesprof.plots.columns import default_names, gaussian_of
from bayesprof.rendering import renderer_for

SHAPE = (60, 70)
POSITION = {"x": 33.6, "y": 28.3}
BULGE_DISK = {
    **POSITION, "flux": 20_000.0, "bulge_to_total": 0.35, "disk_r_eff": 9.0, "bulge_to_disk_size": 0.2, "bulge_n": 2.5,
    "bulge_ellipticity": [0.05, -0.1], "disk_ellipticity": [0.2, 0.15],
}  # fmt: skip
BARRED = {
    **POSITION, "flux": 40_000.0, "bulge_to_total": 0.2, "bar_to_bar_disk": 0.3, "disk_r_eff": 11.0,
    "bar_to_disk_size": 0.45, "bulge_to_bar_size": 0.3, "bulge_n": 2.5, "bar_n": 0.6,
    "bulge_ellipticity": [0.05, -0.1], "disk_ellipticity": [0.1, 0.1], "bar_ellipticity": [-0.4, 0.3],
}  # fmt: skip
NUCLEATED = {
    **POSITION, "flux": 8000.0, "nucleus_fraction": 0.15, "r_eff": 5.0, "n": 1.3, "ellipticity": [0.2, 0.1],
}  # fmt: skip


def nucleated(*, nucleus_fraction: Any = None, **galaxy: Any) -> Any:
    return models.galaxy_with_nucleus(models.sersic(**galaxy), nucleus_fraction=nucleus_fraction)


@pytest.fixture(scope="module")
def blank(moffat_psf) -> bp.Image:
    return bp.Image(np.zeros(SHAPE), sigma=1.0, psf=moffat_psf)


def sites_of(component: Any, image: bp.Image) -> dict[str, torch.Tensor]:
    nodes = poutine.trace(component.bind(image)).get_trace().nodes
    return {name: node["value"] for name, node in nodes.items() if node["type"] == "sample"}


# -- the sum of its parts


def test_bulge_disk_is_a_sersic_profile_and_an_exponential_disk(blank):
    bulge = models.Sersic(33.6, 28.3, 0.35 * 20_000, 1.8, 2.5, ellipticity=[0.05, -0.1])
    disk = models.Exponential(33.6, 28.3, 0.65 * 20_000, 9.0, ellipticity=[0.2, 0.15])
    render = renderer_for(blank)
    torch.testing.assert_close(render(models.BulgeDisk(**BULGE_DISK)), render(bulge) + render(disk))


def test_barred_galaxy_is_a_sum_with_nested_fractions_and_sizes(blank):
    bulge = models.Sersic(33.6, 28.3, 0.2 * 40_000, 11 * 0.45 * 0.3, 2.5, ellipticity=[0.05, -0.1])
    bar = models.Sersic(33.6, 28.3, 0.8 * 0.3 * 40_000, 11 * 0.45, 0.6, ellipticity=[-0.4, 0.3])
    disk = models.Exponential(33.6, 28.3, 0.8 * 0.7 * 40_000, 11.0, ellipticity=[0.1, 0.1])
    render = renderer_for(blank)
    expected = render(bulge) + render(bar) + render(disk)
    torch.testing.assert_close(render(models.BulgeDiskBar(**BARRED)), expected)


def test_nucleus_shares_centre_and_flux_with_any_galaxy(blank):
    render = renderer_for(blank)
    star = models.PointSource(33.6, 28.3, 0.15 * 8000)
    galaxy = models.Sersic(33.6, 28.3, 0.85 * 8000, 5.0, 1.3, ellipticity=[0.2, 0.1])
    torch.testing.assert_close(render(models.GalaxyWithNucleus(**NUCLEATED)), render(star) + render(galaxy))
    held = models.galaxy_with_nucleus(models.bulge_disk(**BULGE_DISK), nucleus_fraction=0.25).bind(blank)
    host = models.BulgeDisk(**{**BULGE_DISK, "flux": 15_000.0}) + models.PointSource(33.6, 28.3, 5000.0)
    torch.testing.assert_close(render(held()), render(host))


@pytest.mark.parametrize("light", [models.BulgeDisk, models.BulgeDiskBar], ids=["bulge_disk", "bulge_disk_bar"])
def test_a_batch_of_parameters_gives_a_batch_of_images(light, blank):
    values = BULGE_DISK if light is models.BulgeDisk else BARRED
    single = [{**values, "flux": flux, "disk_r_eff": r} for flux, r in ((100.0, 4.0), (300.0, 7.0))]
    batch = {name: torch.tensor([one[name] for one in single], dtype=torch.float64) for name in values}
    render = renderer_for(blank)
    torch.testing.assert_close(render(light(**batch)), torch.stack([render(light(**one)) for one in single]))


# -- what is recorded


def test_fluxes_sizes_and_shapes_of_the_parts_are_recorded(blank):
    found = sites_of(models.bulge_disk(**BULGE_DISK), blank)
    e = math.hypot(0.05, 0.1)
    expected = {"bulge_flux": 7000.0, "disk_flux": 13_000.0, "bulge_r_eff": 1.8, "bulge_q": (1 - e) / (1 + e)}
    expected |= {"disk_q": 0.6, "disk_theta": 0.5 * math.atan2(0.15, 0.2)}
    assert {name: float(found[name]) for name in expected} == pytest.approx(expected)
    found = sites_of(models.bulge_disk_bar(**BARRED), blank)
    expected = {"bulge_flux": 8000.0, "bar_flux": 9600.0, "disk_flux": 22_400.0, "bar_to_total": 0.24}
    expected |= {"bar_r_eff": 4.95, "bulge_r_eff": 1.485, "bar_q": 1 / 3}
    assert {name: float(found[name]) for name in expected} == pytest.approx(expected)


def test_what_a_galaxy_records_is_without_its_nucleus(blank):
    found = sites_of(models.galaxy_with_nucleus(models.bulge_disk(**BULGE_DISK), nucleus_fraction=0.25), blank)
    expected = {"nucleus_flux": 5000.0, "galaxy_flux": 15_000.0, "bulge_flux": 5250.0, "disk_flux": 9750.0}
    assert {name: float(found[name]) for name in expected} == pytest.approx(expected)


def test_shape_of_one_part_may_be_axis_ratio_and_angle(blank):
    component = models.bulge_disk(bulge_q=0.8, disk_theta=dist.Uniform(0.0, math.pi))
    names = set(sites_of(component, blank))
    assert {"bulge_theta", "disk_q", "disk_theta"} <= names
    assert not {"bulge_ellipticity", "disk_ellipticity", "bulge_q"} & names
    both = sites_of(models.bulge_disk(bulge_q=0.8, bulge_theta=0.1), blank)
    assert "disk_ellipticity" in both
    assert "disk_q" in both


def test_parts_keep_their_order_in_size(blank):
    for _ in range(50):
        found = sites_of(models.bulge_disk_bar(), blank)
        assert found["bulge_r_eff"] < found["bar_r_eff"] < found["disk_r_eff"]
        total = sum(found[f"{part}_flux"] for part in ("bulge", "bar", "disk"))
        torch.testing.assert_close(total, found["flux"])


# -- fits


@pytest.mark.parametrize(
    ("component", "light", "values"),
    [
        (models.bulge_disk, models.BulgeDisk, BULGE_DISK),
        pytest.param(models.bulge_disk_bar, models.BulgeDiskBar, BARRED, marks=pytest.mark.slow),
        (nucleated, models.GalaxyWithNucleus, NUCLEATED),
    ],
    ids=["bulge_disk", "bulge_disk_bar", "galaxy_with_nucleus"],
)
def test_fit_recovers_what_was_simulated(component, light, values, blank, moffat_psf):
    truth = renderer_for(blank)(light(**values)).numpy()
    data = truth + np.random.default_rng(7).normal(0.0, 1.0, SHAPE)
    scene = bp.Scene(bp.Image(data, sigma=1.0, psf=moffat_psf), galaxy=component())
    fit = inference.lm(scene)
    assert fit.converged, fit.message
    assert fit.chi2 == pytest.approx(fit.dof, abs=4 * math.sqrt(2 * fit.dof))
    derived = {f"galaxy.{name}": float(value) for name, value in sites_of(component(**values), blank).items()}
    expected = {**{f"galaxy.{name}": value for name, value in values.items()}, **derived}
    assert set(expected) == set(fit.params)
    for site, value in expected.items():
        assert (np.abs(np.array(fit.params[site]) - np.array(value)) < 4 * np.array(fit.std[site])).all(), site


@pytest.mark.slow
def test_corner_columns_show_the_shapes_of_the_parts(blank, moffat_psf):
    light = models.BulgeDisk(**BULGE_DISK)
    image = bp.Image(renderer_for(blank)(light), sigma=1.0, psf=moffat_psf)
    scene = bp.Scene(image, galaxy=models.bulge_disk(**{k: v for k, v in BULGE_DISK.items() if "ellip" not in k}))
    fit = inference.lm(scene)
    post = inference.laplace(scene, init=fit, draws=400, proposals=800, seed=1)
    names = default_names(post)
    assert names == ["galaxy.bulge_q", "galaxy.bulge_theta", "galaxy.disk_q", "galaxy.disk_theta"]
    columns = bp.plots.columns.columns_of(post, names)
    _, covariance = gaussian_of(fit, columns)
    assert np.isfinite(covariance).all()
    spread = np.array([column.draws.std() for column in columns])
    np.testing.assert_allclose(np.sqrt(np.diagonal(covariance)), spread, rtol=0.2)


@pytest.mark.slow
def test_fit_of_ngc_3073_is_the_published_one(shared_data):
    """Imfit's example: a Sersic profile and an exponential disk, fitted by its authors, who convolve pixels with the
    PSF; without a sky.
    """
    data = fits.getdata(shared_data("imfit", "n3073rss_small.fits.gz")).astype(float)
    mask = fits.getdata(shared_data("imfit", "n3073rss_small_mask.fits.gz")) != 0
    psf = fits.getdata(shared_data("imfit", "psf_moffat_35_n4699z.fits")).astype(float)
    published = json.loads(shared_data("published_fits.json").read_text())
    entry = published["imfit/n3073rss_small.fits Sersic+Exponential with PSF and mask"]
    bulge, disk = entry["params"]["sersic"], entry["params"]["exponential"]
    noise = {"gain": entry["gain"], "read_noise": entry["readnoise"], "subtracted_sky": entry["original_sky"]}
    image = bp.Image(data, **noise, mask=mask, psf=psf, psf_contains_pixel=False)
    fit = inference.lm(bp.Scene(image, galaxy=models.bulge_disk()))
    assert fit.converged, fit.message
    expected = {
        "x": entry["params"]["X0"] - 1,
        "y": entry["params"]["Y0"] - 1,
        "bulge_n": bulge["n"],
        "bulge_r_eff": bulge["r_e"],
        "bulge_q": 1 - bulge["ell"],
        "bulge_theta": math.radians(bulge["PA"] - 90),
        "disk_r_eff": R_EFF_OVER_SCALE * disk["h"],
        "disk_q": 1 - disk["ell"],
        "disk_theta": math.radians(disk["PA"] + 90),
    }
    for name, value in expected.items():
        # the published errors are Imfit's, the priors ours, and its convolution stops at the image's edge
        assert abs(fit.params[f"galaxy.{name}"] - value) < 2 * fit.std[f"galaxy.{name}"], name


# -- what is refused


MALFORMED = [
    Case("bulge above all", lambda: models.bulge_disk(bulge_to_total=1.2), ValueError, ("in [0, 1]", "1.2"), "correct"),
    Case("bulge above disk", lambda: models.bulge_disk(bulge_to_disk_size=2.0), ValueError, ("in (0, 1]",), "correct"),
    Case(
        "two shapes of the bulge",
        lambda: models.bulge_disk(bulge_ellipticity=[0.1, 0.0], bulge_q=0.5),
        ValueError,
        ("bulge_disk", "either bulge_ellipticity or bulge_q"),
        "leave one of them out",
    ),
    Case(
        "ellipticity of the bar",
        lambda: models.bulge_disk_bar(bar_ellipticity=0.3),
        ValueError,
        ("bar_ellipticity", "()"),
        "(e1, e2)",
    ),
    Case(
        "a light as a galaxy",
        lambda: models.galaxy_with_nucleus(models.Sersic(1, 2, 3, 4, 1)),
        TypeError,
        ("expected galaxy as a component", "Sersic"),
        "models.sersic(...)",
    ),
    Case(
        "the nucleus of a sky",
        lambda: models.galaxy_with_nucleus(models.flat_sky()),
        ValueError,
        ("flat_sky, which has no x, y, flux",),
        "give one like models.sersic(...)",
    ),
    Case(
        "a second nucleus",
        lambda: models.galaxy_with_nucleus(models.galaxy_with_nucleus()),
        ValueError,
        ("no nucleus yet",),
        "give one like models.sersic(...)",
    ),
]


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.label)
def test_malformed_combination_is_refused_with_a_remedy(case):
    assert_refused(case)
