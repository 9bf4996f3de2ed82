"""Data, networks, rules and recipe as the code of the paper has them, at any size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab import Probe
from alignlab.datasets import load
from alignlab.experiments._base import Case, Setting, Work
from alignlab.experiments._digits import digits
from alignlab.models.mlp import MLP
from alignlab.rules import BP, DFA, FA, IFA, Rule
from alignlab.schedules import Schedule, never
from alignlab.training import Moment, Recipe, Training, train

__all__ = [
    "COLOURS",
    "Images",
    "cosines",
    "cross_entropies",
    "error",
    "fit",
    "images",
    "network",
    "outcome",
    "recipe",
    "rule_named",
    "zeroed",
]

COLOURS = {"bp": "C0", "fa": "C1", "dfa": "C2", "ifa": "C3", "last": "C7"}
"""Of the rules, in every figure; ``last`` trains the output layer alone."""

ZERO_START = ("fa", "dfa")
DRAWS = 32


@dataclass(frozen=True)
class Images:
    """Images as rows with pixels from 0 to 1, and their classes."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


def images(name: str, *, device: str = "cpu") -> Images:
    """Return all training and test images of a data set."""
    if name == "digits":
        found = digits()
        parts = [found.x, found.y, found.x_test, found.y_test]
    else:
        both = [load(name, split=split, samples=None) for split in ("train", "test")]
        parts = [each for part in both for each in (part.x.flatten(1), part.y)]
    return Images(*(part.to(device) for part in parts))


