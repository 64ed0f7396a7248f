"""Functions looked up in tables of cubics, exact to second order in what they are differentiated by.

The table of a function ``F(t, p)`` holds, for each of some uniform intervals in ``t``, the coefficients of a cubic: a
Chebyshev series in one parameter ``p``, or made anew for each value of some parameters. A value takes the four
coefficients of its interval. The derivative along one of them is the sum of a power of the position over all that is
looked up in that interval: four sums give the derivatives along every parameter behind the table, however many they
are. Along ``t`` derivatives are looked up as well, and the value is returned as the Taylor polynomial about where it
was looked up, which costs less than to differentiate the cubic.
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


def look_up(table: Table, t: Tensor, p: Tensor) -> Tensor:
    """``F(t, p)`` for `t` >= 0 of shape ``batch + (rows, columns)`` and `p` of shape ``batch``.

    Outside the table ``t`` and ``p`` are held at its edge. Exact in first and second derivatives with respect to both.
    """
    series = _chebyshev_series(table, p.clamp(table.p_low, table.p_high))
    return interpolate(torch.tensordot(series, table.coefficients, dims=1).to(t.dtype), table.step, t)


def interpolate(cubics: Tensor, step: float, t: Tensor) -> Tensor:
    """A function of `t` >= 0 of shape ``batch + (rows, columns)``, given by `cubics` on intervals of `step`.

    `cubics` : shape ``batch + (4, intervals)``, powers of the position inside the interval, lowest first. Beyond the
    last interval ``t`` is held at its end. Exact in first and second derivatives with respect to `t` and `cubics`.
    """
    t0, fixed = t.detach(), cubics.detach()
    last = cubics.shape[-1]
    position = (t0 * (1 / step)).clamp(max=last)
    # clamped as integers: a NaN, as a diverging trajectory can bring, must come out as NaN and not as an index out of
    # range
    cells = position.to(torch.int64).clamp(0, last - 1)
    x = position - cells
    # addcmul has crashed where it is differentiated, so it takes what isn't
    c0, c1, c2, c3 = _picked(fixed, cells)
    value = torch.addcmul(c0, x, torch.addcmul(c1, x, torch.addcmul(c2, x, c3)))
    slope = torch.addcmul(c1, x, torch.addcmul(2 * c2, x, c3, value=3))
    curvature = torch.add(2 * c2, x * c3, alpha=6)

    # Zero in value; what is differentiated. bayesprof.inference.capture recognises `x - x.detach()` and drops
    # from a captured graph the products that no derivative of that graph needs.
    dt = (t - t0) * (1 / step)
    d0, d1, d2, d3 = _picked(cubics - fixed, cells)
    in_value = d0 + x * (d1 + x * (d2 + x * d3))
    in_slope = d1 + x * (2 * d2 + x * (3 * d3))
    return value + in_value + dt * (slope + in_slope + 0.5 * dt * curvature)


def cubics_through(values: Tensor, slopes: Tensor, step: float) -> Tensor:
    """Coefficients for :func:`interpolate`, shape ``batch + (4, intervals)``, of the cubics with these values and
    slopes on the nodes, of shape ``batch + (intervals + 1,)``.

    >>> t = torch.tensor([0.0, 0.5, 1.0])
    >>> cubics_through(t**3, 3 * t**2, 0.5)
    tensor([[0.0000, 0.1250],
            [0.0000, 0.3750],
            [0.0000, 0.3750],
            [0.1250, 0.1250]])
    """
    rise, before, after = values.diff(dim=-1), step * slopes[..., :-1], step * slopes[..., 1:]
    square, cubic = 3 * rise - 2 * before - after, before + after - 2 * rise
    return torch.stack([values[..., :-1], before, square, cubic], dim=-2)


def _chebyshev_series(table: Table, p: Tensor) -> Tensor:
    """Chebyshev polynomials in ``p``, shape ``p.shape + (degree + 1,)``.

    In float64 whatever the dtype of `p`: it is a few numbers per source, and float32 would cost 1e-5 of the value.
    """
    scale = 2.0 / (table.series_high - table.series_low)
    x = ((p.to(torch.float64) - table.series_low) * scale - 1.0)[..., None]
    degrees = torch.arange(table.coefficients.shape[0], dtype=torch.float64, device=p.device)
    return torch.cos(degrees * torch.arccos(x))  # |x| < 1: the series reaches beyond the table's edges


def _picked(rows: Tensor, cells: Tensor) -> tuple[Tensor, ...]:
    """The four coefficients of the cubic in each cell, lowest first, from rows of shape ``batch + (4, intervals)``."""
    flat = cells.flatten(-2)[..., None, :]
    batch = torch.broadcast_shapes(rows.shape[:-2], flat.shape[:-2])
    flat = flat.expand(*batch, 1, -1)
    # power by power, as their derivatives are summed: those of all four at once would have to be copied together first
    picked = (row.expand(*batch, 1, -1).gather(-1, flat) for row in rows.split(1, dim=-2))
    return tuple(plane.reshape(*batch, *cells.shape[-2:]) for plane in picked)
