"""The interface of an engine, and the numpy engine: the forward pass in float32, which is the reference for tests of other engines.

B = sequences in the batch, N = new positions, T = all positions so far, H = query heads, K = key/value heads,
G = H / K, D = head_dim. Weight matrices are (outputs, inputs), as in the file.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from bulletlm.shape import MIN_ATTENTION_LOGIT, ModelShape

Floats = npt.NDArray[np.float32]
Ids = Sequence[int] | npt.NDArray[np.integer]

PREFILL_CHUNK_TOKENS = 256
"""Positions processed at once; bounds the memory of attention, which is chunk x context per head."""


class Cache(Protocol):
    """The KV cache of one sequence, for use by one thread at a time.

    Attributes:
        capacity: positions at most.
        length: positions filled; setting it back forgets the later ones.
        nbytes: bytes that it takes.
    """

    capacity: int
    length: int

    @property
    def nbytes(self) -> int: ...


CacheT = TypeVar("CacheT", bound=Cache)


class Engine(Protocol[CacheT]):
    """A model in memory that computes logits. It does not change while it runs, so threads may share it.

    N = new tokens, B = sequences.

    Attributes:
        shape: the model's shape.
        part: tokens of a long prompt that are best read in one call.
    """

    shape: ModelShape

    @property
    def part(self) -> int: ...

    def new_cache(self, capacity: int | None = None) -> CacheT:
        """An empty cache for one sequence of up to `capacity` tokens; by default the model's context."""

    def forward(self, tokens: Ids, cache: CacheT) -> Floats:
        """Append `tokens` (N ids) to the sequence in `cache`; logits after each of them, float32[N, vocab_size].

        Raises:
            ValueError: a token id is outside the vocabulary, or the cache is full.
        """

    def prefill(self, tokens: Ids, cache: CacheT) -> Floats:
        """Like `forward`, but gives only the logits after the last token, float32[vocab_size]."""

    def score(self, tokens: npt.NDArray[np.integer]) -> Floats:
        """Logits after each token of sequences that begin at position 0: int[B, N] -> float32[B, N, vocab_size]."""

    def hidden(self, tokens: Ids, cache: CacheT | None = None) -> Floats:
        """The inputs of the output matrix for each of `tokens`, float32[N, dim]; appends to `cache`, if there is one."""


class Layer(NamedTuple):
    """The weights of one layer; projections with the same input are one matrix, and so one call."""

    attention_norm: Floats
    query_key_value: Floats
    output: Floats
    mlp_norm: Floats
    gate_up: Floats
    down: Floats


