"""GPT beside the GPT-2 of Hugging Face's transformers, with the same random weights."""

from __future__ import annotations

import numpy as np
import pytest

from byhand import GPT
from tests.models.test_gpt import SIZES, batch, make, relative_error

# The parameters of a block here -> there.
BLOCK = {
    "norm1": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.project": "attn.c_proj",
    "norm2": "ln_2",
    "ffn.up": "mlp.c_fc",
    "ffn.down": "mlp.c_proj",
}
OTHERS = {
    "decoder.tokens": "transformer.wte",
    "decoder.positions": "transformer.wpe",
    "decoder.norm": "transformer.ln_f",
    "head": "lm_head",
}


def name_there(name: str) -> str:
    layer, kind = name.rsplit(".", 1)
    if layer in OTHERS:
        return f"{OTHERS[layer]}.{kind}"
    number, part = layer.removeprefix("decoder.blocks.").split(".", 1)
    return f"transformer.h.{number}.{BLOCK[part]}.{kind}"


def as_there(name: str, a: np.ndarray) -> np.ndarray:
    """The weights of GPT-2's linear layers are stored as (in, out)."""
    transposed = name.endswith("weight") and any(f".{part}." in name for part in BLOCK)
    return a.T if transposed else a


@pytest.mark.parametrize("tie_weights", [True, False])
def test_logits_loss_and_gradients_are_those_of_transformers(tie_weights: bool):
    """In float64, to 1e-9."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    model: GPT = make(tie_weights=tie_weights)
    config = transformers.GPT2Config(
        vocab_size=SIZES["vocabulary_size"],
        n_positions=SIZES["context_size"],
        n_embd=SIZES["embedding_dim"],
        n_head=SIZES["num_heads"],
        n_layer=SIZES["num_layers"],
        tie_word_embeddings=tie_weights,
        bos_token_id=None,
        eos_token_id=None,
    )
    twin = transformers.GPT2LMHeadModel(config).double().eval()
    theirs = dict(twin.named_parameters())
    ours = dict(model.named_parameters())
    assert {name_there(name) for name in ours} == theirs.keys()
    with torch.no_grad():
        for name, p in ours.items():
            theirs[name_there(name)].copy_(torch.from_numpy(as_there(name, p.value)))
    ids, targets = batch()
    logits = twin(torch.from_numpy(ids)).logits
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.from_numpy(targets).flatten()
    )
    expected.backward()
    with model.no_save():
        assert relative_error(model(ids), logits.detach().numpy()) < 1e-9
    assert abs(float(model.loss(ids, targets)) - expected.item()) < 1e-9
    model.backward()
    for name, p in ours.items():
        grad = theirs[name_there(name)].grad.numpy()
        assert relative_error(as_there(name, p.grad), grad) < 1e-9, name
