"""Tests that token files contain exactly the token ids of the documents."""

import json
from pathlib import Path

import numpy as np
import pytest

from bulletlm.config.schema import TokenizerConfig
from bulletlm.data.tokens import open_tokens, write_tokens
from bulletlm.data.vocabulary import prepare_tokenizer
from bulletlm.errors import BulletError
from bulletlm.evaluate.training_text import read_part
from bulletlm.progress import SilentProgress
from bulletlm.text.chat import encode_document
from bulletlm.text.documents import Document, read_documents, texts_of, to_line
from bulletlm.text.tokenizer import Tokenizer

TRAIN: list[Document] = [
    {"id": "a", "source": "one.txt", "language": "mr", "text": "आज पाऊस पडला.\nउद्या ऊन पडेल."},
    {"id": "b", "source": "two.txt", "language": "en", "text": "It rained today and the sun will come out tomorrow."},
    {
        "id": "c",
        "source": "chat.jsonl",
        "language": "mr",
        "messages": [{"role": "user", "content": "कसा आहेस?"}, {"role": "assistant", "content": "मजेत 🙂 आहे."}],
    },
]
VAL: list[Document] = [
    {"id": "d", "source": "one.txt", "language": "mr", "text": "पाऊस थांबला."},
    {"id": "e", "source": "two.txt", "language": "en", "text": "The rain\u2581stopped."},
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, rows in (("train", TRAIN), ("val", VAL)):
        (folder / f"{name}.jsonl").write_bytes(b"".join(to_line(row) for row in rows))
    return folder


@pytest.fixture
def tokenizer(data: Path, tmp_path: Path) -> Tokenizer:
    report = prepare_tokenizer(TokenizerConfig(vocab_size=400), 1, data, tmp_path / "tokenizer", SilentProgress())
    assert json.loads((tmp_path / "tokenizer" / "report.json").read_text(encoding="utf-8")) == report
    assert list(report["languages"]) == ["en", "mr"]
    return Tokenizer.load(tmp_path / "tokenizer" / "tokenizer.model")


@pytest.mark.parametrize("loss_on", ["all", "answers"])
def test_the_files_are_the_documents_one_after_another(data: Path, tokenizer: Tokenizer, tmp_path: Path, loss_on: str) -> None:
    index = write_tokens(data, tokenizer, loss_on, tmp_path / "tokens", SilentProgress())
    assert json.loads((tmp_path / "tokens" / "index.json").read_text()) == index
    for split, rows in (("train", TRAIN), ("val", VAL)):
        found = open_tokens(tmp_path / "tokens", split)
        encoded = [encode_document(tokenizer, row) for row in rows]
        assert found.tokens.dtype == np.uint16
        assert found.tokens.tolist() == [i for ids, _ in encoded for i in ids]
        if loss_on == "answers":
            assert found.learn is not None
            assert found.learn.tolist() == [int(x) for _, learn in encoded for x in learn]
        else:
            assert found.learn is None
            assert not (tmp_path / "tokens" / f"{split}.learn.bin").exists()
        info = found.info
        assert info == index[split]
        assert info["tokens"] == len(found.tokens)
        assert info["bytes"] == sum(len(text.encode()) for row in rows for text in texts_of(row))
        for key in ("tokens", "bytes", "documents"):
            total = sum(row[key] for row in info["by_language"].values())
            assert total == (len(rows) if key == "documents" else info[key])
    train = open_tokens(tmp_path / "tokens", "train")
    assert train.info["sources"] == ["one.txt", "two.txt", "chat.jsonl"]
    assert train.sources is not None
    assert train.sources.tolist() == [[len(encode_document(tokenizer, row)[0]), n] for n, row in enumerate(TRAIN)]
    assert open_tokens(tmp_path / "tokens", "val").sources is None and not (tmp_path / "tokens" / "val.sources.bin").exists()
    for row, place in zip(VAL, index["val"]["documents"], strict=True):
        ids = open_tokens(tmp_path / "tokens", "val").tokens[place["start"] : place["end"]]
        assert tokenizer.decode(ids) == row["text"]
        assert (place["language"], place["source"], place["bytes"]) == (row["language"], row["source"], len(row["text"].encode()))


def test_a_large_vocabulary_takes_four_bytes(data: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.vocab_size = 70_000
    write_tokens(data, tokenizer, "all", tmp_path / "tokens", SilentProgress())
    found = open_tokens(tmp_path / "tokens", "train")
    assert found.tokens.dtype == np.uint32
    assert tokenizer.decode(found.tokens[: found.info["tokens"]]).startswith(TRAIN[0]["text"])


@pytest.mark.parametrize(
    "row",
    [
        b'{"id": "a"',
        b"null",
        b"3",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"id": "a", "source": "s", "language": "en"}',
        b'{"id": "a", "source": "s", "text": "no language"}',
        b'{"id": 1, "source": "s", "language": "en", "text": "t"}',
        b'{"id": "a", "source": "s", "language": "en", "text": null}',
        b'{"id": "a", "source": "s", "language": "en", "messages": "m"}',
        b'{"id": "a", "source": "s", "language": "en", "messages": [{"role": "user"}]}',
    ],
)
def test_a_damaged_document_is_named(row: bytes, data: Path) -> None:
    good = (data / "val.jsonl").read_bytes().splitlines(keepends=True)[0]
    (data / "val.jsonl").write_bytes(good + row + b"\n")
    with pytest.raises(BulletError, match=r"val\.jsonl is damaged at line 2: run `bullet data` again"):
        list(read_documents(data / "val.jsonl"))
    with pytest.raises(BulletError, match=r"val\.jsonl is damaged at line 2: run `bullet data` again"):
        read_part(data / "val.jsonl")


def test_damage_is_named(data: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_tokens(data, tokenizer, "all", tmp_path / "tokens", SilentProgress())
    file = tmp_path / "tokens" / "train.bin"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(BulletError, match=r"train\.bin has"):
        open_tokens(tmp_path / "tokens", "train")
    file.unlink()
    with pytest.raises(BulletError, match=r"train\.bin is missing"):
        open_tokens(tmp_path / "tokens", "train")
    (data / "val.jsonl").unlink()
    with pytest.raises(BulletError, match="bullet data"):
        write_tokens(data, tokenizer, "all", tmp_path / "again", SilentProgress())
    assert not (tmp_path / "again").exists()
