"""What the figures show: their numbers, labels and units, and that no text is cut off or printed over another."""

from __future__ import annotations

import math

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

import bayesprof as bp
from bayesprof import inference, models, plots
from bayesprof.estimate import point_estimate
from bayesprof.light import Background
from bayesprof.plots.columns import columns_of, gaussian_of
from bayesprof.plots.stretch import asinh_stretch
from bayesprof.values import near_circular_mean

SHAPE = (40, 56)
GALAXY = {"x": 24.3, "y": 17.6, "flux": 9000.0, "r_eff": 4.2, "q": 0.6, "theta": 2.9}
TRUTH = {**{f"galaxy.{name}": value for name, value in GALAXY.items()}, "sky.level": 30.0}


def simulated(psf, **options) -> bp.Image:
    blank = bp.Image(np.zeros(SHAPE), sigma=1.0, psf=psf)
    scene = bp.Scene(blank, sky=models.flat_sky(level=30.0), galaxy=models.exponential(**GALAXY))
    data = scene.predict().numpy() + np.random.default_rng(5).normal(0.0, 2.0, SHAPE)
    mask = np.zeros(SHAPE, dtype=bool)
    mask[30:34, 40:45] = True
    data[mask] = np.nan
    return bp.Image(data, **{"sigma": 2.0, "mask": mask, "psf": psf, "name": "field", **options})


@pytest.fixture(scope="module")
def scene(moffat_psf):
    image = simulated(moffat_psf, zeropoint=25.0, pixel_scale=0.2, band="r")
    return bp.Scene(image, sky=models.flat_sky(), galaxy=models.exponential())


@pytest.fixture(scope="module")
def fit(scene):
    return inference.lm(scene)


@pytest.fixture(scope="module")
def post(fit):
    """Draws from the Gaussian of the fit, as a sampler would return them."""
    random = np.random.default_rng(1)
    mean = np.concatenate([np.ravel(fit.params[name.split("[")[0]]) for name in dict.fromkeys(_sites(fit))])
    draws = random.multivariate_normal(mean, fit.covariance, size=(2, 400))
    sites, start = {}, 0
    for name in dict.fromkeys(_sites(fit)):
        size = np.size(fit.params[name])
        sites[name] = draws[..., start] if size == 1 else draws[..., start : start + size]
        start += size
    e1, e2 = sites["galaxy.ellipticity"][..., 0], sites["galaxy.ellipticity"][..., 1]
    size = np.hypot(e1, e2)
    sites["galaxy.q"] = (1 - size) / (1 + size)
    sites["galaxy.theta"] = np.remainder(0.5 * np.arctan2(e2, e1), math.pi)
    post = az.from_dict(posterior=sites)
    for name, unit in (("galaxy.r_eff", "pixel"), ("galaxy.theta", "rad"), ("galaxy.flux", "adu")):
        post.posterior[name].attrs["units"] = unit
    return post


def _sites(fit) -> list[str]:
    return [label.split("[")[0] for label in fit.labels]


def wrapped(post) -> az.InferenceData:
    """The same draws with the galaxy turned so that theta lies about the end of its range, 0 or pi."""
    turned = post.copy()
    values = np.remainder(post.posterior["galaxy.theta"].values - GALAXY["theta"] + math.pi, math.pi)
    turned.posterior["galaxy.theta"] = post.posterior["galaxy.theta"].copy(data=values)
    assert values.min() < 0.1
    assert values.max() > math.pi - 0.1
    return turned


