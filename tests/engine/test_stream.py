"""Observed steps: right values at every site, and nothing changed for whoever runs them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from alignlab.engine.state import State
from alignlab.errors import InputError, MeasurementError
from alignlab.probe import Probe
from alignlab.recording import validate
from alignlab.rules import BP, DFA, FA, USF
from alignlab.rules._base import Rule
from alignlab.schedules import at, every
from tests.cases import CASES, Batch, Case
from tests.oracles.feedback_alignment import with_feedback
from tests.oracles.signals import Signals, entering, signals

SEVERAL_OUTPUTS = ("two heads", "variational", "contrastive")
STREAMED = {name: case for name, case in CASES.items() if name not in SEVERAL_OUTPUTS}
each_case = pytest.mark.parametrize("case", STREAMED.values(), ids=STREAMED)

SIDE_PATHS = ("dictionary", "fields")
FOLLOWED = {
    name: case for name, case in STREAMED.items() if case.is_replaceable and name not in SIDE_PATHS
}
each_followed = pytest.mark.parametrize("case", FOLLOWED.values(), ids=FOLLOWED)

EVERY: Mapping[str, Callable[[int], bool]] = {
    "entry": every(1),
    "preactivation": every(1),
    "weight-gradient": every(1),
    "chance": at(2),
}


def observed(batch: Batch, rules: list[Rule], *, steps: int = 3, draws: int = 2) -> Any:
    """Observe the same step some times, and return the recording."""
    probe = Probe(batch.model, batch.loss, rules=rules, schedule=EVERY, feedback_draws=draws)
    state = State.of(batch.model)
    for step in range(steps):
        state.restore(batch.model)
        with probe.observe(step):
            batch.loss(batch.model(batch.x), batch.y).backward()
    state.restore(batch.model)
    recording = probe.recording()
    validate(recording)
    return recording


def cosines(first: Tensor, second: Tensor) -> float:
    """Return the mean cosine over the samples at which both have a direction."""
    a, b = first.flatten(1).numpy(), second.flatten(1).numpy()
    norms = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    defined = (norms[0] > 1e-17) & (norms[1] > 1e-17)
    products = (a * b).sum(1)[defined] / (norms[0] * norms[1])[defined]
    return float(products.mean()) if defined.any() else float("nan")


def expected(true: Signals, approximate: Signals, case: Case) -> dict[tuple[str, str], float]:
    """Return mean cosines by layer and site."""
    found = {}
    for name, consumer in case.consumers.items():
        pairs = {
            "entry": (true.inputs[consumer], approximate.inputs[consumer]),
            "preactivation": (true.preactivation[name], approximate.preactivation[name]),
        }
        found |= {(name, site): cosines(*pair) for site, pair in pairs.items()}
    return found


def called_once(batch: Batch, case: Case) -> list[str]:
    """Return hidden layers whose weight is a parameter that acts in one call alone."""
    modules = dict(batch.model.named_modules())
    users: dict[int, int] = {}
    for name in case.consumers:
        module = modules.get(name.partition("@")[0])
        for p in {id(p) for p in ([] if module is None else module.parameters())}:
            users[p] = users.get(p, 0) + 1
    return [
        name
        for name in case.consumers
        if isinstance(getattr(modules.get(name), "weight", None), nn.Parameter)
        and modules[name].weight.requires_grad
        and users[id(modules[name].weight)] == 1
    ]


def assert_observed(recording: Any, rule: str, batch: Batch, case: Case, other: Signals) -> None:
    true = signals(batch)
    for (layer, site), value in expected(true, other, case).items():
        found = recording["cosine_error_signal"].sel(rule=rule, layer=layer, site=site).values
        np.testing.assert_allclose(found, value, rtol=0, atol=1e-10, err_msg=f"{layer} {site}")
    for layer in called_once(batch, case):
        a, b = (each.parameters[f"{layer}.weight"].flatten() for each in (true, other))
        if not (a.norm() > 0 and b.norm() > 0):
            continue
        found = recording["cosine_weight_gradient"].sel(rule=rule, layer=layer).values
        value = float(a @ b / (a.norm() * b.norm()))
        np.testing.assert_allclose(found, value, rtol=0, atol=1e-10, err_msg=f"{layer} weight")
        ratio = recording["norm_ratio_weight_gradient"].sel(rule=rule, layer=layer).values
        np.testing.assert_allclose(ratio, float(b.norm() / a.norm()), rtol=1e-10)


@each_case
def test_direct_feedback_is_observed_as_what_is_injected_gives(case: Case) -> None:
    batch = case.make(dtype=torch.float64)
    recording = observed(batch, [DFA()])
    true = signals(batch)
    readers = {consumer: name for name, consumer in case.consumers.items()}
    output = next(name for name in true.preactivation if name not in case.consumers)
    error = true.preactivation[output]
    inputs = {}
    for consumer, name in readers.items():
        shape = true.inputs[consumer].shape[1:]
        (layer,) = [_Entry(name, tuple(shape))]
        matrix = DFA().draw([layer], case.n_errors, seed=0)[name]  # type: ignore[list-item]
        inputs[consumer] = torch.stack(
            [torch.tensordot(e.flatten(), matrix.to(e), dims=([0], [0])) for e in error]
        )
    # Several layers with one entry share the feedback that the last of them names.
    if case.is_bypassed:
        other = entering(batch, case.consumers, inputs)
    else:
        other = signals(batch, injected=inputs)
    assert_observed(recording, "dfa", batch, case, other)


class _Entry:
    """The part of a layer that feedback is drawn for."""

    def __init__(self, name: str, entry_shape: tuple[int, ...]) -> None:
        self.name, self.entry_shape, self.entry_channel_axis = name, entry_shape, 0


@each_followed
def test_feedback_alignment_is_observed_as_custom_functions_give_it(case: Case) -> None:
    batch = case.make(dtype=torch.float64)
    recording = observed(batch, [FA(), BP()])
    weights = _weights(batch)
    feedback = FA().backward_weights(weights, seed=0)
    other = signals(batch, prepare=with_feedback(feedback))
    assert_observed(recording, "fa", batch, case, other)
    same = recording["cosine_error_signal"].sel(rule="bp").values
    np.testing.assert_allclose(same[np.isfinite(same)], 1.0, atol=1e-12)


def _weights(batch: Batch) -> dict[str, Tensor]:
    """Return the weights that act, by the names under which feedback is drawn for them."""
    from alignlab.engine.capture import Capture

    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    try:
        return capture.module_weights()
    finally:
        capture.close()


@pytest.mark.parametrize("name", SIDE_PATHS)
def test_a_loss_that_reaches_a_layer_past_the_output_is_refused_for_replaced_weights(
    name: str,
) -> None:
    with pytest.raises(MeasurementError, match="past the output layer"):
        observed(CASES[name].make(), [FA()])


def test_several_output_layers_are_refused_by_name() -> None:
    with pytest.raises(MeasurementError, match="'classes', which the output layer 'values'"):
        observed(CASES["two heads"].make(), [DFA()])


def values_of(batch: Batch) -> dict[str, Any]:
    """Return everything that a step leaves, as plain values."""
    found: dict[str, Any] = {"random": torch.get_rng_state().tolist()}
    for name, p in batch.model.named_parameters():
        found[name] = p.detach().numpy().tobytes(), p._version
        found[f"gradient of {name}"] = None if p.grad is None else p.grad.numpy().tobytes()
    for name, b in batch.model.named_buffers():
        found[f"buffer {name}"] = b.numpy().tobytes(), b._version
    for name, module in batch.model.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        found[f"hooks of {name}"] = [len(each) for each in hooks]
        found[f"attributes of {name}"] = sorted(vars(module)), module.training
    return found


@each_case
def test_two_observed_steps_leave_what_two_plain_steps_leave(case: Case) -> None:
    left = []
    for is_observed in (False, True):
        batch = case.make()
        optimizer = torch.optim.SGD(batch.model.parameters(), lr=0.1, momentum=0.9)
        has_side_path = any(case is CASES[name] for name in SIDE_PATHS)
        replaces = case.is_replaceable and not has_side_path
        rules = [DFA(), FA(), USF()] if replaces else [DFA()]
        probe = Probe(batch.model, batch.loss, rules=rules, schedule=EVERY if is_observed else {})
        found = []
        for step in range(2):
            optimizer.zero_grad()
            with probe.observe(step):
                output = batch.model(batch.x)
                loss = batch.loss(output, batch.y)
                loss.backward()
            found.append((loss.item(), values_of(batch)))
            optimizer.step()
        left.append((found, values_of(batch), batch.model(batch.x).__repr__()))
        if is_observed:
            assert probe.recording().sizes["step"] == 2
    assert left[0] == left[1]


def raising(stage: str) -> Callable[..., Any]:
    def stop(*_: Any) -> Any:
        raise ValueError(stage)

    return stop


def stopped(batch: Batch, stage: str) -> None:
    """Run a step that raises at a stage."""
    handle = None
    if stage == "forward":
        handle = batch.model[-1].register_forward_pre_hook(raising(stage))  # type: ignore[index]
    try:
        output = batch.model(batch.x)
    finally:
        if handle is not None:
            handle.remove()
    if stage == "loss":
        raising(stage)()
    if stage == "backward":
        output.register_hook(raising(stage))
    batch.loss(output, batch.y).backward()
    raising("afterwards")()


@pytest.mark.parametrize("stage", ["forward", "loss", "backward", "afterwards"])
def test_an_exception_leaves_no_trace_and_no_row(stage: str) -> None:
    batch = CASES["batch norm, training"].make()
    probe = Probe(batch.model, batch.loss, rules=[DFA(), FA()], schedule=EVERY)
    before = {k: v for k, v in values_of(batch).items() if "hooks" in k or "attributes" in k}
    for _ in range(2):
        with pytest.raises(ValueError, match=stage), probe.observe(0):
            stopped(batch, stage)
        after = {k: v for k, v in values_of(batch).items() if k in before}
        assert after == before
    with pytest.raises(MeasurementError, match="No step was observed yet"):
        probe.recording()
    with probe.observe(7):
        batch.loss(batch.model(batch.x), batch.y).backward()
    assert probe.recording()["step"].values.tolist() == [7]


@pytest.mark.parametrize("retain", [False, True])
def test_a_step_keeps_none_of_its_graph_alive(retain: bool) -> None:
    batch = CASES["residual"].make()
    probe = Probe(batch.model, batch.loss, rules=[DFA(), FA()], schedule=EVERY)
    alive = []
    gc.collect()
    gc.disable()
    try:
        for step in range(3):
            kept: list[Tensor] = []
            handle = batch.model[0].register_forward_hook(lambda *a, k=kept: k.append(a[2]))  # type: ignore[index, misc]
            with probe.observe(step):
                loss = batch.loss(batch.model(batch.x), batch.y)
                loss.backward(retain_graph=retain)
            handle.remove()
            alive.append(weakref.ref(kept.pop()))
            del loss, kept, handle
    finally:
        gc.enable()
    assert [each() for each in alive] == [None] * 3


def test_six_hundred_probings_hold_no_more_tensors_than_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    x, y = torch.randn(8, 4), torch.arange(8) % 3
    probe = Probe(model, functional.cross_entropy, rules=[DFA(), FA()], schedule=EVERY)

    def count(first: int, last: int) -> int:
        for step in range(first, last):
            with probe.observe(step):
                functional.cross_entropy(model(x), y).backward()
        gc.collect()
        return sum(issubclass(type(each), Tensor) for each in gc.get_objects())

    early = count(0, 40)
    assert count(40, 600) <= early
    assert probe.recording().sizes["step"] == 600


def step(batch: Batch) -> None:
    batch.loss(batch.model(batch.x), batch.y).backward()


def twice_backward(batch: Batch) -> None:
    loss = batch.loss(batch.model(batch.x), batch.y)
    loss.backward(retain_graph=True)
    loss.backward()


def micro_batches(batch: Batch) -> None:
    step(batch)
    step(batch)


class Straight(torch.autograd.Function):
    """A backward written by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


