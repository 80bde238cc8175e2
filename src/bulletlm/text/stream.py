"""Streaming detokenizer: emits only complete characters and complete letters, and withholds stop strings."""

import codecs
import unicodedata
from collections.abc import Sequence

from bulletlm.text.tokenizer import Tokenizer

VIRAMA = 9
"""Canonical combining class of the viramas, which join a consonant to the next one."""

JOINERS = "\u200c\u200d"
ZERO_WIDTH_JOINER = "\u200d"


class TextStream:
    """Decodes tokens one by one and returns text in complete letters.

    A letter is withheld until the next one begins: a UTF-8 character may lack bytes, a Devanagari letter (or any other
    with combining marks) may still get a vowel sign, or a virama and another consonant. Text that may become a stop string
    is withheld until it is complete or can no longer match.

    Args:
        tokenizer: decodes the ids.
        stop: strings that end the text; the first complete one ends it and is not returned.

    Attributes:
        held: text that has not been returned yet.
        stopped: whether a stop string was found; no more text is returned then.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.held = ""
        self.stopped = False
        self._stop = stop
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        """Add one token; return the text that is complete now, often ""."""
        held = self.held + self._decoder.decode(self._tokenizer.decode_bytes([token]))
        limit = len(held) - 1
        if self._stop:
            found = min((at for stop in self._stop if (at := held.find(stop)) >= 0), default=None)
            if found is not None:
                self.stopped, self.held = True, ""
                return held[:found]
            limit = min(limit, *(len(held) - _overlap(held, stop) for stop in self._stop))
        start = _letter_at_or_before(held, limit)
        self.held = held[start:]
        return held[:start]

    def finish(self) -> str:
        """Return the withheld text at the end of the tokens. Bytes of an incomplete character are left out."""
        held, self.held = self.held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    return next((n for n in range(min(len(stop), len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def _letter_at_or_before(text: str, limit: int) -> int:
    """The last position up to `limit` at which a letter of `text` begins."""
    return next((i for i in range(limit, 0, -1) if _begins_letter(text[i - 1], text[i])), 0)


def _begins_letter(before: str, character: str) -> bool:
    """Whether a new letter (an extended grapheme cluster, for our purposes) begins at `character`."""
    if unicodedata.category(character).startswith("M") or character in JOINERS:
        return False
    if before == ZERO_WIDTH_JOINER:
        return False
    joined = unicodedata.combining(before) == VIRAMA and character.isalpha()
    return not joined and (before, character) != ("\r", "\n")
