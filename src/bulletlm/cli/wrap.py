"""The width of text in a terminal, and the wrapping of text between words while it is being generated."""

import unicodedata
from collections.abc import Callable

ZERO_WIDTH = ("Mn", "Me", "Cf")
"""Categories of characters that take no cell. Spacing vowel signs (Mc, as in का) take one in most terminals, in some none."""

JOINERS = "\u200c\u200d"
NO_BREAK = "\u00a0\u202f\u2060"
VIRAMA_CLASS = 9


def character_width(character: str) -> int:
    """Cells that a terminal uses at most for a character inside a text: 0, 1 or 2."""
    if character < "\u0300":
        return 1
    if unicodedata.category(character) in ZERO_WIDTH:
        return 0
    return 2 if is_wide(character) else 1


def text_width(text: str) -> int:
    """Cells that a terminal uses at most for one line of text without tabs.

    Terminals differ for conjuncts and for emoji that are joined; this is the largest of their answers, so that text which is wrapped
    by it never exceeds a line.
    """
    return len(text) if text.isascii() else sum(map(character_width, text))


def is_wide(character: str) -> bool:
    """Whether a character takes two cells; between such characters a line may break (Chinese, Japanese)."""
    return unicodedata.east_asian_width(character) in "WF"


def pad(text: str, width: int, *, left: bool = False) -> str:
    """`text` with spaces up to `width` cells, on the right or on the left."""
    spaces = " " * max(0, width - text_width(text))
    return spaces + text if left else text + spaces


class WordWrapper:
    """Breaks lines between words. Text arrives in pieces; a word is returned when it is complete or longer than a line.

    Args:
        columns: the width of the terminal; it is asked again for each word, because it can change.
        indent: cells that are in use already at the start of the first line.
    """

    def __init__(self, columns: Callable[[], int], indent: int = 0) -> None:
        self._columns = columns
        self._column, self._spaces, self._word = indent, "", ""

    def feed(self, text: str) -> str:
        """Take the next piece of text; returns what is to be printed now."""
        shown: list[str] = []
        for character in text:
            if character == "\n":
                shown.append(self.finish() + "\n")
                self._column, self._spaces = 0, ""
            elif character.isspace() and character not in NO_BREAK:
                shown.append(self.finish())
                self._spaces += "    " if character == "\t" else character
            elif is_wide(character):
                shown.append(self.finish())
                self._word = character
            else:
                self._word += character
                if text_width(self._word) >= self._width():
                    shown.append(self._place(keep_last=True))
        return "".join(shown)

    def finish(self) -> str:
        """Return the word that is not yet printed; text may continue after it."""
        return self._place(keep_last=False)

    def _width(self) -> int:
        return max(2, self._columns() - 1)  # the last cell stays free: terminals treat it in different ways

    def _place(self, keep_last: bool) -> str:
        """The pending word, after a space or a line break. With `keep_last`, its last letter stays pending: a mark may follow it."""
        word, spaces, width = self._word, self._spaces, self._width()
        if not word:
            return ""
        self._word = self._spaces = ""
        needed = text_width(spaces) + text_width(word)
        if self._column + needed <= width and not keep_last:
            self._column += needed
            return spaces + word
        if text_width(word) <= width and not keep_last:
            if not self._column:  # an indented line that is too long: the indent stays
                self._column = min(needed, width)
                return spaces + word
            self._column = text_width(word)
            return "\n" + word
        return self._place_long(word, spaces, width, keep_last)

    def _place_long(self, word: str, spaces: str, width: int, keep_last: bool) -> str:
        """A word longer than a line, broken between letters with their marks."""
        shown = ""
        if self._column:
            if self._column + text_width(spaces) < width // 2:
                shown, self._column = spaces, self._column + text_width(spaces)
            else:
                shown, self._column = "\n", 0
        letters = split_letters(word)
        if keep_last:
            self._word = letters.pop()
        for letter in letters:
            cells = text_width(letter)
            if self._column and self._column + cells > width:
                shown, self._column = shown + "\n", 0
            shown, self._column = shown + letter, self._column + cells
        return shown


def split_letters(text: str) -> list[str]:
    """Letters, each with the marks, joiners and joined letters that belong to it (नमस्ते: न, म, स्ते)."""
    letters: list[str] = []
    for character in text:
        previous = letters[-1][-1] if letters else ""
        joined = previous and (previous in JOINERS or unicodedata.combining(previous) == VIRAMA_CLASS)
        if letters and (character in JOINERS or unicodedata.category(character).startswith("M") or joined):
            letters[-1] += character
        else:
            letters.append(character)
    return letters
