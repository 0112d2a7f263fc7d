"""Tasks: what is learned from what, one file each. The folder is the registry."""

from byhand.tasks.classification import Classification
from byhand.tasks.language_model import LanguageModel
from byhand.tasks.task import Task

__all__ = ["Classification", "LanguageModel", "Task"]
