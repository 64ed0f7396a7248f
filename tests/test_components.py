"""The contract that every component of the catalogue keeps, and its formula against independent references."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.special
import torch
from astropy import units as u
from astropy.modeling.functional_models import Gaussian2D, KingProjectedAnalytic1D, Moffat2D, Sersic2D
from oracles import Contoured, Moffat, blurred, error
from pyro import poutine
from scipy.interpolate import RegularGridInterpolator
from test_malformed_inputs import Case, assert_refused

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.models.polynomial_sky import terms_of
from bayesprof.models.sersic import sersic_b
from bayesprof.rendering import renderer_for

POSITION = {"x": 17.3, "y": 11.8}
BRIGHT = {**POSITION, "flux": 500.0}
ROUND = {"ellipticity": [0.2, 0.1]}
GALAXY = {**POSITION, "flux": 500.0, "r_eff": 3.0, "ellipticity": [0.2, 0.1]}


@dataclass(frozen=True)
class Row:
    """One component: its function, its light, and a value for each parameter, in the order of its sites; `constants`:
    of those that are held by default.
    """

    function: Callable[..., Any]
    light: Callable[..., Any]
    values: dict[str, Any]
    constants: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def source(self) -> Any:
        """The light of the values."""
        return self.light(**self.values, **self.constants)


@functools.wraps(models.galaxy_with_nucleus)
def nucleated_sersic(*, nucleus_fraction: Any = None, **galaxy: Any) -> Any:
    """A galaxy with a nucleus whose parameters are all keywords."""
    return models.galaxy_with_nucleus(models.sersic(**galaxy), nucleus_fraction=nucleus_fraction)


SHAPES = (
    (models.boxiness, models.Boxiness),
    (models.fourier_modes, models.FourierModes),
    (models.outer_truncation, models.OuterTruncation),
    (models.inner_truncation, models.InnerTruncation),
    (models.log_spiral, models.LogSpiral),
    (models.power_spiral, models.PowerSpiral),
    (models.warp, models.Warp),
)
"""Shapes of components and of lights, which are tested with :mod:`test_shapes`."""


def shaped(**values: Any) -> Any:
    """An exponential with boxy contours, as a component of its own."""
    boxiness = values.pop("boxiness", None)
    return models.shaped(models.exponential(**values), models.boxiness(boxiness=boxiness))


def shaped_light(*, boxiness: Any, **values: Any) -> models.Shaped:
    return models.Shaped(models.Exponential(**values), [models.Boxiness(boxiness)])


shaped_light.__name__ = "Shaped"


def bar_light(*, boxiness: Any, r_out: Any, width_out: Any, **values: Any) -> models.Shaped:
    shapes = [models.Boxiness(boxiness), models.OuterTruncation(r_out, width_out)]
    return models.Shaped(models.Sersic(**values), shapes)


bar_light.__name__ = "Shaped"

NODES = [[1.0, 2.0, 0.5], [-0.3, 4.0, 1.5]]
BASIS = np.random.default_rng(6).normal(1.0, 1.0, (2, 26, 33))


def freeform(**values: Any) -> Any:
    return models.freeform((2, 3), 4.0, x=16.0, y=12.0, **values)


def freeform_light(*, values: Any) -> models.Freeform:
    return models.Freeform(values, 16.0, 12.0, 4.0)


def basis_images(**values: Any) -> Any:
    return models.basis_images(BASIS, **values)


def basis_images_light(*, weights: Any) -> models.BasisImages:
    return models.BasisImages(weights, BASIS)


KNOTS = [0.3, 0.5, 0.75, 1.2, 1.8, 2.7, 4.2, 6.5, 10.0, 15.0]

FEW_KNOTS = [0.5, 1.2, 2.7, 5.0, 10.0]
ALONG = [
    [14.0, 12.0, 8.0, 2.5, 0.12],
    [13.0, 12.5, 9.0, 2.0, 0.10],
    [15.0, 11.0, 7.0, 3.0, 0.20],
    [14.0, 13.0, 8.5, 2.2, 0.15],
]


def rays(**values: Any) -> Any:
    return models.rays(4, knot_count=5, **values)


def wedges(**values: Any) -> Any:
    return models.wedges(4, knot_count=5, **values)


freeform_light.__name__, basis_images_light.__name__ = "Freeform", "BasisImages"

CATALOGUE = [
    Row(models.sersic, models.Sersic, {**POSITION, "flux": 500.0, "r_eff": 3.0, "n": 1.7, "ellipticity": [0.2, 0.1]}),
    Row(models.exponential, models.Exponential, GALAXY),
    Row(models.de_vaucouleurs, models.DeVaucouleurs, GALAXY),
    Row(models.gaussian, models.Gaussian, GALAXY),
    Row(
        models.moffat, models.Moffat, {**POSITION, "flux": 500.0, "r_eff": 3.0, "beta": 2.7, "ellipticity": [0.2, 0.1]}
    ),
    Row(
        models.edge_on_disk,
        models.EdgeOnDisk,
        {**POSITION, "flux": 500.0, "scale_length": 3.0, "thickness": 0.3, "sech_power": 1.2, "theta": 0.4},
    ),
    Row(
        models.inclined_disk,
        models.InclinedDisk,
        {**POSITION, "flux": 500.0, "scale_length": 3.0, "thickness": 0.3, "cos_inclination": 0.4, "theta": 0.4},
    ),
    Row(
        models.bulge_disk,
        models.BulgeDisk,
        {
            **POSITION,
            "flux": 900.0,
            "bulge_to_total": 0.4,
            "disk_r_eff": 5.0,
            "bulge_to_disk_size": 0.3,
            "bulge_n": 2.3,
            "bulge_ellipticity": [0.05, -0.1],
            "disk_ellipticity": [0.2, 0.1],
        },
    ),
    Row(
        models.bulge_disk_bar,
        models.BulgeDiskBar,
        {
            **POSITION,
            "flux": 900.0,
            "bulge_to_total": 0.2,
            "bar_to_bar_disk": 0.3,
            "disk_r_eff": 6.0,
            "bar_to_disk_size": 0.5,
            "bulge_to_bar_size": 0.4,
            "bulge_n": 2.3,
            "bar_n": 0.7,
            "bulge_ellipticity": [0.05, -0.1],
            "disk_ellipticity": [0.2, 0.1],
            "bar_ellipticity": [-0.3, 0.4],
        },
    ),
    Row(
        nucleated_sersic,
        models.GalaxyWithNucleus,
        {
            **POSITION,
            "flux": 500.0,
            "nucleus_fraction": 0.2,
            "r_eff": 3.0,
            "n": 1.7,
            "ellipticity": [0.2, 0.1],
        },
    ),
    Row(shaped, shaped_light, {**POSITION, "flux": 500.0, "r_eff": 3.0, "ellipticity": [0.2, 0.1], "boxiness": 0.3}),
    Row(
        models.bar,
        bar_light,
        {
            **POSITION,
            "flux": 500.0,
            "r_eff": 4.0,
            "n": 0.6,
            "boxiness": 0.8,
            "r_out": 7.0,
            "width_out": 1.5,
            **ROUND,
        },
    ),
    Row(models.king, models.King, {**BRIGHT, "r_core": 2.0, "r_tidal": 14.0, "alpha": 1.8, **ROUND}),
    Row(
        models.nuker,
        models.Nuker,
        {**POSITION, "surface_brightness": 12.0, "r_break": 2.5, "alpha": 1.8, "beta": 2.4, "gamma": 0.3, **ROUND},
        {"r_cut": 80.0},
    ),
    Row(
        models.core_sersic,
        models.CoreSersic,
        {**BRIGHT, "r_eff": 5.0, "n": 2.2, "r_break": 1.6, "gamma": 0.2, "alpha": 3.0, **ROUND},
    ),
    Row(models.ferrer, models.Ferrer, {**BRIGHT, "r_out": 9.0, "alpha": 1.4, "beta": 0.3, **ROUND}),
    Row(
        models.broken_exponential,
        models.BrokenExponential,
        {**BRIGHT, "h_inner": 4.0, "h_outer": 1.6, "r_break": 6.0, "alpha": 1.1, **ROUND},
    ),
    Row(models.spergel, models.Spergel, {**BRIGHT, "r_eff": 3.0, "nu": 0.2, **ROUND}),
    Row(models.gaussian_ring, models.GaussianRing, {**BRIGHT, "r_ring": 5.0, "width": 1.2, **ROUND}),
    Row(
        models.gaussian_ellipsoid,
        models.GaussianEllipsoid,
        {
            **BRIGHT,
            "sigma": 3.0,
            "b_to_a": 0.8,
            "c_to_b": 0.6,
            "theta": 0.4,
            "cos_inclination": 0.5,
            "azimuth": 0.7,
        },
    ),
    Row(
        models.multi_gaussian,
        models.MultiGaussian,
        {**POSITION, "fluxes": [40.0, 90.0, 160.0, 120.0, 60.0, 30.0], **ROUND},
        {"sigmas": [0.5, 0.9, 1.6, 2.8, 5.0, 9.0]},
    ),
    Row(
        models.spline,
        models.Spline,
        {**POSITION, "surface_brightness": [14.0, 13.0, 12.0, 10.0, 8.0, 5.0, 2.4, 0.7, 0.12, 0.01], **ROUND},
        {"knots": KNOTS},
    ),
    Row(rays, models.Rays, {**POSITION, "surface_brightness": ALONG, **ROUND}, {"knots": FEW_KNOTS}),
    Row(wedges, models.Wedges, {**POSITION, "surface_brightness": ALONG, **ROUND}, {"knots": FEW_KNOTS}),
    Row(models.point_source, models.PointSource, {**POSITION, "flux": 500.0}),
    Row(freeform, freeform_light, {"values": NODES}),
    Row(basis_images, basis_images_light, {"weights": [1.5, -0.4]}),
    Row(models.flat_sky, models.FlatSky, {"level": 2.5}),
    Row(models.plane_sky, models.PlaneSky, {"level": 2.5, "slope_x": 0.03, "slope_y": -0.02}),
    Row(models.bilinear_sky, models.BilinearSky, {"levels": [[2.5, 2.7, 3.0], [2.1, 2.2, 2.0], [2.4, 2.6, 2.5]]}),
    Row(models.polynomial_sky, models.PolynomialSky, {"coefficients": [2.5, 0.3, -0.2, 0.1, 0.4, -0.3]}),
]
GALAXIES = [row for row in CATALOGUE if "ellipticity" in row.values]
PRIORS = [(row, name) for row in CATALOGUE for name in row.values]
PRIORS += [(row, name) for row in GALAXIES for name in ("q", "theta")]


def by_name(rows: list[Row]) -> Any:
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.name)


@pytest.fixture(scope="module")
def image(simulated) -> bp.Image:
    return simulated(models.Sersic(17.3, 11.8, 500.0, 3.0, 1.7, ellipticity=[0.2, 0.1]) + models.FlatSky(2.5))


def double(value: Any) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def nodes_of(component: Any, image: bp.Image, values: dict[str, Any] | None = None) -> dict[str, Any]:
    """Sample sites of the component on the image."""
    bound = poutine.condition(component.bind(image), data={name: double(v) for name, v in (values or {}).items()})
    nodes = poutine.trace(bound).get_trace().nodes
    return {name: node for name, node in nodes.items() if node["type"] == "sample"}


def component_knots(row: Row, image: bp.Image) -> torch.Tensor:
    """Radii of the knots that are held by default."""
    return row.function().bind(image).sources["knots"]


def prior_of(row: Row, name: str, image: bp.Image) -> tuple[Any, str]:
    """Default prior of a parameter, and its formula in words."""
    extra = {"q": 0.5, "theta": 0.2}
    in_place = name in extra and name not in row.values
    component = row.function(**({key: extra[key] for key in extra if key != name} if in_place else {}))
    default = component.parameters[name].default(bp.measurement.measure(image), image)
    return nodes_of(component, image)[name]["fn"], default.formula


# -- the contract


def test_catalogue_is_the_whole_of_models():
    """But for the PSFs (test_psf_models.py), what needs several images (test_many_images.py) and many sources at once
    (test_sources.py).
    """
    names = {name for name in models.__all__ if not name.lower().endswith("psf")}
    names -= {"describe", "alignment", "moving_star", "sources"}
    shapes, their_lights = ({shape.__name__ for shape in kind} for kind in zip(*SHAPES, strict=True))
    assert {name for name in names if name.islower()} == {row.name for row in CATALOGUE} | shapes
    lights = {row.light.__name__ for row in CATALOGUE} | their_lights
    assert {name for name in names if not name.islower()} == lights | {"Ellipticity"}


@by_name(CATALOGUE)
def test_sites_are_the_parameters_in_their_order(row, image):
    nodes = nodes_of(row.function(), image)
    latent = [name for name, node in nodes.items() if not node["is_observed"]]
    assert latent == list(row.values)
    computed = [name for name, node in nodes.items() if node["infer"].get("_deterministic")]
    assert computed == list(row.function().derived)
    shapes = [name for name in row.values if name.endswith("ellipticity")]
    assert {name.replace("ellipticity", one) for name in shapes for one in ("q", "theta")} <= set(computed)


@by_name(CATALOGUE)
def test_image_and_gradient_are_finite_and_every_parameter_matters(row, image):
    values = {name: double(value).requires_grad_() for name, value in row.values.items()}
    rendered = renderer_for(image)(row.light(**values, **row.constants))
    assert rendered.shape == image.shape
    assert bool(rendered.isfinite().all())
    weights = torch.randn(image.shape, dtype=torch.float64)
    for name, gradient in zip(values, torch.autograd.grad((rendered * weights).sum(), values.values()), strict=True):
        assert bool(gradient.isfinite().all()), name
        assert bool((gradient != 0).all()), name


@by_name(CATALOGUE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_default_priors_are_proper_and_draw_inside_their_support(row, image, dtype):
    component = row.function().bind(image.to(dtype))
    for _ in range(20):
        trace = poutine.trace(component).get_trace()
        trace.compute_log_prob()
        for name in row.values:
            node = trace.nodes[name]
            assert node["value"].dtype == dtype
            assert bool(torch.as_tensor(node["fn"].support.check(node["value"])).all())
            assert bool(node["log_prob"].isfinite().all())
        assert isinstance(trace.nodes["_RETURN"]["value"], bp.light.Light)


@pytest.mark.parametrize(("row", "name"), PRIORS, ids=[f"{row.name}.{name}" for row, name in PRIORS])
def test_default_prior_is_the_one_its_formula_states(row, name, image):
    prior, formula = prior_of(row, name, image)
    prior = prior.base_dist if isinstance(prior, dist.Independent) else prior  # of each entry
    numbers = [float(text) for text in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", formula)]
    if name.endswith("ellipticity"):
        assert "isotropic" in formula
        w = prior.sample((40_000,))
        size = w.norm(dim=-1)
        in_plane = w / torch.sqrt(1 - size**2)[:, None]
        assert in_plane.std(dim=0).tolist() == pytest.approx([numbers[-1]] * 2, rel=0.02)
        assert in_plane.mean(dim=0).tolist() == pytest.approx([0.0, 0.0], abs=0.01)
    elif formula.startswith("Matern 3/2"):
        _, _, sd, length, _ = numbers
        covariance = prior.base_dist.covariance_matrix
        scaled = math.sqrt(3) * 4.0 / length  # of neighbours
        assert covariance.diagonal().sqrt().tolist() == pytest.approx([sd] * 6, rel=1e-3)
        assert covariance[0, 1].item() == pytest.approx(sd**2 * (1 + scaled) * math.exp(-scaled), rel=2e-3)
    elif formula.startswith("exp of a Matern 3/2"):
        _, _, sd, length = numbers
        found, radii = bp.measurement.measure(image), component_knots(row, image)
        q = (1 - math.hypot(*found.ellipticity)) / (1 + math.hypot(*found.ellipticity))
        unit = models.Exponential(0.0, 0.0, found.flux, found.r_eff, q=q)
        mean = torch.log(unit.brightness_at(radii[None], torch.zeros(1, 1, dtype=torch.float64)))[0]
        torch.testing.assert_close(prior.base_dist.loc, mean.expand(prior.base_dist.loc.shape), rtol=1e-9, atol=1e-9)
        scaled = math.sqrt(3) * math.log(float(radii[1] / radii[0])) / length  # of neighbours
        covariance = prior.base_dist.covariance_matrix
        assert covariance.diagonal().sqrt().tolist() == pytest.approx([sd] * len(covariance), rel=1e-6)
        assert covariance[0, 1].item() == pytest.approx(sd**2 * (1 + scaled) * math.exp(-scaled), rel=1e-6)
    elif formula.startswith("exp of a process"):
        shared, apart, _, _, length, angle = numbers
        found, radii = bp.measurement.measure(image), component_knots(row, image)
        q = (1 - math.hypot(*found.ellipticity)) / (1 + math.hypot(*found.ellipticity))
        unit = models.Exponential(0.0, 0.0, found.flux, found.r_eff, q=q)
        mean = torch.log(unit.brightness_at(radii[None], torch.zeros(1, 1, dtype=torch.float64)))
        torch.testing.assert_close(prior.base_dist.loc.unflatten(0, (4, 5)), mean.expand(4, 5), rtol=1e-9, atol=1e-9)
        scaled = math.sqrt(3) * math.log(float(radii[1] / radii[0])) / length  # of neighbouring knots
        in_radius = (1 + scaled) * math.exp(-scaled)
        across, opposite = (
            shared**2 + apart**2 * math.exp(-2 * math.sin(turn) ** 2 / angle**2)
            for turn in (0.25 * math.pi, 0.5 * math.pi)
        )
        covariance = prior.base_dist.covariance_matrix.unflatten(0, (4, 5)).unflatten(2, (4, 5))
        assert covariance[0, 0, 0, 1].item() == pytest.approx((shared**2 + apart**2) * in_radius, rel=1e-6)
        assert covariance[2, 3, 2, 3].item() == pytest.approx(shared**2 + apart**2, rel=1e-6)
        assert covariance[0, 0, 1, 0].item() == pytest.approx(across, rel=1e-6)
        assert covariance[0, 1, 3, 2].item() == pytest.approx(across * in_radius, rel=1e-6)
        assert covariance[1, 4, 3, 4].item() == pytest.approx(opposite, rel=1e-6)
    elif formula.startswith("Normal(0, sd)"):
        assert type(prior) is dist.Normal
        assert prior.loc.tolist() == [0.0, 0.0]
        assert prior.scale.tolist() == pytest.approx(numbers[1:3], rel=1e-2)
    elif formula.startswith("LogNormal(ln"):
        assert type(prior) is dist.LogNormal
        np.testing.assert_allclose(prior.loc.exp(), numbers[0], rtol=1e-3)
        np.testing.assert_allclose(prior.scale, numbers[1], rtol=1e-3)
    elif formula.startswith("Normal("):
        each = getattr(prior, "base_dist", prior)
        assert type(each) is dist.Normal
        mean = np.full(each.shape(), numbers[0])
        if "the others about 0" in formula:
            mean[1:] = 0.0
        np.testing.assert_allclose(each.loc, mean, rtol=1e-3, atol=1e-12)
        np.testing.assert_allclose(each.scale, numbers[1], rtol=1e-2)
    elif formula.startswith("Beta("):
        assert type(prior) is dist.Beta
        assert [prior.concentration1.item(), prior.concentration0.item()] == pytest.approx(numbers[:2])
    elif formula.startswith("Uniform("):
        assert type(prior) is dist.Uniform
        assert [prior.low.item(), prior.high.item()] == pytest.approx(numbers[:2], abs=1e-3)
    else:
        low, width, a, b = numbers
        assert formula == f"{low:g} + {width:g} Beta({a:g}, {b:g})"
        assert prior.mean.item() == pytest.approx(low + width * a / (a + b), rel=1e-6)
        assert prior.stddev.item() == pytest.approx(width * math.sqrt(a * b / (a + b + 1)) / (a + b), rel=1e-6)


def test_documented_moments_of_the_default_priors_are_right(image):
    n = prior_of(CATALOGUE[0], "n", image)[0]
    assert (n.mean.item(), n.stddev.item()) == pytest.approx((2.9, 1.7), abs=0.05)
    e = models.Ellipticity(0.4).sample((200_000,)).norm(dim=-1)
    q = (1 - e) / (1 + e)
    assert q.median().item() == pytest.approx(0.40, abs=0.01)
    stated = float(re.search(r"95% have q > ([\d.]+)", models.Ellipticity.__doc__).group(1))
    assert (q > stated).double().mean().item() == pytest.approx(0.95, abs=0.01)


def test_ellipticity_prior_is_isotropic_and_normalised():
    prior = models.Ellipticity(double(0.4))
    e = prior.sample((100_000,))
    angle = torch.atan2(e[:, 1], e[:, 0])
    assert torch.cos(angle).mean().item() == pytest.approx(0.0, abs=0.01)
    assert torch.sin(2 * angle).mean().item() == pytest.approx(0.0, abs=0.01)
    r = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    density = torch.exp(prior.log_prob(torch.stack([r, torch.zeros_like(r)], dim=-1)))
    assert (2 * math.pi * r * density).mean().item() == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(ValueError, match="support"):
        models.Ellipticity(double(0.4)).log_prob(double([0.9, 0.9]))


def test_ellipticity_prior_takes_batches():
    prior = models.Ellipticity(torch.full((3,), 0.4, dtype=torch.float64))
    assert prior.batch_shape == (3,)
    assert prior.event_shape == (2,)
    assert prior.sample((5,)).shape == (5, 3, 2)
    assert prior.expand([4, 3]).sample().shape == (4, 3, 2)
    assert prior.log_prob(prior.sample()).shape == (3,)


@by_name(CATALOGUE)
def test_every_parameter_may_be_held_or_given_a_prior(row, image):
    for name, value in row.values.items():
        held = nodes_of(row.function(**{name: value}), image)
        assert name not in held
        priors = {
            "r_eff": dist.LogNormal(1.0, 0.1),
            "n": dist.Uniform(0.5, 4.0),
        }
        is_vector = name.endswith("ellipticity")
        normal = dist.Normal(double(value), 0.1).to_event(double(value).ndim)
        prior = models.Ellipticity(0.2) if is_vector else priors.get(name, normal)
        assert nodes_of(row.function(**{name: prior}), image)[name]["fn"] is prior
    held = row.function(**row.values, **row.constants).bind(image)
    every = row.function(**row.values, **row.constants)
    assert list(nodes_of(every, image)) == list(every.derived)
    torch.testing.assert_close(renderer_for(image)(held()), renderer_for(image)(row.source), rtol=1e-12, atol=1e-12)


@by_name(CATALOGUE)
@pytest.mark.parametrize(
    "kind", [float, np.float32, torch.tensor, np.asarray], ids=["float", "numpy", "tensor", "array"]
)
def test_held_values_of_every_number_type_give_the_same_image(kind, row, image):
    values = {name: value if isinstance(value, list) else kind(value) for name, value in row.values.items()}
    bound = row.function(**values, **row.constants).bind(image)
    expected = renderer_for(image)(row.source)
    torch.testing.assert_close(renderer_for(image)(bound()), expected, rtol=1e-6, atol=1e-5)


@by_name(GALAXIES)
def test_axis_ratio_and_angle_may_stand_in_for_ellipticity(row, image):
    held = {name: value for name, value in row.values.items() if name != "ellipticity"} | row.constants
    size, theta = math.hypot(0.2, 0.1), 0.5 * math.atan2(0.1, 0.2)
    q = (1 - size) / (1 + size)
    by_angle = renderer_for(image)(row.function(**held, q=q, theta=theta).bind(image)())
    torch.testing.assert_close(by_angle, renderer_for(image)(row.source), rtol=1e-9, atol=1e-9)
    assert {"q", "theta"} <= set(nodes_of(row.function(q=dist.Uniform(0.2, 1.0)), image))
    assert "ellipticity" not in nodes_of(row.function(q=dist.Uniform(0.2, 1.0)), image)
    assert "theta" in nodes_of(row.function(q=0.5), image)


@by_name(GALAXIES)
def test_quantities_are_converted(row, image):
    held = {name: value for name, value in row.values.items() if name != "ellipticity"} | row.constants
    plain = row.function(**held, q=0.5, theta=math.radians(30.0)).bind(image)
    units = row.function().bind(image).units
    sizes = {name: value * u.pix for name, value in held.items() if units[name] == "pixel"}
    quantities = row.function(**{**held, **sizes}, q=0.5, theta=30 * u.deg).bind(image)
    torch.testing.assert_close(renderer_for(image)(quantities()), renderer_for(image)(plain()), rtol=1e-12, atol=1e-12)


@by_name(CATALOGUE)
def test_units_are_stated_for_every_site(row, image):
    units = row.function().bind(image).units
    assert set(row.values) <= set(units)
    assert all("{" not in unit for unit in units.values())
    in_jansky = bp.Image(image.data.numpy() * u.Jy, sigma=0.5, psf=image.psf)
    bright = row.function().bind(in_jansky).units
    assert set(row.function().derived) <= set(units)
    names = ("flux", "fluxes", "surface_brightness", "level", "levels", "coefficients", "values", "weights")
    assert bright[next(name for name in names if name in row.values)] == "Jy"


@by_name(CATALOGUE)
def test_starts_lie_inside_the_priors(row, image):
    scene = bp.Scene(image, it=row.function())
    starts = scene.initial_values()
    for name, node in nodes_of(row.function(), image).items():
        if not node["is_observed"]:
            assert math.isfinite(float(node["fn"].log_prob(starts[f"it.{name}"]))), name


def test_what_was_measured_starts_a_fit_and_of_the_rest_the_given_prior_knows_more(image):
    flux = float(bp.Scene(image, it=models.sersic()).initial_values()["it.flux"])

    def starts(**priors):
        return set(bp.Scene(image, it=models.sersic(q=0.5, theta=0.0, **priors)).initial_values())

    two_away = {"flux": dist.Normal(flux - 2.0, 1.0), "n": dist.Normal(3.5, 1.0)}  # n starts from 1.5 by default
    assert starts(**two_away) == {"it.x", "it.y", "it.flux", "it.r_eff"}
    assert starts(n=dist.Normal(2.3, 1.0), flux=dist.Normal(flux - 5.0, 1.0)) == {"it.x", "it.y", "it.r_eff", "it.n"}
    each = {name: bp.per_image(prior) for name, prior in two_away.items()}
    assert starts(**each) == {"it.x", "it.y", "it.flux", "it.r_eff"}


def test_spiral_starts_from_the_median_of_a_given_prior_of_its_turn_and_to_one_side_where_that_is_none(image):
    def start(**turn):
        shape = models.log_spiral(r_bar=1.5, **turn)
        scene = bp.Scene(image, it=models.shaped(models.exponential(), shape, models.fourier_modes((2,))))
        posterior = inference.Posterior(scene)
        return float(posterior.constrain(posterior.initial())["it.winding"])

    assert start() == 1.0
    assert start(winding=dist.Normal(0.0, 2.0)) == 1.0  # a turn of 0 is a saddle
    assert start(winding=dist.LogNormal(1.0, 0.2)) == pytest.approx(math.exp(1.0), rel=0.1)


@by_name(CATALOGUE)
def test_component_without_a_scene_says_what_to_do(row):
    with pytest.raises(TypeError, match=r"bp\.Scene"):
        row.function()()


# -- references


@pytest.mark.parametrize("n", [0.3, 0.5, 1.0, 2.5, 4.0, 7.9])
@pytest.mark.parametrize(("q", "theta"), [(1.0, 0.0), (0.6, 0.7), (0.3, 2.5)])
def test_sersic_brightness_agrees_with_astropy(n, q, theta):
    flux, r_eff = 120.0, 4.0
    b = scipy.special.gammaincinv(2 * n, 0.5)
    amplitude = flux * b ** (2 * n) * math.exp(-b) / (2 * math.pi * n * q * r_eff**2 * scipy.special.gamma(2 * n))
    reference = Sersic2D(amplitude, r_eff, n, 13.2, 9.7, ellip=1 - q, theta=theta * u.rad)
    y, x = np.mgrid[:20, :31].astype(float)
    light = models.Sersic(13.2, 9.7, flux, r_eff, n, q=q, theta=theta)
    found = light.brightness_at(torch.from_numpy(x - 13.2), torch.from_numpy(y - 9.7))
    np.testing.assert_allclose(found, reference(x, y), rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("n", [0.5, 1.0, 2.0])
def test_rendered_sersic_agrees_with_oversampled_astropy(n):
    b = scipy.special.gammaincinv(2 * n, 0.5)
    amplitude = 100.0 * b ** (2 * n) * math.exp(-b) / (2 * math.pi * n * 0.6 * 9.0 * scipy.special.gamma(2 * n))
    reference = Sersic2D(amplitude, 3.0, n, 15.3, 11.6, ellip=0.4, theta=0.7 * u.rad)
    fine = 40
    y, x = ((np.arange(size * fine) + 0.5) / fine - 0.5 for size in (24, 33))
    expected = reference(*np.meshgrid(x, y)).reshape(24, fine, 33, fine).mean(axis=(1, 3))
    image = renderer_for(bp.Image(np.zeros((24, 33))))(
        models.Sersic(15.3, 11.6, 100.0, 3.0, n, q=0.6, theta=0.7)
    ).numpy()
    assert np.linalg.norm(image - expected) / np.linalg.norm(expected) < 3e-4  # that of the 40x40 points of a pixel


PSF = Moffat(3.5, 3.5)
CENTRE, Q, THETA = (24.3, 19.6), 0.6, 0.7


def elliptical(profile: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The surface of axis ratio `Q` and angle `THETA` whose brightness is a function of the elliptical radius."""

    def surface(dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        cos, sin = math.cos(THETA), math.sin(THETA)
        return np.asarray(profile(np.hypot(dx * cos + dy * sin, (dy * cos - dx * sin) / Q)))

    return surface


ELLIPSE = {"q": Q, "theta": THETA}
BY_ASTROPY = {
    "sersic, n 1": (
        models.Sersic(*CENTRE, 1.0, 3.0, 1.0, **ELLIPSE),
        Sersic2D(1.0, 3.0, 1.0, 0.0, 0.0, ellip=1 - Q, theta=THETA * u.rad),
    ),
    "sersic, n 2": (
        models.Sersic(*CENTRE, 1.0, 1.5, 2.0, **ELLIPSE),
        Sersic2D(1.0, 1.5, 2.0, 0.0, 0.0, ellip=1 - Q, theta=THETA * u.rad),
    ),
    "exponential": (
        models.Exponential(*CENTRE, 1.0, 2.0, **ELLIPSE),
        Sersic2D(1.0, 2.0, 1.0, 0.0, 0.0, ellip=1 - Q, theta=THETA * u.rad),
    ),
    "gaussian": (
        models.Gaussian(*CENTRE, 1.0, 3.0 * math.sqrt(2 * math.log(2)), **ELLIPSE),
        Gaussian2D(1.0, 0.0, 0.0, 3.0, 3.0 * Q, theta=THETA * u.rad),
    ),
    "moffat": (
        # half of the light of (1 + (R / 4)^2)^-4.5 is within 4 sqrt(2^(1 / 3.5) - 1)
        models.Moffat(*CENTRE, 1.0, 4.0 * math.sqrt(2 ** (1 / 3.5) - 1), 4.5, **ELLIPSE),
        elliptical(lambda radius: Moffat2D(1.0, 0.0, 0.0, 4.0, 4.5)(radius, 0.0)),
    ),
    "king": (
        models.King(*CENTRE, 1.0, 2.0, 14.0, 2.0, **ELLIPSE),
        elliptical(KingProjectedAnalytic1D(1.0, 2.0, 14.0)),
    ),
}
"""Lights of flux 1, and the brightness that astropy.modeling gives about their centre, in any unit."""


@pytest.mark.parametrize("name", BY_ASTROPY)
def test_image_with_a_psf_agrees_with_that_of_a_model_of_astropy(name):
    source, brightness = BY_ASTROPY[name]
    expected = blurred(Contoured(*CENTRE, Q, brightness), PSF, (41, 52))
    found = renderer_for(bp.Image(np.zeros((41, 52)), psf=PSF.stamp((61, 61))))(source).numpy()
    # astropy's amplitudes aren't fluxes; that ours has the flux it says is another test's
    assert error(found * (found * expected).sum() / (found**2).sum(), expected) < 1e-4


def test_b_of_n_agrees_with_scipy():
    n = torch.linspace(0.25, 10.0, 400, dtype=torch.float64)
    np.testing.assert_allclose(sersic_b(n), scipy.special.gammaincinv(2 * n.numpy(), 0.5), rtol=2e-12)
    slope = torch.func.vmap(torch.func.grad(sersic_b))(n)
    step = 1e-5
    difference = scipy.special.gammaincinv(2 * n[1:-1].numpy() + 2 * step, 0.5) - scipy.special.gammaincinv(
        2 * n[1:-1].numpy() - 2 * step, 0.5
    )
    np.testing.assert_allclose(slope[1:-1], difference / (2 * step), rtol=1e-6)


@pytest.mark.parametrize(("light", "n"), [(models.Exponential, 1.0), (models.DeVaucouleurs, 4.0)])
@pytest.mark.parametrize("with_psf", [True, False], ids=["PSF", "no PSF"])
def test_named_profiles_are_sersic_profiles(light, n, with_psf, moffat_psf):
    render = renderer_for(bp.Image(np.zeros((26, 33)), psf=moffat_psf if with_psf else None))
    shape = {"q": 0.4, "theta": 1.1}
    found, expected = (
        render(light(15.3, 11.6, 100.0, 3.0, **shape)),
        render(models.Sersic(15.3, 11.6, 100.0, 3.0, n, **shape)),
    )
    # 5e-7 of the flux is what the table of the transform promises
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6 * float(expected.norm()))


