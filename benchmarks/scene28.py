"""A 750x750 image of 28 galaxies and a sky, 197 parameters: one forward image, the joint fit, and its memory.

    python benchmarks/scene28.py FILE.npz [--apart] [--reach 0.03] [--detail 10] [--draws 250]

FILE.npz holds data, sigma and psf, the truths `cat` and the perturbed starting values `start` (x, y, flux, r_eff, n, q,
angle in degrees from +x); the sky's level is 3. Each galaxy has a window, out to where its surface brightness at the
start falls below `--reach` of the noise, with fine structure within `--detail` / q pixels. They are one component
(models.sources), or 28 (--apart). Times exclude imports and include everything else.
"""

from __future__ import annotations

import argparse
import math
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pyro.distributions as dist
import torch
from scipy.special import gammaincinv, gammaln
from scipy.stats import kstest

import bayesprof as bp
from bayesprof import inference, models

SKY = 3.0


def values_of(row: np.ndarray) -> dict[str, Any]:
    """Our parameters for one row of the file."""
    x, y, flux, r_eff, n, q, angle = (float(value) for value in row)
    size, turned = (1 - q) / (1 + q), 2 * math.radians(angle)
    shape = [size * math.cos(turned), size * math.sin(turned)]
    return {"x": x, "y": y, "flux": flux, "r_eff": r_eff, "n": n, "ellipticity": shape}


def sites_of(rows: list[dict[str, Any]], apart: bool) -> dict[str, Any]:
    """Values by the names of sites."""
    if apart:
        return {f"galaxies.{i}.{name}": value for i, row in enumerate(rows) for name, value in row.items()}
    return {f"galaxies.{name}": np.array([row[name] for row in rows]) for name in rows[0]}


def radius_at(brightness: float, flux: float, r_eff: float, n: float, q: float) -> float:
    """Radius along the major axis where a Sersic profile falls to a surface brightness."""
    b = float(gammaincinv(2 * n, 0.5))
    log_norm = math.log(2 * math.pi * n * q * r_eff**2) + float(gammaln(2 * n)) - 2 * n * math.log(b)
    return r_eff * max((math.log(flux / brightness) - log_norm) / b, 0.0) ** n


def galaxy(start: dict[str, Any]) -> Any:
    def tensor(value: Any) -> torch.Tensor:
        return torch.tensor(value, dtype=torch.float64)

    return models.sersic(
        x=dist.Normal(tensor(start["x"]), 5.0),
        y=dist.Normal(tensor(start["y"]), 5.0),
        flux=dist.LogNormal(tensor(start["flux"]).log(), 2.0),
        r_eff=dist.LogNormal(tensor(start["r_eff"]).log(), 2.0),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE.npz")
    parser.add_argument("--apart", action="store_true", help="each galaxy a component")
    parser.add_argument("--reach", type=float, default=0.03)
    parser.add_argument(
        "--detail", type=float, default=10.0, help="times 1/q of the start; inf: full detail everywhere"
    )
    parser.add_argument("--draws", type=int, default=0, help="of each of 4 chains of split HMC, over all parameters")
    arguments = parser.parse_args()
    content = np.load(arguments.file)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    image = bp.Image(
        content["data"].astype(float), sigma=content["sigma"].astype(float), psf=content["psf"].astype(float)
    )
    noise = float(np.median(content["sigma"]))
    reach = 0.5 * content["psf"].shape[0]
    starts, truths = ([values_of(row) for row in content[key]] for key in ("start", "cat"))
    windows = {}
    for i, (_, _, flux, r_eff, n, q, _) in enumerate(content["start"]):
        radius = radius_at(arguments.reach * noise, flux, r_eff, n, q) + reach
        detail = arguments.detail / q if math.isfinite(arguments.detail) else None
        windows[str(i)] = bp.Window.around(starts[i]["x"], starts[i]["y"], radius, detail=detail)
    galaxies = {str(i): galaxy(start) for i, start in enumerate(starts)}
    sky = models.flat_sky(level=dist.Normal(torch.tensor(SKY, dtype=torch.float64), 1.0))
    together = bp.Group(**galaxies) if arguments.apart else models.sources(galaxies)
    scene = bp.Scene(image, sky=sky, windows={"galaxies": windows}, galaxies=together)
    init = sites_of(starts, arguments.apart) | {"sky.level": SKY}
    print(f"scene: {time.perf_counter() - begin:.2f} s")
    posterior = inference.Posterior(scene)
    begin = time.perf_counter()
    fit = inference.lm(posterior, init=init)
    print(f"LM, first: {time.perf_counter() - begin:.2f} s, {fit.message} {fit.iterations} iterations")
    begin = time.perf_counter()
    fit = inference.lm(posterior, init=init)
    print(f"LM, again: {time.perf_counter() - begin:.2f} s, chi2 {fit.chi2:.1f} for {fit.dof} degrees of freedom")
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    print(f"memory: {peak:.2f} GiB beyond the imports'")
    for name in ("log_density", "value_and_grad", "expansion"):
        function = getattr(posterior, name)
        posterior.prepare(name, batch=1, calls=1000, compile=False)
        times = []
        for _ in range(7):
            begin = time.perf_counter()
            function(fit.z[None])
            times.append(time.perf_counter() - begin)
        print(f"{name}: {statistics.median(times):.3f} s")
    pulls = [(fit.params["sky.level"] - SKY) / fit.std["sky.level"]]
    for site, value in sites_of(truths, arguments.apart).items():
        pulls.extend(np.ravel((np.asarray(fit.params[site]) - value) / fit.std[site]))
    flat = np.array(pulls)
    print(
        f"pulls: largest {np.abs(flat).max():.2f}, mean {flat.mean():+.2f}, standard deviation {flat.std():.2f}, "
        f"Kolmogorov-Smirnov p {kstest(flat, 'norm').pvalue:.2f}"
    )
    if arguments.draws:
        begin = time.perf_counter()
        post = inference.split_hmc(
            posterior, init=fit, draws=arguments.draws, warmup=50, chains=4, compile=False, progress=False
        )
        seconds = time.perf_counter() - begin
        found = az.summary(post, kind="diagnostics")
        print(
            f"split HMC: {seconds:.0f} s, min ESS bulk {found['ess_bulk'].min():.0f}, "
            f"tail {found['ess_tail'].min():.0f}, R-hat {found['r_hat'].max():.3f}, {post.attrs['verdict']}"
        )


if __name__ == "__main__":
    main()
