"""The posterior of any Pyro model, as a function of one flat unconstrained vector.

The model is run once to list its sites, and once more under capture for each function asked for. After that no Pyro
code runs: what is evaluated are graphs of tensor operations (:mod:`bayesprof.inference.capture`).
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine
from scipy.sparse import coo_array, csc_array
from torch import Tensor
from torch.utils._pytree import tree_map

from bayesprof.inference.allocator import keep_freed_memory
from bayesprof.inference.arrow import Arrow, Layout
from bayesprof.inference.blocks import places_of
from bayesprof.inference.capture import Captured, capture, unchecked
from bayesprof.inference.derived import Summary
from bayesprof.inference.forward_mode import along
from bayesprof.inference.functions import Functions
from bayesprof.inference.information import (
    chi_square,
    degrees_of_freedom,
    family_of,
    fisher_terms,
    parameters_of,
    pointwise_log_prob,
    same_family,
)
from bayesprof.inference.plated import Plated, plate_of
from bayesprof.inference.randomness import normals_in_batches, seeded, seeds_from, standard_normals
from bayesprof.inference.sites import Observing, is_deterministic, latent_sites, own_data
from bayesprof.threads import one_thread

PREDICTIVE_DRAWS = 100
"""Draws kept, over all chains, in prior, prior_predictive and posterior_predictive."""
_BATCH, _BATCH_ELEMENTS = 32, 2**20  # most points evaluated together, and most elements of their largest array
FEWEST_PLATED = 12
"""Entries of z, above which what a plate says of the Hessian is used."""
_PRIOR_DRAWS = 51  # whose median is the start of a parameter that the model gives no starting value for


class Posterior:
    """The posterior of a Pyro model over a flat unconstrained vector z.

    Parameters
    ----------
    model : callable
        Any Pyro model with continuous latent sites of fixed support and at least one of them. A
        :class:`bayesprof.Scene` is one.
    *args, **kwargs
        What the model is called with.
    seed : int
        Seed of the runs that list the sites and find a start.

    Attributes
    ----------
    model, args, kwargs :
        The model and what it is called with.
    sites : tuple of Site
        Latent sites in the order of execution.
    deterministic : tuple of str
        Names of the deterministic sites.
    observed, factors : tuple of str
        Names of the observed sites, and of the ``pyro.factor`` sites.
    data : dict
        Values of the observed sites, but of those whose value depends on the latent ones.
    observed_count : int
        Number of observed values that aren't masked.
    plate : Plate or None
        A ``pyro.plate`` that everything observed lies in, which makes the Hessian sparse.
    size : int
        Length D of z.

    Raises
    ------
    TypeError, ValueError
        For a model without latent sites, with discrete ones, or with a support that depends on other sites.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> def model():
    ...     scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    ...     pyro.sample("data", dist.Normal(0.0, scale).expand([3]).to_event(1), obs=torch.tensor([1.0, -2.0, 0.5]))
    >>> posterior = Posterior(model)
    >>> value, gradient = posterior.value_and_grad(torch.zeros(1, dtype=torch.float64))
    >>> gradient.shape
    torch.Size([1])
    """

    def __init__(self, model: Callable[..., Any], *args: Any, seed: int = 0, **kwargs: Any) -> None:
        if not callable(model):
            raise TypeError(f"Posterior: expected a Pyro model (a function), got {type(model).__name__}")
        keep_freed_memory()
        self.model = model
        self.seed = seed
        self.args, self.kwargs = args, kwargs
        traces = [self._prior_trace(seed), self._prior_trace(seed + 1)]
        self.sites = latent_sites(traces)
        nodes = traces[0].nodes
        self.deterministic = tuple(name for name in nodes if is_deterministic(nodes[name]))
        scored = [name for name in traces[0].observation_nodes if not is_deterministic(nodes[name])]
        self.factors = tuple(name for name in scored if isinstance(nodes[name]["fn"], dist.Unit))
        self.observed = tuple(name for name in scored if name not in self.factors)
        self.data = own_data(self.observed, traces)
        self.size = sum(site.unconstrained_shape.numel() for site in self.sites)
        self.dtype = torch.float64
        self.device = nodes[self.sites[0].name]["value"].device
        here, there = (self.observed_nodes(self.prior_draw(seed + i)) for i in (0, 1))
        self.observed_count = sum(degrees_of_freedom(node) for node in here.values())
        self._families = {name: family_of(node) for name, node in here.items()}
        self._with_chi_square = [name for name in here if chi_square(here[name]) is not None]
        self._known = [name for name in here if fisher_terms(here[name]) and same_family(here[name], there[name])]
        latent = [site.name for site in self.sites]
        self.plate = plate_of(nodes, latent, scored) if self.size > FEWEST_PLATED else None

    # -- the unconstrained space

    def constrain(self, z: Tensor) -> dict[str, Tensor]:
        """Values of the latent sites at `z` of shape ``(..., D)``, each of shape ``(...,) + site.shape``."""
        return {name: value for name, (value, _) in self.transformed(z).items()}

    def unconstrain(self, values: Mapping[str, Any]) -> Tensor:
        """`z` of shape ``(D,)`` for the values of all latent sites.

        Raises ValueError where a value is missing, of the wrong shape, or outside the support of its site.
        """
        missing = [site.name for site in self.sites if site.name not in values]
        if missing:
            raise ValueError(f"expected a value for every latent site, got none for {missing}")
        parts = []
        for site in self.sites:
            value = torch.as_tensor(values[site.name], dtype=self.dtype, device=self.device)
            if value.shape != site.shape:
                raise ValueError(
                    f"{site.name}: expected a value of shape {tuple(site.shape)}, got {tuple(value.shape)}"
                )
            if not bool(site.support.check(value).all()):
                raise ValueError(f"{site.name}: expected a value inside the support of its prior, got {value.tolist()}")
            part = site.transform.inv(value).reshape(-1)
            if not bool(part.isfinite().all()):
                raise ValueError(
                    f"{site.name}: expected a value off the edge of its prior's support, got {value.tolist()}"
                )
            parts.append(part)
        return torch.cat(parts)

    def initial(self, values: Mapping[str, Any] | None = None) -> Tensor:
        """`z` to start from: `values` where given, else what the model's ``initial_values()`` says, else the
        prior's median.
        """
        values = dict(values or {})
        unknown = [name for name in values if name not in {site.name for site in self.sites}]
        if unknown:
            raise ValueError(
                f"init: the model has no latent sites {unknown}; it has {[site.name for site in self.sites]}"
            )
        if len(values) < len(self.sites) and hasattr(self.model, "initial_values"):
            values = {**self.model.initial_values(), **values}
        if len(values) < len(self.sites):
            values = {**self.constrain(self._prior_median), **values}
        return self.unconstrain({site.name: values[site.name] for site in self.sites})

    def prior_draw(self, seed: int) -> Tensor:
        """`z` of one draw from the prior."""
        nodes = self._prior_trace(seed).nodes
        return torch.cat(
            [site.transform.inv(nodes[site.name]["value"].to(self.dtype)).reshape(-1) for site in self.sites]
        ).clamp(-1e3, 1e3)

    # -- densities

    def log_density(self, z: Tensor) -> Tensor:
        """Log of the unnormalised posterior density of z, the Jacobian of the transforms included. Shape
        ``z.shape[:-1]``.
        """
        return self._evaluated("log_density", z)

    def log_prior(self, z: Tensor) -> Tensor:
        """The prior's part of the log density: that of the latent sites, with the Jacobian of the transforms."""
        return self._evaluated("log_prior", z)

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log density and its gradient, at `z` of shape ``(..., D)``."""
        gradient, value = self._evaluated("value_and_grad", z)
        return value, gradient

    def expansion(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log density, gradient, Fisher information of the observed sites, and minus the Hessian of the log prior,
        at `z` of shape ``(..., D)``.

        The information is J^T W J, with J the Jacobian of the parameters of the observed distributions and W their
        Fisher information (:mod:`bayesprof.inference.information`); where a distribution's isn't known, minus the
        exact Hessian of the site's log probability takes its place.
        """
        if self._plated is not None:
            return self._arrowed(self._plated.expansion, z)
        return self._evaluated("expansion", z)

    def sparse_expansion(self, z: Tensor) -> tuple[Tensor, Tensor, csc_array, csc_array]:
        """:meth:`expansion` at `z` (D,) with sparse matrices: those of thousands of sources in windows have no room
        otherwise.

        Raises ValueError where an observed distribution's information isn't known.
        """
        if not self.all_known:
            raise ValueError(
                "sparse_expansion: expected observed distributions whose Fisher information is known (Normal, Poisson, "
                "Student-t and mixtures of them), got another one, or a pyro.factor; use expansion"
            )
        value, gradient, *entries = self._evaluated("sparse_expansion", z)
        patterns = self._functions.patterns("sparse_expansion")
        information, prior = (pattern.matrix(some) for pattern, some in zip(patterns, entries, strict=True))
        return value, gradient, information, prior

    def jacobian(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """At `z` (..., D): those parameters of the observed distributions whose Fisher information is known, the mean
        of every pixel for one, (..., N) in all; their derivatives, (..., D, N); and that information, (..., N).
        """
        return self._evaluated("jacobian", z)

    def hessian(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log density, its gradient, and minus its Hessian, exact, at `z` of shape ``(..., D)``."""
        if self._plated is not None:
            return self._arrowed(self._plated.hessian, z)
        return self._evaluated("hessian", z)

    def describe(self, z: Tensor) -> dict[str, Tensor]:
        """Values of the latent and the deterministic sites at `z` of shape ``(..., D)``."""
        return {**self.constrain(z), **self._evaluated("deterministic", z)}

    def summary(self, z: Tensor) -> Summary:
        """Values of all sites, their derivatives, and chi2 of the observed ones, at `z` of shape ``(..., D)``."""
        if self._plated is not None and z.ndim == 1:
            with torch.no_grad():
                return self._plated.summary(z, self._forward.constants)
        return Summary(*self._evaluated("summary", z))

    def sparse_summary(self, z: Tensor) -> tuple[dict[str, Tensor], dict[str, csc_array], dict[str, Tensor]]:
        """Values of all sites at `z` (D,), their slopes as sparse matrices (elements, D), and chi2 of the observed
        ones, by name.
        """
        values, rows, chi_square = self._evaluated("sparse_summary", z)
        slopes = {}
        for name, blocks in self._functions.patterns("sparse_summary").items():
            total = csc_array((values[name].numel(), self.size))
            for block, some in zip(blocks, rows[name], strict=True):
                entries, elements, known = places_of(block, some)
                found = [one.cpu().numpy() for one in (some[known].double(), elements, entries)]
                total = total + coo_array((found[0], (found[1], found[2])), shape=total.shape)
            slopes[name] = total.tocsc()
        return values, slopes, chi_square

    def pointwise(self, z: Tensor) -> dict[str, Tensor]:
        """Log probability of every observed value, at `z` of shape ``(..., D)``, by observed site; shape of the
        values, masked ones 0.
        """
        return self._evaluated("pointwise", z)

    def prepare(self, name: str, *, batch: int, calls: int, compile: bool | str = "auto") -> None:
        """Get ready for many calls of one of the functions above with `z` of shape ``(batch, D)``.

        Captures it where that many `calls` repay it; compiles it, which takes seconds
        (:mod:`bayesprof.inference.native`; by torch.compile, and a minute, on a GPU), where they repay that (`compile`
        "auto"), or in any case (True). The results are the same to rounding. What was compiled is kept on disk, for
        other processes as well. Where this machine can't compile (no C++ compiler) there is a warning, and the
        captured graph is used. Curvatures and summaries of a :attr:`plate` need none of it.
        """
        if self.plate is not None and name in ("expansion", "hessian", "summary"):
            return
        self._functions.prepare(name, self._example.expand(batch, -1), calls=calls, compile=compile)

    def with_data(self, values: Mapping[str, Any]) -> Posterior:
        """This posterior over other values of the observed sites, of the same shapes.

        All that was captured and compiled is shared. The rest of the model stays as it is: priors and starting values
        that came from the first data, too.

        Raises ValueError for sites that aren't observed, for values of another shape, and for sites whose observed
        value depends on the latent ones.
        """
        data = dict(self.data)
        for name, value in values.items():
            if name not in data:
                raise ValueError(
                    f"with_data: expected observed sites with data of their own, {list(data)}, got {name!r}"
                )
            tensor = torch.as_tensor(value, dtype=data[name].dtype, device=data[name].device)
            if tensor.shape != data[name].shape:
                raise ValueError(
                    f"with_data: expected {name!r} of shape {tuple(data[name].shape)}, got {tuple(tensor.shape)}"
                )
            data[name] = tensor
        other = copy.copy(self)
        other.data = data
        other.__dict__["_forward"] = self._forward.with_inputs(tuple(data.values()))
        other.__dict__["_functions"] = self._functions.with_data(other._forward)
        return other

    @cached_property
    def _forward(self) -> Captured:
        """One run of the model, and all that is read off it. Everything else is derived from this graph."""
        known = self._known
        latent = {site.name for site in self.sites}
        names = tuple(self.data)

        def forward(z: Tensor, *data: Tensor) -> dict[str, Any]:
            trace, log_jacobians = self._conditioned(z, dict(zip(names, data, strict=True)))
            log_jacobian = torch.stack(list(log_jacobians.values())).sum(0)
            log_density = trace.log_prob_sum() + log_jacobian
            terms = [term for name in known for term in fisher_terms(trace.nodes[name]) or ()]
            log_prior = trace.log_prob_sum(lambda name, site: name in latent) + log_jacobian
            return {
                "log_density": log_density,
                "log_prior": log_prior,
                # one by one, as their second derivatives are as few as those of each
                "prior_terms": [trace.nodes[name]["log_prob_sum"] + term for name, term in log_jacobians.items()],
                "log_unknown": trace.log_prob_sum(lambda name, site: name not in latent and name not in known)
                + torch.zeros_like(log_jacobian),
                "parameters": [term.parameter for term in terms],
                "weights": [term.information for term in terms],
                "scores": [term.score for term in terms],
                "bends": [list(term.bends) for term in terms],
                "deterministic": {name: trace.nodes[name]["value"] for name in self.deterministic},
                "sites": {name: trace.nodes[name]["value"] for name in (*self._latent, *self.deterministic)},
                "chi_square": {name: chi_square(trace.nodes[name]) for name in self._with_chi_square},
                "predicted": {name: parameters_of(trace.nodes[name]) for name in self.observed if self._families[name]},
                "pointwise": {name: pointwise_log_prob(trace.nodes[name]) for name in self.observed},
            }

        return capture(forward, self._example, tuple(self.data.values()), differentiable=True)

    @property
    def fingerprint(self) -> str:
        """A hash of the density: of what the model computes and of every number in it, data included."""
        content = hashlib.sha256(self._forward.structure.encode())
        for constant in self._forward.constants:
            content.update(constant.detach().cpu().contiguous().numpy().tobytes())
        return content.hexdigest()

    @cached_property
    def _functions(self) -> Functions:
        return Functions(self._forward, self.size, all_known=self.all_known)

    @property
    def all_known(self) -> bool:
        return len(self._known) == len(self.observed) + len(self.factors)

    @cached_property
    def of_residuals(self) -> bool:
        """Whether the log density is half a sum of squares of what is measured with a known error, as in a scene with
        Gaussian noise, plus a prior of independent sites.
        """
        if not self.all_known or self._forward.depends("weights"):
            return False
        terms = along(self._forward.several("prior_terms"), "prior_terms")
        own = [set(range(site.place.start, site.place.stop)) for site in self.sites]
        return all(some <= site for some, site in zip(terms, own, strict=True))

    @cached_property
    def _plated(self) -> Plated | None:
        if self.plate is None:
            return None
        return Plated(self._forward, self.plate.layout(self.sites), all_known=self.all_known)

    @property
    def layout(self) -> Layout | None:
        """Which entries of z belong to which member of the :attr:`plate`, where there is one."""
        return None if self._plated is None else self._plated.layout

    def _arrowed(self, function: Callable[..., Any], z: Tensor) -> Any:
        """A function of :class:`Plated` at `z` of shape ``(..., D)``, its arrows as matrices."""
        if z.shape[-1:] != (self.size,):
            raise ValueError(f"expected z of shape (..., {self.size}), got {tuple(z.shape)}")
        if z.ndim > 1:
            each = [self._arrowed(function, point) for point in z]
            return tuple(torch.stack(values) for values in zip(*each, strict=True))
        with torch.no_grad():
            values = function(z, self._forward.constants)
        return tuple(value.dense() if isinstance(value, Arrow) else value for value in values)

    @cached_property
    def most_together(self) -> int:
        """Number of points simulated together: until their arrays are so large that more only cost memory."""
        return max(1, min(_BATCH, _BATCH_ELEMENTS // max(self._forward.largest, 1)))

    @property
    def _example(self) -> Tensor:
        return torch.zeros(self.size, dtype=self.dtype, device=self.device)

    def _evaluated(self, name: str, z: Tensor) -> Any:
        """A derived function at `z` of shape ``(..., D)``, in batches of limited size."""
        if z.ndim == 0 or z.shape[-1] != self.size:
            raise ValueError(f"expected z of shape (..., {self.size}), got {tuple(z.shape)}")
        if z.requires_grad or torch._C._functorch.is_functorch_wrapped_tensor(z):
            return self._functions.differentiable(name, z)
        if z.ndim == 1:
            return tree_map(lambda value: value[0], self._functions(name, [z.detach()[None]])[0])
        flat = z.detach().reshape(-1, self.size)
        count = len(flat)
        size = self._functions.together(name, count)
        missing = -count % size
        if missing:  # the last batch is filled up, so that all have one size
            flat = torch.cat([flat, flat[-1:].expand(missing, -1)])
        parts = self._functions(name, flat.split(size))
        joined = parts[0] if len(parts) == 1 else tree_map(lambda *values: torch.cat(values), *parts)
        return tree_map(lambda value: value[:count].reshape(z.shape[:-1] + value.shape[1:]), joined)

    # -- running the model

    def observed_nodes(self, z: Tensor) -> dict[str, Any]:
        """The observed sites of the model's trace at `z` (D,): name to Pyro's trace node."""
        with torch.no_grad(), one_thread(), unchecked():
            nodes = self._conditioned(z, self.data)[0].nodes
        return {name: nodes[name] for name in self.observed}

    def predictive(self, values: Mapping[str, Tensor] | None, seed: int) -> dict[str, Tensor]:
        """One draw of every latent, deterministic and observed site: given `values` of the latent ones, or from the
        prior where None.
        """
        with torch.no_grad(), one_thread(), seeded(seed), unchecked():
            return self._drawn(values)

    @cached_property
    def prior_predictive(self) -> dict[str, Tensor]:
        """`PREDICTIVE_DRAWS` draws of every site from the prior, as :meth:`simulate` gives them."""
        return self.simulate(count=PREDICTIVE_DRAWS, seed=self.seed + 1)

    def simulate(self, z: Tensor | None = None, *, count: int = 1, seed: int = 0) -> dict[str, Tensor]:
        """Draws of every latent, deterministic and observed site, along a first axis: one at each point of `z`,
        (count, D), or `count` of them from the prior where None.
        """
        points = torch.zeros(count, 0, dtype=self.dtype, device=self.device) if z is None else z
        parts = [
            self._simulated(points[i : i + self.most_together], None if z is None else self.constrain, other)
            for i, other in zip(range(0, len(points), self.most_together), seeds_from(seed, len(points)), strict=False)
        ]
        return tree_map(lambda *values: torch.cat(values), *parts)

    def predict(self, z: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
        """Draws of every observed site, along a first axis: one at each point of `z` (count, D).

        Without another run of the model where the distributions of all observed sites are Normal, Poisson or
        Student-t.
        """
        if not all(self._families.values()):
            simulated = self.simulate(z, seed=seed)
            return {name: simulated[name] for name in self.observed}
        parts = [self._evaluated("predicted", some) for some in z.split(self.most_together)]
        drawn: dict[str, list[Tensor]] = {name: [] for name in self.observed}
        generator = np.random.default_rng(seed)
        with torch.no_grad(), one_thread(), seeded(seed), unchecked():
            for part in parts:
                for name, parameters in part.items():
                    family = self._families[name]
                    if family is dist.Normal:
                        mean, width = parameters
                        values = mean + width * standard_normals(mean, generator)
                    else:
                        values = family(*parameters).sample()
                    drawn[name].append(values)
        return {name: torch.cat(values) for name, values in drawn.items()}

    def _simulated(
        self, points: Tensor, constrain: Callable[[Tensor], dict[str, Tensor]] | None, seed: int
    ) -> dict[str, Tensor]:
        def draw(point: Tensor) -> dict[str, Tensor]:
            return self._drawn(None if constrain is None else constrain(point))

        with torch.no_grad(), one_thread(), unchecked(), normals_in_batches(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")  # still faster than one by one
            warnings.filterwarnings("ignore", message="An output with one or more elements was resized")
            try:
                with seeded(seed):
                    return torch.func.vmap(draw, randomness="different")(points)
            except RuntimeError:  # a random number generator that can't be batched: one by one, then
                with seeded(seed):
                    drawn = [draw(point) for point in points]
                return tree_map(lambda *values: torch.stack(values), *drawn)

    def _drawn(self, values: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        model = poutine.uncondition(self.model)
        if values is not None:
            model = poutine.condition(model, data=dict(values))
        nodes: Any = poutine.trace(model).get_trace(*self.args, **self.kwargs).nodes
        return {name: nodes[name]["value"] for name in (*self._latent, *self.deterministic, *self.observed)}

    @property
    def _latent(self) -> tuple[str, ...]:
        return tuple(site.name for site in self.sites)

    def _conditioned(self, z: Tensor, data: Mapping[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
        """Pyro's trace of the model at `z` (D,) and over `data`, and the log Jacobians of the transforms, by site."""
        transformed = self.transformed(z)
        model = poutine.condition(self.model, data={name: value for name, (value, _) in transformed.items()})
        with Observing(data):
            trace = poutine.trace(model).get_trace(*self.args, **self.kwargs)
        return trace, {name: log_jacobian for name, (_, log_jacobian) in transformed.items()}

    def transformed(self, z: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Value of each latent site at `z` of shape ``(..., D)``, and the log Jacobian of its transform, ``(...)``."""
        result = {}
        batch = z.shape[:-1]
        for site in self.sites:
            unconstrained = z[..., site.place].reshape(batch + site.unconstrained_shape)
            value = site.transform(unconstrained)
            log_jacobian = site.transform.log_abs_det_jacobian(unconstrained, value)
            result[site.name] = (value, log_jacobian.reshape((*batch, -1)).sum(-1))
        return result

    def _prior_trace(self, seed: int) -> Any:
        with torch.no_grad(), one_thread(), seeded(seed):
            return poutine.trace(self.model).get_trace(*self.args, **self.kwargs)

    @cached_property
    def _prior_median(self) -> Tensor:
        drawn = self.simulate(count=_PRIOR_DRAWS, seed=self.seed + 2)
        z = [site.transform.inv(drawn[site.name].to(self.dtype)).reshape(_PRIOR_DRAWS, -1) for site in self.sites]
        return torch.cat(z, dim=1).clamp(-1e3, 1e3).median(dim=0).values