def custom(batch: Batch) -> None:
    handle = batch.model[1].register_forward_hook(lambda *a: Straight.apply(a[2]))  # type: ignore[index]
    try:
        step(batch)
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda batch: None, "no forward pass"),
        (lambda batch: batch.model(batch.x), "no backward pass"),
        (twice_backward, "second backward pass"),
        (micro_batches, "after the backward pass had begun"),
        (custom, "custom autograd function 'Straight'"),
    ],
    ids=["nothing", "no backward", "twice", "micro-batches", "custom"],
)
def test_what_cannot_be_followed_is_refused_when_it_is_over(
    run: Callable[[Batch], Any], message: str
) -> None:
    batch = CASES["tanh"].make()
    probe = Probe(batch.model, batch.loss, rules=[DFA()], schedule=every(1))
    for number in range(2):
        with pytest.raises(MeasurementError, match=message), probe.observe(number):
            run(batch)
    assert all(p.grad is not None for p in batch.model.parameters()) == (
        run in (twice_backward, micro_batches, custom)
    )
    with probe.observe(2):
        step(batch)
    assert probe.recording()["step"].values.tolist() == [2]


def test_a_step_is_observed_once_and_steps_come_in_any_order() -> None:
    batch = CASES["tanh"].make()
    probe = Probe(batch.model, batch.loss, rules=[DFA()], schedule=every(1))
    for number in (5, 3):
        with probe.observe(number):
            step(batch)
    with pytest.raises(MeasurementError, match="Step 3 was observed already"), probe.observe(3):
        step(batch)
    assert probe.recording()["step"].values.tolist() == [3, 5]
    with probe.observe(4):
        step(batch)
    assert probe.recording()["step"].values.tolist() == [3, 4, 5]