def test_point_source_is_the_psf_at_a_pixel(moffat_psf):
    render = renderer_for(bp.Image(np.zeros((26, 33)), psf=moffat_psf))
    found = render(models.PointSource(15.0, 11.0, 100.0)).numpy()
    expected = np.zeros((26, 33))
    expected[6:17, 9:22] = 100.0 * moffat_psf
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_skies_follow_their_formulas(image):
    render = renderer_for(image)
    y, x = np.mgrid[:26, :33]
    np.testing.assert_allclose(render(models.FlatSky(2.5)), np.full((26, 33), 2.5), rtol=1e-15)
    plane = 2.5 + 0.03 * (x - 16.0) - 0.02 * (y - 12.5)
    np.testing.assert_allclose(render(models.PlaneSky(2.5, 0.03, -0.02)), plane, rtol=1e-13)
    by_degree_1 = models.PolynomialSky([2.5, 0.03 * 16.0, -0.02 * 12.5])
    np.testing.assert_allclose(render(by_degree_1), plane, rtol=1e-13)


def test_bilinear_sky_agrees_with_scipy(image):
    levels = np.random.default_rng(5).normal(size=(2, 4, 3))
    nodes = np.linspace(0, 25, 4), np.linspace(0, 32, 3)
    pixels = np.stack(np.meshgrid(np.arange(26), np.arange(33), indexing="ij"), axis=-1)
    expected = [RegularGridInterpolator(nodes, plane)(pixels) for plane in levels]
    np.testing.assert_allclose(renderer_for(image)(models.BilinearSky(levels)), expected, atol=1e-13)


