"""What an Image holds, from every kind of input, and what its methods return."""

from __future__ import annotations

import copy
import doctest
import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, NDData, StdDevUncertainty, VarianceUncertainty
from astropy.utils.masked import Masked
from astropy.wcs import WCS

import bayesprof.image
from bayesprof.image import Image

SHAPE = (20, 30)


@pytest.fixture
def data() -> np.ndarray:
    return np.random.default_rng(1).normal(10.0, 1.0, SHAPE)


def sky_wcs(scale: float = 0.4) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [11.0, 6.0]
    angle, step = np.radians(25.0), scale / 3600
    wcs.wcs.cd = step * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return wcs


def gaussian(ny: int, nx: int, y: float | None = None, x: float | None = None, width: float = 1.5) -> np.ndarray:
    y, x = (ny - 1) / 2 if y is None else y, (nx - 1) / 2 if x is None else x
    rows, columns = np.mgrid[:ny, :nx]
    return np.exp(-0.5 * ((rows - y) ** 2 + (columns - x) ** 2) / width**2)


def test_attributes_of_a_full_image(data):
    mask = np.zeros(SHAPE, dtype=bool)
    mask[2, 7] = True
    image = Image(
        data, sigma=0.5, mask=mask, psf=gaussian(9, 7), psf_oversampling=2, psf_contains_pixel=False, wcs=sky_wcs(),
        zeropoint=22.5, band="r", name="field", subtracted_sky=3.0,
    )  # fmt: skip
    assert image.shape == SHAPE
    assert image.n_valid == 599
    assert image.noise_kind == "sigma"
    assert (image.band, image.name, image.unit, image.zeropoint) == ("r", "field", None, 22.5)
    assert (image.psf_oversampling, image.psf_contains_pixel, image.subtracted_sky) == (2, False, 3.0)
    assert image.gain is None
    assert image.read_noise is None
    assert image.pixel_scale == pytest.approx(0.4, rel=1e-9)
    assert image.psf.shape == (9, 7)
    assert float(image.psf.sum()) == pytest.approx(1.0, abs=1e-14)
    for plane in (image.data, image.sigma):
        assert plane.shape == SHAPE
        assert plane.dtype == torch.float64
    assert image.mask.dtype == torch.bool
    assert torch.equal(image.valid, ~image.mask)
    np.testing.assert_array_equal(image.data.numpy()[~mask], data[~mask])


def test_masked_pixels_cannot_leak_nan_into_data_or_sigma(data):
    data[3, 4] = np.nan
    sigma = np.full(SHAPE, 0.5)
    sigma[5, 6] = -1.0
    mask = np.zeros(SHAPE, dtype=int)
    mask[3, 4] = mask[5, 6] = 8
    image = Image(data, sigma=sigma, mask=mask)
    assert image.n_valid == 598
    assert (float(image.data[3, 4]), float(image.sigma[3, 4])) == (0.0, 1.0)
    assert (float(image.data[5, 6]), float(image.sigma[5, 6])) == (0.0, 1.0)
    assert np.isnan(image.raw[3, 4])


def test_mask_invalid_masks_bad_data_and_bad_noise(data):
    data[0, 1] = np.inf
    ivar = np.full(SHAPE, 4.0)
    ivar[2, 3] = 0.0
    image = Image(data, ivar=ivar, mask_invalid=True)
    assert torch.nonzero(image.mask).tolist() == [[0, 1], [2, 3]]
    assert float(image.sigma[9, 9]) == 0.5


@pytest.mark.parametrize(
    ("kind", "value"), [("sigma", 0.25), ("variance", 0.0625), ("ivar", 16.0)], ids=["sigma", "variance", "ivar"]
)
@pytest.mark.parametrize("as_plane", [False, True])
def test_sigma_variance_and_ivar_mean_the_same_noise(data, kind, value, as_plane):
    image = Image(data, **{kind: np.full(SHAPE, value) if as_plane else value})
    assert image.noise_kind == kind
    assert image.sigma.unique().tolist() == [0.25]


