"""The Laplace approximation to second order: along curves, where a posterior bends away from straight lines.

With x the whitened coordinates of a maximum, a draw x of the Laplace approximation is moved to

    G(x) = x - T(x, x) / 2,    T = (dw/dx)^-1 d^2w/dx^2 at the maximum,

w being the residuals seen along the directions of the maximum (:mod:`bayesprof.inference.residual_coordinates`), which
are thereby linear in x to second order. What bends like this is made by the parametrisation ("parameter-effects
curvature", Bates & Watts 1980, JRSS B 42, 1). Where :mod:`bayesprof.inference.rto` solves an equation, by a few
Jacobians, for each draw, this takes two Jacobians for each parameter once for all draws.

The density of G(x) is that of x over the determinant of the slope ``1 - T(x, .)``. G is quadratic, so its difference
between two points is its slope half way, times theirs: where slopes have a positive symmetric part, which is a convex
set, no two points have one image. In what axes and units that part is taken is free, and they are chosen to balance T
(Osborne 1960, J. ACM 7, 338): a shear of any size is then in the set. Draws outside of it have no weight; and a tenth
of all are those of the Laplace approximation as they are, for what the others don't reach.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bayesprof.inference.modes import Modes, log_t, t_draws
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.residual_coordinates import residual_coordinates
from bayesprof.inference.whitening import Whitened

_FEW, _FEW_ELEMENTS = 32, 2**23  # parameters, and elements of the Jacobian, up to which this is worth a try
_STEP = 1e-3  # standard deviations, of the differences
_STRAIGHT = 0.1  # of the draws
_LEAST = 0.05  # smallest eigenvalue of the symmetric part of a slope
_STEPS, _HALVINGS = 25, 6  # of Newton's method back from an image, and of each step
_ROUNDS, _MOST_SCALE, _NO_BEND = 30, 1e3, 1e-3  # of balancing, the largest unit, and a bend that is as good as none

_GRAMS = (("ajk", "bjk"), ("iak", "ibk"))


@dataclass(frozen=True)
class Curve:
    """G about a maximum, in its whitened coordinates `at`; `bend` T (D, D, D), alike in its last two axes."""

    at: Whitened
    bend: Tensor

    def moved(self, x: Tensor) -> Tensor:
        """G of `x` (count, D)."""
        return x - 0.5 * torch.einsum("ijk,nj,nk->ni", self.bend, x, x)

    def slope(self, x: Tensor) -> Tensor:
        """That of G at `x` (count, D), shape (count, D, D)."""
        return torch.eye(len(self.bend)).to(x) - torch.einsum("ijk,nk->nij", self.bend, x)

    def log_density(self, x: Tensor) -> Tensor:
        """In whitened coordinates, at G of `x` (count, D): that of moved draws; minus infinity outside of the set."""
        slope, (to, back) = self.slope(x), self.balance
        balanced = to @ slope @ back
        inside = torch.linalg.eigvalsh(0.5 * (balanced + balanced.mT))[:, 0] > _LEAST
        return torch.where(inside, log_t(x) - torch.linalg.slogdet(slope)[1], -torch.inf)

    @cached_property
    def balance(self) -> tuple[Tensor, Tensor]:
        """A matrix (D, D) to the axes and units in which T is balanced, and its inverse."""
        # axes that T leads to, and such that it comes from, as far as they differ
        leads, comes = (torch.einsum(f"{one},{two}->ab", self.bend, self.bend) for one, two in _GRAMS)
        axes = torch.linalg.eigh(leads - comes)[1]
        sizes = torch.einsum("ijk,ia,jb->abk", self.bend, axes, axes).norm(dim=-1)
        sizes = sizes - torch.diag(sizes.diagonal()) + _NO_BEND / len(sizes)
        units = torch.ones_like(sizes[0])
        for _ in range(_ROUNDS):
            scaled = units[:, None] * sizes / units
            units = (units * torch.sqrt(scaled.sum(0) / scaled.sum(1))).clamp(1 / _MOST_SCALE, _MOST_SCALE)
        return units[:, None] * axes.T, axes / units

    def origin(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """x of which `image` (count, D) is G, by Newton's method, and where it was found, (count,)."""
        x = image
        off = self.moved(x) - image
        close = torch.finfo(image.dtype).eps ** 0.5
        for _ in range(_STEPS):
            if bool((off.norm(dim=-1) < close).all()):
                break
            step = torch.linalg.solve_ex(self.slope(x), off[..., None])[0][..., 0]
            length = torch.ones_like(off[:, :1])
            for _ in range(_HALVINGS):
                there = self.moved(x - length * step) - image
                nearer = there.norm(dim=-1, keepdim=True) < off.norm(dim=-1, keepdim=True)
                length = torch.where(nearer, length, 0.5 * length)
            x = x - length * step
            off = self.moved(x) - image
        return x, off.norm(dim=-1) < close


