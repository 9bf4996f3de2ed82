"""Models and files of biotorch: what its backward pass uses is what we find."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab.checkpoints import describe, fit, match_names, open_checkpoint, plain_twin
from tests.checkpoints.nets import saved

pytestmark = pytest.mark.peers

MODES = ("fa", "dfa", "usf", "brsf", "frsf")
CLASSES = 3


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3))


def convolutional(**options: Any) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=2, **options),
        nn.Tanh(),
        nn.Conv2d(4, 5, 3, padding=1, dilation=1, **options),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(5 * 16, 3),
    )


def converted(model: nn.Module, mode: str, **options: Any) -> Any:
    from biotorch.module.biomodule import BioModule

    torch.manual_seed(5)
    settings = {"constrain_weights": False, "gradient_clip": False, "init": "xavier", **options}
    config = {"type": mode, "options": settings}
    model = BioModule(model, mode=mode, layer_config=config, output_dim=CLASSES)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter) if parameter.requires_grad else 0)
    return model


def backward(model: Any, x: Tensor, y: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output = model(x, targets=y, loss_function=F.cross_entropy)
        F.cross_entropy(output, y).backward()


def outputs(model: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = model.module(x)
    return result


@pytest.fixture
def x() -> Tensor:
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(5, 2, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("training", [False, True])
def test_the_twin_of_a_network_has_its_outputs(x: Tensor, mode: str, training: bool) -> None:
    model = converted(network(), mode).train(training)
    twin = plain_twin(model, x)
    assert twin.replaced == ("0", "2", "4")
    assert {type(module) for module in twin.model} == {nn.Linear, nn.Tanh}
    torch.testing.assert_close(twin.model(x), outputs(model, x), rtol=1e-6, atol=1e-6)
    assert {entry.rule for entry in twin.feedback} == {mode}
    assert {entry.kind for entry in twin.feedback} == {"direct" if mode == "dfa" else "weight"}


@pytest.mark.parametrize("mode", ["fa", "usf", "frsf"])
def test_gradients_of_biotorch_follow_from_the_twin_and_its_feedback(x: Tensor, mode: str) -> None:
    model = converted(network(), mode)
    y = torch.arange(len(x)) % CLASSES
    twin = plain_twin(model, x)
    backward(model, x, y)
    matrices = {entry.layer: entry.tensor for entry in twin.feedback}
    hidden = [x]
    for module in twin.model:
        hidden.append(module(hidden[-1]).detach())
    error = (hidden[-1].softmax(1) - F.one_hot(y, CLASSES)) / len(x)
    second = error @ matrices["4"] * (1 - hidden[4] ** 2)
    first = second @ matrices["2"] * (1 - hidden[2] ** 2)
    for index, signal, entry in ((4, error, 4), (2, second, 2), (0, first, 0)):
        expected = signal.T @ hidden[entry]
        torch.testing.assert_close(model.module[index].weight.grad, expected, rtol=1e-4, atol=1e-6)


def test_direct_feedback_enters_at_the_input_of_its_owner(x: Tensor) -> None:
    model = converted(network(), "dfa")
    y = torch.arange(len(x)) % CLASSES
    twin = plain_twin(model, x)
    backward(model, x, y)
    matrices = {entry.layer: entry.tensor for entry in twin.feedback}
    assert {entry.at for entry in twin.feedback} == {"input"}
    hidden = [x]
    for module in twin.model:
        hidden.append(module(hidden[-1]).detach())
    error = (hidden[-1].softmax(1) - F.one_hot(y, CLASSES)) / len(x)
    first = error @ matrices["2"] * (1 - hidden[2] ** 2)
    second = error @ matrices["4"] * (1 - hidden[4] ** 2)
    for index, signal in ((0, first), (2, second), (4, error)):
        expected = signal.T @ hidden[index]
        torch.testing.assert_close(model.module[index].weight.grad, expected, rtol=1e-4, atol=1e-6)


def test_the_feedback_of_a_convolution_is_broadcast_over_its_output(images: Tensor) -> None:
    model = converted(convolutional(), "dfa")
    y = torch.arange(len(images)) % CLASSES
    twin = plain_twin(model, images)
    backward(model, images, y)
    kernel = {entry.layer: entry.tensor for entry in twin.feedback}["2"]
    assert tuple(kernel.shape) == (CLASSES, 4, 3, 3)
    first = twin.model[0](images).detach()
    hidden = torch.tanh(first)
    error = (twin.model(images).detach().softmax(1) - F.one_hot(y, CLASSES)) / len(images)
    spread = error[:, :, None, None].expand(-1, -1, 4, 4)
    entry = torch.nn.grad.conv2d_input(hidden.shape, kernel, spread.contiguous(), padding=1)
    signal = entry * (1 - hidden**2)
    expected = torch.nn.grad.conv2d_weight(images, (4, 2, 3, 3), signal, stride=2, padding=1)
    torch.testing.assert_close(model.module[0].weight.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_a_saved_model_gives_the_same_feedback_as_the_model(
    tmp_path: Path, x: Tensor, images: Tensor, mode: str, kind: str
) -> None:
    make, batch = (network, x) if kind == "dense" else (convolutional, images)
    model = converted(make(), mode)
    outputs(model, batch)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    expected = {entry.layer: entry for entry in plain_twin(model, batch).feedback}
    opened = open_checkpoint(saved(tmp_path / "a.pt", state))
    assert opened.prefix == "module."
    assert {entry.rule for entry in opened.feedback} == {mode}
    for entry in opened.feedback:
        assert (entry.kind, entry.at) == (expected[entry.layer].kind, expected[entry.layer].at)
        torch.testing.assert_close(entry.tensor, expected[entry.layer].tensor)
    plain, carrier = make(), converted(make(), mode)
    fit(opened, plain)
    torch.testing.assert_close(plain(batch), outputs(model, batch), rtol=1e-5, atol=1e-6)
    fit(opened, carrier)
    assert all(torch.equal(carrier.state_dict()[name], value) for name, value in state.items())
    names = [entry.layer for entry in match_names(opened, carrier).feedback]
    assert names[0] == "module.0"
    assert f"{mode}, (" in describe(tmp_path / "a.pt")


def test_padding_that_the_conversion_lost_stays_lost_in_the_twin(images: Tensor) -> None:
    given = convolutional(padding_mode="reflect")
    model = converted(copy.deepcopy(given), "fa")
    assert model.module[0].padding_mode == "reflect"
    twin = plain_twin(model, images)
    torch.testing.assert_close(twin.model(images), outputs(model, images), rtol=1e-5, atol=1e-6)
    assert twin.model[0].padding_mode == "zeros"


def test_constrained_weights_are_those_of_the_forward_pass(x: Tensor) -> None:
    model = converted(network(), "fa", constrain_weights=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    twin = plain_twin(model, x)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    torch.testing.assert_close(twin.model(x), outputs(model, x), rtol=1e-5, atol=1e-6)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 1, batch_first=True)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.attend(x, x, x)[0].mean(1))
        return logits


def test_feedback_that_attention_never_uses_is_not_counted(tmp_path: Path) -> None:
    model = converted(Attention(), "fa")
    x = torch.randn(5, 6, 4)
    twin = plain_twin(model, x)
    assert [entry.layer for entry in twin.feedback] == ["fc"]
    assert "attend.out_proj carries feedback that its network never uses" in twin.notes[1]
    opened = open_checkpoint(saved(tmp_path / "a.pt", model.state_dict()))
    assert "never calls attend.out_proj itself" in " ".join(fit(opened, Attention()))


def test_the_sign_rule_after_an_update_uses_the_updated_signs(x: Tensor) -> None:
    model = converted(network(), "usf")
    backward(model, x, torch.zeros(len(x), dtype=torch.long))
    with torch.no_grad():
        model.module[2].weight.neg_()
    entry = {one.layer: one for one in plain_twin(model, x).feedback}["2"]
    assert torch.equal(entry.tensor.sign(), model.module[2].weight.sign())
    assert not torch.equal(entry.tensor.sign(), model.module[2].weight_backward.sign())
