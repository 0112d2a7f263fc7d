"""The names of the weights of Llama and its relatives in Hugging Face's files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from byhand.models.weight_names import Weight

if TYPE_CHECKING:
    from byhand.models.llama import LlamaConfig


def HF(c: LlamaConfig) -> Iterator[Weight]:
    """The weights of a model of these sizes and their names in Hugging Face's files: with gated
    feed-forward parts those of Llama, Qwen2, Qwen3 and Mistral, or with experts of Mixtral, else of
    GPT-NeoX. Biases and norms that the sizes do not have are left out.
    """
    neox = not c.gated
    root = "gpt_neox" if neox else "model"
    norm = ("weight", "bias") if c.norm == "layer" else ("weight",)

    def parts(kinds: tuple[str, ...], ours: str, *theirs: str, **more: Any) -> Iterator[Weight]:
        for kind in kinds:
            yield Weight(f"{ours}.{kind}", tuple(f"{one}.{kind}" for one in theirs), **more)

    yield from parts(("weight",), "decoder.tokens", f"{root}.{'embed_in' * neox or 'embed_tokens'}")
    yield from parts(norm, "decoder.norm", f"{root}.{'final_layer_norm' * neox or 'norm'}")
    if not c.tie_word_embeddings:
        yield from parts(("weight",), "head", "embed_out" if neox else "lm_head")
    heads, kv_heads, D = c.num_attention_heads, c.kv_heads, c.head_width
    of_attention = ("weight", "bias") if c.attention_bias else ("weight",)
    output_bias = c.attention_bias if c.attention_output_bias is None else c.attention_output_bias
    of_output = ("weight", "bias") if output_bias else ("weight",)
    of_ffn = ("weight", "bias") if c.mlp_bias else ("weight",)
    for i in range(c.num_hidden_layers):
        here, there = f"decoder.blocks.{i}", f"{root}.layers.{i}"
        attention = f"{there}.{'attention' if neox else 'self_attn'}"
        yield from parts(norm, f"{here}.norm1", f"{there}.input_layernorm")
        yield from parts(norm, f"{here}.norm2", f"{there}.post_attention_layernorm")
        if neox:
            qkv: tuple[str, ...] = (f"{attention}.query_key_value",)
            packed: dict[str, Any] = {"heads": heads}
        else:
            qkv = tuple(f"{attention}.{one}_proj" for one in "qkv")
            packed = {"rows": (heads * D, kv_heads * D, kv_heads * D)}
        yield from parts(of_attention, f"{here}.attention.qkv", *qkv, **packed)
        output = "dense" if neox else "o_proj"
        yield from parts(of_output, f"{here}.attention.project", f"{attention}.{output}")
        if c.qk_norm:
            for one in ("q_norm", "k_norm"):
                yield from parts(("weight",), f"{here}.attention.{one}", f"{attention}.{one}")
        names = {"up": "dense_h_to_4h", "down": "dense_4h_to_h"}
        if c.num_local_experts is not None:
            mixture = f"{there}.block_sparse_moe"
            yield from parts(("weight",), f"{here}.ffn.router", f"{mixture}.gate")
            for e in range(c.num_local_experts):
                for ours, theirs in (("gate", "w1"), ("up", "w3"), ("down", "w2")):
                    expert = f"{here}.ffn.experts.{e}.{ours}"
                    yield from parts(of_ffn, expert, f"{mixture}.experts.{e}.{theirs}")
            continue
        if c.gated:
            names = {one: f"{one}_proj" for one in ("gate", "up", "down")}
        for ours, theirs in names.items():
            yield from parts(of_ffn, f"{here}.ffn.{ours}", f"{there}.mlp.{theirs}")
