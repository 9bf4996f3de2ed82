"""Chance levels: how wide they are, and how well the first order gives them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from math import asin, degrees

import numpy as np
import torch
import xarray as xr
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from alignlab.kernels.rotation import rotation_sd
from alignlab.probe import Probe
from alignlab.rules import DFA, Quantised
from tests.calibration.fresh import Values, fresh_direct
from tests.case import Batch
from tests.diagnostics.reaching import deep, noise
from tests.stated_values.networks import (
    CIRCULAR,
    CLASSES,
    DEEP,
    HEADS,
    SAMPLES,
    convolutions,
    hidden,
    linear,
    maps,
    measured,
    values_of,
)
from tests.stated_values.stated import Stated

__all__ = ["ROWS"]

_DRAWS = 1000
_FLAT, _WEIGHT = "cosine_error_signal_flat", "cosine_weight_gradient"
_DEEP = "ReLU network 100-200-200-200-200-10, normal weights of gain root 2, 512 normal inputs"


def deep_network(seed: int) -> tuple[nn.Sequential, tuple[Tensor, Tensor]]:
    return deep(DEEP, nn.ReLU, seed=seed), noise(SAMPLES, DEEP[0], CLASSES, seed=seed)


@cache
def of_dfa(seed: int) -> xr.Dataset:
    model, batch = deep_network(seed)
    return measured(model, batch, DFA(seed=seed), names=["error-signal", "weight-gradient"])


@cache
def fresh(seed: int) -> Values:
    """Return the cosines under fresh feedback by variable, site and layer."""
    model, (x, y) = deep_network(seed)
    batch = Batch(model, functional.cross_entropy, x, y)
    return fresh_direct(batch, _DRAWS, seed=seed)


def bands(seed: int) -> Sequence[float]:
    """Return the spreads of signals, least and most, and of the top weights; over naive ones."""
    found = of_dfa(seed)
    signals = hidden(found, f"{_FLAT}_null_sd", site="entry")
    naive = (200 * SAMPLES) ** -0.5
    top = hidden(found, f"{_WEIGHT}_null_sd")[-1]
    ends = signals.min(), signals.max()
    return *ends, ends[0] / naive, ends[1] / naive, top, top * 200


def formula_error(seed: int) -> Sequence[float]:
    """Return the largest relative difference of the formula from the spread of draws."""
    found = of_dfa(seed)
    stated = {
        (_FLAT, "entry"): hidden(found, f"{_FLAT}_null_sd", site="entry"),
        (_WEIGHT, ""): hidden(found, f"{_WEIGHT}_null_sd"),
    }
    errors = []
    for place, values in stated.items():
        spread = [fresh(seed)[*place, layer].std() for layer in ("0", "2", "4", "6")]
        errors.append(np.abs(values / spread - 1.0).max())
    return errors


def coverage(seed: int) -> Sequence[float]:
    """Return how much of the draws the two formulas hold at pre-activations, least and most."""
    model, batch = deep_network(seed)
    kept: dict[str, xr.Dataset] = {}
    site = "preactivation"
    found = measured(model, batch, DFA(seed=seed), names=["error-signal"], kept=kept)
    error = values_of(kept, "8", "true_signal_preactivation")
    shares = []
    for layer in ("0", "2", "4", "6"):
        values = fresh(seed)[_FLAT, site, layer]
        place = {"layer": layer, "site": site}
        low, high = (found[f"{_FLAT}_null_{end}"].sel(place).item() for end in ("low", "high"))
        # The formula of the entry, which knows of no gate, with the pre-activation's signal.
        true = values_of(kept, layer, "true_signal_preactivation")
        scale = error.norm() * true.norm() * true.shape[1] ** 0.5
        ungated = 1.96 * float((true.T @ error).norm() / scale)
        shares.append([np.mean((values > low) & (values < high)), np.mean(abs(values) < ungated)])
    gated, without = np.transpose(shares)
    return gated.min(), gated.max(), without.min(), without.max()


def shared_bands(seed: int) -> Sequence[float]:
    """Return least and most spread of shared and unshared gradients, and the widest band's end."""
    shared, unshared, high = [], [], []
    for head in HEADS:
        found = measured(
            *(convolutions(head, seed=seed), maps(SAMPLES, seed=seed), DFA(seed=seed)),
            names=["weight-gradient", "unshared-gradient"],
        )
        shared += hidden(found, f"{_WEIGHT}_null_sd").tolist()
        high += hidden(found, f"{_WEIGHT}_null_high").tolist()
        unshared += hidden(found, f"{_WEIGHT}_unshared_null_sd").tolist()
    return min(shared), max(shared), min(unshared), max(unshared), max(high)


def attainable_of_few(channels: int, seed: int) -> Sequence[float]:
    """Return least and most z that backpropagation itself has over convolutions."""
    model = convolutions("pooled", seed=seed, channels=channels)
    batch = maps(SAMPLES, seed=seed)
    found = measured(model, batch, DFA(seed=seed), names=["weight-gradient"])
    z = hidden(found, f"{_WEIGHT}_z_attainable")
    return z.min(), z.max()


def attainable_of_one(seed: int) -> Sequence[float]:
    """Return the z of a perfect alignment at a layer of one unit."""
    model = linear(6, 1, 5, seed=seed)
    x = torch.randn(40, 6).double()
    found = measured(model, (x, torch.arange(40) % 5), DFA(seed=seed), names=["error-signal"])
    z = hidden(found, "cosine_mean_error_signal_z_attainable", site="entry")
    return [float(z[0])]


