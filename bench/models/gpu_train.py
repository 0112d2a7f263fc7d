"""Training steps of a GPT on a GPU in bf16: byhand's captured graph and PyTorch's steps in turns.

    python -m bench.models.gpu_train [PRESET] [--batch N] [--rounds N] [--no-compile] [--data FILE]
                                     [--out FOLDER] [--on-cpu]

byhand takes part three times: with its own matrix products, with cuBLASLt's, and with its kernel
for Hopper. PyTorch is its autocast with fused AdamW and the flash attention it chooses itself,
eager and by torch.compile. All start from the same weights and get the same batches of random
tokens. Their first losses, before any update, must agree: otherwise that is recorded beside the
figures, and the program's status is 1. How far later losses differ is reported. A round is a few
steps of each contestant, from the tokens in the host's memory to the losses there; the compiled one
joins after the first rounds. Utilisation is

    (6 P + 12 L C T) tokens a second / the rate of PyTorch's product of two 8192 x 8192 matrices

measured in the same run, where P is the number of parameters that multiply (Chowdhery et al. 2022,
appendix B). gpt2's vocabulary is padded to 50304, as nanoGPT pads it. With --data the preset is
also trained on that text, by `byhand train`, and the seconds to each validation loss are kept. The
results are written after each contestant's first losses and after each round. --on-cpu runs this
program on the CUDA kernels for the CPU, in a model of a few thousand parameters: a dry run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from bench.gpu_device import DRY
from bench.harness import circumstances, described, folder_of, in_turns, write_whole
from byhand import GPT, GPTConfig, backend, optim, tasks
from byhand.cli import bench
from byhand.models.gpt import PRESETS
from byhand.runs.log import read_log
from byhand.tasks.task import Batch
from byhand.training.graph import GraphStep

SIZES = {"gpt2": dict(vocabulary=50304, context=1024, batch=32)}
ADAMW = dict(lr=6e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
STEPS = 8  # of a round
AGREED = 0.02  # the most that first losses may differ, because bf16 rounds at different places
MODULE = "cuda"  # which kernels run; in a dry run those for the CPU

# Steps on these batches -> their losses, when all is done.
Train = Callable[[Sequence[Batch]], list[float]]
Row = dict[str, Any]


def by_cublaslt() -> AbstractContextManager[Any]:
    return backend.cuda_gemm("cublaslt", MODULE)


def by_hopper() -> AbstractContextManager[Any]:
    return mock.patch.dict(os.environ, {"BYHAND_GEMM_HOPPER": "1"})


HOPPER, COMPILED = "byhand Hopper", "PyTorch compiled"
# What is set while the steps of a contestant run and are captured.
OURS = {"byhand": nullcontext, "byhand cuBLASLt": by_cublaslt, HOPPER: by_hopper}
ALL = (*OURS, "PyTorch", COMPILED)


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

    def copied(array: np.ndarray) -> Any:
        host = torch.from_numpy(array)
        return (host.pin_memory() if device == "cuda" else host).to(device, non_blocking=True)

    def train(batches: Sequence[Batch]) -> list[float]:
        losses = []
        for batch in batches:
            x, y = copied(batch["ids"]), copied(batch["targets"])
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
    if who in OURS:
        return ours(model.to("cuda"))
    return torchs(model, device, compiled=who == COMPILED)


def setting_of(who: str) -> AbstractContextManager[Any]:
    return OURS.get(who, nullcontext)()


class Comparison:
    """Contestants that train the same model, and the row of what was measured so far.

    `save` gets the row whenever something was added to it.
    """

    def __init__(self, config: GPTConfig, batch: int, device: str, save: Callable[[Row], Any]):
        self.row: Row = {
            "config": config.to_dict(),
            "batch": batch,
            "matmul_tflop_per_s": None,
            "not_run": {},
            "first_losses": {},
            "largest_difference_of_later_losses": {},
            "disagreements": [],
            "seconds": {},
            "tokens_per_second": {},
            "utilisation": {},
        }
        self._config, self._device, self._save = config, device, save
        self._batches = random_batches(config, batch)
        self._found: dict[str, Train] = {}
        self._peak = 0.0
        save(self.row)

    def measure_peak(self) -> None:
        """Measures what utilisation is a share of. Without PyTorch there is none."""
        try:
            self._peak = matmul_rate(self._device)
        except Exception as error:
            self.row["not_run"]["matmul"] = described(error)
        else:
            self.row["matmul_tflop_per_s"] = round(self._peak / 1e12, 3)
        self._save(self.row)

    def add(self, who: str) -> None:
        """Makes a contestant and its first steps; compares its losses with the first one's."""
        row = self.row
        try:
            train = contestant(who, self._config, self._device)
            with setting_of(who):
                losses = train(self._batches)
        except Exception as error:  # such as out of memory: the others are still timed
            row["not_run"][who] = described(error)
            self._save(row)
            return
        self._found[who] = train
        row["first_losses"][who] = [round(loss, 4) for loss in losses]
        other, expected = next(iter(row["first_losses"].items()))
        if not abs(losses[0] - expected[0]) <= AGREED:
            row["disagreements"].append(
                f"the first loss of {who} is {losses[0]:.4f}, that of {other} {expected[0]:.4f}"
            )
        later = np.abs(np.subtract(losses, expected)[1:])
        row["largest_difference_of_later_losses"][who] = round(float(later.max(initial=0)), 4)
        self._save(row)

    def time(self, rounds: int) -> None:
        """Rounds of all contestants that were added."""
        for _ in range(rounds):
            for who, train in self._found.items():
                with setting_of(who):  # outside of what is timed
                    start = time.perf_counter()
                    train(self._batches)
                    seconds = time.perf_counter() - start
                self.row["seconds"].setdefault(who, []).append(round(seconds, 4))
            self._summarize()
            self._save(self.row)

    def _summarize(self) -> None:
        row = self.row
        tokens = STEPS * row["batch"] * self._config.context_size
        operations = bench.flops_per_token(self._config)
        for who, seconds in row["seconds"].items():
            rate = tokens / statistics.median(seconds)
            row["tokens_per_second"][who] = round(rate)
            if self._peak:
                row["utilisation"][who] = round(rate * operations / self._peak, 4)


