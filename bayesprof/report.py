"""A result in a few lines of text."""

from __future__ import annotations

import math
from typing import Any

from astropy.table import Table

_COUNTS = ("ess_bulk", "ess_tail")


def verdict_of(result: Any) -> tuple[bool, str]:
    """Whether an InferenceData or a Fit can be trusted, and its own words for it."""
    if hasattr(result, "posterior"):
        verdict = str(result.attrs["verdict"])
        return verdict == "ok", verdict
    return bool(result.converged), str(result.message)


def lines_of(summary: Table) -> list[str]:
    """A table of :func:`bayesprof.storage.summary_table` as text, values to two digits of their deviation."""
    sd = "sd" if "sd" in summary.colnames else "std"
    shown = Table({name: _texts(summary, name, sd) for name in summary.colnames})
    align = ["<" if name in ("parameter", "unit") else ">" for name in shown.colnames]
    return [str(line) for line in shown.pformat(max_lines=-1, max_width=-1, align=align)]


def _texts(summary: Table, name: str, sd: str) -> list[str]:
    if name in ("parameter", "unit"):
        return [str(text) for text in summary[name]]
    if name == "r_hat":
        return [f"{value:.3f}" for value in summary[name]]
    if name in _COUNTS:
        return [f"{value:.0f}" for value in summary[name]]
    return [f"{value:.{_digits(error)}f}" for value, error in zip(summary[name], summary[sd], strict=True)]


def _digits(error: float) -> int:
    """Decimals that show two digits of `error`."""
    return max(0, 1 - math.floor(math.log10(error))) if 0 < error < math.inf else 6
