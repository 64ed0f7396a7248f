"""Windows: the part of an image in which a component is rendered, so that its cost follows its own size.

A component with a window has light in there only. Windows are rendered in a few sizes, those of one size together: each
is enlarged to the next of them, and moved into the image where it reaches beyond. Large ones, which are transformed one
at a time, stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bayesprof.image import Image
from bayesprof.light import Background, Light, Part
from bayesprof.placing import placed
from bayesprof.psf import PSF
from bayesprof.rendering import Renderer, renderer_for
from bayesprof.splitting import Splitter, enough_detail
from bayesprof.window import Window

_SIDES = (16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Sides of the squares that windows are enlarged to. They are few, because each costs a graph of its own."""


@dataclass(frozen=True)
class _Size:
    """Windows of one size: the rows `y` and columns `x` of their first pixels, by component; and the `detail` of all of
    them, None where it is full.
    """

    renderer: Renderer
    detail: float | None
    y: Mapping[str, int]
    x: Mapping[str, int]


class WindowedRenderer:
    """Renders components in their `windows`, by name, on an image with a `psf` as of
    :func:`bayesprof.rendering.renderer_for`.
    """

    def __init__(self, image: Image, windows: Mapping[str, Window], psf: PSF | None = None) -> None:
        self.shape = image.shape
        corners: dict[tuple[int, int], dict[str, tuple[int, int]]] = {}
        details: dict[tuple[int, int], list[float | None]] = {}
        for name, window in windows.items():
            inside = window.within(image.shape)
            (height, width), (ny, nx) = inside.shape, image.shape
            side = next((one for one in _SIDES if one >= max(height, width)), None)
            shape = (height, width) if side is None else (min(side, ny), min(side, nx))
            corners.setdefault(shape, {})[name] = (
                _moved(inside.y0, shape[0] - height, ny - shape[0]),
                _moved(inside.x0, shape[1] - width, nx - shape[1]),
            )
            details.setdefault(shape, []).append(window.detail)
        split = Splitter(image)
        self.sizes = [
            _Size(
                *_with_detail(renderer_for(image, psf, shape=shape), details[shape], split),
                {name: y for name, (y, _) in found.items()},
                {name: x for name, (_, x) in found.items()},
            )
            for shape, found in corners.items()
        ]

    @property
    def full(self) -> bool:
        """Whether all windows are rendered in full detail."""
        return all(size.detail is None for size in self.sizes)

    def short_of_detail(self, lights: Mapping[str, Light]) -> dict[str, tuple[float, float]]:
        """The detail that a window has, and that which it would need, of those of the `lights` that are too flat for
        theirs.
        """
        found = {
            name: (size.detail, enough_detail(lights[name]))
            for size in self.sizes
            if size.detail is not None
            for name in size.y
            if name in lights
        }
        return {name: (has, needs) for name, (has, needs) in found.items() if needs > has}

    def __call__(self, lights: Mapping[str, Light], psf: PSF | None = None) -> Tensor | float:
        """Image of those of the `lights`, by component, that have windows; shape (ny, nx), or 0 where none has.

        Raises ValueError for a background.
        """
        arrays: list[Tensor] = []
        tops: list[int] = []
        lefts: list[int] = []
        for size in self.sizes:
            names = [name for name in size.y for _ in (lights[name].parts if name in lights else ())]
            parts = [part for name in size.y if name in lights for part in lights[name].parts]
            if not parts:
                continue
            y, x = [size.y[name] for name in names], [size.x[name] for name in names]
            moved = [_seen_from(*corner) for corner in zip(parts, names, x, y, strict=True)]
            for indices, images in size.renderer.apart(moved, psf):
                arrays.append(images)
                tops.extend(y[i] for i in indices)
                lefts.extend(x[i] for i in indices)
        return placed(arrays, tops, lefts, *self.shape) if arrays else 0.0


def _with_detail(renderer: Renderer, details: Sequence[float | None], split: Splitter) -> tuple[Renderer, float | None]:
    """`renderer`, for windows of one shape, with the detail that all of them need; and that, None where it is full."""
    distances = [detail for detail in details if detail is not None]
    if len(distances) < len(details):
        return renderer, None
    found = split(renderer, max(distances))
    return found, None if found is renderer else max(distances)


def _seen_from(part: Any, name: str, x: int, y: int) -> Part:
    """A part in the coordinates of a window whose first pixel is at (`x`, `y`)."""
    if isinstance(part, Background):
        raise ValueError(
            f"windows: component {name!r} has light over the whole image ({type(part).__name__}), expected sources; "
            "leave it out of windows"
        )
    shifted: Part = part.shifted(-x, -y)
    return shifted


def _moved(first: int, more: int, last: int) -> int:
    """First pixel of a window that is enlarged by so many `more` to both sides, at `last` at most."""
    return min(max(first - more // 2, 0), last)
