"""Components in windows: the same light there, none elsewhere, and derivatives that know it."""

from __future__ import annotations

import numpy as np
import pyro.distributions as dist
import pytest
import torch

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.inference.blocks import Windows
from bayesprof.inference.forward_mode import with_derivatives, with_shapes
from bayesprof.inference.jacobian import overlapping
from bayesprof.inference.posterior import Posterior
from bayesprof.windows import WindowedRenderer

SHAPE = (90, 110)
PLACES = {"one": (30.2, 34.6), "two": (41.3, 40.1), "three": (81.7, 60.4), "star": (88.4, 71.2)}


def kernel(fwhm: float = 4.0) -> np.ndarray:
    y, x = np.mgrid[:21, :21] - 10.0
    return np.exp(-(x**2 + y**2) * 4 * np.log(2) / fwhm**2)


def galaxies(**given) -> dict:
    """Two overlapping Sersic profiles, a boxy one and a star."""
    held = {name: {"x": x, "y": y} for name, (x, y) in PLACES.items()}
    shape = {"ellipticity": [0.2, 0.1], "r_eff": 3.0, **given}
    return {
        "one": models.sersic(**held["one"], flux=500.0, n=1.0, **shape),
        "two": models.sersic(**held["two"], flux=900.0, n=1.5, **shape),
        "three": models.shaped(models.exponential(**held["three"], flux=700.0, **shape), models.boxiness(boxiness=0.4)),
        "star": models.point_source(**held["star"], flux=400.0),
    }


def blank(**options) -> bp.Image:
    return bp.Image(np.zeros(SHAPE), sigma=1.0, **{"psf": kernel(), **options})


def windows(radius: float = 20.0) -> dict[str, bp.Window]:
    return {name: bp.Window.around(*place, radius) for name, place in PLACES.items()}


@pytest.fixture(scope="module")
def observed() -> bp.Image:
    model = bp.Scene(blank(), sky=models.flat_sky(level=2.0), **galaxies()).predict().numpy()
    return bp.Image(model + np.random.default_rng(3).normal(0.0, 1.0, SHAPE), sigma=1.0, psf=kernel())


def free_scene(image: bp.Image, likelihood: str = "gaussian", **options) -> bp.Scene:
    """Two overlapping galaxies in windows of one size, a third in a larger one, and a sky everywhere."""
    components = {}
    for name in ("one", "two", "three"):
        x, y = (torch.tensor(value, dtype=torch.float64) for value in PLACES[name])
        components[name] = models.sersic(
            x=dist.Normal(x, 1.0),
            y=dist.Normal(y, 1.0),
            flux=dist.LogNormal(torch.tensor(6.5, dtype=torch.float64), 0.5),
            r_eff=dist.LogNormal(torch.tensor(1.1, dtype=torch.float64), 0.3),
        )
    seen = {name: bp.Window.around(*PLACES[name], 40.0 if name == "three" else 15.0) for name in components}
    return bp.Scene(image, likelihood=likelihood, sky=models.flat_sky(), windows=seen, **options, **components)


# -- rendering


@pytest.mark.parametrize("options", [{}, {"psf_contains_pixel": False}], ids=["PSF", "optical PSF"])
def test_inside_its_window_a_component_has_the_light_that_it_has_without_one(options):
    image = blank(**options)
    whole = bp.Scene(image, **galaxies())
    in_windows = bp.Scene(image, windows=windows(), **galaxies())
    for name, window in windows().items():
        inside = (slice(max(window.y0, 0), window.y1), slice(max(window.x0, 0), window.x1))
        expected, found = (scene.predict(components=name)[inside] for scene in (whole, in_windows))
        assert float((found - expected).norm() / expected.norm()) < 2e-4, name


def test_beyond_its_window_a_component_has_none():
    scene = bp.Scene(blank(), windows={"one": bp.Window(20, 20, 52, 52)}, **galaxies())
    outside = torch.ones(SHAPE, dtype=torch.bool)
    outside[20:52, 20:52] = False
    assert bool((scene.predict(components="one")[outside] == 0).all())
    assert float(scene.predict(components="two")[outside].abs().max()) > 0


def test_windows_of_the_whole_image_change_nothing():
    ny, nx = SHAPE
    everything = bp.Window(0, 0, nx, ny)
    expected = bp.Scene(blank(), **galaxies()).predict()
    found = bp.Scene(blank(), windows=dict.fromkeys(PLACES, everything), **galaxies()).predict()
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_windows_at_the_edge_of_the_image_are_moved_into_it():
    star = models.point_source(x=1.2, y=88.3, flux=100.0)
    expected = bp.Scene(blank(), star=star).predict()
    found = bp.Scene(blank(), windows={"star": bp.Window(-9, 80, 12, 99)}, star=star).predict()
    assert float((found - expected).norm() / expected.norm()) < 2e-4


