"""The reference networks: what they are made of, and what they refuse."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from alignlab import plugins
from alignlab.errors import InputError, MissingError
from alignlab.models.cnn import CNN
from alignlab.models.lenet import LeNet
from alignlab.models.mlp import MLP
from alignlab.models.resnet20 import ResNet20
from alignlab.models.vgg_small import VGGSmall

WIDTHS = st.lists(st.integers(1, 9), max_size=3)
ACTIVATIONS = (
    "elu", "gelu", "identity", "leaky-relu", "relu", "selu", "sigmoid", "silu", "softplus", "tanh",
)  # fmt: skip


def weighted(model: nn.Module) -> list[str]:
    """Return the names of the layers with weights other than norms."""
    kinds = nn.Linear | nn.Conv2d
    return [name for name, layer in model.named_modules() if isinstance(layer, kinds)]


def test_the_reference_networks_are_listed_by_their_files() -> None:
    assert plugins.names("alignlab.models") == ["cnn", "lenet", "mlp", "resnet20", "vgg-small"]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mlp", (1, 8, 8)),
        ("cnn", (1, 8, 8)),
        ("lenet", (3, 32, 32)),
        ("resnet20", (3, 32, 32)),
        ("vgg-small", (3, 32, 32)),
    ],
)
def test_with_its_defaults_every_network_learns_from_every_parameter(
    name: str, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    model: Any = plugins.load("alignlab.models", name)
    built = model()
    loss = nn.functional.cross_entropy(built(torch.rand(4, *shape)), torch.arange(4))
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in built.parameters())
    assert copy.deepcopy(built)(torch.rand(2, *shape)).shape == (2, 10)
    assert pickle.loads(pickle.dumps(built)).state_dict().keys() == built.state_dict().keys()


def test_layers_are_named_by_their_number() -> None:
    assert weighted(MLP(widths=(5, 4))) == ["fc1", "fc2", "fc3"]
    assert weighted(CNN(channels=(2, 3), widths=4)) == ["conv1", "conv2", "fc1", "fc2"]
    assert weighted(LeNet()) == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    assert weighted(VGGSmall(widths=())) == [f"conv{n}" for n in range(1, 7)] + ["fc1"]


@given(
    widths=WIDTHS,
    activation=st.sampled_from(ACTIVATIONS),
    bias=st.booleans(),
    batch_norm=st.booleans(),
)
def test_functions_and_modules_as_activations_are_the_same_network(
    widths: list[int], activation: str, bias: bool, batch_norm: bool
) -> None:
    networks = [
        MLP(
            in_features=6,
            widths=widths,
            activation=activation,
            functional=functional,
            bias=bias,
            batch_norm=batch_norm,
        )
        for functional in (True, False)
    ]
    networks[0].load_state_dict(networks[1].state_dict())
    x = torch.rand(3, 2, 3)
    assert torch.equal(networks[0](x), networks[1](x))
    assert not any(name.startswith("act") for name, _ in networks[0].named_children())
    assert sum(name.startswith("act") for name, _ in networks[1].named_children()) == len(widths)


def test_an_mlp_is_what_its_formula_says() -> None:
    model = MLP(in_features=4, widths=(3,), activation="tanh", classes=2).double()
    x = torch.rand(5, 4, dtype=torch.float64)
    by_hand = torch.tanh(x @ model.fc1.weight.T + model.fc1.bias) @ model.fc2.weight.T
    assert torch.allclose(model(x), by_hand + model.fc2.bias)


def test_dropout_drops_in_training_only() -> None:
    model = MLP(in_features=50, dropout=0.5)
    x = torch.rand(4, 50)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@given(
    size=st.integers(4, 12),
    kernel=st.integers(1, 5),
    padding=st.integers(0, 2),
    pooling=st.sampled_from(["max", "avg", "none"]),
    channels=st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
def test_a_cnn_either_fits_its_images_or_is_refused(
    size: int, kernel: int, padding: int, pooling: str, channels: list[int]
) -> None:
    try:
        model = CNN(
            image_size=size,
            kernel_size=kernel,
            padding=padding,
            pooling=pooling,
            channels=channels,
            widths=3,
        )
    except InputError as error:
        assert "Nothing is left of the image at" in str(error)  # noqa: PT017 - either way is right
        return
    assert model(torch.rand(2, 1, size, size)).shape == (2, 10)


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_same_padding_keeps_the_size(kernel: int) -> None:
    model = CNN(kernel_size=kernel, pooling="none", channels=2, widths=())
    assert model.fc1.in_features == 2 * 8 * 8


def test_a_padded_shortcut_has_no_parameters_and_keeps_the_channels_in_the_middle() -> None:
    block = ResNet20(shortcut="pad").layer2[0]
    x = torch.rand(2, 16, 8, 8)
    carried = block.shortcut(x)
    assert not list(block.shortcut.parameters())
    assert torch.equal(carried[:, 8:24], x[:, :, ::2, ::2])
    assert carried[:, :8].abs().sum() == carried[:, 24:].abs().sum() == 0


def test_a_resnet20_has_its_20_layers_and_the_published_number_of_parameters() -> None:
    padded = ResNet20(shortcut="pad")
    assert len(weighted(padded)) == 20
    assert sum(p.numel() for p in padded.parameters()) == 269_722
    assert len(weighted(ResNet20(shortcut="conv"))) == 22


def test_padding_makes_a_lenet_for_32_pixels_fit_28() -> None:
    assert LeNet(image_size=28, in_channels=1, padding=2).fc1.in_features == 400


@pytest.mark.parametrize(
    ("model", "arguments", "says"),
    [
        (MLP, {"in_features": 0}, "in_features is 0"),
        (MLP, {"widths": (3, -1)}, "widths is -1"),
        (MLP, {"widths": "wide"}, "widths is 'wide'; write whole numbers"),
        (MLP, {"widths": 2.5}, "widths is 2.5"),
        (MLP, {"classes": True}, "classes is True"),
        (MLP, {"dropout": 1.0}, "dropout is 1.0; it must be at least 0 and below 1"),
        (MLP, {"batch_norm": "no"}, "batch_norm is 'no'; it must be true or false"),
        (CNN, {"channels": ()}, r"channels is \(\)"),
        (CNN, {"pooling": "min"}, "pooling is 'min'; it must be max, avg or none"),
        (CNN, {"padding": "same", "kernel_size": 4}, "'same' with odd kernels"),
        (CNN, {"padding": -1}, "padding is -1"),
        (CNN, {"image_size": 2}, "Nothing is left of the image at pool2"),
        (LeNet, {"image_size": 8}, "Nothing is left of the image at conv2"),
        (ResNet20, {"widths": (16, 32)}, "three stages"),
        (ResNet20, {"shortcut": "none"}, "it must be conv or pad"),
        (ResNet20, {"shortcut": "pad", "widths": (4, 8, 2)}, "stages that never shrink"),
        (VGGSmall, {"blocks": "64"}, "blocks is '64'"),
        (VGGSmall, {"blocks": ((),)}, r"blocks is \(\)"),
        (VGGSmall, {"image_size": 4}, "Nothing is left of the image at pool6"),
    ],
)
def test_impossible_sizes_are_refused_in_one_line(
    model: Any, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says) as refused:
        model(**arguments)
    assert "\n" not in str(refused.value)


def test_an_unknown_activation_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(MissingError, match="Did you mean relu"):
        MLP(activation="rellu")
