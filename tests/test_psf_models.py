"""PSFs with parameters: the contract of their catalogue, their images against GalSim, and scenes that fit them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from test_malformed_inputs import Case, assert_refused
from torch import Tensor

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.light import Light
from bayesprof.psf import PSF, ProfilePSF
from bayesprof.rendering import renderer_for
from bayesprof.seeing import seeing

SHAPE = (60, 85)
POSITIONS = ((44.37, 27.82), (5.2, 55.4))  # in the middle, and in a corner
Q, THETA = 0.85, 0.5
ROUND = [0.03, -0.05]


@dataclass(frozen=True)
class Row:
    """One PSF model: its function, its class, a value for each parameter in the order of its sites, and options."""

    function: Callable[..., Any]
    light: Callable[..., Any]
    values: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    twice: bool = True  # check second derivatives: not where some are infinite, nor, to save time, of what others share

    @property
    def name(self) -> str:
        return self.function.__name__

    def psf(self, **options: Any) -> PSF:
        return self.light(**self.values, **{**self.options, **options})

    def component(self, **given: Any) -> Any:
        return self.function(**{**self.options, **given})


FINE_Y, FINE_X = np.mgrid[-10:11, -12:13] / 2
STAMP = (1 + (FINE_X**2 + FINE_Y**2) / 3.4) ** -2.8
BASIS = [0.1 * STAMP * shape for shape in (FINE_X**2 + FINE_Y**2 - 3, FINE_X**2 - FINE_Y**2, FINE_X * FINE_Y)]
DEVIATIONS = np.random.default_rng(4).normal(size=(5, 7))
COARSE = STAMP[6:15:2, 6:19:2]

CATALOGUE = [
    Row(models.gaussian_psf, models.GaussianPSF, {"fwhm": 3.1, "ellipticity": ROUND}),
    Row(models.moffat_psf, models.MoffatPSF, {"fwhm": 3.1, "beta": 2.7, "ellipticity": ROUND}),
    Row(
        models.double_moffat_psf,
        models.DoubleMoffatPSF,
        {"fwhm": 2.8, "beta": 3.7, "wing_fraction": 0.2, "wing_ratio": 2.3, "wing_beta": 2.4, "ellipticity": ROUND},
        twice=False,
    ),
    Row(models.airy_psf, models.AiryPSF, {"lambda_over_d": 2.3, "obscuration": 0.25}, twice=False),
    Row(
        models.zernike_psf,
        models.ZernikePSF,
        {"lambda_over_d": 2.3, "obscuration": 0.25, "aberrations": [0.04, -0.02, 0.03]},
        {"noll": (4, 5, 11)},
        twice=False,
    ),
    Row(
        models.eigen_psf,
        models.EigenPSF,
        {"coefficients": [0.3, -0.4, 0.5]},
        {"mean": STAMP, "basis": np.array(BASIS), "oversampling": 2},
    ),
    Row(
        models.pixel_psf,
        models.PixelPSF,
        {"deviations": DEVIATIONS.tolist()},
        {"mean": COARSE, "oversampling": 2},
        twice=False,
    ),
]
each_row = pytest.mark.parametrize("row", CATALOGUE, ids=lambda row: row.name)


def double(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def blank(shape: tuple[int, int] = SHAPE, **options: Any) -> bp.Image:
    return bp.Image(np.zeros(shape), sigma=1.0, **options)


def rendered(light: Light, psf: PSF, image: bp.Image | None = None) -> Tensor:
    return renderer_for(image or blank(), psf)(light, psf)


def error(found: Tensor, expected: np.ndarray | Tensor) -> float:
    expected = np.asarray(expected)
    return float(np.linalg.norm(found.numpy() - expected) / np.linalg.norm(expected))


# -- the contract


def test_catalogue_is_the_whole_of_the_psf_models():
    assert {name for name in models.__all__ if name.endswith("_psf")} == {row.name for row in CATALOGUE}
    assert {name for name in models.__all__ if name.endswith("PSF")} == {row.light.__name__ for row in CATALOGUE}


@each_row
def test_sites_are_the_parameters_in_their_order_and_come_before_those_of_the_components(row, simulated):
    image = simulated(models.PointSource(17.3, 11.8, 500.0))
    scene = bp.Scene(image, psf=row.component(), star=models.point_source())
    nodes = poutine.trace(scene).get_trace()
    assert nodes.stochastic_nodes == [f"psf.{name}" for name in row.values] + ["star.x", "star.y", "star.flux"]
    assert {f"psf.{name}" for name in row.values} <= set(scene.units)
    assert set(scene.dims) >= {f"psf.{name}" for name, value in row.values.items() if isinstance(value, list)}
    for name, start in scene.initial_values().items():
        assert bool(nodes.nodes[name]["fn"].log_prob(start).isfinite()), name


@each_row
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_default_priors_are_proper_and_draw_psfs(row, dtype):
    component = row.component().bind(blank(dtype=dtype))
    for _ in range(20):
        trace = poutine.trace(component).get_trace()
        trace.compute_log_prob()
        assert all(trace.nodes[name]["value"].dtype == dtype for name in row.values)
        assert bool(trace.log_prob_sum().isfinite())
        assert isinstance(trace.nodes["_RETURN"]["value"], PSF)


@each_row
def test_a_psf_has_unit_flux_about_the_origin(row):
    psf = row.psf()
    k = double([[0.0, 1e-3]])
    values = psf.transform_at(k, k.mT)
    assert complex(values[0, 0]) == pytest.approx(1.0, abs=1e-12)
    assert complex(values[0, 1]).imag == pytest.approx(0.0, abs=1e-9)


@each_row
@pytest.mark.parametrize("contains_pixel", [True, False], ids=["with pixel", "without pixel"])
def test_image_and_gradients_are_finite_and_every_parameter_matters(row, contains_pixel):
    values = {name: double(value).requires_grad_() for name, value in row.values.items()}
    psf = row.light(**values, **row.options, contains_pixel=contains_pixel)
    light = models.PointSource(9.3, 6.2, 5.0) + models.Sersic(8.0, 7.0, 10.0, 2.0, 1.3)
    image = rendered(light, psf, blank((14, 19)))
    assert bool(image.isfinite().all())
    weights = torch.randn(image.shape, dtype=torch.float64)
    for name, slope in zip(values, torch.autograd.grad((weights * image).sum(), values.values()), strict=True):
        assert bool(slope.isfinite().all()), name
        assert bool((slope != 0).all()), name


@each_row
def test_derivatives_are_those_of_differences(row):
    names, point = zip(*((name, double(value)) for name, value in row.values.items()), strict=True)
    weights = torch.randn(3, 14, 19, dtype=torch.float64)
    image = blank((14, 19))
    render = renderer_for(image, row.psf())

    def projected(*values: Tensor) -> Tensor:
        psf = row.light(**dict(zip(names, values, strict=True)), **row.options)
        light = models.PointSource(9.3, 6.2, 5.0) + models.Sersic(8.0, 7.0, 10.0, 2.0, 1.3)
        return (weights * render(light, psf)).sum((-1, -2))

    inputs = [value.requires_grad_() for value in point]
    assert torch.autograd.gradcheck(projected, inputs, eps=1e-5, atol=1e-5, rtol=1e-5, check_forward_ad=True)
    if row.twice:
        assert torch.autograd.gradgradcheck(projected, inputs, eps=1e-5, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("lambda_over_d", [2.0, 2.1], ids=["edge of the obscuration on itself", "on that of the pupil"])
@pytest.mark.parametrize("aberrations", [(), (0.04, -0.02, 0.03)], ids=["airy", "zernike"])
def test_differences_approach_derivatives_as_the_root_of_the_step_where_edges_touch(lambda_over_d, aberrations):
    """The transform begins as a power of 3/2 at one of the image's wavenumbers: a wrong derivative would stay wrong."""

    def light(obscuration: Tensor) -> Any:
        if aberrations:
            return models.ZernikePSF(lambda_over_d, obscuration, aberrations, noll=(4, 5, 11))
        return models.AiryPSF(lambda_over_d, obscuration)

    star, obscuration = models.PointSource(9.3, 6.2, 15.0), double(0.25)
    render = renderer_for(blank((14, 19)), light(obscuration))

    def image(obscuration: Tensor) -> Tensor:
        return render(star, light(obscuration))

    slope = torch.func.jacfwd(image)(obscuration)
    steps = (1e-4, 1e-6)
    errors = [
        float(((image(obscuration + h) - image(obscuration - h)) / (2 * h) - slope).norm() / slope.norm())
        for h in steps
    ]
    assert errors[1] < 1e-4
    assert errors[0] / errors[1] == pytest.approx(10.0, rel=0.1)  # 1e4 where the second derivative is finite


