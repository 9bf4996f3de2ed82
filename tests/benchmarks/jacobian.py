"""The Jacobian at all sites of ResNet-20 against one training step, in processor time.

Run ``python -m tests.benchmarks.jacobian`` with one thread. The time of the Jacobian is that
of its own forward passes, of the check that samples are separate, and of ten backward passes of
input gradients, whose signals are shown to a visitor and dropped. That of the step is
zero_grad, forward, loss and backward of the plain network in training mode; it is also timed in
evaluation mode, the only one in which samples are separate, and with channels last. Blocks of
samples need less memory at once, so that fewer pages are touched for the first time.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from alignlab.engine.capture import Capture
from alignlab.engine.jacobian import Jacobian, sample_blocks
from alignlab.models.resnet20 import ResNet20
from alignlab.sites import ENTRY, Layer

SAMPLES, CLASSES, BLOCK, ROUNDS = 64, 10, 32, 9
Case = tuple[str, Callable[[], object]]


def problem() -> tuple[ResNet20, Tensor, Tensor]:
    """Return the network in evaluation mode and one batch."""
    torch.manual_seed(0)
    model = ResNet20().eval()
    return model, torch.randn(SAMPLES, 3, 32, 32), torch.arange(SAMPLES) % CLASSES


def ignore(number: int, layer: Layer, site: str, signal: Tensor) -> None:
    """Look at a signal and keep nothing."""


def cases() -> list[Case]:
    """Return the step of training and the Jacobian, in blocks and at once."""
    model, x, y = problem()
    last = x.contiguous(memory_format=torch.channels_last)
    training = copy.deepcopy(model).train()

    def step(model: ResNet20, images: Tensor) -> None:
        model.zero_grad()
        functional.cross_entropy(model(images), y).backward()

    def blocks(images: Tensor) -> None:
        for _, jacobian in sample_blocks(model, functional.cross_entropy, images, y, size=BLOCK):
            jacobian.visit(ignore)

    def at_once() -> None:
        capture = Capture(model, functional.cross_entropy, x, y)
        try:
            Jacobian(capture).visit(ignore)
        finally:
            capture.close()

    return [
        ("step", lambda: step(training, x)),
        ("step, evaluation mode", lambda: step(model, x)),
        ("step, evaluation mode, channels last", lambda: step(model, last)),
        (f"Jacobian, blocks of {BLOCK}", lambda: blocks(x)),
        (f"Jacobian, blocks of {BLOCK}, channels last", lambda: blocks(last)),
        ("Jacobian, at once", at_once),
    ]


def check_values() -> float:
    """Return the largest error, against the signal, of the Jacobian's rows times the error."""
    model, x, y = problem()
    capture = Capture(model, functional.cross_entropy, x, y)
    true = capture.reference()
    error = true.preactivation["linear"]
    capture.close()
    total = {name: torch.zeros_like(signal) for name, signal in true.entry.items()}
    for part, jacobian in sample_blocks(model, functional.cross_entropy, x, y, size=BLOCK):

        def add(number: int, layer: Layer, site: str, signal: Tensor, part: slice = part) -> None:
            if site == ENTRY:
                weight = error[part, number].reshape(-1, *(1 for _ in signal.shape[1:]))
                total[layer.name][part] += weight * signal

        jacobian.visit(add)
    return max(float((total[name] - t).norm() / t.norm()) for name, t in true.entry.items())


def rounds(count: int = ROUNDS) -> dict[str, np.ndarray]:
    """Return seconds of processor time by case, interleaved in random order."""
    order = np.random.default_rng(0)
    listed = cases()
    seconds: dict[str, list[float]] = {name: [] for name, _ in listed}
    for number in range(count + 1):
        for k in order.permutation(len(listed)):
            name, run = listed[k]
            start = time.process_time()
            run()
            if number:
                seconds[name].append(time.process_time() - start)
    return {name: np.array(found) for name, found in seconds.items()}


def main() -> None:
    """Check the values, then print medians and quartiles of the paired ratios."""
    torch.set_num_threads(1)
    error = check_values()
    if error > 1e-4:
        sys.exit(f"The Jacobian times the error differs from the true signals by {error:.1e}.")
    found = rounds()
    lines = [f"largest relative error of J^T e: {error:.1e}"]
    for name, seconds in found.items():
        low, middle, high = np.quantile(seconds / found["step"], [0.25, 0.5, 0.75])
        lines.append(
            f"{name:40s} {1e3 * np.median(seconds):7.1f} ms   ratio {middle:.2f} "
            f"({low:.2f} to {high:.2f})"
        )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
