"""The Fourier transform of any radial profile, as one fixed linear map.

The transform of a circular profile ``f(x)`` at wavenumber ``kappa``, ``F = 2 pi integral x f(x) J0(kappa x) dx``, is
linear in ``f``. A coordinate ``u`` that runs to infinity at the centre, at the edge and wherever else ``f`` isn't
smooth,

    x = 1 / (1 + exp(-u))   inside of x = 1,      x = 1 + exp(u)   outside of it,

turns power laws, cusps, edges and breaks into functions that are analytic in a strip around the real axis. Those are
given by their values on uniform nodes, to exponential accuracy, as a sum of cardinal functions ``sinc(s) exp(-s^2 /
(2 w^2))``, with ``s`` the distance in steps (Stenger 1993, Numerical Methods Based on Sinc and Analytic Functions;
Qian 2003, Proc. AMS 131, 1169, for the Gaussian factor). The transform of each cardinal function is computed once,
by the trapezoid rule on a finer grid. Where ``J0`` oscillates much faster than a cardinal function can, the two are
orthogonal, so that wavenumbers have no upper limit.

A second linear map takes the transforms on the nodes of a mesh in wavenumber to the coefficients of cubic splines.
The two are composed: one matrix, from the brightness on 190 to 340 nodes to the coefficients of splines, which
:func:`bayesprof.lookup.interpolate` looks up. The tests hold its error below 1e-5 of the total light, for edges ``(1 -
x)^a`` with a >= 0.5 and cusps ``x^-g`` with g <= 0.9 as for anything smooth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from scipy.linalg import solve_banded
from scipy.special import erfc, j0
from torch import Tensor

_STEP = 0.16  # between nodes, in u
_WIDTH = 5.0  # w: of the Gaussian in a cardinal function, in steps
_REACH = 30  # steps after which a cardinal function is over
_FINE = 8  # points of the trapezoid rule per step
# Phase per unit of u at which J0 is faded out. Cardinal functions hold less than pi / _STEP = 20, and a little more
# for the Gaussian; the trapezoid rule could follow up to 300.
_FASTEST, _FADING = 100.0, 10.0
# Nodes at the ends, in steps.
_CENTRE = -125  # x = 2e-9
_NEAR = 62  # |x - 1| = 5e-5
_FAR, _AROUND = 88, 25  # x = 1e6 and 55

# powers of the position inside an interval, lowest first, of the four B-splines that cover it
_B_SPLINE = np.array([[1, 4, 1, 0], [-3, 0, 3, 0], [3, -6, 3, 0], [-1, 3, -3, 1]]) / 6

_Place = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Mesh:
    """Nodes in wavenumber: uniform in ``t = ln((b + s) / (b + 1))`` with ``s = sqrt(1 + (kappa / kappa_0)^2)``.

    Analytic in ``kappa^2`` at 0, as transforms are; from ``kappa_0`` on uniform in kappa, so that oscillations are
    resolved, and beyond ``b kappa_0`` in its logarithm, as far as `kappa_max`. `b` : 0 or larger.
    """

    kappa_0: float
    b: float
    kappa_max: float
    intervals: int

    @property
    def step(self) -> float:
        return math.log((self.b + math.hypot(1.0, self.kappa_max / self.kappa_0)) / (self.b + 1)) / self.intervals

    def position(self, wavenumber_squared: Tensor) -> Tensor:
        """``t`` at squared wavenumbers."""
        square = 1 + wavenumber_squared * (1 / self.kappa_0**2)
        if self.b == 0:
            return 0.5 * torch.log(square)
        return torch.log((self.b + torch.sqrt(square)) * (1 / (self.b + 1)))

    def wavenumbers(self) -> np.ndarray:
        """The nodes, from 0 to `kappa_max`."""
        s = (self.b + 1) * np.exp(self.step * np.arange(self.intervals + 1)) - self.b
        return self.kappa_0 * np.sqrt(np.maximum(s**2 - 1, 0.0))


@dataclass(frozen=True)
class HankelMap:
    """From the brightness of a profile to its transform.

    `radii` (nodes,): where to evaluate the profile; `light` (nodes,): weights of its total light; `splines` (intervals
    + 3, nodes): to the coefficients of uniform cubic B-splines over the `mesh`; `powers` (4, 4): from four of those to
    the powers of a cubic. Always float64.
    """

    radii: Tensor
    light: Tensor
    splines: Tensor
    powers: Tensor
    mesh: Mesh

    def to(self, device: torch.device) -> HankelMap:
        moved = {name: getattr(self, name).to(device) for name in ("radii", "light", "splines", "powers")}
        return replace(self, **moved)

    def cubics(self, brightness: Tensor) -> Tensor:
        """Coefficients of the cubics of a transform, lowest power of the position inside the interval first.

        Shape ``batch + (4, intervals)`` for `brightness` on the nodes, of shape ``batch + (nodes,)``.
        """
        coefficients = brightness @ self.splines.mT
        intervals = self.mesh.intervals
        return self.powers @ torch.stack([coefficients[..., i : i + intervals] for i in range(4)], dim=-2)


@lru_cache
def map_with_an_edge() -> HankelMap:
    """For profiles that end at ``x = 1``."""
    return _hankel_map(Mesh(2.0, 32.0, 5e3, 1408), [(_inside, _CENTRE, _NEAR)])


@lru_cache
def map_with_a_break() -> HankelMap:
    """For profiles that change at ``x = 1``, however sharply, and reach to ``x`` of 1e5."""
    parts = [(_inside, _CENTRE, _NEAR), (_outside, -_NEAR, _FAR)]
    return _hankel_map(Mesh(1e-5, 0.0, 1e4, 768), parts)


@lru_cache
def map_with_a_ring() -> HankelMap:
    """For profiles that are brightest near ``x = 1`` and end before ``x`` of 50."""
    parts = [(_inside, _CENTRE, _NEAR), (_outside, -_NEAR, _AROUND)]
    return _hankel_map(Mesh(0.5, 64.0, 1e3, 1408), parts)


def _inside(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``x`` and ``dx/du`` inside of x = 1."""
    x = 1 / (1 + np.exp(-u))
    return x, x / (1 + np.exp(u))


