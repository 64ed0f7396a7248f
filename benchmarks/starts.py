"""How often a fit ends at the highest maximum that there is, by the number of its starts.

    python benchmarks/starts.py [--simulations 64] [--components bulge_disk bulge_disk_bar]

Galaxies are drawn from the priors of tests/posteriors.py, one component on 20 rows of 24 pixels, and fitted as a user
would: by a scene of their own image, which starts from what it measures there. The highest maximum is that of fits from
the truth and from all starts together.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

import bayesprof as bp
from bayesprof import inference
from bayesprof.inference.modes import shares_of
from bayesprof.inference.randomness import seeds_from

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from posteriors import COMPONENTS, component_scene

STARTS: tuple[int | str, ...] = (1, 2, 4, 8, "auto")
SAME = 0.3  # in log density, that fits of one maximum may differ by
KNOWN = 0.01  # probability of another maximum, from which it is counted


def simulated(component: str, seed: int) -> tuple[inference.Posterior, dict[str, Any]]:
    """The posterior of a galaxy drawn from the prior, by a scene of its image, and the truth."""
    blank = component_scene(component)
    posterior = inference.Posterior(blank)
    of_prior, of_data = seeds_from(seed, 2)
    values = posterior.predictive(posterior.constrain(posterior.prior_draw(of_prior)), of_data)
    image = bp.Image(values["image"].numpy(), sigma=1.0, psf=blank.image.psf)
    scene = bp.Scene(image, source=COMPONENTS[component], sky=bp.models.flat_sky(level=5.0))
    return inference.Posterior(scene), {site.name: values[site.name] for site in posterior.sites}


def run(component: str, simulations: int) -> str:
    """The row of a component."""
    right: dict[int | str, list[bool]] = {count: [] for count in STARTS}
    shortfall, several = [], []
    for seed in seeds_from(0, simulations):
        posterior, truth = simulated(component, seed)
        fits = {}
        for count in STARTS:
            fits[count] = inference.lm(posterior, starts=count, seed=seed)
        highest = max(fit.log_density for fit in (*fits.values(), inference.lm(posterior, init=truth)))
        for count, fit in fits.items():
            right[count].append(fit.converged and fit.log_density > highest - SAME)
        shortfall.append(highest - fits[1].log_density)
        most = fits["auto"]
        several.append(float(shares_of((most, *most.others)).max()) < 1 - KNOWN)
    missed = [gap for gap, found in zip(shortfall, right[1], strict=True) if not found]
    cells = [f"{100 * np.mean(right[count]):.1f}%" for count in STARTS]
    gap = f"{np.median(missed):.1f}, {max(missed):.1f}" if missed else ""
    return f"| {component} | {' | '.join(cells)} | {gap} | {100 * np.mean(several):.0f}% |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--simulations", type=int, default=64)
    parser.add_argument(
        "--components", nargs="+", choices=list(COMPONENTS), default=["bulge_disk", "bulge_disk_bar", "log_spiral"]
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
    print(
        f"| component | {' | '.join(f'starts={count}' for count in STARTS)} | too low by, "
        "starts=1: median, most | another maximum of more than 1% |"
    )
    print("|---" * (len(STARTS) + 3) + "|")
    for component in given.components:
        print(run(component, given.simulations), flush=True)


if __name__ == "__main__":
    main()
