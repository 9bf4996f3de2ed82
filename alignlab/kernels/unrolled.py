"""Layers as the matrices that they are: which weight joins which input to which output."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from alignlab.errors import InputError
from alignlab.kernels.layers import linear_part

__all__ = [
    "Connections",
    "connections",
    "output_shape",
    "read_positions",
    "support",
    "tap_overlaps",
    "unrolled",
]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Connections:
    """Every connection of a layer between one input unit and one output unit.

    Attributes:
        outputs: Number of the output unit, in the order of the flat output, ``(n,)``.
        inputs: Number of the input unit, in the order of the flat input, ``(n,)``.
        weights: Number of the weight that it bears, in the order of the flat weight, ``(n,)``.
        shape: Output units and input units.
    """

    outputs: Tensor
    inputs: Tensor
    weights: Tensor
    shape: tuple[int, int]

    def matrix(self, weight: Tensor) -> Tensor:
        """Return the unrolled matrix, sparse and coalesced, for a weight of the layer.

        Where padding brings one input to an output through several taps, these are added.
        """
        values = weight.flatten()[self.weights.to(weight.device)]
        places = torch.stack([self.outputs, self.inputs]).to(weight.device)
        return torch.sparse_coo_tensor(places, values, self.shape, check_invariants=True).coalesce()


def unrolled(module: nn.Module, weight: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    r"""Return the dense matrix A of a layer, with :math:`A\,\mathrm{vec}(x) = \mathrm{vec}(Wx)`.

    Every stride, padding, dilation, number of groups and padding mode of a convolution, and a
    Linear layer on any number of positions. Source: definition.

    Args:
        module: Linear, convolution, or transposed convolution.
        weight: Shaped like the module's weight.
        shape: Shape of one input, without an axis of samples.

    Returns:
        Shape ``(output units, input units)``, in the weight's type; both in the order of
        ``flatten``.

    Raises:
        InputError: Another kind of module.

    Example:
        >>> module = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        >>> unrolled(module, torch.tensor([[[1.0, 2.0, 3.0]]]), (1, 4))
        tensor([[2., 3., 0., 0.],
                [1., 2., 3., 0.],
                [0., 1., 2., 3.],
                [0., 0., 1., 2.]])
    """
    found = connections(module, shape)
    matrix = weight.new_zeros(found.shape)
    places = found.outputs.to(weight.device), found.inputs.to(weight.device)
    values = weight.detach().flatten()[found.weights.to(weight.device)]
    return matrix.index_put_(places, values, accumulate=True)


def connections(module: nn.Module, shape: torch.Size | tuple[int, ...]) -> Connections:
    """Return all connections of a layer for inputs of one shape.

    Args:
        module: Linear, convolution, or transposed convolution.
        shape: Shape of one input, without an axis of samples.

    Returns:
        As many as the unrolled matrix has entries that are not zero by construction; for
        padding that repeats inputs an entry may have several.

    Raises:
        InputError: Another kind of module.
    """
    if isinstance(module, nn.Linear):
        return _of_linear(module, tuple(shape))
    if isinstance(module, _CONVOLUTIONS):
        return _of_convolution(module, tuple(shape))
    if isinstance(module, _TRANSPOSED):
        outer = output_shape(module, shape)
        found = _of_convolution(module, tuple(outer), positions=tuple(shape[1:]))
        return Connections(found.inputs, found.outputs, found.weights, found.shape[::-1])
    msg = f"{type(module).__name__} is not unrolled; Linear and (transposed) convolutions are."
    raise InputError(msg)


def _of_linear(module: nn.Linear, shape: tuple[int, ...]) -> Connections:
    out, inside, places = module.out_features, module.in_features, prod(shape[:-1])
    place, o, i = torch.meshgrid(*(torch.arange(n) for n in (places, out, inside)), indexing="ij")
    return Connections(
        (place * out + o).flatten(),
        (place * inside + i).flatten(),
        (o * inside + i).flatten(),
        (places * out, places * inside),
    )


def _of_convolution(
    module: Any, shape: tuple[int, ...], *, positions: tuple[int, ...] | None = None
) -> Connections:
    """Return the connections of a convolution, or of the one that a transposed one transposes."""
    read = read_positions(module, shape[1:], positions)
    n_positions, taps = read.shape
    rows, columns = module.weight.shape[0] // module.groups, module.weight.shape[1]
    group, o, i, place, tap = torch.meshgrid(
        *(torch.arange(n) for n in (module.groups, rows, columns, n_positions, taps)),
        indexing="ij",
    )
    n_inside = prod(shape[1:])
    where = read.expand(module.groups, rows, columns, n_positions, taps)
    outputs = (group * rows + o) * n_positions + place
    inputs = (group * columns + i) * n_inside + where
    weights = ((group * rows + o) * columns + i) * taps + tap
    acting = where >= 0
    sizes = (module.groups * rows * n_positions, module.groups * columns * n_inside)
    return Connections(outputs[acting], inputs[acting], weights[acting], sizes)


def tap_overlaps(module: nn.Module, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Return at how many places of the unrolled matrix two taps stand together.

    It is the Gram matrix of what single taps are in the unrolled matrix: diagonal, with the
    places at which each tap acts, unless padding brings one input to an output twice.

    Args:
        module: Linear, convolution, or transposed convolution.
        shape: Shape of one input, without an axis of samples.

    Returns:
        Shape ``(n_taps, n_taps)``, float64; of a Linear layer the number of positions.

    Example:
        >>> tap_overlaps(nn.Conv1d(2, 3, 3, padding=1), (2, 4)).diagonal()
        tensor([3., 4., 3.], dtype=torch.float64)
    """
    if isinstance(module, nn.Linear):
        return torch.full((1, 1), float(prod(shape[:-1])), dtype=torch.float64)
    spatial, positions = tuple(shape[1:]), None
    if isinstance(module, _TRANSPOSED):
        spatial, positions = tuple(output_shape(module, shape)[1:]), spatial
    read = read_positions(module, spatial, positions)
    same = (read.unsqueeze(1) == read.unsqueeze(2)) & (read >= 0).unsqueeze(1)
    return same.sum(0).double()


