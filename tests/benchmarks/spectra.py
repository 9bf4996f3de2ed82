"""The participation ratio of a large convolution: closed form against all singular values.

Run ``python -m tests.benchmarks.spectra`` with one thread: a 3x3 convolution of 256 to 256
channels over 32 by 32 positions, whose unrolled matrix has 262,144 rows. Both ways are timed in
processor time, interleaved, after their values were compared.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from alignlab.kernels.convolution_spectrum import Circular, participation_ratio, symbol_spectrum

CHANNELS, SIZE, ROUNDS = 256, 32, 5
Case = tuple[str, Callable[[], float]]


def problem() -> Circular:
    """Return the convolution."""
    stream = torch.Generator().manual_seed(0)
    weight: Tensor = torch.randn(CHANNELS, CHANNELS, 3, 3, generator=stream) / 48.0
    return Circular(weight, (SIZE, SIZE), (1, 1), (1, 1))


def cases() -> list[Case]:
    """Return both ways to the participation ratio."""
    operator = problem()

    def by_frequency() -> float:
        found = symbol_spectrum(operator)
        energies = found.values.double().square()
        times = found.multiplicity[:, None]
        return float((times * energies).sum() ** 2 / (times * energies.square()).sum())

    def closed_form() -> float:
        return float(participation_ratio(operator))

    return [("all singular values", by_frequency), ("closed form", closed_form)]


def rounds(count: int = ROUNDS) -> dict[str, np.ndarray]:
    """Return seconds of processor time by case, interleaved in random order."""
    order = np.random.default_rng(0)
    listed = cases()
    seconds: dict[str, list[float]] = {name: [] for name, _ in listed}
    for _ in range(count):
        for k in order.permutation(len(listed)):
            name, run = listed[k]
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    return {name: np.array(found) for name, found in seconds.items()}


def main() -> None:
    """Check the values, then print both times and the quartiles of their paired ratio."""
    torch.set_num_threads(1)
    (_, slow), (_, quick) = cases()
    expected, value = slow(), quick()
    error = abs(value / expected - 1.0)
    if error > 1e-3:
        sys.exit(f"The closed form gives {value}, the singular values {expected}.")
    lines = [f"participation ratio {value:.1f}, relative difference {error:.1e}"]
    found = rounds()
    for name, seconds in found.items():
        lines.append(f"{name:20s} {1e3 * np.median(seconds):8.1f} ms")
    ratio = found["all singular values"] / found["closed form"]
    low, middle, high = np.quantile(ratio, [0.25, 0.5, 0.75])
    lines.append(f"closed form faster by {middle:.0f} ({low:.0f} to {high:.0f})")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
