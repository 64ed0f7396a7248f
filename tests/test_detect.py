"""Objects found on a field, their catalogue, and the scene that they make."""

from __future__ import annotations

import ast
from functools import partial
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import bayesprof as bp
from bayesprof import inference, models

SHAPE = (140, 190)
SKY = 7.0
GALAXIES = np.array(
    # x, y, flux, r_eff, n, e1, e2; the fifth and sixth overlap
    [
        (30.3, 25.6, 1500, 3.0, 1.0, 0.2, 0.1),
        (80.2, 30.7, 3000, 4.0, 2.0, -0.3, 0.1),
        (150.4, 25.1, 800, 2.5, 1.0, 0.0, 0.3),
        (35.0, 80.5, 5000, 5.0, 1.5, 0.1, -0.2),
        (100.7, 85.2, 4000, 3.5, 1.0, 0.0, 0.1),
        (112.1, 92.4, 2000, 3.0, 1.0, 0.2, 0.0),
        (160.3, 100.8, 2500, 4.0, 2.5, 0.1, 0.1),
        (60.6, 120.2, 1000, 2.0, 1.0, 0.0, 0.0),
    ]
)
PAIR = (4, 5)


def kernel() -> np.ndarray:
    y, x = np.mgrid[:25, :25] - 12.0
    return (1 + (x**2 + y**2) / 6.0) ** -3


def drawn(galaxies: np.ndarray, shape: tuple[int, int] = SHAPE, sky: float = SKY) -> np.ndarray:
    """Noiseless image of Sersic profiles."""
    made = {
        f"galaxy_{i}": models.sersic(x=x, y=y, flux=flux, r_eff=r_eff, n=n, ellipticity=[e1, e2])
        for i, (x, y, flux, r_eff, n, e1, e2) in enumerate(galaxies)
    }
    blank = bp.Image(np.zeros(shape), sigma=1.0, psf=kernel())
    return bp.Scene(blank, sky=models.flat_sky(level=sky), **made).predict().numpy()


