"""What the factors of unrolled layers could do as feedback, and the weights with it (F8)."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._feedback import MOST_ERRORS
from alignlab.kernels.convolution import structured_share
from alignlab.kernels.cosines import wide
from alignlab.kernels.factors import (
    Factors,
    exact_factors,
    singular_factors,
    support_factors,
)
from alignlab.kernels.unrolled import output_shape, tap_overlaps
from alignlab.snapshot import Snapshot

if TYPE_CHECKING:
    from alignlab.sites import Layer

__all__ = ["Unrolled"]

EXACT_UNITS, EXACT_ENTRIES = 512, 2**22
"""Units of the smaller side, and entries, of a layer up to which its matrix is written out."""


class Unrolled(SnapshotDiagnostic):
    r"""Alignment of weights with feedback that is made from their own factors.

    With W a layer unrolled and C errors, direct feedback on its two sides makes the product
    :math:`T = B_l B_{l-1}^\top` of rank C. Of all such products that of the truncated singular
    value decomposition lies closest to W, so that no feedback has a weight alignment above

    .. math:: \sqrt{\sum_{j\le C}\sigma_j^2\Big/\sum_j\sigma_j^2}

    at the present weights (``weight_rank_ceiling``, of every layer). The other three say, of
    convolutions, what alignment *any* weights of the layer could have with three products that
    are made from it, and are to be held against ``convolution_weight_cap``, that with dense random
    feedback: the truncated SVD of the present weights, a non-negative factorisation of the
    support (where unrolled entries are at all), and values that are repeated over positions.

    How to read it: a ceiling well below 1 says that C errors are too few directions for this
    layer, whatever the feedback. Where the attainable alignment is far above the cap, feedback
    made in that way (``aligned-dfa``, ``dfa(structure=channel)``) can be followed by the weights
    of a convolution, where dense feedback cannot.

    Layers of at most 512 units on their smaller side and four million entries are decomposed
    exactly. Of larger ones the singular values are found from below, by 12 iterations of a random
    subspace: their ceiling is then an estimate, somewhat low (by up to 2 % in our tests of small
    random convolutions), and no bound.

    Expectation: the cap, for products that know nothing of the layer; no chance level.

    Undefined for zero weights, for more than 4,096 errors, and, but for the ceiling, for layers
    that are no convolutions, whose weights are all free.

    Source: our derivation; the three kinds of feedback as in Refinetti et al. 2021, code.

    Example:
        >>> from torch.nn import Conv1d, Flatten, Linear, Sequential
        >>> from torch.nn.functional import cross_entropy
        >>> from alignlab import Probe
        >>> _ = torch.manual_seed(0)
        >>> net = Sequential(Conv1d(2, 4, 3, padding=1), Flatten(), Linear(32, 3))
        >>> with Probe(net, cross_entropy, draws=32, diagnostics=["unrolled"]) as probe:
        ...     found = probe.measure(torch.randn(9, 2, 8), torch.arange(9) % 3)
        >>> round(found["weight_rank_ceiling"].sel(layer="2").item(), 6)  # three rows
        1.0
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "weight_rank_ceiling",
            ("layer",),
            "Largest cosine of the present weights with any product of as many pairs as errors",
            valid=(0.0, 1.0),
        ),
        Variable(
            "convolution_weight_attainable_svd",
            ("layer",),
            "Largest cosine of convolution weights with feedback from their truncated SVD",
            better="higher",
            valid=(0.0, 1.0),
        ),
        Variable(
            "convolution_weight_attainable_nmf",
            ("layer",),
            "Largest cosine of convolution weights with feedback from an NMF of their support",
            better="higher",
            valid=(0.0, 1.0),
        ),
        Variable(
            "convolution_weight_attainable_repeated",
            ("layer",),
            "Largest cosine of convolution weights with feedback that is repeated over positions",
            better="higher",
            valid=(0.0, 1.0),
        ),
    )
    cost: ClassVar[float] = 7.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield the ceiling of every layer, and what convolutions could follow."""
        rank = snapshot.capture.n_errors
        if rank > MOST_ERRORS:
            yield NotDefined(f"there are more than {MOST_ERRORS:,} errors")
            return
        supports: dict[tuple[Any, ...], Factors] = {}
        for number, layer in enumerate(snapshot.layers):
            snapshot.progress("factors of layers", number + 1, len(snapshot.layers))
            module, weight = snapshot.capture.module_of(layer), snapshot.capture.weight_of(layer)
            weight = weight if weight.dtype == torch.float64 else weight.float()
            shape = snapshot.capture.input_of(layer).shape[1:]
            factors = _factors(module, weight, shape, rank=rank)
            share = wide(factors.values).square().sum() / _energy(module, weight, shape)
            yield Reading("weight_rank_ceiling", share.sqrt().clamp_max(1.0), layer=layer.name)
            if not layer.is_convolution:
                because = f"but for the ceiling it is a {layer.kind}, whose weights are all free"
                yield NotDefined(because, layer=layer.name)
                continue
            key = _geometry(module, shape)
            if key not in supports:
                supports[key] = support_factors(module, shape, rank=rank)
            yield from _attainable(module, layer, factors, supports[key])


def _factors(module: nn.Module, weight: Tensor, shape: torch.Size, *, rank: int) -> Factors:
    """Return the truncated singular value decomposition, exactly where the layer is small."""
    inside, outside = prod(shape), prod(output_shape(module, shape))
    if min(inside, outside) <= EXACT_UNITS and inside * outside <= EXACT_ENTRIES:
        return exact_factors(module, weight, shape, rank=rank)
    return singular_factors(module, weight, shape, rank=rank)


def _attainable(
    module: nn.Module, layer: Layer, singular: Factors, support: Factors
) -> Iterator[Reading]:
    kinds = {"svd": singular, "nmf": support, "repeated": _repeated(singular)}
    for kind, factors in kinds.items():
        share = structured_share(module, factors.below, factors.above).clamp_max(1.0)
        yield Reading(f"convolution_weight_attainable_{kind}", share, layer=layer.name)


def _repeated(like: Factors) -> Factors:
    """Return one pair that is the same everywhere; no other value of channels changes its share."""
    return Factors(torch.ones_like(like.above[:1]), torch.ones_like(like.below[:1]), like.values)


def _energy(module: nn.Module, weight: Tensor, shape: torch.Size) -> Tensor:
    """Return the squared Frobenius norm of the unrolled layer, for any padding."""
    overlaps = tap_overlaps(module, shape).to(weight.device)
    rows = wide(weight).flatten(2) if weight.dim() > 2 else wide(weight).unsqueeze(2)
    return ((rows @ overlaps) * rows).sum()


def _geometry(module: Any, shape: torch.Size) -> tuple[Any, ...]:
    """Return what the support of a convolution depends on."""
    sizes = (module.kernel_size, module.stride, module.padding, module.dilation, module.groups)
    return (type(module), *sizes, module.padding_mode, module.output_padding, *shape[1:],
            module.in_channels, module.out_channels)  # fmt: skip
