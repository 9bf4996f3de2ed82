"""The convolutional network: its formula, and the first step of the Align rules in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from alignlab.engine.capture import Capture
from alignlab.errors import DivergedError, InputError
from alignlab.experiments import Work
from alignlab.experiments.boopathy2022 import convolutions, width_sweep
from alignlab.experiments.boopathy2022._convolutions import Convolutional
from alignlab.experiments.boopathy2022._setting import data, rule_named, squared_error
from alignlab.rules import Task
from alignlab.training import Recipe, train

SIZES = {"edge": 8, "strides": (1, 2, 2)}


def _output(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Return the outputs by the formula, with torch's batch norm on one column per pixel."""
    h = x.reshape(-1, 1, 8, 8)
    for k, stride in enumerate((1, 2, 2)):
        kernel = weights[f"convs.{k}.parametrizations.weight.original"]
        a = F.conv2d(F.pad(h, (1, 1, 1, 1)), kernel, stride=stride) / (9 * h.shape[1]) ** 0.5
        b = F.batch_norm(a.flatten(1), None, None, training=True, eps=1e-6)
        h = b.reshape(a.shape).clamp(min=0)
    readout = weights["out.parametrizations.weight.original"]
    return h.flatten(2).mean(2) @ readout.T / readout.shape[1] ** 0.5 + weights["out.bias"]


def _batch() -> tuple[Tensor, Tensor]:
    seen = data({"scaling": "unit"})
    return seen.x[:100], seen.y[:100]


def test_the_network_is_the_formula_with_normal_weights() -> None:
    x, _ = _batch()
    model = Convolutional(12, seed=0, **SIZES)
    weights = dict(model.named_parameters())
    torch.testing.assert_close(model(x), _output(weights, x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.eval()(x), model.train()(x))
    stacked = torch.cat([w.detach().flatten() for w in weights.values() if w.dim() > 1])
    assert stacked.std().item() == pytest.approx(1.0, abs=0.05)
    assert [name for name in weights if "bias" in name] == ["out.bias"]


@pytest.mark.parametrize("rule", ["align-zero", "align-ada", "align-prop"])
def test_the_first_update_is_backpropagation_through_the_formula(rule: str) -> None:
    x, y = _batch()
    # In float64, so that the two ways of adding up differ by nothing but rounding.
    x, model = x.double(), Convolutional(6, seed=1, **SIZES).double()
    weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    loss = squared_error(_output(weights, x), y)
    exact = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    capture = Capture(model, squared_error, x, y)
    task, made = Task(capture, capture.reference(parameters=True)), rule_named(rule, seed=0)
    found = made.updates(task, made.start(capture, seed=0)).parameters
    capture.close()
    assert found.keys() == exact.keys()
    for name, one in exact.items():
        assert ((found[name] - one).norm() / one.norm()).item() <= 1e-5


def test_the_second_step_of_align_zero_is_the_initial_jacobian() -> None:
    x, y = (part[:40] for part in _batch())
    model = Convolutional(6, seed=2, **SIZES)
    start = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    recipe = Recipe(epochs=2, batch_size=40, optimizer="sgd", optimizer_options={"lr": 1.0})
    train(model, squared_error, x=x, y=y, rule=rule_named("align-zero", seed=0), recipe=recipe)
    now = {name: p.detach().clone() for name, p in start.items()}
    for _ in range(2):
        output = _output(now, x).requires_grad_()
        error = torch.autograd.grad(squared_error(output, y), output)[0]
        steps = torch.autograd.grad(_output(start, x), list(start.values()), grad_outputs=error)
        now = {name: p - step for (name, p), step in zip(now.items(), steps, strict=True)}
    for name, p in model.named_parameters():
        moved, expected = p.detach() - start[name], now[name] - start[name]
        assert ((moved - expected).norm() / expected.norm()).item() <= 1e-3


@pytest.mark.parametrize("module", [convolutions, width_sweep])
@pytest.mark.parametrize(("error", "is_swallowed"), [(DivergedError, True), (InputError, False)])
def test_only_a_diverged_training_counts_as_guessing(
    module: object,
    error: type[InputError],
    *,
    is_swallowed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        msg = "no"
        raise error(msg)

    monkeypatch.setattr(module, "fit", refuse)
    (only,) = module.__all__  # type: ignore[attr-defined]
    claim = getattr(module, only)()
    case = {"rule": "bp", "width": 4, "lr": 1.0, "seed": 0}
    if not is_swallowed:
        with pytest.raises(InputError, match="no"):
            claim.measure(case, claim.fast, Work(tmp_path))
        return
    found = claim.measure(case, claim.fast, Work(tmp_path))
    assert bool(found["diverged"])
    assert float(found["test_error"]) == pytest.approx(90.0)
