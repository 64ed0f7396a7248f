"""Derivatives of the rows of a table along the parameters that they are functions of, and the errors that follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import torch
from scipy.sparse import coo_array, csr_array
from torch import Tensor

_TOGETHER = 512  # derivatives taken at once

Values = Mapping[str, Tensor]


class _Step(NamedTuple):
    """`entries` that a derivative is taken along at once, and the one of `rows` that each shows in; or one entry, and
    all rows.
    """

    entries: np.ndarray
    rows: np.ndarray


def slopes_of(
    function: Callable[[Values], Values], values: Values, rows_of: Mapping[str, Sequence[int]], names: Sequence[str],
    rows: int,
) -> dict[str, csr_array]:  # fmt: skip
    """Derivatives of what `function` makes of `values`, by site: quantities of those `names`, each of shape (rows,).

    Returns matrices (rows, entries), the entries of all sites one behind the other. `rows_of` : of a site of the
    members of a component, thousands of sources for instance, the row of each, which alone depends on it: a derivative
    is taken along one parameter of all of them at once. Of other sites none.
    """
    counts = [value.numel() for value in values.values()]
    size = sum(counts)
    steps = _steps(values, rows_of, rows)
    parts: dict[str, list[Any]] = {name: [] for name in names}

    def along(tangent: Tensor) -> Any:
        split = zip(values.items(), tangent.split(counts), strict=True)
        tangents = {site: part.reshape(value.shape).to(value) for (site, value), part in split}
        return torch.func.jvp(function, (dict(values),), (tangents,))[1]

    for start in range(0, len(steps), _TOGETHER):
        some = steps[start : start + _TOGETHER]
        tangents = torch.zeros(len(some), size, dtype=torch.float64, device=next(iter(values.values())).device)
        for tangent, step in zip(tangents, some, strict=True):
            tangent[step.entries.tolist()] = 1.0
        for name, derivatives in torch.func.vmap(along)(tangents).items():
            found = derivatives.double().cpu().numpy()
            parts[name] += [(found[i, step.rows], step.rows, step.entries) for i, step in enumerate(some)]
    return {name: _assembled(found, (rows, size)) for name, found in parts.items()}


def errors_of(slopes: csr_array, covariance: Any) -> np.ndarray:
    """Standard deviations of quantities with those slopes (rows, entries), from a covariance, sparse or not: one that
    is sparse holds those of each source's own entries.
    """
    return np.sqrt(np.asarray(slopes.multiply(slopes @ covariance).sum(axis=1)).ravel())


def rows_times(factors: np.ndarray, slopes: csr_array) -> csr_array:
    """The slopes of rows times `factors` (rows,)."""
    return (scipy.sparse.diags_array(factors) @ slopes).tocsr()


def _steps(values: Values, rows_of: Mapping[str, Sequence[int]], rows: int) -> list[_Step]:
    steps, start = [], 0
    for site, value in values.items():
        entries = start + np.arange(value.numel())
        members = np.array(rows_of[site], dtype=np.int64)
        if len(members):
            steps += [_Step(some, members) for some in entries.reshape(len(members), -1).T]
        else:
            steps += [_Step(entries[i : i + 1], np.arange(rows)) for i in range(len(entries))]
        start += value.numel()
    return steps


def _assembled(parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], shape: tuple[int, int]) -> csr_array:
    """The matrix of values at rows and columns, a single column where there is one."""
    if not parts:
        return csr_array(shape)
    values, rows = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    columns = np.concatenate([np.broadcast_to(columns, len(some)) for some, _, columns in parts])
    return coo_array((values, (rows, columns)), shape=shape).tocsr()
