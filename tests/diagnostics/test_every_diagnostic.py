"""Every diagnostic on every kind of network: numbers, or the reason why there are none."""

from __future__ import annotations

import copy
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from alignlab.diagnostics._base import Diagnostic
from alignlab.diagnostics._run import _measured
from alignlab.engine.capture import Capture
from alignlab.plugins import load, names
from alignlab.probe import Probe
from alignlab.recording import validate
from alignlab.rules import BP, DFA, USF, ForwardGradient
from alignlab.rules._task import Task
from alignlab.snapshot import MeasuredRule, Snapshot, halves
from tests.cases import CASES, Batch
from tests.oracles.exact import assert_exact
from tests.oracles.state import state_of, touch

DIAGNOSTICS = names("alignlab.diagnostics")
REPRESENTATIVE = (
    "tanh",
    "linear",
    "one hidden layer",
    "conv2d, circular",
    "batch norm, training",
    "batch norm of maps",
    "residual",
    "positions",
    "reused",
    "dropout",
)
"""Cases of the quick run; the slow one takes them all."""


def diagnostic(name: str) -> Diagnostic:
    found = load("alignlab.diagnostics", name)
    assert isinstance(found, type)
    made = found()
    assert isinstance(made, Diagnostic)
    return made


def everything(batch: Batch) -> xr.Dataset:
    """Return what all diagnostics say of the kinds of rule, with all that they may look at.

    The network, its batch and all randomness are left as they were.
    """
    earlier = copy.deepcopy(batch.model)
    with torch.no_grad():
        for parameter in earlier.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    rules: list[Any] = [BP(), DFA(seed=0), ForwardGradient(seed=1)]
    try:
        capture = Capture(batch.model, batch.loss, batch.x, batch.y)
        capture.require_replaceable()
        rules.append(USF())
    except Exception:
        pass
    touch(batch)
    before = state_of(batch)
    with Probe(
        batch.model,
        batch.loss,
        rules=rules,
        draws=32,
        earlier={"initial": earlier.state_dict()},
        twin=copy.deepcopy(earlier),
    ) as probe:
        recording = probe.measure(batch.x, batch.y)
        assert state_of(batch) == before
    assert state_of(batch) == before
    return recording


def spoken(recording: xr.Dataset, name: str, layer: str, rule: str) -> bool:
    """Return whether a diagnostic gives a number of a layer under a rule, or a reason."""
    if "not_defined" in recording and name in recording["diagnostic"].values:
        reason = recording["not_defined"].isel(step=0).sel(diagnostic=name, layer=layer)
        if reason.item():
            return True
    for variable in diagnostic(name).variables:
        if variable.name not in recording:
            continue
        found = recording[variable.name].isel(step=0)
        for dim, label in (("layer", layer), ("rule", rule)):
            found = found.sel({dim: label}) if dim in found.dims else found
        if found.dtype == object:
            if any(found.values.ravel()):
                return True
        elif np.isfinite(found.values.astype(float)).any():
            return True
    return False


def silent(recording: xr.Dataset) -> list[tuple[str, str, str]]:
    hidden = recording["layer"].values[~recording["is_output"].values]
    return [
        (name, str(layer), str(rule))
        for name in DIAGNOSTICS
        for layer in hidden
        for rule in recording["rule"].values
        if not spoken(recording, name, str(layer), str(rule))
    ]


def check(case: str) -> None:
    recording = everything(CASES[case].make())
    validate(recording)
    assert silent(recording) == []
    # A forward gradient estimates the output layer too.
    sent = [rule for rule in recording["rule"].values if not rule.startswith("forward")]
    assert_exact(recording.sel(rule=sent))


@pytest.mark.parametrize("case", REPRESENTATIVE)
def test_every_diagnostic_gives_numbers_or_reasons_and_leaves_all_as_it_was(case: str) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(set(CASES) - set(REPRESENTATIVE)))
def test_every_diagnostic_gives_numbers_or_reasons_in_every_case(case: str) -> None:
    check(case)


ON_HOST = {"design", "chosen_halves", "regions_of"}
"""Functions that work on numbers of samples and positions, which lie on the host."""


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if name.startswith(("aten._local_scalar_dense", "aten.nonzero", "aten.is_nonzero")):
            frames = traceback.extract_stack()
            own = [f.name for f in frames if "/alignlab/" in Path(f.filename).as_posix()]
            if own[-1] not in ON_HOST:
                self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def waits(name: str, depth: int) -> Counter[str]:
    """Return how often one diagnostic waits on a network of so many hidden layers."""
    torch.manual_seed(0)
    modules: list[nn.Module] = [nn.Conv2d(2, 4, 3, padding=1), nn.Tanh()]
    for _ in range(depth - 1):
        modules += [nn.Conv2d(4, 4, 3, padding=1), nn.Tanh()]
    model = nn.Sequential(*modules, nn.Flatten(), nn.Linear(4 * 16, 3))
    x, y = torch.randn(64, 2, 4, 4), torch.arange(64) % 3
    capture = Capture(model, functional.cross_entropy, x, y)
    true = capture.reference(parameters=True)
    task = Task(capture, true)
    rule = DFA(seed=0)
    measured = MeasuredRule(rule, rule.start(capture, seed=0), "replayed, unverified")
    snapshot = Snapshot(
        *(capture, functional.cross_entropy, x, y, true, {measured.label: measured.updates(task)}),
        *((measured,), halves(64, seed=0)),
        seed=0, draws=32,
        earlier={"initial": {k: v + 0.1 for k, v in model.state_dict().items()}},
        twin=copy.deepcopy(model),
    )  # fmt: skip
    with Waits() as counted:
        _measured(snapshot, {name: diagnostic(name)})
    return counted.seen


@pytest.mark.parametrize("name", DIAGNOSTICS)
def test_deeper_networks_make_the_host_wait_no_more_often(name: str) -> None:
    assert waits(name, 2) == waits(name, 5)
