"""What each diagnostic costs: ``python -m tests.benchmarks.diagnostics --help``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import click
import torch
from torch.nn import functional as F

from alignlab.diagnostics._presets import PRESETS
from alignlab.diagnostics._run import diagnostics_of
from alignlab.models.mlp import MLP
from alignlab.models.resnet20 import ResNet20
from alignlab.plugins import names
from alignlab.probe import Probe
from alignlab.rules import DFA
from tests.benchmarks._harness import Quartiles, interleaved, quartiles
from tests.benchmarks._machine import machine
from tests.benchmarks._steps import Plain
from tests.cases import Batch

__all__ = ["NETWORKS", "measurement"]

GRADIENTS, PLAIN = "gradients", "plain"
ALIGNMENTS = ("error-signal", "weight-gradient")


def resnet20() -> Batch:
    """Return ResNet-20 and 64 images."""
    model = ResNet20(shortcut="pad", classes=10)
    return Batch(model, F.cross_entropy, torch.randn(64, 3, 32, 32), torch.arange(64) % 10)


def mlp() -> Batch:
    """Return a multilayer perceptron 784-800-800-10 and 128 images."""
    model = MLP(in_features=784, widths=(800, 800), classes=10)
    return Batch(model, F.cross_entropy, torch.randn(128, 784), torch.arange(128) % 10)


NETWORKS: dict[str, Callable[[], Batch]] = {"resnet20": resnet20, "mlp": mlp}


def measurement(batch: Batch, diagnostics: Sequence[str], draws: int | None) -> Callable[[], None]:
    """Return a step that measures direct feedback alignment beside backpropagation."""

    def step() -> None:
        with Probe(
            batch.model, batch.loss, rules=[DFA()], diagnostics=diagnostics, draws=draws
        ) as probe:
            probe.measure(batch.x, batch.y)

    return step


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--network", default="resnet20", type=click.Choice(list(NETWORKS)))
@click.option("--mode", default="eval", type=click.Choice(["eval", "train"]))
@click.option("--only", multiple=True, help="Some diagnostics; core and alignments are added.")
@click.option("--rounds", default=3, type=click.IntRange(1), help="Times that each is measured.")
@click.option("--draws", type=int, help="Most redraws; the probe's own choice without it.")
@click.option("--full/--no-full", default=True, help="Whether the full preset is timed too.")
def main(
    network: str, mode: str, only: tuple[str, ...], rounds: int, draws: int | None, *, full: bool
) -> None:
    """Time every diagnostic alone, in plain training steps beyond what the gradients cost.

    Gradients are a measurement without diagnostics: forward pass, backpropagation, the rule's
    updates, and an empty recording.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    batch = NETWORKS[network]()
    batch.model.train(mode == "train")
    chosen = list(only or names("alignlab.diagnostics"))
    declared = {name: each.cost for name, each in diagnostics_of(chosen).items()}
    for key, value in machine("cpu").items():
        click.echo(f"{key}: {value}")
    click.echo(f"{network}, {mode} mode, {rounds} rounds; costs in plain training steps")
    steps = {PLAIN: Plain(batch), GRADIENTS: measurement(batch, [], draws)}
    steps["error-signal, weight-gradient"] = measurement(batch, ALIGNMENTS, draws)
    steps["preset core"] = measurement(batch, PRESETS["core"], draws)
    fixed = interleaved(steps, rounds=max(rounds, 5), warmup=1, seed=0)
    click.echo(f"one plain step: {1e3 * quartiles(fixed[PLAIN]).median:.1f} ms")
    for name in list(steps)[1:]:
        base = None if name == GRADIENTS else fixed[GRADIENTS]
        _say(name, "", _ratio(fixed[name], base, fixed[PLAIN]))
    for name in chosen:
        found = _alone(batch, name, draws, rounds)
        _say(name, f"{declared[name]:.1f}", found)
    if full:
        begin, cpu = time.monotonic(), time.process_time()
        measurement(batch, names("alignlab.diagnostics"), draws)()
        cpu, wall = time.process_time() - cpu, time.monotonic() - begin
        click.echo(f"preset full: {cpu:.1f} s of CPU, {wall:.1f} s")


def _alone(batch: Batch, name: str, draws: int | None, rounds: int) -> Quartiles:
    steps = {
        PLAIN: Plain(batch),
        GRADIENTS: measurement(batch, [], draws),
        name: measurement(batch, [name], draws),
    }
    seconds = interleaved(steps, rounds=rounds, warmup=1, seed=0)
    return _ratio(seconds[name], seconds[GRADIENTS], seconds[PLAIN])


def _ratio(
    work: Sequence[float], base: Sequence[float] | None, plain: Sequence[float]
) -> Quartiles:
    """Return quartiles, over rounds, of work less what it is on top of, over a plain step."""
    beyond = base or [0.0] * len(work)
    return quartiles([(w - b) / p for w, b, p in zip(work, beyond, plain, strict=True)])


def _say(name: str, declared: str, found: Quartiles) -> None:
    spread = f"[{found.low:.2f}, {found.high:.2f}]"
    click.echo(f"{name:34} {declared:>8} {found.median:9.2f} {spread}")


if __name__ == "__main__":
    main()
