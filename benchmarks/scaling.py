"""What a scene costs as it grows: sources at a fixed density on growing images, each in a window of its own.

    python benchmarks/scaling.py [--sources 10 100 1000 3000] [--apart] [--fit] [--timeout 1200]

All sources are one component (models.sources), or single ones (--apart). Each number of them has a process of its own.
"first" is the time of a function's first value, in which its graph is written; "again" the median of five more. A step
of LM is an expansion (value, gradient, information), sparse where the sources are one component, and the solution of
its system. With --fit, LM from a perturbed start, with all errors at its end. Memory is the peak beyond the imports'.
Exponents are those of the last two rows.
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
from bayesprof.inference.sparse_matrix import SparseMatrix

AREA = 60.0**2  # pixels for each source
SIGMA = 1.0


def scene_of(sources: int, *, apart: bool = True) -> tuple[bp.Scene, dict[str, Any]]:
    """A field of `sources` galaxies with noise, single components or one, and the values they were made from."""
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
    windows: dict[str, Any] = {f"s{i}": bp.Window.around(true[f"s{i}.x"], true[f"s{i}.y"], 23) for i in range(sources)}
    windows = windows if apart else {"galaxies": windows}

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
        return made if apart else {"galaxies": models.sources(made)}

    clean = bp.Scene(blank, windows=windows, sky=models.flat_sky(level=10.0), **components(held=True)).predict()
    data = clean.numpy() + rng.normal(0.0, SIGMA, blank.shape)
    image = bp.Image(data, sigma=SIGMA, psf=psf)
    scene = bp.Scene(image, windows=windows, sky=models.flat_sky(), **components(held=False))
    if apart:
        return scene, true
    names = ("x", "y", "flux", "r_eff", "n", "ellipticity")
    return scene, {f"galaxies.{name}": np.array([true[f"s{i}.{name}"] for i in range(sources)]) for name in names}


def measure(sources: int, *, apart: bool, fit: bool) -> dict[str, Any]:
    """One row of the table."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    scene, true = scene_of(sources, apart=apart)
    posterior = inference.Posterior(scene)
    row: dict[str, Any] = {"sources": sources, "parameters": posterior.size, "scene": time.perf_counter() - begin}
    z = posterior.initial(true)

    def step() -> torch.Tensor:
        if not apart:
            _, gradient, *both = posterior.sparse_expansion(z)
            factor = (SparseMatrix(both[0]) + SparseMatrix(both[1])).factor(ridge=1e-3)
            assert factor is not None
            return factor.solve(gradient)
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
    if fit:
        generator = torch.Generator().manual_seed(1)
        start = posterior.constrain(z + 0.1 * torch.randn(z.shape, generator=generator, dtype=z.dtype))
        begin = time.perf_counter()
        found = inference.lm(posterior, init=start)
        row |= {"fit": time.perf_counter() - begin, "iterations": found.iterations, "converged": found.converged}
        pulls = [(found.params[name] - value) / found.std[name] for name, value in true.items()]
        every = np.concatenate([np.ravel(pull) for pull in pulls])
        row |= {"rms of the pulls": float(np.sqrt(np.mean(every**2))), "largest": float(np.abs(every).max())}
        row["memory after the fit"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    return row


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sources", type=int, nargs="+", default=[10, 100, 1000, 3000])
    parser.add_argument("--timeout", type=float, default=1200.0, metavar="SECONDS")
    parser.add_argument("--apart", action="store_true", help="single components")
    parser.add_argument("--fit", action="store_true", help="fit each scene as well")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(measure(given.one, apart=given.apart, fit=given.fit)))
        return
    rows = []
    for sources in given.sources:
        command = [sys.executable, __file__, "--one", str(sources)]
        command += [f"--{name}" for name in ("apart", "fit") if getattr(given, name)]
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
        grown = [name for name in last if "again" in name or "first" in name or "memory" in name or name == "fit"]
        exponents = {name: math.log(last[name] / before[name]) / growth for name in grown}
        print("| exponent | " + " | ".join(f"{exponents.get(name, math.nan):.2f}" for name in list(last)[1:]) + " |")


if __name__ == "__main__":
    main()
