"""What moves the mean pre-activations of a layer in one step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alignlab.kernels.cosines import wide
from alignlab.kernels.layers import linear_part

__all__ = ["by_output", "inherited_drift", "mean_input", "own_drift", "term_shares"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def by_output(module: nn.Module, weight: Tensor) -> Tensor:
    """Return a weight with one row per output unit.

    Args:
        module: Linear, convolution or transposed convolution.
        weight: Shaped like the module's weight.

    Returns:
        Float64, shape ``(n_out, fan_in)``, n_out the output features or channels.

    Example:
        >>> by_output(nn.ConvTranspose1d(4, 6, 3, groups=2), torch.zeros(4, 3, 3)).shape
        torch.Size([6, 6])
    """
    weight = wide(weight)
    if isinstance(module, _TRANSPOSED):
        weight = weight.unflatten(0, (module.groups, -1)).transpose(1, 2).flatten(0, 1)
    return weight.flatten(1)


def mean_input(module: nn.Module, x: Tensor) -> Tensor:
    r"""Return what each output unit reads on average over samples and positions.

    The mean pre-activation of unit c is :math:`\langle w_c, m_c\rangle + b_c`, with :math:`w_c`
    its row of ``by_output``.

    Args:
        module: Linear, convolution or transposed convolution.
        x: Inputs, shape ``(n_samples, ...)``.

    Returns:
        Float64, shape ``(n_out, fan_in)``; the rows differ only for grouped convolutions.
    """
    weight = module.weight
    assert isinstance(weight, Tensor)
    with torch.enable_grad():
        probe = torch.zeros_like(wide(weight.detach())).requires_grad_()
        x = x.cpu() if x.device.type == "mps" else x
        mean = x.mean(0, keepdim=True, dtype=torch.float64)
        output = linear_part(module, mean, probe)
        axis = -1 if isinstance(module, nn.Linear) else 1
        (total,) = torch.autograd.grad(output.sum(), probe)
    return by_output(module, total / (output.numel() // output.shape[axis]))


def own_drift(
    mean_inputs: Tensor, gradient: Tensor, signal: Tensor, leading: Tensor, *, bias: Tensor
) -> Tensor:
    r"""Return how a layer's own update moves its mean pre-activations, by cause.

    With :math:`\delta_r` the signal at the pre-activation, s that at the entry, :math:`\gamma` the
    gate between them, x the inputs, and R rows (samples times positions), a step of rate one has

    .. math:: \Delta\bar a = -\sum_r \delta_r (x_r\cdot\bar x + 1)
        = -(\|\bar x\|^2 + 1)\,[\underbrace{R\,\bar\gamma\bar s}_{\text{leading}}
        + \underbrace{\textstyle\sum_r(\gamma_r-\bar\gamma)(s_r-\bar s)}_{\text{residual}}]
        - \underbrace{\textstyle\sum_r(\delta_r-\bar\delta)(x_r-\bar x)\cdot\bar x
        }_{\text{covariance}}.

    Source: DFA-Stall (repository), for DFA of multilayer perceptrons; our derivation for
    convolutions, where rows are samples and positions.

    Args:
        mean_inputs: Of ``mean_input``, shape ``(..., n_out, fan_in)``.
        gradient: The update's gradient of the weight, one row per output unit, likewise.
        signal: Sum over rows of the signal at the pre-activation, shape ``(..., n_out)``.
        leading: Sum over rows of the gate times the mean signal at the entry, likewise.
        bias: 1 where a bias is updated too, else 0, shape ``(..., 1)``.

    Returns:
        Change of the mean pre-activation, float64, shape ``(..., 3, n_out)``: leading, residual,
        covariance. They add up to the whole change that the layer's own update makes.
    """
    mean_inputs, signal, leading, bias = map(wide, (mean_inputs, signal, leading, bias))
    factor = mean_inputs.square().sum(-1) + bias
    total = (wide(gradient) * mean_inputs).sum(-1) + bias * signal
    parts = (factor * leading, factor * (signal - leading), total - factor * signal)
    return -torch.stack(parts, -2)


def inherited_drift(weight: Tensor, weight_change: Tensor, input_change: Tensor) -> Tensor:
    r"""Return how changes of the layer's mean input move its mean pre-activations.

    .. math:: W\,\Delta\bar x \quad\text{(upstream)}, \qquad \Delta W\,\Delta\bar x
        \quad\text{(cross)}

    Args:
        weight: Before the step, one row per output unit, shape ``(..., n_out, fan_in)``.
        weight_change: What the step adds to it, likewise.
        input_change: Change of ``mean_input``, likewise.

    Returns:
        Float64, shape ``(..., 2, n_out)``: upstream, cross.
    """
    change = wide(input_change)
    parts = ((wide(weight) * change).sum(-1), (wide(weight_change) * change).sum(-1))
    return torch.stack(parts, -2)


def term_shares(terms: Tensor, total: Tensor) -> Tensor:
    r"""Return the share of each term in a sum, :math:`\langle t_k, t\rangle/\|t\|^2`.

    Args:
        terms: Shape ``(..., n_terms, n)``.
        total: The sum of which they are terms, shape ``(..., n)``.

    Returns:
        Dimensionless, shape ``(..., n_terms)``, float64. Those of all terms add up to 1; where
        terms cancel single ones lie outside of [0, 1]. NaN where the sum is zero.

    Example:
        >>> terms = torch.tensor([[3.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
        >>> term_shares(terms, terms.sum(0)).tolist()
        [0.75, 0.25, 0.0]
    """
    total = wide(total)[..., None, :]
    largest = total.abs().amax((-2, -1), keepdim=True)
    terms, total = wide(terms) / largest, total / largest
    result: Tensor = (terms * total).sum(-1) / total.square().sum(-1)
    return result
