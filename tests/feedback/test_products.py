"""Products with feedback in every form, against the dense tensor in numpy."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from torch.utils._python_dispatch import TorchDispatchMode

from alignlab.errors import InputError, MeasurementError
from alignlab.feedback import (
    Factored,
    Positional,
    Projector,
    Seeded,
    as_tensor,
    back_project,
    decoded,
    digest,
    encoded,
    inner_products,
    n_entries,
    project,
    squared_norms,
)
from alignlab.feedback import _forms as forms
from tests.feedback.forms import Case, cases, random


@pytest.fixture(autouse=True)
def short_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few classes share a stream, so that small feedback comes from several."""
    monkeypatch.setattr(forms, "STREAM_ENTRIES", 8)


def close(found: torch.Tensor, expected: np.ndarray) -> None:
    assert tuple(found.shape) == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@given(case=cases())
def test_a_product_with_any_form_is_that_with_the_matrix(case: Case) -> None:
    feedback, whole, n = case
    error = random(n, whole.shape[0], seed=5)
    expected = np.tensordot(error.numpy(), whole, 1)
    close(project(error, feedback, expected.shape), expected)
    close(squared_norms(error, feedback), (expected**2).reshape(n, -1).sum(1))
    signal = random(*expected.shape, seed=6)
    back = signal.numpy().reshape(n, -1) @ whole.reshape(whole.shape[0], -1).T
    close(back_project(signal, feedback), back)
    inner = (signal.numpy() * expected).reshape(n, -1).sum(1)
    close(inner_products(signal, error, feedback), inner)


@given(case=cases())
def test_feedback_written_out_is_the_matrix(case: Case) -> None:
    feedback, whole, _ = case
    assert tuple(feedback.shape) == whole.shape
    np.testing.assert_allclose(as_tensor(feedback).double().numpy(), whole, atol=1e-6)


@given(case=cases())
def test_feedback_survives_the_way_through_a_file(case: Case, tmp_path_factory: Any) -> None:
    feedback, whole, n = case
    path = tmp_path_factory.mktemp("stored") / "a.pt"
    torch.save(encoded({"a": feedback}), path)
    again = decoded(torch.load(path, weights_only=True)["a"])
    assert digest({"a": again}) == digest({"a": feedback})
    error = random(n, whole.shape[0], seed=5)
    shape = (n, *whole.shape[1:])
    torch.testing.assert_close(project(error, again, shape), project(error, feedback, shape))


def seeded(**changed: Any) -> Seeded:
    options: dict[str, Any] = {"seed": 3, "names": ("dfa", "a"), "shape": (11, 3), "drawn": (3,)}
    options |= {"width": 3, "distribution": "uniform", "factor": 2.0}
    return Seeded(**(options | changed))


@pytest.mark.parametrize("block", [1, 2, 5, 7, 11, 100])
def test_seeded_numbers_do_not_depend_on_how_many_classes_are_formed_at_once(block: int) -> None:
    one, other = seeded(), seeded(block=block)
    pieces = [rows for _, _, rows in other.blocks()]
    assert [len(rows) for rows in pieces] == [*[block] * (11 // block), 11 % block][: len(pieces)]
    assert torch.equal(torch.cat(pieces), one.rows(0, 11))
    assert torch.equal(one.rows(4, 9), one.rows(0, 11)[4:9])
    assert digest({"a": one}) == digest({"a": other})


@pytest.mark.parametrize("distribution", ["normal", "uniform", "sign"])
def test_seeded_entries_have_the_stated_size_and_no_two_classes_are_one(distribution: str) -> None:
    rows = seeded(
        shape=(400, 30), drawn=(30,), width=30, distribution=distribution, factor=0.1
    ).rows(0, 400)
    assert float(rows.mean()) == pytest.approx(0.0, abs=0.003)
    assert float(rows.square().mean()) == pytest.approx(0.01, rel=0.03)
    gram = (rows @ rows.T / 30 / 0.01).fill_diagonal_(0.0)
    assert float(gram.abs().max()) < 0.99


@pytest.mark.parametrize(
    "changed", [{"seed": 4}, {"names": ("dfa", "b")}, {"width": 4}, {"distribution": "normal"}]
)
def test_seeded_feedback_of_another_description_is_another(changed: dict[str, Any]) -> None:
    assert not torch.equal(seeded().rows(0, 11), seeded(**changed).rows(0, 11))
    assert digest({"a": seeded()}) != digest({"a": seeded(**changed)})


class Products(TorchDispatchMode):
    """Counts products whose second factor has a number of rows."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.count: Counter[bool] = Counter()
        self._rows = rows

    def __torch_dispatch__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if f is torch.ops.aten.mm.default:
            self.count[args[1].shape[0] == self._rows] += 1
        assert f is not torch.ops.aten._local_scalar_dense.default
        return f(*args, **(kwargs or {}))


def test_a_left_factor_that_layers_share_is_applied_once() -> None:
    left = random(50, 2, seed=0)
    layers = {n: Factored(left, random(2, n, seed=n)) for n in (3, 4, 5)}
    error = random(6, 50, seed=1)
    projector = Projector(error)
    with Products(50) as products:
        for n, feedback in layers.items():
            found = projector(feedback, (6, n))
            close(found, error.numpy() @ left.numpy() @ feedback.right.numpy())
    assert products.count == {True: 1, False: 3}


def test_what_is_held_is_counted() -> None:
    factored = Factored(random(50, 2, seed=0), random(2, 3, 4, seed=1))
    assert n_entries(factored) == 100 + 24
    assert n_entries(seeded()) == 0
    assert n_entries(Positional(random(7, 3, seed=0), (5, 7), -1, (5, 3), -1)) == 21


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Factored(torch.ones(4, 2), torch.ones(3, 5)), r"\(4, 2\) and \(3, 5\) have no"),
        (lambda: seeded(distribution="orthogonal"), "class by class, which 'orthogonal' cannot"),
        (lambda: seeded(drawn=(2,)), r"Rows drawn as \(2,\) .* shape \(11, 3\)"),
        (lambda: seeded(width=2), "of 2 entries do not make"),
        (
            lambda: Positional(torch.ones(7, 3), (5, 7), -1, (4, 3), -1),
            r"from errors of shape \(5, 7\) to entries of shape \(4, 3\)",
        ),
        (lambda: decoded({"form": "sparse"}), "form 'sparse'"),
        (lambda: decoded({"form": "factored", "left": torch.ones(2, 2)}), "KeyError: 'right'"),
    ],
)
def test_forms_that_are_not_whole_are_refused(build: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()


@given(case=cases())
def test_an_error_that_does_not_fit_is_refused(case: Case) -> None:
    feedback, whole, n = case
    error = random(n, whole.shape[0] + 1, seed=5)
    with pytest.raises(MeasurementError, match="does not fit an error of shape"):
        project(error, feedback, (n, *whole.shape[1:]))
