"""Large windows whose fine structure is rendered near the source only: the same images and the same posterior."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.estimate import starting_values
from bayesprof.pixel_map import affine_map
from bayesprof.rendering import Convolution, renderer_for
from bayesprof.splitting import SplitConvolution, Splitter, flattest, with_detail

SHAPE = (192, 224)


def kernel(fwhm: float = 4.0, size: int = 31) -> np.ndarray:
    """A Moffat PSF with beta = 3."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    scale = fwhm / (2 * math.sqrt(2 ** (1 / 3) - 1))
    values = (1 + (x**2 + y**2) / scale**2) ** -3.0
    return values / values.sum()


def blank(**options) -> bp.Image:
    return bp.Image(np.zeros(SHAPE), sigma=1.0, **{"psf": kernel(), **options})


def both(image: bp.Image, detail: float) -> tuple[Convolution, SplitConvolution]:
    renderer = renderer_for(image, shape=SHAPE)
    split = Splitter(image)(renderer, detail).convolution
    assert isinstance(split, SplitConvolution)
    return renderer.convolution, split


def rendered(convolution: Convolution, *sources) -> torch.Tensor:
    """Images of sources in their order, those of one kind rendered together."""
    images = [None] * len(sources)
    for indices, found in convolution.apart(list(sources)):
        for i, image in zip(indices, found, strict=True):
            images[i] = image
    return torch.stack(images)


