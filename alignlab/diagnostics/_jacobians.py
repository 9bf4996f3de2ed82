"""The Jacobian of the output at every entry, visited once for all that read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, final

import torch
from torch import Tensor

from alignlab.diagnostics._together import together
from alignlab.engine.jacobian import Jacobian
from alignlab.errors import MeasurementError
from alignlab.feedback import generator
from alignlab.kernels.cosines import wide
from alignlab.kernels.row_space import TOLERANCE, inverse, tolerance_of
from alignlab.sites import ENTRY

if TYPE_CHECKING:
    from alignlab.sites import Layer
    from alignlab.snapshot import Snapshot

__all__ = ["LARGEST_EXACT", "TRUE", "AtEntry", "Jacobians", "entries", "jacobians", "refusal"]

LARGEST_EXACT = 64
"""Outputs up to which every row of a Jacobian is formed, by as many backward passes."""

MOST_ENTRIES = 2**26
"""Entries of rows that are kept at once, over all layers: 256 MiB in float32."""

FEWEST_SAMPLES = 8
"""Samples below which rows are not kept; the entries of fewer would say little of a batch."""

TRUE = ""
"""Key of the true signal among those of rules."""

_CHUNK = 8


@dataclass(frozen=True)
class AtEntry:
    r"""What the rows of the Jacobians at one entry say, with m samples, C errors and n units.

    Attributes:
        gram: :math:`J_iJ_i^\top` of every sample, float64, shape ``(m, C, C)``.
        inverted: :math:`(J_iJ_i^\top)^+`, likewise.
        mean: Mean of :math:`J_i` over samples, shape ``(C, n)``.
        unit_mean: Mean of :math:`J_i/\|J_i\|_F`, shape ``(C, n)``, without samples of which the
            Jacobian is zero.
        gauss_newton: :math:`J_i^+e_i` as unit vectors, float64, shape ``(m, n)``; zero where it
            has no direction.
        products: By label of the rule, and ``TRUE``: :math:`J_is_i` of the signals at the entry,
            float64, shape ``(m, C)``.
        energies: :math:`\|s_i\|^2`, likewise, shape ``(m,)``.
    """

    gram: Tensor
    inverted: Tensor
    mean: Tensor
    unit_mean: Tensor
    gauss_newton: Tensor
    products: Mapping[str, Tensor]
    energies: Mapping[str, Tensor]


@dataclass(frozen=True)
class Jacobians:
    """The Jacobians at all entries, or why there are none.

    Attributes:
        because: Why there are none, a clause; empty where there are.
        samples: Which samples they are of, indices in ascending order.
        tolerance: Share of the largest singular value below which one counts as zero.
        at: By name of the layer; layers that share an entry share what is said of it.
    """

    because: str = ""
    samples: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    at: Mapping[str, AtEntry] = field(default_factory=dict)
    tolerance: float = TOLERANCE


def entries(snapshot: Snapshot) -> dict[str, Layer]:
    """Return one layer for each entry, by the name of the layer that reads it."""
    return {layer.consumer: layer for layer in snapshot.hidden}


def refusal(error: MeasurementError) -> str:
    """Return what the engine refused with, as a clause."""
    text = str(error).rstrip(".")
    return text[:1].lower() + text[1:]


def jacobians(snapshot: Snapshot) -> Jacobians:
    """Return what the Jacobians at all entries say, by one backward pass for every output.

    Rows are kept for as many samples as ``MOST_ENTRIES`` allows, chosen at random, and dropped
    before this returns.
    """
    found = entries(snapshot)
    n_errors = snapshot.capture.n_errors
    if n_errors > LARGEST_EXACT:
        return Jacobians(
            f"the Jacobian of {n_errors} outputs would take as many backward passes, of which at "
            f"most {LARGEST_EXACT} are made"
        )
    if not found:
        return Jacobians("there is no layer below the output")
    width = sum(layer.entry_width for layer in found.values())
    count = min(snapshot.capture.n_samples, MOST_ENTRIES // (n_errors * width))
    if count < min(snapshot.capture.n_samples, FEWEST_SAMPLES):
        return Jacobians(
            f"the rows of {FEWEST_SAMPLES} samples, {n_errors} by {width:,} entries each, would "
            "fill the memory"
        )
    rows = _Rows(n_errors, _chosen(snapshot, count))
    try:
        Jacobian(snapshot.capture).visit(rows)
    except MeasurementError as error:
        return Jacobians(refusal(error))
    return _reduced(snapshot, rows, found)


def _chosen(snapshot: Snapshot, count: int) -> Tensor:
    """Return samples at random, in order."""
    stream = generator(snapshot.seed, "samples of the jacobian")
    order = torch.randperm(snapshot.capture.n_samples, generator=stream)
    return order[:count].sort().values.to(snapshot.error.device)


@final
class _Rows:
    """Visitor that keeps the rows at the entries of chosen samples."""

    def __init__(self, n_errors: int, samples: Tensor) -> None:
        self._count: Final = n_errors
        self.samples: Final = samples
        self.at: Final[dict[str, Tensor]] = {}

    def __call__(self, number: int, layer: Layer, site: str, signal: Tensor) -> None:
        """Take one row at one entry; layers that share it bring it again."""
        if site != ENTRY:
            return
        rows = signal[self.samples].flatten(1)
        if layer.consumer not in self.at:
            self.at[layer.consumer] = rows.new_empty(len(rows), self._count, rows.shape[1])
        self.at[layer.consumer][:, number] = rows


def _reduced(snapshot: Snapshot, rows: _Rows, found: Mapping[str, Layer]) -> Jacobians:
    samples = rows.samples
    error = snapshot.exact_error[samples.to(snapshot.exact_error.device)]
    signals = {consumer: _signals(snapshot, layer, samples) for consumer, layer in found.items()}
    grams = {consumer: _gram(rows.at[consumer]) for consumer in found}
    # Under mixed precision a row is as coarse as the coarsest operation on its way.
    types = {snapshot.error.dtype, *(each.dtype for each in rows.at.values())}
    tolerance = max(tolerance_of(dtype) for dtype in types)
    inverted = together(
        partial(inverse, tolerance=tolerance), {name: (gram,) for name, gram in grams.items()}
    )
    at = {}
    for consumer in found:
        kept = rows.at.pop(consumer)
        at[consumer] = AtEntry(
            gram=grams[consumer],
            inverted=inverted[consumer],
            mean=kept.mean(0),
            unit_mean=_unit_mean(kept, grams[consumer]),
            gauss_newton=_pulled_back(kept, inverted[consumer], error),
            products={label: _products(kept, each) for label, each in signals[consumer].items()},
            energies={
                label: wide(each).square().sum(1) for label, each in signals[consumer].items()
            },
        )
    by_layer = {layer.name: at[layer.consumer] for layer in snapshot.hidden}
    return Jacobians("", samples, by_layer, tolerance)


def _signals(snapshot: Snapshot, layer: Layer, samples: Tensor) -> dict[str, Tensor]:
    """Return the signals at an entry, of rules that have one and the true one."""
    passes = {TRUE: snapshot.true, **snapshot.passes}
    return {
        label: updates.entry[layer.name][samples].flatten(1)
        for label, updates in passes.items()
        if layer.name in updates.entry
    }


def _chunks(rows: Tensor) -> Sequence[slice]:
    return [slice(start, start + _CHUNK) for start in range(0, len(rows), _CHUNK)]


def _gram(rows: Tensor) -> Tensor:
    """Return the products of all rows of every sample, a few samples in float64 at a time."""
    parts = [wide(rows[part]) for part in _chunks(rows)]
    return torch.cat([part @ part.mT for part in parts])


def _products(rows: Tensor, signals: Tensor) -> Tensor:
    return torch.cat(
        [
            torch.einsum("mcn,mn->mc", wide(rows[part]), wide(signals[part]))
            for part in _chunks(rows)
        ]
    )


def _unit_mean(rows: Tensor, gram: Tensor) -> Tensor:
    norms = torch.diagonal(gram, dim1=1, dim2=2).sum(1).sqrt()
    defined = torch.isfinite(norms) & (norms > 0)
    weights = torch.where(defined, 1.0 / norms, 0.0) / defined.sum()
    return torch.einsum("m,mcn->cn", weights.to(rows), rows)


def _pulled_back(rows: Tensor, inverted: Tensor, error: Tensor) -> Tensor:
    """Return J^+ e of every sample, as unit vectors; zero where there is no direction."""
    coordinates = torch.einsum("mcd,md->mc", inverted, error.to(inverted))
    found = torch.cat(
        [torch.einsum("mc,mcn->mn", coordinates[part], wide(rows[part])) for part in _chunks(rows)]
    )
    norms = found.norm(dim=1, keepdim=True)
    return torch.where(torch.isfinite(norms) & (norms > 0), found / norms, 0.0)
