"""Lattices of values and given images: against B-splines of SciPy, finer cells, and closed forms of linear fits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import Contoured, Moffat, blurred, error, integrated
from pyro import poutine
from scipy.interpolate import BSpline
from test_malformed_inputs import Case, assert_refused
from torch.autograd import gradcheck

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.rendering import Renderer, renderer_for

SHAPE = (31, 38)
CENTRE = (17.37, 14.82)
PSF = Moffat(3.0, 3.5)
VALUES = np.random.default_rng(4).normal(1.0, 1.0, (4, 5))
STEPS = pytest.mark.parametrize("step", [0.7, 1.0, 3.3])


def renderer(kernel: np.ndarray | None = None, **options: object) -> Renderer:
    return renderer_for(bp.Image(np.zeros(SHAPE), psf=kernel, **options))


def reference(step: float) -> Contoured:
    bump = BSpline.basis_element([-2, -1, 0, 1, 2], extrapolate=False)

    def surface(dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        total = np.zeros(np.broadcast_shapes(dx.shape, dy.shape))
        for i, row in enumerate(VALUES):
            for j, value in enumerate(row):
                along, across = bump(dx / step - (j - 2)), bump(dy / step - (i - 1.5))
                total = total + value * np.nan_to_num(along) * np.nan_to_num(across)
        return total

    return Contoured(*CENTRE, 1.0, surface)


@STEPS
def test_image_without_a_psf_is_the_integral_of_the_splines(step):
    # the pieces of the spline meet inside of the oracle's cells
    expected = integrated(reference(step), SHAPE, order=12)
    assert error(renderer()(models.Freeform(VALUES, *CENTRE, step)), expected) < (1e-4 if step < 1 else 1e-5)


@STEPS
def test_image_with_a_psf_agrees_with_integration_on_finer_cells(step):
    expected = blurred(reference(step), PSF, SHAPE)
    assert error(renderer(PSF.stamp((81, 81)))(models.Freeform(VALUES, *CENTRE, step)), expected) < 1e-4


def test_oversampled_psf_renders_the_same():
    kernel = PSF.stamp((163, 163), oversampling=2)
    fine, native = renderer(kernel, psf_oversampling=2), renderer(PSF.stamp((81, 81)))
    source = models.Freeform(VALUES, *CENTRE, 2.0)
    assert error(fine(source), native(source).numpy()) < 1e-4


@pytest.mark.parametrize("kernel", [PSF.stamp((81, 81)), None], ids=["PSF", "no PSF"])
def test_flux_is_the_area_of_a_cell_times_the_sum_of_the_values(kernel):
    image = renderer(kernel)(models.Freeform(VALUES, *CENTRE, 1.5))
    assert float(image.sum()) == pytest.approx(1.5**2 * VALUES.sum(), rel=1e-2 if kernel is not None else 1e-12)


@pytest.mark.parametrize("kernel", [PSF.stamp((31, 31)), None], ids=["PSF", "no PSF"])
def test_lattice_that_reaches_beyond_the_image_is_a_part_of_a_larger_one(kernel):
    source = models.Freeform(np.ones((30, 30)), 15.0, 12.0, 3.0)
    larger = models.Freeform(np.ones((30, 30)), 115.0, 112.0, 3.0)
    whole = renderer_for(bp.Image(np.zeros((231, 238)), psf=kernel))(larger)[100:131, 100:138]
    assert error(renderer(kernel)(source), whole.numpy()) < 1e-4
    torch.testing.assert_close(whole[8:20, 8:20], torch.ones(12, 12, dtype=torch.float64), rtol=2e-4, atol=0)


@pytest.mark.parametrize("kernel", [PSF.stamp((11, 13)), None], ids=["PSF", "no PSF"])
def test_derivatives_batches_and_precisions_agree(kernel):
    render = renderer(kernel)

    def image(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return render(models.Freeform(values, x, 14.82, 2.0))

    values, x = torch.from_numpy(VALUES), torch.tensor(17.37, dtype=torch.float64)
    assert gradcheck(image, [values.clone().requires_grad_(), x.clone().requires_grad_()], atol=1e-6, fast_mode=True)
    batch = torch.stack([values, 2 * values]), torch.stack([x, x + 3.0])
    each = torch.stack([image(*pair) for pair in zip(*batch, strict=True)])
    torch.testing.assert_close(image(*batch), each, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(torch.func.vmap(image)(*batch), each, rtol=1e-12, atol=1e-14)
    single = renderer(kernel, dtype=torch.float32)(models.Freeform(VALUES, *CENTRE, 2.0))
    assert single.dtype == torch.float32
    assert error(single, renderer(kernel)(models.Freeform(VALUES, *CENTRE, 2.0)).numpy()) < 1e-5


def linear_fit(
    design: np.ndarray, data: np.ndarray, sigma: float, covariance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviations of the posterior of a linear model with a Gaussian prior about 0."""
    posterior = np.linalg.inv(design.T @ design / sigma**2 + np.linalg.inv(covariance))
    return posterior @ design.T @ data / sigma**2, np.sqrt(np.diagonal(posterior))


