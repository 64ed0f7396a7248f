"""Rendered images against oracles, their derivatives against differences, and the symmetries that they must have."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from oracles import Moffat, Source, convolved, error, galsim_image, hankel_transform, integrated
from scipy.special import gammaincinv
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import bayesprof as bp
from bayesprof import models
from bayesprof.light import Light, Profile, stacked
from bayesprof.lookup import look_up
from bayesprof.models.sersic import sersic_table, sersic_transform
from bayesprof.rendering import Renderer, renderer_for

SHAPE = (60, 85)
CENTRE = (44.37, 27.82)
PSF = Moffat(3.5, 3.5)


def renderer(psf: np.ndarray | None = None, shape: tuple[int, int] = SHAPE, **options) -> Renderer:
    return renderer_for(bp.Image(np.zeros(shape), psf=psf, **options))


@pytest.fixture(scope="module")
def seeing() -> Renderer:
    return renderer(PSF.stamp((121, 151)))


@pytest.fixture(scope="module")
def pixels() -> Renderer:
    return renderer()


@pytest.fixture(scope="module")
def small() -> dict[str, Renderer]:
    """Renderers of a small image, for derivatives."""
    stamp = Moffat(3.0, 3.0).stamp((11, 13))
    return {"PSF": renderer(stamp, (14, 19)), "no PSF": renderer(None, (14, 19))}


BOTH = pytest.mark.parametrize("kind", ["PSF", "no PSF"])


def light(source: Source, flux: float = 1.0) -> models.Sersic:
    return models.Sersic(source.x, source.y, flux, source.r_eff, source.n, q=source.q, theta=source.theta)


def sources(*rows: tuple[float, float, float, float]):
    """Parametrises over (n, r_eff, q, theta)."""
    found = [Source(*CENTRE, r_eff, n, q, theta) for n, r_eff, q, theta in rows]
    return pytest.mark.parametrize("source", found, ids=lambda s: f"n{s.n:g}-r{s.r_eff:g}-q{s.q:g}")


# -- against oracles


GRID = [
    (n, r_eff, q, theta)
    for n in (0.5, 1.0, 2.5, 4.0, 6.0)
    for (r_eff, q, theta) in ((0.5, 0.3, 0.4), (2.0, 0.6, 2.3), (7.0, 0.3, 1.1), (7.0, 1.0, 0.0), (20.0, 0.6, 2.9))
]


@sources(*GRID)
def test_image_with_a_psf_is_exact(source, seeing):
    large = source.r_eff > SHAPE[0] / 8 and source.n >= 4
    assert error(seeing(light(source)), convolved(source, PSF, SHAPE, period=384)) < (1e-3 if large else 1e-4)


@sources(*GRID)
def test_image_without_a_psf_is_integrated_over_pixels(source, pixels):
    assert error(pixels(light(source)), integrated(source, SHAPE)) < 1e-3


@sources((0.5, 2.0, 0.6, 0.4), (1.0, 7.0, 0.3, 2.3), (2.5, 0.5, 0.3, 1.1), (4.0, 2.0, 0.6, 2.9))
def test_image_agrees_with_galsim(source, seeing):
    reference = galsim_image(source, PSF, SHAPE)
    assert error(convolved(source, PSF, SHAPE), reference) < 1e-5  # the oracle of the tests above
    assert error(seeing(light(source)), reference) < 1e-4


@sources((0.5, 4.0, 0.6, 0.4), (1.0, 7.0, 0.3, 2.3))
def test_pixel_integration_agrees_with_galsim(source, pixels):
    reference = galsim_image(source, None, SHAPE)
    assert error(integrated(source, SHAPE), reference) < 1e-5
    assert error(pixels(light(source)), reference) < 1e-4


@sources((1.0, 20.0, 0.6, 2.9), (2.5, 20.0, 1.0, 0.0), (2.5, 20.0, 0.3, 1.31), (4.0, 20.0, 0.6, 2.9))
def test_large_galaxy_under_a_small_psf_is_exact(source):
    """A small stamp leaves the transform its smallest period: the periodic copies come closest."""
    compact = Moffat(3.5, 20.0)
    bound = 1e-3 if source.n >= 4 else 1e-4
    assert error(renderer(compact.stamp((31, 31)))(light(source)), convolved(source, compact, SHAPE)) < bound


@pytest.mark.parametrize("with_pixel", [True, False], ids=["with pixel", "without pixel"])
@pytest.mark.parametrize("times", [2, 3])
@sources((0.5, 0.5, 0.3, 0.4), (4.0, 2.0, 0.6, 2.3), (1.0, 7.0, 1.0, 0.0))
def test_undersampled_image_with_an_oversampled_psf_is_exact(source, times, with_pixel):
    narrow = Moffat(2.0, 3.5)
    stamp = narrow.stamp((80 * times + 1, 100 * times + 1), oversampling=times, with_pixel=with_pixel)
    render = renderer(stamp, psf_oversampling=times, psf_contains_pixel=with_pixel)
    assert error(render(light(source)), convolved(source, narrow, SHAPE, period=384)) < 1e-4


@pytest.mark.parametrize("beta", [2.5, 4.765])
@sources((4.0, 2.0, 0.3, 2.3), (0.5, 0.5, 1.0, 0.0))
def test_wings_of_the_psf_do_not_matter(source, beta):
    psf = Moffat(3.5, beta)
    render = renderer(psf.stamp((179, 253)))
    assert error(render(light(source)), convolved(source, psf, SHAPE, period=384)) < 1e-4


def test_optical_psf_on_the_native_grid_is_integrated_over_pixels():
    psf = Moffat(4.0, 3.5)
    source = Source(*CENTRE, 2.0, 1.0, 0.6, 0.4)
    render = renderer(psf.stamp((121, 151), with_pixel=False), psf_contains_pixel=False)
    assert error(render(light(source)), convolved(source, psf, SHAPE, period=384)) < 2e-4


@pytest.mark.parametrize("where", [CENTRE, (44.0, 28.0), (20.5, 30.5), (3.2, 56.9)])
def test_point_source_is_the_shifted_psf(where, seeing):
    found = seeing(models.PointSource(*where, 1.0))
    assert (
        error(found, convolved(where, PSF, SHAPE)) < 2e-4
    )  # compacter than any galaxy: all of the alias model's error


@pytest.mark.parametrize("kind", ["PSF", "no PSF"])
@pytest.mark.parametrize("n", [0.5, 1.0, 2.5, 4.0])
def test_float32_image_agrees_with_float64(kind, n):
    kernel = PSF.stamp((61, 61)) if kind == "PSF" else None
    source = Source(*CENTRE, 4.0, n, 0.4, 2.3)
    single, double = renderer(kernel, dtype=torch.float32)(light(source)), renderer(kernel)(light(source))
    assert single.dtype == torch.float32
    assert error(single, double.numpy()) < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["PSF", "no PSF"])
def test_image_on_cuda_agrees_with_cpu(kind, dtype):
    kernel = PSF.stamp((61, 61)) if kind == "PSF" else None
    source = light(Source(*CENTRE, 4.0, 2.5, 0.4, 2.3))
    on_gpu = renderer(kernel, dtype=dtype, device="cuda")(source).cpu()
    assert error(on_gpu, renderer(kernel)(source).numpy()) < (1e-5 if dtype == torch.float32 else 1e-11)


# -- the transform


@pytest.mark.parametrize("n", [0.3, 0.5, 1.0, 2.5, 4.0, 8.0])
def test_exact_transform_agrees_with_quadrature_of_its_definition(n):
    for kappa in (0.01, 0.3, 1.0, 3.0, 20.0):
        assert sersic_transform(np.array([kappa]), n)[0] == pytest.approx(hankel_transform(kappa, n), abs=1e-10)


def test_exact_transform_agrees_with_closed_forms():
    k = np.geomspace(1e-4, 100.0, 50)
    np.testing.assert_allclose(sersic_transform(k, 0.5), np.exp(-(k**2) / (4 * math.log(2))), atol=1e-10)
    np.testing.assert_allclose(sersic_transform(k, 1.0), (1 + (k / gammaincinv(2, 0.5)) ** 2) ** -1.5, atol=1e-10)


@pytest.mark.parametrize("n", [0.25, 0.3, 0.5, 1.0, 1.37, 4.0, 6.2, 8.0, 10.0])
def test_tabulated_transform_and_its_derivatives_are_those_of_the_exact_one(n):
    kappa = np.geomspace(1e-4, 1e4, 400)
    t = torch.from_numpy(np.log1p((kappa / 1e-3) ** 2))[None, :]
    log_n = torch.tensor(math.log(n), dtype=torch.float64)
    table = sersic_table()
    found, in_log_n = torch.func.jvp(lambda p: look_up(table, t, p), (log_n,), (torch.ones_like(log_n),))
    np.testing.assert_allclose(found[0], sersic_transform(kappa, n), atol=5e-7)
    if 0.25 < n < 10.0:
        ahead, behind = (sersic_transform(kappa, n * math.exp(step)) for step in (1e-4, -1e-4))
        np.testing.assert_allclose(in_log_n[0], (ahead - behind) / 2e-4, atol=1e-5)


def test_table_is_one_at_zero_wavenumber_and_flat_beyond_its_ends():
    table = sersic_table()
    zero, far = torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), 200.0, dtype=torch.float64)
    log_n = torch.tensor(0.5, dtype=torch.float64)
    assert look_up(table, zero, log_n).item() == pytest.approx(1.0, abs=1e-12)
    assert abs(look_up(table, far, log_n).item()) < 1e-6
    beyond, end = (look_up(table, zero + 8.0, torch.tensor(math.log(n), dtype=torch.float64)) for n in (12.0, 10.0))
    assert torch.equal(beyond, end)


# -- derivatives

PARAMETERS = ("x", "y", "flux", "r_eff", "n", "e1", "e2")
POINTS = {
    "disk": (9.3, 6.2, 10.0, 2.2, 1.3, 0.2, 0.15),
    "spheroid": (8.6, 7.7, 10.0, 3.1, 3.8, -0.3, 0.2),
    "compact": (9.1, 6.9, 10.0, 0.7, 0.8, 0.05, -0.4),
}


def image_of(render: Renderer) -> Callable[..., Tensor]:
    def image(x, y, flux, r_eff, n, e1, e2):
        return render(models.Sersic(x, y, flux, r_eff, n, ellipticity=torch.stack([e1, e2], dim=-1)))

    return image


def parameters(point: str) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in POINTS[point])


def projected(render: Renderer) -> Callable[..., Tensor]:
    """A few random projections of the image: as telling as its pixels, and a hundred times quicker to check."""
    weights = torch.randn(3, *render.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    image = image_of(render)
    return lambda *values: (weights * image(*values)).sum((-1, -2))


@BOTH
@pytest.mark.parametrize("point", POINTS)
def test_first_derivatives_are_exact(kind, point, small):
    # the table's cubic has a value and, separately, a derivative in n: what remains is its error of interpolation
    assert gradcheck(projected(small[kind]), parameters(point), eps=1e-5, atol=1e-5, rtol=1e-5, check_forward_ad=True)


@BOTH
@pytest.mark.parametrize("point", POINTS)
def test_second_derivatives_are_exact(kind, point, small):
    assert gradgradcheck(projected(small[kind]), parameters(point), eps=1e-5, atol=1e-4, rtol=1e-4)


@BOTH
def test_forward_reverse_and_batched_derivatives_agree(kind, small):
    function = projected(small[kind])
    z = torch.tensor(POINTS["spheroid"], dtype=torch.float64)

    def flat(z: Tensor) -> Tensor:
        return function(*z)

    forward, reverse = torch.func.jacfwd(flat)(z), torch.func.jacrev(flat)(z)
    torch.testing.assert_close(forward, reverse, rtol=1e-10, atol=1e-10)
    _, along = torch.func.jvp(flat, (z,), (torch.ones_like(z),))
    torch.testing.assert_close(along, forward.sum(-1), rtol=1e-10, atol=1e-10)
    hessians = [
        torch.func.hessian(lambda z: flat(z)[0])(z),
        torch.func.jacfwd(torch.func.jacfwd(lambda z: flat(z)[0]))(z),
        torch.autograd.functional.hessian(lambda z: flat(z)[0], z),
    ]
    for other in hessians[1:]:
        torch.testing.assert_close(other, hessians[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(hessians[0], hessians[0].T, rtol=1e-9, atol=1e-9)
    batch = z + 0.05 * torch.randn(4, 7, dtype=torch.float64)
    by_vmap = torch.func.vmap(torch.func.jacrev(flat))(batch)
    torch.testing.assert_close(by_vmap[2], torch.func.jacrev(flat)(batch[2]), rtol=1e-9, atol=1e-9)


@BOTH
@pytest.mark.parametrize("n", [0.5, 1.0, 4.0])
def test_derivatives_at_a_circle_are_finite(kind, n, small):
    function = projected(small[kind])

    def flat(e: Tensor) -> Tensor:
        values = [torch.tensor(value, dtype=torch.float64) for value in (9.3, 6.2, 10.0, 2.2, n)]
        return function(*values, e[0], e[1])

    circle = torch.zeros(2, dtype=torch.float64)
    slope = torch.func.jacrev(flat)(circle)
    assert bool(slope.isfinite().all())
    step = 1e-6 * torch.eye(2, dtype=torch.float64)
    differences = torch.stack([(flat(circle + d) - flat(circle - d)) / 2e-6 for d in step], dim=-1)
    torch.testing.assert_close(slope, differences, rtol=1e-4, atol=1e-4)
    assert bool(torch.func.hessian(lambda e: flat(e)[0])(circle).isfinite().all())


@BOTH
def test_derivatives_at_axis_ratio_one_are_finite(kind, small):
    def image(q: Tensor, theta: Tensor) -> Tensor:
        return small[kind](models.Sersic(9.3, 6.2, 10.0, 2.2, 1.3, q=q, theta=theta))

    one, angle = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    for slope in torch.func.jacfwd(image, argnums=(0, 1))(one, angle):
        assert bool(slope.isfinite().all())


@BOTH
@pytest.mark.parametrize("centre", [(9.0, 6.0), (9.5, 6.5), (9.5, 6.0), (9.2, 6.5)])
def test_derivatives_with_the_centre_on_a_pixel_centre_edge_or_corner_are_finite(kind, centre, small):
    z = torch.tensor([*centre, 10.0, 2.2, 3.0, 0.1, 0.1], dtype=torch.float64)
    image = image_of(small[kind])
    assert bool(image(*z).isfinite().all())
    assert bool(torch.func.jacfwd(lambda z: image(*z))(z).isfinite().all())


# -- continuity


@pytest.mark.parametrize("n", [0.5, 1.0, 4.0, 6.0])
@pytest.mark.parametrize("r_eff", [0.5, 3.0])
def test_convolved_image_changes_smoothly_as_the_centre_crosses_the_edge_of_a_pixel(n, r_eff, small):
    def at(x: float) -> Tensor:
        return small["PSF"](models.Sersic(x, 6.5, 1.0, r_eff, n, q=0.5, theta=0.6))

    step = 1e-3
    images = [at(9.5 + i * step) for i in (-2.5, -1.5, -0.5, 0.5, 1.5, 2.5)]
    moves = [float((b - a).norm()) for a, b in pairwise(images)]
    assert moves == pytest.approx([moves[0]] * 5, rel=0.01)


@pytest.mark.parametrize("n", [0.5, 1.0, 4.0, 6.0])
@pytest.mark.parametrize("r_eff", [0.5, 3.0])
@pytest.mark.parametrize("step", [1e-5, 1e-3, 0.1])
def test_integrated_image_moves_as_much_light_across_the_edge_of_a_pixel_as_there_is(step, n, r_eff, small):
    """A cusp moves more light as it crosses an edge than before and after, so the oracle says how much."""
    sides = [Source(9.5 + sign * step, 6.5 + 0.5 * sign * step, r_eff, n, 0.5, 0.6) for sign in (-0.5, 0.5)]
    before, after = (small["no PSF"](light(source)).numpy() for source in sides)
    expected = np.subtract(*(integrated(source, (14, 19)) for source in reversed(sides)))
    assert np.linalg.norm(after - before - expected) < 1e-4 * np.linalg.norm(before)


# -- batches


@BOTH
def test_batch_of_parameters_gives_the_images_of_a_loop(kind, small):
    draws = torch.Generator().manual_seed(1)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(2, 3, dtype=torch.float64, generator=draws)

    x, y, flux, r_eff, n = uniform(5, 14), uniform(4, 10), uniform(1, 9), uniform(0.6, 4), uniform(0.4, 6)
    shape = 0.5 * torch.stack([uniform(-1, 1), uniform(-1, 1)], dim=-1)
    render = small[kind]
    images = render(models.Sersic(x, y, flux, r_eff, n, ellipticity=shape) + models.FlatSky(flux))
    assert images.shape == (2, 3, 14, 19)
    for i in range(2):
        for j in range(3):
            one = models.Sersic(x[i, j], y[i, j], flux[i, j], r_eff[i, j], n[i, j], ellipticity=shape[i, j])
            torch.testing.assert_close(images[i, j], render(one + models.FlatSky(flux[i, j])), rtol=1e-10, atol=1e-12)


@BOTH
def test_a_batch_in_one_parameter_alone_is_enough(kind, small):
    render = small[kind]
    values = {"x": 9.3, "y": 6.2, "flux": 10.0, "r_eff": 2.2, "n": 1.3, "q": 0.6, "theta": 0.7}
    for name, value in values.items():
        several = torch.tensor([value, 0.9 * value], dtype=torch.float64)
        images = render(models.Sersic(**{**values, name: several}))
        assert images.shape == (2, 14, 19), name
        for image, one in zip(images, several, strict=True):
            torch.testing.assert_close(image, render(models.Sersic(**{**values, name: one})), rtol=1e-9, atol=1e-12)


@BOTH
def test_vmap_over_the_renderer_gives_the_same_images(kind, small):
    x = torch.tensor([8.2, 9.9], dtype=torch.float64)
    n = torch.tensor([0.9, 3.3], dtype=torch.float64)

    def image(x: Tensor, n: Tensor) -> Tensor:
        return small[kind](models.Sersic(x, 6.0, 10.0, 2.0, n, q=0.5, theta=0.4))

    torch.testing.assert_close(torch.func.vmap(image)(x, n), torch.stack([image(*p) for p in zip(x, n, strict=True)]))


# -- symmetries


@pytest.mark.parametrize("kind", ["PSF", "no PSF"])
@pytest.mark.parametrize("n", [1.0, 4.0])
def test_shift_by_whole_pixels_shifts_the_image(kind, n, seeing, pixels):
    render = seeing if kind == "PSF" else pixels
    here, there = (render(light(Source(x, y, 3.0, n, 0.5, 0.6))) for x, y in ((40.3, 25.8), (45.3, 22.8)))
    shifted, original = there[:-3, 5:], here[3:, :-5]
    assert error(shifted, original.numpy()) < 2e-5  # the copies outside the image aren't the same for both


@pytest.mark.parametrize("kind", ["PSF", "no PSF"])
def test_quarter_turn_of_the_source_turns_the_image(kind):
    kernel = PSF.stamp((61, 61)) if kind == "PSF" else None
    flat, tall = renderer(kernel, (31, 45)), renderer(kernel, (45, 31))
    original = flat(models.Sersic(20.3, 12.6, 1.0, 3.0, 2.5, q=0.4, theta=0.5))
    # counter-clockwise: (x, y) -> (-y, x), with the new origin in the corner
    turned = tall(models.Sersic(30 - 12.6, 20.3, 1.0, 3.0, 2.5, q=0.4, theta=0.5 + math.pi / 2))
    assert error(turned, original.T.flip(-1).numpy()) < 1e-6


@BOTH
def test_reflection_and_half_turn(kind, small):
    render = small[kind]
    original = render(models.Sersic(10.3, 5.8, 1.0, 2.0, 1.5, q=0.4, theta=0.5))
    mirrored = render(models.Sersic(18 - 10.3, 5.8, 1.0, 2.0, 1.5, q=0.4, theta=math.pi - 0.5))
    assert error(mirrored.flip(-1), original.numpy()) < 1e-8
    half = render(models.Sersic(10.3, 5.8, 1.0, 2.0, 1.5, q=0.4, theta=0.5 + math.pi))
    torch.testing.assert_close(half, original, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("theta", [0.0, 0.4, 1.2, 2.0, 2.9])
def test_theta_runs_counter_clockwise_from_x(theta, pixels):
    image = pixels(models.Sersic(42.2, 29.6, 1.0, 4.0, 1.0, q=0.4, theta=theta)).numpy()
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    dx, dy = x - (image * x).sum() / image.sum(), y - (image * y).sum() / image.sum()
    xx, xy, yy = ((image * moment).sum() for moment in (dx**2, dx * dy, dy**2))
    assert math.sin(0.5 * math.atan2(2 * xy, xx - yy) - theta) == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("kind", ["PSF", "no PSF"])
@pytest.mark.parametrize("n", [0.5, 1.0, 2.0])
def test_all_the_light_is_in_the_image(kind, n, pixels):
    render = renderer(Moffat(3.5, 8.0).stamp((61, 61))) if kind == "PSF" else pixels
    assert float(render(models.Sersic(*CENTRE, 7.0, 1.5, n, q=0.5, theta=0.6)).sum()) == pytest.approx(7.0, rel=3e-4)


@BOTH
def test_image_is_linear_in_the_flux_and_lights_add_up(kind, small):
    render = small[kind]
    bulge, disk = models.DeVaucouleurs(9.3, 6.2, 4.0, 1.0), models.Exponential(9.3, 6.2, 8.0, 3.0, q=0.5, theta=1.0)
    sky = models.PlaneSky(1.0, 0.01, 0.02)
    together = render(bulge + disk + sky)
    torch.testing.assert_close(together, render(bulge) + render(disk) + render(sky), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(render(sum([bulge, disk, sky])), together, rtol=1e-13, atol=0)
    assert len((bulge + disk + sky).parts) == 3
    torch.testing.assert_close(
        render(models.Sersic(9.3, 6.2, -4.0, 1.0, 4.0)), -render(models.Sersic(9.3, 6.2, 4.0, 1.0, 4.0))
    )
    with pytest.raises(TypeError, match="unsupported operand"):
        _ = bulge + 3.0


def test_nothing_renders_to_zeros(small):
    assert torch.equal(small["PSF"](Light(())), torch.zeros(14, 19, dtype=torch.float64))


# -- hard inputs


@BOTH
@pytest.mark.parametrize("name", ["x", "y", "flux", "r_eff", "n", "q", "theta"])
def test_nan_and_infinite_parameters_do_not_crash(kind, name, small):
    values = {"x": 9.3, "y": 6.2, "flux": 10.0, "r_eff": 2.2, "n": 1.3, "q": 0.6, "theta": 0.7}
    assert bool(small[kind](models.Sersic(**{**values, name: math.nan})).isnan().any())
    assert small[kind](models.Sersic(**{**values, name: math.inf})).shape == (14, 19)


def test_a_nan_in_a_batch_stays_with_its_own_image(small):
    for render in small.values():
        n = torch.tensor([1.3, math.nan, 2.0], dtype=torch.float64)
        images = render(models.Sersic(9.3, 6.2, 10.0, 2.2, n))
        assert bool(images[1].isnan().any())
        assert bool(images[[0, 2]].isfinite().all())


@pytest.mark.parametrize("kind", ["PSF", "no PSF"])
@pytest.mark.parametrize("where", [(0.3, 5.8), (84.4, 59.2), (-0.8, 30.2), (88.3, -3.4)], ids=str)
@pytest.mark.parametrize("n", [1.0, 4.0])
def test_source_at_the_edge_or_outside_is_exact_and_leaves_no_copy(kind, where, n, seeing, pixels):
    source = Source(*where, 3.0, n, 0.6, 0.7)
    if kind == "PSF":
        assert error(seeing(light(source)), convolved(source, PSF, SHAPE, period=384)) < 3e-4
    else:
        assert error(pixels(light(source)), integrated(source, SHAPE)) < 1e-3


@pytest.mark.parametrize("far", [200.0, 1e4])
@pytest.mark.parametrize("kind", ["PSF", "no PSF"])
def test_source_far_outside_does_not_come_back_through_the_period(kind, far, seeing, pixels):
    render = seeing if kind == "PSF" else pixels
    image = render(models.Sersic(far, 30.0, 1.0, 2.0, 1.0))
    assert float(image.abs().max()) < 1e-6


@pytest.mark.parametrize("shape", [(40, 41), (41, 40), (40, 50)], ids=str)
def test_even_sized_psf_is_centred_on_its_middle(shape):
    source = Source(*CENTRE, 2.0, 1.0, 0.6, 0.4)
    render = renderer(PSF.stamp(shape))
    assert error(render(light(source)), convolved(source, PSF, SHAPE, period=384)) < 1e-3  # cut at 20 pixels


@pytest.mark.parametrize("shape", [(179, 253), (31, 201), (178, 30)], ids=str)
def test_psf_may_be_larger_than_the_image(shape):
    psf = Moffat(3.5, 8.0)
    source = Source(*CENTRE, 2.0, 1.0, 0.6, 0.4)
    assert error(renderer(psf.stamp(shape))(light(source)), convolved(source, psf, SHAPE, period=384)) < 1e-4


def test_lopsided_psf_is_convolved_and_not_correlated():
    stamp = np.zeros((5, 7))
    stamp[2, 3], stamp[2, 4], stamp[1, 3] = 0.6, 0.3, 0.1  # light to the right, and below (towards smaller y)
    image = renderer(stamp)(models.PointSource(40.0, 20.0, 1.0)).numpy()
    assert image[20, 40] == pytest.approx(0.6, abs=1e-9)
    assert image[20, 41] == pytest.approx(0.3, abs=1e-9)
    assert image[19, 40] == pytest.approx(0.1, abs=1e-9)


def test_smallest_image_renders():
    image = renderer(PSF.stamp((9, 9)), (3, 4))(models.Sersic(1.2, 0.8, 1.0, 1.0, 1.0))
    assert image.shape == (3, 4)
    assert bool(image.isfinite().all())


def test_noisy_psf_renders_without_amplifying_its_noise():
    stamp = Moffat(3.5, 3.5).stamp((41, 41))
    noisy = stamp + 1e-4 * stamp.max() * np.random.default_rng(2).normal(size=stamp.shape)
    source = light(Source(*CENTRE, 2.0, 1.0, 0.6, 0.4))
    assert error(renderer(noisy)(source), renderer(stamp)(source).numpy()) < 3e-3


@pytest.mark.parametrize(("fwhm", "bound"), [(2.5, 2e-4), (3.0, 1e-4)])
@pytest.mark.parametrize(
    ("r_eff", "n", "q", "theta"), [(0.7, 0.5, 0.2, 0.4), (2.0, 1.0, 0.2, 2.3), (2.0, 4.0, 0.6, 0.4)]
)
def test_aliases_of_a_narrow_psf_see_the_source_where_they_are(fwhm, bound, r_eff, n, q, theta):
    """Bound at a FWHM of 2.5 pixels: what the samples don't tell of the PSF beyond the Nyquist frequency."""
    centre, psf = (30.37, 24.82), Moffat(fwhm, 3.5)
    render = renderer_for(bp.Image(np.zeros((50, 61)), psf=psf.stamp((61, 61))))
    assert render.convolution.x_aliased.stop == render.convolution.transfer.shape[-1]
    image = render(models.Sersic(*centre, 1.0, r_eff, n, q=q, theta=theta))
    reference = convolved(Source(*centre, r_eff, n, q, theta), psf, (50, 61))
    assert float(np.linalg.norm(image.numpy() - reference) / np.linalg.norm(reference)) < bound


