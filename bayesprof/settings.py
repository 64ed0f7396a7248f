"""The settings of one fit, and how they are read from a TOML file, checked and written back.

.. code-block:: toml

    [image]                      # the arguments of Image.from_fits, and cutout = [x, y, size]
    data = "field.fits[SCI]"     # paths are relative to this file
    sigma = "sigma.fits"

    [components.galaxy]
    kind = "sersic"              # of bayesprof.models, or "package.module:function" for one's own
    n = 4.0                      # held
    r_eff = {distribution = "LogNormal", loc = 1.6, scale = 0.5}    # a prior: any distribution of Pyro

    [components.sky]
    kind = "flat_sky"

    [fit]
    method = "nuts"              # or another of METHODS
    seed = 0

Further keys: `FIT_KEYS`, and at the top level ``out`` (the folder of results), ``overwrite`` and ``modules`` (the
folder where the modules of one's own components are; the file's own when left out). :mod:`bayesprof.building` makes
image and scene of them.
"""

from __future__ import annotations

import difflib
import inspect
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

import bayesprof
from bayesprof import inference

FILE_KEYS = ("data", "sigma", "variance", "ivar", "mask", "psf")
"""Keys of [image] that name files."""

_NOISE_KEYS = ("sigma", "variance", "ivar", "gain")
IMAGE_KEYS: dict[str, tuple[type, ...]] = {
    "data": (str,),
    "sigma": (str, float),
    "variance": (str, float),
    "ivar": (str, float),
    "mask": (str,),
    "psf": (str,),
    "gain": (float,),
    "read_noise": (float,),
    "subtracted_sky": (float,),
    "psf_oversampling": (int,),
    "psf_contains_pixel": (bool,),
    "zeropoint": (float,),
    "pixel_scale": (float,),
    "band": (str,),
    "name": (str,),
    "mask_invalid": (bool,),
    "use_header": (bool,),
    "cutout": (list,),
}
FIT_KEYS: dict[str, tuple[type, ...]] = {
    "method": (str,),
    "likelihood": (str,),
    "seed": (int,),
    "starts": (int, str),
    "draws": (int,),
    "warmup": (int,),
    "chains": (int,),
    "threads": (int,),
}
"""Keys of [fit] and their types. `starts`: of the fit that comes first, a number or "auto"; `threads`: of torch, which
may change the last digits of sums, and with them the draws."""

_TOP_KEYS: dict[str, tuple[type, ...]] = {
    "image": (dict,),
    "components": (dict,),
    "fit": (dict,),
    "out": (str,),
    "overwrite": (bool,),
    "modules": (str,),
    "version": (str,),  # of bayesprof, in files that it wrote
}
METHODS = ("lm", "sample", "laplace", "rto", "split_hmc", "nuts", "hmc", "mala", "ensemble", "svi")
_LENGTHS = ("draws", "warmup", "chains")


