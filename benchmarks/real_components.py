"""Galaxies of several parts, cores and spirals, for real_galaxies.py: their scenes, and what is known of them.

Parts of one galaxy have priors on their sizes, in units of the measured half-light radius, and start from the middles
of those: a scene starts every component from the whole galaxy, and of equal parts any may become any.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro.distributions as dist
import torch
from astropy.io import fits
from scipy.ndimage import median_filter

import bayesprof as bp
from bayesprof import models
from bayesprof.measurement import measure


class Case(NamedTuple):
    """`scene` of the folder with the data; `published`, the chi2 of the published model on the same pixels with the
    same sigma; `rows`, (name, published, ours) of the fit's parameters; `init`, starting values where the default ones
    don't do.
    """

    scene: Callable[[Path], bp.Scene]
    published: Callable[[Path], float | None]
    rows: Callable[[Path, dict[str, Any]], list[tuple[str, str, str]]]
    init: Callable[[bp.Scene], Mapping[str, Any]] = lambda scene: {}


def of_size(image: bp.Image, times: float, log_sd: float) -> Any:
    return dist.LogNormal(math.log(times * measure(image).r_eff), log_sd)


# -- CEERS 2114 (JWST F200W): disk, bar and bulge

CEERS = "galfits_2114"
_SIZES = {"disk": 1.2, "bar": 0.7, "bulge": 0.15}


def ceers2114_image(data: Path) -> bp.Image:
    folder = data / CEERS
    image = bp.Image.from_fits(
        folder / "2114_F200Wsci.fits",
        sigma=folder / "2114_F200Wsigma.fits",
        mask=folder / "mask2114_F200W.fits.gz",
        psf=folder / "PSF/F200W_hybrid.fits",
        zeropoint=28.967,
        band="F200W",
        name="ceers2114",
    )
    # the box of the published fit: its unmasked pixels are as many as published in F115W, F150W and F200W
    return image.cutout(106, 115, (172, 174))


def ceers2114(data: Path, *parts: str) -> bp.Scene:
    image = ceers2114_image(data)
    held = {"bar": {"n": 0.5}}  # as published
    galaxy = {part: models.sersic(r_eff=of_size(image, _SIZES[part], 0.5), **held.get(part, {})) for part in parts}
    return bp.Scene(image, **galaxy)


def ceers2114_starts(scene: bp.Scene) -> dict[str, Any]:
    r_eff = measure(scene.image).r_eff
    return {f"{part}.r_eff": times * r_eff for part, times in _SIZES.items() if part in scene.components} | {
        "bar.ellipticity": [-0.5, 0.0]  # along y, as the picture shows
    }


def ceers2114_barred(data: Path) -> bp.Scene:
    return bp.Scene(ceers2114_image(data), galaxy=models.bulge_disk_bar(bar_n=0.5))


def galfits(data: Path, fit: str) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads((data / "published_fits.json").read_text())[f"galfits {CEERS}/{fit}.gssummary"]
    return entry


def galfits_chi2(data: Path, fit: str) -> float:
    return float(galfits(data, fit)["per_band_chi2_dof"]["nircam_f200w"][0])


def ceers2114_rows(data: Path, params: dict[str, Any], fit: str) -> list[tuple[str, str, str]]:
    published, rows = galfits(data, fit)["params"], []
    for part in (part for part in _SIZES if f"{part}_Re" in published):
        ours = {name: params.get(f"{part}.{name}", params.get(f"galaxy.{part}_{name}")) for name in ("flux", "r_eff")}
        n = params.get(f"{part}.n", params.get(f"galaxy.{part}_n"))
        magnitude = 28.967 - 2.5 * math.log10(ours["flux"] or params["galaxy.flux"])
        size = 0.02 * (ours["r_eff"] or math.nan)
        rows.append((f"{part} magnitude", f"{published[f'Mag_{part}_nircam_f200w']:.2f}", f"{magnitude:.2f}"))
        rows.append((f"{part} r_eff (arcsec)", f"{published[f'{part}_Re']:.3f}", f"{size:.3f}"))
        rows.append((f"{part} n", f"{published[f'{part}_n']:.2f}", "held" if n is None else f"{n:.2f}"))
        q = params.get(f"{part}.q", params.get(f"galaxy.{part}_q"))
        rows.append((f"{part} q", f"{published[f'{part}_axrat']:.3f}", f"{q:.3f}"))
    return rows


# -- two SDSS spirals that GALFIT was fitted to without a PSF

SPIRALS = "sparcfire_sdss_spirals"
_PEDESTAL = 1000.0  # that of SDSS's images, which isn't light
_NUMBERS = ("1237667735565238388", "1237671124296532233")


def galfit(data: Path, number: str) -> dict[str, Any]:
    published = json.loads((data / "published_fits.json").read_text())
    found: dict[str, Any] = next(value for key, value in published.items() if key.startswith("sparcfire"))[number]
    return found


def spiral_image(data: Path, number: str) -> tuple[bp.Image, float, float]:
    """The section that GALFIT fitted, and the centre where it was held."""
    folder, published = data / SPIRALS, galfit(data, number)
    (left, right), (low, high) = (
        tuple(int(edge) for edge in side.split(":")) for side in published["FITSECT"].strip("[]").split(",")
    )
    section = slice(low - 1, high), slice(left - 1, right)
    image = bp.Image(
        fits.getdata(folder / f"{number}.fits.gz")[section].astype(float) - _PEDESTAL,
        mask=fits.getdata(folder / f"{number}_star-rm.fits.gz")[section] > 0,
        gain=4.7,
        read_noise=4.3,
        pixel_scale=0.396,
        zeropoint=24.8,
        band="r",
        name=f"SDSS {number}",
    )
    x, y = (float(published[f"1_{axis}C"].strip("[]")) for axis in "XY")
    return image, x - left, y - low


def spiral(data: Path, number: str) -> bp.Scene:
    """GALFIT's arms are a rotated ellipse with modes 1 and 3 in an inclined plane. Ours have mode 2 for the ellipse,
    and as many parameters.
    """
    image, x, y = spiral_image(data, number)
    waves = dist.Normal(torch.zeros(3, 2, dtype=torch.float64), 0.3).to_event(2)
    return bp.Scene(
        image,
        sky=models.plane_sky(),
        bulge=models.sersic(x=x, y=y, r_eff=of_size(image, 0.4, 0.7)),
        disk=models.sersic(x=x, y=y, r_eff=of_size(image, 1.2, 0.5)),
        arms=models.shaped(
            models.sersic(x=x, y=y, r_eff=of_size(image, 1.0, 0.5)),
            models.power_spiral(),
            models.fourier_modes((1, 2, 3), fourier=waves),
        ),
    )


def spiral_starts(scene: bp.Scene, turn: float, along: float) -> dict[str, Any]:
    """Without mode 2 there are no arms, and nothing says how they turn: the default start is a saddle."""
    wave = [-0.3 * math.cos(2 * along), -0.3 * math.sin(2 * along)]
    return {"arms.rotation": turn, "arms.fourier": [[0.0, 0.0], wave, [0.0, 0.0]]}


def spiral_chi2(data: Path, number: str) -> float:
    """Of GALFIT's model image, with our sigma."""
    image, *_ = spiral_image(data, number)
    model = torch.as_tensor(fits.getdata(data / SPIRALS / f"{number}_galfit_out.fits.gz", 2).astype(float) - _PEDESTAL)
    assert image.sigma is not None
    return float((((image.data - model) / image.sigma)[image.valid] ** 2).sum())


