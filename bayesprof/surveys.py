"""Cutouts of public surveys, as images ready to fit: downloaded once, and kept in astropy's cache."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import ascii, fits
from astropy.utils.data import download_file
from astropy.wcs import WCS

from bayesprof.checking import check_number
from bayesprof.image import Image
from bayesprof.measurement import measure

_VIEWER = "https://www.legacysurvey.org/viewer"
LEGACY_IMAGE = _VIEWER + "/cutout.fits?ra={ra:.6f}&dec={dec:.6f}&layer={layer}&size={size}&bands={band}&subimage"
LEGACY_PSF = _VIEWER + "/coadd-psf/?ra={ra:.6f}&dec={dec:.6f}&layer={layer}&bands={band}"
SDSS_IMAGE = (
    _VIEWER + "/fits-cutout?ra={ra:.6f}&dec={dec:.6f}&layer=sdss&size={size}&pixscale={pixel_scale}&bands={band}"
)
_PS1 = "https://ps1images.stsci.edu/cgi-bin"
PANSTARRS_FILES = _PS1 + "/ps1filenames.py?ra={ra:.6f}&dec={dec:.6f}&filters={band}&type=stack,stack.wt"
PANSTARRS_IMAGE = _PS1 + "/fitscut.cgi?ra={ra:.6f}&dec={dec:.6f}&size={size}&format=fits&red={filename}"

NANOMAGGIES = 22.5
"""Zero point of images in nanomaggies, AB."""
_SDSS_SCALE = 0.396  # arcsec
_LARGEST = 3000  # pixels a side: what the services give
_TIMEOUT = 60.0  # seconds


def legacy_survey(
    ra: Any, dec: float | None = None, *, size: int = 256, band: str = "r", layer: str = "ls-dr9", cache: bool = True
) -> Image:
    """A cutout of the DESI Legacy Imaging Surveys (Dey et al. 2019, AJ 157, 168), with its noise and PSF.

    Parameters
    ----------
    ra, dec : degrees, ICRS; or a SkyCoord alone
    size : pixels a side, of 0.262 arcsec
    band : "g", "r" or "z" ("i" in ls-dr10)
    layer : the data release, as the survey's viewer calls it
    cache : keep what is downloaded in astropy's cache, and take it from there

    Returns
    -------
    Image
        In nanomaggies (AB zero point 22.5), its noise from the survey's inverse variance, pixels without it masked;
        named ``legacy_<band>``. It may be smaller where the object is at the edge of one of the survey's bricks.

    Raises
    ------
    ConnectionError
        Where nothing could be downloaded: :func:`bayesprof.datasets.simulated_field` needs no network.
    ValueError, TypeError
        For a position, size or band out of range, and where the survey has no image there.
    """
    ra, dec = _position("legacy_survey", ra, dec)
    query = {
        "ra": ra,
        "dec": dec,
        "layer": layer,
        "size": _size("legacy_survey", size),
        "band": _band("legacy_survey", band, "griz"),
    }
    url = LEGACY_IMAGE.format(**query)
    planes: dict[str, tuple[Any, Any]] = {}
    for header, data in _hdus(url, cache):
        kind = str(header.get("IMAGETYP", "")).strip()
        if data is not None and str(header.get("BAND", band)).strip() == band and kind in ("image", "invvar"):
            planes[kind] = (header, data)
    if planes.keys() != {"image", "invvar"}:
        raise ValueError(
            f"legacy_survey: expected an image and its inverse variance in {url}, found {list(planes)}; the {layer} "
            f"release may have no {band} image at ra {ra:.4f}, dec {dec:.4f}: choose another band, layer or position"
        )
    header, data = planes["image"]
    psf = [
        stamp
        for header_, stamp in _hdus(LEGACY_PSF.format(**query), cache)
        if stamp is not None and str(header_.get("BAND", band)).strip() == band
    ]
    return Image(
        _native(data),
        ivar=_native(planes["invvar"][1]),
        psf=_native(psf[0]) if psf else None,
        wcs=WCS(header).celestial,
        zeropoint=NANOMAGGIES,
        band=band,
        name=f"legacy_{band}",
        mask_invalid=True,
    )


def sdss(ra: Any, dec: float | None = None, *, size: int = 256, band: str = "r", cache: bool = True) -> Image:
    """A cutout of the Sloan Digital Sky Survey, resampled to north up by the Legacy Surveys' viewer.

    `ra`, `dec`, `size` (pixels of 0.396 arcsec), `cache` : as for :func:`legacy_survey`; `band` : one of "ugriz".

    Returns
    -------
    Image
        In nanomaggies (AB zero point 22.5), without a PSF; named ``sdss_<band>``. The service gives no noise: that of
        all pixels is the scatter of neighbouring ones, too small for the resampled image's own correlated noise.

    Raises
    ------
    ConnectionError, ValueError, TypeError
        As :func:`legacy_survey`.
    """
    ra, dec = _position("sdss", ra, dec)
    band = _band("sdss", band, "ugriz")
    url = SDSS_IMAGE.format(ra=ra, dec=dec, size=_size("sdss", size), pixel_scale=_SDSS_SCALE, band=band)
    found = [(header, data) for header, data in _hdus(url, cache) if data is not None]
    if not found or not np.any(found[0][1]):
        raise ValueError(f"sdss: expected an image in {url}, got none; it may have no data there: choose another place")
    header, data = found[0]
    plain = _native(data.reshape(data.shape[-2:]))
    known = {"wcs": WCS(header).celestial, "zeropoint": NANOMAGGIES, "band": band, "name": f"sdss_{band}"}
    noise = measure(Image(plain, mask_invalid=True)).noise
    return Image(plain, sigma=noise, mask_invalid=True, **known)


def panstarrs(ra: Any, dec: float | None = None, *, size: int = 256, band: str = "r", cache: bool = True) -> Image:
    """A cutout of the stacked images of Pan-STARRS 1 (Chambers et al. 2016, arXiv:1612.05560), with its noise.

    `ra`, `dec`, `size` (pixels of 0.25 arcsec), `cache` : as for :func:`legacy_survey`; `band` : one of "grizy".

    Returns
    -------
    Image
        In counts, taken from the arcsinh scale of the stack (Waters et al. 2020, ApJS 251, 4), with the AB zero point
        25 + 2.5 log10 of the exposure time; its noise from the variance of the stack; without a PSF; named
        ``ps1_<band>``.

    Raises
    ------
    ConnectionError, ValueError, TypeError
        As :func:`legacy_survey`.
    """
    ra, dec = _position("panstarrs", ra, dec)
    band = _band("panstarrs", band, "grizy")
    place = {"ra": ra, "dec": dec, "size": _size("panstarrs", size), "band": band}
    table = ascii.read(_downloaded(PANSTARRS_FILES.format(**place), cache), format="basic")
    names = {str(row["type"]): str(row["filename"]) for row in table if str(row["filter"]) == band}
    if not {"stack", "stack.wt"} <= set(names):
        raise ValueError(
            f"panstarrs: expected a stack and its variance in {band} at ra {ra:.4f}, dec {dec:.4f}, the survey lists "
            f"{sorted(names)}; it covers dec > -30: choose another position or band"
        )
    planes = {
        kind: next(
            (header, _linear(header, data))
            for header, data in _hdus(PANSTARRS_IMAGE.format(**place, filename=names[kind]), cache)
            if data is not None
        )
        for kind in ("stack", "stack.wt")
    }
    header, data = planes["stack"]
    return Image(
        data,
        variance=planes["stack.wt"][1],
        wcs=WCS(header).celestial,
        zeropoint=25.0 + 2.5 * math.log10(float(header["EXPTIME"])),
        band=band,
        name=f"ps1_{band}",
        mask_invalid=True,
    )


def _linear(header: fits.Header, data: np.ndarray) -> np.ndarray:
    """Pixels of a stack in counts: its files hold asinh magnitudes."""
    plain = _native(data)
    if "BSOFTEN" not in header:
        return plain
    scaled = np.sinh(plain * math.log(10) / 2.5)
    return np.asarray(float(header["BOFFSET"]) + 2 * float(header["BSOFTEN"]) * scaled)


def _hdus(url: str, cache: bool) -> Iterable[tuple[fits.Header, Any]]:
    """Header and pixels (None where there are none) of every HDU of a FITS file."""
    path = _downloaded(url, cache)
    try:
        with fits.open(path, memmap=False) as hdus:
            return [(hdu.header.copy(), None if hdu.data is None else np.array(hdu.data)) for hdu in hdus]
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"expected a FITS file from {url}, got something else ({error}); the service may be down or have no image "
            "there: look at the address in a browser, and try again with cache=False"
        ) from error


def _downloaded(url: str, cache: bool) -> str:
    try:
        path: str = download_file(url, cache=cache, show_progress=False, timeout=_TIMEOUT)
    except OSError as error:  # which those of urllib are
        raise ConnectionError(
            f"can't download {url} ({error}); check the network, or take bp.datasets.simulated_field(), which needs "
            "none"
        ) from error
    return path


def _native(data: Any) -> np.ndarray:
    return np.asarray(data, dtype=float)


def _position(owner: str, ra: Any, dec: Any) -> tuple[float, float]:
    if isinstance(ra, SkyCoord):
        if dec is not None or not ra.isscalar:
            raise TypeError(f"{owner}: expected one position, got a SkyCoord and more; pass a scalar SkyCoord alone")
        return float(ra.icrs.ra.deg), float(ra.icrs.dec.deg)
    if dec is None:
        raise TypeError(f"{owner}: expected ra and dec in degrees, or a SkyCoord, got ra alone")
    right, up = check_number(ra, "ra", owner), check_number(dec, "dec", owner)
    if not 0 <= right <= 360 or not -90 <= up <= 90:
        raise ValueError(f"{owner}: expected ra in [0, 360] and dec in [-90, 90] degrees, got {right:g} and {up:g}")
    return right, up


def _size(owner: str, size: Any) -> int:
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or not 16 <= size <= _LARGEST:
        raise ValueError(f"{owner}: expected size as a whole number of pixels from 16 to {_LARGEST}, got {size!r}")
    return int(size)


def _band(owner: str, band: Any, known: str) -> str:
    if not isinstance(band, str) or len(band) != 1 or band not in known:
        raise ValueError(f"{owner}: expected band to be one of {', '.join(known)}, got {band!r}; get one at a time")
    return band
