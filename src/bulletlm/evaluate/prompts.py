"""The prompts of the evaluation."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from bulletlm.errors import DataError
from bulletlm.files import read_regular

PACKAGED = Path(__file__).with_name("prompts.jsonl")
"""10 short questions in Marathi and 10 in English, 10 long philosophical ones, 5 translations each from English and from Marathi."""


@dataclass(frozen=True)
class Prompt:
    """One line of a prompt file.

    Attributes:
        prompt: the first message of the user.
        language: code of the language of the answer, for example "mr".
        kind: groups prompts in the report.
        about: words of which a fitting answer has at least one, in addition to those of the prompt.
        words: fewest and most words of a fitting answer; None if any length fits.
        answer: what a correct answer contains; the report counts wrong answers.
        reference: a good answer, such as the translation; the report measures chrF against it.
    """

    prompt: str
    language: str
    kind: str
    about: tuple[str, ...] = ()
    words: tuple[int, int] | None = None
    answer: str | None = None
    reference: str | None = None


def load_prompts(path: str | Path | None = None) -> list[Prompt]:
    """Read a .jsonl file with one {"prompt", "language", "kind"} per line, and the traits of `Prompt`; None reads the packaged list.

    Raises:
        DataError: the file cannot be read or has no prompt, or a line is not such an object; the message names the line.
    """
    path = PACKAGED if path is None else Path(path)
    try:
        lines = read_regular(path).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DataError(f"cannot read the prompts {path} ({reason}): check evaluate.prompts") from None
    prompts = [_parse(line, f"{path} line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not prompts:
        raise DataError(f"{path} has no prompts: add lines such as {_EXAMPLE}")
    return prompts


def choose_samples(prompts: list[Prompt], count: int, languages: Collection[str]) -> list[int]:
    """Indices of `count` example prompts: the languages in turn, each in the order of the list.

    With the list of the package, 4, and a model of both languages: two short questions in Marathi and two in English.

    Args:
        prompts: all prompts.
        count: how many are chosen at most.
        languages: codes of the languages that the model has learned. Prompts whose answer is in another one are not chosen, unless
            there are no others.
    """
    queues: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        queues.setdefault(prompt.language, []).append(index)
    queues = {language: queue for language, queue in queues.items() if language in languages} or queues
    rounds = zip_longest(*queues.values())
    return [index for taken in rounds for index in taken if index is not None][:count]


_NEEDED = {"prompt", "language", "kind"}
_OPTIONAL = {"about", "words", "answer", "reference"}
_TRAITS = "about, words, answer, reference"
_EXAMPLE = '{"prompt": "चहा घेणार का?", "language": "mr", "kind": "short"}'


def _parse(line: str, where: str) -> Prompt:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise DataError(f"{where} is not JSON: write one object per line, such as {_EXAMPLE}") from None
    if not isinstance(value, dict) or not _NEEDED <= set(value) <= _NEEDED | _OPTIONAL:
        raise DataError(f"{where} must have exactly the keys prompt, language and kind (and may have {_TRAITS}), as in {_EXAMPLE}")
    about, words = value.pop("about", []), value.pop("words", None)
    if not isinstance(about, list) or not all(isinstance(word, str) and word.strip() for word in about):
        raise DataError(f'{where}: about must be a list of words, such as ["चहा", "दूध"]')
    if words is not None and not (
        isinstance(words, list) and len(words) == 2 and all(type(n) is int for n in words) and 0 <= words[0] <= words[1]
    ):
        raise DataError(f"{where}: words must be the fewest and the most words of a good answer, such as [2, 40]")
    for key, text in [*value.items(), *(("about", word) for word in about)]:
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{where}: {key} must be a string that is not empty, as in {_EXAMPLE}")
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise DataError(f"{where}: {key} contains a lone surrogate (\\ud800 to \\udfff), which is not a character: remove it")
    return Prompt(**value, about=tuple(about), words=(words[0], words[1]) if words else None)
