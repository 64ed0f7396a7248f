"""How the profiles that Imfit has as well compare with its images.

    python benchmarks/profiles.py --pyimfit benchmarks/.venvs/pyimfit/bin/python [--fine 24]

One source of each kind, off-centre and rotated, through a Moffat PSF and without one: Imfit (through pyimfit, in a
process of its own) draws points on a grid many times finer than the pixels, convolved there. The brightness comes from
Imfit's parameters; bayesprof's flux is taken from the ratio of the two images, which its spread then tests. The error
is the relative L2 norm of the difference.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from oracles import Moffat

import bayesprof as bp
from bayesprof import models
from bayesprof.rendering import renderer_for

SHAPE = (40, 56)
CENTRE = (29.37, 18.82)
Q, THETA = 0.6, 0.4
PSF = (3.5, 3.5)  # FWHM, beta

# Imfit's function and its parameters beside the position angle and the ellipticity, and our light with unit flux
PROFILES: dict[str, tuple[str, dict[str, float], Any, tuple[float, ...]]] = {
    "King": ("ModifiedKing", {"I_0": 100.0, "r_c": 2.5, "r_t": 16.0, "alpha": 2.0}, models.King, (2.5, 16.0, 2.0)),
    "King, alpha 1.2": (
        "ModifiedKing", {"I_0": 100.0, "r_c": 1.5, "r_t": 30.0, "alpha": 1.2}, models.King, (1.5, 30.0, 1.2),
    ),
    "core-Sersic": (
        "Core-Sersic",
        {"n": 3.0, "I_b": 20.0, "r_e": 9.0, "r_b": 2.0, "alpha": 4.0, "gamma": 0.2},
        models.CoreSersic,
        (9.0, 3.0, 2.0, 0.2, 4.0),
    ),
    "broken exponential": (
        "BrokenExponential",
        {"I_0": 100.0, "h1": 8.0, "h2": 2.5, "r_break": 9.0, "alpha": 1.2},
        models.BrokenExponential,
        (8.0, 2.5, 9.0, 1.2),
    ),
    "ring": ("GaussianRing", {"A": 10.0, "R_ring": 9.0, "sigma_r": 1.5}, models.GaussianRing, (9.0, 1.5)),
    "Ferrer": ("FerrersBar2D", {"c0": 0.0, "n": 1.0, "I_0": 10.0, "a_bar": 14.0}, models.Ferrer, (14.0, 1.0, 0.0)),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pyimfit", required=True, help="Python of an environment that has pyimfit")
    parser.add_argument("--fine", type=int, default=24, help="points of Imfit's grid per pixel and axis")
    options = parser.parse_args()
    # PA is counter-clockwise from +y
    common = {"PA": math.degrees(THETA) - 90, "ell": 1 - Q}
    wanted = {
        name: {"function": kind, "parameters": {**common, **parameters}, "shape": SHAPE, "centre": CENTRE, "psf": PSF}
        for name, (kind, parameters, _, _) in PROFILES.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        profiles, out = Path(folder, "profiles.json"), Path(folder, "images.npz")
        profiles.write_text(json.dumps(wanted))
        script = Path(__file__).parent / "peers" / "pyimfit_profiles.py"
        command = [options.pyimfit, str(script), str(profiles), str(out), "--fine", str(options.fine)]
        subprocess.run(command, check=True, cwd=folder)
        images = dict(np.load(out))
    renderers = {
        "seen": renderer_for(bp.Image(np.zeros(SHAPE), psf=Moffat(*PSF).stamp((61, 61)))),
        "bare": renderer_for(bp.Image(np.zeros(SHAPE))),
    }
    print(f"| profile | error against Imfit ({options.fine}x{options.fine} points a pixel), with a PSF | without |")
    print("|---|---|---|")
    for name, (_, _, light, shape) in PROFILES.items():
        cells = []
        for how, render in renderers.items():
            ours = render(light(*CENTRE, 1.0, *shape, q=Q, theta=THETA)).numpy()
            theirs = images[f"{name}, {how}"]
            flux = (ours * theirs).sum() / (ours**2).sum()
            cells.append(f"{np.linalg.norm(flux * ours - theirs) / np.linalg.norm(theirs):.1e}")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    sys.exit(main())
