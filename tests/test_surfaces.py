"""Light given by its brightness alone, through a PSF and without one: against oracles, derivatives, and the edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from oracles import Moffat, Source, convolved, error, integrated
from test_rendering import light, renderer, sources
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx

import bayesprof as bp
from bayesprof import models
from bayesprof.light import Profile, Surface
from bayesprof.rendering import Renderer, renderer_for

SHAPE = (60, 85)
CENTRE = (44.37, 27.82)
PSF = Moffat(3.5, 3.5)


class Brightness(Surface):
    """A profile that keeps its Fourier transform to itself."""

    def __init__(self, profile: Profile) -> None:
        super().__init__(profile.x, profile.y, profile.radius, ellipse=profile.ellipse)
        self.profile = profile

    def brightness_at(self, dx: Tensor, dy: Tensor) -> Tensor:
        return self.profile.brightness_at(dx, dy)


def surface(*values: Any, **shape: Any) -> Brightness:
    return Brightness(models.Sersic(*values, **shape))


@pytest.fixture(scope="module")
def seeing() -> Renderer:
    return renderer(PSF.stamp((121, 151)))


@pytest.fixture(scope="module")
def small() -> dict[str, Renderer]:
    """Renderers of a small image, for derivatives."""
    stamp = Moffat(3.0, 3.0).stamp((11, 13))
    return {"PSF": renderer(stamp, (14, 19)), "no PSF": renderer(None, (14, 19))}


BOTH = pytest.mark.parametrize("kind", ["PSF", "no PSF"])
GRID = [
    (n, r_eff, q, theta)
    for n in (0.5, 1.0, 2.5, 4.0)
    for (r_eff, q, theta) in ((0.7, 0.2, 0.4), (2.0, 0.6, 2.3), (7.0, 0.2, 1.1), (7.0, 1.0, 0.0), (20.0, 0.6, 2.9))
]


# -- against oracles


@sources(*GRID)
def test_image_with_a_psf_is_exact(source, seeing):
    assert error(seeing(Brightness(light(source))), convolved(source, PSF, SHAPE, period=384)) < 1e-4


@sources((0.5, 0.7, 0.2, 0.4), (1.0, 0.7, 1.0, 0.0), (1.0, 2.0, 0.2, 2.3), (4.0, 0.7, 0.6, 0.4), (4.0, 7.0, 0.2, 2.9))
def test_image_with_a_narrow_psf_is_exact(source):
    """A FWHM of 2.5 pixels: what is left is the error of telling the PSF's aliases apart."""
    narrow = Moffat(2.5, 3.5)
    found = renderer(narrow.stamp((121, 151)))(Brightness(light(source)))
    assert error(found, convolved(source, narrow, SHAPE, period=384)) < 2e-4


@pytest.mark.parametrize("with_pixel", [True, False], ids=["with pixel", "without pixel"])
@pytest.mark.parametrize("times", [2, 3])
@sources((0.5, 2.0, 0.2, 0.4), (4.0, 2.0, 0.6, 2.3), (1.0, 7.0, 1.0, 0.0))
def test_undersampled_image_with_an_oversampled_psf_is_exact(source, times, with_pixel):
    narrow = Moffat(2.0, 3.5)
    stamp = narrow.stamp((80 * times + 1, 100 * times + 1), oversampling=times, with_pixel=with_pixel)
    render = renderer(stamp, psf_oversampling=times, psf_contains_pixel=with_pixel)
    assert error(render(Brightness(light(source))), convolved(source, narrow, SHAPE, period=384)) < 1e-4


def test_optical_psf_on_the_native_grid_is_integrated_over_pixels():
    psf = Moffat(4.0, 3.5)
    source = Source(*CENTRE, 2.0, 1.0, 0.6, 0.4)
    render = renderer(psf.stamp((121, 151), with_pixel=False), psf_contains_pixel=False)
    assert error(render(Brightness(light(source))), convolved(source, psf, SHAPE, period=384)) < 1e-4


@sources(*GRID)
def test_image_without_a_psf_is_integrated_over_pixels(source):
    assert error(renderer()(Brightness(light(source))), integrated(source, SHAPE, order=8)) < 2e-4


@pytest.mark.parametrize(
    "where", [(0.2, 0.4), (-6.3, 30.2), (40.1, -11.7), (91.5, 66.5), (-25.2, 20.0), (150.0, -90.0)]
)
@pytest.mark.parametrize("n", [1.0, 4.0])
def test_light_from_beyond_the_edges_is_exact(where, n, seeing):
    """Wherever the centre is: what the PSF brings in is there, and nothing comes back from the other side."""
    source = Source(*where, 6.0, n, 0.5, 0.8)
    large = Source(where[0] + 200, where[1] + 200, 6.0, n, 0.5, 0.8)
    whole = convolved(large, PSF, (SHAPE[0] + 400, SHAPE[1] + 400), period=648)
    expected = whole[200 : 200 + SHAPE[0], 200 : 200 + SHAPE[1]]
    found = seeing(Brightness(light(source))).numpy()
    # of so faint an image 1e-6 of the flux, as the light ends where the PSF brings in less than 1e-4 of it
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected) + 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float32_image_agrees_with_float64(dtype, seeing):
    source = Brightness(light(Source(*CENTRE, 4.0, 2.5, 0.4, 2.3)))
    found = renderer(PSF.stamp((121, 151)), dtype=dtype)(source)
    assert found.dtype == dtype
    assert error(found, seeing(source).numpy()) < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@BOTH
