"""Writes and reads GGUF, the format of llama.cpp, Ollama and LM Studio.

BQ4 and BQ8 are ggml's Q4_0 and Q8_0, and the `llama` architecture rotates the same pairs. So every tensor is converted bit
for bit, in both directions. The files that are read are not trusted: every length is checked before it is used, and tensors are
mapped, not copied.
"""

import itertools
import json
import math
import mmap
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bulletlm.errors import BulletError, ConfigError, FormatError
from bulletlm.files import atomic_file, open_regular
from bulletlm.formats.bullet.cursor import Cursor
from bulletlm.formats.bullet.header import SHAPE_LIMITS, check_metadata, parse_json
from bulletlm.formats.chat_template import GGUF_TEMPLATE, exported_template, is_standard
from bulletlm.formats.gguf_container import Tensor, Typed, write_container
from bulletlm.formats.not_a_model import INSTEAD, what_was_downloaded
from bulletlm.formats.stored import EncodedTensor, StoredModel, as_floats, brief, check_finite, check_tokenizer, type_of, view_tensor
from bulletlm.quant.bq4 import Quantized
from bulletlm.quant.types import tensor_bytes
from bulletlm.sampling_limits import PENALTY_WINDOW
from bulletlm.shape import ModelShape
from bulletlm.text.pieces import Piece
from bulletlm.text.sentencepiece_rules import TYPE_NAMES, fixed_text
from bulletlm.text.tokenizer import BOS, END, EOS, FIRST_PIECE, SPECIAL_TOKENS, UNK, type_of_id
from bulletlm.text.train_tokenizer import model_of_pieces

GGML_TYPES = {"F32": 0, "F16": 1, "BQ4": 2, "BQ8": 8}
GGML_BF16 = 30
"""Read only: a .bullet has no such type, so it becomes float32, exactly."""

OTHER_GGML_TYPES = {
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
}
"""Names of types that cannot be read, for messages."""

FILE_TYPES = {"F32": 0, "F16": 1, "BQ4": 2, "BQ8": 7}
"""general.file_type: what most of the weights are."""

METADATA_KEY = "bullet.metadata"
"""The key of our metadata as JSON, so that a conversion back loses nothing."""

SAMPLING_KEYS = {
    "temperature": "general.sampling.temp",
    "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}

_LAYER_NAMES = {
    "attention_norm": "attn_norm",
    "attention.q_proj": "attn_q",
    "attention.k_proj": "attn_k",
    "attention.v_proj": "attn_v",
    "attention.o_proj": "attn_output",
    "mlp_norm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OTHER_NAMES = {"token_embedding.weight": "token_embd.weight", "final_norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}


def gguf_name(name: str) -> str:
    """Our name of a tensor -> llama.cpp's."""
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    _, layer, part = name.removesuffix(".weight").split(".", 2)
    return f"blk.{layer}.{_LAYER_NAMES[part]}.weight"


def write_gguf(path: Path, model: StoredModel) -> None:
    """Write a GGUF file, and beside NAME.gguf a NAME.Modelfile for Ollama; each atomically.

    Raises:
        ConfigError: the file's name has a line break.
        FormatError: the tokenizer is not one of ours.
        BulletError: the disk is full or the folder is not writable.
    """
    path = Path(path)
    if {"\n", "\r"} & set(path.name):
        raise ConfigError(f"{path} has a line break in its name, which a Modelfile cannot hold: choose another name")
    pieces = check_tokenizer(model.tokenizer_proto, model.shape.vocab_size, "the tokenizer").pieces()
    with atomic_file(path) as file:
        write_container(
            file,
            {**_model_values(model), **_tokenizer_values(model, pieces)},
            (_tensor(name, model.tensors[name]) for name in model.shape.tensors()),
        )
    with atomic_file(modelfile_path(path)) as file:
        file.write(modelfile(path.name, model).encode("utf-8", "surrogateescape"))  # the name may have bytes that are not UTF-8


def modelfile_path(path: Path) -> Path:
    """The path of the Modelfile of the GGUF at `path`. It contains the name of the model, since a folder may hold several."""
    return path.with_name(f"{path.name.removesuffix('.gguf')}.Modelfile")


def _model_values(model: StoredModel) -> dict[str, Typed]:
    """The keys of name, licence, defaults and shape."""
    shape, metadata = model.shape, model.metadata
    sampling = metadata.get("sampling", {})
    values = {
        "general.architecture": Typed("string", "llama"),
        "general.type": Typed("string", "model"),
        "general.name": Typed("string", metadata.get("name", "")),
        "general.size_label": Typed("string", size_label(shape.n_parameters)),
        "general.license": Typed("string", metadata.get("license", "")),
        "general.languages": Typed("string", list(metadata.get("languages", []))),
        "general.file_type": Typed("u32", FILE_TYPES[main_type(model)]),
        "general.quantization_version": Typed("u32", 2),
        **{key: Typed("i32" if name == "top_k" else "f32", sampling[name]) for name, key in SAMPLING_KEYS.items() if name in sampling},
    }
    if "repetition_penalty" in sampling:
        values["general.sampling.penalty_last_n"] = Typed("i32", PENALTY_WINDOW)
    numbers = {
        "vocab_size": shape.vocab_size,
        "context_length": shape.max_seq_len,
        "embedding_length": shape.dim,
        "block_count": shape.n_layers,
        "feed_forward_length": shape.hidden_dim,
        "attention.head_count": shape.n_heads,
        "attention.head_count_kv": shape.n_kv_heads,
        "attention.layer_norm_rms_epsilon": shape.norm_eps,
        "rope.dimension_count": shape.head_dim,
        "rope.freq_base": shape.rope_theta,
    }
    floats = {"attention.layer_norm_rms_epsilon", "rope.freq_base"}
    values |= {f"llama.{key}": Typed("f32" if key in floats else "u32", number) for key, number in numbers.items()}
    values[METADATA_KEY] = Typed("string", json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False))
    return values


