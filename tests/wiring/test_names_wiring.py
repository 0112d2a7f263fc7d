"""Every name that is accepted for a field means that field."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from byhand.models.bert import BertConfig
from byhand.models.bloom import BloomConfig
from byhand.models.gpt import GPTConfig
from byhand.models.llama import LlamaConfig
from byhand.models.mlp import MLPConfig
from byhand.runs import TrainingSettings

GPT_SIZES: dict[str, Any] = {
    "vocabulary_size": 11,
    "context_size": 7,
    "embedding_dim": 12,
    "num_heads": 3,
    "num_layers": 2,
    "dropout": 0.25,
    "use_bias": False,
    "tie_weights": False,
    "norm": "post",
    "positions": "sinusoidal",
    "attention": "linear",
}
# Those of Hugging Face's configurations, nanoGPT's and the guide's.
GPT_NAMES = {
    "vocabulary_size": ("vocab_size",),
    "context_size": ("n_positions", "n_ctx", "max_position_embeddings", "block_size"),
    "embedding_dim": ("n_embd", "hidden_size"),
    "num_heads": ("n_head", "num_attention_heads", "heads_num"),
    "num_layers": ("n_layer", "num_hidden_layers", "layers_num"),
    "dropout": ("dropout_rate", "resid_pdrop"),
    "use_bias": ("bias",),
    "tie_weights": ("tie_word_embeddings",),
}

# byhand's names of the sizes, GPT-2's and GPT-NeoX's; the fields have Llama's.
LLAMA_SIZES: dict[str, Any] = {
    "vocab_size": 11,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": 7,
    "rope_theta": 500.0,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-4,
    "tie_word_embeddings": True,
    "dropout": 0.25,
    "parallel_residual": True,
    "num_local_experts": 4,
}
LLAMA_NAMES = {
    "vocab_size": ("vocabulary_size",),
    "hidden_size": ("embedding_dim", "n_embd"),
    "num_hidden_layers": ("num_layers", "n_layer"),
    "num_attention_heads": ("num_heads", "n_head"),
    "num_key_value_heads": ("num_kv_heads",),
    "max_position_embeddings": ("context_size", "n_positions", "n_ctx", "block_size"),
    "rope_theta": ("rotary_emb_base",),
    "partial_rotary_factor": ("rotary_pct",),
    "rms_norm_eps": ("layer_norm_eps",),
    "tie_word_embeddings": ("tie_weights",),
    "dropout": ("hidden_dropout", "dropout_rate", "resid_pdrop"),
    "parallel_residual": ("use_parallel_residual",),
    "num_local_experts": ("num_experts",),
}

MLP_NAMES = {"num_classes": ("num_outputs",)}
BERT_NAMES = {
    "vocab_size": ("vocabulary_size",),
    "hidden_size": ("embedding_dim",),
    "num_hidden_layers": ("num_layers",),
    "num_attention_heads": ("num_heads",),
    "hidden_dropout_prob": ("dropout",),
    "attention_probs_dropout_prob": ("dropout",),
    "max_position_embeddings": ("context_size",),
}
BLOOM_SIZES: dict[str, Any] = {
    "vocab_size": 11,
    "hidden_size": 12,
    "n_layer": 2,
    "n_head": 3,
    "seq_length": 7,
    "hidden_dropout": 0.25,
    "layer_norm_epsilon": 1e-4,
    "tie_word_embeddings": False,
}
BLOOM_NAMES = {
    "vocab_size": ("vocabulary_size",),
    "hidden_size": ("embedding_dim", "n_embed", "n_embd"),
    "n_layer": ("num_layers", "num_hidden_layers"),
    "n_head": ("num_heads", "num_attention_heads"),
    "seq_length": ("context_size", "max_position_embeddings", "n_positions", "block_size"),
    "hidden_dropout": ("dropout",),
    "layer_norm_epsilon": ("layer_norm_eps",),
    "tie_word_embeddings": ("tie_weights",),
}
NAMES: dict[Any, dict[str, tuple[str, ...]]] = {
    GPTConfig: GPT_NAMES,
    LlamaConfig: LLAMA_NAMES,
    BloomConfig: BLOOM_NAMES,
    BertConfig: BERT_NAMES,
    MLPConfig: MLP_NAMES,
}
CONFIGS = [*NAMES, TrainingSettings]


@pytest.mark.parametrize(
    ("field", "name"), [(f, n) for f, names in GPT_NAMES.items() for n in names]
)
def test_other_names_of_a_field_are_accepted(field: str, name: str):
    sizes = dict(GPT_SIZES)
    value = sizes.pop(field)
    made = GPTConfig(**sizes, **{name: value})
    assert made == GPTConfig(**GPT_SIZES)
    assert GPTConfig.from_dict({**sizes, name: value}) == made


@pytest.mark.parametrize(
    ("cls", "field", "name"),
    [
        (cls, field, name)
        for cls in (LlamaConfig, BloomConfig)
        for field, names in NAMES[cls].items()
        for name in names
    ],
)
def test_other_names_of_a_field_of_llama_and_bloom_are_accepted(cls: Any, field: str, name: str):
    whole = LLAMA_SIZES if cls is LlamaConfig else BLOOM_SIZES
    sizes = dict(whole)
    value = sizes.pop(field)
    assert cls(**sizes, **{name: value}) == cls(**whole)


def test_the_outputs_of_an_mlp_have_two_names():
    assert MLPConfig(num_features=5, num_outputs=3) == MLPConfig(5, 3)


@pytest.mark.parametrize("cls", CONFIGS)
def test_every_field_has_a_help(cls: Any):
    for field in dataclasses.fields(cls):
        assert field.metadata["help"]
        names = NAMES.get(cls, {}).get(field.name, ())
        assert field.metadata["aliases"] == names


@pytest.mark.parametrize("cls", CONFIGS)
def test_configurations_cannot_be_changed(cls: Any):
    make = {
        GPTConfig: lambda: cls(**GPT_SIZES),
        LlamaConfig: lambda: cls(**LLAMA_SIZES),
        BloomConfig: lambda: cls(**BLOOM_SIZES),
        MLPConfig: lambda: cls(5, 3),
    }
    made = make.get(cls, cls)()
    for field in dataclasses.fields(cls):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, field.name, getattr(made, field.name))
