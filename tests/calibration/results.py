"""Everything that the page of the calibration shows, and how it is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from tests.calibration.coverage import LEVELS, Covered, coverages
from tests.calibration.nulls import Band
from tests.calibration.pvalues import SETTINGS, Found, distance_from_uniform, p_values
from tests.calibration.switch import Switched, switched

__all__ = ["Results", "kept", "measured"]


@dataclass(frozen=True)
class Results:
    """What was measured.

    Attributes:
        draws: Fresh draws for each network.
        seeds: Untrained networks for each setting of p-values.
        redraws: Most redraws behind each p-value.
        covered: Bands against fresh draws.
        switched: Closed form and redraws, both for every alignment.
        p: P-values by setting, and by variable and site.
    """

    draws: int
    seeds: int
    redraws: int
    covered: Sequence[Covered] = ()
    switched: Sequence[Switched] = ()
    p: Mapping[str, Found] = field(default_factory=dict)

    def distances(self, setting: str) -> dict[tuple[str, str], float]:
        """Return how far p-values are from uniform."""
        return {key: distance_from_uniform(p) for key, p in self.p[setting].items()}


def measured(
    *, draws: int, seeds: int, redraws: int, progress: Callable[[str], None] = lambda _: None
) -> Results:
    """Measure everything.

    Args:
        draws: Fresh draws for each network.
        seeds: Untrained networks for each setting of p-values.
        redraws: Most redraws behind each p-value.
        progress: Is told what is being done.
    """
    covered: list[Covered] = []
    for level in LEVELS:
        progress(level)
        covered += coverages(level, draws=draws)
    progress("the switch")
    both = list(switched(draws=draws, networks=LEVELS["backward weights"].networks))
    p = {}
    for name, setting in SETTINGS.items():
        progress(f"p-values, {name}")
        p[name] = p_values(setting, range(seeds), draws=redraws)
    return Results(draws, seeds, redraws, covered, both, p)


def kept(path: Path, make: Callable[[], Results]) -> Results:
    """Return results from a file where there is one, else make and keep them."""
    if not path.exists():
        path.write_text(json.dumps(_plain(make())), encoding="utf-8")
    found = json.loads(path.read_text(encoding="utf-8"))
    return Results(
        *(found["draws"], found["seeds"], found["redraws"]),
        covered=[_covered(each) for each in found["covered"]],
        switched=[
            Switched(each["spread"], _covered(each["closed_form"]), _covered(each["redraws"]))
            for each in found["switched"]
        ],
        p={
            name: {(v, site): np.array(p) for v, site, p in rows}
            for name, rows in found["p"].items()
        },
    )


def _plain(results: Results) -> dict[str, object]:
    return {
        **{key: getattr(results, key) for key in ("draws", "seeds", "redraws")},
        "covered": [asdict(each) for each in results.covered],
        "switched": [asdict(each) for each in results.switched],
        "p": {
            name: [(*key, p.tolist()) for key, p in found.items()]
            for name, found in results.p.items()
        },
    }


def _covered(found: dict[str, object]) -> Covered:
    return Covered(**{**found, "band": Band(**found["band"])})  # type: ignore[arg-type]
