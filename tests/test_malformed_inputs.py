"""Every malformed input is refused at the door, with a message that names the fault and the remedy."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.io import fits
from astropy.nddata import NDData, UnknownUncertainty
from astropy.wcs import WCS

import bayesprof
from bayesprof.image import Image

PACKAGE = Path(bayesprof.__file__).parent
REPOSITORY = PACKAGE.parent
SHAPE = (20, 30)


@dataclass(frozen=True)
class Case:
    """One call that must fail: `says` are words of the fault, `remedy` words of the way out."""

    label: str
    call: Callable[..., Any]
    error: type[Exception]
    says: tuple[str, ...]
    remedy: str


def assert_refused(case: Case, *arguments: Any) -> None:
    """Assert that the call fails as stated, and that bayesprof itself raised it."""
    with pytest.raises(case.error) as caught:
        case.call(*arguments)
    assert type(caught.value) is case.error
    message = str(caught.value)
    for words in (*case.says, case.remedy):
        assert words in message, f"{words!r} is missing in: {message}"
    raised_in = Path(traceback.extract_tb(caught.value.__traceback__)[-1].filename).resolve()
    folders = (PACKAGE, REPOSITORY / "models", REPOSITORY / "inference")
    assert any(raised_in.is_relative_to(folder) for folder in folders), f"raised in {raised_in}"


def plane(value: float = 1.0, at: tuple[int, int] | None = None, bad: float = np.nan) -> np.ndarray:
    """Constant [20, 30] array, with one bad pixel if `at` is given."""
    array = np.full(SHAPE, float(value))
    if at is not None:
        array[at] = bad
    return array


def spot(shape: tuple[int, int], y: int, x: int) -> np.ndarray:
    array = np.full(shape, 0.01)
    array[y, x] = 1.0
    return array


def sky_wcs(naxis: int = 2, pixel_shape: tuple[int, int] | None = None) -> WCS:
    wcs = WCS(naxis=naxis)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN", "FREQ"][:naxis]
    wcs.wcs.cdelt = [-1e-4, 1e-4, 1e9][:naxis]
    wcs.pixel_shape = pixel_shape
    return wcs


def image(data: Any = None, **options: Any) -> Callable[[], Image]:
    return lambda: Image(plane() if data is None else data, **options)


def nddata(nd_options: dict[str, Any], **options: Any) -> Callable[[], Image]:
    return lambda: Image(NDData(plane(), **nd_options), **options)


class Unreadable:
    """Stands for any object that is no array."""


ARRAYS = [
    Case("cube", image(np.ones((3, 20, 30))), ValueError, ("2-D", "(3, 20, 30)"), "data[k]"),
    Case("line", image(np.ones(30)), ValueError, ("2-D", "(30,)"), "reshape"),
    Case("number", image(3.0), ValueError, ("2-D", "0-D"), "pass one 2-D image"),
    Case("empty", image(np.ones((0, 30))), ValueError, ("3x3", "(0, 30)"), "enlarge"),
    Case("too small", image(np.ones((2, 30))), ValueError, ("3x3", "(2, 30)"), "enlarge"),
    Case("complex", image(plane() + 1j), TypeError, ("real numbers", "complex128"), "convert"),
    Case("objects", image(plane().astype(object)), TypeError, ("real numbers", "object"), "convert"),
    Case("text", image([["a", "b"]]), TypeError, ("real numbers", "<U1"), "convert"),
    Case("bools", image(plane() > 0), TypeError, ("real numbers", "bool"), "convert"),
    Case("ragged", image([[1, 2], [3]]), TypeError, ("rectangular", "list"), "pass a NumPy array"),
    Case("nothing", lambda: Image(None), TypeError, ("real numbers", "None"), "convert"),
    Case("object", image(Unreadable()), TypeError, ("real numbers", "Unreadable"), "convert"),
    Case("complex tensor", image(torch.ones(SHAPE) * 1j), TypeError, ("real numbers",), "convert"),
    Case("sparse tensor", image(torch.ones(SHAPE).to_sparse()), TypeError, ("rectangular",), "NumPy array"),
    Case("path as data", image("galaxy.fits"), TypeError, ("must be an array", "galaxy.fits"), "Image.from_fits"),
    Case("magnitudes", image(plane() * u.ABmag), ValueError, ("linear unit", "mag(AB)"), "data.physical"),
    Case("NaN", image(plane(at=(4, 7))), ValueError, ("finite", "nan", "1 pixels", "[4, 7]"), "mask_invalid=True"),
    Case("inf", image(plane(at=(0, 3), bad=np.inf)), ValueError, ("finite", "inf", "[0, 3]"), "mask="),
    Case("NaN outside the mask", image(plane(at=(4, 7)), mask=plane(0, (7, 4), 1)), ValueError, ("[4, 7]",), "mask="),
    Case("overflow", image(plane(1e300), dtype=torch.float32), ValueError, ("cannot hold",), "torch.float64"),
]

NOISE = [
    Case("sigma transposed", image(sigma=plane().T), ValueError, ("(20, 30)", "(30, 20)", "transposed"), "sigma.T"),
    Case("sigma shape", image(sigma=np.ones((20, 31))), ValueError, ("sigma", "x: 31 instead of 30"), "cut it"),
    Case("sigma 1-D", image(sigma=np.ones(20)), ValueError, ("sigma", "1-D"), "pass one 2-D array"),
    Case("variance shape", image(variance=np.ones((9, 8))), ValueError, ("variance", "y: 9 instead"), "cut it"),
    Case("ivar shape", image(ivar=np.ones((21, 30))), ValueError, ("ivar", "y: 21 instead of 20"), "cut it"),
    Case("sigma NaN", image(sigma=plane(at=(2, 3))), ValueError, ("sigma", "positive", "nan", "[2, 3]"), "mask="),
    Case("sigma inf", image(sigma=plane(at=(2, 3), bad=np.inf)), ValueError, ("sigma", "inf"), "mask_invalid=True"),
    Case("sigma zero", image(sigma=plane(at=(2, 3), bad=0)), ValueError, ("positive", "got 0"), "mask_invalid=True"),
    Case("sigma negative", image(sigma=-1.0), ValueError, ("positive", "600 pixels", "[0, 0]"), "mask="),
    Case("variance negative", image(variance=plane(at=(1, 1), bad=-2)), ValueError, ("variance", "-2"), "mask="),
    Case("ivar zero", image(ivar=plane(at=(1, 1), bad=0)), ValueError, ("ivar", "[1, 1]"), "mask_invalid=True"),
    Case("sigma text", image(sigma="1.0"), TypeError, ("sigma", "array"), "Image.from_fits"),
    Case("sigma complex", image(sigma=1j), TypeError, ("sigma", "real numbers"), "convert"),
    Case("two kinds", image(sigma=1, ivar=1), ValueError, ("one of", "sigma and ivar"), "remove"),
    Case("gain and variance", image(gain=1, variance=1), ValueError, ("variance and gain",), "remove"),
    Case("gain zero", image(gain=0), ValueError, ("gain", "positive", "got 0"), "header"),
    Case("gain negative", image(gain=-2.0), ValueError, ("gain", "positive", "-2"), "header"),
    Case("gain NaN", image(gain=np.nan), ValueError, ("gain", "finite"), "leave it out"),
    Case("gain array", image(gain=plane()), TypeError, ("gain", "single number"), "pass a float"),
    Case("gain text", image(gain="4"), TypeError, ("gain", "single number"), "pass a float"),
    Case("read noise negative", image(gain=1, read_noise=-1), ValueError, ("read_noise", "negative"), "header"),
    Case("read noise alone", image(read_noise=4.0), ValueError, ("read_noise needs gain", "no gain"), "pass gain="),
    Case("read noise and sigma", image(sigma=1, read_noise=4.0), ValueError, ("got sigma",), "remove read_noise"),
    Case(
        "no variance", image(plane(at=(3, 2), bad=-1), gain=2), ValueError, ("zero variance", "[3, 2]"), "read_noise="
    ),
    Case(
        "no variance is not masked",
        image(plane(0.0), gain=2, mask_invalid=True),
        ValueError,
        ("zero variance",),
        "sigma=",
    ),
    Case("sky NaN", image(subtracted_sky=np.nan), ValueError, ("subtracted_sky", "finite"), "leave it out"),
    Case("sigma unit", image(plane() * u.Jy, sigma=1 * u.m), ValueError, ("'Jy'", "'m'"), "convert it"),
    Case("unit of the sigma alone", image(sigma=1 * u.Jy), ValueError, ("no unit", "'Jy'"), "data as a Quantity"),
    Case("variance unit", image(plane() * u.Jy, variance=1 * u.Jy), ValueError, ("'Jy2'", "'Jy'"), "convert it"),
    Case(
        "variance with an unknown unit of the data",
        image(u.Quantity(plane(), u.Unit("DNs", parse_strict="silent")), variance=1 * u.adu**2),
        ValueError,
        ("'DNs'", "unknown"),
        "plain numbers",
    ),
    Case("sigma underflow", image(sigma=1e-60, dtype=torch.float32), ValueError, ("sigma",), "rescale"),
]

MASKS = [
    Case("mask text", image(mask=np.full(SHAPE, "x")), TypeError, ("mask", "bools", "<U1"), "convert"),
    Case("mask shape", image(mask=np.zeros((20, 29))), ValueError, ("mask", "x: 29 instead of 30"), "cut it"),
    Case("mask transposed", image(mask=np.zeros((30, 20))), ValueError, ("mask", "transposed"), "mask.T"),
    Case("mask cube", image(mask=np.zeros((1, 20, 30))), ValueError, ("mask", "3-D"), "pass one 2-D array"),
    Case("mask NaN", image(mask=plane(0.0, (5, 6))), ValueError, ("mask", "NaN", "[5, 6]"), "np.isnan(mask)"),
    Case("mask unit", image(mask=plane() * u.Jy), ValueError, ("mask", "no unit", "Jy"), "bool array"),
    Case("mask of everything", image(mask=np.ones(SHAPE)), ValueError, ("all 600 pixels",), "~mask"),
    Case("everything invalid", image(plane(np.nan), mask_invalid=True), ValueError, ("all 600",), "True means ignored"),
    Case("mask_invalid", image(mask_invalid="yes"), TypeError, ("mask_invalid", "'yes'"), "pass a bool"),
]

PSFS = [
    Case("psf cube", image(psf=np.ones((1, 5, 5))), ValueError, ("psf", "2-D", "(1, 5, 5)"), "one plane"),
    Case("psf pixel", image(psf=[[1.0]]), ValueError, ("psf", "2x2", "(1, 1)"), "psf=None"),
    Case("psf NaN", image(psf=spot((5, 5), 2, 2) * np.nan), ValueError, ("psf", "25 bad", "[0, 0]"), "nan_to_num"),
    Case(
        "psf zero", image(psf=np.zeros((5, 5))), ValueError, ("positive sum", "all pixels are zero"), "check the file"
    ),
    Case("psf negative", image(psf=-spot((5, 5), 2, 2)), ValueError, ("positive sum",), "background"),
    Case("psf off centre", image(psf=spot((31, 21), 15, 2)), ValueError, ("centre", "[15, 2]", "-8.0"), "crop or pad"),
    Case("psf too large", image(psf=spot((91, 91), 45, 45)), ValueError, ("3 times", "(20, 30)"), "psf_oversampling"),
    Case("psf text", image(psf="psf.fits"), TypeError, ("psf", "psf.fits"), "Image.from_fits"),
    Case("psf complex", image(psf=spot((5, 5), 2, 2) * 1j), TypeError, ("psf", "real numbers"), "convert"),
    Case("oversampling fraction", image(psf=spot((5, 5), 2, 2), psf_oversampling=1.5), TypeError, ("1.5",), "pass 1"),
    Case("oversampling bool", image(psf=spot((5, 5), 2, 2), psf_oversampling=True), TypeError, ("True",), "pass 1"),
    Case("oversampling zero", image(psf=spot((5, 5), 2, 2), psf_oversampling=0), ValueError, ("at least 1",), "pass 1"),
    Case("oversampling alone", image(psf_oversampling=2), ValueError, ("psf=None",), "pass psf="),
    Case("psf_contains_pixel", image(psf_contains_pixel=1), TypeError, ("True or False", "got 1"), "pass a bool"),
]

CALIBRATION = [
    Case("zeropoint NaN", image(zeropoint=np.nan), ValueError, ("zeropoint", "finite"), "leave it out"),
    Case("zeropoint text", image(zeropoint="22.5"), TypeError, ("zeropoint", "single number"), "pass a float"),
    Case("pixel scale zero", image(pixel_scale=0), ValueError, ("pixel_scale", "positive"), "arcsec"),
    Case("pixel scale inf", image(pixel_scale=np.inf), ValueError, ("pixel_scale", "finite"), "leave it out"),
    Case("pixel scale unit", image(pixel_scale=1 * u.m), ValueError, ("pixel_scale", "'arcsec'", "'m'"), "convert"),
    Case(
        "pixel scale against WCS",
        image(pixel_scale=0.4, wcs=sky_wcs()),
        ValueError,
        ("contradicts", "0.36"),
        "remove one",
    ),
    Case("wcs of another kind", image(wcs="header"), TypeError, ("astropy.wcs.WCS", "str"), "WCS(header)"),
    Case("wcs 3-D", image(wcs=sky_wcs(3)), ValueError, ("2-D", "3 axes"), "wcs.celestial"),
    Case("wcs linear", image(wcs=WCS(naxis=2)), ValueError, ("celestial",), "wcs=None"),
    Case(
        "wcs of another image", image(wcs=sky_wcs(pixel_shape=(300, 200))), ValueError, ("(200, 300)",), "Image.cutout"
    ),
    Case("band", image(band=5), TypeError, ("band", "got 5"), "band='r'"),
    Case("name with dot", image(name="ngc.70"), ValueError, ("name", "ngc.70"), "'ngc_70'"),
    Case("name with slash", image(name="a/b"), ValueError, ("name", "a/b"), "'a_b'"),
    Case("name empty", image(name=" "), ValueError, ("name", "non-empty"), "'image'"),
    Case("name number", image(name=7), TypeError, ("name", "int"), "name='r'"),
    Case("message names the image", image(name="deep", sigma=0), ValueError, ("Image 'deep'",), "mask="),
    Case("dtype", image(dtype=torch.int32), TypeError, ("torch.int32",), "torch.float64"),
    Case("device", image(device="nowhere"), ValueError, ("'nowhere'",), "device='cpu'"),
]

NDDATA = [
    Case(
        "unknown uncertainty",
        nddata({"uncertainty": UnknownUncertainty(plane())}),
        ValueError,
        ("UnknownUncertainty", "StdDevUncertainty"),
        "wrap",
    ),
    Case("no nddata", lambda: Image.from_nddata(plane()), TypeError, ("NDData", "ndarray"), "Image(data)"),
    Case("mask of nddata", nddata({"mask": np.zeros((3, 3))}), ValueError, ("mask of the NDData",), "cut it"),
]

CUTOUTS = [
    Case("outside", lambda: Image(plane()).cutout(50, 5, 5), ValueError, ("overlap", "(20, 30)"), "inside the image"),
    Case("size zero", lambda: Image(plane()).cutout(5, 5, 0), ValueError, ("at least 3",), "enlarge"),
    Case("size float", lambda: Image(plane()).cutout(5, 5, 6.5), TypeError, ("6.5", "(ny, nx)"), "pass"),
    Case(
        "centre NaN", lambda: Image(plane()).cutout(np.nan, 5, 5), ValueError, ("x must be finite",), "pass the right"
    ),
    Case(
        "masked",
        lambda: Image(plane(), mask=np.arange(30) < 10 + np.zeros((20, 1))).cutout(4, 9, 5),
        ValueError,
        ("every pixel", "masked"),
        "another centre",
    ),
]


@pytest.mark.parametrize(
    "case", ARRAYS + NOISE + MASKS + PSFS + CALIBRATION + NDDATA + CUTOUTS, ids=lambda case: case.label
)
def test_malformed_image_is_refused_with_a_remedy(case):
    assert_refused(case)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """FITS and .npy files, most of them broken."""
    path = tmp_path_factory.mktemp("files")
    table = fits.BinTableHDU.from_columns([fits.Column("x", "D", array=np.ones(3))], name="CAT")
    science = fits.ImageHDU(np.random.default_rng(1).random((200, 300)), name="SCI")
    cube = fits.ImageHDU(np.ones((2, 5, 6)), name="CUBE")
    fits.HDUList([fits.PrimaryHDU(), science, table, cube]).writeto(path / "good.fits")
    fits.HDUList([fits.PrimaryHDU(), table, cube]).writeto(path / "imageless.fits")
    content = (path / "good.fits").read_bytes()
    (path / "truncated.fits").write_bytes(content[:100000])
    (path / "axes.fits").write_bytes(
        content.replace(b"NAXIS1  =                  300", b"NAXIS7  =                  300")
    )
    (path / "text.fits").write_text("x y flux\n" * 1000)
    (path / "empty.fits").write_bytes(b"")
    (path / "noise.fits.gz").write_bytes(b"\x1f\x8b" + bytes(range(256)) * 20)
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(science.data.astype("f4"))]).writeto(path / "tiles.fits.fz")
    tiles = bytearray((path / "tiles.fits.fz").read_bytes())
    tiles[15000:40000] = b"\x07" * 25000
    (path / "tiles.fits.fz").write_bytes(tiles)
    for name, change in {"singular": {"CDELT1": 0.0}, "worded": {"CRVAL1": "east"}, "sip": {"A_ORDER": 2}}.items():
        header = sky_wcs().to_header()
        header.update({"CDELT1": -1e-4, "CRVAL1": 10.0} | change)
        fits.PrimaryHDU(plane(), header).writeto(path / f"{name}.fits")
    (path / "broken.npy").write_bytes(b"no array")
    np.save(path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    return path


def from_fits(name: str, hdu: Any = None, **options: Any) -> Callable[[Path], Image]:
    return lambda folder: Image.from_fits(folder / name if hdu is None else (folder / name, hdu), **options)


FILES = [
    Case("missing", from_fits("absent.fits"), FileNotFoundError, ("existing file", "absent.fits"), "check the path"),
    Case(
        "missing sigma",
        lambda folder: Image.from_fits(folder / "good.fits", sigma=folder / "s.fits"),
        FileNotFoundError,
        ("sigma", "s.fits"),
        "check the path",
    ),
    Case("folder", from_fits("."), FileNotFoundError, ("existing file",), "check the path"),
    Case("array", lambda _: Image.from_fits(plane()), TypeError, ("path", "ndarray"), "Image(data"),
    Case("three items", lambda f: Image.from_fits((f / "good.fits", 1, 2)), TypeError, ("tuple of 3",), "two items"),
    Case("truncated", from_fits("truncated.fits"), ValueError, ("readable FITS", "truncated"), "fetch it again"),
    Case("lost axis", from_fits("axes.fits"), ValueError, ("readable FITS", "NAXIS1"), "fetch it again"),
    Case("text", from_fits("text.fits"), ValueError, ("readable FITS",), "pass arrays to Image"),
    Case("empty file", from_fits("empty.fits"), ValueError, ("readable FITS",), "fetch it again"),
    Case("broken gzip", from_fits("noise.fits.gz"), ValueError, ("readable FITS",), "fetch it again"),
    Case("broken tiles", from_fits("tiles.fits.fz"), ValueError, ("cannot be read", "HDU 1"), "fetch the file again"),
    Case("no image", from_fits("imageless.fits"), ValueError, ("no 2-D image", "CAT", "(2, 5, 6)"), "one plane"),
    Case("cube", from_fits("good.fits", "CUBE"), ValueError, ("2-D image", "(2, 5, 6)"), "one plane"),
    Case("table", from_fits("good.fits", "CAT"), ValueError, ("holds no image", "1 SCI"), "choose one of"),
    Case("empty primary", from_fits("good.fits", 0), ValueError, ("holds no image",), "choose one of"),
    Case("HDU name", from_fits("good.fits", "WHT"), ValueError, ("no HDU 'WHT'", "SCI", "CAT"), "choose one of"),
    Case("HDU index", from_fits("good.fits", 9), ValueError, ("no HDU 9", "(200, 300)"), "choose one of"),
    Case("HDU type", from_fits("good.fits", 1.0), TypeError, ("index or a name", "1.0"), "'SCI'"),
    Case("HDU bool", from_fits("good.fits", True), TypeError, ("index or a name", "True"), "'SCI'"),
    Case(
        "mask of another shape",
        lambda f: Image.from_fits(f / "good.fits", mask=f / "worded.fits"),
        ValueError,
        ("mask", "y: 20 instead of 200"),
        "cut it",
    ),
    Case("singular WCS", from_fits("singular.fits"), ValueError, ("WCS", "singular"), "use_header=False"),
    Case("worded WCS", from_fits("worded.fits"), ValueError, ("CRVAL1", "'east'"), "use_header=False"),
    Case("half a SIP", from_fits("sip.fits"), ValueError, ("WCS", "B_ORDER"), "pass wcs="),
    Case("use_header", from_fits("good.fits", use_header=1), TypeError, ("use_header",), "pass a bool"),
    Case("broken npy", from_fits("broken.npy"), ValueError, (".npy", "broken.npy"), "save it again"),
    Case("pickled npy", from_fits("objects.npy"), ValueError, (".npy", "objects.npy"), "save it again"),
    Case("HDU of npy", from_fits("objects.npy", 1), ValueError, ("no HDU 1",), "the path alone"),
]


@pytest.mark.parametrize("case", FILES, ids=lambda case: case.label)
def test_malformed_file_is_refused_with_a_remedy(case, folder):
    assert_refused(case, folder)


def test_a_refused_header_wcs_can_be_replaced_or_left_out(folder):
    assert Image.from_fits(folder / "singular.fits", use_header=False).wcs is None
    assert Image.from_fits(folder / "singular.fits", wcs=sky_wcs()).pixel_scale == pytest.approx(0.36)