def spiral_rows(data: Path, params: dict[str, Any], number: str) -> list[tuple[str, str, str]]:
    published, rows = galfit(data, number), []
    for i, part in enumerate(("bulge", "disk", "arms"), 1):
        magnitude = 24.8 - 2.5 * math.log10(params[f"{part}.flux"])
        rows += [
            (f"{part} magnitude", published[f"{i}_MAG"], f"{magnitude:.3f}"),
            (f"{part} r_eff", published[f"{i}_RE"], f"{params[f'{part}.r_eff']:.2f}"),
            (f"{part} n", published[f"{i}_N"], f"{params[f'{part}.n']:.2f}"),
        ]
    sky = params["sky.level"] + _PEDESTAL
    return [*rows, ("sky", published["4_SKY"], f"{sky:.2f}")]


# -- the core of NGC 5419 (HST, WFPC2). Its two nuclei apart, the core is flat, and gamma is held at 0: free, it
# runs into the bound of its prior there

_ARCSEC = 0.0455
# counts: V = 22.5 per square arcsecond. The galaxy fills the frame; a free sky takes its wings and leaves n below 1
_HST_SKY = 3.5


def ngc5419(data: Path, galaxy: Callable[[], Any], *, nuclei: bool = False) -> bp.Scene:
    image = bp.Image.from_fits(
        data / "imfit/n5419f555w_pc_derot_cutout.fits",
        psf=data / "imfit/n5419_sin100_psf_pc2scale.fits",
        gain=7.0,
        read_noise=5.0,
        pixel_scale=_ARCSEC,
        band="F555W",
        name="ngc5419",
    )
    stars = {
        name: models.point_source(
            x=dist.Normal(x, 1.5), y=dist.Normal(y, 1.5), flux=dist.LogNormal(math.log(1500.0), 1.5)
        )
        for name, x, y in (("nucleus", 101.0, 102.0), ("second", 100.0, 97.0))
    }
    return bp.Scene(image, sky=models.flat_sky(level=_HST_SKY), galaxy=galaxy(), **(stars if nuclei else {}))


