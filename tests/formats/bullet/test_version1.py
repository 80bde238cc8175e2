"""Tests version 1: dialects A, B and C are converted to version 2 with the same numbers; A is written as its runtime reads it."""

import functools
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from version1 import block_a, block_b, file_a, file_b, file_c, fnv, runtime_a, v1_name, value_a, value_b

from bulletlm.errors import BulletError, FormatError
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.bullet.version1 import read_v1, write_v1
from bulletlm.formats.convert import ConvertOptions, convert, read_model
from bulletlm.formats.stored import StoredModel, as_floats, type_of
from bulletlm.quant.bq4 import Quantized, quantize_bq4, quantize_bq8
from bulletlm.quant.types import standard_types
from bulletlm.runtime.engine import NumpyEngine
from bulletlm.shape import ModelShape
from bulletlm.text.tokenizer import SPECIAL_TOKENS, Tokenizer
from bulletlm.text.train_tokenizer import model_of_pieces

TEXTS = ["नम", "स्", "स्ते", "नमस्ते", "▁h", "▁hi", "hi", "▁", "न", "म", "स", "त", "्", "े", "h", "i", "a"]
PROTO = model_of_pieces((text, -float(rank)) for rank, text in enumerate(TEXTS))
SHAPE = ModelShape(262 + len(TEXTS), 32, 2, 2, 2, 128, 48, tied_embeddings=False)
HEADER = {
    "bullet_version": "1.0",
    "model_name": "old",
    "dimensions": {"hidden_size": 32, "num_layers": 2, "num_heads": 2},
    "vocab_size": SHAPE.vocab_size,
    "max_context": 48,
}
TOKENS = [(text.encode(), 0.0) for text in SPECIAL_TOKENS]
TOKENS += [(bytes([byte]), 0.0) for byte in range(256)]
TOKENS += [(text.replace("▁", " ").encode(), -float(rank)) for rank, text in enumerate(TEXTS)]


def weights(shape: ModelShape = SHAPE, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: np.ones(extents, np.float32)
        if len(extents) == 1
        else rng.standard_normal(extents, dtype=np.float32) / np.float32(extents[1] ** 0.5)
        for name, extents in shape.tensors().items()
    }


def stored_model(shape: ModelShape, tensors: dict[str, np.ndarray], quant: str = "F32") -> StoredModel:
    types, stored = standard_types(shape, quant), {}
    for name, tensor in tensors.items():
        kind = types[name]
        stored[name] = Quantized(kind, quantize_bq4(tensor) if kind == "BQ4" else quantize_bq8(tensor)) if "B" in kind else tensor
    return StoredModel(shape, stored, PROTO, {"name": "old", "license": "CC0-1.0"})  # type: ignore[arg-type]


def engine_of(model: StoredModel) -> NumpyEngine:
    return NumpyEngine(model.shape, {name: as_floats(tensor) for name, tensor in model.tensors.items()})


Block = Callable[[np.ndarray], bytes]
Entry = tuple[str, tuple[int, ...], int, bytes]


def entries(tensors: dict[str, np.ndarray], block: Block) -> list[Entry]:
    return [(v1_name(name), t.shape, 0, b"".join(block(row) for row in t.reshape(-1, 32))) for name, t in tensors.items()]


def values(entry: Entry, value: Callable[[bytes], list[float]]) -> np.ndarray:
    data = entry[3]
    return np.array([value(data[i : i + 20]) for i in range(0, len(data), 20)], dtype=np.float32).reshape(entry[1])


def read_bytes(path: Path, content: bytes, like: StoredModel | None = None) -> StoredModel:
    path.write_bytes(content)
    return read_v1(path, like)


# --- reading ------------------------------------------------------------------------------------------------------------


