"""Named choices of diagnostics."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from alignlab.errors import InputError, MissingError
from alignlab.plugins import names

__all__ = ["PRESETS", "chosen"]

PRESETS: dict[str, tuple[str, ...]] = {
    "core": ("error-signal", "weight-gradient"),
    "descent": (
        *("total-gradient", "loss-change", "loss-change-parts", "real-step", "step-bound"),
        *("nudging", "oracle-substitution", "validity"),
    ),
    "estimator": (
        *("weight-gradient", "cross-batch-gradient", "sign-agreement", "noise-ceiling"),
        *("bias-variance", "tangent-scaling", "validity"),
    ),
    "stability": (
        *("stability", "rule-kernel", "reference-stability", "noise-ceiling", "staleness"),
        *("momentum-averaging", "step-bound", "validity"),
    ),
    "weights": (
        *("weight-feedback", "alignment-matrix", "conserved-quantity", "feedback-readout"),
        *("jacobian-alignment", "gauss-newton", "input-weight-alignment"),
    ),
    "bottleneck": (
        *("error-signal", "validity", "bottleneck", "reach", "weight-gradient-reach"),
        *("recalibration-headroom", "effective-rank", "jacobian-rank"),
    ),
    "convolution": (
        *("error-signal", "validity", "reach", "structured-reach", "attainable-cosine"),
        *("coherence", "convolution-cap", "spatial-spectrum", "unshared-gradient"),
        *("equivariance-defect", "credit-field", "operator-spectrum", "unrolled"),
    ),
    "units": ("common-mode", "gates", "unit-activity", "drift", "residual-growth"),
    "representations": ("label-decodability", "representation-similarity", "modes"),
}
"""Diagnostics by preset; ``full`` stands for all."""


def chosen(diagnostics: Sequence[str], preset: str | None) -> list[str]:
    """Return the names that are to be measured.

    Args:
        diagnostics: Names that were asked for one by one.
        preset: Name of a preset; None for none.

    Returns:
        Both together, each once; all where nothing was asked for.

    Raises:
        MissingError: There is no such preset or diagnostic.
    """
    known = names("alignlab.diagnostics")
    if preset is not None and preset != "full" and preset not in PRESETS:
        message = f"There is no preset {preset!r}; there are {', '.join([*PRESETS, 'full'])}."
        raise MissingError(message)
    if preset == "full" or not (diagnostics or preset):
        return known
    picked = dict.fromkeys([*diagnostics, *PRESETS.get(preset or "", ())])
    unknown = [name for name in picked if name not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        message = (
            f"There is no diagnostic {unknown[0]!r}.{hint} "
            "'alignlab list diagnostics' names them all."
        )
        raise InputError(message)
    return list(picked)
