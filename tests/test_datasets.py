"""Simulated fields with their truth, and cutouts of surveys from files that stand for their downloads."""

from __future__ import annotations

import math
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from test_malformed_inputs import Case, assert_refused

import bayesprof as bp
from bayesprof import datasets, models, surveys

RA, DEC = 59.1067, -30.4848


# -- simulated fields


@pytest.fixture(scope="module")
def field() -> datasets.Field:
    return datasets.simulated_field((120, 150), galaxies=5, stars=2, seed=4)


def test_field_is_its_truth_and_noise(field):
    image, truth = field
    assert len(truth) == 7
    components = {}
    for row in truth:
        names = ("x", "y", "flux") if row["kind"] == "star" else ("x", "y", "flux", "r_eff", "n", "q", "theta")
        make = models.point_source if row["kind"] == "star" else models.sersic
        components[row["name"]] = make(**{name: float(row[name]) for name in names})
    scene = bp.Scene(image, sky=models.flat_sky(level=truth.meta["sky"]), **components)
    pulls = ((image.data - scene.predict()) / image.sigma).numpy()
    assert pulls.mean() == pytest.approx(0.0, abs=4 / math.sqrt(pulls.size))
    assert pulls.std() == pytest.approx(1.0, abs=4 / math.sqrt(2 * pulls.size))
    assert image.sigma.min() == pytest.approx(math.sqrt(100.0 / 3.0 + (4.5 / 3.0) ** 2), rel=0.01)


def test_truth_has_positions_and_magnitudes(field):
    image, truth = field
    row = truth[0]
    there = image.wcs.pixel_to_world(row["x"], row["y"])
    assert there.separation(SkyCoord(row["ra"], row["dec"], unit="deg")).arcsec < 1e-6
    assert row["magnitude"] == pytest.approx(27.0 - 2.5 * math.log10(row["flux"]))
    stars = truth[truth["kind"] == "star"]
    assert np.isnan(stars["r_eff"]).all()
    assert np.isfinite(truth["flux"]).all()


def test_same_seed_gives_the_same_field_and_another_another(field):
    again = datasets.simulated_field((120, 150), galaxies=5, stars=2, seed=4)
    other = datasets.simulated_field((120, 150), galaxies=5, stars=2, seed=5)
    assert np.array_equal(again.image.raw, field.image.raw)
    assert not np.array_equal(other.image.raw, field.image.raw)


def test_bright_sources_of_a_field_are_found(field):
    found = bp.detect(field.image)
    bright = field.truth[np.argsort(-field.truth["flux"])[:3]]
    for row in bright:
        distance = np.hypot(found.catalogue["x"] - row["x"], found.catalogue["y"] - row["y"])
        assert distance.min() < 3


# -- surveys, their services replaced by files


def header_of(scale: float, size: int, **cards) -> fits.Header:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [RA, DEC]
    wcs.wcs.crpix, wcs.wcs.cdelt = [0.5 * size + 0.5] * 2, [-scale / 3600, scale / 3600]
    header = wcs.to_header()
    header.update(cards)
    return header


@pytest.fixture
def served(tmp_path, monkeypatch):
    """What each address gives: a list of HDUs, or text; and the addresses that were asked for."""
    answers: dict[str, object] = {}
    asked: list[str] = []

    def download(url: str, **options) -> str:
        assert options["cache"] is True
        assert options["timeout"] > 0
        asked.append(url)
        answer = next(answer for part, answer in answers.items() if part in url)
        if isinstance(answer, Exception):
            raise answer
        path = Path(tmp_path) / f"answer{len(asked)}"
        if isinstance(answer, str):
            path.write_text(answer)
        else:
            fits.HDUList(answer).writeto(path)
        return str(path)

    monkeypatch.setattr(surveys, "download_file", download)
    return answers, asked


def stamp() -> np.ndarray:
    return datasets.moffat_stamp(4.0, side=31).astype("f4")


