"""Scenes of several images: what each of them sees, and what they say together."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from astropy.io import fits
from astropy.wcs import WCS, Sip
from oracles import Moffat, Source, error
from pyro import poutine
from test_components import CATALOGUE, Row
from test_malformed_inputs import Case, assert_refused

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.inference.posterior import Posterior
from bayesprof.mapped import seen_through
from bayesprof.pixel_map import affine_map, pixel_map
from bayesprof.rendering import renderer_for

ONE_CENTRE = [row for row in CATALOGUE if "x" in row.values]
WAVELENGTH = {"g": 0.47, "r": 0.62, "z": 0.90}
TURN = math.radians(37.0)
TURNED = [  # turned, mirrored and of another pixel scale
    [1.4 * math.cos(TURN), 1.4 * math.sin(TURN), -9.0],
    [1.4 * math.sin(TURN), -1.4 * math.cos(TURN), 21.0],
]


def sky_map(
    shape: tuple[int, int], scale: float, angle: float, *, mirrored: bool = False, distorted: bool = False
) -> WCS:
    """A TAN projection about one place of the sky; distorted, TAN-SIP with terms of second and third order."""
    ny, nx = shape
    wcs = WCS(naxis=2)
    kind = "-SIP" if distorted else ""
    wcs.wcs.ctype = [f"RA---TAN{kind}", f"DEC--TAN{kind}"]
    wcs.wcs.crval = [150.1, 2.2]
    wcs.wcs.crpix = [0.5 * nx + 3.2, 0.5 * ny - 1.7]
    cos, sin = math.cos(angle), math.sin(angle)
    wcs.wcs.cd = np.array([[-cos, -sin], [-sin, cos]]) @ np.diag([-1 if mirrored else 1, 1]) * scale / 3600
    if distorted:
        a, b = np.zeros((4, 4)), np.zeros((4, 4))
        a[2, 0], a[0, 2], a[1, 1], a[3, 0] = 3e-4, -2e-4, 1e-4, 2e-6
        b[2, 0], b[0, 2], b[1, 1], b[0, 3] = 1e-4, 2e-4, -3e-4, -1e-6
        wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


def blank(name: str, shape: tuple[int, int], kernel: np.ndarray | None, sigma: float = 0.5, **options: Any) -> bp.Image:
    return bp.Image(np.zeros(shape), sigma=sigma, psf=kernel, name=name, **options)


def observed(scene: bp.Scene, values: Any, seed: int = 0) -> list[bp.Image]:
    """The images of a scene with data that are its own at `values`, and noise."""
    rng = np.random.default_rng(seed)
    images = []
    for name, image in scene.images.items():
        data = scene.predict(values, image=name).numpy() + rng.normal(size=image.shape) * image.sigma.numpy()
        facts = {"wcs": image.wcs, "zeropoint": image.zeropoint, "band": image.band, "psf": image.psf}
        images.append(bp.Image(data, sigma=image.sigma, mask=image.mask, name=name, **facts))
    return images


@pytest.fixture(scope="module")
def bands(moffat_psf) -> list[bp.Image]:
    """Three blank images: one turned, mirrored and coarser, one distorted."""
    y, x = np.mgrid[-6:7, -6:7]
    wide = (1 + (x**2 + y**2) / 5.0) ** -3.0
    shapes = {"g": (36, 42), "r": (30, 27), "z": (40, 44)}
    maps = {
        "g": sky_map(shapes["g"], 0.25, 0.4),
        "r": sky_map(shapes["r"], 0.37, -0.9, mirrored=True),
        "z": sky_map(shapes["z"], 0.25, 0.3, distorted=True),
    }
    kernels = {"g": moffat_psf, "r": wide, "z": moffat_psf}
    facts = {"g": (25.0, 0.5), "r": (24.0, 0.3), "z": (22.5, 0.8)}
    return [
        blank(name, shapes[name], kernels[name], facts[name][1], wcs=maps[name], zeropoint=facts[name][0], band=name)
        for name in shapes
    ]


GALAXY: dict[str, Any] = {"x": 21.3, "y": 17.6, "r_eff": 3.4, "n": 1.4, "ellipticity": [0.25, -0.1]}
FLUXES = [400.0, 500.0, 900.0]


# -- from one image to another


@pytest.mark.parametrize("other", [1, 2], ids=["turned, mirrored, coarser", "distorted"])
def test_map_between_two_images_is_that_of_their_world_coordinates(bands, other):
    first, there = bands[0], bands[other]
    found = pixel_map(first, there)
    x, y = np.meshgrid(np.linspace(-1.0, 42.0, 12), np.linspace(-1.0, 36.0, 9))
    sky = first.wcs.all_pix2world(x.ravel(), y.ravel(), 0)
    expected = there.wcs.all_world2pix(*sky, 0, tolerance=1e-9)
    np.testing.assert_allclose(found.at(x.ravel(), y.ravel()), expected, atol=2e-5)
    assert found.degree == (1 if other == 1 else found.degree)
    assert (found.degree > 1) == (other == 2)


def test_derivatives_of_a_map_are_its_differences(bands):
    found = pixel_map(bands[0], bands[2])
    x, y, step = torch.tensor(31.0), torch.tensor(5.0), 1e-3
    x, y = x.double(), y.double()
    near = found.near(x, y)
    along_x = [
        (a - b) / (2 * step) for a, b in zip(found.near(x + step, y)[:2], found.near(x - step, y)[:2], strict=True)
    ]
    along_y = [
        (a - b) / (2 * step) for a, b in zip(found.near(x, y + step)[:2], found.near(x, y - step)[:2], strict=True)
    ]
    expected = [along_x[0], along_y[0], along_x[1], along_y[1]]
    torch.testing.assert_close(torch.stack(near[2:]), torch.stack(expected), rtol=0, atol=1e-8)


def test_images_on_the_same_pixels_need_no_map(bands, moffat_psf):
    first = bands[0]
    same = blank("again", first.shape, moffat_psf, wcs=first.wcs)
    assert pixel_map(first, same) is None
    assert pixel_map(blank("a", (20, 30), None), blank("b", (20, 30), None)) is None


def test_a_frame_of_the_sky_is_converted(bands, moffat_psf):
    """The same pixels, described in galactic coordinates."""
    from astropy.wcs.utils import fit_wcs_from_points

    first = bands[0]
    y, x = (part.ravel().astype(float) for part in np.mgrid[:36:5, :42:5])
    galactic = fit_wcs_from_points((x, y), first.wcs.pixel_to_world(x, y).galactic, projection="TAN")
    galactic.pixel_shape = None
    found = pixel_map(first, blank("galactic", first.shape, moffat_psf, wcs=galactic))
    moved = (x, y) if found is None else found.at(x, y)
    np.testing.assert_allclose(moved, (x, y), atol=1e-4)


@pytest.mark.parametrize("matrix", [TURNED, [[0.5, 0.1, 6.0], [-0.2, 0.45, 9.0]]], ids=["finer", "coarser, sheared"])
@pytest.mark.parametrize("n", [1.0, 4.0])
def test_galaxy_in_another_image_is_that_of_galsim(matrix, n):
    """GalSim distorts the profile by the same map, on its own terms; both convolve with a Moffat PSF and a pixel."""
    galsim = pytest.importorskip("galsim")
    source = Source(20.3, 17.8, 4.0, n, 0.6, 0.5)
    psf = Moffat(fwhm=3.2, beta=3.5)
    (a, b, c), (d, e, f) = matrix
    there_x, there_y = a * source.x + b * source.y + c, d * source.x + e * source.y + f
    shape = (61, 67)
    matrix = [[a, b, c + 33.4 - there_x], [d, e, f + 28.7 - there_y]]  # in the middle of the other image
    settings = galsim.GSParams(
        folding_threshold=1e-5, maxk_threshold=1e-5, kvalue_accuracy=1e-8, stepk_minimum_hlr=20, maximum_fft_size=16384
    )
    light = galsim.Sersic(n, half_light_radius=source.r_eff * math.sqrt(source.q), gsparams=settings)
    light = light.shear(q=source.q, beta=source.theta * galsim.radians).transform(a, b, d, e) / abs(a * e - b * d)
    blurred = galsim.Convolve(
        [light, galsim.Moffat(psf.beta, fwhm=psf.fwhm, gsparams=settings), galsim.Pixel(1.0)], gsparams=settings
    )
    offset = (33.4 - 33.0, 28.7 - 30.0)
    expected = blurred.drawImage(nx=67, ny=61, scale=1.0, method="no_pixel", offset=offset, dtype=float).array
    scene = bp.Scene(
        [blank("here", (41, 43), None), blank("there", shape, None)],
        maps={"there": matrix},
        psf=models.moffat_psf(fwhm=psf.fwhm, beta=psf.beta, q=1.0, theta=0.0),
        galaxy=models.sersic(x=source.x, y=source.y, flux=1.0, r_eff=source.r_eff, n=n, q=source.q, theta=source.theta),
    )
    assert error(scene.predict(image="there").numpy(), expected) < 1e-4


@pytest.mark.parametrize("row", ONE_CENTRE, ids=lambda row: row.name)
@pytest.mark.parametrize("psf", [True, False], ids=["psf", "no psf"])
def test_every_component_turns_with_the_pixels_of_an_image(row: Row, psf, moffat_psf):
    """An image turned by a right angle is the array turned."""
    if not psf and any(isinstance(part, bp.light.Pointlike) for part in row.source.parts):
        pytest.skip("a point source has no image without a PSF")
    kernel = moffat_psf if psf else None
    shape, turned = (26, 33), (33, 26)
    light = row.light(
        **{name: torch.as_tensor(value, dtype=torch.float64) for name, value in row.values.items()}, **row.constants
    )
    quarter = affine_map([[0, -1, 25], [1, 0, 0]])
    # those of the renderer; aliases of a point source beyond the Nyquist frequency are followed approximately
    pointlike = any(isinstance(part, bp.light.Pointlike) for part in light.parts)
    tolerance = 3e-4 if pointlike or not psf else 1e-4
    here = renderer_for(blank("here", shape, kernel))(light).numpy()
    there = renderer_for(blank("there", turned, None if kernel is None else kernel[::-1].T))(
        seen_through(light, quarter)
    )
    assert error(there.numpy(), np.rot90(here, k=-1)) < tolerance


def test_sources_keep_their_flux_in_finer_pixels(moffat_psf):
    finer = affine_map([[2.5, 0.3, 20.0], [-0.2, 2.5, 40.0]])
    render = renderer_for(blank("there", (140, 150), moffat_psf))
    x, y = 20.0, 12.0
    for light in (
        models.Sersic(x, y, 100.0, 3.0, 1.0, q=0.5, theta=0.7),
        models.EdgeOnDisk(x, y, 100.0, 2.0, 0.2, 1.0, 0.4),
        models.Shaped(models.Exponential(x, y, 100.0, 3.0, q=0.7), [models.Boxiness(0.5)]),
        models.PointSource(x, y, 100.0),
    ):
        assert float(render(seen_through(light, finer)).sum()) == pytest.approx(100.0, rel=3e-3), type(light).__name__


@pytest.mark.parametrize(
    "matrix", [[[2.0, 0, 5.5], [0, 2.0, 3.5]], [[-2.0, 0, 65.5], [0, 2.0, 3.5]]], ids=["finer", "mirrored"]
)
def test_lattice_of_values_is_seen_in_finer_and_mirrored_pixels(matrix, moffat_psf):
    """Its surface brightness, without a PSF, at the places that the map says."""
    values = torch.tensor([[1.0, 2.0, 0.5], [0.3, 4.0, 1.5]], dtype=torch.float64)
    light = models.Freeform(values, 15.0, 12.0, 4.0)
    there = renderer_for(blank("there", (55, 66), None))(seen_through(light, affine_map(matrix))).numpy()
    here = renderer_for(blank("here", (26, 33), None))(light).numpy()
    (a, _, c), (_, e, f) = matrix
    # a pixel of the first image holds 2 x 2 of the other
    first_x, first_y = (
        np.rint(np.minimum(scale * (pixels - 0.5), scale * (pixels + 0.5)) + shift + 0.5).astype(int)
        for scale, shift, pixels in ((a, c, np.arange(2, 28)), (e, f, np.arange(2, 24)))
    )
    sums = [[there[v : v + 2, u : u + 2].sum() for u in first_x] for v in first_y]
    np.testing.assert_allclose(sums, here[2:24, 2:28], atol=1e-9)


def test_images_of_a_scene_are_those_of_each_image_alone(bands):
    """The first as if it were alone, to the last bit; another as its own scene renders the mapped galaxy."""
    flux = bp.per_image(FLUXES)
    scene = bp.Scene(
        bands, sky=models.flat_sky(level=bp.per_image([1.0, 2.0, 3.0])), galaxy=models.sersic(flux=flux, **GALAXY)
    )
    together = scene.predict()
    alone = bp.Scene(bands[0], sky=models.flat_sky(level=1.0), galaxy=models.sersic(flux=FLUXES[0], **GALAXY))
    assert torch.equal(together["g"], alone.predict())
    light = seen_through(models.Sersic(flux=FLUXES[1], **GALAXY), pixel_map(bands[0], bands[1]))
    torch.testing.assert_close(together["r"], renderer_for(bands[1])(light + models.FlatSky(2.0)), rtol=1e-12, atol=0)
    assert list(together) == ["g", "r", "z"]
    assert torch.equal(scene.predict(image="z"), together["z"])


# -- parameters over images


def sites_of(scene: bp.Scene) -> dict[str, Any]:
    return poutine.trace(scene).get_trace().nodes


def test_fluxes_and_skies_are_per_image_and_geometry_is_shared(bands):
    scene = bp.Scene(bands, sky=models.flat_sky(), galaxy=models.sersic())
    nodes = sites_of(scene)
    shapes = {name: tuple(node["value"].shape) for name, node in nodes.items() if node["type"] == "sample"}
    assert shapes["sky.level"] == shapes["galaxy.flux"] == (3,)
    assert shapes["galaxy.x"] == shapes["galaxy.n"] == ()
    assert shapes["galaxy.ellipticity"] == (2,)
    assert [name for name in scene.images if nodes[name]["is_observed"]] == ["g", "r", "z"]
    assert scene.dims["galaxy.flux"] == ["image"]
    assert scene.coords["image"] == ["g", "r", "z"]
    assert scene.dims["r"] == ["r_y", "r_x"]
    assert scene.coords["r_x"] == list(range(27))


def test_default_priors_come_from_each_image(bands):
    values = {"sky": models.flat_sky(level=bp.per_image([10.0, 20.0, 30.0]))}
    truth = bp.Scene(bands, **values, galaxy=models.sersic(flux=bp.per_image(FLUXES), **GALAXY))
    scene = bp.Scene(observed(truth, None), sky=models.flat_sky(), galaxy=models.sersic())
    starts = scene.initial_values()
    np.testing.assert_allclose(starts["sky.level"], [10.0, 20.0, 30.0], atol=1.0)
    np.testing.assert_allclose(starts["galaxy.flux"], FLUXES, rtol=0.25)
    assert float(starts["galaxy.x"]) == pytest.approx(GALAXY["x"], abs=0.5)
    text = repr(models.describe(scene))
    assert "sky (flat_sky), galaxy (sersic) on g, r, z: 7 parameters to fit, 0 held" in text
    assert "of g, " in text


def test_per_image_takes_priors_by_name_and_held_values(bands):
    priors = {name: dist.LogNormal(float(i), 0.1) for i, name in enumerate("grz")}
    galaxy = models.sersic(
        flux=bp.per_image(priors), r_eff=bp.per_image([1.0, 2.0, 3.0]), n=bp.per_image(dist.Uniform(1.0, 2.0))
    )
    nodes = sites_of(bp.Scene(bands, galaxy=galaxy))
    torch.testing.assert_close(nodes["galaxy.flux"]["fn"].base_dist.loc, torch.arange(3.0))
    assert nodes["galaxy.n"]["value"].shape == (3,)
    assert "galaxy.r_eff" not in nodes
    joint = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    assert sites_of(bp.Scene(bands, galaxy=models.sersic(flux=bp.per_image(joint))))["galaxy.flux"]["fn"] is joint


def test_what_follows_from_a_parameter_per_image_is_recorded_for_each(bands):
    scene = bp.Scene(bands, galaxy=models.sersic(ellipticity=bp.per_image()))
    nodes = sites_of(scene)
    assert nodes["galaxy.ellipticity"]["value"].shape == (3, 2)
    assert nodes["galaxy.q"]["value"].shape == (3,)
    assert scene.dims["galaxy.ellipticity"] == ["image", "ellipticity_component"]
    assert scene.dims["galaxy.q"] == ["image"]


def test_shared_flux_is_one_number_in_the_unit_of_each_image(bands):
    scene = bp.Scene(bands, star=models.point_source(x=20.0, y=17.0, flux=bp.shared(dist.LogNormal(3.0, 1.0))))
    images = scene.predict({"star.flux": 100.0})
    for image in images.values():
        assert float(image.sum()) == pytest.approx(100.0, rel=1e-2)


def test_polynomial_goes_through_its_formula(bands):
    curve = bp.polynomial(WAVELENGTH, order=2)
    scene = bp.Scene(
        bands, galaxy=models.sersic(r_eff=curve, flux=bp.per_image(FLUXES), x=21.0, y=17.0, q=0.7, theta=0.1, n=1.0)
    )
    values = {"galaxy.r_eff_middle": 3.0, "galaxy.r_eff_coefficients": [0.2, -0.1]}
    found = poutine.condition(scene, data={name: torch.tensor(v, dtype=torch.float64) for name, v in values.items()})
    r_eff = poutine.trace(found).get_trace().nodes["galaxy.r_eff"]["value"]
    s = (np.array([0.47, 0.62, 0.90]) - 0.685) / 0.215
    np.testing.assert_allclose(r_eff, 3.0 * np.exp(0.2 * s - 0.1 * s**2), rtol=1e-12)
    assert scene.dims["galaxy.r_eff"] == ["image"]
    assert scene.dims["galaxy.r_eff_coefficients"] == ["galaxy.r_eff_power"]
    assert scene.coords["galaxy.r_eff_power"] == [1, 2]
    light = models.Sersic(21.0, 17.0, FLUXES[0], r_eff[0], 1.0, q=0.7, theta=0.1)
    torch.testing.assert_close(scene.predict(values)["g"], renderer_for(bands[0])(light), rtol=1e-12, atol=0)


def test_curves_of_a_vector_bend_each_of_its_numbers(bands):
    scene = bp.Scene(bands, galaxy=models.sersic(ellipticity=bp.polynomial(WAVELENGTH, order=1)))
    nodes = sites_of(scene)
    assert nodes["galaxy.ellipticity_coefficients"]["value"].shape == (1, 2)
    middle, bend = (nodes[f"galaxy.ellipticity_{part}"]["value"] for part in ("middle", "coefficients"))
    plane = middle / torch.sqrt(1 - (middle**2).sum())
    at_z = plane + bend[0]  # the reddest: s = 1
    torch.testing.assert_close(nodes["galaxy.ellipticity"]["value"][2], at_z / torch.sqrt(1 + (at_z**2).sum()))
    assert nodes["galaxy.q"]["value"].shape == (3,)


def test_spline_is_a_natural_cubic_through_its_knots(bands):
    from scipy.interpolate import CubicSpline

    curve = bp.spline(WAVELENGTH, knots=[0.45, 0.6, 0.8, 0.95], prior=dist.Normal(0.0, 5.0), scale=2.0)
    scene = bp.Scene(bands, star=models.point_source(x=curve, y=17.0, flux=1.0))
    values = {
        "star.x_middle": torch.tensor(20.0).double(),
        "star.x_coefficients": torch.tensor([1.0, -2.0, 0.5]).double(),
    }
    x = poutine.trace(poutine.condition(scene, data=values)).get_trace().nodes["star.x"]["value"]
    expected = CubicSpline([0.45, 0.6, 0.8, 0.95], [21.0, 18.0, 20.0, 20.5], bc_type="natural")(
        list(WAVELENGTH.values())
    )
    np.testing.assert_allclose(x, expected, rtol=1e-10)
    assert scene.coords["star.x_knot"] == [0.45, 0.6, 0.95]


def test_polynomial_of_as_many_terms_as_images_starts_where_it_was_measured(bands):
    truth = bp.Scene(bands, sky=models.flat_sky(level=0.0), galaxy=models.sersic(flux=bp.per_image(FLUXES), **GALAXY))
    images = observed(truth, None)
    scene = bp.Scene(images, galaxy=models.sersic(flux=bp.polynomial(WAVELENGTH, order=2)))
    plain = bp.Scene(images, galaxy=models.sersic()).initial_values()["galaxy.flux"]
    starts = scene.initial_values()
    values = {name: value for name, value in starts.items() if "flux" in name}
    flux = poutine.trace(poutine.condition(scene, data=values)).get_trace().nodes["galaxy.flux"]["value"]
    torch.testing.assert_close(flux, plain, rtol=1e-9, atol=0)


def test_epochs_of_one_band_share_a_flux_by_their_zero_points(moffat_psf):
    epochs = [
        blank(name, (26, 33), moffat_psf, zeropoint=zero, band=band)
        for name, zero, band in (("r1", 25.0, "r"), ("g1", 24.0, "g"), ("r2", 27.5, "r"))
    ]
    scene = bp.Scene(epochs, star=models.point_source(x=16.0, y=12.0, flux=bp.per_band()))
    assert scene.dims["star.flux"] == ["band"]
    assert scene.coords["band"] == ["r", "g"]
    sums = [float(image.sum()) for image in scene.predict({"star.flux": [100.0, 50.0]}).values()]
    np.testing.assert_allclose(sums, np.array([100.0, 50.0, 100.0 * 10 ** (0.4 * 2.5)]) * sums[0] / 100.0, rtol=1e-9)


def test_a_component_only_in_some_images_has_values_for_those(bands):
    scene = bp.Scene(
        bands,
        galaxy=models.sersic(flux=bp.per_image(FLUXES), **GALAXY),
        glow=bp.only_in(models.flat_sky(), "r"),
        stray=bp.only_in(models.point_source(x=10.0, y=9.0), "g", "z"),
    )
    nodes = sites_of(scene)
    assert nodes["glow.level"]["value"].shape == ()
    assert nodes["stray.flux"]["value"].shape == (2,)
    assert scene.dims["stray.flux"] == ["stray.image"]
    assert scene.coords["stray.image"] == ["g", "z"]
    values = {"glow.level": 5.0, "stray.flux": [30.0, 40.0]}
    found = scene.predict(values)
    without = {"glow.level": 0.0, "stray.flux": [0.0, 0.0]}
    added = {name: image - scene.predict(without)[name] for name, image in found.items()}
    torch.testing.assert_close(added["r"], torch.full(bands[1].shape, 5.0, dtype=torch.float64), rtol=0, atol=1e-9)
    assert float(added["g"].sum()) == pytest.approx(30.0, rel=2e-2)
    assert float(added["z"].sum()) == pytest.approx(40.0, rel=2e-2)


def test_a_function_of_ones_own_returns_light_by_image(bands):
    def reddened() -> dict[str, bp.light.Light]:
        flux = pyro.sample("flux", dist.LogNormal(6.0, 1.0))
        extinction = pyro.sample("extinction", dist.HalfNormal(1.0))
        return {
            name: models.Exponential(21.0, 17.0, flux * torch.exp(-extinction / wavelength), 3.0)
            for name, wavelength in WAVELENGTH.items()
            if name != "r"
        }

    scene = bp.Scene(bands, galaxy=reddened, sky=models.flat_sky(level=0.0))
    images = scene.predict({"galaxy.flux": 100.0, "galaxy.extinction": 0.5})
    assert float(images["r"].abs().max()) == 0.0
    ratio = float(images["z"].sum() / images["g"].sum())
    assert ratio == pytest.approx(math.exp(0.5 / 0.47 - 0.5 / 0.90), rel=1e-2)


def test_alignment_moves_the_images_behind_the_first(bands):
    star = models.point_source(x=20.0, y=17.0, flux=100.0)
    offsets = {"alignment.dx": [2.0, -1.0], "alignment.dy": [0.0, 3.0]}
    scene = bp.Scene(bands, alignment=models.alignment(), star=star)
    assert scene.dims["alignment.dx"] == ["alignment.image"]
    assert scene.coords["alignment.image"] == ["r", "z"]
    moved, still = scene.predict(offsets), bp.Scene(bands, star=star).predict()
    assert torch.equal(moved["g"], still["g"])
    for name, dx, dy in (("r", 2, 0), ("z", -1, 3)):
        shifted = np.roll(still[name].numpy(), (dy, dx), axis=(0, 1))
        np.testing.assert_allclose(moved[name].numpy()[5:-5, 5:-5], shifted[5:-5, 5:-5], atol=2e-4)


def test_each_image_may_have_a_psf_and_a_likelihood_of_its_own(bands):
    scene = bp.Scene(
        bands,
        psf={"r": models.gaussian_psf()},
        likelihood={"z": bp.likelihoods.extra_noise(), "g": "student_t"},
        sky=models.flat_sky(),
        star=models.point_source(),
    )
    nodes = sites_of(scene)
    assert "psf_r.fwhm" in nodes
    assert "likelihood_z.factor" in nodes
    assert not any(name.startswith(("psf_g", "psf_z", "likelihood_g", "likelihood_r")) for name in nodes)
    every = bp.Scene(bands, psf=models.gaussian_psf(), star=models.point_source())
    assert {"psf_g.fwhm", "psf_r.fwhm", "psf_z.fwhm"} <= set(sites_of(every))
    assert set(scene.constant_data()) == {
        "g_sigma", "g_mask", "g_psf", "r_sigma", "r_mask", "z_sigma", "z_mask", "z_psf",
    }  # fmt: skip


def test_windows_follow_the_pixels_of_each_image(bands):
    galaxy = models.sersic(flux=bp.per_image(FLUXES), **{**GALAXY, "n": 0.6, "r_eff": 2.0})
    window = bp.Window.around(GALAXY["x"], GALAXY["y"], 11)
    scene = bp.Scene(bands, windows={"galaxy": window}, galaxy=galaxy)
    whole = bp.Scene(bands, galaxy=galaxy)
    for name in "grz":
        assert error(scene.predict(image=name).numpy(), whole.predict(image=name).numpy()) < 1e-3
    # what the first image sees in its corner lies outside the second
    corner = bp.Scene(
        bands,
        windows={"star": bp.Window(0, 0, 4, 4)},
        maps={"r": [[1, 0, -60], [0, 1, 0]]},
        star=models.point_source(x=1.0, y=1.0, flux=1.0),
    )
    assert float(corner.predict(image="r").abs().max()) == 0.0


def test_moving_star_is_where_its_motion_brings_it(moffat_psf):
    epochs = {"first": 2014.0, "second": 2018.0, "third": 2024.0}
    images = [blank(name, (26, 33), moffat_psf, sigma=0.05) for name in epochs]
    truth = {
        "star.x": 16.0,
        "star.y": 12.0,
        "star.motion_x": 0.3,
        "star.motion_y": -0.2,
        "star.flux": [90.0, 140.0, 70.0],
    }
    star = models.moving_star(epochs, reference=2016.0)
    scene = bp.Scene(images, star=star)
    for name, t in epochs.items():
        image = scene.predict(truth, image=name).numpy()
        y, x = np.mgrid[:26, :33]
        assert (image * x).sum() / image.sum() == pytest.approx(16.0 + 0.3 * (t - 2016.0), abs=0.02)
        assert (image * y).sum() / image.sum() == pytest.approx(12.0 - 0.2 * (t - 2016.0), abs=0.02)
    fitted = bp.Scene(observed(scene, truth), star=star)
    fit = inference.lm(fitted)
    for name, value in truth.items():
        deviation = (np.array(fit.params[name]) - np.array(value)) / np.array(fit.std[name])
        assert np.abs(deviation).max() < 4.5, name


# -- what they say together


def joint_scene(images: list[bp.Image]) -> bp.Scene:
    """Everything that depends on the images in its own way: a curve, offsets, a distorted map, a fitted PSF."""
    return bp.Scene(
        images,
        psf={"r": models.gaussian_psf(q=1.0, theta=0.0)},
        alignment=models.alignment(dx=dist.Normal(0.0, 0.1)),
        sky=models.flat_sky(),
        galaxy=models.sersic(n=bp.polynomial(WAVELENGTH, order=1)),
        disk=models.edge_on_disk(x=12.0, y=20.0, thickness=0.3, sech_power=1.0),
    )


@pytest.fixture(scope="module")
def joint(bands) -> bp.Scene:
    truth = bp.Scene(
        bands,
        sky=models.flat_sky(level=bp.per_image([1.0, 2.0, 3.0])),
        galaxy=models.sersic(flux=bp.per_image(FLUXES), **GALAXY),
    )
    return joint_scene(observed(truth, None))


@pytest.fixture(scope="module")
def joint_posterior(joint) -> Posterior:
    return Posterior(joint)


def test_log_density_is_the_prior_and_the_likelihood_of_every_image(joint):
    trace = poutine.trace(joint).get_trace()
    trace.compute_log_prob()
    values = {name: trace.nodes[name]["value"] for name in trace.stochastic_nodes}
    total = sum(float(trace.nodes[name]["log_prob_sum"]) for name in trace.stochastic_nodes)
    for name, image in joint.images.items():
        model = joint.predict(values, image=name)
        total += float(dist.Normal(model, image.sigma).log_prob(image.data)[image.valid].sum())
    assert float(trace.log_prob_sum()) == pytest.approx(total, rel=1e-10)


def test_gradient_over_several_images_is_differences(joint_posterior):
    posterior = joint_posterior
    z = posterior.initial()
    step = 1e-5 * torch.eye(posterior.size, dtype=torch.float64)
    _, gradient = posterior.value_and_grad(z)
    higher, lower = posterior.log_density(z + step), posterior.log_density(z - step)
    torch.testing.assert_close(gradient, (higher - lower) / 2e-5, rtol=1e-5, atol=1e-3)


@pytest.mark.slow
def test_hessian_over_several_images_is_differences_of_gradients(joint_posterior):
    posterior = joint_posterior
    z = posterior.initial()
    step = 1e-5 * torch.eye(posterior.size, dtype=torch.float64)
    _, _, hessian = posterior.hessian(z)
    _, up = posterior.value_and_grad(z + step)
    _, down = posterior.value_and_grad(z - step)
    size = hessian.diagonal().abs().sqrt()
    differences = -(up - down) / 2e-5
    assert float(((hessian - differences) / (size[:, None] * size)).abs().max()) < 1e-5


def test_information_is_the_sum_over_the_images(joint, joint_posterior):
    """J^T W J with the Jacobian of each image by differences of the rendered images."""
    posterior = joint_posterior
    z = posterior.initial()
    _, _, information, _ = posterior.expansion(z)
    expected = torch.zeros_like(information)
    step = 1e-5
    for name, image in joint.images.items():
        rows = []
        for unit in torch.eye(posterior.size, dtype=torch.float64):
            higher, lower = (joint.predict(posterior.constrain(z + s * step * unit), image=name) for s in (1, -1))
            rows.append((((higher - lower) / (2 * step)) / image.sigma)[image.valid])
        jacobian = torch.stack(rows)
        expected += jacobian @ jacobian.T
    size = expected.diagonal().sqrt()
    assert float(((information - expected) / (size[:, None] * size)).abs().max()) < 1e-6


def test_an_image_is_not_differentiated_along_the_fluxes_of_the_others(bands):
    from bayesprof.inference.forward_mode import with_derivatives

    posterior = Posterior(bp.Scene(bands, sky=models.flat_sky(), galaxy=models.sersic()))
    places = {site.name: site.place for site in posterior.sites}
    found = with_derivatives(posterior._forward.graph, "parameters", in_windows=True).blocks["parameters"]
    moving = [set().union(*(set(block.active) for block in blocks)) for blocks in found if blocks]
    for i, entries in enumerate(moving):
        for name in ("sky.level", "galaxy.flux"):
            own = set(range(places[name].start, places[name].stop)) & entries
            assert own == {places[name].start + i}


def test_joint_posterior_is_the_product_of_the_single_ones(moffat_psf):
    """Two images of one galaxy, priors so wide that they don't count: precisions add, means are weighted by them."""
    shape = {
        "x": dist.Normal(16.0, 50.0),
        "y": dist.Normal(12.0, 50.0),
        "r_eff": dist.LogNormal(1.0, 20.0),
        "n": 1.0,
        "q": 0.7,
        "theta": 0.4,
    }
    flux = dist.LogNormal(6.0, 20.0)
    images = [blank("a", (26, 33), moffat_psf, sigma=0.2), blank("b", (26, 33), moffat_psf, sigma=0.3)]
    truth = bp.Scene(
        images,
        galaxy=models.sersic(x=16.3, y=12.2, r_eff=3.0, n=1.0, q=0.7, theta=0.4, flux=bp.per_image([800.0, 600.0])),
    )
    images = observed(truth, None)
    singles = [inference.lm(bp.Scene(image, galaxy=models.sersic(flux=flux, **shape))) for image in images]
    both = inference.lm(bp.Scene(images, galaxy=models.sersic(flux=flux, **shape)))
    names = ["galaxy.x", "galaxy.y", "galaxy.r_eff"]
    orders = [[fit.labels.index(name) for name in names] for fit in (*singles, both)]
    means = [np.array([float(fit.params[name]) for name in names]) for fit in (*singles, both)]
    covariances = [fit.covariance[np.ix_(o, o)] for fit, o in zip((*singles, both), orders, strict=True)]
    precisions = [np.linalg.inv(covariance) for covariance in covariances[:2]]
    expected = np.linalg.inv(sum(precisions))
    sd = np.sqrt(np.diag(expected))
    weighted = expected @ sum(precision @ mean for precision, mean in zip(precisions, means[:2], strict=True))
    assert np.abs((covariances[2] - expected) / (sd[:, None] * sd)).max() < 0.03
    assert np.abs((means[2] - weighted) / sd).max() < 0.05


