"""Members: sources of one kind whose parameters are vectors, told apart.

The light of many sources that were drawn as one is a batch, and a scene puts each of them into a window of its own. A
:class:`Member` is one of them by its place in the batch; nothing is computed of it alone. What renders several of them
takes them out of the batch together (:meth:`Batch.taken`), so that a graph of all doesn't grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from copy import copy
from dataclasses import is_dataclass
from typing import Any, Self

import torch
from torch import Tensor

from bayesprof.light import Light, Part
from bayesprof.taking import taken


class Batch:
    """A light with a batch of parameters, numbers or of shape ``(count,)`` each: `whole`."""

    def __init__(self, whole: Part) -> None:
        self.whole = whole
        self._changed: dict[Hashable, tuple[Any, Batch]] = {}

    def changed(self, key: Hashable, change: Callable[[Part], Part], keeping: Any = None) -> Batch:
        """This batch after a `change`, the same for the same `key`. `keeping`: what the key's meaning hangs on."""
        if key not in self._changed:
            self._changed[key] = (keeping, Batch(change(self.whole)))
        return self._changed[key][1]

    def taken(self, members: Sequence[Member]) -> Part:
        """Some of its members, as a light with a batch of them, moved to where they are."""
        like = self.whole.x  # type: ignore[attr-defined]
        part: Part = _taken(self.whole, [member.place for member in members])
        dx, dy = (
            torch.tensor([getattr(member, name) for member in members], dtype=like.dtype, device=like.device)
            for name in ("dx", "dy")
        )
        return part.shifted(dx, dy)


class Member(Part):
    """The source at a `place` in a `batch`, moved by (`dx`, `dy`)."""

    def __init__(self, batch: Batch, place: int, dx: float = 0.0, dy: float = 0.0) -> None:
        super().__init__()
        self.batch, self.place, self.dx, self.dy = batch, place, dx, dy

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        return self.changed((dtype, device), lambda whole: whole.to(dtype, device))

    def shifted(self, dx: Any, dy: Any) -> Self:
        return type(self)(self.batch, self.place, self.dx + dx, self.dy + dy)

    def changed(self, key: Hashable, change: Callable[[Part], Part], keeping: Any = None) -> Self:
        """This member of the batch after a `change`, as :meth:`Batch.changed`."""
        return type(self)(self.batch.changed(key, change, keeping), self.place, self.dx, self.dy)

    @property
    def alone(self) -> Part:
        """It as a light of its own, whose parameters are single numbers."""
        part: Part = _taken(self.batch.whole, self.place)
        return part.shifted(self.dx, self.dy) if self.dx or self.dy else part


def apart(light: Any, count: int) -> list[Light]:
    """The `count` sources of a `light` with a batch of parameters.

    Raises TypeError for light of a kind that takes none.
    """
    single = [type(part).__name__ for part in light.parts if not getattr(part, "stackable", False)]
    if single:
        raise TypeError(
            f"sources: expected lights that take a batch of parameters, got {single[0]}, which doesn't; put them into "
            "the scene one by one"
        )
    batches = [Batch(part) for part in light.parts]
    return [Light(tuple(Member(batch, place) for batch in batches)) for place in range(count)]


def on_their_own(light: Light) -> Light:
    """A light without members of a batch: each a light of its own."""
    if not any(isinstance(part, Member) for part in light.parts):
        return light
    return Light(tuple(part.alone if isinstance(part, Member) else part for part in light.parts))


def _taken(value: Any, index: list[int] | int) -> Any:
    """A light, or what is in one, with its arrays at one `index` along their first axis, or at several."""
    if isinstance(value, Tensor):
        if value.ndim == 0:
            return value
        # one of them likewise, for what is said of derivatives of such operations
        return taken(value, -value.ndim, [index])[0] if isinstance(index, int) else taken(value, -value.ndim, index)
    if isinstance(value, tuple):
        entries = (_taken(entry, index) for entry in value)
        return type(value)(*entries) if hasattr(value, "_fields") else tuple(entries)
    if isinstance(value, Light) or is_dataclass(value):
        result = copy(value)
        for name, entry in vars(value).items():
            object.__setattr__(result, name, _taken(entry, index))
        return result
    return value
