"""Conditioning and row space of the Jacobian, and what of a signal lies inside (E8, E9)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._jacobians import TRUE, AtEntry, jacobians
from alignlab.diagnostics._together import together
from alignlab.kernels.cosines import wide
from alignlab.kernels.ranks import participation_ratio
from alignlab.kernels.row_space import conditioning, rank, row_space_share, singular_values
from alignlab.snapshot import Snapshot

__all__ = ["JacobianRank"]


class JacobianRank(SnapshotDiagnostic):
    r"""How many directions of a layer move the output, and what of a signal lies in them.

    With :math:`J_i = \partial z/\partial h_l` of sample i, z the pre-activation of the output
    layer and h_l the activation at the entry of layer l, n units wide, and C outputs:

    .. math:: \kappa = \sigma_1/\sigma_{\min(C, n)}, \qquad r = \operatorname{rank} J_i \le C,
        \qquad \frac{(\sum_j\sigma_j^2)^2}{\sum_j\sigma_j^4}, \qquad
        \frac{\|P_{J_i^\top}\hat\delta_i\|^2}{\|\hat\delta_i\|^2},

    with :math:`P_{J_i^\top}` the projector on the rows of :math:`J_i`. Condition numbers are
    medians over samples, all else means. ``jacobian_participation_ratio_mean`` is that of the
    mean Jacobian, whose rows fixed feedback would have to be.

    **Reading.** True signals are :math:`J_i^\top e_i`: they lie in the row space, and with a large
    condition number in few of its directions, whatever the errors are. The last number is the
    *achievable energy* of a rule: the rest of its signal changes the output by nothing in first
    order, a cost in norm and not an error of direction. Low and flat through the training says
    that the network does not turn towards the feedback; a higher one rises with alignment.

    **Expectation.** A signal of isotropic direction, as by fresh feedback of independent entries,
    has r/n inside on average (``achievable_energy_chance``). The true signal has 1, unless the
    loss also reaches the layer on a way that is not the output's.

    **Which samples.** As many as fit in memory, at random (``jacobian_samples`` of
    ``jacobian-alignment``). Singular values below 1e-5 of the largest count as zero; with mixed
    precision, below ten times its rounding.

    **Undefined** for more than 64 outputs, where the output of one sample depends on others (batch
    norm in training), for several output layers; the shares for rules that yield no error
    signals. Samples whose Jacobian is zero (``jacobian_n_undefined``) have rank 0 and are left
    out of condition number and participation ratio.

    Source: our derivation.

    Example:
        >>> from alignlab.probe import Probe
        >>> from alignlab.rules import DFA
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
        ... )
        >>> loss, name = torch.nn.functional.cross_entropy, "jacobian-rank"
        >>> with Probe(net, loss, rules=[DFA(seed=0)], diagnostics=[name], draws=32) as probe:
        ...     recording = probe.measure(torch.randn(20, 4), torch.arange(20) % 3)
        >>> recording["jacobian_rank"].sel(layer="0").item()
        3.0
        >>> recording["achievable_energy_chance"].sel(layer="0").item()
        0.375
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "jacobian_condition",
            ("layer",),
            "Condition number of the Jacobian of the output, median over samples",
            better="lower",
            valid=(1.0, None),
        ),
        Variable(
            "jacobian_rank",
            ("layer",),
            "Rank of the Jacobian of the output, mean over samples",
            units="count",
            valid=(0.0, None),
        ),
        Variable(
            "jacobian_participation_ratio",
            ("layer",),
            "Participation ratio of the Jacobian of the output, mean over samples",
            source="Gao et al. 2017 (of covariances)",
            valid=(1.0, None),
        ),
        Variable(
            "jacobian_participation_ratio_mean",
            ("layer",),
            "Participation ratio of the mean Jacobian of the output",
            source="Gao et al. 2017 (of covariances)",
            valid=(1.0, None),
        ),
        Variable(
            "jacobian_singular_value",
            ("layer", "singular_value"),
            "Singular values of the Jacobian of the output over the largest, mean over samples",
            valid=(0.0, 1.0),
        ),
        Variable(
            "jacobian_n_undefined",
            ("layer",),
            "Samples whose Jacobian of the output is zero",
            units="count",
            valid=(0.0, None),
        ),
        Variable(
            "achievable_energy",
            ("rule", "layer"),
            "Share of the approximate signal that changes the output, mean over samples",
            better="higher",
            valid=(0.0, 1.0),
        ),
        Variable(
            "achievable_energy_true",
            ("layer",),
            "Share of the true signal that changes the output, mean over samples",
            valid=(0.0, 1.0),
        ),
        Variable(
            "achievable_energy_chance",
            ("layer",),
            "Expectation of that share for a signal of isotropic direction",
            valid=(0.0, 1.0),
        ),
    )
    cost: ClassVar[float] = 8.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield spectra of every layer, and the shares of every rule with error signals."""
        found = snapshot.shared(jacobians)
        if found.because:
            yield NotDefined(found.because)
            return
        for layer in snapshot.capture.layout.outputs:
            yield NotDefined("it is the output, whose Jacobian is the identity", layer=layer.name)
        yield from _spectra(found.at, found.tolerance)
        for measured in snapshot.rules:
            if not measured.rule.has_signals:
                yield NotDefined("the rule yields no error signals", measured.label)
            elif not measured.is_drawn:
                yield from _shares("achievable_energy", measured.label, found.at)
        yield from _shares("achievable_energy_true", TRUE, found.at)


def _spectra(at: Mapping[str, AtEntry], tolerance: float) -> Iterator[Reading]:
    values = together(singular_values, {name: (each.gram,) for name, each in at.items()})
    means = together(
        singular_values,
        {name: (wide(each.mean) @ wide(each.mean).T,) for name, each in at.items()},
    )
    for name, each in values.items():
        width = at[name].mean.shape[1]
        zero = (each[:, 0] == 0).sum()
        ratios = participation_ratio(each.square())
        shares = (each / each[:, :1]).nanmean(0)
        ranks = rank(each, tolerance=tolerance)
        condition = conditioning(each, width, tolerance=tolerance).nanmedian()
        yield Reading("jacobian_condition", condition, layer=name)
        yield Reading("jacobian_rank", ranks.mean(), layer=name)
        yield Reading("jacobian_participation_ratio", ratios.nanmean(), layer=name)
        yield Reading(
            "jacobian_participation_ratio_mean",
            participation_ratio(means[name].square()),
            layer=name,
        )
        yield Reading("jacobian_singular_value", shares, layer=name)
        yield Reading("jacobian_n_undefined", zero.double(), layer=name)
        yield Reading("achievable_energy_chance", ranks.mean() / width, layer=name)


def _shares(variable: str, label: str, at: Mapping[str, AtEntry]) -> Iterator[Reading]:
    rows: dict[str, tuple[Tensor, ...]] = {
        name: (each.inverted, each.products[label], each.energies[label])
        for name, each in at.items()
        if label in each.products
    }
    for name, shares in together(row_space_share, rows).items():
        yield Reading(variable, torch.nanmean(shares), label, name)