@pytest.mark.parametrize("fields", [6, pytest.param(30, marks=pytest.mark.slow)])
def test_truths_are_recovered_and_their_errors_are_the_scatter(fields, bands):
    """Fields, each in two images with their own pixels: pulls of the shared parameters and of those per image."""
    two = bands[:2]
    truth = {"sky.level": [1.0, 2.0], "galaxy.flux": [900.0, 1500.0], "galaxy.r_eff": 3.4, "galaxy.x": 21.3}
    truth |= {"galaxy.y": 17.6, "galaxy.ellipticity": [0.25, -0.1]}
    galaxy = models.exponential()
    blank_scene = bp.Scene(two, sky=models.flat_sky(), galaxy=galaxy)
    pulls = []
    for seed in range(fields):
        scene = bp.Scene(observed(blank_scene, truth, seed), sky=models.flat_sky(), galaxy=galaxy)
        fit = inference.lm(scene)
        assert fit.converged
        pulls.append(
            np.concatenate(
                [np.ravel((fit.params[name] - np.array(value)) / fit.std[name]) for name, value in truth.items()]
            )
        )
    pulls = np.array(pulls)
    assert np.abs(pulls.mean(axis=0)).max() < 4.0 / math.sqrt(len(pulls))
    # the sum of squares of so many normal numbers
    assert (pulls**2).mean() == pytest.approx(1.0, abs=5 * math.sqrt(2 / pulls.size))


