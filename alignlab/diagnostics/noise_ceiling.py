"""Cosine that the gradient of this batch can have with the gradient of all data (A7)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._chunks import chunks_of, true_grams, why_not
from alignlab.diagnostics._together import fetched
from alignlab.kernels.gradient_noise import gradient_noise
from alignlab.snapshot import Snapshot

__all__ = ["NoiseCeiling"]

_SOURCE = "after McCandlish et al. 2018; our derivation"
_WHAT = {
    "noise_ceiling": ("Cosine of the batch's true weight gradient with that of all data", "1"),
    "noise_scale": (
        "Samples at which noise and gradient of the weight are equally large",
        "sample",
    ),
    "squared_norm_full_gradient": (
        *("Unbiased estimate of the squared norm of the weight gradient of all data", "1"),
    ),
}
_TOO_NOISY = "the gradient of all data is not to be told from zero in this batch"


def _declared() -> Iterator[Variable]:
    for dims, suffix, of in ((("layer",), "", ""), ((), "_total", ", all layers stacked")):
        for name, (text, units) in _WHAT.items():
            bounds = (None, None) if name.startswith("squared") else (0.0, None)
            yield Variable(
                *(f"{name}{suffix}", dims, f"{text}{of}", units, _SOURCE),
                better="higher" if name == "noise_ceiling" else "none",
                valid=(0.0, 1.0) if name == "noise_ceiling" else bounds,
            )


class NoiseCeiling(SnapshotDiagnostic):
    r"""How well the gradient of a batch, even the exact one, can point along that of all data.

    With G the gradient of all data, :math:`\Sigma` the covariance of that of one sample and B
    samples in the batch,

    .. math:: \cos(g_{batch}, G) \approx \frac{1}{\sqrt{1 + B_{noise}/B}}, \qquad
        B_{noise} = \frac{\operatorname{tr}\Sigma}{\|G\|^2}.

    Both are estimated without bias from the weight gradients of up to eight disjoint chunks of the
    batch (:mod:`alignlab.kernels.gradient_noise`), for every layer and for all stacked.

    *How to read it.* It bounds what any rule's step on this batch can be expected to have in common
    with the gradient that matters: 0.3 means that backpropagation itself points 73 degrees away
    from it. It does **not** bound the cosine of a rule with the gradient *of the same batch*, whose
    noise both share, and which can exceed it. Where the ceiling is low, read cosines across halves
    (``cosine_weight_gradient_debiased``), or measure on more samples. The noise scale is the batch
    at which the ceiling is 0.71.

    *Expectation.* Squared norm and noise are unbiased; their ratio is not, and scatters widely from
    batch to batch where the batch is small against the noise scale.

    *Undefined* where the estimated squared norm of G is not positive: nothing of it is to be seen
    above the noise of this batch. Where samples meet in the forward pass (batch normalisation in
    training mode, contrastive losses) chunks are parts of one batch's gradient, not batches of
    their own. Every call of a shared weight counts as a layer.

    Source: after McCandlish et al. 2018 (noise scale from two batch sizes); ceiling and estimates
    from the Gram matrix of chunks: our derivation.

    Example:
        >>> from alignlab.probe import Probe
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
        ... )
        >>> loss = torch.nn.functional.cross_entropy
        >>> probe = Probe(net, loss, diagnostics=["noise-ceiling"], draws=32)
        >>> found = probe.measure(torch.ones(24, 4), torch.zeros(24, dtype=torch.long))
        >>> round(found["noise_ceiling"].sel(layer="0").item(), 6)  # all samples are the same
        1.0
    """

    variables: ClassVar[tuple[Variable, ...]] = tuple(_declared())
    cost: ClassVar[float] = 0.8

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield ceiling, noise scale and squared norm of every layer and of all."""
        for layer in snapshot.layers:
            because = why_not(snapshot, layer)
            if because:
                yield NotDefined(because, layer=layer.name)
        grams = snapshot.shared(true_grams)
        if not grams:
            return
        stacked = torch.stack(list(grams.values()))
        numbers = _numbers(
            torch.cat([stacked, stacked.sum(0, keepdim=True)]),
            samples=chunks_of(snapshot).samples,
            n_samples=snapshot.capture.n_samples,
        )
        for name, row in zip((*grams, ""), numbers, strict=True):
            suffix = "" if name else "_total"
            for key, value in zip(_WHAT, row, strict=True):
                yield Reading(f"{key}{suffix}", float(value), layer=name)
            if np.isnan(row[0]):
                yield NotDefined(_TOO_NOISY, layer=name)


def _numbers(grams: Tensor, *, samples: int, n_samples: int) -> np.ndarray:
    """Return ceiling, noise scale and squared norm, one row per Gram matrix."""
    noise = gradient_noise(grams, samples=samples)
    # Samples that are in no chunk are in the batch all the same.
    ceiling = (1.0 + noise.scale / n_samples).rsqrt()
    (found,) = fetched([torch.stack([ceiling, noise.scale, noise.squared_norm], 1)])
    return found
