"""The linear operator that makes correlated noise independent, pixel by pixel.

Each unmasked pixel w_i, given those before it in the order of reading, has the mean sum_j b_ij w_j and the standard
deviation s_i. u_i = (w_i - sum_j b_ij w_j) / s_i are then independent with variance 1, and the density of w is the
product of Normal(u_i; 0, 1) / s_i: an exact factorisation, masks and edges included, without a matrix of all pixels.

b_ij falls off quickly, and a pixel is predicted from those that matter alone (Vecchia 1988, JRSS B 50, 297): those with
the largest b away from masks and edges, and, for pixels beside masked ones, all nearby. What that loses is known:
predicted from all pixels before it a pixel has the variance exp(mean of the logarithm of the power spectrum) (Helson &
Lowdenslager 1958, Acta Math. 99, 165), so that the divergence from the exact density, away from masks and edges, is
half the logarithm of the ratio of the two variances. As many pixels are taken as bring it below TOLERANCE.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from bayesprof.correlation import NoiseCorrelation, power_spectrum
from bayesprof.sparse import Rows, by_rows, sparse_product

TOLERANCE = 1e-5
"""Kullback-Leibler divergence a pixel from the exact density, in nats: the spectra differ by 0.6 per cent."""

_SPAN = 12  # distance along an axis of the farthest pixels that may matter
_NEAR = 4.3  # and within which, on the plane, all are taken; beside masks more of them matter
_MOST = 150  # pixels that one is predicted from
_WORTH_A_WORD = 1e-2  # divergence a pixel: a fifth in the spectrum, where there is next to no power
_TOGETHER = 4_000_000  # entries of the systems solved at once


@dataclass(frozen=True, eq=False)
class Decorrelation:
    """The operator for the unmasked pixels of an image.

    Attributes
    ----------
    rows, columns : tuples of three Tensors
        The operator and its transpose, as :func:`bayesprof.sparse.sparse_product` takes them, over all pixels; those
        of masked ones are empty.
    scale : Tensor, shape (ny, nx)
        s, the standard deviation of each pixel given those before it, in (0, 1]; 1 where masked.
    precision : Tensor, shape (ny, nx)
        Diagonal of the inverse of the correlation matrix of the unmasked pixels; 1 where masked.
    root : Tensor
        Square root of the power spectrum on a torus larger than the image by the reach of the correlation.
    before : ndarray, shape (k, 2)
        Places (dy, dx) of the pixels that one is predicted from.
    divergence : float
        From the exact density, in nats a pixel.
    """

    rows: Rows
    columns: Rows
    scale: Tensor
    precision: Tensor
    root: Tensor
    before: np.ndarray
    divergence: float

    def __call__(self, noise: Tensor) -> Tensor:
        """u of `noise` w, shape (..., ny, nx); 0 where masked."""
        return sparse_product(noise, *self.rows, *self.columns)

    def transposed(self, values: Tensor) -> Tensor:
        """The transpose of the operator, of `values` of shape (..., ny, nx)."""
        return sparse_product(values, *self.columns, *self.rows)

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Random w of shape ``shape + (ny, nx)``, masked pixels as the others: cut out of noise on a torus, where no
        two of them are close across its seam.
        """
        ny, nx = self.scale.shape
        torus = self.root.shape
        white = torch.randn((*shape, *torus), dtype=self.root.dtype, device=self.root.device)
        return torch.fft.ifft2(torch.fft.fft2(white) * self.root).real[..., :ny, :nx]


