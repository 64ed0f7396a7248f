"""Derivatives written out as graphs: against torch.func, and along as few directions as can be."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.sparse
import torch

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.inference.blocks import with_block
from bayesprof.inference.capture import capture
from bayesprof.inference.forward_mode import with_derivatives, with_shapes
from bayesprof.inference.places import Places
from bayesprof.sparse import by_rows, sparse_product
from bayesprof.taking import put_back, taken

torch.manual_seed(3)
MATRIX = torch.randn(4, 3, dtype=torch.float64)
HOLED = scipy.sparse.random(6, 6, 0.5, rng=np.random.default_rng(3))
SPARSE, TRANSPOSED = (by_rows(matrix, torch.float64, torch.device("cpu")) for matrix in (HOLED, HOLED.T))
LARGE = torch.randn(70, 70, dtype=torch.float64)
PLACES = torch.tensor([[0, 1, 0, 1]])
Z = torch.tensor([0.3, -0.8, 1.4, 0.6, 0.2], dtype=torch.float64)

FUNCTIONS = {
    "sums": lambda z: z[0] + 2 * z[1:4] - torch.sub(z[4], z[1:4], alpha=3) + (1 - z[2]),
    "products": lambda z: z[0] * z[1:3] / (2 + z[3:5]) * z[1],
    "elementary": lambda z: torch.stack(
        [
            torch.exp(z[0]),
            torch.log(z[2]),
            torch.log1p(z[0]),
            torch.sin(z[1]),
            torch.cos(z[1]),
            torch.sqrt(z[2]),
            z[3] ** 3,
        ]
    ),
    "powers": lambda z: z[2:4] ** 2 + z[2] ** 0.5 + z[3:4].reciprocal() + z[2:4] ** z[4],
    "special": lambda z: torch.stack(
        [torch.sigmoid(z[0]), z[1].abs(), torch.lgamma(z[2]), torch.acos(z[0]), torch.erf(z[1]), torch.tanh(z[3])]
    ),
    "angles": lambda z: (
        torch.atan2(z[:2], z[2]) + torch.atan2(z[3], torch.tensor(0.5).double()) + torch.remainder(z, 0.5)[:2]
    ),
    "softplus": lambda z: torch.nn.functional.softplus(z) + torch.nn.functional.softplus(z[1], beta=2.0),
    "xlogy": lambda z: torch.xlogy(torch.tensor(2.0, dtype=torch.float64), z[2:4]) + torch.xlogy(z[0], z[2]),
    "clamped": lambda z: z.clamp(0.0, 0.5) + z.clamp(min=0.25) + z[2].clamp(max=-1.0),
    "chosen": lambda z: torch.where(z > 0.25, z**2, z[0]) + torch.where(z[1] > 0, z[2], 3.0),
    "shapes": lambda z: (
        z[:4].reshape(2, 2).permute(1, 0).unsqueeze(-1).expand(2, 2, 3).transpose(0, 2).flatten() * z[4]
    ),
    "lists": lambda z: (
        sum((part * (i + 1) for i, part in enumerate(z[:4].reshape(2, 2).unbind(-1))), start=z[4])
        * z.split([2, 3])[1][:2]
    ),
    "reductions": lambda z: z.sum() * z[:4].reshape(2, 2).sum(0) + z[:4].reshape(2, 2).sum(-1) + z.mean(),
    "joined": lambda z: torch.cat([z[1:3] ** 2, z[:1], MATRIX[0], torch.stack([z[4], z[0]])]),
    "pieces joined": lambda z: torch.cat(
        [(LARGE * z[0] + LARGE * z[1])[:9], (LARGE * z[0] + LARGE * z[1])[9:30] * 2, LARGE[:4] * z[2]]
    ),
    "matrices": lambda z: torch.cat([MATRIX @ z[:3], z[1:5] @ MATRIX, (MATRIX * z[0]).T @ z[1:5], (z @ z)[None]]),
    "batched matrices": lambda z: torch.bmm(MATRIX.expand(2, 4, 3), z[:3].reshape(1, 3, 1).expand(2, 3, 1)),
    "sparse products": lambda z: sparse_product(LARGE[:2, :6].reshape(2, 2, 3) * z[0] * z[1], *SPARSE, *TRANSPOSED),
    "transforms": lambda z: torch.fft.irfft2(
        torch.fft.rfft2(LARGE * torch.exp(z[0] * LARGE)) * torch.exp(1j * z[1]), s=(70, 70)
    )[3:60, ::2],
    "complex": lambda z: torch.fft.ifft(torch.complex(LARGE * z[0], LARGE * z[1] * z[0])).real,
    "large and overlapping": lambda z: (LARGE * z[0]) * torch.cos(LARGE * z[1]) + LARGE * z[1] * z[2] + z[3],
    "sizes": lambda z: torch.fft.fft(torch.complex(LARGE * z[0], LARGE * z[1])).abs() + z[2].abs() + (z[3] - 0.6) ** 0,
    "mixed precision": lambda z: (
        (MATRIX.float() @ (z[0] * MATRIX[0].float()) + torch.exp(z[1] * MATRIX[:, 0].float())) * z[2]
    ),
    "backward": lambda z: torch.func.grad(lambda y: (y[1:4] ** 3).sum() + y[:4].reshape(2, 2)[1].prod())(z) * z[0],
    "backward of special": lambda z: torch.func.grad(
        lambda y: torch.lgamma(y[2]) + torch.acos(y[0]) + y[1].abs() + torch.sigmoid(y[3]) + y[4].rsqrt()
    )(z),
    "backward of transforms": lambda z: torch.func.grad(
        lambda y: (torch.fft.irfft2(torch.fft.rfft2(LARGE) * torch.exp(1j * y[1] * y[2]), s=(70, 70)) * LARGE).sum()
    )(z),
    "gathered": lambda z: z[0] * (z**2).reshape(1, 5).gather(-1, PLACES) + (z[:2, None] * z).gather(-2, PLACES.T),
    "backward of gathered": lambda z: torch.func.grad(
        lambda y: ((y**2).reshape(1, 5).gather(1, PLACES) * y[:4] ** 3).sum()
    )(z),
    "scattered": lambda z: (MATRIX * z[4]).scatter_add(1, torch.ones_like(MATRIX, dtype=torch.int64), MATRIX * z[0]),
    "order": lambda z: torch.cumsum(z * z[0], 0) + torch.sort(z).values + torch.cumprod(z[1:], 0)[1],
    "detached": lambda z: z[0] * z[1].detach() + (z[2] - z[2].detach()) * torch.exp(z[3]),
    "stacked": lambda z: _each_its_own(z).sum(0),
    "stacked and kept": lambda z: _each_its_own(z)[:, 1],
    "stacked and picked": lambda z: _each_its_own(z)[1] + _each_its_own(z).unbind(0)[2] * z[1],
    "stacked and moved": lambda z: (
        _each_its_own(z).permute(2, 1, 0).reshape(3, 4, 3, 1).expand(3, 4, 3, 2).transpose(0, 3).sum((0, 2))
    ),
    "stacked and flattened": lambda z: _each_its_own(z).reshape(12, 3)[::5] + _each_its_own(z).mT.reshape(9, 4).sum(),
    "stacked and multiplied": lambda z: (
        (_each_its_own(z) @ MATRIX.mT @ (MATRIX @ _own(z))).sum(0)
        + (MATRIX @ _each_its_own(z).mT).sum(0) @ MATRIX[:, 1]
        + (_own(z)[:, None] * MATRIX[:3]).mT @ MATRIX[:3, 2] @ _own(z)
    ),
    "stacked and transformed": lambda z: (
        torch.fft.fft(_each_its_own(z), dim=2).abs().sum(0) + torch.fft.fft(_each_its_own(z), dim=0).real[2]
    ),
    "stacked and joined": lambda z: (
        torch.cat([_each_its_own(z)[..., :1], torch.zeros(3, 4, 1).double(), _each_its_own(z) ** 2], -1).sum(
            0, keepdim=True
        )
        + torch.cat([_each_its_own(z), _each_its_own(z)[:1]])[2:, :, :1]
    ),
    "stacked with common parameters": lambda z: (torch.stack([z[0] * z[4], z[4], z[1] * z[4]]) * z[4] + z[0]) ** 2,
    "stacked with held ones": lambda z: (
        torch.stack([z[0] * z[1], torch.tensor(2.0).double(), z[2]])[:, None] * MATRIX[0]
    ),
    "stacked and gathered": lambda z: (
        torch.gather(_each_its_own(z), 1, torch.tensor([[[0, 1, 1], [3, 0, 2]]] * 3)).sum(0)
        + torch.gather(_each_its_own(z), 0, torch.tensor([[[2, 0, 1]] * 4] * 2))[1, :2]
        + torch.zeros(3, 2, 3).double().scatter_add(1, torch.tensor([[[0, 1, 1]] * 4] * 3), _each_its_own(z)).sum(0)
    ),
    "stacked backward": lambda z: torch.func.grad(lambda y: (_each_its_own(y) ** 2).sum() * y[0])(z),
    "written in place": lambda z: _filled(z),
    "taken": lambda z: taken(z[:4] ** 2, -1, [2, 0, 2]) * taken(torch.exp(z[1:]), -1, [3, 0, 0]),
    "taken of rows": lambda z: _of_members(z, [1, 0, 1]).sum(-1) * MATRIX[:3, :2],
    "backward of taken": lambda z: torch.func.grad(lambda y: (taken(y**2, -1, [4, 1, 1]) ** 3).sum() * y[0])(z),
    "put": lambda z: put_back(z[:3] ** 2, -1, [1, 4, 1], 5) * z + put_back(z[:4].reshape(2, 2), -2, [0, 0], 1).sum(),
    "members": lambda z: _of_members(z, [0, 1]).permute(2, 0, 1).reshape(2, 4) + z[4],
    "sums of members": lambda z: _of_members(z, [0, 1]).sum() * torch.log_softmax(z[:4].reshape(2, 2), 0).sum(1),
}


def _own(z: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.exp(z[0]) * z[1], z[2] ** 2 / z[3], torch.cos(z[4])])


def _each_its_own(z: torch.Tensor) -> torch.Tensor:
    """Of shape (3, 4, 3), each of the first three moved by parameters of its own."""
    return torch.sin(_own(z)[:, None, None] * MATRIX) + torch.where(MATRIX > 0, _own(z)[:, None, None], 0.0)


def _of_members(z: torch.Tensor, places: list[int]) -> torch.Tensor:
    """Planes of two members with two parameters each, at `places` among them."""
    own = z[:4].reshape(2, 2)
    own = own / (1 + own.square().sum(-1, keepdim=True)).sqrt()
    some = taken(own, -2, places)
    return torch.sin(some[:, 0, None, None] * MATRIX[:2, :2]) * some[:, 1, None, None]


def _filled(z: torch.Tensor) -> torch.Tensor:
    result = torch.zeros(6, dtype=z.dtype)
    result[1:4] = z[:3] ** 2
    result[2] += z[4]
    return result.mul_(z[1])


def dense(rows, blocks, shape):
    """Rows of all blocks along the whole of z."""
    full = torch.zeros(len(Z), *shape, dtype=torch.float64)
    for some, block in zip(rows, blocks, strict=True):
        full = with_block(full, block, some.double())
    return full


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_are_those_of_torch(name, diagonal):
    function = FUNCTIONS[name]
    captured = capture(lambda z: {"value": function(z), "same": function(z)}, Z, differentiable=True)
    found = with_derivatives(captured.graph, "value", diagonal=diagonal)
    result = found.graph(Z, *captured.constants)
    torch.testing.assert_close(result["same"], function(Z), rtol=1e-14, atol=1e-14)
    expected = torch.func.jacfwd(function)(Z).movedim(-1, 0)
    tolerance = 1e-12 if expected.dtype == torch.float64 else 1e-5
    derivatives = dense(result["value"], found.blocks["value"], expected.shape[1:])
    assert all(rows.dtype == result["same"].dtype for rows in result["value"])
    torch.testing.assert_close(derivatives, expected.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "name",
    [
        "products",
        "elementary",
        "powers",
        "xlogy",
        "joined",
        "lists",
        "matrices",
        "gathered",
        "stacked",
        "stacked and moved",
        "taken",
        "backward of taken",
        "put",
        "members",
    ],
)
def test_second_derivatives_are_those_of_torch(name):
    def total(z):
        return FUNCTIONS[name](z).sum()

    captured = capture(lambda z: {"value": total(z)}, Z, differentiable=True)
    first = with_derivatives(captured.graph, "value")
    second = with_derivatives(with_shapes(first.graph), "value", diagonal=True)
    result = second.graph(Z, *captured.constants)["value"]
    hessian = torch.zeros(len(Z), len(Z), dtype=torch.float64)
    for one, rows, blocks in zip(first.blocks["value"], result, second.blocks["value"], strict=True):
        for some, block in zip(rows, blocks, strict=True):
            along = with_block(torch.zeros(len(Z), *some.shape[1:], dtype=torch.float64), block, some)
            hessian[:, list(one.active)] += along
    torch.testing.assert_close(hessian, torch.func.hessian(total)(Z), rtol=1e-11, atol=1e-11)


def test_vectors_of_many_sources_stay_diagonal():
    """Of elements that never meet but in sums: from z to where they are handed out, and through both derivatives."""
    size = torch.linspace(1, 2, 9, dtype=torch.float64)

    def log_priors(z):
        pairs = z[9:].reshape(9, 2)
        pairs = pairs / (1 + (pairs**2).sum(-1, keepdim=True)).sqrt()
        return [-((z[:9].exp() - size) ** 2 / size).sum(), (pairs[:, 0] * pairs[:, 1].exp() / size).sum() * 2]

    z = torch.linspace(0.1, 0.9, 27, dtype=torch.float64)
    captured = capture(lambda z: {"value": log_priors(z)}, z, differentiable=True)
    first = with_derivatives(captured.graph, "value")
    second = with_derivatives(with_shapes(first.graph), "value", diagonal=True)
    blocks = [block for value in second.blocks["value"] for several in value for block in several]
    assert blocks
    assert all(block.axis == -1 for block in blocks)
    shapes = with_shapes(second.graph)
    assert (
        max(node.meta["val"].numel() for node in shapes.graph.nodes if "val" in node.meta and node.op != "output") < 81
    )
    hessian = torch.zeros(27, 27, dtype=torch.float64)
    for value, found, several in zip(
        first.blocks["value"], second.graph(z, *captured.constants)["value"], second.blocks["value"], strict=True
    ):
        for one, rows, blocks in zip(value, found, several, strict=True):
            for some, block in zip(rows, blocks, strict=True):
                empty = torch.zeros(27, *some.shape[1:], dtype=torch.float64)
                hessian[:, list(one.active)] += with_block(empty, block, some)
    expected = torch.func.hessian(lambda z: sum(log_priors(z)))(z)
    torch.testing.assert_close(hessian, expected, rtol=1e-11, atol=1e-11)


def test_each_component_is_followed_along_its_own_parameters_only():
    y, x = np.mgrid[:70, :75]
    psf = np.exp(-((x[:15, :15] - 7.0) ** 2 + (y[:15, :15] - 7.0) ** 2) / 4)
    image = bp.Image(np.exp(-((x - 40.0) ** 2 + (y - 30.0) ** 2) / 30), sigma=0.1, psf=psf)
    scene = bp.Scene(image, one=models.sersic(), two=models.sersic(), sky=models.flat_sky())
    posterior = inference.Posterior(scene)
    found = with_derivatives(posterior._forward.several("parameters"), "parameters")
    blocks = [set(block.active) for block in found.blocks["parameters"][0]]
    assert sorted(blocks, key=min) == [set(range(14)), {14}]
    # along each other's, planes would be followed that are all zeros
    shapes = with_shapes(found.graph)
    planes = [node.meta["val"] for node in shapes.graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)]
    most = max((value for value in planes if value.ndim == 4 and min(value.shape[-2:]) > 35), key=torch.Tensor.numel)
    assert most.shape[:2] == (3, 2)  # the ellipse of both, whose wavenumbers move with three parameters each


def test_parameter_shared_by_components_is_followed_through_all_of_them():
    def model():
        width = pyro.sample("width", dist.LogNormal(0.0, 1.0))
        heights = [pyro.sample(f"height{i}", dist.Normal(1.0, 1.0)) for i in range(2)]
        image = sum(height * torch.exp(-(LARGE**2) * width * (i + 1)) for i, height in enumerate(heights))
        pyro.sample("data", dist.Normal(image, 0.1).to_event(2), obs=LARGE.abs())

    posterior = inference.Posterior(model)
    z = torch.tensor([0.2, 0.7, -0.4], dtype=torch.float64)
    _, gradient, information, prior = posterior.expansion(z)
    torch.testing.assert_close(gradient, posterior.value_and_grad(z)[1], rtol=1e-12, atol=1e-12)

    def loc(z):
        values = posterior.constrain(z)
        return sum(
            values[f"height{i}"] * torch.exp(-(LARGE**2) * values["width"] * (i + 1)) for i in range(2)
        ).flatten()

    jacobian = torch.func.jacfwd(loc)(z)
    torch.testing.assert_close(information, jacobian.T @ jacobian / 0.01, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(prior, -torch.func.hessian(posterior.log_prior)(z), rtol=1e-12, atol=1e-12)


def test_gradient_looks_up_one_table_whatever_the_number_of_shape_parameters():
    image = bp.Image(np.ones((31, 33)), sigma=1.0, psf=np.ones((3, 3)) / 9)
    counts = {}
    for make in (models.sersic, models.core_sersic):
        posterior = inference.Posterior(bp.Scene(image, galaxy=make()))
        z = posterior.initial()
        graph = capture(torch.func.grad(posterior.log_density), z).graph.graph
        targets = [str(node.target) for node in graph.nodes]
        counts[make.__name__] = tuple(targets.count(f"aten.{name}.default") for name in ("gather", "scatter_add"))
    assert set(counts.values()) == {(4, 4)}, counts


# -- where blocks go


def test_blocks_are_added_at_their_places_and_those_of_no_entry_go_nowhere():
    values = torch.arange(1.0, 7.0).reshape(3, 2)  # in single precision, as those of images may be
    like = torch.zeros(4, dtype=torch.float64)
    vector = Places([((2, None, 0),), ((0, 3),)], 4, axes=1)([values[:, 0], values[0]], like=like)
    assert vector.dtype == torch.float64
    assert vector.tolist() == [5.0 + 1.0, 0.0, 1.0, 2.0]
    matrix = Places([((2, None, 0), (1, 2)), ((0,), (2,))], 4, axes=2)([values, torch.tensor([[10.0]])], like=like)
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[2, 1], expected[2, 2], expected[0, 1], expected[0, 2] = 1.0, 2.0, 5.0, 6.0 + 10.0
    assert torch.equal(matrix, expected)
    assert torch.equal(Places([], 4, axes=2)([], like=like), torch.zeros(4, 4, dtype=torch.float64))