def test_no_alias_is_followed_where_it_makes_no_difference():
    renderer = renderer_for(bp.Image(np.zeros((50, 61)), psf=Moffat(3.5, 2.5).stamp((61, 61))))
    assert renderer.convolution.x_aliased == renderer.convolution.y_aliased == (0, 0)


# -- several sources


def test_sources_of_one_kind_are_rendered_together_as_they_are_apart():
    psf = np.exp(-((np.mgrid[:15, :17][0] - 7.0) ** 2 + (np.mgrid[:15, :17][1] - 8.0) ** 2) / 5)
    render = renderer_for(bp.Image(np.zeros((37, 45)), psf=psf))
    rng = np.random.default_rng(2)
    lights = []
    for _ in range(3):
        x, y, flux, r = rng.uniform(5, 40), rng.uniform(5, 30), rng.uniform(10, 90), rng.uniform(1, 5)
        shape = {"ellipticity": rng.uniform(-0.3, 0.3, 2)}
        lights += [
            models.Sersic(x, y, flux, r, rng.uniform(0.6, 4.0), **shape),
            models.King(x, y, flux, r, 9 * r, **shape),
            models.Exponential(x, y, flux, r, **shape),
            models.PointSource(x, y, flux),
            models.Spline(x, y, [flux, 0.3 * flux, 0.01 * flux], [r, 2 * r, 6 * r], **shape),
        ]
    expected = sum(render(light) for light in lights)
    torch.testing.assert_close(render(sum(lights[1:], start=lights[0])), expected, rtol=1e-11, atol=1e-11)


