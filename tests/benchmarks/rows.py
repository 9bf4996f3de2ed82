"""What is timed and how fast it must be, as one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from alignlab.rules import DFA, FA, AlignAda, AlignZero
from alignlab.rules._base import Rule
from tests.benchmarks._harness import Comparison
from tests.benchmarks._steps import beside_plain, beside_training
from tests.benchmarks.jacobian import jacobian_of_resnet20
from tests.benchmarks.networks import NETWORKS, RECURRENT, SMALL, Network
from tests.benchmarks.peers import against_biotorch
from tests.benchmarks.spectra import participation_ratio_of_a_convolution

__all__ = ["ROWS", "Row"]

SIGNALS = ("preactivation",)
WEIGHTS = ("preactivation", "weight-gradient")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: What ``--only`` takes.
        work: What a reader reads.
        target: Bound of the ratio of CPU times.
        stretch: Bound beyond which nothing more is tried; None where there is none.
        build: Takes the device, returns what is timed.
        rounds: Paired steps of one run.
        at_least: Whether the bound is a lower one.
        warmup: Pairs before them that do not count.
    """

    name: str
    work: str
    target: float
    stretch: float | None
    build: Callable[[str], Comparison]
    rounds: int
    at_least: bool = False
    warmup: int = 3


def _observed(
    network: str,
    kind: str,
    work: str,
    bounds: tuple[float, float | None],
    rules: Sequence[Callable[[], DFA | FA]] = (DFA,),
    levels: Sequence[str] = SIGNALS,
    draws: int = 0,
) -> Row:
    """Return a row that compares an observed step with a plain one."""

    def build(device: str) -> Comparison:
        made = [make() for make in rules]
        return beside_training(network, device, made, levels=levels, draws=draws)

    title = f"{NETWORKS[network].title}: {work}"
    return Row(f"{network}-{kind}", title, *bounds, build, NETWORKS[network].rounds)


def _trained(network: Network, name: str, bounds: tuple[float, float | None], rule: Rule) -> Row:
    """Return a row that compares a training step by a rule with a plain one."""

    def build(device: str) -> Comparison:
        return beside_plain(network, device, rule)

    work = f"{network.title}: training step by {_title(rule)} over plain step"
    return Row(name, work, *bounds, build, network.rounds)


def _title(rule: Rule) -> str:
    return rule.name.upper() if rule.name.isalpha() else rule.name


def _peer(network: str, target: float, stretch: float) -> Row:
    title = f"{NETWORKS[network].title}: biotorch over alignlab, DFA weight gradients"
    return Row(
        f"{network}-biotorch",
        title,
        target,
        stretch,
        partial(against_biotorch, network),
        NETWORKS[network].rounds,
        at_least=True,
    )


_BY_POSITION = partial(DFA, structure="position")
_LOW_RANK = partial(DFA, structure="position", rank=32)

ROWS: Mapping[str, Row] = {
    row.name: row
    for row in (
        _observed("mlp", "preactivation", "DFA, pre-activations", (1.15, 1.08)),
        _observed("mlp", "entry", "DFA, entries", (1.06, 1.03), levels=("entry",)),
        _observed(
            "mlp", "draws", "DFA, entries, 8 draws", (1.15, 1.08), levels=("entry",), draws=8
        ),
        _observed("mlp", "weights", "DFA, weight gradients too", (1.35, 1.25), levels=WEIGHTS),
        _observed("mlp", "fa", "DFA and FA, pre-activations", (1.60, 1.45), (DFA, FA)),
        _observed("vgg", "preactivation", "DFA, pre-activations", (1.15, 1.08)),
        _observed("vgg", "fa", "DFA and FA, pre-activations", (1.60, 1.45), (DFA, FA)),
        _observed("resnet20", "preactivation", "DFA, pre-activations", (1.30, 1.15)),
        _observed("resnet20", "fa", "DFA and FA, pre-activations", (1.90, 1.70), (DFA, FA)),
        _observed(
            "transformer", "preactivation", "DFA, pre-activations", (1.45, 1.30), (_BY_POSITION,)
        ),
        _observed(
            "transformer", "rank32", "DFA of rank 32, pre-activations", (1.28, None), (_LOW_RANK,)
        ),
        _observed(
            "transformer",
            "fa",
            "DFA and FA, pre-activations",
            (1.90, 1.70),
            (_BY_POSITION, FA),
        ),
        _trained(SMALL, "small-training", (3.0, 2.0), DFA()),
        _trained(NETWORKS["mlp"], "mlp-training", (1.3, 1.1), DFA()),
        _trained(SMALL, "small-fa-training", (4.5, 3.0), FA()),
        _trained(NETWORKS["mlp"], "mlp-fa-training", (1.4, 1.2), FA()),
        _trained(SMALL, "small-zero-training", (8.0, 5.0), AlignZero()),
        _trained(SMALL, "small-ada-training", (9.0, 6.0), AlignAda()),
        _trained(NETWORKS["mlp"], "mlp-zero-training", (2.5, 1.8), AlignZero()),
        _trained(NETWORKS["mlp"], "mlp-ada-training", (2.7, 1.8), AlignAda()),
        _trained(RECURRENT, "recurrent-zero-training", (4.0, 2.5), AlignZero()),
        _trained(RECURRENT, "recurrent-ada-training", (5.0, 2.5), AlignAda()),
        _peer("mlp", 2.0, 2.5),
        _peer("vgg", 1.4, 1.8),
        Row(
            "resnet20-jacobian",
            f"{NETWORKS['resnet20'].title}: Jacobian at all sites, 10 passes over the open graph",
            3.8,
            None,
            jacobian_of_resnet20,
            9,
            warmup=1,
        ),
        Row(
            "participation-ratio",
            "3x3x256x256 at 32x32: all singular values over the closed participation ratio",
            50.0,
            None,
            participation_ratio_of_a_convolution,
            5,
            at_least=True,
            warmup=1,
        ),
    )
}
