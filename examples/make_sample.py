"""Make the sample field in examples/sample: an image as a survey delivers it, of which every number is known.

A Sersic galaxy off the centre of the field, a star beside it, three fainter galaxies and a second star that are
masked, a sky, Poisson and read noise, a bad column and cosmic rays, seen through a Moffat PSF that holds the pixel.
The same seed gives the same field:

    python examples/make_sample.py --seed 8
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

import bayesprof as bp
from bayesprof import models
from bayesprof.datasets import moffat_stamp, observed, sky_wcs

SHAPE = (98, 116)  # ny, nx
ZEROPOINT = 27.0  # magnitude of one count
PIXEL_SCALE = 0.168  # arcsec
GAIN, READ_NOISE = 3.0, 4.5  # electrons per count, electrons
FWHM, BETA, PSF_SIDE = 4.1, 3.0, 51  # Moffat; pixels
DEAD_COLUMN = 90

# Modelled in examples/sample.toml, where the components have the same names.
GALAXY = {"x": 47.37, "y": 53.82, "flux": 32_000.0, "r_eff": 7.4, "n": 2.2, "q": 0.58, "theta": 0.72}
STAR = {"x": 71.81, "y": 66.26, "flux": 4_000.0}
SKY = {"level": 121.5}
# Masked.
NEIGHBOURS = {
    "edge": models.sersic(x=100.4, y=25.1, flux=4_000.0, r_eff=3.3, n=1.0, q=0.45, theta=2.1),
    "faint": models.sersic(x=17.2, y=12.7, flux=2_000.0, r_eff=2.6, n=1.0, q=0.8, theta=0.3),
    "small": models.sersic(x=13.8, y=86.3, flux=1_300.0, r_eff=2.0, n=0.8, q=0.7, theta=1.4),
    "bright_star": models.point_source(x=106.6, y=88.9, flux=20_000.0),
}
NEIGHBOUR_LIMIT = 0.01  # masked where the neighbours' light is above this many standard deviations of a pixel


def field_header() -> fits.Header:
    """WCS, unit, band, zero point and detector of the field; north 18 degrees off the y axis."""
    header = sky_wcs(SHAPE, PIXEL_SCALE).to_header()
    header["BUNIT"] = "adu"
    header["FILTER"] = "r"
    header["MAGZERO"] = (ZEROPOINT, "magnitude of one adu")
    header["GAIN"] = (GAIN, "electrons per adu")
    header["RDNOISE"] = (READ_NOISE, "electrons")
    return header


def make_field(seed: int) -> dict[str, np.ndarray]:
    """Arrays image, sigma, mask and psf of the field."""
    random = np.random.default_rng(seed)
    psf = moffat_stamp(FWHM, BETA, PSF_SIDE)
    scene = bp.Scene(
        bp.Image(np.zeros(SHAPE), sigma=1.0, psf=psf),
        galaxy=models.sersic(**GALAXY),
        star=models.point_source(**STAR),
        sky=models.flat_sky(**SKY),
        **NEIGHBOURS,
    )
    truth = scene.predict().numpy()
    image, sigma = observed(truth, GAIN, READ_NOISE, random)

    mask = scene.predict(components=list(NEIGHBOURS)).numpy() > NEIGHBOUR_LIMIT * sigma
    image[:, DEAD_COLUMN], mask[:, DEAD_COLUMN] = 0.0, True
    for y, x in random.integers(3, np.array(SHAPE) - 3, size=(6, 2)):  # cosmic rays, two pixels each
        image[y, x : x + 2] += 2_500.0
        mask[y - 1 : y + 2, x - 1 : x + 3] = True
    return {"image": image, "sigma": sigma, "mask": mask, "psf": psf}


def truth_table() -> Table:
    """True values of the modelled components, by site name."""
    units = {"x": "pixel", "y": "pixel", "r_eff": "pixel", "theta": "rad", "flux": "adu", "level": "adu"}
    rows = [
        (f"{component}.{name}", units.get(name, ""), value)
        for component, values in (("galaxy", GALAXY), ("star", STAR), ("sky", SKY))
        for name, value in values.items()
    ]
    return Table(rows=rows, names=("parameter", "unit", "value"))


def write_sample(folder: Path, seed: int) -> None:
    """Write the field's four FITS files and truth.ecsv into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    field, header = make_field(seed), field_header()
    kinds = {"image": np.float32, "sigma": np.float32, "mask": np.uint8, "psf": np.float32}
    for name, kind in kinds.items():
        hdu = fits.PrimaryHDU(field[name].astype(kind), header=header if name in ("image", "sigma") else None)
        hdu.writeto(folder / f"{name}.fits", overwrite=True)
    truth_table().write(folder / "truth.ecsv", overwrite=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "sample", help="folder to write to")
    parser.add_argument("--seed", type=int, default=8)
    arguments = parser.parse_args()
    write_sample(arguments.out, arguments.seed)
