"""The posterior of any Pyro model, as a function of one flat unconstrained vector.

The model is run once to list its sites, and once more under capture for each function asked for. After that no Pyro
code runs: what is evaluated are graphs of tensor operations (:mod:`bayesprof.inference.capture`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor
from torch.distributions import biject_to

from bayesprof.inference.allocator import keep_freed_memory
from bayesprof.inference.capture import Captured, capture, unchecked
from bayesprof.inference.information import fisher_terms, pointwise_log_prob, same_family, unwrapped

_PRIOR_DRAWS = 51  # whose median is the start of a parameter that the model gives no starting value for


class Site(NamedTuple):
    """A latent site: its name, the shape and support of its values, their transform from the unconstrained space,
    and where it stands in z.
    """

    name: str
    shape: torch.Size
    support: Any
    transform: Any
    unconstrained_shape: torch.Size
    place: slice


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
    sites : tuple of Site
        Latent sites in the order of execution.
    deterministic : tuple of str
        Names of the deterministic sites.
    observed, factors : tuple of str
        Names of the observed sites, and of the ``pyro.factor`` sites.
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
        self._args, self._kwargs = args, kwargs
        traces = [self._prior_trace(seed), self._prior_trace(seed + 1)]
        self.sites = _latent_sites(traces)
        nodes = traces[0].nodes
        self.deterministic = tuple(name for name in nodes if _is_deterministic(nodes[name]))
        scored = [name for name in traces[0].observation_nodes if not _is_deterministic(nodes[name])]
        self.factors = tuple(name for name in scored if isinstance(nodes[name]["fn"], dist.Unit))
        self.observed = tuple(name for name in scored if name not in self.factors)
        self.size = sum(site.unconstrained_shape.numel() for site in self.sites)
        self.dtype = torch.float64
        self.device = nodes[self.sites[0].name]["value"].device
        self._compiled: dict[str, Callable[..., Any]] = {}
        self._known = self._with_known_information()

    # -- the unconstrained space

    def constrain(self, z: Tensor) -> dict[str, Tensor]:
        """Values of the latent sites at `z` of shape ``(..., D)``, each of shape ``(...,) + site.shape``."""
        return {name: value for name, (value, _) in self._transformed(z).items()}

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
            median = self.constrain(self._prior_draws().median(dim=0).values)
            values = {**median, **values}
        return self.unconstrain({site.name: values[site.name] for site in self.sites})

    def prior_draw(self, seed: int) -> Tensor:
        """`z` of one draw from the prior."""
        nodes = self._prior_trace(seed).nodes
        return torch.cat(
            [site.transform.inv(nodes[site.name]["value"].to(self.dtype)).reshape(-1) for site in self.sites]
        ).clamp(-1e3, 1e3)

    # -- densities; each is captured on its first call

    def log_density(self, z: Tensor) -> Tensor:
        """Log of the unnormalised posterior density of z, the Jacobian of the transforms included. Shape
        ``z.shape[:-1]``.
        """
        return self._batched(self._log_density, z)

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log density and its gradient, at `z` of shape ``(..., D)``."""
        gradient, value = self._batched(self._compiled.get("value_and_grad", self._value_and_grad), z)
        return value, gradient

    def expansion(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log density, gradient, Fisher information of the observed sites, and minus the Hessian of the log prior,
        at `z` (D,).

        The information is J^T W J, with J the Jacobian of the parameters of the observed distributions and W their
        Fisher information (:mod:`bayesprof.inference.information`); where a distribution's isn't known, minus the
        exact Hessian of the site's log probability takes its place.
        """
        (gradient, value), information, prior = self._expansion(z)
        return value, gradient, information, prior

    def describe(self, z: Tensor) -> dict[str, Tensor]:
        """Values of the latent and the deterministic sites at `z` of shape ``(..., D)``."""
        return {**self.constrain(z), **self._batched(self._deterministics, z)}

    def pointwise(self, z: Tensor) -> dict[str, Tensor]:
        """Log probability of every observed value, at `z` of shape (D,), by observed site; shape of the values,
        masked ones 0.
        """
        return self._pointwise(z)

    def compile(self) -> bool:
        """Compile value and gradient with torch.compile, which takes 10 to 40 seconds; the results are the same to
        rounding.

        Returns False, with a warning, where this machine can't (no C++ compiler): the captured graph goes on being
        used.
        """
        if "value_and_grad" in self._compiled:
            return True
        captured = self._value_and_grad
        compiled = torch.compile(captured.graph)
        try:
            with warnings.catch_warnings():
                # the few complex operations around the transforms are left to the library
                warnings.filterwarnings("ignore", message="Torchinductor does not support code generation for complex")
                compiled(self._example, *captured.constants)
        except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
            reason = str(error).strip().splitlines()[0]
            warnings.warn(f"torch.compile failed ({reason}); going on without it, more slowly", stacklevel=2)
            return False
        self._compiled["value_and_grad"] = lambda z: compiled(z, *captured.constants)
        return True

    def gradient_seconds(self) -> float:
        """Rough time of one captured gradient, from the size of its graph alone, so that decisions on it don't vary
        between runs.
        """
        nodes = [node.meta.get("val") for node in self._value_and_grad.graph.graph.nodes]
        # measured on one core: 2 microseconds an operation, 0.4 nanoseconds an element
        return 2e-6 * len(nodes) + 4e-10 * sum(value.numel() for value in nodes if isinstance(value, Tensor))

    @cached_property
    def _forward(self) -> Captured:
        """One run of the model, and all that is read off it. Everything below is derived from this graph."""
        known = self._known
        latent = {site.name for site in self.sites}

        def forward(z: Tensor) -> dict[str, Any]:
            trace, log_jacobian = self._conditioned(z)
            terms = [term for name in known for term in fisher_terms(trace.nodes[name]) or ()]
            return {
                "log_density": trace.log_prob_sum() + log_jacobian,
                "log_prior": trace.log_prob_sum(lambda name, site: name in latent) + log_jacobian,
                "log_unknown": trace.log_prob_sum(lambda name, site: name not in latent and name not in known)
                + torch.zeros_like(log_jacobian),
                "parameters": [parameter for parameter, _ in terms],
                "weights": [weight for _, weight in terms],
                "deterministic": {name: trace.nodes[name]["value"] for name in self.deterministic},
                "pointwise": {name: pointwise_log_prob(trace.nodes[name]) for name in self.observed},
            }

        return capture(forward, self._example, differentiable=True)

    @cached_property
    def _log_density(self) -> Captured:
        return self._forward.only("log_density")

    @cached_property
    def _value_and_grad(self) -> Captured:
        return capture(torch.func.grad_and_value(self._forward.only("log_density")), self._example)

    @cached_property
    def _expansion(self) -> Captured:
        log_density, log_prior, log_unknown, parameters, weights = (
            self._forward.only(key) for key in ("log_density", "log_prior", "log_unknown", "parameters", "weights")
        )
        directions = torch.eye(self.size, dtype=self.dtype, device=self.device)
        known = self._known

        def expansion(z: Tensor) -> Any:
            information = torch.zeros_like(directions)
            if known:
                jacobians = torch.func.vmap(lambda v: torch.func.jvp(parameters, (z,), (v,))[1])(directions)
                for jacobian, weight in zip(jacobians, weights(z), strict=True):
                    rows = jacobian.reshape(self.size, -1)
                    information = information + (rows * weight.reshape(-1)) @ rows.T
            if len(known) < len(self.observed) + len(self.factors):
                information = information - torch.func.hessian(log_unknown)(z)
            return torch.func.grad_and_value(log_density)(z), information, -torch.func.hessian(log_prior)(z)

        return capture(expansion, self._example)

    @cached_property
    def _deterministics(self) -> Captured:
        return capture(self._forward.only("deterministic"), self._example)

    @cached_property
    def _pointwise(self) -> Captured:
        return capture(self._forward.only("pointwise"), self._example)

    @property
    def _example(self) -> Tensor:
        return torch.zeros(self.size, dtype=self.dtype, device=self.device)

    def _batched(self, function: Callable[[Tensor], Any], z: Tensor) -> Any:
        for _ in z.shape[:-1]:
            function = torch.func.vmap(function)
        return function(z)

    # -- running the model

    def observed_nodes(self, z: Tensor) -> dict[str, Any]:
        """The observed sites of the model's trace at `z` (D,): name to Pyro's trace node."""
        with torch.no_grad(), unchecked():
            nodes = self._conditioned(z)[0].nodes
        return {name: nodes[name] for name in self.observed}

    def predictive(self, values: Mapping[str, Tensor] | None, seed: int) -> dict[str, Tensor]:
        """One draw of every latent and observed site: given `values` of the latent ones, or from the prior where
        None.
        """
        model = poutine.uncondition(self.model)
        if values is not None:
            model = poutine.condition(model, data=dict(values))
        with torch.no_grad(), seeded(seed), unchecked():
            trace = poutine.trace(model).get_trace(*self._args, **self._kwargs)
        nodes: dict[str, Any] = dict(trace.nodes)
        return {name: node["value"] for name, node in nodes.items() if node["type"] == "sample"}

    def _with_known_information(self) -> list[str]:
        here, there = (self.observed_nodes(self.prior_draw(self.seed + i)) for i in (0, 1))
        return [name for name in self.observed if fisher_terms(here[name]) and same_family(here[name], there[name])]

    def _conditioned(self, z: Tensor) -> tuple[Any, Tensor]:
        transformed = self._transformed(z)
        model = poutine.condition(self.model, data={name: value for name, (value, _) in transformed.items()})
        trace = poutine.trace(model).get_trace(*self._args, **self._kwargs)
        return trace, torch.stack([log_jacobian for _, log_jacobian in transformed.values()]).sum(0)

    def _transformed(self, z: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        result = {}
        batch = z.shape[:-1]
        for site in self.sites:
            unconstrained = z[..., site.place].reshape(batch + site.unconstrained_shape)
            value = site.transform(unconstrained)
            log_jacobian = site.transform.log_abs_det_jacobian(unconstrained, value)
            result[site.name] = (value, log_jacobian.reshape((*batch, -1)).sum(-1))
        return result

    def _prior_trace(self, seed: int) -> Any:
        with torch.no_grad(), seeded(seed):
            return poutine.trace(self.model).get_trace(*self._args, **self._kwargs)

    def _prior_draws(self) -> Tensor:
        return torch.stack([self.prior_draw(self.seed + 2 + i) for i in range(_PRIOR_DRAWS)])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Runs its block from a seed and leaves the state of torch's generator as it was."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _is_deterministic(node: Any) -> bool:
    """Whether a site was computed: by ``pyro.deterministic``, or put in the place of another by a reparametrisation."""
    if node["type"] != "sample" or not node["is_observed"]:
        return False
    base, mask = unwrapped(node["fn"])
    return bool(node["infer"].get("_deterministic")) or (isinstance(base, dist.Delta) and mask is False)


def _latent_sites(traces: list[Any]) -> tuple[Site, ...]:
    first, second = (trace.nodes for trace in traces)
    sites, start = [], 0
    for name, node in first.items():
        if node["type"] != "sample" or node["is_observed"] or isinstance(node["fn"], _Subsample):
            continue
        support = node["fn"].support
        if support.is_discrete:
            raise ValueError(
                f"{name}: expected continuous latent sites, got the discrete {type(node['fn']).__name__}; sum it out "
                "of the model, "
                "or make it continuous"
            )
        transform = biject_to(support)
        value = node["value"]
        unconstrained = transform.inv(value)
        there = biject_to(second[name]["fn"].support)(unconstrained) if name in second else None
        if there is None or there.shape != value.shape or not torch.allclose(there, value, rtol=1e-4, atol=1e-6):
            raise ValueError(
                f"{name}: expected a site that is always there, with a fixed support; it changes with the values of "
                "other sites. "
                "Draw it on a fixed support and scale it: u = pyro.sample('u', Uniform(0, 1)), then pyro.deterministic"
            )
        length = unconstrained.numel()
        sites.append(Site(name, value.shape, support, transform, unconstrained.shape, slice(start, start + length)))
        start += length
    if not sites:
        raise ValueError(
            "expected a model with at least one latent site, got none: every parameter is held or observed"
        )
    return tuple(sites)


def seeds_from(seed: int, count: int) -> list[int]:
    """`count` seeds derived from one."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2**31 - 1, (count,), generator=generator).tolist()
