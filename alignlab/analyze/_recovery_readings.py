"""What the difference of two checkpoints shows of each layer's feedback, as readings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from alignlab.analyze._differences import Difference
from alignlab.diagnostics._base import Reading, Variable
from alignlab.kernels.recovery import ChanceSpectrum, SignalSpace

__all__ = ["STATUSES", "VARIABLES", "Agreement", "Found", "readings"]

STATUSES = ("recovered", "partly", "not identifiable")

# Our defaults: what counts as a clean end of the spectrum, as a gap, and as more than chance.
_CLEAN, _GAP, _P, _DEVIATIONS = 0.01, 2.0 / 3.0, 0.01, 3.0


def _declared(name: str, phrase: str, **more: Any) -> Variable:
    return Variable(f"feedback_space{name}", ("layer",), phrase, **more)


_SHARE: Mapping[str, Any] = {"valid": (0.0, 1.0)}
_COUNT: Mapping[str, Any] = {"units": "count", "valid": (0.0, None)}
_DEGREES: Mapping[str, Any] = {"units": "degree", "valid": (0.0, 90.0), "better": "lower"}
_TEXT: Mapping[str, Any] = {"units": "", "dtype": "string"}
_DRAWN = "Dumitriu & Edelman 2002"
VARIABLES = (
    Variable("weight_change", ("layer",), "Norm of the weight difference over the earlier norm"),
    _declared("_status", "Whether the column space of the feedback was recovered", **_TEXT),
    _declared("_limits", "What was found, and what cannot be recovered", **_TEXT),
    _declared("_rank", "Directions before the largest gap of the weight difference", **_COUNT),
    _declared("_rank_expected", "Rank of the errors of the loss", source="algebra", **_COUNT),
    _declared("_ratio", "First singular value behind the gap over the last before it", **_SHARE),
    _declared("_p", "How often random matrices have so wide a gap", source=_DRAWN, **_SHARE),
    _declared(
        "_tilt",
        "Angle by which the rest may tilt it, without that of mean derivatives",
        source="Wedin 1972",
        **_DEGREES,
    ),
    _declared("_explained", "Share of the weight difference in these directions", **_SHARE),
    _declared("_explained_chance", "The same share of random matrices", source=_DRAWN, **_SHARE),
    _declared("_bias", "Share of the bias difference in these directions", **_SHARE),
    _declared("_bias_chance", "The same share of a random direction", **_SHARE),
    _declared("_angle", "Largest principal angle to the stored feedback", **_DEGREES),
    _declared(
        "_overlap", "Mean squared cosine with the stored feedback", better="higher", **_SHARE
    ),
    _declared("_overlap_chance", "The same of a random space", **_SHARE),
    _declared("_path", "Mean squared cosine with the earlier weights above the layer", **_SHARE),
    _declared("_path_chance", "The same of a random space", **_SHARE),
    Variable(
        "feedback_space_singular_value",
        ("layer", "singular_value"),
        "Singular values of the weight difference over the largest",
        valid=(0.0, 1.0),
    ),
)


@dataclass(frozen=True)
class Agreement:
    """How the space that was found lies to that of other columns."""

    angle: float
    overlap: float
    chance: float
    chance_sd: float

    @property
    def is_above_chance(self) -> bool:
        return self.overlap > self.chance + _DEVIATIONS * self.chance_sd


@dataclass(frozen=True)
class Found:
    """What one layer's difference shows; the parts are None where nothing can be looked for."""

    change: Difference
    refused: str
    space: SignalSpace | None = None
    chance: ChanceSpectrum | None = None
    stored: Agreement | None = None
    path: Agreement | None = None


def readings(found: list[Found], rank: int) -> Iterator[Reading]:
    for one in found:
        layer = one.change.layer
        status, limits = _verdict(one, rank)
        yield Reading("weight_change", one.change.relative, layer=layer)
        yield Reading("feedback_space_rank_expected", rank, layer=layer)
        yield Reading("feedback_space_status", status, layer=layer)
        yield Reading("feedback_space_limits", limits, layer=layer)
        for name, value in _numbers(one).items():
            yield Reading(f"feedback_space_{name}", value, layer=layer)


def _numbers(one: Found) -> Mapping[str, float | np.ndarray | Tensor]:
    space, chance, stored, bias = one.space, one.chance, one.stored, one.change.bias
    if space is None or chance is None:
        return {}
    values: dict[str, float | np.ndarray | Tensor] = {
        "rank": space.rank,
        "ratio": space.ratio,
        "tilt": space.tilt,
        "p": chance.p(space.ratio),
        "explained": space.explained,
        "explained_chance": float(chance.explained[space.rank - 1]),
        "singular_value": space.spectrum / space.spectrum[0],
    }
    if bias is not None and bool(bias.any()):
        values["bias"] = float((space.basis.T @ bias).square().sum() / bias.square().sum())
        values["bias_chance"] = space.rank / len(bias)
    if one.path is not None:
        values["path"], values["path_chance"] = one.path.overlap, one.path.chance
    if stored is not None:
        values["angle"], values["overlap"] = stored.angle, stored.overlap
        values["overlap_chance"] = stored.chance
    return values


def _verdict(one: Found, rank: int) -> tuple[str, str]:
    """Return the status of a layer, and what was found and what cannot be."""
    space, chance = one.space, one.chance
    if space is None or chance is None:
        return "not identifiable", one.refused
    against = one.refused or _against(one, space, chance, rank)
    if against:
        return "not identifiable", against
    text = (
        f"{space.rank} directions for errors of rank {rank}, if these were sent directly. Lost: "
        "scale, sign and every invertible mixing of the directions."
    )
    if space.ratio <= _CLEAN and space.rank == rank:
        return "recovered", text
    if space.ratio <= _CLEAN and space.rank < rank:
        return "partly", f"{text} The feedback has a lower rank, or the errors did not fill theirs."
    text += " Each unit's row carries its mean derivative, and gates tilt the space."
    if space.rank > rank:
        text += " One direction too many: the mean input with what gates add; which cannot be told."
    return "partly", text


def _against(one: Found, space: SignalSpace, chance: ChanceSpectrum, rank: int) -> str:
    """Return why the space is not taken for that of feedback; empty where it may be."""
    if one.stored is not None and not one.stored.is_above_chance:
        return (
            "The space is no nearer to the stored feedback than chance: the weights did not learn "
            "by it, or gates, weight decay or an adaptive optimizer hide that they did."
        )
    if one.stored is None and one.path is not None and one.path.is_above_chance:
        return (
            "The space lies along the earlier weights above the layer, as under backpropagation; "
            "if the rule was direct, only --since with initial weights shows it."
        )
    if space.ratio > _GAP or chance.p(space.ratio) > _P:
        return (
            f"The spectrum has no gap within {rank + 1} directions: gates, feedback that differs "
            "between positions, weight decay or an adaptive optimizer fill it."
        )
    return ""