# -- what is made of them


@pytest.fixture(scope="module")
def fitted(moffat_psf) -> tuple[bp.Scene, Any]:
    images = [
        blank("g", (26, 33), moffat_psf, band="g", wcs=sky_map((26, 33), 0.25, 0.1), zeropoint=25.0),
        blank("r", (22, 24), moffat_psf, band="r", wcs=sky_map((22, 24), 0.35, 0.8), zeropoint=24.0),
    ]
    galaxy = models.exponential(x=16.0, y=12.0)
    truth = {
        "sky.level": [1.0, 2.0],
        "galaxy.flux": [400.0, 600.0],
        "galaxy.r_eff": 3.0,
        "galaxy.ellipticity": [0.2, 0.1],
    }
    scene = bp.Scene(
        observed(bp.Scene(images, sky=models.flat_sky(), galaxy=galaxy), truth), sky=models.flat_sky(), galaxy=galaxy
    )
    return scene, inference.lm(scene)


def test_inference_data_has_every_image_with_its_own_axes(fitted):
    scene, fit = fitted
    post = inference.laplace(scene, init=fit, draws=200, proposals=400)
    assert post.posterior["galaxy.flux"].dims == ("chain", "draw", "image")
    assert list(post.posterior["galaxy.flux"].coords["image"].values) == ["g", "r"]
    assert post.observed_data["g"].dims == ("g_y", "g_x")
    assert post.observed_data["r"].shape == (22, 24)
    assert post.posterior_predictive["r"].shape[-2:] == (22, 24)
    assert set(post.log_likelihood.data_vars) == {"g", "r"}
    assert post.posterior["galaxy.flux"].attrs["units"] == "image unit"
    assert {"g_sigma", "r_sigma", "g_psf", "r_psf"} <= set(post.constant_data.data_vars)


