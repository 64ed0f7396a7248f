"""Our edge-on disks beside Imfit's.

    peers/.../python benchmarks/peers/pyimfit_edge_on.py edge_on.npz
    python benchmarks/edge_on.py edge_on.npz

Prints the relative L2 error of each image, with a PSF and without, and ends with code 1 where one is above 1e-4.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from oracles import Moffat, error

import bayesprof as bp
from bayesprof import models
from bayesprof.rendering import renderer_for

BOUND = 1e-4


def main(path: str) -> int:
    peer = np.load(path)
    psf = Moffat(*peer["psf"]).stamp((61, 61))
    worst = 0.0
    print("| scale length | scale height | n | angle | with a PSF | without |")
    print("|---|---|---|---|---|---|")
    for (length, height, n, angle), bare, seen in zip(peer["disks"], peer["bare"], peer["seen"], strict=True):
        disk = models.EdgeOnDisk(*peer["centre"], 1.0, length, height / length, 2 / n, math.radians(angle))
        with_psf, without = (
            error(renderer_for(bp.Image(np.zeros(image.shape), psf=kernel))(disk).numpy(), image)
            for image, kernel in ((seen, psf), (bare, None))
        )
        worst = max(worst, with_psf, without)
        print(f"| {length:g} | {height:g} | {n:g} | {angle:g} | {with_psf:.1e} | {without:.1e} |")
    return int(worst > BOUND)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