def test_dialect_a(tmp_path: Path) -> None:
    rows = entries(weights(), block_a)
    model = read_bytes(tmp_path / "a.bullet", file_a(HEADER, TOKENS, rows))
    assert model.shape == SHAPE and model.tokenizer_proto == PROTO and model.metadata == {"name": "old"} and not model.notes
    for name, row in zip(SHAPE.tensors(), rows, strict=True):
        np.testing.assert_array_equal(as_floats(model.tensors[name]), values(row, value_a), err_msg=name)
        assert type_of(model.tensors[name]) == ("F32" if "norm" in name else "BQ4")
    convert(tmp_path / "a.bullet", tmp_path / "new.bullet")
    file = open_bullet(tmp_path / "new.bullet")
    file.verify()
    for name in SHAPE.tensors():
        np.testing.assert_array_equal(file.dequantize(name), as_floats(model.tensors[name]))


def test_dialect_b(tmp_path: Path) -> None:
    rows = entries(weights(), block_b)
    rows[-1] = (rows[-1][0], rows[-1][1], 3, weights()["lm_head.weight"].astype("<f2").tobytes())
    header = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "max_context": 48, "bullet_version": "1.0"}
    model = read_bytes(tmp_path / "b.bullet", file_b(header, [text for text, _ in TOKENS], rows))
    assert model.shape == SHAPE and model.tokenizer_proto == PROTO
    for name, row in zip(list(SHAPE.tensors())[:-1], rows, strict=False):
        np.testing.assert_array_equal(as_floats(model.tensors[name]), values(row, value_b), err_msg=name)
    np.testing.assert_array_equal(model.tensors["lm_head.weight"], weights()["lm_head.weight"].astype(np.float16))
    convert(tmp_path / "b.bullet", tmp_path / "new.bullet")
    assert open_bullet(tmp_path / "new.bullet").type("lm_head.weight") == "F16"


