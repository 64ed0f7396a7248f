"""Windows of a scene from its light and the noise, and the pictures of its windows and of the profiles in it."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from matplotlib.patches import Rectangle
from test_malformed_inputs import Case, assert_refused

import bayesprof as bp
from bayesprof import inference, models, plots
from bayesprof.estimate import starting_values
from bayesprof.plots.brightness import brightness_of
from bayesprof.rendering import renderer_for

SHAPE = (90, 120)
ONE = {"x": 38.3, "y": 41.2, "flux": 3000.0, "r_eff": 5.0, "q": 0.5, "theta": 0.0}
TWO = {"x": 61.4, "y": 50.1, "flux": 800.0, "r_eff": 3.0, "q": 1.0, "theta": 0.0}
STAR = {"x": 95.0, "y": 20.0, "flux": 600.0}


@pytest.fixture(scope="module")
def image(moffat_psf) -> bp.Image:
    options = {"sigma": 1.0, "psf": moffat_psf}
    light = models.Exponential(**ONE) + models.Exponential(**TWO) + models.PointSource(**STAR) + models.FlatSky(3.0)
    truth = renderer_for(bp.Image(np.zeros(SHAPE), **options))(light).numpy()
    mask = np.zeros(SHAPE, dtype=bool)
    mask[70:80, 15:30] = True
    data = truth + np.random.default_rng(2).normal(0.0, 1.0, SHAPE)
    return bp.Image(data, mask=mask, zeropoint=25.0, pixel_scale=0.2, **options)


@pytest.fixture(scope="module")
def scene(image) -> bp.Scene:
    def near(place: dict) -> dict:
        return {axis: dist.Normal(torch.tensor(place[axis], dtype=torch.float64), 1.0) for axis in "xy"}

    flux = {"flux": dist.LogNormal(torch.tensor(7.0, dtype=torch.float64), 1.0)}
    pair = bp.Group(one=models.exponential(**near(ONE), **flux), two=models.exponential(**near(TWO), **flux))
    return bp.Scene(image, sky=models.flat_sky(), pair=pair, star=models.point_source(**near(STAR), **flux))


@pytest.fixture(scope="module")
def fit(scene) -> inference.Fit:
    return inference.lm(scene)


# -- windows


def test_window_ends_where_the_brightness_falls_under_a_part_of_the_noise():
    """Of an exponential disk without a PSF: at R = h ln(I_0 / limit), along both axes."""
    image = bp.Image(np.zeros(SHAPE), sigma=2.0)
    scene = bp.Scene(image, sky=models.flat_sky(level=0.0), one=models.exponential(**ONE))
    for reach in (0.03, 0.3):
        (window,) = bp.bright_windows(scene, reach=reach).values()
        h = ONE["r_eff"] / 1.6783469900166605
        edge = h * math.log(ONE["flux"] / (2 * math.pi * ONE["q"] * h**2) / (2.0 * reach))
        assert window.x0 == pytest.approx(ONE["x"] - edge, abs=1.5)
        assert window.x1 - 1 == pytest.approx(ONE["x"] + edge, abs=1.5)
        assert window.y1 - 1 == pytest.approx(ONE["y"] + ONE["q"] * edge, abs=1.5)


def test_noise_of_masked_pixels_does_not_count():
    """Their sigma is 1 by convention, here far below that of all others."""
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:, 60:] = True
    image = bp.Image(np.zeros(SHAPE), sigma=1e4, mask=mask)
    scene = bp.Scene(image, one=models.exponential(**{**ONE, "x": 62.0}))
    (window,) = bp.bright_windows(scene, reach=1e-4).values()
    assert window.x1 - 62 == pytest.approx(62 - window.x0, abs=1.5)


def test_light_that_is_nowhere_bright_has_a_small_window_about_its_peak():
    scene = bp.Scene(bp.Image(np.zeros(SHAPE), sigma=1e6), one=models.exponential(**ONE))
    assert bp.bright_windows(scene) == {"one": bp.Window(30, 33, 47, 50)}


def test_fit_in_windows_is_that_of_the_whole_image(scene, fit):
    windowed = scene.with_windows(bp.bright_windows(scene, fit))
    assert list(windowed.windows) == ["pair.one", "pair.two", "star"]
    again = inference.lm(windowed, init=fit)
    assert again.converged
    for site in scene.latent:
        assert np.allclose(again.params[site], fit.params[site], atol=0.15 * np.max(fit.std[site])), site


def test_windows_from_starting_values_hold_the_objects(scene):
    windows = bp.bright_windows(scene)
    for name, place in (("pair.one", ONE), ("pair.two", TWO), ("star", STAR)):
        window = windows[name]
        assert window.x0 < place["x"] < window.x1
        assert window.y0 < place["y"] < window.y1


# -- pictures


def test_windows_are_drawn_with_their_names(scene, fit, tmp_path):
    windowed = scene.with_windows(bp.bright_windows(scene, fit))
    path = tmp_path / "windows.png"
    figure = plots.windows(windowed, path=path)
    (axis,) = figure.axes
    drawn = [(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in axis.patches if isinstance(p, Rectangle)]
    expected = [(w.x0 - 0.5, w.y0 - 0.5, w.x1 - w.x0, w.y1 - w.y0) for w in windowed.windows.values()]
    assert drawn == expected
    assert [text.get_text() for text in axis.texts] == list(windowed.windows)
    assert axis.get_title() == "image (grey: masked); everywhere: sky"
    assert axis.images[0].get_array().shape == SHAPE
    assert path.stat().st_size > 10_000


def test_profiles_have_the_median_of_the_deblended_data_and_of_the_model(scene, fit, image):
    figure = plots.profiles(scene, fit)
    assert [axis.get_title() for axis in figure.axes] == ["pair.one", "pair.two", "star"]
    axis = figure.axes[0]
    points = {line.get_label(): line for line in axis.lines}
    brightness, unit = brightness_of(image)
    assert unit.startswith("mag")
    model = points["model"]
    radius, shown = model.get_xdata(), model.get_ydata()
    # the annulus at a radius, from scratch
    x, y, q, theta = (fit.params[f"pair.one.{name}"] for name in ("x", "y", "q", "theta"))
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    dx, dy = columns - x, rows - y
    across = (dy * math.cos(theta) - dx * math.sin(theta)) / q
    elliptical = np.hypot(dx * math.cos(theta) + dy * math.sin(theta), across)
    i = int(np.argmin(np.abs(radius - 8.0)))
    low, high = (0.5 * (radius[i] + radius[j]) for j in (i - 1, i + 1))
    ring = (elliptical > low) & (elliptical < high) & image.valid.numpy()
    own = scene.predict(fit, components="pair.one").numpy()
    assert shown[i] == pytest.approx(float(brightness(np.median(own[ring]))), abs=0.05)
    bars = axis.containers[0]
    data = bars.lines[0]
    alone = scene.deblended("pair.one", fit).data.numpy()
    j = int(np.argmin(np.abs(data.get_xdata() - radius[i])))
    assert data.get_ydata()[j] == pytest.approx(float(brightness(np.median(alone[ring]))), abs=0.1)


def test_dashed_profile_is_the_formula(scene, fit):
    axis = plots.profiles(scene, fit, components="pair.one").axes[0]
    line = next(line for line in axis.lines if line.get_label() == "before the PSF")
    flux, r_eff, q = (fit.params[f"pair.one.{name}"] for name in ("flux", "r_eff", "q"))
    h = r_eff / 1.6783469900166605
    expected = flux / (2 * math.pi * q * h**2) * np.exp(-line.get_xdata() / h) / 0.2**2
    assert np.allclose(line.get_ydata(), 25.0 - 2.5 * np.log10(expected), atol=1e-6)


def test_profiles_end_at_the_window_and_take_groups(scene, fit):
    windowed = scene.with_windows({"pair.one": bp.Window.around(ONE["x"], ONE["y"], 12)})
    figure = plots.profiles(windowed, fit, components="pair")
    assert [axis.get_title() for axis in figure.axes] == ["pair.one", "pair.two"]
    reach = [max(line.get_xdata().max() for line in axis.lines) for axis in figure.axes]
    assert reach[0] < 12 * 2.2 < reach[1]


MALFORMED = [
    Case("reach", lambda s: bp.bright_windows(s, reach=0.0), ValueError, ("reach > 0", "0"), "noise of a pixel"),
    Case("unknown", lambda s: plots.profiles(s, starting_values(s), components="a"), ValueError, ("'a'",), "it has"),
    Case("no light", lambda s: bp.Window.where_bright(np.zeros((4, 5)), 1.0), ValueError, ("0 pixels",), "lower"),
]


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.label)
def test_malformed_request_is_refused_with_a_remedy(case, scene):
    assert_refused(case, scene)


def test_scene_of_skies_has_no_profiles(image):
    with pytest.raises(ValueError, match="isn't a sky"):
        plots.profiles(bp.Scene(image, sky=models.flat_sky(level=3.0)), None)