def compare(
    config: GPTConfig,
    batch: int,
    rounds: int,
    device: str = "cuda",
    contestants: Sequence[str] = ALL,
    save: Callable[[Row], Any] = lambda row: None,
) -> Row:
    """One row, of these contestants."""
    comparison = Comparison(config, batch, device, save)
    comparison.measure_peak()
    quick = [who for who in contestants if who != COMPILED]
    for who in quick:
        comparison.add(who)
    comparison.time(rounds)
    if COMPILED in contestants:  # compiling takes long, and may fail
        comparison.add(COMPILED)
        comparison.time(rounds)
    return comparison.row


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


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset", nargs="?", default="gpt2", choices=PRESETS)
    parser.add_argument("--batch", type=int, help="windows (default: the preset's; gpt2: 32)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--data", type=Path, metavar="FILE", help="train on this text as well")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write train_PRESET.json there")
    parser.add_argument("--on-cpu", action="store_true", help="a dry run of this program")
    options = parser.parse_args(arguments)
    gpu, config, batch, device = on_cpu() if options.on_cpu else on_gpu(options.preset)
    contestants = [who for who in ALL if who != COMPILED or not options.no_compile]
    if tuple(gpu["compute_capability"]) != (9, 0):
        contestants.remove(HOPPER)
    about = {**circumstances(measured=False), "gpu": gpu, "preset": options.preset}

    def save(row: Row) -> None:
        if options.out is not None:
            path = options.out / folder_of(gpu["name"]).name / f"train_{options.preset}.json"
            write_whole(path, json.dumps(about | row, indent=1) + "\n")

    row = compare(config, options.batch or batch, options.rounds, device, contestants, save)
    if options.data is not None:
        row["training"] = to_losses(options.preset, options.data)
        save(row)
    print(json.dumps(about | row, indent=1))
    for disagreement in row["disagreements"]:
        print(f"DISAGREEMENT: {disagreement}")
    return 1 if row["disagreements"] else 0


def on_gpu(preset: str) -> tuple[dict[str, Any], GPTConfig, int, str]:
    """The GPU, the model, how many windows are in a batch, and PyTorch's device. Raises
    CudaUnavailable with the reason.
    """
    backend.cuda()
    size = bench.sizes(preset) | SIZES.get(preset, {})
    gpu = sys.modules["byhand._cuda"].device_properties()  # type: ignore[attr-defined]
    return gpu, bench.config_of(preset, size), size["batch"], "cuda"


def on_cpu() -> tuple[dict[str, Any], GPTConfig, int, str]:
    """The same of a dry run, which goes on with the tests' stand-in for cupy."""
    global MODULE, STEPS
    import pytest

    from tests.cuda import cupy_double

    MODULE, STEPS = "cuda_on_cpu", 4
    cupy_double.install(pytest.MonkeyPatch())
    config = GPTConfig(
        vocabulary_size=24, context_size=8, embedding_dim=16, num_heads=2, num_layers=1
    )
    return {"name": DRY, "compute_capability": (9, 0)}, config, 3, "cpu"


if __name__ == "__main__":
    sys.exit(main())
