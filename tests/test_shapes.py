"""Profiles whose contours aren't ellipses: against formulas written in other coordinates, quadrature and symmetries."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from oracles import Contoured, Moffat, blurred, error, integrated
from pyro import poutine
from scipy.interpolate import CubicSpline
from scipy.special import gammaincinv
from test_malformed_inputs import Case, assert_refused
from torch.autograd import gradcheck

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.models.shape import Shape
from bayesprof.rendering import Renderer, renderer_for

SHAPE = (41, 52)
CENTRE = (25.37, 18.82)
PSF = Moffat(3.0, 3.5)
R_EFF, N, Q, THETA = 4.0, 1.0, 0.6, 0.7

Plane = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of u and v, along and across the major axis

FOURIER = [[0.06, -0.03], [-0.05, 0.08]]
SHAPES: dict[str, list[Shape]] = {
    "boxy": [models.Boxiness(0.6)],
    "disky": [models.Boxiness(-0.4)],
    "modes": [models.FourierModes((1, 3), FOURIER)],
    "outer truncation": [models.OuterTruncation(7.0, 2.0)],
    "inner truncation": [models.InnerTruncation(5.0, 2.0)],
    "log spiral": [models.LogSpiral(2.0, 2.5), models.FourierModes((2,), [[0.25, 0.1]])],
    "power spiral": [models.PowerSpiral(-2.5, 9.0, 0.2, 0.4), models.FourierModes((2,), [[0.25, 0.1]])],
    "warp": [models.Warp((2.0, 5.0, 9.0), [[0.1, 0.0], [0.0, 0.2], [-0.1, 0.2]])],
    "boxy modes": [models.Boxiness(0.4), models.FourierModes((1, 3), FOURIER)],
    "bar": [models.Boxiness(0.8), models.OuterTruncation(7.0, 2.0)],
}
each_shape = pytest.mark.parametrize("kind", SHAPES)
# not normalised by a mean over angles alone
RADIAL = ("outer truncation", "inner truncation", "warp", "bar")
ENDING = ("outer truncation", "bar")


def galaxy(kind: str, **changes: Any) -> models.Shaped:
    values = {"x": CENTRE[0], "y": CENTRE[1], "flux": 1.0, "r_eff": R_EFF, "n": N, "q": Q, "theta": THETA, **changes}
    return models.Shaped(models.Sersic(**values), SHAPES[kind])


def plane_light(kind: str) -> Plane:
    """The light of `kind` in the plane of the profile, in numpy and polar coordinates, with phi from +x; flux not 1."""

    def modes(phi: np.ndarray, *terms: tuple[int, float, float]) -> np.ndarray:
        # by amplitude and phase
        return sum(math.hypot(c, s) * np.cos(m * (phi - math.atan2(s, c) / m)) for m, c, s in terms)

    def superellipse(phi: np.ndarray, c0: float) -> np.ndarray:
        c = 2 + c0
        return (np.abs(np.cos(phi - THETA)) ** c + np.abs(np.sin(phi - THETA)) ** c) ** (1 / c)

    two = ((1, *FOURIER[0]), (3, *FOURIER[1]))
    arms = (2, 0.25, 0.1)

    def power_turn(r: np.ndarray) -> np.ndarray:
        ending = 2 * 0.23 / (2.5 + 0.23) - 1.00001
        b = (2 - math.atanh(ending)) * 9.0 / (9.0 - 0.2 * 9.0)
        return -2.5 * 0.5 * (np.tanh(b * (r / 9.0 - 1) + 2) + 1) * (0.5 * (r / 9.0 + 1)) ** 0.4

    def warped(r: np.ndarray, phi: np.ndarray) -> np.ndarray:
        t = np.clip(np.log(r), math.log(2), math.log(9))
        knots = np.array([[0.1, 0.0], [0.0, 0.2], [-0.1, 0.2]])
        w = CubicSpline(np.log([2.0, 5.0, 9.0]), knots, bc_type="clamped")(t)
        size = np.hypot(w[..., 0], w[..., 1]) / np.sqrt(1 + (w**2).sum(-1))
        q, angle = (1 - size) / (1 + size), 0.5 * np.arctan2(w[..., 1], w[..., 0])
        return r * np.sqrt(q * np.cos(phi - angle) ** 2 + np.sin(phi - angle) ** 2 / q)

    b = gammaincinv(2 * N, 0.5)

    def sersic(r: np.ndarray) -> np.ndarray:
        return np.exp(-b * (r / R_EFF) ** (1 / N))

    formulas: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        "boxy": lambda r, phi: sersic(r * superellipse(phi, 0.6)),
        "disky": lambda r, phi: sersic(r * superellipse(phi, -0.4)),
        "modes": lambda r, phi: sersic(r * np.exp(modes(phi, *two))),
        "outer truncation": lambda r, phi: sersic(r) * 0.5 * (1 - np.tanh((r - 7.0) / 2.0)),
        "inner truncation": lambda r, phi: sersic(r) * 0.5 * (1 + np.tanh((r - 5.0) / 2.0)),
        "log spiral": lambda r, phi: sersic(r * np.exp(modes(phi - np.log(1 + (r / 2.5) ** 2), arms))),
        "power spiral": lambda r, phi: sersic(r * np.exp(modes(phi - power_turn(r), arms))),
        "warp": lambda r, phi: sersic(warped(r, phi)),
        "bar": lambda r, phi: (
            sersic(r * superellipse(phi, 0.8)) * 0.5 * (1 - np.tanh((r * superellipse(phi, 0.8) - 7.0) / 2.0))
        ),
        "boxy modes": lambda r, phi: sersic(r * superellipse(phi, 0.4) * np.exp(modes(phi, *two))),
    }

    def light(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return formulas[kind](np.hypot(u, v), np.arctan2(v, u) + THETA)

    return light


def total(light: Plane) -> float:
    """Integral over the plane: Gauss-Legendre in radius and in the angle between the axes of the profile."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    r, w_r = 40.0 * (1 + nodes), 40.0 * weights
    angle = 0.25 * math.pi * (1 + nodes[None, :] + 2 * np.arange(4)[:, None]).ravel()
    values = light(r[:, None] * np.cos(angle), r[:, None] * np.sin(angle))
    return float((w_r * r) @ values @ np.tile(0.25 * math.pi * weights, 4))


