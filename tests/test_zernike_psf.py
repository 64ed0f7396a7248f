"""The PSF of an aberrated telescope: its transform against direct quadrature over the overlap of the pupil with itself,
its images against GalSim, and its symmetries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from test_psf_models import POSITIONS, error, our_image

from bayesprof import models
from bayesprof.models.zernike_psf import noll_order

PHASES: dict[int, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    4: lambda r, t: math.sqrt(3) * (2 * r**2 - 1),
    5: lambda r, t: math.sqrt(6) * r**2 * np.sin(2 * t),
    6: lambda r, t: math.sqrt(6) * r**2 * np.cos(2 * t),
    7: lambda r, t: math.sqrt(8) * (3 * r**3 - 2 * r) * np.sin(t),
    8: lambda r, t: math.sqrt(8) * (3 * r**3 - 2 * r) * np.cos(t),
    9: lambda r, t: math.sqrt(8) * r**3 * np.sin(3 * t),
    10: lambda r, t: math.sqrt(8) * r**3 * np.cos(3 * t),
    11: lambda r, t: math.sqrt(5) * (6 * r**4 - 6 * r**2 + 1),
}
"""Noll's polynomials (1976, table I), by index."""
ABERRATIONS = [
    (0.3, {4: 0.1, 5: 0.05, 11: -0.05}),
    (0.3, {9: 0.08, 6: 0.05}),
    (0.0, {4: 0.06, 10: -0.05, 6: 0.03}),
    (0.2, {7: 0.06, 8: -0.04}),
]
NODES, WEIGHTS = np.polynomial.legendre.leggauss(120)


def overlap(moved: tuple[float, float], radii: tuple[float, float], wave: Callable[..., np.ndarray]) -> complex:
    """Integral of P(u + s/2) P*(u - s/2) over where two discs overlap, by Gauss-Legendre quadrature along the line of
    their centres and across it; pieces end where their edges cross.
    """
    distance = math.hypot(*moved)
    cos, sin = (moved[0] / distance, moved[1] / distance) if distance else (1.0, 0.0)
    first, second = radii
    if distance >= first + second:
        return 0.0
    cuts = {-min(radii), min(radii)}
    if distance > abs(first - second):
        along = (distance**2 + first**2 - second**2) / (2 * distance)
        crossing = math.sqrt(max(first**2 - along**2, 0.0))
        cuts |= {-crossing, crossing}
    total = 0.0 + 0.0j
    for low, high in pairwise(sorted(cuts)):
        turn = 0.5 * math.pi * NODES  # so that the square roots at the ends are smooth
        across = 0.5 * (low + high) + 0.5 * (high - low) * np.sin(turn)
        weight = 0.25 * math.pi * (high - low) * np.cos(turn) * WEIGHTS
        halves = [np.sqrt(np.maximum(radius**2 - across**2, 0.0)) for radius in radii]
        left = np.maximum(-distance / 2 - halves[0], distance / 2 - halves[1])
        right = np.maximum(np.minimum(-distance / 2 + halves[0], distance / 2 + halves[1]), left)
        along = 0.5 * (left + right)[:, None] + 0.5 * (right - left)[:, None] * NODES
        x, y = along * cos - across[:, None] * sin, along * sin + across[:, None] * cos
        shift = (0.5 * moved[0], 0.5 * moved[1])
        phase = wave(x + shift[0], y + shift[1]) - wave(x - shift[0], y - shift[1])
        total += weight @ (0.5 * (right - left) * (np.exp(1j * phase) @ WEIGHTS))
    return total


