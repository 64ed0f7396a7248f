"""What a scene costs as it grows: sources at a fixed density on growing images, each in a window of its own.

    python benchmarks/scaling.py [--sources 10 30 100 300] [--timeout 1200]

Each number of sources has a process of its own. "first" is the time of a function's first value, in which its graph is
written; "again" the median of five more. A step of LM is an expansion (value, gradient, information) and the solution
of its system. Memory is the peak beyond the imports'. Exponents are those of the last two rows.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch

import bayesprof as bp
from bayesprof import inference, models

AREA = 60.0**2  # pixels for each source
SIGMA = 1.0


def scene_of(sources: int) -> tuple[bp.Scene, dict[str, Any]]:
    """A field of `sources` galaxies with noise, and the values they were made from."""
    rng = np.random.default_rng(sources)
    side = round(math.sqrt(AREA * sources))
    psf = bp.datasets.moffat_stamp(3.0, side=21)
    blank = bp.Image(np.zeros((side, side)), sigma=SIGMA, psf=psf)
    true: dict[str, Any] = {}
    for i in range(sources):
        x, y = rng.uniform(10, side - 10, 2)
        values = {"x": x, "y": y, "flux": rng.lognormal(7.5, 0.5), "r_eff": rng.lognormal(1.0, 0.3)}
        values |= {"n": rng.uniform(0.8, 2.5), "ellipticity": list(rng.normal(0.0, 0.15, 2))}
        true |= {f"s{i}.{name}": value for name, value in values.items()}
    windows = {f"s{i}": bp.Window.around(true[f"s{i}.x"], true[f"s{i}.y"], 23) for i in range(sources)}

    def components(held: bool) -> dict[str, Any]:
        made = {}
        for i in range(sources):
            at = {name: true[f"s{i}.{name}"] for name in ("x", "y", "flux", "r_eff", "n", "ellipticity")}
            free = {
                "x": dist.Normal(at["x"], 1.0),
                "y": dist.Normal(at["y"], 1.0),
                "flux": dist.LogNormal(math.log(at["flux"]), 1.0),
                "r_eff": dist.LogNormal(math.log(at["r_eff"]), 0.5),
            }
            made[f"s{i}"] = models.sersic(**(at if held else free))
        return made

    clean = bp.Scene(blank, windows=windows, sky=models.flat_sky(level=10.0), **components(held=True)).predict()
    data = clean.numpy() + rng.normal(0.0, SIGMA, blank.shape)
    image = bp.Image(data, sigma=SIGMA, psf=psf)
    return bp.Scene(image, windows=windows, sky=models.flat_sky(), **components(held=False)), true


def measure(sources: int) -> dict[str, Any]:
    """One row of the table."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    scene, true = scene_of(sources)
    posterior = inference.Posterior(scene)
    row: dict[str, Any] = {"sources": sources, "parameters": posterior.size, "scene": time.perf_counter() - begin}
    z = posterior.initial(true)

    def step() -> torch.Tensor:
        _, gradient, information, prior = posterior.expansion(z)
        curvature = information + prior
        damped = curvature + 1e-3 * curvature.diagonal().diag()
        return torch.cholesky_solve(gradient[:, None], torch.linalg.cholesky(damped))

    functions = {"value": lambda: posterior.log_density(z), "gradient": lambda: posterior.value_and_grad(z)}
    for name, function in {**functions, "LM step": step}.items():
        times = []
        for _ in range(6):
            begin = time.perf_counter()
            function()
            times.append(time.perf_counter() - begin)
        row[f"{name}, first"], row[f"{name}, again"] = times[0], statistics.median(times[1:])
        row[f"memory after {name}"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    return row


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sources", type=int, nargs="+", default=[10, 30, 100, 300])
    parser.add_argument("--timeout", type=float, default=1200.0, metavar="SECONDS")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(measure(given.one)))
        return
    rows = []
    for sources in given.sources:
        command = [sys.executable, __file__, "--one", str(sources)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=given.timeout)
        except subprocess.TimeoutExpired:
            print(f"{sources} sources: not within {given.timeout:g} s")
            break
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        if len(rows) == 1:
            print("| " + " | ".join(row) + " |\n" + "|---" * len(row) + "|")
        print("| " + " | ".join(f"{value:.3g}" for value in row.values()) + " |", flush=True)
    if len(rows) > 1:
        before, last = rows[-2:]
        growth = math.log(last["sources"] / before["sources"])
        exponents = {name: math.log(last[name] / before[name]) / growth for name in last}
        print("| exponent | " + " | ".join(f"{exponents[name]:.2f}" for name in list(last)[1:]) + " |")


if __name__ == "__main__":
    main()
