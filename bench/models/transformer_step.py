"""Training steps of a BERT encoder and a Llama, beside Hugging Face's classes in PyTorch eager.

    python -m bench.models.transformer_step [--only bert-base smollm2-135m ...] [--rounds N]
        [--precision float32 bf16] [--threads N] [--record]

A step is forward, loss, backward and AdamW. Both sides start from the same weights and see the same
batch, and the first losses must agree. PyTorch uses its fused attention (sdpa), its fused AdamW,
and for bf16 autocast.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers

import byhand
from bench.harness import in_turns, record
from byhand import Bert, BertConfig, Bloom, BloomConfig, Llama, LlamaConfig, optim
from byhand.models import bert, bloom, llama
from byhand.models.weight_names import to_hugging_face

Step = Callable[[], float]
TOLERANCE = {"float32": 1e-4, "bf16": 2e-2}


def load(twin: Any, weights: dict[str, np.ndarray]) -> None:
    """Copies our weights into a model of transformers."""
    theirs = dict(twin.named_parameters())
    if missing := theirs.keys() ^ weights.keys():
        raise SystemExit(f"the weights do not fit: {sorted(missing)}")
    with torch.no_grad():
        for name, p in theirs.items():
            p.copy_(torch.from_numpy(np.array(weights[name])))


def bert_base(precision: str) -> tuple[Step, Step]:
    """BERT-base's encoder with the masked-LM head, 15 % of the tokens masked; 8 rows of 128."""
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(vocab_size=8192, **dict(bert.PRESETS["base"].model) | none)
    model = Bert(config, "mlm", seed=1, precision=precision)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, config.vocab_size, (8, 128))
    labels = np.where(rng.random(ids.shape) < 0.15, ids, -100)
    their_sizes = {
        name: value
        for name, value in config.to_dict().items()
        if name not in ("head", "num_labels", "normalize", "labels")
    }
    twin = transformers.BertForMaskedLM(transformers.BertConfig(**their_sizes))
    load(twin, to_hugging_face(bert.HF(model.config), model.state_dict()))
    return steps(model, twin, precision, ids, labels, labels)


def causal(model: Any, twin: Any, table: Any, precision: str, B: int, T: int) -> tuple[Step, Step]:
    """A decoder-only language model on B rows of T tokens."""
    load(twin, to_hugging_face(table, model.state_dict()))
    windows = np.random.default_rng(0).integers(0, model.config.vocabulary_size, (B, T + 1))
    ids, targets = windows[:, :-1].copy(), windows[:, 1:].copy()
    # transformers shifts the labels itself: the last position of a row has no target there.
    targets[:, -1] = -100
    return steps(model, twin, precision, ids, targets, ids)


def smollm2(precision: str) -> tuple[Step, Step]:
    """SmolLM2-135M's shape with a vocabulary of 8192; 4 rows of 64."""
    sizes = dict(llama.PRESETS["smollm2-135m"].model)
    config = LlamaConfig(vocab_size=8192, **sizes)
    names = (*sizes, "vocab_size", "rms_norm_eps")
    theirs = {name: getattr(config, name) for name in names if name != "rope_theta"}
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    twin = transformers.LlamaForCausalLM(transformers.LlamaConfig(**theirs, rope_parameters=rope))
    model = Llama(config, seed=1, precision=precision)
    return causal(model, twin, llama.HF(config), precision, 4, 64)


def bloom_small(precision: str) -> tuple[Step, Step]:
    """The preset "small" of Bloom with a vocabulary of 4096; 8 rows of 128."""
    sizes = dict(bloom.PRESETS["small"].model) | {"hidden_dropout": 0.0}
    config = BloomConfig(vocab_size=4096, **sizes)
    twin = transformers.BloomForCausalLM(transformers.BloomConfig(**config.to_dict()))
    model = Bloom(config, seed=1, precision=precision)
    return causal(model, twin, bloom.HF(config), precision, 8, 128)


def steps(
    model: Any,
    twin: Any,
    precision: str,
    ids: np.ndarray,
    ours: np.ndarray,
    theirs: np.ndarray,
) -> tuple[Step, Step]:
    optimizer = optim.AdamW(model, lr=1e-4)
    twin.train()
    torch_optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-4, fused=True)
    torch_ids, torch_labels = torch.from_numpy(ids), torch.from_numpy(theirs)

    def byhand_step() -> float:
        model.zero_grad()
        loss = float(model.loss(ids, ours))
        model.backward()
        optimizer.step()
        return loss

    def torch_step() -> float:
        torch_optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = twin(torch_ids, labels=torch_labels).loss
        loss.backward()
        torch_optimizer.step()
        return float(loss.item())

    return byhand_step, torch_step


CASES = {"bert-base": bert_base, "smollm2-135m": smollm2, "bloom-small": bloom_small}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--precision", nargs="+", choices=TOLERANCE, default=["float32"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=byhand.get_num_threads())
    parser.add_argument("--record", action="store_true", help="keep the rows in bench/results")
    options = parser.parse_args()
    byhand.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.only:
        for precision in options.precision:
            byhand_step, torch_step = CASES[name](precision)
            losses = byhand_step(), torch_step()
            if not np.allclose(*losses, rtol=TOLERANCE[precision]):
                raise SystemExit(f"{name}: the first losses differ: {losses}")
            seconds = in_turns({"byhand": byhand_step, "PyTorch": torch_step}, options.rounds)
            ms = {who: round(1e3 * s, 1) for who, s in seconds.items()}
            times = seconds["PyTorch"] / seconds["byhand"]
            print(name, precision, *(f"{who} {t} ms" for who, t in ms.items()), f"{times:.2f}x")
            case = f"{name} {precision}"
            rows.append({"case": case, "milliseconds": ms, "times_torch_speed": round(times, 3)})
    if options.record:
        print("wrote", record("transformer_step", rows, key="case"))


if __name__ == "__main__":
    main()
