"""Reentrant activation checkpointing, which hides its layers from the graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils import checkpoint

__all__ = ["without_reentrance"]


@contextmanager
def without_reentrance() -> Iterator[None]:
    """Keep activations that reentrant checkpointing would recompute.

    A stretch under reentrant checkpointing runs without a graph, and its backward pass can
    neither be run in parts nor twice. Run as it stands it computes the same numbers with the
    same randomness, and costs the memory that it would have saved.
    """
    kind: Any = checkpoint.CheckpointFunction
    kind.apply = staticmethod(_run)
    try:
        yield
    finally:
        del kind.apply


def _run(function: Any, _preserve_randomness: bool, *arguments: Any) -> Any:
    return function(*arguments)
