"""Whether a call of a module did anything but return its output."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Watch"]


@final
class Watch:
    """What a call could change beside its output: randomness, inputs, what its modules hold."""

    def __init__(
        self, module: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any]
    ) -> None:
        """Look before the call.

        Args:
            module: What is called.
            arguments: Its arguments.
            named: Those by name.
        """
        self._module: Final = module
        self._inputs: Final = list(_tensors((*arguments, *named.values())))
        self._versions: Final = [each._version for each in self._inputs]
        # The values themselves are held too, so that no other object can take their place.
        self._held: Final = list(_held(module))
        self._seen: Final = [_seen(each) for each in self._held]
        self._random: Final = _random()

    def allows(self, output: Any) -> bool:
        """Return whether giving the output again is all that the call would do.

        Args:
            output: What the call has returned.
        """
        if not isinstance(output, Tensor) or not _is_same(self._random, _random()):
            return False
        if [each._version for each in self._inputs] != self._versions:
            return False
        places = {each.untyped_storage().data_ptr() for each in self._inputs}
        if output.untyped_storage().data_ptr() in places:
            return False
        return [_seen(each) for each in _held(self._module)] == self._seen


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)
        elif isinstance(value, Mapping):
            yield from _tensors(value.values())


def _held(module: nn.Module) -> Iterator[Any]:
    """Yield what a module and those in it hold, also in lists and dictionaries of theirs."""
    for each in module.modules():
        for value in vars(each).values():
            yield value
            if isinstance(value, Mapping):
                yield from value.values()
            elif isinstance(value, list | tuple | set):
                yield from value


def _seen(value: Any) -> tuple[int, int]:
    return id(value), value._version if isinstance(value, Tensor) else 0


def _random() -> tuple[Any, ...]:
    devices = [torch.cuda.get_rng_state(k) for k in _devices_in_use()]
    _, keys, place, *_ = np.random.get_state()  # noqa: NPY002
    return (torch.get_rng_state(), *devices), (keys, place), random.getstate()


def _devices_in_use() -> range:
    return range(torch.cuda.device_count()) if torch.cuda.is_initialized() else range(0)


def _is_same(before: tuple[Any, ...], after: tuple[Any, ...]) -> bool:
    of_torch, of_numpy, of_python = before
    now_torch, now_numpy, now_python = after
    return (
        all(torch.equal(one, other) for one, other in zip(of_torch, now_torch, strict=True))
        and of_numpy[1] == now_numpy[1]
        and np.array_equal(of_numpy[0], now_numpy[0])
        and of_python == now_python
    )
