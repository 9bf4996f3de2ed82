"""What one probing holds: the true signals, and those of every rule, on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch import Tensor, nn

from alignlab.feedback import ORIGINS, Feedback
from alignlab.kernels.convolution import position_gradients
from alignlab.kernels.cosines import wide
from alignlab.rules._base import DirectRule, ReplacedWeightRule, Rule
from alignlab.sites import ENTRY, SITES, Layer

if TYPE_CHECKING:
    from alignlab.engine.capture import BackwardPass, Capture, Loss

__all__ = ["LayerView", "MeasuredRule", "Reference", "Snapshot"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class MeasuredRule:
    """A rule together with the feedback that it is measured with.

    Attributes:
        rule: The rule; its options also say how feedback is drawn again for the null.
        feedback: For a direct rule, feedback by layer name, in any form; for a rule that
            replaces weights, backward weights by module name.
        origin: Where the feedback came from, one of ``feedback.ORIGINS``.
        label: Name in the recording.
    """

    rule: Rule
    feedback: Mapping[str, Feedback]
    origin: str
    label: str = ""

    def __post_init__(self) -> None:
        """Name the rule after its options unless a label is given."""
        assert self.origin in ORIGINS
        if not self.label:
            object.__setattr__(self, "label", self.rule.label)

    @property
    def is_drawn(self) -> bool:
        """Whether the feedback is not the one that the model was trained with."""
        return self.origin == "drawn"

    @property
    def backward_weights(self) -> Mapping[str, Tensor]:
        """The feedback of a rule that replaces weights: a tensor for every module."""
        return {name: one for name, one in self.feedback.items() if isinstance(one, Tensor)}


@final
@dataclass(frozen=True)
class Reference:
    """A signal prepared to be compared with many others.

    Attributes:
        unit: Rows of unit norm, float64, shape ``(n_samples, n)``; zero where undefined.
        norms: Norms of the rows, shape ``(n_samples,)``.
        defined: Rows that have a direction, boolean, shape ``(n_samples,)``.
        mean: Mean over samples, shape ``(n,)``.
    """

    unit: Tensor
    norms: Tensor
    defined: Tensor
    mean: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Reference:
        """Prepare rows, shape ``(n_samples, n)``."""
        rows = wide(rows)
        norms = rows.norm(dim=1)
        defined = torch.isfinite(norms) & (norms > 0)
        unit = torch.where(defined.unsqueeze(1), rows / norms.unsqueeze(1), 0.0)
        return cls(unit, norms, defined, rows.mean(0))


@final
class LayerView:
    """One layer's signals under one rule, with what follows from them.

    Attributes:
        layer: The layer.
        entry: dL/dh, shape ``(n_samples, *entry_shape)``; None for the output layer.
        preactivation: dL/da, shape ``(n_samples, *shape)``.
    """

    def __init__(
        self,
        capture: Capture,
        layer: Layer,
        signals: tuple[Tensor | None, Tensor],
        *,
        fold: Tensor,
    ) -> None:
        """Hold a layer's two signals; ``fold`` marks the samples of the first half."""
        self.layer: Final = layer
        self.capture: Final = capture
        self.entry, self.preactivation = signals
        self._fold = fold
        self._references: dict[str, Reference] = {}

    def site(self, name: str) -> Tensor | None:
        """Return the signal at a site, one row per sample, or None where there is none."""
        signal = self.entry if name == ENTRY else self.preactivation
        return None if signal is None else signal.reshape(signal.shape[0], -1)

    def reference(self, site: str) -> Reference | None:
        """Return the signal at a site, prepared once; None where there is none."""
        rows = self.site(site)
        if rows is None:
            return None
        if site not in self._references:
            self._references[site] = Reference.of(rows)
        return self._references[site]

    @cached_property
    def gradients(self) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of weight and bias, summed over the samples."""
        return self.capture.weight_gradient(self.layer, self.preactivation)

    @cached_property
    def weight_halves(self) -> tuple[Tensor, Tensor] | None:
        """Weight gradients of two disjoint halves of the samples."""
        whole = self.gradients[0]
        if whole is None:
            return None
        mask = self._fold.reshape(-1, *(1 for _ in self.layer.shape)).to(self.preactivation)
        first, _ = self.capture.weight_gradient(self.layer, self.preactivation * mask)
        assert first is not None
        return first, whole - first

    @cached_property
    def position_gradients(self) -> Tensor | None:
        """Weight gradient of every position of a convolution; None for other layers."""
        module = self.capture.module_of(self.layer)
        if not isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            return None
        return position_gradients(module, self.capture.input_of(self.layer), self.preactivation)


@final
@dataclass(frozen=True)
class Snapshot:
    """One probing: a captured forward pass, the reference and the rules.

    Attributes:
        capture: The forward pass, its graph held open.
        loss_function: The loss, to evaluate it again.
        x: The batch.
        y: The targets.
        true: The reference backward pass, with parameter gradients.
        passes: Backward pass by rule label, with parameter gradients.
        rules: The measured rules.
        fold: Samples of the first half, boolean.
        seed: Seed of everything that diagnostics draw.
        draws: Redraws of feedback for each chance level.
        progress: Called with what is being done, how much is done and how much there is.
    """

    capture: Capture
    loss_function: Loss
    x: Any
    y: Any
    true: BackwardPass
    passes: Mapping[str, BackwardPass]
    rules: tuple[MeasuredRule, ...]
    fold: Tensor
    seed: int
    draws: int
    progress: Progress = field(default=lambda _label, _done, _total: None)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All measured layers in call order."""
        return self.capture.layers

    @property
    def hidden(self) -> tuple[Layer, ...]:
        """Measured layers but the output, whose gradient is exact by construction."""
        return tuple(layer for layer in self.layers if not layer.is_output)

    @property
    def error(self) -> Tensor:
        """The error e = dL/da at all output layers, one row per sample, ``(n_samples, n)``."""
        signal = self.capture.layout.joined(self.true.preactivation)
        return signal.reshape(signal.shape[0], -1)

    @cached_property
    def exact_error(self) -> Tensor:
        """The error in float64, shape ``(n_samples, n)``, for ranks and spaces.

        Of a well-trained network the errors in float32 are mostly rounding, which fills
        directions that the true errors leave empty. Where the output layer's pre-activation
        is the model's output the error is formed again in float64.
        """
        plain = wide(self.error)
        output = self.capture.output
        if not isinstance(output, Tensor) or output.shape != self.error.shape:
            return plain
        if output.device.type == "mps":
            return plain
        exact = output.detach().double().requires_grad_()
        target = self.y.double() if _is_floating(self.y) else self.y
        with torch.enable_grad():
            (error,) = torch.autograd.grad(self.loss_function(exact, target), exact)
        same = (error - plain).norm() <= 1e-2 * plain.norm() + 1e-6 / len(plain)
        return error if bool(same) else plain

    def view(self, layer: Layer, backward: BackwardPass) -> LayerView:
        """Return a layer under a backward pass."""
        signals = (backward.entry.get(layer.name), backward.preactivation[layer.name])
        return LayerView(self.capture, layer, signals, fold=self.fold)

    def sites(self, layer: Layer) -> tuple[str, ...]:
        """Return the sites that a layer has: both, or the pre-activation of the output."""
        return SITES[1:] if layer.is_output else SITES

    def chance_kind(self, measured: MeasuredRule) -> str:
        """Return what is drawn for a rule's chance level, one of ``schema.NULL_KINDS``."""
        rule = measured.rule
        if rule.has_random_feedback:
            return "feedback_draw"
        assert isinstance(rule, ReplacedWeightRule)
        drawn = rule.by_chance(self.capture.module_weights(), seed=0)
        return "output_rotation" if drawn is None else "rule_draw"

    def redrawn(self, measured: MeasuredRule, count: int) -> Iterator[MeasuredRule]:
        """Yield the rule with fresh feedback, ``count`` times, from streams of their own."""
        for number in range(count):
            feedback = chance_feedback(
                self.capture, measured.rule, seed=-1 - number - 1_000_003 * self.seed
            )
            yield MeasuredRule(measured.rule, feedback, "drawn", measured.label)

    def run(self, measured: MeasuredRule, *, parameters: bool = False) -> BackwardPass:
        """Run the backward pass of a rule with given feedback."""
        return run_rule(self.capture, measured, self.true, parameters=parameters)


