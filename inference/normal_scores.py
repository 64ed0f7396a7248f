"""Functions that make the prior of each parameter a standard normal distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesprof.inference.posterior import Posterior

_NEAREST, _FARTHEST = 1e-2, 1e6  # standard deviations of the posterior from its maximum, between which there are nodes
_NODES = 160  # on each side
_MOST = 35.0  # score at which a distribution has ended: the probability of more is 1e-268


@dataclass(frozen=True)
class NormalScores:
    """Of each entry of z, Phi^-1 of the cumulative distribution of its prior, the other entries at the maximum: a
    standard normal variable where the prior is that of independent entries.

    `nodes` (D, nodes), and there the `scores` and their `slopes`; between them cubic, beyond them straight.
    """

    nodes: Tensor
    scores: Tensor
    slopes: Tensor

    def at(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and their derivatives at `z` (..., D)."""
        columns = z.reshape(-1, z.shape[-1]).T.contiguous()
        place = torch.searchsorted(self.nodes, columns).clamp(1, self.nodes.shape[-1] - 1)
        left, right, here, there, rising, falling = (
            values.gather(-1, place + shift) for values in (self.nodes, self.scores, self.slopes) for shift in (-1, 0)
        )
        width = right - left
        t = (columns - left) / width
        inside = t.clamp(0, 1)
        # the cubic with these values and slopes at both ends
        change, bend = there - here, width * (rising + falling)
        first, third = width * rising, bend - 2 * change
        second = 3 * change - bend - first
        value = here + inside * (first + inside * (second + inside * third))
        slope = (first + inside * (2 * second + 3 * inside * third)) / width
        value = value + (t - inside) * width * slope
        return tuple(part.T.reshape(z.shape) for part in (value, slope))  # type: ignore[return-value]


def normal_scores(posterior: Posterior, centre: Tensor, widths: Tensor) -> NormalScores:
    """Those of the prior about `centre` (D,), where the posterior has these `widths` (D,)."""
    size = len(centre)
    t = torch.linspace(math.log(_NEAREST), math.log(_FARTHEST), _NODES, dtype=centre.dtype, device=centre.device)
    away = torch.cat([-torch.exp(t).flip(0), t.new_zeros(1), torch.exp(t)])
    nodes = centre[:, None] + widths[:, None] * away
    points = centre.repeat(size, len(away), 1)
    points[torch.arange(size), :, torch.arange(size)] = nodes
    log_prior = posterior.log_prior(points.reshape(-1, size)).reshape(nodes.shape)
    log_prior = torch.where(log_prior.isfinite(), log_prior, -torch.inf)
    density = torch.exp(log_prior - log_prior.amax(-1, keepdim=True))
    # between two nodes it is taken for an exponential function
    bend = log_prior.diff(dim=-1)
    mean = torch.where(bend.abs() < 1e-4, 0.5 * (density[:, 1:] + density[:, :-1]), density.diff(dim=-1) / bend)
    pieces = mean.nan_to_num(nan=0.0) * nodes.diff(dim=-1)
    below = torch.nn.functional.pad(pieces.cumsum(-1), (1, 0))
    above = torch.nn.functional.pad(pieces.flip(-1).cumsum(-1).flip(-1), (0, 1))
    total = below[:, -1:]
    lower, upper = (torch.special.ndtri((part / total).clamp(max=0.5)).clamp(min=-_MOST) for part in (below, above))
    scores = torch.where(below < above, lower, -upper)
    slopes = density / total * math.sqrt(2 * math.pi) * torch.exp(0.5 * scores**2)
    # three times the smaller secant at most, with which the cubic is monotone (Fritsch & Carlson 1980, SIAM J. Numer.
    # Anal. 17, 238)
    secants = scores.diff(dim=-1) / nodes.diff(dim=-1)
    steepest = 3 * torch.cat([secants[:, :1], torch.minimum(secants[:, 1:], secants[:, :-1]), secants[:, -1:]], -1)
    return NormalScores(nodes, scores, torch.where(slopes.isfinite(), slopes, 0.0).minimum(steepest))
