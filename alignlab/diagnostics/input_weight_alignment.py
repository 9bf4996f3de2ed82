"""Whether weights moved along input correlations that errors weight, the lazy prediction (G8)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import inf, nan
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._chance import adjusted_statuses, chance_of, readings
from alignlab.diagnostics._lazy import Moved, lazy_updates, moved_weight
from alignlab.diagnostics._together import fetched
from alignlab.feedback import generator
from alignlab.kernels.cosines import cosine
from alignlab.kernels.input_alignment import alignment_score, rotated_scores
from alignlab.snapshot import Snapshot

__all__ = ["InputWeightAlignment"]

SHUFFLES = 8
LARGEST_ROTATION = 128
"""Output units up to which rotations of them are drawn; above, the null is normal."""

_SOURCE = "Boopathy & Fiete 2022 (code); with one batch and the errors of two states: ours"


class InputWeightAlignment(SnapshotDiagnostic):
    r"""Alignment score of the change of weights with the Align-zero update of this batch.

    .. math:: \frac{\|\Delta W'\,\Delta W^\top\|_F^2}
        {\|\Delta W\,\Delta W^\top\|_F\,\|\Delta W'\,\Delta W'^\top\|_F}, \qquad
        \Delta W' = -\sum_i J_i(0)^\top \bar e_i\, h_i(0)^\top,

    with :math:`\Delta W = W - W(0)`, and :math:`\Delta W'` the update of the network linearised at
    its initial state (Align-zero): :math:`\Delta W'^\top\Delta W'` are input correlations weighted
    by products of errors. A training accumulates them over its steps; here :math:`\bar e` is the
    mean of the errors at all states that are known (the initial one, others of ``earlier``, and
    now), on the measured batch: the more evenly spaced states, the nearer. Weights of convolutions
    are matrices of output channels by patches. ``cosine_input_weight`` is the plain
    cosine of the two, to which a rotation of the outputs matters.

    *Reading.* Near 1 the layer learnt as a wide (lazy) network does: its weights read the
    directions of the input that the errors weigh. Low: features moved, or the rule did not
    descend. ``input_weight_alignment_halves`` is the score that two halves of the batch's own
    update have with each other: on samples that were not trained on, where that is low, more are
    needed before a low score means anything; and with only two states known a network whose
    errors turned in between scores low however lazy it is. Three-layer networks of width 256 on
    digits scored .98 and more with the update accumulated over the training, .7 to .8 with the
    errors of two states on 512 samples (our simulation): compare with the halves and with
    chance, not with 1.

    *Chance.* It is not zero. ``_chance`` and ``_chance_sd`` are exact for rotated inputs of
    :math:`\Delta W` (our derivation), n_out/(n_out + n_in + 1) for unrelated normal weights;
    ``_shuffled`` is the mean over 8 shuffles of the entries of :math:`\Delta W`. The cosine has
    the null of rotated outputs.

    *Undefined* without an initial state; where the weights have not changed, are frozen or
    computed from other tensors; where no error reached the layer; for grouped convolutions,
    whose units read different inputs; and for further calls of the same module.

    Source: Boopathy & Fiete 2022, arXiv 2106.08453 (score and rule; code).

    Example:
        >>> import copy, torch
        >>> from alignlab.probe import Probe
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
        ... )
        >>> x, y = torch.randn(40, 6), torch.arange(40) % 3
        >>> start = copy.deepcopy(net.state_dict())
        >>> loss = torch.nn.functional.cross_entropy
        >>> loss(net(x), y).backward()
        >>> _ = [p.data.sub_(1e-3 * p.grad) for p in net.parameters()]
        >>> with Probe(
        ...     net, loss, diagnostics=["input-weight-alignment"], draws=32,
        ...     earlier={"initial": start},
        ... ) as probe:
        ...     ds = probe.measure(x, y)
        >>> ds["input_weight_alignment"].values.round(2).tolist()
        [[1.0, 1.0]]
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "input_weight_alignment",
            ("layer",),
            "Alignment score of the change of weights with this batch's Align-zero update",
            source=_SOURCE,
            better="higher",
            valid=(0.0, 1.0),
        ),
        Variable(
            "input_weight_alignment_chance",
            ("layer",),
            "Mean of that score when the inputs of the change are rotated",
            valid=(0.0, 1.0),
        ),
        Variable(
            "input_weight_alignment_chance_sd",
            ("layer",),
            "Standard deviation of that score when the inputs of the change are rotated",
            valid=(0.0, 1.0),
        ),
        Variable(
            "input_weight_alignment_shuffled",
            ("layer",),
            "Mean of that score when the entries of the change are shuffled",
            source="after Boopathy & Fiete 2022 (code, where weights are shuffled)",
            valid=(0.0, 1.0),
        ),
        Variable(
            "input_weight_alignment_halves",
            ("layer",),
            "Alignment score of the Align-zero updates of two halves of the batch",
            valid=(0.0, 1.0),
        ),
        Variable(
            "cosine_input_weight",
            ("layer",),
            "Cosine of the change of weights with this batch's Align-zero update",
            source=_SOURCE,
            better="higher",
            valid=(-1.0, 1.0),
            alignment=True,
        ),
    )
    cost: ClassVar[float] = 4.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield score and cosine of every layer, each with its chance level."""
        if snapshot.initial is None:
            yield NotDefined("the initial state is not known")
            return
        forms = lazy_updates(snapshot)
        if isinstance(forms, NotDefined):
            yield forms
            return
        weights: dict[str, Moved] = {}
        for layer in snapshot.layers:
            found = moved_weight(snapshot, layer, forms)
            if isinstance(found, str):
                yield NotDefined(found, layer=layer.name)
            else:
                weights[layer.name] = found
        norms = fetched([t.norm() for each in weights.values() for t in (each.change, each.form)])
        for name, (change, form) in zip(list(weights), _pairs(norms), strict=True):
            if change > 0 and form > 0:
                continue
            because = "no error reaches its weights" if change > 0 else "its weights have not moved"
            yield NotDefined(because, layer=name)
            del weights[name]
        for name, each in weights.items():
            yield from _scores(name, each, snapshot.seed)
        yield from _cosines(snapshot, weights)


def _pairs(values: list[np.ndarray]) -> Iterator[tuple[float, float]]:
    for first, second in zip(values[::2], values[1::2], strict=True):
        yield float(first), float(second)


def _scores(name: str, each: Moved, seed: int) -> Iterator[Reading]:
    score = alignment_score(each.change, each.form)
    mean, sd = rotated_scores(each.change, each.form)
    stream = generator(seed, "shuffle", name)
    shuffled = []
    for _ in range(SHUFFLES):
        order = torch.randperm(each.change.numel(), generator=stream).to(each.change.device)
        entries = each.change.flatten()[order].reshape(each.change.shape)
        shuffled.append(alignment_score(entries, each.form))
    found = {
        "": score,
        "_chance": mean.clamp(0.0, 1.0),
        "_chance_sd": sd.clamp(0.0, 1.0),
        "_shuffled": torch.stack(shuffled).mean(),
        "_halves": alignment_score(each.half, each.form - each.half),
    }
    for suffix, value in found.items():
        yield Reading(f"input_weight_alignment{suffix}", value, layer=name)


def _cosines(snapshot: Snapshot, weights: Mapping[str, Moved]) -> Iterator[Reading]:
    """Yield the plain cosines with the null of rotated output units."""
    tensors: list[Tensor] = []
    for name, each in weights.items():
        change, form = (t / t.norm() for t in (each.change, each.form))
        product = form @ change.T
        tensors += [
            cosine(change.flatten(), form.flatten()),
            product.norm() / len(product) ** 0.5,
            _rotated(product, snapshot, name),
        ]
    found = fetched(tensors)
    values = [float(value) for value in found[::3]]
    chances = []
    for value, sd, draws in zip(values, found[1::3], found[2::3], strict=True):
        is_drawn = draws.size > 0
        level = chance_of(
            value,
            draws if is_drawn else float(sd) * np.array([-1.0, 1.0]),
            kind="output_rotation",
            concentration=inf if is_drawn else nan,
            closed_form=nan if is_drawn else float(sd),
        )
        chances.append(replace(level, sd=float(sd), concentration=nan))
    statuses = adjusted_statuses(values, chances, is_drawn=False, is_cosine=False)
    for name, value, chance, status in zip(weights, values, chances, statuses, strict=True):
        yield from readings(
            *("cosine_input_weight", value, chance, status), undefined=0.0, place=("", name, "")
        )


def _rotated(product: Tensor, snapshot: Snapshot, name: str) -> Tensor:
    """Return the cosine under rotations of the output units, where there are not too many."""
    n_out = len(product)
    if n_out > LARGEST_ROTATION:
        return product.new_zeros(0)
    stream = generator(snapshot.seed, "rotation", "input-weight", name)
    shape = (min(snapshot.draws, 100), n_out, n_out)
    q, r = torch.linalg.qr(torch.randn(shape, generator=stream, dtype=torch.float64))
    frames = q * torch.sign(torch.diagonal(r, dim1=-2, dim2=-1))[:, None, :]
    turned: Tensor = (frames.to(product) * product).sum((-2, -1))
    return turned
