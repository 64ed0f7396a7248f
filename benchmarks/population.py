"""A size-luminosity relation from the pixels of faint galaxies: jointly, and by reweighting posteriors of single ones.

    python benchmarks/population.py OUT_DIR [--galaxies 200] [--repeats 50] [--joint 1] [--seed 1] [--sigma 3]

Each repeat draws the relation from its prior, galaxies from the relation and images from the galaxies; fits every
galaxy alone, all with one captured graph; and reweights their draws. The first `--joint` repeats are sampled jointly as
well. OUT_DIR/repeat_N.json is what a repeat leaves; run again, what is finished is kept. The summary says how often the
intervals hold the truth, and how far apart the two ways are.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.inference.importance import importance, resampled
from bayesprof.inference.modes import modes_at
from bayesprof.inference.randomness import seeds_from

SIDE, CENTRE = 25, 12.0
PIVOT = 6.0  # of ln flux
HYPER = ("intercept", "slope", "scatter", "mean", "spread")
_PROPOSALS, _DRAWS = 768, 500
_SAMPLED = 150  # by each of 8 chains, of a galaxy that isn't close to its Laplace approximation
_ENOUGH = 250  # effective draws of a galaxy


def double(*values: float) -> list[Tensor]:
    return [torch.tensor(value, dtype=torch.float64) for value in values]


def size_luminosity(galaxies: Any) -> None:
    """ln r_eff = intercept + slope (ln flux - PIVOT), with a scatter, and ln flux Normal."""
    intercept = pyro.sample("intercept", dist.Normal(*double(0.9, 0.1)))
    slope = pyro.sample("slope", dist.Normal(*double(0.4, 0.1)))
    scatter = pyro.sample("scatter", dist.LogNormal(*double(math.log(0.2), 0.3)))
    mean = pyro.sample("mean", dist.Normal(*double(PIVOT, 0.2)))
    spread = pyro.sample("spread", dist.LogNormal(*double(math.log(0.5), 0.2)))
    with galaxies:
        flux = pyro.sample("galaxy.flux", dist.LogNormal(mean, spread))
        pyro.sample("galaxy.r_eff", dist.LogNormal(intercept + slope * (flux.log() - PIVOT), scatter))


def galaxy() -> Any:
    """One galaxy alone, under an interim prior wider than any population."""
    return models.sersic(
        x=dist.Normal(*double(CENTRE, 0.5)),
        y=dist.Normal(*double(CENTRE, 0.5)),
        flux=dist.LogNormal(*double(PIVOT, 1.0)),
        r_eff=dist.LogNormal(*double(0.9, 0.7)),
        n=dist.LogNormal(*double(0.2, 0.3)),
        ellipticity=models.Ellipticity(*double(0.3)),
    )


def sky() -> Any:
    return models.flat_sky(level=dist.Normal(*double(0.0, 0.5)))


def population(images: list[bp.Image], relation: Any = size_luminosity) -> bp.Population:
    return bp.Population(images, relation, sky=sky(), galaxy=galaxy())


def simulated(count: int, sigma: float, seed: int) -> tuple[list[bp.Image], dict[str, Any]]:
    """Images and what they were drawn from."""
    y, x = np.mgrid[-8:9, -8:9]
    psf = (1 + (x**2 + y**2) / 3.4) ** -2.8
    blank = bp.Image(np.zeros((SIDE, SIDE)), sigma=sigma, psf=psf)
    empty = population([blank] * count)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        nodes = pyro.poutine.trace(pyro.poutine.block(empty, hide=["image"])).get_trace().nodes
    truth = {name: nodes[name]["value"] for name in (*empty.hyper, *empty.latent)}
    clean = empty.predict(truth).numpy()
    noise = np.random.default_rng(seed).normal(0.0, sigma, clean.shape)
    return [bp.Image(data, sigma=sigma, psf=psf) for data in clean + noise], truth


def alone(posterior: inference.Posterior, image: bp.Image, seed: int) -> tuple[dict[str, np.ndarray], float, str]:
    """Draws of a galaxy by itself, how many independent ones they are worth, and how they were made."""
    replica = posterior.with_data({"image": image.data})
    start = {"galaxy.x": CENTRE, "galaxy.y": CENTRE, "galaxy.flux": math.exp(PIVOT), "galaxy.r_eff": math.exp(0.9),
             "galaxy.n": 1.2, "galaxy.ellipticity": [0.0, 0.0], "sky.level": 0.0}  # fmt: skip
    fit = inference.lm(replica, init=start)
    if not fit.converged:
        fit = inference.lm(replica, init=start, starts=4, seed=seed)
    weighted = importance(replica, *modes_at(replica, fit).proposals(_PROPOSALS, seed), compile=True)
    if weighted.k_hat < 0.7 and weighted.ess > _ENOUGH:
        index, worth = resampled(weighted, _DRAWS, np.random.default_rng(seed))
        kept = replica.constrain(weighted.z[torch.from_numpy(index)])
        return {name: value.numpy() for name, value in kept.items()}, worth, "Laplace"
    post = inference.split_hmc(
        replica, init=fit, draws=_SAMPLED, warmup=150, seed=seed, progress=False, target_acceptance=0.95, compile=True
    )
    least = float(min(ess.min() for ess in az.ess(post, var_names=[site.name for site in replica.sites]).values()))
    drawn = post.posterior.stack(sample=("chain", "draw"))
    thinned = np.linspace(0, drawn.sizes["sample"] - 1, _DRAWS).round().astype(int)
    draws = {site.name: np.moveaxis(drawn[site.name].values, -1, 0)[thinned] for site in replica.sites}
    return draws, min(least, _DRAWS), "split HMC" if least > _ENOUGH else "untrusted"


def all_alone(images: list[bp.Image], posterior: inference.Posterior, seed: int) -> tuple[list[Any], dict[str, int]]:
    """Posteriors of single galaxies, and how many were made in which way."""
    posteriors, ways = [], {}
    for image, other in zip(images, seeds_from(seed, len(images)), strict=True):
        draws, worth, how = alone(posterior, image, other)
        found = az.from_dict(posterior={name: value[None] for name, value in draws.items()})
        found.attrs["resampled_ess"] = worth
        posteriors.append(found)
        ways[how] = ways.get(how, 0) + 1
    return posteriors, ways


def jointly(
    images: list[bp.Image], cheap: az.InferenceData, options: argparse.Namespace, seed: int
) -> tuple[dict[str, Any], az.InferenceData]:
    """What sampling all pixels at once gives, started and centred by what reweighting gave."""
    scatter = float(cheap.posterior["scatter"].median())
    error = np.log(cheap.posterior["galaxy.r_eff"]).std(("chain", "draw")).values
    # of the galaxy with its population; by itself it is 1/error^2 = 1/s^2 - 1/scatter^2
    alone = 1 / np.clip(error**-2.0 - scatter**-2.0, 1e-3, None)
    centring = torch.as_tensor(scatter**2 / (scatter**2 + alone))
    spread = float(cheap.posterior["spread"].median())
    flux_error = np.log(cheap.posterior["galaxy.flux"]).std(("chain", "draw")).values
    flux_alone = 1 / np.clip(flux_error**-2.0 - spread**-2.0, 1e-3, None)
    relation = bp.PartlyCentred(
        size_luminosity,
        {"galaxy.r_eff": centring, "galaxy.flux": torch.as_tensor(spread**2 / (spread**2 + flux_alone))},
    )
    model = population(images, relation)
    began = time.perf_counter()
    posterior = inference.Posterior(model, seed=seed)
    fit = inference.lm(posterior, init=model.starting_from(cheap))
    fitted = time.perf_counter() - began
    found = inference.split_hmc(
        posterior, init=fit, draws=options.draws, warmup=options.warmup, chains=4, seed=seed, progress=True,
        compile=True,
    )  # fmt: skip
    report = {
        "fit_seconds": fitted,
        "fit": fit.message,
        "maximum": {name: float(fit.params[name]) for name in HYPER},
        "hessian_std": {name: float(fit.std[name]) for name in HYPER},
        "iterations": fit.iterations,
        "seconds": time.perf_counter() - began,
        "dimensions": posterior.size,
        "steps": float(found.sample_stats["n_steps"].mean()),
        "centring": [float(centring.min()), float(centring.median()), float(centring.max())],
    }
    return report, found


def described(found: az.InferenceData, truth: dict[str, Any]) -> dict[str, Any]:
    """Of every hyper-parameter: the truth, mean, standard deviation, their Monte Carlo error, and the fraction of draws
    below the truth.
    """
    rows = {}
    for name in HYPER:
        draws = found.posterior[name].values
        rows[name] = {
            "truth": float(truth[name]),
            "mean": float(draws.mean()),
            "sd": float(draws.std()),
            "ess": float(az.ess(draws)),
            "below": float((draws < float(truth[name])).mean()),
        }
    return {"verdict": found.attrs["verdict"], "hyper": rows}


def repeat(number: int, posterior: inference.Posterior, options: argparse.Namespace) -> dict[str, Any]:
    """One repeat, as it is written down."""
    seed = 1000 * options.seed + number
    images, truth = simulated(options.galaxies, options.sigma, seed)
    began = time.perf_counter()
    posteriors, ways = all_alone(images, posterior, seed)
    single = time.perf_counter() - began
    cheap = inference.reweight(size_luminosity, posteriors, posterior.model, draws=1000, seed=seed, progress=False)
    report = {
        "single_seconds": single,
        "reweight_seconds": time.perf_counter() - began - single,
        "ways": ways,
        "log_likelihood_error": cheap.attrs["log_likelihood_error"],
        "method": cheap.attrs["method"],
        "galaxy_ess": [float(value) for value in np.quantile(cheap.sample_stats["galaxy_ess"], [0, 0.1, 0.5])],
        "galaxy_k_hat": float(cheap.sample_stats["galaxy_k_hat"].max()),
        "reweighted": described(cheap, truth),
        "shrinkage": shrinkage(posteriors, cheap, truth),
    }
    if number < options.joint:
        joint, found = jointly(images, cheap, options, seed)
        report["joint"] = joint | described(found, truth) | {"galaxies": galaxies_apart(cheap, found)}
    return report


def shrinkage(posteriors: list[az.InferenceData], cheap: az.InferenceData, truth: dict[str, Any]) -> dict[str, float]:
    """Errors of ln r_eff about the truth, and standard deviations, of galaxies alone and with their population."""
    true = np.log(truth["galaxy.r_eff"].numpy())
    single = np.log(np.stack([one.posterior["galaxy.r_eff"].values[0] for one in posteriors]))
    together = np.log(cheap.posterior["galaxy.r_eff"].values.reshape(-1, len(true))).T
    return {
        "rms_alone": float(np.sqrt(np.mean((single.mean(1) - true) ** 2))),
        "rms_together": float(np.sqrt(np.mean((together.mean(1) - true) ** 2))),
        "sd_alone": float(np.median(single.std(1))),
        "sd_together": float(np.median(together.std(1))),
    }


def galaxies_apart(cheap: az.InferenceData, joint: az.InferenceData) -> dict[str, float]:
    """How far apart the two ways put ln r_eff of the galaxies, in standard deviations, and the ratios of these."""
    one, other = (np.log(found.posterior["galaxy.r_eff"]) for found in (cheap, joint))
    dims = ("chain", "draw")
    apart = (one.mean(dims) - other.mean(dims)) / other.std(dims)
    ratio = one.std(dims) / other.std(dims)
    return {"rms": float(np.sqrt((apart**2).mean())), "largest": float(abs(apart).max()), "ratio": float(ratio.mean())}


def summary(reports: list[dict[str, Any]]) -> str:
    """What all repeats say."""
    lines = [f"{len(reports)} repeats; errors of the coverages " + ", ".join(
        f"{100 * math.sqrt(level * (1 - level) / len(reports)):.1f}" for level in (0.68, 0.95))]  # fmt: skip
    joint = [one for one in reports if "joint" in one]
    for way, some in (("reweighted", reports), ("joint", joint)):
        if not some:
            continue
        good = sum(one[way]["verdict"] == "ok" for one in some)
        lines.append(f"{way}: verdict ok in {good} of {len(some)}")
        for name in HYPER:
            rows = [one[way]["hyper"][name] for one in some]
            pull = np.array([(row["mean"] - row["truth"]) / row["sd"] for row in rows])
            inside = [
                np.mean([0.5 - level / 2 < row["below"] < 0.5 + level / 2 for row in rows]) for level in (0.68, 0.95)
            ]
            lines.append(
                f"  {name:10s} 68%: {100 * inside[0]:5.1f}  95%: {100 * inside[1]:5.1f}  pull {pull.mean():+.2f} +- "
                f"{pull.std():.2f}  sd {np.median([row['sd'] for row in rows]):.4f}"
            )
    for number, one in enumerate(reports):
        for name in HYPER if "joint" in one else ():
            cheap, exact = one["reweighted"]["hyper"][name], one["joint"]["hyper"][name]
            noise = math.hypot(*(row["sd"] / math.sqrt(row["ess"]) for row in (cheap, exact)))
            lines.append(
                f"repeat {number} {name:10s} reweighted {cheap['mean']:.4f} +- {cheap['sd']:.4f}, joint "
                f"{exact['mean']:.4f} +- {exact['sd']:.4f}: apart {(cheap['mean'] - exact['mean']) / exact['sd']:+.3f} "
                f"sd (Monte Carlo error {noise / exact['sd']:.3f}), sd ratio {cheap['sd'] / exact['sd']:.3f}"
            )
    for key in ("single_seconds", "reweight_seconds", "log_likelihood_error", "galaxy_k_hat"):
        values = np.array([one[key] for one in reports])
        lines.append(f"{key}: median {np.median(values):.3g}, largest {values.max():.3g}")
    means = {key: np.mean([one["shrinkage"][key] for one in reports]) for key in reports[0]["shrinkage"]}
    lines.append("shrinkage of ln r_eff: " + ", ".join(f"{key} {value:.3f}" for key, value in means.items()))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--galaxies", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--joint", type=int, default=1, help="repeats that are sampled jointly as well")
    parser.add_argument("--draws", type=int, default=400, help="of each of four chains of the joint sampler")
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="repeat to begin with")
    parser.add_argument("--sigma", type=float, default=3.0, help="noise of a pixel")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    images, _ = simulated(1, options.sigma, 0)
    posterior = inference.Posterior(bp.Scene(images[0], sky=sky(), galaxy=galaxy()))
    inference.lm(posterior, compile=True)
    for number in range(options.first, options.repeats):
        path = options.out / f"repeat_{number}.json"
        if not path.exists():
            path.write_text(json.dumps(repeat(number, posterior, options), indent=1))
            print(f"repeat {number} done", flush=True)
    print(summary([json.loads(path.read_text()) for path in sorted(options.out.glob("repeat_*.json"))]))


if __name__ == "__main__":
    main()