def test_gradients_of_gradients_are_left_to_the_user() -> None:
    batch = CASES["tanh"].make()
    expected = observed(batch, [DFA(), FA()])["cosine_weight_gradient"].isel(step=0)
    probe = Probe(batch.model, batch.loss, rules=[DFA(), FA()], schedule=EVERY, feedback_draws=2)
    loss = batch.loss(batch.model(batch.x), batch.y)
    parameters = list(batch.model.parameters())
    plain = torch.autograd.grad(loss, parameters, create_graph=True)
    with probe.observe(0):
        loss = batch.loss(batch.model(batch.x), batch.y)
        found = torch.autograd.grad(loss, parameters, create_graph=True)
    for one, other in zip(plain, found, strict=True):
        assert torch.equal(one, other)
        assert other.requires_grad
    values = probe.recording()["cosine_weight_gradient"].isel(step=0).values
    np.testing.assert_allclose(values, expected.values, atol=1e-6)


def test_a_step_inside_a_step_is_refused() -> None:
    batch = CASES["tanh"].make()
    probe = Probe(batch.model, batch.loss, rules=[DFA()])
    with (
        pytest.raises(MeasurementError, match="inside another"),
        probe.observe(0),
        probe.observe(1),
    ):
        step(batch)


def test_levels_and_redraws_that_make_no_sense_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with pytest.raises(InputError, match="no level 'signals' to schedule; there are entry, prea"):
        Probe(model, functional.cross_entropy, schedule={"signals": every(1)})
    with pytest.raises(InputError, match="1 redraws give no chance level"):
        Probe(model, functional.cross_entropy, feedback_draws=1)


