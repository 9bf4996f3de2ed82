"""Likeness of representations to a twin's, to the initial ones and to those below (G6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf, nan
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from alignlab.diagnostics._activations import Products, Representations, representations
from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._chance import adjusted_statuses, chance_of, readings
from alignlab.diagnostics._together import fetched
from alignlab.engine.capture import Capture
from alignlab.errors import MeasurementError
from alignlab.feedback import generator
from alignlab.kernels.cosines import cosine
from alignlab.kernels.similarity import (
    FEWEST_SAMPLES,
    debiased_gram,
    debiased_similarity,
    dissimilarity_ranks,
    permutation_sd,
    permuted,
)
from alignlab.snapshot import INITIAL, Snapshot

__all__ = ["RepresentationSimilarity"]

MOST_DRAWS = 100
"""Permutations of the samples for a chance level; 40 where the Gram matrices are large."""

_LARGE = 2**22
_OTHERS = {
    "twin": "those of the twin that was trained by backpropagation",
    "initial": "those of the initial network",
    "below": "the layer's own input",
}


@dataclass(frozen=True)
class _Seen:
    """What is compared of one layer: Gram matrix and ranked dissimilarities."""

    gram: Tensor
    ranks: Tensor


class RepresentationSimilarity(SnapshotDiagnostic):
    r"""How alike two representations of the same samples are, up to rotation and scale.

    .. math:: \mathrm{CKA} = \frac{\langle\tilde K,\tilde L\rangle}{\|\tilde K\|\|\tilde L\|}

    with :math:`\tilde K` the debiased (U-centred) Gram matrix of the activations h at a layer's
    entry (maps flattened per sample; of an output layer its pre-activations): ``cka_twin`` against
    the same layer of a network trained by backpropagation, ``cka_initial`` against that of the
    network at step 0, ``cka_below`` against the layer's own input. ``rsa_twin`` and
    ``rsa_initial`` are the rank correlations of the dissimilarities (one minus correlation) of
    all pairs of samples.

    *Reading.* 1 is the same representation up to rotation and scale. Near the twin, and far from
    the start: the rule found what backpropagation finds. Near the start: the layer hardly learns
    features. High accuracy far from the twin is no contradiction: equally good networks need not
    be alike, and two networks that backpropagation trained from other seeds show how alike
    they could be. ``cka_below`` near 1 is a layer that changes little.

    *Chance.* Over permutations of the samples of one of the two, both measures have mean zero
    exactly, and debiased CKA has the standard deviation :math:`\sqrt{2/(N(N-3))}` exactly
    (our derivation); band and p come from permutations. Plain CKA is not used: of pure noise it
    is .50 with 256 samples of 256 units and .94 with 4,096 units.

    *Undefined* without a twin or an initial state, for layers that the twin does not have, for
    fewer than 4 samples, and where the activations do not differ between samples; RSA also where
    a sample has the same activation in all units, as one without activity.

    Sources: Kornblith et al. 2019 (CKA); Song et al. 2012 and Székely & Rizzo 2014 (the debiased
    estimate); Kriegeskorte, Mur & Bandettini 2008 (RSA).

    Example:
        >>> import copy, torch
        >>> from alignlab.probe import Probe
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
        ... )
        >>> twin = copy.deepcopy(net)
        >>> with Probe(
        ...     net, torch.nn.functional.cross_entropy, twin=twin, draws=32,
        ...     diagnostics=["representation-similarity"],
        ... ) as probe:
        ...     ds = probe.measure(torch.randn(40, 6), torch.arange(40) % 3)
        >>> ds["cka_twin"].values.round(6).tolist()
        [[1.0, 1.0]]
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        *(
            Variable(
                f"cka_{other}",
                ("layer",),
                f"Debiased linear CKA of the activations at the layer's entry with {phrase}",
                source="Kornblith et al. 2019; debiased after Song et al. 2012",
                valid=(-1.0, 1.0),
                alignment=True,
            )
            for other, phrase in _OTHERS.items()
        ),
        *(
            Variable(
                f"rsa_{other}",
                ("layer",),
                f"Rank correlation of the dissimilarities of samples with {_OTHERS[other]}",
                source="Kriegeskorte, Mur & Bandettini 2008",
                valid=(-1.0, 1.0),
            )
            for other in ("twin", "initial")
        ),
    )
    cost: ClassVar[float] = 0.6

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield every layer's likeness to whatever there is to compare it with."""
        if snapshot.capture.n_samples < FEWEST_SAMPLES:
            yield NotDefined(f"fewer than {FEWEST_SAMPLES} samples have no debiased likeness")
            return
        held = snapshot.shared(representations)
        own = _seen(held.activations)
        others: dict[str, Mapping[str, _Seen]] = {"below": _seen(held.inputs)}
        if snapshot.initial is None:
            yield NotDefined("the initial state is not known (cka_initial, rsa_initial)")
        else:
            with snapshot.at(INITIAL) as capture:
                others["initial"] = _seen(Representations.of(capture).activations)
        twin = _of_twin(snapshot)
        if isinstance(twin, NotDefined):
            yield twin
        else:
            others["twin"] = twin
            for name in own:
                if name not in twin:
                    yield NotDefined("the twin has no such layer (cka_twin, rsa_twin)", layer=name)
        yield from _compared(snapshot, own, others)


