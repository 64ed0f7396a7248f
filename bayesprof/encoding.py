"""Values as trees of numbers and text, and back: what a scene is made of, without pickling.

A value becomes a number, a text, an array, or a mapping whose entry "is" says what it was. Distributions and the
components of the catalogue are written by name and arguments. Reading makes nothing but what is named here, so that a
file from elsewhere can't run code.
"""

from __future__ import annotations

import inspect
import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from astropy import units as u
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS
from scipy.sparse import csc_array
from torch import Tensor
from torch.distributions import biject_to, transforms
from torch.distributions.transforms import Transform

from bayesprof import likelihoods, models
from bayesprof.correlation import NoiseCorrelation
from bayesprof.curves import Cardinals, Curve, Powers
from bayesprof.image import Image
from bayesprof.inference.fit import Fit
from bayesprof.inference.sparse_matrix import SparseMatrix
from bayesprof.measurement import Measurement
from bayesprof.models.component import is_prior
from bayesprof.models.ellipticity import PlaneToDisc
from bayesprof.pixel_map import PixelMap
from bayesprof.psf_field import PSFField
from bayesprof.variation import PerBand, PerImage, Shared
from bayesprof.window import Window

_RECORDS = {
    kind.__name__: kind
    for kind in (
        *(Window, Measurement, NoiseCorrelation, Fit, PixelMap),
        *(Shared, PerImage, PerBand, Curve, Powers, Cardinals),
    )
}
_STATES = {kind.__name__: kind for kind in (Image, PSFField)}  # immutable, their checks behind them
_WRAPPERS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "Independent": (dist.Independent, ("base_dist", "reinterpreted_batch_ndims")),
    "MaskedDistribution": (dist.MaskedDistribution, ("base_dist", "_mask")),
    "ExpandedDistribution": (dist.ExpandedDistribution, ("base_dist", "batch_shape")),
    "TransformedDistribution": (dist.TransformedDistribution, ("base_dist", "transforms")),
}


class UnwritableError(TypeError):
    """A value that has no such form: a function, or an object of somebody else's class."""


