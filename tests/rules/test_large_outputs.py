"""DFA with low-rank, seeded and per-position feedback: sizes, equality, memory, refusals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from alignlab.engine.capture import Capture
from alignlab.engine.updates import Updates
from alignlab.errors import InputError, MeasurementError
from alignlab.feedback import DISTRIBUTIONS, Factored, Feedback, Positional, Seeded, as_tensor
from alignlab.probe import Probe
from alignlab.rules import BRSF, DFA
from alignlab.snapshot import MeasuredRule
from alignlab.specs import parse_rule

MANY, WIDE = 50_000, 512
LARGE = [DFA(rank=32), DFA(storage="seeded", distribution="uniform")]
FORMS = [
    DFA(rank=3),
    DFA(storage="seeded"),
    DFA(rank=2, structure="channel", shared=True),
    DFA(storage="seeded", structure="channel", shared=True),
    DFA(rank=2, granularity="micro", distribution="orthogonal"),
]
each_form = pytest.mark.parametrize("rule", FORMS, ids=lambda rule: rule.label)


class Tokens(nn.Module):
    """A token at a time: every layer acts on the last of three axes."""

    def __init__(self, positions: int = 3, vocabulary: int = 11) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 5)
        self.last = nn.Linear(5, vocabulary)
        self.positions = positions

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.second(torch.tanh(self.first(x)))))


def per_token(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, 1), target.flatten())


def tokens() -> tuple[nn.Module, Any, Tensor, Tensor]:
    torch.manual_seed(0)
    return Tokens().double(), per_token, torch.randn(5, 3, 4).double(), torch.arange(15) % 11


def pixels() -> tuple[nn.Module, Any, Tensor, Tensor]:
    """Return a segmentation network: its error is a map of the size of its entries."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(),
        nn.Conv2d(4, 6, 1),
    )  # fmt: skip
    target = torch.arange(3 * 16).reshape(3, 4, 4) % 6
    return model.double(), F.cross_entropy, torch.randn(3, 2, 4, 4).double(), target


def images() -> tuple[nn.Module, Any, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 7)
    )
    return model.double(), F.cross_entropy, torch.randn(6, 2, 6, 6).double(), torch.arange(6)


@contextmanager
def captured(case: tuple[nn.Module, Any, Tensor, Tensor]) -> Iterator[tuple[Capture, Tensor]]:
    capture = Capture(*case)
    try:
        yield capture, capture.reference().preactivation[capture.layout.outputs[0].name]
    finally:
        capture.close()


def written(feedback: Mapping[str, Feedback]) -> dict[str, Tensor]:
    return {name: as_tensor(one).double() for name, one in feedback.items()}


def assert_same(one: Updates, other: Updates) -> None:
    for kind in ("entry", "preactivation", "parameters"):
        found, expected = getattr(one, kind), getattr(other, kind)
        assert found.keys() == expected.keys()
        for name in found:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-14)


@each_form
def test_signals_are_those_of_the_matrix_written_out(rule: DFA) -> None:
    with captured(images()) as (capture, error):
        feedback = rule.start(capture, seed=1)
        assert all(isinstance(one, Factored | Seeded) for one in feedback.values())
        shapes = {
            layer.name: (7, *layer.entry_shape) for layer in capture.injection_layers("micro")
        }
        assert {name: tuple(one.shape) for name, one in feedback.items()} == shapes
        found = capture.direct(feedback, error=error, parameters=True)
        assert_same(found, capture.direct(written(feedback), error=error, parameters=True))


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("distribution", sorted({*DISTRIBUTIONS} - {"sparse"}))
def test_factored_feedback_has_the_rank_and_the_size_of_its_normalisation(
    distribution: str, rank: int
) -> None:
    with captured(images()) as (capture, _):
        layers = capture.injection_layers("micro")
        rule = DFA(rank=rank, distribution=distribution)
        draws = [written(rule.draw(layers, 40, seed=seed)) for seed in range(200)]
        for layer in layers:
            matrices = torch.stack([draw[layer.name].flatten(1) for draw in draws])
            assert set(torch.linalg.matrix_rank(matrices, rtol=1e-5).tolist()) == {rank}
            n = prod(layer.entry_shape)
            assert float(matrices.square().mean()) == pytest.approx(1 / (40 * n), rel=0.15)


def test_the_factor_at_the_error_is_one_for_all_layers() -> None:
    with captured(images()) as (capture, _):
        lefts = [one.left for one in DFA(rank=3).start(capture, seed=1).values()]
    assert len(lefts) == 2
    assert lefts[0] is lefts[1]