@pytest.mark.parametrize("degree", [0, 1, 4])
def test_polynomial_sky_agrees_with_numpy(degree, image):
    x, y = np.meshgrid(np.linspace(-1, 1, 33), np.linspace(-1, 1, 26))
    terms = terms_of(degree)
    coefficients = np.random.default_rng(5).normal(size=(2, len(terms)))
    square = np.zeros((degree + 1, degree + 1, 2))
    for (i, j), pair in zip(terms, coefficients.T, strict=True):
        square[i, j] = pair
    expected = np.polynomial.legendre.legval2d(x, y, square)
    np.testing.assert_allclose(renderer_for(image)(models.PolynomialSky(coefficients)), expected, atol=1e-12)


@pytest.mark.parametrize(
    "rows",
    [
        ("sersic", "flat_sky"),
        ("exponential", "plane_sky"),
        ("de_vaucouleurs",),
        ("point_source",),
        ("gaussian", "bilinear_sky"),
        ("exponential", "polynomial_sky"),
        ("king",),
        ("ferrer",),
        ("nuker",),
        pytest.param(("core_sersic",), marks=pytest.mark.slow),
        ("broken_exponential",),
        ("spergel",),
        ("gaussian_ring",),
        ("multi_gaussian",),
        ("spline",),
        pytest.param(("rays",), marks=pytest.mark.slow),
        pytest.param(("wedges",), marks=pytest.mark.slow),
        pytest.param(("bar",), marks=pytest.mark.slow),
        ("moffat",),
        ("basis_images",),
    ],
    ids=" and ".join,
)
def test_fit_recovers_what_was_simulated(rows, simulated):
    chosen = [row for row in CATALOGUE if row.name in rows]
    held = {"sky": models.flat_sky(level=0.0)} if len(rows) == 1 else {}
    image = simulated(sum(row.source for row in chosen), sigma=0.3)
    fit = inference.lm(bp.Scene(image, **held, **{row.name: row.function(**row.constants) for row in chosen}))
    assert fit.converged, fit.message
    assert fit.chi2 == pytest.approx(fit.dof, abs=4 * math.sqrt(2 * fit.dof))
    for row in chosen:
        for name, value in row.values.items():
            site = f"{row.name}.{name}"
            assert (np.abs(fit.params[site] - np.array(value)) < 4 * np.array(fit.std[site])).all(), site


