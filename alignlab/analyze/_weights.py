"""What weights alone tell, without a model and without data."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
import xarray as xr
from torch import Tensor

from alignlab.analyze._scores import provenance
from alignlab.checkpoints import Checkpoint
from alignlab.diagnostics._base import Reading, Variable
from alignlab.diagnostics._chance import adjusted_statuses, readings
from alignlab.diagnostics._readings import FEEDBACK_ORIGIN, arrays
from alignlab.diagnostics._redraws import entries_chance
from alignlab.diagnostics.weight_feedback import WeightFeedback
from alignlab.errors import CheckpointError
from alignlab.kernels.cosines import cosine, wide
from alignlab.kernels.ranks import energies, participation_ratio, stable_rank
from alignlab.recording import assemble

__all__ = ["weight_matrices", "weights_alone"]

_VARIABLES = (
    Variable(
        "participation_ratio_weight",
        ("layer",),
        "Participation ratio of the weights",
        source="Gao et al. 2017",
        valid=(0.0, None),
    ),
    Variable(
        "stable_rank_weight",
        ("layer",),
        "Stable rank of the weights",
        source="Rudelson & Vershynin 2007",
        valid=(0.0, None),
    ),
    Variable("weight_norm", ("layer",), "Frobenius norm of the weights", valid=(0.0, None)),
    *WeightFeedback.variables[:2],
    FEEDBACK_ORIGIN,
)


def weights_alone(checkpoint: Checkpoint, *, command: str) -> xr.Dataset:
    """Record sizes, effective ranks and stored feedback of the weight matrices of a file.

    Args:
        checkpoint: Open checkpoint.
        command: Command line, for the recording.

    Raises:
        CheckpointError: The file holds no weight matrix.
    """
    weights = weight_matrices(checkpoint)
    rules = sorted({entry.rule or "fa" for entry in checkpoint.feedback if entry.kind == "weight"})
    found = [*_of_weights(weights), *_of_feedback(checkpoint, weights)]
    return assemble(
        arrays(found, _VARIABLES, rules=rules, layers=list(weights)),
        _VARIABLES,
        coords=({"rule": rules} if rules else {}) | _coordinates(weights),
        attrs=provenance(checkpoint, command=command, kind="weights"),
    )


def weight_matrices(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the weights of two and more axes by the name of their module, in the file's order.

    Raises:
        CheckpointError: The file holds none.
    """
    weights = {
        name.removesuffix(".weight"): tensor
        for name, tensor in checkpoint.tensors.items()
        if name.endswith(".weight") and tensor.dim() >= 2 and tensor.is_floating_point()
    }
    if not weights:
        message = f"{checkpoint.path} holds no weight matrix; there is nothing to measure."
        raise CheckpointError(message)
    return weights


def _coordinates(weights: dict[str, Tensor]) -> dict[str, object]:
    kinds = {2: "Linear or Embedding", 3: "Conv1d", 4: "Conv2d", 5: "Conv3d"}
    return {
        "layer": list(weights),
        "layer_kind": ("layer", [kinds.get(w.dim(), "other") for w in weights.values()]),
        "depth": ("layer", list(range(1, len(weights) + 1))),
        "channels": ("layer", [w.shape[0] for w in weights.values()]),
        "fan_in": ("layer", [prod(w.shape[1:]) for w in weights.values()]),
        "n_parameters": ("layer", [w.numel() for w in weights.values()]),
    }


def _of_weights(weights: dict[str, Tensor]) -> Iterator[Reading]:
    for name, weight in weights.items():
        spectrum = energies(weight.reshape(weight.shape[0], -1), centred=False)
        ratio = participation_ratio(spectrum)
        yield Reading("participation_ratio_weight", ratio, layer=name)
        yield Reading("stable_rank_weight", stable_rank(spectrum), layer=name)
        yield Reading("weight_norm", torch.linalg.vector_norm(wide(weight)), layer=name)


def _of_feedback(checkpoint: Checkpoint, weights: dict[str, Tensor]) -> Iterator[Reading]:
    pairs = [
        (entry.rule or "fa", entry.layer, weights[entry.layer], entry.tensor)
        for entry in checkpoint.feedback
        if entry.kind == "weight" and entry.layer in weights and isinstance(entry.tensor, Tensor)
    ]
    values = [float(cosine(w.flatten(), b.flatten())) for _, _, w, b in pairs]
    chances = [
        entries_chance(value, weight, "feedback_draw")
        for value, (_, _, weight, _) in zip(values, pairs, strict=True)
    ]
    statuses = adjusted_statuses(values, chances, is_drawn=False, is_cosine=False)
    for (rule, layer, weight, backward), value, chance, status in zip(
        pairs, values, chances, statuses, strict=True
    ):
        yield Reading("feedback_origin", "checkpoint", rule)
        ratio = wide(backward).norm() / wide(weight).norm()
        yield Reading("norm_ratio_weight_feedback", ratio, rule, layer)
        place = (rule, layer, "")
        yield from readings(
            "cosine_weight_feedback", value, chance, status, undefined=0.0, place=place
        )
