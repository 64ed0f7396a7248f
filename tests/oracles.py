"""Images computed by other means than ours, for the tests of the renderer and for benchmarks/accuracy.py.

- `convolved`: with a Moffat PSF, in Fourier space over a period several times larger than the image, with the closed
  form of the Moffat transform, explicit aliases, and the light of the periodic copies taken off one by one.
- `integrated`: without a PSF, by real-space quadrature over cells that shrink towards the centre; and `blurred`: the
  same on cells finer than pixels, then through a PSF. Both for light of any shape.
- `galsim_image`: GalSim with tightened accuracy parameters; None where it needs too large a transform.
- `hankel_transform`: the transform of a Sersic profile by quadrature of its definition.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.special import gamma, gammaincc, gammaincinv, j0, kv

from bayesprof.models.sersic import sersic_transform


@dataclass(frozen=True)
class Source:
    """A Sersic profile of flux 1 (conventions: bayesprof.grid)."""

    x: float
    y: float
    r_eff: float
    n: float
    q: float
    theta: float

    def brightness(self, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        """Surface brightness at offsets from the centre."""
        b = gammaincinv(2 * self.n, 0.5)
        norm = b ** (2 * self.n) / (2 * math.pi * self.n * self.q * self.r_eff**2 * gamma(2 * self.n))
        cos, sin = math.cos(self.theta), math.sin(self.theta)
        radius = np.hypot(dx * cos + dy * sin, (dy * cos - dx * sin) / self.q) / self.r_eff
        return norm * np.exp(-b * radius ** (1 / self.n))

    def light_beyond(self, radius: float) -> float:
        """Fraction of the light outside an elliptical radius."""
        return float(gammaincc(2 * self.n, gammaincinv(2 * self.n, 0.5) * (radius / self.r_eff) ** (1 / self.n)))

    def transform(self, kx: np.ndarray, ky: np.ndarray) -> np.ndarray:
        """Fourier transform, without the shift.

        `sersic_transform`, itself tested against `hankel_transform`, between dense nodes.
        """
        cos, sin = math.cos(self.theta), math.sin(self.theta)
        kappa = self.r_eff * np.hypot(kx * cos + ky * sin, self.q * (ky * cos - kx * sin))
        log_nodes = np.linspace(math.log(1e-4), math.log(kappa.max() * 1.01), 1500)
        spline = CubicSpline(log_nodes, sersic_transform(np.exp(log_nodes), self.n))
        small = kappa < 2e-4
        return np.where(small, 1.0, spline(np.log(np.where(small, 1.0, kappa))))


@dataclass(frozen=True)
class Moffat:
    """A circular Moffat PSF of flux 1, without the pixel."""

    fwhm: float
    beta: float

    @property
    def scale(self) -> float:
        return self.fwhm / (2 * math.sqrt(2 ** (1 / self.beta) - 1))

    def brightness(self, radius_squared: np.ndarray) -> np.ndarray:
        return (self.beta - 1) / (math.pi * self.scale**2) * (1 + radius_squared / self.scale**2) ** -self.beta

    def transform(self, k: np.ndarray) -> np.ndarray:
        nodes = np.linspace(1e-6, k.max() * 1.01 + 1e-3, 6000)
        z = nodes * self.scale
        values = 2 ** (2 - self.beta) / gamma(self.beta - 1) * z ** (self.beta - 1) * kv(self.beta - 1, z)
        return CubicSpline(nodes, values)(np.maximum(k, 1e-6))

    def stamp(self, shape: tuple[int, int], *, oversampling: int = 1, with_pixel: bool = True) -> np.ndarray:
        """The PSF sampled every 1/oversampling pixel about the middle of `shape`, sum 1."""
        y, x = ((np.arange(size) - (size - 1) / 2) / oversampling for size in shape)
        if not with_pixel:
            stamp = self.brightness(x[None, :] ** 2 + y[:, None] ** 2)
            return stamp / stamp.sum()
        nodes, weights = np.polynomial.legendre.leggauss(12)
        stamp = sum(
            0.25 * wx * wy * self.brightness((x[None, :] + 0.5 * a) ** 2 + (y[:, None] + 0.5 * b) ** 2)
            for a, wx in zip(nodes, weights, strict=True)
            for b, wy in zip(nodes, weights, strict=True)
        )
        return stamp / stamp.sum()


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """Relative L2 error of an image."""
    return float(np.linalg.norm(np.asarray(found, dtype=float) - expected) / np.linalg.norm(expected))


def convolved(
    source: Source | tuple[float, float], psf: Moffat, shape: tuple[int, int], *, period: int = 512
) -> np.ndarray:
    """Image of a source, or of a point of flux 1 at (x, y), seen through the PSF and integrated over pixels."""
    x0, y0 = (source.x, source.y) if isinstance(source, Source) else source
    ny, nx = shape
    row, column = 2 * np.pi * np.fft.fftfreq(period)[:, None], 2 * np.pi * np.fft.rfftfreq(period)[None, :]
    spectrum = np.zeros((period, period // 2 + 1), dtype=complex)
    for a in (-1, 0, 1):
        for b in (-1, 0, 1):
            kx, ky = column + 2 * np.pi * a, row + 2 * np.pi * b
            amplitude = psf.transform(np.hypot(kx, ky)) * np.sinc(kx / (2 * np.pi)) * np.sinc(ky / (2 * np.pi))
            if isinstance(source, Source):
                amplitude = amplitude * source.transform(kx, ky)
            spectrum += amplitude * np.exp(-1j * (kx * x0 + ky * y0))
    image = np.fft.irfft2(spectrum, s=(period, period))[:ny, :nx]
    if not isinstance(source, Source):
        return image
    dx, dy = np.arange(nx)[None, :] - x0, np.arange(ny)[:, None] - y0
    around = [(i, j) for i in (-2, -1, 0, 1, 2) for j in (-2, -1, 0, 1, 2) if (i, j) != (0, 0)]
    for i, j in around:
        image = image - source.brightness(dx + i * period, dy + j * period)
    # all copies farther out, spread evenly; the circle of the same area as the 5x5 periods
    return image - source.light_beyond(5 * period / math.sqrt(math.pi * source.q)) / period**2


def integrated(source: Source | Contoured, shape: tuple[int, int], *, order: int = 16) -> np.ndarray:
    """Image of a source integrated over pixels, without a PSF; `order` nodes along each side of a cell."""
    ny, nx = shape
    column, row = np.meshgrid(np.arange(nx), np.arange(ny))
    image = np.zeros(shape)
    # cells: middle (relative to the centre), size, and the pixel they belong to
    cx, cy, size = column.ravel() - source.x, row.ravel() - source.y, 1.0
    pixel = np.arange(nx * ny)
    nodes, weights = np.polynomial.legendre.leggauss(order)
    square = 0.25 * np.outer(weights, weights)
    while len(pixel) and size > 1e-10:
        # Chebyshev distance of the nearest point, along the minor axis at worst a factor q farther in
        outside = np.maximum(np.abs(cx), np.abs(cy)) - 0.5 * size
        done = outside > size / source.q
        for chunk in np.array_split(np.flatnonzero(done), max(1, int(done.sum()) // 2000)):
            dx = cx[chunk, None, None] + 0.5 * size * nodes[None, None, :]
            dy = cy[chunk, None, None] + 0.5 * size * nodes[None, :, None]
            values = (source.brightness(dx, dy) * square).sum(axis=(1, 2)) * size**2
            np.add.at(image.reshape(-1), pixel[chunk], values)
        cx, cy, pixel = cx[~done], cy[~done], pixel[~done]
        quarter = 0.25 * size
        cx = np.concatenate([cx + sx * quarter for sx in (-1, 1) for _ in (-1, 1)])
        cy = np.concatenate([cy + sy * quarter for _ in (-1, 1) for sy in (-1, 1)])
        pixel = np.tile(pixel, 4)
        size *= 0.5
    return image


@dataclass(frozen=True)
class Contoured:
    """Light about (x, y) of any surface brightness, a function of offsets; `q`: how thin it is at most."""

    x: float
    y: float
    q: float
    surface: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def brightness(self, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        return self.surface(dx, dy)


def blurred(
    source: Contoured, psf: Moffat, shape: tuple[int, int], *, fine: int = 5, margin: int = 16, order: int = 4
) -> np.ndarray:
    """Image of light that ends within `margin` of the image, through the PSF and integrated over pixels.

    It is integrated over cells of 1/`fine` pixel (odd), and the cell is taken out of their transform again. Six nodes a
    side instead of four change the images of the tests by 3e-8.
    """
    ny, nx = (size + 2 * margin for size in shape)
    cells = Contoured(
        (source.x + margin + 0.5) * fine - 0.5,
        (source.y + margin + 0.5) * fine - 0.5,
        source.q,
        lambda dx, dy: source.brightness(dx / fine, dy / fine) / fine**2,
    )
    spectrum = np.fft.rfft2(integrated(cells, (ny * fine, nx * fine), order=order))
    ky, kx = 2 * np.pi * fine * np.fft.fftfreq(ny * fine)[:, None], 2 * np.pi * fine * np.fft.rfftfreq(nx * fine)[None]
    for k in (kx, ky):
        spectrum = spectrum * np.sinc(k / (2 * np.pi)) / np.sinc(k / (2 * np.pi * fine))
    image = fine**2 * np.fft.irfft2(spectrum * psf.transform(np.hypot(kx, ky)), s=(ny * fine, nx * fine))
    first = margin * fine + fine // 2
    return image[first::fine, first::fine][: shape[0], : shape[1]]


def galsim_image(
    source: Source, psf: Moffat | None, shape: tuple[int, int], *, folding: float = 1e-5, largest: int = 16384
) -> np.ndarray | None:
    """GalSim's image, or None where its transform would be larger than `largest`."""
    import galsim

    settings = galsim.GSParams(
        folding_threshold=folding,
        maxk_threshold=1e-5 if psf is not None else 1e-6,  # nothing but the profile itself falls off without a PSF
        kvalue_accuracy=1e-8,
        stepk_minimum_hlr=20,
        maximum_fft_size=largest,
    )
    light = galsim.Sersic(source.n, half_light_radius=source.r_eff * math.sqrt(source.q), gsparams=settings)
    light = light.shear(q=source.q, beta=source.theta * galsim.radians)
    parts = [light] if psf is None else [light, galsim.Moffat(psf.beta, fwhm=psf.fwhm, gsparams=settings)]
    scene = galsim.Convolve([*parts, galsim.Pixel(1.0, gsparams=settings)], gsparams=settings)
    ny, nx = shape
    offset = (source.x - (nx - 1) / 2, source.y - (ny - 1) / 2)
    with warnings.catch_warnings():
        # GalSim only warns, and then asks for 50 GB or more
        warnings.simplefilter("error", galsim.errors.GalSimFFTSizeWarning)
        try:
            return scene.drawImage(nx=nx, ny=ny, scale=1.0, method="no_pixel", offset=offset, dtype=float).array
        except (galsim.errors.GalSimFFTSizeError, galsim.errors.GalSimFFTSizeWarning):
            return None


def hankel_transform(kappa: float, n: float) -> float:
    """Transform of the circular Sersic profile with unit flux and r_eff: Gauss-Legendre, half a period at a time."""
    b = gammaincinv(2 * n, 0.5)
    norm = b ** (2 * n) / (n * gamma(2 * n))
    last = ((80 if kappa < 1 else 55) / b) ** n  # the rest is exp(-80), or oscillates and is exp(-55) at its first zero
    first = min(1 / kappa, last)
    edges = np.concatenate(
        [[0.0], np.geomspace(1e-12 * first, first, 60), np.arange(first, last, math.pi / kappa)[1:], [last]]
    )
    nodes, weights = np.polynomial.legendre.leggauss(24)
    total = 0.0
    for low, high in zip(np.array_split(edges[:-1], 50), np.array_split(edges[1:], 50), strict=True):
        r = 0.5 * (low + high)[:, None] + 0.5 * (high - low)[:, None] * nodes
        values = norm * np.exp(-b * r ** (1 / n)) * j0(kappa * r) * r
        total += float((values @ weights) @ (0.5 * (high - low)))
    return total
