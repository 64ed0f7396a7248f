"""Parameters of a component that are held at numbers, whoever wrote it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyro import poutine
from torch import Tensor


@dataclass(frozen=True)
class HeldFunction:
    """A function that draws with ``pyro.sample``, with the sites of `values` held: they are numbers to it, and no
    sites to anybody outside.
    """

    function: Callable[..., Any]
    values: Mapping[str, Tensor]

    @property
    def __name__(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def __call__(self, *args: Any) -> Any:
        # the condition is nearer to the draw, and comes first; what is blocked has its value by then
        with poutine.block(hide=list(self.values)), poutine.condition(data=dict(self.values)):
            return self.function(*args)


def held(component: Any, values: Mapping[str, Tensor]) -> Any:
    """`component` with parameters held at `values`, by their names in it.

    A component of the catalogue holds them as if they had been given as numbers (its ``holding``); any other function
    becomes a :class:`HeldFunction`.
    """
    if not values:
        return component
    return component.holding(values) if hasattr(component, "holding") else HeldFunction(component, values)
