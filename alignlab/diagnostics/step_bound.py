"""How large a step along the update may be, and how much it can gain (B1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._together import fetched
from alignlab.engine.capture import Capture
from alignlab.engine.hessian import Hessian, differentiable_kernels
from alignlab.errors import MeasurementError
from alignlab.kernels.cosines import wide
from alignlab.kernels.curvature import Leading, leading_eigenvalue, step_bound, step_efficiency
from alignlab.snapshot import Snapshot

__all__ = ["StepBound"]

LANCZOS_STEPS = 5
"""Products with the Hessian for its largest eigenvalue, the first of them with the gradient."""

SYMMETRIC = 1e-3
"""Share of the largest product by which second derivatives may fail to be symmetric."""

SAME_LOSS = 1e-3
"""Relative difference of the loss by which other kernels may differ."""

_STEP = "learning rate"
_TEXTBOOK = "textbook (descent lemma); for updates that are no gradients, our derivation"
_WHAT = {
    "step_bound": ("Step along it after which the quadratic model of the loss is as before", _STEP),
    "step_bound_largest": ("That step if the curvature were the largest eigenvalue", _STEP),
    "curvature_along": ("Second derivative of the loss along it, over its squared norm", "1"),
}


def _declared() -> Iterator[Variable]:
    for dims, suffix, of in ((("rule",), "_update", "update"), ((), "_gradient", "true gradient")):
        for name, (text, units) in _WHAT.items():
            least = None if name == "curvature_along" else 0.0
            yield Variable(
                *(f"{name}{suffix}", dims, f"{text}; of the {of}", units, _TEXTBOOK),
                valid=(least, None),
            )
    yield Variable(
        "step_efficiency",
        ("rule",),
        "Share of the true gradient's best decrease in one step, at equal curvature",
        source=_TEXTBOOK,
        better="higher",
        valid=(0.0, 1.0),
    )
    yield Variable(
        "step_efficiency_curved",
        ("rule",),
        "That share in the quadratic model, each direction with its own curvature",
        better="higher",
        valid=(0.0, None),
    )
    yield Variable(
        "largest_curvature",
        (),
        "Largest eigenvalue of the Hessian as far as five Lanczos steps find it",
    )
    yield Variable(
        "largest_curvature_residual",
        (),
        "Distance within which an eigenvalue lies of that value",
        valid=(0.0, None),
    )


class StepBound(SnapshotDiagnostic):
    r"""Largest step that lowers the loss, and the share of the best decrease, to second order.

    For a step :math:`-\eta\hat g` of all parameters that learn, with the Hessian H of the loss on
    this batch,

    .. math:: \Delta L \approx -\eta\langle g,\hat g\rangle + \tfrac12\eta^2\hat g^\top H\hat g,
        \qquad \eta_{max} = \frac{2\langle g,\hat g\rangle}{L\|\hat g\|^2}, \qquad
        \text{efficiency} = \max(c, 0)^2.

    Two numbers are put in for L. *Along the update*, :math:`\hat g^\top H\hat g/\|\hat g\|^2`, the
    bound is exact in the quadratic model (``step_bound_update``). *The largest eigenvalue* gives a
    smaller one that any update of this norm and product keeps (``step_bound_largest_update``); five
    Lanczos steps find it from below, with the residual beside it, so that this bound is one from
    above. Neither is the guarantee of the descent lemma, whose L bounds the curvature at all
    points. The same of the true gradient is recorded beside them.

    *How to read it.* A learning rate above the bound raises the loss: lower it, or scale the
    feedback down. Scaling an update changes its bound and not its efficiency. An efficiency of 0.09
    (c = 0.3) needs about eleven steps for one of backpropagation; the exact output layer carries
    much of it (see ``total-gradient``). ``step_efficiency_curved`` far above it: the update avoids
    the steep directions that limit the true gradient's step.

    *Expectation.* Where all but the output layer's update is unrelated to the gradient, the
    efficiency is about the square of ``cosine_total_gradient_chance``.

    *Undefined* are bounds where the update does not descend (its efficiency is then 0, truly) or
    the curvature is not positive; all of it where second derivatives are not to be had, or are not
    symmetric (torch differentiates weight normalisation wrongly). Fused attention and recurrent
    kernels are replaced by plain ones if the loss stays the same.

    Source: the descent lemma is textbook; for updates that are no gradients, our derivation.

    Example:
        >>> from alignlab.probe import Probe
        >>> from alignlab.rules import BP
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> half_squares = lambda output, target: 0.5 * (output - target).square().sum()
        >>> probe = Probe(net, half_squares, rules=[BP()], diagnostics=["step-bound"], draws=32)
        >>> found = probe.measure(torch.tensor([[1.0], [2.0]]), torch.tensor([[9.0], [9.0]]))
        >>> found["step_bound_update"].item()  # two over the sum of the squared inputs
        0.4
    """

    variables: ClassVar[tuple[Variable, ...]] = tuple(_declared())
    cost: ClassVar[float] = 17.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield bounds and efficiencies of every rule and of the true gradient."""
        updates = {
            m.label: snapshot.passes[m.label].parameters for m in snapshot.rules if not m.is_drawn
        }
        found = _curvatures(snapshot, updates)
        if isinstance(found, str):
            yield NotDefined(found)
        else:
            yield Reading("largest_curvature", found.leading.value)
            yield Reading("largest_curvature_residual", found.leading.residual)
        true = snapshot.true.parameters
        sizes = {"": [_inner(true, true)] * 2} | {
            label: [_inner(true, update), _inner(update, update)]
            for label, update in updates.items()
        }
        keys = list(sizes)
        numbers = fetched([each for pair in sizes.values() for each in pair])
        products, energies = (
            dict(zip(keys, map(torch.as_tensor, numbers[k::2]), strict=True)) for k in (0, 1)
        )
        for label in keys:
            given = products[label], energies[label], energies[""]
            yield from _shown(label, given, None if isinstance(found, str) else found)


