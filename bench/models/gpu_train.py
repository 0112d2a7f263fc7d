"""Training steps of a GPT on a GPU in bf16: byhand's captured graph and PyTorch's steps in turns.

    python -m bench.models.gpu_train [PRESET] [--batch N] [--rounds N] [--no-compile] [--data FILE]
                                     [--out FOLDER]

All contestants start from the same weights and get the same batches of random tokens; their first
losses must agree, or nothing is timed. PyTorch is its autocast with fused AdamW and the flash
attention it chooses itself, eager and by torch.compile. A round is a few steps of each contestant,
from the tokens in the host's memory to the losses there. Utilisation is

    (6 P + 12 L C T) tokens a second / the rate of PyTorch's product of two 8192 x 8192 matrices

measured in the same run, where P is the number of parameters that multiply (Chowdhery et al. 2022,
appendix B). gpt2's vocabulary is padded to 50304, as nanoGPT pads it. With --data the preset is
also trained on that text, by `byhand train`, and the seconds to each validation loss are kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import circumstances, described, folder_of, in_turns
from byhand import GPT, GPTConfig, optim, tasks
from byhand.cli import bench
from byhand.models.gpt import PRESETS
from byhand.runs.log import read_log
from byhand.tasks.task import Batch
from byhand.training.graph import GraphStep

SIZES = {"gpt2": dict(vocabulary=50304, context=1024, batch=32)}
ADAMW = dict(lr=6e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
STEPS = 8  # of a round
AGREED = 0.02  # the most that losses may differ, because bf16 rounds at different places

# Steps on these batches -> their losses, when all is done.
Train = Callable[[Sequence[Batch]], list[float]]


class Disagreement(RuntimeError):
    """The first losses of two contestants differ: they do not train the same model."""


def ours(model: GPT) -> Train:
    optimizer = optim.AdamW(model, **ADAMW)
    step = GraphStep(tasks.LanguageModel(model), optimizer, clip_norm=1.0, capacity=STEPS)

    def train(batches: Sequence[Batch]) -> list[float]:
        for batch in batches:
            step([batch])
        return [loss for loss, _ in step.read()]

    return train


def torchs(model: GPT, device: str, compiled: bool) -> Train:
    """A copy of the model in PyTorch on `device`; the model must be on the CPU."""
    import torch

    from byhand.cli.bench_torch import adamw, twin_of

    twin = twin_of(model).to(device)
    optimizer = adamw(twin, **ADAMW, fused=True)
    compute_loss = torch.compile(twin.loss) if compiled else twin.loss

    def train(batches: Sequence[Batch]) -> list[float]:
        losses = []
        for batch in batches:
            arrays = (batch["ids"], batch["targets"])
            x, y = (torch.from_numpy(a).to(device, non_blocking=True) for a in arrays)
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = compute_loss(x, y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
        return torch.stack(losses).tolist()

    return train


def contestant(who: str, config: GPTConfig, device: str) -> Train:
    model = GPT(config, seed=1, precision="bf16")
    if who == "byhand":
        return ours(model.to("cuda"))
    return torchs(model, device, compiled=who == "PyTorch compiled")


def compare(
    config: GPTConfig, batch: int, rounds: int, device: str = "cuda", compiled: bool = True
) -> dict[str, Any]:
    """One row. Raises Disagreement if the first losses of the contestants differ."""
    batches = random_batches(config, batch)
    found: dict[str, Train] = {}
    first: dict[str, list[float]] = {}
    absent: dict[str, str] = {}
    for who in ("byhand", "PyTorch", *(["PyTorch compiled"] if compiled else [])):
        try:
            train = contestant(who, config, device)
            first[who] = train(batches)
        except Exception as error:  # most likely out of memory: the others are still timed
            absent[who] = described(error)
        else:
            found[who] = train
    for who, losses in first.items():
        for other, expected in first.items():
            if not np.allclose(losses, expected, rtol=0, atol=AGREED):
                raise Disagreement(f"the first losses of {who} are {losses}, {other}'s {expected}")
    seconds = in_turns({who: lambda t=t: t(batches) for who, t in found.items()}, rounds)
    tokens = STEPS * batch * config.context_size
    peak = matmul_rate(device) if found else 0.0
    rates = {who: tokens / s for who, s in seconds.items()}
    operations = bench.flops_per_token(config)
    return {
        "config": config.to_dict(),
        "batch": batch,
        "tokens_per_second": {who: round(rate) for who, rate in rates.items()},
        "utilisation": {who: round(rate * operations / peak, 4) for who, rate in rates.items()},
        "matmul_tflop_per_s": round(peak / 1e12, 3),
        "not_run": absent,
        "first_losses": {who: [round(x, 4) for x in losses] for who, losses in first.items()},
    }


def random_batches(config: GPTConfig, batch: int) -> list[Batch]:
    shape = (STEPS, batch, config.context_size + 1)
    ids = np.random.default_rng(0).integers(config.vocabulary_size, size=shape)
    cut = np.ascontiguousarray
    return [{"ids": cut(some[:, :-1]), "targets": cut(some[:, 1:])} for some in ids]


def matmul_rate(device: str) -> float:
    """Operations a second of PyTorch's product of square bfloat16 matrices."""
    import torch

    n, times = (8192, 10) if device == "cuda" else (256, 1)
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))

    def run() -> None:
        for _ in range(times):
            c = a @ b
        c[0, 0].item()

    return 2.0 * n**3 * times / in_turns({"matmul": run}, 7)["matmul"]


def to_losses(preset: str, data: Path, device: str = "cuda", *more: str) -> list[dict[str, float]]:
    """Seconds of training to each validation loss, of `byhand train` with the preset's settings."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "byhand", "train", str(data), "--preset", preset]
        command += ["--device", device, "--precision", "bf16", "--out", str(run), *more]
        subprocess.run(command, check=True)
        return [
            {key: record[key] for key in ("step", "validation_loss", "seconds")}
            for record in read_log(run / "log.jsonl")
            if "validation_loss" in record
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset", nargs="?", default="gpt2", choices=PRESETS)
    parser.add_argument("--batch", type=int, help="windows (default: the preset's; gpt2: 32)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--data", type=Path, metavar="FILE", help="train on this text as well")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write train_PRESET.json there")
    options = parser.parse_args()
    from byhand import backend

    backend.cuda()  # or says why not
    size = bench.sizes(options.preset) | SIZES.get(options.preset, {})
    batch = options.batch or size["batch"]
    row = compare(
        bench.config_of(options.preset, size),
        batch,
        options.rounds,
        compiled=not options.no_compile,
    )
    if options.data is not None:
        row["training"] = to_losses(options.preset, options.data)
    gpu = sys.modules["byhand._cuda"].device_properties()  # type: ignore[attr-defined]
    result = json.dumps({**circumstances(), "gpu": gpu, "preset": options.preset, **row}, indent=1)
    print(result)
    if options.out is not None:
        folder = options.out / folder_of(gpu["name"]).name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"train_{options.preset}.json").write_text(result + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
