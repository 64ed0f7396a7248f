"""Every component of the catalogue against an independent reference, through a PSF.

    python benchmarks/catalogue_accuracy.py

GalSim draws what it has, by its own transforms; of what astropy.modeling has, and of shapes, the brightness is summed
over cells of a fifth of a pixel, and other radial profiles are integrated from the formulas of their papers by dense
quadrature (with numpy and scipy alone, in tests/). 60x85 pixels, off-centre sources, a PSF of FWHM 3.5 pixels: a Moffat
function, or two of them, or Kolmogorov's, or that of an aperture. Prints the relative L2 error, the worst of the cases
of each row, and ends with code 1 where one is above 1e-4. The catalogue's Sersic profiles have a benchmark of their
own, accuracy.py.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import galsim
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import test_components as components
import test_formula_profiles as formulas
import test_shapes as shapes
from oracles import Contoured, Moffat, blurred, convolved, error

import bayesprof as bp
from bayesprof import models
from bayesprof.rendering import renderer_for

SHAPE, CENTRE = (60, 85), (44.37, 27.82)
BOUND = 1e-4
SETTINGS = galsim.GSParams(
    folding_threshold=1e-5, maxk_threshold=1e-5, kvalue_accuracy=1e-8, maximum_fft_size=16384, stepk_minimum_hlr=20
)
# the rings of an aperture fall so slowly that GalSim's transform would be too large
APERTURE = SETTINGS.withParams(folding_threshold=3e-4)
MOFFAT = Moffat(3.5, 3.5)
ELLIPSES = [(1.5, 0.6, 0.4), (3.0, 0.3, 2.3), (7.0, 1.0, 0.0)]  # r_eff along the major axis, q, theta


def by_galsim(source: Any, psf: Any) -> np.ndarray:
    parts = [source, psf, galsim.Pixel(1.0)]
    offset = (CENTRE[0] - (SHAPE[1] - 1) / 2, CENTRE[1] - (SHAPE[0] - 1) / 2)
    scene = galsim.Convolve(parts, gsparams=psf.gsparams)
    with warnings.catch_warnings():
        warnings.simplefilter("error", galsim.errors.GalSimFFTSizeWarning)
        return scene.drawImage(nx=SHAPE[1], ny=SHAPE[0], scale=1.0, method="no_pixel", offset=offset, dtype=float).array


def profiles() -> Iterator[tuple[str, Callable[[float], Any], Any, tuple[float, ...]]]:
    """Name, GalSim's profile of a circular half-light radius, and our light with its further parameters."""
    yield "exponential", lambda r: galsim.Exponential(half_light_radius=r, gsparams=SETTINGS), models.Exponential, ()
    yield (
        "de_vaucouleurs",
        lambda r: galsim.DeVaucouleurs(half_light_radius=r, gsparams=SETTINGS),
        models.DeVaucouleurs,
        (),
    )
    yield "gaussian", lambda r: galsim.Gaussian(half_light_radius=r, gsparams=SETTINGS), models.Gaussian, ()
    for n in (0.7, 2.5):
        yield "sersic", lambda r, n=n: galsim.Sersic(n, half_light_radius=r, gsparams=SETTINGS), models.Sersic, (n,)
    for beta in (2.5, 4.0):
        yield (
            "moffat",
            lambda r, beta=beta: galsim.Moffat(beta, half_light_radius=r, gsparams=SETTINGS),
            models.Moffat,
            (beta,),
        )
    for nu in (-0.4, 0.0, 1.7):
        yield (
            "spergel",
            lambda r, nu=nu: galsim.Spergel(nu, half_light_radius=r, gsparams=SETTINGS),
            models.Spergel,
            (nu,),
        )