# -- what is refused

BLANK = bp.Image(np.zeros((20, 30)), sigma=1.0)

MALFORMED = [
    Case("text", lambda: models.sersic(n="4"), TypeError, ("sersic: n", "'4'"), "a number or tensor (held)"),
    Case("bool", lambda: models.sersic(flux=True), TypeError, ("sersic: flux", "True"), "a Pyro distribution"),
    Case("list of text", lambda: models.flat_sky(level=["a"]), TypeError, ("flat_sky: level", "list"), "default prior"),
    Case("distribution class", lambda: models.sersic(x=dist.Normal), TypeError, ("sersic: x",), "a Pyro distribution"),
    Case(
        "torch distribution",
        lambda: models.sersic(n=torch.distributions.Normal(2.0, 1.0)),
        TypeError,
        ("torch.distributions.Normal",),
        "pyro.distributions.Normal",
    ),
    Case("n too large", lambda: models.sersic(n=12.0), ValueError, ("n in [0.25, 10.0]", "12.0"), "correct the value"),
    Case("n NaN", lambda: models.sersic(n=math.nan), ValueError, ("n in [0.25, 10.0]", "nan"), "give a prior"),
    Case("r_eff zero", lambda: models.exponential(r_eff=0.0), ValueError, ("exponential", "r_eff > 0"), "correct"),
    Case("r_eff infinite", lambda: models.exponential(r_eff=math.inf), ValueError, ("r_eff > 0", "inf"), "correct"),
    Case("r_eff negative", lambda: models.de_vaucouleurs(r_eff=-2.0), ValueError, ("r_eff > 0", "-2.0"), "correct"),
    Case("q zero", lambda: models.sersic(q=0.0), ValueError, ("q in (0, 1]", "0.0"), "correct"),
    Case("q above 1", lambda: models.sersic(q=1.2), ValueError, ("q in (0, 1]", "1.2"), "correct"),
    Case("theta NaN", lambda: models.sersic(theta=math.nan), ValueError, ("theta finite", "nan"), "correct"),
    Case("x NaN", lambda: models.point_source(x=math.nan), ValueError, ("point_source", "x finite"), "correct"),
    Case("flux infinite", lambda: models.point_source(flux=math.inf), ValueError, ("flux finite",), "correct"),
    Case("level NaN", lambda: models.flat_sky(level=math.nan), ValueError, ("level finite",), "correct"),
    Case("one level", lambda: models.BilinearSky([[1.0]]), ValueError, ("BilinearSky", "(1, 1)"), "FlatSky"),
    Case("one row", lambda: models.bilinear_sky(nodes=(1, 3)), ValueError, ("nodes", "(1, 3)"), "nodes=(3, 3)"),
    Case("nodes a number", lambda: models.bilinear_sky(nodes=3), ValueError, ("(rows, columns)", "3"), "nodes=(3, 3)"),
    Case("other levels", lambda: models.bilinear_sky(levels=[1.0, 2.0]), ValueError, ("(3, 3)", "(2,)"), "row, column"),
    Case("degree", lambda: models.polynomial_sky(degree=-1), ValueError, ("degree", "-1"), "degree=2"),
    Case("coefficients", lambda: models.PolynomialSky([1.0, 2.0]), ValueError, ("(2,)",), "1, 3, 6, 10"),
    Case("slope NaN", lambda: models.plane_sky(slope_x=math.nan), ValueError, ("slope_x finite",), "correct"),
    Case("round ellipticity", lambda: models.sersic(ellipticity=0.3), ValueError, ("shape (2,)", "()"), "(e1, e2)"),
    Case("three ellipticities", lambda: models.sersic(ellipticity=[0.1, 0.1, 0.1]), ValueError, ("(3,)",), "(e1, e2)"),
    Case("long ellipticity", lambda: models.sersic(ellipticity=[0.8, 0.7]), ValueError, ("shorter than 1",), "correct"),
    Case(
        "two shapes",
        lambda: models.sersic(ellipticity=[0.1, 0.0], q=0.5),
        ValueError,
        ("either ellipticity or q",),
        "leave one of them out",
    ),
    Case(
        "two shapes of a light",
        lambda: models.Sersic(1, 2, 3, 4, 1, q=0.5, ellipticity=[0.1, 0.0]),
        ValueError,
        ("Sersic", "either ellipticity or q"),
        "leave one of them out",
    ),
    Case(
        "shape of a light's ellipticity",
        lambda: models.Sersic(1, 2, 3, 4, 1, ellipticity=0.3),
        ValueError,
        ("(..., 2)",),
        "(e1, e2)",
    ),
    Case("beta of Ferrer", lambda: models.ferrer(beta=2.0), ValueError, ("beta in [-2, 1.9]", "2.0"), "correct"),
    Case("cusp", lambda: models.nuker(gamma=1.6), ValueError, ("gamma in [0, 1.4]", "1.6"), "correct"),
    Case("boxy bar", lambda: models.bar(boxiness=5.0), ValueError, ("bar", "in [-1, 4]", "5.0"), "correct"),
    Case("nu", lambda: models.spergel(nu=-0.9), ValueError, ("nu in [-0.7, 4]", "-0.9"), "correct"),
    Case("tidal radius", lambda: models.king(r_tidal=0.0), ValueError, ("r_tidal > 0", "0.0"), "correct"),
    Case("no Gaussians", lambda: models.multi_gaussian(count=0), ValueError, ("count", "0"), "how many"),
    Case("widths", lambda: models.multi_gaussian(sigmas=[1.0, 2.0]), ValueError, ("sigmas", "(6,)", "(2,)"), "array"),
    Case(
        "negative width",
        lambda: models.multi_gaussian(count=2, sigmas=[1.0, -2.0]),
        ValueError,
        ("sigmas > 0 each",),
        "correct",
    ),
    Case(
        "fluxes and widths",
        lambda: models.MultiGaussian(1.0, 2.0, [1.0, 2.0], [1.0, 2.0, 3.0]),
        ValueError,
        ("(2,)", "(3,)"),
        "one of each",
    ),
    Case("two knots", lambda: models.spline(knots=[1.0, 2.0]), ValueError, ("three knots", "2"), "add some"),
    Case("drawn knots", lambda: models.spline(knots=dist.Normal(1.0, 1.0)), TypeError, ("knots", "prior"), "radii"),
    Case(
        "descending knots",
        lambda: models.spline(knots=[1.0, 3.0, 2.0]),
        ValueError,
        ("> 0 and ascending", "[1.0, 3.0, 2.0]"),
        "correct",
    ),
    Case(
        "brightness of fewer knots",
        lambda: models.Spline(1.0, 2.0, [1.0, 2.0], [1.0, 2.0, 3.0]),
        ValueError,
        ("(..., 3)", "(2,)"),
        "a value for each knot",
    ),
    Case(
        "dark knot",
        lambda: models.spline(knots=[1.0, 2.0, 3.0], surface_brightness=[1.0, 0.0, 1.0]),
        ValueError,
        ("> 0 each",),
        "correct",
    ),
    Case("one ray", lambda: models.rays(1), ValueError, ("rays", "two profiles", "1"), "models.spline"),
    Case("two knots of rays", lambda: models.rays(knots=[1.0, 2.0]), ValueError, ("rays", "three knots"), "add some"),
    Case("drawn knots of wedges", lambda: models.wedges(knots=dist.Normal(1.0, 1.0)), TypeError, ("prior",), "radii"),
    Case(
        "a single profile",
        lambda: models.Wedges(1.0, 2.0, [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]),
        ValueError,
        ("Wedges", "(3,)"),
        "models.Spline",
    ),
    Case("angle in metres", lambda: models.sersic(theta=3 * u.m), ValueError, ("sersic", "theta", "'m'"), "rad"),
    Case("n with a unit", lambda: models.sersic(n=3 * u.m), ValueError, ("sersic", "n", "'m'"), "no unit"),
    Case(
        "size as a vector",
        lambda: bp.Scene(BLANK, g=models.sersic(r_eff=[1.0, 2.0])),
        ValueError,
        ("r_eff", "(2,)"),
        "one number",
    ),
    Case(
        "prior over a vector",
        lambda: bp.Scene(BLANK, g=models.sersic(flux=dist.LogNormal(1.0, 1.0).expand([2]).to_event(1))),
        ValueError,
        ("flux", "(2,)"),
        "one number",
    ),
    Case(
        "scalar prior of ellipticity",
        lambda: bp.Scene(BLANK, g=models.sersic(ellipticity=dist.Normal(0.0, 0.1))),
        ValueError,
        ("ellipticity", "()"),
        "(e1, e2)",
    ),
]


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.label)
def test_malformed_component_is_refused_with_a_remedy(case):
    assert_refused(case)


@by_name(CATALOGUE)
def test_unknown_parameter_is_refused_by_python(row):
    with pytest.raises(TypeError, match="unexpected keyword"):
        row.function(sersic_index=4.0)
