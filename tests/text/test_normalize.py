"""Tests that normalization gives the same text for different encodings of it."""

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bulletlm.text.normalize import is_broken, normalize, normalize_line, visible

ZWJ, ZWNJ, VIRAMA = "\u200d", "\u200c", "\u094d"


@pytest.mark.parametrize(
    ("before", "after", "rules"),
    [
        ("साधा मजकूर.", "साधा मजकूर.", []),
        ("\ufeffपहिली ओळ", "पहिली ओळ", ["byte_order_mark"]),
        ("a\x00b\x07", "ab", ["control"]),
        ("  दोन   शब्द\u00a0\t", "दोन शब्द", ["spaces"]),
        ("e\u0301", "\u00e9", ["nfc"]),
        ("\u0958", "\u0915\u093c", ["nfc"]),  # NFC writes क़ as two characters, always the same two
        ("\u0930\u093c्या", "\u0931्या", ["nfc"]),
        ("अॅप आणि आॅफिस", "ॲप आणि ऑफिस", ["spelling"]),
        (f"अ{ZWJ}ॅप", "ॲप", ["zero_width", "spelling"]),
        (f"दुस{'र' + VIRAMA + ZWJ}या", "दुसऱ्या", ["spelling"]),
        ("soft\u00adhyphen\u200b", "softhyphen", ["zero_width"]),
        (f"क{ZWJ}र", "कर", ["zero_width"]),
        (f"क{VIRAMA}{ZWNJ} ", f"क{VIRAMA}", ["zero_width", "spaces"]),
        (f"क{VIRAMA}{ZWNJ}{ZWNJ}ष", f"क{VIRAMA}{ZWNJ}ष", ["zero_width"]),
    ],
)
def test_each_rule(before: str, after: str, rules: list[str]) -> None:
    seen: list[str] = []
    assert normalize_line(before, lambda rule, _before, _after: seen.append(rule)) == after
    assert seen == rules


@pytest.mark.parametrize("text", [f"क{VIRAMA}{ZWJ}ष", f"राज{VIRAMA}{ZWNJ}कोट", "👩\u200d👩\u200d👧", "❤\ufe0f\u200d🔥", "می\u200cخواهم"])
def test_joiners_that_mean_something_stay(text: str) -> None:
    assert normalize_line(text) == text


def lines() -> st.SearchStrategy[str]:
    odd = [
        " ",
        "\u200b",
        "\ufeff",
        ZWJ,
        ZWNJ,
        VIRAMA,
        "\u093c",
        "अ",
        "आ",
        "ॅ",
        "र",
        "ऱ",
        "य",
        "ा",
        "\u00ad",
        "\x00",
        "\u0301",
        "e",
        "👩",
        "\t",
        "\u2028",
    ]
    return st.one_of(st.text(max_size=20), st.lists(st.sampled_from(odd), max_size=12).map("".join))


@settings(max_examples=500, deadline=None)
@given(lines())
@example("अ\u200bॅ")
@example("e\u200b\u0301")
@example("\u094d\u0300\u200c\u0900")
@example("\u0300\u200b\u094d\u200c\u0900")
@example(f"र{VIRAMA}{ZWJ}{ZWNJ}य")
@example(f"र\u093c{VIRAMA}{ZWJ}य")
@example(f"ऱ{VIRAMA}{ZWJ}{ZWJ}य")
def test_normalizing_again_changes_nothing(line: str) -> None:
    once = normalize_line(line)
    assert normalize_line(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert once == once.strip() and "  " not in once
    assert not any(unicodedata.category(c) == "Cc" for c in once)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=30))
def test_nothing_that_can_be_seen_is_lost(line: str) -> None:
    assert normalize_line(line) == unicodedata.normalize("NFC", line)


def test_lines_of_a_text() -> None:
    assert normalize(" एक \r\n\r\n\n दोन\u2028तीन ") == "एक\nदोन\nतीन"


@pytest.mark.parametrize(
    ("text", "broken"),
    [("अ\ufffdब", True), ("a\ud800", True), ("उभा\x86यानें", True), ("\x86 कर", False), ("नमस्कार", False), ("a\x00b", False), ("", False)],
)
def test_lost_characters_are_noticed(text: str, broken: bool) -> None:
    assert is_broken(text) is broken


def test_what_cannot_be_seen_is_shown() -> None:
    assert visible("क\u200dर\u00a0ब ") == "क<U+200D>र<U+00A0>ब "


def test_a_tower_of_signs_does_not_stall() -> None:
    tower = "\u0323\u0301" * 250_000  # all marks are out of order: sorting all of them would take hours
    done = normalize_line(f"क{tower} मराठी")
    assert done == unicodedata.normalize("NFC", f"क{tower[:30]} मराठी")
    assert normalize_line(done) == done
