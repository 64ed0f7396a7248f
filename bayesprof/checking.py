"""Checks of the numbers and pixel planes that enter an `Image`.

Every function takes `owner`, the words that open its error messages (``"Image 'r'"``), and either returns plain
float64 / bool NumPy arrays or raises a ValueError (TypeError for a wrong type) that says what was expected, what
arrived and what to do. Conventions: see `bayesprof.grid`.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from astropy import units as u
from astropy.units.function import FunctionUnitBase
from astropy.utils.masked import Masked

MIN_SIDE = 3  # a source has no measurable shape on fewer pixels


def check_name(name: Any) -> str:
    """Return `name` if it can stand in site names and file groups: text without "/" and "."."""
    if not isinstance(name, str):
        raise TypeError(f"Image: name must be a str, got {type(name).__name__}; pass for example name='r'.")
    if not name.strip() or "/" in name or "." in name:
        raise ValueError(
            f"Image: name must be non-empty and free of '/' and '.' (both separate names in saved results), got "
            f"{name!r}; use for example {name.strip().replace('/', '_').replace('.', '_') or 'image'!r}."
        )
    return name


def check_bool(value: Any, what: str, owner: str) -> bool:
    """Return `value` as a bool; numbers are refused."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{owner}: {what} must be True or False, got {value!r}; pass a bool.")
    return bool(value)


def check_number(value: Any, what: str, owner: str, unit: u.UnitBase | None = None) -> float:
    """Return a single finite number as a float, in `unit` when it is a Quantity."""
    refused = isinstance(value, bool | np.bool_ | str | bytes | complex | list | tuple)
    if refused or getattr(value, "ndim", 0) != 0 or value is np.ma.masked:
        raise TypeError(f"{owner}: {what} must be a single number, got {_describe(value)}; pass a float.")
    if isinstance(value, u.Quantity):
        value = value.value * unit_factor(value.unit, unit, what, owner)
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError) as err:
        raise TypeError(f"{owner}: {what} must be a single number, got {_describe(value)}; pass a float.") from err
    if not np.isfinite(number):
        raise ValueError(f"{owner}: {what} must be finite, got {number}; pass the right value or leave it out.")
    return number


def as_array(value: Any, what: str, owner: str, kinds: str = "iuf") -> tuple[np.ndarray, np.ndarray | None, Any]:
    """Return the values, mask (or None) and unit (or None) of anything array-like.

    Takes lists, NumPy, masked and big-endian arrays, torch tensors, Quantities; `kinds` are the NumPy dtype kinds
    allowed.
    """
    if isinstance(value, str | bytes | os.PathLike):
        raise TypeError(f"{owner}: {what} must be an array, got the path {value!r}; use Image.from_fits to read files.")
    mask = unit = None
    if isinstance(value, Masked):
        mask, value = np.array(value.mask), value.unmasked
    if isinstance(value, u.Quantity):
        unit, value = value.unit, value.value
    if isinstance(value, np.ma.MaskedArray):
        mask, value = np.ma.getmaskarray(value), value.data
    try:
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as err:
        raise TypeError(
            f"{owner}: {what} must be a rectangular array of real numbers, got {_describe(value)} that NumPy cannot "
            f"read ({err}); pass a NumPy array."
        ) from err
    if array.dtype.kind not in kinds:
        raise TypeError(
            f"{owner}: {what} must hold {'bools or ' if 'b' in kinds else ''}real numbers, got "
            f"{_describe(value)} of dtype {array.dtype}; convert it to a float array first."
        )
    return array, mask, unit


def read_data(value: Any, owner: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, Any]:
    """Return the data as they came (a copy), as float64, their mask or None, and their unit or None."""
    raw, mask, unit = as_array(value, "data", owner)
    if raw.ndim != 2:
        remedy = {1: "reshape it to (ny, nx)", 3: "pick one plane, data[k], and make one Image per band"}
        raise ValueError(
            f"{owner}: data must be 2-D [y, x], got {raw.ndim}-D with shape {raw.shape}; "
            f"{remedy.get(raw.ndim, 'pass one 2-D image')}."
        )
    if min(raw.shape) < MIN_SIDE:
        raise ValueError(
            f"{owner}: data must have at least {MIN_SIDE}x{MIN_SIDE} pixels, got shape {raw.shape}; enlarge it."
        )
    if isinstance(unit, FunctionUnitBase):
        raise ValueError(
            f"{owner}: data must be in a linear unit, got the logarithmic unit {unit}; convert with data.physical."
        )
    return raw.copy(), raw.astype(np.float64), mask, unit


