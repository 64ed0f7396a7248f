"""Curvatures of thousands of sources, most of whose entries are zero: sources whose windows don't overlap don't meet.

SuperLU factors them in an order that keeps them sparse (scipy.sparse.linalg.splu), so that a step of a fit costs what
its derivatives cost (benchmarks/RESULTS.md, section 11).
"""

from __future__ import annotations

import numpy as np
import scipy.sparse
import torch
from scipy.sparse import coo_array, csc_array
from scipy.sparse.linalg import SuperLU, splu
from torch import Tensor

_SINGULAR = 1e-13  # a pivot, relative to the diagonal, that may be rounding
_FLATTEST = 0.02  # an eigenvalue, where the diagonal is 1, that a part is made positive with
_PART = 1000  # entries of such a part
_REPAIRS = 20  # of them
_MOST = 0.5  # of the others, that an entry meets
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
        root = self._root()
        factors = self._factors(root, ridge)
        if factors is None or not np.isfinite(factors.U.data).all():
            return None
        return SparseFactor(factors, root) if (factors.U.diagonal() > _SINGULAR).all() else None

    def positive(self) -> SparseMatrix | None:
        """This where it is positive definite; where some entries make it indefinite with those that they meet, the
        eigenvalues of that part by their size, and the rest as it is. None where the part is no small one.
        """
        matrix, reach = self, 1
        for _ in range(_REPAIRS):
            root = matrix._root()
            factors = matrix._factors(root, 0.0)
            if factors is None or not np.isfinite(factors.U.data).all():
                return None
            # a negative pivot stands for a negative eigenvalue of what was eliminated so far
            bad = np.flatnonzero(factors.U.diagonal()[factors.perm_c] <= _SINGULAR)
            if not len(bad):
                return matrix
            part = matrix._around(bad, reach)
            if len(part) > _PART:
                return None
            units = root[part]
            values, vectors = np.linalg.eigh(matrix.entries[part][:, part].toarray() / np.outer(units, units))
            lifted = np.maximum(np.abs(values), _FLATTEST) - values
            if values.min() > _FLATTEST:  # what it meets further on has to do with it
                reach += 1
                continue
            change = coo_array((vectors * lifted) @ vectors.T * np.outer(units, units))
            rows, columns = (part[place] for place in change.coords)
            added = coo_array((change.data, (rows, columns)), shape=matrix.entries.shape)
            matrix = SparseMatrix((matrix.entries + added).tocsc())
        return None

    def _root(self) -> np.ndarray:
        """Units in which the diagonal is 1, or less where it is negative."""
        return np.sqrt(np.maximum(np.abs(self.entries.diagonal()), 1e-30))

    def _factors(self, root: np.ndarray, ridge: float) -> SuperLU | None:
        units = scipy.sparse.diags_array(1 / root)
        scaled = (units @ self.entries @ units + ridge * scipy.sparse.eye_array(len(root))).tocsc()
        try:
            # without pivoting, which a positive definite matrix doesn't need, its factors are those of Cholesky
            return splu(scaled, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        except RuntimeError:  # exactly singular
            return None

    def _around(self, entries: np.ndarray, reach: int) -> np.ndarray:
        """The `entries`, those that they meet, and so on, `reach` times; of what meets most others only itself."""
        widely, found = meet_most(self.entries), entries
        for _ in range(reach):
            near = found[~widely[found]]
            meeting = [self.entries.indices[self.entries.indptr[i] : self.entries.indptr[i + 1]] for i in near]
            found = np.unique(np.concatenate([found, *meeting]))
        return found


def meet_most(entries: csc_array) -> np.ndarray:
    """Whether an entry of z meets most others in a matrix, as a sky does, (D,)."""
    counts = np.diff(entries.indptr)
    most: np.ndarray = counts > max(_MOST * len(counts), 1)
    return most


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
