"""How much of the true error signal some fixed feedback could give (E1, E3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch

from alignlab.diagnostics._base import Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._feedback import error_space
from alignlab.diagnostics._local import gains
from alignlab.kernels.cosines import flat, wide
from alignlab.kernels.regression import explained_held_out, explained_in_sample
from alignlab.sites import ENTRY, PREACTIVATION
from alignlab.snapshot import Snapshot

__all__ = ["Reach"]

_DIMS = ("layer", "site")

SAMPLES_PER_DIRECTION = 20
"""Samples for every direction of the error below which the two ends say nothing."""


class Reach(SnapshotDiagnostic):
    """Share of the true signal that some fixed feedback of the error gives: a bracket.

    At the pre-activation the feedback is fitted through the local backward map, as the rule's
    signal passes it. Undefined for fewer than 20 samples per direction of the error, and at
    pre-activations whose map mixes units or that are also reached around their entry.
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "reach_in_sample",
            _DIMS,
            "Share of the true signal that fixed feedback can give, fitted on these samples",
            better="higher",
            valid=(0.0, 1.0),
        ),
        Variable(
            "reach_held_out",
            _DIMS,
            "That share on samples that the fit has not seen",
            better="higher",
            valid=(None, 1.0),
        ),
    )
    cost: ClassVar[float] = 0.5

    def measure(self, snapshot: Snapshot) -> Iterator[Reading]:
        """Yield both ends of the bracket; the square root bounds the flattened cosine."""
        errors = wide(snapshot.exact_error)
        errors = errors @ error_space(errors)
        if errors.shape[1] * SAMPLES_PER_DIRECTION > errors.shape[0] or not errors.shape[1]:
            return
        fold = snapshot.fold.to(errors.device)
        for layer in snapshot.hidden:
            signal = flat(snapshot.true.entry[layer.name]).to(errors.device)
            local = gains(snapshot, layer)
            weights: dict[str, torch.Tensor | None] = {ENTRY: None}
            if local is not None:
                weights[PREACTIVATION] = flat(local).to(errors.device)
            for site, gain in weights.items():
                inside = explained_in_sample(errors, signal, gains=gain)
                outside = explained_held_out(errors, signal, fold, gains=gain)
                yield Reading("reach_in_sample", inside, layer=layer.name, site=site)
                yield Reading("reach_held_out", outside, layer=layer.name, site=site)
