"""Functions looked up in a table, exact to second order in what they are differentiated by.

The table holds, for a function ``F(t, p)``, cubic-spline coefficients in ``t`` on uniform intervals: each of them a
Chebyshev series in one parameter ``p``, or made anew for each value of some parameters. Differentiating through the
gather would scatter gradients back into the table, which is slow in every backend. So the derivatives are looked up as
well, at detached arguments, and the value is returned as the Taylor polynomial about them: its value, its gradient and
its second derivatives are those of the tabulated function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor


@dataclass(frozen=True)
class Table:
    """A function ``F(t, p)`` on ``0 <= t <= t_max`` and ``p_low <= p <= p_high``.

    `coefficients` has shape ``(degree + 1, 4, intervals)``: the Chebyshev series in ``p`` on ``series_low <= p <=
    series_high``, an interval a little wider than that of ``p``, and powers of the position inside the interval (in
    units of the interval, lowest power first). Always float64.
    """

    coefficients: Tensor
    t_max: float
    p_low: float
    p_high: float
    series_low: float
    series_high: float

    def to(self, device: torch.device) -> Table:
        return replace(self, coefficients=self.coefficients.to(device=device))

    @property
    def step(self) -> float:
        return self.t_max / self.coefficients.shape[-1]


def tabulate(
    function: Callable[[np.ndarray, float], np.ndarray],
    *,
    t_max: float,
    intervals: int,
    p_low: float,
    p_high: float,
    degree: int,
) -> Table:
    """Table of ``function(t, p)``, which takes an array of ``t`` and one ``p`` and returns float64."""
    t = np.linspace(0.0, t_max, intervals + 1)
    x = np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
    margin = 0.01 * (p_high - p_low)
    low, high = p_low - margin, p_high + margin
    p = 0.5 * (low + high) + 0.5 * (high - low) * x
    values = np.stack([function(t, float(node)) for node in p])
    series = np.linalg.solve(np.polynomial.chebyshev.chebvander(x, degree), values)
    spline = CubicSpline(t, series.T)
    step = t_max / intervals
    powers = spline.c[::-1] * (step ** np.arange(4))[:, None, None]
    coefficients = torch.from_numpy(np.ascontiguousarray(powers.transpose(2, 0, 1)))
    return Table(coefficients, t_max, p_low, p_high, low, high)


class Cubics(NamedTuple):
    """A function ``F(t, p)`` at one ``p``, and its derivatives in the parameters ``p``, as cubics in ``t``.

    Each is a tensor of shape ``batch + (4, intervals)``, powers of the position inside the interval, lowest first.
    `value` : of ``F``; `first` : of its derivative in each parameter; `second` : of the derivative of that in the
    parameters up to itself.
    """

    value: Tensor
    first: Sequence[Tensor]
    second: Sequence[Sequence[Tensor]]


def look_up(table: Table, t: Tensor, p: Tensor) -> Tensor:
    """``F(t, p)`` for `t` >= 0 of shape ``batch + (rows, columns)`` and `p` of shape ``batch``.

    Outside the table ``t`` and ``p`` are held at its edge. Exact in first and second derivatives with respect to both.
    """
    p = p.clamp(table.p_low, table.p_high)
    value, slope, curvature = (
        torch.tensordot(one, table.coefficients, dims=1).to(t.dtype) for one in _chebyshev_series(table, p.detach())
    )
    return interpolate(Cubics(value, [slope], [[curvature]]), table.step, t, [p])


def interpolate(cubics: Cubics, step: float, t: Tensor, p: Sequence[Tensor]) -> Tensor:
    """``F(t, p)`` for `t` >= 0 of shape ``batch + (rows, columns)`` and parameters `p` of shape ``batch``, from
    `cubics` that were made at ``p.detach()``, on intervals of `step`.

    Beyond the last interval ``t`` is held at its end. Exact in first and second derivatives with respect to `t` and
    `p`.
    """
    t0 = t.detach()
    last = cubics.value.shape[-1]
    position = (t0 * (1 / step)).clamp(max=last)
    # clamped as integers: a NaN, as a diverging trajectory can bring, must come out as NaN and not as an index out of
    # range
    cells = position.to(torch.int64).clamp(0, last - 1)
    inside = position - cells
    value = _picked(cubics.value, cells)
    scale = 1 / step

    # Zero in value; what is differentiated. bayesprof.inference.capture recognises `x - x.detach()` and drops
    # from a captured graph the products that no derivative of that graph needs.
    dt = t - t0
    dp = [(one - one.detach())[..., None, None] for one in p]
    d_t = scale * _slope(value, inside)
    d_tt = scale**2 * torch.add(2 * value[2], inside * value[3], alpha=6)
    in_t = d_t + 0.5 * dt * d_tt
    in_p: Tensor | float = 0.0
    for i, along in enumerate(dp):
        slope = _picked(cubics.first[i], cells)
        in_t = in_t + along * (scale * _slope(slope, inside))
        d_p = _cubic(slope, inside)
        for j in range(i + 1):
            curvature = _cubic(_picked(cubics.second[i][j], cells), inside)
            d_p = d_p + (0.5 if i == j else 1.0) * dp[j] * curvature
        in_p = in_p + along * d_p
    return _cubic(value, inside) + dt * in_t + in_p


def _chebyshev_series(table: Table, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Chebyshev polynomials and their first two derivatives in ``p``, each of shape ``p.shape + (degree + 1,)``.

    In float64 whatever the dtype of `p`: it is a few numbers per source, and float32 would cost 1e-5 of the value.
    """
    scale = 2.0 / (table.series_high - table.series_low)
    x = ((p.to(torch.float64) - table.series_low) * scale - 1.0)[..., None]
    degrees = torch.arange(table.coefficients.shape[0], dtype=torch.float64, device=p.device)
    angle = torch.arccos(x)
    sine_squared = 1 - x**2  # > 0: the series reaches beyond the table's edges
    value = torch.cos(degrees * angle)
    slope = degrees * torch.sin(degrees * angle) / torch.sqrt(sine_squared)
    curvature = (x * slope - degrees**2 * value) / sine_squared
    return value, slope * scale, curvature * scale**2


def _picked(rows: Tensor, cells: Tensor) -> tuple[Tensor, ...]:
    """The four coefficients of the cubic in each cell, lowest first, from rows of shape ``batch + (4, intervals)``."""
    flat = cells.flatten(-2)[..., None, :]
    batch = torch.broadcast_shapes(rows.shape[:-2], flat.shape[:-2])
    picked = rows.expand(*batch, -1, -1).gather(-1, flat.expand(*batch, 4, -1))
    return tuple(plane.unflatten(-1, cells.shape[-2:]) for plane in picked.unbind(-2))


def _cubic(c: tuple[Tensor, ...], x: Tensor) -> Tensor:
    """Cubic with coefficients `c`, lowest first, at `x`, all without derivatives (addcmul has crashed with them)."""
    return torch.addcmul(c[0], x, torch.addcmul(c[1], x, torch.addcmul(c[2], x, c[3])))


def _slope(c: tuple[Tensor, ...], x: Tensor) -> Tensor:
    """Derivative of the cubic."""
    return torch.addcmul(c[1], x, torch.addcmul(2 * c[2], x, c[3], value=3))
