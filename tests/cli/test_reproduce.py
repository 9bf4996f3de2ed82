"""``alignlab reproduce``: what it lists, runs, prints and refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from alignlab.experiments import _kept
from alignlab.experiments._outcome import Outcome
from alignlab_cli import progress
from alignlab_cli.main import alignlab
from tests.experiments.meadow import PACKAGE, planted, sow


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_kept.examples, "folder", lambda: tmp_path)
    with planted(tmp_path) as folder:
        yield folder


def run(*words: str | Path) -> Result:
    """Run the command in this process."""
    arguments = ["reproduce", *map(str, words)]
    return CliRunner().invoke(alignlab, arguments, prog_name="alignlab")


def refusal(result: Result) -> str:
    """Return the one line of a refused command."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_the_list_says_what_the_kept_runs_came_to(work: Path, tmp_path: Path) -> None:
    sow(work, "clover", identity="R1")
    sow(work, "daisy", identity="R10")
    outcome = Outcome(
        identity="R1",
        key="grass2001:clover",
        statement="",
        provenance="recalled",
        source="",
        size="full",
        status="failed: ValueError: dry",
    )
    (tmp_path / "reproduced.json").write_text(
        _kept.kept_text({("grass2001:clover", "full"): outcome})
    )
    assert run("--list").stdout.splitlines() == [
        "R1   grass2001:clover  not run  failed   Leaves are green (R1).",
        "R10  grass2001:daisy   not run  not run  Leaves are green (R10).",
    ]
    rows = json.loads(run("--list", "R1", "--json").stdout)
    assert rows == [
        {
            "identity": "R1",
            "key": "grass2001:clover",
            "summary": "Leaves are green (R1).",
            "fast": "not run",
            "full": "failed: ValueError: dry",
        }
    ]


def test_a_claim_is_printed_with_its_checks_and_its_folder(work: Path) -> None:
    sow(work, "clover", identity="R1")
    result = run("grass2001:clover", "--jobs", "1")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[:3] == [
        "R1  grass2001:clover  fast",
        "  Leaves are green.",
        "  Statement: our derivation; nowhere.",
    ]
    assert lines[3].split() == [
        *("measured", "95%", "interval", "expected", "stated", "chance", "runs"),
    ]
    assert lines[4].split()[0] == "leaf"
    assert "[-1, 1]" in lines[4]
    assert lines[4].endswith("pass")
    assert "alignlab-reproduced/grass2001/clover/fast" in lines[5]
    assert lines[-1] == "1 of 1 claims that were run are reproduced."


def test_a_claim_that_is_not_reproduced_is_exit_code_1_and_named_at_the_end(work: Path) -> None:
    sow(work, "clover", identity="R1", passed=False)
    sow(work, "daisy", identity="R2")
    sow(work, "elder", identity="R3", measure='raise RuntimeError("dry")')
    result = run("--all", "--fast", "--jobs", "1")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-3:] == [
        "1 of 3 claims that were run are reproduced.",
        "  R1  grass2001:clover: not reproduced",
        "  R3  grass2001:elder: failed: RuntimeError: dry",
    ]
    assert "FAIL" in result.stdout


def test_json_and_quiet_print_what_a_script_reads(work: Path) -> None:
    sow(work, "clover", identity="R1")
    (outcome,) = json.loads(run("R1", "--json", "-o", "out", "--jobs", "1").stdout)
    assert outcome["status"] == "reproduced"
    assert outcome["checks"][0]["what"] == "leaf"
    quiet = run("R1", "grass2001", "-q", "-o", "out", "--jobs", "1")
    assert quiet.stdout == "out/grass2001/clover/fast\n"


def test_changed_sizes_are_printed_and_refused_where_there_are_none(work: Path) -> None:
    sow(work, "clover", identity="R1")
    lines = run("R1", "--set", "runs=1", "--set", "size=3", "--jobs", "1").stdout.splitlines()
    assert lines[0] == "R1  grass2001:clover  fast with runs=1"
    assert "alignlab-reproduced/grass2001/clover/fast_runs-1_" in lines[5]
    assert "--set takes NAME=VALUE; it was given 'runs'" in refusal(run("R1", "--set", "runs"))
    assert "--set names 'runs' twice" in refusal(run("R1", "--set", "runs=1", "--set", "runs=2"))
    assert "has no size 'seeds'; it has runs, size" in refusal(run("R1", "--set", "seeds=1"))