def _tokenizer_values(model: StoredModel, pieces: Sequence[Piece]) -> dict[str, Typed]:
    """The keys of the tokenizer and the chat template."""
    values = {
        "model": Typed("string", "llama"),
        "pre": Typed("string", "default"),
        "tokens": Typed("string", [piece.text for piece in pieces]),
        "scores": Typed("f32", [piece.score for piece in pieces]),
        "token_type": Typed("i32", [piece.type for piece in pieces]),
        "unknown_token_id": Typed("u32", UNK),
        "bos_token_id": Typed("u32", BOS),
        "eos_token_id": Typed("u32", EOS),
        "eot_token_id": Typed("u32", END),
        "add_bos_token": Typed("bool", True),
        "add_eos_token": Typed("bool", False),
        "add_space_prefix": Typed("bool", False),
        "remove_extra_whitespaces": Typed("bool", False),
    }
    template = Typed("string", exported_template(model.metadata, GGUF_TEMPLATE))
    return {**{f"tokenizer.ggml.{key}": value for key, value in values.items()}, "tokenizer.chat_template": template}


def _tensor(name: str, tensor: EncodedTensor) -> Tensor:
    blocks = tensor.blocks if isinstance(tensor, Quantized) else tensor
    return Tensor(gguf_name(name), tuple(tensor.shape), GGML_TYPES[type_of(tensor)], np.ascontiguousarray(blocks))


def main_type(model: StoredModel) -> str:
    """The type that most of the weights have."""
    sizes: dict[str, int] = {}
    for name, extents in model.shape.tensors().items():
        kind = type_of(model.tensors[name])
        sizes[kind] = sizes.get(kind, 0) + math.prod(extents)
    return max(sizes, key=lambda kind: sizes[kind])


def size_label(parameters: int) -> str:
    """The number of parameters as model names write it: 850K, 9.4M."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if parameters >= size:
            return f"{parameters / size:.3g}{unit}"
    return str(parameters)


def modelfile(gguf_file: str, model: StoredModel) -> str:
    """The text of an Ollama Modelfile for a GGUF in the same folder."""
    sampling = model.metadata.get("sampling", {})
    names = {"repetition_penalty": "repeat_penalty", "max_tokens": "num_predict"}
    lines = [
        f"# ollama create NAME -f '{modelfile_path(Path(gguf_file)).name}' && ollama run NAME\nFROM ./{gguf_file}",
        f'TEMPLATE """{OLLAMA_TEMPLATE}"""',
        *(f"PARAMETER {names.get(name, name)} {value}" for name, value in sampling.items() if name in {*SAMPLING_KEYS, "max_tokens"}),
        f"PARAMETER num_ctx {model.shape.max_seq_len}",
        f'PARAMETER stop "{SPECIAL_TOKENS[END]}"',
        f'PARAMETER stop "{SPECIAL_TOKENS[EOS]}"',
    ]
    if model.metadata.get("license"):
        lines.append('LICENSE """{}"""'.format(model.metadata["license"].replace('"""', "'''")))
    return "\n".join(lines) + "\n"


