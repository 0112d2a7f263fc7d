"""A whole training step, byhand and PyTorch in turns: forward, backward, clip, AdamW.

    python bench/train_step.py [tiny guide baby gpt2] [--rounds N] [--threads N] [--record]

The byhand side and the way of measuring are those of `byhand bench`.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

import byhand
from byhand import GPTConfig
from byhand.cli.bench import PHASES, Step, byhand_step, measure, summary
from byhand.presets import PRESETS
from harness import record
from torch_twin import TorchGPT, adamw

# The 124M model on short sequences: at its full context one step takes minutes on few cores.
SHORT = {"gpt2": dict(vocabulary=50257, context=64, batch=4)}


def torch_step(config: GPTConfig, batch: int) -> Step:
    """The same step in PyTorch, eager, with its fused AdamW."""
    twin = TorchGPT(config)
    optimizer = adamw(twin, lr=1e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, fused=True)
    shape = (batch, config.context_size + 1)
    ids = torch.from_numpy(np.random.default_rng(0).integers(config.vocabulary_size, size=shape))
    x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def step() -> tuple[float, float, float]:
        start = time.perf_counter()
        loss = twin.loss(x, y)
        loss.item()
        forward = time.perf_counter()
        loss.backward()
        backward = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        update = time.perf_counter()
        return forward - start, backward - forward, update - backward

    return step


def compare(name: str, rounds: int) -> dict[str, object]:
    preset = PRESETS[name]
    sizes = dict(vocabulary=65, context=preset.context, batch=preset.batch) | SHORT.get(name, {})
    config = GPTConfig(
        vocabulary_size=sizes["vocabulary"],
        context_size=sizes["context"],
        embedding_dim=preset.width,
        num_heads=preset.heads,
        num_layers=preset.layers,
    )
    batch = sizes["batch"]
    steps = {"byhand": byhand_step(config, batch), "torch": torch_step(config, batch)}
    medians = measure(steps, rounds)
    return {
        "preset": name,
        **sizes,
        "times_torch_speed": round(medians["torch"]["step"] / medians["byhand"]["step"], 3),
        **{
            who: {key: round(value, 2) for key, value in summary(phases, config, batch).items()}
            for who, phases in medians.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("presets", nargs="*", default=["tiny", "guide"], metavar="PRESET")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=byhand.get_num_threads())
    parser.add_argument("--record", action="store_true", help="write bench/results/train_step.json")
    options = parser.parse_args()
    byhand.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)

    rows = []
    for name in options.presets:
        row = compare(name, options.rounds)
        rows.append(row)
        for who in ("byhand", "torch"):
            r = row[who]
            phases = "  ".join(f"{p} {r[f'{p}_ms']:8.2f} ms" for p in PHASES)
            print(f"{name:6} {who:7} {phases}  {r['gflops']:6.1f} GFLOP/s")
        print(f"{name:6} byhand is {row['times_torch_speed']:.2f} times as fast", flush=True)
    if options.record:
        print("wrote", record("train_step", rows))


if __name__ == "__main__":
    main()