def test_seeded_feedback_has_the_size_of_its_normalisation() -> None:
    with captured(images()) as (capture, _):
        layers = capture.injection_layers("micro")
        for name, matrix in written(DFA(storage="seeded").draw(layers, 300, seed=0)).items():
            assert float(matrix.norm()) == pytest.approx(1.0, rel=0.05), name


@pytest.mark.parametrize("options", [{}, {"rank": 2}, {"storage": "seeded"}], ids=str)
@pytest.mark.parametrize("case", [tokens, pixels])
def test_one_matrix_acts_at_every_position_by_itself(case: Any, options: dict[str, Any]) -> None:
    with captured(case()) as (capture, error):
        rule = DFA(structure="position", **options)
        feedback = rule.start(capture, seed=1)
        found = capture.direct(feedback, error=error, parameters=True)
        for layer in capture.injection_layers("micro"):
            held = feedback[layer.name]
            assert isinstance(held, Positional)
            matrix = as_tensor(held.matrix).double()
            assert matrix.shape == (capture.layers[-1].channels, layer.channels)
            by_hand = "ntc,cd->ntd" if case is tokens else "nchw,cd->ndhw"
            expected = torch.einsum(by_hand, error, matrix)
            torch.testing.assert_close(found.entry[layer.name], expected)
        assert_same(found, capture.direct(written(feedback), error=error, parameters=True))


def test_without_positions_position_feedback_is_dense_feedback() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    with captured((model, F.cross_entropy, torch.randn(6, 4).double(), torch.arange(6) % 3)) as (
        capture,
        _,
    ):
        one, other = (DFA(structure=s).start(capture, seed=1) for s in ("position", "dense"))
        assert torch.equal(as_tensor(one["0"]), as_tensor(other["0"]))


def test_positions_that_do_not_agree_are_refused_by_name() -> None:
    with captured(images()) as (capture, _):
        text = r"entry of '0' has shape \(3, 4, 4\) and the error has positions \(\), .*=dense"
        with pytest.raises(MeasurementError, match=text):
            DFA(structure="position").start(capture, seed=1)


def test_channel_feedback_of_tokens_is_the_same_at_all_tokens() -> None:
    with captured(tokens()) as (capture, _):
        feedback = written(DFA(structure="channel").start(capture, seed=1))
        for matrix in feedback.values():
            assert torch.equal(matrix, matrix[:, :1].expand_as(matrix))
            assert matrix[:, 0].unique().numel() == matrix[:, 0].numel()


