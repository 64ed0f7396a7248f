"""What a catalogue says of the components of a scene, with uncertainties: magnitudes, fractions, sizes, positions.

The quantities of a component are functions of the parameters of its scene: of its light (total flux and centre) and of
the parameters that are called `r_eff` and `q`. From draws they are computed at each draw; from a fit they come at its
maximum, with the covariance carried over linearly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro
import torch
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table
from pyro import poutine
from scipy.sparse import csr_array
from torch import Tensor

from bayesprof.estimate import is_sky, lights_at, point_estimate
from bayesprof.group import within
from bayesprof.image import Image
from bayesprof.light import Lattice, Light
from bayesprof.row_slopes import errors_of, rows_times, slopes_of
from bayesprof.scene import Scene
from bayesprof.values import site_values

_MAGNITUDE = 2.5 / math.log(10)
_TOGETHER = 512  # draws computed at once


def photometry(scene: Scene, result: Any, *, image: str | None = None) -> Table:
    """Table of the components of a scene, a row each, with the uncertainties of a posterior or of a fit.

    A group, and a component that returns its parts by name, has a row for all of it and one for each part. Skies have
    none.

    Parameters
    ----------
    scene : Scene
    result : arviz.InferenceData or Fit
        Draws, or a maximum with its covariance.
    image : str, optional
        Name of the image whose light it is, in its unit and with its zero point, of a scene of several; the first where
        left out. Positions and sizes are in pixels of the first, whatever the image.

    Returns
    -------
    astropy.table.Table
        With the columns below; NaN where a component has no such quantity, and no column where the image has no zero
        point, pixel scale or WCS. Write it with :func:`bayesprof.storage.write_table`.

    Raises
    ------
    TypeError
        For a result without uncertainties.
    ValueError
        For a scene of skies alone, for a result without a parameter of the scene, for an image that it doesn't have,
        and for a size of a function of your own that isn't one number.

    Notes
    -----
    ====================  =============================================================================================
    name                  of the component
    flux                  total light, image units
    fraction              flux over that of the component or group it is a part of, the outermost (B/T of a bulge)
    x, y                  centre, pixels: of the first part that has one
    r_eff                 half-light radius along the major axis, pixels: the parameter of that name, or what the
                          component recorded with ``pyro.deterministic("r_eff", ...)``
    mean_brightness       mean surface brightness inside the ellipse of r_eff, image units per pixel: flux / (2 pi q
                          r_eff^2), with the parameter `q`, or 1 for light that is circular
    magnitude             zeropoint - 2.5 log10 flux
    mean_mu               of mean_brightness, mag/arcsec^2
    r_eff_arcsec          arcsec
    ra, dec               degrees, ICRS; their errors in arcsec, that of ra along the parallel: times cos dec
    ====================  =============================================================================================

    Of draws, a column is the median, and beside it stand ``<name>_error``, the standard deviation, and ``<name>_low``
    and ``<name>_high``, the quantiles 0.16 and 0.84. Of a fit it is the value at the maximum, with ``<name>_error``. A
    flux below zero has no magnitude; draws with one are left out of it.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> from bayesprof import inference, models
    >>> y, x = np.mgrid[:30, :40]
    >>> data = 50 * np.exp(-((x - 20) ** 2 + (y - 14) ** 2) / 18.0)
    >>> image = bp.Image(data, sigma=1.0, zeropoint=25.0, pixel_scale=0.2)
    >>> scene = bp.Scene(image, sky=models.flat_sky(level=0.0), star=models.gaussian())
    >>> table = bp.photometry(scene, inference.lm(scene))
    >>> print(f"{table['magnitude'][0]:.2f} +- {table['magnitude_error'][0]:.2f}")
    16.37 +- 0.01
    """
    if not hasattr(result, "posterior") and not hasattr(result, "covariance"):
        raise TypeError(
            f"photometry: expected InferenceData or a Fit, which have uncertainties, got {type(result).__name__}; pass "
            "what inference.lm or inference.nuts returned"
        )
    seen = scene.image_named(image, "photometry")
    measured = _Measured(scene, point_estimate(scene, site_values(result)), seen)
    if not measured.rows:
        raise ValueError("photometry: expected a component that isn't a sky, the scene has none")
    columns = _of_draws(measured, result) if hasattr(result, "posterior") else _of_fit(measured, result)
    table = Table({"name": list(measured.rows)})
    units, meanings = _units(seen), dict(_MEANINGS)
    for name, column in columns.items():
        quantity = name.removesuffix("_error").removesuffix("_low").removesuffix("_high")
        table[name] = column
        table[name].unit = "arcsec" if name in ("ra_error", "dec_error") else units[quantity]
        suffix = name.removeprefix(quantity)
        table[name].description = meanings[quantity] if not suffix else f"{_SUFFIXES[suffix]} of {quantity}"
    table["name"].description = "component"
    table.meta.update({"image": seen.name, "from": "draws" if hasattr(result, "posterior") else "fit"})
    known = {"band": seen.band, "zeropoint": seen.zeropoint, "pixel_scale": scene.image.pixel_scale}
    table.meta.update({key: value for key, value in known.items() if value is not None})
    verdict = getattr(result, "attrs", {}).get("verdict") or getattr(result, "message", None)
    if verdict:
        table.meta["verdict"] = verdict
    return table


_MEANINGS = {
    "flux": "total light",
    "fraction": "flux over that of the group",
    "x": "centre",
    "y": "centre",
    "r_eff": "half-light radius along the major axis",
    "mean_brightness": "mean surface brightness inside r_eff",
    "magnitude": "zeropoint - 2.5 log10 flux",
    "mean_mu": "mean surface brightness inside r_eff",
    "r_eff_arcsec": "half-light radius along the major axis",
    "ra": "right ascension, ICRS",
    "dec": "declination, ICRS",
}
_SUFFIXES = {"_error": "standard deviation", "_low": "quantile 0.16", "_high": "quantile 0.84"}


def _units(image: Image) -> dict[str, Any]:
    flux = None if image.unit is None else u.Unit(image.unit, parse_strict="silent")
    return {
        "flux": flux,
        "fraction": None,
        "x": u.pix,
        "y": u.pix,
        "r_eff": u.pix,
        "mean_brightness": None if flux is None else flux / u.pix**2,
        "magnitude": u.mag,
        "mean_mu": u.mag / u.arcsec**2,
        "r_eff_arcsec": u.arcsec,
        "ra": u.deg,
        "dec": u.deg,
    }


class _Measured:
    """The quantities of the rows of a scene, of their light in the image `seen`, as functions of its parameters."""

    def __init__(self, scene: Scene, values: Mapping[str, Tensor], seen: Image) -> None:
        self.scene, self.values, self.seen = scene, values, seen
        lights = lights_at(scene, values, seen.name)
        self.names = [name for name, light in lights.items() if not is_sky(light)]
        self.rows: list[str] = []
        for name in self.names:
            parts = name.split(".")
            wholes = [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
            if self._member(name):  # of many sources, which are no one galaxy together
                wholes = [name]
            self.rows += [whole for whole in wholes if whole not in self.rows]

    def __call__(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """flux, fraction, x, y, r_eff and mean_brightness, shape (rows,), at values of the latent sites."""
        given = poutine.condition(data=dict(values))
        with pyro.validation_enabled(False), poutine.block(), poutine.trace() as tracer, given:
            drawn = self.scene.lights()
        several = len(self.scene.images) > 1
        lights = {name: drawn[name][self.seen.name] if several else drawn[name] for name in self.names}
        fluxes = {name: _flux(light) for name, light in lights.items()}
        nan = torch.full((), math.nan, dtype=self.scene.image.dtype, device=self.scene.image.device)
        quantities: dict[str, list[Tensor]] = {name: [] for name in _BASIC}
        for row in self.rows:
            members = [name for name in self.names if within(name, row)]
            top = row if self._member(row) else row.partition(".")[0]
            whole = [name for name in self.names if within(name, top)]
            flux, of_all = (sum((fluxes[name] for name in names), torch.zeros_like(nan)) for names in (members, whole))
            x, y = _centre(lights[members[0]], nan)
            r_eff = self._parameter(tracer.trace, row, "r_eff", nan)
            q = self._parameter(tracer.trace, row, "q", torch.ones_like(nan))
            brightness = flux / (2 * math.pi * q * r_eff**2)
            fraction = torch.ones_like(nan) if members == whole else flux / of_all
            for name, value in zip(_BASIC, (flux, fraction, x, y, r_eff, brightness), strict=True):
                quantities[name].append(value)
        return {name: torch.stack(entries) for name, entries in quantities.items()}

    def _parameter(self, trace: Any, row: str, name: str, otherwise: Tensor) -> Tensor:
        """A parameter of the component `row`, or of the member of one: drawn or recorded, held by
        :meth:`Scene.freeze`, or given as a number.
        """
        owner, place = self._member(row) or (row, None)
        site = f"{owner}.{name}"
        component: Any = self.scene.components.get(owner)
        if name in getattr(component, "varied", {}):
            drawn = {one: self._value(trace, f"{owner}.{one}", source) for one, source in component.sources.items()}
            found: Tensor = component.in_image(self.seen.name, name, component.varied[name].values(drawn)).to(otherwise)
            return found if place is None else found[place]
        value = self._value(trace, site, None)
        if value is None:
            return otherwise
        value = value if place is None else value[place]
        if value.ndim and name in getattr(getattr(component, "component", None), "derived", {}):  # of each image
            value = value[..., component.images.seen_names.index(self.seen.name)]
        if value.ndim:
            raise ValueError(
                f"photometry: expected {site!r} to be one number, got shape {tuple(value.shape)}; record what varies "
                "from image to image under another name"
            )
        return value.to(otherwise)

    def _member(self, row: str) -> tuple[Any, int] | None:
        """The component that `row` is a member of, and its place there."""
        owner, _, member = row.rpartition(".")
        labels = self._labels(owner)
        return (owner, labels.index(member)) if member in labels else None

    def member_rows(self, site: str) -> list[int]:
        """The row of each member of the component that a site is of, along the site's first axis; none where it isn't
        one of members, or they aren't seen.
        """
        owner = site.rpartition(".")[0]
        members = [f"{owner}.{label}" for label in self._labels(owner)]
        return [self.rows.index(member) for member in members] if set(members) <= set(self.rows) else []

    def _labels(self, owner: str) -> tuple[str, ...]:
        return getattr(getattr(self.scene.components.get(owner), "axis", None), "labels", ())

    def _value(self, trace: Any, site: str, source: Any) -> Any:
        value = trace.nodes[site]["value"] if site in trace.nodes else self.scene.recipe.held.get(site, source)
        like = self.scene.image
        return None if value is None else torch.as_tensor(value, dtype=like.dtype, device=like.device)


_BASIC = ("flux", "fraction", "x", "y", "r_eff", "mean_brightness")


def _flux(light: Light) -> Tensor:
    """Total light: the sum over its parts, NaN where one has no total of its own."""
    total: Any = 0.0
    for part in light.parts:
        if isinstance(part, Lattice):
            total = total + part.step**2 * part.values.sum((-2, -1))
        else:
            total = total + getattr(part, "flux", math.nan)
    return torch.as_tensor(total)


def _centre(light: Light, nan: Tensor) -> tuple[Tensor, Tensor]:
    """Position of the first part that has one."""
    part: Any = next((part for part in light.parts if hasattr(part, "x") and hasattr(part, "y")), None)
    return (nan, nan) if part is None else (torch.as_tensor(part.x).to(nan), torch.as_tensor(part.y).to(nan))


def _with_calibration(measured: _Measured, basic: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`basic` quantities, and those that need a zero point or a pixel scale, of any shape."""
    found = dict(basic)
    zeropoint, pixel_scale = measured.seen.zeropoint, measured.scene.image.pixel_scale
    with np.errstate(divide="ignore", invalid="ignore"):
        if zeropoint is not None:
            found["magnitude"] = zeropoint - 2.5 * np.log10(np.where(basic["flux"] > 0, basic["flux"], np.nan))
        if zeropoint is not None and pixel_scale is not None:
            light = basic["mean_brightness"] / pixel_scale**2
            found["mean_mu"] = zeropoint - 2.5 * np.log10(np.where(light > 0, light, np.nan))
    if pixel_scale is not None:
        found["r_eff_arcsec"] = basic["r_eff"] * pixel_scale
    return found


