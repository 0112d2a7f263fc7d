"""Runs with each optimizer and each schedule: the loss falls, and a stopped run goes on."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from byhand import nn, optim
from byhand.cli.main import main
from byhand.runs import TrainingSettings
from byhand.runs.checkpoint import read
from byhand.runs.settings import OPTIMIZERS, SCHEDULES
from byhand.training.setup import optimizer_of, schedule_of
from tests.training import small

RATES = {"adagrad": 0.05, "adam": 0.01, "adamw": 0.01, "rmsprop": 0.003, "sgd": 0.1}


def test_every_optimizer_has_a_rate_here():
    assert RATES.keys() == set(OPTIMIZERS)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_loss_falls_and_a_stopped_run_goes_on_bit_for_bit(
    tmp_path: Path, optimizer: str, momentum: float
):
    settings = {"optimizer": optimizer, "momentum": momentum, "lr": RATES[optimizer]}
    config = small.config(steps=80, eval_every=40, batch_size=8, min_lr=1e-3, **settings)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trainer = small.new_trainer(whole, config)
    assert type(trainer.optimizer).__name__.lower() == optimizer
    trainer.run()
    losses = [r["validation_loss"] for r in small.logged(whole) if "validation_loss" in r]
    assert losses[-1] < losses[0] - 0.1
    trainer = small.new_trainer(parts, config)
    small.stop_after(trainer, 37)
    assert trainer.run() is signal.SIGINT
    saved = read(parts / "last.safetensors").tensors
    slots = {name.split(".")[1] for name in saved if name.startswith("optimizer.")}
    assert slots == set(trainer.optimizer.slots)
    small.resumed_trainer(parts).run()
    assert small.same_runs(whole, parts)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_each_schedule_reaches_the_steps(tmp_path: Path, schedule: str):
    config = small.config(steps=12, eval_every=12, lr=0.02, min_lr=0.01, schedule=schedule)
    small.new_trainer(tmp_path, config).run()
    rates = [record["lr"] for record in small.logged(tmp_path) if "lr" in record]
    expected = {
        "constant": optim.Constant(0.02),
        "cosine": optim.WarmupCosine(0.02, 2, 12, 0.01),
        "inverse_sqrt": optim.InverseSqrt(0.02, 2),
        "one_cycle": optim.OneCycle(0.02, 12),
        "step_decay": optim.StepDecay(0.02, 4),
    }[schedule]
    assert rates == [expected(n) for n in range(12)]


def test_the_settings_reach_the_optimizer():
    settings = TrainingSettings(lr=0.3, beta1=0.5, beta2=0.7, momentum=0.6, weight_decay=0.2)
    model = nn.Linear(3, 2).build()
    expected = {
        "adagrad": {},
        "adam": {"betas": (0.5, 0.7)},
        "adamw": {"betas": (0.5, 0.7)},
        "rmsprop": {"alpha": 0.7, "momentum": 0.6},
        "sgd": {"momentum": 0.6, "nesterov": False},
    }
    for name, special in expected.items():
        made = optimizer_of(settings.replace(optimizer=name), model)
        assert type(made).__name__.lower() == name
        for setting, value in {"lr": 0.3, "weight_decay": 0.2, **special}.items():
            assert getattr(made, setting) == value
    assert schedule_of(settings) == optim.WarmupCosine(0.3, 100, 2000, 1e-4)


def test_the_command_line_chooses_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text = tmp_path / "text.txt"
    text.write_text(small.text())
    out = tmp_path / "run"
    command = ["train", str(text), "--out", str(out), *small.SIZES, "--steps", "2"]
    assert main([*command, "--optimizer", "sgd", "--schedule", "constant", "--lr", "0.5"]) == 0
    state = read(out / "last.safetensors").state["config"]["training"]
    assert (state["optimizer"], state["schedule"], state["momentum"]) == ("sgd", "constant", 0.9)
    capsys.readouterr()
    for flag, wrong, near in (("--optimizer", "adamv", "adamw"), ("--schedule", "cosin", "cosine")):
        assert main([*command, flag, wrong]) == 2
        err = capsys.readouterr().err
        assert wrong in err
        assert near in err
        assert "Traceback" not in err


def test_runs_from_before_the_choice_have_adamw_and_a_cosine():
    data = TrainingSettings().to_dict()
    of_schedules = ("decay_every", "decay_factor", "pct_start", "div_factor", "final_div_factor")
    for name in ("optimizer", "schedule", "momentum", *of_schedules):
        del data[name]
    settings = TrainingSettings.from_dict(data)
    assert (settings.optimizer, settings.schedule) == ("adamw", "cosine")
    assert settings == TrainingSettings()


def test_the_average_is_better_than_weights_that_jump():
    """An EMA of noisy steps around a minimum lies nearer to it than the weights do."""
    model = nn.Linear(20, 5, bias=False).build(0, dtype="float64")
    optimizer, ema = optim.SGD(model, 0.5), optim.EMA(model, 0.95)
    rng = np.random.default_rng(0)
    for _ in range(300):
        model.storage.grads[...] = model.storage.values + rng.standard_normal(100)
        optimizer.step()
        ema.update()
    own = float(np.linalg.norm(model.storage.values))
    with ema.applied():
        averaged = float(np.linalg.norm(model.storage.values))
    assert averaged < 0.5 * own
