"""The correlation of noise: what is one, how it is measured on blank sky, and what spoils that."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_malformed_inputs import Case, assert_refused

import bayesprof as bp
from bayesprof.correlation import FLOOR, nearest, power_spectrum
from bayesprof.decorrelation import decorrelation

KERNELS = {
    "pixels alone": np.ones((1, 1)),
    "along x": np.array([[0.4, 1.0, 0.4]]),
    "drizzle": np.outer([0.3, 1.0, 0.3], [0.3, 1.0, 0.3]),
    "slanted": np.array([[0.6, 0.2, 0.0], [0.2, 1.0, 0.2], [0.0, 0.2, 0.6]]),
}


def resampled(kernel: np.ndarray, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Noise of variance 1: independent pixels after a convolution."""
    height, width = kernel.shape
    white = np.random.default_rng(seed).normal(size=(shape[0] + height - 1, shape[1] + width - 1))
    parts = [kernel[i, j] * white[i : i + shape[0], j : j + shape[1]] for i in range(height) for j in range(width)]
    return np.sum(parts, axis=0) / np.sqrt((kernel**2).sum())


def table(noise: bp.NoiseCorrelation, reach: int = 2) -> np.ndarray:
    return noise.at(*np.mgrid[-reach : reach + 1, -reach : reach + 1])


# -- what a correlation is


def test_correlation_of_a_kernel_is_its_normalised_autocorrelation():
    kernel = KERNELS["slanted"]
    expected = np.zeros((5, 5))
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            for i in range(3):
                for j in range(3):
                    if 0 <= i + dy < 3 and 0 <= j + dx < 3:
                        expected[2 + dy, 2 + dx] += kernel[i, j] * kernel[i + dy, j + dx]
    found = bp.NoiseCorrelation.of_kernel(kernel)
    np.testing.assert_allclose(table(found), expected / expected[2, 2], atol=1e-12)
    assert found.at(np.array(3), np.array(0)) == 0.0


