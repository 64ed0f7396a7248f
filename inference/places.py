"""Blocks of derivatives into vectors and matrices of all entries of z.

A block knows the entries of z that lie along each of its axes; where its values go is known before there are any. They
are added in one step, whose cost is that of the blocks: a matrix product with zeros and ones would cost a power of the
number of entries more.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

Entries = tuple[int | None, ...]


class Pairs(NamedTuple):
    """Places of a block of a matrix whose values have a row and a column each."""

    rows: Entries
    columns: Entries


class Places:
    """Where the values of blocks go, given the entries `along` each of their `axes`, among `size` entries: in a vector
    for one axis, in a matrix for two, or `Pairs` of them. Those along None go nowhere.
    """

    def __init__(self, along: Sequence[tuple[Entries, ...] | Pairs], size: int, *, axes: int) -> None:
        self.shape = (size,) * axes
        places = [_flat(entries, size) for entries in along]
        every = np.concatenate(places) if places else np.zeros(0, dtype=np.int64)
        kept = every >= 0
        self.places = every[kept].tolist()
        self.kept = None if kept.all() else np.flatnonzero(kept).tolist()

    def __call__(self, blocks: Sequence[Tensor], *, like: Tensor) -> Tensor:
        """The sum of `blocks`, each at its place, in the precision of z, which is `like`."""
        total = torch.zeros(self.shape, dtype=like.dtype, device=like.device)
        if not self.places:
            return total
        # images may be float32, and are summed as they are; z never is
        values = torch.cat([block.reshape(-1).to(like.dtype) for block in blocks])
        if self.kept is not None:
            values = values[torch.tensor(self.kept, device=like.device)]
        where = torch.tensor(self.places, device=like.device)
        return total.reshape(-1).index_put((where,), values, accumulate=True).reshape(self.shape)


class Pattern:
    """Where the values of blocks go in a sparse matrix of `size` rows: as :class:`Places`, of two axes."""

    def __init__(self, along: Sequence[tuple[Entries, ...] | Pairs], size: int) -> None:
        self.size = size
        every = np.concatenate([np.zeros(0, dtype=np.int64), *(_flat(entries, size) for entries in along)])
        self._kept = every >= 0
        self._rows, self._columns = np.divmod(every[self._kept], size)

    def matrix(self, values: Tensor) -> scipy.sparse.csc_array:
        """The matrix of `values`, those of all blocks one behind the other; what falls on one place is added."""
        kept = values.detach().cpu().numpy()[self._kept]
        return scipy.sparse.coo_array((kept, (self._rows, self._columns)), shape=(self.size,) * 2).tocsc()


def _flat(along: tuple[Entries, ...] | Pairs, size: int) -> np.ndarray:
    """Places of a block's values in the flattened vector or matrix, -1 for those that go nowhere."""
    first, *rest = (_numbers(entries) for entries in along)
    if not rest:
        return first
    (second,) = rest
    first = first if isinstance(along, Pairs) else first[:, None]
    places = first * size + second
    places[(first < 0) | (second < 0)] = -1
    return places.reshape(-1)


@lru_cache(maxsize=4096)
def _numbers(entries: Entries) -> np.ndarray:
    return np.array([-1 if entry is None else entry for entry in entries], dtype=np.int64)