def noise(shape: tuple[int, int] = SHAPE, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return drawn(GALAXIES) + noise()


@pytest.fixture(scope="module")
def field(pixels) -> bp.Image:
    return bp.Image(pixels, sigma=1.0, psf=kernel())


@pytest.fixture(scope="module")
def found(field) -> bp.Detections:
    return bp.detect(field)


def nearest(found: bp.Detections, x: float, y: float) -> int:
    """Row of the object nearest to a place."""
    return int(np.hypot(found.catalogue["x"] - x, found.catalogue["y"] - y).argmin())


def matched(found: bp.Detections) -> list[int]:
    return [nearest(found, x, y) for x, y in GALAXIES[:, :2]]


# -- detection


def test_all_galaxies_are_found_to_a_pixel_and_nothing_else(found):
    assert sorted(matched(found)) == list(range(len(GALAXIES))) == list(range(len(found)))
    for row, (x, y) in zip(matched(found), GALAXIES[:, :2], strict=True):
        assert np.hypot(found.catalogue["x"][row] - x, found.catalogue["y"][row] - y) < 0.5


def test_measured_light_size_and_shape_are_roughly_right(found):
    table = found.catalogue[matched(found)]
    np.testing.assert_allclose(table["flux"], GALAXIES[:, 2], rtol=0.3)
    np.testing.assert_allclose(table["r_eff"], GALAXIES[:, 3], rtol=0.5)
    # seen through the PSF a shape is rounder, but its direction is kept
    for e1, e2, truth in zip(table["e1"], table["e2"], GALAXIES[:, 5:], strict=True):
        assert np.hypot(e1 - truth[0], e2 - truth[1]) < 0.2
    np.testing.assert_allclose(table["e1"], (1 - table["q"]) / (1 + table["q"]) * np.cos(2 * table["theta"]))
    np.testing.assert_allclose(table["sky"], SKY, atol=0.05)
    np.testing.assert_allclose(table["noise"], 1.0)


def test_catalogue_counts_the_pixels_of_the_map(found):
    areas = np.bincount(found.segmentation.ravel())
    assert found.catalogue["area"].tolist() == areas[1:].tolist()
    assert found.segmentation.shape == SHAPE
    assert found.segmentation.dtype.kind == "i"
    table = found.catalogue
    light = [(found.image.data.numpy() - found.background)[found.segmentation == label].sum() for label in found]
    np.testing.assert_allclose(table["snr"], np.array(light) / np.sqrt(areas[1:]), rtol=1e-9)


def test_overlapping_galaxies_are_taken_apart_unless_contrast_is_none(field, found):
    labels = [found.labels[matched(found)[one]] for one in PAIR]
    for label, (x, y) in zip(labels, GALAXIES[list(PAIR), :2], strict=True):
        assert found.segmentation[round(y), round(x)] == label
    together = bp.detect(field, contrast=None)
    assert len(together) == len(GALAXIES) - 1
    joined = np.isin(found.segmentation, labels)
    assert len(np.unique(together.segmentation[joined])) == 1
    np.testing.assert_array_equal(together.segmentation > 0, found.segmentation > 0)


def test_a_peak_needs_its_part_of_the_light(field):
    # the fainter of the pair has a third of its light
    assert len(bp.detect(field, contrast=0.6)) == len(GALAXIES) - 1


def test_outskirts_of_a_large_galaxy_do_not_break_up():
    large = np.array([(75.0, 62.0, 60000, 22.0, 2.5, 0.2, 0.1)])
    image = bp.Image(drawn(large) + noise(seed=5), sigma=1.0, psf=kernel())
    assert len(bp.detect(image)) == 1


def test_noise_alone_has_no_objects():
    with pytest.raises(ValueError, match=r"found nothing.*highest pixel.*lower threshold"):
        bp.detect(bp.Image(noise(seed=2), sigma=1.0, psf=kernel()))


def test_a_lower_threshold_finds_fainter_objects():
    faint = np.array([(40.0, 30.0, 60, 1.0, 1.0, 0.0, 0.0), (70.0, 33.0, 600, 2.0, 1.0, 0.0, 0.0)])
    image = bp.Image(drawn(faint, (60, 100)) + noise((60, 100)), sigma=1.0, psf=kernel())
    assert len(bp.detect(image, threshold=5.0)) == 2
    assert len(bp.detect(image, threshold=20.0)) == 1


def test_a_background_that_varies_is_followed_in_boxes_or_given(pixels, found):
    y, x = np.indices(SHAPE)
    slope = 0.008 * x - 0.005 * y
    image = bp.Image(pixels + slope, sigma=1.0, psf=kernel())
    for options in ({"box": 35}, {"background": SKY + slope}):
        again = bp.detect(image, **options)
        assert sorted(matched(again)) == list(range(len(again))), options
        np.testing.assert_allclose(again.catalogue["flux"][matched(again)], GALAXIES[:, 2], rtol=0.3)
    np.testing.assert_allclose(
        again.catalogue["flux"][matched(again)], found.catalogue["flux"][matched(found)], rtol=0.1
    )


@pytest.mark.parametrize("options", [{}, {"psf": np.kron(kernel(), np.ones((3, 3))), "psf_oversampling": 3}])
def test_other_psfs(pixels, options):
    found = bp.detect(bp.Image(pixels, sigma=1.0, **options))
    assert sorted(matched(found)) == list(range(len(found)))


def test_the_noise_may_vary_and_the_image_may_be_single_precision(pixels, found):
    sigma = np.ones(SHAPE)
    sigma[:, 135:] = 3.0
    data = pixels + np.where(sigma > 1, noise(seed=9) * np.sqrt(8), 0.0)
    again = bp.detect(bp.Image(data, sigma=sigma, psf=kernel(), dtype=torch.float32))
    assert len(again) == len(GALAXIES)
    rows = matched(again)
    np.testing.assert_allclose(again.catalogue["noise"][rows], np.where(GALAXIES[:, 0] > 135, 3.0, 1.0))
    assert again.catalogue["area"][rows[6]] < found.catalogue["area"][matched(found)[6]]


def test_masked_pixels_and_nan_belong_to_no_object(pixels):
    mask = np.zeros(SHAPE, dtype=bool)
    mask[20:32, 24:37] = True  # the first galaxy's middle
    mask[60:, 60] = True  # a column through the last one
    mask[20:40, 95:97] = True
    data = np.where(mask, np.nan, pixels)
    data[30, 96] = 1e6
    found = bp.detect(bp.Image(data, sigma=1.0, mask=mask, psf=kernel()))
    assert not found.segmentation[mask].any()
    for values in found.catalogue.itercols():
        assert np.isfinite(values).all(), values.name
    for x, y, flux in GALAXIES[1:-1, :3]:
        row = found.catalogue[nearest(found, x, y)]
        assert np.hypot(row["x"] - x, row["y"] - y) < 0.5
        assert abs(row["flux"] / flux - 1) < 0.3


def test_correlated_noise_is_told():
    smooth = np.random.default_rng(0).normal(size=(8, 10))
    sky = np.kron(smooth, np.ones((8, 8)))
    y, x = np.indices(sky.shape)
    blob = 500 * np.exp(-((x - 40) ** 2 + (y - 30) ** 2) / 20)
    with pytest.warns(UserWarning, match="scatters by .* times its noise.*threshold="):
        bp.detect(bp.Image(sky + blob, sigma=1.0))


# -- segmentation maps from elsewhere


def test_segmentation_maps_of_others_keep_their_labels(field, found):
    numbers = np.array([0, 12, 3, 7, 40, 41, 5, 6, 9])
    given = numbers[found.segmentation].astype(">i2")  # as SExtractor's, read from FITS
    again = bp.Detections.from_segmentation(field, given)
    assert again.labels.tolist() == sorted(numbers[1:].tolist())
    for label, number in enumerate(numbers[1:], start=1):
        for column in ("x", "y", "flux", "r_eff", "q", "snr", "area", "x0", "y1"):
            # the background is measured anew
            assert again[number].catalogue[column][0] == pytest.approx(found[label].catalogue[column][0], rel=2e-2), (
                column
            )


@pytest.mark.parametrize("convert", [torch.as_tensor, lambda array: array.astype(np.uint8), np.ndarray.tolist])
def test_maps_of_any_whole_numbers(field, found, convert):
    again = bp.Detections.from_segmentation(field, convert(found.segmentation.copy()), background=found.background)
    np.testing.assert_array_equal(again.segmentation, found.segmentation)
    np.testing.assert_allclose(again.catalogue["flux"], found.catalogue["flux"])


def test_maps_of_photutils(field, found):
    from photutils.segmentation import SegmentationImage

    again = bp.Detections.from_segmentation(field, SegmentationImage(found.segmentation.copy()), background=SKY)
    assert len(again) == len(found)


def test_segments_under_the_mask_are_told_and_left_out(pixels, found):
    image = bp.Image(pixels, sigma=1.0, mask=found.segmentation == 3)
    with pytest.warns(UserWarning, match=r"segments \[3\].*left out"):
        again = bp.Detections.from_segmentation(image, found.segmentation)
    assert again.labels.tolist() == [label for label in found if label != 3]
    assert 3 in again.segmentation  # which is still masked in a scene of others


def test_segments_without_light_have_a_place_and_make_a_scene(field):
    segments = np.zeros(SHAPE, dtype=int)
    segments[5:11, 100:108] = 2
    segments[118:123, 56:65] = 4
    data = field.data.numpy().copy()
    data[5:11, 100:108] -= 3.0
    found = bp.Detections.from_segmentation(bp.Image(data, sigma=1.0, psf=kernel()), segments)
    row = found.catalogue[0]
    assert row["flux"] < 0
    assert 99 < row["x"] < 108
    assert 4 < row["y"] < 11
    assert float(found.scene(component=models.sersic).initial_values()["object_2.flux"]) > 0


# -- selecting


def test_selections(found):
    assert list(found[[7, 2]]) == [7, 2]
    assert list(found[3]) == [3]
    bright = found[found.catalogue["flux"] > 1900]
    assert sorted(bright.catalogue["flux"]) == sorted(flux for flux in found.catalogue["flux"] if flux > 1900)
    first = found.brightest(3)
    assert first.catalogue["flux"].tolist() == sorted(found.catalogue["flux"], reverse=True)[:3]
    assert len(found.brightest(50)) == len(found)
    assert len(found[found.catalogue["snr"] > 1e9]) == 0
    assert first.segmentation is found.segmentation
    assert "3 objects on 140x190" in repr(first)


# -- windows and masks


def test_windows_hold_the_light_of_an_exponential_profile(found):
    windows = found.windows()
    for galaxy, row in zip(GALAXIES, matched(found), strict=True):
        if galaxy[4] > 1 or galaxy[0] in GALAXIES[list(PAIR), 0]:
            continue
        window = windows[found.labels[row]]
        light = drawn(galaxy[None], sky=0.0)
        light[window.y0 : window.y1, window.x0 : window.x1] = 0.0
        assert light.max() < 0.06


def test_windows_hold_their_segments_and_grow_with_reach(found):
    wide, narrow = found.windows(reach=1e-4), found.windows(reach=0.5)
    for label, window in found.windows().items():
        y, x = np.nonzero(found.segmentation == label)
        assert narrow[label].x0 <= x.min()
        assert narrow[label].x1 > x.max()
        assert narrow[label].y0 <= y.min()
        assert narrow[label].y1 > y.max()
        assert np.prod(narrow[label].shape) <= np.prod(window.shape) <= np.prod(wide[label].shape)
        assert window == window.within(SHAPE)
        row = found[label].catalogue[0]
        assert window == bp.Window(*(int(row[bound]) for bound in ("x0", "y0", "x1", "y1")))
    pixels = [sum(np.prod(window.shape) for window in windows.values()) for windows in (narrow, wide)]
    assert pixels[0] < 0.8 * pixels[1]


def test_window_of_a_star_reaches_as_far_as_the_wings_of_the_psf():
    shape = (80, 90)
    blank = bp.Image(np.zeros(shape), sigma=1.0, psf=kernel())
    light = bp.Scene(blank, star=models.point_source(x=45.3, y=38.8, flux=3000.0)).predict().numpy()
    found = bp.detect(bp.Image(light + noise(shape), sigma=1.0, psf=kernel()))
    assert found.catalogue["r_eff"][0] < 1.0
    window = found.windows()[1]
    light[window.y0 : window.y1, window.x0 : window.x1] = 0.0
    assert light.max() < 0.06


def test_mask_of_the_others_covers_them_and_spares_the_selected(found):
    one, other = (found.labels[matched(found)[i]] for i in PAIR)
    selected = found.segmentation == one
    ungrown = found[one].mask_others(grow=0)
    np.testing.assert_array_equal(ungrown, (found.segmentation != 0) & ~selected)
    grown = found[one].mask_others()
    assert grown.sum() > ungrown.sum()
    assert not (grown & selected).any()
    assert grown[found.segmentation == other].all()
    assert not found.mask_others().any()


# -- scenes


def test_scene_has_priors_and_starts_from_the_catalogue(found):
    chosen = found[[4, 7]]
    scene = chosen.scene(sky=models.flat_sky(), component=models.sersic, likelihood="student_t", names={7: "ngc70"})
    assert list(scene.components) == ["sky", "object_4", "ngc70"]
    assert scene.windows == {"object_4": found.windows()[4], "ngc70": found.windows()[7]}
    np.testing.assert_array_equal(scene.image.mask.numpy(), chosen.mask_others())
    start = scene.initial_values()
    for name, label in (("object_4", 4), ("ngc70", 7)):
        row = found[label].catalogue[0]
        for parameter in ("x", "y", "flux", "r_eff"):
            assert float(start[f"{name}.{parameter}"]) == pytest.approx(row[parameter], rel=1e-12)
        assert start[f"{name}.ellipticity"].tolist() == pytest.approx([row["e1"], row["e2"]], rel=1e-6)
        priors = scene.components[name].sources
        assert float(priors["x"].mean) == pytest.approx(row["x"])
        assert float(priors["x"].stddev) == pytest.approx(max(1.0, 0.5 * row["r_eff"]))
        assert float(priors["flux"].base_dist.mean) == pytest.approx(np.log(row["flux"]))
        assert float(priors["flux"].base_dist.stddev) == 1.0
        assert float(priors["r_eff"].base_dist.mean) == pytest.approx(np.log(row["r_eff"]))
        assert float(priors["r_eff"].base_dist.stddev) == pytest.approx(0.7)


def test_other_components_are_about_their_own_object_too(found):
    row = found[3].catalogue[0]
    scene = found[3].scene(component=models.bulge_disk)
    start = scene.initial_values()
    assert float(start["object_3.disk_r_eff"]) == pytest.approx(row["r_eff"])
    shaped = found[3].scene(component=lambda **given: models.shaped(models.exponential(**given), models.boxiness()))
    assert float(shaped.initial_values()["object_3.flux"]) == pytest.approx(row["flux"])
    star = found[3].scene(component=models.point_source)
    assert float(star.initial_values()["object_3.x"]) == pytest.approx(row["x"])


def test_what_a_partial_holds_is_kept(found):
    scene = found[2].scene(component=partial(models.sersic, n=1.0, r_eff=2.0))
    assert float(scene.components["object_2"].sources["n"]) == 1.0
    assert float(scene.components["object_2"].sources["r_eff"]) == 2.0


def test_components_of_ones_own_and_one_for_each_label(found):
    def disk(x, y, flux):
        def draw():
            return models.Exponential(pyro.sample("x", x), pyro.sample("y", y), pyro.sample("flux", flux), 3.0, q=0.8)

        return draw

    scene = found[[1, 2]].scene(component={1: disk, 2: models.sersic}, names=["disk", "galaxy"])
    sites = pyro.poutine.trace(scene).get_trace().nodes
    assert {"disk.x", "disk.flux", "galaxy.n"} <= set(sites)
    assert isinstance(sites["disk.x"]["fn"], dist.Normal)


def test_scene_keeps_the_precision_of_the_image(pixels):
    found = bp.detect(bp.Image(pixels, sigma=1.0, psf=kernel(), dtype=torch.float32))
    scene = found.brightest(2).scene(sky=models.flat_sky(), component=models.exponential)
    traced = pyro.poutine.trace(scene).get_trace()
    assert traced.nodes["_RETURN"]["value"].dtype == torch.float32
    assert traced.log_prob_sum().dtype == torch.float32


def test_fit_of_the_scene_recovers_what_was_simulated():
    galaxies = np.array(
        [
            (22.3, 25.6, 1500, 3.0, 1.0, 0.2, 0.1),
            (62.2, 22.7, 3000, 4.0, 1.5, -0.3, 0.1),
            (70.4, 45.1, 2000, 3.0, 1.0, 0.0, 0.2),
        ]
    )
    shape = (70, 100)
    image = bp.Image(drawn(galaxies, shape) + noise(shape), sigma=1.0, psf=kernel())
    found = bp.detect(image)
    assert len(found) == 3
    fit = inference.lm(found.scene(sky=models.flat_sky(), component=models.sersic))
    assert fit.converged, fit.message
    assert abs(fit.params["sky.level"] - SKY) < 4 * fit.std["sky.level"]
    for *numbers, e1, e2 in galaxies:
        name = f"object_{found.labels[nearest(found, numbers[0], numbers[1])]}"
        for parameter, truth in zip(("x", "y", "flux", "r_eff", "n"), numbers, strict=True):
            site = f"{name}.{parameter}"
            assert abs(fit.params[site] - truth) < 4 * fit.std[site], site
        site = f"{name}.ellipticity"
        assert (np.abs(np.asarray(fit.params[site]) - (e1, e2)) < 4 * np.asarray(fit.std[site])).all(), site


# -- malformed


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"threshold": 0.0}, ValueError, "threshold > 0"),
        ({"threshold": "5"}, TypeError, "threshold must be a single number"),
        ({"min_area": 0}, ValueError, "min_area"),
        ({"min_area": 2.5}, ValueError, "min_area"),
        ({"contrast": 2.0}, ValueError, r"contrast in \[0, 1\]"),
        ({"box": 1000}, ValueError, "from 2 to 140"),
        ({"background": np.zeros((190, 140))}, ValueError, r"\(140, 190\)"),
        ({"background": np.nan}, ValueError, "finite background"),
        ({"threshold": 1e9}, ValueError, "found nothing"),
    ],
)
def test_malformed_options_are_told(field, options, error, words):
    with pytest.raises(error, match=words):
        bp.detect(field, **options)


