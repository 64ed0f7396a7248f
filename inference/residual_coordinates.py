"""Coordinates in which a posterior that bends is straight: its residuals, seen along the directions of its maximum.

The log density of a posterior is, but for a constant, ``-|R(z)|^2 / 2`` with R the residuals of the data, in units of
their standard deviations, and of the prior. With ``Q`` an orthonormal basis of what R can do about the maximum,

    w(z) = Q^T R(z),    Q R = dR/dz there,

has as many entries as z, and to first order R moves along Q alone. A model has two kinds of curvature (Bates & Watts
1980, JRSS B 42, 1): what its parametrisation makes, by which a posterior is a thin bent sheet, and what is left in any
parametrisation. In w there is only the second, which is small for most models: w is nearly standard normal where z is
far from it. Solving ``w(z) = t`` for t from a standard distribution gives draws of known density ``p(t) |dw/dz|``
(randomize-then-optimize: Bardsley, Solonen, Haario & Laine 2014, SIAM J. Sci. Comput. 36, A1895), and where the
posterior has light these have as well, since |w| is never larger than |R|.

The residuals of the data are those of the means of the observed sites, whose widths are known; those of the prior its
normal scores (:mod:`bayesprof.inference.normal_scores`), as Wang, Bardsley, Solonen, Cui & Marzouk (2017, SIAM J. Sci.
Comput. 39, S140) transform priors. What that leaves out, weights make up for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from bayesprof.inference.modes import Modes, log_t, t_draws
from bayesprof.inference.normal_scores import NormalScores, normal_scores
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.whitening import Whitened

_TOGETHER, _ELEMENTS = 64, 2**22  # points solved for together, and elements of their Jacobians, 32 MB, at most
_CLOSE = 1e-3  # distance in w at which an equation is solved
_NEARER = 0.5  # of a part of the way, that may be left at its end
_TRIES, _SHORTER = 3, 0.3  # Newton steps to get so near, and the next part, in units of the last, where they don't
_SHORTEST, _MOST_STEPS = 1e-3, 80  # part of the way, and number of steps, at which an equation isn't solved
_STEPS = 5  # that a solution takes, about
_SAME = 0.1  # standard deviations within which two solutions are one
_COUNTS = 12.0  # log of a density, relative to another's, below which it is of no account


class _Here(NamedTuple):
    """Points `z`, their `w` and the `slope` dw/dz."""

    z: Tensor
    w: Tensor
    slope: Tensor

    def chosen(self, index: Tensor) -> _Here:
        return _Here(*(value[index.to(value.device)] for value in self))

    def where(self, mask: Tensor, other: _Here) -> _Here:
        """These where `mask` is true, else the other ones."""
        return _Here(
            *(
                torch.where(mask.reshape(-1, *[1] * (one.ndim - 1)), one, another)
                for one, another in zip(self, other, strict=True)
            )
        )


class Points(NamedTuple):
    """Solutions `z` (count, D) of equations; `w` there, and the log determinant `volume` of dw/dz; whether it was
    `found`.
    """

    z: Tensor
    w: Tensor
    volume: Tensor
    found: Tensor


@dataclass(frozen=True, eq=False)
class ResidualCoordinates:
    """``w(z) = A^-1 [J^T W (theta(z) - theta) - s + U u(z)]``, with ``A A^T = J^T W J + U^2``.

    `predicted` theta (N,), the parameters of the observed distributions at `centre` (D,); `projection` A^-1 J^T W
    (D, N); `scores` u, and `slopes` A^-1 U (D, D); `offset` A^-1 s (D,), s the score there; `factor` A.
    """

    posterior: Posterior
    centre: Tensor
    factor: Tensor
    predicted: Tensor
    projection: Tensor
    scores: NormalScores
    slopes: Tensor
    offset: Tensor

    def at(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """w and dw/dz, shapes (count, D) and (count, D, D), at `z` (count, D)."""
        if len(z) > self.together:
            parts = [self.at(some) for some in z.split(self.together)]
            return torch.cat([w for w, _ in parts]), torch.cat([slope for _, slope in parts])
        predicted, jacobian, _ = self.posterior.jacobian(z)
        u, slope = self.scores.at(z)
        w = (predicted - self.predicted) @ self.projection.T + u @ self.slopes.T - self.offset
        return w, (jacobian @ self.projection.T).mT + self.slopes * slope[:, None, :]

    @property
    def together(self) -> int:
        """Points that are solved for at once."""
        return max(1, min(_TOGETHER, _ELEMENTS // max(self.projection.numel(), 1)))

    def points(self, targets: Tensor, *, progress: bool = False) -> Points:
        """Where w is equal to `targets` (count, D), by continuation from the centre.

        From where w is known, Newton's method goes a part of the way to the target: a step along the sheet, and steps
        back to it. Where that leads nearer, the next part is twice as long, else it is shorter. A solved equation makes
        room for the next, so that batches have one size.
        """
        count = len(targets)
        slots = max(min(self.together, count), 1)
        centre = _Here(self.centre[None], *self.at(self.centre[None]))
        here = there = centre.chosen(torch.zeros(slots, dtype=torch.long))
        part, tries, steps = (here.w.new_full((slots,), value) for value in (1.0, 0.0, 0.0))
        index, following = torch.arange(slots, device=part.device), slots
        busy = index < count
        found = torch.zeros(count, dtype=torch.bool, device=part.device)
        solved = Points(self.centre.repeat(count, 1), torch.zeros_like(targets), part.new_zeros(count), found)
        with tqdm(total=count, disable=not progress, desc="proposals", unit="draw") as bar:
            while bool(busy.any()):
                way = part[:, None] * (targets[index] - here.w)
                goal = here.w + way
                z = there.z + _solution(there.slope, goal - there.w)
                there = _Here(z, *self.at(z))
                off = (goal - there.w).norm(dim=-1)
                near, tries, steps = off < _NEARER * way.norm(dim=-1), tries + 1, steps + 1
                back = ~near & ((tries >= _TRIES) | ~off.isfinite())
                here, there = here.where(~near, there), there.where(~back, here)
                part = torch.where(near, (2 * part).clamp(max=1.0), torch.where(back, _SHORTER * part, part))
                tries = torch.where(near | back, 0.0, tries)
                close = (targets[index] - here.w).norm(dim=-1) < _CLOSE
                ended = busy & (close | (part < _SHORTEST) | (steps >= _MOST_STEPS))
                if not bool(ended.any()):
                    continue
                of = index[ended]
                solved.z[of], solved.w[of], solved.found[of] = here.z[ended], here.w[ended], close[ended]
                solved.volume[of] = torch.linalg.slogdet(here.slope[ended])[1]
                bar.update(len(of))
                free = ended.nonzero().flatten()
                new = torch.arange(following, min(count, following + len(free)), device=free.device)
                index[free[: len(new)]], following = new, following + len(new)
                busy[free[len(new) :]] = False
                fresh = centre.chosen(torch.zeros(slots, dtype=torch.long))
                here, there = here.where(~ended, fresh), there.where(~ended, fresh)
                part[free], tries[free], steps[free] = 1.0, 0.0, 0.0
        return solved

    def log_density(self, z: Tensor, own: Tensor) -> Tensor:
        """Log density at `z` (count, D) of draws about this maximum, minus infinity for those that aren't: those that
        its equations don't lead to, or whose `own` density (count,) is much larger.
        """
        w, slope = self.at(z)
        found = torch.linalg.slogdet(slope)[1] + log_t(w)
        found = torch.where(found.isfinite() & (found > own - _COUNTS), found, -torch.inf)
        near = found.isfinite().nonzero().flatten()
        if len(near):
            again = self.points(w[near])
            same = again.found & (self._length(again.z - z[near]) < _SAME)
            found[near[~same]] = -torch.inf
        return found

    def _length(self, step: Tensor) -> Tensor:
        """Of a step (count, D) in z, in standard deviations."""
        return (step @ self.factor).norm(dim=-1)


def _solution(matrices: Tensor, right: Tensor) -> Tensor:
    """Of linear equations, (count, D, D) and (count, D); not finite where there is none."""
    result: Tensor = torch.linalg.solve_ex(matrices, right[..., None])[0][..., 0]
    return result


def residual_coordinates(at: Whitened) -> ResidualCoordinates:
    """Those of the posterior at a maximum."""
    posterior, z = at.posterior, at.centre
    predicted, jacobian, information = posterior.jacobian(z)
    weighted = jacobian * information
    widths = torch.cholesky_inverse(at.factor).diagonal().sqrt()
    scores = normal_scores(posterior, z, widths)
    _, slope = scores.at(z)
    # any factor will do; where this one fails, of a parameter that nothing holds, that of the fit
    factor, failed = torch.linalg.cholesky_ex(weighted @ jacobian.T + torch.diag(slope**2))
    factor = at.factor if bool(failed) else factor
    there = z.detach().clone().requires_grad_()
    (prior_slope,) = torch.autograd.grad(posterior.log_prior(there), there)
    # at a maximum the score of the data is that of the prior with another sign
    projection, slopes, offset = (
        torch.linalg.solve_triangular(factor, value, upper=False)
        for value in (weighted, torch.diag(slope), -prior_slope[:, None])
    )
    return ResidualCoordinates(posterior, z, factor, predicted, projection, scores, slopes, offset[:, 0])


def straightened(modes: Modes, count: int, seed: int, *, progress: bool = False) -> tuple[Tensor, Tensor]:
    """`count` draws (count, D) whose w are of a Student t about one of the `modes`, each with its share of them, and
    their log density; infinite where there was no solution.

    A draw about one mode counts as one about another where the equations of that one lead to it as well.
    """
    posterior = modes.posterior
    each = [residual_coordinates(one) for one in modes.each]
    # not compiled: that takes longer to write than it saves, and is slower where the PSF has parameters
    batch = each[0].together
    posterior.prepare("jacobian", batch=batch, calls=-(-_STEPS * count // batch), compile=False)
    counts = modes.counts(count)
    fractions = (counts / count).to(each[0].centre)
    targets = t_draws(count, posterior.size, seed).to(each[0].centre)
    solved = [
        one.points(some, progress=progress) for one, some in zip(each, targets.split(counts.tolist()), strict=True)
    ]
    densities = [
        torch.stack([
            own.volume + log_t(own.w) if other is one else other.log_density(own.z, own.volume + log_t(own.w))
            for other in each
        ], dim=-1)
        for one, own in zip(each, solved, strict=True)
    ]  # fmt: skip
    log_proposal = (torch.cat(densities) + fractions.log()).logsumexp(-1)
    found = torch.cat([own.found for own in solved])
    return torch.cat([own.z for own in solved]), torch.where(found, log_proposal, torch.inf)
