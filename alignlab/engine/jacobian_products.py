"""Products of the Jacobian's rows with themselves and with feedback, added up as they stream."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, final

import torch
from torch import Tensor

from alignlab.engine.directions import Directions
from alignlab.errors import MissingError
from alignlab.sites import ENTRY, Layer

__all__ = ["FeedbackProducts", "GramMatrices"]


@final
class GramMatrices:
    r"""Visitor that forms :math:`S J_l J_l^\top S^\top` of every sample at chosen sites.

    The rows that have passed are kept at these sites, since each meets all later ones: memory
    is ``n_samples * n_directions * width`` at each. Of many output units take a sketch.

    Args:
        directions: What is differentiated; the same that the visit is given.
        sites: Pairs of layer name and site.
    """

    def __init__(self, directions: Directions, *, sites: Collection[tuple[str, str]]) -> None:
        """Prepare; memory is taken when the first row comes."""
        self._count: Final = len(directions)
        self._wanted: Final = frozenset(sites)
        self._rows: Final[dict[tuple[str, str], Tensor]] = {}
        self._grams: Final[dict[tuple[str, str], Tensor]] = {}

    def __call__(self, number: int, layer: Layer, site: str, signal: Tensor) -> None:
        """Take one row at one site."""
        place = layer.name, site
        if place not in self._wanted:
            return
        flat = signal.reshape(signal.shape[0], -1)
        if place not in self._rows:
            samples, width = flat.shape
            self._rows[place] = flat.new_empty(samples, self._count, width)
            self._grams[place] = flat.new_zeros(samples, self._count, self._count)
        rows, gram = self._rows[place], self._grams[place]
        rows[:, number].copy_(flat)
        products = torch.bmm(rows[:, : number + 1], flat.unsqueeze(2)).squeeze(2)
        gram[:, number, : number + 1] = products
        gram[:, : number + 1, number] = products

    def gram(self, layer: str, site: str) -> Tensor:
        """Return the products of all rows at a site, ``(n_samples, n_directions, n_directions)``.

        Raises:
            MissingError: The site was not chosen, or no row has come there.
        """
        return _held(self._grams, (layer, site))

    def rows(self, layer: str, site: str) -> Tensor:
        """Return the rows at a site, shape ``(n_samples, n_directions, width)``.

        Raises:
            MissingError: The site was not chosen, or no row has come there.
        """
        return _held(self._rows, (layer, site))


@final
class FeedbackProducts:
    r"""Visitor that compares :math:`S J_l` at the entries with :math:`S B_l`.

    Memory is ``n_samples * n_directions ** 2`` a layer and no row is kept. With all output
    units as directions S is the identity and the numbers are exact; with a sketch those of
    the sketch, which in squared norms are off by about ``sqrt(2 / n_directions)``.

    Args:
        directions: What is differentiated; the same that the visit is given.
        feedback: By layer, shape ``(n_errors, *entry_shape)``.
    """

    def __init__(self, directions: Directions, *, feedback: Mapping[str, Tensor]) -> None:
        """Combine the feedback's rows as the Jacobian's will be."""
        self._count: Final = len(directions)
        self._feedback: Final = {name: directions.times(b) for name, b in feedback.items()}
        self._products: Final[dict[str, Tensor]] = {}
        self._norms: Final[dict[str, Tensor]] = {}

    def __call__(self, number: int, layer: Layer, site: str, signal: Tensor) -> None:
        """Take one row at one entry."""
        name = layer.name
        if site != ENTRY or name not in self._feedback:
            return
        flat = signal.reshape(signal.shape[0], -1)
        if name not in self._products:
            samples = flat.shape[0]
            self._feedback[name] = self._feedback[name].to(flat)
            self._products[name] = flat.new_zeros(self._count, samples, self._count)
            self._norms[name] = flat.new_zeros(self._count, samples)
        torch.mm(flat, self._feedback[name].T, out=self._products[name][number])
        torch.linalg.vector_norm(flat, dim=1, out=self._norms[name][number])

    def alignment(self, layer: str) -> Tensor:
        r"""Return :math:`S J_l (S B_l)^\top` of every sample.

        Where feedback descends, its symmetric part is positive.

        Returns:
            Shape ``(n_samples, n_directions, n_directions)``.

        Raises:
            MissingError: There is no feedback of that layer, or no row has come there.
        """
        return _held(self._products, layer).transpose(0, 1)

    def cosine(self, layer: str) -> Tensor:
        r"""Return :math:`\langle SJ_l, SB_l\rangle/(\|SJ_l\|\,\|SB_l\|)` by sample.

        Returns:
            Dimensionless, in [-1, 1], float64, shape ``(n_samples,)``; NaN where either is zero.

        Raises:
            MissingError: There is no feedback of that layer, or no row has come there.
        """
        products = _held(self._products, layer).double()
        inner = torch.diagonal(products, dim1=0, dim2=2).sum(1)
        size = torch.linalg.vector_norm(self._norms[layer].double(), dim=0)
        value = inner / size / self._feedback[layer].double().norm()
        result: Tensor = value.clamp(-1.0, 1.0)
        return result


def _held(found: Mapping[Any, Tensor], key: Any) -> Tensor:
    if key not in found:
        msg = f"There are no products at {key!r}; there are some at {list(found)}."
        raise MissingError(msg)
    result: Tensor = found[key]
    return result
