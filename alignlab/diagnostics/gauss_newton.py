"""Angle to the Gauss-Newton direction, the pseudo-inverse of the Jacobian on the error (A8)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._base import (
    Adjoint,
    AlignmentDiagnostic,
    Comparison,
    Key,
    NotDefined,
    Reading,
    SnapshotDiagnostic,
    Variable,
)
from alignlab.diagnostics._jacobians import jacobians
from alignlab.kernels.cosines import flat, wide
from alignlab.layer_view import LayerView
from alignlab.snapshot import Snapshot

__all__ = ["GaussNewton"]

_NAME = "cosine_gauss_newton"
_KEY = (_NAME, "")


class GaussNewton(AlignmentDiagnostic, SnapshotDiagnostic):
    r"""Cosine of error signals with the pseudo-inverse of the Jacobian applied to the error.

    .. math:: \frac1N\sum_i\cos(\hat\delta_i, J_i^+e_i), \qquad J_i = \partial z/\partial h_l,

    at the entry of layer l, with z the pre-activation of the output layer and :math:`J_i^+` the
    Moore-Penrose inverse of every sample by itself, without a ridge: singular values below 1e-5
    of the largest (with mixed precision, below ten times its rounding) count as zero.
    :math:`-J_i^+e_i` is the smallest change of the activation that takes the error away in first
    order, where :math:`-J_i^\top e_i` is the steepest one.

    **Reading.** Rules that approximate Gauss-Newton targets (target propagation, deep feedback
    control) have a large cosine here and can have a small one with the true signal: for them
    that is no failure. ``cosine_gauss_newton_true`` is the true signal's own cosine with the same
    direction: near 1 the Jacobian is well conditioned on the errors and the two questions are
    one; a rule whose cosine is above it is nearer the pseudo-inverse than the transpose is.

    **Chance.** As for the cosine of error signals: redraws of the feedback, to first order
    :math:`\|\tfrac1N\sum_i\hat u_i\hat e_i^\top\|_F/\sqrt n` with :math:`\hat u_i` the unit vector
    along :math:`J_i^+e_i`.

    **Which samples.** As many as fit in memory, at random. **Undefined** for more than 64 outputs,
    where the output of one sample depends on others (batch norm in training), for several output
    layers, for rules that yield no error signals. Samples without error or with a zero Jacobian
    are counted in ``_n_undefined``.

    Source: Lillicrap et al. 2016 compare with the pseudo-inverse; the direction of each sample
    and its chance level are our derivation. Meulemans et al. 2020 and 2021 derive the relation of
    target propagation and deep feedback control with it.

    Example:
        >>> from alignlab.probe import Probe
        >>> from alignlab.rules import DFA
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
        ... )
        >>> loss, name = torch.nn.functional.cross_entropy, "gauss-newton"
        >>> with Probe(net, loss, rules=[DFA(seed=0)], diagnostics=[name], draws=32) as probe:
        ...     recording = probe.measure(torch.randn(20, 4), torch.arange(20) % 3)
        >>> bool(recording["cosine_gauss_newton_true"].sel(layer="0").item() > 0.2)
        True
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            _NAME,
            ("rule", "layer"),
            "Cosine of approximate signal and pseudo-inverse direction, mean over samples",
            source="Lillicrap et al. 2016; our derivation",
            better="higher",
            valid=(-1.0, 1.0),
            alignment=True,
        ),
        Variable(
            f"{_NAME}_true",
            ("layer",),
            "Cosine of true signal and pseudo-inverse direction, mean over samples",
            valid=(-1.0, 1.0),
        ),
    )
    cost: ClassVar[float] = 12.0
    max_draws: ClassVar[int] = 50

    def compare(self, true: LayerView, approximate: LayerView) -> Mapping[Key, Comparison]:
        """Return the cosine at the entry."""
        found = true.shared(jacobians)
        at = found.at.get(true.layer.name)
        if at is None or approximate.entry is None:
            return {}
        return {_KEY: _compared(at.gauss_newton, approximate.entry[found.samples])}

    def adjoints(self, true: LayerView, energies: Mapping[Key, Tensor]) -> Mapping[Key, Adjoint]:
        """Return T of the cosine, zero for samples that are left out; see the base class."""
        found = true.shared(jacobians)
        at = found.at.get(true.layer.name)
        if at is None or true.entry is None or _KEY not in energies:
            return {}
        unit = at.gauss_newton
        per_sample = energies[_KEY].to(unit.device)
        defined = (unit != 0).any(1) & (per_sample > 0)
        weights = torch.where(defined, per_sample.rsqrt(), 0.0) / defined.sum()
        result = unit.new_zeros(len(true.entry), unit.shape[1])
        result[found.samples.to(unit.device)] = unit * weights.unsqueeze(1)
        return {_KEY: Adjoint(result.reshape(true.entry.shape))}

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield the true signal's own cosine, and why there is none."""
        found = snapshot.shared(jacobians)
        if found.because:
            yield NotDefined(found.because)
            return
        for layer in snapshot.capture.layout.outputs:
            yield NotDefined("it is the output, whose Jacobian is the identity", layer=layer.name)
        for measured in snapshot.rules:
            if not measured.rule.has_signals:
                yield NotDefined("the rule yields no error signals", measured.label)
        for name, at in found.at.items():
            compared = _compared(at.gauss_newton, snapshot.true.entry[name][found.samples])
            yield Reading(f"{_NAME}_true", compared.value, layer=name)


def _compared(unit: Tensor, signal: Tensor) -> Comparison:
    rows = wide(flat(signal))
    energies = torch.einsum("mn,mn->m", rows, rows)
    cosines = (torch.einsum("mn,mn->m", unit, rows) / energies.sqrt()).clamp(-1.0, 1.0)
    defined = torch.isfinite(cosines) & (unit != 0).any(1)
    mean = torch.where(defined, cosines, 0.0).sum() / defined.sum()
    return Comparison(mean, energies, (~defined).sum())
