"""Writes GGUF files from the format's specification, including invalid files that no library would write."""

import struct
from typing import Any

import numpy as np

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 4, 5, 6, 7, 8, 9, 10
_FORMATS = {UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?", UINT64: "<Q"}
F32, F16, Q4_0 = 0, 1, 2


def string(text: str | bytes) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw)) + raw


def scalar(kind: int, value: Any) -> bytes:
    return string(value) if kind == STRING else struct.pack(_FORMATS[kind], value)


def value(kind: int, content: Any) -> bytes:
    if isinstance(content, list):
        return struct.pack("<IIQ", ARRAY, kind, len(content)) + b"".join(scalar(kind, item) for item in content)
    return struct.pack("<I", kind) + scalar(kind, content)


def raw_gguf(keys: dict[str, tuple[int, Any] | bytes], tensors: dict[str, tuple[int, tuple[int, ...], bytes]], version: int = 3) -> bytes:
    """A file of these keys (type and value, or their bytes) and tensors (ggml type, shape, bytes)."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    for name, content in keys.items():
        head += string(name) + (content if isinstance(content, bytes) else value(*content))
    data = b""
    for name, (kind, shape, content) in tensors.items():
        head += string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        head += struct.pack("<IQ", kind, len(data))
        data += content + bytes(-len(content) % 32)
    return head + bytes(-len(head) % 32) + data


def small_keys_and_tensors(vocabulary: list[tuple[str, float, int]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A whole model of one layer with untied float32 matrices, as another program might write it."""
    rows = len(vocabulary)
    keys = {
        "general.architecture": (STRING, "llama"),
        "general.name": (STRING, "foreign"),
        "general.license": (STRING, "mit"),
        "general.languages": (STRING, ["mr", "en"]),
        "general.sampling.temp": (FLOAT32, 0.8),
        "general.sampling.top_k": (INT32, 30),
        "llama.context_length": (UINT32, 64),
        "llama.embedding_length": (UINT32, 32),
        "llama.block_count": (UINT32, 1),
        "llama.feed_forward_length": (UINT32, 64),
        "llama.attention.head_count": (UINT32, 2),
        "llama.attention.layer_norm_rms_epsilon": (FLOAT32, 1e-6),
        "llama.rope.dimension_count": (UINT32, 16),
        "llama.expert_count": (UINT32, 0),
        "tokenizer.ggml.model": (STRING, "llama"),
        "tokenizer.ggml.tokens": (STRING, [text for text, _, _ in vocabulary]),
        "tokenizer.ggml.scores": (FLOAT32, [score for _, score, _ in vocabulary]),
        "tokenizer.ggml.token_type": (INT32, [kind for _, _, kind in vocabulary]),
        "tokenizer.ggml.add_space_prefix": (BOOL, False),
    }
    shapes = {
        "token_embd": (rows, 32),
        "blk.0.attn_norm": (32,),
        "blk.0.attn_q": (32, 32),
        "blk.0.attn_k": (32, 32),
        "blk.0.attn_v": (32, 32),
        "blk.0.attn_output": (32, 32),
        "blk.0.ffn_norm": (32,),
        "blk.0.ffn_gate": (64, 32),
        "blk.0.ffn_up": (64, 32),
        "blk.0.ffn_down": (32, 64),
        "output_norm": (32,),
        "output": (rows, 32),
    }
    rng = np.random.default_rng(3)
    tensors = {f"{name}.weight": (F32, shape, rng.standard_normal(shape).astype("<f4").tobytes()) for name, shape in shapes.items()}
    return keys, tensors
