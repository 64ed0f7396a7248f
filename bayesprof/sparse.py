"""Products of a fixed sparse matrix and images, differentiable and batched in every way that inference asks for.

In a captured graph a product is one operation (:data:`PRODUCT`), which torch.func can't differentiate.
:func:`sparse_product` is the same with its derivatives, and takes its place in graphs that may be differentiated.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

Rows = tuple[Tensor, Tensor, Tensor]
"""A square matrix in compressed sparse rows: where each row starts, the columns, and the values."""


@torch.library.custom_op("bayesprof::sparse_product", mutates_args=())
def _product(
    x: Tensor, starts: Tensor, columns: Tensor, values: Tensor, t_starts: Tensor, t_columns: Tensor, t_values: Tensor
) -> Tensor:
    size = len(starts) - 1
    matrix = torch.sparse_csr_tensor(starts, columns, values, size=(size, size))
    return (matrix @ x.reshape(-1, size).mT).mT.reshape(x.shape).contiguous()


@_product.register_fake
def _(x: Tensor, *matrix: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


PRODUCT = torch.ops.bayesprof.sparse_product.default


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, *matrix: Tensor) -> Tensor:
        return PRODUCT(x, *matrix)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        matrix = ctx.saved_tensors
        return _Product.apply(slopes[0], *matrix[3:], *matrix[:3]), *[None] * 6

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _Product.apply(tangents[0], *ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, *matrix: Tensor) -> Any:
        if any(axis is not None for axis in in_dims[1:]):
            raise NotImplementedError("sparse_product: one matrix for all of a batch")
        return _Product.apply(x.movedim(in_dims[0], 0), *matrix), 0


def sparse_product(
    x: Tensor, starts: Tensor, columns: Tensor, values: Tensor, t_starts: Tensor, t_columns: Tensor, t_values: Tensor
) -> Tensor:
    """A matrix times images `x` of shape (..., ny, nx), each as a vector; the matrix by rows, and its transpose by
    rows, which is that of the derivatives.
    """
    return _Product.apply(x, starts, columns, values, t_starts, t_columns, t_values)


def by_rows(matrix: Any, dtype: torch.dtype, device: torch.device) -> Rows:
    """A scipy sparse matrix as what :func:`sparse_product` takes."""
    found = scipy.sparse.csr_matrix(matrix)
    found.sort_indices()
    with warnings.catch_warnings():
        # said once in a process, of a layout that isn't going to change
        warnings.filterwarnings("ignore", message="Sparse")
        torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), size=(1, 1))
    starts, columns = (torch.as_tensor(part.astype(np.int32), device=device) for part in (found.indptr, found.indices))
    return starts, columns, torch.as_tensor(found.data, dtype=dtype, device=device)
