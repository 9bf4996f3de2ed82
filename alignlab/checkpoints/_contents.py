"""Where in a file the weights are: its state dicts, and which of them is meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from alignlab.checkpoints._foreign import Foreign
from alignlab.errors import CheckpointError

__all__ = ["Contents", "StateDict", "children", "find_contents", "foreign_modules", "subtree"]

_DEEPEST = 12
_MAIN = re.compile(
    r"(state_dict|(model|net|network|module)(_state(_dict)?)?|weights?|params?|parameters|"
    r"(model|net)_(weights|params))"
)
_AVERAGE = re.compile(r"(^|[._-])(ema|swa|averaged?|avg|shadow|polyak)([._-]|$)", re.IGNORECASE)
_OPTIMIZER = re.compile(r"\w*optim\w*|opt_state\w*|\w*scheduler\w*|(grad_)?scaler", re.IGNORECASE)
_ASIDE = re.compile(
    r"amp|callbacks|loops|\w*rng\w*|\w*feedback\w*|alignlab|\w*metrics?|history|criterion\w*|"
    r"loss\w*",
    re.IGNORECASE,
)
_LEAF = re.compile(r"\w*(weight|bias|kernel|scale|gamma|beta|running_mean|running_var)\w*|[wWbB]")


@dataclass(frozen=True)
class StateDict:
    """Named tensors at one place of a file.

    Attributes:
        path: Keys that lead to it.
        tensors: By name.
        is_module: Whether it is one module's own weights, such as ``weight`` and ``bias``.
    """

    path: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    is_module: bool = False

    @property
    def key(self) -> str:
        """Dotted path, empty for the file itself."""
        return ".".join(self.path)

    @property
    def is_average(self) -> bool:
        """Whether its name says that it is a running average of the weights."""
        return any(_AVERAGE.search(part) for part in self.path)

    @property
    def is_main(self) -> bool:
        """Whether its name is one under which the weights of a model are usually saved."""
        return not self.path or bool(_MAIN.fullmatch(self.path[-1].lower()))

    @property
    def summary(self) -> str:
        """Name with counts, for lists of choices."""
        count = sum(tensor.numel() for tensor in self.tensors.values())
        name = self.key if len(self.key) <= 60 else f"{self.key[:57]}..."
        return f"{name or '(top)'} ({len(self.tensors)} tensors, {count:,} numbers)"


@dataclass(frozen=True)
class Contents:
    """State dicts of a file.

    Attributes:
        candidates: Those that may be a model's weights, in file order.
        has_optimizer: Whether optimizer states were passed over.
    """

    candidates: tuple[StateDict, ...]
    has_optimizer: bool

    @property
    def is_clear(self) -> bool:
        """Whether at most one network can be meant."""
        return not self.candidates or len(self._meant()) == 1

    def _meant(self) -> list[StateDict]:
        """Return what may be meant: averages stand back, usual names stand out."""
        current = [one for one in self.candidates if not one.is_average] or list(self.candidates)
        return current if len(current) == 1 else [one for one in current if one.is_main]

    def choose(self) -> tuple[StateDict, tuple[str, ...]]:
        """Return the state dict that is meant, with what to say about the others.

        Raises:
            CheckpointError: Several are possible; the text lists them.
        """
        found = self.candidates
        chosen = self._meant()
        if len(chosen) != 1:
            names = "; ".join(one.summary for one in found)
            message = f"holds {len(found)} networks: {names}. Choose one with --key NAME"
            raise CheckpointError(message)
        others = [one.summary for one in found if one is not chosen[0]]
        if others:
            note = f"The file also holds {'; '.join(others)}; choose with --key NAME."
            return chosen[0], (note,)
        if chosen[0].is_average:
            return chosen[0], ("The file holds averaged (EMA) weights only.",)
        return chosen[0], ()


def find_contents(root: object) -> Contents:
    """Find every state dict in a tree.

    Args:
        root: What the file holds.

    Returns:
        The state dicts; optimizer states, feedback and random states are passed over.
    """
    search = _Search()
    candidates = tuple(search.below(root, ()))
    return Contents(candidates, search.has_optimizer)


def children(node: object) -> Mapping[object, object]:
    """Return what a container holds, by key or position; empty for anything else."""
    if isinstance(node, Mapping):
        return node
    if isinstance(node, Foreign):
        return node.entries
    if isinstance(node, list | tuple):
        return dict(enumerate(node))
    return {}


def subtree(root: object, key: str) -> StateDict | None:
    """Return all tensors below a dotted path, or None where the path leads nowhere."""
    node, rest = root, key
    while rest:
        held = {str(name): value for name, value in children(node).items()}
        fitting = [name for name in held if rest == name or rest.startswith(f"{name}.")]
        if not fitting:
            return None
        name = max(fitting, key=len)
        node, rest = held[name], rest[len(name) + 1 :]
    tensors = {} if isinstance(node, Tensor) else dict(flat_tensors(node))
    return StateDict((key,) if key else (), tensors) if tensors else None


def flat_tensors(root: object) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of a tree with its dotted path, optimizer states left out."""
    stack: list[tuple[tuple[str, ...], object]] = [((), root)]
    seen: set[int] = set()
    while stack:
        path, node = stack.pop()
        if isinstance(node, Tensor):
            yield ".".join(path), node
        held = children(node)
        if not held or id(node) in seen or len(path) > _DEEPEST or is_optimizer(node):
            continue
        seen.add(id(node))
        stack.extend(
            ((*path, str(name)), value)
            for name, value in reversed(list(held.items()))
            if not _OPTIMIZER.fullmatch(str(name))
        )