def test_a_large_window_keeps_its_shape_and_a_small_one_is_enlarged_to_a_square():
    image = bp.Image(np.zeros((300, 310)), sigma=1.0, psf=kernel())
    galaxy = {"x": 150.3, "y": 140.8, "flux": 1000.0, "r_eff": 6.0, "n": 1.0, "q": 0.7, "theta": 0.4}
    given = {"large": bp.Window(11, 20, 289, 291), "small": bp.Window(100, 110, 170, 190)}
    sizes = {name: WindowedRenderer(image, {name: window}).sizes[0] for name, window in given.items()}
    assert {name: size.renderer.shape for name, size in sizes.items()} == {"large": (271, 278), "small": (96, 96)}
    whole = bp.Scene(image, large=models.sersic(**galaxy)).predict()
    windowed = bp.Scene(image, windows={"large": given["large"]}, large=models.sersic(**galaxy)).predict()
    inside = (slice(20, 291), slice(11, 289))
    torch.testing.assert_close(windowed[inside], whole[inside], rtol=1e-4, atol=1e-5 * float(whole.max()))
    windowed[inside] = 0.0
    assert not windowed.any()


def test_windows_without_a_psf():
    extended = {name: one for name, one in galaxies().items() if name != "star"}
    expected = bp.Scene(blank(psf=None), **extended).predict()
    seen = {name: window for name, window in windows(28.0).items() if name in extended}
    found = bp.Scene(blank(psf=None), windows=seen, **extended).predict()
    assert float((found - expected).norm() / expected.norm()) < 2e-3  # what lies beyond


def test_windows_through_a_psf_with_parameters():
    psf = models.moffat_psf(fwhm=4.0, beta=3.5, q=0.9, theta=0.3)
    expected = bp.Scene(blank(psf=None), psf=psf, **galaxies()).predict()
    found = bp.Scene(blank(psf=None), psf=psf, windows=windows(25.0), **galaxies()).predict()
    for name, window in windows(10.0).items():
        inside = (slice(window.y0, window.y1), slice(window.x0, window.x1))
        assert float((found[inside] - expected[inside]).norm() / expected[inside].norm()) < 1e-3, name


# -- inference


@pytest.mark.parametrize("likelihood", ["gaussian", pytest.param("poisson", marks=pytest.mark.slow)])
def test_gradient_information_and_hessian_are_exact(observed, likelihood):
    image = observed
    if likelihood == "poisson":
        image = bp.Image((observed.data + 50.0).clamp(min=0.0).round().numpy(), psf=kernel(), subtracted_sky=0.0)
    check_derivatives(Posterior(free_scene(image, likelihood)), poisson=likelihood == "poisson")


@pytest.mark.slow
def test_gradient_information_and_hessian_are_exact_with_the_parameters_of_a_psf(observed):
    image = bp.Image(observed.data.numpy(), sigma=1.0)
    scene = free_scene(image, psf=models.moffat_psf(beta=3.0, q=0.9, theta=0.4))
    posterior = Posterior(scene)
    assert any(site.name.startswith("psf.") for site in posterior.sites)
    check_derivatives(posterior)


def check_derivatives(posterior: Posterior, *, poisson: bool = False) -> None:
    """Gradient, information and Hessian where a fit would start, against differences."""
    z = posterior.initial()
    value, gradient, hessian = posterior.hessian(z)
    _, slope, information, _ = posterior.expansion(z)
    for found in (gradient, slope):
        torch.testing.assert_close(found, posterior.value_and_grad(z)[1], rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(value, posterior.log_density(z), rtol=1e-12, atol=1e-9)
    steps = 1e-5 * torch.eye(len(z), dtype=z.dtype)
    ahead, behind = (posterior.value_and_grad(z + sign * steps)[1] for sign in (1, -1))
    expected = (behind - ahead) / 2e-5
    root = hessian.diagonal().abs().sqrt()
    assert float(((hessian - expected) / torch.outer(root, root)).abs().max()) < 1e-6
    parameters = posterior._forward.several("parameters")

    def parameter(point: torch.Tensor) -> torch.Tensor:
        return parameters(point, *posterior._forward.constants)["parameters"][0].flatten()

    jacobian = torch.stack([(parameter(z + step) - parameter(z - step)) / 2e-5 for step in steps])
    weight = 1 / parameter(z) if poisson else 1.0
    expected = (jacobian * weight) @ jacobian.T
    root = expected.diagonal().sqrt()
    assert float(((information - expected) / torch.outer(root, root)).abs().max()) < 1e-6


@pytest.mark.slow
def test_captured_and_direct_functions_agree(observed):
    posterior = Posterior(free_scene(observed))
    z = posterior.initial() + 0.01
    batch = torch.stack([z, z + 0.01, z - 0.01])
    direct = {name: getattr(posterior, name)(batch) for name in ("value_and_grad", "expansion")}
    for name, expected in direct.items():
        posterior.prepare(name, batch=3, calls=1000)
        found = getattr(posterior, name)(batch)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-8)


