"""A killed process and a full disk fail what they hit, and lose nothing that was finished."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from alignlab.experiments import _results, _runs, catalogue, reproduce, reproduce_many
from alignlab.experiments._results import FILES
from tests.experiments.meadow import planted, sow

KILLED_ONCE = (
    "import os; mark = Path(work.folder.parents[6], 'killed'); "
    "mark.exists() or (mark.touch(), os.kill(os.getpid(), 9))"
)
SAID = "failed: a process of it was killed (out of memory?); the same command goes on"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(_runs, "GRACE", 0.0)
    with planted(tmp_path) as folder:
        yield folder


def left(output: Path, claim: str) -> dict[str, bytes]:
    """Return what the files of a claim hold."""
    folder = output / "grass2001" / claim / "fast"
    return {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}


def test_a_killed_process_fails_its_own_run_and_no_other(work: Path, tmp_path: Path) -> None:
    sow(work, "clover", identity="R1", runs=1, measure=KILLED_ONCE)
    sow(work, "daisy", identity="R2", runs=1)
    sow(work, "elder", identity="R3", runs=1)
    output = tmp_path / "out"
    reproduce("R2", output=output)
    finished = left(output, "daisy")
    outcomes = list(reproduce_many(catalogue(), output=output, jobs=2))
    assert [each.status for each in outcomes] == [SAID, "reproduced", "reproduced"]
    assert left(output, "daisy") == finished
    assert len(list((output / "grass2001" / "clover" / "fast" / "runs").glob("*.nc"))) == 1
    assert reproduce("R1", output=output).status == "reproduced"


def test_a_killed_process_leaves_the_results_of_an_earlier_call(work: Path, tmp_path: Path) -> None:
    sow(work, "clover", identity="R1", runs=1, measure=KILLED_ONCE)
    mark, output = tmp_path / "killed", tmp_path / "out"
    mark.touch()
    reproduce("R1", output=output)
    finished = left(output, "clover")
    mark.unlink()
    assert reproduce("R1", output=output, force=True, jobs=2).status == SAID
    assert left(output, "clover") == finished
    assert set(finished) == set(FILES)


def test_a_full_disk_is_one_line_and_loses_nothing(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    sow(work, "clover", identity="R1", runs=1)
    sow(work, "daisy", identity="R2", runs=1, measure='raise RuntimeError("dry")')
    output = tmp_path / "out"
    reproduce("R1", output=output)
    finished = left(output, "clover")
    with monkeypatch.context() as patch:
        patch.setattr(_results, "_write_text", refuse)
        outcomes = list(reproduce_many(catalogue(), output=output))
    folder = output / "grass2001" / "clover" / "fast"
    assert [each.status for each in outcomes] == [
        f"failed: nothing can be written to {folder}: No space left on device; "
        "make room there, and the same command goes on",
        "failed: RuntimeError: dry",
    ]
    assert left(output, "clover") == finished
    assert set(finished) == set(FILES)
    assert {path.name for path in folder.iterdir()} == {*FILES, "runs"}


def test_a_run_for_which_the_disk_has_no_room_is_not_written(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    sow(work, "clover", identity="R1", runs=1)
    monkeypatch.setattr(_runs, "reserve", refuse)
    output = tmp_path / "out"
    assert "No space left on device" in reproduce("R1", output=output).status
    assert left(output, "clover") == {}
