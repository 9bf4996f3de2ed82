"""The Jacobian of the output at every site, against PyTorch's own and against true signals."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from alignlab.engine.capture import Capture
from alignlab.engine.directions import Combinations, Units, sketch
from alignlab.engine.jacobian import Jacobian, sample_blocks
from alignlab.engine.jacobian_products import FeedbackProducts, GramMatrices
from alignlab.errors import InputError, MeasurementError, MissingError
from alignlab.rules import DFA
from alignlab.sites import ENTRY, PREACTIVATION, SITES, Layer
from tests.cases import CASES, Batch, Case
from tests.oracles.signals import same_randomness, signals

COUPLED = ("batch norm, training", "batch norm of maps", "residual", "conv2d, depthwise")
PAST_THE_OUTPUT = ("dictionary", "fields")
"""Their loss reaches a layer on a way that no Jacobian of the output knows."""
SEVERAL_OUTPUTS = ("two heads", "variational", "contrastive")
FUSED = (
    *("own attention", "encoder, evaluation", "vision transformer"),
    *("language model", "language model, tied"),
)
"""Their attention has no second derivative."""


def cases(*without: str) -> pytest.MarkDecorator:
    kept = {name: case for name, case in CASES.items() if name not in (*SEVERAL_OUTPUTS, *without)}
    return pytest.mark.parametrize("case", kept.values(), ids=kept)


each_case = cases(*PAST_THE_OUTPUT)
each_separate = cases(*PAST_THE_OUTPUT, *COUPLED)
each_in_one_graph = cases(*PAST_THE_OUTPUT, *COUPLED, "recomputed, reentrant")
each_differentiable = cases(*PAST_THE_OUTPUT, *COUPLED, *FUSED)


def in_float64(case: Case, *, n_samples: int = 4) -> Batch:
    batch = case.make(n_samples=n_samples)
    y = batch.y.double() if batch.y.is_floating_point() else batch.y
    x = batch.x.double() if batch.x.is_floating_point() else batch.x
    return Batch(batch.model.double(), batch.loss, x, y)


@contextmanager
def opened(batch: Batch) -> Iterator[tuple[Capture, Jacobian]]:
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    try:
        yield capture, Jacobian(capture)
    finally:
        capture.close()


def dense(batch: Batch, layer: Layer) -> Tensor:
    """Return PyTorch's Jacobian by zeros added to a layer's output, (n, errors, units)."""
    n = len(batch.x)

    def shifted(tap: Tensor) -> Tensor:
        count = 0

        def add(_: nn.Module, __: object, output: Tensor) -> Tensor:
            nonlocal count
            count += 1
            name = layer.module if count == 1 else f"{layer.module}@{count}"
            return output + tap if name == layer.name else output

        model = copy.deepcopy(batch.model)
        model.get_submodule(layer.module).register_forward_hook(add)
        with same_randomness():
            return model(batch.x)

    tap = torch.zeros((n, *layer.shape), dtype=torch.float64)
    whole = torch.autograd.functional.jacobian(shifted, tap)
    each = torch.arange(n)
    return whole.reshape(n, -1, n, tap[0].numel())[each, :, each]


@each_in_one_graph
def test_rows_are_those_of_pytorchs_jacobian(case: Case) -> None:
    batch = in_float64(case)
    expected = {}
    with opened(batch) as (capture, jacobian):
        for layer in jacobian.layers:
            expected[layer.name] = dense(batch, layer)
        rows = list(jacobian.rows())
        assert len(rows) == capture.n_errors
        for layer in jacobian.layers:
            found = torch.stack([row.preactivation[layer.name].flatten(1) for row in rows], 1)
            torch.testing.assert_close(found, expected[layer.name], rtol=1e-10, atol=1e-12)


@each_case
def test_the_error_pulled_back_is_the_true_signal_at_every_site(case: Case) -> None:
    batch = in_float64(case)
    expected = signals(batch)
    with opened(batch) as (capture, jacobian):
        error = expected.preactivation[capture.layout.outputs[0].name]
        found = jacobian.pulled_back(error)
        assert set(found.preactivation) == set(expected.preactivation)
        assert set(found.entry) == set(case.consumers)
        for name, signal in found.preactivation.items():
            true = expected.preactivation[name]
            torch.testing.assert_close(signal, true, rtol=1e-10, atol=1e-12)
        for name, consumer in case.consumers.items():
            true = expected.inputs[consumer]
            torch.testing.assert_close(found.entry[name], true, rtol=1e-10, atol=1e-12)


@each_separate
def test_the_rows_times_the_error_are_the_true_signal_at_every_site(case: Case) -> None:
    with opened(in_float64(case)) as (capture, jacobian):
        true = capture.reference()
        error = true.preactivation[capture.layout.outputs[0].name].flatten(1)
        total: dict[tuple[str, str], Tensor] = {}

        def add(number: int, layer: Layer, site: str, signal: Tensor) -> None:
            term = error[:, number].reshape(-1, *(1 for _ in signal.shape[1:])) * signal
            place = layer.name, site
            total[place] = total[place] + term if place in total else term

        jacobian.visit(add)
        for layer in jacobian.layers:
            for site, expected in ((ENTRY, true.entry), (PREACTIVATION, true.preactivation)):
                found = total[layer.name, site]
                torch.testing.assert_close(found, expected[layer.name], rtol=1e-10, atol=1e-12)


@each_differentiable
def test_a_tangent_pushed_forward_is_the_rows_times_it(case: Case) -> None:
    with opened(in_float64(case)) as (_, jacobian):
        rows = list(jacobian.rows())
        for layer in jacobian.layers:
            for site in SITES:
                at = [(r.entry if site == ENTRY else r.preactivation)[layer.name] for r in rows]
                tangent = torch.randn_like(at[0])
                expected = torch.stack([(r * tangent).flatten(1).sum(1) for r in at], 1)
                found = jacobian.pushed_forward(layer, site, tangent).flatten(1)
                torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", COUPLED)
def test_both_products_are_adjoint_where_samples_are_coupled(name: str) -> None:
    with opened(in_float64(CASES[name])) as (capture, jacobian):
        cotangent = torch.randn(capture.n_samples, capture.n_errors, dtype=torch.float64)
        back = jacobian.pulled_back(cotangent)
        for layer in jacobian.layers:
            tangent = torch.randn_like(back.preactivation[layer.name])
            forward = jacobian.pushed_forward(layer, PREACTIVATION, tangent).flatten(1)
            below = float((tangent * back.preactivation[layer.name]).sum())
            assert float((forward * cotangent).sum()) == pytest.approx(below, rel=1e-9, abs=1e-12)


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def test_rows_are_refused_where_samples_are_coupled() -> None:
    batches = [CASES[name].make() for name in COUPLED]
    centred = nn.Sequential(nn.Linear(6, 5), Centred(), nn.Tanh(), nn.Linear(5, 3))
    plain = CASES["tanh"].make()
    batches.append(Batch(centred, plain.loss, plain.x, plain.y))
    for batch in batches:
        with opened(batch) as (_, jacobian):
            with pytest.raises(MeasurementError, match=r"model\.eval\(\)"):
                next(jacobian.rows())
            with pytest.raises(MeasurementError, match="reaches others"):
                jacobian.visit()


class PerPosition(nn.Module):
    """A network whose output is a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mix, self.last = nn.Linear(5, 4), nn.Linear(3, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x)).transpose(1, 2)
        return self.last(torch.tanh(self.mix(h)).transpose(1, 2))


