"""Settings chosen for a text, this computer and a time, as `bullet run FOLDER` does: python -m bulletlm.dashboard.chooser

It reads the question as JSON on standard input, and is a process of its own because it measures the computer for some seconds.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from bulletlm.dashboard.ask import ask
from bulletlm.dashboard.choice_mr import choice_text
from bulletlm.errors import BulletError

TIME_LIMIT_SECONDS = 600.0

HOURS = {0.25: "15 minutes", 1.0: "1 hour", 3.0: "3 hours", 8.0: "one night (8 hours)", 24.0: "one day"}
"""Times for a run that can be chosen, in hours, and what the page calls them."""

KEPT = ("name", "license", "seed", "model_name", "model.start_from")
"""Settings of the user that the choice keeps."""


class Chosen(TypedDict):
    """The settings as JSON with a comment beside each that says why, and what would help, in sentences."""

    settings: str
    notes: list[str]


def choose(sources: Sequence[str], hours: float, given: Mapping[str, Any], language: str = "en") -> Chosen:
    """Look at the text, measure this computer and choose.

    Args:
        sources: files and folders of text, absolute paths.
        hours: time for the whole run.
        given: settings that are fixed, by their full names.
        language: of the comments and sentences.

    Raises:
        BulletError: the text cannot be read or is too short, or the time is too short for a model that is given.
    """
    from bulletlm.pipeline.recipe import TextRun, make_choice, render
    from bulletlm.progress import SilentProgress

    kept = {name: value for name, value in given.items() if name in KEPT}
    name = str(kept.pop("name", "model"))
    run = TextRun(name, Path("runs"), list(sources), kept, hours, named=True)
    choice = make_choice(run, SilentProgress())
    values = choice.values if "name" in given else {key: value for key, value in choice.values.items() if key != "name"}
    why = {setting: choice_text(reason, language) for setting, reason in choice.why.items()}
    text = render(values, why, [], run.recipe)
    return {"settings": text[text.index("\n{") + 1 :], "notes": [choice_text(note, language) for note in choice.notes]}


async def choose_in_process(sources: Sequence[str], hours: float, given: Mapping[str, Any], folder: Path, language: str = "en") -> Chosen:
    """`choose` in a process of its own in the working directory `folder`.

    Raises:
        BulletError: see `choose`; or it took more than TIME_LIMIT_SECONDS.
    """
    result = await ask(
        "bulletlm.dashboard.chooser",
        {"sources": list(sources), "hours": hours, "given": dict(given), "language": language},
        folder,
        TIME_LIMIT_SECONDS,
        too_long=f"choosing the settings took more than {TIME_LIMIT_SECONDS:g} s and was ended: choose a recipe",
        failed="choosing the settings failed: choose a recipe",
    )
    if "error" in result:
        raise BulletError(str(result["error"]))
    chosen: Chosen = result
    return chosen


def main() -> None:
    """Print the answer to the question on standard input as JSON."""
    asked = json.load(sys.stdin)
    try:
        answer: Any = choose(asked["sources"], asked["hours"], asked["given"], asked["language"])
    except BulletError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
