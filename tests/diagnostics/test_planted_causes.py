"""Planted causes are found: one fault moves just the readings that it should, and no others."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from alignlab.diagnosis import answer
from tests.diagnostics.planted.fault import Fault
from tests.diagnostics.planted.faults import DENSE, FAULTS, NARROW, RANK, STALE
from tests.diagnostics.planted.matrix import Matrix, healthy_values, measured, shifts
from tests.diagnostics.planted.network import THEN, Planted, Recipe, planted
from tests.diagnostics.planted.readings import PANEL

SEEDS, FURTHER_SEEDS = (0, 1, 2), (3, 4, 5, 6, 7)
PAGE = Path(__file__).parents[2] / "docs" / "planted-causes.md"
CHANGED = {
    "narrow": {"weight fc1", "weight fc2", "feedback fc1"},
    "frozen": {"update"},
    "saturated": {"weight fc1"},
    "common": {"error"},
    "rank": {"error"},
    "dense": {"feedback conv1"},
    "head": {"weight head"},
    "scale": {"feedback fc1"},
    "unrelated": {"feedback fc1"},
    "stale": {"past"},
    "quantised": {"update"},
}
"""By fault what of the network, its batch and its rules is another."""

each_fault = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.short)


def parts(found: Planted) -> dict[str, Tensor]:
    """Return everything that a network's recording follows from, but the rule of its update."""
    sent, _ = found.rules
    state = found.model.state_dict()
    with torch.no_grad():
        error = found.model(found.x) - found.y
    return {
        "input": found.x,
        "error": error,
        **{f"weight {name.removesuffix('.weight')}": one for name, one in state.items()},
        **{f"feedback {name}": torch.as_tensor(one) for name, one in sent.feedback.items()},
    }


def different(fault: Fault) -> set[str]:
    """Return what a fault makes other than it is in the healthy network."""
    healthy, faulty = planted(Recipe()), planted(fault.recipe(0))
    one, other = parts(healthy), parts(faulty)
    found = {name for name in one if not same(one[name], other[name])}
    if healthy.rules[1].rule != faulty.rules[1].rule:
        found.add("update")
    past = [each.earlier[THEN] for each in (healthy, faulty)]
    weights_stay = not any(name.startswith("weight") for name in found)
    if weights_stay and not all(same(past[0][name], past[1][name]) for name in past[0]):
        found.add("past")
    return found


def same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=0.0, atol=1e-12)


@each_fault
def test_a_fault_is_one_change(fault: Fault) -> None:
    fields = {field.name for field in dataclasses.fields(Recipe)} - {"seed"}
    assert len(fault.change) == 1
    assert set(fault.change) < fields
    assert different(fault) == CHANGED[fault.short]


@each_fault
def test_what_must_move_is_far_from_what_may(fault: Fault) -> None:
    tolerances = {reading.name: reading.tolerance for reading in PANEL if not reading.is_guard}
    for name, move in fault.moves.items():
        assert abs(move.least) >= 2.0 * tolerances[name], name


def test_every_reading_is_moved_by_some_fault_or_is_a_guard() -> None:
    moved = {name for fault in FAULTS for name in fault.moves}
    assert {reading.name for reading in PANEL if not reading.is_guard} == moved


def test_no_two_faults_move_the_same_readings_the_same_way() -> None:
    patterns = [
        frozenset((name, move.least > 0) for name, move in fault.moves.items()) for fault in FAULTS
    ]
    assert len(set(patterns)) == len(FAULTS)


def test_healthy_networks_differ_by_less_than_the_tolerances() -> None:
    spread = healthy_values(SEEDS).std(0, ddof=1)
    loud = {
        reading.name: value
        for reading, value in zip(PANEL, spread, strict=True)
        if value > reading.tolerance
    }
    assert loud == {}


@each_fault
def test_a_fault_moves_just_what_it_should(fault: Fault) -> None:
    matrix = Matrix.of(SEEDS, faults=[fault])
    violations = matrix.violations()
    assert not violations, "\n".join(["", matrix.text(), *violations])


@pytest.mark.slow
def test_in_further_seeds_all_faults_move_just_what_they_should() -> None:
    matrix = Matrix.of(FURTHER_SEEDS)
    violations = matrix.violations()
    assert not violations, "\n".join(["", matrix.text(), *violations])


def test_one_fault_is_not_taken_for_another() -> None:
    taken = Matrix(SEEDS, [NARROW], shifts(RANK, SEEDS)[np.newaxis])
    found = "\n".join(taken.violations())
    assert "narrow layer: width bound, conv2 did not move" in found
    assert "narrow layer: numerical rank of the error moved by more" in found
    assert "dimensions of the true signal" not in found


def test_the_answer_names_the_narrow_layer_and_what_would_lift_it() -> None:
    healthy, faulty = (answer(measured(recipe)) for recipe in (Recipe(), NARROW.recipe(0)))
    assert {each.verdict for each in healthy.bottlenecks} == {"does not limit"}
    verdicts = {each.layer: each.verdict for each in faulty.bottlenecks}
    assert verdicts == {"conv1": "limits", "conv2": "limits", "fc1": "does not limit"}
    said = " ".join(faulty.paragraph)
    assert "fc1 (width 2) limits the cosine of conv1 to 0.65; conv2 to 0.65" in said
    assert "width >= 6 removes the limit" in said
    assert "Under signal no narrow layer limits the 3 layers below one" in " ".join(
        healthy.paragraph
    )


def test_the_answer_blames_incoherence_for_dense_feedback_alone() -> None:
    def blamed(recipe: Recipe) -> set[str]:
        found = [limit for limit in answer(measured(recipe)).limits if limit.rule == "signal"]
        return {limit.layer for limit in found if "coherence" in limit.limited_by}

    assert blamed(DENSE.recipe(0)) == {"conv1"}
    assert blamed(Recipe()) == blamed(NARROW.recipe(0)) == blamed(STALE.recipe(0)) == set()


def test_the_page_shows_these_faults_and_readings() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = {cells[0]: cells[1:] for line in lines if len(cells := cells_of(line)) > len(FAULTS)}
    assert rows["reading"] == [fault.short for fault in FAULTS]
    shown = {
        (name, short)
        for name, cells in rows.items()
        for short, cell in zip(rows["reading"], cells, strict=True)
        if cell.startswith("**")
    }
    assert shown == {(name, fault.short) for fault in FAULTS for name in fault.moves}
    assert set(rows) - {"reading", "---"} == {reading.name for reading in PANEL}
    assert all(move.because in "\n".join(lines) for f in FAULTS for move in f.moves.values())


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]
