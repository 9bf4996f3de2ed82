"""Whether the measurement can be believed: floor, repetition, feedback, the reference itself."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._base import Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._together import fetched
from alignlab.engine.capture import Capture
from alignlab.kernels.cosines import cosine, wide
from alignlab.snapshot import Snapshot

__all__ = ["Validity"]

FLOOR = 1e-7
"""Norm of the true signal below which a cosine is void (Hao et al. 2026, repository).

It is asked only of models that do not run in float64: the norm shrinks with the number of
samples that a loss averages over, the comparison with float64 does not.
"""

LARGEST_CHANGE = 1e-2
"""How much the direction of the true signal may change in float64, one minus the cosine."""

REPEATABLE = 1e-6
"""How far from 1 backpropagation may be when it is measured against itself."""

SAME_LOSS = 1e-3
"""Relative difference of the losses in float32 and float64 that is rounding."""

_SMALL_BATCH = 64
_STEPS = (1e-4, 1e-5, 1e-6)
_LAYER = ("layer",)


class Validity(SnapshotDiagnostic):
    """Gate 0: is the reference the true gradient, far from its floor, and repeatable?"""

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "reference_norm",
            _LAYER,
            "Norm of the true error signal of the batch at the pre-activation",
            source="Hao et al. 2026 (repository)",
            valid=(0.0, None),
        ),
        Variable(
            "reference_floor_ratio",
            _LAYER,
            "Norm of the true error signal over its difference from that in float64",
            better="higher",
            valid=(0.0, None),
        ),
        Variable(
            "reference_float64_change",
            _LAYER,
            "One minus the cosine of the true error signal in float32 and in float64",
            better="lower",
            valid=(0.0, None),
        ),
        Variable(
            "self_cosine",
            _LAYER,
            "Cosine of backpropagation with itself in a second forward pass",
            valid=(-1.0, 1.0),
        ),
        Variable(
            "feedback_sensitivity",
            ("rule", "layer"),
            "Relative change of the weight gradient with other feedback",
            valid=(0.0, None),
        ),
        Variable(
            "reference_check_error",
            (),
            "Relative error of the gradient's norm against a central difference of the loss",
            better="lower",
            valid=(0.0, None),
        ),
        Variable(
            "reference_check",
            (),
            "Whether that difference confirms the gradient",
            units="",
            dtype="string",
        ),
        Variable(
            "measurement_status",
            (),
            "Whether the measurement can be believed",
            units="",
            dtype="string",
        ),
    )
    cost: ClassVar[float] = 20.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading]:
        """Yield every check and what they add up to."""
        found = [
            *_repetition(snapshot),
            *_floor(snapshot),
            *_sensitivity(snapshot),
            *_central_difference(snapshot),
        ]
        yield from found
        yield Reading("measurement_status", _verdict(found))


def _floor(snapshot: Snapshot) -> Iterator[Reading]:
    for layer in snapshot.layers:
        norm = wide(snapshot.true.preactivation[layer.name]).norm()
        yield Reading("reference_norm", norm, layer=layer.name)
    found = _signals(snapshot, precision=None)
    exactly = _signals(snapshot, precision=torch.float64)
    if found is None or exactly is None:
        return
    (loss, plain), (exact_loss, exact) = found, exactly
    if not _is_same(loss, exact_loss):
        return
    for name, signal in exact.items():
        difference = (wide(plain[name]) - wide(signal)).norm() / wide(signal).norm()
        floor = difference.clamp_min(torch.finfo(torch.float64).eps)
        yield Reading("reference_floor_ratio", 1.0 / floor, layer=name)
        change = 1.0 - cosine(plain[name].flatten(), signal.flatten())
        yield Reading("reference_float64_change", change.clamp_min(0.0), layer=name)


def _signals(
    snapshot: Snapshot, *, precision: torch.dtype | None
) -> tuple[float, dict[str, Tensor]] | None:
    """Return loss and true signals of a few samples, or None where they cannot be had."""
    x, y = (_first(batch) for batch in (snapshot.x, snapshot.y))
    model = snapshot.capture.model
    if precision is not None:
        if snapshot.error.device.type == "mps" or not isinstance(x, Tensor):
            return None
        x = x.to(precision) if x.is_floating_point() else x
        y = y.to(precision) if isinstance(y, Tensor) and y.is_floating_point() else y
    try:
        # A model that keeps what it computed cannot be copied.
        model = model if precision is None else copy.deepcopy(model).to(precision)
        chosen = snapshot.capture.chosen
        capture = Capture(model, snapshot.loss_function, x, y, layers=chosen)
    except (RuntimeError, TypeError):
        return None
    try:
        return float(capture.loss.detach()), dict(capture.reference().preactivation)
    finally:
        capture.close()


def _first(batch: Any) -> Any:
    return batch[:_SMALL_BATCH] if isinstance(batch, Tensor) else batch


def _repetition(snapshot: Snapshot) -> Iterator[Reading]:
    capture = snapshot.capture
    again = Capture(
        capture.model, snapshot.loss_function, snapshot.x, snapshot.y, layers=capture.chosen
    )
    try:
        signals = again.reference().preactivation
        for layer in snapshot.layers:
            first = snapshot.true.preactivation[layer.name]
            value = cosine(first.flatten(), signals[layer.name].flatten())
            yield Reading("self_cosine", value, layer=layer.name)
    finally:
        again.close()


def _sensitivity(snapshot: Snapshot) -> Iterator[Reading]:
    for measured in snapshot.rules:
        if not measured.rule.has_random_feedback:
            continue
        (other,) = snapshot.redrawn(measured, 1)
        backward = snapshot.run(other, parameters=not snapshot.is_local(measured))
        for layer in snapshot.hidden:
            own = snapshot.view(layer, snapshot.passes[measured.label]).gradients[0]
            new = snapshot.view(layer, backward).gradients[0]
            if own is not None and new is not None:
                change = wide(own - new).norm() / wide(own).norm()
                yield Reading("feedback_sensitivity", change, measured.label, layer.name)


def _central_difference(snapshot: Snapshot) -> Iterator[Reading]:
    gradient = snapshot.true.parameters
    parameters = dict(snapshot.capture.model.named_parameters())
    length, extent = _norm(gradient.values()), _norm(p.detach() for p in parameters.values())
    precision = _precision(snapshot)
    if not length > 0:
        yield Reading("reference_check", "undecided")
        return
    slopes = []
    for share in _STEPS if precision == torch.float64 else (1e-1, 3e-2, 1e-2):
        step = share * extent
        ends = []
        for sign in (1.0, -1.0):
            moved = {
                name: wide(parameters[name].detach()) + sign * step * wide(g) / length
                for name, g in gradient.items()
            }
            ends.append(float(snapshot.capture.evaluate(moved, precision=precision)))
        slopes.append((ends[0] - ends[1]) / (2.0 * step))
    error = min(abs(slope / length - 1.0) for slope in slopes[1:])
    spread = abs(slopes[1] - slopes[2]) / length
    tolerance = max(3.0 * spread, 1e-3 if precision == torch.float64 else 1e-2)
    verdict = "agrees" if error <= tolerance else "disagrees"
    yield Reading("reference_check_error", error)
    yield Reading("reference_check", verdict if tolerance < 0.1 else "undecided")


def _norm(tensors: Iterable[Tensor]) -> float:
    """Return the norm of tensors as one vector."""
    return float(sum(fetched([wide(tensor).square().sum() for tensor in tensors])) ** 0.5)


def _precision(snapshot: Snapshot) -> torch.dtype:
    """Return float64 where the model allows it and has the same loss there."""
    try:
        exact = snapshot.capture.evaluate({}, precision=torch.float64)
    except (RuntimeError, TypeError):
        return snapshot.error.dtype
    is_same = _is_same(float(snapshot.capture.loss.detach()), float(exact))
    return torch.float64 if is_same else snapshot.error.dtype


def _is_same(loss: float, exact: float) -> bool:
    """Return whether two losses differ by rounding.

    Noise of the model's own is drawn anew in another precision: then it is another loss.
    """
    return abs(loss - exact) <= SAME_LOSS * (abs(exact) + 1e-2)


def _verdict(found: list[Reading]) -> str:
    """Return "valid", or "reference invalid" with the first reason."""
    compared = any(reading.name == "reference_float64_change" for reading in found)
    held = [reading for reading in found if isinstance(reading.value, Tensor)]
    moved = fetched([reading.value for reading in held if isinstance(reading.value, Tensor)])
    values = {id(reading): float(value) for reading, value in zip(held, moved, strict=True)}
    for reading in found:
        where = f"{reading.rule} {reading.layer}".strip()
        if reading.name == "reference_check":
            if reading.value == "disagrees":
                return "reference invalid: a central difference of the loss contradicts it"
            continue
        value = values.get(id(reading), reading.value)
        assert isinstance(value, float)
        if reading.name == "reference_norm" and not value > (0.0 if compared else FLOOR):
            return f"reference invalid: the true signal at {where} has norm {value:.1e}"
        if reading.name == "reference_float64_change" and not value <= LARGEST_CHANGE:
            return f"reference invalid: the true signal at {where} is mostly rounding"
        if reading.name == "self_cosine" and abs(value - 1.0) > REPEATABLE:
            return f"reference invalid: at {where} it does not repeat itself (cosine {value:.6f})"
        if reading.name == "feedback_sensitivity" and not value > REPEATABLE:
            return f"reference invalid: other feedback changes nothing at {where}"
    return "valid"
