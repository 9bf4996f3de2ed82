"""Weight gradients of disjoint parts of a batch, and their inner products."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alignlab.kernels.cosines import wide
from alignlab.kernels.layers import linear_part

__all__ = ["chunk_gradients", "chunk_gram"]


def chunk_gradients(module: nn.Module, x: Tensor, signal: Tensor) -> Tensor:
    """Return the weight gradient of every chunk, summed over its samples.

    Args:
        module: Linear, convolution or transposed convolution.
        x: Its input, shape ``(n_chunks, n_samples, ...)``.
        signal: dL/da, shape ``(n_chunks, n_samples, ...)``.

    Returns:
        Shape ``(n_chunks, *weight_shape)``; in floating type that of the input.

    Example:
        >>> ones = torch.ones(2, 3, 4)
        >>> chunk_gradients(nn.Linear(4, 4), ones, ones)[0, 0]
        tensor([3., 3., 3., 3.])
    """
    if isinstance(module, nn.Linear):
        rows, given = _rows(x), _rows(signal).to(x)
        return torch.einsum("kro,kri->koi", given, rows)
    weight = module.weight
    assert isinstance(weight, Tensor)
    found = []
    for inside, error in zip(x.unbind(0), signal.to(x).unbind(0), strict=True):
        with torch.enable_grad():
            probe = torch.zeros_like(weight, dtype=x.dtype).requires_grad_()
            output = linear_part(module, inside.detach(), probe)
            found.append(torch.autograd.grad(output, probe, error)[0])
    return torch.stack(found)


def chunk_gram(module: nn.Module, x: Tensor, signal: Tensor) -> Tensor:
    r"""Return the inner products of the chunks' weight gradients.

    For a linear layer with few rows against its width no gradient is formed, by
    :math:`\langle P^\top X, Q^\top Y\rangle = \langle P Q^\top, X Y^\top\rangle`.

    Args:
        module: Linear, convolution or transposed convolution.
        x: Its input, shape ``(n_chunks, n_samples, ...)``.
        signal: dL/da, shape ``(n_chunks, n_samples, ...)``.

    Returns:
        Symmetric positive semidefinite, float64, shape ``(n_chunks, n_chunks)``.

    Example:
        >>> ones = torch.ones(2, 3, 4)
        >>> chunk_gram(nn.Linear(4, 4), ones, ones)[0, 1].item()
        144.0
    """
    if isinstance(module, nn.Linear):
        rows, given = _rows(x), _rows(signal)
        count, length = rows.shape[:2]
        n_in, n_out = rows.shape[2], given.shape[2]
        if count * length * (n_in + n_out) < n_in * n_out:
            a, b = (wide(each.reshape(count * length, -1)) for each in (rows, given))
            products = (a @ a.T) * (b @ b.T)
            return products.reshape(count, length, count, length).sum((1, 3))
    gradients = wide(chunk_gradients(module, x, signal)).flatten(1)
    return gradients @ gradients.T


def _rows(tensor: Tensor) -> Tensor:
    """Return a tensor with the positions of all samples of a chunk as rows."""
    return tensor.reshape(tensor.shape[0], -1, tensor.shape[-1])
