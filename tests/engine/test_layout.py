"""How layers hang together: narrow places, shortcuts, readers of one entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from alignlab.engine.capture import Capture
from alignlab.engine.layout import Layout
from tests.cases import CASES, Case


class Wired(nn.Module):
    """Linear layers by name, wired by a function."""

    def __init__(self, forward: Callable[[Wired, Tensor], Tensor], **sizes: tuple[int, int]):
        super().__init__()
        self.layers = nn.ModuleDict({name: nn.Linear(*size) for name, size in sizes.items()})
        self.wiring = forward

    def __getitem__(self, name: str) -> Callable[[Tensor], Tensor]:
        return lambda x: functional.relu(self.layers[name](x))

    def forward(self, x: Tensor) -> Tensor:
        return self.wiring(self, x)


def chain(net: Wired, x: Tensor) -> Tensor:
    return net.layers["c"](net["b"](net["a"](x)))


def shortcut(net: Wired, x: Tensor) -> Tensor:
    h = net["a"](x)
    return net.layers["c"](h + net["up"](net["b"](h)))


def two_readers(net: Wired, x: Tensor) -> Tensor:
    h = net["a"](x)
    return net.layers["c"](net["b"](h) + net["other"](h))


def skipped_preactivation(net: Wired, x: Tensor) -> Tensor:
    below = net.layers["a"](x)
    return net.layers["c"](below + net["b"](functional.relu(below)))


NETWORKS: dict[str, tuple[Wired, Mapping[str, str]]] = {
    "chain": (Wired(chain, a=(6, 9), b=(9, 2), c=(2, 3)), {"a": "b", "b": "c"}),
    "shortcut": (
        Wired(shortcut, a=(6, 9), b=(9, 2), up=(2, 9), c=(9, 3)),
        {"a": "b", "b": "up", "up": "c"},
    ),
    "two readers": (
        Wired(two_readers, a=(6, 9), b=(9, 4), other=(9, 4), c=(4, 3)),
        {"a": "b", "b": "c", "other": "c"},
    ),
    "skipped pre-activation": (
        Wired(skipped_preactivation, a=(6, 9), b=(9, 9), c=(9, 3)),
        {"a": "b", "b": "c"},
    ),
}


def layout_of(name: str) -> Layout:
    torch.manual_seed(0)
    model, consumers = NETWORKS[name]
    capture = Capture(model, functional.cross_entropy, torch.randn(8, 6), torch.arange(8) % 3)
    found = {plain(e.name): plain(e.consumer) for e in capture.layers if not e.is_output}
    assert found == dict(consumers)
    return capture.layout


def plain(name: str) -> str:
    return name.removeprefix("layers.")


def each(layout: Layout) -> dict[str, bool | object]:
    return {plain(layer.name): layer for layer in layout.layers if not layer.is_output}


@pytest.mark.parametrize(
    ("name", "narrowest"),
    [
        ("chain", {"a": (2, "layers.b"), "b": None}),
        ("shortcut", {"a": (9, "layers.up"), "b": (9, "layers.up"), "up": None}),
        ("two readers", {"a": (4, "layers.b"), "b": None, "other": None}),
        ("skipped pre-activation", {"a": (9, "layers.b"), "b": None}),
    ],
)
def test_a_narrow_place_counts_only_where_every_path_leads_through_it(
    name: str, narrowest: dict[str, tuple[int, str] | None]
) -> None:
    layout = layout_of(name)
    found = {
        plain(layer.name): layout.narrowest_above(layer)
        for layer in layout.layers
        if not layer.is_output
    }
    assert found == narrowest


@pytest.mark.parametrize(
    ("name", "bypassed", "one_reader", "trunk"),
    [
        ("chain", "", "a b", "a b"),
        ("shortcut", "", "b up", "a up"),
        ("two readers", "", "b other", "a b other"),
        ("skipped pre-activation", "a", "a b", "b"),
    ],
)
def test_shortcuts_are_seen_where_they_are(
    name: str, bypassed: str, one_reader: str, trunk: str
) -> None:
    layout = layout_of(name)
    hidden = [layer for layer in layout.layers if not layer.is_output]

    def those(question: Callable[..., bool]) -> str:
        return " ".join(plain(layer.name) for layer in hidden if question(layer))

    assert those(layout.is_bypassed) == bypassed
    assert those(layout.has_one_reader) == one_reader
    assert those(layout.is_trunk) == trunk


def test_all_readers_of_an_entry_are_found() -> None:
    layout = layout_of("two readers")
    readers = [plain(layer.name) for layer in layout.consumers_of(layout.layers[0])]
    assert readers == ["b", "other"]


def test_the_first_layers_weight_carries_no_signal_on() -> None:
    def carriers(case: Case) -> list[str]:
        batch = case.make()
        layout = Capture(batch.model, batch.loss, batch.x, batch.y).layout
        return [layer.name for layer in layout.layers if layout.passes_signal_on(layer)]

    assert carriers(CASES["tanh"]) == ["2", "4"]
    assert carriers(CASES["reused"]) == ["again", "last"]
