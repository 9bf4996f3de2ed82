"""Kernels of rules over all outputs of all samples, layer by layer, where they are small enough."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from alignlab.diagnostics._draws import parameters_by_layer
from alignlab.diagnostics._pushed import backward_path, clause, why_no_path
from alignlab.diagnostics._together import fetched
from alignlab.engine.jacobian import Jacobian
from alignlab.engine.modules import has_own_weight
from alignlab.errors import MeasurementError
from alignlab.kernels.cosines import wide
from alignlab.kernels.rule_kernel import gradient_rows, linear_block

if TYPE_CHECKING:
    from alignlab.sites import Layer
    from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["DIFFERS", "ELSEWHERE", "Kernels", "RuleKernel", "Truth", "blocks_of", "kernels"]

LARGEST = 1024
"""Samples times outputs up to which every output of every sample is taken by itself."""

ENTRIES = 2**26
"""Entries of all signals, gradients and kernels up to which they are held."""

WORK = 2**34
"""Multiplications for the kernels of one rule up to which they are formed."""

_SAME = 1e-3
"""Largest difference between a kernel's and the updates' rate of the loss, over their norms."""

DIFFERS = "its updates are not those that its signals of the output's error cause"
ELSEWHERE = (
    "gradients are more than what errors at the output bring to the layers (the loss, or a weight, "
    "acts elsewhere too)"
)


@dataclass(frozen=True)
class Truth:
    """What the kernels of all rules share.

    Attributes:
        features: By layer, what ``linear_block`` or a product of gradients takes of it.
        blocks: The tangent kernel by layer, shape ``(n, n)`` with n samples times outputs.
    """

    features: Mapping[str, Tensor] = field(default_factory=dict)
    blocks: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class RuleKernel:
    """The kernel of a rule by layer, or why there is none."""

    because: str = ""
    blocks: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Kernels:
    """All kernels of a snapshot.

    Attributes:
        because: Why there are none that are exact, a clause; empty where there are.
        truth: What they share.
        rules: By label; empty where there are none.
    """

    because: str = ""
    truth: Truth = Truth()
    rules: Mapping[str, RuleKernel] = field(default_factory=dict)


def kernels(snapshot: Snapshot) -> Kernels:
    """Return the kernels of all rules; for ``Snapshot.shared``."""
    because = _why_not_exact(snapshot)
    if because:
        return Kernels(because)
    try:
        Jacobian(snapshot.capture)._require_separate_samples()
        truth = _truth(snapshot)
    except MeasurementError as error:
        return Kernels(clause(error))
    found: dict[str, RuleKernel] = {}
    for measured in snapshot.rules:
        because, blocks = why_no_path(measured), {}
        try:
            blocks = {} if because else blocks_of(snapshot, truth, measured)
        except MeasurementError as error:
            because = clause(error)
        found[measured.label] = RuleKernel(because, blocks)
    return _verified(snapshot, truth, found)


def blocks_of(snapshot: Snapshot, truth: Truth, measured: MeasuredRule) -> dict[str, Tensor]:
    r"""Return :math:`K_l = J_l \tilde J_l^\top` of every layer, shape ``(n, n)``, float64.

    Rows are outputs that move, columns output errors that move them, samples first.
    """
    signals = _signals(snapshot, measured)
    return {
        layer.name: _block(snapshot, layer, truth.features[layer.name], signals[layer.name])
        for layer in snapshot.layers
        if layer.name in truth.features
    }


def _truth(snapshot: Snapshot) -> Truth:
    signals = _signals(snapshot, None)
    learned = parameters_by_layer(snapshot)
    layers = [layer for layer in snapshot.layers if learned[layer.name]]
    features = {each.name: _features(snapshot, each, signals[each.name]) for each in layers}
    pairs = ((each, features[each.name], signals[each.name]) for each in layers)
    return Truth(features, {each.name: _block(snapshot, each, *rest) for each, *rest in pairs})


def _signals(snapshot: Snapshot, measured: MeasuredRule | None) -> dict[str, Tensor]:
    """Return the signals that unit errors at the outputs cause, ``(n_samples, n_errors, ...)``.

    Under the rule, or under backpropagation for None.
    """
    rows: dict[str, list[Tensor]] = {layer.name: [] for layer in snapshot.layers}
    error = torch.zeros_like(snapshot.error)
    with backward_path(snapshot, measured) as path:
        for number in range(error.shape[1]):
            error.zero_()[:, number] = 1.0
            for name, signal in path.signals(error).items():
                rows[name].append(signal)
    return {name: torch.stack(signals, 1) for name, signals in rows.items()}


def _features(snapshot: Snapshot, layer: Layer, signals: Tensor) -> Tensor:
    """Return the signals of a linear layer without positions, gradients of any other one."""
    if _is_flat(snapshot, layer):
        return signals
    module = snapshot.capture.module_of(layer)
    return gradient_rows(module, snapshot.capture.input_of(layer), signals, bias=_has_bias(module))


def _block(snapshot: Snapshot, layer: Layer, true: Tensor, signals: Tensor) -> Tensor:
    pseudo = _features(snapshot, layer, signals)
    if not _is_flat(snapshot, layer):
        return wide(true) @ wide(pseudo).T
    x, bias = snapshot.capture.input_of(layer), _has_bias(snapshot.capture.module_of(layer))
    return linear_block(true, pseudo, x, bias=bias)


def _is_flat(snapshot: Snapshot, layer: Layer) -> bool:
    module = snapshot.capture.module_of(layer)
    return isinstance(module, nn.Linear) and len(layer.shape) == 1


def _has_bias(module: nn.Module) -> bool:
    return isinstance(module.bias, Tensor) and module.bias.requires_grad


def _verified(snapshot: Snapshot, truth: Truth, found: Mapping[str, RuleKernel]) -> Kernels:
    r"""Return the kernels for which :math:`e^\top K_l e` is the product of gradient and update."""
    held = {"": truth.blocks} | {label: kernel.blocks for label, kernel in found.items()}
    places = [(label, layer) for label, blocks in held.items() for layer in blocks]
    gaps = [_gap(snapshot, held[label][layer], label, layer) for label, layer in places]
    wrong = {
        label
        for (label, _), (gap, size) in zip(places, fetched(gaps), strict=True)
        if not abs(gap) <= _SAME * size
    }
    if "" in wrong:
        return Kernels(ELSEWHERE)
    rules = {n: RuleKernel(DIFFERS) if n in wrong else kernel for n, kernel in found.items()}
    return Kernels("", truth, rules)


def _gap(snapshot: Snapshot, block: Tensor, label: str, layer: str) -> Tensor:
    """Return how far kernel and updates are apart in the rate of the loss, and its scale."""
    error = wide(snapshot.error).flatten()
    true = snapshot.true.parameters
    update = snapshot.passes[label].parameters if label else true
    sums = [
        torch.stack([(a * b).sum(), a.square().sum(), b.square().sum()])
        for a, b in _pairs(parameters_by_layer(snapshot)[layer], true, update)
    ]
    product, first, second = torch.stack(sums).sum(0)
    return torch.stack([error @ block @ error - product, (first * second).sqrt()])


def _pairs(
    names: tuple[str, ...], first: Mapping[str, Tensor], second: Mapping[str, Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    for name in names:
        yield wide(first[name]), wide(second[name])


def _why_not_exact(snapshot: Snapshot) -> str:
    n_samples, n_errors = snapshot.error.shape
    size = n_samples * n_errors
    if size > LARGEST:
        return (
            f"{n_samples} samples of {n_errors} outputs are {size:,} directions, and up to "
            f"{LARGEST:,} are taken one by one"
        )
    learned = parameters_by_layer(snapshot)
    every = [name for names in learned.values() for name in names]
    if len(set(every)) < len(every):
        return "a weight acts in several layers or calls"
    entries, work = len(snapshot.layers) * size**2, 0
    for layer in snapshot.layers:
        module = snapshot.capture.module_of(layer)
        entries += size * layer.width
        if not learned[layer.name]:
            continue
        if not has_own_weight(module):
            return f"the weight of {layer.name} is computed from other parameters"
        if not module.get_parameter("weight").requires_grad:
            return f"of {layer.name} the bias learns without the weight"
        rows = layer.width if _is_flat(snapshot, layer) else layer.n_parameters
        entries, work = entries + size * rows, work + size**2 * rows
    if entries > ENTRIES or work > WORK:
        return f"gradients of {size:,} directions would take too much room or time"
    return ""
