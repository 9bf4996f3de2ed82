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
from alignlab.report._numbers import WIDEST, WIDTH, Numbers, numbers
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
    (table,) = [t for t in of(recording, "error-signal").tables if "cosine_error_signal" in t.heads]
    column = table.heads.index("cosine_error_signal")
    (row,) = [r for r in table.rows if r[:3] == ("dfa", "0", "entry")]
    at = {"rule": "dfa", "layer": "0", "site": "entry"}
    value = last["cosine_error_signal"].sel(at).item()
    low = last["cosine_error_signal_null_low"].sel(at).item()
    assert row[column].startswith(f"{value:.3g} (chance {low:.3f} to ")
    assert row[column].endswith(f"; {last['cosine_error_signal_status'].sel(at).item()})")


def test_reasons_are_given_once_with_their_layers_and_rules(recording: xr.Dataset) -> None:
    ((layers, rules, reason),) = of(recording, "error-signal").missing
    assert layers == "0, 3, 5"
    assert rules == "forward-gradient"
    assert "no error signals" in reason
    missing = of(recording, "unshared-gradient").missing
    ((rules, reason),) = [each[1:] for each in missing if "3" in each[0].split(", ")]
    assert rules == "dfa, forward-gradient"
    assert reason == "its weight acts at one position alone"


def test_tables_fit_beside_each_other_and_say_what_their_columns_are(
    recording: xr.Dataset,
) -> None:
    found = of(recording, "error-signal")
    assert "error signals" in found.about
    assert len(found.tables) > 2
    for table in found.tables:
        assert table.heads[0] == table.meanings[0] == "rule"
        assert all(table.meanings)
        widths = [min(max(map(len, column)), WIDEST) for column in zip(*table.rows, strict=True)]
        assert sum(widths) <= WIDTH


def test_a_diagnostic_that_is_not_installed_is_shown_all_the_same(recording: xr.Dataset) -> None:
    other = recording.copy()
    for array in other.data_vars.values():
        if array.attrs.get("diagnostic") == "reach":
            array.attrs["diagnostic"] = "of-a-plugin"
    found = of(other, "of-a-plugin")
    assert found.tables
    assert not found.about


def test_the_page_holds_the_section(recording: xr.Dataset) -> None:
    page = render(recording)
    assert 'id="numbers"' in page
    assert "reach_held_out" in page
