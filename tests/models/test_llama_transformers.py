"""Llama and its relatives beside the classes of Hugging Face's transformers, in float64, with the
same random weights.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from byhand import Llama, LlamaConfig
from byhand.models.llama import HF
from byhand.models.weight_names import from_hugging_face, to_hugging_face
from tests.hugging_face import in_float64, relative_error

# Every dimension differs; 6 query heads share 2 heads of keys and values.
SIZES: dict[str, Any] = dict(
    vocab_size=23,
    hidden_size=24,
    intermediate_size=37,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=19,
    rms_norm_eps=1e-5,
)
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8,
}
NEOX = dict(
    num_key_value_heads=None,
    partial_rotary_factor=0.5,
    attention_bias=True,
    mlp_bias=True,
    norm="layer",
    gated=False,
    hidden_act="gelu",
)

# What it is -> (the class, our options, their options).
RELATIVES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "Llama": ("Llama", {}, {}),
    "Llama, tied": ("Llama", {"tie_word_embeddings": True}, {"tie_word_embeddings": True}),
    "Llama, biases": (
        "Llama",
        {"attention_bias": True, "mlp_bias": True},
        {"attention_bias": True, "mlp_bias": True},
    ),
    "Llama, wide heads": ("Llama", {"head_dim": 6}, {"head_dim": 6}),
    "Llama 3": (
        "Llama",
        {"rope_theta": 5e5, "rope_scaling": LLAMA3},
        {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}},
    ),
    "Llama, GELU": ("Llama", {"hidden_act": "gelu_new"}, {"hidden_act": "gelu_new"}),
    "Llama, ReLU": ("Llama", {"hidden_act": "relu"}, {"hidden_act": "relu"}),
    "Llama, many key heads": ("Llama", {"num_key_value_heads": None}, {"num_key_value_heads": 6}),
    "Qwen2": ("Qwen2", {"attention_bias": True, "attention_output_bias": False}, {}),
    "Qwen3": ("Qwen3", {"head_dim": 10, "qk_norm": True}, {"head_dim": 10}),
    "Mistral": ("Mistral", {"sliding_window": 5}, {"sliding_window": 5}),
    "GPT-NeoX": (
        "GPTNeoX",
        {**NEOX, "parallel_residual": True},
        {"rotary_pct": 0.5, "use_parallel_residual": True},
    ),
    "GPT-NeoX, sequential": (
        "GPTNeoX",
        {**NEOX, "hidden_act": "gelu_new", "rope_theta": 500.0},
        {
            "rotary_pct": 0.5,
            "use_parallel_residual": False,
            "hidden_act": "gelu_new",
            "rotary_emb_base": 500.0,
        },
    ),
}
MIXTRAL = {"num_local_experts": 5, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.3}
ONE = {**MIXTRAL, "num_local_experts": 3, "num_experts_per_tok": 1, "sliding_window": 6}
RELATIVES["Mixtral"] = ("Mixtral", {**MIXTRAL, "rope_theta": 1e6}, MIXTRAL)
RELATIVES["Mixtral, one of three"] = ("Mixtral", {**ONE, "rope_theta": 1e6}, ONE)
relatives = pytest.mark.parametrize("relative", RELATIVES)
seeds = pytest.mark.parametrize("seed", range(3))


def made(relative: str, seed: int = 0, **more: Any) -> Llama:
    model = Llama(LlamaConfig(**{**SIZES, **RELATIVES[relative][1], **more}), seed=seed)
    rng = np.random.default_rng(seed + 100)
    for p in model.parameters():
        p.value += rng.standard_normal(p.shape, dtype=np.float32) * np.float32(0.2)
    return model.to(dtype="float64")


def batch(seed: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(seed).integers(0, SIZES["vocab_size"], (2, 3, 13))
    ids[1, 0, :4] = -100
    return ids[0], ids[1]


def twin_of(relative: str, model: Llama) -> Any:
    """transformers' model with our weights."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    kind, _, options = RELATIVES[relative]
    sizes = {**SIZES, "attn_implementation": "eager", **options}
    if kind == "Mixtral":
        sizes["experts_implementation"] = "eager"
    if kind == "GPTNeoX":
        sizes["layer_norm_eps"] = sizes.pop("rms_norm_eps")
    config = getattr(transformers, f"{kind}Config")(**sizes)
    twin = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    weights = as_in_the_class(to_hugging_face(HF(model.config), model.state_dict()))
    theirs = dict(twin.named_parameters())
    assert weights.keys() == theirs.keys()
    with torch.no_grad():
        for name, p in theirs.items():
            p.copy_(torch.from_numpy(weights[name]))
    return twin


