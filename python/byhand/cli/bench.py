"""`byhand bench`: how long a training step takes on this machine."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from byhand.cli import flags
from byhand.errors import UserError
from byhand.presets import PRESETS, preset

if TYPE_CHECKING:
    from byhand.models import GPTConfig

# What a contestant's step returns: the seconds of each of its phases.
PHASES = ("forward", "backward", "update")
Step = Callable[[], tuple[float, float, float]]

DESCRIPTION = """\
Time the training step of a preset: the forward pass with the loss and the gradient of the last
layer, which are made together, the rest of the backward pass, and the update (clipping the gradient
and AdamW). The numbers are medians over the rounds.

GFLOP/s counts 6 operations for each parameter used in a multiplication and each token, and
12 * layers * width * context for attention (Chowdhery et al. 2022, appendix B).
"""


def add_command(commands: Any) -> None:
    command = commands.add_parser(
        "bench",
        help="time a training step",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(run=run)
    command.add_argument(
        "--preset",
        default="tiny",
        metavar="NAME",
        help=f"which model: {', '.join(PRESETS)} (default: tiny)",
    )
    command.add_argument(
        "--batch", type=flags.count, metavar="N", help="windows in a batch (default: the preset's)"
    )
    command.add_argument(
        "--rounds",
        type=flags.count,
        default=20,
        metavar="N",
        help="steps measured, after three that are not (default: 20)",
    )
    command.add_argument(
        "--vocabulary",
        type=flags.count,
        default=65,
        metavar="N",
        help="different tokens (default: 65, the characters of Tiny Shakespeare)",
    )
    command.add_argument("--json", action="store_true", help="print one line of JSON instead")
    flags.add_threads(command)


def run(args: argparse.Namespace) -> int:
    from byhand.models import GPTConfig

    flags.use_threads(args.threads)
    chosen = preset(args.preset)
    config = GPTConfig(
        vocabulary_size=args.vocabulary,
        context_size=chosen.context,
        embedding_dim=chosen.width,
        num_heads=chosen.heads,
        num_layers=chosen.layers,
    )
    flags.require_memory(config)
    batch = args.batch or chosen.batch
    medians = measure(contestants(config, batch), args.rounds)
    report = {
        "preset": args.preset,
        "batch": batch,
        "context": chosen.context,
        **machine(),
        "results": {name: summary(phases, config, batch) for name, phases in medians.items()},
    }
    print(json.dumps(report) if args.json else table(report))
    return 0


def contestants(config: GPTConfig, batch: int) -> dict[str, Step]:
    """The training steps to time, by name; all on the same sizes and the same number of threads."""
    return {"byhand": byhand_step(config, batch)}


def byhand_step(config: GPTConfig, batch: int) -> Step:
    """One training step of ours on random tokens, as a function of no arguments."""
    import numpy as np

    from byhand.models import GPT
    from byhand.optim import AdamW

    model = GPT(config)
    optimizer = AdamW(model, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    shape = (batch, config.context_size + 1)
    ids = np.random.default_rng(0).integers(config.vocabulary_size, size=shape)
    x, y = np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:])

    def step() -> tuple[float, float, float]:
        start = time.perf_counter()
        float(model.loss(x, y))
        forward = time.perf_counter()
        model.backward()
        backward = time.perf_counter()
        optimizer.step(clip_norm=1.0)
        model.zero_grad()
        update = time.perf_counter()
        return forward - start, backward - forward, update - backward

    return step


def measure(
    steps: Mapping[str, Step], rounds: int, warm_up: int = 3
) -> dict[str, dict[str, float]]:
    """The median seconds of each phase of each contestant, and of its whole `step`.

    They take turns, one measured step each a round, so that whatever else the machine does
    meanwhile disturbs all of them alike. Where there are several, an unmeasured step goes before
    it: the threads of the contestant before are still awake then, and the caches hold its data.
    """
    if rounds < 1:
        raise UserError(f"the number of rounds must be at least 1, not {rounds}")
    times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in steps}
    for turn in range(warm_up + rounds):
        for name, step in steps.items():
            if len(steps) > 1:
                step()
            phases = step()
            if turn >= warm_up:
                times[name].append(phases)
    return {
        name: {
            **{phase: statistics.median(t[i] for t in taken) for i, phase in enumerate(PHASES)},
            "step": statistics.median(map(sum, taken)),
        }
        for name, taken in times.items()
    }


def summary(phases: Mapping[str, float], config: GPTConfig, batch: int) -> dict[str, float]:
    """Milliseconds of each phase, tokens per second and GFLOP/s."""
    tokens = batch * config.context_size
    return {
        **{f"{phase}_ms": seconds * 1e3 for phase, seconds in phases.items()},
        "tokens_per_second": tokens / phases["step"],
        "gflops": tokens * flops_per_token(config) / phases["step"] / 1e9,
    }


def flops_per_token(config: GPTConfig) -> float:
    """Floating-point operations of a training step for one token (see DESCRIPTION)."""
    C, L = config.embedding_dim, config.num_layers
    multiplied = 12 * L * C * C + config.vocabulary_size * C
    return 6.0 * multiplied + 12.0 * L * C * config.context_size


def machine() -> dict[str, Any]:
    import byhand

    about = byhand.info()
    return {name: about[name] for name in ("version", "cpu_backend", "threads")}


def table(report: Mapping[str, Any]) -> str:
    """The report for people."""
    lines = [
        f"preset {report['preset']}, batch {report['batch']}, context {report['context']}; "
        f"{report['cpu_backend']}, {report['threads']} threads",
        f"{'':10}{'forward':>12}{'backward':>12}{'update':>12}{'step':>12}"
        f"{'tokens/s':>12}{'GFLOP/s':>10}",
    ]
    for name, r in report["results"].items():
        times = "".join(f"{r[f'{phase}_ms']:>9.2f} ms" for phase in (*PHASES, "step"))
        lines.append(f"{name:10}{times}{r['tokens_per_second']:>12,.0f}{r['gflops']:>10.1f}")
    return "\n".join(lines)
