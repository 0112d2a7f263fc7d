"""Training steps of an MLP whose arithmetic takes less time than the calls, beside PyTorch eager.

    python -m bench.models.mlp_step [--sizes 10 46 46 10] [--batch 64] [--rounds N] [--record]

A step is forward, cross-entropy, backward and AdamW, on one thread: more would only wait for each
other. Both start from the same weights, and the first losses must agree.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch

import byhand
from bench.harness import in_turns, record
from byhand import MLP, MLPConfig, nn, optim

STEPS = 200  # of a round


def contestants(sizes: list[int], batch: int) -> dict[str, Callable[[], float]]:
    """A step of each, which gives its loss."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, sizes[0]), dtype=np.float32)
    labels = rng.integers(0, sizes[-1], batch)
    model = MLP(MLPConfig(sizes[0], sizes[-1], tuple(sizes[1:-1]), activation="relu"), seed=1)
    criterion, optimizer = nn.CrossEntropyLoss(), optim.AdamW(model, lr=1e-3)

    layers: list[torch.nn.Module] = []
    for name, value in model.state_dict().items():
        if name.endswith("weight"):
            layers += [torch.nn.Linear(value.shape[1], value.shape[0]), torch.nn.ReLU()]
    twin = torch.nn.Sequential(*layers[:-1])
    with torch.no_grad():
        for theirs, ours in zip(twin.parameters(), model.state_dict().values(), strict=True):
            theirs.copy_(torch.from_numpy(np.array(ours)))
    torch_x, torch_labels = torch.from_numpy(x), torch.from_numpy(labels)
    torch_optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-3, fused=True)

    def byhand_step() -> float:
        model.zero_grad()
        loss = criterion(model(x), labels)
        model.backward(criterion.backward())
        optimizer.step()
        return float(loss)

    def torch_step() -> float:
        torch_optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(twin(torch_x), torch_labels)
        loss.backward()
        torch_optimizer.step()
        return loss.item()

    return {"byhand": byhand_step, "PyTorch": torch_step}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 46, 46, 10])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--record", action="store_true", help="keep the row in bench/results")
    options = parser.parse_args()
    byhand.set_num_threads(1)
    torch.set_num_threads(1)
    steps = contestants(options.sizes, options.batch)
    losses = {who: step() for who, step in steps.items()}
    if not np.allclose(*losses.values(), rtol=1e-5):
        raise SystemExit(f"the first losses differ: {losses}")

    def many(step: Callable[[], float]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(STEPS):
                step()

        return run

    seconds = in_turns({who: many(step) for who, step in steps.items()}, options.rounds)
    case = f"{'-'.join(map(str, options.sizes))} batch {options.batch}"
    micros = {who: round(1e6 * s / STEPS, 1) for who, s in seconds.items()}
    times = micros["PyTorch"] / micros["byhand"]
    print(case, *(f"{who} {us} us" for who, us in micros.items()), f"{times:.2f} times as fast")
    if options.record:
        row = {"case": case, "microseconds": micros, "times_torch_speed": round(times, 3)}
        print("wrote", record("mlp_step", [row], key="case"))


if __name__ == "__main__":
    main()
