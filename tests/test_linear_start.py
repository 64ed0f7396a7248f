"""Fluxes and levels solved at given values of all else: the conditional maximum, however it is found."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.optimize import nnls
from test_malformed_inputs import Case, assert_refused

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.rendering import renderer_for

ONE = {"x": 13.2, "y": 11.8, "r_eff": 2.6, "q": 0.7, "theta": 0.4}
TWO = {"x": 17.6, "y": 13.1, "r_eff": 2.0, "q": 0.9, "theta": 1.4}


def wide(mean: float, sd: float) -> dist.Normal:
    return dist.Normal(torch.tensor(mean, dtype=torch.float64), torch.tensor(sd, dtype=torch.float64))


@pytest.fixture(scope="module")
def image(simulated) -> bp.Image:
    light = models.Exponential(**ONE, flux=900.0) + models.Exponential(**TWO, flux=500.0) + models.FlatSky(2.0)
    mask = np.zeros((26, 33), dtype=bool)
    mask[10:13, 20:25] = True
    return simulated(light, mask=mask)


def scene_of(image: bp.Image, flux, **shape) -> bp.Scene:
    sky = models.plane_sky(level=wide(0.0, 5.0), slope_x=0.0, slope_y=0.0) if shape.pop("plane", False) else None
    sky = sky or models.flat_sky(level=wide(0.0, 5.0))
    one, two = models.exponential(**{**ONE, **shape}, flux=flux), models.exponential(**TWO, flux=flux)
    return bp.Scene(image, sky=sky, pair=bp.Group(one=one, two=two))


def test_with_normal_priors_it_is_the_maximum_of_the_posterior(image):
    """Where all that is drawn is linear there is one maximum, and LM finds it by another way."""
    scene = scene_of(image, wide(100.0, 300.0))
    start = inference.linear_start(scene)
    fit = inference.lm(scene)
    for site in scene.latent:
        assert float(start[site]) == pytest.approx(fit.params[site], abs=1e-6 * fit.std[site]), site


def test_with_flat_priors_it_is_weighted_least_squares(image):
    scene = scene_of(image, dist.LogNormal(2.0, 0.1))
    start = inference.linear_start(scene, priors="flat")
    render = renderer_for(image)
    lights = [models.FlatSky(1.0), models.Exponential(**ONE, flux=1.0), models.Exponential(**TWO, flux=1.0)]
    valid = image.valid.numpy()
    columns = np.stack([render(light).numpy()[valid] / 0.5 for light in lights], axis=1)
    expected, *_ = np.linalg.lstsq(columns, image.data.numpy()[valid] / 0.5, rcond=None)
    found = [float(start[site]) for site in ("sky.level", "pair.one.flux", "pair.two.flux")]
    assert found == pytest.approx(expected, rel=1e-8)


def test_flux_that_must_be_positive_stays_so(simulated):
    """Of a second object where there is a hole; with the first as in non-negative least squares."""
    hole = models.Exponential(**ONE, flux=900.0) + models.Exponential(**TWO, flux=-300.0)
    image = simulated(hole)
    scene = scene_of(image, dist.LogNormal(6.0, 1.0)).freeze("sky", {"sky.level": 0.0})
    at = {"pair.one.flux": 400.0, "pair.two.flux": 400.0}
    start = inference.linear_start(scene, at, priors="flat")
    assert float(start["pair.two.flux"]) == pytest.approx(0.4)  # a thousandth of what it was
    render = renderer_for(image)
    columns = np.stack([render(models.Exponential(**one, flux=1.0)).numpy().ravel() for one in (ONE, TWO)], axis=1)
    expected, _ = nnls(columns, image.data.numpy().ravel())
    assert expected[1] == 0.0
    assert float(start["pair.one.flux"]) == pytest.approx(expected[0], rel=1e-3)
    assert inference.lm(scene, init=start).log_density > -1e6


def test_other_parameters_stay_and_a_fit_from_there_ends_at_the_same_maximum(image):
    r_eff = dist.LogNormal(torch.tensor(0.7, dtype=torch.float64), 0.5)
    scene = scene_of(image, dist.LogNormal(torch.tensor(4.0, dtype=torch.float64), 3.0), r_eff=r_eff)
    at = {"sky.level": -3.0, "pair.one.flux": 5.0, "pair.two.flux": 9000.0, "pair.one.r_eff": 2.0}
    start = inference.linear_start(scene, at, priors="flat")
    assert float(start["pair.one.r_eff"]) == 2.0
    near, far = inference.lm(scene, init=start), inference.lm(scene, init=at)
    assert near.log_density == pytest.approx(far.log_density, abs=1e-6)
    assert near.iterations < far.iterations
    posterior = inference.Posterior(scene)
    values = [float(posterior.log_density(posterior.initial(one))) for one in (at, start)]
    assert values[1] > values[0] + 1000


def test_vectors_and_components_of_ones_own_are_solved_for(image):
    def own():
        brightness = pyro.sample("peaks", dist.Normal(torch.zeros(2).double(), 500.0).to_event(1))
        lights = [models.Exponential(**place, flux=brightness[i]) for i, place in enumerate((ONE, TWO))]
        return lights[0] + lights[1]

    scene = bp.Scene(
        image, sky=models.bilinear_sky(nodes=(2, 2), levels=wide(2.0, 1.0).expand([2, 2]).to_event(2)), own=own
    )
    start = inference.linear_start(scene, sites=["sky.levels", "own.peaks"])
    fit = inference.lm(scene)
    for site in scene.latent:
        assert np.allclose(start[site], fit.params[site], atol=1e-6 * np.max(fit.std[site])), site


def test_parameters_in_the_unit_of_the_image_that_are_not_linear_are_left_alone(image):
    """The spline goes through its surface brightness in the logarithm."""
    spline = models.spline(x=13.2, y=11.8, q=0.7, theta=0.4)
    scene = bp.Scene(image, sky=models.flat_sky(), galaxy=spline)
    before = inference.Posterior(scene).constrain(inference.Posterior(scene).initial())
    start = inference.linear_start(scene, before)
    assert torch.equal(start["galaxy.surface_brightness"], before["galaxy.surface_brightness"])
    assert not torch.equal(start["sky.level"], before["sky.level"])


def blank(sigma: float | None = 1.0, **components) -> bp.Scene:
    kind = {} if sigma is not None else {"likelihood": "poisson"}
    image = bp.Image(np.ones((20, 30)), **({} if sigma is None else {"sigma": sigma}))
    return bp.Scene(image, **kind, **(components or {"sky": models.flat_sky()}))


MALFORMED = [
    Case("priors", lambda: inference.linear_start(blank(), priors="normal"), ValueError, ("'normal'",), "'flat'"),
    Case("no noise", lambda: inference.linear_start(blank(None)), ValueError, ("noise",), "sigma="),
    Case("unknown", lambda: inference.linear_start(blank(), sites=["a.flux"]), ValueError, ("'a.flux'",), "sky.level"),
    Case(
        "not linear",
        lambda: inference.linear_start(blank(g=models.exponential()), sites=["g.r_eff"]),
        ValueError,
        ("linear in", "g.r_eff"),
        "sites=",
    ),
    Case(
        "none",
        lambda: inference.linear_start(blank(g=models.exponential(flux=3.0))),
        ValueError,
        ("none that are drawn",),
        "sites=",
    ),
]


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.label)
def test_malformed_request_is_refused_with_a_remedy(case):
    assert_refused(case)