def legacy_answer(data: np.ndarray, ivar: np.ndarray) -> list:
    """The viewer's files hold an image and an inverse variance for each band, others than asked for as well."""
    hdus: list = [fits.PrimaryHDU()]
    for band, factor in (("g", 5.0), ("r", 1.0)):
        for kind, plane in (("image", factor * data), ("invvar", ivar)):
            cards = header_of(0.262, len(data), IMAGETYP=kind, BAND=band)
            hdus.append(fits.ImageHDU(plane.astype("f4"), header=cards))
    return hdus


def test_legacy_cutout_has_noise_psf_and_calibration(served):
    answers, asked = served
    data = np.random.default_rng(0).normal(0.0, 0.1, (64, 64))
    ivar = np.full((64, 64), 100.0)
    ivar[3, 5] = 0.0
    answers["cutout.fits"] = legacy_answer(data, ivar)
    answers["coadd-psf"] = [fits.PrimaryHDU(stamp(), header=fits.Header({"BAND": "r"}))]
    image = datasets.legacy_survey(RA, DEC, size=64, band="r")
    assert asked == [
        "https://www.legacysurvey.org/viewer/cutout.fits?ra=59.106700&dec=-30.484800&layer=ls-dr9&size=64&bands=r"
        "&subimage",
        "https://www.legacysurvey.org/viewer/coadd-psf/?ra=59.106700&dec=-30.484800&layer=ls-dr9&bands=r",
    ]
    assert np.allclose(image.data[10], data[10].astype("f4"), atol=0)
    assert np.allclose(image.sigma[image.valid], 0.1)
    assert image.mask.nonzero().tolist() == [[3, 5]]
    assert (image.zeropoint, image.band, image.name) == (22.5, "r", "legacy_r")
    assert image.pixel_scale == pytest.approx(0.262, rel=1e-6)
    assert image.psf.shape == (31, 31)
    bp.Scene(image, sky=models.flat_sky(), galaxy=models.sersic())


def test_real_file_of_the_legacy_surveys_is_read(shared_data, served):
    answers, _ = served
    place = "59.1067_-30.4848.fits.gz"
    with (
        fits.open(shared_data("pysersic", f"cutout_{place}")) as image_file,
        fits.open(shared_data("pysersic", f"copsf_{place}")) as psf_file,
    ):
        answers["cutout.fits"] = [hdu.copy() for hdu in image_file]
        answers["coadd-psf"] = [hdu.copy() for hdu in psf_file]
        image = datasets.legacy_survey(SkyCoord(RA, DEC, unit="deg"), band="z")
        expected = next(h for h in image_file if h.header.get("BAND") == "z" and h.header["IMAGETYP"] == "image")
        assert np.array_equal(image.raw, expected.data.astype(float))
        assert np.allclose(image.psf, psf_file[2].data / psf_file[2].data.sum(), rtol=1e-5)
    x, y = image.wcs.world_to_pixel(SkyCoord(RA, DEC, unit="deg"))
    assert abs(x - 127.5) < 3
    assert abs(y - 127.5) < 3


def test_sdss_cutout_has_the_noise_of_its_own_pixels(served):
    answers, asked = served
    data = np.random.default_rng(1).normal(0.0, 0.02, (1, 50, 50))
    answers["layer=sdss"] = [fits.PrimaryHDU(data.astype("f4"), header=header_of(0.396, 50))]
    image = datasets.sdss(RA, DEC, size=50, band="i")
    assert "bands=i" in asked[0]
    assert "pixscale=0.396" in asked[0]
    assert float(image.sigma[0, 0]) == pytest.approx(0.02, rel=0.1)
    assert image.zeropoint == 22.5
    answers["layer=sdss"] = [fits.PrimaryHDU(np.zeros((50, 50)))]
    with pytest.raises(ValueError, match="no data there"):
        datasets.sdss(RA, DEC, size=50)


