"""How well a linear readout of each layer tells the classes of unseen samples (G5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from alignlab.diagnostics._activations import representations
from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._together import fetched
from alignlab.feedback import generator
from alignlab.kernels.decoding import (
    PENALTIES,
    explained_share,
    held_out_accuracy,
    held_out_residuals,
    held_out_share,
    mean_residuals,
)
from alignlab.kernels.similarity import centred_gram
from alignlab.snapshot import Snapshot

__all__ = ["LabelDecodability"]

FOLDS = 5
"""Parts into which the samples are divided; each is told by a readout of the others."""

RIDGE = 1e-4
"""Penalty of the whitened share, in units of the mean variance of a unit (DFA-Stall)."""

_FEWEST = 6
_COLUMNS = 2048
_MOST_DRAWS = 100
_SCORES = {
    "accuracy": "Accuracy of a linear readout of the layer's activations on unseen samples",
    "r2": "Share of the labels' variance that a linear readout explains on unseen samples",
}


class LabelDecodability(SnapshotDiagnostic):
    r"""What a linear readout of the activations h at a layer's entry knows of the class.

    ``label_accuracy`` and ``label_r2`` are those of ridge regression onto the classes (one column
    each, with a constant), on five random folds that it has not seen; the penalty is chosen
    without them. ``label_explained`` is the whitened share on the samples themselves,

    .. math:: \frac{\operatorname{tr}[\Lambda^\top(\Sigma+\lambda I)^{-1}\Lambda]}
        {\operatorname{tr}\operatorname{Cov}(y)},

    with :math:`\Lambda` the covariance of activations and classes, :math:`\Sigma` that of the
    activations and :math:`\lambda` 1e-4 of the mean variance of a unit. Maps are flattened; of an
    output layer h are its pre-activations. ``_input`` is the same for the network's input.

    *Reading.* High, and the network's own accuracy low: the features are there and the readout
    lags. No higher than for the input, or falling towards the output: the layers add nothing, and
    the cause lies below. The readouts see as many samples as were measured: with few they know
    less than they could.

    *Chance.* ``_chance`` (mean), ``_chance_high`` (upper 2.5 % edge) and ``_p`` come from
    permutations of the labels under the same procedure, and so are exact whatever the shares of
    the classes. That of ``label_explained`` is exact in closed form (our derivation); without a
    penalty it is n/(N - 1), and with more units than samples the share says nothing.

    *Undefined* where the targets are no classes (integers, zeros and ones, or rows with a single
    one), for fewer than 6 samples and for a single class.

    Source: DFA-Stall (repository) for the whitened share, there divided by the mean variance of a
    class; folds, choice of the penalty and chance levels are ours.

    Example:
        >>> import torch
        >>> from alignlab.probe import Probe
        >>> y = torch.arange(60) % 3
        >>> x = torch.nn.functional.one_hot(y, 6).float()
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)
        ... )
        >>> with Probe(
        ...     net, torch.nn.functional.cross_entropy, diagnostics=["label-decodability"], draws=32
        ... ) as probe:
        ...     ds = probe.measure(x, y)
        >>> ds["label_accuracy"].sel(layer="0").item()
        1.0
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        *(
            Variable(
                f"label_{score}",
                ("layer",),
                text,
                better="higher",
                valid=(0.0 if score == "accuracy" else None, 1.0),
            )
            for score, text in _SCORES.items()
        ),
        *(
            Variable(f"label_{score}_{suffix}", ("layer",), f"{text}: {phrase}", valid=valid)
            for score, text in _SCORES.items()
            for suffix, phrase, valid in (
                ("chance", "mean under permuted labels", (None, 1.0)),
                ("chance_high", "upper 2.5% edge under permuted labels", (None, 1.0)),
                ("p", "one-sided p-value against permuted labels", (0.0, 1.0)),
            )
        ),
        *(
            Variable(
                f"label_{score}_input",
                (),
                text.replace("the layer's activations", "the network's input"),
                valid=(0.0 if score == "accuracy" else None, 1.0),
            )
            for score, text in _SCORES.items()
        ),
        Variable(
            "label_explained",
            ("layer",),
            "Share of the labels' variance that whitened activations explain, same samples",
            source="after DFA-Stall (repository)",
            better="higher",
            valid=(0.0, 1.0),
        ),
        Variable(
            "label_explained_chance",
            ("layer",),
            "That share under permuted labels, on average",
            valid=(0.0, None),
        ),
    )
    cost: ClassVar[float] = 1.5

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield what is decodable at every layer, and by chance."""
        classes = _classes(snapshot.y, snapshot.capture.n_samples)
        if isinstance(classes, str):
            yield NotDefined(classes)
            return
        held = snapshot.shared(representations)
        rows = {**held.activations, "": held.inputs[snapshot.layers[0].name]}
        device = snapshot.error.device
        targets = _permuted(classes, snapshot, device)
        folds = _folds(len(classes), snapshot.seed, device)
        baseline = mean_residuals(targets, folds)
        scores: list[Tensor] = []
        for name, each in rows.items():
            gram = centred_gram(each.gram).to(device)
            missed = held_out_residuals(gram, targets, folds, penalties=PENALTIES)
            accuracy, share = held_out_accuracy(missed, targets), held_out_share(missed, baseline)
            scores += [accuracy, share]
            if name:
                penalty = gram.new_tensor(RIDGE * len(classes) / each.n_units)
                explained, chance = explained_share(gram, targets[0], penalty=penalty)
                yield Reading("label_explained", explained.clamp(0.0, 1.0), layer=name)
                yield Reading("label_explained_chance", chance, layer=name)
        found = iter(fetched(scores))
        for name in rows:
            for score in _SCORES:
                yield from _against_chance(f"label_{score}", next(found), name)


def _against_chance(variable: str, found: np.ndarray, name: str) -> Iterator[Reading]:
    """Yield a score with its chance level; the first entry is the observed one."""
    value, draws = float(found[0]), found[1:]
    if not name:
        yield Reading(f"{variable}_input", value)
        return
    high = float(np.quantile(draws, 0.975, method="weibull"))
    reached = np.count_nonzero(draws >= value - 1e-12)
    yield Reading(variable, value, layer=name)
    yield Reading(f"{variable}_chance", float(draws.mean()), layer=name)
    yield Reading(f"{variable}_chance_high", high, layer=name)
    yield Reading(f"{variable}_p", (1.0 + reached) / (1.0 + len(draws)), layer=name)


def _classes(y: Any, n_samples: int) -> np.ndarray | str:
    """Return the class of every sample, from 0 and without gaps, or why there is none."""
    because = "the targets are no classes of the samples"
    if not isinstance(y, Tensor) or y.is_complex() or y.shape[:1] != (n_samples,) or y.ndim > 2:
        return because
    (values,) = fetched([y])
    if values.ndim == 2 and values.shape[1] > 1:
        levels = np.unique(values)
        is_on = values == levels[-1]
        if len(levels) != 2 or not (is_on.sum(1) == 1).all():
            return because
        values = is_on.argmax(1)
    elif y.is_floating_point() and not np.isin(values, (0.0, 1.0)).all():
        return because
    classes = np.unique(values, return_inverse=True)[1].reshape(-1)
    if n_samples < _FEWEST:
        return f"fewer than {_FEWEST} samples cannot be divided into folds"
    return classes if classes.max() > 0 else "all samples have the same class"


def _permuted(classes: np.ndarray, snapshot: Snapshot, device: torch.device) -> Tensor:
    """Return the classes as columns, first their own and then under permutations.

    Returns:
        Float64, shape ``(1 + n_draws, n_samples, n_classes)``.
    """
    n_classes = int(classes.max()) + 1
    count = min(snapshot.draws, _MOST_DRAWS, max(19, _COLUMNS // n_classes - 1))
    stream = generator(snapshot.seed, "labels")
    own = torch.as_tensor(classes)
    orders = [torch.randperm(len(own), generator=stream) for _ in range(count)]
    everything = torch.stack([own, *(own[order] for order in orders)])
    return torch.nn.functional.one_hot(everything, n_classes).double().to(device)


def _folds(n_samples: int, seed: int, device: torch.device) -> Sequence[Tensor]:
    """Return random folds, which know nothing of the labels: so the chance level is exact."""
    order = torch.randperm(n_samples, generator=generator(seed, "folds"))
    return order.to(device).tensor_split(min(FOLDS, n_samples))
