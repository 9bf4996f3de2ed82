"""What convolutions can reach, and how their signals lie in space."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from math import acos, degrees, prod

import torch
import xarray as xr
from torch import nn

from alignlab.kernels.convolution import spatial_mean_share
from alignlab.rules import DFA
from tests.stated_values.networks import (
    CIRCULAR,
    CLASSES,
    HEADS,
    SAMPLES,
    convolutions,
    hidden,
    maps,
    measured,
    values_of,
)
from tests.stated_values.stated import Stated

__all__ = ["ROWS"]


def caps(seed: int) -> Sequence[float]:
    """Return the caps, the first as an angle too, and the first for feedback that is there."""
    found = []
    for below, above, taps, side in ((32, 64, 5, 16), (64, 64, 3, 16), (512, 512, 3, 4),
                                     (16, 16, 3, 32)):  # fmt: skip
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, below, 1),
            nn.Conv2d(below, above, taps, padding=taps // 2),
            *(nn.Flatten(), nn.Linear(above * side**2, CLASSES)),
        )
        batch = torch.randn(2, 1, side, side), torch.arange(2)
        names = ["convolution-cap"]
        here = measured(model, batch, DFA(seed=seed), names=names).isel(layer=1, rule=0)
        found.append(here["convolution_weight_cap"].item())
        if below == 32:
            attainable = here["convolution_weight_attainable"].item()
    return [*found, degrees(acos(found[0])), attainable]


def attainable(channels: int, positions: int, taps: int, seed: int) -> Sequence[float]:
    """Return the cap of weights and the attainable cosine of gradients below the second layer."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv1d(4, channels, taps, padding=taps // 2),
        nn.Conv1d(channels, channels, taps, padding=taps // 2),
        *(nn.Flatten(), nn.Linear(channels * positions, CLASSES)),
    )
    batch = torch.randn(150, 4, positions), torch.arange(150) % CLASSES
    names = ["attainable-cosine", "convolution-cap"]
    found = measured(model, batch, DFA(seed=seed), names=names).isel(rule=0)
    reached = found["attainable_cosine"].isel(layer=0).sel(site="entry").item()
    return found["convolution_weight_cap"].isel(layer=1).item(), reached


@cache
def of_head(head: str, seed: int) -> xr.Dataset:
    """Return all that is read of one network."""
    kept: dict[str, xr.Dataset] = {}
    found = measured(
        *(convolutions(head, seed=seed), maps(SAMPLES, seed=seed), DFA(seed=seed)),
        names=["weight-gradient-reach", "reach", "coherence", "structured-reach",
               "equivariance-defect"],
        kept=kept,
    )  # fmt: skip
    layers = found["layer"].values[:4]
    for name in ("true_signal_entry", "signal_entry"):
        signals = [values_of(kept, layer, name) for layer in layers]
        shares = [spatial_mean_share(s.reshape(len(s), -1, 64)).item() for s in signals]
        found[f"{name}_dc"] = ("hidden_layer", shares)
    return found


def reach_of_weights(seed: int) -> Sequence[float]:
    """Return the held-out cosines of weight gradients with dense feedback that is fitted."""
    values = hidden(of_head("pooled", seed), "weight_gradient_reach_dense")
    return (values.clip(0.0) ** 0.5).tolist()


def coherence(seed: int) -> Sequence[float]:
    """Return least and most coherence of DFA, and of the truth under a flattened head."""
    pooled, flattened = (of_head(head, seed) for head in HEADS)
    dfa = [*hidden(pooled, "coherence"), *hidden(flattened, "coherence")]
    true = hidden(flattened, "coherence_true")
    return min(dfa), max(dfa), min(true), max(true)


def coherence_pooled(seed: int) -> Sequence[float]:
    """Return least and most coherence of the truth under a pooled head."""
    values = hidden(of_head("pooled", seed), "coherence_true")
    return values.min(), values.max()


def coherence_of_small_outputs(seed: int) -> Sequence[float]:
    """Return the same with a readout of a hundredth of the weights."""
    model = convolutions("pooled", seed=seed, readout=0.01)
    found = measured(model, maps(SAMPLES, seed=seed), names=["coherence"])
    values = hidden(found, "coherence_true")
    return values.min(), values.max()


def constant_share(seed: int) -> Sequence[float]:
    """Return the constant share of the truth, pooled: bottom and top; of DFA; of white noise."""
    found = of_head("pooled", seed)
    true, dfa = found["true_signal_entry_dc"].values, found["signal_entry_dc"].values
    return true[0], true[-1], dfa.mean(), 1.0 / prod((8, 8))