def test_an_interrupted_command_says_that_it_goes_on(work: Path) -> None:
    sow(work, "clover", identity="R1", measure="raise KeyboardInterrupt")
    result = run("R1", "--jobs", "1")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "Interrupted. The same command goes on."
    assert "Traceback" not in result.output


def test_what_cannot_be_run_is_refused_in_one_line(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALIGNLAB_DATA", raising=False)
    sow(work, "clover", identity="R1", full='{"runs": 1, "size": 2}', full_data=("mnist",))
    sow(work, "daisy", identity="R2")
    assert "the variable ALIGNLAB_DATA names, and it is not set" in refusal(run("R1", "--full"))
    assert "has no full setting" in refusal(run("R2", "--full"))
    assert "Did you mean grass2001:clover" in refusal(run("grass2001:clver"))
    assert "ask for --all" in refusal(run())
    assert "leave out 'R1'" in refusal(run("R1", "--all"))
    assert "--device 'abacus'" in refusal(run("R1", "--device", "abacus"))


def test_where_nothing_could_be_run_the_exit_code_is_1(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALIGNLAB_DATA", raising=False)
    sow(work, "clover", identity="R1", full='{"runs": 1, "size": 2}', full_data=("mnist",))
    sow(work, "daisy", identity="R2")
    result = run("grass2001", "--full")
    assert result.exit_code == 1
    assert "0 of 0 claims that were run are reproduced." in result.stdout
    assert "  R1  grass2001:clover: not run: mnist is read from" in result.stdout
    assert "grass2001:clover needs mnist with --full, and none with --fast." in result.stdout
    assert "Statement:" not in result.stdout
    silent = run("grass2001", "--full", "-q")
    assert not silent.stdout
    assert "R1  grass2001:clover: not run: mnist is read from" in silent.stderr


def test_a_quiet_command_says_on_stderr_why_a_claim_failed(work: Path) -> None:
    sow(work, "clover", identity="R1", measure='raise RuntimeError("dry")')
    result = run("R1", "-q", "-o", "out", "--jobs", "1")
    assert result.exit_code == 1
    assert result.stdout == "out/grass2001/clover/fast\n"
    assert result.stderr.splitlines()[0] == "R1  grass2001:clover: failed: RuntimeError: dry"


def test_the_bar_is_gone_before_a_claim_is_printed(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = SimpleNamespace(stderr=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(progress, "sys", terminal)
    sow(work, "clover", identity="R1")
    said = run("R1", "--jobs", "1").output
    assert "] grass2001:clover 0/4" in said
    assert "\rR1  grass2001:clover  fast\n" in said


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_pipe_stops_no_claim(work: Path, tmp_path: Path, closed: str) -> None:
    slow = "[work.progress('growing', i, 9) or time.sleep(0.1) for i in range(9)]"
    sow(work, "clover", identity="R1", runs=1, measure=slow)
    sow(work, "daisy", identity="R2", runs=1, measure=slow)
    code = (
        "from alignlab.experiments import _catalogue\n"
        "from alignlab_cli import main, progress\n"
        "if __name__ == '__main__':\n"
        f"    _catalogue.PACKAGE, progress.QUIET_SECONDS = {PACKAGE!r}, 0.0\n"
        "    main.main()\n"
    )
    (tmp_path / "go.py").write_text(code)
    unread, pipe = os.pipe()
    os.close(unread)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, closed: pipe}
    words = [sys.executable, tmp_path / "go.py", "reproduce", "--all", "--jobs", "1", "-o", "out"]
    ended = subprocess.run(words, check=False, text=True, **pipes)  # type: ignore[call-overload]
    os.close(pipe)
    assert ended.returncode == (141 if closed == "stdout" else 0)
    assert "Error" not in (ended.stderr or "")
    for claim in ("clover", "daisy"):
        outcome = json.loads(Path("out/grass2001", claim, "fast/outcome.json").read_text())
        assert outcome["status"] == "reproduced"
