"""Images made from the real files of the shared data folder, which lies beside the repository."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from bayesprof.image import Image

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def shared(*parts: str) -> Path:
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"shared data file {path} is absent")
    return path


def test_noise_of_a_real_image_follows_the_ccd_equation():
    image = Image.from_fits(
        shared("imfit", "ic3478rss_256.fits.gz"), mask=shared("imfit", "ic3478rss_256_mask.fits.gz"),
        psf=shared("imfit", "psf_moffat_51.fits"), gain=4.725, read_noise=4.3, subtracted_sky=130.14, name="ic3478",
    )  # fmt: skip
    assert image.shape == (256, 256)
    assert image.n_valid == 256 * 256 - 2108
    assert image.band == "r"
    assert image.pixel_scale == pytest.approx(0.396, rel=1e-3)
    expected = (image.raw.astype(float) + 130.14) / 4.725 + (4.3 / 4.725) ** 2
    valid = image.valid.numpy()
    np.testing.assert_allclose(image.sigma.numpy()[valid] ** 2, expected[valid], rtol=1e-12)


def test_imfit_supplied_sigma_agrees_with_the_gain():
    data = shared("imfit", "ic3478rss_64x64.fits")
    supplied = Image.from_fits(data, sigma=shared("imfit", "ic3478rss_64x64_sigma.fits"))
    made = Image.from_fits(data, gain=4.725, read_noise=4.3, subtracted_sky=130.1)
    np.testing.assert_allclose(made.sigma, supplied.sigma, rtol=2e-7)  # the file holds float32


def test_jwst_images_of_two_pixel_scales_see_the_same_sky():
    def read(band: str) -> Image:
        return Image.from_fits(
            shared("galfits_2114", f"2114_{band}sci.fits"), sigma=shared("galfits_2114", f"2114_{band}sigma.fits"),
            mask=shared("galfits_2114", f"mask2114_{band}.fits.gz"), name=band, dtype=torch.float32,
        )  # fmt: skip

    short, long = read("F115W"), read("F356W")
    assert (short.shape, long.shape) == ((232, 214), (117, 107))
    assert short.pixel_scale == pytest.approx(0.02, rel=1e-3)
    assert long.pixel_scale == pytest.approx(0.04, rel=1e-3)
    assert short.unit == "MJy / sr"
    x, y = short.wcs.world_to_pixel(long.wcs.pixel_to_world(50, 60))
    cut = short.cutout(float(x), float(y), 21)
    i, j = cut.wcs.world_to_pixel(long.wcs.pixel_to_world(50, 60))
    assert abs(i - 10) <= 0.5
    assert abs(j - 10) <= 0.5


def test_decam_inverse_variance_needs_mask_invalid():
    image = Image.from_fits(
        shared("tractor_decam", "decam-520206-S16-image-sub.fits.gz"),
        ivar=shared("tractor_decam", "decam-520206-S16-invvar-sub.fits.gz"), mask_invalid=True,
    )  # fmt: skip
    assert image.n_valid == 4900 - 320
    assert bool((image.sigma > 0).all())


def test_hst_stamps_are_chosen_by_hdu():
    image = Image.from_fits(
        (shared("hst_cosmos", "real_galaxy_images_extension.fits.gz"), 3),
        psf=(shared("hst_cosmos", "real_galaxy_PSF_images_extension.fits.gz"), 3),
    )
    assert image.psf.shape == (65, 51)
    assert float(image.psf.sum()) == pytest.approx(1.0, abs=1e-12)


def test_m51_is_read_from_big_endian_integers():
    image = Image.from_fits(shared("photutils_m51", "M51.fits.gz"), gain=1.0, read_noise=5.0)
    assert image.raw.dtype == np.dtype(">i2")
    assert image.shape == (512, 512)


def test_every_image_of_the_shared_data_is_read_without_a_warning():
    shared("README.md")
    tables = {"real_galaxy_catalog", "M51_table", "psfex", "tractor-1816p325"}
    files = [p for p in sorted(SHARED.rglob("*.fits*")) if not any(t in p.name for t in tables)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in files:
            assert Image.from_fits(path, mask_invalid=True).n_valid > 0
