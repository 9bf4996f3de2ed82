"""Loss and accuracy on exactly the measured samples, and what a recording says of its origin."""

from __future__ import annotations

import datetime
import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from alignlab.checkpoints import Checkpoint
from alignlab.datasets import Samples
from alignlab.diagnostics._chance import USEFUL_STEP_EFFICIENCY
from alignlab.recording.schema import Variable

__all__ = ["SCORES", "parameter_hash", "provenance", "scores"]

SCORES = (
    Variable("loss", (), "Loss on exactly these samples", better="lower"),
    Variable(
        "accuracy",
        (),
        "Share of these samples that are classified correctly",
        source="count",
        better="higher",
        valid=(0.0, 1.0),
    ),
    Variable(
        "accuracy_chance",
        (),
        "Share of the largest class among these samples",
        source="count",
        valid=(0.0, 1.0),
    ),
)


def scores(output: Tensor, loss: float, samples: Samples) -> dict[str, float]:
    """Return loss, accuracy and the accuracy of always naming the largest class.

    Args:
        output: The model's output, shape ``(N, C)``.
        loss: Of these samples.
        samples: What it was computed on.

    Returns:
        Accuracies are NaN for targets that are not labels.
    """
    nan = float("nan")
    if samples.n_classes is None or output.dim() != 2 or output.shape[1] < 2:
        return {"loss": loss, "accuracy": nan, "accuracy_chance": nan}
    right = (output.argmax(1).cpu() == samples.y.cpu()).double().mean()
    largest = max(samples.class_counts) / len(samples.y)
    return {"loss": loss, "accuracy": float(right), "accuracy_chance": largest}


def parameter_hash(model: nn.Module) -> str:
    """Return the SHA-256 over names and values of all parameters and buffers, hexadecimal."""
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(name.encode())
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def provenance(checkpoint: Checkpoint, *, command: str, kind: str) -> dict[str, Any]:
    """Return the attributes that every recording of a checkpoint carries."""
    return {
        "alignlab_version": version("alignlab"),
        "torch_version": torch.__version__,
        "numpy_version": np.__version__,
        "xarray_version": xr.__version__,
        "python_version": platform.python_version(),
        "checkpoint": Path(checkpoint.path).name,
        "checkpoint_sha256": checkpoint.sha256,
        "checkpoint_format": checkpoint.format,
        "checkpoint_notes": " ".join(checkpoint.notes),
        "command": command,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "recording_kind": kind,
        "useful_step_efficiency": USEFUL_STEP_EFFICIENCY,
    }


def with_scores(recording: xr.Dataset, values: Mapping[str, float]) -> xr.Dataset:
    """Return the recording with loss and accuracy as its first variables."""
    declared = {variable.name: variable for variable in SCORES}
    first = {
        name: xr.Variable(("step",), np.array([value]), declared[name].attrs)
        for name, value in values.items()
    }
    return xr.Dataset({**first, **recording.data_vars}, recording.coords, recording.attrs)
