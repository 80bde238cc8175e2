"""Version 1 of the `.bullet` format and its dialects: this module reads A, B and C, and writes A.

A  the C++ builder and runtime   JSON, four NULs | vocabulary with scores, merges | tensors by the hash of their name
B  the Python writer             the same without scores, merges and padding; signed nibbles; another hash
C  BQ4F                          a directory of named tensors; no vocabulary, nothing about heads or context
D  Python pickles                refused: loading one can run any program

A BQ4 block of A and B has 20 bytes: binary16 scale, signed zero point, one unused byte, 16 bytes; byte i holds weight
2i in its low and weight 2i + 1 in its high nibble. With a zero point of 8 (A), or signed nibbles (B), these are the numbers
of our BQ4 in another order, and nothing is lost in either direction. docs/bullet-format.md has the details.
"""

import json
import math
import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bulletlm.errors import BulletError, FormatError
from bulletlm.files import atomic_file, open_regular
from bulletlm.formats.bullet.cursor import Cursor
from bulletlm.formats.bullet.header import SHAPE_LIMITS, check_metadata, parse_json, read_shape
from bulletlm.formats.bullet.layout import END, HEADER_END, HEADER_MAX_BYTES
from bulletlm.formats.bullet.reader import FIRST_VERSION, PICKLE
from bulletlm.formats.stored import EncodedTensor, Floats, StoredModel, as_floats, brief, check_finite, check_tokenizer, type_of
from bulletlm.quant.bq4 import Quantized, pack_bq4, quantize_bq4, unpack_bq4
from bulletlm.shape import BLOCK, ModelShape
from bulletlm.text.tokenizer import FIRST_BYTE, FIRST_PIECE, SPACE_MARK, SPECIAL_TOKENS, UNK
from bulletlm.text.train_tokenizer import model_of_pieces

BLOCK_BYTES = 4 + BLOCK // 2
BQ4_ZERO_POINT = 8
"""The zero point that makes a block of version 1 one of ours."""

HEADER_ALIGNMENT_BYTES = 4096
VOCABULARY, WEIGHTS, DIRECTORY = b"BULK", b"BWT0", b"BQ4F"
B_END = b"BULLET_END" + END
BQ4, FP16 = 0, 3
"""Tensor types that were ever written; 1 (BQ5) and 2 (BQ8) were only named."""

RMS_EPS, ROPE_THETA, HIDDEN_PER_DIM = 1e-5, 10000.0, 4
"""Fixed in version 1's runtime."""

_TOP = {"token_embedding": "tok_embeddings", "final_norm": "final_layernorm", "lm_head": "output_head"}
_LAYER = {
    "attention_norm": "norm.attn",
    "attention.q_proj": "attention.query",
    "attention.k_proj": "attention.key",
    "attention.v_proj": "attention.value",
    "attention.o_proj": "attention.output",
    "mlp_norm": "norm.ffn",
    "mlp.gate_proj": "ffn.w1",
    "mlp.up_proj": "ffn.w3",
    "mlp.down_proj": "ffn.w2",
}
_ALIASES = {
    "final_norm": ("norm",),
    "lm_head": ("gen_head", "output"),
    "attention_norm": ("norm_attn",),
    "attention.q_proj": ("attention.wq",),
    "attention.k_proj": ("attention.wk",),
    "attention.v_proj": ("attention.wv",),
    "attention.o_proj": ("attention.wo",),
    "mlp_norm": ("norm_ffn",),
}
"""Names in files of other exporters of version 1."""

_IGNORED = ("freqs_cis", "ner_head.weight", "pos_head.weight", "sentiment_head.weight", "classifier_head.weight")
"""Tensors that a language model does not need."""

_HEADER_KEYS = {
    "n_layers": ("num_layers", "n_layers"),
    "n_heads": ("num_heads", "n_heads"),
    "max_seq_len": ("max_context", "max_seq_len"),
    "tokenizer": ("tokenizer_start",),
    "weights": ("weights_start",),
}

Bytes = npt.NDArray[np.uint8]


class _DecodedTensor(NamedTuple):
    """A tensor of a file: its stored numbers, and whether its blocks had a zero point that BQ4 cannot have."""

    values: EncodedTensor
    asymmetric: bool = False


