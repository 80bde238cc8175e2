"""Text decoded with the wrong encoding: mojibake, private-use characters, and legacy Devanagari fonts mapped to Latin letters."""

import re
from collections.abc import Sequence

from bulletlm.data.language import ENGLISH_WORDS

_MOJIBAKE = re.compile("à[¤¥]|â[\x80€]|[ÃÂ][\x80-\xbf\u0152-\u017e\u02c6\u02dc\u2013-\u203a\u20ac\u2122]|ð[\x9fŸ]")
"""UTF-8 that was decoded as Latin-1 or cp1252: Devanagari, quotes and dashes, accented letters, emoji."""

_LATIN_1 = re.compile("[\x80-\xff]")

_PRIVATE = re.compile("[\ue000-\uf8ff]|[\U000f0000-\U0010ffff]")
_BULLETS = re.compile("[\uf020-\uf02f\uf06e-\uf077\uf0a7\uf0a8\uf0b7\uf0d8-\uf0e8\uf0f0-\uf0fe]|(?<!\\S)[\ue000-\uf8ff](?!\\S)")
"""Bullets, arrows and ticks of the Symbol and Wingdings fonts, as office programs write them; or a single private-use character."""


def has_mojibake(text: str) -> bool:
    """Whether `text` has sequences that are typical of UTF-8 decoded with another code page."""
    suspect = not text.isascii() and ("à" in text or "â" in text or "Ã" in text or "Â" in text or "ð" in text)
    return suspect and bool(_MOJIBAKE.search(text))


def mend_mojibake(text: str) -> str:
    """Repair mojibake with ftfy; `text` stays unchanged if some mojibake would remain. Quotes and ligatures are not changed."""
    if not has_mojibake(text):
        return text
    from ftfy import TextFixerConfig, fix_encoding

    mended = str(fix_encoding(text, TextFixerConfig(uncurl_quotes=False, explain=False)))
    # Each repair replaces two or more characters by one; if most Latin-1 letters stay, they are something else, such as a legacy font.
    good = not has_mojibake(mended) and 2 * len(_LATIN_1.findall(mended)) <= len(_LATIN_1.findall(text))
    return mended if good else text


def remove_private_bullets(text: str) -> str:
    """`text` without private-use characters that represent bullets."""
    return _BULLETS.sub(" ", text) if _PRIVATE.search(text) else text


def has_private_letters(text: str) -> bool:
    """Whether `text` has a private-use character: a letter that only one font can display."""
    return bool(_PRIVATE.search(text))


# The most common words of Marathi and Hindi as Kruti Dev and Shivaji store them: आहे आणि नाही या व हे मध्ये होते त्या करून है के में ...
_LEGACY_WORDS = frozenset(
    """
    vkgs vkgsr vkf.k ukgh ;k o gs rs rh gk rks e/;s gksrs gksrk gksrh R;k R;kauh R;kP;k d#u d:u lkBh dkj.k Eg.kwu fdaok ;sFks vls vlk vlh
    dk; dsys dsyk dsyh dj.ks dj.;kr >kys >kyk >kyh gS gSa ds esa dh ls vkSj dks ugha ij Hkh fd ;g og Fkk Fkh jgk djus fy, mUgksaus fd;k x;k
    Aaho Aahot AaiNa naahI yaa tao %yaa maQyao haoto haota haotI k$na saazI kahI Asao Asaa kaya kolao kolaI JaalaI Jaalao mhNaUna ikMvaa
    yaoqao Aapalyaa tyaacyaa
    """.split()
)
_ODD_WORD = re.compile(
    "[a-z][A-Z]|[A-Za-z]['\";,\\[\\]{}\\\\^~`+=<>|$%#@*_!?:./&()-]+[A-Za-z]|^[;'\"{\\[=/+>-]+[A-Za-z]|[A-Za-z]+[\\[{;%$+\\\\|<=]$|[¡-¿×÷]|É"
)
_PLAIN_COMPOUND = re.compile(
    "^[A-Z]?[a-z]+(?:[-/'’.][A-Za-z]?[a-z]*)+$|https?:|www\\.|@|^[A-Za-z]+[.,:;!?]+$|^\\(?[A-Z]+(?:[-/.][A-Z]+)*\\)?s?$"
)
_LATIN_LETTER = re.compile("[A-Za-z\u00a1-\u00ff]")
_DEVANAGARI = re.compile("[\u0904-\u0939]")
_UPPER_LETTERS = re.compile("[\u00a1-\u00ff]")
_ASCII_LETTERS = re.compile("[A-Za-z]+")
_PUNCTUATION = ".,;:!?'\"()[]“”‘’"

