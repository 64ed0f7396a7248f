"""Radial profiles other than Sersic's: against GalSim, quadrature and their definitions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from oracles import Moffat
from scipy.integrate import quad
from scipy.special import j0, jn_zeros

import bayesprof as bp
from bayesprof import models
from bayesprof.models.moffat import BETA_RANGE, moffat_transform
from bayesprof.rendering import Renderer, renderer_for

SHAPE = (60, 85)
CENTRE = (44.37, 27.82)
PSF = Moffat(3.5, 3.5)

Profile = tuple[type, tuple[float, ...]]  # a light, and its shape parameters
PROFILES = {
    "gaussian": (models.Gaussian, ()),
    "moffat 1.3": (models.Moffat, (1.3,)),
    "moffat 2.5": (models.Moffat, (2.5,)),
    "moffat 4.765": (models.Moffat, (4.765,)),
    "moffat 20": (models.Moffat, (20.0,)),
}
each_profile = pytest.mark.parametrize("kind", PROFILES)
# GalSim would transform so heavy a tail on a grid of 1e8 pixels or more a side
in_galsim = pytest.mark.parametrize("kind", [kind for kind in PROFILES if kind != "moffat 1.3"])


def light(kind: str, x: Any, y: Any, flux: Any, r_eff: Any, **shape: Any) -> Any:
    profile, parameters = PROFILES[kind]
    return profile(x, y, flux, r_eff, *parameters, **shape)


def renderer(psf: np.ndarray | None) -> Renderer:
    return renderer_for(bp.Image(np.zeros(SHAPE), psf=psf))


def error(image: torch.Tensor, reference: np.ndarray) -> float:
    return float(np.linalg.norm(image.numpy() - reference) / np.linalg.norm(reference))


def galsim_image(kind: str, r_eff: float, q: float, theta: float, psf: Moffat | None) -> np.ndarray:
    galsim = pytest.importorskip("galsim")
    settings = galsim.GSParams(
        folding_threshold=1e-5, maxk_threshold=1e-5 if psf else 1e-6, kvalue_accuracy=1e-8, maximum_fft_size=16384
    )
    circular = r_eff * math.sqrt(q)
    if kind == "gaussian":
        source = galsim.Gaussian(half_light_radius=circular, gsparams=settings)
    else:
        source = galsim.Moffat(PROFILES[kind][1][0], half_light_radius=circular, gsparams=settings)
    parts = [source.shear(q=q, beta=theta * galsim.radians), galsim.Pixel(1.0, gsparams=settings)]
    if psf is not None:
        parts.append(galsim.Moffat(psf.beta, fwhm=psf.fwhm, gsparams=settings))
    offset = (CENTRE[0] - (SHAPE[1] - 1) / 2, CENTRE[1] - (SHAPE[0] - 1) / 2)
    scene = galsim.Convolve(parts, gsparams=settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error", galsim.errors.GalSimFFTSizeWarning)
        return scene.drawImage(nx=SHAPE[1], ny=SHAPE[0], scale=1.0, method="no_pixel", offset=offset, dtype=float).array


SOURCES = [(1.0, 0.6, 0.4), (3.0, 0.3, 2.3), (7.0, 1.0, 0.0)]


@in_galsim
@pytest.mark.parametrize(("r_eff", "q", "theta"), SOURCES)
def test_image_with_a_psf_agrees_with_galsim(kind, r_eff, q, theta):
    image = renderer(PSF.stamp((61, 61)))(light(kind, *CENTRE, 1.0, r_eff, q=q, theta=theta))
    assert error(image, galsim_image(kind, r_eff, q, theta, PSF)) < 1e-4


@in_galsim
@pytest.mark.parametrize(("r_eff", "q", "theta"), SOURCES)
def test_image_without_a_psf_agrees_with_galsim(kind, r_eff, q, theta):
    image = renderer(None)(light(kind, *CENTRE, 1.0, r_eff, q=q, theta=theta))
    assert error(image, galsim_image(kind, r_eff, q, theta, None)) < 1e-4


@each_profile
@pytest.mark.parametrize(("r_eff", "q", "theta"), [*SOURCES, (20.0, 0.6, 2.9)])
def test_image_is_a_part_of_a_larger_one(kind, r_eff, q, theta):
    """However far its light reaches: nothing comes back over the edges of the periodic transform."""
    psf = PSF.stamp((61, 61))
    shape = {"q": q, "theta": theta}
    ny, nx = SHAPE
    image = renderer(psf)(light(kind, *CENTRE, 1.0, r_eff, **shape))
    large = renderer_for(bp.Image(np.zeros((5 * ny, 5 * nx)), psf=psf))
    whole = large(light(kind, CENTRE[0] + 2 * nx, CENTRE[1] + 2 * ny, 1.0, r_eff, **shape))
    assert error(image, whole[2 * ny : 3 * ny, 2 * nx : 3 * nx].numpy()) < 1e-4


@each_profile
def test_half_of_the_light_is_within_r_eff_and_all_of_it_somewhere(kind):
    source = light(kind, 0.0, 0.0, 1.0, 1.0)

    def enclosed(radius: float) -> float:
        def ring(r: float) -> float:
            value = source.brightness(torch.tensor([[r**2]], dtype=torch.float64))
            return 2 * math.pi * r * float(value)

        return quad(ring, 0, radius, epsabs=1e-12, limit=200)[0]

    assert enclosed(1.0) == pytest.approx(0.5, abs=1e-9)
    if kind != "moffat 1.3":  # of which a hundredth lies beyond a thousand half-light radii
        assert enclosed(200.0) == pytest.approx(1.0, abs=1e-3)


@each_profile
@pytest.mark.parametrize("kappa", [0.01, 0.3, 1.0, 4.0])
def test_transform_is_that_of_the_brightness(kind, kappa):
    source = light(kind, 0.0, 0.0, 1.0, 1.0)

    def ring(r: float) -> float:
        value = source.brightness(torch.tensor([[r**2]], dtype=torch.float64))
        return 2 * math.pi * r * float(value) * j0(kappa * r)

    # half a period at a time; the alternating terms are averaged, as often as they are many (Euler)
    edges = np.concatenate([[0.0], jn_zeros(0, 60) / kappa])
    partial = np.cumsum([quad(ring, a, b, epsabs=1e-13)[0] for a, b in pairwise(edges)])
    for _ in range(len(partial) - 20):
        partial = 0.5 * (partial[1:] + partial[:-1])
    expected = source.transform(torch.tensor([[kappa**2]], dtype=torch.float64))
    assert float(expected) == pytest.approx(partial[-1], abs=1e-6)


def test_moffat_tends_to_the_exponential_transform_at_beta_three_halves():
    """K_1/2 is elementary: F = exp(-kappa alpha)."""
    kappa = np.geomspace(1e-4, 50.0, 40)
    np.testing.assert_allclose(moffat_transform(kappa, 1.5), np.exp(-kappa / math.sqrt(3)), rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("psf", [True, False], ids=["PSF", "no PSF"])
def test_moffat_gradients_are_those_of_differences(psf):
    render = renderer_for(bp.Image(np.zeros((14, 19)), psf=Moffat(3.0, 3.0).stamp((11, 13)) if psf else None))
    weights = torch.randn(5, 14, 19, dtype=torch.float64)  # a difference for each pixel would take a minute

    def image(r_eff: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        return (weights * render(models.Moffat(9.3, 6.2, 10.0, r_eff, beta, q=0.6, theta=0.4))).sum((-1, -2))

    point = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (2.2, 2.7)]
    assert torch.autograd.gradcheck(image, point, atol=1e-6)
    assert torch.autograd.gradgradcheck(image, point, atol=1e-5)


@pytest.mark.parametrize(("beta", "end"), [(1.01, 0), (50.0, 1)])
def test_beta_beyond_the_table_is_held_at_its_end(beta, end):
    kappa_squared = torch.tensor([[0.04, 1.0, 9.0]], dtype=torch.float64)
    outside, edge = (models.Moffat(0.0, 0.0, 1.0, 1.0, b) for b in (beta, BETA_RANGE[end]))
    for method in ("transform", "brightness"):
        torch.testing.assert_close(getattr(outside, method)(kappa_squared), getattr(edge, method)(kappa_squared))


def test_gaussian_is_a_sersic_profile_of_one_half():
    render: Callable[..., torch.Tensor] = renderer(PSF.stamp((61, 61)))
    shape = {"q": 0.5, "theta": 0.8}
    gaussian, sersic = models.Gaussian(*CENTRE, 5.0, 4.0, **shape), models.Sersic(*CENTRE, 5.0, 4.0, 0.5, **shape)
    assert error(render(gaussian), render(sersic).numpy()) < 1e-6
