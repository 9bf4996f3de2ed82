"""Checkpoints that others published, through the library and through the command line."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from alignlab import recording as store
from alignlab.analyze import analyze_checkpoint
from alignlab.diagnosis import CLOSING, answer
from alignlab.errors import CheckpointError
from alignlab.plugins import names
from alignlab.report import render
from alignlab_cli.main import alignlab

ROOT = Path(os.environ.get("ALIGNLAB_DATA") or "no-data-here")
FILES = ROOT / "checkpoints"
BUILDERS = Path(__file__).parents[1] / "models" / "real_checkpoints.py"
OWN = Path(__file__).with_name("builders.py")
MNIST = {"data": "mnist", "mean": 0.1307, "std": 0.3081}
CIFAR10 = {"data": "cifar10", "mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
ATTENTION = "encoder.0.attn."

pytestmark = pytest.mark.skipif(
    not FILES.is_dir(), reason="needs checkpoints in the folder that ALIGNLAB_DATA names"
)

NETWORKS: dict[str, dict[str, Any]] = {
    "lenet_captum.pt": {
        "model": f"{BUILDERS}:lenet",
        **{"data": "cifar10", "mean": 0.5, "std": 0.5},
    },
    "resnet20_chen_epoch1.t7": {"model": f"{BUILDERS}:resnet20", **CIFAR10},
    "lightning_won_v0.ckpt": {"model": f"{BUILDERS}:lightning_mlp", **MNIST},
    "vit_agentzz.pth": {
        "model": f"{OWN}:vit",
        "rename": {
            f"{ATTENTION}in_proj_weight": f"{ATTENTION}qkv.weight",
            f"{ATTENTION}in_proj_bias": f"{ATTENTION}qkv.bias",
        },
        **MNIST,
    },
}
STATED = {
    "lenet_captum.pt": 0.59,
    "resnet20_chen_epoch1.t7": 0.597,
    "lightning_won_v0.ckpt": 0.946,
    "vit_agentzz.pth": 0.84,
}
LAYERS = {
    "lenet_captum.pt": 5,
    "resnet20_chen_epoch1.t7": 22,
    "lightning_won_v0.ckpt": 3,
    "vit_agentzz.pth": 6,
}


each_network = pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n.startswith("resnet") else ()) for n in NETWORKS],
)


def analysed(name: str, **options: Any) -> xr.Dataset:
    settings = {"draws": 32, **NETWORKS[name], **options}
    return analyze_checkpoint(FILES / name, **settings).recording


@each_network
def test_the_accuracy_on_the_measured_samples_is_the_stated_one(name: str) -> None:
    found = analysed(name, samples=512, diagnostics=["residual-growth"])
    stated = STATED[name]
    error = math.sqrt(stated * (1.0 - stated) / 512)
    assert found["accuracy"].item() == pytest.approx(stated, abs=3 * error)
    assert found.sizes["layer"] == LAYERS[name]
    assert answer(found).warnings == ()


@each_network
def test_a_file_without_feedback_observes_nothing_of_dfa_and_all_of_its_signs(name: str) -> None:
    measured = ["error-signal", "weight-gradient", "validity"]
    found = analysed(name, samples=40, diagnostics=measured, rules=["dfa", "usf"])
    store.validate(found)
    assert found["measurement_status"].item() == "valid"
    origins = dict(zip(found["rule"].values, found["feedback_origin"].values, strict=True))
    assert origins == {"dfa": "drawn", "usf": "derived from weights"}
    hidden = found.sel(layer=~found["is_output"], site="entry")
    drawn, derived = hidden.sel(rule="dfa"), hidden.sel(rule="usf")
    assert bool(drawn["cosine_error_signal"].isnull().all())
    assert set(np.unique(drawn["cosine_error_signal_status"])) == {"null draw"}
    assert bool((drawn["cosine_error_signal_null_sd"] > 0).all())
    assert bool((derived["cosine_error_signal"] > derived["cosine_error_signal_null_high"]).all())
    said = answer(found)
    assert {finding.rule for finding in said.findings} == {"usf"}
    assert said.paragraph[-1] == CLOSING


@pytest.mark.parametrize(
    "name",
    [
        "lightning_won_v0.ckpt",
        pytest.param("lenet_captum.pt", marks=pytest.mark.slow),
        pytest.param("vit_agentzz.pth", marks=pytest.mark.slow),
    ],
)
def test_every_diagnostic_ends_in_a_report(name: str) -> None:
    found = analysed(name, samples=64)
    store.validate(found)
    page = render(found)
    assert name in page
    assert CLOSING in page
    assert f"{found['accuracy'].item():.3f}" in page


@pytest.mark.slow
def test_the_resnet_is_measured_with_the_diagnostics_of_convolutions() -> None:
    found = analysed(
        "resnet20_chen_epoch1.t7",
        samples=32,
        rules=["dfa"],
        diagnostics=["reach", "convolution-cap", "spatial-spectrum", "bottleneck", "validity"],
    )
    store.validate(found)
    assert found["measurement_status"].item() == "valid"
    convolutions = found.sel(layer=(found["layer_kind"] == "Conv2d").values)
    assert convolutions.sizes["layer"] == 21
    assert bool((convolutions["convolution_weight_cap"] < 1).any())


def test_attention_in_one_module_lies_between_the_layers_around_it() -> None:
    options = {"model": f"{BUILDERS}:vit", "rename": {}}
    found = analysed("vit_agentzz.pth", samples=32, diagnostics=["validity"], **options)
    assert found["measurement_status"].item() == "valid"
    assert "encoder.0.attn.in_proj_weight" in found.attrs["weights_outside_layers"]


@pytest.mark.parametrize(
    ("name", "options", "layers"),
    [
        ("nerf_dfa_chair.ckpt", {"key": "model_coarse_state_dict"}, 8),
        ("nerf_dfa_chair.ckpt", {"key": "model_fine_state_dict"}, 8),
        ("llama_tiny_random.pt", {}, 16),
        ("lenet_captum.pt", {}, 5),
    ],
)
def test_weights_without_a_model_tell_their_ranks(
    name: str, options: dict[str, Any], layers: int
) -> None:
    found = analyze_checkpoint(FILES / name, **options).recording
    store.validate(found)
    assert found.attrs["recording_kind"] == "weights"
    assert found.sizes["layer"] == layers
    ratio, stable = found["participation_ratio_weight"], found["stable_rank_weight"]
    assert bool((stable >= 1).all())
    assert bool((stable <= ratio * (1 + 1e-9)).all())
    assert "rule" not in found.sizes


def test_a_file_of_two_networks_names_them_and_the_option() -> None:
    with pytest.raises(CheckpointError, match=r"model_coarse_state_dict .*Choose one with --key"):
        analyze_checkpoint(FILES / "nerf_dfa_chair.ckpt")


REFUSED = {
    "lfs_pointer_ckpt.pt": "is a Git LFS pointer",
    "module_zip_gru_baseline.pt": "a whole module of class model.CharRNN",
    "nerf_dfa_chair.ckpt": "Choose one with --key NAME",
}


def script(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the installed command, or its module where it is not installed."""
    installed = Path(sys.executable).with_name("alignlab")
    command = [str(installed)] if installed.exists() else [sys.executable, "-m", "alignlab_cli"]
    return subprocess.run(
        [*command, *words], cwd=folder, check=False, capture_output=True, text=True
    )


