"""Training a task: steps, evaluation, and the loop that saves and resumes."""

from byhand.runs.settings import TrainingSettings, sensible_warmup
from byhand.training.callback import Callback
from byhand.training.evaluate import evaluate
from byhand.training.finite import Diverged
from byhand.training.graph import GraphStep
from byhand.training.setup import text_trainer
from byhand.training.step import EagerStep
from byhand.training.trainer import Trainer

__all__ = [
    "Callback",
    "Diverged",
    "EagerStep",
    "GraphStep",
    "Trainer",
    "TrainingSettings",
    "evaluate",
    "sensible_warmup",
    "text_trainer",
]
