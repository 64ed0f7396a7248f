"""Reading of FITS files, NumPy files and astropy NDData into what `Image` takes.

Use `read_fits_image` for the science image (pixels, unit, header) and `read_plane` for what goes with it (noise, mask,
PSF). A file is a path, or a tuple (path, HDU index or name); without an HDU the first one holding a 2-D image is read.
"""

from __future__ import annotations

import os
import re
import warnings
import zlib
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from astropy.nddata import InverseVariance, NDData, StdDevUncertainty, VarianceUncertainty
from astropy.utils.exceptions import AstropyUserWarning
from astropy.utils.masked import Masked
from astropy.wcs import WCS, FITSFixedWarning

from bayesprof.checking import read_mask
from bayesprof.noise import NOISE_KINDS

BAND_KEYS = ("BAND", "FILTER")
ZEROPOINT_KEYS = ("MAGZERO", "MAGZPT", "ZEROPOINT", "PHOTZP")
WCS_NUMBERS = re.compile(r"(CRVAL|CRPIX|CDELT|CROTA)\d|(CD|PC)\d_\d|LONPOLE|LATPOLE")
# What broken files raise inside astropy and NumPy.
UNREADABLE = (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, zlib.error)


def is_path(value: Any) -> bool:
    """Whether `value` names a file: a path, or a tuple that starts with one."""
    return isinstance(value[0] if isinstance(value, tuple) and value else value, str | os.PathLike)


def read_fits_image(source: Any, owner: str, *, use_header: bool, want_wcs: bool) -> NDData:
    """Return an image as NDData with unit (BUNIT) and, if `use_header`, its header as meta and its celestial WCS."""
    if not is_path(source):
        raise TypeError(
            f"{owner}: from_fits expects a path or (path, HDU) for data, got {type(source).__name__}; "
            "use Image(data, ...) for arrays."
        )
    array, header, place = read_file(source, "data", owner)
    if header is None:
        return NDData(array)
    unit = None
    if str(header.get("BUNIT", "")).strip():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", u.UnitsWarning)  # deprecated spellings; an unknown unit stays a name
            unit = u.Unit(str(header["BUNIT"]).strip(), parse_strict="silent")
    wcs = _header_wcs(header, place, owner) if use_header and want_wcs else None
    return NDData(array, unit=unit, wcs=wcs, meta=header if use_header else None)


def read_plane(source: Any, what: str, owner: str) -> Any:
    """Return the pixels of a file, or `source` itself when it is not a path (an array, a number, None)."""
    return read_file(source, what, owner)[0] if is_path(source) else source


def read_file(source: Any, what: str, owner: str) -> tuple[np.ndarray, fits.Header | None, tuple[Path, int]]:
    """Return a 2-D array, its header (None for .npy), and its path and HDU index."""
    parts = source if isinstance(source, tuple) else (source, None)
    if len(parts) != 2:
        raise TypeError(f"{owner}: {what} expects a path or (path, HDU), got a tuple of {len(parts)}; pass two items.")
    path, hdu = Path(parts[0]).expanduser(), parts[1]
    if not path.is_file():
        raise FileNotFoundError(f"{owner}: {what} expects an existing file, got '{path}'; check the path.")
    if path.suffix != ".npy":
        return _read_fits(path, hdu, what, owner)
    if hdu is not None:
        raise ValueError(f"{owner}: {what} file '{path}' is .npy and has no HDU {hdu!r}; pass the path alone.")
    try:
        return np.load(path, allow_pickle=False), None, (path, 0)
    except UNREADABLE as err:
        raise ValueError(f"{owner}: {what} file '{path}' is not a readable .npy array ({err}); save it again.") from err


def _read_fits(path: Path, hdu: Any, what: str, owner: str) -> tuple[np.ndarray, fits.Header, tuple[Path, int]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VerifyWarning)  # odd header cards do not touch the pixels
        warnings.filterwarnings("error", "File may have been truncated", AstropyUserWarning)
        try:
            with fits.open(path, memmap=False) as hdus:
                shapes = [_shape(h) for h in hdus]
                names = [str(h.name) for h in hdus]
        except (*UNREADABLE, AstropyUserWarning) as err:
            raise ValueError(
                f"{owner}: {what} file '{path}' is not a readable FITS file ({err}); fetch it again, or read it "
                "another way and pass arrays to Image."
            ) from err
        index = _select(shapes, names, hdu, f"{what} file '{path}'", owner)
        try:
            with fits.open(path, memmap=False) as hdus:
                return np.array(hdus[index].data), hdus[index].header.copy(), (path, index)
        except Exception as err:
            # A corrupt compressed tile raises CfitsioException, which derives from Exception and has no public name.
            if not isinstance(err, UNREADABLE) and type(err).__name__ != "CfitsioException":
                raise
            raise ValueError(
                f"{owner}: {what}, HDU {index} of '{path}', cannot be read ({err}); fetch the file again."
            ) from err


def _shape(hdu: Any) -> tuple[int, ...] | None:
    """Shape of an image HDU; None when it holds none."""
    return tuple(hdu.shape) if hdu.is_image and hdu.shape else None


