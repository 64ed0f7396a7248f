"""Posteriors that bend: what the Laplace approximation, randomize-then-optimize and split HMC make of them.

    python benchmarks/bent.py OUT.md [--components core_sersic nuker] [--simulations 4] [--methods laplace rto]

Images simulated from draws of the prior of small scenes of one component each (tests/posteriors.py), fitted from
several starts; then each method from the same fit. Per method: in how many its verdict is ok, the median of the
effective draws (of the weights and of the widths, or bulk and tail of all parameters, whichever is least), and the
median of the seconds, the fit's not included and the first simulation, which writes graphs, left out where there are
others.
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

from bayesprof import inference
from bayesprof.inference import Fit, Posterior

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from posteriors import COMPONENTS, component_scene

OPTIONS: dict[str, dict[str, Any]] = {
    "laplace": {"draws": 1000},
    "rto": {"draws": 1000},
    "split_hmc": {"draws": 250, "compile": True},
}
HEADER = "| component | method | ok | effective draws | time [s] |\n|---|---|---|---|---|"


class Outcome(NamedTuple):
    """Of a method on one posterior."""

    ok: bool
    ess: float
    seconds: float


def simulated(posterior: Posterior, seed: int) -> Posterior:
    """The posterior given data from the prior predictive distribution."""
    values = posterior.predictive(posterior.constrain(posterior.prior_draw(seed)), seed)
    return posterior.with_data({name: values[name] for name in posterior.observed})


def outcome(method: str, posterior: Posterior, fit: Fit) -> Outcome:
    """Run a method."""
    start = time.perf_counter()
    post = getattr(inference, method)(posterior, init=fit, seed=1, progress=False, **OPTIONS[method])
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
    parser.add_argument(
        "--components", nargs="+", choices=list(COMPONENTS), default=["core_sersic", "nuker", "double_moffat_psf"]
    )
    parser.add_argument("--simulations", type=int, default=4)
    parser.add_argument("--methods", nargs="+", choices=list(OPTIONS), default=list(OPTIONS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    # torch deprecates what its own first forward derivative loads
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
    lines = given.out.read_text().splitlines() if given.out.exists() else HEADER.splitlines()
    for component in given.components:
        missing = [m for m in given.methods if not any(line.startswith(f"| {component} | {m} |") for line in lines)]
        if not missing:
            continue
        posterior = Posterior(component_scene(component, "gaussian"), seed=1)
        data = [simulated(posterior, seed) for seed in range(given.simulations)]
        fits = [inference.lm(one, starts="auto", seed=1) for one in data]
        for method in missing:
            found = [outcome(method, one, fit) for one, fit in zip(data, fits, strict=True)]
            ok = sum(one.ok for one in found)
            ess = statistics.median(one.ess for one in found)
            seconds = statistics.median(one.seconds for one in found[1:] or found)
            lines.append(f"| {component} | {method} | {ok} of {len(found)} | {ess:.0f} | {seconds:.1f} |")
            print(lines[-1], flush=True)
            given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