def encoded(value: Any) -> Any:
    """`value` as a tree.

    Raises
    ------
    UnwritableError
        For anything that can't be told by names and numbers.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc" and not isinstance(value, u.Quantity):
        return value
    if isinstance(value, Tensor):
        return {"is": "tensor", "values": value.detach().cpu().numpy()}
    for kind, write in _WRITERS.items():
        if isinstance(value, kind):
            return write(value)
    if hasattr(value, "call"):
        return _call(value)
    if is_prior(value):
        return _distribution(value)
    for records, what in ((_RECORDS, "record"), (_STATES, "state")):
        if type(value).__name__ in records and type(value) is records[type(value).__name__]:
            return {"is": what, "name": type(value).__name__, "of": {k: encoded(v) for k, v in vars(value).items()}}
    raise UnwritableError(f"{getattr(value, '__name__', type(value).__name__)} isn't something that a file can hold")


def decoded(tree: Any) -> Any:
    """The value of a tree."""
    if not isinstance(tree, Mapping):
        return tree
    return _READERS[tree["is"]](tree)


def _entries(value: Any) -> dict[str, Any]:
    return {str(i): encoded(entry) for i, entry in enumerate(value)}


def _mapping(value: Mapping[str, Any]) -> dict[str, Any]:
    strange = [name for name in value if not isinstance(name, str)]
    if strange:
        raise UnwritableError(f"a file can't hold a mapping with keys like {strange[0]!r}, that aren't texts")
    return {"is": "mapping", "of": {name: encoded(entry) for name, entry in value.items()}}


def _sky_map(wcs: WCS) -> dict[str, Any]:
    """A WCS as the FITS file that astropy makes of it, with the tables of its distortions."""
    buffer = io.BytesIO()
    wcs.to_fits(relax=True).writeto(buffer)
    return {"is": "wcs", "fits": np.frombuffer(buffer.getvalue(), np.uint8)}


def _read_sky_map(tree: Mapping[str, Any]) -> WCS:
    with fits.open(io.BytesIO(tree["fits"].tobytes())) as hdus, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of keywords that astropy rewrote itself
        return WCS(hdus[0].header, hdus)


def _time(value: Time) -> dict[str, Any]:
    """A Time by its two Julian dates, whose sum is more exact than one number."""
    days = {"jd1": np.asarray(value.jd1), "jd2": np.asarray(value.jd2)}
    return {"is": "time", **days, "scale": value.scale, "format": value.format}


def _read_time(tree: Mapping[str, Any]) -> Time:
    found = Time(tree["jd1"], tree["jd2"], format="jd", scale=tree["scale"])
    found.format = tree["format"]
    return found


# -- components of the catalogue, by the call that made them


def _call(component: Any) -> dict[str, Any]:
    if component.call is None:
        raise UnwritableError(f"{component.kind} wasn't made by a function of the catalogue")
    function, arguments, keywords = component.call
    return {
        "is": "call",
        "function": function,
        "arguments": encoded(tuple(arguments)),
        "keywords": encoded(dict(keywords)),
        "found": encoded(getattr(component, "found", None)),
    }


def _called(tree: Mapping[str, Any]) -> Any:
    name = tree["function"]
    catalogue = models if name in models.__all__ else likelihoods
    if name not in catalogue.__all__ or not name.islower():
        raise ValueError(f"expected a component of the catalogue, got {name!r}; load it with a newer bayesprof")
    made = getattr(catalogue, name)(*decoded(tree["arguments"]), **decoded(tree["keywords"]))
    found = decoded(tree["found"])
    return made if found is None else replace(made, found=found)


# -- distributions, by name and parameters


def _distribution(prior: Any) -> dict[str, Any]:
    """A distribution by its name and the arguments that make it again, which is tried."""
    name = type(prior).__name__
    arguments: Any
    if name in _WRAPPERS and type(prior) is _WRAPPERS[name][0]:
        arguments = [getattr(prior, attribute) for attribute in _WRAPPERS[name][1]]
    elif type(prior) is _distribution_class(name):
        arguments = _arguments(prior, lambda one: one.default is one.empty or one.name in vars(prior))
        if name == "AffineBeta":  # whose own properties are rounded to single precision where numbers were given
            arguments |= {"loc": prior.transforms[0].loc, "scale": prior.transforms[0].scale}
    else:
        raise UnwritableError(f"the distribution {name} is neither of pyro.distributions nor of bayesprof.models")
    tree = {"is": "distribution", "name": name, "arguments": encoded(arguments)}
    _check_again(prior, tree)
    return tree


def _arguments(value: Any, stored: Callable[[inspect.Parameter], bool]) -> dict[str, Any]:
    """What a distribution or transform was made of, as far as it was `stored` in it under the same names."""
    takes = inspect.signature(type(value).__init__).parameters.values()
    names = [one.name for one in takes if one.name not in ("self", "validate_args", "cache_size") and stored(one)]
    # before broadcasting, which makes single precision of numbers
    given = {name: f"_unbroadcasted_{name}" if hasattr(value, f"_unbroadcasted_{name}") else name for name in names}
    return {name: getattr(value, attribute) for name, attribute in given.items() if hasattr(value, attribute)}


def _distribution_class(name: str) -> Any:
    return getattr(dist, name, None) or (models.Ellipticity if name == "Ellipticity" else None)


def _made_distribution(tree: Mapping[str, Any]) -> Any:
    name, arguments = tree["name"], decoded(tree["arguments"])
    if name == "ExpandedDistribution":
        base, shape = arguments
        return dist.ExpandedDistribution(base, torch.Size(shape))
    if name in _WRAPPERS:
        return _WRAPPERS[name][0](*arguments)
    kind = _distribution_class(name)
    if not isinstance(kind, type) or not issubclass(kind, torch.distributions.Distribution):
        raise ValueError(f"expected a distribution of pyro.distributions, got {name!r}; load it with a newer bayesprof")
    return kind(**arguments)


def _check_again(prior: Any, tree: Mapping[str, Any]) -> None:
    """Raise UnwritableError where what is read isn't what was written."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            again = _made_distribution(tree)
            value = prior.sample()
            same = all(torch.equal(again.log_prob(one), prior.log_prob(one)) for one in (value, value.double()))
            z = biject_to(prior.support).inv(value).double()
            same = same and torch.equal(biject_to(again.support)(z), biject_to(prior.support)(z))
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise UnwritableError(f"{tree['name']} can't be made again from its parameters ({error})") from error
    if not same:
        raise UnwritableError(f"{tree['name']} isn't the same when it is made again from its parameters")