def _outside(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same outside of it."""
    return 1 + np.exp(u), np.exp(u)


def _hankel_map(mesh: Mesh, parts: Sequence[tuple[_Place, int, int]]) -> HankelMap:
    radii, transforms = zip(*(_transforms(mesh.wavenumbers(), *part) for part in parts), strict=True)
    matrix = np.concatenate(transforms, axis=1)
    splines = _b_spline_coefficients(matrix)
    arrays = (np.concatenate(radii), matrix[0].copy(), splines, _B_SPLINE.copy())
    x, light, coefficients, powers = (torch.from_numpy(array) for array in arrays)
    return HankelMap(x, light, coefficients, powers, mesh)


def _transforms(kappa: np.ndarray, place: _Place, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes of one part of a profile, and the transforms of their cardinal functions, shape (wavenumbers, nodes)."""
    nodes = _STEP * np.arange(first, last + 1)
    fine = _STEP / _FINE * np.arange(_FINE * (first - _REACH), _FINE * (last + _REACH) + 1)
    steps = (fine[:, None] - nodes) / _STEP
    cardinal = np.sinc(steps) * np.exp(-0.5 * (steps / _WIDTH) ** 2)
    x, slope = place(fine)
    fades = 0.5 * erfc((np.multiply.outer(kappa, slope) - _FASTEST) / _FADING)
    heard = fades > 1e-15
    bessel = np.zeros_like(fades)
    bessel[heard] = j0(np.multiply.outer(kappa, x)[heard]) * fades[heard]
    transforms = bessel @ ((2 * np.pi * x * slope * _STEP / _FINE)[:, None] * cardinal)
    # what lies between the last node and x = 1, where the profile hardly changes any more: the rest of a geometric sum
    x, slope = place(nodes)
    nearest = np.argmin(np.abs(x - 1))
    transforms[:, nearest] += 2 * np.pi * slope[nearest] * _STEP / np.expm1(_STEP) * j0(kappa)
    return x, transforms


def _b_spline_coefficients(values: np.ndarray) -> np.ndarray:
    """Coefficients of the uniform cubic B-splines through `values` (nodes, columns), shape (nodes + 2, columns).

    The third derivative is continuous at the first and the last node inside, too ("not a knot").
    """
    count = len(values) + 2
    bands = np.zeros((9, count))  # bands[4 + row - column, column]
    for offset, weight in ((-1, 1 / 6), (0, 4 / 6), (1, 1 / 6)):
        bands[4 - offset, 1 + offset : count - 1 + offset] = weight
    for column, weight in enumerate((1.0, -4.0, 6.0, -4.0, 1.0)):
        bands[4 - column, column] = weight
        bands[4 + column, count - 1 - column] = weight
    ends = np.zeros((1, values.shape[1]))
    return np.ascontiguousarray(solve_banded((4, 4), bands, np.concatenate([ends, values, ends])))
