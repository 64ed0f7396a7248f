"""What a value and gradient costs for each component of the catalogue, beside that of a Sersic profile.

    python benchmarks/components.py [--repeats 60] [names ...]

One component with its default priors on a simulated image of 121x121 pixels with a Moffat PSF, float64, one thread, one
chain: the captured graph of value and gradient, as the samplers use it. The components take turns, and the time of
each is the tenth percentile, over its repeats, of the thread's processor time, in which other work counts less.
"""

from __future__ import annotations

import argparse
import time

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


def elliptical_components() -> list[str]:
    """Names of the components that have a shape."""
    names = [name for name in models.__all__ if name.islower()]
    return [name for name in names if "ellipticity" in getattr(models, name)().parameters]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="components; all of them where none is named")
    parser.add_argument("--repeats", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    image = image_of_a_galaxy()
    runs = {}
    for name in dict.fromkeys([REFERENCE, *(options.names or elliptical_components())]):
        posterior = inference.Posterior(scene(name, image))
        point = posterior.initial()[None].clone()
        posterior.prepare("value_and_grad", batch=1, calls=10_000, compile=False)
        functions = posterior._functions
        nodes = len(functions._shared.captured[("value_and_grad", 1)].graph.graph.nodes)
        runs[name] = (functions, point, nodes, [])
        for _ in range(5):
            functions("value_and_grad", [point])
    for _ in range(options.repeats):
        for functions, point, _, times in runs.values():
            start = time.thread_time()
            functions("value_and_grad", [point])
            times.append(time.thread_time() - start)
    reference = np.quantile(runs[REFERENCE][-1], 0.1)
    print("| component | parameters | operations | value and gradient | over Sersic |\n|---|---|---|---|---|")
    for name, (_, point, nodes, times) in runs.items():
        cost = np.quantile(times, 0.1)
        print(f"| {name} | {point.shape[-1]} | {nodes} | {1e3 * cost:.2f} ms | {cost / reference:.2f} |")


if __name__ == "__main__":
    main()
