"""Error bars on drizzled images, with the correlation of their noise ignored and modelled.

    python benchmarks/correlated_noise.py [--simulations 120] [--data DATA_DIR] [--ways]

A Sersic galaxy on a sky in six dithered exposures of coarse pixels, whose independent noise (sky and photons of the
galaxy) is drizzled onto finer ones: drops of pixfrac times a coarse pixel, shared out by area, the weights of the
exposures as they fall, the variance of each pixel propagated as a pipeline does. None of it comes from the model's
covariance, and neighbours' correlation changes from pixel to pixel. Printed: how often the interval estimate +- one
standard deviation of the fit holds the truth, and the scatter of the estimates in units of the standard deviation.

With DATA_DIR, the folder that holds profit_kids, one galaxy of KiDS is fitted both ways. With --ways three ways to
undo the correlation of 121x121 pixels are timed: ours, a Cholesky factor of the banded matrix, conjugate gradients.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import fft, linalg, ndimage
from scipy.sparse import linalg as linalg_sparse

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.correlation import power_spectrum
from bayesprof.decorrelation import decorrelation
from bayesprof.rendering import renderer_for

SHAPE, COARSE, PIXFRAC, EXPOSURES = (84, 90), 1.6, 0.8, 6
TRUTH: dict[str, Any] = {"x": 44.3, "y": 41.6, "flux": 900.0, "r_eff": 4.5, "n": 1.6, "ellipticity": (0.25, 0.1)}
SKY, NOISE, GAIN = 2.0, 0.5, 8.0  # level, noise of a coarse pixel, electrons per unit
_TIMES = 20
COLUMNS = ("ignored", "measured", "measured after a fit")


def overlaps(fine: int, offset: float) -> np.ndarray:
    """Length of each drop, along one axis, that falls into each fine pixel: (fine, coarse)."""
    coarse = int(np.ceil(fine / COARSE)) + 2
    centre = (np.arange(coarse) - 0.5 + offset) * COARSE
    low, high = centre - 0.5 * PIXFRAC * COARSE, centre + 0.5 * PIXFRAC * COARSE
    edge = np.arange(fine)[:, None] - 0.5
    return np.clip(np.minimum(high, edge + 1) - np.maximum(low, edge), 0.0, None)


def drizzled(light: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise of the stack, and its standard deviation."""
    draws = np.random.default_rng(seed)
    total, variance, weight = (np.zeros(SHAPE) for _ in range(3))
    for _ in range(EXPOSURES):
        shifts = draws.random(2)
        along_y, along_x = (overlaps(size, shift) for size, shift in zip(SHAPE, shifts, strict=True))
        places = [
            (np.arange(axis.shape[1]) - 0.5 + shift) * COARSE
            for axis, shift in zip((along_y, along_x), shifts, strict=True)
        ]
        # photons of the galaxy in the coarse pixels, whose values are per fine pixel as those of the stack
        seen = ndimage.map_coordinates(light, np.meshgrid(*places, indexing="ij"), order=1, mode="nearest")
        sigma = np.sqrt(NOISE**2 + np.maximum(seen - SKY, 0.0) / GAIN)
        total += along_y @ (sigma * draws.normal(size=sigma.shape)) @ along_x.T
        variance += along_y**2 @ sigma**2 @ (along_x**2).T
        weight += along_y @ np.ones_like(sigma) @ along_x.T
    return total / weight, np.sqrt(variance) / weight


def scenes(image: bp.Image, galaxy: Any) -> dict[str, Any]:
    """A fit each way, by column."""

    def fit(likelihood: Any) -> Any:
        scene = bp.Scene(image, likelihood=likelihood, sky=models.flat_sky(), galaxy=galaxy)
        return scene, inference.lm(scene)

    scene, ignored = fit("gaussian")
    measured = bp.noise_correlation(image)
    again = bp.noise_correlation(image, model=scene.predict(ignored))
    others = [fit(bp.likelihoods.correlated(noise))[1] for noise in (measured, again)]
    return dict(zip(COLUMNS, (ignored, *others), strict=True)) | {"noise": again}


