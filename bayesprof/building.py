"""Image and scene from settings."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin

from bayesprof import likelihoods, models
from bayesprof.image import Image
from bayesprof.scene import Scene
from bayesprof.settings import FILE_KEYS, Settings

_WITH_HDU = re.compile(r"(?P<path>.+)\[(?P<hdu>[^\[\]]+)\]")


def image_of(settings: Settings) -> Image:
    """The image that `settings` describe, cut out where they say so."""
    options = dict(settings.image)
    cutout = options.pop("cutout", None)
    for key in FILE_KEYS:
        if isinstance(options.get(key), str):
            options[key] = source_of(options[key])
    image = Image.from_fits(options.pop("data"), **options)
    if cutout is None:
        return image
    if len(cutout) != 3:
        raise ValueError(f"[image] expected cutout to be [x, y, size], got {cutout!r}; correct it")
    x, y, size = cutout
    return image.cutout(x, y, tuple(size) if isinstance(size, list) else size)


def scene_of(settings: Settings, image: Image) -> Scene:
    """The scene that `settings` describe, on `image`."""
    components: dict[str, Any] = {
        name: component_of(name, given, settings.modules) for name, given in settings.components.items()
    }
    likelihood = settings.fit["likelihood"]
    if likelihood in likelihoods.__all__:
        likelihood = getattr(likelihoods, likelihood)()
    return Scene(image, likelihood=likelihood, **components)


def source_of(reference: str) -> str | tuple[str, str | int]:
    """A path, or (path, HDU) for ``file.fits[SCI]`` and ``file.fits[1]``; a file of just that name comes first."""
    parts = _WITH_HDU.fullmatch(reference)
    if parts is None or Path(reference).exists():
        return reference
    hdu = parts["hdu"]
    return parts["path"], int(hdu) if re.fullmatch(r"-?\d+", hdu) else hdu


def component_of(name: str, given: Mapping[str, Any], modules: Path) -> Callable[..., Any]:
    """The component of a table [components.name].

    Raises
    ------
    ValueError, TypeError
        For an unknown kind, parameter or distribution, and as the component itself.
    """
    place = f"[components.{name}]"
    kind, parameters = given["kind"], {key: value for key, value in given.items() if key != "kind"}
    if ":" in kind:
        if parameters:
            raise ValueError(f"{place} {kind} draws its own parameters; remove {', '.join(parameters)}")
        return _imported(place, kind, modules)
    catalogue = _kinds()
    if kind not in catalogue:
        raise ValueError(
            f"{place} expected kind to be one of {', '.join(catalogue)}, or package.module:function, got {kind!r}"
        )
    make = getattr(models, kind)
    signature = inspect.signature(make).parameters
    takes = [name for name, entry in signature.items() if entry.kind is not entry.VAR_KEYWORD]
    # a PSF checks its options itself
    unknown = [key for key in parameters if key not in takes] if len(takes) == len(signature) else []
    if unknown:
        raise ValueError(f"{place} {kind} has no parameter {unknown[0]!r}; it has {', '.join(takes)}")
    component: Callable[..., Any] = make(**{key: _source(f"{place} {key}", value) for key, value in parameters.items()})
    return component


def _kinds() -> list[str]:
    """Components that a table can make: those that take nothing but parameters, by keyword."""
    names = [name for name in models.__all__ if name.islower() and name != "alignment"]  # which is of images
    signatures = {name: inspect.signature(getattr(models, name)) for name in names}
    return [
        name
        for name, signature in signatures.items()
        if signature.return_annotation == "Component"
        and all(entry.kind in (entry.KEYWORD_ONLY, entry.VAR_KEYWORD) for entry in signature.parameters.values())
    ]


def _source(place: str, value: Any) -> Any:
    """A prior from a table with a distribution, or a held value."""
    if not isinstance(value, Mapping):
        return value
    arguments = dict(value)
    name = arguments.pop("distribution", None)
    kind = getattr(dist, str(name), None) or getattr(models, str(name), None)
    if not isinstance(kind, type) or not issubclass(kind, TorchDistributionMixin):
        raise ValueError(
            f'{place}: expected a prior as {{distribution = "LogNormal", loc = 0.7, scale = 0.4}}, with one of '
            f"pyro.distributions, got {name!r}; correct the name"
        )
    try:
        tensors = {key: torch.tensor(number, dtype=torch.float64) for key, number in arguments.items()}
        prior = kind(**tensors)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{place}: {name} doesn't take {arguments}: {error}; correct its arguments") from error
    return prior.to_event(len(prior.batch_shape)) if prior.batch_shape else prior


def _imported(place: str, kind: str, modules: Path) -> Callable[..., Any]:
    module, _, function = kind.partition(":")
    with _searched(modules):
        try:
            found = getattr(importlib.import_module(module), function, None)
        except ImportError as error:
            raise ValueError(
                f"{place} {kind} can't be imported ({error}); install the package, or give the folder of the module as "
                "modules (--modules)"
            ) from error
    if not callable(found):
        raise ValueError(
            f"{place} expected {function!r} of {module} to be a function that returns light, got {found!r}"
        )
    return found


@contextmanager
def _searched(folder: Path) -> Iterator[None]:
    """Modules are looked for in `folder` first."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
