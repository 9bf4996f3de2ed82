"""Agreement of signs of true and approximate weight gradient (A4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch

from alignlab.diagnostics._base import AlignmentDiagnostic, Comparison, Key, Reading, Variable
from alignlab.kernels.cosines import wide
from alignlab.kernels.sign_agreement import gaussian_sign_agreement, sign_agreement
from alignlab.layer_view import LayerView

__all__ = ["SignAgreement"]

_DIMS = ("rule", "layer")
_SHARE = "sign_agreement_weight_gradient"
_WEIGHTED = "sign_agreement_weight_gradient_weighted"


class SignAgreement(AlignmentDiagnostic):
    r"""Share of the entries of a weight gradient whose sign is that of the true one.

    With K the entries that are zero in neither gradient,

    .. math:: s = \frac{1}{|K|}\sum_{k\in K} 1[\hat g_k g_k > 0], \qquad
        s_w = \frac{\sum_{k\in K} |g_k|\,1[\hat g_k g_k > 0]}{\sum_{k\in K} |g_k|}.

    *How to read it.* An optimizer that looks at signs alone, as sign descent and nearly Adam do,
    moves this share of the weights the right way. Jointly Gaussian entries of cosine c have
    :math:`s = 1 - \arccos(c)/\pi` (0.532 at c = 0.1, 0.597 at 0.3, 0.667 at 0.5), which is recorded
    beside it. Above this curve the cosine is worse than the signs: what is wrong sits in few large
    entries, or in sizes. Below it the signs are worse than the cosine: small entries are wrong,
    which cost the cosine little and an optimizer of signs as much as any. The weighted share
    counts every entry by the size of the true gradient.

    *Chance.* One half, with the spread of fresh feedback or of rotated outputs, by redraws.

    *Undefined* where every entry is zero in one of both. Entries that are, but for rounding, as at
    dead units, have no sign: they are left out, and their number is recorded. The cosine of the
    curve is that of the other entries.
    Of a rule that yields updates alone, those of a weight that acts in several calls are compared
    with the gradient of all calls together.

    Source: Liao, Leibo & Poggio 2016 (signs of backward weights); the curve is Sheppard's (1899).
    Difference and left-out entries: our derivation.

    Example:
        >>> from alignlab.probe import Probe
        >>> from alignlab.rules import BP
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
        ... )
        >>> loss = torch.nn.functional.cross_entropy
        >>> probe = Probe(net, loss, rules=[BP()], diagnostics=["sign-agreement"], draws=32)
        >>> found = probe.measure(torch.randn(20, 4), torch.arange(20) % 3).isel(step=0, rule=0)
        >>> found["sign_agreement_weight_gradient"].sel(layer="0").item()
        1.0
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            _SHARE,
            _DIMS,
            "Share of the entries of true and approximate weight gradient with the same sign",
            source="Liao, Leibo & Poggio 2016 (of weights); our derivation",
            better="higher",
            valid=(0.0, 1.0),
            alignment=True,
            null_mean=0.5,
        ),
        Variable(
            _WEIGHTED,
            _DIMS,
            "That share with every entry weighted by the magnitude of the true gradient",
            better="higher",
            valid=(0.0, 1.0),
            alignment=True,
            null_mean=0.5,
        ),
        Variable(
            "sign_agreement_gaussian",
            _DIMS,
            "Share of equal signs that jointly Gaussian entries of the same cosine have",
            source="Sheppard 1899",
            valid=(0.0, 1.0),
        ),
        Variable(
            "sign_agreement_excess",
            _DIMS,
            "Share of equal signs less that of jointly Gaussian entries",
            valid=(-1.0, 1.0),
        ),
        Variable(
            "sign_agreement_left_out",
            _DIMS,
            "Entries that are zero in the true or the approximate weight gradient",
            units="count",
            valid=(0.0, None),
        ),
    )
    cost: ClassVar[float] = 33.0
    without_value: ClassVar[str] = "every entry of its gradient is zero, of the true or the rule's"

    def compare(self, true: LayerView, approximate: LayerView) -> Mapping[Key, Comparison]:
        """Return both shares of one layer."""
        weight, other = true.gradients_beside(approximate)[0], approximate.gradients[0]
        if weight is None or other is None:
            return {}
        found = sign_agreement(weight.flatten(), other.flatten())
        energy = wide(other).square().sum()
        undefined = (~torch.isfinite(found.share)).double()
        return {
            (_SHARE, ""): Comparison(found.share, energy, undefined),
            (_WEIGHTED, ""): Comparison(found.weighted, energy, undefined),
        }

    def undefined(self, true: LayerView, approximate: LayerView) -> str:
        """Say where a layer has no weight that learns."""
        if true.gradients_beside(approximate)[0] is None or approximate.gradients[0] is None:
            return "its weight does not learn, or is computed from other parameters"
        return ""

    def describe(self, true: LayerView, approximate: LayerView) -> Iterator[Reading]:
        """Yield the Gaussian curve, the difference from it, and what was left out."""
        weight, other = true.gradients_beside(approximate)[0], approximate.gradients[0]
        if weight is None or other is None:
            return
        found = sign_agreement(weight.flatten(), other.flatten())
        curve = gaussian_sign_agreement(found.cosine)
        yield Reading("sign_agreement_gaussian", curve)
        yield Reading("sign_agreement_excess", found.share - curve)
        yield Reading("sign_agreement_left_out", found.left_out)
