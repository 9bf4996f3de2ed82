"""Other checkpoints beside the analysed one: earlier states and a twin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from alignlab.analyze import analyze_checkpoint
from alignlab.diagnostics import _run
from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.errors import AlignlabError, InputError
from alignlab.rules import DFA
from alignlab.snapshot import Snapshot
from alignlab.training import save_checkpoint
from tests.analyze.checkpoints import analyse, trained


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for epochs in (0, 1, 2):
        found[f"{epochs}"] = tmp_path / f"{epochs}.pt"
        save_checkpoint(found[f"{epochs}"], *trained(DFA(seed=5), epochs), feedback=True)
    return found


class Moved(SnapshotDiagnostic):
    """How far weights have moved since every earlier state, and are from the twin's."""

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable("moved", ("layer", "earlier"), "Distance"),
        Variable("apart", ("layer",), "Distance"),
    )
    cost: ClassVar[float] = 0.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        assert snapshot.twin is not None
        other = dict(snapshot.twin.named_modules())
        for layer in snapshot.layers:
            weight = snapshot.capture.weight_of(layer)
            key = f"{layer.module}.weight"
            moved = [(weight - state[key]).norm() for state in snapshot.earlier.values()]
            yield Reading("moved", torch.stack(moved), layer=layer.name)
            twin = other[layer.module]
            assert isinstance(twin, nn.Linear | nn.Conv2d)
            yield Reading("apart", (weight - twin.weight).norm().detach(), layer=layer.name)


def weights(path: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["model"]
    return found


def test_diagnostics_are_given_the_states_and_the_twin_of_the_files(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_run, "_diagnostic", lambda _name: Moved())
    earlier = {"initial": str(files["0"]), "1": str(files["1"])}
    found = analyse(
        files["2"], rules=["dfa"], diagnostics=["reach"], earlier=earlier, twin=str(files["1"])
    ).recording
    here, before = weights(files["2"]), {label: weights(Path(f)) for label, f in earlier.items()}
    for layer in found["layer"].values:
        for label, state in before.items():
            expected = (here[f"{layer}.weight"] - state[f"{layer}.weight"]).norm().item()
            value = found["moved"].isel(step=0).sel(layer=layer, earlier=label).item()
            assert value == pytest.approx(expected, rel=1e-6)
            assert value > 0
        apart = found["apart"].isel(step=0).sel(layer=layer).item()
        assert apart == pytest.approx(found["moved"].isel(step=0).sel(layer=layer)[1].item())
    assert found.attrs["earlier"] == "initial=0.pt, 1=1.pt"
    assert found.attrs["twin"] == "1.pt"


@pytest.mark.parametrize("given", [{"earlier": {"initial": "0.pt"}}, {"twin": "0.pt"}])
def test_other_checkpoints_without_a_model_are_refused(
    files: dict[str, Path], given: dict[str, object]
) -> None:
    with pytest.raises(InputError, match="add --model and --data"):
        analyze_checkpoint(files["2"], **given)


def test_a_missing_earlier_file_is_named(files: dict[str, Path]) -> None:
    with pytest.raises(AlignlabError, match=r"nowhere\.pt"):
        analyse(files["2"], rules=["dfa"], earlier={"initial": "nowhere.pt"})
