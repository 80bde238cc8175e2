"""Tests the reading of documents from files, block by block, and the messages for wrong input."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pytest

from bulletlm.data import structure
from bulletlm.data.kinds import kind_of_name
from bulletlm.data.readers import lines, opened
from bulletlm.data.reading import BadRow, Block, RawDocument, blocks, read_documents
from bulletlm.data.sources import SourceFile
from bulletlm.errors import DataError


def source(path: Path, named: bool = True, text: str = "text") -> SourceFile:
    kind = kind_of_name(path)
    assert kind is not None
    return SourceFile(path, path.name, kind, "auto", named, text, documents="blank_line")


def read(path: Path, seed: int = 1, named: bool = True, notes: list[str] | None = None, text: str = "text") -> list[RawDocument | BadRow]:
    note = (notes if notes is not None else []).append
    return list(read_documents(source(path, named, text), seed, lambda n: None, note))


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
    assert all(sum(map(len, d.paragraphs)) <= structure.DOCUMENT_CHARACTERS + 2 * len(line) for d in found)
    assert len(found) > 5


def test_invalid_utf8_rejects_the_line_only(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("चांगली ओळ\n".encode() + b"caf\xe9\n" + "दुसरी ओळ\n".encode())
    assert bad(tmp_path / "a.txt") == [(2, "invalid_utf8")]
    assert [(d.paragraphs, d.lines) for d in documents(tmp_path / "a.txt")] == [(["चांगली ओळ", "दुसरी ओळ"], [1, 3])]


def test_an_endless_line_is_rejected_without_being_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINE_BYTES", 1000)
    (tmp_path / "a.txt").write_bytes(b"short\n" + b"x" * 5000 + b"\nend\n" + b"y" * 1500)
    assert bad(tmp_path / "a.txt") == [(2, "longer_than_16_MB"), (4, "longer_than_16_MB")]
    assert [d.paragraphs for d in documents(tmp_path / "a.txt")] == [["short", "end"]]


def test_parallel_text_becomes_requests_in_both_directions(tmp_path: Path) -> None:
    pairs = [(f"The number {n} bus is late.", f"{n} नंबरची बस उशिरा येतेय.") for n in range(100)]
    (tmp_path / "a.tsv").write_text("".join(f"{en}\t{mr}\n" for en, mr in pairs), encoding="utf-8")
    (tmp_path / "b.tsv").write_text("".join(f"{mr}\t{en}\n" for en, mr in pairs), encoding="utf-8")
    found = documents(tmp_path / "a.tsv")
    assert [d.messages for d in documents(tmp_path / "b.tsv")] == [d.messages for d in found], "the order of the columns does not matter"
    assert len(found) == 200
    for number, document in enumerate(found):
        english, marathi = pairs[number // 2]
        asked, given = (english, marathi) if number % 2 == 0 else (marathi, english)
        request, answer = document.messages
        assert (request["role"], answer["role"]) == ("user", "assistant")
        assert request["content"].endswith(asked) and answer["content"] == given
        assert document.group == english and document.line == number // 2 + 1
        assert document.language == ("mr" if number % 2 == 0 else "en")
    assert len({d.messages[0]["content"].split(" ")[0] for d in found}) >= 6, "several wordings"
    other_seed = [item for item in read(tmp_path / "a.tsv", seed=2) if isinstance(item, RawDocument)]
    assert [d.messages for d in other_seed] != [d.messages for d in found]


def test_two_columns_in_one_script_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("तो आला.\tतो येऊन पोहोचला.\nCome in.\tCome on in.\n", encoding="utf-8")
    assert [d.paragraphs for d in documents(tmp_path / "a.tsv")] == [["तो आला."], ["तो येऊन पोहोचला."], ["Come in."], ["Come on in."]]


def test_marathi_with_many_latin_names_is_still_parallel(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("Open Azure IoT Hub\tAzure IoT Hub उघडा\n", encoding="utf-8")
    assert documents(tmp_path / "a.tsv")[0].messages


def test_wrong_column_counts_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("one\nHi.\tनमस्कार\nHi.\tनमस्कार\tCC-BY\nHi.\t\n\n", encoding="utf-8")
    assert bad(tmp_path / "a.tsv") == [(1, "wrong_number_of_columns"), (3, "wrong_number_of_columns"), (4, "empty_cell")]
    assert len(documents(tmp_path / "a.tsv")) == 2


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
        {"messages": [{"role": "owner", "content": "a"}]},
        {"messages": []},
        {"title": "x"},
        {"text": 5},
        "[" * 100_000,
    )
    reasons = ["not_json", "messages_without_role_and_content", "prompt_without_response", "messages_without_role_and_content"]
    reasons += ["messages_without_role_and_content", "no_text_or_messages", "no_text_or_messages", "not_json"]
    assert bad(path) == list(enumerate(reasons, 2))
    assert len(documents(path)) == 1


@pytest.mark.parametrize(
    ("name", "content", "wrong"),
    [
        ("a.txt", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40, "binary file, not text"),
        ("a.jsonl", bytes(5000), "binary file, not text"),
        ("a.txt.gz", b"plain text\n", "compressed file is damaged"),
        ("a.txt.gz", gzip.compress(TEXT.encode() * 5000)[:-200], "compressed file is truncated"),
        ("a.txt.xz", lzma.compress(TEXT.encode() * 5000)[:-40], "compressed file is truncated"),
        ("a.tsv.xz", b"\xfd7zXZ\x00nonsense", "compressed file"),
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


def block_list(path: Path, notes: list[str] | None = None) -> list[Block | BadRow]:
    return list(blocks(source(path, named=notes is None), lambda n: None, (notes if notes is not None else []).append))


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.tsv", "a.txt.gz"])
def test_blocks_hold_whole_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, ends: str) -> None:
    """The documents are the same for all sizes of blocks and pieces."""
    if name.startswith("a.txt"):
        text = "".join(f"परिच्छेद {n} एक\nपरिच्छेद {n} दोन\n\n" for n in range(300))
    elif name == "a.jsonl":
        text = "".join(json.dumps({"text": f"ओळ {n}\nदोन"}) + "\n" for n in range(300))
    else:
        text = "".join(f"Line {n}.\tओळ {n}.\n" for n in range(300))
    data = text.replace("\n", ends).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    whole = read(tmp_path / name)
    monkeypatch.setattr(lines, "BLOCK_BYTES", 200)
    for piece in (1, 7, 64):
        monkeypatch.setattr(opened, "PIECE_BYTES", piece)
        assert len(block_list(tmp_path / name)) > 20
        assert read(tmp_path / name) == whole


def test_a_long_document_is_cut_between_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(opened, "PIECE_BYTES", 64)
    (tmp_path / "a.txt").write_text("".join(f"ओळ {n} आहे\n" for n in range(500)), encoding="utf-8")
    found = documents(tmp_path / "a.txt")
    assert [line for d in found for line in d.lines] == list(range(1, 501))
    assert len(found) > 3


def test_an_endless_line_is_passed_over_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINE_BYTES", 3000)
    monkeypatch.setattr(lines, "BLOCK_BYTES", 500)
    monkeypatch.setattr(opened, "PIECE_BYTES", 100)
    (tmp_path / "a.txt").write_bytes(b"short\n" + b"x" * 50_000 + b"\nnext\n\nend\n" + b"y" * 9_000)
    assert bad(tmp_path / "a.txt") == [(2, "longer_than_16_MB"), (6, "longer_than_16_MB")]
    assert [item.text[:9] for item in read(tmp_path / "a.txt") if isinstance(item, BadRow)] == ["xxxxxxxxx", "yyyyyyyyy"]
    assert [(d.paragraphs, d.lines) for d in documents(tmp_path / "a.txt")] == [(["short"], [1]), (["next"], [3]), (["end"], [5])]
    assert max(len(block.data) for block in block_list(tmp_path / "a.txt") if isinstance(block, Block)) < 4000


@pytest.mark.parametrize(("name", "pack"), [("a.txt.gz", gzip.compress), ("a.jsonl.xz", lzma.compress)])
def test_a_cut_file_is_used_up_to_the_last_whole_line(tmp_path: Path, name: str, pack: object) -> None:
    rows = [f"हा परिच्छेद क्रमांक {n * 7919 % 10007} आहे, {n * 104729 % 99991} वेळा." for n in range(20_000)]
    text = "".join((json.dumps({"text": row}) if "jsonl" in name else row) + "\n" for row in rows)
    data = pack(text.encode())  # type: ignore[operator]
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    notes: list[str] = []
    found = [item for item in read(tmp_path / name, named=False, notes=notes) if isinstance(item, RawDocument)]
    paragraphs = [paragraph for document in found for paragraph in document.paragraphs]
    assert len(notes) == 1 and notes[0] == f"the compressed file is truncated; used up to line {len(paragraphs):,}"
    assert paragraphs == rows[: len(paragraphs)]
    assert len(paragraphs) > 5_000


def test_a_small_cut_file_is_used_too(tmp_path: Path) -> None:
    rows = [f"हा परिच्छेद क्रमांक {n * 7919 % 10007} आहे." for n in range(300)]
    data = gzip.compress("\n".join(rows).encode())
    (tmp_path / "a.txt.gz").write_bytes(data[: len(data) // 2])
    notes: list[str] = []
    found = [p for item in read(tmp_path / "a.txt.gz", named=False, notes=notes) if isinstance(item, RawDocument) for p in item.paragraphs]
    assert found == rows[: len(found)] and len(found) > 50
    assert notes == [f"the compressed file is truncated; used up to line {len(found)}"]


def parquet(path: Path, **columns: list[object]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as format_

    format_.write_table(pyarrow.table(columns), path)
    return path


def test_parquet(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", text=["एक\n\nदोन", None, "तीन"], id=[1, 2, 3])
    found = read(path)
    assert [(d.paragraphs, d.line) for d in found if isinstance(d, RawDocument)] == [(["एक", "दोन"], 1), (["तीन"], 3)]
    assert [(d.line, d.reason) for d in found if isinstance(d, BadRow)] == [(2, "no_text_or_messages")]
    path = parquet(tmp_path / "b.parquet", prompt=["q"] * 2500, response=[*["a"] * 2499, None], score=[0.5] * 2500)
    assert len(documents(path)) == 2499 and bad(path) == [(2500, "prompt_without_response")]
    assert len(block_list(path)) == 3
    turn = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert documents(parquet(tmp_path / "c.parquet", messages=[turn]))[0].messages == turn


def test_a_column_can_be_named(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", body=["एक"], title=["शीर्षक"])
    message = r"a\.parquet: there is no column text, messages or prompt \(it has body, title\): say which one holds text"
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    notes: list[str] = []
    assert read(path, named=False, notes=notes) == [] and "it has body, title" in notes[0]
    found = read(path, text="body")
    assert [d.paragraphs for d in found if isinstance(d, RawDocument)] == [["एक"]]
    jsonl(tmp_path / "a.jsonl", {"body": "दोन", "text": 1})
    assert [d.paragraphs for d in read(tmp_path / "a.jsonl", text="body") if isinstance(d, RawDocument)] == [["दोन"]]


def test_a_parquet_file_is_used_up_to_the_damage(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as format_

    rows = [f"हा परिच्छेद क्रमांक {n * 7919 % 10007} आहे." for n in range(3000)]
    path = tmp_path / "a.parquet"
    format_.write_table(pyarrow.table({"text": rows}), path, row_group_size=1000, use_dictionary=False)
    start = format_.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start + 60 : start + 2000] = b"\xff" * 1940
    path.write_bytes(data)
    notes: list[str] = []
    found = [p for item in read(path, named=False, notes=notes) if isinstance(item, RawDocument) for p in item.paragraphs]
    assert found == rows[:2000]
    assert len(notes) == 1 and notes[0].endswith("used up to line 2,000") and "\n" not in notes[0]
    with pytest.raises(DataError, match="after line 2,000"):
        read(path)


@pytest.mark.parametrize("content", [b"PAR1 nonsense PAR1", b"", b"plain text\n"])
def test_a_damaged_parquet_file(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet: .*(damaged|cannot be read)") as caught:
        read(tmp_path / "a.parquet")
    assert "\n" not in str(caught.value)


def test_a_packed_file_that_gives_far_too_much_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "FREE_BYTES", 1 << 20)
    for name, pack in (("a.txt.gz", gzip.compress), ("a.txt.xz", lzma.compress), ("a.jsonl.bz2", bz2.compress)):
        (tmp_path / name).write_bytes(pack(b"a\n" * (2 << 20)))
        notes: list[str] = []
        size = sum(len(block.data) for block in block_list(tmp_path / name, notes) if isinstance(block, Block))
        assert size <= opened.FREE_BYTES + opened.LARGEST_RATIO * (tmp_path / name).stat().st_size
        assert len(notes) == 1 and notes[0].startswith("the compressed file expands to more than 100 times its size")


def test_a_parquet_file_that_gives_far_too_much_is_cut(tmp_path: Path) -> None:
    """Cells that are stored once and repeated: a kilobyte in the file, gigabytes in memory."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as format_

    from bulletlm.data.readers import parquet as reader

    cells = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 3000, pyarrow.int32()), pyarrow.array(["अ" * 1_000_000]))
    format_.write_table(pyarrow.table({"text": cells.dictionary_encode()}), tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 1_000_000
    found = block_list(tmp_path / "a.parquet")[:20]
    assert all(isinstance(block, Block) and len(block.data) < reader.PART_BYTES + 1_000_000 for block in found)
    messages = [[{"role": "user", "content": "q" * 1_000_000}, {"role": "assistant", "content": "a"}]] * 300
    format_.write_table(pyarrow.table({"messages": messages}), tmp_path / "b.parquet", compression="zstd")
    assert all(isinstance(block, Block) and len(block.data) < reader.PART_BYTES + 2_000_000 for block in block_list(tmp_path / "b.parquet"))
    format_.write_table(pyarrow.table({"text": ["x" * (17 << 20), "good"]}), tmp_path / "c.parquet")
    assert bad(tmp_path / "c.parquet") == [(1, "longer_than_16_MB")] and len(documents(tmp_path / "c.parquet")) == 1


def test_long_files_take_time_in_proportion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading copies each byte a bounded number of times, for all kinds of lines. The test counts calls, because times vary."""
    calls = 0
    real = lines._block

    def counted(*arguments: object) -> Block:
        nonlocal calls
        calls += 1
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(lines, "_block", counted)
    for content in (b"a\n" * 3_000_000, b"a\n\n" * 2_000_000, b"\n" * 6_000_000, b"a" * 6_000_000):
        calls = 0
        (tmp_path / "a.txt").write_bytes(content)
        assert sum(len(block.data) for block in block_list(tmp_path / "a.txt") if isinstance(block, Block)) == 6_000_000
        assert calls <= 7


def long_lines(count: int) -> list[str]:
    return [f"ओळ {n} {'शब्द ' * 20}संपली." for n in range(count)]


@pytest.mark.parametrize("documents", ["file", "blank_line", "heading", "form_feed"])
@pytest.mark.parametrize("between", ["\n", "\n\n", "\n\n# मथळा\n\n", "\n\f\n"])
def test_long_text_loses_nothing_at_the_borders_of_its_parts(tmp_path: Path, documents: str, between: str) -> None:
    lines = long_lines(14_000)  # more than four megabytes
    text = "".join(line + (between if n % 7 == 6 else "\n") for n, line in enumerate(lines))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    file = SourceFile(tmp_path / "a.txt", "a.txt", ".txt", "auto", True, documents=documents)  # type: ignore[arg-type]
    taken: list[str] = []
    found = [item for item in read_documents(file, 1, lambda n: None, print, taken.append) if isinstance(item, RawDocument)]
    kept = [text for item in found for text in item.paragraphs if text.startswith("ओळ")]
    assert kept == lines
    if documents == "file":
        assert "cut at empty lines into parts of about a megabyte" in taken[-1]
        assert 1 < len(found) < 10
    elif documents == "heading" and "#" in between:
        assert all(item.paragraphs[0].startswith("#") for item in found[1:]), "each begins with its heading"
        assert {len(item.paragraphs) for item in found[1:-1]} == {8}


def test_long_wrapped_text_without_an_empty_line_is_cut_after_a_sentence(tmp_path: Path) -> None:
    words = [f"word{n}{'.' if n % 7 == 0 else ''}" for n in range(400_000)]
    lines, line = [], ""
    for word in words:
        if len(line) + len(word) > 71:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    (tmp_path / "a.txt").write_text("\n".join([*lines, line]), encoding="utf-8")
    found = list(read_documents(SourceFile(tmp_path / "a.txt", "a.txt", ".txt", "auto", True), 1, lambda n: None, print))
    assert [word for item in found if isinstance(item, RawDocument) for text in item.paragraphs for word in text.split()] == words
    assert len(found) > 1 and all(item.paragraphs[-1].endswith(".") for item in found[:-1] if isinstance(item, RawDocument))
