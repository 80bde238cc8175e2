"""Writes a small model file without random content: the worked example of docs/bullet-format.md.

`python tests/formats/bullet/example_file.py` prints the example in the form that the document has.
"""

import hashlib
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bulletlm.formats.bullet.writer import ModelContents, write_bullet
from bulletlm.quant.types import standard_types
from bulletlm.shape import ModelShape
from bulletlm.text.pieces import Piece

SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>"]
TEXTS = ["नम", "स्", "स्ते", "नमस्ते", "▁h", "▁hi", "▁", "न", "म", "स", "त", "्", "े", "h", "i"]

PIECES = [
    *(Piece(text, 0.0, 2 if text == "<unk>" else 3) for text in SPECIAL),
    *(Piece(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)),
    *(Piece(text, float(-rank), 1) for rank, text in enumerate(TEXTS)),
]

SHAPE = ModelShape(vocab_size=len(PIECES), dim=32, n_layers=1, n_heads=2, n_kv_heads=1, hidden_dim=32, max_seq_len=16)

METADATA = {
    "name": "example",
    "license": "CC0-1.0",
    "languages": ["mr", "en"],
    "sampling": {"temperature": 0.7, "top_k": 40},
}


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def field(number: int, wire: int, content: bytes) -> bytes:
    """A field of a protocol buffer; wire type 0 is a number, 2 is bytes, 5 is four bytes."""
    return varint(number << 3 | wire) + (varint(len(content)) if wire == 2 else b"") + content


TRAINER = field(3, 0, b"\2") + field(4, 0, varint(len(PIECES))) + field(35, 0, b"\1")  # BPE, vocab_size, byte_fallback
NORMALIZER = field(1, 2, b"identity") + field(3, 0, b"\0") + field(4, 0, b"\0")  # no dummy prefix, spaces kept


def proto(pieces: Sequence[Piece] = PIECES, trainer: bytes = TRAINER, normalizer: bytes = NORMALIZER) -> bytes:
    """The vocabulary as a sentencepiece model (a protocol buffer; see sentencepiece_model.proto)."""
    rows = b"".join(
        field(1, 2, field(1, 2, text.encode()) + field(2, 5, struct.pack("<f", score)) + field(3, 0, varint(kind)))
        for text, score, kind in pieces
    )
    return rows + field(2, 2, trainer) + field(3, 2, normalizer)


def tensors() -> dict[str, np.ndarray]:
    """Weights that any language computes exactly: ((37 i + 11 t) mod 101 - 50) / 64 for element i of tensor t; gains 1."""
    weights = {}
    for t, (name, shape) in enumerate(SHAPE.tensors().items()):
        i = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
        weights[name] = (((37 * i + 11 * t) % 101 - 50) / 64).astype(np.float32) if len(shape) == 2 else np.ones(shape, dtype=np.float32)
    return weights


def write(path: Path) -> bytes:
    """Write the example and return its bytes."""
    write_bullet(
        path,
        ModelContents(
            shape=SHAPE, tensors=tensors(), types=standard_types(SHAPE), tokenizer_proto=proto(), pieces=PIECES, metadata=METADATA
        ),
    )
    return path.read_bytes()


def hex_lines(data: bytes, start: int, end: int) -> list[str]:
    """Lines of 16 bytes: offset, hexadecimal, characters."""
    lines = []
    for at in range(start, end, 16):
        row = data[at : at + 16]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{at:08x}  {row.hex(' '):47}  {shown}".rstrip())
    return lines


def as_document() -> str:
    """The part of docs/bullet-format.md between the example's marks."""
    with tempfile.TemporaryDirectory() as folder:
        data = write(Path(folder) / "example.bullet")
    header = data[: data.index(b"\0\0\0\0")]
    text = header.decode()
    offset = {line.split('"')[3]: int(line.split('"offset": ')[1].split(",")[0]) for line in text.splitlines() if '"offset"' in line}
    embedding, query, gain = (offset[f"{name}.weight"] for name in ("token_embedding", "layers.0.attention.q_proj", "final_norm"))
    pieces, model = offset["tokenizer.pieces"], offset["tokenizer.sentencepiece"]
    n = len(PIECES)
    parts = [
        (f"Its {len(header)} bytes of JSON", None),
        ("The beginning", (0, 64)),
        ("The end of the JSON, four NULs, padding to a multiple of 64", (len(header) // 16 * 16 - 16, embedding)),
        ("`token_embedding.weight`, BQ8: the first block of 34 bytes and the beginning of the second", (embedding, embedding + 48)),
        ("`layers.0.attention.q_proj.weight`, BQ4: two blocks of 18 bytes and the beginning of the third", (query, query + 48)),
        ("`final_norm.weight`, F32: four gains of 1.0", (gain, gain + 16)),
        (f"`tokenizer.pieces`: count = {n}, then the ends of the first pieces", (pieces, pieces + 32)),
        ("... the last scores and the first types", ((pieces + 4 + 8 * n) // 16 * 16 - 16, (pieces + 4 + 8 * n) // 16 * 16 + 32)),
        ("... the last types and the first texts", ((pieces + 4 + 9 * n) // 16 * 16 - 16, (pieces + 4 + 9 * n) // 16 * 16 + 32)),
        ("`tokenizer.sentencepiece`: the beginning of the protocol buffer", (model, model + 32)),
        ("The end: padding, SHA-256, `END!`", (len(data) - 36 - 16, len(data))),
    ]
    lines = [f"The file has {len(data)} bytes; SHA-256 of the whole file: `{hashlib.sha256(data).hexdigest()}`", ""]
    for title, span in parts:
        lines += [f"{title}:", "", "```", *(text.splitlines() if span is None else hex_lines(data, *span)), "```", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    print(as_document())