def ngc5419_starts(scene: bp.Scene) -> dict[str, Any]:
    """Nuclei and core by eye; of core-Sersic galaxies a size beyond the frame."""
    nuclei = {"nucleus.x": 101.0, "nucleus.y": 102.0, "second.x": 100.0, "second.y": 97.0}
    nuclei |= {f"{name}.flux": 1500.0 for name in ("nucleus", "second")}
    core = {"galaxy.r_break": 30.0, "galaxy.alpha": 2.0}
    cored = scene.components["galaxy"].component.kind == "core_sersic"  # type: ignore[attr-defined]
    size = {"galaxy.r_eff": 500.0, "galaxy.n": 4.0} if cored else {}
    return core | size | (nuclei if "second" in scene.components else {})


def ngc5419_rows(data: Path, params: dict[str, Any]) -> list[tuple[str, str, str]]:
    rows = [
        (f"{name[7:]}", "", f"{params[name]:.3f}")
        for name in ("galaxy.n", "galaxy.r_eff", "galaxy.alpha", "galaxy.beta", "galaxy.gamma")
        if name in params
    ]
    if "galaxy.r_break" in params:  # Mazzalay et al. 2016, MNRAS 462, 2847, from the literature
        rows.append(("r_break (arcsec)", "1.58", f"{_ARCSEC * params['galaxy.r_break']:.3f}"))
    if "second.x" in params:
        apart = math.hypot(params["second.x"] - params["nucleus.x"], params["second.y"] - params["nucleus.y"])
        rows.append(("distance of the nuclei (arcsec)", "0.25", f"{_ARCSEC * apart:.3f}"))
    return rows


# -- IC 3478 of two parts, with its mask


def ic3478(data: Path, galaxy: Callable[[], Any], **sky: Any) -> bp.Scene:
    image = bp.Image.from_fits(
        data / "imfit/ic3478rss_256.fits.gz",
        mask=data / "imfit/ic3478rss_256_mask.fits.gz",
        subtracted_sky=130.14,
        gain=4.725,
        read_noise=4.3,
        pixel_scale=0.396,
        name="ic3478",
    )
    return bp.Scene(image, galaxy=galaxy(), **sky)


def plain_rows(data: Path, params: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(name, "", f"{value:.4g}") for name, value in params.items() if isinstance(value, float)]


# -- M51: a free profile and ellipses that turn

_KNOTS = (3.0, 6.0, 10.0, 15.0, 22.0, 32.0, 48.0)
_WIDTHS = np.geomspace(0.8, 60.0, 8)


def m51(data: Path) -> bp.Scene:
    """The inner 129x129 pixels. What the arms leave isn't noise: sigma is a tenth of the light, so that every radius
    counts, as it does for ellipses fitted one by one.
    """
    cut = fits.getdata(data / "photutils_m51/M51.fits.gz").astype(float)[195:324, 193:322]
    galaxy = models.shaped(
        models.multi_gaussian(count=len(_WIDTHS), sigmas=_WIDTHS, ellipticity=[0.0, 0.0]),
        models.warp(_KNOTS, warp=dist.Normal(torch.zeros(len(_KNOTS), 2, dtype=torch.float64), 0.2).to_event(2)),
    )
    return bp.Scene(bp.Image(cut, sigma=0.1 * median_filter(cut, 9), band="B"), likelihood="student_t", galaxy=galaxy)


