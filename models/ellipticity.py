"""The prior on the shape of a galaxy: isotropic, and smooth where the galaxy is round."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import biject_to, transform_to
from torch.distributions.transforms import Transform


class _UnitDisc(constraints.Constraint):
    """Vectors ``(..., 2)`` shorter than 1."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return (value**2).sum(-1) < 1


unit_disc = _UnitDisc()


class PlaneToDisc(Transform):
    """``e = w / sqrt(1 + |w|^2)``: the plane onto the unit disc. The determinant of its Jacobian is ``(1 +
    |w|^2)^-2``.
    """

    domain = constraints.real_vector
    codomain = unit_disc
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlaneToDisc)

    __hash__ = Transform.__hash__

    def _call(self, x: Tensor) -> Tensor:
        return x / torch.sqrt(1 + (x**2).sum(-1, keepdim=True))

    def _inverse(self, y: Tensor) -> Tensor:
        return y / torch.sqrt(1 - (y**2).sum(-1, keepdim=True))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return -2 * torch.log1p((x**2).sum(-1))


@biject_to.register(_UnitDisc)
@transform_to.register(_UnitDisc)
def _plane_to_disc(constraint: Any) -> PlaneToDisc:
    return PlaneToDisc()


class Ellipticity(dist.TransformedDistribution):
    """Isotropic distribution of the ellipticity vector ``(e1, e2)``, event shape (2,).

    ``e = w / sqrt(1 + |w|^2)`` with both components of ``w`` Normal(0, `scale`). With `scale` 0.4 half of the galaxies
    have q < 0.40 and 95% have q > 0.18; the density is smooth, and highest, at a circle.

    Examples
    --------
    >>> from bayesprof import models
    >>> models.Ellipticity(0.4).sample().shape
    torch.Size([2])
    """

    def __init__(self, scale: float | Tensor = 0.4) -> None:
        scale = torch.as_tensor(scale)
        self.scale = scale
        scales = torch.stack([scale, scale], dim=-1)
        super().__init__(dist.Normal(torch.zeros_like(scales), scales).to_event(1), [PlaneToDisc()])

    def expand(self, batch_shape: Any, _instance: Any = None) -> Ellipticity:
        return Ellipticity(self.scale.expand(batch_shape))

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> Any:
        return unit_disc
