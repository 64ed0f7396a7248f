"""The triaxial Gaussian: against its density summed along the line of sight, GalSim and its symmetries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from oracles import Moffat, error
from scipy.spatial.transform import Rotation
from torch.autograd import gradcheck, gradgradcheck

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.rendering import Renderer, renderer_for

SHAPE = (60, 85)
CENTRE = (44.37, 27.82)
PSF = Moffat(3.5, 3.5)

# sigma, b / a, c / b, theta, cosine of the inclination, azimuth
ELLIPSOIDS = [
    (4.0, 0.8, 0.5, 0.4, 0.3, 0.7),
    (6.0, 0.4, 0.9, 2.3, 0.8, -1.2),
    (2.0, 1.0, 0.3, 1.1, 0.1, 0.0),
    (5.0, 0.3, 1.0, -0.5, 0.0, 0.5),
    (3.0, 0.7, 0.7, 0.2, 1.0, 0.6),
]
each_ellipsoid = pytest.mark.parametrize("values", ELLIPSOIDS)


def renderer(psf: np.ndarray | None, shape: tuple[int, int] = SHAPE, **options: Any) -> Renderer:
    return renderer_for(bp.Image(np.zeros(shape), psf=psf, **options))


def covariance(sigma, b_to_a, c_to_b, theta, cosine, azimuth) -> np.ndarray:
    """In space, by SciPy's Euler angles."""
    turn = Rotation.from_euler("ZXZ", [theta, math.acos(cosine), azimuth]).as_matrix()
    axes = sigma * np.array([1.0, b_to_a, b_to_a * c_to_b])
    return turn @ np.diag(axes**2) @ turn.T


@each_ellipsoid
def test_brightness_is_the_density_summed_along_the_line_of_sight(values):
    matrix = covariance(*values)
    inverse = np.linalg.inv(matrix)
    dy, dx = np.mgrid[-6:7:2, -8:9:2] + 0.3
    # the density is a Gaussian in z, narrower than sigma: the trapezoid rule is exact to all digits
    z = np.linspace(-10, 10, 4001) * values[0]
    places = np.stack(np.broadcast_arrays(dx[..., None], dy[..., None], z), axis=-1)
    density = np.exp(-0.5 * np.einsum("...i,ij,...j", places, inverse, places))
    norm = math.sqrt((2 * math.pi) ** 3 * np.linalg.det(matrix))
    found = models.GaussianEllipsoid(0.0, 0.0, 7.0, *values).brightness_at(torch.from_numpy(dx), torch.from_numpy(dy))
    np.testing.assert_allclose(found, 7.0 * density.sum(-1) * (z[1] - z[0]) / norm, rtol=1e-9, atol=1e-30)


@each_ellipsoid
@pytest.mark.parametrize("psf", [PSF, None], ids=["PSF", "no PSF"])
def test_image_agrees_with_galsim(values, psf):
    galsim = pytest.importorskip("galsim")
    settings = galsim.GSParams(folding_threshold=1e-5, maxk_threshold=1e-6, kvalue_accuracy=1e-8, maximum_fft_size=8192)
    on_sky = np.linalg.eigh(covariance(*values)[:2, :2])
    minor, major = np.sqrt(on_sky.eigenvalues)
    angle = math.atan2(on_sky.eigenvectors[1, 1], on_sky.eigenvectors[0, 1])
    light = galsim.Gaussian(sigma=math.sqrt(major * minor), gsparams=settings)
    parts = [light.shear(q=minor / major, beta=angle * galsim.radians), galsim.Pixel(1.0, gsparams=settings)]
    if psf is not None:
        parts.append(galsim.Moffat(psf.beta, fwhm=psf.fwhm, gsparams=settings))
    offset = (CENTRE[0] - (SHAPE[1] - 1) / 2, CENTRE[1] - (SHAPE[0] - 1) / 2)
    scene = galsim.Convolve(parts, gsparams=settings)
    expected = scene.drawImage(nx=SHAPE[1], ny=SHAPE[0], scale=1.0, method="no_pixel", offset=offset, dtype=float).array
    render = renderer(None if psf is None else psf.stamp((61, 61)))
    assert error(render(models.GaussianEllipsoid(*CENTRE, 1.0, *values)), expected) < 1e-4


