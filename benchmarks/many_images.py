"""Real galaxies in several images at once, beside published joint fits.

    python benchmarks/many_images.py DATA_DIR [NAME ...] [--pictures DIR]

DATA_DIR holds published_fits.json and the folders pysersic, galfitm_ngc4261, scarlet_hsc, galfits_13347, galfits_2114,
profit_kids and profit_sdss. Names: decals, ngc4261, hsc, ceers, gama. Each prints the time of its fit, chi2 of each
image, and its parameters beside what is published. With --pictures data, models and residuals go to DIR/NAME.png.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from astropy.io import fits
from astropy.wcs import WCS

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.seeing import seeing

torch.set_num_threads(1)
DECALS = {"g": 0.4770, "r": 0.6231, "z": 0.9134}  # micrometres
JWST = {"f115w": 1.154, "f150w": 1.501, "f200w": 1.990, "f277w": 2.786, "f356w": 3.563, "f410m": 4.092, "f444w": 4.421}
SHORT = ("f115w", "f150w", "f200w")


def fitted(name: str, scene: bp.Scene, pictures: Path | None, init: Any = None) -> Any:
    """The fit of a scene, told about."""
    begin = time.perf_counter()
    fit = inference.lm(scene, init=init)
    took = time.perf_counter() - begin
    size = sum(np.size(fit.params[site.name]) for site in inference.Posterior(scene).sites)
    print(f"{name}: {size} parameters, {len(scene.images)} images, {took:.1f} s, {fit.iterations} iterations")
    print(f"  {fit.message}")
    for label, image in scene.images.items():
        model = scene.predict(fit, image=label)
        chi2 = float((((image.data - model) / image.sigma)[image.valid] ** 2).sum())
        print(f"  {label}: chi2 {chi2:.1f} of {image.n_valid} pixels, {chi2 / image.n_valid:.4f} each")
    if pictures is not None:
        bp.plots.residual(scene, fit, path=pictures / f"{name}.png")
    return fit


def stamp(path: Path) -> Path:
    """A file, or the same compressed."""
    packed = path.with_name(path.name + ".gz")
    return packed if packed.exists() else path


def plane(path: Path) -> np.ndarray:
    return np.asarray(fits.getdata(stamp(path)), dtype=float)


# -- a galaxy in g, r and z


def decals(data: Path, published: dict[str, Any], pictures: Path | None) -> None:
    images = decals_images(data)
    curve = {name: bp.polynomial(DECALS, order=2) for name in ("r_eff", "n", "ellipticity")}
    scene = bp.Scene(images, likelihood="student_t", sky=models.flat_sky(), galaxy=models.sersic(**curve))
    fit = fitted("decals", scene, pictures)
    for parameter, values in published.items():
        if parameter not in ("r_eff", "n", "ellip"):
            continue
        for i, (band, (value, error)) in enumerate(values.items()):
            if parameter == "ellip":
                found, sd = 1 - float(fit.params["galaxy.q"][i]), float(fit.std["galaxy.q"][i])
            else:
                found, sd = float(fit.params[f"galaxy.{parameter}"][i]), float(fit.std[f"galaxy.{parameter}"][i])
            print(
                f"  {parameter} {band}: {found:.4f} +- {sd:.4f}, published {value:.4f} +- {error:.4f}: "
                f"{(found - value) / math.hypot(sd, error):+.2f} joint errors, {100 * (found / value - 1):+.1f} %"
            )
    held = {name: bp.per_image({band: published[name][band][0] for band in "grz"}) for name in ("r_eff", "n")}
    held["q"] = bp.per_image({band: 1 - published["ellip"][band][0] for band in "grz"})
    galaxy = models.sersic(**held)
    fitted(
        "decals, published shapes held",
        bp.Scene(images, likelihood="student_t", sky=models.flat_sky(), galaxy=galaxy),
        None,
    )


def decals_images(data: Path) -> list[bp.Image]:
    images = []
    with (
        fits.open(data / "pysersic/cutout_59.1067_-30.4848.fits.gz") as hdus,
        fits.open(data / "pysersic/copsf_59.1067_-30.4848.fits.gz") as psfs,
    ):
        for i, band in enumerate("grz"):
            image, ivar = hdus[1 + 2 * i], hdus[2 + 2 * i]
            whole = bp.Image(
                np.asarray(image.data, dtype=float),
                ivar=np.asarray(ivar.data, dtype=float),
                psf=np.asarray(psfs[i].data, dtype=float),
                wcs=WCS(image.header),
                zeropoint=22.5,
                band=band,
                name=band,
            )
            images.append(whole.cutout(128, 128, 120))
    # the neighbours, found in r, are masked in all bands
    found = bp.detect(images[1])
    table = found.catalogue
    distance = np.hypot(table["x"] - 59.5, table["y"] - 59.5)
    others = found[[int(table["label"][int(np.argmin(distance))])]].mask_others()
    return [image.masked(others) for image in images]


# -- an elliptical in u, g, r, i and z


def ngc4261(data: Path, published: dict[str, Any], pictures: Path | None) -> None:
    expected = published["single_sersic"]
    folder = data / "galfitm_ngc4261"
    part = slice(149, 450)  # pixels 150 to 450, counted from 1
    mask = plane(folder / "NGC_4261-mask.fits")[part, part] != 0
    images = []
    for band in "ugriz":
        counts = plane(folder / f"NGC_4261-{band}.fits")[part, part]
        images.append(
            bp.Image(
                counts,
                variance=np.maximum(counts, 1.0),
                mask=mask,
                psf=plane(folder / f"PSF-{band}.fits"),
                psf_contains_pixel=False,  # GALFITM integrates its model over the pixel and then convolves
                zeropoint=published["zp"][band],
                band=band,
                name=band,
            )
        )
    sky = models.flat_sky(level=bp.per_image(published["sky_fixed"]))
    # electrons with the sky left in; the variance taken from the data would draw a faint sky down by one a pixel
    scene = bp.Scene(images, likelihood="poisson", sky=sky, galaxy=models.sersic())
    fit = fitted("ngc4261", scene, pictures)
    flux, sd = (np.asarray(kind["galaxy.flux"], dtype=float) for kind in (fit.params, fit.std))
    for i, band in enumerate("ugriz"):
        magnitude = images[i].zeropoint - 2.5 * math.log10(flux[i])
        error = 2.5 / math.log(10) * sd[i] / flux[i]
        print(
            f"  mag {band}: {magnitude:.3f} +- {error:.3f}, published {expected['mag'][band]:.2f}: "
            f"{magnitude - expected['mag'][band]:+.3f}"
        )
    ours = {"re": "galaxy.r_eff", "n": "galaxy.n", "q": "galaxy.q"}
    for name, site in ours.items():
        value, error = float(fit.params[site]), float(fit.std[site])
        print(
            f"  {name}: {value:.3f} +- {error:.3f}, published {expected[name]}: "
            f"{100 * (value / expected[name] - 1):+.1f} %"
        )
    angle = math.degrees(float(fit.params["galaxy.theta"])) - 90
    print(f"  pa: {(angle + 90) % 180 - 90:.2f} degrees, published {expected['pa']}")


# -- seven sources in g, r, i, z and y


def hsc(data: Path, published: dict[str, Any], pictures: Path | None) -> None:
    content = np.load(data / "scarlet_hsc/hsc_cosmos_35.npz")
    ny, nx = content["images"].shape[1:]
    y, x = np.mgrid[:ny, :nx]
    unlisted = np.hypot(x - 45, y - 13.5) < 5  # an eighth source, which the catalogue doesn't have
    images = [
        bp.Image(
            content["images"][i].astype(float),
            variance=content["variance"][i].astype(float),
            mask=unlisted,
            psf=content["psfs"][i],
            zeropoint=27.0,
            band=str(band),
            name=str(band),
        )
        for i, band in enumerate(content["filters"])
    ]
    places = [(float(entry["x"]), float(entry["y"])) for entry in content["catalog"]]
    sources: dict[str, Any] = {}
    for i, (x0, y0) in enumerate(places):
        place = {"x": dist.Normal(x0, 1.0), "y": dist.Normal(y0, 1.0)}
        if i == 0:  # a star
            sources["source0"] = models.point_source(**place)
        elif i == 1:  # the bright galaxy: redder in the middle
            sources["source1"] = models.bulge_disk(**place, bulge_to_total=bp.per_image())
        else:  # faint ones of a few pixels
            sources[f"source{i}"] = models.exponential(**place, r_eff=dist.LogNormal(math.log(1.5), 0.4))
    # faint sources are drawn near their places only, where they can't take the part of the sky
    windows = {f"source{i}": bp.Window.around(*place, 9) for i, place in enumerate(places) if i > 1}
    init: dict[str, Any] = {}
    for i, (x0, y0) in enumerate(places):
        near = np.hypot(x - x0, y - y0) < (6 if i == 1 else 3)
        light = (content["images"] - np.median(content["images"], axis=(1, 2), keepdims=True))[:, near].sum(-1)
        init |= {f"source{i}.x": x0, f"source{i}.y": y0, f"source{i}.flux": 1.5 * np.maximum(light, 0.1)}
        init |= {f"source{i}.r_eff": 1.5} if i > 1 else {}
    scene = bp.Scene(images, sky=models.flat_sky(), windows=windows, **sources)
    fit = fitted("hsc", scene, pictures, init)
    for i, place in enumerate(places):
        x0, y0 = (float(fit.params[f"source{i}.{axis}"]) for axis in "xy")
        magnitudes = 27.0 - 2.5 * np.log10(np.asarray(fit.params[f"source{i}.flux"], dtype=float))
        shape = f", r_eff {float(fit.params[f'source{i}.r_eff']):.2f}" if i > 1 else ""
        print(
            f"  source {i}: ({x0:.2f}, {y0:.2f}), catalogue ({place[0]:.0f}, {place[1]:.0f}){shape}, "
            f"grizy {' '.join(f'{m:.2f}' for m in magnitudes)}"
        )


# -- disk and bulge in seven bands of two pixel scales


def ceers_images(data: Path) -> list[bp.Image]:
    folder = data / "galfits_13347"
    images = []
    for band in JWST:
        header = fits.getheader(folder / f"{band}.fits")
        wcs = WCS(header)
        # the header has lost the terms beside the diagonal of its rotation
        cosine = header["PC2_2"]
        wcs.wcs.pc = np.array([[-cosine, math.sqrt(1 - cosine**2)], [math.sqrt(1 - cosine**2), cosine]])
        mask = None
        if stamp(folder / f"{band}_mask.fits").exists():
            mask = plane(folder / f"{band}_mask.fits") != 0
        psf = plane(data / f"galfits_2114/PSF/{band.upper()}_hybrid.fits")
        images.append(
            bp.Image(
                plane(folder / f"{band}.fits"),
                sigma=plane(folder / f"{band}_err.fits"),
                mask=mask,
                mask_invalid=True,
                psf=psf,
                wcs=wcs,
                zeropoint=28.967 if band in SHORT else 27.462,
                band=band,
                name=band,
            )
        )
    return images


def ceers(data: Path, published: dict[str, Any], pictures: Path | None) -> None:
    images = ceers_images(data)
    centre = {"x": dist.Normal(100.0, 5.0), "y": dist.Normal(100.0, 5.0)}
    scene = bp.Scene(
        images,
        alignment=models.alignment(dx=dist.Normal(0.0, 0.5), dy=dist.Normal(0.0, 0.5)),
        sky=models.flat_sky(),
        disk=models.sersic(**centre, r_eff=dist.LogNormal(math.log(15.0), 0.4), n=dist.LogNormal(math.log(0.7), 0.4)),
        bulge=models.sersic(**centre, r_eff=dist.LogNormal(math.log(5.0), 0.4), n=dist.LogNormal(math.log(3.0), 0.4)),
    )
    start = bp.Scene(images, galaxy=models.sersic()).initial_values()
    half = {f"{part}.flux": 0.5 * start["galaxy.flux"] for part in ("disk", "bulge")}
    place = {f"{part}.{axis}": start[f"galaxy.{axis}"] for part in ("disk", "bulge") for axis in "xy"}
    fit = fitted("ceers", scene, pictures, half | place)
    for part in ("disk", "bulge"):
        flux = np.asarray(fit.params[f"{part}.flux"], dtype=float)
        for image, one in zip(images, flux, strict=True):
            value = published["params"][f"Mag_{part}_nircam_{image.name}"]
            ours = image.zeropoint - 2.5 * math.log10(one)
            print(f"  {part} {image.name}: {ours:.3f} mag, published {value:.3f}: {ours - value:+.3f}")
        # the published radii are in arcsec by the scale of the defective header, 0.65 of that of the pixels
        scale = 0.02 * fits.getheader(data / "galfits_13347/f115w.fits")["PC2_2"]
        names = {
            "Re": scale * float(fit.params[f"{part}.r_eff"]),
            "n": float(fit.params[f"{part}.n"]),
            "axrat": float(fit.params[f"{part}.q"]),
        }
        for name, ours in names.items():
            print(f"  {part} {name}: {ours:.4f}, published {published['params'][f'{part}_{name}']:.4f}")
    print(f"  offsets: {np.round(fit.params['alignment.dx'], 3)}, {np.round(fit.params['alignment.dy'], 3)} pixels")


# -- the same galaxies by two surveys

KIDS, SDSS = 0.2, 0.339  # arcsec per pixel


def gama(data: Path, published: dict[str, Any], pictures: Path | None) -> None:
    for name, table in published["galaxies"].items():
        images = [gama_image(data / f"profit_{survey}", name, survey) for survey in ("kids", "sdss")]
        # a constant sky is left, and the parts of the surveys that are their own: PSF, depth, calibration
        singles = [
            fitted(f"gama {name} {image.name}", bp.Scene(image, sky=models.flat_sky(), galaxy=models.sersic()), None)
            for image in images
        ]
        ratio = KIDS / SDSS
        shift = [
            float(singles[1].params[f"galaxy.{axis}"]) - ratio * float(singles[0].params[f"galaxy.{axis}"])
            for axis in "xy"
        ]
        matrix = [[ratio, 0.0, shift[0]], [0.0, ratio, shift[1]]]
        scene = bp.Scene(
            images, maps={"sdss": matrix}, alignment=models.alignment(), sky=models.flat_sky(), galaxy=models.sersic()
        )
        joint = fitted(f"gama {name}", scene, pictures)
        scales = {"r_eff": (KIDS, SDSS), "n": (1.0, 1.0), "q": (1.0, 1.0), "theta": (180 / math.pi,) * 2}
        for parameter, (kids, sdss) in scales.items():
            first, second = (
                (scale * float(fit.params[f"galaxy.{parameter}"]), scale * float(fit.std[f"galaxy.{parameter}"]))
                for fit, scale in zip(singles, (kids, sdss), strict=True)
            )
            both = kids * float(joint.params[f"galaxy.{parameter}"]), kids * float(joint.std[f"galaxy.{parameter}"])
            known = {"r_eff": table["re_arcsec"], "n": table["n"], "q": table["q"], "theta": table["pa"] + 90}[
                parameter
            ]
            print(
                f"  {parameter}: KiDS {first[0]:.4f} +- {first[1]:.4f}, SDSS {second[0]:.4f} +- {second[1]:.4f} "
                f"({(first[0] - second[0]) / math.hypot(first[1], second[1]):+.1f} errors), joint {both[0]:.4f} +- "
                f"{both[1]:.4f}; GAMA {known:.4f}"
            )
        for image, scale in zip(images, (KIDS, SDSS), strict=True):
            # the same through a PSF of the stamp's width without its wings, which in KiDS are negative
            width = seeing(image).fwhm
            psf = models.moffat_psf(fwhm=width, beta=3.0, q=1.0, theta=0.0, contains_pixel=True)
            other = inference.lm(bp.Scene(image, psf=psf, sky=models.flat_sky(), galaxy=models.sersic()))
            stamp_of = image.psf.numpy()
            second = sum(
                float((stamp_of * ((np.indices(stamp_of.shape)[i] - (stamp_of.shape[i] - 1) / 2) ** 2)).sum())
                for i in (0, 1)
            )
            values = other.params
            print(
                f"  {image.name} through a Moffat PSF of the FWHM of its stamp, {scale * width:.2f} arcsec (second "
                f"moment of the stamp {0.5 * second:+.2f} pixel^2): r_eff {scale * float(values['galaxy.r_eff']):.3f}, "
                f"n {float(values['galaxy.n']):.3f}, q {float(values['galaxy.q']):.4f}, chi2 {other.chi2:.1f}"
            )
        magnitudes = [-2.5 * math.log10(float(fit.params["galaxy.flux"])) for fit in singles]
        together = [-2.5 * math.log10(float(flux)) for flux in joint.params["galaxy.flux"]]
        print(
            f"  mag: KiDS {magnitudes[0]:.3f}, SDSS {magnitudes[1]:.3f}, joint {together[0]:.3f}, {together[1]:.3f}; "
            f"GAMA {table['mag']:.3f}"
        )


def gama_image(folder: Path, name: str, survey: str) -> bp.Image:
    labels = plane(folder / f"{name}segim.fits").astype(int)
    ny, nx = labels.shape
    neighbours = (labels != 0) & (labels != labels[ny // 2, nx // 2])
    mask = (plane(folder / f"{name}mskim.fits") != 0) | neighbours
    scale = KIDS if survey == "kids" else SDSS
    return bp.Image(
        plane(folder / f"{name}fitim.fits"),
        sigma=plane(folder / f"{name}sigma.fits"),
        mask=mask,
        mask_invalid=True,
        psf=plane(folder / f"{name}psfim.fits"),
        zeropoint=0.0,
        band="r",
        pixel_scale=scale,
        name=survey,
    )


CASES: dict[str, tuple[Callable[..., None], str]] = {
    "decals": (decals, "pysersic DECaLS"),
    "ngc4261": (ngc4261, "galfitm NGC4261"),
    "hsc": (hsc, ""),
    "ceers": (ceers, "galfits galfits_13347/obj13347_s2"),
    "gama": (gama, "profit KiDS+SDSS"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_DIR")
    parser.add_argument("names", nargs="*", choices=[*CASES, []], metavar="NAME")
    parser.add_argument("--pictures", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    if arguments.pictures is not None:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
    known = json.loads((arguments.data / "published_fits.json").read_text())
    for name in arguments.names or CASES:
        case, key = CASES[name]
        published = next((entry for label, entry in known.items() if key and label.startswith(key)), {})
        case(arguments.data, published, arguments.pictures)


if __name__ == "__main__":
    main()
