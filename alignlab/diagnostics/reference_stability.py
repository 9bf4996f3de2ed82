"""Mean cosine between the weight gradients of disjoint chunks of the batch (A9)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._chance import Chance, adjusted_statuses, readings
from alignlab.diagnostics._chunks import grams_of, true_grams, why_not
from alignlab.diagnostics._together import fetched
from alignlab.kernels.gradient_noise import pairwise_cosine
from alignlab.snapshot import Snapshot

__all__ = ["ReferenceStability"]

_TRUE, _TOTAL, _RULE = "reference_stability", "reference_stability_total", "update_stability"


class ReferenceStability(SnapshotDiagnostic):
    r"""How much the weight gradients of different samples have in common.

    With :math:`g_k` the weight gradient of chunk k of up to eight disjoint ones,

    .. math:: \bar c = \frac{1}{K(K-1)}\sum_{j\ne k}
        \frac{\langle g_j, g_k\rangle}{\|g_j\|\,\|g_k\|},

    of the true gradient by layer and of all layers stacked, and of every rule whose update is the
    product of its signal with the input.

    *How to read it.* Near chance: samples pull in directions of their own, and a cosine with the
    gradient of one batch says little about the next (see ``noise-ceiling``). High: one direction
    dominates, as early in training, or when a common drift of all samples carries the gradient;
    Hao et al. 2026 saw about 0.1 in healthy training and 0.35 to 0.99 in drift. A rule far above
    the reference sends every sample the same signal. It depends on the size of the chunks, which
    are an eighth of the batch: compare at equal batches only.

    *Chance.* The signs of the chunks' gradients are set at random, as they would be without any
    common direction (``sign_flip``). All patterns are gone through, so that p is exact; with eight
    chunks it is at least 1/128, and no layer is further than 5.3 standard deviations from chance.

    *Undefined* where the gradient of a chunk is zero. Where samples meet in the forward pass (batch
    normalisation in training mode, contrastive losses) chunks are parts of one batch's gradient.
    With fewer than six samples nothing can be detected.

    Source: Hao et al. 2026 (repository; pairwise cosine of gradients over batches); chunks and
    chance level: our derivation.

    Example:
        >>> from alignlab.probe import Probe
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
        ... )
        >>> loss = torch.nn.functional.cross_entropy
        >>> probe = Probe(net, loss, diagnostics=["reference-stability"], draws=32)
        >>> found = probe.measure(torch.ones(24, 4), torch.zeros(24, dtype=torch.long))
        >>> round(found["reference_stability"].sel(layer="0").item(), 6)  # all samples are the same
        1.0
    """

    variables: ClassVar[tuple[Variable, ...]] = tuple(
        Variable(
            name,
            dims,
            f"Mean cosine between the {what} of disjoint chunks of the batch",
            source="Hao et al. 2026 (repository); our derivation",
            valid=(-1.0, 1.0),
            alignment=True,
        )
        for name, dims, what in (
            (_TRUE, ("layer",), "true weight gradients"),
            (_TOTAL, (), "true weight gradients of all layers stacked"),
            (_RULE, ("rule", "layer"), "approximate weight gradients"),
        )
    )
    cost: ClassVar[float] = 1.5

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield the mean cosine of the reference and of every rule."""
        for layer in snapshot.layers:
            because = why_not(snapshot, layer)
            if because:
                yield NotDefined(because, layer=layer.name)
        grams = snapshot.shared(true_grams)
        if not grams:
            return
        total = torch.stack(list(grams.values())).sum(0)
        yield from _shown(_TRUE, grams, snapshot.seed)
        yield from _shown(_TOTAL, {"": total}, snapshot.seed)
        for measured in snapshot.rules:
            label = measured.label
            if snapshot.is_local(measured):
                found = grams_of(snapshot, snapshot.passes[label])
                is_drawn = measured.is_drawn
                yield from _shown(_RULE, found, snapshot.seed, rule=label, is_drawn=is_drawn)
                continue
            for name in grams:
                yield NotDefined(
                    "the rule's update of its weight is no sum over samples", label, name
                )


def _shown(
    name: str,
    grams: Mapping[str, Tensor],
    seed: int,
    *,
    rule: str = "",
    is_drawn: bool = False,
) -> Iterator[Reading | NotDefined]:
    """Yield the mean cosine of every layer with its chance level."""
    if not grams:
        return
    found = pairwise_cosine(torch.stack(list(grams.values())), seed=seed)
    values, drawn, sds = fetched([found.value, found.by_chance, found.sd])
    chances = [_chance(*each) for each in zip(values, drawn.T, sds, strict=True)]
    statuses = adjusted_statuses(list(values), chances, is_drawn=is_drawn, is_cosine=False)
    for layer, value, chance, status in zip(grams, values, chances, statuses, strict=True):
        yield from readings(
            *(name, float(value), chance, status),
            undefined=float(np.isnan(value)),
            place=(rule, layer, ""),
        )
        if np.isnan(value):
            yield NotDefined("the gradient of one of the chunks is zero", rule, layer)


def _chance(value: float, drawn: np.ndarray, sd: float) -> Chance:
    """Return the chance level that all patterns of signs give."""
    nan = float("nan")
    if not np.isfinite(value):
        return Chance(nan, nan, nan, "sign_flip", "redraws", nan, nan)
    every = np.append(drawn, value)
    low, high = np.quantile(every, [0.025, 0.975], method="inverted_cdf")
    # Patterns that differ by rounding alone are the same.
    slack = 1e-12
    reached, opposed = (np.mean(s * every >= s * value - slack) for s in (1.0, -1.0))
    return Chance(
        *(float(sd), float(low), float(high), "sign_flip", "redraws", nan, float(reached)),
        p_opposed=float(opposed),
    )
