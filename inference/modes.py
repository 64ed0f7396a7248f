"""Several maxima of one posterior: coordinates at each, the mixture of their Laplace approximations, and jumps between.

A chain carries the label m of the mode whose coordinates it moves in. Position and label have the joint density
``p(z) r_m(z)``, r_m the share of mode m in the mixture's density at z: summed over labels, that of z is the
posterior's. Between the transitions of a sampler it proposes the same whitened position about another mode, accepted
as Metropolis and Hastings would; that costs a gradient, and is exact however poor the approximations are (in the spirit
of darting: Sminchisescu & Welling 2011, Pattern Recognition 44, 2738). Where they are good, it is accepted about as
often as the ratio of the modes' probabilities says, or always.

Each approximation is a Student t, whose tails are at least as heavy as most posteriors': weights of draws from it are
bounded where a Gaussian's are not. With as many degrees of freedom as dimensions, 10 at least, a Gaussian posterior
keeps 86% of its effective draws in any dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from bayesprof.inference.fit import Fit
from bayesprof.inference.kernels import State, Target
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.whitening import DISPERSION, Whitened, whitened_at

_DEGREES_OF_FREEDOM = 10
_LEAST_SHARE = 1e-4  # of the probability, below which a mode isn't gone to
_LEAST_DRAWN = 0.1  # of the proposals, from each mode: its share by Laplace may be far off
_COUNTS = 0.01  # share from which a mode that no draw goes to is a failure
_HARDLY = 0.1  # part of its share in the draws, below which they hardly go there
_HALVINGS = 14  # of a start that lies too far out; after the last it is the centre


@dataclass(frozen=True)
class Modes:
    """Coordinates at each mode of a posterior, the most probable one first, and its evidence by Laplace.

    `each` : one for each of M modes; `log_evidences` (M,) : log integral of the Gaussian that has the density at the
    maximum and the curvature there.
    """

    each: tuple[Whitened, ...]
    log_evidences: Tensor

    @property
    def posterior(self) -> Posterior:
        return self.each[0].posterior

    @property
    def log_evidence(self) -> float:
        """That of all modes together."""
        return float(self.log_evidences.logsumexp(0))

    @property
    def shares(self) -> Tensor:
        """Probability of each mode, (M,)."""
        return self.log_evidences.softmax(0)

    def proposals(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """`count` draws (count, D) of a mixture of Student t distributions, one at each mode, and their log density.

        Each has its share of the draws, a tenth of an equal one at least.
        """
        counts = self.counts(count)
        w = t_draws(count, len(self.each[0].centre), seed).to(self.each[0].centre)
        z = torch.cat([one.unwhiten(part) for one, part in zip(self.each, w.split(counts.tolist()), strict=True)])
        return z, (self._log_t(z) + (counts / count).log()).logsumexp(-1)

    def counts(self, count: int) -> Tensor:
        """How many of `count` proposals each mode has, (M,)."""
        fractions = _LEAST_DRAWN / len(self.each) + (1 - _LEAST_DRAWN) * self.shares
        edges = (count * fractions.cumsum(0)).round().long()
        return edges.diff(prepend=torch.zeros_like(edges[:1]))

    def at(self, labels: Tensor) -> Target:
        """What chains that carry `labels` (chains,) move in."""
        return self.each[0] if len(self.each) == 1 else _Labelled(self, labels)

    def unwhiten(self, w: Tensor, labels: Tensor) -> Tensor:
        """`z` (..., D) of `w`, in the coordinates of the `labels` (...)."""
        return _chosen([one.unwhiten(w) for one in self.each], labels)

    def dispersed(self, chains: int, seed: int) -> tuple[State, Tensor]:
        """Starts of chains, and their labels: as many about each mode as its share of the probability."""
        edges = self.shares.cumsum(0)[:-1].contiguous().cpu()
        labels = torch.searchsorted(edges, (torch.arange(chains, dtype=edges.dtype) + 0.5) / chains)
        return _dispersed(self.at(labels), self.each[0].centre, chains, seed), labels

    def jumped(self, state: State, labels: Tensor, seed: int) -> tuple[State, Tensor]:
        """The chains after a proposal to each of another mode, and their labels."""
        if len(self.each) == 1:
            return state, labels
        generator = torch.Generator().manual_seed(seed)
        away = torch.randint(1, len(self.each), (len(labels),), generator=generator)
        uniform = torch.rand(len(labels), generator=generator, dtype=torch.float64).to(state.potential)
        there = (labels + away) % len(self.each)
        potential, gradient = self.at(there).potential(state.position)
        volumes = torch.tensor([one.log_volume for one in self.each], dtype=torch.float64)
        larger = (volumes[there] - volumes[labels]).to(state.potential)
        accepted = uniform.log() < state.potential - potential + larger
        return State(
            state.position,
            torch.where(accepted, potential, state.potential),
            torch.where(accepted[:, None], gradient, state.gradient),
        ), torch.where(accepted.cpu(), there, labels)

    def log_density(self, state: State, labels: Tensor) -> Tensor:
        """Log posterior density (chains,) of chains, whose potential that of their labels is part of."""
        if len(self.each) == 1:
            return -state.potential
        log_shares, _ = self.log_ownership(self.unwhiten(state.position, labels), labels)
        return -state.potential - log_shares

    def learned(self, w: Tensor, labels: Tensor, *, prior_draws: float) -> Modes:
        """The coordinates after seeing the draws `w` (chains, draws, D) that carried `labels` (chains, draws); these
        where they don't tell of others (:meth:`Whitened.learned`). Draws count for as many as are independent.
        """
        independent = _independent_fraction(w)
        each = [
            one.learned(
                w[labels == mode] if len(self.each) > 1 else w, prior_draws=prior_draws, independent=independent
            )
            for mode, one in enumerate(self.each)
        ]
        if all(new is old for new, old in zip(each, self.each, strict=True)):
            return self
        return replace(self, each=tuple(each))

    def moved_to(self, there: Modes, state: State, labels: Tensor) -> State:
        """The same chains in other coordinates."""
        z = self.unwhiten(state.position, labels)
        position = _chosen([one.whiten(z) for one in there.each], labels)
        return State(position, *there.at(labels).potential(position))

    def log_ownership(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Log of the share r of `labels` (chains,) in the mixture's density at `z` (chains, D), and its gradient."""
        parts = self._log_t(z) + self.log_evidences.log_softmax(0)
        slopes = torch.stack([_t_slope(one, z) for one in self.each], dim=-1)  # (chains, D, M)
        mean = (slopes * parts.softmax(-1)[:, None, :]).sum(-1)
        own = labels.to(z.device)[:, None]
        log_share = parts.log_softmax(-1).gather(-1, own)[:, 0]
        return log_share, _chosen(list(slopes.unbind(-1)), labels) - mean

    def unvisited(self, z: Tensor, weights: Tensor | None = None) -> str | None:
        """What is to be said of draws `z` (..., D) where they hardly go to a mode with a part in the probability.
        `weights` (...) sum to 1; equal ones where None.
        """
        if len(self.each) == 1:
            return None
        nearest = (self._log_t(z) + self.log_evidences.log_softmax(0)).argmax(-1).reshape(-1)
        equal = torch.full_like(nearest, 1 / len(nearest), dtype=self.log_evidences.dtype)
        seen = nearest.bincount(equal if weights is None else weights.reshape(-1), minlength=len(self.each))
        missed = float(self.shares[(self.shares > _COUNTS) & (seen < _HARDLY * self.shares)].sum())
        if missed == 0:
            return None
        return (
            f"the draws hardly go to other maxima that the fit knows, about which there are {100 * missed:.2g}% of the "
            "probability; use inference.sample, whose methods go to all"
        )

    def _log_t(self, z: Tensor) -> Tensor:
        """Log density in z of the Student t at each mode, (..., M)."""
        return torch.stack([log_t(one.whiten(z)) - one.log_volume for one in self.each], dim=-1)


