"""Cosines of weights, or of their change, with the feedback that a rule uses in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from alignlab.diagnostics._alignment_matrices import Fitted, direct_fits
from alignlab.diagnostics._base import Reading
from alignlab.diagnostics._feedback import direct_pairs, matrices_at_entries
from alignlab.diagnostics._redraws import judged, normal_chance, with_redraws
from alignlab.diagnostics._together import fetched
from alignlab.kernels.convolution import structured_share
from alignlab.kernels.cosines import cosine, wide
from alignlab.sites import Layer
from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["attainable", "of_direct", "of_paths", "of_replaced"]

_MOST_DRAWS = 64
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def of_direct(
    snapshot: Snapshot, measured: MeasuredRule, names: Mapping[str, str]
) -> Iterator[Reading]:
    r"""Yield D2 of a direct rule: :math:`\cos(W_l, B_lB_{l-1}^\top)`, with redraws.

    Args:
        snapshot: The probing.
        measured: The rule.
        names: Variables by what is compared, ``WEIGHTS`` or ``CHANGE``.
    """
    fits, kind = snapshot.shared(direct_fits)[measured.label], snapshot.chance_kind(measured)
    caps = {} if measured.is_drawn else attainable(snapshot, measured)
    for which, name in names.items():
        observed = _cosines(fits.observed[which])
        draws = [_cosines(draw[which]) for draw in fits.draws]
        yield from with_redraws(name, measured, observed, draws, kind=kind)
        for layer, cap in caps.items():
            share = (observed[layer] / cap.to(observed[layer])).clamp(-1.0, 1.0)
            yield Reading(f"{name}_attained", share, measured.label, layer)


def _cosines(found: Mapping[str, Fitted]) -> dict[str, Tensor]:
    return {layer: each.cosine for layer, each in found.items()}


def attainable(snapshot: Snapshot, measured: MeasuredRule) -> dict[str, Tensor]:
    """Return the largest cosine that each convolution's weights can have with its feedback."""
    return {
        pair.layer.name: structured_share(
            snapshot.capture.module_of(pair.layer), pair.below, pair.above
        )
        for pair in direct_pairs(snapshot, measured.feedback)
        if pair.above is not None and pair.layer.is_convolution
    }


def of_paths(
    name: str, snapshot: Snapshot, measured: MeasuredRule, products: Mapping[str, Tensor]
) -> Iterator[Reading]:
    r"""Yield :math:`\cos(B_l^\top, W_L\cdots W_{l+1})` of a direct rule with redraws.

    Args:
        name: Variable.
        snapshot: The probing.
        measured: The rule.
        products: Those of the forward weights by layer, ``(n_errors, entry_width)``.
    """

    def along(each: MeasuredRule) -> dict[str, Tensor]:
        held = matrices_at_entries(snapshot, each.feedback)
        return {
            layer: cosine(product.flatten(), held[layer].to(product.device).reshape(-1))
            for layer, product in products.items()
            if layer in held
        }

    draws = [along(each) for each in snapshot.redrawn(measured, min(snapshot.draws, _MOST_DRAWS))]
    kind = snapshot.chance_kind(measured)
    yield from with_redraws(name, measured, along(measured), draws, kind=kind)


def of_replaced(
    name: str,
    snapshot: Snapshot,
    measured: MeasuredRule,
    weights: Mapping[str, Tensor],
    layers: Sequence[Layer],
) -> Iterator[Reading]:
    """Yield D1: cosines of weights with those that act backwards in their place.

    Chance is a standard deviation of one over the root of the entries where these are drawn,
    and that of rotated outputs where they are not.
    """
    backward, kind = measured.backward_weights, snapshot.chance_kind(measured)
    found = []
    for layer in layers:
        first, second = weights[layer.module], backward[layer.module].to(weights[layer.module])
        value = cosine(first.flatten(), second.flatten())
        sd = torch.full_like(value, first.numel() ** -0.5)
        if kind == "output_rotation":
            sd = _rotation_sd(snapshot.capture.module_of(layer), first, second)
        found.append(torch.stack([value, sd]))
    values, chances = {}, {}
    for layer, row in zip(layers, fetched(found), strict=True):
        values[layer.name] = float(row[0])
        spread = (2.0 / weights[layer.module].numel()) ** 0.5
        chances[layer.name] = normal_chance(
            float(row[0]), float(row[1]), kind=kind, concentration=spread
        )
    yield from judged(name, measured, values, chances)


def _rotation_sd(module: nn.Module, weight: Tensor, backward: Tensor) -> Tensor:
    r"""Return :math:`\|BW^\top\|_F/(\sqrt{n_{out}}\,\|B\|\,\|W\|)`, for rotated outputs of B."""
    axis = 1 if isinstance(module, _TRANSPOSED) else 0
    first, second = (wide(each).movedim(axis, 0).flatten(1) for each in (weight, backward))
    size = len(first) ** 0.5 * first.norm() * second.norm()
    result: Tensor = (second @ first.T).norm() / size
    return result