def cross_entropies(
    output: Tensor, y: Tensor, *, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """Return the binary cross-entropies of logistic outputs, summed over outputs.

    The paper's code sums over samples, too. RMSprop divides by the root mean square of a gradient
    plus 1e-8: the factor is lost in it unless gradients come near that, as in very deep networks.

    Args:
        output: Logits, shape ``(n, n_classes)``.
        y: Classes.
        reduction: Over samples.
    """
    wanted = F.one_hot(y, output.shape[1]).to(output)
    total = F.binary_cross_entropy_with_logits(output, wanted, reduction="sum")
    return total if reduction == "sum" else total / len(y)


def rule_named(name: str, *, seed: int) -> Rule:
    """Return a rule with the uniform feedback of the paper's code, +-1/sqrt(fan-out of it).

    That of feedback alignment has the range of the first forward weights, which is the same.
    """
    direct: dict[str, Any] = {"distribution": "uniform", "normalisation": "fan-out", "seed": seed}
    made: dict[str, Callable[[], Rule]] = {
        "bp": BP,
        "last": BP,
        "fa": lambda: FA(distribution="uniform", scale=3**-0.5, seed=seed),
        "dfa": lambda: DFA(**direct),
        "ifa": lambda: IFA(**direct),
    }
    return made[name]()


def zeroed(model: nn.Module) -> nn.Module:
    """Set all parameters to zero, in place."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


def network(case: Case, setting: Setting, *, start: str = "", **options: Any) -> nn.Module:
    """Return the network of a case; under FA and DFA all parameters are zero at first.

    Args:
        case: With ``rule`` and ``seed``.
        setting: With ``in_features`` and ``widths``.
        start: ``zero`` or ``default`` (torch's) against that.
        **options: Further ones of the network.
    """
    torch.manual_seed(int(case["seed"]))
    sizes = {"in_features": setting["in_features"], "widths": tuple(setting["widths"])}
    model = MLP(**(sizes | {"activation": "tanh"} | options))
    is_zero = case["rule"] in ZERO_START if not start else start == "zero"
    return zeroed(model) if is_zero else model


def recipe(setting: Setting, seed: int, *, frozen: tuple[str, ...] = (), **options: Any) -> Recipe:
    """Return the recipe of a setting: RMSprop without momentum, constant rate.

    The paper's code stops where the training error, smoothed, is at most 0.01%; ``stop_loss``
    stands in for that where a setting has it.
    """
    return Recipe(
        **{
            "epochs": setting["epochs"],
            "batch_size": setting["batch_size"],
            "optimizer": "rmsprop",
            "optimizer_options": {"lr": setting["lr"]},
            "frozen": frozen,
            "stop_loss": setting.get("stop_loss"),
            "order_seed": 1000 + seed,
            "dropout_seed": 2000 + seed,
            **options,
        }
    )


def fit(
    model: nn.Module,
    case: Case,
    setting: Setting,
    work: Work,
    *,
    rule: Rule | None = None,
    part: str = "training",
    watch: Callable[[Moment], Mapping[str, Any]] | None = None,
    when: Schedule = never,
    **options: Any,
) -> Training:
    """Train a network in place by the rule of its case; ``last`` leaves the body as it is.

    Args:
        model: Trained in place.
        case: With ``rule`` and ``seed``.
        setting: With data, sizes and what the recipe needs; ``reduction`` is that of the loss.
        work: Folder, device and progress.
        rule: In place of that of the case.
        part: Name under which the training is kept; trainings of one case need several.
        watch: As the trainer's.
        when: As the trainer's.
        **options: Of the recipe, in place of the setting's.
    """
    seen = images(setting["data"], device=work.device)
    seed, frozen = int(case["seed"]), options.pop("frozen", ())
    if case["rule"] == "last":
        names = [name for name, _ in model.named_parameters()]
        frozen = tuple(names[:-2])
    return train(
        model.to(work.device),
        partial(cross_entropies, reduction=setting.get("reduction", "mean")),
        x=seen.x.reshape(-1, *setting.get("shape", (setting["in_features"],))),
        y=seen.y,
        rule=rule_named(str(case["rule"]), seed=seed) if rule is None else rule,
        recipe=recipe(setting, seed, frozen=frozen, **options),
        watch=watch,
        when=when,
        keep=work.folder / f"{part}.pt",
        progress=work.progress,
    )


@torch.no_grad()
def error(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the share of wrong answers in per cent, in evaluation mode."""
    model.eval()
    wrong = [
        (model(some).argmax(1) != those).sum()
        for some, those in zip(x.split(2048), y.split(2048), strict=True)
    ]
    return 100.0 * float(torch.stack(wrong).sum()) / len(y)


def cosines(moment: Moment, x: Tensor, y: Tensor) -> dict[str, np.ndarray]:
    """Return cosine of the error signals and deviation by chance, by hidden layer.

    Signals enter behind the activation; the cosine is that of each sample, then the mean.
    """
    rule, name = moment.learner.rule, "cosine_error_signal"
    measured = rule if moment.step == 0 else moment.learner.measured()
    with Probe(
        moment.model, cross_entropies, rules=[measured], diagnostics=["error-signal"], draws=DRAWS
    ) as probe:
        found = probe.measure(x, y)
    hidden = found.isel(step=0, rule=0).sel(site="entry")
    hidden = hidden.isel(layer=~hidden["is_output"].values)
    return {"cosine": hidden[name].values, "chance": hidden[f"{name}_null_sd"].values}


def outcome(case: Case, setting: Setting, work: Work) -> xr.Dataset:
    """Train the network of a case and return its errors and the alignment at the end.

    Returns:
        ``train_error`` and ``test_error`` in per cent; ``cosine`` and ``chance`` by ``layer``,
        NaN under backpropagation; ``norm`` of the true signals is not part of it.
    """
    seen = images(setting["data"], device=work.device)
    model = network(case, setting)
    aligns = case["rule"] in {"fa", "dfa", "ifa"}
    depth = len(setting["widths"])

    def look(moment: Moment) -> Mapping[str, Any]:
        return cosines(moment, seen.x_test[:1000], seen.y_test[:1000]) if aligns else {}

    history = fit(model, case, setting, work, watch=look).history
    nothing = np.full(depth, np.nan)
    return xr.Dataset(
        {
            "train_error": error(model, seen.x, seen.y),
            "test_error": error(model, seen.x_test, seen.y_test),
            "cosine": ("layer", history[-1].get("cosine", nothing)),
            "chance": ("layer", history[-1].get("chance", nothing)),
        },
        {"layer": np.arange(1, depth + 1)},
    )
