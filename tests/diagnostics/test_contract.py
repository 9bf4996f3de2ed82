"""What every diagnostic can count on: states of earlier, reasons, work done together."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._run import recorded
from alignlab.diagnostics._together import fetched, together
from alignlab.engine.capture import Capture
from alignlab.errors import InputError
from alignlab.probe import Probe
from alignlab.recording import validate
from alignlab.rules import DFA
from alignlab.snapshot import Snapshot, halves
from tests.cases import CASES

LOSS = functional.cross_entropy


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.3), nn.ReLU(), nn.Linear(5, 4),
        nn.ReLU(), nn.Linear(4, 3),
    )  # fmt: skip


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(12, 6, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 3


def snapshot_of(model: nn.Module, **given: object) -> Snapshot:
    x, y = batch()
    capture = Capture(model, LOSS, x, y)
    true = capture.reference(parameters=True)
    return Snapshot(
        *(capture, LOSS, x, y, true, {}, (), halves(len(x), seed=0)),
        seed=0, draws=32, **given,
    )  # type: ignore[arg-type] # fmt: skip


def test_a_snapshot_at_an_earlier_state_is_one_of_a_model_with_that_state() -> None:
    model, other = network(), network()
    with torch.no_grad():
        for value in other.state_dict().values():
            value.add_(torch.ones_like(value))
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(7)
    snapshot = snapshot_of(model, earlier={"initial": other.state_dict()})
    torch.manual_seed(7)
    expected = Capture(other, LOSS, *batch()).reference(parameters=True)
    with snapshot.at("initial") as capture:
        found = capture.reference(parameters=True)
    for name, gradient in expected.parameters.items():
        torch.testing.assert_close(found.parameters[name], gradient)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    again = snapshot.capture.reference(parameters=True)
    for name, gradient in snapshot.true.parameters.items():
        assert torch.equal(again.parameters[name], gradient)


@pytest.mark.parametrize("broken", ["missing", "shape"])
def test_a_state_of_another_model_is_refused_by_name(broken: str) -> None:
    model = network()
    state = dict(model.state_dict())
    if broken == "missing":
        del state["4.weight"]
    else:
        state["4.weight"] = torch.zeros(2, 2)
    with pytest.raises(InputError, match=r"'initial'.*4\.weight"):
        Probe(model, LOSS, earlier={"initial": state})


def test_what_is_shared_is_made_once() -> None:
    calls = []

    def make(snapshot: Snapshot) -> int:
        calls.append(snapshot)
        return len(calls)

    snapshot = snapshot_of(network())
    assert [snapshot.shared(make), snapshot.shared(make)] == [1, 1]


class Partial(SnapshotDiagnostic):
    """Says something of the first layer alone."""

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable("partial", ("layer",), "A number"),
        Variable("looking_back", ("layer", "earlier"), "A vector"),
    )
    cost: ClassVar[float] = 0.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        first, second, _ = snapshot.layers
        yield Reading("partial", torch.tensor(2.0), layer=first.name)
        yield Reading("looking_back", torch.tensor([1.0, 3.0]), layer=first.name)
        yield NotDefined("it is the second", layer=second.name)
        yield NotDefined("it is the second", rule="dfa", layer=second.name)


def test_a_recording_says_why_there_is_no_number() -> None:
    model = network()
    earlier = {"initial": model.state_dict(), "step 3": model.state_dict()}
    snapshot = snapshot_of(model, earlier=earlier)
    recording = recorded(snapshot, {"partial": Partial()}, model)
    texts = recording["not_defined"].isel(step=0).sel(diagnostic="partial").values.tolist()
    second = "not defined for 4 because it is the second"
    under = "not defined for 4 under dfa because it is the second"
    assert texts == ["", f"{second}; {under}", ""]
    assert recording["partial"].isel(step=0, layer=0).item() == 2.0
    back = recording["looking_back"].isel(step=0, layer=0)
    assert back.sel(earlier="step 3").item() == 3.0
    validate(recording)


def test_work_together_is_work_one_by_one() -> None:
    stream = torch.Generator().manual_seed(0)
    rows = {
        name: (torch.randn(4, n, generator=stream), torch.randn(n, generator=stream))
        for name, n in [("a", 3), ("b", 5), ("c", 3), ("d", 3)]
    }
    shapes = []

    def kernel(first: Tensor, second: Tensor) -> Tensor:
        shapes.append(first.shape[0])
        return torch.einsum("bij,bj->bi", first, second)

    found = together(kernel, rows)
    assert list(found) == ["a", "b", "c", "d"]
    assert sorted(shapes) == [1, 3]
    for name, (first, second) in rows.items():
        torch.testing.assert_close(found[name], first @ second)


def test_fetched_arrays_have_the_values_and_shapes_of_their_tensors() -> None:
    tensors = [torch.tensor(1.5), torch.ones(2, 3), torch.zeros(0), torch.arange(3)]
    arrays = fetched(tensors)
    assert [array.shape for array in arrays] == [(), (2, 3), (0,), (3,)]
    for tensor, array in zip(tensors, arrays, strict=True):
        np.testing.assert_array_equal(array, tensor.double().numpy())
    assert fetched([]) == []


def test_measuring_leaves_the_given_states_and_the_twin_as_they_are() -> None:
    made = CASES["batch norm, training"].make()
    earlier = {"initial": copy.deepcopy(made.model.state_dict())}
    twin = copy.deepcopy(made.model)
    before = copy.deepcopy(twin.state_dict())
    with Probe(
        made.model, made.loss, rules=[DFA(seed=0)], draws=32, earlier=earlier, twin=twin,
    ) as probe:  # fmt: skip
        probe.measure(made.x, made.y)
    for name, value in twin.state_dict().items():
        assert torch.equal(value, before[name]), name


class Shorter(SnapshotDiagnostic):
    """Short vectors along two dimensions."""

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable("two_of_them", ("component",), "A vector"),
        Variable("few_counts", ("count",), "A vector with labels"),
    )
    coords: ClassVar[Mapping[str, Sequence[float]]] = {"count": (1, 2)}
    cost: ClassVar[float] = 0.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        del snapshot
        yield Reading("two_of_them", torch.arange(2.0))
        yield Reading("few_counts", torch.arange(2.0))


class Longer(Shorter):
    """The longer ones of them."""

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable("five_of_them", ("component",), "A longer vector"),
        Variable("many_counts", ("count",), "A longer vector with labels"),
    )
    coords: ClassVar[Mapping[str, Sequence[float]]] = {"count": (1, 2, 4)}

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        del snapshot
        yield Reading("five_of_them", torch.arange(5.0))
        yield Reading("many_counts", torch.arange(3.0))


@pytest.mark.parametrize("order", [("shorter", "longer"), ("longer", "shorter")])
def test_vectors_along_one_dimension_may_differ_in_length(order: tuple[str, str]) -> None:
    made: dict[str, SnapshotDiagnostic] = {"shorter": Shorter(), "longer": Longer()}
    model = network()
    found = recorded(snapshot_of(model), {name: made[name] for name in order}, model).isel(step=0)
    np.testing.assert_array_equal(found["two_of_them"], [0, 1, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(found["five_of_them"], np.arange(5))
    np.testing.assert_array_equal(found["few_counts"], [0, 1, np.nan])
    np.testing.assert_array_equal(found["few_counts"]["count"], [1, 2, 4])
    validate(found.expand_dims("step"))