def test_panstarrs_cutout_is_linear(served):
    answers, asked = served
    counts = np.random.default_rng(2).normal(40.0, 30.0, (40, 40))
    soft, offset = 25.0, 3.0
    scaled = 2.5 / math.log(10) * np.arcsinh((counts - offset) / (2 * soft))
    listing = "projcell subcell ra dec filter mjd type filename shortname\n" + "\n".join(
        f"1 2 {RA} {DEC} r 0 {kind} /rings/{kind}.fits short" for kind in ("stack", "stack.wt")
    )
    answers["ps1filenames"] = listing
    cards = header_of(0.25, 40, BSOFTEN=soft, BOFFSET=offset, EXPTIME=100.0)
    answers["red=/rings/stack.fits"] = [fits.PrimaryHDU(scaled, header=cards)]
    variance = np.full((40, 40), 900.0)
    variance[2, 3] = np.nan
    answers["red=/rings/stack.wt.fits"] = [fits.PrimaryHDU(variance, header=header_of(0.25, 40))]
    image = datasets.panstarrs(RA, DEC, size=40, band="r")
    assert len(asked) == 3
    assert np.allclose(image.data[image.valid], counts[image.valid], rtol=1e-9, atol=1e-8)
    assert np.allclose(image.sigma[image.valid], 30.0)
    assert image.mask.nonzero().tolist() == [[2, 3]]
    assert image.zeropoint == pytest.approx(30.0)
    answers["ps1filenames"] = listing.splitlines()[0] + "\n"
    with pytest.raises(ValueError, match="choose another position or band"):
        datasets.panstarrs(RA, DEC, size=40)


@pytest.mark.parametrize("survey", [datasets.legacy_survey, datasets.sdss, datasets.panstarrs])
def test_no_network_is_said_with_what_needs_none(survey, served):
    answers, asked = served
    answers[""] = URLError("Temporary failure in name resolution")
    with pytest.raises(ConnectionError, match=r"name resolution.*check the network.*simulated_field") as caught:
        survey(RA, DEC)
    assert asked[0] in str(caught.value)


def test_answer_that_is_no_fits_file_is_told(served):
    answers, _ = served
    answers["cutout.fits"] = "<html>Service unavailable</html>"
    with pytest.raises(ValueError, match=r"expected a FITS file from https://www\.legacysurvey\.org"):
        datasets.legacy_survey(RA, DEC)


def test_band_that_the_survey_does_not_have_there_is_told(served):
    answers, _ = served
    answers["cutout.fits"] = legacy_answer(np.ones((20, 20)), np.ones((20, 20)))
    with pytest.raises(ValueError, match="may have no z image at ra 59"):
        datasets.legacy_survey(RA, DEC, band="z")


MALFORMED = [
    Case("dec alone", lambda: datasets.sdss(RA), TypeError, ("ra alone",), "SkyCoord"),
    Case("dec too", lambda: datasets.sdss(SkyCoord(RA, DEC, unit="deg"), 1.0), TypeError, ("and more",), "alone"),
    Case("dec out of range", lambda: datasets.sdss(10.0, 100.0), ValueError, ("100",), "[-90, 90]"),
    Case("size", lambda: datasets.sdss(RA, DEC, size=5), ValueError, ("size", "5"), "from 16"),
    Case("bands", lambda: datasets.sdss(RA, DEC, band="gri"), ValueError, ("'gri'",), "one at a time"),
    Case("galaxies", lambda: datasets.simulated_field(galaxies=-1), ValueError, ("galaxies", "-1"), "from 0"),
    Case("shape", lambda: datasets.simulated_field((5, 5)), ValueError, ("(5, 5)",), "16 pixels"),
    Case("gain", lambda: datasets.simulated_field(gain=0.0), ValueError, ("gain",), "> 0"),
]


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.label)
def test_malformed_request_is_refused_with_a_remedy(case):
    assert_refused(case)
