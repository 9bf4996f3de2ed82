"""The reference trainer: any rule, on any model that can be measured."""

from __future__ import annotations

from alignlab.training._checkpoint import Best, Training, restore_best, save_checkpoint
from alignlab.training._loop import train
from alignlab.training._plan import Plan
from alignlab.training._recipe import Recipe
from alignlab.training._run import train_into
from alignlab.training._steps import Moment

__all__ = [
    "Best",
    "Moment",
    "Plan",
    "Recipe",
    "Training",
    "restore_best",
    "save_checkpoint",
    "train",
    "train_into",
]
