"""Narrow places above and below a layer, and the spectra that they cut."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignlab.diagnostics._feedback import at_entries
from alignlab.diagnostics._together import together
from alignlab.feedback import project
from alignlab.kernels.cosines import wide
from alignlab.kernels.ranks import relative_energies, scaled_grams
from alignlab.rules._base import DirectRule

if TYPE_CHECKING:
    from alignlab.sites import Layer
    from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["INPUT", "narrowest_below", "spectra"]

DRAWS = 64
"""Most draws of the feedback; the smallest and the largest two lie outside the central 95%."""

INPUT = "input"
"""Name of the place below the first layer."""


def spectra(snapshot: Snapshot, measured: MeasuredRule) -> dict[str, Tensor]:
    r"""Return the energies of :math:`E B_l^\top` by layer, of all draws where B was drawn.

    Args:
        snapshot: The probing.
        measured: A direct rule; E is what it sends.

    Returns:
        By layer at whose entry feedback acts, descending, up to a scale, float64, shape
        ``(n_draws, k)`` with k the smaller of the numbers of samples, errors and units; one draw
        where the feedback was not drawn for the analysis.
    """
    assert isinstance(measured.rule, DirectRule)
    sent = wide(measured.rule.sent(snapshot.exact_error, snapshot.y)).flatten(1)
    # The triangular factor has the inner products of the error and at most as many rows.
    half = torch.linalg.qr(sent).R
    count = min(snapshot.draws, DRAWS)
    drawn = snapshot.redrawn(measured, count) if measured.is_drawn else [measured]
    grams: dict[str, list[Tensor]] = {}
    for each in drawn:
        for name, feedback in at_entries(snapshot, each.feedback).items():
            images = project(half, feedback, (len(half), *feedback.shape[1:]))
            grams.setdefault(name, []).append(scaled_grams(images.flatten(1))[0])
    stacked = {name: (torch.stack(found),) for name, found in grams.items()}
    return together(relative_energies, stacked)


def narrowest_below(snapshot: Snapshot, layer: Layer) -> tuple[int, str] | None:
    """Return the narrowest place through which everything that a layer reads has passed.

    Places are the entries of layers below that every path from the first layer to the loss
    passes, and the input where all layers below are such.

    Returns:
        Units per sample and the name of the layer (or ``INPUT``), or None where there is no
        such place.
    """
    by_name = {each.name: each for each in snapshot.layers}
    below = [each for each in snapshot.hidden if each.depth < layer.depth]
    trunk = [
        each
        for each in below
        if by_name[each.consumer].depth <= layer.depth and snapshot.capture.layout.is_trunk(each)
    ]
    found = [(each.entry_width, each.name) for each in trunk]
    if len(trunk) == len(below):
        first = snapshot.capture.input_of(snapshot.layers[0])
        found.append((prod(first.shape[1:]), INPUT))
    return min(found) if found else None
