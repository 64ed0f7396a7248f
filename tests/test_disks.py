"""Disks of finite thickness: against GalSim, quadrature and each other."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from oracles import Moffat, error
from scipy.integrate import quad
from scipy.special import k1

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.models.edge_on_disk import times_bessel
from bayesprof.models.vertical import isothermal_transform, vertical_brightness, vertical_transform
from bayesprof.rendering import Renderer, renderer_for

SHAPE = (60, 85)
CENTRE = (44.37, 27.82)
PSF = Moffat(3.5, 3.5)

# scale length, thickness, cosine of the inclination, angle
DISKS = [
    (4.0, 0.14, 0.3, 2.3),
    (4.0, 0.14, 1.0, 0.4),
    (1.5, 0.2, 0.5, 0.4),
    (6.0, 0.3, 0.1, 1.2),
    (6.0, 0.08, 0.05, 0.4),
]
EDGE_ON = [(4.0, 0.25, 2.3), (6.0, 0.08, 0.0), (2.0, 0.5, 0.4)]


def double(value: Any) -> torch.Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


def renderer(psf: Moffat | None) -> Renderer:
    return renderer_for(bp.Image(np.zeros(SHAPE), psf=None if psf is None else psf.stamp((61, 61))))


def galsim_image(length: float, thickness: float, cosine: float, theta: float, psf: Moffat | None) -> np.ndarray:
    galsim = pytest.importorskip("galsim")
    settings = galsim.GSParams(
        folding_threshold=1e-5, maxk_threshold=1e-5 if psf else 1e-6, kvalue_accuracy=1e-8, maximum_fft_size=16384
    )
    # its sech^2(z / scale_height) is ours of half the scale height
    disk = galsim.InclinedExponential(
        math.acos(cosine) * galsim.radians, scale_radius=length, scale_height=2 * length * thickness, gsparams=settings
    )
    parts = [disk.rotate(theta * galsim.radians), galsim.Pixel(1.0, gsparams=settings)]
    if psf is not None:
        parts.append(galsim.Moffat(psf.beta, fwhm=psf.fwhm, gsparams=settings))
    offset = (CENTRE[0] - (SHAPE[1] - 1) / 2, CENTRE[1] - (SHAPE[0] - 1) / 2)
    scene = galsim.Convolve(parts, gsparams=settings)
    return scene.drawImage(nx=SHAPE[1], ny=SHAPE[0], scale=1.0, method="no_pixel", offset=offset, dtype=float).array


# -- images


@pytest.mark.parametrize("psf", [PSF, None], ids=["PSF", "no PSF"])
@pytest.mark.parametrize("disk", DISKS)
def test_inclined_disk_agrees_with_galsim(disk, psf):
    image = renderer(psf)(models.InclinedDisk(*CENTRE, 1.0, *disk))
    assert error(image, galsim_image(*disk, psf)) < 1e-4


@pytest.mark.parametrize("psf", [PSF, None], ids=["PSF", "no PSF"])
@pytest.mark.parametrize(("length", "thickness", "theta"), EDGE_ON)
def test_isothermal_edge_on_disk_agrees_with_galsim(length, thickness, theta, psf):
    image = renderer(psf)(models.EdgeOnDisk(*CENTRE, 1.0, length, thickness, 2.0, theta))
    assert error(image, galsim_image(length, thickness, 0.0, theta, psf)) < 1e-4


@pytest.mark.parametrize(("power", "scale_height"), [(2.0, 0.5), (1.0, 1.0), (0.3, 1.0)])
@pytest.mark.parametrize("theta", [0.0, 0.4, 1.5])
def test_edge_on_disk_is_its_formula_integrated_over_pixels(power, scale_height, theta):
    length = 6.0
    norm = math.gamma(1 + power) / (2 ** (1 + power) * scale_height * math.gamma(1 + power / 2) ** 2)
    nodes, weights = np.polynomial.legendre.leggauss(32)
    expected = np.zeros(SHAPE)
    for a, weight_a in zip(nodes, weights, strict=True):
        for b, weight_b in zip(nodes, weights, strict=True):
            dx = np.arange(SHAPE[1])[None, :] - CENTRE[0] + 0.5 * a
            dy = np.arange(SHAPE[0])[:, None] - CENTRE[1] + 0.5 * b
            d = np.abs(dx * math.cos(theta) + dy * math.sin(theta)) / length
            z = np.abs(dy * math.cos(theta) - dx * math.sin(theta))
            vertical = norm * np.cosh(np.minimum(z / (power * scale_height), 300)) ** -power
            expected += 0.25 * weight_a * weight_b * d * k1(d) / (math.pi * length) * vertical
    image = renderer(None)(models.EdgeOnDisk(*CENTRE, 1.0, length, scale_height / length, power, theta))
    assert error(image, expected) < 1e-5


@pytest.mark.parametrize("light", ["edge-on", "inclined"])
@pytest.mark.parametrize(("length", "theta"), [(4.0, 2.3), (12.0, 0.4)])
def test_image_is_a_part_of_a_larger_one(light, length, theta):
    """Nothing comes back over the edges of the periodic transform. (At a scale length of 20 pixels 2e-4 does: the
    copies of so long and thin a disk are narrow for the 16 nodes on which they are taken off.)
    """
    kind, last = (models.EdgeOnDisk, 0.7) if light == "edge-on" else (models.InclinedDisk, 0.3)
    psf = PSF.stamp((61, 61))
    ny, nx = SHAPE
    image = renderer_for(bp.Image(np.zeros(SHAPE), psf=psf))(kind(*CENTRE, 1.0, length, 0.2, last, theta))
    large = renderer_for(bp.Image(np.zeros((5 * ny, 5 * nx)), psf=psf))
    whole = large(kind(CENTRE[0] + 2 * nx, CENTRE[1] + 2 * ny, 1.0, length, 0.2, last, theta))
    assert error(image, whole[2 * ny : 3 * ny, 2 * nx : 3 * nx].numpy()) < 1e-4


@pytest.mark.parametrize("psf", [PSF, None], ids=["PSF", "no PSF"])
def test_inclined_disk_goes_over_into_the_exponential_and_the_edge_on_one(psf):
    render = renderer(psf)
    face_on = render(models.InclinedDisk(*CENTRE, 1.0, 4.0, 0.2, 1.0, 0.3))
    assert error(face_on, render(models.Exponential(*CENTRE, 1.0, 4.0 * 1.6783469900166605)).numpy()) < 5e-5
    from_the_side = render(models.InclinedDisk(*CENTRE, 1.0, 4.0, 0.2, 0.0, 0.3))
    assert error(from_the_side, render(models.EdgeOnDisk(*CENTRE, 1.0, 4.0, 0.2, 2.0, 0.3)).numpy()) < 5e-5


# -- formulas


@pytest.mark.parametrize("power", [0.0, 0.2, 1.0, 1.7, 2.0])
def test_vertical_transform_is_that_of_the_brightness(power):
    height = 1.3

    def brightness(z: float) -> float:
        return float(vertical_brightness(double(z), double(height), double(power)))

    assert 2 * quad(brightness, 0, 60, epsabs=1e-12, limit=400)[0] == pytest.approx(1.0, abs=1e-9)
    for k in (0.05, 0.7, 3.0):
        found = float(vertical_transform(double((k * height) ** 2), double(power)))
        cosine = 2 * quad(brightness, 0, 60, weight="cos", wvar=k, epsabs=1e-12, limit=400)[0]
        assert found == pytest.approx(cosine, abs=1e-9)


def test_vertical_transform_has_its_limits():
    u = torch.logspace(-6, 2, 200, dtype=torch.float64)
    isothermal = vertical_transform(u**2, double(2.0))
    exact = math.pi * u / torch.sinh(math.pi * u)
    torch.testing.assert_close(isothermal, exact, rtol=1e-8, atol=1e-14)
    torch.testing.assert_close(isothermal_transform(u**2), exact, rtol=1e-12, atol=1e-200)
    torch.testing.assert_close(vertical_transform(u**2, double(0.0)), 1 / (1 + u**2))
    half = vertical_transform(u**2, double(1.0))  # sech is its own transform
    torch.testing.assert_close(half, 1 / torch.cosh(0.5 * math.pi * u), rtol=1e-8, atol=1e-14)


def test_bessel_function_agrees_with_scipy():
    d = np.concatenate([np.geomspace(1e-8, 100, 400), [2.0 - 1e-12, 2.0, 2.0 + 1e-12]])
    np.testing.assert_allclose(times_bessel(double(d**2)), d * k1(d), rtol=1e-12)
    assert float(times_bessel(double(0.0))) == 1.0


@pytest.mark.parametrize("cosine", [0.999, 0.5, 0.05])
@pytest.mark.parametrize(
    ("along", "across"), [(0.0, 0.0), (3.0, 0.0), (0.0, 2.0), (10.0, 3.0), (2.0, 15.0), (50.0, 50.0)]
)
def test_brightness_of_an_inclined_disk_is_the_integral_along_the_line_of_sight(along, across, cosine):
    length, height = 6.0, 0.84
    sine = math.sqrt(1 - cosine**2)

    def density(s: float) -> float:
        z = across * sine + s * cosine
        radius = math.hypot(along, across * cosine - s * sine)
        vertical = np.cosh(min(abs(z) / (2 * height), 300)) ** -2 / (4 * height)
        return math.exp(-radius / length) / (2 * math.pi * length**2) * vertical

    first, last = sorted([across * cosine / sine, -across * sine / cosine])
    reach = 1 / (sine / length + cosine / height)
    edges = [first - 60 * reach, first - 5 * reach, *np.linspace(first, last, 12), last + 5 * reach, last + 60 * reach]
    pieces = pairwise(edges)
    expected = sum(quad(density, a, b, epsabs=1e-15, epsrel=1e-9, limit=400)[0] for a, b in pieces)
    disk = models.InclinedDisk(0.0, 0.0, 1.0, length, height / length, cosine, 0.0)
    offsets = double([[along]]), double([[across]])
    assert float(disk.brightness_at(*offsets)) == pytest.approx(expected, rel=1e-4)
    assert float(disk.distant_brightness_at(*offsets)) == pytest.approx(expected, rel=3e-2)


# -- derivatives, batches, precision


def rendered(dtype: torch.dtype = torch.float64) -> list[Any]:
    """What is differentiated: an image with a PSF, and the surface brightness, the centre included."""
    with_psf = renderer_for(bp.Image(np.zeros((10, 13)), psf=Moffat(3.0, 3.0).stamp((9, 9)), dtype=dtype))
    dx, dy = torch.arange(-2, 3, dtype=dtype)[None, :], torch.arange(-1, 3, dtype=dtype)[:, None]
    return [with_psf, lambda disk: disk.brightness_at(dx, dy)]


@pytest.mark.parametrize("kind", [models.EdgeOnDisk, models.InclinedDisk])
@pytest.mark.parametrize("place", [0, 1], ids=["PSF", "brightness"])
def test_gradients_are_those_of_differences(kind, place):
    render = rendered()[place]

    def image(*shape: torch.Tensor) -> torch.Tensor:
        return render(kind(6.3, 4.2, 10.0, *shape))

    point = [double(value).requires_grad_() for value in (2.2, 0.4, 0.6, 0.5)]
    assert torch.autograd.gradcheck(image, point, atol=1e-5)


@pytest.mark.parametrize("kind", [models.EdgeOnDisk, models.InclinedDisk])
@pytest.mark.parametrize("last", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("place", [0, 1], ids=["PSF", "brightness"])
def test_derivatives_are_finite_at_the_ends_of_the_range(kind, last, dtype, place):
    """First and second ones, with the centre of the disk in the centre of a pixel."""
    point = torch.tensor([6.0, 4.0, 2.2, 0.3, last, 0.0], dtype=dtype)
    render = rendered(dtype)[place]

    def brightness(at: torch.Tensor) -> torch.Tensor:
        return (render(kind(at[0], at[1], 10.0, *at[2:])) ** 2).sum()

    assert bool(torch.func.grad(brightness)(point).isfinite().all())
    assert bool(torch.func.hessian(brightness)(point).isfinite().all())


@pytest.mark.parametrize("kind", [models.EdgeOnDisk, models.InclinedDisk])
def test_a_batch_gives_the_images_of_its_members(kind):
    render = renderer(PSF)
    batch = torch.tensor([[40.0, 20.0, 1.0, 3.0, 0.2, 0.7, 0.4], [50.0, 31.0, 2.0, 5.0, 0.1, 0.2, 2.0]]).double()
    single = torch.stack([render(kind(*row)) for row in batch])
    torch.testing.assert_close(render(kind(*batch.unbind(-1))), single)
    torch.testing.assert_close(torch.func.vmap(lambda row: render(kind(*row)))(batch), single)


@pytest.mark.parametrize("kind", [models.EdgeOnDisk, models.InclinedDisk])
def test_float32_images_are_those_of_float64(kind):
    disk = kind(*CENTRE, 1.0, 5.0, 0.15, 0.4, 0.7)
    single = renderer_for(bp.Image(np.zeros(SHAPE), psf=PSF.stamp((31, 31)), dtype=torch.float32))(disk)
    assert single.dtype == torch.float32
    whole = renderer_for(bp.Image(np.zeros(SHAPE), psf=PSF.stamp((31, 31))))(disk)
    assert error(single, whole.numpy()) < 1e-5


# -- fits


@pytest.mark.parametrize(
    ("component", "light", "values"),
    [
        (models.edge_on_disk, models.EdgeOnDisk, {"thickness": 0.3, "sech_power": 1.2}),
        (models.inclined_disk, models.InclinedDisk, {"thickness": 0.2, "cos_inclination": 0.35}),
    ],
    ids=["edge_on_disk", "inclined_disk"],
)
def test_fit_recovers_what_was_simulated(component, light, values):
    values = {"x": CENTRE[0], "y": CENTRE[1], "flux": 30_000.0, "scale_length": 8.0, **values, "theta": 0.5}
    truth = renderer(PSF)(light(**values)).numpy()
    image = bp.Image(truth + np.random.default_rng(2).normal(0, 1, SHAPE), sigma=1.0, psf=PSF.stamp((61, 61)))
    fit = inference.lm(bp.Scene(image, disk=component()))
    assert fit.converged, fit.message
    assert fit.chi2 == pytest.approx(fit.dof, abs=4 * math.sqrt(2 * fit.dof))
    for name, value in values.items():
        assert abs(fit.params[f"disk.{name}"] - value) < 4 * fit.std[f"disk.{name}"], name
    height = values["scale_length"] * values["thickness"]
    assert abs(fit.params["disk.scale_height"] - height) < 4 * fit.std["disk.scale_height"]
