"""What a recording holds: dimensions, coordinates, variables and their attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from alignlab.errors import RecordingError

__all__ = [
    "BETTER",
    "COMPANIONS",
    "COORDINATES",
    "DIMS",
    "FEEDBACK_ORIGINS",
    "NULL_KINDS",
    "NULL_METHODS",
    "RECORDING_KINDS",
    "SCHEMA_VERSION",
    "SITES",
    "STATUSES",
    "STATUSES_AGAINST_CHANCE",
    "STATUSES_WITHOUT_VALUE",
    "Kind",
    "Variable",
    "companions",
    "migrate",
    "require_known_version",
]

SCHEMA_VERSION = 1

DIMS = (
    *("step", "rule", "layer", "site", "sample", "draw", "class", "singular_value", "frequency"),
    *("run", "rule_other", "run_other", "row", "column", "component", "hypothesis"),
    *("intervention", "diagnostic", "earlier", "count", "length", "share", "shift"),
)
SITES = ("entry", "preactivation")
STATUSES_WITHOUT_VALUE = ("null draw", "undefined")
STATUSES_AGAINST_CHANCE = ("opposed", "at chance", "detectable", "useful")
STATUSES = ("undecidable", *STATUSES_AGAINST_CHANCE, "exact", *STATUSES_WITHOUT_VALUE)
NULL_KINDS = (
    *("feedback_draw", "rule_draw", "output_rotation", "sample_permutation", "sign_flip"),
    "none",
)
NULL_METHODS = ("closed form", "redraws")
FEEDBACK_ORIGINS = (
    *("checkpoint", "replayed", "replayed, unverified", "drawn"),
    *("derived from weights", "observed", "training"),
)
RECORDING_KINDS = ("checkpoint", "weights", "probe")
BETTER = ("higher", "lower", "none")

Kind = Literal["float", "int", "string", "bool"]
Bounds = tuple[float | None, float | None]


@dataclass(frozen=True)
class Variable:
    """One named quantity of a recording and everything that a reader must know about it.

    Attributes:
        name: A Python identifier.
        dims: Its dimensions without the leading ``step``.
        long_name: What it is, in a phrase.
        units: ``"1"`` for pure numbers, ``"degree"``, ...; empty for text.
        source: Paper and equation, or "our derivation".
        better: Which direction is good: "higher", "lower" or "none".
        valid: Smallest and largest value that can occur; None where there is no bound.
        alignment: Whether it carries a chance level, that is the :func:`companions`.
        null_mean: What an alignment is by chance on average.
        dtype: "float", "int", "string" or "bool".
        per_step: Whether ``step`` leads its dimensions.
    """

    name: str
    dims: tuple[str, ...]
    long_name: str
    units: str = "1"
    source: str = "our derivation"
    better: str = "none"
    valid: Bounds = (None, None)
    alignment: bool = False
    null_mean: float = 0.0
    dtype: Kind = "float"
    per_step: bool = True

    @property
    def stored_dims(self) -> tuple[str, ...]:
        """The dimensions in the file, ``step`` included."""
        return ("step", *self.dims) if self.per_step else self.dims

    @property
    def attrs(self) -> dict[str, str | int | float]:
        """The attributes in the file."""
        attrs: dict[str, str | int | float] = {"long_name": self.long_name, "units": self.units}
        attrs |= {"source": self.source, "better": self.better}
        for name, bound in zip(("valid_min", "valid_max"), self.valid, strict=True):
            if bound is not None:
                attrs[name] = float(bound)
        if self.alignment:
            attrs |= {"alignment": 1, "null_mean": float(self.null_mean)}
        return attrs


# suffix: what it is, units (None: those of the alignment), valid, kind
_COMPANION_TABLE: dict[str, tuple[str, str | None, Bounds, Kind]] = {
    "null_sd": ("standard deviation by chance", None, (0.0, None), "float"),
    "null_low": ("lower edge of the central 95% chance band", None, (None, None), "float"),
    "null_high": ("upper edge of the central 95% chance band", None, (None, None), "float"),
    "null_kind": ("what was random in the chance level", "", (None, None), "string"),
    "null_method": ("how the chance level was computed", "", (None, None), "string"),
    "null_concentration": (
        *("spread of the squared norm over its mean under redraws", "1", (0.0, None), "float"),
    ),
    "z": (
        "distance from the chance mean in chance standard deviations",
        "1",
        (None, None),
        "float",
    ),
    "z_attainable": ("largest z that perfect alignment reaches", "1", (0.0, None), "float"),
    "p": ("one-sided p-value against chance", "1", (0.0, 1.0), "float"),
    "status": ("what the value is worth against chance", "", (None, None), "string"),
    "n_undefined": ("samples, or whole values, without a direction", "count", (0.0, None), "float"),
}
COMPANIONS = tuple(_COMPANION_TABLE)


def companions(variable: Variable) -> tuple[Variable, ...]:
    """Return the variables that an alignment travels with; none for any other variable.

    Args:
        variable: Any variable.

    Returns:
        One variable for each of :data:`COMPANIONS`, with the dimensions of the alignment.

    Example:
        >>> cosine = Variable("cosine", ("rule", "layer"), "Cosine", alignment=True)
        >>> [companion.name for companion in companions(cosine)][:3]
        ['cosine_null_sd', 'cosine_null_low', 'cosine_null_high']
    """
    if not variable.alignment:
        return ()
    return tuple(
        Variable(
            name=f"{variable.name}_{suffix}",
            dims=variable.dims,
            long_name=f"{variable.long_name}: {phrase}",
            units=variable.units if units is None else units,
            source=variable.source,
            valid=valid,
            dtype=dtype,
            per_step=variable.per_step,
        )
        for suffix, (phrase, units, valid, dtype) in _COMPANION_TABLE.items()
    )


def _coordinate(
    name: str,
    dim: str,
    long_name: str,
    units: str = "",
    *,
    dtype: Kind = "string",
) -> Variable:
    return Variable(name, (dim,), long_name, units, source="", dtype=dtype, per_step=False)


COORDINATES: Mapping[str, Variable] = {
    coordinate.name: coordinate
    for coordinate in (
        _coordinate("step", "step", "optimizer steps taken", "step", dtype="int"),
        _coordinate("rule", "rule", "learning rule with its options"),
        _coordinate("layer", "layer", "qualified module name, @k for its k-th call"),
        _coordinate("site", "site", "where at the layer the signal is read"),
        _coordinate("sample", "sample", "position in the measured batch", dtype="int"),
        _coordinate("draw", "draw", "number of the random draw", dtype="int"),
        _coordinate("singular_value", "singular_value", "rank of the singular value", dtype="int"),
        _coordinate(
            "frequency", "frequency", "spatial frequency", "cycles/position", dtype="float"
        ),
        _coordinate("diagnostic", "diagnostic", "diagnostic"),
        _coordinate("earlier", "earlier", "state of earlier in the training"),
        _coordinate("count", "count", "calls that are averaged", "count", dtype="float"),
        _coordinate("length", "length", "averaging length", "step", dtype="float"),
        _coordinate("share", "share", "share of entries that are kept", dtype="float"),
        _coordinate("shift", "shift", "shift of the input", "pixel", dtype="float"),
        _coordinate("layer_kind", "layer", "class of the module"),
        _coordinate("depth", "layer", "place in call order, from 1", "1", dtype="int"),
        _coordinate("width", "layer", "units per sample at the pre-activation", "1", dtype="int"),
        _coordinate("entry_width", "layer", "units per sample at the entry", "1", dtype="int"),
        _coordinate("channels", "layer", "output channels", "1", dtype="int"),
        _coordinate("positions", "layer", "spatial positions of the output", "1", dtype="int"),
        _coordinate("fan_in", "layer", "inputs to one output unit", "1", dtype="int"),
        _coordinate("n_parameters", "layer", "trainable numbers of the layer", "1", dtype="int"),
        _coordinate("is_output", "layer", "whether the layer yields the logits", dtype="bool"),
        _coordinate("consumer", "layer", "layer whose input is this layer's entry"),
    )
}


# Schema version to the function that turns such a recording into one of the next version.
_MIGRATIONS: dict[int, Callable[[xr.Dataset], xr.Dataset]] = {}


def require_known_version(ds: xr.Dataset) -> int:
    """Return the schema version of a recording, or refuse one that this alignlab cannot know.

    Args:
        ds: What may be a recording.

    Returns:
        A version from 1 to :data:`SCHEMA_VERSION`.

    Raises:
        RecordingError: The version is missing, is no whole number, or is newer than this alignlab.
    """
    version = ds.attrs.get("alignlab_schema")
    if isinstance(version, bool) or not isinstance(version, (int, np.integer)) or version < 1:
        message = f"this is no recording of alignlab: its attribute alignlab_schema is {version!r}."
        raise RecordingError(message)
    if version > SCHEMA_VERSION:
        message = (
            f"the recording has schema {version}, written by alignlab "
            f"{ds.attrs.get('alignlab_version', 'of a later version')}; this alignlab reads up to "
            f"schema {SCHEMA_VERSION}. Update it with: pip install -U alignlab"
        )
        raise RecordingError(message)
    return int(version)


def migrate(ds: xr.Dataset) -> xr.Dataset:
    """Return the recording in today's schema.

    Args:
        ds: A recording of any known schema version.

    Returns:
        The same object where it is of today's version, else a migrated copy.

    Raises:
        RecordingError: As :func:`require_known_version`.
    """
    for older in range(require_known_version(ds), SCHEMA_VERSION):
        ds = _MIGRATIONS[older](ds)
    return ds
