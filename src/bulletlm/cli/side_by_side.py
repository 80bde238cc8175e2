"""The end of `bullet run demo`: answers of the new model beside answers of the packaged model, which trained longer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulletlm.terminal import printable

if TYPE_CHECKING:
    from rich.console import Console

STACKED_BELOW = 64
"""Columns of a terminal below which the two answers are shown one under the other."""

WHAT_TO_EXPECT = (
    "What to expect: a minute teaches spelling and short phrases that sound like the text; most answers miss the question. A longer "
    "training on more text gives better sentences, and answers that fit more often. Neither model knows facts: do not rely on what "
    "they say."
)


def print_side_by_side(console: "Console", report: Mapping[str, Any], packaged: Path) -> None:
    """Print what to expect from the two models, then their answers to the sample prompts of the report.

    Args:
        console: where to print.
        report: the content of the new model's report.json.
        packaged: the .bullet file of the other model; it answers now, with its own sampling defaults and the seed of the report.

    Raises:
        BulletError: the other model is damaged.
    """
    from rich.text import Text

    from bulletlm.evaluate.formatting import count, duration
    from bulletlm.evaluate.generation import answer_prompts
    from bulletlm.evaluate.prompts import Prompt
    from bulletlm.formats.provenance import tokens_seen
    from bulletlm.progress import SilentProgress
    from bulletlm.runtime import load

    model = load(packaged)
    generations, training = report["generations"], report["training"]
    rows = [generations["rows"][index] for index in generations["samples"]]
    prompts = [Prompt(row["prompt"], row["language"], row["kind"]) for row in rows]
    others = answer_prompts(model, prompts, model.sampling, generations["seed"], SilentProgress())

    name = printable(packaged.stem)
    own = f"Your new model: {count(report['model']['parameters'])} parameters"
    other = f"{name}, from the package: {count(model.shape.n_parameters)} parameters"
    if training:
        own += f"; it read {count(training['tokens'])} tokens in {duration(training['seconds'])}"
    if seen := tokens_seen(model.header):
        other += f"; it read {count(seen)} tokens in a longer training"
    console.print(Text("What a minute of training gives, and what a longer one gives", style="bold"))
    console.print(Text(f"\n{own}.\n{other}."))
    console.print(Text(f"\n{WHAT_TO_EXPECT}\n"))
    answers = [(row["bq4"]["text"], other.text) for row, other in zip(rows, others, strict=True)]
    _print_answers(console, ("your new model", name), [prompt.prompt for prompt in prompts], answers)


def _print_answers(console: "Console", names: tuple[str, str], questions: Sequence[str], answers: Sequence[tuple[str, str]]) -> None:
    """Each question with the two answers below it: beside each other, or one under the other in a narrow terminal."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    for question, texts in zip(questions, answers, strict=True):
        console.print(Text(printable(question, lines=True), style="cyan"))
        shown = [Text(printable(text.strip(), lines=True)) for text in texts]
        if console.width < STACKED_BELOW:
            for name, text in zip(names, shown, strict=True):
                console.print(Padding(Text(name, style="dim"), (0, 0, 0, 2)))
                console.print(Padding(text, (0, 0, 0, 4)))
            console.print()
            continue
        table = Table(*names, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=True)
        for column in table.columns:
            column.ratio = 1
        table.add_row(*shown)
        console.print(Padding(table, (0, 0, 1, 2)))
