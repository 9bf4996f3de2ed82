"""Noise ceiling and stability of gradients, against gradients of subsets and of all data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

from alignlab.engine.capture import Capture
from alignlab.feedback import generator
from alignlab.probe import Probe
from alignlab.recording import validate
from alignlab.rules import BP, DFA, FA, ForwardGradient
from alignlab.rules._base import Rule
from alignlab.snapshot import MeasuredRule
from tests.cases import CASES, Batch, Case, each_case
from tests.diagnostics.probing import probed

NAMES = ["noise-ceiling", "reference-stability"]
PLAIN = ["tanh", "conv1d, strided", "conv2d, circular", "layer norm", "positions", "weight norm"]


def measured(batch: Batch, *rules: Rule | MeasuredRule) -> xr.Dataset:
    given = batch.model, batch.loss, (batch.x, batch.y)
    return probed(*given, *rules, diagnostics=NAMES)


def gradients(batch: Batch, chosen: Tensor) -> dict[str, Tensor]:
    """Return the weight gradient of some samples by layer, of weights as they act."""
    found: dict[str, Tensor] = {}
    modules = {n: m for n, m in batch.model.named_modules() if hasattr(m, "weight")}
    own = {n: m for n, m in modules.items() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)}
    hooks, inputs, outputs = [], {}, {}
    for name, module in own.items():

        def keep(_module: object, x: tuple[Tensor], y: Tensor, name: str = name) -> Tensor:
            inputs[name], outputs[name] = x[0].detach().clone(), y
            return y.clone()  # What follows may change it in place.

        hooks.append(module.register_forward_hook(keep))
    loss = batch.loss(batch.model(batch.x[chosen]), batch.y[chosen])
    for hook in hooks:
        hook.remove()
    errors = torch.autograd.grad(loss, list(outputs.values()))
    for (name, module), error in zip(own.items(), errors, strict=True):
        weight = module.weight.detach().clone().requires_grad_()
        given = {"weight": weight} | ({} if module.bias is None else {"bias": module.bias})
        plain = type(module)(**_options(module)).to(weight)
        output = torch.func.functional_call(plain, given, (inputs[name],))
        found[name] = torch.autograd.grad(output, weight, error)[0].flatten()
    return found


def _options(module: nn.Module) -> dict[str, object]:
    names = ("in_features", "out_features") if isinstance(module, nn.Linear) else (
        *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation"),
        *("groups", "padding_mode"),
    )  # fmt: skip
    return {n: getattr(module, n) for n in names} | {"bias": module.bias is not None}


@pytest.mark.parametrize("name", PLAIN)
def test_numbers_are_those_of_the_gradients_of_subsets(name: str) -> None:
    batch = CASES[name].make(n_samples=27, dtype=torch.float64)
    found = measured(batch)
    order = torch.randperm(27, generator=generator(0, "chunks"))[:24].reshape(8, 3)
    chunks = [gradients(batch, chosen) for chosen in order]
    totals = []
    for layer in found["layer"].values:
        rows = torch.stack([chunk[layer] for chunk in chunks]).numpy()
        totals.append(rows)
        assert_numbers(found.sel(layer=layer), rows, "")
    assert_numbers(found, np.concatenate(totals, 1), "_total")


def assert_numbers(here: xr.Dataset, rows: np.ndarray, suffix: str) -> None:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[~np.eye(8, dtype=bool)]
    shown = here[f"reference_stability{suffix}"].item()
    assert shown == pytest.approx(cosines.mean(), abs=1e-9)
    products = (rows @ rows.T)[~np.eye(8, dtype=bool)].mean()
    norm = here[f"squared_norm_full_gradient{suffix}"].item()
    assert norm == pytest.approx(products, rel=1e-6)
    trace = 3 * rows.var(0, ddof=1).sum()
    scale, ceiling = (here[f"noise_{each}{suffix}"].item() for each in ("scale", "ceiling"))
    if products <= 0:
        assert np.isnan([scale, ceiling]).all()
        return
    assert scale == pytest.approx(trace / products, rel=1e-6)
    assert ceiling == pytest.approx((1 + trace / products / 27) ** -0.5, rel=1e-6)


def test_the_ceiling_is_the_cosine_with_the_gradient_of_a_large_data_set() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 4)).double()
    x = torch.randn(20_000, 10, dtype=torch.float64)
    y = (x[:, :4] + 0.7 * torch.randn(20_000, 4)).argmax(1)
    loss = functional.cross_entropy
    full = torch.autograd.grad(loss(model(x), y), model[0].weight)[0].flatten()
    cosines, ceilings, norms = [], [], []
    probe = Probe(model, loss, diagnostics=["noise-ceiling"], draws=32)
    stream = torch.Generator().manual_seed(1)
    for _ in range(80):
        chosen = torch.randint(0, len(x), (96,), generator=stream)
        found = probe.measure(x[chosen], y[chosen]).isel(step=0).sel(layer="0")
        ceilings.append(found["noise_ceiling"].item())
        norms.append(found["squared_norm_full_gradient"].item())
        gradient = torch.autograd.grad(loss(model(x[chosen]), y[chosen]), model[0].weight)[0]
        cosines.append(functional.cosine_similarity(gradient.flatten(), full, dim=0).item())
    assert np.nanmean(ceilings) == pytest.approx(np.mean(cosines), abs=0.03)
    error = np.std(norms, ddof=1) / 80**0.5
    assert abs(np.mean(norms) - full.square().sum().item()) < 4 * error


@each_case
def test_every_layer_has_numbers_or_a_reason(case: Case) -> None:
    found = measured(case.make(n_samples=16), DFA())
    validate(found.expand_dims("step", 0))
    for layer in found["layer"].values:
        for diagnostic, name in zip(NAMES, ("noise_ceiling", "reference_stability"), strict=True):
            value = found[name].sel(layer=layer).item()
            reason = ""
            if "not_defined" in found and diagnostic in found["diagnostic"]:
                reason = str(found["not_defined"].sel(layer=layer, diagnostic=diagnostic).item())
            assert np.isfinite(value) or reason, (layer, name)


def test_a_rule_is_measured_as_the_reference_is() -> None:
    batch = CASES["tanh"].make(n_samples=40)
    found = measured(batch, BP(), FA(), ForwardGradient(seed=0))
    same = found["update_stability"].sel(rule="bp") - found["reference_stability"]
    assert abs(same).max() < 1e-6
    assert np.isfinite(found["update_stability"].sel(rule="fa")).all()
    alone = found["update_stability"].sel(rule="forward-gradient")
    assert np.isnan(alone).all()
    reasons = found["not_defined"].sel(diagnostic="reference-stability").values
    assert all("forward-gradient because the rule's update" in reason for reason in reasons)


def test_drawn_feedback_shows_no_stability() -> None:
    batch = CASES["tanh"].make(n_samples=40)
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    rule = MeasuredRule(DFA(), DFA().start(capture, seed=0), "drawn")
    found = measured(batch, rule)
    assert np.isnan(found["update_stability"]).all()
    assert set(found["update_stability_status"].values.flat) == {"null draw"}


def test_planted_causes_move_the_ceiling_and_the_stability() -> None:
    """Labels by chance take the common direction away; one sample repeated is all of it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 4))
    x = torch.randn(256, 10)
    learnable, by_chance = x[:, :4].argmax(1), torch.randint(0, 4, (256,))
    found = {
        name: probed(model, functional.cross_entropy, batch, diagnostics=NAMES).sel(layer="0")
        for name, batch in {
            "learnable": (x, learnable),
            "by chance": (x, by_chance),
            "repeated": (x[:1].expand(256, -1), learnable[:1].expand(256)),
        }.items()
    }
    stability = {name: each["reference_stability"].item() for name, each in found.items()}
    status = {name: str(each["reference_stability_status"].item()) for name, each in found.items()}
    assert stability["repeated"] == pytest.approx(1.0, abs=1e-6)
    assert stability["learnable"] > 3 * abs(stability["by chance"])
    assert status["learnable"] == "detectable"
    assert found["repeated"]["noise_ceiling"].item() == pytest.approx(1.0, abs=1e-3)
    assert found["learnable"]["noise_scale"] > 1.0
    ceilings = [found[name]["noise_ceiling"].item() for name in ("learnable", "by chance")]
    assert np.isnan(ceilings[1]) or ceilings[0] > ceilings[1]


def test_pairs_of_samples_are_enough_and_one_is_not() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    x, y = torch.randn(2, 4), torch.tensor([0, 0])
    loss = functional.cross_entropy
    found = probed(model, loss, (x, y), diagnostics=NAMES)
    assert np.isfinite(found["reference_stability"]).all()
    assert (found["reference_stability_p"] >= 0.5).all()
    alone = probed(model, loss, (x[:1], y[:1]), diagnostics=NAMES)
    reasons = alone["not_defined"].values
    assert all("one sample has no disjoint parts" in str(each) for each in reasons.flat)