def simulate(count: int) -> None:
    y, x = np.mgrid[-10:11, -10:11]
    psf = (1 + (x**2 + y**2) / 6.0) ** -2.8
    blank = bp.Image(np.zeros(SHAPE), sigma=1.0, psf=psf / psf.sum())
    truth = {f"galaxy.{name}": np.asarray(value) for name, value in TRUTH.items()} | {"sky.level": np.asarray(SKY)}
    light = renderer_for(blank)(models.Sersic(**TRUTH) + models.FlatSky(SKY)).numpy()
    offsets: dict[str, list[np.ndarray]] = {column: [] for column in COLUMNS}
    failed, start = 0, time.perf_counter()
    for seed in range(count):
        noise, sigma = drizzled(light, seed)
        fits = scenes(bp.Image(light + noise, sigma=sigma, psf=psf), models.sersic())
        failed += sum(not fits[column].converged for column in COLUMNS)
        for column in COLUMNS:
            fit = fits[column]
            rows = [(np.asarray(fit.params[name]) - value) / np.asarray(fit.std[name]) for name, value in truth.items()]
            offsets[column].append(np.concatenate([np.ravel(row) for row in rows]))
    labels = [
        label
        for name, value in truth.items()
        for label in ([name] if value.ndim == 0 else [f"{name}[0]", f"{name}[1]"])
    ]
    error = 100 * np.sqrt(0.683 * 0.317 / count)
    print(
        f"{count} simulations, {failed} fits not converged, {time.perf_counter() - start:.0f} s; in the last "
        f"{fits['noise']}"
    )
    print(f"cover 68.3 +- {error:.1f} per cent where error bars are right; scatter 1\n")
    print("| parameter | " + " | ".join(f"{column}: covered, scatter" for column in COLUMNS) + " |")
    print("|---|" + "---|" * len(COLUMNS))
    tables = {column: np.stack(rows) for column, rows in offsets.items()}
    for i, label in enumerate([*labels, "all"]):
        cells = []
        for column in COLUMNS:
            values = tables[column][:, i] if i < len(labels) else tables[column]
            cells.append(f"{100 * np.mean(np.abs(values) < 1):.1f} %, {np.sqrt(np.mean(values**2)):.2f}")
        print(f"| {label} | " + " | ".join(cells) + " |")


