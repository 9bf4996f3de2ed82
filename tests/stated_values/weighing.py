"""Weights against feedback, drawn directions, signs, shared noise and kernels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from alignlab.rules import DFA, ForwardGradient, Noisy
from tests.diagnostics.probing import half_squared_error
from tests.diagnostics.reaching import deep
from tests.rules.golden_measurements import along, of_updates, one_layer, shared_noise, tangents
from tests.stated_values.networks import CLASSES, linear, measured, one_hot, trained_from_zero
from tests.stated_values.stated import Stated

__all__ = ["ROWS"]

_ONE = "one layer of 1000 weights"
_TRAINED = "linear network 20-200-200-10 trained from zero by DFA on classes of a linear teacher"


def unrelated(seed: int) -> Sequence[float]:
    """Return explained share and median condition number of weights that know no feedback."""
    model = linear(20, 200, 200, CLASSES, seed=seed)
    x, y = torch.randn(300, 20).double(), torch.randn(300, CLASSES).double()
    found = measured(
        model, (x, y), DFA(seed=seed), names=["alignment-matrix"], loss=half_squared_error, draws=64
    ).isel(rule=0, layer=1)
    names = ("explained", "explained_chance", "condition_chance")
    return [found[f"alignment_matrix_{name}"].item() for name in names]


def under_softmax(seed: int) -> Sequence[float]:
    """Return condition and cosine at the output, on all dimensions and on the error space."""
    model, rule, (x, y) = trained_from_zero(functional.cross_entropy, seed=seed, steps=300, rate=1)
    shifted = one_hot(y) + 0.1 * torch.arange(CLASSES)
    numbers = []
    for target, loss in ((shifted, half_squared_error), (y, functional.cross_entropy)):
        found = measured(model, (x, target), rule, names=["alignment-matrix"], loss=loss)
        here = found.isel(rule=0, layer=-1)
        names = ("condition", "cosine_identity")
        numbers += [here[f"alignment_matrix_{name}"].item() for name in names]
    return numbers


def under_squares(seed: int) -> Sequence[float]:
    model, rule, batch = trained_from_zero(half_mean_squares, seed=seed, steps=300, rate=0.1)
    found = measured(model, batch, rule, names=["alignment-matrix"], loss=half_mean_squares)
    here = found.isel(rule=0, layer=-1)
    return [here["alignment_matrix_condition"].item()]


def half_mean_squares(output: Tensor, target: Tensor) -> Tensor:
    return half_squared_error(output, target) / len(output)


def of_one_tangent(seed: int) -> Sequence[float]:
    """Return root mean square and mean of the absolute value of the cosines of 50 tangents."""
    rules = [ForwardGradient(tangents=1, seed=50 * seed + k) for k in range(50)]
    cosines = of_updates(*rules, n_in=40, n_out=25)
    return [float(np.sqrt(np.mean(cosines**2))), float(np.mean(np.abs(cosines)))]


def rms(count: int, repeats: int, seed: int) -> Sequence[float]:
    return tangents(count, repeats, seed=seed)


def sign_curve(seed: int) -> Sequence[float]:
    """Return the share of equal signs of normal gradients with normal noise added."""
    model, batch = one_layer(150, 150, 400, seed=seed)
    found = []
    for cosine in (0.1, 0.3, 0.5):
        rule = Noisy(ratio=(cosine**-2 - 1.0) ** 0.5, seed=seed)
        shares = measured(model, batch, rule, names=["sign-agreement"], loss=along)
        found.append(float(shares["sign_agreement_weight_gradient"].isel(rule=0, layer=0)))
    return found


def same_batch(seed: int) -> Sequence[float]:
    """Return plain cosines by size of the batch, and debiased ones of the larger batches."""
    sizes = (16, 64, 256, 1024)
    found = [shared_noise(n, noise=_NOISE, units=2000, seed=seed) for n in sizes]
    return [*(plain for plain, _ in found), *(debiased for _, debiased in found[2:])]


def unstable_by_part(seed: int) -> Sequence[float]:
    """Return the share of unstable kernels of which half of the samples looks stable."""
    unstable, hidden_by_part = 0, 0
    for network in range(25):
        model = deep((10, 30, 30, 1), nn.ReLU, seed=25 * seed + network).double()
        x = torch.randn(12, 10).double()
        if slowest_decay(model, x, network) < 0.0:
            unstable += 1
            hidden_by_part += slowest_decay(model, x[:6], network) > 0.0
    return [hidden_by_part / unstable]


def slowest_decay(model: nn.Module, x: Tensor, network: int) -> float:
    """Return the smallest rate at which errors decay under DFA where all samples are fitted."""
    batch, rule = (x, model(x).detach()), DFA(seed=network)
    found = measured(model, batch, rule, names=["stability"], loss=functional.mse_loss)
    return float(found["error_decay"].isel(rule=0, component=0))


_NOISE = 180.0
ROWS: tuple[Stated, ...] = (
    Stated("D3: share of unrelated weights that feedback explains, of one draw and on average, "
           "C^2/n^2; median condition number of a random alignment matrix",
           ("0.0022", "0.0025", "33"), unrelated, 6,
           "200 by 200 normal weights, ten errors of squared loss, 64 draws"),
    Stated("0.1.7: alignment matrix under a softmax, all ten dimensions: condition, cosine; on the "
           "error space: condition, cosine", (">=1000000000000", "0.917", "2.15", "0.966"),
           under_softmax, 3, f"{_TRAINED}, 300 steps, output layer", is_slow=True),
    Stated("0.1.7: condition under squared error is finite", ("<=1000",), under_squares, 3,
           f"{_TRAINED}, 300 steps, output layer", is_slow=True),
    Stated("0.1.13: cosine of one tangent, n = 1000: root mean square, mean absolute value",
           ("0.0316", "0.0252"), of_one_tangent, 4, _ONE),
    Stated("0.1.13: root mean square cosine of 10 tangents", ("0.0994",), partial(rms, 10, 30), 4,
           _ONE),
    Stated("0.1.13: the same, 100 tangents", ("0.301",), partial(rms, 100, 10), 4, _ONE),
    Stated("0.1.13: the same, 1000 tangents", ("0.707",), partial(rms, 1000, 1), 4, _ONE),
    Stated("A4: share of equal signs of jointly normal entries of cosine .1, .3, .5",
           ("0.532", "0.597", "0.667"), sign_curve, 4,
           "normal noise on a normal gradient of 22,500 entries"),
    Stated("0.3, A6: cosine of orthogonal mean directions under the same noise in one batch of 16, "
           "64, 256, 1024 samples; across halves of the batch, 256 and 1024 samples",
           ("0.92", "0.74", "0.41", "0.15", "0.0", "0.0"), same_batch, 4,
           "noise of 180 times the energy of the mean, 2000 units",
           note="The energy of the noise is not stated, and one number of it, from 178 to 181, "
           "gives all four values. Across halves of fewer samples the cosine is often undefined.",
           is_slow=True, is_chosen=True),
    Stated("0.1.10: share of unstable kernels of which a part looks stable (32 of 200)", ("0.16",),
           unstable_by_part, 4,
           "DFA on ReLU networks 10-30-30-1, squared error, 12 fitted samples, the first 6 of them",
           is_slow=True, found=((0.79, 0.09),),
           because="network, rule, samples and part are not stated; that a part says nothing of "
           "the whole holds all the more"),
)  # fmt: skip