def test_mirror_images_along_the_line_of_sight_look_the_same():
    sigma, b_to_a, c_to_b, theta, cosine, azimuth = ELLIPSOIDS[0]
    beyond = covariance(sigma, b_to_a, c_to_b, theta, -cosine, -azimuth)[:2, :2]
    np.testing.assert_allclose(beyond, covariance(*ELLIPSOIDS[0])[:2, :2], atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("psf", [True, False], ids=["PSF", "no PSF"])
def test_derivatives_are_those_of_differences(psf):
    render = renderer(PSF.stamp((11, 13)) if psf else None, (14, 19))
    weights = torch.randn(3, 14, 19, dtype=torch.float64)

    def projections(*values: torch.Tensor) -> torch.Tensor:
        return (weights * render(models.GaussianEllipsoid(*values))).sum((-1, -2))

    values = (9.3, 6.2, 10.0, 2.5, 0.8, 0.6, 0.4, 0.5, 0.7)
    point = tuple(torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values)
    assert gradcheck(projections, point, atol=1e-6, check_forward_ad=True)
    assert gradgradcheck(projections, point, atol=1e-5, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("psf", [True, False], ids=["PSF", "no PSF"])
@pytest.mark.parametrize(
    "values",
    [
        (3.0, 1.0, 1.0, 0.0, 1.0, 0.0),  # a ball
        (3.0, 1.0, 1e-9, 0.3, 0.0, 0.0),  # a disc from the side
        (1e-3, 0.5, 0.5, 0.3, 0.5, 1.0),
        (1e3, 1e-9, 1.0, 0.3, 0.0, 1.5),
    ],
)
def test_image_and_gradient_are_finite_at_extremes(values, psf, dtype):
    render = renderer(PSF.stamp((11, 13)) if psf else None, (14, 19), dtype=dtype)
    point = [torch.tensor(value, dtype=dtype, requires_grad=True) for value in (9.0, 6.0, 10.0, *values)]
    image = render(models.GaussianEllipsoid(*point))
    assert bool(image.isfinite().all())
    for gradient in torch.autograd.grad(image.sum(), point):
        assert bool(gradient.isfinite().all())


def test_batch_of_parameters_gives_the_images_of_a_loop():
    render = renderer(PSF.stamp((11, 13)), (14, 19))
    batch = torch.tensor(ELLIPSOIDS, dtype=torch.float64).T
    each = torch.stack([render(models.GaussianEllipsoid(9.3, 6.2, 1.0, *values)) for values in ELLIPSOIDS])
    torch.testing.assert_close(render(models.GaussianEllipsoid(9.3, 6.2, 1.0, *batch)), each, rtol=1e-11, atol=1e-14)
    by_vmap = torch.func.vmap(lambda values: render(models.GaussianEllipsoid(9.3, 6.2, 1.0, *values)))(batch.T)
    torch.testing.assert_close(by_vmap, each, rtol=1e-11, atol=1e-14)


@pytest.mark.slow
def test_fit_finds_the_projection_whatever_the_ellipsoid(simulated):
    values = (3.0, 0.8, 0.5, 0.4, 0.4, 0.7)
    image = simulated(models.GaussianEllipsoid(17.3, 11.8, 2000.0, *values), sigma=0.3)
    scene = bp.Scene(image, sky=models.flat_sky(level=0.0), galaxy=models.gaussian_ellipsoid())
    fit = inference.lm(scene)
    assert fit.converged, fit.message
    names = ("sigma", "b_to_a", "c_to_b", "theta", "cos_inclination", "azimuth")
    found = covariance(*(float(fit.params[f"galaxy.{name}"]) for name in names))[:2, :2]
    # a covariance of 2000 / 0.3 / (2 sqrt(pi) 3) = 600 times the noise is known to a few thousandths
    np.testing.assert_allclose(found, covariance(*values)[:2, :2], rtol=0.03, atol=0.03)


def test_fit_recovers_an_ellipsoid_of_known_orientation(simulated):
    truth = {"sigma": 3.0, "b_to_a": 0.8, "c_to_b": 0.5, "theta": 0.4}
    known = {"cos_inclination": 0.4, "azimuth": 0.7}
    image = simulated(models.GaussianEllipsoid(17.3, 11.8, 2000.0, **truth, **known), sigma=0.3)
    galaxy = models.gaussian_ellipsoid(b_to_a=0.8, **known)
    fit = inference.lm(bp.Scene(image, sky=models.flat_sky(level=0.0), galaxy=galaxy))
    assert fit.converged, fit.message
    for name in ("sigma", "c_to_b", "theta"):
        assert abs(fit.params[f"galaxy.{name}"] - truth[name]) < 4 * fit.std[f"galaxy.{name}"], name
