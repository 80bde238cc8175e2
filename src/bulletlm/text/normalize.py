"""Text normalization, the same for training text and prompts."""

import re
import unicodedata
from collections.abc import Callable, Collection

from bulletlm.text.code import code_lines

_VIRAMA = "\u094d\u09cd\u0a4d\u0acd\u0b4d\u0bcd\u0c4d\u0ccd\u0d4d\u0dca"
_INDIC = re.compile("[\u0900-\u0dff]")
_JOINING = re.compile(
    "[\u0600-\u08ff\ufb50-\ufdff\ufe70-\ufefc"  # Arabic, Syriac, Thaana, N'Ko, Mandaic
    "\u0f00-\u109f\u1780-\u18af\u1900-\u1cff\ua800-\uabff"  # Tibetan, Myanmar, Khmer, Mongolian, scripts of South-East Asia
    "\U00010a00-\U00011fff\U0001e900-\U0001e95f]"
)
"""Characters of scripts whose letters join or stack, except the scripts of India: joiners between two of them are significant."""

_WITHOUT_SPACES = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\ua9e0-\ua9ff\uaa60-\uaa7f]")
"""Thai, Lao, Myanmar, Khmer, Tai scripts: U+200B marks where a word ends."""

_MONGOLIAN = re.compile("[\u1800-\u18af]")
_EMOJI = re.compile("[\u2190-\u2bff\ufe0f\U0001f000-\U0001faff]")
_INVISIBLE = "\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"
_CONTROLS = "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufff9-\ufffb\ufffe\uffff"
_SPACES = "\t\n\x0b\x0c\r\x1c-\x1f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_SPELLINGS = (
    ("\u0905\u0945", "\u0972"),  # the vowel of अॅप, before it had a code point: ॲप
    ("\u0906\u0945", "\u0911"),  # आॅफिस: ऑफिस
    ("\u0905\u093e", "\u0906"),  # अाई: आई
    ("\u0905\u094b", "\u0913"),  # अोठ: ओठ
    ("\u0905\u094c", "\u0914"),
    ("\u0906\u0947", "\u0913"),
    ("\u0906\u0948", "\u0914"),
    ("\u090f\u0947", "\u0910"),  # एेक: ऐक
    ("\u093e\u0945", "\u0949"),  # काॅफी: कॉफी
    ("\u093e\u0947", "\u094b"),
    ("\u093e\u0948", "\u094c"),
    ("\u0930\u094d\u200d", "\u0931\u094d"),  # eyelash ra, दुसर्‍या: दुसऱ्या
    ("\u0931\u094d\u200d", "\u0931\u094d"),
)
"""Two encodings of one Devanagari letter that NFC does not unify; the second is today's standard."""

MOST_SIGNS = 30
"""Maximum number of consecutive combining characters; no writing system needs more."""

_TWO_SPELLINGS = re.compile("[\u0905\u0906\u090f\u093e][\u093e\u0945\u0947\u0948\u094b\u094c]|\u094d\u200d")
_BROKEN = re.compile(r"[\ud800-\udfff]|(?<=\S)[\x80-\x84\x86-\x9f](?=\S)")
_CONTROL = re.compile(f"[{_CONTROLS}]")
_ZERO_WIDTH = re.compile(f"[{_INVISIBLE}\u200c\u200d]+")
_SPACE = re.compile(f"[ {_SPACES}]+")


def is_broken(text: str) -> bool:
    """Whether characters have been lost: U+FFFD, an unpaired surrogate, or a control character of a legacy code page inside a word."""
    return "\ufffd" in text or (not text.isprintable() and bool(_BROKEN.search(text)))


def normalize_line(text: str, changed: Callable[[str, str, str], None] | None = None, skip: Collection[str] = ()) -> str:
    """Normalize a paragraph: NFC, no control and stray invisible characters, single spaces, no spaces at the ends.

    Normalizing twice changes nothing more.

    Args:
        changed: called with the rule, the text before it and after it, for each rule that changed something.
        skip: rules that are not applied.
    """
    if _is_plain(text):
        return text
    while True:  # a second pass has an effect only on unusual strings of stacked marks
        start = text
        for rule, apply in _STEPS:
            after = text if rule in skip else apply(text)
            if after != text:
                if changed:
                    changed(rule, text, after)
                text = after
        if text == start:
            return text


