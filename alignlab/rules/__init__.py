"""Rules: how a learning signal reaches the parameters. One file a rule."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignlab.engine.updates import Updates
    from alignlab.rules._base import DirectRule, ReplacedWeightRule, Rule, State
    from alignlab.rules._function import FunctionRule
    from alignlab.rules._observed import ObservedRule
    from alignlab.rules._signs import SignConcordantRule
    from alignlab.rules._task import Task
    from alignlab.rules.align_ada import AlignAda
    from alignlab.rules.align_prop import AlignProp
    from alignlab.rules.align_zero import AlignZero
    from alignlab.rules.aligned_dfa import AlignedDFA
    from alignlab.rules.applied import Applied
    from alignlab.rules.augmented_dfa import AugmentedDFA
    from alignlab.rules.bp import BP
    from alignlab.rules.brsf import BRSF
    from alignlab.rules.dfa import DFA
    from alignlab.rules.displacement import Displacement
    from alignlab.rules.dkp import DKP
    from alignlab.rules.drtp import DRTP
    from alignlab.rules.dtp import DTP
    from alignlab.rules.e_prop import EProp
    from alignlab.rules.ebd import EBD
    from alignlab.rules.es import ES
    from alignlab.rules.fa import FA
    from alignlab.rules.fdfa import FDFA
    from alignlab.rules.forward_forward import ForwardForward
    from alignlab.rules.forward_gradient import ForwardGradient
    from alignlab.rules.frsf import FRSF
    from alignlab.rules.ifa import IFA
    from alignlab.rules.kp import KP
    from alignlab.rules.ldfa import LDFA
    from alignlab.rules.node_perturbation import NodePerturbation
    from alignlab.rules.noisy import Noisy
    from alignlab.rules.oracle_dfa import OracleDFA
    from alignlab.rules.pepita import PEPITA
    from alignlab.rules.pfa import PFA
    from alignlab.rules.photonic_dfa import PhotonicDFA
    from alignlab.rules.predictive_coding import PredictiveCoding
    from alignlab.rules.quantised import Quantised
    from alignlab.rules.spsa import SPSA
    from alignlab.rules.stale import Stale
    from alignlab.rules.synthetic_gradient import SyntheticGradient
    from alignlab.rules.tbptt import TBPTT
    from alignlab.rules.top_k import TopK
    from alignlab.rules.usf import USF
    from alignlab.rules.weight_mirror import WeightMirror

__all__ = [
    "BP",
    "BRSF",
    "DFA",
    "DKP",
    "DRTP",
    "DTP",
    "EBD",
    "ES",
    "FA",
    "FDFA",
    "FRSF",
    "IFA",
    "KP",
    "LDFA",
    "PEPITA",
    "PFA",
    "SPSA",
    "TBPTT",
    "USF",
    "AlignAda",
    "AlignProp",
    "AlignZero",
    "AlignedDFA",
    "Applied",
    "AugmentedDFA",
    "DirectRule",
    "Displacement",
    "EProp",
    "ForwardForward",
    "ForwardGradient",
    "FunctionRule",
    "NodePerturbation",
    "Noisy",
    "ObservedRule",
    "OracleDFA",
    "PhotonicDFA",
    "PredictiveCoding",
    "Quantised",
    "ReplacedWeightRule",
    "Rule",
    "SignConcordantRule",
    "Stale",
    "State",
    "SyntheticGradient",
    "Task",
    "TopK",
    "Updates",
    "WeightMirror",
]

_SHARED = {
    "DirectRule": "_base",
    "FunctionRule": "_function",
    "ObservedRule": "_observed",
    "ReplacedWeightRule": "_base",
    "Rule": "_base",
    "SignConcordantRule": "_signs",
    "State": "_base",
    "Task": "_task",
}


def __getattr__(name: str) -> object:
    """Resolve a rule on first use: its file bears its name, in lower case with underscores."""
    if name == "Updates":
        return import_module("alignlab.engine.updates").Updates
    module = _SHARED.get(name)
    if module is None and not name.startswith("_"):
        files = {m.name.replace("_", ""): m.name for m in iter_modules(__path__)}
        module = files.get(name.lower())
    found = import_module(f"{__name__}.{module}") if module else None
    if found is None or name not in found.__all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(found, name)
