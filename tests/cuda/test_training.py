"""`byhand` with `--device cuda`, on the CUDA kernels for the CPU."""

from __future__ import annotations

import gc
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byhand import backend
from byhand.cli.main import main
from byhand.runs.checkpoint import read
from byhand.runs.log import read_log
from byhand.training import Callback, Diverged, Trainer
from tests.training import small


def losses(folder: Path) -> list[float]:
    return [r.get("loss", r.get("validation_loss")) for r in read_log(folder / "log.jsonl")]


@pytest.mark.parametrize("settings", [{"dropout": 0.0}, {"dropout": 0.2, "accumulate": 2}], ids=str)
def test_a_run_equals_that_of_the_cpu_and_can_be_resumed(settings, cupy, tmp_path):
    config = small.config(**settings, steps=30, eval_every=20)
    for device in ("cpu", "cuda"):
        small.new_trainer(tmp_path / device, config, device).run()
    np.testing.assert_allclose(losses(tmp_path / "cuda"), losses(tmp_path / "cpu"), rtol=1e-4)

    parts = tmp_path / "parts"
    trainer = small.new_trainer(parts, config, "cuda")
    small.stop_after(trainer, 16)  # where the losses are read for the first time
    trainer.run()
    assert trainer.step == 16
    small.resumed_trainer(parts, device="cuda").run()
    assert small.same_runs(tmp_path / "cuda", parts)


def test_a_resumed_run_can_change_the_device(cupy, tmp_path):
    config = small.config(dropout=0.0, steps=20, eval_every=10)
    small.new_trainer(tmp_path / "whole", config).run()
    parts = tmp_path / "parts"
    for i, device in enumerate(("cuda", "cpu", "cuda")):
        trainer = (
            small.resumed_trainer(parts, device=device)
            if i
            else small.new_trainer(parts, config, device)
        )
        if i < 2:
            small.stop_after(trainer, 10 + i)
        trainer.run()
    np.testing.assert_allclose(losses(parts), losses(tmp_path / "whole"), rtol=1e-4)


def test_the_commands(cupy, tmp_path, capsys):
    text, run = tmp_path / "text.txt", tmp_path / "run"
    text.write_text(small.text())
    flags = ["--out", str(run), "--steps", "20", "--lr", "0.02", *small.SIZES]
    assert main(["train", str(text), "--device", "cuda", "--precision", "bf16", *flags]) == 0
    assert "on the GPU, in bf16" in capsys.readouterr().out
    said: dict[str, Any] = {}
    for device in ("cpu", "cuda"):
        for command in (["eval", str(run)], ["generate", str(run), "--max-new-tokens", "30"]):
            assert main([*command, "--device", device]) == 0
            said.setdefault(command[0], []).append(capsys.readouterr().out)
    losses = [float(line.split()[1]) for line in said["eval"]]
    assert losses[0] == pytest.approx(losses[1], abs=0.01)
    assert len(said["generate"][0]) == len(said["generate"][1]) == 31


def in_a_weight(trainer: Trainer) -> None:
    trainer.model.decoder.blocks[0].ffn.up.bias.value[5] = float("nan")


def in_a_gradient(trainer: Trainer) -> None:
    trainer.model.decoder.blocks[0].norm1.weight.grad[2] = float("nan")


class Damage(Callback):
    """Damages the trainer once, at an event of a step, and notes the weights before."""

    def __init__(self, event: str, step: int, damage: Any, weights: list[Any]):
        self.step, self.damage, self.weights, self.done = step, damage, weights, False
        setattr(self, event, self.strike)

    def strike(self, trainer: Trainer, batch: Any = None) -> None:
        if trainer.step == self.step and not self.done:
            self.done = True
            self.weights.append(backend.to_numpy(trainer.model.storage.values).copy())
            self.damage(trainer)


