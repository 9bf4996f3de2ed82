"""Kernel by which a rule moves the outputs, against the tangent kernel (G7)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import torch

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._chance import adjusted_statuses, readings
from alignlab.diagnostics._draws import parameters_by_layer
from alignlab.diagnostics._kernel_numbers import (
    NO_CHANCE,
    KernelNumbers,
    kernel_numbers,
    targets_of,
)
from alignlab.diagnostics._kernel_sketch import HIDDEN, NETWORK
from alignlab.kernels.cosines import wide
from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["RuleKernel"]

_TARGETS = "Cristianini et al. 2001; Cortes et al. 2012 (centred)"


_RATE = "Rate of the loss under the flow of the layer's updates, -<g, g^>"
_PER_STEP = "loss per unit of step size"
_COSINE = "Cosine of the centred rule kernel with the tangent kernel"
_ERROR = "standard error of the sketch, 0 where nothing was drawn"


def _declared() -> Iterator[Variable]:
    yield Variable("kernel_loss_rate", ("rule", "layer"), _RATE, _PER_STEP, better="lower")
    yield Variable("kernel_loss_rate_true", ("layer",), f"{_RATE}, of backpropagation", _PER_STEP)
    yield Variable(
        "kernel_loss_rate_hidden_share",
        ("rule",),
        "Share of the hidden layers in the rate of the loss",
    )
    for name, dims, where in (
        ("cosine_rule_kernel", ("rule", "layer"), ""),
        ("cosine_rule_kernel_hidden", ("rule",), ", hidden layers together"),
    ):
        text, bounds = _COSINE + where, (-1.0, 1.0)
        yield Variable(name, dims, text, better="higher", valid=bounds, alignment=True)
        yield Variable(f"{name}_se", dims, f"{text}: {_ERROR}", valid=(0.0, None))
    for suffix, where in (("", ""), ("_network", ", all layers together")):
        place = () if suffix else ("layer",)
        yield Variable(
            f"rule_kernel_smallest{suffix}",
            ("rule", *place),
            f"Smallest eigenvalue of the symmetric part of the rule kernel over its largest{where}",
            better="higher",
            valid=(-1.0, 1.0),
        )
        yield Variable(
            f"kernel_target_alignment{suffix}",
            ("rule", *place),
            f"Cosine of the centred rule kernel with that of the targets{where}",
            source=_TARGETS,
            better="higher",
        )
        yield Variable(
            f"kernel_target_alignment_true{suffix}",
            place,
            f"Cosine of the centred tangent kernel with that of the targets{where}",
            source=_TARGETS,
        )
    yield Variable(
        "rule_kernel_method",
        ("rule",),
        "Whether kernels are exact or a sketch",
        units="",
        dtype="string",
    )


class RuleKernel(SnapshotDiagnostic):
    r"""How the updates of a rule move the outputs, in place of how they lie to the gradient.

    With f the outputs at the pre-activation of the output layer, :math:`J_l` their derivative in
    the weights and biases of layer l, and :math:`\tilde J_l` what the rule's backward path makes
    of unit output errors, the flow along the updates is

    .. math:: \dot f = -\sum_l K_l e,\quad K_l = J_l \tilde J_l^\top,\quad
        \frac{dL}{dt} = -\sum_l e^\top K_l e .

    Under backpropagation :math:`K_l` is the tangent kernel. Kernels run over all outputs of
    all samples of this batch; parameters outside of the layers (normalisations) are left out.

    **How to read it.** ``kernel_loss_rate`` says which layers lower the loss now; it is recorded
    for every rule. Where the smallest eigenvalue of the symmetric part is positive or 0, no error
    whatever can raise the loss; where it is negative there are errors that would. A cosine with
    the tangent kernel near 1 means that the rule moves outputs as backpropagation would, up to a
    scale; the target alignment against that of the tangent kernel, whether it does so along the
    targets. Hidden layers whose feedback the weights have not come to align with add a kernel
    that has no sign: cosine 0, smallest eigenvalue about -1.

    **Chance.** Over feedback drawn with a symmetric law the cosine of a hidden layer's kernel, and
    its target alignment, are 0 on average at fixed weights, exactly; the band of the cosine comes
    from redraws where kernels are exact and small, and is missing otherwise.

    **Exact or sketch.** Exact for at most 1,024 outputs of samples. Above, and where samples or
    calls share something (batch norm in training, tied weights), kernels are seen along 6 random
    directions of the outputs: their inner products and squared norms are unbiased, and the standard
    error of the cosine is recorded. A sketch knows no eigenvalues.

    **Not defined** for rules that are no linear map from the output's error to updates (what they
    send is a sign or a target, or they have no backward path), for feedback that was drawn for this
    analysis, for models that end in several layers, where the loss depends on more than the
    output, and where nothing learns. Target alignments need labels or values in the outputs'
    shape.

    Source: the kernel of Bordelon & Pehlevan 2022, arXiv 2210.02157, at finite width on a batch;
    the identities, the sketch and the null are our derivation.

    Example:
        >>> from alignlab.probe import Probe
        >>> from alignlab.rules import BP
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
        ... )
        >>> loss = torch.nn.functional.cross_entropy
        >>> with Probe(net, loss, rules=[BP()], diagnostics=["rule-kernel"], draws=32) as probe:
        ...     recording = probe.measure(torch.randn(20, 4), torch.arange(20) % 3)
        >>> round(recording["cosine_rule_kernel"].sel(layer="0").item(), 6)
        1.0
    """

    variables: ClassVar[tuple[Variable, ...]] = tuple(_declared())
    cost: ClassVar[float] = 10.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield rates of the loss of every rule, and the kernels of those that have one."""
        yield from _rates(snapshot)
        if targets_of(snapshot) is None:
            yield NotDefined("targets are neither labels nor values in the shape of the outputs")
        learned = parameters_by_layer(snapshot)
        for layer in snapshot.layers:
            if not learned[layer.name]:
                yield NotDefined("no parameter of it learns", layer=layer.name)
        found = kernel_numbers(snapshot)
        if found.because:
            yield NotDefined(f"eigenvalues need exact kernels, and {found.because}")
        if found.nothing:
            yield NotDefined(found.nothing)
        yield from _of_targets(found.true_target, "")
        for measured in snapshot.rules if not found.nothing else ():
            numbers = found.rules[measured.label]
            if numbers.because:
                yield NotDefined(numbers.because, measured.label)
                continue
            yield Reading("rule_kernel_method", found.method, measured.label)
            yield from _of_rule(snapshot, measured, numbers)


