"""Growth of small deviations under the flow of a rule, in weights and in outputs (C6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._curvature import Curvature, curvature
from alignlab.diagnostics._growth import SHOWN, growth
from alignlab.diagnostics._kernel import kernels
from alignlab.kernels.error_decay import error_decay
from alignlab.snapshot import Snapshot

__all__ = ["Stability"]

FLOOR = 1e-3
"""Error over the outputs' spread below which the samples count as interpolated (heuristic)."""

_RATE = "1 / (learning rate x step)"
_SOURCE = "Chu & Bacho 2024, arXiv 2306.02325 (that alignment is a stability criterion); ours"


_BOTH = ("rule", "component")


def _of_weights() -> Iterator[Variable]:
    grows = "Growth rate of deviations of the weights on these samples"
    yield Variable("growth_rate", _BOTH, grows, _RATE, _SOURCE, "lower")
    yield Variable("growth_rotation", _BOTH, f"{grows}: angular frequency", _RATE)
    yield Variable("growth_residual", _BOTH, f"{grows}: residual", _RATE, valid=(0.0, None))
    for name, text in (("highest", "to here"), ("lowest", "from here")):
        long_name = f"Numerical range of the update Jacobian reaches at least {text}"
        yield Variable(f"growth_range_{name}", ("rule",), long_name, _RATE)
    yield Variable(
        "stable_step_at_most",
        ("rule",),
        "Step size above which one of the eigenvalues found grows",
        "learning rate",
        better="higher",
        valid=(0.0, None),
    )
    yield Variable(
        "growth_vectors", ("rule",), "Vectors of the Krylov space", "count", valid=(1.0, None)
    )
    for name, text in (
        ("growth_error", "a displacement four times as long"),
        ("growth_nonlinearity", "one of a thousandth of the weights"),
    ):
        long_name = f"Relative change of the update's slope with {text}"
        yield Variable(name, ("rule",), long_name, valid=(0.0, None))


def _of_outputs() -> Iterator[Variable]:
    decay = "Decay rate of small errors of the outputs on these samples"
    now = "Decay rate of the errors of the outputs on these samples at this moment"
    for name, text, source in (
        ("error_decay", f"{decay}, at interpolation", _SOURCE),
        ("error_decay_instantaneous", now, "our derivation"),
    ):
        yield Variable(name, _BOTH, text, _RATE, source, "higher")
        part = f"{text}: what the layer adds to the first"
        yield Variable(f"{name}_part", ("rule", "layer"), part, _RATE)
    yield Variable(
        "error_decay_symmetric",
        ("rule",),
        f"{decay}: the least that any error has at once",
        _RATE,
        better="higher",
    )
    yield Variable(
        "interpolation_distance",
        (),
        "Root mean square of output minus target over the spread of the outputs",
        better="lower",
        valid=(0.0, None),
    )