def test_gain_and_read_noise_follow_the_ccd_equation():
    data = np.full((4, 5), 10.0)
    data[1, 2] = -50.0  # below minus the sky: read noise alone
    image = Image(data, gain=4.725, read_noise=4.3, subtracted_sky=30.0)
    # (10 + 30) / 4.725 + (4.3 / 4.725)^2 = 8.465608 + 0.828197 = 9.293805, by hand
    assert float(image.sigma[0, 0]) ** 2 == pytest.approx(9.293805, abs=1e-6)
    assert float(image.sigma[1, 2]) ** 2 == pytest.approx(0.828197, abs=1e-6)
    assert (image.gain, image.read_noise, image.noise_kind) == (4.725, 4.3, "gain")
    assert Image(data + 60, gain=2.0).read_noise == 0.0


def test_without_noise_sigma_is_none(data):
    image = Image(data)
    assert image.sigma is None
    assert image.noise_kind is None


@pytest.mark.parametrize("dtype", [">f4", "<f8", ">f8", ">i2", "u2", "i8", "f2"])
def test_any_real_dtype_and_byte_order_is_read(dtype):
    data = np.arange(600).reshape(SHAPE).astype(dtype)
    image = Image(data, sigma=np.ones(SHAPE, dtype=dtype), mask=(data == 599).astype(">i4"))
    assert image.raw.dtype == np.dtype(dtype)
    assert image.n_valid == 599
    np.testing.assert_array_equal(image.data.numpy().ravel()[:599], np.arange(599.0))


def test_lists_and_tensors_are_read(data):
    tensor = torch.tensor(data, dtype=torch.float32, requires_grad=True)
    assert torch.equal(Image(data.tolist()).data, torch.tensor(data))
    image = Image(tensor, sigma=torch.ones(SHAPE))
    assert image.data.dtype == torch.float64
    assert not image.data.requires_grad


def test_masks_of_masked_arrays_are_merged(data):
    first, second, third = (np.zeros(SHAPE, dtype=bool) for _ in range(3))
    first[0, 0] = second[1, 1] = third[2, 2] = True
    data[0, 0] = np.nan
    expected = first | second | third
    image = Image(np.ma.array(data, mask=first), sigma=np.ma.array(np.ones(SHAPE), mask=second), mask=third)
    np.testing.assert_array_equal(image.mask.numpy(), expected)
    image = Image(Masked(data * u.Jy, mask=first), sigma=Masked(np.ones(SHAPE), mask=second), mask=third)
    np.testing.assert_array_equal(image.mask.numpy(), expected)
    assert image.unit == "Jy"


def test_quantities_are_converted_to_the_unit_of_the_data(data):
    jansky = data * u.Jy
    assert Image(jansky, sigma=500 * u.mJy).sigma.unique().tolist() == [0.5]
    assert float(Image(jansky, variance=np.full(SHAPE, 2.5e5) * u.mJy**2).sigma[0, 0]) == pytest.approx(0.5)
    assert float(Image(jansky, ivar=4e-6 / u.mJy**2).sigma[0, 0]) == pytest.approx(0.5)
    assert Image(jansky, subtracted_sky=2000 * u.mJy).subtracted_sky == pytest.approx(2.0)
    image = Image(
        data * u.adu, gain=4.0 * u.electron / u.adu, read_noise=3 * u.electron, pixel_scale=400 * u.mas / u.pix,
        zeropoint=25 * u.ABmag,
    )  # fmt: skip
    assert (image.gain, image.read_noise, image.unit, image.zeropoint) == (4.0, 3.0, "adu", 25.0)
    assert image.pixel_scale == pytest.approx(0.4)
    assert Image(data * u.dimensionless_unscaled).unit is None