def against_galsim() -> Iterator[tuple[str, str, float]]:
    """Component, reference and error of each case."""
    moffat = galsim.Moffat(MOFFAT.beta, fwhm=MOFFAT.fwhm, gsparams=SETTINGS)
    kolmogorov = galsim.Kolmogorov(fwhm=3.5, gsparams=SETTINGS)
    drawn = kolmogorov.drawImage(nx=241, ny=241, scale=0.5, method="no_pixel", dtype=float).array
    aperture = galsim.Airy(lam_over_diam=3.4, obscuration=0.2, gsparams=APERTURE)
    airy = models.AiryPSF(3.4, 0.2)
    wide = galsim.Moffat(2.5, fwhm=2 * MOFFAT.fwhm, gsparams=SETTINGS)
    double = models.DoubleMoffatPSF(MOFFAT.fwhm, MOFFAT.beta, 0.25, 2.0, 2.5)
    blank = np.zeros(SHAPE)
    stamp = bp.Image(blank, psf=drawn, psf_oversampling=2, psf_contains_pixel=False)
    # our PSF has all its light in the stamp
    seen = {
        "a double Moffat PSF": (
            renderer_for(bp.Image(blank), double),
            {"psf": double},
            0.75 * moffat + 0.25 * wide,
            1.0,
        ),
        "a Moffat PSF": (renderer_for(bp.Image(blank, psf=MOFFAT.stamp((61, 61)))), {}, moffat, 1.0),
        "Kolmogorov's": (renderer_for(stamp), {}, kolmogorov, float(drawn.sum())),
        "an aperture's": (renderer_for(bp.Image(blank), airy), {"psf": airy}, aperture, 1.0),
    }
    for how, (render, options, psf, light) in seen.items():
        for name, theirs, ours, further in profiles():
            for r_eff, q, theta in ELLIPSES:
                source = theirs(r_eff * math.sqrt(q)).shear(q=q, beta=theta * galsim.radians)
                image = render(ours(*CENTRE, light, r_eff, *further, q=q, theta=theta), **options)
                yield name, f"GalSim, {how}", error(image.numpy(), by_galsim(source, psf))
        for length, thickness, cosine, theta in ((3.0, 0.2, 0.5, 0.4), (5.0, 0.1, 0.2, 2.3), (4.0, 0.25, 0.0, 1.1)):
            # its sech^2(z / scale_height) is ours of half the scale height
            disk = galsim.InclinedExponential(
                math.acos(cosine) * galsim.radians,
                scale_radius=length,
                scale_height=2 * length * thickness,
                gsparams=SETTINGS,
            ).rotate(theta * galsim.radians)
            expected = by_galsim(disk, psf)
            image = render(models.InclinedDisk(*CENTRE, light, length, thickness, cosine, theta), **options)
            yield "inclined_disk", f"GalSim, {how}", error(image.numpy(), expected)
            if cosine == 0:
                image = render(models.EdgeOnDisk(*CENTRE, light, length, thickness, 2.0, theta), **options)
                yield "edge_on_disk", f"GalSim, {how}", error(image.numpy(), expected)


def against_astropy() -> Iterator[tuple[str, str, float]]:
    psf, shape = components.PSF, (41, 52)
    render = renderer_for(bp.Image(np.zeros(shape), psf=psf.stamp((61, 61))))
    for name, (source, brightness) in components.BY_ASTROPY.items():
        expected = blurred(Contoured(*components.CENTRE, components.Q, brightness), psf, shape)
        found = render(source).numpy()
        flux = (found * expected).sum() / (found**2).sum()
        yield name.split(",")[0], "astropy.modeling, a Moffat PSF", error(flux * found, expected)


def against_formulas() -> Iterator[tuple[str, str, float]]:
    render = renderer_for(bp.Image(np.zeros(formulas.SHAPE), psf=formulas.PSF.stamp((61, 61))))
    for name, case in formulas.CASES.items():
        reference = formulas.Reference(*formulas.CENTRE, 1.0, 1.0, 0.6, 0.4)
        object.__setattr__(reference, "case", case)
        source = case.source(*formulas.CENTRE, 1.0, q=0.6, theta=0.4)
        image = (render(source) / source.flux).numpy()
        expected = convolved(reference, formulas.PSF, formulas.SHAPE, period=384)
        yield name.split(",")[0], "quadrature of the formula", error(image, expected)


def against_contours() -> Iterator[tuple[str, str, float]]:
    render = renderer_for(bp.Image(np.zeros(shapes.SHAPE), psf=shapes.PSF.stamp((81, 81))))
    for kind in shapes.SHAPES:
        expected = blurred(shapes.reference(kind), shapes.PSF, shapes.SHAPE)
        yield f"shaped, {kind}", "cells of a fifth of a pixel", error(render(shapes.galaxy(kind)).numpy(), expected)


def main() -> int:
    worst: dict[tuple[str, str], list[float]] = {}
    for rows in (against_astropy(), against_galsim(), against_formulas(), against_contours()):
        for name, reference, found in rows:
            worst.setdefault((name, reference), []).append(found)
            print(f"{name}, {reference}: {found:.1e}", file=sys.stderr, flush=True)
    print("| component | against | cases | worst relative L2 error |\n|---|---|---|---|")
    for (name, reference), found in worst.items():
        print(f"| {name} | {reference} | {len(found)} | {max(found):.1e} |")
    return int(max(max(found) for found in worst.values()) > BOUND)


if __name__ == "__main__":
    sys.exit(main())