_ENGLISH_PAIRS = frozenset(
    """
    ab ac ad ag ai ak al am an ap ar as at au av aw ay ba be bl bo br bu by ca ce ch ci ck cl co cr ct cu da de di do dr ds ea ec
    ed ee ef eg ei el em en ep er es et ev ew ex ey fa fe ff fi fo fr ft fu ga ge gh gi go gr ha he hi ho ht hu ia ic id ie if ig
    il im in io ir is it iv ke ki kn la ld le lf li ll lo ls ly ma me mi mo mp mu my na nc nd ne ng ni nk nl no ns nt ny oc od of
    ok ol om on oo op or os ot ou ov ow pa pe pi pl po pp pr qu ra rd re ri rm rn ro rr rs rt ru ry sa sc se sh si so sp ss st su
    ta te th ti tl to tr ts tt tu ty uc ue ug ul um un up ur us ut ve vi wa we wh wi wn wo ye yo ys
    """.split()
)
"""The 200 most common letter pairs: 94 % of the pairs in English, 79 % in romanised Marathi, 51 % in Shivaji, 24 % in Kruti Dev."""

_ENGLISH = re.compile(" (?:the|and|of|was|is|you|his|her) ")
"""A quick test: nearly every longer English line has one of these words, and no other language has them."""

_CHARACTERS_LOOKED_AT = 1_000
_PAIRS_EXPECTED = 0.7
_PAIRS_NEEDED = 15
WORDS_NEEDED = 4
_STRANGE = 0.5
_FUNCTION_WORDS = 0.08


def is_legacy_font(text: str, least_words: int = WORDS_NEEDED) -> bool:
    """Whether Latin letters in `text` are Devanagari in a legacy font: Kruti Dev, Shivaji or DVB-TT.

    Such text has letter pairs that do not occur in languages with Latin script, symbols and capitals inside words, some of the
    common words of such a font, and no English function words. Fewer than `least_words` words are not enough for a decision.
    """
    if _ENGLISH.search(text) or _DEVANAGARI.search(text):
        return False
    text = text[:_CHARACTERS_LOOKED_AT]
    words = [word for word in text.split() if _LATIN_LETTER.search(word)]
    if len(words) < least_words:
        return False
    english = sum(word.strip(_PUNCTUATION).lower() in ENGLISH_WORDS for word in words)
    if english > _FUNCTION_WORDS * len(words):
        return False
    known = sum(word in _LEGACY_WORDS for word in words)
    odd = sum(_ODD_WORD.search(word) is not None and not _PLAIN_COMPOUND.search(word) for word in words)
    return (odd + 2 * known) / len(words) + 2 * _strange_pairs(text) >= _STRANGE


LEGACY_FONT = (
    "Devanagari in a legacy font (Kruti Dev, Shivaji, DVB-TT), stored as Latin letters: convert it to Unicode with a converter "
    "for that font"
)
"""Why a file of a legacy font is not read, and what to do."""

_LINES_JUDGED = 400
_LEGACY_LINES = 0.6
_KNOWN_WORDS = 0.02
_LEAST_LINES = 3


def is_legacy_file(lines: Sequence[str]) -> bool:
    """Whether the lines of a file are Devanagari in a legacy font.

    Single lines of source code, ITRANS or name lists look similar. A file must also have the most common words of Marathi or Hindi
    as such a font stores them, or the upper letters that represent Devanagari.
    """
    judged = [line for line in lines if len(line.split()) >= WORDS_NEEDED][:_LINES_JUDGED]
    if len(judged) < _LEAST_LINES or sum(map(is_legacy_font, judged)) < _LEGACY_LINES * len(judged):
        return False
    words = " ".join(judged).split()
    known = sum(word.strip(_PUNCTUATION) in _LEGACY_WORDS for word in words)
    upper = sum(len(_UPPER_LETTERS.findall(word)) >= 2 for word in words)
    return known >= _KNOWN_WORDS * len(words) or upper >= 0.5 * len(words)


def legacy_words(text: str) -> tuple[int, int, int]:
    """Return how many words of `text` are common words of legacy fonts, how many of these are distinct, and the number of all words."""
    words = text.split()
    known = [word for word in words if len(word) > 1 and word in _LEGACY_WORDS]
    return len(known), len(set(known)), len(words)


def _strange_pairs(text: str) -> float:
    """How far the share of common English letter pairs is below the share expected of any language in Latin script."""
    pairs = [run[n].lower() + run[n + 1] for run in _ASCII_LETTERS.findall(text) for n in range(len(run) - 1) if not run.isupper()]
    if len(pairs) < _PAIRS_NEEDED:
        return 0.0
    return max(_PAIRS_EXPECTED - sum(pair in _ENGLISH_PAIRS for pair in pairs) / len(pairs), 0.0)