@pytest.mark.parametrize("make", [bp.detect, lambda image: bp.Detections.from_segmentation(image, np.ones(SHAPE, int))])
def test_images_without_noise_and_other_things_are_told(pixels, make):
    with pytest.raises(ValueError, match=r"expected an image with noise.*sigma="):
        make(bp.Image(pixels))
    with pytest.raises(TypeError, match=r"expected an Image, got ndarray.*bp.Image"):
        make(pixels)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda labels: labels.T, ValueError, r"\(140, 190\) \[ny, nx\], got \(190, 140\)"),
        (lambda labels: labels.astype(float), TypeError, r"float64; try map.astype\(int\)"),
        (lambda labels: labels > 0, TypeError, r"bool; label its regions.*scipy.ndimage.label"),
        (lambda labels: labels - 1, ValueError, "got -1"),
        (lambda labels: 0 * labels, ValueError, "0 everywhere"),
        (lambda labels: labels[0], ValueError, "expected a segmentation map"),
    ],
)
def test_malformed_maps_are_told(field, found, change, error, words):
    with pytest.raises(error, match=words):
        bp.Detections.from_segmentation(field, change(found.segmentation.copy()))


@pytest.mark.parametrize(
    ("choose", "error", "words"),
    [
        (lambda found: found[99], KeyError, r"label 99; the labels are 1, 2"),
        (lambda found: found[0], KeyError, "label 0"),
        (lambda found: found[[1, 1]], ValueError, "once each"),
        (lambda found: found[[True, False]], ValueError, "boolean mask of 8 objects"),
        (lambda found: found["one"], TypeError, "got str"),
        (lambda found: found[1:3], TypeError, "got slice"),
        (lambda found: found.brightest(0), ValueError, "from 1"),
        (lambda found: found.windows(reach=-1), ValueError, "reach > 0"),
        (lambda found: found.mask_others(grow=1.5), ValueError, "grow"),
        (lambda found: found[found.labels > 99].scene(component=models.sersic), ValueError, "got none"),
        (lambda found: found.scene(component=models.sersic()), TypeError, "without brackets"),
        (lambda found: found.scene(component="sersic"), TypeError, "to be a function, got str"),
        (lambda found: found.scene(component=models.flat_sky), TypeError, "take x and y, it takes"),
        (lambda found: found.scene(component={1: models.sersic}), ValueError, "got none for 2, 3"),
        (lambda found: found.scene(component=models.sersic, names=["one"]), ValueError, "each of 8 objects, got 1"),
        (lambda found: found.scene(component=models.sersic, names={99: "one"}), ValueError, "those of 99"),
        (lambda found: found[1].scene(component=models.sersic, names="ngc"), TypeError, "names=\\["),
        (lambda found: found[[1, 2]].scene(component=models.sersic, names=["a", "a"]), ValueError, "different names"),
        (
            lambda found: found[1].scene(component=models.sersic, object_1=models.flat_sky()),
            ValueError,
            "'object_1'] twice",
        ),
    ],
)
def test_malformed_choices_are_told(found, choose, error, words):
    with pytest.raises(error, match=words):
        choose(found)


def test_detections_can_not_be_changed(found):
    with pytest.raises(AttributeError):
        found.image = None
    with pytest.raises(ValueError, match="read-only"):
        found.segmentation[0, 0] = 1


def test_photutils_is_loaded_by_what_needs_it_only():
    for path in Path(bp.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "photutils" for name in names), path.name
