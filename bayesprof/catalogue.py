"""The catalogue of the objects of a segmentation map, and the window that each of them needs."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from astropy.table import Table
from scipy import ndimage

from bayesprof.image import Image
from bayesprof.measurement import R_EFF_OVER_SCALE, half_light_radius
from bayesprof.splitting import with_detail
from bayesprof.window import Window

_SMALLEST = 0.5  # pixels, half-light radius of what can't be told from a point
_FLATTEST = 0.05  # axis ratio
_AROUND = 10  # pixels around a segment in which the noise of the sky is read off
_ENLARGED = 1.5  # times the sides of a segment's box
_SMOOTHING = 1.5  # pixels, standard deviation of the smoothing of an image without a PSF


def kernel_of(image: Image) -> np.ndarray:
    """PSF of `image` by its pixels, sum 1, or a Gaussian of standard deviation 1.5 pixels where it has none; odd sides.

    That at the middle of the image where it varies.
    """
    if image.psf is None:
        offsets = np.arange(-6, 7)
        profile = np.exp(-0.5 * (offsets / _SMOOTHING) ** 2)
        return np.outer(profile, profile) / profile.sum() ** 2
    psf, times = image.psf.cpu().numpy().astype(float), image.psf_oversampling
    # offset of each row and column from the middle, to the nearest image pixel
    y, x = (np.floor((np.arange(n) - (n - 1) / 2) / times + 0.5).astype(int) for n in psf.shape)
    half_y, half_x = (int(np.abs(offsets).max()) for offsets in (y, x))
    kernel = np.zeros((2 * half_y + 1, 2 * half_x + 1))
    np.add.at(kernel, (y[:, None] + half_y, x[None, :] + half_x), psf)
    return kernel / kernel.sum()


def catalogue_of(image: Image, segmentation: np.ndarray, background: np.ndarray, reach: float) -> Table:
    """Table of the objects of a checked `segmentation` map, a row each, by label: the columns of
    :class:`bayesprof.detections.Detections`.

    Warns of segments that lie wholly under the mask, which are left out.
    """
    from photutils.segmentation import SegmentationImage, SourceCatalog

    data, valid = image.data.cpu().numpy().astype(float), image.valid.cpu().numpy()
    assert image.sigma is not None
    sigma = image.sigma.cpu().numpy().astype(float)
    seen = np.where(valid, segmentation, 0)
    hidden = np.setdiff1d(segmentation, seen)
    if hidden.size:
        warnings.warn(
            f"detections: the segments {hidden.tolist()} lie wholly under the mask of image {image.name!r} and are "
            "left out; set them to 0 in the map, or unmask them",
            stacklevel=4,
        )
    if not seen.any():
        raise ValueError(
            f"detections: expected segments outside the mask of image {image.name!r}, every one is masked; "
            "unmask them, or give another map"
        )
    source = SourceCatalog(data - background, SegmentationImage(seen), error=sigma, mask=~valid)
    labels, boxes = np.asarray(source.labels), ndimage.find_objects(seen)
    light, error = np.asarray(source.segment_flux, float), np.asarray(source.segment_flux_err, float)
    kron, kron_error = np.asarray(source.kron_flux, float), np.asarray(source.kron_flux_err, float)
    # of a faint object beside a bright one the aperture may have less light than the segment, or none
    good = np.isfinite(kron) & np.isfinite(kron_error) & (kron > light)
    major, minor = (np.asarray(axis.value, float) for axis in (source.semimajor_axis, source.semiminor_axis))
    q = np.clip(np.nan_to_num(minor / major, nan=1.0), _FLATTEST, 1.0)
    theta = np.nan_to_num(np.remainder(np.deg2rad(np.asarray(source.orientation.value, float)), np.pi))
    size = (1 - q) / (1 + q)
    e1, e2 = size * np.cos(2 * theta), size * np.sin(2 * theta)
    area = np.asarray(source.area.value, float)
    centre = _centres(source, seen, boxes)
    half = np.where(good, np.asarray(source.flux_radius(0.5).value, float) / np.sqrt(q), np.nan)
    for i in np.flatnonzero(~np.isfinite(half)):
        box = boxes[labels[i] - 1]
        weight = np.where(seen[box] == labels[i], np.maximum((data - background)[box], 0.0), 0.0)
        y, x = np.indices(weight.shape)
        dx, dy = x + box[1].start - centre[i, 0], y + box[0].start - centre[i, 1]
        half[i] = half_light_radius(weight, dx, dy, e1[i], e2[i]) if weight.any() else np.sqrt(area[i] / np.pi)
    half = np.sqrt(np.maximum(half**2 - _psf_radius(image) ** 2 / q, _SMALLEST**2))
    noise = [_noise_around(sigma, valid, seen, label, boxes[label - 1]) for label in labels]
    columns = {
        "label": (labels.astype(int), None, "number in the segmentation map"),
        "x": (centre[:, 0], "pix", "centroid"),
        "y": (centre[:, 1], "pix", "centroid"),
        "flux": (np.where(good, kron, light), image.unit, "total: in the Kron aperture, or in the segment if more"),
        "flux_error": (np.where(good, kron_error, error), image.unit, "standard deviation from the image's sigma"),
        "r_eff": (half, "pix", "half-light radius along the major axis, that of the PSF taken off"),
        "q": (q, None, "axis ratio, of second moments in the segment"),
        "theta": (theta, "rad", "angle of the major axis from +x"),
        "e1": (e1, None, "ellipticity"),
        "e2": (e2, None, "ellipticity"),
        "area": (area.astype(int), "pix2", "unmasked pixels of the segment"),
        "snr": (light / error, None, "light of the segment over its standard deviation"),
        "sky": (background[tuple(_nearest(centre, image.shape))], image.unit, "background per pixel there"),
        "noise": (np.array(noise), image.unit, "standard deviation of a pixel of the sky around"),
    }
    table = Table(
        {name: values for name, (values, _, _) in columns.items()},
        units={name: unit for name, (_, unit, _) in columns.items() if unit},
        descriptions={name: words for name, (_, _, words) in columns.items()},
    )
    for name in ("x0", "y0", "x1", "y1"):
        table[name] = np.zeros(len(labels), dtype=int)
        table[name].description = "of the object's window"
    for row, window in zip(table, windows_of(image, seen, table, reach), strict=True):
        for name in ("x0", "y0", "x1", "y1"):
            row[name] = getattr(window, name)
    return table


def _centres(source: Any, segments: np.ndarray, boxes: list[Any]) -> np.ndarray:
    """(x, y) of each object of a photutils catalogue: its windowed centroid, which isn't drawn to a neighbour's light;
    where that has left the segment, the centroid of the segment; and the middle of its box where it has no light.
    """
    centre = np.column_stack([np.asarray(source.x_centroid_win, float), np.asarray(source.y_centroid_win, float)])
    plain = np.column_stack([np.asarray(source.x_centroid, float), np.asarray(source.y_centroid, float)])
    rows, columns = _nearest(np.nan_to_num(centre), segments.shape)
    for i, label in enumerate(source.labels):
        if not np.isfinite(centre[i]).all() or segments[rows[i], columns[i]] != label:
            middle = [0.5 * (side.start + side.stop - 1) for side in reversed(boxes[label - 1])]
            centre[i] = plain[i] if np.isfinite(plain[i]).all() else middle
    return centre


def _noise_around(
    sigma: np.ndarray, valid: np.ndarray, segments: np.ndarray, label: int, box: tuple[slice, slice]
) -> float:
    """Median sigma of the sky around a segment; the smallest one in the segment where there is no sky."""
    rows, columns = (slice(max(side.start - _AROUND, 0), side.stop + _AROUND) for side in box)
    sky = sigma[rows, columns][valid[rows, columns] & (segments[rows, columns] == 0)]
    return float(np.median(sky) if sky.size else sigma[box][segments[box] == label].min())


def windows_of(image: Image, segmentation: np.ndarray, table: Table, reach: float) -> list[Window]:
    """Window of each object of a catalogue: out to where an exponential profile of its flux, size and shape falls
    below `reach` times the noise, and where a point of its flux does through the PSF; and its segment, enlarged by a
    half. Large ones have the detail that a somewhat flatter galaxy needs.
    """
    kernel, boxes = kernel_of(image), ndimage.find_objects(segmentation)
    y, x = np.indices(kernel.shape)
    distance = np.hypot(y - (kernel.shape[0] - 1) / 2, x - (kernel.shape[1] - 1) / 2)
    ny, nx = image.shape
    windows = []
    for row in table:
        faintest, flux = reach * row["noise"], max(row["flux"], row["flux_error"])
        scale = row["r_eff"] / R_EFF_OVER_SCALE
        centre = flux / (2 * np.pi * row["q"] * scale**2)
        along = scale * np.log(max(centre / faintest, 1.0))
        cos, sin = np.cos(row["theta"]), np.sin(row["theta"])
        far = distance[flux * kernel > faintest].max(initial=1.0)
        light = Window.around(
            row["x"],
            row["y"],
            (max(along * np.hypot(cos, row["q"] * sin), far), max(along * np.hypot(sin, row["q"] * cos), far)),
        )
        rows, columns = boxes[row["label"] - 1]
        more_y, more_x = (int(np.ceil(0.5 * (_ENLARGED - 1) * (side.stop - side.start))) for side in (rows, columns))
        window = Window(
            min(max(light.x0, 0), columns.start, max(columns.start - more_x, 0)),
            min(max(light.y0, 0), rows.start, max(rows.start - more_y, 0)),
            max(min(light.x1, nx), min(columns.stop + more_x, nx)),
            max(min(light.y1, ny), min(rows.stop + more_y, ny)),
        )
        windows.append(with_detail(window, float(row["q"])))
    return windows


def _psf_radius(image: Image) -> float:
    """That of the PSF, pixels; 0 where the image has none."""
    if image.psf is None:
        return 0.0
    psf: Any = image.psf.cpu().numpy().astype(float)
    y, x = np.indices(psf.shape)
    distance = np.hypot(y - (psf.shape[0] - 1) / 2, x - (psf.shape[1] - 1) / 2).ravel()
    order = np.argsort(distance)
    radius: float = distance[order][np.searchsorted(np.cumsum(psf.ravel()[order]), 0.5 * psf.sum())]
    return radius / image.psf_oversampling


def _nearest(centre: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Row and column of the pixel nearest to each (x, y)."""
    return np.clip(np.rint(centre[:, ::-1]).astype(int), 0, np.array(shape) - 1).T