def _is_plain(text: str) -> bool:
    """Whether no step can have an effect: true for most text, and ten times faster than the steps."""
    return (
        text.isprintable()  # no control or invisible characters, no spaces but U+0020
        and "  " not in text
        and text[:1] != " "
        and text[-1:] != " "
        and not _TWO_SPELLINGS.search(text)
        and unicodedata.is_normalized("NFC", text)
    )


def normalize(text: str, changed: Callable[[str, str, str], None] | None = None, skip: Collection[str] = ()) -> str:
    """`normalize_line` for every line of a text; empty lines are left out.

    Code (`code_lines`) keeps its spaces, and between fences its empty lines.
    """
    lines = text.splitlines()
    kept: list[str] = []
    for line, code in zip(lines, code_lines(lines), strict=True):
        after = normalize_code(line, changed, skip) if code else normalize_line(line, changed, skip)
        if after or (code and kept):
            kept.append(after)
    return "\n".join(kept)


def normalize_code(line: str, changed: Callable[[str, str, str], None] | None = None, skip: Collection[str] = ()) -> str:
    """`normalize_line` for a line of code: spaces stay, except at its end."""
    text = normalize_line(line, changed, [*skip, "spaces"])
    if "spaces" in skip:
        return text
    after = text.rstrip()
    if after != text and changed:
        changed("spaces", text, after)
    return after


def _one_spelling(text: str) -> str:
    for written, standard in _SPELLINGS:
        text = text.replace(written, standard)
    return text


def _nfc(text: str) -> str:
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", _unstacked(text))


def _unstacked(text: str) -> str:
    """At most MOST_SIGNS combining characters in a row, as in the Stream-Safe Text Format of UAX #15.

    Sorting them into canonical order takes quadratic time: half a million would take hours.
    """
    kept, marks = [], 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= MOST_SIGNS:
            kept.append(character)
    return "".join(kept)


def _remove_zero_width(text: str) -> str:
    def keep(run: re.Match[str]) -> str:
        before, after = text[max(run.start() - 1, 0) : run.start()], text[run.end() : run.end() + 1]
        meant = [character for character in run[0] if character in _MEANT and _means_something(character, before, after)]
        return meant[-1] if meant else ""

    return _ZERO_WIDTH.sub(keep, text)


_MEANT = "\u200c\u200d\u200b\u180e"


def _means_something(character: str, before: str, after: str) -> bool:
    """Whether an invisible character between two others changes a letter, an emoji or the end of a word."""
    if character == "\u200b":
        return bool(_WITHOUT_SPACES.match(before) and _WITHOUT_SPACES.match(after))
    if character == "\u180e":
        return bool(_MONGOLIAN.match(before) and _MONGOLIAN.match(after))
    if before and before in _VIRAMA:
        # With ZWJ a half letter or, in Malayalam, a letter without its vowel, which can also end a word.
        return bool(_INDIC.match(after)) or (character == "\u200d" and _INDIC.match(before) is not None)
    if after and after in _VIRAMA:
        return bool(_INDIC.match(before))  # Bengali ya-phalaa, Kannada repha, Sinhala touching letters
    if character == "\u200d" and _EMOJI.match(before) and _EMOJI.match(after):
        return True
    return bool(_JOINING.match(before) and _JOINING.match(after))


_STEPS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("byte_order_mark", lambda text: text.replace("\ufeff", "")),
    ("control", lambda text: _CONTROL.sub("", text)),
    ("zero_width", _remove_zero_width),
    ("nfc", _nfc),
    ("spelling", _one_spelling),
    ("spaces", lambda text: _SPACE.sub(" ", text).strip(" ")),
)
NORMALIZATIONS = tuple(rule for rule, _ in _STEPS)
"""Names of the rules of `normalize_line`, in order."""


def visible(text: str) -> str:
    """Text for display: invisible characters are written as <U+200B>."""
    return _UNSEEN.sub(lambda found: f"<U+{ord(found[0]):04X}>", text)


_UNSEEN = re.compile(f"[{_CONTROLS}{_SPACES}{_INVISIBLE}\u200c\u200d\ufeff\ud800-\udfff]")
