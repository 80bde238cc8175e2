"""Tests the cleaning rules on single documents: each finds its fault, each can be switched off, and good text is not changed."""

import re
import unicodedata

import pytest
from legacy_fonts import KRUTI_DEV, stored_in

from bulletlm.config.schema import CleanConfig
from bulletlm.data.log import CHANGES, REJECTIONS, SETTINGS, Log, Rejected
from bulletlm.data.reading import RawDocument
from bulletlm.data.rules import clean_document, clean_text
from paths import DOCS

GOOD = "आज सकाळी पाऊस पडत होता, म्हणून आम्ही घरीच बसलो आणि गोष्टी ऐकल्या."


def clean(*paragraphs: str, language: str = "auto", **settings: object) -> tuple[list[str], dict[str, int]]:
    raw = RawDocument("a.txt", 1, language, list(paragraphs), list(range(1, len(paragraphs) + 1)))
    log = Log()
    found = clean_document(raw, CleanConfig(**{"preset": "web", **settings}), log)  # type: ignore[arg-type]
    return (found.paragraphs if found else []), dict(log.counts)


CHANGED = {
    "entities": ("चहा &amp; पाणी", "चहा & पाणी"),
    "mojibake": ("caf\u00c3\u00a9 is here", "caf\u00e9 is here"),
    "markup": ("<b>ठळक</b> शब्द", "ठळक शब्द"),
    "rulers": ("शीर्षक------", "शीर्षक"),
    "private_use": ("\uf0b7 पहिला मुद्दा", "पहिला मुद्दा"),
    "byte_order_mark": ("\ufeffपहिली ओळ", "पहिली ओळ"),
    "control": ("दोन\x07 शब्द", "दोन शब्द"),
    "zero_width": ("दोन\u200b शब्द", "दोन शब्द"),
    "nfc": ("\u0958लम आहे", "\u0915\u093cलम आहे"),
    "spelling": ("अॅप आहे", "ॲप आहे"),
    "spaces": ("दोन   शब्द", "दोन शब्द"),
    "letters": ("प्रश्न उद्भ्ावत नाही", "प्रश्न उद्भवत नाही"),
    "emails": ("लिहा a.b@c.in वर", "लिहा [email] वर"),
    "phones": ("फोन ९८७६५४३२१० वर", "फोन [phone] वर"),
    "long_numbers": ("खाते १२३४५६७८९०१२ मध्ये", "खाते [number] मध्ये"),
}


@pytest.mark.parametrize("rule", CHANGED)
def test_what_is_changed(rule: str) -> None:
    before, after = CHANGED[rule]
    paragraphs, counts = clean(before)
    assert paragraphs == [after]
    assert counts[rule] == 1 and set(counts) <= {rule, "spaces"}
    off: dict[str, object] = {rule: 0 if rule == "long_numbers" else False}
    if rule == "nfc":  # the two characters stay as they are
        off["spelling"] = False
    if rule == "phones":
        off["long_numbers"] = 0
    if rule == "letters":
        off["max_broken_words"] = 1.0
    paragraphs, counts = clean(before, **off)
    assert rule not in counts and paragraphs == [before.strip()]


REJECTED = {
    "broken_unicode": ("अ\ufffdब हरवले", {"broken_unicode": False}),
    "garbled": ("या ×«üÃÖ¤üÃµÖßµÖ समितीने", {"mojibake": False}),
    "private_letters": ("मजकू\ue123र आहे", {"private_letters": False}),
    "no_letters": ("---- १२ ----", {"no_letters": False}),
    "too_short": ("क", {"min_chars": 1}),
    "too_long": ("शब्द " * 50, {"max_chars": 1000}),
    "broken_letters": ("ब्रह्मYान भHीचिया काजा", {"max_broken_words": 1.0}),
    "legacy_font": (stored_in(KRUTI_DEV, GOOD), {"legacy_font": False}),
    "wrong_script": ("Сегодня идёт дождь, и мы сидим дома", {"languages": []}),
    "long_words": ("https://www.india.gov.in/topics/travel-tourism/a/b", {"max_word_length": 0}),
}


@pytest.mark.parametrize("rule", REJECTED)
def test_what_is_rejected(rule: str) -> None:
    line, off = REJECTED[rule]
    tight: dict[str, object] = {"max_chars": 200} if rule == "too_long" else {"languages": ["mr", "en"]} if rule == "wrong_script" else {}
    paragraphs, counts = clean(GOOD, line, GOOD + " दुसरी.", **tight)
    assert paragraphs == [GOOD, GOOD + " दुसरी."]
    assert counts == {rule: 1}
    loose = {"languages": []} if rule == "legacy_font" else {}
    paragraphs, counts = clean(GOOD, line, **off, **loose)  # type: ignore[arg-type]
    assert len(paragraphs) == 2 and rule not in counts


def test_good_text_is_left_alone() -> None:
    lines = [GOOD, "हो.", "“हो का?” त्याने विचारले...", "Azure IoT Hub शी जोडा", "The word आहे means is.", "१२ जानेवारी २०२४ रोजी ५०% सूट!"]
    assert clean(*lines) == (lines, {})


