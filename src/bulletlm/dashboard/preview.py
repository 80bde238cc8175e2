"""A look at the texts of the next run: python -m bulletlm.dashboard.preview, with the settings as JSON on standard input.

Reading takes seconds of processor time, and a hostile file may take more, so it is done in a process of its own with a time limit.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from bulletlm.dashboard.ask import ask
from bulletlm.errors import BulletError, DataError

TIME_LIMIT_SECONDS = 120.0

EXAMPLES = 3
"""Examples of every rule."""

RULES = 12
"""Rules that are shown, those with the most characters first."""


class Example(TypedDict):
    """A piece of text that a rule dropped (`after` is "") or changed."""

    source: str
    before: str
    after: str


class Rule(TypedDict):
    """What a rule of cleaning did to the sample."""

    name: str
    text: str
    setting: str
    dropped: bool
    rows: int
    characters: int
    examples: list[Example]


class Preview(TypedDict):
    """What was recognized.

    Attributes:
        files, bytes: number and size of the files that are read.
        kinds: number of files of each kind.
        skipped: files that are not read, with the reason.
        characters: after cleaning, projected from the sample unless `complete`.
        text_bytes: the same in bytes of UTF-8.
        languages: share of the characters in each language.
        conversations: share of the characters in conversations.
        document: median length of a document, in characters.
        documents: documents and conversations in the sample.
        complete: whether all of the text was looked at.
        rules: what the rules of cleaning did to the sample.
        beginning: the beginning of some texts, as the model will read them.
    """

    files: int
    bytes: int
    kinds: dict[str, int]
    skipped: list[dict[str, str]]
    characters: int
    text_bytes: int
    languages: dict[str, float]
    conversations: float
    document: float
    documents: int
    complete: bool
    rules: list[Rule]
    beginning: list[str]


def look(data: Mapping[str, Any], seed: int) -> Preview:
    """Look at the sources for a few seconds.

    Args:
        data: the settings data.*, as in a configuration.
        seed: of the run.

    Raises:
        DataError: a source does not exist, or holds nothing that can be read.
    """
    from bulletlm.config.schema import DataConfig
    from bulletlm.data.log import CHANGES, REJECTIONS, SETTINGS, Log
    from bulletlm.data.survey import survey
    from bulletlm.progress import SilentProgress

    log = Log()
    found = survey(DataConfig.model_validate(data), seed, SilentProgress(), log)
    characters: dict[str, int] = {}
    for counts in log.characters.values():
        for rule, count in counts.items():
            characters[rule] = characters.get(rule, 0) + abs(count)
    rules: list[Rule] = []
    for name in sorted(characters, key=lambda rule: -characters[rule])[:RULES]:
        examples: list[Example] = [
            {"source": str(each.get("source", "")), "before": each.get("before", each.get("text", "")), "after": each.get("after", "")}
            for each in log.examples.get(name, [])[:EXAMPLES]
        ]
        rules.append(
            {
                "name": name,
                "text": (CHANGES | REJECTIONS)[name],
                "setting": f"data.clean.{SETTINGS[name]}" if name in SETTINGS else "",
                "dropped": name in REJECTIONS,
                "rows": log.counts[name],
                "characters": characters[name],
                "examples": examples,
            }
        )
    sample = sum(map(len, found.texts))
    per_character = sum(len(text.encode()) for text in found.texts) / max(1, sample)
    return {
        "files": found.files,
        "bytes": found.bytes,
        "kinds": found.kinds,
        "skipped": [{"file": item.name, "reason": item.reason} for item in found.skipped[:50]],
        "characters": found.characters,
        "text_bytes": int(found.characters * per_character),
        "languages": found.languages,
        "conversations": found.conversations,
        "document": found.document,
        "documents": len(found.texts),
        "complete": found.complete,
        "rules": rules,
        "beginning": [text[:300] for text in found.texts[:3]],
    }


async def preview(data: Mapping[str, Any], seed: int, workspace: Path, seconds: float = TIME_LIMIT_SECONDS) -> Preview:
    """`look` in a process of its own.

    Raises:
        DataError: see `look`; or it took more than `seconds`.
    """
    result = await ask(
        "bulletlm.dashboard.preview",
        {"data": data, "seed": seed},
        workspace,
        seconds,
        too_long=f"looking at the text took more than {seconds:g} s and was ended; the run itself has no such limit",
        failed="looking at the text failed; the log of the run will say more",
    )
    if "error" in result:
        raise DataError(str(result["error"]))
    found: Preview = result
    return found


def main() -> None:
    """Answer the settings on standard input with a preview, or with {"error": message}."""
    asked = json.load(sys.stdin)
    try:
        answer: Any = look(asked["data"], asked["seed"])
    except BulletError as error:
        answer = {"error": str(error)}
    except ValueError as error:
        answer = {"error": f"the settings of the data are wrong: {error}"}
    json.dump(answer, sys.stdout, ensure_ascii=True)


if __name__ == "__main__":
    main()