def test_every_level_is_recorded_when_it_is_due_and_carries_the_latest_chance_level() -> None:
    batch = CASES["relu in place"].make()
    probe = Probe(
        batch.model,
        batch.loss,
        rules=[DFA()],
        schedule={"entry": every(1), "preactivation": at(1, 3, 4), "chance": at(3)},
        feedback_draws=4,
    )
    for number in range(5):
        with probe.observe(number):
            step(batch)
    found = probe.recording()
    layer = found.isel(layer=0, rule=0)
    at_preactivation = layer["cosine_error_signal"].sel(site="preactivation").notnull()
    assert found["step"].values[at_preactivation].tolist() == [1, 3, 4]
    assert layer["cosine_error_signal"].sel(site="entry").notnull().all()
    drawn = layer["chance_step"].sel(site="preactivation").values
    np.testing.assert_array_equal(drawn, [np.nan, 1, np.nan, 3, 3])
    assert layer["chance_step"].sel(site="entry").values.tolist() == [0, 1, 2, 3, 4]
    sd = layer["cosine_error_signal_null_sd"].sel(site="preactivation").values
    assert sd[3] == sd[4] > 0
    assert "cosine_weight_gradient" not in found


def test_rows_of_a_smaller_last_batch_join_those_before() -> None:
    batch = CASES["tanh"].make()
    probe = Probe(batch.model, batch.loss, rules=[DFA()], schedule=every(1))
    for number, n_samples in enumerate((8, 5, 8)):
        with probe.observe(number):
            batch.loss(batch.model(batch.x[:n_samples]), batch.y[:n_samples]).backward()
    cosine = probe.recording()["cosine_error_signal"].sel(layer="0", site="preactivation")
    assert cosine["step"].values.tolist() == [0, 1, 2]
    assert cosine.values[0] == pytest.approx(cosine.values[2], abs=1e-6)
    assert cosine.notnull().all()


