"""What a user gets wrong, through the command: one line, exit code 2, nothing written."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from alignlab import recording as store
from alignlab_cli.main import alignlab

MODELS = Path(__file__).parents[1] / "analyze" / "models.py"


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = OrderedDict(flat=nn.Flatten(), fc1=nn.Linear(64, 24), act=nn.Tanh())
    return nn.Sequential(OrderedDict({**layers, "fc2": nn.Linear(24, 10)}))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.save(network().state_dict(), "model.pt")
    return tmp_path


def run(*words: str) -> tuple[int, str, str]:
    usual = ["analyze", "checkpoint", "model.pt", "--model", f"{MODELS}:plain", "--data", "digits"]
    usual += ["--samples", "60", "--draws", "32", "--diagnostic", "error-signal"]
    result = CliRunner().invoke(alignlab, [*usual, *words], prog_name="alignlab")
    return result.exit_code, result.stdout, result.stderr


def scripted() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network().eval(), torch.ones(1, 64)), "model.pt")


def exported() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(network(), (torch.ones(1, 64),)), "model.pt")


def optimizer_state() -> None:
    torch.save(torch.optim.Adam(network().parameters()).state_dict(), "model.pt")


def wrong_feedback() -> None:
    state = network().state_dict()
    ours = {"rule": "dfa", "feedback": {"fc1": torch.full((10, 24), torch.nan)}}
    torch.save({"model": state, "alignlab": ours}, "model.pt")


def tampered_feedback() -> None:
    ours = {"rule": "dfa", "feedback": {"fc1": torch.ones(10, 24)}, "feedback_sha256": "0" * 64}
    torch.save({"model": network().state_dict(), "alignlab": ours}, "model.pt")


def recording() -> None:
    assert run("-o", "run.nc")[0] == 0
    Path("run.nc").rename("model.pt")


def data(**arrays: np.ndarray) -> Callable[[], None]:
    return lambda: np.savez("data.npz", **arrays)


NOTHING: Callable[[], None] = lambda: None  # noqa: E731
IMAGES = np.zeros((60, 1, 8, 8), np.float32)
CASES: dict[str, tuple[Callable[[], None], tuple[str, ...], str]] = {
    "TorchScript": (scripted, (), "is a TorchScript archive"),
    "exported program": (exported, (), "is a torch.export archive"),
    "optimizer": (optimizer_state, (), "the state of an optimizer only"),
    "NaN in the feedback": (wrong_feedback, (), "NaN or infinite numbers"),
    "tampered feedback": (tampered_feedback, (), "does not have the hash"),
    "a recording": (recording, (), "is an HDF5 file"),
    "factory that raises": (NOTHING, ("--model", f"{MODELS}:fails"), "the config is missing"),
    "no module": (NOTHING, ("--model", f"{MODELS}:no_module"), "must return a torch.nn.Module"),
    "a tuple": (NOTHING, ("--model", f"{MODELS}:returns_a_tuple"), "returns tuple"),
    "an argument too many": (NOTHING, ("--model-arg", "width=3"), "width"),
    "other names": (NOTHING, ("--rename", "fc1=fc3"), "fc3"),
    "unknown rule": (NOTHING, ("--rule", "dfaa"), "Did you mean dfa"),
    "unknown option": (NOTHING, ("--rule", "dfa(scal=1)"), "Did you mean scale"),
    "unknown value": (NOTHING, ("--rule", "dfa(distribution=cauchy)"), "choose normal or"),
    "wrong type": (NOTHING, ("--rule", "dfa(scale=big)"), "takes scale as float"),
    "code for a value": (NOTHING, ("--rule", "dfa(scale=__import__('os'))"), "scale"),
    "the same rule twice": (NOTHING, ("--rule", "dfa", "--rule", "dfa"), "twice"),
    "unknown loss": (NOTHING, ("--loss", "crossentropy"), "Did you mean cross-entropy"),
    "nll of logits": (NOTHING, ("--loss", "nll"), "use cross-entropy for logits"),
    "unknown diagnostic": (NOTHING, ("--diagnostic", "gate"), "no diagnostic 'gate'"),
    "unknown preset": (NOTHING, ("--preset", "fast"), "no preset 'fast'"),
    "no such device": (NOTHING, ("--device", "warp"), "--device 'warp'"),
    "no such split": (NOTHING, ("--split", "dev"), "it has train and test"),
    "data without a home": (NOTHING, ("--data", "imagenet"), "imagenet"),
    "text for data": (
        lambda: Path("x.npz").write_text("x,y\n"),
        ("--data", "npz:x.npz"),
        "cannot be read as npz",
    ),
    "labels out of range": (
        data(x=IMAGES, y=np.arange(60) % 12),
        ("--data", "npz:data.npz"),
        "Labels run from 0 to 11 and the model has 10 outputs",
    ),
    "images of another size": (
        data(x=np.zeros((60, 1, 9, 9), np.float32), y=np.arange(60) % 10),
        ("--data", "npz:data.npz"),
        "Give data of the shape that it was trained on",
    ),
    "targets that are numbers": (
        data(x=IMAGES, y=np.linspace(0, 1, 60)),
        ("--data", "npz:data.npz"),
        "Labels must be integers",
    ),
    "NaN in the data": (
        data(x=np.full((60, 1, 8, 8), np.nan), y=np.arange(60) % 10),
        ("--data", "npz:data.npz"),
        "NaN or infinite",
    ),
    "overflow": (NOTHING, ("--std", "1e-40"), "not finite"),
    "output in no folder": (NOTHING, ("-o", "nowhere/run.nc"), "there is no folder nowhere"),
    "output that is a folder": (lambda: Path("run.nc").mkdir(), ("-o", "run.nc"), "run.nc"),
}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_clear_line(case: str) -> None:
    spoil, words, reason = CASES[case]
    spoil()
    before = {path.name for path in Path().iterdir()}
    code, out, err = run(*words)
    assert code == 2, err
    assert out == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert reason in err
    assert len(err) < 600
    assert {path.name for path in Path().iterdir()} == before


@pytest.mark.usefixtures("folder")
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without accelerator")
def test_a_device_that_is_not_there_is_refused() -> None:
    code, _, err = run("--device", "cuda")
    assert code == 2
    assert err.count("\n") == 1
    assert "--device 'cuda' cannot be used here; there is cpu." in err


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ["without_layers", "without_gradient", "custom"])
def test_a_model_that_cannot_be_measured_says_why(name: str) -> None:
    from tests.analyze import models

    torch.save(getattr(models, name)().state_dict(), "model.pt")
    code, out, err = run("--model", f"{MODELS}:{name}")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert [path.name for path in Path().iterdir()] == ["model.pt"]


@pytest.mark.usefixtures("folder")
def test_another_architecture_is_told_in_a_difference_that_can_be_read() -> None:
    words = ("--model", "alignlab:cnn")
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith("Error: model.pt does not fit CNN: ")
    assert "Likely cause" in err
    assert len(err.splitlines()) <= 6
    assert [path.name for path in Path().iterdir()] == ["model.pt"]


@pytest.mark.usefixtures("folder")
def test_labels_are_measured_with_squared_error() -> None:
    code, out, err = run("--loss", "mse", "-q", "-o", "run.nc")
    assert (code, out, err) == (0, "run.nc\n", "")
    assert store.load("run.nc").attrs["loss"] == "mse"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("modle.pt",), "There is no file modle.pt; nearest: model.pt"),
        (("model.pt", "--model", "alignlab:mlp"), "--model was given without --data"),
    ],
)
def test_the_installed_command_refuses_alike(
    folder: Path, words: tuple[str, ...], reason: str
) -> None:
    command = [sys.executable, "-m", "alignlab_cli", "analyze", "checkpoint", *words]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr
    assert [path.name for path in folder.iterdir()] == ["model.pt"]