def transform(kx: float, ky: float, scale: float, inner: float, aberrations: dict[int, float]) -> complex:
    """Transform of the PSF, with the centroid wherever it is."""

    def wave(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        r, t = np.hypot(x, y), np.arctan2(y, x)
        return 2 * math.pi * sum(a * PHASES[j](r, t) for j, a in aberrations.items())

    moved = (kx * scale / math.pi, ky * scale / math.pi)
    total = overlap(moved, (1.0, 1.0), wave)
    if inner:
        total -= overlap(moved, (1.0, inner), wave) + overlap(moved, (inner, 1.0), wave)
        total += overlap(moved, (inner, inner), wave)
    return total / (math.pi * (1 - inner**2))


def centroid(scale: float, inner: float, aberrations: dict[int, float]) -> tuple[float, float]:
    """Of the PSF of coma, pixels: the mean slope of the wavefront over the pupil, by quadrature over rings."""
    r = 0.5 * (1 + inner) + 0.5 * (1 - inner) * NODES
    weight = (1 - inner) / (1 - inner**2) * r * WEIGHTS
    # the mean over the angle of the derivative of R(r) cos t along x is (R' + R / r) / 2; and of the sine, along y
    slope = math.sqrt(8) * float(weight @ (0.5 * (9 * r**2 - 2 + 3 * r**2 - 2)))
    return tuple(-scale * 2 * aberrations.get(j, 0.0) * slope for j in (8, 7))


@pytest.mark.parametrize(("inner", "aberrations"), ABERRATIONS)
def test_transform_is_the_overlap_of_the_pupil_with_itself(inner, aberrations):
    scale = 2.0
    k = np.linspace(-3.0, 3.0, 11)
    expected = np.array([[transform(kx, ky, scale, inner, aberrations) for kx in k[5:]] for ky in k])
    plane = torch.as_tensor(k)
    psf = models.ZernikePSF(scale, inner, list(aberrations.values()), noll=tuple(aberrations))
    found = psf.transform_at(plane[None, 5:], plane[:, None]).numpy()
    if 7 in aberrations:
        x, y = centroid(scale, inner, aberrations)
        moved = np.exp(1j * (k[None, 5:] * x + k[:, None] * y))
        assert np.linalg.norm(found - expected) > 0.1 * np.linalg.norm(expected)
        expected = expected * moved
    # the squared error of an image is the sum of those of its transform
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("disk", [False, True], ids=["star", "disk"])
def test_image_agrees_with_galsim(disk):
    galsim = pytest.importorskip("galsim")
    aberrations = {5: 0.05, 6: -0.04, 9: 0.05, 11: 0.03}
    listed = [aberrations.get(j, 0.0) for j in range(12)]
    psf = models.ZernikePSF(2.0, 0.3, list(aberrations.values()), noll=tuple(aberrations))
    reference = galsim.OpticalPSF(lam_over_diam=2.0, aberrations=listed, obscuration=0.3, oversampling=3)
    parts = [reference, galsim.Pixel(1.0)]
    if disk:
        parts.append(galsim.Exponential(half_light_radius=4 * math.sqrt(0.5)).shear(q=0.5, beta=0.3 * galsim.radians))
    (x, y), (ny, nx) = POSITIONS[0], (60, 85)
    offset = (x - (nx - 1) / 2, y - (ny - 1) / 2)
    drawn = galsim.Convolve(parts).drawImage(nx=nx, ny=ny, scale=1.0, method="no_pixel", offset=offset, dtype=float)
    # GalSim's pupil has samples that are open or closed: at this sampling of it, its stars are off by 1e-3
    assert error(our_image(psf, disk, (x, y)), drawn.array) < 2e-3


def test_without_aberrations_it_is_an_airy_psf():
    k = torch.linspace(-3.0, 3.0, 13, dtype=torch.float64)
    found = models.ZernikePSF(1.7, 0.4, [0.0] * 8).transform_at(k[None, :], k[:, None])
    expected = models.AiryPSF(1.7, 0.4).transform_at(k[None, :], k[:, None]).to(found.dtype)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_indices_are_those_of_noll():
    found = [tuple(noll_order(j)) for j in range(1, 16)]
    assert found == [
        (0, 0), (1, 1), (1, -1), (2, 0), (2, -2), (2, 2), (3, -1), (3, 1), (3, -3), (3, 3), (4, 0), (4, 2), (4, -2),
        (4, 4), (4, -4),
    ]  # fmt: skip


def test_change_of_sign_of_the_even_aberrations_leaves_the_psf_as_it_is():
    k = torch.linspace(-3.0, 3.0, 13, dtype=torch.float64)
    one = models.ZernikePSF(2.0, 0.3, [0.05, -0.03, 0.06], noll=(4, 6, 9)).transform_at(k[None, :], k[:, None])
    other = models.ZernikePSF(2.0, 0.3, [-0.05, 0.03, 0.06], noll=(4, 6, 9)).transform_at(k[None, :], k[:, None])
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
