"""Automatic checks of one answer: loops, broken letters, language, and whether it is about the question."""

import re
import unicodedata

from bulletlm.data.language import COMMON_WORDS, detect
from bulletlm.data.shingles import words_of
from bulletlm.evaluate.training_text import real_words

LOOP_WORDS = 6
"""A loop has at least this many words."""
LOOP_TIMES = 3
LONGEST_PERIOD = 12
_LETTERS_LOOP = re.compile(r"(?=[^\W\d_])(\S{1,8}?)\1{9,}")
_SENTENCE_END = re.compile(r"[.!?।॥\n]+")

STEM = 4
"""Words with the same first letters count as the same word, because Marathi words change at their end."""


def is_loop(text: str) -> bool:
    """Whether the text repeats itself: words or letters directly one after the other, or one sentence LOOP_TIMES times."""
    words = text.lower().split()
    for period in range(1, LONGEST_PERIOD + 1):
        same = 0
        for i in range(period, len(words)):
            same = same + 1 if words[i] == words[i - period] else 0
            if same + period >= max(LOOP_TIMES * period, LOOP_WORDS):
                return True
    sentences = [" ".join(real_words(part)) for part in _SENTENCE_END.split(text)]
    long = [sentence for sentence in sentences if len(sentence.split()) >= LOOP_TIMES]
    return any(long.count(sentence) >= LOOP_TIMES for sentence in set(long)) or bool(_LETTERS_LOOP.search(text))


def is_in_language(text: str, language: str) -> bool:
    """Whether most of the text is in `language`; a text without letters is in none."""
    return detect(text) == language


def content_words(text: str) -> list[str]:
    """The words of `text` that are not function words, shortened to STEM letters."""
    return [stem(word) for word in real_words(text) if word not in COMMON_WORDS and len(word) > 2]


def stem(word: str) -> str:
    """The first STEM letters of a word with the marks that belong to them."""
    count = 0
    for n, character in enumerate(word):
        if unicodedata.category(character)[0] != "M":
            count += 1
            if count > STEM:
                return word[:n]
    return word


def shares_topic(question: str, answer: str, about: tuple[str, ...] = ()) -> bool | None:
    """Whether the answer has a content word of the question, or one of the words `about`; None if there is none to look for."""
    wanted = {*content_words(question), *(stem(word) for text in about for word in real_words(text))}
    return bool(wanted & {stem(word) for word in real_words(answer)}) if wanted else None


def contains_answer(text: str, answer: str) -> bool:
    """Whether the words of `answer` stand in `text` one after the other, or, if there are more than three, most of its content words."""
    words, wanted = words_of(text), words_of(answer)
    if len(wanted) <= 3:
        return any(words[i : i + len(wanted)] == wanted for i in range(len(words) - len(wanted) + 1))
    content = set(content_words(answer)) or {stem(word) for word in wanted}
    found = content & {stem(word) for word in words}
    return len(found) >= 0.6 * len(content)
