"""Another package doing the like work: weight gradients of a rule, of its BP twin, their angles."""

from __future__ import annotations

import contextlib
import copy
import io
import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab.engine.capture import Capture
from alignlab.rules import DFA
from alignlab.snapshot import MeasuredRule
from tests.benchmarks._expected import WEIGHTS
from tests.benchmarks._harness import Comparison, Variant
from tests.benchmarks._steps import Observed
from tests.benchmarks.networks import CLASSES, NETWORKS
from tests.cases import Batch

__all__ = ["Biotorch", "against_biotorch"]

TOLERANCE = 1e-5

SUMS = 1e-4
"""What float32 sums over millions of entries, as its angles are made of, may be off."""


class Biotorch:
    """A step of biotorch's DFA model, one of its twin in plain PyTorch, an angle per weight.

    The angles are those of biotorch's own function for two matrices, which is not given the
    gradients by anything in the package itself.

    Args:
        batch: Model, loss and batch; the model is the twin.
    """

    def __init__(self, batch: Batch) -> None:
        from biotorch.module.biomodule import BioModule

        self.batch = batch
        options = {"constrain_weights": False, "gradient_clip": False, "init": "xavier"}
        with contextlib.redirect_stdout(io.StringIO()):
            self.model: Any = BioModule(
                copy.deepcopy(batch.model),
                mode="dfa",
                layer_config={"type": "dfa", "options": options},
                output_dim=CLASSES,
            ).train()
        twin = dict(batch.model.named_parameters())
        self.pairs = {
            name.removesuffix(".weight"): (p, twin[name])
            for name, p in self.model.module.named_parameters()
            if name.endswith(".weight")
        }
        with torch.no_grad():
            for name, p in self.model.module.named_parameters():
                if name in twin:
                    p.copy_(twin[name])

    def __call__(self) -> dict[str, float]:
        """Return the angle of every weight gradient in degrees, by layer."""
        from biotorch.layers.metrics import compute_matrix_angle

        batch = self.batch
        self.model.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output = self.model(batch.x, targets=batch.y, loss_function=batch.loss)
            batch.loss(output, batch.y).backward()
        batch.model.zero_grad()
        batch.loss(batch.model(batch.x), batch.y).backward()
        return {
            name: compute_matrix_angle(ours.grad, theirs.grad).item()
            for name, (ours, theirs) in self.pairs.items()
        }

    def cosines(self) -> dict[str, float]:
        """Return the cosines of the gradients that the last step left, in float64, by layer."""
        pairs = {
            name: [p.grad.flatten().double() for p in pair] for name, pair in self.pairs.items()
        }
        return {name: float(a @ b / (a.norm() * b.norm())) for name, (a, b) in pairs.items()}

    def check(self) -> None:
        """Require its angles to be those of its gradients."""
        angles = self()
        for name, cosine in self.cosines().items():
            found = math.cos(math.radians(angles[name]))
            assert abs(found - cosine) <= SUMS, f"The angle of {name} is {angles[name]}."

    def feedback(self) -> Mapping[str, Tensor]:
        """Return B of every hidden layer, ``(classes, *entry_shape)``, as its hooks apply it."""
        modules = dict(self.model.module.named_modules())
        batch = self.batch
        capture = Capture(batch.model, batch.loss, batch.x, batch.y)
        hidden = [layer for layer in capture.layers if not layer.is_output]
        capture.close()
        return {
            layer.name: _unit_responses(modules[layer.consumer], layer.entry_shape)
            for layer in hidden
        }


def against_biotorch(network: str, device: str) -> Comparison:
    """Return biotorch's time as the work, an observed step with its feedback as the reference."""
    batch = NETWORKS[network].make(device)
    theirs = Biotorch(batch)
    rule = MeasuredRule(DFA(), theirs.feedback(), "checkpoint")
    ours = Observed(batch, [rule], levels=["weight-gradient"])

    def check() -> None:
        theirs.check()
        wanted = theirs.cosines()
        ours()
        found = ours.alignments()
        hidden = [layer for layer in wanted if layer in rule.feedback]
        for layer in hidden:
            value = found["cosine_weight_gradient", rule.label, layer, WEIGHTS]
            assert abs(value - wanted[layer]) <= TOLERANCE, (
                f"The weight gradient of {layer} has cosine {value} here, {wanted[layer]} there."
            )

    return Comparison(Variant(ours, ours.check), Variant(theirs, check))


def _unit_responses(module: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Return what the hook of a layer sends below for the error of each class alone."""
    error = torch.eye(CLASSES, device=module.weight.device)
    if isinstance(module, nn.Linear):
        return error @ module.weight_backward
    options = {k: getattr(module, k) for k in ("stride", "padding", "dilation", "groups")}
    size = F.conv2d(error.new_zeros(1, *shape), module.weight, **options).shape[2:]
    return torch.nn.grad.conv2d_input(
        (CLASSES, *shape),
        module.weight_backward,
        error.reshape(CLASSES, CLASSES, 1, 1).expand(-1, -1, *size),
        **options,
    )
