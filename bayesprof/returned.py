"""What components return, checked, and told apart: light, lights of parts, lights by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bayesprof.group import check_name
from bayesprof.light import Light

_REMEDY = "return models.Sersic(...) or a sum of lights, or several by name: {'bulge': ..., 'disk': ...}"


def named_lights(name: str, returned: Any, names: Sequence[str], seen: Sequence[str]) -> dict[str, dict[str, Light]]:
    """Light by whole name, of the component or of each of its parts, and image, of what component `name` returned.

    A mapping whose keys are `names` of images is light by image, any other is one of parts; the light of a part may be
    by image, and that of an image by part. `seen`: names of the images that see the component.

    Raises
    ------
    TypeError, ValueError
        For anything else.
    """
    found: dict[str, dict[str, Light]] = {}
    if len(names) > 1 and isinstance(returned, Mapping) and len(returned) == 1 and not set(returned) & set(names):
        raise ValueError(
            f"Scene: component {name!r} returned light for {next(iter(returned))!r}, expected names of images that see "
            f"it, {list(seen)}, or several parts by name; return the light itself where there is one part"
        )
    outer = _by_image(name, returned, names, seen)
    for image, one in outer.items():
        if isinstance(one, Mapping):
            if not one:
                raise ValueError(
                    f"Scene: component {name!r} returned no lights; return one, or leave it out of the scene"
                )
            for part in one:
                check_name(part, "Scene")
        parts = {f"{name}.{part}": light for part, light in one.items()} if isinstance(one, Mapping) else {name: one}
        for part, light in parts.items():
            inner = {image: light} if outer is returned else _by_image(part, light, names, seen)
            if image in inner:
                told = outer is returned or inner is light
                found.setdefault(part, {})[image] = _checked(part, inner[image], image, by_image=told)
    return found


def _by_image(name: str, returned: Any, names: Sequence[str], seen: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(returned, Mapping) or not any(key in names for key in returned):
        return dict.fromkeys(seen, returned)
    strange = [key for key in returned if key not in seen]
    if strange:
        raise ValueError(
            f"Scene: component {name!r} returned light for {strange[0]!r}, expected names of images that see it: "
            f"{list(seen)}; name parts otherwise than images"
        )
    return returned


def _checked(name: str, light: Any, image: str, *, by_image: bool) -> Light:
    if not isinstance(light, Light):
        where = f" for image {image!r}" if by_image else ""
        raise TypeError(f"Scene: component {name!r} returned {type(light).__name__}{where}, expected light; {_REMEDY}")
    return light


def check_offsets(offsets: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise ValueError for what is no offset of images behind the first, whose `names` are given."""
    for name, offset in offsets.items():
        if name not in names or not isinstance(offset, tuple | list) or len(offset) != 2:
            raise ValueError(
                f"Scene: expected alignment to return (dx, dy) by name for images behind the first, {list(names)}, got "
                f"{offset!r} for {name!r}"
            )
