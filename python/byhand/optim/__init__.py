"""Optimizers and learning-rate schedules."""

from byhand.optim.adamw import AdamW
from byhand.optim.clip import clip_grad_norm
from byhand.optim.schedule import warmup_cosine

__all__ = ["AdamW", "clip_grad_norm", "warmup_cosine"]
