"""Direct feedback as a classifier at the layer that it reaches (D5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._feedback import at_entries
from alignlab.diagnostics._together import fetched
from alignlab.feedback import Feedback, back_project
from alignlab.kernels.cosines import wide
from alignlab.kernels.layers import linear_part
from alignlab.kernels.readout import accuracy
from alignlab.rules._base import DirectRule
from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["FeedbackReadout"]

_DIMS = ("rule", "layer")
_MOST_DRAWS = 64
_BEYOND = {
    "chance": "median over redraws of the feedback",
    "low": "lower edge of the central 95% of redraws",
    "high": "upper edge of the central 95% of redraws",
}


def _variables(
    name: str, phrase: str, *, better: str, valid: tuple[float | None, float | None]
) -> Iterator[Variable]:
    source = "Gilmer et al. 2017 (abstract); our derivation"
    yield Variable(name, _DIMS, phrase, source=source, better=better, valid=valid)
    for suffix, beyond in _BEYOND.items():
        yield Variable(f"{name}_{suffix}", _DIMS, f"{phrase}: {beyond}", valid=valid)
    yield Variable(
        f"{name}_p", _DIMS, f"{phrase}: share of redraws that are as good", valid=(0.0, 1.0)
    )


class FeedbackReadout(SnapshotDiagnostic):
    r"""Accuracy and loss of :math:`z_l = B_l^\top h_l`, feedback read as a classifier.

    :math:`h_l` is the activation at the entry, where :math:`B_le` enters. Were e the error of the
    readout :math:`z_l`, then :math:`B_le` would be the exact gradient of its loss: direct
    feedback teaches every layer as if its classes were read out by :math:`B_l^\top`, with the
    error of the output in place of the readout's own. The sign is that of the update: a step
    along :math:`-B_le` raises :math:`z_l` where the output is too small.

    **Reading.** A layer that feedback teaches becomes one from which its own feedback reads the
    classes, also before the weights above have turned towards it. A layer whose readout is not
    better than redraws (large ``_p``) is not being taught by its feedback. Outputs of untrained
    features can be read above one over the number of classes by chance, since samples of one
    class lie together: the redraws say how far.

    **Chance.** The same with fresh feedback: median, central 95% and the share of redraws that
    are at least as good, ``(1 + #) / (1 + n)``. Layers are not adjusted for one another. The loss
    depends on the scale of the feedback, the accuracy does not. For drawn feedback there is chance
    alone.

    **Undefined** for rules without direct feedback and for layers at whose entry none enters. The
    accuracy needs targets that are classes, with an output for each whose order is that of the
    output layer; the loss needs a model that returns the pre-activation of that layer.

    Source: Gilmer et al. 2017 see direct feedback as training against a random readout (known
    to us from the abstract); the comparison with redraws is our derivation.

    Example:
        >>> from alignlab.probe import Probe
        >>> from alignlab.rules import DFA
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
        ... )
        >>> loss, name = torch.nn.functional.cross_entropy, "feedback-readout"
        >>> with Probe(net, loss, rules=[DFA(seed=0)], diagnostics=[name], draws=32) as probe:
        ...     recording = probe.measure(torch.randn(20, 4), torch.arange(20) % 3)
        >>> bool(0.0 <= recording["feedback_readout_accuracy"].sel(layer="0").item() <= 1.0)
        True
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        *_variables(
            "feedback_readout_accuracy",
            "Accuracy of direct feedback as a classifier",
            better="higher",
            valid=(0.0, 1.0),
        ),
        *_variables(
            "feedback_readout_loss",
            "Loss of direct feedback as a classifier",
            better="lower",
            valid=(None, None),
        ),
    )
    cost: ClassVar[float] = 5.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield both numbers and their chance level for every direct rule."""
        scores = _Scores(snapshot)
        for measured in snapshot.rules:
            if not isinstance(measured.rule, DirectRule):
                yield NotDefined("the rule has no direct feedback", measured.label)
                continue
            fed = at_entries(snapshot, measured.feedback)
            for layer in snapshot.hidden:
                if layer.name not in fed:
                    yield NotDefined("no feedback enters there", measured.label, layer.name)
            yield from _of_rule(snapshot, measured, scores)
        for layer in snapshot.capture.layout.outputs:
            yield NotDefined("it is an output, which has the error itself", layer=layer.name)
        for because in scores.missing:
            yield NotDefined(because)


class _Scores:
    """What is said of a readout's outputs: accuracy and loss, as far as there are such."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        output = snapshot.capture.output
        self._shape = output.shape if isinstance(output, Tensor) else None
        self.missing: list[str] = []
        self._has_loss = self._shape is not None and _is_error_of_output(snapshot)
        if not self._has_loss:
            self.missing.append(
                "there is no loss of a readout, since the model does not return the "
                "pre-activation of its output layer"
            )
        self._has_classes = (
            self._shape is not None
            and _has_classes(snapshot, self._shape)
            and (self._has_loss or _keeps_order(snapshot))
        )
        if not self._has_classes:
            self.missing.append(
                "there is no accuracy of a readout, since targets are not classes of which "
                "each has an output"
            )

    @property
    def names(self) -> list[str]:
        """What is said, in order."""
        said = {"accuracy": self._has_classes, "loss": self._has_loss}
        return [f"feedback_readout_{name}" for name, has in said.items() if has]

    def of(self, activation: Tensor, feedback: Feedback) -> Tensor:
        """Return the numbers of one readout, float64."""
        assert self._shape is not None
        logits = back_project(activation, feedback).reshape(self._shape)
        found = []
        if self._has_classes:
            found.append(accuracy(logits, self._snapshot.y))
        if self._has_loss:
            with torch.no_grad():
                found.append(wide(self._snapshot.loss_function(logits, self._snapshot.y)))
        return torch.stack([each.to(logits.device) for each in found])


