"""Tasks: batches, loss and metrics, one file each; `byhand.registry` finds them by name."""

from byhand.tasks.classification import Classification
from byhand.tasks.language_model import LanguageModel
from byhand.tasks.regression import Regression
from byhand.tasks.task import Task

__all__ = ["Classification", "LanguageModel", "Regression", "Task"]
