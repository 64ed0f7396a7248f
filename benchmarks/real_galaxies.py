"""Real galaxies from the image alone: fits with default starts and default priors beside the published values.

    python benchmarks/real_galaxies.py DATA_DIR [NAME ...] [--nuts] [--pictures DIR]

DATA_DIR holds the folders imfit, pyimfit_vcc1512, pysersic and galmoss_sdss, and published_fits.json; for the galaxies
of several parts (benchmarks/real_components.py) also galfits_2114, sparcfire_sdss_spirals and photutils_m51. For each
galaxy it prints the time of the fit, chi2 beside the published one, and every published parameter with its error,
ours with its standard deviation, and the difference in published errors. With --nuts the posterior is sampled as
well: its verdict, time and smallest ESS. With --pictures data, model and residual of each go to DIR/NAME.png.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import arviz as az
import pyro
import pyro.distributions as dist
import torch
from real_components import CASES
from scipy.special import gamma, gammaincinv

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.measurement import measure
from bayesprof.models.exponential import R_EFF_OVER_SCALE

SDSS = {"gain": 4.725, "read_noise": 4.3}

# -- scenes


def ic3478_64(data: Path) -> bp.Scene:
    image = bp.Image.from_fits(data / "imfit/ic3478rss_64x64.fits", subtracted_sky=130.1, **SDSS)
    return bp.Scene(image, galaxy=models.sersic())


def ic3478_256(data: Path) -> bp.Scene:
    image = bp.Image.from_fits(data / "imfit/ic3478rss_256.fits.gz", subtracted_sky=130.14, **SDSS)
    return bp.Scene(image, galaxy=models.exponential())


def sersic_and_exponential(image: bp.Image) -> Callable[[], Any]:
    """A Sersic and an exponential component about one centre, with priors as wide as those of the catalogue."""
    found = measure(image)

    def galaxy() -> Any:
        x = pyro.sample("x", dist.Normal(found.x, 2.0))
        y = pyro.sample("y", dist.Normal(found.y, 2.0))
        flux = pyro.sample("flux", dist.LogNormal(math.log(found.flux), 2.0))
        share = pyro.sample("sersic_share", dist.Uniform(0.0, 1.0))
        inner = pyro.sample("sersic_r_eff", dist.LogNormal(math.log(0.5 * found.r_eff), 1.0))
        outer = pyro.sample("exponential_r_eff", dist.LogNormal(math.log(2.0 * found.r_eff), 1.0))
        n = pyro.sample("n", dist.Uniform(0.3, 8.0))
        first = pyro.sample("sersic_ellipticity", models.Ellipticity(0.4))
        second = pyro.sample("exponential_ellipticity", models.Ellipticity(0.4))
        return models.Sersic(x, y, flux * share, inner, n, ellipticity=first) + models.Exponential(
            x, y, flux * (1 - share), outer, ellipticity=second
        )

    return galaxy


def ngc3073(data: Path) -> bp.Scene:
    image = bp.Image.from_fits(
        data / "imfit/n3073rss_small.fits.gz",
        mask=data / "imfit/n3073rss_small_mask.fits.gz",
        psf=data / "imfit/psf_moffat_35_n4699z.fits",
        psf_contains_pixel=False,  # Imfit integrates its model over the pixel and then convolves
        subtracted_sky=154.33,
        **SDSS,
    )
    return bp.Scene(image, galaxy=sersic_and_exponential(image))


def vcc1512(data: Path) -> bp.Scene:
    folder = data / "pyimfit_vcc1512"
    image = bp.Image.from_fits(
        folder / "vcc1512rss_cutout.fits.gz",
        mask=folder / "vcc1512rss_mask_cutout.fits.gz",
        subtracted_sky=120.020408,
        **SDSS,
    )
    return bp.Scene(image, galaxy=sersic_and_exponential(image))


def pysersic_image(data: Path, name: str) -> bp.Image:
    folder = data / "pysersic"
    planes = {
        plane: folder / f"{name}_{short}.npy" for plane, short in (("sigma", "sig"), ("mask", "mask"), ("psf", "psf"))
    }
    return bp.Image.from_fits(folder / f"{name}_im.npy", **planes)


def gal1(data: Path) -> bp.Scene:
    return bp.Scene(pysersic_image(data, "gal1"), galaxy=models.sersic())


def gal2(data: Path) -> bp.Scene:
    # the published fit is with a Student-t likelihood of 5 degrees of freedom
    return bp.Scene(pysersic_image(data, "gal2"), likelihood="student_t", galaxy=models.sersic())


def j100247(data: Path) -> bp.Scene:
    stem = data / "galmoss_sdss/J100247.00+042559.8"
    labels = bp.Image.from_fits(f"{stem}_mask.fits.gz").data
    target = labels[labels.shape[0] // 2, labels.shape[1] // 2]
    image = bp.Image.from_fits(
        f"{stem}_image.fits.gz",
        sigma=f"{stem}_sigma.fits",
        psf=f"{stem}_psf.fits",
        mask=(labels != 0) & (labels != target),
        zeropoint=22.5,
    )
    return bp.Scene(image, galaxy=models.sersic(), sky=models.flat_sky())


def decals_r(data: Path) -> bp.Scene:
    cutout = data / "pysersic/cutout_59.1067_-30.4848.fits.gz"
    image = bp.Image.from_fits(
        (cutout, 3),
        ivar=(cutout, 4),
        psf=(data / "pysersic/copsf_59.1067_-30.4848.fits.gz", 1),
        zeropoint=22.5,
        band="r",
        mask_invalid=True,
    )
    # the neighbours aren't masked: the published fit leaves them to a Student-t likelihood, on this same crop
    return bp.Scene(image.cutout(127.5, 127.5, 120), likelihood="student_t", galaxy=models.sersic())


# -- published values in our terms: (name, ours from the fit's parameters, published, its error)

Row = tuple[str, Callable[[dict[str, Any]], float], float, float]


def imfit_geometry(published: dict[str, Any], errors: dict[str, Any], prefix: str) -> Iterator[Row]:
    """Axis ratio and angle: ellipticity 1 - q, angle in degrees from +y."""

    def shape(params: dict[str, Any]) -> tuple[float, float]:
        e1, e2 = params[f"galaxy.{prefix}ellipticity"]
        size = math.hypot(e1, e2)
        return (1 - size) / (1 + size), math.degrees(0.5 * math.atan2(e2, e1)) - 90

    yield f"{prefix}ell", lambda p: 1 - shape(p)[0], published["ell"], errors["ell"]
    angle = published["PA"]
    yield f"{prefix}PA", lambda p: angle + (shape(p)[1] - angle + 90) % 180 - 90, angle, errors["PA"]


def imfit_centre(published: dict[str, Any], errors: dict[str, Any]) -> Iterator[Row]:
    yield "X0", lambda p: p["galaxy.x"] + 1, published["X0"], errors["X0"]
    yield "Y0", lambda p: p["galaxy.y"] + 1, published["Y0"], errors["Y0"]


def imfit_single(published: dict[str, Any], errors: dict[str, Any]) -> list[Row]:
    rows = [*imfit_centre(published, errors), *imfit_geometry(published, errors, "")]
    if "n" in published:
        rows.append(("n", lambda p: p["galaxy.n"], published["n"], errors["n"]))
        rows.append(("r_e", lambda p: p["galaxy.r_eff"], published["r_e"], errors["r_e"]))
    else:
        rows.append(("h", lambda p: p["galaxy.r_eff"] / R_EFF_OVER_SCALE, published["h"], errors["h"]))
    return rows


def imfit_double(published: dict[str, Any], errors: dict[str, Any]) -> list[Row]:
    inner, outer = published["sersic"], published["exponential"]
    return [
        *imfit_centre(published, errors),
        *imfit_geometry(inner, errors["sersic"], "sersic_"),
        ("n", lambda p: p["galaxy.n"], inner["n"], errors["sersic"]["n"]),
        ("r_e", lambda p: p["galaxy.sersic_r_eff"], inner["r_e"], errors["sersic"]["r_e"]),
        ("I_e", sersic_intensity, inner["I_e"], errors["sersic"]["I_e"]),
        *imfit_geometry(outer, errors["exponential"], "exponential_"),
        ("h", lambda p: p["galaxy.exponential_r_eff"] / R_EFF_OVER_SCALE, outer["h"], errors["exponential"]["h"]),
    ]


def sersic_intensity(params: dict[str, Any]) -> float:
    """Surface brightness of the Sersic component at r_eff."""
    n, r_eff = params["galaxy.n"], params["galaxy.sersic_r_eff"]
    size = math.hypot(*params["galaxy.sersic_ellipticity"])
    b = gammaincinv(2 * n, 0.5)
    light = 2 * math.pi * n * math.exp(b) * b ** (-2 * n) * gamma(2 * n) * r_eff**2 * (1 - size) / (1 + size)
    return params["galaxy.flux"] * params["galaxy.sersic_share"] / light


def vcc1512_published(entry: dict[str, Any]) -> list[Row]:
    """The errors are a list in the order of Imfit's parameters."""
    names = ("PA", "ell", "n", "I_e", "r_e"), ("PA", "ell", "I_0", "h")
    errors: dict[str, Any] = dict(zip(("X0", "Y0"), entry["errs"][:2], strict=True))
    errors["sersic"] = dict(zip(names[0], entry["errs"][2:7], strict=True))
    errors["exponential"] = dict(zip(names[1], entry["errs"][7:], strict=True))
    return imfit_double(entry["params"], errors)