@pytest.mark.parametrize(
    ("uncertainty", "kind"),
    [(StdDevUncertainty, "sigma"), (VarianceUncertainty, "variance"), (InverseVariance, "ivar")],
)
def test_nddata_brings_its_uncertainty_mask_wcs_psf_and_meta(data, uncertainty, kind):
    value = {"sigma": 0.5, "variance": 0.25, "ivar": 4.0}[kind]
    mask = np.zeros(SHAPE, dtype=bool)
    mask[4, 5] = True
    nd = NDData(
        data, uncertainty=uncertainty(np.full(SHAPE, value)), mask=mask, wcs=sky_wcs(), unit="Jy",
        meta={"FILTER": "F200W", "ZEROPOINT": 28}, psf=gaussian(5, 7),
    )  # fmt: skip
    own = np.zeros(SHAPE, dtype=bool)
    own[1, 1] = True
    for image in (Image(nd, mask=own), Image.from_nddata(nd, mask=own, name="image")):
        assert image.noise_kind == kind
        assert float(image.sigma[0, 0]) == 0.5
        np.testing.assert_array_equal(image.mask.numpy(), mask | own)
        assert (image.unit, image.band, image.zeropoint) == ("Jy", "F200W", 28.0)
        assert image.psf.shape == (5, 7)
        assert image.pixel_scale == pytest.approx(0.4)
    assert Image(nd, band="g", zeropoint=1.0).band == "g"


def test_nddata_uncertainty_in_another_unit_is_converted(data):
    nd = NDData(data, unit="Jy", uncertainty=StdDevUncertainty(np.full(SHAPE, 500.0), unit="mJy"))
    assert Image(nd).sigma.unique().tolist() == [0.5]


def test_integer_nddata_keeps_its_raw_dtype():
    assert Image(CCDData(np.ones(SHAPE, dtype="i4"), unit="adu")).raw.dtype == np.int32


def test_sliced_ccddata_keeps_its_sky_positions(data):
    ccd = CCDData(data, unit="adu", wcs=sky_wcs(), uncertainty=StdDevUncertainty(np.ones(SHAPE)))
    image = Image(ccd[3:15, 4:28])
    assert image.shape == (12, 24)
    assert_same_sky(image.wcs.pixel_to_world(2, 1), sky_wcs().pixel_to_world(6, 4))


def assert_same_sky(here: SkyCoord, there: SkyCoord) -> None:
    assert here.separation(there).arcsec < 1e-6


def test_pixel_scale_may_repeat_the_wcs(data):
    assert Image(data, wcs=sky_wcs(), pixel_scale=0.41).pixel_scale == 0.41
    assert Image(data, pixel_scale=0.2).pixel_scale == 0.2
    assert Image(data).pixel_scale is None


def test_an_even_psf_is_quiet_when_centred_and_warns_when_not(data):
    Image(data, psf=gaussian(8, 12))  # peak between pixels, at the geometric centre
    with pytest.warns(UserWarning, match="Crop one row and one column") as caught:
        Image(data, psf=gaussian(8, 12, 4.0, 6.0))
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="Crop one column so"):
        Image(data, psf=gaussian(9, 12, 4.0, 5.0))


def test_the_image_is_a_copy(data):
    sigma = np.ones(SHAPE)
    image = Image(data, sigma=sigma)
    data[0, 0] = sigma[0, 0] = 99.0
    assert float(image.data[0, 0]) != 99.0
    assert image.raw[0, 0] != 99.0
    assert float(image.sigma[0, 0]) == 1.0


def test_the_image_is_immutable_and_can_be_copied_and_pickled(data):
    image = Image(data, sigma=1.0, wcs=sky_wcs())
    with pytest.raises(AttributeError, match="immutable"):
        image.sigma = None
    with pytest.raises(AttributeError, match="immutable"):
        del image.mask
    with pytest.raises(ValueError, match="read-only"):
        image.raw[0, 0] = 1
    for other in (copy.deepcopy(image), pickle.loads(pickle.dumps(image))):
        assert torch.equal(other.data, image.data)
        assert repr(other) == repr(image)


def test_to_float32_copies_every_plane(data):
    image = Image(data, sigma=0.1, psf=gaussian(5, 7))
    single = image.to(torch.float32)
    assert {single.data.dtype, single.sigma.dtype, single.psf.dtype, single.dtype} == {torch.float32}
    assert single.mask.dtype == torch.bool
    assert image.dtype == image.data.dtype == torch.float64
    assert single.device == torch.device("cpu")
    direct = Image(data, sigma=0.1, psf=gaussian(5, 7), dtype=torch.float32)
    assert torch.equal(direct.data, single.data)
    assert image.to().data is not image.data


