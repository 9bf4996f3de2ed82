"""The first-order closed form where it is used, and where it would be wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from unittest.mock import patch

import numpy as np

from alignlab.diagnostics import _chance, _closed_forms
from alignlab.rules import DFA
from tests.calibration.coverage import Covered, covered
from tests.calibration.fresh import fresh_direct
from tests.calibration.nulls import NETWORKS, Band, bands, recorded

__all__ = ["Switched", "switched"]

REDRAWS = 200


@dataclass(frozen=True)
class Switched:
    """One alignment under both methods.

    Attributes:
        spread: Relative spread of what it is divided by, over 200 redraws.
        closed_form: Against the band of the closed form, whatever the spread.
        redraws: Against that of 200 redraws.
    """

    spread: float
    closed_form: Covered
    redraws: Covered


def switched(*, draws: int, networks: Sequence[str] = ()) -> Iterator[Switched]:
    """Yield all alignments with a closed form under fresh direct feedback.

    Args:
        draws: Fresh draws for each network.
        networks: On which; none means all.
    """
    for seed, name in enumerate(NETWORKS):
        if networks and name not in networks:
            continue
        batch = NETWORKS[name].make(seed)
        options = {"draws": REDRAWS, "seed": seed}
        with (
            patch.object(_closed_forms, "STAGES", (REDRAWS,)),
            patch.object(_closed_forms, "largest_spread", lambda _: inf),
            patch.object(_chance, "CONCENTRATION_BOUND", inf),
        ):
            closed = list(bands(recorded(batch, DFA(seed=3), **options).isel(rule=0)))
        with patch.object(_closed_forms, "largest_spread", lambda _: -inf):
            drawn = list(bands(recorded(batch, DFA(seed=3), **options).isel(rule=0)))
        fresh = fresh_direct(batch, draws, seed=seed)
        other = {_place(band): band for band in drawn}
        for band in closed:
            values = fresh[_place(band)]
            if band.method == "closed form" and np.isfinite(values).any():
                pair = (
                    covered("", name, each, values, tried=0) for each in (band, other[_place(band)])
                )
                yield Switched(band.concentration, *pair)


def _place(band: Band) -> tuple[str, str, str]:
    return band.variable, band.site, band.layer
