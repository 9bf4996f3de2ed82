"""Rules: how a learning signal reaches the parameters. One file a rule."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignlab.rules._base import DirectRule, ReplacedWeightRule, Rule
    from alignlab.rules.bp import BP
    from alignlab.rules.dfa import DFA
    from alignlab.rules.fa import FA
    from alignlab.rules.usf import USF

__all__ = ["BP", "DFA", "FA", "USF", "DirectRule", "ReplacedWeightRule", "Rule"]

_BASES = {"DirectRule", "ReplacedWeightRule", "Rule"}


def __getattr__(name: str) -> object:
    """Resolve a rule on first use."""
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    module = "_base" if name in _BASES else name.lower()
    return getattr(import_module(f"{__name__}.{module}"), name)