def _of_draws(measured: _Measured, result: Any) -> dict[str, np.ndarray]:
    """Median, standard deviation and quantiles of the quantities over all draws."""
    image = measured.scene.image
    sites = result.posterior
    draws = {}
    for site, value in measured.values.items():
        flat = torch.as_tensor(np.ascontiguousarray(sites[site].values)).reshape(-1, *value.shape)
        draws[site] = flat.to(dtype=image.dtype, device=image.device)
    count = next((len(flat) for flat in draws.values()), 1)
    parts = []
    for start in range(0, count, _TOGETHER):
        some = {site: flat[start : start + _TOGETHER] for site, flat in draws.items()}
        parts.append(_batched(measured, some) if some else {k: v[None] for k, v in measured({}).items()})
    basic = {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in _BASIC}
    columns: dict[str, np.ndarray] = {}
    for name, values in _with_calibration(measured, basic).items():
        columns |= _summarised(name, values)
    if image.wcs is not None:
        columns |= _sky_of_draws(image, basic["x"], basic["y"])
    return columns


def _batched(measured: _Measured, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        found: dict[str, Tensor] = torch.func.vmap(measured)(dict(values))
    return found


def _summarised(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """Summary of `values`, (draws, rows), without NaN."""
    rows = [column[np.isfinite(column)] for column in values.T]
    summary = [
        (*np.quantile(row, [0.5, 0.16, 0.84]), row.std(ddof=1) if len(row) > 1 else math.nan)
        if len(row)
        else (math.nan,) * 4
        for row in rows
    ]
    median, low, high, error = np.array(summary).T
    return {name: median, f"{name}_error": error, f"{name}_low": low, f"{name}_high": high}


def _sky_of_draws(image: Image, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Summary of ra and dec: of offsets from the middle of the draws, so that ra may pass 360 degrees."""
    middle = _sky(image, np.nanmedian(x, axis=0), np.nanmedian(y, axis=0))
    sky = _sky(image, x, y)
    along = (sky.ra - middle.ra).wrap_at(180 * u.deg).deg
    up = (sky.dec - middle.dec).deg
    cos = np.cos(middle.dec.rad)
    columns: dict[str, np.ndarray] = {}
    for name, offset, zero, stretch in (("ra", along, middle.ra.deg, cos), ("dec", up, middle.dec.deg, 1.0)):
        found = _summarised(name, offset)
        found[f"{name}_error"] = found[f"{name}_error"] * 3600 * stretch
        columns |= {key: value if key.endswith("error") else zero + value for key, value in found.items()}
    return columns


def _sky(image: Image, x: np.ndarray, y: np.ndarray) -> SkyCoord:
    assert image.wcs is not None
    return SkyCoord(image.wcs.pixel_to_world(x, y)).icrs


def _of_fit(measured: _Measured, fit: Any) -> dict[str, np.ndarray]:
    """The quantities at the maximum, and their standard deviations from its covariance."""
    image = measured.scene.image
    labels = [label.partition("[")[0] for label in fit.labels]
    sites = list(dict.fromkeys(site for site in labels if site in measured.values))
    rows = [i for site in sites for i, label in enumerate(labels) if label == site]
    covariance = fit.covariance[rows][:, rows]
    basic = {name: value.cpu().numpy() for name, value in measured(measured.values).items()}
    own = {site: measured.values[site] for site in sites}
    rows_of = {site: measured.member_rows(site) for site in sites}
    slopes = slopes_of(lambda free: measured({**measured.values, **free}), own, rows_of, _BASIC, len(measured.rows))
    found = _with_calibration(measured, basic)
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes |= {
            name: rows_times(-_MAGNITUDE / basic[of], slopes[of])
            for name, of in (("magnitude", "flux"), ("mean_mu", "mean_brightness"))
            if name in found
        }
    if "r_eff_arcsec" in found:
        slopes["r_eff_arcsec"] = slopes["r_eff"] * image.pixel_scale
    columns: dict[str, np.ndarray] = {}
    for name, value in found.items():
        columns |= {name: value, f"{name}_error": errors_of(slopes[name], covariance)}
    if image.wcs is not None:
        columns |= _sky_of_fit(image, basic, slopes, covariance)
    return columns


def _sky_of_fit(
    image: Image, basic: Mapping[str, np.ndarray], slopes: Mapping[str, csr_array], covariance: Any
) -> dict[str, np.ndarray]:
    """ra and dec, and their errors by differences of the WCS over half a pixel to both sides."""
    x, y = basic["x"], basic["y"]
    here = _sky(image, x, y)

    def offsets(dx: float, dy: float) -> np.ndarray:
        there, opposite = _sky(image, x + dx, y + dy), _sky(image, x - dx, y - dy)
        along = (there.ra - opposite.ra).wrap_at(180 * u.deg).arcsec * np.cos(here.dec.rad)
        return np.stack([along, (there.dec - opposite.dec).arcsec])

    by_x, by_y = offsets(0.5, 0.0), offsets(0.0, 0.5)
    columns: dict[str, np.ndarray] = {}
    for i, (name, value) in enumerate((("ra", here.ra.deg), ("dec", here.dec.deg))):
        slope = rows_times(by_x[i], slopes["x"]) + rows_times(by_y[i], slopes["y"])
        columns |= {name: value, f"{name}_error": errors_of(slope, covariance)}
    return columns
