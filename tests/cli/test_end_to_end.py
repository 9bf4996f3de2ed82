"""From a checkpoint through every command to files that open."""

from __future__ import annotations

import csv
import hashlib
import json
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

import alignlab as package
from alignlab import analyze, examples
from alignlab_cli.main import alignlab

NET = """
from torch import nn

def build(width=12):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
"""

SMALL = ("--samples", "100", "--draws", "32", "--preset", "core")


def run(*words: str) -> Result:
    """Run a command that must succeed."""
    result = CliRunner().invoke(alignlab, list(words), prog_name="alignlab")
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a checkpoint and analyse it once."""
    folder = tmp_path_factory.mktemp("work")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    torch.save(model.state_dict(), folder / "model.pt")
    (folder / "net.py").write_text(NET)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = run(*ANALYZE, "-o", "run.nc", "--json")
    (folder / "answer.json").write_text(result.stdout)
    return folder


ANALYZE = (
    *("analyze", "checkpoint", "model.pt", "--model", "net.py:build", "--model-arg", "width=12"),
    *("--data", "digits", "--rule", "dfa", "--rule", "usf", *SMALL),
)


@pytest.fixture(autouse=True)
def _inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_the_recording_names_the_command_that_made_it() -> None:
    recording = package.load("run.nc")
    assert recording.attrs["command"].startswith(
        "alignlab analyze checkpoint model.pt --model net."
    )
    assert recording.attrs["checkpoint"] == "model.pt"


def test_json_holds_the_score_the_answer_and_every_alignment() -> None:
    answer = json.loads(Path("answer.json").read_text())
    recording = package.load("run.nc")
    assert answer["recording"] == "run.nc"
    assert answer["loss"] == pytest.approx(float(recording.loss[0]))
    assert answer["answer"]
    (row,) = [
        row
        for row in answer["alignments"]
        if row["quantity"] == "cosine_error_signal"
        and (row["rule"], row["layer"], row["site"]) == ("usf", "1", "preactivation")
    ]
    place = {"rule": "usf", "layer": "1", "site": "preactivation"}
    cell = recording.sel(place).isel(step=0)
    assert row["value"] == pytest.approx(float(cell.cosine_error_signal))
    assert row["p"] == pytest.approx(float(cell.cosine_error_signal_p))
    assert row["status"] == cell.cosine_error_signal_status.item()


def test_json_says_null_where_feedback_was_drawn_and_nothing_was_observed() -> None:
    rows = json.loads(Path("answer.json").read_text())["alignments"]
    drawn = [row for row in rows if row["rule"] == "dfa" and row["status"] == "null draw"]
    assert drawn
    assert {row["value"] for row in drawn} == {None}


def test_without_json_the_answer_comes_in_sentences_and_the_path_last() -> None:
    result = run(*ANALYZE, "-o", "again.zarr")
    lines = result.stdout.splitlines()
    assert lines[0] == "model.pt"
    assert lines[-1] == "again.zarr"
    assert any("accuracy" in line for line in lines)
    assert package.load("again.zarr").attrs["seed"] == package.load("run.nc").attrs["seed"]


def test_the_report_lies_beside_the_recording_and_needs_no_network() -> None:
    assert run("report", "run.nc").stdout == "run.html\n"
    page = Path("run.html").read_text(encoding="utf-8")
    assert "model.pt" in page
    assert 'src="http' not in page
    assert 'href="http' not in page


def test_figures_come_with_their_numbers_and_the_rest_with_a_reason() -> None:
    result = run("export", "figures", "run.nc", "-o", "figs", "--format", "svg", "--format", "png")
    written = [Path(line) for line in result.stdout.splitlines()]
    drawn = {path.stem for path in written if path.suffix == ".svg"}
    assert drawn
    for stem in drawn:
        ElementTree.parse(f"figs/{stem}.svg")
        assert Path(f"figs/{stem}.png").stat().st_size > 1000
        rows = list(csv.reader(Path(f"figs/{stem}.csv").read_text().splitlines()))
        assert len(rows) > 1
    assert "left out convolution-panel: " in result.stderr


def test_tables_are_files_that_stay_unless_forced() -> None:
    written = run("export", "tables", "run.nc", "-o", "tabs").stdout.splitlines()
    assert written
    assert all(Path(line).stat().st_size for line in written)
    again = CliRunner().invoke(alignlab, ["export", "tables", "run.nc", "-o", "tabs"])
    assert again.exit_code == 2
    assert run("export", "tables", "run.nc", "-o", "tabs", "--force").stdout.splitlines() == written


def test_a_checkpoint_alone_is_analysed_by_its_weights() -> None:
    run("analyze", "checkpoint", "model.pt", "-o", "weights.nc")
    assert package.load("weights.nc").attrs["recording_kind"] == "weights"


def test_inspect_prints_the_same_for_scripts() -> None:
    contents = json.loads(run("inspect", "model.pt", "--json").stdout)
    assert contents["sha256"] == hashlib.sha256(Path("model.pt").read_bytes()).hexdigest()
    assert contents["sha256"] in run("inspect", "model.pt").stdout


def test_the_demo_leaves_a_report_that_leads_to_every_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = examples.Example(
        file=folder / "model.pt",
        sha256="",
        model=f"{folder / 'net.py'}:build",
        model_arguments={"width": 12},
        data="digits",
        rule="bp",
        rule_spec="bp<&>",
        command="make it again",
    )
    monkeypatch.setattr(examples, "manifest", lambda: (example,))
    quick = partial(analyze.analyze_checkpoint, preset="core")
    monkeypatch.setattr(analyze, "analyze_checkpoint", quick)
    Path("shown").mkdir()
    Path("shown/model.nc").write_text("of an earlier demo")
    result = run("demo", "-o", "shown")
    assert result.stdout.splitlines()[-1] == str(folder / "shown" / "report.html")
    assert {path.name for path in Path("shown").iterdir()} == {
        *("report.html", "model.html", "model.nc"),
    }
    page = Path("shown/report.html").read_text(encoding="utf-8")
    assert 'href="model.html"' in page
    assert package.load("shown/model.nc").attrs["command"] == (
        "alignlab analyze checkpoint model.pt --model net.py:build --model-arg width=12 "
        "--data digits --rule dfa --rule usf --draws 100"
    )
