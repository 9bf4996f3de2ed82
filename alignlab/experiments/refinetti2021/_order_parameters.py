r"""Order parameters of a shallow student and its teacher: Gaussian averages, ODE, error.

The student is :math:`\hat y = \sum_k v_k g(\lambda_k)` with :math:`\lambda_k = w_k\cdot x/\sqrt N`,
the teacher :math:`y = \sum_m A_m g(\nu_m)` with :math:`\nu_m = B_m\cdot x/\sqrt N`, x is normal.
For large N the state is :math:`Q = ww^\top/N`, :math:`R = wB^\top/N`, :math:`T = BB^\top/N` and v,
and :math:`(\lambda, \nu)` are normal with covariance C = [[Q, R], [R^T, T]].

Read in the code of Refinetti et al. 2021; checked here by simulation and quadrature.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp

__all__ = [
    "ACTIVATIONS",
    "Averages",
    "Dynamics",
    "State",
    "averages",
    "covariance",
    "generalisation_error",
    "output_overlap",
]

ACTIVATIONS = ("erf", "linear", "relu")
"""Of the simulation; of the ODE the first two, where all averages have a closed form."""

_RTOL, _ATOL = 1e-8, 1e-10


@dataclass(frozen=True)
class State:
    """Order parameters of the student; leading axes are free.

    Attributes:
        q: Overlaps of the student's units, shape ``(..., K, K)``.
        r: Overlaps with the teacher's, shape ``(..., K, M)``.
        v: Second layer, shape ``(..., K)``.
    """

    q: np.ndarray
    r: np.ndarray
    v: np.ndarray


@dataclass(frozen=True)
class Averages:
    """Gaussian averages over units with covariance C, with S units.

    Attributes:
        i2: E[g(a) g(b)], shape ``(S, S)``.
        i3: E[g'(k) z_a g(b)], shape ``(S, S, S)``, axes k, a, b.
        i4: E[g'(k) g'(l) g(a) g(b)], shape ``(S, S, S, S)``.
        j2: E[g'(k) g'(l)], shape ``(S, S)``.
    """

    i2: np.ndarray
    i3: np.ndarray
    i4: np.ndarray
    j2: np.ndarray


def covariance(state: State, t: np.ndarray) -> np.ndarray:
    """Return C of student and teacher units, shape ``(..., K + M, K + M)``.

    Args:
        state: Of the student.
        t: Overlaps of the teacher's units, shape ``(M, M)`` or with the same leading axes.
    """
    t = np.broadcast_to(t, (*state.q.shape[:-2], *t.shape[-2:]))
    upper = np.concatenate([state.q, state.r], axis=-1)
    lower = np.concatenate([np.swapaxes(state.r, -1, -2), t], axis=-1)
    return np.concatenate([upper, lower], axis=-2)


def averages(c: np.ndarray, activation: str) -> Averages:
    r"""Return the averages for :math:`g = \mathrm{erf}(x/\sqrt2)` or a linear g.

    Args:
        c: Covariance, shape ``(S, S)``.
        activation: ``erf`` or ``linear``.
    """
    size = len(c)
    if activation == "linear":
        ones = np.ones((size, size))
        i4 = np.broadcast_to(c, (size,) * 4)
        return Averages(c, np.broadcast_to(c, (size,) * 3), i4, ones)
    d = 1.0 + np.diagonal(c)
    both = d[:, None] * d[None, :]
    joint = both - c**2
    i2 = 2.0 / np.pi * np.arcsin(c / np.sqrt(both))
    top = c[None] * d[:, None, None] - c[:, :, None] * c[:, None, :]
    i3 = 2.0 / np.pi * top / (d[:, None, None] * np.sqrt(joint)[:, None, :])
    return Averages(i2, i3, _i4(c, d, joint), 2.0 / np.pi / np.sqrt(joint))


def _i4(c: np.ndarray, d: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """Return E[g'(k) g'(l) g(a) g(b)] for the error function."""
    cka, cla = c[:, None, :, None], c[None, :, :, None]
    ckb, clb = c[:, None, None, :], c[None, :, None, :]
    ckl, dk, dl = c[:, :, None, None], d[:, None, None, None], d[None, :, None, None]
    l4 = joint[:, :, None, None]
    l0 = l4 * c[None, None] - cla * clb * dk - cka * ckb * dl + ckl * (cka * clb + ckb * cla)
    l1 = l4[..., 0] * d - (cla**2 * dk + cka**2 * dl - 2.0 * ckl * cka * cla)[..., 0]
    norm = np.sqrt(l1[..., :, None] * l1[..., None, :])
    # Of a unit with itself the ratio is 1 but for rounding.
    ratio = np.clip(l0 / norm, -1.0, 1.0)
    result: np.ndarray = 4.0 / np.pi**2 / np.sqrt(l4) * np.arcsin(ratio)
    return result


def output_overlap(c: np.ndarray, activation: str) -> np.ndarray:
    r"""Return E[g(a) g(b)] of all units, with free leading axes.

    For relu it is :math:`\sqrt{c_{aa}c_{bb}}(\sin\theta + (\pi - \theta)\cos\theta)/2\pi` with
    :math:`\cos\theta = c_{ab}/\sqrt{c_{aa}c_{bb}}` (Cho & Saul 2009).

    Args:
        c: Covariance, shape ``(..., S, S)``.
        activation: One of ``ACTIVATIONS``.
    """
    if activation == "linear":
        return c
    own = np.diagonal(c, axis1=-2, axis2=-1)
    if activation == "erf":
        both = (1.0 + own)[..., :, None] * (1.0 + own)[..., None, :]
        found: np.ndarray = 2.0 / np.pi * np.arcsin(c / np.sqrt(both))
        return found
    norm = np.sqrt(own[..., :, None] * own[..., None, :])
    cosine = np.clip(np.divide(c, norm, out=np.zeros_like(c), where=norm > 0), -1.0, 1.0)
    angle = np.arccos(cosine)
    result: np.ndarray = norm * (np.sin(angle) + (np.pi - angle) * cosine) / (2.0 * np.pi)
    return result


def generalisation_error(
    state: State, *, t: np.ndarray, teacher: np.ndarray, activation: str
) -> np.ndarray:
    r"""Return :math:`\frac12 E[(y - \hat y)^2]` of noiseless targets, with the 1/2.

    Args:
        state: Of the student.
        t: Overlaps of the teacher's units.
        teacher: Its second layer A, shape ``(M,)``.
        activation: One of ``ACTIVATIONS``.

    Returns:
        Shape ``(...)``, that of the leading axes.
    """
    a = np.broadcast_to(teacher, (*state.v.shape[:-1], len(teacher)))
    u = np.concatenate([-state.v, a], axis=-1)
    overlap = output_overlap(covariance(state, t), activation)
    result: np.ndarray = 0.5 * np.einsum("...a,...ab,...b->...", u, overlap, u)
    return result


@dataclass(frozen=True)
class Dynamics:
    """Equations of motion of the order parameters, for large N.

    Attributes:
        t: Overlaps of the teacher's units, shape ``(M, M)``.
        teacher: Its second layer A, shape ``(M,)``.
        rate: Learning rate.
        feedback: Fixed feedback of every hidden unit, shape ``(K,)``; None for backpropagation,
            where the second layer takes its place.
        activation: ``erf`` or ``linear``.
        noise: Standard deviation of the targets' noise.
    """

    t: np.ndarray
    teacher: np.ndarray
    rate: float
    feedback: np.ndarray | None
    activation: str = "erf"
    noise: float = 0.0

    def slopes(self, state: State) -> State:
        """Return the time derivatives, with time the number of steps over N."""
        k, rate = len(state.v), self.rate
        f = state.v if self.feedback is None else self.feedback
        u = np.concatenate([-state.v, self.teacher])
        found = averages(covariance(state, self.t), self.activation)
        drift = rate * f[:, None] * np.einsum("kab,b->ka", found.i3[:k], u)
        spread = np.einsum("klab,a,b->kl", found.i4[:k, :k], u, u)
        spread = spread + self.noise**2 * found.j2[:k, :k]
        own = drift[:, :k]
        return State(
            own + own.T + rate**2 * f[:, None] * f[None, :] * spread,
            drift[:, k:],
            rate * found.i2[:k] @ u,
        )

    def solved(self, start: State, times: np.ndarray) -> State:
        """Return the order parameters at some times, in a leading axis.

        Args:
            start: At time 0.
            times: Ascending, from 0.
        """
        k, m = start.r.shape

        def opened(flat: np.ndarray) -> State:
            q, r, v = np.split(flat, [k * k, k * k + k * m], axis=-1)
            lead = flat.shape[:-1]
            return State(q.reshape(*lead, k, k), r.reshape(*lead, k, m), v)

        def slopes(_time: float, flat: np.ndarray) -> np.ndarray:
            return _closed(self.slopes(opened(flat)))

        found = solve_ivp(
            *(slopes, (0.0, float(times[-1])), _closed(start)),
            t_eval=times, rtol=_RTOL, atol=_ATOL,
        )  # fmt: skip
        return opened(found.y.T)


def _closed(state: State) -> np.ndarray:
    return np.concatenate([state.q.ravel(), state.r.ravel(), state.v])