class Stability(SnapshotDiagnostic):
    r"""Do small deviations grow or shrink when the rule goes on from here?

    **In the weights.** Near the present weights the flow :math:`\dot\theta = -\hat g(\theta)` moves
    a deviation by :math:`A = \partial(-\hat g)/\partial\theta`. Its eigenvalues of largest real
    part (``growth_rate``; imaginary part: ``growth_rotation``) come from Arnoldi's process on
    differences of the rule's update at displaced weights, in float64 where the model allows it,
    with the state of the rule held. Under backpropagation A is minus the Hessian.
    A Ritz value is recorded only where its residual is below 1% of it, or 1e-5 of the largest, and
    none beyond the first that is not; of one below its residual the sign is not known. The range
    of :math:`x^\top A x` on the Krylov space is an inner bound of the numerical range: where its
    highest value is positive some deviation grows at once. An outer bound would take products
    with the transpose, which rules do not give.

    **In the outputs.** With the rule kernel :math:`K = J\tilde J^\top` (see ``rule-kernel``) and
    the loss's curvature H in the outputs, errors obey :math:`\dot e = -HKe`. Where the loss is a
    squared error and all samples are interpolated (error below 1e-3 of the outputs' spread) the
    spectrum of KH is the whole truth about the stability of that point: stable if and only if
    every real part is positive; all other directions of weight space are neutral.
    ``error_decay`` holds its smallest real parts, ``error_decay_part`` what each layer adds to
    the first, ``error_decay_symmetric`` the smallest eigenvalue of the symmetric part. Elsewhere
    the same spectrum, on the range of H, is ``error_decay_instantaneous``: it says how errors
    change at this moment and nothing about a fixed point.

    **How to read it.** A positive growth rate, or a negative decay, is a direction along which the
    rule leaves this point; backpropagation has no negative decay. A decay of 0 is an error that
    the rule does not move at all, or one whose sign rounding hides. A negative symmetric part
    with all decays positive: errors can grow for a while and vanish in the end. A good output
    layer can mask hidden layers that push the wrong way; the parts show it. Widening, or training
    longer under the rule, turns the sign where feedback and weights come to align.

    **On these samples.** All of it is about the loss on this batch. It is a statement about a
    training only where the batch is all of its samples: a block of a kernel that is not symmetric
    says nothing about the whole. The linear picture reaches as far as the slope keeps:
    ``growth_nonlinearity`` is how much it has changed at a displacement of a thousandth of the
    weights. In networks of ReLUs it can be many times 1, for gates turn well before; the Jacobian
    is then that of one linear piece and tells little about a step. Weights and biases of layers
    make up K; where normalisations learn too, their part is missing.

    **Not defined** for rules that draw anew in every step, that are read from a training or need
    its past, and for feedback drawn for this analysis. Jumps of an update (gates, signs, levels)
    are not seen, only the slope between them. Units times samples times vectors are at most 1.6e8,
    so that large networks get fewer vectors, and none below 8: take fewer samples. Outputs need
    an exact kernel.

    Source: Chu & Bacho 2024, arXiv 2306.02325, for the claim; what is computed is our
    derivation.

    Example:
        >>> from alignlab.probe import Probe
        >>> from alignlab.rules import BP
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)
        ... )
        >>> loss, x = torch.nn.functional.mse_loss, torch.randn(5, 4)
        >>> with Probe(net, loss, rules=[BP()], diagnostics=["stability"], draws=32) as probe:
        ...     recording = probe.measure(x, net(x).detach())
        >>> bool(recording["error_decay"][0, 0, 0] > 0)
        True
    """

    variables: ClassVar[tuple[Variable, ...]] = (*_of_weights(), *_of_outputs())
    cost: ClassVar[float] = 30.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield growth in the weights and decay in the outputs for every rule."""
        yield from growth(snapshot)
        yield from _outputs(snapshot)


def _outputs(snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
    """Yield how errors of the outputs decay under every rule that has a kernel."""
    exact = snapshot.shared(kernels)
    if exact.because:
        yield NotDefined(f"the decay of errors needs exact kernels, and {exact.because}")
        return
    bent = snapshot.shared(curvature)
    if bent.because or not bent.is_convex:
        yield NotDefined(bent.because or "the loss is not convex in the outputs")
        return
    if bent.is_squared:
        yield Reading("interpolation_distance", bent.distance)
    why_not = _why_no_fixed_point(bent)
    if why_not:
        yield NotDefined(f"the stability of a fixed point is not to be had, {why_not}")
    name = "error_decay_instantaneous" if why_not else "error_decay"
    for label, kernel in exact.rules.items():
        if kernel.because:
            yield NotDefined(kernel.because, label)
        elif kernel.blocks:
            yield from _decay(name, label, kernel.blocks, bent)


def _decay(
    name: str, label: str, blocks: Mapping[str, Tensor], bent: Curvature
) -> Iterator[Reading | NotDefined]:
    decay = error_decay(torch.stack(list(blocks.values())), bent.matrix)
    if not len(decay.values):
        yield NotDefined("the loss has no curvature in the outputs", label)
        return
    yield Reading(name, decay.values.real[:SHOWN], label)
    for layer, part in zip(blocks, decay.parts, strict=True):
        yield Reading(f"{name}_part", part, label, layer)
    if name == "error_decay":
        yield Reading("error_decay_symmetric", decay.symmetric, label)


def _why_no_fixed_point(bent: Curvature) -> str:
    if not bent.is_squared:
        return "for the loss is no squared error"
    if not bent.distance <= FLOOR:
        return f"for these samples are not interpolated: their error is {bent.distance:.2g}"
    return ""
