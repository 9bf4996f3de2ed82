"""Hessian products against second derivatives that are written out, on every kind of network."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from torch import nn

from alignlab.engine.capture import Capture
from alignlab.engine.hessian import Hessian, differentiable_kernels
from alignlab.engine.updates import Updates
from alignlab.errors import MeasurementError
from alignlab.kernels.curvature import leading_eigenvalue
from alignlab.rules._task import Task
from tests.cases import CASES, Case, each_case


def case_name(case: Case) -> str:
    return next(name for name, each in CASES.items() if each is case)


def direction_of(capture: Capture, *, seed: int = 0) -> dict[str, torch.Tensor]:
    stream = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(p.shape, generator=stream, dtype=torch.float64).to(p)
        for name, p in capture.model.named_parameters()
        if p.requires_grad
    }


@pytest.mark.parametrize("name", ["tanh", "linear", "positions"])
def test_products_are_those_of_the_dense_hessian(name: str) -> None:
    batch = CASES[name].make(dtype=torch.float64)
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    direction = direction_of(capture)
    names = list(direction)

    def loss(*values: torch.Tensor) -> torch.Tensor:
        given = dict(zip(names, values, strict=True))
        output = torch.func.functional_call(batch.model, given, (batch.x,))
        return batch.loss(output, batch.y)

    values = tuple(p.detach() for p in batch.model.parameters())
    _, expected = torch.autograd.functional.hvp(loss, values, tuple(direction.values()))
    found = Hessian(capture).product(direction)
    for key, each in zip(names, expected, strict=True):
        torch.testing.assert_close(found[key], each)


def differences(
    capture: Capture, direction: dict[str, torch.Tensor], *, step: float = 1e-6
) -> dict[str, torch.Tensor]:
    """Return a central difference of gradients, whose error is that of third derivatives."""
    task, sides = Task(capture, Updates()), []
    own = {name: p.detach().clone() for name, p in capture.model.named_parameters()}
    for sign in (step, -step):
        moved = {name: own[name] + sign * each for name, each in direction.items()}
        with task.again(parameters=moved) as there:
            sides.append(there.reference(parameters=True).parameters)
    return {name: (sides[0][name] - sides[1][name]) / (2 * step) for name in direction}


@each_case
def test_products_are_differences_of_gradients(case: Case) -> None:
    if "spectral norm" in case_name(case):
        pytest.skip("its power iteration moves with the weights, and no gradient knows of it")
    batch = case.make(dtype=torch.float64)
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    direction = direction_of(capture, seed=1)
    with differentiable_kernels(), Task(capture, Updates()).again() as plain:
        found = Hessian(plain).product(direction)
    expected = differences(capture, direction)
    for name, each in found.items():
        if name.endswith(("original1", "weight_v")):
            continue  # Normalised weights have a test of their own.
        torch.testing.assert_close(each, expected[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("weight norm")])
def test_products_that_torch_gets_wrong_are_not_symmetric(name: str) -> None:
    """Second derivatives of a normalised weight are taken as if its norm were constant."""
    batch = CASES[name].make(dtype=torch.float64)
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    direction = direction_of(capture, seed=1)
    hessian = Hessian(capture)
    shapes = {name: each.shape for name, each in direction.items()}

    def apply(vector: torch.Tensor) -> torch.Tensor:
        parts = torch.split(vector, [shape.numel() for shape in shapes.values()])
        given = {n: p.reshape(shapes[n]) for n, p in zip(shapes, parts, strict=True)}
        return torch.cat([each.flatten() for each in hessian.product(given).values()])

    found, expected = hessian.product(direction), differences(capture, direction)
    is_right = all(torch.allclose(found[n], expected[n], rtol=1e-4, atol=1e-5) for n in found)
    start = torch.cat([each.flatten() for each in direction.values()])
    asymmetry = leading_eigenvalue(apply, start, steps=3).asymmetry
    assert is_right == (asymmetry < 1e-3)


def test_a_product_leaves_the_graph_for_more() -> None:
    batch = CASES["tanh"].make()
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    before = capture.reference(parameters=True).parameters
    hessian, direction = Hessian(capture), direction_of(capture)
    first, second = hessian.product(direction), hessian.product(direction)
    after = capture.reference(parameters=True).parameters
    for name in first:
        assert torch.equal(first[name], second[name])
        assert torch.equal(before[name], after[name])
    assert all(p.grad is None for p in batch.model.parameters())


def test_a_loss_that_is_linear_in_the_parameters_has_no_curvature() -> None:
    model = nn.Linear(3, 2)
    capture = Capture(model, lambda output, _: output.sum(), torch.randn(4, 3), None)
    found = Hessian(capture).product(direction_of(capture))
    assert all(not each.any() for each in found.values())


def test_what_fused_kernels_refuse_their_plain_forms_give() -> None:
    """The fused attention of the host has no second derivative in the versions that we know."""
    batch = CASES["vision transformer"].make(dtype=torch.float64)
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    direction = direction_of(capture)
    with differentiable_kernels(), Task(capture, Updates()).again() as there:
        plain = Hessian(there).product(direction)
    fused: dict[str, torch.Tensor] = {}
    with suppress(MeasurementError):
        fused = Hessian(capture).product(direction)
    for name, each in fused.items():
        torch.testing.assert_close(each, plain[name])
    expected = differences(capture, direction)
    for name, each in plain.items():
        torch.testing.assert_close(each, expected[name], rtol=1e-4, atol=1e-5)


def test_other_errors_are_not_taken_for_missing_derivatives() -> None:
    batch = CASES["tanh"].make()
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    with pytest.raises(KeyError):
        Hessian(capture).product({})
