"""Golden values: what theory gives for rules, with the digits that are stated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import acos, degrees

import numpy as np

from alignlab.rules import BRSF, DFA, FA, KP, USF, Noisy, Quantised, Rule
from tests.rules.golden_measurements import (
    against_itself,
    at_outputs,
    defects,
    fresh_feedback,
    hops,
    kolen_pollack,
    of_signs,
    of_updates,
    reach,
    scalar_output,
    shared_noise,
    tangents,
)
from tests.stated_values.stated import Stated

__all__ = ["ROWS"]

_WIDE = "linear network 320-320-320-320-320-160"


def ends(measure: Callable[[], Sequence[float]], seed: int) -> Sequence[float]:
    """Return the least and the most of values that no seed changes."""
    del seed
    values = measure()
    return min(values), max(values)


def by_hops(seed: int) -> Sequence[float]:
    """Return the cosines of uSF one to four hops below the output, by sample."""
    return hops(USF(), "normal", seed=seed)[:4]


def by_angle(rule: type[USF | BRSF], law: str, seed: int) -> Sequence[float]:
    """Return the cosine one hop below the output, and its angle in degrees."""
    made: Rule = USF() if rule is USF else BRSF(distribution=law, seed=seed)
    value = hops(made, law, seed=seed)[0]
    return value, degrees(acos(value))


def of_noise(seed: int) -> Sequence[float]:
    """Return the cosines of gradients with noise of half, one and three times their norm."""
    rules = [Noisy(ratio=ratio, seed=seed) for ratio in (0.5, 1.0, 3.0)]
    return of_updates(*rules, n_in=150, n_out=150, seed=seed).tolist()


def of_drawn(seed: int) -> Sequence[float]:
    """Return mean and spread over fresh feedback, both over the closed form of the spread."""
    return fresh_feedback(seed=seed)[:2]


def debiased(seed: int) -> Sequence[float]:
    """Return the debiased cosines of independent directions in batches of 16 and 64 samples."""
    return [shared_noise(n, seed=seed)[1] for n in (16, 64)]


def turned(seed: int) -> Sequence[float]:
    """Return the cosines of a scalar output's weights and feedback: as trained, and turned."""
    del seed
    return [*scalar_output(1.0), *scalar_output(-1.0)]


def equivariance(seed: int) -> Sequence[float]:
    """Return the defects by head and rule, means over layers and shifts."""
    return np.reshape(defects(n_samples=50, seed=seed), (4, -1)).mean(1).tolist()


ROWS: tuple[Stated, ...] = (
    Stated("4.3: cosines at the output layer of DFA, FA, KP and uSF: signal, weights, bias; least, "
           "most", ("1.00000", "1.00000"),
           partial(ends, lambda: at_outputs(DFA(), FA(), KP(), USF())), 1,
           "ReLU network 9-20-20-5"),
    Stated("4.3: cosines, norm ratios and descent rates of backpropagation against itself; least, "
           "most", ("1.00000", "1.00000"), partial(ends, against_itself), 1,
           "linear network 320-320-320-160"),
    Stated("4.3: cosine of uSF, normal weights, one to four hops below the output, as theory",
           (".798", ".637", ".508", ".405"), by_hops, 4, _WIDE),
    Stated("4.3: the same, as simulated", (".796", ".632", ".499", ".395"),
           by_hops, 4, _WIDE),
    Stated("4.3: cosine of uSF, uniform weights; degrees", (".866", "30"),
           partial(by_angle, USF, "uniform"), 4, f"{_WIDE}, one hop"),
    Stated("4.3: the same, normal weights", (".798", "37.1"), partial(by_angle, USF, "normal"), 4,
           f"{_WIDE}, one hop"),
    Stated("4.3: cosine of brSF, normal weights and magnitudes; degrees", (".637", "50.5"),
           partial(by_angle, BRSF, "normal"), 4, f"{_WIDE}, one hop"),
    Stated("4.3: cosine of brSF, uniform weights and magnitudes", (".75",),
           lambda seed: by_angle(BRSF, "uniform", seed)[:1], 4, f"{_WIDE}, one hop"),
    Stated("4.3: cosine of the signs of a normal gradient with it", (".798",),
           lambda seed: of_updates(Quantised(bits=1), seed=seed).tolist(), 4,
           "one layer of 90,000 weights"),
    Stated("4.3: cosine under isotropic noise of .5, 1 and 3 times the norm, 1/root(1 + NSR^2)",
           (".894", ".707", ".316"), of_noise, 4, "one layer of 22,500 weights"),
    Stated("C2: root mean square cosine of 100 orthogonal tangents, n = 1000, root(K/n)", (".316",),
           lambda seed: tangents(100, 10, orthogonal=True, seed=seed), 4,
           "one layer of 1000 weights"),
    Stated("4.3, C1: mean and spread of DFA's cosines over fresh feedback, over A2's closed form",
           ("0.0", "1.0"), of_drawn, 4, "tanh network 30-100-10, 128 feedback draws",
           is_slow=True),
    Stated("4.3: reach of a linear network over its layers; least, most", ("1.00000", "1.00000"),
           partial(ends, reach), 1, "linear network 20-20-20-20-20-10, float64"),
    Stated("4.3: cosine of KP's weights and feedback in the end; least, most",
           ("1.00000", "1.00000"), partial(ends, lambda: kolen_pollack(150)), 1,
           "tanh network 20-40-40-10, weight decay .1, 150 steps"),
    Stated("4.3: share of true signs of signals in a monotone network of one output; least, most",
           ("1.00000", "1.00000"), partial(ends, of_signs), 1,
           "8-30-30-1, weights above the first and feedback positive"),
    Stated("0.1.13: cosine of weights and feedback of a scalar output, two layers: from zero; one "
           "of them turned", ("1.00000", "1.00000", "-1.00000", "1.00000"), turned, 1,
           "linear network 6-12-12-1 after 20 steps of DFA"),
    Stated("4.3, F5: equivariance defect, pooled head: truth, DFA; flattened: truth, DFA",
           ("0.00000", "1.41", "1.41", "1.41"), equivariance, 3,
           "four circular convolutions, 50 samples, mean over layers and shifts 1, 2, 4"),
    Stated("4.3: debiased cosine of independent directions under shared noise, 16 and 64 samples",
           ("0.0", "0.0"), debiased, 2, "noise of 20 times the energy of the mean, 5000 units"),
)  # fmt: skip
