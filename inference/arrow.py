"""Symmetric matrices in the shape of an arrow, and what is done with them at a cost linear in the number of members.

    A = [[ diag(blocks)   border ]
         [  border^T      corner ]]

With the members first, the Cholesky factor has the same zeros: that of each block, a border, and that of the Schur
complement ``corner - sum border^T block^-1 border`` (George & Liu 1981, Computer Solution of Large Sparse Positive
Definite Systems).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Layout:
    """Which entries of a vector of length `size` belong to which member, `own` (members, P), and which are `shared`
    (H,) by all.
    """

    own: Tensor
    shared: Tensor

    @property
    def size(self) -> int:
        return self.own.numel() + len(self.shared)

    def directions(self, *, like: Tensor) -> Tensor:
        """The directions that show an arrow, (P + H, D): one entry of every member at once, then the shared ones."""
        rows = like.new_zeros(self.own.shape[1] + len(self.shared), self.size)
        rows[: self.own.shape[1]].scatter_(1, self.own.T, 1.0)
        rows[self.own.shape[1] :].scatter_(1, self.shared[:, None], 1.0)
        return rows

    def split(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """The members' entries of a vector (D,), (members, P), and the shared ones, (H,)."""
        return vector[self.own], vector[self.shared]

    def joined(self, own: Tensor, shared: Tensor) -> Tensor:
        """The vector of such a split."""
        vector = own.new_zeros(self.size)
        vector[self.own], vector[self.shared] = own, shared
        return vector


@dataclass(frozen=True, eq=False)
class Arrow:
    """A symmetric matrix over a `layout`: `blocks` (members, P, P), `border` (members, P, H), `corner` (H, H)."""

    layout: Layout
    blocks: Tensor
    border: Tensor
    corner: Tensor

    @classmethod
    def zeros(cls, layout: Layout, *, like: Tensor) -> Arrow:
        (members, own), shared = layout.own.shape, len(layout.shared)
        shapes = (members, own, own), (members, own, shared), (shared, shared)
        return cls(layout, *(like.new_zeros(shape) for shape in shapes))

    @classmethod
    def from_products(cls, layout: Layout, products: Tensor) -> Arrow:
        """The matrix whose products with the :meth:`Layout.directions` are the rows of `products` (P + H, D)."""
        along_own, along_shared = products.split([layout.own.shape[1], len(layout.shared)])
        blocks = along_own[:, layout.own].permute(1, 2, 0)
        border = along_shared[:, layout.own].permute(1, 2, 0)
        corner = along_shared[:, layout.shared]
        return cls(layout, 0.5 * (blocks + blocks.mT), border, 0.5 * (corner + corner.mT))

    @classmethod
    def from_dense(cls, layout: Layout, matrix: Tensor) -> Arrow:
        """The arrow in a matrix (D, D) that is zero outside of it."""
        own, shared = layout.own, layout.shared
        return cls(
            layout,
            matrix[own[:, :, None], own[:, None, :]],
            matrix[own[:, :, None], shared],
            matrix[shared[:, None], shared],
        )

    def __add__(self, other: Arrow) -> Arrow:
        return Arrow(self.layout, self.blocks + other.blocks, self.border + other.border, self.corner + other.corner)

    def __matmul__(self, vector: Tensor) -> Tensor:
        own, shared = self.layout.split(vector)
        return self.layout.joined(
            (self.blocks @ own[..., None])[..., 0] + self.border @ shared,
            torch.einsum("mph,mp->h", self.border, own) + self.corner @ shared,
        )

    def diagonal(self) -> Tensor:
        return self.layout.joined(self.blocks.diagonal(dim1=-2, dim2=-1), self.corner.diagonal())

    def scaled(self, factors: Tensor, ridge: float = 0.0) -> Arrow:
        """``diag(factors) A diag(factors) + ridge I``."""
        own, shared = self.layout.split(factors)
        unit = torch.eye(own.shape[1]).to(self.blocks)
        return Arrow(
            self.layout,
            own[:, :, None] * self.blocks * own[:, None, :] + ridge * unit,
            own[:, :, None] * self.border * shared,
            shared[:, None] * self.corner * shared + ridge * torch.eye(len(shared)).to(self.corner),
        )

    def dense(self) -> Tensor:
        """All of the matrix, (D, D)."""
        own, shared = self.layout.own, self.layout.shared
        matrix = self.blocks.new_zeros(self.layout.size, self.layout.size)
        matrix[own[:, :, None], own[:, None, :]] = self.blocks
        matrix[own[:, :, None], shared] = self.border
        matrix[shared[:, None, None], own] = self.border.permute(2, 0, 1)
        matrix[shared[:, None], shared] = self.corner
        return matrix

    def factor(self) -> ArrowFactor | None:
        """The Cholesky factor; None where the matrix isn't positive definite."""
        blocks, failed = torch.linalg.cholesky_ex(self.blocks)
        if bool(failed.any()) or not bool(self.border.isfinite().all()):
            return None
        border = torch.linalg.solve_triangular(blocks, self.border, upper=False)
        corner, failed = torch.linalg.cholesky_ex(self.corner - torch.einsum("mpg,mph->gh", border, border))
        return None if bool(failed.any()) else ArrowFactor(self.layout, blocks, border, corner)

    def absolute(self) -> Arrow:
        """A positive definite matrix near to this one: blocks with their eigenvalues by their size, and then the Schur
        complement, in units where the diagonal is 1.
        """
        root = self.diagonal().abs().clamp(min=1e-30).sqrt()
        unit = self.scaled(1 / root)
        blocks = _by_size(unit.blocks)
        inner = torch.linalg.solve(blocks, unit.border)
        met = torch.einsum("mpg,mph->gh", unit.border, inner)
        return Arrow(self.layout, blocks, unit.border, _by_size(unit.corner - met) + met).scaled(root)


@dataclass(frozen=True, eq=False)
class ArrowFactor:
    """``L`` with ``L L^T = A``: those of the `blocks`, `border` (members, P, H) = L_block^-1 A_border, and that of the
    Schur complement, `corner`.
    """

    layout: Layout
    blocks: Tensor
    border: Tensor
    corner: Tensor

    def solve(self, vector: Tensor) -> Tensor:
        """``A^-1 vector``, (D,)."""
        own, shared = self.layout.split(vector)
        inner = torch.linalg.solve_triangular(self.blocks, own[..., None], upper=False)
        rest = shared - torch.einsum("mph,mp->h", self.border, inner[..., 0])
        corner = torch.cholesky_solve(rest[:, None], self.corner)[:, 0] if len(rest) else rest
        inner = inner - (self.border @ corner)[..., None]
        return self.layout.joined(torch.linalg.solve_triangular(self.blocks.mT, inner, upper=True)[..., 0], corner)


def _by_size(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    floor = 1e-10 * values.abs().amax(-1, keepdim=True).clamp(min=1e-30) if matrix.shape[-1] else values
    return (vectors * torch.maximum(values.abs(), floor)[..., None, :]) @ vectors.mT