@each_row
def test_batches_and_vmap_give_the_images_of_a_loop(row):
    image = blank((14, 19))
    render = renderer_for(image, row.psf())
    scale = double([1.0, 0.93, 1.04])
    values = {name: double(value) for name, value in row.values.items()}
    batch = {name: torch.stack([value * s for s in scale]) for name, value in values.items()}

    def one(x: Tensor, **values: Tensor) -> Tensor:
        light = models.Sersic(x, 7.0, 10.0, 2.0, 1.3) + models.PointSource(12.0, 3.0, 4.0)
        return render(light, row.light(**values, **row.options))

    expected = [one(9.0 + s, **{name: value * s for name, value in values.items()}) for s in scale]
    together = one(9.0 + scale, **batch)
    assert together.shape == (3, 14, 19)
    torch.testing.assert_close(together, torch.stack(expected), rtol=1e-9, atol=1e-12)
    mapped = torch.func.vmap(lambda s, values: one(9.0 + s, **values))(scale, batch)
    torch.testing.assert_close(mapped, together, rtol=1e-9, atol=1e-12)


@each_row
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_image_and_gradients_are_finite_at_extremes(row, dtype):
    """Much narrower than a pixel, wider than the image, thin, at the ends of fractions."""
    ends = {
        "fwhm": (0.05, 60.0), "lambda_over_d": (0.3, 30.0), "ellipticity": ([0.0, 0.0], [0.5, 0.5]),
        "wing_fraction": (0.0, 1.0), "obscuration": (0.0, 0.95), "beta": (1.05, 50.0),
    }  # fmt: skip
    cases = [{name: end} for name in row.values for end in ends.get(name, ())]
    cases += [{name: (3 * np.array(row.values[name])).tolist()} for name in row.values if name not in ends]
    for changes in cases:
        values = {
            name: torch.tensor(value, dtype=dtype, requires_grad=True)
            for name, value in {**row.values, **changes}.items()
        }
        psf = row.light(**values, **row.options)
        light = models.PointSource(9.3, 6.2, 5.0) + models.Sersic(8.0, 7.0, 10.0, 2.0, 1.3)
        image = rendered(light, psf, blank((14, 19), dtype=dtype))
        assert bool(image.isfinite().all()), changes
        for name, slope in zip(values, torch.autograd.grad(image.square().sum(), values.values()), strict=True):
            assert bool(slope.isfinite().all()), (changes, name)