class _Labelled(NamedTuple):
    """The joint density of position and label, in the coordinates of each chain's label."""

    modes: Modes
    labels: Tensor

    def potential(self, w: Tensor) -> tuple[Tensor, Tensor]:
        modes, labels = self
        z = modes.unwhiten(w, labels)
        value, gradient = modes.posterior.value_and_grad(z)
        log_share, share_slope = modes.log_ownership(z, labels)
        total = gradient + share_slope
        slope = _chosen([one.slope(total) for one in modes.each], labels)
        finite = value.isfinite() & log_share.isfinite() & slope.isfinite().all(-1)
        return torch.where(finite, -value - log_share, torch.inf), torch.where(finite[:, None], -slope, 0.0)


def modes_at(posterior: Posterior, fit: Fit) -> Modes:
    """Coordinates at the maximum that a fit found, and at the others where it found several."""
    every = [whitened_at(posterior, one) for one in (fit, *fit.others)]
    evidences = [_log_evidence(one.log_density, at.factor) for one, at in zip((fit, *fit.others), every, strict=True)]
    found = torch.stack(evidences).double()
    kept = [mode for mode in found.argsort(descending=True).tolist() if found.softmax(0)[mode] > _LEAST_SHARE]
    return Modes(tuple(every[mode] for mode in kept), found[kept])