def test_an_observed_step_agrees_with_a_measurement_of_the_same_batch() -> None:
    batch = CASES["residual"].make(dtype=torch.float64)
    rules = [DFA(), FA(), USF()]
    names = ["error-signal", "weight-gradient"]
    with Probe(batch.model, batch.loss, rules=rules, diagnostics=names, draws=32) as probe:
        measured = probe.measure(batch.x, batch.y).isel(step=0)
    found = observed(batch, list(rules)).isel(step=-1)
    for name in (
        *("cosine_error_signal", "cosine_error_signal_flat", "cosine_error_signal_sd"),
        *("angle_error_signal", "descent_rate", "norm_ratio_error_signal"),
        *("projection_error_signal", "cosine_weight_gradient", "norm_ratio_weight_gradient"),
        *("projection_weight_gradient", "best_scale_weight_gradient"),
        *("unexplained_weight_gradient", "inner_product_weight_gradient"),
        *("squared_norm_weight_gradient", "squared_norm_weight_gradient_true"),
        *("inner_product_error_signal", "squared_norm_error_signal"),
        *("squared_norm_error_signal_true",),
    ):
        hidden = ~measured["is_output"].values
        a, b = measured[name].isel(layer=hidden), found[name].isel(layer=hidden)
        np.testing.assert_allclose(b.values, a.values, atol=1e-8, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("inside", [False, True], ids=["backward outside", "backward inside"])
def test_under_autocast_cosines_are_those_of_a_measurement_in_float64(inside: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 30), nn.Tanh(), nn.Linear(30, 3)
    )
    x, y = torch.randn(16, 6), torch.arange(16) % 3
    rules: list[Rule] = [DFA(), FA()]
    probe = Probe(model, functional.cross_entropy, rules=rules, schedule=EVERY)
    for number in range(2):
        with probe.observe(number):
            with torch.autocast("cpu", torch.bfloat16):
                loss = functional.cross_entropy(model(x), y)
                if inside:
                    loss.backward()
            if not inside:
                loss.backward()
    found = probe.recording().isel(step=-1)
    exact = observed(Batch(model.double(), functional.cross_entropy, x.double(), y), rules)
    for name in ("cosine_error_signal", "norm_ratio_error_signal", "cosine_weight_gradient"):
        expected = exact.isel(step=-1)[name].values
        assert np.isfinite(expected).sum() == np.isfinite(found[name].values).sum() > 3
        np.testing.assert_allclose(found[name].values, expected, rtol=0.03, atol=0.03)


def test_a_compiled_model_is_observed_eagerly_and_then_compiled_again() -> None:
    batch = CASES["tanh"].make()
    expected = observed(batch, [DFA()])["cosine_error_signal"].values
    graphs = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(batch.model, backend=backend)
    step(Batch(compiled, batch.loss, batch.x, batch.y))
    found = observed(Batch(compiled, batch.loss, batch.x, batch.y), [DFA()])
    np.testing.assert_allclose(found["cosine_error_signal"].values, expected, atol=1e-6)
    assert found["layer"].values.tolist() == ["0", "2", "4"]
    assert len(graphs) == 1
    step(Batch(compiled, batch.loss, batch.x, batch.y))
    assert len(graphs) == 1


def test_a_hook_on_a_node_does_not_call_itself_when_it_runs_a_backward_pass() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    h = torch.tanh(x)
    y = h.square()
    calls = []

    def naive(_: Any) -> None:
        calls.append(1)
        if len(calls) < 5:
            torch.autograd.grad(y, h, torch.ones_like(y), retain_graph=True)

    # The naive way: the node that is differentiated from meets the same hook again.
    handle = y.grad_fn.register_prehook(naive)  # type: ignore[union-attr]
    y.sum().backward()
    handle.remove()
    assert len(calls) == 5
    batch = CASES["tanh"].make()
    probe = Probe(batch.model, batch.loss, rules=[DFA(), FA()], schedule=EVERY)
    with probe.observe(0):
        step(batch)
    assert probe.recording().sizes["step"] == 1


