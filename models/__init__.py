"""Components: galaxies, stars, skies and PSFs, each a Pyro model function with priors.

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

from bayesprof.models.airy_psf import AiryPSF, airy_psf
from bayesprof.models.bilinear_sky import BilinearSky, bilinear_sky
from bayesprof.models.de_vaucouleurs import DeVaucouleurs, de_vaucouleurs
from bayesprof.models.double_moffat_psf import DoubleMoffatPSF, double_moffat_psf
from bayesprof.models.eigen_psf import EigenPSF, eigen_psf
from bayesprof.models.ellipticity import Ellipticity
from bayesprof.models.exponential import Exponential, exponential
from bayesprof.models.flat_sky import FlatSky, flat_sky
from bayesprof.models.gaussian import Gaussian, gaussian
from bayesprof.models.gaussian_psf import GaussianPSF, gaussian_psf
from bayesprof.models.moffat import Moffat, moffat
from bayesprof.models.moffat_psf import MoffatPSF, moffat_psf
from bayesprof.models.pixel_psf import PixelPSF, pixel_psf
from bayesprof.models.plane_sky import PlaneSky, plane_sky
from bayesprof.models.point_source import PointSource, point_source
from bayesprof.models.polynomial_sky import PolynomialSky, polynomial_sky
from bayesprof.models.sersic import Sersic, sersic

__all__ = [
    "AiryPSF",
    "BilinearSky",
    "DeVaucouleurs",
    "DoubleMoffatPSF",
    "EigenPSF",
    "Ellipticity",
    "Exponential",
    "FlatSky",
    "Gaussian",
    "GaussianPSF",
    "Moffat",
    "MoffatPSF",
    "PixelPSF",
    "PlaneSky",
    "PointSource",
    "PolynomialSky",
    "Sersic",
    "airy_psf",
    "bilinear_sky",
    "de_vaucouleurs",
    "double_moffat_psf",
    "eigen_psf",
    "exponential",
    "flat_sky",
    "gaussian",
    "gaussian_psf",
    "moffat",
    "moffat_psf",
    "pixel_psf",
    "plane_sky",
    "point_source",
    "polynomial_sky",
    "sersic",
]
