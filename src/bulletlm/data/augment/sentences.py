"""Splits texts into sentences, the unit that translation models work on, and joins the sentences again."""

import re

# No sentence ends after one or two characters and a full stop: "Dr. Rao", "J. M. Barrie", "डॉ. पाटील".
_END = re.compile("((?:[!?।॥…]|(?<![\\s(]\\S)(?<![\\s(]\\S\\S)(?<!^\\S)(?<!^\\S\\S)\\.)[\"'”’»)\\]]*[ ]+|\n+)")


def split_sentences(text: str) -> list[str]:
    """Split `text` into pieces whose concatenation is `text`: sentences at even indices, the white space between them at odd indices."""
    parts = _END.split(text)
    pieces = []
    for sentence, end in zip(parts[::2], [*parts[1::2], ""], strict=True):
        mark = end.rstrip(" \n")
        pieces += [sentence + mark, end[len(mark) :]]
    return pieces[:-1]


def words_only(text: str) -> str:
    """The words of a text in lower case, separated by one space, without punctuation; used to compare texts."""
    return " ".join(_NOT_WORD.sub(" ", text.casefold()).split())


_NOT_WORD = re.compile(r"[^\w\u0900-\u0963\u0966-\u0dff\u200c\u200d]+|_")