def test_residual_plot_has_a_row_for_each_image(fitted):
    scene, fit = fitted
    figure = bp.plots.residual(scene, fit)
    assert len(figure.axes) == 6
    assert [axis.get_title().split(":")[0] for axis in figure.axes[::3]] == ["g", "r"]
    shown = figure.axes[5].images[0].get_array()
    image = scene.images["r"]
    expected = (image.data - scene.predict(fit, image="r")) / image.sigma
    np.testing.assert_allclose(shown, expected, rtol=1e-9)
    assert f"{fit.chi2:.1f} / {fit.dof}" in figure.get_suptitle()
    alone = bp.plots.residual(scene, fit, image="r")
    assert len(alone.axes) == 3
    with pytest.raises(ValueError, match="no image 'i'"):
        bp.plots.residual(scene, fit, image="i")


def test_profile_and_prior_sheet_take_the_name_of_an_image(fitted):
    scene, fit = fitted
    first, second = (bp.plots.profile(scene, fit, image=name) for name in ("g", "r"))
    centres = [figure.axes[0].get_title() for figure in (first, second)]
    assert "(16.00, 12.00)" in centres[0]
    x, y = pixel_map(scene.images["g"], scene.images["r"]).at(16.0, 12.0)
    assert f"({x:.2f}, {y:.2f})" in centres[1]
    assert bp.plots.prior_sheet(scene, count=2, image="r").axes[0].images[0].get_array().shape == (22, 24)