def _rates(snapshot: Snapshot) -> Iterator[Reading]:
    """Yield the rate of the loss by layer, and the hidden layers' share in it."""
    true, learned = snapshot.true.parameters, parameters_by_layer(snapshot)
    hidden = {layer.name for layer in snapshot.hidden}
    passes = {m.label: snapshot.passes[m.label] for m in snapshot.rules if not m.is_drawn}
    for label, updates in {"": snapshot.true, **passes}.items():
        rates = {
            layer: -torch.stack(
                [(wide(true[n]) * wide(updates.parameters[n])).sum() for n in names]
            ).sum()
            for layer, names in learned.items()
            if names
        }
        for layer, rate in rates.items():
            yield Reading("kernel_loss_rate" + ("" if label else "_true"), rate, label, layer)
        if label and rates:
            nothing = torch.zeros((), dtype=torch.float64)
            inside = sum((rate for layer, rate in rates.items() if layer in hidden), nothing)
            share = inside / sum(rates.values(), nothing)
            yield Reading("kernel_loss_rate_hidden_share", share, label)


def _of_targets(found: Mapping[str, float], rule: str) -> Iterator[Reading]:
    name = "kernel_target_alignment" + ("" if rule else "_true")
    for layer, value in found.items():
        if layer == NETWORK:
            yield Reading(f"{name}_network", value, rule)
        elif layer != HIDDEN:
            yield Reading(name, value, rule, layer)


def _of_rule(
    snapshot: Snapshot, measured: MeasuredRule, found: KernelNumbers
) -> Iterator[Reading | NotDefined]:
    """Yield what there is of one rule's kernels."""
    label = measured.label
    yield from _of_targets(found.target, label)
    for layer, value in found.smallest.items():
        if layer == NETWORK:
            yield Reading("rule_kernel_smallest_network", value, label)
        elif layer != HIDDEN:
            yield Reading("rule_kernel_smallest", value, label, layer)
    compared = {layer.name for layer in snapshot.compared(measured)}
    yield from _cosines("cosine_rule_kernel", label, found, sorted(compared & set(found.cosine)))
    if HIDDEN in found.cosine:
        yield from _cosines("cosine_rule_kernel_hidden", label, found, [HIDDEN])
    for layer, value in found.cosine.items():
        if layer not in compared | {HIDDEN, NETWORK}:
            at = (label, layer, "")
            unknown = bool(np.isnan(value))
            status = "undefined" if unknown else "exact"
            yield from readings(
                *("cosine_rule_kernel", value, NO_CHANCE, status),
                undefined=float(unknown), place=at,
            )  # fmt: skip
            if unknown:
                yield NotDefined("its kernel is zero", label, layer)


def _cosines(
    name: str, label: str, found: KernelNumbers, places: list[str]
) -> Iterator[Reading | NotDefined]:
    """Yield the cosines of some layers with their chance levels."""
    values = [found.cosine[place] for place in places]
    chances = [found.chances[place] for place in places]
    statuses = adjusted_statuses(values, chances, is_drawn=False, is_cosine=False)
    for place, value, chance, status in zip(places, values, chances, statuses, strict=True):
        layer = "" if place == HIDDEN else place
        undefined = float(np.isnan(value))
        at = (label, layer, "")
        yield from readings(name, value, chance, status, undefined=undefined, place=at)
        yield Reading(f"{name}_se", found.error[place], label, layer)
        if undefined:
            yield NotDefined("its kernel is zero", label, layer)
