"""Plain values beside the weights: hyper-parameters, counters, versions."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from alignlab.checkpoints._contents import children
from alignlab.checkpoints._foreign import Foreign

__all__ = ["hyper_parameters", "plain", "plain_entries"]

_HYPER = (
    "hyper_parameters",
    "hparams",
    "hyperparameters",
    "model_args",
    "model_config",
    "args",
    "config",
    "cfg",
    "opt",
)
_MOST = 1000
_MOST_BITS = 256
_DEEPEST = 6
_LONGEST = 300


def hyper_parameters(root: object) -> dict[str, object]:
    """Return what the file says about how the network was built.

    Args:
        root: What the file holds.

    Returns:
        The first of the usual entries that is there, as plain values; empty if none is.
    """
    held = children(root)
    for name in _HYPER:
        value = plain(held.get(name))
        if isinstance(value, dict) and value:
            return value
    return {}


def plain_entries(root: object) -> dict[str, object]:
    """Return the numbers and short texts directly in a dict, such as epoch and accuracy."""
    if not isinstance(root, Mapping):
        return {}
    result: dict[str, object] = {}
    for name, value in root.items():
        single = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        if isinstance(single, bool | int | float | str) and isinstance(name, str):
            result[name] = _single(single)
    return result


def plain(node: object) -> object:
    """Return a tree as dicts, lists, numbers and texts.

    Args:
        node: Any part of a file.

    Returns:
        Placeholders become what they hold, tensors their shape, what is deep or much a text.
    """
    return _Writer().plain(node, 0)


class _Writer:
    """Writes down a tree until it has become long."""

    def __init__(self) -> None:
        self._left = _MOST

    def plain(self, node: object, depth: int) -> object:
        """Return one node."""
        self._left -= 1
        if isinstance(node, Mapping | list | tuple | set | frozenset | Foreign) and (
            depth > _DEEPEST or self._left < 0
        ):
            return "..."
        if isinstance(node, Foreign):
            return self._foreign(node, depth)
        if isinstance(node, Mapping):
            pairs = list(node.items())[: max(self._left, 0)]
            return {str(name): self.plain(value, depth + 1) for name, value in pairs}
        if isinstance(node, list | tuple | set | frozenset):
            return [self.plain(value, depth + 1) for value in list(node)[: max(self._left, 0)]]
        return _single(node)

    def _foreign(self, node: Foreign, depth: int) -> object:
        """Return what a placeholder holds; its name where that says nothing."""
        state = node.state
        if node.path.startswith("pathlib."):
            return "/".join(map(str, node.args)).replace("//", "/")
        if isinstance(state, Mapping) and node.path.startswith("omegaconf."):
            for inner in ("_content", "_val"):
                if inner in state:
                    return self.plain(state[inner], depth + 1)
        if node.is_module:
            return str(node)
        for held in (node.entries, state, node.values):
            if held and isinstance(held, Mapping | list):
                return self.plain(held, depth + 1)
        return self.plain(node.args[0], depth + 1) if len(node.args) == 1 else str(node)


def _single(node: object) -> object:
    if isinstance(node, Tensor):
        is_single = node.numel() == 1
        return _single(node.item()) if is_single else f"tensor of shape {tuple(node.shape)}"
    if isinstance(node, int):
        return node if node.bit_length() <= _MOST_BITS else "a huge number"
    return node if isinstance(node, float | None) else str(node)[:_LONGEST]