def pysersic_published(entry: dict[str, Any]) -> list[Row]:
    ours = {"flux": "flux", "xc": "x", "yc": "y", "r_eff": "r_eff", "n": "n", "theta": "theta"}
    rows: list[Row] = [
        (name, lambda p, site=f"galaxy.{site}": p[site], *entry["nuts_mean_sd"][name]) for name, site in ours.items()
    ]
    return [*rows, ("ellip", lambda p: 1 - p["galaxy.q"], *entry["nuts_mean_sd"]["ellip"])]


def decals_published(entry: dict[str, Any]) -> list[Row]:
    return [
        ("r_eff", lambda p: p["galaxy.r_eff"], *entry["r_eff"]["r"]),
        ("n", lambda p: p["galaxy.n"], *entry["n"]["r"]),
        ("ellip", lambda p: 1 - p["galaxy.q"], *entry["ellip"]["r"]),
    ]


def single(entry: dict[str, Any]) -> list[Row]:
    return imfit_single(entry["params"], entry["errs"])


GALAXIES: dict[str, tuple[Callable[[Path], bp.Scene], str | None, Callable[[dict[str, Any]], list[Row]]]] = {
    "ic3478_64": (ic3478_64, "imfit/ic3478rss_64x64.fits Sersic (no PSF, no mask)", single),
    "ic3478_256": (ic3478_256, "imfit/ic3478rss_256.fits exponential (no PSF, NO mask)", single),
    "ngc3073": (
        ngc3073,
        "imfit/n3073rss_small.fits Sersic+Exponential with PSF and mask",
        lambda entry: imfit_double(entry["params"], entry["errs"]),
    ),
    "vcc1512": (vcc1512, "pyimfit_vcc1512 Sersic+Exponential (no PSF)", vcc1512_published),
    "gal1": (gal1, None, lambda entry: []),
    "gal2": (gal2, "pysersic gal2 single Sersic, student_t_loss, no sky", pysersic_published),
    "j100247": (j100247, None, lambda entry: []),
    "decals_r": (
        decals_r,
        "pysersic DECaLS g,r,z joint (crop [68:188,68:188]), svi-flow, quadratic in wavelength, student_t_loss",
        decals_published,
    ),
}


