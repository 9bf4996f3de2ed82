"""``alignlab train`` as a user runs it: what it leaves, what a kill costs, what it refuses."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from alignlab import recording
from alignlab.locks import Lock
from alignlab.training import _folder, _outcome, _resuming
from alignlab.training._steps import Steps
from alignlab_cli.main import alignlab
from tests.test_layout import ROOT

MLP = ("train", "alignlab:mlp", "--model-arg", "widths=(12,)", "--data", "digits")
SMALL = ("--samples", "200", "--probe-samples", "40", "--draws", "32")
RUN = (*MLP, *SMALL, "--rule", "dfa", "--epochs", "3", "--probe-per-decade", "2")
LIGHT = (*RUN, "--diagnostic", "error-signal")
FILES = ["checkpoint.pt", "initial.pt", "losses.csv", "recording.nc", "run.json"]
NET = """
from torch import nn
def build(dropout=0.0):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Dropout(dropout), nn.Linear(9, 10)
    )
"""


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)


def run(*words: str) -> Result:
    return CliRunner().invoke(alignlab, list(words), prog_name="alignlab")


def done(*words: str) -> Result:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result


def refused(*words: str) -> str:
    result = run(*words)
    assert result.exit_code == 2, result.output
    text = result.stderr.strip()
    assert "\n" not in text
    return text


def held(path: str) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def weights(folder: str) -> dict[str, Any]:
    return held(f"{folder}/checkpoint.pt")["model"]


def same_weights(one: str, other: str) -> bool:
    left, right = weights(one), weights(other)
    return all(torch.equal(left[name], right[name]) for name in left)


def test_a_run_leaves_a_checkpoint_losses_and_a_recording_that_other_commands_read() -> None:
    said = done(*RUN, "-o", "run").stdout.splitlines()
    assert sorted(p.name for p in Path("run").iterdir()) == FILES
    assert said[-1] == "run"
    found = json.loads(Path("run/run.json").read_text())
    rows = list(csv.DictReader(Path("run/losses.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["loss"]) == found["loss"]
    assert float(rows[-1]["held_accuracy"]) == found["held_accuracy"]
    told = recording.load("run/recording.nc")
    assert told["step"].values.tolist() == [0, 1, 3, 10, 12]
    assert told["rule"].values.tolist() == ["dfa", "usf"]
    assert told["feedback_origin"].values.tolist() == ["training", "derived from weights"]
    assert told["cosine_error_signal_null_sd"].sel(rule="dfa", layer="fc1").notnull().any()
    assert told["loss"].isel(step=-1) < told["loss"].isel(step=0)
    assert told.attrs["command"].startswith("alignlab train alignlab:mlp")
    (analyze,) = (line for line in said if line.startswith("to analyse: "))
    words = shlex.split(analyze.removeprefix("to analyse: "))
    words += ["--earlier", "initial=run/initial.pt", "--diagnostic", "weight-feedback"]
    done(*words[1:], "--preset", "core", "--draws", "32", "--samples", "40", "-o", "end.nc")
    end = recording.load("end.nc")
    assert end.attrs["earlier"] == "initial=initial.pt"
    assert end["cosine_weight_change_feedback"].sel(rule="dfa").notnull().any()
    assert end["feedback_origin"].sel(rule="dfa") == "checkpoint"
    hashes = [each["feedback_sha256"].sel(rule="dfa").item() for each in (told, end)]
    assert hashes[0] == hashes[1] != ""
    assert "--model-arg 'widths=[12]'" in done("inspect", "run/checkpoint.pt").stdout
    done("report", "run/recording.nc")
    begun, ended = (held(f"run/{name}.pt") for name in ("initial", "checkpoint"))
    assert begun["alignlab"]["feedback_sha256"] == hashes[0] == ended["alignlab"]["feedback_sha256"]
    assert begun["alignlab"]["epochs_done"] == 0


def test_json_says_what_the_run_says() -> None:
    answer = json.loads(done(*LIGHT, "-o", "run", "--json").stdout)
    assert answer == {"folder": "run", **json.loads(Path("run/run.json").read_text())}
    assert (answer["finished"], answer["epochs"], answer["steps"]) == (True, 3, 12)


def test_the_probe_changes_no_bit_and_can_be_left_out() -> None:
    done(*LIGHT, "-o", "with", "--quiet")
    done(*LIGHT, "--probe-per-decade", "0", "-o", "without", "--quiet")
    assert same_weights("with", "without")
    assert not Path("without/recording.nc").exists()


def test_a_finished_run_is_replaced_by_force_alone() -> None:
    done(*LIGHT, "-o", "run")
    before = Path("run/checkpoint.pt").stat().st_mtime_ns
    assert "finished" in refused(*LIGHT, "-o", "run")
    assert Path("run/checkpoint.pt").stat().st_mtime_ns == before
    done(*LIGHT, "-o", "run", "--epochs", "1", "--force")
    assert json.loads(Path("run/run.json").read_text())["epochs"] == 1


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.mark.parametrize(
    "words",
    [
        ("--frozen", "fc1.wieght"),
        ("--held-split", "", "--patience", "3"),
        ("--rule", "tbptt"),
        ("--optimizer-arg", "lr=1e300"),
    ],
)
def test_a_refused_force_changes_nothing(words: tuple[str, ...]) -> None:
    done(*LIGHT, "-o", "run", "--quiet")
    before = contents("run")
    refused(*LIGHT, "-o", "run", "--force", *words)
    assert contents("run") == before


@pytest.mark.parametrize("aside", [_folder.REPLACED, _folder.MOVING])
def test_a_kill_before_force_has_begun_loses_nothing(aside: str) -> None:
    done(*LIGHT, "-o", "run", "--quiet")
    before = contents("run")
    _folder.begin(Path("run"), {}, force=True)
    if aside == _folder.MOVING:
        Path("run/run.json").unlink()
        Path("run", _folder.REPLACED).rename(Path("run", aside))
        Path("run", aside, "run.json").rename("run/run.json")
    assert "finished" in refused(*LIGHT, "-o", "run")
    assert contents("run") == before


def test_what_force_replaced_is_gone_once_the_new_training_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done(*LIGHT, "-o", "run", "--quiet")
    interrupted_at_epoch(2, monkeypatch, *LIGHT, "-o", "run", "--order-seed", "3", "--force")
    names = [".replaced", "checkpoint.pt", "recording.nc"]
    assert [Path("run", name).exists() for name in ("kept.pt", *names)] == [True, *[False] * 3]
    done(*LIGHT, "-o", "run", "--order-seed", "3")
    done(*LIGHT, "-o", "whole", "--order-seed", "3")
    assert same_weights("run", "whole")


def interrupted_at_epoch(number: int, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    epoch = Steps.epoch

    def stopping(steps: Steps, *data: Any) -> None:
        if len(steps.losses) + 1 == number:
            raise KeyboardInterrupt
        epoch(steps, *data)

    interrupted(monkeypatch, Steps, "epoch", stopping, *words)


def interrupted(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, stop: object, *words: str
) -> None:
    """Keep every epoch until Ctrl-C in a function."""
    with monkeypatch.context() as patch:
        patch.setattr(_resuming, "SHARE", 1e9)
        patch.setattr(owner, name, stop)
        assert run(*words).exit_code == 130


@pytest.mark.parametrize("name", ["_write_losses", "save", "write"])
def test_an_end_after_the_last_step_costs_no_step(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    done(*LIGHT, "-o", "whole", "--quiet")
    interrupted(monkeypatch, _outcome, name, stop, *LIGHT, "-o", "run")
    assert not json.loads(Path("run/run.json").read_text())["finished"]
    monkeypatch.setattr(Steps, "epoch", stop)
    done(*LIGHT, "-o", "run")
    assert same_weights("whole", "run")
    for file in ("losses.csv", "run.json"):
        assert (Path("whole") / file).read_text() == (Path("run") / file).read_text()
    whole, gone_on = (recording.load(f"{folder}/recording.nc") for folder in ("whole", "run"))
    assert whole.drop_attrs().identical(gone_on.drop_attrs())
    assert sorted(p.name for p in Path("run").iterdir()) == FILES


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"none")])
def test_a_lost_probe_is_told_before_the_next_step(
    monkeypatch: pytest.MonkeyPatch, damage: Any
) -> None:
    interrupted_at_epoch(3, monkeypatch, *LIGHT, "-o", "run")
    lost = Path("run/probes/0000000003.nc")
    held = lost.read_bytes()
    damage(lost)
    with monkeypatch.context() as patch:
        patch.setattr(Steps, "epoch", lambda *_: pytest.fail("a step was made"))
        said = refused(*LIGHT, "-o", "run")
    assert "0000000003.nc" in said
    assert "Put that file back, or start anew with --force" in said
    assert Path("run/kept.pt").exists()
    lost.write_bytes(held)
    done(*LIGHT, "-o", "run")


def test_json_has_null_for_nan_and_words_for_infinities() -> None:
    draw = np.random.default_rng(0)
    of = {name: draw.normal(size=(20, 3)) for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez("r.npz", **{name: value.astype("f4") for name, value in of.items()})
    words = ["train", "alignlab:mlp", "--model-arg", "in_features=3", "--model-arg", "classes=3"]
    words += ["--data", "npz:r.npz", "--loss", "mse", "--probe-per-decade", "0", "--epochs", "1"]
    words += ["--stop-loss", "inf", "-o", "run"]
    texts = [done(*words, "--json").stdout, Path("run/run.json").read_text()]
    for text in texts:
        found = json.loads(text, parse_constant=pytest.fail)
        assert found["held_accuracy"] is None
        assert found["plan"]["stop_loss"] == "inf"
    assert "holds this training, finished" in refused(*words)
    assert "accuracy" not in done(*words, "--force").stdout


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits_when_it_is_run_again() -> None:
    words = [*RUN, "--rule", "kp", "--epochs", "400", "--optimizer", "adam"]
    words = [*words, "--model-arg", "activation=tanh", "--label-noise", "0.2", "--quiet"]
    words = [*words, "--patience", "400"]
    done(*words, "-o", "whole")
    start = [sys.executable, "-m", "alignlab_cli", *words, "-o", "run"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "cli")])
    kills = 0
    for _ in range(2):
        process = subprocess.Popen(start, env=os.environ | {"PYTHONPATH": path})
        before = _time_of("run/kept.pt")
        while _time_of("run/kept.pt") == before and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 2
    assert not json.loads(Path("run/run.json").read_text())["finished"]
    assert not Path("run/checkpoint.pt").exists()
    assert "with epochs 400, and this one has 9" in refused(*words, "--epochs", "9", "-o", "run")
    done(*words, "-o", "run")
    for name in ("initial.pt", "best.pt", "checkpoint.pt"):
        assert (Path("whole") / name).read_bytes() == (Path("run") / name).read_bytes()
    for name in ("losses.csv", "run.json"):
        assert (Path("whole") / name).read_text() == (Path("run") / name).read_text()
    whole, gone_on = (recording.load(f"{name}/recording.nc") for name in ("whole", "run"))
    assert whole.drop_attrs().identical(gone_on.drop_attrs())
    assert sorted(p.name for p in Path("run").iterdir()) == sorted([*FILES, "best.pt"])


def _time_of(path: str) -> int:
    try:
        return Path(path).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize(
    ("seed", "counts"),
    [
        ("--init-seed", ()),
        ("--feedback-seed", ()),
        ("--order-seed", ()),
        ("--noise-seed", ("--label-noise", "0.5")),
        ("--dropout-seed", ("--model-arg", "dropout=0.5")),
    ],
)
def test_every_seed_counts_where_something_is_drawn_from_it(
    seed: str, counts: tuple[str, ...]
) -> None:
    words = ("train", "net.py:build", "--data", "digits", *SMALL, "--rule", "dfa", "--epochs", "1")
    words = (*words, "--probe-per-decade", "0", "--quiet")
    for name, more in (("a", ()), ("b", (seed, "3")), ("c", (seed, "3"))):
        done(*words, *counts, *more, "-o", name)
    assert same_weights("b", "c")
    assert not same_weights("a", "b")
    if counts:
        done(*words, "-o", "d")
        done(*words, seed, "3", "-o", "e")
        assert same_weights("d", "e")


def test_a_run_by_optimizer_schedule_amp_and_early_ends() -> None:
    words = [*LIGHT, "--optimizer", "Adam", "--optimizer-arg", "lr=0.01", "--amp", "--epochs", "30"]
    words += ["--schedule", "StepLR", "--schedule-arg", "step_size=9", "--stop-loss", "2.0"]
    words += ["--probe-per-decade", "0", "--frozen", "fc1.bias"]
    found = json.loads(done(*words, "--json", "-o", "run").stdout)
    assert found["epochs"] < 30
    assert found["loss"] <= 2.0
    assert found["plan"]["precision"] == "bfloat16"


def test_patience_keeps_the_best_epoch_beside_the_last() -> None:
    words = [*MLP, *SMALL, "--epochs", "99", "--patience", "2", "--probe-per-decade", "0"]
    said = done(*words, "--optimizer-arg", "lr=1.0", "-o", "run").stdout
    found = json.loads(Path("run/run.json").read_text())
    rows = list(csv.DictReader(Path("run/losses.csv").read_text().splitlines()))
    losses = [float(row["held_loss"]) for row in rows]
    best = losses.index(min(losses)) + 1
    assert len(losses) == best + 2 < 99
    assert found["best"]["epoch"] == best
    assert found["best"]["held_loss"] == min(losses)
    assert found["best"]["held_accuracy"] == float(rows[best - 1]["held_accuracy"])
    assert f"best: epoch {best}, " in said
    assert {"best.pt", "checkpoint.pt"} <= set(found["files"])
    assert held("run/best.pt")["alignlab"]["epochs_done"] == best
    done(*MLP, *SMALL, *words[-2:], "--epochs", str(best), "--optimizer-arg", "lr=1.0", "-o", "to")
    short, kept = weights("to"), held("run/best.pt")["model"]
    assert all(torch.equal(short[name], kept[name]) for name in short)


def test_a_training_that_diverges_keeps_what_was_recorded_until_then() -> None:
    options = ("--optimizer-arg", "lr=1e38", "--quiet")
    said = refused(*LIGHT, *options, "-o", "run")
    assert "after 1 step, in epoch 1; lower the learning rate (lr)" in said
    assert "What was recorded until then is in run." in said
    assert sorted(p.name for p in Path("run").iterdir()) == FILES[1:]
    assert recording.load("run/recording.nc")["step"].values[0] == 0
    assert not json.loads(Path("run/run.json").read_text())["finished"]
    assert "which diverged: " in refused(*LIGHT, *options, "-o", "run")


def test_a_folder_in_use_is_refused_and_stays_as_it_is() -> None:
    with Lock(Path("run")):
        before = Path("run/.lock").read_text()
        for more in ((), ("--force",)):
            text = refused(*LIGHT, "-o", "run", *more)
            assert f"run is in use by process {os.getpid()} on " in text
        assert [p.name for p in Path("run").iterdir()] == [".lock"]
        assert Path("run/.lock").read_text() == before
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--rule", "dfq"), "no 'dfq' among the rules"),
        (("--rule", "applied"), "read from what another training leaves"),
        (("--data", "digit"), "digit"),
        (("--data", "npz:none.npz"), "none.npz"),
        (("--optimizer", "sdg"), "no optimizer 'sdg'"),
        (("--optimizer-arg", "momentun=0.9"), "momentun=0.9"),
        (("--optimizer-arg", "lr"), "--optimizer-arg takes NAME=VALUE"),
        (("--schedule", "step"), "no schedule 'step'"),
        (("--schedule", "steplr"), "steplr cannot be made with"),
        (("--label-noise", "2"), "--label-noise"),
        (("--feedback-seed", "1", "--rule", "bp"), "draws nothing from a seed"),
        (("--loss", "mee"), "no loss 'mee'"),
        (("--device", "cuda:9"), "--device 'cuda:9'"),
        (("--diagnostic", "error-signl"), "no diagnostic 'error-signl'"),
        (("--preset", "cor"), "no preset 'cor'"),
        (("--held-split", "", "--patience", "2"), "held out"),
        (("--frozen", "fc9.weight"), "no parameter 'fc9.weight'"),
        (("--model-arg", "width=3"), "width"),
        (("--draws", "5"), "5 redraws"),
        (("--rule", "tbptt"), "tbptt"),
        (("--optimizer-arg", "lr=1e300"), "sgd with lr=1e+300 cannot go on after 0 steps: "),
        (("--optimizer-arg", "lr=1e999"), "lr=inf; give finite numbers"),
        (("--optimizer-arg", "lr=nan"), "lr='nan'; give finite numbers"),
        (("--stop-loss", "nan"), "stop at of nan"),
        (("--patience", "-1"), "--patience"),
        (("--schedule", "onecyclelr", "--schedule-arg", "max_lr=0.1"), "onecyclelr"),
        (("-o", "net.py"), "net.py is a file"),
        (("--init-seed", str(2**64)), f"A seed of {2**64} for the initial weights is too long"),
        (("--order-seed", str(2**64)), f"A seed of {2**64} for the order of the data is too long"),
        (("--noise-seed", str(2**64)), f"A seed of {2**64} for the label noise is too long"),
        (
            ("--dropout-seed", str(-(2**63) - 1)),
            "for the draws of dropout is too long; give one from -2**",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_leaves_nothing(
    words: tuple[str, ...], text: str
) -> None:
    assert text in refused(*RUN, "-o", "run", *words)
    assert sorted(p.name for p in Path().iterdir()) == ["net.py"]


def test_files_of_others_are_not_overwritten() -> None:
    Path("run").mkdir()
    Path("run/checkpoint.pt").write_text("mine")
    assert "checkpoint.pt" in refused(*RUN, "-o", "run")
    assert Path("run/checkpoint.pt").read_text() == "mine"
