"""`bullet score`: blind scoring of two systems' answers in the terminal."""

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from bulletlm.cli.models import find_any, is_run
from bulletlm.cli.wrap import WordWrapper
from bulletlm.errors import BulletError, ConfigError
from bulletlm.terminal import echo, printable, printable_json

if TYPE_CHECKING:
    from bulletlm.evaluate.scoring import Item, ScoreStore, Shown


def score(
    run: Annotated[Path, Parameter(help="The name or folder of a run with a report; with --against, any model.")],
    /,
    *,
    against: Annotated[Path | None, Parameter(help="Score the answers of these two models instead of those of the run.")] = None,
    rater: Annotated[str, Parameter(help="Name of the rater; each rater has an own order.")] = "me",
    prompts: Annotated[Path | None, Parameter(help="With --against: a .jsonl file of prompts; default: those of the package.")] = None,
    out: Annotated[Path | None, Parameter(help="The file that holds the scores; default: scores.jsonl in the run folder.")] = None,
    summary: Annotated[bool, Parameter(help="Only print the summary of all raters.", negative="")] = False,
    judge: Annotated[
        str | None,
        Parameter(help="Base URL of an OpenAI-compatible endpoint whose model is a further rater, such as http://localhost:8080/v1."),
    ] = None,
    judge_model: Annotated[str, Parameter(help="Name of the judge's model.")] = "default",
    judge_key_variable: Annotated[str | None, Parameter(help="Environment variable that holds the key of the endpoint.")] = None,
    judge_timeout: Annotated[float, Parameter(help="Seconds to wait for one answer of the judge.")] = 120.0,
    json: Annotated[bool, Parameter(help="Print the summary as JSON.", negative="")] = False,
) -> None:
    """Score answers without knowing which model wrote them: grammar, depth, coherence, factual safety, and a preference.

    The two answers are in random order and have no names. Scores are kept after every item, so you can stop at any time and continue
    later; several raters can score the same answers. The summary has 95 % intervals and the agreement between raters.

    Example: bullet score runs/demo --rater asha
    Example: bullet score runs/demo --summary
    """
    from bulletlm.cli.output import name_of_file
    from bulletlm.evaluate.scoring import MODEL_FILE, SCORE_FILE, ScoreStore, summarize, summary_lines
    from bulletlm.files import read_json

    if not rater.strip():
        raise ConfigError("the rater needs a name: --rater NAME")
    run, against = find_any(run), find_any(against) if against else None
    items = _items(run, against, prompts)
    path = out or (run if is_run(run) or (run / "report.json").is_file() else Path()) / SCORE_FILE
    store = ScoreStore(path)
    store.read()  # a file of another kind is refused before anyone scores, or a judge is paid
    if judge is not None:
        _judge(items, store, path, judge, judge_model, judge_key_variable, judge_timeout)
    elif not summary:
        _rate(items, store, rater)
    if not [record for record in store.read() if record["item"] in {item.id for item in items}] and not (summary or json):
        return
    result = summarize(items, store.read())
    if json:
        print(printable_json(result))
    else:
        names = {} if against else {MODEL_FILE: name_of_file(read_json(run / "report.json"))}
        for line in ["", *summary_lines(result, names)]:
            _say(line)


def _items(run: Path, against: Path | None, prompts: Path | None) -> "list[Item]":
    """The answers to score: those in the report of a run, or new ones of two models."""
    from bulletlm.evaluate.scoring import items_of, items_of_report
    from bulletlm.files import read_json

    if against is None:
        if not (run / "report.json").is_file():
            raise BulletError(f"{run} has no report.json: run `bullet evaluate` first, or name a second model with --against")
        if prompts is not None:
            raise ConfigError("--prompts needs --against: the answers of a run are those of its report (evaluate.prompts)")
        return items_of_report(read_json(run / "report.json"))
    from bulletlm.evaluate.compare_models import answer_both, default_sampling
    from bulletlm.evaluate.language_models import open_model
    from bulletlm.evaluate.prompts import load_prompts
    from bulletlm.progress import ConsoleProgress

    asked = load_prompts(prompts)
    models = open_model(run), open_model(against)
    answers = answer_both(*models, asked, default_sampling(models[0], 42), ConsoleProgress())
    return items_of(answers["rows"], (models[0].label, models[1].label))


class _Stop(Exception):
    """The rater wants to stop."""


class _Back(Exception):
    """The rater wants to score the last item again."""


class _Skip(Exception):
    """The rater does not want to score this item now."""


def _say(text: str) -> None:
    """Print text; in a terminal, lines break between words."""
    if sys.stdout.isatty():
        wrapper = WordWrapper(lambda: shutil.get_terminal_size().columns)
        text = wrapper.feed(text) + wrapper.finish()
    echo(text)


