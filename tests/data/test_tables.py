"""Tests .tsv and .csv files: quotation marks, headings, columns without text, and the language of each column."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_language import SENTENCES

from bulletlm.data.readers import lines, opened, tables
from bulletlm.data.reading import BadRow, RawDocument, read_documents
from bulletlm.data.sources import SourceFile
from bulletlm.errors import DataError
from paths import CASES

PAIRS = [(f"The number {n} bus is late.", f"{n} नंबरची बस उशिरा येतेय आणि मी वाट पाहतो आहे.") for n in range(30)]


def read(
    path: Path, columns: dict[str, str | int] | None = None, text: str = "text", taken: list[str] | None = None
) -> list[RawDocument | BadRow]:
    file = SourceFile(path, path.name, path.suffix, "auto", True, text, columns=columns or {})
    return list(read_documents(file, 1, lambda n: None, print, (taken if taken is not None else []).append))


def answers(found: list[RawDocument | BadRow]) -> list[str]:
    return [item.messages[-1]["content"] for item in found if isinstance(item, RawDocument)]


def write(path: Path, rows: list[tuple[str, ...]], delimiter: str = "\t") -> Path:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=delimiter, lineterminator="\n").writerows(rows)
    path.write_text(buffer.getvalue(), encoding="utf-8")
    return path


QUOTED = [('He said "yes".', "तो “हो” म्हणाला आणि गेला."), ("I like\nice cream.", "मला आईस्क्रीम\nआवडतं आणि तुला?"), ("A, b; c", "हे, ते; आणि हा")]


@pytest.mark.parametrize(("name", "delimiter"), [("a.tsv", "\t"), ("a.csv", ","), ("b.csv", ";"), ("c.csv", "\t")])
def test_quotation_marks_around_cells(tmp_path: Path, name: str, delimiter: str) -> None:
    found = read(write(tmp_path / name, [*QUOTED, *PAIRS], delimiter))
    assert answers(found) == [text for english, marathi in [*QUOTED, *PAIRS] for text in (marathi, english)]
    assert [item.line for item in found[:8]] == [1, 1, 2, 2, 5, 5, 6, 6], "the line of a row is where it begins"


def test_quotation_marks_that_are_text(tmp_path: Path) -> None:
    """A .tsv without RFC 4180: a mark at the beginning of a cell, also without its end, belongs to the sentence."""
    rows = [('"Come in," he said.', "“आत या,” तो म्हणाला आणि हसला."), ('"Who is there?', "तिथे कोण आहे?"), ('5" of rain', 'हा 5" पाऊस आहे')]
    (tmp_path / "a.tsv").write_text("".join(f"{en}\t{mr}\n" for en, mr in [*rows, *PAIRS]), encoding="utf-8")
    assert answers(read(tmp_path / "a.tsv")) == [text for english, marathi in [*rows, *PAIRS] for text in (marathi, english)]


def test_a_mark_that_is_never_closed_costs_no_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [*QUOTED, *PAIRS], ",")
    path.write_text(path.read_text(encoding="utf-8") + '"never closed,कधीच नाही आणि काय\n' + "one more,आणखी एक आहे\n", encoding="utf-8")
    found = answers(read(path))
    assert found[-4:] == ["कधीच नाही आणि काय", '"never closed', "आणखी एक आहे", "one more"]


def test_a_cell_may_be_longer_than_the_longest_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINE_BYTES", 1_000)
    monkeypatch.setattr(tables, "LINE_BYTES", 1_000)
    text = "\n".join(f"This is line {number} of a long answer in one cell." for number in range(40))
    path = write(tmp_path / "a.csv", [("user", "assistant"), ("What is it?", text)], ",")
    assert answers(read(path)) == [text]


cells = st.text(st.sampled_from(['"', ",", "\n", "\t", "a", "b", " ", "आ", "ह"]), min_size=1, max_size=12).filter(
    lambda cell: cell.strip() == cell
)


@settings(deadline=None)
@given(rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=12), block=st.integers(20, 200))
def test_whatever_csv_writes_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], block: int) -> None:
    path = write(tmp_path_factory.mktemp("csv") / "a.csv", [("user", "assistant"), *rows], ",")
    expected = [text.replace("\r", "\n") for row in rows for text in row]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK_BYTES", block)
        patch.setattr(opened, "PIECE_BYTES", 16)
        found = read(path)
    assert [message["content"] for item in found if isinstance(item, RawDocument) for message in item.messages] == expected


HEADINGS = [("English", "मराठी"), ("en", "mr"), ("English sentence", "Marathi translation"), ("eng", "mar"), ("source", "target")]


@pytest.mark.parametrize("heading", HEADINGS)
def test_headings_are_no_data(tmp_path: Path, heading: tuple[str, str]) -> None:
    found = answers(read(write(tmp_path / "a.tsv", [heading, *PAIRS])))
    assert found == [text for english, marathi in PAIRS for text in (marathi, english)]


QUESTIONS = [(f"धडा {n} कोणी लिहिला?", f"धडा {n} आमच्या शाळेतील बाईंनी लिहिला.") for n in range(1, 13)]


@pytest.mark.parametrize("heading", [
    ("अ.क्र.", "प्रश्न", "उत्तर", "गुण"), ("Sr. No.", "Question:", "Answer:", "Marks"), ("", "प्रश्न (Question)", "योग्य उत्तर", ""),
    ("No", "Questions", "Ans.", "Level"), ("अनुक्रमांक", "प्र.", "उत्तरे", "धडा"), ("#", "सवाल", "जवाब", "remark"),
])  # fmt: skip
@pytest.mark.parametrize("title", [[], [("इयत्ता पाचवी - मराठी", "", "", ""), ("", "", "", "")]], ids=["", "title"])
def test_headings_of_a_teachers_spreadsheet(tmp_path: Path, heading: tuple[str, ...], title: list[tuple[str, ...]]) -> None:
    """Abbreviations with full stops, numbers, remarks in brackets, and a title above."""
    rows = [(str(n), asked, answer, str(n % 3)) for n, (asked, answer) in enumerate(QUESTIONS, 1)]
    found = read(write(tmp_path / "a.csv", [*title, heading, *rows], ","))  # type: ignore[list-item]
    read_messages = [[m["content"] for m in item.messages] for item in found if isinstance(item, RawDocument)]
    assert read_messages == [[asked, answer] for asked, answer in QUESTIONS]
    assert len(found) - len(read_messages) <= len(title), "only a title is left out, and it is reported"


def test_questions_without_headings(tmp_path: Path) -> None:
    found = read(write(tmp_path / "a.csv", QUESTIONS, ","))  # type: ignore[arg-type]
    assert answers(found) == [answer for _, answer in QUESTIONS]
    rows = [(asked, asked.replace("कोणी", "कधी")) for asked, _ in QUESTIONS]
    taken: list[str] = []
    read(write(tmp_path / "b.csv", rows, ","), taken=taken)  # type: ignore[arg-type]
    assert taken == ["table: sentences, Marathi in column 1, Marathi in column 2"], "two ways to ask are no answer"


def test_numbers_labels_and_attributions_are_no_text(tmp_path: Path) -> None:
    rows = [
        (str(n), en, mr, f"CC-BY 2.0 (France) Attribution: tatoeba.org #{n} (CK) & #{2 * n} (x)", "easy")
        for n, (en, mr) in enumerate(PAIRS)
    ]
    taken: list[str] = []
    found = read(write(tmp_path / "a.tsv", rows), taken=taken)  # type: ignore[arg-type]
    assert answers(found) == [text for english, marathi in PAIRS for text in (marathi, english)]
    assert taken == ["table: translations, English in column 2, Marathi in column 3; not used: column 1, column 4, column 5"]


def test_hindi_is_not_marathi(tmp_path: Path) -> None:
    rows = [(f"The number {n} bus is late.", f"{n} नंबर की बस देर से आ रही है और मैं इंतज़ार कर रहा हूँ।") for n in range(30)]
    taken: list[str] = []
    found = [item for item in read(write(tmp_path / "a.tsv", rows), taken=taken) if isinstance(item, RawDocument)]
    requests = " ".join(item.messages[0]["content"] for item in found)
    assert "Marathi" not in requests and "मराठी" not in requests and "Hindi" in requests and "अनुवाद" in requests
    assert [item.language for item in found[:2]] == ["hi", "en"]
    assert taken == ["table: translations, English in column 1, Hindi in column 2"]


@pytest.mark.parametrize(("first", "second"), [("fr", "de"), ("en", "ta"), ("en", "es"), ("mr", "hi"), ("zh", "en"), ("ru", "uk")])
def test_any_two_languages(tmp_path: Path, first: str, second: str) -> None:
    english = "Last night we took the train to the city and had our dinner there."
    texts = {
        **SENTENCES,
        "en": english,
        "mr": "काल रात्री आम्ही रेल्वेने शहरात गेलो आणि तिथे जेवलो.",
        "hi": "कल रात हम ट्रेन से शहर गए और वहाँ खाना खाया।",
    }
    taken: list[str] = []
    found = [
        item for item in read(write(tmp_path / "a.tsv", [(texts[first], texts[second])] * 3), taken=taken) if isinstance(item, RawDocument)
    ]
    assert len(found) == 6 and all(item.messages for item in found)
    assert {item.language for item in found} == {first, second}
    assert {(item.language, item.messages[1]["content"]) for item in found} == {(first, texts[first]), (second, texts[second])}


def test_three_languages_are_translated_among_all(tmp_path: Path) -> None:
    rows = [(en, mr, f"{n} नंबर की बस देर से आ रही है और मैं यहाँ हूँ।") for n, (en, mr) in enumerate(PAIRS)]
    found = read(write(tmp_path / "a.csv", [("English", "Marathi", "Hindi"), *rows], ","))
    assert len(found) == 6 * len(rows)
    assert len({item.group for item in found if isinstance(item, RawDocument)}) == len(rows), "all of a row stay on one side of the split"


def test_questions_and_answers_by_their_headings(tmp_path: Path) -> None:
    rows = [("id", "Question", "Answer"), ("1", "किती वाजले?", "पाच वाजले."), ("2", "कुठे जातोस?", "घरी.")]
    found = read(write(tmp_path / "a.csv", rows, ","))
    assert [[m["content"] for m in item.messages] for item in found if isinstance(item, RawDocument)] == [list(row[1:]) for row in rows[1:]]


def test_one_column_of_text_beside_labels(tmp_path: Path) -> None:
    rows = [("label", "text"), *[("1", f"बातमी क्रमांक {n} आहे आणि ती खरी आहे.") for n in range(9)]]
    found = read(write(tmp_path / "a.csv", rows, ","))
    assert [item.paragraphs for item in found if isinstance(item, RawDocument)] == [[row[1]] for row in rows[1:]]


def test_two_columns_of_one_language_are_sentences(tmp_path: Path) -> None:
    taken: list[str] = []
    found = read(write(tmp_path / "a.tsv", [("तो आला आणि बसला.", "तो येऊन पोहोचला आणि बसला.")] * 4), taken=taken)
    assert len(found) == 8 and all(isinstance(item, RawDocument) and item.paragraphs for item in found)
    assert taken == ["table: sentences, Marathi in column 1, Marathi in column 2"]


@pytest.mark.parametrize(
    "columns", [{"en": "left", "mr": "right"}, {"en": 2, "mr": 3}, {"user": "left", "assistant": "right"}, {"text": "right"}]
)
def test_columns_can_be_named(tmp_path: Path, columns: dict[str, str | int]) -> None:
    path = write(tmp_path / "a.csv", [("n", "left", "right", "more"), *[(str(n), en, mr, en) for n, (en, mr) in enumerate(PAIRS)]], ",")
    found = [item for item in read(path, columns) if isinstance(item, RawDocument)]
    assert len(found) == (60 if "en" in columns else 30)
    with pytest.raises(DataError, match=r"there is no column x .*it has n, left, right, more"):
        read(path, {"user": "left", "assistant": "x"})


def test_columns_that_cannot_be_told_apart_are_named(tmp_path: Path) -> None:
    rows = [("titel", "autor", "notiz"), *[(f"title of {n}", f"writer {n} of it", f"note on {n}") for n in range(9)]]
    with pytest.raises(DataError, match=r"a\.csv: it is not clear which columns hold text .*\"columns\": ") as caught:
        read(write(tmp_path / "a.csv", rows, ","))
    assert "\n" not in str(caught.value)


def test_rows_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    rows = [*PAIRS, ("one",), ("a", "b", "c"), ("only English", "")]
    found = read(write(tmp_path / "a.tsv", rows))  # type: ignore[arg-type]
    assert [item.reason for item in found if isinstance(item, BadRow)] == [
        "wrong_number_of_columns",
        "wrong_number_of_columns",
        "empty_cell",
    ]


def test_a_sheet_as_spreadsheets_write_it() -> None:
    if not CASES.is_dir():
        pytest.skip("../shared is absent")
    found = read(CASES / "sheet.tsv")
    assert not [item for item in found if isinstance(item, BadRow)]
    said = "\n".join(message["content"] for item in found if isinstance(item, RawDocument) for message in item.messages)
    assert 'He said "The gasoline tank was underneath."' in said and '""' not in said
    assert "English" not in {item.messages[1]["content"] for item in found if isinstance(item, RawDocument)}
    assert "आम्हाला टॉमवर अभिमान आहे.\n(दुसरा अर्थ)" in said


@pytest.mark.parametrize("before", ["sep=;\n", "\n\n", "\ufeffsep=;\r\n", "\ufeff"])
def test_lines_before_the_headings(tmp_path: Path, before: str) -> None:
    path = write(tmp_path / "a.csv", [("English", "Marathi"), *PAIRS], ";")
    path.write_text(before + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert answers(read(path)) == [text for english, marathi in PAIRS for text in (marathi, english)]
