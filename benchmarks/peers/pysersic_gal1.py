"""pysersic on gal1: the time to its MAP, and the effective samples a second of its NUTS.

    python pysersic_gal1.py DATA_DIR OUT.json [--warmup 500 --draws 500 --chains 2 --seed 0]

Its own example as it stands: priors from `autoprior`, `gaussian_loss`, the default renderer, single precision. Each
time counts everything after the imports: priors, compilation and, for NUTS, warm-up. The chains start from draws of the
prior, its default (`--init median` starts them from the median of the prior, as its MAP does), and run in parallel.
"""

import os
import time

import gal1

settings = gal1.arguments(
    __doc__.splitlines()[0], warmup=500, draws=500, chains=2, seed=0, init="sample", chain_method="parallel"
)
if settings.chain_method == "parallel":  # one device per chain, to be said before pysersic's import starts jax
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={settings.chains}"

import numpy as np  # noqa: E402
from jax.random import PRNGKey  # noqa: E402
from numpyro.infer import init_to_median, init_to_sample  # noqa: E402
from pysersic import FitSingle  # noqa: E402
from pysersic.loss import gaussian_loss  # noqa: E402
from pysersic.priors import autoprior  # noqa: E402

report = gal1.Report("pysersic", settings)


def fitter():
    mask = report.mask.astype(float)
    prior = autoprior(report.image, "sersic", mask=mask, sky_type="none")
    return FitSingle(report.image, report.sigma, report.psf, prior, mask=mask, loss_func=gaussian_loss)


def from_plus_x(theta):
    """pysersic measures theta from +y."""
    return (theta + np.pi / 2) % np.pi


def model_at(values):
    return fitter().renderer.render_source({**values, "theta": values["theta"] - np.pi / 2}, "sersic")


start = time.perf_counter()
found = fitter().find_MAP(PRNGKey(settings.seed))
seconds = time.perf_counter() - start
values = {name: float(found[name]) for name in gal1.PARAMETERS}
report.fit("map", seconds, {**values, "theta": from_plus_x(values["theta"])}, found["model"])

start = time.perf_counter()
result = fitter().sample(
    PRNGKey(settings.seed),
    num_samples=settings.draws,
    num_warmup=settings.warmup,
    num_chains=settings.chains,
    init_strategy={"sample": init_to_sample, "median": init_to_median}[settings.init],
    return_model=False,
    mcmc_kwargs={"chain_method": settings.chain_method, "progress_bar": False},
)
seconds = time.perf_counter() - start
draws = {name: np.asarray(result.idata.posterior[name], dtype=float) for name in gal1.PARAMETERS}
draws["theta"] = from_plus_x(draws["theta"])
report.sampler("nuts", seconds, draws, model_at, divergences=int(result.idata.sample_stats["diverging"].sum()))

report.write()
