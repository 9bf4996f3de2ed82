"""Cosines, eigenvalues and target alignments of the kernels of rules, exact or from a sketch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from alignlab.diagnostics._chance import Chance, chance_of
from alignlab.diagnostics._kernel import Kernels, blocks_of, kernels
from alignlab.diagnostics._kernel_sketch import HIDDEN, NETWORK, RuleSketch, Sketch, sketch
from alignlab.diagnostics._together import fetched
from alignlab.kernels.rule_kernel import (
    centred,
    kernel_cosine,
    sketched_cosine,
    sketched_norm,
    smallest_share,
    target_alignment,
)
from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["NO_CHANCE", "KernelNumbers", "NumbersOfAll", "kernel_numbers", "targets_of"]

NO_CHANCE = Chance(np.nan, np.nan, np.nan, "none", "", np.nan, np.nan)

_WORK = 2**32
"""Multiplications that the redraws of one rule's kernels are worth."""

_FEWEST = 32


@dataclass(frozen=True)
class KernelNumbers:
    """Numbers of one rule by layer, ``HIDDEN`` and ``NETWORK`` among them.

    Attributes:
        because: Why there are none, a clause; empty where there are.
        cosine: Cosine of the centred kernel with the tangent kernel.
        error: Its standard error.
        target: Cosine of the centred kernel with that of the targets.
        smallest: Smallest eigenvalue of the symmetric part over its largest, where it is known.
        chances: Chance levels of the cosine.
    """

    because: str = ""
    cosine: Mapping[str, float] = field(default_factory=dict)
    error: Mapping[str, float] = field(default_factory=dict)
    target: Mapping[str, float] = field(default_factory=dict)
    smallest: Mapping[str, float] = field(default_factory=dict)
    chances: Mapping[str, Chance] = field(default_factory=dict)


@dataclass(frozen=True)
class NumbersOfAll:
    """Numbers of all rules.

    Attributes:
        method: ``exact`` or ``sketch``.
        because: Why they are no exact ones, a clause; empty where they are.
        nothing: Why there are none at all, a clause; empty where there are.
        true_target: Cosine of the centred tangent kernel with that of the targets.
        rules: By label.
    """

    method: str
    because: str = ""
    nothing: str = ""
    true_target: Mapping[str, float] = field(default_factory=dict)
    rules: Mapping[str, KernelNumbers] = field(default_factory=dict)


def targets_of(snapshot: Snapshot) -> Tensor | None:
    """Return one row of targets a sample, in the shape of the error; None where there is none."""
    y, (n_samples, n_errors) = snapshot.y, snapshot.error.shape
    if not isinstance(y, Tensor):
        return None
    if y.is_floating_point():
        return y.reshape(n_samples, n_errors) if y.numel() == n_samples * n_errors else None
    is_label = y.shape == (n_samples,) and snapshot.task.error.dim() == 2
    if not is_label or y.dtype == torch.bool:
        return None
    known = (y >= 0) & (y < n_errors)
    rows = functional.one_hot(y.clamp(0, n_errors - 1).long(), n_errors)
    return rows.double() * known[:, None]


def kernel_numbers(snapshot: Snapshot) -> NumbersOfAll:
    """Return the numbers of all rules, exact where kernels are small enough."""
    targets = targets_of(snapshot)
    exact = snapshot.shared(kernels)
    if not exact.because:
        return _exact(snapshot, exact, targets)
    found = sketch(snapshot, targets)
    if found.because:
        return NumbersOfAll("sketch", exact.because, found.because)
    rules = {label: _of_sketch(own, found) for label, own in found.rules.items()}
    return NumbersOfAll("sketch", exact.because, "", _sketched_along(found.truth), rules)


