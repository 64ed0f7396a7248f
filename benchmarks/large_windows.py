"""Windows with fine structure near the source only, beside windows in full detail: error of the light, and time.

    python benchmarks/large_windows.py

A Moffat PSF with a FWHM of 3.5 pixels, beta 3 and 51x51 pixels; n in {0.5, 1, 2, 4} x r_eff in {1, 5, 20, 40} pixels,
three centres and angles; the largest of the relative L2 errors. Times are of one image, operation by operation.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

import bayesprof as bp
from bayesprof import models
from bayesprof.rendering import renderer_for
from bayesprof.splitting import SplitConvolution, Splitter

SHAPES = ((128, 128), (192, 192), (256, 256), (410, 570), (712, 743))
RATIOS = (1.0, 0.5, 0.3, 0.2, 0.1)
PLACES = ((0.0, 0.3), (0.37, 0.8), (0.5, 2.4))  # offset of the centre from the middle, pixels, and angle


def best(function: Callable[[], object], repeats: int = 7) -> float:
    """Shortest time of a call, milliseconds."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return 1e3 * min(times)


def main() -> None:
    torch.set_num_threads(1)
    y, x = np.mgrid[:51, :51] - 25.0
    scale = 3.5 / (2 * math.sqrt(2 ** (1 / 3) - 1))
    psf = (1 + (x**2 + y**2) / scale**2) ** -3.0
    image = bp.Image(np.zeros((750, 750)), sigma=1.0, psf=psf / psf.sum())
    split = Splitter(image)
    print("| window | q | broad | fine window | largest error | whole | in two parts |\n|---|---|---|---|---|---|---|")
    for shape, q in itertools.product(SHAPES, RATIOS):
        whole = renderer_for(image, shape=shape)
        parts = split(whole, 10 / q).convolution
        if not isinstance(parts, SplitConvolution):
            print(f"| {shape[0]}x{shape[1]} | {q} | whole | | | | |")
            continue
        errors = []
        for n, r_eff, (offset, theta) in itertools.product((0.5, 1.0, 2.0, 4.0), (1.0, 5.0, 20.0, 40.0), PLACES):
            centre = shape[1] / 2 + offset, shape[0] / 2 - 0.7 * offset
            source = models.Sersic(*centre, 1.0, r_eff, n, q=q, theta=theta)
            (_, expected), (_, found) = (one.apart([source])[0] for one in (whole.convolution, parts))
            errors.append(float((found - expected).norm() / expected.norm()))
        times = [best(partial(one.apart, [source])) for one in (whole.convolution, parts)]
        rows, columns = parts.broad.transfer.shape
        print(
            f"| {shape[0]}x{shape[1]} | {q} | {rows}x{columns} of {whole.convolution.transfer.shape[0]}x"
            f"{whole.convolution.transfer.shape[1]} | {parts.fine.shape[0]} | {max(errors):.1e} | {times[0]:.1f} ms | "
            f"{times[1]:.1f} ms |"
        )


if __name__ == "__main__":
    main()