def test_only_lights_that_differ_in_numbers_alone_are_stacked():
    one, two = (models.Sersic(x, 3.0, 5.0, 2.0, 1.0) for x in (3.0, 4.0))
    both = stacked([one, two])
    assert both.x.tolist() == [3.0, 4.0]
    assert both.ellipse.xx.shape == (2,)
    assert stacked([one, models.Exponential(3.0, 4.0, 5.0, 2.0)]) is None
    assert stacked([one, models.Sersic(torch.tensor([3.0, 4.0]), 3.0, 5.0, 2.0, 1.0)]) is None
    splines = [models.Spline(3.0, 4.0, [3.0, 2.0, 1.0], [1.0, 2.0, last]) for last in (4.0, 5.0)]
    assert stacked(splines) is None


def test_lights_that_do_not_say_that_they_take_batches_are_rendered_one_by_one():
    class Cored(Profile):
        """Written for single numbers."""

        def transform(self, wavenumber_squared: Tensor) -> Tensor:
            assert self.radius.ndim == 0
            return torch.exp(-wavenumber_squared)

        def brightness(self, radius_squared: Tensor) -> Tensor:
            assert self.radius.ndim == 0
            return torch.exp(-radius_squared / 4) / (4 * math.pi)

    render = renderer_for(bp.Image(np.zeros((21, 25)), psf=np.ones((3, 3))))
    one, two = Cored(9.0, 8.0, 3.0, 1.5), Cored(14.0, 12.0, 5.0, 2.0)
    torch.testing.assert_close(render(one + two), render(one) + render(two), rtol=1e-11, atol=1e-12)
