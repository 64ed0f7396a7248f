"""Components: galaxies, stars and skies, each a Pyro model function with priors.

Lower-case names make components for a scene: ``models.sersic(n=dist.LogNormal(0.7, 0.4))``. Each of their
parameters takes a Pyro distribution, a held value, or nothing. Capitalised names are the lights behind them, for
use inside a component of one's own:

>>> import pyro, pyro.distributions as dist
>>> from bayesprof import models
>>> def bulge_and_disk():
...     x, y = pyro.sample("x", dist.Normal(60, 1)), pyro.sample("y", dist.Normal(60, 1))
...     flux = pyro.sample("flux", dist.LogNormal(7.5, 1.0))
...     b_t = pyro.sample("bulge_to_total", dist.Beta(1, 2))
...     disk = models.Exponential(x, y, flux * (1 - b_t), 8.0, q=0.6)
...     return models.DeVaucouleurs(x, y, flux * b_t, 2.0) + disk
"""

from bayesprof.models.broken_exponential import BrokenExponential, broken_exponential
from bayesprof.models.core_sersic import CoreSersic, core_sersic
from bayesprof.models.de_vaucouleurs import DeVaucouleurs, de_vaucouleurs
from bayesprof.models.ellipticity import Ellipticity
from bayesprof.models.exponential import Exponential, exponential
from bayesprof.models.ferrer import Ferrer, ferrer
from bayesprof.models.flat_sky import FlatSky, flat_sky
from bayesprof.models.gaussian import Gaussian, gaussian
from bayesprof.models.gaussian_ring import GaussianRing, gaussian_ring
from bayesprof.models.king import King, king
from bayesprof.models.moffat import Moffat, moffat
from bayesprof.models.multi_gaussian import MultiGaussian, multi_gaussian
from bayesprof.models.nuker import Nuker, nuker
from bayesprof.models.plane_sky import PlaneSky, plane_sky
from bayesprof.models.point_source import PointSource, point_source
from bayesprof.models.sersic import Sersic, sersic
from bayesprof.models.spergel import Spergel, spergel

__all__ = [
    "BrokenExponential",
    "CoreSersic",
    "DeVaucouleurs",
    "Ellipticity",
    "Exponential",
    "Ferrer",
    "FlatSky",
    "Gaussian",
    "GaussianRing",
    "King",
    "Moffat",
    "MultiGaussian",
    "Nuker",
    "PlaneSky",
    "PointSource",
    "Sersic",
    "Spergel",
    "broken_exponential",
    "core_sersic",
    "de_vaucouleurs",
    "exponential",
    "ferrer",
    "flat_sky",
    "gaussian",
    "gaussian_ring",
    "king",
    "moffat",
    "multi_gaussian",
    "nuker",
    "plane_sky",
    "point_source",
    "sersic",
    "spergel",
]
