"""The command, in process: what it writes and prints, its exit codes, and that settings repeat a run draw for draw."""

from __future__ import annotations

import math
import subprocess
import sys
import tomllib
from pathlib import Path

import arviz as az
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from astropy.io import fits
from astropy.table import Table

import bayesprof as bp
from bayesprof import models, settings, storage
from bayesprof.building import component_of, image_of, scene_of, source_of
from bayesprof.command_line import main
from bayesprof.options import parse

SHAPE = (30, 38)
TRUTH = {"flux": 4000.0, "r_eff": 3.5}
SETTINGS = """
[image]
data = "data/field.fits[SCI]"
sigma = "data/sigma.npy"
psf = "data/psf.fits"
zeropoint = 25

[components.galaxy]
kind = "exponential"
x = 17.3
y = 13.8
ellipticity = [0.1, 0.2]
r_eff = { distribution = "LogNormal", loc = 1.2, scale = 0.5 }

[components.sky]
kind = "flat_sky"

[fit]
draws = 400
warmup = 60
chains = 2
seed = 3
"""
RESULTS = sorted(storage.RESULT_FILES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, moffat_psf) -> Path:
    """A folder with the files of an image, a settings file and a module with a component."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "data").mkdir()
    galaxy = models.exponential(x=17.3, y=13.8, ellipticity=[0.1, 0.2], **TRUTH)
    blank = bp.Image(np.zeros(SHAPE), sigma=1.0, psf=moffat_psf)
    truth = bp.Scene(blank, galaxy=galaxy, sky=models.flat_sky(level=20.0)).predict().numpy()
    data = truth + np.random.default_rng(4).normal(0.0, 2.0, SHAPE)
    science = fits.ImageHDU(data, name="SCI")
    science.header["BUNIT"] = "adu"
    fits.HDUList([fits.PrimaryHDU(), science]).writeto(folder / "data" / "field.fits")
    fits.writeto(folder / "data" / "psf.fits", moffat_psf)
    np.save(folder / "data" / "sigma.npy", np.full(SHAPE, 2.0))
    (folder / "fit.toml").write_text(SETTINGS)
    (folder / "own_models.py").write_text(
        "import pyro, pyro.distributions as dist\n"
        "from bayesprof import models\n"
        "def disk():\n"
        "    flux = pyro.sample('flux', dist.LogNormal(8.3, 1.0))\n"
        "    return models.Exponential(17.3, 13.8, flux, 3.5, ellipticity=[0.1, 0.2])\n"
        "number = 3\n"
    )
    return folder


def fit(*options: object) -> int:
    return main(["fit", *map(str, options)])


@pytest.fixture(scope="module")
def sampled(folder) -> tuple[int, Path]:
    """Exit code and folder of a run with NUTS."""
    return fit("--settings", folder / "fit.toml", "--out", folder / "sampled", "--quiet"), folder / "sampled"


# -- runs


def test_sampling_writes_every_result_and_recovers_the_truth(sampled):
    code, out = sampled
    assert code == 0
    assert sorted(path.name for path in out.iterdir()) == RESULTS
    table = Table.read(out / "summary.ecsv")
    assert table.meta["verdict"] == "ok"
    for name, value in TRUTH.items():
        row = table[list(table["parameter"]).index(f"galaxy.{name}")]
        assert abs(row["median"] - value) < 4 * row["sd"]
    post = az.from_netcdf(out / "posterior.nc")
    assert post.posterior.sizes["draw"] == 400
    assert post.posterior["galaxy.flux"].attrs["units"] == "adu"
    with fits.open(out / "model.fits") as hdus:
        assert hdus["MODEL"].header["BUNIT"] == "adu"
        assert hdus["MODEL"].data.shape == SHAPE


@pytest.mark.slow
def test_written_settings_repeat_the_draws_from_elsewhere(sampled, folder, tmp_path, monkeypatch):
    _, out = sampled
    monkeypatch.chdir(tmp_path)
    written = (out / "settings.toml").read_text()
    assert str(folder) not in written
    assert tomllib.loads(written)["image"]["data"] == "../data/field.fits[SCI]"
    assert fit("--settings", out / "settings.toml", "--out", folder / "again", "--quiet") == 0
    first, second = (az.from_netcdf(path / "posterior.nc").posterior for path in (out, folder / "again"))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    assert (folder / "again" / "settings.toml").read_text() == written


def test_lm_prints_a_table_and_its_verdict(folder, tmp_path, capsys):
    assert fit("--settings", folder / "fit.toml", "--method", "lm", "--out", tmp_path / "lm") == 0
    printed = capsys.readouterr().out
    assert printed.split()[:4] == ["parameter", "unit", "value", "std"]
    assert "verdict: Converged" in printed
    assert f"results: {tmp_path / 'lm'}" in printed
    assert sorted(path.name for path in (tmp_path / "lm").iterdir()) == [
        "model.fits",
        "profile.png",
        "residual.png",
        "settings.toml",
        "summary.ecsv",
    ]
    table = Table.read(tmp_path / "lm" / "summary.ecsv")
    assert abs(table["value"][0] - TRUTH["flux"]) < 4 * table["std"][0]


def test_a_psf_model_is_a_component_named_psf(folder, tmp_path, capsys):
    """In place of a sampled PSF, of which the image has none."""
    text = SETTINGS.replace('psf = "data/psf.fits"', "").replace("data/", f"{folder}/data/")
    text = text.replace("warmup = 60\nchains = 2\n", "")
    text += "[components.psf]\nkind = 'gaussian_psf'\nellipticity = [0.0, 0.0]\noversampling = 1\n"
    text += "fwhm = { distribution = 'LogNormal', loc = 1.1, scale = 0.1 }\n"
    (tmp_path / "fit.toml").write_text(text)
    assert fit("--settings", tmp_path / "fit.toml", "--method", "laplace", "--out", tmp_path / "out") in (0, 1)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == RESULTS
    table = Table.read(tmp_path / "out" / "summary.ecsv")
    assert {"psf.fwhm", "galaxy.flux", "sky.level"} <= set(table["parameter"])
    post = az.from_netcdf(tmp_path / "out" / "posterior.nc")
    assert "image_psf" not in post.constant_data
    wrong = text.replace("oversampling = 1", "sampling = 1")
    (tmp_path / "wrong.toml").write_text(wrong)
    assert fit("--settings", tmp_path / "wrong.toml", "--out", tmp_path / "wrong") == 2
    assert "'sampling'" in capsys.readouterr().err


def test_another_method_writes_the_same_files(folder, tmp_path, capsys):
    out = tmp_path / "out"
    lengths = ("--draws", 800, "--chains", 4, "--method", "sample")
    assert fit("--settings", folder / "fit.toml", *lengths, "--out", out) in (0, 1)
    assert {"posterior.nc", "summary.ecsv", "corner.png"} <= {path.name for path in out.iterdir()}
    post = az.from_netcdf(out / "posterior.nc")
    assert post.attrs["method"] in ("Laplace", "split HMC")
    assert tomllib.loads((out / "settings.toml").read_text())["fit"]["method"] == "sample"


def test_a_length_that_a_method_does_not_take_is_refused(folder, tmp_path, capsys):
    options = ("--method", "laplace", "--chains", 4)
    assert fit("--settings", folder / "fit.toml", *options, "--out", tmp_path / "out") == 2
    assert "takes no" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_failed_verdict_exits_with_1_and_keeps_the_results(folder, tmp_path, capsys):
    short = ("--draws", 12, "--warmup", 20)
    assert fit("--settings", folder / "fit.toml", *short, "--out", tmp_path / "out", "--quiet") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "verdict: " in captured.err
    assert "ESS" in captured.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == RESULTS


def test_starts_may_be_automatic_and_nothing_else_in_words(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    options = ("data/field.fits[1]", "--variance", "4.0", "--component", "sky=flat_sky", "--method", "lm")
    assert fit(*options, "--starts", "auto", "--out", tmp_path / "out") == 0
    assert "Best of 4 starts" in capsys.readouterr().out
    assert tomllib.loads((tmp_path / "out" / "settings.toml").read_text())["fit"]["starts"] == "auto"
    assert fit(*options, "--starts", "many", "--out", tmp_path / "other") == 2
    assert "expected starts to be a number or 'auto', got 'many'" in capsys.readouterr().err


def test_everything_can_be_given_as_options(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    options = (
        *("data/field.fits[1]", "--variance", "4.0", "--psf", "data/psf.fits", "--component", "disk=own_models:disk"),
        *("--component", "sky=flat_sky", "--likelihood", "student_t", "--method", "lm", "--starts", "2", "--band", "r"),
        *("--pixel-scale", "0.2", "--cutout", "18", "14", "27", "--out", tmp_path / "out"),
    )
    assert fit(*options) == 0
    assert "Best of 2 starts" in capsys.readouterr().out
    written = tomllib.loads((tmp_path / "out" / "settings.toml").read_text())
    assert written["image"]["cutout"] == [18.0, 14.0, 27]
    assert (tmp_path / "out" / written["modules"]).resolve() == folder
    with fits.open(tmp_path / "out" / "model.fits") as hdus:
        assert hdus[0].data.shape == (27, 27)


def test_likelihood_with_parameters_is_given_by_its_name(folder, tmp_path, capsys):
    options = ("--settings", folder / "fit.toml", "--method", "lm", "--likelihood", "contaminated")
    assert fit(*options, "--out", tmp_path / "out") == 0
    assert "likelihood.fraction" in (tmp_path / "out" / "summary.ecsv").read_text()
    assert tomllib.loads((tmp_path / "out" / "settings.toml").read_text())["fit"]["likelihood"] == "contaminated"


def test_failing_file_is_told_and_the_others_are_kept(folder, tmp_path, monkeypatch, capsys):
    def broken(*args, path, **kwargs):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.plots, "profile", broken)
    assert fit("--settings", folder / "fit.toml", "--method", "lm", "--out", tmp_path / "out") == 3
    captured = capsys.readouterr()
    assert "profile.png couldn't be written: OSError: [Errno 28] No space left on device" in captured.err
    assert "verdict: Converged" in captured.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "model.fits",
        "residual.png",
        "settings.toml",
        "summary.ecsv",
    ]


def test_verdict_is_told_even_where_nothing_can_be_written(folder, tmp_path, monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise OSError("none of the results could be written")

    monkeypatch.setattr(storage, "save_results", refuse)
    assert fit("--settings", folder / "fit.toml", "--method", "lm", "--out", tmp_path / "out") == 3
    captured = capsys.readouterr()
    assert "verdict: Converged" in captured.out
    assert captured.err == "bayesprof: none of the results could be written\n"


def test_existing_results_are_overwritten_only_on_request(folder, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "settings.toml").write_text("old")
    job = ("--settings", folder / "fit.toml", "--method", "lm", "--out", out, "--quiet")
    assert fit(*job) == 2
    assert "exists already; choose another folder, or overwrite it (--overwrite)" in capsys.readouterr().err
    assert (out / "settings.toml").read_text() == "old"
    assert fit(*job, "--overwrite") == 0
    assert (out / "settings.toml").read_text() != "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_defects_end_with_a_traceback_and_code_3(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(storage, "check_directory", lambda *args, **kwargs: 1 / 0)
    assert fit("--settings", folder / "fit.toml", "--out", tmp_path / "out") == 3
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_torch_keeps_the_threads_it_had(folder, tmp_path):
    before = torch.get_num_threads()
    assert (
        fit("--settings", folder / "fit.toml", "--method", "lm", "--threads", 2, "--out", tmp_path / "a", "--quiet")
        == 0
    )
    assert torch.get_num_threads() == before


def test_version_and_help_from_the_shell(capsys):
    done = subprocess.run([sys.executable, "-m", "bayesprof", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"bayesprof {bp.__version__}\n"
    with pytest.raises(SystemExit) as caught:
        main(["fit", "--help"])
    assert caught.value.code == 0
    assert "--psf-oversampling" in capsys.readouterr().out


# -- bad input

GOOD = ("{data}", "--sigma", "2", "--component", "sky=flat_sky", "--out", "{out}")
BAD = {
    "no command": ((), "the following arguments are required: COMMAND; see bayesprof --help"),
    "unknown option": (("fit", *GOOD, "--sgima", "3"), "unrecognized arguments: --sgima 3"),
    "not a number": (
        ("fit", *GOOD, "--gain", "x"),
        "argument --gain: invalid float value: 'x'; see bayesprof fit --help",
    ),
    "no image": (("fit", "--component", "sky=flat_sky", "--out", "{out}"), "expected an image to fit, got none"),
    "no component": (("fit", "{data}", "--sigma", "2", "--out", "{out}"), "expected components, got none"),
    "no folder": (("fit", *GOOD[:-2]), "expected a folder for the results, got none; give it as --out DIR"),
    "component without kind": (("fit", *GOOD, "--component", "galaxy"), "expected --component NAME=KIND, got 'galaxy'"),
    "unknown kind": (
        ("fit", *GOOD, "--component", "g=sersik"),
        "expected kind to be one of airy_psf, ",
    ),
    "unknown module": (("fit", *GOOD, "--component", "g=no_such:f"), "no_such:f can't be imported (No module named"),
    "unknown function": (
        ("fit", *GOOD, "--modules", "{folder}", "--component", "g=own_models:f"),
        "expected 'f' of own_models to be a function that returns light, got None",
    ),
    "no function": (
        ("fit", *GOOD, "--modules", "{folder}", "--component", "g=own_models:number"),
        "to be a function that returns light, got 3",
    ),
    "no file": (("fit", "{folder}/none.fits", *GOOD[1:]), "none.fits'; check the path"),
    "no HDU": (("fit", "{data}[WHT]", *GOOD[1:]), "has no HDU 'WHT'; choose one of"),
    "noise twice": (("fit", *GOOD, "--gain", "3"), "expected one of sigma, variance, ivar, gain, got sigma and gain"),
    "no noise": (("fit", "{data}", *GOOD[3:]), "the gaussian likelihood needs the noise of image 'image'"),
    "unknown likelihood": (
        ("fit", *GOOD, "--likelihood", "cash"),
        "expected likelihood to be one of gaussian, poisson",
    ),
    "unknown method": (("fit", *GOOD, "--method", "mcmc"), "ensemble, svi, got 'mcmc'"),
    "no draws": (("fit", *GOOD, "--draws", "0"), "expected draws to be at least 1, got 0"),
    "short warmup": (("fit", *GOOD, "--warmup", "3"), "expected warmup >= 20"),
    "no settings file": (("fit", *GOOD, "--settings", "none.toml"), "settings file 'none.toml' doesn't exist"),
    "cutout outside": (("fit", *GOOD, "--cutout", "900", "9", "21"), "choose a centre inside the image"),
    "fraction of a pixel": (("fit", *GOOD, "--cutout", "9", "9", "20.5"), "cutout size must be an int"),
    "point source without PSF": (("fit", *GOOD, "--component", "s=point_source"), "no image without a PSF"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_with_one_line_and_code_2(case, folder, tmp_path, capsys):
    arguments, message = BAD[case]
    places = {"data": folder / "data" / "field.fits", "out": tmp_path / "out", "folder": folder}
    assert main([argument.format(**places) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("bayesprof: ")
    assert captured.err.count("\n") == 1 + captured.err.count("draw/s")
    assert message in captured.err
    assert list(tmp_path.iterdir()) == []


IMAGE = "[image]\ndata = 'a'\n"
SERSIC = "{good}[components.g]\nkind = 'sersic'\n"
TABLES = {
    "not TOML": ("[image\n", "isn't valid TOML"),
    "unknown table": ("[imgae]\n", "has no key 'imgae'; did you mean 'image'?"),
    "no table": ("image = 3\n", "expected image to be a table, got 3"),
    "unknown key": (IMAGE + "sgima = 2\n", "[image] has no key 'sgima'; did you mean 'sigma'?"),
    "wrong type": (IMAGE + "mask_invalid = 'yes'\n", "expected mask_invalid to be true or false, got 'yes'"),
    "true for a number": (IMAGE + "gain = true\n", "expected gain to be a number, got True"),
    "no kind": (IMAGE + "[components.g]\nn = 4\n", "expected a table with a kind, got {'n': 4}; add kind = \"sersic\""),
    "short cutout": (
        "[image]\ndata = '{data}'\nsigma = 2\ncutout = [3]\n",
        "expected cutout to be [x, y, size], got [3]",
    ),
    "unknown parameter": (SERSIC + "m = 4\n", "[components.g] sersic has no parameter 'm'; it has x, y"),
    "bad value": (SERSIC + "n = -4\n", "expected n in [0.25, 10.0], got -4"),
    "text for a value": (SERSIC + "n = 'four'\n", "n takes a Pyro distribution"),
    "unknown distribution": (
        SERSIC + "n = {{distribution = 'Lognormal'}}\n",
        "with one of pyro.distributions, got 'Lognormal'",
    ),
    "not a distribution": (SERSIC + "n = {{loc = 1.0}}\n", "got None; correct the name"),
    "missing argument": (
        SERSIC + "n = {{distribution = 'Normal', loc = 1.0}}\n",
        "[components.g] n: Normal doesn't take {'loc': 1.0}",
    ),
    "bad argument": (
        SERSIC + "n = {{distribution = 'Normal', loc = 1.0, scale = -1}}\n",
        "[components.g] n: Normal doesn't take",
    ),
    "parameters of one's own": (
        "{good}[components.g]\nkind = 'own_models:disk'\nn = 4\n",
        "draws its own parameters; remove n",
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_bad_settings_end_with_one_line_and_code_2(case, folder, tmp_path, capsys):
    text, message = TABLES[case]
    data = folder / "data" / "field.fits"
    good = f"[image]\ndata = '{data}'\nsigma = 2.0\n[components.sky]\nkind = 'flat_sky'\n"
    (tmp_path / "fit.toml").write_text(text.format(good=good, data=data) if "{" in text else text)
    if "components" not in text and "[image\n" not in text:
        (tmp_path / "fit.toml").write_text(
            (tmp_path / "fit.toml").read_text() + "[components.sky]\nkind = 'flat_sky'\n"
        )
    assert fit("--settings", tmp_path / "fit.toml", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


# -- settings


def test_options_win_over_the_file(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    argv = ["fit", "--settings", str(folder / "fit.toml"), "--draws", "7", "--component", "galaxy=sersic", "other.fits"]
    tables, quiet = parse([*argv, "--gain", "2.5"])
    assert not quiet
    assert tables["fit"] == {"draws": 7, "warmup": 60, "chains": 2, "seed": 3}
    assert tables["components"] == {"galaxy": {"kind": "sersic"}, "sky": {"kind": "flat_sky"}}
    assert tables["image"] == {
        "data": str(tmp_path / "other.fits"),
        "psf": str(folder / "data" / "psf.fits"),
        "zeropoint": 25,
        "gain": 2.5,
    }


def test_every_option_of_an_image_arrives(folder):
    argv = """fit a.fits --ivar w.fits --mask m.fits --psf p.fits --psf-oversampling 3 --psf-excludes-pixel --name deep
        --zeropoint 22.5 --pixel-scale 0.2 --band r --mask-invalid --no-header --read-noise 4 --subtracted-sky -3.5
        --cutout 4 5 9"""
    image = parse(argv.split())[0]["image"]
    assert image["ivar"] == str(Path.cwd() / "w.fits")
    assert {key: image[key] for key in image if key not in settings.FILE_KEYS} == {
        "psf_oversampling": 3,
        "psf_contains_pixel": False,
        "zeropoint": 22.5,
        "pixel_scale": 0.2,
        "band": "r",
        "mask_invalid": True,
        "use_header": False,
        "name": "deep",
        "read_noise": 4.0,
        "subtracted_sky": -3.5,
        "cutout": [4.0, 5.0, 9],
    }


def test_out_and_overwrite_can_stand_in_the_file(folder, tmp_path):
    (tmp_path / "fit.toml").write_text(f'out = "here"\noverwrite = true\n{SETTINGS}')
    tables, _ = parse(["fit", "--settings", str(tmp_path / "fit.toml")])
    assert (tables["out"], tables["overwrite"]) == (str(tmp_path / "here"), True)


def test_resolved_settings_hold_the_defaults(folder):
    chosen = settings.checked({"image": {"data": "a"}, "components": {"sky": {"kind": "flat_sky"}}})
    assert chosen.fit["method"] == "nuts"
    assert {"likelihood", "seed", "starts", "draws", "chains", "threads"} <= set(chosen.fit)
    again = settings.checked(tomllib.loads(settings.to_toml(chosen, Path.cwd())))
    assert again.fit == chosen.fit
    assert again.components == chosen.components


def test_priors_and_held_values_from_tables():
    given = {
        "kind": "sersic",
        "n": {"distribution": "LogNormal", "loc": 0.7, "scale": 0.4},
        "ellipticity": {"distribution": "Ellipticity", "scale": 0.3},
        "x": 12,
        "flux": {"distribution": "Gamma", "concentration": 2.0, "rate": 0.01},
    }
    found = component_of("galaxy", given, Path()).given
    assert isinstance(found["n"], dist.LogNormal)
    assert float(found["n"].mean) == pytest.approx(math.exp(0.7 + 0.08))
    assert found["n"].sample().dtype == torch.float64
    assert isinstance(found["ellipticity"], models.Ellipticity)
    assert float(found["flux"].mean) == pytest.approx(200.0)
    assert float(found["x"]) == 12.0
    shape = {"kind": "sersic", "ellipticity": {"distribution": "Normal", "loc": [0.0, 0.1], "scale": 0.2}}
    assert component_of("galaxy", shape, Path()).given["ellipticity"].event_shape == (2,)


def test_hdus_are_chosen_in_brackets_unless_a_file_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert source_of("a/b.fits[SCI]") == ("a/b.fits", "SCI")
    assert source_of("b.fits[1]") == ("b.fits", 1)
    assert source_of("b.fits") == "b.fits"
    Path("b.fits[1]").touch()
    assert source_of("b.fits[1]") == "b.fits[1]"


def test_shipped_sample_is_what_its_settings_and_truth_say():
    examples = Path(__file__).resolve().parents[1] / "examples"
    chosen = settings.checked(settings.read_settings(examples / "sample.toml"))
    scene = scene_of(chosen, image_of(chosen))
    assert (scene.image.unit, scene.image.band, scene.image.zeropoint) == ("adu", "r", 27.0)
    truth = {row["parameter"]: row["value"] for row in Table.read(examples / "sample" / "truth.ecsv")}
    q, theta = truth["galaxy.q"], truth["galaxy.theta"]
    size = (1 - q) / (1 + q)
    truth["galaxy.ellipticity"] = [size * math.cos(2 * theta), size * math.sin(2 * theta)]
    model = scene.predict({name: value for name, value in truth.items() if name not in ("galaxy.q", "galaxy.theta")})
    residual = ((scene.image.data - model) / scene.image.sigma)[scene.image.valid]
    assert abs(float((residual**2).mean()) - 1) < 4 * math.sqrt(2 / residual.numel())
    assert abs(float(residual.mean())) < 4 / math.sqrt(residual.numel())