def test_a_second_observed_pass_over_one_structure_draws_no_other_feedback() -> None:
    batch = CASES["conv2d, grouped"].make()
    found = observed(batch, [DFA(), FA()], steps=3)["cosine_error_signal"]
    np.testing.assert_allclose(found.diff("step").fillna(0.0), 0.0, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["relu in place", "batch norm of maps", "residual"])
def test_on_a_cuda_device_a_step_waits_for_nothing_and_agrees_with_the_host(name: str) -> None:
    batch = CASES[name].make()
    expected = observed(batch, [DFA(), FA()])
    model, x, y = batch.model.cuda(), batch.x.cuda(), batch.y.cuda()
    rules: list[Rule] = [DFA(), FA()]
    probe = Probe(model, batch.loss, rules=rules, schedule=EVERY, feedback_draws=2)
    state = State.of(model)
    for number in range(4):
        state.restore(model)
        before = torch.cuda.get_rng_state()
        if number == 3:
            torch.cuda.set_sync_debug_mode("error")
        try:
            with probe.observe(number):
                batch.loss(model(x), y).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.equal(torch.cuda.get_rng_state(), before)
    found = probe.recording().isel(step=-1)
    for variable in ("cosine_error_signal", "norm_ratio_error_signal", "cosine_weight_gradient"):
        values = expected.isel(step=-1)[variable].values
        np.testing.assert_allclose(found[variable].values, values, rtol=1e-3, atol=1e-3)


class TwoEnds(nn.Module):
    """Two readouts, of which a loss may use one."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.one, self.other = nn.Linear(6, 7), nn.Linear(7, 3), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.body(x))
        return self.one(h), self.other(h)


def test_a_loss_that_changes_its_output_layer_is_refused_and_what_was_seen_stays() -> None:
    torch.manual_seed(0)
    model = TwoEnds()
    x, y = torch.randn(8, 6), torch.arange(8) % 3
    probe = Probe(model, functional.cross_entropy, rules=[DFA()], schedule=every(1))
    with probe.observe(0):
        functional.cross_entropy(model(x)[0], y).backward()
    with pytest.raises(MeasurementError, match="not the same"), probe.observe(1):
        functional.cross_entropy(model(x)[1], y).backward()
    with probe.observe(2):
        functional.cross_entropy(model(x)[0], y).backward()
    assert probe.recording()["layer"].values.tolist() == ["body", "one"]
    assert probe.recording()["step"].values.tolist() == [0, 2]


class Towers(nn.Module):
    """Two towers of equal shapes that may change places, and a gate with or without gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(6, 6) for _ in range(4))
        self.last = nn.Linear(12, 3)
        self.is_swapped = self.is_gated = False

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.a(x))
        h = x * (gate if self.is_gated else gate.detach() + 0 * gate)
        first, second = torch.tanh(self.b(h)), torch.tanh(self.c(x))
        if self.is_swapped:
            first, second = second, first
        return self.last(torch.cat([torch.tanh(self.d(first)), second], 1))


def test_a_model_that_is_wired_anew_is_refused_and_not_read_by_the_old_wires() -> None:
    torch.manual_seed(0)
    model, x, y = Towers(), torch.randn(8, 6), torch.arange(8) % 3
    probe = Probe(model, functional.cross_entropy, rules=[DFA()], schedule=every(1))
    for number in range(2):
        with probe.observe(number):
            functional.cross_entropy(model(x), y).backward()
    model.is_swapped = True
    with pytest.raises(MeasurementError, match="not the same"), probe.observe(2):
        functional.cross_entropy(model(x), y).backward()


def test_a_gate_that_gets_a_gradient_later_is_followed_as_it_is_now() -> None:
    torch.manual_seed(0)
    model, x, y = Towers(), torch.randn(8, 6), torch.arange(8) % 3
    probes = [Probe(model, functional.cross_entropy, rules=[DFA(), BP()]) for _ in range(2)]
    for number in range(4):
        model.is_gated = number > 1
        for probe in probes[: 2 if number == 3 else 1]:
            with probe.observe(number * 10):
                functional.cross_entropy(model(x), y).backward()
    found, fresh = (p.recording().sel(step=30)["cosine_error_signal"] for p in probes)
    np.testing.assert_allclose(found.values, fresh.values, atol=1e-6)


