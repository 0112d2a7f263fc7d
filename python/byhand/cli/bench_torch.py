"""The same GPT in PyTorch: the contestant of the benchmarks and the second oracle of the tests.

Written as a PyTorch user would write it for speed: one matrix for q, k, v, the fused
scaled_dot_product_attention, fused AdamW. Parameter names are byhand's, so a state dict carries
over by name. The only module of the package that needs PyTorch; nothing imports it unless asked.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from byhand.cli.bench import Step
    from byhand.models.gpt import GPTConfig


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, dropout: float, bias: bool):
        super().__init__()
        self.heads, self.p = heads, dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.project = nn.Linear(dim, dim, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(x).split(C, dim=2)
        q, k, v = (t.view(B, T, self.heads, C // self.heads).transpose(1, 2) for t in (q, k, v))
        p = self.p if self.training else 0.0
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=p)
        return self.dropout(self.project(o.transpose(1, 2).reshape(B, T, C)))


class FeedForward(nn.Module):
    def __init__(self, dim: int, dropout: float, bias: bool):
        super().__init__()
        self.up = nn.Linear(dim, 4 * dim, bias=bias)
        self.down = nn.Linear(4 * dim, dim, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.down(F.gelu(self.up(x), approximate="tanh")))


class Block(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        dim, bias, dropout = config.embedding_dim, config.use_bias, config.dropout
        self.norm_first = config.norm == "pre"
        self.norm1 = nn.LayerNorm(dim, bias=bias)
        self.attention = Attention(dim, config.num_heads, dropout, bias)
        self.norm2 = nn.LayerNorm(dim, bias=bias)
        self.ffn = FeedForward(dim, dropout, bias)

    def forward(self, x: Tensor) -> Tensor:
        if not self.norm_first:
            x = self.norm1(x + self.attention(x))
            return self.norm2(x + self.ffn(x))
        x = x + self.attention(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class Decoder(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        C, V = config.embedding_dim, config.vocabulary_size
        self.tokens = nn.Embedding(V, C)
        self.positions = nn.Embedding(config.context_size, C)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        last = nn.LayerNorm(C, bias=config.use_bias) if config.norm == "pre" else nn.Identity()
        self.norm = last

    def forward(self, ids: Tensor) -> Tensor:
        x = self.dropout(self.tokens(ids) + self.positions.weight[: ids.shape[1]])
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class TorchGPT(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.decoder = Decoder(config)
        self.head = nn.Linear(config.embedding_dim, config.vocabulary_size, bias=False)
        if config.tie_weights:
            self.head.weight = self.decoder.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.decoder(ids))

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self(ids).flatten(0, 1), targets.flatten())


def twin_of(model: Any) -> TorchGPT:
    """A PyTorch copy of a byhand GPT: same weights, same dtype."""
    state = {name: torch.from_numpy(value.copy()) for name, value in model.state_dict().items()}
    twin = TorchGPT(model.config).to(next(iter(state.values())).dtype)
    missing, unexpected = twin.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"head.weight"}, missing  # the tied head is listed once in byhand
    return twin


def adamw(
    twin: nn.Module,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    fused: bool | None = None,
) -> torch.optim.AdamW:
    """PyTorch's AdamW with byhand's decay groups: matrices decay, vectors do not."""
    params = list(twin.parameters())
    groups = [
        {"params": [p for p in params if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=fused)


def torch_step(config: GPTConfig, batch: int, precision: str, compiled: bool = False) -> Step:
    """The training step of `byhand.cli.bench.byhand_step` in PyTorch; bf16 is its autocast."""
    from byhand.cli.bench import random_batch

    twin = TorchGPT(config)
    optimizer = adamw(twin, lr=1e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, fused=True)
    x, y = (torch.from_numpy(ids) for ids in random_batch(config, batch))
    compute_loss = torch.compile(twin.loss) if compiled else twin.loss
    bf16 = precision == "bf16"

    def step() -> tuple[float, float, float]:
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = compute_loss(x, y)
        loss.item()
        forward = time.perf_counter()
        loss.backward()
        backward = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        update = time.perf_counter()
        return forward - start, backward - forward, update - backward

    return step
