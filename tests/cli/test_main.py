"""The command line: what it hands to the library, what it refuses, how errors look."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import click
import pytest
import xarray as xr
from click.testing import CliRunner, Result

from alignlab.errors import CheckpointError, MissingError
from alignlab.plugins import load
from alignlab_cli.main import COMMANDS, alignlab


def run(*words: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(alignlab, [str(word) for word in words], prog_name="alignlab")


def refusal(result: Result) -> str:
    """Return the one line of a refused command."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


class Recorder:
    """Stands for the library: remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.saved: dict[str, Any] = {}
        self.failure: Exception | None = None

    def analyze_checkpoint(self, path: str, **asked: Any) -> SimpleNamespace:
        self.asked = {"path": path, **asked}
        asked["progress"]("layer", 1, 2)
        if self.failure:
            raise self.failure
        return SimpleNamespace(recording=xr.Dataset(), tensors={"fc1": xr.Dataset()})

    def save(self, dataset: xr.Dataset, path: Path, **how: Any) -> Path:
        self.saved = {"path": path, **how}
        path.write_bytes(b"recording")
        return path


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Recorder:
    """Replace the measurement and the store, and work in an empty folder."""
    recorder = Recorder()
    analyze = ModuleType("alignlab.analyze")
    analyze.analyze_checkpoint = recorder.analyze_checkpoint  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "alignlab.analyze", analyze)
    monkeypatch.setattr("alignlab.recording.save", recorder.save, raising=False)
    monkeypatch.chdir(tmp_path)
    return recorder


ANALYZE = ("analyze", "checkpoint", "model.pt", "--model", "net.py:build", "--data", "digits", "-q")


def test_analyze_hands_every_option_to_the_library_under_its_own_name(library: Recorder) -> None:
    result = run(
        *ANALYZE,
        *("--model-arg", "width=64", "--model-arg", "activation=relu"),
        *("--rule", "dfa", "--rule", "fa(distribution=uniform)"),
        *("--mean", "0.1307", "--std", "0.3,0.31,0.32", "--split", "train", "--samples", "128"),
        *("--loss", "mse", "--mode", "train", "--device", "cpu", "--seed", "3", "--draws", "50"),
        *("--feedback", "fc1=B1", "--feedback", "fc2=B2", "--replay", "7", "--rename", "a.w=b.w"),
        *("--diagnostic", "gate", "--preset", "fast", "--save", "signals,feedback"),
        *("--since", "earlier.pt", "--layers", "fc1,fc3"),
        *("--earlier", "initial=first.pt", "--twin", "bp.pt"),
        *("--key", "net", "--plain-model", "net.py:plain", "--allow-unsafe-pickle", "--download"),
        *("-o", "run.nc"),
    )
    assert result.exit_code == 0, result.output
    assert callable(library.asked.pop("progress"))
    assert library.asked.pop("command").startswith("alignlab analyze checkpoint model.pt")
    assert library.asked == {
        "path": "model.pt",
        "since": "earlier.pt",
        "earlier": {"initial": "first.pt"},
        "twin": "bp.pt",
        "model": "net.py:build",
        "model_arguments": {"width": 64, "activation": "relu"},
        "data": "digits",
        "rules": ("dfa", "fa(distribution=uniform)"),
        "mean": (0.1307,),
        "std": (0.3, 0.31, 0.32),
        "split": "train",
        "samples": 128,
        "loss": "mse",
        "mode": "train",
        "device": "cpu",
        "seed": 3,
        "draws": 50,
        "feedback": {"fc1": "B1", "fc2": "B2"},
        "replay": 7,
        "rename": {"a.w": "b.w"},
        "layers": ("fc1", "fc3"),
        "diagnostics": ("gate",),
        "preset": "fast",
        "save": ("signals", "feedback"),
        "key": "net",
        "plain_model": "net.py:plain",
        "allow_unsafe_pickle": True,
        "download": True,
    }
    assert library.saved["path"] == Path("run.nc")
    assert library.saved["overwrite"] is False
    assert list(library.saved["tensors"]) == ["fc1"]
    assert result.stdout == "run.nc\n"


def test_without_output_the_recording_is_called_like_the_checkpoint(library: Recorder) -> None:
    result = run("analyze", "checkpoint", "runs/model.v2.pt", "-q")
    assert result.exit_code == 0, result.output
    assert library.saved["path"] == Path("model.v2.nc")


def test_the_recorded_command_names_files_and_not_folders(library: Recorder) -> None:
    run(
        *("analyze", "checkpoint", "/home/user/my runs/model.pt", "--model=../code/net.py:build"),
        *("--data", "npz:/home/user/x.npz", "--rule", "dfa(scale=0.1)", "-q"),
    )
    assert library.asked["command"] == (
        "alignlab analyze checkpoint model.pt --model=net.py:build --data npz:x.npz "
        "--rule 'dfa(scale=0.1)' -q"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-o", "run.txt"), "end its name with .nc"),
        (("-o", "taken.nc"), "exists; choose another name, or replace it with --force"),
        (("-o", "nowhere/run.nc"), "there is no folder nowhere"),
        (("--model-arg", "width"), "--model-arg takes NAME=VALUE; it was given 'width'"),
        (("--rename", "a=b", "--rename", "a=c"), "--rename names 'a' twice"),
        (("--mean", "zero"), "--mean takes a number"),
        (("--samples", "0"), "--samples"),
        (("--mode", "test"), "'eval', 'train'"),
        (("--colour", "red"), "See 'alignlab analyze checkpoint -h'"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line_before_the_work(
    library: Recorder, words: tuple[str, ...], said: str
) -> None:
    Path("taken.nc").write_bytes(b"mine")
    assert said in refusal(run(*ANALYZE, *words))
    assert library.asked == {}
    assert [path.name for path in Path().iterdir()] == ["taken.nc"]
    assert Path("taken.nc").read_bytes() == b"mine"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is a folder that takes no files")
def test_an_output_that_cannot_be_written_is_refused_before_the_work(library: Recorder) -> None:
    assert "Nothing can be written to /proc" in refusal(run(*ANALYZE, "-o", "/proc/run.nc"))
    assert library.asked == {}


def test_a_model_without_data_is_refused(library: Recorder) -> None:
    said = refusal(run("analyze", "checkpoint", "model.pt", "--model", "net.py:build"))
    assert "--model was given without --data" in said
    assert library.asked == {}


def test_force_replaces_what_is_there(library: Recorder) -> None:
    Path("model.nc").write_bytes(b"old")
    assert run(*ANALYZE, "--force").exit_code == 0
    assert library.saved["overwrite"] is True


@pytest.mark.parametrize("error", [CheckpointError, MissingError])
def test_what_the_library_refuses_is_one_line_and_exit_code_2(
    library: Recorder, error: type[Exception]
) -> None:
    library.failure = error("model.pt is a text file.\nGive a checkpoint.")
    assert refusal(run(*ANALYZE)) == "Error: model.pt is a text file. Give a checkpoint.\n"
    assert list(Path().iterdir()) == []


def test_what_was_not_foreseen_is_one_line_too_and_exit_code_1(library: Recorder) -> None:
    library.failure = ZeroDivisionError("division\nby zero")
    result = run(*ANALYZE)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ZeroDivisionError: division by zero")
    assert "alignlab --debug" in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(Path().iterdir()) == []


def test_debug_shows_the_traceback(library: Recorder) -> None:
    library.failure = ZeroDivisionError("division by zero")
    assert isinstance(run("--debug", *ANALYZE).exception, ZeroDivisionError)
    library.failure = CheckpointError("refused")
    assert isinstance(run("--debug", *ANALYZE).exception, CheckpointError)


def test_a_misspelt_command_is_answered_with_the_nearest_one() -> None:
    assert refusal(run("anlyze")) == "Error: There is no command 'anlyze'. Did you mean analyze?\n"


def test_a_misspelt_global_option_is_one_line_too() -> None:
    assert "See 'alignlab -h'" in refusal(run("--verbose"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_both_help_options(name: str) -> None:
    short, long = run(name, "-h"), run(name, "--help")
    assert short.exit_code == long.exit_code == 0
    assert short.stdout == long.stdout
    assert short.stdout.startswith(f"Usage: alignlab {name}")


def test_the_table_of_commands_says_what_the_commands_say() -> None:
    context = click.Context(alignlab)
    for name, (module, line) in COMMANDS.items():
        command = alignlab.get_command(context, name)
        assert command is not None, module
        assert line.endswith(".")
        assert command.help


def test_version_is_the_one_of_the_package() -> None:
    import alignlab as package

    assert run("--version").stdout == f"alignlab {package.__version__}\n"


def test_list_puts_the_name_in_the_first_column() -> None:
    rows = dict(line.split(maxsplit=1) for line in run("list", "rules").stdout.splitlines())
    assert {"bp", "brsf", "dfa", "fa", "frsf", "usf"} <= set(rows)
    assert rows["dfa"] == "Direct feedback alignment."
    assert json.loads(run("list", "rules", "--json").stdout) == rows


def test_list_of_diagnostics_shows_what_each_costs_and_its_presets() -> None:
    found = json.loads(run("list", "diagnostics", "--json").stdout)
    assert found["error-signal"]["cost"] == load("alignlab.diagnostics", "error-signal").cost
    assert {"core", "full"} <= set(found["error-signal"]["presets"])
    shown = run("list", "diagnostics").stdout.splitlines()
    assert [line.split()[0] for line in shown] == list(found)
    costs = {line.split()[0]: float(line.split()[1]) for line in shown}
    assert costs == pytest.approx({name: each["cost"] for name, each in found.items()}, rel=1e-3)


def test_list_of_an_unknown_kind_names_the_kinds() -> None:
    assert "'diagnostics'" in refusal(run("list", "rulez"))


def test_a_report_on_a_missing_recording_is_refused(tmp_path: Path) -> None:
    refusal(run("report", tmp_path / "missing.nc"))
    assert list(tmp_path.iterdir()) == []


def test_a_report_never_replaces_a_page_unasked(tmp_path: Path) -> None:
    page = tmp_path / "run.html"
    page.write_text("mine")
    assert "exists" in refusal(run("report", tmp_path / "run.nc"))
    assert page.read_text() == "mine"


def test_help_waits_for_no_package_that_takes_long_to_import() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "alignlab_cli", "--help"]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = [line for line in finished.stderr.splitlines() if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert {"alignlab_cli", "click"} <= imported
    assert not imported & {"torch", "numpy", "scipy", "xarray", "pandas", "matplotlib", "seaborn"}


def test_shell_completion_offers_the_rules() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "alignlab_cli"],
        env=os.environ
        | {
            "_ALIGNLAB_COMPLETE": "bash_complete",
            "COMP_WORDS": "alignlab analyze checkpoint model.pt --rule d",
            "COMP_CWORD": "5",
        },
        check=False,
        capture_output=True,
        text=True,
    )
    assert "plain,dfa" in finished.stdout.splitlines()


def test_nothing_is_said_where_nobody_reads_the_output() -> None:
    unread, pipe = os.pipe()
    os.close(unread)
    words = [sys.executable, "-m", "alignlab_cli", "list", "rules"]
    ended = subprocess.run(words, check=False, stdout=pipe, stderr=subprocess.PIPE)
    os.close(pipe)
    assert (ended.returncode, ended.stderr) == (141, b"")