OLLAMA_TEMPLATE = """\
{{- $system := .System }}{{ range .Messages }}\
{{ if eq .Role "user" }}<|user|>{{ if $system }}{{ $system }}

{{ $system = "" }}{{ end }}{{ .Content }}<|end|>\
{{ else if eq .Role "assistant" }}<|assistant|>{{ .Content }}<|end|>{{ end }}{{ end }}<|assistant|>"""
"""The chat template in Go's template language; Ollama puts <s> in front."""


def read_gguf(path: Path) -> StoredModel:
    """Read a model of the `llama` architecture with Q4_0, Q8_0, F16, BF16 or F32 tensors and our tokenizer.

    The tensors are mapped from the file, except BF16, which become float32. The standard keys of the file take precedence over
    the metadata that BulletLM wrote into it, because other programs edit only the standard keys.

    Raises:
        BulletError: the file cannot be opened.
        FormatError: it is damaged, or it is a model that a .bullet cannot hold; the message names the key or tensor.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise BulletError(f"cannot open {path} ({getattr(error, 'strerror', None) or 'it is empty'}): name a GGUF file") from None
    try:
        return _read(data)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def _read(data: mmap.mmap) -> StoredModel:
    """Check first what a user cannot change (architecture, tokenizer), then what another conversion can (parts, weight types)."""
    values, infos, start = _parse(data)
    if "general.architecture" not in values:
        _refuse_split(values)
    architecture = _text(values, "general.architecture")
    if architecture != "llama":
        raise FormatError(f'general.architecture is "{brief(architecture)}": only "llama" is supported; {INSTEAD}')
    proto = _tokenizer(values)
    _check_keys(values)
    _refuse_split(values)
    shape = _shape(values, infos)
    tokens = values["tokenizer.ggml.tokens"]
    if len(tokens) != shape.vocab_size:
        raise FormatError(f"tokenizer.ggml.tokens has {len(tokens)} texts, but the embedding has {shape.vocab_size} rows")
    tensors = _tensors(data, infos, start, shape)
    notes: list[str] = []
    return StoredModel(shape, tensors, proto, _metadata(values, notes), tuple(notes))


def _refuse_split(values: Mapping[str, Any]) -> None:
    count, number = values.get("split.count", 0), values.get("split.no", 0)
    if type(count) is int and count > 1:
        part = f"part {number + 1} of {count}" if type(number) is int else f"one of {count} parts"
        raise FormatError(
            f"this is {part} of a split GGUF: join the parts with `llama-gguf-split --merge FIRST-PART.gguf WHOLE.gguf`, and name that file"
        )


class _Info(NamedTuple):
    """The position of a tensor: its ggml type, its shape (outputs, inputs), and its offset in the data section."""

    type: int
    extents: tuple[int, ...]
    offset: int


_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MAX_KEYS = 1 << 16
_MAX_STRINGS = 1 << 21
_MAX_NAME_BYTES = 1 << 16


def _string(cursor: Cursor, what: str, longest: int | None = None) -> str:
    length = cursor.number("<Q", what)
    if longest is not None and length > longest:
        raise FormatError(f"{what} at byte {cursor.at} has {length} bytes: at most {longest} are allowed")
    try:
        return cursor.bytes(length, what).decode()
    except UnicodeDecodeError:
        raise FormatError(f"{what} at byte {cursor.at - length} is not UTF-8") from None


def _value(cursor: Cursor, what: str) -> Any:
    kind = cursor.number("<I", what)
    if kind in _SCALARS:
        return cursor.number(_SCALARS[kind], what)
    if kind == _STRING:
        return _string(cursor, what)
    if kind != _ARRAY:
        raise FormatError(f"{what} has the unknown type {kind}")
    kind, count = cursor.number("<I", what), cursor.number("<Q", what)
    if kind in _SCALARS:
        return np.frombuffer(cursor.bytes(count * struct.calcsize(_SCALARS[kind]), what), _SCALARS[kind])
    if kind != _STRING or count > _MAX_STRINGS:
        raise FormatError(f"{what} is an array of {count} values of type {kind}, which is not supported")
    return [_string(cursor, what) for _ in range(count)]


def _parse(data: mmap.mmap) -> tuple[dict[str, Any], dict[str, _Info], int]:
    """The keys, the tensors, and where the data section begins."""
    if data[:4] != b"GGUF":
        if found := what_was_downloaded(data[:1024]):
            raise FormatError(found)
        raise FormatError('this is not a GGUF file: it does not begin with "GGUF"')
    cursor = Cursor(data, 4)
    version = cursor.number("<I", "the version")
    if version not in (2, 3):
        raise FormatError(f"GGUF version {version}: only 2 and 3, little-endian, are supported")
    tensor_count, key_count = cursor.number("<Q", "the number of tensors"), cursor.number("<Q", "the number of keys")
    if key_count > _MAX_KEYS or tensor_count > _MAX_KEYS:
        raise FormatError(f"the file claims {key_count} keys and {tensor_count} tensors: at most {_MAX_KEYS} of each are allowed")
    values: dict[str, Any] = {}
    for _ in range(key_count):
        key = _string(cursor, "the name of a key", _MAX_NAME_BYTES)
        if key in values:
            raise FormatError(f"the key {brief(key)} is given twice")
        values[key] = _value(cursor, brief(key))
    infos: dict[str, _Info] = {}
    for _ in range(tensor_count):
        name = _string(cursor, "the name of a tensor", _MAX_NAME_BYTES)
        where = f"the entry of tensor {brief(name)}"
        if name in infos:
            raise FormatError(f"the tensor {brief(name)} is given twice")
        rank = cursor.number("<I", where)
        if rank > 4:
            raise FormatError(f"{where} has {rank} dimensions: at most 4 are allowed")
        extents = tuple(cursor.number("<Q", where) for _ in range(rank))
        infos[name] = _Info(cursor.number("<I", where), extents[::-1], cursor.number("<Q", where))
    alignment = values.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 8 or alignment > 1 << 16 or alignment & (alignment - 1):
        raise FormatError(f"general.alignment is {brief(str(alignment))}: it must be a power of two from 8 to 65536")
    return values, infos, -(-cursor.at // alignment) * alignment


def _text(values: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = values.get(key, default)
    if not isinstance(value, str):
        raise FormatError(f"{key} is missing: it must be text" if value is None else f"{key} must be text")
    return value


def _whole(values: Mapping[str, Any], key: str, limit: int, default: int | None = None) -> int:
    value = values.get(key, default)
    if value is None:
        raise FormatError(f"{key} is missing")
    if type(value) is not int or not 1 <= value <= limit:
        raise FormatError(f"{key} is {brief(str(value))}: it must be a whole number from 1 to {limit}")
    return value


def _real(values: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = values.get(key, default)
    if value is None:
        raise FormatError(f"{key} is missing")
    if not isinstance(value, float) or not math.isfinite(value) or value <= 0:
        raise FormatError(f"{key} is {brief(str(value))}: it must be a number above 0")
    # Stored as binary32: the shortest number that reads the same, so that 1e-05 comes back as 1e-05.
    return float(str(np.float32(value)))


_READ_KEYS = {
    "llama.vocab_size",
    "llama.context_length",
    "llama.embedding_length",
    "llama.block_count",
    "llama.feed_forward_length",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.attention.layer_norm_rms_epsilon",
    "llama.rope.freq_base",
    "llama.tensor_data_layout",
}
_HEAD_DIM_KEYS = {"llama.rope.dimension_count", "llama.attention.key_length", "llama.attention.value_length"}
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "llama.rope.scaling.type": ("none",),
    "llama.rope.scaling.factor": (0.0, 1.0),
    "llama.rope.scaling.finetuned": (False,),
    "llama.expert_count": (0,),
    "llama.expert_used_count": (0,),
}
"""Keys that are accepted with these values, which change nothing."""


def _check_keys(values: Mapping[str, Any]) -> None:
    """Refuse unknown keys: they may change what the model computes."""
    heads = _whole(values, "llama.attention.head_count", SHAPE_LIMITS["n_heads"])
    head_dim = _whole(values, "llama.embedding_length", SHAPE_LIMITS["dim"]) // heads
    for key, value in values.items():
        if not key.startswith("llama.") or key in _READ_KEYS:
            continue
        wanted = (head_dim,) if key in _HEAD_DIM_KEYS else _HARMLESS.get(key)
        if wanted is None:
            raise FormatError(f"the key {brief(key)} is not supported: only plain Llama models are")
        if isinstance(value, (list, np.ndarray)) or value not in wanted:
            raise FormatError(f"{key} is {brief(str(value))}: only {' or '.join(map(str, wanted))} is supported")


def _shape(values: Mapping[str, Any], infos: Mapping[str, _Info]) -> ModelShape:
    embedding = infos.get("token_embd.weight")
    if embedding is None or len(embedding.extents) != 2:
        raise FormatError("the tensor token_embd.weight is missing or is not a matrix")
    heads = _whole(values, "llama.attention.head_count", SHAPE_LIMITS["n_heads"])
    vocab_size = embedding.extents[0]
    if not 1 <= vocab_size <= SHAPE_LIMITS["vocab_size"]:
        raise FormatError(f"token_embd.weight has {vocab_size} rows: from 1 to {SHAPE_LIMITS['vocab_size']} are supported")
    try:
        return ModelShape(
            vocab_size=vocab_size,
            dim=_whole(values, "llama.embedding_length", SHAPE_LIMITS["dim"]),
            n_layers=_whole(values, "llama.block_count", SHAPE_LIMITS["n_layers"]),
            n_heads=heads,
            n_kv_heads=_whole(values, "llama.attention.head_count_kv", SHAPE_LIMITS["n_kv_heads"], heads),
            hidden_dim=_whole(values, "llama.feed_forward_length", SHAPE_LIMITS["hidden_dim"]),
            max_seq_len=_whole(values, "llama.context_length", SHAPE_LIMITS["max_seq_len"]),
            rope_theta=_real(values, "llama.rope.freq_base", 10000.0),
            norm_eps=_real(values, "llama.attention.layer_norm_rms_epsilon"),
            tied_embeddings="output.weight" not in infos,
        )
    except ConfigError as error:
        raise FormatError(f"the shape is not supported: {error}") from None


def _tensors(data: mmap.mmap, infos: Mapping[str, _Info], start: int, shape: ModelShape) -> dict[str, EncodedTensor]:
    names = {gguf_name(name): name for name in shape.tensors()}
    for name in infos:
        if name not in names:
            raise FormatError(f"the tensor {brief(name)} is unknown: only plain Llama models of this shape are supported")
    known = {number: kind for kind, number in GGML_TYPES.items()} | {GGML_BF16: "BF16"}
    tensors: dict[str, EncodedTensor] = {}
    places: list[tuple[int, int, str]] = []
    for theirs, name in names.items():
        if theirs not in infos:
            raise FormatError(f"the tensor {theirs} is missing")
        info, extents = infos[theirs], shape.tensors()[name]
        if info.extents != extents:
            raise FormatError(f"the tensor {theirs} has shape {list(info.extents)}, but the keys imply {list(extents)}")
        if info.type not in known:
            name_of_type = OTHER_GGML_TYPES.get(info.type, f"ggml type {info.type}")
            raise FormatError(
                f"the tensor {theirs} is {name_of_type}: only F32, F16, BF16, Q4_0 and Q8_0 can be read; make the file in one of these"
            )
        kind = known[info.type]
        if len(extents) == 1 and kind in ("BQ4", "BQ8"):
            raise FormatError(f"the tensor {theirs} is {kind}: gains of norms must not be quantized")
        size, offset = tensor_bytes("F16" if kind == "BF16" else kind, extents), start + info.offset
        if offset + size > len(data) or offset % 4:
            raise FormatError(f"the file is cut short or damaged: the tensor {theirs} has {size} bytes at byte {offset} and does not fit")
        places.append((offset, size, theirs))
        stored = np.frombuffer(data, np.uint8, size, offset)
        if kind == "BF16":
            tensors[name] = (stored.view("<u2").astype("<u4") << 16).view("<f4").reshape(extents)  # the upper half of a binary32
        else:
            tensor = view_tensor(stored, kind, extents)
            tensors[name] = as_floats(tensor) if len(extents) == 1 else tensor
    places.sort()
    for (offset, size, before), (after, _, theirs) in itertools.pairwise(places):
        if offset + size > after:
            raise FormatError(f"the tensors {before} and {theirs} overlap")
    for theirs, name in names.items():
        check_finite(tensors[name], f"the tensor {theirs}")
    return tensors


def _tokenizer(values: Mapping[str, Any]) -> bytes:
    where = "tokenizer.ggml"
    kind = _text(values, f"{where}.model")
    if kind != "llama":
        raise FormatError(f'{where}.model is "{brief(kind)}": only tokenizers of BulletLM ("llama", sentencepiece) are supported')
    tokens, scores, types = (values.get(f"{where}.{key}", 0) for key in ("tokens", "scores", "token_type"))
    if not isinstance(tokens, list) or not tokens:
        raise FormatError(f"{where}.tokens must be a list of texts, one for each row of the embedding")
    for i in range(FIRST_PIECE):
        wanted = fixed_text(i)
        if i >= len(tokens) or tokens[i] != wanted:
            found = f'is "{brief(tokens[i])}"' if i < len(tokens) else "is missing"
            raise FormatError(f'{where}: token {i} {found}, but must be "{wanted}": only tokenizers of BulletLM are supported')
    if not isinstance(scores, np.ndarray) or len(scores) != len(tokens):
        raise FormatError(f"{where}.scores must be {len(tokens)} numbers")
    if not isinstance(types, np.ndarray) or len(types) != len(tokens):
        raise FormatError(f"{where}.token_type must be {len(tokens)} numbers")
    if not np.isfinite(scores).all():
        raise FormatError(f"{where}.scores holds a number that is NaN or infinite")
    for i, (text, type_number) in enumerate(zip(tokens, types.tolist(), strict=True)):
        if type_number != type_of_id(i) or not text:
            name = TYPE_NAMES[type_of_id(i)]
            raise FormatError(f"{where}: token {i} must be of type {type_of_id(i)} ({name}) and not empty, but is of type {type_number}")
    for key, allowed in (("add_space_prefix", False), ("remove_extra_whitespaces", False)):
        # llama.cpp's own defaults are true and false.
        if values.get(f"{where}.{key}", key == "add_space_prefix") is not allowed:
            raise FormatError(f"{where}.{key} must be false: only tokenizers that keep text unchanged are supported")
    if f"{where}.precompiled_charsmap" in values:
        raise FormatError(f"{where}.precompiled_charsmap: only tokenizers without a normalizer are supported")
    for key, wanted_id in (("bos_token_id", BOS), ("eos_token_id", EOS)):
        if values.get(f"{where}.{key}", wanted_id) != wanted_id:
            raise FormatError(f"{where}.{key} must be {wanted_id}")
    learned = zip(tokens[FIRST_PIECE:], scores[FIRST_PIECE:].tolist(), strict=True)
    return check_tokenizer(model_of_pieces(learned), len(tokens), where).proto


_STANDARD_TEXTS = {"name": "general.name", "license": "general.license"}


def _metadata(values: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Return the metadata of the export, updated with the present standard keys; `notes` lists the changes since the export."""
    embedded = parse_json(_text(values, METADATA_KEY).encode(), METADATA_KEY) if METADATA_KEY in values else {}
    check_metadata(embedded)
    standard = _standard_metadata(values)
    metadata = dict(embedded)
    for key, value in standard.items():
        if key == "sampling":
            before = embedded.get(key, {})
            # The file has them as binary32.
            value = before | {name: v for name, v in value.items() if name not in before or np.float32(v) != np.float32(before[name])}
        if value == embedded.get(key, type(value)()):  # an export writes an empty text or list where nothing is known
            continue
        metadata[key] = value
        if METADATA_KEY in values:
            notes.append(f"{key.replace('_', ' ')} was changed in the file after the export: {brief(str(value))}")
    check_metadata(metadata)
    return metadata


def _standard_metadata(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the standard keys under our names."""
    found: dict[str, Any] = {name: _text(values, key) for name, key in _STANDARD_TEXTS.items() if key in values}
    if "general.languages" in values:
        languages = values["general.languages"]
        found["languages"] = languages.tolist() if isinstance(languages, np.ndarray) else languages
    if "tokenizer.chat_template" in values:
        template = _text(values, "tokenizer.chat_template")
        if not is_standard(template):
            found["chat_template"] = template
    sampling = {name: values[key] for name, key in SAMPLING_KEYS.items() if key in values}
    if sampling:
        # Stored as binary32: the shortest number that reads the same.
        found["sampling"] = {name: float(str(np.float32(v))) if isinstance(v, float) else v for name, v in sampling.items()}
    return found