def test_cutout_takes_the_pixels_and_shifts_the_wcs(data):
    mask = np.zeros(SHAPE, dtype=bool)
    mask[8, 15] = True
    image = Image(data, sigma=np.abs(data), mask=mask, wcs=sky_wcs(), psf=gaussian(5, 5), band="g", name="deep")
    cut = image.cutout(14, 9, (5, 9))
    assert cut.shape == (5, 9)
    assert cut.n_valid == 44
    np.testing.assert_array_equal(cut.raw, data[7:12, 10:19])
    assert torch.equal(cut.data, image.data[7:12, 10:19])
    assert torch.equal(cut.sigma, image.sigma[7:12, 10:19])
    assert bool(cut.mask[1, 5])
    assert (cut.band, cut.name, cut.noise_kind, cut.pixel_scale) == ("g", "deep", "sigma", image.pixel_scale)
    assert_same_sky(cut.wcs.pixel_to_world(3, 1), image.wcs.pixel_to_world(13, 8))


def test_cutout_is_trimmed_at_the_edges_and_rounds_its_centre(data):
    image = Image(data, wcs=sky_wcs())
    corner = image.cutout(1.2, 18.6, 7)
    np.testing.assert_array_equal(corner.raw, data[16:20, 0:5])
    assert_same_sky(corner.wcs.pixel_to_world(0, 0), image.wcs.pixel_to_world(0, 16))
    assert image.cutout(10, 10, 6).raw[3, 3] == data[10, 10]


def test_repr_is_one_line_of_facts(data):
    image = Image(data, ivar=1.0, psf=gaussian(9, 7), psf_oversampling=3, wcs=sky_wcs(), band="r", name="sdss")
    assert repr(image) == (
        "Image('sdss': 20x30 px [y, x], 600 unmasked, noise from ivar, PSF 9x7 oversampled 3 times, band r, "
        "0.4 arcsec/px)"
    )


def test_the_examples_in_the_docstrings_run():
    assert doctest.testmod(bayesprof.image).failed == 0


def write(path: Path, *hdus: fits.hdu.base.ExtensionHDU) -> Path:
    primary = [] if isinstance(hdus[0], fits.PrimaryHDU) else [fits.PrimaryHDU()]
    fits.HDUList([*primary, *hdus]).writeto(path)
    return path


def test_fits_header_gives_wcs_unit_band_and_zero_point(tmp_path, data):
    header = sky_wcs().to_header()
    header.update({"BUNIT": "MJy/sr", "FILTER": " F200W ", "MAGZERO": 28.9, "DATE-OBS": "1/2/98"})
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(data, header))
    image = Image.from_fits(path, sigma=0.1)
    assert (image.unit, image.band, image.zeropoint) == ("MJy / sr", "F200W", 28.9)
    assert_same_sky(image.wcs.pixel_to_world(3, 4), sky_wcs().pixel_to_world(3, 4))
    bare = Image.from_fits(str(path), use_header=False)
    assert (bare.wcs, bare.band, bare.zeropoint, bare.pixel_scale) == (None, None, None, None)
    assert Image.from_fits(path, wcs=sky_wcs(0.3), band="x").pixel_scale == pytest.approx(0.3)


def test_a_unit_astropy_does_not_know_stays_a_name(tmp_path, data):
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(data, fits.Header({"BUNIT": "DNs"})))
    image = Image.from_fits(path, gain=2.0, read_noise=1.0)
    assert image.unit == "DNs"


def test_a_linear_wcs_in_the_header_is_left_out(tmp_path, data):
    header = fits.Header({"CTYPE1": "LINEAR", "CTYPE2": "LINEAR", "CDELT1": 2.0, "CDELT2": 2.0})
    assert Image.from_fits(write(tmp_path / "a.fits", fits.PrimaryHDU(data, header))).wcs is None