def _seen(found: Mapping[str, Products]) -> dict[str, _Seen]:
    return {
        name: _Seen(
            debiased_gram(each.gram),
            dissimilarity_ranks(each.gram, each.means, n_units=each.n_units),
        )
        for name, each in found.items()
    }


def _of_twin(snapshot: Snapshot) -> dict[str, _Seen] | NotDefined:
    """Return what the twin makes of the batch, or why there is nothing."""
    if snapshot.twin is None:
        return NotDefined("no twin trained by backpropagation was given (cka_twin, rsa_twin)")
    chosen = snapshot.capture.chosen
    try:
        capture = Capture(
            snapshot.twin, snapshot.loss_function, snapshot.x, snapshot.y, layers=chosen
        )
    except MeasurementError as error:
        return NotDefined(f"the twin cannot be measured: {error} (cka_twin, rsa_twin)")
    try:
        return _seen(Representations.of(capture).activations)
    finally:
        capture.close()


def _compared(
    snapshot: Snapshot, own: Mapping[str, _Seen], others: Mapping[str, Mapping[str, _Seen]]
) -> Iterator[Reading | NotDefined]:
    places = [(other, name) for other, found in others.items() for name in own if name in found]
    first = torch.stack([own[name].gram for _, name in places])
    second = torch.stack([others[other][name].gram for other, name in places])
    ranked = {
        (other, name): cosine(own[name].ranks, others[other][name].ranks)
        for other, name in places
        if other != "below"
    }
    drawn = _permuted(snapshot, first, second)
    observed, draws, *ranks = fetched([debiased_similarity(first, second), drawn, *ranked.values()])
    for (other, name), value in zip(ranked, ranks, strict=True):
        yield Reading(f"rsa_{other}", value, layer=name)
        if not np.isfinite(value):
            because = f"a sample has the same activation in all units (rsa_{other})"
            yield NotDefined(because, layer=name)
    for other in others:
        rows = {name: k for k, (which, name) in enumerate(places) if which == other}
        yield from _judged(f"cka_{other}", rows, observed, draws, snapshot.capture.n_samples)


def _permuted(snapshot: Snapshot, first: Tensor, second: Tensor) -> Tensor:
    """Return the likeness under permutations of the samples, shape ``(n_draws, n_places)``."""
    stream = generator(snapshot.seed, "permutation")
    most = MOST_DRAWS if first.numel() < _LARGE else 40
    found = []
    for _ in range(min(snapshot.draws, most)):
        order = torch.randperm(first.shape[-1], generator=stream).to(first.device)
        found.append(debiased_similarity(first, permuted(second, order)))
    return torch.stack(found)


def _judged(
    variable: str,
    rows: Mapping[str, int],
    observed: np.ndarray,
    draws: np.ndarray,
    n_samples: int,
) -> Iterator[Reading | NotDefined]:
    chances = [
        replace(
            # Low-dimensional representations are far from normal: no tail is assumed.
            chance_of(observed[k], draws[:, k], kind="sample_permutation", concentration=inf),
            sd=permutation_sd(n_samples),
            concentration=nan,
        )
        for k in rows.values()
    ]
    values = [float(observed[k]) for k in rows.values()]
    statuses = adjusted_statuses(values, chances, is_drawn=False, is_cosine=False)
    for name, value, chance, status in zip(rows, values, chances, statuses, strict=True):
        if not np.isfinite(value):
            because = f"its activations do not differ between samples ({variable})"
            yield NotDefined(because, layer=name)
        undefined = float(not np.isfinite(value))
        place = ("", name, "")
        yield from readings(variable, value, chance, status, undefined=undefined, place=place)
