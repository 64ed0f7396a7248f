"""One real galaxy, bayesprof and its peers side by side in one run: time, effective draws per second, and who
renders right.

    bash benchmarks/peers/environments.sh          # once: an environment for each peer under benchmarks/.venvs
    python benchmarks/gal1.py DATA_DIR OUT_DIR [--peers pysersic astrophot pyimfit]

The problem is that of peers/gal1.py: gal1 (121x121 pixels), one Sersic, no sky, 7 parameters. Every code runs in a
process of its own, one after the other; times exclude imports and include everything else. The smallest bulk ESS
over all parameters is divided by the whole time from the model to the draws. The last table renders everyone's
parameters with GalSim, the PSF interpolated by a Lanczos kernel, and compares chi2 and images: a code whose own
image differs has been led astray by its renderer.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
PEERS = ("pysersic", "astrophot", "pyimfit")


def ours(data: Path, out: Path) -> None:
    """Run bayesprof on the problem; writes what a peer writes."""
    import torch

    import bayesprof as bp
    from bayesprof import inference, models

    # as the samplers do; two cost more in hand-overs than they save in single fits
    torch.set_num_threads(1)
    planes = {
        plane: data / f"gal1_{short}.npy" for plane, short in (("sigma", "sig"), ("mask", "mask"), ("psf", "psf"))
    }

    def fresh() -> inference.Posterior:
        return inference.Posterior(bp.Scene(bp.Image.from_fits(data / "gal1_im.npy", **planes), galaxy=models.sersic()))

    start = time.perf_counter()
    posterior = fresh()
    fit = inference.lm(posterior)
    first = time.perf_counter() - start
    again = []
    for _ in range(40):
        start = time.perf_counter()
        inference.lm(posterior)
        again.append(time.perf_counter() - start)
    compiled = fresh()
    inference.lm(compiled, compile=True)
    again_compiled = []
    for _ in range(20):
        start = time.perf_counter()
        inference.lm(compiled)
        again_compiled.append(time.perf_counter() - start)
    inference.sample(compiled, progress=False, compile=True)
    quiet: dict[str, Any] = {"progress": False}
    runs = {
        "NUTS 4 x 500": lambda: inference.nuts(fresh(), draws=500, **quiet),
        "sample 1000, first": lambda: inference.sample(fresh(), **quiet),
        "sample 1000, again": lambda: inference.sample(posterior, **quiet),
        "sample 1000, compiled before": lambda: inference.sample(compiled, compile=True, **quiet),
        "split HMC 4 x 2000": lambda: inference.split_hmc(fresh(), draws=2000, chains=4, compile=False, **quiet),
        "HMC 4 x 500": lambda: inference.hmc(posterior, init=fit, draws=500, compile=False, **quiet),
        "MALA 4 x 2000": lambda: inference.mala(posterior, init=fit, draws=2000, chains=4, compile=False, **quiet),
        "split HMC 4 x 2000, cold compile": lambda: inference.split_hmc(
            fresh(), draws=2000, chains=4, compile=True, **quiet
        ),
        "split HMC 4 x 2000, compiled before": lambda: inference.split_hmc(
            posterior, init=fit, draws=2000, chains=4, compile=True, **quiet
        ),
    }
    report: dict[str, Any] = {
        "peer": "bayesprof",
        "version": bp.__version__,
        "fits": {
            "LM, first": {"seconds": first, "chi2": fit.chi2},
            "LM, again": {"seconds": statistics.median(again[-9:]), "chi2": fit.chi2},
            "LM, compiled before": {"seconds": statistics.median(again_compiled[-9:]), "chi2": fit.chi2},
        },
        "samplers": {},
    }
    for name, run in runs.items():
        start = time.perf_counter()
        post = run()
        seconds = time.perf_counter() - start
        report["samplers"][name] = summary(post, seconds) | {"chi2_at_median": fit.chi2}
        image = posterior.model.predict({key: np.median(post.posterior[key], (0, 1)) for key in post.posterior})
        np.save(out.with_name(f"{out.stem}_{name}_model.npy"), image.numpy())
    out.write_text(json.dumps(report, indent=1) + "\n")


def summary(post: Any, seconds: float) -> dict[str, Any]:
    """What is reported of one posterior of ours, its parameters named as the peers' are.

    Draws by importance are independent up to duplicates: their effective number is the honest one in the attributes.
    """
    import arviz as az

    rename = {"flux": "flux", "r_eff": "r_eff", "n": "n", "theta": "theta", "xc": "x", "yc": "y"}
    draws = {key: post.posterior[f"galaxy.{site}"].values for key, site in rename.items()}
    draws["ellip"] = 1 - post.posterior["galaxy.q"].values
    entries = post.posterior["galaxy.ellipticity"].values
    every = [*draws.values(), entries[..., 0], entries[..., 1]]
    bulk = min(float(az.ess(values)) for values in every)
    if "resampled_ess" in post.attrs:
        bulk = float(post.attrs["resampled_ess"])
    stats = post.sample_stats
    return {
        "seconds": seconds,
        "median": {key: float(np.median(values)) for key, values in draws.items()},
        "posterior": {key: {"mean": float(v.mean()), "sd": float(v.std())} for key, v in draws.items()},
        "min_ess_bulk": bulk,
        "ess_per_second": bulk / seconds,
        "min_ess_tail": min(float(az.ess(values, method="tail")) for values in every),
        "min_ess_squares": min(float(az.ess((values - values.mean()) ** 2)) for values in every),
        "gradients_per_draw": float(stats.n_steps.mean()) if "n_steps" in stats else None,
        "r_hat_max": max(float(az.rhat(values)) for values in every),
        "verdict": post.attrs["verdict"],
    }


def render_with_galsim(values: dict[str, float], psf: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Model image at `values` by GalSim: the PSF's samples already hold the pixel."""
    import galsim

    accuracy = galsim.GSParams(
        folding_threshold=1e-4, maxk_threshold=1e-4, kvalue_accuracy=1e-7, maximum_fft_size=16000
    )
    q = 1 - values["ellip"]
    galaxy = galsim.Sersic(
        values["n"], half_light_radius=values["r_eff"] * math.sqrt(q), flux=values["flux"], gsparams=accuracy
    ).shear(q=q, beta=values["theta"] * galsim.radians)
    kernel = galsim.InterpolatedImage(
        galsim.Image(psf / psf.sum()), scale=1, x_interpolant="lanczos15", gsparams=accuracy
    )
    ny, nx = shape
    offset = (values["xc"] - (nx - 1) / 2, values["yc"] - (ny - 1) / 2)
    drawn = galsim.Convolve(galaxy, kernel, gsparams=accuracy).drawImage(
        nx=nx, ny=ny, scale=1, offset=offset, method="no_pixel", dtype=float
    )
    return drawn.array


