"""An MLP and a CNN trained by DFA on MNIST, from the first step to the report."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import xarray as xr

from alignlab import datasets
from alignlab import recording as store
from alignlab.analyze import analyze_checkpoint
from alignlab.diagnosis import CLOSING, answer
from alignlab.report import render
from alignlab.rules import DFA
from alignlab.specs import build_loss, build_model
from alignlab.training import Recipe, save_checkpoint, train
from tests.end_to_end.sentences import confirmed

ROOT = Path(os.environ.get("ALIGNLAB_DATA") or "no-data-here")
SEEDS = (0, 1, 2)
SCALED = {"mean": 0.1307, "std": 0.3081}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (ROOT / "mnist").is_dir(), reason="needs MNIST in the folder that ALIGNLAB_DATA names"
    ),
]


@dataclass(frozen=True)
class Setting:
    """What is trained, and how; rates were chosen by the training loss alone."""

    model: str
    arguments: dict[str, object]
    learning_rate: float
    epochs: int


SETTINGS = {
    "mlp": Setting("alignlab:mlp", {"in_features": 784, "widths": [256, 256]}, 0.01, 5),
    "cnn": Setting(
        "alignlab:cnn",
        {"image_size": 28, "channels": [16, 32], "kernel_size": 5, "padding": 0, "widths": [64]},
        0.003,
        4,
    ),
}


@pytest.fixture(scope="module", params=[(kind, seed) for kind in SETTINGS for seed in SEEDS])
def done(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, xr.Dataset]:
    """Train, save, analyse, save the recording and load it again."""
    kind, seed = request.param
    setting = SETTINGS[kind]
    folder = tmp_path_factory.mktemp(f"{kind}-{seed}")
    data = datasets.load("mnist", split="train", samples=10_000, **SCALED)
    torch.manual_seed(seed)
    model = build_model(setting.model, setting.arguments)
    training = train(
        model,
        build_loss("cross-entropy"),
        x=data.x,
        y=data.y,
        rule=DFA(seed=seed),
        recipe=Recipe(
            epochs=setting.epochs,
            optimizer_options={"lr": setting.learning_rate, "momentum": 0.9},
            order_seed=seed,
        ),
    )
    path = save_checkpoint(folder / "model.pt", model, training, data=data.name, init_seed=seed)
    analysis = analyze_checkpoint(
        path,
        model=setting.model,
        model_arguments=setting.arguments,
        data="mnist",
        rules=["dfa", "usf"],
        samples=256,
        draws=100,
        **SCALED,
    )
    store.save(analysis.recording, folder / "run.nc")
    return kind, store.load(folder / "run.nc")


def hidden(recording: xr.Dataset) -> xr.Dataset:
    found = recording.isel(step=0, drop=True).sel(rule="dfa")
    return found.sel(layer=~found["is_output"].values)


def test_the_network_has_learned(done: tuple[str, xr.Dataset]) -> None:
    kind, recording = done
    assert recording["accuracy"].item() >= (0.9 if kind == "mlp" else 0.85)
    assert recording["measurement_status"].item() == "valid"
    assert recording["reference_check"].item() == "agrees"


def test_the_recording_is_whole(done: tuple[str, xr.Dataset]) -> None:
    store.validate(done[1])
    assert dict(zip(done[1]["rule"].values, done[1]["feedback_origin"].values, strict=True)) == {
        **{"dfa": "checkpoint", "usf": "derived from weights"},
    }


def test_the_first_dense_layer_aligns_and_the_first_convolution_does_not(
    done: tuple[str, xr.Dataset],
) -> None:
    kind, recording = done
    found = hidden(recording).sel(site="entry")
    first = found["cosine_error_signal"].isel(layer=0).item()
    if kind == "mlp":
        assert first > 0.2
        assert str(found["cosine_error_signal_status"].isel(layer=0).item()) == "useful"
    else:
        assert first < 0.1
        assert str(found["cosine_error_signal_status"].isel(layer=0).item()) != "useful"


def test_every_hidden_layer_has_cosine_null_and_p(done: tuple[str, xr.Dataset]) -> None:
    found = hidden(done[1])
    for name in ("cosine_error_signal", "cosine_error_signal_flat"):
        for companion in ("", "_null_sd", "_null_low", "_null_high", "_p"):
            assert bool(found[name + companion].notnull().all()), name + companion
        low, high = found[f"{name}_null_low"], found[f"{name}_null_high"]
        assert bool(((low < 0) & (high > 0)).all())


def test_each_convolution_reaches_some_share_of_what_it_could(
    done: tuple[str, xr.Dataset],
) -> None:
    kind, recording = done
    found = hidden(recording).sel(site="entry")
    convolutions = found.sel(layer=(found["layer_kind"] == "Conv2d").values)
    assert convolutions.sizes["layer"] == (2 if kind == "cnn" else 0)
    assert bool(convolutions["attainable_share"].notnull().all())
    product = convolutions["attainable_share"] * convolutions["attainable_cosine"]
    xr.testing.assert_allclose(
        product, convolutions["cosine_error_signal_flat"].drop_attrs(), rtol=1e-9
    )
    limits = answer(recording).limits
    assert [limit.layer for limit in limits] == list(convolutions["layer"].values)
    shares = [each for each in answer(recording).paragraph if "share of the attainable" in each]
    assert all(layer in shares[0] for layer in convolutions["layer"].values)


def test_every_sentence_follows_from_the_recording(done: tuple[str, xr.Dataset]) -> None:
    recording = done[1].isel(step=0, drop=True)
    sentences = answer(done[1]).paragraph
    assert len(sentences) > 5
    assert CLOSING not in sentences
    assert [confirmed(recording, each) for each in sentences] == [""] * len(sentences)


def test_the_report_holds_every_sentence_and_every_hidden_layer(
    done: tuple[str, xr.Dataset],
) -> None:
    import html

    page = html.unescape(render(done[1]))
    for sentence in answer(done[1]).paragraph:
        assert sentence in page
    for layer in hidden(done[1])["layer"].values:
        assert str(layer) in page
    assert "http://" not in page.replace("http://www.w3.org", "")
