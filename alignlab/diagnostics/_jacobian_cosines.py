"""Cosines of direct feedback with Jacobians, from all of their rows or from a sketch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

import torch
from torch import Tensor

from alignlab.diagnostics._base import Reading
from alignlab.diagnostics._feedback import at_entries, error_space
from alignlab.diagnostics._jacobians import AtEntry
from alignlab.diagnostics._output_sketch import DIRECTIONS, Sketched, SketchedEntry
from alignlab.diagnostics._redraws import (
    has_independent_entries,
    judged,
    normal_chance,
    with_redraws,
)
from alignlab.diagnostics._together import fetched, together
from alignlab.feedback import Factored, Feedback, Positional, Seeded, back_project
from alignlab.kernels.alignment_matrix import restricted, symmetric_minimum
from alignlab.kernels.cosines import wide
from alignlab.kernels.output_sketch import chance_factor, sketched_cosine
from alignlab.rules._base import DirectRule
from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["MEAN", "PER_SAMPLE", "frobenius_norm", "from_rows", "from_sketch"]

MEAN = "cosine_feedback_jacobian"
PER_SAMPLE = f"{MEAN}_per_sample"

_MATRIX = "matrix"
_ROWS = 64
_MOST_DRAWS = 64


def from_rows(
    snapshot: Snapshot, measured: MeasuredRule, at: Mapping[str, AtEntry]
) -> Iterator[Reading]:
    """Yield the cosines of a direct rule exactly, with redraws.

    Args:
        snapshot: The probing.
        measured: The rule; nothing is said of rules without direct feedback.
        at: The Jacobians by layer.
    """
    if not isinstance(measured.rule, DirectRule):
        return
    basis = error_space(snapshot.exact_error)
    means = {layer: (wide(each.mean), wide(each.unit_mean)) for layer, each in at.items()}
    observed = _products(snapshot, measured, means, basis)
    draws = [
        _products(snapshot, each, means, basis)
        for each in snapshot.redrawn(measured, min(snapshot.draws, _MOST_DRAWS))
    ]
    is_plain = has_independent_entries(measured)
    for name in (MEAN, PER_SAMPLE):
        closed = {layer: _first_order(at[layer], name) for layer in observed if is_plain}
        yield from with_redraws(
            *(name, measured, _part(observed, name), [_part(draw, name) for draw in draws]),
            kind=snapshot.chance_kind(measured),
            closed=closed,
        )
    for layer in observed:
        if not measured.is_drawn:
            yield Reading(f"{MEAN}_standard_error", 0.0, measured.label, layer)
    if not basis.shape[1]:
        return
    stacks = {
        layer: (torch.stack([each[layer][_MATRIX] for each in (observed, *draws)]),)
        for layer in observed
    }
    for layer, minima in together(symmetric_minimum, stacks).items():
        place = measured.label, layer
        yield Reading("jacobian_feedback_symmetric_min_chance", minima[1:].median(), *place)
        if not measured.is_drawn:
            yield Reading("jacobian_feedback_symmetric_min", minima[0], *place)


def _part(found: Mapping[str, Mapping[str, Tensor]], name: str) -> dict[str, Tensor]:
    return {layer: each[name] for layer, each in found.items()}


def _products(
    snapshot: Snapshot,
    measured: MeasuredRule,
    means: Mapping[str, tuple[Tensor, Tensor]],
    basis: Tensor,
) -> dict[str, dict[str, Tensor]]:
    """Return by layer both cosines, and Jacobian times feedback on the error space."""
    found = {}
    for layer, feedback in at_entries(snapshot, measured.feedback).items():
        mean, unit = means[layer]
        norm = frobenius_norm(feedback).to(mean)
        matrix = back_project(mean, feedback)
        of_mean = torch.trace(matrix) / norm / mean.norm()
        of_samples = torch.trace(back_project(unit, feedback)) / norm
        found[layer] = {
            MEAN: of_mean.clamp(-1.0, 1.0),
            PER_SAMPLE: of_samples.clamp(-1.0, 1.0),
            _MATRIX: restricted(matrix, basis.to(matrix.device)),
        }
    return found


def _first_order(at: AtEntry, name: str) -> tuple[Tensor, float]:
    """Return the standard deviation by chance, and the spread of the feedback's squared norm."""
    size = at.mean.numel()
    unit = wide(at.unit_mean)
    norm = unit.norm() if name == PER_SAMPLE else torch.ones_like(unit[0, 0])
    return norm / size**0.5, (2.0 / size) ** 0.5


