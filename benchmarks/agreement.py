"""Every method on ten posteriors that are known: five in closed form, five of galaxies by long runs.

    python benchmarks/agreement.py OUT.md [--methods nuts laplace] [--posteriors skewed bright_sersic]
    python benchmarks/agreement.py OUT.md --repeats 24 --methods sample --posteriors faint_sersic
    python benchmarks/agreement.py --make-references [--posteriors bright_sersic]

The closed forms are in tests/posteriors.py. The galaxies, images of 36 rows and 40 columns, are kept in
references/galaxies.npz, so that a change of the renderer can't move both sides of the comparison, and the moments
and quantiles of their posteriors, with Monte Carlo standard errors, in references/NAME.json. Every method runs with
its own defaults but for the options given here. A mean agrees within four standard errors, a standard deviation
within 3%, or four standard errors where those are more. Repeated, with other seeds, it is the mean of those repeats
that counts whose verdict is "ok": whether a method is off where it says that it isn't.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pyro.distributions as dist
import torch

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.inference.curved import curves

HERE = Path(__file__).resolve().parent
REFERENCES = HERE / "references"
sys.path.insert(0, str(HERE.parent / "tests"))

from posteriors import ANALYTIC, Known, compared  # noqa: E402

METHODS = ("nuts", "hmc", "split_hmc", "mala", "ensemble", "laplace", "laplace_2", "rto", "svi", "sample")
SECOND_ORDER = "laplace_2"
SHAPE = (36, 40)
QUANTILES = (0.023, 0.159, 0.5, 0.841, 0.977)
DRAWS, CHAINS, SEED = 1500, 16, 2026
TARGET_ACCEPTANCE = 0.9  # of the long runs: shorter steps than usual, for tails without divergent transitions

POSITION = {"x": 18.6, "y": 17.3}
SHAPED = {"ellipticity": [0.2, 0.1]}
TRUTH: dict[str, dict[str, dict[str, Any]]] = {
    "bright_sersic": {
        "galaxy": {"kind": "sersic", **POSITION, **SHAPED, "flux": 6000.0, "r_eff": 4.0, "n": 2.5},
        "sky": {"kind": "flat_sky", "level": 2.0},
    },
    "faint_sersic": {
        "galaxy": {"kind": "sersic", **POSITION, **SHAPED, "flux": 250.0, "r_eff": 4.0, "n": 1.5},
        "sky": {"kind": "flat_sky", "level": 2.0},
    },
    "sersic_and_point_source": {
        "galaxy": {"kind": "sersic", **POSITION, **SHAPED, "flux": 4000.0, "r_eff": 4.5, "n": 1.3},
        "star": {"kind": "point_source", "x": 23.8, "y": 14.9, "flux": 800.0},
        "sky": {"kind": "flat_sky", "level": 2.0},
    },
    "exponential_and_plane_sky": {
        "galaxy": {"kind": "exponential", **POSITION, **SHAPED, "flux": 2000.0, "r_eff": 4.0},
        "sky": {"kind": "plane_sky", "level": 2.0, "slope_x": 0.02, "slope_y": -0.03},
    },
    "poisson_sersic": {
        "galaxy": {"kind": "sersic", **POSITION, **SHAPED, "flux": 3000.0, "r_eff": 4.0, "n": 2.0},
        "sky": {"kind": "flat_sky", "level": 5.0},
    },
}
"""Components of each galaxy and their true parameters, by name. The noise of a pixel is 1, or Poisson's."""


def prior(parameter: str, truth: Any) -> Any:
    """Prior of a parameter: not about the true value, but wide enough to have it well inside."""
    if parameter in ("x", "y"):
        return dist.Normal(torch.tensor(truth + 0.4, dtype=torch.float64), 1.0)
    if parameter in ("flux", "r_eff"):
        return dist.LogNormal(torch.tensor(math.log(1.2 * truth), dtype=torch.float64), 0.7)
    if parameter == "n":
        return dist.LogNormal(torch.tensor(math.log(2.0), dtype=torch.float64), 0.4)
    if parameter == "ellipticity":
        return models.Ellipticity(torch.tensor(0.4, dtype=torch.float64))
    return dist.Normal(torch.tensor(truth, dtype=torch.float64), 3.0 if parameter == "level" else 0.1)


def psf() -> np.ndarray:
    """A Moffat PSF with a FWHM of 2 pixels, 13 by 15 pixels, sum 1."""
    y, x = np.mgrid[-6:7, -7:8].astype(float)
    image = (1 + (x**2 + y**2) / 3.4) ** -2.8
    return image / image.sum()


