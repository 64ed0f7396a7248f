"""The Jacobian of the parameters of an observed distribution, in the blocks that it was found in.

What is made of it is made block by block: J^T s, and J^T W J, whose entry for two parameters is a sum over the pixels
that both move. Blocks in windows meet where their windows overlap, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, combinations_with_replacement
from typing import NamedTuple

import torch
from torch import Tensor

from bayesprof.inference.blocks import Windows
from bayesprof.placing import cut, overlaps

Entries = tuple[int | None, ...]


class _Piece(NamedTuple):
    """`rows` of the derivatives, (count, values), along `entries` of the vector, None for rows of zeros; in windows, of
    shape (rows, windows, height, width), along `entries` row by row.
    """

    rows: Tensor
    entries: Entries
    at: Windows | None = None


class Jacobian:
    """Derivatives of an array along the entries of a vector, from `rows` of blocks, their `active` entries, and the
    windows that they are `at`.
    """

    def __init__(self, rows: Sequence[Tensor], active: Sequence[tuple], at: Sequence[Windows | None]) -> None:
        whole = [(block, entries) for block, entries, place in zip(rows, active, at, strict=True) if place is None]
        self.pieces = [
            _Piece(block, tuple(chain(*entries)), place)
            for block, entries, place in zip(rows, active, at, strict=True)
            if place is not None
        ]
        if whole:
            together = torch.cat([block.reshape(len(block), -1) for block, _ in whole])
            self.pieces.append(_Piece(together, sum((entries for _, entries in whole), ())))

    def times(self, score: Tensor, *, like: Tensor) -> Tensor:
        """J^T score, along all entries of z, which is `like`."""
        total = torch.zeros_like(like)
        for rows, entries, at in self.pieces:
            part, values = _of_one_kind(rows, score)
            whole = part @ values.reshape(-1) if at is None else (part * _seen(values, at)).sum((-2, -1))
            # images may be float32, and are summed as they are; z never is
            total = total + whole.reshape(-1).to(like.dtype) @ placement(entries, len(like), like=like)
        return total

    def squared(self, other: Jacobian, weight: Tensor, *, like: Tensor) -> Tensor:
        """J^T diag(weight) J of this and another one."""
        total = torch.zeros(len(like), len(like), dtype=like.dtype, device=like.device)
        if other is not self:
            for one in self.pieces:
                for two in other.pieces:
                    total = total + _product(one, two, weight, like)
            return total
        for one, two in combinations_with_replacement(self.pieces, 2):
            product = _product(one, two, weight, like)
            total = total + (product if one is two else product + product.mT)
        return total


def _product(one: _Piece, two: _Piece, weight: Tensor, like: Tensor) -> Tensor:
    if one.at is not None and two.at is None:
        return _product(two, one, weight, like).mT
    rows, others, weight = _of_one_kind(one.rows, two.rows, weight)
    first, second = (placement(piece.entries, len(like), like=like) for piece in (one, two))
    if two.at is None:
        return first.mT @ ((rows * weight.reshape(-1)) @ others.mT).to(like.dtype) @ second
    weighted = others * _seen(weight, two.at)
    if one.at is None:
        image = rows.reshape(len(rows), two.at.ny, two.at.nx)
        met = torch.einsum("rwyx,swyx->rsw", _seen(image, two.at), weighted).flatten(1)
        return first.mT @ met.to(like.dtype) @ second
    pairs = overlapping(one.at, two.at)
    if one is two:
        pairs = [pair for pair in pairs if pair[0] <= pair[1]]
    if not pairs:
        return torch.zeros(len(like), len(like), dtype=like.dtype, device=like.device)
    met = overlaps(weighted, rows, two.at.y, two.at.x, one.at.y, one.at.x, [i for j, k in pairs for i in (k, j)])
    blocks = met.mT.to(like.dtype)
    if one is two:
        # a window meets itself once, and others for both of them
        shares = [0.5 if i == j else 1.0 for i, j in pairs]
        blocks = blocks * torch.tensor(shares, dtype=like.dtype, device=like.device)[:, None, None]
    here, there = torch.tensor(pairs, device=like.device).unbind(-1)
    by_window = like.new_zeros(len(one.at.y), len(two.at.y), *blocks.shape[-2:]).index_put((here, there), blocks)
    total = first.mT @ by_window.permute(2, 0, 3, 1).reshape(len(first), len(second)) @ second
    return total + total.mT if one is two else total


def overlapping(one: Windows, two: Windows) -> list[tuple[int, int]]:
    """Pairs of windows, one of each, that share pixels."""
    y, x, other_y, other_x = (torch.tensor(values) for values in (one.y, one.x, two.y, two.x))
    meet = (
        (y[:, None] < other_y + two.height)
        & (other_y < y[:, None] + one.height)
        & (x[:, None] < other_x + two.width)
        & (other_x < x[:, None] + one.width)
    )
    return [(i, j) for i, j in meet.nonzero().tolist()]


def placement(entries: Entries, size: int, *, like: Tensor) -> Tensor:
    """Matrix, one row for each of the `entries`, that puts them at their places among `size`."""
    columns = torch.tensor([-1 if entry is None else entry for entry in entries], device=like.device)
    return (columns[:, None] == torch.arange(size, device=like.device)).to(like.dtype)


def _seen(image: Tensor, at: Windows) -> Tensor:
    return cut(image, at.y, at.x, at.height, at.width)


def _of_one_kind(*values: Tensor) -> list[Tensor]:
    kind = values[0].dtype
    for value in values[1:]:
        kind = torch.promote_types(kind, value.dtype)
    return [value.to(kind) for value in values]
