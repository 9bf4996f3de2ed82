"""Recordings of analyses on disk: every file opens again, on every attempt."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from alignlab import recording as store
from alignlab.analyze import Analysis
from alignlab.rules import DFA
from tests.analyze.checkpoints import analyse, everything, written


def assert_returned(analysis: Analysis, path: Path) -> None:
    loaded = store.load(path)
    xr.testing.assert_identical(loaded, analysis.recording)
    assert list(loaded.data_vars) == list(analysis.recording.data_vars)
    for layer, tensors in store.load_tensors(path).items():
        xr.testing.assert_identical(tensors, analysis.tensors[layer])


def test_all_returns(tmp_path: Path) -> None:
    analysis = everything()
    assert next(iter(analysis.recording.variables)) == "loss"
    store.save(analysis.recording, tmp_path / "run.nc", tensors=analysis.tensors)
    assert_returned(analysis, tmp_path / "run.nc")


def test_an_analysis_returns_from_a_folder_as_it_was(tmp_path: Path) -> None:
    chosen = ["error-signal", "effective-rank", "reach", "validity"]
    analysis = analyse(written(tmp_path, DFA(seed=5)), diagnostics=chosen, save=["signals"])
    store.save(analysis.recording, tmp_path / "run.zarr", tensors=analysis.tensors)
    assert_returned(analysis, tmp_path / "run.zarr")
