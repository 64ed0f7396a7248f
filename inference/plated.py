"""Derivatives of a posterior over many alike parts: a plate whose members are independent given what they share.

Then the Hessian is an arrow: a block for each member, a border where the members meet what is shared, and nothing
between members. Entries that never meet can be moved together (Curtis, Powell & Reid 1974, IMA J. Appl. Math. 13, 117):
with P entries of z for a member and H shared ones, P + H directional derivatives give all of the Jacobian and of the
Hessian, whatever the number of members, where D = members x P + H would be needed for any other model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from bayesprof.inference.arrow import Arrow, Layout
from bayesprof.inference.capture import Captured, capture
from bayesprof.inference.derived import Summary, swapped
from bayesprof.inference.sites import Site

_ELEMENTS_TOGETHER = 2**20  # of the largest array, over the directions that are followed together
_AT_EVERY_STEP = ("parameters", "log_prior")  # of a fit, which repays seconds of capture
_COUPLED = 1e-6  # of a product with the Hessian: what rounding leaves where members are independent


class Plate(NamedTuple):
    """A plate that all data lie in: its `name`, the `size` of it, and the sites that have a value for each member."""

    name: str
    size: int
    sites: frozenset[str]

    def layout(self, sites: Sequence[Site]) -> Layout:
        """Which entries of z belong to which member."""
        places = [torch.arange(site.place.start, site.place.stop) for site in sites]
        own, shared = [], [torch.zeros(0, dtype=torch.long)]
        for site, place in zip(sites, places, strict=True):
            if site.name in self.sites:
                own.append(place.reshape(self.size, -1))
            else:
                shared.append(place)
        return Layout(torch.cat(own, dim=1), torch.cat(shared))


def plate_of(nodes: Mapping[str, Any], latent: Sequence[str], scored: Sequence[str]) -> Plate | None:
    """The plate that everything observed lies in, and some of the latent sites, along the first axis of their values;
    None where a model has none.
    """
    frames = [_outermost(nodes[name]) for name in scored]
    if not frames or any(frame is None or frame.name != frames[0].name for frame in frames):
        return None
    name, size = frames[0].name, frames[0].size
    inside = [site for site in latent if any(frame.name == name for frame in nodes[site]["cond_indep_stack"])]
    first_axis = all(
        nodes[site]["value"].shape[:1] == (size,) and _outermost(nodes[site]).name == name
        for site in (*inside, *scored)
    )
    return Plate(name, size, frozenset(inside)) if inside and first_axis and size > 1 else None


def _outermost(node: Any) -> Any:
    """The plate along the first axis of a site's values; None where that isn't a plate's, or where a part of the
    members is drawn only.
    """
    frames = [frame for frame in node["cond_indep_stack"] if frame.vectorized]
    if not frames:
        return None
    frame = min(frames, key=lambda frame: frame.dim)
    batch = len(node["fn"].batch_shape)
    return frame if -frame.dim == batch and node["fn"].batch_shape[:1] == (frame.size,) else None


class Plated:
    """The curvatures and the summary of a posterior with a `layout`, functions of the parts of its forward graph.

    `all_known` : whether the information of all that is observed is known.
    """

    def __init__(self, forward: Captured, layout: Layout, *, all_known: bool) -> None:
        self.forward, self.layout, self.all_known = forward, layout, all_known
        self.directions = layout.directions(like=torch.zeros(layout.size, dtype=torch.float64))
        self._moving: dict[str, Captured] = {}
        self._independent = False

    def expansion(self, z: Tensor, constants: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Arrow, Arrow]:
        """As :meth:`bayesprof.inference.Posterior.expansion`, at `z` (D,)."""
        layout = self.layout
        at = self._observed(z, *constants)
        gradient, prior = self._curvature("log_prior", z, constants)
        information = Arrow.zeros(layout, like=z)
        for rows, weight, score in zip(
            self._moved("parameters", z, constants), at["weights"], at["scores"], strict=True
        ):
            information = information + _squared(rows, weight, layout)
            gradient = gradient + _pulled_back(rows, score, layout, like=z)
        if not self.all_known:
            more, unknown = self._curvature("log_unknown", z, constants)
            information, gradient = information + unknown, gradient + more
        return at["log_density"], gradient, information, prior

    def hessian(self, z: Tensor, constants: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Arrow]:
        """As :meth:`bayesprof.inference.Posterior.hessian`, at `z` (D,).

        Raises ValueError where the members of the plate aren't independent given what is shared, contrary to what a
        plate declares.
        """
        value = self._parts["log_density"](z, *constants)
        gradient, curvature = self._curvature("log_density", z, constants)
        if not self._independent:
            self._check(z, constants, curvature)
        return value, gradient, curvature

    def summary(self, z: Tensor, constants: tuple[Tensor, ...]) -> Summary:
        """As :meth:`bayesprof.inference.Posterior.summary`, at `z` (D,)."""
        at = self._sites(z, *constants)
        own, shared = self.layout.own, self.layout.shared
        slopes = {}
        for name, rows in self._moved("sites", z, constants).items():
            value = at["values"][name]
            slope = z.new_zeros(len(z), value.numel())
            along_own, along_shared = rows.reshape(len(rows), -1).split([own.shape[1], len(shared)])
            slope[shared] = along_shared
            if value.shape[:1] == (len(own),):  # of each member along its own entries
                columns = torch.arange(value.numel(), device=z.device).reshape(len(own), 1, -1)
                slope[own[:, :, None], columns] = along_own.reshape(own.shape[1], len(own), -1).transpose(0, 1)
            slopes[name] = slope.reshape(len(z), *value.shape)
        return Summary(at["values"], slopes, at["chi_square"])

    @cached_property
    def _observed(self) -> fx.GraphModule:
        return self.forward.several("log_density", "weights", "scores")

    @cached_property
    def _sites(self) -> fx.GraphModule:
        return self.forward.several("chi_square", values="sites")

    @cached_property
    def _parts(self) -> dict[str, fx.GraphModule]:
        """Of the forward graph, what is differentiated."""
        names = ("log_density", "log_prior", "log_unknown", "parameters", "sites")
        return {name: self.forward.only(name, differentiable=True) for name in names}

    def _curvature(self, name: str, z: Tensor, constants: tuple[Tensor, ...]) -> tuple[Tensor, Arrow]:
        """Gradient of a density, and minus its Hessian."""
        gradient = torch.func.grad(partial(swapped, self._parts[name], constants))(z)
        return gradient, Arrow.from_products(self.layout, -self._moved(name, z, constants))

    def _moved(self, name: str, z: Tensor, constants: tuple[Tensor, ...]) -> Any:
        """Derivatives along the directions, in front: of the parameters or of the sites, or of a density's gradient."""
        return self._along(name, z, self.directions.to(z), constants)

    def _along(self, name: str, z: Tensor, directions: Tensor, constants: tuple[Tensor, ...]) -> Any:
        together = max(1, min(len(directions), _ELEMENTS_TOGETHER // max(self.forward.largest, 1)))
        missing = -len(directions) % together
        filled = torch.cat([directions, directions.new_zeros(missing, len(z))]).split(together)
        part = self._parts[name]

        def moved(point: Tensor, some: Tensor, *inputs: Tensor) -> Any:
            function: Callable[[Tensor], Any] = partial(swapped, part, inputs)
            if name.startswith("log_"):
                function = torch.func.grad(function)
            return torch.func.vmap(lambda one: torch.func.jvp(function, (point,), (one,))[1])(some)

        if name in _AT_EVERY_STEP:
            if name not in self._moving:
                self._moving[name] = capture(moved, torch.zeros_like(z), (filled[0], *constants))
            captured = self._moving[name]
            parts = [captured.graph(z, *captured.recipe(some, *constants)) for some in filled]
        else:
            parts = [moved(z, some, *constants) for some in filled]
        return tree_map(lambda *values: torch.cat(values)[: len(directions)], *parts)

    def _check(self, z: Tensor, constants: tuple[Tensor, ...], curvature: Arrow) -> None:
        scale = curvature.diagonal().abs().clamp(min=1e-30).sqrt()
        direction = torch.randn(len(z), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(z) / scale
        moved = self._along("log_density", z, direction[None], constants)[0]
        off = (moved + curvature @ direction) / scale
        if bool(moved.isfinite().all()) and float(off.norm()) > _COUPLED * float((moved / scale).norm()):
            raise ValueError(
                "expected the members of a plate to be independent given what is drawn outside of it, as a plate "
                "declares; here one depends on another's values. Draw them without the plate, or as one vector: "
                ".to_event(1)"
            )
        self._independent = True


def _squared(rows: Tensor, weight: Tensor, layout: Layout) -> Arrow:
    """J^T diag(weight) J, from the derivatives (directions, members, ...) of an array."""
    flat = rows.reshape(*rows.shape[:2], -1)
    own, shared = flat.split([layout.own.shape[1], len(layout.shared)])
    weighted = flat * weight.reshape(len(weight), -1)
    own_weighted, shared_weighted = weighted.split([len(own), len(shared)])
    return Arrow(
        layout,
        torch.einsum("pmx,qmx->mpq", own_weighted, own).double(),
        torch.einsum("pmx,hmx->mph", own_weighted, shared).double(),
        torch.einsum("gmx,hmx->gh", shared_weighted, shared).double(),
    )


def _pulled_back(rows: Tensor, score: Tensor, layout: Layout, *, like: Tensor) -> Tensor:
    """J^T score."""
    by_member = (rows.reshape(*rows.shape[:2], -1) * score.reshape(len(score), -1)).sum(-1).to(like.dtype)
    own, shared = by_member.split([layout.own.shape[1], len(layout.shared)])
    result = torch.zeros_like(like)
    result[layout.own] = own.T
    result[layout.shared] = shared.sum(1)
    return result
