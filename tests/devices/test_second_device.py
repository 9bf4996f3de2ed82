"""What holds on the host holds on another device, and nothing mixes the two."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from click.testing import CliRunner
from torch import Tensor

from alignlab import Probe, recording
from alignlab.errors import InputError, MeasurementError
from alignlab.learner import Learner
from alignlab.rules import BP, DFA, FA, USF, Rule
from alignlab.schedules import every
from alignlab_cli.main import alignlab
from tests.case import Batch
from tests.cases import CASES
from tests.devices.second_device import SECOND, second_device
from tests.rules.outcomes import RULES
from tests.test_layout import ROOT

HOST = torch.device("cpu")
QUICK = {
    *("relu in place", "conv2d, grouped", "batch norm of maps", "dropout", "residual", "reused"),
    *("noisy", "matrix", "attention", "lstm", "spectral norm", "language model", "contrastive"),
}
"""Cases of which steps are observed in every run of the tests."""

LEFT_OUT = {"tied", "language model, tied", "recomputed"}
"""A move to another type of tensor unties parameters; torch recomputes on devices that it has."""


def on(device: torch.device, name: str, *, n_samples: int = 12) -> Batch:
    """Return a case on a device."""
    batch = CASES[name].make(n_samples=n_samples)
    return Batch(batch.model.to(device), batch.loss, batch.x.to(device), batch.y.to(device))


def agree(there: xr.Dataset, host: xr.Dataset, *, atol: float) -> None:
    """Compare all variables of two recordings but angles, which magnify the last bit near 0."""
    assert set(there.data_vars) == set(host.data_vars)
    for name in (name for name in host.data_vars if not str(name).startswith("angle")):
        found, expected = there[name].values, host[name].values
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(found, expected, atol=atol, rtol=atol, err_msg=str(name))
        else:
            np.testing.assert_array_equal(found, expected, err_msg=str(name))


@contextmanager
def refused_alike(on_host: Callable[[], Any]) -> Iterator[Any]:
    """Give what the host returns; where it refuses, what is done inside must be refused alike."""
    try:
        found, words = on_host(), None
    except (InputError, MeasurementError) as error:
        found, words = None, str(error)
    if words is None:
        yield found
        return
    with pytest.raises((InputError, MeasurementError)) as caught:
        yield None
    assert str(caught.value) == words


# What the second device refuses.


def test_the_second_device_refuses_what_an_accelerator_refuses() -> None:
    with second_device() as device:
        x, host = torch.randn(3, 4, device=device), torch.randn(4, 2)
        mask = torch.tensor([True, False, True])
        assert torch.equal((x @ host.to(device)).cpu(), x.cpu() @ host)
        assert (x * torch.tensor(2.0)).device == x[mask].device == SECOND
        assert type(x.new_tensor(1.0)) is type(torch.tensor([1.0], device=device)) is type(x)
        for refused in (
            lambda: x @ host,
            x.numpy,
            lambda: torch.stack([x.sum(), torch.tensor(1.0)]),
            lambda: x + host.T.mean(0).expand(3, 4),
            lambda: x.index_select(0, torch.tensor([0])),
            lambda: host[x[:, 0] > 0.0],
            lambda: torch.randn(3, device=device, generator=torch.Generator()),
        ):
            with pytest.raises((RuntimeError, TypeError)):
                refused()


# What alignlab does there.


def observed(device: torch.device, name: str) -> xr.Dataset:
    """Return what a probe sees of four steps by four rules."""
    batch = on(device, name)
    probe = Probe(
        batch.model,
        batch.loss,
        rules=[BP(), DFA(), FA(), USF()],
        schedule=every(1),
        feedback_draws=2,
    )
    optimizer = torch.optim.SGD(batch.model.parameters(), lr=0.01)
    torch.manual_seed(3)
    for number in range(3):
        optimizer.zero_grad()
        with probe.observe(number):
            batch.loss(batch.model(batch.x), batch.y).backward()
        optimizer.step()
    return probe.recording()


def some(names: Iterable[str], quick: Container[str]) -> list[Any]:
    """Mark all names but the quick ones as slow."""
    marks = {name: () if name in quick else (pytest.mark.slow,) for name in names}
    return [pytest.param(name, marks=each) for name, each in marks.items()]


@pytest.mark.parametrize("name", some((n for n in CASES if n not in LEFT_OUT), QUICK))
def test_steps_are_observed_there_as_on_the_host(name: str) -> None:
    with refused_alike(lambda: observed(HOST, name)) as host, second_device() as device:
        there = observed(device, name)
        if host is not None:
            agree(there, host, atol=1e-5)


def trained(device: torch.device, name: str, rule: Rule) -> dict[str, Tensor]:
    """Return the parameters after three steps by a rule."""
    batch = on(device, name)
    learner = Learner(batch.model, batch.loss, rule=rule)
    optimizer = torch.optim.SGD(batch.model.parameters(), lr=0.01)
    torch.manual_seed(5)
    for _ in range(3):
        optimizer.zero_grad()
        learner.backward(batch.x, batch.y)
        optimizer.step()
    return {name: p.detach().cpu() for name, p in batch.model.named_parameters()}


@pytest.mark.parametrize("name", some(("tanh", "conv2d, grouped", "residual"), {"tanh"}))
@pytest.mark.parametrize("label", RULES)
def test_every_rule_trains_there_to_the_bits_of_the_host(label: str, name: str) -> None:
    with refused_alike(lambda: trained(HOST, name, RULES[label])) as host, second_device() as far:
        there = trained(far, name, RULES[label])
        if host is not None:
            assert [n for n, values in host.items() if not torch.equal(values, there[n])] == []


def measured(device: torch.device, name: str, *diagnostics: str) -> xr.Dataset:
    """Return a measurement by four rules."""
    batch = on(device, name, n_samples=24)
    options: dict[str, Any] = {"diagnostics": diagnostics} if diagnostics else {}
    with Probe(
        batch.model.eval(), batch.loss, rules=[BP(), DFA(), FA(), USF()], draws=32, **options
    ) as probe:
        return probe.measure(batch.x, batch.y)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tanh", "conv2d, grouped", "residual", "batch norm of maps"])
def test_every_diagnostic_finds_there_what_it_finds_on_the_host(name: str) -> None:
    host = measured(HOST, name)
    with second_device() as device:
        agree(measured(device, name), host, atol=1e-4)


# What the commands do there.


def done(*words: str) -> None:
    """Run a command that must succeed."""
    result = CliRunner().invoke(alignlab, list(words), prog_name="alignlab")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("rule", some(("dfa", "fa", "bp"), {"dfa"}))
def test_the_trainer_trains_there_to_the_bits_of_the_host(rule: str, tmp_path: Path) -> None:
    words = ("train", "alignlab:mlp", "--model-arg", "widths=(12,)", "--data", "digits", "--rule")
    small = ("--samples", "200", "--probe-samples", "40", "--draws", "32", "--epochs", "2")
    light = (*words, rule, *small, "--diagnostic", "error-signal", "--label-noise", "0.1", "-o")
    done(*light, str(tmp_path / "host"))
    with second_device() as device:
        done(*light, str(tmp_path / "there"), "--device", str(device))
    own, found = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)
        for name in ("host", "there")
    )
    assert own.keys() == found.keys()
    for key, value in own["model"].items():
        assert found["model"][key].device == HOST
        assert torch.equal(value, found["model"][key])
    there, host = (recording.load(tmp_path / n / "recording.nc") for n in ("there", "host"))
    agree(there, host, atol=1e-6)


def test_a_checkpoint_is_analysed_there_as_on_the_host(tmp_path: Path) -> None:
    words = (
        *("analyze", "checkpoint", str(ROOT / "data" / "digits_mlp_dfa.pt"), "--model"),
        *("alignlab:mlp", "--model-arg", "widths=(96, 6, 48)", "--model-arg", "activation='tanh'"),
        *("--data", "digits", "--samples", "40", "--draws", "32", "--preset", "core"),
    )
    done(*words, "-o", str(tmp_path / "host.nc"))
    with second_device() as device:
        done(*words, "-o", str(tmp_path / "there.nc"), "--device", str(device))
    there, host = (recording.load(tmp_path / f"{name}.nc") for name in ("there", "host"))
    assert there.attrs["device"] == str(SECOND)
    agree(there, host, atol=1e-5)
