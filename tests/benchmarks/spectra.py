"""The participation ratio of a large convolution: closed form against all singular values."""

from __future__ import annotations

import torch
from torch import Tensor

from alignlab.kernels.convolution_spectrum import Circular, participation_ratio, symbol_spectrum
from tests.benchmarks._harness import Comparison, Variant

__all__ = ["participation_ratio_of_a_convolution"]

CHANNELS, SIZE = 256, 32


def participation_ratio_of_a_convolution(device: str) -> Comparison:
    """Return the way over all singular values against the closed form.

    The 3x3 convolution of 256 to 256 channels over 32 by 32 positions has an unrolled matrix of
    262,144 rows.
    """
    stream = torch.Generator().manual_seed(0)
    weight: Tensor = torch.randn(CHANNELS, CHANNELS, 3, 3, generator=stream) / 48.0
    operator = Circular(weight.to(device), (SIZE, SIZE), (1, 1), (1, 1))

    def by_frequency() -> float:
        found = symbol_spectrum(operator)
        energies = found.values.double().square()
        times = found.multiplicity[:, None]
        return float((times * energies).sum() ** 2 / (times * energies.square()).sum())

    def closed_form() -> float:
        return float(participation_ratio(operator))

    def check() -> None:
        assert abs(closed_form() / by_frequency() - 1.0) <= 1e-3

    return Comparison(Variant(closed_form, check), Variant(by_frequency, closed_form))
