"""The prompts of the evaluation."""

import json
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from bulletlm.errors import DataError
from bulletlm.files import read_regular

PACKAGED = Path(__file__).with_name("prompts.jsonl")
"""15 short questions (10 Marathi, 5 English), 10 long philosophical ones, and 5 translations from English to Marathi."""


@dataclass(frozen=True)
class Prompt:
    """One line of a prompt file.

    `language` is the language code of the answer (for example "mr"); `kind` groups prompts in the report.
    """

    prompt: str
    language: str
    kind: str


def load_prompts(path: str | Path | None = None) -> list[Prompt]:
    """Read a .jsonl file with one {"prompt", "language", "kind"} per line; None reads the list in the package.

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


def choose_samples(prompts: list[Prompt], count: int) -> list[int]:
    """Indices of `count` example prompts: the languages in turn, each in the order of the list.

    With the list of the package and 4: two short questions in Marathi and two in English.
    """
    queues: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        queues.setdefault(prompt.language, []).append(index)
    rounds = zip_longest(*queues.values())
    return [index for taken in rounds for index in taken if index is not None][:count]


_EXAMPLE = '{"prompt": "चहा घेणार का?", "language": "mr", "kind": "short"}'


def _parse(line: str, where: str) -> Prompt:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise DataError(f"{where} is not JSON: write one object per line, such as {_EXAMPLE}") from None
    if not isinstance(value, dict) or set(value) != {"prompt", "language", "kind"}:
        raise DataError(f"{where} must have exactly the keys prompt, language and kind, as in {_EXAMPLE}")
    for key, text in value.items():
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{where}: {key} must be a string that is not empty, as in {_EXAMPLE}")
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise DataError(f"{where}: {key} contains a lone surrogate (\\ud800 to \\udfff), which is not a character: remove it")
    return Prompt(**value)
