"""Whether the positions of a layer agree on its weight gradient (F3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._positions import not_at_positions
from alignlab.snapshot import Snapshot

__all__ = ["Coherence"]


class Coherence(SnapshotDiagnostic):
    r"""Coherence of the weight gradients of all positions, for the rule and for the truth.

    .. math:: \frac{\|\sum_p g_p\|}{\sqrt{P\,\sum_p\|g_p\|^2}}

    with :math:`g_p` the gradient that position p alone causes, of a convolution or of a Linear
    layer on positions (tokens), and P their number: how much of them survives their sum.

    How to read it: near ``coherence_chance`` the contributions of positions cancel, and most of
    the signal is lost in the sum. Where the rule is there and backpropagation well above, dense
    feedback under a pooled head is the likely cause: feedback that is the same at all positions
    (``structure=channel``) raises it, and the chance level of the shared gradient with it. Where
    backpropagation is near chance too (a flattened head) it is not the cause.

    Expectation: :math:`1/\sqrt P` for gradients of unrelated positions; neighbouring inputs are
    related, so that it is a little more even then.

    Undefined for weights that act at one position alone, for transposed convolutions, for
    updates that are no sum over positions, and where all gradients are zero. Of drawn feedback
    nothing is given.

    Source: our derivation.

    Example:
        >>> import torch
        >>> from torch.nn import AdaptiveAvgPool1d, Conv1d, Flatten, Linear, Sequential
        >>> from torch.nn.functional import cross_entropy
        >>> from alignlab import Probe
        >>> from alignlab.rules import DFA
        >>> _ = torch.manual_seed(0)
        >>> net = Sequential(Conv1d(2, 40, 1), AdaptiveAvgPool1d(1), Flatten(), Linear(40, 3))
        >>> x = torch.ones(9, 2, 16) * torch.randn(9, 2, 1)
        >>> with Probe(net, cross_entropy, rules=[DFA()], draws=32,
        ...            diagnostics=["coherence"]) as probe:
        ...     found = probe.measure(x, torch.arange(9) % 3).sel(layer="0")
        >>> [round(found[name].item(), 2) for name in ("coherence_true", "coherence_chance")]
        [1.0, 0.25]
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "coherence_true",
            ("layer",),
            "Coherence over positions of the true weight gradient",
            valid=(0.0, 1.0),
        ),
        Variable(
            "coherence",
            ("rule", "layer"),
            "Coherence over positions of the approximate weight gradient",
            better="higher",
            valid=(0.0, 1.0),
        ),
        Variable(
            "coherence_chance",
            ("layer",),
            "Coherence of unrelated positions, one over the root of their number",
            valid=(0.0, 1.0),
        ),
    )
    cost: ClassVar[float] = 3.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield the coherence of every layer whose weight acts at positions."""
        for output in snapshot.capture.layout.outputs:
            because = "it is the output layer, and hidden layers alone are compared"
            yield NotDefined(because, layer=output.name)
        for measured in snapshot.rules:
            if measured.is_drawn:
                yield NotDefined("the feedback was drawn", measured.label)
        for layer in snapshot.hidden:
            view = snapshot.view(layer, snapshot.true)
            products, name = view.position_products, layer.name
            if products is None or view.preactivation is None:
                yield NotDefined(not_at_positions(view), layer=name)
                continue
            yield Reading("coherence_true", products.coherence(view.preactivation), layer=name)
            yield Reading("coherence_chance", layer.positions**-0.5, layer=name)
            for measured in snapshot.rules:
                if measured.is_drawn:
                    continue
                own = snapshot.view(layer, snapshot.passes[measured.label])
                if own.is_local and own.preactivation is not None:
                    value = products.coherence(own.preactivation)
                    yield Reading("coherence", value, measured.label, name)
                else:
                    yield NotDefined(not_at_positions(own), measured.label, name)
