"""Tests that the code writes and reads what docs/bullet-format.md specifies."""

import itertools
import json
import struct
from pathlib import Path

import example_file
import numpy as np
import pytest

from bulletlm.errors import BulletError, FormatError
from bulletlm.formats.bullet.layout import aligned, decode_pieces, encode_pieces
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.bullet.writer import ModelContents, write_bullet
from bulletlm.quant.bq4 import Quantized, dequantize_bq4, dequantize_bq8, quantize_bq4, quantize_bq8
from bulletlm.quant.types import standard_types, tensor_bytes
from bulletlm.shape import ModelShape
from bulletlm.text.pieces import NORMAL, SPECIAL_PIECES
from paths import DOCS

DOCUMENT = DOCS / "bullet-format.md"


@pytest.fixture
def example(tmp_path: Path) -> Path:
    path = tmp_path / "example.bullet"
    example_file.write(path)
    return path


def test_the_worked_example_is_what_the_writer_writes() -> None:
    written = DOCUMENT.read_text(encoding="utf-8").split("<!-- example: begin -->\n")[1].split("<!-- example: end -->")[0]
    assert written.strip() == example_file.as_document().strip()


def test_every_byte_by_a_reader_written_from_the_document(example: Path) -> None:
    """Follows the text of the specification with struct and json only."""
    data = example.read_bytes()
    header = json.loads(data[: data.index(b"\0\0\0\0")])
    assert list(header)[:2] == ["bullet_version", "architecture"]
    end = data.index(b"\0\0\0\0") + 4
    weights = example_file.tensors()
    for entry in header["tensors"]:
        start = -(-end // 64) * 64
        assert entry["offset"] == start and not any(data[end:start])
        end = start + entry["bytes"]
        values = np.array(_decode(entry["type"], data[start:end])).reshape(entry["shape"])
        step = {"BQ4": 0.1, "BQ8": 0.01, "F32": 0}[entry["type"]]
        np.testing.assert_allclose(values, weights[entry["name"]], rtol=0, atol=step)
        np.testing.assert_array_equal(values.astype(np.float32), open_bullet(example).dequantize(entry["name"]))
    for entry in header["sections"]:
        start = -(-end // 64) * 64
        assert entry["offset"] == start and not any(data[end:start])
        end = start + entry["bytes"]
        content = data[start:end]
        if entry["name"] == "tokenizer.pieces":
            (n,) = struct.unpack_from("<I", content, 0)
            ends = struct.unpack_from(f"<{n}I", content, 4)
            scores = struct.unpack_from(f"<{n}f", content, 4 + 4 * n)
            kinds = struct.unpack_from(f"<{n}B", content, 4 + 8 * n)
            texts = content[4 + 9 * n :]
            pieces = [(texts[a:b].decode(), score, kind) for a, b, score, kind in zip((0, *ends), ends, scores, kinds, strict=False)]
            assert pieces == [tuple(piece) for piece in example_file.PIECES]
        else:
            assert content == example_file.proto()
    start = -(-end // 64) * 64
    assert data[start + 32 :] == b"END!" and not any(data[end:start])


def _decode(kind: str, content: bytes) -> list[float]:
    values: list[float] = []
    if kind == "BQ4":
        for at in range(0, len(content), 18):
            scale, *pairs = struct.unpack_from("<e16B", content, at)
            values += [((byte & 15) - 8) * scale for byte in pairs] + [((byte >> 4) - 8) * scale for byte in pairs]
    elif kind == "BQ8":
        for at in range(0, len(content), 34):
            scale, *whole = struct.unpack_from("<e32b", content, at)
            values += [byte * scale for byte in whole]
    else:
        values = list(struct.unpack(f"<{len(content) // 4}f", content))
    return values


def encode_as_specified(text: str, pieces: list[tuple[str, float, int]]) -> list[int]:
    """The paragraph on encoding, word for word."""
    normal = {piece: (score, i) for i, (piece, score, kind) in enumerate(pieces) if kind == NORMAL}
    byte = {piece: i for i, (piece, _, kind) in enumerate(pieces) if kind == 6}
    ids: list[int] = []
    for n, part in enumerate(text.split("\u2581")):
        symbols = list(part.replace(" ", "\u2581"))
        while True:
            joins = [(-normal[a + b][0], i) for i, (a, b) in enumerate(itertools.pairwise(symbols)) if a + b in normal]
            if not joins:
                break
            _, i = min(joins)
            symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
        if n:
            ids += [byte[f"<0x{b:02X}>"] for b in "\u2581".encode()]
        for symbol in symbols:
            if symbol in normal:
                ids.append(normal[symbol][1])
            else:
                ids += [byte[f"<0x{b:02X}>"] for b in symbol.encode()]
    return ids


def test_the_pieces_alone_are_an_exact_encoder(example: Path) -> None:
    file = open_bullet(example)
    tokenizer = file.tokenizer()
    for text in ["नमस्ते hi", " hi  hihi नमस्ते", "<s> <|user|>", "a\u2581b \u2581", "क्ष \U0001f600\n\ttest", "", "नमस्नमस्ते स्ते"]:
        ids = encode_as_specified(text, file.pieces)
        assert ids == tokenizer.encode(text)
        assert tokenizer.decode(ids) == text


def test_read_back(example: Path) -> None:
    file = open_bullet(str(example))
    file.verify()
    assert file.shape == example_file.SHAPE
    assert file.metadata == example_file.METADATA
    assert file.special == {name: i for i, name in enumerate(SPECIAL_PIECES.values())}
    assert [tuple(piece) for piece in file.pieces] == [tuple(piece) for piece in example_file.PIECES]
    assert list(file.tensors) == list(example_file.SHAPE.tensors())
    assert file.size == example.stat().st_size
    weights = example_file.tensors()
    for name, kind in standard_types(example_file.SHAPE).items():
        assert file.type(name) == kind
        array = file.dequantize(name)
        assert array.dtype == np.float32 and array.shape == example_file.SHAPE.tensors()[name]
        expected = {
            "F32": weights[name],
            "BQ4": dequantize_bq4(quantize_bq4(weights[name])) if kind == "BQ4" else None,
            "BQ8": dequantize_bq8(quantize_bq8(weights[name])) if kind == "BQ8" else None,
        }[kind]
        np.testing.assert_array_equal(array, expected)
        tensor = file.read_blocks(name)
        assert not (tensor.blocks if isinstance(tensor, Quantized) else tensor).flags.writeable


@pytest.mark.parametrize("quant", ["BQ4", "BQ8", "F16", "F32"])
def test_every_weight_type_and_an_untied_head(tmp_path: Path, quant: str) -> None:
    shape = ModelShape(len(example_file.PIECES), 64, 2, 4, 2, 96, 32, tied_embeddings=False)
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(s, dtype=np.float32) for name, s in shape.tensors().items()}
    path = tmp_path / "m.bullet"
    write_bullet(
        path,
        ModelContents(
            shape=shape,
            tensors=weights,
            types=standard_types(shape, quant),
            tokenizer_proto=example_file.proto(),
            pieces=example_file.PIECES,
            metadata={},
        ),
    )
    file = open_bullet(path)
    file.verify()
    assert file.shape == shape
    tolerance = {"BQ4": 0.5, "BQ8": 0.02, "F16": 0.002, "F32": 0}
    for name, w in weights.items():
        kind = file.type(name)
        assert kind == ("F32" if w.ndim == 1 else "BQ8" if quant == "BQ4" and not name.startswith("layers.") else quant)
        np.testing.assert_allclose(file.dequantize(name), w, rtol=0, atol=tolerance[kind])
        entry = file.tensors[name]
        assert file.read_bytes(name) == path.read_bytes()[entry.offset :][: entry.size]
        assert file.tensors[name].size == tensor_bytes(kind, w.shape)
        assert file.tensors[name].offset % 64 == 0


def test_tensors_that_are_on_their_grid_are_kept_bit_for_bit(tmp_path: Path) -> None:
    tensors: dict[str, np.ndarray | Quantized] = dict(example_file.tensors())
    name = "layers.0.mlp.up_proj.weight"
    blocks = np.random.default_rng(5).integers(0, 256, (32, 1, 18), dtype=np.uint8)
    blocks[..., 1] = 0x2C  # a scale of about 0.06
    tensors[name] = Quantized("BQ4", blocks)
    tensors["token_embedding.weight"] = Quantized("BQ8", quantize_bq8(example_file.tensors()["token_embedding.weight"]))
    path = tmp_path / "m.bullet"
    types = standard_types(example_file.SHAPE)
    write_bullet(
        path,
        ModelContents(
            shape=example_file.SHAPE,
            tensors=tensors,
            types=types,
            tokenizer_proto=example_file.proto(),
            pieces=example_file.PIECES,
            metadata={},
        ),
    )
    np.testing.assert_array_equal(open_bullet(path).read_blocks(name).blocks, blocks)
    with pytest.raises(FormatError, match=r"up_proj\.weight is already BQ4"):
        write_bullet(
            path,
            ModelContents(
                shape=example_file.SHAPE,
                tensors=tensors,
                types=types | {name: "BQ8"},
                tokenizer_proto=example_file.proto(),
                pieces=example_file.PIECES,
                metadata={},
            ),
        )
    blocks[3, 0, :2] = (0, 0x7C)
    with pytest.raises(FormatError, match=r"up_proj\.weight cannot be written: a BQ4 scale is NaN or infinite"):
        write_bullet(
            path,
            ModelContents(
                shape=example_file.SHAPE,
                tensors=tensors,
                types=types,
                tokenizer_proto=example_file.proto(),
                pieces=example_file.PIECES,
                metadata={},
            ),
        )


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    assert example_file.write(tmp_path / "a") == example_file.write(tmp_path / "b")


def test_head_shows_a_person_what_it_is(example: Path) -> None:
    start = example.read_bytes()[:600].decode()
    for word in ('"bullet_version": "2.0"', '"architecture": "llama"', '"dim": 32', '"license": "CC0-1.0"', '"languages": ["mr", "en"]'):
        assert word in start


def test_unknown_keys_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "m.bullet"
    extra = {"शेरा": "एक नवी कळ", "report": {"perplexity": [22.1, 22.2]}, "empty": []}
    types = standard_types(example_file.SHAPE)
    write_bullet(
        path,
        ModelContents(
            shape=example_file.SHAPE,
            tensors=example_file.tensors(),
            types=types,
            tokenizer_proto=example_file.proto(),
            pieces=example_file.PIECES,
            metadata=extra,
        ),
    )
    assert open_bullet(path).metadata == extra


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"tensors": []}, "has the key tensors, which the header uses"),
        ({"loss": float("nan")}, "not JSON"),
        ({"when": object()}, "not JSON"),
        ({"name": "\ud800"}, "not JSON in UTF-8"),
        ({"name": 7}, r"name is 7"),
        ({"sampling": {"temperature": -1}}, r"sampling\.temperature is -1"),
        ({"notes": "x" * (1 << 20)}, "at most"),
    ],
)
def test_metadata_that_cannot_be_written(tmp_path: Path, metadata: dict, message: str) -> None:
    types = standard_types(example_file.SHAPE)
    with pytest.raises(FormatError, match=message):
        write_bullet(
            tmp_path / "m",
            ModelContents(
                shape=example_file.SHAPE,
                tensors=example_file.tensors(),
                types=types,
                tokenizer_proto=example_file.proto(),
                pieces=example_file.PIECES,
                metadata=metadata,
            ),
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("quant", ["BQ4", "BQ8", "F16", "F32"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_weights_that_cannot_be_written(example: Path, quant: str, bad: float) -> None:
    if quant == "F32" and bad == 3e38:
        return
    before = example.read_bytes()
    tensors = example_file.tensors()
    tensors["layers.0.mlp.down_proj.weight"][31, 7] = bad
    with pytest.raises(FormatError, match=r"^the tensor layers\.0\.mlp\.down_proj\.weight cannot be written: .*") as caught:
        types = standard_types(example_file.SHAPE, quant)
        write_bullet(
            example,
            ModelContents(
                shape=example_file.SHAPE,
                tensors=tensors,
                types=types,
                tokenizer_proto=example_file.proto(),
                pieces=example_file.PIECES,
                metadata={},
            ),
        )
    assert "\n" not in str(caught.value)
    assert example.read_bytes() == before and len(list(example.parent.iterdir())) == 1


def test_tensors_that_do_not_belong(tmp_path: Path) -> None:
    def write(tensors: dict[str, np.ndarray]) -> None:
        types = standard_types(example_file.SHAPE)
        write_bullet(
            tmp_path / "m",
            ModelContents(
                shape=example_file.SHAPE,
                tensors=tensors,
                types=types,
                tokenizer_proto=example_file.proto(),
                pieces=example_file.PIECES,
                metadata={},
            ),
        )

    tensors = example_file.tensors()
    with pytest.raises(FormatError, match=r"tensor extra\.weight does not belong"):
        write(tensors | {"extra.weight": tensors["final_norm.weight"]})
    with pytest.raises(FormatError, match=r"tensor final_norm\.weight has shape \[64\]"):
        write(tensors | {"final_norm.weight": np.ones(64, dtype=np.float32)})
    del tensors["layers.0.mlp_norm.weight"]
    with pytest.raises(FormatError, match=r"tensor layers\.0\.mlp_norm\.weight is missing"):
        write(tensors)


def test_a_vocabulary_of_another_size_is_not_written(tmp_path: Path) -> None:
    types = standard_types(example_file.SHAPE)
    with pytest.raises(FormatError, match=r"count is 276, but shape\.vocab_size is 277"):
        write_bullet(
            tmp_path / "m",
            ModelContents(
                shape=example_file.SHAPE,
                tensors=example_file.tensors(),
                types=types,
                tokenizer_proto=example_file.proto(),
                pieces=example_file.PIECES[:-1],
                metadata={},
            ),
        )
    assert list(tmp_path.iterdir()) == []


def test_pieces_survive(example: Path) -> None:
    pieces = [tuple(piece) for piece in example_file.PIECES]
    assert [tuple(piece) for piece in decode_pieces(encode_pieces(pieces), len(pieces), {})] == pieces


def test_alignment() -> None:
    assert [aligned(n) for n in (0, 1, 63, 64, 65)] == [0, 64, 64, 64, 128]


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    for path in (tmp_path / "none.bullet", tmp_path):
        with pytest.raises(BulletError) as caught:
            open_bullet(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_arrays_outlive_the_file_object(example: Path) -> None:
    tensor = open_bullet(example).read_blocks("layers.0.mlp.down_proj.weight")
    example.unlink()
    assert isinstance(tensor, Quantized)
    assert int(tensor.blocks.astype(np.int64).sum()) > 0