def _transform(value: Transform) -> dict[str, Any]:
    name = type(value).__name__
    if type(value) is not _transform_class(name):
        raise UnwritableError(f"the transform {name} isn't one of torch.distributions")
    return {"is": "transform", "name": name, "arguments": encoded(_arguments(value, lambda one: True))}


def _transform_class(name: str) -> Any:
    return PlaneToDisc if name == "PlaneToDisc" else getattr(transforms, name, None)


def _made_transform(tree: Mapping[str, Any]) -> Any:
    kind = _transform_class(tree["name"])
    if not isinstance(kind, type) or not issubclass(kind, Transform):
        raise ValueError(f"expected a transform of torch.distributions, got {tree['name']!r}")
    return kind(**decoded(tree["arguments"]))


def _record(tree: Mapping[str, Any]) -> Any:
    kind: Any = _RECORDS[tree["name"]]
    made = {field.name for field in fields(kind) if field.init}
    return kind(**{name: decoded(entry) for name, entry in tree["of"].items() if name in made})


def _state(tree: Mapping[str, Any]) -> Any:
    value = object.__new__(_STATES[tree["name"]])
    entries = {name: decoded(entry) for name, entry in tree["of"].items()}
    for entry in entries.values():
        if isinstance(entry, np.ndarray):
            entry.flags.writeable = False
    value.__dict__.update(entries)
    return value


_WRITERS: dict[Any, Callable[[Any], dict[str, Any]]] = {
    u.Quantity: lambda value: {"is": "quantity", "value": encoded(np.asarray(value.value)), "unit": str(value.unit)},
    torch.dtype: lambda value: {"is": "dtype", "name": str(value).removeprefix("torch.")},
    torch.device: lambda value: {"is": "device"},
    WCS: _sky_map,
    Time: _time,
    Transform: _transform,
    csc_array: lambda value: {
        "is": "sparse array",
        **{name: getattr(value, name) for name in ("data", "indices", "indptr")},
        "shape": np.array(value.shape),
    },
    SparseMatrix: lambda value: {"is": "sparse matrix", "entries": encoded(value.entries)},
    # before plain tuples and lists
    torch.Size: lambda value: {"is": "tuple", "of": _entries(value)},
    tuple: lambda value: {"is": "tuple", "of": _entries(value)},
    list: lambda value: {"is": "list", "of": _entries(value)},
    Mapping: _mapping,
}
_READERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "tensor": lambda tree: torch.from_numpy(np.array(tree["values"])),
    "quantity": lambda tree: u.Quantity(tree["value"], tree["unit"]),
    "dtype": lambda tree: {"float32": torch.float32, "float64": torch.float64}[tree["name"]],
    "device": lambda tree: torch.device("cpu"),  # wherever it was: another machine may have no other
    "wcs": _read_sky_map,
    "time": _read_time,
    "transform": _made_transform,
    "sparse array": lambda tree: csc_array(
        (tree["data"], tree["indices"], tree["indptr"]), shape=tuple(int(size) for size in tree["shape"])
    ),
    "sparse matrix": lambda tree: SparseMatrix(decoded(tree["entries"])),
    "tuple": lambda tree: tuple(decoded(entry) for entry in tree["of"].values()),
    "list": lambda tree: [decoded(entry) for entry in tree["of"].values()],
    "mapping": lambda tree: {name: decoded(entry) for name, entry in tree["of"].items()},
    "call": _called,
    "distribution": _made_distribution,
    "record": _record,
    "state": _state,
}
