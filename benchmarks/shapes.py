"""What a value and gradient of galaxies with shapes costs, against the plain profile.

    python benchmarks/shapes.py [--repeats 60]

One Sersic profile on 121x121 pixels through a Gaussian PSF of 25x25 (FWHM 4 pixels), float64, one thread. "plain" is
rendered by its Fourier transform, the others in real space (bayesprof/surfaces.py). The last is the lopsided spiral of
docs/components.md, a surface of one's own, beside the spiral of the catalogue on the same disk. The captured graph of
value and gradient is timed as in components.py: in turns, by the thread's processor time.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from components import costs_in_turns

import bayesprof as bp
from bayesprof import inference, models

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "components.md"
SHAPES = {
    "plain": (),
    "boxy": (models.boxiness(),),
    "modes 1 and 3": (models.fourier_modes((1, 3)),),
    "boxy, modes 1 and 3": (models.boxiness(), models.fourier_modes((1, 3))),
    "truncated": (models.outer_truncation(),),
    "log spiral, mode 2": (models.log_spiral(), models.fourier_modes((2,))),
    "power spiral, mode 2": (models.power_spiral(), models.fourier_modes((2,))),
    "warp, 3 knots": (models.warp((3.0, 8.0, 20.0)),),
}


def image() -> bp.Image:
    y, x = np.mgrid[-12:13, -12:13]
    psf = np.exp(-(x**2 + y**2) / (2 * 1.7**2))
    y, x = np.mgrid[:121, :121]
    data = 100 * np.exp(-np.hypot((x - 60.3) / 8, (y - 59.8) / 5))
    return bp.Image(data + np.random.default_rng(1).normal(size=data.shape), sigma=1.0, psf=psf / psf.sum())


def galaxies() -> dict[str, Any]:
    """Every component to be timed, the plain one first."""
    found: dict[str, Any] = {
        name: models.shaped(models.sersic(), *shapes) if shapes else models.sersic() for name, shapes in SHAPES.items()
    }
    spiral = (models.log_spiral(), models.fourier_modes((2,)))
    found["log spiral, mode 2, on an exponential"] = models.shaped(models.exponential(), *spiral)
    found["lopsided spiral of the guide"] = lopsided_spiral_of_the_guide()
    return found


def lopsided_spiral_of_the_guide() -> Any:
    """The function that the guide to components defines, with what it needs, but without its fit."""
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    imports = "import pyro, pyro.distributions as dist, torch\n"
    definitions = next(block for block in blocks if "class LopsidedSpiral" in block).split("truth =")[0]
    names: dict[str, Any] = {}
    exec(compile(imports + definitions, str(GUIDE), "exec"), names)
    return names["lopsided_spiral"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    posteriors = {name: inference.Posterior(bp.Scene(image(), galaxy=galaxy)) for name, galaxy in galaxies().items()}
    costs = costs_in_turns(posteriors, options.repeats)
    reference = costs["plain"].seconds
    print("| shapes | parameters | value and gradient | against plain | operations |\n|---|---|---|---|---|")
    for name, (seconds, operations) in costs.items():
        size = len(posteriors[name].initial())
        print(f"| {name} | {size} | {1e3 * seconds:.2f} ms | {seconds / reference:.1f} | {operations} |")


if __name__ == "__main__":
    main()