def is_v1(head: bytes) -> bool:
    """Whether a file that begins with these bytes (4096 are enough) is of version 1, dialect A, B or C."""
    return head.startswith(DIRECTORY) or FIRST_VERSION.search(head) is not None


def read_v1(path: Path, like: StoredModel | None = None) -> StoredModel:
    """Read a model of version 1, dialect A, B or C.

    Args:
        path: the file.
        like: a model of the same shape; its tokenizer is used instead of the file's vocabulary. Dialect C says neither
            heads nor context nor vocabulary, and needs it.

    Returns:
        The model, with a note on every problem: damaged norm gains, pieces that were added.

    Raises:
        BulletError: the file cannot be opened.
        FormatError: it is damaged, a pickle, or a model that a .bullet cannot hold; the message says what.
    """
    try:
        with open_regular(path) as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise BulletError(f"cannot open {path} ({getattr(error, 'strerror', None) or 'it is empty'}): name a .bullet file") from None
    try:
        if data[:1] == b"\x80":
            raise FormatError(PICKLE)
        if data[:4] == DIRECTORY:
            return _read_c(data, like)
        return _read_ab(data, like)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


# --- dialects A and B ---------------------------------------------------------------------------------------------------


def _read_ab(data: mmap.mmap, like: StoredModel | None) -> StoredModel:
    dialect_b = data[-len(B_END) :] == B_END
    length = data.find(HEADER_END, 0, HEADER_MAX_BYTES)
    if length < 0:
        raise FormatError(f"the header does not end: no four NUL bytes in its first {HEADER_MAX_BYTES} bytes")
    if data[-len(END) :] != END:
        raise FormatError('the file does not end in "END!": it is cut short')
    header = parse_json(data[:length], "header")
    numbers = {name: _find_number(header, keys) for name, keys in _HEADER_KEYS.items()}
    for name, limit in (("n_layers", SHAPE_LIMITS["n_layers"]), ("n_heads", SHAPE_LIMITS["n_heads"])):
        if not 1 <= numbers[name] <= limit:
            raise FormatError(f"header.{_HEADER_KEYS[name][0]} is {numbers[name]}: it must be from 1 to {limit}")
    tokens = _read_vocabulary(_cursor(data, numbers["tokenizer"], "header.tokenizer_start"), not dialect_b)
    found = dict(_read_tensors(_cursor(data, numbers["weights"], "header.weights_start"), numbers["n_layers"], dialect_b))
    metadata = header.get("metadata")
    if not isinstance(metadata, dict):
        metadata = {"name": header.get("model_name", "version 1 model")}
    check_metadata(metadata)
    return _assemble(_Parsed(found, numbers, tokens, metadata), like)


def _find_number(header: Any, keys: Sequence[str]) -> int:
    """The first of these keys at any depth, as version 1's runtime finds it by searching the text."""
    for key in keys:
        for name, value in _walk(header):
            if name == key:
                if type(value) is not int:
                    raise FormatError(f"header.{key} must be a whole number")
                return value
    raise FormatError(f"header.{keys[0]} is missing")


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield name, item
            yield from _walk(item)


def _cursor(data: mmap.mmap, at: int, what: str) -> Cursor:
    if not 0 <= at <= len(data):
        raise FormatError(f"{what} is {at}, which is outside the file")
    return Cursor(data, at)


def _read_vocabulary(cursor: Cursor, scored: bool) -> list[tuple[bytes, float]]:
    if cursor.bytes(4, "the vocabulary") != VOCABULARY:
        raise FormatError('the vocabulary does not begin with "BULK"')
    count = cursor.number("<I", "the number of tokens")
    if count > SHAPE_LIMITS["vocab_size"]:
        raise FormatError(f"the vocabulary claims {count} tokens: at most {SHAPE_LIMITS['vocab_size']} are allowed")
    tokens = []
    for i in range(count):
        score, length = cursor.numbers("<fH", f"token {i}") if scored else (0.0, *cursor.numbers("<H", f"token {i}"))
        tokens.append((cursor.bytes(length, f"token {i}"), score))
    if scored:
        count = cursor.number("<I", "the number of merges")
        for i in range(2 * count):
            # The scores contain the same information as the merges.
            cursor.bytes(cursor.number("<H", f"merge {i // 2}"), f"merge {i // 2}")
    return tokens


