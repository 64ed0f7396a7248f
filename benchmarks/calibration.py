"""Simulation-based calibration of every component under every likelihood.

    python benchmarks/calibration.py OUT_DIR [--simulations 1000] [--components sersic] [--likelihoods poisson]

Small scenes of one component each (tests/posteriors.py), fitted by the default method of inference.calibrate. Each
finished pair leaves its ranks (NAME.json) and its picture (NAME.png) in OUT_DIR, and a row for each of its parameters
in calibration.md; run again, what is finished is kept, and one that was interrupted goes on (NAME_SEED.h5). The time of
a pair is that of its last run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

import bayesprof as bp
from bayesprof import plots
from bayesprof.inference.calibrate import calibrate
from bayesprof.inference.calibration import LEVELS, Calibration

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from posteriors import COMPONENTS, LIKELIHOODS, component_scene


def run(component: str, likelihood: str, simulations: int, seed: int, checkpoint: Path) -> dict[str, Any]:
    """What a finished pair leaves."""
    start = time.perf_counter()
    scene = component_scene(component, likelihood)
    calibration = calibrate(scene, simulations=simulations, seed=seed, checkpoint=checkpoint)
    return {
        "component": component,
        "likelihood": likelihood,
        "seed": seed,
        "version": bp.__version__,
        "seconds": round(time.perf_counter() - start, 1),
        "simulations": simulations,
        "draws": calibration.draws,
        "flagged": calibration.flagged,
        "missing": calibration.missing,
        "lost": calibration.lost,
        "ranks": {name: ranks.tolist() for name, ranks in calibration.ranks.items()},
    }


def restored(report: dict[str, Any]) -> Calibration:
    """The calibration behind a report."""
    ranks = {name: np.array(values) for name, values in report["ranks"].items()}
    return Calibration(
        ranks, report["draws"], report["simulations"], report["flagged"], report["missing"], report.get("lost", 0)
    )


def rows(report: dict[str, Any]) -> list[str]:
    """Rows of the table, one a parameter; the first has what is common to all."""
    calibration = restored(report)
    counts = f"{sum(report['flagged'].values())} + {sum(report['missing'].values())} of {report['simulations']}"
    common = (
        f"{report['component']} | {report['likelihood']} | {calibration.verdict} | {counts} | {report['seconds']} s"
    )
    lines = []
    for name, covered in calibration.coverage.items():
        test = calibration.tests[name]
        coverages = " | ".join(f"{100 * covered[level]:.1f}" for level in LEVELS)
        lines.append(
            f"| {common} | {name} | {coverages} | {test.offset:+.3f} +- {test.offset_error:.3f} | {test.spread:.3f} | "
            f"{test.p:.2g} |"
        )
        common = " | | | | "
    return lines


def table(reports: list[dict[str, Any]]) -> str:
    """The table in Markdown."""
    levels = " | ".join(f"{100 * level:g}%" for level in LEVELS)
    head = (
        f"| component | likelihood | verdict | flagged + missing | time | parameter | {levels} | offset | spread | p |"
    )
    rule = "|---" * (head.count("|") - 1) + "|"
    note = "; ".join(
        f"{count} simulations: " + ", ".join(f"{100 * (level * (1 - level) / count) ** 0.5:.1f}" for level in LEVELS)
        for count in sorted({report["simulations"] for report in reports})
    )
    lines = [line for report in reports for line in rows(report)]
    return "\n".join([head, rule, *lines, "", f"One binomial standard deviation of the coverages, in percent: {note}."])


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text + "\n")
    os.replace(partial, path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--components", nargs="+", choices=list(COMPONENTS), default=list(COMPONENTS))
    parser.add_argument("--likelihoods", nargs="+", choices=LIKELIHOODS, default=list(LIKELIHOODS))
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    # torch deprecates what its own first forward derivative loads
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
    given.out.mkdir(parents=True, exist_ok=True)
    reports = []
    for component in given.components:
        for likelihood in given.likelihoods:
            path = given.out / f"{component}_{likelihood}.json"
            report = json.loads(path.read_text()) if path.exists() else None
            if report is None or (report["simulations"], report["seed"]) != (given.simulations, given.seed):
                report = run(
                    component, likelihood, given.simulations, given.seed, path.with_name(f"{path.stem}_{given.seed}.h5")
                )
                plots.calibration(restored(report), path=path.with_suffix(".png"))
                write(path, json.dumps(report))
            reports.append(report)
            write(given.out / "calibration.md", table(reports))
            print(f"{component}, {likelihood}: {restored(report).verdict} ({report['seconds']} s)", flush=True)


if __name__ == "__main__":
    main()
