"""`byhand` with `--device cuda`, on the CUDA kernels for the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byhand.cli.main import main
from byhand.training.log import read_log
from byhand.training.trainer import Diverged
from tests.training import small


def losses(folder: Path) -> list[float]:
    return [r.get("loss", r.get("validation_loss")) for r in read_log(folder / "log.jsonl")]


@pytest.mark.parametrize("settings", [{"dropout": 0.0}, {"dropout": 0.2, "accumulate": 2}], ids=str)
def test_a_run_is_that_of_the_cpu_and_can_be_resumed(settings, cupy, tmp_path):
    config = small.config(**settings, steps=30, eval_every=20)
    for device in ("cpu", "cuda"):
        small.new_trainer(tmp_path / device, config, device).run()
    np.testing.assert_allclose(losses(tmp_path / "cuda"), losses(tmp_path / "cpu"), rtol=1e-4)

    parts = tmp_path / "parts"
    trainer = small.new_trainer(parts, config, "cuda")
    small.stop_after(trainer, 16)  # where the losses have come back for the first time
    trainer.run()
    assert trainer.step == 16
    small.resumed_trainer(parts, device="cuda").run()
    assert small.same_runs(tmp_path / "cuda", parts)


def test_a_run_changes_the_device(cupy, tmp_path):
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
        for command in (["eval", str(run)], ["generate", str(run), "--tokens", "30"]):
            assert main([*command, "--device", device]) == 0
            said.setdefault(command[0], []).append(capsys.readouterr().out)
    losses = [float(line.split()[1]) for line in said["eval"]]
    assert losses[0] == pytest.approx(losses[1], abs=0.01)
    assert len(said["generate"][0]) == len(said["generate"][1]) == 31


def test_a_loss_that_is_no_number_ends_the_run_after_the_step_before(cupy, tmp_path):
    config = small.config(dropout=0.0, steps=20, eval_every=20)
    trainer = small.new_trainer(tmp_path / "run", config, "cuda")
    assert trainer.graph is not None
    step, calls = trainer.graph._update, []

    def update(dloss: float) -> None:
        step(dloss)
        calls.append(dloss)
        if len(calls) == 2:
            trainer.model.arena.values[5] = float("nan")

    trainer.graph._update = update  # type: ignore[method-assign]
    with pytest.raises(Diverged, match=r"^training stopped after step 2: the training loss is nan"):
        trainer.run()
    assert [r["step"] for r in read_log(tmp_path / "run" / "log.jsonl")] == [0, 1, 2]