def reference(kind: str) -> Contoured:
    """That light on the sky, with flux 1."""
    light = plane_light(kind)
    norm = Q * total(light)

    def surface(dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        cos, sin = math.cos(THETA), math.sin(THETA)
        return light(dx * cos + dy * sin, (dy * cos - dx * sin) / Q) / norm

    return Contoured(*CENTRE, 0.5 * Q, surface)


@pytest.fixture(scope="module")
def seeing() -> Renderer:
    return renderer_for(bp.Image(np.zeros(SHAPE), psf=PSF.stamp((81, 81))))


@pytest.fixture(scope="module")
def pixels() -> Renderer:
    return renderer_for(bp.Image(np.zeros(SHAPE)))


# -- against references


@each_shape
def test_brightness_is_the_formula_and_flux_the_total_flux(kind):
    dy, dx = np.mgrid[-18:19, -25:26] + 0.3
    found = galaxy(kind).brightness_at(torch.from_numpy(dx), torch.from_numpy(dy))
    expected = reference(kind).brightness(dx, dy)
    # the norm is the only sum in it: to 1e-6, and 2e-5 where the contours have corners
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-12 * expected.max())


@each_shape
def test_image_with_a_psf_agrees_with_integration_on_finer_cells(kind, seeing):
    assert error(seeing(galaxy(kind)), blurred(reference(kind), PSF, SHAPE)) < 1e-4


