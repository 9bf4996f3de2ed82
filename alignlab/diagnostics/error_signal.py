"""Alignment of error signals at both sites (A1, A2, A3, A5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._base import AlignmentDiagnostic, Comparison, Key, Reading, Variable
from alignlab.kernels.cosines import angle, cosine, is_rounding, wide
from alignlab.layer_view import LayerView, Reference
from alignlab.sites import ENTRY, SITES

__all__ = ["ErrorSignal"]

_DIMS = ("rule", "layer", "site")


class ErrorSignal(AlignmentDiagnostic):
    """Cosines, angles, descent rates and norm ratios of error signals, true and approximate."""

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "cosine_error_signal",
            _DIMS,
            "Cosine of true and approximate error signal, mean over samples",
            source="Launay, Poli & Krzakala 2019 (code); Refinetti et al. 2021 (code)",
            better="higher",
            valid=(-1.0, 1.0),
            alignment=True,
        ),
        Variable(
            "cosine_error_signal_sd",
            _DIMS,
            "Standard deviation over samples of the cosine of the error signals",
            source="Launay, Poli & Krzakala 2019 (code)",
            valid=(0.0, 2.0**0.5),
        ),
        Variable(
            "cosine_error_signal_flat",
            _DIMS,
            "Cosine of true and approximate error signal of the whole batch",
            source="Akrout et al. 2019 (code)",
            better="higher",
            valid=(-1.0, 1.0),
            alignment=True,
        ),
        Variable(
            "cosine_mean_error_signal",
            _DIMS,
            "Cosine of the true and the approximate error signal averaged over samples",
            better="higher",
            valid=(-1.0, 1.0),
            alignment=True,
        ),
        Variable(
            "angle_error_signal",
            _DIMS,
            "Angle between true and approximate error signal of the whole batch",
            units="degree",
            source="Lillicrap et al. 2016",
            better="lower",
            valid=(0.0, 180.0),
        ),
        Variable(
            "descent_rate",
            _DIMS,
            "Share of samples whose true and approximate error signal have a positive product",
            source="Lillicrap et al. 2016 (per-sample condition)",
            better="higher",
            valid=(0.0, 1.0),
            alignment=True,
            null_mean=0.5,
        ),
        Variable(
            "norm_ratio_error_signal",
            _DIMS,
            "Norm of the approximate error signal over that of the true one",
            source="biotorch (weights there); our derivation",
            valid=(0.0, None),
        ),
        Variable(
            "projection_error_signal",
            _DIMS,
            "Approximate error signal projected on the true one, over the true norm",
            source="DFA-Stall (code)",
        ),
        Variable(
            "inner_product_error_signal",
            _DIMS,
            "Inner product of true and approximate error signal of the whole batch",
        ),
        Variable(
            "squared_norm_error_signal",
            _DIMS,
            "Squared norm of the approximate error signal of the whole batch",
            valid=(0.0, None),
        ),
        Variable(
            "squared_norm_error_signal_true",
            _DIMS,
            "Squared norm of the true error signal of the whole batch",
            valid=(0.0, None),
        ),
    )
    cost: ClassVar[float] = 0.1

    def compare(self, true: LayerView, approximate: LayerView) -> Mapping[Key, Comparison]:
        """Return the four alignments at every site."""
        result: dict[Key, Comparison] = {}
        for site in SITES:
            reference, signal = true.reference(site), approximate.site(site)
            if reference is None or signal is None:
                continue
            result |= {(name, site): c for name, c in _compared(reference, signal).items()}
        return result

    def undefined(self, true: LayerView, approximate: LayerView) -> str:
        """Return why there is nothing to compare: the rule gives no error signals."""
        has_signal = any(approximate.site(site) is not None for site in SITES)
        return "" if has_signal else "the rule yields updates of parameters and no error signals"

    def adjoints(self, true: LayerView, energies: Mapping[Key, Tensor]) -> Mapping[Key, Tensor]:
        """Return T of the three cosines at both sites; see the base class."""
        result = {}
        for site in SITES:
            reference = true.reference(site)
            assert reference is not None
            per_sample = energies[("cosine_error_signal", site)].to(reference.unit.device)
            weights = torch.nan_to_num(per_sample.rsqrt(), posinf=0.0) / reference.defined.sum()
            flat = reference.unit * reference.norms.unsqueeze(1) / reference.norms.norm()
            mean = reference.mean / reference.mean.norm() / len(reference.norms)
            functionals = {
                "cosine_error_signal": reference.unit * weights.unsqueeze(1),
                "cosine_error_signal_flat": flat
                / energies[("cosine_error_signal_flat", site)].sqrt(),
                "cosine_mean_error_signal": mean.expand_as(reference.unit)
                / energies[("cosine_mean_error_signal", site)].sqrt(),
            }
            for name, functional in functionals.items():
                result[(name, site)] = _at_entry(true, site, functional)
        return result

    def describe(self, true: LayerView, approximate: LayerView) -> Iterator[Reading]:
        """Yield spread over samples, angle, norm ratio, projection, and their raw products."""
        for site in SITES:
            reference, signal = true.site(site), approximate.site(site)
            if reference is None or signal is None:
                continue
            cosines = cosine(reference, signal)
            cosines = cosines[torch.isfinite(cosines)]
            spread = cosines.std() if cosines.numel() > 1 else torch.tensor(float("nan"))
            first, second = wide(reference).flatten(), wide(signal).flatten()
            norm = first.norm()
            yield Reading("cosine_error_signal_sd", spread, site=site)
            yield Reading("angle_error_signal", angle(first, second), site=site)
            ratio = torch.where(norm > 0, second.norm() / norm, torch.nan)
            yield Reading("norm_ratio_error_signal", ratio, site=site)
            projection = torch.dot(first / norm, second / norm)
            yield Reading("projection_error_signal", projection, site=site)
            yield Reading("inner_product_error_signal", torch.dot(first, second), site=site)
            yield Reading("squared_norm_error_signal", second.square().sum(), site=site)
            yield Reading("squared_norm_error_signal_true", first.square().sum(), site=site)


def _compared(true: Reference, signal: Tensor) -> dict[str, Comparison]:
    """Return the four alignments of one site from one pass over the signal."""
    rows = wide(signal)
    energies = torch.einsum("nk,nk->n", rows, rows)
    products = torch.einsum("nk,nk->n", true.unit, rows)
    cosines = (products / energies.sqrt()).clamp(-1.0, 1.0)
    defined = torch.isfinite(cosines) & true.defined
    cosines = cosines[defined]
    undefined = (~defined).sum()
    flat = torch.dot(true.norms, products) / (true.norms.norm() * energies.sum().sqrt())
    mean = rows.mean(0)
    # A mean that cancels to rounding, as before normalisation over the batch, has no direction.
    cancels = is_rounding(mean * len(rows), energies.sum().sqrt())
    cancels = cancels | is_rounding(true.mean * len(rows), true.norms.norm())
    mean_cosine = torch.where(cancels, torch.nan, cosine(true.mean, mean))
    nothing = torch.zeros(())
    return {
        "cosine_error_signal": Comparison(cosines.mean(), energies, undefined),
        "cosine_error_signal_flat": Comparison(flat.clamp(-1.0, 1.0), energies.sum(), nothing),
        "cosine_mean_error_signal": Comparison(mean_cosine, mean.square().sum(), cancels.double()),
        "descent_rate": Comparison((cosines > 0).double().mean(), energies, undefined),
    }


def _at_entry(true: LayerView, site: str, functional: Tensor) -> Tensor:
    if site == ENTRY:
        return functional
    assert true.preactivation is not None
    tangent = functional.to(true.preactivation).reshape(true.preactivation.shape)
    return true.capture.to_entry(true.layer, tangent)
