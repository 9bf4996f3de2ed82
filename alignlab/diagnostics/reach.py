"""How much of the true error signal some fixed feedback could give (E1, E3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from alignlab.diagnostics._base import Reading, SnapshotDiagnostic, Variable
from alignlab.kernels.cosines import flat
from alignlab.kernels.regression import explained_held_out, explained_in_sample
from alignlab.snapshot import Snapshot

__all__ = ["Reach"]

_DIMS = ("layer", "site")


class Reach(SnapshotDiagnostic):
    """Share of the true signal that is linear in the error: a bracket of the best feedback."""

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "reach_in_sample",
            _DIMS,
            "Share of the true signal that is linear in the error, fitted on these samples",
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
    cost: ClassVar[float] = 0.1

    def measure(self, snapshot: Snapshot) -> Iterator[Reading]:
        """Yield both ends of the bracket; the square root bounds the flattened cosine."""
        fold = snapshot.fold.to(snapshot.error.device)
        for layer in snapshot.hidden:
            view = snapshot.view(layer, snapshot.true)
            for site in snapshot.sites(layer):
                signal = view.site(site)
                assert signal is not None
                rows = flat(signal)
                inside = explained_in_sample(snapshot.error, rows)
                outside = explained_held_out(snapshot.error, rows, fold)
                yield Reading("reach_in_sample", inside, layer=layer.name, site=site)
                yield Reading("reach_held_out", outside, layer=layer.name, site=site)
