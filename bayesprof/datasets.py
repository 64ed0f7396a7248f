"""Images to try things on: simulated fields, of which everything is known, and cutouts of public surveys.

:func:`simulated_field` needs nothing. :func:`legacy_survey`, :func:`sdss` and :func:`panstarrs` download
(:mod:`bayesprof.surveys`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from astropy import units as u
from astropy.table import Table
from astropy.wcs import WCS

from bayesprof.checking import check_number
from bayesprof.image import Image
from bayesprof.models.point_source import PointSource
from bayesprof.models.sersic import Sersic
from bayesprof.rendering import renderer_for
from bayesprof.surveys import legacy_survey, panstarrs, sdss

__all__ = ["Field", "legacy_survey", "moffat_stamp", "observed", "panstarrs", "sdss", "simulated_field", "sky_wcs"]

_FINE = 9  # points a side over which the PSF is averaged in a pixel
_BRIGHTEST = 300.0  # times the flux of the faintest
_FAINTEST = 15.0  # S/N of the faintest source within the PSF, against the sky alone


class Field(NamedTuple):
    """A simulated field: its `image`, and the `truth`, a row for each source."""

    image: Image
    truth: Table


def simulated_field(
    shape: tuple[int, int] = (240, 320),
    *,
    galaxies: int = 20,
    stars: int = 4,
    seed: int = 0,
    sky: float = 100.0,
    fwhm: float = 4.0,
    gain: float = 3.0,
    read_noise: float = 4.5,
    zeropoint: float = 27.0,
    pixel_scale: float = 0.168,
) -> Field:
    """A field of galaxies and stars as a survey would deliver it, and its truth.

    Parameters
    ----------
    shape : (ny, nx), pixels
    galaxies, stars : numbers of sources: Sersic profiles and points
    seed : of positions, parameters and noise; the same seed gives the same field
    sky : image units per pixel
    fwhm : of the Moffat PSF (beta 3), pixels
    gain, read_noise : electrons per image unit, electrons
    zeropoint, pixel_scale : magnitude of one image unit, arcsec

    Returns
    -------
    Field
        `image`: with sigma, PSF, WCS, zero point and pixel scale, the sky left in. `truth`: a table with the columns
        name, kind ("galaxy" or "star"), x, y, flux, r_eff, n, q, theta, magnitude, ra and dec; NaN where a star has
        none. Its meta has the sky and the seed.

    Notes
    -----
    Fluxes follow the power law of equal numbers of sources per unit of 1/flux, over a factor of 300 from the faintest,
    which has S/N 15 in the PSF; r_eff is log-normal about 4 pixels (0.35), n about 1.5 (0.5, within 0.5 to 6), q
    uniform from 0.25 to 1, positions and angles uniform.

    Raises
    ------
    ValueError, TypeError
        For numbers out of their range.

    Examples
    --------
    >>> import bayesprof as bp
    >>> image, truth = bp.datasets.simulated_field((80, 100), galaxies=3, stars=1)
    >>> image.shape, truth["kind"].tolist()
    ((80, 100), ['galaxy', 'galaxy', 'galaxy', 'star'])
    """
    for what, count in (("galaxies", galaxies), ("stars", stars)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ValueError(f"simulated_field: expected {what} as a whole number from 0, got {count!r}")
    if len(shape) != 2 or min(shape) < 16:
        raise ValueError(f"simulated_field: expected shape as (ny, nx) of 16 pixels a side or more, got {shape!r}")
    numbers = {"fwhm": fwhm, "gain": gain, "pixel_scale": pixel_scale, "sky": sky, "read_noise": read_noise}
    for what, value in numbers.items():
        least = 0 if what in ("sky", "read_noise") else np.finfo(float).tiny
        if check_number(value, what, "simulated_field") < least:
            raise ValueError(f"simulated_field: expected {what} {'>= 0' if least == 0 else '> 0'}, got {value!r}")
    random = np.random.default_rng(seed)
    psf = moffat_stamp(fwhm)
    wcs = sky_wcs(shape, pixel_scale)
    truth = _sources(random, shape, galaxies, stars, psf, np.sqrt(sky / gain + (read_noise / gain) ** 2))
    options: dict[str, Any] = {"psf": psf, "wcs": wcs, "zeropoint": zeropoint, "band": "r", "name": "field"}
    blank = Image(np.zeros(shape), sigma=1.0, **options)
    light: Any = sum(
        PointSource(row["x"], row["y"], row["flux"])
        if row["kind"] == "star"
        else Sersic(*(row[name] for name in ("x", "y", "flux", "r_eff", "n")), q=row["q"], theta=row["theta"])
        for row in truth
    )
    model = np.full(shape, float(sky))
    if len(truth):
        model += renderer_for(blank)(light).numpy()
    data, sigma = observed(model, gain, read_noise, random)
    truth["magnitude"] = zeropoint - 2.5 * np.log10(truth["flux"])
    position = wcs.pixel_to_world(truth["x"], truth["y"])
    truth["ra"], truth["dec"] = position.ra.deg, position.dec.deg
    units = {"x": u.pix, "y": u.pix, "r_eff": u.pix, "theta": u.rad, "magnitude": u.mag, "ra": u.deg, "dec": u.deg}
    for name, unit in units.items():
        truth[name].unit = unit
    truth.meta.update(sky=float(sky), seed=seed)
    return Field(Image(data, sigma=sigma, **options), truth)


def moffat_stamp(fwhm: float, beta: float = 3.0, side: int = 51) -> np.ndarray:
    """Moffat PSF of `side` x `side` pixels, averaged over each pixel from 9x9 points in it, with sum 1."""
    fine = (np.arange(_FINE * side) + 0.5) / _FINE - 0.5 * side
    alpha = 0.5 * fwhm / np.sqrt(2 ** (1 / beta) - 1)
    profile = (1 + (fine[:, None] ** 2 + fine[None, :] ** 2) / alpha**2) ** -beta
    psf = profile.reshape(side, _FINE, side, _FINE).mean(axis=(1, 3))
    return np.asarray(psf / psf.sum())


def sky_wcs(shape: tuple[int, int], pixel_scale: float) -> WCS:
    """WCS (TAN) of an image of `shape` in the COSMOS field, north 18 degrees off the y axis."""
    ny, nx = shape
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.1163, 2.2058]
    wcs.wcs.crpix = [0.5 * nx + 0.5, 0.5 * ny + 0.5]
    turn, step = np.radians(18.0), pixel_scale / 3600
    wcs.wcs.cd = step * np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return wcs


def observed(
    model: np.ndarray, gain: float, read_noise: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Data with Poisson and read noise about a `model`, and their sigma, image units."""
    sigma = np.sqrt(model / gain + (read_noise / gain) ** 2)
    return random.poisson(model * gain) / gain + random.normal(0.0, read_noise / gain, model.shape), sigma


def _sources(
    random: np.random.Generator, shape: tuple[int, int], galaxies: int, stars: int, psf: np.ndarray, noise: float
) -> Table:
    """Parameters of all sources."""
    count = galaxies + stars
    faintest = _FAINTEST * noise / np.sqrt((psf**2).sum())
    ny, nx = shape
    columns: dict[str, Any] = {
        "name": [f"galaxy_{i}" for i in range(galaxies)] + [f"star_{i}" for i in range(stars)],
        "kind": ["galaxy"] * galaxies + ["star"] * stars,
        "x": random.uniform(0, nx - 1, count),
        "y": random.uniform(0, ny - 1, count),
        "flux": faintest / (1 - random.uniform(0, 1 - 1 / _BRIGHTEST, count)),
        "r_eff": random.lognormal(np.log(4.0), 0.35, count),
        "n": np.clip(random.lognormal(np.log(1.5), 0.5, count), 0.5, 6.0),
        "q": random.uniform(0.25, 1.0, count),
        "theta": random.uniform(0.0, np.pi, count),
    }
    table = Table(columns)
    for name in ("r_eff", "n", "q", "theta"):
        table[name][galaxies:] = np.nan
    return table
