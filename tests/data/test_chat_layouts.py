"""Tests the reading of every supported layout of conversations."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletlm.config.schema import Source
from bulletlm.data.readers.chat import COLUMN_ROLES, read_row
from bulletlm.data.reading import BadRow, RawDocument, read_documents
from bulletlm.data.sources import SourceFile
from bulletlm.errors import DataError
from paths import CASES

Q, A = "मला एक गोष्ट सांग.", "एकदा एक ससा होता."
TURN = [{"role": "user", "content": Q}, {"role": "assistant", "content": A}]
HUMAN, GPT = {"from": "human", "value": Q}, {"from": "gpt", "value": A}
SYSTEM = {"role": "system", "content": "थोडक्यात."}

LAYOUTS: list[tuple[Any, list[dict[str, str]]]] = [
    ({"messages": TURN}, TURN),
    ({"conversations": [HUMAN, GPT]}, TURN),
    ({"conversations": [{"from": "system", "value": "थोडक्यात."}, HUMAN, GPT]}, [SYSTEM, *TURN]),
    ({"system": "थोडक्यात.", "conversations": [HUMAN, GPT]}, [SYSTEM, *TURN]),
    ({"messages": [{"role": "User", "content": Q}, {"role": "bot", "content": A}]}, TURN),
    (
        {"messages": [{"role": "developer", "content": "थोडक्यात."}, {"role": "Human", "content": Q}, {"role": "model", "content": A}]},
        [SYSTEM, *TURN],
    ),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": Q}]}, {"role": "assistant", "content": A}]}, TURN),
    ({"messages": [{"author": "user", "content": {"parts": [Q]}}, {"author": "assistant", "text": A}]}, None),  # type: ignore[list-item]
    ({"messages": [*TURN[:1], {"role": "assistant", "content": None, "tool_calls": [{}]}, {"role": "tool", "content": "ससा"}, TURN[1]]},
     [TURN[0], {"role": "user", "content": "ससा"}, TURN[1]]),
    ({"prompt": Q, "completion": A}, TURN),
    ({"prompt": Q, "response": A}, TURN),
    ({"question": Q, "answer": A}, TURN),
    ({"Question": Q, "Answer": A}, TURN),
    ({"input": Q, "output": A}, TURN),
    ({"instruction": Q, "input": "", "output": A}, TURN),
    ({"instruction": "सांग", "input": "गोष्ट", "output": A}, [{"role": "user", "content": "सांग\nगोष्ट"}, TURN[1]]),
    ({"instruction": "सांग", "context": "गोष्ट", "response": A}, [{"role": "user", "content": "सांग\nगोष्ट"}, TURN[1]]),
    ({"system": "थोडक्यात.", "history": [["अ?", "स्वर"]], "instruction": Q, "input": "", "output": A},
     [SYSTEM, {"role": "user", "content": "अ?"}, {"role": "assistant", "content": "स्वर"}, *TURN]),
    (TURN, TURN),
    ([HUMAN, GPT], TURN),
    ({"dialog": [Q, A]}, TURN),
    ({"chat": [[Q, A]]}, TURN),
    ({"messages": None, "prompt": Q, "response": A}, TURN),
    ({"messages": [], "prompt": Q, "response": A}, TURN),
    ({"messages": TURN, "prompt": None, "text": None}, TURN),
    ({"prompt": Q, "text": A}, TURN),
    ({"prompt": [TURN[0]], "completion": [TURN[1]]}, TURN),
    ({"prompt": Q, "chosen": A, "rejected": "नाही"}, TURN),
    ({"chosen": TURN, "rejected": TURN, "prompt": Q}, TURN),
    ({"user": Q, "assistant": A}, TURN),
    ({"question": "२ + २?", "answer": 4}, [{"role": "user", "content": "२ + २?"}, {"role": "assistant", "content": "4"}]),
]  # fmt: skip


@pytest.mark.parametrize(("row", "messages"), LAYOUTS, ids=[json.dumps(row, ensure_ascii=False)[:60] for row, _ in LAYOUTS])
def test_layouts(row: Any, messages: list[dict[str, str]] | None) -> None:
    found = read_row(row)
    assert found.reason is None
    assert found.messages == (messages or TURN)


TEXTS = [
    {"text": "एक"},
    {"text": "एक", "messages": None, "prompt": None},
    {"text": "एक", "messages": []},
    {"prompt": "एक", "text": "### प्रश्न: एक ### उत्तर: दोन"},
    {"text": "एक", "prompt": ""},
]


@pytest.mark.parametrize("row", TEXTS)
def test_texts(row: dict[str, Any]) -> None:
    found = read_row(row)
    assert (found.text, found.messages, found.reason) == (row["text"], [], None)


def test_translations_as_datasets_have_them() -> None:
    assert read_row({"translation": {"en": "one", "mr": "एक"}}).translations == {"en": "one", "mr": "एक"}


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ({"user": "q1", "assistant": "a1"}, {"q1": Q, "a1": A, "messages": "noise"}),
        ({"messages": "log"}, {"log": TURN}),
        ({"messages": "log", "role": "who", "content": "said"}, {"log": [{"who": "user", "said": Q}, {"who": "assistant", "said": A}]}),
    ],
)
def test_any_other_layout_can_be_mapped(columns: dict[str, str | int], row: dict[str, Any]) -> None:
    assert read_row(row, columns=columns).messages == TURN
    assert read_row({"x": 1}, columns=columns).reason


def test_what_is_not_known_says_why() -> None:
    assert read_row({"messages": [{"role": "owner", "content": A}]}).reason == "messages_without_role_and_content"
    assert read_row({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}).reason == "messages_without_role_and_content"
    assert read_row({"prompt": Q}).reason == "prompt_without_response"
    assert read_row({"q1": Q}).reason == "no_text_or_messages"
    assert read_row(5).reason == "not_a_json_object"


NAMES = ["messages", "role", "content", "from", "value", "prompt", "response", "text", "history", "input", "output", "x"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(NAMES), inner, max_size=4
    ),
    max_leaves=12,
)  # fmt: skip


@given(json_values)
def test_any_json_is_a_row_or_has_a_reason(value: Any) -> None:
    found = read_row(value)
    assert sum([bool(found.messages), found.text is not None, bool(found.translations), found.reason is not None]) == 1
    assert all(set(message) == {"role", "content"} and isinstance(message["content"], str) for message in found.messages)


def read(
    path: Path, notes: list[str] | None = None, named: bool = True, columns: dict[str, str | int] | None = None
) -> list[RawDocument | BadRow]:
    file = SourceFile(path, path.name, path.suffix, "auto", named, columns=columns or {})
    return list(read_documents(file, 1, lambda n: None, (notes if notes is not None else []).append))


def test_a_file_of_unknown_rows_names_its_keys_and_the_setting(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"frage": "wie?", "antwort": "so."}\n' * 3)
    with pytest.raises(
        DataError, match=r"a\.jsonl: no known layout of rows \(they have frage, antwort\): .*data\.sources.*\"user\": \"frage\""
    ) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    notes: list[str] = []
    assert read(path, notes, named=False) == [] and "frage, antwort" in notes[0]
    found = read(path, columns={"user": "frage", "assistant": "antwort"})
    assert [len(item.messages) for item in found if isinstance(item, RawDocument)] == [2, 2, 2]


def test_some_unknown_rows_are_said_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"frage": "wie?"}\n')
    notes: list[str] = []
    found = read(path, notes)
    assert [isinstance(item, BadRow) for item in found] == [False, True]
    assert "1 of the first 2 rows have no known layout, for example frage" in notes[0]


ARRAY = [{"prompt": f"{Q} {n}", "response": A} for n in range(300)]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ARRAY, ensure_ascii=False),
        json.dumps(ARRAY, indent=2),
        json.dumps({"data": ARRAY}),
        json.dumps({"version": 1, "train": ARRAY[:200], "test": ARRAY[200:]}, indent=1),
        "\n".join(json.dumps(row) for row in ARRAY),
        "\n".join(json.dumps(row, indent=4) for row in ARRAY),
        json.dumps({str(n): row for n, row in enumerate(ARRAY)}),
        "\ufeff  " + json.dumps(ARRAY, ensure_ascii=False),
    ],
    ids=["array", "pretty", "in data", "splits", "lines", "objects", "by id", "marked"],
)
def test_json_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    from bulletlm.data.readers import opened, rows

    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    found = read(tmp_path / "a.json")
    assert [item.messages[0]["content"] for item in found if isinstance(item, RawDocument)] == [row["prompt"] for row in ARRAY]
    assert [item.line for item in found] == list(range(1, 301))
    monkeypatch.setattr(opened, "PIECE_BYTES", 1_000)
    monkeypatch.setattr(rows, "BLOCK_BYTES", 5_000)
    assert read(tmp_path / "a.json") == found, "blocks and pieces change nothing"


def test_a_json_file_may_be_one_conversation_or_one_text(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(TURN, indent=1))
    assert [item.messages for item in read(tmp_path / "a.json") if isinstance(item, RawDocument)] == [TURN]
    (tmp_path / "a.json").write_text(json.dumps({"text": "एक\nदोन"}))
    assert [item.paragraphs for item in read(tmp_path / "a.json") if isinstance(item, RawDocument)] == [["एक", "दोन"]]
    (tmp_path / "a.json").write_text(json.dumps(["एक", "दोन"]))
    assert [item.paragraphs for item in read(tmp_path / "a.json") if isinstance(item, RawDocument)] == [["एक"], ["दोन"]]


def test_damaged_json(tmp_path: Path) -> None:
    notes: list[str] = []
    (tmp_path / "a.json").write_text(json.dumps(ARRAY)[:-50])
    found = read(tmp_path / "a.json", notes)
    assert sum(isinstance(item, RawDocument) for item in found) == 299 and found[-1].reason == "not_json"  # type: ignore[union-attr]
    assert notes == ["it is not JSON after row 299"]
    (tmp_path / "a.json").write_text('{"text": "one"}\n{"text": oops}\n{"text": "two"}\n')
    assert [isinstance(item, BadRow) for item in read(tmp_path / "a.json")] == [False, True, False]


@pytest.mark.parametrize(
    ("end", "reason"),
    [('{"role": "user", "content": "and th', "not_json"), ('"cut', "not_json"), ("]\nthe end\n", "not_json"), ("]", None), ("", None)],
)
def test_the_beginning_of_a_damaged_conversation_is_kept(end: str, reason: str | None, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(TURN)[:-1] + ", " + end)
    notes: list[str] = []
    conversation, *rest = read(tmp_path / "a.json", notes)
    assert isinstance(conversation, RawDocument) and conversation.messages == TURN
    assert [item.reason for item in rest if isinstance(item, BadRow)] == ([reason] if reason else [])
    assert bool(notes) == bool(rest) or end.startswith("]")


def test_what_follows_an_array_is_not_lost(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"text": "one"}, {"text": "two"}]\n[{"text": "three"}]\n[]\n[{"text": "four"}')
    assert [item.paragraphs for item in read(tmp_path / "a.json") if isinstance(item, RawDocument)] == [
        ["one"],
        ["two"],
        ["three"],
        ["four"],
    ]
    (tmp_path / "a.json").write_text('[{"text": "one"}]\nand a remark')
    first, second = read(tmp_path / "a.json")
    assert isinstance(first, RawDocument) and isinstance(second, BadRow) and second.text == "and a remark"


def test_any_layout_may_be_a_parquet_file(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for row, messages in LAYOUTS:
        if isinstance(row, dict) and messages and "tool_calls" not in json.dumps(row) and "[[" not in json.dumps(row):
            try:
                parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
            except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, pyarrow.ArrowNotImplementedError):
                continue  # a column of mixed types
            found = read(tmp_path / "a.parquet")
            assert [item.messages for item in found if isinstance(item, RawDocument)] == [messages], row


def test_telegram_exports_are_named(tmp_path: Path) -> None:
    rows = [
        {"id": n, "type": "message", "date": "2024-01-01T10:00:00", "date_unixtime": "1", "from": "A", "from_id": "user1", "text": "x"}
        for n in range(9)
    ]
    (tmp_path / "result.json").write_text(json.dumps({"name": "A", "type": "personal_chat", "messages": rows}, indent=1))
    with pytest.raises(DataError, match="a Telegram export, which is not read: "):
        read(tmp_path / "result.json")


def test_the_settings_name_the_same_roles() -> None:
    assert Source(path="a", columns=dict.fromkeys(COLUMN_ROLES, "x")).columns
    with pytest.raises(ValueError, match="neither one of user"):
        Source(path="a", columns={"usr1": "x"})


def test_the_common_layouts_of_the_shared_cases() -> None:
    if not CASES.is_dir():
        pytest.skip("../shared is absent")
    found = read(CASES / "chat-shapes.jsonl")
    assert not [item for item in found if isinstance(item, BadRow)]
    assert sum(bool(item.messages) for item in found if isinstance(item, RawDocument)) == len(found) - 1
