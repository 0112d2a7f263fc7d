"""What a training run leaves on the disk: its folder, configuration, checkpoints, log and plot."""

from byhand.runs.config import Corpus, RunConfig, Table, TokenizerId
from byhand.runs.load import Trained, load, load_trained
from byhand.runs.run import Run
from byhand.runs.settings import TrainingSettings, sensible_warmup

__all__ = [
    "Corpus",
    "Run",
    "RunConfig",
    "Table",
    "TokenizerId",
    "Trained",
    "TrainingSettings",
    "load",
    "load_trained",
    "sensible_warmup",
]
