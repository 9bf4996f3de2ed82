"""Alignment of error signals at both sites (A1, A2, A3, A5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._base import AlignmentDiagnostic, Comparison, Key, Reading, Variable
from alignlab.kernels.cosines import angle, cosine, inner, wide
from alignlab.sites import ENTRY, SITES
from alignlab.snapshot import LayerView

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
            valid=(0.0, 1.0),
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
    )
    cost: ClassVar[float] = 0.1

    def compare(self, true: LayerView, approximate: LayerView) -> Mapping[Key, Comparison]:
        """Return the four alignments at every site."""
        result: dict[Key, Comparison] = {}
        for site in SITES:
            reference, signal = true.site(site), approximate.site(site)
            if reference is None or signal is None:
                continue
            result |= {(name, site): c for name, c in _compared(reference, signal).items()}
        return result

    def adjoints(self, true: LayerView, energies: Mapping[Key, Tensor]) -> Mapping[Key, Tensor]:
        """Return T of the three cosines at both sites; see the base class."""
        result = {}
        for site in SITES:
            reference = true.site(site)
            assert reference is not None
            signal = wide(reference)
            n_samples = signal.shape[0]
            unit = torch.nan_to_num(signal / signal.norm(dim=1, keepdim=True))
            defined = (signal.norm(dim=1) > 0).sum()
            mean = signal.mean(0)
            per_sample = energies[("cosine_error_signal", site)].to(unit.device)
            functionals = {
                "cosine_error_signal": torch.nan_to_num(
                    unit / per_sample.sqrt().unsqueeze(1), posinf=0.0
                )
                / defined,
                "cosine_error_signal_flat": signal
                / signal.norm()
                / energies[("cosine_error_signal_flat", site)].sqrt(),
                "cosine_mean_error_signal": (mean / mean.norm()).expand_as(signal)
                / n_samples
                / energies[("cosine_mean_error_signal", site)].sqrt(),
            }
            for name, functional in functionals.items():
                result[(name, site)] = _at_entry(true, site, functional)
        return result

    def describe(self, true: LayerView, approximate: LayerView) -> Iterator[Reading]:
        """Yield spread over samples, angle, norm ratio and projection."""
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
            yield Reading("norm_ratio_error_signal", second.norm() / norm, site=site)
            projection = torch.dot(first / norm, second / norm)
            yield Reading("projection_error_signal", projection, site=site)


def _compared(reference: Tensor, signal: Tensor) -> dict[str, Comparison]:
    reference, signal = wide(reference), wide(signal)
    cosines = cosine(reference, signal)
    undefined = (~torch.isfinite(cosines)).sum()
    products = inner(_scaled(reference), _scaled(signal))
    defined = torch.isfinite(cosines)
    rate = (products[defined] > 0).double().mean()
    energies = signal.square().sum(1)
    mean, mean_signal = reference.mean(0), signal.mean(0)
    nothing = torch.zeros(())
    return {
        "cosine_error_signal": Comparison(cosines[defined].mean(), energies, undefined),
        "cosine_error_signal_flat": Comparison(
            cosine(reference.flatten(), signal.flatten()), energies.sum(), nothing
        ),
        "cosine_mean_error_signal": Comparison(
            cosine(mean, mean_signal), mean_signal.square().sum(), nothing
        ),
        "descent_rate": Comparison(rate, energies, undefined),
    }


def _scaled(rows: Tensor) -> Tensor:
    """Return the rows with their largest entry at 1, so that no product underflows."""
    return rows / rows.abs().amax(1, keepdim=True).clamp_min(1e-300)


def _at_entry(true: LayerView, site: str, functional: Tensor) -> Tensor:
    if site == ENTRY:
        return functional
    tangent = functional.to(true.preactivation).reshape(true.preactivation.shape)
    return true.capture.to_entry(true.layer, tangent)
