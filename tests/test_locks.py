"""One process at a time works in a folder, and one that was killed holds nobody up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alignlab.errors import InputError
from alignlab.locks import Lock

ROOT = Path(__file__).parents[1]
HOLD = """
import sys, time
from pathlib import Path
from alignlab.locks import Lock
lock = Lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def test_a_second_one_is_told_who_is_at_work_until_the_first_was_killed(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            text = rf"in use by process {process.pid} on .+ since \d{{4}}-.+; wait until"
            with pytest.raises(InputError, match=text):
                Lock(tmp_path)
        finally:
            process.send_signal(signal.SIGKILL)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    with Lock(tmp_path), pytest.raises(InputError, match=f"process {os.getpid()} on"):
        Lock(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_folders_that_were_made_and_hold_nothing_are_taken_back(tmp_path: Path) -> None:
    with Lock(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with Lock(tmp_path / "a" / "b"):
        (tmp_path / "a" / "mine").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["mine"]


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file; name a folder"):
        Lock(tmp_path / "file")
    with pytest.raises(InputError, match="Nothing can be written to"):
        Lock(tmp_path / "file" / "within")
