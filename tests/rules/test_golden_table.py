"""One table of the values that theory gives for rules, measured through the probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import pi, sqrt

import numpy as np
import pytest
from torch.nn import functional as F

from alignlab.rules import BRSF, DFA, FA, FRSF, KP, USF, Noisy, Quantised, Rule
from tests.rules.golden_measurements import (
    BATCHES,
    FRESH,
    LAWS,
    NOISE,
    UNITS,
    against_itself,
    at_outputs,
    batch_of,
    defects,
    fresh_feedback,
    hops,
    kolen_pollack,
    of_signs,
    of_updates,
    of_weights,
    probed,
    reach,
    scalar_output,
    shared_noise,
    tangents,
    wide_network,
)

GAUSSIAN, UNIFORM = sqrt(2.0 / pi), sqrt(3.0) / 2.0
SIGMAS = 4.0
"""Standard deviations by which a value may be off."""


@dataclass(frozen=True)
class Golden:
    """Values that theory gives, how they are measured, and how far sampling takes them off.

    Attributes:
        measure: Returns the values.
        values: What they must be.
        sd: Standard deviation of each by sampling; 0 where the value is exact.
        rounding: What is allowed beside it.
    """

    measure: Callable[[], Sequence[float]]
    values: Sequence[float]
    sd: float | Sequence[float] = 0.0
    rounding: float = 1e-6


# A cosine of one sample in n dimensions has at most the spread 1/sqrt(n), and 40 samples have
# errors of their own; every hop adds the sampling of one more matrix.
HOPS = [sqrt(k / (320 * 40)) for k in (1, 2, 3, 4)]
RULES: dict[str, tuple[Rule, str, float]] = {
    "usf, normal weights": (USF(), "normal", GAUSSIAN),
    "usf, uniform weights": (USF(), "uniform", UNIFORM),
    **{
        f"{kind.name}, {law} weights, {own} magnitudes": (
            kind(distribution=own, seed=3),
            law,
            {"normal": GAUSSIAN, "uniform": UNIFORM}[law]
            * {"normal": GAUSSIAN, "uniform": UNIFORM}[own],
        )
        for kind in (BRSF, FRSF)
        for law in LAWS
        for own in LAWS
    },
}

TABLE: dict[str, Golden] = {
    **{
        f"{label}, signals": Golden(
            partial(hops, rule, law), [value**k for k in (1, 2, 3, 4)] * 2, HOPS * 2
        )
        for label, (rule, law, value) in RULES.items()
    },
    # Of n entries, 51,200 at least, the mean of |w| m over the norms is off by less than 1/sqrt(n).
    **{
        f"{label}, weights": Golden(partial(of_weights, rule, law), [value] * 4, 51200**-0.5)
        for label, (rule, law, value) in RULES.items()
    },
    # 90,000 entries, each with a spread of at most 0.6 about the line.
    "signs of a normal gradient": Golden(
        lambda: of_updates(Quantised(bits=1)).tolist(), [GAUSSIAN], 0.6 / 300
    ),
    "additive noise": Golden(
        lambda: of_updates(*(Noisy(ratio=nu) for nu in (0.5, 1.0, 3.0))).tolist(),
        [1 / sqrt(1 + nu**2) for nu in (0.5, 1.0, 3.0)],
        1 / 300,
    ),
    # c^2 is a mean over K tangents and the repeats of squares of normal numbers.
    **{
        f"{count} tangents of 1000 parameters": Golden(
            partial(tangents, count, repeats),
            [sqrt(count / (1000 + count + 1))],
            sqrt(count / (1000 + count + 1)) / sqrt(2 * count * repeats),
        )
        for count, repeats in ((1, 400), (10, 100), (100, 20), (1000, 3))
    },
    "100 orthogonal tangents of 1000 parameters": Golden(
        lambda: tangents(100, 20, orthogonal=True), [sqrt(0.1)], sqrt(0.9 / 2000 / 20)
    ),
    "the output layer of dfa and fa": Golden(
        lambda: at_outputs(DFA(), FA(), KP(), USF()), [1.0] * 12
    ),
    "backpropagation": Golden(against_itself, [1.0] * 23, rounding=1e-12),
    # Mean and spread of 128 draws, and the stored spread, which is of first order, in units of
    # the closed form.
    "fresh feedback of dfa": Golden(
        fresh_feedback, [0.0, 1.0, 1.0], [FRESH**-0.5, (2 * FRESH) ** -0.5, 0.02]
    ),
    # A sample's signal has 16 x 64 entries; unrelated ones correlate by 1/32, and the defect
    # is the root of twice one minus that.
    "equivariance defects of backpropagation and dense feedback, pooled and flattened head": Golden(
        defects, [0.0] * 12 + [sqrt(2.0)] * 36, [0.0] * 12 + [1 / 32 / sqrt(2.0)] * 36
    ),
    "reach of a linear network": Golden(reach, [1.0] * 8),
    # Of 1600 entries and 400; after t steps (1 - 0.1)^t of the difference is left.
    "kolen-pollack at the start": Golden(lambda: kolen_pollack(0), [0.0] * 2, 400**-0.5),
    "kolen-pollack after 150 steps": Golden(lambda: kolen_pollack(150), [1.0] * 2),
    "signs in a monotone net": Golden(of_signs, [1.0] * 9),
    "weights of a scalar output, from zero": Golden(lambda: scalar_output(1.0), [1.0, 1.0]),
    "weights of a scalar output, turned": Golden(lambda: scalar_output(-1.0), [-1.0, 1.0]),
    # Debiased is a product of halves, each with the noise of half the samples, over the means'.
    **{
        f"independent directions under shared noise, {n} samples": Golden(
            partial(shared_noise, n),
            [NOISE / (NOISE + n), 0.0],
            [UNITS**-0.5, sqrt((1 + 2 * NOISE / n + (2 * NOISE / n) ** 2) / UNITS)],
        )
        for n in BATCHES
    },
}  # fmt: skip


@pytest.mark.parametrize("golden", TABLE.values(), ids=TABLE)
def test_what_is_measured_is_what_theory_gives(golden: Golden) -> None:
    found = np.asarray(golden.measure())
    assert found.shape == np.shape(golden.values)
    assert (
        np.abs(found - golden.values) <= SIGMAS * np.asarray(golden.sd) + golden.rounding
    ).all(), found


@pytest.mark.parametrize("kind", [BRSF, FRSF])
def test_the_chance_level_of_signs_is_that_of_other_signs(kind: type[Rule]) -> None:
    batch = batch_of(320, 160)
    found = probed(wide_network("normal"), F.cross_entropy, [kind()], batch, "error-signal")
    here = found.isel(rule=0)
    assert set(here["cosine_error_signal_null_kind"].isel(layer=0).values) == {"rule_draw"}
    assert "at chance" not in here["cosine_error_signal_status"].isel(layer=3).values


def test_the_values_are_those_that_are_stated() -> None:
    powers = [GAUSSIAN**k for k in (1, 2, 3, 4)]
    assert powers == pytest.approx([0.798, 0.637, 0.508, 0.405], abs=1e-3)
    assert pytest.approx(0.866, abs=1e-3) == UNIFORM
    assert pytest.approx([2.0 / pi, 0.75], abs=1e-12) == [GAUSSIAN**2, UNIFORM**2]
    shares = [sqrt(k / (1000 + k + 1)) for k in (1, 10, 100, 1000)]
    assert shares == pytest.approx([0.0316, 0.0994, 0.301, 0.707], abs=5e-4)
