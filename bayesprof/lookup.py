"""Functions of two variables looked up in a table, exact to second order in what they are differentiated by.

The table holds, for a function ``F(t, p)``, cubic-spline coefficients in ``t`` on uniform intervals, each of them a
Chebyshev series in ``p``. Differentiating through the gather would scatter gradients back into the table, which is
slow in every backend. So the derivatives are looked up as well, at detached arguments, and the value is returned as
the Taylor polynomial about them: its value, its gradient and its second derivatives are those of the tabulated
function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor


@dataclass(frozen=True)
class Table:
    """A function ``F(t, p)`` on ``0 <= t <= t_max`` and ``p_low <= p <= p_high``.

    `coefficients` has shape ``(intervals, 4, degree + 1)``: powers of the position inside the interval (in units of
    the interval, lowest power first), and the Chebyshev series in ``p`` on ``series_low <= p <= series_high``, an
    interval a little wider than that of ``p``. Always float64.
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
        return self.t_max / self.coefficients.shape[0]


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
    coefficients = torch.from_numpy(np.ascontiguousarray(powers.transpose(1, 0, 2)))
    return Table(coefficients, t_max, p_low, p_high, low, high)


def look_up(table: Table, t: Tensor, p: Tensor) -> Tensor:
    """``F(t, p)`` for `t` of shape ``batch + (rows, columns)`` and `p` of shape ``batch`` (or one that broadcasts).

    Outside the table ``t`` and ``p`` are held at its edge. Exact in first and second derivatives with respect to both.
    """
    p = p.clamp(table.p_low, table.p_high)
    t = t.clamp(0.0, table.t_max)
    t0, p0 = t.detach(), p.detach()
    scale = 1.0 / table.step
    position = t0 * scale
    interval = position.floor().clamp(max=table.coefficients.shape[0] - 1)
    inside = position - interval
    # a NaN, as a diverging trajectory can bring, must come out as NaN and not as an index out of range
    cells = interval.nan_to_num(0.0).to(torch.int64)

    series = _chebyshev_series(table, p0)
    value, d_t, d_tt = _cubic(_rows(table, series[0], cells, t.dtype), inside, scale)
    d_p, d_tp, _ = _cubic(_rows(table, series[1], cells, t.dtype), inside, scale)
    d_pp, _, _ = _cubic(_rows(table, series[2], cells, t.dtype), inside, scale)

    # Zero in value; what is differentiated. bayesprof.inference.capture recognises `x - x.detach()` and drops
    # from a captured graph the products that no derivative of that graph needs.
    dt = t - t0
    dp = (p - p0)[..., None, None]
    return value + dt * (d_t + 0.5 * dt * d_tt + dp * d_tp) + dp * (d_p + 0.5 * dp * d_pp)


def _chebyshev_series(table: Table, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Chebyshev polynomials and their first two derivatives in ``p``, each of shape ``p.shape + (degree + 1,)``.

    In float64 whatever the dtype of `p`: it is a few numbers per source, and float32 would cost 1e-5 of the value.
    """
    scale = 2.0 / (table.series_high - table.series_low)
    x = ((p.to(torch.float64) - table.series_low) * scale - 1.0)[..., None]
    degrees = torch.arange(table.coefficients.shape[-1], dtype=torch.float64, device=p.device)
    angle = torch.arccos(x)
    sine_squared = 1 - x**2  # > 0: the series reaches beyond the table's edges
    value = torch.cos(degrees * angle)
    slope = degrees * torch.sin(degrees * angle) / torch.sqrt(sine_squared)
    curvature = (x * slope - degrees**2 * value) / sine_squared
    return value, slope * scale, curvature * scale**2


def _rows(table: Table, series: Tensor, cells: Tensor, dtype: torch.dtype) -> Tensor:
    """Cubic coefficients ``(..., 4)`` of each cell, for a Chebyshev vector per batch element."""
    intervals = table.coefficients.shape[0]
    if series.ndim == 1:
        return (table.coefficients @ series).to(dtype)[cells]
    batch = series.shape[:-1]
    rows = torch.einsum("icd,bd->bic", table.coefficients, series.reshape(-1, series.shape[-1])).to(dtype)
    offsets = torch.arange(rows.shape[0], device=cells.device).reshape(batch)[..., None, None] * intervals
    return rows.reshape(-1, 4)[cells + offsets]


def _cubic(c: Tensor, x: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Value, first and second derivative of a cubic with coefficients `c` (lowest first) at `x`."""
    c0, c1, c2, c3 = c.unbind(-1)
    value = c0 + x * (c1 + x * (c2 + x * c3))
    slope = (c1 + x * (2 * c2 + x * (3 * c3))) * scale
    curvature = (2 * c2 + x * (6 * c3)) * scale**2
    return value, slope, curvature