def from_sketch(snapshot: Snapshot, measured: MeasuredRule, found: Sketched) -> Iterator[Reading]:
    """Yield estimates of the cosines of a direct rule from random combinations of outputs.

    Args:
        snapshot: The probing.
        measured: The rule; nothing is said of rules without direct feedback.
        found: The products by layer.
    """
    if not isinstance(measured.rule, DirectRule):
        return
    feedback = at_entries(snapshot, measured.feedback)
    rows = {layer: _estimates(found.at[layer], measured, each) for layer, each in feedback.items()}
    shown = dict(zip(rows, fetched(list(rows.values())), strict=True))
    factor = chance_factor(snapshot.capture.n_errors, DIRECTIONS)
    known = factor if has_independent_entries(measured) else float("nan")
    sizes = {layer: prod(each.shape) for layer, each in feedback.items()}
    for place, name in enumerate((MEAN, PER_SAMPLE)):
        values = {layer: float(row[place]) for layer, row in shown.items()}
        chances = {
            layer: normal_chance(
                values[layer],
                known * (float(row[3]) if name == PER_SAMPLE else 1.0) / sizes[layer] ** 0.5,
                kind="feedback_draw",
                concentration=(2.0 / sizes[layer]) ** 0.5,
            )
            for layer, row in shown.items()
        }
        yield from judged(name, measured, values, chances)
    for layer, row in shown.items():
        if not measured.is_drawn:
            yield Reading(f"{MEAN}_standard_error", float(row[2]), measured.label, layer)


def _estimates(at: SketchedEntry, measured: MeasuredRule, feedback: Feedback) -> Tensor:
    """Return both cosines, the standard error of the first, and the norm of the unit mean."""
    spread = at.unit_mean_energy.sqrt()
    if measured.is_drawn:
        nothing = torch.full_like(spread, torch.nan)
        return torch.stack([nothing, nothing, nothing, spread])
    norm = frobenius_norm(feedback).to(at.squares)
    estimate = sketched_cosine(at.products[measured.label], at.squares, norm)
    cosines = at.sample_products[measured.label] / at.sample_squares.sqrt() / norm
    return torch.stack([estimate.value, cosines.nanmean(), estimate.standard_error, spread])


def frobenius_norm(feedback: Feedback) -> Tensor:
    r"""Return :math:`\|B\|_F` of feedback in any form, without writing it out.

    Args:
        feedback: Shape ``(n_errors, *entry_shape)``.

    Returns:
        Scalar, float64.
    """
    if isinstance(feedback, Positional):
        channels = feedback.entry_shape[feedback.entry_axis]
        positions = prod(feedback.entry_shape) // channels
        norm: Tensor = frobenius_norm(feedback.matrix) * float(positions) ** 0.5
        return norm
    if isinstance(feedback, Factored):
        left, right = wide(feedback.left), wide(feedback.right).flatten(1)
        energy: Tensor = ((left.T @ left) * (right @ right.T)).sum().clamp_min(0.0)
        return energy.sqrt()
    if isinstance(feedback, Seeded):
        repeats = prod(feedback.shape[1:]) // prod(feedback.drawn)
        squares = [wide(block).square().sum() for _, _, block in feedback.blocks()]
        return (repeats * torch.stack(squares).sum()).sqrt()
    # A copy in float64 would take twice the room of the feedback.
    squares = [wide(part).square().sum() for part in feedback.split(_ROWS)]
    return torch.stack(squares).sum().sqrt()
