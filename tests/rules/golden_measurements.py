"""How the values that theory gives for rules are measured through the probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab.engine.capture import Capture
from alignlab.learner import Learner
from alignlab.probe import Probe
from alignlab.rules import BP, DFA, KP, ForwardGradient, Rule, State, Task, Updates
from alignlab.snapshot import MeasuredRule
from tests.stated_values.networks import HEADS, convolutions, maps

__all__ = [
    "BATCHES",
    "FRESH",
    "LAWS",
    "NOISE",
    "UNITS",
    "against_itself",
    "along",
    "at_outputs",
    "batch_of",
    "defects",
    "fresh_feedback",
    "hops",
    "kolen_pollack",
    "of_signs",
    "of_updates",
    "of_weights",
    "one_layer",
    "probed",
    "reach",
    "scalar_output",
    "shared_noise",
    "tangents",
    "wide_network",
]

UNITS, NOISE = 5000, 20.0
"""Units, and energy of a sample's noise over that of the mean."""
BATCHES = (16, 64, 256)

LAWS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "normal": lambda p, s: nn.init.normal_(p, std=s),
    "uniform": lambda p, s: nn.init.uniform_(p, -s, s),
}


def probed(
    model: nn.Module, loss: Any, rules: Sequence[Any], batch: Any, *names: str
) -> xr.Dataset:
    """Measure rules on one batch; those of one label are told apart by their number."""
    labelled = [
        rule if isinstance(rule, MeasuredRule) else started(rule, model, loss, batch, number)
        for number, rule in enumerate(rules)
    ]
    with Probe(model, loss, rules=labelled, diagnostics=names, draws=32) as probe:
        return probe.measure(*batch).isel(step=0)


def started(rule: Rule, model: nn.Module, loss: Any, batch: Any, number: int) -> MeasuredRule:
    """Return a rule with its first state, under a label of its own."""
    capture = Capture(model, loss, *batch)
    state = rule.start(capture, seed=int(getattr(rule, "seed", 0)))
    capture.close()
    return MeasuredRule(rule, state, "replayed", f"{rule.label} {number}")


