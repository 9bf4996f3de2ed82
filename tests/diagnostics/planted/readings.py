"""The panel: what is read off every recording, and how much of a change is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, log10

import xarray as xr

from tests.diagnostics.planted.network import SIGNAL, THEN, UPDATE

__all__ = ["PANEL", "Reading", "diagnostics"]

Read = Callable[[xr.Dataset], float]


@dataclass(frozen=True)
class Reading:
    """One number of a recording.

    Attributes:
        name: How it is called here.
        diagnostic: Which diagnostic records it.
        read: What takes it off a recording of one step.
        tolerance: Changes up to this size count as none.
        is_guard: Whether no fault of the collection may move it.
    """

    name: str
    diagnostic: str
    read: Read
    tolerance: float
    is_guard: bool = False


def number(variable: str, **where: str) -> Read:
    """Return what reads one number of a variable."""
    return lambda ds: float(ds[variable].sel(where).item())


def logarithm(variable: str, **where: str) -> Read:
    """Return what reads the decimal logarithm of a number."""
    return lambda ds: log10(number(variable, **where)(ds))


def mean(variable: str, **where: str) -> Read:
    """Return what reads the mean of a vector over where it is defined."""
    return lambda ds: float(ds[variable].sel(where).mean())


def is_text(variable: str, text: str) -> Read:
    """Return what reads 1 where a variable says just this and 0 elsewhere."""
    return lambda ds: float(ds[variable].item() == text)


def largest_step(ds: xr.Dataset) -> float:
    """Return the largest step along the update over that along the gradient; 0 if it ascends."""
    found = number("step_bound_largest_update", rule=UPDATE)(ds)
    return found / number("step_bound_largest_gradient")(ds) if isfinite(found) else 0.0


def norm_gain(ds: xr.Dataset) -> float:
    """Return what true norms of layers add to the loss decrease, over backpropagation's."""
    plain, normed = (number(f"oracle_{key}", rule=UPDATE)(ds) for key in ("none", "norm"))
    return (normed - plain) / number("loss_change_first_order_true")(ds)


def _signals() -> list[Reading]:
    at = {
        layer: {"rule": SIGNAL, "layer": layer, "site": "entry"}
        for layer in ("conv1", "conv2", "fc1")
    }
    cosines = [
        Reading(
            f"cosine of error signals, {layer}",
            *("error-signal", number("cosine_error_signal_flat", **at[layer]), 0.01),
        )
        for layer in at
    ]
    ratios = [
        Reading(
            f"norm ratio of error signals, {layer}, decades",
            *("error-signal", logarithm("norm_ratio_error_signal", **at[layer]), 0.045),
        )
        for layer in ("conv2", "fc1")
    ]
    return cosines + ratios


def _updates() -> list[Reading]:
    found = [
        Reading(
            f"cosine of weight gradients, {layer}",
            "weight-gradient",
            number("cosine_weight_gradient", rule=UPDATE, layer=layer),
            0.01,
        )
        for layer in ("conv1", "conv2", "fc1", "fc2")
    ]
    at = {"rule": UPDATE, "layer": "fc1"}
    ratio = logarithm("norm_ratio_weight_gradient", **at)
    share = {name: number(name, **at) for name in ("trained_share", "trained_bound")}
    signs = {
        name: number(f"sign_agreement_{name}", rule=UPDATE, layer="conv2")
        for name in ("weight_gradient_weighted", "excess")
    }
    return [
        *found,
        Reading("norm ratio of weight gradients, fc1, decades", "weight-gradient", ratio, 0.045),
        Reading("share trained, fc1", "bottleneck", share["trained_share"], 0.01),
        Reading("bound by what is trained, fc1", "bottleneck", share["trained_bound"], 0.01),
        Reading(
            "sign agreement by size, conv2",
            *("sign-agreement", signs["weight_gradient_weighted"], 0.008),
        ),
        Reading("sign agreement over its cosine's, conv2", "sign-agreement", signs["excess"], 0.07),
        Reading("step efficiency", "step-bound", number("step_efficiency", rule=UPDATE), 0.01),
        Reading("largest step over the gradient's", "step-bound", largest_step, 0.045),
        Reading("decrease that true norms add", "oracle-substitution", norm_gain, 0.01),
    ]