def _is_floating(batch: Any) -> bool:
    return isinstance(batch, Tensor) and batch.is_floating_point()


def fresh_feedback(capture: Capture, rule: Rule, *, seed: int) -> Mapping[str, Feedback]:
    """Draw a rule's feedback for a captured model.

    Args:
        capture: The captured forward pass.
        rule: Any rule.
        seed: Seed of the draw.

    Returns:
        Feedback by layer (direct rules) or module (rules that replace weights).
    """
    if isinstance(rule, DirectRule):
        layers = capture.injection_layers(rule.granularity)
        return rule.draw(layers, capture.n_errors, seed=seed, output=capture.layout.only_output)
    assert isinstance(rule, ReplacedWeightRule)
    return rule.backward_weights(capture.module_weights(), seed=seed)


def chance_feedback(capture: Capture, rule: Rule, *, seed: int) -> Mapping[str, Feedback]:
    """Draw what a rule's feedback is by chance; for random feedback another draw of it.

    Args:
        capture: The captured forward pass.
        rule: A rule whose ``chance_kind`` is a draw.
        seed: Seed of the draw.
    """
    if isinstance(rule, ReplacedWeightRule):
        drawn = rule.by_chance(capture.module_weights(), seed=seed)
        assert drawn is not None
        return drawn
    return fresh_feedback(capture, rule, seed=seed)


def run_rule(
    capture: Capture,
    measured: MeasuredRule,
    true: BackwardPass,
    *,
    parameters: bool = False,
) -> BackwardPass:
    """Run the backward pass of a rule on a captured forward pass.

    Args:
        capture: The captured forward pass.
        measured: The rule and its feedback.
        true: The reference, from which the error at the output is read.
        parameters: Whether the gradients of the parameters are wanted too.
    """
    if isinstance(measured.rule, DirectRule):
        return capture.direct(
            measured.feedback,
            error=capture.layout.joined(true.preactivation),
            granularity=measured.rule.granularity,
            parameters=parameters,
        )
    return capture.replaced(measured.backward_weights, parameters=parameters)


def halves(n_samples: int, *, seed: int) -> Tensor:
    """Return a random half of the samples.

    Args:
        n_samples: Size of the batch.
        seed: Seed of the choice.

    Returns:
        Boolean, shape ``(n_samples,)``, on the host; ``n_samples // 2`` are true.
    """
    order = torch.randperm(n_samples, generator=torch.Generator().manual_seed(seed))
    fold = torch.zeros(n_samples, dtype=torch.bool)
    fold[order[: n_samples // 2]] = True
    return fold
