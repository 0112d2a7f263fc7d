"""Training settings."""

from __future__ import annotations

from byhand.backend import PRECISIONS
from byhand.config import (
    Settings,
    choice,
    config,
    fraction,
    non_negative,
    non_negative_int,
    positive,
    positive_int,
    probability,
)

OPTIMIZERS = ("adagrad", "adam", "adamw", "rmsprop", "sgd")
SCHEDULES = ("constant", "cosine", "inverse_sqrt", "one_cycle", "step_decay")

# A setting -> the setting that decides whether it has an effect, and the values with which it has.
USED_WITH = {
    "min_lr": ("schedule", ("cosine",)),
    "warmup": ("schedule", ("cosine", "inverse_sqrt")),
    "decay_every": ("schedule", ("step_decay",)),
    "decay_factor": ("schedule", ("step_decay",)),
    "pct_start": ("schedule", ("one_cycle",)),
    "div_factor": ("schedule", ("one_cycle",)),
    "final_div_factor": ("schedule", ("one_cycle",)),
    "beta1": ("optimizer", ("adam", "adamw")),
    "beta2": ("optimizer", ("adam", "adamw", "rmsprop")),
    "momentum": ("optimizer", ("rmsprop", "sgd")),
}


@config
class TrainingSettings(Settings):
    """Everything about a training run but the model and the data. UserError names a wrong setting.

    A step is one update of the weights, from `batch_size * accumulate` examples. `optimizer` and
    `schedule` are classes of `byhand.optim`. With the schedule "cosine" the learning rate rises
    linearly over `warmup` steps to `lr` and falls along half a cosine to `min_lr` at the last step
    (Loshchilov & Hutter, 2017); "inverse_sqrt" has a warm-up too, and the others have none.
    `decay_every` (None: a third of `steps`) and `decay_factor` are of "step_decay"; `pct_start`,
    `div_factor` and `final_div_factor` of "one_cycle".
    """

    steps: int = positive_int(2000, help="updates of the weights", default_text="")
    batch_size: int = positive_int(
        12,
        help="examples (for a text: windows) in one forward and backward pass",
        flag="--batch",
        default_text="",
    )
    accumulate: int = positive_int(
        1, help="passes whose gradients are added up for one update of the weights"
    )
    lr: float = positive(1e-3, help="the highest learning rate", default_text="")
    min_lr: float = non_negative(
        1e-4, help="the learning rate at the end", default_text="a tenth of --lr"
    )
    warmup: int = non_negative_int(
        100,
        help="first steps, in which the learning rate rises",
        default_text="100, at most a tenth of --steps",
    )
    schedule: str = choice(
        SCHEDULES,
        "cosine",
        help="how the learning rate changes: with cosine and inverse_sqrt after the warm-up",
        absent="cosine",  # in runs from before there was a choice
    )
    decay_every: int | None = positive_int(
        None,
        help="step_decay: steps after which the learning rate is multiplied by --decay-factor",
        default_text="a third of --steps",
        absent=None,
    )
    decay_factor: float = fraction(
        0.1, help="step_decay: what the learning rate is multiplied by", absent=0.1
    )
    pct_start: float = probability(
        0.3, help="one_cycle: the part of the steps in which the learning rate rises", absent=0.3
    )
    div_factor: float = positive(
        25.0, help="one_cycle: --lr divided by it is the first learning rate", absent=25.0
    )
    final_div_factor: float = positive(
        1e4, help="one_cycle: the first learning rate divided by it is the last one", absent=1e4
    )
    optimizer: str = choice(
        OPTIMIZERS, "adamw", help="how weights follow their gradients", absent="adamw"
    )
    beta1: float = probability(0.9, help="AdamW and Adam: decay rate of the mean gradient")
    beta2: float = probability(
        0.99,
        help="AdamW, Adam and RMSprop: decay rate of the mean squared gradient",
    )
    momentum: float = non_negative(0.9, help="SGD and RMSprop: momentum, 0 for none", absent=0.9)
    weight_decay: float = non_negative(
        0.1, help="how fast weight matrices decay to zero; a penalty in the gradient but for AdamW"
    )
    clip: float = non_negative(
        1.0, help="the largest norm of the gradient; a larger one is scaled down, 0 allows any"
    )
    eval_every: int = positive_int(
        250, help="steps between evaluations, each of which saves", default_text=""
    )
    eval_batches: int = positive_int(40, help="batches of validation data in an evaluation")
    sample_tokens: int = non_negative_int(200, help="tokens that the model writes at an evaluation")
    val_ratio: float = fraction(
        0.1, help="the part of the data kept for validation; of a text, the end"
    )
    seed: int = non_negative_int(0, help="the same seed gives the same run")
    precision: str = choice(
        PRECISIONS,
        "float32",
        help="what matrix products are computed in: bf16 rounds their factors to bfloat16, which "
        "is faster where the processor has instructions for it",
        absent="float32",  # in runs from before there was a choice
    )

    def check(self) -> None:
        self.require(self.min_lr <= self.lr, "min_lr", f"at most lr = {self.lr}")
        self.require(self.warmup <= self.steps, "warmup", f"at most steps = {self.steps}")


def sensible_warmup(steps: int, wanted: int = 100) -> int:
    """`wanted` warm-up steps, but never more than a tenth of the run."""
    return min(wanted, steps // 10)
