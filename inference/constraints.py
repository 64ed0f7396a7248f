"""Gaussian constraints on functions of the parameters: knowledge that isn't a prior on any one of them.

A constraint function(values) = mean +- sigma adds -((function - mean) / sigma)^2 / 2 - log(sigma sqrt(2 pi)) to the log
density, as an observed site ``Normal(function, sigma)`` with the value `mean` would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesprof.inference.posterior import Posterior


@dataclass(frozen=True)
class Constraint:
    """A function of the parameters, known to be `mean` within `sigma`.

    Parameters
    ----------
    function : callable
        Takes the mapping from site names, latent and deterministic, to values; returns a tensor computed from them
        by torch operations.
    mean, sigma : number or array
        Known value and its standard deviation, > 0; of the function's shape, or numbers that hold for all its entries.

    Raises
    ------
    TypeError, ValueError
        For a function that can't be called, and for a mean or sigma that isn't finite, or a sigma <= 0.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> from bayesprof import inference
    >>> def model():
    ...     bulge, disk = (pyro.sample(name, dist.Normal(0.0, 10.0)) for name in ("bulge", "disk"))
    ...     pyro.sample("total", dist.Normal(bulge + disk, 0.1), obs=torch.tensor(10.0))
    >>> equal = Constraint(lambda values: values["bulge"] - values["disk"], mean=0.0, sigma=1.0)
    >>> round(inference.lm(model, constraints=[equal]).std["bulge"], 2)
    0.5
    """

    function: Callable[[Mapping[str, Tensor]], Tensor]
    mean: Any
    sigma: Any

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(
                f"Constraint: expected a function of the site values, got {type(self.function).__name__}; write "
                "lambda values: values['disk.r_eff'] / values['bulge.r_eff']"
            )
        for name in ("mean", "sigma"):
            value = _array(getattr(self, name), name)
            if not np.isfinite(value).all():
                raise ValueError(f"Constraint: expected a finite {name}, got {value.tolist()}")
            if name == "sigma" and not (value > 0).all():
                raise ValueError(f"Constraint: expected sigma > 0, a standard deviation, got {value.tolist()}")


class Constrained:
    """A posterior under constraints: the density that :func:`lm` and its like climb.

    The constraints are checked at `z` of shape (D,). `count` is the number of constrained values.
    """

    def __init__(self, posterior: Posterior, constraints: Sequence[Constraint], z: Tensor) -> None:
        self.posterior = posterior
        self._terms = [_checked(posterior, constraint, i, z) for i, constraint in enumerate(constraints)]
        sigma = torch.cat([sigma.reshape(-1) for _, _, sigma in self._terms])
        self.count = len(sigma)
        self._constant = -float(sigma.log().sum()) - 0.5 * self.count * math.log(2 * math.pi)

    def residuals(self, z: Tensor) -> Tensor:
        """(function - mean) / sigma of every constrained value, shape (count,), at `z` of shape (D,)."""
        values = self.posterior.describe(z)
        return torch.cat([((function(values) - mean) / sigma).reshape(-1) for function, mean, sigma in self._terms])

    def log_density(self, z: Tensor) -> Tensor:
        """Log density of the posterior and the constraints, shape ``z.shape[:-1]``."""
        return self.posterior.log_density(z) + _over_batches(self._log_probability, z)

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log density and its gradient, at `z` of shape ``(..., D)``."""
        value, gradient = self.posterior.value_and_grad(z)
        slope, term = _over_batches(torch.func.grad_and_value(self._log_probability), z)
        return value + term, gradient + slope

    def expansion(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As :meth:`Posterior.expansion`; the constraints' information is J^T J, J the Jacobian of the residuals."""
        value, gradient, information, prior = self.posterior.expansion(z)
        residuals, jacobian = self.residuals(z), torch.func.jacrev(self.residuals)(z)
        value = value - 0.5 * residuals @ residuals + self._constant
        return value, gradient - jacobian.T @ residuals, information + jacobian.T @ jacobian, prior

    def hessian(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`Posterior.hessian`."""
        value, gradient, hessian = self.posterior.hessian(z)
        slope, term = torch.func.grad_and_value(self._log_probability)(z)
        return value + term, gradient + slope, hessian - torch.func.hessian(self._log_probability)(z)

    def chi_square(self, z: Tensor) -> float:
        """Sum of the squared residuals of the constraints."""
        return float(self.residuals(z).square().sum())

    def _log_probability(self, z: Tensor) -> Tensor:
        residuals = self.residuals(z)
        return self._constant - 0.5 * (residuals @ residuals)


def constrained(posterior: Posterior, constraints: Sequence[Constraint], z: Tensor) -> Posterior | Constrained:
    """The density of `posterior` under `constraints`, checked at `z` (D,); the posterior itself where there are none.

    Raises
    ------
    TypeError, ValueError
        For what isn't a sequence of :class:`Constraint`, and for functions of unknown sites, of no site, or of another
        shape than their mean and sigma.
    """
    if isinstance(constraints, Constraint) or not isinstance(constraints, Sequence):
        raise TypeError(
            f"constraints: expected a list of Constraint, got {type(constraints).__name__}; write constraints=[...]"
        )
    return Constrained(posterior, constraints, z) if constraints else posterior


def _checked(posterior: Posterior, constraint: Constraint, index: int, z: Tensor) -> tuple[Any, Tensor, Tensor]:
    """Function, mean and sigma of a constraint, the last two of the function's shape."""
    place = f"constraints[{index}]"
    if not isinstance(constraint, Constraint):
        raise TypeError(
            f"{place}: expected a Constraint, got {type(constraint).__name__}; write Constraint(function, mean, sigma)"
        )
    values = posterior.describe(z.detach().clone().requires_grad_())
    try:
        result = constraint.function(values)
    except KeyError as error:
        raise ValueError(f"{place}: the model has no site {error}; it has {list(values)}") from error
    if not isinstance(result, Tensor) or not result.requires_grad:
        kind = "a constant" if isinstance(result, Tensor) else type(result).__name__
        raise TypeError(
            f"{place}: expected a tensor computed from the values of sites, got {kind}; use torch operations, and "
            "neither float() nor numpy"
        )
    mean, sigma = (
        torch.as_tensor(_array(getattr(constraint, name), name), dtype=z.dtype, device=z.device)
        for name in ("mean", "sigma")
    )
    for name, value in (("mean", mean), ("sigma", sigma)):
        if value.ndim and value.shape != result.shape:
            raise ValueError(
                f"{place}: expected a {name} of the function's shape {tuple(result.shape)}, or a number, got shape "
                f"{tuple(value.shape)}"
            )
    if not bool(result.isfinite().all()):
        raise ValueError(
            f"{place}: expected a finite value at the start, got {result.tolist()}; give other starting values (init=)"
        )
    return constraint.function, mean.expand(result.shape), sigma.expand(result.shape)


def _array(value: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"Constraint: expected {name} to be a number or an array of numbers, got {type(value).__name__}"
        ) from error


def _over_batches(function: Callable[[Tensor], Any], z: Tensor) -> Any:
    for _ in z.shape[:-1]:
        function = torch.func.vmap(function)
    return function(z)