def shares_of(fits: Sequence[Fit]) -> Tensor:
    """Probability of each maximum, by Laplace."""
    return torch.stack([_log_evidence(fit.log_density, torch.linalg.cholesky(fit.hessian)) for fit in fits]).softmax(0)


def _log_evidence(log_density: float, factor: Tensor) -> Tensor:
    """Log integral of the Gaussian with that log density at its centre, and the Cholesky factor of its curvature."""
    return log_density + 0.5 * len(factor) * math.log(2 * math.pi) - factor.diagonal().log().sum()


def restored_modes(posterior: Posterior, centres: Tensor, factors: Tensor, log_evidences: Tensor) -> Modes:
    """Those of which centres (M, D), factors (M, D, D) and log evidences (M,) were kept."""
    return Modes(
        tuple(Whitened(posterior, centre, factor) for centre, factor in zip(centres, factors, strict=True)),
        log_evidences,
    )


def _chosen(of_modes: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Values (..., D) for each mode, of which each row takes those of its label (...)."""
    if len(of_modes) == 1:
        return of_modes[0]
    index = labels.to(of_modes[0].device)[..., None, None].expand(*labels.shape, of_modes[0].shape[-1], 1)
    return torch.stack(list(of_modes), dim=-1).gather(-1, index)[..., 0]


def _independent_fraction(w: Tensor) -> float:
    """Independent draws per draw of chains (chains, draws, D), 1 at most: by how much more the means of their halves
    scatter than those of independent draws would.
    """
    half = w.shape[1] // 2
    if half < 2:
        return 1.0
    halves = torch.cat([w[:, :half], w[:, half : 2 * half]])
    scatter = half * halves.mean(1).var(0).sum()
    return float((halves.var(1).mean(0).sum() / scatter.clamp(min=1e-30)).clamp(max=1.0))


def _dispersed(target: Target, like: Tensor, chains: int, seed: int) -> State:
    """Starts around the centre, drawn nearer where the density isn't finite or far below that of a Gaussian."""
    generator = torch.Generator().manual_seed(seed)
    size = len(like)
    position = DISPERSION * torch.randn(chains, size, generator=generator, dtype=torch.float64).to(like)
    lowest, _ = target.potential(torch.zeros_like(position))
    if not bool(lowest.isfinite().all()):
        raise ValueError(
            "expected a fit at a point of finite density, got one where it isn't; fit again with inference.lm"
        )
    for attempt in range(_HALVINGS):
        potential, gradient = target.potential(position)
        far = ~(potential < lowest + 5 * size + 50)
        if not bool(far.any()):
            break
        position = torch.where(far[:, None], 0.5 * position if attempt < _HALVINGS - 2 else 0.0, position)
    return State(position, potential, gradient)


# -- the standard Student t in whitened coordinates


def _degrees(size: int) -> int:
    return max(_DEGREES_OF_FREEDOM, size)


def t_draws(count: int, size: int, seed: int) -> Tensor:
    """Draws (count, size)."""
    df = _degrees(size)
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(count, size, dtype=torch.float64, generator=generator)
    chi_square = torch.randn(count, df, dtype=torch.float64, generator=generator).square().sum(-1)
    return normal / (chi_square / df).sqrt()[:, None]


def log_t(w: Tensor) -> Tensor:
    """Log density at `w` of shape (..., size)."""
    size = w.shape[-1]
    df = _degrees(size)
    log_norm = math.lgamma((df + size) / 2) - math.lgamma(df / 2) - size / 2 * math.log(df * math.pi)
    return log_norm - (df + size) / 2 * torch.log1p(w.square().sum(-1) / df)


def _t_slope(whitened: Whitened, z: Tensor) -> Tensor:
    """Gradient in z of that log density."""
    w = whitened.whiten(z)
    size = w.shape[-1]
    df = _degrees(size)
    return (-(df + size) / (df + w.square().sum(-1, keepdim=True)) * w) @ whitened.factor.T
