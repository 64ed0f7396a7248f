"""What every component of the catalogue keeps to: moved, turned, batched, in either precision, on either device, at the
ends of its parameters' ranges.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from test_components import CATALOGUE, Row, by_name, double
from torch import Tensor

import bayesprof as bp
from bayesprof import models
from bayesprof.light import Extended
from bayesprof.rendering import Renderer, renderer_for

SHAPE = (44, 57)
ONE_CENTRE = [row for row in CATALOGUE if "x" in row.values]
EXTENDED = [row for row in ONE_CENTRE if row.name != "point_source"]


@pytest.fixture(scope="module")
def kernel() -> np.ndarray:
    y, x = np.mgrid[-10:11, -10:11].astype(float)
    psf = (1 + (x**2 + y**2) / 4.5) ** -3.2
    return psf / psf.sum()


@pytest.fixture(scope="module")
def render(kernel) -> Renderer:
    return renderer_for(bp.Image(np.zeros(SHAPE), psf=kernel))


def blank(row: Row, kernel: np.ndarray) -> bp.Image:
    """An empty image, of the shape of a row that has images of its own."""
    return bp.Image(np.zeros((26, 33) if "weights" in row.values else SHAPE), psf=kernel)


def light(row: Row, dtype: torch.dtype = torch.float64, device: str = "cpu", **changes: Any) -> Any:
    values = {name: torch.as_tensor(value, dtype=dtype, device=device) for name, value in row.values.items()}
    return row.light(**{**values, **changes}, **row.constants)


def difference(image: Tensor, expected: Tensor) -> float:
    return float((image - expected).norm() / expected.norm())


@by_name(ONE_CENTRE)
def test_moved_source_gives_the_moved_image(row, render):
    here, there = (render(light(row, x=double(x), y=double(y))) for x, y in ((24.3, 19.8), (31.3, 23.8)))
    # light leaves at the edges, and what is taken off for the periodic copies is good to 1e-4
    assert difference(there[8:-8, 11:-8], here[4:-12, 4:-15]) < 1e-4


@by_name(ONE_CENTRE)
def test_transposed_source_gives_the_transposed_image(row, render, kernel):
    """Which takes x for y and turns angles: images that aren't square show where one is taken for the other."""
    turned = {"x": row.values["y"], "y": row.values["x"]}
    for name, value in row.values.items():
        if name.endswith("ellipticity"):
            turned[name] = [-value[0], value[1]]
        elif name == "theta":
            turned[name] = math.pi / 2 - value
        elif name == "surface_brightness" and np.ndim(value) == 2:  # of four angles, from +x to +y and on
            turned[name] = [value[k] for k in (1, 0, 3, 2)]
        elif name == "azimuth":  # in three dimensions an exchange of x and y is a reflection
            turned[name] = -value
    image = renderer_for(bp.Image(np.zeros(SHAPE[::-1]), psf=kernel))(
        light(row, **{name: double(value) for name, value in turned.items()})
    )
    assert difference(image.T, render(light(row))) < 1e-4


@by_name(EXTENDED)
def test_transform_at_zero_is_the_total_flux(row):
    zero = torch.zeros(1, 1, dtype=torch.float64)
    found = [part for part in light(row).parts if isinstance(part, Extended)]
    for part in found:
        assert float(part.transform_at(zero, zero)) == pytest.approx(1.0, abs=1e-9)
    if found and "flux" in row.values:
        extended = row.values["flux"] * (1 - row.values.get("nucleus_fraction", 0.0))
        assert sum(float(part.flux) for part in found) == pytest.approx(extended, rel=1e-9)


