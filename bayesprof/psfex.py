"""PsfEx's files: the PSF of an image as a polynomial of the position.

PsfEx (Bertin 2011, ADASS XX, 435) writes one binary table for each image, with the stamps in the column PSF_MASK and
the polynomial in the header. Positions are those of SExtractor, whose first pixel is 1. The stamps are samples, every
PSF_SAMP pixels, of the PSF with the integration over a pixel; between them PsfEx interpolates by Lanczos' function of
order 4.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from bayesprof.psf_field import PSFField
from bayesprof.reading import UNREADABLE, is_path, read_plane

_COLUMN = "PSF_MASK"
_ORDER = 4
_WHOLE = 1e-4  # a sampling within this of a whole number of stamp pixels per pixel is that number


def read_psfex(path: str | os.PathLike[str], hdu: int | str | None = None) -> PSFField:
    """The PSF in a file of PsfEx's.

    A sampling of 1, 1/2, 1/3, ... pixels is kept; stamps with any other are interpolated, as PsfEx does it, to the next
    finer one.

    Parameters
    ----------
    path : of the file.
    hdu : index or name of the table, where the file has several: one for each image.

    Raises
    ------
    FileNotFoundError, ValueError
        For a file that is missing, or unreadable, or not PsfEx's; for a PSF that depends on anything but the position
        in the image; and for several tables and no `hdu`.

    Examples
    --------
    For an image that begins at pixel (600, 200) of the one that PsfEx saw::

        psf = bp.read_psfex("field.psf").seen_from(600, 200)
        image = bp.Image.from_fits("part.fits", sigma="part_sigma.fits", psf=psf)
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"read_psfex: expected an existing file, got '{file}'; check the path")
    header, stamps = _table(file, hdu)
    what = f"read_psfex: '{file}'"
    try:
        axes = [str(header[f"POLNAME{i + 1}"]).strip() for i in range(int(header["POLNAXIS"]))]
        groups = [int(header[f"POLGRP{i + 1}"]) for i in range(len(axes))]
        degrees = [int(header[f"POLDEG{i + 1}"]) for i in range(int(header["POLNGRP"]))]
        offset, scale = ([float(header[f"{key}{i + 1}"]) for i in range(len(axes))] for key in ("POLZERO", "POLSCAL"))
        step = float(header["PSF_SAMP"])
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{what} lacks what PsfEx writes into its header ({error}); write it again") from error
    if stamps.ndim == 2:
        stamps = stamps[None]
    if not axes or degrees == [0]:  # a PSF that is the same everywhere
        offset, scale, degrees = [1.0, 1.0], [1.0, 1.0], [0]
    elif len(degrees) != 1 or groups != [1, 1] or not (_is_position(axes[0], "X") and _is_position(axes[1], "Y")):
        raise ValueError(
            f"{what}: expected a PSF that depends on X_IMAGE and Y_IMAGE, got one that depends on {', '.join(axes)}; "
            "make the stamps at fixed values of the others and give them to bp.PSFField"
        )
    if not 0 < step < math.inf:
        raise ValueError(f"{what}: expected PSF_SAMP > 0, got {step}; write it again")
    times = 1 / step
    oversampling = max(round(times), 1)
    if abs(times - oversampling) > _WHOLE:
        oversampling = max(math.ceil(times), 1)
        stamps = _resampled(stamps, 1 / (step * oversampling))
    return PSFField(
        stamps,
        degrees[0],
        offset=(offset[0] - 1, offset[1] - 1),  # SExtractor counts from 1
        scale=(scale[0], scale[1]),
        oversampling=oversampling,
    )


def read_psf_source(source: Any, owner: str) -> Any:
    """What :class:`bayesprof.Image` takes as a PSF: from a file of PsfEx's, from the pixels of another one, or `source`
    itself where it is no path.
    """
    if not is_path(source):
        return source
    path, hdu = source if isinstance(source, tuple) and len(source) == 2 else (source, None)
    if is_path(path) and _tables(Path(path).expanduser(), hdu):
        return read_psfex(path, hdu)
    return read_plane(source, "psf", owner)


def _tables(path: Path, hdu: int | str | None = None) -> list[int]:
    """Indices of the tables of PsfEx's in a file, of those asked for; none in a file that isn't FITS."""
    if not path.is_file() or path.suffix == ".npy":
        return []
    try:
        with fits.open(path, memmap=False) as hdus:
            wanted = list(hdus) if hdu is None else [hdus[hdu]]
            return [
                index
                for index, each in enumerate(hdus)
                if isinstance(each, fits.BinTableHDU)
                and _COLUMN in each.columns.names
                and any(each is other for other in wanted)
            ]
    except UNREADABLE:
        return []


def _table(path: Path, hdu: int | str | None) -> tuple[fits.Header, np.ndarray]:
    found = _tables(path, hdu)
    if len(found) != 1:
        where = "" if hdu is None else f" in HDU {hdu!r}"
        remedy = f"choose hdu= from {found}" if found else "give a file that PsfEx wrote"
        raise ValueError(
            f"read_psfex: expected one table with the column {_COLUMN}{where} of '{path}', got {len(found)}; {remedy}"
        )
    with fits.open(path, memmap=False) as hdus:
        return hdus[found[0]].header.copy(), np.array(hdus[found[0]].data[_COLUMN][0], dtype=np.float64)


def _is_position(name: str, axis: str) -> bool:
    """Whether `name` is a position in the image: X_IMAGE, XWIN_IMAGE, XPSF_IMAGE and the like."""
    return name.startswith(axis) and name.endswith("_IMAGE")


def _resampled(stamps: np.ndarray, step: float) -> np.ndarray:
    """`stamps` every `step` of their pixels about the same centre, within their edges."""
    along_y, along_x = (_interpolation(size, step) for size in stamps.shape[1:])
    return along_y @ stamps @ along_x.T


def _interpolation(size: int, step: float) -> np.ndarray:
    """Matrix that takes `size` samples to those every `step`, by Lanczos' function."""
    middle = 0.5 * (size - 1)
    half = math.floor(middle / step)
    distance = step * np.arange(-half, half + 1)[:, None] - (np.arange(size) - middle)
    return np.where(np.abs(distance) < _ORDER, np.sinc(distance) * np.sinc(distance / _ORDER), 0.0)
