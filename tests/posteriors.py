"""Posteriors whose means and standard deviations are known, as Pyro models, for the tests of every method; and small
scenes of one component each.

Conjugate ones from Gelman et al. (2013, Bayesian Data Analysis, 3rd edition, chapters 2, 3 and 14); the moments of the
others by quadrature to 1e-9.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import scipy.stats
import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor

import bayesprof as bp
from bayesprof import models
from bayesprof.inference.fit import entry_labels


@dataclass(frozen=True)
class Known:
    """A Pyro model without arguments, and the mean and the standard deviation of each latent site, of its shape.

    `mean_error` and `sd_error`: their standard errors, where they come from a long run.
    """

    model: Callable[[], Any]
    mean: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]
    mean_error: dict[str, np.ndarray] = field(default_factory=dict)
    sd_error: dict[str, np.ndarray] = field(default_factory=dict)


class Comparison(NamedTuple):
    """One scalar of a posterior beside what is known: the offset of its mean in standard errors, that of its standard
    deviation as a fraction and the fraction allowed, and the effective number of draws of its mean.
    """

    label: str
    mean_offset: float
    sd_offset: float
    sd_allowed: float
    ess: float

    @property
    def agrees(self) -> bool:
        return abs(self.mean_offset) <= MEAN_ERRORS and abs(self.sd_offset) <= self.sd_allowed


MEAN_ERRORS = 4.0
"""Standard errors by which a mean may be off: by chance once in 16,000."""
SD_FRACTION = 0.03
"""Fraction by which a standard deviation may be off, or four of its standard errors where those are more."""


def compared(post: az.InferenceData, known: Known) -> list[Comparison]:
    """Comparisons of every scalar in the latent sites. Standard errors are ArviZ's; resampled draws are worth
    ``attrs["resampled_ess"]``.
    """
    rows = []
    for name, mean in known.mean.items():
        draws = post.posterior[name].values
        for label, index in zip(entry_labels(name, mean.shape), np.ndindex(*mean.shape), strict=True):
            x = draws[(slice(None), slice(None), *index)]
            nominal = float(az.ess(x, method="mean"))
            ess = min(nominal, float(post.attrs.get("resampled_ess", np.inf)))
            repeats = math.sqrt(nominal / ess)
            sd = float(known.sd[name][index])
            mean_error = math.hypot(x.std() / math.sqrt(ess), known.mean_error.get(name, np.zeros(mean.shape))[index])
            sd_error = math.hypot(
                repeats * float(az.mcse(x, method="sd")), known.sd_error.get(name, np.zeros(mean.shape))[index]
            )
            offset, sd_offset = (x.mean() - mean[index]) / mean_error, x.std() / sd - 1
            rows.append(
                Comparison(label, float(offset), float(sd_offset), max(SD_FRACTION, MEAN_ERRORS * sd_error / sd), ess)
            )
    return rows


def double(*values: float) -> Tensor:
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


def correlated_gaussian() -> Known:
    """Ten coefficients of a linear regression; the condition number of their covariance is 10,000."""
    size, prior_sd = 10, 10.0
    generator = np.random.default_rng(10)
    rotation, _ = np.linalg.qr(generator.normal(size=(size, size)))
    precision = np.logspace(0, 4, size)
    design = np.sqrt(precision - prior_sd**-2)[:, None] * rotation.T
    data = design @ generator.normal(size=size) + generator.normal(size=size)
    covariance = (rotation / precision) @ rotation.T
    x, y = torch.from_numpy(design), torch.from_numpy(data)

    def model() -> None:
        beta = pyro.sample("beta", dist.Normal(torch.zeros(size, dtype=torch.float64), prior_sd).to_event(1))
        pyro.sample("y", dist.Normal(x @ beta, 1.0).to_event(1), obs=y)

    return Known(model, {"beta": covariance @ design.T @ data}, {"beta": np.sqrt(np.diagonal(covariance))})


def skewed() -> Known:
    """The precision of four numbers and the rate of one count: Gamma(2.5, .) and Gamma(2, .), skewness 1.3 and 1.4."""
    values, count = double(0.3, -1.4, 0.8, 2.1), double(1.0)

    def model() -> None:
        precision = pyro.sample("precision", dist.Gamma(double(0.5), 0.2))
        rate = pyro.sample("rate", dist.Gamma(double(1.0), 0.5))
        pyro.sample("values", dist.Normal(0.0, precision**-0.5).expand([4]).to_event(1), obs=values)
        pyro.sample("count", dist.Poisson(rate), obs=count)

    shape = {"precision": 0.5 + 4 / 2, "rate": 1.0 + 1}
    inverse_scale = {"precision": 0.2 + float((values**2).sum()) / 2, "rate": 0.5 + 1}
    return Known(
        model,
        {name: np.array(shape[name] / inverse_scale[name]) for name in shape},
        {name: np.array(math.sqrt(shape[name]) / inverse_scale[name]) for name in shape},
    )


def heavy_tailed() -> Known:
    """Mean and precision of three numbers: the mean's marginal is a Student t of 5 degrees of freedom, and its width
    depends on the precision.
    """
    values = double(1.2, -0.4, 2.9)

    def model() -> None:
        precision = pyro.sample("precision", dist.Gamma(double(1.0), 1.0))
        mean = pyro.sample("mean", dist.Normal(double(0.0), (0.5 * precision) ** -0.5))
        pyro.sample("values", dist.Normal(mean, precision**-0.5).expand([3]).to_event(1), obs=values)

    count, average = 3, float(values.mean())
    counts, shape = 0.5 + count, 1.0 + count / 2
    rate = 1.0 + 0.5 * float(((values - average) ** 2).sum()) + 0.5 * average**2 * 0.5 * count / counts
    df = 2 * shape
    return Known(
        model,
        {"precision": np.array(shape / rate), "mean": np.array(count * average / counts)},
        {
            "precision": np.array(math.sqrt(shape) / rate),
            "mean": np.array(math.sqrt(rate / (shape * counts) * df / (df - 2))),
        },
    )


def bounded() -> Known:
    """A fraction of which no case was seen, Beta(1, 11), and a level whose likelihood peaks below its lower bound:
    both densities are highest at an edge.
    """
    none, below = torch.zeros(8, dtype=torch.float64), double(-0.5)

    def model() -> None:
        fraction = pyro.sample("fraction", dist.Beta(double(1.0), 3.0))
        level = pyro.sample("level", dist.Uniform(double(0.0), 10.0))
        pyro.sample("cases", dist.Bernoulli(fraction).expand([8]).to_event(1), obs=none)
        pyro.sample("measured", dist.Normal(level, 1.0), obs=below)

    laws = {"fraction": scipy.stats.beta(1, 11), "level": scipy.stats.truncnorm(0.5, 10.5, loc=-0.5)}
    return Known(
        model,
        {name: np.array(law.mean()) for name, law in laws.items()},
        {name: np.array(law.std()) for name, law in laws.items()},
    )


def constrained() -> Known:
    """Fractions on a simplex, Dirichlet(1, 3, 9, 5), and an ellipticity on the disc, measured as 1 +- 0.5 along the
    first axis.
    """
    kinds, counts = torch.tensor([1] * 2 + [2] * 7 + [3] * 3), double(0.0, 2.0, 7.0, 3.0)
    measured, error = double(1.0, 0.0), 0.5
    prior = double(1.0, 1.0, 2.0, 2.0)

    def model() -> None:
        fractions = pyro.sample("fractions", dist.Dirichlet(prior))
        ellipticity = pyro.sample("ellipticity", models.Ellipticity(double(0.4)))
        pyro.sample("kinds", dist.Categorical(fractions).expand([12]).to_event(1), obs=kinds)
        pyro.sample("measured", dist.Normal(ellipticity, error).to_event(1), obs=measured)

    law = scipy.stats.dirichlet((prior + counts).numpy())
    # e = w / sqrt(1 + |w|^2) with both components of w Normal(0, 0.4)
    nodes, weights = hermegauss(160)
    w = 0.4 * np.stack(np.meshgrid(nodes, nodes, indexing="ij"))
    e = w / np.sqrt(1 + (w**2).sum(0))
    density = np.multiply.outer(weights, weights) * np.exp(
        -0.5 * ((e - measured.numpy()[:, None, None]) ** 2).sum(0) / error**2
    )
    density /= density.sum()
    mean = (e * density).sum((1, 2))
    variance = (e**2 * density).sum((1, 2)) - mean**2
    return Known(
        model,
        {"fractions": law.mean(), "ellipticity": mean},
        {"fractions": np.sqrt(law.var()), "ellipticity": np.sqrt(variance)},
    )


ANALYTIC = {make.__name__: make for make in (correlated_gaussian, skewed, heavy_tailed, bounded, constrained)}
"""Functions that make the posteriors, by name."""


# -- scenes of one component, with priors that keep it inside the image and above the noise


def _priors(*names: str) -> dict[str, Any]:
    priors = {
        "x": dist.Normal(double(11.3), 0.7),
        "y": dist.Normal(double(9.6), 0.7),
        "flux": dist.LogNormal(double(6.5), 0.5),
        "r_eff": dist.LogNormal(double(1.1), 0.3),
        "n": dist.LogNormal(double(0.4), 0.3),
        "beta": dist.LogNormal(double(1.1), 0.25),
        "scale_length": dist.LogNormal(double(1.0), 0.3),
        "disk_r_eff": dist.LogNormal(double(1.4), 0.3),
        "r_core": dist.LogNormal(double(0.9), 0.3),
        "r_tidal": dist.LogNormal(double(2.3), 0.3),
        "alpha": dist.LogNormal(double(0.7), 0.3),
        "surface_brightness": dist.LogNormal(double(2.5), 0.5),
        "r_break": dist.LogNormal(double(0.7), 0.3),
        "gamma": dist.AffineBeta(double(2.0), double(4.0), double(0.0), double(1.0)),
        "r_out": dist.LogNormal(double(1.8), 0.3),
        "h_inner": dist.LogNormal(double(1.1), 0.3),
        "h_outer": dist.LogNormal(double(0.5), 0.3),
        "fluxes": dist.LogNormal(torch.full((3,), 5.4, dtype=torch.float64), 0.5).to_event(1),
        "nu": dist.AffineBeta(double(2.0), double(4.0), double(-0.5), double(3.0)),
        "r_ring": dist.LogNormal(double(1.3), 0.2),
        "width": dist.LogNormal(double(0.3), 0.3),
        "level": dist.Normal(double(5.0), 0.7),
        "slope_x": dist.Normal(double(0.0), 0.05),
        "slope_y": dist.Normal(double(0.0), 0.05),
        "fwhm": dist.LogNormal(double(1.1), 0.1),
    }
    return {name: priors[name] for name in names}


def _bright(*names: str) -> dict[str, Any]:
    """Those priors for seven times the light, in which the data and not the priors hold what makes up a profile."""
    brighter = {
        "flux": dist.LogNormal(double(8.5), 0.5),
        "surface_brightness": dist.LogNormal(double(4.5), 0.5),
    }
    return {name: brighter.get(name, prior) for name, prior in _priors(*names).items()}


_THETA = dist.Normal(double(0.6), 0.3)  # of one peak: with that of all directions, so has the posterior of a flat disk


def _around(mean: Tensor) -> Any:
    return dist.Normal(mean, 0.7).to_event()


def _disk(*shapes: Any, **held: Any) -> Any:
    """A bright exponential in those shapes, which little light would hardly show."""
    bright = {**_bright("flux"), **held}
    return models.shaped(
        models.exponential(**_priors("x", "y"), r_eff=dist.LogNormal(double(1.4), 0.2), **bright), *shapes
    )


_Y, _X = np.mgrid[-4:5, -5:6].astype(float)
_STAMP = (1 + (_X**2 + _Y**2) / 3.4) ** -2.8
_EIGEN_STAMPS = [0.1 * _STAMP * shape for shape in (_X**2 + _Y**2 - 3, _X**2 - _Y**2)]
_BASIS = np.random.default_rng(6).normal(size=(2, 20, 24))

COMPONENTS = {
    "sersic": models.sersic(**_priors("x", "y", "flux", "r_eff", "n")),
    "exponential": models.exponential(**_priors("x", "y", "flux", "r_eff")),
    "de_vaucouleurs": models.de_vaucouleurs(**_priors("x", "y", "flux", "r_eff")),
    "gaussian": models.gaussian(**_priors("x", "y", "flux", "r_eff")),
    "moffat": models.moffat(**_priors("x", "y", "flux", "r_eff", "beta")),
    "edge_on_disk": models.edge_on_disk(**_bright("x", "y", "flux", "scale_length"), theta=_THETA),
    "inclined_disk": models.inclined_disk(**_bright("x", "y", "flux", "scale_length"), theta=_THETA),
    "bulge_disk": models.bulge_disk(**_bright("x", "y", "flux", "disk_r_eff")),
    "bulge_disk_bar": models.bulge_disk_bar(**_bright("x", "y", "flux", "disk_r_eff")),
    "galaxy_with_nucleus": models.galaxy_with_nucleus(models.sersic(**_bright("x", "y", "flux", "r_eff", "n"))),
    "bar": models.bar(**_bright("x", "y", "flux", "r_eff", "r_out"), n=0.5, width_out=1.5, theta=_THETA),
    "freeform": models.freeform((3, 4), 4.0, x=11.5, y=9.5, values=dist.Normal(torch.zeros(3, 4), 2.0).to_event(2)),
    "king": models.king(**_priors("x", "y", "flux", "r_core", "r_tidal", "alpha")),
    "nuker": models.nuker(**_bright("x", "y", "surface_brightness", "r_break", "alpha", "beta", "gamma")),
    "core_sersic": models.core_sersic(**_bright("x", "y", "flux", "r_eff", "n", "r_break", "gamma", "alpha")),
    "ferrer": models.ferrer(**_bright("x", "y", "flux", "r_out", "alpha")),
    "broken_exponential": models.broken_exponential(
        **_bright("x", "y", "flux", "h_inner", "h_outer", "r_break", "alpha")
    ),
    "spergel": models.spergel(**_bright("x", "y", "flux", "r_eff", "nu")),
    "gaussian_ring": models.gaussian_ring(**_bright("x", "y", "flux", "r_ring", "width")),
    "gaussian_ellipsoid": models.gaussian_ellipsoid(
        **_bright("x", "y", "flux"),
        sigma=dist.LogNormal(double(1.1), 0.3),
        theta=_THETA,
        b_to_a=0.9,
        cos_inclination=0.5,
        azimuth=0.4,
    ),
    "multi_gaussian": models.multi_gaussian(**_priors("x", "y", "fluxes"), count=3, sigmas=[1.0, 2.0, 4.0]),
    "spline": models.spline(
        **_priors("x", "y"),
        knots=[0.8, 1.6, 3.2, 6.4],
        surface_brightness=dist.LogNormal(double(6.0, 5.4, 4.0, 1.0), 0.5).to_event(1),
    ),
    "rays": models.rays(
        4,
        x=11.3,  # a free centre is much like one wave around it
        y=9.6,
        knots=[0.8, 2.5, 6.4],
        surface_brightness=dist.LogNormal(double(4.0, 2.6, -1.0).expand(4, 3), 0.5).to_event(2),
        ellipticity=[0.0, 0.0],
    ),
    "wedges": models.wedges(
        4,
        x=11.3,  # a free centre is much like one wave around it
        y=9.6,
        knots=[0.8, 2.5, 6.4],
        surface_brightness=dist.LogNormal(double(4.0, 2.6, -1.0).expand(4, 3), 0.5).to_event(2),
        ellipticity=[0.0, 0.0],
    ),
    "boxiness": _disk(models.boxiness()),
    "fourier_modes": _disk(models.fourier_modes((1, 3))),
    "outer_truncation": _disk(models.outer_truncation(**_priors("r_out"), width_out=1.5)),
    "inner_truncation": _disk(models.inner_truncation(r_in=dist.LogNormal(double(0.7), 0.3), width_in=1.0)),
    "log_spiral": _disk(
        models.log_spiral(winding=dist.LogNormal(double(0.7), 0.3), r_bar=1.5),
        models.fourier_modes((2,), fourier=[[0.2, 0.0]]),
    ),
    "power_spiral": _disk(
        models.power_spiral(rotation=dist.LogNormal(double(0.7), 0.3), r_out=6.0, bar=0.2, alpha=0.5),
        models.fourier_modes((2,), fourier=[[0.2, 0.0]]),
    ),
    "warp": _disk(models.warp((1.5, 5.0)), ellipticity=[0.0, 0.0]),
    "point_source": models.point_source(**_priors("x", "y", "flux")),
    "basis_images": models.basis_images(_BASIS, weights=_around(double(2.0, -1.0))),
    "flat_sky": models.flat_sky(**_priors("level")),
    "plane_sky": models.plane_sky(**_priors("level", "slope_x", "slope_y")),
    "bilinear_sky": models.bilinear_sky(nodes=(2, 3), levels=_around(torch.full((2, 3), 5.0, dtype=torch.float64))),
    "polynomial_sky": models.polynomial_sky(coefficients=_around(double(5.0, 0.0, 0.0, 0.0, 0.0, 0.0))),
    "gaussian_psf": models.gaussian_psf(**_priors("fwhm")),
    "moffat_psf": models.moffat_psf(**_priors("fwhm", "beta")),
    "double_moffat_psf": models.double_moffat_psf(
        **_priors("fwhm", "beta"), wing_fraction=dist.Beta(double(3.0), 7.0), wing_beta=2.0
    ),
    "airy_psf": models.airy_psf(lambda_over_d=dist.LogNormal(double(1.0), 0.1)),
    # two waves of coma: those of even symmetry make the same PSF with either sign
    "zernike_psf": models.zernike_psf(lambda_over_d=dist.LogNormal(double(1.0), 0.1), obscuration=0.3, noll=(7, 8)),
    "eigen_psf": models.eigen_psf(_STAMP, _EIGEN_STAMPS),
    "pixel_psf": models.pixel_psf(_STAMP[2:7, 3:8], scatter=0.3),
}
LIKELIHOODS = {
    "gaussian": "gaussian",
    "poisson": "poisson",
    "student_t": "student_t",
    "contaminated": bp.likelihoods.contaminated(
        fraction=dist.Beta(double(6.0), 60.0), scale=dist.LogNormal(double(2.3), 0.5)
    ),
    "extra_noise": bp.likelihoods.extra_noise(extra=dist.LogNormal(double(-0.7), 0.5), factor=0.9),
    "correlated": bp.likelihoods.correlated(
        bp.NoiseCorrelation.of_kernel([[0.1, 0.3, 0.1], [0.3, 1.0, 0.3], [0.1, 0.3, 0.1]]),
        factor=dist.LogNormal(double(0.0), 0.2),
    ),
}


def component_scene(name: str, likelihood: str = "gaussian") -> bp.Scene:
    """One component on 20 rows of 24 pixels with a noise of 1, or Poisson's, over a known sky of 5 where it is none;
    the PSF is a Moffat function with a FWHM of 2 pixels. A PSF model takes its place, and is seen on a star. Shapes
    have their default prior.
    """
    image = bp.Image(
        np.full((20, 24), 5.0), psf=_STAMP / _STAMP.sum(), **({} if likelihood == "poisson" else {"sigma": 1.0})
    )
    noise = LIKELIHOODS[likelihood]
    if name.endswith("_psf"):
        star = models.point_source(**_priors("x", "y"), flux=dist.LogNormal(double(8.0), 0.5))
        return bp.Scene(image, likelihood=noise, psf=COMPONENTS[name], sky=models.flat_sky(level=5.0), star=star)
    sky = {} if name.endswith("sky") else {"sky": models.flat_sky(level=5.0)}
    return bp.Scene(image, likelihood=noise, source=COMPONENTS[name], **sky)
