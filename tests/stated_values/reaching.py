"""Reach, width and effective dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from alignlab.kernels.cosines import cosine
from alignlab.kernels.regression import explained_held_out
from alignlab.kernels.similarity import (
    centred_gram,
    debiased_gram,
    debiased_similarity,
    sample_products,
)
from alignlab.rules import DFA
from tests.diagnostics.probing import given_feedback, half_squared_error, linear_network
from tests.diagnostics.reaching import deep, noise
from tests.stated_values.networks import CLASSES, DEEP, SAMPLES, hidden, linear, measured
from tests.stated_values.stated import Stated

__all__ = ["ROWS"]

_WIDTHS = (1, 2, 4, 8, 9)
_DEEP = "100-200-200-200-200-10, normal weights at the usual scale, 512 normal inputs, entry"


def roots_of_reach(activation: type[nn.Module], seed: int) -> Sequence[float]:
    """Return the share in reach at the bottom, and under the readout."""
    model = deep(DEEP, activation, seed=seed)
    found = measured(model, noise(SAMPLES, DEEP[0], CLASSES, seed=seed), names=["reach"])
    shares = hidden(found, "reach_in_sample", site="entry")
    return shares[0], shares[-1]


def of_weights(seed: int) -> Sequence[float]:
    """Return the roots of reach of signals and of weight gradients at the bottom."""
    model = deep(DEEP, nn.ReLU, seed=seed)
    batch = noise(SAMPLES, DEEP[0], CLASSES, seed=seed)
    found = measured(model, batch, names=["reach", "weight-gradient-reach"]).sel(layer="0")
    signal = found["reach_in_sample"].sel(site="entry").item()
    return signal**0.5, found["weight_gradient_reach_in_sample"].item() ** 0.5


def bracket(seed: int) -> Sequence[float]:
    """Return held-out reach of a known share on 64 and on 2,000 samples."""
    stream = torch.Generator().manual_seed(seed)
    found = []
    for n_samples, repeats in ((64, 20), (2000, 1)):
        shares = []
        for _ in range(repeats):
            errors = torch.randn(n_samples, 6, generator=stream, dtype=torch.float64)
            sent = errors @ torch.randn(6, 40, generator=stream, dtype=torch.float64) / 6**0.5
            rest = torch.randn(n_samples, 40, generator=stream, dtype=torch.float64)
            signal = 0.56**0.5 * sent + 0.44**0.5 * rest
            fold = torch.arange(n_samples) < n_samples // 2
            shares.append(explained_held_out(errors, signal, fold).item())
        found.append(float(np.mean(shares)))
    return found


def narrow(seed: int) -> Sequence[float]:
    """Return the bound of narrow layers, and the smallest root of reach below any of them."""
    bounds, reach = [], []
    for width in _WIDTHS:
        model = linear(20, 110, width, CLASSES, seed=seed)
        x, y = noise(SAMPLES, 20, CLASSES, seed=seed)
        found = measured(
            model, (x.double(), y), DFA(seed=seed), names=["bottleneck", "reach"]
        ).isel(layer=0)
        bounds.append(found["width_bound"].item())
        reach.append(found["reach_in_sample"].sel(site="entry").item() ** 0.5)
    return [*bounds, min(reach)]


def isotropic(seed: int) -> Sequence[float]:
    """Return participation ratios of 128, 512 and 4096 normal inputs of 512 units."""
    model = linear(512, 2, 2, seed=seed).float()
    found = []
    for n_samples in (128, 512, 4096):
        batch = noise(n_samples, 512, 2, seed=seed)
        ratios = measured(model, batch, names=["effective-rank"])["participation_ratio_activation"]
        found.append(ratios.isel(layer=0).item())
    return found


def likeness(seed: int) -> Sequence[float]:
    """Return likeness of unrelated noise with its bias, at 256 and 4096 units, and without."""
    stream = torch.Generator().manual_seed(seed)
    biased, debiased = [], []
    for units in (256, 4096):
        first, second = (
            sample_products(torch.randn(256, units, generator=stream))[0] for _ in range(2)
        )
        biased.append(_cosine(centred_gram(first), centred_gram(second)))
        debiased.append(debiased_similarity(debiased_gram(first), debiased_gram(second)).item())
    return [*biased, *debiased]


def _cosine(first: Tensor, second: Tensor) -> float:
    return cosine(first.flatten(), second.flatten()).item()


def strongly_aligned(width: int, seed: int) -> Sequence[float]:
    """Return mean cosines of layers 1 and 2 of a linear network whose weights are B B^T."""
    rng = np.random.default_rng([seed, width])
    feedback = [rng.normal(size=(width, CLASSES)) for _ in range(3)]
    above = [b @ a.T for a, b in pairwise(feedback)]
    weights = [rng.normal(size=(width, 20)), *above, feedback[-1].T]
    x, error = rng.normal(size=(200, 20)), rng.normal(size=(200, CLASSES))
    output = x
    for weight in weights:
        output = output @ weight.T
    given = given_feedback({str(k): each for k, each in enumerate(feedback)})
    found = measured(
        *(linear_network(weights), (torch.as_tensor(x), torch.as_tensor(output - error)), given),
        names=["error-signal"],
        loss=half_squared_error,
    )
    bottom, second = hidden(found, "cosine_error_signal", site="entry")[:2]
    return float(bottom), float(second)


_ALIGNED = {
    1000: (".99", ".996"),
    200: (".96", ".98"),
    64: (".87", ".93"),
    20: (".73", ".83"),
    10: (".47", ".69"),
    5: (".27", ".54"),
    2: (".09", ".31"),
}
ROWS: tuple[Stated, ...] = (
    Stated("E1: share of the true signal in reach, linear network: bottom, under the readout",
           ("1.0", "1.0"), partial(roots_of_reach, nn.Identity), 3, _DEEP),
    Stated("E1: the same, tanh", ("0.85", "1.0"), partial(roots_of_reach, nn.Tanh), 6, _DEEP),
    Stated("E1: the same, ReLU", (".22-.30", "1.0"), partial(roots_of_reach, nn.ReLU), 6, _DEEP),
    Stated("E2: root of reach at the ReLU bottom: of signals, of weight gradients",
           (".55", ".70"), of_weights, 6, _DEEP),
    Stated(
        "0.1.9: reach held out on 64 samples and on 2,000",
        (".447", ".558"), bracket, 8, "normal errors of 6 dimensions, .56 of the signal in reach",
        note="Share and dimensions are not stated and follow from the two values, so that this "
        "checks the law of the bias alone.",
        is_chosen=True,
    ),
    Stated(
        "0.1.6: largest cosine below a layer of 1, 2, 4, 8, 9 units, ten classes; smallest root of "
        "reach there",
        (".41", ".57", ".75", ".97", "1.00", "1.000"), narrow, 6,
        "linear networks 20-110-b-10 at the start, cross-entropy, 512 normal inputs, entry",
    ),
    Stated("E6: participation ratio of isotropic data, N = 128, 512, 4096, n = 512",
           ("102", "256", "455"), isotropic, 3, "activations of the first layer, normal inputs"),
    Stated("G6: CKA of pure noise, 256 samples, of 256 and 4096 units; debiased",
           (".50", ".94", "0.0", "0.0"), likeness, 5, "normal noise"),
    *(
        Stated(
            f"strong weight alignment: mean cosine of the signals of layers 1 and 2, three hidden "
            f"layers of {width} units",
            values, partial(strongly_aligned, width), 6,
            "linear networks with weights B B^T of normal feedback, ten normal errors, entry",
            is_wide=width == 2,
        )
        for width, values in _ALIGNED.items()
    ),
)  # fmt: skip
