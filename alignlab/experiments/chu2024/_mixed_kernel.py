r"""The mixed kernel of direct feedback in a tanh network without biases, and how J meets it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from alignlab.experiments._alignment import drawn, feedback_matrices, weights_of
from alignlab.experiments._base import Setting
from alignlab.experiments.chu2024._interpolation import feedback_rule
from alignlab.snapshot import MeasuredRule

__all__ = ["jacobian_cosine", "mixed_kernel", "redrawn", "smallest_real_part"]


def redrawn(
    setting: Setting, model: nn.Module, x: Tensor, y: Tensor, *, seed: int
) -> list[MeasuredRule]:
    """Return as many draws of feedback as the setting has redraws, which no training has met."""
    first = 1_000_000 * (seed + 1)
    rules = [feedback_rule(setting, first + k) for k in range(setting["redraws"])]
    return [drawn(rule, model, x, y, seed=rule.seed) for rule in rules]


def mixed_kernel(model: nn.Module, measured: MeasuredRule, x: Tensor) -> Tensor:
    r"""Return :math:`K = J\tilde J^\top` over all samples and outputs.

    Args:
        model: With tanh between linear layers without biases.
        measured: Direct feedback for it.
        x: The samples.

    Returns:
        Shape ``(n_samples * n_outputs,) * 2``.
    """
    inputs, true, gates = _signals(model, x)
    return _summed(inputs, true, _fed(gates, true[-1], feedback_matrices(measured)))


def jacobian_cosine(model: nn.Module, measured: MeasuredRule, x: Tensor) -> float:
    r"""Return :math:`\langle J,\tilde J\rangle/(\|J\|\|\tilde J\|)` in Frobenius's norm.

    It is the alignment of the whole update with the gradient over errors of all directions, the
    exact output layer included.
    """
    inputs, true, gates = _signals(model, x)
    fed = _fed(gates, true[-1], feedback_matrices(measured))
    mixed, own, other = (
        float(_summed(inputs, one, two).trace())
        for one, two in ((true, fed), (true, true), (fed, fed))
    )
    return mixed / float(np.sqrt(own * other))


def smallest_real_part(kernel: Tensor) -> float:
    """Return that of the eigenvalues."""
    return float(torch.linalg.eigvals(kernel).real.min())


def _signals(model: nn.Module, x: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return inputs of layers, signals of unit errors at pre-activations, slopes of units."""
    weights = weights_of(model)
    inputs, gates = [x], []
    for weight in weights[:-1]:
        inputs.append(torch.tanh(inputs[-1] @ weight.T))
        gates.append(1 - inputs[-1] ** 2)
    n_outputs = len(weights[-1])
    signals = [torch.eye(n_outputs, dtype=x.dtype).expand(len(x), -1, -1)]
    for weight, gate in zip(weights[:0:-1], gates[::-1], strict=True):
        signals.insert(0, signals[0] @ weight * gate[:, None])
    return inputs, signals, gates


def _fed(gates: Sequence[Tensor], errors: Tensor, feedback: Sequence[Tensor]) -> list[Tensor]:
    pairs = zip(gates, feedback, strict=True)
    return [*(errors @ matrix.T.to(errors.dtype) * gate[:, None] for gate, matrix in pairs), errors]


def _summed(inputs: Sequence[Tensor], first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    parts = [
        torch.einsum("in,jn,iau,jbu->iajb", h, h, a, b)
        for h, a, b in zip(inputs, first, second, strict=True)
    ]
    size = parts[0].shape[0] * parts[0].shape[1]
    return torch.stack(parts).sum(0).reshape(size, size)