def rotated(seed: int) -> Sequence[float]:
    """Return the largest relative difference of drawn rotations from their formula."""
    model = deep((100, 100, 100, CLASSES), nn.ReLU, seed=seed)
    batch = noise(SAMPLES, 100, CLASSES, seed=seed)
    with Probe(
        model, functional.cross_entropy, rules=[Quantised(bits=1)], draws=1000,
        diagnostics=["weight-gradient"], save=["weight-gradients"],
    ) as probe:  # fmt: skip
        found = probe.measure(*batch).isel(step=0, rule=0)
    errors = []
    for layer in ("0", "2"):
        names = ("true_weight_gradient", "weight_gradient")
        true, update = (values_of(probe.tensors, layer, name).squeeze(0) for name in names)
        formula = float(rotation_sd(update, true) / update.norm() / true.norm())
        drawn = found[f"{_WEIGHT}_null_sd"].sel(layer=layer).item()
        errors.append(abs(drawn / formula - 1.0))
    return [max(errors)]


def half_width(n: int, draws: int, seed: int) -> float:
    """Return the angle from 90 degrees that isotropic directions in n dimensions stay within."""
    model = linear(4, n, 3, seed=seed)
    x = torch.randn(4, 4).double()
    found = measured(
        model, (x, torch.arange(4) % 3), DFA(seed=seed), names=["error-signal"], draws=draws
    )
    low, high = (
        float(hidden(found, f"cosine_mean_error_signal_null_{end}", site="entry")[0])
        for end in ("low", "high")
    )
    return degrees(asin((high - low) / 2.0))


def half_widths(seed: int) -> Sequence[float]:
    return [half_width(n, 32, seed) for n in (100, 1000, 10_000)]


def half_width_of_ten(seed: int) -> Sequence[float]:
    """Return the angle in ten dimensions by the law of cosines of isotropic directions."""
    del seed
    t = stats.t.ppf(0.975, 9)
    return [degrees(asin(t / (t**2 + 9.0) ** 0.5))]


def naive(seed: int) -> Sequence[float]:
    """Return 1/root(entries): signals, deep weights, and convolutions' least and most."""
    del seed
    weights = [layer.weight.numel() for layer in convolutions("pooled", seed=0)
               if isinstance(layer, nn.Conv2d)]  # fmt: skip
    entries = (DEEP[1] * SAMPLES, DEEP[1] * DEEP[2], max(weights), min(weights))
    return [n**-0.5 for n in entries]


ROWS: tuple[Stated, ...] = (
    Stated(
        "A2: chance sd of flattened error signals, least and most over layers; over the naive "
        "1/root(nN); of the top hidden weight gradient; over the naive 1/root(entries)",
        ("0.013", "0.026", "4", "8", "0.094", "19"), bands, 3, f"{_DEEP}; entry",
    ),
    Stated(
        "A2: largest relative difference of the formula from 1,000 draws, signals; weights",
        ("<=0.08", "<=0.08"), formula_error, 3, f"{_DEEP}; all hidden layers",
        note="Weights of one of the three networks differ by 0.13 at one layer; 1,000 draws give "
        "their spread to 0.02.", is_slow=True, is_wide=True,
    ),
    Stated(
        "0.1.2: share of draws inside the 95% band at ReLU pre-activations, least and most over "
        "layers, with the gate; without it",
        ("0.95", "0.95", "0.82-0.86", "0.82-0.86"), coverage, 3, f"{_DEEP}; 1,000 draws",
        is_slow=True,
    ),
    Stated(
        "A2, F2: chance sd of convolutions' weight gradients, least and most; of unshared ones, "
        "least and most; upper end of the widest band",
        ("0.09", "0.31-0.36", "0.01", "0.04", ">=0.4"), shared_bands, 6,
        f"{CIRCULAR}; both heads", is_slow=True,
    ),
    Stated(
        "0.1.4: z that backpropagation itself has on convolutions of few channels, least and most",
        ("2.5", "3.2"), partial(attainable_of_few, 4), 6,
        f"{CIRCULAR.replace('16 channels', '4 channels')}; pooled head", is_slow=True,
        is_wide=True,
    ),
    Stated("0.1.4: z of a perfect alignment at width 1", ("<=1",), attainable_of_one, 4,
           "linear network 6-1-5; mean error signal, entry"),
    Stated(
        "0.1.5: largest relative difference of 1,000 drawn output rotations from their formula",
        ("<=0.06",), rotated, 4, "ReLU network 100-100-100-10; gradient rounded to signs",
        is_slow=True,
    ),
    Stated(
        "A1: degrees about 90 that 95% of isotropic directions stay within, n = 100, 1000, 10,000",
        ("11.2", "3.5", "1.1"), half_widths, 4,
        "linear networks 4-n-3; band of the mean error signal, entry",
        note="Exactly, by Student's t with n - 1 degrees of freedom: 11.29, 3.55, 1.12.",
    ),
    Stated("A1: the same, n = 10", ("37.4",), half_width_of_ten, 1,
           "exact: Student's t with 9 degrees of freedom", found=((37.0, 0.05),),
           because="the exact law gives 37.0"),
    Stated("0.2, A2: chance level as usually quoted, 1/root(entries): signals of 512 samples of "
           "200 units; weights of 200 by 200; convolutions, least, most",
           ("0.003", "0.005", "0.02", "0.05"), naive, 1, f"{_DEEP}; {CIRCULAR}"),
)  # fmt: skip