def foreign_modules(root: object) -> Iterator[tuple[str, Foreign]]:
    """Yield placeholders in a tree that stand for whole modules, with their dotted path."""
    stack: list[tuple[str, object]] = [("", root)]
    seen: set[int] = set()
    while stack:
        path, node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Foreign) and node.is_module:
            yield path, node
        stack.extend((f"{path}.{name}".strip("."), value) for name, value in children(node).items())


def is_optimizer(node: object) -> bool:
    """Return whether a container is the state of an optimizer."""
    return isinstance(node, Mapping) and {"state", "param_groups"} <= node.keys()


class _Search:
    """One walk through a tree."""

    def __init__(self) -> None:
        self.has_optimizer = False
        self._seen: set[int] = set()

    def below(self, node: object, path: tuple[str, ...]) -> list[StateDict]:
        """Return the state dicts at and below a node."""
        held = children(node)
        if not held or id(node) in self._seen or len(path) > _DEEPEST:
            return []
        self._seen.add(id(node))
        if is_optimizer(node):
            self.has_optimizer = True
            return []
        found = []
        for name, child in held.items():
            if _OPTIMIZER.fullmatch(str(name)):
                self.has_optimizer |= bool(children(child))
            elif not _ASIDE.fullmatch(str(name)):
                found += self.below(child, (*path, str(name)))
        own = _own_tensors(held) if not isinstance(node, list | tuple) else {}
        if own and (not found or any(map(_is_parameter_name, own))):
            is_module = all("." not in name and _LEAF.fullmatch(name) for name in own)
            found.insert(0, StateDict(path, own, is_module))
        return _merged(found, path)


def _own_tensors(held: Mapping[object, object]) -> dict[str, Tensor]:
    """Return the tensors directly in a dict, where they are most of it."""
    own = {
        name: value
        for name, value in held.items()
        if isinstance(name, str) and isinstance(value, Tensor) and "rng_state" not in name
    }
    others = [
        name
        for name, value in held.items()
        if not isinstance(value, Tensor) and value is not None and "_extra_state" not in str(name)
    ]
    is_weights = any(value.is_floating_point() and value.dim() for value in own.values())
    return own if is_weights and len(own) >= len(others) else {}


def _is_parameter_name(name: str) -> bool:
    return "." in name or bool(_LEAF.fullmatch(name))


def _merged(found: list[StateDict], path: tuple[str, ...]) -> list[StateDict]:
    """Join the modules of a network that was saved as a tree of dicts."""
    named = any(one.is_average or (one.path != path and one.is_main) for one in found)
    if len(found) < 2 or named or not all(one.is_module for one in found):
        return found
    tensors = {
        ".".join((*one.path[len(path) :], name)): tensor
        for one in found
        for name, tensor in one.tensors.items()
    }
    return [StateDict(path, tensors, is_module=True)]
