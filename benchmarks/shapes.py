"""What a value and gradient of galaxies with shapes costs, against the plain profile.

    python benchmarks/shapes.py

One Sersic profile on 121x121 pixels through a Gaussian PSF of 25x25 (FWHM 4 pixels), float64, one thread. "plain" is
rendered by its Fourier transform, the others in real space (bayesprof/surfaces.py). The last is the lopsided spiral of
docs/components.md, a surface of one's own, beside the spiral of the catalogue on the same disk. The captured graph of
value and gradient is timed, as the samplers use it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gradient import milliseconds

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
    torch.set_num_threads(1)
    reference = 0.0
    print("| shapes | parameters | value and gradient | against plain | operations |\n|---|---|---|---|---|")
    for name, galaxy in galaxies().items():
        posterior = inference.Posterior(bp.Scene(image(), galaxy=galaxy))
        z = posterior.initial()[None]
        posterior.prepare("value_and_grad", batch=1, calls=10_000, compile=False)
        functions = posterior._functions
        cost = milliseconds(lambda: functions("value_and_grad", [z]))  # noqa: B023
        reference = reference or cost
        nodes = len(functions._shared.captured[("value_and_grad", 1)].graph.graph.nodes)
        print(f"| {name} | {z.shape[-1]} | {cost:.2f} ms | {cost / reference:.1f} | {nodes} |", flush=True)


if __name__ == "__main__":
    main()