def wide_network(law: str, *, depth: int = 4, width: int = 320, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Linear(width, width, bias=False) for _ in range(depth)]
    model = nn.Sequential(*layers, nn.Linear(width, width // 2, bias=False))
    for parameter in model.parameters():
        LAWS[law](parameter, width**-0.5)
    return model


def batch_of(n_in: int, classes: int, *, n_samples: int = 40) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    return torch.randn(n_samples, n_in, generator=stream), torch.arange(n_samples) % classes


def hops(rule: Rule, law: str, *, seed: int = 0) -> list[float]:
    """Return the cosines 1, 2, 3 and 4 hops below the output, by sample and of the batch."""
    model = wide_network(law, seed=seed)
    found = probed(model, F.cross_entropy, [rule], batch_of(320, 160), "error-signal")
    here = found.isel(rule=0, layer=[3, 2, 1, 0])
    samples = here["cosine_error_signal"].sel(site="entry").values
    whole = here["cosine_error_signal_flat"].sel(site="preactivation").values
    return [*samples.tolist(), *whole.tolist()]


def of_weights(rule: Rule, law: str) -> list[float]:
    """Return the cosines of backward and forward weights of every layer above the first."""
    found = probed(
        wide_network(law), F.cross_entropy, [rule], batch_of(320, 160), "weight-feedback"
    )
    return found["cosine_weight_feedback"].isel(rule=0).values[1:].tolist()


def along(output: Tensor, direction: Tensor) -> Tensor:
    """Return a loss whose error is what is given as the target, over the samples."""
    return (output * direction).sum() / len(output)


def one_layer(
    n_in: int, n_out: int, n_samples: int, *, seed: int = 2
) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Return a layer whose weight gradient is a sum of products of normal vectors."""
    torch.manual_seed(seed)
    batch = torch.randn(n_samples, n_in), torch.randn(n_samples, n_out)
    return nn.Sequential(nn.Linear(n_in, n_out, bias=False)), batch


def of_updates(*rules: Rule, n_in: int = 300, n_out: int = 300, seed: int = 2) -> np.ndarray:
    """Return the cosine of the only weight's update with its gradient, for every rule."""
    model, batch = one_layer(n_in, n_out, 400, seed=seed)
    found = probed(model, along, rules, batch, "weight-gradient")
    values: np.ndarray = found["cosine_weight_gradient"].isel(layer=0).values
    return values


def tangents(count: int, repeats: int, *, orthogonal: bool = False, seed: int = 0) -> list[float]:
    """Return the root mean square cosine of forward gradients of 1000 parameters."""
    rules = [
        ForwardGradient(tangents=count, orthogonal=orthogonal, seed=1000 * seed + k)
        for k in range(repeats)
    ]
    return [float(np.sqrt(np.mean(of_updates(*rules, n_in=40, n_out=25) ** 2)))]


def at_outputs(*rules: Rule) -> list[float]:
    """Return the cosines at the output layer: signal, weight and bias."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(9, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 5)
    )
    names = ("error-signal", "weight-gradient")
    here = probed(model, F.cross_entropy, rules, batch_of(9, 5), *names).isel(layer=-1)
    found = [here["cosine_error_signal"].sel(site="preactivation"), here["cosine_weight_gradient"]]
    return np.concatenate([each.values for each in (*found, here["cosine_bias_gradient"])]).tolist()


def against_itself() -> list[float]:
    """Return every cosine, norm ratio and descent rate of backpropagation with itself."""
    model = wide_network("normal", depth=2)
    names = ("error-signal", "weight-gradient")
    found = probed(model, F.cross_entropy, [BP()], batch_of(320, 160), *names).isel(rule=0)
    assert float(found["angle_error_signal"].max()) < 1e-6
    cosines = ("cosine_error_signal", "cosine_error_signal_flat", "cosine_weight_gradient")
    names = (*cosines, "norm_ratio_error_signal", "descent_rate")
    values = np.concatenate([found[name].values.flatten() for name in names])
    return values[~np.isnan(values)].tolist()


def fresh_feedback(*, seed: int = 0) -> list[float]:
    r"""Return mean and spread of DFA's cosines over fresh feedback, over their closed form.

    A fixed network, flattened batch: :math:`\mathrm{sd} = \|\Delta^\top E\| /
    (\sqrt n\,\|E\|\,\|\Delta\|)` with the true signals at an entry of n units.
    """
    torch.manual_seed(3 + seed)
    model = nn.Sequential(nn.Linear(30, 100), nn.Tanh(), nn.Linear(100, 10))
    batch = batch_of(30, 10, n_samples=60)
    rules = [DFA(seed=FRESH * seed + k) for k in range(FRESH)]
    found = probed(model, F.cross_entropy, rules, batch, "error-signal")
    cosines = found["cosine_error_signal_flat"].sel(site="entry", layer="0").values
    h = torch.tanh(model[0](batch[0])).detach().requires_grad_()
    output = model[2:](h)
    delta, error = torch.autograd.grad(F.cross_entropy(output, batch[1]), [h, output])
    sd = float((delta.T @ error).norm() / (100**0.5 * error.norm() * delta.norm()))
    stored = found["cosine_error_signal_flat_null_sd"].sel(site="entry", layer="0").values
    return [cosines.mean() / sd, cosines.std() / sd, stored.mean() / sd]


FRESH = 128


def defects(*, n_samples: int = 200, seed: int = 0) -> list[float]:
    """Return the equivariance defects of four circular convolutions, by layer and shift.

    Of backpropagation under a pooled head, then of dense DFA there, and of both under a flattened
    head.
    """
    found = {}
    for head in HEADS:
        model, (x, y) = convolutions(head, seed=seed).double(), maps(n_samples, seed=seed)
        batch = x.double(), y
        rules = [DFA(seed=seed)]
        here = probed(model, F.cross_entropy, rules, batch, "equivariance-defect")
        here = here.isel(rule=0, layer=slice(0, 4)).sel(shift=[1, 2, 4])
        for kind in ("_true", ""):
            found[head, kind] = here[f"equivariance_defect{kind}"].values.flatten()
    order = [("pooled", "_true"), ("pooled", ""), ("flattened", "_true"), ("flattened", "")]
    return np.concatenate([found[place] for place in order]).tolist()


def reach() -> list[float]:
    """Return the share of a linear network's true signals that fixed feedback can give."""
    model = wide_network("normal", width=20).double()
    x, y = batch_of(20, 10, n_samples=200)
    found = probed(model, F.cross_entropy, [], (x.double(), y), "reach")["reach_in_sample"].values
    return found[~np.isnan(found)].tolist()


def kolen_pollack(steps: int) -> list[float]:
    """Return the cosines of weights and backward weights after some steps of training."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(20, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh())
    model.append(nn.Linear(40, 10)).double()
    x, y = batch_of(20, 10)
    learner = Learner(model, F.cross_entropy, KP(decay=0.1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        learner.backward(x.double(), y)
        optimizer.step()
    rules = [learner.measured() if steps else KP(decay=0.1)]
    found = probed(model, F.cross_entropy, rules, (x.double(), y), "weight-feedback")
    return found["cosine_weight_feedback"].isel(rule=0).values[1:].tolist()


def of_signs() -> list[float]:
    """Return the share of entries with the true sign in a monotone net with one output."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(8, 30), nn.Tanh(), nn.Linear(30, 30), nn.Softplus())
    model.append(nn.Linear(30, 1))
    with torch.no_grad():
        for layer in (model[2], model[4]):
            layer.weight.abs_()
    x = torch.randn(50, 8)
    y = torch.randn(50, 1)
    feedback = {name: torch.rand(1, 30) + 0.01 for name in ("0", "2")}
    rule = MeasuredRule(DFA(), feedback, "checkpoint")
    with Probe(model, F.mse_loss, rules=[rule], diagnostics=["error-signal"], draws=32,
               save=["signals"]) as probe:  # fmt: skip
        found = probe.measure(x, y).isel(step=0, rule=0)
        kept = [probe.tensors[name] for name in ("0", "2")]
    rates = found["descent_rate"].values.flatten()
    agree = [_agreement(each, site) for each in kept for site in ("entry", "preactivation")]
    return [*rates[~np.isnan(rates)].tolist(), *agree]


def _agreement(kept: xr.Dataset, site: str) -> float:
    true, found = (np.sign(np.asarray(kept[f"{kind}_{site}"]).squeeze()) for kind in KEPT)
    return float((true == found).mean())


KEPT = ("true_signal", "signal")


def scalar_output(sign: float) -> list[float]:
    """Train a linear network with one output from zero by DFA, and measure its weights."""
    torch.manual_seed(6)
    model = nn.Sequential(nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 1)).double()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(40, 6).double()
    y = x @ torch.randn(6, 1).double()
    learner = Learner(model, F.mse_loss, DFA(normalisation="none"))
    optimizer = torch.optim.SGD([layer.weight for layer in model], lr=1e-3)
    for _ in range(20):
        optimizer.zero_grad()
        learner.backward(x, y)
        optimizer.step()
    with torch.no_grad():
        model[1].weight.mul_(sign)
    found = probed(model, F.mse_loss, [learner.measured()], (x, y), "weight-feedback")
    return found["cosine_weight_feedback"].isel(rule=0).values[1:].tolist()


@dataclass(frozen=True)
class OtherMean(Rule):
    """The true signal with another mean: its direction is independent, its noise is shared."""

    name: ClassVar[str] = "other-mean"
    has_exact_output: ClassVar[bool] = False

    def updates(self, task: Task, state: State, *, parameters: bool = True) -> Updates:
        del state, parameters
        true, scale = task.true.preactivation["0"], 1.0 / len(task.x)
        stream = torch.Generator().manual_seed(9)
        first, second = (torch.randn(true.shape[1:], generator=stream) for _ in range(2))
        signal = {"0": true + scale * (second - first)}
        return Updates({}, signal, task.capture.local(signal).parameters)


def shared_noise(
    n_samples: int, *, noise: float = NOISE, units: int = UNITS, seed: int = 7
) -> list[float]:
    """Return the cosine of two independent directions under the same noise, and the debiased.

    The latter is NaN where the halves are of so few samples that it is undefined.
    """
    torch.manual_seed(seed)
    mean = torch.randn(units, generator=torch.Generator().manual_seed(9))
    y = mean + sqrt(noise) * torch.randn(n_samples, units)
    model = nn.Sequential(nn.Linear(1, units, bias=False))
    batch = torch.ones(n_samples, 1), y
    names = ("weight-gradient", "cross-batch-gradient")
    found = probed(model, along, [OtherMean()], batch, *names).isel(rule=0, layer=0)
    return [float(found[f"cosine_weight_gradient{kind}"]) for kind in ("", "_debiased")]
