"""The noise of an `Image`: sigma of every pixel from whichever description is given.

`read_noise` is the way in; the formulas are `sigma_from_plane` and `sigma_from_gain`. Messages open with `owner`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy import units as u

from bayesprof.checking import as_array, check_number, check_shape, describe_bad, mask_or_refuse, unit_factor

NOISE_KINDS = ("sigma", "variance", "ivar", "gain")
POWERS = {"sigma": 1, "variance": 2, "ivar": -2}  # unit of each, as a power of the unit of the data


def read_noise(
    data: np.ndarray, mask: np.ndarray, unit: Any, given: dict[str, Any], mask_invalid: bool, owner: str
) -> tuple[np.ndarray | None, np.ndarray, dict[str, Any]]:
    """Return sigma [ny, nx] (1 in masked pixels) or None, the mask with invalid noise added, and the noise settings."""
    kind = check_noise_kind(given, owner)
    sky = check_number(given["subtracted_sky"], "subtracted_sky", owner, unit)
    settings: dict[str, Any] = {"noise_kind": kind, "gain": None, "read_noise": None, "subtracted_sky": sky}
    if kind is None:
        return None, mask, settings
    if kind == "gain":
        gain, electrons = read_gain(given["gain"], given["read_noise"], unit, owner)
        sigma = sigma_from_gain(data, gain, electrons, sky, mask, owner)
        return sigma, mask, settings | {"gain": gain, "read_noise": electrons}
    plane, hidden = read_noise_plane(kind, given[kind], data.shape, unit, owner)
    if hidden is not None:
        mask = mask | hidden
    good = np.isfinite(plane) & (plane > 0)
    mask = mask_or_refuse(~good, plane, kind, "finite and positive", mask, mask_invalid, owner)
    return sigma_from_plane(kind, plane, ~mask), mask, settings


def check_noise_kind(given: dict[str, Any], owner: str) -> str | None:
    """Return which one of sigma, variance, ivar, gain is given, or None."""
    kinds = [kind for kind in NOISE_KINDS if given[kind] is not None]
    if len(kinds) > 1:
        raise ValueError(
            f"{owner}: expected one of sigma, variance, ivar, gain, got {' and '.join(kinds)}; remove all but one."
        )
    if given["read_noise"] is not None and kinds != ["gain"]:
        raise ValueError(
            f"{owner}: read_noise needs gain (electrons per data unit), got {kinds[0] if kinds else 'no gain'}; "
            "pass gain= as well, or remove read_noise."
        )
    return kinds[0] if kinds else None


def read_noise_plane(
    kind: str, value: Any, shape: tuple[int, ...], unit: Any, owner: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return sigma, variance or ivar as float64 [ny, nx] in the unit of the data, and its own mask or None."""
    array, hidden, own = as_array(value, kind, owner)
    if array.ndim != 0:
        check_shape(array.shape, shape, kind, owner)
    plane = np.broadcast_to(array, shape).astype(np.float64)
    if own is not None:
        plane = plane * unit_factor(own, _power(unit, POWERS[kind], kind, owner), kind, owner)
    return plane, hidden


def read_gain(gain: Any, read_noise: Any, unit: Any, owner: str) -> tuple[float, float]:
    """Return gain (electrons per data unit) and read noise (electrons, 0 when not given)."""
    per_electron = None
    if isinstance(gain, u.Quantity) and unit is not None:
        per_electron = u.electron * _power(unit, -1, "gain", owner)
    gain = check_number(gain, "gain", owner, per_electron)
    if gain <= 0:
        raise ValueError(f"{owner}: gain must be positive (electrons per data unit), got {gain}; check the header.")
    electrons = 0.0 if read_noise is None else check_number(read_noise, "read_noise", owner, u.electron)
    if electrons < 0:
        raise ValueError(f"{owner}: read_noise must not be negative (electrons), got {electrons}; check the header.")
    return gain, electrons


def sigma_from_plane(kind: str, values: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Return sigma from sigma, variance or ivar; 1 outside `good`."""
    safe = np.where(good, values, 1.0)
    if kind == "sigma":
        return safe
    return np.sqrt(safe) if kind == "variance" else 1.0 / np.sqrt(safe)


def sigma_from_gain(
    data: np.ndarray, gain: float, read_noise: float, subtracted_sky: float, mask: np.ndarray, owner: str
) -> np.ndarray:
    """Return sigma of photon and read noise in data units; 1 in masked pixels.

    variance = max(data + subtracted_sky, 0) / gain + (read_noise / gain)^2, gain in electrons per data unit.
    """
    photons = np.maximum(np.where(mask, 0.0, data) + subtracted_sky, 0.0) / gain
    variance = photons + (read_noise / gain) ** 2
    bad = (variance <= 0) & ~mask
    if bad.any():
        # Not open to mask_invalid: dropping the pixels that scatter low would bias every flux upward.
        raise ValueError(
            f"{owner}: gain={gain} gives zero variance (data + subtracted_sky <= 0 and no read noise) where data is "
            f"{describe_bad(bad, data)}; give read_noise=, subtracted_sky=, or a sigma= image instead."
        )
    return np.sqrt(np.where(mask, 1.0, variance))


def _power(unit: Any, power: int, what: str, owner: str) -> Any:
    """`unit` to a power; None stays None."""
    try:
        return None if unit is None else unit**power
    except ValueError as err:  # a name from a FITS header that astropy does not know
        raise ValueError(
            f"{owner}: {what} has a unit but that of the data, '{unit}', is unknown to astropy; pass plain numbers."
        ) from err
