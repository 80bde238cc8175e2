"""Detects the encoding of a file from its bytes: UTF-8, UTF-16, a legacy code page, or no encoding that is certain enough."""

import re
import unicodedata

_SAMPLE_BYTES = 1 << 16
_LANGUAGE_CHARACTERS = 3_000

_BYTE_ORDER_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
    (b"\xef\xbb\xbf", "utf-8"),
)

_PAGES = {
    "cp1252": "fr de es pt sv da fi nl is it ca en nb nn no id ms sw eu ga gl af et sq",
    "cp1250": "pl cs hu hr ro sk sl bs sq",
    "iso8859_2": "pl cs hu hr ro sk sl bs",
    "cp1254": "tr az",
    "cp1257": "lt lv et",
    "cp1258": "vi",
    "cp1251": "ru uk bg sr be mk mn kk",
    "koi8_r": "ru",
    "koi8_u": "uk",
    "cp1253": "el",
    "cp1255": "he",
    "cp1256": "ar fa ur",
    "cp874": "th",
    "shift_jis": "ja",
    "euc_jp": "ja",
    "gb18030": "zh",
    "big5": "zh",
    "cp949": "ko",
}
"""Code pages that were in common use, and the languages that used each of them."""

_LATIN_PAGES = ("cp1252", "cp1250", "iso8859_2", "cp1254", "cp1257", "cp1258")
_SAME_PAGE = {
    "iso8859_1": "cp1252",
    "latin_1": "cp1252",
    "iso8859_15": "cp1252",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "euc_kr": "cp949",
    "shift_jis_2004": "shift_jis",
    "cp932": "shift_jis",
    "tis_620": "cp874",
    "iso8859_11": "cp874",
    "iso8859_9": "cp1254",
    "iso8859_5": "cp1251",
    "mac_cyrillic": "cp1251",
    "big5hkscs": "big5",
    "cp950": "big5",
    "iso8859_8": "cp1255",
    "iso8859_7": "cp1253",
    "iso8859_6": "cp1256",
}
"""Other names that charset-normalizer gives for pages of the table above, or for similar pages that differ in a few characters."""

_CERTAIN = 0.9
_SIGNS = frozenset("“”‘’‚„…–—«»€£§°©®·×½¼¾²³º¡¿•™\xa0")
_RARE_LETTERS = "ÿþÞðÐ"
"""Letters that few languages use; they are often the result of decoding with the wrong code page."""

_WORD = re.compile(r"[^\W\d_]+")
_SIGN_IN_WORD = re.compile("[^\\W\\d_][\xa1-\xbf\xd7\xf7‹›„…†‡‰•][^\\W\\d_]")

_ISCII_LETTERS = bytes([*range(0xA4, 0xD9), *range(0xDA, 0xEB)])
_ISCII_VOWEL_SIGNS = bytes([*range(0xDA, 0xE9)])


def marked_encoding(beginning: bytes) -> str | None:
    """The codec that a byte order mark names, or None."""
    return next((codec for mark, codec in _BYTE_ORDER_MARKS if beginning.startswith(mark)), None)


def wide_encoding(beginning: bytes) -> str | None:
    """The codec, such as "utf-16-le", of UTF-16 or UTF-32 text without a byte order mark, or None."""
    if b"\0" not in beginning:
        return None
    best, most = None, 0.0
    for codec, width in (("utf-32-le", 4), ("utf-32-be", 4), ("utf-16-le", 2), ("utf-16-be", 2)):
        usable = beginning[: len(beginning) // width * width]
        try:
            text = usable.decode(codec)
        except UnicodeDecodeError as error:
            if error.end < len(usable) - 4:  # the last character may be cut
                continue
            text = usable[: error.start].decode(codec)
        if not text or any(unicodedata.category(character) in ("Cn", "Co", "Cs") or character == "\0" for character in set(text)):
            continue
        plain = sum(character in " \n\r\t.,?!" or (character.isalnum() and ord(character) < 0x250) for character in text) / len(text)
        blocks = {ord(character) >> 7 for character in text if character.isalpha()}
        score = plain + 1 / (1 + len(blocks))
        if plain and score > most:
            best, most = codec, score
    return best


def old_encoding(sample: bytes) -> str | None:
    """The code page of lines that are not UTF-8, or None where it cannot be detected with certainty.

    charset-normalizer determines the script. The code pages of the Latin script share most letters; among them, the best page is the
    one with which the text is in a language that used the page, and has letters in the positions where words need them.
    """
    from charset_normalizer import from_bytes

    sample = sample[:_SAMPLE_BYTES]
    if is_iscii(sample):
        return None
    guess = from_bytes(sample).best()
    name = _SAME_PAGE.get(guess.encoding, guess.encoding) if guess else None
    if name in _PAGES and name not in _LATIN_PAGES:
        score = _fit(sample, name)
        if score >= _CERTAIN:
            return name
    scores = {page: _fit(sample, page) for page in _LATIN_PAGES}
    best = max(scores, key=lambda page: scores[page])  # the first of equals
    return best if scores[best] >= _CERTAIN else None


def is_iscii(sample: bytes) -> bool:
    """Whether bytes look like ISCII: most of them are letters in its upper half, with vowel signs inside the words."""
    high = sample.translate(None, bytes(range(0x80)))
    visible = len(sample.translate(None, b" \t\r\n"))
    if len(high) < 8 or len(high) < 0.6 * visible:
        return False
    letters = len(high) - len(high.translate(None, _ISCII_LETTERS))
    signs = len(high) - len(high.translate(None, _ISCII_VOWEL_SIGNS))
    unused = len(high) - len(high.translate(None, bytes(range(0x80, 0xA1)) + b"\xeb\xec\xed\xee\xfb\xfc\xfd\xfe\xff"))
    words = sample.split()
    begins_with_sign = sum(word[0] in _ISCII_VOWEL_SIGNS for word in words) / max(len(words), 1)
    return letters >= 0.93 * len(high) and 0.2 <= signs / len(high) <= 0.6 and unused <= 0.02 * len(high) and begins_with_sign <= 0.1


def _fit(sample: bytes, page: str) -> float:
    """How well a code page fits `sample`: 1 if every upper byte is a letter or a common symbol, 0 if the language does not match."""
    from bulletlm.data.language import identify

    try:
        text = sample.decode(page)
    except UnicodeDecodeError as error:
        if error.start < len(sample) - 4:  # the last character may be cut
            return 0.0
        text = sample[: error.start].decode(page)
    high = [character for character in text if ord(character) > 127]
    if not high or any(unicodedata.category(character) in ("Cc", "Cn", "Co") for character in set(high)):
        return 0.0
    language = identify(text[:_LANGUAGE_CHARACTERS])
    if language not in _PAGES[page].split():
        return 0.0
    rare = "" if language in ("is", "fo") else _RARE_LETTERS
    rare = "" if language == "is" else _RARE_LETTERS
    good = sum(sign in _SIGNS or (sign not in rare and unicodedata.category(sign)[0] in "LMP") for sign in high) / len(high)
    words = _WORD.findall(text)
    odd = sum(not word.isascii() and word[1:] != word[1:].lower() and word != word.upper() for word in words)
    return float(good - (odd + len(_SIGN_IN_WORD.findall(text))) / max(len(words), 1))