def test_fit_of_a_lattice_is_the_closed_form_of_its_gaussian_posterior():
    rng = np.random.default_rng(8)
    blank = bp.Image(np.zeros(SHAPE), sigma=0.2, psf=PSF.stamp((21, 21)))
    lattice = {"shape": (4, 5), "step": 3.0, "x": CENTRE[0], "y": CENTRE[1]}
    render = renderer_for(blank)
    columns = [render(models.Freeform(unit.reshape(4, 5), *CENTRE, 3.0)).numpy().ravel() for unit in np.eye(20)]
    design = np.stack(columns, axis=1)
    data = (design @ VALUES.ravel()).reshape(SHAPE) + rng.normal(0.0, 0.2, SHAPE)
    scene = bp.Scene(bp.Image(data, sigma=0.2, psf=PSF.stamp((21, 21))), debris=models.freeform(**lattice))
    prior = poutine.trace(scene.components["debris"]).get_trace().nodes["values"]["fn"]
    mean, sd = linear_fit(design, data.ravel(), 0.2, prior.base_dist.covariance_matrix.numpy())
    fit = inference.lm(scene)
    assert fit.converged, fit.message
    np.testing.assert_allclose(np.asarray(fit.params["debris.values"]).ravel(), mean, atol=1e-4 * sd.max())
    np.testing.assert_allclose(np.asarray(fit.std["debris.values"]).ravel(), sd, rtol=1e-4)
    assert scene.dims["debris.values"] == ["debris.row", "debris.column"]


def test_fit_of_basis_images_is_the_closed_form_of_its_gaussian_posterior():
    rng = np.random.default_rng(9)
    basis = rng.normal(0.5, 1.0, (3, *SHAPE))
    data = np.tensordot([1.0, -0.5, 2.0], basis, axes=1) + rng.normal(0.0, 0.3, SHAPE)
    scene = bp.Scene(bp.Image(data, sigma=0.3), patterns=models.basis_images(basis))
    prior = poutine.trace(scene.components["patterns"]).get_trace().nodes["weights"]["fn"]
    covariance = np.diag(prior.base_dist.scale.numpy() ** 2)
    mean, sd = linear_fit(basis.reshape(3, -1).T, data.ravel(), 0.3, covariance)
    fit = inference.lm(scene)
    assert fit.converged, fit.message
    np.testing.assert_allclose(fit.params["patterns.weights"], mean, atol=1e-6)
    np.testing.assert_allclose(fit.std["patterns.weights"], sd, rtol=1e-6)


def of_another_shape() -> None:
    bp.Scene(bp.Image(np.zeros((20, 30)), sigma=1.0), it=models.basis_images(np.ones((1, 30, 20))))


MALFORMED = [
    Case("no rows", lambda: models.freeform((0, 3), 2.0, x=1.0, y=1.0), ValueError, ("(0, 3)",), "at least one row"),
    Case("step 0", lambda: models.freeform((2, 3), 0.0, x=1.0, y=1.0), ValueError, ("step > 0", "0.0"), "in pixels"),
    Case("a row of values", lambda: models.Freeform([1.0, 2.0], 1.0, 1.0, 2.0), ValueError, ("(2,)",), "rows, columns"),
    Case("negative step", lambda: models.Freeform([[1.0]], 1.0, 1.0, -2.0), ValueError, ("-2.0",), "in pixels"),
    Case("one image", lambda: models.basis_images(np.ones((20, 30))), ValueError, ("(20, 30)",), "(images, ny, nx)"),
    Case("dark image", lambda: models.basis_images(np.zeros((1, 20, 30))), ValueError, ("[0]",), "leave them out"),
    Case("other shape", of_another_shape, ValueError, ("(20, 30)", "(30, 20)"), "resample"),
    Case(
        "weights of a light",
        lambda: models.BasisImages([1.0, 2.0], np.ones((1, 20, 30))),
        ValueError,
        ("(1, 20, 30)", "(2,)"),
        "(..., images)",
    ),
]


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.label)
def test_malformed_input_is_refused_with_a_remedy(case):
    assert_refused(case)
