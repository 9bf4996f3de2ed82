"""The section of all numbers says what the recording holds, and why the rest is missing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.nn import functional

from alignlab.probe import Probe
from alignlab.recording.schema import COMPANIONS
from alignlab.report._numbers import Numbers, numbers
from alignlab.report.page import render
from alignlab.rules import DFA, ForwardGradient


@pytest.fixture(scope="module")
def recording() -> xr.Dataset:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(2, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(24, 5), nn.Tanh(),
        nn.Linear(5, 3),
    )  # fmt: skip
    rules = [DFA(seed=0), ForwardGradient(seed=0)]
    chosen = ["error-signal", "spatial-spectrum", "unshared-gradient", "reach"]
    loss = functional.cross_entropy
    with Probe(model, loss, rules=rules, diagnostics=chosen, draws=40) as probe:
        return probe.measure(torch.randn(60, 2, 8), torch.arange(60) % 3)


def of(recording: xr.Dataset, diagnostic: str) -> Numbers:
    (found,) = (each for each in numbers(recording.isel(step=0)) if each.diagnostic == diagnostic)
    return found


def test_every_observed_number_is_in_its_diagnostics_table(recording: xr.Dataset) -> None:
    last = recording.isel(step=0)[
        [name for name, array in recording.data_vars.items() if "diagnostic" in array.attrs]
    ]
    for diagnostic in ("error-signal", "reach"):
        shown = {head for table in of(recording, diagnostic).tables for head in table.heads}
        own = [str(n) for n, a in last.data_vars.items() if a.attrs["diagnostic"] == diagnostic]
        companions = {f"{name}_{end}" for name in own for end in COMPANIONS}
        known = {name for name in own if name not in companions and _has_value(last[name])}
        assert known
        assert known <= shown


def _has_value(array: xr.DataArray) -> bool:
    return array.dtype != object and bool(np.isfinite(array.values.astype(float)).any())


def test_a_cell_holds_value_band_and_status(recording: xr.Dataset) -> None:
    last = recording.isel(step=0)
    (table,) = [t for t in of(recording, "error-signal").tables if "site" in t.heads]
    column = table.heads.index("cosine_error_signal")
    (row,) = [r for r in table.rows if r[:3] == ("dfa", "0", "entry")]
    at = {"rule": "dfa", "layer": "0", "site": "entry"}
    value = last["cosine_error_signal"].sel(at).item()
    low = last["cosine_error_signal_null_low"].sel(at).item()
    assert row[column].startswith(f"{value:.3g} (chance {low:.3f} to ")
    assert row[column].endswith(f"; {last['cosine_error_signal_status'].sel(at).item()})")


def test_reasons_are_given_once_with_their_layers(recording: xr.Dataset) -> None:
    missing = dict(of(recording, "error-signal").missing)
    (reason,) = set(missing.values())
    assert list(missing) == ["0, 3, 5"]
    assert "forward-gradient" in reason
    assert "no error signals" in reason
    missing = dict(of(recording, "unshared-gradient").missing)
    (reason,) = (why for layers, why in missing.items() if "3" in layers.split(", "))
    assert "its weight acts at one position alone" in reason
    assert "exact" not in reason


def test_the_page_holds_the_section(recording: xr.Dataset) -> None:
    page = render(recording)
    assert 'id="numbers"' in page
    assert "reach_held_out" in page
