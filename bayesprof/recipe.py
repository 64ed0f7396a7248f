"""What a scene is made of, as it was given: the images, and components that haven't been bound to them yet.

Scenes are made from one another here: with more components or fewer, with parameters held or free again, with other
starting values. :mod:`bayesprof.assembling` binds what comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from bayesprof.group import Group, check_name, flattened, wholes, within
from bayesprof.held import held
from bayesprof.image import Image
from bayesprof.images import Images
from bayesprof.light import Light
from bayesprof.only_in import OnlyIn
from bayesprof.window import Window


@dataclass(frozen=True)
class Recipe:
    """What a scene is made of.

    `likelihoods`, `psfs`: by name of an image; `windows`: by name of a component, a group or a part; `components`: by
    whole name, groups taken apart; `starts`: values to start a fit from, by site, in the place of those read off the
    images; `held`: values of the sites that are held, by their names.
    """

    images: Images
    likelihoods: Mapping[str, Any]
    psfs: Mapping[str, Any]
    windows: Mapping[str, Window]
    components: Mapping[str, Any]
    alignment: Any = None
    starts: Mapping[str, Tensor] = field(default_factory=dict)
    held: Mapping[str, Tensor] = field(default_factory=dict)

    def prefix(self, what: str, image: str) -> str:
        """What goes before the names of the sites of `what`, "psf" or "likelihood", of an image."""
        return f"{what}_{image}" if len(self.images.names) > 1 else what

    @property
    def others(self) -> dict[str, Any]:
        """What there is beside the components, by what goes before the names of its sites."""
        psfs = {self.prefix("psf", image): psf for image, psf in self.psfs.items()}
        alignment = {} if self.alignment is None else {"alignment": self.alignment}
        return {**psfs, **alignment, **{self.prefix("likelihood", i): one for i, one in self.likelihoods.items()}}

    def part(self, name: str) -> Any:
        """The component of a whole `name`, or one of the :attr:`others`, with what is held in it."""
        given = self.components[name] if name in self.components else self.others[name]
        component = given.component if isinstance(given, OnlyIn) else given
        return held(component, {site[len(name) + 1 :]: v for site, v in self.held.items() if within(site, name)})

    def seen_in(self, name: str) -> Images:
        """The images that a component is seen in."""
        component = self.components[name]
        return self.images.only(component.images) if isinstance(component, OnlyIn) else self.images

    def window_of(self, name: str) -> Window | None:
        """The window of a component or of a part of one: that given for it, or else for what it is a part of."""
        return next((self.windows[whole] for whole in wholes(name) if whole in self.windows), None)

    def windows_for(self, name: str) -> Window | Mapping[str, Window] | None:
        """What a component is measured in: its window, or those of its members by their names in it."""
        members = getattr(self.part(name), "members", ())
        found = {member: self.window_of(f"{name}.{member}") for member in members}
        several = {member: window for member, window in found.items() if window is not None}
        return several if members else self.window_of(name)

    def whole(self, names: str | Sequence[str]) -> list[str]:
        """Names as they stand before sites: "psf" and "likelihood" are those of every image."""
        found: list[str] = []
        for name in [names] if isinstance(names, str) else names:
            several = name in ("psf", "likelihood") and len(self.images.names) > 1
            found += [self.prefix(name, image) for image in self.images.names] if several else [name]
        return found

    def with_components(self, components: Mapping[str, Any], windows: Mapping[str, Window]) -> Recipe:
        """With more components."""
        taken = {"psf", "likelihood"}
        if len(self.images.names) > 1:
            taken |= {"alignment", *self.whole(["psf", "likelihood"])}
        for name, component in components.items():
            check_name(name, "Scene")
            if name in taken:
                raise ValueError(
                    f"Scene: component {name!r} has the name of what a scene has beside its components, and is given "
                    "when it is made; rename it"
                )
            check_component(name, component, self.images.names)
        more = flattened(components)
        for name in more:
            beside = [one for one in self.components if within(name, one) or within(one, name)]
            if beside:
                raise ValueError(
                    f"Scene: expected a new name, got {name!r} beside {beside[0]!r}; rename it, or take the other out "
                    f"first: scene.without({beside[0]!r})"
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

    def freeing(self, names: str | Sequence[str] | None) -> Recipe:
        """With the sites of `names`, all where None, no longer held: they start from where they were."""
        freed = dict(self.held)
        if names is not None:
            freed = {}
            for name in [names] if isinstance(names, str) else names:
                found = {s: v for s, v in self.held.items() if any(within(s, one) for one in self.whole(name))}
                if not found:
                    raise ValueError(f"free: nothing of {name!r} is held; held are {list(self.held)}")
                freed |= found
        still = {site: value for site, value in self.held.items() if site not in freed}
        return replace(self, held=still, starts={**self.starts, **freed})


def recipe_of(
    image: Any, maps: Any, likelihood: Any, psf: Any, alignment: Any, windows: Any, components: Mapping[str, Any]
) -> Recipe:
    """The recipe of what a user gave, checked."""
    images = Images.of(image, maps)
    if not components:
        raise ValueError(
            "Scene: expected at least one component, got none; add one as a keyword: galaxy=models.sersic()"
        )
    psfs = {name: one for name, one in by_image("psf", psf, images.names).items() if one is not None}
    for one in psfs.values():
        check_component("psf", one, images.names)
    if alignment is not None:
        if len(images.names) == 1:
            raise ValueError("Scene: expected several images to align, got one; leave out alignment")
        check_component("alignment", alignment, images.names)
    likelihoods = {**dict.fromkeys(images.names, "gaussian"), **by_image("likelihood", likelihood, images.names)}
    empty = Recipe(images, likelihoods, psfs, {}, {}, alignment)
    return empty.with_components(components, checked_windows(windows, images.first))


def by_image(what: str, given: Any, names: Sequence[str]) -> dict[str, Any]:
    """The PSF or the likelihood of each image, by name."""
    if not isinstance(given, Mapping):
        return dict.fromkeys(names, given)
    strange = [name for name in given if name not in names]
    if strange:
        raise ValueError(f"Scene: expected {what} by name of an image, {list(names)}, got one of {strange[0]!r}")
    return {name: given[name] for name in names if name in given}


def checked_windows(windows: Any, image: Image) -> dict[str, Window]:
    """Windows by name, their parts on `image`; those of the parts of a component may be a mapping.

    Raises
    ------
    TypeError, ValueError
        For anything else, and for a window without unmasked pixels.
    """
    if windows is not None and not isinstance(windows, Mapping):
        raise TypeError(
            f"Scene: expected windows as a mapping from names of components to bp.Window, got {type(windows).__name__}"
        )
    each: dict[str, Any] = {}
    for name, window in (windows or {}).items():
        each |= (
            {f"{name}.{part}": one for part, one in window.items()} if isinstance(window, Mapping) else {name: window}
        )
    for name, window in each.items():
        if not isinstance(window, Window):
            raise TypeError(
                f"Scene: expected the window of {name!r} to be a bp.Window(x0, y0, x1, y1), got {type(window).__name__}"
            )
    inside = {name: window.within(image.shape) for name, window in each.items()}
    for name, window in inside.items():
        if not bool(image.valid[window.y0 : window.y1, window.x0 : window.x1].any()):
            raise ValueError(
                f"Scene: expected unmasked pixels in the window of {name!r}, {window} has none; enlarge it"
            )
    return inside


def check_component(name: str, component: Any, images: Sequence[str]) -> None:
    """Raise TypeError or ValueError for what is no component of a scene of `images`."""
    if name in images:
        raise ValueError(
            f"Scene: component {name!r} has the name of the image; rename it, or give the Image another name="
        )
    if isinstance(component, Group):
        for inner, one in component.components.items():
            check_component(f"{name}.{inner}", one, images)
        return
    if isinstance(component, OnlyIn):
        strange = [one for one in component.images if one not in images]
        if strange:
            raise ValueError(
                f"Scene: expected component {name!r} only in images of the scene, {list(images)}, got {strange[0]!r}"
            )
        component = component.component
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


def _related(one: str, other: str) -> bool:
    return within(one, other) or within(other, one)
