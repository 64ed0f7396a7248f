"""Posteriors that bend: what Laplace approximations, randomize-then-optimize, split HMC and `sample` make of them.

    python benchmarks/bent.py OUT.md [--components core_sersic nuker] [--simulations 4] [--methods laplace rto]

Images simulated from draws of the prior of small scenes of one component each (tests/posteriors.py), or of a population
of faint galaxies (benchmarks/population.py), fitted from several starts; then each method from the same fit. Per
method: in how many its verdict is ok, the median of the effective draws (of the weights and of the widths, or bulk and
tail of all parameters, whichever is least), and median and mean of the seconds, the fit's not included and the first
image, which writes graphs, left out where there are others.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import arviz as az
import torch

import bayesprof as bp
from bayesprof import inference
from bayesprof.inference import Fit, Posterior

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import population
from posteriors import COMPONENTS, component_scene

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "laplace": ("laplace", {"draws": 1000}),
    "laplace_2": ("laplace", {"draws": 1000, "order": 2}),
    "rto": ("rto", {"draws": 1000}),
    "split_hmc": ("split_hmc", {"draws": 250, "compile": True}),
    "sample": ("sample", {"draws": 1000}),
}
FAINT = "faint_galaxy"
HEADER = "| component | method | ok | effective draws | time, median | mean |\n|---|---|---|---|---|---|"


class Outcome(NamedTuple):
    """Of a method on one posterior."""

    ok: bool
    ess: float
    seconds: float


def simulated(component: str, count: int) -> list[Posterior]:
    """Posteriors of as many images."""
    if component == FAINT:
        images, _ = population.simulated(count, 3.0, 1)
        posterior = Posterior(bp.Scene(images[0], sky=population.sky(), galaxy=population.galaxy()), seed=1)
        return [posterior.with_data({"image": image.data}) for image in images]
    posterior = Posterior(component_scene(component, "gaussian"), seed=1)
    draws = [posterior.predictive(posterior.constrain(posterior.prior_draw(seed)), seed) for seed in range(count)]
    return [posterior.with_data({name: values[name] for name in posterior.observed}) for values in draws]


def outcome(method: str, posterior: Posterior, fit: Fit) -> Outcome:
    """Run a method."""
    start = time.perf_counter()
    name, options = METHODS[method]
    post = getattr(inference, name)(posterior, init=fit, seed=1, progress=False, **options)
    seconds = time.perf_counter() - start
    return Outcome(post.attrs["verdict"] == "ok", effective(post, posterior), seconds)


def effective(post: az.InferenceData, posterior: Posterior) -> float:
    """The least effective number of draws."""
    if "importance_ess" in post.attrs:
        return float(min(post.attrs["importance_ess"], post.attrs["spread_ess"]))
    names = [site.name for site in posterior.sites]
    return min(float(az.ess(post, var_names=names, method=kind).to_array().min()) for kind in ("bulk", "tail"))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="file of the table, written row by row; finished rows stay")
    parser.add_argument("--components", nargs="+", choices=[FAINT, *COMPONENTS], default=[FAINT, "core_sersic", "king"])
    parser.add_argument("--simulations", type=int, default=4)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    # torch deprecates what its own first forward derivative loads
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
    lines = given.out.read_text().splitlines() if given.out.exists() else HEADER.splitlines()
    for component in given.components:
        missing = [m for m in given.methods if not any(line.startswith(f"| {component} | {m} |") for line in lines)]
        if not missing:
            continue
        data = simulated(component, given.simulations)
        fits = [inference.lm(one, starts="auto", seed=1) for one in data]
        for method in missing:
            found = [outcome(method, one, fit) for one, fit in zip(data, fits, strict=True)]
            ok = sum(one.ok for one in found)
            ess = statistics.median(one.ess for one in found)
            seconds = [one.seconds for one in found[1:] or found]
            times = f"{statistics.median(seconds):.1f} s | {statistics.mean(seconds):.1f} s"
            lines.append(f"| {component} | {method} | {ok} of {len(found)} | {ess:.0f} | {times} |")
            print(lines[-1], flush=True)
            given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