def output_shape(module: nn.Module, shape: torch.Size | tuple[int, ...]) -> torch.Size:
    """Return the shape of one output for the shape of one input."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    x = torch.empty((1, *shape), device="meta", dtype=weight.dtype)
    return linear_part(module, x, torch.empty_like(weight, device="meta")).shape[1:]


def support(module: nn.Module, shape: torch.Size | tuple[int, ...]) -> sparse.csr_matrix:
    """Return where the unrolled matrix has entries at all, for one channel of each group.

    Args:
        module: Linear, convolution, or transposed convolution.
        shape: Shape of one input, without an axis of samples.

    Returns:
        Ones and zeros, on the host, shape ``(groups * output positions, groups * input
        positions)``; of a Linear layer its positions, each joined to itself.

    Example:
        >>> support(nn.Conv1d(2, 4, 3, padding=1), (2, 3)).toarray()
        array([[1., 1., 0.],
               [1., 1., 1.],
               [0., 1., 1.]])
    """
    if isinstance(module, nn.Linear):
        return sparse.eye(prod(shape[:-1]), format="csr")
    own, outer = tuple(shape[1:]), tuple(output_shape(module, shape)[1:])
    turned = isinstance(module, _TRANSPOSED)
    found = read_positions(module, outer, own) if turned else read_positions(module, own)
    read = found.numpy()
    place, tap = np.nonzero(read >= 0)
    sizes = (len(read), prod(outer) if turned else prod(own))
    joined = sparse.csr_matrix((np.ones(len(place)), (place, read[place, tap])), shape=sizes)
    joined.data[:] = 1.0
    groups = int(getattr(module, "groups", 1))
    whole = joined.T if turned else joined
    return sparse.block_diag([whole] * groups, format="csr")


def read_positions(
    module: Any, spatial: tuple[int, ...], positions: tuple[int, ...] | None = None
) -> Tensor:
    """Return which input position every tap reads at every output position.

    Args:
        module: A convolution; of a transposed one, the convolution that it transposes.
        spatial: Positions of the input along each axis.
        positions: Positions of the output, where the stride leaves some over.

    Returns:
        Numbers in the order of the flat positions, -1 in the padding, on the host, shape
        ``(n_positions, n_taps)``.
    """
    where = torch.arange(prod(spatial), dtype=torch.float64).reshape(1, 1, *spatial)
    if module.padding_mode == "zeros":
        where = functional.pad(where, _around(module), value=-1.0)
    else:
        where = functional.pad(where, _around(module), mode=module.padding_mode)
    axes = len(spatial)
    grid = []
    for axis, n in enumerate(where.shape[2:]):
        k, s, d = module.kernel_size[axis], module.stride[axis], module.dilation[axis]
        count = (n - d * (k - 1) - 1) // s + 1 if positions is None else positions[axis]
        at = torch.arange(count).unsqueeze(1) * s + torch.arange(k) * d
        shape = [1] * (2 * axes)
        shape[axis], shape[axes + axis] = count, k
        grid.append(at.reshape(shape))
    return where[0, 0].long()[tuple(grid)].reshape(-1, prod(module.kernel_size))


def _around(module: Any) -> list[int]:
    """Return the padding before and after every axis, the last axis first."""
    if isinstance(module.padding, str) or module.padding_mode != "zeros":
        return list(module._reversed_padding_repeated_twice)
    return [int(p) for p in reversed(module.padding) for _ in range(2)]
