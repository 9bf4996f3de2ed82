"""What can be said without the feedback that trained the model: ceilings, ranks, chance widths."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from alignlab.diagnosis._reading import convolutions, hidden_layers, number
from alignlab.diagnosis._wording import between, capitalised, decimal, extremes, listed, root

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import xarray as xr

__all__ = ["ceilings", "not_observed", "ranks", "reach", "spectra"]

MOST_LISTED = 4
"""With more layers than this, a sentence names only the lowest and the highest."""


def not_observed(ds: xr.Dataset, drawn: Sequence[str]) -> str:
    """Return that the feedback of these rules is not in the file."""
    draws = ds.attrs.get("draws", "several")
    return (
        f"The feedback of {listed(drawn)} is not in the file and was drawn {draws} times, so "
        "nothing is observed about its alignment."
    )


def reach(ds: xr.Dataset) -> list[str]:
    """Return the sentence on the best cosine that any fixed feedback could have."""

    def clause(layer: str) -> tuple[float, str]:
        high = root(number(ds, "reach_in_sample", layer=layer, site="entry"))
        low = root(number(ds, "reach_held_out", layer=layer, site="entry"))
        low_edge = "unknown" if math.isnan(low) else decimal(min(low, high))
        return high, f"{low_edge} (held out) and {decimal(high)} (in sample) at {layer}"

    return _sentence(
        "the best fixed feedback of the output error could reach a cosine between",
        _listed(hidden_layers(ds), clause),
    )


def ranks(ds: xr.Dataset) -> list[str]:
    """Return the sentence on the rank and the effective dimensions of the error and signals."""
    rank, dimension = number(ds, "error_rank"), number(ds, "participation_ratio_error")
    if math.isnan(rank):
        return []
    sentence = f"The error has rank {rank:.0f}"
    if not math.isnan(dimension):
        sentence += f" and {decimal(dimension)} effective dimensions"

    def clause(layer: str) -> tuple[float, str]:
        own = number(ds, "participation_ratio_true_signal", layer=layer, site="entry")
        chance = number(ds, "participation_ratio_true_signal_chance", layer=layer, site="entry")
        isotropic = "" if math.isnan(chance) else f" (isotropic {decimal(chance)})"
        return own, f"{layer} {decimal(own)}{isotropic}"

    signals = _listed(hidden_layers(ds), clause)
    return [f"{sentence}; those of the true signal are {signals}." if signals else f"{sentence}."]


def ceilings(ds: xr.Dataset, rule: str) -> list[str]:
    """Return the sentence on what a rule with drawn feedback could attain in convolutions.

    As in all sentences of this file, the numbers are properties of the model, the data and the
    distribution of the feedback; none is an alignment of one draw.
    """
    return _sentence(
        f"over the draws, the cosine that weights could attain under {rule} is at most",
        _listed(convolutions(ds), lambda layer: _attainable(ds, rule, layer)),
    )


def spectra(ds: xr.Dataset, rule: str) -> list[str]:
    """Return what the draws of one rule's feedback show of ranks, spectra and chance widths."""
    sentences = _sentence(
        f"the rank of {rule}'s signal is",
        _listed(hidden_layers(ds), lambda layer: _signal_rank(ds, rule, layer)),
    )
    sentences += _sentence(
        f"the smallest singular value of {rule}'s alignment matrices, over the largest, is",
        _listed(hidden_layers(ds), lambda layer: _spectrum(ds, rule, layer)),
    )
    sentences += _sentence(
        f"the coherence over positions under {rule} is",
        _listed(convolutions(ds), lambda layer: _coherence(ds, rule, layer)),
    )
    return sentences + _sentence(
        f"by chance alone the cosine of {rule} at the entry stays within",
        _listed(hidden_layers(ds), lambda layer: _null_width(ds, rule, layer)),
    )


def _attainable(ds: xr.Dataset, rule: str, layer: str) -> tuple[float, str]:
    where = {"rule": rule, "layer": layer, "site": "entry"}
    value = number(ds, "attainable_cosine", **where)
    low, high = (number(ds, f"attainable_cosine_{edge}", **where) for edge in ("low", "high"))
    band = "" if math.isnan(low) else f" ({between(low, high)})"
    return value, f"{decimal(value)}{band} at {layer}"


def _null_width(ds: xr.Dataset, rule: str, layer: str) -> tuple[float, str]:
    where = {"rule": rule, "layer": layer, "site": "entry"}
    low = number(ds, "cosine_error_signal_null_low", **where)
    high = number(ds, "cosine_error_signal_null_high", **where)
    return high, f"{between(low, high)} at {layer}"


def _signal_rank(ds: xr.Dataset, rule: str, layer: str) -> tuple[float, str]:
    rank = number(ds, "signal_rank", rule=rule, layer=layer)
    width = number(ds, "entry_width", layer=layer)
    return rank, f"{rank:.0f} at {layer} (width {width:.0f})"


def _spectrum(ds: xr.Dataset, rule: str, layer: str) -> tuple[float, str]:
    edges = []
    for edge in ("low", "high"):
        name = f"alignment_matrix_singular_value_{edge}"
        if name not in ds.variables:
            return math.nan, ""
        values = ds[name].sel(rule=rule, layer=layer).dropna("singular_value").values
        if not values.size:
            return math.nan, ""
        edges.append(float(values[-1]))
    return edges[0], f"{between(*edges)} at {layer}"


def _coherence(ds: xr.Dataset, rule: str, layer: str) -> tuple[float, str]:
    own = number(ds, "coherence", rule=rule, layer=layer)
    true = number(ds, "coherence_true", layer=layer)
    chance = number(ds, "coherence_chance", layer=layer)
    return own, (
        f"{decimal(own)} at {layer} (chance {decimal(chance)}, backpropagation {decimal(true)})"
    )


def _listed(layers: Sequence[str], clause: Callable[[str], tuple[float, str]]) -> str:
    """Return the clauses of the layers that have the number, or those of the extremes of many."""
    found = [pair for pair in map(clause, layers) if not math.isnan(pair[0])]
    return extremes(found, most=MOST_LISTED)


def _sentence(subject: str, clauses: str) -> list[str]:
    return [capitalised(f"{subject} {clauses}.")] if clauses else []
