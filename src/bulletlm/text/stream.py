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
    """The text of tokens that come one by one, in pieces made of whole letters.

    A letter is held back until the next one begins: a UTF-8 character may lack bytes, a Devanagari letter (or any other
    with combining signs) may still get a vowel sign, or a virama and another consonant. Text that may become a stop string
    is held back until it is one, or is not.

    Args:
        tokenizer: what the ids mean.
        stop: strings that end the text; the first one that is complete counts, and is not given out.

    Attributes:
        held: text that is not given out yet.
        stopped: whether there was a stop string; nothing more comes then.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.held = ""
        self.stopped = False
        self._stop = stop
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        """Take one token; give what is sure to be whole now, often nothing."""
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
        """What was held back, now that no more tokens come. Bytes that are not a whole character are left out."""
        held, self.held = self.held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    return next((n for n in range(min(len(stop), len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def _letter_at_or_before(text: str, limit: int) -> int:
    """The last place up to `limit` where a letter of `text` begins."""
    return next((i for i in range(limit, 0, -1) if _begins_letter(text[i - 1], text[i])), 0)


def _begins_letter(before: str, character: str) -> bool:
    """Whether a new letter (an extended grapheme cluster, for our purposes) begins at `character`."""
    if unicodedata.category(character).startswith("M") or character in JOINERS:
        return False
    if before == ZERO_WIDTH_JOINER:
        return False
    joined = unicodedata.combining(before) == VIRAMA and character.isalpha()
    return not joined and (before, character) != ("\r", "\n")