@pytest.mark.parametrize("block_size", [32, 64])
def test_dialect_c(tmp_path: Path, block_size: int) -> None:
    rng = np.random.default_rng(2)
    rows, expected = [], {}
    for name, extents in SHAPE.tensors().items():
        if len(extents) == 2:
            nibbles = rng.integers(-8, 8, (-(-np.prod(extents) // block_size), block_size))
            scales = rng.random(len(nibbles)).astype("<f4")
            packed = [
                bytes(int(low) & 15 | (int(high) & 15) << 4 for low, high in zip(row[::2], row[1::2], strict=True)) for row in nibbles
            ]
            data = b"".join(pairs + scale.tobytes() for pairs, scale in zip(packed, scales, strict=True))
            rows.append((v1_name(name), extents, len(nibbles), data))
            expected[name] = (nibbles * scales[:, None]).reshape(-1)[: np.prod(extents)].reshape(extents)
    path = tmp_path / "c.bq4"
    like = stored_model(SHAPE, weights())
    model = read_bytes(path, file_c(rows, block_size), like)
    for name, tensor in expected.items():
        np.testing.assert_allclose(as_floats(model.tensors[name]), tensor, rtol=5e-4, atol=1e-7)
    assert model.shape == SHAPE and "no gains for 5 norms: they were set to 1" in " ".join(model.notes)
    with pytest.raises(FormatError, match=r"neither heads nor context nor vocabulary: .* --like MODEL"):
        read_v1(path)
    write_v1(tmp_path / "like.bullet", like)
    convert(path, tmp_path / "new.bullet", ConvertOptions(like=tmp_path / "like.bullet"))
    open_bullet(tmp_path / "new.bullet").verify()


def test_names_and_header_of_another_exporter(tmp_path: Path) -> None:
    """One exporter wrote other names, the vocabulary size as the width, and a table that no model needs."""
    renamed = {"query": "wq", "key": "wk", "value": "wv", "output": "wo"}
    rows = []
    for name, *rest in entries(weights(), block_a):
        part = name.split(".")
        name = f"layers.{part[1]}.attention.{renamed[part[3]]}.weight" if "attention" in name else name
        rows.append(({"final_layernorm.weight": "norm.weight", "output_head.weight": "output.weight"}.get(name, name), *rest))
    rows.insert(0, ("freqs_cis", (48, 16), 0, bytes(48 * 16 // 32 * 20)))
    header = {**HEADER, "dimensions": {"hidden_size": 279, "num_layers": 2, "num_heads": 2}}
    model = read_bytes(tmp_path / "a.bullet", file_a(header, TOKENS, rows))
    plain = read_bytes(tmp_path / "p.bullet", file_a(HEADER, TOKENS, entries(weights(), block_a)))
    for name in SHAPE.tensors():
        np.testing.assert_array_equal(as_floats(model.tensors[name]), as_floats(plain.tensors[name]))


def test_another_vocabulary_is_put_into_order(tmp_path: Path) -> None:
    """<pad> <unk> <s> </s>, bytes, pieces; no chat marks; all scores 1."""
    texts = ["<pad>", "<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *TEXTS]
    shape = ModelShape(**{**SHAPE.to_dict(), "vocab_size": len(texts)})
    rows = entries(weights(shape), block_a)
    model = read_bytes(tmp_path / "a.bullet", file_a(HEADER, [(text.encode(), 1.0) for text in texts], rows))
    tokenizer = Tokenizer(model.tokenizer_proto)
    assert tokenizer.vocab_size == len(texts) + 3
    old = {text: i for i, text in enumerate(texts)}
    new = [old.get(piece.text, old["<unk>"]) for piece in tokenizer.pieces()]
    embedding = values(rows[0], value_a)
    np.testing.assert_array_equal(as_floats(model.tensors["token_embedding.weight"]), embedding[new])
    plain, text = Tokenizer(PROTO), "नमस्ते hi x"
    assert [tokenizer.pieces()[i].text for i in tokenizer.encode(text)] == [plain.pieces()[i].text for i in plain.encode(text)]
    assert any("3 special and byte tokens (the first is <|user|>) were missing" in note for note in model.notes)
    convert(tmp_path / "a.bullet", tmp_path / "new.bullet")
    open_bullet(tmp_path / "new.bullet").verify()


def test_a_vocabulary_of_words(tmp_path: Path) -> None:
    """The file has no <unk> either: version 1 used token 0 instead."""
    texts = ["apple", "tree", " "]
    shape = ModelShape(**{**SHAPE.to_dict(), "vocab_size": 3})
    rows = entries(weights(shape), block_a)
    model = read_bytes(tmp_path / "a.bullet", file_a(HEADER, [(text.encode(), 0.0) for text in texts], rows))
    assert model.shape.vocab_size == 262 + 3
    np.testing.assert_array_equal(as_floats(model.tensors["token_embedding.weight"])[:262], values(rows[0], value_a)[[0] * 262])


def test_a_tokenizer_from_elsewhere(tmp_path: Path) -> None:
    tokens = [(b"%d" % i, 0.0) for i in range(SHAPE.vocab_size)]
    path = tmp_path / "a.bullet"
    model = read_bytes(path, file_a(HEADER, tokens, entries(weights(), block_a)), like=stored_model(SHAPE, weights()))
    assert model.tokenizer_proto == PROTO and model.shape == SHAPE
    small = stored_model(ModelShape(**{**SHAPE.to_dict(), "vocab_size": 270}), {})
    with pytest.raises(FormatError, match="it has 279 tokens, but the model given as --like has 270"):
        read_v1(path, small)


@pytest.mark.parametrize(
    ("gains", "message"), [(np.zeros(32), "5 of 5 norms are damaged .*attention_norm"), (np.full(32, 1e-5), "damaged")]
)
def test_damaged_norms_are_said(tmp_path: Path, gains: np.ndarray, message: str) -> None:
    tensors = {name: gains.astype(np.float32) if tensor.ndim == 1 else tensor for name, tensor in weights().items()}
    flat = entries(tensors, block_a)
    flat = [(name, shape, kind, b"\0" * len(data) if len(shape) == 1 else data) for name, shape, kind, data in flat]
    model = read_bytes(tmp_path / "a.bullet", file_a(HEADER, TOKENS, flat))
    assert re.search(message, model.notes[0])
    assert convert(tmp_path / "a.bullet", tmp_path / "new.bullet").notes == list(model.notes)


def test_other_zero_points_are_rounded_anew(tmp_path: Path) -> None:
    rows = entries(weights(), lambda row: block_a(row, zero=6))
    model = read_bytes(tmp_path / "a.bullet", file_a(HEADER, TOKENS, rows))
    assert "zero points that BQ4 does not have" in model.notes[0]
    for name, row in zip(SHAPE.tensors(), rows, strict=True):
        np.testing.assert_array_equal(as_floats(model.tensors[name]), values(row, value_a))
    convert(tmp_path / "a.bullet", tmp_path / "q.bullet")
    file = open_bullet(tmp_path / "q.bullet")
    assert file.type("layers.0.mlp.up_proj.weight") == "BQ4" and file.type("token_embedding.weight") == "BQ8"
    convert(tmp_path / "a.bullet", tmp_path / "f.bullet", ConvertOptions(quant="F32"))
    np.testing.assert_array_equal(
        open_bullet(tmp_path / "f.bullet").dequantize("lm_head.weight"), as_floats(model.tensors["lm_head.weight"])
    )


def test_an_output_matrix_equal_to_the_embedding_is_tied(tmp_path: Path) -> None:
    rows = entries(weights(), block_a)
    rows[-1] = (rows[-1][0], *rows[0][1:])
    assert read_bytes(tmp_path / "a.bullet", file_a(HEADER, TOKENS, rows)).shape.tied_embeddings
    assert read_bytes(tmp_path / "b.bullet", file_a(HEADER, TOKENS, rows[:-1])).shape.tied_embeddings, "nor has it to be there"


# --- writing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_version_1s_runtime_reads_what_we_write(tmp_path: Path, tied: bool) -> None:
    """Gains of 2 and 4 can be multiplied into the weights exactly, so the logits are equal to ours."""
    shape = ModelShape(**{**SHAPE.to_dict(), "tied_embeddings": tied})
    tensors = {name: Quantized("BQ4", quantize_bq4(t)).dequantize() if t.ndim == 2 else 2 * t for name, t in weights(shape).items()}
    tensors["final_norm.weight"] *= 2
    model = stored_model(shape, tensors)
    write_v1(tmp_path / "a.bullet", model)
    numbers, tokens, merges, found = runtime_a((tmp_path / "a.bullet").read_bytes())
    assert numbers["hidden_size"] == 32 and numbers["num_layers"] == 2 and numbers["num_heads"] == 2
    assert numbers["vocab_size"] == SHAPE.vocab_size and numbers["max_context"] == 48
    assert tokens == TOKENS
    assert (b"h", b"i") in merges and ("न".encode(), "म".encode()) in merges and all(a + b in dict(tokens) for a, b in merges)
    untied = ModelShape(**{**shape.to_dict(), "tied_embeddings": False})
    theirs = {name: found[fnv(v1_name(name))] for name in untied.tensors()}
    assert all((theirs[name] == 1).all() for name in theirs if "norm" in name)
    ids = np.arange(40)[None] * 7 % SHAPE.vocab_size
    logits = NumpyEngine(untied, theirs).score(ids)
    np.testing.assert_allclose(logits, engine_of(model).score(ids), atol=1e-4 * np.abs(logits).max())


@pytest.mark.parametrize("quant", ["BQ4", "BQ8", "F32"])
def test_there_and_back(tmp_path: Path, quant: str) -> None:
    """The first conversion rounds the matrices; later conversions change nothing."""
    rng = np.random.default_rng(7)
    tensors = {name: t if t.ndim == 2 else (t + rng.random(32)).astype(np.float32) for name, t in weights().items()}
    model = stored_model(SHAPE, tensors, quant)
    write_v1(tmp_path / "a.bullet", model)
    back = read_v1(tmp_path / "a.bullet")
    assert back.shape == SHAPE and back.tokenizer_proto == PROTO and back.metadata == model.metadata and not back.notes
    for name, norm in (("lm_head", "final_norm"), ("layers.1.mlp.up_proj", "layers.1.mlp_norm"), ("layers.0.attention.o_proj", "")):
        folded = as_floats(model.tensors[f"{name}.weight"]) * (tensors[f"{norm}.weight"] if norm else 1)
        np.testing.assert_array_equal(back.tensors[f"{name}.weight"].blocks, quantize_bq4(folded))  # type: ignore[union-attr]
    ids = np.arange(40)[None] * 7 % SHAPE.vocab_size
    ours, theirs = engine_of(model).score(ids), engine_of(back).score(ids)
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.8
    convert(tmp_path / "a.bullet", tmp_path / "new.bullet")
    convert(tmp_path / "new.bullet", tmp_path / "again.bullet", ConvertOptions(version=1))
    assert (tmp_path / "again.bullet").read_bytes() == (tmp_path / "a.bullet").read_bytes()


def test_a_trained_model(micro_run: Path, tmp_path: Path) -> None:
    """Its shape does not fit; with the fields that version 1 fixes as they must be, it does."""
    with pytest.raises(FormatError, match="version 1 cannot hold this model: n_kv_heads is 2, and must be 4"):
        convert(micro_run / "model.bullet", tmp_path / "a.bullet", ConvertOptions(version=1))
    _, model = read_model(micro_run / "model.bullet")
    shape = ModelShape(**{**model.shape.to_dict(), "n_kv_heads": 4, "hidden_dim": 256, "n_layers": 1})
    long = {"training": {"sources": [{"path": "x" * 100, "vocab_size": 1}] * 90}}
    model = StoredModel(shape, weights(shape), model.tokenizer_proto, {**model.metadata, **long})
    write_v1(tmp_path / "a.bullet", model)
    numbers, tokens, _, _ = runtime_a((tmp_path / "a.bullet").read_bytes())
    assert numbers["tokenizer_start"] > 4096 and numbers["vocab_size"] == len(tokens) == shape.vocab_size
    back = read_v1(tmp_path / "a.bullet")
    assert back.tokenizer_proto == model.tokenizer_proto and back.metadata == model.metadata


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_kv_heads": 1}, "n_kv_heads is 1, and must be 2"),
        ({"hidden_dim": 96}, "hidden_dim is 96, and must be 128"),
        ({"rope_theta": 5e5}, "rope_theta is 500000.0, and must be 10000.0"),
        ({"norm_eps": 1e-6}, "norm_eps is 1e-06, and must be 1e-05"),
        ({"vocab_size": 70000}, "vocab_size is 70000, and must be at most 65535"),
    ],
)
def test_what_version_1_cannot_hold(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        write_v1(tmp_path / "a.bullet", StoredModel(ModelShape(**{**SHAPE.to_dict(), **change}), {}, PROTO, {}))
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("error")
def test_weights_that_four_bits_cannot_hold(tmp_path: Path) -> None:
    for size, gain, message in [(1e38, 10, "a weight is -?inf"), (1e6, 1, r"the weight -?\d.* is too large for BQ4")]:
        tensors = weights()
        tensors["layers.1.attention.k_proj.weight"] *= np.float32(size)
        tensors["layers.1.attention_norm.weight"] *= np.float32(gain)
        with pytest.raises(FormatError, match=rf"the tensor layers\.1\.attention\.k_proj\.weight cannot be written: {message}"):
            write_v1(tmp_path / "a.bullet", stored_model(SHAPE, tensors))
    assert not list(tmp_path.iterdir())


# --- broken files -------------------------------------------------------------------------------------------------------


@functools.cache
def good_a() -> bytes:
    return file_a(HEADER, TOKENS, entries(weights(), block_a))


def of_a(header: dict[str, Any] | None = None, tokens: Any = None, change: Callable[[list[Entry]], object] = lambda rows: None) -> bytes:
    rows = entries(weights(), block_a)
    change(rows)
    return file_a({**HEADER, **(header or {})}, TOKENS if tokens is None else tokens, rows)


def set_row(i: int, row: Entry) -> Callable[[list[Entry]], object]:
    return lambda rows: rows.__setitem__(i, row)


NAN_BLOCK = b"\x00\x7e\x08\x00" + bytes(16)
DAMAGE: dict[str, tuple[Callable[[], bytes], str]] = {
    "pickle": (lambda: b"\x80\x04\x95" + bytes(99), "Python pickle .*dialect D.*: loading one can run any program, so it is refused"),
    "torch checkpoint": (lambda: b"PK\x03\x04" + bytes(99), "zip file, such as torch.save writes: pickles"),
    "no end of the header": (lambda: good_a().replace(b"\0", b" ", 3000000), "the header does not end"),
    "no END!": (lambda: good_a()[:-1], 'does not end in "END!"'),
    "header is no JSON": (lambda: good_a().replace(b'"num_layers": 2,', b'"num_layers": 2;'), "header: not valid JSON"),
    "no layers": (lambda: good_a().replace(b"num_layers", b"nom_layers"), "header.num_layers is missing"),
    "layers are text": (lambda: of_a({"dimensions": {"num_layers": "2", "num_heads": 2}}), "header.num_layers must be a whole number"),
    "no heads": (lambda: of_a({"dimensions": {"num_layers": 2, "num_heads": 0}}), "header.num_heads is 0"),
    "odd heads": (lambda: of_a({"dimensions": {"num_layers": 2, "num_heads": 5}}), "n_heads 5|n_kv_heads 5"),
    "huge": (lambda: of_a({"dimensions": {"num_layers": 10**9, "num_heads": 2}}), "header.num_layers is 1000000000"),
    "more layers": (lambda: of_a({"dimensions": {"num_layers": 3, "num_heads": 2}}), r"the tensor layers\.2\..* is missing"),
    "weights outside": (
        lambda: re.sub(rb'"weights_start": \d+', lambda m: m[0][:-5] + b"99999", good_a()),
        "header.weights_start is .*99999, which is outside the file",
    ),
    "vocabulary elsewhere": (lambda: good_a().replace(b"BULK", b"BULC"), 'does not begin with "BULK"'),
    "weights elsewhere": (lambda: good_a().replace(b"BWT0", b"BWT1"), 'do not begin with "BWT0"'),
    "a billion tokens": (lambda: good_a().replace(b"BULK", b"BULK\xff\xff\xff\x7f"), "claims 2147483647 tokens"),
    "few tokens": (lambda: of_a(tokens=TOKENS[:-1]), "the vocabulary has 278 tokens, but the embedding has 279 rows"),
    "score is NaN": (lambda: of_a(tokens=[*TOKENS[:-1], (b"x", float("nan"))]), "the score of token 278 is NaN"),
    "token is not UTF-8": (lambda: of_a(tokens=[*TOKENS[:-1], (b"\xff\xfe", 0.0)]), "token 278 of the vocabulary is not UTF-8"),
    "empty token": (lambda: of_a(tokens=[*TOKENS[:-1], (b"", 0.0)]), "token 278 of the vocabulary is empty"),
    "token twice": (lambda: of_a(tokens=[*TOKENS[:-1], TOKENS[270]]), "the vocabulary: the tokenizer is not a sentencepiece model"),
    "foreign token twice": (lambda: of_a(tokens=[(b"a", 0.0), *TOKENS[1:]]), "tokens 0 and .* of the vocabulary have the same text"),
    "unknown tensor": (
        lambda: of_a(change=set_row(3, ("who", (32,), 0, bytes(20)))),
        "tensor 3 .hash [0-9a-f]{16}. has no known name",
    ),
    "tensor twice": (lambda: of_a(change=lambda rows: rows.append(rows[2])), r"layers\.0\.attention\.q_proj\.weight. is given twice"),
    "tensor missing": (lambda: of_a(change=lambda rows: rows.pop(2)), r"layers\.0\.attention\.q_proj\.weight is missing"),
    "embedding missing": (lambda: of_a(change=lambda rows: rows.pop(0)), r"token_embedding\.weight is missing"),
    "unknown type": (lambda: of_a(change=lambda rows: rows.append(("norm.weight", (32,), 1, bytes(20)))), "type 1: only 0|given twice"),
    "odd type": (lambda: of_a(change=set_row(1, ("layers.0.norm.attn.weight", (32,), 2, bytes(20)))), "is of type 2: only 0 .BQ4. and 3"),
    "wrong size": (lambda: of_a(change=set_row(1, ("layers.0.norm.attn.weight", (32,), 0, bytes(40)))), "has 40 bytes: .* take 20"),
    "wrong shape": (lambda: of_a(change=set_row(1, ("layers.0.norm.attn.weight", (64,), 0, bytes(40)))), r"has shape \[64\], but"),
    "odd shape": (lambda: of_a(change=set_row(1, ("layers.0.norm.attn.weight", (16,), 0, bytes(20)))), "must be a multiple of 32"),
    "scale is NaN": (lambda: of_a(change=set_row(1, ("layers.0.norm.attn.weight", (32,), 0, NAN_BLOCK))), "holds a scale that is NaN"),
    "half is NaN": (lambda: of_a(change=set_row(1, ("layers.0.norm.attn.weight", (32,), 3, b"\x00\x7e" * 32))), "is NaN or infinite"),
    "odd metadata": (lambda: of_a({"metadata": {"license": 5}}), "license is 5"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGE.values(), ids=list(DAMAGE))
def test_what_cannot_be_read_is_one_clear_line(tmp_path: Path, content: Callable[[], bytes], message: str) -> None:
    path = tmp_path / "old.bullet"
    path.write_bytes(content())
    with pytest.raises(FormatError, match=message) as caught:
        if path.read_bytes()[:1] in (b"{", b"B"):
            read_v1(path)
        convert(path, tmp_path / "new.bullet")
    assert str(caught.value).isprintable() and str(path) in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["old.bullet"], "nothing is written"


C_ROW = ("output_head.weight", (279, 32), 279, bytes(20 * 279))
DAMAGE_C: dict[str, tuple[bytes, str]] = {
    "another version": (b"BQ4F\x02\0\0\0\0\0\0\0", "BQ4F version 2: only 1"),
    "cut in the directory": (file_c([C_ROW])[:30], "cut short or damaged: tensor 0"),
    "cut in the blocks": (file_c([C_ROW])[:-1], "cut short or damaged: tensor 0 .output_head"),
    "a million tensors": (b"BQ4F\x01\0\0\0\xff\xff\xff\xff", "cut short or damaged: tensor 0"),
    "odd blocks": (file_c([C_ROW], block_size=20), "blocks of 20 weights"),
    "too few blocks": (file_c([(*C_ROW[:2], 278, C_ROW[3])]), "has 278 blocks of 32 weights, which do not make its shape"),
    "another shape": (
        file_c([("output_head.weight", (32, 279), 279, C_ROW[3])]),
        r"has shape \[32, 279\], but in the model",
    ),
    "another name": (file_c([("blocks.0.attn", *C_ROW[1:])]), "is called blocks.0.attn, which is not known"),
    "a name twice": (file_c([C_ROW, C_ROW]), "is given twice"),
    "no embedding": (file_c([C_ROW]), r"token_embedding\.weight is missing"),
    "five dimensions": (file_c([("output_head.weight", (1, 1, 1, 279, 32), 279, C_ROW[3])]), "has 5 dimensions"),
    "a huge scale": (file_c([(*C_ROW[:3], (bytes(16) + b"\xff\xff\x7f\x7f") * 279)]), "scale that is NaN, infinite or too large"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGE_C.values(), ids=list(DAMAGE_C))
def test_broken_files_of_dialect_c(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        read_bytes(tmp_path / "c.bq4", content, stored_model(SHAPE, weights()))
    assert str(caught.value).isprintable()


def test_cut_anywhere(tmp_path: Path) -> None:
    good = good_a()
    for end in itertools.chain(range(0, 600, 7), range(600, len(good), 997)):
        with pytest.raises(BulletError):
            read_bytes(tmp_path / "a.bullet", good[:end] + b"END!" * (end > 100))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(place=st.integers(0, 12000), byte=st.integers(0, 255))
def test_a_changed_byte(tmp_path: Path, place: int, byte: int) -> None:
    good = good_a()
    try:
        read_bytes(tmp_path / "a.bullet", good[:place] + bytes([byte]) + good[place + 1 :])
    except FormatError as error:
        assert str(error).isprintable()
