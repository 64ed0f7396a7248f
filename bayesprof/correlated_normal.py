"""A Normal distribution over the pixels of an image whose noise is correlated.

x = loc + factor sigma w, with w of the correlation that a :class:`bayesprof.decorrelation.Decorrelation` undoes; the
covariance is factor^2 diag(sigma) C diag(sigma).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from bayesprof.decorrelation import Decorrelation


class CorrelatedNormal(TorchDistribution):
    """Normal pixels of mean `loc` and standard deviation `factor` times `sigma`, correlated with each other.

    Its batch shape is that of the image. The log probability of a pixel is that given the pixels before it in the
    order of reading, so that their sum is that of the image; masked ones don't enter those of others.

    Parameters
    ----------
    loc : Tensor, shape (..., ny, nx)
    sigma : Tensor, shape (ny, nx), > 0
    factor : Tensor, a number > 0
    decorrelation : Decorrelation
        Of the same pixels.
    """

    arg_constraints = {  # noqa: RUF012
        "loc": constraints.real,
        "sigma": constraints.positive,
        "factor": constraints.positive,
    }
    support = constraints.real
    has_rsample = True
    held = ("sigma",)
    """What `fisher_terms` doesn't cover."""

    def __init__(
        self,
        loc: Tensor,
        sigma: Tensor,
        factor: Tensor,
        decorrelation: Decorrelation,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.sigma, self.factor = torch.broadcast_tensors(loc, sigma, factor)
        self.decorrelation = decorrelation
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> CorrelatedNormal:
        loc, sigma, factor = (value.expand(batch_shape) for value in (self.loc, self.sigma, self.factor))
        return CorrelatedNormal(loc, sigma, factor, self.decorrelation, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        scale = self.sigma * self.factor * self.decorrelation.scale
        standard = self._independent(value) / self.factor
        return -0.5 * standard**2 - torch.log(scale) - 0.5 * math.log(2 * math.pi)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.loc + self.sigma * self.factor * self.decorrelation.draw(tuple(shape[:-2]))

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return (self.sigma * self.factor) ** 2

    def squares(self, value: Tensor) -> Tensor:
        """Squares whose sum is the residual's in terms of the inverse covariance."""
        return (self._independent(value) / self.factor) ** 2

    def leave_one_out(self, value: Tensor) -> Tensor:
        """Log probability of each pixel given all others, before and behind it.

        With Q the inverse of the covariance and g = Q (x - loc), pixel i given the others is
        Normal(x_i - g_i / Q_ii, 1 / sqrt(Q_ii)) (Buerkner, Gabry & Vehtari 2021, Comput. Stat. 36, 1243).
        """
        spread = self.sigma * self.factor * self.decorrelation.precision**-0.5
        pulled = self.decorrelation.transposed(self._independent(value)) / self.decorrelation.precision
        standard = pulled * self.sigma / spread
        return -0.5 * standard**2 - torch.log(spread) - 0.5 * math.log(2 * math.pi)

    def fisher_terms(self, value: Tensor) -> list[tuple[Tensor, Tensor, Tensor, list[Tensor]]]:
        """Each parameter with its information, score and bends (:mod:`bayesprof.inference.information`): those of
        independent Normal values. In the place of loc there is what decorrelation makes of it, but for a constant.
        """
        located = -self._independent(value)
        factor = self.factor.detach()
        precision, standard = factor**-2, -located.detach() / factor
        return [
            (located, precision, standard / factor, [precision]),
            (
                self.factor,
                2 * precision,
                (standard**2 - 1) / factor,
                [2 * standard * precision, (3 * standard**2 - 1) * precision],
            ),
        ]

    def _independent(self, value: Tensor) -> Tensor:
        return self.decorrelation((value - self.loc) / self.sigma)
