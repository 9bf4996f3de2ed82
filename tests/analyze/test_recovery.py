"""Lost feedback out of two files: what is found, and what is never claimed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
import xarray as xr
from torch import Tensor

from alignlab import recording as store
from alignlab.analyze import Analysis, recovered_feedback
from alignlab.diagnosis import answer
from alignlab.errors import CheckpointError, InputError
from alignlab.report import render
from alignlab.rules import DFA
from tests.analyze.checkpoints import written
from tests.oracles.direct_training import Trained, states, train

State = dict[str, Tensor]


def recovered(folder: Path, pair: tuple[State, State], **options: Any) -> Analysis:
    """Save a network before and after, and recover."""
    names = ("before.pt", "after.pt")
    for name, state in zip(names, pair, strict=True):
        torch.save(state, folder / name)
    analysis = recovered_feedback(folder / names[0], folder / names[1], **options)
    store.validate(analysis.recording)
    return analysis


def tensors(trained: Trained) -> tuple[State, State]:
    before, after = (
        {name: torch.from_numpy(array) for name, array in state.items()}
        for state in states(trained)
    )
    return before, after


def status(analysis: Analysis, layer: str = "fc1") -> tuple[str, str]:
    place = analysis.recording.isel(step=0).sel(layer=layer)
    return place["feedback_space_status"].item(), place["feedback_space_limits"].item()


def basis(analysis: Analysis, layer: str) -> np.ndarray:
    found: np.ndarray = analysis.tensors[layer]["feedback_space"].values
    return found


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def low_rank(shape: tuple[int, int], rank: int = 5, seed: int = 1) -> Tensor:
    return normal(shape[0], rank, seed=seed) @ normal(rank, shape[1], seed=seed + 1)


def test_the_feedback_of_a_linear_network_is_recovered_in_every_hidden_layer(
    tmp_path: Path,
) -> None:
    trained = train("linear", rate=0.02)
    analysis = recovered(tmp_path, tensors(trained))
    for layer, feedback in zip(("fc1", "fc2"), trained.feedback, strict=True):
        assert status(analysis, layer)[0] == "recovered"
        angles = scipy.linalg.subspace_angles(basis(analysis, layer), feedback)
        assert np.rad2deg(angles).max() < 1e-5
    place = analysis.recording.isel(step=0).sel(layer="fc2")
    assert place["feedback_space_rank"] == place["feedback_space_rank_expected"] == 5
    assert place["feedback_space_bias"] == pytest.approx(1.0)
    assert place["feedback_space_explained_chance"] < 0.5
    status_of_output, text = status(analysis, "fc3")
    assert status_of_output == "not identifiable"
    assert "output layer" in text


def test_float32_files_hide_nothing_of_a_linear_network(tmp_path: Path) -> None:
    trained = train("linear", rate=0.02)
    pair = tuple({name: one.float() for name, one in state.items()} for state in tensors(trained))
    analysis = recovered(tmp_path, (pair[0], pair[1]))
    assert status(analysis)[0] == "recovered"
    angles = scipy.linalg.subspace_angles(basis(analysis, "fc1"), trained.feedback[0])
    assert np.rad2deg(angles).max() < 0.01


@pytest.mark.parametrize("units", ["tanh", "relu"])
def test_gated_units_are_recovered_in_part_and_said_to_be(tmp_path: Path, units: Any) -> None:
    found, text = status(recovered(tmp_path, tensors(train(units))))
    assert found == "partly"
    for word in ("scale", "sign", "mixing", "mean derivative"):
        assert word in text


@pytest.mark.parametrize("units", ["linear", "tanh", "relu"])
@pytest.mark.parametrize("layer", ["fc1", "fc2"])
def test_backpropagation_is_never_taken_for_feedback(
    tmp_path: Path, units: Any, layer: str
) -> None:
    analysis = recovered(tmp_path, tensors(train(units, rule="bp")))
    found, text = status(analysis, layer)
    assert found == "not identifiable"
    assert "as under backpropagation" in text


def test_stored_feedback_that_did_not_act_is_found_out(tmp_path: Path) -> None:
    """The feedback and the rule in the file belong to another training."""
    trained = train("tanh", rule="bp")
    before, after = tensors(trained)
    feedback = {f"fc{place}": torch.from_numpy(b.T) for place, b in enumerate(trained.feedback, 1)}
    content = {"model": after, "alignlab": {"schema": 1, "rule": "dfa", "feedback": feedback}}
    torch.save(before, tmp_path / "before.pt")
    torch.save(content, tmp_path / "after.pt")
    analysis = recovered_feedback(tmp_path / "before.pt", tmp_path / "after.pt")
    found, text = status(analysis)
    assert found == "not identifiable"
    assert "no nearer to the stored feedback than chance" in text


def test_a_file_that_names_another_rule_is_believed(tmp_path: Path) -> None:
    before, after = tensors(train("linear"))
    content = {"model": after, "alignlab": {"schema": 1, "rule": "fa", "rule_spec": "fa"}}
    torch.save(before, tmp_path / "before.pt")
    torch.save(content, tmp_path / "after.pt")
    found, text = status(recovered_feedback(tmp_path / "before.pt", tmp_path / "after.pt"))
    assert found == "not identifiable"
    assert "trained by fa" in text


def test_our_trainers_feedback_lies_in_what_is_found(tmp_path: Path) -> None:
    """Two files of one training: of no steps and of ten epochs."""
    from tests.analyze.checkpoints import ARGUMENTS, SPEC, build_model

    torch.manual_seed(0)
    torch.save(build_model(SPEC, ARGUMENTS).state_dict(), tmp_path / "initial.pt")
    analysis = recovered_feedback(tmp_path / "initial.pt", written(tmp_path, DFA(seed=5)))
    place = analysis.recording.isel(step=0).sel(layer="fc1")
    assert place["feedback_space_status"] == "partly"
    assert place["feedback_space_overlap"] > place["feedback_space_overlap_chance"] + 0.2
    assert np.isfinite(place["feedback_space_angle"])


def test_squared_error_shows_as_many_directions_as_outputs(tmp_path: Path) -> None:
    analysis = recovered(tmp_path, tensors(train("linear", loss="squared", rate=0.02)), loss="mse")
    assert status(analysis)[0] == "recovered"
    assert analysis.recording["feedback_space_rank"].values[0, 0] == 6


def test_two_classes_give_one_direction(tmp_path: Path) -> None:
    analysis = recovered(tmp_path, tensors(train("linear", outputs=2)))
    assert status(analysis)[0] == "recovered"
    assert basis(analysis, "fc1").shape == (60, 1)


def test_convolutions_are_read_channel_by_channel(tmp_path: Path) -> None:
    before = {"conv.weight": normal(16, 3, 3, 3), "fc.weight": normal(6, 64)}
    change = low_rank((16, 27)).reshape(16, 3, 3, 3)
    after = {"conv.weight": before["conv.weight"] + change, "fc.weight": before["fc.weight"] + 1.0}
    analysis = recovered(tmp_path, (before, after))
    assert status(analysis, "conv")[0] == "recovered"
    angles = scipy.linalg.subspace_angles(basis(analysis, "conv"), normal(16, 5, seed=1).numpy())
    assert np.rad2deg(angles).max() < 1e-6


def test_embeddings_are_read_with_their_outputs_along_the_columns(tmp_path: Path) -> None:
    before = {"emb.weight": normal(40, 12), "fc.weight": normal(6, 12)}
    change = low_rank((12, 40)).T
    after = {"emb.weight": before["emb.weight"] + change, "fc.weight": before["fc.weight"] + 1.0}
    analysis = recovered(tmp_path, (before, after))
    assert basis(analysis, "emb").shape == (12, 5)


def test_transposed_convolutions_are_told_by_their_bias(tmp_path: Path) -> None:
    before = {"up.weight": normal(10, 16, 3, 3), "up.bias": normal(16), "fc.weight": normal(6, 64)}
    change = low_rank((16, 90)).reshape(16, 10, 3, 3).transpose(0, 1)
    after = {name: one + 1.0 for name, one in before.items()}
    after["up.weight"] = before["up.weight"] + change
    analysis = recovered(tmp_path, (before, after))
    assert status(analysis, "up")[0] == "recovered"
    assert basis(analysis, "up").shape == (16, 5)


LOST: dict[str, tuple[tuple[int, int], Any, str]] = {
    "unchanged": ((20, 20), 0.0, "did not change"),
    "narrow": ((5, 20), low_rank((5, 20)), "5 units for errors of rank 5 every difference"),
    "few inputs": ((20, 5), low_rank((20, 5)), "5 inputs a unit for errors of rank 5 any rule"),
    "no gap": ((20, 20), normal(20, 20, seed=3), "no gap within 6 directions"),
}


@pytest.mark.parametrize(("shape", "change", "words"), LOST.values(), ids=LOST)
def test_what_no_difference_can_show_is_said_by_layer(
    tmp_path: Path, shape: tuple[int, int], change: Any, words: str
) -> None:
    before = {"fc1.weight": normal(*shape), "fc2.weight": normal(6, 9)}
    after = {name: weight + 1.0 for name, weight in before.items()}
    after["fc1.weight"] = before["fc1.weight"] + change
    found, text = status(recovered(tmp_path, (before, after)))
    assert found == "not identifiable"
    assert words in text


def test_tied_weights_are_not_told_apart(tmp_path: Path) -> None:
    before = {
        "fc1.weight": normal(20, 20),
        "fc2.weight": normal(20, 20),
        "out.weight": normal(6, 9),
    }
    shared = normal(20, 20, seed=5)
    after = {"fc1.weight": shared, "fc2.weight": shared.clone(), "out.weight": normal(6, 9, seed=1)}
    found, text = status(recovered(tmp_path, (before, after)))
    assert found == "not identifiable"
    assert "tied to those of fc2" in text


def refusal(folder: Path, before: State, after: State) -> str:
    with pytest.raises(CheckpointError) as caught:
        recovered(folder, (before, after))
    return str(caught.value)


def test_files_that_do_not_belong_together_are_refused_by_layer(tmp_path: Path) -> None:
    one = {"fc1.weight": normal(20, 20), "fc2.weight": normal(6, 20)}
    text = refusal(tmp_path, one, one | {"fc1.weight": normal(20, 21)})
    assert "fc1.weight has shape (20, 20)" in text
    assert "(20, 21)" in text
    assert "fc3.weight" in refusal(tmp_path, one, one | {"fc3.weight": normal(6, 6)})
    broken = one | {"fc1.weight": torch.full((20, 20), torch.nan, dtype=torch.float64)}
    assert "after.pt holds NaN" in refusal(tmp_path, one, broken)
    assert "before.pt holds NaN" in refusal(tmp_path, broken, one)


def test_a_number_of_outputs_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="number of outputs is 0"):
        recovered(tmp_path, tensors(train("linear", steps=2)), n_errors=0)


@pytest.mark.parametrize("name", ["run.nc", "run.zarr"])
def test_the_recording_and_its_basis_return_from_the_disk(tmp_path: Path, name: str) -> None:
    analysis = recovered(tmp_path, tensors(train("tanh")), command="alignlab analyze")
    store.save(analysis.recording, tmp_path / name, tensors=analysis.tensors)
    loaded = store.load(tmp_path / name)
    xr.testing.assert_identical(loaded, analysis.recording)
    assert loaded.attrs["since"] == "before.pt"
    assert (loaded.attrs["n_errors"], loaded.attrs["recording_kind"]) == (6, "weights")
    held = store.load_tensors(tmp_path / name)
    assert sorted(held) == ["fc1", "fc2"]
    xr.testing.assert_identical(held["fc1"], analysis.tensors["fc1"])
    assert answer(loaded).paragraph
    assert "<html" in render(loaded)