def _select(shapes: list[Any], names: list[str], hdu: Any, what: str, owner: str) -> int:
    """Index of the HDU asked for, or of the first 2-D image."""
    if hdu is not None and (isinstance(hdu, bool) or not isinstance(hdu, int | np.integer | str)):
        raise TypeError(f"{owner}: HDU of {what} must be an index or a name, got {hdu!r}; pass for example 'SCI' or 1.")
    there = "; ".join(
        f"{i} {name or '(no name)'}: {'no image' if shape is None else f'image {shape}'}"
        for i, (name, shape) in enumerate(zip(names, shapes, strict=True))
    )
    if hdu is None:
        index = next((i for i, shape in enumerate(shapes) if shape is not None and len(shape) == 2), None)
        if index is not None:
            return index
        raise ValueError(
            f"{owner}: {what} holds no 2-D image (there is: {there}); open a cube with astropy.io.fits and pass one "
            "plane to Image."
        )
    if isinstance(hdu, str):
        found = [i for i, name in enumerate(names) if name.upper() == hdu.strip().upper()]
    else:
        found = [range(len(names))[hdu]] if -len(names) <= hdu < len(names) else []
    if not found:
        raise ValueError(f"{owner}: {what} has no HDU {hdu!r}; choose one of: {there}.")
    shape = shapes[found[0]]
    if shape is None:
        raise ValueError(f"{owner}: HDU {hdu!r} of {what} holds no image; choose one of: {there}.")
    if len(shape) != 2:
        raise ValueError(
            f"{owner}: HDU {hdu!r} of {what} must hold a 2-D image, got shape {shape}; open it with astropy.io.fits "
            "and pass one plane to Image."
        )
    return found[0]


def _header_wcs(header: fits.Header, place: tuple[Path, int], owner: str) -> WCS | None:
    """The celestial WCS of a header, None when it has none."""
    tables = any(key.startswith(("CPDIS", "D2IMDIS")) for key in header)  # distortions that live in other HDUs
    text = [key for key in header if WCS_NUMBERS.fullmatch(key) and isinstance(header[key], str)]
    if text:  # astropy would take the default instead
        raise ValueError(
            f"{owner}: {text[0]} in the header of HDU {place[1]} of '{place[0]}' must be a number, got "
            f"{header[text[0]]!r}; correct it, pass wcs=, or use_header=False."
        )
    try:
        with warnings.catch_warnings(), fits.open(place[0]) if tables else nullcontext() as hdus:
            warnings.simplefilter("ignore", FITSFixedWarning)  # dates and old keywords rewritten; positions unchanged
            wcs = WCS(header, fobj=hdus)
            if not wcs.has_celestial:
                return None
            return wcs if wcs.naxis == 2 else wcs.celestial
    except (ValueError, KeyError, TypeError, AttributeError, MemoryError) as err:  # MemoryError: a missing -TAB table
        raise ValueError(
            f"{owner}: the WCS in the header of HDU {place[1]} of '{place[0]}' cannot be read "
            f"({' '.join(str(err).split())}); pass wcs=, or use_header=False."
        ) from err


def header_band(header: Any) -> str | None:
    """Band named by a header or mapping (BAND, FILTER), None when there is none."""
    values = [header[key] for key in BAND_KEYS if key in header]
    return next((value.strip() for value in values if isinstance(value, str) and value.strip()), None)


def header_zeropoint(header: Any) -> float | None:
    """Zero point given by a header or mapping (the first number of MAGZERO, MAGZPT, ZEROPOINT, PHOTZP), or None."""
    values = [header[key] for key in ZEROPOINT_KEYS if key in header]
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return numbers[0] if numbers else None


def merge_nddata(nd: NDData, given: dict[str, Any], owner: str) -> tuple[Any, dict[str, Any]]:
    """Return the pixels of `nd` and the arguments of Image completed by what `nd` carries.

    Masks are combined; wcs, psf, band and zeropoint given explicitly win; noise given twice is an error.
    """
    merged = dict(given)
    data = nd.data if nd.unit is None else u.Quantity(nd.data, nd.unit, dtype=None)
    mask = nd.mask
    if isinstance(data, Masked):
        data, mask = data.unmasked, data.mask if mask is None else mask
    if mask is not None and (np.ndim(mask) > 0 or bool(mask)):
        mask = np.broadcast_to(mask, np.shape(data)) if np.ndim(mask) == 0 else mask
        own = read_mask(mask, np.shape(data), "mask of the NDData", owner)
        both = given["mask"] is not None
        merged["mask"] = own | read_mask(given["mask"], np.shape(data), "mask", owner) if both else own
    if nd.uncertainty is not None:
        kind = _uncertainty_kind(nd.uncertainty, owner)
        extra = [k for k in NOISE_KINDS if given[k] is not None]
        if extra:
            raise ValueError(
                f"{owner}: expected one noise description, got {extra[0]} and the uncertainty of the NDData; remove "
                f"{extra[0]}=, or set uncertainty = None."
            )
        array, unit = nd.uncertainty.array, nd.uncertainty.unit
        merged[kind] = array if unit is None or nd.unit is None else u.Quantity(array, unit, dtype=None)
    meta = nd.meta if isinstance(nd.meta, Mapping) else {}
    found = {
        "wcs": nd.wcs,
        "psf": getattr(nd, "psf", None),
        "band": header_band(meta),
        "zeropoint": header_zeropoint(meta),
    }
    return data, merged | {key: value for key, value in found.items() if given[key] is None}


def _uncertainty_kind(uncertainty: Any, owner: str) -> str:
    kinds = {StdDevUncertainty: "sigma", VarianceUncertainty: "variance", InverseVariance: "ivar"}
    for cls, kind in kinds.items():
        if isinstance(uncertainty, cls):
            return kind
    raise ValueError(
        f"{owner}: uncertainty of the NDData must be StdDevUncertainty, VarianceUncertainty or InverseVariance, got "
        f"{type(uncertainty).__name__}; wrap the array in the right one, or pass sigma=."
    )