def _is_error_of_output(snapshot: Snapshot) -> bool:
    """Return whether the gradient of the loss in the model's output is the error."""
    output = snapshot.capture.output
    assert isinstance(output, Tensor)
    if output.numel() != snapshot.error.numel():
        return False
    leaf = output.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(snapshot.loss_function(leaf, snapshot.y), leaf)
    error = snapshot.error.reshape(-1)
    return bool((gradient.reshape(-1) - error).norm() <= 1e-3 * error.norm())


def _has_classes(snapshot: Snapshot, shape: torch.Size) -> bool:
    target = snapshot.y
    if not isinstance(target, Tensor) or target.is_floating_point() or target.dtype == torch.bool:
        return False
    is_whole = shape.numel() == snapshot.error.numel() and len(shape) > 1 and shape[1] > 1
    return is_whole and target.shape == shape[:1] + shape[2:]


def _keeps_order(snapshot: Snapshot) -> bool:
    """Return whether the output's largest entry is that of the output layer, as for a softmax."""
    layer, output = snapshot.capture.layout.only_output, snapshot.capture.output
    assert isinstance(output, Tensor)
    if layer is None or len(layer.shape) > 1 or output.dim() > 2:
        return False
    module, weight = snapshot.capture.module_of(layer), snapshot.capture.weight_of(layer)
    bias = module._parameters.get("bias")
    with torch.no_grad():
        plain = linear_part(module, wide(snapshot.capture.input_of(layer)), wide(weight)).flatten(1)
        plain = plain if bias is None else plain + wide(bias)
    return bool((plain.argmax(1) == output.to(plain.device).argmax(1)).all())


def _of_rule(snapshot: Snapshot, measured: MeasuredRule, scores: _Scores) -> Iterator[Reading]:
    if not scores.names:
        return
    by_name = {layer.name: layer for layer in snapshot.layers}
    activations = {
        layer.name: snapshot.capture.input_of(by_name[layer.consumer]) for layer in snapshot.hidden
    }
    redrawn = snapshot.redrawn(measured, min(snapshot.draws, _MOST_DRAWS))
    found: dict[str, list[Tensor]] = {}
    for each in chain([measured], redrawn):
        for layer, feedback in at_entries(snapshot, each.feedback).items():
            found.setdefault(layer, []).append(scores.of(activations[layer], feedback))
    rows = dict(zip(found, fetched([torch.stack(each) for each in found.values()]), strict=True))
    for layer, numbers in rows.items():
        for place, name in enumerate(scores.names):
            place_of = measured.label, layer
            for suffix, value in _against(numbers[:, place], name, measured).items():
                yield Reading(name + suffix, value, *place_of)


def _against(numbers: np.ndarray, name: str, measured: MeasuredRule) -> Mapping[str, float]:
    """Return one number against its redraws, by suffix."""
    observed, draws = numbers[0], numbers[1:]
    low, median, high = np.quantile(draws, [0.025, 0.5, 0.975])
    found = {"_chance": float(median), "_low": float(low), "_high": float(high)}
    if measured.is_drawn:
        return found
    better = draws >= observed if name.endswith("accuracy") else draws <= observed
    p = (1.0 + np.count_nonzero(better)) / (1.0 + draws.size)
    return found | {"": float(observed), "_p": p if np.isfinite(observed) else float("nan")}
