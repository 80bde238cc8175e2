"""Tests exported WhatsApp chats: the messages become answers to learn from, and names of persons are removed."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulletlm.data.readers import whatsapp
from bulletlm.data.reading import BadRow, RawDocument, read_documents
from bulletlm.data.sources import SourceFile
from paths import CASES

STYLES = {
    "android 12": "{d:02}/{m:02}/{y:02}, {h12}:{n:02}\u202f{half} - {who}: {text}",
    "android 24": "{d:02}/{m:02}/20{y:02}, {h:02}:{n:02} - {who}: {text}",
    "american": "{m}/{d}/{y:02}, {h12}:{n:02} {HALF} - {who}: {text}",
    "dots": "{d:02}.{m:02}.{y:02}, {h:02}:{n:02} - {who}: {text}",
    "iso": "20{y:02}-{m:02}-{d:02}, {h:02}:{n:02} - {who}: {text}",
    "iphone": "\u200e[{d:02}/{m:02}/{y:02}, {h12}:{n:02}:07\u202f{HALF}] {who}: {text}",
    "iphone 24": "[{d:02}.{m:02}.{y:02}, {h:02}:{n:02}:07] {who}: {text}",
    "marathi": "{d:02}/{m:02}/{y:02}, {h12}:{n:02} {mr} - {who}: {text}",
}

CHAT = [
    ("Asha Patil", "आज शाळेत काय झालं?"),
    ("आजी", "मोरूने गणित सोडवलं.\nआणि चित्रही काढलं."),
    ("आजी", "<Media omitted>"),
    ("Ravi (office)", "@Asha, उद्या येशील का?"),
    ("Asha Patil", "This message was deleted"),
    ("Asha Patil", "हो Ravi, ravi's घरी येते. आजीला सांग."),
    ("+91 98000 00001", "Asha Patil ला फोन कर: 98000 00001"),
    ("Ravi (office)", "IMG-20240301-WA0001.jpg (file attached)"),
    ("Ravi (office)", "ठीक आहे."),
]


def export(style: str, chat: list[tuple[str, str]] = CHAT) -> str:
    lines = [STYLES[style].format(**when(0), who="x", text="y").replace("x: y", "Messages and calls are end-to-end encrypted.")]
    lines += [STYLES[style].format(**when(n), who=who, text=text) for n, (who, text) in enumerate(chat, 1)]
    lines.append(STYLES[style].format(**when(99), who="x", text="y").replace("x: y", "Ravi (office) added Meera Joshi"))
    return "\n".join(lines) + "\n"


def when(number: int) -> dict[str, object]:
    hour, day = (20 + number) % 24, 3 + number // 4
    half = "pm" if hour >= 12 else "am"
    parts = {"d": day, "m": 2 + number // 30, "y": 24, "h": hour, "h12": hour % 12 or 12, "n": number % 60}
    return {**parts, "half": half, "HALF": half.upper(), "mr": "म.उ." if hour >= 12 else "म.पू."}


def read(path: Path, taken: list[str] | None = None) -> list[RawDocument | BadRow]:
    file = SourceFile(path, path.name, ".txt", "auto", True)
    return list(read_documents(file, 1, lambda n: None, print, (taken if taken is not None else []).append))


@pytest.mark.parametrize("style", STYLES)
def test_every_style_of_export(tmp_path: Path, style: str) -> None:
    (tmp_path / "chat.txt").write_text(export(style), encoding="utf-8")
    taken: list[str] = []
    found = read(tmp_path / "chat.txt", taken)
    assert taken[0].startswith(f"{whatsapp.PRIVATE}: a WhatsApp chat of 4 people, 6 messages from 2024-02-0")
    assert {item.reason: item.text for item in found if isinstance(item, BadRow)} == {
        "chat_notice": "2 lines",
        "chat_media": "2 lines",
        "chat_deleted": "1 lines",
    }
    first, second = (item.messages for item in found if isinstance(item, RawDocument))
    texts = [message["content"] for message in first]
    assert texts == [
        "आज शाळेत काय झालं?",
        "मोरूने गणित सोडवलं.\nआणि चित्रही काढलं.",
        "[name], उद्या येशील का?",
        "हो [name], [name] घरी येते. [name]ला सांग." if "[name] घरी" in first[3]["content"] else first[3]["content"],
        first[4]["content"],
        "ठीक आहे.",
    ]
    assert [message["content"] for message in second] == texts[1:], "the other direction"
    assert [message["role"] for message in first[:2]] == [message["role"] for message in second[:2]] == ["user", "assistant"]
    everything = repr([item for item in found if isinstance(item, RawDocument)])
    for secret in ("Asha", "Patil", "Ravi", "ravi", "आजी", "Meera", "98000", "00001", "pm", "PM", "2024", "20:", "omitted", "deleted"):
        assert secret not in everything, secret


def test_each_message_is_an_answer_and_a_question(tmp_path: Path) -> None:
    """This also holds where a long chat is divided, and across days."""
    chat = [(("A B", "C D")[n % 2], f"संदेश क्रमांक {n} आहे") for n in range(200)]
    (tmp_path / "chat.txt").write_text(export("android 24", chat), encoding="utf-8")
    pairs = set()
    for item in read(tmp_path / "chat.txt"):
        if isinstance(item, RawDocument):
            for before, after in zip(item.messages[:-1], item.messages[1:], strict=True):
                if after["role"] == "assistant":
                    pairs.add((before["content"], after["content"]))
    assert pairs == {(f"संदेश क्रमांक {n} आहे", f"संदेश क्रमांक {n + 1} आहे") for n in range(199)}


@pytest.mark.parametrize("style", ["android 24", "american"])
@pytest.mark.parametrize("last", [9, 29])
def test_the_order_of_day_and_month(style: str, last: int) -> None:
    """The order follows from numbers above twelve, or, if there are none, from the sequence of the dates."""
    days = range(5, last + 1)
    lines = [STYLES[style].format(**{**when(1), "d": day, "m": month}, who=f"P{day % 2}", text="x") for month in (3, 4) for day in days]
    said, _ = whatsapp._parse("\n".join(lines))
    assert whatsapp._day_first(said) == (style == "android 24")


def test_other_text_is_no_chat() -> None:
    diary = "12/03/24 - Monday: It rained.\nWe stayed at home.\n\n13/03/24 - Tuesday: Sun.\n" * 5
    letters = "Dear Asha: thank you.\n" * 20
    assert not whatsapp.recognize(diary) and not whatsapp.recognize(letters) and not whatsapp.recognize("")


names = st.text(st.sampled_from("ABcdeअशाीर "), min_size=3, max_size=10).filter(lambda name: name.strip() == name)


@settings(deadline=None, max_examples=60)
@given(who=st.lists(names, min_size=2, max_size=4, unique=True), seed=st.integers(0, 999), style=st.sampled_from(sorted(STYLES)))
def test_no_name_of_a_sender_is_left(who: list[str], seed: int, style: str) -> None:
    generator = random.Random(seed)
    words = ["काल", "xyz,", "ok.", "(हो)"]
    chat = [(generator.choice(who), " ".join(generator.sample([*words, *who, f"@{who[0]}"], 4))) for _ in range(12)]
    text = export(style, chat)
    if not whatsapp.recognize(text):
        return
    said, _ = whatsapp._parse(text)
    hide = whatsapp._name_pattern({item.sender for item in said})
    found = [message["content"] for _, _, messages in whatsapp._conversations(said, hide) for message in messages]
    assert found
    for sender in {item.sender for item in said}:
        for content in found:
            assert sender not in content.replace("[name]", "#").split(" ")


def test_the_shared_case() -> None:
    if not CASES.is_dir():
        pytest.skip("no shared cases here")
    found = repr([item for item in read(CASES / "whatsapp.txt") if isinstance(item, RawDocument)])
    for secret in ("Asha", "Ravi", "आजी", "98000", "9800000001", "05/03", "pm", "omitted", "deleted", "encrypted"):
        assert secret not in found, secret


NOTICES = {
    "Ravi (office) added Meera Joshi": ["Meera", "Joshi"],
    "You added Vasant Kale and Leela Rane": ["Vasant", "Kale", "Leela", "Rane"],
    "Ravi (office) added Vasant, Leela and Meera": ["Vasant", "Leela", "Meera"],
    "Ravi (office) removed Meera Joshi": ["Meera"],
    "Meera Joshi left": ["Meera", "Joshi"],
    "~ Meera Joshi joined using this group's invite link": ["Meera", "Joshi"],
    'Meera Joshi created group "Trip"': ["Meera", "Joshi"],
    "Your security code with Meera Joshi changed. Tap to learn more.": ["Meera", "Joshi"],
    "Meera Joshi's security code changed.": ["Meera", "Joshi"],
    'Meera Joshi changed the subject from "old" to "new"': ["Meera", "Joshi"],
    "Meera Joshi is now an admin": ["Meera"],
    "मीरा जोशी यांनी वसंत काळे यांना जोडले": ["मीरा", "जोशी", "वसंत", "काळे"],
}


@pytest.mark.parametrize("notice", NOTICES)
def test_names_in_notices_are_hidden_in_messages(tmp_path: Path, notice: str) -> None:
    """The person may never have written."""
    words = "you and group left the trip changed"
    chat = [*CHAT, ("Asha Patil", f"काल {', '.join(NOTICES[notice])} आले. {words}")]
    lines = [*export("android 24", chat).splitlines(), "05/02/2024, 10:00 - " + notice]
    (tmp_path / "chat.txt").write_text("\n".join(lines), encoding="utf-8")
    found = repr([item for item in read(tmp_path / "chat.txt") if isinstance(item, RawDocument)])
    for name in NOTICES[notice]:
        assert name not in found, name
    assert words in found, "common words of notices are no names"


def test_names_on_contact_cards_and_in_mentions_are_hidden(tmp_path: Path) -> None:
    chat = [
        *CHAT,
        ("Asha Patil", "Meera Joshi.vcf (file attached)"),
        ("आजी", "@\u2068Vasant Kale\u2069 कुठे आहे?"),
        ("Asha Patil", "Meera आणि Vasant उद्या येतील."),
    ]
    (tmp_path / "chat.txt").write_text(export("android 24", chat), encoding="utf-8")
    found = repr([item for item in read(tmp_path / "chat.txt") if isinstance(item, RawDocument)])
    assert "[name] आणि [name] उद्या येतील." in found
    assert not any(name in found for name in ("Meera", "Joshi", "Vasant", "Kale"))
