"""Complex arithmetic rewritten for the compiler: the same values, from real operations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bayesprof.inference.capture import capture
from bayesprof.inference.real_pairs import in_real_arithmetic

torch.manual_seed(5)
PLANE = torch.randn(6, 8, dtype=torch.complex128)
REAL = torch.randn(6, 8, dtype=torch.float64)
Z = torch.tensor([0.3, -1.2, 0.7], dtype=torch.float64)


def wave(z: Tensor) -> Tensor:
    return torch.complex(torch.cos(REAL * z[0]), torch.sin(REAL * z[1]))


FUNCTIONS = {
    "products": lambda z: (wave(z) * PLANE * REAL * 2.0 * (z[2] * wave(z))).real,
    "sums": lambda z: torch.view_as_real(wave(z) + PLANE - wave(z) * PLANE.conj() - (-wave(z))),
    "imaginary number": lambda z: (wave(z) * 1j).real,
    "shapes": lambda z: (wave(z).mT.reshape(4, 12)[:, 1:7].unsqueeze(0).sum(1) * z[0]).real,
    "both parts": lambda z: torch.view_as_real(wave(z)).select(-1, 1) * torch.view_as_real(wave(z)).sum(-1),
    "there and back": lambda z: torch.fft.irfft2(
        torch.fft.rfft2(REAL * z[0]) * wave(z)[:, :5] * PLANE[:, :5], s=(6, 8)
    ),
}


def complex_operations(graph: torch.fx.GraphModule, constants: tuple[Tensor, ...]) -> list[str]:
    """Names of the operations whose results are complex."""
    done: list[str] = []

    class Watched(torch.fx.Interpreter):
        def call_function(self, target, args, kwargs):
            result = super().call_function(target, args, kwargs)
            if isinstance(result, Tensor) and result.is_complex():
                done.append(str(target))
            return result

    Watched(graph).run(Z, *constants)
    return done


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("derivative", [False, True], ids=["value", "gradient"])
def test_values_are_the_same(name, derivative):
    function = FUNCTIONS[name]
    if derivative:
        function = torch.func.grad(lambda z: FUNCTIONS[name](z).square().sum())
    captured = capture(function, Z)
    rewritten = in_real_arithmetic(captured.graph)
    torch.testing.assert_close(
        rewritten(Z, *captured.constants), captured.graph(Z, *captured.constants), rtol=1e-13, atol=1e-13
    )


def test_complex_arrays_remain_around_transforms_only():
    captured = capture(torch.func.grad(lambda z: FUNCTIONS["there and back"](z).square().sum()), Z)
    before = complex_operations(captured.graph, captured.constants)
    after = complex_operations(in_real_arithmetic(captured.graph), captured.constants)
    assert any("mul.Tensor" in name for name in before)
    assert after
    assert not any("mul.Tensor" in name or "add.Tensor" in name for name in after)
