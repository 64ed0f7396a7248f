"""A galaxy whose PSF is inferred together with it, from ten stars of its field; and with a PSF held 3% too wide.

    python benchmarks/star_field.py OUT_DIR [--simulations 100]

Every field of 48x54 pixels is drawn by GalSim, not by our renderer: a Sersic galaxy of known r_eff and n, and ten
stars, through a Moffat PSF and the pixels, all of them at new sub-pixel positions each time. Two fits by
inference.lm: with the PSF's parameters free, and with its width held 3% wrong (all else of it right). Errors are those
of the fit's covariance. Each finished simulation leaves a line in OUT_DIR/star_field.jsonl, and is kept when run again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from pathlib import Path
from typing import Any

import galsim
import numpy as np
import pyro.distributions as dist
import torch

import bayesprof as bp
from bayesprof import inference, models

SHAPE = (48, 54)
PSF = {"fwhm": 2.9, "beta": 3.0, "ellipticity": [0.04, -0.03]}
WRONG = 1.03  # times the width
GALAXY = {"x": 26.0, "y": 23.0, "flux": 4000.0, "r_eff": 3.5, "n": 1.5, "ellipticity": [0.15, 0.1]}
SKY, NOISE = 5.0, 1.0
STARS = (
    (5.0, 7.0, 3000.0), (18.0, 5.0, 1200.0), (34.0, 6.0, 2200.0), (48.0, 10.0, 900.0), (7.0, 21.0, 1500.0),
    (46.0, 26.0, 4000.0), (6.0, 39.0, 1000.0), (20.0, 42.0, 2500.0), (35.0, 41.0, 700.0), (49.0, 43.0, 1800.0),
)  # fmt: skip
MEASURED = {"galaxy.r_eff": GALAXY["r_eff"], "galaxy.n": GALAXY["n"], "psf.fwhm": PSF["fwhm"], "psf.beta": PSF["beta"]}


def simulated(seed: int) -> np.ndarray:
    """Pixels of one field."""
    settings = galsim.GSParams(folding_threshold=1e-4, maxk_threshold=1e-5, kvalue_accuracy=1e-7, maximum_fft_size=8192)
    random = np.random.default_rng(seed)

    def sheared(profile: Any, ellipticity: list[float]) -> Any:
        size = math.hypot(*ellipticity)
        q, theta = (1 - size) / (1 + size), 0.5 * math.atan2(ellipticity[1], ellipticity[0])
        return profile.shear(q=q, beta=theta * galsim.radians)

    def axis_ratio(ellipticity: list[float]) -> float:
        return (1 - math.hypot(*ellipticity)) / (1 + math.hypot(*ellipticity))

    # GalSim's shear keeps the area, so that a major axis of 1 is a circle of sqrt(q)
    circular = PSF["fwhm"] * math.sqrt(axis_ratio(PSF["ellipticity"]))
    psf = sheared(galsim.Moffat(PSF["beta"], fwhm=circular, gsparams=settings), PSF["ellipticity"])
    circular = GALAXY["r_eff"] * math.sqrt(axis_ratio(GALAXY["ellipticity"]))
    galaxy = sheared(galsim.Sersic(GALAXY["n"], half_light_radius=circular, gsparams=settings), GALAXY["ellipticity"])
    ny, nx = SHAPE
    pixels = np.full(SHAPE, SKY)
    sources = [(GALAXY["x"], GALAXY["y"], GALAXY["flux"], galsim.Convolve([galaxy, psf], gsparams=settings))]
    for x, y, flux, source in sources + [(*star, psf) for star in STARS]:
        dx, dy = random.uniform(-0.5, 0.5, 2)
        offset = (x + dx - (nx - 1) / 2, y + dy - (ny - 1) / 2)
        # "auto" is the integration over pixels
        pixels += (flux * source).drawImage(nx=nx, ny=ny, scale=1.0, offset=offset, dtype=float).array
    return pixels + random.normal(0.0, NOISE, SHAPE)


def posterior(image: bp.Image, psf: Any) -> inference.Posterior:
    """That of the scene, with priors that an observer would have."""

    def place(x: float, y: float) -> dict[str, Any]:
        return {
            name: dist.Normal(torch.tensor(value, dtype=torch.float64), 1.0) for name, value in (("x", x), ("y", y))
        }

    def flux(guess: float) -> Any:
        return dist.LogNormal(torch.tensor(math.log(guess), dtype=torch.float64), 1.0)

    stars = {f"star{i}": models.point_source(**place(x, y), flux=flux(guess)) for i, (x, y, guess) in enumerate(STARS)}
    size = dist.LogNormal(torch.tensor(1.2, dtype=torch.float64), 0.7)
    galaxy = models.sersic(**place(GALAXY["x"], GALAXY["y"]), flux=flux(GALAXY["flux"]), r_eff=size)
    return inference.Posterior(bp.Scene(image, psf=psf, sky=models.flat_sky(), galaxy=galaxy, **stars))


def start() -> dict[str, Any]:
    """Where the fits start: the catalogue's positions, and other shapes than the true ones."""
    values: dict[str, Any] = {"galaxy.r_eff": 3.0, "galaxy.n": 1.2, "galaxy.ellipticity": [0.05, 0.05]}
    for name, (x, y, flux) in {"galaxy": (26.0, 23.0, 3000.0), **{f"star{i}": s for i, s in enumerate(STARS)}}.items():
        values |= {f"{name}.x": x, f"{name}.y": y, f"{name}.flux": flux}
    return values


