"""Names of sites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro.poutine.messenger import Messenger


def units_of(components: Mapping[str, Any]) -> dict[str, str]:
    """Unit of every site of `components`, by their names, that state one."""
    return {
        f"{name}.{parameter}": unit
        for name, component in components.items()
        for parameter, unit in getattr(component, "units", {}).items()
    }


class Prefix(Messenger):
    """Puts ``name.`` before the name of every site inside.

    Pyro's own scope uses "/", which netCDF files and ArviZ read as a group.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def _pyro_sample(self, msg: Any) -> None:
        msg["name"] = f"{self.name}.{msg['name']}"