@pytest.mark.deep
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            in_a_weight,
            "training loss is nan, because decoder.blocks.0.ffn.up.bias is not finite "
            "(NaN in 1 of 32 numbers); ",
        ),
        (
            in_a_gradient,
            "gradient's norm is nan, because the gradient of decoder.blocks.0.norm1.weight is not "
            "finite (NaN in 1 of 8 numbers), though all weights are; ",
        ),
    ],
)
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("clip", [1.0, 0.0])
@pytest.mark.parametrize("step", [1, 17])  # 4 and 0 steps follow before the next read
def test_the_non_finite_tensor_is_named(step, clip, accumulate, damage, sentence, cupy, tmp_path):
    config = small.config(
        dropout=0.1, steps=20, eval_every=6, accumulate=accumulate, clip=clip, lr=0.01
    )
    weights = []
    for device in ("cpu", "cuda"):
        folder = tmp_path / device
        trainer = small.new_trainer(folder, config, device)
        # A graph has zeroed the gradients after the step before; a step on the CPU zeroes them
        # first, so they are damaged after its first forward pass.
        at = "on_load" if device == "cuda" or damage is in_a_weight else "on_forward"
        trainer.callbacks.append(Damage(at, step, damage, weights))
        with pytest.raises(Diverged) as error:
            trainer.run()
        said = str(error.value)
        assert said.startswith(f"training stopped after step {step}: the {sentence}")
        assert said.endswith(f"; the checkpoint of step {step // 6 * 6} is saved")
        # Every finite step is logged, and no update is made from a gradient that is not finite.
        assert read_log_steps(folder) == list(range(1, step + 1))
        assert trainer.optimizer.step_count == step
        after = backend.to_numpy(trainer.model.storage.values)
        assert np.count_nonzero(after != weights[-1]) == (damage is in_a_weight)
        assert small.resumed_trainer(folder, device=device).run() is None
    np.testing.assert_allclose(weights[0], weights[1], rtol=1e-3, atol=1e-4)


def read_log_steps(folder: Path) -> list[int]:
    return [r["step"] for r in read_log(folder / "log.jsonl") if "loss" in r]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_divergence_names_the_same_layer_on_both_devices(accumulate, cupy, tmp_path):
    settings = {"lr": 1e30, "min_lr": 0.0, "warmup": 0, "accumulate": accumulate}
    said = []
    for device in ("cpu", "cuda"):
        trainer = small.new_trainer(tmp_path / device, small.config(**settings), device)
        with pytest.raises(Diverged) as error:
            trainer.run()
        said.append(str(error.value))
        assert np.isfinite(backend.to_numpy(trainer.model.storage.values)).all()
        for which in ("best", "last"):
            saved = read(tmp_path / device / f"{which}.safetensors")
            assert all(np.isfinite(tensor).all() for tensor in saved.tensors.values())
    assert said[0] == said[1]


def test_the_memory_is_reported_once(cupy, tmp_path):
    trainer = small.new_trainer(tmp_path, small.config(), "cuda")
    trainer.run()
    (line,) = [line for line in trainer.display.lines if line.startswith("memory")]
    size = trainer.model.num_parameters()
    assert line == (
        f"memory on the GPU: {16 * size / 1e6:,.1f} MB for weights, gradients and optimizer state, "
        f"{trainer.take_step.planned_bytes / 1e6:,.1f} MB for the activations of a step"
    )


def test_a_gpu_without_enough_memory_is_one_sentence(cupy, tmp_path, capsys):
    text, machine = tmp_path / "text.txt", cupy.machine
    text.write_text(small.text())
    flags = ["--steps", "5", *small.SIZES, "--device", "cuda"]
    assert main(["train", str(text), "--out", str(tmp_path / "enough"), *flags]) == 0
    capsys.readouterr()
    for memory, begun in ((machine.most_used // 4, False), (machine.most_used - 1, True)):
        gc.collect()
        machine.memory, run = machine.used + memory, tmp_path / str(memory)
        assert main(["train", str(text), "--out", str(run), *flags]) == 2
        assert re.fullmatch(
            r"byhand: the GPU has not enough memory for this \(Out of memory allocating .* bytes\)"
            r"\): a smaller --batch .*, and so does --recompute\n",
            capsys.readouterr().err,
        )
        assert (run / "last.safetensors").exists() == begun
