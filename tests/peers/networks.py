"""Networks in plain torch and the same ones converted by biotorch; each is a model SPEC too."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from typing import Any

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


class Attending(nn.Module):
    """Attention over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)
        logits: Tensor = self.head(self.attend(rows, rows, rows, need_weights=False)[0].mean(1))
        return logits


def attending() -> nn.Module:
    return Attending()


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


def biotorch_attending(mode: str = "fa") -> nn.Module:
    model: nn.Module = converted(attending(), mode)
    return model


def biotorch_backward(model: Any, x: Tensor, y: Tensor, *, scale: float = 1.0) -> None:
    """Leave the gradients of biotorch's own backward pass of a scaled loss in ``.grad``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train()
        model.zero_grad()
        output = model(x, targets=y, loss_function=F.cross_entropy)
        (F.cross_entropy(output, y) * scale).backward()


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
