"""PSFs that vary over the image: against oracles, against the constant PSF at each place, and PsfEx's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from astropy.io import fits
from oracles import Moffat, Source, convolved, error
from pyro import poutine
from test_malformed_inputs import Case, assert_refused
from test_rendering import light
from test_surfaces import Brightness
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.light import Light
from bayesprof.rendering import renderer_for

SHAPE = (60, 85)
CORNERS = (Moffat(3.4, 3.5), Moffat(3.0, 4.0), Moffat(4.1, 3.2))  # at the first pixel, in the last column, last row
SIDES = (SHAPE[1] - 1.0, SHAPE[0] - 1.0)
PLACES = ((44.37, 27.82), (9.6, 45.3), (70.2, 12.9))


def linear_field(size: tuple[int, int] = (121, 151), times: int = 1, *, with_pixel: bool = True) -> bp.PSFField:
    """The PSF whose mixture of `CORNERS` is linear in the position."""
    first, column, row = (psf.stamp(size, oversampling=times, with_pixel=with_pixel) for psf in CORNERS)
    stamps = [first, column - first, row - first]
    return bp.PSFField(stamps, 1, offset=(0.0, 0.0), scale=SIDES, oversampling=times)


def quadratic_field() -> bp.PSFField:
    """Six stamps of different sums, 17 rows of 15 pixels; not symmetric, and centred on the middle of an image."""
    y, x = np.mgrid[-8:9, -7:8].astype(float)
    mean = np.exp(-0.5 * (x**2 + y**2) / 1.7**2)
    shapes = (1 + 0 * x, 0.1 * x**2, -0.05 * y**2, 0.1 * x, 0.06 * x * y, 0.05 * (y + x**2))
    return bp.PSFField([mean * shape for shape in shapes], 2, offset=(30.0, 25.0), scale=(60.0, 40.0))


def image_with(psf: Any, shape: tuple[int, int] = SHAPE, **options: Any) -> bp.Image:
    return bp.Image(np.zeros(shape), sigma=1.0, psf=psf, **options)


def expected_image(source: Source | tuple[float, float]) -> np.ndarray:
    """Image through the PSF of :func:`linear_field` at the centre of `source`: the mixture of those through CORNERS."""
    x, y = (source.x, source.y) if isinstance(source, Source) else source
    u, v = x / SIDES[0], y / SIDES[1]
    first, column, row = (convolved(source, psf, SHAPE, period=384) for psf in CORNERS)
    return (1 - u - v) * first + u * column + v * row


# -- images


@pytest.mark.parametrize("place", PLACES, ids=["middle", "left", "right"])
@pytest.mark.parametrize("kind", ["star", "galaxy", "surface"])
def test_source_is_convolved_with_the_psf_at_its_centre(kind, place):
    render = renderer_for(image_with(linear_field()))
    galaxy = Source(*place, 2.0, 1.5, 0.6, 2.3)
    if kind == "star":
        found, expected = render(models.PointSource(*place, 1.0)), expected_image(place)
    else:
        found = render(light(galaxy) if kind == "galaxy" else Brightness(light(galaxy)))
        expected = expected_image(galaxy)
    # of a constant PSF with a FWHM of 3 pixels sampled at the pixels, so much is left of telling its aliases apart
    assert error(found, expected) < 1e-4
    # and it isn't seen through the PSF of the middle of the image
    constant = renderer_for(image_with(image_with(linear_field()).psf.numpy()))(models.PointSource(*place, 1.0))
    if place != PLACES[0]:
        assert error(constant, expected_image(place)) > 1e-2


@pytest.mark.parametrize("with_pixel", [True, False], ids=["with pixel", "without pixel"])
@pytest.mark.parametrize("kind", ["star", "galaxy", "surface"])
def test_oversampled_stamps_are_as_exact(kind, with_pixel):
    field = linear_field((221, 221), 2, with_pixel=with_pixel)
    render = renderer_for(image_with(field, psf_contains_pixel=with_pixel))
    galaxy = Source(*PLACES[1], 2.0, 1.5, 0.6, 2.3)
    if kind == "star":
        found, expected = render(models.PointSource(*PLACES[1], 1.0)), expected_image(PLACES[1])
    else:
        found = render(light(galaxy) if kind == "galaxy" else Brightness(light(galaxy)))
        expected = expected_image(galaxy)
    assert error(found, expected) < 1e-4


def each_kind(x: float, y: float) -> dict[str, Light]:
    galaxy = models.Sersic(x, y, 3.0, 4.0, 1.5, q=0.6, theta=0.4)
    values = torch.linspace(0.5, 2.0, 20, dtype=torch.float64).reshape(4, 5)
    return {
        "star": models.PointSource(x, y, 2.0),
        "galaxy": galaxy,
        "surface": Brightness(galaxy),
        "lattice": models.Freeform(values, x, y, 2.5),
    }


@pytest.mark.parametrize("kind", ["star", "galaxy", "surface", "lattice"])
def test_image_is_the_sum_of_those_through_the_constant_psf_at_each_centre(kind):
    field = quadratic_field()
    together, apart = Light(()), torch.zeros(SHAPE, dtype=torch.float64)
    for x, y in PLACES:
        source = each_kind(x, y)[kind]
        together = together + source
        apart = apart + renderer_for(image_with(field.stamp_at(x, y)))(source)
    # apart from what the images don't share: how the aliases are told apart, and the blur of the periodic copies
    assert error(renderer_for(image_with(field))(together), apart.numpy()) < 1e-4


@pytest.mark.parametrize("kind", ["star", "galaxy", "surface", "lattice"])
def test_field_that_does_not_vary_is_a_constant_psf(kind):
    stamp = quadratic_field().stamp_at(10.0, 12.0)
    field = bp.PSFField([3.0 * stamp], 0, offset=(0.0, 0.0), scale=(1.0, 1.0))
    source = each_kind(*PLACES[1])[kind]
    expected = renderer_for(image_with(stamp))(source)
    torch.testing.assert_close(renderer_for(image_with(field))(source), expected, rtol=1e-11, atol=1e-13)


def test_psf_beyond_the_image_is_that_of_its_edge():
    render = renderer_for(image_with(quadratic_field()))
    for position in ((1e6, 30.0), (-1e5, -1e7)):
        x, y = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in position)
        image = render(models.PointSource(x, y, 1.0) + models.Sersic(x, y, 1.0, 3.0, 2.0))
        slopes = torch.autograd.grad((image**2).sum(), (x, y))
        assert all(bool(values.isfinite().all()) for values in (image, *slopes))


# -- derivatives, batches, capture

SMALL = (14, 19)


def small_field() -> bp.PSFField:
    field = quadratic_field()
    # at the scale of the small image, so that the PSF changes fast
    return bp.PSFField(field.stamps, 2, offset=(7.0, 6.0), scale=(15.0, 10.0))


def parts(x: Tensor, y: Tensor) -> Light:
    galaxy = models.Sersic(x, y, 10.0, 2.0, 1.3, q=0.7, theta=0.5)
    values = torch.ones(3, 3, dtype=x.dtype, device=x.device)
    return galaxy + models.PointSource(x + 3.0, y - 2.0, 5.0) + Brightness(galaxy) + models.Freeform(values, y, x, 2.0)


@pytest.mark.parametrize("contains_pixel", [True, False], ids=["with pixel", "without pixel"])
def test_derivatives_are_those_of_differences(contains_pixel):
    render = renderer_for(image_with(small_field(), SMALL, psf_contains_pixel=contains_pixel))
    weights = torch.randn(3, *SMALL, dtype=torch.float64)
    point = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (8.3, 6.1)]

    def projected(x: Tensor, y: Tensor) -> Tensor:
        return (weights * render(parts(x, y))).sum((-1, -2))

    assert gradcheck(projected, point, eps=1e-5, atol=1e-5, rtol=1e-5, check_forward_ad=True)
    assert gradgradcheck(projected, point, eps=1e-5, atol=1e-4, rtol=1e-4)


def test_batches_vmap_and_capture_give_the_images_of_a_loop():
    render = renderer_for(image_with(small_field(), SMALL))
    x, y = torch.tensor([[8.3, 5.1, 11.7], [6.1, 7.4, 3.3]], dtype=torch.float64)
    one_by_one = torch.stack([render(parts(*place)) for place in zip(x, y, strict=True)])
    torch.testing.assert_close(render(parts(x, y)), one_by_one, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(torch.func.vmap(lambda x, y: render(parts(x, y)))(x, y), one_by_one)
    slope = torch.func.vmap(torch.func.grad(lambda x, y: (render(parts(x, y)) ** 2).sum()))
    captured = make_fx(slope)(x, y)
    torch.testing.assert_close(captured(x + 0.1, y - 0.2), slope(x + 0.1, y - 0.2), rtol=1e-12, atol=0.0)


def test_float32_agrees_with_float64():
    source = sum(each_kind(*PLACES[1]).values())
    image = image_with(quadratic_field())
    single = renderer_for(image.to(torch.float32))(source)
    assert single.dtype == torch.float32
    assert error(single, renderer_for(image)(source).numpy()) < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_image_on_cuda_agrees_with_cpu():
    source = sum(each_kind(*PLACES[1]).values())
    image = image_with(quadratic_field())
    assert error(renderer_for(image.to(device="cuda"))(source).cpu(), renderer_for(image)(source).numpy()) < 1e-11


# -- images at the door


def test_cutout_keeps_the_psf_of_every_position():
    whole = image_with(quadratic_field())
    part = whole.cutout(40, 30, (30, 40))
    assert part.psf_field.offset == (30.0 - 20, 25.0 - 15)
    np.testing.assert_allclose(part.psf.numpy(), whole.psf_field.stamp_at(20 + 19.5, 15 + 14.5), rtol=1e-12)
    star = renderer_for(whole)(models.PointSource(37.3, 28.6, 1.0))[15:45, 20:60]
    moved = renderer_for(part)(models.PointSource(17.3, 13.6, 1.0))
    assert error(moved, star.numpy()) < 1e-4
    again = part.cutout(10, 12, 9)
    assert again.psf_field.offset == (30.0 - 20 - 6, 25.0 - 15 - 8)


def test_copies_keep_the_field_and_the_image_tells_of_it():
    image = image_with(linear_field((41, 51), 2))
    assert (image.psf_oversampling, image.psf.shape) == (2, (41, 51))
    assert float(image.psf.sum()) == pytest.approx(1.0, abs=1e-12)
    single = image.to(torch.float32)
    assert single.psf_field is image.psf_field
    assert single.psf.dtype == torch.float32
    assert "PSF 41x51 oversampled 2 times varying with degree 1" in repr(image)
    assert repr(image.psf_field) == "PSFField(3 stamps of 41x51 px [y, x], oversampled 2 times, degree 1)"
    with pytest.raises(AttributeError, match="immutable"):
        image.psf_field.degree = 3
    assert not image.psf_field.stamps.flags.writeable


def test_order_of_the_terms_and_the_sum_of_the_psf():
    field = quadratic_field()
    u, v = (12.0 - 30.0) / 60.0, (33.0 - 25.0) / 40.0
    expected = sum(term * stamp for term, stamp in zip((1, u, u**2, v, u * v, v**2), field.stamps, strict=True))
    np.testing.assert_allclose(field.stamp_at(12.0, 33.0), expected / expected.sum(), rtol=1e-12)


STAMPS = np.ones((3, 5, 5)) * np.exp(-np.hypot(*np.mgrid[-2:3, -2:3]))
GEOMETRY: dict[str, Any] = {"offset": (10.0, 10.0), "scale": (10.0, 10.0)}
REFUSED = [
    Case("count", lambda: bp.PSFField(STAMPS, 2, **GEOMETRY), ValueError, ("6 for", "(3, 5, 5)"), "one stamp for each"),
    Case("one stamp", lambda: bp.PSFField(STAMPS[0], 0, **GEOMETRY), ValueError, ("(5, 5)",), "one stamp for each"),
    Case("degree", lambda: bp.PSFField(STAMPS, 1.0, **GEOMETRY), ValueError, ("degree", "1.0"), "correct"),
    Case("infinite", lambda: bp.PSFField(np.inf * STAMPS, 1, **GEOMETRY), ValueError, ("75 bad",), "replace"),
    Case(
        "scale",
        lambda: bp.PSFField(STAMPS, 1, offset=(0, 0), scale=(1, 0)),
        ValueError,
        ("scale > 0", "(1.0, 0.0)"),
        "correct",
    ),
    Case("pair", lambda: bp.PSFField(STAMPS, 1, offset=3.0, scale=(1, 1)), TypeError, ("offset", "3.0"), "two numbers"),
    Case(
        "oversampling",
        lambda: image_with(bp.PSFField(STAMPS, 1, **GEOMETRY, oversampling=2), psf_oversampling=3),
        ValueError,
        ("psf_oversampling=3", "2"),
        "leave it out",
    ),
    Case(
        "far away",
        lambda: image_with(bp.PSFField(STAMPS, 1, offset=(500.0, 0.0), scale=(100.0, 100.0))),
        ValueError,
        ("positive sum all over the image",),
        "seen_from",
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.label)
def test_malformed_field_is_refused_with_a_remedy(case):
    assert_refused(case)


# -- scenes


@pytest.mark.slow
def test_fit_of_galaxies_across_the_field_recovers_them():
    truth = {"left": (9.6, 45.3, 3000.0, 2.5, 1.2), "right": (70.2, 12.9, 2000.0, 2.0, 2.0)}
    image = image_with(linear_field((61, 61)))
    true_light = sum(models.Sersic(x, y, flux, r, n, ellipticity=[0.2, 0.1]) for x, y, flux, r, n in truth.values())
    data = renderer_for(image)(true_light).numpy() + np.random.default_rng(5).normal(0.0, 1.0, SHAPE)

    def scene(psf: Any) -> bp.Scene:
        galaxies = {
            name: models.sersic(
                x=dist.Normal(torch.tensor(round(x), dtype=torch.float64), 1.0),
                y=dist.Normal(torch.tensor(round(y), dtype=torch.float64), 1.0),
                flux=dist.LogNormal(torch.tensor(7.8, dtype=torch.float64), 1.0),
                r_eff=dist.LogNormal(torch.tensor(0.8, dtype=torch.float64), 0.5),
            )
            for name, (x, y, *_) in truth.items()
        }
        return bp.Scene(bp.Image(data, sigma=1.0, psf=psf), **galaxies)

    varying = scene(linear_field((61, 61)))
    fit = inference.lm(varying)
    constant = inference.lm(scene(image.psf.numpy()))
    assert fit.converged, fit.message

    def deviations(found: Any) -> np.ndarray:
        """From the truth, in standard deviations."""
        names = ("x", "y", "flux", "r_eff", "n")
        sites = {
            f"{name}.{of}": value for name, values in truth.items() for of, value in zip(names, values, strict=True)
        }
        sites |= {f"{name}.ellipticity": np.array([0.2, 0.1]) for name in truth}
        apart = [np.ravel((found.params[site] - value) / np.array(found.std[site])) for site, value in sites.items()]
        return np.abs(np.concatenate(apart))

    assert deviations(fit).max() < 4
    assert deviations(constant).max() > 5  # though its chi2 is as good

    posterior = inference.Posterior(varying)
    z = torch.as_tensor(fit.z)
    nodes = poutine.trace(poutine.condition(varying, data=posterior.constrain(z))).get_trace()
    nodes.compute_log_prob()
    likelihood = posterior.log_density(z) - posterior.log_prior(z)
    assert float(likelihood) == pytest.approx(float(nodes.nodes["image"]["log_prob_sum"]), rel=1e-10)


# -- PsfEx


def psfex_table(field: bp.PSFField, step: float, **cards: Any) -> fits.BinTableHDU:
    """A table such as PsfEx writes of a field whose stamps are sampled every `step` pixels."""
    count, rows, columns = field.stamps.shape
    values = field.stamps.astype(">f4")[None]
    column = fits.Column("PSF_MASK", f"{values.size}E", dim=f"({columns}, {rows}, {count})", array=values)
    table = fits.BinTableHDU.from_columns([column], name="PSF_DATA")
    geometry = {
        "POLNAXIS": 2, "POLNGRP": 1, "POLDEG1": field.degree, "PSF_SAMP": step, "PSFNAXIS": 3,
        "PSFAXIS1": columns, "PSFAXIS2": rows, "PSFAXIS3": count,
    }  # fmt: skip
    table.header.update(geometry)
    for i, name in enumerate(("X_IMAGE", "Y_IMAGE")):
        table.header.update({f"POLNAME{i + 1}": name, f"POLGRP{i + 1}": 1})
        table.header.update({f"POLZERO{i + 1}": field.offset[i] + 1, f"POLSCAL{i + 1}": field.scale[i]})
    table.header.update(cards)
    return table


@pytest.fixture
def psfex_file(tmp_path) -> Any:
    def write(*tables: fits.BinTableHDU) -> Path:
        path = tmp_path / "field.psf"
        fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(path, overwrite=True)
        return path

    return write


@pytest.mark.parametrize(("step", "times"), [(1.0, 1), (0.5, 2), (0.3333333, 3)])
def test_psfex_file_is_read_as_galsim_reads_it(psfex_file, step, times):
    des = pytest.importorskip("galsim.des")
    path = psfex_file(psfex_table(quadratic_field(), step))
    found = bp.read_psfex(path)
    assert (found.oversampling, found.degree) == (times, 2)
    for x, y in PLACES:
        expected = (
            des.DES_PSFEx(str(path)).getPSFArray(pytest.importorskip("galsim").PositionD(x + 1, y + 1)).astype(float)
        )
        np.testing.assert_allclose(found.stamp_at(x, y), expected / expected.sum(), atol=1e-7)


@pytest.mark.parametrize("step", [0.7, 1.25])
def test_other_samplings_are_interpolated_by_lanczos_function(psfex_file, step):
    galsim = pytest.importorskip("galsim")
    field = quadratic_field()
    found = bp.read_psfex(psfex_file(psfex_table(field, step)))
    assert found.oversampling == (2 if step < 1 else 1)
    x, y = PLACES[1]
    expected = galsim.InterpolatedImage(
        galsim.Image(field.stamp_at(x, y)), scale=step, x_interpolant=galsim.Lanczos(4, conserve_dc=False)
    )
    rows, columns = found.stamps.shape[1:]
    values = np.array(
        [
            [expected.xValue((i - columns // 2) / found.oversampling, (j - rows // 2) / found.oversampling)
             for i in range(columns)]
            for j in range(rows)
        ]
    )  # fmt: skip
    assert error(found.stamp_at(x, y), values / values.sum()) < 1e-6


def test_image_from_fits_takes_psfex_files(psfex_file, tmp_path):
    first, second = quadratic_field(), linear_field((41, 51))
    path = psfex_file(psfex_table(first, 1.0), psfex_table(second, 1.0))
    pixels = tmp_path / "image.fits"
    fits.writeto(pixels, np.zeros(SHAPE))
    image = bp.Image.from_fits(pixels, sigma=1.0, psf=(path, 2))
    np.testing.assert_allclose(image.psf_field.stamp_at(3.0, 4.0), second.stamp_at(3.0, 4.0), atol=1e-7)
    with pytest.raises(ValueError, match=r"choose hdu= from \[1, 2\]"):
        bp.Image.from_fits(pixels, sigma=1.0, psf=path)
    with pytest.raises(ValueError, match="depends on X_IMAGE, MAG"):
        bp.read_psfex(psfex_file(psfex_table(first, 1.0, POLNAME2="MAG")))
    with pytest.raises(ValueError, match="PSF_SAMP"):
        bp.read_psfex(psfex_file(psfex_table(first, 0.0)))
    with pytest.raises(ValueError, match="column PSF_MASK"):
        bp.read_psfex(pixels)
    with pytest.raises(FileNotFoundError, match="check the path"):
        bp.read_psfex(tmp_path / "absent.psf")
    constant = bp.PSFField([first.stamps[0]], 0, offset=(0.0, 0.0), scale=(1.0, 1.0))
    none = bp.read_psfex(psfex_file(psfex_table(constant, 1.0, POLNAXIS=0, POLNGRP=0)))
    np.testing.assert_allclose(none.stamp_at(50.0, 50.0), constant.stamp_at(0.0, 0.0), atol=1e-7)


def test_psf_of_decam_as_psfex_wrote_it(shared_data):
    des, galsim = pytest.importorskip("galsim.des"), pytest.importorskip("galsim")
    path = shared_data("tractor_decam", "decam-520206-S16-psfex.fits.gz")
    field, reference = bp.read_psfex(path), des.DES_PSFEx(str(path))
    corner, size = (1700, 3800), (61, 73)
    image = image_with(field.seen_from(*corner), size)
    for x, y in ((36.0, 30.0), (8.0, 50.0)):
        psf = reference.getPSF(galsim.PositionD(corner[0] + x + 1, corner[1] + y + 1))
        offset = (x - (size[1] - 1) / 2, y - (size[0] - 1) / 2)
        drawn = psf.drawImage(nx=size[1], ny=size[0], scale=1.0, method="no_pixel", offset=offset, dtype=float)
        # GalSim keeps a PSF's transform to 1e-3 of its peak; on whole pixels the image is the stamp itself
        assert error(renderer_for(image)(models.PointSource(x, y, 1.0)), drawn.array) < 1e-3
        array = reference.getPSFArray(galsim.PositionD(corner[0] + x + 1, corner[1] + y + 1)).astype(float)
        np.testing.assert_allclose(image.psf_field.stamp_at(x, y), array / array.sum(), atol=1e-8)