class KVCache:
    """Keys (already rotated) and values of the positions so far, float32[n_layers, B, K, room, D].

    `length` positions are filled; a smaller value discards the later ones. `capacity` is the largest number of positions;
    memory is allocated when it is needed.
    """

    def __init__(self, shape: ModelShape, capacity: int, batch: int = 1) -> None:
        self.capacity = capacity
        self.length = 0
        empty = (shape.n_layers, batch, shape.n_kv_heads, 0, shape.head_dim)
        self.keys: Floats = np.empty(empty, dtype=np.float32)
        self.values: Floats = np.empty(empty, dtype=np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes that the keys and values take."""
        return self.keys.nbytes + self.values.nbytes

    def reserve(self, positions: int) -> None:
        """Make room for `positions` more.

        Raises:
            ValueError: there is no more room within `capacity`.
        """
        needed, room = self.length + positions, self.keys.shape[3]
        if needed > self.capacity:
            raise ValueError(f"{needed} positions do not fit into a context of {self.capacity}")
        if needed > room:
            self.keys = self._enlarged(self.keys, min(self.capacity, max(needed, 2 * room, 128)))
            self.values = self._enlarged(self.values, min(self.capacity, max(needed, 2 * room, 128)))

    def _enlarged(self, old: Floats, room: int) -> Floats:
        new = np.empty((*old.shape[:3], room, old.shape[4]), dtype=np.float32)
        new[:, :, :, : self.length] = old[:, :, :, : self.length]
        return new


class NumpyEngine:
    """The engine in numpy; it needs nothing else. The methods are those of `Engine`.

    Args:
        shape: the model's shape.
        tensors: float32 arrays under the names of `shape.tensors()`.
    """

    def __init__(self, shape: ModelShape, tensors: Mapping[str, Floats]) -> None:
        self.shape = shape
        self.embedding = np.ascontiguousarray(tensors["token_embedding.weight"])
        self.layers = [_fused(tensors, f"layers.{n}.", shape) for n in range(shape.n_layers)]
        self.final_norm = tensors["final_norm.weight"]
        self.head = self.embedding if shape.tied_embeddings else np.ascontiguousarray(tensors["lm_head.weight"])
        self._frequencies = shape.rope_theta ** (-np.arange(0, shape.head_dim, 2) / shape.head_dim)

    @property
    def part(self) -> int:
        """Tokens of a long prompt that are best read in one call."""
        return PREFILL_CHUNK_TOKENS

    def new_cache(self, capacity: int | None = None) -> KVCache:
        """An empty cache for one sequence of up to `capacity` tokens; by default the model's context."""
        return KVCache(self.shape, capacity or self.shape.max_seq_len)

    def forward(self, tokens: Ids, cache: KVCache) -> Floats:
        """Append `tokens` (N ids) to the sequence in `cache`; logits after each of them, float32[N, vocab_size].

        Raises:
            ValueError: a token id is outside the vocabulary, or the cache is full.
        """
        return self._logits(self._hidden(self._ids(tokens)[None], cache))

    def prefill(self, tokens: Ids, cache: KVCache) -> Floats:
        """Like `forward`, but gives only the logits after the last token, float32[vocab_size]."""
        return self._logits(self._hidden(self._ids(tokens)[None], cache)[-1])

    def score(self, tokens: npt.NDArray[np.integer]) -> Floats:
        """Logits after each token of many sequences that begin at position 0: int[B, N] -> float32[B, N, vocab_size]."""
        tokens = self._ids(tokens)
        cache = KVCache(self.shape, self.shape.max_seq_len, batch=tokens.shape[0])
        return self._logits(self._hidden(tokens, cache)).reshape(*tokens.shape, -1)

    def hidden(self, tokens: Ids, cache: KVCache | None = None) -> Floats:
        """Return the input of the output matrix after each of `tokens`, float32[N, dim]; append to `cache`, if given."""
        return self._hidden(self._ids(tokens)[None], cache or self.new_cache())

    def _ids(self, tokens: Ids) -> npt.NDArray[np.intp]:
        ids = np.asarray(tokens, dtype=np.intp)
        if not ids.size or ids.min() < 0 or ids.max() >= self.shape.vocab_size:
            raise ValueError(f"token ids must be from 0 to {self.shape.vocab_size - 1}, and at least one")
        return ids

    def _logits(self, hidden: Floats) -> Floats:
        """float32[..., dim] -> float32[..., vocab_size]."""
        with np.errstate(over="ignore", invalid="ignore"):  # the caller checks the logits for damage
            return hidden @ self.head.T

    def _hidden(self, tokens: npt.NDArray[np.intp], cache: KVCache) -> Floats:
        """int[B, N] -> float32[B * N, dim], ready for the output matrix."""
        chunks = [self._chunk(tokens[:, at : at + PREFILL_CHUNK_TOKENS], cache) for at in range(0, tokens.shape[1], PREFILL_CHUNK_TOKENS)]
        x = chunks[0] if len(chunks) == 1 else np.concatenate(chunks, axis=1)
        return x.reshape(-1, self.shape.dim)

    def _chunk(self, tokens: npt.NDArray[np.intp], cache: KVCache) -> Floats:
        """int[B, N] -> float32[B, N, dim]."""
        batch, new = tokens.shape
        cache.reserve(new)
        start, end = cache.length, cache.length + new
        rotation = np.exp(1j * np.outer(np.arange(start, end), self._frequencies)).astype(np.complex64)
        x: Floats = self.embedding[tokens.reshape(-1)]
        # exp(-gate) may overflow to infinity, and silu is 0 there as it should be. The caller checks the logits for damage.
        with np.errstate(over="ignore", invalid="ignore"):
            for layer, keys, values in zip(self.layers, cache.keys, cache.values, strict=True):
                x += self._attention(layer, x.reshape(batch, new, -1), keys[:, :, :end], values[:, :, :end], rotation)
                x += self._mlp(layer, x)
            cache.length = end
            return self._norm(x, self.final_norm).reshape(batch, new, -1)

    def _attention(self, layer: Layer, x: Floats, keys: Floats, values: Floats, rotation: npt.NDArray[np.complex64]) -> Floats:
        """float32[B, N, dim] -> float32[B * N, dim]; the new keys and values become the last N of keys and values [B, K, T, D]."""
        s = self.shape
        (batch, new, _), total, group = x.shape, keys.shape[2], s.n_heads // s.n_kv_heads
        h = self._norm(x.reshape(-1, s.dim), layer.attention_norm)
        heads: Floats = (h @ layer.query_key_value.T).reshape(batch, new, -1, s.head_dim)

        # The pair (2i, 2i+1) is a complex number, and rotating it is multiplying by another.
        query_key = heads[:, :, : s.n_heads + s.n_kv_heads].view(np.complex64)
        query_key *= rotation[:, None]
        queries = heads[:, :, : s.n_heads].reshape(batch, new, s.n_kv_heads, group, s.head_dim)
        keys[:, :, total - new :] = heads[:, :, s.n_heads : -s.n_kv_heads].swapaxes(1, 2)
        values[:, :, total - new :] = heads[:, :, -s.n_kv_heads :].swapaxes(1, 2)

        # All query heads of one key/value head, and all positions, are the rows of one matrix: [B, K, N * G, T].
        rows = queries.swapaxes(1, 2).reshape(batch, s.n_kv_heads, new * group, s.head_dim)
        weights: Floats = rows @ keys.swapaxes(2, 3)
        if new > 1:  # causal: a position must not use later ones
            mask = np.triu(np.full((new, total), -np.inf, dtype=np.float32), total - new + 1)
            by_position = weights.reshape(batch, s.n_kv_heads, new, group, total)
            by_position += mask[:, None]
        weights -= weights.max(axis=-1, keepdims=True)
        weights[weights < MIN_ATTENTION_LOGIT] = -np.inf
        np.exp(weights, out=weights)
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed: Floats = (weights @ values).reshape(batch, s.n_kv_heads, new, group * s.head_dim)
        return mixed.swapaxes(1, 2).reshape(-1, s.dim) @ layer.output.T

    def _mlp(self, layer: Layer, x: Floats) -> Floats:
        """float32[B * N, dim] -> the same: down(silu(gate) * up)."""
        gate_up: Floats = self._norm(x, layer.mlp_norm) @ layer.gate_up.T
        gate, up = gate_up[:, : self.shape.hidden_dim], gate_up[:, self.shape.hidden_dim :]
        up *= gate
        np.negative(gate, out=gate)
        np.exp(gate, out=gate)
        gate += 1
        up /= gate
        return up @ layer.down.T

    def _norm(self, x: Floats, gain: Floats) -> Floats:
        """float32[rows, dim] -> x / sqrt(mean(x^2) + eps) * gain."""
        mean: Floats = np.einsum("ij,ij->i", x, x)[:, None] / np.float32(self.shape.dim)
        normed: Floats = x / np.sqrt(mean + np.float32(self.shape.norm_eps)) * gain
        return normed


def _fused(tensors: Mapping[str, Floats], prefix: str, shape: ModelShape) -> Layer:
    names = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "mlp.gate_proj", "mlp.up_proj")
    query, key, value, gate, up = (tensors[f"{prefix}{name}.weight"] for name in names)
    return Layer(
        attention_norm=tensors[f"{prefix}attention_norm.weight"],
        # The scale of attention is multiplied into the query weights.
        query_key_value=np.concatenate([query * np.float32(shape.head_dim**-0.5), key, value]),
        output=np.ascontiguousarray(tensors[f"{prefix}attention.o_proj.weight"]),
        mlp_norm=tensors[f"{prefix}mlp_norm.weight"],
        gate_up=np.concatenate([gate, up]),
        down=np.ascontiguousarray(tensors[f"{prefix}mlp.down_proj.weight"]),
    )
