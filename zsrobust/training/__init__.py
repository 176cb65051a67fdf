"""Training: recipes, the one loop, and checkpoints named by their recipe's digest."""

from zsrobust.training.checkpoints import (
    Checkpoint,
    sources,
    student_encoder,
    texts,
    trained_context,
    trained_encoder,
)
from zsrobust.training.loop import train
from zsrobust.training.recipes import GROUPS, Precision, Recipe
from zsrobust.training.steps import MinMax, Objective, Outputs, Step, Texts, objectives

__all__ = [
    "GROUPS",
    "Checkpoint",
    "MinMax",
    "Objective",
    "Outputs",
    "Precision",
    "Recipe",
    "Step",
    "Texts",
    "objectives",
    "sources",
    "student_encoder",
    "texts",
    "train",
    "trained_context",
    "trained_encoder",
]
