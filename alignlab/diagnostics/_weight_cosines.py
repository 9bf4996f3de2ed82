"""Cosines of weights, or of their change, with the feedback that a rule uses in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alignlab.diagnostics._base import Reading
from alignlab.diagnostics._feedback import direct_pairs, matrices_at_entries
from alignlab.diagnostics._redraws import judged, normal_chance, with_redraws
from alignlab.diagnostics._together import fetched
from alignlab.kernels.convolution import structured_share
from alignlab.kernels.cosines import cosine, wide
from alignlab.kernels.layers import linear_part, operator_energy
from alignlab.sites import Layer
from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = [
    "Target",
    "attainable",
    "of_direct",
    "of_paths",
    "of_replaced",
    "targets",
]

_MOST_DRAWS = 64
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Target:
    r"""What weights of a layer are compared with: :math:`B_lB_{l-1}^\top`.

    Attributes:
        tied: Its sums over the places at which each weight acts, in the shape of the weight.
        norm: Its Frobenius norm, scalar.
    """

    tied: Tensor
    norm: Tensor


def targets(
    snapshot: Snapshot, measured: MeasuredRule, *, dtype: torch.dtype = torch.float64
) -> dict[str, Target]:
    r"""Return D2's :math:`B_lB_{l-1}^\top` by layer, :math:`B_{L-1}^\top` at the output.

    Of convolutions it is never written out: products with the unrolled matrix of weights are
    products of the weights with its sums over positions.

    Args:
        snapshot: The probing.
        measured: The rule; direct.
        dtype: Precision of the sums.
    """
    found = {}
    for pair in direct_pairs(snapshot, measured.feedback):
        module, weight = snapshot.capture.module_of(pair.layer), pair.layer.module
        like = snapshot.capture.module_weights()[weight].to(dtype)
        below = pair.below.to(like)
        n = len(below)
        inside = below.reshape(n, -1)
        with torch.enable_grad():
            kernel = torch.zeros_like(like).requires_grad_()
            images = linear_part(module, below, kernel)
            if pair.above is None:
                above = torch.eye(n, dtype=dtype, device=like.device)
                energy = inside.square().sum()
            else:
                above = pair.above.to(like)
                rows = above.reshape(n, -1)
                energy = ((rows @ rows.T) * (inside @ inside.T)).sum()
            (tied,) = torch.autograd.grad(images, kernel, above.reshape(images.shape))
        found[pair.layer.name] = Target(tied, wide(energy).clamp_min(0.0).sqrt())
    return found


def matrix_norms(
    snapshot: Snapshot, measured: MeasuredRule, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the norms of the unrolled matrices of the layers that have targets."""
    return {
        pair.layer.name: operator_energy(
            snapshot.capture.module_of(pair.layer),
            wide(weights[pair.layer.module]),
            pair.below.shape[1:],
        ).sqrt()
        for pair in direct_pairs(snapshot, measured.feedback)
    }


def cosines(
    snapshot: Snapshot,
    found: Mapping[str, Target],
    weights: Mapping[str, Tensor],
    norms: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Return the cosine of each layer's weights with its target."""
    modules = {layer.name: layer.module for layer in snapshot.layers}
    result = {}
    for layer, target in found.items():
        weight = weights[modules[layer]]
        product = (wide(target.tied) * wide(weight)).sum()
        result[layer] = (product / target.norm / norms[layer]).clamp(-1.0, 1.0)
    return result


def of_direct(
    snapshot: Snapshot, measured: MeasuredRule, weights: Mapping[str, Mapping[str, Tensor]]
) -> Iterator[Reading]:
    """Yield D2 of a direct rule with redraws of its feedback, for several sets of weights.

    Args:
        snapshot: The probing.
        measured: The rule.
        weights: Weights by module, or their changes, by name of the variable.
    """
    norms = {name: matrix_norms(snapshot, measured, each) for name, each in weights.items()}

    def by_name(found: Mapping[str, Target]) -> dict[str, dict[str, Tensor]]:
        return {name: cosines(snapshot, found, w, norms[name]) for name, w in weights.items()}

    observed = by_name(targets(snapshot, measured))
    # A standard deviation needs no more precision than the weights have.
    dtype = torch.promote_types(snapshot.error.dtype, torch.float32)
    draws = [
        by_name(targets(snapshot, each, dtype=dtype))
        for each in snapshot.redrawn(measured, min(snapshot.draws, _MOST_DRAWS))
    ]
    kind = snapshot.chance_kind(measured)
    for name, values in observed.items():
        yield from with_redraws(name, measured, values, [draw[name] for draw in draws], kind=kind)
        if not measured.is_drawn:
            for layer, cap in attainable(snapshot, measured).items():
                share = (values[layer] / cap.to(values[layer])).clamp(-1.0, 1.0)
                yield Reading(f"{name}_attained", share, measured.label, layer)


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
    return (second @ first.T).norm() / (len(first) ** 0.5 * first.norm() * second.norm())