def fitted(posterior: inference.Posterior, data: np.ndarray, values: dict[str, Any]) -> dict[str, Any]:
    """What a fit says of the measured parameters."""
    found = inference.lm(posterior.with_data({"image": torch.from_numpy(data)}), init=values)
    rows = {
        name: [float(found.params[name]), float(found.std[name])]
        for name in MEASURED
        if found.params.get(name) is not None
    }
    return {**rows, "converged": bool(found.converged), "chi2": float(found.chi2), "dof": int(found.dof)}


def table(lines: list[dict[str, Any]]) -> str:
    """Bias and coverage, in Markdown."""
    rows = [
        "| fit | parameter | true | mean | bias / error | sd of pulls | 68.3% | 95.4% |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for fit in ("PSF free", "PSF 3% too wide"):
        for name, true in MEASURED.items():
            values = np.array([line[fit][name] for line in lines if name in line[fit]])
            if not len(values):
                continue
            pulls = (values[:, 0] - true) / values[:, 1]
            covered = " | ".join(f"{100 * np.mean(np.abs(pulls) < times):.0f}" for times in (1.0, 2.0))
            error = values[:, 0].std() / len(values) ** 0.5
            rows.append(
                f"| {fit} | {name} | {true:g} | {values[:, 0].mean():.4f} +- {error:.4f} "
                f"| {pulls.mean():+.2f} +- {1 / len(values) ** 0.5:.2f} | {pulls.std():.2f} | {covered} |"
            )
    failed = sum(not line[fit]["converged"] for line in lines for fit in ("PSF free", "PSF 3% too wide"))
    seconds = sum(line["seconds"] for line in lines)
    return "\n".join([*rows, "", f"{len(lines)} simulations, {failed} fits not converged, {seconds:.0f} s."])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--simulations", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    # torch deprecates what its own first forward derivative loads
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "star_field.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {line["seed"] for line in lines}
    todo = [seed for seed in range(given.simulations) if seed not in done]
    if todo:
        image = bp.Image(simulated(todo[0]), sigma=NOISE)
        free = posterior(image, models.moffat_psf())
        held = posterior(image, models.moffat_psf(**{**PSF, "fwhm": WRONG * PSF["fwhm"]}))
    for seed in todo:
        begun = time.perf_counter()
        data = simulated(seed)
        line = {
            "seed": seed,
            "PSF free": fitted(
                free, data, {**start(), "psf.fwhm": 3.2, "psf.beta": 3.6, "psf.ellipticity": [0.0, 0.0]}
            ),
            "PSF 3% too wide": fitted(held, data, start()),
            "seconds": round(time.perf_counter() - begun, 2),
        }
        lines.append(line)
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(seed, line["seconds"], "s", flush=True)
    print(table([line for line in lines if line["seed"] < given.simulations]))


if __name__ == "__main__":
    main()
