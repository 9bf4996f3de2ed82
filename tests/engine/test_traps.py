"""Ways to read or replace gradients that fail without a word, and the engine beside them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from alignlab.engine.capture import Capture
from alignlab.errors import MeasurementError
from alignlab.kernels.cosines import cosine
from alignlab.rules import FA
from tests.cases import CASES, Batch
from tests.oracles.signals import signals


def captured(batch: Batch) -> Capture:
    return Capture(batch.model, batch.loss, batch.x, batch.y)


def same(first: Tensor, second: Tensor) -> bool:
    return bool((first - second).norm() <= 1e-5 * second.norm())


def true_signals(name: str) -> tuple[Batch, dict[str, Tensor]]:
    """Return a case and its true signals, those of the engine, which are those of the oracle."""
    batch = CASES[name].make()
    found, expected = captured(batch).reference().preactivation, signals(batch).preactivation
    assert all(same(found[key], expected[key]) for key in expected)
    return batch, expected


def run(batch: Batch) -> None:
    batch.loss(batch.model(batch.x), batch.y).backward()


def test_a_kept_gradient_is_that_after_the_activation_in_place() -> None:
    batch, expected = true_signals("relu in place")
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    batch.model[0].register_forward_hook(keep)  # type: ignore[operator,index]
    run(batch)
    assert kept[0].grad is not None
    assert not same(kept[0].grad, expected["0"])


@pytest.mark.parametrize("kind", ["tensor hook", "node hook"])
def test_hooks_on_a_view_that_is_changed_in_place_never_fire(kind: str) -> None:
    batch, _ = true_signals("positions")
    fired: list[Any] = []

    def place(_: nn.Module, __: Any, output: Tensor) -> None:
        if kind == "tensor hook":
            output.register_hook(fired.append)
        else:
            get_gradient_edge(output).node.register_prehook(fired.append)

    batch.model.first.register_forward_hook(place)  # type: ignore[operator,union-attr]
    run(batch)
    assert fired == []


def test_a_full_backward_hook_does_not_stand_an_activation_in_place() -> None:
    batch, _ = true_signals("relu in place")
    batch.model[0].register_full_backward_hook(lambda *_: None)  # type: ignore[operator,index]
    with pytest.raises(RuntimeError, match="modified inplace"):
        run(batch)


def test_hooks_that_are_placed_after_compilation_never_fire() -> None:
    batch = CASES["functional relu"].make()
    expected = signals(batch).preactivation
    compiled: Any = torch.compile(batch.model, backend="eager")
    compiled(batch.x)
    fired: list[Any] = []
    handle = batch.model.first.register_forward_hook(lambda *_: fired.append(1))  # type: ignore[operator,union-attr]
    compiled(batch.x)
    handle.remove()
    assert fired == []
    found = captured(Batch(compiled, batch.loss, batch.x, batch.y)).reference().preactivation
    assert all(same(found[name], expected[name]) for name in expected)


def test_saved_tensor_hooks_let_a_changed_weight_pass() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), torch.randn(5, 4)
    model(x).sum().backward()
    expected = model[0].weight.grad.clone()  # type: ignore[union-attr,operator]
    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        loss = model(x).sum()
    with torch.no_grad():
        model[1].weight.mul_(2.0)  # type: ignore[operator,union-attr]
    loss.backward()  # a plain backward pass would raise
    assert same(model[0].weight.grad, 2.0 * expected)  # type: ignore[arg-type,operator]

    def plain_sum(output: Tensor, _: Tensor) -> Tensor:
        return output.sum()

    capture = Capture(model, plain_sum, x, x)
    with torch.no_grad():
        model[1].weight.mul_(2.0)  # type: ignore[operator,union-attr]
    with pytest.raises(MeasurementError, match="weight of '1' changed"):
        capture.reference()


def test_forward_hooks_fire_again_when_activations_are_recomputed() -> None:
    batch, _ = true_signals("recomputed")
    seen: list[int] = []
    handle = batch.model.second.register_forward_hook(lambda *_: seen.append(1))  # type: ignore[operator,union-attr]
    run(batch)
    assert len(seen) == 2
    handle.remove()
    capture = captured(batch)
    capture.reference()
    assert [layer.name for layer in capture.layers] == ["first", "second", "last"]


def test_a_swap_by_memory_alone_is_blind_to_recomputation() -> None:
    """The weight is saved only when it is recomputed, long after the hooks are gone."""
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 4), torch.randn(5, 4, requires_grad=True)
    seen: list[bool] = []

    def pack(tensor: Tensor) -> Tensor:
        seen.append(tensor.untyped_storage().data_ptr() == layer.weight.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = checkpoint(lambda h: torch.tanh(layer(h)), x, use_reentrant=False)
    y.sum().backward()
    assert not any(seen)
    capture = captured(CASES["recomputed"].make())
    with pytest.raises(MeasurementError, match="weight of second was not seen"):
        capture.replaced(FA().backward_weights(capture.module_weights(), seed=0))


def test_a_swap_by_memory_alone_is_blind_to_weights_that_are_cast() -> None:
    layer, x = nn.Linear(4, 4), torch.randn(5, 4, requires_grad=True)
    seen: list[bool] = []

    def pack(tensor: Tensor) -> Tensor:
        seen.append(tensor.untyped_storage().data_ptr() == layer.weight.data_ptr())
        return tensor

    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
    ):
        layer(x)
    assert seen
    assert not any(seen)  # how it is replaced all the same: test_precision.py


def test_the_fast_path_of_an_encoder_calls_none_of_its_layers() -> None:
    batch, expected = true_signals("encoder, evaluation")
    layer: Any = batch.model.layer
    calls: list[int] = []
    plain = layer.linear1.forward

    def counting(x: Tensor) -> Tensor:
        calls.append(1)
        found: Tensor = plain(x)
        return found

    layer.linear1.forward = counting
    with torch.no_grad():
        batch.model(batch.x)
        assert calls == []
        del layer.linear1.forward
        found = captured(batch).reference().preactivation
    assert same(found["layer.linear1"], expected["layer.linear1"])


def test_parts_of_one_output_share_a_node_and_are_told_by_their_number() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 4, requires_grad=True)
    first, second = (x * 2.0).chunk(2, -1)
    edge = get_gradient_edge(second)
    assert edge.node is get_gradient_edge(first).node
    seen: list[Any] = []
    edge.node.register_prehook(seen.append)
    (3.0 * second).sum().backward()
    assert seen[0][0] is None  # the naive reading: nothing
    assert same(seen[0][edge.output_nr], torch.full((5, 2), 3.0))
    true_signals("chunked")


def test_a_frozen_layer_below_all_others_has_no_edge() -> None:
    batch = CASES["tanh"].make()
    batch.model[0].requires_grad_(False)  # type: ignore[operator,index]
    with pytest.raises(RuntimeError):
        get_gradient_edge(batch.model[0](batch.x))  # type: ignore[operator,index]
    capture = captured(batch)
    assert capture.without_gradient == ("0",)
    assert [layer.name for layer in capture.layers] == ["2", "4"]


def test_the_next_layer_in_time_need_not_read_the_last_ones_output() -> None:
    torch.manual_seed(0)
    batch = CASES["parallel"].make()
    capture = captured(batch)
    _, left, right, last = capture.layout.calls
    assert (left.name, right.name, last.name) == ("left", "right", "last")
    assert right.input_edge is not None
    (naive,) = torch.autograd.grad(
        [right.input_edge],
        [left.output_edge],
        [torch.ones(8, 8)],
        retain_graph=True,
        allow_unused=True,
    )
    assert naive is None
    layer = next(each for each in capture.layers if each.name == "left")
    assert layer.consumer == "last"
    assert capture.to_preactivation(layer, torch.ones(8, 8)).shape == (8, 4)


def test_a_cosine_with_a_floor_and_one_of_products_lose_small_gradients() -> None:
    signal = torch.full((3,), 1e-11 / 3**0.5)
    assert float(functional.cosine_similarity(signal, signal, dim=0)) < 1e-5
    tiny = torch.full((3,), 1e-22)
    squares = (tiny @ tiny) * (tiny @ tiny)
    assert float((tiny @ tiny) / squares.sqrt()) != pytest.approx(1.0)
    for each in (signal, tiny):
        assert float(cosine(each, each)) == pytest.approx(1.0, abs=1e-12)


def test_normalisation_in_training_joins_the_samples() -> None:
    """A sample's signal is no function of that sample alone, and is not taken for one."""
    batch, expected = true_signals("batch norm, training")
    half = Batch(batch.model, batch.loss, batch.x[:4], batch.y[:4])
    alone = captured(half).reference().preactivation["0"] / 2.0
    assert not same(alone, expected["0"][:4])
    batch.model.eval()
    together = captured(batch).reference().preactivation["0"]
    assert same(captured(half).reference().preactivation["0"] / 2.0, together[:4])


def test_the_inner_products_of_attention_are_no_module_calls() -> None:
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    called: list[int] = []
    attention.out_proj.register_forward_hook(lambda *_: called.append(1))
    x = torch.randn(2, 3, 4)
    attention(x, x, x)
    assert called == []
    capture = captured(CASES["attention"].make())
    assert set(capture.other_weights) == {"between.in_proj_weight", "between.out_proj.weight"}
