"""Plain twins: equal outputs, ordinary gradients, feedback taken out."""

from __future__ import annotations

import copy
from threading import Lock
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from alignlab.checkpoints import custom_backwards, plain_twin
from alignlab.errors import MeasurementError
from tests.checkpoints.nets import cnn, mlp, same


class FixedLinear(torch.autograd.Function):
    """A linear map whose backward pass uses another matrix."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, feedback: Tensor) -> Tensor:
        ctx.save_for_backward(x, feedback)
        return x @ weight.T + bias

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, feedback = ctx.saved_tensors
        return grad @ feedback, grad.T @ x, grad.sum(0), None


class FALinear(nn.Linear):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("fixed", torch.randn(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = FixedLinear.apply(x, self.weight, self.bias, self.fixed)
        return result


class ScaledLinear(FALinear):
    """A forward pass that no plain layer has."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 1.001


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Binary(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = Sign.apply(x)
        return result


class FANet(nn.Module):
    def __init__(self, kind: type[FALinear] = FALinear) -> None:
        super().__init__()
        self.fc1 = kind(4, 5)
        self.fc2 = kind(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = F.relu(self.fc1(x), inplace=True)
        logits: Tensor = self.fc2(hidden)
        return logits


class Between(nn.Module):
    """Calls a custom function itself, between two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(4, 5)
        self.fc2 = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc2(Sign.apply(self.fc1(x)))
        return logits


@pytest.fixture
def x() -> Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(model(x).square().sum(), list(model.parameters())))


def test_a_plain_model_is_its_own_twin(x: Tensor) -> None:
    model = mlp()
    twin = plain_twin(model, x)
    assert twin.model is model
    assert (twin.feedback, twin.replaced, twin.notes) == ((), (), ())


def test_layers_with_their_own_backward_are_replaced_and_feedback_taken_out(x: Tensor) -> None:
    torch.manual_seed(0)
    model = FANet()
    twin = plain_twin(model, x)
    assert twin.replaced == ("fc1", "fc2")
    assert [type(m) for m in twin.model.children()] == [nn.Linear, nn.Linear]
    assert torch.allclose(twin.model(x), model(x), rtol=1e-6)
    assert [(e.kind, e.layer, e.key) for e in twin.feedback] == [
        ("weight", "fc1", "fc1.fixed"),
        ("weight", "fc2", "fc2.fixed"),
    ]
    assert torch.equal(twin.feedback[1].tensor, model.fc2.fixed)
    plain = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    plain.load_state_dict(
        {
            new: model.state_dict()[old]
            for new, old in {
                "0.weight": "fc1.weight",
                "0.bias": "fc1.bias",
                "2.weight": "fc2.weight",
                "2.bias": "fc2.bias",
            }.items()
        }
    )
    for ours, theirs in zip(gradients(twin.model, x), gradients(plain, x), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_given_model_is_left_as_it_was(x: Tensor) -> None:
    model = FANet().train()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    plain_twin(model, x)
    custom_backwards(model, x)
    assert same(dict(model.state_dict()), dict(before))
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert [p.grad for p in model.parameters()] == [None] * 4
    assert x.grad_fn is None
    assert not x.requires_grad


def test_the_whole_model_may_be_one_layer(x: Tensor) -> None:
    twin = plain_twin(FALinear(4, 3), x)
    assert type(twin.model) is nn.Linear
    assert twin.feedback[0].layer == ""


def test_a_layer_used_under_two_names_stays_one(x: Tensor) -> None:
    layer = FALinear(4, 4)
    twin = plain_twin(nn.Sequential(layer, nn.Tanh(), layer), x)
    assert twin.model[0] is twin.model[2]


def test_a_forward_pass_that_no_plain_layer_has_is_refused_by_name(x: Tensor) -> None:
    with pytest.raises(MeasurementError, match=r"FANet differs from it at module fc1 by 1\.0e-03"):
        plain_twin(FANet(ScaledLinear), x)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 4), Binary()), r"1 \(Sign\)"),
        (Between, r"\(the model itself\) \(Sign\)"),
    ],
    ids=["module", "function"],
)
def test_other_custom_backwards_are_refused_by_name(x: Tensor, model: Any, named: str) -> None:
    with pytest.raises(MeasurementError, match=named + r", so that .* --plain-model SPEC\.$"):
        plain_twin(model(), x)


class Closing(nn.Module):
    """Calls a custom function last and returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": Sign.apply(self.fc(x))}


def test_custom_functions_are_given_to_the_innermost_module(x: Tensor) -> None:
    model = nn.Sequential(nn.Sequential(FANet(), nn.ReLU()), Binary(), Closing())
    found = [(one.module, one.function) for one in custom_backwards(model, x)]
    assert found == [
        ("0.0.fc1", "FixedLinear"),
        ("0.0.fc2", "FixedLinear"),
        ("1", "Sign"),
        ("2", "Sign"),
    ]


def test_torchs_own_custom_functions_are_no_reason_to_refuse(x: Tensor) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = checkpoint(self.fc, x, use_reentrant=True)
            return result

    assert custom_backwards(Checkpointed(), x) == []


def test_compiling_does_not_hide_a_custom_backward(x: Tensor) -> None:
    found = custom_backwards(torch.compile(FANet(), backend="eager"), x)
    assert [one.module for one in found] == ["_orig_mod.fc1", "_orig_mod.fc2"]


def test_frozen_parameters_do_not_hide_a_custom_backward(x: Tensor) -> None:
    model = FANet().requires_grad_(requires_grad=False)
    assert len(custom_backwards(model, x)) == 2
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_backward_hooks_are_not_in_the_twin(x: Tensor) -> None:
    model = mlp()
    model.fc1.register_full_backward_hook(lambda *_: None)
    twin = plain_twin(model, x)
    assert twin.notes == ("Backward hooks of fc1 are not in the twin.",)
    assert model.fc1._backward_hooks
    assert not twin.model.fc1._backward_hooks


def test_dropout_and_batch_norm_do_not_disturb_the_comparison(x: Tensor) -> None:
    model = nn.Sequential(FALinear(4, 5), nn.BatchNorm1d(5), nn.Dropout(), FALinear(5, 3)).train()
    twin = plain_twin(model, x)
    assert twin.replaced == ("0", "3")
    assert twin.model.training
    assert int(model[1].num_batches_tracked) == int(twin.model[1].num_batches_tracked) == 0


def test_a_forward_pass_that_fails_says_so(x: Tensor) -> None:
    with pytest.raises(MeasurementError, match=r"fails on a batch of shape \(6, 4\)"):
        plain_twin(cnn(), x)


def test_activations_that_a_module_keeps_are_no_obstacle(x: Tensor) -> None:
    model = FANet()
    model.kept = [model(x)]
    assert plain_twin(model, x).replaced == ("fc1", "fc2")


def test_a_model_that_cannot_be_copied_says_so(x: Tensor) -> None:
    model = mlp()
    model.lock = Lock()
    with pytest.raises(MeasurementError, match=r"Sequential cannot be copied .*--plain-model SPEC"):
        plain_twin(model, x)


class TwoMatrices(FALinear):
    """Carries two matrices of the weight's shape, and a vector."""

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.register_buffer("gain", torch.ones(7))
        self.register_buffer("second", torch.randn(3, 4))


def test_tensors_that_are_no_feedback_by_shape_are_pointed_out(x: Tensor) -> None:
    twin = plain_twin(nn.Sequential(TwoMatrices()), x)
    assert twin.feedback == ()
    assert twin.notes == (
        "0 carries fixed, gain, second, not known as feedback; "
        "name it with --feedback 0=0.KEY if it is.",
    )