def m51_rows(data: Path, params: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Intensity, ellipticity 1 - q and position angle (degrees from +y) on the ellipse of IRAF nearest to each knot."""
    table = fits.getdata(data / "photutils_m51/M51_table.fits", 1)
    light, rows = models.MultiGaussian(0.0, 0.0, params["galaxy.fluxes"], _WIDTHS, ellipticity=[0.0, 0.0]), []
    for knot, w in zip(_KNOTS, np.asarray(params["galaxy.warp"]), strict=True):
        size = float(np.hypot(*w)) / math.sqrt(1 + float(w @ w))
        q, angle = (1 - size) / (1 + size), math.degrees(0.5 * math.atan2(w[1], w[0])) - 90
        # the profile's radius is the geometric mean of the semi-axes
        row = table[np.argmin(np.abs(table["SMA"] * np.sqrt(1 - np.nan_to_num(table["ELLIP"])) - knot))]
        level = float(light.flux * light.brightness(torch.tensor([[knot**2]], dtype=torch.float64)))
        theirs = f"{row['INTENS']:.0f}, {row['ELLIP']:.2f}, {row['PA']:.0f}"
        rows.append(
            (f"R = {knot:g}: intensity, 1 - q, PA", theirs, f"{level:.0f}, {1 - q:.2f}, {(angle + 90) % 180 - 90:.0f}")
        )
    return rows


def none(data: Path) -> None:
    return None


def _ceers(fit: str, *parts: str) -> Case:
    rows = partial(ceers2114_rows, fit=fit)
    if not parts:
        return Case(ceers2114_barred, partial(galfits_chi2, fit=fit), rows)
    scene: Callable[[Path], bp.Scene] = lambda data: ceers2114(data, *parts)  # noqa: E731
    return Case(scene, partial(galfits_chi2, fit=fit), rows, ceers2114_starts)


def _spiral(number: str, turn: float, along: float) -> Case:
    known = {"number": number}
    return Case(
        partial(spiral, **known),
        partial(spiral_chi2, **known),
        partial(spiral_rows, **known),
        partial(spiral_starts, turn=turn, along=along),
    )


CASES: dict[str, Case] = {
    "ceers2114_disk_bar": _ceers("obj2114_s2_dbar", "disk", "bar"),
    "ceers2114_bulge_disk_bar": _ceers("obj2114_s3_dbbar"),
    "ceers2114_three": _ceers("obj2114_s3_dbbar", "disk", "bar", "bulge"),
    "ngc5419_sersic": Case(partial(ngc5419, galaxy=models.sersic), none, ngc5419_rows),
    "ngc5419_nuker": Case(partial(ngc5419, galaxy=models.nuker), none, ngc5419_rows),
    "ngc5419_core_sersic": Case(partial(ngc5419, galaxy=models.core_sersic), none, ngc5419_rows, ngc5419_starts),
    "ngc5419_nuker_nuclei": Case(
        partial(ngc5419, galaxy=partial(models.nuker, gamma=0.0), nuclei=True), none, ngc5419_rows, ngc5419_starts
    ),
    "ngc5419_core_sersic_nuclei": Case(
        partial(ngc5419, galaxy=partial(models.core_sersic, gamma=0.0), nuclei=True), none, ngc5419_rows, ngc5419_starts
    ),
    "ic3478_exponential": Case(partial(ic3478, galaxy=models.exponential), none, plain_rows),
    "ic3478_sersic": Case(partial(ic3478, galaxy=models.sersic), none, plain_rows),
    "ic3478_bulge_disk": Case(partial(ic3478, galaxy=models.bulge_disk), none, plain_rows),
    "ic3478_bulge_disk_sky": Case(partial(ic3478, galaxy=models.bulge_disk, sky=models.flat_sky()), none, plain_rows),
    "m51": Case(m51, none, m51_rows),
    f"spiral_{_NUMBERS[0]}": _spiral(_NUMBERS[0], 1.5, 0.0),
    f"spiral_{_NUMBERS[1]}": _spiral(_NUMBERS[1], -2.0, 0.0),
}
