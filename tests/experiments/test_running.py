"""Claims are run case by case, go on after a kill, and end with the same bits."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from alignlab.errors import InputError, MissingError
from alignlab.experiments import catalogue, reproduce, reproduce_many
from alignlab.experiments._outcome import Outcome
from alignlab.experiments._results import FILES
from alignlab.locks import Lock
from tests.experiments.meadow import PACKAGE, planted, sow

FAST = Path("grass2001", "clover", "fast")
COUNTED = "with Path(work.folder.parents[6], 'calls').open('a') as file: file.write(f'{case}\\n')"


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    with planted(tmp_path) as folder:
        yield folder


def numbers(output: Path) -> xr.Dataset:
    """Return the results of the claim, the file closed."""
    with xr.open_dataset(output / FAST / "results.nc", engine="netcdf4") as ds:
        return ds.load()


def said(output: Path) -> dict[str, Any]:
    """Return the outcome of the claim but for times."""
    contents = json.loads((output / FAST / "outcome.json").read_text())
    return {name: value for name, value in contents.items() if name not in {"seconds", "date"}}


def calls(tmp_path: Path) -> list[str]:
    """Return which cases were measured."""
    file = tmp_path / "calls"
    return file.read_text().splitlines() if file.exists() else []


def test_a_claim_leaves_numbers_figure_table_caption_and_outcome(
    work: Path, tmp_path: Path
) -> None:
    sow(work, "clover", identity="R1")
    outcome = reproduce("R1", output=tmp_path / "out")
    folder = tmp_path / "out" / FAST
    assert {path.name for path in folder.iterdir()} == {*FILES, "runs"}
    results = numbers(tmp_path / "out")
    assert list(results["rule"].values) == ["bp", "bp", "dfa", "dfa"]
    assert list(results["seed"].values) == [0, 1, 0, 1]
    assert results["leaf"].dims == ("run", "layer")
    assert outcome.status == "reproduced"
    assert outcome.is_reproduced
    assert said(tmp_path / "out")["checks"][0]["high"] == 1.0
    assert (
        "leaf,0." in (folder / "numbers.csv").read_text()
        or "leaf,-" in (folder / "numbers.csv").read_text()
    )
    assert "Leaves are green." in (folder / "caption.txt").read_text()
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_the_caller_s_random_state_and_threads_stay(work: Path, tmp_path: Path) -> None:
    import torch

    sow(work, "clover", identity="R1")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    reproduce("R1", output=tmp_path / "out")
    assert torch.rand(1) == expected
    assert torch.get_num_threads() == threads


def test_what_is_there_is_not_run_again_unless_forced(work: Path, tmp_path: Path) -> None:
    sow(work, "clover", identity="R1", measure=COUNTED)
    first = reproduce("R1", output=tmp_path / "out")
    assert len(calls(tmp_path)) == 4
    second = reproduce("R1", output=tmp_path / "out")
    assert len(calls(tmp_path)) == 4
    assert second.checks == first.checks
    assert second.seconds == first.seconds
    reproduce("R1", output=tmp_path / "out", force=True)
    assert len(calls(tmp_path)) == 8


def test_another_code_or_setting_is_run_again(work: Path, tmp_path: Path) -> None:
    sow(work, "clover", identity="R1", measure=COUNTED)
    reproduce("R1", output=tmp_path / "out")
    (work / "_shared.py").write_text("SCALE = 3.0\n")
    reproduce("R1", output=tmp_path / "out")
    assert len(calls(tmp_path)) == 8


def test_a_damaged_run_is_run_again(work: Path, tmp_path: Path) -> None:
    sow(work, "clover", identity="R1")
    reproduce("R1", output=tmp_path / "out")
    before = numbers(tmp_path / "out")
    victim = next((tmp_path / "out" / FAST / "runs").glob("*.nc"))
    victim.write_bytes(victim.read_bytes()[:100])
    reproduce("R1", output=tmp_path / "out")
    assert numbers(tmp_path / "out").identical(before)


def test_a_claim_in_whose_folder_another_process_works_is_refused_and_stops_no_other(
    work: Path, tmp_path: Path
) -> None:
    sow(work, "clover", identity="R1", runs=1)
    sow(work, "daisy", identity="R2", runs=1)
    output = tmp_path / "out"
    with Lock(output / FAST):
        with pytest.raises(InputError, match=r"clover/fast is in use by process \d+ on "):
            reproduce("R1", output=output, force=True)
        outcomes = list(reproduce_many(catalogue(), output=output))
        assert [path.name for path in (output / FAST).iterdir()] == [".lock"]
    assert outcomes[0].status.startswith("not run: ")
    assert "in use by process" in outcomes[0].status
    assert outcomes[1].status == "reproduced"
    assert reproduce("R1", output=output).status == "reproduced"


def test_two_processes_give_the_bits_of_one(work: Path, tmp_path: Path) -> None:
    sow(work, "clover", identity="R1")
    reproduce("R1", output=tmp_path / "one")
    reproduce("R1", output=tmp_path / "two", jobs=2)
    assert numbers(tmp_path / "one").identical(numbers(tmp_path / "two"))
    assert said(tmp_path / "one") == said(tmp_path / "two")


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_one_goes_on_and_ends_with_the_bits_of_an_unbroken_one(
    work: Path, tmp_path: Path, jobs: int
) -> None:
    sow(work, "clover", identity="R1", runs=3, measure=f"{COUNTED}; time.sleep(0.4)")
    output = tmp_path / "cut"
    code = (
        "from pathlib import Path\n"
        "from alignlab.experiments import _catalogue, reproduce\n"
        "if __name__ == '__main__':\n"
        f"    _catalogue.PACKAGE = {PACKAGE!r}\n"
        f"    reproduce('R1', output=Path({str(output)!r}), jobs={jobs})\n"
    )
    (tmp_path / "go.py").write_text(code)
    process = subprocess.Popen([sys.executable, tmp_path / "go.py"])
    runs = output / FAST / "runs"
    deadline = time.monotonic() + 60
    while len(list(runs.glob("*.nc"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    time.sleep(1.0)
    kept = {path.name: path.stat().st_mtime_ns for path in runs.glob("*.nc")}
    measured = len(calls(tmp_path))
    assert 2 <= len(kept) < 6
    assert measured < 6
    assert not (output / FAST / "outcome.json").exists()
    reproduce("R1", output=output)
    assert all((runs / name).stat().st_mtime_ns == stamp for name, stamp in kept.items())
    assert len(calls(tmp_path)) == measured + 6 - len(kept)
    (tmp_path / "calls").unlink()
    reproduce("R1", output=tmp_path / "whole")
    assert numbers(output).identical(numbers(tmp_path / "whole"))
    assert said(output) == said(tmp_path / "whole")


@pytest.mark.skipif(sys.platform == "win32", reason="an interrupt cannot be held there")
def test_an_interrupt_while_processes_import_ends_them_without_a_word(
    work: Path, tmp_path: Path
) -> None:
    sow(work, "clover", identity="R1", runs=3)
    code = (
        "import os, signal, time\n"
        "from pathlib import Path\n"
        "here = Path(__file__).parent\n"
        "if __name__ == '__mp_main__':\n"
        "    (here / f'importing-{os.getpid()}').touch()\n"
        "    time.sleep(2)\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)  # else ignored under nohup\n"
        "    from alignlab.experiments import _catalogue, reproduce\n"
        f"    _catalogue.PACKAGE = {PACKAGE!r}\n"
        "    try:\n"
        "        reproduce('R1', output=here / 'out', jobs=2)\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted')\n"
    )
    (tmp_path / "go.py").write_text(code)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "go.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("importing-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "interrupted\n"
    assert not list((tmp_path / "out").rglob("*.nc"))


def test_a_run_that_fails_is_one_line_and_stops_no_other(work: Path, tmp_path: Path) -> None:
    failing = 'raise RuntimeError("the soil\\nis dry")'
    sow(work, "clover", identity="R1", measure=failing)
    sow(work, "daisy", identity="R2", draw=failing)
    sow(work, "elder", identity="R3", passed=False)
    sow(work, "fern", identity="R4")
    outcomes = list(reproduce_many(catalogue(), output=tmp_path / "out"))
    assert [outcome.status for outcome in outcomes] == [
        "failed: RuntimeError: the soil is dry",
        "failed: RuntimeError: the soil is dry",
        "not reproduced",
        "reproduced",
    ]
    assert outcomes[1].checks
    assert said(tmp_path / "out")["status"] == "failed: RuntimeError: the soil is dry"
    assert not (tmp_path / "out" / FAST / "figure.png").exists()


def test_a_failure_in_a_process_of_its_own_is_told_alike(work: Path, tmp_path: Path) -> None:
    sow(work, "clover", identity="R1", measure='raise RuntimeError("dry")')
    sow(work, "daisy", identity="R2", runs=1)
    outcomes = list(reproduce_many(catalogue(), output=tmp_path / "out", jobs=2))
    assert [each.status for each in outcomes] == ["failed: RuntimeError: dry", "reproduced"]


def test_full_sizes_without_their_data_are_refused(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALIGNLAB_DATA", raising=False)
    sow(work, "clover", identity="R1", full='{"runs": 1, "size": 2}', full_data=("mnist",))
    sow(work, "daisy", identity="R2")
    with pytest.raises(MissingError, match="ALIGNLAB_DATA"):
        reproduce("R1", full=True, output=tmp_path / "out")
    with pytest.raises(InputError, match="has no full setting"):
        reproduce("R2", full=True, output=tmp_path / "out")
    outcomes = list(reproduce_many(catalogue(), full=True, output=tmp_path / "out"))
    assert [outcome.was_run for outcome in outcomes] == [False, False]
    assert "ALIGNLAB_DATA" in outcomes[0].status
    assert not (tmp_path / "out").exists()


def test_a_part_of_a_data_set_is_told_and_is_not_taken_for_more_of_it(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALIGNLAB_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "cifar10").mkdir(parents=True)
    sizes = '{"runs": 1, "size": 2}'
    sow(work, "clover", identity="R1", full=sizes, full_data=("cifar10",), measure=COUNTED)

    def run(samples: int) -> Outcome:
        held = {
            "x_train": np.zeros((samples, 32, 32, 3), np.uint8),
            "y_train": np.arange(samples) % 10,
            "x_test": np.zeros((20, 32, 32, 3), np.uint8),
            "y_test": np.arange(20) % 10,
        }
        np.savez(tmp_path / "data" / "cifar10" / "cifar10_subset.npz", **held)
        return reproduce("R1", full=True, output=tmp_path / "out")

    outcome, folder = run(40), tmp_path / "out" / "grass2001" / "clover" / "full"
    parts = "cifar10[subset train n=40] and cifar10[subset test n=20]"
    assert (outcome.status, outcome.sizes) == ("reproduced", f"full on {parts}")
    assert f"Setting (full on {parts})" in (folder / "caption.txt").read_text()
    assert (run(40), len(calls(tmp_path))) == (outcome, 2)
    assert run(30).data[0] == "cifar10[subset train n=30]"
    assert len(calls(tmp_path)) == 4


def test_a_caption_names_the_sizes_of_the_run(work: Path, tmp_path: Path) -> None:
    sow(work, "clover", identity="R1", runs=2, full='{"runs": 1, "size": 2}')
    for full, text in ((False, "Leaves, 2 runs."), (True, "Leaves, 1 runs.")):
        reproduce("R1", full=full, output=tmp_path / "out")
        folder = tmp_path / "out" / "grass2001" / "clover" / ("full" if full else "fast")
        assert text in (folder / "caption.txt").read_text().splitlines()


def test_full_sizes_lie_beside_the_fast_ones(work: Path, tmp_path: Path) -> None:
    sow(work, "clover", identity="R1", full='{"runs": 1, "size": 2}')
    for full in (False, True):
        outcome = reproduce("R1", full=full, output=tmp_path / "out")
    assert outcome.size == "full"
    assert outcome.setting == {"runs": 1, "size": 2}
    assert sorted(path.name for path in (tmp_path / "out" / FAST).parent.iterdir()) == [
        "fast",
        "full",
    ]


def test_changed_sizes_are_told_and_lie_beside_the_claims_own(work: Path, tmp_path: Path) -> None:
    sow(work, "clover", identity="R1")
    out = tmp_path / "out"
    plain = reproduce("R1", output=out)
    outcome = reproduce("R1", changes={"runs": 1, "size": 3}, output=out)
    assert (plain.changed, plain.sizes) == ({}, "fast")
    assert outcome.changed == {"runs": 1}
    assert outcome.setting == {"runs": 1, "size": 3}
    assert outcome.sizes == "fast with runs=1"
    folders = sorted(path for path in (out / FAST).parent.iterdir())
    assert [path.name.rpartition("_")[0] for path in folders] == ["", "fast_runs-1"]
    assert "Setting (fast with runs=1)" in (folders[1] / "caption.txt").read_text()
    assert reproduce("R1", changes={"size": 3}, output=out) == plain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rnus": 1}, "grass2001:clover has no size 'rnus'; it has runs, size."),
        (
            {"runs": "one"},
            'runs of grass2001:clover is 2; "one" is of another kind; give its like.',
        ),
        ({"runs": True}, "runs of grass2001:clover is 2; true is of another kind; give its like."),
        ({"runs": 1.5}, "runs of grass2001:clover is 2; 1.5 is of another kind; give its like."),
        ({"runs": 0}, "runs of grass2001:clover is 2; 0 is too small; give 1 or more."),
    ],
)
def test_a_change_that_does_not_fit_is_refused(
    work: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    sow(work, "clover", identity="R1")
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        reproduce("R1", changes=changes, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_name_for_several_claims_is_refused(work: Path, tmp_path: Path) -> None:
    sow(work, "clover", identity="R1")
    sow(work, "daisy", identity="R2")
    with pytest.raises(InputError, match="means 2 claims; name one, such as grass2001:clover"):
        reproduce("grass2001", output=tmp_path / "out")


def test_runs_of_other_lengths_are_filled_up(work: Path, tmp_path: Path) -> None:
    sow(work, "clover", identity="R1", measure='setting = {"size": 2 + case["seed"]}')
    reproduce("R1", output=tmp_path / "out")
    leaf = numbers(tmp_path / "out")["leaf"]
    assert np.isnan(leaf.sel(layer="top").values).tolist() == [True, False, True, False]


def test_what_a_run_put_aside_is_there_when_it_goes_on_and_gone_at_the_end(
    work: Path, tmp_path: Path
) -> None:
    keeping = (
        "mark = work.folder / 'half'; seen = mark.exists(); mark.write_text('done'); "
        "assert seen, 'killed halfway'"
    )
    sow(work, "clover", identity="R1", runs=1, measure=keeping)
    halfway = [reproduce("R1", output=tmp_path / "out").status for _ in range(2)]
    assert halfway == ["failed: AssertionError: killed halfway"] * 2
    assert reproduce("R1", output=tmp_path / "out").status == "reproduced"
    runs = tmp_path / "out" / FAST / "runs"
    assert [path.suffix for path in runs.iterdir()] == [".nc", ".nc"]


def test_a_case_must_not_be_named_like_what_it_measures(work: Path, tmp_path: Path) -> None:
    file = sow(work, "clover", identity="R1")
    file.write_text(file.read_text().replace('"drawn":', '"seed":'))
    status = reproduce("R1", output=tmp_path / "out").status
    assert "what it measures must not name 'seed', a key of its cases" in status


def test_progress_counts_the_runs_of_a_claim(work: Path, tmp_path: Path) -> None:
    sow(work, "clover", identity="R1", measure='work.progress("growing", 1, 2)')
    told: list[tuple[str, int, int]] = []
    reproduce("R1", output=tmp_path / "out", progress=lambda *step: told.append(step))
    assert told[:2] == [("grass2001:clover", 0, 4), ("grass2001:clover, growing", 1, 2)]
    assert told[-2] == ("grass2001:clover", 3, 4)
