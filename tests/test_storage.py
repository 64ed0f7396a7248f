"""Folders of results: complete or absent, and their tables and images true to the result."""

from __future__ import annotations

import math
import stat
from pathlib import Path

import arviz as az
import numpy as np
import pyro.distributions as dist
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

import bayesprof as bp
from bayesprof import inference, models, storage


def write(text: str):
    """A product: writes `text`."""
    return lambda path: path.write_text(text)


def fail(path: Path) -> None:
    """A product that breaks after its first bytes."""
    path.write_text("half")
    raise OSError(28, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def scene():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [150.0, 2.0], [11.0, 6.0], [-1e-4, 1e-4]
    random = np.random.default_rng(2)
    y, x = np.mgrid[:24, :30]
    data = 5.0 + 40 * np.exp(-np.hypot(x - 14, y - 11) / 3) + random.normal(0, 1.0, x.shape)
    mask = np.zeros(x.shape, dtype=bool)
    mask[3, 20] = True
    image = bp.Image(data, sigma=1.0, mask=mask, wcs=wcs, zeropoint=22.5, band="i")
    galaxy = models.exponential(x=14.0, y=11.0, q=1.0, theta=0.0)
    return bp.Scene(image, galaxy=galaxy, sky=models.flat_sky())


@pytest.fixture(scope="module")
def fit(scene):
    return inference.lm(scene)


@pytest.fixture(scope="module")
def post():
    random = np.random.default_rng(3)
    draws = {
        "galaxy.flux": random.normal(5000.0, 20.0, (4, 300)),
        "galaxy.theta": np.remainder(random.normal(0.0, 0.05, (4, 300)), math.pi),
        "galaxy.ellipticity": random.normal(0.1, 0.01, (4, 300, 2)),
    }
    post = az.from_dict(posterior=draws)
    post.posterior["galaxy.flux"].attrs["units"] = "nJy"
    post.attrs["verdict"] = "ok"
    return post


# -- folders


def test_folder_appears_only_when_it_is_complete(tmp_path):
    seen = []
    files = {"a.txt": write("a"), "b.txt": lambda path: (seen.append((tmp_path / "out").exists()), write("b")(path))}
    saved = storage.save_results(tmp_path / "out", files)
    assert seen == [False]
    assert saved == (tmp_path / "out", {})
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["a.txt", "b.txt"]


def test_folders_above_are_made_and_permissions_are_the_usual_ones(tmp_path):
    storage.save_results(tmp_path / "deep" / "er", {"a.txt": write("a")})
    (tmp_path / "usual").mkdir()
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "deep" / "er", tmp_path / "usual")]
    assert modes[0] == modes[1]


def test_one_failing_file_does_not_take_the_others_with_it(tmp_path):
    saved = storage.save_results(tmp_path / "out", {"a.txt": write("a"), "b.txt": fail, "c.txt": write("c")})
    assert saved.failed == {"b.txt": "OSError: [Errno 28] No space left on device"}
    assert names(tmp_path / "out") == ["a.txt", "c.txt"]
    assert names(tmp_path) == ["out"]


def test_nothing_is_left_where_nothing_could_be_written(tmp_path):
    with pytest.raises(OSError, match=r"none of the results could be written.*No space left"):
        storage.save_results(tmp_path / "out", {"a.txt": fail})
    assert names(tmp_path) == []


def test_interruption_keeps_what_was_written_and_says_where(tmp_path):
    def interrupt(path):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        storage.save_results(tmp_path / "out", {"a.txt": write("a"), "b.txt": interrupt})
    (folder,) = tmp_path.iterdir()
    assert str(folder) in caught.value.__notes__[0]
    assert names(folder) == ["a.txt"]


def test_existing_folder_is_refused_and_untouched(tmp_path):
    storage.save_results(tmp_path / "out", {"settings.toml": write("old")})
    with pytest.raises(FileExistsError, match="exists already; choose another folder, or overwrite"):
        storage.save_results(tmp_path / "out", {"settings.toml": write("new")})
    assert (tmp_path / "out" / "settings.toml").read_text() == "old"


def test_overwriting_replaces_the_whole_folder(tmp_path):
    storage.save_results(tmp_path / "out", {"settings.toml": write("old"), "corner.png": write("old")})
    storage.save_results(tmp_path / "out", {"settings.toml": write("new")}, overwrite=True)
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["settings.toml"]
    assert (tmp_path / "out" / "settings.toml").read_text() == "new"


def test_incomplete_results_do_not_replace_complete_ones(tmp_path):
    storage.save_results(tmp_path / "out", {"settings.toml": write("old")})
    files = {"settings.toml": write("new"), "corner.png": fail}
    saved = storage.save_results(tmp_path / "out", files, overwrite=True)
    assert (tmp_path / "out" / "settings.toml").read_text() == "old"
    assert saved.directory != tmp_path / "out"
    assert (saved.directory / "settings.toml").read_text() == "new"
    assert list(saved.failed) == ["corner.png"]


def test_earlier_results_come_back_when_the_new_ones_cannot_take_their_place(tmp_path, monkeypatch):
    storage.save_results(tmp_path / "out", {"settings.toml": write("old")})
    rename = Path.rename

    def failing(self, target):
        if ".partial-" in self.name:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match=r"can't be renamed to .*out' \(Input/output error\)"):
        storage.save_results(tmp_path / "out", {"settings.toml": write("new")}, overwrite=True)
    assert (tmp_path / "out" / "settings.toml").read_text() == "old"
    (kept,) = [path for path in tmp_path.iterdir() if path.name != "out"]
    assert (kept / "settings.toml").read_text() == "new"


