"""One checkpoint, one model, one set of samples: what the recording says of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab import __version__, datasets
from alignlab import recording as store
from alignlab.analyze import analyze_checkpoint
from alignlab.diagnosis import answer
from alignlab.errors import AlignlabError, InputError, MeasurementError
from alignlab.rules import DFA
from alignlab.specs import build_model
from tests.analyze import models
from tests.analyze.checkpoints import (
    ARGUMENTS,
    EVERYTHING,
    SPEC,
    analyse,
    batch,
    everything,
    trained,
    written,
)

MODELS = Path(models.__file__)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return written(tmp_path, DFA(seed=5))


def own(folder: Path, name: str, **options: Any) -> tuple[nn.Module, xr.Dataset]:
    """Save the weights of a network of ours and analyse them."""
    torch.manual_seed(0)
    build = getattr(models, name)
    model: nn.Module = build(**options.get("model_arguments", {}))
    torch.save(model.state_dict(), folder / "own.pt")
    settings = {"model": f"{MODELS}:{name}", "model_arguments": {}, "rules": ["dfa"], **options}
    return model.eval(), analyse(folder / "own.pt", **settings).recording


def test_loss_and_accuracy_are_those_of_exactly_these_samples(path: Path) -> None:
    recording = analyse(path, samples=90, seed=3).recording
    data = datasets.load("digits", samples=90, seed=3)
    with torch.no_grad():
        output = trained(DFA(seed=5))[0].eval()(data.x)
    assert recording["loss"].item() == pytest.approx(F.cross_entropy(output, data.y).item())
    right = (output.argmax(1) == data.y).double().mean().item()
    assert recording["accuracy"].item() == pytest.approx(right)
    assert recording["accuracy_chance"].item() == max(data.class_counts) / 90
    assert recording.attrs["data"] == "digits[test n=90 of 360]"
    assert recording.attrs["data_hash"] == data.hash
    assert recording.attrs["n_samples"] == 90


def test_a_recording_says_where_it_comes_from_and_no_folder(path: Path) -> None:
    recording = analyse(path, rules=["dfa"]).recording
    store.validate(recording)
    attrs = recording.attrs
    assert attrs["checkpoint"] == "model.pt"
    assert attrs["checkpoint_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert attrs["alignlab_version"] == __version__
    assert attrs["torch_version"] == torch.__version__
    assert (attrs["model"], attrs["model_spec"]) == ("MLP", "alignlab:mlp")
    assert (attrs["mode"], attrs["loss"], attrs["reduction"]) == ("eval", "cross-entropy", "mean")
    assert not [name for name, value in attrs.items() if str(path.parent) in str(value)]


def test_equal_seeds_give_equal_recordings_and_only_building_the_model_draws_globally(
    path: Path,
) -> None:
    torch.manual_seed(1)
    build_model(SPEC, ARGUMENTS)
    state: Tensor = torch.get_rng_state()
    drawn = np.random.get_state()[1].copy()  # noqa: NPY002
    one = everything().recording
    torch.manual_seed(1)
    other = analyse(path, **EVERYTHING).recording
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], drawn)  # noqa: NPY002
    xr.testing.assert_equal(one, other)
    assert {**one.attrs, "created": ""} == {**other.attrs, "created": ""}


def test_saved_signals_give_the_cosines_of_the_recording() -> None:
    analysis = everything()
    place = analysis.recording.isel(step=0).sel(rule="dfa")
    for layer, saved in analysis.tensors.items():
        at = saved.sel(rule="dfa")
        for site in ("entry", "preactivation"):
            if f"signal_{site}" in at:
                a, b = (torch.from_numpy(at[f"{n}signal_{site}"].values) for n in ("true_", ""))
                expected = F.cosine_similarity(a.double(), b.double(), dim=1).mean()
                found = place["cosine_error_signal"].sel(layer=layer, site=site)
                assert found.item() == pytest.approx(float(expected), abs=1e-6)
        a, b = (torch.from_numpy(at[f"{n}weight_gradient"].values) for n in ("true_", ""))
        expected = F.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0)
        found = place["cosine_weight_gradient"].sel(layer=layer)
        assert found.item() == pytest.approx(float(expected), abs=1e-6)


def test_true_gradients_are_those_of_the_models_own_backward_pass(path: Path) -> None:
    analysis = analyse(path, rules=["dfa"], save=["weight-gradients"])
    model, (x, y) = trained(DFA(seed=5))[0].eval(), batch()
    named = dict(model.named_parameters())
    found = torch.autograd.grad(F.cross_entropy(model(x), y), list(named.values()))
    expected = dict(zip(named, found, strict=True))
    for layer, saved in analysis.tensors.items():
        torch.testing.assert_close(
            torch.from_numpy(saved["true_weight_gradient"].values),
            expected[f"{layer}.weight"],
            rtol=1e-5,
            atol=1e-8,
        )


def test_inputs_at_another_scale_are_warned_about_above_all(path: Path) -> None:
    recording = analyse(path, mean=50.0, std=0.01, diagnostics=["error-signal"]).recording
    assert "are inputs scaled as in training?" in answer(recording).warnings[0]
    assert recording.attrs["mean"] == "50.0"


def test_labels_may_be_measured_with_squared_error(path: Path) -> None:
    chosen = ["error-signal", "effective-rank"]
    recording = analyse(path, loss="mse", rules=["dfa"], diagnostics=chosen).recording
    store.validate(recording)
    x, y = batch()
    with torch.no_grad():
        output = trained(DFA(seed=5))[0].eval()(x)
    expected = F.mse_loss(output, F.one_hot(y, 10).float()).item()
    assert recording["loss"].item() == pytest.approx(expected)
    assert recording["accuracy"].item() > 0.5
    assert recording["error_rank"].item() == 10


def test_the_training_mode_drops_units_and_counts_its_own_loss(tmp_path: Path) -> None:
    options: dict[str, Any] = {"model_arguments": {"dropout": 0.5}, "rules": ["dfa", "bp"]}
    _, still = own(tmp_path, "plain", mode="eval", **options)
    _, moving = own(tmp_path, "plain", mode="train", **options)
    assert moving.attrs["mode"] == "train"
    assert moving["loss"].item() != still["loss"].item()
    against_itself = moving["cosine_error_signal"].sel(rule="bp", site="preactivation")
    assert against_itself.values.ravel() == pytest.approx([1.0, 1.0])


def test_batch_statistics_of_the_file_are_those_that_are_measured(tmp_path: Path) -> None:
    model, recording = own(tmp_path, "normalised", mode="train")
    x, y = batch()
    with torch.no_grad():
        expected = F.cross_entropy(model.train()(x), y).item()
    assert recording["loss"].item() == pytest.approx(expected, rel=1e-6)
    _, still = own(tmp_path, "normalised", mode="eval")
    assert recording.attrs["parameter_hash"] == still.attrs["parameter_hash"]


def test_a_backward_pass_of_the_models_own_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"Tanh.*--plain-model SPEC"):
        own(tmp_path, "custom")


def test_a_plain_twin_is_measured_in_its_place(tmp_path: Path) -> None:
    _, recording = own(tmp_path, "custom", plain_model=f"{MODELS}:plain", diagnostics=["validity"])
    assert recording["measurement_status"].item() == "valid"
    assert list(recording["layer"].values) == ["fc1", "fc2"]


def test_a_plain_twin_of_other_outputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="does not give the outputs of --model"):
        own(tmp_path, "binary", plain_model=f"{MODELS}:plain")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("returns_a_tuple", "returns tuple; give a factory whose model returns one tensor"),
        ("without_layers", "has no Linear and no Conv or ConvTranspose"),
        ("without_gradient", "gradient"),
    ],
)
def test_what_cannot_be_measured_is_one_line(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(AlignlabError, match=reason) as caught:
        own(tmp_path, name)
    assert "\n" not in str(caught.value)


def test_a_model_without_data_is_refused(path: Path) -> None:
    with pytest.raises(InputError, match="needs data"):
        analyse(path, data=None)


def test_weights_alone_are_described_without_a_model(path: Path) -> None:
    recording = analyze_checkpoint(path).recording
    store.validate(recording)
    assert recording.attrs["recording_kind"] == "weights"
    weight = trained(DFA(seed=5))[0].state_dict()["fc1.weight"].double()
    energies = torch.linalg.svdvals(weight).square()
    at = recording.isel(step=0).sel(layer="fc1")
    assert at["weight_norm"].item() == pytest.approx(float(weight.norm()))
    ratio = float(energies.sum() ** 2 / energies.square().sum())
    assert at["participation_ratio_weight"].item() == pytest.approx(ratio)
    assert at["stable_rank_weight"].item() == pytest.approx(float(energies.sum() / energies[0]))


def test_progress_is_told_and_the_same_without_it(path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    loud = analyse(path, progress=lambda *what: told.append(what)).recording
    assert told
    assert all(0 < done <= of for _, done, of in told)
    xr.testing.assert_equal(loud, analyse(path).recording)


def test_a_linear_classifier_has_an_exact_layer_and_nothing_else(tmp_path: Path) -> None:
    _, recording = own(tmp_path, "one_layer", diagnostics=())
    store.validate(recording)
    assert list(recording["layer"].values) == ["fc"]
    assert set(recording["cosine_error_signal_status"].values.ravel()) == {"", "exact"}
    assert answer(recording).findings == ()
