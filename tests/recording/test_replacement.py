from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr

from alignlab.errors import InputError, MissingError, RecordingError
from alignlab.recording import check, load, replacement, save, store
from tests.recording.synthetic import make_small_recording

FORMATS = (".nc", ".zarr")

# Dies at a chosen moment while it replaces the recording of seed 0 by that of seed 1.
DYING = """
import os, signal, sys
from pathlib import Path
from alignlab.recording import replacement, save, store
from tests.recording.synthetic import make_small_recording

path, moment = Path(sys.argv[1]), sys.argv[2]
recording = make_small_recording(1)

def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

if moment == "half written":
    write = store._write_netcdf if path.suffix == ".nc" else store._write_zarr
    def half(ds, draft, group):
        write(ds[list(ds.data_vars)[:5]], draft, group)
        die()
    store._write_netcdf = store._write_zarr = half
elif moment == "written":
    replacement._flush = die
elif moment == "moving":
    replace = Path.replace
    Path.replace = lambda self, target: die() if Path(target) == path else replace(self, target)
save(recording, path, overwrite=True)
"""


def kill_while_replacing(path: Path, moment: str) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", DYING, str(path), moment],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("moment", ["half written", "written"])
def test_a_kill_leaves_the_old_recording_readable(tmp_path: Path, suffix: str, moment: str) -> None:
    path = save(make_small_recording(0), tmp_path / f"run{suffix}")
    kill_while_replacing(path, moment)
    assert load(path).identical(make_small_recording(0))
    save(make_small_recording(2), path, overwrite=True)
    assert load(path).identical(make_small_recording(2))


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = save(make_small_recording(0), tmp_path / "run.nc")
    kill_while_replacing(path, "moving")
    assert load(path).identical(make_small_recording(0))


def test_a_kill_between_the_two_steps_of_a_folder_says_where_the_old_one_is(
    tmp_path: Path,
) -> None:
    path = save(make_small_recording(0), tmp_path / "run.zarr")
    kill_while_replacing(path, "moving")
    with pytest.raises(MissingError, match=r"interrupted; rename .*previous to it") as refusal:
        load(path)
    Path(str(refusal.value).split("rename ")[1].split(" to it")[0]).rename(path)
    assert load(path).identical(make_small_recording(0))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing_behind(
    tmp_path: Path, suffix: str, failure: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(make_small_recording(0), tmp_path / f"run{suffix}")
    write = store._write_netcdf if suffix == ".nc" else store._write_zarr

    def half(ds: xr.Dataset, draft: Path, group: str | None) -> None:
        write(ds[list(ds.data_vars)[:5]], draft, group)
        raise failure

    monkeypatch.setattr(store, write.__name__, half)
    expected = RecordingError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        save(make_small_recording(1), path, overwrite=True)
    with pytest.raises(expected):
        save(make_small_recording(1), tmp_path / f"new{suffix}")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert load(path).identical(make_small_recording(0))


def test_a_folder_that_cannot_be_moved_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(make_small_recording(0), tmp_path / "run.zarr")

    replace = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if target == path:
            raise PermissionError(13, "Permission denied", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(InputError, match="Permission denied; nothing was changed"):
        save(make_small_recording(1), path, overwrite=True)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert load(path).identical(make_small_recording(0))


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from alignlab.recording import save;"
        "from alignlab.errors import RecordingError;"
        "from tests.recording.synthetic import make_small_recording;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "ds = make_small_recording();"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try: save(ds, sys.argv[1])\n"
        "except RecordingError as error: print(error)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run.nc")],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "could not be written" in done.stdout, done.stderr
    assert "nothing was changed" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_exists_is_replaced_only_when_told(tmp_path: Path, suffix: str) -> None:
    path = save(make_small_recording(0), tmp_path / f"run{suffix}")
    with pytest.raises(InputError, match=r"exists.*--force"):
        save(make_small_recording(1), path)
    with pytest.raises(InputError, match=r"exists.*--force"):
        check(path)
    check(path, overwrite=True)
    save(make_small_recording(1), path, overwrite=True)
    assert load(path).identical(make_small_recording(1))


def test_an_output_that_cannot_be_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"end its name with \.nc .* or \.zarr"):
        check(tmp_path / "run.csv")
    with pytest.raises(InputError, match="there is no folder"):
        check(tmp_path / "missing" / "run.nc")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="there is no folder"):
        check(tmp_path / "file" / "run.nc")
    check(tmp_path / "run.nc")
    check(str(tmp_path / "run.zarr"))
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_is_not_writable_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="not writable"):
        check(tmp_path / "run.nc")
    monkeypatch.undo()

    def refuse(**_: object) -> str:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(replacement.tempfile, "mkdtemp", refuse)
    with pytest.raises(InputError, match="Read-only file system"):
        save(make_small_recording(), tmp_path / "run.nc")


def test_what_is_no_recording_is_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "photos.zarr"
    folder.mkdir()
    (folder / "one.png").write_bytes(b"mine")
    with pytest.raises(InputError, match="not replaced"):
        save(make_small_recording(), folder, overwrite=True)
    assert (folder / "one.png").read_bytes() == b"mine"
    (tmp_path / "folder.nc").mkdir()
    with pytest.raises(InputError, match="not replaced"):
        check(tmp_path / "folder.nc", overwrite=True)
    (tmp_path / "text.zarr").write_text("mine")
    with pytest.raises(InputError, match="not replaced"):
        check(tmp_path / "text.zarr", overwrite=True)


def test_a_link_keeps_leading_to_the_recording(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    save(make_small_recording(0), scratch / "run.nc")
    link = tmp_path / "run.nc"
    link.symlink_to(scratch / "run.nc")
    save(make_small_recording(1), link, overwrite=True)
    assert link.is_symlink()
    assert load(scratch / "run.nc").identical(make_small_recording(1))


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_invalid_recording_is_not_written(tmp_path: Path, suffix: str) -> None:
    ds = make_small_recording()
    with pytest.raises(RecordingError, match="breaks its schema"):
        save(ds.drop_vars("cosine_weight_gradient_p"), tmp_path / f"run{suffix}")
    with pytest.raises(RecordingError, match="NUL"):
        save(ds.assign_attrs(command="a\0b"), tmp_path / f"run{suffix}")
    with pytest.raises(RecordingError, match="broken characters"):
        save(ds.assign_attrs(command="\udc80"), tmp_path / f"run{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_new_file_has_the_rights_that_the_user_asks_for(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "plain").touch()
    path = save(make_small_recording(), tmp_path / f"run{suffix}")
    rights = path.stat().st_mode & 0o666
    assert rights == (tmp_path / "plain").stat().st_mode & 0o666
