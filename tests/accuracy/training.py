"""One training of the accuracy table."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from alignlab.errors import DivergedError, MeasurementError
from alignlab.schedules import at
from alignlab.specs import parse_rule
from alignlab.training import Recipe, train
from tests.accuracy.networks import LOSSES, NETWORKS, Split

__all__ = ["BATCH", "EPOCHS", "FROZEN", "OPTIMIZERS", "Outcome", "trained"]

EPOCHS = {"digits": 25, "mnist": 8}
BATCH = 50
OPTIMIZERS: dict[str, tuple[str, dict[str, float]]] = {
    "SGD": ("sgd", {"momentum": 0.9}),
    "Adam": ("adamw", {}),
}
FROZEN = "frozen body"
"""Only the readout learns, by its true gradient."""


@dataclass(frozen=True)
class Outcome:
    """What a training came to.

    Attributes:
        loss: Mean training loss of the last epoch; infinite where training diverged.
        accuracy: Share of the test images that are named rightly.
        refused: Why the rule does not run on the network; empty where it does.
    """

    loss: float = math.inf
    accuracy: float = math.nan
    refused: str = ""


def trained(
    rule: str,
    network: str,
    split: Split,
    *,
    epochs: int,
    optimizer: str,
    rate: float,
    seed: int,
    weight_decay: float = 0.0,
) -> Outcome:
    """Train a network by a rule and test it.

    Args:
        rule: Rule SPEC without a seed, or ``FROZEN``.
        network: One of ``NETWORKS``.
        split: The data.
        epochs: Passes over the training images.
        optimizer: One of ``OPTIMIZERS``.
        rate: Learning rate.
        seed: Of the initial weights, the order of the images and all that the rule draws.
        weight_decay: Of the optimizer.
    """
    torch.manual_seed(seed)
    model = NETWORKS[network](split.x.shape[-1])
    readout = [name for name, _ in model.named_parameters()][-2:]
    body = [name for name, _ in model.named_parameters() if name not in readout]
    name, fixed = OPTIMIZERS[optimizer]
    recipe = Recipe(
        epochs=epochs,
        batch_size=BATCH,
        optimizer=name,
        optimizer_options=fixed | {"lr": rate, "weight_decay": weight_decay},
        frozen=tuple(body) if rule == FROZEN else (),
        order_seed=seed,
    )
    passed: list[int] = []
    try:
        done = train(
            model,
            LOSSES.get(network, functional.cross_entropy),
            x=split.x,
            y=split.y,
            rule=parse_rule("bp" if rule == FROZEN else _seeded(rule, seed)),
            recipe=recipe,
            watch=lambda moment: passed.append(moment.step) or {},
            when=at(1),
        )
    except DivergedError:
        return Outcome()
    except MeasurementError as error:
        return Outcome() if passed else Outcome(refused=str(error))
    return Outcome(done.losses[-1], _accuracy(model, split))


def _seeded(rule: str, seed: int) -> str:
    """Return a SPEC with a seed, where the rule takes one."""
    plain = parse_rule(rule)
    if not hasattr(plain, "seed"):
        return rule
    name, bracket, inside = rule.partition("(")
    return f"{name}({inside.removesuffix(')')}, seed={seed})" if bracket else f"{name}(seed={seed})"


@torch.no_grad()
def _accuracy(model: nn.Module, split: Split) -> float:
    found = torch.cat([model(part) for part in split.x_test.split(1000)]).argmax(1)
    return float((found == split.y_test).float().mean())
