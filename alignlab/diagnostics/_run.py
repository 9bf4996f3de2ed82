"""Diagnostics run over a snapshot, and the recording of what they say."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from alignlab.diagnostics._alignments import alignments
from alignlab.diagnostics._base import (
    AlignmentDiagnostic,
    Diagnostic,
    NotDefined,
    Reading,
    SnapshotDiagnostic,
)
from alignlab.diagnostics._readings import (
    FEEDBACK_HASH,
    NOT_DEFINED,
    OF_RULES,
    arrays,
    coordinates,
    reasons,
    yielded,
)
from alignlab.errors import InputError
from alignlab.plugins import load
from alignlab.recording.assembly import assemble
from alignlab.recording.schema import companions
from alignlab.snapshot import Snapshot

if TYPE_CHECKING:
    import xarray as xr
    from torch import nn

__all__ = ["diagnostics_of", "recorded"]


def diagnostics_of(names: Sequence[str]) -> dict[str, Diagnostic]:
    """Return diagnostics by name."""
    # Libraries that are imported with them may draw from Python's generator.
    state = random.getstate()
    try:
        return {name: _diagnostic(name) for name in names}
    finally:
        random.setstate(state)


def _diagnostic(name: str) -> Diagnostic:
    found = load("alignlab.diagnostics", name)
    assert isinstance(found, type)
    assert issubclass(found, Diagnostic)
    return found()


def recorded(
    snapshot: Snapshot, diagnostics: Mapping[str, Diagnostic], model: nn.Module
) -> xr.Dataset:
    """Return what diagnostics say of a snapshot.

    Args:
        snapshot: The probing.
        diagnostics: By name.
        model: The network that is measured, which a plain one may stand for.

    Returns:
        A recording of one step.
    """
    readings, missing = _measured(snapshot, diagnostics)
    variables = [
        *OF_RULES,
        FEEDBACK_HASH,
        NOT_DEFINED,
        *(v for diagnostic in diagnostics.values() for v in diagnostic.variables),
    ]
    own = _labels(snapshot, diagnostics)
    rules = [measured.label for measured in snapshot.rules]
    layers = [layer.name for layer in snapshot.layers]
    values: dict[str, Any] = dict(arrays(readings, variables, rules=rules, layers=layers, own=own))
    if missing:
        values[NOT_DEFINED.name] = reasons(missing, layers)
        own["diagnostic"] = list(missing)
    recording = assemble(
        values,
        variables,
        coords=coordinates(rules, snapshot.layers, values, own),
        attrs={
            "alignlab_version": version("alignlab"),
            "torch_version": torch.__version__,
            "recording_kind": "probe",
            "model": type(model).__name__,
            "mode": "train" if model.training else "eval",
            "device": str(snapshot.error.device),
            "dtype": str(snapshot.error.dtype).removeprefix("torch."),
            "layers_without_gradient": ", ".join(snapshot.capture.without_gradient),
            "weights_outside_layers": ", ".join(snapshot.capture.other_weights),
            "n_samples": snapshot.capture.n_samples,
            "n_errors": snapshot.capture.n_errors,
            "seed": snapshot.seed,
            "draws": snapshot.draws,
        },
    )
    for name, diagnostic in diagnostics.items():
        for variable in diagnostic.variables:
            for each in (variable, *companions(variable)):
                if each.name in recording.variables:
                    recording.variables[each.name].attrs["diagnostic"] = name
    return recording


def _measured(
    snapshot: Snapshot, diagnostics: Mapping[str, Diagnostic]
) -> tuple[list[Reading], dict[str, list[NotDefined]]]:
    """Return readings, and by diagnostic why there are none."""
    compared = {n: d for n, d in diagnostics.items() if isinstance(d, AlignmentDiagnostic)}
    found: list[tuple[str, Reading | NotDefined]] = list(alignments(snapshot, compared))
    for name, diagnostic in diagnostics.items():
        if isinstance(diagnostic, SnapshotDiagnostic):
            snapshot.progress(name, 0, 1)
            found += [(name, each) for each in diagnostic.measure(snapshot)]
    readings = [*(each for _, each in found if isinstance(each, Reading)), *_of_rules(snapshot)]
    missing = {
        name: [each for of, each in found if of == name and isinstance(each, NotDefined)]
        for name in diagnostics
    }
    return readings, {name: each for name, each in missing.items() if each}


def _of_rules(snapshot: Snapshot) -> Iterator[Reading]:
    for measured in snapshot.rules:
        yield Reading("feedback_origin", measured.origin, measured.label)
        yield Reading("rule_yields", yielded(measured.rule), measured.label)
        yield Reading("feedback_sha256", measured.digest, measured.label)
        yield Reading("feedback_seed", measured.seed, measured.label)


def _labels(snapshot: Snapshot, diagnostics: Mapping[str, Diagnostic]) -> dict[str, Sequence[Any]]:
    """Return the labels along dimensions that diagnostics bring.

    Of two that want different numbers of the same ones it is the longer.

    Raises:
        InputError: Two diagnostics want different ones along the same dimension.
    """
    own: dict[str, Sequence[Any]] = {"earlier": list(snapshot.earlier)}
    for name, diagnostic in diagnostics.items():
        for dim, labels in diagnostic.coords.items():
            held = own.setdefault(dim, labels)
            own[dim] = max(held, labels, key=len)
            if any(one != other for one, other in zip(held, labels, strict=False)):
                msg = (
                    f"{name} has other labels along {dim!r} than another of the diagnostics; "
                    "measure them in two recordings."
                )
                raise InputError(msg)
    return own
