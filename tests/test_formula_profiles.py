"""Profiles that are given by their formula: against the formulas of the papers, quadrature and each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from oracles import Moffat, Source, convolved, error, integrated
from scipy.interpolate import CubicSpline
from scipy.special import gamma, gammaincinv, j0, jv, kv
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import bayesprof as bp
from bayesprof import models
from bayesprof.hankel import map_with_a_break, map_with_a_ring, map_with_an_edge
from bayesprof.radial import RadialProfile
from bayesprof.rendering import Renderer, renderer_for

PSF = Moffat(3.5, 3.5)
SHAPE = (60, 85)
CENTRE = (44.37, 27.82)


def double(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


# -- the formulas, as the papers have them


def king(r, r_core, r_tidal, alpha):
    at_edge = (1 + (r_tidal / r_core) ** 2) ** (-1 / alpha)
    return np.maximum((1 + (r / r_core) ** 2) ** (-1 / alpha) - at_edge, 0.0) ** alpha


def nuker(r, r_break, alpha, beta, gamma, r_cut):
    x = r / r_break
    double_power = 2 ** ((beta - gamma) / alpha) * x**-gamma * (1 + x**alpha) ** ((gamma - beta) / alpha)
    return double_power * np.exp(-((r / r_cut) ** 4))


def core_sersic(r, r_eff, n, r_break, gamma, alpha):
    b = gammaincinv(2 * n, 0.5)
    outer = np.exp(-b * ((r**alpha + r_break**alpha) / r_eff**alpha) ** (1 / (n * alpha)))
    return (1 + (r_break / r) ** alpha) ** (gamma / alpha) * outer


def ferrer(r, r_out, alpha, beta):
    return np.maximum(1 - (r / r_out) ** (2 - beta), 0.0) ** alpha


def broken_exponential(r, h_inner, h_outer, r_break, alpha):
    bend = np.logaddexp(0, alpha * (r - r_break)) * (1 / h_inner - 1 / h_outer) / alpha
    return np.exp(-r / h_inner + bend)


def gaussian_ring(r, r_ring, width):
    return np.exp(-0.5 * ((r - r_ring) / width) ** 2)


def spergel(r, r_eff, nu):
    def missing(c):
        return 2 * (c / 2) ** (nu + 1) * kv(nu + 1, c) / gamma(nu + 1) - 0.5

    low, high = 1e-3, 10.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if missing(middle) > 0 else (low, middle)
    return (low * r / r_eff) ** nu * kv(nu, low * r / r_eff)


KNOTS = np.array([0.6, 1.5, 4.0, 9.0, 20.0])
VALUES = ("v1", "v2", "v3", "v4", "v5")


def spline(r, **values):
    """Natural in ln sqrt(R^2 + R_1^2), straight on, and cut at twice the last knot."""
    t, at = (0.5 * np.log(radius**2 + KNOTS[0] ** 2) for radius in (r, KNOTS))
    fall = (KNOTS / (2 * KNOTS[-1])) ** 4
    curve = CubicSpline(at, np.log(list(values.values())) + fall, bc_type="natural")
    nearest = np.clip(t, at[0], at[-1])
    return np.exp(curve(nearest) + (t - nearest) * curve(nearest, 1) - (r / (2 * KNOTS[-1])) ** 4)


def spline_light(x, y, surface_brightness, *values, **ellipse):
    """One whose values are `surface_brightness` times these."""
    level = torch.as_tensor(surface_brightness)
    stacked = torch.stack(torch.broadcast_tensors(*(torch.as_tensor(value) for value in values)), dim=-1)
    return models.Spline(x, y, level[..., None] * stacked.to(level), KNOTS, **ellipse)


@dataclass(frozen=True)
class Case:
    """A light, its formula, the parameters of both, and where the formula isn't smooth and ends, pixels."""

    light: Callable[..., Any]
    formula: Callable[..., np.ndarray]
    shape: dict[str, float]
    breaks: tuple[float, ...]
    end: float
    without_total: bool = field(default=False)

    def source(self, x: Any = 0.0, y: Any = 0.0, brightness: Any = 1.0, **ellipse: Any) -> Any:
        return self.light(x, y, brightness, *self.shape.values(), **ellipse)

    def radii(self) -> tuple[np.ndarray, np.ndarray]:
        """Gauss-Legendre nodes and weights from 0 to the end, crowded at the centre and at the breaks."""
        nodes, weights = np.polynomial.legendre.leggauss(20)
        fans = [np.geomspace(1e-9, 1.0, 90) * self.end]
        fans += [b + s * np.geomspace(1e-6, 1.0, 40) * b for b in self.breaks for s in (-1, 1)]
        edges = np.unique(np.concatenate([[0.0, *self.breaks, self.end], np.linspace(0, self.end, 400), *fans]))
        edges = edges[(edges >= 0) & (edges <= self.end)]
        half, middle = 0.5 * np.diff(edges), 0.5 * (edges[1:] + edges[:-1])
        return (middle[:, None] + half[:, None] * nodes).ravel(), (half[:, None] * weights).ravel()

    def values(self, r: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.nan_to_num(self.formula(r, **self.shape))

    @cached_property
    def total(self) -> float:
        """Total light of the circular profile, in units of the formula."""
        r, weight = self.radii()
        return float((2 * np.pi * r * weight) @ self.values(r))

    @cached_property
    def spline(self) -> CubicSpline:
        """The transform from 1e-4 to 4 per pixel, where the PSF is below 1e-5."""
        nodes = np.concatenate([np.geomspace(1e-4, 0.05, 100)[:-1], np.linspace(0.05, 4.0, 600)])
        return CubicSpline(nodes, self.transforms(nodes))

    def transforms(self, k: np.ndarray) -> np.ndarray:
        """Transform of the circular profile of unit light."""
        r, weight = self.radii()
        light = 2 * np.pi * r * weight * self.values(r)
        light /= light.sum()
        return np.concatenate([j0(np.multiply.outer(part, r)) @ light for part in np.array_split(k, 1 + k.size // 50)])


CASES = {
    "king": Case(models.King, king, {"r_core": 2.0, "r_tidal": 25.0, "alpha": 2.0}, (), 25.0),
    "king, concentrated": Case(models.King, king, {"r_core": 0.5, "r_tidal": 60.0, "alpha": 1.3}, (), 60.0),
    "king, loose": Case(models.King, king, {"r_core": 30.0, "r_tidal": 12.0, "alpha": 3.0}, (12.0,), 12.0),
    "ferrer": Case(models.Ferrer, ferrer, {"r_out": 18.0, "alpha": 1.5, "beta": 0.3}, (18.0,), 18.0),
    "ferrer, abrupt": Case(models.Ferrer, ferrer, {"r_out": 14.0, "alpha": 0.5, "beta": 0.0}, (14.0,), 14.0),
    "ferrer, cuspy": Case(models.Ferrer, ferrer, {"r_out": 20.0, "alpha": 2.5, "beta": 1.7}, (20.0,), 20.0),
    "nuker": Case(
        models.Nuker,
        nuker,
        {"r_break": 3.0, "alpha": 2.0, "beta": 1.4, "gamma": 0.3, "r_cut": 210.0},
        (3.0,),
        500.0,
        True,
    ),
    "nuker, sharp": Case(
        models.Nuker,
        nuker,
        {"r_break": 2.0, "alpha": 12.0, "beta": 2.2, "gamma": 0.9, "r_cut": 210.0},
        (2.0,),
        500.0,
        True,
    ),
    "core-Sersic": Case(
        models.CoreSersic,
        core_sersic,
        {"r_eff": 8.0, "n": 2.5, "r_break": 1.5, "gamma": 0.2, "alpha": 4.0},
        (1.5,),
        700.0,
    ),
    "core-Sersic, sharp and small": Case(
        models.CoreSersic,
        core_sersic,
        {"r_eff": 6.0, "n": 1.2, "r_break": 0.3, "gamma": 0.8, "alpha": 20.0},
        (0.3,),
        200.0,
    ),
    "broken exponential": Case(
        models.BrokenExponential,
        broken_exponential,
        {"h_inner": 9.0, "h_outer": 3.0, "r_break": 14.0, "alpha": 0.8},
        (14.0,),
        150.0,
    ),
    "broken exponential, sharp and rising": Case(
        models.BrokenExponential,
        broken_exponential,
        {"h_inner": 3.0, "h_outer": 8.0, "r_break": 7.0, "alpha": 20.0},
        (7.0,),
        300.0,
    ),
    "ring": Case(models.GaussianRing, gaussian_ring, {"r_ring": 12.0, "width": 2.0}, (12.0,), 40.0),
    "ring, thin": Case(models.GaussianRing, gaussian_ring, {"r_ring": 14.0, "width": 0.3}, (14.0,), 18.0),
    "ring, wide": Case(models.GaussianRing, gaussian_ring, {"r_ring": 4.0, "width": 5.0}, (), 50.0),
    "spline": Case(
        spline_light, spline, dict(zip(VALUES, (9.0, 6.0, 2.0, 0.4, 0.02), strict=True)), tuple(KNOTS), 100.0, True
    ),
    "spline, bumpy and rising": Case(
        spline_light, spline, dict(zip(VALUES, (2.0, 9.0, 0.5, 3.0, 4.0), strict=True)), tuple(KNOTS), 100.0, True
    ),
    "spergel": Case(models.Spergel, spergel, {"r_eff": 4.0, "nu": 0.2}, (), 100.0),
    "spergel, steep": Case(models.Spergel, spergel, {"r_eff": 6.0, "nu": -0.55}, (), 400.0),
    "spergel, shallow": Case(models.Spergel, spergel, {"r_eff": 4.0, "nu": 3.3}, (), 60.0),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def renderer(psf: np.ndarray | None, shape: tuple[int, int] = SHAPE, **options: Any) -> Renderer:
    return renderer_for(bp.Image(np.zeros(shape), psf=psf, **options))


# -- values


@each_case
@pytest.mark.parametrize(("q", "theta"), [(1.0, 0.0), (0.4, 1.1)])
def test_brightness_is_that_of_the_formula(case, q, theta):
    y, x = np.mgrid[-9:10, -11:12] + 0.37
    cos, sin = math.cos(theta), math.sin(theta)
    radius = np.hypot(x * cos + y * sin, (y * cos - x * sin) / q)
    expected = case.values(radius) * (1.0 if case.without_total else 1 / (q * case.total))
    found = case.source(q=q, theta=theta).brightness_at(torch.from_numpy(x), torch.from_numpy(y))
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-12 * expected.max())


@each_case
def test_flux_is_the_total_light(case):
    expected = 0.6 * case.total if case.without_total else 1.0
    assert float(case.source(q=0.6, theta=0.3).flux) == pytest.approx(expected, rel=1e-6)


@each_case
def test_transform_is_that_of_the_formula(case):
    k = np.concatenate([[0.0, 1e-5], np.geomspace(1e-3, 0.3, 20), np.linspace(0.3, 3.5, 30)])
    source = case.source()
    found = source.transform(torch.from_numpy((k * float(source.radius)) ** 2)[None])[0]
    assert float(found[0]) == pytest.approx(1.0, abs=1e-14)
    np.testing.assert_allclose(found, case.transforms(k), atol=1e-5)


class Reference(Source):
    """A case as a source of the oracle: its formula, and its transform by quadrature between dense nodes."""

    case: Case

    def brightness(self, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        cos, sin = math.cos(self.theta), math.sin(self.theta)
        radius = np.hypot(dx * cos + dy * sin, (dy * cos - dx * sin) / self.q)
        return self.case.values(radius) / (self.q * self.case.total)

    def light_beyond(self, radius: float) -> float:
        r, weight = self.case.radii()
        return float((2 * np.pi * r * weight * (r > radius)) @ self.case.values(r)) / self.case.total

    def transform(self, kx: np.ndarray, ky: np.ndarray) -> np.ndarray:
        cos, sin = math.cos(self.theta), math.sin(self.theta)
        k = np.hypot(kx * cos + ky * sin, self.q * (ky * cos - kx * sin))
        return np.where(k < 1e-4, 1.0, np.where(k > 4.0, 0.0, self.case.spline(np.clip(k, 1e-4, 4.0))))


@pytest.mark.parametrize("name", [name for name in CASES if name != "spergel, steep"])
def test_image_through_a_psf_is_exact(name):
    case = CASES[name]
    reference = Reference(*CENTRE, 1.0, 1.0, 0.6, 0.4)
    object.__setattr__(reference, "case", case)
    source = case.source(*CENTRE, 1.0, q=0.6, theta=0.4)
    image = renderer(PSF.stamp((61, 61)))(source) / source.flux
    assert error(image, convolved(reference, PSF, SHAPE, period=384)) < 1e-4


PIXELATED = {"ferrer, abrupt": 1e-2, "ring, thin": 0.1}  # thinner than a pixel, where it has 2x2 points


@each_case
def test_image_without_a_psf_is_integrated_over_pixels(case):
    reference = Reference(*CENTRE, 1.0, 1.0, 0.6, 0.4)
    object.__setattr__(reference, "case", case)
    source = case.source(*CENTRE, 1.0, q=0.6, theta=0.4)
    name = next(name for name, one in CASES.items() if one is case)
    assert error(renderer(None)(source) / source.flux, integrated(reference, SHAPE)) < PIXELATED.get(name, 3e-4)


@pytest.mark.parametrize(
    ("light", "formula", "shape", "q", "bound"),
    [
        (models.GaussianRing, gaussian_ring, (9.0, 1.0), 0.6, 3e-5),
        (models.GaussianRing, gaussian_ring, (9.0, 1.0), 0.4, 2e-4),
        (models.GaussianRing, gaussian_ring, (9.0, 0.5), 0.6, 2e-3),
        (models.Ferrer, ferrer, (9.0, 2.0, 0.3), 0.6, 2e-4),
        (models.Ferrer, ferrer, (9.0, 1.0, 0.3), 0.6, 3e-3),
        (models.Ferrer, ferrer, (9.0, 0.5, 0.3), 0.6, 1e-2),
    ],
)
def test_image_without_a_psf_is_as_good_as_its_docs_say(light, formula, shape, q, bound):
    fine, (ny, nx) = 48, (44, 57)
    y, x = ((np.arange(size * fine) + 0.5) / fine - 0.5 for size in (ny, nx))
    dx, dy = np.meshgrid(x - 27.3, y - 21.8)
    radius = np.hypot(dx * np.cos(0.6) + dy * np.sin(0.6), (dy * np.cos(0.6) - dx * np.sin(0.6)) / q)
    expected = np.nan_to_num(formula(radius, *shape)).reshape(ny, fine, nx, fine).mean((1, 3))
    found = renderer(None, (ny, nx))(light(27.3, 21.8, 1.0, *shape, q=q, theta=0.6)).numpy()
    scale = (expected * found).sum() / (expected**2).sum()  # the reference has no total
    assert bound / 3 < error(found, scale * expected) < bound


@each_case
def test_image_is_a_part_of_a_larger_one(case):
    """However far its light reaches: nothing comes back over the edges of the periodic transform."""
    ny, nx = SHAPE
    psf = PSF.stamp((61, 61))
    image = renderer(psf)(case.source(*CENTRE, 1.0, q=0.6, theta=0.4))
    whole = renderer(psf, (5 * ny, 5 * nx))(case.source(CENTRE[0] + 2 * nx, CENTRE[1] + 2 * ny, 1.0, q=0.6, theta=0.4))
    assert error(image, whole[2 * ny : 3 * ny, 2 * nx : 3 * nx].numpy()) < 1e-4


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
def test_transform_of_ferrer_profiles_with_a_flat_centre_is_a_bessel_function(alpha):
    k = np.concatenate([np.geomspace(1e-3, 1.0, 30), np.linspace(1.0, 400.0, 900)])
    expected = gamma(alpha + 2) * 2 ** (alpha + 1) * jv(alpha + 1, k) / k ** (alpha + 1)
    found = models.Ferrer(0.0, 0.0, 1.0, 1.0, alpha, 0.0).transform(torch.from_numpy(k**2)[None])[0]
    np.testing.assert_allclose(found, expected, atol=3e-6)


@pytest.mark.parametrize("name", ["map_with_an_edge", "map_with_a_break", "map_with_a_ring"])
def test_map_transforms_a_gaussian_and_knows_its_light(name):
    """In units of 1, far inside of it and around it: as far as the map reaches."""
    hankel = {f.__name__: f for f in (map_with_an_edge, map_with_a_break, map_with_a_ring)}[name]()
    for width in {"map_with_an_edge": (0.01, 0.1), "map_with_a_break": (0.01, 1.0, 300.0), "map_with_a_ring": (1.0,)}[
        name
    ]:
        profile = torch.exp(-0.5 * (hankel.radii / width) ** 2) / (2 * math.pi * width**2)
        assert float(profile @ hankel.light) == pytest.approx(1.0, abs=1e-6)
        k = torch.from_numpy(np.geomspace(1e-3, 6.0, 300)) / width
        t = hankel.mesh.position(k**2)[None] / hankel.mesh.step
        cells = t.long().clamp(max=hankel.mesh.intervals - 1)
        c = hankel.cubics(profile)[:, cells[0]]
        x = (t - cells)[0]
        found = c[0] + x * (c[1] + x * (c[2] + x * c[3]))
        np.testing.assert_allclose(found, torch.exp(-0.5 * (k * width) ** 2), atol=5e-6)


# -- limits in which a profile is another one

SIZE = {"q": 0.6, "theta": 0.4}


@pytest.mark.parametrize("psf", [True, False], ids=["PSF", "no PSF"])
@pytest.mark.parametrize(
    ("light", "other"),
    [
        (
            models.BrokenExponential(*CENTRE, 1.0, 4.0, 4.0, 9.0, 0.7, **SIZE),
            models.Exponential(*CENTRE, 1.0, 4.0 * 1.6783469900166605, **SIZE),
        ),
        (models.Spergel(*CENTRE, 1.0, 5.0, 0.5, **SIZE), models.Exponential(*CENTRE, 1.0, 5.0, **SIZE)),
        (
            models.CoreSersic(*CENTRE, 1.0, 5.0, 2.0, 1e-3, 0.0, 2.0, **SIZE),
            models.Sersic(*CENTRE, 1.0, 5.0, 2.0, **SIZE),
        ),
        (
            models.King(*CENTRE, 1.0, 2e4, 15.0, 1.8, **SIZE),  # all core: u falls as R^2
            models.Ferrer(*CENTRE, 1.0, 15.0, 1.8, 0.0, **SIZE),
        ),
    ],
    ids=["broken exponential", "spergel", "core-Sersic", "king"],
)
def test_limits_are_the_profiles_they_should_be(light, other, psf):
    render = renderer(PSF.stamp((61, 61)) if psf else None)
    # without a PSF: pixels at the centre are integrated in units of the break radius, here a thousandth of a pixel
    bound = 5e-4 if isinstance(light, models.CoreSersic) and not psf else 2e-5
    assert error(render(light), render(other).numpy()) < bound


def test_nuker_with_a_flat_centre_is_a_moffat_profile():
    alpha_moffat, beta = 3.0, 2.5
    r_eff = alpha_moffat * math.sqrt(2 ** (1 / (beta - 1)) - 1)
    moffat = models.Moffat(*CENTRE, 1.0, r_eff, beta, **SIZE)
    peak = (beta - 1) / (math.pi * alpha_moffat**2 * 0.6)
    nuker = models.Nuker(*CENTRE, peak * 2**-beta, alpha_moffat, 2.0, 2 * beta, 0.0, 3000.0, **SIZE)
    render = renderer(PSF.stamp((61, 61)))
    assert error(render(nuker), render(moffat).numpy()) < 2e-5


@pytest.mark.parametrize("nu", [-0.6, -0.2, 0.0, 0.7, 3.0])
@pytest.mark.parametrize(("r_eff", "q", "theta"), [(1.0, 0.6, 0.4), (3.0, 0.3, 2.3), (7.0, 1.0, 0.0)])
def test_spergel_agrees_with_galsim(nu, r_eff, q, theta):
    galsim = pytest.importorskip("galsim")
    settings = galsim.GSParams(
        folding_threshold=1e-5, maxk_threshold=1e-5, kvalue_accuracy=1e-8, maximum_fft_size=16384, stepk_minimum_hlr=20
    )
    source = galsim.Spergel(nu, half_light_radius=r_eff * math.sqrt(q), gsparams=settings)
    parts = [
        source.shear(q=q, beta=theta * galsim.radians),
        galsim.Moffat(PSF.beta, fwhm=PSF.fwhm, gsparams=settings),
        galsim.Pixel(1.0, gsparams=settings),
    ]
    offset = (CENTRE[0] - (SHAPE[1] - 1) / 2, CENTRE[1] - (SHAPE[0] - 1) / 2)
    scene = galsim.Convolve(parts, gsparams=settings)
    expected = scene.drawImage(nx=SHAPE[1], ny=SHAPE[0], scale=1.0, method="no_pixel", offset=offset, dtype=float).array
    image = renderer(PSF.stamp((61, 61)))(models.Spergel(*CENTRE, 1.0, r_eff, nu, q=q, theta=theta))
    assert error(image, expected) < 1e-4


@pytest.mark.parametrize("nu", [-0.6, 0.0, 1.7])
def test_half_of_the_light_of_a_spergel_profile_is_within_r_eff(nu):
    case = Case(models.Spergel, spergel, {"r_eff": 1.0, "nu": nu}, (1.0,), 150.0)
    r, weight = case.radii()
    light = 2 * np.pi * r * weight * case.source().brightness(torch.from_numpy(r**2)[None])[0].numpy()
    assert light[r < 1].sum() == pytest.approx(0.5, abs=1e-4 if nu < -0.5 else 1e-6)


@pytest.mark.parametrize(("n", "knots", "bound"), [(0.5, 16, 2e-4), (1.0, 8, 3e-3), (1.0, 12, 5e-4), (2.5, 12, 3e-3)])
def test_spline_through_points_of_a_sersic_profile_is_that_profile(n, knots, bound):
    """As far as so many knots can follow it; with n of 2.5 it is brighter within the first one, which is flat."""
    radii = torch.from_numpy(5.0 * np.geomspace(0.05 if n > 1 else 0.1, 8.0 if n > 1 else 5.0, knots))
    sersic = models.Sersic(*CENTRE, 100.0, 5.0, n, **SIZE)
    values = models.Sersic(*CENTRE, 100.0, 5.0, n, q=0.6).brightness_at(radii[None], torch.zeros_like(radii)[None])[0]
    light = models.Spline(*CENTRE, values, radii, **SIZE)
    assert float(light.flux) == pytest.approx(100.0, rel=bound)
    render = renderer(PSF.stamp((61, 61)))
    assert error(render(light), render(sersic).numpy()) < bound


# -- derivatives, batches, precision


def natural(case: Case) -> tuple[Tensor, ...]:
    """Centre, brightness and shape parameters, free to differentiate by."""
    values = (9.3, 6.2, 10.0, *case.shape.values(), 0.2, 0.15)
    return tuple(double(value).requires_grad_() for value in values)


def projected(case: Case, psf: bool) -> Callable[..., Tensor]:
    """A few random projections of the image, as a function of the natural parameters."""
    render = renderer(PSF.stamp((11, 13)) if psf else None, (14, 19))
    weights = torch.randn(3, *render.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def function(*values: Tensor) -> Tensor:
        return (weights * render(case.light(*values[:-2], ellipticity=torch.stack(values[-2:], dim=-1)))).sum((-1, -2))

    return function


# the others have infinite first or second derivatives at their edge, which differences across it don't stand
SMOOTH = [name for name in CASES if name not in ("ferrer, abrupt", "king, concentrated")]


@pytest.mark.slow
@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives_are_exact(name):
    case = CASES[name]
    # the spline has a value and, separately, a derivative in each parameter: what remains is its error
    scale = float(projected(case, True)(*natural(case)).detach().abs().max())
    function = projected(case, True)
    assert gradcheck(function, natural(case), eps=1e-5, atol=2e-5 * scale, rtol=2e-5, check_forward_ad=True)
    assert gradgradcheck(function, natural(case), eps=1e-5, atol=2e-4 * scale, rtol=2e-4, fast_mode=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["king", "core-Sersic", "broken exponential", "spergel"])
def test_derivatives_without_a_psf_are_exact(name):
    case = CASES[name]
    assert gradcheck(projected(case, False), natural(case), eps=1e-5, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["king", "nuker", "core-Sersic", "ring", "spergel"])
def test_forward_reverse_and_batched_derivatives_agree(name):
    case = CASES[name]
    function = projected(case, True)
    z = torch.stack([value.detach() for value in natural(case)])

    def flat(z: Tensor) -> Tensor:
        return function(*z)

    forward, reverse = torch.func.jacfwd(flat)(z), torch.func.jacrev(flat)(z)
    torch.testing.assert_close(forward, reverse, rtol=1e-9, atol=1e-9)
    hessian, other = (
        torch.func.hessian(lambda z: flat(z)[0])(z),
        torch.func.jacfwd(torch.func.jacfwd(lambda z: flat(z)[0]))(z),
    )
    torch.testing.assert_close(hessian, other, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(hessian, hessian.T, rtol=1e-8, atol=1e-8)
    batch = z * (1 + 0.02 * torch.rand(4, len(z), dtype=torch.float64))
    by_vmap = torch.func.vmap(torch.func.jacrev(flat))(batch)
    torch.testing.assert_close(by_vmap[2], torch.func.jacrev(flat)(batch[2]), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@each_case
def test_batch_of_parameters_gives_the_images_of_a_loop(case):
    render = renderer(PSF.stamp((11, 13)), (14, 19))
    factors = double([1.0, 1.1, 0.95])
    for name in case.shape:  # a batch in one parameter alone is enough
        shape = {**case.shape, name: case.shape[name] * factors}
        images = render(case.light(9.3, 6.2, 10.0, *shape.values(), q=0.6, theta=0.4))
        assert images.shape == (3, 14, 19), name
        one = render(case.light(9.3, 6.2, 10.0, *{**shape, name: shape[name][1]}.values(), q=0.6, theta=0.4))
        torch.testing.assert_close(images[1], one, rtol=1e-9, atol=1e-10)


@pytest.mark.slow
@each_case
def test_float32_image_agrees_with_float64(case):
    for psf in (PSF.stamp((61, 61)), None):
        single, two = (
            renderer(psf, dtype=dtype)(case.source(*CENTRE, 1.0, q=0.6, theta=0.4))
            for dtype in (torch.float32, torch.float64)
        )
        assert single.dtype == torch.float32
        # a thin edge falls on one side of a quadrature node or the other
        assert error(single, two.numpy()) < (2e-5 if psf is not None else 2e-4)


EXTREMES = [
    (models.King, (1e-3, 1e3, 0.2)),
    (models.King, (1e3, 1e-2, 9.0)),
    (models.Ferrer, (0.1, 0.05, 1.9)),
    (models.Ferrer, (900.0, 20.0, -2.0)),
    (models.Nuker, (1e-2, 50.0, 9.0, 1.4, 200.0)),
    (models.Nuker, (300.0, 0.1, 0.2, 0.0, 200.0)),
    (models.CoreSersic, (100.0, 10.0, 1e-2, 1.4, 50.0)),
    (models.CoreSersic, (1.0, 0.25, 10.0, 0.0, 0.1)),
    (models.BrokenExponential, (1e-2, 100.0, 50.0, 100.0)),
    (models.BrokenExponential, (100.0, 1e-2, 0.1, 1e-3)),
    (models.GaussianRing, (100.0, 1e-3)),
    (models.GaussianRing, (1e-2, 100.0)),
    (spline_light, (1e2, 1e-2, 1e2, 1e-2, 1e2)),
    (spline_light, (1e-30, 1e-30, 1.0, 1e-30, 1e-30)),
    (models.Spergel, (200.0, -0.7)),
    (models.Spergel, (0.05, 4.0)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("light", "shape"), EXTREMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("psf", [True, False], ids=["PSF", "no PSF"])
def test_image_and_gradient_are_finite_at_extremes(light, shape, dtype, psf):
    render = renderer(PSF.stamp((11, 13)) if psf else None, (14, 19), dtype=dtype)
    values = [torch.tensor(value, dtype=dtype, requires_grad=True) for value in (9.0, 6.0, 10.0, *shape)]
    image = render(light(*values, ellipticity=torch.zeros(2, dtype=dtype)))
    assert bool(image.isfinite().all())
    for gradient in torch.autograd.grad(image.square().sum(), values, allow_unused=True):
        assert gradient is None or bool(gradient.isfinite().all())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@each_case
def test_image_on_cuda_agrees_with_cpu(case):
    kernel = PSF.stamp((61, 61))
    on_gpu = renderer(kernel, device="cuda")(case.source(*CENTRE, 1.0, q=0.6, theta=0.4)).cpu()
    assert error(on_gpu, renderer(kernel)(case.source(*CENTRE, 1.0, q=0.6, theta=0.4)).numpy()) < 1e-11


def test_a_formula_alone_makes_a_profile():
    """What a profile of one's own needs: sech^2 in radius, with its closed total light, 2 pi ln 2."""

    class Sech(RadialProfile):
        hankel = staticmethod(map_with_a_break)
        shape = ()

        @staticmethod
        def formula(radius: Tensor) -> Tensor:
            return 2 * (math.log(2) - radius - torch.log1p(torch.exp(-2 * radius)))

    source = Sech(*CENTRE, 10.0, 2.0, q=0.6)
    assert float(source.log_light()) == pytest.approx(math.log(2 * math.pi * math.log(2)), abs=1e-7)
    case = Case(Sech, lambda r: np.cosh(r) ** -2, {}, (1.0,), 20.0)
    k = np.linspace(0.01, 4.0, 30)
    np.testing.assert_allclose(source.transform(torch.from_numpy(k**2)[None])[0], case.transforms(k), atol=1e-6)
    assert float(renderer(PSF.stamp((31, 31)))(source).sum()) == pytest.approx(10.0, rel=1e-2)
