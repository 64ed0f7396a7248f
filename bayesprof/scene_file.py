"""A scene, with its fit, in one HDF5 file: :meth:`bayesprof.Scene.save` and :meth:`bayesprof.Scene.load`.

The file holds the images with all that belongs to them, the components by the calls that made them, windows, held
values and starting values. It is always whole (:mod:`bayesprof.whole_file`), and any byte that changes is noticed
(:mod:`bayesprof.inference.sealed_file`).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import h5py

from bayesprof.encoding import UnwritableError, decoded, encoded
from bayesprof.group import flattened
from bayesprof.images import Images
from bayesprof.inference.fit import Fit
from bayesprof.inference.sealed_file import Seal, opened, read_tree, sealed, write_tree
from bayesprof.only_in import OnlyIn
from bayesprof.recipe import Recipe
from bayesprof.scene import Scene
from bayesprof.whole_file import replacing

_SEAL = Seal(
    "scene", "1", "load it with the version of bayesprof that wrote it", "a bayesprof scene", "choose another path"
)


def save_scene(scene: Scene, path: str | PathLike[str], *, fit: Fit | None = None, overwrite: bool = False) -> None:
    """What :meth:`bayesprof.Scene.save` does."""
    target = Path(path).expanduser()
    if target.exists():
        if not overwrite:
            raise FileExistsError(f"'{path}' exists already; choose another name, or pass overwrite=True")
        with open(target, "rb") as file:
            if not file.read(len(_SEAL.mark)).startswith(_SEAL.mark):
                raise FileExistsError(
                    f"'{path}' isn't a bayesprof scene, and isn't overwritten; choose another name, or delete it"
                )
    if fit is not None and not isinstance(fit, Fit):
        raise TypeError(
            f"save: expected fit to be a Fit, as inference.lm returns it, got {type(fit).__name__}; draws are saved by "
            "their own to_netcdf"
        )
    recipe = scene.recipe
    parts = {f"components.{name}": component for name, component in recipe.components.items()}
    seen = {name: one.images for name, one in recipe.components.items() if isinstance(one, OnlyIn)}
    images = recipe.images
    tree = {
        "images": encoded({image.name: image for image in images.seen}),
        "maps": encoded(dict(images.maps)),
        "parts": {name: _part(part) for name, part in {**parts, **recipe.others}.items()},
        "only_in": encoded(seen),
        "windows": encoded(dict(recipe.windows)),
        "starts": encoded(dict(recipe.starts)),
        "held": encoded(dict(recipe.held)),
        "latent": encoded(list(scene.latent)),
        "fit": encoded(fit),
    }

    def fill(file: h5py.File) -> None:
        file.attrs["versions"] = json.dumps(_versions())
        write_tree(file, "scene", tree, "scene")

    content = sealed(_SEAL, fill)
    with replacing(target) as partial:
        partial.write_bytes(content)


def load_scene(
    path: str | PathLike[str],
    *,
    components: Mapping[str, Any] | None = None,
    psf: Any = None,
    likelihood: Any = None,
    alignment: Any = None,
) -> tuple[Scene, Fit | None]:
    """What :meth:`bayesprof.Scene.load` does."""
    target = Path(path).expanduser()
    if not target.is_file():
        raise FileNotFoundError(f"'{path}' doesn't exist; check the path")
    with h5py.File(opened(target, _SEAL)) as file:
        written = json.loads(file.attrs["versions"])
        tree = read_tree(file["scene"])
    changes = [f"{name} {written.get(name)}, now {here}" for name, here in _versions().items() if written[name] != here]
    if changes:
        warnings.warn(
            f"'{path}' was saved by {' and '.join(changes)}: default priors and rounding may have changed since",
            stacklevel=3,
        )
    given = {f"components.{name}": component for name, component in flattened(components or {}).items()}
    given |= {} if alignment is None else {"alignment": alignment}
    images = decoded(tree["images"])
    names = list(images)
    for what, part in (("psf", psf), ("likelihood", likelihood)):
        given |= _of_each(what, part, names, tree["parts"])
    unknown = [name for name in given if name not in tree["parts"]]
    if unknown:
        known = [name.removeprefix("components.") for name in tree["parts"]]
        raise ValueError(
            f"load: the scene in '{path}' has no {', '.join(name.removeprefix('components.') for name in unknown)}; "
            f"it has {', '.join(known)}"
        )
    own = {name: part for name, part in tree["parts"].items() if _is_own(part) and name not in given}
    if own:
        call = f"Scene.load(path, {_call(own, names)})"
        raise ValueError(f"load: '{path}' can't hold {_listed(own)}; give them again: {call}")
    parts = {name: given[name] if name in given else decoded(part) for name, part in tree["parts"].items()}
    seen_images = Images(images[names[0]], tuple(images.values()), tuple(names), decoded(tree["maps"]))
    empty = Recipe(seen_images, {}, {}, decoded(tree["windows"]), {})
    seen = decoded(tree["only_in"])
    found = {name.removeprefix("components."): part for name, part in parts.items() if name.startswith("components.")}
    recipe = replace(
        empty,
        likelihoods={name: parts[empty.prefix("likelihood", name)] for name in names},
        psfs={name: parts[empty.prefix("psf", name)] for name in names if empty.prefix("psf", name) in parts},
        components={
            name: OnlyIn(part, seen[name]) if name in seen and not isinstance(part, OnlyIn) else part
            for name, part in found.items()
        },
        alignment=parts.get("alignment"),
        starts=decoded(tree["starts"]),
        held=decoded(tree["held"]),
    )
    scene = Scene.of(recipe)
    latent = decoded(tree["latent"])
    if list(scene.latent) != latent:
        raise ValueError(
            f"load: the scene in '{path}' draws {latent}, with what was given it draws {list(scene.latent)}; give the "
            "functions that it was saved with"
        )
    return scene, decoded(tree["fit"])


def _part(part: Any) -> Any:
    """A component as a tree; of what a file can't hold, its name and the reason."""
    part = part.component if isinstance(part, OnlyIn) else part
    try:
        return encoded(part)
    except UnwritableError as error:
        name = getattr(part, "__name__", getattr(part, "kind", type(part).__name__))
        return {"is": "own", "name": str(name), "reason": "" if _is_function(part) else str(error)}