def test_the_first_two_dimensional_hdu_is_the_default(tmp_path, data):
    cube = fits.ImageHDU(np.zeros((2, 20, 30)), name="CUBE")
    path = write(tmp_path / "a.fits", cube, fits.ImageHDU(data, name="SCI"), fits.ImageHDU(data + 1, name="OTHER"))
    np.testing.assert_array_equal(Image.from_fits(path).raw, data)
    for hdu in ("other", 3, -1):
        np.testing.assert_array_equal(Image.from_fits((path, hdu)).raw, data + 1)


def test_every_plane_may_have_its_own_hdu(tmp_path, data):
    mask = np.zeros(SHAPE, dtype="u1")
    mask[1, 2] = 1
    path = write(
        tmp_path / "a.fits", fits.ImageHDU(data, name="SCI"), fits.ImageHDU(np.full(SHAPE, 0.25), name="VAR"),
        fits.ImageHDU(mask, name="DQ"), fits.ImageHDU(gaussian(5, 7), name="PSF"),
    )  # fmt: skip
    image = Image.from_fits((path, "SCI"), variance=(path, "VAR"), mask=(path, "DQ"), psf=(path, "PSF"))
    assert float(image.sigma[0, 0]) == 0.5
    assert torch.nonzero(image.mask).tolist() == [[1, 2]]
    assert image.psf.shape == (5, 7)
    assert Image.from_fits((path, 1), ivar=np.full(SHAPE, 4.0), mask=mask).n_valid == 599


def test_compressed_and_scaled_integer_files_are_read(tmp_path, data):
    header = sky_wcs().to_header()
    plain = write(tmp_path / "a.fits", fits.PrimaryHDU(data, header))
    zipped = tmp_path / "a.fits.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    np.testing.assert_array_equal(Image.from_fits(zipped).raw, data)

    whole = np.arange(600, dtype="i4").reshape(SHAPE)
    tiled = write(tmp_path / "a.fits.fz", fits.CompImageHDU(whole, header))
    np.testing.assert_array_equal(Image.from_fits(tiled).raw, whole)
    assert Image.from_fits(tiled).pixel_scale == pytest.approx(0.4)

    scaled = fits.PrimaryHDU(data.copy())
    scaled.scale("int16", bscale=0.001, bzero=10.0)
    np.testing.assert_allclose(Image.from_fits(write(tmp_path / "s.fits", scaled)).raw, data, atol=0.0006)
    unsigned = fits.PrimaryHDU(np.full(SHAPE, 60000, dtype="u2"))
    assert float(Image.from_fits(write(tmp_path / "u.fits", unsigned)).data[0, 0]) == 60000.0


def test_npy_files_are_read(tmp_path, data):
    np.save(tmp_path / "d.npy", data)
    np.save(tmp_path / "s.npy", np.full(SHAPE, 0.5))
    image = Image.from_fits(tmp_path / "d.npy", sigma=tmp_path / "s.npy")
    np.testing.assert_array_equal(image.raw, data)
    assert float(image.sigma[0, 0]) == 0.5


def test_masking_more_pixels_keeps_what_was_masked_and_everything_else():
    data = np.arange(20.0).reshape(4, 5)
    data[0, 1] = np.nan
    image = Image(data, sigma=2.0, mask=np.isnan(data), name="r", zeropoint=25.0)
    more = np.zeros((4, 5), dtype=bool)
    more[2, 3] = True
    masked = image.masked(more)
    assert masked.n_valid == 18
    assert masked.mask[0, 1]
    assert masked.mask[2, 3]
    assert float(masked.data[2, 3]) == 0.0
    assert float(masked.sigma[2, 3]) == 1.0
    assert (masked.name, masked.zeropoint) == ("r", 25.0)
    assert image.n_valid == 19
    assert float(image.data[2, 3]) == 13.0
    with pytest.raises(ValueError, match="all 20 pixels would be masked"):
        image.masked(np.ones((4, 5)))
    with pytest.raises(ValueError, match="shape"):
        image.masked(more.T)