def test_folders_with_other_files_are_never_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"holds 'thesis\.tex', which bayesprof didn't write"):
        storage.check_directory(tmp_path, overwrite=True)
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        storage.check_directory(tmp_path / "thesis.tex", overwrite=True)


def test_check_leaves_nothing_behind_and_refuses_what_cannot_be_made(tmp_path):
    assert storage.check_directory(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert names(tmp_path) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"can't make a folder beside .* \(Not a directory\); choose another place"):
        storage.check_directory(tmp_path / "file" / "out")


# -- tables


def test_summary_of_draws(post, tmp_path):
    table = storage.summary_table(post)
    table.write(tmp_path / "summary.ecsv")
    table = Table.read(tmp_path / "summary.ecsv")
    assert table.colnames == ["parameter", "unit", "median", "sd", "low", "high", "r_hat", "ess_bulk", "ess_tail"]
    assert list(table["parameter"]) == [
        "galaxy.flux",
        "galaxy.theta",
        "galaxy.ellipticity[0]",
        "galaxy.ellipticity[1]",
    ]
    assert table.meta["verdict"] == "ok"
    flux = post.posterior["galaxy.flux"]
    row = table[0]
    assert row["unit"] == "nJy"
    np.testing.assert_allclose([row["low"], row["median"], row["high"]], np.quantile(flux, [0.16, 0.5, 0.84]))
    assert row["sd"] == pytest.approx(float(np.std(flux, ddof=1)))
    assert row["r_hat"] == pytest.approx(float(az.rhat(flux)["galaxy.flux"]))
    assert row["ess_bulk"] == pytest.approx(float(az.ess(flux)["galaxy.flux"]))
    assert row["ess_tail"] == pytest.approx(float(az.ess(flux, method="tail")["galaxy.flux"]))


def test_summary_of_an_angle_does_not_break_at_the_end_of_its_range(post):
    row = storage.summary_table(post)[1]
    assert abs(row["median"]) < 0.01
    assert row["sd"] == pytest.approx(0.05, rel=0.1)
    assert row["ess_bulk"] > 800


def test_summary_of_a_single_chain_has_no_r_hat():
    post = az.from_dict(posterior={"a": np.random.default_rng(0).random((1, 100))})
    assert math.isnan(storage.summary_table(post)["r_hat"][0])


def test_summary_of_a_fit(scene, fit):
    table = storage.summary_table(fit, units=scene.units)
    assert table.colnames == ["parameter", "unit", "value", "std"]
    assert list(table["unit"]) == ["image unit", "pixel", "image unit"]
    assert dict(zip(table["parameter"], table["value"], strict=True)) == fit.params
    assert table.meta["message"] == fit.message
    assert table.meta["chi2"] == fit.chi2


# -- model images


def test_model_file_holds_model_residual_and_components(scene, fit, tmp_path):
    storage.model_fits(scene, fit, tmp_path / "model.fits")
    with fits.open(tmp_path / "model.fits") as hdus:
        assert [hdu.name for hdu in hdus] == ["MODEL", "RESIDUAL", "GALAXY", "SKY"]
        np.testing.assert_allclose(hdus["MODEL"].data, scene.predict(fit).numpy())
        np.testing.assert_allclose(hdus["GALAXY"].data + hdus["SKY"].data, hdus["MODEL"].data)
        residual = hdus["RESIDUAL"].data
        assert np.argwhere(np.isnan(residual)).tolist() == [[3, 20]]
        valid = scene.image.valid.numpy()
        np.testing.assert_allclose(residual[valid], (scene.image.data.numpy() - hdus["MODEL"].data)[valid])
        for hdu in hdus:
            np.testing.assert_allclose(
                WCS(hdu.header).pixel_to_world_values(3, 4), scene.image.wcs.pixel_to_world_values(3, 4)
            )
            assert (hdu.header["FILTER"], hdu.header["MAGZERO"]) == ("i", 22.5)
        assert hdus["SKY"].header["COMPNAME"] == "sky"


def test_model_file_is_read_back_as_an_image_with_its_unit(tmp_path):
    from astropy import units as u

    data = np.full((20, 22), 3.0) * u.nJy
    scene = bp.Scene(bp.Image(data, sigma=1.0 * u.nJy), sky=models.flat_sky(level=3.0))
    storage.model_fits(scene, None, tmp_path / "model.fits")
    image = bp.Image.from_fits((tmp_path / "model.fits", "SKY"))
    assert image.unit == "nJy"
    np.testing.assert_allclose(image.data, 3.0)


# -- what documents a result


def test_products_of_a_fit(scene, fit, tmp_path):
    saved = storage.save_results(tmp_path / "out", storage.products(scene, fit))
    assert saved.failed == {}
    assert names(saved.directory) == ["model.fits", "profile.png", "residual.png", "summary.ecsv"]


def test_corner_of_a_large_scene_shows_its_first_component(tmp_path):
    sky = models.flat_sky(level=dist.Normal(0.0, 1.0))
    scene = bp.Scene(bp.Image(np.ones((12, 14)), sigma=1.0), **{f"sky{i}": sky for i in range(30)})
    random = np.random.default_rng(0)
    post = az.from_dict(posterior={f"sky{i}.level": random.random((2, 50)) for i in range(30)})
    storage.products(scene, post)["corner.png"](tmp_path / "corner.png")
    assert (tmp_path / "corner.png").exists()
