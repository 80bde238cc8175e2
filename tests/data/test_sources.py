"""Finding files and reading documents out of them; what a person can get wrong."""

import gzip
import json
import lzma
from pathlib import Path

import pytest

from bulletlm.config import DataConfig
from bulletlm.data import sources
from bulletlm.data.sources import BadRow, RawDocument, SourceFile, find_files, read_documents, source_files
from bulletlm.errors import DataError


def read(path: Path, seed: int = 1, named: bool = True, notes: list[str] | None = None) -> list[RawDocument | BadRow]:
    kind = sources._kind(path)
    assert kind is not None
    file = SourceFile(path, path.name, kind, "auto", named)
    return list(read_documents(file, seed, lambda n: None, (notes if notes is not None else []).append))


def documents(path: Path) -> list[RawDocument]:
    return [item for item in read(path) if isinstance(item, RawDocument)]


def bad(path: Path) -> list[tuple[int, str]]:
    return [(item.line, item.reason) for item in read(path) if isinstance(item, BadRow)]


TEXT = "शीर्षक\nपहिला परिच्छेद.\n\n\n  \nदुसरा लेख.\r\nत्याची दुसरी ओळ.\n"


@pytest.mark.parametrize(
    ("name", "packed"),
    [("a.txt", bytes), ("a.txt.gz", gzip.compress), ("a.TXT.xz", lzma.compress)],
)
def test_text_documents_are_separated_by_empty_lines(tmp_path: Path, name: str, packed: object) -> None:
    (tmp_path / name).write_bytes(packed(TEXT.encode()))  # type: ignore[operator]
    found = documents(tmp_path / name)
    assert [d.paragraphs for d in found] == [["शीर्षक", "पहिला परिच्छेद."], ["दुसरा लेख.", "त्याची दुसरी ओळ."]]
    assert [d.lines for d in found] == [[1, 2], [6, 7]]
    assert [d.line for d in found] == [1, 6]


