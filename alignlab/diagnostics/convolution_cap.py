"""How far convolution weights can turn towards dense feedback (F1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._feedback import MOST_ERRORS, direct_pairs
from alignlab.kernels.convolution import structured_share
from alignlab.kernels.unrolled import tap_overlaps
from alignlab.rules._base import DirectRule
from alignlab.sites import Layer
from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["ConvolutionCap"]

_DRAWS = 8


class ConvolutionCap(SnapshotDiagnostic):
    r"""Largest cosine that the weights of a convolution can have with B_l B_{l-1}^T.

    Unrolled, a convolution is a sparse matrix of few free parameters, all else of dense feedback
    is out of its reach. With P the projector on all matrices that its weights can be (the mean
    over tied entries, zero off the support), no weight has a larger cosine with T than

    .. math:: \frac{\|PT\|}{\|T\|} \approx \sqrt{\frac{\text{free parameters}}{n_l\,n_{l-1}}}

    ``convolution_weight_attainable`` is the left side for :math:`T = B_l B_{l-1}^\top` of the
    rule, ``convolution_weight_cap`` the right side, its expectation for dense random T.

    How to read it: it bounds the alignment of *weights* alone (``cosine_weight_feedback``, which
    is to be read as a share of it); gradients can be aligned far better (``attainable_cosine``).
    Larger kernels, fewer positions and feedback of a simpler structure raise it.

    Chance: none; it is a ceiling. With feedback that was drawn it is the median over 8 draws.

    Undefined for layers that are no convolutions, whose weights are all free; the rule's own
    also where no feedback of a direct rule enters on both sides in the sizes of the weight: at
    the first layer, behind a pooling, and for more than 4,096 errors.

    Source: our derivation, the testable form of what Refinetti et al. 2021 say of convolutions.

    Example:
        >>> from torch.nn import Conv1d, Flatten, Linear, Sequential
        >>> from torch.nn.functional import cross_entropy
        >>> from alignlab import Probe
        >>> net = Sequential(Conv1d(2, 4, 3, padding=1), Conv1d(4, 4, 3, padding=1), Flatten(),
        ...                  Linear(64, 3))
        >>> with Probe(net, cross_entropy, draws=32, diagnostics=["convolution-cap"]) as probe:
        ...     found = probe.measure(torch.randn(9, 2, 16), torch.arange(9) % 3)
        >>> round(found["convolution_weight_cap"].sel(layer="1").item(), 4)  # (48 / 64**2) ** 0.5
        0.1083
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "convolution_weight_cap",
            ("layer",),
            "Expected largest cosine of convolution weights with dense feedback",
            valid=(0.0, 1.0),
        ),
        Variable(
            "convolution_weight_attainable",
            ("rule", "layer"),
            "Largest cosine of convolution weights with the feedback of this rule",
            better="higher",
            valid=(0.0, 1.0),
        ),
    )
    cost: ClassVar[float] = 1.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield the cap of every convolution with a layer below, and that for the feedback."""
        because = {layer.name: _uncapped(snapshot, layer) for layer in snapshot.layers}
        for layer in snapshot.layers:
            if because[layer.name]:
                yield NotDefined(because[layer.name], layer=layer.name)
            else:
                cap = _cap(snapshot, layer)
                yield Reading("convolution_weight_cap", cap, layer=layer.name)
        for measured in snapshot.rules:
            if not isinstance(measured.rule, DirectRule):
                yield NotDefined("the rule sends no error directly", measured.label)
                continue
            drawn = snapshot.redrawn(measured, _DRAWS) if measured.is_drawn else (measured,)
            found: dict[str, list[Tensor]] = {}
            for each in drawn:
                for name, value in _attainable(snapshot, each).items():
                    found.setdefault(name, []).append(value)
            for layer in snapshot.layers:
                place = (measured.label, layer.name)
                if layer.name in found:
                    median = torch.stack(found[layer.name]).quantile(0.5)
                    yield Reading("convolution_weight_attainable", median, *place)
                elif not because[layer.name]:
                    yield NotDefined(_unpaired(snapshot, layer), *place)


def _uncapped(snapshot: Snapshot, layer: Layer) -> str:
    if not layer.is_convolution:
        return f"it is a {layer.kind}, whose weights are all free"
    if layer.is_output:
        return "it is the output layer, above which there is no feedback"
    if layer.name not in {below.consumer for below in snapshot.hidden}:
        return "no layer lies below it, at whose output feedback could enter"
    return ""


def _unpaired(snapshot: Snapshot, layer: Layer) -> str:
    """Return why a capped layer has no feedback on both sides."""
    if snapshot.capture.n_errors > MOST_ERRORS:
        return f"there are more than {MOST_ERRORS:,} errors"
    if layer.entry_width != layer.width:
        return "its output is pooled before the feedback enters"
    return "its feedback is on one side alone, or has no matrix"


def _cap(snapshot: Snapshot, layer: Layer) -> float:
    shape = snapshot.capture.input_of(layer).shape[1:]
    module = snapshot.capture.module_of(layer)
    weight = snapshot.capture.weight_of(layer)
    # A tap that lies in the padding everywhere is no free parameter.
    acting = np.count_nonzero(tap_overlaps(module, shape).diagonal().numpy())
    free = weight.shape[0] * weight.shape[1] * acting
    return float((free / (layer.width * prod(shape))) ** 0.5)


def _attainable(snapshot: Snapshot, measured: MeasuredRule) -> Mapping[str, Tensor]:
    found = {}
    for pair in direct_pairs(snapshot, measured.feedback):
        if pair.above is not None and pair.layer.is_convolution:
            module = snapshot.capture.module_of(pair.layer)
            found[pair.layer.name] = structured_share(module, pair.below, pair.above)
    return found