def judge_rendering(data: Path, report: dict[str, Any], out: Path) -> list[str]:
    """Rows of the rendering table for one code."""
    image, sigma, psf = (np.load(data / f"gal1_{kind}.npy").astype(float) for kind in ("im", "sig", "psf"))
    valid = ~np.load(data / "gal1_mask.npy").astype(bool)
    found = {name: stage["median"] for name, stage in report["samplers"].items()}
    found |= {name: stage["values"] for name, stage in report["fits"].items() if "values" in stage}
    rows = []
    for name, values in found.items():
        path = out.with_name(f"{out.stem}_{name}_model.npy")
        own, exact = np.load(path), render_with_galsim(values, psf, image.shape)
        chi2 = [float((((image - model) / sigma)[valid] ** 2).sum()) for model in (own, exact)]
        worst = float(np.abs((own - exact) / sigma)[valid].max())
        difference = float(np.linalg.norm((own - exact)[valid]) / np.linalg.norm(exact[valid]))
        rows.append(
            f"| {report['peer']} {name} | {values['n']:.3f} | {values['r_eff']:.3f} | {chi2[0]:.0f} | {chi2[1]:.0f} "
            f"| {difference:.1e} | {worst:.2f} |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_DIR")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS)
    parser.add_argument("--only-ours", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.only_ours:
        ours(arguments.data, arguments.out / "bayesprof.json")
        return
    # compilation starts from cold
    os.environ["BAYESPROF_CACHE"] = str((arguments.out / "compiled").resolve())
    shutil.rmtree(arguments.out / "compiled", ignore_errors=True)
    commands = {"bayesprof": [sys.executable, __file__, arguments.data, arguments.out, "--only-ours"]}
    for peer in arguments.peers:
        python = HERE / ".venvs" / peer / "bin" / "python"
        script = HERE / "peers" / f"{peer}_gal1.py"
        if python.exists():
            commands[peer] = [python, script, arguments.data, arguments.out / f"{peer}.json"]
        else:
            print(f"{peer}: no environment, left out; make it with benchmarks/peers/environments.sh")
    stages, rendering = [], []
    for name, command in commands.items():
        print(f"{name} ... (load {os.getloadavg()[0]:.1f})", flush=True)
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
        out = arguments.out / f"{name}.json"
        report = json.loads(out.read_text())
        for stage, found in report["fits"].items():
            stages.append(f"| {name} {stage} | {found['seconds']:.2f} | | | | | | {found['chi2']:.0f} |")
        for stage, found in report["samplers"].items():
            stages.append(
                f"| {name} {stage} | {found['seconds']:.1f} | {found['min_ess_bulk']:.0f} "
                f"| {found.get('min_ess_tail', math.nan):.0f} | {found.get('min_ess_squares', math.nan):.0f} "
                f"| {found['ess_per_second']:.2f} "
                f"| {found['r_hat_max']:.3f} | {found['chi2_at_median']:.0f} |"
            )
        rendering += judge_rendering(arguments.data, report, out)
    print("\n| stage | seconds | min bulk ESS | tail | squares | bulk per second | max R-hat | chi2 |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(stages))
    print(
        "\n| parameters of | n | r_eff | chi2, own image | chi2, GalSim | relative L2 difference | largest, in sigma |"
    )
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rendering))


if __name__ == "__main__":
    main()
