"""Rays and wedges: free profiles that differ with the angle, against numpy and quadrature, a spline, and symmetries."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from oracles import Contoured, Moffat, blurred, error, integrated
from scipy.interpolate import CubicSpline
from scipy.special import erf
from torch.autograd import gradcheck

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.rendering import Renderer, renderer_for

SHAPE = (41, 52)
CENTRE = (25.37, 18.82)
THETA = 0.7
PSF = Moffat(3.0, 3.5)
KNOTS = np.array([0.6, 1.5, 3.0, 5.0, 8.0, 12.0])
LEVELS = np.array([40.0, 25.0, 12.0, 5.0, 1.2, 0.15])


class Case(NamedTuple):
    """A light, how many profiles it has, whether they are symmetric, and the axis ratio."""

    light: Any
    count: int
    symmetric: bool
    q: float

    @property
    def values(self) -> np.ndarray:
        """Brightness at the knots, which scatters by 0.4 in its logarithm."""
        return LEVELS * np.exp(np.random.default_rng(self.count).normal(0.0, 0.4, (self.count, len(KNOTS))))

    def source(self, x: Any = CENTRE[0], y: Any = CENTRE[1]) -> Any:
        return self.light(x, y, self.values, KNOTS, symmetric=self.symmetric, q=self.q, theta=THETA)


CASES = {
    "five rays": Case(models.Rays, 5, False, 1.0),
    "eight rays": Case(models.Rays, 8, False, 0.5),
    "symmetric rays": Case(models.Rays, 4, True, 0.3),
    "four wedges": Case(models.Wedges, 4, False, 0.6),
    "seven wedges": Case(models.Wedges, 7, False, 1.0),
    "symmetric wedges": Case(models.Wedges, 3, True, 0.6),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def weights(case: Case, phi: np.ndarray) -> np.ndarray:
    """Part of each profile, shape ``phi.shape + (count,)``: rays by trigonometric interpolation as the solution of
    linear equations, wedges by their two edges and those a turn away.
    """
    turns, count = 1 + case.symmetric, case.count
    if case.light is models.Rays:

        def waves(angle: np.ndarray) -> np.ndarray:
            columns = [np.ones_like(angle)]
            for j in range(1, (count - 1) // 2 + 1):
                columns += [np.cos(j * turns * angle), np.sin(j * turns * angle)]
            return np.stack([*columns, *([np.cos(count // 2 * turns * angle)] if count % 2 == 0 else [])], axis=-1)

        return waves(phi) @ np.linalg.inv(waves(2 * np.pi * np.arange(count) / (turns * count)))
    width = 2 * np.pi / (turns * count)
    total = np.zeros((*phi.shape, count))
    for turn in (-1, 0, 1):
        away = phi[..., None] - width * np.arange(count) - 2 * np.pi * turn / turns
        total += 0.5 * erf((away + width / 2) / (0.1 * 2**0.5)) - 0.5 * erf((away - width / 2) / (0.1 * 2**0.5))
    return total


def reference(case: Case) -> Contoured:
    at, fall = 0.5 * np.log(KNOTS**2 + KNOTS[0] ** 2), (KNOTS / (2 * KNOTS[-1])) ** 4
    curves = [CubicSpline(at, np.log(values) + fall, bc_type="natural") for values in case.values]

    def surface(dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        cos, sin = math.cos(THETA), math.sin(THETA)
        along, across = dx * cos + dy * sin, (dy * cos - dx * sin) / case.q
        r, phi = np.hypot(along, across), np.arctan2(across, along) + THETA
        t = 0.5 * np.log(r**2 + KNOTS[0] ** 2)
        near = np.clip(t, at[0], at[-1])
        profiles = np.stack([curve(near) + (t - near) * curve(near, 1) for curve in curves], axis=-1)
        mean = profiles.mean(-1)
        blended = (weights(case, np.remainder(phi + np.pi, 2 * np.pi) - np.pi) * profiles).sum(-1)
        fade = 1 - (1 - np.minimum(r / KNOTS[0], 1) ** 2) ** 3
        return np.exp(mean + fade * (blended - mean) - (r / (2 * KNOTS[-1])) ** 4)

    return Contoured(*CENTRE, 0.5 * case.q, surface)


@pytest.fixture(scope="module")
def seeing() -> Renderer:
    return renderer_for(bp.Image(np.zeros(SHAPE), psf=PSF.stamp((81, 81))))


@pytest.fixture(scope="module")
def pixels() -> Renderer:
    return renderer_for(bp.Image(np.zeros(SHAPE)))


# -- against references


@each_case
def test_brightness_is_the_formula(case):
    dy, dx = np.mgrid[-18:19:0.7, -25:26:0.7] + 0.013
    found = case.source().brightness_at(torch.from_numpy(dx), torch.from_numpy(dy))
    np.testing.assert_allclose(found, reference(case).brightness(dx, dy), rtol=2e-6)  # what wedges a turn away leave


@each_case
def test_image_with_a_psf_agrees_with_integration_on_finer_cells(case, seeing):
    assert error(seeing(case.source()), blurred(reference(case), PSF, SHAPE)) < 1e-4


@each_case
def test_image_without_a_psf_agrees_with_quadrature(case, pixels):
    bound = 2e-4 if case.light is models.Rays else 1e-3
    assert error(pixels(case.source()), integrated(reference(case), SHAPE, order=8)) < bound


@each_case
def test_flux_is_the_integral_of_the_brightness(case):
    nodes, node_weights = np.polynomial.legendre.leggauss(40)
    edges = np.concatenate([[0.0], KNOTS, [24.0, 40.0, 60.0]])
    half, middle = 0.5 * np.diff(edges)[:, None], 0.5 * (edges[1:] + edges[:-1])[:, None]
    r, weight = (middle + half * nodes).ravel(), (half * node_weights).ravel()
    phi = 2 * np.pi * np.arange(2000) / 2000
    along, across = r[:, None] * np.cos(phi), case.q * r[:, None] * np.sin(phi)
    cos, sin = math.cos(THETA), math.sin(THETA)
    light = reference(case).brightness(along * cos - across * sin, along * sin + across * cos).mean(1)
    expected = 2 * np.pi * case.q * float((light * r) @ weight)
    assert float(case.source().flux) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("light", [models.Rays, models.Wedges])
@pytest.mark.parametrize("symmetric", [False, True])
def test_equal_profiles_are_a_spline(light, symmetric, seeing, pixels):
    shape = {"q": 0.6, "theta": THETA}
    plain = models.Spline(*CENTRE, LEVELS, KNOTS, **shape)
    found = light(*CENTRE, np.tile(LEVELS, (5, 1)), KNOTS, symmetric=symmetric, **shape)
    assert float(found.flux) == pytest.approx(float(plain.flux), rel=1e-6)
    assert error(seeing(found), seeing(plain).numpy()) < 2e-5
    assert error(pixels(found), pixels(plain).numpy()) < 2e-5


def test_each_ray_is_the_spline_through_its_values(seeing):
    rays = models.Rays(0.0, 0.0, CASES["eight rays"].values, KNOTS)
    radius = torch.linspace(KNOTS[0], 30.0, 200, dtype=torch.float64)[None]
    for k, values in enumerate(CASES["eight rays"].values):
        angle = 2 * math.pi * k / 8
        along = rays.brightness_at(radius * math.cos(angle), radius * math.sin(angle))
        plain = models.Spline(0.0, 0.0, values, KNOTS).brightness_at(radius, torch.zeros_like(radius))
        torch.testing.assert_close(along, plain, rtol=2e-6, atol=0)


@pytest.mark.parametrize("light", [models.Rays, models.Wedges])
def test_centre_has_one_brightness(light):
    angle = torch.linspace(0, 2 * math.pi, 90, dtype=torch.float64)[None]
    source = light(0.0, 0.0, CASES["eight rays"].values, KNOTS)
    around = source.brightness_at(1e-6 * torch.cos(angle), 1e-6 * torch.sin(angle))
    torch.testing.assert_close(around, around[:, :1].expand_as(around), rtol=1e-10, atol=0)
    farther = source.brightness_at(0.5 * torch.cos(angle), 0.5 * torch.sin(angle))
    assert float(farther.max() / farther.min()) > 1.2


# -- symmetries


def turned(image: torch.Tensor) -> torch.Tensor:
    return image.flip((-1, -2))


@pytest.mark.parametrize("light", [models.Rays, models.Wedges])
def test_half_a_turn_changes_only_what_is_not_symmetric(light, seeing):
    middle = (0.5 * (SHAPE[1] - 1), 0.5 * (SHAPE[0] - 1))
    values = CASES["four wedges"].values
    symmetric = seeing(light(*middle, values, KNOTS, symmetric=True, q=0.6, theta=THETA))
    torch.testing.assert_close(turned(symmetric), symmetric, rtol=0, atol=2e-6 * float(symmetric.norm()))
    lopsided = seeing(light(*middle, values, KNOTS, q=0.6, theta=THETA))
    assert error(turned(lopsided), lopsided.numpy()) > 0.1


@pytest.mark.parametrize("light", [models.Rays, models.Wedges])
def test_symmetric_profiles_are_twice_as_many_of_which_opposite_ones_are_equal(light, seeing):
    """Of rays as well: what repeats after half a turn has the even waves alone."""
    values = CASES["four wedges"].values
    half = seeing(light(*CENTRE, values, KNOTS, symmetric=True, q=0.6, theta=THETA))
    whole = seeing(light(*CENTRE, np.tile(values, (2, 1)), KNOTS, q=0.6, theta=THETA))
    assert error(half, whole.numpy()) < 1e-5


@pytest.mark.parametrize("light", [models.Rays, models.Wedges])
def test_next_profile_is_a_turn_of_the_image_counter_clockwise(light):
    render = renderer_for(bp.Image(np.zeros((41, 41)), psf=PSF.stamp((61, 61))))
    values = CASES["four wedges"].values
    first, second = (render(light(20.0, 20.0, np.roll(values, by, axis=0), KNOTS)) for by in (0, 1))
    # a quarter of a turn takes +x to +y; with y upwards in the array's rows
    torch.testing.assert_close(second, first.T.flip(1), rtol=0, atol=2e-6 * float(first.norm()))


# -- derivatives, fits


@pytest.mark.parametrize(("light", "symmetric"), [(models.Rays, False), (models.Wedges, True)])
@pytest.mark.parametrize("kernel", [PSF.stamp((11, 13)), None], ids=["PSF", "no PSF"])
def test_gradients_are_those_of_differences(light, symmetric, kernel):
    render = renderer_for(bp.Image(np.zeros((14, 19)), psf=kernel))

    def image(x: Any, y: Any, surface_brightness: Any, ellipticity: Any) -> torch.Tensor:
        return render(light(x, y, surface_brightness, KNOTS, symmetric=symmetric, ellipticity=ellipticity))

    values = (9.3, 6.2, CASES["four wedges"].values, [0.2, -0.1])
    point = [torch.as_tensor(value, dtype=torch.float64).requires_grad_() for value in values]
    assert gradcheck(image, point, atol=1e-5, fast_mode=True)
    if kernel is not None:
        forwards = torch.func.jacfwd(image, (0, 2))(*(value.detach() for value in point))
        backwards = torch.autograd.functional.jacobian(image, tuple(point))
        for forward, backward in zip(forwards, (backwards[0], backwards[2]), strict=True):
            torch.testing.assert_close(forward, backward, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("component", [models.rays, models.wedges])
@pytest.mark.slow
def test_default_priors_find_a_lopsided_disk(component, simulated):
    """Of a light that isn't one of them: an exponential disk with a wave of 0.3 once around."""
    disk = models.Exponential(17.3, 11.8, 3000.0, 4.0, q=0.7, theta=THETA)
    lopsided = models.Shaped(disk, [models.FourierModes((1,), [[-0.25, 0.0]])])
    image = simulated(lopsided, sigma=1.0)
    held = {"x": 17.3, "y": 11.8, "q": 0.7, "theta": THETA}
    fit = inference.lm(bp.Scene(image, sky=models.flat_sky(level=0.0), galaxy=component(6, **held)))
    assert fit.converged, fit.message
    assert fit.chi2 < image.data.numel() + 4 * math.sqrt(2 * image.data.numel())
    brightness = fit.params["galaxy.surface_brightness"]
    assert brightness.shape == (6, 8)
    inside = slice(3, 6)  # knots that the data see well
    assert (brightness[0, inside] > 1.3 * brightness[3, inside]).all()
    plain = inference.lm(bp.Scene(image, sky=models.flat_sky(level=0.0), galaxy=models.spline(**held)))
    assert plain.chi2 > 2 * fit.chi2
