"""Building a trainer from a run's configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from byhand import optim, registry
from byhand.data import RandomSampler, TextData, TextSource
from byhand.training.trainer import Trainer

if TYPE_CHECKING:
    from byhand.nn import Module
    from byhand.runs.config import RunConfig
    from byhand.runs.progress import Display
    from byhand.runs.run import Run
    from byhand.runs.settings import TrainingSettings
    from byhand.text.tokenizer import Tokenizer


def schedule_of(settings: TrainingSettings) -> Callable[[int], float]:
    """The learning rate of each step of a run."""
    lr = settings.lr
    if settings.schedule == "constant":
        return optim.Constant(lr)
    if settings.schedule == "inverse_sqrt":
        return optim.InverseSqrt(lr, settings.warmup)
    if settings.schedule == "one_cycle":
        factors = settings.div_factor, settings.final_div_factor
        return optim.OneCycle(lr, settings.steps, settings.pct_start, *factors)
    if settings.schedule == "step_decay":
        every = settings.decay_every or max(1, settings.steps // 3)
        return optim.StepDecay(lr, every, settings.decay_factor)
    return optim.WarmupCosine(lr, settings.warmup, settings.steps, settings.min_lr)


def optimizer_of(settings: TrainingSettings, model: Module) -> optim.Optimizer:
    """The optimizer of a run, for its model."""
    lr, decay, momentum = settings.lr, settings.weight_decay, settings.momentum
    betas = (settings.beta1, settings.beta2)
    if settings.optimizer == "sgd":
        return optim.SGD(model, lr, momentum, weight_decay=decay)
    if settings.optimizer == "rmsprop":
        return optim.RMSprop(model, lr, betas[1], weight_decay=decay, momentum=momentum)
    if settings.optimizer == "adagrad":
        return optim.Adagrad(model, lr, weight_decay=decay)
    kind = optim.Adam if settings.optimizer == "adam" else optim.AdamW
    return kind(model, lr, betas, weight_decay=decay)


def text_trainer(
    config: RunConfig,
    tokenizer: Tokenizer,
    text: str | TextSource,
    run: Run | None = None,
    display: Display | None = None,
    device: str = "cpu",
    recompute: bool = False,
) -> Trainer:
    """A trainer, at step 0, for a language model on a text, or for another model of texts on what
    its task learns from.

    Args:
        config: of the run; its `tokenizer` and `data` describe the arguments `tokenizer`, `text`.
        run, display: as for `Trainer`.
        device: "cpu" or "cuda". It and `recompute` may differ when the run is resumed.
        recompute: keep only the inputs of the blocks for the backward pass: less memory, more time.

    UserError if the text is too short, CudaUnavailable if there is no GPU.
    """
    if config.task != "language_model":
        from byhand.training.encoders import encoder_trainer

        return encoder_trainer(config, tokenizer, text, run, display, device, recompute)
    settings = config.training
    source = TextSource.of(text)
    data = TextData(
        tokenizer.encode_blocks(source.blocks(), source.characters),
        config.model.context_size,  # type: ignore[attr-defined]
        settings.batch_size,
        settings.val_ratio,
        settings.eval_batches,
    )
    model = registry.find("models", config.kind).Model(
        config.model, seed=settings.seed, precision=settings.precision, recompute=recompute
    )
    if device != "cpu":
        model.to(device)
    return Trainer(
        registry.find("tasks", config.task).Task(model, tokenizer, settings.sample_tokens),
        data,
        RandomSampler(len(data.train), settings.batch_size, settings.seed),
        optimizer_of(settings, model),
        schedule_of(settings),
        settings,
        run,
        display,
    )
