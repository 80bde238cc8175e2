"""A second, independent writer and reader of format version 1, written from its description, to test the real one."""

import json
import struct
from typing import Any

import numpy as np

NAMES = {
    "token_embedding.weight": "tok_embeddings.weight",
    "final_norm.weight": "final_layernorm.weight",
    "lm_head.weight": "output_head.weight",
    "attention_norm.weight": "norm.attn.weight",
    "attention.q_proj.weight": "attention.query.weight",
    "attention.k_proj.weight": "attention.key.weight",
    "attention.v_proj.weight": "attention.value.weight",
    "attention.o_proj.weight": "attention.output.weight",
    "mlp_norm.weight": "norm.ffn.weight",
    "mlp.gate_proj.weight": "ffn.w1.weight",
    "mlp.up_proj.weight": "ffn.w3.weight",
    "mlp.down_proj.weight": "ffn.w2.weight",
}


def v1_name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    _, n, part = name.split(".", 2)
    return f"layers.{n}.{NAMES[part]}"


def fnv(name: str, prime: int = 1099511628211) -> int:
    value = 14695981039346656037
    for byte in name.encode():
        value = ((value ^ byte) * prime) % 2**64
    return value


def block_a(weights: np.ndarray, zero: int = 8) -> bytes:
    """32 weights by the scale of the largest one, around `zero`."""
    scale = np.float16(max(np.abs(weights).max() / min(zero, 15 - zero), 1e-4))
    nibbles = np.clip(np.round(weights / np.float32(scale)) + zero, 0, 15).astype(int).tolist()
    pairs = bytes(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True))
    return struct.pack("<ebB", scale, zero, 0) + pairs


def value_a(block: bytes) -> list[float]:
    scale, zero, _ = struct.unpack("<ebB", block[:4])
    return [((byte >> shift & 15) - zero) * scale for byte in block[4:] for shift in (0, 4)]


def block_b(weights: np.ndarray) -> bytes:
    scale = np.float16(max(np.abs(weights).max() / 7, 1e-4))
    nibbles = (np.clip(np.round(weights / np.float32(scale)), -8, 7).astype(int) & 15).tolist()
    pairs = bytes(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True))
    return struct.pack("<ebB", scale, 0, 0) + pairs


def value_b(block: bytes) -> list[float]:
    scale = struct.unpack("<e", block[:2])[0]
    nibbles = [byte >> shift & 15 for byte in block[4:] for shift in (0, 4)]
    return [(nibble - 16 if nibble > 7 else nibble) * scale for nibble in nibbles]


def file_a(header: dict[str, Any], tokens: list[tuple[bytes, float]], tensors: list[tuple[str, tuple[int, ...], int, bytes]]) -> bytes:
    """`tensors` are (version 1's name, shape, type, data)."""
    vocabulary = b"BULK" + struct.pack("<I", len(tokens))
    vocabulary += b"".join(struct.pack("<fH", score, len(text)) + text for text, score in tokens)
    vocabulary += struct.pack("<I", 1) + struct.pack("<H", 1) + b"h" + struct.pack("<H", 1) + b"i"
    start = 4096 + len(vocabulary)
    start += -start % 64
    text = json.dumps({**header, "file_offsets": {"tokenizer_start": 4096, "weights_start": start}}, indent=2).encode()
    out = bytearray((text + bytes(4)).ljust(4096, b"\0") + vocabulary)
    out += bytes(start - len(out)) + b"BWT0" + struct.pack("<I", len(tensors))
    for name, shape, kind, data in tensors:
        out += struct.pack("<QB4HBI", fnv(name), len(shape), *(*shape, 1, 1, 1)[:4], kind, len(data))
        out += bytes(-len(out) % 32) + data
    return bytes(out + b"END!")


def file_b(header: dict[str, Any], tokens: list[bytes], tensors: list[tuple[str, tuple[int, ...], int, bytes]]) -> bytes:
    vocabulary = b"BULK" + struct.pack("<I", len(tokens)) + b"".join(struct.pack("<H", len(text)) + text for text in tokens)
    start = 4096 + len(vocabulary)
    start += -start % 64
    text = json.dumps({**header, "file_offsets": {"tokenizer_start": 4096, "weights_start": start}}, indent=2).encode()
    out = (text + bytes(4)).ljust(4096, b"\0") + vocabulary
    out += bytes(start - len(out)) + b"BWT0" + struct.pack("<I", len(tensors))
    for name, shape, kind, data in tensors:
        out += struct.pack("<QB", fnv(name, 0x1099511628211), len(shape)) + struct.pack(f"<{len(shape)}H", *shape)
        out += struct.pack("<BI", kind, len(data)) + data
    return out + b"BULLET_END" + b"END!"


def file_c(tensors: list[tuple[str, tuple[int, ...], int, bytes]], block_size: int = 32) -> bytes:
    """`tensors` are (name, shape, number of blocks, data)."""
    size = 12 + sum(4 + len(name.encode()) + 4 + 4 * len(shape) + 16 for name, shape, _, _ in tensors)
    head, data = b"BQ4F" + struct.pack("<II", 1, len(tensors)), b""
    for name, shape, blocks, content in tensors:
        head += struct.pack("<I", len(name.encode())) + name.encode() + struct.pack(f"<I{len(shape)}I", len(shape), *shape)
        head += struct.pack("<IIQ", block_size, blocks, size + len(data))
        data += content
    return head + data


def runtime_a(data: bytes) -> tuple[dict[str, int], list[tuple[bytes, float]], list[tuple[bytes, bytes]], dict[int, np.ndarray]]:
    """What version 1's own runtime takes from a file: numbers found by searching the text, every tensor as BQ4."""
    text = data[: data.index(bytes(4))].decode()

    def find(key: str) -> int:
        at = text.index(f'"{key}":') + len(key) + 3
        return int("".join(c for c in text[at : at + 20].strip().split("\n")[0] if c.isdigit()))

    keys = ("hidden_size", "num_layers", "num_heads", "vocab_size", "max_context", "tokenizer_start", "weights_start")
    numbers = {key: find(key) for key in keys}
    at = numbers["tokenizer_start"]
    assert at % 4096 == 0 and data[at : at + 4] == b"BULK"
    (count,) = struct.unpack_from("<I", data, at + 4)
    at += 8
    tokens = []
    for _ in range(count):
        score, length = struct.unpack_from("<fH", data, at)
        tokens.append((data[at + 6 : at + 6 + length], score))
        at += 6 + length
    (count,) = struct.unpack_from("<I", data, at)
    at += 4
    merges = []
    for _ in range(count):
        pair = []
        for _ in range(2):
            (length,) = struct.unpack_from("<H", data, at)
            pair.append(data[at + 2 : at + 2 + length])
            at += 2 + length
        merges.append((pair[0], pair[1]))
    at = numbers["weights_start"]
    assert at % 64 == 0 and data[at : at + 4] == b"BWT0"
    (count,) = struct.unpack_from("<I", data, at + 4)
    at += 8
    tensors = {}
    for _ in range(count):
        hashed, rank, *shape, kind, size = struct.unpack_from("<QB4HBI", data, at)
        at += 8 + 1 + 8 + 1 + 4
        at += -at % 32
        assert kind == 0 and shape[rank:] == [1] * (4 - rank)
        blocks = [data[i : i + 20] for i in range(at, at + size, 20)]
        tensors[hashed] = np.array([value_a(block) for block in blocks], dtype=np.float32).reshape(shape[:rank])
        at += size
    assert data[at:] == b"END!"
    return numbers, tokens, merges, tensors
