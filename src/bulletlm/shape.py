"""The shape of a model: the only place that defines its tensors and their sizes.

No dependencies, so that the runtime starts fast.
"""

from dataclasses import asdict, dataclass
from typing import Any

from bulletlm.errors import ConfigError

BLOCK = 32
"""Weights per quantization block, along the input dimension; dim and hidden_dim are multiples of it."""

BQ4_BYTES, BQ8_BYTES = 2 + BLOCK // 2, 2 + BLOCK
"""Bytes of a block of 4-bit and of 8-bit weights, including the scale."""


MIN_ATTENTION_LOGIT = -60.0
"""Attention logits this far below the largest logit of their query are treated as -inf. Their weight, exp(-60), is below the
rounding error of an FP32 sum, and computing with the subnormal numbers that they produce is about 100 times slower."""


@dataclass(frozen=True)
class ModelShape:
    """A Llama-shaped decoder: RMSNorm, interleaved RoPE, SwiGLU, no biases.

    Raises:
        ConfigError: a size is not possible; the message names the field and a value that works.
    """

    vocab_size: int
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    hidden_dim: int
    max_seq_len: int
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    tied_embeddings: bool = True

    def __post_init__(self) -> None:
        for name in ("vocab_size", "dim", "n_layers", "n_heads", "n_kv_heads", "hidden_dim", "max_seq_len"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be 1 or more")
        if self.dim % BLOCK:
            near = max(BLOCK, round(self.dim / BLOCK) * BLOCK)
            raise ConfigError(f"dim {self.dim} is not divisible by {BLOCK}, the quantization block: try {near}")
        if self.hidden_dim % BLOCK:
            near = max(BLOCK, round(self.hidden_dim / BLOCK) * BLOCK)
            raise ConfigError(f"hidden_dim {self.hidden_dim} is not divisible by {BLOCK}: try {near}")
        if self.dim % self.n_heads:
            fits = [n for n in range(1, self.dim // 2 + 1) if self.dim % (2 * n) == 0]
            near = min(fits, key=lambda n: abs(n - self.n_heads))
            raise ConfigError(f"dim {self.dim} is not divisible by n_heads {self.n_heads}: try {near} heads")
        if self.head_dim % 2:
            raise ConfigError(f"head_dim {self.head_dim} (dim / n_heads) is odd, but RoPE needs an even number: change n_heads")
        if self.n_heads % self.n_kv_heads:
            raise ConfigError(f"n_heads {self.n_heads} is not divisible by n_kv_heads {self.n_kv_heads}")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.n_heads

    @property
    def kv_dim(self) -> int:
        """Total width of the key heads (and of the value heads)."""
        return self.head_dim * self.n_kv_heads

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every tensor, in file order. Matrices are (outputs, inputs)."""
        shapes: dict[str, tuple[int, ...]] = {"token_embedding.weight": (self.vocab_size, self.dim)}
        for n in range(self.n_layers):
            shapes |= {
                f"layers.{n}.attention_norm.weight": (self.dim,),
                f"layers.{n}.attention.q_proj.weight": (self.dim, self.dim),
                f"layers.{n}.attention.k_proj.weight": (self.kv_dim, self.dim),
                f"layers.{n}.attention.v_proj.weight": (self.kv_dim, self.dim),
                f"layers.{n}.attention.o_proj.weight": (self.dim, self.dim),
                f"layers.{n}.mlp_norm.weight": (self.dim,),
                f"layers.{n}.mlp.gate_proj.weight": (self.hidden_dim, self.dim),
                f"layers.{n}.mlp.up_proj.weight": (self.hidden_dim, self.dim),
                f"layers.{n}.mlp.down_proj.weight": (self.dim, self.hidden_dim),
            }
        shapes["final_norm.weight"] = (self.dim,)
        if not self.tied_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, self.dim)
        return shapes

    @property
    def n_parameters(self) -> int:
        """Number of weights; tied embeddings count once."""
        total = 0
        for shape in self.tensors().values():
            size = 1
            for extent in shape:
                size *= extent
            total += size
        return total

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON headers."""
        return asdict(self)
