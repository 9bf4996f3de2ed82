r"""The online simulation of shallow students with direct feedback, many runs side by side.

Every step takes one fresh normal input. With :math:`\mathrm{err} = y - \hat y` and the feedback f
(fixed, or for backpropagation the second layer itself) the updates are

    w_k += (rate / sqrt N) f_k g'(lambda_k) err x,    v_k += (rate / N) err g(lambda_k),

and time is the number of steps over N. With one hidden layer DFA and FA are the same. Read in the
code of Refinetti et al. 2021; there teacher and student come from one seed, here every run has
separate streams for teacher, student, feedback and inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import erf

from alignlab.experiments.refinetti2021._order_parameters import State, generalisation_error

__all__ = ["Runs", "Trajectory", "recorded_times", "simulated", "stream", "weight_alignment"]

_STREAMS = {"teacher": 0, "student": 1, "feedback": 2, "inputs": 3}
_CHUNK = 128
"""Steps whose inputs are drawn at once."""


@dataclass(frozen=True)
class Runs:
    """Independent runs with the same sizes.

    Attributes:
        seeds: Of the runs' students and inputs.
        teacher: Second layer A of the teacher, shape ``(M,)``.
        feedback: Of every run, shape ``(n_runs, K)``; None for backpropagation.
        n_students: Hidden units K of the student.
        n_inputs: N.
        rate: Learning rate.
        activation: ``erf``, ``linear`` or ``relu``.
        noise: Standard deviation of the targets' noise.
        teacher_seed: Of the one teacher of all runs; None for one of its own for each run.
    """

    seeds: Sequence[int]
    teacher: np.ndarray
    feedback: np.ndarray | None
    n_students: int
    n_inputs: int
    rate: float
    activation: str = "erf"
    noise: float = 0.0
    teacher_seed: int | None = None


@dataclass(frozen=True)
class Trajectory:
    """Order parameters of the runs over time.

    Attributes:
        times: Steps over N, shape ``(n_times,)``.
        state: Leading axes ``(n_times, n_runs)``.
        t: Overlaps of the teachers' units, shape ``(n_runs, M, M)``.
        error: Generalisation error with the 1/2, ``(n_times, n_runs)``.
    """

    times: np.ndarray
    state: State
    t: np.ndarray
    error: np.ndarray


def stream(seed: int, what: str) -> np.random.Generator:
    """Return the random stream of a seed for one purpose.

    Args:
        seed: Not negative.
        what: ``teacher``, ``student``, ``feedback`` or ``inputs``.
    """
    return np.random.default_rng([seed, _STREAMS[what]])


def weight_alignment(v: np.ndarray, feedback: np.ndarray) -> np.ndarray:
    """Return the cosine of the second layer with the feedback, over the last axis."""
    norms = np.linalg.norm(v, axis=-1) * np.linalg.norm(feedback, axis=-1)
    result: np.ndarray = (v * feedback).sum(-1) / norms
    return result


def recorded_times(last: float, count: int, n_inputs: int) -> np.ndarray:
    """Return times from 0 to the last, even on a logarithmic axis from 0.1, in whole steps."""
    steps = np.geomspace(0.1 * n_inputs, last * n_inputs, count - 1).round()
    return np.concatenate([[0.0], steps]) / n_inputs


def simulated(
    runs: Runs,
    times: np.ndarray,
    *,
    progress: Callable[[str, int, int], None] = lambda _label, _done, _total: None,
) -> Trajectory:
    """Return the order parameters of all runs at some times.

    First layers start normal over the root of N, second layers normal over that of K; the
    teachers' first layers are normal.

    Args:
        runs: What runs.
        times: Ascending, each a multiple of 1/N, from 0.
        progress: Called with what is done, how much of it and of how much.
    """
    n, k = runs.n_inputs, runs.n_students
    students = [stream(seed, "student") for seed in runs.seeds]
    w = np.stack([each.standard_normal((k, n)) for each in students]) / n**0.5
    v = np.stack([each.standard_normal(k) for each in students]) / k**0.5
    shape = (len(runs.teacher), n)
    teachers = runs.seeds if runs.teacher_seed is None else [runs.teacher_seed] * len(runs.seeds)
    b = np.stack([stream(seed, "teacher").standard_normal(shape) for seed in teachers])
    steps = np.rint(times * n).astype(int)
    kept: list[State] = []
    loop = _Loop(runs, w, v, b)
    label = f"{len(w)} students of {k} units, {n} inputs"
    for count in np.diff(steps, prepend=0):
        loop.advance(int(count))
        q = np.einsum("rkn,rln->rkl", w, w) / n
        kept.append(State(q, np.einsum("rkn,rmn->rkm", w, b) / n, v.copy()))
        progress(label, len(kept), len(steps))
    state = State(*(np.stack([getattr(one, name) for one in kept]) for name in ("q", "r", "v")))
    t = np.einsum("rmn,rln->rml", b, b) / n
    error = generalisation_error(state, t=t, teacher=runs.teacher, activation=runs.activation)
    return Trajectory(times, state, t, error)


class _Loop:
    """The steps of all runs; weights change in place."""

    def __init__(self, runs: Runs, w: np.ndarray, v: np.ndarray, b: np.ndarray) -> None:
        self._runs, self._w, self._v, self._b = runs, w, v, b
        self._inputs = [stream(seed, "inputs") for seed in runs.seeds]
        self._x = np.empty((len(w), 0, w.shape[2]))
        self._y = np.empty((len(w), 0))
        self._next = 0
        self._g, self._slope = _ACTIVATIONS[runs.activation]

    def advance(self, count: int) -> None:
        """Take so many steps."""
        w, v, runs = self._w, self._v, self._runs
        g, slope = self._g, self._slope
        root, inner = runs.n_inputs**-0.5, runs.rate * runs.n_inputs**-0.5
        outer = runs.rate / runs.n_inputs
        fixed, change = runs.feedback, np.empty_like(w)
        for _ in range(count):
            if self._next == self._x.shape[1]:
                self._draw()
            x = self._x[:, self._next]
            field = np.einsum("rkn,rn->rk", w, x) * root
            out = g(field)
            error = self._y[:, self._next, None] - (v * out).sum(1, keepdims=True)
            f = v if fixed is None else fixed
            factor = (inner * error) * f * slope(field)
            np.multiply(factor[:, :, None], x[:, None, :], out=change)
            w += change
            v += (outer * error) * out
            self._next += 1

    def _draw(self) -> None:
        """Draw the inputs and targets of the next steps."""
        runs, size = self._runs, (_CHUNK, self._w.shape[2])
        self._x = np.stack([each.standard_normal(size) for each in self._inputs])
        fields = self._x @ np.swapaxes(self._b, 1, 2) * runs.n_inputs**-0.5
        self._y = self._g(fields) @ runs.teacher
        if runs.noise:
            own = [each.standard_normal(_CHUNK) for each in self._inputs]
            self._y = self._y + runs.noise * np.stack(own)
        self._next = 0


def _erf_slope(x: np.ndarray) -> np.ndarray:
    result: np.ndarray = (2.0 / np.pi) ** 0.5 * np.exp(-0.5 * x * x)
    return result


_Function = Callable[[np.ndarray], np.ndarray]
_ACTIVATIONS: dict[str, tuple[_Function, _Function]] = {
    "erf": (lambda x: erf(x * 0.5**0.5), _erf_slope),
    "linear": (lambda x: x, np.ones_like),
    "relu": (lambda x: np.maximum(x, 0.0), lambda x: (x > 0.0).astype(float)),
}
