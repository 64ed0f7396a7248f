"""What a scene is given, checked and bound to its images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bayesprof.image import Image
from bayesprof.images import Images
from bayesprof.light import Light
from bayesprof.only_in import OnlyIn
from bayesprof.window import Window


def check_lights(name: str, light: Any, seen: Sequence[str]) -> None:
    remedy = "return models.Sersic(...) or a sum of lights"
    if isinstance(light, Mapping):
        strange = [image for image in light if image not in seen]
        if strange:
            raise ValueError(
                f"Scene: component {name!r} returned light for {strange[0]!r}, expected names of images that see it: "
                f"{list(seen)}"
            )
        for image, one in light.items():
            if not isinstance(one, Light):
                raise TypeError(
                    f"Scene: component {name!r} returned {type(one).__name__} for image {image!r}, expected light; "
                    f"{remedy}"
                )
    elif not isinstance(light, Light):
        raise TypeError(f"Scene: component {name!r} returned {type(light).__name__}, expected light; {remedy}")


def check_offsets(offsets: Mapping[str, Any], names: Sequence[str]) -> None:
    for name, offset in offsets.items():
        if name not in names or not isinstance(offset, tuple | list) or len(offset) != 2:
            raise ValueError(
                f"Scene: expected alignment to return (dx, dy) by name for images behind the first, {list(names)}, got "
                f"{offset!r} for {name!r}"
            )


def seen_in(name: str, component: Any, images: Images) -> tuple[tuple[str, ...], Any]:
    """Names of the images that see a component, and the component itself."""
    if not isinstance(component, OnlyIn):
        return images.names, component
    strange = [one for one in component.images if one not in images.names]
    if strange:
        raise ValueError(
            f"Scene: expected component {name!r} only in images of the scene, {list(images.names)}, got {strange[0]!r}"
        )
    return tuple(one for one in images.names if one in component.images), component.component


def by_image(what: str, given: Any, images: Mapping[str, Image], several: bool) -> dict[str, Any]:
    """The PSF or the likelihood of each image, by name."""
    if not isinstance(given, Mapping):
        return dict.fromkeys(images, given)
    strange = [name for name in given if name not in images]
    if strange:
        raise ValueError(f"Scene: expected {what} by name of an image, {list(images)}, got one of {strange[0]!r}")
    return dict(given)


def bound(component: Any, images: Images, window: Window | None = None) -> Callable[[], Any]:
    if not hasattr(component, "bind"):
        bound: Callable[[], Any] = component
    else:
        # one image is handed over as it is, so that a component of one's own needs to know no more
        image = images if len(images.names) > 1 else images.first
        bound = component.bind(image) if window is None else component.bind(image, window)
    return bound


def bound_alignment(alignment: Any, images: Images) -> Callable[[], Any] | None:
    if alignment is None:
        return None
    if len(images.names) == 1:
        raise ValueError("Scene: expected several images to align, got one; leave out alignment")
    check_component("alignment", alignment, images)
    return bound(alignment, images.only(images.names[1:]))


def checked_windows(windows: Any, components: Mapping[str, Any], image: Image) -> dict[str, Window]:
    if windows is not None and not isinstance(windows, Mapping):
        raise TypeError(
            f"Scene: expected windows as a mapping from names of components to bp.Window, got {type(windows).__name__}"
        )
    for name, window in (windows or {}).items():
        if name not in components:
            raise ValueError(f"Scene: expected windows of components, {list(components)}, got one of {name!r}")
        if not isinstance(window, Window):
            raise TypeError(
                f"Scene: expected the window of {name!r} to be a bp.Window(x0, y0, x1, y1), got {type(window).__name__}"
            )
    inside = {name: window.within(image.shape) for name, window in (windows or {}).items()}
    for name, window in inside.items():
        if not bool(image.valid[window.y0 : window.y1, window.x0 : window.x1].any()):
            raise ValueError(
                f"Scene: expected unmasked pixels in the window of {name!r}, {window} has none; enlarge it"
            )
    return inside


def check_component(name: str, component: Any, images: Images) -> None:
    if not name or any(mark in name for mark in "./"):
        raise ValueError(f"Scene: expected component names without '.' and '/', got {name!r}; rename it")
    if name in images.names:
        raise ValueError(
            f"Scene: component {name!r} has the name of the image; rename it, or give the Image another name="
        )
    if isinstance(component, Light):
        raise TypeError(
            f"Scene: component {name!r} is a light, expected a function that returns one; use "
            f"models.{type(component).__name__.lower()}"
            "(...) or wrap it: lambda: light"
        )
    if not callable(component):
        raise TypeError(
            f"Scene: expected component {name!r} to be a function that returns light, got {type(component).__name__}; "
            "for example models.sersic()"
        )
