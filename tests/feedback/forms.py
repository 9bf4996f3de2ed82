"""Feedback in every form with the dense tensor that it stands for, written out in numpy."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from alignlab.feedback import Factored, Feedback, Matrix, Positional, Seeded

__all__ = ["CASES", "Case", "cases"]

Case = tuple[Feedback, np.ndarray, int]
"""Feedback, the tensor ``(n_errors, *entry_shape)`` that it stands for, samples."""

CASES = ("dense", "channel", "factored", "seeded", "seeded channel")
SHAPES = st.sampled_from([(5,), (1,), (3, 2), (2, 3, 2)])


def random(*shape: int, seed: int) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=stream, dtype=torch.float64)


def matrix(kind: str, n_errors: int, shape: tuple[int, ...], seed: int) -> tuple[Matrix, Tensor]:
    """Return a form and what it stands for."""
    channels = (shape[0], *(1 for _ in shape[1:]))
    if kind == "dense":
        held = random(n_errors, *shape, seed=seed)
        return held, held
    if kind == "channel":
        held = random(n_errors, *channels, seed=seed).expand(n_errors, *shape)
        return held, held
    if kind == "factored":
        left, right = random(n_errors, 2, seed=seed), random(2, *shape, seed=seed + 1)
        return Factored(left, right), torch.einsum("cr,r...->c...", left, right)
    drawn = channels if "channel" in kind else shape
    width = int(np.prod(drawn)) + seed % 3
    seeded = Seeded(seed, ("x",), (n_errors, *shape), drawn, width, "normal", 0.7, seed % 5)
    rows = torch.stack([seeded.rows(c, c + 1)[0] for c in range(n_errors)])
    return seeded, rows.double().reshape(n_errors, *drawn).expand(n_errors, *shape)


def positional(held: Matrix, whole: Tensor, seed: int) -> Case:
    """Return one matrix for all positions, with every order of the axes by turns."""
    positions = [(2,), (3,), (2, 3)][seed % 3]
    channels = tuple(whole.shape)
    axes = [(0, 0), (0, -1), (-1, 0), (-1, -1)][seed % 4]
    shapes = [
        (c, *positions) if a == 0 else (*positions, c) for c, a in zip(channels, axes, strict=True)
    ]
    n = int(np.prod(positions))
    dense = np.einsum("pq,cd->pcqd", np.eye(n), whole.numpy())
    order = [(1, 0) if a == 0 else (0, 1) for a in axes]
    dense = dense.transpose(order[0] + tuple(2 + k for k in order[1]))
    form = Positional(held, shapes[0], axes[0], shapes[1], axes[1])
    return form, dense.reshape(n * channels[0], *shapes[1]), 3


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kind = draw(st.sampled_from(CASES))
    n_errors, seed = draw(st.integers(1, 9)), draw(st.integers(0, 99))
    if draw(st.booleans()):
        return positional(*matrix(kind, n_errors, (draw(st.integers(1, 4)),), seed), seed)
    held, whole = matrix(kind, n_errors, draw(SHAPES), seed)
    return held, whole.numpy(), draw(st.integers(1, 4))
