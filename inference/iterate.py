"""A fit of few parameters at a time: one component, or one chunk of parameters, while the others are held.

For scenes whose parameters, from poor starting values, can't be fitted together: a step of all is as poor as its worst
part. Close to the maximum :func:`bayesprof.inference.lm` takes fewer evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bayesprof.inference.climb import climb
from bayesprof.inference.constraints import Constrained, Constraint, constrained
from bayesprof.inference.fit import Fit, judged_at, start_at
from bayesprof.inference.posterior import Posterior

_STEPS = 5  # of Levenberg-Marquardt per turn: more are spent on a place that the other parameters' turns will move


def iterate(
    model: Callable[..., Any] | Posterior,
    *args: Any,
    init: Mapping[str, Any] | Fit | None = None,
    by: str = "component",
    chunk_size: int | None = None,
    order: str = "sequential",
    seed: int = 0,
    max_cycles: int = 200,
    tolerance: float = 1e-7,
    constraints: Sequence[Constraint] = (),
    **kwargs: Any,
) -> Fit:
    """Fit `model` by turns: in each, up to five steps of Levenberg-Marquardt on some parameters, the others held.

    Parameters
    ----------
    model, init, constraints
        As for :func:`lm`. `args` and `kwargs` are the model's.
    by : "component" or "chunks"
        Whose turn it is: the sites that share the part of their name before the first ".", or `chunk_size` entries of
        the vector of all parameters.
    chunk_size : int, optional
        For chunks; by default half of the parameters.
    order : "sequential" or "random"
        Turns in the order of the model, or, shuffled anew in every cycle, components, or parameters before they are
        cut into chunks.
    seed : int
        Seed of the random order.
    max_cycles : int
        Largest number of cycles, in each of which every parameter has its turn.
    tolerance : float
        It is over when a cycle raises the log density by less.

    Returns
    -------
    Fit
        As of :func:`lm`, with the covariance of all parameters together. Whether it converged is judged by the exact
        Hessian at its end: within a hundredth of a standard deviation of the maximum. ``iterations`` counts cycles,
        and ``path`` is the log density after each.

    Raises
    ------
    ValueError, TypeError
        For arguments out of range, and as :func:`lm`.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> def model():
    ...     slope, level = (pyro.sample(name, dist.Normal(0.0, 10.0)) for name in ("slope", "level"))
    ...     line = level + slope * torch.arange(3.0)
    ...     pyro.sample("data", dist.Normal(line, 0.1).to_event(1), obs=torch.tensor([1.0, 3.0, 5.0]))
    >>> fit = iterate(model)
    >>> round(fit.params["slope"], 3), fit.converged
    (2.0, True)
    """
    _check(by, chunk_size, order, max_cycles, tolerance)
    posterior = model if isinstance(model, Posterior) else Posterior(model, *args, seed=seed, **kwargs)
    z = start_at(posterior, init)
    target = constrained(posterior, constraints, z)
    turns = _turns(posterior, by, chunk_size, order, seed)
    log_density = float(target.value_and_grad(z)[0])
    path: list[float] = []
    ending = f"still rising after {max_cycles} cycles"
    while len(path) < max_cycles and math.isfinite(log_density):
        for entries in next(turns):
            block = _Block(target, z, entries)
            z = block.within(climb(block, z[entries], max_iterations=_STEPS).z)
        before, log_density = log_density, float(target.value_and_grad(z)[0])
        path.append(log_density)
        if log_density - before < tolerance:
            ending = f"no further rise after {len(path)} cycles"
            break
    return judged_at(target, z, iterations=len(path), ending=ending, path=path)


class _Block:
    """The density of some entries of z, the others held."""

    def __init__(self, target: Posterior | Constrained, z: Tensor, entries: Tensor) -> None:
        self.target, self.z, self.entries = target, z, entries

    def within(self, part: Tensor) -> Tensor:
        """All of z, shape ``(..., D)``, given the entries of the block."""
        whole = self.z.expand(*part.shape[:-1], -1).clone()
        whole[..., self.entries] = part
        return whole

    def log_density(self, part: Tensor) -> Tensor:
        return self.target.log_density(self.within(part))

    def value_and_grad(self, part: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.target.value_and_grad(self.within(part))
        return value, gradient[..., self.entries]

    def expansion(self, part: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        value, gradient, information, prior = self.target.expansion(self.within(part))
        rows = self.entries
        return value, gradient[rows], information[rows][:, rows], prior[rows][:, rows]

    def hessian(self, part: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value, gradient, hessian = self.target.hessian(self.within(part))
        rows = self.entries
        return value, gradient[rows], hessian[rows][:, rows]


def _turns(posterior: Posterior, by: str, chunk_size: int | None, order: str, seed: int) -> Iterator[list[Tensor]]:
    """For each cycle, the entries of z in the order of their turns."""
    generator = torch.Generator().manual_seed(seed)
    size = posterior.size
    members: dict[str, list[int]] = {}
    for site in posterior.sites:
        members.setdefault(site.name.partition(".")[0], []).extend(range(size)[site.place])
    components = [torch.tensor(entries) for entries in members.values()]
    chunk = math.ceil(size / 2) if chunk_size is None else chunk_size
    while True:
        if by == "component":
            count = len(components)
            places = range(count) if order == "sequential" else torch.randperm(count, generator=generator).tolist()
            yield [components[place] for place in places]
        else:
            entries = torch.arange(size) if order == "sequential" else torch.randperm(size, generator=generator)
            yield list(entries.split(chunk))


def _check(by: str, chunk_size: int | None, order: str, max_cycles: int, tolerance: float) -> None:
    for name, value, allowed in (
        ("by", by, ("component", "chunks")),
        ("order", order, ("sequential", "random")),
    ):
        if value not in allowed:
            raise ValueError(f"iterate: expected {name} to be {' or '.join(map(repr, allowed))}, got {value!r}")
    if chunk_size is not None and by != "chunks":
        raise ValueError(f"iterate: expected chunk_size with by='chunks' only, got chunk_size={chunk_size!r}")
    for name, number in (("chunk_size", 1 if chunk_size is None else chunk_size), ("max_cycles", max_cycles)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"iterate: expected {name} >= 1, a whole number, got {number!r}")
    if not (isinstance(tolerance, int | float) and 0 < tolerance < math.inf):
        raise ValueError(f"iterate: expected tolerance > 0, got {tolerance!r}")
