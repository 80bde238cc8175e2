"""Tests the detection of Devanagari text that a font conversion damaged."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bulletlm.data.letters import broken_words, is_suspect, mend_letters, snippet


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("प्रश्न उद्भ्ावत नाही", "प्रश्न उद्भवत नाही"),
        ("उक्त्ा प्रकरणी", "उक्त प्रकरणी"),
        ("क्ष्ोत्र", "क्षेत्र"),
        ("उद्भ्◌ावत", "उद्भवत"),
        ("प्रस्ंगें", "प्रसंगें"),
        ("मंुबई", "मुंबई"),
        ("शंृगार", "शृंगार"),
        ("आपे ंआप", "आपें आप"),
        ("येाजना", "योजना"),
        ("ब्लॅाक", "ब्लॉक"),
        ("शाासन", "शासन"),
        ("दृिष्ट", "दृष्टि"),
        ("बुिद्ध", "बुद्धि"),
        ("िस्थर", "स्थिर"),
        ("इंिद्रयें", "इंद्रियें"),
        ("नििंश्चती", "निश्चिंती"),
        ("सांभािळलें", "सांभाळिलें"),
        ("विद्याथ्र्यांना", "विद्यार्थ्यांना"),
        ("विद्यार्थ्र्यांना", "विद्यार्थ्यांना"),
        ("सव्र्हे", "सर्व्हे"),
        ("ऊध्र्व", "ऊर्ध्व"),
        ("पाश्र्वभूमी", "पार्श्वभूमी"),
        ("ईश्र्वर प्रश्र्न", "ईश्वर प्रश्न"),
        ("वल्र्ड वक्र्स पुनस्र्थापना", "वर्ल्ड वर्क्स पुनर्स्थापना"),
    ],
)
def test_what_is_mended(broken: str, mended: str) -> None:
    assert mend_letters(broken) == mended
    assert broken_words(mended) == 0


@pytest.mark.parametrize(
    "text", ["स्वातंत्र्य मंत्र्यांनी दारिद्र्य त्र्यंबक", "कर्त्याने किंवा हिंदी", "अरेऽऽ हो ऽऽ", "IoTचे ॐ", "क्‍ष राज्‌कोट", "plain", "दुःख संस्कृत"]
)
def test_good_spelling_stays(text: str) -> None:
    assert mend_letters(text) == text
    assert broken_words(text) == 0


def test_what_cannot_be_mended_is_counted() -> None:
    assert broken_words("भHीचिया काजा ब्रह्मYान") == pytest.approx(2 / 5), "ज्ञ and क्त that stayed in the old font"
    assert broken_words("किेंवा") == 1
    assert broken_words("") == 0


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from([*"कथरयशवनि", *"ािीुेोॅॉंः्◌ ़", "थ्र्य", "श्र्व", "x"]), max_size=14).map("".join))
@example("ंिक")
@example("्ंा")
def test_mending_again_changes_nothing(text: str) -> None:
    once = mend_letters(text)
    assert mend_letters(once) == once
    if once != text:
        assert is_suspect(text)


@pytest.mark.parametrize(
    ("text", "start", "end", "shown"),
    [
        ("नमस्कार", 4, 6, "स्का"),
        ("क्ष्मी आहे", 2, 3, "क्ष्मी"),
        ("दुसऱ्\u200dया", 5, 6, "ऱ्\u200dया"),
        ("cafe\u0301s", 4, 5, "e\u0301"),
        ("abc", 1, 2, "b"),
        ("कि", 0, 9, "कि"),
        ("", 0, 5, ""),
    ],
)
def test_snippets_begin_and_end_between_letters(text: str, start: int, end: int, shown: str) -> None:
    assert snippet(text, start, end) == shown


def test_a_snippet_of_nothing_but_signs_is_not_endless() -> None:
    assert len(snippet("\u0301" * 10_000, 5_000, 5_100)) < 200