@dataclass(frozen=True)
class Settings:
    """Checked settings, their paths absolute: `image`, `components` and `fit` as in the file, `modules`: a folder.

    `fit` has every key that the method takes, with its default where none was given, but for `warmup`.
    """

    image: Mapping[str, Any]
    components: Mapping[str, Mapping[str, Any]]
    fit: Mapping[str, Any]
    modules: Path


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The tables of a settings file, its paths absolute, its contents not checked yet.

    Raises
    ------
    FileNotFoundError, ValueError
        For a file that isn't there or isn't TOML, and for an unknown key at its top level.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"settings file '{path}' doesn't exist; check the path")
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"settings file '{path}' isn't valid TOML: {error}; correct it there") from error
    _check_keys(f"settings file '{path}'", tables, _TOP_KEYS)
    return with_paths({"modules": ".", **tables}, lambda text: absolute(text, file.resolve().parent))


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Tables of `first` with those of `second` over them, key by key; a component is replaced as a whole.

    A noise of the second (sigma, variance, ivar, gain) takes the place of that of the first, whatever its kind.
    """
    image = dict(first.get("image", {}))
    if any(key in second.get("image", {}) for key in _NOISE_KEYS):
        image = {key: value for key, value in image.items() if key not in (*_NOISE_KEYS, "read_noise")}
    tables = {"image": image, "components": first.get("components", {}), "fit": first.get("fit", {})}
    joined = {name: {**table, **second.get(name, {})} for name, table in tables.items()}
    return {**first, **second, **joined}


def checked(tables: Mapping[str, Any]) -> Settings:
    """Settings from tables.

    Raises
    ------
    ValueError, TypeError
        For an unknown key or method, a value of the wrong type, and where the image or the components are missing.
    """
    _check_keys("settings", tables, _TOP_KEYS)
    image, components, fit = (tables.get(name, {}) for name in ("image", "components", "fit"))
    _check_keys("[image]", image, IMAGE_KEYS)
    _check_keys("[fit]", fit, FIT_KEYS)
    if "data" not in image:
        raise ValueError("settings: expected an image to fit, got none; give its file as IMAGE or as data in [image]")
    if not components:
        raise ValueError("settings: expected components, got none; add for example --component galaxy=sersic")
    for name, component in components.items():
        if not isinstance(component, dict) or not isinstance(component.get("kind"), str):
            raise ValueError(
                f'[components.{name}]: expected a table with a kind, got {component!r}; add kind = "sersic"'
            )
    given = {"method": "nuts", "likelihood": "gaussian", "seed": 0, "starts": 1, "threads": 1, **fit}
    if given["method"] not in METHODS:
        raise ValueError(f"[fit] expected method to be one of {', '.join(METHODS)}, got {given['method']!r}")
    if given["method"] != "lm":
        taken = inspect.signature(getattr(inference, given["method"])).parameters
        for key in _LENGTHS:
            if key in given and key not in taken:
                raise ValueError(f"[fit] method {given['method']!r} takes no {key}; leave it out")
        given = {key: taken[key].default for key in ("draws", "chains") if key in taken} | given
    if isinstance(given["starts"], str) and given["starts"] != "auto":
        raise ValueError(f"[fit] expected starts to be a number or 'auto', got {given['starts']!r}; correct it")
    for key, least in {"seed": 0, "starts": 1, "draws": 1, "chains": 1, "threads": 1}.items():
        if key in given and given[key] != "auto" and given[key] < least:
            raise ValueError(f"[fit] expected {key} to be at least {least}, got {given[key]}; correct it")
    return Settings(image, components, given, Path(tables.get("modules", ".")).resolve())


def to_toml(settings: Settings, folder: Path) -> str:
    """Settings as a TOML file that lies in `folder`: its paths are relative to it."""
    tables = {
        "version": bayesprof.__version__,
        "image": settings.image,
        "fit": settings.fit,
        "components": settings.components,
    }
    if any(":" in component["kind"] for component in settings.components.values()):
        tables = {"modules": str(settings.modules), **tables}
    return tomli_w.dumps(with_paths(tables, lambda text: os.path.relpath(text, folder)))


def with_paths(tables: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """`tables` with `change` applied to every path in them."""
    image = tables.get("image", {})
    files = {key: change(image[key]) for key in FILE_KEYS if isinstance(image.get(key), str)}
    folders = {key: change(tables[key]) for key in ("out", "modules") if key in tables}
    return {**tables, "image": {**image, **files}, **folders}


def absolute(text: str, folder: Path) -> str:
    """The path `text`, seen from `folder`."""
    return os.path.normpath(folder / Path(text).expanduser())


def _check_keys(place: str, table: Any, keys: Mapping[str, tuple[type, ...]]) -> None:
    if not isinstance(table, Mapping):
        raise TypeError(f"{place} expected a table, got {table!r}; see python -m pydoc bayesprof.settings")
    for key, value in table.items():
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1)
            remedy = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(keys)}"
            raise ValueError(f"{place} has no key {key!r}; {remedy}")
        whole = float in keys[key] and isinstance(value, int) and not isinstance(value, bool)
        if not whole and type(value) not in keys[key]:
            kinds = " or ".join(_NAMES[kind] for kind in keys[key])
            raise TypeError(f"{place} expected {key} to be {kinds}, got {value!r}; correct it")


_NAMES: dict[type, str] = {
    str: "text",
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}
