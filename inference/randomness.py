"""Random numbers from explicit seeds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import lowrank_multivariate_normal, multivariate_normal, normal


def seeds_from(seed: int, count: int) -> list[int]:
    """`count` seeds derived from one."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2**31 - 1, (count,), generator=generator).tolist()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Runs its block from a seed and leaves the states of torch's generators, of the CPU and of CUDA devices in use,
    as they were.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
        set_seed(seed)
        yield


def set_seed(seed: int) -> None:
    """Seed torch's generators. ``torch.manual_seed`` takes milliseconds to look for devices that aren't in use."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def standard_normals(like: Tensor, generator: np.random.Generator) -> Tensor:
    """Standard normal numbers, as many as `like` has: numpy's, which takes half the time of torch in float64."""
    return torch.from_numpy(generator.standard_normal(tuple(like.shape))).to(like)


@contextmanager
def normals_in_batches() -> Iterator[None]:
    """Lets torch's normal distributions draw under vmap, which can't fill a tensor in place with random numbers."""

    def standard_normal(shape: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.randn(shape, dtype=dtype, device=device)

    modules: tuple[Any, ...] = (normal, multivariate_normal, lowrank_multivariate_normal)
    own = [module._standard_normal for module in modules]
    for module in modules:
        module._standard_normal = standard_normal
    try:
        yield
    finally:
        for module, function in zip(modules, own, strict=True):
            module._standard_normal = function
