"""What cannot be measured truthfully is refused by name, and what can is not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from alignlab.engine.capture import Capture
from alignlab.errors import MeasurementError
from alignlab.kernels.cosines import cosine
from alignlab.rules import FA
from tests.cases import CASES
from tests.oracles.signals import signals

Forward = Callable[["Three", Tensor], Tensor]


class Three(nn.Module):
    """Three layers and a forward pass that is given."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 7), nn.Linear(7, 7), nn.Linear(7, 3)
        self.given = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.given(self, x)


def captured(model: nn.Module | Forward, *shape: int, loss: Any = None) -> Capture:
    """Capture a model or forward pass on eight samples of six numbers."""
    torch.manual_seed(0)
    model = model if isinstance(model, nn.Module) else Three(model)
    loss = functional.cross_entropy if loss is None else loss
    return Capture(model, loss, torch.randn(*(shape or (8, 6))), torch.arange(8) % 3)


def plain(model: Three, x: Tensor) -> Tensor:
    return model.c(torch.relu(model.b(torch.relu(model.a(x)))))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.ReLU(), "ReLU has no Linear and no Conv"),
        (nn.Sequential(nn.LSTM(6, 7)), "Sequential has no Linear and no Conv"),
        (nn.MultiheadAttention(6, 1), "MultiheadAttention has no Linear and no Conv"),
        (nn.Sequential(nn.LazyLinear(7), nn.Linear(7, 3)), "weight of '0' has no shape yet"),
        (nn.Linear(6, 3, device="meta"), "'weight' is on the meta device and has no values"),
    ],
)
def test_layers_that_cannot_be_seen_are_refused_by_name(model: nn.Module, message: str) -> None:
    with pytest.raises(MeasurementError, match=message):
        captured(model)


class Straight(torch.autograd.Function):
    """A sign with a backward pass that is not its own."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(_: Any, signal: Tensor) -> Tensor:
        return signal


def test_a_backward_written_by_hand_is_refused_by_name() -> None:
    def forward(model: Three, x: Tensor) -> Tensor:
        return model.c(Straight.apply(model.b(torch.relu(model.a(x)))))

    with pytest.raises(MeasurementError, match="custom autograd function 'Straight'"):
        captured(forward)


def test_a_model_with_two_outputs_has_no_only_one() -> None:
    def forward(model: Three, x: Tensor) -> Tensor:
        h = torch.relu(model.a(x))
        return model.c(h) + model.b(h)[:, :3]

    layout = captured(forward).layout
    assert [layer.name for layer in layout.outputs] == ["c", "b"]
    assert layout.only_output is None


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda output, _: output.square(), "must return one number; reduce it"),
        (lambda _, __: 1.0, "must return one number"),
        (lambda output, _: output.sum() * float("nan"), "loss is nan; check weights"),
        (lambda output, _: (output.sum() * 1e38).exp(), "loss is inf; check weights"),
        (lambda output, _: output.detach().sum(), "does not depend on any parameter"),
        (
            lambda output, _: torch.ones((), requires_grad=True) * output.detach().sum(),
            "does not depend on any measured layer",
        ),
    ],
)
def test_a_loss_without_a_gradient_of_its_own_is_refused(loss: Any, message: str) -> None:
    with pytest.raises(MeasurementError, match=message):
        captured(lambda model, x: plain(model, x).abs() + 1.0, loss=loss)


def test_a_model_without_trainable_parameters_is_refused() -> None:
    with pytest.raises(MeasurementError, match="any parameter that requires a gradient"):
        captured(Three(plain).requires_grad_(False))


def test_samples_that_are_folded_into_another_axis_are_refused_by_name() -> None:
    def forward(model: Three, x: Tensor) -> Tensor:
        h = torch.relu(model.a(x.flatten(0, 1))).unflatten(0, (8, 4))
        return model.c(torch.relu(model.b(h)).mean(1))

    with pytest.raises(MeasurementError, match="'a' runs on 32 rows, the last layer 'c' on 8"):
        captured(forward, 8, 4, 6)


@pytest.mark.parametrize(
    ("model", "shape"), [(Three(plain), (6,)), (nn.Conv2d(1, 3, 2), (1, 2, 2))]
)
def test_a_single_sample_without_an_axis_is_refused(model: nn.Module, shape: Any) -> None:
    with pytest.raises(MeasurementError, match="give it an axis of samples"):
        captured(model, *shape, loss=lambda output, _: output.sum())


def test_a_layer_that_is_called_by_keyword_is_refused_by_name() -> None:
    with pytest.raises(MeasurementError, match="'b' was called without a tensor as its first"):
        captured(lambda model, x: model.c(model.b(input=model.a(x))))


@pytest.mark.parametrize("name", ["tanh", "conv2d, grouped"])
def test_a_weight_that_changed_before_the_backward_pass_is_refused_by_name(name: str) -> None:
    batch = CASES[name].make()
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    last = capture.layers[1]
    weight = capture.module_of(last).weight
    assert isinstance(weight, nn.Parameter)
    with torch.no_grad():
        weight.mul_(1.1)
    with pytest.raises(MeasurementError, match=f"'{last.name}' changed .* before the optimizer"):
        capture.reference()


def test_a_saved_tensor_that_changed_in_place_is_refused() -> None:
    def forward(model: Three, x: Tensor) -> Tensor:
        h = torch.tanh(model.a(x))
        output = model.c(torch.relu(model.b(h.clone())) + torch.sigmoid(h))
        h.add_(1.0)
        return output

    capture = captured(forward)
    with pytest.raises(MeasurementError, match=r"shape \(8, 7\) .* was changed in place"):
        capture.reference()


def recomputed(model: Three, x: Tensor) -> Tensor:
    def stretch(h: Tensor) -> Tensor:
        return torch.relu(model.b(functional.dropout(h, 0.3)))

    h = torch.relu(model.a(x))
    return model.c(checkpoint(stretch, h, use_reentrant=False))


def test_weights_that_the_exchange_did_not_see_are_refused_by_name() -> None:
    capture = captured(recomputed)
    with pytest.raises(MeasurementError, match="The weight of b was not seen"):
        capture.replaced(FA().backward_weights(capture.module_weights(), seed=0))


def test_recomputed_activations_give_the_true_gradient() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        capture = captured(recomputed)
        first, second = (capture.reference() for _ in range(2))
    for name, signal in first.preactivation.items():
        assert torch.equal(signal, second.preactivation[name])


def test_layers_that_the_loss_does_not_see_are_left_out() -> None:
    def forward(model: Three, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = torch.relu(model.a(x))
        return model.c(torch.relu(h @ h.T @ x @ x.T @ h))

    assert [layer.name for layer in captured(forward).layers] == ["c"]


def test_frozen_layers_below_all_others_are_left_out_and_named() -> None:
    model = Three(plain)
    model.a.requires_grad_(False)
    capture = captured(model)
    assert [layer.name for layer in capture.layers] == ["b", "c"]
    assert capture.without_gradient == ("a",)


def test_a_model_that_is_compiled_is_probed_uncompiled() -> None:
    batch = CASES["tanh"].make()
    compiled: Any = torch.compile(batch.model, backend="eager")
    capture = Capture(compiled, batch.loss, batch.x, batch.y)
    expected = signals(batch)
    for name, signal in capture.reference().preactivation.items():
        similarity = cosine(signal.flatten(), expected.preactivation[name].flatten())
        assert similarity == pytest.approx(1.0)
