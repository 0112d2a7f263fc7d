"""Training a language model, and the folder in which a run lives."""

from byhand.training.config import Corpus, RunConfig
from byhand.training.evaluate import mean_loss
from byhand.training.finite import Diverged
from byhand.training.load import Trained, load
from byhand.training.run import Run
from byhand.training.settings import TrainingSettings, sensible_warmup
from byhand.training.trainer import Trainer

__all__ = [
    "Corpus",
    "Diverged",
    "Run",
    "RunConfig",
    "Trained",
    "Trainer",
    "TrainingSettings",
    "load",
    "mean_loss",
    "sensible_warmup",
]
