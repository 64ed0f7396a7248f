"""The exact Hessian of thousands of sources, by a few differences of the gradient.

The images of sources add up, so that what the Gauss-Newton curvature leaves out, second derivatives of the images times
residuals, is of one source at a time: a block for each of them. A difference of gradients along one parameter of every
source at once gives a column of all blocks (Curtis, Powell & Reid 1974, IMA J. Appl. Math. 13, 117). One more, along a
random direction, shows whether that is all that was left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array, csc_array
from torch import Tensor

from bayesprof.inference.posterior import Posterior
from bayesprof.inference.sites import Site
from bayesprof.inference.sparse_matrix import SparseMatrix, meet_most

_STEP = 1e-5  # of a difference, in standard deviations of an entry given all others
_MOST = 64  # differences; more are not worth it
_MISSED = 0.01  # of the Hessian along a random direction, above which it isn't known


def sparse_hessian(
    posterior: Posterior, z: Tensor, gradient: Tensor, information: SparseMatrix, prior: SparseMatrix
) -> SparseMatrix | None:
    """Minus the Hessian of `posterior` at `z` (D,), beyond the other three of :meth:`Posterior.sparse_expansion` there;
    None where differences don't find it.
    """
    known = (information + prior).entries
    if not np.isfinite(known.data).all():
        return None
    steps = _STEP / np.sqrt(np.maximum(known.diagonal(), 1e-30))

    def beyond(along: np.ndarray) -> np.ndarray:
        """What `known` misses of the Hessian times `along`."""
        _, there = posterior.value_and_grad(z + z.new_tensor(along))
        missed: np.ndarray = (gradient - there).cpu().numpy() - known @ along
        return missed

    anywhere = steps * np.random.default_rng(0).choice([-1.0, 1.0], len(steps))
    missed = beyond(anywhere)
    # in units in which the Hessian's diagonal is 1
    allowed = _MISSED * np.linalg.norm((known @ anywhere) * steps)
    alone, groups = _groups(information.entries)
    split = _by_index(groups, posterior.sites)
    for blocks in (split,) if split == groups else (split, groups):
        probes = _probes(information.entries, alone, blocks)
        if len(probes) > _MOST:
            return None
        found = _found(probes, beyond, steps)
        if np.linalg.norm((missed - found @ anywhere) * steps) <= allowed:
            return SparseMatrix((known + found).tocsc())
    return None


class _Probe(NamedTuple):
    """A difference along entries of z, the `columns`. It tells entries at `rows` of the columns `of_rows`, which count
    with a `weight` in a matrix that half of it and of its transpose make symmetric.
    """

    columns: np.ndarray
    rows: np.ndarray
    of_rows: np.ndarray
    weight: np.ndarray


def _groups(information: csc_array) -> tuple[np.ndarray, list[list[int]]]:
    """Whether an entry of z meets most others and has a difference of its own, (D,); and of the rest the groups that
    meet the same others, as the entries of one source do.
    """
    alone = meet_most(information)
    groups: dict[bytes, list[int]] = {}
    for column in np.flatnonzero(~alone & (np.diff(information.indptr) > 0)):
        groups.setdefault(_rows(information, int(column)).tobytes(), []).append(int(column))
    return alone, list(groups.values())


def _rows(information: csc_array, column: int) -> np.ndarray:
    first, last = information.indptr[column : column + 2]
    return np.sort(information.indices[first:last])


def _by_index(groups: list[list[int]], sites: Sequence[Site]) -> list[list[int]]:
    """Groups of one source each, where several overlap with the same others: entries of vectors of sources belong to
    one that have one index.
    """
    owner = {
        entry: (site.name, None if not site.unconstrained_shape else place // (length // site.unconstrained_shape[0]))
        for site in sites
        for length in [site.place.stop - site.place.start]
        for place, entry in enumerate(range(site.place.start, site.place.stop))
    }
    parts = []
    for group in groups:
        indices = sorted({owner[entry][1] for entry in group}, key=str)
        split = [[entry for entry in group if owner[entry][1] == index] for index in indices]
        alike = {tuple(owner[entry][0] for entry in part) for part in split}
        parts += split if None not in indices and len(alike) == 1 else [group]
    return parts


def _probes(information: csc_array, alone: np.ndarray, groups: list[list[int]]) -> list[_Probe]:
    """A difference for each entry that is `alone`, and those that find the blocks of `groups`."""
    probes = []
    for column in np.flatnonzero(alone):
        rows = _rows(information, int(column))
        # of an entry that has no difference of its own, the other half isn't told
        probes.append(_Probe(np.array([column]), rows, np.full(len(rows), column), np.where(alone[rows], 1.0, 2.0)))
    for columns in itertools.zip_longest(*groups):
        blocks = [(column, group) for column, group in zip(columns, groups, strict=True) if column is not None]
        rows = np.concatenate([group for _, group in blocks])
        of_rows = np.concatenate([np.full(len(group), column) for column, group in blocks])
        probes.append(_Probe(np.array([column for column, _ in blocks]), rows, of_rows, np.ones(len(rows))))
    return probes


def _found(probes: list[_Probe], beyond: Callable[[np.ndarray], np.ndarray], steps: np.ndarray) -> csc_array:
    """What the Hessian has beyond what is known of it, where the `probes` tell it."""
    values, places = [], []
    for probe in probes:
        along = np.zeros(len(steps))
        along[probe.columns] = steps[probe.columns]
        values.append(probe.weight * beyond(along)[probe.rows] / steps[probe.of_rows])
        places.append((probe.rows, probe.of_rows))
    if not values:
        return csc_array((len(steps), len(steps)))
    rows, columns = (np.concatenate(some) for some in zip(*places, strict=True))
    half = coo_array((np.concatenate(values), (rows, columns)), shape=(len(steps),) * 2).tocsc()
    return (0.5 * (half + half.T)).tocsc()
