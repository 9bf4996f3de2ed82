"""Networks in plain torch and the same ones converted by biotorch; each is a model SPEC too."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 24),
        nn.Tanh(),
        nn.Linear(24, 20),
        nn.ReLU(),
        nn.Linear(20, CLASSES),
    )


def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(128, CLASSES),
    )


def reflecting() -> nn.Sequential:
    model = cnn()
    model[0] = nn.Conv2d(1, 6, 3, padding=1, padding_mode="reflect")
    return model


def converted(model: nn.Module, mode: str) -> Any:
    """Return biotorch's version of a model; the given one stays as it is."""
    from biotorch.module.biomodule import BioModule

    options = {"constrain_weights": False, "gradient_clip": False, "init": "xavier"}
    config = {"type": mode, "options": options}
    with contextlib.redirect_stdout(io.StringIO()):
        return BioModule(copy.deepcopy(model), mode=mode, layer_config=config, output_dim=CLASSES)


def biotorch_mlp(mode: str = "fa") -> nn.Module:
    model: nn.Module = converted(mlp(), mode)
    return model


def biotorch_cnn(mode: str = "fa") -> nn.Module:
    model: nn.Module = converted(cnn(), mode)
    return model


def biotorch_reflecting(mode: str = "fa") -> nn.Module:
    model: nn.Module = converted(reflecting(), mode)
    return model


def biotorch_backward(model: Any, x: Tensor, y: Tensor, *, scale: float = 1.0) -> Tensor:
    """Leave the gradients of biotorch's own backward pass in ``.grad``; return the loss."""

    def loss_function(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target) * scale

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train()
        model.zero_grad()
        loss: Tensor = F.cross_entropy(model(x, targets=y, loss_function=F.cross_entropy), y)
        if scale != 1.0:
            loss = loss_function(model(x, targets=y, loss_function=F.cross_entropy), y)
        loss.backward()
    return loss.detach()


def feedback_of(model: Any) -> dict[str, Tensor]:
    """Return what biotorch's backward pass uses, by the module that holds it."""
    return {
        name.removeprefix("module.").removesuffix(".weight_backward"): value.detach().clone()
        for name, value in model.state_dict().items()
        if name.endswith(".weight_backward")
    }


def plain_weights(model: Any) -> dict[str, Tensor]:
    """Return biotorch's forward weights under the names of the plain model."""
    return {
        name.removeprefix("module."): value.detach().clone()
        for name, value in model.state_dict().items()
        if not name.endswith(("weight_backward", "bias_backward"))
    }


def gradients(model: Any) -> dict[str, Tensor]:
    """Return what a backward pass left in ``.grad``, under the names of the plain model."""
    return {
        name.removeprefix("module."): p.grad.clone()
        for name, p in model.named_parameters()
        if p.grad is not None
    }
