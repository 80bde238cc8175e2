"""The network in torch: a Llama-shaped decoder.

RMSNorm before each block, interleaved rotary positions, causal attention with optional grouped key/value heads, SwiGLU, no biases;
the output matrix is tied to the embedding by default. Shapes and names are those of `.bullet` files and of the numpy engine
(`bulletlm.shape`).

Weights and their gradients are float32. `Transformer.compute_in` sets the precision of matrix products:

* "fp32": everything is float32.
* "bf16": weights are rounded to bfloat16 at every use, which is a relative error of at most 2^-9, and activations between layers
  are bfloat16. Norms, rotations, softmax, loss, sums of gradients and updates stay float32.

B = sequences in the batch, T = positions, H = heads, D = head_dim.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bulletlm.shape import ModelShape

IGNORE = -1
"""Target id of positions that do not count in the loss."""

QUERIES = 128
"""Number of query positions whose attention is computed together. At a context of 1024, 128 takes 0.6 times as long as all at once."""

MatmulPrecision = Literal["fp32", "bf16"]
"""Precision of matrix products; the text at the top of this file explains the values."""


class Linear(nn.Linear):
    """x W^T: (..., inputs) -> (..., outputs) in the type of x. The weight, float32 (outputs, inputs), gets a float32 gradient."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich 2019, arXiv:1910.07467).

    (..., dim) -> (..., dim) in the type of x, computed in float32; the weight is float32 (dim,).
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (scaled * self.weight.float()).to(x.dtype)