HELP = "Type points such as 4354 or 4 3 5 4.  b: back to the last item   s: skip this item   ?: what the points mean   q: stop"


def _rate(items: "Sequence[Item]", store: "ScoreStore", rater: str) -> None:
    """Show what `rater` has not scored, item by item."""
    from bulletlm.evaluate.scoring import CRITERIA, make_score, remaining

    left = remaining(items, store.read(), rater)
    if not left:
        _say(f"{printable(rater)} has scored all {len(items)} items")
        return
    _say(f"{len(left)} item{'' if len(left) == 1 else 's'} to score. {HELP}")
    _say(f"The points are for: {', '.join(CRITERIA)}.")
    at = 0
    while at < len(left):
        shown = left[at]
        try:
            points, preferred = _ask_item(shown, at + 1, len(left))
        except _Stop:
            return
        except _Skip:
            at += 1
            continue
        except _Back:
            at = max(0, at - 1)
            continue
        store.add(make_score(shown, rater, points, preferred))
        at += 1


def _ask_item(shown: "Shown", number: int, count: int) -> tuple[list[dict[str, float]], str]:
    """The points of answer 1 and answer 2, and which is preferred: "1", "2", or "" for neither."""
    _say(f"\n--- {number} of {count} " + "-" * 50)
    _say(shown.item.prompt)
    first, second = shown.texts
    if shown.item.identical:
        _say(f"\nBoth models gave this answer:\n{first or '(empty)'}\n")
        points = _ask_points("points")
        return [points, points], ""
    _say(f"\nAnswer 1:\n{first or '(empty)'}\n\nAnswer 2:\n{second or '(empty)'}\n")
    both = [_ask_points("points of answer 1"), _ask_points("points of answer 2")]
    return both, _ask("which is better (1, 2, or = for neither)", {"1": "1", "2": "2", "=": "", "0": ""})


def _ask_points(title: str) -> dict[str, float]:
    """The points of an answer: criterion -> 1 to 5."""
    from bulletlm.evaluate.scoring import CRITERIA, LEAST, MOST

    while True:
        digits = re.sub(r"[\s,]", "", _read(f"{title} ({LEAST}-{MOST} for {', '.join(CRITERIA)})"))
        if re.fullmatch(f"[{LEAST}-{MOST}]{{{len(CRITERIA)}}}", digits):
            return {name: float(digit) for name, digit in zip(CRITERIA, digits, strict=True)}
        _say(f"Type {len(CRITERIA)} digits from {LEAST} to {MOST}. {HELP}")


def _ask(title: str, meanings: dict[str, str]) -> str:
    """The meaning of the word that the rater types, one of the keys of `meanings`."""
    while True:
        word = _read(title)
        if word in meanings:
            return meanings[word]
        _say(f"Type one of {', '.join(meanings)}. {HELP}")


def _read(title: str) -> str:
    """A word of the rater; the end of the input stops."""
    from bulletlm.evaluate.scoring import CRITERIA

    while True:
        try:
            word = input(f"{title}: ").strip().lower()
        except (EOFError, KeyboardInterrupt):
            print()
            raise _Stop from None
        if not sys.stdin.isatty():
            print()
        if word == "?":
            for name, meaning in CRITERIA.items():
                _say(f"  {name:<10} {meaning}")
        elif word in ("q", "quit"):
            raise _Stop
        elif word in ("b", "back"):
            raise _Back
        elif word in ("s", "skip"):
            raise _Skip
        else:
            return word


def _judge(
    items: "Sequence[Item]", store: "ScoreStore", path: Path, base: str, model: str, key_variable: str | None, timeout: float
) -> None:
    """Let the model `model` of the endpoint `base` score what it has not scored; its answers are kept beside `path`."""
    from bulletlm.data.augment.endpoint import ChatEndpoint
    from bulletlm.evaluate.judge import judge, judge_prompt
    from bulletlm.evaluate.scoring import shown_to
    from bulletlm.progress import ConsoleProgress

    rater = f"judge:{model}"
    names = {"key_variable": "--judge-key-variable", "model": "--judge-model", "timeout": "--judge-timeout"}
    echo(f"{2 * len(items)} requests to {base}, such as:\n\n{judge_prompt(shown_to(items[0], rater))}\n", to_stderr=True)
    endpoint = ChatEndpoint(base, model, key_variable, timeout, names)
    records = judge(items, endpoint, rater, path.with_suffix(".judge.jsonl"), ConsoleProgress())
    for record in records:
        store.add(record)
    if left_out := len(items) - len(records):
        echo(
            f"{left_out} of {len(items)} pairs are left out: the judge did not answer with points. Run it again to ask for them again.",
            to_stderr=True,
        )
