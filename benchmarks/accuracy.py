"""How exact the rendered images are: relative L2 errors against GalSim and against independent quadrature.

    python benchmarks/accuracy.py [--out FILE.md | FILE.json] [--quick]

For Sersic indices, sizes and axis ratios over the whole range, off-centre and rotated on a non-square image: with a
Moffat PSF handed over as its samples, with undersampled PSFs, without a PSF, in float32, and the exact and tabulated
transforms by themselves. With a PSF the reference is GalSim with tightened accuracy where its transforms fit into
memory (the column says how often). Else it is an oracle of tests/oracles.py, whose own difference from GalSim, where
that can be had, is a row of the table. Exits with 1 if an error is above its bound. --quick takes a seventh of the
cases.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.special import gammaincinv

import bayesprof as bp
from bayesprof import models
from bayesprof.lookup import look_up
from bayesprof.models.sersic import sersic_table, sersic_transform
from bayesprof.rendering import Renderer, renderer_for

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from oracles import Moffat, Source, convolved, error, galsim_image, hankel_transform, integrated

SHAPE = (90, 120)
CENTRE = (63.37, 41.82)
SIZES = (0.5, 2.0, 8.0, 30.0)
INDICES = (0.5, 1.0, 2.5, 4.0, 6.0)
AXIS_RATIOS = (0.3, 0.6, 1.0)
LARGE, STEEP = SHAPE[0] / 8, 4.0


@dataclass(frozen=True)
class Row:
    """The worst error of a group of cases, its bound, and the median."""

    group: str
    cases: int
    by_galsim: int
    median: float
    worst: float
    bound: float
    worst_case: str

    @property
    def holds(self) -> bool:
        return bool(self.worst <= self.bound)


def sources(quick: bool) -> Iterator[Source]:
    """Every combination, at angles that vary with it."""
    cases = list(itertools.product(INDICES, SIZES, AXIS_RATIOS))
    for i, (n, r_eff, q) in enumerate(cases):
        if not quick or i % 7 == 0:
            yield Source(*CENTRE, r_eff, n, q, 0.35 + 0.6 * i % 3.14)


def light(source: Source) -> models.Sersic:
    return models.Sersic(source.x, source.y, 1.0, source.r_eff, source.n, q=source.q, theta=source.theta)


def is_large(source: Source) -> bool:
    return source.r_eff > LARGE and source.n >= STEEP


def describe(source: Source) -> str:
    return f"n={source.n:g} r_eff={source.r_eff:g} q={source.q:g} theta={source.theta:.2f}"


def summary(group: str, errors: dict[str, float], bound: float, by_galsim: int = 0) -> Row:
    worst = max(errors, key=lambda case: errors[case])
    return Row(
        group, len(errors), by_galsim, float(np.median(list(errors.values()))), float(errors[worst]), bound, worst
    )


def renderer(psf: np.ndarray | None, dtype: torch.dtype = torch.float64, **options: object) -> Renderer:
    return renderer_for(bp.Image(np.zeros(SHAPE), psf=psf, dtype=dtype, **options))


def against_oracle(group: str, render: Renderer, psf: Moffat | None, quick: bool, bound: float) -> list[Row]:
    """Errors over all sources, those of large steep galaxies apart, and how far the oracle is from GalSim."""
    small, large, oracle = {}, {}, {}
    by_galsim = {True: 0, False: 0}
    for source in sources(quick):
        expected = integrated(source, SHAPE) if psf is None else convolved(source, psf, SHAPE)
        # without a PSF GalSim's band limit is that of the cusp: it converges for shallow profiles only
        reference = galsim_image(source, psf, SHAPE) if psf is not None or source.n < 2 else None
        if reference is not None:
            oracle[describe(source)] = error(expected, reference)
            by_galsim[is_large(source)] += psf is not None
        (large if is_large(source) else small)[describe(source)] = error(
            render(light(source)).numpy(), expected if reference is None or psf is None else reference
        )
    rows = [summary(group, small, bound, by_galsim[False])]
    if large:
        rows.append(summary(f"{group}, r_eff > image / 8 and n >= 4", large, 1e-3, by_galsim[True]))
    if oracle:
        rows.append(summary(f"(oracle against GalSim: {group})", oracle, 2e-5, len(oracle)))
    return rows


def measure(quick: bool) -> Iterator[Row]:
    for beta in (2.5, 3.5, 4.765):
        psf = Moffat(3.5, beta)
        yield from against_oracle(
            f"Moffat PSF, FWHM 3.5, beta {beta:g}", renderer(psf.stamp((255, 255))), psf, quick, 1e-4
        )
    # a small stamp leaves the transform its smallest period, and the copies of large galaxies come closest
    psf = Moffat(3.5, 20.0)
    yield from against_oracle("compact PSF of 41x41 pixels", renderer(psf.stamp((41, 41))), psf, quick, 1e-4)
    yield from against_oracle("no PSF", renderer(None), None, quick, 1e-3)
    psf = Moffat(2.0, 3.5)
    for times, with_pixel in itertools.product((2, 3), (True, False)):
        side = 120 * times + 1
        stamp = psf.stamp((side, side), oversampling=times, with_pixel=with_pixel)
        render = renderer(stamp, psf_oversampling=times, psf_contains_pixel=with_pixel)
        kind = "with" if with_pixel else "without"
        yield from against_oracle(f"FWHM 2, sampled {times} times, {kind} pixel", render, psf, quick, 1e-4)

    stamp = Moffat(3.5, 3.5).stamp((101, 101))
    for name, kernel in (("PSF", stamp), ("no PSF", None)):
        single, double = renderer(kernel, torch.float32), renderer(kernel)
        errors = {
            describe(source): error(single(light(source)).numpy(), double(light(source)).numpy())
            for source in sources(quick)
        }
        yield summary(f"float32 against float64, {name}", errors, 1e-5)
    yield from transforms()


def transforms() -> Iterator[Row]:
    kappa = np.geomspace(1e-3, 30.0, 25)
    hankel = {
        f"n={n:g} kappa={k:.3g}": abs(float(sersic_transform(np.array([k]), n)[0]) - hankel_transform(float(k), n))
        for n in (0.3, 0.5, 1.0, 2.5, 4.0, 6.0, 8.0)
        for k in (kappa if n <= 4 else kappa[::4])
    }
    yield summary("exact transform against quadrature (absolute)", hankel, 1e-10)
    k = np.geomspace(1e-4, 300.0, 200)
    scale = gammaincinv(2.0, 0.5)
    closed = {
        "n=0.5": np.abs(sersic_transform(k, 0.5) - np.exp(-(k**2) / (4 * np.log(2)))).max(),
        "n=1": np.abs(sersic_transform(k, 1.0) - (1 + (k / scale) ** 2) ** -1.5).max(),
    }
    yield summary("exact transform against closed forms (absolute)", closed, 1e-10)
    k = np.concatenate([[1e-6], np.geomspace(1e-4, 1e4, 3000)])
    table = sersic_table()
    tabulated = {}
    for n in np.concatenate([np.geomspace(0.25, 10.0, 60), [0.3, 0.5, 1.0, 2.5, 4.0, 6.0, 8.0]]):
        t = torch.from_numpy(np.log1p((k / 1e-3) ** 2))[None, :]
        found = look_up(table, t, torch.log(torch.tensor(n)))
        tabulated[f"n={n:.3g}"] = float(np.abs(found[0].numpy() - sersic_transform(k, float(n))).max())
    yield summary("tabulated transform against exact (absolute)", tabulated, 5e-7)


def as_markdown(rows: list[Row]) -> str:
    lines = [
        "| images | cases | by GalSim | median error | worst error | bound | worst case |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.group} | {row.cases} | {row.by_galsim} | {row.median:.1e} | {row.worst:.1e}"
        f"{'' if row.holds else ' **above**'} | {row.bound:.0e} | {row.worst_case} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the table there, as markdown or (.json) as JSON")
    parser.add_argument("--quick", action="store_true", help="a seventh of the cases")
    options = parser.parse_args()
    start, rows = time.perf_counter(), []
    for row in measure(options.quick):
        rows.append(row)
        print(f"{row.group}: worst {row.worst:.1e} ({row.worst_case}), bound {row.bound:.0e}", flush=True)
    table = as_markdown(rows)
    print(f"\n{table}\n{time.perf_counter() - start:.0f} s")
    if options.out is not None:
        as_json = options.out.suffix == ".json"
        found = [{**asdict(row), "holds": row.holds} for row in rows]
        options.out.write_text(json.dumps(found, indent=2) + "\n" if as_json else table)
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
