"""Reasons are read as they were written, whatever stands in the names of layers and rules."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from alignlab.recording.reasons import diagnostic_of, reasons_for, worded

RULES = ("dfa", "quantised(rule=dfa, bits=2)")


def recording(text: str, layer: str) -> xr.Dataset:
    return xr.Dataset(
        {"not_defined": (("diagnostic", "layer"), np.array([[text]], dtype=object))},
        {"diagnostic": ["reach"], "layer": [layer], "rule": list(RULES)},
    )


@pytest.mark.parametrize("layer", ["conv1", "body.0.conv@2", "a b"])
def test_reasons_come_back_with_their_rules(layer: str) -> None:
    given = [("", "it is wide"), ("dfa", "it waits; it sends nothing"), (RULES[1], "it is late")]
    text = "; ".join(worded(because, layer=layer, rule=rule) for rule, because in given)
    assert reasons_for(recording(text, layer), "reach", layer) == given


def test_nothing_is_made_up() -> None:
    assert reasons_for(recording("", "conv1"), "reach", "conv1") == []
    assert reasons_for(recording("", "conv1"), "coherence", "conv1") == []
    assert reasons_for(xr.Dataset(), "reach", "conv1") == []


def test_a_variable_that_was_measured_nowhere_is_found_by_its_name() -> None:
    ds = recording("", "conv1")
    assert diagnostic_of(ds, "reach_in_sample") == "reach"
    assert diagnostic_of(ds, "coherence") == ""
    ds["coherence"] = xr.DataArray(1.0, attrs={"diagnostic": "coherence"})
    assert diagnostic_of(ds, "coherence") == "coherence"
