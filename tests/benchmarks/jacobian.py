"""The Jacobian at all sites of ResNet-20, beside one training step."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn import functional

from alignlab.engine.capture import Capture
from alignlab.engine.jacobian import Jacobian
from alignlab.models.resnet20 import ResNet20
from alignlab.sites import ENTRY, Layer
from tests.benchmarks._harness import Comparison, Variant
from tests.benchmarks._steps import Plain
from tests.cases import Batch

__all__ = ["jacobian_of_resnet20"]

SAMPLES, CLASSES, BLOCK = 64, 10, 32


def jacobian_of_resnet20(device: str) -> Comparison:
    """Return ten backward passes of input gradients over an open graph against a training step.

    Blocks of samples need less memory at once, so that fewer pages are touched for the first
    time. The network is in evaluation mode, in which samples are separate; the step is one in
    training mode.
    """
    torch.manual_seed(0)
    model = ResNet20().eval().to(device)
    x = torch.randn(SAMPLES, 3, 32, 32, device=device)
    y = torch.arange(SAMPLES, device=device) % CLASSES
    plain = Plain(Batch(copy.deepcopy(model).train(), functional.cross_entropy, x, y))
    parts = [slice(start, start + BLOCK) for start in range(0, SAMPLES, BLOCK)]
    captures = [Capture(model, functional.cross_entropy, x[part], y[part]) for part in parts]
    opened = [Jacobian(capture) for capture in captures]

    def ignore(number: int, layer: Layer, site: str, signal: Tensor) -> None:
        """Look at a signal and keep nothing."""

    def passes() -> None:
        for each in opened:
            each.visit(ignore)

    def check() -> None:
        """Require that the rows times the error are the true signals at every entry."""
        for capture, each in zip(captures, opened, strict=True):
            true = capture.reference()
            error = true.preactivation[capture.layout.outputs[0].name]
            total = {name: torch.zeros_like(signal) for name, signal in true.entry.items()}

            def add(
                number: int,
                layer: Layer,
                site: str,
                signal: Tensor,
                total: dict[str, Tensor] = total,
                error: Tensor = error,
            ) -> None:
                if site == ENTRY:
                    weight = error[:, number].reshape(-1, *(1 for _ in signal.shape[1:]))
                    total[layer.name] += weight * signal

            each.visit(add)
            for name, signal in true.entry.items():
                assert float((total[name] - signal).norm()) <= 1e-4 * float(signal.norm())

    return Comparison(Variant(plain, plain.check), Variant(passes, check))
