"""Components: galaxies, stars, skies and PSFs, each a Pyro model function with priors.

Lower-case names make components for a scene: ``models.sersic(n=dist.LogNormal(0.7, 0.4))``. Each of their
parameters takes a Pyro distribution, a held value, or nothing; :func:`describe` lists what came of it. Capitalised
names are the lights behind them, for use inside a component of one's own:

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
from bayesprof.models.alignment import alignment
from bayesprof.models.bar import bar
from bayesprof.models.basis_images import BasisImages, basis_images
from bayesprof.models.bilinear_sky import BilinearSky, bilinear_sky
from bayesprof.models.boxiness import Boxiness, boxiness
from bayesprof.models.broken_exponential import BrokenExponential, broken_exponential
from bayesprof.models.bulge_disk import BulgeDisk, bulge_disk
from bayesprof.models.bulge_disk_bar import BulgeDiskBar, bulge_disk_bar
from bayesprof.models.core_sersic import CoreSersic, core_sersic
from bayesprof.models.de_vaucouleurs import DeVaucouleurs, de_vaucouleurs
from bayesprof.models.describe import describe
from bayesprof.models.double_moffat_psf import DoubleMoffatPSF, double_moffat_psf
from bayesprof.models.edge_on_disk import EdgeOnDisk, edge_on_disk
from bayesprof.models.eigen_psf import EigenPSF, eigen_psf
from bayesprof.models.ellipticity import Ellipticity
from bayesprof.models.exponential import Exponential, exponential
from bayesprof.models.ferrer import Ferrer, ferrer
from bayesprof.models.flat_sky import FlatSky, flat_sky
from bayesprof.models.fourier_modes import FourierModes, fourier_modes
from bayesprof.models.freeform import Freeform, freeform
from bayesprof.models.galaxy_with_nucleus import GalaxyWithNucleus, galaxy_with_nucleus
from bayesprof.models.gaussian import Gaussian, gaussian
from bayesprof.models.gaussian_ellipsoid import GaussianEllipsoid, gaussian_ellipsoid
from bayesprof.models.gaussian_psf import GaussianPSF, gaussian_psf
from bayesprof.models.gaussian_ring import GaussianRing, gaussian_ring
from bayesprof.models.inclined_disk import InclinedDisk, inclined_disk
from bayesprof.models.king import King, king
from bayesprof.models.moffat import Moffat, moffat
from bayesprof.models.moffat_psf import MoffatPSF, moffat_psf
from bayesprof.models.moving_star import moving_star
from bayesprof.models.multi_gaussian import MultiGaussian, multi_gaussian
from bayesprof.models.nuker import Nuker, nuker
from bayesprof.models.pixel_psf import PixelPSF, pixel_psf
from bayesprof.models.plane_sky import PlaneSky, plane_sky
from bayesprof.models.point_source import PointSource, point_source
from bayesprof.models.polynomial_sky import PolynomialSky, polynomial_sky
from bayesprof.models.rays import Rays, rays
from bayesprof.models.sersic import Sersic, sersic
from bayesprof.models.shaped import Shaped, shaped
from bayesprof.models.sources import sources
from bayesprof.models.spergel import Spergel, spergel
from bayesprof.models.spiral import LogSpiral, PowerSpiral, log_spiral, power_spiral
from bayesprof.models.spline import Spline, spline
from bayesprof.models.truncation import InnerTruncation, OuterTruncation, inner_truncation, outer_truncation
from bayesprof.models.warp import Warp, warp
from bayesprof.models.wedges import Wedges, wedges
from bayesprof.models.zernike_psf import ZernikePSF, zernike_psf

__all__ = [
    "AiryPSF",
    "BasisImages",
    "BilinearSky",
    "Boxiness",
    "BrokenExponential",
    "BulgeDisk",
    "BulgeDiskBar",
    "CoreSersic",
    "DeVaucouleurs",
    "DoubleMoffatPSF",
    "EdgeOnDisk",
    "EigenPSF",
    "Ellipticity",
    "Exponential",
    "Ferrer",
    "FlatSky",
    "FourierModes",
    "Freeform",
    "GalaxyWithNucleus",
    "Gaussian",
    "GaussianEllipsoid",
    "GaussianPSF",
    "GaussianRing",
    "InclinedDisk",
    "InnerTruncation",
    "King",
    "LogSpiral",
    "Moffat",
    "MoffatPSF",
    "MultiGaussian",
    "Nuker",
    "OuterTruncation",
    "PixelPSF",
    "PlaneSky",
    "PointSource",
    "PolynomialSky",
    "PowerSpiral",
    "Rays",
    "Sersic",
    "Shaped",
    "Spergel",
    "Spline",
    "Warp",
    "Wedges",
    "ZernikePSF",
    "airy_psf",
    "alignment",
    "bar",
    "basis_images",
    "bilinear_sky",
    "boxiness",
    "broken_exponential",
    "bulge_disk",
    "bulge_disk_bar",
    "core_sersic",
    "de_vaucouleurs",
    "describe",
    "double_moffat_psf",
    "edge_on_disk",
    "eigen_psf",
    "exponential",
    "ferrer",
    "flat_sky",
    "fourier_modes",
    "freeform",
    "galaxy_with_nucleus",
    "gaussian",
    "gaussian_ellipsoid",
    "gaussian_psf",
    "gaussian_ring",
    "inclined_disk",
    "inner_truncation",
    "king",
    "log_spiral",
    "moffat",
    "moffat_psf",
    "moving_star",
    "multi_gaussian",
    "nuker",
    "outer_truncation",
    "pixel_psf",
    "plane_sky",
    "point_source",
    "polynomial_sky",
    "power_spiral",
    "rays",
    "sersic",
    "shaped",
    "sources",
    "spergel",
    "spline",
    "warp",
    "wedges",
    "zernike_psf",
]
