"""Names of sites."""

from __future__ import annotations

from typing import Any

from pyro.poutine.messenger import Messenger


class Prefix(Messenger):
    """Puts ``name.`` before the name of every site inside.

    Pyro's own scope uses "/", which netCDF files and ArviZ read as a group.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def _pyro_sample(self, msg: Any) -> None:
        msg["name"] = f"{self.name}.{msg['name']}"
