"""Splits texts into sentences, the unit that translation models work on, and joins the sentences again."""

import re

# Not after one or two characters and a full stop: "Dr. Rao", "J. M. Barrie", "डॉ. पाटील".
_END = re.compile("((?:[!?।॥…]|(?<![\\s(]\\S)(?<![\\s(]\\S\\S)(?<!^\\S)(?<!^\\S\\S)\\.)[\"'”’»)\\]]*[ ]+|\n+)")


def split_sentences(text: str) -> list[str]:
    """`text` in pieces that joined give it back: sentences at even places, what stands between them (white space, end marks' trailing
    space) at odd ones."""
    parts = _END.split(text)
    pieces = []
    for sentence, end in zip(parts[::2], [*parts[1::2], ""], strict=True):
        mark = end.rstrip(" \n")
        pieces += [sentence + mark, end[len(mark) :]]
    return pieces[:-1]


def words_only(text: str) -> str:
    """Lower-case words with one space between, without punctuation: texts that differ less count as equal."""
    return " ".join(_NOT_WORD.sub(" ", text.casefold()).split())


_NOT_WORD = re.compile(r"[^\w\u0900-\u0963\u0966-\u0dff\u200c\u200d]+|_")