def check_shape(shape: tuple[int, ...], expected: tuple[int, ...], what: str, owner: str) -> None:
    """Raise unless `shape` equals that of the data, saying which axis differs."""
    if shape == expected:
        return
    if len(shape) != len(expected):
        detail, remedy = f"it is {len(shape)}-D", f"pass one {len(expected)}-D array"
    elif shape == expected[::-1]:
        detail, remedy = "it looks transposed", f"arrays are [y, x]: pass {what}.T"
    else:
        pairs = zip("yx", shape, expected, strict=False)
        detail = ", ".join(f"{axis}: {n} instead of {m}" for axis, n, m in pairs if n != m)
        remedy = "cut it to the same pixels as the data"
    raise ValueError(f"{owner}: {what} must have the shape of the data {expected}, got {shape} ({detail}); {remedy}.")


def read_mask(value: Any, shape: tuple[int, ...], what: str, owner: str) -> np.ndarray:
    """Return a bool array, True (or non-zero) where a pixel is ignored."""
    array, hidden, unit = as_array(value, what, owner, kinds="biuf")
    if unit is not None and unit != u.dimensionless_unscaled:
        raise ValueError(f"{owner}: {what} must have no unit, got {unit}; pass a bool array.")
    check_shape(array.shape, shape, what, owner)
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise ValueError(
            f"{owner}: {what} must be bool or 0 / non-zero, got NaN in {describe_bad(np.isnan(array), array)}; "
            "decide for these pixels, for example mask=np.isnan(mask) | (mask > 0)."
        )
    return array != 0 if hidden is None else (array != 0) | hidden


def mask_or_refuse(
    bad: np.ndarray, values: np.ndarray, what: str, expected: str, mask: np.ndarray, mask_invalid: bool, owner: str
) -> np.ndarray:
    """Return `mask` with the `bad` pixels added, or raise for those outside it unless `mask_invalid`."""
    bad = bad & ~mask
    if bad.any() and not mask_invalid:
        raise ValueError(
            f"{owner}: {what} must be {expected} in every unmasked pixel, got {describe_bad(bad, values)}; "
            "mark them in mask= (True = ignored) or pass mask_invalid=True."
        )
    return mask | bad


def to_tensor(array: np.ndarray, what: str, dtype: torch.dtype, device: torch.device, owner: str) -> torch.Tensor:
    """Return a tensor copy, refusing values that `dtype` cannot hold (overflow, or everything lost to underflow)."""
    tensor = torch.tensor(array, dtype=dtype, device=device)
    lost = ~torch.isfinite(tensor).all() if what != "sigma" else ~(torch.isfinite(tensor) & (tensor > 0)).all()
    if bool(lost):
        raise ValueError(
            f"{owner}: {what} has values that {dtype} cannot hold (largest {np.abs(array).max():.3g}); "
            "use dtype=torch.float64, or rescale the image."
        )
    return tensor


def check_dtype_device(dtype: Any, device: Any, owner: str) -> tuple[torch.dtype, torch.device]:
    """Return a float dtype and a device that exists here."""
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{owner}: dtype must be torch.float32 or torch.float64, got {dtype!r}; pass one of them.")
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as err:
        raise ValueError(f"{owner}: device {device!r} cannot be used here ({err}); use device='cpu'.") from err
    return dtype, found


def unit_factor(unit: Any, target: Any, what: str, owner: str) -> float:
    """Factor that converts `unit` to `target` (None: no unit)."""
    wanted = u.dimensionless_unscaled if target is None else target
    try:
        return float(unit.to(wanted))
    except (u.UnitConversionError, TypeError) as err:
        expected = "no unit, as the data" if target is None else f"a unit that converts to '{target}'"
        raise ValueError(
            f"{owner}: {what} must have {expected}, got unit '{unit}'; convert it, pass plain numbers, or give the "
            "data as a Quantity."
        ) from err


def describe_bad(bad: np.ndarray, values: np.ndarray) -> str:
    """Count and first pixel of `bad`, for a message."""
    y, x = np.argwhere(bad)[0]
    return f"{values[y, x]:.6g} at the first of {int(bad.sum())} pixels, [y, x] = [{y}, {x}]"


def _describe(value: Any) -> str:
    if isinstance(value, bool | int | float | str | None):
        return repr(value)
    shape = getattr(value, "shape", None)
    return type(value).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")
