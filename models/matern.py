"""The Matern covariance of order 3/2 (Rasmussen & Williams 2006, equation 4.17), of smooth functions without a formula,

cov = sd^2 (1 + sqrt(3) d / length) exp(-sqrt(3) d / length),

d the distance of two places.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_JITTER = 1e-8  # of the variance, for the Cholesky factor


def matern_factor(places: Tensor, length: float) -> Tensor:
    """Cholesky factor of the correlations between `places` of shape (count, dimensions); their dtype.

    Examples
    --------
    >>> import torch
    >>> factor = matern_factor(torch.tensor([[0.0], [1.0]], dtype=torch.float64), 2.0)
    >>> round(float((factor @ factor.mT)[0, 1]), 4)
    0.7849
    """
    scaled = math.sqrt(3) / length * torch.cdist(places, places)
    unit = torch.eye(len(places), dtype=places.dtype, device=places.device)
    return torch.linalg.cholesky((1 + scaled) * torch.exp(-scaled) + _JITTER * unit)