def scene(name: str, data: np.ndarray, *, held: bool = False) -> bp.Scene:
    """Scene of a galaxy over `data`; with the true parameters `held`, or with their priors."""
    poisson = name.startswith("poisson")
    image = bp.Image(data, psf=psf(), **({} if poisson else {"sigma": 1.0}))
    components = {}
    for component, truth in TRUTH[name].items():
        values = {key: value for key, value in truth.items() if key != "kind"}
        given = values if held else {key: prior(key, value) for key, value in values.items()}
        components[component] = getattr(models, truth["kind"])(**given)
    return bp.Scene(image, likelihood="poisson" if poisson else "gaussian", **components)


def simulated(name: str) -> np.ndarray:
    """A noisy image of a galaxy, float32."""
    blank = np.ones(SHAPE)
    truth = scene(name, blank, held=True).predict().numpy()
    generator = np.random.default_rng(list(name.encode()))
    data = generator.poisson(truth) if name.startswith("poisson") else generator.normal(truth, 1.0)
    return data.astype(np.float32)


def make_references(names: list[str], draws: int) -> None:
    """Long runs, of `draws` draws in each of CHAINS chains, and the images they are of where there are none yet."""
    images = REFERENCES / "galaxies.npz"
    if not images.exists():
        REFERENCES.mkdir(exist_ok=True)
        np.savez_compressed(images, **{name: simulated(name) for name in TRUTH})
    for name in names:
        start = time.perf_counter()
        model = scene(name, np.load(images)[name].astype(float))
        post = inference.nuts(
            model, draws=draws, chains=CHAINS, seed=SEED, target_acceptance=TARGET_ACCEPTANCE, progress=False
        )
        seconds = time.perf_counter() - start
        report = {
            "posterior": name,
            "method": f"inference.nuts, {CHAINS} chains of {draws} draws, seed {SEED}, acceptance {TARGET_ACCEPTANCE}",
            "versions": {"bayesprof": bp.__version__, "torch": torch.__version__},
            "verdict": post.attrs["verdict"],
            "seconds": round(seconds),
            "sites": {
                str(site): reference(post.posterior[site].values)
                for site in post.posterior
                if not str(site).endswith((".q", ".theta"))
            },
        }
        (REFERENCES / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
        smallest = min(np.min(site["ess_mean"]) for site in report["sites"].values())
        print(f"{name}: {seconds:.0f} s, {post.attrs['verdict']}, at least {smallest:.0f} effective draws", flush=True)


def reference(draws: np.ndarray) -> dict[str, Any]:
    """Moments and quantiles of a site's draws, shape (chains, draws, ...), with their Monte Carlo standard errors."""
    data = az.convert_to_dataset({"x": draws})

    def diagnosed(function: Any, **options: Any) -> Any:
        return function(data, **options)["x"].values.tolist()

    return {
        "mean": draws.mean((0, 1)).tolist(),
        "mean_error": diagnosed(az.mcse, method="mean"),
        "sd": draws.std((0, 1)).tolist(),
        "sd_error": diagnosed(az.mcse, method="sd"),
        "quantiles": {str(q): np.quantile(draws, q, axis=(0, 1)).tolist() for q in QUANTILES},
        "quantile_errors": {str(q): diagnosed(az.mcse, method="quantile", prob=q) for q in QUANTILES},
        "ess_mean": diagnosed(az.ess, method="mean"),
        "ess_tail": diagnosed(az.ess, method="tail"),
        "r_hat": diagnosed(az.rhat),
    }


def known(name: str) -> Known:
    """A posterior and its moments."""
    if name in ANALYTIC:
        return ANALYTIC[name]()
    sites = json.loads((REFERENCES / f"{name}.json").read_text())["sites"]
    moments = {key: {site: np.asarray(values[key]) for site, values in sites.items()} for key in MOMENTS}
    return Known(scene(name, np.load(REFERENCES / "galaxies.npz")[name].astype(float)), **moments)


MOMENTS = ("mean", "sd", "mean_error", "sd_error")


def finished(method: str, case: Known, options: dict[str, Any]) -> az.InferenceData:
    """What a method returns, given those of the options that it takes."""
    run = getattr(inference, "laplace" if method == SECOND_ORDER else method)
    accepted = {key: value for key, value in options.items() if key in inspect.signature(run).parameters}
    if method == SECOND_ORDER:
        accepted["order"] = 2
    return run(case.model, **accepted)


def row(name: str, method: str, case: Known, options: dict[str, Any]) -> str:
    """Row of the table: one method on one posterior."""
    start = time.perf_counter()
    post = finished(method, case, options)
    seconds = time.perf_counter() - start
    comparisons = compared(post, case)
    mean = max(comparisons, key=lambda one: abs(one.mean_offset))
    sd = max(comparisons, key=lambda one: abs(one.sd_offset) / one.sd_allowed)
    agrees = all(one.agrees for one in comparisons)
    return " | ".join(
        [
            f"| {name}",
            method,
            "yes" if agrees else "**no**",
            f"{mean.mean_offset:+.1f} ({mean.label})",
            f"{100 * sd.sd_offset:+.1f}% of {100 * sd.sd_allowed:.1f}% ({sd.label})",
            f"{min(one.ess for one in comparisons):.0f}",
            f"{seconds:.1f} s",
            f"{post.attrs['verdict']} |",
        ]
    )


def repeated(name: str, method: str, case: Known, options: dict[str, Any], repeats: int) -> str:
    """Row of the table: the mean over `repeats` of a method, of those whose verdict is ok."""
    offsets: dict[str, list[float]] = {}
    chosen: Counter[str] = Counter()
    for seed in range(repeats):
        post = finished(method, case, options | {"seed": seed})
        if post.attrs["verdict"] == "ok":
            chosen[post.attrs["method"]] += 1
            for one in compared(post, case):
                offsets.setdefault(one.label, []).append(one.sd_offset)
    means = {label: float(np.mean(values)) for label, values in offsets.items()}
    label = max(means, key=lambda one: abs(means[one]), default="")
    error = float(np.std(offsets[label])) / math.sqrt(len(offsets[label])) if label else math.nan
    ways = ", ".join(f"{count} by {way}" for way, count in chosen.items())
    worst = f"{100 * means.get(label, math.nan):+.1f}% +- {100 * error:.1f}% ({label})"
    return f"| {name} | {method} | {sum(chosen.values())} of {repeats}: {ways} | {worst} |"


def is_method(name: str) -> bool:
    """Whether bayesprof.inference exports a method of that name."""
    return name == SECOND_ORDER or (name in inference.__all__ and callable(getattr(inference, name)))


HEADER = (
    "| posterior | method | agrees | mean, worst: standard errors | sd, worst: off, of what is allowed | "
    "smallest ESS | time, all included | verdict |\n|---|---|---|---|---|---|---|---|"
)
REPEATED = "| posterior | method | ok | sd, furthest off in the mean of these |\n|---|---|---|---|"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", nargs="?", type=Path, help="file of the table, written row by row; finished rows stay")
    parser.add_argument("--methods", nargs="+", default=[name for name in METHODS if is_method(name)])
    parser.add_argument("--posteriors", nargs="+", choices=[*ANALYTIC, *TRUTH], default=[*ANALYTIC, *TRUTH])
    parser.add_argument(
        "--draws", type=int, help="instead of each method's default, or of 1,500 a chain for references"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1, help="with the seeds 0 to N - 1, and the mean of what is ok")
    parser.add_argument("--make-references", action="store_true", help="make references/ anew, by long runs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    # torch deprecates what its own first forward derivative loads
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
    if given.make_references:
        make_references([name for name in given.posteriors if name in TRUTH], given.draws or DRAWS)
        return
    if given.out is None:
        parser.error("expected the file to write the table to")
    unknown = [name for name in given.methods if not is_method(name)]
    if unknown:
        parser.error(f"bayesprof.inference has no {unknown}; it has {inference.__all__}")
    absent = [name for name in given.posteriors if name in TRUTH and not (REFERENCES / f"{name}.json").exists()]
    if absent:
        parser.error(f"no references of {absent}; make them with --make-references --posteriors {' '.join(absent)}")
    options = {"seed": given.seed, "progress": False, **({} if given.draws is None else {"draws": given.draws})}
    header = HEADER if given.repeats == 1 else REPEATED
    lines = given.out.read_text().splitlines() if given.out.exists() else header.splitlines()
    for name in given.posteriors:
        case = known(name)
        for method in given.methods:
            if any(line.startswith(f"| {name} | {method} |") for line in lines):
                continue
            posterior = inference.Posterior(case.model)
            if method == "rto" and not posterior.of_residuals:
                lines.append(f"| {name} | rto | not of residuals | | | | | |")
            elif method == SECOND_ORDER and not curves(posterior):
                lines.append(f"| {name} | {SECOND_ORDER} | no second order | | | | | |")
            elif given.repeats > 1:
                lines.append(repeated(name, method, case, options, given.repeats))
            else:
                lines.append(row(name, method, case, options))
            print(lines[-1], flush=True)
            given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