def kids(data: Path, name: str = "G267199") -> None:
    """A galaxy of KiDS, in units of 1e-9 maggies."""
    planes = {
        plane: bp.Image.from_fits(data / "profit_kids" / f"{name}{plane}.fits{suffix}", use_header=False).data.numpy()
        for plane, suffix in (("fitim", ".gz"), ("sigma", ".gz"), ("mskim", ".gz"), ("segim", ".gz"), ("psfim", ""))
    }
    labels = planes["segim"]
    target = labels[labels.shape[0] // 2, labels.shape[1] // 2]
    mask = (planes["mskim"] != 0) | ((labels != 0) & (labels != target))
    image = bp.Image(1e9 * planes["fitim"], sigma=1e9 * planes["sigma"], psf=planes["psfim"], mask=mask, name=name)
    start = time.perf_counter()
    fits = scenes(image, models.sersic())
    print(f"\n{image}, {time.perf_counter() - start:.0f} s\n{fits['noise']}\n")
    print("| parameter | " + " | ".join(COLUMNS) + " | error bar |\n|---|" + "---|" * (len(COLUMNS) + 1))
    for site in (
        "galaxy.x",
        "galaxy.y",
        "galaxy.flux",
        "galaxy.r_eff",
        "galaxy.n",
        "galaxy.q",
        "galaxy.theta",
        "sky.level",
    ):
        cells = [f"{float(fits[c].params[site]):.5g} +- {float(fits[c].std[site]):.2g}" for c in COLUMNS]
        ratio = float(fits[COLUMNS[-1]].std[site]) / float(fits["ignored"].std[site])
        print(f"| {site} | " + " | ".join(cells) + f" | x {ratio:.2f} |")
    print("chi2 / dof: " + ", ".join(f"{fits[c].chi2 / fits[c].dof:.3f} ({c})" for c in COLUMNS))


def ways(size: int = 121) -> None:
    """Time of making ready, and of each application, and the error of r^T C^-1 r, for a mask of a twentieth."""
    correlation = bp.NoiseCorrelation.of_kernel(np.outer(*[[0.25, 1.0, 0.25]] * 2))
    draws = np.random.default_rng(0)
    valid, reach = draws.random((size, size)) > 0.05, correlation.reach
    noise = np.where(valid, draws.normal(size=valid.shape), 0.0)
    print(f"\n{size}x{size} pixels, {correlation}")

    start = time.perf_counter()
    operator = decorrelation(correlation, valid)
    ready, tensor = time.perf_counter(), torch.from_numpy(noise)
    for _ in range(_TIMES):
        independent = operator(tensor)
    each = (time.perf_counter() - ready) / _TIMES
    rows = [(f"{len(operator.before)} pixels before each", ready - start, each, float((independent**2).sum()))]

    start = time.perf_counter()
    y, x = np.nonzero(valid)
    place = np.cumsum(valid.ravel()).reshape(valid.shape) - 1
    width = reach * size + reach + 1
    band = np.zeros((width, len(y)))
    for dy, dx in ((dy, dx) for dy in range(reach + 1) for dx in range(-reach, reach + 1) if (dy, dx) >= (0, 0)):
        inside = (y + dy < size) & (x + dx >= 0) & (x + dx < size)
        inside[inside] &= valid[y[inside] + dy, x[inside] + dx]
        first = place[y[inside], x[inside]]
        second = place[y[inside] + dy, x[inside] + dx]
        band[second - first, first] = correlation.values[reach + dy, reach + dx]
    factor = linalg.cholesky_banded(band, lower=True)
    ready = time.perf_counter()
    exact = noise[valid] @ linalg.cho_solve_banded((factor, True), noise[valid])
    rows.append(("banded Cholesky factor", ready - start, time.perf_counter() - ready, exact))

    start = time.perf_counter()
    shape = (size + reach, size + reach)
    power = power_spectrum(correlation.values, shape)[:, : shape[1] // 2 + 1]

    def covariance(vector: np.ndarray) -> np.ndarray:
        plane = np.zeros(shape)
        plane[:size, :size][valid] = vector
        return fft.irfft2(fft.rfft2(plane) * power, shape)[:size, :size][valid]

    ready = time.perf_counter()
    solved, _ = linalg_sparse.cg(
        linalg_sparse.LinearOperator((len(y), len(y)), matvec=covariance, dtype=float), noise[valid], rtol=1e-8
    )
    rows.append(("conjugate gradients to 1e-8", ready - start, time.perf_counter() - ready, noise[valid] @ solved))
    print("| way | ready, s | application, ms | error of r^T C^-1 r |\n|---|---|---|---|")
    for name, first, each, square in rows:
        print(f"| {name} | {first:.2f} | {1e3 * each:.1f} | {square / exact - 1:.1e} |")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--simulations", type=int, default=120)
    parser.add_argument("--ways", action="store_true", help="time three ways to undo a correlation")
    parser.add_argument("--data", type=Path, help="folder that holds profit_kids")
    given = parser.parse_args()
    torch.set_num_threads(1)
    # torch deprecates what its own first forward derivative loads
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
    if given.simulations:
        simulate(given.simulations)
    if given.data is not None:
        kids(given.data)
    if given.ways:
        ways()


if __name__ == "__main__":
    main()
