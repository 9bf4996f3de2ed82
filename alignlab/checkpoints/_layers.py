"""What layers a state dict comes from, guessed by names and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from torch import Tensor

__all__ = ["GuessedLayer", "guess_layers"]

_BY_DIMENSIONS = {1: "Norm", 2: "Linear", 3: "Conv1d", 4: "Conv2d", 5: "Conv3d"}
_GATES = {4: "LSTM", 3: "GRU", 1: "RNN"}
_MAIN = ("weight", "in_proj_weight", "weight_ih_l0")
_EMBEDDINGS = ("emb", "wte", "wpe")


@dataclass(frozen=True)
class GuessedLayer:
    """A module as its stored tensors show it.

    Attributes:
        name: Qualified name.
        kind: Likely class; ``parameter`` for a tensor of its own.
        inputs: Features or channels per group that it takes; 0 where that means nothing.
        outputs: Features or channels that it gives.
        kernel: Size of a convolution's window; empty for other kinds.
        has_bias: Whether a bias is stored.
        shape: Shape of the weight.
        n_parameters: Numbers stored under its name.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    kernel: tuple[int, ...]
    has_bias: bool
    shape: tuple[int, ...]
    n_parameters: int


def guess_layers(tensors: Mapping[str, Tensor]) -> list[GuessedLayer]:
    """Group tensors by module and guess what each is.

    Args:
        tensors: State dict.

    Returns:
        One entry per module that holds tensors, in the order of the file.
    """
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        is_own = leaf in {"weight", "bias"} or f"{module}.weight".removeprefix(".") in tensors
        owner = module if is_own or _is_stacked(leaf) else name
        modules.setdefault(owner, {})[leaf] = tensor
    return [_guess(name, held) for name, held in modules.items()]


def _is_stacked(leaf: str) -> bool:
    return leaf.startswith(("in_proj_", "weight_", "bias_", "running_", "num_batches"))


def _guess(name: str, held: Mapping[str, Tensor]) -> GuessedLayer:
    main = [held[key] for key in _MAIN if key in held]
    weight = main[0] if main else next(iter(held.values()))
    kind = _kind(name, held)
    shape = tuple(weight.shape)
    inputs, outputs = _sizes(kind, shape)
    return GuessedLayer(
        name=name,
        kind=kind,
        inputs=inputs,
        outputs=outputs,
        kernel=shape[2:] if kind.startswith("Conv") else (),
        has_bias=any(key.startswith(("bias", "in_proj_bias")) for key in held),
        shape=shape,
        n_parameters=sum(tensor.numel() for tensor in held.values()),
    )


def _sizes(kind: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return what a layer takes and gives by the shape of its weight."""
    if len(shape) < 2 or kind == "parameter":
        return 0, prod(shape)
    if kind == "Embedding":
        return shape[0], shape[1]
    stacked = {"MultiheadAttention": 3, **{name: gates for gates, name in _GATES.items()}}
    return shape[1], shape[0] // stacked.get(kind, 1)


def _kind(name: str, held: Mapping[str, Tensor]) -> str:
    if "in_proj_weight" in held:
        return "MultiheadAttention"
    if "weight_ih_l0" in held and "weight_hh_l0" in held:
        rows, hidden = held["weight_hh_l0"].shape
        return _GATES.get(rows // max(hidden, 1), "RNN")
    if "running_mean" in held:
        return "BatchNorm"
    if "weight" not in held:
        return "parameter"
    dimensions = held["weight"].dim()
    if dimensions == 2 and "bias" not in held and any(word in name for word in _EMBEDDINGS):
        return "Embedding"
    return _BY_DIMENSIONS.get(dimensions, "parameter")