def test_power_spectrum_is_that_of_the_kernel_and_has_a_mean_of_1():
    found = bp.NoiseCorrelation.of_kernel(KERNELS["slanted"])
    power = power_spectrum(found.values, (32, 40))
    expected = np.abs(np.fft.fft2(KERNELS["slanted"], (32, 40))) ** 2
    np.testing.assert_allclose(power, expected / expected.mean(), atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_nearest_correlation_has_the_least_power_asked_for_and_stays_near(size):
    draws = np.random.default_rng(size)
    rough = draws.normal(scale=0.15, size=(2 * size + 1, 2 * size + 1))
    rough = 0.5 * (rough + rough[::-1, ::-1])
    rough[size, size] = 1.0
    found = nearest(rough)
    noise = bp.NoiseCorrelation(found)
    assert found[size, size] == 1.0
    assert noise.power.min() > 0.99 * FLOOR
    lowest = power_spectrum(rough, (96, 96)).min()
    assert np.abs(found - rough).max() < 1.2 * max(FLOOR - lowest, 0.0) + 1e-9


def test_correlation_with_enough_power_is_its_own_nearest():
    values = bp.NoiseCorrelation([[0.0, 0.1, 0.0], [0.2, 1.0, 0.2], [0.0, 0.1, 0.0]]).values
    np.testing.assert_allclose(nearest(values), values, atol=1e-14)


# -- measured on blank sky


@pytest.mark.parametrize("name", KERNELS)
def test_known_correlation_is_found(name):
    """Over 12 images: unbiased to the scatter of its mean, with errors that are those that are told."""
    truth = bp.NoiseCorrelation(nearest(bp.NoiseCorrelation.of_kernel(KERNELS[name]).values))
    found = [bp.noise_correlation(bp.Image(resampled(KERNELS[name], (90, 110), seed), sigma=1.0)) for seed in range(12)]
    tables = np.array([table(noise) for noise in found])
    told = np.mean([noise.errors.max() for noise in found])
    assert np.abs(tables.mean(axis=0) - table(truth)).max() < 3.5 * told / np.sqrt(12) + 0.02
    assert np.abs(tables - table(truth)).max() < 5 * told + 0.02
    assert np.mean([noise.factor for noise in found]) == pytest.approx(1.0, abs=0.02)
    assert np.median([noise.reach for noise in found]) <= truth.reach
    assert all(noise.power.min() > 0.99 * min(FLOOR, truth.power.min()) for noise in found)


def test_sigma_mask_sky_and_a_plane_do_not_matter():
    noise = resampled(KERNELS["drizzle"], (90, 110), 3)
    plain = bp.noise_correlation(bp.Image(noise, sigma=1.0))
    y, x = np.mgrid[:90, :110]
    sigma = 0.1 + 0.002 * x
    tilted = bp.noise_correlation(bp.Image(sigma * noise + 7.0 + 0.001 * x - 0.002 * y, sigma=sigma))
    np.testing.assert_allclose(table(tilted), table(plain), atol=0.02)
    mask = np.random.default_rng(4).random(noise.shape) < 0.3
    holed = bp.noise_correlation(bp.Image(np.where(mask, 1e9, noise), sigma=1.0, mask=mask))
    assert holed.pixels < 0.75 * noise.size
    np.testing.assert_allclose(table(holed), table(plain), atol=5 * holed.errors.max())


def test_factor_is_the_noise_in_units_of_sigma():
    image = bp.Image(resampled(KERNELS["drizzle"], (90, 110), 5), sigma=0.8)
    assert bp.noise_correlation(image).factor == pytest.approx(1 / 0.8, rel=0.05)


def test_galaxies_are_left_out_and_a_model_takes_their_wings_off():
    noise = resampled(KERNELS["drizzle"], (120, 120), 6)
    y, x = np.mgrid[:120, :120]
    radius = np.hypot(x - 60, y - 60)
    compact = 300 * np.exp(-radius / 3.0)
    clean, near = (bp.noise_correlation(bp.Image(noise + light, sigma=1.0)) for light in (0.0, compact))
    np.testing.assert_allclose(table(near), table(clean), atol=0.05)
    winged = 30 * np.exp(-radius / 8.0)
    image = bp.Image(noise + winged, sigma=1.0)
    by_model = bp.noise_correlation(image, model=winged)
    by_hand = bp.noise_correlation(image, blank=radius > 62, reach=2)
    np.testing.assert_allclose(table(by_model), table(clean), atol=0.02)
    np.testing.assert_allclose(table(by_hand), table(clean), atol=6 * by_hand.errors.max())


def test_light_left_in_the_sky_is_told():
    y, x = np.mgrid[:100, :100]
    waves = 0.8 * np.sin(x / 6.0) * np.sin(y / 5.0)
    with pytest.warns(UserWarning, match=r"light of objects is left in the sky.*model="):
        bp.noise_correlation(bp.Image(resampled(KERNELS["drizzle"], (100, 100), 7) + waves, sigma=1.0))


# -- what is refused

IMAGE = bp.Image(np.zeros((30, 40)), sigma=1.0)
KERNEL = [[0.25, 0.5, 0.25]]
MALFORMED = [
    Case("no image", lambda: bp.noise_correlation(np.zeros((30, 40))), TypeError, ("Image", "ndarray"), "an Image"),
    Case("no sigma", lambda: bp.noise_correlation(bp.Image(np.zeros((30, 40)))), ValueError, ("has none",), "sigma"),
    Case("reach", lambda: bp.noise_correlation(IMAGE, reach=9), ValueError, ("0 to 6", "9"), "pixels"),
    Case(
        "blank", lambda: bp.noise_correlation(IMAGE, blank=np.ones((4, 4))), ValueError, ("blank", "(4, 4)"), "(30, 40)"
    ),
    Case(
        "model", lambda: bp.noise_correlation(IMAGE, model=np.ones((4, 4))), ValueError, ("model", "(4, 4)"), "(30, 40)"
    ),
    Case(
        "all hidden",
        lambda: bp.noise_correlation(IMAGE, blank=np.zeros((30, 40))),
        ValueError,
        ("400", "got 0"),
        "model=",
    ),
    Case("even table", lambda: bp.NoiseCorrelation(np.ones((2, 2))), ValueError, ("odd", "(2, 2)"), "zeros"),
    Case(
        "words", lambda: bp.NoiseCorrelation("drizzled"), TypeError, ("table of numbers", "str"), "bp.noise_correlation"
    ),
    Case("covariance", lambda: bp.NoiseCorrelation([[4.0]]), ValueError, ("1 in the middle", "4.0"), "divide"),
    Case(
        "lopsided",
        lambda: bp.NoiseCorrelation([[0, 0, 0], [0.1, 1, 0], [0, 0, 0]]),
        ValueError,
        ("opposite",),
        "average",
    ),
    Case(
        "no noise has it",
        lambda: bp.NoiseCorrelation([[0, 0, 0], [0.9, 1, 0.9], [0, 0, 0]]),
        ValueError,
        ("-0.8",),
        "nearest",
    ),
    Case("kernel", lambda: bp.NoiseCorrelation.of_kernel(np.zeros((3, 3))), ValueError, ("kernel",), "weights"),
]


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.label)
def test_malformed_correlation_is_refused_with_a_remedy(case):
    assert_refused(case)


def test_correlation_without_power_somewhere_is_used_with_a_warning():
    noise = bp.NoiseCorrelation.of_kernel(np.outer(*[[0.25, 0.5, 0.25]] * 2))
    with pytest.warns(UserWarning, match="nats a pixel"):
        operator = decorrelation(noise, np.ones((20, 22), dtype=bool))
    assert operator.divergence > 0.01
    raised = decorrelation(bp.NoiseCorrelation(nearest(noise.values)), np.ones((20, 22), dtype=bool))
    assert raised.divergence < 0.01
    assert bool(torch.isfinite(raised(raised.draw(()))).all())