@each_row
def test_description_has_every_parameter_with_its_prior(row):
    image = bp.Image(np.random.default_rng(0).normal(5.0, 1.0, (26, 33)), sigma=1.0)
    described = models.describe(row.component(), image)
    assert set(row.values) <= set(described.table["parameter"])
    assert all(name in repr(described) for name in row.values)


SLOW_TO_FIT = ("double_moffat_psf", "zernike_psf")


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=pytest.mark.slow) if row.name in SLOW_TO_FIT else row for row in CATALOGUE],
    ids=[row.name for row in CATALOGUE],
)
def test_fit_recovers_the_psf_of_a_simulated_star(row):
    psf, star = row.psf(), {"x": 14.3, "y": 11.8, "flux": 20000.0}
    truth = rendered(models.PointSource(**star), psf, blank((25, 30))).numpy()
    data = truth + np.random.default_rng(2).normal(0.0, 1.0, truth.shape)
    fit = inference.lm(bp.Scene(bp.Image(data, sigma=1.0), psf=row.component(), star=models.point_source()))
    assert fit.converged, fit.message
    assert fit.chi2 == pytest.approx(fit.dof, abs=4 * math.sqrt(2 * fit.dof))
    for name, value in row.values.items():
        found = fit.params[f"psf.{name}"]
        if name == "aberrations":  # all of even symmetry: the opposite wavefront makes the same PSF
            found = found * np.sign(found[0] * value[0])
        assert (np.abs(found - np.array(value)) < 4 * np.array(fit.std[f"psf.{name}"])).all(), name


@each_row
def test_float32_agrees_with_float64(row):
    light = models.Sersic(44.3, 27.8, 1.0, 3.0, 1.5, q=0.6, theta=0.4)
    single = rendered(light, row.psf(), blank(dtype=torch.float32))
    assert single.dtype == torch.float32
    assert error(single, rendered(light, row.psf())) < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@each_row
def test_image_on_cuda_agrees_with_cpu(row):
    light = models.Sersic(44.3, 27.8, 1.0, 3.0, 1.5, q=0.6, theta=0.4) + models.PointSource(20.0, 30.0, 3.0)
    on_gpu = rendered(light, row.psf(), blank(device="cuda")).cpu()
    assert error(on_gpu, rendered(light, row.psf())) < 1e-11


@pytest.mark.parametrize("row", CATALOGUE[:-1], ids=lambda row: row.name)  # the last is a stamp itself
def test_image_is_that_with_the_same_psf_as_an_oversampled_stamp(row):
    """The stamp is computed from the transform, on a grid without the ends that the stamp has."""
    psf = row.psf()
    step, size = psf.oversampling, 120 * psf.oversampling + 1
    k = 2 * math.pi * step * torch.fft.fftfreq(size, dtype=torch.float64)
    stamp = torch.fft.fftshift(torch.fft.ifft2(psf.transform_at(k[None, :], k[:, None])).real)
    sampled = blank(psf=stamp, psf_oversampling=step, psf_contains_pixel=psf.contains_pixel)
    light = models.Sersic(44.37, 27.82, 10.0, 3.0, 1.5, q=0.6, theta=0.4) + models.PointSource(20.4, 30.1, 3.0)
    # half a hundredth of the light of a PSF limited by diffraction is in rings outside the stamp
    rings = row.light in (models.AiryPSF, models.ZernikePSF)
    assert error(rendered(light, psf), renderer_for(sampled)(light)) < (5e-4 if rings else 1e-4)


