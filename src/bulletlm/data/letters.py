"""Repairs Devanagari that was broken by conversion from a legacy font.

Legacy fonts compose a letter from parts: a half letter and a vertical stroke (भ् + ा = भ), the i-sign before its consonant as
it is written, the reph after the letter that carries it. Converters that map part by part leave sequences that do not occur
in correct spelling. Each repair below was measured on 60 million characters from Maharashtra's legislature and government: of
the words that it changes, the given share becomes a word that occurs elsewhere in the corpus.
"""

import re
import unicodedata
from collections.abc import Callable

_CONSONANT = "[\u0915-\u0939\u0958-\u095f]\u093c?"
_CLUSTER = f"(?:{_CONSONANT}\u094d)*{_CONSONANT}"
_SIGN = "[\u093a\u093b\u093e-\u094c\u094e\u094f]"
_MARK = "[\u0900-\u0903]"

_VIRAMA, _REPH, _BELOW = "\u094d", "\u0930\u094d", "\u094d\u0930\u094d"
_REPH_BEFORE = f"थ{_BELOW}य|व{_BELOW}ह|ध{_BELOW}[वय]|च{_BELOW}य|ल{_BELOW}[डस]|क{_BELOW}स|स{_BELOW}थ"

# Each repair, with characters that the text must contain for the repair to apply.
_MENDS: tuple[tuple[str, re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    # The dotted circle that represents a missing letter: उद्भ्◌ावत.
    ("\u25cc", re.compile(f"(?<=[\u0904-\u0939\u0958-\u095f\u094d])\u25cc(?={_SIGN}|{_MARK})"), ""),
    # The vertical stroke that completes a half letter: उद्भ्ावत, उक्त्ा -> उद्भवत, उक्त (99.7 %); क्ष्ोत्र -> क्षेत्र; प्रस्ंग -> प्रसंग.
    ("\u094d\u093e", re.compile("\u094d\u093e"), ""),
    ("\u094d \u093e", re.compile("\u094d \u093e"), ""),
    ("\u094d\u094b", re.compile("\u094d\u094b"), "\u0947"),
    ("\u094d\u094c", re.compile("\u094d\u094c"), "\u0948"),
    ("\u094d\u0949", re.compile("\u094d\u0949"), "\u0945"),
    (_VIRAMA, re.compile(f"\u094d(?={_MARK})"), ""),
    # The i-sign before its letter: दृिष्ट -> दृष्टि, िस्थर -> स्थिर, इंिद्रयें -> इंद्रियें.
    (
        "\u093f",
        re.compile(f"(?<![\u0915-\u0939\u0958-\u095f\u093c\u094d])\u093f({_MARK}?)({_CLUSTER})(?!{_SIGN}|\u094d)"),
        "\\2\u093f\\1",
    ),
    # Anusvara before the sign it follows, or after a space: मंुबई -> मुंबई (83 %, most of the rest are names), आपे ंआप -> आपें आप.
    ("", re.compile(f"({_MARK})({_SIGN})"), r"\2\1"),
    (" \u0902", re.compile("(?<=[\u0915-\u0939\u093e-\u094c]) \u0902(?=[\u0904-\u0939])"), "\u0902 "),
    # An o-sign in two parts, a repeated sign: येाजना -> योजना, ब्लॅाक -> ब्लॉक, शाासन -> शासन.
    ("\u0947\u093e", re.compile("\u0947\u093e"), "\u094b"),
    ("\u0945\u093e", re.compile("\u0945\u093e"), "\u0949"),
    ("", re.compile(f"({_SIGN})\\1+"), r"\1"),
    # The reph written as a ra below the next letter: विद्याथ्र्यांना -> विद्यार्थ्यांना (90 %), सव्र्हे -> सर्व्हे.
    (_BELOW, re.compile(f"(?:{_REPH})?({_REPH_BEFORE})"), lambda found: f"{_REPH}{found[1][0]}{_VIRAMA}{found[1][-1]}"),
    (_BELOW, re.compile(f"पाश{_BELOW}व"), f"पा{_REPH}श{_VIRAMA}व"),
    # A superfluous ra: प्रश्र्न -> प्रश्न, विश्र्लेषण -> विश्लेषण.
    (_BELOW, re.compile(f"श{_BELOW}([नलव])"), f"श{_VIRAMA}\\1"),
)

_PAIR = re.compile(f"[\u0900-\u0903\u093a\u093b\u093e-\u094f]{_SIGN}")
_VIRAMA_MARK = re.compile(f"\u094d{_MARK}")
_INITIAL = re.compile("[^\u0900-\u0963\u0970-\u097f\u200c\u200d][\u0900-\u0902\u093a-\u093c\u093e-\u094f]")
_LONGEST_LETTER = 16
_JOINED = re.compile(f"{_VIRAMA}|\u200d|.(?=[\u200c\u200d])", re.S)
_DEVANAGARI_WORD = re.compile("[\u0900-\u0963\u0970-\u097f\u200c\u200d]+")


def is_suspect(text: str) -> bool:
    """A quick test whether `text` may need repairs; false for most text."""
    return not text.isascii() and (_BELOW in text or _has_broken(text))


def mend_letters(text: str) -> str:
    """Repair sequences that do not occur in Devanagari spelling. A second call changes nothing more."""
    if not is_suspect(text):
        return text
    while True:
        start = text
        for needed, pattern, mended in _MENDS:
            if needed in text:
                text = pattern.sub(mended, text)
        if text == start:
            return text


def broken_words(text: str) -> float:
    """Share of the Devanagari words of `text` with a sequence that does not occur in correct spelling."""
    if not _has_broken(text):
        return 0.0
    words = _DEVANAGARI_WORD.findall(text)
    return sum(map(_has_broken, words)) / max(len(words), 1)


def _has_broken(text: str) -> bool:
    """Whether a vowel sign follows another sign or a virama, or a word begins with a sign."""
    return bool(_PAIR.search(text) or _VIRAMA_MARK.search(text) or _INITIAL.search(text) or _INITIAL.match(" " + text[:1]))


def snippet(text: str, start: int, end: int) -> str:
    """`text[start:end]`, extended if it would begin or end inside a letter."""
    return text[_letter_border(text, start, -1) : _letter_border(text, end, 1)]


def _letter_border(text: str, at: int, step: int) -> int:
    for _ in range(_LONGEST_LETTER):
        if not 0 < at < len(text) or not (unicodedata.category(text[at])[0] == "M" or _JOINED.match(text, at - 1)):
            break
        at += step
    return at
