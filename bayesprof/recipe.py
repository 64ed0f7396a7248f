"""What a scene is made of, as it was given: the image, and components that haven't been bound to it yet.

Scenes are made from one another here: with more components or fewer, with parameters held or free again, with other
starting values. :class:`bayesprof.Scene` binds what comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from bayesprof.group import Group, check_name, flattened, within
from bayesprof.held import held
from bayesprof.image import Image
from bayesprof.light import Light
from bayesprof.window import Window


@dataclass(frozen=True)
class Recipe:
    """What a scene is made of.

    `components`: by whole name, groups taken apart; `windows`: by name of a component, a group or a part; `starts`:
    values to start a fit from, by site, in the place of those read off the image; `held`: values of the sites that are
    held, by their names.
    """

    image: Image
    likelihood: Any
    psf: Any
    windows: Mapping[str, Window]
    components: Mapping[str, Any]
    starts: Mapping[str, Tensor] = field(default_factory=dict)
    held: Mapping[str, Tensor] = field(default_factory=dict)

    def part(self, name: str) -> Any:
        """The component of a whole `name`, or "psf" or "likelihood", with what is held in it."""
        component = getattr(self, name) if name in ("psf", "likelihood") else self.components[name]
        return held(component, {site[len(name) + 1 :]: v for site, v in self.held.items() if within(site, name)})

    def window_of(self, name: str) -> Window | None:
        """The window of a component or of a part of one: that given for it, or else for what it is a part of."""
        given = [whole for whole in self.windows if within(name, whole)]
        return self.windows[max(given, key=len)] if given else None

    def with_components(self, components: Mapping[str, Any], windows: Mapping[str, Window]) -> Recipe:
        """With more components."""
        for name, component in components.items():
            check_name(name, "Scene")
            if name in ("psf", "likelihood"):
                raise ValueError(f"Scene: expected a component, got {name!r}, which is given when a scene is made")
            check_component(name, component, self.image)
        more = flattened(components)
        for name in more:
            taken = [one for one in self.components if within(name, one) or within(one, name)]
            if taken:
                raise ValueError(
                    f"Scene: expected a new name, got {name!r} beside {taken[0]!r}; rename it, or take the other out "
                    f"first: scene.without({taken[0]!r})"
                )
        return replace(self, components={**self.components, **more}, windows={**self.windows, **windows})

    def without(self, names: Sequence[str]) -> Recipe:
        """Without components or groups, and with nothing that was known of them."""
        for name in names:
            if not any(within(one, name) for one in self.components):
                raise ValueError(f"without: the scene has no component {name!r}; it has {list(self.components)}")

        def kept(mapping: Mapping[str, Any]) -> dict[str, Any]:
            return {one: value for one, value in mapping.items() if not any(within(one, name) for name in names)}

        left = kept(self.components)
        if not left:
            raise ValueError("without: expected at least one component to be left, got none; keep one")
        windows = {one: w for one, w in kept(self.windows).items() if any(_related(one, name) for name in left)}
        return replace(self, components=left, windows=windows, starts=kept(self.starts), held=kept(self.held))

    def holding(self, values: Mapping[str, Tensor]) -> Recipe:
        """With the sites of `values` held there."""
        return replace(self, held={**self.held, **values})

    def freeing(self, names: Sequence[str] | None) -> Recipe:
        """With the sites of `names`, all where None, no longer held: they start from where they were."""
        for name in names or ():
            if not any(within(site, name) for site in self.held):
                raise ValueError(f"free: nothing of {name!r} is held; held are {list(self.held)}")
        freed = {s: v for s, v in self.held.items() if names is None or any(within(s, name) for name in names)}
        still = {site: value for site, value in self.held.items() if site not in freed}
        return replace(self, held=still, starts={**self.starts, **freed})


def recipe_of(
    image: Any, likelihood: Any, psf: Any, windows: Any, components: Mapping[str, Any], owner: str = "Scene"
) -> Recipe:
    """The recipe of what a user gave, checked."""
    if not isinstance(image, Image):
        raise TypeError(
            f"{owner}: expected an Image, got {type(image).__name__}; make one with bp.Image(data, sigma=...)"
        )
    if not components:
        raise ValueError(
            f"{owner}: expected at least one component, got none; add one as a keyword: galaxy=models.sersic()"
        )
    if psf is not None:
        check_component("psf", psf, image)
    return Recipe(image, likelihood, psf, {}, {}).with_components(components, checked_windows(windows, image))


def checked_windows(windows: Any, image: Image) -> dict[str, Window]:
    """Windows by name, their parts on `image`.

    Raises
    ------
    TypeError, ValueError
        For anything else, and for a window without unmasked pixels.
    """
    if windows is not None and not isinstance(windows, Mapping):
        raise TypeError(
            f"Scene: expected windows as a mapping from names of components to bp.Window, got {type(windows).__name__}"
        )
    for name, window in (windows or {}).items():
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


def check_component(name: str, component: Any, image: Image) -> None:
    """Raise TypeError or ValueError for what is no component."""
    if name == image.name:
        raise ValueError(
            f"Scene: component {name!r} has the name of the image; rename it, or give the Image another name="
        )
    if isinstance(component, Group):
        for inner, one in component.components.items():
            check_component(f"{name}.{inner}", one, image)
        return
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


def named_lights(name: str, returned: Any) -> dict[str, Light]:
    """What a component returned, by whole name: its light, or the lights of its parts.

    Raises
    ------
    TypeError, ValueError
        For anything else.
    """
    parts = {f"{name}.{part}": light for part, light in returned.items()} if isinstance(returned, Mapping) else None
    if parts == {}:
        raise ValueError(f"Scene: component {name!r} returned no lights; return one, or leave it out of the scene")
    for part, light in (parts or {name: returned}).items():
        if parts:
            check_name(part.removeprefix(f"{name}."), "Scene")
        if not isinstance(light, Light):
            raise TypeError(
                f"Scene: component {part!r} returned {type(light).__name__}, expected light; return "
                "models.Sersic(...) or a sum of lights, or several by name: {'bulge': ..., 'disk': ...}"
            )
    return parts or {name: returned}


def _related(one: str, other: str) -> bool:
    return within(one, other) or within(other, one)