# -- images


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"psf": kernel(3.0)},
        {"psf_contains_pixel": False},
        {"psf": kernel(8.0, 61), "psf_oversampling": 2},
    ],
    ids=["PSF", "sharp", "optical", "oversampled"],
)
@pytest.mark.parametrize("q", [0.9, 0.5, 0.3])
def test_smooth_sources_have_the_image_that_they_have_in_full_detail(options, q):
    whole, split = both(blank(**options), 10 / q)
    assert split.broad.transfer.numel() + split.fine.transfer.numel() < 0.75 * whole.transfer.numel()
    shape = {"q": q, "theta": 0.7}
    sources = [models.Sersic(110.3, 95.6, 1.0, r, n, **shape) for n in (0.5, 1.0, 4.0) for r in (1.0, 5.0, 30.0)]
    sources += [
        models.Exponential(112.5, 97.5, 1.0, 12.0, **shape),
        models.Gaussian(112.0, 97.0, 1.0, 12.0, **shape),
        models.Moffat(111.2, 96.1, 1.0, 9.0, 2.5, **shape),
        models.Spergel(111.2, 96.1, 1.0, 9.0, 0.3, **shape),
    ]
    expected, found = rendered(whole, *sources), rendered(split, *sources)
    errors = (found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert float(errors.max()) < 1e-4, errors


def test_beyond_less_detail_than_its_axis_ratio_asks_for_a_thin_galaxy_blurs():
    whole, split = both(blank(), 15.0)
    thin = models.Sersic(110.3, 95.6, 1.0, 20.0, 1.0, q=0.1, theta=0.7)
    expected, found = rendered(whole, thin), rendered(split, thin)
    assert float((found - expected).norm() / expected.norm()) > 3e-4


@pytest.mark.parametrize(("x", "y"), [(110.0, 20.4), (3.3, 95.0), (223.0, 191.0), (-6.0, 90.0), (110.0, 200.0)])
def test_the_fine_part_follows_the_source_to_the_edge_of_the_window_and_beyond(x, y):
    whole, split = both(blank(), 20.0)
    middle, source = (models.Sersic(*at, 1.0, 5.0, 2.0, q=0.6, theta=0.3) for at in ((110.0, 95.0), (x, y)))
    expected, found = rendered(whole, source), rendered(split, source)
    assert float((found - expected).norm()) < 2e-5 * float(rendered(whole, middle).norm())


def test_sources_with_edges_and_points_stay_whole():
    whole, split = both(blank(), 20.0)
    ferrer = models.Ferrer(110.0, 95.0, 1.0, 40.0, 1.0, 0.5, q=0.6, theta=0.3)
    point = models.PointSource(100.0, 90.0, 1.0)
    smooth = models.Exponential(112.5, 97.5, 1.0, 12.0)
    expected, found = (rendered(c, ferrer, smooth, point) for c in (whole, split))
    assert torch.equal(found[[0, 2]], expected[[0, 2]])
    assert not torch.equal(found[1], expected[1])


def test_a_psf_with_fine_structure_far_out_asks_for_full_detail():
    spikes = kernel(4.0, 161)
    spikes[80, :] += 2e-4
    image = blank(psf=spikes / spikes.sum())
    renderer = renderer_for(image, shape=SHAPE)
    assert Splitter(image)(renderer, 20.0) is renderer


def test_windows_too_small_to_save_work_and_a_psf_with_parameters_stay_whole():
    image = blank()
    small = renderer_for(image, shape=(64, 64))
    assert Splitter(image)(small, 10.0) is small
    drawn = renderer_for(image, models.MoffatPSF(4.0, 3.0), shape=SHAPE)
    assert Splitter(image)(drawn, 20.0) is drawn


# -- the posterior


def scene(detail: float | None, image: bp.Image | None = None) -> bp.Scene:
    """Two galaxies of one kind in one large window each, and a small one in the outskirts of both."""

    def galaxy(x: float, y: float, flux: float, r_eff: float):
        def at(value):
            return torch.tensor(value, dtype=torch.float64)

        return models.sersic(
            x=dist.Normal(at(x), 1.0),
            y=dist.Normal(at(y), 1.0),
            flux=dist.LogNormal(at(math.log(flux)), 0.3),
            r_eff=dist.LogNormal(at(math.log(r_eff)), 0.3),
        )

    windows = {
        "one": bp.Window.around(100.0, 95.0, 95.0, detail=detail),
        "two": bp.Window.around(120.0, 100.0, 95.0, detail=detail),
        "small": bp.Window.around(60.0, 60.0, 20.0, detail=detail),
    }
    return bp.Scene(
        image or observed(),
        windows=windows,
        sky=models.flat_sky(),
        one=galaxy(100.0, 95.0, 40_000.0, 12.0),
        two=galaxy(120.0, 100.0, 60_000.0, 18.0),
        small=galaxy(60.0, 60.0, 900.0, 3.0),
    )


def observed() -> bp.Image:
    rng = np.random.default_rng(5)
    light = (
        models.Sersic(100.4, 95.2, 40_000.0, 12.0, 1.5, q=0.7, theta=0.4)
        + models.Sersic(119.6, 100.3, 60_000.0, 18.0, 3.0, q=0.6, theta=2.0)
        + models.Sersic(60.3, 59.8, 900.0, 3.0, 1.0, q=0.8, theta=1.0)
    )
    image = renderer_for(blank())(light).numpy()
    return bp.Image(image + rng.normal(0.0, 1.0, SHAPE), sigma=1.0, psf=kernel())


@pytest.fixture(scope="module")
def posteriors() -> tuple[inference.Posterior, inference.Posterior]:
    image = observed()
    return inference.Posterior(scene(None, image)), inference.Posterior(scene(15.0, image))


@pytest.mark.slow
def test_fits_and_curvatures_are_those_of_full_detail(posteriors):
    full, split = (inference.lm(posterior) for posterior in posteriors)
    assert full.converged
    assert split.converged
    shift = (split.z - full.z).numpy()
    assert shift @ np.linalg.solve(full.covariance, shift) < 1e-4
    ratios = np.linalg.eigvals(np.linalg.solve(full.covariance, split.covariance)).real
    np.testing.assert_allclose(ratios, 1.0, rtol=1e-3)


def test_derivatives_are_those_of_the_density(posteriors):
    _, posterior = posteriors
    z = posterior.initial()
    _, gradient = posterior.value_and_grad(z[None])
    batch = z + 0.01 * torch.randn(3, len(z), generator=torch.Generator().manual_seed(1), dtype=z.dtype)
    values, gradients = posterior.value_and_grad(batch)
    for i in range(3):
        single, slope = posterior.value_and_grad(batch[i : i + 1])
        assert float(single[0]) == pytest.approx(float(values[i]), rel=1e-10)
        torch.testing.assert_close(slope[0], gradients[i], rtol=1e-8, atol=1e-8)
    unit = torch.eye(len(z), dtype=z.dtype)
    step = 1e-4
    for i in range(len(z)):
        above, below = (float(posterior.log_density((z + s * step * unit[i])[None])) for s in (1, -1))
        difference = (above - below) / (2 * step)
        # the differences of so large a density are rounded
        allowed = 1e-4 * float(gradient.abs().max())
        assert float(gradient[0, i]) == pytest.approx(difference, rel=1e-4, abs=allowed)
    *_, hessian = posterior.hessian(z)
    differences = [
        posterior.value_and_grad(torch.stack([z - step * one, z + step * one]))[1].diff(dim=0)[0] / (2 * step)
        for one in unit
    ]
    expected = -torch.stack(differences)
    size = expected.diagonal().abs().sqrt()
    assert float(((hessian - expected) / torch.outer(size, size)).abs().max()) < 1e-3


@pytest.mark.slow
def test_compiled_functions_agree(posteriors):
    _, posterior = posteriors
    compiled = inference.Posterior(scene(15.0))
    z = posterior.initial()
    for name in ("log_density", "value_and_grad", "expansion"):
        compiled.prepare(name, batch=1, calls=1, compile=True)
        at = z if name == "expansion" else z[None]
        pairs = zip(*(getattr(one, name)(at) for one in (posterior, compiled)), strict=True)
        for expected, found in pairs:
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


def test_positions_that_are_not_numbers_give_a_density_that_is_none(posteriors):
    _, posterior = posteriors
    z = posterior.initial().clone()
    z[0] = math.nan
    assert not bool(posterior.log_density(z[None]).isfinite())


# -- windows


def test_a_result_says_so_where_a_galaxy_is_too_flat_for_the_detail_of_its_window():
    def fitted(q: float, detail: float | None = 20.0, radius: float = 95.0):
        size = (1 - q) / (1 + q)
        galaxy = models.sersic(
            x=100.0, y=95.0, r_eff=12.0, n=1.5, ellipticity=[size, 0.0], flux=dist.LogNormal(10.5, 0.5)
        )
        windows = {"galaxy": bp.Window.around(100.0, 95.0, radius, detail=detail)}
        scene = bp.Scene(observed(), windows=windows, sky=models.flat_sky(level=0.0), galaxy=galaxy)
        return scene, inference.lm(scene)

    scene, fit = fitted(0.3)
    assert fit.converged
    assert "galaxy has detail=20 and needs 33.3" in fit.message
    post = inference.laplace(scene, init=fit, draws=400, progress=False)
    assert "needs 33.3" in post.attrs["verdict"]
    for scene, fit in (fitted(0.6), fitted(0.3, detail=None), fitted(0.3, radius=20.0)):
        assert scene.doubts(fit) is None
        assert "detail" not in fit.message


def test_windows_of_bright_light_have_the_detail_of_their_axis_ratio():
    image = observed()
    wide = scene(None, image)
    windows = bp.bright_windows(wide, {**starting_values(wide), "one.ellipticity": [0.2, 0.0]})
    assert windows["one"].detail == pytest.approx(15 / (0.8 / 1.2), rel=1e-6)
    assert windows["small"].detail is None
    again = wide.with_windows(windows)
    assert again.windows["one"] == windows["one"]


def test_flattest_smooth_source_of_a_light_counts():
    disk = models.Exponential(1.0, 2.0, 1.0, 5.0, q=0.3, theta=1.2)
    bulge = models.Sersic(1.0, 2.0, 1.0, 2.0, 4.0, q=0.8, theta=0.1)
    assert flattest(bulge + disk) == pytest.approx(0.3)
    assert flattest(models.PointSource(1.0, 2.0, 1.0)) is None
    window = bp.Window(0, 0, 200, 200)
    assert with_detail(window, 0.5).detail == pytest.approx(30.0)
    assert with_detail(window, None) is window
    assert with_detail(bp.Window(0, 0, 50, 50), 0.5).detail is None


def test_detail_of_a_window_is_kept_by_what_is_made_of_it():
    window = bp.Window.around(50.0, 60.0, 40.0, detail=12.5)
    assert repr(window) == "Window(x0=10, y0=20, x1=91, y1=101, detail=12.5)"
    assert window.within((90, 90)).detail == 12.5
    finer = affine_map([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]).window(window, (300, 300))
    assert finer is not None
    assert finer.detail == pytest.approx(25.0, rel=0.02)


@pytest.mark.parametrize("detail", [0.0, -3.0, math.inf, math.nan])
def test_detail_that_is_no_distance_is_refused(detail):
    with pytest.raises(ValueError, match="detail"):
        bp.Window(0, 0, 10, 10, detail)