def test_image_on_cuda_agrees_with_cpu(kind, dtype):
    kernel = PSF.stamp((61, 61)) if kind == "PSF" else None
    source = Brightness(light(Source(*CENTRE, 4.0, 2.5, 0.4, 2.3)))
    on_gpu = renderer(kernel, dtype=dtype, device="cuda")(source).cpu()
    assert error(on_gpu, renderer(kernel)(source).numpy()) < (1e-5 if dtype == torch.float32 else 1e-11)


# -- symmetries


def test_image_is_smooth_as_the_centre_crosses_the_edge_of_a_pixel(seeing):
    """The samples are attached to another pixel there: a change of the light by 1e-9 of it, and no more."""
    before, after = (seeing(surface(44.5 + step, 27.82, 1.0, 3.0, 1.0, q=0.6)) for step in (-1e-9, 1e-9))
    assert error(before, after.numpy()) < 1e-5


def test_shift_by_whole_pixels_shifts_the_image(seeing):
    here, there = (seeing(surface(x, y, 1.0, 2.0, 1.0, q=0.6)) for x, y in ((40.3, 27.8), (45.3, 25.8)))
    torch.testing.assert_close(here[10:-10, 10:-10], there[8:-12, 15:-5], rtol=0, atol=1e-7 * float(here.norm()))


def test_surfaces_add_up_with_everything_else(seeing):
    parts = [surface(40.0, 20.0, 3.0, 2.0, 1.0), surface(30.0, 30.0, 2.0, 4.0, 2.0), models.PointSource(9.0, 9.0, 1.0)]
    parts += [models.Sersic(20.0, 20.0, 1.0, 2.0, 1.0), models.FlatSky(0.1)]
    torch.testing.assert_close(seeing(sum(parts)), sum(seeing(part) for part in parts), rtol=0, atol=1e-12)


# -- derivatives, batches, capture


@BOTH
def test_derivatives_are_those_of_differences(kind, small):
    def image(x: Tensor, y: Tensor, flux: Tensor, r_eff: Tensor, n: Tensor, e: Tensor) -> Tensor:
        return small[kind](surface(x, y, flux, r_eff, n, ellipticity=e))

    values = (9.3, 6.2, 10.0, 2.2, 1.7, [0.2, -0.1])
    point = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]
    assert gradcheck(image, point, atol=1e-5, fast_mode=True)
    assert gradgradcheck(image, point, atol=1e-4, fast_mode=True)


@BOTH
def test_batches_vmap_and_forward_derivatives_agree(kind, small):
    x, n = (torch.tensor(values, dtype=torch.float64) for values in ([9.3, 2.0, -3.6], [1.0, 4.0, 0.6]))

    def image(x: Tensor, n: Tensor) -> Tensor:
        return small[kind](surface(x, 6.2, 1.0, 2.5, n, q=0.5, theta=0.3))

    each = torch.stack([image(*pair) for pair in zip(x, n, strict=True)])
    torch.testing.assert_close(image(x, n), each, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(torch.func.vmap(image)(x, n), each, rtol=1e-10, atol=1e-14)
    forwards = torch.func.jacfwd(image, (0, 1))(x[0], n[0])
    backwards = torch.autograd.functional.jacobian(image, (x[0], n[0]))
    for forward, backward in zip(forwards, backwards, strict=True):
        torch.testing.assert_close(forward, backward, rtol=1e-9, atol=1e-14)


@BOTH
def test_captured_graph_serves_other_values(kind, small):
    def value(z: Tensor) -> Tensor:
        return (small[kind](surface(z[0], z[1], 1.0, z[2], z[3], q=0.5, theta=0.3)) ** 2).sum()

    first, second = (
        torch.tensor(values, dtype=torch.float64) for values in ([9.3, 6.2, 2.0, 1.0], [11.8, -3.4, 4.0, 3.0])
    )
    graph = make_fx(torch.func.grad_and_value(value))(first)
    gradient, found = graph(second)
    expected_gradient, expected = torch.func.grad_and_value(value)(second)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("value", [1e9, -1e9, float("nan"), float("inf")])
def test_centres_that_a_diverging_chain_brings_give_no_error(value, small):
    image = small["PSF"](surface(value, 6.2, 1.0, 2.0, 1.0))
    assert image.shape == (14, 19)
    if abs(value) < float("inf"):
        assert bool(image.isfinite().all())


def test_scene_takes_a_surface_of_ones_own(simulated):
    image = simulated(models.Sersic(17.3, 11.8, 500.0, 3.0, 1.7))
    scene = bp.Scene(image, galaxy=lambda: surface(17.3, 11.8, 500.0, 3.0, 1.7))
    assert torch.equal(scene.predict(), renderer_for(image)(surface(17.3, 11.8, 500.0, 3.0, 1.7)))