def test_model_images_of_all_are_in_one_file(fitted, tmp_path):
    from bayesprof.storage import model_fits, summary_table

    scene, fit = fitted
    model_fits(scene, fit, tmp_path / "model.fits")
    with fits.open(tmp_path / "model.fits") as hdus:
        assert [hdu.name for hdu in hdus] == ["MODEL", "RESIDUAL", "SKY", "GALAXY"] * 2
        assert [hdu.header["IMGNAME"] for hdu in hdus] == ["g"] * 4 + ["r"] * 4
        second = hdus["MODEL", 2]
        np.testing.assert_allclose(second.data, scene.predict(fit, image="r"), rtol=1e-12)
        assert second.header["MAGZERO"] == 24.0
        np.testing.assert_allclose(
            WCS(second.header).pixel_to_world_values(3, 4), scene.images["r"].wcs.pixel_to_world_values(3, 4)
        )
    assert "galaxy.flux[1]" in list(summary_table(fit)["parameter"])


@pytest.mark.slow
def test_results_are_saved_whole(fitted, tmp_path):
    from bayesprof.storage import products, save_results

    scene, fit = fitted
    post = inference.laplace(scene, init=fit, draws=100, proposals=200)
    saved = save_results(tmp_path / "results", products(scene, post, fit=fit))
    assert saved.failed == {}


