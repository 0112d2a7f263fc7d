"""Tasks: batches, loss and metrics, one file each; `byhand.registry` finds them by name."""

from byhand.tasks.classification import Classification
from byhand.tasks.language_model import LanguageModel
from byhand.tasks.masked_lm import MaskedLM
from byhand.tasks.pretraining import Pretraining
from byhand.tasks.regression import Regression
from byhand.tasks.span import Span
from byhand.tasks.task import Task
from byhand.tasks.token_classification import TokenClassification

__all__ = [
    "Classification",
    "LanguageModel",
    "MaskedLM",
    "Pretraining",
    "Regression",
    "Span",
    "Task",
    "TokenClassification",
]
