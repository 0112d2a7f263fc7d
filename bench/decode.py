"""Writing text with a GPT-2 of 124 million parameters, beside Hugging Face's transformers.

    python -m bench.decode [--weights float32 bf16 int8 int4] [--batch 1 8] [--rounds N]
        [--prompt N] [--tokens N] [--threads N] [--no-rivals] [--record]

Both sides continue the same random prompts greedily with a cache; the weights are random, and
transformers has float32 and bf16 only. A round runs every side once, one after the other, and the
medians are compared. Tokens a second are those of the whole text, its prompt included in the time.

The share is that of the read bandwidth, measured in the same rounds over an array as large as the
weights: the bytes of the weights and of the keys and values that a step must read, divided by the
time of a step after the prompt. A share above 1 is an error: then something is not read, or the
time is not that of a step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import byhand
from bench.harness import in_turns, record
from byhand import GPT, GPTConfig, roofline
from byhand.generation import GenerationConfig, Session
from byhand.models import gpt

VOCABULARY = 50257
WEIGHTS = ("float32", "bf16", "int8", "int4")
TWINS = ("float32", "bf16")
Run = Callable[[], Any]


def ours(model: Any, prompts: np.ndarray, tokens: int, steps: list[float]) -> Run:
    """Greedy texts; the seconds of each step after the prompt are added to ``steps``."""
    config = GenerationConfig(max_new_tokens=tokens)

    def run() -> None:
        session = Session(model, prompts, config)
        session.extend(session.logits.argmax(axis=1))
        start = time.perf_counter()
        for _ in range(tokens - 1):
            session.extend(session.logits.argmax(axis=1))
        steps.append((time.perf_counter() - start) / (tokens - 1))

    return run


def theirs(weights: str, prompts: np.ndarray, tokens: int) -> Run:
    """transformers' ``generate``."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(bos_token_id=None, eos_token_id=None, pad_token_id=0)
    twin = transformers.GPT2LMHeadModel(config).eval()
    if weights == "bf16":
        twin = twin.to(torch.bfloat16)
    ids = torch.from_numpy(prompts)
    mask = torch.ones_like(ids)

    def run() -> None:
        with torch.inference_mode():
            twin.generate(
                ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, pad_token_id=0
            )

    return run


def bytes_of_step(model: Any, batch: int, length: float) -> float:
    """What a step must read: the weights once, and the keys and values of ``length`` positions."""
    c = model.config
    return model.decoding_bytes + 8.0 * batch * length * c.num_layers * c.embedding_dim


def measure(weights: str, batch: int, arguments: Any) -> dict[str, Any]:
    """One line of the table."""
    tokens, count = arguments.tokens, arguments.prompt
    prompts = np.random.default_rng(0).integers(0, VOCABULARY, (batch, count))
    config = GPTConfig(vocabulary_size=VOCABULARY, **dict(gpt.PRESETS["gpt2"].model))
    model = GPT(config, seed=0).quantize(weights)
    steps: list[float] = []
    read = roofline.read(max(model.decoding_bytes, 64 << 20))
    sides = {"byhand": ours(model, prompts, tokens, steps), "read": read.run}
    if weights in TWINS and not arguments.no_rivals:
        sides["transformers"] = theirs(weights, prompts, tokens)
    taken = in_turns(sides, arguments.rounds, 1)
    step = statistics.median(steps[1:])
    bandwidth = read.amount / taken["read"] / 1e9
    share = bytes_of_step(model, batch, count + tokens / 2) / step / 1e9 / bandwidth
    row = {
        "case": f"{weights}, batch {batch}",
        "tokens_per_second": batch * tokens / taken["byhand"],
        "ms_per_step": 1e3 * step,
        "read_GB_per_s": bandwidth,
        "share": share,
    }
    if "transformers" in taken:
        row["transformers_tokens_per_second"] = batch * tokens / taken["transformers"]
        row["times_transformers"] = taken["transformers"] / taken["byhand"]
    return row


def show(row: dict[str, Any]) -> None:
    versus = ""
    if "times_transformers" in row:
        versus = (
            f"   transformers {row['transformers_tokens_per_second']:7.1f}"
            f"   {row['times_transformers']:.2f}x"
        )
    print(
        f"{row['case']:18} {row['tokens_per_second']:7.1f} tokens/s {row['ms_per_step']:7.2f} ms a"
        f" step  {100 * row['share']:3.0f} % of {row['read_GB_per_s']:.1f} GB/s{versus}",
        flush=True,
    )
    if row["share"] > 1:
        raise SystemExit(
            f"{row['case']}: a step cannot read faster than the memory: the measurement is wrong"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--weights", nargs="+", choices=WEIGHTS, default=WEIGHTS)
    parser.add_argument("--batch", nargs="+", type=int, default=(1, 8))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=byhand.get_num_threads())
    parser.add_argument("--no-rivals", action="store_true", help="byhand only")
    parser.add_argument("--record", action="store_true", help="write bench/results")
    arguments = parser.parse_args()
    byhand.set_num_threads(arguments.threads)
    if set(TWINS) & set(arguments.weights):
        import torch

        torch.set_num_threads(arguments.threads)
    rows = []
    for weights in arguments.weights:
        for batch in arguments.batch:
            rows.append(measure(weights, batch, arguments))
            show(rows[-1])
    if arguments.record:
        print(record("decode", rows, "case"))


if __name__ == "__main__":
    main()