def _read_tensors(cursor: Cursor, n_layers: int, dialect_b: bool) -> Iterator[tuple[str, _DecodedTensor]]:
    names = _hashed_names(n_layers)
    if cursor.bytes(4, "the weights") != WEIGHTS:
        raise FormatError('the weights do not begin with "BWT0"')
    count = cursor.number("<I", "the number of tensors")
    seen: set[str] = set()
    for i in range(count):
        what = f"tensor {i}"
        hashed = cursor.number("<Q", what)
        if hashed not in names:
            raise FormatError(f"{what} (hash {hashed:016x}) has no known name: only Llama-shaped models can be read")
        name = names[hashed]
        what = f"{what} ({name})"
        rank = cursor.number("<B", what)
        if not 1 <= rank <= 4:
            raise FormatError(f"{what} has {rank} dimensions: it must have 1 to 4")
        extents = cursor.numbers(f"<{rank if dialect_b else 4}H", what)[:rank]
        kind, size = cursor.numbers("<BI", what)
        if not dialect_b:
            cursor.align(32, what)
        stored = cursor.view(size, what)
        if name in _IGNORED:
            continue
        if name in seen:
            raise FormatError(f"{what} is given twice")
        seen.add(name)
        yield name, _decode(stored, kind, extents, dialect_b, what)


def _decode(stored: Bytes, kind: int, extents: tuple[int, ...], signed: bool, what: str) -> _DecodedTensor:
    count = math.prod(extents)
    expected = {BQ4: -(-count // BLOCK) * BLOCK_BYTES, FP16: 2 * count}
    if kind not in expected:
        raise FormatError(f"{what} is of type {kind}: only 0 (BQ4) and 3 (FP16) can be read")
    if len(stored) != expected[kind]:
        raise FormatError(f"{what} has {len(stored)} bytes: its type and shape {list(extents)} take {expected[kind]}")
    if kind == FP16:
        return _DecodedTensor(stored.view("<f2").reshape(extents))
    if extents[-1] % BLOCK:
        raise FormatError(f"{what} has shape {list(extents)}: its last dimension must be a multiple of {BLOCK}")
    blocks = stored.reshape(*extents[:-1], extents[-1] // BLOCK, BLOCK_BYTES)
    scales = np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0]
    if not np.isfinite(scales).all():
        raise FormatError(f"{what} holds a scale that is NaN or infinite")
    zeros = blocks[..., 2].view(np.int8)
    nibbles = _nibbles(blocks[..., 4:], signed)
    middle = 0 if signed else BQ4_ZERO_POINT
    if (zeros == middle).all():
        return _DecodedTensor(Quantized("BQ4", pack_bq4(nibbles.reshape(extents), scales)))
    numbers = nibbles.astype(np.float32) - (BQ4_ZERO_POINT - middle) - zeros.astype(np.float32)[..., None]
    return _DecodedTensor((numbers * scales.astype(np.float32)[..., None]).reshape(extents), asymmetric=True)


def _nibbles(packed: Bytes, signed: bool) -> Bytes:
    """uint8[..., n] of pairs -> uint8[..., 2n], low nibble first; signed ones (two's complement) are moved up by 8."""
    nibbles: Bytes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)
    return np.bitwise_xor(nibbles, np.uint8(BQ4_ZERO_POINT)) if signed else nibbles


def _fnv1a(name: str, prime: int) -> int:
    value = 14695981039346656037
    for byte in name.encode():
        value = (value ^ byte) * prime & 0xFFFFFFFFFFFFFFFF
    return value


_PRIME = 1099511628211
_PRIMES = (_PRIME, 0x1099511628211)
"""The second one is dialect B's: the same digits, read as hexadecimal."""


def _names(n_layers: int) -> Iterator[tuple[str, str]]:
    """A name in files of version 1 -> our name, or itself where it is ignored."""
    for ours, theirs in _TOP.items():
        for name in (theirs, *_ALIASES.get(ours, ())):
            yield f"{name}.weight", f"{ours}.weight"
    for n in range(n_layers):
        for ours, theirs in _LAYER.items():
            for name in (theirs, *_ALIASES.get(ours, ())):
                yield f"layers.{n}.{name}.weight", f"layers.{n}.{ours}.weight"
    for name in _IGNORED:
        yield name, name


def _hashed_names(n_layers: int) -> dict[int, str]:
    return {_fnv1a(theirs, prime): ours for theirs, ours in _names(n_layers) for prime in _PRIMES}


# --- dialect C ----------------------------------------------------------------------------------------------------------


def _read_c(data: mmap.mmap, like: StoredModel | None) -> StoredModel:
    if like is None:
        raise FormatError(
            "version 1, dialect C says neither heads nor context nor vocabulary: name a model of the same shape with --like MODEL"
        )
    cursor = Cursor(data, 4)
    version, count = cursor.numbers("<II", "the header")
    if version != 1:
        raise FormatError(f"BQ4F version {version}: only 1 can be read")
    names = dict(_names(like.shape.n_layers)) | {name: name for name in like.shape.tensors()}
    found: dict[str, _DecodedTensor] = {}
    for i in range(count):
        what = f"tensor {i}"
        try:
            theirs = cursor.bytes(cursor.number("<I", what), what).decode()
        except UnicodeDecodeError:
            raise FormatError(f"the name of {what} is not UTF-8") from None
        rank = cursor.number("<I", what)
        if not 1 <= rank <= 4:
            raise FormatError(f"{what} has {rank} dimensions: it must have 1 to 4")
        extents = cursor.numbers(f"<{rank}I", what)
        block, n_blocks, offset = cursor.numbers("<IIQ", what)
        if theirs not in names:
            raise FormatError(f"{what} is called {brief(theirs)}, which is not known: only Llama-shaped models can be read")
        if names[theirs] in _IGNORED:
            continue
        if names[theirs] in found:
            raise FormatError(f"{what} ({brief(theirs)}) is given twice")
        what = f"{what} ({theirs})"
        expected = like.shape.tensors().get(names[theirs], like.shape.tensors()["token_embedding.weight"])
        if extents != expected:
            raise FormatError(f"{what} has shape {list(extents)}, but in the model given as --like it is {list(expected)}")
        if block % BLOCK or not block or block > 1 << 16:
            raise FormatError(f"{what} has blocks of {block} weights: only multiples of {BLOCK} can be read")
        if n_blocks != -(-math.prod(extents) // block):
            raise FormatError(f"{what} has {n_blocks} blocks of {block} weights, which do not make its shape {list(extents)}")
        stored = _cursor(data, offset, f"the offset of {what}").view(n_blocks * (block // 2 + 4), what)
        found[names[theirs]] = _decode_c(stored.reshape(n_blocks, -1), extents, what)
    numbers = {"n_layers": like.shape.n_layers, "n_heads": like.shape.n_heads, "max_seq_len": like.shape.max_seq_len}
    notes = ["the scales were rounded from 32 to 16 bits, by at most 0.05 %"]
    missing = [name for name, extents in like.shape.tensors().items() if len(extents) == 1 and name not in found]
    for name in missing:
        found[name] = _DecodedTensor(np.ones(like.shape.tensors()[name], dtype=np.float32))
    if missing:
        notes.append(f"the file has no gains for {len(missing)} norms: they were set to 1")
    return _assemble(_Parsed(found, numbers, [], {"name": "version 1 model"}, notes), like)


def _decode_c(blocks: Bytes, extents: tuple[int, ...], what: str) -> _DecodedTensor:
    scales = np.ascontiguousarray(blocks[:, -4:]).view("<f4")[:, 0]
    with np.errstate(over="ignore"):
        rounded = scales.astype(np.float16)
    if not np.isfinite(rounded).all():
        raise FormatError(f"{what} holds a scale that is NaN, infinite or too large")
    nibbles = _nibbles(blocks[:, :-4], signed=True)
    # Larger blocks may reach from one row into the next, and beyond the end.
    count = math.prod(extents)
    scales_of_32 = np.repeat(rounded, nibbles.shape[1] // BLOCK)[: count // BLOCK]
    return _DecodedTensor(Quantized("BQ4", pack_bq4(nibbles.reshape(-1)[:count].reshape(extents), scales_of_32.reshape(*extents[:-1], -1))))


# --- from tensors and tokens to a model ---------------------------------------------------------------------------------


class _Parsed(NamedTuple):
    """The contents of a file: tensors by our names, numbers of the header, vocabulary (text, score), metadata, and notes for the user."""

    found: dict[str, _DecodedTensor]
    numbers: Mapping[str, int]
    tokens: list[tuple[bytes, float]]
    metadata: dict[str, Any]
    notes: Sequence[str] = ()


def _assemble(parsed: _Parsed, like: StoredModel | None) -> StoredModel:
    found, numbers, tokens, metadata, _ = parsed
    tensors = {name: tensor.values for name, tensor in found.items()}
    notes = [*parsed.notes]
    if "lm_head.weight" in tensors and _same(tensors["lm_head.weight"], tensors.get("token_embedding.weight")):
        del tensors["lm_head.weight"]
    shape = _shape(tensors, numbers)
    for name, extents in shape.tensors().items():
        if name not in tensors:
            raise FormatError(f"the tensor {name} is missing")
        if tensors[name].shape != extents:
            raise FormatError(f"the tensor {name} has shape {list(tensors[name].shape)}, but the others imply {list(extents)}")
        check_finite(tensors[name], f"the tensor {name}")
    norms = {name: as_floats(tensors[name]) for name, extents in shape.tensors().items() if len(extents) == 1}
    damaged = [name for name, gains in norms.items() if (np.abs(gains.reshape(-1, BLOCK)).max(axis=1) < 1e-3).any()]
    if damaged:
        notes.append(
            f"the gains of {len(damaged)} of {len(norms)} norms are damaged (zero, or about zero; the first is {damaged[0]}), as in many "
            f"files of version 1: the model cannot work; build it again from its checkpoint"
        )
    if any(found[name].asymmetric for name in tensors if name not in norms):
        notes.append("its blocks have zero points that BQ4 does not have, so they were rounded again: --quant BQ8 or F16 loses less")
    tensors |= norms
    if like is not None:
        if like.shape.vocab_size != shape.vocab_size:
            raise FormatError(f"it has {shape.vocab_size} tokens, but the model given as --like has {like.shape.vocab_size}")
        return StoredModel(shape, tensors, like.tokenizer_proto, metadata, tuple(notes))
    if len(tokens) != shape.vocab_size:
        raise FormatError(f"the vocabulary has {len(tokens)} tokens, but the embedding has {shape.vocab_size} rows")
    return _with_vocabulary(shape, tensors, tokens, metadata, notes)


def _same(a: EncodedTensor, b: EncodedTensor | None) -> bool:
    if isinstance(a, Quantized) and isinstance(b, Quantized):
        return np.array_equal(a.blocks, b.blocks)
    return b is not None and not isinstance(a, Quantized) and not isinstance(b, Quantized) and np.array_equal(a, b)


def _shape(tensors: Mapping[str, EncodedTensor], numbers: Mapping[str, int]) -> ModelShape:
    """Widths come from the tensors: the headers of some exporters have the vocabulary size where the width belongs."""
    widths = {}
    for name in ("token_embedding", "layers.0.mlp.gate_proj", "layers.0.attention.k_proj"):
        tensor = tensors.get(f"{name}.weight")
        if tensor is None or len(tensor.shape) != 2:
            raise FormatError(f"the tensor {name}.weight is missing or is not a matrix")
        widths[name] = tensor.shape
    vocab_size, dim = widths["token_embedding"]
    head_dim = max(dim // numbers["n_heads"], 1)
    fields = {
        "vocab_size": vocab_size,
        "dim": dim,
        "n_layers": numbers["n_layers"],
        "n_heads": numbers["n_heads"],
        "n_kv_heads": widths["layers.0.attention.k_proj"][0] // head_dim,
        "hidden_dim": widths["layers.0.mlp.gate_proj"][0],
        "max_seq_len": numbers["max_seq_len"],
        "rope_theta": ROPE_THETA,
        "norm_eps": RMS_EPS,
        "tied_embeddings": "lm_head.weight" not in tensors,
    }
    return read_shape(fields, "the shape")


def _with_vocabulary(
    shape: ModelShape, tensors: dict[str, EncodedTensor], tokens: list[tuple[bytes, float]], metadata: dict[str, Any], notes: list[str]
) -> StoredModel:
    """Put the vocabulary into the order that version 2 needs: special tokens, bytes, then pieces, the best first."""
    order, learned = _order(tokens)
    missing = [i for i, old in enumerate(order[:FIRST_PIECE]) if old is None]
    if order != list(range(shape.vocab_size)):
        # Training never used <unk> either, so its weights are as good as any for a missing piece.
        unknown = order[UNK] if order[UNK] is not None else 0
        rows = np.array([unknown if old is None else old for old in order])
        for name in ("token_embedding.weight", "lm_head.weight"):
            if name in tensors:
                tensors[name] = _rows(tensors[name], rows)
        shape = ModelShape(**{**shape.to_dict(), "vocab_size": len(order)})
        notes.append("its tokens were reordered, and it encodes text slightly differently from version 1")
    if missing:
        first = _fixed_text(missing[0])
        notes.append(f"{len(missing)} special and byte tokens (the first is {first}) were missing: they got the weights of <unk>")
    proto = model_of_pieces(learned)
    check_tokenizer(proto, shape.vocab_size, "the vocabulary")
    return StoredModel(shape, tensors, proto, metadata, tuple(notes))


def _rows(tensor: EncodedTensor, rows: npt.NDArray[np.intp]) -> EncodedTensor:
    return Quantized(tensor.type, tensor.blocks[rows]) if isinstance(tensor, Quantized) else tensor[rows]


def _order(tokens: list[tuple[bytes, float]]) -> tuple[list[int | None], list[tuple[str, float]]]:
    """For each new id the old one (None: there was none), and text and score of the learned pieces."""
    texts = [_token_text(i, raw) for i, (raw, _) in enumerate(tokens)]
    scores = [score for _, score in tokens]
    if not np.isfinite(scores).all():
        raise FormatError(f"the score of token {int(np.isfinite(scores).argmin())} is NaN or infinite")
    ours = len(tokens) >= FIRST_PIECE and all(
        texts[i] == _fixed_text(i) or (i >= FIRST_BYTE and tokens[i][0] == bytes([i - FIRST_BYTE])) for i in range(FIRST_PIECE)
    )
    order: list[int | None]
    if ours:
        order, learned = list(range(FIRST_PIECE)), list(range(FIRST_PIECE, len(tokens)))
    else:
        place = {text: i for i, text in enumerate(texts)}
        if len(place) < len(texts):
            twice = next(i for i, text in enumerate(texts) if place[text] != i)
            raise FormatError(f"tokens {twice} and {place[texts[twice]]} of the vocabulary have the same text")
        order = [place.get(_fixed_text(i)) for i in range(FIRST_PIECE)]
        learned = sorted(set(range(len(tokens))) - set(order), key=lambda i: (-scores[i], i))
    ranked = len({scores[i] for i in learned}) > 1
    pieces = [(texts[i], scores[i] if ranked else -float(rank)) for rank, i in enumerate(learned)]
    return [*order, *learned], pieces


def _token_text(i: int, raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        if len(raw) == 1:
            return f"<0x{raw[0]:02X}>"
        raise FormatError(f"token {i} of the vocabulary is not UTF-8") from None
    if not text:
        raise FormatError(f"token {i} of the vocabulary is empty")
    return text.replace(" ", SPACE_MARK)


def _fixed_text(i: int) -> str:
    """The text of a token below FIRST_PIECE."""
    return SPECIAL_TOKENS[i] if i < FIRST_BYTE else f"<0x{i - FIRST_BYTE:02X}>"


# --- writing dialect A --------------------------------------------------------------------------------------------------


def write_v1(path: Path, model: StoredModel) -> None:
    """Write a file of dialect A that version 1's runtime reads correctly, atomically.

    That runtime takes every tensor as BQ4, so the norm gains go into the matrices behind them and are stored as exact
    ones, and the output matrix is stored separately. A matrix that is BQ4 already and follows gains of 1 keeps its numbers;
    the others are rounded again.

    Raises:
        FormatError: version 1 cannot hold this model; the message says what.
        BulletError: the disk is full or the folder is not writable.
    """
    check_v1(model.shape)
    pieces = check_tokenizer(model.tokenizer_proto, model.shape.vocab_size, "the tokenizer").pieces()
    texts = [bytes([i - FIRST_BYTE]) if FIRST_BYTE <= i < FIRST_PIECE else _plain(piece.text) for i, piece in enumerate(pieces)]
    vocabulary = _vocabulary_bytes(texts, [piece.score for piece in pieces], _merges([piece.text for piece in pieces[FIRST_PIECE:]]))
    # Real offsets have more digits than zeros. The header reserves room for them, so its size is computed only once.
    room = len(_v1_header(model, 0, 0)) + 64
    tokenizer_start = -(-room // HEADER_ALIGNMENT_BYTES) * HEADER_ALIGNMENT_BYTES
    weights_start = -(-(tokenizer_start + len(vocabulary)) // 64) * 64
    header = _v1_header(model, tokenizer_start, weights_start)
    with atomic_file(path) as file:
        file.write(header.ljust(tokenizer_start, b"\0"))
        file.write(vocabulary.ljust(weights_start - tokenizer_start, b"\0"))
        names = [*model.shape.tensors()]
        if model.shape.tied_embeddings:
            names.append("lm_head.weight")
        file.write(WEIGHTS + struct.pack("<I", len(names)))
        for name in names:
            try:
                tensor = _folded(model, name)
            except BulletError as error:
                raise FormatError(f"the tensor {name} cannot be written: {error}") from None
            blocks = _v1_blocks(tensor)
            extents = (*tensor.shape, 1, 1, 1)[:4]
            file.write(struct.pack("<QB4HBI", _fnv1a(_v1_name(name), _PRIME), len(tensor.shape), *extents, BQ4, len(blocks)))
            file.write(bytes(-file.tell() % 32))
            file.write(blocks)
        file.write(END)


def rounds_for_v1(model: StoredModel) -> bool:
    """Whether `write_v1` changes numbers: a matrix is not BQ4, or follows gains other than 1."""
    return any(type_of(tensor) != "BQ4" if len(tensor.shape) > 1 else (as_floats(tensor) != 1).any() for tensor in model.tensors.values())


def check_v1(shape: ModelShape) -> None:
    """Raises:
    FormatError: version 1 cannot hold a model of this shape; the message says what.
    """
    rules = (
        ("n_kv_heads", shape.n_kv_heads, shape.n_heads, "n_heads"),
        ("hidden_dim", shape.hidden_dim, HIDDEN_PER_DIM * shape.dim, f"{HIDDEN_PER_DIM} x dim"),
        ("rope_theta", shape.rope_theta, ROPE_THETA, "fixed"),
        ("norm_eps", shape.norm_eps, RMS_EPS, "fixed"),
    )
    for name, value, wanted, why in rules:
        if value != wanted:
            raise FormatError(f"version 1 cannot hold this model: {name} is {value}, and must be {wanted} ({why})")
    for name, value in (("vocab_size", shape.vocab_size), ("hidden_dim", shape.hidden_dim)):
        if value > 0xFFFF:
            raise FormatError(f"version 1 cannot hold this model: {name} is {value}, and must be at most {0xFFFF}")


def _plain(text: str) -> bytes:
    """As version 1's runtime prints it."""
    return text.replace(SPACE_MARK, " ").encode()


def _v1_header(model: StoredModel, tokenizer_start: int, weights_start: int) -> bytes:
    """JSON and four NULs. Its keys are searched as text, and the first one counts: so ours come before the metadata."""
    shape = model.shape
    header = {
        "bullet_version": "1.0",
        "model_name": str(model.metadata.get("name", "model")),
        "architecture": "bullet-hybrid-transformer",
        "dimensions": {"hidden_size": shape.dim, "num_layers": shape.n_layers, "num_heads": shape.n_heads},
        "quantization": {"type": "BQ4"},
        "vocab_size": shape.vocab_size,
        "max_context": shape.max_seq_len,
        "file_offsets": {"tokenizer_start": tokenizer_start, "weights_start": weights_start},
        "metadata": dict(model.metadata),
    }
    return json.dumps(header, ensure_ascii=False, indent=1, allow_nan=False).encode() + HEADER_END


def _vocabulary_bytes(texts: Sequence[bytes], scores: Sequence[float], merges: Sequence[tuple[str, str]]) -> bytes:
    parts = [VOCABULARY, struct.pack("<I", len(texts))]
    parts += [struct.pack("<fH", score, len(text)) + text for text, score in zip(texts, scores, strict=True)]
    parts.append(struct.pack("<I", len(merges)))
    parts += [struct.pack("<H", len(_plain(text))) + _plain(text) for pair in merges for text in pair]
    return b"".join(parts)


def _merges(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Every way to join two pieces to a third, the best first: what sentencepiece's BPE does, as a list."""
    known = set(texts)
    return [(text[:n], text[n:]) for text in texts for n in range(1, len(text)) if text[:n] in known and text[n:] in known]


def fold_gains(shape: ModelShape, tensors: Mapping[str, Floats]) -> tuple[ModelShape, dict[str, Floats]]:
    """The same network in the form of version 1: norm gains multiplied into the matrices after them and replaced by ones, an untied head.

    Raises:
        FormatError: version 1 cannot hold a model of this shape; the message says what.
    """
    check_v1(shape)
    shape = replace(shape, tied_embeddings=False)
    folded: dict[str, Floats] = {}
    for name, extents in shape.tensors().items():
        tensor, norm = tensors.get(name, tensors["token_embedding.weight"]), _norm_before(name)
        if len(extents) == 1:
            folded[name] = np.ones(extents, np.float32)
        else:
            folded[name] = tensor * tensors[norm] if norm else tensor
    return shape, folded


def _folded(model: StoredModel, name: str) -> Quantized:
    """A tensor as version 1 has it: norms are ones, and a matrix holds the gains of the norm before it."""
    tensor = model.tensors.get(name, model.tensors["token_embedding.weight"])
    if len(tensor.shape) == 1:
        return Quantized(
            "BQ4", pack_bq4(np.full(tensor.shape, BQ4_ZERO_POINT + 1, np.uint8), np.ones(tensor.shape[0] // BLOCK, np.float16))
        )
    norm = _norm_before(name)
    gains = as_floats(model.tensors[norm]) if norm else np.ones(tensor.shape[1], dtype=np.float32)
    if isinstance(tensor, Quantized) and tensor.type == "BQ4" and (gains == 1).all():
        return tensor
    with np.errstate(over="ignore"):  # quantize_bq4 refuses what is infinite
        folded = as_floats(tensor) * gains
    return Quantized("BQ4", quantize_bq4(folded))


def _norm_before(name: str) -> str | None:
    """The norm whose output is the input of this matrix."""
    if name == "lm_head.weight":
        return "final_norm.weight"
    for parts, norm in ((("q_proj", "k_proj", "v_proj"), "attention_norm"), (("gate_proj", "up_proj"), "mlp_norm")):
        if name.endswith(tuple(f".{part}.weight" for part in parts)):
            return f"{name.split('.attention.')[0].split('.mlp.')[0]}.{norm}.weight"
    return None


def _v1_name(name: str) -> str:
    if name.startswith("layers."):
        _, layer, part = name.removesuffix(".weight").split(".", 2)
        return f"layers.{layer}.{_LAYER[part]}.weight"
    return f"{_TOP[name.removesuffix('.weight')]}.weight"


def _v1_blocks(tensor: Quantized) -> bytes:
    nibbles, scales = unpack_bq4(tensor.blocks)
    pairs = nibbles.reshape(*scales.shape, BLOCK // 2, 2)
    out = np.zeros((*scales.shape, BLOCK_BYTES), dtype=np.uint8)
    out[..., :2] = np.ascontiguousarray(scales, dtype="<f2").view(np.uint8).reshape(*scales.shape, 2)
    out[..., 2] = BQ4_ZERO_POINT
    out[..., 4:] = pairs[..., 0] | pairs[..., 1] << 4
    return out.tobytes()
