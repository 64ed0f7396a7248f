"""Curvatures of thousands of sources, most of whose entries are zero: sources whose windows don't overlap don't meet.

SuperLU factors them in an order that keeps them sparse (scipy.sparse.linalg.splu), so that a step of a fit costs what
its derivatives cost (benchmarks/RESULTS.md, section 11).
"""

from __future__ import annotations

import numpy as np
import scipy.sparse
import torch
from scipy.sparse import csc_array
from scipy.sparse.linalg import SuperLU, splu
from torch import Tensor

_SINGULAR = 1e-13  # a pivot, relative to the diagonal, that may be rounding
_TOGETHER = 8  # columns solved for at once: SuperLU takes longer for each of more, and of fewer


class SparseMatrix:
    """A symmetric matrix (D, D): `entries` of it, and the zeros between."""

    def __init__(self, entries: csc_array) -> None:
        self.entries = entries

    def __len__(self) -> int:
        size: int = self.entries.shape[0]
        return size

    def __add__(self, other: SparseMatrix) -> SparseMatrix:
        return SparseMatrix((self.entries + other.entries).tocsc())

    def __matmul__(self, vector: Tensor) -> Tensor:
        return torch.from_numpy(self.entries @ vector.cpu().numpy()).to(vector)

    def diagonal(self) -> Tensor:
        return torch.from_numpy(self.entries.diagonal())

    def dense(self) -> Tensor:
        """All of the matrix, (D, D)."""
        return torch.from_numpy(self.entries.toarray())

    def finite(self) -> SparseMatrix:
        """This with 0 in the place of what isn't finite."""
        entries = self.entries.copy()
        entries.data = np.nan_to_num(entries.data, nan=0.0, posinf=0.0, neginf=0.0)
        return SparseMatrix(entries)

    def factor(self, ridge: float = 0.0) -> SparseFactor | None:
        """Its factors with a `ridge` on the diagonal, 1 in their units; None where it isn't positive definite."""
        root = np.sqrt(np.maximum(self.entries.diagonal(), 1e-30))
        units = scipy.sparse.diags_array(1 / root)
        scaled = (units @ self.entries @ units + ridge * scipy.sparse.eye_array(len(root))).tocsc()
        try:
            # without pivoting, which a positive definite matrix doesn't need, its factors are those of Cholesky
            factors = splu(scaled, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        except RuntimeError:  # exactly singular
            return None
        positive = np.isfinite(factors.U.data).all() and (factors.U.diagonal() > _SINGULAR).all()
        return SparseFactor(factors, root) if positive else None


class SparseFactor:
    """Factors of a matrix in units `root` where its diagonal is 1."""

    def __init__(self, factors: SuperLU, root: np.ndarray) -> None:
        self._factors, self._root = factors, root

    def solve(self, vector: Tensor) -> Tensor:
        """The matrix' inverse times a vector (D,)."""
        found = self._factors.solve(vector.cpu().numpy() / self._root) / self._root
        return torch.from_numpy(found).to(vector)

    def inverse_within(self, pattern: csc_array) -> csc_array:
        """The entries of the inverse where the `pattern` has some."""
        result = pattern.astype(np.float64)
        size = len(self._root)
        for first in range(0, size, _TOGETHER):
            columns = np.arange(first, min(first + _TOGETHER, size))
            units = np.zeros((size, len(columns)), order="F")
            units[columns, np.arange(len(columns))] = 1 / self._root[columns]
            solved = self._factors.solve(units)
            for place, column in enumerate(columns):
                inside = slice(result.indptr[column], result.indptr[column + 1])
                rows = result.indices[inside]
                result.data[inside] = solved[rows, place] / self._root[rows]
        return result
