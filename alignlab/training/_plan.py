"""What ``alignlab train`` is asked for: model, data, rule, recipe, seeds and probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from alignlab import datasets
from alignlab.analyze._loading import FEW, output_of
from alignlab.datasets import Samples
from alignlab.diagnostics._presets import chosen
from alignlab.errors import InputError
from alignlab.plain import plain
from alignlab.rules._base import Rule
from alignlab.rules._wrapping import feedback_seed, reseeded
from alignlab.specs import build_loss, build_model, parse_rule
from alignlab.specs.losses import Loss
from alignlab.training._random import require_seed
from alignlab.training._recipe import Recipe

__all__ = ["Material", "Plan"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One training by SPECs; the options of ``alignlab train``.

    Attributes:
        model: Model SPEC.
        model_arguments: Keyword arguments of the model's factory.
        data: Data SPEC.
        rule: Rule SPEC.
        recipe: How.
        samples: How many training samples, stratified and seeded with 0; None for all.
        held_split: Split on which loss and accuracy are taken after every epoch, and whose
            first samples are probed; empty for none. Data without splits have none.
        mean: Subtracted from the inputs.
        std: The inputs are divided by it.
        loss: Loss SPEC.
        device: Where to train.
        init_seed: Of the initial weights.
        feedback_seed: Of the feedback; None for the rule's own.
        per_decade: Probes from one power of ten of the steps to the next; 0 for none.
        probe_samples: Samples that are probed.
        draws: Redraws for each chance level.
        diagnostics: Names.
        preset: Named choice of diagnostics.

    Raises:
        InputError: A seed that torch does not take.
    """

    model: str
    model_arguments: Mapping[str, object] = field(default_factory=dict)
    data: str
    rule: str = "bp"
    recipe: Recipe
    samples: int | None = None
    held_split: str = "test"
    mean: Sequence[float] | float | None = None
    std: Sequence[float] | float | None = None
    loss: str = "cross-entropy"
    device: str = "cpu"
    init_seed: int = 0
    feedback_seed: int | None = None
    per_decade: int = 4
    probe_samples: int = 256
    draws: int = 50
    diagnostics: Sequence[str] = ()
    preset: str | None = None

    def __post_init__(self) -> None:
        """Refuse a seed from which nothing can be drawn."""
        require_seed(self.init_seed, "initial weights")

    def options(self) -> dict[str, Any]:
        """Return everything that the outcome depends on, as JSON has it."""
        drawn = feedback_seed(self.chosen_rule())
        options = {
            "model": self.model,
            "model_arguments": self.model_arguments,
            "data": self.data,
            "rule": self.chosen_rule().label,
            "samples": self.samples,
            "held_split": self.held_split,
            "mean": self.mean,
            "std": self.std,
            "loss": self.loss,
            "device": self.device,
            "init_seed": self.init_seed,
            "feedback_seed": drawn,
            "per_decade": self.per_decade,
            "probe_samples": self.probe_samples,
            "draws": self.draws,
            "diagnostics": self.chosen_diagnostics(),
            **self.recipe.options(),
        }
        return {name: plain(value) for name, value in options.items()}

    def chosen_diagnostics(self) -> list[str]:
        """Return what is probed; ``core`` where nothing was asked for."""
        preset = self.preset or (None if self.diagnostics else "core")
        return chosen(self.diagnostics, preset)

    def chosen_rule(self) -> Rule:
        """Return the rule with its seed.

        Raises:
            InputError: A seed was given, and the rule has none.
        """
        rule = parse_rule(self.rule)
        if self.feedback_seed is None:
            return rule
        if feedback_seed(rule) is None:
            msg = f"The rule {rule.label} draws nothing from a seed; leave the feedback seed out."
            raise InputError(msg)
        return reseeded(rule, self.feedback_seed)

    def material(self, *, download: bool = False) -> Material:
        """Build the model from its seed and load the data.

        Raises:
            AlignlabError: What does not exist or does not fit.
        """
        scale: dict[str, Any] = {"mean": self.mean, "std": self.std, "download": download}
        data = datasets.load(self.data, split="train", samples=self.samples, **scale)
        held = probed = None
        if self.held_split:
            held = datasets.load(self.data, split=self.held_split, samples=None, **scale)
            # Data that are not divided give all of themselves for any split.
            held = held if self.held_split in held.name.partition("[")[2].split() else None
        if self.per_decade:
            split = self.held_split if held is not None else "train"
            probed = datasets.load(self.data, split=split, samples=self.probe_samples, **scale)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.init_seed)
            model = build_model(self.model, self.model_arguments)
        model = _placed(model, self.device)
        loss = build_loss(self.loss)
        model.eval()
        with torch.random.fork_rng(devices=[]):
            few = output_of(model, data.x[:FEW].to(self.device))
            every = few.new_zeros(len(data.y), *few.shape[1:]).cpu()
        if self.loss != "nll":
            loss.check(every, data.y)
        return Material(model, loss, data, held, probed)


@dataclass(frozen=True)
class Material:
    """What a plan becomes.

    Attributes:
        model: With its initial weights, on its device.
        loss: The loss.
        data: What is trained on.
        held: What loss and accuracy are taken on after every epoch.
        probed: What is probed.
    """

    model: nn.Module
    loss: Loss
    data: Samples
    held: Samples | None
    probed: Samples | None

    def held_out(self) -> tuple[Tensor, Tensor] | None:
        """Return the held-out inputs and targets."""
        return None if self.held is None else (self.held.x, self.held.y)


def _placed(model: nn.Module, device: str) -> nn.Module:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        msg = f"Cannot train on {device}: {' '.join(str(error).split())}"
        raise InputError(msg) from error
