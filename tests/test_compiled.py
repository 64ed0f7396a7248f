"""Captured graphs compiled as loops: the values of the graphs themselves."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.inference import native
from bayesprof.inference.capture import capture, without_writes
from bayesprof.inference.loop_expressions import OPERATIONS
from bayesprof.inference.loops import Plan
from bayesprof.inference.native import Compiled, CompilerError

aten = torch.ops.aten
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="compiling needs a C++ compiler"
)
SHAPE = (33, 46)


def image_of(**changes):
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    data = 40 * np.exp(-np.hypot(x - 21, y - 15) / 4) + np.random.default_rng(3).normal(0, 1, SHAPE)
    mask = np.zeros(SHAPE, dtype=bool)
    mask[3:6, 7:9] = True
    psf = np.exp(-0.5 * ((np.mgrid[:13, :13] - 6) ** 2).sum(0) / 1.6**2)
    options = {"sigma": 1.0, "psf": psf / psf.sum(), "mask": mask} | changes
    return bp.Image(changes.pop("data", data), **{key: value for key, value in options.items() if key != "data"})


def galaxies():
    return {"sky": models.flat_sky(), "galaxy": models.sersic(), "star": models.point_source(x=30.0, y=20.0)}


SCENES = {
    "sersic": lambda: bp.Scene(image_of(), **galaxies()),
    "no PSF": lambda: bp.Scene(image_of(psf=None), galaxy=models.sersic(), other=models.exponential()),
    "Poisson": lambda: bp.Scene(
        image_of(data=np.random.default_rng(0).poisson(50.0, SHAPE).astype(float)), likelihood="poisson",
        sky=models.flat_sky(level=dist.Normal(50.0, 5.0)), galaxy=models.sersic(),
    ),
    "Student-t, float32": lambda: bp.Scene(image_of(dtype=torch.float32), likelihood="student_t", **galaxies()),
    "oversampled PSF": lambda: bp.Scene(
        image_of(psf=np.exp(-0.5 * ((np.mgrid[:25, :25] - 12) ** 2).sum(0) / 3.2**2), psf_oversampling=2),
        galaxy=models.moffat(), other=models.king(),
    ),
    "drawn PSF": lambda: bp.Scene(image_of(), psf=models.moffat_psf(), **galaxies()),
    "surfaces": lambda: bp.Scene(
        image_of(), sky=models.plane_sky(), galaxy=models.shaped(models.sersic(), models.boxiness())
    ),
    "windows": lambda: bp.Scene(
        image_of(), windows={"galaxy": bp.Window.around(21, 15, 12), "other": bp.Window.around(9, 25, 12)},
        sky=models.flat_sky(), galaxy=models.sersic(), other=models.sersic(x=9.0, y=25.0),
    ),
    "likelihood with parameters": lambda: bp.Scene(
        image_of(), likelihood=bp.likelihoods.contaminated(), sky=models.flat_sky(), galaxy=models.spline()
    ),
}  # fmt: skip
FUNCTIONS = [("log_density", 3), ("value_and_grad", 1), ("value_and_grad", 3), ("expansion", 1), ("pointwise", 2)]


def largest_difference(found, expected):
    differences = []
    for one, other in zip(tree_flatten(found)[0], tree_flatten(expected)[0], strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        one, other = (torch.view_as_real(v) if v.is_complex() else v.double() for v in (one, other))
        assert torch.equal(one.isfinite(), other.isfinite())
        scale = other.nan_to_num(0, 0, 0).abs().max().clamp(min=1e-300)
        differences.append(float((one - other).nan_to_num(0, 0, 0).abs().max() / scale))
    return max(differences)


OFTEN = ("sersic", "windows")


@needs_compiler
@pytest.mark.parametrize(
    "scene", [scene if scene in OFTEN else pytest.param(scene, marks=pytest.mark.slow) for scene in SCENES]
)
def test_functions_of_scenes_are_those_of_their_graphs(scene):
    posterior = inference.Posterior(SCENES[scene]())
    functions = posterior._functions
    constants = functions.forward.constants
    near = (
        posterior.initial() + 0.01 * torch.randn(3, posterior.size, generator=torch.Generator().manual_seed(0)).double()
    )
    bound = 2e-5 if "float32" in scene else 1e-10
    for name, batch in FUNCTIONS:
        z = near[:batch]
        captured = functions._shared.capture((name, batch), z, constants).with_inputs(constants)
        with torch.inference_mode():
            expected = captured.graph(z, *captured.constants)
            found = Compiled(without_writes(captured, z)).bind(captured.constants)(z)
        assert largest_difference(found, expected) < bound, name


@needs_compiler
def test_exact_hessian_is_that_of_its_graph():
    posterior = inference.Posterior(bp.Scene(image_of(), sky=models.flat_sky(), galaxy=models.sersic()))
    z = posterior.initial()
    expected = posterior.hessian(z)
    posterior.prepare("hessian", batch=1, calls=1, compile=True)
    assert ("hessian", 1) in posterior._functions._shared.compiled
    assert largest_difference(posterior.hessian(z), expected) < 1e-10


@needs_compiler
def test_other_data_share_what_was_compiled():
    posterior = inference.Posterior(bp.Scene(image_of(), sky=models.flat_sky(), galaxy=models.sersic()))
    posterior.prepare("log_density", batch=2, calls=1, compile=True)
    z = posterior.initial() + torch.zeros(2, 1)
    other = posterior.with_data({"image": posterior.data["image"] + 0.1})
    expected = other.log_density(z)
    other.prepare("log_density", batch=2, calls=1, compile=True)
    assert torch.allclose(other.log_density(z), expected, rtol=1e-12)
    assert not torch.allclose(posterior.log_density(z), expected, rtol=1e-6)


def values(kind, shape, seed):
    generator = torch.Generator().manual_seed(seed)
    if kind == "bool":
        return torch.rand(shape, generator=generator) > 0.5
    if kind == "complex":
        return torch.randn(shape, generator=generator, dtype=torch.complex128)
    if kind == "small":  # inside the domain of every function of one number
        return torch.rand(shape, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def arguments_of(operation):
    """Arguments of the shapes (3, 1, 5) and (4, 5) for an operation, by what its schema asks for."""
    name = operation._schema.name.removeprefix("aten::")
    kind = {"where": "bool", "_conj": "complex", "conj_physical": "complex"}.get(name, "small")
    found = []
    for place, argument in enumerate(operation._schema.arguments):
        if argument.kwarg_only or (argument.has_default_value() and argument.name not in ("min", "max")):
            break
        if argument.type.kind() == "TensorType":
            found.append(values(kind if place == 0 else "small", (3, 1, 5) if place == 0 else (4, 5), place))
        else:
            found.append(0.3 if place < 2 else 0.6)
    return found


@needs_compiler
@pytest.mark.parametrize("operation", sorted(OPERATIONS, key=str), ids=str)
def test_every_operation_is_the_library_s(operation):
    z, *others = arguments_of(operation)
    if not isinstance(z, torch.Tensor):  # a number to the power of a tensor
        others, z = [z], others[0]

        def function(z, *others):
            return operation(0.3, z) + torch.zeros((), dtype=torch.float64)
    else:
        numbers = [other for other in others if not isinstance(other, torch.Tensor)]

        def function(z, *tensors):
            return operation(z, *tensors, *numbers)

    tensors = [other for other in others if isinstance(other, torch.Tensor)]
    expected = function(z, *tensors)
    compiled = Compiled(make_fx(function)(z, *tensors))
    assert largest_difference(compiled.bind(tensors)(z), expected.resolve_conj()) < 1e-14


def test_operations_that_differ_by_an_option_are_not_confused():
    def function(z):
        return (
            aten.add.Tensor(z, z * z, alpha=3),
            aten.addcmul.default(z, z, z, value=-0.5),
            aten.rsub.Scalar(z, 2.0, 3.0),
        )

    z = values("real", (7, 3), 0)
    assert largest_difference(Compiled(make_fx(function)(z)).bind(())(z), function(z)) < 1e-14


def shapes_changed(z):
    turned = z.transpose(0, 2)
    flat = (turned * 2).reshape(-1)
    square = (z[0] @ z[1].mT) * 2 + 1
    parts = torch.split(z, [2, 3], dim=1)
    rows = torch.stack([row.sum(0) for row in z.unbind(0)], dim=-1)
    return (
        flat,
        torch.cat([parts[1], parts[0] + 1], dim=1),
        rows,
        z[1, ::2].exp(),
        turned[2].sum(),
        z.sum((0, 2), keepdim=True),
        square.mT - square,
    )


def tables_read(z):
    table, cells = (z * z).flatten(), (z.abs() * 10).to(torch.int64).clamp(0, z.numel() - 1)
    picked = table.expand(z.shape[0], -1).gather(-1, cells.flatten(1))
    return picked, table[cells[0, 0, :3] - 2], z[:, cells[1, 0, :2] % 4]


def added_at_places(z):
    cells = (z.abs() * 3).to(torch.int64).clamp(0, 6).flatten(1)
    sums = torch.zeros(z.shape[0], 7, dtype=z.dtype).scatter_add(1, cells, z.flatten(1).exp())
    return sums, torch.index_add(z, 1, cells[0, :3] % 5, 2 * z[:, :3])


def put_inside(z):
    return (
        aten.slice_backward.default(z * 2, [4, 9, 6], 1, 2, 7, 1),
        aten.select_backward.default(z[0] + 1, list(z.shape), 0, -1),
        aten.slice_scatter.default(z.exp(), z[:, 1:3], 1, 2, 4), aten.select_scatter.default(z, z[:, 0].sin(), 1, 3),
    )  # fmt: skip


def complex_waves(z):
    phase = torch.complex(z.cos(), -z.sin())
    product = phase[0] * phase[1] * (z[2] + 0.5)
    parts = torch.view_as_real(product.conj() - phase[3])
    image = torch.fft.irfft2(product * torch.conj(phase[1]), s=(5, 10))
    return product, parts[..., 0] * parts[..., 1], product.sum(), image, torch.cat([phase[0], phase[1][:2] * 2])


def large_planes(z):
    plane = torch.linspace(0, 1, 90, dtype=z.dtype)[:, None] + torch.linspace(0, 2, 70, dtype=z.dtype) * z[0, 0, 0]
    product = plane * z[0, 1, 1]
    around = torch.cat([product[:, 60:], product[:, :10] + product[:, 10:20]], dim=1)
    return (
        around * 2,
        (around[None] * z[:, 0, :1, None]).sum((1, 2)),
        product.reshape(-1)[5:].sum(),
        product.mT @ around,
    )


STRUCTURES = [shapes_changed, tables_read, added_at_places, put_inside, complex_waves, large_planes]


@needs_compiler
@pytest.mark.parametrize("function", STRUCTURES, ids=lambda function: function.__name__)
def test_structures_are_those_of_the_library(function):
    z = values("real", (4, 5, 6), 1)
    graph = make_fx(function)(z)
    compiled = Compiled(graph)
    assert largest_difference(compiled.bind(())(z), function(z)) < 1e-13
    assert largest_difference(compiled.bind(())(-z), graph(-z)) < 1e-13


@needs_compiler
def test_numbers_that_are_none_stay_so():
    def function(z):
        low = z.clamp(min=0.0)
        return (
            low,
            z.clamp(0.0, 1.0),
            torch.maximum(z, z[0]),
            torch.where(z > 0, z, -z),
            z.clamp(max=2).log(),
            torch.sgn(z),
        )

    z = torch.tensor([1.0, float("nan"), float("inf"), -float("inf"), 0.0, -3.0], dtype=torch.float64)
    for one, other in zip(Compiled(make_fx(function)(z)).bind(())(z), function(z), strict=True):
        assert torch.equal(one.isnan(), other.isnan())
        assert torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))


@needs_compiler
def test_threads_do_not_share_memory():
    def function(z):
        return torch.fft.rfft(z.exp().cumsum(0)).abs().sum(), (z[:, None] * z).sum(1).sin()

    points = [values("real", (300,), seed) for seed in range(40)]
    run = Compiled(make_fx(function)(points[0])).bind(())
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(run, points))
    for point, found in zip(points, together, strict=True):
        assert largest_difference(found, function(point)) < 1e-12


def test_what_one_makes_the_next_takes_from_a_register():
    def function(z):
        plane = torch.linspace(0, 1, 4000, dtype=z.dtype) * z[0]
        return ((plane.log1p() * 2 + plane) / (1 + plane)).exp().sum()

    plan = Plan(make_fx(function)(torch.ones(1, dtype=torch.float64)))
    in_memory = [item for item in plan.items if item.shape == (4000,) and plan.stored(item) is not None]
    loops = {item.key for item in plan.items if item.shape == (4000,)}
    assert (len(in_memory), len(loops)) == (0, 1)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BAYESPROF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def compile_something(number=1.0):
    return Compiled(make_fx(lambda z: z * number + 1)(torch.ones(3))).bind(())(torch.ones(3))


@needs_compiler
def test_compiled_code_is_kept_on_disk(own_cache, monkeypatch):
    first = compile_something(2.0)
    assert len(list(own_cache.glob("*.so"))) == 1
    monkeypatch.setattr(native, "_build", lambda *args: pytest.fail("compiled a second time"))
    assert torch.equal(compile_something(2.0), first)


@needs_compiler
def test_without_room_in_the_cache_it_is_compiled_all_the_same(own_cache):
    own_cache.write_text("a file where the folder would be")
    assert torch.equal(compile_something(3.0), torch.full((3,), 4.0))


@needs_compiler
def test_a_killed_compilation_leaves_no_half_of_a_library(own_cache, monkeypatch):
    run = subprocess.run

    def killed(command, **options):
        if "-o" in command:
            Path(command[command.index("-o") + 1]).write_bytes(b"half")
            raise KeyboardInterrupt
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        compile_something(4.0)
    monkeypatch.setattr(subprocess, "run", run)
    assert not list(own_cache.glob("*.so"))
    assert torch.equal(compile_something(4.0), torch.full((3,), 5.0))


def test_without_a_compiler_the_captured_graph_is_used(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/no-compiler")
    with pytest.raises(CompilerError, match="no-compiler"):
        compile_something(5.0)
    posterior = inference.Posterior(bp.Scene(image_of(), sky=models.flat_sky(), galaxy=models.exponential()))
    z = posterior.initial()[None]
    expected = posterior.log_density(z)
    with pytest.warns(UserWarning, match=r"compilation failed .*no-compiler"):
        posterior.prepare("log_density", batch=1, calls=1, compile=True)
    assert torch.allclose(posterior.log_density(z), expected, rtol=1e-12)


def test_a_graph_that_writes_into_its_tensors_is_rewritten():
    def function(z):
        spectrum = torch.fft.rfft(z)
        spectrum[1:-1].mul_(2)
        return torch.view_as_real(spectrum).sum()

    z = values("real", (16,), 0)
    captured = capture(function, z)
    with pytest.raises(CompilerError, match="mul_"):
        Compiled(captured.graph)
    assert float(Compiled(without_writes(captured, z)).bind(captured.constants)(z)) == pytest.approx(float(function(z)))


@pytest.mark.slow
@needs_compiler
def test_compiled_fits_and_samples_are_the_others_to_rounding():
    def posterior():
        return inference.Posterior(bp.Scene(image_of(), sky=models.flat_sky(), galaxy=models.exponential()))

    plain, compiled = posterior(), posterior()
    fit, same = inference.lm(plain), inference.lm(compiled, compile=True)
    assert {"expansion", "log_density", "summary", "value_and_grad"} <= {
        name for name, _ in compiled._functions._shared.compiled
    }
    assert torch.allclose(same.z, fit.z, rtol=1e-9, atol=1e-9)
    assert np.allclose(same.covariance, fit.covariance, rtol=1e-6, atol=1e-12)
    options = {"draws": 400, "seed": 2, "progress": False}
    draws, others = inference.sample(plain, **options), inference.sample(compiled, compile=True, **options)
    assert draws.attrs["verdict"] == others.attrs["verdict"] == "ok"
    assert np.allclose(draws.posterior["galaxy.flux"], others.posterior["galaxy.flux"], rtol=1e-6)


@needs_compiler
def test_what_a_faulty_compiler_makes_is_not_used(monkeypatch):
    posterior = inference.Posterior(bp.Scene(image_of(), sky=models.flat_sky(), galaxy=models.gaussian()))
    z = posterior.initial()[None]
    expected = posterior.log_density(z)
    bind = Compiled.bind
    monkeypatch.setattr(Compiled, "bind", lambda self, constants: lambda z: bind(self, constants)(z) * 1.001)
    with pytest.warns(UserWarning, match="a fault of the compiler's"):
        posterior.prepare("log_density", batch=1, calls=1, compile=True)
    assert torch.allclose(posterior.log_density(z), expected, rtol=1e-12)
