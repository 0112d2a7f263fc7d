"""One side of bench.models.compare_steps: training steps on request, in a process of its own.

It runs in the interpreter that is compared and imports only what is installed there. Its first
argument is a JSON object: the keyword arguments of GPTConfig (`config`), `batch`, `precision` and
`threads`. It answers in lines of JSON: first what it runs, then, for each line with a number of
steps on its input, the seconds of that many steps. It ends when its input ends.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import numpy as np

import byhand
from byhand import GPT, GPTConfig, optim


def training_step(settings: dict) -> Callable[[], float]:
    """One training step on random tokens; it returns the loss."""
    config = GPTConfig(**settings["config"])
    precision = {} if settings["precision"] == "float32" else {"precision": settings["precision"]}
    model = GPT(config, seed=0, **precision)
    optimizer = optim.AdamW(model, lr=1e-3)
    shape = (settings["batch"], settings["config"]["context_size"] + 1)
    tokens = np.random.default_rng(0).integers(settings["config"]["vocabulary_size"], size=shape)
    ids, targets = (np.ascontiguousarray(a) for a in (tokens[:, :-1], tokens[:, 1:]))

    def step() -> float:
        model.zero_grad()
        loss = float(model.loss(ids, targets))
        model.backward()
        optimizer.step(clip_norm=1.0)
        return loss

    return step


def main() -> None:
    settings = json.loads(sys.argv[1])
    if settings["threads"]:
        byhand.set_num_threads(settings["threads"])
    step = training_step(settings)
    about = byhand.info()
    facts = {name: about[name] for name in ("version", "cpu_backend", "threads")}
    print(json.dumps({**facts, "file": byhand.__file__, "loss": step()}), flush=True)
    for line in sys.stdin:
        step()  # not counted: the other side's threads may still spin, and the caches hold its data
        taken = []
        for _ in range(int(line)):
            start = time.perf_counter()
            step()
            taken.append(time.perf_counter() - start)
        print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    main()