def test_one_unit_of_a_sequence_is_one_entry_of_the_flattened_output() -> None:
    torch.manual_seed(0)
    model, x = PerPosition().double(), torch.randn(4, 3, 5, dtype=torch.float64)
    batch = Batch(model, functional.mse_loss, x, torch.randn(4, 3, 2, dtype=torch.float64))
    with opened(batch) as (capture, jacobian):
        assert capture.n_errors == 6
        for layer in jacobian.layers:
            expected = dense(batch, layer)
            for unit, row in enumerate(jacobian.rows(jacobian.units([5, 2]))):
                found = row.preactivation[layer.name].flatten(1)
                torch.testing.assert_close(found, expected[:, (5, 2)[unit]])


class Attention(nn.Module):
    """Attention by a fused function, whose backward has no derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.value, self.last = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.inside(x))[:, None]
        value = self.value(h)
        return self.last(functional.scaled_dot_product_attention(h, h, value)[:, 0])


def test_fused_attention_has_rows_and_refuses_tangents_by_name() -> None:
    torch.manual_seed(0)
    model, x = Attention().double(), torch.randn(3, 6, 5, dtype=torch.float64)
    batch = Batch(model, functional.mse_loss, x, torch.randn(3, 6, 2, dtype=torch.float64))
    with opened(batch) as (_, jacobian):
        first = jacobian.layers[0]
        rows = torch.stack([r.preactivation[first.name].flatten(1) for r in jacobian.rows()], 1)
        torch.testing.assert_close(rows, dense(batch, first), rtol=1e-10, atol=1e-12)
        tangent = torch.randn(3, *first.shape, dtype=torch.float64)
        with pytest.raises(MeasurementError, match="'inside' cannot be applied to a tangent"):
            jacobian.pushed_forward(first, PREACTIVATION, tangent)


def test_gram_matrices_and_kept_rows_are_those_of_the_dense_jacobian() -> None:
    batch = in_float64(CASES["conv1d, strided"])
    with opened(batch) as (_, jacobian):
        layer = jacobian.layers[0]
        grams = GramMatrices(jacobian.units(), sites=[(layer.name, PREACTIVATION)])
        jacobian.visit(grams)
        expected = dense(batch, layer)
        torch.testing.assert_close(grams.rows(layer.name, PREACTIVATION), expected)
        found = grams.gram(layer.name, PREACTIVATION)
        torch.testing.assert_close(found, expected @ expected.mT, rtol=1e-10, atol=1e-12)
        with pytest.raises(MissingError, match="no products at"):
            grams.gram(layer.name, ENTRY)


def test_products_with_feedback_are_those_of_the_dense_jacobian() -> None:
    with opened(in_float64(CASES["conv2d, grouped"])) as (capture, jacobian):
        feedback = DFA().draw(capture.injection_layers("micro"), capture.n_errors, seed=1)
        feedback = {name: b.double() for name, b in feedback.items()}
        for directions in (jacobian.units(), jacobian.units([2, 0]), sketch(3, 5, seed=0)):
            products = FeedbackProducts(directions, feedback=feedback)
            jacobian.visit(products, directions=directions)
            rows = list(jacobian.rows(directions))
            for layer in jacobian.layers:
                own = torch.stack([row.entry[layer.name].flatten(1) for row in rows], 1)
                other = directions.times(feedback[layer.name])
                expected = own @ other.T
                torch.testing.assert_close(products.alignment(layer.name), expected)
                cosines = functional.cosine_similarity(own.flatten(1), other.flatten()[None])
                torch.testing.assert_close(products.cosine(layer.name), cosines)


def test_feeding_back_the_jacobian_of_a_linear_network_is_backpropagation() -> None:
    with opened(in_float64(CASES["linear"])) as (capture, jacobian):
        rows = list(jacobian.rows())
        feedback = {
            layer.name: torch.stack([row.entry[layer.name][0] for row in rows])
            for layer in jacobian.layers
        }
        true = capture.reference()
        error = true.preactivation[capture.layout.outputs[0].name]
        found = capture.direct(feedback, error=error)
        for name, expected in true.preactivation.items():
            torch.testing.assert_close(found.preactivation[name], expected)
        products = FeedbackProducts(jacobian.units(), feedback=feedback)
        jacobian.visit(products)
        for name in feedback:
            torch.testing.assert_close(products.cosine(name), torch.ones(4).double())


@pytest.mark.parametrize("distribution", ["normal", "sign"])
def test_a_sketch_is_unbiased(distribution: str) -> None:
    drawn = sketch(4, 20_000, seed=3, distribution=distribution).matrix
    torch.testing.assert_close(drawn.T @ drawn, torch.eye(4), rtol=0.0, atol=0.05)
    with opened(in_float64(CASES["tanh"])) as (_, jacobian):
        mixed = Combinations(torch.tensor([[1.0, -2.0, 0.5]]))
        (row,) = jacobian.rows(mixed)
        units = list(jacobian.rows())
        for name in ("0", "2"):
            first, second, third = (unit.entry[name] for unit in units)
            torch.testing.assert_close(row.entry[name], first - 2.0 * second + 0.5 * third)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_blocks_of_samples_have_the_rows_of_the_whole_batch(size: int) -> None:
    batch = in_float64(CASES["batch norm, evaluation"], n_samples=8)
    with opened(batch) as (_, jacobian):
        expected = list(jacobian.rows())
    seen = []
    for part, block in sample_blocks(batch.model, batch.loss, batch.x, batch.y, size=size):
        seen.append(part)
        for row, whole in zip(block.rows(), expected, strict=True):
            for name, signal in row.preactivation.items():
                torch.testing.assert_close(signal, whole.preactivation[name][part])
    assert sum(part.stop - part.start for part in seen) == 8
    assert all(p.grad is None for p in batch.model.parameters())


def test_several_output_layers_are_refused_by_name() -> None:
    with (
        pytest.raises(MeasurementError, match=r"several layers \(classes, values\)"),
        opened(in_float64(CASES["two heads"])),
    ):
        pass


def test_what_cannot_be_asked_for_is_refused() -> None:
    batch = CASES["tanh"].make()
    with opened(batch) as (_, jacobian):
        with pytest.raises(InputError, match="unit 3 was asked for"):
            jacobian.units([1, 3])
        with pytest.raises(InputError, match="no unit"):
            jacobian.units([])
    with pytest.raises(InputError, match="'uniform'"):
        sketch(3, 2, seed=0, distribution="uniform")
    with pytest.raises(InputError, match="Blocks of 0"):
        next(sample_blocks(batch.model, batch.loss, batch.x, batch.y, size=0))


def test_nothing_stays_on_the_graph_or_in_the_parameters() -> None:
    batch = CASES["tanh"].make()
    with opened(batch) as (capture, jacobian):
        before = capture.reference()

        def fails(number: int, layer: Layer, site: str, signal: Tensor) -> None:
            raise KeyError(layer.name)

        with pytest.raises(KeyError):
            jacobian.visit(fails)
        after = capture.reference()
        for name, signal in before.preactivation.items():
            assert torch.equal(signal, after.preactivation[name])
    assert all(p.grad is None for p in batch.model.parameters())


def test_units_of_all_are_the_identity() -> None:
    matrix = torch.randn(4, 2, 3)
    assert torch.equal(Units(range(4), 4).times(matrix), matrix.flatten(1))


def test_a_network_of_one_layer_has_no_site_and_separate_samples() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    capture = Capture(model, functional.cross_entropy, torch.randn(5, 4), torch.arange(5) % 3)
    rows = list(Jacobian(capture).rows())
    assert [sorted(each.preactivation) for each in rows] == [["0"]] * 3
    assert not any(each.entry for each in rows)
