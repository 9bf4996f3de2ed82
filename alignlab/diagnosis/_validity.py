"""The first lines: loss, accuracy, and whether the measurement may be believed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from alignlab.diagnosis._reading import number, rules, text
from alignlab.diagnosis._wording import decimal

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["accuracy_warning", "invalid_reference", "performance", "reference", "warnings"]

CHANCE_LEVEL = 0.01
"""Accuracy counts as above chance where the binomial tail is below this."""


def performance(ds: xr.Dataset) -> list[str]:
    """Return the sentence on loss and accuracy on exactly the samples of the recording."""
    loss, accuracy = number(ds, "loss"), number(ds, "accuracy")
    if math.isnan(loss):
        return []
    samples, origin = ds.attrs.get("n_samples", "unknown"), ds.attrs.get("data", "the data")
    earlier = _earlier(ds)
    where = f"At the weights of {earlier}, on" if earlier else "On"
    sentence = (
        f"{where} these {samples} samples of {origin} the loss "
        f"({ds.attrs.get('loss', 'of the model')}) is {decimal(loss)}"
    )
    if math.isnan(accuracy):
        return [f"{sentence}."]
    chance = decimal(number(ds, "accuracy_chance"))
    return [f"{sentence} and the accuracy {accuracy:.3f} (chance {chance})."]


def accuracy_warning(ds: xr.Dataset) -> str:
    """Return the warning that accuracy is at chance, empty where it is above.

    The test is the upper tail of the binomial distribution with ``accuracy_chance``. At the weights
    where a displacement began nothing is wrong with it: they may be the initial ones.
    """
    if _earlier(ds):
        return ""
    accuracy, chance = number(ds, "accuracy"), number(ds, "accuracy_chance")
    samples = int(ds.attrs.get("n_samples", 0))
    if math.isnan(accuracy) or math.isnan(chance) or samples < 1:
        return ""
    p = binomial_tail(round(accuracy * samples), samples, chance=chance)
    if p <= CHANCE_LEVEL:
        return ""
    return (
        f"The accuracy {accuracy:.3f} on these {samples} samples is at chance ({decimal(chance)}, "
        f"binomial p {decimal(p)}): are inputs scaled as in training? No causes are ranked."
    )


def binomial_tail(successes: int, trials: int, *, chance: float) -> float:
    """Return the probability of at least so many successes.

    Args:
        successes: Number of successes, at most ``trials``.
        trials: Number of trials.
        chance: Probability of one success, in [0, 1].

    Returns:
        Dimensionless, in [0, 1].

    Example:
        >>> binomial_tail(1, 2, chance=0.5)
        0.75
    """
    if successes <= 0 or chance >= 1:
        return 1.0
    if chance <= 0:
        return 0.0
    terms = [
        math.lgamma(trials + 1)
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * math.log(chance)
        + (trials - k) * math.log1p(-chance)
        for k in range(successes, trials + 1)
    ]
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def invalid_reference(ds: xr.Dataset) -> str:
    """Return why nothing may be read off this recording, empty where it is valid."""
    status = text(ds, "measurement_status")
    if status in {"", "valid"}:
        return ""
    floor = _smallest(ds, "reference_floor_ratio")
    return (
        f"The measurement is not valid ({status}; smallest reference norm "
        f"{_smallest(ds, 'reference_norm'):.2g}, {floor:.2g} times its rounding floor), so nothing "
        "is reported about any rule."
    )


def reference(ds: xr.Dataset) -> list[str]:
    """Return the sentence on how the reference checked itself, or that it did not."""
    if rules(ds) and "reference_check" not in ds.variables:
        return ["No check of the reference gradient was recorded (diagnostic validity)."]
    error, check = number(ds, "reference_check_error"), text(ds, "reference_check")
    if math.isnan(error) or not check:
        return []
    sentence = (
        f"The reference {check} with a directional difference of the loss (relative error "
        f"{error:.1e}"
    )
    floor = _smallest(ds, "reference_floor_ratio")
    if math.isfinite(floor):
        sentence += f"; its weakest signal is {floor:.1e} times the rounding floor"
    return [f"{sentence})."] if check == "agrees" else []


def warnings(ds: xr.Dataset) -> list[str]:
    """Return what must be read before the findings, the most important first."""
    found = [accuracy_warning(ds), invalid_reference(ds)]
    check = text(ds, "reference_check")
    if check in {"undecided", "disagrees"}:
        error = number(ds, "reference_check_error")
        found.append(
            f"The reference's check of itself is {check!r} (relative error {error:.1e} against a "
            "directional difference of the loss)."
            if check == "undecided"
            else f"The reference disagrees with a directional difference of the loss (relative "
            f"error {error:.1e})."
        )
    found += [
        f"The feedback of {rule} was replayed from seed {ds.attrs.get('seed', 'unknown')} and "
        "nothing in the checkpoint proves it: with another seed the 1 observed feedback is not "
        "the one that trained this model."
        for rule in rules(ds)
        if text(ds, "feedback_origin", rule=rule) == "replayed, unverified"
    ]
    return [warning for warning in found if warning]


def _earlier(ds: xr.Dataset) -> str:
    """Return the name of the earlier checkpoint where all was measured, empty for the usual one."""
    place = ds.attrs.get("measured_at", "")
    return "" if place == ds.attrs.get("checkpoint") else str(place)


def _smallest(ds: xr.Dataset, name: str) -> float:
    """Return the smallest finite value of a variable, NaN where it has none."""
    values = np.asarray(ds[name].values, dtype=float) if name in ds.variables else np.empty(0)
    finite = values[np.isfinite(values)]
    return float(finite.min()) if finite.size else math.nan
