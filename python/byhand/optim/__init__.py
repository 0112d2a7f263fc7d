"""Optimizers and learning-rate schedules."""

from byhand.optim.adagrad import Adagrad
from byhand.optim.adamw import Adam, AdamW
from byhand.optim.clip import clip_grad_norm
from byhand.optim.ema import EMA
from byhand.optim.optimizer import Group, Optimizer
from byhand.optim.range_test import RangeTest, find_lr
from byhand.optim.rmsprop import RMSprop
from byhand.optim.schedule import Constant, InverseSqrt, OneCycle, StepDecay, WarmupCosine
from byhand.optim.sgd import SGD

__all__ = [
    "EMA",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Constant",
    "Group",
    "InverseSqrt",
    "OneCycle",
    "Optimizer",
    "RMSprop",
    "RangeTest",
    "StepDecay",
    "WarmupCosine",
    "clip_grad_norm",
    "find_lr",
]