@dataclass(frozen=True)
class _Curvatures:
    """Curvatures along updates by label, and the largest; scalars on the host."""

    along: Mapping[str, Tensor]
    leading: Leading


def _curvatures(
    snapshot: Snapshot, updates: Mapping[str, Mapping[str, Tensor]]
) -> _Curvatures | str:
    """Return the curvatures, or why there are none."""
    because = ""
    for is_plain in (False, True):
        with ExitStack() as stack:
            capture = snapshot.capture
            if is_plain:
                stack.enter_context(differentiable_kernels())
                capture = stack.enter_context(snapshot.task.again())
                change = (capture.loss - snapshot.capture.loss).abs()
                if not bool(change <= SAME_LOSS * snapshot.capture.loss.abs()):
                    return f"{because}, and plain kernels see other randomness"
            try:
                return _of_hessian(capture, snapshot.true.parameters, updates)
            except MeasurementError as error:
                because = str(error)
    return because


def _of_hessian(
    capture: Capture, true: Mapping[str, Tensor], updates: Mapping[str, Mapping[str, Tensor]]
) -> _Curvatures:
    hessian = Hessian(capture)
    shapes = [true[name].shape for name in hessian.names]
    like = true[hessian.names[0]]

    def line(tensors: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([tensors[name].flatten().to(like) for name in hessian.names])

    def apply(vector: Tensor) -> Tensor:
        parts = vector.split([shape.numel() for shape in shapes])
        given = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        return line(hessian.product(dict(zip(hessian.names, given, strict=True))))

    leading = leading_eigenvalue(apply, line(true), steps=LANCZOS_STEPS)
    if not bool(torch.isfinite(leading.value)):
        msg = "the true gradient is zero or not finite"
        raise MeasurementError(msg)
    if leading.asymmetry > SYMMETRIC:
        msg = "its second derivatives, as torch gives them, are not symmetric"
        raise MeasurementError(msg)
    along = []
    for update in updates.values():
        vector = line(update)
        unit = wide(vector) / wide(vector).norm()
        along.append(torch.dot(unit, wide(apply(unit.to(like)))))
    found = map(torch.as_tensor, fetched(along))
    return _Curvatures({"": leading.along_start, **dict(zip(updates, found, strict=True))}, leading)


def _inner(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([(wide(first[n]) * wide(second[n])).sum() for n in first]).sum()


def _shown(
    label: str, given: tuple[Tensor, Tensor, Tensor], found: _Curvatures | None
) -> Iterator[Reading | NotDefined]:
    """Yield what is said of one update; of the true gradient under the empty label."""
    product, energy, of_true = given
    efficiency = step_efficiency(product, energy, of_true)
    if label:
        yield Reading("step_efficiency", efficiency, label)
    if found is None:
        return
    of = "_update" if label else "_gradient"
    curvature, true_curvature = found.along[label], found.along[""]
    bound = step_bound(product, curvature, energy)
    yield Reading(f"curvature_along{of}", curvature, label)
    yield Reading(f"step_bound{of}", bound, label)
    careful = step_bound(product, found.leading.value, energy)
    yield Reading(f"step_bound_largest{of}", careful, label)
    if label and curvature > 0 and true_curvature > 0:
        yield Reading("step_efficiency_curved", efficiency * true_curvature / curvature, label)
    if not product > 0:
        because = "the update does not descend to first order" if label else "the gradient is zero"
        yield NotDefined(because, label)
    elif not curvature > 0:
        along = "update" if label else "true gradient"
        yield NotDefined(f"the loss is not curved upwards along the {along}", label)
