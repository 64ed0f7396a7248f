"""Checks of what an `Image` knows about its instrument: PSF, WCS, pixel scale. Conventions: see `bayesprof.grid`."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from astropy import units as u
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_area
from astropy.wcs.wcsapi import HighLevelWCSWrapper, SlicedLowLevelWCS

from bayesprof.checking import as_array, check_number
from bayesprof.psf_field import PSFField

SCALE_TOLERANCE = 0.05  # rounded header values differ by less, a wrong binning or unit by more
MAX_PSF_RATIO = 3.0  # PSF side over image side: beyond it the PSF is almost surely oversampled
CENTRE_OFFSET = 0.25  # halfway between a peak on a pixel (0.5 off an even array's centre) and one on the centre


def check_oversampling(value: Any, psf: Any, owner: str) -> int:
    """Return the number of PSF pixels per image pixel (along a side), a positive integer."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(f"{owner}: psf_oversampling must be an integer, got {value!r}; pass 1 for a native PSF.")
    if value < 1:
        raise ValueError(f"{owner}: psf_oversampling must be at least 1, got {value}; pass 1 for a native PSF.")
    if psf is None and value != 1:
        raise ValueError(f"{owner}: psf_oversampling={value} needs a psf, got psf=None; pass psf= or remove it.")
    if isinstance(psf, PSFField):
        if value not in (1, psf.oversampling):
            raise ValueError(
                f"{owner}: psf_oversampling={value} contradicts that of the PSFField, {psf.oversampling}; leave it out."
            )
        return psf.oversampling
    return int(value)


def read_psf(value: Any, oversampling: int, shape: tuple[int, int], owner: str) -> np.ndarray:
    """Return the PSF as float64, normalised to sum 1; its origin is the geometric centre ((w - 1)/2).

    Warns when an even-sized PSF has its peak on a pixel beside that centre: such a PSF shifts every source by half
    a pixel.
    """
    array, hidden, _ = as_array(value, "psf", owner)
    if array.ndim != 2:
        raise ValueError(
            f"{owner}: psf must be 2-D [y, x], got shape {array.shape}; pass one 2-D array (one plane of a cube)."
        )
    if min(array.shape) < 2:
        raise ValueError(
            f"{owner}: psf must have at least 2x2 pixels, got shape {array.shape}; pass psf=None for no PSF."
        )
    psf = array.astype(np.float64)
    bad = ~np.isfinite(psf) if hidden is None else ~np.isfinite(psf) | hidden
    if bad.any():
        y, x = np.argwhere(bad)[0]
        raise ValueError(
            f"{owner}: psf must be finite and unmasked, got {int(bad.sum())} bad pixels, first [y, x] = [{y}, {x}]; "
            "replace them, for example with np.nan_to_num(psf)."
        )
    total = psf.sum()
    if not np.isfinite(total) or total <= 0:
        zeros = " (all pixels are zero)" if not psf.any() else ""
        raise ValueError(
            f"{owner}: psf must have a positive sum, got {total:.6g}{zeros}; subtract its background or check the file."
        )
    if any(side > MAX_PSF_RATIO * oversampling * n for side, n in zip(psf.shape, shape, strict=True)):
        raise ValueError(
            f"{owner}: psf of shape {psf.shape} at psf_oversampling={oversampling} is more than {MAX_PSF_RATIO:g} "
            f"times the image {shape}; crop it, or state its psf_oversampling."
        )
    _check_centre(psf, oversampling, owner)
    return psf / total


def read_psf_field(field: PSFField, shape: tuple[int, int], owner: str) -> np.ndarray:
    """Return the PSF at the middle of an image of `shape` as `read_psf` does, once that at other places is found to be
    positive in sum as well.
    """
    sums = field.stamps_over(shape).sum((1, 2))
    if sums.min() <= 0:
        raise ValueError(
            f"{owner}: psf must have a positive sum all over the image, got {sums.min():.6g} to {sums.max():.6g}; "
            "check the offset and the scale of its positions, which are pixels of this image (see PSFField.seen_from)."
        )
    ny, nx = shape
    return read_psf(field.stamp_at(0.5 * (nx - 1), 0.5 * (ny - 1)), field.oversampling, shape, owner)


