"""`byhand bench`: how long a training step takes on this machine."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from byhand.cli import flags
from byhand.cli.memory import require_memory
from byhand.cli.turns import take_turns
from byhand.models import preset
from byhand.models.gpt import PRESETS

if TYPE_CHECKING:
    import numpy as np

    from byhand.models.gpt import GPTConfig

# A contestant's step returns the seconds of each of these phases.
PHASES = ("forward", "backward", "update")
Step = Callable[[], tuple[float, float, float]]

# The 124M model on short sequences: at its full context one step takes minutes on few cores.
SIZES = {"gpt2": dict(vocabulary=50257, context=64)}
CHARACTERS = 65  # of Tiny Shakespeare: the vocabulary of the other presets
SECONDS = 20.0  # for a preset, about

DESCRIPTION = """\
Time the training step of a preset: the forward pass with the loss (byhand computes the last layer's
gradient there too), the backward pass, and the update (clipping the gradient and AdamW). The
numbers are medians over the rounds. First comes the roofline: the most that this machine can do. If
PyTorch is installed, the same model in PyTorch takes turns with byhand's; its bf16 is autocast.

GFLOP/s counts 6 operations for each parameter used in a multiplication and each token, and
12 * layers * width * context for attention (Chowdhery et al. 2022, appendix B).
"""

NO_TORCH = "PyTorch is not installed: pip install torch to compare"


def add_command(commands: Any) -> None:
    command = commands.add_parser(
        "bench",
        help="time a training step",
        description=DESCRIPTION,
    )
    command.set_defaults(run=run)
    command.add_argument(
        "--preset",
        type=flags.text,
        default="tiny",
        metavar="NAME",
        help=f"which model: {', '.join(PRESETS)} (on sequences of 64) or all (default: tiny)",
    )
    command.add_argument(
        "--precision",
        default="both",
        choices=("float32", "bf16", "both"),
        help="what products are computed in (default: both)",
    )
    command.add_argument(
        "--batch",
        type=flags.positive_int,
        metavar="N",
        help="windows in a batch (default: the preset's)",
    )
    command.add_argument(
        "--context",
        type=flags.positive_int,
        metavar="N",
        help="tokens in a window (default: the preset's)",
    )
    command.add_argument(
        "--vocabulary",
        type=flags.positive_int,
        metavar="N",
        help="different tokens (default: 65, the characters of Tiny Shakespeare; gpt2 50257)",
    )
    command.add_argument(
        "--rounds",
        type=flags.positive_int,
        metavar="N",
        help="steps measured of each contestant (default: up to 20, fewer where they are slow)",
    )
    command.add_argument(
        "--no-torch", action="store_true", help="leave PyTorch out even if it is installed"
    )
    command.add_argument("--json", action="store_true", help="print one line of JSON instead")
    flags.add_threads(command)


def run(args: argparse.Namespace) -> int:
    from byhand import roofline

    names = list(PRESETS) if args.preset == "all" else [args.preset]
    chosen = {name: sizes(name, args) for name in names}
    precisions = ("float32", "bf16") if args.precision == "both" else (args.precision,)
    torch = not args.no_torch and has_torch()
    for name, size in chosen.items():
        copies = len(precisions) * (2 if torch else 1)
        tokens = size["batch"] * size["context"]
        advice = ": lower --batch or --context"
        require_memory(config_of(name, size), tokens, copies, advice=advice)
    flags.use_threads(args.threads)
    if torch:
        share_threads()
    report: dict[str, Any] = {
        **machine(torch),
        "roofline": asdict(roofline.measure()),
        "presets": {},
    }
    say = (lambda text: None) if args.json else (lambda text: print(text, flush=True))
    say(heading(report))
    if not torch and not args.no_torch:
        say(NO_TORCH)
    for name, size in chosen.items():
        config, batch = config_of(name, size), size["batch"]
        steps = contestants(config, batch, precisions, torch)
        seconds = math.inf if args.rounds else SECONDS
        medians = measure(steps, args.rounds or 20, seconds)
        results = {who: summary(phases, config, batch) for who, phases in medians.items()}
        report["presets"][name] = {**size, "results": results}
        say(table(name, report))
    if args.json:
        print(json.dumps(report))
    return 0


def sizes(name: str, args: argparse.Namespace | None = None) -> dict[str, int]:
    """Vocabulary, context and batch of a preset's bench; flags take precedence."""
    p = preset.find("gpt", name)
    found = dict(
        vocabulary=CHARACTERS, context=p.model["context_size"], batch=p.training["batch_size"]
    ) | SIZES.get(name, {})
    return {key: getattr(args, key, None) or value for key, value in found.items()}


