"""How activations grow along the trunk of a network, and what is left of the gradient (G4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._together import fetched
from alignlab.diagnostics._trunk import stream_at
from alignlab.kernels.cosines import wide
from alignlab.snapshot import Snapshot

__all__ = ["ResidualGrowth"]


class ResidualGrowth(SnapshotDiagnostic):
    r"""Norm of the activations at one entry of the trunk over that at the one before.

    .. math:: \|h_{l+1}\| / \|h_l\|

    with norms over the whole batch, along the trunk: the entries that every path from the layers
    below to the loss passes. Before a normalisation over units (layer, group, root mean square)
    it is what that reads; at a branch that begins with a normalisation it is what the shortcut
    carries; elsewhere inside a branch there is no number. Layers that share an entry share it.
    ``residual_growth_largest`` is the largest along the trunk,
    ``residual_reference_norm`` the norm of the true error signal at the pre-activation of the
    highest hidden layer, below which no true signal is larger by much.

    *Reading.* A stream that explodes starves the gradient below a terminal normalisation, and the
    cosine with what is left of it is void. Hao, Wan & Zhai (repository) call growth above 50 with
    a norm below 1e-7 a void reference; they give at most 11 (early vision transformers 25) for
    healthy networks and at least 100 for failing ones. A penalty on the norm of the blocks'
    outputs, or no terminal normalisation, would lower it. Norms also grow by the root of the
    width where layers widen, and fall where they pool.

    *Expectation.* 1 where activations keep their size; no chance level.

    *Undefined* for output layers, for entries inside a branch, for the first entry of the trunk,
    and after activations that are all zero.

    Source: Hao, Wan & Zhai 2026 (repository); which entries are the trunk: ours.

    Example:
        >>> import torch
        >>> from alignlab.probe import Probe
        >>> net = torch.nn.Sequential(*(torch.nn.Linear(6, 6, bias=False) for _ in range(4)))
        >>> for layer in net:
        ...     _ = layer.weight.data.copy_(100.0 * torch.eye(6))
        >>> with Probe(
        ...     net, torch.nn.functional.mse_loss, diagnostics=["residual-growth"], draws=32
        ... ) as probe:
        ...     ds = probe.measure(torch.randn(9, 6), torch.zeros(9, 6))
        >>> round(ds["residual_growth_largest"].item(), 3)
        100.0
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "residual_growth",
            ("layer",),
            "Norm of the trunk's activations at the layer's entry over that at its last entry",
            source="after Hao et al. 2026 (repository); which entries are the trunk: ours",
            valid=(0.0, None),
        ),
        Variable(
            "residual_growth_largest",
            (),
            "Largest growth along the trunk",
            source="after Hao et al. 2026 (repository)",
            better="lower",
            valid=(0.0, None),
        ),
        Variable(
            "residual_reference_norm",
            (),
            "Norm of the true error signal at the pre-activation of the highest hidden layer",
            source="after Hao et al. 2026 (repository)",
            better="higher",
            valid=(0.0, None),
        ),
    )
    cost: ClassVar[float] = 0.05

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield the growth at every place of the trunk but the first."""
        norms = _norms(snapshot)
        places = list(norms)
        sizes = [float(norm) for norm in fetched(list(norms.values()))]
        growths: list[float] = []
        for layer in snapshot.layers:
            because = ""
            place = places.index(layer.consumer) if layer.consumer in places else -1
            if layer.is_output:
                because = "no layer reads its output"
            elif place < 0:
                because = "its entry lies inside a branch"
            elif place == 0:
                because = "its entry is the first of the trunk"
            elif not sizes[place - 1] > 0:
                because = "the activations before it are all zero"
            if because:
                yield NotDefined(because, layer=layer.name)
                continue
            growths.append(sizes[place] / sizes[place - 1])
            yield Reading("residual_growth", growths[-1], layer=layer.name)
        if growths:
            yield Reading("residual_growth_largest", max(growths))
        for layer in snapshot.hidden[-1:]:
            norm = wide(snapshot.true.preactivation[layer.name]).norm()
            yield Reading("residual_reference_norm", norm)


def _norms(snapshot: Snapshot) -> dict[str, Tensor]:
    """Return the norms along the trunk, by the layer that reads there."""
    norms: dict[str, Tensor] = {}
    for layer in snapshot.hidden:
        stream = None if layer.consumer in norms else stream_at(snapshot.capture, layer)
        if stream is not None:
            norms[layer.consumer] = wide(stream).norm()
    return norms
