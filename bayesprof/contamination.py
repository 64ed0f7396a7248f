"""A Normal distribution some of whose draws are outliers.

p(x) = (1 - f) Normal(x; loc, scale) + f Normal(x; loc, outlier_scale)

(Hogg, Bovy & Lang 2010, arXiv:1008.4686, section 3, with which draws are bad summed out.)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

_HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)


class ContaminatedNormal(TorchDistribution):
    """Normal(loc, scale), or with a probability of `fraction` the broader Normal(loc, outlier_scale).

    Parameters
    ----------
    loc, scale : Tensor
        Mean and standard deviation of the good draws; `scale` > 0.
    fraction : Tensor
        Probability of an outlier, in (0, 1).
    outlier_scale : Tensor
        Standard deviation of the outliers about the same mean, > 0.

    Examples
    --------
    >>> good_or_bad = ContaminatedNormal(torch.tensor(0.0), torch.tensor(1.0), torch.tensor(0.1), torch.tensor(10.0))
    >>> round(good_or_bad.log_prob(torch.tensor(8.0)).item(), 3)
    -5.844
    """

    arg_constraints = {  # noqa: RUF012
        "loc": constraints.real,
        "scale": constraints.positive,
        "fraction": constraints.unit_interval,
        "outlier_scale": constraints.positive,
    }
    support = constraints.real
    has_rsample = False

    def __init__(
        self, loc: Tensor, scale: Tensor, fraction: Tensor, outlier_scale: Tensor, validate_args: bool | None = None
    ) -> None:
        given = torch.broadcast_tensors(loc, scale, fraction, outlier_scale)
        self.loc, self.scale, self.fraction, self.outlier_scale = given
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ContaminatedNormal:
        parameters = (self.loc, self.scale, self.fraction, self.outlier_scale)
        loc, scale, fraction, outlier_scale = (value.expand(batch_shape) for value in parameters)
        return ContaminatedNormal(loc, scale, fraction, outlier_scale, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return torch.logaddexp(*self._log_parts(value))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            drawn = {"dtype": self.loc.dtype, "device": self.loc.device}
            outlier = torch.rand(shape, **drawn) < self.fraction
            return self.loc + torch.where(outlier, self.outlier_scale, self.scale) * torch.randn(shape, **drawn)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return (1 - self.fraction) * self.scale**2 + self.fraction * self.outlier_scale**2

    def good(self, value: Tensor) -> Tensor:
        """Probability that each of the values isn't an outlier."""
        good, bad = self._log_parts(value)
        return torch.sigmoid(good - bad)

    def squares(self, value: Tensor) -> Tensor:
        """Squared residuals over the variance of what each value is expected to be: one on average."""
        good, squared = self.good(value), (value - self.loc) ** 2
        return squared * (good / self.scale**2 + (1 - good) / self.outlier_scale**2)

    def fisher_terms(self, value: Tensor) -> list[tuple[Tensor, Tensor, Tensor, list[Tensor]]]:
        """Each parameter with its information, score and bends (:mod:`bayesprof.inference.information`).

        The information is that of values whose kind is known, weighted by the probabilities of the kinds: of loc,
        the weight of iteratively reweighted least squares. It is no less than the mixture's own, so that steps are
        rather short than long, and near the maximum LM goes on with the exact Hessian.
        """
        loc, fraction = self.loc.detach(), self.fraction.detach()
        kinds = []
        residual = value - loc
        for scale, place, sign in ((self.scale.detach(), 2, -1.0), (self.outlier_scale.detach(), 3, 1.0)):
            precision = scale**-2
            standard = residual / scale
            share = fraction if sign > 0 else 1 - fraction
            zero = torch.zeros_like(residual)
            # of the log density of this kind, its share included: first and minus second derivatives
            slopes = [standard / scale, sign / share + zero, zero, zero]
            slopes[place] = (standard**2 - 1) / scale
            bends = [[zero] * (i + 1) for i in range(4)]
            bends[0][0] = precision + zero
            bends[1][1] = share**-2 + zero
            bends[place][0] = 2 * standard * precision
            bends[place][place] = (3 * standard**2 - 1) * precision
            kinds.append((slopes, bends, precision))
        good = self.good(value).detach()
        bad = 1 - good
        (first, first_bends, sharp), (second, second_bends, broad) = kinds
        scores = [good * one + bad * other for one, other in zip(first, second, strict=True)]
        bends = [
            [
                good * first_bends[i][j]
                + bad * second_bends[i][j]
                - good * bad * (first[i] - second[i]) * (first[j] - second[j])
                for j in range(i + 1)
            ]
            for i in range(4)
        ]
        informations = [good * sharp + bad * broad, 1 / (fraction * (1 - fraction)), 2 * good * sharp, 2 * bad * broad]
        parameters = (self.loc, self.fraction, self.scale, self.outlier_scale)
        return list(zip(parameters, informations, scores, bends, strict=True))

    def _log_parts(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Log density of each kind times its share."""
        shares = torch.log1p(-self.fraction), torch.log(self.fraction)
        good, bad = (
            share - 0.5 * ((value - self.loc) / scale) ** 2 - torch.log(scale) - _HALF_LOG_2_PI
            for share, scale in zip(shares, (self.scale, self.outlier_scale), strict=True)
        )
        return good, bad
