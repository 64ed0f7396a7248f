"""A PSF that varies over the image, in Fourier space: one transform for each of its stamps.

The polynomial of the position weights the transforms as it weights the stamps, so that a source is multiplied by the
transform of the PSF at its own centre, and derivatives with respect to the position hold that of the PSF.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayesprof.psf_field import PSFField, polynomial_terms
from bayesprof.transfer import pixel_transform, psf_transform, wavenumbers


@dataclass(frozen=True)
class FieldTransfer:
    """The transform of the PSF at any position.

    `degree`: of the polynomial; `offset`, `scale`: (x, y), pixels; `last`: position of the last pixel of the image, (x,
    y); beyond the image the PSF stays that of its edge. `real`, `imaginary`: transforms of the stamps, shape (count,
    rows, columns); `totals`: their sums.
    """

    degree: int
    offset: tuple[float, float]
    scale: tuple[float, float]
    last: tuple[int, int]
    real: Tensor
    imaginary: Tensor
    totals: Tensor

    def at(self, x: Tensor, y: Tensor) -> Tensor:
        """Transform of the PSF at `x`, `y` of shape ``batch``: complex, shape ``batch + (rows, columns)``."""
        u, v = (
            (position.clamp(-0.5, last + 0.5) - offset) * (1 / scale)
            for position, last, offset, scale in zip((x, y), self.last, self.offset, self.scale, strict=True)
        )
        u, v = torch.broadcast_tensors(u, v)
        terms = torch.stack(polynomial_terms(u, v, self.degree), dim=-1)
        weights = terms / (terms @ self.totals)[..., None]
        return torch.complex(*(torch.tensordot(weights, part, dims=1) for part in (self.real, self.imaginary)))


def field_transfer(
    field: PSFField,
    shape: tuple[int, int],
    period: tuple[int, int],
    *,
    contains_pixel: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> FieldTransfer:
    """`field` on the wavenumbers of a transform of `period` pixels, for an image of `shape` (ny, nx)."""
    kx, ky = wavenumbers(period, field.oversampling)
    stamps = torch.tensor(field.stamps)
    transforms = psf_transform(stamps, kx, ky, field.oversampling)
    if not contains_pixel:
        transforms = transforms * pixel_transform(kx) * pixel_transform(ky)
    planes = (transforms.real, transforms.imag, stamps.sum((-1, -2)))
    real, imaginary, totals = (plane.to(dtype=dtype, device=device) for plane in planes)
    ny, nx = shape
    return FieldTransfer(field.degree, field.offset, field.scale, (nx - 1, ny - 1), real, imaginary, totals)