def test_old_line_ends_and_a_file_without_end(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\rtwo\r\rthree\rfour")
    assert [d.paragraphs for d in documents(tmp_path / "a.txt")] == [["one", "two"], ["three", "four"]]


def test_text_that_runs_on_is_cut(tmp_path: Path) -> None:
    line = "एक वाक्य आहे. " * 20
    (tmp_path / "a.txt").write_text(f"{line}\n" * 200, encoding="utf-8")
    found = documents(tmp_path / "a.txt")
    assert sum(len(d.paragraphs) for d in found) == 200
    assert all(sum(map(len, d.paragraphs)) <= sources.DOCUMENT_CHARACTERS + 2 * len(line) for d in found)
    assert len(found) > 5


def test_invalid_utf8_rejects_the_line_only(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("चांगली ओळ\n".encode() + b"caf\xe9\n" + "दुसरी ओळ\n".encode())
    assert bad(tmp_path / "a.txt") == [(2, "invalid_utf8")]
    assert [(d.paragraphs, d.lines) for d in documents(tmp_path / "a.txt")] == [(["चांगली ओळ", "दुसरी ओळ"], [1, 3])]


def test_an_endless_line_is_rejected_without_being_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LINE_BYTES", 1000)
    (tmp_path / "a.txt").write_bytes(b"short\n" + b"x" * 5000 + b"\nend\n" + b"y" * 1500)
    assert bad(tmp_path / "a.txt") == [(2, "longer_than_16_MB"), (4, "longer_than_16_MB")]
    assert [d.paragraphs for d in documents(tmp_path / "a.txt")] == [["short", "end"]]


def test_parallel_text_becomes_requests_in_one_direction(tmp_path: Path) -> None:
    pairs = [(f"The number {n} bus is late.", f"{n} नंबरची बस उशिरा येतेय.") for n in range(200)]
    (tmp_path / "a.tsv").write_text("".join(f"{en}\t{mr}\n" for en, mr in pairs), encoding="utf-8")
    (tmp_path / "b.tsv").write_text("".join(f"{mr}\t{en}\n" for en, mr in pairs), encoding="utf-8")
    found = documents(tmp_path / "a.tsv")
    assert [d.messages for d in documents(tmp_path / "b.tsv")] == [d.messages for d in found], "the order of the columns does not matter"
    into_marathi = 0
    for (english, marathi), document in zip(pairs, found, strict=True):
        request, answer = document.messages
        assert (request["role"], answer["role"]) == ("user", "assistant")
        source, target = (english, marathi) if document.language == "mr" else (marathi, english)
        into_marathi += document.language == "mr"
        assert request["content"].endswith(source)
        assert answer["content"] == target
        assert document.group == english
    assert 60 < into_marathi < 140
    assert len({d.messages[0]["content"].split(" ")[0] for d in found}) >= 4, "several wordings"
    other_seed = [item for item in read(tmp_path / "a.tsv", seed=2) if isinstance(item, RawDocument)]
    assert [d.language for d in other_seed] != [d.language for d in found]


def test_two_columns_in_one_script_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("तो आला.\tतो येऊन पोहोचला.\nCome in.\tCome on in.\n", encoding="utf-8")
    assert [d.paragraphs for d in documents(tmp_path / "a.tsv")] == [["तो आला."], ["तो येऊन पोहोचला."], ["Come in."], ["Come on in."]]


def test_marathi_with_many_latin_names_is_still_parallel(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("Open Azure IoT Hub\tAzure IoT Hub उघडा\n", encoding="utf-8")
    assert documents(tmp_path / "a.tsv")[0].messages


def test_wrong_column_counts_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("one\nHi.\tनमस्कार\nHi.\tनमस्कार\tCC-BY\nHi.\t\n\n", encoding="utf-8")
    assert bad(tmp_path / "a.tsv") == [(1, "not_two_columns"), (3, "not_two_columns"), (4, "not_two_columns")]
    assert len(documents(tmp_path / "a.tsv")) == 1


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def test_every_shape_of_json_rows(tmp_path: Path) -> None:
    turn = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    path = jsonl(
        tmp_path / "a.jsonl",
        {"messages": turn, "topic": "x"},
        {"prompt": "q", "response": "a"},
        {"instruction": "q", "input": "", "output": "a"},
        {"instruction": "q", "response": "a"},
        {"instruction": "q", "input": "this", "output": "a"},
        {"text": "one\n\ntwo"},
    )
    found = documents(path)
    assert [d.messages for d in found[:4]] == [turn] * 4
    assert found[4].messages[0]["content"] == "q\nthis"
    assert found[5].paragraphs == ["one", "two"]
    assert [d.line for d in found] == [1, 2, 3, 4, 5, 6]


def test_bad_json_rows_are_counted_with_their_line(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "a.jsonl",
        '{"text": "ok"}',
        '{"text": ',
        "[1, 2]",
        {"prompt": "q"},
        {"messages": [{"role": "bot", "content": "a"}]},
        {"messages": []},
        {"title": "x"},
        {"text": 5},
        "[" * 100_000,
    )
    reasons = ["not_json", "not_a_json_object", "prompt_without_response", "messages_without_role_and_content"]
    reasons += ["messages_without_role_and_content", "no_text_or_messages", "no_text_or_messages", "not_json"]
    assert bad(path) == list(enumerate(reasons, 2))
    assert len(documents(path)) == 1


@pytest.mark.parametrize(
    ("name", "content", "wrong"),
    [
        ("a.txt", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40, "binary file, not text"),
        ("a.jsonl", bytes(5000), "binary file, not text"),
        ("a.txt", "मराठी".encode("utf-16"), "UTF-16"),
        ("a.txt.gz", b"plain text\n", "packed file is damaged"),
        ("a.txt.gz", gzip.compress(TEXT.encode() * 5000)[:-200], "cut off"),
        ("a.txt.xz", lzma.compress(TEXT.encode() * 5000)[:-40], "cut off"),
        ("a.tsv.xz", b"\xfd7zXZ\x00nonsense", "packed file"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes, wrong: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=wrong) as caught:
        read(tmp_path / name)
    message = str(caught.value)
    assert name in message and "\n" not in message and "data.sources" in message
    notes: list[str] = []
    read(tmp_path / name, named=False, notes=notes)
    assert len(notes) == 1 and wrong in notes[0], "in a folder the other files are still read"


def test_a_cut_file_in_a_folder_is_used_up_to_the_cut(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(TEXT.encode() * 5000)[:-12])
    notes: list[str] = []
    found = [item for item in read(tmp_path / "a.txt.gz", named=False, notes=notes) if isinstance(item, RawDocument)]
    assert len(found) > 1000
    assert "used up to line" in notes[0]


def find(*paths: object) -> tuple[list[str], list[tuple[str, str]]]:
    files, skipped = find_files(DataConfig(sources=[str(path) for path in paths]))  # type: ignore[arg-type]
    return [file.name for file in files], [(item.name, item.reason) for item in skipped]


def test_folders_globs_and_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a.jsonl.gz", "sub/c.tsv", ".hidden/d.txt", "LICENSE", "README.md", "story-credits.tsv", "notes.docx"):
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_text("text\n")
    corpus = tmp_path / "corpus"
    names, skipped = find(corpus)
    assert names == ["corpus/a.jsonl.gz", "corpus/b.txt", "corpus/sub/c.tsv"]
    assert sorted(name for name, _ in skipped) == ["corpus/LICENSE", "corpus/README.md", "corpus/notes.docx", "corpus/story-credits.tsv"]
    assert find(corpus / "*.txt")[0] == ["b.txt"]
    assert find(f"{corpus}/**/*.tsv")[0] == ["story-credits.tsv", "c.tsv"]
    assert find(corpus / "story-credits.tsv")[0] == ["story-credits.tsv"], "named by hand, it is read"
    assert find(corpus, corpus / "b.txt")[0] == names, "no file is read twice"
    assert source_files(DataConfig(sources=[str(corpus)])) == [corpus / "a.jsonl.gz", corpus / "b.txt", corpus / "sub" / "c.tsv"]  # type: ignore[list-item]


def test_a_file_name_may_look_like_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("text\n")
    assert find(tmp_path / "a[1].txt")[0] == ["a[1].txt"]


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("corpuss", r"corpuss does not exist: did you mean .*corpus\?"),
        ("corpus/markdown.txt", r"markdown.txt does not exist: did you mean .*markdown.md\?"),
        ("corpas/b.txt", r"does not exist: did you mean .*corpus\?"),
        ("qqqqq/b.txt", r"does not exist: there is nothing of that name in "),
        ("corpus/*.tsv", r"nothing matches .*tsv"),
        ("corpus/*.md", r"no .txt, .jsonl or .tsv file matches"),
        ("corpus/markdown.md", r"of no known kind"),
        ("empty", r"no .txt, .jsonl or .tsv file in the folder .*empty"),
    ],
)
def test_paths_that_lead_nowhere(tmp_path: Path, path: str, wrong: str) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "corpus" / "markdown.md").write_text("text\n")
    with pytest.raises(DataError, match=wrong) as caught:
        find(tmp_path / path)
    assert str(caught.value).startswith("data.sources: ")
    assert "\n" not in str(caught.value)


def test_the_corpus_of_the_package() -> None:
    names, skipped = find("sample")
    assert names and all(name.startswith("sample/") for name in names)
    assert ("sample/LICENSE", "not a .txt, .jsonl or .tsv file") in skipped