def _dimensions() -> list[Reading]:
    def ratio(what: str, **where: str) -> Read:
        return number(f"participation_ratio_{what}", **where)

    entry = {"layer": "conv2", "site": "entry"}
    return [
        Reading("numerical rank of the error", "effective-rank", number("error_rank"), 0.5),
        Reading("dimensions of the error", "effective-rank", ratio("error"), 0.3),
        Reading(
            "dimensions of the error about its mean", "effective-rank", ratio("centred_error"), 0.3
        ),
        Reading(
            "dimensions of the true signal, conv2",
            *("effective-rank", ratio("true_signal", **entry), 1.2),
        ),
        Reading(
            "dimensions of what fc2 reads", "effective-rank", ratio("activation", layer="fc2"), 0.5
        ),
        Reading("common mode of the error", "common-mode", number("common_mode_error"), 0.02),
        Reading(
            "common mode of the error, debiased",
            *("common-mode", number("common_mode_debiased_error"), 0.02),
        ),
        Reading(
            "common mode of the signal, fc1",
            "common-mode",
            number("common_mode_signal", rule=SIGNAL, layer="fc1", site="entry"),
            0.02,
        ),
    ]


def _limits() -> list[Reading]:
    at = {"rule": SIGNAL}
    bound, above = "width_bound", "width_limit_from_below"
    return [
        Reading("width bound, conv2", "bottleneck", number(bound, layer="conv2", **at), 0.01),
        Reading(
            *("width bound, fc1", "bottleneck", number(bound, layer="fc1", **at), 0.01),
            is_guard=True,
        ),
        Reading(
            "width limit from below, fc2", "bottleneck", number(above, layer="fc2", **at), 0.01
        ),
        Reading("closed gates, fc1", "gates", number("gate_closed", layer="fc1"), 0.02),
        Reading("size of gates, fc1", "gates", number("gate_size", layer="fc1"), 0.05),
        Reading(
            *("closed gates, fc2", "gates", number("gate_closed", layer="fc2"), 0.02),
            is_guard=True,
        ),
        Reading(
            "reach, conv2", "reach", number("reach_held_out", layer="conv2", site="entry"), 0.03
        ),
        Reading(
            "reach of feedback fitted before, conv2",
            "reach",
            number("reach_horizon", layer="conv2", site="entry", earlier=THEN),
            0.03,
        ),
        Reading(
            "cosine with the gradient of before, fc1",
            *("staleness", number("staleness_cosine", layer="fc1", earlier=THEN), 0.01),
        ),
    ]


def _positions() -> list[Reading]:
    own, entry = {"rule": SIGNAL, "layer": "conv1"}, {"layer": "conv1", "site": "entry"}
    found = [
        Reading(f"{text}, conv1", diagnostic, number(f"{variable}{end}", **at), tolerance)
        for variable, diagnostic, phrase, tolerance in (
            ("spatial_dc_fraction", "spatial-spectrum", "spatial mean of the {} signal", 0.02),
            ("coherence", "coherence", "coherence of the {} gradient", 0.03),
            (
                "equivariant_share",
                "equivariance-defect",
                "equivariant share of the {} signal",
                0.02,
            ),
        )
        for end, at, text in (
            ("", own, phrase.format("rule's")),
            ("_true", {"layer": "conv1"}, phrase.format("true")),
        )
    ]
    defect, tied = mean("equivariance_defect", **own), "reach_by_channel_held_out"
    return [
        *found,
        Reading(
            "equivariance defect of the rule's signal, conv1", "equivariance-defect", defect, 0.1
        ),
        Reading("reach by channel, conv1", "structured-reach", number(tied, **entry), 0.03),
        Reading(
            "reach of dense feedback, conv1",
            *("reach", number("reach_held_out", **entry), 0.03),
        ),
    ]


PANEL = (
    *_signals(),
    *_limits(),
    *_dimensions(),
    *_positions(),
    *_updates(),
    Reading(
        "measurement is valid",
        *("validity", is_text("measurement_status", "valid"), 0.5),
        is_guard=True,
    ),
)


def diagnostics() -> list[str]:
    """Return the diagnostics that the panel needs."""
    return sorted({reading.diagnostic for reading in PANEL} | {"loss-change"})
