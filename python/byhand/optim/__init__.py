"""Optimizers and learning-rate schedules."""

from byhand.optim.adamw import AdamW
from byhand.optim.clip import clip_grad_norm
from byhand.optim.optimizer import Group, Optimizer
from byhand.optim.schedule import Constant, WarmupCosine

__all__ = ["AdamW", "Constant", "Group", "Optimizer", "WarmupCosine", "clip_grad_norm"]
