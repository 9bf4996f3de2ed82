"""Weight gradients that directions of the error give, by unit, where units keep apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional, grad

from alignlab.feedback import generator

if TYPE_CHECKING:
    from alignlab.layer_view import LayerView
    from alignlab.sites import Layer

__all__ = ["by_unit", "carried", "gradients", "mixing"]

_CONVOLUTIONS: Mapping[int, Callable[..., Tensor]] = {
    1: grad.conv1d_weight,
    2: grad.conv2d_weight,
    3: grad.conv3d_weight,
}


def carried(view: LayerView, directions: Tensor, *, keeps_samples: bool) -> Tensor:
    """Return what one number a sample, the same at all entries, is at the pre-activation.

    Args:
        view: The layer under backpropagation.
        directions: Shape ``(n_samples, m)``.
        keeps_samples: Whether the way from there acts on each sample by itself (``mixing``), so
            that it need be gone but once.

    Returns:
        Shape ``(m, n_samples, *shape)``.
    """
    if keeps_samples:
        plain = _one_carried(view, torch.ones_like(directions[:, 0]))
        numbers = directions.T.to(plain)
        return numbers.reshape(*numbers.shape, *(1 for _ in view.layer.shape)) * plain
    return torch.stack([_one_carried(view, each) for each in directions.T])


def _one_carried(view: LayerView, numbers: Tensor) -> Tensor:
    assert view.entry is not None
    column = numbers.reshape(-1, *(1 for _ in view.layer.entry_shape)).to(view.entry)
    return view.capture.to_preactivation(view.layer, column.expand_as(view.entry).contiguous())


def gradients(view: LayerView, signals: Tensor, samples: Tensor) -> Tensor:
    """Return the weight gradients of several signals on some samples, one row for every unit.

    Args:
        view: The layer.
        signals: At the pre-activation, shape ``(m, n_samples, *shape)``.
        samples: Which samples, indices.

    Returns:
        Shape ``(m, n_units, n_inputs)``.
    """
    module, x = view.capture.module_of(view.layer), view.capture.input_of(view.layer)
    if isinstance(module, nn.Linear):
        return _linear(x.index_select(0, samples), signals.index_select(1, samples))
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and module.groups == 1:
        return _convolution(module, x.index_select(0, samples), signals.index_select(1, samples))
    chosen = torch.zeros(signals.shape[1], dtype=signals.dtype, device=signals.device)
    mask = chosen.index_fill(0, samples, 1.0).reshape(-1, *(1 for _ in view.layer.shape))
    return torch.stack([_one(view, signal * mask) for signal in signals])


def _linear(x: Tensor, signals: Tensor) -> Tensor:
    rows = signals.reshape(len(signals), -1, signals.shape[-1])
    return rows.mT @ x.reshape(-1, x.shape[-1]).to(rows)


def _convolution(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor, signals: Tensor) -> Tensor:
    """Return the gradients of one convolution with as many filters as there are signals more."""
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = functional.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    stacked = signals.transpose(0, 1).flatten(1, 2)
    size = (stacked.shape[1], *module.weight.shape[1:])
    of_size = _CONVOLUTIONS[len(module.kernel_size)]
    found = of_size(
        padded.to(stacked), size, stacked.contiguous(), stride=module.stride, padding=0,
        dilation=module.dilation,
    )  # fmt: skip
    return found.reshape(len(signals), -1, found[0].numel())


def _one(view: LayerView, signal: Tensor) -> Tensor:
    weight, _ = view.capture.weight_gradient(view.layer, signal)
    assert weight is not None
    return by_unit(view, weight)


def by_unit(view: LayerView, weight: Tensor) -> Tensor:
    """Return a weight's gradient with one row for every unit, ``(n_units, n_inputs)``."""
    module = view.capture.module_of(view.layer)
    if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        groups = weight.reshape(module.groups, -1, *weight.shape[1:]).transpose(1, 2)
        return groups.flatten(0, 1).flatten(1)
    return weight.flatten(1)


def mixing(view: LayerView) -> Tensor | None:
    """Return how far the way from the entry is from acting on units, and samples, by themselves.

    Returns:
        Two shares, shape ``(2,)``: of what units mix, and of what units or samples do; NaN for a
        layer whose way is zero everywhere. None where the entry is not made of the layer's units.
    """
    layer, units = view.layer, _unit_of_entries(view.layer)
    if units is None:
        return None
    like = view.preactivation
    assert like is not None
    # No two are equal, so that of two units or samples already it shows whether they mix.
    stream = generator(0, "mixing", layer.name)
    of_units, of_samples = (
        torch.randn(n, generator=stream).to(like) for n in (layer.channels, len(like))
    )
    plain = _one_carried(view, torch.ones_like(of_samples))
    shape = [1] * like.dim()
    shape[1 if layer.is_convolution else -1] = -1
    expected = plain * of_units.reshape(shape)
    by_sample = of_samples.reshape(-1, *(1 for _ in layer.entry_shape))
    given = of_units[units.to(like.device)].expand(len(like), *layer.entry_shape)
    image = view.capture.to_preactivation(layer, given.contiguous())
    other = view.capture.to_preactivation(layer, given * by_sample)
    turned = expected * of_samples.reshape(-1, *(1 for _ in layer.shape))
    apart = torch.stack(
        [torch.linalg.vector_norm(each) for each in (image - expected, other - turned)]
    )
    share: Tensor = apart / torch.linalg.vector_norm(plain)
    return share


def _unit_of_entries(layer: Layer) -> Tensor | None:
    """Return which unit (channel) every place of the entry belongs to, in the entry's shape."""
    shape, units = layer.entry_shape, torch.arange(layer.channels)
    if shape[layer.entry_channel_axis] == layer.channels:
        view = [1] * len(shape)
        view[layer.entry_channel_axis] = -1
        return units.reshape(view).expand(shape)
    if len(shape) > 1 or shape[0] % layer.channels:
        return None
    # Flattened: channels come first for a convolution, last for linear layers on positions.
    places = shape[0] // layer.channels
    return units.repeat_interleave(places) if layer.is_convolution else units.repeat(places)
