"""Small networks and files that the tests of this folder share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn


def mlp(*, hidden: int = 5, outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    layers = OrderedDict(fc1=nn.Linear(4, hidden), act=nn.ReLU(), fc2=nn.Linear(hidden, outputs))
    return nn.Sequential(layers)


def cnn() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 4, 3, padding=1),
            bn1=nn.BatchNorm2d(4),
            act1=nn.ReLU(),
            conv2=nn.Conv2d(4, 6, 3, stride=2),
            act2=nn.ReLU(),
            flat=nn.Flatten(),
            fc=nn.Linear(6 * 9, 3),
        )
    )


def weights(model: nn.Module | None = None) -> dict[str, Tensor]:
    return dict((model or mlp()).state_dict())


def saved(path: Path, content: object, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return list(one) == list(other) and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )
