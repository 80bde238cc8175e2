"""Tests invalid files: for every rule of docs/bullet-format.md a file that breaks only this rule, and damage of every kind.

Each file has a correct SHA-256 (unless the checksum is what is tested), so that the rule itself must refuse it.
"""

import copy
import hashlib
import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import example_file
import fuzz
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulletlm.cli.app import main
from bulletlm.errors import FormatError
from bulletlm.formats.bullet.layout import encode_pieces
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.text.pieces import Piece
from paths import DOCS, ROOT

DOCUMENT = DOCS / "bullet-format.md"
FOLDER = ROOT / "tests" / "hostile"
"""The files stay here, for other readers of the format."""

N = len(example_file.PIECES)
HEADER_BYTES = 8192
"""Room for the JSON in forged files: a changed header stays as long, so nothing else moves."""


class Good(bytes):
    """A valid file, with a short repr for failing tests."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return Good(example_file.write(tmp_path_factory.mktemp("good") / "example.bullet"))


def sealed(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest() + b"END!"


def forge(
    good: bytes,
    change: Callable[[dict[str, Any]], Any] = lambda header: None,
    text: Callable[[bytes], bytes] = lambda text: text,
    body: Callable[[bytearray, dict[str, int]], Any] = lambda data, at: None,
    pieces: list[Any] | None = None,
    section: Callable[[bytes], bytes] = lambda content: content,
    model: bytes | None = None,
) -> bytes:
    """A model file built without the writer: laid out again, then changed in its header, its JSON text or its body."""
    header = json.loads(good[: good.index(b"\0\0\0\0")])
    data = bytearray(HEADER_BYTES)
    at: dict[str, int] = {}
    for entry in header["tensors"] + header["sections"]:
        content = good[entry["offset"] :][: entry["bytes"]]
        if entry["name"] == "tokenizer.pieces":
            content = section(encode_pieces(pieces) if pieces else content)
        elif entry["name"] == "tokenizer.sentencepiece":
            content = content if model is None else model
        entry["offset"], entry["bytes"] = len(data), len(content)
        at[entry["name"]] = len(data)
        data += content + bytes(-len(content) % 64)
    change(header)
    raw = text(json.dumps(header).encode())
    data[:HEADER_BYTES] = raw.ljust(HEADER_BYTES - 4) + bytes(4)
    body(data, at)
    return sealed(bytes(data))


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set header[path...] = value."""

    def change(header: Any) -> None:
        for step in path[:-1]:
            header = header[step]
        header[path[-1]] = value

    return change


def drop(*path: str | int) -> Callable[[dict[str, Any]], None]:
    def change(header: Any) -> None:
        for step in path[:-1]:
            header = header[step]
        del header[path[-1]]

    return change


def swap(key: str, a: int, b: int) -> Callable[[dict[str, Any]], None]:
    def change(header: Any) -> None:
        header[key][a], header[key][b] = header[key][b], header[key][a]

    return change


def replaced(i: int, **fields: Any) -> list[Any]:
    pieces = list(example_file.PIECES)
    pieces[i] = pieces[i]._replace(**fields)
    return pieces


def overwrite(name: str, shift: int, content: bytes) -> Callable[[bytearray, dict[str, int]], None]:
    def body(data: bytearray, at: dict[str, int]) -> None:
        data[at[name] + shift : at[name] + shift + len(content)] = content

    return body


UP, GAIN, EMBEDDING = "layers.0.mlp.up_proj.weight", "final_norm.weight", "token_embedding.weight"
PIECES, MODEL = "tokenizer.pieces", "tokenizer.sentencepiece"
ENDS, SCORES, TYPES, TEXTS = 4, 4 + 4 * N, 4 + 8 * N, 4 + 9 * N
NAN16, INF16 = b"\x01\x7e", b"\x00\xfc"
F32_NAN, F32_INF = b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f"

Forgery = Callable[[bytes], bytes]


def raw(content: bytes) -> Forgery:
    return lambda good: content


def header(change: Callable[[dict[str, Any]], Any]) -> Forgery:
    return lambda good: forge(good, change=change)


def json_text(old: bytes, new: bytes) -> Forgery:
    return lambda good: forge(good, text=lambda text: text.replace(old, new, 1))


def extra_json(value: bytes) -> Forgery:
    return json_text(b'"name": "example"', b'"name": "example", "x": ' + value)


def body(name: str, shift: int, content: bytes) -> Forgery:
    return lambda good: forge(good, body=overwrite(name, shift, content))


def vocabulary(pieces: list[Any]) -> Forgery:
    return lambda good: forge(good, pieces=pieces)


def model(content: bytes) -> Forgery:
    """The section tokenizer.sentencepiece replaced."""
    return lambda good: forge(good, model=content)


def trainer(number: int, value: int) -> Forgery:
    """Set a field of the trainer's settings after the existing ones: the last value of a field counts."""
    return model(example_file.proto(trainer=example_file.TRAINER + example_file.field(number, 0, bytes([value]))))


def normalizer(number: int, value: int) -> Forgery:
    return model(example_file.proto(normalizer=example_file.NORMALIZER + example_file.field(number, 0, bytes([value]))))


def cut_section(size: int) -> Forgery:
    return lambda good: forge(good, section=lambda content: content[:size])


def typed_f16(good: bytes) -> bytes:
    """The embedding as F16, with an infinite number in it."""

    def change(h: dict[str, Any]) -> None:
        size = N * 32 * 2
        entry = h["tensors"][0]
        shift = -(-size // 64) * 64 - -(-entry["bytes"] // 64) * 64
        entry["type"], entry["bytes"] = "F16", size
        for later in h["tensors"][1:] + h["sections"]:
            later["offset"] += shift

    content = forge(good, change=change)
    numbers = np.ones(N * 32, dtype="<f2")
    numbers[77] = np.inf
    old = -(-json.loads(content[:HEADER_BYTES].rstrip(b" \0"))["tensors"][0]["bytes"] // 64) * 64
    rest = forge(good)[HEADER_BYTES + -(-(N * 34) // 64) * 64 : -36]
    return sealed(content[:HEADER_BYTES] + numbers.tobytes().ljust(old, b"\0") + rest)


HOSTILE: list[tuple[str, Forgery, str]] = [
    ("F1", raw(b""), "the file is empty"),
    ("F1", raw(b"\x80\x04\x95" + bytes(200)), "Python pickle .*dialect D"),
    ("F1", raw(b"BQ4F\x01\0\0\0" + bytes(200)), "dialect C, BQ4F"),
    (
        "F1",
        raw(b'{"bullet_version": "1.0", "hidden_size": 256}\0\0\0\0'.ljust(4096, b"\0") + b"BULK" + bytes(64) + b"END!"),
        "dialect A, C",
    ),
    ("F1", raw(b'{"bullet_version":"1.0","num_layers":8}\0\0\0\0BULK' + bytes(64) + b"BULLET_ENDEND!"), "dialect B, Python writer"),
    ("F1", raw(b'{"hidden_size": 64, "bullet_version": 1.0}\0\0\0\0' + bytes(64)), "version 1"),
    ("F1", raw(b"GGUF\x03\0\0\0" + bytes(200)), "a GGUF file"),
    ("F1", raw(b'{"bullet_version": "3.0"}\0\0\0\0' + bytes(200)), r"must begin with .*2\.x"),
    ("F1", json_text(b'{"bullet_version": "2.0", ', b'{"a": 1, "bullet_version": "2.0", '), r"must begin with"),
    ("F1", raw(b"\x7fELF" + bytes(200)), "a program or library, not a model"),
    ("F2", raw(b'{"bullet_version": "2.0", "a": "' + b"x" * 3000), "header does not end"),
    ("F2", raw(b'{"bullet_version": "2.0", "a": "' + b"x" * (1 << 20) + b'"}\0\0\0\0'), "header does not end"),
    ("J1", json_text(b'"example"', b'"ex\xffmple"'), r"header: byte \d+ is not UTF-8"),
    ("J1", json_text(b'"example"', b'"\xed\xa0\x80"'), r"header: byte \d+ is not UTF-8"),
    ("J2", json_text(b'"tensors": [', b'"tensors": ['[:-1]), "header: not valid JSON"),
    ("J2", json_text(b'"dim": 32', b'"dim": 032'), "header: not valid JSON"),
    ("J2", json_text(b'"dim": 32', b'"dim": ' + b"9" * 5000), "header: not valid JSON"),
    ("J2", json_text(b"]}", b"]} {}"), "header: not valid JSON"),
    ("J3", json_text(b'"dim": 32', b'"dim": 32, "dim": 64'), 'key "dim" is given twice'),
    ("J3", extra_json(b'{"\\n\\u001b[2J": 1, "\\n\\u001b[2J": 2}'), r'key "\\n\\u001b\[2J" is given twice'),
    ("J4", json_text(b"10000.0", b"NaN"), "NaN is not a JSON number"),
    ("J4", extra_json(b"-Infinity"), "-Infinity is not a JSON number"),
    ("J4", extra_json(b"1e999"), "number is too large"),
    ("J4", extra_json(b"9223372036854775808"), "does not fit into 64 bits"),
    ("J5", extra_json(b'"\\ud83d"'), "half of a surrogate pair"),
    ("J5", extra_json(b'{"\\udc00": 1}'), "half of a surrogate pair"),
    ("J6", extra_json(b"[" * 40 + b"]" * 40), "nested deeper than 32"),
    ("J6", extra_json(b"[" * 3000 + b"]" * 3000), "nested deeper than 32"),
    ("H1", json_text(b'"2.0"', b'"2.x"'), r"header\.bullet_version is \"2\.x\""),
    ("H2", header(put("architecture", value="gpt2")), r"header\.architecture is \"gpt2\""),
    ("H2", header(drop("architecture")), r"header\.architecture is missing"),
    ("H3", header(put("shape", value=[])), "shape is .*: it must be an object"),
    ("H3", header(drop("shape")), r"header\.shape is missing"),
    *(("H3", header(drop("shape", field)), rf"shape\.{field} is missing") for field in example_file.SHAPE.to_dict()),
    ("H4", header(put("shape", "dim", value=32.0)), r"shape\.dim is 32\.0: it must be a whole number"),
    ("H4", header(put("shape", "n_layers", value=True)), r"shape\.n_layers is true: it must be a whole number"),
    ("H4", header(put("shape", "n_heads", value="2")), r"shape\.n_heads is \"2\""),
    ("H4", header(put("shape", "vocab_size", value=None)), r"shape\.vocab_size is null"),
    ("H4", header(put("shape", "n_layers", value=0)), r"shape\.n_layers is 0"),
    ("H4", header(put("shape", "n_layers", value=10**9)), r"shape\.n_layers is 1000000000"),
    ("H4", header(put("shape", "dim", value=1 << 40)), r"shape\.dim is 1099511627776"),
    ("H4", header(put("shape", "max_seq_len", value=-5)), r"shape\.max_seq_len is -5"),
    ("H4", header(put("shape", "tied_embeddings", value=1)), r"shape\.tied_embeddings is 1"),
    ("H4", header(put("shape", "norm_eps", value=0)), r"shape\.norm_eps is 0"),
    ("H4", header(put("shape", "rope_theta", value=False)), r"shape\.rope_theta is false"),
    ("H4", header(put("shape", "rope_theta", value=1e300)), r"shape\.rope_theta is 1e\+300"),
    ("H5", header(put("shape", "dim", value=48)), "shape: dim 48 is not divisible by 32"),
    ("H5", header(put("shape", "n_heads", value=5)), "shape: dim 32 is not divisible by n_heads 5"),
    ("H5", header(put("shape", "n_heads", value=32)), "shape: head_dim 1"),
    ("H5", header(put("shape", "n_kv_heads", value=3)), "shape: n_heads 2 is not divisible by n_kv_heads 3"),
    ("H6", header(put("tokenizer", value="bpe")), 'tokenizer is "bpe"'),
    ("H6", header(put("tokenizer", "kind", value="unigram")), r"tokenizer\.kind is \"unigram\""),
    ("H6", header(drop("tokenizer", "kind")), r"tokenizer\.kind is missing"),
    ("H7", header(put("tokenizer", "special", value=[0, 1, 2])), r"tokenizer\.special is \[0, 1, 2\]"),
    ("H7", header(drop("tokenizer", "special", "eos")), r"tokenizer\.special\.eos is missing"),
    ("H7", header(put("tokenizer", "special", "end", value=N)), rf"tokenizer\.special\.end is {N}"),
    ("H7", header(put("tokenizer", "special", "bos", value=-1)), r"tokenizer\.special\.bos is -1"),
    ("H7", header(put("tokenizer", "special", "bos", value=True)), r"tokenizer\.special\.bos is true"),
    ("H7", header(put("tokenizer", "special", "end", value=2)), r"tokenizer\.special\.end is 2, which tokenizer\.special\.eos is"),
    ("H8", header(put("name", value=5)), r"name is 5: it must be text"),
    ("H8", header(put("license", value={})), r"license is {}"),
    ("H8", header(put("chat_template", value=None)), r"chat_template is null"),
    ("H8", header(put("languages", value="mr")), r"languages is \"mr\": it must be a list"),
    ("H8", header(put("languages", value=["mr", 1])), r"languages\[1\] is 1"),
    ("H8", header(put("training", value=[])), r"training is \[\]"),
    ("H8", header(put("quantised", value="BQ4")), r"quantised is \"BQ4\""),
    ("H8", header(put("sampling", value=3)), r"sampling is 3"),
    ("H8", header(put("sampling", "temperature", value="hot")), r"sampling\.temperature is \"hot\""),
    ("H8", header(put("sampling", "temperature", value=-0.1)), r"sampling\.temperature is -0\.1"),
    ("H8", header(put("sampling", "top_k", value=1.5)), r"sampling\.top_k is 1\.5"),
    ("H8", header(put("sampling", "top_p", value=1.01)), r"sampling\.top_p is 1\.01"),
    ("H8", header(put("sampling", "min_p", value=True)), r"sampling\.min_p is true"),
    ("H8", header(put("sampling", "repetition_penalty", value=0)), r"sampling\.repetition_penalty is 0"),
    ("H8", header(put("sampling", "max_tokens", value=0)), r"sampling\.max_tokens is 0"),
    ("T1", header(put("tensors", value={})), r"header\.tensors is {}"),
    ("T1", header(drop("tensors")), r"header\.tensors is missing"),
    ("T1", header(put("tensors", 2, value="x")), r"tensors\[2\] is \"x\": it must be an object"),
    ("T1", header(drop("tensors", 2, "name")), r"tensors\[2\]\.name is missing"),
    ("T1", header(put("tensors", 2, "name", value=7)), r"tensors\[2\]\.name is 7"),
    ("T1", header(put("tensors", 2, "name", value=GAIN)), r"tensors\[10\]\.name is \"final_norm\.weight\", which tensors\[2\] is"),
    *(("T1", header(drop("tensors", 2, key)), rf"tensors\[2\] .*\.{key} is missing") for key in ("type", "shape", "offset", "bytes")),
    ("T2", header(drop("tensors", 10)), "tensors has 10 entries, but shape implies 11"),
    ("T2", header(put("shape", "n_layers", value=2)), "tensors has 11 entries, but shape implies 20"),
    ("T2", header(put("shape", "tied_embeddings", value=False)), "tensors has 11 entries, but shape implies 12"),
    ("T3", header(swap("tensors", 3, 4)), r"tensors\[3\]\.name is .*v_proj"),
    ("T3", header(put("tensors", 3, "name", value="\u001b[2Jevil")), r"tensors\[3\]\.name is \"\\u001b\[2Jevil\""),
    ("T4", header(put("tensors", 2, "type", value="BQ5")), r"tensors\[2\] .*\.type is \"BQ5\""),
    ("T4", header(put("tensors", 2, "type", value=["BQ4"])), r"tensors\[2\] .*\.type is \[\"BQ4\"\]"),
    ("T5", header(put("tensors", 1, "type", value="BQ4")), r"tensors\[1\] .*norm gains must be F32"),
    ("T6", header(put("tensors", 2, "shape", value=[32, 64])), r"tensors\[2\] .*\.shape is \[32, 64\]"),
    ("T6", header(put("tensors", 3, "shape", value=[32, 16])), r"tensors\[3\] .*\.shape is \[32, 16\]"),
    ("T6", header(put("tensors", 2, "shape", value=[32.0, 32])), r"tensors\[2\] .*\.shape is \[32\.0, 32\]"),
    ("T6", header(put("tensors", 2, "shape", value="32x32")), r"tensors\[2\] .*\.shape is \"32x32\""),
    ("T6", header(put("shape", "hidden_dim", value=64)), r"tensors\[7\] .*\.shape is \[32, 32\]: shape implies \[64, 32\]"),
    ("T7", header(put("tensors", 2, "bytes", value=577)), r"tensors\[2\] .*\.bytes is 577"),
    ("T7", header(put("tensors", 2, "bytes", value=-1)), r"tensors\[2\] .*\.bytes is -1"),
    ("T7", header(put("tensors", 2, "type", value="BQ8")), r"tensors\[2\] .*\.bytes is 576: BQ8 of shape \[32, 32\] takes 1088"),
    ("S1", header(put("sections", value=0)), r"header\.sections is 0"),
    ("S1", header(put("sections", 1, value=[])), r"sections\[1\] is \[\]"),
    ("S1", header(put("sections", 1, "name", value=None)), r"sections\[1\]\.name is null"),
    ("S1", header(put("sections", 1, "name", value=PIECES)), r"sections\[1\]\.name is .*which sections\[0\] is already"),
    ("S1", header(drop("sections", 1, "offset")), r"sections\[1\]\.offset is missing"),
    ("S2", header(put("sections", 0, "name", value="other")), 'sections has no "tokenizer.pieces"'),
    ("S2", header(put("sections", 1, "name", value="other")), 'sections has no "tokenizer.sentencepiece"'),
    ("S3", header(put("sections", 1, "bytes", value=0)), r"sections\[1\]\.bytes is 0"),
    ("S3", header(put("sections", 1, "bytes", value="9")), r"sections\[1\]\.bytes is \"9\""),
    ("L1", header(put("tensors", 0, "offset", value=0)), r"tensors\[0\] .*\.offset is 0: it must be 8192"),
    ("L1", header(put("tensors", 1, "offset", value=HEADER_BYTES)), r"tensors\[1\] .*\.offset is 8192"),
    ("L1", header(put("tensors", 4, "offset", value=10**15)), r"tensors\[4\] .*\.offset is 1000000000000000"),
    ("L1", header(put("tensors", 4, "offset", value=-64)), r"tensors\[4\] .*\.offset is -64"),
    ("L1", header(lambda h: h["tensors"][5].update(offset=h["tensors"][5]["offset"] + 1)), r"tensors\[5\] .*\.offset"),
    ("L1", header(lambda h: h["tensors"][5].update(offset=h["tensors"][5]["offset"] + 64)), r"tensors\[5\] .*\.offset"),
    ("L1", header(lambda h: h["sections"][1].update(offset=h["sections"][0]["offset"])), r"sections\[1\] .*\.offset"),
    ("L1", header(put("sections", 0, "bytes", value=10**18)), r"sections\[1\] .*\.offset"),
    ("L2", lambda good: forge(good) + b"\0", "something follows its end"),
    ("L2", lambda good: forge(good)[:-36] + bytes(64) + forge(good)[-36:], "something follows its end"),
    ("L2", lambda good: forge(good)[:-1], "it is cut short"),
    ("L2", header(put("sections", 1, "bytes", value=10**18)), "it is cut short"),
    ("L3", lambda good: forge(good, body=overwrite(EMBEDDING, N * 34, b"\1")), r"padding from byte \d+ to \d+ is not all zeros"),
    ("L3", lambda good: forge(good, body=overwrite(MODEL, len(example_file.proto()), b"!")), "is not all zeros"),
    ("L4", lambda good: forge(good)[:-1] + b"?", 'does not end in "END!"'),
    ("P1", body(PIECES, 0, (N - 1).to_bytes(4, "little")), rf"count is {N - 1}, but shape\.vocab_size is {N}"),
    ("P1", body(PIECES, 0, b"\xff\xff\xff\xff"), "count is 4294967295"),
    ("P1", cut_section(3), "3 bytes cannot hold the number of pieces"),
    ("P1", cut_section(TEXTS - 1), rf"{TEXTS - 1} bytes cannot hold {N} pieces"),
    ("P2", body(PIECES, ENDS + 4, (1).to_bytes(4, "little")), r"ends\[1\] is not above"),
    ("P2", body(PIECES, ENDS, bytes(4)), r"ends\[0\] is not above"),
    ("P2", body(PIECES, ENDS + 40, b"\xff\xff\xff\xff"), r"ends\[11\] is not above"),
    ("P3", body(PIECES, SCORES - 4, b"\xff\xff\xff\xff"), "last of ends is 4294967295, but the text has"),
    ("P3", cut_section(TEXTS + 50), "but the text has 50 bytes"),
    ("P4", body(PIECES, SCORES + 4 * 262, F32_NAN), r"scores\[262\] is NaN or infinite"),
    ("P4", body(PIECES, SCORES, F32_INF), r"scores\[0\] is NaN or infinite"),
    ("P5", body(PIECES, TYPES + 262, b"\x04"), r"types\[262\] is 4"),
    ("P5", body(PIECES, TYPES + 1, b"\x00"), r"types\[1\] is 0"),
    ("P6", body(PIECES, TEXTS, b"\xff"), "text of piece 0 is not UTF-8"),
    ("P7", vocabulary(replaced(N - 1, text="h")), rf"piece {N - 1} has the same text as piece {N - 2}"),
    ("P8", vocabulary(replaced(0, type=3)), "0 pieces are of type 2"),
    ("P8", vocabulary(replaced(N - 1, type=2)), "2 pieces are of type 2"),
    ("P9", vocabulary(replaced(6, type=1)), "'<0x00>' is missing"),
    ("P9", vocabulary(replaced(N - 1, type=6)), "'i' is extra"),
    (
        "P10",
        header(put("tokenizer", "special", "end", value=N - 1)),
        rf"tokenizer\.special\.end is {N - 1}, but piece {N - 1} is of type 1",
    ),
    ("P10", header(put("tokenizer", "special", "unk", value=6)), r"tokenizer\.special\.unk is 6, but piece 6 is of type 6"),
    (
        "P11",
        header(lambda h: h["tokenizer"]["special"].update(bos=2, eos=1)),
        r"tokenizer\.special\.bos is 2, but piece 2 is '</s>', not '<s>'",
    ),
    (
        "P11",
        header(lambda h: h["tokenizer"]["special"].update(user=4, assistant=3)),
        r"tokenizer\.special\.user is 4, but piece 4 is '<\|assistant\|>', not '<\|user\|>'",
    ),
    ("P11", vocabulary(replaced(5, text="\u001b[2J")), r"tokenizer\.special\.end is 5, but piece 5 is '\\x1b\[2J', not '<\|end\|>'"),
    ("P11", vocabulary(replaced(0, text="<none>")), r"tokenizer\.special\.unk is 0, but piece 0 is '<none>', not '<unk>'"),
    ("N1", body(UP, 18, NAN16), r"tensor layers\.0\.mlp\.up_proj\.weight holds a scale or number that is NaN"),
    ("N1", body(EMBEDDING, 34 * 9, INF16), r"tensor token_embedding\.weight holds"),
    ("N1", body(GAIN, 124, F32_NAN), r"tensor final_norm\.weight holds"),
    ("N1", typed_f16, r"tensor token_embedding\.weight holds"),
    ("V1", lambda good: good[:9000] + bytes([good[9000] ^ 1]) + good[9001:], "SHA-256 .* does not fit"),
    ("V1", lambda good: good[:-10] + bytes([good[-10] ^ 1]) + good[-9:], "SHA-256 .* does not fit"),
    ("M1", model(b"\xff" * 64), "sentencepiece: it is damaged or cut short"),
    ("M1", model(example_file.proto()[:-1]), "sentencepiece: it is damaged or cut short"),
    ("M1", body(MODEL, 1, b"\xff\xff\x7f"), "sentencepiece: it is damaged or cut short"),
    ("M1", body(MODEL, 0, b"\x0b"), "unknown wire type 3"),
    ("M1", model(example_file.proto() + example_file.field(1, 2, example_file.field(1, 2, b"\xff"))), "is not UTF-8"),
    ("M2", model(example_file.proto(example_file.PIECES[:-1])), f"sentencepiece: it has {N - 1} pieces, not {N}"),
    ("M2", model(example_file.proto([*example_file.PIECES, Piece("more", -99.0, 1)])), f"sentencepiece: it has {N + 1} pieces, not {N}"),
    ("M2", model(example_file.proto([])), f"sentencepiece: it has 0 pieces, not {N}"),
    ("M3", vocabulary(replaced(N - 1, score=1.5)), rf"piece {N - 1} \('i'\) has the score -14, but must have 1.5"),
    ("M3", vocabulary(replaced(N - 1, text="j")), rf"piece {N - 1} is 'i', but must be 'j'"),
    ("M3", model(example_file.proto(replaced(6, text="<0x01>"))), "piece 6 is '<0x01>', but must be '<0x00>'"),
    *(
        ("M4", model(example_file.proto(replaced(i, type=4))), rf"piece {i} \(.*\) is of type 4 \(user-defined\), but must be {kind}")
        for i, kind in enumerate((2, 3, 3, 3, 3, 3))
    ),
    *(("M4", model(example_file.proto(replaced(i, type=1))), rf"piece {i} .* is of type 1 \(normal\)") for i in range(7)),
    ("M4", model(example_file.proto(replaced(N - 1, type=5))), rf"piece {N - 1} .* is of type 5 \(unused\), but must be 1"),
    ("M4", model(example_file.proto(replaced(N - 1, type=4))), rf"piece {N - 1} .* is of type 4 \(user-defined\)"),
    ("M4", model(example_file.proto(replaced(N - 1, type=3))), rf"piece {N - 1} .* is of type 3 \(control\)"),
    ("M4", model(example_file.proto(replaced(N - 1, type=99))), rf"piece {N - 1} .* is of type 99 \(unknown to us\)"),
    ("M5", trainer(3, 1), "its model_type is not BPE"),
    ("M5", model(example_file.proto(trainer=b"")), "its model_type is not BPE"),
    ("M5", trainer(35, 0), "byte_fallback is false"),
    ("M5", trainer(24, 1), "spaces at the end of words"),
    ("M6", normalizer(3, 1), r"it puts a space in front \(add_dummy_prefix\)"),
    ("M6", model(example_file.proto(normalizer=b"")), r"it puts a space in front \(add_dummy_prefix\)"),
    ("M6", normalizer(4, 1), r"it removes spaces \(remove_extra_whitespaces\)"),
    ("M6", normalizer(5, 0), r"it does not write spaces as U\+2581"),
    ("M6", model(example_file.proto(normalizer=example_file.NORMALIZER + example_file.field(2, 2, b"map"))), "it has a normalizer"),
    ("M6", model(example_file.proto() + example_file.field(5, 2, example_file.field(2, 2, b"map"))), "it has a denormalizer"),
    ("M6", model(example_file.proto() + example_file.field(3, 2, example_file.field(3, 0, b"\1"))), "it puts a space in front"),
]


def read_everything(path: Path) -> None:
    """Do what a careful program does: open the file, decode every tensor, verify it."""
    file = open_bullet(path)
    for name in file.tensors:
        assert np.isfinite(file.dequantize(name)).all()
    file.verify()


def test_the_forger_forges_files_that_are_read(tmp_path: Path, good: bytes) -> None:
    path = tmp_path / "forged.bullet"
    path.write_bytes(forge(good))
    read_everything(path)
    path.write_bytes(forge(good, change=put("future", value={"kept": [1, 2.5, None]})))
    read_everything(path)
    assert open_bullet(path).metadata["future"] == {"kept": [1, 2.5, None]}
    path.write_bytes(forge(good, change=put("shape", "future", value=1)))
    read_everything(path)
    path.write_bytes(forge(good, text=lambda text: text.replace(b'"2.0"', b'"2.17"', 1)))
    read_everything(path)


def test_a_section_that_we_do_not_know_is_ignored(tmp_path: Path, good: bytes) -> None:
    def add(header: dict[str, Any]) -> None:
        last = header["sections"][-1]
        offset = -(-(last["offset"] + last["bytes"]) // 64) * 64
        header["sections"].append({"name": "future.section", "offset": offset, "bytes": 64})

    path = tmp_path / "forged.bullet"
    path.write_bytes(sealed(forge(good, change=add)[:-36] + b"?" * 64))
    read_everything(path)


@pytest.mark.parametrize(("rule", "forgery", "message"), HOSTILE, ids=[f"{rule}-{n}" for n, (rule, _, _) in enumerate(HOSTILE)])
def test_hostile_file(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    good: bytes,
    rule: str,
    forgery: Forgery,
    message: str,
) -> None:
    path = FOLDER / f"{request.node.callspec.id}.bullet"
    content = forgery(good)
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=message) as caught:
            if rule in ("N1", "V1"):
                file = open_bullet(path)  # structure is fine
                if rule == "N1":
                    for name in file.tensors:
                        file.dequantize(name)
                else:
                    file.verify()
            else:
                open_bullet(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    text = str(caught.value)
    assert text.isprintable() and len(text) < 400
    assert peak < 4 * len(content) + 1_000_000
    for words in (["verify", str(path)], ["convert", str(path), str(tmp_path / "out.gguf")]):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        shown = capsys.readouterr()
        assert stopped.value.code == 1 and not shown.out
        assert shown.err.startswith("bullet: ") and shown.err.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_every_rule_of_the_document_has_a_hostile_file() -> None:
    documented = re.findall(r"^\| ([A-Z]\d+) \|", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(documented) == len(set(documented))
    assert set(documented) == {rule for rule, _, _ in HOSTILE}


def test_cut_short_anywhere(tmp_path: Path, good: bytes) -> None:
    path = tmp_path / "cut.bullet"
    for size in [*range(0, len(good), 64), *range(len(good) - 70, len(good))]:
        path.write_bytes(good[:size])
        with pytest.raises(FormatError):
            open_bullet(path)
        if size > 64:
            path.write_bytes(sealed(good[: size - size % 64]))  # cut, and then given a correct end
            if size - size % 64 != len(good) - 36:
                with pytest.raises(FormatError):
                    open_bullet(path)


def damage(good: bytes, flips: list[tuple[float, int]], in_header: bool) -> bytes:
    data = bytearray(good)
    for place, bit in flips:
        data[int(place * (1846 if in_header else len(data) - 36))] ^= 1 << bit
    return bytes(data)


flips = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=4)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(flips=flips, in_header=st.booleans())
def test_flipped_bits_are_found(tmp_path: Path, good: bytes, flips: list[tuple[float, int]], in_header: bool) -> None:
    damaged = damage(good, flips, in_header)
    if damaged == good:
        return
    path = tmp_path / "damaged.bullet"
    path.write_bytes(damaged)
    with pytest.raises(FormatError):
        read_everything(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(flips=flips, in_header=st.booleans())
def test_flipped_bits_under_a_right_checksum(tmp_path: Path, good: bytes, flips: list[tuple[float, int]], in_header: bool) -> None:
    """Some changes only change weights, so the file is valid. All others must raise a FormatError and nothing else."""
    path = tmp_path / "damaged.bullet"
    path.write_bytes(sealed(damage(good, flips, in_header)[:-36]))
    try:
        read_everything(path)
    except FormatError as error:
        assert str(error).isprintable()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_value_anywhere_in_the_header(tmp_path: Path, good: bytes, data: st.DataObject) -> None:
    """Replace one value of the header, whatever it is, by any JSON value."""

    def places(value: Any, path: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
        return [path, *(place for key, item in items for place in places(item, (*path, key)))]

    header = json.loads(good[: good.index(b"\0\0\0\0")])
    path = data.draw(st.sampled_from([place for place in places(header, ()) if place]))
    value = data.draw(
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
            max_leaves=6,
        )
    )
    file = tmp_path / "changed.bullet"
    file.write_bytes(forge(good, change=put(*path, value=copy.deepcopy(value))))
    try:
        read_everything(file)
    except FormatError as error:
        assert str(error).isprintable()


def test_a_seeded_run_over_every_format() -> None:
    """`make fuzz` does the same for minutes."""
    counts = fuzz.run(0, 800)
    assert sum(counts.values()) == 800
    names = {name.removesuffix(" refused").removesuffix(" read") for name in counts}
    assert len(names) == 8
    for name in names:
        assert counts[f"{name} refused"] > 50, "the mutations must do damage"
        assert counts[f"{name} read"], "and some must be so small that the model can be read"
