"""The steps that are timed: plain training, and training that a probe observes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from alignlab.engine.capture import Capture
from alignlab.learner import Learner
from alignlab.probe import Probe
from alignlab.rules._base import Rule
from alignlab.rules._task import Task
from alignlab.schedules import every
from alignlab.snapshot import MeasuredRule
from tests.benchmarks._expected import Alignments, expected
from tests.benchmarks._harness import Comparison, Variant
from tests.benchmarks.networks import NETWORKS, Network
from tests.cases import Batch

__all__ = ["Observed", "Plain", "Trained", "beside_plain", "beside_training"]

TOLERANCE = 1e-4
"""How far a cosine in float32 may be from the reference; of ratios above 1, that share."""


class Plain:
    """zero_grad, forward, loss and backward of a model that nobody measures."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __call__(self) -> None:
        batch = self.batch
        batch.model.zero_grad()
        batch.loss(batch.model(batch.x), batch.y).backward()

    def check(self) -> None:
        """Require a finite gradient of every parameter."""
        self()
        for name, gradient in gradients(self.batch).items():
            assert torch.isfinite(gradient).all(), f"The gradient of {name} is not finite."


class Observed:
    """The same step with a probe around forward and backward, which measures at every one.

    Args:
        batch: Model, loss and batch.
        rules: What is compared with backpropagation.
        levels: What is measured: ``entry``, ``preactivation``, ``weight-gradient``.
        draws: Redraws of the feedback.
    """

    def __init__(
        self,
        batch: Batch,
        rules: Sequence[Rule | MeasuredRule],
        *,
        levels: Sequence[str],
        draws: int = 0,
    ) -> None:
        self.batch, self.rules, self.levels = batch, tuple(rules), tuple(levels)
        self.steps = 0
        self.probe = Probe(
            batch.model,
            batch.loss,
            rules=self.rules,
            schedule={level: every(1) for level in self.levels},
            feedback_draws=draws,
        )

    def __call__(self) -> None:
        batch = self.batch
        batch.model.zero_grad()
        with self.probe.observe(self.steps):
            batch.loss(batch.model(batch.x), batch.y).backward()
        self.steps += 1

    def check(self) -> None:
        """Require the gradients of a plain step, bit for bit, and right values at every site."""
        Plain(self.batch)()
        plain = {name: g.clone() for name, g in gradients(self.batch).items()}
        self()
        changed = [n for n, g in gradients(self.batch).items() if not torch.equal(g, plain[n])]
        assert not changed, f"Observing changes the gradients of {', '.join(changed)}."
        found = self.alignments()
        wanted = expected(self.batch, self.rules, levels=self.levels)
        assert set(wanted) <= set(found), f"Not measured: {sorted(set(wanted) - set(found))}."
        wrong = {
            k: (found[k], v)
            for k, v in wanted.items()
            if not abs(found[k] - v) <= TOLERANCE * max(1.0, abs(v))
        }
        assert not wrong, f"Measured and expected differ: {wrong}."

    def alignments(self) -> Alignments:
        """Return what the last step measured, by variable, rule, layer and site."""
        last = self.probe.recording().isel(step=-1)
        found: Alignments = {}
        for variable in ("cosine_error_signal", "norm_ratio_error_signal"):
            if variable in last:
                found |= _values(last[variable].stack(place=("rule", "layer", "site")), variable)
        if "cosine_weight_gradient" in last:
            values = last["cosine_weight_gradient"].expand_dims(site=["weights"])
            found |= _values(values.stack(place=("rule", "layer", "site")), values.name)
        return found


class Trained:
    """zero_grad, and the updates of a rule in place of forward, loss and backward.

    Args:
        batch: Model, loss and batch.
        rule: Draws its feedback from its own seed.
    """

    def __init__(self, batch: Batch, rule: Rule) -> None:
        self.batch, self.rule = batch, rule
        self.learner = Learner(batch.model, batch.loss, rule)

    def __call__(self) -> None:
        self.batch.model.zero_grad()
        self.learner.backward(self.batch.x, self.batch.y)

    def check(self) -> None:
        """Require the updates of an open graph, bit for bit, also once the graph is known."""
        batch = self.batch
        capture = Capture(batch.model, batch.loss, batch.x, batch.y)
        state = self.rule.start(capture, seed=getattr(self.rule, "seed", 0))
        wanted = self.rule.updates(Task(capture, capture.reference()), state).parameters
        capture.close()
        for _ in range(3):
            self()
            found = gradients(batch)
            assert set(found) == set(wanted)
            assert all(torch.equal(found[name], one) for name, one in wanted.items())


def beside_plain(network: Network, device: str, rule: Rule) -> Comparison:
    """Return the comparison of a training step by a rule with a plain one of the same model."""
    batch = network.make(device)
    plain, trained = Plain(batch), Trained(batch, rule)
    return Comparison(Variant(plain, plain.check), Variant(trained, trained.check))


def beside_training(
    network: str, device: str, rules: Sequence[Rule], **options: object
) -> Comparison:
    """Return the comparison of an observed step with a plain one of the same model."""
    batch = NETWORKS[network].make(device)
    plain, observed = Plain(batch), Observed(batch, rules, **options)
    return Comparison(Variant(plain, plain.check), Variant(observed, observed.check))


def gradients(batch: Batch) -> Mapping[str, Tensor]:
    """Return what is in ``.grad``, by parameter name."""
    return {n: p.grad for n, p in batch.model.named_parameters() if p.grad is not None}


def _values(stacked: object, variable: str) -> Alignments:
    places = stacked.indexes["place"]
    return {
        (variable, *place): float(value)
        for place, value in zip(places, stacked.transpose("place").values, strict=True)
    }