def test_jacobian_is_made_in_the_windows_alone(observed):
    scene = free_scene(observed)
    posterior = Posterior(scene)
    found = with_derivatives(posterior._forward.several("parameters"), "parameters", in_windows=True)
    at = [block.at for block in found.blocks["parameters"][0] if block.at is not None]
    assert sorted(len(place.y) for place in at) == [1, 2]
    planes = [node.meta.get("val") for node in with_shapes(found.graph).graph.nodes]
    most = max(value.numel() for value in planes if isinstance(value, torch.Tensor))
    assert most < 8 * SHAPE[0] * SHAPE[1] * 4  # 22 images of everything, if each parameter had one


def test_fit_recovers_what_was_simulated(observed):
    fit = inference.lm(free_scene(observed))
    assert fit.converged, fit.message
    truths = {"one": 500.0, "two": 900.0}
    for name, flux in truths.items():
        assert abs(fit.params[f"{name}.flux"] - flux) < 4 * fit.std[f"{name}.flux"]
        for axis, place in zip("xy", PLACES[name], strict=True):
            assert abs(fit.params[f"{name}.{axis}"] - place) < 4 * fit.std[f"{name}.{axis}"]


def test_default_priors_are_measured_in_the_window(observed):
    scene = bp.Scene(observed, windows={"three": bp.Window(66, 45, 100, 78)}, three=models.sersic())
    start = scene.initial_values()
    assert abs(float(start["three.x"]) - 81.7) < 8
    assert abs(float(start["three.y"]) - 60.4) < 12


def test_overlapping_windows():
    one = Windows((0, 10, 30), (0, 5, 30), 8, 8, 50, 50)
    two = Windows((6, 31), (7, 38), 6, 6, 50, 50)
    assert overlapping(one, two) == [(0, 0), (1, 0)]
    assert overlapping(two, one) == [(0, 0), (0, 1)]


# -- malformed


@pytest.mark.parametrize(
    ("bounds", "error", "words"),
    [((3, 0, 3, 9), ValueError, "x0 < x1"), ((0, 1.5, 4, 9), TypeError, "whole numbers")],
)
def test_malformed_windows_are_told(bounds, error, words):
    with pytest.raises(error, match=words):
        bp.Window(*bounds)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"nobody": bp.Window(0, 0, 9, 9)}, ValueError, "nobody"),
        ({"one": (0, 0, 9, 9)}, TypeError, "bp.Window"),
        ([bp.Window(0, 0, 9, 9)], TypeError, "mapping"),
        ({"one": bp.Window(200, 0, 209, 9)}, ValueError, "overlaps the image"),
        ({"sky": bp.Window(0, 0, 9, 9)}, ValueError, "whole image"),
    ],
)
def test_malformed_windows_of_a_scene_are_told(given, error, words):
    with pytest.raises(error, match=words):
        bp.Scene(blank(), windows=given, sky=models.flat_sky(level=1.0), **galaxies())


def test_window_without_pixels_is_told():
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:20, :20] = True
    with pytest.raises(ValueError, match="unmasked"):
        bp.Scene(blank(mask=mask), windows={"one": bp.Window(0, 0, 9, 9)}, **galaxies())


def test_likelihood_of_unknown_information_is_expanded_through_windows(observed):
    """By its exact second derivatives, of which torch takes one forward, through the windows."""
    scene = bp.Scene(
        observed,
        likelihood=lambda model, image: dist.Laplace(model, 1.0),
        sky=models.flat_sky(level=0.0),
        star=models.point_source(x=40.0, y=20.0),
        windows={"star": bp.Window.around(40, 20, 9)},
    )
    posterior = Posterior(scene)
    z = posterior.initial()
    value, gradient, information, prior = posterior.expansion(z)
    slope, same = torch.func.grad_and_value(posterior.log_density)(z)
    assert float(value) == pytest.approx(float(same), rel=1e-12)
    torch.testing.assert_close(gradient, slope, rtol=1e-10, atol=1e-10)
    expected = -torch.func.hessian(posterior.log_density)(z)
    torch.testing.assert_close(information + prior, expected, rtol=1e-9, atol=1e-9)