def colliding_texts(figure) -> list[tuple[str, str]]:
    """Pairs of visible texts of a figure that lie over each other."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = []
    for axis in figure.axes:
        (left, right), (bottom, top) = sorted(axis.get_xlim()), sorted(axis.get_ylim())
        ticks = [label for label in axis.get_xticklabels() if left <= label.get_position()[0] <= right]
        ticks += [label for label in axis.get_yticklabels() if bottom <= label.get_position()[1] <= top]
        children = [axis.title, axis.xaxis.label, axis.yaxis.label, *ticks]
        boxes += [(t.get_text(), t.get_window_extent(canvas.get_renderer())) for t in children if t.get_text()]
    # rotated tick labels take less room than the box around them
    shrunk = [(text, box.shrunk(0.7, 0.7)) for text, box in boxes if box.width > 0]
    return [
        (first, second)
        for i, (first, box) in enumerate(shrunk)
        for second, other in shrunk[i + 1 :]
        if box.overlaps(other)
    ]


# -- image


def test_image_shows_the_data_and_outlines_the_segments_of_detections(scene, moffat_psf):
    blank = simulated(moffat_psf)
    labels = np.zeros(SHAPE, dtype=int)
    labels[14:22, 20:30], labels[5:9, 45:50] = 4, 9
    found = bp.Detections.from_segmentation(blank, labels)
    figure = plots.image(found[4])
    axis = figure.axes[0]
    shown = axis.images[0].get_array()
    np.testing.assert_allclose(shown.compressed(), blank.data.numpy()[blank.valid.numpy()])
    assert (shown.mask == blank.mask.numpy()).all()
    others, selected = (np.array(lines.get_segments()) for lines in axis.collections)
    assert selected.min(axis=(0, 1)).tolist() == [19.5, 13.5]
    assert selected.max(axis=(0, 1)).tolist() == [29.5, 21.5]
    assert (len(selected), len(others)) == (2 * (8 + 10), 2 * (4 + 5))
    assert [text.get_text() for text in axis.texts] == ["4"]
    assert not colliding_texts(figure)


def test_a_colour_bar_about_zero_has_a_zero_without_a_sign():
    ticks = np.concatenate([asinh_stretch(0.0, 9.0, low, 40.0)[1] for low in np.linspace(-30.0, -5.0, 60)])
    assert (ticks == 0).any()
    assert not np.signbit(ticks[ticks == 0]).any()


def test_image_of_several_has_a_panel_for_each(scene):
    figure = plots.image([scene.image] * 4)
    assert [axis.get_title() for axis in figure.axes if axis.images] == ["field, band r (grey: masked)"] * 4
    assert not colliding_texts(figure)
    with pytest.raises(TypeError, match="expected an Image, several of them, or Detections, got ndarray"):
        plots.image(np.zeros((4, 5)))
    with pytest.raises(TypeError, match=r"got int; make an Image of an array with bp.Image\(data\)"):
        plots.image(3)


# -- corner of a site with labels


def test_corner_calls_the_entries_of_a_site_by_the_labels_of_its_dimension():
    random = np.random.default_rng(0)
    draws = {"galaxy.flux": random.normal(size=(2, 60, 2)), "shape": random.normal(size=(2, 60, 2))}
    coords = {"image": ["g", "r"]}
    post = az.from_dict(posterior=draws, coords=coords, dims={"galaxy.flux": ["image"]})
    columns = columns_of(post, None)
    assert [column.label for column in columns] == ["galaxy.flux[g]", "galaxy.flux[r]", "shape[0]", "shape[1]"]
    assert [column.entry for column in columns][:2] == ["galaxy.flux[0]", "galaxy.flux[1]"]


# -- residual


def test_residual_shows_data_model_and_normalised_difference(scene, fit):
    figure = plots.residual(scene, fit)
    data, model, residual = (axis.images[0].get_array() for axis in figure.axes[:3])
    valid = scene.image.valid.numpy()
    expected = scene.predict(fit).numpy()
    np.testing.assert_allclose(model, expected)
    np.testing.assert_allclose(data.compressed(), scene.image.data.numpy()[valid])
    np.testing.assert_allclose(residual.compressed(), ((scene.image.data.numpy() - expected) / 2.0)[valid])
    assert (residual.mask == ~valid).all()


def test_residual_labels_stretch_and_clip(scene, fit):
    figure = plots.residual(scene, fit)
    axes = figure.axes
    assert axes[0].images[0].norm is axes[1].images[0].norm
    assert (axes[2].images[0].norm.vmin, axes[2].images[0].norm.vmax) == (-5.0, 5.0)
    assert [axis.get_xlabel() for axis in axes[:3]] == ["x [pixel]"] * 3
    assert axes[0].get_ylabel() == "y [pixel]"
    bars = [axis.get_ylabel() for panel in axes[:3] for axis in panel.child_axes]
    assert bars == ["data and model\n[image unit / pixel]", "residual / sigma"]
    assert axes[0].get_title() == "data (grey: masked)"
    assert axes[0].images[0].origin == "lower"


def test_stretch_reaches_the_faint_half_of_a_galaxy_that_fills_the_frame():
    galaxy = models.sersic(x=30.0, y=24.0, flux=1e6, r_eff=20.0, n=1.0, q=0.8, theta=0.3)
    truth = bp.Scene(bp.Image(np.zeros((48, 60)), sigma=1.0), galaxy=galaxy)
    noise = np.random.default_rng(1).normal(size=(48, 60))
    scene = bp.Scene(bp.Image(truth.predict().numpy() + noise, sigma=1.0), galaxy=galaxy)
    data = plots.residual(scene, None).axes[0].images[0]
    shown = data.norm(np.asarray(data.get_array()))
    assert np.mean(shown <= 0) < 0.03


def test_residual_title_gives_chi_squared_and_degrees_of_freedom(scene, fit):
    title = plots.residual(scene, fit).get_suptitle()
    assert f"{fit.chi2:.1f} / {fit.dof} = {fit.chi2 / fit.dof:.3f}" in title
    assert title.startswith("field, band r")


def test_residual_without_noise_is_in_image_units(moffat_psf):
    image = bp.Image(np.nan_to_num(simulated(moffat_psf).raw, nan=30.0), psf=moffat_psf)
    scene = bp.Scene(image, likelihood=lambda model, image: dist.Normal(model, 2.0), sky=models.flat_sky(level=30.0))
    figure = plots.residual(scene, None)
    np.testing.assert_allclose(figure.axes[2].images[0].get_array(), image.data.numpy() - 30.0)
    norm = figure.axes[2].images[0].norm
    assert norm.vmin == -norm.vmax
    assert figure.axes[2].child_axes[0].get_ylabel() == "data - model\n[image unit / pixel]"
    assert "chi" not in figure.get_suptitle()


@pytest.mark.parametrize("shape", [(20, 60), (60, 20)])
def test_long_images_have_labels_that_do_not_collide(shape):
    data = 1e-3 * np.random.default_rng(0).normal(5.0, 1.0, shape)
    scene = bp.Scene(bp.Image(data, sigma=1e-3), sky=models.flat_sky(level=5e-3))
    assert not colliding_texts(plots.residual(scene, None))


def test_draws_give_the_model_at_their_medians(scene, post):
    values = {name: np.median(draws.values, axis=(0, 1)) for name, draws in post.posterior.items()}
    shown = plots.residual(scene, post).axes[1].images[0].get_array()
    np.testing.assert_allclose(shown, scene.predict({name: values[name] for name in point_estimate(scene, post)}))


def test_median_of_an_angle_is_taken_across_the_end_of_its_range():
    image = bp.Image(np.ones((20, 30)), sigma=1.0)
    galaxy = models.exponential(x=14.0, y=9.0, flux=50.0, r_eff=3.0, q=0.5, theta=dist.Uniform(-1.0, 2.1))
    draws = np.remainder(np.random.default_rng(0).normal(0.0, 0.1, (2, 101)), math.pi)
    value = point_estimate(bp.Scene(image, g=galaxy), az.from_dict(posterior={"g.theta": draws}))["g.theta"]
    assert abs(float(value)) < 0.03


def test_near_circular_mean_moves_by_half_turns_only():
    theta = np.array([0.05, 3.1, 0.1, 3.05])
    moved = near_circular_mean(theta)
    assert np.ptp(moved) < 0.3
    np.testing.assert_allclose(np.remainder(moved - theta + 1e-9, math.pi), 0, atol=1e-8)


def test_missing_and_meaningless_parameters_are_refused(scene):
    with pytest.raises(ValueError, match=r"none for \['sky.level'"):
        plots.residual(scene, {"galaxy.x": 3.0})
    with pytest.raises(TypeError, match=r"got list; pass what inference\.lm"):
        plots.residual(scene, [1.0])


def test_figures_are_written_shown_in_notebooks_and_unknown_to_pyplot(scene, fit, tmp_path):
    figure = plots.residual(scene, fit, path=tmp_path / "residual.png")
    assert (tmp_path / "residual.png").read_bytes().startswith(b"\x89PNG")
    plots.profile(scene, fit, path=tmp_path / "profile.pdf")
    assert (tmp_path / "profile.pdf").read_bytes().startswith(b"%PDF")
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert plt.get_fignums() == []


# -- corner


def test_corner_shows_shape_in_place_of_ellipticity_with_units(post):
    figure = plots.corner(post)
    names = [column.entry for column in columns_of(post, None)]
    assert names == [
        "sky.level",
        "galaxy.x",
        "galaxy.y",
        "galaxy.flux",
        "galaxy.r_eff",
        "galaxy.q",
        "galaxy.theta",
    ]
    count = len(names)
    labels = [axis.get_xlabel() for axis in figure.axes[-count:]]
    assert labels[3:7] == ["galaxy.flux\n[adu]", "galaxy.r_eff\n[pixel]", "galaxy.q", "galaxy.theta\n[rad]"]
    assert figure.axes[count].get_ylabel() == "galaxy.x"
    assert not colliding_texts(figure)


def test_corner_titles_give_median_and_interval(post):
    low, median, high = np.quantile(post.posterior["galaxy.r_eff"], [0.16, 0.5, 0.84])
    title = plots.corner(post, names=["galaxy.r_eff"]).axes[0].get_title()
    numbers = [float(text) for text in title.strip("$").replace("^{+", " ").replace("}_{-", " ").rstrip("}").split()]
    np.testing.assert_allclose(numbers, [median, high - median, median - low], atol=2e-3)


def test_corner_marks_truths_and_keeps_them_in_view(post):
    figure = plots.corner(post, names=["galaxy.x", "galaxy.r_eff"], truths={"galaxy.r_eff": 5.9, "galaxy.q": 0.6})
    panel = figure.axes[3]
    marks = [line.get_xdata() for line in panel.lines if line.get_color() == "tab:red"]
    assert [list(mark) for mark in marks] == [[5.9, 5.9]]
    assert panel.get_xlim()[0] < 5.9 < panel.get_xlim()[1]


def test_corner_keeps_an_angle_together_across_the_end_of_its_range(post):
    turned = wrapped(post)
    figure = plots.corner(turned, names=["galaxy.theta"], truths={"galaxy.theta": math.pi})
    low, high = figure.axes[0].get_xlim()
    assert high - low < 0.5
    (mark,) = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_color() == "tab:red"]
    assert low < mark < high
    assert math.isclose(math.remainder(mark, math.pi), 0.0, abs_tol=1e-9)


def test_corner_takes_powers_of_ten_out_of_tick_labels(post):
    faint = post.copy()
    faint.posterior["galaxy.flux"] = post.posterior["galaxy.flux"] * 1e-20
    faint.posterior["galaxy.flux"].attrs["units"] = "W / m2"
    figure = plots.corner(faint, names=["galaxy.flux"], truths={"galaxy.flux": 9e-17})
    assert figure.axes[0].get_xlabel() == "galaxy.flux\n[$10^{-17}$ W / m2]"
    low, high = figure.axes[0].get_xlim()
    assert low < 9.0 < high


def test_corner_draws_the_covariance_of_a_fit(post, fit):
    names = ["galaxy.flux", "galaxy.r_eff"]
    figure = plots.corner(post, names=names, fit=fit)
    i, j = (fit.labels.index(name) for name in names)
    precision = np.linalg.inv(fit.covariance[np.ix_([i, j], [i, j])])
    mean = np.array([fit.params[name] for name in names])
    ellipses = [np.array(line.get_data()).T - mean for line in figure.axes[2].lines if line.get_color() == "tab:blue"]
    assert len(ellipses) == 2
    for sigma, ellipse in zip((1, 2), ellipses, strict=True):
        np.testing.assert_allclose(np.einsum("ni,ij,nj->n", ellipse, precision, ellipse), sigma**2, rtol=1e-6)
    (density,) = [line for line in figure.axes[0].lines if line.get_color() == "tab:blue"]
    x, y = density.get_data()
    assert x[np.argmax(y)] == pytest.approx(fit.params["galaxy.flux"], abs=0.05 * fit.std["galaxy.flux"])


def test_covariance_of_shape_follows_from_that_of_the_ellipticity(post, fit):
    mean, covariance = gaussian_of(fit, columns_of(post, ["galaxy.q", "galaxy.theta", "galaxy.flux"]))
    draws = [near_circular_mean(post.posterior[name].values).ravel() for name in ("galaxy.q", "galaxy.theta")]
    draws.append(post.posterior["galaxy.flux"].values.ravel())
    np.testing.assert_allclose(np.sqrt(np.diagonal(covariance)), np.std(draws, axis=1), rtol=0.1)
    correlation = covariance / np.sqrt(np.outer(np.diagonal(covariance), np.diagonal(covariance)))
    np.testing.assert_allclose(correlation, np.corrcoef(draws), atol=0.12)  # 800 draws: 0.035 each
    np.testing.assert_allclose(mean, np.mean(draws, axis=1), rtol=0.01)


def test_other_deterministic_sites_get_a_density_and_no_ellipse(post, fit):
    from dataclasses import replace

    more = post.copy()
    more.posterior["galaxy.area"] = post.posterior["galaxy.r_eff"] ** 2
    params, std = {**fit.params, "galaxy.area": 17.6}, {**fit.std, "galaxy.area": 0.5}
    figure = plots.corner(more, names=["galaxy.area", "galaxy.x"], fit=replace(fit, params=params, std=std))
    blue = [[line for line in axis.lines if line.get_color() == "tab:blue"] for axis in figure.axes]
    assert [len(lines) for lines in blue] == [1, 0, 0, 1]


def test_corner_refuses_what_it_cannot_show(post):
    with pytest.raises(ValueError, match=r"no site \['galaxy.n'\]; choose names among"):
        plots.corner(post, names=["galaxy.n"])
    with pytest.raises(ValueError, match=r"no site \['galaxy.m'\], given in truths"):
        plots.corner(post, truths={"galaxy.m": 1.0})
    with pytest.raises(ValueError, match="expected 1 to 24 columns, got 30; choose sites"):
        plots.corner(az.from_dict(posterior={"many": np.zeros((2, 50, 30))}))
    with pytest.raises(ValueError, match="more draws than columns"):
        plots.corner(az.from_dict(posterior={"a": np.zeros((1, 2)), "b": np.zeros((1, 2))}))
    with pytest.raises(TypeError, match="expected InferenceData, got dict"):
        plots.corner({})


def test_constant_sites_are_shown_on_request_only(post, fit):
    from dataclasses import replace

    held = post.copy()
    held.posterior["galaxy.q"] = post.posterior["galaxy.q"] * 0 + 0.6
    assert "galaxy.q" not in [column.site for column in columns_of(held, None)]
    names = ["galaxy.q", "galaxy.x"]
    fit = replace(fit, params={**fit.params, "galaxy.q": 0.6}, std={**fit.std, "galaxy.q": 0.0})
    assert [axis.get_xlabel() for axis in plots.corner(held, names=names, fit=fit).axes[2:]] == names
    plots.corner(az.from_dict(posterior={"a": np.full((2, 50), 3.0)}))


# -- profile


def test_profile_of_a_round_galaxy_is_that_of_its_formula():
    """Without a PSF, against flux b^2 / (2 pi r_eff^2) exp(-b R / r_eff), b = 1.6783; pixels are 1/12 r_eff wide."""
    galaxy = models.exponential(x=40.0, y=33.0, flux=1e5, r_eff=12.0, q=1.0, theta=0.0)
    scene = bp.Scene(bp.Image(np.ones((70, 90)), sigma=1.0), galaxy=galaxy)
    (curve,) = [line for line in plots.profile(scene, None).axes[0].lines if line.get_label() == "galaxy"]
    radius, brightness = curve.get_data()
    formula = 1e5 * 1.67835**2 / (2 * math.pi * 144) * np.exp(-1.67835 * radius / 12.0)
    inside = (radius > 2) & (radius < 25)  # beyond, the mean over a wide annulus is above the middle's brightness
    np.testing.assert_allclose(brightness[inside], formula[inside], rtol=0.01)


def test_profile_subtracts_the_sky_and_is_in_magnitudes_where_it_can(scene, fit):
    figure = plots.profile(scene, fit)
    top, bottom = figure.axes[:2]
    assert top.get_ylabel() == "surface brightness\n[mag / arcsec$^2$]"
    assert top.get_ylim()[0] > top.get_ylim()[1]
    assert top.child_axes[0].get_xlabel() == "radius along the major axis [arcsec]"
    assert bottom.get_xlabel() == "radius along the major axis [pixel]"
    labels = top.get_legend_handles_labels()[1]
    assert top.get_legend().texts[0].get_text() == "data - sky"
    assert "sky" not in labels
    (curve,) = [line for line in top.lines if line.get_label() == "galaxy"]
    peak = scene.predict(fit, components="galaxy").max()
    assert curve.get_ydata()[0] == pytest.approx(25.0 - 2.5 * math.log10(float(peak) / 0.04), abs=0.05)
    assert f"q = {fit.params['galaxy.q']:.3f}, theta = {fit.params['galaxy.theta']:.3f} rad" in top.get_title()
    assert not colliding_texts(figure)


def test_profile_residuals_scatter_by_one_error(scene, fit):
    points = plots.profile(scene, fit).axes[1].containers[0].lines[0].get_ydata()
    assert len(points) > 10
    assert 0.5 < np.std(points) < 1.5


def test_profile_without_calibration_is_in_image_units(moffat_psf):
    scene = bp.Scene(simulated(moffat_psf), galaxy=models.exponential(**GALAXY), sky=models.flat_sky(level=30.0))
    top = plots.profile(scene, None).axes[0]
    assert top.get_ylabel() == "surface brightness\n[image unit / pixel]"
    assert top.get_yscale() == "log"
    assert top.child_axes == []


def test_profile_shows_every_source_around_the_one_asked_for(moffat_psf):
    star = models.point_source(x=40.0, y=10.0, flux=800.0)
    scene = bp.Scene(
        simulated(moffat_psf), sky=models.flat_sky(level=30.0), galaxy=models.exponential(**GALAXY), star=star
    )
    top = plots.profile(scene, None, component="star").axes[0]
    assert top.get_title() == "star: centre (40.00, 10.00) pixel, circles"
    assert {"model", "galaxy", "star"} <= set(top.get_legend_handles_labels()[1])
    with pytest.raises(ValueError, match=r"no component 'bar'; it has \['sky', 'galaxy', 'star'\]"):
        plots.profile(scene, None, component="bar")


def test_profile_of_a_component_without_a_centre_is_around_its_brightest_pixel():
    class Blob(Background):
        def __init__(self, height):
            super().__init__()
            self.height = torch.as_tensor(height)

        def brightness_at(self, x, y):
            return self.height * torch.exp(-((x - 20) ** 2 + (y - 11) ** 2) / 30)

    def blob():
        return Blob(pyro.sample("height", dist.Normal(50.0, 5.0)))

    scene = bp.Scene(bp.Image(np.ones((30, 45)), sigma=1.0), blob=blob)
    top = plots.profile(scene, {"blob.height": 50.0}).axes[0]
    assert top.get_title() == "blob: centre (20.00, 11.00) pixel, circles"


def test_profile_of_a_masked_component_says_so(moffat_psf):
    mask = np.ones(SHAPE, dtype=bool)
    mask[0, :3] = False
    scene = bp.Scene(simulated(moffat_psf, mask=mask), galaxy=models.exponential(**GALAXY))
    with pytest.raises(ValueError, match="expected unmasked pixels around 'galaxy'"):
        plots.profile(scene, None)


# -- sheets of prior draws


def test_prior_sheet_shows_noiseless_images_of_draws_from_the_prior(scene):
    held = bp.Scene(scene.image, sky=models.flat_sky(level=30.0), galaxy=models.exponential(**GALAXY))
    figure = plots.prior_sheet(held, count=3)
    shown = [image.get_array() for axis in figure.axes for image in axis.images if image.get_array().shape == SHAPE]
    assert len(shown) == 3
    for image in shown:
        np.testing.assert_allclose(image, held.predict().numpy())
    draws = [axis.images[0].get_array() for axis in plots.prior_sheet(scene, count=6).axes[:6]]
    assert all(float(np.abs(one - draws[0]).max()) > 1.0 for one in draws[1:])


def test_prior_sheet_has_one_stretch_and_as_many_panels_as_draws(scene, tmp_path):
    figure = plots.prior_sheet(scene, count=7, path=tmp_path / "sheet.png")
    panels = [axis for axis in figure.axes if axis.images and axis.images[0].get_array().shape == SHAPE]
    assert len(panels) == 7
    assert len({id(axis.images[0].norm) for axis in panels}) == 1
    assert figure.axes[-1].get_ylabel() == "[image unit / pixel]"
    assert figure.get_suptitle() == "7 draws from the prior of sky, galaxy"
    assert (tmp_path / "sheet.png").stat().st_size > 5000
    assert colliding_texts(figure) == []


def test_prior_sheet_follows_its_seed_and_leaves_other_draws_alone(scene):
    def first(seed: int) -> np.ndarray:
        return np.asarray(plots.prior_sheet(scene, count=1, seed=seed).axes[0].images[0].get_array())

    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one = first(4)
    assert torch.equal(torch.rand(1), expected)
    np.testing.assert_array_equal(one, first(4))
    assert not np.array_equal(one, first(5))


def test_prior_sheet_refuses_what_it_cannot_show(scene):
    with pytest.raises(TypeError, match=r"expected a Scene.*bp\.Scene"):
        plots.prior_sheet(models.sersic())
    with pytest.raises(ValueError, match="1 to 100 images, got 0"):
        plots.prior_sheet(scene, count=0)