def rope_table(head_dim: int, length: int, theta: float) -> Tensor:
    """Cosine and sine of the angles of rotary positions, float32 (2, length, head_dim / 2) (Su et al. 2021, arXiv:2104.09864)."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies)
    return torch.stack((angles.cos(), angles.sin())).float()


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the pairs (2i, 2i + 1) of x by the angles of their positions.

    Args:
        x: float (B, T, H, D).
        table: float32 (2, at least T, D / 2), from `rope_table`.

    Returns:
        (B, T, H, D) in the type of x, computed in float32.
    """
    even, odd = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
    cos, sin = table[0, : x.shape[1], None], table[1, : x.shape[1], None]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal softmax(q k^T / sqrt(D)) v (Vaswani et al. 2017, arXiv:1706.03762).

    It is written out because this is faster, when compiled, than torch's fused kernel on the CPU. It computes QUERIES queries at a
    time, so that later keys are skipped and the scores stay in the cache.

    Args:
        q, k, v: float (B, H, T, D), all of one type.

    Returns:
        (B, H, T, D) in the type of q; the softmax is float32.
    """
    parts = []
    for first in range(0, q.shape[2], QUERIES):
        some = q[:, :, first : first + QUERIES]
        end = first + some.shape[2]
        scores = (some @ k[:, :, :end].transpose(-1, -2)) * (1 / math.sqrt(q.shape[3]))
        later = torch.full((some.shape[2], end), float("-inf"), device=q.device).triu(first + 1)
        parts.append((scores.float() + later).softmax(-1).to(q.dtype) @ v[:, :, :end])
    return torch.cat(parts, 2)


class Attention(nn.Module):
    """Causal multi-head attention with as many key/value heads as query heads, or fewer (Ainslie et al. 2023, arXiv:2305.13245).

    x (B, T, dim) and the table of `rope_table` -> (B, T, dim) in the type of x.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = Linear(shape.dim, shape.dim)
        self.k_proj = Linear(shape.dim, shape.kv_dim)
        self.v_proj = Linear(shape.dim, shape.kv_dim)
        self.o_proj = Linear(shape.dim, shape.dim)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        s, (b, t, _) = self.shape, x.shape
        q = rotate(self.q_proj(x).view(b, t, s.n_heads, s.head_dim), rope).transpose(1, 2)
        k = rotate(self.k_proj(x).view(b, t, s.n_kv_heads, s.head_dim), rope).transpose(1, 2)
        v = self.v_proj(x).view(b, t, s.n_kv_heads, s.head_dim).transpose(1, 2)
        if s.n_kv_heads != s.n_heads:
            k = k.repeat_interleave(s.n_heads // s.n_kv_heads, 1)
            v = v.repeat_interleave(s.n_heads // s.n_kv_heads, 1)
        return self.o_proj(attend(q, k, v).transpose(1, 2).reshape(b, t, s.dim))  # type: ignore[no-any-return]


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202): (..., dim) -> (..., dim) in the type of x."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.gate_proj = Linear(shape.dim, shape.hidden_dim)
        self.up_proj = Linear(shape.dim, shape.hidden_dim)
        self.down_proj = Linear(shape.hidden_dim, shape.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """One layer with residual connections: x (B, T, dim) and the table of `rope_table` -> (B, T, dim) in the type of x."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(shape.dim, shape.norm_eps)
        self.attention = Attention(shape)
        self.mlp_norm = RMSNorm(shape.dim, shape.norm_eps)
        self.mlp = SwiGLU(shape)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rope)
        return x + self.mlp(self.mlp_norm(x))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """The whole model: int64 token ids (B, T) -> logits (B, T, vocab_size). Parameters are named as in `ModelShape.tensors()`."""

    rope: Tensor
    precision: MatmulPrecision = "fp32"

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embedding = nn.Embedding(shape.vocab_size, shape.dim)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.n_layers))
        self.final_norm = RMSNorm(shape.dim, shape.norm_eps)
        if not shape.tied_embeddings:
            self.lm_head = Linear(shape.dim, shape.vocab_size)
        self.register_buffer("rope", rope_table(shape.head_dim, shape.max_seq_len, shape.rope_theta), persistent=False)

    def initialize(self, seed: int) -> None:
        """Normal(0, 0.02) matrices, scaled down by sqrt(2 n_layers) where they write to the residual (GPT-2)."""
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if weight.dim() < 2:
                nn.init.ones_(weight)
                continue
            writes_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            std = 0.02 / math.sqrt(2 * self.shape.n_layers) if writes_residual else 0.02
            nn.init.normal_(weight, std=std, generator=generator)

    def compute_in(self, precision: MatmulPrecision) -> None:
        """Set the precision of matrix products, and with "bf16" also the type of activations between layers."""
        self.precision = precision

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 token ids (B, T), T <= max_seq_len -> logits (B, T, vocab_size), bfloat16 with "bf16" and float32 otherwise."""
        return self.logits(self.hidden(tokens))

    def hidden(self, tokens: Tensor, run: Callable[[Layer, Tensor, Tensor], Tensor] = nn.Module.__call__) -> Tensor:
        """int64 token ids (B, T) -> output of the last layer, (B, T, dim), bfloat16 with "bf16" and float32 otherwise.

        Args:
            run: calls a layer as run(layer, x, rope); a compiled function, for example.
        """
        x = self.token_embedding(tokens).to(torch.bfloat16 if self.precision == "bf16" else torch.float32)
        for layer in self.layers:
            x = run(layer, x, self.rope)  # type: ignore[arg-type]
        return x  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        """What `hidden` returned, (B, T, dim) -> logits (B, T, vocab_size) of the same type."""
        head = self.token_embedding.weight if self.shape.tied_embeddings else self.lm_head.weight
        return F.linear(self.final_norm(hidden), head.to(hidden.dtype))

    def loss(self, tokens: Tensor, targets: Tensor, reduction: str = "sum") -> Tensor:
        """Cross-entropy in nats, float32. Positions whose target is IGNORE do not count.

        Args:
            tokens, targets: int64 (B, T).
            reduction: "sum" returns a scalar; "none" returns (B * T,), with 0 where the target is IGNORE.
        """
        return self.loss_of_hidden(self.hidden(tokens), targets, reduction)

    def loss_of_hidden(self, hidden: Tensor, targets: Tensor, reduction: str = "sum") -> Tensor:
        """As `loss`, from what `hidden` returned, (B, T, dim), and int64 targets (B, T)."""
        logits = self.logits(hidden).float().flatten(0, 1)
        return F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE, reduction=reduction)