@each_row
def test_default_priors_are_those_that_their_formulas_state(row, simulated):
    image = simulated(models.PointSource(17.3, 11.8, 500.0))
    component = row.component()
    bound = component.bind(image)
    found = bp.measurement.measure(image)
    for name in row.values:
        default = component.parameters[name].default(found, image)
        numbers = [float(text) for text in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", default.formula)]
        prior = bound.sources[name]
        if default.formula.startswith("LogNormal(ln"):
            assert type(prior) is dist.LogNormal, name
            assert [math.exp(prior.loc), float(prior.scale)] == pytest.approx(numbers[:2], rel=1e-3)
        elif default.formula.startswith("isotropic"):
            assert isinstance(prior, models.Ellipticity)
            assert float(prior.scale) == numbers[-1]
        elif default.formula.startswith("Normal(0, "):
            assert type(prior.base_dist) is dist.Normal
            assert bool((prior.mean == 0).all())
            assert bool((prior.stddev == numbers[1]).all())
        elif default.formula.startswith("Uniform("):
            assert [float(prior.low), float(prior.high)] == numbers
        else:
            low, width, a, b = numbers
            assert default.formula == f"{low:g} + {width:g} Beta({a:g}, {b:g})"
            assert float(prior.mean) == pytest.approx(low + width * a / (a + b), rel=1e-6)


def test_axis_ratio_and_angle_may_stand_in_for_ellipticity():
    size = (1 - Q) / (1 + Q)
    vector = [size * math.cos(2 * THETA), size * math.sin(2 * THETA)]
    star = models.PointSource(*POSITIONS[0], 1.0)
    by_angle, by_vector = models.MoffatPSF(3.0, 2.7, q=Q, theta=THETA), models.MoffatPSF(3.0, 2.7, ellipticity=vector)
    assert error(rendered(star, by_angle), rendered(star, by_vector)) < 1e-12
    sites = poutine.trace(models.moffat_psf(q=0.9).bind(blank())).get_trace().stochastic_nodes
    assert sites == ["fwhm", "beta", "theta"]


def test_eigen_psf_is_the_normalised_sum_of_its_stamps():
    psf = models.EigenPSF([0.3, -0.4, 0.5], STAMP, BASIS, oversampling=2)
    stamp = STAMP + 0.3 * BASIS[0] - 0.4 * BASIS[1] + 0.5 * BASIS[2]
    sampled = blank(psf=stamp, psf_oversampling=2)
    light = models.Sersic(44.37, 27.82, 10.0, 3.0, 1.5, q=0.6, theta=0.4) + models.PointSource(20.4, 30.1, 3.0)
    assert error(rendered(light, psf), renderer_for(sampled)(light)) < 1e-5


def test_pixel_psf_is_its_stamp_with_the_centroid_at_the_origin():
    psf = models.PixelPSF(DEVIATIONS, COARSE, scatter=0.4)
    assert bool((psf.stamp > 0).all())
    y, x = np.mgrid[-2:3, -3:4]
    centroid = (psf.stamp.numpy() * x).sum(), (psf.stamp.numpy() * y).sum()
    assert math.hypot(*centroid) > 0.01
    star = rendered(models.PointSource(40.0 + centroid[0], 30.0 + centroid[1], 5.0), psf).numpy()
    expected = np.zeros(SHAPE)
    expected[28:33, 37:44] = 5.0 * psf.stamp.numpy()
    np.testing.assert_allclose(star, expected, atol=1e-10)


def test_prior_of_the_pixels_has_the_stated_scatter_and_smoothness():
    draws = models.PixelPSF(torch.randn(4000, 5, 7, dtype=torch.float64), np.ones((5, 7)), scatter=0.4, smoothness=1.5)
    log = torch.log(draws.stamp)
    difference = (log[:, 2, 3] - log[:, 2, 4]).std()
    # of two pixels with variance 0.4^2 each and correlation exp(-1 / (2 1.5^2))
    assert float(difference) == pytest.approx(0.4 * math.sqrt(2 * (1 - math.exp(-1 / 4.5))), rel=0.05)


def test_fit_of_free_pixels_finds_the_psf_behind_a_wrong_guess():
    y, x = np.mgrid[-3:4, -3:4].astype(float)
    true, guess = np.exp(-0.5 * (x**2 + (y / 0.8) ** 2) / 1.5**2), np.exp(-0.5 * (x**2 + y**2) / 1.9**2)
    stars = {f"star{i}": models.point_source(x=4.0 + 8 * i, y=5.0, flux=3000.0) for i in range(3)}
    truth = bp.Scene(bp.Image(np.zeros((11, 25)), sigma=1.0, psf=true), **stars).predict().numpy()
    image = bp.Image(truth + np.random.default_rng(3).normal(0.0, 1.0, truth.shape), sigma=1.0)
    fit = inference.lm(bp.Scene(image, psf=models.pixel_psf(guess, scatter=0.5), **stars))
    assert fit.converged, fit.message
    scene = bp.Scene(image, psf=models.pixel_psf(guess, scatter=0.5), **stars)
    before = scene.predict({"psf.deviations": np.zeros((7, 7))})
    assert error(scene.predict(fit), truth) < 0.02 < 0.1 * error(before, truth)


# -- against GalSim


def galsim_image(
    psf: Any, disk: bool, position: tuple[float, float], *, pixel: bool, folding: float = 1e-5
) -> np.ndarray:
    """A star, or an exponential disk (r_eff 4, q 0.5, theta 0.3), of flux 1."""
    import galsim

    settings = galsim.GSParams(
        folding_threshold=folding,
        maxk_threshold=1e-6,
        kvalue_accuracy=1e-8,
        stepk_minimum_hlr=20,
        maximum_fft_size=16384,
    )
    parts = [psf.withGSParams(settings)]
    if disk:
        light = galsim.Exponential(half_light_radius=4 * math.sqrt(0.5), gsparams=settings)
        parts.append(light.shear(q=0.5, beta=0.3 * galsim.radians))
    if pixel:
        parts.append(galsim.Pixel(1.0, gsparams=settings))
    (ny, nx), (x, y) = SHAPE, position
    offset = (x - (nx - 1) / 2, y - (ny - 1) / 2)
    seen = galsim.Convolve(parts, gsparams=settings)
    return seen.drawImage(nx=nx, ny=ny, scale=1.0, method="no_pixel", offset=offset, dtype=float).array


def our_image(psf: PSF, disk: bool, position: tuple[float, float]) -> Tensor:
    source: Light = models.PointSource(*position, 1.0)
    if disk:
        source = models.Exponential(*position, 1.0, 4.0, q=0.5, theta=0.3)
    return rendered(source, psf)


@pytest.mark.parametrize("disk", [False, True], ids=["star", "disk"])
@pytest.mark.parametrize("position", POSITIONS, ids=["middle", "corner"])
@pytest.mark.parametrize("pixel", [True, False], ids=["pixel", "no pixel"])
@pytest.mark.parametrize("fwhm", [2.0, 2.7, 5.0])
@pytest.mark.parametrize("beta", [None, 2.5, 4.765], ids=["gaussian", "moffat 2.5", "moffat 4.765"])
def test_image_agrees_with_galsim(beta, fwhm, pixel, position, disk):
    galsim = pytest.importorskip("galsim")
    # a star that no pixel smooths has twice the wavenumbers
    options = {"contains_pixel": not pixel, "oversampling": 3 if fwhm == 2.0 and not pixel else 2}
    psf: PSF
    if beta is None:
        psf = models.GaussianPSF(fwhm, q=Q, theta=THETA, **options)
        reference = galsim.Gaussian(fwhm=fwhm * math.sqrt(Q))
    else:
        psf = models.MoffatPSF(fwhm, beta, q=Q, theta=THETA, **options)
        reference = galsim.Moffat(beta, fwhm=fwhm * math.sqrt(Q))
    reference = reference.shear(q=Q, beta=THETA * galsim.radians)
    found, expected = our_image(psf, disk, position), galsim_image(reference, disk, position, pixel=pixel)
    assert error(found, expected) < 5e-5


@pytest.mark.parametrize("disk", [False, True], ids=["star", "disk"])
@pytest.mark.parametrize("pixel", [True, False], ids=["pixel", "no pixel"])
@pytest.mark.parametrize(("lambda_over_d", "obscuration"), [(1.2, 0.0), (2.0, 0.3), (3.0, 0.2)])
def test_airy_image_agrees_with_galsim(lambda_over_d, obscuration, pixel, disk):
    galsim = pytest.importorskip("galsim")
    psf = models.AiryPSF(lambda_over_d, obscuration, contains_pixel=not pixel)
    reference = galsim.Airy(lam_over_diam=lambda_over_d, obscuration=obscuration)
    # rings hold light so far out that GalSim can't hold 1e-5 of it
    expected = galsim_image(reference, disk, POSITIONS[1], pixel=pixel, folding=2e-4)
    assert error(our_image(psf, disk, POSITIONS[1]), expected) < 1e-4


def test_double_moffat_image_agrees_with_galsim():
    galsim = pytest.importorskip("galsim")
    psf = models.DoubleMoffatPSF(2.5, 3.5, 0.25, 2.0, 2.5)
    reference = 0.75 * galsim.Moffat(3.5, fwhm=2.5) + 0.25 * galsim.Moffat(2.5, fwhm=5.0)
    for disk in (False, True):
        expected = galsim_image(reference, disk, POSITIONS[0], pixel=True)
        assert error(our_image(psf, disk, POSITIONS[0]), expected) < 5e-5


def test_airy_transform_and_its_slopes_are_finite_where_circles_touch():
    k = math.pi * double(
        [[0.0, 0.35, 0.7, 1.0, 1.3, 2.0, 2.5]]
    )  # for lambda/D = 1: the distance of the discs, times pi

    def transform(values: Tensor) -> Tensor:
        return models.AiryPSF(values[0], values[1]).transform_at(k, double([[0.0]]))

    for obscuration in (0.0, 0.3):
        point = double([1.0, obscuration])
        assert bool(torch.func.jacrev(transform)(point).isfinite().all())
        assert bool(torch.func.jacfwd(torch.func.jacfwd(transform))(point).isfinite().all())
        assert float(transform(point)[0, -1]) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("beta", [1.3, 2.0, 3.0])
@pytest.mark.parametrize("galaxy", [False, True], ids=["star", "galaxy"])
def test_wings_that_reach_beyond_the_image_do_not_come_back(galaxy, beta):
    psf = models.MoffatPSF(4.0, beta, q=Q, theta=THETA)
    ny, nx = SHAPE
    large = blank((5 * ny, 5 * nx))

    def light(x: float, y: float) -> Light:
        shape = {"q": 0.5, "theta": 0.3}
        return models.Sersic(x, y, 1.0, 5.0, 2.5, **shape) if galaxy else models.PointSource(x, y, 1.0)

    for x, y in POSITIONS:
        whole = rendered(light(x + 2 * nx, y + 2 * ny), psf, large)[2 * ny : 3 * ny, 2 * nx : 3 * nx]
        # with beta 1.3 a tenth of the light is off the image, and a galaxy's is its own smeared by the wings' extent
        assert error(rendered(light(x, y), psf), whole) < (5e-3 if beta == 1.3 and galaxy else 1e-4)


# -- scenes

TRUE_PSF = {"fwhm": 2.8, "beta": 3.2, "ellipticity": [0.05, -0.03]}
STARS = ((8.3, 9.1, 2000.0), (33.7, 12.4, 3000.0), (14.6, 33.2, 1500.0), (37.1, 30.8, 2500.0))
GALAXY = {"x": 23.4, "y": 20.7, "flux": 3000.0, "r_eff": 3.5, "n": 1.4, "ellipticity": [0.2, 0.1]}


@pytest.fixture(scope="module")
def field_image() -> bp.Image:
    psf = models.MoffatPSF(**TRUE_PSF)
    light = models.Sersic(**GALAXY) + models.FlatSky(2.0)
    for star in STARS:
        light = light + models.PointSource(*star)
    truth = rendered(light, psf, blank((40, 46))).numpy()
    return bp.Image(truth + np.random.default_rng(8).normal(0.0, 1.0, truth.shape), sigma=1.0)


def field_scene(image: bp.Image, **options: Any) -> bp.Scene:
    def about(x: float, y: float) -> dict[str, Any]:
        return {"x": dist.Normal(double(round(x)), 1.0), "y": dist.Normal(double(round(y)), 1.0)}

    stars = {
        f"star{i}": models.point_source(**about(x, y), flux=dist.LogNormal(math.log(flux), 0.5))
        for i, (x, y, flux) in enumerate(STARS)
    }
    galaxy = models.sersic(
        **about(GALAXY["x"], GALAXY["y"]), flux=dist.LogNormal(double(7.5), 1.0), r_eff=dist.LogNormal(double(1.0), 0.5)
    )
    return bp.Scene(image, **{"psf": models.moffat_psf(), **options}, sky=models.flat_sky(), galaxy=galaxy, **stars)


@pytest.fixture(scope="module")
def field_fit(field_image) -> tuple[bp.Scene, Any]:
    scene = field_scene(field_image)
    start = {"flux": 2000.0, "r_eff": 3.0, "n": 1.2, "ellipticity": [0.05, 0.05]}
    return scene, inference.lm(scene, init={f"galaxy.{name}": value for name, value in start.items()})


def test_fit_recovers_the_psf_and_the_galaxy(field_fit):
    _, fit = field_fit
    assert fit.converged, fit.message
    assert fit.chi2 == pytest.approx(fit.dof, abs=4 * math.sqrt(2 * fit.dof))
    truth = {f"psf.{name}": value for name, value in TRUE_PSF.items()}
    truth |= {f"galaxy.{name}": value for name, value in GALAXY.items()}
    truth |= {f"star{i}.{name}": star[j] for i, star in enumerate(STARS) for j, name in enumerate(("x", "y", "flux"))}
    for site, value in truth.items():
        assert (np.abs(fit.params[site] - np.array(value)) < 4 * np.array(fit.std[site])).all(), site


@pytest.mark.slow
def test_posterior_and_what_is_saved_of_it_hold_the_psf(field_fit, tmp_path):
    scene, fit = field_fit
    post = inference.laplace(scene, init=fit, draws=200)
    assert {"psf.fwhm", "psf.beta", "psf.ellipticity"} <= set(post.posterior)
    assert post.posterior["psf.ellipticity"].dims[-1] == "ellipticity_component"
    assert not any(name.endswith("_psf") for name in post.constant_data)
    assert post.posterior["psf.fwhm"].attrs["units"] == "pixel"
    assert float(post.posterior["psf.fwhm"].mean()) == pytest.approx(TRUE_PSF["fwhm"], abs=0.05)


def test_captured_density_is_that_of_the_scene(field_fit):
    scene, fit = field_fit
    posterior = inference.Posterior(scene)
    z = torch.as_tensor(fit.z) + 0.01 * torch.randn(posterior.size, dtype=torch.float64)
    values = posterior.constrain(z)
    nodes = poutine.trace(poutine.condition(scene, data=values)).get_trace()
    likelihood = posterior.log_density(z) - posterior.log_prior(z)
    nodes.compute_log_prob()
    assert float(likelihood) == pytest.approx(float(nodes.nodes["image"]["log_prob_sum"]), rel=1e-10)
    torch.testing.assert_close(
        posterior.value_and_grad(torch.stack([z, z + 0.01]))[1][0], posterior.value_and_grad(z)[1], rtol=1e-8, atol=1e-6
    )


@pytest.mark.slow
def test_nuts_runs_on_a_scene_with_a_psf(field_image):
    galaxy = models.sersic(**GALAXY)
    stars = {f"star{i}": models.point_source(x=x, y=y, flux=flux) for i, (x, y, flux) in enumerate(STARS)}
    scene = bp.Scene(field_image, psf=models.moffat_psf(), sky=models.flat_sky(), galaxy=galaxy, **stars)
    fit = inference.lm(scene)
    post = inference.nuts(scene, init=fit, draws=200, warmup=100, chains=2, seed=1)
    draws = post.posterior["psf.beta"]
    assert draws.shape == (2, 200)
    assert float(draws.mean()) == pytest.approx(fit.params["psf.beta"], abs=fit.std["psf.beta"])
    assert float(draws.std()) == pytest.approx(fit.std["psf.beta"], rel=0.3)


def test_predict_needs_the_psf_and_renders_single_components_with_it(field_fit):
    scene, fit = field_fit
    alone = scene.predict(fit, components="star1")
    values = {name: double(fit.params[f"psf.{name}"]) for name in TRUE_PSF}
    star = models.PointSource(*(fit.params[f"star1.{name}"] for name in ("x", "y", "flux")))
    expected = rendered(star, models.MoffatPSF(**values), scene.image)
    torch.testing.assert_close(alone, expected, rtol=1e-9, atol=1e-9)
    missing = {name: value for name, value in fit.params.items() if name != "psf.beta"}
    with pytest.raises(ValueError, match=r"psf\.beta"):
        scene.predict(missing)


def test_light_of_ones_own_is_a_psf(field_image):
    def core_and_halo() -> Light:
        fwhm = pyro.sample("fwhm", dist.LogNormal(1.0, 0.2))
        halo = pyro.sample("halo", dist.Beta(1.0, 9.0))
        return models.Gaussian(0.0, 0.0, 1 - halo, 0.5 * fwhm) + models.Moffat(0.0, 0.0, halo, 2 * fwhm, 2.0)

    scene = bp.Scene(field_image, psf=core_and_halo, star=models.point_source(x=23.0, y=20.0, flux=100.0))
    found = scene.predict({"psf.fwhm": 3.0, "psf.halo": 0.2})
    light = models.Gaussian(0.0, 0.0, 8.0, 1.5) + models.Moffat(0.0, 0.0, 2.0, 6.0, 2.0)  # in proportion
    expected = rendered(models.PointSource(23.0, 20.0, 100.0), ProfilePSF(light), field_image)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    apart = rendered(models.PointSource(23.0, 20.0, 80.0), models.GaussianPSF(3.0), field_image) + rendered(
        models.PointSource(23.0, 20.0, 20.0), ProfilePSF(models.Moffat(0.0, 0.0, 1.0, 6.0, 2.0)), field_image
    )
    assert error(found, apart) < 1e-6


def test_psf_of_the_image_gives_the_default_prior_and_nothing_else(simulated):
    image = simulated(models.PointSource(17.3, 11.8, 500.0))
    assert seeing(image).fwhm == pytest.approx(2 * math.sqrt(3.4 * (2 ** (1 / 2.8) - 1)), rel=0.05)
    psf = models.gaussian_psf(fwhm=4.0, ellipticity=[0.0, 0.0])
    star = models.point_source(x=17.3, y=11.8, flux=500.0)
    without = bp.Image(image.data, sigma=0.5)
    torch.testing.assert_close(
        bp.Scene(image, psf=psf, star=star).predict(), bp.Scene(without, psf=psf, star=star).predict()
    )


@pytest.mark.parametrize("fwhm", [2.2, 3.5, 5.0])
def test_seeing_is_measured_on_the_stars(fwhm):
    light: Light = models.Sersic(20.0, 50.0, 4000.0, 6.0, 1.0, q=0.6, theta=0.4) + models.FlatSky(5.0)
    for x, y in ((10.2, 12.7), (33.1, 8.4), (60.5, 41.9), (70.3, 20.2)):
        light = light + models.PointSource(x, y, 3000.0)
    truth = rendered(light, models.GaussianPSF(fwhm)).numpy()
    noisy = bp.Image(truth + np.random.default_rng(1).normal(0.0, 1.0, SHAPE), sigma=1.0)
    assert seeing(noisy).fwhm == pytest.approx(math.hypot(fwhm, 0.68), rel=0.1)  # a pixel is like a FWHM of 0.68
    assert seeing(blank()) == (3.0, "")


# -- what is refused

IMAGE = blank((20, 30))
STAR = models.point_source()
MALFORMED = [
    Case(
        "a galaxy",
        lambda: bp.Scene(IMAGE, psf=models.sersic(x=3.0, y=2.0), star=STAR),
        ValueError,
        ("psf", "(0, 0)", "3.0"),
        "hold both at 0",
    ),
    Case("a sky", lambda: bp.Scene(IMAGE, psf=models.flat_sky(), star=STAR), TypeError, ("FlatSky",), "models.Moffat"),
    Case(
        "a light",
        lambda: bp.Scene(IMAGE, psf=models.MoffatPSF(3.0, 2.5), star=STAR),
        TypeError,
        ("psf", "is a light"),
        "lambda",
    ),
    Case(
        "an array", lambda: bp.Scene(IMAGE, psf=np.ones((3, 3)), star=STAR), TypeError, ("psf", "ndarray"), "function"
    ),
    Case("nothing", lambda: bp.Scene(IMAGE, psf=lambda: None, star=STAR), TypeError, ("psf", "NoneType"), "MoffatPSF"),
    Case(
        "a source",
        lambda: bp.Scene(IMAGE, star=models.moffat_psf()),
        ValueError,
        ("not a source",),
        "Scene(image, psf=",
    ),
    Case("width", lambda: models.gaussian_psf(fwhm=-1.0), ValueError, ("gaussian_psf", "fwhm > 0"), "correct"),
    Case("beta", lambda: models.moffat_psf(beta=1.0), ValueError, ("moffat_psf", "beta in [1.2, 30]"), "correct"),
    Case(
        "shapes of stamps",
        lambda: models.eigen_psf(STAMP, [COARSE]),
        ValueError,
        ("(21, 25)", "(1, 5, 7)"),
        "(count, h, w)",
    ),
    Case("count", lambda: models.EigenPSF([0.1], STAMP, BASIS), ValueError, ("3 coefficients", "(1,)"), "one for each"),
    Case("infinite", lambda: models.eigen_psf(np.inf * STAMP, BASIS), ValueError, ("finite mean",), "other values"),
    Case("dark", lambda: models.eigen_psf(0 * STAMP, BASIS), ValueError, ("positive sum", "0"), "background"),
    Case("zero pixel", lambda: models.pixel_psf(np.eye(5)), ValueError, ("20 other pixels",), "np.maximum"),
    Case("scatter", lambda: models.pixel_psf(COARSE, scatter=0.0), ValueError, ("scatter > 0", "0.0"), "expected"),
    Case("pixels", lambda: models.PixelPSF(DEVIATIONS, STAMP), ValueError, ("(21, 25)", "(5, 7)"), "(..., h, w)"),
    Case("noll", lambda: models.zernike_psf(noll=(3, 4)), ValueError, ("noll", "(3, 4)"), ">= 4"),
    Case("twice", lambda: models.zernike_psf(noll=(4, 4)), ValueError, ("different", "(4, 4)"), ">= 4"),
    Case("aberrations", lambda: models.ZernikePSF(2.0, 0.0, [0.1]), ValueError, ("8 aberrations", "(1,)"), "one for"),
    Case("sampling", lambda: models.GaussianPSF(3.0, oversampling=0), ValueError, ("oversampling", "0"), ">= 1"),
    Case("reach", lambda: models.GaussianPSF(3.0, reach=2.5), ValueError, ("reach", "2.5"), "whole number"),
    Case("pixel", lambda: models.GaussianPSF(3.0, contains_pixel=1), TypeError, ("contains_pixel", "1"), "True or"),
    Case(
        "two shapes",
        lambda: models.moffat_psf(q=0.9, ellipticity=[0.1, 0.0]),
        ValueError,
        ("either ellipticity or q",),
        "leave one",
    ),
]


@each_row
def test_unknown_parameter_is_refused(row):
    with pytest.raises(TypeError, match="unexpected keyword argument 'seeing'"):
        row.component(seeing=4.0)


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.label)
def test_malformed_psf_is_refused_with_a_remedy(case):
    assert_refused(case)
