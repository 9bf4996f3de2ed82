"""Cosine of the gradients of all layers stacked, and of all error signals (A1, whole model)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._base import (
    AlignmentDiagnostic,
    Comparison,
    Key,
    NotDefined,
    Reading,
    SnapshotDiagnostic,
    Variable,
)
from alignlab.kernels.joint import joint_cosine, products_and_energies
from alignlab.layer_view import LayerView
from alignlab.sites import ENTRY, SITES
from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["TotalGradient"]

_HIDDEN = "cosine_hidden_gradient"
_SIGNAL = "cosine_total_error_signal"
_ALL = "total_gradient"

Views = Mapping[str, LayerView]


class TotalGradient(AlignmentDiagnostic, SnapshotDiagnostic):
    r"""Cosine of the whole network's true and approximate gradient: one number for all layers.

    With the parts :math:`g_l` of the layers, of weights and biases,

    .. math:: c = \sum_l \langle\hat g_l, g_l\rangle \Big/
        \sqrt{\textstyle\sum_l \|\hat g_l\|^2 \sum_l \|g_l\|^2},

    once of hidden layers alone and once of all parameters that learn. Of error signals the parts
    are those of one sample at all hidden layers, and the mean is taken over samples; an entry that
    several layers share counts once.

    *How to read it.* A step along the update lowers the loss to first order where the cosine of
    all parameters is positive, and its square is the share of the best one-step decrease. But
    **that cosine is carried by the output layer, whose gradient is exact**: it is high while
    nothing below learns. ``cosine_total_gradient_chance`` is what it is on average where all other
    updates, of the same norms, are unrelated to their gradients. Read the cosine of the hidden
    layers, and beside it those of every layer: parts count by their norms, so one can carry it.

    *Chance.* Hidden layers and error signals: fresh feedback or rotated outputs of all layers at
    once, by redraws. All parameters: the stated expectation.

    *Undefined* where all hidden parameters are frozen or either gradient is zero. Weights that are
    computed from other parameters enter the cosine of hidden layers by the gradient of the
    computed weight, and are left out under rules that yield updates alone.

    Source: Refinetti et al. 2021, code (total alignment of the pre-activations' gradients, mean
    over samples); bioflax (weights, by layer); the expectation is our derivation.

    Example:
        >>> from alignlab.probe import Probe
        >>> from alignlab.rules import BP
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
        ... )
        >>> loss = torch.nn.functional.cross_entropy
        >>> probe = Probe(net, loss, rules=[BP()], diagnostics=["total-gradient"], draws=32)
        >>> found = probe.measure(torch.randn(20, 4), torch.arange(20) % 3).isel(step=0, rule=0)
        >>> round(found["cosine_total_gradient"].item(), 6)
        1.0
        >>> found["cosine_total_gradient_chance"].item() < 1
        True
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            _HIDDEN,
            ("rule",),
            "Cosine of true and approximate gradient of all hidden weights and biases stacked",
            better="higher",
            valid=(-1.0, 1.0),
            alignment=True,
        ),
        Variable(
            "angle_hidden_gradient",
            ("rule",),
            "Angle between true and approximate gradient of all hidden weights and biases",
            units="degree",
            better="lower",
            valid=(0.0, 180.0),
        ),
        Variable(
            _SIGNAL,
            ("rule", "site"),
            "Cosine of the error signals of all hidden layers together, mean over samples",
            source="Refinetti et al. 2021 (code)",
            better="higher",
            valid=(-1.0, 1.0),
            alignment=True,
        ),
        Variable(
            f"cosine_{_ALL}",
            ("rule",),
            "Cosine of true and approximate gradient of all parameters, exact ones included",
            better="higher",
            valid=(-1.0, 1.0),
        ),
        Variable(
            f"cosine_{_ALL}_chance",
            ("rule",),
            "That cosine where only the output layer's update is related to its gradient",
            valid=(-1.0, 1.0),
        ),
        Variable(
            f"angle_{_ALL}",
            ("rule",),
            "Angle between true and approximate gradient of all parameters",
            units="degree",
            better="lower",
            valid=(0.0, 180.0),
        ),
        Variable(
            f"inner_product_{_ALL}",
            ("rule",),
            "Inner product of true and approximate gradient of all parameters",
        ),
        *(
            Variable(
                name,
                ("rule",),
                f"Squared norm of the {which} gradient of all parameters",
                valid=(0.0, None),
            )
            for name, which in (
                (f"squared_norm_{_ALL}", "approximate"),
                (f"squared_norm_{_ALL}_true", "true"),
            )
        ),
    )
    cost: ClassVar[float] = 60.0

    def compare(self, true: LayerView, approximate: LayerView) -> Mapping[Key, Comparison]:
        """Return nothing of a single layer."""
        del true, approximate
        return {}

    def compare_together(self, true: Views, approximate: Views) -> Mapping[Key, Comparison]:
        """Return the cosines of hidden gradients, and of error signals at both sites."""
        hidden = [view for view in approximate.values() if not view.layer.is_output]
        result: dict[Key, Comparison] = {}
        stacked = _stacked(true, hidden)
        if stacked[0]:
            products, first, second = products_and_energies(*stacked)
            value = joint_cosine(products, first, second)
            result[_HIDDEN, ""] = Comparison(value, second.sum(), (~torch.isfinite(value)).double())
        for site in SITES:
            found = _mean_cosine(true, hidden, site)
            if found is not None:
                result[_SIGNAL, site] = found
        return result

    def describe_together(self, true: Views, approximate: Views) -> Iterator[Reading]:
        """Yield the angle of hidden gradients."""
        found = self.compare_together(true, approximate).get((_HIDDEN, ""))
        if found is not None:
            yield Reading("angle_hidden_gradient", torch.rad2deg(torch.arccos(found.value)))

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield the numbers of all parameters, exact ones included."""
        for measured in snapshot.rules:
            label = measured.label
            if not _learns(snapshot):
                yield NotDefined("no weight or bias of a hidden layer learns", label)
            if not measured.rule.has_signals:
                yield NotDefined("the rule yields updates of parameters and no signals", label)
            if not measured.is_drawn:
                for name, value in _of_all(snapshot, measured).items():
                    yield Reading(name, value, label)


def _stacked(true: Views, hidden: list[LayerView]) -> tuple[list[Tensor], list[Tensor]]:
    """Return true and approximate gradients of hidden weights and biases, each of them once.

    The calls of one weight add up, but where a rule yields the update of all of them together.
    """
    pairs: dict[object, tuple[Tensor, Tensor]] = {}
    for view in hidden:
        exact, found = true[view.layer.name].gradients_beside(view), view.gradients
        own = view.capture.module_of(view.layer)._parameters
        for part, first, second in zip(("weight", "bias"), exact, found, strict=True):
            if first is None or second is None:
                continue
            parameter = own.get(part)
            key = (view.layer.module, part) if parameter is None else id(parameter)
            adds = key in pairs and view.is_local
            before = pairs[key] if adds else (0.0, 0.0)
            pairs[key] = before[0] + first, before[1] + second
    flat = [(first.flatten(), second.flatten()) for first, second in pairs.values()]
    return [first for first, _ in flat], [second for _, second in flat]


def _mean_cosine(true: Views, hidden: list[LayerView], site: str) -> Comparison | None:
    """Return the mean over samples of the cosine of all signals at a site, shared entries once."""
    views = {view.layer.consumer if site == ENTRY else view.layer.name: view for view in hidden}
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for view in views.values():
        found = view.beside(true[view.layer.name], site)
        if found is not None:
            parts.append((found.products, found.first.square(), found.second.square()))
    if not parts:
        return None
    products, of_true, energies = (torch.stack(each, -1) for each in zip(*parts, strict=True))
    cosines = joint_cosine(products, of_true, energies)
    undefined = (~torch.isfinite(cosines)).double().sum()
    return Comparison(cosines.nanmean(), energies.sum(-1), undefined)


def _learns(snapshot: Snapshot) -> bool:
    modules = [snapshot.capture.module_of(layer) for layer in snapshot.hidden]
    return any(p.requires_grad for module in modules for p in module.parameters())


def _of_all(snapshot: Snapshot, measured: MeasuredRule) -> dict[str, Tensor]:
    """Return what is said of all parameters together."""
    true, found = snapshot.true.parameters, snapshot.passes[measured.label].parameters
    names = [name for name in true if name in found]
    products, first, second = products_and_energies(
        [true[name].flatten() for name in names], [found[name].flatten() for name in names]
    )
    value = joint_cosine(products, first, second)
    exact = _exact(snapshot, measured)
    is_exact = torch.tensor([name in exact for name in names])
    by_chance = torch.where(is_exact.to(products.device), products, 0.0)
    return {
        f"cosine_{_ALL}": value,
        f"cosine_{_ALL}_chance": joint_cosine(by_chance, first, second),
        f"angle_{_ALL}": torch.rad2deg(torch.arccos(value)),
        f"inner_product_{_ALL}": products.sum(),
        f"squared_norm_{_ALL}": second.sum(),
        f"squared_norm_{_ALL}_true": first.sum(),
    }


def _exact(snapshot: Snapshot, measured: MeasuredRule) -> set[str]:
    """Return the names of the parameters of output layers whose gradient is exact."""
    if not measured.rule.has_exact_output:
        return set()
    capture = snapshot.capture
    own, below = (
        {id(p) for layer in layers for p in capture.module_of(layer).parameters()}
        for layers in (capture.layout.outputs, snapshot.hidden)
    )
    return {name for name, p in capture.model.named_parameters() if id(p) in own - below}
