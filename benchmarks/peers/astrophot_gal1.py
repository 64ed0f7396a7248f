"""AstroPhot on gal1: the time of its LM fit, and the effective samples a second of its HMC and MALA.

    python astrophot_gal1.py DATA_DIR OUT.json [--hmc-step 1.0 --hmc-leapfrogs 2 --mala-step 1.2 ...]

One "sersic galaxy model" with the PSF and no sky, in double precision, from its own `initialize()`. `lm_first` counts
everything after the imports; `lm_again` is the same fit from the same start in the now warm process; `lm_at_optimum`
starts where the first one ended. Both samplers take the covariance of the LM fit as their (inverse) mass matrix, as its
documentation advises, and start dispersed, from draws of that Gaussian; their step sizes, in units of that covariance,
were tuned by hand on this galaxy, tuning not counted. The sampling seconds do not count the LM fit they stand on.
"""

import logging
import time

logging.basicConfig(level=logging.WARNING)  # before AstroPhot, which would open a log file in the working directory

import astrophot  # noqa: E402
import gal1  # noqa: E402
import numpy as np  # noqa: E402
import pyro  # noqa: E402
import torch  # noqa: E402
from astrophot.utils.conversions.functions import sersic_Ie_to_flux_np as flux_of  # noqa: E402

settings = gal1.arguments(
    __doc__.splitlines()[0],
    warmup=100,
    seed=0,
    threads=0,
    hmc_draws=500,
    hmc_chains=2,
    hmc_step=1.0,
    hmc_leapfrogs=2,
    mala_draws=1000,
    mala_chains=4,
    mala_step=1.2,
)
if settings.threads:  # 0: as many as torch chooses
    torch.set_num_threads(settings.threads)
report = gal1.Report("astrophot", settings)


def build():
    target = astrophot.TargetImage(
        data=report.image,
        variance=report.sigma**2,
        mask=report.mask,
        pixelscale=1.0,
        psf=astrophot.PSFImage(data=report.psf),
    )
    model = astrophot.Model(name="galaxy", model_type="sersic galaxy model", target=target, psf_convolve=True)
    model.initialize()
    return model


def to_gal1(points):
    """AstroPhot's parameters (last axis: center x, center y, q, PA from +y, n, Re, Ie) as those of the report."""
    xc, yc, q, pa, n, r_eff, intensity = np.moveaxis(np.asarray(points), -1, 0)
    flux = flux_of(intensity, n, r_eff, q)
    return dict(zip(gal1.PARAMETERS, (flux, r_eff, n, 1 - q, (pa + np.pi / 2) % np.pi, xc, yc), strict=True))


def from_gal1(values):
    flux, r_eff, n, ellip, theta, xc, yc = (values[name] for name in gal1.PARAMETERS)
    intensity = flux / flux_of(1.0, n, r_eff, 1 - ellip)
    return torch.tensor([xc, yc, 1 - ellip, (theta + np.pi / 2) % np.pi, n, r_eff, intensity], dtype=torch.float64)


def image_at(model, point):
    return model(params=point).data.detach().numpy()


def lm(name, model, start):
    fit = astrophot.fit.LM(model, verbose=0).fit()
    seconds = time.perf_counter() - start
    point = model.get_values().detach()
    values = {key: float(value) for key, value in to_gal1(point.numpy()).items()}
    report.fit(name, seconds, values, image_at(model, point), iterations=len(fit.loss_history) - 1, message=fit.message)
    return fit


start = time.perf_counter()
model = build()
fit = lm("lm_first", model, start)
best, covariance = model.get_values().detach().clone(), fit.covariance_matrix.detach()

start = time.perf_counter()
lm("lm_again", build(), start)
start = time.perf_counter()
lm("lm_at_optimum", model, start)


def model_at(values):
    return image_at(model, from_gal1(values))


def moved(points):
    """The share of draws [chain, draw, parameter] that differ from the draw before."""
    return float(np.mean(np.any(np.diff(points, axis=1) != 0, axis=-1)))


pyro.set_rng_seed(settings.seed)  # torch and numpy as well
around = torch.distributions.MultivariateNormal(best, covariance)

start = time.perf_counter()
chains = []
for _ in range(settings.hmc_chains):
    model.set_values(around.sample())
    # Pyro truncates length / step to a whole number of leapfrogs: half a step more keeps it from losing one.
    sampler = astrophot.fit.HMC(
        model,
        max_iter=settings.hmc_draws,
        warmup=settings.warmup,
        epsilon=settings.hmc_step,
        leapfrog_steps=settings.hmc_leapfrogs,
        inv_mass=covariance,
        progress_bar=False,
        hmc_kwargs={"trajectory_length": settings.hmc_step * (settings.hmc_leapfrogs + 0.5)},
    )
    chains.append(sampler.fit().chain.detach().numpy())
seconds = time.perf_counter() - start
points = np.stack(chains)
report.sampler("hmc", seconds, to_gal1(points), model_at, acceptance=moved(points))

start = time.perf_counter()
sampler = astrophot.fit.MALA(
    model,
    initial_state=around.sample((settings.mala_chains,)),
    max_iter=settings.warmup + settings.mala_draws,
    epsilon=settings.mala_step,
    mass_matrix=covariance.numpy(),
    progress_bar=False,
)
points = np.moveaxis(sampler.fit().chain[settings.warmup :], 0, 1)
seconds = time.perf_counter() - start
report.sampler("mala", seconds, to_gal1(points), model_at, acceptance=moved(points))

report.write()
