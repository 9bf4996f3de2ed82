"""Alignment of error signals at both sites (A1, A2, A3, A5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._base import (
    Adjoint,
    AlignmentDiagnostic,
    Comparison,
    Key,
    Reading,
    Variable,
)
from alignlab.errors import MeasurementError
from alignlab.kernels.beside import Beside, angle_beside, norms
from alignlab.kernels.cosines import cosine, scaled, wide
from alignlab.layer_view import LayerView
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
    cost: ClassVar[float] = 6.2

    def compare(self, true: LayerView, approximate: LayerView) -> Mapping[Key, Comparison]:
        """Return the four alignments at every site."""
        result: dict[Key, Comparison] = {}
        for site in SITES:
            found = approximate.beside(true, site)
            if found is not None:
                result |= {(name, site): each for name, each in _compared(found).items()}
        return result

    def undefined(self, true: LayerView, approximate: LayerView) -> str:
        """Return why there is nothing to compare: the rule gives no error signals."""
        has_signal = any(approximate.site(site) is not None for site in SITES)
        return "" if has_signal else "the rule yields updates of parameters and no error signals"

    def energies(self, true: LayerView, approximate: LayerView) -> Mapping[Key, Tensor]:
        """Return what the three cosines at every site divide by, squared."""
        del true
        result: dict[Key, Tensor] = {}
        for site in SITES:
            rows = approximate.site(site)
            if rows is not None:
                energies = norms(rows).square()
                result["cosine_error_signal", site] = energies
                result["cosine_error_signal_flat", site] = energies.sum()
                result["cosine_mean_error_signal", site] = wide(rows.mean(0)).square().sum()
        return result

    def adjoints(self, true: LayerView, energies: Mapping[Key, Tensor]) -> Mapping[Key, Adjoint]:
        """Return T of the three cosines and the descent rate at both sites; see the base class.

        There are none at the pre-activation where the way to the entry has no second derivative,
        and none of the rate where that way mixes samples.
        """
        result: dict[Key, Adjoint] = {}
        for site in SITES:
            found = _adjoints(true, site, energies)
            if site == ENTRY:
                result |= found
                continue
            if true.local.mixes_samples:
                del found["descent_rate", site]
            with suppress(MeasurementError):
                result |= _through(true, found)
        return result

    def describe(self, true: LayerView, approximate: LayerView) -> Iterator[Reading]:
        """Yield spread over samples, angle, norm ratio, projection, and their raw products."""
        for site in SITES:
            found = approximate.beside(true, site)
            reference, signal = true.site(site), approximate.site(site)
            if found is None or reference is None or signal is None:
                continue
            first, second, product = found.first.norm(), found.second.norm(), found.products.sum()
            yield Reading("cosine_error_signal_sd", _spread(found.cosines), site=site)
            yield Reading("angle_error_signal", angle_beside(reference, signal, found), site=site)
            ratio = torch.where(first > 0, second / first, torch.nan)
            yield Reading("norm_ratio_error_signal", ratio, site=site)
            yield Reading("projection_error_signal", product / first / first, site=site)
            yield Reading("inner_product_error_signal", product, site=site)
            yield Reading("squared_norm_error_signal", second.square(), site=site)
            yield Reading("squared_norm_error_signal_true", first.square(), site=site)


def _compared(found: Beside) -> dict[str, Comparison]:
    """Return the four alignments of one site."""
    cosines, energies = found.cosines, found.second.square()
    defined = torch.isfinite(cosines)
    count, undefined = defined.sum(), (~defined).sum()
    cosines = torch.where(defined, cosines, 0.0)
    cancels = found.mean_cancels
    mean_cosine = cosine(found.mean_first, found.mean_second)
    mean_energy = found.mean_second.square().sum()
    nothing = torch.zeros(())
    return {
        "cosine_error_signal": Comparison(cosines.sum() / count, energies, undefined),
        "cosine_error_signal_flat": Comparison(found.flat, energies.sum(), nothing),
        "cosine_mean_error_signal": Comparison(
            torch.where(cancels, torch.nan, mean_cosine), mean_energy, cancels.double()
        ),
        "descent_rate": Comparison((cosines > 0).double().sum() / count, energies, undefined),
    }


def _adjoints(true: LayerView, site: str, energies: Mapping[Key, Tensor]) -> dict[Key, Adjoint]:
    """Return T of the three cosines and the descent rate, in the shape of the site itself."""
    rows, found = true.site(site), true.beside(true, site)
    assert rows is not None
    assert found is not None
    rows, size = scaled(rows)
    roots = energies["cosine_error_signal", site].to(found.first.device).sqrt()
    defined = (found.first > 0) & (roots > 0)
    per_sample = torch.where(defined, size / (found.first * roots), 0.0) / defined.sum()
    flat = size / (found.first.norm() * energies["cosine_error_signal_flat", site].sqrt())
    mean = found.mean_first / found.mean_first.norm() / len(rows)
    mean = mean / energies["cosine_mean_error_signal", site].sqrt()
    direction = torch.where(found.first > 0, size / found.first, 0.0)
    return {
        ("cosine_error_signal", site): Adjoint(rows, per_sample),
        ("cosine_error_signal_flat", site): Adjoint(rows, flat),
        ("cosine_mean_error_signal", site): Adjoint(mean.to(rows).unsqueeze(0)),
        ("descent_rate", site): Adjoint(rows, direction, is_counted=True),
    }


def _through(true: LayerView, adjoints: Mapping[Key, Adjoint]) -> dict[Key, Adjoint]:
    """Carry tensors from the pre-activation to the entry, equal ones once."""
    carried: list[tuple[Tensor, tuple[Tensor, Tensor]]] = []
    result = {}
    for key, adjoint in adjoints.items():
        rows, factors = adjoint.rows, adjoint.factors
        if factors is not None and true.local.mixes_samples:
            rows, factors = rows * factors.unsqueeze(1).to(rows), None
        known = [at_entry for given, at_entry in carried if given is rows]
        if not known:
            carried.append((rows, scaled(true.to_entry(rows))))
        at_entry, size = known[0] if known else carried[-1][1]
        whole = size if factors is None else size * factors
        result[key] = Adjoint(at_entry, whole, is_counted=adjoint.is_counted)
    return result


def _spread(cosines: Tensor) -> Tensor:
    """Return the standard deviation over samples with a direction; NaN for fewer than two."""
    defined = torch.isfinite(cosines)
    count = defined.sum()
    mean = torch.where(defined, cosines, 0.0).sum() / count
    squares = torch.where(defined, cosines - mean, 0.0).square().sum()
    return torch.where(count > 1, squares / (count - 1), torch.nan).sqrt()