@dataclass(frozen=True)
class Curves:
    """G about each of the `modes`."""

    modes: Modes
    each: tuple[Curve, ...]

    def proposals(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """`count` draws (count, D) about all modes and their log density, as :meth:`Modes.proposals`; infinite for
        those without a weight.
        """
        counts = self.modes.counts(count)
        x = t_draws(count, len(self.each[0].bend), seed).to(self.each[0].bend)
        z, lost = [], []
        for one, some in zip(self.each, x.split(counts.tolist()), strict=True):
            straight = torch.arange(len(some), device=some.device) < round(_STRAIGHT * len(some))
            z.append(one.at.unwhiten(torch.where(straight[:, None], some, one.moved(some))))
            lost.append(~straight & one.log_density(some).isneginf())
        every = torch.cat(z)
        shares = (counts / count).to(every)
        log_proposal = torch.stack([self._log_density(one, every) for one in self.each], dim=-1)
        return every, torch.where(torch.cat(lost), torch.inf, (log_proposal + shares.log()).logsumexp(-1))

    def _log_density(self, one: Curve, z: Tensor) -> Tensor:
        """At `z` (count, D), of draws about one mode."""
        image = one.at.whiten(z)
        x, found = one.origin(image)
        moved = torch.where(found, one.log_density(torch.where(found[:, None], x, 0.0)), -torch.inf)
        mixture = torch.stack([log_t(image), moved], dim=-1) + torch.tensor([_STRAIGHT, 1 - _STRAIGHT]).log().to(z)
        density: Tensor = mixture.logsumexp(-1) - one.at.log_volume
        return density


def curves(posterior: Posterior) -> bool:
    """Whether this is known, and worth a try: of few parameters, whose Jacobian is small."""
    known = posterior.all_known and posterior.plate is None and posterior.size <= _FEW
    return known and posterior.size * posterior.observed_count <= _FEW_ELEMENTS


def curves_at(modes: Modes) -> Curves:
    """Those about every mode."""
    return Curves(modes, tuple(_curve_at(one) for one in modes.each))


def _curve_at(at: Whitened) -> Curve:
    """By differences of the slope of w along the axes."""
    size = len(at.centre)
    steps = _STEP * torch.eye(size).to(at.centre)
    slope = residual_coordinates(at).at(at.unwhiten(torch.cat([steps, -steps, torch.zeros_like(steps[:1])])))[1]
    axes = (at.unwhiten(steps) - at.centre) / _STEP  # rows: dz/dx along each
    along = slope @ axes.T
    second = ((along[:size] - along[size:-1]) / (2 * _STEP)).permute(1, 2, 0)
    bend = torch.linalg.solve_ex(along[-1], second.reshape(size, -1))[0].reshape(size, size, size)
    # none that is known, where nothing holds a parameter, or the model isn't finite beside the maximum
    bend = bend if bool(bend.isfinite().all()) else torch.zeros_like(bend)
    return Curve(at, 0.5 * (bend + bend.mT))
