"""Optimizers and learning-rate schedules."""

from .adamw import AdamW
from .clip import clip_grad_norm
from .schedule import warmup_cosine

__all__ = ["AdamW", "clip_grad_norm", "warmup_cosine"]