@by_name([row for row in ONE_CENTRE if "flux" in row.values])
def test_image_holds_the_total_flux(row, kernel):
    """Of surfaces and points as well, through the PSF: all but what a profile has beyond 80 pixels."""
    ny, nx = 160, 183
    render = renderer_for(bp.Image(np.zeros((ny, nx)), psf=kernel))
    beyond = {"de_vaucouleurs": 0.02}.get(row.name, 3e-4)
    total = float(render(light(row, x=double(91.3), y=double(79.8))).sum())
    flux = sum(float(part.flux) for part in light(row).parts)
    assert total == pytest.approx(flux, rel=beyond)
    assert flux == pytest.approx(row.values["flux"], rel=1e-9)


@by_name(CATALOGUE)
def test_batch_of_parameters_gives_the_images_of_a_loop(row, kernel):
    render = renderer_for(blank(row, kernel))
    factors = (1.0, 0.97, 0.93)
    batch = {name: torch.stack([double(value) * factor for factor in factors]) for name, value in row.values.items()}
    images = render(row.light(**batch, **row.constants))
    for i, image in enumerate(images):
        one = {name: values[i] for name, values in batch.items()}
        torch.testing.assert_close(image, render(row.light(**one, **row.constants)), rtol=1e-9, atol=1e-9)
    by_vmap = torch.func.vmap(lambda values: render(row.light(**values, **row.constants)))(batch)
    torch.testing.assert_close(by_vmap, images, rtol=1e-9, atol=1e-9)


@by_name(CATALOGUE)
def test_single_precision_is_good_enough_for_pictures(row, kernel):
    single = renderer_for(blank(row, kernel).to(torch.float32))
    image = single(light(row, torch.float32))
    assert image.dtype == torch.float32
    assert difference(image.double(), renderer_for(blank(row, kernel))(light(row))) < 2e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@by_name(CATALOGUE)
def test_image_on_cuda_is_that_on_the_cpu(row, kernel):
    on_gpu = renderer_for(blank(row, kernel).to(device="cuda"))
    image = on_gpu(light(row, device="cuda"))
    assert difference(image.cpu(), renderer_for(blank(row, kernel))(light(row))) < 1e-10


SIZES = ("r_eff", "disk_r_eff", "scale_length", "r_core", "r_break", "r_out", "h_inner", "r_ring")


def extremes(row: Row) -> list[dict[str, Any]]:
    """Far outside, without light, tiny and huge, round and thin."""
    cases: list[dict[str, Any]] = [{"x": -400.0}, {"y": 900.0, "x": 1e4}]
    if "x" not in row.values:  # linear in all that it has
        return [
            {name: (factor * np.array(value)).tolist() for name, value in row.values.items()} for factor in (0, 1e6)
        ]
    cases += [{name: 0.0} for name in ("flux", "surface_brightness") if np.shape(row.values.get(name, [0])) == ()]
    cases += [{name: size} for name in SIZES if name in row.values for size in (1e-3, 2e3)]
    for name in row.values:
        if name.endswith("ellipticity"):
            cases += [{name: [0.0, 0.0]}, {name: [0.6, 0.75]}]
    return cases


@by_name(CATALOGUE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_image_and_gradient_are_finite_at_extremes(row, dtype, kernel):
    render = renderer_for(blank(row, kernel).to(dtype))
    for changes in extremes(row):
        values = {
            name: torch.tensor(value, dtype=dtype, requires_grad=True)
            for name, value in {**row.values, **changes}.items()
        }
        image = render(row.light(**values, **row.constants))
        assert bool(image.isfinite().all()), changes
        gradients = torch.autograd.grad(image.square().sum(), list(values.values()), allow_unused=True)
        for name, gradient in zip(values, gradients, strict=True):
            assert gradient is None or bool(gradient.isfinite().all()), (changes, name)


@by_name(CATALOGUE)
def test_description_has_every_parameter_with_its_prior(row, kernel):
    image = bp.Image(np.random.default_rng(0).normal(5.0, 1.0, (26, 33)), sigma=1.0, psf=kernel)
    component = row.function()
    table = models.describe(component, image).table
    assert set(row.values) <= set(table["parameter"])
    text = repr(models.describe(component, image))
    assert all(name in text for name in row.values)
