"""Components that some of a scene's images don't see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class OnlyIn:
    """A `component`, and the names of the `images` that it is seen in."""

    component: Callable[..., Any]
    images: tuple[str, ...]


def only_in(component: Callable[..., Any], *images: str) -> OnlyIn:
    """`component`, seen in the `images` of these names alone.

    Its parameters in the unit of the image have one value where that is one image, and else one for each of them; its
    geometry is in pixels of the scene's first image like everything.

    Raises
    ------
    TypeError, ValueError
        For anything but a component and names.

    Examples
    --------
    >>> from bayesprof import models
    >>> ghost = only_in(models.gaussian(), "g")
    """
    if not callable(component):
        raise TypeError(
            f"only_in: expected a component first, got {type(component).__name__}; for example "
            'bp.only_in(models.flat_sky(), "g")'
        )
    if not images or not all(isinstance(name, str) for name in images):
        raise ValueError(f'only_in: expected names of images after the component, got {images!r}; for example "g", "r"')
    return OnlyIn(component, images)