def _check_centre(psf: np.ndarray, oversampling: int, owner: str) -> None:
    """Raise for a PSF peak far from the geometric centre, warn for one half a pixel off."""
    peak = np.unravel_index(int(psf.argmax()), psf.shape)
    off = [p - (n - 1) / 2 for p, n in zip(peak, psf.shape, strict=True)]
    allowed = [max(2 * oversampling, 0.1 * n) for n in psf.shape]
    if any(abs(d) > limit for d, limit in zip(off, allowed, strict=True)):
        raise ValueError(
            f"{owner}: psf must peak at its centre, got the peak at [y, x] = [{peak[0]}, {peak[1]}] of shape "
            f"{psf.shape}, {off[0]:+.1f}, {off[1]:+.1f} pixels off; crop or pad it around the peak."
        )
    lines = (psf[:, peak[1]], psf[peak[0], :])
    shift = [d + _vertex(line, int(p)) for d, line, p in zip(off, lines, peak, strict=True)]
    axes = zip(("row", "column"), psf.shape, shift, strict=True)
    shifted = [axis for axis, n, d in axes if n % 2 == 0 and abs(d) > CENTRE_OFFSET]
    if shifted:
        warnings.warn(
            f"{owner}: psf has an even shape {psf.shape} and its peak lies {shift[0]:+.2f}, {shift[1]:+.2f} (y, x) "
            f"pixels off its geometric centre, which is taken as the origin: sources would be shifted. Crop one "
            f"{' and one '.join(shifted)} so that the peak pixel is the centre.",
            UserWarning,
            stacklevel=4,
        )


def _vertex(line: np.ndarray, peak: int) -> float:
    """Offset of the maximum from pixel `peak`, by a parabola, in the logarithm where it exists."""
    left, mid, right = np.pad(line, 1)[peak : peak + 3]
    if min(left, mid, right) > 0:
        left, mid, right = np.log([left, mid, right])
    curvature = left - 2 * mid + right
    return 0.0 if curvature == 0 else float(0.5 * (left - right) / curvature)


def read_wcs(value: Any, shape: tuple[int, int], owner: str) -> WCS:
    """Return a copy of a 2-D celestial WCS that belongs to an image of `shape`."""
    wcs = _unsliced(value)
    if not isinstance(wcs, WCS):
        raise TypeError(
            f"{owner}: wcs must be an astropy.wcs.WCS, got {type(value).__name__}; build it with WCS(header)."
        )
    if wcs.naxis != 2 or not wcs.has_celestial:
        raise ValueError(
            f"{owner}: wcs must be 2-D and celestial, got {wcs.naxis} axes of type {list(wcs.wcs.ctype)}; "
            "pass wcs.celestial, or wcs=None."
        )
    if wcs.pixel_shape is not None and tuple(wcs.pixel_shape[::-1]) != shape:
        raise ValueError(
            f"{owner}: wcs must describe the pixels of the data {shape}, got the WCS of an image "
            f"{wcs.pixel_shape[::-1]}; slice it like the data, wcs[y0:y1, x0:x1] (or use Image.cutout); if it is "
            "right, set wcs.pixel_shape = None."
        )
    return wcs.deepcopy()


def _unsliced(wcs: Any) -> Any:
    """Turn the wrapper that slicing an NDData puts around its WCS back into a WCS."""
    low = getattr(wcs, "low_level_wcs", None) if isinstance(wcs, HighLevelWCSWrapper) else wcs
    if not isinstance(low, SlicedLowLevelWCS):
        return low if isinstance(low, WCS) else wcs
    inner, slices = low._wcs, low._slices_array  # astropy offers no public way to them
    if not isinstance(inner, WCS) or not all(isinstance(s, slice) for s in slices):
        return wcs
    return inner[tuple(slice(s.start, s.stop) for s in slices)]


def read_pixel_scale(value: Any, wcs: WCS | None, owner: str) -> float | None:
    """Return arcsec per pixel, from the WCS (square root of the pixel area at its reference point) when not given."""
    from_wcs = None
    if wcs is not None:
        try:
            from_wcs = 3600.0 * float(np.sqrt(proj_plane_pixel_area(wcs)))
        except ValueError as err:  # astropy's WcsError
            raise ValueError(f"{owner}: wcs cannot be used ({err}); correct it or pass wcs=None.") from err
        if not np.isfinite(from_wcs) or from_wcs <= 0:
            raise ValueError(f"{owner}: wcs gives a pixel scale of {from_wcs} arcsec; correct it or pass wcs=None.")
    if value is None:
        return from_wcs
    per_pixel = isinstance(value, u.Quantity) and value.unit.is_equivalent(u.arcsec / u.pix)
    scale = check_number(value, "pixel_scale", owner, u.arcsec / u.pix if per_pixel else u.arcsec)
    if scale <= 0:
        raise ValueError(f"{owner}: pixel_scale must be positive (arcsec per pixel), got {scale}; give its size.")
    if from_wcs is not None and abs(scale / from_wcs - 1) > SCALE_TOLERANCE:
        raise ValueError(
            f"{owner}: pixel_scale={scale:.6g} arcsec contradicts the WCS ({from_wcs:.6g}); remove one of "
            "them (from_fits: use_header=False drops that of the header)."
        )
    return scale


def cut_wcs(wcs: WCS, rows: slice, columns: slice, owner: str) -> WCS:
    """Return the WCS of a cutout."""
    if any(table is not None for table in (wcs.cpdis1, wcs.cpdis2, wcs.det2im1, wcs.det2im2)):
        raise ValueError(
            f"{owner}: cannot cut a WCS with look-up table distortions (astropy does not shift the tables); "
            "fit a SIP or linear WCS first, or make the Image with wcs=None."
        )
    return wcs[rows, columns]
