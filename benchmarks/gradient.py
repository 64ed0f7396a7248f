"""What a value and gradient costs for each chain, against the floor that its Fourier transforms and its arrays set.

    python benchmarks/gradient.py DATA_DIR [--compile]

The problem is that of gal1.py: one Sersic profile on 121x121 pixels, 7 parameters, float64, one thread. The floor is
the four one-dimensional passes of the two Fourier transforms (there and back) on the grid of this scene, and one copy
of every plane that can't be done without: of the PSF's transform (2), of the profile's amplitude and of its
derivatives in wavenumber and in n (3), of the shifted spectrum and of the adjoint one (4), and of data, noise and
mask (3, on the pixels of the image). "direct" runs the model's captured forward graph under torch.func, "captured" is
the graph of value and gradient itself, as the samplers use it, "compiled" the same compiled. Below the
table is what LM and importance sampling are made of: an expansion (the Jacobian of 7 images, information and
gradient), and a density, in batches as large as they are taken.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import bayesprof as bp
from bayesprof import inference, models


def milliseconds(run: Callable[[], Any], repeats: int = 40) -> float:
    """Lower quartile of the time of a call."""
    for _ in range(5):
        run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * sorted(times)[repeats // 4]


def floor(scene: bp.Scene, chains: int) -> float:
    """Milliseconds of the transforms and of the copies, for all chains."""
    convolution = scene.views[scene.image.name]._render.convolution
    assert convolution is not None
    (rows, columns), (ny, nx) = convolution.period, convolution.shape
    spectrum = torch.randn(chains, rows, columns // 2 + 1, dtype=torch.complex128)
    image = torch.randn(chains, ny, nx, dtype=torch.float64)

    def transforms() -> None:
        by_row = torch.fft.ifft(spectrum, dim=-2)[:, :ny]
        torch.fft.irfft(by_row, n=columns, dim=-1)
        torch.fft.fft(torch.fft.rfft(image, n=columns, dim=-1), n=rows, dim=-2)

    planes = [torch.randn(chains, rows, columns // 2 + 1, dtype=torch.float64) for _ in range(9)]
    planes += [image.clone() for _ in range(3)]
    targets = [torch.empty_like(plane) for plane in planes]

    def copies() -> None:
        for target, plane in zip(targets, planes, strict=True):
            target.copy_(plane)

    return milliseconds(transforms) + milliseconds(copies)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_DIR", help="folder with gal1_im.npy and its companions")
    parser.add_argument("--compile", action="store_true", help="compile too, a few seconds for each number of chains")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    planes = {
        plane: arguments.data / f"gal1_{short}.npy"
        for plane, short in (("sigma", "sig"), ("mask", "mask"), ("psf", "psf"))
    }
    scene = bp.Scene(bp.Image.from_fits(arguments.data / "gal1_im.npy", **planes), galaxy=models.sersic())
    posterior = inference.Posterior(scene)
    z = posterior.initial()
    functions = posterior._functions
    print("| chains | floor | direct | captured | compiled | captured, operations |\n|---|---|---|---|---|---|")
    for chains in (1, 4, 16):
        points = z.expand(chains, -1).clone()
        direct = functions._shared.batched("value_and_grad")
        cells = [floor(scene, chains)]
        with torch.no_grad():
            cells.append(milliseconds(lambda: direct(points, *functions.forward.constants), 12))  # noqa: B023
        posterior.prepare("value_and_grad", batch=chains, calls=10_000, compile=False)
        cells.append(milliseconds(lambda: posterior.value_and_grad(points)))  # noqa: B023
        if arguments.compile:
            posterior.prepare("value_and_grad", batch=chains, calls=10_000, compile=True)
            cells.append(milliseconds(lambda: posterior.value_and_grad(points)))  # noqa: B023
        size = min(size for name, size in functions._shared.captured if name == "value_and_grad" and size <= chains)
        nodes = len(functions._shared.captured[("value_and_grad", size)].graph.graph.nodes)
        shown = [f"{cell / chains:.2f} ms" for cell in cells] + [""] * (4 - len(cells))
        print(f"| {chains} | {' | '.join(shown)} | {nodes} |", flush=True)
    print()
    for name, batch in (("expansion", 1), ("log_density", posterior.most_together)):
        points = z.expand(batch, -1).clone()
        posterior.prepare(name, batch=batch, calls=10_000, compile=arguments.compile)
        cost = milliseconds(lambda: getattr(posterior, name)(points)) / batch  # noqa: B023
        print(f"{name}, captured, for each of {batch}: {cost:.2f} ms")


if __name__ == "__main__":
    main()
