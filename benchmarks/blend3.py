"""Three overlapping Sersic galaxies and a sky on 99x99 pixels, 22 parameters, from poor starting values.

    python benchmarks/blend3.py FILE.npz

FILE.npz holds data, var and psf, the parameters of the truth and of the start (x, y, q, position angle in degrees from
the y axis, n, r_eff, log10 of the surface brightness at r_eff), and sky and start_sky. Priors are wide: the start, if
one is needed, with a standard deviation of 20 pixels or two e-foldings. Times exclude imports and include everything
else; "again" is with the graphs captured before.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pyro.distributions as dist
import torch
from scipy.special import gammaincinv, gammaln

import bayesprof as bp
from bayesprof import inference, models


def values_of(row: np.ndarray) -> dict[str, Any]:
    """Our parameters for one row of the file."""
    x, y, q, angle, n, r_eff, log_brightness = (float(value) for value in row)
    b = float(gammaincinv(2 * n, 0.5))
    area = 2 * math.pi * n * q * r_eff**2 * math.exp(b + float(gammaln(2 * n)) - 2 * n * math.log(b))
    turned = 2 * math.radians(angle + 90)
    size = (1 - q) / (1 + q)
    shape = [size * math.cos(turned), size * math.sin(turned)]
    return {"x": x, "y": y, "flux": 10**log_brightness * area, "r_eff": r_eff, "n": n, "ellipticity": shape}


def galaxy(start: dict[str, Any]) -> Any:
    def tensor(value: float) -> torch.Tensor:
        return torch.tensor(value, dtype=torch.float64)

    return models.sersic(
        x=dist.Normal(tensor(start["x"]), 20.0),
        y=dist.Normal(tensor(start["y"]), 20.0),
        flux=dist.LogNormal(tensor(start["flux"]).log(), 2.0),
        r_eff=dist.LogNormal(tensor(start["r_eff"]).log(), 2.0),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE.npz")
    parser.add_argument("--draws", type=int, default=500)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    content = np.load(arguments.file)
    image = bp.Image(content["data"], variance=content["var"], psf=content.get("psf"))
    starts = [values_of(row) for row in content["start"]]
    truths = [values_of(row) for row in content["truth"]]
    sky = models.flat_sky(level=dist.Normal(torch.tensor(float(content["start_sky"]), dtype=torch.float64), 5.0))
    galaxies = {f"galaxy{i}": galaxy(start) for i, start in enumerate(starts)}
    scene = bp.Scene(image, sky=sky, **galaxies)
    init = {f"galaxy{i}.{name}": value for i, start in enumerate(starts) for name, value in start.items()}
    init["sky.level"] = float(content["start_sky"])

    begin = time.perf_counter()
    posterior = inference.Posterior(scene)
    fit = inference.lm(posterior, init=init)
    print(f"LM, first: {time.perf_counter() - begin:.2f} s, {fit.message} {fit.iterations} iterations")
    times = []
    for _ in range(14):  # by then the functions are captured
        begin = time.perf_counter()
        fit = inference.lm(posterior, init=init)
        times.append(time.perf_counter() - begin)
    before, after = (statistics.median(some) for some in (times[:5], times[-5:]))
    print(f"LM, again: {after:.2f} s, {before:.2f} s before its functions were captured")
    begin = time.perf_counter()
    inference.lm(posterior, init=init, compile=True)
    print(f"LM, its functions compiled on the way: {time.perf_counter() - begin:.2f} s")
    times = []
    for _ in range(9):
        begin = time.perf_counter()
        fit = inference.lm(posterior, init=init)
        times.append(time.perf_counter() - begin)
    print(f"LM, compiled before: {statistics.median(times):.2f} s")
    print(f"chi2 {fit.chi2:.1f} for {fit.dof} degrees of freedom")
    pulls = [
        abs(float(np.max(np.abs((fit.params[name] - np.asarray(value)) / fit.std[name]))))
        for i, truth in enumerate(truths)
        for name, value in ((f"galaxy{i}.{key}", entry) for key, entry in truth.items())
    ]
    print(f"largest distance from the truth: {max(pulls):.1f} standard deviations")
    begin = time.perf_counter()
    post = inference.split_hmc(posterior, init=fit, draws=arguments.draws, chains=8, progress=False)
    seconds = time.perf_counter() - begin
    bulk = min(float(value.min()) for value in az.ess(post.posterior).values())
    tail = min(float(value.min()) for value in az.ess(post.posterior, method="tail").values())
    print(
        f"split HMC 8 x {arguments.draws}: {seconds:.1f} s, min bulk ESS {bulk:.0f} ({bulk / seconds:.1f} per second), "
        f"tail {tail:.0f}, {float(post.sample_stats.n_steps.mean()):.2f} gradients a draw, {post.attrs['verdict']}"
    )


if __name__ == "__main__":
    main()
