"""What the hypotheses share: building statements, and when a layer allows no verdict at all."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from alignlab.diagnosis._reading import is_drawn, text
from alignlab.diagnosis.evidence import Evidence, Statement
from alignlab.recording.reasons import diagnostic_of, reasons_for

if TYPE_CHECKING:
    import xarray as xr

    from alignlab.diagnosis.evidence import Verdict

__all__ = ["Judge"]


class Judge:
    """Builds the statements of one hypothesis about one layer under one rule.

    Args:
        hypothesis: Public name of the hypothesis.
        rule: Label of the rule.
        layer: Name of the layer.
    """

    def __init__(self, hypothesis: str, *, rule: str, layer: str) -> None:
        self._hypothesis, self._rule, self._layer = hypothesis, rule, layer

    def statement(self, verdict: Verdict, reason: str, *evidence: Evidence) -> Statement:
        """Return a statement; its evidence supports the hypothesis exactly if the verdict does."""
        holds = verdict == "limits"
        return Statement(
            self._hypothesis,
            self._rule,
            self._layer,
            verdict,
            supporting=evidence if holds else (),
            opposing=() if holds else evidence,
            reason=reason,
        )

    def without_verdict(self, ds: xr.Dataset) -> Statement | None:
        """Return why the layer's observed signal allows no verdict, None where it does.

        A drawn feedback observes nothing; an undecidable status means that even the true signal
        could not stand out from chance (diagnostics.md 0.1.4).
        """
        if is_drawn(ds, self._rule):
            return self.statement("undecided", "the feedback was drawn, so nothing is observed")
        status = text(
            ds,
            "cosine_error_signal_flat_status",
            rule=self._rule,
            layer=self._layer,
            site="entry",
        )
        if status in {"undecidable", "undefined"}:
            return self.statement("undecided", f"the status of its signal is {status!r}")
        return None

    def lacking(self, ds: xr.Dataset, **numbers: float) -> str:
        """Return which numbers there are not, and why where the recording says it.

        Args:
            ds: Recording of one step.
            numbers: By the name of their variable, NaN where there is none.
        """
        names = [name for name, value in numbers.items() if math.isnan(value)]
        for name in names:
            for rule, because in reasons_for(ds, diagnostic_of(ds, name), self._layer):
                if rule in {"", self._rule}:
                    return f"{name.replace('_', ' ')} is not defined, because {because}"
        listed = ", ".join(name.replace("_", " ") for name in names)
        return f"the recording lacks {listed}" if names else ""
