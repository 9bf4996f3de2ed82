"""Unpickling for files that the user says to trust; the one place where a file's code runs."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from alignlab.checkpoints._sniff import PICKLE, file_format
from alignlab.errors import CheckpointError

__all__ = ["unpickled"]


def unpickled(path: Path) -> object:
    """Unpickle a file without restriction and put state dicts in the place of modules.

    Args:
        path: File that the user trusts; its code runs.

    Raises:
        CheckpointError: Its classes cannot be imported or do not fit.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if file_format(path) == PICKLE:
                with path.open("rb") as file:
                    root = pickle.load(file)
            else:
                root = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        text = " ".join(str(error).split())
        message = (
            f"{path} cannot be unpickled ({type(error).__name__}: {text}); put the code of its "
            f"classes on PYTHONPATH."
        )
        raise CheckpointError(message) from error
    return _without_modules(root)


def _without_modules(root: object) -> object:
    if isinstance(root, nn.Module):
        return dict(root.state_dict())
    if isinstance(root, Mapping):
        return {name: _without_modules(value) for name, value in root.items()}
    return root
