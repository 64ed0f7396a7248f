"""The Jacobian of the parameters of an observed distribution, in the blocks that it was found in.

What is made of it is made block by block: J^T s, and J^T W J, whose entry for two parameters is a sum over the pixels
that both move. Blocks in windows meet where their windows overlap, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, combinations_with_replacement
from typing import NamedTuple

import torch
from torch import Tensor

from bayesprof.inference.blocks import Block, Windows
from bayesprof.inference.places import Entries, Places
from bayesprof.placing import cut, overlaps

_Product = list[tuple[list[tuple[Entries, Entries]], Tensor]]
"""Blocks of a matrix, those of one shape together: the entries along rows and columns of each, and their values."""


class _Piece(NamedTuple):
    """`rows` of the derivatives, (count, values), along `entries` of the vector, None for rows of zeros; in windows, of
    shape (rows, windows, height, width), along `entries` row by row.
    """

    rows: Tensor
    entries: Entries
    at: Windows | None = None


class Jacobian:
    """Derivatives of an array along the entries of a vector, from the `rows` of `blocks`."""

    def __init__(self, rows: Sequence[Tensor], blocks: Sequence[Block]) -> None:
        whole = [(one, block.active) for one, block in zip(rows, blocks, strict=True) if block.at is None]
        self.pieces = [
            _Piece(one, tuple(chain(*block.active)), block.at)
            for one, block in zip(rows, blocks, strict=True)
            if block.at is not None
        ]
        if whole:
            together = torch.cat([block.reshape(len(block), -1) for block, _ in whole])
            self.pieces.append(_Piece(together, sum((entries for _, entries in whole), ())))

    def times(self, score: Tensor, *, like: Tensor) -> Tensor:
        """J^T score, along all entries of z, which is `like`."""
        sums = []
        for rows, _, at in self.pieces:
            part, values = _of_one_kind(rows, score)
            sums.append(part @ values.reshape(-1) if at is None else (part * _seen(values, at)).sum((-2, -1)))
        return _places(tuple((piece.entries,) for piece in self.pieces), len(like), 1)(sums, like=like)

    def squared(self, other: Jacobian, weight: Tensor, *, like: Tensor) -> Tensor:
        """J^T diag(weight) J of this and another one."""
        along, values = self.products(other, weight)
        return _places(along, len(like), 2)(values, like=like)

    def products(self, other: Jacobian, weight: Tensor) -> tuple[tuple[tuple[Entries, Entries], ...], list[Tensor]]:
        """The blocks of that matrix which aren't zero: the entries along the rows and columns of each, and the values
        of those of one shape together.
        """
        products: _Product = []
        weighted = _Weighted(weight)
        if other is not self:
            for one in self.pieces:
                for two in other.pieces:
                    products += _product(one, two, weighted)
        else:
            for one, two in combinations_with_replacement(self.pieces, 2):
                product = _product(one, two, weighted)
                products += product if one is two else product + _transposed(product)
        return tuple(entries for blocks, _ in products for entries in blocks), [values for _, values in products]


@lru_cache(maxsize=256)
def _places(along: tuple[tuple[Entries, ...], ...], size: int, axes: int) -> Places:
    return Places(along, size, axes=axes)


class _Weighted:
    """The rows of pieces times a `weight`, each computed once."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self._found: dict[int, Tensor] = {}

    def __call__(self, piece: _Piece) -> Tensor:
        if id(piece) not in self._found:
            rows, weight = _of_one_kind(piece.rows, self.weight)
            self._found[id(piece)] = rows * (weight.reshape(-1) if piece.at is None else _seen(weight, piece.at))
        return self._found[id(piece)]


def _transposed(product: _Product) -> _Product:
    return [([(columns, rows) for rows, columns in along], values.mT) for along, values in product]


def _product(one: _Piece, two: _Piece, weighted: _Weighted) -> _Product:
    if one.at is not None and two.at is None:
        return _transposed(_product(two, one, weighted))
    if two.at is None:
        rows, others = _of_one_kind(weighted(one), two.rows)
        return [([(one.entries, two.entries)], rows @ others.mT)]
    if one.at is None:
        rows, others = _of_one_kind(one.rows, weighted(two))
        image = rows.reshape(len(rows), two.at.ny, two.at.nx)
        met = torch.einsum("rwyx,swyx->rsw", _seen(image, two.at), others).flatten(1)
        return [([(one.entries, two.entries)], met)]
    pairs = overlapping(one.at, two.at)
    if one is two:
        pairs = [pair for pair in pairs if pair[0] <= pair[1]]
    if not pairs:
        return []
    rows, others = _of_one_kind(one.rows, weighted(two))
    met = overlaps(others, rows, two.at.y, two.at.x, one.at.y, one.at.x, [i for j, k in pairs for i in (k, j)])
    count, other_count = len(one.at.y), len(two.at.y)
    along = [(one.entries[i::count], two.entries[j::other_count]) for i, j in pairs]
    product: _Product = [(along, met.mT)]
    twice = [place for place, (i, j) in enumerate(pairs) if i != j] if one is two else []
    if twice:  # two windows that meet do so for both of them
        product += _transposed([([along[place] for place in twice], met.mT[torch.tensor(twice, device=met.device)])])
    return product


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


def _seen(image: Tensor, at: Windows) -> Tensor:
    return cut(image, at.y, at.x, at.height, at.width)


def _of_one_kind(*values: Tensor) -> list[Tensor]:
    kind = values[0].dtype
    for value in values[1:]:
        kind = torch.promote_types(kind, value.dtype)
    return [value.to(kind) for value in values]