# -- what is refused

SOURCE = models.point_source(x=16.0, y=12.0)


def two(**second: Any) -> list[bp.Image]:
    kernel = np.ones((3, 3))
    shape = second.pop("shape", (26, 33))
    return [blank("a", (26, 33), kernel), blank(second.pop("name", "b"), shape, kernel, **second)]


REFUSED = [
    Case("no image", lambda: bp.Scene([], star=SOURCE), ValueError, ("an empty list",), ""),
    Case("something else", lambda: bp.Scene([*two(), 3], star=SOURCE), TypeError, ("got int",), ""),
    Case("one name twice", lambda: bp.Scene(two(name="a"), star=SOURCE), ValueError, ("got 'a' 2 times",), ""),
    Case("no map", lambda: bp.Scene(two(shape=(20, 20)), star=SOURCE), ValueError, ("no WCS of",), ""),
    Case(
        "one without a WCS",
        lambda: bp.Scene(two(wcs=sky_map((26, 33), 0.2, 0.0)), star=SOURCE),
        ValueError,
        ("no WCS of",),
        "",
    ),
    Case(
        "another dtype",
        lambda: bp.Scene([two()[0], two()[1].to(torch.float32)], star=SOURCE),
        ValueError,
        ("Image.to",),
        "",
    ),
    Case(
        "a map of another shape",
        lambda: bp.Scene(two(), maps={"b": np.eye(3)}, star=SOURCE),
        ValueError,
        ("(2, 3)",),
        "",
    ),
    Case(
        "a map onto a line",
        lambda: bp.Scene(two(), maps={"b": [[1, 1, 0], [1, 1, 0]]}, star=SOURCE),
        ValueError,
        ("an area",),
        "",
    ),
    Case(
        "a map to the first",
        lambda: bp.Scene(two(), maps={"a": np.eye(2, 3)}, star=SOURCE),
        ValueError,
        ("behind the first",),
        "",
    ),
    Case(
        "another part of the sky", lambda: bp.Scene(far_apart(), star=SOURCE), ValueError, ("same part of the sky",), ""
    ),
    Case("an unknown image", lambda: bp.Scene(two(), star=bp.only_in(SOURCE, "c")), ValueError, ("got 'c'",), ""),
    Case(
        "light for an unknown image",
        lambda: bp.Scene(two(), star=lambda: {"c": models.PointSource(1.0, 1.0, 1.0)}),
        ValueError,
        ("'c'",),
        "",
    ),
    Case(
        "no light for an image",
        lambda: bp.Scene(two(), star=lambda: {"b": 3.0}),
        TypeError,
        ("float for image 'b'",),
        "",
    ),
    Case("a component with an image's name", lambda: bp.Scene(two(), b=SOURCE), ValueError, ("name of the image",), ""),
    Case(
        "a PSF of an unknown image",
        lambda: bp.Scene(two(), psf={"c": models.gaussian_psf()}, star=SOURCE),
        ValueError,
        ("psf by name",),
        "",
    ),
    Case(
        "a component named as a PSF",
        lambda: bp.Scene(two(), psf=models.gaussian_psf(), psf_b=SOURCE),
        ValueError,
        ("rename it",),
        "",
    ),
    Case(
        "alignment of one",
        lambda: bp.Scene(two()[0], alignment=models.alignment(), star=SOURCE),
        ValueError,
        ("several images",),
        "",
    ),
    Case(
        "alignment of the first",
        lambda: bp.Scene(two(), alignment=lambda: {"a": (0.0, 0.0)}, star=SOURCE),
        ValueError,
        ("behind the first",),
        "",
    ),
    Case(
        "a value short",
        lambda: bp.Scene(two(), star=star_of(bp.per_image([1.0]))),
        ValueError,
        ("a value for each of",),
        "",
    ),
    Case(
        "a prior short",
        lambda: bp.Scene(two(), star=star_of(bp.per_image({"a": dist.Normal(0, 1)}))),
        ValueError,
        ("'b'",),
        "",
    ),
    Case("two families", lambda: bp.Scene(two(), star=star_of(mixed())), TypeError, ("one family",), ""),
    Case(
        "priors and values",
        lambda: bp.Scene(two(), star=star_of(bp.per_image({"a": dist.Normal(0, 1), "b": 1.0}))),
        TypeError,
        ("got both",),
        "",
    ),
    Case("no band", lambda: bp.Scene(two(), star=star_of(bp.per_band())), ValueError, ("without",), ""),
    Case(
        "no zero point",
        lambda: bp.Scene(two(), star=star_of(bp.polynomial([1.0, 2.0]))),
        ValueError,
        ("zero points",),
        "",
    ),
    Case(
        "wavelengths short",
        lambda: bp.Scene(two(), star=moved(bp.polynomial([1.0, 2.0, 3.0]))),
        ValueError,
        ("2 wavelengths",),
        "",
    ),
    Case(
        "no wavelength",
        lambda: bp.Scene(two(), star=moved(bp.polynomial({"a": 1.0, "c": 2.0}))),
        ValueError,
        ("none of 'b'",),
        "",
    ),
    Case("one wavelength", lambda: bp.polynomial([1.0, 1.0]), ValueError, ("different wavelengths",), ""),
    Case("no order", lambda: bp.polynomial([1.0, 2.0], order=0), ValueError, ("order",), ""),
    Case("one knot", lambda: bp.spline([1.0, 2.0], knots=[1.0]), ValueError, ("two or more knots",), ""),
    Case(
        "a held middle",
        lambda: bp.Scene(two(), star=moved(bp.polynomial([1.0, 2.0], prior=3.0))),
        TypeError,
        ("a prior of the x",),
        "",
    ),
    Case(
        "a turned lattice",
        lambda: bp.Scene(two(), maps={"b": TURNED}, debris=models.freeform((2, 2), 3.0, x=9.0, y=9.0)),
        ValueError,
        ("same axes",),
        "",
    ),
    Case("no epochs", lambda: models.moving_star([2015.0]), TypeError, ("mapping from names",), ""),
    Case("no time", lambda: models.moving_star({"a": "2015"}), ValueError, ("times in years",), ""),
    Case("no component", lambda: bp.only_in(3, "g"), TypeError, ("a component first",), ""),
    Case("no names", lambda: bp.only_in(SOURCE), ValueError, ("names of images",), ""),
    Case(
        "predict of an unknown image",
        lambda: bp.Scene(two(), star=SOURCE).predict({"star.flux": [1.0, 1.0]}, image="c"),
        ValueError,
        ("no image 'c'",),
        "",
    ),
]


def far_apart() -> list[bp.Image]:
    there = sky_map((26, 33), 0.2, 0.0)
    there.wcs.crval = [330.0, -2.0]
    return [blank("a", (26, 33), None, wcs=sky_map((26, 33), 0.2, 0.0)), blank("b", (26, 33), None, wcs=there)]


def star_of(flux: Any) -> Any:
    return models.point_source(x=16.0, y=12.0, flux=flux)


def moved(x: Any) -> Any:
    return models.point_source(x=x, y=12.0)


def mixed() -> Any:
    return bp.per_image({"a": dist.Normal(0.0, 1.0), "b": dist.LogNormal(0.0, 1.0)})


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.label)
def test_what_cannot_be_meant_is_refused_with_the_remedy(case):
    assert_refused(case)