class Allocations(TorchDispatchMode):
    """Keeps the size of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = f(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.largest = max(self.largest, leaf.untyped_storage().nbytes())
        return result


def many_classes() -> tuple[nn.Module, Any, Tensor, Tensor]:
    """Return a network with a wide layer and a narrow one below 50,000 classes."""
    torch.manual_seed(0)
    layers = [nn.Linear(8, WIDE), nn.ReLU(), nn.Linear(WIDE, 4), nn.ReLU(), nn.Linear(4, MANY)]
    return nn.Sequential(*layers), F.cross_entropy, torch.randn(6, 8), torch.arange(6)


def test_the_accounting_sees_a_dense_matrix() -> None:
    with captured(many_classes()) as (capture, error):
        with Allocations() as seen:
            capture.direct(DFA().start(capture, seed=1), error=error)
        assert seen.largest >= 4 * MANY * WIDE


@pytest.mark.parametrize("rule", LARGE, ids=lambda rule: rule.label)
def test_fifty_thousand_classes_need_no_matrix_of_classes_by_units(rule: DFA) -> None:
    with captured(many_classes()) as (capture, error), Allocations() as seen:
        feedback = rule.start(capture, seed=1)
        found = capture.direct(feedback, error=error)
        some = [0, 17, MANY - 1]
        rows = (
            torch.cat([feedback["0"].rows(c, c + 1) for c in some])
            if isinstance(feedback["0"], Seeded)
            else feedback["0"].left[some] @ feedback["0"].right
        )
        only = torch.zeros(1, MANY).index_fill(1, torch.tensor(some), 1.0)
    torch.testing.assert_close(project_one(only, feedback["0"]), rows.sum(0, keepdim=True))
    assert found.entry["0"].abs().min() > 0
    assert seen.largest <= 4 * MANY * WIDE / 16


def project_one(error: Tensor, feedback: Any) -> Tensor:
    from alignlab.feedback import project

    return project(error, feedback, (1, WIDE))


@pytest.mark.parametrize("rule", LARGE, ids=lambda rule: rule.label)
def test_a_probe_of_fifty_thousand_classes_stays_small(rule: DFA) -> None:
    model, loss, x, y = many_classes()
    names = ["error-signal", "bottleneck", "weight-feedback", "alignment-matrix", "reach"]
    with Allocations() as seen, Probe(model, loss, rules=[rule], diagnostics=names, draws=32) as p:
        found = p.measure(x, y).isel(step=0, rule=0)
    assert np.isfinite(found["cosine_error_signal"].sel(layer="0", site="entry"))
    assert np.isfinite(found["width_bound"].sel(layer="0"))
    assert not [name for name in found if "weight_feedback" in name or "matrix" in name]
    assert seen.largest <= 4 * MANY * WIDE / 4


def numbers(found: xr.Dataset) -> dict[str, np.ndarray]:
    return {
        name: found[name].values
        for name in found.data_vars
        if found[name].dtype.kind == "f" and not any(w in name for w in ("_null", "_z", "_p"))
    }


@pytest.mark.parametrize(
    "rule",
    [
        *FORMS[:3],
        DFA(structure="position", rank=2),
        *(pytest.param(rule, marks=pytest.mark.slow) for rule in FORMS[3:]),
    ],
    ids=lambda rule: rule.label,
)
def test_every_diagnostic_gives_what_it_gives_of_the_matrix(rule: DFA) -> None:
    case = pixels() if rule.structure == "position" else images()
    with captured(case) as (capture, _):
        feedback = rule.start(capture, seed=1)
        plain = written(feedback)
    rules = [MeasuredRule(rule, held, "checkpoint", "same") for held in (feedback, plain)]
    model, loss, x, y = case
    recordings = []
    for each in rules:
        with Probe(model, loss, rules=[each], draws=32, save=["feedback"]) as probe:
            recordings.append(probe.measure(x, y))
            saved = probe.tensors
    assert "feedback_direct_0" in saved["0"]
    one, other = map(numbers, recordings)
    assert one.keys() == other.keys()
    for name, values in one.items():
        if "condition" in name:  # of matrices without full rank it is rounding
            continue
        np.testing.assert_allclose(values, other[name], rtol=1e-5, atol=1e-7, err_msg=name)


def test_factored_feedback_has_no_first_order_chance_level() -> None:
    model, loss, x, y = images()
    rules = [DFA(), DFA(rank=2), DFA(storage="seeded")]
    with Probe(model, loss, rules=rules, diagnostics=["error-signal"], draws=32) as probe:
        found = probe.measure(x, y).isel(step=0)
    methods = found["cosine_error_signal_flat_null_method"].sel(layer="0", site="entry")
    assert dict(zip(found["rule"].values, methods.values, strict=True)) == {
        "dfa": "closed form",
        "dfa(rank=2)": "redraws",
        "dfa(storage=seeded)": "closed form",
    }


def test_rule_specs_spell_the_options() -> None:
    assert parse_rule("dfa(rank=32)") == DFA(rank=32)
    text = "dfa(storage=seeded, structure=position)"
    assert parse_rule(text) == DFA(storage="seeded", structure="position")
    spelled = parse_rule("brsf(step=3, distribution=uniform)")
    assert spelled == BRSF(step=3, distribution="uniform")
    assert spelled.label == "brsf(distribution=uniform)"


def test_the_factors_are_saved_as_they_are() -> None:
    model, loss, x, y = images()
    with Probe(model, loss, rules=[DFA(rank=3)], diagnostics=[], draws=32, save=["feedback"]) as p:
        p.measure(x, y)
        assert p.tensors["0"]["feedback_direct_left_0"].shape == (7, 3)
        assert p.tensors["0"]["feedback_direct_right_0"].shape == (3, 3, 4, 4)


def test_a_draw_that_fills_the_memory_is_refused_with_the_ways_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from alignlab.rules import _drawn

    monkeypatch.setattr(_drawn, "LARGEST", 2**9)
    with captured(images()) as (capture, _):
        text = r"2 layers for 7 errors has 462 entries"
        DFA().start(capture, seed=1)
        monkeypatch.setattr(_drawn, "LARGEST", 2**8)
        with pytest.raises(MeasurementError, match=text) as caught:
            DFA().start(capture, seed=1)
        assert "rank=32, storage=seeded, or structure=position" in str(caught.value)
        for rule in (DFA(rank=2), DFA(storage="seeded"), DFA(structure="channel")):
            rule.start(capture, seed=1)
        with pytest.raises(MeasurementError, match="has 336 entries"):
            DFA(shared=True).start(capture, seed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": -1}, "rank=-1 is negative"),
        ({"storage": "disk"}, "choose dense or seeded"),
        ({"rank": 2, "storage": "seeded"}, "leave out storage=seeded, or rank"),
        ({"storage": "seeded", "distribution": "orthogonal"}, "choose normal, uniform or sign"),
        ({"structure": "token"}, "choose dense or channel or position"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DFA(**options)
