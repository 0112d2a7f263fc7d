"""A whole training step, byhand and PyTorch in turns: forward, backward, clip, AdamW.

    python bench/train_step.py [tiny guide baby gpt2] [--rounds N] [--threads N] [--record]
"""

from __future__ import annotations

import argparse
import resource

import byhand
import numpy as np
import torch
from byhand import GPT, GPTConfig, optim
from harness import in_turns, record
from torch_twin import adamw, twin_of

# layers, heads, width, context, batch, vocabulary
SHAPES = {
    "tiny": (4, 4, 128, 64, 12, 65),
    "guide": (6, 6, 384, 64, 64, 65),
    "baby": (6, 6, 384, 256, 64, 65),
    "gpt2": (12, 12, 768, 64, 4, 50257),  # the 124M model on short sequences
}
SETTINGS = dict(lr=1e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)


def flops(model: GPT, batch: int, context: int) -> float:
    """Floating-point operations of a training step: 6 N per token for the matrices (Kaplan et al.,
    2020, section 2.1; the embedding tables only count where they are multiplied with) and
    12 L C T, halved because attention is causal."""
    c = model.config
    matrices = sum(
        p.size for name, p in model.named_parameters() if p.value.ndim == 2 and "positions" not in name
    )
    if not c.tie_weights:
        matrices -= model.tokens.weight.size
    return batch * context * (6 * matrices + 6 * c.num_layers * c.embedding_dim * context)


def measure(name: str, rounds: int) -> dict[str, object]:
    layers, heads, width, context, batch, vocabulary = SHAPES[name]
    config = GPTConfig(vocabulary, context, width, heads, layers)
    model = GPT(config, seed=0)
    twin = twin_of(model)
    ours = optim.AdamW(model, **SETTINGS)
    theirs = adamw(twin, **SETTINGS, fused=True)
    rng = np.random.default_rng(0)
    ids, targets = rng.integers(0, vocabulary, (2, batch, context))
    torch_ids, torch_targets = torch.from_numpy(ids), torch.from_numpy(targets)

    def byhand_step() -> None:
        model.zero_grad()
        model.loss(ids, targets)
        model.backward()
        ours.step(clip_norm=1.0)

    def torch_step() -> None:
        theirs.zero_grad(set_to_none=True)
        twin.loss(torch_ids, torch_targets).backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        theirs.step()

    seconds = in_turns({"byhand": byhand_step, "torch": torch_step}, rounds)
    work = flops(model, batch, context)
    return {
        "preset": name,
        "batch": batch,
        "context": context,
        "parameters": model.num_parameters(),
        "byhand_ms": round(1e3 * seconds["byhand"], 3),
        "torch_ms": round(1e3 * seconds["torch"], 3),
        "times_torch_speed": round(seconds["torch"] / seconds["byhand"], 3),
        "byhand_gflops": round(work / seconds["byhand"] / 1e9, 1),
        "torch_gflops": round(work / seconds["torch"] / 1e9, 1),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
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
    print(f"{'preset':8}{'byhand ms':>12}{'torch ms':>12}{'ratio':>8}{'GFLOP/s':>10}{'torch':>8}")
    for name in options.presets:
        row = measure(name, options.rounds)
        rows.append(row)
        print(
            f"{row['preset']:8}{row['byhand_ms']:12.2f}{row['torch_ms']:12.2f}"
            f"{row['times_torch_speed']:8.2f}{row['byhand_gflops']:10.0f}{row['torch_gflops']:8.0f}",
            flush=True,
        )
    if options.record:
        print("wrote", record("train_step", rows))


if __name__ == "__main__":
    main()
