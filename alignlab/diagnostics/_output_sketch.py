"""The Jacobian at every entry through random combinations of outputs, where these are many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, final

import torch
from torch import Tensor

from alignlab.diagnostics._feedback import at_entries
from alignlab.diagnostics._jacobians import entries, refusal
from alignlab.engine.directions import Combinations, sketch
from alignlab.engine.jacobian import Jacobian
from alignlab.errors import MeasurementError
from alignlab.feedback import Feedback, project
from alignlab.kernels.cosines import wide
from alignlab.rules._base import DirectRule
from alignlab.sites import ENTRY

if TYPE_CHECKING:
    from alignlab.sites import Layer
    from alignlab.snapshot import Snapshot

__all__ = ["DIRECTIONS", "Sketched", "SketchedEntry", "sketched_jacobians"]

DIRECTIONS = 32
"""Combinations of outputs that are differentiated, one backward pass for each."""


@dataclass(frozen=True)
class SketchedEntry:
    r"""Products of random directions s_k with Jacobians and feedback at one entry.

    Attributes:
        squares: :math:`\|s_k^\top\bar J\|^2` with the mean Jacobian, shape ``(n_directions,)``.
        products: By label of the rule: :math:`\langle s_k^\top B, s_k^\top\bar J\rangle`, likewise.
        sample_squares: Estimates of :math:`\|J_i\|^2`, shape ``(n_samples,)``.
        sample_products: By label: estimates of :math:`\langle B, J_i\rangle`, likewise.
        unit_mean_energy: Estimate of the squared norm of the mean of :math:`J_i/\|J_i\|`, scalar.
    """

    squares: Tensor
    products: Mapping[str, Tensor]
    sample_squares: Tensor
    sample_products: Mapping[str, Tensor]
    unit_mean_energy: Tensor


@dataclass(frozen=True)
class Sketched:
    """What the directions say at all entries, or why they say nothing.

    Attributes:
        because: Why, a clause; empty where they do.
        at: By name of the layer; layers that share an entry share what is said of it.
    """

    because: str = ""
    at: Mapping[str, SketchedEntry] = field(default_factory=dict)


def sketched_jacobians(snapshot: Snapshot) -> Sketched:
    """Return products of ``DIRECTIONS`` combinations of outputs with the Jacobians.

    One signal is held at a time, and of each entry products of samples with samples.
    """
    found = entries(snapshot)
    if not found:
        return Sketched("there is no layer below the output")
    n_errors = snapshot.capture.n_errors
    directions = sketch(n_errors, DIRECTIONS, seed=snapshot.seed, distribution="sign")
    feedback = {
        measured.label: at_entries(snapshot, measured.feedback)
        for measured in snapshot.rules
        if isinstance(measured.rule, DirectRule) and not measured.is_drawn
    }
    visitor = _Products(directions, snapshot.capture.n_samples, feedback)
    try:
        Jacobian(snapshot.capture).visit(visitor, directions=directions)
    except MeasurementError as error:
        return Sketched(refusal(error))
    at = {consumer: visitor.summed(consumer) for consumer in found}
    return Sketched("", {layer.name: at[layer.consumer] for layer in snapshot.hidden})


@final
class _Products:
    """Visitor that adds up products at the entries and keeps no signal."""

    def __init__(
        self,
        directions: Combinations,
        n_samples: int,
        feedback: Mapping[str, Mapping[str, Feedback]],
    ) -> None:
        self._directions: Final = directions
        self._n_samples: Final = n_samples
        self._feedback: Final = feedback
        self._seen: Final[dict[str, int]] = {}
        self._squares: Final[dict[str, list[Tensor]]] = {}
        self._grams: Final[dict[str, Tensor]] = {}
        self._products: Final[dict[tuple[str, str], list[Tensor]]] = {}
        self._of_samples: Final[dict[tuple[str, str], Tensor]] = {}

    def __call__(self, number: int, layer: Layer, site: str, signal: Tensor) -> None:
        """Take one direction at one entry; layers that share it bring it again."""
        place = layer.consumer
        if site != ENTRY or self._seen.get(place) == number:
            return
        self._seen[place] = number
        # Directions are kept over the root of their number; here each is one of signs.
        rows = signal.flatten(1) * len(self._directions) ** 0.5
        mean = wide(rows.mean(0))
        self._squares.setdefault(place, []).append(mean.square().sum())
        gram = wide(rows @ rows.T)
        self._grams[place] = gram + self._grams[place] if place in self._grams else gram
        for label, feedback in self._feedback.items():
            if layer.name not in feedback:
                continue
            direction = self._directions.matrix[number : number + 1].to(rows)
            direction = direction * len(self._directions) ** 0.5
            image = project(direction, feedback[layer.name], (1, *signal.shape[1:])).flatten()
            key = label, place
            self._products.setdefault(key, []).append(torch.dot(mean, wide(image)))
            each = wide(rows @ image)
            self._of_samples[key] = each + self._of_samples.get(key, torch.zeros_like(each))

    def summed(self, place: str) -> SketchedEntry:
        """Return what was added up at one entry."""
        count = len(self._directions)
        gram = self._grams[place] / count
        norms = torch.diagonal(gram).clamp_min(0.0).sqrt()
        defined = torch.isfinite(norms) & (norms > 0)
        weights = torch.where(defined, 1.0 / norms, 0.0) / defined.sum()
        labels = [label for label, at in self._products if at == place]
        return SketchedEntry(
            squares=torch.stack(self._squares[place]),
            products={label: torch.stack(self._products[label, place]) for label in labels},
            sample_squares=norms.square(),
            sample_products={label: self._of_samples[label, place] / count for label in labels},
            unit_mean_energy=weights @ gram @ weights,
        )