@pytest.mark.parametrize(("q", "bound"), [(0.35, 3e-5), (0.2, 3e-4)])
def test_image_of_a_thin_bar_agrees_with_integration_on_finer_cells(q, bound, seeing):
    values = {"flux": 1.0, "r_eff": 5.0, "n": 0.6, "boxiness": 0.8, "r_out": 9.0, "width_out": 1.5}
    component = models.bar(x=CENTRE[0], y=CENTRE[1], **values, q=q, theta=THETA)
    bar = component.bind(bp.Image(np.zeros(SHAPE)))()
    b = gammaincinv(2 * 0.6, 0.5)

    def surface(dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        along, across = dx * math.cos(THETA) + dy * math.sin(THETA), dy * math.cos(THETA) - dx * math.sin(THETA)
        r = (np.abs(along) ** 2.8 + np.abs(across / q) ** 2.8) ** (1 / 2.8)
        return np.exp(-b * (r / 5.0) ** (1 / 0.6)) * 0.5 * (1 - np.tanh((r - 9.0) / 1.5))

    expected = blurred(Contoured(*CENTRE, 0.5 * q, surface), PSF, SHAPE)
    peak = surface(np.zeros(1), np.zeros(1))[0] / float(bar.brightness_at(*torch.full((2, 1, 1), 1e-9).double()))
    assert error(seeing(bar) * peak, expected) < bound
    assert expected.sum() / peak == pytest.approx(1.0, abs=2e-3)  # but for the light beyond the image


@each_shape
def test_image_without_a_psf_agrees_with_quadrature(kind, pixels):
    assert error(pixels(galaxy(kind)), integrated(reference(kind), SHAPE, order=8)) < 2e-4


@each_shape
@pytest.mark.parametrize("n", [0.5, 1.0, 2.5, 4.0])
def test_flux_is_the_light_of_a_large_image(kind, n):
    wide = renderer_for(bp.Image(np.zeros((301, 301)), psf=PSF.stamp((31, 31))))
    shape = galaxy(kind, x=150.2, y=149.7, n=n, r_eff=2.5)
    plain = models.Sersic(150.2, 149.7, 1.0, 2.5, n, q=Q, theta=THETA)
    # what lies beyond the image is that of the profile, brighter where the shape took away from the middle
    brighter = float(shape.level) * Q * 2.5**2
    beyond = 0.0 if kind in ENDING else brighter * (1 - float(wide(plain).sum()))
    assert float(wide(shape).sum()) == pytest.approx(1 - beyond, abs=3e-4 if kind in RADIAL else 2e-4)


@pytest.mark.parametrize("kernel", [PSF.stamp((81, 81)), None], ids=["PSF", "no PSF"])
@pytest.mark.parametrize("n", [0.5, 1.0, 4.0])
def test_shapes_of_zero_leave_the_profile_as_it_is(kernel, n):
    render = renderer_for(bp.Image(np.zeros(SHAPE), psf=kernel))
    plain = models.Sersic(*CENTRE, 1.0, R_EFF, n, q=0.4, theta=THETA)
    none = [
        models.Boxiness(0.0),
        models.FourierModes((1, 4), torch.zeros(2, 2)),
        models.Warp((1.0, 5.0), torch.zeros(2, 2)),
        models.LogSpiral(0.0, 3.0),
        models.OuterTruncation(1e6, 1.0),
        models.InnerTruncation(1e-9, 1e-10),
    ]
    # through the PSF the profile is the one that is less exact: its aliases have its amplitude at the wavenumber itself
    assert error(render(models.Shaped(plain, none)), render(plain).numpy()) < (1e-4 if n > 1 else 3e-5)


def test_mode_two_is_an_ellipse_to_first_order(seeing):
    def image(amplitude: float) -> torch.Tensor:
        round_ = models.Sersic(*CENTRE, 1.0, R_EFF, N)
        return seeing(models.Shaped(round_, [models.FourierModes((2,), [[-amplitude, 0.0]])]))

    def ellipse(amplitude: float) -> torch.Tensor:
        # R exp(-a cos 2 phi): semi-axes r exp(a) along x and r exp(-a) across
        return seeing(models.Sersic(*CENTRE, 1.0, R_EFF * math.exp(amplitude), N, q=math.exp(-2 * amplitude)))

    first, second = (float((image(a) - ellipse(a)).norm() / image(a).norm()) for a in (0.02, 0.04))
    assert second < 3e-3
    assert second / first == pytest.approx(4.0, rel=0.1)


def test_constant_warp_of_a_round_profile_is_an_ellipse(seeing):
    size, angle = 0.3, 0.4
    w = [size * math.cos(2 * angle) / math.sqrt(1 - size**2), size * math.sin(2 * angle) / math.sqrt(1 - size**2)]
    q = (1 - size) / (1 + size)
    warped = models.Shaped(models.Sersic(*CENTRE, 1.0, R_EFF, 1.5), [models.Warp((1.0, 4.0, 9.0), [w, w, w])])
    plain = models.Sersic(*CENTRE, 1.0, R_EFF / math.sqrt(q), 1.5, q=q, theta=angle)
    assert error(seeing(warped), seeing(plain).numpy()) < 3e-5


def test_boxy_contours_of_a_square_are_square():
    square = models.Shaped(models.Gaussian(0.0, 0.0, 1.0, 5.0, q=1.0), [models.Boxiness(4.0)])
    corner = 5.0 * 2 ** (-1 / 6)  # |u|^6 + |v|^6 = 5^6 on the diagonal
    along, diagonal = (
        float(square.brightness_at(*torch.tensor([[[a]], [[b]]], dtype=torch.float64)))
        for a, b in ((5.0, 0.0), (corner, corner))
    )
    assert along == pytest.approx(diagonal, rel=1e-12)


def test_spiral_arms_turn_counter_clockwise_outwards_with_the_stated_pitch():
    spiral = models.Shaped(
        models.Exponential(0.0, 0.0, 1.0, 8.0), [models.LogSpiral(2.0, 0.1), models.FourierModes((2,), [[-0.3, 0.0]])]
    )
    angle = torch.linspace(0, math.pi, 721, dtype=torch.float64)[None, :-1]
    radii = (10.0, 10.0 * math.exp(0.3))
    inner, outer = (
        float(angle.flatten()[spiral.brightness_at(r * torch.cos(angle), r * torch.sin(angle)).argmax()]) for r in radii
    )
    assert (outer - inner) % math.pi == pytest.approx(2.0 * 0.3, abs=0.01)


# -- derivatives and batches


@each_shape
@pytest.mark.parametrize("kernel", [PSF.stamp((11, 13)), None], ids=["PSF", "no PSF"])
def test_gradients_are_those_of_differences(kind, kernel):
    render = renderer_for(bp.Image(np.zeros((14, 19)), psf=kernel))

    def image(x: Any, y: Any, r_eff: Any, n: Any, e: Any) -> torch.Tensor:
        return render(models.Shaped(models.Sersic(x, y, 10.0, r_eff, n, ellipticity=e), SHAPES[kind]))

    values = (9.3, 6.2, 2.7, 1.3, [0.2, -0.1])
    point = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]
    assert gradcheck(image, point, atol=1e-5, fast_mode=True)