def _exact(snapshot: Snapshot, exact: Kernels, targets: Tensor | None) -> NumbersOfAll:
    truth = _summed(snapshot, _centred(snapshot, exact.truth.blocks))
    rules = {}
    for measured in snapshot.rules:
        kernel = exact.rules[measured.label]
        if kernel.because:
            rules[measured.label] = KernelNumbers(kernel.because)
            continue
        blocks = _summed(snapshot, kernel.blocks)
        own = _summed(snapshot, _centred(snapshot, kernel.blocks))
        cosines = _on_host({key: kernel_cosine(own[key], truth[key]) for key in own})
        rules[measured.label] = KernelNumbers(
            cosine=cosines,
            error=dict.fromkeys(cosines, 0.0),
            target=_along(own, targets),
            smallest=_on_host({key: smallest_share(block) for key, block in blocks.items()}),
            chances=_chances(snapshot, exact, measured, truth, cosines),
        )
    return NumbersOfAll("exact", true_target=_along(truth, targets), rules=rules)


def _summed(snapshot: Snapshot, blocks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return kernels by layer, and those of hidden layers and of all together."""
    names = {layer.name for layer in snapshot.hidden}
    groups = {HIDDEN: [layer for layer in blocks if layer in names], NETWORK: list(blocks)}
    result = dict(blocks)
    for key, layers in groups.items():
        if layers:
            result[key] = blocks[layers[0]]
            for layer in layers[1:]:
                result[key] = result[key] + blocks[layer]
    return result


def _centred(snapshot: Snapshot, blocks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: centred(block, snapshot.error.shape[0]) for key, block in blocks.items()}


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    values = fetched(list(tensors.values()))
    return {key: float(value) for key, value in zip(tensors, values, strict=True)}


def _along(own: Mapping[str, Tensor], targets: Tensor | None) -> dict[str, float]:
    if targets is None:
        return {}
    return _on_host({k: target_alignment(block, targets.to(block)) for k, block in own.items()})


def _chances(
    snapshot: Snapshot,
    exact: Kernels,
    measured: MeasuredRule,
    truth: Mapping[str, Tensor],
    cosines: Mapping[str, float],
) -> dict[str, Chance]:
    """Return chance levels from redraws, none where these would cost too much."""
    kind = snapshot.chance_kind(measured)
    columns = sum(each.shape[-1] + 16 for each in exact.truth.features.values())
    count = min(snapshot.draws, _WORK // (snapshot.error.numel() ** 2 * max(columns, 1)))
    if kind == "output_rotation" or count < _FEWEST:
        return dict.fromkeys(cosines, NO_CHANCE)
    compared = {layer.name for layer in snapshot.compared(measured)}
    draws: dict[str, list[Tensor]] = {key: [] for key in cosines if key in compared | {HIDDEN}}
    for redrawn in snapshot.redrawn(measured, count):
        blocks = blocks_of(snapshot, exact.truth, redrawn)
        parts = _centred(snapshot, {key: blocks[key] for key in draws if key != HIDDEN})
        own = _summed(snapshot, parts)
        for key, found in draws.items():
            found.append(kernel_cosine(own[key], truth[key]))
    values = fetched([torch.stack(each) for each in draws.values()])
    return {
        key: chance_of(cosines[key], drawn, kind=kind, concentration=np.nan)
        for key, drawn in zip(draws, values, strict=True)
    }


def _of_sketch(own: RuleSketch, found: Sketch) -> KernelNumbers:
    if own.because:
        return KernelNumbers(own.because)
    pairs = {key: sketched_cosine(own.values[key], found.truth.values[key]) for key in own.values}
    cosines = _on_host({key: pair.value.clamp(-1.0, 1.0) for key, pair in pairs.items()})
    return KernelNumbers(
        cosine=cosines,
        error=_on_host({key: pair.standard_error for key, pair in pairs.items()}),
        target=_sketched_along(own),
        chances=dict.fromkeys(cosines, NO_CHANCE),
    )


def _sketched_along(own: RuleSketch) -> dict[str, float]:
    shares = {k: one / sketched_norm(own.values[k]).value for k, one in own.along_targets.items()}
    return _on_host(shares)
