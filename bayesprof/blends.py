"""Objects that touch, taken apart: the branches of a segment at rising levels, and the watershed between them.

A peak is an object of its own where it rises far enough above its saddle to a brighter one, in light and in noise
(the tree of levels is that of Bertin & Arnouts 1996, A&AS 117, 393, section 6).
"""

from __future__ import annotations

import heapq

import numpy as np
from scipy import ndimage

_LEVELS = 32  # between the faintest pixel of a segment and its brightest, in equal ratios
_TOUCHING = np.ones((3, 3), dtype=bool)  # pixels that share an edge or a corner


def taken_apart(
    segments: np.ndarray, light: np.ndarray, noise: np.ndarray, *, contrast: float, rise: float, min_area: int
) -> np.ndarray:
    """Segmentation map in which each peak of a segment has a label of its own; labels from 1 without gaps.

    Parameters
    ----------
    segments : int array [ny, nx]
        Segmentation map, 0 where there is sky.
    light, noise : array [ny, nx]
        Smoothed image above the sky, positive in the segments, and its noise.
    contrast : float
        Light above the saddle that a peak must have, in units of the light of its segment.
    rise : float
        Height above the saddle that a peak must have, in units of the noise.
    min_area : int
        Pixels above the saddle that a peak must have.

    Examples
    --------
    >>> y, x = np.mgrid[:20, :40]
    >>> light = sum(np.exp(-((x - x0) ** 2 + (y - 9) ** 2) / 20) for x0 in (14, 24))
    >>> one = (light > 0.05).astype(int)
    >>> int(taken_apart(one, light, np.full(one.shape, 0.01), contrast=0.005, rise=5, min_area=5).max())
    2
    """
    apart = np.zeros(segments.shape, dtype=np.int32)
    last = 0
    for label, box in enumerate(ndimage.find_objects(segments), start=1):
        if box is None:
            continue
        inside = segments[box] == label
        heights = np.where(inside, light[box], 0.0)
        markers, count = _peaks(heights, noise[box], inside, contrast, rise, min_area)
        found = _flooded(heights, markers, inside) if count > 1 else inside.astype(np.int32)
        apart[box][inside] = found[inside] + last
        last += count
    return apart


def _peaks(
    light: np.ndarray, noise: np.ndarray, inside: np.ndarray, contrast: float, rise: float, min_area: int
) -> tuple[np.ndarray, int]:
    """Map of the branches of a segment, labels from 1 where each leaves its saddle, and their number."""
    markers, least = inside.astype(np.int32), contrast * light[inside].sum()
    count = 1
    low, high = light[inside].min(), light[inside].max()
    if not 0 < low < high:
        return markers, count
    for level in np.geomspace(low, high, _LEVELS + 2)[1:-1]:
        regions, number = ndimage.label((light > level) & inside, _TOUCHING)
        at = regions > 0
        region, above = regions[at], light[at] - level
        highest, branch = np.zeros(number + 1), np.zeros(number + 1, dtype=int)
        np.maximum.at(highest, region, above / noise[at])
        branch[region] = markers[at]  # a region lies in one branch, or in none
        counts = np.bincount(region, weights=above, minlength=number + 1) >= least
        counts &= (highest >= rise) & (np.bincount(region, minlength=number + 1) >= min_area)
        for parent in np.unique(branch[counts & (branch > 0)]):
            children = np.flatnonzero(counts & (branch == parent))
            if len(children) < 2:
                continue
            markers[markers == parent] = 0
            markers[regions == children[0]] = parent
            for child in children[1:]:
                count += 1
                markers[regions == child] = count
    return markers, count


def _flooded(light: np.ndarray, markers: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Map in which every pixel of a segment has the label of the peak from which it is reached at the highest level."""
    labels = np.pad(np.where(inside, markers, -1), 1, constant_values=-1)  # -1: not to be reached
    heights = np.pad(light, 1)
    queue = [(-float(heights[y, x]), order, int(y), int(x)) for order, (y, x) in enumerate(np.argwhere(labels > 0))]
    heapq.heapify(queue)
    order = len(queue)
    while queue:
        level, _, y, x = heapq.heappop(queue)
        for row in (y - 1, y, y + 1):
            for column in (x - 1, x, x + 1):
                if labels[row, column] == 0:
                    labels[row, column] = labels[y, x]
                    heapq.heappush(queue, (max(level, -float(heights[row, column])), order, row, column))
                    order += 1
    return labels[1:-1, 1:-1]