@pytest.mark.parametrize(
    ("shape", "values"),
    [
        (models.Boxiness, (0.3,)),
        (lambda fourier: models.FourierModes((1, 3), fourier), (FOURIER,)),
        (models.OuterTruncation, (4.0, 1.5)),
        (models.InnerTruncation, (3.0, 1.5)),
        (lambda *values: _arms(models.LogSpiral(*values)), (1.3, 2.0)),
        (lambda *values: _arms(models.PowerSpiral(*values)), (1.4, 6.0, 0.3, 0.4)),
        (lambda warp: models.Warp((2.0, 6.0), warp), ([[0.1, 0.0], [0.0, 0.2]],)),
    ],
    ids=["boxiness", "modes", "outer", "inner", "log spiral", "power spiral", "warp"],
)
def test_gradients_in_the_parameters_of_shapes_are_those_of_differences(shape, values):
    render = renderer_for(bp.Image(np.zeros((14, 19)), psf=PSF.stamp((11, 13))))

    def image(*parameters: torch.Tensor) -> torch.Tensor:
        made = shape(*parameters)
        base = models.Sersic(9.3, 6.2, 10.0, 2.7, 1.3, ellipticity=[0.2, -0.1])
        return render(models.Shaped(base, made if isinstance(made, list) else [made]))

    point = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]
    assert gradcheck(image, point, atol=1e-6, fast_mode=True)
    jacobian = torch.func.jacfwd(image, tuple(range(len(point))))(*(value.detach() for value in point))
    backwards = torch.autograd.functional.jacobian(image, tuple(point))
    for forward, backward in zip(jacobian, backwards, strict=True):
        torch.testing.assert_close(forward, backward, rtol=1e-9, atol=1e-12)


