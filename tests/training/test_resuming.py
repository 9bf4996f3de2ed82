"""A killed training goes on to the same bits, and only where it is the same training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab.errors import InputError
from alignlab.rules import BP, DFA, FA, KP, Rule
from alignlab.schedules import every
from alignlab.specs import parse_rule
from alignlab.training import Moment, Recipe, Training, _resuming, train

EPOCHS, BATCHES = 4, 3


class KilledError(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture(autouse=True)
def _kept_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_resuming, "SHARE", 1e9)


def samples() -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    return torch.randn(40, 6, generator=stream), torch.randint(4, (40,), generator=stream)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 4))


def trained(
    rule: Rule, recipe: Recipe, keep: Path | None = None, killed: int | None = None, **options: Any
) -> tuple[nn.Module, Training]:
    """Train, and die before a step."""
    model = network(options.pop("init", 0))
    x, y = options.pop("data", samples())

    def watch(moment: Moment) -> dict[str, float]:
        if moment.step == killed:
            raise KilledError
        return {"norm": moment.model[0].weight.detach().norm().item(), "loss": moment.loss}

    return model, train(
        *(model, F.cross_entropy),
        **{"x": x, "y": y, "rule": rule, "recipe": recipe, "keep": keep},
        **{"watch": watch, "when": every(1), "held": (x[:20], y[:20]), **options},
    )


def recipe(**options: Any) -> Recipe:
    return Recipe(**{"epochs": EPOCHS, "batch_size": 16, "dropout_seed": 5, **options})


def same_bits(one: tuple[nn.Module, Training], other: tuple[nn.Module, Training]) -> bool:
    weights = [model.state_dict() for model, _ in (one, other)]
    left = [(t.losses, t.held_losses, t.held_accuracies) for _, t in (one, other)]
    seen = [[{k: str(v) for k, v in m.items()} for m in t.history] for _, t in (one, other)]
    feedback = [t.feedback for _, t in (one, other)]
    bests = [training.best for _, training in (one, other)]
    return (
        all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
        and left[0] == left[1]
        and seen[0] == seen[1]
        and all(torch.equal(feedback[0][name], feedback[1][name]) for name in feedback[0])
        and str(bests[0]) == str(bests[1])
    )


@pytest.mark.parametrize("killed", [1, 4, 9, EPOCHS * BATCHES])
@pytest.mark.parametrize(
    ("rule", "options"),
    [
        (BP(), {"patience": 9}),
        (DFA(seed=3), {"label_noise": 0.3}),
        (FA(seed=3), {"optimizer": "adam"}),
        (
            KP(seed=3),
            {"schedule": "steplr", "schedule_options": {"step_size": 1}, "patience": 9},
        ),
        (parse_rule("forward-gradient(seed=2)"), {"optimizer": "rmsprop"}),
        (parse_rule("weight-mirror(seed=2)"), {"optimizer_options": {"lr": 0.01}}),
        (parse_rule("align-zero"), {"schedule": "reducelronplateau"}),
        (parse_rule("stale(delay=4)"), {"optimizer": "adamw", "precision": "bfloat16"}),
    ],
    ids=lambda value: getattr(value, "label", ""),
)
def test_a_killed_training_ends_with_the_bits_of_an_unbroken_one(
    tmp_path: Path, rule: Rule, options: dict[str, Any], killed: int
) -> None:
    kept = tmp_path / "kept.pt"
    unbroken = trained(rule, recipe(**options))
    with pytest.raises(KilledError):
        trained(rule, recipe(**options), kept, killed)
    assert kept.exists() == (killed >= BATCHES)
    torch.manual_seed(99)
    assert same_bits(unbroken, trained(rule, recipe(**options), kept))
    assert list(tmp_path.iterdir()) == [], "what was kept is removed at the end"


def test_a_training_that_is_killed_twice_and_in_its_progress_goes_on(tmp_path: Path) -> None:
    kept, told = tmp_path / "kept.pt", []

    def die(_label: str, done: int, _total: int) -> None:
        told.append(done)
        if len(told) in {1, 3}:
            raise KilledError

    for _ in range(2):
        with pytest.raises(KilledError):
            trained(DFA(), recipe(), kept, progress=die)
    assert same_bits(trained(DFA(), recipe()), trained(DFA(), recipe(), kept, progress=die))
    assert told == [1, 2, 3, 4]


def test_what_was_kept_stays_for_a_caller_who_still_writes(tmp_path: Path) -> None:
    kept, told = tmp_path / "kept.pt", []
    first = trained(DFA(), recipe(), kept, keep_ended=True)
    assert kept.exists()
    again = trained(DFA(), recipe(), kept, progress=lambda *done: told.append(done))
    assert same_bits(first, again)
    assert told == [], "no epoch was made again"
    assert not kept.exists()


PROGRAM = """
import sys, time
from tests.training.test_resuming import DFA, recipe, trained, _resuming
_resuming.SHARE = 1e9
trained(DFA(seed=3), recipe(), sys.argv[1], progress=lambda *_: time.sleep(0.3))
"""


def test_a_process_that_is_killed_leaves_what_another_goes_on_with(tmp_path: Path) -> None:
    kept = tmp_path / "kept.pt"
    home = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(kept)],
        cwd=home,
        env=os.environ | {"PYTHONPATH": str(home)},
    )
    deadline = time.monotonic() + 120
    while not kept.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert kept.exists()
    assert same_bits(trained(DFA(seed=3), recipe()), trained(DFA(seed=3), recipe(), kept))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"recipe": recipe(order_seed=4)}, "with order_seed 0, and this one has 4"),
        ({"recipe": recipe(epochs=9)}, "with epochs 4, and this one has 9"),
        ({"rule": FA(seed=3)}, "with rule 'dfa', and this one has 'fa'"),
        ({"rule": DFA(seed=4)}, "seeds"),
        ({"init": 1}, "with other initial weights"),
        ({"data": (samples()[0] + 1, samples()[1])}, "with other data"),
    ],
)
def test_another_training_does_not_go_on_with_what_was_kept(
    tmp_path: Path, options: dict[str, Any], text: str
) -> None:
    kept = tmp_path / "kept.pt"
    with pytest.raises(KilledError):
        trained(DFA(seed=3), recipe(), kept, 4)
    with pytest.raises(InputError, match=text) as refused:
        trained(**({"rule": DFA(seed=3), "recipe": recipe(), "keep": kept} | options))
    assert "\n" not in str(refused.value)
    assert kept.exists()


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"nothing of the kind"),
        lambda path: torch.save({"weights": torch.ones(2)}, path),
        lambda path: torch.save([1, 2], path),
        lambda path: torch.save({"same": KilledError}, path),
    ],
)
def test_a_file_of_another_kind_is_refused_in_one_line(
    tmp_path: Path, write: Callable[[Path], object]
) -> None:
    write(tmp_path / "kept.pt")
    with pytest.raises(InputError, match="is no training that was kept") as refused:
        trained(BP(), recipe(), tmp_path / "kept.pt")
    assert "\n" not in str(refused.value)