def config_of(name: str, size: Mapping[str, int]) -> GPTConfig:
    from byhand.models.gpt import GPTConfig

    sizes = dict(preset.find("gpt", name).model)
    sizes |= {"vocabulary_size": size["vocabulary"], "context_size": size["context"]}
    return GPTConfig(**sizes | {"dropout": 0.0})


def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def share_threads() -> None:
    """Gives PyTorch as many threads as byhand's kernels have."""
    import torch

    import byhand

    torch.set_num_threads(byhand.get_num_threads())


def contestants(
    config: GPTConfig, batch: int, precisions: tuple[str, ...], torch: bool, compiled: bool = False
) -> dict[str, Step]:
    """The training steps to time, by name; all on the same sizes and the same number of threads."""
    steps = {}
    for precision in precisions:
        steps[f"byhand {precision}"] = byhand_step(config, batch, precision)
        if torch:
            from byhand.cli.bench_torch import torch_step

            steps[f"PyTorch {precision}"] = torch_step(config, batch, precision)
            if compiled:
                steps[f"PyTorch {precision} compiled"] = torch_step(config, batch, precision, True)
    return steps


def random_batch(config: GPTConfig, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and targets, (batch, context) each."""
    import numpy as np

    shape = (batch, config.context_size + 1)
    ids = np.random.default_rng(0).integers(config.vocabulary_size, size=shape)
    return np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:])


def byhand_step(config: GPTConfig, batch: int, precision: str = "float32") -> Step:
    """One training step of byhand on random tokens, as a function without arguments."""
    from byhand.models.gpt import GPT
    from byhand.optim import AdamW

    model = GPT(config, precision=precision)
    optimizer = AdamW(model, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    x, y = random_batch(config, batch)

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
    steps: Mapping[str, Step], rounds: int, seconds: float = math.inf, warm_up: int = 3
) -> dict[str, dict[str, float]]:
    """The median seconds of each phase of each contestant, and of its whole `step`.

    They take turns, so that other load on the machine disturbs all of them alike.
    """
    return {
        name: {
            **{phase: statistics.median(t[i] for t in taken) for i, phase in enumerate(PHASES)},
            "step": statistics.median(map(sum, taken)),
        }
        for name, taken in take_turns(steps, rounds, warm_up, seconds).items()
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


def times_torch(who: str, results: Mapping[str, Mapping[str, float]]) -> float | None:
    """How many times as fast as PyTorch in the same precision; None if that was not measured."""
    rival = results.get(who.replace("byhand", "PyTorch"))
    if rival is None or not who.startswith("byhand"):
        return None
    return rival["step_ms"] / results[who]["step_ms"]


def machine(torch: bool) -> dict[str, Any]:
    import byhand

    about = byhand.info()
    found = {name: about[name] for name in ("version", "cpu_backend", "threads")}
    if torch:
        from torch import __version__

        found["torch"] = str(__version__)
    return found


def heading(report: Mapping[str, Any]) -> str:
    """Version, back end, threads and roofline."""
    limits, torch = report["roofline"], report.get("torch")
    bf16 = limits["bf16_gflops"]
    return (
        f"byhand {report['version']} ({report['cpu_backend']})"
        + (f" beside PyTorch {torch}" if torch else "")
        + f" on {report['threads']} threads\n"
        f"roofline: {limits['gflops']:,.0f} GFLOP/s in float32, "
        + (f"{bf16:,.0f} in bf16; " if bf16 else "no bf16 instructions; ")
        + f"memory {limits['triad']:.0f} GB/s (triad), {limits['read']:.0f} (read)"
    )


def table(name: str, report: Mapping[str, Any]) -> str:
    """One preset's results as a table to print."""
    size = report["presets"][name]
    results, limits = size["results"], report["roofline"]
    lines = [
        f"\n{name}: batch {size['batch']}, context {size['context']}, "
        f"vocabulary {size['vocabulary']:,}",
        f"{'':16}{'forward':>12}{'backward':>12}{'update':>12}{'step':>12}"
        f"{'tokens/s':>11}{'GFLOP/s':>9}{'roofline':>10}{'x PyTorch':>11}",
    ]
    for who, r in results.items():
        times = "".join(f"{r[f'{phase}_ms']:>9.2f} ms" for phase in (*PHASES, "step"))
        limit = limits["bf16_gflops"] if "bf16" in who else limits["gflops"]
        share = f"{100 * r['gflops'] / limit:>8.0f} %" if limit else f"{'':10}"
        ratio = times_torch(who, results)
        lines.append(
            f"{who:16}{times}{r['tokens_per_second']:>11,.0f}{r['gflops']:>9.0f}{share}"
            + (f"{ratio:>11.2f}" if ratio else "")
        )
    return "\n".join(lines)
