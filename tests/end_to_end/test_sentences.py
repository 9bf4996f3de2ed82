"""Every number in an answer is in the recording, on real checkpoints."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import xarray as xr

from alignlab.analyze import analyze_checkpoint
from alignlab.diagnosis import CLOSING, answer
from alignlab.diagnostics._presets import PRESETS
from tests.end_to_end.sentences import confirmed

DATA = Path(__file__).parents[2] / "data"
ENTRIES = {entry["file"]: entry for entry in json.loads((DATA / "manifest.json").read_text())}
SPEAKING = sorted(
    {"loss-change"}.union(*(PRESETS[n] for n in ("core", "bottleneck", "convolution", "weights")))
)
"""Diagnostics that answers are made of; with all the others every sentence is the same."""


@pytest.fixture(scope="module", params=ENTRIES)
def recording(request: pytest.FixtureRequest) -> xr.Dataset:
    entry = ENTRIES[request.param]
    return analyze_checkpoint(
        DATA / entry["file"],
        model=entry["model"],
        model_arguments=entry["model_arguments"],
        data=entry["data"],
        rules=["dfa", "fa", "usf"],
        samples=256,
        draws=32,
        diagnostics=SPEAKING,
    ).recording.isel(step=0, drop=True)


def test_every_number_of_every_sentence_is_in_the_recording(recording: xr.Dataset) -> None:
    said = answer(recording)
    assert said.warnings == ()
    assert len(said.paragraph) > 5
    assert [confirmed(recording, each) for each in said.paragraph if each != CLOSING] == [""] * (
        len(said.paragraph) - (CLOSING in said.paragraph)
    )


def test_a_number_that_is_changed_is_noticed(recording: xr.Dataset) -> None:
    said = answer(recording).paragraph
    sentences = [each for each in said if re.search(r"cosine 0\.\d\d,", each)]
    assert sentences
    for sentence in sentences:
        wrong = re.sub(r"cosine 0\.(\d)", lambda m: f"cosine 0.{(int(m[1]) + 1) % 10}", sentence)
        with pytest.raises(AssertionError):
            confirmed(recording, wrong)


def test_what_is_said_depends_on_whether_the_file_holds_feedback(recording: xr.Dataset) -> None:
    said = answer(recording)
    stored = str(recording["feedback_origin"].sel(rule="dfa").item()) == "checkpoint"
    assert stored is ("dfa" in str(recording.attrs["checkpoint"]))
    assert (CLOSING in said.paragraph) is not stored
    assert {finding.rule for finding in said.findings} == ({"dfa", "usf"} if stored else {"usf"})
    convolutions = [str(name) for name in recording["layer"].values if "conv" in str(name)]
    assert [limit.layer for limit in said.limits] == (convolutions if stored else [])


def test_each_convolution_says_what_share_of_the_attainable_cosine_is_reached(
    recording: xr.Dataset,
) -> None:
    for limit in answer(recording).limits:
        share = recording["attainable_share"].sel(rule="dfa", layer=limit.layer, site="entry")
        assert limit.share == pytest.approx(share.item())
        assert -1.0 < limit.share < 1.5
