"""What all tests share."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch

import bayesprof as bp

# The tests' arrays are small, so threads cost more than they bring, and one thread sums in one order: what is claimed
# to be equal to the last digits doesn't depend on the machine.
torch.set_num_threads(1)

with warnings.catch_warnings():
    # The first forward derivative loads this module, which warns that torch's own torch.jit.script is deprecated.
    # Loaded here, the warning can't turn into an error in whichever test comes first.
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch._decomp.decompositions_for_jvp

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def shared_data() -> Callable[..., Path]:
    """Path of a file in the shared data folder beside the repository; skips the test where it is absent."""

    def path(*parts: str) -> Path:
        found = REPOSITORY.parent.joinpath("shared", "data", *parts)
        if not found.exists():
            pytest.skip(f"shared data file {found} is absent")
        return found

    return path


@pytest.fixture(autouse=True)
def _same_draws_and_no_traces_left() -> None:
    """Each test starts from the same seeds, whatever ran before it."""
    torch.manual_seed(20)
    pyro.clear_param_store()


@pytest.fixture(scope="session")
def moffat_psf() -> np.ndarray:
    """A Moffat PSF (11x13 pixels, FWHM 3 pixels), sum 1."""
    y, x = np.mgrid[-5:6, -6:7].astype(float)
    psf = (1 + (x**2 + y**2) / 3.4) ** -2.8
    return psf / psf.sum()


@pytest.fixture(scope="session")
def simulated(moffat_psf) -> Callable[..., bp.Image]:
    """Image of a light with Gaussian noise of standard deviation `sigma`, 26 rows of 33 pixels."""
    from bayesprof.rendering import renderer_for

    def simulate(light, *, sigma: float = 0.5, seed: int = 3, **options) -> bp.Image:
        options = {"psf": moffat_psf, **options}
        blank = bp.Image(np.zeros((26, 33)), sigma=sigma, **options)
        truth = renderer_for(blank)(light).numpy()
        noise = np.random.default_rng(seed).normal(0.0, sigma, truth.shape)
        return bp.Image(truth + noise, sigma=sigma, **options)

    return simulate