def pictured(scene: bp.Scene, fit: inference.Fit, name: str, pictures: Path | None) -> None:
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        bp.plots.residual(scene, fit, path=pictures / f"{name}.png")


def report_case(name: str, data: Path, *, starts: int | str, pictures: Path | None) -> None:
    """Of a galaxy of several parts, whose published values have no errors of their own kind."""
    case = CASES[name]
    scene = case.scene(data)
    start = time.perf_counter()
    fit = inference.lm(scene, init=case.init(scene), starts=starts)
    print(f"\n## {name}: {fit.message} {fit.iterations} iterations, {time.perf_counter() - start:.1f} s")
    pictured(scene, fit, name, pictures)
    published = case.published(data)
    beside = f", published {published:.1f}" if published is not None else ""
    print(f"chi2 {fit.chi2:.1f} for {fit.dof} degrees of freedom{beside}\n")
    print("| quantity | published | ours |\n|---|---|---|")
    for label, theirs, ours in case.rows(data, fit.params):
        print(f"| {label} | {theirs} | {ours} |", flush=True)


def report(name: str, data: Path, *, sample: bool, pictures: Path | None) -> None:
    make_scene, key, rows_of = GALAXIES[name]
    entry = {} if key is None else json.loads((data / "published_fits.json").read_text())[key]
    scene = make_scene(data)
    start = time.perf_counter()
    posterior = inference.Posterior(scene)
    fit = inference.lm(posterior)
    first = time.perf_counter() - start
    start = time.perf_counter()
    inference.lm(posterior)
    again = time.perf_counter() - start
    print(f"\n## {name}: {fit.message} {fit.iterations} iterations, {first:.1f} s, again {again:.2f} s")
    pictured(scene, fit, name, pictures)
    published = entry.get("chi2")
    beside = f", published {published:.2f} ({100 * (fit.chi2 / published - 1):+.3f}%)" if published else ""
    print(f"chi2 {fit.chi2:.2f} for {fit.dof} degrees of freedom{beside}\n")
    rows = rows_of(entry)
    if rows:
        print("| parameter | published | ours | difference in published errors |\n|---|---|---|---|")
    for label, ours, value, error in rows:
        found = ours(fit.params)
        print(f"| {label} | {value:.5g} +- {error:.2g} | {found:.5g} | {(found - value) / error:+.2f} |")
    if not rows:
        print("| parameter | ours | sd |\n|---|---|---|")
        for label, value, std in fit.table().iterrows():
            print(f"| {label} | {value:.5g} | {std:.2g} |")
    if sample:
        start = time.perf_counter()
        post = inference.nuts(posterior, init=fit, draws=500, chains=4, progress=False)
        wall = time.perf_counter() - start
        smallest = min(float(values.min()) for values in az.ess(post.posterior).values())
        print(f"\nNUTS 4 x 500: {wall:.1f} s, smallest bulk ESS {smallest:.0f}; verdict: {post.attrs['verdict']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "names", nargs="*", default=[*GALAXIES, *CASES], metavar="NAME", help=", ".join([*GALAXIES, *CASES])
    )
    parser.add_argument("--nuts", action="store_true", help="of those of one or two components")
    parser.add_argument(
        "--starts",
        type=lambda text: text if text == "auto" else int(text),
        default=1,
        help="of the fits of several parts: a number, or auto",
    )
    parser.add_argument("--pictures", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.names:
        if name in CASES:
            report_case(name, arguments.data, starts=arguments.starts, pictures=arguments.pictures)
        else:
            report(name, arguments.data, sample=arguments.nuts, pictures=arguments.pictures)


if __name__ == "__main__":
    main()