def test_the_recording_is_not_read_in_the_middle_of_a_step() -> None:
    batch = CASES["tanh"].make()
    probe = Probe(batch.model, batch.loss, rules=[DFA()], schedule=every(1))
    with probe.observe(0):
        step(batch)
        with pytest.raises(MeasurementError, match="when it is over"):
            probe.recording()
    assert probe.recording().sizes["step"] == 1


def test_a_weight_that_is_frozen_midway_has_no_gradient_from_then_on() -> None:
    batch = CASES["tanh"].make()
    probe = Probe(batch.model, batch.loss, rules=[DFA()], schedule=EVERY)
    for number in range(20):
        if number == 4:
            batch.model[2].weight.requires_grad_(False)  # type: ignore[index]
        with probe.observe(number):
            step(batch)
    values = probe.recording()["cosine_weight_gradient"].sel(rule="dfa", layer="2").values
    assert np.isfinite(values).tolist() == [True] * 4 + [False] * 16


def test_hooks_of_parameters_run_once_and_only_on_what_is_theirs() -> None:
    batch = CASES["conv2d, grouped"].make()
    calls: list[Tensor] = []
    batch.model[3].weight.register_hook(lambda g: calls.append(g) or 0.1 * g)  # type: ignore[index, func-returns-value]
    probe = Probe(batch.model, batch.loss, rules=[BP(), DFA()], schedule=EVERY)
    with probe.observe(2):
        step(batch)
    assert len(calls) == 1
    ratio = probe.recording()["norm_ratio_weight_gradient"].sel(rule="bp", layer="3")
    assert ratio.item() == pytest.approx(1.0)


class Twice(nn.Module):
    """One convolution that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(50, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.conv(torch.tanh(self.conv(x)))).flatten(1))


def test_a_shared_convolution_under_autocast_has_the_gradient_of_each_call() -> None:
    torch.manual_seed(0)
    model, x, y = Twice(), torch.randn(6, 2, 5, 5), torch.arange(6) % 3
    probe = Probe(model, functional.cross_entropy, rules=[BP()], schedule=EVERY)
    with probe.observe(0):
        with torch.autocast("cpu", torch.bfloat16):
            loss = functional.cross_entropy(model(x), y)
        loss.backward()
    cosines_found = probe.recording()["cosine_weight_gradient"].sel(rule="bp").values
    assert (np.abs(cosines_found - 1.0) < 1e-3).all()


def test_a_refused_first_step_does_not_take_the_chance_level_with_it() -> None:
    batch = CASES["tanh"].make()
    schedule = {"preactivation": every(1), "weight-gradient": at(2, 3), "chance": at(99)}
    probe = Probe(batch.model, batch.loss, rules=[DFA()], schedule=schedule)
    with pytest.raises(MeasurementError, match="no backward pass"), probe.observe(0):
        batch.model(batch.x)
    for number in range(1, 5):
        with probe.observe(number):
            step(batch)
    found = probe.recording().isel(layer=0, rule=0)
    assert (found["cosine_error_signal_null_sd"].sel(site="preactivation") > 0).all()
    weights = found["cosine_weight_gradient_null_sd"].values
    assert (weights[1:3] > 0).all()


def test_many_batch_sizes_are_followed_with_the_memory_of_few() -> None:
    batch = CASES["tanh"].make(n_samples=20)
    probe = Probe(batch.model, batch.loss, rules=[DFA()], schedule=every(1))
    sizes = [2 + number % 12 for number in range(36)]
    for number, size in enumerate(sizes):
        with probe.observe(number):
            batch.loss(batch.model(batch.x[:size]), batch.y[:size]).backward()
    stream = probe._observer._stream
    assert stream is not None
    assert len(stream.plans) == 8
    cosine = probe.recording()["cosine_error_signal"].sel(layer="0", site="preactivation")
    assert cosine["step"].values.tolist() == list(range(36))
    np.testing.assert_allclose(cosine.values[:12], cosine.values[24:], atol=1e-6)