EXPERT = re.compile(r"(.*)\.block_sparse_moe\.experts\.(\d+)\.w([123])\.weight")


def as_in_the_class(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of files as the parameters of transformers' classes, which differ for GPT-NeoX's
    head and for experts: there one array holds those of all experts.
    """
    made, experts = {}, {}
    for name, array in weights.items():
        if found := EXPERT.fullmatch(name):
            experts.setdefault(found[1], {})[int(found[2]), int(found[3])] = array
        else:
            name = name.replace("block_sparse_moe", "mlp").replace("embed_out", "lm_head")
            made[name] = array
    for layer, of in experts.items():
        numbers = sorted({e for e, _ in of})
        up = [np.concatenate([of[e, 1], of[e, 3]]) for e in numbers]
        made[f"{layer}.mlp.experts.gate_up_proj"] = np.stack(up)
        made[f"{layer}.mlp.experts.down_proj"] = np.stack([of[e, 2] for e in numbers])
    return made


@relatives
@seeds
def test_logits_loss_and_gradients_are_those_of_transformers(relative: str, seed: int) -> None:
    torch = pytest.importorskip("torch")
    model = made(relative, seed)
    with in_float64():
        twin = twin_of(relative, model)
        ids, targets = batch(seed)
        called = {"output_router_logits": True} if model.config.num_local_experts else {}
        out = twin(torch.from_numpy(ids), **called)
        logits = out.logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), torch.from_numpy(targets).flatten()
        )
        if model.config.num_local_experts:
            loss = loss + model.config.router_aux_loss_coef * out.aux_loss
        loss.backward()
    with model.no_save():
        assert relative_error(model(ids), logits.detach().numpy()) < 1e-9
    assert abs(float(model.loss(ids, targets)) - loss.item()) < 1e-9
    model.backward()
    ours = {name: p.grad for name, p in model.named_parameters()}
    grads = as_in_the_class(to_hugging_face(HF(model.config), ours))
    theirs = dict(twin.named_parameters())
    assert grads.keys() == theirs.keys()
    for name, grad in grads.items():
        assert relative_error(grad, theirs[name].grad.numpy()) < 1e-9, name


@relatives
def test_the_names_lead_there_and_back(relative: str) -> None:
    """All arrays but a tied head, which is the embedding, with the same bits."""
    model = made(relative)
    table = list(HF(model.config))
    there = to_hugging_face(table, model.state_dict())
    back = from_hugging_face(table, there)
    state = model.state_dict()
    assert back.keys() == dict(model.named_parameters()).keys()
    assert ("head.weight" in back) == (not model.config.tie_word_embeddings)
    for name, array in back.items():
        np.testing.assert_array_equal(array, state[name])
    other = made(relative, seed=1)
    other.load_state_dict({**other.state_dict(), **back})
    assert [p.value.tobytes() for p in other.parameters()] == [
        p.value.tobytes() for p in model.parameters()
    ]


def test_a_weight_with_other_rows_is_named() -> None:
    model = made("Llama")
    table = list(HF(model.config))
    there = to_hugging_face(table, model.state_dict())
    name = "model.layers.1.self_attn.k_proj.weight"
    with pytest.raises(ValueError, match=rf"^{name} must have 8 rows, got shape \(7, 24\)$"):
        from_hugging_face(table, {**there, name: there[name][:7]})
    del there[name]
    with pytest.raises(KeyError, match=name):
        from_hugging_face(table, there)