@pytest.mark.parametrize("name", REFUSED)
def test_what_holds_no_single_network_is_one_line_of_the_installed_command(
    tmp_path: Path, name: str
) -> None:
    done = script("analyze", "checkpoint", str(FILES / name), folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert REFUSED[name] in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_installed_command_analyses_and_reports_a_lightning_checkpoint(tmp_path: Path) -> None:
    words = ["analyze", "checkpoint", str(FILES / "lightning_won_v0.ckpt"), "--data", "mnist"]
    words += ["--model", f"{BUILDERS}:lightning_mlp", "--mean", "0.1307", "--std", "0.3081"]
    words += ["--samples", "512", "--draws", "32", "--preset", "bottleneck", "--json"]
    done = script(*words, "-o", "run.nc", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["accuracy"] == pytest.approx(0.946, abs=0.03)
    assert told["answer"][-1] == CLOSING
    reported = script("report", "run.nc", "-o", "report.html", folder=tmp_path)
    assert reported.returncode == 0, reported.stderr
    assert "lightning_won_v0.ckpt" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {"run.nc", "report.html"}


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith(("lenet", "vit"))])
def test_the_command_takes_the_same_options_as_the_library(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = NETWORKS[name]
    words = ["analyze", "checkpoint", str(FILES / name), "--model", options["model"]]
    words += ["--data", options["data"], "--mean", str(options["mean"]), "--std"]
    words += [str(options["std"]), "--samples", "40", "--draws", "32", "-q", "-o", "run.nc"]
    words += ["--diagnostic", "error-signal", "--rule", "usf"]
    for old, new in options.get("rename", {}).items():
        words += ["--rename", f"{old}={new}"]
    result = CliRunner().invoke(alignlab, words, prog_name="alignlab")
    assert result.exit_code == 0, result.output
    by_command = store.load("run.nc")
    by_library = analysed(name, samples=40, diagnostics=["error-signal"], rules=["usf"])
    for variable in ("cosine_error_signal", "cosine_error_signal_p", "accuracy"):
        np.testing.assert_array_equal(by_command[variable], by_library[variable])
    assert str(FILES) not in by_command.attrs["command"]
    assert name in by_command.attrs["command"]


def test_inspect_shows_every_file_or_says_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in sorted(FILES.iterdir()):
        result = CliRunner().invoke(alignlab, ["inspect", str(path)], prog_name="alignlab")
        refused = path.name in {"lfs_pointer_ckpt.pt", "module_zip_gru_baseline.pt"}
        assert result.exit_code == (2 if refused else 0), path.name
        assert result.output
    assert list(tmp_path.iterdir()) == []


def test_all_diagnostics_are_reached_by_the_full_preset() -> None:
    found = analysed("lightning_won_v0.ckpt", samples=256, preset="full")
    assert len(names("alignlab.diagnostics")) >= 15
    for variable in ("reach_held_out", "width_bound", "error_rank", "loss_change_actual"):
        assert variable in found
