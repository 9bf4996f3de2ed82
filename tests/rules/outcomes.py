"""Which rules are measured with which options, and which cases each of them refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from alignlab.plugins import load, names
from alignlab.rules import Rule
from tests.cases import CASES

__all__ = ["REFUSED", "RULES", "rule"]

PACKAGE = "alignlab.rules"


def rule(name: str, **options: Any) -> Rule:
    """Return a rule by its public name."""
    return cast("Callable[..., Rule]", load(PACKAGE, name))(**options)


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("dfa", {"granularity": "macro"}),
    ("dfa", {"structure": "channel"}),
    ("dfa", {"structure": "position"}),
    ("dfa", {"rank": 2}),
    ("dfa", {"storage": "seeded"}),
    ("dfa", {"shared": True}),
    ("dfa", {"error": "ternary"}),
    ("dfa", {"error": "sign"}),
    ("dfa", {"distribution": "sparse", "density": 0.5}),
    ("dfa", {"distribution": "uniform", "normalisation": "fan-out"}),
    ("drtp", {"granularity": "macro"}),
    ("augmented-dfa", {"derivative": "tanh"}),
    ("dkp", {"initial": "zeros"}),
    ("ebd", {"function": "tanh"}),
    ("fa", {"distribution": "orthogonal"}),
    ("fa", {"distribution": "uniform", "normalisation": "weight"}),
    ("kp", {"distribution": "sign"}),
    ("pfa", {"distribution": "orthogonal"}),
    ("brsf", {"distribution": "uniform"}),
    ("oracle-dfa", {"aim": "jacobian"}),
    ("aligned-dfa", {"factors": "nmf"}),
    ("forward-gradient", {"tangents": 2, "orthogonal": True}),
    ("node-perturbation", {"tangents": 2}),
    ("predictive-coding", {"prediction": "fixed"}),
    ("align-ada", {"derivative": "current"}),
    ("align-ada", {"credit": "published"}),
    ("tbptt", {"window": 2}),
    ("quantised", {"rule": rule("dfa"), "bits": 1}),
    ("noisy", {"rule": rule("fa"), "ratio": 0.5}),
    ("top-k", {"rule": rule("forward-gradient")}),
    ("top-k", {"rule": rule("kp"), "error_feedback": True}),
    ("stale", {"rule": rule("dfa")}),
]
"""Options that make another rule of a rule."""

RULES: dict[str, Rule] = {
    each.label: each
    for each in (
        *(rule(name) for name in names(PACKAGE)),
        *(rule(name, **options) for name, options in VARIANTS),
    )
}
"""Every rule as it is, and some with other options, by label."""

ALL = frozenset(CASES)
SHORTCUTS = {name for name, case in CASES.items() if case.has_shortcut}
NUMBERS = {name for name, case in CASES.items() if case.loss in ("mse", "bce")}
RECOMPUTED = {"recomputed"}
GROUPED = {
    *("conv2d, grouped", "conv2d, depthwise"),
    *("conv1d, transposed", "conv2d, transposed", "conv3d, transposed"),
}
COMPUTED = {
    *("weight norm", "weight norm, twice", "weight norm, by hooks", "weight norm of maps"),
    *("spectral norm", "spectral norm, by hooks", "positive weights"),
}
SEQUENTIAL = {
    *("lstm", "lstm, two ways", "gru", "rnn", "matrix of positions", "attention"),
    *("encoder", "encoder, evaluation"),
}
BETWEEN = SEQUENTIAL | {
    *("matrix", "copied matrix", "bilinear", "cross attention", "lstm cell", "gru cell"),
    "vision transformer",
}
"""Weights act outside of layers."""
STATISTICS = {"batch norm, training", "batch norm of maps", "conv2d, depthwise"}
"""Batch norm in training mode, in a chain."""
MIXING = STATISTICS | BETWEEN | {
    *("layer norm", "group norm", "rms norm", "residual", "mixer", "dense network"),
    *("language model", "language model, tied"),
}  # fmt: skip
"""What lies between layers has parameters and mixes units."""
SCALING = {"tied", "batch norm, evaluation"}
"""It has parameters and does not mix units."""
RESHAPED = {"conv2d, grouped", "overlapping pools", "positions", "chunked", "graph"}
"""It mixes units, without parameters."""
JOINED = {"own attention", "parallel", "recurrence", "leaky recurrence", "variational"}
"""Several layers make up an entry."""
CHAINS = {
    *("relu in place", "tanh", "linear", "one hidden layer", "frozen", "one vector"),
    *("conv1d, strided", "conv2d, grouped", "conv2d, circular", "conv3d", "channels last"),
    *("conv1d, transposed", "conv2d, transposed", "conv3d, transposed", "weight norm of maps"),
    *("overlapping pools", "batch norm, evaluation", "layer norm", "group norm", "rms norm"),
}
"""Layers one after the other, which can be run again by themselves."""
BLOCKS = {
    *("residual", "encoder", "encoder, evaluation", "language model", "language model, tied"),
}
"""Layers of several parent modules."""
MAPS = SEQUENTIAL | {
    *("conv1d, strided", "conv2d, grouped", "conv2d, circular", "conv3d", "channels last"),
    *("conv1d, transposed", "conv2d, transposed", "conv3d, transposed", "conv2d, depthwise"),
    *("weight norm of maps", "dropout of maps", "batch norm of maps", "overlapping pools"),
    *("cross attention", "own attention", "vision transformer", "mixer", "graph", "positions"),
    *("residual", "dense network", "group norm"),
}
"""An entry has positions, which the error has not."""

UNTARGETED = {
    *("two heads", "contrastive", "dictionary", "fields", "variational"),
    *("language model", "language model, tied"),
}
"""No target for each unit of the one output."""

STEPS = {"recurrence", "leaky recurrence", "lstm cell", "gru cell"}
"""One weight acts in several steps."""
STEPS_OF_ALL = {"reused", "weight norm, twice"}
"""It does, and all credit of the layer below passes those."""
NO_JACOBIAN = STATISTICS | {"residual", "two heads", "contrastive"}

_REFUSED: dict[str, set[str] | frozenset[str]] = {
    # Weights that cannot be replaced, or have no steps of their own.
    "fa": RECOMPUTED,
    "usf": RECOMPUTED,
    "brsf": RECOMPUTED,
    "frsf": RECOMPUTED,
    "align-prop": RECOMPUTED,
    "align-ada(derivative=current)": RECOMPUTED,
    "kp": RECOMPUTED | COMPUTED,
    "pfa": RECOMPUTED | COMPUTED | GROUPED,
    "ldfa": RECOMPUTED | COMPUTED | GROUPED | BETWEEN,
    "weight-mirror": RECOMPUTED | COMPUTED | BETWEEN | {"conv2d, circular"},
    # Feedback that has no meaning there.
    "dfa(granularity=macro)": ALL - BLOCKS,
    "drtp(granularity=macro)": ALL - BLOCKS | UNTARGETED,
    "dfa(structure=position)": MAPS,
    "drtp": UNTARGETED,
    "oracle-dfa(aim=jacobian)": NO_JACOBIAN,
    "fdfa": {"own attention", "language model", "language model, tied"},
    "align-ada": BETWEEN | {"language model", "language model, tied"},
    "align-ada(credit=published)": ALL,  # no case is read out in every step
    "e-prop": ALL - STEPS,
    "tbptt": ALL - STEPS,
    "tbptt(window=2)": ALL - STEPS - STEPS_OF_ALL,
    # Units that must stay by themselves, or parameters that must lie in layers.
    "augmented-dfa": MIXING | SCALING | RESHAPED | JOINED,
    "ifa": MIXING | RESHAPED | JOINED | {"two heads", "contrastive", "dictionary", "fields"},
    "node-perturbation": MIXING | SCALING,
    "pepita": MIXING | SCALING | RESHAPED | JOINED,
    "synthetic-gradient": SHORTCUTS,
    # Layers that are run again by themselves.
    "dtp": ALL - CHAINS,
    "predictive-coding": ALL - CHAINS,
    "forward-forward": ALL - (CHAINS - NUMBERS),
}
"""By label, or by the name of a rule for those of its options that are not in here."""


def _refused(rule: Rule) -> frozenset[str]:
    """Return what a rule refuses; one that wraps another, what that refuses."""
    inner = getattr(rule, "rule", None)
    if isinstance(inner, Rule):
        return _refused(inner)
    return frozenset(_REFUSED.get(rule.label, _REFUSED.get(rule.name, ())))


REFUSED: dict[str, frozenset[str]] = {label: _refused(each) for label, each in RULES.items()}
"""By label, the cases that a rule refuses; it works on all others."""
