"""The core-Sersic profile: a Sersic profile that turns into a power law inside of a break radius.

    I(R) ~ (1 + (r_b / R)^alpha)^(gamma / alpha) exp(-b ((R^alpha + r_b^alpha) / r_eff^alpha)^(1 / (n alpha)))

(Graham et al. 2003, AJ 125, 2951, equation 5; Trujillo et al. 2004, AJ 127, 1917, equation 5), with b the constant of
the Sersic profile of index n.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from bayesprof.hankel import map_with_a_break
from bayesprof.light import as_tensors
from bayesprof.models.component import Component, catalogued
from bayesprof.models.galaxy import FLUX, SIZE, affine_beta, elliptical, exponent, size
from bayesprof.models.nuker import GAMMA_MAX
from bayesprof.models.sersic import INDEX, N_RANGE, sersic_b
from bayesprof.radial import RadialProfile


class CoreSersic(RadialProfile):
    """Light of a core-Sersic profile.

    Parameters
    ----------
    x, y : centre, pixels.
    flux : total light, image units.
    r_eff : half-light radius along the major axis of the outer Sersic profile without its core, pixels, > 0. That of
        the whole is a little larger.
    n : index of the outer Sersic profile, in [0.25, 10]; beyond, it stays at the nearer end.
    r_break : break radius along the major axis, pixels, > 0, from r_eff / 10,000 to 10 r_eff.
    gamma : slope inside of the break, ``-d ln I / d ln R``, at most 1.4; beyond, it stays there.
    alpha : sharpness of the break, > 0.
    q, theta : axis ratio in (0, 1] and angle of the major axis, radians; or
    ellipticity : the vector (e1, e2) of shape (..., 2). Conventions: :mod:`bayesprof.grid`.

    Examples
    --------
    >>> from bayesprof import models
    >>> galaxy = models.CoreSersic(30.0, 40.0, 100.0, 20.0, 4.0, 1.5, 0.1, q=0.9, theta=0.3)
    """

    hankel = staticmethod(map_with_a_break)

    def __init__(
        self,
        x: Any,
        y: Any,
        flux: Any,
        r_eff: Any,
        n: Any,
        r_break: Any,
        gamma: Any,
        alpha: Any = 5.0,
        *,
        q: Any = None,
        theta: Any = None,
        ellipticity: Any = None,
    ) -> None:
        x, y, flux, r_eff, n, r_break, gamma, alpha = as_tensors(x, y, flux, r_eff, n, r_break, gamma, alpha)
        super().__init__(x, y, flux, r_break, q=q, theta=theta, ellipticity=ellipticity)
        self.n, self.gamma, self.alpha = n.clamp(*N_RANGE), gamma.clamp(max=GAMMA_MAX), alpha
        # b (r_b / r_eff)^(1 / n), with which the formula needs neither
        self.scale = sersic_b(self.n) * torch.exp((torch.log(r_break) - torch.log(r_eff)) / self.n)

    @property
    def shape(self) -> tuple[Tensor, ...]:
        return self.scale, self.n, self.gamma, self.alpha

    @staticmethod
    def formula(  # type: ignore[override]
        radius: Tensor, scale: Tensor, n: Tensor, gamma: Tensor, alpha: Tensor
    ) -> Tensor:
        log_radius = torch.log(radius)
        log_outer = softplus(alpha * log_radius, threshold=40.0) / alpha
        return gamma * (log_outer - log_radius) - scale * torch.expm1(log_outer / n)


@catalogued
def core_sersic(
    *,
    x: Any = None,
    y: Any = None,
    flux: Any = None,
    r_eff: Any = None,
    n: Any = None,
    r_break: Any = None,
    gamma: Any = None,
    alpha: Any = None,
    ellipticity: Any = None,
    q: Any = None,
    theta: Any = None,
) -> Component:
    """An elliptical galaxy with a core-Sersic profile, :class:`CoreSersic`.

    Each parameter takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is the
    default of :mod:`bayesprof.models.galaxy`, for `n` that of :func:`bayesprof.models.sersic`, and

    - `r_break`: LogNormal(ln a tenth of the measured half-light radius, 1),
    - `gamma`: 1.4 Beta(1.5, 3.5), which has mean 0.42 and standard deviation 0.26,
    - `alpha`: LogNormal(ln 4, 0.5).

    Giving `q` or `theta` takes the place of `ellipticity`.

    Examples
    --------
    >>> from bayesprof import models
    >>> galaxy = models.core_sersic(alpha=10.0)
    """
    given = {
        "x": x, "y": y, "flux": flux, "r_eff": r_eff, "n": n, "r_break": r_break, "gamma": gamma, "alpha": alpha,
        "ellipticity": ellipticity, "q": q, "theta": theta,
    }  # fmt: skip
    return elliptical("core_sersic", CoreSersic, {**FLUX, **SIZE, **_OWN}, **given)


_OWN = {
    "n": INDEX,
    "r_break": size(0.1, "a tenth of the measured half-light radius"),
    "gamma": affine_beta(0.0, GAMMA_MAX, 1.5, 3.5, 0.4),
    "alpha": exponent(0.1, 50.0, 4.0, 0.5),
}