def defects(seed: int) -> Sequence[float]:
    """Return the largest defect of the truth pooled, and mean ones: DFA, flattened of both."""
    pooled, flattened = (of_head(head, seed).sel(shift=[1, 2, 4]) for head in HEADS)
    return (
        hidden(pooled, "equivariance_defect_true").max(),
        hidden(pooled, "equivariance_defect").mean(),
        hidden(flattened, "equivariance_defect_true").mean(),
        hidden(flattened, "equivariance_defect").mean(),
    )


def tied(head: str, seed: int) -> Sequence[float]:
    """Return reach of dense feedback and of feedback by channel at the third convolution."""
    found = of_head(head, seed)
    names = ("reach_in_sample", "reach_by_channel_in_sample")
    return [hidden(found, name, site="entry")[2] for name in names]


ROWS: tuple[Stated, ...] = (
    Stated(
        "F1: cap of weights, 32 to 64 channels 5x5 on 16x16; 64 to 64 3x3 on 16x16; 512 to 512 3x3 "
        "on 4x4; 16 to 16 3x3 on 32x32; degrees of the first; attainable for actual feedback",
        ("0.0195", "0.0117", "0.19", "0.0029", "88.9", "0.0195"),
        caps, 3, "zero padding, DFA on ten classes",
    ),
    Stated("F1, F1b: cap of weights and attainable cosine of gradients, 64 channels, 16 positions, "
           "k = 3, C = 10", ("0.108", "1.000"), partial(attainable, 64, 16, 3), 4,
           "two linear convolutions and a readout, 150 normal inputs"),
    Stated("F1, F1b: the same, 32 channels, 64 positions, k = 5", ("0.035", "0.50"),
           partial(attainable, 32, 64, 5), 4, "as above"),
    Stated("0.5, E3: cosine of weight gradients, held out, of the best fixed feedback, convolution "
           "1, pooled head", ("0.53",), lambda seed: reach_of_weights(seed)[:1], 6,
           f"{CIRCULAR}; dense feedback fitted to the signals of half the samples",
           is_slow=True, found=((0.854, 0.044),),
           because="batch, smoothness of the inputs and scale of the readout are not stated, and "
           "it rises with all three"),
    Stated("0.5, E3: the same, convolutions 2-4", ("0.95", "0.99", "1.0"),
           lambda seed: reach_of_weights(seed)[1:], 6, "as above", is_slow=True),
    Stated("F3: coherence of DFA, least and most; of the truth, flattened head, least and most",
           ("0.11", "0.17", "0.14", "0.17"), coherence, 6, CIRCULAR, is_slow=True),
    Stated("F3: coherence of the truth, pooled head, least and most", ("0.27", "0.74"),
           coherence_pooled, 6, CIRCULAR,
           is_slow=True, found=((0.592, 0.097), (0.956, 0.016)),
           because="batch, smoothness of the inputs and scale of the readout are not stated, and "
           "it rises with all three; the next row has a smaller readout"),
    Stated("F3: the same with outputs near zero", ("0.27", "0.74"), coherence_of_small_outputs, 6,
           f"{CIRCULAR}; readout weights a hundredth", is_slow=True, is_chosen=True),
    Stated("F4: share of the signal that is constant over positions, truth with a pooled head: "
           "bottom, top; DFA; white noise", ("0.19", "1.0", "0.015", "0.016"), constant_share, 6,
           f"{CIRCULAR}; entry", is_slow=True),
    Stated("F5: equivariance defect, pooled head: truth, DFA; flattened: truth, DFA",
           ("0.0000", "1.41", "1.41", "1.41"), defects, 6, f"{CIRCULAR}; shifts 1, 2, 4",
           is_slow=True),
    Stated("F6: reach of dense feedback and of feedback by channel, third convolution, pooled head",
           ("0.71", "0.69"), partial(tied, "pooled"), 6, f"{CIRCULAR}; entry, in sample",
           is_slow=True),
    Stated("F6: dense feedback, flattened head", ("0.55",),
           lambda seed: tied("flattened", seed)[:1], 6, f"{CIRCULAR}; entry, in sample",
           is_slow=True, found=((0.668, 0.045),),
           because="the setting is not stated in full; batch, smoothness of the inputs and scale "
           "of the readout hardly move it (.64 to .77)"),
    Stated("F6: feedback by channel, flattened head", ("0.015",),
           lambda seed: tied("flattened", seed)[1:], 6, "as above", is_slow=True),
)  # fmt: skip
