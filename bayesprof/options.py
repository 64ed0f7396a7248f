"""The options of the command line, as the tables of a settings file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import bayesprof
from bayesprof.settings import FILE_KEYS, FIT_KEYS, IMAGE_KEYS, absolute, merged, read_settings


class InputError(Exception):
    """Bad input; its message is for the user and says what to do."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def _starts(text: str) -> int | str:
    """A number, or a word, which the settings judge."""
    return int(text) if text.lstrip("-").isdigit() else text


def parse(argv: Sequence[str] | None) -> tuple[dict[str, Any], bool]:
    """The tables of the settings file that `argv` names, if any, with the options over them, and whether to be quiet.

    Paths among the options are relative to the working directory, those in the file to its folder.
    """
    options = vars(_parser().parse_args(argv))
    here = Path.cwd()
    image = {key: options[key] for key in IMAGE_KEYS if key in options}
    for key in FILE_KEYS:
        if key in image:
            image[key] = _number_or_path(image[key], here) if key in _NOISE_PLANES else absolute(image[key], here)
    if "cutout" in image:
        x, y, size = image["cutout"]
        image["cutout"] = [x, y, int(size) if size.is_integer() else size]
    tables: dict[str, Any] = {
        "image": image,
        "fit": {key: options[key] for key in FIT_KEYS if key in options},
        "components": dict(_component(text) for text in options.get("component", [])),
        **{key: absolute(options[key], here) for key in ("out", "modules") if key in options},
        **{key: options[key] for key in ("overwrite",) if key in options},
    }
    try:
        first = read_settings(options["settings"]) if "settings" in options else {"modules": str(here)}
    except (ValueError, TypeError, OSError) as error:
        raise InputError(str(error)) from error
    return merged(first, tables), options["quiet"]


_NOISE_PLANES = ("sigma", "variance", "ivar")


def _number_or_path(text: str, folder: Path) -> float | str:
    path = absolute(text, folder)
    try:
        return path if Path(path).exists() else float(text)
    except ValueError:
        return path


def _component(text: str) -> tuple[str, dict[str, str]]:
    name, equals, kind = text.partition("=")
    if not (name and equals and kind):
        raise InputError(f"expected --component NAME=KIND, got {text!r}; for example --component galaxy=sersic")
    return name, {"kind": kind}


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="bayesprof", description="Fit galaxies in images, with posteriors that carry a verdict.")
    parser.add_argument("--version", action="version", version=f"bayesprof {bayesprof.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    fit = commands.add_parser(
        "fit",
        help="fit or sample a scene, and write a folder of results",
        description="Fit or sample a scene, and write a folder of results. Exit codes: 0, the verdict is ok; 1, it "
        "isn't; 2, bad input; 3, results couldn't be written in full.",
        argument_default=argparse.SUPPRESS,
    )
    _add_job(fit.add_argument_group("job"))
    _add_image(fit.add_argument_group("image", "FILE is FITS or .npy; FILE[SCI] and FILE[1] choose an HDU"))
    _add_method(fit.add_argument_group("model and method"))
    return parser


def _add_job(group: Any) -> None:
    group.add_argument(
        "--settings", metavar="FILE.toml", help="read settings from here; the options below win over them"
    )
    group.add_argument("--out", metavar="DIR", help="folder for the results, which must not exist")
    group.add_argument("--overwrite", action="store_true", help="replace a folder of earlier results")
    group.add_argument("--quiet", action="store_true", default=False, help="print nothing but problems")


def _add_image(group: Any) -> None:
    group.add_argument("data", metavar="IMAGE", nargs="?", help="the image to fit: FILE")
    group.add_argument("--sigma", metavar="S", help="standard deviation of each pixel: FILE or a number")
    group.add_argument("--variance", metavar="V", help="or its variance")
    group.add_argument("--ivar", metavar="W", help="or its inverse variance")
    group.add_argument("--gain", type=float, metavar="G", help="or from the image, with electrons per image unit")
    group.add_argument("--read-noise", type=float, metavar="E", help="electrons; with --gain")
    group.add_argument("--subtracted-sky", type=float, metavar="SKY", help="level already taken off, image units")
    group.add_argument("--mask", metavar="M", help="FILE, non-zero where a pixel is ignored")
    group.add_argument("--mask-invalid", action="store_true", help="ignore pixels that aren't finite or have no noise")
    group.add_argument("--psf", metavar="P", help="FILE")
    group.add_argument("--psf-oversampling", type=int, metavar="K", help="PSF pixels per image pixel along a side")
    group.add_argument(
        "--psf-excludes-pixel",
        action="store_false",
        dest="psf_contains_pixel",
        help="an optical PSF, before integration over the pixel",
    )
    group.add_argument("--zeropoint", type=float, metavar="MAG", help="magnitude of one image unit")
    group.add_argument("--pixel-scale", type=float, metavar="ARCSEC", help="arcsec per pixel; from the WCS if left out")
    group.add_argument("--band", metavar="NAME", help="filter")
    group.add_argument("--name", metavar="NAME", help="name of the image in the results")
    group.add_argument(
        "--no-header", action="store_false", dest="use_header", help="no WCS, band, zero point from headers"
    )
    group.add_argument(
        "--cutout",
        nargs=3,
        type=float,
        metavar=("X", "Y", "SIZE"),
        help="fit SIZE pixels around pixel (X, Y); from (0, 0)",
    )


def _add_method(group: Any) -> None:
    group.add_argument(
        "--component",
        action="append",
        metavar="NAME=KIND",
        help="a component with default priors, over the file's; KIND: of bayesprof.models, or module:function",
    )
    group.add_argument(
        "--modules", metavar="DIR", help="folder of such modules (default: the settings file's, or this one)"
    )
    group.add_argument(
        "--likelihood",
        metavar="NAME",
        help="gaussian (default), poisson, student_t, contaminated, extra_noise or correlated",
    )
    group.add_argument(
        "--method",
        metavar="NAME",
        help="nuts (default), lm, sample, laplace, rto, split_hmc, hmc, mala, ensemble or svi",
    )
    group.add_argument("--starts", type=_starts, metavar="N", help="starts of the fit that comes first, or auto")
    group.add_argument(
        "--draws", type=int, metavar="N", help="draws kept, per chain (of sample, laplace, rto and svi: in all)"
    )
    group.add_argument("--warmup", type=int, metavar="N", help="draws before them, per chain")
    group.add_argument("--chains", type=int, metavar="N", help="chains")
    group.add_argument("--seed", type=int, metavar="N", help="same seed, same draws (default: 0)")
    group.add_argument("--threads", type=int, metavar="N", help="threads of torch (default: 1)")