def _is_function(part: Any) -> bool:
    return callable(part) and not hasattr(part, "bind")


def _is_own(tree: Any) -> bool:
    return isinstance(tree, Mapping) and tree["is"] == "own"


def _listed(own: Mapping[str, Any]) -> str:
    parts = []
    for name, tree in own.items():
        reason = f": {tree['reason']}" if tree["reason"] else ""
        parts.append(f"{name.removeprefix('components.')} ({tree['name']}{reason})")
    return ", ".join(parts)


def _of_each(what: str, part: Any, names: list[str], parts: Mapping[str, Any]) -> dict[str, Any]:
    """A PSF or a likelihood that was given to load a scene, by the part of the file that it stands for: one function is
    that of every image that needs one.
    """
    if part is None:
        return {}
    if len(names) == 1 and not isinstance(part, Mapping):
        return {what: part}
    if not isinstance(part, Mapping):
        own = [f"{what}_{name}" for name in names if _is_own(parts.get(f"{what}_{name}"))]
        return dict.fromkeys(own or [what], part)
    return {f"{what}_{name}" if len(names) > 1 else what: one for name, one in part.items()}


def _call(own: Mapping[str, Any], names: list[str]) -> str:
    """The arguments of the call that is needed, as one would write them."""
    inside = {n.removeprefix("components."): tree for n, tree in own.items() if n.startswith("components.")}
    calls = [f"components={_written(inside)}"] if inside else []
    for what in ("psf", "likelihood"):
        each = {name: own[f"{what}_{name}"] for name in names if f"{what}_{name}" in own}
        calls += [f"{what}={_written(each)}"] if each else []
    return ", ".join([*calls, *(f"{n}={own[n]['name']}" for n in ("psf", "likelihood", "alignment") if n in own)])


def _written(own: Mapping[str, Any]) -> str:
    entries = [f"{name!r}: {tree['name']}" for name, tree in own.items()]
    return f"{{{', '.join(entries)}}}"


def _versions() -> dict[str, str]:
    return {library: version(library) for library in ("bayesprof", "torch", "pyro-ppl")}