def decorrelation(
    correlation: NoiseCorrelation,
    valid: np.ndarray,
    *,
    span: int | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Decorrelation:
    """The operator for noise of a `correlation` in the pixels where `valid`, a boolean array (ny, nx), is True.

    Each pixel is predicted from those before it that matter, 40 to 80 in most cases; or with `span` from all within as
    many rows and columns, exactly where that is more than the image has. The operator takes 24 bytes for each of them
    and each pixel: 18 MB for 121x121 pixels, 300 MB for 500x500.

    Raises
    ------
    ValueError
        Where the correlation leaves nothing of a pixel unexplained by its neighbours.

    Warns
    -----
    UserWarning
        Where all pixels that may be taken still leave a difference from the exact density.

    Examples
    --------
    >>> noise = NoiseCorrelation.of_kernel([[0.1, 0.3, 0.1], [0.3, 1.0, 0.3], [0.1, 0.3, 0.1]])
    >>> make_independent = decorrelation(noise, np.ones((40, 50), dtype=bool))
    >>> w = make_independent.draw((100,))
    >>> round(w.std().item(), 1), round(make_independent(w).std().item(), 1)
    (1.0, 1.0)
    """
    before, divergence = _that_matter(correlation) if span is None else _within(correlation, span)
    if divergence > _WORTH_A_WORD:
        warnings.warn(
            f"decorrelation: {len(before)} pixels before each leave {divergence:.2g} nats a pixel between the "
            "likelihood and that of the correlation given, whose power almost vanishes at some wavenumber; raise it "
            "with bayesprof.correlation.nearest",
            stacklevel=2,
        )
    span = int(np.abs(before).max())
    y, x = np.nonzero(valid)
    ny, nx = valid.shape
    padded = np.pad(valid, span)
    seen = np.stack([padded[y + span + dy, x + span + dx] for dy, dx in before], axis=1)
    # pixels with the same neighbours unmasked, most of them away from masks and edges, share their coefficients
    packed = np.packbits(seen, axis=1)
    _, first, kind = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    weights, variance = _predicted(correlation, before, seen[first])
    scale = np.sqrt(variance)
    kind = kind.ravel()
    own = y * nx + x
    here, offset = np.nonzero(seen)
    there = (y[here] + before[offset, 0]) * nx + x[here] + before[offset, 1]
    values = -weights[kind[here], offset] / scale[kind[here]]
    entries = np.concatenate([values, 1 / scale[kind]]), np.concatenate([own[here], own]), np.concatenate([there, own])
    matrix = scipy.sparse.csr_matrix((entries[0], entries[1:]), shape=(ny * nx, ny * nx))
    precision = np.asarray(matrix.multiply(matrix).sum(axis=0)).reshape(ny, nx)
    planes = np.ones((2, ny, nx))
    planes[0, y, x], planes[1, y, x] = scale[kind], precision[y, x]
    torus = (ny + correlation.reach, nx + correlation.reach)
    root = np.sqrt(np.maximum(power_spectrum(correlation.values, torus), 0.0))
    sparse = [by_rows(one, dtype, torch.device(device)) for one in (matrix, matrix.T)]
    tensors = [torch.as_tensor(plane, dtype=dtype, device=device) for plane in (*planes, root)]
    return Decorrelation(sparse[0], sparse[1], tensors[0], tensors[1], tensors[2], before, divergence)


def _predicted(correlation: NoiseCorrelation, before: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights (n, k) of the pixels at the places `before` in the best prediction from those that are `seen` (n, k),
    and its variance (n,).
    """
    between = torch.from_numpy(correlation.at(*np.moveaxis(before[:, None] - before[None], -1, 0)))
    to = torch.from_numpy(correlation.at(*before.T))
    size = max(1, _TOGETHER // len(before) ** 2)
    weights = []
    for part in torch.from_numpy(seen).split(size):
        kept = part.to(torch.float64)
        system = between * kept[:, :, None] * kept[:, None, :] + torch.diag_embed(1 - kept)
        factor, failed = torch.linalg.cholesky_ex(system)
        if bool(failed.any()):
            raise ValueError(
                "decorrelation: expected noise of which each pixel has some of its own, got a correlation that lets "
                "pixels follow from their neighbours; raise its least power with bayesprof.correlation.nearest"
            )
        weights.append(torch.cholesky_solve((to * kept)[..., None], factor)[..., 0])
    found = torch.cat(weights)
    return found.numpy(), (1 - found @ to).numpy()


def _all(span: int) -> np.ndarray:
    """Places (dy, dx) of the pixels within `span` that are read before a pixel."""
    return np.array([(dy, dx) for dy in range(-span, 1) for dx in range(-span, span + 1) if (dy, dx) < (0, 0)])


def _within(correlation: NoiseCorrelation, span: int) -> tuple[np.ndarray, float]:
    before = _all(span)
    return before, _divergence(correlation, before)


def _that_matter(correlation: NoiseCorrelation) -> tuple[np.ndarray, float]:
    """Places of the pixels to predict one from, and the divergence that they leave."""
    candidates = _all(_SPAN)
    weights = np.abs(_predicted(correlation, candidates, np.ones((1, len(candidates)), dtype=bool))[0][0])
    order = np.argsort(-weights, kind="stable")
    near = np.hypot(*candidates.T) < _NEAR
    count = 8
    while True:
        taken = near.copy()
        taken[order[:count]] = True
        before = candidates[taken]
        divergence = _divergence(correlation, before)
        if divergence < TOLERANCE or count >= _MOST:
            return before, divergence
        count += 4


def _divergence(correlation: NoiseCorrelation, before: np.ndarray) -> float:
    variance = _predicted(correlation, before, np.ones((1, len(before)), dtype=bool))[1][0]
    return float(0.5 * (np.log(variance) - np.log(np.maximum(correlation.power, 1e-12)).mean()))
