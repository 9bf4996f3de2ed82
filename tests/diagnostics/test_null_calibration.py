"""The 95% bands of 24 networks against 2,000 fresh draws of the feedback each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest

from tests.diagnostics.nulls import (
    ALIGNMENTS,
    NETWORKS,
    Band,
    bands,
    fresh_alignments,
    recorded,
    share_inside,
)

pytestmark = pytest.mark.slow

DRAWS = 2000


@dataclass(frozen=True)
class Coverage:
    """How many of the draws that are defined lie in a band."""

    network: str
    band: Band
    inside: int
    count: int


@pytest.fixture(scope="module")
def coverages() -> list[Coverage]:
    found = []
    for seed, (name, network) in enumerate(NETWORKS.items()):
        batch = network.make(seed)
        fresh = fresh_alignments(batch, DRAWS, seed=seed)
        for band in bands(recorded(batch, seed=seed)):
            values = fresh[band.variable, band.site, band.layer]
            found.append(Coverage(name, band, *share_inside(band, values)))
    return found


def share(found: list[Coverage]) -> float:
    return sum(each.inside for each in found) / sum(each.count for each in found)


@pytest.mark.parametrize(("variable", "site"), ALIGNMENTS)
def test_the_band_holds_what_it_says_pooled_and_in_every_network(
    coverages: list[Coverage], variable: str, site: str
) -> None:
    here = [c for c in coverages if (c.band.variable, c.band.site) == (variable, site)]
    networks = {c.network for c in here}
    assert len(networks) >= 20
    by_network = {name: share([c for c in here if c.network == name]) for name in networks}
    methods = Counter(c.band.method for c in here)
    print(variable, site, round(share(here), 4), dict(methods))  # noqa: T201
    assert set(methods) <= {"closed form", "redraws"}
    assert 0.93 <= share(here) <= 0.97
    outside = {name: value for name, value in by_network.items() if not 0.90 <= value <= 0.99}
    assert outside == {}


@pytest.mark.parametrize("kind", ["conv", "dense"])
def test_weight_gradients_of_either_kind_of_layer_are_covered(
    coverages: list[Coverage], kind: str
) -> None:
    here = [
        c
        for c in coverages
        if c.band.variable == "cosine_weight_gradient"
        and c.network.startswith("conv") == (kind == "conv")
    ]
    assert 0.93 <= share(here) <= 0.97


def test_both_methods_are_in_use(coverages: list[Coverage]) -> None:
    methods = Counter(c.band.method for c in coverages)
    assert min(methods["closed form"], methods["redraws"]) > len(coverages) / 10