def _arms(spiral: Shape) -> list[Shape]:
    return [spiral, models.FourierModes((2,), [[0.2, 0.0]])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kernel", [PSF.stamp((11, 13)), None], ids=["PSF", "no PSF"])
@each_shape
def test_extreme_parameters_give_finite_images_and_gradients(kind, kernel, dtype):
    render = renderer_for(bp.Image(np.zeros((14, 19)), psf=kernel, dtype=dtype))
    for changes in (
        {"x": 9.0, "y": 6.0},  # on a pixel's centre, its edge and its corner
        {"x": 9.5, "y": 6.0},
        {"x": 9.5, "y": 6.5},
        {"x": -40.0, "y": 700.0},
        {"r_eff": 1e-3},
        {"r_eff": 1e3},
        {"n": 8.0},
        {"ellipticity": [0.0, 0.0]},
        {"ellipticity": [0.7, -0.5]},
    ):
        values = {"x": 9.3, "y": 6.2, "flux": 1.0, "r_eff": 2.0, "n": 1.0, "ellipticity": [0.2, 0.1], **changes}
        point = {name: torch.tensor(value, dtype=dtype, requires_grad=True) for name, value in values.items()}
        image = render(models.Shaped(models.Sersic(**point), SHAPES[kind]))
        assert bool(image.isfinite().all()), changes
        for name, gradient in zip(point, torch.autograd.grad(image.sum(), point.values()), strict=True):
            assert bool(gradient.isfinite().all()), (name, changes)


@each_shape
@pytest.mark.parametrize("kernel", [PSF.stamp((11, 13)), None], ids=["PSF", "no PSF"])
def test_batch_of_parameters_gives_a_batch_of_images(kind, kernel):
    render = renderer_for(bp.Image(np.zeros((14, 19)), psf=kernel))
    x, r_eff = (torch.tensor(values, dtype=torch.float64) for values in ([9.3, 2.0, 8.6], [2.0, 1.0, 4.0]))

    def image(x: torch.Tensor, r_eff: torch.Tensor) -> torch.Tensor:
        return render(models.Shaped(models.Sersic(x, 6.2, 1.0, r_eff, 1.5, q=0.5, theta=0.3), SHAPES[kind]))

    each = torch.stack([image(*pair) for pair in zip(x, r_eff, strict=True)])
    torch.testing.assert_close(image(x, r_eff), each, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(torch.func.vmap(image)(x, r_eff), each, rtol=1e-10, atol=1e-14)


@each_shape
def test_float32_image_agrees_with_float64(kind, seeing):
    single = renderer_for(bp.Image(np.zeros(SHAPE), psf=PSF.stamp((81, 81)), dtype=torch.float32))(galaxy(kind))
    assert single.dtype == torch.float32
    assert error(single, seeing(galaxy(kind)).numpy()) < 1e-5


# -- components

COMPONENTS = {
    "boxy": (
        (models.boxiness(),),
        {"boxiness": 0.7},
        lambda values: [models.Boxiness(values["boxiness"])],
    ),
    "mode 3": (
        (models.fourier_modes((3,)),),
        {"fourier": [[0.08, -0.05]]},
        lambda values: [models.FourierModes((3,), values["fourier"])],
    ),
    "bar": (
        (models.boxiness(), models.outer_truncation(width_out=2.0)),
        {"boxiness": 0.8, "r_out": 7.0},
        lambda values: [models.Boxiness(values["boxiness"]), models.OuterTruncation(values["r_out"], 2.0)],
    ),
    "spiral": (
        (models.log_spiral(winding=dist.LogNormal(0.7, 0.5)), models.fourier_modes((2,))),
        {"winding": 1.8, "r_bar": 2.5, "fourier": [[-0.15, 0.0]]},
        lambda values: [
            models.LogSpiral(values["winding"], values["r_bar"]),
            models.FourierModes((2,), values["fourier"]),
        ],
    ),
}
each_component = pytest.mark.parametrize("kind", COMPONENTS)
BASE = {"x": 17.3, "y": 14.8, "flux": 3000.0, "r_eff": 4.0, "n": 1.2, "ellipticity": [0.15, 0.1]}


def scene_of(kind: str) -> bp.Scene:
    shapes, values, made = COMPONENTS[kind]
    psf = PSF.stamp((21, 21))
    blank = bp.Image(np.zeros((31, 36)), sigma=0.3, psf=psf)
    truth = renderer_for(blank)(models.Shaped(models.Sersic(**BASE), made(values)))
    data = truth.numpy() + np.random.default_rng(7).normal(0.0, 0.3, blank.shape)
    return bp.Scene(bp.Image(data, sigma=0.3, psf=psf), galaxy=models.shaped(models.sersic(), *shapes))


@each_component
def test_fit_recovers_what_was_simulated(kind):
    fit = inference.lm(scene_of(kind))
    assert fit.converged, fit.message
    assert fit.chi2 == pytest.approx(fit.dof, abs=4 * math.sqrt(2 * fit.dof))
    for name, value in {**BASE, **COMPONENTS[kind][1]}.items():
        site = f"galaxy.{name}"
        assert (np.abs(fit.params[site] - np.array(value)) < 4 * np.array(fit.std[site])).all(), site


@each_component
def test_captured_value_and_gradient_are_the_direct_ones(kind):
    posterior = inference.Posterior(scene_of(kind))
    z = posterior.initial() + 0.01
    value, gradient = posterior.value_and_grad(z)
    assert float(value) == pytest.approx(float(posterior.log_density(z)), rel=1e-10)
    step = 1e-6
    for i, along in enumerate(step * torch.eye(len(z), dtype=z.dtype)):
        difference = float(posterior.log_density(z + along) - posterior.log_density(z - along)) / (2 * step)
        assert float(gradient[i]) == pytest.approx(difference, rel=1e-4, abs=1e-2)


def test_sites_are_those_of_the_profile_and_then_those_of_the_shapes():
    image = bp.Image(np.ones((20, 30)), sigma=1.0)
    component = models.shaped(models.sersic(n=2.0), models.boxiness(boxiness=0.3), models.fourier_modes((1, 3)))
    scene = bp.Scene(image, it=component)
    assert [site.name for site in inference.Posterior(scene).sites] == [
        f"it.{name}" for name in ("x", "y", "flux", "r_eff", "ellipticity", "fourier")
    ]
    assert scene.dims["it.fourier"] == ["it.mode", "wave"]
    assert scene.coords["it.mode"] == [1, 3]


def a_sky_with_a_shape() -> None:
    bp.Scene(bp.Image(np.zeros((20, 30)), sigma=1.0), it=models.shaped(models.flat_sky(), models.boxiness()))


SERSIC = models.Sersic(1, 2, 3, 4, 1)
MALFORMED = [
    Case("a light", lambda: models.shaped(SERSIC), TypeError, ("shaped", "Sersic"), "models.sersic()"),
    Case(
        "shape of a light",
        lambda: models.shaped(models.sersic(), models.Boxiness(0.1)),
        TypeError,
        ("Boxiness",),
        "models.boxiness()",
    ),
    Case(
        "a name twice",
        lambda: models.shaped(models.sersic(), models.boxiness(), models.boxiness()),
        ValueError,
        ("boxiness", "twice"),
        "leave one out",
    ),
    Case("a sky", a_sky_with_a_shape, TypeError, ("flat_sky",), "models.sersic()"),
    Case(
        "a point as a profile",
        lambda: models.Shaped(models.PointSource(1, 2, 3), []),
        TypeError,
        ("profile", "PointSource"),
        "Shaped(Sersic",
    ),
    Case(
        "a component as a shape",
        lambda: models.Shaped(SERSIC, [models.boxiness()]),
        TypeError,
        ("shape", "ShapeComponent"),
        "Boxiness",
    ),
    Case("mode 0", lambda: models.fourier_modes((0, 1)), ValueError, ("(0, 1)",), "(1, 3)"),
    Case("a mode twice", lambda: models.fourier_modes((1, 1)), ValueError, ("(1, 1)",), "(1, 3)"),
    Case(
        "one number a mode",
        lambda: models.FourierModes((1, 3), [0.1, 0.2]),
        ValueError,
        ("(..., 2, 2)", "(2,)"),
        "a cosine and a sine",
    ),
    Case(
        "one number a mode, held",
        lambda: models.fourier_modes((1, 3), fourier=[0.1, 0.2]),
        ValueError,
        ("(2, 2)", "(2,)"),
        "an array over mode",
    ),
    Case("boxiness", lambda: models.boxiness(boxiness=-1.5), ValueError, ("in [-1, 4]", "-1.5"), "correct"),
    Case("negative radius", lambda: models.outer_truncation(r_out=-1.0), ValueError, ("r_out > 0",), "correct"),
    Case("width of 0", lambda: models.inner_truncation(width_in=0.0), ValueError, ("width_in > 0",), "correct"),
    Case("descending knots", lambda: models.warp((5.0, 2.0)), ValueError, ("(5.0, 2.0)",), "ascending"),
    Case(
        "one number a knot",
        lambda: models.Warp((1.0, 2.0), [0.1, 0.2]),
        ValueError,
        ("(..., 2, 2)", "(2,)"),
        "a vector for each",
    ),
    Case("bar too long", lambda: models.power_spiral(bar=1.2), ValueError, ("in [0, 0.95]", "1.2"), "correct"),
]


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.label)
def test_malformed_shape_is_refused_with_a_remedy(case):
    assert_refused(case)


SHAPE_FUNCTIONS = {
    "boxiness": models.boxiness,
    "fourier_modes": lambda: models.fourier_modes((1, 3)),
    "outer_truncation": models.outer_truncation,
    "inner_truncation": models.inner_truncation,
    "log_spiral": models.log_spiral,
    "power_spiral": models.power_spiral,
    "warp": lambda: models.warp((2.0, 8.0)),
}


@pytest.mark.filterwarnings("ignore:trying to observe a value outside of inference")
@pytest.mark.parametrize("name", SHAPE_FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_default_priors_draw_finite_images_and_starts_lie_inside(name, dtype, simulated):
    image = simulated(models.Sersic(17.3, 11.8, 500.0, 3.0, 1.7)).to(dtype)
    scene = bp.Scene(image, it=models.shaped(models.sersic(), SHAPE_FUNCTIONS[name]()))
    start = poutine.trace(poutine.condition(scene, data=scene.initial_values())).get_trace()
    assert bool(start.log_prob_sum().isfinite())
    for _ in range(5):
        assert bool(poutine.trace(scene).get_trace().nodes["_RETURN"]["value"].isfinite().all())
    assert set(scene.units) >= {f"it.{parameter}" for parameter in SHAPE_FUNCTIONS[name]().parameters}


# a capture takes seconds; of the others it is made of the same operations
CAPTURED = ("boxiness", "fourier_modes", "power_spiral", "warp")


@pytest.mark.parametrize(
    "name", [name if name in CAPTURED else pytest.param(name, marks=pytest.mark.slow) for name in SHAPE_FUNCTIONS]
)
def test_prepared_gradient_of_every_shape_is_the_direct_one(name, simulated):
    image = simulated(models.Sersic(17.3, 11.8, 500.0, 3.0, 1.7))
    posterior = inference.Posterior(bp.Scene(image, it=models.shaped(models.sersic(), SHAPE_FUNCTIONS[name]())))
    z = posterior.initial() + 0.01
    expected = torch.func.grad(posterior.log_density)(z)
    posterior.prepare("value_and_grad", batch=1, calls=10_000, compile=False)
    value, gradient = posterior.value_and_grad(z)
    assert float(value) == pytest.approx(float(posterior.log_density(z)), rel=1e-10)
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))
