"""Growth of the cosine with the number of draws that are averaged (C2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._draws import DRAWS, fresh_draws, parameters_by_layer
from alignlab.diagnostics._together import fetched, together
from alignlab.kernels.draws import (
    averaged_cosines,
    error_parts,
    exponent,
    fitted_dimension,
    rms_cosines,
    tangent_law,
)
from alignlab.snapshot import Snapshot

__all__ = ["TangentScaling"]

COUNTS = tuple(2**k for k in range(DRAWS.bit_length()))
_LAW = "our derivation, for the forward gradient of Baydin et al. 2022, arXiv 2202.08587"


def _declared() -> Iterator[Variable]:
    for suffix, dims, where in (
        ("", ("rule", "layer"), ""),
        ("_network", ("rule",), ", all parameters"),
    ):
        yield Variable(
            f"cosine_draws{suffix}",
            (*dims, "count"),
            f"Cosine of the mean of K draws with the gradient, means taken before the ratio{where}",
            better="higher",
        )
        yield Variable(
            f"cosine_draws_rms{suffix}",
            (*dims, "count"),
            f"Root mean square of the cosines of means of K draws with the gradient{where}",
            better="higher",
            valid=(0.0, 1.0),
        )
        yield Variable(
            f"cosine_draws_rms_chance{suffix}",
            dims[1:],
            f"That of directions that know nothing of the gradient, at every K{where}",
            valid=(0.0, 1.0),
        )
        yield Variable(
            f"cosine_draws_exponent{suffix}",
            dims,
            f"Slope of log c on log K: 1/2 where variance limits, 0 where bias does{where}",
        )
        yield Variable(
            f"cosine_draws_dimension{suffix}",
            dims,
            f"n of sqrt(K/(n+K+1)) fitted to the cosines{where}",
            source=_LAW,
            better="lower",
            valid=(-1.0, None),
        )
        yield Variable(
            f"cosine_draws_law{suffix}",
            (*dims, "count"),
            f"sqrt(K/(n+K+1)) with that n{where}",
            source=_LAW,
            valid=(0.0, None),
        )
        yield Variable(
            f"noise_share_update{suffix}",
            dims,
            f"Share of variance in the mean squared norm of one draw{where}",
            better="lower",
        )


class TangentScaling(SnapshotDiagnostic):
    r"""Would more draws help: how the cosine with the gradient grows with their number.

    K draws of a rule's update at the present weights are averaged, for K = 1, 2, 4, ..., 32:

    .. math:: c_K = \frac{\langle E\hat g, g\rangle}
        {|g|\,\sqrt{|E\hat g|^2 + \mathrm{tr\,Var}(\hat g)/K}}

    and beside it the root mean square of the cosines of such averages. A forward gradient over n
    parameters has :math:`c_K = \sqrt{K/(n+K+1)}`; that law is fitted, and n is the number of
    dimensions in which the update searches. The exponent is the slope of log c on log K.

    **How to read it.** Exponent 1/2: variance limits, twice as many draws give :math:`\sqrt 2`
    times the cosine (it falls once K comes near n). Exponent 0: the average of many draws is as
    far from the gradient as one of them, bias limits. The noise share says the same of one draw.
    The fitted n of a layer exceeds its number of parameters where other layers add to its noise,
    as they do under perturbation of all parameters at once; fewer or larger groups, perturbed
    activities, or orthogonal tangents (:math:`\sqrt{K/n}`) lower it.

    **Chance.** c_K of a direction that knows nothing of the gradient is 0 on average, its root mean
    square :math:`1/\sqrt n` at every K, which is also that of a single forward gradient: only
    its growth and its sign tell them apart. With 32 draws the fitted n is known to about 30%,
    the exponent of a forward gradient to 0.01 (measured over repetitions).

    **Not defined** for rules that draw nothing in a step (see ``bias-variance``, with which
    it shares its draws); the exponent and n where c_K is not positive.

    Source: our derivation (c_K, law and fit); the forward gradient is that of Baydin et al. 2022,
    arXiv 2202.08587.

    Example:
        >>> from alignlab.probe import Probe
        >>> from alignlab.rules import ForwardGradient
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 3)
        ... )
        >>> loss = torch.nn.functional.cross_entropy
        >>> rules, names = [ForwardGradient(seed=0)], ["tangent-scaling"]
        >>> with Probe(net, loss, rules=rules, diagnostics=names, draws=32) as probe:
        ...     recording = probe.measure(torch.randn(20, 20), torch.arange(20) % 3)
        >>> 0.45 < recording["cosine_draws_exponent_network"].item() < 0.55
        True
    """

    variables: ClassVar[tuple[Variable, ...]] = tuple(_declared())
    coords: ClassVar[Mapping[str, Sequence[float]]] = MappingProxyType({"count": COUNTS})
    cost: ClassVar[float] = 25.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield cosines against the number of draws, by layer and of the network."""
        names = [layer.name for layer in snapshot.layers]
        rows: dict[tuple[str, str], tuple[Tensor]] = {}
        for label, draws in snapshot.shared(fresh_draws).items():
            if draws.because:
                yield NotDefined(draws.because, label)
                continue
            for name in ("", *names):
                if name in draws.products:
                    rows[label, name] = (draws.products[name],)
                else:
                    yield NotDefined("no parameter of it learns", label, name)
        yield from _chances(snapshot, {layer for _, layer in rows})
        curves = together(_curves, rows)
        numbers = together(_numbers, rows)
        for (label, layer), found in zip(numbers, fetched(list(numbers.values())), strict=True):
            suffix = "" if layer else "_network"
            cosines, rms, law = curves[label, layer].unbind(0)
            slope, dimension, share = (float(number) for number in found)
            if not np.isfinite(slope):
                yield NotDefined(
                    "its draws do not point along the gradient on average", label, layer
                )
            values: dict[str, Tensor | float] = {
                "cosine_draws": cosines,
                "cosine_draws_rms": rms,
                "cosine_draws_law": law,
                "cosine_draws_exponent": slope,
                "cosine_draws_dimension": dimension,
                "noise_share_update": share,
            }
            for name, value in values.items():
                yield Reading(name + suffix, value, label, layer)


def _chances(snapshot: Snapshot, layers: set[str]) -> Iterator[Reading]:
    """Yield one over the root of the number of parameters, where there are readings."""
    sizes = {name: g.numel() for name, g in snapshot.true.parameters.items()}
    if layers:
        whole = sum(sizes.values()) ** -0.5
        yield Reading("cosine_draws_rms_chance_network", whole)
    for layer, names in parameters_by_layer(snapshot).items():
        if layer in layers:
            size = sum(sizes[name] for name in names)
            yield Reading("cosine_draws_rms_chance", size**-0.5, layer=layer)


def _curves(products: Tensor) -> Tensor:
    """Return cosines, their root mean squares and the fitted law, ``(n, 3, len(COUNTS))``."""
    cosines = averaged_cosines(products, COUNTS)
    law = tangent_law(fitted_dimension(COUNTS, cosines), COUNTS)
    return torch.stack([cosines, rms_cosines(products, COUNTS), law], 1)


def _numbers(products: Tensor) -> Tensor:
    """Return exponent, fitted dimension and share of noise, shape ``(n, 3)``."""
    cosines = averaged_cosines(products, COUNTS)
    parts, _ = error_parts(products)
    fitted = (exponent(COUNTS, cosines), fitted_dimension(COUNTS, cosines))
    return torch.stack([*fitted, parts.noise_share], 1)
