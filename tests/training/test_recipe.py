"""What a recipe says is what happens, each seed for its own thing, and nothing else is taken."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab.errors import AlignlabError, DivergedError, InputError, MissingError
from alignlab.rules import BP, DFA, KP
from alignlab.training import Recipe, Training, restore_best, train


def samples(n: int = 60) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    return torch.randn(n, 6, generator=stream), torch.randint(4, (n,), generator=stream)


def network(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Dropout(dropout), nn.Linear(9, 4))


def trained(
    *, dropout: float = 0.0, rule: Any = None, held: Any = None, **options: Any
) -> tuple[nn.Module, Training]:
    model, (x, y) = network(dropout), samples()
    recipe = Recipe(**{"epochs": 3, "batch_size": 20, **options})
    rule = rule or DFA(seed=1)
    return model, train(model, F.cross_entropy, x=x, y=y, rule=rule, recipe=recipe, held=held)


def equal(one: nn.Module, other: nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(("share", "classes"), [(0.3, 10), (1.0, 4), (0.1, 2)])
def test_label_noise_makes_its_share_of_the_targets_wrong(share: float, classes: int) -> None:
    y = torch.arange(40_000) % classes
    noisy = Recipe(epochs=1, label_noise=share, noise_seed=3).targets(y)
    expected = share * (1 - 1 / classes)
    spread = math.sqrt(expected * (1 - expected) / len(y))
    wrong = float((noisy != y).double().mean())
    assert abs(wrong - expected) < 5 * spread
    assert noisy.dtype == y.dtype
    assert noisy.unique().tolist() == list(range(classes))


def test_no_label_noise_leaves_the_targets_themselves() -> None:
    y = torch.arange(7)
    assert Recipe(epochs=1, noise_seed=3).targets(y) is y


@pytest.mark.parametrize("y", [torch.rand(9), torch.zeros(9, 2, dtype=torch.long)])
def test_label_noise_needs_classes(y: Tensor) -> None:
    with pytest.raises(InputError, match="one class a sample"):
        Recipe(epochs=1, label_noise=0.5).targets(y)


@pytest.mark.parametrize(
    ("seed", "counts"),
    [
        ("order_seed", {"batch_size": 20}),
        ("noise_seed", {"label_noise": 0.5}),
        ("dropout_seed", {"dropout": 0.5}),
    ],
)
def test_a_seed_changes_its_own_thing_and_nothing_else(seed: str, counts: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"batch_size": 60, "rule": BP()}
    assert not equal(trained(**(usual | counts))[0], trained(**(usual | counts | {seed: 1}))[0])
    others = {
        name: value
        for name, value in {"label_noise": 0.5, "dropout": 0.5}.items()
        if name not in counts
    }
    if seed != "order_seed":
        assert equal(trained(**(usual | others))[0], trained(**(usual | others | {seed: 1}))[0])
        return
    one, other = (trained(**(usual | {seed: k}))[1].losses for k in (0, 1))
    assert one == pytest.approx(other, rel=1e-5), "a batch of all samples has no order"


@pytest.mark.parametrize("state", [0, 1])
def test_the_global_random_state_neither_matters_nor_moves(state: int) -> None:
    expected, _ = trained(dropout=0.5)
    model, (x, y) = network(0.5), samples()
    torch.manual_seed(state)
    before = torch.get_rng_state()
    recipe = Recipe(epochs=3, batch_size=20)
    train(model, F.cross_entropy, x=x, y=y, rule=DFA(seed=1), recipe=recipe)
    assert torch.equal(before, torch.get_rng_state())
    assert equal(model, expected)


@pytest.mark.parametrize("name", ["adam", "Adam", "RMSprop", "adagrad", "nadam"])
def test_an_optimizer_is_that_of_torch(name: str) -> None:
    model, done = trained(rule=BP(), optimizer=name, optimizer_options={"lr": 0.01})
    plain, (x, y) = network(), samples()
    kinds = {kind.lower(): getattr(torch.optim, kind) for kind in dir(torch.optim)}
    optimizer = kinds[name.lower()](plain.parameters(), lr=0.01)
    order = torch.Generator().manual_seed(0)
    for _ in range(3):
        for chosen in torch.randperm(60, generator=order).split(20):
            optimizer.zero_grad()
            F.cross_entropy(plain(x[chosen]), y[chosen]).backward()
            optimizer.step()
    assert equal(model, plain)
    assert done.options["optimizer"] == name
    assert done.options["optimizer_options"] == {"lr": 0.01}


def test_a_schedule_is_stepped_once_an_epoch() -> None:
    schedule = {"schedule": "multisteplr", "schedule_options": {"milestones": [1], "gamma": 0.0}}
    assert equal(trained(epochs=1)[0], trained(epochs=3, **schedule)[0])


def test_sgd_has_a_rate_and_momentum_of_its_own_and_others_have_those_of_torch() -> None:
    assert Recipe(epochs=1).options()["optimizer_options"] == {"lr": 0.1, "momentum": 0.9}
    assert Recipe(epochs=1, optimizer="adam").options()["optimizer_options"] == {}


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"epochs": -1}, InputError, "-1 epochs"),
        ({"batch_size": 0}, InputError, "0 samples"),
        ({"label_noise": 1.5}, InputError, "1.5 of the targets"),
        ({"precision": "float16"}, InputError, "no precision 'float16'"),
        ({"patience": 0}, InputError, "patience of 0"),
        ({"patience": 2}, InputError, "needs data that are held out"),
        (
            {"optimizer": "sdg"},
            MissingError,
            "no optimizer 'sdg' here; of torch's there are adadelta",
        ),
        ({"optimizer": "optimizer"}, MissingError, "no optimizer"),
        ({"optimizer": "lbfgs"}, MissingError, "no optimizer 'lbfgs'"),
        ({"optimizer": "adam", "optimizer_options": {"momentum": 0.9}}, InputError, "momentum=0.9"),
        ({"optimizer_options": {"lr": "fast"}}, InputError, "sgd cannot be made with lr='fast'"),
        ({"optimizer_options": {"lr": -1.0}}, InputError, "Invalid learning rate"),
        ({"optimizer_options": {"lr": torch.ones(1)}}, InputError, "numbers, words"),
        ({"schedule": "stepl"}, MissingError, "no schedule 'stepl' here; of torch's there are "),
        ({"schedule": "steplr"}, InputError, "steplr cannot be made with no arguments"),
        ({"schedule": "lambdalr", "schedule_options": {"lr_lambda": abs}}, InputError, "numbers"),
        ({"frozen": ("0.wieght",)}, InputError, "no parameter '0.wieght'"),
        (
            {"frozen": ("0.weight", "0.bias", "3.weight", "3.bias")},
            InputError,
            "No parameter of Sequential learns",
        ),
    ],
)
def test_what_no_training_can_be_made_of_is_refused_in_one_line(
    options: dict[str, Any], kind: type[AlignlabError], text: str
) -> None:
    with pytest.raises(kind, match=text) as refused:
        trained(**options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("many", [0, 3])
def test_inputs_and_targets_are_as_many(many: int) -> None:
    x, y = samples()
    with pytest.raises(InputError, match=f"{many} inputs and 60 targets"):
        train(network(), F.cross_entropy, x=x[:many], y=y, rule=BP(), recipe=Recipe(epochs=1))


def test_training_ends_at_the_loss_where_it_is_to_stop() -> None:
    _, whole = trained(rule=BP(), epochs=8)
    _, short = trained(rule=BP(), epochs=8, stop_loss=whole.losses[3])
    assert short.losses == whole.losses[:4]


def test_the_last_batch_is_left_out_where_that_is_asked_for() -> None:
    x, y = samples()
    steps: list[int] = []
    for drop in (False, True):
        done = train(
            *(network(), F.cross_entropy),
            **{"x": x, "y": y, "rule": BP(), "watch": lambda _: {}},
            recipe=Recipe(epochs=1, batch_size=25, drop_last=drop),
        )
        steps.append(done.history[-1]["step"])
    assert steps == [3, 2]


def test_held_out_data_are_measured_after_every_epoch_and_change_nothing() -> None:
    held = samples(30)
    model, done = trained(dropout=0.5, held=held)
    assert equal(model, trained(dropout=0.5)[0])
    assert len(done.held_losses) == len(done.held_accuracies) == 3
    with torch.no_grad():
        output = model.eval()(held[0])
    assert done.held_losses[-1] == pytest.approx(F.cross_entropy(output, held[1]).item(), rel=1e-6)
    expected = float((output.argmax(1) == held[1]).double().mean())
    assert done.held_accuracies[-1] == pytest.approx(expected)


def test_patience_ends_a_training_whose_held_out_loss_no_longer_falls() -> None:
    x, y = samples(30)
    _, whole = trained(rule=BP(), epochs=60, held=(x + 1, y.flip(0)))
    losses = whole.held_losses
    stop = next(k for k in range(60) if k - losses[: k + 1].index(min(losses[: k + 1])) >= 3)
    _, short = trained(rule=BP(), epochs=60, held=(x + 1, y.flip(0)), patience=3)
    assert len(short.losses) == stop + 1 < 60
    assert short.held_losses == losses[: stop + 1]


def test_autocast_trains_by_direct_feedback_with_weights_in_full_precision() -> None:
    full, half = (trained(precision=name, epochs=9) for name in ("float32", "bfloat16"))
    assert all(p.dtype == torch.float32 for p in half[0].parameters())
    assert not equal(full[0], half[0])
    assert half[1].losses[-1] == pytest.approx(full[1].losses[-1], rel=0.05)
    assert half[1].losses[-1] < half[1].losses[0]


@pytest.mark.parametrize("rule", [BP(), DFA()], ids=lambda rule: rule.name)
def test_a_training_that_diverges_says_so_by_its_kind(rule: Any) -> None:
    with pytest.raises(DivergedError, match=r"lower the learning rate \(lr\)"):
        trained(rule=rule, optimizer_options={"lr": 1e38})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 60, "optimizer_options": {"lr": 1e37}}, "after [12] steps?, in epoch"),
        ({"batch_size": 60, "epochs": 1, "optimizer_options": {"lr": 3e38}}, "after 1 step, "),
        ({"optimizer_options": {"lr": 0.1, "momentum": 99.0}, "epochs": 99}, "in epoch [0-9]+;"),
        ({"optimizer_options": {"lr": 0.1, "weight_decay": 1e37}}, "after [0-9]+ steps?, "),
    ],
)
def test_what_was_reached_before_a_training_diverged_is_told(
    options: dict[str, Any], text: str
) -> None:
    with pytest.raises(DivergedError, match=text) as raised:
        trained(rule=BP(), held=samples(), **options)
    reached = raised.value.reached
    assert reached.steps > 0
    assert len(reached.losses) == len(reached.held_losses)
    assert all(math.isfinite(loss) for loss in (*reached.losses, *reached.held_losses))


def test_data_without_a_finite_loss_are_not_blamed_on_the_learning_rate() -> None:
    x, y = samples()
    with pytest.raises(DivergedError, match="before the first step; look at the data"):
        train(network(), F.cross_entropy, x=x * math.nan, y=y, rule=BP(), recipe=Recipe(epochs=1))


def test_the_best_epoch_is_kept_and_restored_where_there_is_patience() -> None:
    x, y = samples(30)
    held = (x + 1, y.flip(0))
    model, done = trained(epochs=60, held=held, patience=3, rule=KP(seed=1))
    best = done.best
    assert best is not None
    assert best.epoch == done.held_losses.index(min(done.held_losses)) + 1
    short, expected = trained(epochs=best.epoch, held=held, rule=KP(seed=1))
    assert not equal(model, short)
    restored = restore_best(model, done)
    assert equal(model, short)
    assert (restored.losses, restored.steps) == (expected.losses, expected.steps)
    assert all(torch.equal(restored.feedback[k], v) for k, v in expected.feedback.items())
    assert expected.best is None
    with pytest.raises(InputError, match="with patience"):
        restore_best(model, expected)
