"""Results appear whole or not at all, and progress keeps out of the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignlab.errors import InputError
from alignlab_cli import progress as progress_module
from alignlab_cli.outputs import check_folder, write_text
from alignlab_cli.progress import Progress


class Clock:
    """Stands for the time."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


def test_a_text_replaces_what_is_there_and_leaves_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")
    write_text(page, "new Ä")
    assert page.read_text(encoding="utf-8") == "new Ä"
    assert list(tmp_path.iterdir()) == [page]


def test_a_text_that_cannot_be_encoded_leaves_what_is_there(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_text(page, "\udc00")
    assert page.read_text() == "old"
    assert list(tmp_path.iterdir()) == [page]


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    taken = tmp_path / "figs"
    taken.write_text("mine")
    with pytest.raises(InputError, match=r"cannot be made: File exists\. Choose another"):
        check_folder(taken)


def test_progress_in_a_log_waits_two_seconds_and_then_speaks_rarely(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(quiet=False) as progress:
        for second in range(15):
            clock.now = float(second)
            progress("layer", second, 15)
    assert capsys.readouterr().err == "layer 2/15 (2 s)\nlayer 12/15 (12 s)\n"


def test_quiet_progress_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(quiet=True) as progress:
        clock.now = 100.0
        progress("layer", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal_is_one_line_that_disappears(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with Progress(quiet=False) as progress:
        progress("layer", 1, 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "layer 1/2" in captured.err
    assert "\n" not in captured.err
    assert captured.err.endswith("\r\x1b[K") or "\x1b" not in captured.err
