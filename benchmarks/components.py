"""What a value and gradient costs for each component of the catalogue, beside that of a Sersic profile.

    python benchmarks/components.py [--repeats 60] [names ...]

One component with its default priors on a simulated image of 121x121 pixels with a Moffat PSF, float64, one thread, one
chain: the captured graph of value and gradient, as the samplers use it. The components take turns, and the time of
each is the tenth percentile, over its repeats, of the thread's processor time, in which other work counts less.
"""

from __future__ import annotations

import argparse
import inspect
import time
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.rendering import renderer_for

SHAPE = (121, 121)
REFERENCE = "sersic"


def scene(name: str, image: bp.Image) -> bp.Scene:
    """One component; a sky beside it would cost the same for all."""
    return bp.Scene(image, galaxy=getattr(models, name)())


def image_of_a_galaxy() -> bp.Image:
    y, x = np.mgrid[-21:22, -21:22].astype(float)
    psf = (1 + (x**2 + y**2) / 3.4) ** -2.8
    blank = bp.Image(np.zeros(SHAPE), sigma=1.0, psf=psf / psf.sum())
    galaxy = renderer_for(blank)(models.Sersic(58.3, 61.2, 2e4, 9.0, 1.7, q=0.7, theta=0.4)).numpy()
    noise = np.random.default_rng(0).normal(0.0, 1.0, SHAPE)
    return bp.Image(galaxy + noise, sigma=1.0, psf=psf / psf.sum())


def extended_components() -> list[str]:
    """Names of the components that are galaxies, and need nothing but parameters."""
    kept = []
    for name in models.__all__:
        make = getattr(models, name)
        if name.islower() and inspect.signature(make).return_annotation == "Component":
            required = [entry for entry in inspect.signature(make).parameters.values() if entry.default is entry.empty]
            if all(entry.kind is entry.VAR_KEYWORD for entry in required) and "x" in make().parameters:
                kept.append(name)
    return [name for name in kept if name != "point_source"]


class Cost(NamedTuple):
    """Of one call of a captured value and gradient, and the number of operations in its graph."""

    seconds: float
    operations: int


def costs_in_turns(posteriors: Mapping[str, inference.Posterior], repeats: int) -> dict[str, Cost]:
    """What a value and gradient of each posterior costs, for one chain; all are timed in the same minutes."""
    runs, operations, times = {}, {}, {name: [] for name in posteriors}
    for name, posterior in posteriors.items():
        point = posterior.initial()[None].clone()
        posterior.prepare("value_and_grad", batch=1, calls=10_000, compile=False)
        functions = posterior._functions
        operations[name] = len(functions._shared.captured[("value_and_grad", 1)].graph.graph.nodes)
        runs[name] = partial(functions, "value_and_grad", [point])
        for _ in range(5):
            runs[name]()
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.thread_time()
            run()
            times[name].append(time.thread_time() - start)
    return {name: Cost(float(np.quantile(times[name], 0.1)), operations[name]) for name in runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="components; all of them where none is named")
    parser.add_argument("--repeats", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    image = image_of_a_galaxy()
    names = dict.fromkeys([REFERENCE, *(options.names or extended_components())])
    posteriors = {name: inference.Posterior(scene(name, image)) for name in names}
    costs = costs_in_turns(posteriors, options.repeats)
    reference = costs[REFERENCE].seconds
    print("| component | parameters | operations | value and gradient | over Sersic |\n|---|---|---|---|---|")
    for name, (seconds, operations) in costs.items():
        size = len(posteriors[name].initial())
        print(f"| {name} | {size} | {operations} | {1e3 * seconds:.2f} ms | {seconds / reference:.2f} |")


if __name__ == "__main__":
    main()
