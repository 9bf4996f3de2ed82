"""Weights as they are and what they have gained since the training began."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

if TYPE_CHECKING:
    from alignlab.snapshot import Snapshot

__all__ = ["UNKNOWN_START", "initial_weights", "weight_changes"]

UNKNOWN_START = (
    "the weights at which the training began are not known; give Probe(earlier={'initial': "
    "state_dict}), or --earlier initial=FILE on the command line"
)
"""Why nothing is said of the change of weights, a clause."""


def initial_weights(snapshot: Snapshot) -> Mapping[str, Tensor]:
    """Return the weights at which the training began, by the names of the present ones.

    They are those that a forward pass with the initial parameters uses, so that computed weights
    are the computed ones. None where they are not known.
    """
    if snapshot.initial is None:
        return {}
    with snapshot.at("initial") as capture:
        return {name: weight.clone() for name, weight in capture.module_weights().items()}


def weight_changes(snapshot: Snapshot) -> Mapping[str, Tensor]:
    """Return W - W(0) by name, float64; none where the initial weights are not known."""
    before = snapshot.shared(initial_weights)
    with torch.no_grad():
        return {
            name: wide(weight) - wide(before[name])
            for name, weight in snapshot.capture.module_weights().items()
            if name in before
        }
