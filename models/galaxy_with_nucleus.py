"""A galaxy of the catalogue with a point source in its centre: an active nucleus, or a cluster of stars too small to
be resolved.

The flux is that of both; ``nucleus_fraction`` is the point source's part of it, with the default prior Beta(1, 4): mean
0.2. The image must have a PSF.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from bayesprof.light import Light
from bayesprof.models.component import Component, Derived, catalogued, component
from bayesprof.models.galaxy import fraction
from bayesprof.models.point_source import PointSource
from bayesprof.models.sersic import Sersic, sersic


class GalaxyWithNucleus(Light):
    """Light of a galaxy and of a point source in its centre.

    Parameters
    ----------
    x, y : centre of both, pixels.
    flux : total light of both, image units.
    nucleus_fraction : light of the point source over that of both, in [0, 1].
    profile : function that returns the galaxy's light
        Called with keywords: x, y, the galaxy's flux, and `rest`; :class:`Sersic` by default.
    **rest : the other parameters of the profile.

    Examples
    --------
    >>> from bayesprof import models
    >>> galaxy = models.GalaxyWithNucleus(30.0, 40.0, 100.0, 0.1, r_eff=5.0, n=1.0)
    >>> host = models.GalaxyWithNucleus(30.0, 40.0, 100.0, 0.1, profile=models.DeVaucouleurs, r_eff=5.0)
    """

    def __init__(
        self, x: Any, y: Any, flux: Any, nucleus_fraction: Any, *, profile: Callable[..., Light] = Sersic, **rest: Any
    ) -> None:
        galaxy = profile(x=x, y=y, flux=flux * (1 - nucleus_fraction), **rest)
        super().__init__((*galaxy.parts, PointSource(x, y, flux * nucleus_fraction)))


@catalogued
def galaxy_with_nucleus(galaxy: Component | None = None, *, nucleus_fraction: Any = None) -> Component:
    """A galaxy with a point source in its centre, :class:`GalaxyWithNucleus`.

    `galaxy` is a component of the catalogue with x, y and flux, :func:`sersic` by default; its flux then is the total.
    `nucleus_fraction` takes a Pyro distribution (prior), a number or tensor (held), or nothing: then its prior is
    Beta(1, 4).

    Recorded beside the parameters: ``nucleus_flux``, ``galaxy_flux``, and what the galaxy records of itself.

    Raises
    ------
    TypeError, ValueError
        For a galaxy that isn't a component of the catalogue, or one without a centre and a flux.

    Examples
    --------
    >>> from bayesprof import models
    >>> quasar = models.galaxy_with_nucleus(models.bulge_disk(bulge_n=4.0), nucleus_fraction=0.3)
    """
    galaxy = sersic() if galaxy is None else galaxy
    if not isinstance(galaxy, Component):
        raise TypeError(
            "galaxy_with_nucleus: expected galaxy as a component of the catalogue, got "
            f"{type(galaxy).__name__}; give models.sersic(...), or add a models.PointSource to your own light"
        )
    missing = [name for name in ("x", "y", "flux") if name not in galaxy.parameters]
    taken = "nucleus_fraction" in galaxy.parameters
    if missing or taken:
        problem = "one that has a nucleus" if taken else f"{galaxy.kind}, which has no {', '.join(missing)}"
        raise ValueError(
            "galaxy_with_nucleus: expected a galaxy with x, y and flux and no nucleus yet, got "
            f"{problem}; give one like models.sersic(...)"
        )
    parameters, given = {}, dict(galaxy.given)
    for name, parameter in galaxy.parameters.items():
        parameters[name] = parameter
        if name == "flux":
            parameters["nucleus_fraction"] = _FRACTION
    derived = {
        "nucleus_flux": Derived("{flux}", "flux nucleus_fraction", lambda v: v["flux"] * v["nucleus_fraction"]),
        "galaxy_flux": Derived(
            "{flux}", "flux (1 - nucleus_fraction)", lambda v: v["flux"] * (1 - v["nucleus_fraction"])
        ),
        **{name: _without_nucleus(one) for name, one in galaxy.derived.items()},
    }
    light = partial(GalaxyWithNucleus, profile=galaxy.light)
    return component("galaxy_with_nucleus", light, parameters, derived, **given, nucleus_fraction=nucleus_fraction)


def _without_nucleus(derived: Derived) -> Derived:
    """What the galaxy records of itself, with its own flux in the place of the total."""

    def of(values: Any) -> Tensor:
        return derived.of({**values, "flux": values["flux"] * (1 - values["nucleus_fraction"])})

    return derived._replace(meaning=derived.meaning.replace("flux", "galaxy_flux", 1), of=of)


_FRACTION = fraction(1, 4, "the point source's part of the light")
