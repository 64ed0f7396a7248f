"""Components under one name: the parts of a galaxy, the members of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any


class Group:
    """Named components of a scene that belong together, or further groups of them.

    A group ``galaxy`` of ``bulge`` and ``disk`` has the sites ``galaxy.bulge.flux``, ``galaxy.disk.flux`` and so on.
    Wherever a scene takes the name of a component, "galaxy" stands for all of the group and "galaxy.bulge" for a part
    of it. A window of the group is one for each of its components that has none of its own.

    The components of a group are drawn one by one. Parts that share a parameter are better drawn by one function that
    returns their lights by name, ``{"bulge": ..., "disk": ...}`` (see :class:`bayesprof.Scene`).

    Parameters
    ----------
    **components : functions, or groups
        As those of a scene.

    Raises
    ------
    TypeError, ValueError
        For a group without components, and for names with "." or "/".

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> from bayesprof import models
    >>> image = bp.Image(np.zeros((30, 40)), sigma=1.0)
    >>> galaxy = bp.Group(bulge=models.de_vaucouleurs(), disk=models.exponential())
    >>> scene = bp.Scene(image, galaxy=galaxy, windows={"galaxy": bp.Window(5, 5, 35, 25)})
    >>> list(scene.components)
    ['galaxy.bulge', 'galaxy.disk']
    """

    components: Mapping[str, Any]

    def __init__(self, **components: Any) -> None:
        if not components:
            raise ValueError(
                "Group: expected at least one component, got none; add one as a keyword: bulge=models.sersic()"
            )
        for name in components:
            check_name(name, "Group")
        self.components = dict(components)

    def __repr__(self) -> str:
        return f"Group({', '.join(flattened(self.components))})"


def flattened(components: Mapping[str, Any]) -> dict[str, Callable[[], Any]]:
    """The components that aren't groups, by their whole names."""
    found: dict[str, Any] = {}
    for name, component in components.items():
        if isinstance(component, Group):
            found.update({f"{name}.{inner}": one for inner, one in flattened(component.components).items()})
        else:
            found[name] = component
    return found


def within(name: str, whole: str) -> bool:
    """Whether `name` is `whole` or a part of it: "galaxy.bulge.flux" is within "galaxy.bulge"."""
    return name == whole or name.startswith(f"{whole}.")


def wholes(name: str) -> Iterator[str]:
    """`name` and what it is a part of, from the inside out: "galaxy.bulge", "galaxy"."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def check_name(name: str, owner: str) -> None:
    """Raise ValueError for a name of a component that can't be part of a site's."""
    if not name or any(mark in name for mark in "./"):
        raise ValueError(f"{owner}: expected component names without '.' and '/', got {name!r}; rename it")