def test_languages() -> None:
    hindi = "उसने कहा कि वह आज नहीं आएगा क्योंकि बारिश हो रही है।"
    assert clean(hindi, hindi + " अब।", languages=["mr", "en"]) == ([], {"wrong_language": 2})
    assert clean(hindi, languages=["mr", "hi"])[0] == [hindi]
    assert clean(hindi, languages=[])[0] == clean(hindi)[0] == [hindi], "the filter is off by default"
    assert clean(hindi, language="gom")[0] == [hindi], "the configuration knows better"
    assert clean(GOOD, "It is raining today and we are at home.", languages=["mr"]) == ([GOOD], {"wrong_script": 1})


def test_repetitions_in_a_document() -> None:
    refrain = "आला आला पाऊस आला, गाऊ या आपण सारे गाणे पावसाचे, नाचू या अंगणात आणि भिजू या"
    assert clean(GOOD, GOOD, refrain, GOOD) == ([GOOD, refrain, GOOD], {"repeated_in_document": 1})
    assert clean(refrain, GOOD, refrain, "हो.", refrain) == ([refrain, GOOD, refrain, "हो."], {"repeated_in_document": 1})
    assert clean("हो.", "हो.")[0] == ["हो.", "हो."]
    assert clean(GOOD, GOOD, duplicates=False)[0] == [GOOD, GOOD]


def test_the_short_lines_of_an_old_font_go_with_the_long_ones() -> None:
    lines = [stored_in(KRUTI_DEV, text) for text in (GOOD, "नमस्कार", GOOD + " हो", GOOD + " आणि")]
    assert clean(*lines) == ([], {"legacy_font": 4})


def conversation(*contents: str, **settings: object) -> tuple[list[str], dict[str, int]]:
    messages = [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]
    log = Log()
    found = clean_document(RawDocument("a", 1, "auto", messages=messages), CleanConfig(**{"preset": "web", **settings}), log)  # type: ignore[arg-type]
    return ([message["content"] for message in found.messages] if found else []), dict(log.counts)


def test_conversations() -> None:
    assert conversation("काय &amp; कसं?", "<p>बरं आहे.</p>\n\n१२", "????") == (
        ["काय & कसं?", "<p>बरं आहे.</p>\n१२"],
        {"entities": 1, "unanswered": 1, "rulers": 1},
    )
    assert conversation("किती?", "४२")[0] == ["किती?", "४२"], "a number is an answer"
    assert conversation("काय?", "अ\ufffdब") == ([], {"broken_unicode": 1})
    assert conversation("काय?", "उसने कहा कि वह आज नहीं आएगा।", languages=["mr", "en"]) == ([], {"wrong_language": 1})
    assert conversation("brb lolz xkcd ftw qwz", "haha k thx bbl gtg")[0], "chat looks strange, and stays"
    assert conversation("काय?", "...") == ([], {"no_answer": 1})


def test_every_rule_has_its_sentence() -> None:
    assert set(CHANGED) == set(CHANGES) - {"unanswered", "unwrapped", "split_long"}
    assert not set(CHANGES) & set(REJECTIONS)
    assert set(REJECTED) <= set(REJECTIONS)


def test_every_rule_obeys_a_setting_that_exists() -> None:
    assert set(SETTINGS) <= set(CHANGES) | set(REJECTIONS)
    companions = {"preset", "phone_regions", "split_long", "quality_words", "short_tokens", "long_tokens"}
    assert set(SETTINGS.values()) == set(CleanConfig.model_fields) - companions


def test_examples_do_not_cut_letters_and_do_not_show_what_is_masked() -> None:
    log = Log()
    before = "क्षणोक्षणी मैत्रीण आणि लक्ष्मी म्हणाल्या: anita.p@example.org किंवा ९८२२०१२३४५ वर कळवा"
    changes: list[tuple[str, str, str]] = []
    assert clean_text(before, CleanConfig(preset="web"), changes)[1] is None
    for rule, old, new in changes:
        log.change(rule, "a", 1, old, new)
    assert {"emails", "phones"} <= set(log.counts)
    shown = [example["before"] for rule in ("emails", "phones") for example in log.examples[rule]]
    assert not any("anita" in text or "example.org" in text or "०१२३" in text for text in shown)
    assert all(text[0] == "…" and not unicodedata.category(text[1]).startswith("M") for text in shown)
    assert "an•••.•@•••••••.•••" in shown[0] and "९८••••••••" in shown[1]


def test_logs_of_parts_add_up_to_the_log_of_the_whole() -> None:
    lines: list[bytes] = []
    whole, first, second = Log(write=lines.append), Log(), Log()
    for number in range(5):
        for log in (whole, first if number < 2 else second):
            log.change("spaces", "a", number, "x  y", "x y")
            log.reject(Rejected("a", number, "too_short", "क" * 600, rows=2))
    first.add(second)
    assert first.report() == whole.report()
    assert whole.report()["too_short"] == {
        "rule": REJECTIONS["too_short"],
        "setting": "data.clean.min_chars",
        "rejected": 10,
        "characters": 3000,
        "examples": first.examples["too_short"],
    }
    assert whole.report()["mojibake"]["changed"] == 0, "a rule without work is in the report too"
    assert len(lines) == 5 and len(lines[0]) < 2000


def test_the_page_about_data_names_every_rule_and_setting() -> None:
    page = (DOCS / "data.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_0-9MB]+)`", page))
    assert set(CHANGES) | set(REJECTIONS) <= named
    assert set(SETTINGS.values()) <= named
